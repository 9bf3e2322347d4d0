"""A day and more of failures, second by second as far as anybody can tell: what is set aside, and how it comes back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from broker.db import unit
from broker.models import ScimTarget
from tests.journeys.clock import Clock
from tests.journeys.pushed import Life, target_of
from tests.receivers import Answer, Receiver, faulty_receiver
from tests.scim.test_push import Tenant, acme, drain, pushing

__all__ = ["acme", "pushing"]

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with faulty_receiver() as found:
        yield found


def target_row(acme: Tenant, target_id: str) -> ScimTarget:
    with unit(acme.scope) as session:
        row = session.get_one(ScimTarget, (acme.scope.tenant_id, target_id))
        session.expunge(row)
    return row


def test_one_who_fails_for_a_day_is_set_aside_while_others_arrive_and_comes_back_by_himself(
    acme: Tenant, receiver: Receiver
) -> None:
    target_id = acme.target(receiver)
    clock = Clock(acme)
    alice = acme.user("alice")
    receiver.rules.append(
        lambda asked, act: Answer(500) if asked.method == "POST" and asked.body["userName"] == "alice" else None
    )
    states: dict[str, float] = {}

    def look(hour: float) -> None:
        [one] = [one for one in acme.deliveries() if one.resource_id == alice]
        states.setdefault(one.status, hour)
        if one.status == "pending":
            assert one.exchange is not None and one.exchange["answer"]["status"] == 500
        assert len(acme.deliveries()) == 1, "nobody else waits"

    for number in range(5):
        acme.user(f"newcomer{number}")
        clock.run(5, look)
        assert f"newcomer{number}" in receiver.users()
    tries = len(receiver.requests("POST")) - 5
    assert 23.9 < states["failed"] < 24.7 and 80 < tries < 220, (states, tries)
    assert target_row(acme, target_id).status == "active" and acme.events("scim_target.quarantined") == []
    clock.run(8)  # six hours and a quarter more or less, from its last hour on
    assert len(receiver.requests("POST")) - 5 - tries in (1, 2), "in quarantine it is tried every six hours or so"
    receiver.rules.clear()
    clock.run(8)
    assert receiver.users()["alice"]["externalId"] == alice and acme.deliveries() == []


def test_a_target_that_is_down_for_a_day_is_set_aside_and_heals_with_everything_that_changed_meanwhile(
    acme: Tenant, receiver: Receiver
) -> None:
    target_id = target_of(acme, receiver, "delete")
    clock, life = Clock(acme), Life(acme, "delete")
    first, *later = life.steps()
    first()
    clock.run(0.1)
    life.compare(receiver)
    before = {one["userName"]: dict(one) for one in receiver.stored["Users"].values()}
    down = clock.passed / 3600
    receiver.rules.append(lambda asked, act: Answer(503, headers=headers))
    headers: dict[str, str] = {}
    quarantined: list[float] = []

    def look(hour: float) -> None:
        if hour - down > 1:  # fewer questions to the same end
            headers["Retry-After"] = "1800"
        if not quarantined and target_row(acme, target_id).status == "quarantined":
            quarantined.append(hour - down)

    for step in later:
        step()
        clock.run(7, look)
    assert 24 < quarantined[0] < 25
    assert target_row(acme, target_id).status_reason is not None
    asked = len(receiver.asked)
    clock.run(3)
    assert 4 <= len(receiver.asked) - asked <= 20, "a target in quarantine is asked now and then"
    assert {one["userName"]: one for one in receiver.stored["Users"].values()} == before, "nothing was changed there"
    owed = {one.resource_id for one in acme.deliveries()}
    assert owed >= {life.ids[name] for name in ("alice", "bob", "erin", "frank")}, "nothing was dropped"
    receiver.rules.clear()
    clock.run(0.6)
    assert target_row(acme, target_id).status == "active"
    life.compare(receiver)
    assert acme.deliveries() == [] and drain().worked == 0
    assert (len(acme.events("scim_target.quarantined")), len(acme.events("scim_target.recovered"))) == (1, 1)
    assert len(receiver.requests("POST", "/Users")) == 6
