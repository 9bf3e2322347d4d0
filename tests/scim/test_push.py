"""Pushing from a real directory in PostgreSQL into real and misbehaving receivers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from flask import Flask, current_app

from broker import registry, running
from broker.config import Config
from broker.context import Scope, acting, system
from broker.db import db, directory_writes, platform_scope, unit
from broker.directory import Directory, declarations
from broker.embedded import Services
from broker.errors import Conflict
from broker.models import Delivery, Event, Resource, ScimTarget, TargetMember, TargetResource
from broker.registry import applications, targets
from scim import push
from scim.push import ledger, outbox, plan
from scim.push import run as running_push
from tests.conftest import World
from tests.receivers import TOKEN, Answer, Receiver, Remote, faulty_receiver, scim2_server

CORE_USER = "urn:ietf:params:scim:schemas:core:2.0:User"
ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
AD_USER = "urn:scaikey:params:scim:schemas:extension:activedirectory:1.0:User"


@pytest.fixture(scope="module")
def foreign() -> Iterator[Callable[[str], Remote]]:
    with scim2_server() as make:
        yield make


@pytest.fixture(scope="module")
def listening() -> Iterator[Receiver]:
    with faulty_receiver() as receiver:
        yield receiver


@pytest.fixture
def receiver(listening: Receiver) -> Receiver:
    listening.stored.update(Users={}, Groups={})
    for kept in (listening.asked, listening.faults, listening.rules, listening.overlaps):
        kept.clear()
    return listening


class Tenant:
    """A tenant with its directory and what its targets are owed, in a few words."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    def target(self, remote: Remote, scope: str = "all", **values: Any) -> str:
        with unit(self.scope):
            application = applications.create({"name": "Wiki", "type": "web"})
            given = {"application_id": application.id, "base_url": remote.base_url, "scope": scope}
            made = targets.create({**given, "auth": {"method": "bearer", "token": TOKEN}, **values})
            self.application_id = application.id
            return made.id

    def user(self, user_name: str, /, **attributes: Any) -> str:
        with unit(self.scope):
            return Directory().create("User", {"schemas": [CORE_USER], "userName": user_name, **attributes}).id

    def users(self, count: int) -> list[str]:
        with unit(self.scope):
            directory = Directory()
            return [
                directory.create("User", {"schemas": [CORE_USER], "userName": f"person{number:03}"}).id
                for number in range(count)
            ]

    def group(self, name: str, members: list[str] | None = None, **attributes: Any) -> str:
        document = {"displayName": name, "members": [{"value": member} for member in members or []], **attributes}
        with unit(self.scope):
            return Directory().create("Group", document).id

    def change(self, id: str, **attributes: Any) -> None:
        with unit(self.scope):
            name = db.session().scalar(sa.select(Resource.name).where(Resource.id == id))
            Directory().replace("User", id, {"schemas": [CORE_USER], "userName": name, **attributes})

    def rename(self, group: str, name: str, **attributes: Any) -> None:
        with unit(self.scope):
            Directory().replace("Group", group, {"displayName": name, **attributes})

    def declare(self, *names: str, resource_type: str = "User", **values: Any) -> None:
        with unit(self.scope):
            for name in names:
                declarations.declare({"name": name, "resource_type": resource_type, **values})

    def remove(self, *ids: str, kind: str = "User") -> None:
        with unit(self.scope):
            for id in ids:
                Directory().remove(kind, id)

    def members(self, group: str, add: list[str] | None = None, remove: list[str] | None = None) -> None:
        with unit(self.scope):
            Directory().change_members(group, add or [], remove or [])

    def assign(self, principal: str) -> str:
        with unit(self.scope):
            application = db.session().get(
                registry.applications.Application, (self.scope.tenant_id, self.application_id)
            )
            assert application is not None
            return applications.assign_to(application, principal, []).id

    def unassign(self, assignment_id: str) -> None:
        with unit(self.scope) as session:
            found = session.get(registry.applications.Assignment, (self.scope.tenant_id, assignment_id))
            assert found is not None
            applications.unassign(found)

    def resume(self, target_id: str, removals: Any = None) -> None:
        with unit(self.scope) as session:
            targets.resume(session.get_one(ScimTarget, (self.scope.tenant_id, target_id)), removals)

    def deliveries(self) -> list[Delivery]:
        with unit(self.scope) as session:
            found = list(session.scalars(sa.select(Delivery).order_by(Delivery.resource_id)))
            session.expunge_all()
        return found

    def delivery(self) -> Delivery:
        [one] = self.deliveries()
        return one

    def states(self) -> dict[str, str]:
        with unit(self.scope) as session:
            rows = session.execute(sa.select(TargetResource.resource_id, TargetResource.state))
            return {id: state for id, state in rows}

    def remote_id(self, id: str) -> str | None:
        with unit(self.scope) as session:
            return session.scalar(sa.select(TargetResource.remote_id).where(TargetResource.resource_id == id))

    def wait_over(self) -> None:
        """Whatever was postponed falls due now."""
        with platform_scope() as session:
            mine = {"tenant": self.scope.tenant_id}
            session.execute(sa.text("UPDATE deliveries SET due_at = now() WHERE tenant_id = :tenant"), mine)
            session.execute(sa.text("UPDATE scim_targets SET postponed_until = NULL WHERE tenant_id = :tenant"), mine)

    def events(self, name: str) -> list[Any]:
        with unit(self.scope) as session:
            return list(session.scalars(sa.select(Event.changed).where(Event.name == name)))


@pytest.fixture
def pushing(app: Flask, services: Services, settings: Config) -> Iterator[Flask]:
    """The app with its configuration; meets no target of another test, and leaves none that a later run would serve."""
    running.install(app, services.configure(settings))
    _pause_all()
    with acting(system("tests")):
        yield app
    _pause_all()
    for client in app.extensions.pop("scaikey.push.clients", {}).values():
        client.close()


def _pause_all() -> None:
    with platform_scope() as session:
        session.execute(sa.text("UPDATE scim_targets SET status = 'paused'"))


@pytest.fixture
def acme(pushing: Flask, world: World) -> Tenant:
    return Tenant(world.acme)


def drain() -> push.Tally:
    return push.drain(20)


def test_people_and_groups_arrive_and_a_second_run_asks_nothing(acme: Tenant, foreign: Callable[[str], Remote]) -> None:
    remote = foreign(str(acme.scope.tenant_id).replace("_", "-"))
    acme.target(remote)
    alice = acme.user(
        "alice@acme.example",
        name={"givenName": "Alice", "familyName": "Ahorn"},
        emails=[{"value": "alice@acme.example", "type": "work", "primary": True}],
        **{ENTERPRISE: {"department": "Sales"}, AD_USER: {"sAMAccountName": "alice"}},
    )
    bob = acme.user("bob@acme.example", **{ENTERPRISE: {"manager": {"value": alice}}})
    inner = acme.group("Inner", [bob])
    acme.group("Outer", [alice, inner])
    drain()
    assert acme.deliveries() == []
    there = remote.users()
    assert set(there) == {"alice@acme.example", "bob@acme.example"}
    sent = there["alice@acme.example"]
    assert sent["externalId"] == alice
    assert sent["active"] is True
    assert sent[ENTERPRISE]["department"] == "Sales"
    assert AD_USER not in sent and AD_USER not in sent["schemas"]
    assert there["bob@acme.example"][ENTERPRISE]["manager"]["value"] == sent["id"]
    assert remote.members("Inner") == {there["bob@acme.example"]["id"]}
    assert remote.members("Outer") == {sent["id"], remote.groups()["Inner"]["id"]}
    assert drain().worked == 0


def test_changes_follow_and_an_unchanged_person_is_not_sent_again(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    alice = acme.user("alice", title="Clerk")
    drain()
    acme.change(alice, title="Chief")
    drain()
    assert receiver.users()["alice"]["title"] == "Chief"
    asked = len(receiver.asked)
    acme.change(alice, title="Other")
    acme.change(alice, title="Chief")
    assert drain().outcomes == {"unchanged": 1}
    assert len(receiver.asked) == asked


def test_disabled_in_the_directory_is_disabled_there_and_enabled_again(
    acme: Tenant, foreign: Callable[[str], Remote]
) -> None:
    remote = foreign(str(acme.scope.tenant_id).replace("_", "-"))
    acme.target(remote)
    alice = acme.user("alice")
    drain()
    acme.change(alice, active=False)
    drain()
    assert remote.users()["alice"]["active"] is False
    assert acme.states() == {alice: "disabled"}
    acme.change(alice, active=True)
    drain()
    assert remote.users()["alice"]["active"] is True


@pytest.mark.parametrize("step", ["prepare", "settle"])
def test_what_somebody_else_has_in_hand_for_a_moment_is_written_all_the_same(
    acme: Tenant, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A comparison that walks by notes whom it met while a push is to write down what became of them."""
    acme.target(receiver)
    alice = acme.user("alice")
    drain()
    acme.change(alice, active=False)
    module: Any = plan if step == "prepare" else outbox
    real = getattr(module, step)
    seen = []

    def beside(*given: Any, **named: Any) -> Any:
        with in_another_hand(acme.scope, alice):
            result = real(*given, **named)
        with_digest = TargetResource.sent_digest.is_not(None)
        seen.append(tuple(db.session().execute(sa.select(TargetResource.state, with_digest)).one()))
        return result

    monkeypatch.setattr(module, step, beside)
    drain()
    assert seen == [("present", False) if step == "prepare" else ("disabled", True)]
    assert receiver.users()["alice"]["active"] is False and acme.states() == {alice: "disabled"}


@contextmanager
def in_another_hand(scope: Scope, id: str) -> Iterator[None]:
    """Another transaction changes what is remembered of a resource, and commits a moment after somebody waits."""
    app: Any = current_app
    app, held, waited = app._get_current_object(), threading.Event(), threading.Event()

    def change() -> None:
        with app.app_context(), acting(system("tests")), unit(scope) as session:
            session.execute(sa.update(TargetResource).where(TargetResource.resource_id == id).values(met_no=1))
            held.set()
            waited.wait(0.5)

    thread = threading.Thread(target=change)
    thread.start()
    assert held.wait(20)
    try:
        yield
    finally:
        waited.set()
        thread.join()


def test_a_person_whose_time_ran_out_is_sent_as_disabled(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    alice = acme.user("alice")
    drain()
    with platform_scope() as session, directory_writes():
        past = datetime.now(UTC) - timedelta(minutes=1)
        session.execute(sa.update(Resource).where(Resource.id == alice).values(active_until=past))
    acme.change(alice, title="changed")
    drain()
    assert receiver.users()["alice"]["active"] is False


def test_disabled_people_and_service_accounts_are_never_made(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    acme.user("asleep", active=False)
    acme.user("robot", userType="ServiceAccount")
    drain()
    assert receiver.users() == {}
    assert acme.deliveries() == []
    assert acme.states() == {}


def test_removed_people_are_disabled_or_deleted_as_the_target_wants(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    alice, bob = acme.user("alice", title="Clerk"), acme.user("bob")
    group = acme.group("Both", [alice, bob])
    drain()
    acme.remove(alice)
    drain()
    there = receiver.users()
    assert there["alice"]["active"] is False and there["bob"]["active"] is True
    assert receiver.members("Both") == {there["bob"]["id"]}
    acme.remove(group, kind="Group")
    drain()
    assert receiver.members("Both") == set()
    assert set(acme.states().values()) == {"present", "disabled"}


def test_a_target_that_wants_deletion_gets_it(acme: Tenant, foreign: Callable[[str], Remote]) -> None:
    remote = foreign(str(acme.scope.tenant_id).replace("_", "-"))
    acme.target(remote, deprovision="delete")
    alice, bob, _ = acme.user("alice"), acme.user("bob"), acme.user("carol")
    group = acme.group("Both", [alice, bob])
    drain()
    remote.send("DELETE", f"/Users/{acme.remote_id(alice)}")
    acme.remove(alice, bob)
    acme.remove(group, kind="Group")
    drain()
    assert set(remote.users()) == {"carol"} and remote.groups() == {}
    assert sorted(acme.states().values()) == ["present", "removed", "removed", "removed"]
    assert acme.deliveries() == []


def test_two_hundred_and_fifty_members_go_in_chunks_and_only_differences_after(
    acme: Tenant, foreign: Callable[[str], Remote]
) -> None:
    remote = foreign(str(acme.scope.tenant_id).replace("_", "-"))
    acme.target(remote)
    people = acme.users(250)
    group = acme.group("All", people)
    drain()
    assert len(remote.members("All")) == 250
    left = people[10:]
    acme.members(group, remove=people[:10])
    drain()
    assert remote.members("All") == {acme.remote_id(id) for id in left}


def test_member_changes_are_differences_in_chunks(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    people = acme.users(250)
    group = acme.group("All", people)
    drain()
    sizes = [len(asked.body["Operations"][0]["value"]) for asked in receiver.requests("PATCH", "/Groups/.*")]
    assert sizes == [100, 100, 50]
    assert receiver.requests("PUT", "/Groups/.*") == []
    receiver.asked.clear()
    newcomer = acme.user("newcomer")
    acme.members(group, add=[newcomer], remove=people[:130])
    drain()
    operations = [asked.body["Operations"] for asked in receiver.requests("PATCH", "/Groups/.*")]
    assert [len(chunk) for chunk in operations] == [100, 30, 1]
    assert {operation["op"] for chunk in operations[:2] for operation in chunk} == {"remove"}
    assert len(receiver.members("All")) == 121


def test_a_member_the_receiver_had_before_stays(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    receiver.send("POST", "/Users", {"userName": "local"})
    receiver.send("POST", "/Groups", {"displayName": "Sales", "members": [{"value": receiver.users()["local"]["id"]}]})
    alice = acme.user("alice")
    group = acme.group("Sales", [alice])
    drain()
    acme.members(group, remove=[alice])
    drain()
    assert receiver.members("Sales") == {receiver.users()["local"]["id"]}
    assert receiver.groups()["Sales"]["externalId"] == group


def test_one_refused_member_does_not_keep_the_others_out(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    people = acme.users(9)
    drain()
    bad = acme.remote_id(people[4])

    def refuse(asked: Any, act: Callable[[], Answer]) -> Answer | None:
        values = [member["value"] for member in asked.body["Operations"][0]["value"]]
        return Answer(400, {"detail": "not him"}) if bad in values else act()

    acme.group("All", people)
    receiver.fault("PATCH", "/Groups/.*", refuse, times=20)
    drain()
    assert receiver.members("All") == {acme.remote_id(id) for id in people} - {bad}
    failed = acme.delivery()
    assert failed.status == "failed"
    assert failed.problem is not None and failed.problem.startswith(f"Members refused: 1; the first: {people[4]}")
    assert failed.exchange is not None
    [asked] = failed.exchange["request"]["body"]["Operations"]
    assert asked == {"op": "add", "path": "members", "value": [{"value": bad}]}


def test_people_are_sent_before_the_groups_that_name_them(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    acme.group("All", acme.users(20))
    drain()
    made = [asked.path for asked in receiver.requests("POST")]
    assert made == ["/Users"] * 20 + ["/Groups"]


def test_who_arrives_late_joins_his_groups_and_becomes_the_manager_he_is(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    alice = acme.user("alice")
    bob = acme.user("bob", **{ENTERPRISE: {"manager": {"value": alice}}})
    acme.group("Both", [alice, bob])
    receiver.fault("POST", "/Users", lambda asked, act: Answer(500) if asked.body["userName"] == "alice" else None)
    drain()
    assert receiver.members("Both") == {acme.remote_id(bob)}
    assert "manager" not in receiver.users()["bob"].get(ENTERPRISE, {})
    acme.wait_over()
    drain()
    assert receiver.members("Both") == {acme.remote_id(alice), acme.remote_id(bob)}
    assert receiver.users()["bob"][ENTERPRISE]["manager"]["value"] == acme.remote_id(alice)


def test_an_account_with_the_same_name_is_adopted(acme: Tenant, foreign: Callable[[str], Remote]) -> None:
    remote = foreign(str(acme.scope.tenant_id).replace("_", "-"))
    remote.send("POST", "/Users", {"schemas": [CORE_USER], "userName": "Alice", "nickName": "old"})
    before = remote.users()["Alice"]["id"]
    acme.target(remote)
    alice = acme.user("alice", title="Chief")
    drain()
    [only] = remote.all("Users")
    assert (only["id"], only["externalId"], only["title"]) == (before, alice, "Chief")
    assert acme.remote_id(alice) == before


def test_a_conflict_is_searched_and_adopted(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    receiver.send("POST", "/Users", {"userName": "alice"})
    receiver.fault("GET", "/Users", Answer(200, {"totalResults": 0, "Resources": []}), times=2)
    alice = acme.user("alice", title="Chief")
    drain()
    [only] = receiver.all("Users")
    assert (only["externalId"], only["title"]) == (alice, "Chief")


def test_an_account_of_another_of_our_people_is_never_taken_over(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    first = acme.user("alice")
    drain()
    acme.remove(first)
    second = acme.user("alice")
    drain()
    [only] = receiver.all("Users")
    assert only["externalId"] == first and only["active"] is False
    failed = acme.delivery()
    assert (failed.resource_id, failed.status) == (second, "failed")
    assert "not ours to take over" in (failed.problem or "")
    assert second not in acme.states()


def test_two_that_could_be_the_one_are_left_to_a_person(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    receiver.send("POST", "/Groups", {"displayName": "Sales"})
    receiver.send("POST", "/Groups", {"displayName": "sales"})
    acme.group("Sales")
    drain()
    assert len(receiver.all("Groups")) == 2
    assert "2 resources at the target could be this one" in (acme.delivery().problem or "")


def test_two_groups_of_one_name_become_two(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    groups = {acme.group("Sales"), acme.group("Sales")}
    drain()
    assert {group["externalId"] for group in receiver.all("Groups")} == groups


def test_a_receiver_without_search_by_external_id_is_searched_by_name(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    receiver.send("POST", "/Users", {"userName": "alice"})
    receiver.fault(
        "GET",
        "/Users",
        lambda asked, act: Answer(400, {"scimType": "invalidFilter"}) if "externalId" in str(asked.query) else None,
    )
    alice = acme.user("alice")
    drain()
    assert receiver.users()["alice"]["externalId"] == alice


def test_a_person_deleted_there_is_looked_for_and_made_again_and_is_in_his_groups_again(
    acme: Tenant, receiver: Receiver
) -> None:
    acme.target(receiver)
    alice, bob = acme.user("alice"), acme.user("bob")
    acme.group("Both", [alice, bob])
    drain()
    before = acme.remote_id(alice)
    del receiver.stored["Users"][str(before)]
    acme.change(alice, title="Chief")
    drain()
    after = acme.remote_id(alice)
    assert after is not None and after != before
    assert receiver.users()["alice"]["title"] == "Chief"
    assert after in receiver.members("Both")
    assert acme.deliveries() == []


def test_one_404_for_a_method_that_never_worked_makes_nobody_twice(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    alice = acme.user("alice", title="Clerk", nickName="Al")
    drain()
    receiver.fault("PUT", "/Users/.*", Answer(404), times=9)
    acme.change(alice, title="Chief")
    drain()
    [only] = receiver.all("Users")
    assert only["title"] == "Chief" and "nickName" not in only
    assert len(receiver.requests("POST")) == 1


@pytest.mark.parametrize("status", [405, 501])
def test_a_receiver_without_put_is_patched(acme: Tenant, receiver: Receiver, status: int) -> None:
    acme.target(receiver)
    alice = acme.user("alice", title="Clerk")
    drain()
    receiver.fault("PUT", "/Users/.*", Answer(status), times=9)
    acme.change(alice, active=False)
    drain()
    shown = receiver.users()["alice"]
    assert shown["active"] is False and "title" not in shown


def test_a_receiver_without_patch_is_sent_the_whole_to_disable(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    alice = acme.user("alice")
    drain()
    receiver.fault("PATCH", "/Users/.*", Answer(501), times=9)
    acme.remove(alice)
    drain()
    assert receiver.users()["alice"]["active"] is False


def test_a_receiver_that_is_busy_is_left_alone_for_as_long_as_it_asks(acme: Tenant, receiver: Receiver) -> None:
    target = acme.target(receiver)
    acme.users(40)
    receiver.fault("POST", "/Users", Answer(429, headers={"Retry-After": "120"}))
    drain()
    asked = len(receiver.asked)
    drain()
    assert len(receiver.asked) == asked
    with unit(acme.scope) as session:
        row = session.get_one(ScimTarget, (acme.scope.tenant_id, target))
        assert row.postponed_until is not None and row.status == "active"
        assert (row.postponed_until - datetime.now(UTC)).total_seconds() > 100
        assert "POST /Users answered 429" in (row.status_reason or "")
    acme.wait_over()
    drain()
    assert len(receiver.users()) == 40
    with unit(acme.scope) as session:
        row = session.get_one(ScimTarget, (acme.scope.tenant_id, target))
        assert (row.postponements, row.status_reason) == (0, None)


def test_a_server_error_is_tried_again_later_and_heals(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    alice = acme.user("alice")
    receiver.fault("POST", "/Users", Answer(500, {"detail": "boom"}))
    drain()
    waiting = acme.delivery()
    assert (waiting.status, waiting.attempts) == ("pending", 1)
    assert waiting.problem == "POST /Users answered 500: boom"
    assert waiting.due_at > datetime.now(UTC)
    acme.wait_over()
    drain()
    assert receiver.users()["alice"]["externalId"] == alice
    assert acme.deliveries() == []


def test_failing_for_a_day_is_given_up_until_the_resource_changes(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    alice = acme.user("alice")
    receiver.fault("POST", "/Users", Answer(500), times=2)
    drain()
    with platform_scope() as session:
        day = datetime.now(UTC) - timedelta(hours=25)
        session.execute(sa.update(Delivery).where(Delivery.resource_id == alice).values(failing_since=day))
    acme.wait_over()
    drain()
    assert acme.delivery().status == "failed"
    acme.wait_over()
    assert drain().worked == 0
    acme.change(alice, title="new")
    drain()
    assert receiver.users()["alice"]["title"] == "new"


def test_a_refusal_that_cannot_heal_is_shown_and_tried_again_when_the_person_changes(
    acme: Tenant, receiver: Receiver
) -> None:
    acme.target(receiver)
    alice, _ = acme.user("alice"), acme.user("bob")
    receiver.fault(
        "POST",
        "/Users",
        lambda asked, act: (
            Answer(400, {"scimType": "invalidValue", "detail": "no title for alice"})
            if asked.body["userName"] == "alice" and "title" not in asked.body
            else act()
        ),
        times=9,
    )
    drain()
    assert set(receiver.users()) == {"bob"}
    failed = acme.delivery()
    assert (failed.status, failed.resource_id) == ("failed", alice)
    assert failed.problem == "POST /Users answered 400: invalidValue - no title for ***"
    assert failed.exchange is not None
    assert failed.exchange["request"]["body"] == {
        "schemas": [CORE_USER],
        "externalId": alice,
        "active": True,
        "userName": "***",
    }
    assert failed.exchange["answer"]["body"] == {"scimType": "invalidValue", "detail": "no title for ***"}
    acme.change(alice, title="Chief")
    drain()
    assert set(receiver.users()) == {"alice", "bob"}


def test_one_account_the_receiver_keeps_from_us_does_not_stop_the_others(acme: Tenant, receiver: Receiver) -> None:
    target = acme.target(receiver)
    alice = acme.user("alice")
    acme.users(20)
    receiver.fault(
        "POST",
        "/Users",
        lambda asked, act: Answer(403) if asked.body["userName"] == "alice" else act(),
        times=30,
    )
    drain()
    assert len(receiver.users()) == 20
    assert (acme.delivery().resource_id, acme.delivery().status) == (alice, "pending")
    with unit(acme.scope) as session:
        assert session.get_one(ScimTarget, (acme.scope.tenant_id, target)).postponed_until is None
    receiver.faults.clear()
    acme.wait_over()
    drain()
    assert "alice" in receiver.users()


@pytest.mark.parametrize("status", [401, 403])
def test_a_credential_that_is_refused_postpones_the_target_and_fails_nobody(
    acme: Tenant, receiver: Receiver, status: int
) -> None:
    target = acme.target(receiver)
    acme.users(60)
    receiver.fault("GET", "/Users", Answer(status), times=30)
    drain()
    assert {delivery.status for delivery in acme.deliveries()} == {"pending"}
    assert len(receiver.asked) < 30  # eight refusals, and what was on its way over sixteen connections
    with unit(acme.scope) as session:
        row = session.get_one(ScimTarget, (acme.scope.tenant_id, target))
        assert f"answered {status}" in (row.status_reason or "")
    receiver.faults.clear()
    acme.wait_over()
    drain()
    assert len(receiver.users()) == 60


def act_and_hang_up(asked: Any, act: Callable[[], Answer]) -> Answer:
    act()
    return Answer(0)


def short_of_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    made = running_push.TargetClient
    monkeypatch.setattr(running_push, "TargetClient", lambda *args, **more: made(*args, **{**more, "timeout": 0.3}))


@pytest.mark.parametrize(
    "answer",
    [
        lambda asked, act: Answer(act().status, {}, delay=1.0),
        lambda asked, act: Answer(act().status, {"id": "r"}, cut=True),
        act_and_hang_up,
        lambda asked, act: Answer(act().status, b"<html>proxy</html>", {"Content-Type": "text/html"}),
    ],
    ids=["late", "half-written", "connection closed", "page of a proxy"],
)
def test_a_create_whose_answer_is_lost_is_not_repeated_blindly(
    acme: Tenant, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    short_of_patience(monkeypatch)
    acme.target(receiver)
    alice = acme.user("alice")
    receiver.fault("POST", "/Users", answer)
    drain()
    assert acme.states() == {alice: "creating"}
    acme.wait_over()
    drain()
    [only] = receiver.all("Users")
    assert only["id"] == acme.remote_id(alice)
    assert len(receiver.requests("POST")) == 1
    assert acme.deliveries() == []


def test_a_person_removed_before_we_learnt_the_remote_id_is_found_and_removed(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver, deprovision="delete")
    alice = acme.user("alice")
    receiver.fault("POST", "/Users", act_and_hang_up)
    drain()
    acme.remove(alice)
    acme.wait_over()
    drain()
    assert receiver.users() == {}
    assert acme.states() == {alice: "removed"}


def test_an_account_that_was_never_ours_is_not_removed_for_its_name(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver, deprovision="delete")
    receiver.send("POST", "/Users", {"userName": "alice"})
    alice = acme.user("alice")
    receiver.fault("GET", "/Users", Answer(500))
    drain()
    assert acme.states() == {alice: "creating"}
    acme.remove(alice)
    acme.wait_over()
    drain()
    assert set(receiver.users()) == {"alice"}


class Killed(BaseException):
    """Ends a run between two of its steps, as kill -9 would."""


def test_killed_between_answer_and_mark_makes_nobody_twice(
    acme: Tenant, foreign: Callable[[str], Remote], monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = foreign(str(acme.scope.tenant_id).replace("_", "-"))
    acme.target(remote)
    drain()
    people = acme.users(5)
    group = acme.group("All", people)

    def die(*_: object, **__: object) -> None:
        raise Killed

    for _ in range(2):
        with monkeypatch.context() as dying:
            dying.setattr(outbox, "settle", die)
            with pytest.raises(Killed):
                drain()
        assert drain().worked == 0, "what a dead run claimed is its own until the lease ends"
        leases_end()
    drain()
    assert len(remote.users()) == 5
    assert {user["externalId"] for user in remote.all("Users")} == set(people)
    assert [one["externalId"] for one in remote.all("Groups")] == [group]
    assert len(remote.members("All")) == 5
    assert acme.deliveries() == []


@pytest.fixture
def killing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str], None]:
    """Runs what is due and ends the run where it would note a result; what it held falls due again at once."""

    def kill_at(module: Any, name: str) -> None:
        note = getattr(module, name)

        def die(first: Any, *rest: Any, **options: Any) -> None:
            if name == "settle" and rest[0][0].work.task == "expand":
                note(first, *rest)
            else:
                raise Killed

        with monkeypatch.context() as dying:
            dying.setattr(module, name, die)
            with pytest.raises(Killed):
                drain()
        leases_end()

    return kill_at


def test_who_changes_back_after_a_killed_send_is_sent_again(
    acme: Tenant, receiver: Receiver, killing: Callable[[Any, str], None]
) -> None:
    acme.target(receiver)
    alice = acme.user("alice", title="Clerk")
    drain()
    acme.change(alice, title="Chief")
    killing(outbox, "settle")
    assert receiver.users()["alice"]["title"] == "Chief"
    acme.change(alice, title="Clerk")
    drain()
    assert receiver.users()["alice"]["title"] == "Clerk"
    assert acme.deliveries() == []


def test_who_was_disabled_by_a_killed_run_and_is_enabled_again_is_active_there(
    acme: Tenant, receiver: Receiver, killing: Callable[[Any, str], None]
) -> None:
    acme.target(receiver)
    alice, _ = acme.user("alice", active=True), acme.user("bob", active=True)
    drain()
    acme.change(alice, active=False)
    killing(outbox, "settle")
    assert receiver.users()["alice"]["active"] is False
    acme.change(alice, active=True)
    drain()
    assert receiver.users()["alice"]["active"] is True


def test_who_was_enabled_by_a_killed_run_and_leaves_is_disabled_there(
    acme: Tenant, receiver: Receiver, killing: Callable[[Any, str], None]
) -> None:
    acme.target(receiver)
    alice, _ = acme.user("alice", active=True), acme.user("bob", active=True)
    drain()
    acme.change(alice, active=False)
    drain()
    acme.change(alice, active=True)
    killing(outbox, "settle")
    assert receiver.users()["alice"]["active"] is True
    acme.remove(alice)
    drain()
    assert receiver.users()["alice"]["active"] is False
    assert acme.deliveries() == []


@pytest.mark.parametrize("kind", ["User", "Group"])
def test_what_a_killed_run_deleted_is_made_again_when_it_comes_back(
    acme: Tenant, receiver: Receiver, killing: Callable[[Any, str], None], kind: str
) -> None:
    acme.target(receiver, "assigned", deprovision="delete")
    one = acme.user("one") if kind == "User" else acme.group("one")
    acme.assign(acme.user("other"))
    assignment = acme.assign(one)
    drain()
    acme.unassign(assignment)
    killing(outbox, "settle")
    there = receiver.users if kind == "User" else receiver.groups
    assert "one" not in there()
    acme.assign(one)
    drain()
    assert "one" in there()
    assert acme.deliveries() == []


def test_members_a_killed_run_wrote_are_right_in_the_end_whatever_changed_meanwhile(
    acme: Tenant, receiver: Receiver, killing: Callable[[Any, str], None]
) -> None:
    acme.target(receiver)
    ann, bea, cid = acme.users(3)
    group = acme.group("All", [ann, bea])
    drain()
    before = receiver.members("All")
    acme.members(group, add=[cid])
    killing(ledger, "written")
    assert receiver.members("All") > before
    acme.members(group, remove=[cid])
    drain()
    assert receiver.members("All") == before
    acme.members(group, remove=[bea])
    killing(ledger, "written")
    assert receiver.members("All") < before
    acme.members(group, add=[bea])
    drain()
    assert receiver.members("All") == before
    assert acme.deliveries() == []


def test_a_member_who_is_not_there_to_be_removed_is_no_failure(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    ann, bea = acme.users(2)
    group = acme.group("All", [ann, bea])
    drain()
    acme.members(group, remove=[ann])
    receiver.fault("PATCH", "/Groups/.*", Answer(400, {"status": "400", "scimType": "noTarget"}))
    drain()
    assert acme.deliveries() == []


def leases_end() -> None:
    with platform_scope() as session:
        session.execute(sa.text("UPDATE deliveries SET lease_until = now() WHERE lease_until IS NOT NULL"))


def test_a_change_while_the_old_state_is_on_its_way_is_sent_too(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    alice = acme.user("alice", title="Clerk")
    app = running_push.current_app._get_current_object()  # type: ignore[attr-defined]

    def change_meanwhile(asked: Any, act: Callable[[], Answer]) -> Answer:
        with app.app_context(), acting(system("tests")):
            acme.change(alice, title="Chief")
        return act()

    receiver.fault("POST", "/Users", change_meanwhile)
    drain()
    assert receiver.users()["alice"]["title"] == "Chief"
    assert acme.deliveries() == []


def test_two_runs_at_once_never_change_one_resource_at_the_same_time(
    acme: Tenant, pushing: Flask, receiver: Receiver
) -> None:
    acme.target(receiver)
    drain()
    people = acme.users(60)
    acme.group("All", people)
    # So long that the second run begins while the first is at work.
    receiver.fault("POST", "/Users", lambda asked, act: Answer(201, act().body, delay=1.0), times=8)
    tallies: list[push.Tally] = []

    def work() -> None:
        with pushing.app_context():
            tallies.append(drain())

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(receiver.users()) == 60
    assert len(receiver.requests("POST", "/Users")) == 60
    assert len(receiver.requests("POST", "/Groups")) == 1
    assert len(receiver.members("All")) == 60
    assert receiver.overlaps == []
    assert all(tally.worked for tally in tallies)


def test_a_run_whose_lease_was_taken_over_writes_nothing(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    alice = acme.user("alice")
    app = running_push.current_app._get_current_object()  # type: ignore[attr-defined]

    def taken_over(asked: Any, act: Callable[[], Answer]) -> Answer:
        with app.app_context(), platform_scope() as session:
            session.execute(sa.update(Delivery).where(Delivery.resource_id == alice).values(fence=99))
        return act()

    receiver.fault("POST", "/Users", taken_over)
    drain()
    assert acme.states() == {alice: "creating"}
    assert acme.delivery().fence == 99
    leases_end()
    drain()
    assert acme.states() == {alice: "present"}
    assert len(receiver.requests("POST")) == 1


def test_a_paused_target_collects_what_it_is_owed(acme: Tenant, receiver: Receiver) -> None:
    target = acme.target(receiver)
    drain()
    with unit(acme.scope) as session:
        targets.update(session.get_one(ScimTarget, (acme.scope.tenant_id, target)), {"status": "paused"})
    acme.user("alice")
    assert drain().worked == 0
    acme.resume(target)
    drain()
    assert set(receiver.users()) == {"alice"}


def test_a_disabled_application_and_a_suspended_tenant_are_not_served(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    acme.user("alice")
    for table, column, value in (("applications", "enabled", "false"), ("tenants", "status", "'suspended'")):
        with platform_scope() as session:
            where = "id = :id" if table == "tenants" else "tenant_id = :id"
            session.execute(
                sa.text(f"UPDATE {table} SET {column} = {value} WHERE {where}"), {"id": acme.scope.tenant_id}
            )
        assert drain().worked == 0
        with platform_scope() as session:
            back = "true" if table == "applications" else "'active'"
            session.execute(
                sa.text(f"UPDATE {table} SET {column} = {back} WHERE {where}"), {"id": acme.scope.tenant_id}
            )
    drain()
    assert set(receiver.users()) == {"alice"}


def test_one_tenants_people_never_reach_anothers_target(acme: Tenant, world: World, receiver: Receiver) -> None:
    acme.target(receiver)
    Tenant(world.globex).user("stranger")
    acme.user("alice")
    drain()
    assert set(receiver.users()) == {"alice"}


def test_a_new_target_gets_everybody_who_is_there_already(acme: Tenant, receiver: Receiver) -> None:
    people = acme.users(12)
    acme.group("All", people)
    acme.target(receiver)
    assert drain().expansions == 1
    assert len(receiver.users()) == 12
    assert len(receiver.members("All")) == 12


def test_what_is_owed_beside_the_first_expansion_is_looked_at_once(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    acme.users(5)
    assert drain().outcomes.total() == 5


def test_an_expansion_goes_on_page_by_page(acme: Tenant, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scim.push.reach.PAGE", 5)
    acme.users(12)
    acme.target(receiver)
    assert drain().expansions == 1
    assert len(receiver.users()) == 12


def test_only_who_is_assigned_arrives_through_nested_groups_and_cycles(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver, scope="assigned")
    alice, bob, carol, _ = (acme.user(name) for name in ("alice", "bob", "carol", "dave"))
    inner = acme.group("Inner", [bob])
    outer = acme.group("Outer", [inner])
    acme.members(inner, add=[outer])
    drain()
    assert receiver.users() == {}
    acme.assign(alice)
    acme.assign(outer)
    drain()
    assert set(receiver.users()) == {"alice", "bob"}
    assert set(receiver.groups()) == {"Inner", "Outer"}
    acme.members(inner, add=[carol])
    drain()
    assert set(receiver.users()) == {"alice", "bob", "carol"}
    assert receiver.members("Inner") == {
        receiver.users()["bob"]["id"],
        receiver.users()["carol"]["id"],
        receiver.groups()["Outer"]["id"],
    }


def test_who_leaves_the_reach_is_disabled_unless_reached_otherwise(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver, scope="assigned")
    alice, bob, carol = (acme.user(name) for name in ("alice", "bob", "carol"))
    inner = acme.group("Inner", [alice, bob])
    outer = acme.group("Outer", [inner, carol])
    own = acme.assign(alice)
    acme.assign(outer)
    drain()
    acme.members(outer, remove=[inner])
    drain()
    shown = {name: user["active"] for name, user in receiver.users().items()}
    assert shown == {"alice": True, "bob": False, "carol": True}
    assert receiver.members("Inner") == set()
    assert receiver.members("Outer") == {receiver.users()["carol"]["id"]}
    acme.unassign(own)
    drain()
    assert receiver.users()["alice"]["active"] is False
    acme.members(outer, add=[inner])
    drain()
    assert all(user["active"] for user in receiver.users().values())
    assert receiver.members("Inner") == {receiver.users()["alice"]["id"], receiver.users()["bob"]["id"]}


def test_removing_a_nested_group_takes_its_people_out(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver, scope="assigned")
    alice, bob = acme.user("alice"), acme.user("bob")
    inner = acme.group("Inner", [bob])
    acme.assign(acme.group("Outer", [inner, alice]))
    drain()
    acme.remove(inner, kind="Group")
    drain()
    assert {name: user["active"] for name, user in receiver.users().items()} == {"alice": True, "bob": False}


def test_a_single_leaver_passes_at_once(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    people = acme.users(30)
    drain()
    for id in people[:4]:
        acme.remove(id)
        drain()
    assert sum(not user["active"] for user in receiver.users().values()) == 4
    assert acme.events("scim_target.removals_held") == []


def held_target(acme: Tenant, receiver: Receiver) -> tuple[str, list[str]]:
    target = acme.target(receiver)
    people = acme.users(30)
    drain()
    acme.remove(*people[:8])
    drain()
    return target, people


def test_a_mass_removal_is_held_as_a_whole_while_updates_go_on(acme: Tenant, receiver: Receiver) -> None:
    _, people = held_target(acme, receiver)
    assert all(user["active"] for user in receiver.users().values())
    assert {delivery.status for delivery in acme.deliveries()} == {"held"}
    assert len(acme.deliveries()) == 8
    [told] = acme.events("scim_target.removals_held")
    assert told["removals"] == 8
    acme.change(people[20], title="Chief")
    acme.remove(people[9])
    acme.user("newcomer")
    drain()
    there = receiver.users()
    assert there["person020"]["title"] == "Chief" and "newcomer" in there
    assert there["person009"]["active"] is True, "what joins held removals waits with them"
    assert len(acme.events("scim_target.removals_held")) == 1


def test_approved_removals_are_made_and_later_leavers_pass(acme: Tenant, receiver: Receiver) -> None:
    target, people = held_target(acme, receiver)
    acme.resume(target, "approve")
    drain()
    assert sum(not user["active"] for user in receiver.users().values()) == 8
    acme.remove(people[10])
    drain()
    assert sum(not user["active"] for user in receiver.users().values()) == 9
    assert acme.deliveries() == []


def test_an_approval_covers_what_was_held_then_and_nothing_else(acme: Tenant, receiver: Receiver) -> None:
    target = acme.target(receiver, removal_guard={"min": 2, "percent": 5, "percent_24h": 10})
    people = acme.users(80)
    drain()
    acme.remove(*people[:5])
    drain()
    assert len([one for one in acme.deliveries() if one.status == "held"]) == 5
    change_target(acme, target, status="paused")
    acme.remove(*people[5:55])
    acme.resume(target, "approve")
    drain()
    drain()  # one run ends when all it claimed is held
    gone = {name for name, user in receiver.users().items() if not user["active"]}
    assert gone == {f"person{number:03}" for number in range(5)}
    assert {(one.resource_id, one.status, one.approved) for one in acme.deliveries()} == {
        (id, "held", False) for id in people[5:55]
    }
    assert [told["removals"] for told in acme.events("scim_target.removals_held")] == [5, 50]


def test_an_approval_is_void_when_the_person_changes_or_comes_back(acme: Tenant, receiver: Receiver) -> None:
    target = acme.target(receiver, scope="assigned")
    people = acme.users(30)
    group = acme.group("All", people)
    acme.assign(group)
    drain()
    acme.members(group, remove=people[:8])
    drain()
    acme.resume(target, "approve")
    acme.members(group, add=people[:8])
    with platform_scope() as session:
        session.execute(sa.update(Delivery).where(Delivery.task == "push").values(due_at=sa.text("now() + '1 hour'")))
    drain()
    assert not any(one.approved for one in acme.deliveries()), "the expansion found them in reach again"
    acme.members(group, remove=people[:8])
    acme.wait_over()
    drain()
    assert all(user["active"] for user in receiver.users().values())
    acme.resume(target, "approve")
    acme.change(people[0], title="Chief")
    assert sum(one.approved for one in acme.deliveries()) == 7


def test_rejected_removals_stay_muted_until_the_person_changes(acme: Tenant, receiver: Receiver) -> None:
    target = acme.target(receiver, scope="assigned")
    people = acme.users(30)
    group = acme.group("All", people)
    acme.assign(group)
    drain()
    acme.members(group, remove=people[:8])
    drain()
    acme.resume(target, "reject")
    drain()
    acme.members(group, remove=[people[20]])
    drain()
    there = receiver.users()
    assert [name for name, user in there.items() if not user["active"]] == ["person020"]
    acme.change(people[0], title="gone")
    drain()
    assert receiver.users()["person000"]["active"] is False
    acme.members(group, add=[people[1]])
    drain()
    assert len([one for one in acme.deliveries() if one.status == "muted"]) == 6


def test_losing_the_whole_reach_is_held_however_few_they_are(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver, scope="assigned", deprovision="delete")
    group = acme.group("Few", [acme.user("alice"), acme.user("bob")])
    assignment = acme.assign(group)
    drain()
    acme.unassign(assignment)
    drain()
    assert set(receiver.users()) == {"alice", "bob"}
    assert {delivery.status for delivery in acme.deliveries()} == {"held"}
    acme.assign(group)
    drain()
    assert acme.deliveries() == []
    assert len(receiver.members("Few")) == 2


def test_a_slow_drain_is_held_when_a_day_has_seen_too_much(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    people = acme.users(30)
    drain()
    for id in people[:9]:
        acme.remove(id)
        drain()
    assert sum(not user["active"] for user in receiver.users().values()) == 6
    assert len(acme.deliveries()) == 3


def test_a_retried_removal_counts_once(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver, removal_guard={"min": 1, "percent": 0, "percent_24h": 0})
    alice, _ = acme.users(2)
    drain()
    receiver.fault("PATCH", "/Users/.*", Answer(500), times=3)
    acme.remove(alice)
    for _ in range(4):
        drain()
        acme.wait_over()
    assert receiver.users()["person000"]["active"] is False
    assert acme.events("scim_target.removals_held") == []


def test_no_transaction_is_open_while_a_receiver_is_asked(acme: Tenant, receiver: Receiver, pushing: Flask) -> None:
    acme.target(receiver)
    alice = acme.user("alice")
    acme.group("All", [alice])
    open_then: list[int] = []

    def count(asked: Any, act: Callable[[], Answer]) -> Answer:
        with pushing.app_context(), platform_scope() as session:
            busy = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
            open_then.append(session.execute(sa.text(busy)).scalar_one())
        return act()

    for method in ("GET", "POST", "PATCH"):
        receiver.fault(method, ".*", count, times=3)
    drain()
    assert len(open_then) >= 5 and set(open_then) == {0}


def test_a_slow_receiver_keeps_its_claims_alive(
    acme: Tenant, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_push, "LEASE", 0.6)
    acme.target(receiver)
    acme.user("alice")
    receiver.fault("POST", "/Users", lambda asked, act: Answer(201, act().body, delay=1.0))
    began = time.monotonic()
    drain()
    assert time.monotonic() - began > 1.0
    assert acme.deliveries() == []
    assert len(receiver.requests("POST")) == 1


def test_members_written_are_remembered_per_chunk(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    people = acme.users(150)
    drain()
    acme.group("All", people)
    calls = iter((None, Answer(500)))
    receiver.fault("PATCH", "/Groups/.*", lambda asked, act: next(calls) or act(), times=2)
    drain()
    with unit(acme.scope) as session:
        assert session.scalar(sa.select(sa.func.count()).where(TargetMember.certain)) == 100
    acme.wait_over()
    receiver.asked.clear()
    drain()
    sizes = [len(asked.body["Operations"][0]["value"]) for asked in receiver.requests("PATCH")]
    assert sizes == [50]
    assert len(receiver.members("All")) == 150


def change_target(acme: Tenant, target_id: str, **values: Any) -> None:
    with unit(acme.scope) as session:
        targets.update(session.get_one(ScimTarget, (acme.scope.tenant_id, target_id)), values)


def test_a_new_credential_is_tried_at_once_and_what_failed_with_it(acme: Tenant, receiver: Receiver) -> None:
    target = acme.target(receiver)
    drain()
    acme.users(3)
    receiver.fault("POST", "/Users", Answer(400, {"detail": "read-only credential"}), times=2)
    receiver.fault("POST", "/Users", Answer(401))
    drain()
    assert sorted(delivery.status for delivery in acme.deliveries()) == ["failed", "failed", "pending"]
    change_target(acme, target, auth={"method": "bearer", "token": "another"})
    assert drain().outcomes["later"] >= 1, "the receiver does not know this one"
    change_target(acme, target, auth={"method": "bearer", "token": TOKEN})
    acme.wait_over()
    drain()
    assert len(receiver.users()) == 3


def test_a_target_that_moved_is_filled_again_and_nobody_is_made_twice(acme: Tenant, receiver: Receiver) -> None:
    target = acme.target(receiver)
    acme.group("All", acme.users(3))
    drain()
    with faulty_receiver() as elsewhere:
        change_target(acme, target, base_url=elsewhere.base_url)
        drain()
        assert len(elsewhere.users()) == 3
        assert len(elsewhere.members("All")) == 3
        change_target(acme, target, base_url=receiver.base_url)
        drain()
    assert len(receiver.users()) == 3
    assert len(receiver.members("All")) == 3


def test_a_target_does_not_move_while_somebody_out_of_reach_is_there(acme: Tenant, receiver: Receiver) -> None:
    target = acme.target(receiver, scope="assigned")
    alice, bob = acme.users(2)
    group = acme.group("All", [alice, bob])
    assignment = acme.assign(group)
    drain()
    acme.unassign(assignment)
    drain()
    with pytest.raises(Conflict):
        change_target(acme, target, base_url="https://elsewhere.example/scim")
    acme.resume(target, "approve")
    drain()
    change_target(acme, target, base_url="https://elsewhere.example/scim")


def test_our_own_ports_are_the_standard_ones_where_a_url_names_none(settings: Config) -> None:
    config = replace(
        settings,
        base_url="https://id.example",
        database_url="postgresql+psycopg://app@db/scaikey",
        owner_database_url="postgresql+psycopg://owner@db:6432/scaikey",
        platform_database_url="postgresql+psycopg://platform@db:6433/scaikey",
        redis_url="redis://cache",
    )
    assert running_push.egress(config, "tnt_x").own_ports == {5432, 6379, 6432, 6433}
    local = replace(config, base_url="http://localhost", redis_url="unix:///run/valkey.sock", database_url=None)
    assert running_push.egress(local, "tnt_x").own_ports == {80, 6432, 6433}


def test_a_defect_met_with_one_target_does_not_keep_the_others_waiting(
    acme: Tenant, world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Tenant(world.globex).target(receiver)
    Tenant(world.globex).user("unlucky")
    acme.target(receiver)
    acme.user("alice")
    prepare = running_push.plan.prepare

    def stumble(target: Any, works: Any) -> Any:
        if target.id == broken:
            raise RuntimeError("a defect")
        return prepare(target, works)

    monkeypatch.setattr(running_push.plan, "prepare", stumble)
    drain()
    assert set(receiver.users()) == {"alice"}
    monkeypatch.undo()
    Tenant(world.globex).wait_over()
    drain()
    assert set(receiver.users()) == {"alice", "unlucky"}


def test_a_defect_met_with_one_person_is_shown_and_tried_again(
    acme: Tenant, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme.target(receiver)
    alice, _ = acme.user("alice"), acme.user("bob")
    carry_out = running_push.carry_out

    def stumble(work: Any, channel: Any) -> Any:
        if work.resource_id == alice:
            raise RuntimeError("a defect")
        return carry_out(work, channel)

    monkeypatch.setattr(running_push, "carry_out", stumble)
    drain()
    assert set(receiver.users()) == {"bob"}
    assert acme.delivery().problem == "An error of ours; the log says which."
    monkeypatch.undo()
    acme.wait_over()
    drain()
    assert set(receiver.users()) == {"alice", "bob"}


def test_a_claim_that_gives_way_to_another_transaction_is_made_again_at_once(
    acme: Tenant, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    target_id = acme.target(receiver)
    acme.user("alice")
    claim, given_way = outbox.claim, []

    def give_way(*args: Any) -> Any:
        if len(given_way) < 2:
            given_way.append(claim(*args))
            raise sa.exc.OperationalError("UPDATE", {}, psycopg.errors.DeadlockDetected("deadlock"))
        return claim(*args)

    monkeypatch.setattr(outbox, "claim", give_way)
    drain()
    assert len(given_way) == 2 and set(receiver.users()) == {"alice"}
    with unit(acme.scope) as session:
        assert session.get_one(ScimTarget, (acme.scope.tenant_id, target_id)).postponed_until is None


def _days_ago(table: str, column: str, acme: Tenant, days: float) -> None:
    with platform_scope() as session:
        moved = f"UPDATE {table} SET {column} = now() - make_interval(hours => :hours) WHERE tenant_id = :tenant"
        session.execute(sa.text(moved), {"hours": int(days * 24), "tenant": acme.scope.tenant_id})


def test_who_left_is_disabled_first_and_deleted_after_so_many_days(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver, deprovision="delete_after_days", deprovision_days=7)
    alice, bob = acme.user("alice"), acme.user("bob")
    drain()
    acme.remove(alice)
    drain()
    assert receiver.users()["alice"]["active"] is False
    _days_ago("target_resources", "left_at", acme, 6)
    push.look_again()
    assert acme.deliveries() == []
    _days_ago("target_resources", "left_at", acme, 7.1)
    push.look_again()
    drain()
    assert set(receiver.users()) == {"bob"} and acme.states() == {alice: "removed", bob: "present"}
    assert acme.deliveries() == []


def test_who_returns_before_his_days_are_over_stays(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver, scope="assigned", deprovision="delete_after_days", deprovision_days=7)
    alice, bob = acme.user("alice"), acme.user("bob")
    assigned = acme.assign(alice)
    acme.assign(bob)
    drain()
    acme.unassign(assigned)
    drain()
    assert receiver.users()["alice"]["active"] is False
    acme.assign(alice)
    drain()
    _days_ago("target_resources", "updated_at", acme, 8)
    push.look_again()
    drain()
    assert receiver.users()["alice"]["active"] is True and receiver.requests("DELETE") == []


def test_a_target_that_never_deprovisions_keeps_who_left_and_disables_who_is_disabled(
    acme: Tenant, receiver: Receiver
) -> None:
    acme.target(receiver, deprovision="never")
    alice, bob = acme.user("alice"), acme.user("bob")
    drain()
    acme.remove(alice)
    acme.change(bob, active=False)
    drain()
    assert {name: one["active"] for name, one in receiver.users().items()} == {"alice": True, "bob": False}


def test_a_target_that_failed_for_a_day_is_in_quarantine_and_heals_by_itself(acme: Tenant, receiver: Receiver) -> None:
    target_id = acme.target(receiver)
    acme.users(3)
    receiver.fault("GET", "/Users.*", Answer(503), times=100)
    drain()
    _days_ago("scim_targets", "failing_since", acme, 1.1)
    acme.wait_over()
    drain()
    with unit(acme.scope) as session:
        target = session.get_one(ScimTarget, (acme.scope.tenant_id, target_id))
        assert target.status == "quarantined" and "503" in (target.status_reason or "")
        assert target.postponed_until is not None
        assert target.postponed_until > datetime.now(UTC) + timedelta(minutes=20)
        reason = target.status_reason
    assert [event["reason"] for event in acme.events("scim_target.quarantined")] == [reason]
    receiver.faults.clear()
    acme.wait_over()
    drain()
    drain()
    with unit(acme.scope) as session:
        target = session.get_one(ScimTarget, (acme.scope.tenant_id, target_id))
        assert (target.status, target.failing_since) == ("active", None)
    assert len(receiver.users()) == 3 and acme.deliveries() == []
    assert len(acme.events("scim_target.recovered")) == 1


def test_what_is_in_quarantine_is_tried_again_after_hours_by_itself(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    acme.user("alice")
    receiver.fault("POST", "/Users", Answer(400, {"detail": "not today"}), times=5)
    drain()
    receiver.faults.clear()
    push.look_again()
    assert acme.delivery().status == "failed" and acme.delivery().due_at > datetime.now(UTC) + timedelta(hours=3)
    acme.wait_over()
    push.look_again()
    drain()
    assert set(receiver.users()) == {"alice"}


def test_a_target_with_a_pace_is_asked_no_faster(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver, requests_per_second=20)
    acme.users(20)
    began = time.monotonic()
    drain()
    assert len(receiver.users()) == 20
    assert len(receiver.asked) <= 20 * (time.monotonic() - began + 1) + 8
