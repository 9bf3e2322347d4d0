"""LDIF brought to one form, to compare two listings for loss: entries by name, attributes by lower-case name.

Owns its own reading of RFC 2849, on purpose apart from the product's: regular expressions over the whole text, no
shared line of code and no shared list of secrets. Values keep the order of the source, but for `memberOf`, which
directories compute; folding, base64, comments and trailers leave no trace.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path

SECRETS = frozenset({b"userpassword", b"unicodepwd", b"ntsecuritydescriptor", b"msfve-recoverypassword"})
"""Those the test data may hold; a reader that drops any other attribute shows as a difference."""

_FOLD = re.compile(rb"\r?\n ")
_LINE = re.compile(rb"^([^:#\r\n][^:\r\n]*):(:?) *([^\r\n]*+)", re.MULTILINE)
_BLANK = re.compile(rb"(?:\r?\n){2,}")


def canonical(source: bytes | Path) -> list[str]:
    """One line per value: `name of the entry | attribute | value in base64`. Equal lists mean equal directories."""
    text = source.read_bytes() if isinstance(source, Path) else source
    lines = []
    for dn, attributes in sorted(_entries(text)):
        lines.append(f"{dn} |")
        for name, values in sorted(attributes.items()):
            if name.partition(b";")[0] in SECRETS:
                continue
            ordered = sorted(values) if name == b"memberof" else values
            lines += [f"{dn} | {name.decode()} | {base64.b64encode(value).decode()}" for value in ordered]
    return lines


def differences(left: bytes | Path, right: bytes | Path) -> list[str]:
    """What is only on the left (`-`), only on the right (`+`), or in another order (`~`); empty if nothing is lost."""
    first, second = canonical(left), canonical(right)
    if first == second:
        return []
    only = [f"- {line}" for line in sorted(set(first) - set(second))] + [
        f"+ {line}" for line in sorted(set(second) - set(first))
    ]
    return (
        only or [f"~ {one}" for one, other in zip(first, second, strict=False) if one != other] or ["~ repeated values"]
    )


def _entries(text: bytes) -> Iterator[tuple[str, dict[bytes, list[bytes]]]]:
    for block in _BLANK.split(_FOLD.sub(b"", text)):
        pairs = [
            (name.lower(), base64.b64decode(value) if colon else value) for name, colon, value in _LINE.findall(block)
        ]
        names = [name for name, _ in pairs]
        if b"dn" not in names:
            continue
        attributes: dict[bytes, list[bytes]] = {}
        for name, value in pairs[names.index(b"dn") + 1 :]:
            if name not in (b"changetype", b"control"):
                attributes.setdefault(name, []).append(value)
        yield pairs[names.index(b"dn")][1].decode(), attributes
