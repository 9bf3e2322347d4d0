"""The plain questions, answered before the framework is asked.

A resource by its id and a page of one type by index are the most frequent questions of a client, and Flask costs more
than the answer does. Owns nothing of its own: who asks, whether he may and what he is told is said by the functions the
door itself calls. Whatever is not a plain success (another header, a parameter, a refusal, a failure) is
None, and the door begins anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from sqlalchemy.exc import SQLAlchemyError

from broker import access, allowance, logs, running
from broker.context import Scope
from broker.db import hot
from broker.errors import Problem
from broker.policy import Action, authorize

from . import reading
from .asking import from_arguments, page_by_index
from .declared import models_of
from .dialects import STRICT
from .filters import condition
from .resources import Projection, etag, location
from .schemas import MEDIA_TYPE, TYPE_AT
from .sorting import order

_UNUSUAL = frozenset({"HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH", "HTTP_X_TENANT_ID", "HTTP_X_PARTNER_ID"})


def answer(environ: Mapping[str, Any]) -> _Found | None:
    """Headers and body of the 200 for this GET, or None where the door has to look at it. Needs the app's context."""
    match environ["PATH_INFO"].split("/"):
        case ["", "scim", "v2", slug, endpoint, id] if not environ.get("QUERY_STRING"):
            pass
        case ["", "scim", "v2", slug, endpoint] if _is_readable(environ.get("QUERY_STRING", "")):
            id = None
        case _:
            return None
    if (name := TYPE_AT.get(endpoint)) is None or not _UNUSUAL.isdisjoint(environ):
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
    base = f"{running.config().base_url}/scim/v2/{slug}"
    try:
        if id is None:
            found = _page(scope, base, name, environ.get("QUERY_STRING", ""))
        else:
            found = _one(scope.tenant_id, base, name, id)
    except (Problem, SQLAlchemyError, UnicodeError):
        found = None
    if found is None:
        allowance.give_back(actor)  # the door takes it again
        return None
    logs.bind(actor=actor.id, tenant=scope.tenant_id)
    headers, body = found
    return [("Content-Type", MEDIA_TYPE), ("Content-Length", str(len(body))), *headers], body


_Found = tuple[list[tuple[str, str]], bytes]


def _one(tenant: str, base: str, resource_type: str, id: str) -> _Found | None:
    row, body = reading.one(hot, tenant, base, Projection(resource_type), id)
    if row.more:
        return None
    return [("ETag", etag(row.version)), ("Content-Location", location(base, resource_type, id))], body


def _is_readable(asked: str) -> bool:
    """Whether a query string is read here as the framework reads it, and asks for no walk in so many words."""
    return asked.isascii() and "cursor" not in asked


def _page(scope: Scope, base: str, resource_type: str, asked: str) -> _Found | None:
    pairs = parse_qsl(asked, keep_blank_values=True, errors="strict")
    assert scope.tenant_id is not None
    models = models_of(scope)
    query = from_arguments(dict(reversed(pairs)))  # of a parameter said twice, the first
    if query.cursor is not None:
        return None  # a walk, by a name in percent-encoding
    if query.filter is not None and condition(resource_type, query.filter, models).reads_document:
        return None  # it may take too long, and then it is not to be done twice
    if query.sort_by is not None and order(resource_type, query.sort_by, query.descending, models).reads_document:
        return None
    return [], page_by_index(hot, scope.tenant_id, base, resource_type, query, models)
