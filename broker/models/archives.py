"""Imports of whole tenants: how far each has come, and the lines that could not be taken.

Written by `scim.archive`.
"""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Identity, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, Big, Bytes, Key, Moment, TenantOwned, belongs_to_tenant, same_tenant


class ArchiveRun(TenantOwned, Base):
    """One import of an archive; `line` and `position` are the mark from which it is taken up."""

    __tablename__ = "archive_runs"
    __table_args__ = (
        belongs_to_tenant(),
        UniqueConstraint("tenant_id", "no"),
        Index("ix_archive_runs_digest", "tenant_id", "digest"),
        CheckConstraint("status IN ('running', 'done', 'failed')", "status"),
    )

    id: Mapped[Key] = mapped_column(primary_key=True)
    no: Mapped[Big] = mapped_column(Identity(always=True))
    digest: Mapped[Bytes]
    """Of the archive's lines: an interrupted import of the same archive goes on."""
    dry_run: Mapped[bool] = mapped_column(server_default=text("false"))
    status: Mapped[str] = mapped_column(server_default="running")
    line: Mapped[Big] = mapped_column(server_default=text("1"))
    """Lines taken or refused so far; the first says what the file is."""
    total: Mapped[Big]
    position: Mapped[Big] = mapped_column(server_default=text("0"))
    """Octets of the file before the next line."""
    created: Mapped[Big] = mapped_column(server_default=text("0"))
    unchanged: Mapped[Big] = mapped_column(server_default=text("0"))
    refused: Mapped[Big] = mapped_column(server_default=text("0"))
    problem: Mapped[str | None]
    requested_by: Mapped[str | None]
    started_at: Mapped[Moment] = mapped_column(server_default=text("now()"))
    finished_at: Mapped[Moment | None]


class ArchiveRefusal(TenantOwned, Base):
    """What of an archive was not taken, where it stands, and why."""

    __tablename__ = "archive_refusals"
    __table_args__ = (
        same_tenant("run_id", "archive_runs.id"),
        Index("ix_archive_refusals_run", "tenant_id", "run_id", "no"),
    )

    no: Mapped[Big] = mapped_column(Identity(always=True), primary_key=True)
    run_id: Mapped[Key]
    line: Mapped[Big]
    path: Mapped[str]
    """Within the line, as a JSON pointer (RFC 6901)."""
    detail: Mapped[str]
