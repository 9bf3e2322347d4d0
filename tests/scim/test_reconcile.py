"""Comparisons of everything at a target, and previews, against receivers that were meddled with."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from broker import worker
from broker.db import db, unit
from broker.models import ScimTarget, TargetConvergence, TargetDrift, TargetRun
from broker.registry import targets
from scim import push
from tests.receivers import Answer, Asked, Receiver, Remote
from tests.scim.test_push import Tenant, acme, drain, foreign, listening, pushing, receiver  # noqa: F401


def compare(tenant: Tenant, target_id: str, policy: str = "report") -> TargetRun:
    with unit(tenant.scope) as session:
        run_id = push.ask(session.get_one(ScimTarget, (tenant.scope.tenant_id, target_id)), policy).id
    push.compare_due(lambda: False)
    return run_of(tenant, run_id)


def run_of(tenant: Tenant, run_id: str) -> TargetRun:
    with unit(tenant.scope) as session:
        run = session.get_one(TargetRun, (tenant.scope.tenant_id, run_id))
        session.expunge_all()
    return run


def drifts(tenant: Tenant) -> dict[str, tuple[str, Any]]:
    with unit(tenant.scope) as session:
        return {one.name or "": (one.kind, one.differences) for one in session.scalars(sa.select(TargetDrift))}


def meddle(there: Receiver) -> None:
    """Somebody deletes one account there, edits another and makes a third."""
    stored = there.stored["Users"]
    [gone] = [id for id, one in stored.items() if one["userName"] == "alice"]
    del stored[gone]
    next(one for one in stored.values() if one["userName"] == "bob")["title"] = "King"
    stored["x1"] = {"id": "x1", "userName": "mallory", "active": True}


def test_drift_is_listed_per_object_and_reporting_changes_nothing(acme: Tenant, receiver: Receiver) -> None:  # noqa: F811
    target_id = acme.target(receiver)
    acme.user("alice")
    acme.user("bob", title="Clerk")
    acme.user("carol")
    drain()
    assert compare(acme, target_id).status == "done" and drifts(acme) == {}
    meddle(receiver)
    run = compare(acme, target_id)
    assert (run.status, run.missing, run.changed, run.unexpected, run.owed) == ("done", 1, 1, 1, 0)
    assert drifts(acme) == {
        "alice": ("missing", {}),
        "bob": ("changed", {"title": {"expected": "Clerk", "found": "King"}}),
        "mallory": ("unexpected", {}),
    }
    assert acme.deliveries() == []


def test_overwriting_heals_what_is_ours_and_leaves_strangers_alone(acme: Tenant, receiver: Receiver) -> None:  # noqa: F811
    target_id = acme.target(receiver)
    acme.user("alice")
    acme.user("bob", title="Clerk")
    drain()
    meddle(receiver)
    assert compare(acme, target_id, "overwrite").owed == 2
    drain()
    assert set(receiver.users()) == {"alice", "bob", "mallory"}
    assert receiver.users()["bob"]["title"] == "Clerk"
    compare(acme, target_id)
    assert drifts(acme) == {"mallory": ("unexpected", {})}


def test_members_changed_there_are_found_and_put_right(
    acme: Tenant,  # noqa: F811
    foreign: Callable[[str], Remote],  # noqa: F811
    receiver: Receiver,  # noqa: F811
) -> None:
    target_id = acme.target(receiver)
    alice, bob, carol = acme.user("alice"), acme.user("bob"), acme.user("carol")
    acme.group("Team", [alice, bob])
    drain()
    group = next(iter(receiver.stored["Groups"].values()))
    group["members"] = [{"value": acme.remote_id(bob)}, {"value": acme.remote_id(carol)}, {"value": "own"}]
    assert compare(acme, target_id, "overwrite").changed == 1
    assert drifts(acme) == {"Team": ("changed", {"members": {"missing": 1, "unexpected": 1}})}
    drain()
    assert receiver.members("Team") == {acme.remote_id(alice), acme.remote_id(bob), "own"}


def test_a_group_too_long_for_an_answer_is_compared_by_the_ids_of_its_members(
    acme: Tenant,  # noqa: F811
    receiver: Receiver,  # noqa: F811
) -> None:
    target_id = acme.target(receiver)
    alice, bob = acme.user("alice"), acme.user("bob")
    acme.group("Team", [alice, bob])
    drain()
    [group] = receiver.stored["Groups"].values()
    group["members"] = [{"value": acme.remote_id(bob)}]
    shown = {**group, "members": [{**group["members"][0], "display": "b" * 5_000_000}]}

    def lengthy(asked: Asked, act: Callable[[], Answer]) -> Answer | None:
        if asked.method != "GET" or not asked.path.startswith("/Groups/"):
            return None
        return act() if asked.query.get("attributes") == "members.value" else Answer(200, shown)

    receiver.rules.append(lengthy)
    run = compare(acme, target_id, "overwrite")
    assert (run.status, run.changed, run.problem) == ("done", 1, None)
    receiver.rules.clear()
    drain()
    assert receiver.members("Team") == {acme.remote_id(alice), acme.remote_id(bob)}
    endless = Answer(200, {"id": group["id"], "members": [{"value": "m" * 17_000_000}]})
    receiver.fault("GET", "/Groups/.*", endless, times=2)
    run = compare(acme, target_id)
    assert run.status == "done" and "too many to be compared" in (run.problem or "")
    assert drifts(acme) == {}


def lists_members(there: Receiver, *, filters: bool = True) -> None:
    """A receiver that shows one member of a group only, and lists who is in which group two at a time."""
    types = [{"name": name} for name in ("User", "Group", "GroupMember")]

    def serve(asked: Asked, act: Callable[[], Answer]) -> Answer | None:
        if asked.path == "/ResourceTypes":
            return Answer(200, {"totalResults": len(types), "Resources": types})
        if asked.method == "GET" and asked.path == "/GroupMembers":
            found = [
                {"id": f"{group}.{one['value']}", "group": {"value": group}, "member": {"value": one["value"]}}
                for group, shown in there.stored["Groups"].items()
                for one in shown.get("members", [])
                if not filters or asked.query["filter"] == f'group.value eq "{group}"'
            ]
            start = int(asked.query["startIndex"]) - 1
            return Answer(200, {"totalResults": len(found), "Resources": found[start : start + 2]})
        return None

    there.rules.append(serve)


def test_members_that_are_listed_as_resources_are_compared_page_by_page(
    acme: Tenant,  # noqa: F811
    receiver: Receiver,  # noqa: F811
) -> None:
    lists_members(receiver)
    target_id = acme.target(receiver)
    people = acme.users(7)
    acme.group("Team", people)
    acme.group("Other", people[:1])
    drain()
    [group] = [one for one in receiver.stored["Groups"].values() if one["displayName"] == "Team"]
    lost = group["members"].pop(3)
    receiver.asked.clear()
    run = compare(acme, target_id, "overwrite")
    assert (run.status, run.changed) == ("done", 1)
    assert drifts(acme) == {"Team": ("changed", {"members": {"missing": 1, "unexpected": 0}})}
    asked = [one.query["startIndex"] for one in receiver.requests("GET") if one.path == "/GroupMembers"]
    assert sorted(asked) == ["1", "1", "3", "5"]
    assert not [one for one in receiver.requests("GET") if one.path.startswith("/Groups/")]
    drain()
    assert lost["value"] in receiver.members("Team") and len(receiver.members("Team")) == 7


def test_a_listing_that_does_not_tell_groups_apart_is_not_believed(acme: Tenant, receiver: Receiver) -> None:  # noqa: F811
    lists_members(receiver, filters=False)
    target_id = acme.target(receiver)
    people = acme.users(3)
    acme.group("Team", people)
    acme.group("Other", people[:1])
    drain()
    assert (compare(acme, target_id).status, drifts(acme)) == ("done", {})


def test_a_target_restored_from_backup_is_healed_without_doubles(acme: Tenant, receiver: Receiver) -> None:  # noqa: F811
    target_id = acme.target(receiver, deprovision="delete")
    ids = acme.users(8)
    acme.user("alice", title="Old")
    drain()
    backup = {id: dict(one) for id, one in receiver.stored["Users"].items()}
    acme.remove(ids[0])
    acme.user("late")
    drain()
    assert len(receiver.users()) == 9
    receiver.stored["Users"].clear()
    receiver.stored["Users"].update(backup)
    compare(acme, target_id, "overwrite")
    drain()
    assert set(receiver.users()) == {"alice", "late", *(f"person{number:03}" for number in range(1, 8))}
    assert len(receiver.stored["Users"]) == 9
    compare(acme, target_id)
    assert drifts(acme) == {}


def test_a_comparison_that_is_interrupted_goes_on_where_it_was(
    acme: Tenant,  # noqa: F811
    receiver: Receiver,  # noqa: F811
) -> None:
    target_id = acme.target(receiver)
    acme.users(130)
    drain()
    receiver.fault(
        "GET", "/Users.*", lambda asked, act: Answer(503) if asked.query.get("startIndex") == "101" else None
    )
    run = compare(acme, target_id)
    assert (run.status, run.done, run.position) == ("running", 100, "101") and "503" in (run.problem or "")
    with unit(acme.scope):
        db.session().execute(sa.update(TargetRun).values(due_at=sa.func.now()))
    push.compare_due(lambda: False)
    assert (run_of(acme, run.id).status, run_of(acme, run.id).done) == ("done", 130)
    assert drifts(acme) == {}


def test_a_scheduled_target_is_compared_by_itself(acme: Tenant, receiver: Receiver) -> None:  # noqa: F811
    target_id = acme.target(receiver, reconcile={"enabled": True, "schedule": "1h", "policy": "overwrite"})
    acme.user("alice")
    drain()
    with unit(acme.scope) as session:
        session.execute(sa.update(ScimTarget).values(reconcile_due_at=sa.func.now()))
    receiver.stored["Users"].clear()
    push.schedule_comparisons()
    push.schedule_comparisons()
    assert push.comparison_is_due()
    push.compare_due(lambda: False)
    drain()
    assert set(receiver.users()) == {"alice"}
    with unit(acme.scope) as session:
        target = session.get_one(ScimTarget, (acme.scope.tenant_id, target_id))
        assert target.reconcile_due_at is not None
        assert session.scalar(sa.select(sa.func.count()).select_from(TargetRun)) == 1


def test_a_preview_says_what_a_push_would_do_and_does_nothing(acme: Tenant, receiver: Receiver) -> None:  # noqa: F811
    target_id = acme.target(receiver)
    acme.user("alice", title="Clerk")
    bob = acme.user("bob")
    receiver.stored["Users"]["b1"] = {"id": "b1", "userName": "bob", "active": False}
    plan = push.preview(acme.scope, target_id, 10)
    assert plan["counts"]["create"] == 2
    told = {item["name"]: item for item in plan["items"]}
    assert (told["alice"]["deed"], told["bob"]["deed"], told["bob"]["remote_id"]) == ("create", "adopt", "b1")
    assert told["bob"]["differences"] == {"active": {"expected": True, "found": False}}
    assert receiver.requests("POST") == [] and acme.states() == {}
    drain()
    acme.remove(bob)
    plan = push.preview(acme.scope, target_id, 10)
    assert [(item["deed"], item["name"]) for item in plan["items"]] == [("disable", "bob")]
    assert receiver.users()["bob"]["active"] is True


def test_a_preview_of_a_paused_target_shows_what_would_follow(acme: Tenant, receiver: Receiver) -> None:  # noqa: F811
    target_id = acme.target(receiver)
    alice, bob = acme.user("alice", title="Clerk"), acme.user("bob")
    drain()
    with unit(acme.scope) as session:
        targets.update(session.get_one(ScimTarget, (acme.scope.tenant_id, target_id)), {"status": "paused"})
    acme.change(alice, title="Baker")
    acme.change(bob, active=False)
    acme.user("carol")
    plan = push.preview(acme.scope, target_id, 10)
    assert {name: many for name, many in plan["counts"].items() if many} == {"create": 1, "disable": 1, "update": 1}
    told = {item["name"]: (item["deed"], item["differences"]) for item in plan["items"]}
    assert told["alice"] == ("update", {"title": {"expected": "Baker", "found": "Clerk"}})
    assert told["bob"] == ("disable", {"active": {"expected": False, "found": True}})
    assert told["carol"][0] == "create"
    assert drain().worked == 0 and set(receiver.users()) == {"alice", "bob"}
    acme.resume(target_id)
    drain()
    there = receiver.users()
    assert (there["alice"]["title"], there["bob"]["active"], there["carol"]["active"]) == ("Baker", False, True)


def test_standing_counts_the_queue_and_how_fast_it_is_settled(acme: Tenant, receiver: Receiver) -> None:  # noqa: F811
    target_id = acme.target(receiver)
    acme.users(3)
    drain()
    acme.user("late")
    with unit(acme.scope) as session:
        shown = push.standing(session.get_one(ScimTarget, (acme.scope.tenant_id, target_id)))
    assert (shown["queue_depth"], shown["settled_24h"], shown["resources"]) == (1, 3, {"present": 3})
    assert 0 < shown["convergence_p50_seconds"] <= shown["convergence_p99_seconds"] < 3600


def test_comparisons_that_ended_long_ago_are_forgotten_but_for_the_last_of_each_target(
    acme: Tenant,  # noqa: F811
    receiver: Receiver,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "_FORGOTTEN_AT_ONCE", 2)
    compared, quiet = acme.target(receiver), acme.target(receiver)
    now = datetime.now(UTC)
    ended = {"compared": [100, 95, 92, 89, 1, None], "quiet": [300, 200]}
    with unit(acme.scope) as session:
        for target_id, days in zip((compared, quiet), ended.values(), strict=True):
            for ago in days:
                finished = None if ago is None else now - timedelta(days=ago)
                run = {"id": f"{target_id}-{ago}", "status": "running" if ago is None else "done"}
                session.add(TargetRun(target_id=target_id, policy="report", finished_at=finished, **run))
                session.flush()
            for hours in (1, 30, 60):
                at = {"hour": now - timedelta(hours=hours), "bucket": 1, "settled": hours}
                session.add(TargetConvergence(target_id=target_id, **at))
    worker.forget()
    with unit(acme.scope) as session:
        left = set(session.scalars(sa.select(TargetRun.id)))
        settled = session.scalars(sa.select(TargetConvergence.settled).where(TargetConvergence.target_id == quiet))
        assert set(settled) == {1, 30}
    assert left == {f"{compared}-{ago}" for ago in (89, 1, None)} | {f"{quiet}-200"}
