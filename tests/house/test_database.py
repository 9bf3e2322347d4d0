"""The walls as PostgreSQL has them: policies, keys, grants and functions, asked of a migrated database."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa
from flask import Flask

from broker.context import acting, system
from broker.db import platform_scope, unit
from broker.embedded import Services
from broker.models import Application, ApplicationAccess, Base, TenantOwned
from broker.registry import applications
from tests.conftest import World

PLATFORM_TABLES = {"partners", "tenants", "retired_slugs", "setting_values", "platform_facts", "signing_keys"}
READ_BY_THE_APP = {"partners", "tenants", "setting_values", "signing_keys", "alembic_version"}
UNIQUE_IN_THE_PLATFORM = {
    ("applications", "client_id"),
    ("personal_access_tokens", "digest"),
    ("scim_tokens", "digest"),
    ("scim_tokens", "earlier_digest"),
    ("domains", "name"),
    ("service_accounts", "client_id"),
    ("authorization_codes", "digest"),
    ("refresh_tokens", "digest"),
    ("sessions", "digest"),
}
"""Found before any tenant is known."""

OURS = {mapper.local_table.name for mapper in Base.registry.mappers}
OF_TENANTS = {
    mapper.local_table.name
    for mapper in Base.registry.mappers
    if issubclass(mapper.class_, TenantOwned) or mapper.class_ is Application
}


@pytest.fixture(scope="module")
def owner(services: Services) -> Iterator[psycopg.Connection]:
    with psycopg.connect(plain(services.owner_database_url), autocommit=True) as connection:
        yield connection


@pytest.fixture
def as_app(services: Services) -> Iterator[psycopg.Connection]:
    with psycopg.connect(plain(services.database_url)) as connection:
        yield connection
        connection.rollback()


def plain(url: str) -> str:
    return url.replace("postgresql+psycopg:", "postgresql:")


def column(connection: psycopg.Connection, statement: str) -> set[str]:
    return {row[0] for row in connection.execute(statement)}


def test_every_table_is_of_tenants_or_of_the_platform(owner: psycopg.Connection) -> None:
    assert OURS == OF_TENANTS | PLATFORM_TABLES and not OF_TENANTS & PLATFORM_TABLES
    there = column(
        owner, "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"
    )
    assert there == OURS | {"alembic_version"}
    assert column(owner, "SELECT viewname FROM pg_views WHERE schemaname = 'public'") == set()


def test_every_table_forces_row_level_security(owner: psycopg.Connection) -> None:
    forced = "SELECT relname FROM pg_class WHERE relrowsecurity AND relforcerowsecurity"
    assert column(owner, forced) == OURS


def test_every_policy_of_a_tenants_table_asks_for_the_tenant(owner: psycopg.Connection) -> None:
    """To read and to write: a policy without WITH CHECK would let rows out."""
    tenant = "current_setting('scaikey.tenant'::text, true)"
    seen: dict[str, set[str]] = {}
    policies = "SELECT tablename, cmd, permissive, roles, qual, with_check FROM pg_policies WHERE schemaname = 'public'"
    for table, deed, permissive, roles, reading, writing in owner.execute(policies):
        seen.setdefault(table, set()).add(deed)
        assert permissive == "PERMISSIVE" and roles == ["public"]
        if table == "signing_keys":
            assert (deed, reading) == ("SELECT", "true")  # every process signs with them; the private half is sealed
            continue
        for clause in filter(None, (reading, writing)):
            assert tenant in clause or "FROM tenants" in clause, (table, clause)
        assert (writing is not None) == (deed in ("ALL", "INSERT")), (table, deed)
    assert {table for table in OF_TENANTS if seen.get(table) == {"ALL"}} == OF_TENANTS - {"applications"}
    assert seen["applications"] == {"SELECT", "INSERT", "UPDATE", "DELETE"}
    assert {table: seen.get(table) for table in PLATFORM_TABLES} == {
        "partners": {"SELECT"},
        "tenants": {"SELECT"},
        "setting_values": {"SELECT", "INSERT", "UPDATE", "DELETE"},
        "retired_slugs": None,
        "platform_facts": None,
        "signing_keys": {"SELECT"},
    }


@pytest.mark.parametrize("name", sorted(OF_TENANTS))
def test_keys_begin_with_the_tenant_and_do_not_leave_it(name: str) -> None:
    table = Base.metadata.tables[name]
    assert next(iter(table.primary_key.columns)).name == "tenant_id"
    uniques = [tuple(column.name for column in index.columns) for index in table.indexes if index.unique]
    uniques += [
        tuple(column.name for column in constraint.columns)
        for constraint in table.constraints
        if isinstance(constraint, sa.UniqueConstraint)
    ]
    for columns in uniques:
        assert columns[0] == "tenant_id" or (name, *columns) in UNIQUE_IN_THE_PLATFORM, columns
    assert table.foreign_key_constraints, "belongs to nobody"
    for key in table.foreign_key_constraints:
        pairs = [(element.parent.name, element.target_fullname) for element in key.elements]
        first, target = pairs[0]
        of_tenants = target.partition(".")[0] != "tenants"
        if name == "application_access" and first == "owner_tenant_id":
            assert target == "applications.tenant_id"
        else:
            assert first == "tenant_id" and target.endswith(".tenant_id" if of_tenants else "tenants.id"), pairs
        assert len(pairs) == (2 if of_tenants else 1)


def test_no_order_of_everybodys_resources_is_there_to_be_walked(owner: psycopg.Connection) -> None:
    """One plan serves all tenants: where an order spans them, the smallest is looked for among the rest."""
    spanning = """
        SELECT x.relname FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indrelid = 'resources'::regclass AND m.amname = 'btree' AND a.attname <> 'tenant_id'"""
    assert column(owner, spanning) == set()


def test_models_and_database_have_the_same_keys(owner: psycopg.Connection) -> None:
    """What is checked on the models above is what stands in the database."""
    begins = """
        SELECT DISTINCT c.relname FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.conkey[1]
        WHERE k.contype = 'p' AND a.attname = 'tenant_id' AND c.relnamespace = 'public'::regnamespace"""
    assert column(owner, begins) == OF_TENANTS
    leaving = """
        SELECT c.relname || '.' || k.conname FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
        JOIN pg_class f ON f.oid = k.confrelid
        WHERE k.contype = 'f' AND f.relname NOT IN ('tenants', 'partners') AND cardinality(k.conkey) < 2"""
    assert column(owner, leaving) == set()


def test_the_app_role_may_do_what_it_needs_and_nothing_else(owner: psycopg.Connection) -> None:
    granted: dict[str, set[str]] = {}
    statement = """
        SELECT c.relname, a.privilege_type FROM pg_class c, aclexplode(c.relacl) a JOIN pg_roles r ON r.oid = a.grantee
        WHERE r.rolname = 'scaikey_app' AND c.relkind IN ('r', 'p')"""
    for table, deed in owner.execute(statement):
        granted.setdefault(table, set()).add(deed)
    every = {"SELECT", "INSERT", "UPDATE", "DELETE"}
    expected = dict.fromkeys(OF_TENANTS, every) | {table: {"SELECT"} for table in READ_BY_THE_APP}
    expected |= {"events": {"SELECT", "INSERT"}, "setting_values": every, "resource_counts": {"SELECT"}}
    assert granted == expected


@pytest.mark.parametrize("role", ["scaikey_app", "scaikey_platform"])
def test_working_roles_own_nothing_and_climb_nowhere(owner: psycopg.Connection, role: str) -> None:
    attributes = "rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls"
    found = owner.execute(f"SELECT {attributes} FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
    assert found == (False, False, False, False, role == "scaikey_platform")
    owned = f"SELECT relname FROM pg_class WHERE relowner = '{role}'::regrole"
    assert column(owner, owned) == set()
    above = f"SELECT roleid::regrole::text FROM pg_auth_members WHERE member = '{role}'::regrole"
    assert column(owner, above) == set()
    assert owner.execute("SELECT has_database_privilege(%s, current_database(), 'CREATE')", (role,)).fetchone() == (
        False,
    )
    assert column(owner, f"SELECT has_schema_privilege('{role}', 'public', 'CREATE')") == {role == "scaikey_platform"}


def test_nobody_else_may_enter(owner: psycopg.Connection) -> None:
    public = """
        SELECT c.relname FROM pg_class c, aclexplode(c.relacl) a
        WHERE a.grantee = 0 AND c.relnamespace = 'public'::regnamespace"""
    assert column(owner, public) == set()
    for what, privilege in (("database", "CONNECT"), ("schema", "USAGE"), ("schema", "CREATE")):
        name = "current_database()" if what == "database" else "'public'"
        found = owner.execute(f"SELECT has_{what}_privilege('public', {name}, '{privilege}')").fetchone()
        assert found == (False,), (what, privilege)


def test_functions_with_their_owners_rights_are_closed(owner: psycopg.Connection) -> None:
    """A fixed search path in which nobody's temporary tables come first, and no execution by everybody."""
    statement = """
        SELECT p.proname, p.proowner::regrole::text, p.proconfig, p.prosecdef,
               coalesce(array_agg(a.grantee::regrole::text ORDER BY 1) FILTER (WHERE a.grantee <> p.proowner), '{}'),
               p.proacl IS NULL OR bool_or(a.grantee = 0)
        FROM pg_proc p LEFT JOIN LATERAL aclexplode(p.proacl) a ON true
        WHERE p.pronamespace = 'public'::regnamespace GROUP BY p.oid"""
    found = {name: rest for name, *rest in owner.execute(statement)}
    assert found.keys() == {
        *(f"scaikey_find_{noun}" for noun in ("token", "tenant", "client", "audience", "code")),
        *(f"scaikey_find_{noun}" for noun in ("refresh", "session", "domain", "elsewhere")),
        *(f"scaikey_count_{happened}" for happened in ("insert", "update", "delete", "gather")),
        "scaikey_note_declarations",
        "scaikey_refresh_statistics",
    }
    for name, (function_owner, config, definer, grantees, public) in found.items():
        of_platform = name != "scaikey_refresh_statistics"
        assert definer and not public, name
        assert config == ["search_path=pg_catalog, public, pg_temp"], name
        assert function_owner == ("scaikey_platform" if of_platform else "scaikey_owner")
        called_by_a_trigger = name.startswith("scaikey_count_")
        assert set(grantees) == (set() if called_by_a_trigger else {"scaikey_app"}), name


def test_a_finder_is_not_deceived_by_a_table_of_the_caller(as_app: psycopg.Connection, world: World) -> None:
    as_app.execute("CREATE TEMPORARY TABLE tenants (id text, slug text)")
    as_app.execute("INSERT INTO pg_temp.tenants VALUES ('tnt_mine', %s)", (world.acme.slug,))
    as_app.execute("GRANT ALL ON pg_temp.tenants TO PUBLIC")
    found = as_app.execute("SELECT tenant_id FROM scaikey_find_tenant(%s)", (world.acme.slug,)).fetchall()
    assert found == [(world.acme.tenant_id,)]


def test_a_transaction_without_a_tenant_sees_and_writes_nothing(as_app: psycopg.Connection, world: World) -> None:
    for table in sorted(OF_TENANTS | {"tenants", "partners"}):
        assert as_app.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        as_app.execute(
            "INSERT INTO domains (tenant_id, id, name, token) VALUES (%s, 'dom_x', 'x.example', 'x')",
            (world.acme.tenant_id,),
        )


@pytest.mark.parametrize("deed", ["UPDATE events SET name = 'x'", "DELETE FROM events", "TRUNCATE events"])
def test_the_audit_log_is_only_added_to(as_app: psycopg.Connection, deed: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        as_app.execute(deed)


@pytest.mark.parametrize(
    "deed",
    [
        "UPDATE tenants SET status = 'active'",
        "INSERT INTO partners (id, name, slug) VALUES ('prt_x', 'x', 'x')",
        "SELECT * FROM platform_facts",
        "SELECT * FROM retired_slugs",
        "UPDATE setting_values SET value = '1' WHERE owner_id = 'platform' RETURNING 1",
    ],
)
def test_the_app_role_does_not_write_what_is_the_platforms(as_app: psycopg.Connection, world: World, deed: str) -> None:
    as_app.execute("SELECT set_config('scaikey.tenant', %s, true)", (world.acme.tenant_id,))
    if "setting_values" in deed:
        assert as_app.execute(deed).fetchall() == []
        return
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        as_app.execute(deed)


def test_a_tenant_cannot_help_itself_to_anothers_application(
    app: Flask, as_app: psycopg.Connection, world: World
) -> None:
    """Not even in SQL: access to what another tenant keeps is written across the wall, by those above."""
    with unit(world.globex), acting(system("test")):
        made = applications.create({"name": "Theirs", "type": "web"}).id
    with unit(world.home), acting(system("test")):
        shared = applications.create({"name": "Shared", "type": "web", "scope": "PARTNER"}).id
    with platform_scope() as session, acting(system("test")):
        applications.share(session.get_one(Application, (world.home.tenant_id, shared)), world.acme.tenant_id or "")
    as_app.execute("SELECT set_config('scaikey.tenant', %s, true)", (world.acme.tenant_id,))
    assert as_app.execute("SELECT id FROM applications").fetchall() == [(shared,)]
    assert as_app.execute("UPDATE applications SET name = 'Mine'").rowcount == 0
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        as_app.execute(
            "INSERT INTO application_access (tenant_id, application_id, owner_tenant_id) VALUES (%s, %s, %s)",
            (world.acme.tenant_id, made, world.globex.tenant_id),
        )
    with unit(world.acme) as session:
        own = session.scalars(sa.select(ApplicationAccess.application_id)).all()
    assert own == [shared]
