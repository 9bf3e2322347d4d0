"""How each target is spoken to: within its published limits, as it says of itself, under its own names."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from broker.attributes import CUSTOM
from broker.db import platform_scope, unit
from broker.errors import ValidationFailed
from broker.models import ScimTarget, TargetResource
from broker.registry import targets
from scim.push.mapping import check_rows
from tests.limits import GROUP, USER, WORK, aws, bulk, google, schema, tells
from tests.receivers import Answer, Asked, Receiver
from tests.scim.test_push import AD_USER, ENTERPRISE, Tenant, acme, drain, listening, pushing, receiver

__all__ = ["acme", "listening", "pushing", "receiver"]
URN, OF_GROUPS = CUSTOM["User"], CUSTOM["Group"]
CORE_GROUP = "urn:ietf:params:scim:schemas:core:2.0:Group"


def left_out(tenant: Tenant, id: str) -> list[str]:
    with unit(tenant.scope) as session:
        found = session.scalar(sa.select(TargetResource.left_out).where(TargetResource.resource_id == id))
    assert found is not None
    return found


def change(tenant: Tenant, target: str, **values: Any) -> None:
    with unit(tenant.scope) as session:
        targets.update(session.get_one(ScimTarget, (tenant.scope.tenant_id, target)), values)


def ask_again(tenant: Tenant) -> None:
    """A day has passed since the target was asked what it can do."""
    with platform_scope() as session:
        mine = {"tenant": tenant.scope.tenant_id}
        session.execute(
            sa.text("UPDATE scim_targets SET probed_at = now() - interval '25 hours' WHERE tenant_id = :tenant"), mine
        )


MAILS = [
    {"value": "a@private.example", "type": "home"},
    {"value": "a@acme.example", "type": "work", "primary": True, "display": "A"},
]


def there(receiver: Receiver, group: str) -> set[str]:
    """The externalIds of a group's members."""
    [found] = [one for one in receiver.stored["Groups"].values() if one["displayName"] == group]
    return {receiver.stored["Users"][member["value"]]["externalId"] for member in found.get("members", [])}


def test_aws_is_sent_what_it_takes_and_nothing_fails(acme: Tenant, receiver: Receiver) -> None:
    receiver.rules.append(aws)
    acme.target(receiver, profile="aws_iam_identity_center")
    people = acme.users(205)
    alice = acme.user("alice", emails=MAILS, photos=[{"value": "https://x.example/a.png", "type": "photo"}])
    inner = acme.group("Inner", people[:105])
    acme.group("Outer", [*people[100:], inner, alice])
    drain()
    assert acme.deliveries() == []
    assert there(receiver, "Outer") == {*people, alice}
    assert there(receiver, "Inner") == set(people[:105])
    [mail] = receiver_user(receiver, "alice")["emails"]
    assert mail == {"value": "a@acme.example", "type": "work", "primary": True}
    assert left_out(acme, alice) == ["emails.display", "emails: all but one", "photos"]
    acme.members(inner, remove=people[:103])
    drain()
    assert acme.deliveries() == []
    assert there(receiver, "Inner") == set(people[103:105])
    assert there(receiver, "Outer") == {*people[100:], alice}


def receiver_user(receiver: Receiver, name: str) -> dict[str, Any]:
    [found] = [one for one in receiver.stored["Users"].values() if one["userName"] == name]
    return found


def test_google_gets_no_put_no_paging_and_one_member_at_a_time(acme: Tenant, receiver: Receiver) -> None:
    receiver.rules.append(google)
    acme.target(receiver, profile="google_cloud_identity")
    alice, bob = acme.user("alice", title="Clerk", nickName="Al"), acme.user("bob")
    group = acme.group("Both", [alice, bob])
    drain()
    acme.change(alice, title="Chief")
    acme.members(group, remove=[bob])
    drain()
    assert acme.deliveries() == []
    assert receiver_user(receiver, "alice")["title"] == "Chief" and "nickName" not in receiver_user(receiver, "alice")
    assert there(receiver, "Both") == {alice}
    acme.change(bob, active=False)
    drain()
    assert receiver_user(receiver, "bob")["active"] is False
    assert receiver.requests("PUT") == []


def test_what_the_schemas_do_not_have_is_left_out_and_told(acme: Tenant, receiver: Receiver) -> None:
    receiver.rules.append(tells(USER, WORK, GROUP))
    acme.target(receiver)
    name = {"givenName": "Alice", "familyName": "Ahorn", "middleName": "B."}
    work = {"department": "Sales", "costCenter": "7"}
    alice = acme.user("alice", name=name, title="Clerk", emails=MAILS, **{ENTERPRISE: work})
    drain()
    sent = receiver_user(receiver, "alice")
    assert sent["name"] == {"givenName": "Alice", "familyName": "Ahorn"} and "title" not in sent
    assert sent[ENTERPRISE] == {"department": "Sales"}
    assert left_out(acme, alice) == [
        "emails.display",
        "emails.primary",
        "name.middleName",
        "title",
        f"{ENTERPRISE}:costCenter",
    ]


def test_a_target_that_learnt_more_is_sent_more(acme: Tenant, receiver: Receiver) -> None:
    receiver.rules.append(tells(USER))
    acme.target(receiver)
    alice = acme.user("alice", title="Clerk")
    drain()
    asked = len(receiver.requests("GET", "/Schemas"))
    acme.change(alice, title="Chief")
    drain()
    assert len(receiver.requests("GET", "/Schemas")) == asked == 1
    receiver.rules[:] = [tells(schema(USER["id"], "userName", "title"))]
    ask_again(acme)
    acme.user("bob")
    drain()
    assert receiver_user(receiver, "alice")["title"] == "Chief" and left_out(acme, alice) == []


@pytest.mark.parametrize("said", [Answer(200, b"[]"), Answer(200, {"Resources": 7}), Answer(404), Answer(403)])
def test_a_target_that_says_nothing_of_itself_is_served_all_the_same(
    acme: Tenant, receiver: Receiver, said: Answer
) -> None:
    for path in ("/ServiceProviderConfig", "/Schemas", "/ResourceTypes"):
        receiver.fault("GET", path, said)
    acme.target(receiver)
    acme.user("alice", title="Clerk")
    drain()
    assert receiver_user(receiver, "alice")["title"] == "Clerk"


def test_a_mapping_is_laid_over_what_is_sent_and_a_change_of_it_resends(acme: Tenant, receiver: Receiver) -> None:
    rows = [
        {"from": f"{AD_USER}:sAMAccountName", "to": "userName", "transform": {"name": "upper"}},
        {"constant": "Employee", "to": "userType"},
        {"from": "nickName", "to": "displayName", "default": "Nobody"},
        {"from": "emails.value", "to": "urn:acme:2.0:User:mails", "transform": {"name": "join", "args": {"with": ";"}}},
        {"omit": True, "to": "title"},
    ]
    target = acme.target(receiver, mapping=rows)
    alice = acme.user("alice", title="Clerk", emails=MAILS, **{AD_USER: {"sAMAccountName": "alice.a"}})
    bob = acme.user("bob", nickName="Bobby")
    drain()
    sent = receiver_user(receiver, "ALICE.A")
    assert (sent["externalId"], sent["userType"], sent["displayName"]) == (alice, "Employee", "Nobody")
    assert sent["urn:acme:2.0:User"] == {"mails": "a@private.example;a@acme.example"} and "title" not in sent
    assert "urn:acme:2.0:User" in sent["schemas"]
    assert receiver_user(receiver, "bob")["displayName"] == "Bobby"
    receiver.asked.clear()
    change(acme, target, mapping=rows[:4])
    drain()
    assert receiver_user(receiver, "ALICE.A")["title"] == "Clerk"
    assert [asked.path for asked in receiver.asked] == [f"/Users/{acme.remote_id(alice)}"]
    assert acme.states() == {alice: "present", bob: "present"}


def refuses_put(asked: Asked, act: Any) -> Answer | None:
    return Answer(405) if asked.method == "PUT" else None


def test_a_receiver_that_is_patched_is_told_what_is_no_more(acme: Tenant, receiver: Receiver) -> None:
    acme.declare("badge")
    acme.declare("floors", multi_valued=True, type="integer")
    names = schema(USER["id"], "userName", "title", "name.givenName", "name.middleName", "active")
    work, custom = schema(ENTERPRISE, "department", "costCenter", "manager.value"), schema(URN, "badge", "floors")
    receiver.rules += [refuses_put, tells(names, custom, work)]
    acme.target(receiver)
    boss = acme.user("boss")
    work_of_hers = {"department": "Sales", "costCenter": "7", "manager": {"value": boss}}
    name = {"givenName": "Alice", "middleName": "B."}
    alice = acme.user("alice", title="Dr", name=name, **{ENTERPRISE: work_of_hers, URN: {"badge": "A1", "floors": [1]}})
    drain()
    assert receiver_user(receiver, "alice")[URN] == {"badge": "A1", "floors": [1]}
    acme.change(alice, name={"givenName": "Alice"}, **{ENTERPRISE: {"department": "Sales"}, URN: {"floors": [1, 2]}})
    drain()
    shown = receiver_user(receiver, "alice")
    assert (shown[URN], shown[ENTERPRISE]) == ({"floors": [1, 2]}, {"department": "Sales"})
    assert shown["name"] == {"givenName": "Alice"} and "title" not in shown
    acme.change(alice)
    drain()
    shown = receiver_user(receiver, "alice")
    assert not any(shown.get(key) for key in (URN, ENTERPRISE, "name")) and acme.deliveries() == []
    asked = len(receiver.requests("PATCH"))
    drain()
    assert len(receiver.requests("PATCH")) == asked


def test_a_receiver_that_is_patched_is_told_what_a_mapping_says_no_more(acme: Tenant, receiver: Receiver) -> None:
    acme.declare("badge")
    receiver.rules.append(google)
    there, theirs = "urn:acme:badges:2.0:User", {"number": "1", "colour": "red"}
    acme.target(receiver, profile="google_cloud_identity", mapping=[{"from": f"{URN}:badge", "to": f"{there}:number"}])
    alice = acme.user("alice", **{URN: {"badge": "1"}})
    drain()
    receiver_user(receiver, "alice")[there]["colour"] = "red"
    assert receiver_user(receiver, "alice")[there] == theirs
    acme.change(alice)
    drain()
    assert receiver_user(receiver, "alice")[there] == {"colour": "red"}


def test_groups_are_sent_what_the_tenant_has_declared_of_them(acme: Tenant, receiver: Receiver) -> None:
    acme.declare("purpose", "room", "secret", resource_type="Group")
    receiver.rules.append(tells(USER, GROUP, schema(OF_GROUPS, "purpose", "room")))
    acme.target(receiver)
    alice = acme.user("alice")
    own = {"purpose": "on call", "room": "1", "secret": "x"}
    ops, plain = acme.group("Ops", [alice], **{OF_GROUPS: own}), acme.group("Plain", [alice])
    drain()
    shown = receiver.groups()["Ops"]
    assert shown[OF_GROUPS] == {"purpose": "on call", "room": "1"} and OF_GROUPS in shown["schemas"]
    assert left_out(acme, ops) == [f"{OF_GROUPS}:secret"] and OF_GROUPS not in receiver.groups()["Plain"]
    acme.rename(ops, "Ops", **{OF_GROUPS: {"purpose": "asleep"}})
    acme.rename(plain, "Plain", **{OF_GROUPS: {"room": "2"}})
    drain()
    groups = receiver.groups()
    assert (groups["Ops"][OF_GROUPS], groups["Plain"][OF_GROUPS]) == ({"purpose": "asleep"}, {"room": "2"})
    assert there(receiver, "Ops") == there(receiver, "Plain") == {alice}
    asked = len(receiver.asked)
    drain()
    assert acme.deliveries() == [] and len(receiver.asked) == asked and receiver.requests("PUT", "/Groups/.*") == []


def test_groups_are_sent_what_a_mapping_names_within_the_limits(acme: Tenant, receiver: Receiver) -> None:
    acme.declare("purpose", "room", resource_type="Group")
    receiver.rules.append(google)
    theirs = "urn:acme:rooms:2.0:Group"
    rows: list[dict[str, Any]] = [
        {"from": f"{OF_GROUPS}:purpose", "to": f"{theirs}:why", "transform": {"name": "upper"}},
        {"from": f"{OF_GROUPS}:room", "to": f"{theirs}:where"},
        {"from": "title", "to": f"{theirs}:title"},
    ]
    acme.target(receiver, profile="google_cloud_identity", mapping=rows)
    ops = acme.group("Ops", [acme.user("alice", title="Dr")], **{OF_GROUPS: {"purpose": "on call", "room": "1"}})
    drain()
    [shown] = receiver.stored["Groups"].values()
    assert shown[theirs] == {"why": "ON CALL", "where": "1"}
    assert receiver_user(receiver, "alice")[theirs] == {"title": "Dr"}
    acme.rename(ops, "Operations", **{OF_GROUPS: {"room": "2"}})
    drain()
    assert (shown["displayName"], shown[theirs]) == ("Operations", {"where": "2"}) and acme.deliveries() == []
    with pytest.raises(ValidationFailed):
        check_rows([{"from": f"{OF_GROUPS}:purpose", "to": "displayName"}])


def test_groups_in_groups_are_flattened_where_members_are_people(acme: Tenant, receiver: Receiver) -> None:
    receiver.rules.append(tells(schema(CORE_GROUP, "displayName", members=("User",))))
    acme.target(receiver)
    alice, bob, carol = acme.user("alice"), acme.user("bob"), acme.user("carol")
    innermost = acme.group("Innermost", [alice])
    inner = acme.group("Inner", [innermost, bob])
    outer = acme.group("Outer", [inner])
    drain()
    assert there(receiver, "Outer") == {alice, bob}
    acme.members(innermost, add=[carol], remove=[alice])
    drain()
    assert there(receiver, "Outer") == there(receiver, "Inner") == {bob, carol}
    acme.remove(innermost, kind="Group")
    drain()
    assert there(receiver, "Outer") == there(receiver, "Inner") == {bob}
    acme.members(outer, add=[alice])
    acme.members(outer, remove=[inner])
    drain()
    assert there(receiver, "Outer") == {alice}
    assert acme.deliveries() == []


def test_a_target_that_cannot_say_for_once_what_it_can_do_loses_no_members(acme: Tenant, receiver: Receiver) -> None:
    receiver.rules.append(tells(schema(CORE_GROUP, "displayName", members=("User",))))
    target = acme.target(receiver)
    alice = acme.user("alice")
    acme.group("Outer", [acme.group("Inner", [alice])])
    drain()
    assert there(receiver, "Outer") == {alice}
    receiver.fault("GET", "/Schemas", Answer(500))
    ask_again(acme)
    receiver.asked.clear()
    acme.user("bob")
    drain()
    assert there(receiver, "Outer") == {alice} and receiver.requests("PATCH") == []
    with unit(acme.scope) as session:
        row = session.get_one(ScimTarget, (acme.scope.tenant_id, target))
        assert row.flattens and row.probed_at is not None and row.probed_at > datetime.now(UTC) - timedelta(hours=1)


def test_who_arrives_late_joins_the_outer_groups_too(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver, nested_groups="flatten")
    alice = acme.user("alice")
    acme.group("Outer", [acme.group("Inner", [alice])])
    receiver.fault("POST", "/Users", Answer(500))
    drain()
    assert there(receiver, "Outer") == set()
    acme.wait_over()
    drain()
    assert there(receiver, "Outer") == {alice}


def test_flattening_is_begun_and_ended_by_a_setting(acme: Tenant, receiver: Receiver) -> None:
    target = acme.target(receiver)
    alice = acme.user("alice")
    inner = acme.group("Inner", [alice])
    acme.group("Outer", [inner])
    drain()
    change(acme, target, nested_groups="flatten")
    drain()
    assert there(receiver, "Outer") == {alice}
    change(acme, target, nested_groups="keep")
    drain()
    assert receiver.members("Outer") == {acme.remote_id(inner)}


def test_many_people_go_in_one_request_and_a_second_run_asks_nothing(acme: Tenant, receiver: Receiver) -> None:
    receiver.rules += bulk(receiver)
    acme.target(receiver)
    people = acme.users(90)
    group = acme.group("All", people)
    drain()
    assert acme.deliveries() == [] and len(receiver.users()) == 90
    assert receiver.requests("POST", "/Users") == [] and 1 <= len(receiver.requests("POST", "/Bulk")) <= 5
    assert len(there(receiver, "All")) == 90
    for id in people:
        acme.change(id, title="Chief")
    receiver.asked.clear()
    drain()
    assert {one["title"] for one in receiver.stored["Users"].values()} == {"Chief"}
    assert receiver.requests("PUT") == [] and len(receiver.asked) <= 5
    assert acme.states() == {**dict.fromkeys(people, "present"), group: "present"}


def test_accounts_that_are_there_are_adopted_and_doubles_are_left_to_somebody(acme: Tenant, receiver: Receiver) -> None:
    receiver.rules += bulk(receiver)
    acme.target(receiver)
    receiver.stored["Users"]["mine"] = {"id": "mine", "userName": "PERSON003"}
    for id in ("one", "two"):
        receiver.stored["Users"][id] = {"id": id, "userName": "person004"}
    people = acme.users(6)
    drain()
    assert receiver.stored["Users"]["mine"]["externalId"] == people[3]
    failed = acme.delivery()
    assert (failed.resource_id, failed.status) == (people[4], "failed")
    assert failed.problem == "2 resources at the target could be this one: one, two"
    assert len(receiver.stored["Users"]) == 4 + 1 + 2


@pytest.mark.parametrize("cut", [Answer(200, {"Operations": []}, cut=True), Answer(0), Answer(500), Answer(503)])
def test_an_answer_that_is_cut_off_makes_nobody_twice(acme: Tenant, receiver: Receiver, cut: Answer) -> None:
    def late(asked: Any, act: Any) -> Answer:
        assert receiver.rules[1](asked, act) is not None  # carried out, and not told
        return cut

    receiver.rules += bulk(receiver)
    receiver.fault("POST", "/Bulk", late)
    acme.target(receiver)
    people = acme.users(30)
    drain()
    acme.wait_over()
    drain()
    assert acme.deliveries() == [] and len(receiver.users()) == 30
    assert acme.states() == dict.fromkeys(people, "present")


def test_operations_without_an_answer_or_refused_are_settled_one_by_one(acme: Tenant, receiver: Receiver) -> None:
    def partly(asked: Any, act: Any) -> Answer:
        answer = receiver.rules[1](asked, act)
        assert answer is not None and isinstance(answer.body, dict)
        _, second, *rest = answer.body["Operations"]
        del receiver.stored["Users"][second["location"].rsplit("/", 1)[1]]
        no = {"method": "POST", "bulkId": second["bulkId"], "status": "400", "response": {"detail": "not her"}}
        return Answer(200, {"Operations": [no, *reversed(rest)]})

    receiver.rules += bulk(receiver)
    acme.target(receiver)
    drain()
    receiver.fault("POST", "/Bulk", partly)
    acme.users(10)
    drain()
    problems = sorted(str(one.problem) for one in acme.deliveries())
    assert problems == [
        "POST /Users in a bulk request answered 400: not her",
        "POST /Users in a bulk request was not answered",
    ]
    acme.wait_over()
    drain()
    assert [one.status for one in acme.deliveries()] == ["failed"] and len(receiver.users()) == 9


def test_a_target_that_is_too_slow_for_many_at_once_is_asked_of_fewer(acme: Tenant, receiver: Receiver) -> None:
    def overtaxed(asked: Asked, act: Any) -> Answer | None:
        return Answer(0) if asked.method == "GET" and asked.query.get("filter", "").count(" or ") > 6 else None

    receiver.rules += [overtaxed, *bulk(receiver)]
    acme.target(receiver)
    people = acme.users(60)
    for _ in range(8):
        drain()
        acme.wait_over()
    assert acme.states() == dict.fromkeys(people, "present") and acme.deliveries() == []
    assert len(receiver.users()) == 60


def test_a_request_that_is_too_large_goes_in_halves(acme: Tenant, receiver: Receiver) -> None:
    receiver.rules += bulk(receiver)
    receiver.fault("POST", "/Bulk", Answer(413))
    acme.target(receiver)
    acme.users(16)
    drain()
    assert len(receiver.users()) == 16 and acme.deliveries() == []
    assert [len(asked.body["Operations"]) for asked in receiver.requests("POST", "/Bulk")] == [16, 8, 8]


def test_operations_and_octets_stay_within_what_was_announced(acme: Tenant, receiver: Receiver) -> None:
    receiver.rules += bulk(receiver, most=7, payload=17_000)
    acme.target(receiver)
    for number in range(9):
        acme.user(f"wordy{number}", title="x" * 1_900, displayName="y" * 1_900)
    drain()
    sizes = [len(asked.body["Operations"]) for asked in receiver.requests("POST", "/Bulk")]
    assert len(receiver.users()) == 9 and acme.deliveries() == []
    assert sizes and max(sizes) <= 4


def test_where_bulk_turns_out_not_to_be_there_people_go_alone(acme: Tenant, receiver: Receiver) -> None:
    receiver.rules += bulk(receiver)
    receiver.fault("POST", "/Bulk", Answer(404))
    acme.target(receiver)
    acme.users(12)
    drain()
    assert len(receiver.users()) == 12 and acme.deliveries() == []
    assert len(receiver.requests("POST", "/Users")) == 12


def test_new_groups_are_made_in_one_request_and_filled_one_by_one(acme: Tenant, receiver: Receiver) -> None:
    receiver.rules += bulk(receiver)
    acme.target(receiver)
    people = acme.users(9)
    inner = acme.group("Inner", people[:3])
    groups = [acme.group(f"Team {number}", people[number:]) for number in range(9)]
    outer = acme.group("Outer", [inner, *groups])
    drain()
    assert acme.deliveries() == [] and len(receiver.stored["Groups"]) == 11
    assert receiver.requests("POST", "/Groups") == []
    assert all(there(receiver, f"Team {number}") == set(people[number:]) for number in range(9))
    assert receiver.members("Outer") == {acme.remote_id(one) for one in (inner, *groups)}
    assert [len(asked.body["Operations"]) for asked in receiver.requests("POST", "/Bulk")] == [9, 11]
    assert len(receiver.requests("PATCH")) == 11
    receiver.asked.clear()
    acme.rename(groups[0], "First")
    acme.members(outer, remove=groups[1:])
    drain()
    assert receiver.members("Outer") == {acme.remote_id(inner), acme.remote_id(groups[0])}
    assert len(receiver.requests("PATCH")) == 2 and receiver.requests("POST") == []


def test_groups_that_are_there_are_adopted_and_two_of_one_name_become_two(acme: Tenant, receiver: Receiver) -> None:
    receiver.rules += bulk(receiver)
    acme.target(receiver)
    alice = acme.user("alice")
    receiver.stored["Groups"]["mine"] = {"id": "mine", "displayName": "SALES", "members": [{"value": "somebody"}]}
    sales, twins = acme.group("Sales", [alice]), [acme.group("Twins", [alice]) for _ in range(2)]
    drain()
    assert acme.deliveries() == [] and acme.remote_id(sales) == "mine"
    assert receiver.members("Sales") == {"somebody", acme.remote_id(alice)}
    found = [one for one in receiver.stored["Groups"].values() if one["displayName"] == "Twins"]
    assert sorted(one["externalId"] for one in found) == sorted(twins)
    assert all(len(one["members"]) == 1 for one in found)


def test_groups_whose_making_was_not_answered_are_not_made_twice(acme: Tenant, receiver: Receiver) -> None:
    def late(asked: Any, act: Any) -> Answer:
        assert receiver.rules[1](asked, act) is not None  # carried out, and not told
        return Answer(200, {"Operations": []}, cut=True)

    receiver.rules += bulk(receiver)
    acme.target(receiver)
    alice = acme.user("alice")
    drain()
    receiver.fault("POST", "/Bulk", late)
    for number in range(6):
        acme.group(f"Team {number}", [alice])
    drain()
    acme.wait_over()
    drain()
    assert acme.deliveries() == [] and len(receiver.stored["Groups"]) == 6
    assert all(there(receiver, f"Team {number}") == {alice} for number in range(6))
