"""What known receivers publish that they do not do, as rules for `tests.receivers.Receiver`; and what others offer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from broker.attributes import CORE_GROUP, CORE_USER, ENTERPRISE
from tests.receivers import Answer, Asked, Fault, Receiver


def refused(detail: str, status: int = 400) -> Answer:
    return Answer(status, {"schemas": ["urn:ietf:params:scim:api:messages:2.0:Error"], "detail": detail})


def aws(asked: Asked, act: Callable[[], Answer]) -> Answer | None:
    """AWS IAM Identity Center: https://docs.aws.amazon.com/singlesignon/latest/developerguide/limitations.html."""
    if {"startIndex", "attributes", "excludedAttributes"} & set(asked.query):
        return refused("unsupported query parameter")
    if int(asked.query.get("count", 100)) > 100:
        return refused("count is 100 at most")
    names = "displayName|externalId" if asked.path == "/Groups" else "userName|externalId"
    if "filter" in asked.query and not re.fullmatch(rf'({names}) eq "[^"]*"', asked.query["filter"]):
        return refused("unsupported filter")
    if asked.path == "/Bulk":
        return refused("no such endpoint", 404)
    body = asked.body or {}
    for name in ("emails", "phoneNumbers", "addresses"):
        if len(body.get(name, ())) > 1 or any("display" in one for one in body.get(name, ())):
            return refused(f"{name} has one value without display")
    if {"photos", "ims", "entitlements", "x509Certificates", "password"} & set(body):
        return refused("unsupported attribute")
    if asked.method == "PATCH" and asked.path.startswith("/Groups/"):
        return _aws_group(asked, act)
    return None


def _aws_group(asked: Asked, act: Callable[[], Answer]) -> Answer | None:
    operations, changed = [], 0
    for operation in asked.body["Operations"]:
        path, value = operation.get("path"), operation.get("value")
        if path not in ("displayName", "externalId", "members"):
            return refused("only displayName, members and externalId")
        if path != "members":
            operations.append(operation)
            continue
        if operation["op"] == "replace" or not isinstance(value, list) or not value:
            return refused("members can be added and removed, but not all at once")
        if any(member.get("type") == "Group" for member in value):
            return refused("groups have no groups")
        changed += len(value)
        if operation["op"] == "add":
            operations.append(operation)
        else:
            operations += [{"op": "remove", "path": f'members[value eq "{one["value"]}"]'} for one in value]
    if changed > 100:
        return refused("at most 100 membership changes")
    asked.body = {**asked.body, "Operations": operations}
    return act()


def google(asked: Asked, act: Callable[[], Answer]) -> Answer | None:
    """Google Cloud Identity: https://docs.cloud.google.com/identity/docs/scim/reference/rest."""
    if asked.method == "PUT" or asked.path == "/Bulk":
        return refused("no such method", 404)
    if {"startIndex", "count", "cursor", "sortBy"} & set(asked.query):
        return refused("no paging, no sorting")
    if asked.method != "PATCH":
        return None
    operations = asked.body["Operations"]
    if asked.path.startswith("/Users/"):
        return refused("at most 20 operations") if len(operations) > 20 else None
    if len(operations) > 2:
        return refused("at most 2 operations")
    members = 0
    for operation in operations:
        path = operation.get("path", "")
        if path.startswith("members"):
            members += len(operation["value"]) if operation["op"] == "add" else 1
        if path == "members" and operation["op"] != "add":
            return refused("members are removed by a value filter")
        if path == "externalId" and operation["op"] != "add":
            return refused("externalId can be added")
    return refused("one member at a time") if members > 1 else None


def schema(urn: str, *names: str, members: tuple[str, ...] = ("User", "Group")) -> dict[str, Any]:
    """A schema of these attributes; `name.sub` makes sub-attributes."""
    attributes: dict[str, dict[str, Any]] = {}
    for name in names:
        top, _, sub = name.partition(".")
        one = attributes.setdefault(top, {"name": top, "mutability": "readWrite", "subAttributes": []})
        if sub:
            one["subAttributes"].append({"name": sub, "mutability": "readWrite"})
    if urn == CORE_GROUP:
        kind = {"name": "type", "canonicalValues": list(members)}
        attributes["members"] = {"name": "members", "subAttributes": [{"name": "value"}, kind]}
    return {"id": urn, "attributes": list(attributes.values())}


USER = schema(CORE_USER, "userName", "name.givenName", "name.familyName", "emails.value", "emails.type", "active")
GROUP = schema(CORE_GROUP, "displayName")
WORK = schema(ENTERPRISE, "department")


def tells(*schemas: dict[str, Any], **config: Any) -> Fault:
    """A receiver with discovery endpoints."""
    said: dict[str, dict[str, Any]] = {
        "/ServiceProviderConfig": config,
        "/Schemas": {"totalResults": len(schemas), "Resources": list(schemas)},
        "/ResourceTypes": {"totalResults": 2, "Resources": [{"name": "User"}, {"name": "Group"}]},
    }
    return lambda asked, act: Answer(200, said[asked.path]) if asked.path in said else None


def bulk(receiver: Receiver, most: int = 100, payload: int = 1 << 20) -> list[Fault]:
    """A receiver that takes many operations at once and searches with `or`."""

    def serve(asked: Asked, act: Callable[[], Answer]) -> Answer | None:
        if asked.path in ("/Users", "/Groups") and " or " in asked.query.get("filter", ""):
            return _any_of(receiver, asked)
        if asked.path != "/Bulk":
            return None
        operations = asked.body["Operations"]
        if len(operations) > most or len(json.dumps(asked.body)) > payload:
            return refused("too much", 413)
        return Answer(200, {"Operations": [_one(receiver, operation) for operation in operations]})

    said = {"supported": True, "maxOperations": most, "maxPayloadSize": payload}
    return [tells(bulk=said, filter={"supported": True, "maxResults": 200}), serve]


def _one(receiver: Receiver, operation: dict[str, Any]) -> dict[str, Any]:
    asked = Asked(operation["method"], operation["path"], {}, operation["data"], 0.0)
    answer = receiver.act(asked)
    said = {"method": operation["method"], "status": str(answer.status), "response": answer.body}
    if operation["method"] == "POST":
        said["bulkId"] = operation["bulkId"]
    if answer.status < 300:
        assert isinstance(answer.body, dict)
        said["location"] = f"{receiver.base_url}/{operation['path'].split('/')[1]}/{answer.body['id']}"
        del said["response"]
    return said


def _any_of(receiver: Receiver, asked: Asked) -> Answer:
    terms = re.findall(r'(\w+) eq ("(?:[^"\\]|\\.)*")', asked.query["filter"])
    wanted = {(name, json.loads(value).lower()) for name, value in terms}
    found = [
        one
        for one in receiver.stored[asked.path[1:]].values()
        if any((name, str(one.get(name)).lower()) in wanted for name in ("externalId", "userName", "displayName"))
    ]
    return Answer(200, {"totalResults": len(found), "Resources": found[: int(asked.query.get("count", 100))]})
