"""Signing keys, clients' secrets, and what grants leave behind: codes, refresh tokens, revocations, consents.

Codes, refresh tokens and client secrets are 256 random bits stored as SHA-256 digests, unique in the platform because
they are found before their tenant. `oidc.keys` writes signing keys, `oidc.families` grants and their tokens,
`broker.credentials` client secrets, `broker.registry` service accounts.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import CheckConstraint, ForeignKeyConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, Bytes, Key, Moment, Stamped, TenantOwned, belongs_to_tenant, same_tenant


class SigningKey(Base):
    """One key of the installation. Its id is the RFC 7638 thumbprint, the `kid` of what it signs."""

    __tablename__ = "signing_keys"
    __table_args__ = (
        CheckConstraint("algorithm IN ('RS256', 'ES256')", "algorithm"),
        CheckConstraint("status IN ('next', 'current', 'previous', 'retired')", "status"),
        Index(
            "uq_signing_keys_status",
            "algorithm",
            "status",
            unique=True,
            postgresql_where=text("status IN ('next', 'current')"),
        ),
    )

    id: Mapped[Key] = mapped_column(primary_key=True)
    algorithm: Mapped[str]
    status: Mapped[str]
    public: Mapped[dict[str, Any]]
    """The public JWK as the key set shows it."""
    private: Mapped[Bytes | None]
    """The sealed private JWK; null once retired."""
    created_at: Mapped[Moment] = mapped_column(server_default=text("now()"))
    activated_at: Mapped[Moment | None]
    replaced_at: Mapped[Moment | None]
    retire_after: Mapped[Moment | None]
    """When a previous key leaves the key set: nothing it signed lives on then."""


class ServiceAccount(Stamped, TenantOwned, Base):
    """A workload that acts by itself: a user of `userType` ServiceAccount, and the client it authenticates as."""

    __tablename__ = "service_accounts"
    __table_args__ = (
        same_tenant("id", "resources.id"),
        Index("uq_service_accounts_name", "tenant_id", "name", unique=True),
    )

    id: Mapped[Key] = mapped_column(primary_key=True)
    """The user's."""
    name: Mapped[Key]
    client_id: Mapped[Key] = mapped_column(unique=True)
    scopes: Mapped[list[str]] = mapped_column(server_default=text("'[]'"))
    audiences: Mapped[list[str]] = mapped_column(server_default=text("'[]'"))


class ClientSecret(TenantOwned, Base):
    """A secret of an application or a service account of this tenant; several overlap while one is rotated."""

    __tablename__ = "client_secrets"
    __table_args__ = (
        belongs_to_tenant(),
        CheckConstraint("num_nonnulls(application_id, service_account_id) = 1", "owner"),
        ForeignKeyConstraint(
            ["tenant_id", "application_id"], ["applications.tenant_id", "applications.id"], ondelete="CASCADE"
        ),
        same_tenant("service_account_id", "service_accounts.id"),
        Index("ix_client_secrets_application", "tenant_id", "application_id"),
        Index("ix_client_secrets_service_account", "tenant_id", "service_account_id"),
    )

    id: Mapped[Key] = mapped_column(primary_key=True)
    application_id: Mapped[Key | None]
    service_account_id: Mapped[Key | None]
    digest: Mapped[Bytes]
    created_at: Mapped[Moment] = mapped_column(server_default=text("now()"))
    expires_at: Mapped[Moment | None]
    """Set when a newer secret takes over; null for the present one."""


class Grant(TenantOwned, Base):
    """One authorization of one person for one application: the family of all tokens that came of it."""

    __tablename__ = "grants"
    __table_args__ = (
        same_tenant("user_id", "resources.id"),
        same_tenant("session_id", "sessions.id"),
        same_tenant("application_id", "application_access.application_id"),
        same_tenant("provider_id", "identity_providers.id"),
        CheckConstraint("issuer IN ('tenant', 'platform')", "issuer"),
        Index("ix_grants_user", "tenant_id", "user_id"),
        Index("ix_grants_session", "tenant_id", "session_id"),
        Index("ix_grants_application", "tenant_id", "application_id"),
        Index("ix_grants_expires", "expires_at"),
    )

    id: Mapped[Key] = mapped_column(primary_key=True)
    user_id: Mapped[Key]
    application_id: Mapped[Key]
    session_id: Mapped[Key]
    provider_id: Mapped[Key | None]
    """Who signed the person in; null for a local password."""
    issuer: Mapped[str]
    """Whose tokens these are: the tenant's issuer or the platform's. It never changes."""
    scopes: Mapped[list[str]]
    audience: Mapped[str]
    nonce: Mapped[str | None]
    auth_time: Mapped[Moment]
    amr: Mapped[list[str]]
    created_at: Mapped[Moment] = mapped_column(server_default=text("now()"))
    expires_at: Mapped[Moment]
    """When nothing that came of it lives any more, and the row may be swept."""
    ended_at: Mapped[Moment | None]
    end_reason: Mapped[str | None]


class AuthorizationCode(TenantOwned, Base):
    """Claimed by setting `used_at` before anything is issued; the row stays, so that a second use is known."""

    __tablename__ = "authorization_codes"
    __table_args__ = (same_tenant("grant_id", "grants.id"), Index("ix_authorization_codes_expires", "expires_at"))

    id: Mapped[Key] = mapped_column(primary_key=True)
    grant_id: Mapped[Key]
    digest: Mapped[Bytes] = mapped_column(unique=True)
    redirect_uri: Mapped[str]
    code_challenge: Mapped[str]
    expires_at: Mapped[Moment]
    used_at: Mapped[Moment | None]


class RefreshToken(TenantOwned, Base):
    """One link of a rotating chain. Its successor's secret is HMAC-SHA256(salt, its own secret): a repeat within the
    grace finds the same successor again, and nothing stored tells it."""

    __tablename__ = "refresh_tokens"
    __table_args__ = (same_tenant("grant_id", "grants.id"), Index("ix_refresh_tokens_grant", "tenant_id", "grant_id"))

    id: Mapped[Key] = mapped_column(primary_key=True)
    grant_id: Mapped[Key]
    digest: Mapped[Bytes] = mapped_column(unique=True)
    salt: Mapped[Bytes]
    expires_at: Mapped[Moment]
    used_at: Mapped[Moment | None]


class RevokedToken(TenantOwned, Base):
    """An access token revoked by itself (RFC 7009), until it would have expired."""

    __tablename__ = "revoked_tokens"
    __table_args__ = (belongs_to_tenant(), Index("ix_revoked_tokens_expires", "expires_at"))

    jti: Mapped[Key] = mapped_column(primary_key=True)
    expires_at: Mapped[Moment]


class Consent(Stamped, TenantOwned, Base):
    """What a person allowed a third-party application."""

    __tablename__ = "consents"
    __table_args__ = (
        same_tenant("user_id", "resources.id"),
        same_tenant("application_id", "application_access.application_id"),
    )

    user_id: Mapped[Key] = mapped_column(primary_key=True)
    application_id: Mapped[Key] = mapped_column(primary_key=True)
    scopes: Mapped[list[str]]
