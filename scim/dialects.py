"""The dialects of SCIM that clients speak, and what each of their sentences becomes before the model reads it.

Owns `DIALECT`, the list of every shape that is understood beside the RFC's, and `normalise`, which every body passes,
alone or in a bulk request. A credential in the mode `tolerant` is heard through the list; one in the mode `strict` is
held to the interoperability profile by `scim.strict`. What a shape means once it is plain SCIM is the model's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from broker.attributes import AD_GROUP, AD_USER, CORE_GROUP, CORE_USER, CUSTOM, ENTERPRISE, SCAIKEY_GROUP

from . import strict
from .declared import OURS, Models, check_names, gathered

TOLERANT, STRICT = "tolerant", "strict"

Operation = dict[str, Any]

_OLD_GROUP = "http://schemas.microsoft.com/2006/11/ResourceManagement/ADSCIM/2.0/Group"
_SCHEMAS = (CORE_USER, CORE_GROUP, ENTERPRISE, AD_USER, AD_GROUP, SCAIKEY_GROUP)
_EXTENSIONS = {urn.lower(): urn for urn in _SCHEMAS}
_CUSTOM = frozenset(urn.lower() for urn in CUSTOM.values())
"""Whatever names a tenant gives its attributes, no dialect speaks of them."""
_SAID_IN_VAIN = frozenset({"id", "schemas", "meta", "groups"})
_TRUTHS: Mapping[str, bool] = {"true": True, "false": False}
_WITH_PRIMARY = ("emails", "phoneNumbers", "ims", "photos", "addresses", "entitlements", "roles", "x509Certificates")


@dataclass(frozen=True, slots=True)
class Line:
    """One shape. `value` makes an attribute's value plain, wherever it is said; `operation` one operation of a PATCH.

    A line with neither is understood where PATCH is read: it is listed, and tested, with the others.
    """

    name: str
    whose: str
    shape: str
    becomes: str
    attributes: tuple[str, ...] = ()
    value: Callable[[Any], Any] | None = None
    operation: Callable[[Operation], Iterable[Operation]] | None = None


def _truth(value: Any) -> Any:
    return _TRUTHS.get(value.strip().lower(), value) if isinstance(value, str) else value


def _truths_inside(value: Any) -> Any:
    if isinstance(value, list):
        return [_truths_inside(one) for one in value]
    if isinstance(value, dict):
        return {name: _truth(one) if name.lower() == "primary" else one for name, one in value.items()}
    return value


def _manager(value: Any) -> Any:
    """An object with an id, or None for nobody."""
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, str):
        value = {"value": value}
    if isinstance(value, dict) and next((id for name, id in value.items() if name.lower() == "value"), None) in (
        "",
        None,
    ):
        return None
    return value


def _unpacked(value: Any) -> Any:
    """Entries whose `value` is the text of a JSON object become that object."""
    if isinstance(value, list):
        return [_unpacked(one) for one in value]
    text = value.get("value") if isinstance(value, dict) else value
    if not isinstance(text, str) or not text.lstrip().startswith("{"):
        return value
    try:
        inside = orjson.loads(text)
    except orjson.JSONDecodeError:
        return value
    return {**(value if isinstance(value, dict) else {}), **inside} if "value" in inside else value


def _bare(value: Any) -> Any:
    """A list of texts as a list of entries."""
    if isinstance(value, str):
        return [{"value": value}] if value else []
    return [{"value": one} if isinstance(one, str) else one for one in value] if isinstance(value, list) else value


def _without_old_group(value: Any) -> Any:
    return [CORE_GROUP if one == _OLD_GROUP else one for one in value] if isinstance(value, list) else value


def _parted(operation: Operation) -> Iterator[Operation]:
    """Keys that are paths become operations of their own; what is nobody's to write is left out."""
    value = operation.get("value")
    if operation.get("path") or not isinstance(value, dict):
        yield operation
        return
    plain = {}
    for key, item in value.items():
        if key.lower() in _SAID_IN_VAIN:
            continue
        if _is_path(key):
            yield {**operation, "path": key, "value": item}
        else:
            plain[key] = item
    if plain:
        yield {**operation, "value": plain}


def _is_path(key: str) -> bool:
    lower = key.lower()
    if lower in _EXTENSIONS or lower in _CUSTOM:
        return False
    if lower.startswith("urn:"):
        return any(lower.startswith(f"{urn}:") for urn in (*_EXTENSIONS, *_CUSTOM))
    return "." in key or "[" in key


def _pointed(operation: Operation) -> Iterator[Operation]:
    path = operation.get("path")
    if isinstance(path, str) and path.lower().startswith(f"{_OLD_GROUP.lower()}:"):
        operation = {**operation, "path": path[len(_OLD_GROUP) + 1 :]}
    yield operation


def _emptied(operation: Operation) -> Iterator[Operation]:
    """A single value set to nothing is a removal."""
    path, deed = operation.get("path"), str(operation.get("op")).lower()
    if (
        isinstance(path, str)
        and deed != "remove"
        and _last(path) in ("manager", "manager.value")
        and operation.get("value") in (None, "")
    ):
        path = path.strip()
        operation = {"op": "remove", "path": path[: -len(".value")] if path.lower().endswith(".value") else path}
    yield operation


def _without_read_only(operation: Operation) -> Iterator[Operation]:
    path = operation.get("path")
    if not (isinstance(path, str) and _last(path) in _SAID_IN_VAIN):
        yield operation


def _last(path: str) -> str:
    """A path without its schema, in lower case."""
    lower = path.strip().lower()
    return next((lower[len(urn) + 1 :] for urn in _EXTENSIONS if lower.startswith(f"{urn}:")), lower)


DIALECT: tuple[Line, ...] = (
    Line("deeds in capitals", "Entra ID", '"op": "Replace"', "replace"),
    Line("lower-case operations", "mobile and hand-written clients", '"operations": […]', "Operations"),
    Line(
        "old group schema",
        "Entra ID",
        f'"schemas": ["{_OLD_GROUP}"]',
        "the group schema of RFC 7643",
        ("schemas",),
        value=_without_old_group,
        operation=_pointed,
    ),
    Line(
        "paths as keys",
        "Entra ID with aadOptscim062020",
        '{"op": "replace", "value": {"name.givenName": …, "urn:…:User:department": …}}',
        "an operation for each of the paths",
        operation=_parted,
    ),
    Line(
        "what is nobody's to write",
        "Okta",
        "`id`, `schemas`, `meta` or `groups: []` among the values of a PATCH",
        "nothing",
        operation=_without_read_only,
    ),
    Line("truths as text", "Entra ID", '"active": "False"', "false", ("active",), value=_truth),
    Line("primary as text", "Entra ID", '"primary": "True"', "true", _WITH_PRIMARY, value=_truths_inside),
    Line(
        "roles as JSON text",
        "Entra ID (SingleAppRoleAssignment, AppRoleAssignmentsComplex)",
        r'"roles": [{"value": "{\"id\": …, \"value\": \"Admin\"}"}]',
        "the object in the text",
        ("roles",),
        value=_unpacked,
    ),
    Line(
        "lists of texts",
        "OneLogin, hand-written clients",
        '"emails": ["ada@acme.example"], "roles": ["Admin"]',
        "entries with a value",
        ("emails", "phoneNumbers", "roles", "entitlements"),
        value=_bare,
    ),
    Line(
        "a manager in any form",
        "Entra ID, OneLogin",
        '"manager": "usr_…", [{"$ref": …, "value": "usr_…"}] or {"value": ""}',
        "an object with the id, or nobody",
        ("manager",),
        value=_manager,
    ),
    Line("a manager set to nothing", "Entra ID", '"path": "manager", "value": ""', "a removal", operation=_emptied),
    Line(
        "members removed by value",
        "Entra ID without its flag",
        '{"op": "Remove", "path": "members", "value": [{"$ref": null, "value": "usr_…"}]}',
        "these members removed, and no others",
    ),
    Line(
        "members without a path",
        "WSO2, JumpCloud",
        '{"op": "add", "value": {"members": [{"value": "usr_…"}]}}',
        "an addition to members",
    ),
    Line(
        "members with a display",
        "Okta, OneLogin",
        '{"value": "usr_…", "display": "Ada"}',
        "the member; what it is called is its own",
    ),
    Line("an empty group pushed", "Okta", '{"op": "replace", "path": "members", "value": []}', "no members"),
    Line(
        "an entry that is not there",
        "Entra ID",
        '"path": "emails[type eq \\"work\\"].value"',
        "an entry of that type",
    ),
    Line(
        "deactivation without a path",
        "Okta, Google, PingOne",
        '{"op": "replace", "value": {"active": false}}',
        "active: false",
    ),
    Line("a password nobody may set", "Okta", '"password": "…" with every person', "nothing, without allow_password"),
    Line(
        "a PUT without active", "JumpCloud, OneLogin", "a PUT that leaves `active` out", "whether active stays as it is"
    ),
    Line("attributes of other schemas", "everybody", '"favouriteColour": "blue"', "nothing"),
)
"""Every shape understood beside the RFC's, in the order in which they are made plain."""


def normalise(resource_type: str, method: str, body: Any, mode: str, models: Models = OURS) -> Any:
    """The body of a POST, PUT or PATCH in plain SCIM. Raises BadRequest in the mode `strict`, and for what stands under
    the tenant's own URN and is not declared."""
    if mode == STRICT:
        return strict.plain(resource_type, method, body, models)
    if not isinstance(body, dict):
        return body
    if method != "PATCH":
        body = gathered(resource_type, body)
        check_names(resource_type, body, models)
        return _plain(body)
    body = {
        name: [plain for one in said for plain in _operations(one)]
        if name.lower() == "operations" and isinstance(said, list)
        else said
        for name, said in body.items()
    }
    for operation in _operations_of(body):
        path, value = operation.get("path"), operation.get("value")
        if isinstance(path, str):
            check_names(resource_type, {path: value}, models)
        elif isinstance(value, dict):
            check_names(resource_type, value, models)
    return body


def _operations_of(body: Mapping[str, Any]) -> Iterator[Operation]:
    for name, said in body.items():
        if name.lower() == "operations" and isinstance(said, list):
            yield from (one for one in said if isinstance(one, dict))


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a resource, or of an extension, with their values made plain."""
    plain = {}
    for name, value in attributes.items():
        if name.lower() in _CUSTOM:
            plain[name] = value
        elif isinstance(value, dict) and name.lower() in _EXTENSIONS:
            plain[name] = _plain(value)
        else:
            plain[name] = _value(_last(name), value)
    return plain


def _value(attribute: str, value: Any) -> Any:
    for line in DIALECT:
        if line.value is not None and any(attribute == name.lower() for name in line.attributes):
            value = line.value(value)
    return value


def _operations(said: Any) -> list[Any]:
    if not isinstance(said, dict):
        return [said]
    operations: list[Operation] = [{name.lower(): value for name, value in said.items()}]
    for line in DIALECT:
        if line.operation is not None:
            operations = [plain for one in operations for plain in line.operation(one)]
    for operation in operations:
        path, value = operation.get("path"), operation.get("value")
        if isinstance(path, str) and "value" in operation:
            operation["value"] = _value(_last(path), _truth(value) if _last(path).endswith(".primary") else value)
        elif isinstance(value, dict) and not path:
            operation["value"] = _plain(value)
    return [one for operation in operations for one in _emptied(operation)]
