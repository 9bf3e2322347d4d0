"""The admin API's door: RFC 9457 problems, ETags, and lists that go on from a cursor.

Owns how `/api/v1` speaks; which resources there are is its neighbours'. An ETag is the digest of what is shown.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from flask import Response, request
from marshmallow import Schema

from broker import running
from broker.context import current_request_id
from broker.db import db
from broker.doors import Door, json_body
from broker.errors import BadRequest, PreconditionFailed, Problem, ValidationFailed

DEFAULT_LIMIT, LARGEST_LIMIT = 50, 200
PREFIX = "/api/v1"


def render(problem: Problem) -> Response:
    body: dict[str, Any] = {
        "type": f"urn:scaikey:problem:{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        "request_id": current_request_id(),
    }
    if problem.errors:
        body["errors"] = problem.errors
    return Response(orjson.dumps(body), problem.status, mimetype="application/problem+json")


api = Door("api", url_prefix=PREFIX, render=render)


def body() -> dict[str, Any]:
    """The request's JSON object; an empty body is an empty one."""
    if not request.get_data() and not request.content_type:
        return {}
    value = json_body()
    if not isinstance(value, dict):
        raise BadRequest("The body must be a JSON object")
    return value


def json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status, headers, mimetype="application/json")


def nothing() -> Response:
    return Response(status=204)


def show(shape: type[Schema], row: object, status: int = 200, **besides: Any) -> Response:
    """One resource with its ETag; `besides` is told this once and is not part of it."""
    return tagged(shape().dump(row), status, **besides)


def tagged(shown: Mapping[str, Any], status: int = 200, **besides: Any) -> Response:
    """An answer with the ETag of what it shows; `besides` is not part of it."""
    response = json({**shown, **besides}, status)
    response.set_etag(_digest(shown))
    return response


def created(shape: type[Schema], row: object, path: str, **besides: Any) -> Response:
    response = show(shape, row, 201, **besides)
    response.headers["Location"] = f"{running.config().base_url}{PREFIX}{path}"
    return response


def check_if_match(shape: type[Schema], row: object) -> None:
    """Raises PreconditionFailed when the caller has seen another state than the row's."""
    if request.headers.get("If-Match"):
        check_seen(shape().dump(row))


def check_seen(shown: Mapping[str, Any]) -> None:
    """Raises PreconditionFailed when `If-Match` names another state than this."""
    if request.headers.get("If-Match") and not request.if_match.contains_weak(_digest(shown)):
        raise PreconditionFailed


def _digest(shown: Any) -> str:
    return hashlib.sha256(orjson.dumps(shown, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


def listed(
    statement: sa.Select[Any],
    show_row: type[Schema] | Callable[[Any], Any],
    key: Sequence[Any],
    *,
    filters: Mapping[str, Callable[[str], sa.ColumnElement[bool]]] | None = None,
    newest_first: bool = False,
) -> Response:
    """One page. `key` orders the rows and is unique among them; `filters` are the query parameters besides paging."""
    rows, following = page(statement, key, filters=filters, newest_first=newest_first)
    dump = show_row().dump if isinstance(show_row, type) else show_row
    return json({"items": [dump(row) for row in rows], "next_cursor": following})


def page(
    statement: sa.Select[Any],
    key: Sequence[Any],
    *,
    filters: Mapping[str, Callable[[str], sa.ColumnElement[bool]]] | None = None,
    newest_first: bool = False,
    cursor: str | None = None,
) -> tuple[Sequence[Any], str | None]:
    """The rows of one page and the cursor of the next, as the request asks."""
    filters = filters or {}
    unknown = set(request.args) - set(filters) - {"limit", "cursor"}
    if unknown:
        raise BadRequest(f"Unknown query parameter: {', '.join(sorted(unknown))}")
    for name, condition in filters.items():
        if name in request.args:
            statement = statement.where(condition(request.args[name]))
    limit = _limit()
    cursor = cursor or request.args.get("cursor")
    if cursor is not None:
        here = sa.tuple_(*key)
        there = sa.tuple_(
            *(sa.literal(value, column.type) for value, column in zip(_read(cursor, key), key, strict=True))
        )
        statement = statement.where(here < there if newest_first else here > there)
    order = [column.desc() if newest_first else column for column in key]
    rows = db.session().scalars(statement.order_by(*order).limit(limit + 1)).all()
    following = None
    if len(rows) > limit:
        last = rows[limit - 1]
        following = _written([getattr(last, column.key) for column in key])
    return rows[:limit], following


def _limit() -> int:
    text = request.args.get("limit", str(DEFAULT_LIMIT))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise ValidationFailed(errors={"limit": [f"Must be a whole number from 1 to {LARGEST_LIMIT}."]})
    return min(int(text), LARGEST_LIMIT)


def _written(values: list[Any]) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(values)).decode().rstrip("=")


def _read(cursor: str, key: Sequence[Any]) -> list[Any]:
    try:
        values = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError):
        values = None
    fits = isinstance(values, list) and len(values) == len(key)
    if not fits or not all(type(value) is column.type.python_type for value, column in zip(values, key, strict=True)):
        raise BadRequest("The cursor is not one of this list")
    return list(values)
