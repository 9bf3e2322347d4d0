"""The interoperability profile (draft-zollner-scim-interop-profile): what a `strict` credential is held to.

Owns what the profile refuses beyond the RFC and what it means otherwise: nothing undefined, a path in every operation
of a PATCH, filters of `eq` and `and`, and a complex attribute that is replaced is replaced whole. Everything else it
asks for holds in both modes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import scim2_models as scim
from pydantic import ValidationError
from scim2_models import path as grammar
from scim2_server.utils import parametrize

from broker.attributes import AD_GROUP, AD_USER, CORE_GROUP, CORE_USER, CUSTOM, ENTERPRISE, SCAIKEY_GROUP
from broker.errors import BadRequest

from .declared import OURS, Models, remembered
from .filters import condition
from .problems import refusal

MESSAGE = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
POLICY = scim.ScimPolicy()
_SCHEMAS = frozenset(
    urn.lower() for urn in (CORE_USER, CORE_GROUP, ENTERPRISE, AD_USER, AD_GROUP, SCAIKEY_GROUP, *CUSTOM.values())
)
_CONTEXTS = {"POST": scim.Context.RESOURCE_CREATION_REQUEST, "PUT": scim.Context.RESOURCE_REPLACEMENT_REQUEST}


def plain(resource_type: str, method: str, body: Any, models: Models = OURS) -> Any:
    """The body, with complex attributes removed before they are replaced. Raises BadRequest for what is not allowed."""
    if not isinstance(body, dict):
        raise BadRequest("A request is a JSON object", scim_type="invalidSyntax")
    if method != "PATCH":
        _check_names(models, resource_type, body, _CONTEXTS[method])
        return body
    key = next((name for name in body if name.lower() == "operations"), "Operations")
    operations = body.get(key)
    if not isinstance(operations, list):
        return body
    return {**body, key: [one for said in operations for one in _operations(models, resource_type, said)]}


@remembered(8)
def messages(models: Models, resource_type: str) -> type[scim.PatchOp[Any]]:
    """The model of a PATCH of the type."""
    return parametrize(scim.PatchOp, models[resource_type])


def check_filter(text: str) -> None:
    """Raises BadRequest for a filter with any other operator than `eq` and `and`."""
    try:
        node = scim.ScimFilter(text).ast
    except scim.SCIMException as error:
        raise refusal(error) from None
    if not _is_plain(node):
        raise BadRequest("The operators of a filter are eq and and", scim_type="invalidFilter")


def _is_plain(node: Any) -> bool:
    match node:
        case grammar.LogicalExpr():
            return node.op.value == "and" and all(_is_plain(term) for term in node.terms)
        case grammar.ValuePath():
            return _is_plain(node.val_filter)
        case grammar.Comparison():
            return node.op is grammar.CompareOperator.eq
    return False


def _operations(models: Models, resource_type: str, said: Any) -> Iterator[Any]:
    if not isinstance(said, dict):
        yield said
        return
    operation = {name.lower(): value for name, value in said.items()}
    path, deed, value = operation.get("path"), str(operation.get("op")).lower(), operation.get("value")
    if not isinstance(path, str) or not path.strip():
        raise BadRequest("Every operation of a PATCH has a path", scim_type="invalidSyntax")
    _check_selection(models, resource_type, path.strip(), deed)
    _check_operation(models, resource_type, {**operation, "op": deed})
    if isinstance(value, list):
        attribute = path.strip().rpartition(":")
        said = {attribute[2]: value}
        core = attribute[0].lower() in ("", CORE_USER.lower(), CORE_GROUP.lower())
        _check_names(models, resource_type, said if core else {attribute[0]: said}, None)
    if deed == "replace" and isinstance(value, dict) and path.strip().lower() not in _SCHEMAS:
        yield {"op": "remove", "path": path}
        operation["op"] = "add"
    yield operation


def _check_selection(models: Models, resource_type: str, path: str, deed: str) -> None:
    attribute, bracket, rest = path.partition("[")
    selected, closing, part = rest.rpartition("]")
    if not bracket:
        return
    if not closing:
        raise BadRequest(f"{path} is not a path", scim_type="invalidPath")
    try:
        check_filter(selected)
        condition(resource_type, f"{attribute}[{selected}]", models)
    except BadRequest as refused:
        raise BadRequest(refused.detail, scim_type="invalidSyntax") from None
    if not part and deed != "remove":
        raise BadRequest("A path with a filter names a part of the entry", scim_type="invalidPath")


def _check_operation(models: Models, resource_type: str, operation: Mapping[str, Any]) -> None:
    """Only what is undefined is refused here; what is wrong otherwise, the reading of the request says."""
    message = {"schemas": [MESSAGE], "Operations": [operation]}
    try:
        messages(models, resource_type).model_validate(
            message, scim_ctx=scim.Context.RESOURCE_PATCH_REQUEST, scim_policy=POLICY
        )
    except ValidationError as error:
        refused = refusal(error)
        if refused.scim_type == "invalidPath" or "not declared by" in (refused.detail or ""):
            raise BadRequest(refused.detail, scim_type="invalidSyntax") from None


def _check_names(models: Models, resource_type: str, document: Mapping[str, Any], context: scim.Context | None) -> None:
    """Only what is undefined is refused here; what is wrong otherwise, the reading of the request says."""
    try:
        models[resource_type].model_validate(document, scim_ctx=context, scim_policy=POLICY)
    except ValidationError as error:
        undefined = [one for one in error.errors() if one["type"] in ("extra_forbidden", "unknown_extension_schema")]
        if undefined:
            names = ", ".join(".".join(map(str, one["loc"])) or one["msg"] for one in undefined)
            raise BadRequest(f"Not defined by any schema: {names}", scim_type="invalidSyntax") from None
