"""Tokens people and machines show, and the roles people hold.

Token secrets are 256-bit random and stored as SHA-256 only; their digests are unique in the platform, because a token
is found before its tenant is known. `broker.credentials` writes tokens, `broker.registry` role assignments.
"""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, Bytes, Key, Moment, Stamped, TenantOwned, belongs_to_tenant, same_tenant


class PersonalAccessToken(Stamped, TenantOwned, Base):
    __tablename__ = "personal_access_tokens"
    __table_args__ = (
        same_tenant("user_id", "resources.id"),
        Index("ix_personal_access_tokens_user", "tenant_id", "user_id"),
    )

    id: Mapped[Key] = mapped_column(primary_key=True)
    user_id: Mapped[Key]
    name: Mapped[str]
    audiences: Mapped[list[str]] = mapped_column(server_default=text("""'["scaikey"]'"""))
    scopes: Mapped[list[str]] = mapped_column(server_default=text("""'["scaikey:read"]'"""))
    digest: Mapped[Bytes] = mapped_column(unique=True)
    bootstrap: Mapped[bool] = mapped_column(server_default=text("false"))
    created_by: Mapped[str | None]
    expires_at: Mapped[Moment]
    last_used_at: Mapped[Moment | None]
    revoked_at: Mapped[Moment | None]


class ScimToken(Stamped, TenantOwned, Base):
    __tablename__ = "scim_tokens"
    __table_args__ = (
        belongs_to_tenant(),
        same_tenant("identity_provider_id", "identity_providers.id"),
        CheckConstraint("mode IN ('tolerant', 'strict')", "mode"),
    )

    id: Mapped[Key] = mapped_column(primary_key=True)
    name: Mapped[str]
    mode: Mapped[str] = mapped_column(server_default="tolerant")
    identity_provider_id: Mapped[Key | None]
    allow_password: Mapped[bool] = mapped_column(server_default=text("false"))
    digest: Mapped[Bytes] = mapped_column(unique=True)
    earlier_digest: Mapped[Bytes | None] = mapped_column(unique=True)
    earlier_until: Mapped[Moment | None]
    """How long the secret before the present one is good."""
    expires_at: Mapped[Moment | None]
    last_used_at: Mapped[Moment | None]
    revoked_at: Mapped[Moment | None]


class RoleAssignment(Stamped, TenantOwned, Base):
    """A role one principal of this tenant holds. `scope_id`: a `tnt_…`, a `prt_…`, or null for the platform."""

    __tablename__ = "role_assignments"
    __table_args__ = (
        same_tenant("principal_id", "resources.id"),
        CheckConstraint("role IN ('tenant_admin', 'partner_admin', 'super_admin')", "role"),
        CheckConstraint("(role = 'super_admin') = (scope_id IS NULL)", "scope"),
        Index(
            "uq_role_assignments_grant",
            "tenant_id",
            "principal_id",
            "role",
            "scope_id",
            unique=True,
            postgresql_nulls_not_distinct=True,
        ),
    )

    id: Mapped[Key] = mapped_column(primary_key=True)
    role: Mapped[str]
    principal_id: Mapped[Key]
    scope_id: Mapped[Key | None]
