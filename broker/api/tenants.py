"""`/tenants`: made within a partner's limit, suspended, deleted for good after the slug is repeated.

Limits, slugs, and what goes with a tenant that goes, are `registry.tenants`'.
"""

from __future__ import annotations

import sqlalchemy as sa
from flask import Response, request

from broker import access
from broker.api.door import api, body, check_if_match, created, listed, nothing, show
from broker.api.partners import Branding
from broker.api.shapes import NAME, Shape, auto_field, fields, one_of, take, take_changes
from broker.context import current_actor
from broker.doors import About
from broker.errors import ContextConflict, ContextRequired
from broker.models import Tenant
from broker.policy import Action, Where, authorize
from broker.registry import tenants as registry


class TenantShape(Shape):
    FIXED = frozenset({"slug", "partner_id"})
    LATER = frozenset({"custom_domain"})

    class Meta(Shape.Meta):
        model = Tenant

    id = auto_field(dump_only=True)
    partner_id = auto_field(required=False)
    name = auto_field(validate=NAME)
    slug = auto_field()
    kind = auto_field(dump_only=True)
    status = auto_field(validate=one_of("active", "suspended"))
    branding = fields.Nested(Branding)
    created_at = auto_field(dump_only=True)
    updated_at = auto_field(dump_only=True)


@api.route(
    "/tenants",
    action=Action.TENANT_READ,
    context="reach",
    about=About(
        gives=TenantShape,
        listed=True,
        query={
            "slug": "Only the tenant of this slug.",
            "partner_id": "Only tenants of this partner.",
            "status": "Only tenants of this status.",
        },
    ),
)
def list_tenants() -> Response:
    """The tenants you administer, home tenants included."""
    places = access.reach(current_actor(), Action.TENANT_READ)
    statement = sa.select(Tenant)
    if places[0] != Where():
        statement = statement.where(
            sa.or_(
                Tenant.id.in_([place.tenant_id for place in places if place.tenant_id]),
                Tenant.partner_id.in_([place.partner_id for place in places if not place.tenant_id]),
            )
        )
    if chosen := request.headers.get("X-Partner-ID"):
        statement = statement.where(Tenant.partner_id == chosen)
    return listed(
        statement,
        TenantShape,
        [Tenant.id],
        filters={
            "slug": lambda slug: Tenant.slug == slug,
            "partner_id": lambda partner_id: Tenant.partner_id == partner_id,
            "status": lambda status: Tenant.status == status,
        },
    )


@api.route(
    "/tenants",
    methods=["POST"],
    action=Action.TENANT_CREATE,
    context="reach",
    about=About(takes=TenantShape, gives=TenantShape, status=201),
)
def create_tenant() -> Response:
    """Make a tenant of the partner in `partner_id`, in X-Partner-ID, or the only one you administer."""
    values = take(TenantShape, body())
    partner_id = _partner(values.pop("partner_id", None))
    authorize(current_actor(), Action.TENANT_CREATE, Where(None, partner_id))
    tenant = registry.create(partner_id, values)
    return created(TenantShape, tenant, f"/tenants/{tenant.id}")


def _partner(in_body: str | None) -> str:
    named = {name for name in (in_body, request.headers.get("X-Partner-ID")) if name is not None}
    if len(named) > 1:
        raise ContextConflict("X-Partner-ID and partner_id differ")
    own = {grant.scope_id for grant in current_actor().grants if grant.role == "partner_admin"}
    found = named or {name for name in own if name is not None}
    if len(found) != 1:
        raise ContextRequired("Name the partner in partner_id or with X-Partner-ID")
    return found.pop()


@api.route("/tenants/<tenant_id>", action=Action.TENANT_READ, about=About(gives=TenantShape))
def read_tenant(tenant_id: str) -> Response:
    """One tenant."""
    return show(TenantShape, access.fetch(Tenant, tenant_id, to=Action.TENANT_READ))


@api.route(
    "/tenants/<tenant_id>",
    methods=["PATCH"],
    action=Action.TENANT_WRITE,
    spanning=True,
    about=About(takes=TenantShape, gives=TenantShape),
)
def change_tenant(tenant_id: str) -> Response:
    """Change name, branding or status. A suspended tenant's people, tokens and providers stop at once."""
    tenant = access.fetch(Tenant, tenant_id, to=Action.TENANT_WRITE, lock=True)
    check_if_match(TenantShape, tenant)
    registry.update(tenant, take_changes(TenantShape, tenant, body()))
    return show(TenantShape, tenant)


@api.route(
    "/tenants/<tenant_id>",
    methods=["DELETE"],
    action=Action.TENANT_WRITE,
    spanning=True,
    about=About(status=204, query={"confirm": "The tenant's slug, repeated."}),
)
def remove_tenant(tenant_id: str) -> Response:
    """Delete a tenant with everything in it. There is no way back, and its slug is never given out again."""
    tenant = access.fetch(Tenant, tenant_id, to=Action.TENANT_WRITE, lock=True)
    check_if_match(TenantShape, tenant)
    registry.remove(tenant, request.args.get("confirm"))
    return nothing()
