"""Distinguished names (RFC 4514): one comparable form for each.

Owns parsing and folding. A folded name has lower-case types, values folded by NFKC and case, escapes written one
way and no blanks around separators. It is never shown and never sent: the verbatim name is kept beside it. Blanks
that belong to a value stay significant, so that two entries are never taken for one.
"""

from __future__ import annotations

import re
from functools import lru_cache
from unicodedata import normalize

LONGEST = 8192
"""Characters; no directory makes longer names, and what is longer is refused rather than parsed."""

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9-]*=(?![ #])[ !#-*\-./0-9:=?-\[\]-~]+(?<! )").fullmatch
_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9-]*|[0-9]+(?:\.[0-9]+)*").fullmatch
_FIRST = re.compile(r"(?:[^\\,]|\\.)*", re.DOTALL).match
_PARTS = re.compile(r"(?:[^\\+]|\\.)+", re.DOTALL).findall
_HEX = re.compile(r"#(?:[0-9A-Fa-f]{2})+").fullmatch
_ESCAPE = re.compile(r"\\([0-9A-Fa-f]{2}|.)", re.DOTALL)
_SPECIAL = re.compile(r'[,+"\\<>;\x00-\x1f\x7f]')


def fold(dn: str) -> str:
    """The comparable form. Raises ValueError for what is no distinguished name, the empty one included."""
    return fold_with_parent(dn)[0]


def fold_with_parent(dn: str) -> tuple[str, str, str]:
    """The comparable forms of a name and of its parent, and the parent verbatim; both empty for a root."""
    rdn, parent = split(dn)
    head = rdn.lower() if _PLAIN(rdn) else _fold_rdn(rdn)
    if not parent:
        return head, "", ""
    folded = _fold_parent(parent)
    return f"{head},{folded}", folded, parent


def split(dn: str) -> tuple[str, str]:
    """The first component and the name of the parent, both verbatim; the parent of a root is empty."""
    if len(dn) > LONGEST:
        raise ValueError("the name is too long")
    end = dn.find(",")
    if "\\" in dn[:end]:
        first = _FIRST(dn)
        end = first.end() if first and first.end() < len(dn) else -1
    if end < 0:
        return dn, ""
    parent = dn[end + 1 :].lstrip(" ")
    if not parent:
        raise ValueError("the name ends in a separator")
    return dn[:end], parent


@lru_cache(maxsize=1024)
def _fold_parent(dn: str) -> str:
    folded = []
    while dn:
        rdn, dn = split(dn)
        folded.append(_fold_rdn(rdn))
    return ",".join(folded)


def _fold_rdn(rdn: str) -> str:
    if "+" not in rdn:
        return _fold_pair(rdn)
    parts = _PARTS(rdn)
    if "+".join(parts) != rdn:
        raise ValueError("a component of the name has an empty part")
    return "+".join(sorted(map(_fold_pair, parts)))


def _fold_pair(pair: str) -> str:
    kind, equals, value = pair.partition("=")
    kind = kind.strip(" ")
    if kind[:4].lower() == "oid.":
        kind = kind[4:]
    if not equals or not _TYPE(kind):
        raise ValueError("a component of the name has no attribute type")
    value = value.lstrip(" ")
    bare = value.rstrip(" ")
    if bare != value and _escapes_next(bare):
        bare += " "
    folded = bare.lower() if _HEX(bare) else _escaped(_fold_text(_unescaped(bare)))
    return f"{kind.lower()}={folded}"


def _escapes_next(text: str) -> bool:
    return (len(text) - len(text.rstrip("\\"))) % 2 == 1


def _unescaped(value: str) -> str:
    if "\\" not in value:
        return value
    text, position = bytearray(), 0
    for escape in _ESCAPE.finditer(value):
        text += value[position : escape.start()].encode()
        text += bytes.fromhex(escape[1]) if len(escape[1]) == 2 else escape[1].encode()
        position = escape.end()
    rest = value[position:]
    if "\\" in rest:
        raise ValueError("the name ends inside an escape")
    return (text + rest.encode()).decode()


def _fold_text(text: str) -> str:
    if text.isascii():
        return text.lower()
    return normalize("NFKC", normalize("NFKC", normalize("NFKC", text).casefold()).casefold())


def _escaped(text: str) -> str:
    text = _SPECIAL.sub(
        lambda found: f"\\{found[0]}" if found[0] >= " " and found[0] != "\x7f" else f"\\{ord(found[0]):02x}", text
    )
    if text[:1] in ("#", " "):
        text = "\\" + text
    return text[:-1] + "\\ " if text.endswith(" ") and not _escapes_next(text[:-1]) else text
