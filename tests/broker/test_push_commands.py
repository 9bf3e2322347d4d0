"""The commands that look after targets, and the doctor's look at them, as an operator meets them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask import Flask

from broker import health
from broker.db import unit
from broker.models import ScimTarget
from broker.registry import targets
from tests.broker.test_commands import Command, scaikey
from tests.receivers import TOKEN, Answer, Receiver
from tests.scim.test_push import Tenant, acme, drain, listening, pushing, receiver

__all__ = ["acme", "listening", "pushing", "receiver", "scaikey"]


@pytest.fixture(autouse=True)
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCAIKEY_ALLOW_HTTP_LOOPBACK", "1")


def lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_how_a_target_stands_is_shown_and_what_failed_there(acme: Tenant, receiver: Receiver, scaikey: Command) -> None:
    target_id = acme.target(receiver)
    acme.user("alice")
    drain()
    bob = acme.user("bob")
    receiver.fault("POST", "/Users", Answer(400, {"detail": "not him"}))
    drain()
    status, out, _ = scaikey("push", "status", target_id, "--json")
    [shown] = lines(out)
    assert status == 0 and shown["deliveries"] == {"failed": 1} and shown["resources"] == {"present": 1}
    assert (shown["settled_24h"], shown["comparison"], shown["tenant"]) == (1, None, acme.scope.slug)
    status, out, _ = scaikey("push", "status", "--tenant", acme.scope.slug)
    assert status == 0 and target_id in out and "never" in out
    status, out, _ = scaikey("push", "errors", target_id, "--json")
    [failed] = lines(out)
    assert (status, failed["event"], failed["resource_id"]) == (0, "failed", bob)
    assert failed["exchange"]["answer"]["body"] == {"detail": "not him"}
    assert failed["exchange"]["request"]["body"]["userName"] == "***"
    status, out, _ = scaikey("push", "errors", target_id)
    assert status == 0 and "POST /Users answered 400: not him" in out


def test_a_preview_names_deeds_and_does_none(acme: Tenant, receiver: Receiver, scaikey: Command) -> None:
    target_id = acme.target(receiver)
    alice = acme.user("alice")
    acme.group("Team", [alice])
    status, out, _ = scaikey("push", "preview", target_id, "--json")
    *deeds, counts = lines(out)
    assert status == 0 and {deed["event"] for deed in deeds} == {"create"} and counts["create"] == 2
    status, out, _ = scaikey("push", "preview", target_id)
    assert status == 0 and "alice" in out and "create 2" in out
    assert receiver.stored == {"Users": {}, "Groups": {}}


def test_a_comparison_is_carried_out_before_ones_eyes(acme: Tenant, receiver: Receiver, scaikey: Command) -> None:
    target_id = acme.target(receiver)
    acme.users(120)
    drain()
    status, out, _ = scaikey("push", "compare", target_id, "--json")
    *progress, end = lines(out)
    assert (status, end["event"], end["done"], end["missing"]) == (0, "done", 120, 0)
    assert [one["done"] for one in progress if one["event"] == "progress"][:2] == [0, 0] and progress[-1]["done"] == 120
    assert {one["phase"] for one in progress} >= {"User", "Group"}
    receiver.stored["Users"].popitem()
    status, out, _ = scaikey("push", "compare", target_id, "--policy", "report")
    assert status == 3 and "missing" in out and acme.deliveries() == []
    receiver.fault("GET", "/Users", Answer(400, {"detail": "no lists"}))
    status, out, _ = scaikey("push", "compare", target_id)
    assert status == 1 and "no lists" in out
    status, out, _ = scaikey("push", "runs", target_id, "--json")
    assert [run["event"] for run in lines(out)] == ["failed", "done", "done"]


def test_what_cannot_begin_is_one_line(acme: Tenant, receiver: Receiver, scaikey: Command) -> None:
    target_id = acme.target(receiver)
    with unit(acme.scope) as session:
        targets.update(session.get_one(ScimTarget, (acme.scope.tenant_id, target_id)), {"status": "paused"})
    for arguments, said in (
        (("compare", target_id), "is paused"),
        (("compare", "tgt_none"), "there is no target tgt_none"),
        (("status", "--tenant", "nowhere"), "there is no tenant nowhere"),
    ):
        status, out, errors = scaikey("push", *arguments)
        assert status == 2 and out == "" and said in errors and "Traceback" not in errors


def test_the_doctor_says_of_each_target_what_stands_in_the_way(
    acme: Tenant, receiver: Receiver, pushing: Flask
) -> None:
    target_id = acme.target(receiver)
    acme.user("alice")
    drain()

    def found() -> health.Verdict:
        return next(one for one in health.each_target() if target_id in one.name)

    verdict = found()
    assert verdict.ok and "auto: PUT, no bulk, pages by index" in verdict.found and "owed: nothing" in verdict.found
    receiver.fault("GET", "/ServiceProviderConfig", Answer(401))
    verdict = found()
    assert not verdict.ok and verdict.found.startswith("address: ") and "credential" in verdict.mend
    receiver.fault("GET", "/Users", Answer(403))
    verdict = found()
    assert not verdict.ok and verdict.found.startswith("search: GET /Users answered 403")
    receiver.fault("GET", "/Users", Answer(400))
    assert found().ok
    with unit(acme.scope) as session:
        target = session.get_one(ScimTarget, (acme.scope.tenant_id, target_id))
        target.status, target.status_reason = "quarantined", "GET /Users answered 503"
    verdict = found()
    assert not verdict.ok and "answered 503" in verdict.found
    with unit(acme.scope) as session:
        target = session.get_one(ScimTarget, (acme.scope.tenant_id, target_id))
        auth = {"method": "oauth2_client_credentials", "client_id": "us", "client_secret": "s"}
        auth |= {"token_url": "http://127.0.0.1:9/token", "token_endpoint_auth_method": "client_secret_basic"}
        targets.update(target, {"auth": auth})
    verdict = found()
    assert not verdict.ok and verdict.found.startswith("token: ") and "client" in verdict.mend
    assert TOKEN not in verdict.found
