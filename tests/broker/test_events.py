"""The audit log and the outbox: written with the change, in sets, owed once per target and resource."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session

from broker import events, ids
from broker.context import Actor, Scope, acting, system
from broker.db import current_tenant, db, platform_scope, unit
from broker.events import Changes, owe, record, subscribe
from broker.models import Application, ApplicationAccess, Delivery, Event, ScimTarget
from tests.conftest import World


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No subscriber and no bell but the test's own."""
    monkeypatch.setattr(events, "_subscribers", [])
    monkeypatch.setattr(events, "_bells", [])


@pytest.fixture
def targets(world: World) -> dict[Scope, str]:
    """A target in each customer tenant."""
    found = {}
    with platform_scope() as session:
        for scope in world.tenants:
            tenant = str(scope.tenant_id)
            application = Application(
                tenant_id=tenant, id=ids.new("app"), name="a", type="web", client_id=ids.new("app")
            )
            session.add(application)
            session.flush()
            access = ApplicationAccess(tenant_id=tenant, application_id=application.id, owner_tenant_id=tenant)
            session.add(access)
            session.flush()
            target = ScimTarget(
                tenant_id=tenant, id=ids.new("tgt"), application_id=application.id, base_url="https://x"
            )
            session.add(target)
            found[scope] = target.id
    return found


def changes(*lines: tuple[Any, ...]) -> Changes:
    batch = Changes()
    for line in lines:
        batch.add(*line)
    return batch


def tell(scope: Scope, *lines: tuple[Any, ...]) -> None:
    with acting(system("tests")), unit(scope):
        record(changes(*lines))


def log(scope: Scope) -> list[Event]:
    with unit(scope) as session:
        found = list(session.scalars(sa.select(Event).order_by(Event.no)))
        session.expunge_all()
        return found


def owed(scope: Scope) -> list[tuple[str, str, str, int]]:
    """What is owed in the tenant: resource type, resource, task, generation."""
    with unit(scope) as session:
        columns = (Delivery.resource_type, Delivery.resource_id, Delivery.task, Delivery.generation)
        return [tuple(row) for row in session.execute(sa.select(*columns).order_by(Delivery.resource_id))]


def every_target(batch: sa.FromClause) -> sa.Select[Any]:
    """Everything is owed to every target of the tenant."""
    return sa.select(
        ScimTarget.id.label("target_id"),
        batch.c.resource_type,
        batch.c.resource_id,
        sa.literal("push").label("task"),
        sa.literal(1).label("lane"),
    ).join(batch, ScimTarget.tenant_id == current_tenant())


def test_events_say_who_did_what_to_whom_in_which_request(world: World) -> None:
    actor = Actor("user", "usr_admin", str(world.acme.tenant_id), credential_id="pat_1")
    with acting(actor, "req-1"), unit(world.acme):
        record(changes(("user.updated", "User", "usr_1", ["title"]), ("group.removed", "Group", "grp_1")))
        record(changes(("group.members_changed", "Group", "grp_1", {"added": 1})), actor=system("clock"))
    first, second, third = log(world.acme)
    assert (first.name, first.resource_type, first.resource_id) == ("user.updated", "User", "usr_1")
    assert (first.actor_kind, first.actor_id, first.credential_id) == ("user", "usr_admin", "pat_1")
    assert first.request_id == "req-1" and ids.is_id(first.id, "evt")
    assert [event.changed for event in (first, second, third)] == [["title"], [], {"added": 1}]
    assert first.id < second.id < third.id
    assert (third.actor_kind, third.actor_id, third.credential_id) == ("system", "system:clock", None)


def test_paths_and_names_of_any_letters_are_kept(world: World) -> None:
    odd = ['emails[type eq "work"].value', "urn:x:y", "b\\s{},'", "жé😀", "NULL"]
    tell(world.acme, ("user.updated", "User", "usr_1", odd))
    assert log(world.acme)[0].changed == odd


def test_event_is_written_with_the_change_or_not_at_all(world: World) -> None:
    with pytest.raises(LookupError), unit(world.acme):
        record(changes(("user.created", "User", "usr_1")))
        raise LookupError
    assert log(world.acme) == []


def test_nothing_changed_is_no_event(world: World) -> None:
    tell(world.acme)
    assert log(world.acme) == [] and not Changes()


def test_tenants_have_logs_of_their_own(world: World) -> None:
    tell(world.acme, ("user.created", "User", "usr_1"))
    assert log(world.globex) == []
    with platform_scope():
        with pytest.raises(ValueError, match="must name the tenant"):
            record(changes(("tenant.created", "Tenant", "tnt_1")))
        record(changes(("tenant.created", "Tenant", "tnt_1")), tenant_id=world.globex.tenant_id)
    assert [event.name for event in log(world.globex)] == ["tenant.created"]
    assert len(log(world.acme)) == 1


def test_a_batch_of_any_size_takes_the_same_statements(world: World, targets: dict[Scope, str]) -> None:
    subscribe("t", to=("user.*",))(every_target)

    def statements(count: int) -> int:
        seen: list[object] = []
        with unit(world.acme):
            engine = db.session().get_bind()

            def one(*args: object) -> None:
                seen.append(args[2])

            event.listen(engine, "before_cursor_execute", one)
            try:
                record(changes(*(("user.created", "User", f"usr_{count}_{n}") for n in range(count))))
            finally:
                event.remove(engine, "before_cursor_execute", one)
        return len(seen)

    first = statements(1)
    assert statements(1_000) <= first <= 4
    assert len(owed(world.acme)) == 1_001 == len(log(world.acme))


def test_subscribers_are_owed_what_their_patterns_match(world: World, targets: dict[Scope, str]) -> None:
    subscribe("t", to=("user.*", "group.members_changed"))(every_target)
    tell(
        world.acme,
        ("user.created", "User", "usr_1"),
        ("group.created", "Group", "grp_1"),
        ("group.members_changed", "Group", "grp_2"),
        ("unit.created", "OrganizationalUnit", "ou_1"),
    )
    assert [resource for _, resource, _, _ in owed(world.acme)] == ["grp_2", "usr_1"]


def test_deliveries_are_owed_in_the_tenant_of_the_change(world: World, targets: dict[Scope, str]) -> None:
    subscribe("t", to=("user.*",))(every_target)
    for scope, name in ((world.acme, "usr_a"), (world.globex, "usr_b"), (world.acme, "usr_c")):
        tell(scope, ("user.created", "User", name))
    assert [row[1] for row in owed(world.acme)] == ["usr_a", "usr_c"]
    assert [row[1] for row in owed(world.globex)] == ["usr_b"]
    with platform_scope() as session:
        pairs = session.execute(
            sa.select(Delivery.tenant_id, Delivery.target_id).where(Delivery.target_id.in_(targets.values())).distinct()
        )
        assert {tuple(pair) for pair in pairs} == {(scope.tenant_id, target) for scope, target in targets.items()}


def test_repeated_changes_raise_the_generation_of_one_delivery(world: World, targets: dict[Scope, str]) -> None:
    subscribe("t", to=("user.*",))(every_target)
    tell(world.acme, ("user.created", "User", "usr_1"), ("user.updated", "User", "usr_1"))
    assert owed(world.acme) == [("User", "usr_1", "push", 1)]
    with unit(world.acme) as session:
        session.execute(sa.update(Delivery).values(status="failed", attempts=7, cursor="x", problem="broken", fence=3))
    tell(world.acme, ("user.updated", "User", "usr_1"))
    with unit(world.acme) as session:
        [delivery] = session.scalars(sa.select(Delivery))
        assert (delivery.generation, delivery.status, delivery.attempts, delivery.cursor) == (2, "pending", 0, None)
        assert delivery.fence == 3 and delivery.due_at <= session.scalar(sa.select(sa.func.now()))


def test_delivery_is_owed_with_the_change_or_not_at_all(world: World, targets: dict[Scope, str]) -> None:
    subscribe("t", to=("user.*",))(every_target)
    with pytest.raises(LookupError), unit(world.acme):
        record(changes(("user.created", "User", "usr_1")))
        raise LookupError
    assert owed(world.acme) == []


def test_subscriber_of_the_same_name_takes_the_place_of_the_first(world: World, targets: dict[Scope, str]) -> None:
    def nobody(batch: sa.FromClause) -> sa.Select[Any]:
        return every_target(batch).where(sa.false())

    assert subscribe("t", to=("*",))(every_target) is every_target
    subscribe("t", to=("*",))(nobody)
    tell(world.acme, ("user.created", "User", "usr_1"))
    assert owed(world.acme) == []


def test_several_subscribers_owe_together(world: World, targets: dict[Scope, str]) -> None:
    def expands(batch: sa.FromClause) -> sa.Select[Any]:
        chosen = every_target(batch).subquery()
        star = sa.literal("*")
        return sa.select(chosen.c.target_id, star, star, sa.literal("expand"), sa.literal(0)).with_only_columns(
            chosen.c.target_id,
            star.label("resource_type"),
            star.label("resource_id"),
            sa.literal("expand").label("task"),
            sa.literal(0).label("lane"),
        )

    subscribe("one", to=("user.*",))(every_target)
    subscribe("two", to=("*.created",))(expands)
    tell(world.acme, ("user.created", "User", "usr_1"), ("user.created", "User", "usr_2"))
    assert owed(world.acme) == [("*", "*", "expand", 1), ("User", "usr_1", "push", 1), ("User", "usr_2", "push", 1)]


def test_bells_ring_once_after_the_commit_that_owes(world: World, targets: dict[Scope, str]) -> None:
    rung: list[int] = []

    def ring() -> None:
        rung.append(len(owed(world.acme)))

    events.on_owed(ring)
    subscribe("t", to=("user.*",))(every_target)
    with unit(world.acme):
        record(changes(("user.created", "User", "usr_1")))
        record(changes(("user.created", "User", "usr_2")))
        assert rung == []
    assert rung == [2]
    tell(world.acme, ("group.created", "Group", "grp_1"))
    with pytest.raises(LookupError), unit(world.acme):
        record(changes(("user.created", "User", "usr_3")))
        raise LookupError
    assert rung == [2]


@pytest.fixture
def opened(world: World) -> Iterator[Session]:
    with unit(world.acme) as session:
        yield session


def test_owing_by_hand(world: World, targets: dict[Scope, str], opened: Session) -> None:
    line = sa.select(
        sa.literal(targets[world.acme]).label("target_id"),
        sa.literal("User").label("resource_type"),
        sa.literal("usr_9").label("resource_id"),
        sa.literal("push").label("task"),
        sa.literal(1).label("lane"),
    )
    for generation in (1, 2):
        owe(line, current_tenant())
        assert opened.scalars(sa.select(Delivery.generation)).all() == [generation]
