"""Tenants declare attributes of their own: the declarations, how often they changed, and values that are unique."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
TYPES = "('string', 'boolean', 'decimal', 'integer', 'dateTime', 'reference', 'binary')"


def upgrade() -> None:
    op.add_column("tenants", sa.Column("declarations", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.create_table(
        "custom_attributes",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("resource_type", sa.Text(collation="C"), server_default="User", nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("name_key", sa.Text(collation="C"), nullable=False),
        sa.Column("type", sa.Text(), server_default="string", nullable=False),
        sa.Column("multi_valued", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("case_exact", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("uniqueness", sa.Text(), server_default="none", nullable=False),
        sa.Column("mutability", sa.Text(), server_default="readWrite", nullable=False),
        sa.Column("filterable", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("canonical_values", JSONB(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("number", sa.SmallInteger(), nullable=False),
        sa.Column("created_at", MOMENT, server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", MOMENT, server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("resource_type IN ('User', 'Group')", name=op.f("ck_custom_attributes_resource_type")),
        sa.CheckConstraint(f"type IN {TYPES}", name=op.f("ck_custom_attributes_type")),
        sa.CheckConstraint("uniqueness IN ('none', 'server')", name=op.f("ck_custom_attributes_uniqueness")),
        sa.CheckConstraint("mutability IN ('readWrite', 'immutable')", name=op.f("ck_custom_attributes_mutability")),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_custom_attributes_tenant_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_custom_attributes")),
        sa.UniqueConstraint("tenant_id", "number", name=op.f("uq_custom_attributes_tenant_id_number")),
    )
    op.create_index(
        "uq_custom_attributes_name", "custom_attributes", ["tenant_id", "resource_type", "name_key"], unique=True
    )
    op.create_index(
        "uq_resource_values_declared",
        "resource_values",
        ["tenant_id", "attribute", "value_key"],
        unique=True,
        postgresql_where=sa.text("attribute >= 20000"),
    )
    execute = op.get_bind().exec_driver_sql
    execute("GRANT SELECT, INSERT, UPDATE, DELETE ON custom_attributes TO scaikey_app, scaikey_platform")
    execute("ALTER TABLE custom_attributes ENABLE ROW LEVEL SECURITY")
    execute("ALTER TABLE custom_attributes FORCE ROW LEVEL SECURITY")
    execute(
        "CREATE POLICY tenant ON custom_attributes "
        "USING (tenant_id = current_setting('scaikey.tenant', true)) "
        "WITH CHECK (tenant_id = current_setting('scaikey.tenant', true))"
    )
    # The row of a tenant is the platform's to write; of its own the tenant may say that its declarations are others.
    execute("""
        CREATE FUNCTION scaikey_note_declarations() RETURNS void LANGUAGE sql VOLATILE
        SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
            UPDATE tenants SET declarations = declarations + 1 WHERE id = current_setting('scaikey.tenant', true) $$
    """)
    execute("REVOKE ALL ON FUNCTION scaikey_note_declarations() FROM PUBLIC")
    execute("GRANT EXECUTE ON FUNCTION scaikey_note_declarations() TO scaikey_app, scaikey_platform")
    execute("ALTER FUNCTION scaikey_note_declarations() OWNER TO scaikey_platform")
