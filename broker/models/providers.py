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
        Index("ix_identity_providers_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
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
    sync: Mapped[dict[str, Any]] = mapped_column(
        server_default=text("""'{"enabled": false, "schedule": "1h", "full_every": "1d"}'""")
    )
    """When it is read by itself; see `broker.schedule`."""
    feed_cursor: Mapped[str | None]
    """Where the next delta begins; null: the next run reads everything."""
    due_at: Mapped[Moment | None]
    full_due_at: Mapped[Moment | None]
    failures: Mapped[int] = mapped_column(server_default=text("0"))
    """Runs that failed in a row."""
    succeeded_at: Mapped[Moment | None]
    good_config: Mapped[Bytes | None]
    """Digest of the settings that say which records are read, as they were in the last good run."""
    version: Mapped[int] = mapped_column(server_default=text("1"))
    lease_fence: Mapped[Big] = mapped_column(server_default=text("0"))
    lease_until: Mapped[Moment | None]


class SyncRun(TenantOwned, Base):
    """One pass over an upstream. `cursor` is the last page committed; a run that died is taken up from there.

    A live upstream's run is `running` from the moment it is asked for; whoever takes the provider's lease works on it.
    """

    __tablename__ = "sync_runs"
    __table_args__ = (
        same_tenant("provider_id", "identity_providers.id"),
        UniqueConstraint("tenant_id", "no"),
        Index("ix_sync_runs_provider", "tenant_id", "provider_id", "no"),
        Index("ix_sync_runs_running", "tenant_id", "provider_id", postgresql_where=text("status = 'running'")),
        CheckConstraint("status IN ('running', 'done', 'failed', 'held')", "status"),
        CheckConstraint("kind IN ('full', 'delta')", "kind"),
        CheckConstraint("source IN ('file', 'upstream')", "source"),
    )

    id: Mapped[Key] = mapped_column(primary_key=True)
    no: Mapped[Big] = mapped_column(Identity(always=True))
    provider_id: Mapped[Key]
    kind: Mapped[str]
    dry_run: Mapped[bool] = mapped_column(server_default=text("false"))
    status: Mapped[str] = mapped_column(server_default="running")
    source: Mapped[str] = mapped_column(server_default="file")
    """`file`: an export somebody reads by hand; `upstream`: the live directory, which any worker can read."""
    cursor: Mapped[str | None]
    complete: Mapped[bool] = mapped_column(server_default=text("false"))
    """Everything has been read; what is left is to judge what would go."""
    config: Mapped[Bytes | None]
    """Digest of the settings it reads by."""
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
    cancelled_by: Mapped[str | None]
    """Who wants it to end; it does so before its next page."""
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    """How often a worker has taken it up since it last came further than before."""
    furthest: Mapped[int] = mapped_column(server_default=text("0"))
    """The most records that any of them has read."""
    rate: Mapped[float | None]
    """Records a second, lately."""
    due_at: Mapped[Moment] = mapped_column(server_default=text("now()"))
    """Since when it is owed."""
    started_at: Mapped[Moment | None] = mapped_column(server_default=text("now()"))
    """Null while it waits for a worker."""
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
