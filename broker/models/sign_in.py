"""People signing in: sessions, sign-ins under way, local passwords, the count of failures, what may happen once.

`broker.sign_in` writes sessions, flows and what is used once, `broker.passwords` passwords and attempts.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Index, text
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, Bytes, Key, Moment, TenantOwned, belongs_to_tenant, same_tenant


class Session(TenantOwned, Base):
    """A browser in which a person is signed in. The cookie's secret is new at every sign-in and stored as a digest."""

    __tablename__ = "sessions"
    __table_args__ = (
        same_tenant("user_id", "resources.id"),
        same_tenant("provider_id", "identity_providers.id"),
        Index("ix_sessions_user", "tenant_id", "user_id"),
        Index("ix_sessions_expires", "expires_at"),
    )

    id: Mapped[Key] = mapped_column(primary_key=True)
    user_id: Mapped[Key]
    provider_id: Mapped[Key | None]
    digest: Mapped[Bytes] = mapped_column(unique=True)
    auth_time: Mapped[Moment]
    amr: Mapped[list[str]] = mapped_column(server_default=text("'[]'"))
    upstream: Mapped[Bytes | None]
    """Sealed JSON of what signing out at the upstream needs (its session, its ID token)."""
    user_agent: Mapped[str | None]
    created_at: Mapped[Moment] = mapped_column(server_default=text("now()"))
    last_seen_at: Mapped[Moment] = mapped_column(server_default=text("now()"))
    expires_at: Mapped[Moment]
    """The absolute end; the idle limit is counted from `last_seen_at`."""
    ended_at: Mapped[Moment | None]
    end_reason: Mapped[str | None]


class SignInFlow(TenantOwned, Base):
    """One sign-in under way: what was asked, and how far it is. All that must survive a cross-site POST is here."""

    __tablename__ = "sign_in_flows"
    __table_args__ = (belongs_to_tenant(), Index("ix_sign_in_flows_expires", "expires_at"))

    id: Mapped[Key] = mapped_column(primary_key=True)
    browser: Mapped[Bytes]
    """Digest of the browser's cookie: nobody else may go on."""
    request: Mapped[dict[str, Any] | None]
    """The application's authorization request, checked; null for a sign-in to the launcher."""
    issuer: Mapped[str] = mapped_column(server_default="tenant")
    username: Mapped[str | None]
    provider_id: Mapped[Key | None]
    state: Mapped[Bytes | None]
    """Digest of the `state` that went upstream; one departure is open at a time."""
    memo: Mapped[Bytes | None]
    """Sealed: what the connector needs back."""
    reply: Mapped[Bytes | None]
    """Sealed: an upstream's cross-site POST, until the browser comes back with its cookie."""
    session_id: Mapped[Key | None]
    """The session that a sign-in in this very flow began."""
    consented: Mapped[bool] = mapped_column(server_default=text("false"))
    error: Mapped[str | None]
    noted: Mapped[list[str]] = mapped_column(server_default=text("'[]'"))
    """What of this flow the log has been told: each refusal once."""
    created_at: Mapped[Moment] = mapped_column(server_default=text("now()"))
    expires_at: Mapped[Moment]
    finished_at: Mapped[Moment | None]


class Password(TenantOwned, Base):
    """A local account's password, as Argon2id says it (PHC string)."""

    __tablename__ = "passwords"
    __table_args__ = (same_tenant("user_id", "resources.id"),)

    user_id: Mapped[Key] = mapped_column(primary_key=True)
    hash: Mapped[str]
    changed_at: Mapped[Moment] = mapped_column(server_default=text("now()"))


class Attempt(TenantOwned, Base):
    """Failed sign-ins counted for one account, one address, or the whole tenant. `subject` is a digest, so that names
    nobody has are counted like any other."""

    __tablename__ = "attempts"
    __table_args__ = (belongs_to_tenant(), Index("ix_attempts_window", "window_ends"))

    subject: Mapped[Bytes] = mapped_column(primary_key=True)
    failures: Mapped[int] = mapped_column(server_default=text("0"))
    window_ends: Mapped[Moment]
    blocked_until: Mapped[Moment | None]


class OneTime(TenantOwned, Base):
    """Something that may be used once: an upstream's assertion, a client's."""

    __tablename__ = "one_time"
    __table_args__ = (belongs_to_tenant(), Index("ix_one_time_expires", "expires_at"))

    purpose: Mapped[Key] = mapped_column(primary_key=True)
    digest: Mapped[Bytes] = mapped_column(primary_key=True)
    expires_at: Mapped[Moment]
