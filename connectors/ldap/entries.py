"""What the entries of a directory mean, whether they come from a file or from a live server.

Owns their key, kind, names, members, manager and state, the attributes that are never read (`EXCLUDED`), and the
decoding of Active Directory's binary and numeric forms. The file format is `ldif`'s, names are `dn`'s.
"""

from __future__ import annotations

import re
import struct
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

from connectors import dn
from connectors.ldif import Unfit, Values
from connectors.port import Gone, Kind, Record, Ref, Unreadable

_SECRETS = """
    unicodepwd dbcspwd ntpwdhistory lmpwdhistory supplementalcredentials userpassword unixuserpassword
    msds-managedpassword msds-executescriptpassword ms-mcs-admpwd ms-mcs-admpwdhistory mslaps-password
    mslaps-encryptedpassword mslaps-encryptedpasswordhistory mslaps-encrypteddsrmpassword
    mslaps-encrypteddsrmpasswordhistory
    msfve-recoverypassword msfve-keypackage mstpm-ownerinformation mstpm-ownerinformationtemp mskds-rootkeydata
    mspkiaccountcredentials mspkidpapimasterkeys peklist currentvalue priorvalue linktracksecret
    initialauthincoming initialauthoutgoing trustauthincoming trustauthoutgoing ntsecuritydescriptor

    authpassword pwdhistory passwordhistory userpkcs12 krbprincipalkey krbextradata krbpwdhistory krbmkey
    ipanthash ipatokenotpkey sambantpassword sambalmpassword sambapasswordhistory sambacleartextpassword
    sambapreviouscleartextpassword
"""
EXCLUDED = frozenset(_SECRETS.split())
"""Secrets, of Active Directory first, of other directories then. Dropped while reading, whatever options (`;binary`)
follow the name and in whatever case it is written; nothing of ours ever holds them."""

_GUID = struct.Struct("<IHH8x").unpack
_DISABLED = 0x2
_TRUST = 0x800
_EPOCH = datetime(1601, 1, 1, tzinfo=UTC)
_LAST_FILETIME = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1) * 10
RANGE = re.compile(r"(?P<name>[^;]+);range=(?P<low>[0-9]{1,18})-(?P<high>[0-9]{1,18}|\*)", re.IGNORECASE).fullmatch
_TIME = re.compile(
    r"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)?(\d\d)?(?:[.,](\d{1,6})\d*)?(Z|[+-]\d\d(?:\d\d)?)", re.ASCII
).fullmatch

_GROUPS = frozenset({"group", "groupofnames", "groupofuniquenames", "groupofmembers", "posixgroup"})
_PEOPLE = frozenset({"user", "inetorgperson"})
_NO_PEOPLE = frozenset({"computer", "contact", "msds-managedserviceaccount", "msds-groupmanagedserviceaccount"})


class _Shape(NamedTuple):
    """Where an entry keeps what concerns us; entries share few combinations of attribute names."""

    ranged: bool
    excluded: tuple[str, ...]
    guid: str | None
    uuid: str | None
    sid: str | None
    classes: str | None
    control: str | None
    deleted: str | None
    uid: str | None
    manager: str | None
    primary_group: str | None
    member: str | None
    unique_member: str | None


@lru_cache(maxsize=1024)
def _shape(names: tuple[str, ...]) -> _Shape:
    spelt = {name.lower(): name for name in names}
    return _Shape(
        any(";range=" in name for name in spelt),
        tuple(name for low, name in spelt.items() if low.partition(";")[0] in EXCLUDED),
        *map(
            spelt.get,
            (
                "objectguid",
                "entryuuid",
                "objectsid",
                "objectclass",
                "useraccountcontrol",
                "isdeleted",
                "uid",
                "manager",
                "primarygroupid",
                "member",
                "uniquemember",
            ),
        ),
    )


def read(name: str, attributes: dict[str, Values], position: str, base: str = "") -> Record | Gone | Unreadable:
    """What one entry says; the attributes become the record's own. `base` is the folded name it has to lie under."""
    try:
        return record(name, attributes, base)
    except Unfit as unfit:
        return unreadable(position, unfit, name)


def unreadable(position: str, unfit: Unfit, name: str | None) -> Unreadable:
    """A record that cannot be read, with the name that others know it by where that can be told."""
    try:
        ref = dn.fold(name) if name and unfit.reason != "outside_base" else None
    except ValueError:
        ref = None
    return Unreadable(position, unfit.reason, unfit.detail, name, ref)


def record(name: str, attributes: dict[str, Values], base: str = "") -> Record | Gone:
    """Raises Unfit."""
    shape = _shape(tuple(attributes))
    if shape.ranged:
        attributes = _joined(attributes)
        shape = _shape(tuple(attributes))
    try:
        ref, *parent = dn.fold_with_parent(name)
    except ValueError as flaw:
        raise Unfit("bad_dn", f"The name of the entry cannot be read: {flaw}.") from None
    if base and ref != base and not ref.endswith("," + base):
        raise Unfit("outside_base", "The entry lies outside the configured base.")
    key = _key(attributes, shape)
    if shape.deleted and attributes[shape.deleted][0] == "TRUE":
        return Gone(key)
    for secret in shape.excluded:
        del attributes[secret]
    control = _number(attributes, shape.control)
    kind, unique = _kind(attributes[shape.classes] if shape.classes else [], shape.uid is not None)
    if control & _TRUST:
        kind = "other"
    members: tuple[Ref, ...] | None = None
    if kind == "group":
        source = shape.unique_member if unique else shape.member
        members = tuple(map(_mention, attributes.pop(source))) if source else ()
    identifier = sid(_bytes(attributes[shape.sid][0])) if shape.sid else None
    primary = None
    if kind == "user" and identifier and shape.primary_group:
        relative = _number(attributes, shape.primary_group)
        primary = Ref(f"sid:{identifier.rpartition('-')[0]}-{relative}", str(attributes[shape.primary_group][0]))
    return Record(
        key=key,
        kind=kind,
        name=name,
        ref=ref,
        attributes=attributes,
        alias=f"sid:{identifier}" if identifier else None,
        members=members,
        manager=_mention(attributes[shape.manager][0]) if shape.manager else None,
        parent=Ref(*parent) if parent[0] else None,
        primary_group=primary,
        active=not control & _DISABLED,
    )


def _key(attributes: dict[str, Values], shape: _Shape) -> str:
    if shape.guid:
        return guid(_bytes(attributes[shape.guid][0]))
    if shape.uuid:
        try:
            return str(UUID(str(attributes[shape.uuid][0])))
        except ValueError:
            raise Unfit("bad_value", "entryUUID is not a UUID.") from None
    raise Unfit("no_key", "The entry has neither objectGUID nor entryUUID.")


def _kind(classes: Values, has_uid: bool) -> tuple[Kind, bool]:
    """What the entry is to us, and whether its members are in `uniqueMember`."""
    known = {value.lower() for value in classes if isinstance(value, str)}
    if not known.isdisjoint(_NO_PEOPLE):
        return "other", False
    if not known.isdisjoint(_PEOPLE) or (has_uid and "person" in known):
        return "user", False
    if not known.isdisjoint(_GROUPS):
        return "group", "groupofuniquenames" in known
    return ("unit" if "organizationalunit" in known else "other"), False


def _joined(attributes: dict[str, Values]) -> dict[str, Values]:
    """Puts values together that came in ranges (`member;range=0-1499`); half a range is worse than none."""
    joined: dict[str, Values] = {}
    following: dict[str, str] = {}
    for name, values in attributes.items():
        part = RANGE(name)
        if part is None:
            joined.setdefault(name, []).extend(values)
            continue
        if part["low"] != following.get(part["name"], "0"):
            raise Unfit(
                "partial_values", f"Values of {part['name']} are missing: {name} does not follow what came before."
            )
        joined.setdefault(part["name"], []).extend(values)
        following[part["name"]] = "*" if part["high"] == "*" else str(int(part["high"]) + 1)
    for name, low in following.items():
        if low != "*":
            raise Unfit("partial_values", f"The listing holds only the first {low} values of {name}.")
    return joined


def _mention(value: str | bytes) -> Ref:
    if isinstance(value, bytes):
        raise Unfit("bad_dn", "The entry names another one by something that is not UTF-8.")
    try:
        return Ref(dn.fold(value), value)
    except ValueError:
        return Ref(f"?{value}", value)


def _number(attributes: dict[str, Values], name: str | None) -> int:
    if name is None:
        return 0
    try:
        return int(attributes[name][0])
    except ValueError:
        raise Unfit("bad_value", f"{name} is not a number.") from None


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def guid(value: bytes) -> str:
    """objectGUID in the usual notation; its first three fields are stored little-endian. Raises Unfit."""
    if len(value) != 16:
        raise Unfit("bad_value", "objectGUID does not have 16 bytes.")
    low, middle, high = _GUID(value)
    text = value[8:].hex()
    return f"{low:08x}-{middle:04x}-{high:04x}-{text[:4]}-{text[4:]}"


def sid(value: bytes) -> str:
    """objectSid in the S-1-… notation. Raises Unfit."""
    if len(value) < 8 or len(value) != 8 + 4 * value[1]:
        raise Unfit("bad_value", "objectSid has the wrong length.")
    parts = struct.unpack_from(f"<{value[1]}I", value, 8)
    return f"S-{value[0]}-{int.from_bytes(value[2:8])}" + "".join(f"-{part}" for part in parts)


def filetime(value: str | int) -> datetime | None:
    """A moment counted in 100 ns since 1601; None for "never": 0, the greatest integer, or beyond the year 9999."""
    ticks = int(value)
    return _EPOCH + timedelta(microseconds=ticks // 10) if 0 < ticks <= _LAST_FILETIME else None


def generalized_time(value: str) -> datetime:
    """whenCreated and its like (RFC 4517 §3.3.13). Raises ValueError."""
    found = _TIME(value)
    if found is None:
        raise ValueError("not a generalized time")
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    if fraction and not second:
        raise ValueError("fractions are understood of seconds only")
    offset = timedelta() if zone == "Z" else timedelta(hours=int(zone[:3]), minutes=int(zone[0] + (zone[3:] or "0")))
    whole = datetime(int(year), int(month), int(day), int(hour), int(minute or 0), int(second or 0), tzinfo=UTC)
    return whole - offset + timedelta(microseconds=int((fraction or "0").ljust(6, "0")))
