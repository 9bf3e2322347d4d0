"""The audit log and its shadow, the outbox.

An event says what changed, who did it and in which request; it is written in the transaction of the change and never
altered. A delivery says that one subscriber still owes one target the present state of one resource.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Identity, Index, SmallInteger, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, Big, Json, Key, Moment, TenantOwned, belongs_to_tenant, same_tenant


class Event(TenantOwned, Base):
    __tablename__ = "events"
    __table_args__ = (
        belongs_to_tenant(),
        UniqueConstraint("tenant_id", "id"),
        Index("ix_events_resource", "tenant_id", "resource_id", "no"),
        Index("ix_events_name", "tenant_id", "name", "no"),
        Index("ix_events_actor", "tenant_id", "actor_id", "no"),
        Index("ix_events_occurred", "tenant_id", "occurred_at"),
    )

    no: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    id: Mapped[Key]
    name: Mapped[Key]
    actor_kind: Mapped[str]
    actor_id: Mapped[Key]
    credential_id: Mapped[str | None]
    resource_type: Mapped[Key]
    resource_id: Mapped[Key]
    changed: Mapped[Json] = mapped_column(server_default=text("'[]'"))
    """What changed: attribute paths, or a small object; never a secret."""
    request_id: Mapped[Key | None]
    occurred_at: Mapped[Moment] = mapped_column(server_default=text("now()"))


class Delivery(TenantOwned, Base):
    """Owed to one target about one resource; repeated changes raise `generation` instead of adding rows."""

    __tablename__ = "deliveries"
    __table_args__ = (
        same_tenant("target_id", "scim_targets.id"),
        Index(
            "ix_deliveries_due", "tenant_id", "target_id", "lane", "due_at", postgresql_where=text("status = 'pending'")
        ),
        Index("ix_deliveries_target", "tenant_id", "target_id", "status", "due_at"),
        Index("ix_deliveries_failed", "due_at", postgresql_where=text("status = 'failed'")),
        CheckConstraint("status IN ('pending', 'held', 'muted', 'failed')", "status"),
    )

    target_id: Mapped[Key] = mapped_column(primary_key=True)
    resource_type: Mapped[Key] = mapped_column(primary_key=True)
    resource_id: Mapped[Key] = mapped_column(primary_key=True)
    """A resource, or `*` (of type `*`) for the target's whole reach, expanded page by page."""
    task: Mapped[Key] = mapped_column(primary_key=True, server_default="push")
    """`push`: send this resource; `expand`: compare the target's reach with what is there, and owe every difference."""
    generation: Mapped[Big] = mapped_column(server_default=text("1"))
    lane: Mapped[int] = mapped_column(SmallInteger, server_default=text("1"))
    """0 expansions and departures, 1 people, 2 groups: members exist before the groups that name them."""
    status: Mapped[str] = mapped_column(server_default="pending")
    """`pending`, `held` (the target's removal guard), `muted` (held, then rejected), `failed` (in quarantine: tried
    again at long intervals, and at once when it changes)."""
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    failing_since: Mapped[Moment | None]
    """First of the failed attempts in a row; means nothing while `attempts` is 0."""
    due_at: Mapped[Moment] = mapped_column(server_default=text("now()"))
    lease_until: Mapped[Moment | None]
    fence: Mapped[Big] = mapped_column(server_default=text("0"))
    cursor: Mapped[str | None]
    approved: Mapped[bool] = mapped_column(server_default=text("false"))
    """It was held, and an administrator released it; void as soon as the resource changes again."""
    problem: Mapped[str | None]
    exchange: Mapped[dict[str, Any] | None]
    """What was asked and answered when it failed last, without secrets and personal values."""
    owed_at: Mapped[Moment] = mapped_column(server_default=text("now()"))
    updated_at: Mapped[Moment] = mapped_column(server_default=text("now()"))
