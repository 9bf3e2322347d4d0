"""The walls: row-level security of every table, the grants of the three roles, and the finders that know no tenant."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

PLATFORM_TABLES = ("partners", "tenants", "retired_slugs", "setting_values", "platform_facts")
TENANT_TABLES = (
    "application_access",
    "assignments",
    "deliveries",
    "domains",
    "events",
    "held_removals",
    "identity_providers",
    "link_records",
    "links",
    "memberships",
    "personal_access_tokens",
    "resource_values",
    "resources",
    "role_assignments",
    "scim_targets",
    "scim_tokens",
    "sync_runs",
    "sync_skips",
    "target_members",
    "target_removals",
    "target_resources",
)
SHARED_TABLES = ("applications",)
APPEND_ONLY = ("events",)

TENANT = "current_setting('scaikey.tenant', true)"


def upgrade() -> None:
    execute = op.get_bind().exec_driver_sql
    execute("GRANT USAGE ON SCHEMA public TO scaikey_app, scaikey_platform")
    for name in (*PLATFORM_TABLES, *SHARED_TABLES, *TENANT_TABLES):
        execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO scaikey_platform")
        execute(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY")
        execute(f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY")
        if name in PLATFORM_TABLES:
            continue
        deeds = "SELECT, INSERT" if name in APPEND_ONLY else "SELECT, INSERT, UPDATE, DELETE"
        execute(f"GRANT {deeds} ON {name} TO scaikey_app")
        if name not in SHARED_TABLES:
            written = f"tenant_id = {TENANT}"
            if name == "application_access":
                # Nobody helps himself to another tenant's application: that one is shared across the wall, from above.
                written += f" AND owner_tenant_id = {TENANT}"
            execute(f"CREATE POLICY tenant ON {name} USING (tenant_id = {TENANT}) WITH CHECK ({written})")
    execute("GRANT SELECT ON alembic_version TO scaikey_app, scaikey_platform")
    execute("GRANT SELECT ON tenants, partners, setting_values TO scaikey_app")
    execute("GRANT INSERT, UPDATE, DELETE ON setting_values TO scaikey_app")
    execute(f"CREATE POLICY own ON tenants FOR SELECT USING (id = {TENANT})")
    execute("CREATE POLICY own ON partners FOR SELECT USING (id = (SELECT partner_id FROM tenants))")
    execute(
        "CREATE POLICY levels ON setting_values FOR SELECT USING "
        f"(owner_id IN ('platform', {TENANT}, (SELECT partner_id FROM tenants)))"
    )
    for deed, clause in (("INSERT", "WITH CHECK"), ("UPDATE", "USING"), ("DELETE", "USING")):
        execute(f"CREATE POLICY own_{deed.lower()} ON setting_values FOR {deed} {clause} (owner_id = {TENANT})")
    execute(
        "CREATE POLICY visible ON applications FOR SELECT USING "
        f"(tenant_id = {TENANT} OR EXISTS (SELECT 1 FROM application_access a "
        f"WHERE a.tenant_id = {TENANT} AND a.application_id = applications.id))"
    )
    for deed, clause in (("INSERT", "WITH CHECK"), ("UPDATE", "USING"), ("DELETE", "USING")):
        execute(f"CREATE POLICY own_{deed.lower()} ON applications FOR {deed} {clause} (tenant_id = {TENANT})")
    execute("CREATE STATISTICS links_of_provider (dependencies, ndistinct) ON tenant_id, provider_id FROM links")
    execute("CREATE STATISTICS resources_of_type (dependencies, ndistinct) ON tenant_id, type FROM resources")
    execute(
        "CREATE FUNCTION scaikey_refresh_statistics() RETURNS void LANGUAGE sql SECURITY DEFINER "
        "SET search_path = pg_catalog, public, pg_temp AS $$ "
        "ANALYZE resources; ANALYZE resource_values; ANALYZE links; ANALYZE link_records; ANALYZE memberships; "
        "ANALYZE deliveries; ANALYZE target_resources; ANALYZE target_members; $$"
    )
    execute("REVOKE ALL ON FUNCTION scaikey_refresh_statistics() FROM PUBLIC")
    execute("GRANT EXECUTE ON FUNCTION scaikey_refresh_statistics() TO scaikey_app")
    finder(
        "scaikey_find_token(wanted bytea)",
        "TABLE (tenant_id text, id text, kind text)",
        "SELECT tenant_id, id, 'pat' FROM personal_access_tokens WHERE digest = wanted "
        "UNION ALL SELECT tenant_id, id, 'scim' FROM scim_tokens WHERE digest = wanted",
    )
    finder(
        "scaikey_find_tenant(wanted text)",
        "TABLE (tenant_id text)",
        "SELECT id FROM tenants WHERE slug = wanted",
    )


def finder(signature: str, returns: str, body: str) -> None:
    """A look-up that must come before any tenant is known: returns tenant and id, nothing else."""
    execute = op.get_bind().exec_driver_sql
    execute(
        f"CREATE FUNCTION {signature} RETURNS {returns} LANGUAGE sql STABLE ROWS 1 SECURITY DEFINER "
        f"SET search_path = pg_catalog, public, pg_temp AS $$ {body} $$"
    )
    execute(f"REVOKE ALL ON FUNCTION {signature_only(signature)} FROM PUBLIC")
    execute(f"GRANT EXECUTE ON FUNCTION {signature_only(signature)} TO scaikey_app, scaikey_platform")
    execute(f"ALTER FUNCTION {signature_only(signature)} OWNER TO scaikey_platform")


def signature_only(signature: str) -> str:
    name, _, arguments = signature.rstrip(")").partition("(")
    types = ", ".join(argument.split()[-1] for argument in arguments.split(","))
    return f"{name}({types})"
