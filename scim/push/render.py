"""What a target is sent about a person or a group.

Owns the choice of attributes: SCIM's core and enterprise ones, our id as `externalId`, and what the tenant has declared
where the target announces it. The Active Directory extension and our own stay here, and so does everything the receiver
computes itself. References to other people become the receiver's ids; who is not there yet is left out until he is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from hashlib import sha256
from typing import Any

import orjson

from broker.attributes import CORE_GROUP, CORE_USER, CUSTOM, ENTERPRISE, on
from broker.directory.mapping import parse

_NOT_SENT = frozenset({"schemas", "id", "externalId", "meta", "groups", "members", "active", "password"})
MANAGED = frozenset(parse(path)[1] for line in on("User") if (path := line.path_on("User")) and path[:4] != "urn:")
"""Core attributes of a person that we may ever send."""
_PARTS = frozenset({"name.middleName", "name.honorificPrefix", "name.honorificSuffix"})
"""Parts of a person's name that no receiver has to have."""
_ENTERPRISE = frozenset(path.removesuffix(".value") for line in on("User") if (path := line.path or "")[:4] == "urn:")
_PARTS_OF_NAME = frozenset(name.lower() for name in _PARTS)
_NOTHING: tuple[Any, ...] = (None, "", [], {})


def person(
    document: Mapping[str, Any], id: str, *, usable: bool, manager: str | None, custom: bool = False
) -> dict[str, Any]:
    """A user as it shall be at the target; `manager` is the manager's remote id. `custom`: the target announces the
    extension of what the tenant has declared."""
    sent: dict[str, Any] = {"schemas": [CORE_USER], "externalId": id, "active": usable}
    sent.update((name, value) for name, value in document.items() if ":" not in name and name not in _NOT_SENT)
    enterprise = {name: value for name, value in document.get(ENTERPRISE, {}).items() if name != "manager"}
    if manager is not None:
        enterprise["manager"] = {"value": manager}
    if enterprise:
        sent["schemas"] = [CORE_USER, ENTERPRISE]
        sent[ENTERPRISE] = enterprise
    if custom and (own := document.get(CUSTOM["User"])):
        sent["schemas"].append(CUSTOM["User"])
        sent[CUSTOM["User"]] = own
    return sent


def group(document: Mapping[str, Any], id: str, name: str, *, custom: bool = False) -> dict[str, Any]:
    """A group without its members: those are written one by one. `custom`: as of a person."""
    sent: dict[str, Any] = {"schemas": [CORE_GROUP], "externalId": id, "displayName": name}
    if custom and (own := document.get(CUSTOM["Group"])):
        sent["schemas"].append(CUSTOM["Group"])
        sent[CUSTOM["Group"]] = own
    return sent


def ours(resource_type: str, rows: Sequence[Mapping[str, Any]], takes: Set[str]) -> frozenset[str]:
    """Lower-case flat names of what is ours to say of a resource at a target with these rows of a mapping, which takes
    these attributes: what we say no more of it shall be nobody's."""
    named = {f"{urn}:{attribute}" if urn else attribute for row in rows for urn, attribute, *_ in [parse(row["to"])]}
    if resource_type == "User":
        named |= MANAGED | _PARTS | _ENTERPRISE
    own = f"{CUSTOM[resource_type]}:".lower()
    return frozenset(name.lower() for name in named) | {name for name in takes if name.startswith(own)}


def digest(document: Mapping[str, Any]) -> bytes:
    """Equal exactly when the same would be sent again."""
    return sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).digest()


def additions(members: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """The PATCH operations that make these members, each `{"value": …}`, a group with its type."""
    return [{"op": "add", "path": "members", "value": list(members)}]


def removals(remote_ids: Sequence[str], by: str = "path") -> list[dict[str, Any]]:
    """The PATCH operations that end these memberships: each names its member, none the whole list."""
    if by == "value":
        return [{"op": "remove", "path": "members", "value": [{"value": id} for id in remote_ids]}]
    return [{"op": "remove", "path": f"members[value eq {orjson.dumps(id).decode()}]"} for id in remote_ids]


def as_patch(document: Mapping[str, Any], shown: Mapping[str, Any], said: Set[str]) -> list[dict[str, Any]]:
    """The PATCH operations that make what the target shows into the document, for targets without PUT. `said`: what is
    ours to say."""
    values = {name: value for name, value in document.items() if name != "schemas"}
    return [{"op": "replace", "value": values}, *_endings(document, shown, said)]


def group_as_patch(
    document: Mapping[str, Any], shown: Mapping[str, Any], said: Set[str], by: str = "replace"
) -> list[dict[str, Any]]:
    """The same of a group, whose members stay what they are. `by`: the operation that sets its externalId."""
    operations = [
        {"op": op, "path": name, "value": document[name]}
        for name, op in (("displayName", "replace"), ("externalId", by))
    ]
    operations.extend(
        {"op": "replace", "path": f"{urn}:{name}", "value": value}
        for urn, extension in document.items()
        if ":" in urn
        for name, value in extension.items()
    )
    return [*operations, *_endings(document, shown, said)]


def _endings(document: Mapping[str, Any], shown: Mapping[str, Any], said: Set[str]) -> Iterator[dict[str, Any]]:
    """What is ours to say, and the target shows though we say it no more. A replaced object keeps the parts that are
    not named (RFC 7644 §3.5.2.3), so that each has to be named."""
    present = {name.lower() for name in _names(document)}
    over = said - present if "name" in present else said - present - _PARTS_OF_NAME
    yield from ({"op": "remove", "path": name} for name in _names(shown) if name.lower() in over)


def _names(document: Mapping[str, Any]) -> Iterator[str]:
    """The flat names of what a document says: of extensions and of a person's name those of the parts as well."""
    for key, value in document.items():
        if value in _NOTHING:
            continue
        yield key
        if isinstance(value, Mapping) and (":" in key or key.lower() == "name"):
            between = ":" if ":" in key else "."
            yield from (f"{key}{between}{part}" for part, inner in value.items() if inner not in _NOTHING)
