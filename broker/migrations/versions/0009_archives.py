"""Tenants are imported from archives: the runs, what they refused, and whether an id is another tenant's."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

TENANT_TABLES = ("archive_runs", "archive_refusals")
TENANT = "current_setting('scaikey.tenant', true)"
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "archive_runs",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("no", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("dry_run", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("status", sa.Text(), server_default="running", nullable=False),
        sa.Column("line", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("created", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("unchanged", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("refused", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("requested_by", sa.Text(), nullable=True),
        sa.Column("started_at", MOMENT, server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", MOMENT, nullable=True),
        sa.CheckConstraint("status IN ('running', 'done', 'failed')", name=op.f("ck_archive_runs_status")),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_archive_runs_tenant_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_archive_runs")),
        sa.UniqueConstraint("tenant_id", "no", name=op.f("uq_archive_runs_tenant_id_no")),
    )
    op.create_index("ix_archive_runs_digest", "archive_runs", ["tenant_id", "digest"], unique=False)
    op.create_table(
        "archive_refusals",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("no", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("run_id", sa.Text(collation="C"), nullable=False),
        sa.Column("line", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "run_id"],
            ["archive_runs.tenant_id", "archive_runs.id"],
            name=op.f("fk_archive_refusals_tenant_id_run_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "no", name=op.f("pk_archive_refusals")),
    )
    op.create_index("ix_archive_refusals_run", "archive_refusals", ["tenant_id", "run_id", "no"], unique=False)
    op.create_index("ix_resources_id", "resources", ["id"], unique=False)
    execute = op.get_bind().exec_driver_sql
    for name in TENANT_TABLES:
        execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO scaikey_platform")
        execute(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY")
        execute(f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY")
        execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO scaikey_app")
        execute(f"CREATE POLICY tenant ON {name} USING (tenant_id = {TENANT}) WITH CHECK (tenant_id = {TENANT})")
    # Ids are unique in the installation; whose they are is not told.
    execute("""
        CREATE FUNCTION scaikey_find_elsewhere(wanted text[]) RETURNS TABLE (id text) LANGUAGE sql STABLE
        SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
            SELECT r.id FROM resources r
            WHERE r.id = ANY(wanted) AND r.tenant_id <> current_setting('scaikey.tenant', true) $$
    """)
    execute("REVOKE ALL ON FUNCTION scaikey_find_elsewhere(text[]) FROM PUBLIC")
    execute("GRANT EXECUTE ON FUNCTION scaikey_find_elsewhere(text[]) TO scaikey_app, scaikey_platform")
    execute("ALTER FUNCTION scaikey_find_elsewhere(text[]) OWNER TO scaikey_platform")
