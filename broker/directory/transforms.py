"""How an upstream's values become JSON values: the forms of the catalogue, and the closed list of named transforms.

Pure functions over one attribute's values (or a few attributes' of the same record). Which attribute becomes what is
`mapping`'s.
"""

from __future__ import annotations

import base64
import math
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from ..attributes import is_moment

Said = Mapping[str, Sequence[str | bytes]]
"""A record's values by lower-cased name."""
Transform = Callable[[Sequence[str | bytes], Said, Mapping[str, Any]], Any]
Convert = Callable[[str | bytes], Any]


def text(value: str | bytes) -> str:
    """Text as it is; octets, and whatever holds a NUL (which no column and no JSON filter takes), as base64."""
    if isinstance(value, str) and "\x00" not in value:
        return value
    return base64.b64encode(_raw(value)).decode()


def _raw(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def guid(value: str | bytes) -> str:
    """An objectGUID's 16 octets (first three groups little-endian) as text; text stays text."""
    raw = _raw(value)
    return str(uuid.UUID(bytes_le=raw)) if len(raw) == 16 else text(value).lower()


def sid(value: str | bytes) -> str:
    """A binary SID as `S-1-…`; text stays text."""
    raw = _raw(value)
    if isinstance(value, str) and value.startswith("S-"):
        return value
    if len(raw) < 8 or len(raw) != 8 + 4 * raw[1]:
        return text(value)
    parts = [int.from_bytes(raw[at : at + 4], "little") for at in range(8, len(raw), 4)]
    return "-".join(str(part) for part in ("S", raw[0], int.from_bytes(raw[2:8], "big"), *parts))


def filetime(value: str | bytes) -> datetime | None:
    """A FILETIME as a moment; None for the two values that mean never and for what no calendar holds."""
    ticks = integer(value)
    if ticks is None or ticks <= 0 or ticks >= 0x7FFF_FFFF_FFFF_FFFF:
        return None
    try:
        return datetime(1601, 1, 1, tzinfo=UTC) + timedelta(microseconds=ticks // 10)
    except OverflowError:
        return None


def integer(value: str | bytes) -> int | None:
    """A number of at most 64 bits; None for anything else, which no JSON of ours could hold."""
    digits = text(value)
    if len(digits) > 20:
        return None
    try:
        number = int(digits)
    except ValueError:
        return None
    return number if -(1 << 63) <= number < 1 << 63 else None


def octets(value: str | bytes) -> str:
    """The octets of a value, as base64."""
    return base64.b64encode(_raw(value)).decode()


def truth(value: str | bytes) -> bool:
    """Raises ValueError for what is neither true nor false."""
    found = {"true": True, "false": False}.get(text(value).strip().lower())
    if found is None:
        raise ValueError("Neither true nor false.")
    return found


def whole(value: str | bytes) -> int:
    """Raises ValueError for what is no number of 64 bits."""
    found = integer(value) if _WHOLE.fullmatch(text(value)) else None
    if found is None:
        raise ValueError("Not a whole number of 64 bits.")
    return found


def decimal(value: str | bytes) -> float:
    """Raises ValueError for what is no number."""
    said = text(value)
    found = float(said) if len(said) <= _LONGEST_NUMBER and _NUMBER.fullmatch(said) else math.inf
    if math.isinf(found):
        raise ValueError("Not a number.")
    return found


def moment(value: str | bytes) -> str:
    """A date and time with its zone as RFC 3339 writes it, said so or as a GeneralizedTime (RFC 4517 3.3.13). Raises
    ValueError."""
    said = text(value).strip()
    if found := _GENERALIZED.fullmatch(said):
        date, hour, rest, fraction, zone = found.groups()
        clock = [hour, *(rest[at : at + 2] for at in range(0, len(rest), 2)), *["00"] * (2 - len(rest) // 2)]
        offset = zone if zone == "Z" else f"{zone[:3]}:{zone[3:] or '00'}"
        if fraction and len(rest) < 4:
            raise ValueError("A part of an hour or of a minute.")
        said = f"{date[:4]}-{date[4:6]}-{date[6:]}T{':'.join(clock)}{'.' + fraction if fraction else ''}{offset}"
    elif not _RFC3339.fullmatch(said):
        raise ValueError("Not a date and time with its time zone.")
    if not is_moment(said):
        raise ValueError("A moment is a date in every time zone.")
    return said


_WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_LONGEST_NUMBER = 400
_RFC3339 = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})")
_GENERALIZED = re.compile(r"([0-9]{8})([0-9]{2})((?:[0-9]{2}){0,2})(?:[.,]([0-9]+))?(Z|[+-][0-9]{2}(?:[0-9]{2})?)")

FORMS: dict[str, Convert] = {
    "guid": guid,
    "sid": sid,
    "integer": integer,
    "binary": octets,
    "boolean": lambda value: text(value).upper() == "TRUE",
}
"""How one value of a catalogue form is written; forms that are not here are text."""


def _first_of(*names: str) -> Transform:
    """The first text among these attributes: octets, and what holds a NUL, are nobody's name."""

    def transform(values: Sequence[str | bytes], said: Said, args: Mapping[str, Any]) -> Any:
        for name in names:
            if (found := said.get(name)) and isinstance(first := found[0], str) and first and "\x00" not in first:
                return first
        return None

    return transform


def proven_email(values: Sequence[str | bytes], said: Said, args: Mapping[str, Any]) -> Any:
    """The address of a sign-in's claims, if the upstream vouches for it: whoever could choose any is not believed."""
    return _first_of("email")(values, said, args) if vouched(said) else None


def vouched(said: Said) -> frozenset[str]:
    """The addresses of a sign-in's claims for which the upstream vouches."""
    if [text(value) for value in said.get("email_verified", ())] != ["true"]:
        return frozenset()
    return frozenset(address for address in map(text, said.get("email", ())) if address)


def claimed_name(values: Sequence[str | bytes], said: Said, args: Mapping[str, Any]) -> Any:
    """The userName of somebody who is known by a sign-in alone."""
    return (
        _first_of("preferred_username")(values, said, args)
        or proven_email(values, said, args)
        or _first_of("sub")(values, said, args)
    )


TRANSFORMS: dict[str, Transform] = {
    "first": lambda values, said, args: text(values[0]) if values else None,
    "all": lambda values, said, args: [text(value) for value in values] or None,
    "lower": lambda values, said, args: text(values[0]).lower() if values else None,
    "upper": lambda values, said, args: text(values[0]).upper() if values else None,
    "join": lambda values, said, args: str(args.get("with", " ")).join(map(text, values)) or None,
    "constant": lambda values, said, args: args.get("value"),
    "user_name": _first_of("userprincipalname", "samaccountname", "mail", "uid", "cn"),
    "display_name": _first_of("displayname", "cn", "name", "samaccountname", "uid"),
    "group_name": _first_of("cn", "ou", "name", "samaccountname"),
    "refer": lambda values, said, args: None,
}
"""The closed list of named transforms. There is no expression language."""

WHOLE_RECORD = frozenset({"constant", "user_name", "display_name", "group_name"})
"""Transforms that need no value of their own source."""
