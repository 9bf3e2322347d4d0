"""`/sessions`: the browsers a person is signed in with, one's own or, for administrators, somebody else's.

What a session is and what ends with it is `broker.sign_in.sessions`'.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from flask import Response, request
from marshmallow import Schema

from broker import access, endings, settings
from broker.api.door import api, check_if_match, json, nothing, page, show
from broker.api.shapes import Shape, auto_field, fields
from broker.context import current_actor
from broker.db import current_scope, db
from broker.doors import About
from broker.errors import Forbidden, NotFound
from broker.models import Grant, Session
from broker.policy import Action, Where, at_least_as_wide, authorize


class SessionShape(Shape):
    class Meta(Shape.Meta):
        model = Session

    id = auto_field(dump_only=True)
    user_id = auto_field(dump_only=True)
    amr = fields.List(fields.String(), dump_only=True)
    applications = fields.List(
        fields.String(), dump_only=True, metadata={"description": "Ids of those that were opened with it."}
    )
    last_seen_at = auto_field(dump_only=True)
    created_at = auto_field(dump_only=True)
    updated_at = auto_field("last_seen_at", dump_only=True)


_SHAPE: type[Schema] = SessionShape


@api.route(
    "/sessions",
    action=Action.SESSION_READ,
    context="own",
    about=About(gives=SessionShape, listed=True, query={"user_id": "Another person's sessions."}),
)
def list_sessions() -> Response:
    """The sessions that hold at this moment: your own or, for administrators, those of `user_id`."""
    user_id = request.args.get("user_id", current_actor().id)
    if not _own(user_id):
        authorize(current_actor(), Action.TOKEN_FOR_OTHERS_READ, current_scope())
    statement = sa.select(Session).where(Session.user_id == user_id, *_holding())
    # Filtered above already: here it only becomes a known parameter.
    rows, following = page(statement, [Session.id], filters={"user_id": lambda _: sa.true()})
    return json({"items": _SHAPE().dump(_shown(rows), many=True), "next_cursor": following})


@api.route("/sessions/<session_id>", action=Action.SESSION_READ, context="own", about=About(gives=SessionShape))
def read_session(session_id: str) -> Response:
    """One session."""
    session = _session(session_id, Action.SESSION_READ)
    if not _own(session.user_id):
        authorize(current_actor(), Action.TOKEN_FOR_OTHERS_READ, current_scope())
    return show(SessionShape, _shown([session])[0])


@api.route(
    "/sessions/<session_id>", methods=["DELETE"], action=Action.SESSION_WRITE, context="own", about=About(status=204)
)
def end_session(session_id: str) -> Response:
    """End a session everywhere: its browser is signed out, and no application keeps a token that came of it."""
    session = _session(session_id, Action.SESSION_WRITE)
    if not _own(session.user_id):
        authorize(current_actor(), Action.TOKEN_FOR_OTHERS_WRITE, current_scope())
        if not at_least_as_wide(current_actor(), access.grants_of(session.user_id), Where.of(current_scope())):
            raise Forbidden("The person holds a wider role than yours")
    check_if_match(SessionShape, _shown([session])[0])
    reason = "ended_by_person" if _own(session.user_id) else "ended_by_administrator"
    endings.end_session(session.id, reason, everything=True)
    return nothing()


def _own(user_id: str) -> bool:
    actor = current_actor()
    return user_id == actor.id and actor.tenant_id == current_scope().tenant_id


def _session(session_id: str, action: Action) -> Session:
    session = access.fetch(Session, session_id, to=action, lock=not action.endswith(".read"))
    if session.ended_at is not None or session.expires_at <= datetime.now(UTC):
        raise NotFound
    return session


def _holding() -> Sequence[sa.ColumnElement[bool]]:
    now = datetime.now(UTC)
    idle = timedelta(seconds=settings.of(current_scope(), "session_idle_timeout"))
    return Session.ended_at.is_(None), Session.expires_at > now, Session.last_seen_at > now - idle


def _shown(rows: Sequence[Session]) -> list[dict[str, Any]]:
    grants = db.session().execute(
        sa.select(Grant.session_id, Grant.application_id)
        .where(Grant.session_id.in_([row.id for row in rows]), Grant.ended_at.is_(None))
        .distinct()
        .order_by(Grant.application_id)
    )
    applications: dict[str, list[str]] = {}
    for session_id, application_id in grants:
        applications.setdefault(session_id, []).append(application_id)
    return [
        {
            "id": row.id,
            "user_id": row.user_id,
            "amr": row.amr,
            "applications": applications.get(row.id, []),
            "last_seen_at": row.last_seen_at,
            "created_at": row.created_at,
        }
        for row in rows
    ]
