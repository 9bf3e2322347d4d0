"""What keeps a target from harm: removals that nobody meant, departures that wait, and requests into a wall."""

from __future__ import annotations

import sqlalchemy as sa

from broker.db import platform_scope, unit
from broker.models import ScimTarget
from broker.registry import targets
from scim import push
from scim.push.run import CONNECTIONS
from tests.receivers import Answer, Receiver
from tests.scim.test_push import Tenant, acme, drain, listening, pushing, receiver
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
    there = acme.remote_id(leaver)
    drain()
    changes = [asked.path for asked in receiver.asked if asked.method != "GET"]
    assert f"/Users/{there}" in changes[:CONNECTIONS], "among the first that the connections take"


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
