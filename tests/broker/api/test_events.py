"""The audit log: who did what, filtered by everything, in pages or as one stream."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.casting import Caller, Cast, code

PATH = "/events"


def items(caller: Caller, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = caller.get(f"{PATH}?limit=200{query}").get_json()["items"]
    return found


def test_an_event_says_who_what_and_in_which_request(cast: Cast) -> None:
    app = cast.acme_admin.post(
        "/applications", {"name": "Wiki", "type": "spa"}, headers={"X-Request-ID": "asked-for-42"}
    ).get_json()
    [event] = items(cast.acme_admin, "&request_id=asked-for-42")
    assert event["name"] == "application.created" and event["changed"] == ["name", "type"]
    assert event["actor"]["kind"] == "user" and event["actor"]["id"] == cast.acme_admin.user_id
    assert event["actor"]["credential_id"].startswith("pat_")
    assert event["resource"] == {"type": "Application", "id": app["id"]}
    assert event["id"].startswith("evt_") and event["occurred_at"].endswith("Z")


def test_the_log_is_filtered_by_all_it_says(cast: Cast) -> None:
    app = cast.acme_admin.post("/applications", {"name": "Wiki", "type": "spa"}).get_json()
    cast.partner_admin.at(cast.acme).patch(f"/applications/{app['id']}", {"name": "Handbook"})
    admin = cast.acme_admin
    assert [event["name"] for event in items(admin, f"&resource={app['id']}")] == [
        "application.updated",
        "application.created",
    ], "newest first"
    [updated] = items(admin, f"&actor={cast.partner_admin.user_id}")
    assert updated["name"] == "application.updated"
    assert items(admin, "&name=application.updated") == [updated]
    assert len(items(admin, "&name=application.*")) == 2
    assert {event["resource"]["type"] for event in items(admin, "&resource_type=Application")} == {"Application"}
    assert [event["name"] for event in items(admin, "&changed=type&resource_type=Application")] == [
        "application.created"
    ]
    moment = updated["occurred_at"]
    assert updated in items(admin, f"&occurred_from={moment}")
    assert updated not in items(admin, f"&occurred_before={moment}")
    assert items(admin, "&occurred_from=2999-01-01T00:00:00Z") == []


@pytest.mark.parametrize("query", ["occurred_from=yesterday", "occurred_before=2026-01-01T00:00:00"])
def test_a_moment_has_to_be_one(cast: Cast, query: str) -> None:
    assert code(cast.acme_admin.get(f"{PATH}?{query}")) == (422, "validation_failed")


def test_the_log_streams_as_lines(cast: Cast) -> None:
    for number in range(5):
        cast.acme_admin.post("/domains", {"name": f"d{number}.example"})
    answer = cast.acme_admin.get(f"{PATH}?limit=2&name=domain.*", headers={"Accept": "application/x-ndjson"})
    assert answer.mimetype == "application/x-ndjson" and answer.headers["X-Request-ID"]
    lines = [json.loads(line) for line in answer.get_data(as_text=True).splitlines()]
    assert lines == items(cast.acme_admin, "&name=domain.*") and len(lines) == 5
    one_by_one = cast.acme_admin.get(PATH, headers={"Accept": "application/json"})
    assert one_by_one.mimetype == "application/json"


def test_pages_of_the_log_go_on_without_gaps(cast: Cast) -> None:
    for number in range(5):
        cast.acme_admin.post("/domains", {"name": f"d{number}.example"})
    seen, cursor = [], ""
    while cursor is not None:
        page = cast.acme_admin.get(f"{PATH}?limit=3{cursor and '&cursor=' + cursor}").get_json()
        seen += page["items"]
        cursor = page["next_cursor"]
    assert seen == items(cast.acme_admin)


def test_nobody_reads_another_tenants_log(cast: Cast) -> None:
    cast.acme_admin.post("/domains", {"name": "secret.example"})
    assert all(event["name"] != "domain.created" for event in items(cast.globex_admin))
    assert code(cast.person.get(PATH)) == (404, "not_found")
    assert any(event["name"] == "domain.created" for event in items(cast.partner_admin.at(cast.acme)))


def test_no_secret_is_told(cast: Cast) -> None:
    token = cast.acme_admin.post("/personal-access-tokens", {"name": "x"}).get_json()["token"]
    scim = cast.acme_admin.post("/scim-tokens", {"name": "x"}).get_json()["token"]
    told = json.dumps(items(cast.acme_admin))
    assert token not in told and scim not in told
