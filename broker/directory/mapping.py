"""From what an upstream said to the values we keep, and from values to the document we serve.

Owns the stored form of a record and its digests, the mapping rules (the catalogue's defaults, overridden by a
provider's rows),
the closed list of transforms, the merging of layers by ownership, and the shape of the canonical document. Writes
nothing.
"""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from connectors.port import Attributes, Record

from .. import attributes as catalogue
from ..attributes import QUIET, SCHEMA_VERSION, ResourceType, fold
from ..errors import ValidationFailed

Values = dict[str, Any]
"""Flat SCIM key to JSON value."""

TYPE_OF_KIND: dict[str, ResourceType] = {"user": "User", "group": "Group", "unit": "OrganizationalUnit"}
NOUN: dict[str, str] = {"User": "user", "Group": "group", "OrganizationalUnit": "unit"}
CORE: dict[str, str] = {
    "User": catalogue.CORE_USER,
    "Group": catalogue.CORE_GROUP,
    "OrganizationalUnit": catalogue.UNIT,
}
MANAGER = f"{catalogue.ENTERPRISE}:manager.value"
PARENT = "parent.value"


class Encoded(NamedTuple):
    """A record as it is stored, and what tells whether it changed."""

    stored: bytes
    digest: bytes
    quiet_digest: bytes


def encode_record(record: Record, mapping_digest: bytes) -> Encoded:
    """The record verbatim (name case, value order, octets) and its two digests: with meaning, and quiet."""
    loud: list[tuple[str, Sequence[str | bytes]]] = []
    quiet: list[tuple[str, Sequence[str | bytes]]] = []
    for name, values in record.attributes.items():
        (quiet if name.lower() in QUIET else loud).append((name, values))
    main, rest = orjson.dumps(loud, default=_octets), orjson.dumps(quiet, default=_octets)
    digest = blake2b(main, digest_size=16, salt=mapping_digest[:16])
    digest.update(record.name.encode())
    if record.members is not None:
        digest.update(orjson.dumps([ref.raw for ref in record.members]))
    return Encoded(b"[" + main + b"," + rest + b"]", digest.digest(), blake2b(rest, digest_size=16).digest())


def member_attribute(attributes: Attributes) -> str:
    """Under which name a group of this class keeps its members, which are taken out of its record into rows."""
    classes = next((values for name, values in attributes.items() if name.lower() == "objectclass"), ())
    unique = any(isinstance(name, str) and name.lower() == "groupofuniquenames" for name in classes)
    return "uniqueMember" if unique else "member"


def decode_record(stored: bytes) -> dict[str, list[str | bytes]]:
    """The attributes of a stored record, as the upstream said them."""
    main, quiet = orjson.loads(stored)
    return {name: [_value(item) for item in values] for name, values in (*main, *quiet)}


def _octets(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"b": base64.b64encode(value).decode()}
    raise TypeError(type(value).__name__)


def _value(item: Any) -> str | bytes:
    return base64.b64decode(item["b"]) if isinstance(item, dict) else item


Said = Mapping[str, Sequence[str | bytes]]
"""A record's values by lower-cased name."""
Transform = Callable[[Sequence[str | bytes], Said, Mapping[str, Any]], Any]


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else base64.b64encode(value).decode()


def _raw(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def guid(value: str | bytes) -> str:
    """An objectGUID's 16 octets (first three groups little-endian) as text; text stays text."""
    raw = _raw(value)
    return str(uuid.UUID(bytes_le=raw)) if len(raw) == 16 else _text(value).lower()


def sid(value: str | bytes) -> str:
    """A binary SID as `S-1-…`; text stays text."""
    raw = _raw(value)
    if isinstance(value, str) and value.startswith("S-"):
        return value
    if len(raw) < 8 or len(raw) != 8 + 4 * raw[1]:
        return _text(value)
    parts = [int.from_bytes(raw[at : at + 4], "little") for at in range(8, len(raw), 4)]
    return "-".join(str(part) for part in ("S", raw[0], int.from_bytes(raw[2:8], "big"), *parts))


def filetime(value: str | bytes) -> datetime | None:
    """A FILETIME as a moment; None for the two values that mean never and for what no calendar holds."""
    try:
        ticks = int(_text(value))
    except ValueError:
        return None
    if ticks <= 0 or ticks >= 0x7FFF_FFFF_FFFF_FFFF:
        return None
    try:
        return datetime(1601, 1, 1, tzinfo=UTC) + timedelta(microseconds=ticks // 10)
    except OverflowError:
        return None


def _first_of(*names: str) -> Transform:
    def transform(values: Sequence[str | bytes], said: Said, args: Mapping[str, Any]) -> Any:
        for name in names:
            if found := said.get(name):
                return _text(found[0])
        return None

    return transform


def _integer(value: str | bytes) -> int | None:
    try:
        return int(_text(value))
    except ValueError:
        return None


_FORMS: dict[str, Callable[[str | bytes], Any]] = {
    "guid": guid,
    "sid": sid,
    "integer": _integer,
    "binary": lambda value: base64.b64encode(_raw(value)).decode(),
    "boolean": lambda value: _text(value).upper() == "TRUE",
}

TRANSFORMS: dict[str, Transform] = {
    "first": lambda values, said, args: _text(values[0]) if values else None,
    "all": lambda values, said, args: [_text(value) for value in values] or None,
    "lower": lambda values, said, args: _text(values[0]).lower() if values else None,
    "upper": lambda values, said, args: _text(values[0]).upper() if values else None,
    "join": lambda values, said, args: str(args.get("with", " ")).join(map(_text, values)) or None,
    "constant": lambda values, said, args: args.get("value"),
    "user_name": _first_of("userprincipalname", "samaccountname", "mail", "uid", "cn"),
    "display_name": _first_of("displayname", "cn", "name", "samaccountname", "uid"),
    "group_name": _first_of("cn", "ou", "name", "samaccountname"),
    "refer": lambda values, said, args: None,
}
"""The closed list of named transforms. There is no expression language."""

AUTHORITIES = ("owns", "fills", "never")


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a mapping: which upstream attribute becomes which flat key, how, and with what authority."""

    source: str
    to: str
    apply: Transform
    args: Mapping[str, Any]
    convert: Callable[[str | bytes], Any] | None
    many: bool
    owns: bool
    default: Any
    always: bool
    """The transform looks at more than its own source (`user_name`), so it runs even when that is absent."""


@dataclass(frozen=True, slots=True)
class Mapping_:
    """A provider's compiled mapping, per resource type; `digest` changes with its meaning."""

    digest: bytes
    rules: Mapping[str, tuple[Rule, ...]]
    owned: Mapping[str, frozenset[str]]
    """Flat keys this provider owns, whether or not a record has a value."""


def compiled(rows: Sequence[Mapping[str, Any]]) -> Mapping_:
    """The catalogue's default mapping with a provider's rows laid over it, keyed by `to`."""
    return _compiled(orjson.dumps(list(rows), option=orjson.OPT_SORT_KEYS))


@lru_cache(maxsize=512)
def _compiled(text: bytes) -> Mapping_:
    rows: list[dict[str, Any]] = orjson.loads(text)
    rules: dict[str, tuple[Rule, ...]] = {}
    for resource_type in CORE:
        lines: dict[str, Rule] = {}
        for line in catalogue.on(resource_type):  # type: ignore[arg-type]
            path = line.path_on(resource_type)  # type: ignore[arg-type]
            if line.ad is None or path is None or line.quiet or line.on_request or line.transform == "refer":
                continue
            lines[path] = Rule(
                source=line.ad.lower(),
                to=path,
                apply=TRANSFORMS[line.transform],
                args={},
                convert=_FORMS.get(line.form),
                many=line.many,
                owns=True,
                default=None,
                always=line.transform in ("user_name", "display_name", "group_name"),
            )
        for row in rows:
            if row.get("to") in _keys(resource_type):
                lines.pop(row["to"], None)
                if row.get("authority", "owns") != "never":
                    lines[row["to"]] = _rule(row, resource_type)
        rules[resource_type] = tuple(lines.values())
    digest = blake2b(text, digest_size=15, salt=bytes([SCHEMA_VERSION]))
    owned = {name: frozenset(rule.to for rule in found if rule.owns) for name, found in rules.items()}
    owned["User"] |= {MANAGER}
    owned["OrganizationalUnit"] |= {PARENT}
    return Mapping_(digest.digest(), rules, owned)


@lru_cache(maxsize=8)
def _keys(resource_type: str) -> Mapping[str, catalogue.Attribute]:
    return catalogue.by_path(resource_type)  # type: ignore[arg-type]


def _rule(row: Mapping[str, Any], resource_type: str) -> Rule:
    line = _keys(resource_type)[row["to"]]
    transform = row.get("transform") or {"name": "all" if line.many else "first"}
    return Rule(
        source=str(row.get("from") or "").lower(),
        to=row["to"],
        apply=TRANSFORMS[transform["name"]],
        args=transform.get("args") or {},
        convert=_FORMS.get(line.form),
        many=line.many,
        owns=row.get("authority", "owns") == "owns",
        default=row.get("default"),
        always=transform["name"] in ("constant", "user_name", "display_name", "group_name"),
    )


def check_rows(rows: Any) -> list[dict[str, Any]]:
    """Validate a provider's mapping rows. Raises ValidationFailed naming each row that cannot work."""
    errors: dict[str, list[str]] = {}
    known = {path for resource_type in CORE for path, line in _keys(resource_type).items() if not line.read_only}
    forbidden = {MANAGER, PARENT, "active"}
    for index, row in enumerate(rows if isinstance(rows, list) else [None]):
        complaint = None
        if not isinstance(row, dict) or set(row) - {"from", "to", "transform", "authority", "default"}:
            complaint = "A row is an object of from, to, transform, authority and default."
        elif row.get("to") not in known or row["to"] in forbidden:
            complaint = "`to` must be an attribute path of the catalogue that a mapping may write."
        elif row.get("authority", "owns") not in AUTHORITIES:
            complaint = f"`authority` is one of {', '.join(AUTHORITIES)}."
        elif not isinstance(row.get("transform") or {"name": "first"}, dict) or (
            (row.get("transform") or {"name": "first"}).get("name") not in set(TRANSFORMS) - {"refer"}
        ):
            complaint = f"`transform.name` is one of {', '.join(sorted(set(TRANSFORMS) - {'refer'}))}."
        elif not isinstance(row.get("from", ""), str | None):
            complaint = "`from` is the name of an upstream attribute."
        if complaint:
            errors[f"attribute_mapping.{index}"] = [complaint]
    if errors:
        raise ValidationFailed(errors=errors)
    return list(rows)


def said(attributes: Attributes) -> Said:
    """A record's attributes by lower-cased name, options such as `;binary` left out."""
    return {name.partition(";")[0].lower(): values for name, values in attributes.items()}


def mapped(mapping: Mapping_, resource_type: str, attributes: Said) -> Values:
    """What a record says, in our keys. Absent values are absent."""
    values: Values = {}
    for rule in mapping.rules[resource_type]:
        found = attributes.get(rule.source)
        if not found and not rule.always:
            if rule.default is not None:
                values[rule.to] = rule.default
            continue
        if rule.convert is not None and found:
            converted = [item for item in map(rule.convert, found) if item is not None]
            value = (converted if rule.many else converted[0]) if converted else None
        else:
            value = rule.apply(found or (), attributes, rule.args)
        if value is None or value == "":
            value = rule.default
        if value is not None:
            values[rule.to] = value
    return values


class Layer(NamedTuple):
    """What one link contributes, highest rank first in a stack."""

    mapping: Mapping_
    values: Values


def merged(resource_type: str, layers: Sequence[Layer], local: Values, pins: Values) -> Values:
    """The effective values: a pin; else the highest link that owns; else one that fills; else what was written here."""
    if len(layers) == 1 and not local and not pins:
        return layers[0].values
    result = dict(local)
    for layer in reversed(layers):
        owned = layer.mapping.owned[resource_type]
        for key, value in layer.values.items():
            if key not in owned and key not in result:
                result[key] = value
    for layer in reversed(layers):
        for key in layer.mapping.owned[resource_type]:
            result.pop(key, None)
        for key, value in layer.values.items():
            if key in layer.mapping.owned[resource_type]:
                result[key] = value
    result.update(pins)
    return result


class Path(NamedTuple):
    """A flat key taken apart: extension URN, attribute, value type, sub-attribute."""

    urn: str | None
    attribute: str
    kind: str | None
    sub: str | None


_FLAT = re.compile(r'(?:(urn:[^"]+):)?([\w$-]+)(?:\[type eq "(\w+)"\])?(?:\.([\w$]+))?')


@lru_cache(maxsize=4096)
def parse(key: str) -> Path:
    match = _FLAT.fullmatch(key)
    if match is None:
        raise ValueError(f"not a flat SCIM key: {key}")
    return Path(*match.groups())


def nested(resource_type: str, id: str, values: Values) -> dict[str, Any]:
    """The canonical SCIM resource of flat values: schemas, id, then the attributes."""
    document: dict[str, Any] = {"schemas": [CORE[resource_type]], "id": id}
    typed: dict[str, list[tuple[Path, Any]]] = {}
    for key, value in values.items():
        path = parse(key)
        urn, attribute, kind, sub = path
        if kind is not None:
            typed.setdefault(attribute, []).append((path, value))
            continue
        place = document
        if urn is not None:
            if urn not in document:
                document[urn] = {}
                document["schemas"].append(urn)
            place = document[urn]
        if sub is None:
            place[attribute] = value
        else:
            place.setdefault(attribute, {})[sub] = value
    for attribute, parts in typed.items():
        document[attribute] = _with_typed(document.get(attribute) or (), attribute, parts)
    return document


def _with_typed(local: Iterable[Mapping[str, Any]], attribute: str, parts: Iterable[tuple[Path, Any]]) -> list[Any]:
    """A multi-valued attribute: what was written here, with the upstream's typed values laid over it."""
    items = [dict(item) for item in local]
    for path, value in parts:
        sub = path.sub or "value"
        for item in items:
            if item.get("type") == path.kind:
                item[sub] = value
                break
        else:
            item = {sub: value, "type": path.kind}
            if attribute == "emails" and not any(other.get("primary") for other in items):
                item["primary"] = True
            items.append(item)
    return items


def place_reference(document: dict[str, Any], key: str, id: str) -> None:
    """Put the reference `key` (`manager.value`, `parent.value`) to a resource of ours into a document."""
    urn, attribute, _, _ = parse(key)
    place = document
    if urn is not None:
        if urn not in document:
            document[urn] = {}
            document["schemas"].append(urn)
        place = document[urn]
    endpoint = "Users" if key == MANAGER else "OrganizationalUnits"
    place[attribute] = {"value": id, "$ref": f"../{endpoint}/{id}"}


def flattened(resource_type: str, document: Mapping[str, Any]) -> Values:
    """The flat values of a client's document: multi-valued attributes stay whole under their own key."""
    values: Values = {}
    for key, value in document.items():
        if key in ("schemas", "id", "meta", "groups", "members") or value is None:
            continue
        if key.startswith("urn:"):
            if key == CORE[resource_type] or not isinstance(value, Mapping):
                continue
            for name, item in value.items():
                _flatten(values, f"{key}:{name}", item)
        else:
            _flatten(values, key, value)
    return values


def _flatten(values: Values, key: str, value: Any) -> None:
    if isinstance(value, Mapping):
        for sub, item in value.items():
            if item is not None and item != [] and sub not in ("$ref", "displayName"):
                values[f"{key}.{sub}"] = item
    elif value is not None and value != []:
        values[key] = value


def index_rows(resource_type: str, document: Mapping[str, Any]) -> list[tuple[int, str, str]]:
    """The value-index rows of a document: (catalogue number, folded value, kind)."""
    rows: set[tuple[int, str, str]] = set()
    for number, urn, attribute, sub, exact in _indexed(resource_type):
        place: Any = document if urn is None else document.get(urn)
        if not place:
            continue
        found = place.get(attribute)
        if found is None:
            continue
        if sub is not None and isinstance(found, list):
            for item in found:
                if isinstance(item, Mapping) and isinstance(text := item.get(sub), str):
                    rows.add((number, text if exact else fold(text), str(item.get("type") or "").lower()))
        else:
            for item in found if isinstance(found, list) else (found,):
                rows.add((number, str(item) if exact else fold(str(item)), ""))
    return sorted(row for row in rows if len(row[1].encode()) <= MAX_INDEXED)


MAX_INDEXED = 1_024
"""Octets of a value the index takes; longer ones are found by the slow path, last."""


@lru_cache(maxsize=8)
def _indexed(resource_type: str) -> tuple[tuple[int, str | None, str, str | None, bool], ...]:
    found = {}
    for path, line in _keys(resource_type).items():
        if line.number is not None:
            urn, attribute, kind, sub = parse(path)
            found[line.number, attribute] = (line.number, urn, attribute, sub if kind else None, line.case_exact)
    return tuple(found.values())


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The attribute paths in which two documents differ: top-level names, or `urn:name` in extensions."""
    changed = []
    for key in {*before, *after} - {"schemas", "id", "meta"}:
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        if key.startswith("urn:"):
            old, new = old or {}, new or {}
            changed += [f"{key}:{name}" for name in {*old, *new} if old.get(name) != new.get(name)]
        else:
            changed.append(key)
    return sorted(changed)


def render_extras(resource_type: str, records: Iterable[Attributes], local: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes returned only on request: photo, certificates, quiet values, and the typed overflow.

    `records` are the verbatim records of the resource's links, highest rank first. The overflow bag carries every
    attribute
    that the catalogue does not name, with the AD syntax it was said in where octets tell.
    """
    urn = catalogue.AD_GROUP if resource_type == "Group" else catalogue.AD_USER
    if resource_type == "OrganizationalUnit":
        urn = catalogue.UNIT
    named = {line.ad.lower() for line in catalogue.on(resource_type) if line.ad}  # type: ignore[arg-type]
    extras: dict[str, Any] = {}
    bag: list[dict[str, Any]] = []
    taken: set[str] = set()
    for record in records:
        for name, values in record.items():
            lower = name.partition(";")[0].lower()
            if lower in taken:
                continue
            taken.add(lower)
            if lower == "memberof":
                extras["memberOfDN"] = [_text(value) for value in values]
            elif lower not in named:
                bag.append(_overflow(name, values))
        attributes = said(record)
        for line in catalogue.on(resource_type):  # type: ignore[arg-type]
            if (line.on_request or line.quiet) and line.ad and (found := attributes.get(line.ad.lower())):
                convert = _FORMS.get(line.form, _text)
                extras.setdefault(line.ad, [convert(v) for v in found] if line.many else convert(found[0]))
    prefix = f"{urn}:"
    for key, value in local.items():
        own = _keys(resource_type).get(key)
        if key.startswith(prefix) and own is not None and own.on_request:
            extras[key.removeprefix(prefix)] = value
    if written := local.get(f"{prefix}attributes"):
        bag += [item for item in written if str(item.get("name", "")).lower() not in taken]
    if bag:
        extras["attributes"] = bag
    if not extras:
        return {}
    return extras if resource_type == "OrganizationalUnit" else {urn: extras}


def _overflow(name: str, values: Sequence[str | bytes]) -> dict[str, Any]:
    texts = [value for value in values if isinstance(value, str)]
    octets = [base64.b64encode(value).decode() for value in values if isinstance(value, bytes)]
    item: dict[str, Any] = {"name": name, "syntax": "2.5.5.10" if octets else "2.5.5.12"}
    if texts:
        item["values"] = texts
    if octets:
        item["binaryValues"] = octets
    return item


def stored_extras(resource_type: str, values: Values) -> Values:
    """The part of flat values that is kept out of the document because it is returned only on request."""
    lines = _keys(resource_type)
    return {
        key: value
        for key, value in values.items()
        if key.endswith(":attributes") or ((line := lines.get(key)) is not None and (line.on_request or line.quiet))
    }


@lru_cache(maxsize=8)
def document_sources(resource_type: str) -> frozenset[str]:
    """Lower-cased upstream names whose values the default mapping puts into the document."""
    return frozenset(
        line.ad.lower()
        for line in catalogue.on(resource_type)  # type: ignore[arg-type]
        if line.ad and not line.on_request and not line.quiet
    )


def apart(values: Values, owned: frozenset[str]) -> Values:
    """A client's flat values with the parts of multi-valued attributes that an upstream owns under their own keys.

    `emails: [{"type": "work", "value": …}]` becomes `emails[type eq "work"].value` when that key is owned; an element
    that holds more
    than its owned parts stays in the list with the rest.
    """
    subs: dict[str, dict[str, list[str]]] = {}
    for key in owned:
        path = parse(key)
        if path.kind is not None and path.sub is not None:
            subs.setdefault(path.attribute, {}).setdefault(path.kind, []).append(path.sub)
    result: Values = {}
    for key, value in values.items():
        if key not in subs or not isinstance(value, list):
            result[key] = value
            continue
        rest = []
        for element in value:
            kind = element.get("type") if isinstance(element, Mapping) else None
            taken = subs[key].get(kind, ()) if isinstance(kind, str) else ()
            here = {sub: element[sub] for sub in taken if sub in element}
            result.update({f'{key}[type eq "{kind}"].{sub}': found for sub, found in here.items()})
            left = {sub: found for sub, found in element.items() if sub not in here} if here else element
            if not here or set(left) - {"type", "primary", "display", "$ref"}:
                rest.append(left)
        if rest:
            result[key] = rest
    return result
