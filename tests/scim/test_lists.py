"""Lists as their clients walk them: by cursor, by index, of one type and of all, whoever comes and goes meanwhile."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest
from flask import Flask

from broker.context import acting, system
from broker.db import unit
from broker.directory import Directory
from scim import asking
from tests.conftest import World
from tests.scim.conftest import Scim, token_of
from tests.scim.test_server import refused

SEARCH = "urn:ietf:params:scim:api:messages:2.0:SearchRequest"


def page(client: Scim, path: str, **query: Any) -> dict[str, Any]:
    answer = client.app.test_client().get(
        f"/scim/v2/{client.slug}{path}", query_string=query, headers={"Authorization": f"Bearer {client.token}"}
    )
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json
    return found


def walked(client: Scim, path: str, **query: Any) -> Iterator[dict[str, Any]]:
    """The resources of a walk by cursor, forwards."""
    cursor = ""
    while True:
        found = page(client, path, cursor=cursor, **query)
        yield from found["Resources"]
        if "nextCursor" not in found:
            return
        cursor = found["nextCursor"]


def people(world: World, names: list[str], **values: Any) -> list[str]:
    with acting(system("tests")), unit(world.acme):
        directory = Directory()
        return [directory.create("User", {"userName": name, **values}).id for name in names]


def test_a_walk_by_cursor_says_where_it_goes_on_and_where_it_came_from(acme: Scim) -> None:
    ids = [acme.user(name) for name in ("a", "b", "c", "d", "e")]
    first = page(acme, "/Users", cursor="", count=2)
    assert [one["id"] for one in first["Resources"]] == ids[:2]
    assert first["totalResults"] == 5 and first["itemsPerPage"] == 2
    assert "previousCursor" not in first and "startIndex" not in first
    second = page(acme, "/Users", cursor=first["nextCursor"], count=2)
    last = page(acme, "/Users", cursor=second["nextCursor"])
    assert [[one["id"] for one in each["Resources"]] for each in (second, last)] == [ids[2:4], ids[4:]]
    assert last["totalResults"] == 5 and "nextCursor" not in last
    before = page(acme, "/Users", cursor=last["previousCursor"])
    assert [one["id"] for one in before["Resources"]] == ids[2:4]
    assert [one["id"] for one in page(acme, "/Users", cursor=before["previousCursor"])["Resources"]] == ids[:2]
    assert page(acme, "/Users", cursor="", count=0) == {
        "schemas": first["schemas"], "totalResults": 5, "itemsPerPage": 0, "Resources": [],
    }  # fmt: skip


def test_a_cursor_is_good_for_its_own_list_and_for_an_hour(
    acme: Scim, globex: Scim, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        acme.user(name)
        globex.user(name)
    cursor = page(acme, "/Users", cursor="", count=1)["nextCursor"]
    for path in (
        f"/Groups?cursor={cursor}",
        f"/Users?cursor={cursor}&filter=userName%20pr",
        f"/Users?cursor={cursor}&sortBy=userName",
        f"?cursor={cursor}",
        f"/Users?cursor={cursor[:-2]}xx",
        "/Users?cursor=nonsense",
        "/Users?cursor=%C3%A9",
        f"/Users?cursor={'A' * 200}",
    ):
        refused(acme.get(path), 400, "invalidCursor")
    refused(globex.get(f"/Users?cursor={cursor}"), 400, "invalidCursor")
    refused(acme.get(f"/Users?cursor={cursor}&count=2"), 400, "invalidCount")
    refused(acme.get("/Users?cursor=&count=many"), 400, "invalidCount")
    refused(acme.get("/Users?cursor=&startIndex=2"), 400, "invalidValue")
    monkeypatch.setattr(asking, "CURSOR_TIMEOUT", -1)
    refused(acme.get(f"/Users?cursor={cursor}"), 400, "expiredCursor")


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize(
    "sort_by", ["userName", "displayName", "title", "emails.value", "meta.created", "active", "externalId", "id"]
)
def test_a_walk_has_the_order_of_a_list_forwards_and_backwards(
    acme: Scim, world: World, sort_by: str, descending: bool
) -> None:
    chance = random.Random(7)
    for number in range(30):
        values: dict[str, Any] = {"active": number % 3 > 0}
        if number % 4:
            values |= {"displayName": chance.choice("xyÄ"), "externalId": chance.choice("pq")}
        if number % 3:
            values |= {"title": chance.choice(["Ms", "ms", "Dr"]), "emails": [{"value": f"{chance.choice('uv')}@x.ex"}]}
        people(world, [f"{chance.choice('aBc')}{number}"], **values)
    order = {"sortBy": sort_by, "sortOrder": "descending" if descending else "ascending"}
    wanted = [one["id"] for one in page(acme, "/Users", **order)["Resources"]]
    assert [one["id"] for one in walked(acme, "/Users", count=7, **order)] == wanted
    pages = [page(acme, "/Users", cursor="", count=7, **order)]
    while "nextCursor" in pages[-1]:
        pages.append(page(acme, "/Users", cursor=pages[-1]["nextCursor"], **order))
    back = [pages[-1]]
    while "previousCursor" in back[-1]:
        back.append(page(acme, "/Users", cursor=back[-1]["previousCursor"], **order))
    assert [one["id"] for each in reversed(back) for one in each["Resources"]] == wanted


@pytest.mark.parametrize(
    "query",
    [{}, {"filter": 'userName sw "stay"'}, {"filter": 'title eq "Dr"'}, {"sortBy": "userName"}, {"sortBy": "title"}],
    ids=lambda query: " ".join(query.values()) or "everybody",
)
def test_a_walk_meets_everybody_who_stays_exactly_once(
    web: Flask, acme: Scim, world: World, query: dict[str, str]
) -> None:
    chance = random.Random(3)
    staying = set(people(world, [f"stay{number:03}" for number in range(200)], title="Dr"))
    leaving = people(world, [f"go{number:03}" for number in range(100)], title="Dr")
    chance.shuffle(leaving)
    done = threading.Event()

    def churn(deed: Callable[[int], Any]) -> None:
        with web.app_context():
            for number in range(100):
                if done.is_set():
                    return
                deed(number)

    other = Scim(web, acme.slug, token_of(world.acme))
    threads = [
        threading.Thread(target=churn, args=(lambda n: other.user(f"{'agsz'[n % 4]}new{n}", title="Dr"),)),
        threading.Thread(target=churn, args=(lambda n: other.delete(f"/Users/{leaving[n]}"),)),
    ]
    for thread in threads:
        thread.start()
    try:
        met = [one["id"] for one in walked(acme, "/Users", count=20, attributes="userName", **query)]
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert [id for id in met if id in staying and met.count(id) != 1] == []
    assert staying <= set(met)


def test_a_page_deep_in_a_walk_does_not_count(acme: Scim, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    people(world, ["a", "b", "c"])
    cursor = page(acme, "/Users", cursor="", count=1)["nextCursor"]
    monkeypatch.setattr("scim.walking.Listing._count", None)
    assert page(acme, "/Users", cursor=cursor)["totalResults"] == 3


def test_all_types_are_one_list(acme: Scim) -> None:
    user = acme.user("ada", displayName="Ada")
    group = acme.group("Wizards", user)
    unit = acme.make("/OrganizationalUnits", displayName="Research")["id"]
    everything = page(acme, "")
    assert everything["totalResults"] == 3
    assert {one["id"]: one["meta"]["resourceType"] for one in everything["Resources"]} == {
        user: "User", group: "Group", unit: "OrganizationalUnit",
    }  # fmt: skip
    shown = {one["id"]: one for one in everything["Resources"]}
    assert shown[group] == acme.get(f"/Groups/{group}").json and shown[user] == acme.get(f"/Users/{user}").json

    def found(**query: Any) -> list[str]:
        by_index = [one["id"] for one in page(acme, "", **query)["Resources"]]
        assert [one["id"] for one in walked(acme, "", count=1, **query)] == by_index
        assert page(acme, "", **query)["totalResults"] == len(by_index)
        return by_index

    assert found(sortBy="displayName") == [user, unit, group]
    assert found(sortBy="displayName", sortOrder="descending") == [group, unit, user]
    assert found(sortBy="userName")[0] == user
    assert found(sortBy="userName", sortOrder="descending")[-1] == user
    assert found(filter='displayName sw "w" or userName eq "ADA"', sortBy="displayName") == [user, group]
    assert set(found(filter='userName ne "ada"')) == {group, unit}
    assert found(filter="members pr") == [group]
    assert set(found(filter="not (members pr)")) == {user, unit}
    assert found(filter=f'members[value eq "{user}"]') == [group]
    assert found(filter='meta.resourceType eq "Group"') == [group]
    assert page(acme, "", startIndex=3, count=5)["itemsPerPage"] == 1
    refused(acme.get("?filter=nothing%20pr"), 400, "invalidFilter")
    refused(acme.get("?sortBy=nothing"), 400, "invalidPath")


def test_a_search_in_a_message_is_the_search_in_a_query(acme: Scim) -> None:
    for name in ("a", "b", "c"):
        acme.user(name, title="x")
    asked = {"filter": 'userName gt "a"', "sortBy": "userName", "sortOrder": "descending"}
    body = {"schemas": [SEARCH], **asked, "attributes": ["userName"], "startIndex": 1, "count": 1}
    found = acme.post("/Users/.search", body)
    assert found.status_code == 200 and found.content_type == "application/scim+json"
    assert found.json == page(acme, "/Users", attributes="userName", count=1, **asked)
    assert found.json["Resources"][0]["userName"] == "c"
    everywhere = acme.post("/.search", {"schemas": [SEARCH], **asked, "cursor": "", "count": 1}).json
    assert everywhere["Resources"][0]["userName"] == "c"
    onward = {"schemas": [SEARCH], **asked, "cursor": everywhere["nextCursor"]}
    assert acme.post("/.search", onward).json["Resources"][0]["userName"] == "b"
    for wrong, scim_type in (
        ([], "invalidSyntax"),
        ({"schemas": ["urn:x"]}, "invalidSyntax"),
        ({"schemas": [SEARCH], "filter": 5}, "invalidSyntax"),
        ({"schemas": [SEARCH], "attributes": [1]}, "invalidSyntax"),
        ({"schemas": [SEARCH], "count": "1"}, "invalidValue"),
        ({"schemas": [SEARCH], "count": True}, "invalidValue"),
        ({"schemas": [SEARCH], "count": 1.0}, "invalidValue"),
        ({"schemas": [SEARCH], "startIndex": 10**18}, "invalidValue"),
        ({"schemas": [SEARCH], "filter": "nothing pr"}, "invalidFilter"),
        ({"schemas": [SEARCH], "cursor": "", "startIndex": 1}, "invalidValue"),
    ):
        refused(acme.post("/.search", orjson.dumps(wrong)), 400, scim_type)
        refused(acme.post("/Users/.search", orjson.dumps(wrong)), 400, scim_type)


@pytest.mark.parametrize("name", ["startIndex", "count"])
@pytest.mark.parametrize(
    "value", ["1_0", "+1", " 1", "1.0", "1e3", "0x10", "ten", "١", "½", "--1", "-", "9" * 19, "1" * 5_000]
)
@pytest.mark.parametrize("path", ["/Users", "", "/GroupMembers"])
def test_a_number_that_is_none_is_refused(acme: Scim, path: str, name: str, value: str) -> None:
    query = urlencode({name: value})
    refused(acme.get(f"{path}?{query}"), 400, "invalidValue")


def test_a_number_out_of_its_range_is_the_nearest(acme: Scim) -> None:
    ids = [acme.user(name) for name in ("a", "b")]
    for start in (0, -1, "-0", "0001", f"-{'9' * 18}"):
        found = page(acme, "/Users", startIndex=start)
        assert [one["id"] for one in found["Resources"]] == ids and found["startIndex"] == 1
    for count in (-1, f"-{'9' * 18}", 0):
        found = page(acme, "/Users", count=count)
        assert (found["Resources"], found["itemsPerPage"], found["totalResults"]) == ([], 0, 2)
    assert len(page(acme, "/Users", count="9" * 18)["Resources"]) == 2
    assert page(acme, "/Users", startIndex="9" * 18)["Resources"] == []
    assert page(acme, "", startIndex="9" * 18)["Resources"] == []
