"""Targets are compared, paced and spared: runs, drift, how long deliveries take, who left when, what was refused."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TENANT_TABLES = ("target_runs", "target_drifts", "target_convergence")
TENANT = "current_setting('scaikey.tenant', true)"
MOMENT = sa.DateTime(timezone=True)
NO_RECONCILE = """'{"enabled": false, "schedule": "1d", "policy": "report", "ignore": []}'"""
OPEN = sa.text("status IN ('waiting', 'running')")


def upgrade() -> None:
    column: sa.Column[Any]
    for column in (
        sa.Column("deprovision_days", sa.Integer(), server_default=sa.text("30"), nullable=False),
        sa.Column("requests_per_second", sa.Double(), nullable=True),
        sa.Column("paced_until", MOMENT, nullable=True),
        sa.Column("failing_since", MOMENT, nullable=True),
        sa.Column("reconcile", JSONB(), server_default=sa.text(NO_RECONCILE), nullable=False),
        sa.Column("reconcile_due_at", MOMENT, nullable=True),
    ):
        op.add_column("scim_targets", column)
    op.create_index(
        "ix_scim_targets_reconcile",
        "scim_targets",
        ["reconcile_due_at"],
        unique=False,
        postgresql_where=sa.text("reconcile_due_at IS NOT NULL"),
    )
    op.add_column("target_resources", sa.Column("left_at", MOMENT, nullable=True))
    op.add_column("target_resources", sa.Column("met_no", sa.BigInteger(), nullable=True))
    op.create_index(
        "ix_target_resources_left",
        "target_resources",
        ["left_at"],
        unique=False,
        postgresql_where=sa.text("left_at IS NOT NULL"),
    )
    op.create_index(
        "ix_deliveries_failed", "deliveries", ["due_at"], unique=False, postgresql_where=sa.text("status = 'failed'")
    )
    op.create_table(
        "target_runs",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("no", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("target_id", sa.Text(collation="C"), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="waiting", nullable=False),
        sa.Column("phase", sa.Text(), server_default="User", nullable=False),
        sa.Column("position", sa.Text(), nullable=True),
        sa.Column("done", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=True),
        sa.Column("rate", sa.Double(), nullable=True),
        sa.Column("missing", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("changed", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("unexpected", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("owed", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("fence", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("lease_until", MOMENT, nullable=True),
        sa.Column("due_at", MOMENT, server_default=sa.text("now()"), nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("created_at", MOMENT, server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", MOMENT, nullable=True),
        sa.Column("finished_at", MOMENT, nullable=True),
        sa.CheckConstraint("status IN ('waiting', 'running', 'done', 'failed')", name=op.f("ck_target_runs_status")),
        sa.CheckConstraint("policy IN ('overwrite', 'report', 'ignore')", name=op.f("ck_target_runs_policy")),
        of_target("target_runs"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_target_runs")),
        sa.UniqueConstraint("tenant_id", "no", name=op.f("uq_target_runs_tenant_id_no")),
    )
    op.create_index(
        "uq_target_runs_open", "target_runs", ["tenant_id", "target_id"], unique=True, postgresql_where=OPEN
    )
    op.create_index("ix_target_runs_due", "target_runs", ["due_at"], unique=False, postgresql_where=OPEN)
    op.create_index("ix_target_runs_target", "target_runs", ["tenant_id", "target_id", "no"], unique=False)
    op.create_table(
        "target_drifts",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("target_id", sa.Text(collation="C"), nullable=False),
        sa.Column("resource_type", sa.Text(collation="C"), nullable=False),
        sa.Column("key", sa.Text(collation="C"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("resource_id", sa.Text(collation="C"), nullable=True),
        sa.Column("remote_id", sa.Text(collation="C"), nullable=True),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("differences", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("ignored", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("run_no", sa.BigInteger(), nullable=False),
        sa.Column("found_at", MOMENT, server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("kind IN ('missing', 'changed', 'unexpected')", name=op.f("ck_target_drifts_kind")),
        of_target("target_drifts"),
        sa.PrimaryKeyConstraint("tenant_id", "target_id", "resource_type", "key", name=op.f("pk_target_drifts")),
    )
    op.create_table(
        "target_convergence",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("target_id", sa.Text(collation="C"), nullable=False),
        sa.Column("hour", MOMENT, nullable=False),
        sa.Column("bucket", sa.SmallInteger(), nullable=False),
        sa.Column("settled", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        of_target("target_convergence"),
        sa.PrimaryKeyConstraint("tenant_id", "target_id", "hour", "bucket", name=op.f("pk_target_convergence")),
    )
    op.create_index("ix_target_convergence_hour", "target_convergence", ["hour"], unique=False)
    execute = op.get_bind().exec_driver_sql
    for name in TENANT_TABLES:
        execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO scaikey_app, scaikey_platform")
        execute(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY")
        execute(f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY")
        execute(f"CREATE POLICY tenant ON {name} USING (tenant_id = {TENANT}) WITH CHECK (tenant_id = {TENANT})")


def of_target(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["tenant_id", "target_id"],
        ["scim_targets.tenant_id", "scim_targets.id"],
        name=op.f(f"fk_{table}_tenant_id_target_id"),
        ondelete="CASCADE",
    )
