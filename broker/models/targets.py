"""What is known of targets beside the accounts themselves: comparisons, what they found, and how long deliveries take.

`scim.push` writes these tables. The target itself is an application's.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import CheckConstraint, Double, Identity, Index, SmallInteger, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, Big, Key, Moment, TenantOwned, same_tenant


class TargetRun(TenantOwned, Base):
    """One comparison of everything at a target with what should be there."""

    __tablename__ = "target_runs"
    __table_args__ = (
        same_tenant("target_id", "scim_targets.id"),
        UniqueConstraint("tenant_id", "no"),
        CheckConstraint("status IN ('waiting', 'running', 'done', 'failed')", "status"),
        CheckConstraint("policy IN ('overwrite', 'report', 'ignore')", "policy"),
        Index(
            "uq_target_runs_open",
            "tenant_id",
            "target_id",
            unique=True,
            postgresql_where=text("status IN ('waiting', 'running')"),
        ),
        Index("ix_target_runs_due", "due_at", postgresql_where=text("status IN ('waiting', 'running')")),
        Index("ix_target_runs_target", "tenant_id", "target_id", "no"),
        Index("ix_target_runs_finished", "finished_at"),
    )

    id: Mapped[Key] = mapped_column(primary_key=True)
    no: Mapped[Big] = mapped_column(Identity(always=True))
    """Later runs have higher ones: what they met at the target bears it."""
    target_id: Mapped[Key]
    policy: Mapped[str]
    status: Mapped[str] = mapped_column(server_default="waiting")
    phase: Mapped[str] = mapped_column(server_default="User")
    """Which listing it is in: `User`, `Group`, then `missing`."""
    position: Mapped[str | None]
    """Where in that listing it goes on: a cursor of the target's, an index, or one of our ids."""
    done: Mapped[Big] = mapped_column(server_default=text("0"))
    total: Mapped[Big | None]
    rate: Mapped[float | None] = mapped_column(Double)
    missing: Mapped[Big] = mapped_column(server_default=text("0"))
    changed: Mapped[Big] = mapped_column(server_default=text("0"))
    unexpected: Mapped[Big] = mapped_column(server_default=text("0"))
    owed: Mapped[Big] = mapped_column(server_default=text("0"))
    """Deliveries that shall heal what it found."""
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    fence: Mapped[Big] = mapped_column(server_default=text("0"))
    lease_until: Mapped[Moment | None]
    due_at: Mapped[Moment] = mapped_column(server_default=text("now()"))
    requested_by: Mapped[str | None]
    problem: Mapped[str | None]
    created_at: Mapped[Moment] = mapped_column(server_default=text("now()"))
    started_at: Mapped[Moment | None]
    finished_at: Mapped[Moment | None]


class TargetDrift(TenantOwned, Base):
    """One thing at a target that is not as it should be, as the last comparison saw it."""

    __tablename__ = "target_drifts"
    __table_args__ = (
        same_tenant("target_id", "scim_targets.id"),
        CheckConstraint("kind IN ('missing', 'changed', 'unexpected')", "kind"),
    )

    target_id: Mapped[Key] = mapped_column(primary_key=True)
    resource_type: Mapped[Key] = mapped_column(primary_key=True)
    key: Mapped[Key] = mapped_column(primary_key=True)
    """Our id where it is ours, else the target's."""
    kind: Mapped[str]
    resource_id: Mapped[Key | None]
    remote_id: Mapped[Key | None]
    name: Mapped[str | None]
    differences: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    """Attribute → what it should be and what it is there."""
    ignored: Mapped[bool] = mapped_column(server_default=text("false"))
    run_no: Mapped[Big]
    found_at: Mapped[Moment] = mapped_column(server_default=text("now()"))


class TargetConvergence(TenantOwned, Base):
    """How many deliveries of one hour were settled in how long a time."""

    __tablename__ = "target_convergence"
    __table_args__ = (
        same_tenant("target_id", "scim_targets.id"),
        Index("ix_target_convergence_hour", "hour"),
    )

    target_id: Mapped[Key] = mapped_column(primary_key=True)
    hour: Mapped[Moment] = mapped_column(primary_key=True)
    bucket: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    """Up to two to this power of quarter seconds."""
    settled: Mapped[Big] = mapped_column(server_default=text("0"))
