"""Whoever reports to somebody new is sent after him, and once: over single requests and many at once."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from broker.db import platform_scope
from broker.models import Delivery
from scim.push import outbox
from scim.push import run as running_push
from tests.limits import bulk
from tests.receivers import Answer, Receiver
from tests.scim.test_push import ENTERPRISE, Tenant, acme, change_target, drain, listening, pushing, receiver

__all__ = ["acme", "listening", "pushing", "receiver"]


def reports_to(manager: str) -> dict[str, Any]:
    return {ENTERPRISE: {"manager": {"value": manager}}}


def hierarchy(tenant: Tenant, people: list[str]) -> dict[str, str]:
    """Everybody below somebody, three to a manager, in no order of age; who manages whom."""
    shuffled = random.Random(7).sample(people, len(people))
    managers = {one: shuffled[(at - 1) // 3] for at, one in enumerate(shuffled) if at}
    for one, manager in managers.items():
        tenant.change(one, **reports_to(manager))
    return managers


def managers_there(receiver: Receiver) -> dict[str, str]:
    """By our ids, who has whom as his manager."""
    users = receiver.stored["Users"]
    return {
        one["externalId"]: users[one[ENTERPRISE]["manager"]["value"]]["externalId"]
        for one in users.values()
        if "manager" in one.get(ENTERPRISE, {})
    }


def sent(receiver: Receiver) -> list[str]:
    """The externalIds of all the people in all requests that make or change one."""
    operations = [one for asked in receiver.requests("POST", "/Bulk") for one in asked.body["Operations"]]
    alone = [*receiver.requests("POST", "/Users"), *receiver.requests("PUT")]
    return [one["data"]["externalId"] for one in operations] + [asked.body["externalId"] for asked in alone]


@pytest.mark.parametrize("together", [False, True])
def test_everybody_below_somebody_new_is_sent_once_with_his_manager(
    acme: Tenant, receiver: Receiver, together: bool
) -> None:
    if together:
        receiver.rules += bulk(receiver)
    acme.target(receiver)
    people = acme.users(80)
    managers = hierarchy(acme, people)
    drain()
    assert acme.deliveries() == [] and managers_there(receiver) == managers
    assert sorted(sent(receiver)) == sorted(people)


def test_a_ring_of_managers_and_who_manages_himself_are_sent_all_the_same(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    drain()
    one, two, three, himself = acme.users(4)
    below = acme.user("below", **reports_to(three))
    managers = {one: two, two: three, three: one, himself: himself, below: three}
    for id, manager in managers.items():
        acme.change(id, **reports_to(manager))
    drain()
    assert acme.deliveries() == [] and managers_there(receiver) == managers
    assert len(receiver.requests("POST", "/Users")) == 5 and len(receiver.requests("PUT")) == 2


@pytest.mark.parametrize("status", [400, 500])
def test_nobody_waits_for_one_who_is_refused(acme: Tenant, receiver: Receiver, status: int) -> None:
    acme.target(receiver)
    drain()
    manager = acme.user("manager")
    people = [acme.user(f"report{number}", **reports_to(manager)) for number in range(3)]
    receiver.fault("POST", "/Users", Answer(status))
    drain()
    assert sorted(receiver.users()) == ["report0", "report1", "report2"] and managers_there(receiver) == {}
    acme.wait_over()
    acme.change(manager, title="Chief")
    drain()
    assert acme.deliveries() == [] and managers_there(receiver) == dict.fromkeys(people, manager)


def test_who_waits_for_a_slow_manager_stays_claimed(
    acme: Tenant, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = running_push.current_app._get_current_object()  # type: ignore[attr-defined]
    leases: list[datetime | None] = []

    def late(asked: Any, act: Callable[[], Answer]) -> Answer:
        time.sleep(1.5)
        with app.app_context():
            leases.extend(one.lease_until for one in acme.deliveries())
        return act()

    acme.target(receiver)
    drain()
    for module in (running_push, outbox):
        monkeypatch.setattr(module, "LEASE", 1.0)
    manager = acme.user("manager")
    report = acme.user("report", **reports_to(manager))
    receiver.fault("POST", "/Users", late)
    began = datetime.now(UTC)
    drain()
    assert len(leases) == 2 and all(one is not None and one > began + timedelta(seconds=1.5) for one in leases)
    assert acme.deliveries() == [] and managers_there(receiver) == {report: manager}
    assert sent(receiver) == [manager, report]


def test_who_waits_is_given_back_when_the_target_does_not_answer(acme: Tenant, receiver: Receiver) -> None:
    acme.target(receiver)
    drain()
    manager = acme.user("manager")
    report = acme.user("report", **reports_to(manager))
    receiver.fault("POST", "/Users", Answer(503))
    drain()
    assert {one.resource_id: (one.attempts, one.lease_until) for one in acme.deliveries()} == {
        manager: (1, None),
        report: (0, None),
    }
    acme.wait_over()
    drain()
    assert acme.deliveries() == [] and sent(receiver)[-2:] == [manager, report]


def test_a_report_who_changes_while_he_waits_is_sent_as_he_is_then(acme: Tenant, receiver: Receiver) -> None:
    app = running_push.current_app._get_current_object()  # type: ignore[attr-defined]
    acme.target(receiver)
    drain()
    manager = acme.user("manager")
    report = acme.user("report", **reports_to(manager))

    def change_meanwhile(asked: Any, act: Callable[[], Answer]) -> Answer:
        with app.app_context():
            acme.change(report, title="Chief", **reports_to(manager))
        return act()

    receiver.fault("POST", "/Users", change_meanwhile)
    drain()
    assert acme.deliveries() == [] and receiver.users()["report"]["title"] == "Chief"
    assert sent(receiver) == [manager, report]


def test_a_report_whom_another_run_took_over_and_sent_without_his_manager_is_sent_again(
    acme: Tenant, pushing: Flask, receiver: Receiver
) -> None:
    asked_of_him = threading.Event()

    def late(asked: Any, act: Callable[[], Answer]) -> Answer:
        asked_of_him.set()
        return Answer(201, act().body, delay=1.5)

    def first_run() -> None:
        with pushing.app_context():
            drain()

    acme.target(receiver)
    drain()
    manager = acme.user("manager")
    report = acme.user("report", **reports_to(manager))
    receiver.fault("POST", "/Users", late)
    thread = threading.Thread(target=first_run)
    thread.start()
    assert asked_of_him.wait(20)
    with platform_scope() as session:
        ended = sa.func.now() - sa.text("interval '1 second'")
        session.execute(sa.update(Delivery).where(Delivery.resource_id == report).values(lease_until=ended))
    drain()
    assert thread.is_alive() and "report" in receiver.users() and managers_there(receiver) == {}
    thread.join()
    assert acme.deliveries() == [] and managers_there(receiver) == {report: manager}


def test_a_report_is_not_sent_to_a_target_that_was_paused_while_he_waited(acme: Tenant, receiver: Receiver) -> None:
    app = running_push.current_app._get_current_object()  # type: ignore[attr-defined]
    target_id = acme.target(receiver)
    drain()
    manager = acme.user("manager")
    report = acme.user("report", **reports_to(manager))

    def pause_meanwhile(asked: Any, act: Callable[[], Answer]) -> Answer:
        with app.app_context():
            change_target(acme, target_id, status="paused")
        return act()

    receiver.fault("POST", "/Users", pause_meanwhile)
    drain()
    assert sent(receiver) == [manager]
    assert (report, 0, None) in [(one.resource_id, one.attempts, one.lease_until) for one in acme.deliveries()]
    acme.resume(target_id)
    drain()
    assert acme.deliveries() == [] and managers_there(receiver) == {report: manager}
