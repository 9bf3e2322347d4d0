"""What keeps a target from harm: removals that nobody meant, departures that wait, and requests into a wall."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from broker.db import platform_scope, unit
from broker.models import ScimTarget
from broker.registry import targets
from scim import push
from scim.push import outbox, plan, reach
from scim.push.run import CONNECTIONS
from scim.push.work import read_target
from tests.receivers import Answer, Asked, Receiver
from tests.scim.test_push import Tenant, acme, drain, leases_end, listening, pushing, receiver
from tests.scim.test_reconcile import compare

__all__ = ["acme", "listening", "pushing", "receiver"]


def days_pass(acme: Tenant, days: int) -> None:
    """What was let pass and who left are so much longer ago."""
    mine = {"days": days, "tenant": acme.scope.tenant_id}
    with platform_scope() as session:
        for table, column in (("target_removals", "at"), ("target_resources", "left_at")):
            moved = f"UPDATE {table} SET {column} = {column} - make_interval(days => :days) WHERE tenant_id = :tenant"
            session.execute(sa.text(moved), mine)


def statuses(acme: Tenant) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in acme.deliveries():
        found[one.status] = found.get(one.status, 0) + 1
    return found


def update(acme: Tenant, target_id: str, **values: object) -> None:
    with unit(acme.scope) as session:
        targets.update(session.get_one(ScimTarget, (acme.scope.tenant_id, target_id)), values)


def test_accounts_that_a_backup_brought_back_are_held_where_a_comparison_would_take_many_away(
    acme: Tenant, receiver: Receiver
) -> None:
    target_id = acme.target(receiver, deprovision="delete")
    ids = acme.users(30)
    drain()
    backup = receiver.backup()
    acme.remove(*ids[:12])
    drain()
    acme.resume(target_id, "approve")
    drain()
    assert len(receiver.users()) == 18
    receiver.restore(backup)
    days_pass(acme, 2)
    run = compare(acme, target_id, "overwrite")
    assert (run.unexpected, run.owed) == (12, 12)
    drain()
    assert len(receiver.users()) == 30 and statuses(acme) == {"held": 12}
    acme.resume(target_id, "approve")
    drain()
    assert len(receiver.users()) == 18 and acme.deliveries() == []


@pytest.mark.parametrize("flattens", [False, True])
@pytest.mark.parametrize("removals", ["approve", "reject"])
def test_who_is_held_stays_in_his_groups_until_it_is_decided(
    acme: Tenant, receiver: Receiver, removals: str, flattens: bool
) -> None:
    target_id = acme.target(receiver, nested_groups="flatten" if flattens else "keep")
    ids = acme.users(30)
    group = acme.group("Staff", ids)
    drain()
    acme.remove(*ids[:12])
    drain()
    assert statuses(acme) == {"held": 12} and len(receiver.members("Staff")) == 30
    acme.members(group, remove=[ids[20]])
    drain()
    assert len(receiver.members("Staff")) == 29, "others leave the group as ever"
    acme.resume(target_id, removals)
    drain()
    drain()
    left = 17 if removals == "approve" else 29
    assert len(receiver.members("Staff")) == left
    assert sum(one["active"] for one in receiver.users().values()) == (18 if removals == "approve" else 30)
    assert statuses(acme) == ({} if removals == "approve" else {"muted": 12})


def test_a_few_accounts_that_came_back_are_taken_away_again(acme: Tenant, receiver: Receiver) -> None:
    target_id = acme.target(receiver, deprovision="delete")
    ids = acme.users(30)
    drain()
    backup = receiver.backup()
    acme.remove(*ids[:3])
    drain()
    receiver.restore(backup)
    days_pass(acme, 2)
    compare(acme, target_id, "overwrite")
    drain()
    assert len(receiver.users()) == 27 and acme.deliveries() == []


def test_who_is_to_be_deleted_later_is_judged_when_he_is_disabled(acme: Tenant, receiver: Receiver) -> None:
    target_id = acme.target(receiver, deprovision="delete_after_days", deprovision_days=7)
    ids = acme.users(30)
    drain()
    acme.remove(*ids[:12])
    drain()
    days_pass(acme, 8)
    push.look_again()
    drain()
    assert statuses(acme) == {"held": 12} and all(one["active"] for one in receiver.users().values())
    acme.resume(target_id, "approve")
    drain()
    assert sum(one["active"] for one in receiver.users().values()) == 18 and receiver.requests("DELETE") == []
    days_pass(acme, 8)
    push.look_again()
    drain()
    assert len(receiver.users()) == 18 and acme.deliveries() == []


def test_a_target_that_is_to_delete_after_days_gives_those_who_left_before_their_days_too(
    acme: Tenant, receiver: Receiver
) -> None:
    target_id = acme.target(receiver)
    ids = acme.users(30)
    drain()
    acme.remove(*ids[:4])
    drain()
    days_pass(acme, 400)
    update(acme, target_id, deprovision="delete_after_days", deprovision_days=7)
    push.look_again()
    drain()
    assert len(receiver.users()) == 30 and receiver.requests("DELETE") == []
    days_pass(acme, 8)
    push.look_again()
    drain()
    assert len(receiver.users()) == 26


def test_who_leaves_does_not_wait_behind_those_who_come(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    leaver = acme.users(3)[0]
    drain()
    receiver.asked.clear()
    people = [acme.user(f"newcomer{number:02}") for number in range(40)]
    acme.group("Newcomers", people)
    acme.remove(leaver)
    there, let_go = f"/Users/{acme.remote_id(leaver)}", threading.Event()

    def who_comes_waits_for_who_leaves(asked: Asked, act: Callable[[], Answer]) -> Answer | None:
        if asked.path == there and asked.method != "GET":
            let_go.set()
        return Answer(201, act().body, after=let_go) if asked.method == "POST" and asked.path == "/Users" else None

    receiver.rules.append(who_comes_waits_for_who_leaves)
    drain()
    assert len(receiver.users()) == 43 and acme.deliveries() == []
    changes = [asked.path for asked in receiver.asked if asked.method != "GET"]
    assert there in changes[:CONNECTIONS], "every connection would wait for him"


def test_after_a_few_failures_in_a_row_the_target_is_left_alone(acme: Tenant, receiver: Receiver) -> None:
    target_id = acme.target(receiver)
    people = acme.users(60)
    receiver.fault("POST", "/Users", Answer(500), times=100)
    drain()
    tried = len(receiver.requests("POST"))
    assert 8 <= tried <= 8 + CONNECTIONS, "eight in a row are enough, and what was under way beside them"
    drain()
    assert len(receiver.requests("POST")) == tried
    with unit(acme.scope) as session:
        target = session.get_one(ScimTarget, (acme.scope.tenant_id, target_id))
        assert target.postponed_until is not None and "answered 500" in (target.status_reason or "")
    receiver.faults.clear()
    acme.wait_over()
    drain()
    assert {one["externalId"] for one in receiver.users().values()} == set(people) and acme.deliveries() == []


def gone_from(acme: Tenant, receiver: Receiver, **values: object) -> tuple[str, list[str]]:
    """A target of thirty people, of whom an administrator let twelve be disabled there, long ago."""
    target_id = acme.target(receiver, **values)
    ids = acme.users(30)
    drain()
    acme.remove(*ids[:12])
    drain()
    acme.resume(target_id, "approve")
    drain()
    assert disabled(receiver) == 12 and acme.deliveries() == []
    return target_id, ids


def disabled(receiver: Receiver) -> int:
    return sum(not one["active"] for one in receiver.users().values())


def held(acme: Tenant) -> int:
    """How many wait for a decision; nothing else is owed."""
    found = statuses(acme)
    assert set(found) <= {"held"}
    return found.get("held", 0)


def look_again() -> None:
    push.look_again()
    drain()


@pytest.mark.parametrize("days", [3, 0])
def test_fewer_days_until_deletion_are_asked_for_where_they_delete_many(
    acme: Tenant, receiver: Receiver, days: int
) -> None:
    target_id, _ = gone_from(acme, receiver, deprovision="delete_after_days", deprovision_days=30)
    days_pass(acme, days)
    update(acme, target_id, deprovision_days=1)
    drain()
    days_pass(acme, 2)
    look_again()
    assert len(receiver.users()) == 30 and held(acme) == 12
    acme.resume(target_id, "approve")
    drain()
    assert len(receiver.users()) == 18 and acme.deliveries() == []


def test_days_that_are_given_back_in_time_end_what_was_held_for_them(acme: Tenant, receiver: Receiver) -> None:
    target_id, _ = gone_from(acme, receiver, deprovision="delete_after_days", deprovision_days=30)
    days_pass(acme, 3)
    update(acme, target_id, deprovision_days=1)
    assert push.preview(acme.scope, target_id, 3)["counts"]["delete"] == 12
    look_again()
    assert held(acme) == 12
    update(acme, target_id, deprovision_days=30)
    drain()
    assert acme.deliveries() == [] and len(receiver.users()) == 30
    days_pass(acme, 30)
    look_again()
    assert held(acme) == 12, "who was asked for at other days is asked for"


def test_a_few_who_are_due_after_fewer_days_are_deleted(acme: Tenant, receiver: Receiver) -> None:
    target_id = acme.target(receiver, deprovision="delete_after_days", deprovision_days=30)
    ids = acme.users(30)
    drain()
    acme.remove(*ids[:4])
    drain()
    days_pass(acme, 3)
    update(acme, target_id, deprovision_days=1)
    look_again()
    assert len(receiver.users()) == 26 and acme.deliveries() == []


@pytest.mark.parametrize("policy", ["delete", "delete_after_days"])
@pytest.mark.parametrize("days", [100, 0])
def test_a_policy_that_deletes_whom_another_disabled_is_asked_for(
    acme: Tenant, receiver: Receiver, policy: str, days: int
) -> None:
    target_id, _ = gone_from(acme, receiver)
    days_pass(acme, days)
    update(acme, target_id, deprovision=policy, deprovision_days=7)
    drain()
    if policy == "delete_after_days":
        days_pass(acme, 8)
        look_again()
    assert len(receiver.users()) == 30 and held(acme) == 12


def test_a_policy_that_deletes_at_once_whom_another_let_wait_is_asked_for(acme: Tenant, receiver: Receiver) -> None:
    target_id, _ = gone_from(acme, receiver, deprovision="delete_after_days")
    days_pass(acme, 3)
    update(acme, target_id, deprovision="delete")
    drain()
    assert len(receiver.users()) == 30 and held(acme) == 12


def test_an_approval_is_void_under_another_policy(acme: Tenant, receiver: Receiver) -> None:
    target_id = acme.target(receiver)
    ids = acme.users(30)
    drain()
    acme.remove(*ids[:12])
    drain()
    acme.resume(target_id, "approve")
    update(acme, target_id, deprovision="delete")
    drain()
    assert len(receiver.users()) == 30 and held(acme) == 12


def test_a_target_that_begins_to_deprovision_asks_for_those_who_left_before(acme: Tenant, receiver: Receiver) -> None:
    target_id = acme.target(receiver, deprovision="never")
    ids = acme.users(30)
    drain()
    acme.remove(*ids[:12])
    drain()
    update(acme, target_id, deprovision="disable")
    drain()
    assert disabled(receiver) == 0 and held(acme) == 12


def test_people_who_were_disabled_one_by_one_and_leave_together_are_not_deleted_unasked(
    acme: Tenant, receiver: Receiver
) -> None:
    acme.target(receiver, deprovision="delete_after_days", deprovision_days=7)
    ids = acme.users(30)
    drain()
    for few in (ids[:3], ids[3:6], ids[6:9], ids[9:12]):
        for one in few:
            acme.change(one, active=False)
        drain()
        days_pass(acme, 2)
    assert disabled(receiver) == 12 and acme.deliveries() == []
    acme.remove(*ids[:12])
    drain()
    days_pass(acme, 8)
    look_again()
    assert len(receiver.users()) == 30 and held(acme) == 12


def test_who_was_let_go_and_came_back_is_asked_for_when_he_is_lost_again(acme: Tenant, receiver: Receiver) -> None:
    target_id = acme.target(receiver, scope="assigned")
    ids = acme.users(30)
    everybody, many = acme.group("Everybody", ids[12:]), acme.group("Many", ids[:12])
    acme.assign(everybody)
    assignment = acme.assign(many)
    drain()
    acme.unassign(assignment)
    drain()
    assert disabled(receiver) == 0 and held(acme) == 13
    acme.resume(target_id, "approve")
    drain()
    assert disabled(receiver) == 12
    assignment = acme.assign(many)
    drain()
    assert disabled(receiver) == 0 and acme.deliveries() == []
    acme.unassign(assignment)
    drain()
    assert disabled(receiver) == 0 and held(acme) == 13


def test_losing_all_people_is_held_though_their_group_stays(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver, scope="assigned")
    people = acme.users(4)
    group = acme.group("Few", people)
    acme.assign(group)
    drain()
    acme.members(group, remove=people)
    drain()
    drain()  # one run ends when all it claimed is held
    assert disabled(receiver) == 0 and held(acme) == 4
    acme.members(group, add=people[:1])
    drain()
    assert disabled(receiver) == 0 and held(acme) == 3


def test_disabling_all_people_is_held_however_few_they_are(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    people = acme.users(3)
    acme.group("Empty", [])
    drain()
    for id in people:
        acme.change(id, active=False)
    drain()
    assert disabled(receiver) == 0 and held(acme) == 3


@pytest.mark.parametrize("leaves", ["removed", "disabled"])
@pytest.mark.parametrize("policy", ["delete", "disable"])
def test_who_leaves_takes_nobody_along_who_was_given_his_id_at_a_restored_target(
    acme: Tenant, receiver: Receiver, policy: str, leaves: str
) -> None:
    acme.target(receiver, deprovision=policy)
    alice, bob = acme.user("alice"), acme.user("bob")
    acme.users(5)
    drain()
    given, his = acme.remote_id(alice), acme.remote_id(bob)
    assert given is not None and his is not None
    stored = receiver.stored["Users"]
    del stored[given]
    stored[given] = {**stored.pop(his), "id": given}
    if leaves == "removed":
        acme.remove(alice)
    else:
        acme.change(alice, active=False)
    drain()
    assert receiver.users()["bob"]["active"] is True and "alice" not in receiver.users()
    acme.change(bob, title="Chief")
    drain()
    acme.wait_over()
    drain()
    assert receiver.users()["bob"]["title"] == "Chief" and acme.deliveries() == []
    assert len(receiver.users()) == 6


def test_a_scope_that_shrinks_to_what_is_assigned_is_held(acme: Tenant, receiver: Receiver) -> None:
    target_id = acme.target(receiver)
    ids = acme.users(30)
    drain()
    acme.assign(acme.group("Few", ids[:10]))
    drain()
    update(acme, target_id, scope="assigned")
    drain()
    assert disabled(receiver) == 0 and held(acme) == 20


def test_a_large_loss_is_seen_whole_before_it_is_owed_whole(
    acme: Tenant, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "PAGE", 3)
    target_id = acme.target(receiver)
    ids = acme.users(30)
    drain()
    acme.assign(acme.group("Few", ids[20:]))
    drain()
    update(acme, target_id, scope="assigned")
    with unit(acme.scope):
        target = read_target(acme.scope, target_id)
        assert target is not None
        reach.expand(target.tenant, target, None)
        works = [work for work in outbox.claim(target, 50) if work.task == "push"]
        assert (len(works), plan.prepare(target, works)) == (3, ([], []))
    leases_end()
    drain()
    assert disabled(receiver) == 0 and held(acme) == 20
    assert [told["removals"] for told in acme.events("scim_target.removals_held")] == [20]


def test_those_who_are_due_after_their_days_are_judged_together_however_few_are_owed_at_a_time(
    acme: Tenant, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_AT_ONCE", 2)
    target_id, _ = gone_from(acme, receiver)
    days_pass(acme, 3)
    update(acme, target_id, deprovision="delete_after_days", deprovision_days=7)
    drain()
    days_pass(acme, 8)
    look_again()
    assert len(receiver.users()) == 30 and held(acme) == 2


def test_a_paused_target_holds_what_many_left_meanwhile(acme: Tenant, receiver: Receiver) -> None:
    target_id = acme.target(receiver)
    ids = acme.users(30)
    drain()
    update(acme, target_id, status="paused")
    for id in ids[:12]:
        acme.remove(id)
        drain()
    acme.resume(target_id)
    drain()
    assert disabled(receiver) == 0 and held(acme) == 12


def test_another_name_by_a_mapping_is_another_name_of_the_same_people(acme: Tenant, receiver: Receiver) -> None:
    target_id = acme.target(receiver, deprovision="delete")
    ids = [acme.user(f"person{number:03}", nickName=f"nick{number:03}") for number in range(12)]
    drain()
    before = {acme.remote_id(id) for id in ids}
    receiver.asked.clear()
    update(acme, target_id, mapping=[{"from": "nickName", "to": "userName"}])
    drain()
    assert set(receiver.users()) == {f"nick{number:03}" for number in range(12)}
    assert {acme.remote_id(id) for id in ids} == before
    assert receiver.requests("DELETE") == receiver.requests("POST") == [] and disabled(receiver) == 0
