"""How many live resources of a type a tenant has is kept, and no longer counted for every page.

Whose an id is, is asked by a hash: an order of all ids would let a page of one tenant walk past everybody else's.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

TENANT = "current_setting('scaikey.tenant', true)"
WITH_ITS_OWN_RIGHTS = "RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp"
COUNTED = "{0}.removed_at IS NULL AND {0}.user_type IS DISTINCT FROM 'ServiceAccount'"


def upgrade() -> None:
    op.create_table(
        "resource_counts",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("type", sa.Text(collation="C"), nullable=False),
        sa.Column("no", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("resources", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_resource_counts_tenant_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tenant_id", "type", "no", name=op.f("pk_resource_counts")),
    )
    execute = op.get_bind().exec_driver_sql
    execute("GRANT SELECT, INSERT, UPDATE, DELETE ON resource_counts TO scaikey_platform")
    execute("ALTER TABLE resource_counts ENABLE ROW LEVEL SECURITY")
    execute("ALTER TABLE resource_counts FORCE ROW LEVEL SECURITY")
    # Read only: what is counted is said by the triggers, with the platform's rights.
    execute("GRANT SELECT ON resource_counts TO scaikey_app")
    execute(f"CREATE POLICY tenant ON resource_counts USING (tenant_id = {TENANT}) WITH CHECK (tenant_id = {TENANT})")
    # A tenant that is deleted takes its resources along, and nothing is counted of it any more.
    still_there = "AND EXISTS (SELECT FROM tenants t WHERE t.id = s.tenant_id)"
    for happened, rows, number, of in (
        ("insert", "NEW", "count(*)", ""),
        ("delete", "OLD", "-count(*)", still_there),
    ):
        execute(f"""
            CREATE FUNCTION scaikey_count_{happened}() {WITH_ITS_OWN_RIGHTS} AS $$
            BEGIN
                INSERT INTO resource_counts (tenant_id, type, resources)
                SELECT s.tenant_id, s.type, {number} FROM touched s
                WHERE {COUNTED.format("s")} {of} GROUP BY s.tenant_id, s.type;
                RETURN NULL;
            END $$
        """)
        execute(f"""
            CREATE TRIGGER count_{happened} AFTER {happened} ON resources REFERENCING {rows} TABLE AS touched
            FOR EACH STATEMENT EXECUTE FUNCTION scaikey_count_{happened}()
        """)
    # By the statement as well: a thousand who are taken away at once are one row, and not a thousand.
    execute(f"""
        CREATE FUNCTION scaikey_count_update() {WITH_ITS_OWN_RIGHTS} AS $$
        BEGIN
            INSERT INTO resource_counts (tenant_id, type, resources)
            SELECT s.tenant_id, s.type, sum(s.number) FROM (
                SELECT o.tenant_id, o.type, -1 AS number FROM earlier o WHERE {COUNTED.format("o")}
                UNION ALL
                SELECT n.tenant_id, n.type, 1 FROM later n WHERE {COUNTED.format("n")}) s
            GROUP BY s.tenant_id, s.type HAVING sum(s.number) <> 0;
            RETURN NULL;
        END $$
    """)
    execute("""
        CREATE TRIGGER count_update AFTER UPDATE ON resources REFERENCING OLD TABLE AS earlier NEW TABLE AS later
        FOR EACH STATEMENT EXECUTE FUNCTION scaikey_count_update()
    """)
    # Now and then the rows of a tenant become one again. Nobody waits for anybody: what another has in hand is left.
    execute(f"""
        CREATE FUNCTION scaikey_count_gather() {WITH_ITS_OWN_RIGHTS} AS $$
        BEGIN
            WITH taken AS (
                DELETE FROM resource_counts WHERE ctid = ANY(ARRAY(
                    SELECT ctid FROM resource_counts WHERE tenant_id = NEW.tenant_id AND type = NEW.type
                    FOR UPDATE SKIP LOCKED))
                RETURNING resources)
            INSERT INTO resource_counts (tenant_id, type, resources)
            SELECT NEW.tenant_id, NEW.type, sum(resources) FROM taken HAVING count(*) > 0;
            RETURN NULL;
        END $$
    """)
    execute("""
        CREATE TRIGGER count_gather AFTER INSERT ON resource_counts FOR EACH ROW
        WHEN (mod(NEW.no, 64) = 0) EXECUTE FUNCTION scaikey_count_gather()
    """)
    for happened in ("insert", "update", "delete", "gather"):
        execute(f"REVOKE ALL ON FUNCTION scaikey_count_{happened}() FROM PUBLIC")
        execute(f"ALTER FUNCTION scaikey_count_{happened}() OWNER TO scaikey_platform")
    # Creating a trigger has shut out everybody who writes: nobody is missed.
    for name in ("resources", "resource_counts"):
        execute(f"ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY")
    execute(f"""
        INSERT INTO resource_counts (tenant_id, type, resources)
        SELECT r.tenant_id, r.type, count(*) FROM resources r WHERE {COUNTED.format("r")} GROUP BY r.tenant_id, r.type
    """)
    for name in ("resources", "resource_counts"):
        execute(f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY")
    op.drop_index("ix_resources_id", "resources")
    op.create_index("ix_resources_id", "resources", ["id"], postgresql_using="hash")
    # Asked one by one: a hash does not look for several.
    execute("SET LOCAL ROLE scaikey_platform")
    execute("""
        CREATE OR REPLACE FUNCTION scaikey_find_elsewhere(wanted text[]) RETURNS TABLE (id text) LANGUAGE sql STABLE
        SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
            SELECT r.id FROM unnest(wanted) AS w(id), LATERAL (
                SELECT r.id FROM resources r
                WHERE r.id = w.id AND r.tenant_id <> current_setting('scaikey.tenant', true) OFFSET 0) r $$
    """)
    execute("RESET ROLE")
