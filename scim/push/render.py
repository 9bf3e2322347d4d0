"""What a target is sent about a person or a group.

Owns the choice of attributes: SCIM's core and enterprise ones, our id as `externalId`, and what the tenant has declared
where the target announces it. The Active Directory extension and our own stay here, and so does everything the receiver
computes itself. References to other people become the receiver's ids; who is not there yet is left out until he is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

import orjson

from broker.attributes import CORE_GROUP, CORE_USER, CUSTOM, ENTERPRISE, on
from broker.directory.mapping import parse

_NOT_SENT = frozenset({"schemas", "id", "externalId", "meta", "groups", "members", "active", "password"})
MANAGED = frozenset(parse(path)[1] for line in on("User") if (path := line.path_on("User")) and path[:4] != "urn:")
"""Core attributes of a person that we may ever send."""


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


def group(id: str, name: str) -> dict[str, Any]:
    """A group without its members: those are written one by one."""
    return {"schemas": [CORE_GROUP], "externalId": id, "displayName": name}


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


def as_patch(document: Mapping[str, Any], shown: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The PATCH operations that make what the target shows into the document, for targets without PUT."""
    values = {name: value for name, value in document.items() if name != "schemas"}
    operations: list[dict[str, Any]] = [{"op": "replace", "value": values}]
    operations.extend({"op": "remove", "path": name} for name in _surplus(document, shown))
    return operations


def _surplus(document: Mapping[str, Any], shown: Mapping[str, Any]) -> Iterator[str]:
    present = {name.lower() for name in document}
    managed = {name.lower(): name for name in MANAGED}
    for name, value in shown.items():
        if name.lower() in managed and name.lower() not in present and value not in (None, [], {}):
            yield managed[name.lower()]
