"""Sync runs as administrators see them: counters, reasons for what was skipped, and held removals to decide."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from broker import ids
from broker.context import Scope
from broker.db import directory_writes, platform_scope
from broker.models import HeldRemoval, Link, SyncRun, SyncSkip
from tests.casting import Cast, code
from tests.conftest import make_provider

PATH = "/sync-runs"


def make_run(scope: Scope, status: str = "done", provider: str | None = None) -> str:
    run_id = ids.new("run")
    provider = provider or make_provider(scope, name=run_id)
    with directory_writes(), platform_scope() as session:
        tenant = scope.tenant_id
        run = SyncRun(tenant_id=tenant, id=run_id, provider_id=provider, kind="full", status=status, read=7, skipped=2)
        run.finished_at = datetime.now(UTC)
        session.add(run)
        session.flush()
        for number in range(2):
            session.add(SyncSkip(tenant_id=tenant, run_id=run_id, name=f"CN={number}", reason="bad", detail="because"))
        if status == "held":
            link = Link(tenant_id=tenant, provider_id=provider, key="k", kind="user", name="CN=Ann", ref="cn=ann")
            link.digest = link.quiet_digest = b"d"
            session.add(link)
            session.flush()
            session.add(
                HeldRemoval(
                    tenant_id=tenant,
                    link_no=link.no,
                    action="remove",
                    provider_id=provider,
                    run_id=run_id,
                    digest=b"d",
                    reason="absent",
                )
            )
    return run_id


def test_runs_are_listed_newest_first_and_filtered(cast: Cast) -> None:
    first, second = make_run(cast.acme), make_run(cast.acme, "failed")
    runs = cast.acme_admin.get(PATH).get_json()["items"]
    assert [run["id"] for run in runs] == [second, first]
    assert runs[1] == cast.acme_admin.get(f"{PATH}/{first}").get_json()
    assert (runs[1]["kind"], runs[1]["status"], runs[1]["read"], runs[1]["dry_run"]) == ("full", "done", 7, False)
    failed = cast.acme_admin.get(f"{PATH}?status=failed").get_json()["items"]
    assert [run["id"] for run in failed] == [second]
    of_one = cast.acme_admin.get(f"{PATH}?provider_id={runs[1]['provider_id']}").get_json()["items"]
    assert [run["id"] for run in of_one] == [first]


def test_what_was_skipped_has_its_reason(cast: Cast) -> None:
    run = make_run(cast.acme)
    page = cast.acme_admin.get(f"{PATH}/{run}/skipped?limit=1").get_json()
    assert page["items"] == [{"position": None, "name": "CN=0", "reason": "bad", "detail": "because"}]
    rest = cast.acme_admin.get(f"{PATH}/{run}/skipped?cursor={page['next_cursor']}").get_json()
    assert [skip["name"] for skip in rest["items"]] == ["CN=1"]


def test_held_removals_are_shown_and_decided(cast: Cast) -> None:
    run = make_run(cast.acme, "held")
    [held] = cast.acme_admin.get(f"{PATH}/{run}/held-removals").get_json()["items"]
    assert (held["name"], held["action"], held["status"], held["reason"]) == ("CN=Ann", "remove", "held", "absent")
    rejected = cast.acme_admin.post(f"{PATH}/{run}/reject")
    assert rejected.status_code == 200 and rejected.get_json()["status"] == "done"
    [muted] = cast.acme_admin.get(f"{PATH}/{run}/held-removals").get_json()["items"]
    assert muted["status"] == "rejected"


@pytest.mark.parametrize("deed", ["approve", "reject"])
def test_only_a_held_run_is_decided(cast: Cast, deed: str) -> None:
    assert code(cast.acme_admin.post(f"{PATH}/{make_run(cast.acme)}/{deed}")) == (409, "conflict")
    assert code(cast.acme_admin.post(f"{PATH}/{ids.new('run')}/{deed}")) == (404, "not_found")


def test_strangers_see_no_run(cast: Cast) -> None:
    run = make_run(cast.acme, "held")
    for caller in (cast.globex_admin, cast.person):
        for answer in (
            caller.get(f"{PATH}/{run}"),
            caller.get(f"{PATH}/{run}/skipped"),
            caller.get(f"{PATH}/{run}/held-removals"),
            caller.post(f"{PATH}/{run}/approve"),
            caller.post(f"{PATH}/{run}/reject"),
        ):
            assert code(answer) == (404, "not_found")
    assert cast.globex_admin.get(PATH).get_json()["items"] == []
    assert cast.acme_admin.get(f"{PATH}/{run}").get_json()["status"] == "held"
