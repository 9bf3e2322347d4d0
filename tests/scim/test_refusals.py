"""What a client asked for and did not get, in the tenant's audit log."""

from __future__ import annotations

import re
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from broker import ids, refusals
from broker.attributes import ENTERPRISE
from broker.context import Scope
from broker.db import unit
from broker.models import Event
from broker.refusals import PASSED_OVER, REFUSED
from tests.conftest import World
from tests.scim.conftest import Scim, admin_token_of, token_of
from tests.scim.test_server import refused


def told(scope: Scope, name: str) -> list[Any]:
    with unit(scope) as session:
        found = session.scalars(sa.select(Event).where(Event.name == name).order_by(Event.no)).all()
        session.expunge_all()
    return list(found)


def add(*members: str) -> dict[str, Any]:
    return {"op": "add", "path": "members", "value": [{"value": id} for id in members]}


def test_a_refused_write_names_credential_request_resource_and_reason(acme: Scim, world: World) -> None:
    ada = acme.user("ada")
    refused(acme.post("/Users", {"userName": "ADA"}, X_Request_ID="twice"), 409, "uniqueness")
    refused(acme.put(f"/Users/{ada}", {"title": "x"}, X_Request_ID="nameless"), 400, "invalidValue")
    refused(acme.patch(f"/Users/{ada}", {"op": "remove"}, If_Match='W/"1"', X_Request_ID="aimless"), 400, "noTarget")
    refused(acme.delete(f"/Users/{ada}", If_Match='W/"9"', X_Request_ID="late"), 412)
    gone = ids.new("usr")
    refused(acme.delete(f"/Users/{gone}", X_Request_ID="gone"), 404)
    refused(acme.call("POST", "/Bulk", b"{", X_Request_ID="broken"), 400, "invalidSyntax")
    made = told(world.acme, REFUSED)
    assert [(one.request_id, one.resource_type, one.resource_id, one.changed["status"]) for one in made] == [
        ("twice", "User", "", 409),
        ("nameless", "User", ada, 400),
        ("aimless", "User", ada, 400),
        ("late", "User", ada, 412),
        ("gone", "User", gone, 404),
        ("broken", "Tenant", world.acme.tenant_id, 400),
    ]
    assert made[0].changed["type"] == "uniqueness" and made[0].changed["reason"] and made[0].changed["method"] == "POST"
    assert {(one.actor_kind, one.actor_id) for one in made} == {("scim_token", made[0].credential_id)}


def test_each_refused_operation_of_a_bulk_request_is_told(acme: Scim, world: World) -> None:
    ada = acme.user("ada")
    operations = [
        {"method": "POST", "path": "/Users", "bulkId": "1", "data": {"userName": "ada"}},
        {"method": "PATCH", "path": f"/Users/{ada}", "data": {"Operations": [{"op": "remove"}]}},
        {"method": "POST", "path": "/Users", "bulkId": "2", "data": {"userName": "bo"}},
        {"method": "x" * 500, "path": "/Nothing\0"},
    ]
    schemas = ["urn:ietf:params:scim:api:messages:2.0:BulkRequest"]
    answer = acme.post("/Bulk", {"schemas": schemas, "Operations": operations[:3]}, X_Request_ID="many")
    assert [one["status"] for one in answer.json["Operations"]] == ["409", "400", "201"]
    acme.post("/Bulk", {"schemas": schemas, "Operations": [{**operations[3], "path": "/Nothing"}]}, X_Request_ID="odd")
    assert [(one.request_id, one.resource_type, one.resource_id) for one in told(world.acme, REFUSED)] == [
        ("many", "User", ""),
        ("many", "User", ada),
        ("odd", "Tenant", world.acme.tenant_id),
    ]


def test_a_client_that_repeats_itself_does_not_fill_the_log(
    acme: Scim, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme.user("ada")
    for _ in range(5):
        refused(acme.post("/Users", {"userName": "ada"}), 409, "uniqueness")
    for _ in range(refusals.MOST + 10):
        refused(acme.delete(f"/Users/{ids.new('usr')}"), 404)
    assert len(told(world.acme, REFUSED)) == refusals.MOST
    monkeypatch.setattr(refusals, "EVERY", 0.0)
    refused(acme.post("/Users", {"userName": "ada"}), 409, "uniqueness")
    made = told(world.acme, REFUSED)
    assert made[-1].changed["status"] == 409
    assert [one.changed["left_out"] for one in made if "left_out" in one.changed] == [4, 11]


def test_whoever_may_not_is_told_in_the_log_of_the_place_he_reached(web: Flask, acme: Scim, world: World) -> None:
    assert world.globex.slug is not None
    refused(Scim(web, world.globex.slug, acme.token).post("/Users", {"userName": "x"}, X_Request_ID="abroad"), 404)
    assert told(world.globex, REFUSED) == []
    [abroad] = told(world.acme, REFUSED)
    assert (abroad.request_id, abroad.changed["status"]) == ("abroad", 404)
    reader = Scim(web, acme.slug, admin_token_of(world.acme, "tenant_admin", world.acme.tenant_id, "scaikey:read"))
    refused(reader.post("/Users", {"userName": "x"}, X_Request_ID="narrow"), 403)
    assert [(one.request_id, one.actor_kind) for one in told(world.acme, REFUSED)[1:]] == [("narrow", "user")]


def test_reading_in_vain_is_no_refused_write(acme: Scim, world: World) -> None:
    refused(acme.get(f"/Users/{ids.new('usr')}"), 404)
    refused(acme.post("/Users/.search", {"filter": "("}), 400, "invalidFilter")
    refused(acme.get("/Bulk"), 405)
    refused(acme.call("OPTIONS", "/Users"), 405)
    assert told(world.acme, REFUSED) == []


def test_a_write_that_no_path_takes_is_told_like_any_other(web: Flask, acme: Scim, world: World) -> None:
    group = acme.group("g")
    refused(acme.delete("/Users", X_Request_ID="all"), 405)
    refused(acme.post(f"/Groups/{group}", {}, X_Request_ID="twice"), 405)
    refused(acme.put("/Schemas", {}, X_Request_ID="schema"), 405)
    refused(acme.delete("", X_Request_ID="everything"), 405)
    refused(acme.post("/Me", {}, X_Request_ID="me"), 501)
    made = told(world.acme, REFUSED)
    assert [(one.request_id, one.resource_type, one.changed["method"], one.changed["status"]) for one in made] == [
        ("all", "User", "DELETE", 405),
        ("twice", "Group", "POST", 405),
        ("schema", "Tenant", "PUT", 405),
        ("everything", "Tenant", "DELETE", 405),
        ("me", "User", "POST", 501),
    ]
    assert {one.credential_id for one in made} == {made[0].credential_id} and made[0].credential_id


def test_a_method_that_no_path_takes_tells_a_stranger_nothing(web: Flask, acme: Scim, world: World) -> None:
    assert world.globex.slug is not None
    for token in (None, "skt_nobody", "no token"):
        for slug in (acme.slug, "no-such-tenant", "\0"):
            refused(Scim(web, slug, token).delete("/Users"), 405)
    assert told(world.acme, REFUSED) == []
    refused(Scim(web, world.globex.slug, acme.token).delete("/Users", X_Request_ID="abroad"), 405)
    assert told(world.globex, REFUSED) == []
    assert [one.request_id for one in told(world.acme, REFUSED)] == ["abroad"]
    partner = Scim(web, acme.slug, admin_token_of(world.home, "partner_admin", world.partner_id))
    refused(partner.delete("/Users", X_Request_ID="partner"), 405)
    assert [one.request_id for one in told(world.acme, REFUSED)] == ["abroad", "partner"]


def test_members_who_are_nobody_here_are_passed_over_and_told(acme: Scim, world: World) -> None:
    ada, bo = acme.user("ada"), acme.user("bo")
    group = acme.group("g", ada, "nobody")
    assert [one["value"] for one in acme.get(f"/Groups/{group}").json["members"]] == [ada]
    answer = acme.patch(f"/Groups/{group}", add("fake", bo, ids.new("usr")), X_Request_ID="half")
    assert answer.status_code == 200 and {one["value"] for one in answer.json["members"]} == {ada, bo}
    said = {"displayName": "g", "members": [{"value": ada}, {"value": bo}, {"value": "somebody"}]}
    assert acme.put(f"/Groups/{group}", said).status_code == 200
    events = told(world.acme, PASSED_OVER)
    assert [one.resource_id for one in events] == [group] * 3
    assert events[0].changed == {
        "attribute": "members",
        "reason": "nobody here has this id",
        "ids": ["nobody"],
        "count": 1,
    }
    assert events[1].request_id == "half" and events[1].changed["count"] == 2 and "fake" in events[1].changed["ids"]
    assert told(world.acme, REFUSED) == []


def test_a_list_that_takes_somebody_out_knows_whom_it_names(acme: Scim, world: World) -> None:
    ada, bo = acme.user("ada"), acme.user("bo")
    group = acme.group("g", ada, bo)
    said = [{"value": ada}, {"value": "nobody"}]
    refused(acme.put(f"/Groups/{group}", {"displayName": "g", "members": said}), 400, "invalidValue")
    refused(
        acme.patch(f"/Groups/{group}", {"op": "replace", "path": "members", "value": [{"value": "nobody"}]}),
        400,
        "invalidValue",
    )
    assert {one["value"] for one in acme.get(f"/Groups/{group}").json["members"]} == {ada, bo}
    assert told(world.acme, PASSED_OVER) == []


def test_nothing_is_told_of_a_request_that_came_to_nothing(acme: Scim, world: World) -> None:
    group = acme.group("g")
    refused(acme.patch(f"/Groups/{group}", {"op": "remove", "path": "displayName"}, add("nobody")), 400, "mutability")
    refused(acme.post("/Groups", {"displayName": "G", "members": [{"value": "nobody"}]}), 409, "uniqueness")
    assert told(world.acme, PASSED_OVER) == []


def test_a_manager_who_is_nobody_here_stops_nobody(acme: Scim, world: World) -> None:
    boss, key = acme.user("boss"), f"{ENTERPRISE}:manager"
    ada = acme.user("ada", **{ENTERPRISE: {"manager": {"value": "gone"}, "department": "R&D"}})
    assert acme.get(f"/Users/{ada}").json[ENTERPRISE] == {"department": "R&D"}
    assert acme.patch(f"/Users/{ada}", {"op": "add", "path": key, "value": {"value": boss}}).status_code == 200
    stays = acme.patch(f"/Users/{ada}", {"op": "replace", "path": key, "value": {"value": ids.new("usr")}}).json
    assert stays[ENTERPRISE]["manager"]["value"] == boss
    events = told(world.acme, PASSED_OVER)
    assert [(one.resource_type, one.resource_id, one.changed["attribute"]) for one in events] == [
        ("User", ada, f"{key}.value")
    ] * 2


def test_a_parent_who_is_nobody_here_stops_no_unit(acme: Scim, world: World) -> None:
    unit = acme.make("/OrganizationalUnits", displayName="North", parent={"value": "gone"})["id"]
    path, top = f"/OrganizationalUnits/{unit}", acme.make("/OrganizationalUnits", displayName="Top")["id"]
    said = {"displayName": "Northern", "parent": {"value": acme.user("ada")}}
    assert acme.put(path, said).status_code == 200
    events = told(world.acme, PASSED_OVER)
    assert [(one.resource_type, one.resource_id, one.changed["attribute"]) for one in events] == [
        ("OrganizationalUnit", unit, "parent.value")
    ] * 2
    assert acme.get(path).json["displayName"] == "Northern" and "parent" not in acme.get(path).json
    assert acme.put(path, {"displayName": "Northern", "parent": {"value": top}}).status_code == 200
    away = {"op": "replace", "path": "parent", "value": {"value": "gone"}}
    refused(acme.patch(path, away), 400, "invalidValue")
    refused(acme.put(path, {"displayName": "South", "parent": {"value": "gone"}}), 400, "invalidValue")
    shown = acme.get(path).json
    assert (shown["displayName"], shown["parent"]["value"]) == ("Northern", top)
    assert len(told(world.acme, PASSED_OVER)) == 2


def test_a_strict_credential_names_only_who_is_here(web: Flask, world: World) -> None:
    assert world.acme.slug is not None
    strict = Scim(web, world.acme.slug, token_of(world.acme, mode="strict"))
    group = strict.group("g")
    refused(strict.patch(f"/Groups/{group}", add("nobody")), 400, "invalidValue")
    refused(strict.post("/Groups", {"displayName": "h", "members": [{"value": "nobody"}]}), 400, "invalidValue")
    assert "members" not in strict.get(f"/Groups/{group}").json
    managed = {"userName": "x", ENTERPRISE: {"manager": {"value": "nobody"}}}
    refused(strict.post("/Users", managed), 400, "invalidValue")
    refused(strict.post("/OrganizationalUnits", {"displayName": "x", "parent": {"value": "gone"}}), 400, "invalidValue")


def test_a_client_joins_nobody_of_another_tenant(acme: Scim, globex: Scim) -> None:
    """Who is in another tenant is passed over like who is nowhere, and the answers do not tell them apart."""
    theirs, their_group = globex.user("theirs"), globex.group("theirs")
    nobody, no_group = ids.new("usr"), ids.new("grp")
    ada, group, key = acme.user("ada"), acme.group("g"), f"{ENTERPRISE}:manager"

    def asked(user: str, inner: str, tag: str) -> list[tuple[int, str]]:
        managed = {"userName": f"made-{tag}", ENTERPRISE: {"manager": {"value": user}}}
        members = [{"value": user}, {"value": inner}]
        answers = [
            acme.post("/Users", managed),
            acme.put(f"/Users/{ada}", {**managed, "userName": "ada"}),
            acme.patch(f"/Users/{ada}", {"op": "replace", "path": key, "value": {"value": user}}),
            acme.post("/Groups", {"displayName": f"made-{tag}", "members": members}),
            acme.patch(f"/Groups/{group}", add(user, inner)),
        ]
        assert all(user not in each.text and inner not in each.text for each in answers)
        return [
            (each.status_code, re.sub(r'made-\w+|(usr|grp)_\w+|"[^"]*Z"|W/\\"\d+\\"', "", each.text))
            for each in answers
        ]

    assert asked(theirs, their_group, "one") == asked(nobody, no_group, "two")
    assert "members" not in acme.get(f"/Groups/{group}").json
    assert ENTERPRISE not in acme.get(f"/Users/{ada}").json
    assert "groups" not in globex.get(f"/Users/{theirs}").json


def test_a_person_is_told_who_is_nobody_here(acme: Scim, web: Flask, world: World) -> None:
    ada, group = acme.user("ada"), acme.group("g")
    admin = Scim(web, acme.slug, admin_token_of(world.acme, "tenant_admin", world.acme.tenant_id))
    refused(admin.patch(f"/Groups/{group}", add(ada, "nobody")), 400, "invalidValue")
    managed = {"userName": "x", ENTERPRISE: {"manager": {"value": "nobody"}}}
    refused(admin.post("/Users", managed), 400, "invalidValue")
    assert told(world.acme, PASSED_OVER) == []
