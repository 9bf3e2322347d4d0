"""Bulk requests: each operation as if it came alone, and resources that name one another before they are there."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from broker.attributes import ENTERPRISE
from broker.context import acting, system
from broker.db import unit
from broker.models import Event
from scim import bulk
from tests.conftest import World
from tests.scim.conftest import PATCH_OP, Scim, token_of
from tests.scim.test_server import refused

REQUEST = "urn:ietf:params:scim:api:messages:2.0:BulkRequest"


def post(bulk_id: str, path: str, **data: Any) -> dict[str, Any]:
    return {"method": "POST", "path": path, "bulkId": bulk_id, "data": data}


def patch(path: str, *operations: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"method": "PATCH", "path": path, "data": {"schemas": [PATCH_OP], "Operations": list(operations)}, **more}


def in_bulk(client: Scim, *operations: Any, **more: Any) -> list[dict[str, Any]]:
    answer = client.post("/Bulk", {"schemas": [REQUEST], "Operations": list(operations), **more})
    assert answer.status_code == 200, answer.text
    assert answer.json["schemas"] == ["urn:ietf:params:scim:api:messages:2.0:BulkResponse"]
    outcomes: list[dict[str, Any]] = answer.json["Operations"]
    return outcomes


def id_of(outcome: dict[str, Any]) -> str:
    return str(outcome["location"].rsplit("/", 1)[1])


def members_of(client: Scim, group_id: str) -> set[str]:
    return {one["value"] for one in client.get(f"/Groups/{group_id}").json.get("members", ())}


def test_each_operation_says_what_came_of_it_in_the_order_of_the_request(acme: Scim) -> None:
    kept, gone = acme.user("kept"), acme.user("gone")
    made, changed, said, removed = in_bulk(
        acme,
        post("new", "/Users", userName="new", title="x"),
        patch(f"/Users/{kept}", {"op": "add", "path": "title", "value": "Dr"}, bulkId="mine", version='W/"1"'),
        {"method": "put", "path": f"Users/{kept}", "data": {"userName": "kept", "nickName": "k"}},
        {"method": "DELETE", "path": f"/Users/{gone}"},
    )
    assert made == {
        "method": "POST", "bulkId": "new", "location": acme.get(f"/Users/{id_of(made)}").json["meta"]["location"],
        "version": 'W/"1"', "status": "201",
    }  # fmt: skip
    assert (changed["status"], changed["version"], changed["bulkId"]) == ("200", 'W/"2"', "mine")
    assert (said["method"], said["status"], said["version"], id_of(said)) == ("PUT", "200", 'W/"3"', kept)
    assert removed == {"method": "DELETE", "location": said["location"].replace(kept, gone), "status": "204"}
    refused(acme.get(f"/Users/{gone}"), 404)
    assert acme.get(f"/Users/{kept}").json["nickName"] == "k"


def test_an_operation_is_refused_as_it_would_be_alone_and_leaves_the_others(acme: Scim) -> None:
    ada = acme.user("ada")
    attempts: list[tuple[Any, str, str | None]] = [
        (post("a", "/Users", userName="ADA"), "409", "uniqueness"),
        (post("b", "/Users"), "400", "invalidValue"),
        (patch(f"/Users/{ada}", {"op": "add", "path": "title", "value": "x"}, version='W/"9"'), "412", None),
        (patch(f"/Users/{ada}", {"op": "jump"}), "400", "invalidSyntax"),
        ({"method": "DELETE", "path": "/Users/usr_nobody"}, "404", None),
        ({"method": "DELETE", "path": "/Users"}, "404", None),
        ({"method": "POST", "path": "/Nothing", "bulkId": "c", "data": {}}, "404", None),
        ({"method": "POST", "path": "/Users", "data": {"userName": "x"}}, "400", "invalidSyntax"),
        ({"method": "PUT", "path": f"/Users/{ada}"}, "400", "invalidSyntax"),
        ({"method": "GET", "path": f"/Users/{ada}"}, "400", "invalidSyntax"),
        ({"method": 5, "path": []}, "400", "invalidSyntax"),
        ({}, "400", "invalidSyntax"),
        (post("d", "/Users", userName="d", title="x" * (1 << 20)), "413", "tooLarge"),
        (post("e", "/Users", userName="bulkId:nobody"), "409", None),
    ]
    outcomes = in_bulk(acme, *(operation for operation, _, _ in attempts), post("last", "/Users", userName="last"))
    for (operation, status, scim_type), outcome in zip(attempts, outcomes, strict=False):
        assert outcome["status"] == status, (operation, outcome)
        assert outcome["response"]["status"] == status
        assert outcome["response"].get("scimType") == scim_type, (operation, outcome)
    assert outcomes[-1]["status"] == "201" and len(outcomes) == len(attempts) + 1
    assert acme.names("/Users") == ["ada", "last"]


def test_fail_on_errors_stops_and_keeps_what_was_done(acme: Scim) -> None:
    wrong, fine = post("w", "/Users"), [post(str(n), "/Users", userName=f"u{n}") for n in range(3)]
    outcomes = in_bulk(acme, fine[0], wrong, fine[1], wrong | {"bulkId": "v"}, fine[2], failOnErrors=2)
    assert [one["status"] for one in outcomes] == ["201", "400", "201", "400"]
    assert acme.names("/Users") == ["u0", "u1"]
    assert len(in_bulk(acme, wrong, fine[2], failOnErrors=1)) == 1


def test_a_resource_that_is_named_is_made_first(acme: Scim) -> None:
    group, team, boss, ada = in_bulk(
        acme,
        post("g", "/Groups", displayName="All", members=[{"value": "bulkId:t"}, {"value": "bulkId:ada"}]),
        post("t", "/Groups", displayName="Team", members=[{"value": "bulkId:boss"}]),
        post("boss", "/Users", userName="boss"),
        post("ada", "/Users", userName="ada", **{ENTERPRISE: {"manager": {"value": "bulkId:boss"}}}),
    )
    assert [one["status"] for one in (group, team, boss, ada)] == ["201"] * 4
    assert members_of(acme, id_of(group)) == {id_of(team), id_of(ada)}
    assert members_of(acme, id_of(team)) == {id_of(boss)}
    assert acme.get(f"/Users/{id_of(ada)}").json[ENTERPRISE]["manager"]["value"] == id_of(boss)
    more = in_bulk(
        acme,
        patch(f"/Groups/{id_of(team)}", {"op": "add", "path": "members", "value": [{"value": "bulkId:n"}]}),
        post("n", "/Users", userName="n"),
        patch("/Users/bulkId:n", {"op": "add", "path": "title", "value": "x"}),
    )
    assert [one["status"] for one in more] == ["200", "201", "200"]
    assert members_of(acme, id_of(team)) == {id_of(boss), id_of(more[1])}


def test_resources_may_name_one_another(acme: Scim) -> None:
    ada = acme.user("ada")
    outcomes = in_bulk(
        acme,
        post("a", "/Groups", displayName="A", members=[{"value": "bulkId:b"}, {"value": ada}]),
        post("b", "/Groups", displayName="B", members=[{"value": "bulkId:a"}]),
        post("x", "/Users", userName="x", **{ENTERPRISE: {"department": "d", "manager": {"value": "bulkId:y"}}}),
        post("y", "/Users", userName="y", **{ENTERPRISE: {"manager": {"value": "bulkId:x"}}}),
    )
    assert [one["status"] for one in outcomes] == ["201"] * 4
    a, b, x, y = (id_of(one) for one in outcomes)
    assert (members_of(acme, a), members_of(acme, b)) == ({b, ada}, {a})
    people = {id: acme.get(f"/Users/{id}").json for id in (x, y)}
    assert (people[x][ENTERPRISE]["manager"]["value"], people[y][ENTERPRISE]["manager"]["value"]) == (y, x)
    assert people[x][ENTERPRISE]["department"] == "d"
    for outcome, path in zip(outcomes, (f"/Groups/{a}", f"/Groups/{b}", f"/Users/{x}", f"/Users/{y}"), strict=True):
        assert outcome["version"] == acme.get(path).json["meta"]["version"]


def test_who_names_what_was_not_made_conflicts(acme: Scim) -> None:
    circle, broken, after = in_bulk(
        acme,
        post("a", "/Groups", displayName="A", members=[{"value": "bulkId:b"}]),
        post("b", "/Groups", members=[{"value": "bulkId:a"}]),
        post("c", "/Groups", displayName="C", members=[{"value": "bulkId:b"}]),
    )
    assert [one["status"] for one in (circle, broken, after)] == ["409", "400", "409"]
    twice = in_bulk(acme, post("u", "/Users", userName="u"), post("u", "/Users", userName="v"))
    assert [one["status"] for one in twice] == ["201", "400"]


def test_a_long_chain_of_names_is_no_burden(acme: Scim) -> None:
    chain = [
        post(str(n), "/Groups", displayName=f"g{n}", members=[{"value": f"bulkId:{n + 1}"}] if n < 59 else [])
        for n in range(60)
    ]
    outcomes = in_bulk(acme, *chain)
    assert {one["status"] for one in outcomes} == {"201"}
    assert members_of(acme, id_of(outcomes[0])) == {id_of(outcomes[1])}


def test_the_limits_are_announced_and_kept(acme: Scim) -> None:
    announced = acme.get("/ServiceProviderConfig").json["bulk"]
    assert announced == {"supported": True, "maxOperations": 1_000, "maxPayloadSize": 10_485_760}
    too_many = [{"method": "DELETE", "path": "/Users/x"}] * 1_001
    refused(acme.post("/Bulk", {"schemas": [REQUEST], "Operations": too_many}), 413, "tooLarge")
    large = {"schemas": [REQUEST], "Operations": [], "padding": "x" * (2 << 20)}
    assert acme.post("/Bulk", large).json["Operations"] == []
    refused(acme.post("/Bulk", large | {"padding": "x" * (10 << 20)}), 413, "tooLarge")
    refused(acme.post("/Users", large), 413, "tooLarge")
    for wrong in ([], {"Operations": []}, {"schemas": [REQUEST]}, {"schemas": [REQUEST], "Operations": [1]}):
        refused(acme.post("/Bulk", wrong), 400, "invalidSyntax")
    refused(acme.post("/Bulk", {"schemas": [REQUEST], "Operations": [], "failOnErrors": "1"}), 400, "invalidValue")
    refused(acme.get("/Bulk"), 405)


def test_another_tenants_resources_are_not_there_in_bulk_either(acme: Scim, globex: Scim) -> None:
    ada, group = acme.user("ada"), globex.group("g")
    outcomes = in_bulk(
        globex,
        patch(f"/Users/{ada}", {"op": "add", "path": "title", "value": "x"}),
        {"method": "PUT", "path": f"/Users/{ada}", "data": {"userName": "eve"}},
        {"method": "DELETE", "path": f"/Users/{ada}"},
        patch(f"/Groups/{group}", {"op": "add", "path": "members", "value": [{"value": ada}]}),
    )
    assert [one["status"] for one in outcomes] == ["404", "404", "404", "200"]
    assert "members" not in globex.get(f"/Groups/{group}").json
    assert acme.get(f"/Users/{ada}").json["meta"]["version"] == 'W/"1"'


def test_every_operation_is_in_the_log_with_the_credential_and_the_request(acme: Scim, world: World) -> None:
    in_bulk(acme, post("a", "/Users", userName="a"), post("b", "/Users", userName="b"), post("c", "/Users"))
    with acting(system("tests")), unit(world.acme) as session:
        made = sa.select(Event.request_id, Event.actor_kind, Event.actor_id).where(Event.name == "user.created")
        events = session.execute(made).all()
    assert len(events) == 2 and len(set(events)) == 1
    assert events[0].request_id and events[0].actor_kind == "scim_token"


def test_an_unforeseen_failure_of_one_operation_is_told_in_its_place(
    acme: Scim, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = bulk.Writer.create

    def fail(writer: Any, wanted: Any, body: Any) -> Any:
        if body["userName"] == "bad":
            raise RuntimeError("secret")
        return create(writer, wanted, body)

    monkeypatch.setattr(bulk.Writer, "create", fail)
    outcomes = in_bulk(acme, post("a", "/Users", userName="bad"), post("b", "/Users", userName="good"))
    assert [one["status"] for one in outcomes] == ["500", "201"]
    assert "secret" not in str(outcomes)


def test_bulks_that_cross_one_another_all_arrive(web: Flask, acme: Scim, world: World) -> None:
    people = [acme.user(f"u{n}") for n in range(4)]
    groups = [acme.group(f"g{n}") for n in range(4)]
    failures: list[Any] = []

    def work(number: int) -> None:
        order = groups if number % 2 else groups[::-1]
        member = [{"value": people[number]}]
        with web.app_context():
            outcomes = in_bulk(
                Scim(web, acme.slug, token_of(world.acme)),
                *(patch(f"/Groups/{id}", {"op": "add", "path": "members", "value": member}) for id in order),
            )
        failures.extend(one for one in outcomes if one["status"] != "200")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert all(members_of(acme, id) == set(people) for id in groups)
