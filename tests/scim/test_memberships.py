"""Groups of any size: their members as resources of their own, and how little of a large group is shown."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from flask import Flask

from broker import ids as house_ids
from broker.context import acting, system
from broker.db import unit
from broker.directory import Directory
from broker.models import RoleAssignment
from scim import reading
from scim.schemas import MEMBERSHIP
from scim.storage import members_of
from tests.conftest import World
from tests.scim.conftest import Scim, admin_token_of, token_of
from tests.scim.test_bulk import id_of, in_bulk, post
from tests.scim.test_lists import page, people, walked
from tests.scim.test_server import refused


def membership(group: str, member: str) -> dict[str, Any]:
    return {"schemas": [MEMBERSHIP], "group": {"value": group}, "member": {"value": member}}


def test_a_member_of_a_group_is_a_resource(acme: Scim) -> None:
    ada, inner = acme.user("ada", displayName="Ada"), acme.group("Inner")
    group = acme.group("Wizards", ada, inner)
    base = acme.get("").json["Resources"][0]["meta"]["location"].rsplit("/", 2)[0]
    shown = acme.get(f"/GroupMembers/{group}.{ada}")
    assert shown.json == {
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:GroupMember"],
        "id": f"{group}.{ada}",
        "group": {"value": group, "$ref": f"{base}/Groups/{group}", "display": "Wizards"},
        "member": {"value": ada, "$ref": f"{base}/Users/{ada}", "type": "User", "display": "Ada"},
        "meta": {
            "resourceType": "GroupMember",
            "location": f"{base}/GroupMembers/{group}.{ada}",
            "version": 'W/"1"',
        },
    }
    assert acme.get(f"/GroupMembers/{group}.{ada}", If_None_Match=shown.headers["ETag"]).status_code == 304
    assert acme.get(f"/GroupMembers/{group}.{inner}?attributes=member.type").json["member"] == {"type": "Group"}
    for nobody in (f"{inner}.{ada}", f"{ada}.{group}", "x", f"{group}.", "%00"):
        refused(acme.get(f"/GroupMembers/{nobody}"), 404)
    kind = acme.get("/ResourceTypes/GroupMember").json
    assert (kind["endpoint"], kind["schema"]) == ("/GroupMembers", MEMBERSHIP)
    assert [one["name"] for one in acme.get(f"/Schemas/{MEMBERSHIP}").json["attributes"]][1:] == ["group", "member"]


def test_members_are_put_in_and_taken_out_one_by_one(acme: Scim) -> None:
    ada, group = acme.user("ada"), acme.group("g")
    made = acme.post("/GroupMembers", membership(group, ada))
    assert made.status_code == 201 and made.headers["Location"] == made.json["meta"]["location"]
    path = f"/GroupMembers/{made.json['id']}"
    assert [one["value"] for one in acme.get(f"/Groups/{group}").json["members"]] == [ada]
    refused(acme.post("/GroupMembers", membership(group, ada)), 409, "uniqueness")
    for wrong in (membership(group, "usr_nobody"), membership("grp_nobody", ada), membership(ada, group)):
        refused(acme.post("/GroupMembers", wrong), 400, "invalidValue")
    assert acme.post("/GroupMembers", {"schemas": [MEMBERSHIP]}).status_code == 400
    assert acme.put(path, membership(group, ada)).json == made.json
    refused(acme.put(path, membership(group, group)), 400, "mutability")
    refused(acme.call("PATCH", path, {}), 405)
    refused(acme.delete(path, If_Match='W/"2"'), 412)
    assert acme.delete(path).status_code == 204
    refused(acme.delete(path), 404)
    assert "members" not in acme.get(f"/Groups/{group}").json
    outcomes = in_bulk(
        acme,
        post("m", "/GroupMembers", **membership(group, "bulkId:new")),
        post("new", "/Users", userName="new"),
        {"method": "DELETE", "path": f"/GroupMembers/{group}.{ada}"},
    )
    assert [one["status"] for one in outcomes] == ["201", "201", "404"]
    assert id_of(outcomes[0]) == f"{group}.{id_of(outcomes[1])}"


def test_members_are_found_by_group_and_by_member_and_walked(acme: Scim, world: World) -> None:
    ids = people(world, [f"u{number:02}" for number in range(25)])
    all_of_them, few, both = acme.group("all", *ids), acme.group("few", *ids[:3]), acme.group("both")
    acme.post("/GroupMembers", membership(both, few))

    def pairs(**query: Any) -> list[tuple[str, str]]:
        by_index = page(acme, "/GroupMembers", **query)
        found = [(one["group"]["value"], one["member"]["value"]) for one in by_index["Resources"]]
        assert by_index["totalResults"] == len(found)
        walk = walked(acme, "/GroupMembers", count=4, **query)
        assert [(one["group"]["value"], one["member"]["value"]) for one in walk] == found
        return found

    assert pairs(filter=f'group.value eq "{all_of_them}"') == [(all_of_them, id) for id in ids]
    assert pairs(filter=f'member.value eq "{ids[0]}"') == [(all_of_them, ids[0]), (few, ids[0])]
    assert pairs(filter=f'group eq "{few}" and member.value eq "{ids[1]}"') == [(few, ids[1])]
    assert pairs(filter='member.type eq "group"') == [(both, few)]
    assert pairs(filter=f'{MEMBERSHIP}:group.value eq "{both}"') == [(both, few)]
    assert pairs(filter='group.value eq "x"') == []
    assert len(pairs()) == 29
    assert [one["id"] for one in page(acme, "/GroupMembers", startIndex=28)["Resources"]] == [
        f"{few}.{ids[2]}",
        f"{both}.{few}",
    ]
    last = page(acme, "/GroupMembers", cursor="", count=20)
    second = page(acme, "/GroupMembers", cursor=last["nextCursor"])
    assert len(second["Resources"]) == 9 and "nextCursor" not in second
    assert page(acme, "/GroupMembers", cursor=second["previousCursor"])["Resources"] == last["Resources"]
    asked = {
        "schemas": ["urn:ietf:params:scim:api:messages:2.0:SearchRequest"],
        "filter": f'group.value eq "{few}"',
        "attributes": ["member.value"],
        "cursor": "",
    }
    found = acme.post("/GroupMembers/.search", asked).json
    assert found["Resources"][0] == {"schemas": [MEMBERSHIP], "id": f"{few}.{ids[0]}", "member": {"value": ids[0]}}
    for wrong in (
        'group.value sw "g"',
        'group.display eq "x"',
        "group.value pr",
        'not (group.value eq "x")',
        'group.value eq "a" or group.value eq "b"',
        "group.value eq 5",
        "group.value",
    ):
        answer = acme.app.test_client().get(
            f"/scim/v2/{acme.slug}/GroupMembers",
            query_string={"filter": wrong},
            headers={"Authorization": f"Bearer {acme.token}"},
        )
        refused(answer, 400, "invalidFilter")
    refused(acme.get("/GroupMembers?sortBy=id"), 400, "invalidPath")


def test_another_tenants_members_are_not_there(acme: Scim, globex: Scim) -> None:
    ada = acme.user("ada")
    group, theirs = acme.group("g", ada), globex.group("g")
    refused(globex.get(f"/GroupMembers/{group}.{ada}"), 404)
    refused(globex.delete(f"/GroupMembers/{group}.{ada}"), 404)
    refused(globex.post("/GroupMembers", membership(theirs, ada)), 400, "invalidValue")
    refused(globex.post("/GroupMembers", membership(group, ada)), 400, "invalidValue")
    assert globex.get("/GroupMembers").json["Resources"] == []


def test_a_token_does_not_put_members_into_a_group_that_holds_a_role(acme: Scim, world: World) -> None:
    ada, group = acme.user("ada"), acme.group("admins")
    with acting(system("tests")), unit(world.acme) as session:
        tenant = world.acme.tenant_id
        session.add(RoleAssignment(id=house_ids.new("rol"), role="tenant_admin", principal_id=group, scope_id=tenant))
    refused(acme.post("/GroupMembers", membership(group, ada)), 403)
    plain = Scim(acme.app, acme.slug, admin_token_of(world.acme, "tenant_admin", world.acme.tenant_id))
    refused(plain.post("/GroupMembers", membership(group, ada)), 403)


def test_what_a_path_may_select_members_by_has_a_size(acme: Scim) -> None:
    ids = [acme.user(f"u{number}") for number in range(3)]
    path = f"/Groups/{acme.group('g', *ids)}"

    def remove(selected: str) -> Any:
        return acme.patch(path, {"op": "remove", "path": f"members[{selected}]"})

    refused(remove(" or ".join(['display sw "x"'] * 51)), 400, "invalidPath")
    refused(remove("(" * 40_000 + 'value eq "x"' + ")" * 40_000), 400, "invalidPath")
    by_name = " or ".join(f'value eq "{id}"' for id in [*ids[:2], *(house_ids.new("usr") for _ in range(500))])
    assert [one["value"] for one in remove(by_name).json["members"]] == ids[2:]


@pytest.fixture
def large(acme: Scim, world: World) -> tuple[str, list[str]]:
    """A group of more members than are shown."""
    with acting(system("tests")), unit(world.acme):
        directory = Directory()
        members = [directory.create("User", {"userName": f"m{number:04}"}).id for number in range(1_010)]
        group = directory.create("Group", {"displayName": "large"}).id
        directory.change_members(group, members)
    return group, members


def test_a_large_group_shows_its_first_members_and_says_where_all_are(acme: Scim, large: tuple[str, list[str]]) -> None:
    group, members = large
    shown = acme.get(f"/Groups/{group}")
    assert [one["value"] for one in shown.json["members"]] == members[:1_000]
    link = shown.headers["Link"]
    where = link[link.index("/GroupMembers") : link.index(">")]
    assert link.endswith(">; rel=members") and where.startswith("/GroupMembers?cursor=&filter=group.value")
    assert len(acme.get(where).json["Resources"]) == 100
    assert [one["member"]["value"] for one in walked(acme, "/GroupMembers", count=300)] == members
    assert [len(one["members"]) for one in page(acme, "/Groups")["Resources"]] == [1_000]
    assert "Link" not in acme.get(f"/Groups/{acme.group('small', members[0])}").headers
    assert "Link" not in acme.get(f"/Groups/{group}?excludedAttributes=members").headers


def test_what_was_shown_of_a_large_group_may_be_said_back(
    acme: Scim, large: tuple[str, list[str]], world: World
) -> None:
    group, members = large
    shown = acme.get(f"/Groups/{group}").json
    acme.put(f"/Groups/{group}", {**shown, "displayName": "renamed"})
    newcomer = acme.user("newcomer")
    acme.put(f"/Groups/{group}", {**shown, "members": [*shown["members"], {"value": newcomer}]})
    with acting(system("tests")), unit(world.acme):
        assert world.acme.tenant_id is not None
        assert members_of(world.acme.tenant_id, group) == {*members, newcomer}
    fewer = acme.put(f"/Groups/{group}", {"displayName": "large", "members": shown["members"][:5]}).json
    assert [one["value"] for one in fewer["members"]] == members[:5]


def test_a_large_group_is_never_read_whole_to_change_its_members(
    acme: Scim, large: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    group, members = large
    monkeypatch.setattr("scim.patch.members_of", None)
    monkeypatch.setattr("scim.storage.members_of", None)
    monkeypatch.setattr(reading, "_ONE_WITH_LIST", {})
    newcomer = acme.user("newcomer")
    for value in ({"value": newcomer}, {"value": newcomer, "display": "New", "type": "User"}):
        for deed in ("add", "remove"):
            answer = acme.patch(f"/Groups/{group}", {"op": deed, "path": "members", "value": [value]})
            assert answer.status_code == 204, answer.text
    assert acme.delete(f"/GroupMembers/{group}.{members[3]}").status_code == 204
    assert acme.post("/GroupMembers", membership(group, newcomer)).status_code == 201


def test_sixty_members_added_at_once_by_twelve_clients_are_sixty(web: Flask, acme: Scim, world: World) -> None:
    ids, group = people(world, [f"u{number:02}" for number in range(60)]), acme.group("g")
    answers: list[int] = []

    def add(client: int) -> None:
        with web.app_context():
            mine = Scim(web, acme.slug, token_of(world.acme))
            for number, id in enumerate(ids[client * 5 : client * 5 + 5]):
                value = {"value": id, "display": "x"} if number % 2 else {"value": id}
                operation = {"op": "add", "path": "members", "value": [value]}
                answers.append(mine.patch(f"/Groups/{group}", operation).status_code)

    threads = [threading.Thread(target=add, args=(client,)) for client in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 60
    assert [one["value"] for one in acme.get(f"/Groups/{group}").json["members"]] == ids
