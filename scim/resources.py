"""A stored row as a SCIM resource, byte by byte.

Owns the splice (stored document, then `groups` or `members`, then `meta`), entity tags and locations, and what
`attributes` and `excludedAttributes` keep of a resource. A document goes out as it is stored: only a projection parses
it. How rows are read is `scim.reading`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
import scim2_models as scim

from broker.errors import BadRequest

from .declared import OURS, Models, remembered
from .schemas import ENDPOINTS

SPLICED: Mapping[str, str] = {"User": "groups", "Group": "members"}
"""The attribute of a type that is rows, and not in the document."""
MEMBER_NAMES = ("members", "display")
_ALWAYS = frozenset({"schemas", "id"})


class Row(NamedTuple):
    """One resource as a statement gives it. `listed`: the items of `groups` or `members` as JSON text, None if none;
    `more`: there are more members than those; `type` and `key`, in a walk: its type, and the value it is sorted by."""

    id: str
    document: bytes
    version: int
    created: str
    modified: str
    listed: str | None = None
    more: bool = False
    type: str = ""
    key: str | None = None


def etag(version: int) -> str:
    return f'W/"{version}"'


def location(base: str, resource_type: str, id: str) -> str:
    return f"{base}/{ENDPOINTS[resource_type]}/{id}"


def rendered(base: str, resource_type: str, row: Row) -> bytes:
    """The whole resource as it is returned by default. `base` is the URL of the tenant's SCIM root."""
    document = row.document
    # A quote inside a JSON string is escaped, so these bytes can only be a member of the document itself.
    if b'"$ref":"../' in document:
        document = document.replace(b'"$ref":"../', b'"$ref":"' + base.encode() + b"/")
    listed = f',"{SPLICED[resource_type]}":[{row.listed}]' if row.listed else ""
    return (
        document[:-1]
        + (
            f'{listed},"meta":{{"resourceType":"{resource_type}","created":"{row.created}","lastModified":"{row.modified}",'
            f'"location":"{base}/{ENDPOINTS[resource_type]}/{row.id}","version":"W/\\"{row.version}\\""}}}}'
        ).encode()
    )


Tree = dict[str, Any]
"""Lower-cased attribute names (an extension is one, by its URN); an empty tree stands for the whole attribute."""


@dataclass(frozen=True, slots=True)
class Projection:
    """What a client wants of a resource (RFC 7644 §3.9). Without wishes it is everything returned by default."""

    resource_type: str
    included: Tree | None = None
    excluded: Tree = field(default_factory=dict)
    models: Models = OURS

    @property
    def whole(self) -> bool:
        return self.included is None and not self.excluded

    @property
    def lists(self) -> bool:
        """Whether `groups` or `members` have to be read at all."""
        name = SPLICED.get(self.resource_type)
        if name is None or self.excluded.get(name) == {}:
            return False
        return self.included is None or name in self.included

    @property
    def asked(self) -> frozenset[tuple[str, ...]]:
        """The paths it asks for that are returned only on request, and only to who names them exactly."""
        if self.included is None:
            return frozenset()
        _, _, hidden = _shape(self.models, self.resource_type)
        return frozenset(path for path in hidden if _named(self.included, path))

    @property
    def extras(self) -> bool:
        """Whether anything is asked for that is not in the stored document."""
        return bool(self.asked - {MEMBER_NAMES})

    @property
    def names_members(self) -> bool:
        return MEMBER_NAMES in self.asked

    def apply(self, resource: dict[str, Any]) -> dict[str, Any]:
        """The attributes of a parsed resource that are wanted, `schemas` and `id` always."""
        extensions, _, _ = _shape(self.models, self.resource_type)
        keep, wishes = (_excluded, self.excluded) if self.included is None else (_included, self.included)
        kept = {
            name: value
            for name, given in resource.items()
            if (value := given if name in _ALWAYS else keep(given, wishes.get(name.lower()))) is not None
        }
        kept["schemas"] = [urn for urn in resource["schemas"] if urn in kept or urn.lower() not in extensions]
        return kept

    def merge(self, resource: dict[str, Any], extras: Mapping[str, Any]) -> dict[str, Any]:
        """A parsed resource with those of its attributes returned on request that are asked for."""
        asked = self.asked
        chosen: dict[str, Any] = {}
        for name, value in extras.items():
            if name.startswith("urn:"):
                inner = {sub: item for sub, item in value.items() if (name.lower(), sub.lower()) in asked}
                if inner:
                    chosen[name] = inner
            elif (name.lower(),) in asked:
                chosen[name] = value
        return merged(resource, chosen)


def _named(tree: Tree, path: tuple[str, ...]) -> bool:
    for part in path:
        if part not in tree:
            return False
        tree = tree[part]
    return not tree


def _included(value: Any, tree: Tree | None) -> Any:
    if tree is None:
        return None
    if not tree:
        return value
    return _each(value, lambda name, inner: inner if name in tree else None)


def _excluded(value: Any, tree: Tree | None) -> Any:
    if tree is None:
        return value
    if not tree:
        return None
    return _each(value, lambda name, inner: _excluded(inner, tree.get(name)))


def _each(value: Any, keep: Any) -> Any:
    """A complex value, or each of several, with the sub-attributes `keep` gives a value for; None when none is left."""
    if isinstance(value, list):
        return [kept for item in value if (kept := _each(item, keep)) is not None] or None
    if not isinstance(value, dict):
        return None
    return {name: kept for name, inner in value.items() if (kept := keep(name.lower(), inner)) is not None} or None


def projection(resource_type: str, attributes: str | None, excluded: str | None, models: Models = OURS) -> Projection:
    """The wishes of a request's query. Raises BadRequest with the scimType invalidValue when both are given."""
    if attributes and excluded:
        raise BadRequest("attributes and excludedAttributes exclude each other", scim_type="invalidValue")
    return _projection(models, resource_type, attributes or None, excluded or None)


@remembered(512)
def _projection(models: Models, resource_type: str, attributes: str | None, excluded: str | None) -> Projection:
    if attributes is None:
        return Projection(resource_type, None, _tree(models, resource_type, (excluded or "").split(",")), models)
    return Projection(resource_type, _tree(models, resource_type, attributes.split(",")), models=models)


def _tree(models: Models, resource_type: str, names: Iterable[str]) -> Tree:
    """Attribute names in the notation of RFC 7644 §3.10 as a tree."""
    extensions, core, _ = _shape(models, resource_type)
    tree: Tree = {}
    for name in filter(None, (name.strip().lower() for name in names)):
        urn = next((urn for urn in extensions if name == urn or name.startswith(f"{urn}:")), None)
        if urn is not None:
            path = [urn, *filter(None, name.removeprefix(urn).lstrip(":").split("."))]
        else:
            path = name.removeprefix(f"{core}:").split(".")
        place = tree
        for index, part in enumerate(path):
            known = place.get(part)
            if known == {}:
                break
            if index == len(path) - 1:
                place[part] = {}
            else:
                place = place.setdefault(part, {})
    return tree


@remembered(8)
def _shape(models: Models, resource_type: str) -> tuple[frozenset[str], str, frozenset[tuple[str, ...]]]:
    """Lower-cased: the URNs of the extensions, the core URN, and the paths returned only on request."""
    model: Any = models[resource_type]
    extensions = model.get_extension_models()
    hidden: set[tuple[str, ...]] = {MEMBER_NAMES} if resource_type == "Group" else set()
    for urn, owner in ((None, model), *extensions.items()):
        for name in owner.model_fields:
            if owner.get_field_annotation(name, scim.Returned) is scim.Returned.request:
                attribute = str(owner.model_fields[name].serialization_alias).lower()
                hidden.add((attribute,) if urn is None else (urn.lower(), attribute))
    return frozenset(urn.lower() for urn in extensions), str(model.__schema__).lower(), frozenset(hidden)


def merged(resource: dict[str, Any], extras: Mapping[str, Any]) -> dict[str, Any]:
    """A parsed resource with the attributes that are returned only on request."""
    for name, value in extras.items():
        if name.startswith("urn:"):
            if name not in resource:
                resource["schemas"].append(name)
            resource[name] = {**resource.get(name, {}), **value}
        else:
            resource[name] = value
    return resource


def listing(resources: list[bytes], total: int, start: int) -> bytes:
    """A ListResponse around resources that are rendered already."""
    return (
        b'{"schemas":["urn:ietf:params:scim:api:messages:2.0:ListResponse"],"totalResults":%d,"startIndex":%d,'
        b'"itemsPerPage":%d,"Resources":[%b]}' % (total, start, len(resources), b",".join(resources))
    )


def cursor_listing(
    resources: list[bytes], total: int | None, next_cursor: str | None, previous_cursor: str | None
) -> bytes:
    """A ListResponse of a walk by cursor (RFC 9865 §2)."""
    said: dict[str, Any] = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:ListResponse"]}
    if total is not None:
        said["totalResults"] = total
    said["itemsPerPage"] = len(resources)
    if next_cursor is not None:
        said["nextCursor"] = next_cursor
    if previous_cursor is not None:
        said["previousCursor"] = previous_cursor
    return orjson.dumps(said)[:-1] + b',"Resources":[%b]}' % b",".join(resources)


def projected(base: str, row: Row, wanted: Projection, extras: Mapping[str, Any] | None = None) -> bytes:
    """The resource as the client wants it."""
    whole = rendered(base, wanted.resource_type, row)
    if wanted.whole:
        return whole
    resource = orjson.loads(whole)
    if extras:
        resource = wanted.merge(resource, extras)
    return orjson.dumps(wanted.apply(resource))
