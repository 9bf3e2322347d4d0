"""Upstreams of a tenant, the runs that read them, and what a run held back or could not take.

`broker.registry` writes providers; `broker.sync` writes runs, skips and held removals.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import CheckConstraint, Identity, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, Big, Bytes, Key, Moment, Stamped, TenantOwned, belongs_to_tenant, same_tenant


class IdentityProvider(Stamped, TenantOwned, Base):
    __tablename__ = "identity_providers"
    __table_args__ = (
        belongs_to_tenant(),
        CheckConstraint("linking IN ('never', 'verified_email')", "linking"),
        Index("uq_identity_providers_name", "tenant_id", "name", unique=True),
    )

    id: Mapped[Key] = mapped_column(primary_key=True)
    kind: Mapped[Key]
    name: Mapped[str]
    enabled: Mapped[bool] = mapped_column(server_default=text("true"))
    priority: Mapped[int] = mapped_column(server_default=text("100"))
    """Rank among the tenant's providers: the lowest number ranks highest."""
    config: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    secrets: Mapped[Bytes | None]
    """Sealed JSON of the config's secret fields."""
    attribute_mapping: Mapped[list[Any]] = mapped_column(server_default=text("'[]'"))
    """Rows that replace or add to the catalogue's default mapping; see `directory.mapping`."""
    sign_in: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether people may sign in here."""
    domains: Mapped[list[str]] = mapped_column(server_default=text("'[]'"))
    """Whose e-mail addresses are sent here; only domains the tenant has verified count."""
    jit: Mapped[dict[str, Any]] = mapped_column(server_default=text("""'{"enabled": false, "groups": []}'"""))
    """Whether a stranger who signs in becomes a person here, and the groups he is put into."""
    linking: Mapped[str] = mapped_column(server_default="never")
    match: Mapped[list[Any]] = mapped_column(server_default=text("'[]'"))
    """Ordered `{claim, attribute}` pairs by which a stranger is found among those that `match_within` gave."""
    match_within: Mapped[list[str]] = mapped_column(server_default=text("'[]'"))
    removal_guard: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    good_config: Mapped[Bytes | None]
    """Digest of the configuration of the last good run."""
    version: Mapped[int] = mapped_column(server_default=text("1"))
    lease_fence: Mapped[Big] = mapped_column(server_default=text("0"))
    lease_until: Mapped[Moment | None]


class SyncRun(TenantOwned, Base):
    """One pass over an upstream. `cursor` is the last page committed; a run that died is taken up from there."""

    __tablename__ = "sync_runs"
    __table_args__ = (
        same_tenant("provider_id", "identity_providers.id"),
        UniqueConstraint("tenant_id", "no"),
        Index("ix_sync_runs_provider", "tenant_id", "provider_id", "no"),
        CheckConstraint("status IN ('running', 'done', 'failed', 'held')", "status"),
        CheckConstraint("kind IN ('full', 'delta')", "kind"),
    )

    id: Mapped[Key] = mapped_column(primary_key=True)
    no: Mapped[Big] = mapped_column(Identity(always=True))
    provider_id: Mapped[Key]
    kind: Mapped[str]
    dry_run: Mapped[bool] = mapped_column(server_default=text("false"))
    status: Mapped[str] = mapped_column(server_default="running")
    source: Mapped[str | None]
    """Fingerprint of what is read (an export file's), so that a resumed run meets the same input."""
    cursor: Mapped[str | None]
    fence: Mapped[Big] = mapped_column(server_default=text("0"))
    read: Mapped[int] = mapped_column(server_default=text("0"))
    created: Mapped[int] = mapped_column(server_default=text("0"))
    updated: Mapped[int] = mapped_column(server_default=text("0"))
    unchanged: Mapped[int] = mapped_column(server_default=text("0"))
    disabled: Mapped[int] = mapped_column(server_default=text("0"))
    removed: Mapped[int] = mapped_column(server_default=text("0"))
    skipped: Mapped[int] = mapped_column(server_default=text("0"))
    held_removals: Mapped[int] = mapped_column(server_default=text("0"))
    hold_reason: Mapped[str | None]
    plan: Mapped[list[Any]] = mapped_column(server_default=text("'[]'"))
    """Dry run: the first changes it would make, for reading; the counters are complete."""
    done: Mapped[Big | None]
    total: Mapped[Big | None]
    problem: Mapped[str | None]
    requested_by: Mapped[str | None]
    started_at: Mapped[Moment] = mapped_column(server_default=text("now()"))
    finished_at: Mapped[Moment | None]


class SyncSkip(TenantOwned, Base):
    """A record a run could not take, and why."""

    __tablename__ = "sync_skips"
    __table_args__ = (same_tenant("run_id", "sync_runs.id"), Index("ix_sync_skips_run", "tenant_id", "run_id", "no"))

    no: Mapped[Big] = mapped_column(Identity(always=True), primary_key=True)
    run_id: Mapped[Key]
    position: Mapped[str | None]
    name: Mapped[str | None]
    reason: Mapped[str]
    detail: Mapped[str]


class HeldRemoval(TenantOwned, Base):
    """A removal the guard holds: one row per link. Rejected ones stay, and mute the same removal until it changes."""

    __tablename__ = "held_removals"
    __table_args__ = (
        same_tenant("run_id", "sync_runs.id"),
        same_tenant("link_no", "links.no"),
        CheckConstraint("action IN ('remove', 'disable', 'shrink')", "action"),
        CheckConstraint("status IN ('held', 'rejected')", "status"),
        Index("ix_held_removals_provider", "tenant_id", "provider_id", "status"),
    )

    link_no: Mapped[Big] = mapped_column(primary_key=True)
    action: Mapped[str] = mapped_column(primary_key=True)
    provider_id: Mapped[Key]
    run_id: Mapped[Key]
    status: Mapped[str] = mapped_column(server_default="held")
    digest: Mapped[Bytes]
    """What exactly was held; a different digest is another removal."""
    evidence: Mapped[Bytes | None]
    """For `disable` and `shrink`: the record the run saw, applied on approval."""
    reason: Mapped[str]
    created_at: Mapped[Moment] = mapped_column(server_default=text("now()"))
