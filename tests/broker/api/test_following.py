"""Live upstreams over the admin API: schedules, runs started and cancelled, and settings that wait for approval."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from broker import ids
from broker.sync import work
from tests import scripted
from tests.casting import Cast, code
from tests.scripted import CONFIG, Directory, person

PATH = "/identity-providers"


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Directory:
    found = Directory()
    scripted.install(monkeypatch, lambda config: found)
    found.put(*(person(f"p{n:02}") for n in range(12)))
    return found


@pytest.fixture
def provider(cast: Cast, directory: Directory) -> str:
    made = cast.acme_admin.post(PATH, {"kind": "ldap", "name": ids.new("idp"), "config": CONFIG})
    assert made.status_code == 201, made.get_data(as_text=True)
    return str(made.get_json()["id"])


def start(cast: Cast, provider: str, **wanted: bool) -> dict[str, Any]:
    answer = cast.acme_admin.post(f"{PATH}/{provider}/sync", wanted or None)
    assert answer.status_code == 202, answer.get_data(as_text=True)
    run: dict[str, Any] = answer.get_json()
    assert answer.headers["Location"].endswith(f"/api/v1/sync-runs/{run['id']}")
    return run


def finished(web: Flask, cast: Cast, run: dict[str, Any]) -> dict[str, Any]:
    """The run after a worker has come by."""
    with web.app_context():
        work.work(lambda: False)
    shown: dict[str, Any] = cast.acme_admin.get(f"/sync-runs/{run['id']}").get_json()
    return shown


def test_a_run_is_started_watched_and_done(web: Flask, cast: Cast, provider: str) -> None:
    run = start(cast, provider)
    assert (run["status"], run["started_at"], run["read"]) == ("running", None, 0)
    assert start(cast, provider)["id"] == run["id"]  # one that waits is the same one
    done = finished(web, cast, run)
    assert (done["status"], done["kind"], done["created"], done["total"]) == ("done", "full", 12, None)
    assert done["requested_by"] == cast.acme_admin.user_id
    assert done["due_at"] <= done["started_at"] <= done["finished_at"]
    state = cast.acme_admin.get(f"{PATH}/{provider}/sync").get_json()
    assert state["last_good_at"] and state["next_full_at"] and state["failures"] == 0 and state["next_at"] is None


def test_a_plan_changes_nothing(web: Flask, cast: Cast, provider: str) -> None:
    done = finished(web, cast, start(cast, provider, dry_run=True))
    assert (done["status"], done["dry_run"], done["created"], len(done["plan"])) == ("done", True, 12, 12)
    assert finished(web, cast, start(cast, provider))["created"] == 12


def test_a_schedule_is_followed_and_paused(web: Flask, cast: Cast, provider: str) -> None:
    path = f"{PATH}/{provider}"
    changed = cast.acme_admin.patch(path, {"sync": {"enabled": True, "schedule": "5m"}}).get_json()
    assert changed["sync"] == {"enabled": True, "schedule": "5m", "full_every": "1d"}
    with web.app_context():
        work.work(lambda: False)
    [run] = cast.acme_admin.get(f"/sync-runs?provider_id={provider}").get_json()["items"]
    assert (run["status"], run["requested_by"]) == ("done", "system:clock")
    assert cast.acme_admin.get(f"{path}/sync").get_json()["next_at"]
    cast.acme_admin.patch(path, {"sync": {"enabled": False}})
    assert cast.acme_admin.get(f"{path}/sync").get_json()["next_at"] is None


@pytest.mark.parametrize(
    "sync",
    [
        {"enabled": True, "schedule": "now"},
        {"schedule": "10s"},
        {"full_every": "1m"},
        {"often": True},
        {"enabled": 1},
        [],
    ],
)
def test_what_is_no_schedule_is_refused(cast: Cast, provider: str, sync: Any) -> None:
    refused = cast.acme_admin.patch(f"{PATH}/{provider}", {"sync": sync})
    assert code(refused) == (422, "validation_failed") and list(refused.get_json()["errors"]) == ["sync"]


def test_an_export_has_no_schedule_and_no_run_to_start(cast: Cast) -> None:
    body = {"kind": "ldap", "name": "Exported", "config": {}}
    assert code(cast.acme_admin.post(PATH, {**body, "sync": {"enabled": True}})) == (422, "not_available")
    made = cast.acme_admin.post(PATH, {**body, "sync": {"enabled": False}}).get_json()["id"]
    assert code(cast.acme_admin.post(f"{PATH}/{made}/sync")) == (422, "not_available")


def test_a_disabled_provider_is_not_read(cast: Cast, provider: str) -> None:
    cast.acme_admin.patch(f"{PATH}/{provider}", {"enabled": False})
    assert code(cast.acme_admin.post(f"{PATH}/{provider}/sync")) == (409, "conflict")


def test_a_run_that_waits_is_cancelled(cast: Cast, provider: str) -> None:
    run = start(cast, provider)
    ended = cast.acme_admin.post(f"/sync-runs/{run['id']}/cancel")
    assert ended.status_code == 200 and ended.get_json()["status"] == "failed"
    assert ended.get_json()["problem"] == f"Cancelled by {cast.acme_admin.user_id}."
    assert code(cast.acme_admin.post(f"/sync-runs/{run['id']}/cancel")) == (409, "conflict")


def test_strangers_start_and_end_nothing(cast: Cast, provider: str) -> None:
    run = start(cast, provider)
    for stranger in (cast.globex_admin, cast.person):
        assert code(stranger.post(f"{PATH}/{provider}/sync"))[0] in (403, 404)
        assert code(stranger.get(f"{PATH}/{provider}/sync"))[0] in (403, 404)
        assert code(stranger.post(f"/sync-runs/{run['id']}/cancel"))[0] in (403, 404)


@pytest.mark.parametrize("body", [{"full": 1}, {"dry_run": "yes"}, {"slowly": True}, []])
def test_a_wish_that_cannot_be_read_is_refused(cast: Cast, provider: str, body: Any) -> None:
    assert code(cast.acme_admin.post(f"{PATH}/{provider}/sync", body))[0] in (400, 422)
    assert cast.acme_admin.get(f"/sync-runs?provider_id={provider}").get_json()["items"] == []


def test_changed_settings_show_their_plan_and_are_approved(
    web: Flask, cast: Cast, provider: str, directory: Directory
) -> None:
    assert finished(web, cast, start(cast, provider))["status"] == "done"
    config = {**CONFIG, "base_dn": "OU=New,DC=corp", "bind_password": "***"}
    cast.acme_admin.patch(f"{PATH}/{provider}", {"config": config})
    directory.put(person("new"))
    held = finished(web, cast, start(cast, provider))
    assert (held["status"], held["dry_run"]) == ("held", True) and "created user CN=new,DC=corp" in held["plan"]
    approved = cast.acme_admin.post(f"/sync-runs/{held['id']}/approve")
    assert approved.status_code == 200 and approved.get_json()["status"] == "done"
    with web.app_context():
        work.work(lambda: False)
    newest = cast.acme_admin.get(f"/sync-runs?provider_id={provider}").get_json()["items"][0]
    assert (newest["status"], newest["dry_run"], newest["kind"], newest["created"]) == ("done", False, "full", 1)
