"""Partners, tenants, domains and settings by level.

`Partner` and `Tenant` are platform rows: written only in `platform_scope()`; the application role reads its own
tenant and that tenant's partner. Slugs of deleted tenants stay in `RetiredSlug` and are never given out again.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, PrimaryKeyConstraint, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, Big, Bytes, Key, Moment, Stamped, TenantOwned, belongs_to_tenant


class Partner(Stamped, Base):
    __tablename__ = "partners"

    id: Mapped[Key] = mapped_column(primary_key=True)
    name: Mapped[str]
    slug: Mapped[Key] = mapped_column(unique=True)
    max_tenants: Mapped[int | None]
    max_users_per_tenant: Mapped[int | None]
    max_applications_per_tenant: Mapped[int | None]
    home_tenant_id: Mapped[Key | None]
    branding: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))


class Tenant(Stamped, Base):
    __tablename__ = "tenants"
    __table_args__ = (
        CheckConstraint("status IN ('active', 'suspended')", "status"),
        CheckConstraint("kind IN ('customer', 'home', 'platform')", "kind"),
    )

    id: Mapped[Key] = mapped_column(primary_key=True)
    partner_id: Mapped[Key] = mapped_column(ForeignKey("partners.id"), index=True)
    name: Mapped[str]
    slug: Mapped[Key] = mapped_column(unique=True)
    kind: Mapped[str] = mapped_column(server_default="customer")
    status: Mapped[str] = mapped_column(server_default="active")
    declarations: Mapped[Big] = mapped_column(server_default=text("0"))
    """How often the tenant's custom attributes have changed; whoever keeps them in memory sees that they are new."""
    branding: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))


class RetiredSlug(Base):
    __tablename__ = "retired_slugs"

    slug: Mapped[Key] = mapped_column(primary_key=True)


class Domain(Stamped, TenantOwned, Base):
    __tablename__ = "domains"
    __table_args__ = (
        belongs_to_tenant(),
        Index("uq_domains_tenant_name", "tenant_id", "name", unique=True),
        Index("uq_domains_verified_name", "name", unique=True, postgresql_where=text("verified")),
    )

    id: Mapped[Key] = mapped_column(primary_key=True)
    name: Mapped[Key]
    verified: Mapped[bool] = mapped_column(server_default=text("false"))
    verified_at: Mapped[Moment | None]
    verified_by: Mapped[str | None]
    token: Mapped[str]


class SettingValue(Base):
    """One value set at one level. `owner_id` is `platform`, a `prt_…` or a `tnt_…`."""

    __tablename__ = "setting_values"
    __table_args__ = (PrimaryKeyConstraint("owner_id", "name"),)

    owner_id: Mapped[Key]
    name: Mapped[Key]
    value: Mapped[Any] = mapped_column(JSONB(none_as_null=False))
    locked: Mapped[bool] = mapped_column(server_default=text("false"))


class PlatformFact(Base):
    """Small facts of the installation itself (key check value, first bootstrap), by name."""

    __tablename__ = "platform_facts"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    value: Mapped[Bytes]
