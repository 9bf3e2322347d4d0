"""Partners, each with the home tenant that holds its administrators.

Written in a unit of work that spans tenants. Events are told in the log of the partner's home tenant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from broker import ids
from broker.context import PLATFORM_TENANT
from broker.db import db
from broker.errors import Conflict
from broker.models import Partner, RetiredSlug, SettingValue, Tenant
from broker.registry.changes import HOME_SUFFIX, assign, check_slug, tell

LONGEST_SLUG = 63 - len(HOME_SUFFIX)


def create(values: Mapping[str, Any]) -> Partner:
    """A partner and its home tenant. Raises ValidationFailed, Conflict."""
    check_slug(values["slug"], longest=LONGEST_SLUG)
    return _create(values, kind="home", home_slug=values["slug"] + HOME_SUFFIX)


def create_platform() -> Partner:
    """The reserved partner and tenant that hold the super admins; the one there is, when there is one."""
    found = db.session().scalar(sa.select(Partner).where(Partner.slug == PLATFORM_TENANT))
    values = {"name": "Platform", "slug": PLATFORM_TENANT}
    return found or _create(values, kind="platform", home_slug=PLATFORM_TENANT)


def _create(values: Mapping[str, Any], *, kind: str, home_slug: str) -> Partner:
    session = db.session()
    taken = session.scalar(
        sa.union_all(
            sa.select(Partner.slug).where(Partner.slug == values["slug"]),
            sa.select(Tenant.slug).where(Tenant.slug == home_slug),
            sa.select(RetiredSlug.slug).where(RetiredSlug.slug == home_slug),
        ).limit(1)
    )
    if taken is not None:
        raise Conflict("The slug is taken")
    partner = Partner(id=ids.new("prt"), **values)
    home = Tenant(id=ids.new("tnt"), partner_id=partner.id, name=values["name"], slug=home_slug, kind=kind)
    session.add(partner)
    session.flush()
    session.add(home)
    partner.home_tenant_id = home.id
    session.flush()
    tell("partner.created", "Partner", partner.id, sorted(values), tenant_id=home.id)
    tell("tenant.created", "Tenant", home.id, ["name", "slug"], tenant_id=home.id)
    return partner


def update(partner: Partner, values: Mapping[str, Any]) -> list[str]:
    """Change name, limits or branding; a limit below what exists only keeps more from being added."""
    changed = assign(partner, values)
    if changed:
        db.session().flush()
        tell("partner.updated", "Partner", partner.id, changed, tenant_id=partner.home_tenant_id)
    return changed


def remove(partner: Partner) -> None:
    """Delete a partner without customers, and its home tenant. Raises Conflict."""
    session = db.session()
    if partner.slug == PLATFORM_TENANT:
        raise Conflict("The platform partner cannot be deleted")
    session.refresh(partner, with_for_update=True)
    tenants = list(session.scalars(sa.select(Tenant).where(Tenant.partner_id == partner.id)))
    if any(tenant.kind == "customer" for tenant in tenants):
        raise Conflict("The partner still has tenants")
    owners = [partner.id, *(tenant.id for tenant in tenants)]
    session.execute(sa.delete(SettingValue).where(SettingValue.owner_id.in_(owners)))
    for tenant in tenants:
        session.add(RetiredSlug(slug=tenant.slug))
        session.delete(tenant)
    session.flush()
    session.delete(partner)
    session.flush()
    tell("partner.removed", "Partner", partner.id, {"slug": partner.slug}, tenant_id=platform_tenant_id())


def platform_tenant_id() -> str:
    """The reserved tenant, whose log tells what concerns the installation as a whole."""
    return db.session().scalars(sa.select(Tenant.id).where(Tenant.slug == PLATFORM_TENANT)).one()
