"""The tenant wall: the session's scope, row-level security, composite keys; and the unit of work itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.orm import Session, aliased

from broker import ids
from broker.context import Scope, acting, system
from broker.db import (
    IN_TENANT,
    PLATFORM_BIND,
    HouseSession,
    WallError,
    after_commit,
    arrays,
    current_scope,
    current_tenant,
    db,
    directory_writes,
    hot,
    platform_scope,
    unit,
)
from broker.directory import Directory
from broker.models import (
    Application,
    ApplicationAccess,
    Base,
    Domain,
    Event,
    Group,
    Membership,
    Partner,
    Resource,
    TenantOwned,
    User,
)
from tests.conftest import World

Write = Callable[[Session, str], object]


@pytest.fixture
def people(world: World) -> tuple[str, str]:
    """Somebody of acme and somebody of globex, by id."""
    found = []
    for scope, name in ((world.acme, "ann"), (world.globex, "bob")):
        with acting(system("tests")), unit(scope):
            found.append(Directory().create("User", {"userName": name}).id)
    return found[0], found[1]


def domain(name: str, tenant_id: str | None = None) -> Domain:
    return Domain(id=ids.new("dom"), name=f"{name}-{ids.new('dom')[4:]}.test", token="t", tenant_id=tenant_id)


@pytest.mark.parametrize(
    "statement", [sa.select(User), sa.text("SELECT 1"), sa.select(User.__table__), sa.insert(Domain), sa.delete(User)]
)
def test_statement_without_a_scope_is_refused(app: Flask, statement: sa.Executable) -> None:
    with pytest.raises(WallError, match="without a scope"):
        db.session().execute(statement)


def test_nothing_can_be_written_or_asked_without_a_scope(app: Flask) -> None:
    for ask in (current_scope, current_tenant):
        with pytest.raises(WallError, match="without a scope"):
            ask()
    session = db.session()
    session.add(domain("stray", "tnt_x"))
    with pytest.raises(WallError, match="without a scope"):
        session.flush()
    session.rollback()


def test_scope_is_set_once(world: World) -> None:
    with unit(world.acme):
        for other in (world.globex, world.acme):
            with pytest.raises(WallError, match="already open"), unit(other):
                pytest.fail("a second scope was opened")
        with pytest.raises(WallError, match="already open"), platform_scope():
            pytest.fail("a wider scope was opened")
        assert current_tenant() == world.acme.tenant_id
    with unit(world.globex):
        assert current_scope() == world.globex


def test_unit_commits_or_takes_everything_back(world: World) -> None:
    with unit(world.acme) as session:
        session.add(domain("kept"))
    with pytest.raises(LookupError), unit(world.acme) as session:
        session.add(domain("lost"))
        session.flush()
        raise LookupError
    with unit(world.acme) as session:
        assert [name.partition("-")[0] for name in session.scalars(sa.select(Domain.name))] == ["kept"]


def test_what_waits_for_the_commit_is_done_once_after_it_and_never_without(world: World) -> None:
    done: list[bool] = []

    def ring() -> None:
        done.append("scope" in db.session().info)

    with unit(world.acme):
        after_commit(ring)
        after_commit(ring)
        assert done == []
    assert done == [False]
    with pytest.raises(LookupError), unit(world.acme):
        after_commit(ring)
        raise LookupError
    with unit(world.acme):
        pass
    assert done == [False]


@pytest.mark.parametrize(
    "ask",
    [
        lambda session: session.scalars(sa.select(User.name)),
        lambda session: [user.name for user in session.scalars(sa.select(User))],
        lambda session: session.scalars(sa.select(aliased(Resource).name)),
        lambda session: session.scalars(sa.select(Resource.__table__.c.name)),
        lambda session: session.scalars(sa.text("SELECT name FROM resources")),
        lambda session: session.connection().exec_driver_sql("SELECT name FROM resources").scalars(),
        lambda session: session.scalars(sa.select(sa.func.max(User.name))),
        lambda session: session.scalars(sa.select(User.name).union_all(sa.select(Resource.name).where(sa.false()))),
    ],
)
def test_other_tenants_rows_are_invisible(
    world: World, people: tuple[str, str], ask: Callable[[Session], Iterator[str]]
) -> None:
    for scope, name in ((world.acme, "ann"), (world.globex, "bob"), (world.acme, "ann")):
        with unit(scope) as session:
            assert list(ask(session)) == [name]


def test_other_tenants_rows_are_not_found_by_key(world: World, people: tuple[str, str]) -> None:
    ann, bob = people
    with unit(world.acme) as session:
        assert session.get(User, (world.acme.tenant_id, ann)) is not None
        assert session.get(User, (world.globex.tenant_id, bob)) is None
        assert session.get(User, (world.acme.tenant_id, bob)) is None


def test_wall_one_alone_hides_other_tenants_rows(
    world: World, people: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with unit(world.globex) as session:
        session.add(domain("theirs"))
    # A role that no policy binds.
    monkeypatch.setattr(HouseSession, "get_bind", lambda session, *args, **how: db.engines[PLATFORM_BIND])
    with unit(world.acme) as session:
        assert session.scalar(sa.text("SELECT count(*) > 1 FROM resources"))
        assert session.scalars(sa.select(User.name)).all() == ["ann"]
        assert session.scalars(sa.select(aliased(Resource).name).join(Membership, sa.true(), isouter=True)).all() == [
            "ann"
        ]
        assert session.get(User, (world.globex.tenant_id, people[1])) is None
        for statement in (sa.update(Domain).values(verified=True), sa.delete(Domain)):
            assert session.execute(statement).rowcount == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "write",
    [
        lambda session, tenant: session.execute(
            sa.insert(Domain.__table__).values(tenant_id=tenant, id=ids.new("dom"), name="x.test", token="t")
        ),
        lambda session, tenant: session.execute(
            sa.text("INSERT INTO domains (tenant_id, id, name, token) VALUES (:tenant, 'dom_x', 'x.test', 't')"),
            {"tenant": tenant},
        ),
        lambda session, tenant: session.execute(sa.text("UPDATE domains SET tenant_id = :tenant"), {"tenant": tenant}),
    ],
)
def test_rows_of_another_tenant_are_refused_by_the_database(world: World, write: Write) -> None:
    with unit(world.acme) as session:
        session.add(domain("own"))
    with pytest.raises(ProgrammingError, match="row-level security"), unit(world.acme) as session:
        write(session, str(world.globex.tenant_id))


def test_rows_of_another_tenant_are_refused_by_the_session(world: World) -> None:
    with pytest.raises(WallError, match="another tenant"), unit(world.acme) as session:
        session.add(domain("x", world.globex.tenant_id))
        session.flush()
    with unit(world.acme) as session:
        session.add(domain("x"))
    with pytest.raises(WallError, match="another tenant"), unit(world.acme) as session:
        session.scalars(sa.select(Domain)).one().tenant_id = str(world.globex.tenant_id)
        session.flush()


def test_others_rows_are_neither_changed_nor_deleted(world: World, people: tuple[str, str]) -> None:
    with unit(world.globex) as session:
        session.add(domain("theirs"))
    for statement in (
        sa.update(Domain).values(verified=True),
        sa.delete(Domain),
        sa.update(Domain.__table__).values(verified=True),
        sa.text("UPDATE domains SET verified = true"),
        sa.text("DELETE FROM domains"),
    ):
        with unit(world.acme) as session:
            assert session.execute(statement).rowcount == 0  # type: ignore[attr-defined]
    with unit(world.globex) as session:
        assert session.scalars(sa.select(Domain.verified)).all() == [False]


def test_new_rows_get_the_tenant_of_the_scope(world: World) -> None:
    with unit(world.acme) as session:
        session.add(made := domain("x"))
        session.flush()
        assert made.tenant_id == world.acme.tenant_id


@pytest.mark.parametrize("column", ["group_id", "member_id"])
def test_keys_do_not_leave_the_tenant(world: World, people: tuple[str, str], column: str) -> None:
    ann, bob = people
    with acting(system("tests")), unit(world.acme):
        staff = Directory().create("Group", {"displayName": "staff"}).id
    refers = {"group_id": staff, "member_id": ann, column: bob}
    with (
        pytest.raises(IntegrityError, match="foreign key"),
        directory_writes(),
        platform_scope() as session,
    ):
        session.add(Membership(tenant_id=world.acme.tenant_id, member_key="x", **refers))


def test_every_tenants_table_refers_to_its_own_tenant_alone() -> None:
    for mapper in Base.registry.mappers:
        if not issubclass(mapper.class_, TenantOwned):
            continue
        table = mapper.local_table
        assert isinstance(table, sa.Table)
        assert next(iter(table.primary_key.columns)).name == "tenant_id", table.name
        for constraint in table.foreign_key_constraints:
            targets = [element.target_fullname for element in constraint.elements]
            alone = constraint.column_keys == ["tenant_id"] and targets == ["tenants.id"]
            together = constraint.column_keys[0].endswith("tenant_id") and targets[0].endswith(".tenant_id")
            assert alone or together, (table.name, targets)


def test_every_table_has_its_policy_and_none_is_exempt(world: World) -> None:
    with platform_scope() as session:
        tables = session.execute(
            sa.text(
                "SELECT c.relname, c.relrowsecurity AND c.relforcerowsecurity,"
                " EXISTS (SELECT 1 FROM pg_policy p WHERE p.polrelid = c.oid),"
                " pg_get_userbyid(c.relowner) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
                " WHERE n.nspname = 'public' AND c.relkind = 'r' AND c.relname <> 'alembic_version'"
            )
        ).all()
    assert {name for name, _, _, _ in tables} == set(Base.metadata.tables)
    assert all(forced and owner == "scaikey_owner" for _, forced, _, owner in tables)
    owned = {str(mapper.local_table.name) for mapper in Base.registry.mappers if issubclass(mapper.class_, TenantOwned)}  # type: ignore[attr-defined]
    assert owned <= {name for name, _, policy, _ in tables if policy}


def test_application_role_is_bound_by_the_policies(world: World) -> None:
    with unit(world.acme) as session:
        role = session.execute(
            sa.text("SELECT rolname, rolsuper, rolbypassrls, rolcreaterole FROM pg_roles WHERE rolname = current_user")
        ).one()
    assert tuple(role) == ("scaikey_app", False, False, False)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO partners (id, name, slug) VALUES ('prt_x', 'x', 'x')",
        "UPDATE tenants SET name = 'x'",
        "DELETE FROM events",
        "UPDATE events SET name = 'x'",
        "SELECT * FROM platform_facts",
        "SELECT * FROM retired_slugs",
        "ALTER TABLE resources DISABLE ROW LEVEL SECURITY",
        "SET ROLE scaikey_platform",
        "CREATE TABLE mine (id int)",
    ],
)
def test_application_role_may_not(world: World, statement: str) -> None:
    with pytest.raises(ProgrammingError, match=r"permission denied|must be owner"), unit(world.acme) as session:
        session.execute(sa.text(statement))


def test_a_tenant_reads_itself_and_its_partner_alone(world: World) -> None:
    with unit(world.acme) as session:
        assert session.execute(sa.text("SELECT id FROM tenants")).scalars().all() == [world.acme.tenant_id]
        assert session.scalars(sa.select(Partner.id)).all() == [world.partner_id]


def test_applications_show_to_their_owner_and_to_who_has_access(world: World) -> None:
    def application(scope: Scope, name: str) -> Application:
        made = Application(id=ids.new("app"), name=name, type="web", client_id=ids.new("app"), scope="PARTNER")
        made.tenant_id = str(scope.tenant_id)
        return made

    with platform_scope() as session:
        shared, private = application(world.home, "shared"), application(world.home, "private")
        session.add_all([shared, private])
        session.flush()
        session.add(
            ApplicationAccess(
                tenant_id=world.acme.tenant_id, application_id=shared.id, owner_tenant_id=world.home.tenant_id
            )
        )
    seen = {}
    for scope in (world.home, world.acme, world.globex):
        with unit(scope) as session:
            by_orm = sorted(session.scalars(sa.select(Application.name)))
            assert by_orm == sorted(session.execute(sa.text("SELECT name FROM applications")).scalars())
            seen[scope] = by_orm
    assert seen == {world.home: ["private", "shared"], world.acme: ["shared"], world.globex: []}
    with unit(world.acme) as session:
        assert session.execute(sa.text("UPDATE applications SET name = 'x'")).rowcount == 0  # type: ignore[attr-defined]
    with pytest.raises(WallError, match="another tenant"), unit(world.acme) as session:
        session.scalars(sa.select(Application)).one().name = "x"


@pytest.mark.parametrize(
    "write",
    [
        lambda session, tenant: session.add(User(id=ids.new("usr"), name="x", name_key="x", document=b"{}")),
        lambda session, tenant: session.execute(sa.update(User).values(name="x")),
        lambda session, tenant: session.execute(sa.delete(Group)),
        lambda session, tenant: session.execute(sa.insert(Membership).values(tenant_id=tenant, group_id="grp_x")),
        lambda session, tenant: session.execute(sa.insert(Membership.__table__).values(tenant_id=tenant)),
        lambda session, tenant: session.execute(sa.update(Resource.__table__).values(name="x")),
        lambda session, tenant: session.execute(sa.delete(Resource.__table__)),
        lambda session, tenant: setattr(session.scalars(sa.select(User).limit(1)).one(), "name", "x"),
        lambda session, tenant: session.delete(session.scalars(sa.select(User).limit(1)).one()),
    ],
)
def test_directory_is_written_by_the_directory_alone(world: World, people: tuple[str, str], write: Write) -> None:
    with pytest.raises(WallError, match=r"broker\.directory alone"), unit(world.acme) as session:
        write(session, str(world.acme.tenant_id))
        session.flush()
    with pytest.raises(WallError, match=r"broker\.directory alone"), platform_scope() as session:
        write(session, str(world.acme.tenant_id))
        session.flush()
    with unit(world.acme) as session:
        assert session.scalars(sa.select(User.name)).all() == ["ann"]


def test_platform_scope_spans_tenants_and_belongs_to_none(world: World, people: tuple[str, str]) -> None:
    with platform_scope() as session:
        assert current_scope().spans_tenants
        with pytest.raises(WallError, match="spans tenants"):
            current_tenant()
        with pytest.raises(ValueError, match="one tenant"):
            Directory()
        assert set(session.scalars(sa.select(User.id).where(User.id.in_(people)))) == set(people)
        assert session.execute(sa.text("SELECT current_user")).scalar_one() == "scaikey_platform"


def test_tenant_does_not_leak_to_the_pools_next_user(world: World, people: tuple[str, str]) -> None:
    def backend(connection: sa.Connection) -> int:
        return int(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())

    with unit(world.acme) as session:
        pid = backend(session.connection())
    for _ in range(20):
        with db.engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT current_setting('scaikey.tenant', true)").scalar_one() in (
                "",
                None,
            )
            assert connection.exec_driver_sql("SELECT count(*) FROM resources").scalar_one() == 0
            if backend(connection) == pid:
                break
    else:
        pytest.fail("the connection was not used again")
    with pytest.raises(LookupError), unit(world.acme) as session:
        session.execute(sa.select(User))
        raise LookupError
    with db.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM resources").scalar_one() == 0


def test_hot_reads_see_only_the_tenant_they_name(world: World, people: tuple[str, str]) -> None:
    inside = (
        f"{IN_TENANT} SELECT r.name FROM scope, LATERAL "
        "(SELECT name FROM resources WHERE tenant_id = scope.tenant OFFSET 0) r"
    )
    for scope, name in ((world.acme, "ann"), (world.globex, "bob"), (world.acme, "ann")):
        assert [row.name for row in hot(inside, {"tenant": scope.tenant_id})] == [name]  # type: ignore[arg-type]
        assert hot("SELECT name FROM resources") == []
    assert hot(inside, {"tenant": "tnt_nobody"}) == []  # type: ignore[arg-type]


def test_hot_goes_on_after_a_failure(world: World) -> None:
    for _ in range(3):
        with pytest.raises(DBAPIError):
            hot("SELECT 1 / 0")
    assert hot("SELECT 1 AS one")[0][0] == 1


def test_arrays_reach_the_database_as_they_are(world: World) -> None:
    texts = ["plain", 'quo"te', "back\\slash", "com,ma", "{brace}", "NULL", "", " pad ", "new\nline", "é😀", None]
    octets = [b"", b'\x00\xff\\"', None]
    moments = [datetime(2020, 1, 2, 3, 4, 5, 678901, UTC), None]
    statement = sa.text(
        "SELECT CAST(:texts AS text[]), CAST(:octets AS bytea[]), CAST(:moments AS timestamptz[]),"
        " CAST(:numbers AS bigint[]), CAST(:flags AS boolean[]), CAST(:none AS text[]), :plain"
    )
    values = {
        "texts": texts,
        "octets": octets,
        "moments": moments,
        "numbers": [1 << 62, -1, None],
        "flags": [True, False, None],
        "none": [],
        "plain": "as it is",
    }
    with unit(world.acme) as session:
        found = session.execute(statement, arrays(values)).one()
    assert tuple(found) == tuple(values.values())


def test_events_are_never_altered(world: World, people: tuple[str, str]) -> None:
    with pytest.raises(ProgrammingError, match="permission denied"), unit(world.acme) as session:
        session.execute(sa.delete(Event))
