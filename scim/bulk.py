"""Many writes in one request (RFC 7644 §3.7).

Owns the bulk message: its limits, the order that its bulkIds ask for, and its answer. Each operation is what it would
be alone: the same code, a transaction of its own, its own events; one that fails leaves the others alone. A resource
that names another of the request is made after it; where they name one another, what cannot be said yet is added once
all of them are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson
from scim2_server.conditions import Conditions

from broker import allowance
from broker.context import current_actor
from broker.db import in_one_transaction, unit
from broker.doors import problem_of
from broker.errors import BadRequest, Conflict, NotFound, PayloadTooLarge, Problem

from .operations import Done, Writer, refused
from .patch import MESSAGE as PATCH_MESSAGE
from .problems import body_of, status_of
from .resources import Projection, etag, location
from .schemas import ENDPOINTS, MAX_BYTES, MAX_OPERATIONS

REQUEST = "urn:ietf:params:scim:api:messages:2.0:BulkRequest"
RESPONSE = "urn:ietf:params:scim:api:messages:2.0:BulkResponse"
_REFERENCE = "bulkId:"
_LONGEST_METHOD = 20
_TYPES: Mapping[str, str] = {endpoint: name for name, endpoint in ENDPOINTS.items()}


@dataclass(slots=True)
class Operation:
    """One operation as the client sent it, and what came of it."""

    method: str
    path: str
    bulk_id: str | None
    version: str | None
    data: Any
    refusal: Problem | None = None
    """Why it cannot even be tried."""
    later: list[dict[str, Any]] = field(default_factory=list)
    """PATCH operations for what could not be said when the resource was made."""
    status: int = 0
    id: str | None = None
    tag: str | None = None
    error: bytes | None = None

    @property
    def endpoint(self) -> str:
        return self.path.strip("/").partition("/")[0]

    @property
    def target(self) -> str:
        return self.path.strip("/").partition("/")[2]


def run(writer: Writer, body: Any) -> bytes:
    """Do a bulk request; returns its answer. Raises BadRequest, and PayloadTooLarge for too many operations."""
    operations, most_errors = _read(body)
    allowance.charge(current_actor(), len(operations) - 1)
    creations: dict[str, Operation] = {}
    for operation in operations:
        if operation.method == "POST" and operation.bulk_id is not None:
            if operation.bulk_id in creations:
                operation.refusal = BadRequest("The bulkId names two resources", scim_type="invalidValue")
            else:
                creations[operation.bulk_id] = operation
    errors = 0
    for operation in _in_order(operations, creations):
        if most_errors is not None and errors >= most_errors:
            break
        _attempt(operation, lambda one=operation: _do(writer, one, creations), writer)  # type: ignore[misc]
        errors += operation.status >= 400
    for operation in operations:
        if operation.later and operation.status < 400:
            _attempt(operation, lambda one=operation: _complete(writer, one, creations), writer)  # type: ignore[misc]
    return orjson.dumps({
        "schemas": [RESPONSE],
        "Operations": [_outcome(writer, one) for one in operations if one.status],
    })  # fmt: skip


def _read(body: Any) -> tuple[list[Operation], int | None]:
    if not isinstance(body, dict):
        raise BadRequest("A bulk request is a JSON object", scim_type="invalidSyntax")
    said = {name.lower(): value for name, value in body.items()}
    schemas, found, most_errors = said.get("schemas"), said.get("operations"), said.get("failonerrors")
    if not isinstance(schemas, list) or REQUEST not in schemas:
        raise BadRequest(f"The schema of a bulk request is {REQUEST}", scim_type="invalidSyntax")
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise BadRequest("Operations is a list of operations", scim_type="invalidSyntax")
    if most_errors is not None and (isinstance(most_errors, bool) or not isinstance(most_errors, int)):
        raise BadRequest("failOnErrors is a whole number", scim_type="invalidValue")
    if len(found) > MAX_OPERATIONS:
        raise PayloadTooLarge(f"A bulk request has at most {MAX_OPERATIONS} operations (maxOperations)")
    return [_operation(one) for one in found], None if most_errors is None else max(1, most_errors)


def _operation(found: Mapping[str, Any]) -> Operation:
    said = {name.lower(): value for name, value in found.items()}
    texts = {name: said.get(name) for name in ("method", "path", "bulkid", "version")}
    wrong = [name for name, value in texts.items() if value is not None and not isinstance(value, str)]
    method, path, bulk_id, version = (value if isinstance(value, str) else None for value in texts.values())
    operation = Operation((method or "").upper(), path or "", bulk_id, version, said.get("data"))
    if wrong:
        operation.refusal = BadRequest(f"{', '.join(wrong)}: must be text", scim_type="invalidSyntax")
    elif operation.method not in ("POST", "PUT", "PATCH", "DELETE"):
        operation.refusal = BadRequest("method is POST, PUT, PATCH or DELETE", scim_type="invalidSyntax")
    elif operation.method == "POST" and not bulk_id:
        operation.refusal = BadRequest("A POST needs a bulkId", scim_type="invalidSyntax")
    elif operation.endpoint not in _TYPES or bool(operation.target) is (operation.method == "POST"):
        operation.refusal = NotFound("path names no resource of this server")
    elif operation.method != "DELETE" and operation.data is None:
        operation.refusal = BadRequest("The operation needs data", scim_type="invalidSyntax")
    elif len(orjson.dumps(operation.data)) > MAX_BYTES:
        operation.refusal = PayloadTooLarge(f"The data of an operation is larger than {MAX_BYTES} bytes")
    return operation


def _in_order(operations: list[Operation], creations: Mapping[str, Operation]) -> Iterator[Operation]:
    """As they came, but what others name before them. A circle is entered where it is met."""
    met: set[int] = set()

    def named(operation: Operation) -> Iterator[Operation]:
        return (creations[one] for one in _references([operation.data, operation.path]) if one in creations)

    for first in operations:
        if id(first) in met:
            continue
        met.add(id(first))
        stack = [(first, named(first))]
        while stack:
            operation, others = stack[-1]
            other = next((one for one in others if id(one) not in met), None)
            if other is None:
                stack.pop()
                yield operation
            else:
                met.add(id(other))
                stack.append((other, named(other)))


def _attempt(operation: Operation, deed: Callable[[], Done], writer: Writer) -> None:
    try:
        done = in_one_transaction(partial(unit, writer.scope), deed)
    except Exception as error:
        problem = problem_of(error)
        operation.status, operation.error, operation.tag = status_of(problem)[0], body_of(problem), None
        refused(
            writer.scope,
            current_actor(),
            operation.method[:_LONGEST_METHOD],
            _TYPES.get(operation.endpoint),
            operation.id or operation.target,
            problem,
        )
        return
    operation.status = operation.status or done.status
    if done.row is not None:
        operation.id, operation.tag = done.row.id, etag(done.row.version)


def _do(writer: Writer, operation: Operation, creations: Mapping[str, Operation]) -> Done:
    if operation.refusal is not None:
        raise operation.refusal
    target, data = _resolved(operation.target, creations), _resolved(operation.data, creations)
    operation.later = []
    if missing := list(_references([target, data])):
        if operation.method != "POST" or any(_is_lost(one, creations) for one in missing):
            raise Conflict(f"No resource was made with the bulkId {missing[0]}")
        data, operation.later = _parted(data)
    # Nothing of the resource is shown, so nothing but its row is read.
    wanted = Projection(_TYPES[operation.endpoint], {"id": {}})
    conditions = Conditions(operation.version, None)
    match operation.method:
        case "POST":
            return writer.create(wanted, data)
        case "PUT":
            return writer.replace(wanted, target, data, conditions)
        case "PATCH":
            return writer.modify(wanted, target, data, conditions)
    operation.id = target
    return writer.remove(wanted.resource_type, target, conditions)


def _complete(writer: Writer, operation: Operation, creations: Mapping[str, Operation]) -> Done:
    said = _resolved(operation.later, creations)
    if missing := list(_references(said)):
        raise Conflict(f"Made, but without what names the bulkId {missing[0]}: no resource was made with it")
    assert operation.id is not None
    wanted = Projection(_TYPES[operation.endpoint], {"id": {}})
    return writer.modify(wanted, operation.id, {"schemas": [PATCH_MESSAGE], "Operations": said}, Conditions())


def _is_lost(bulk_id: str, creations: Mapping[str, Operation]) -> bool:
    """Whether no resource will be made with it any more."""
    return bulk_id not in creations or creations[bulk_id].status >= 400


def _references(value: Any) -> Iterator[str]:
    """The bulkIds that a value names."""
    if isinstance(value, str):
        yield from (part.removeprefix(_REFERENCE) for part in value.split("/") if part.startswith(_REFERENCE))
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _references(inner)


def _resolved(value: Any, creations: Mapping[str, Operation]) -> Any:
    """The value with the ids of the resources that are made by now."""
    if isinstance(value, str):
        if _REFERENCE not in value:
            return value
        return "/".join(
            made.id
            if part.startswith(_REFERENCE) and (made := creations.get(part.removeprefix(_REFERENCE))) and made.id
            else part
            for part in value.split("/")
        )
    if isinstance(value, list):
        return [_resolved(inner, creations) for inner in value]
    if isinstance(value, dict):
        return {name: _resolved(inner, creations) for name, inner in value.items()}
    return value


def _parted(data: Any, prefix: str = "") -> tuple[Any, list[dict[str, Any]]]:
    """What of a new resource can be said now, and the additions for what cannot."""
    now: dict[str, Any] = {}
    later: list[dict[str, Any]] = []
    for name, value in data.items():
        if not any(_references(value)):
            now[name] = value
        elif isinstance(value, dict) and name.lower().startswith("urn:"):
            inner, rest = _parted(value, f"{name}:")
            later += rest
            if inner:
                now[name] = inner
        else:
            if isinstance(value, list):
                now[name] = [one for one in value if not any(_references(one))]
                value = [one for one in value if any(_references(one))]
            later.append({"op": "add", "path": prefix + name, "value": value})
    return now, later


def _outcome(writer: Writer, operation: Operation) -> dict[str, Any]:
    said: dict[str, Any] = {"method": operation.method}
    if operation.bulk_id is not None:
        said["bulkId"] = operation.bulk_id
    if operation.id is not None:
        said["location"] = location(writer.base, _TYPES[operation.endpoint], operation.id)
    elif operation.method != "POST" and operation.endpoint in _TYPES:
        said["location"] = location(writer.base, _TYPES[operation.endpoint], operation.target)
    if operation.tag is not None:
        said["version"] = operation.tag
    said["status"] = str(operation.status)
    if operation.error is not None:
        said["response"] = orjson.Fragment(operation.error)
    return said
