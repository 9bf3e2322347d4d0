"""The OpenAPI 3.1 description of every announced route, made from the routes themselves.

Paths, methods, parameters, bodies and the deed each needs come from the doors; shapes from the marshmallow schemas,
and with them from the columns. SCIM's resources are told summarily: their schemas are at `/Schemas`.
"""

from __future__ import annotations

import re
from importlib.metadata import version
from typing import Any, cast

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Flask, current_app
from marshmallow import Schema

from broker import running
from broker.doors import Route, routes

_VARIABLE = re.compile(r"<(?:([a-z]+)(?:\(([^)]*)\))?:)?([a-z_]+)>")
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "request_id": {"type": "string"},
        "errors": {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}},
    },
}
_DESCRIPTION = """\
Administration of partners, tenants, applications and everything between upstreams and applications, as JSON; people,
groups and organisational units as SCIM 2.0.

Send `Authorization: Bearer` with a personal access token whose audience is `scaikey`. An administrator of a tenant acts
in that tenant. Partner and super admins name the tenant with `X-Tenant-ID` or under `/api/v1/t/{tenant_id}/`.

Lists take `limit` (at most 200) and go on from `next_cursor`. Changes honour `If-Match` against the `ETag`."""
_PAGING = {
    "limit": "How many items at most; 50 unless given, 200 at most.",
    "cursor": "`next_cursor` of the page before.",
}


def document() -> dict[str, Any]:
    """The description, built once for each app."""
    app = current_app
    built = app.extensions.get("scaikey.openapi")
    if built is None:
        built = app.extensions["scaikey.openapi"] = _build(app)
    return cast(dict[str, Any], built)


def _build(app: Flask) -> dict[str, Any]:
    plugin = MarshmallowPlugin(schema_name_resolver=_name)
    spec = APISpec(
        title="ScaiKey",
        version=version("scaikey"),
        openapi_version="3.1.0",
        plugins=[plugin],
        info={"description": _DESCRIPTION},
        servers=[{"url": running.config().base_url}],
        security=[{"bearer": []}],
    )
    spec.components.security_scheme("bearer", {"type": "http", "scheme": "bearer"})
    spec.components.schema("Problem", _PROBLEM)
    spec.components.response(
        "Problem",
        {
            "description": "The request was refused; `code` says why.",
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        },
    )
    for name, text in {
        "X-Tenant-ID": "The tenant to act in; for partner and super admins.",
        "X-Partner-ID": "The partner to act for; for super admins.",
        "If-Match": "The ETag of the state the change is meant for.",
    }.items():
        spec.components.parameter(
            name, "header", {"name": name, "description": text, "schema": {"type": "string"}, "required": False}
        )
    for route in routes(app):
        if route.deed.about.announced and "<chosen_tenant>" not in route.rule:
            path = _VARIABLE.sub(r"{\3}", route.rule)
            spec.path(path=path, operations={method.lower(): _operation(route, method) for method in route.methods})
    return spec.to_dict()


def _operation(route: Route, method: str) -> dict[str, Any]:
    about = route.deed.about
    sentence, _, rest = (route.deed.view.__doc__ or "").strip().partition("\n")
    operation: dict[str, Any] = {
        "operationId": f"{route.endpoint.partition('.')[2].replace('broker_api_', '')}_{method.lower()}",
        "summary": sentence.strip(),
        "tags": [_tag(route)],
        "parameters": _parameters(route, method),
        "responses": {str(about.status): _answer(route), "default": "Problem"},
        "x-action": route.action.value,
    }
    if rest.strip():
        operation["description"] = " ".join(rest.split())
    if about.takes is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {_media(route): {"schema": _schema(about.takes, partial=method == "PATCH")}},
        }
    return operation


def _parameters(route: Route, method: str) -> list[Any]:
    parameters: list[Any] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", **({"enum": choices.split(",")} if kind == "any" else {})},
        }
        for kind, choices, name in _VARIABLE.findall(route.rule)
    ]
    query = {**route.deed.about.query, **(_PAGING if route.deed.about.listed else {})}
    parameters += [
        {
            "name": name,
            "in": "query",
            "description": text,
            "schema": {"type": "integer", "minimum": 1, "maximum": 200} if name == "limit" else {"type": "string"},
        }
        for name, text in query.items()
    ]
    if route.context in ("tenant", "own") and "<tenant_id>" not in route.rule:
        parameters.append("X-Tenant-ID")
    if route.context == "reach":
        parameters.append("X-Partner-ID")
    if method in ("PATCH", "PUT", "DELETE"):
        parameters.append("If-Match")
    return parameters


def _answer(route: Route) -> dict[str, Any]:
    about = route.deed.about
    if about.status == 204:
        return {"description": "Done."}
    schema = _schema(about.gives) if about.gives is not None else {"type": "object"}
    if about.listed:
        schema = {
            "type": "object",
            "required": ["items", "next_cursor"],
            "properties": {
                "items": {"type": "array", "items": schema},
                "next_cursor": {"type": ["string", "null"]},
            },
        }
    return {
        "description": "Made." if about.status == 201 else "The answer.",
        "content": {_media(route): {"schema": schema}},
    }


def _schema(shape: Any, *, partial: bool = False) -> Any:
    if isinstance(shape, type) and issubclass(shape, Schema):
        return shape(partial=True) if partial else shape
    return shape


def _name(shape: Any) -> str:
    """`ApplicationShape` is `Application`; a change's, of which nothing is required, `ApplicationChange`."""
    kind = shape if isinstance(shape, type) else type(shape)
    name: str = kind.__name__.removesuffix("Shape")
    return f"{name}Change" if not isinstance(shape, type) and shape.partial else name


def _tag(route: Route) -> str:
    parts = [part for part in route.rule.split("/") if part and not part.startswith("<")]
    return "SCIM" if parts[0] == "scim" else next((part for part in parts[2:]), "other")


def _media(route: Route) -> str:
    return "application/scim+json" if route.rule.startswith("/scim/") else "application/json"
