"""The plainest question, answered before the framework is asked.

A resource by its id, without conditions and without wishes, is the most frequent question of a client, and Flask
costs more than the answer does. Owns nothing of its own: who asks, whether he may and what he is told is said by the
functions the door itself calls. Whatever is not a plain success (another header, a parameter, a refusal, a failure) is
None, and the door begins anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from broker import access, allowance, logs, running
from broker.db import hot
from broker.errors import Problem
from broker.policy import Action, authorize

from . import reading
from .dialects import STRICT
from .resources import Projection, etag, location
from .schemas import MEDIA_TYPE, TYPE_AT

_UNUSUAL = frozenset({"HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH", "HTTP_X_TENANT_ID", "HTTP_X_PARTNER_ID"})


def answer(environ: Mapping[str, Any]) -> tuple[list[tuple[str, str]], bytes] | None:
    """Headers and body of the 200 for this GET, or None where the door has to look at it. Needs the app's context."""
    _, *path = environ["PATH_INFO"].split("/")
    if len(path) != 5 or path[:2] != ["scim", "v2"]:
        return None
    slug, endpoint, id = path[2:]
    if (name := TYPE_AT.get(endpoint)) is None or environ.get("QUERY_STRING") or not _UNUSUAL.isdisjoint(environ):
        return None
    try:
        actor = access.authenticate(environ.get("HTTP_AUTHORIZATION"))
        if actor.kind == "anonymous" or actor.mode == STRICT or access.use_is_due(actor, noting=False):
            return None
        scope = access.scope_for_slug(slug, actor)
        if scope is None or scope.tenant_id is None:
            return None
        authorize(actor, Action.DIRECTORY_READ, scope)
        allowance.take(actor)
    except (Problem, SQLAlchemyError, UnicodeError):
        return None
    try:
        base = f"{running.config().base_url}/scim/v2/{slug}"
        row, body = reading.one(hot, scope.tenant_id, base, Projection(name), id)
        unusual = row.more
    except (Problem, SQLAlchemyError, UnicodeError):
        unusual = True
    if unusual:
        allowance.give_back(actor)  # the door takes it again
        return None
    logs.bind(actor=actor.id, tenant=scope.tenant_id)
    headers = [
        ("Content-Type", MEDIA_TYPE),
        ("Content-Length", str(len(body))),
        ("ETag", etag(row.version)),
        ("Content-Location", location(base, name, id)),
    ]
    return headers, body
