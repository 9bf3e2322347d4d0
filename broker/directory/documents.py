"""Flat values and SCIM documents: the one turned into the other, compared, and indexed.

Owns the shape of the canonical document (`Resource.document`), the taking apart of a client's document into flat keys,
and what is kept out of the document because it is returned only on request. Who owns a value is `mapping`'s and
`layers`'.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import lru_cache
from typing import Any, NamedTuple

from connectors.port import Attributes

from .. import attributes as catalogue
from ..attributes import fold
from .transforms import FORMS, Said, text

Values = dict[str, Any]
"""Flat SCIM key to JSON value."""

NOUN: dict[str, str] = {"User": "user", "Group": "group", "OrganizationalUnit": "unit", "Agent": "agent"}
CORE: dict[str, str] = {
    "User": catalogue.CORE_USER,
    "Group": catalogue.CORE_GROUP,
    "OrganizationalUnit": catalogue.UNIT,
    "Agent": catalogue.AGENT,
}
OWN: dict[str, str] = {
    "User": catalogue.AD_USER,
    "Group": catalogue.AD_GROUP,
    "OrganizationalUnit": catalogue.UNIT,
    "Agent": catalogue.AGENT,
}
"""The schema that carries what an upstream says beyond the standard."""
MANAGER = f"{catalogue.ENTERPRISE}:manager.value"
PARENT = "parent.value"
MAX_INDEXED = 1_024
"""Octets of a value the index takes; longer ones are found by the slow path, last."""
MAX_TYPE = 64
"""Characters of a value's `type` that the index takes."""

_FLAT = re.compile(r'(?:(urn:[^"]+):)?([\w$-]+)(?:\[type eq "(\w+)"\])?(?:\.([\w$]+))?')
_DECORATION = frozenset({"type", "primary", "display", "$ref"})
"""What is left of an element of a list when nothing of its own is."""


class Path(NamedTuple):
    """A flat key taken apart: extension URN, attribute, value type, sub-attribute."""

    urn: str | None
    attribute: str
    kind: str | None
    sub: str | None


@lru_cache(maxsize=4096)
def parse(key: str) -> Path:
    match = _FLAT.fullmatch(key)
    if match is None:
        raise ValueError(f"not a flat SCIM key: {key}")
    return Path(*match.groups())


@lru_cache(maxsize=8)
def keys(resource_type: str) -> Mapping[str, catalogue.Attribute]:
    """The catalogue's flat keys of a resource type."""
    return catalogue.by_path(resource_type)  # type: ignore[arg-type]


def nested(resource_type: str, id: str, values: Values) -> dict[str, Any]:
    """The canonical SCIM resource of flat values: schemas, id, then the attributes."""
    document: dict[str, Any] = {"schemas": [CORE[resource_type]], "id": id}
    typed: dict[str, list[tuple[Path, Any]]] = {}
    for key, value in values.items():
        path = parse(key)
        if path.kind is not None:
            typed.setdefault(path.attribute, []).append((path, value))
            continue
        place = _place(document, path.urn)
        if path.sub is None:
            place[path.attribute] = value
        else:
            place.setdefault(path.attribute, {})[path.sub] = value
    for attribute, parts in typed.items():
        document[attribute] = with_typed(document.get(attribute) or (), attribute, parts)
    document["schemas"][1:] = sorted(document["schemas"][1:])
    return document


def _place(document: dict[str, Any], urn: str | None) -> dict[str, Any]:
    if urn is None:
        return document
    if urn not in document:
        document[urn] = {}
        document["schemas"].append(urn)
    place: dict[str, Any] = document[urn]
    return place


def with_typed(
    local: Iterable[Mapping[str, Any]], attribute: str, parts: Iterable[tuple[Path, Any]]
) -> list[dict[str, Any]]:
    """A multi-valued attribute: what was written here, with typed values laid over it."""
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


def point(document: dict[str, Any], key: str, id: str | None) -> None:
    """Make the reference `key` (`manager.value`, `parent.value`) of a document name a resource of ours, or nobody."""
    urn, attribute, _, _ = parse(key)
    if id is not None:
        endpoint = "Users" if key == MANAGER else "OrganizationalUnits"
        _place(document, urn)[attribute] = {"value": id, "$ref": f"../{endpoint}/{id}"}
    elif urn is None:
        document.pop(attribute, None)
    elif urn in document:
        document[urn].pop(attribute, None)
        if not document[urn]:
            del document[urn]
            document["schemas"].remove(urn)
    document["schemas"][1:] = sorted(document["schemas"][1:])


def flattened(resource_type: str, document: Mapping[str, Any]) -> Values:
    """The flat values of a client's document: multi-valued attributes stay whole under their own key.

    Read-only attributes are left out.
    """
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
    lines = keys(resource_type)
    return {key: value for key, value in values.items() if not ((line := lines.get(key)) and line.read_only)}


def _flatten(values: Values, key: str, value: Any) -> None:
    if isinstance(value, Mapping):
        for sub, item in value.items():
            if item is not None and item != [] and sub not in ("$ref", "displayName"):
                values[f"{key}.{sub}"] = item
    elif value is not None and value != []:
        values[key] = value


def apart(values: Values, typed: Set[str], present: Values) -> Values:
    """A client's flat values, with the parts of multi-valued attributes that have keys of their own under those.

    `emails: [{"type": "work", "value": …}]` becomes `emails[type eq "work"].value` when that key is among `typed`; an
    element that holds more than such parts stays in the list with the rest. Of two elements of one type, the one
    that differs from `present` counts: it is what the client wants.
    """
    subs: dict[str, dict[str, list[str]]] = {}
    for key in typed:
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
            for sub, found in here.items():
                flat = f'{key}[type eq "{kind}"].{sub}'
                if flat not in result or found != present.get(flat):
                    result[flat] = found
            left = {sub: found for sub, found in element.items() if sub not in here} if here else element
            if not here or left.keys() - _DECORATION:
                rest.append(left)
        if rest:
            result[key] = rest
    return result


def put(local: Values, key: str, value: Any) -> None:
    """Write a flat key: one that stands for a typed value, into the list it is part of."""
    path = parse(key)
    if path.kind is None:
        local[key] = value
    else:
        local[path.attribute] = with_typed(local.get(path.attribute, ()), path.attribute, [(path, value)])


def holds_nul(value: Any) -> bool:
    """Whether some text in a JSON value holds a NUL, which the database takes in no JSON of its own."""
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, Mapping):
        return any(holds_nul(item) for pair in value.items() for item in pair)
    return isinstance(value, Sequence) and any(holds_nul(item) for item in value)


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
                if isinstance(item, Mapping) and isinstance(value := item.get(sub), str):
                    rows.add((number, value if exact else fold(value), str(item.get("type") or "").lower()))
        else:
            for item in found if isinstance(found, list) else (found,):
                rows.add((number, str(item) if exact else fold(str(item)), ""))
    return sorted(row for row in rows if len(row[1].encode()) <= MAX_INDEXED and len(row[2]) <= MAX_TYPE)


@lru_cache(maxsize=8)
def _indexed(resource_type: str) -> tuple[tuple[int, str | None, str, str | None, bool], ...]:
    found = {}
    for path, line in keys(resource_type).items():
        if line.number is not None:
            urn, attribute, kind, sub = parse(path)
            found[line.number, attribute] = (
                line.number,
                urn,
                attribute,
                sub if kind or (sub and line.many) else None,
                line.case_exact,
            )
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


def stored_extras(resource_type: str, values: Values) -> Values:
    """The part of flat values that is kept out of the document because it is returned only on request."""
    hidden = _on_request(resource_type)
    return {key: value for key, value in values.items() if key in hidden}


@lru_cache(maxsize=8)
def _on_request(resource_type: str) -> frozenset[str]:
    lines = keys(resource_type).items()
    return frozenset(path for path, line in lines if line.on_request or line.quiet) | {
        f"{OWN[resource_type]}:attributes"
    }


@lru_cache(maxsize=8)
def document_sources(resource_type: str) -> frozenset[str]:
    """Lower-cased upstream names whose values the default mapping puts into the document."""
    return frozenset(
        line.ad.lower()
        for line in catalogue.on(resource_type)  # type: ignore[arg-type]
        if line.ad and not line.on_request and not line.quiet
    )


def said(attributes: Attributes) -> Said:
    """A record's attributes by lower-cased name, without options such as `;binary`: the plain one goes before."""
    found: dict[str, Sequence[str | bytes]] = {}
    optioned = []
    for name, values in attributes.items():
        if ";" in name:
            optioned.append(name)
        else:
            found[name.lower()] = values
    for name in optioned:
        found.setdefault(name.partition(";")[0].lower(), attributes[name])
    return found


def render_extras(resource_type: str, records: Iterable[Attributes], local: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes returned only on request: photo, certificates, quiet values, and the typed overflow.

    `records` are the verbatim records of the resource's links, highest rank first. The overflow bag carries every
    attribute that the catalogue does not name, with the AD syntax it was said in where octets tell.
    """
    urn = OWN[resource_type]
    named = {line.ad.lower() for line in catalogue.on(resource_type) if line.ad}  # type: ignore[arg-type]
    extras: dict[str, Any] = {}
    bag: list[dict[str, Any]] = []
    taken: set[str] = set()
    for record in records:
        for name, values in record.items():
            lower = name.lower()
            if lower in taken:
                continue
            taken.add(lower)
            plain = lower.partition(";")[0]
            if plain == "memberof":
                extras["memberOfDN"] = [text(value) for value in values]
            elif plain not in named:
                bag.append(_overflow(name, values))
        attributes = said(record)
        for line in catalogue.on(resource_type):  # type: ignore[arg-type]
            if (line.on_request or line.quiet) and line.ad and (found := attributes.get(line.ad.lower())):
                convert = FORMS.get(line.form, text)
                extras.setdefault(line.ad, [convert(v) for v in found] if line.many else convert(found[0]))
    prefix = f"{urn}:"
    for key, value in local.items():
        own = keys(resource_type).get(key)
        if not key.startswith(prefix) or own is None:
            continue
        if own.on_request:
            extras[key.removeprefix(prefix)] = value
        elif own.quiet:  # what an upstream says of these is fresher
            extras.setdefault(key.removeprefix(prefix), value)
    if written := local.get(f"{prefix}attributes"):
        bag += [item for item in written if str(item.get("name", "")).lower() not in taken]
    if bag:
        extras["attributes"] = bag
    if not extras:
        return {}
    return extras if resource_type == "OrganizationalUnit" else {urn: extras}


def _overflow(name: str, values: Sequence[str | bytes]) -> dict[str, Any]:
    """One attribute of the bag; a value that holds a NUL was octets that happen to be UTF-8."""
    texts = [value for value in values if isinstance(value, str) and "\x00" not in value]
    octets = [text(value) for value in values if not isinstance(value, str) or "\x00" in value]
    item: dict[str, Any] = {"name": name, "syntax": "2.5.5.10" if octets else "2.5.5.12"}
    if texts:
        item["values"] = texts
    if octets:
        item["binaryValues"] = octets
    return item
