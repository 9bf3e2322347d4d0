"""`/docs`: the API reference, made on the server from the OpenAPI document.

What is described, and how, is `broker.openapi`'s; this only lays it out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flask import Response
from markupsafe import Markup

from broker import openapi
from broker.doors import About
from broker.pages.door import door, page
from broker.policy import Action

_ORDER = ("get", "post", "put", "patch", "delete")


@dataclass(frozen=True)
class Field:
    name: str
    type: str
    required: bool
    note: str


@dataclass(frozen=True)
class Operation:
    id: str
    method: str
    path: str
    summary: str
    description: str
    parameters: list[Field]
    takes: list[Field]
    gives: list[Field]
    status: str
    many: bool


@door.route("/docs", action=Action.NOTHING_SECRET, context="none", about=About(announced=False))
def read_docs() -> Response:
    """The API reference."""
    document = openapi.document()
    groups: dict[str, list[Operation]] = {}
    for path, methods in document["paths"].items():
        for method in _ORDER:
            if method in methods:
                groups.setdefault(methods[method]["tags"][0], []).append(
                    _operation(document, method, path, methods[method])
                )
    ordered = sorted(groups.items(), key=lambda group: (group[0] == "SCIM", group[0]))
    return page("docs.html", info=document["info"], server=document["servers"][0]["url"], groups=ordered, prose=_prose)


def _prose(text: str) -> Markup:
    """A description with its `code` set as code."""
    parts = text.split("`")
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))


def _operation(document: Mapping[str, Any], method: str, path: str, said: Mapping[str, Any]) -> Operation:
    status, answer = next((status, answer) for status, answer in said["responses"].items() if status != "default")
    shown = _content(answer)
    many = "items" in shown.get("properties", {}) and "next_cursor" in shown["properties"]
    return Operation(
        id=said["operationId"],
        method=method.upper(),
        path=path,
        summary=said["summary"],
        description=said.get("description", ""),
        parameters=[_parameter(_resolved(document, one)) for one in said["parameters"]],
        takes=list(_fields(document, _content(said.get("requestBody", {})), writing=True)),
        gives=list(_fields(document, shown["properties"]["items"]["items"] if many else shown, writing=False)),
        status=status,
        many=many,
    )


def _content(part: Mapping[str, Any]) -> Mapping[str, Any]:
    media: Mapping[str, Any] = next(iter(part.get("content", {}).values()), {})
    schema: Mapping[str, Any] = media.get("schema", {})
    return schema


def _parameter(said: Mapping[str, Any]) -> Field:
    return Field(said["name"], said["in"], bool(said.get("required")), _note({**said["schema"], **said}))


def _fields(document: Mapping[str, Any], schema: Mapping[str, Any], *, writing: bool) -> Iterator[Field]:
    found = _resolved(document, schema)
    required = set(found.get("required", ()))
    for name, field in found.get("properties", {}).items():
        if field.get("readOnly" if writing else "writeOnly"):
            continue
        yield Field(name, _type(document, field), writing and name in required, _note(field, limits=writing))


def _type(document: Mapping[str, Any], field: Mapping[str, Any]) -> str:
    inner = _resolved(document, field)
    kind = inner.get("type", "value")
    kind = " or ".join(kind) if isinstance(kind, list) else kind
    if kind == "array":
        return f"list of {_type(document, inner.get('items', {}))}"
    if inner.get("format"):
        kind = f"{kind} ({inner['format']})"
    if inner is not field and "properties" in inner:
        kind = f"object of {', '.join(inner['properties'])}"
    return str(kind)


def _note(field: Mapping[str, Any], *, limits: bool = True) -> str:
    notes = [field.get("description", "")]
    if choices := [str(choice) for choice in field.get("enum", ()) if choice is not None]:
        notes.append(f"One of {', '.join(choices)}.")
    elif limits and "maxLength" in field:
        notes.append(f"At most {field['maxLength']} characters.")
    return " ".join(note for note in notes if note)


def _resolved(document: Mapping[str, Any], part: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = part.get("$ref") or next((one["$ref"] for one in part.get("allOf", ()) if "$ref" in one), None)
    if reference is None:
        return part
    found: Any = document
    for name in reference.removeprefix("#/").split("/"):
        found = found[name]
    resolved: Mapping[str, Any] = found
    return resolved
