"""Upstreams are followed on a schedule: when a provider is due, where its next delta begins, and runs that wait."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

NO_SCHEDULE = """'{"enabled": false, "schedule": "1h", "full_every": "1d"}'"""
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    column: sa.Column[Any]
    for column in (
        sa.Column("sync", JSONB(), server_default=sa.text(NO_SCHEDULE), nullable=False),
        sa.Column("feed_cursor", sa.Text(), nullable=True),
        sa.Column("due_at", MOMENT, nullable=True),
        sa.Column("full_due_at", MOMENT, nullable=True),
        sa.Column("failures", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("succeeded_at", MOMENT, nullable=True),
    ):
        op.add_column("identity_providers", column)
    # It is a digest over fewer settings from now on: only those that say which records are read.
    # Forced row-level security hides every tenant's rows from the owner of the table as well.
    op.execute("ALTER TABLE identity_providers NO FORCE ROW LEVEL SECURITY")
    op.execute("UPDATE identity_providers SET good_config = NULL")
    op.execute("ALTER TABLE identity_providers FORCE ROW LEVEL SECURITY")
    op.create_index(
        "ix_identity_providers_due",
        "identity_providers",
        ["due_at"],
        unique=False,
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index(
        "ix_links_unsettled",
        "links",
        ["tenant_id", "provider_id"],
        unique=False,
        postgresql_where=sa.text("skipped IS NOT NULL OR name_kept"),
    )
    op.add_column("links", sa.Column("stale", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.execute("ALTER TABLE sync_runs NO FORCE ROW LEVEL SECURITY")
    op.execute("UPDATE sync_runs SET source = 'file'")
    op.execute("ALTER TABLE sync_runs FORCE ROW LEVEL SECURITY")
    op.alter_column("sync_runs", "source", server_default="file", nullable=False)
    op.alter_column("sync_runs", "started_at", nullable=True)
    for column in (
        sa.Column("due_at", MOMENT, server_default=sa.text("now()"), nullable=False),
        sa.Column("complete", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("config", sa.LargeBinary(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("furthest", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("cancelled_by", sa.Text(), nullable=True),
        sa.Column("rate", sa.Float(), nullable=True),
    ):
        op.add_column("sync_runs", column)
    op.create_check_constraint("source", "sync_runs", "source IN ('file', 'upstream')")
    op.create_index(
        "ix_sync_runs_running",
        "sync_runs",
        ["tenant_id", "provider_id"],
        unique=False,
        postgresql_where=sa.text("status = 'running'"),
    )
