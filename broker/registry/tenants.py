"""Tenants of a partner: made within its limit, suspended, deleted for good.

Written in a unit of work that spans tenants. A deleted tenant's slug is retired and never given out again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from broker import ids
from broker.context import PLATFORM_TENANT
from broker.db import db
from broker.errors import Conflict, LimitExceeded, ValidationFailed
from broker.models import Partner, RetiredSlug, SettingValue, Tenant
from broker.registry.changes import assign, check_slug, tell


def create(partner_id: str, values: Mapping[str, Any]) -> Tenant:
    """A customer tenant. Raises ValidationFailed, LimitExceeded, Conflict."""
    session = db.session()
    check_slug(values["slug"])
    # The lock makes counting and adding one step for parallel requests.
    partner = session.scalar(sa.select(Partner).where(Partner.id == partner_id).with_for_update())
    if partner is None or partner.slug == PLATFORM_TENANT:
        raise ValidationFailed(errors={"partner_id": ["There is no such partner."]})
    if partner.max_tenants is not None:
        count = session.scalar(
            sa.select(sa.func.count()).where(Tenant.partner_id == partner_id, Tenant.kind == "customer")
        )
        if (count or 0) >= partner.max_tenants:
            raise LimitExceeded(f"max_tenants is {partner.max_tenants}")
    if session.scalar(sa.select(Tenant.id).where(Tenant.slug == values["slug"])):
        raise Conflict("The slug is taken")
    tenant = Tenant(id=ids.new("tnt"), partner_id=partner_id, **values)
    session.add(tenant)
    session.flush()
    # Looked up after the insert, which waits for a deletion of the same slug that is under way.
    if session.scalar(sa.select(RetiredSlug.slug).where(RetiredSlug.slug == values["slug"])):
        raise Conflict("The slug is taken")
    tell("tenant.created", "Tenant", tenant.id, sorted(values), tenant_id=tenant.id)
    return tenant


def update(tenant: Tenant, values: Mapping[str, Any]) -> list[str]:
    """Change name, branding or status. Raises Conflict for the status of a tenant that holds administrators."""
    if tenant.kind != "customer" and values.get("status", tenant.status) != tenant.status:
        raise Conflict("A tenant that holds administrators cannot be suspended")
    changed = assign(tenant, values)
    if changed:
        db.session().flush()
        tell("tenant.updated", "Tenant", tenant.id, changed, tenant_id=tenant.id)
        if "status" in changed:
            name = "tenant.suspended" if tenant.status == "suspended" else "tenant.resumed"
            tell(name, "Tenant", tenant.id, ["status"], tenant_id=tenant.id)
    return changed


def remove(tenant: Tenant, confirm: str | None) -> None:
    """Delete a customer tenant with all it holds. `confirm` repeats its slug. Raises ValidationFailed, Conflict."""
    session = db.session()
    if tenant.kind != "customer":
        raise Conflict("A tenant that holds administrators goes only with its partner")
    if confirm != tenant.slug:
        raise ValidationFailed(errors={"confirm": ["Must repeat the slug of the tenant."]})
    home = session.scalar(sa.select(Partner.home_tenant_id).where(Partner.id == tenant.partner_id))
    # A large directory takes longer than a request's statement may.
    session.execute(sa.text("SET LOCAL statement_timeout = '15min'"))
    session.execute(sa.delete(SettingValue).where(SettingValue.owner_id == tenant.id))
    session.add(RetiredSlug(slug=tenant.slug))
    session.delete(tenant)
    session.flush()
    tell("tenant.removed", "Tenant", tenant.id, {"slug": tenant.slug}, tenant_id=home)
