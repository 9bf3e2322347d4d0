"""Whose page it is: the tenant named in the path, its brand, and its way of saying no.

What every page below `/t/{slug}` shares. A sign-in that is lost, another browser's or too old, is a plain page here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import sqlalchemy as sa
from flask import Response, redirect

from broker import access
from broker.context import Scope
from broker.db import db, unit
from broker.errors import NotFound
from broker.models import ApplicationAccess, Partner, Tenant
from broker.pages import refusals
from broker.pages.faces import Brand, brand_of
from broker.sign_in.flow import FlowLost

_WORDS = {
    "match_ambiguous": "ambiguous",
    "match_administrator": "ambiguous",
    "already_linked": "ambiguous",
    "not_known": "unknown_person",
    "user_name_taken": "ambiguous",
}
"""What people are told for a reason that administrators read in the log."""


def of_tenant(view: Callable[..., Response]) -> Callable[..., Response]:
    """A view of one tenant's page, given its scope. A slug nobody has is NotFound."""

    @wraps(view)
    def call(tenant_slug: str, **arguments: Any) -> Response:
        scope = access.scope_for_slug(tenant_slug)
        if scope is None:
            raise NotFound
        try:
            return view(scope, **arguments)
        except FlowLost as lost:
            return turned_away(scope, lost.reason)

    return call


def brand(scope: Scope) -> Brand:
    """In the open unit of work of that tenant."""
    tenant = db.session().get(Tenant, scope.tenant_id)
    partner = db.session().get(Partner, scope.partner_id)
    if tenant is None:
        raise NotFound
    return brand_of(tenant.name, tenant.branding, partner.branding if partner else {})


def publisher(scope: Scope, application_id: str) -> str | None:
    """The name of the tenant that keeps an application, where it is another one. Opens units of work of its own."""
    with unit(scope) as session:
        keeps = session.scalar(
            sa.select(ApplicationAccess.owner_tenant_id).where(ApplicationAccess.application_id == application_id)
        )
    owner = access.scope_for_tenant(keeps) if keeps not in (None, scope.tenant_id) else None
    if owner is None:
        return None
    with unit(owner) as session:
        return session.scalar(sa.select(Tenant.name).where(Tenant.id == owner.tenant_id))


def turned_away(
    scope: Scope,
    reason: str,
    *,
    application: str | None = None,
    upstream: str | None = None,
    back: str | None = None,
) -> Response:
    """The tenant's plain page for a reason code. Opens a unit of work of its own."""
    with unit(scope):
        look = brand(scope)
    return refusals.turned_away(look, words_of(reason), application=application, upstream=upstream, back=back)


def words_of(reason: str) -> str:
    return _WORDS.get(reason, reason)


def see_other(url: str) -> Response:
    answer = redirect(url, 303)
    assert isinstance(answer, Response)
    return answer
