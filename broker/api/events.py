"""`/events`: the audit log of a tenant, newest first; as JSON pages or as one stream of lines.

What is recorded, and when, is `broker.events`'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import orjson
import sqlalchemy as sa
from flask import Response, request, stream_with_context
from marshmallow import Schema

from broker.api.door import api, listed, page
from broker.api.shapes import Instant, fields
from broker.db import unit
from broker.doors import About, scope
from broker.errors import ValidationFailed
from broker.models import Event
from broker.policy import Action

LINES = "application/x-ndjson"


class ActorShape(Schema):
    kind = fields.String(attribute="actor_kind")
    id = fields.String(attribute="actor_id")
    credential_id = fields.String()


class ResourceShape(Schema):
    type = fields.String(attribute="resource_type")
    id = fields.String(attribute="resource_id")


class EventShape(Schema):
    id = fields.String()
    name = fields.String()
    actor = fields.Function(lambda event: ActorShape().dump(event))
    resource = fields.Function(lambda event: ResourceShape().dump(event))
    changed = fields.Raw()
    request_id = fields.String()
    occurred_at = Instant()


def _named(pattern: str) -> sa.ColumnElement[bool]:
    if pattern.endswith(".*"):
        start = pattern[:-1]
        return sa.and_(Event.name >= start, Event.name < start[:-1] + "/")
    return Event.name == pattern


def _changed(path: str) -> sa.ColumnElement[bool]:
    return Event.changed.op("?")(path)


def _moment(name: str, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValidationFailed(errors={name: ["Must be a moment like 2026-01-31T12:00:00Z."]})
    return moment


FILTERS: dict[str, Callable[[str], sa.ColumnElement[bool]]] = {
    "name": _named,
    "actor": lambda actor: Event.actor_id == actor,
    "resource": lambda resource: Event.resource_id == resource,
    "resource_type": lambda kind: Event.resource_type == kind,
    "changed": _changed,
    "request_id": lambda request_id: Event.request_id == request_id,
    "occurred_from": lambda text: Event.occurred_at >= _moment("occurred_from", text),
    "occurred_before": lambda text: Event.occurred_at < _moment("occurred_before", text),
}

_TOLD = {
    "name": "Only events of this name; `user.*` for all of a kind.",
    "actor": "Only what this actor did.",
    "resource": "Only what happened to this resource.",
    "resource_type": "Only what happened to resources of this type.",
    "changed": "Only events that changed this attribute.",
    "request_id": "Only what this request did.",
    "occurred_from": "At this moment or after it.",
    "occurred_before": "Before this moment.",
}


@api.route("/events", action=Action.EVENT_READ, about=About(gives=EventShape, listed=True, query=_TOLD))
def list_events() -> Response:
    """The audit log. With `Accept: application/x-ndjson` everything from the cursor on, one event per line."""
    statement = sa.select(Event)
    if request.accept_mimetypes.best_match([LINES, "application/json"], "application/json") != LINES:
        return listed(statement, EventShape, [Event.no], filters=FILTERS, newest_first=True)
    first = page(statement, [Event.no], filters=FILTERS, newest_first=True)
    lines = _lines(first[0])
    return Response(stream_with_context(_stream(lines, first[1])), mimetype=LINES)


def _stream(first: bytes, cursor: str | None) -> Iterator[bytes]:
    """Page by page, each in a transaction of its own: none is open while a slow reader takes his time."""
    yield first
    here = scope()
    while cursor is not None:
        with unit(here):
            rows, cursor = page(sa.select(Event), [Event.no], filters=FILTERS, newest_first=True, cursor=cursor)
            lines = _lines(rows)
        yield lines


def _lines(rows: Any) -> bytes:
    return b"".join(orjson.dumps(EventShape().dump(event)) + b"\n" for event in rows)
