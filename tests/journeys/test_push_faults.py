"""Receivers that misbehave in every way there is a name for, a real one too: they equal the directory in the end.

Nobody is there twice and nobody is taken away who was not to go. Each fault comes again at every step of the story, on
every kind of request it can befall; those that say "done" or "not done" come in both senses.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from scim.client import TargetClient
from tests.journeys.pushed import Life, settle, target_of
from tests.receivers import Answer, Asked, Fault, Receiver, Remote, faulty_receiver, scim2_server
from tests.scim.test_push import Tenant, acme, drain, pushing
from tests.scim.test_reconcile import compare

pytestmark = pytest.mark.long

__all__ = ["acme", "pushing"]

PATIENCE = 1.0
"""Seconds that the push waits for an answer here."""

CHANGES = (
    "POST /Users",
    "PUT /Users",
    "PATCH /Users",
    "DELETE /Users",
    "POST /Groups",
    "PATCH /Groups",
    "DELETE /Groups",
    "POST /Bulk",
)
READS = ("GET /Users", "GET /Groups")
EVERY = READS + CHANGES


def scim_error(status: int, scim_type: str | None = None, **headers: str) -> Answer:
    body: dict[str, Any] = {
        "schemas": ["urn:ietf:params:scim:api:messages:2.0:Error"],
        "status": str(status),
        "detail": "not now",
    }
    return Answer(status, body if scim_type is None else {**body, "scimType": scim_type}, headers)


def instead(answer: Answer) -> Fault:
    """Not done, and this is said."""
    return lambda _asked, _act: answer


def after(answer: Answer) -> Fault:
    """Done, and then this is said."""

    def fault(_: Asked, act: Callable[[], Answer]) -> Answer:
        act()
        return answer

    return fault


def clashing(asked: Asked, act: Callable[[], Answer]) -> Answer:
    """Made, and then 409 is said: of the request, or of each that a request in bulk made."""
    said, clash = act(), scim_error(409, "uniqueness")
    if not asked.path.endswith("/Bulk"):
        return clash
    for one in said.body["Operations"]:
        if one["status"] == "201":
            del one["location"]
            one |= {"status": "409", "response": clash.body}
    return said


def halved(_: Asked, act: Callable[[], Answer]) -> Answer:
    """Done, and half of the answer is written."""
    said = act()
    said.cut = said.body is not None
    return said if said.cut else Answer(0)


def mislabelled(_: Asked, act: Callable[[], Answer]) -> Answer:
    """Done; the answer is right and says that it is something else."""
    said = act()
    said.headers = {"Content-Type": "text/plain"}
    return said


def late(_: Asked, act: Callable[[], Answer]) -> Answer:
    """Slow, but within what is waited for."""
    said = act()
    said.delay = PATIENCE / 5
    return said


def too_many(asked: Asked, act: Callable[[], Answer]) -> Answer:
    """413 for more than two members."""
    members = sum(len(one["value"]) if one["op"] == "add" else 1 for one in asked.body["Operations"])
    return scim_error(413, "tooMany") if members > 2 else act()


class Flapping:
    """Seven requests are answered, then four find nobody."""

    def __init__(self) -> None:
        self.numbers = itertools.count()

    def __call__(self, asked: Asked, act: Callable[[], Answer]) -> Answer:
        return act() if next(self.numbers) % 11 < 7 else Answer(503)


PAGE = Answer(200, b"<html>Be right back</html>", {"Content-Type": "text/html"})
NOBODY = Answer(0, delay=2 * PATIENCE)
ONCE, ALWAYS = 1, 10_000

TABLE: dict[str, tuple[tuple[str, ...], Callable[[], Fault], int]] = {
    "404 to a change, not done": (
        ("PUT /Users", "PATCH /Users", "PATCH /Groups"),
        lambda: instead(scim_error(404)),
        ONCE,
    ),
    "404 to a deletion, not done before": (("DELETE /Users", "DELETE /Groups"), lambda: after(scim_error(404)), ONCE),
    "409 to what was made": (("POST /Users", "POST /Groups", "POST /Bulk"), lambda: clashing, ONCE),
    "412, not done": (("PUT /Users", "PATCH /Users", "PATCH /Groups"), lambda: instead(scim_error(412)), ONCE),
    "413": (("PATCH /Groups",), lambda: too_many, ALWAYS),
    "429 with Retry-After": (EVERY, lambda: instead(scim_error(429, **{"Retry-After": "1"})), ONCE),
    "429 without Retry-After": (EVERY, lambda: instead(scim_error(429)), ONCE),
    "500, not done": (EVERY, lambda: instead(scim_error(500)), ONCE),
    "500, done": (EVERY, lambda: after(scim_error(500)), ONCE),
    "hang, not done": (CHANGES, lambda: instead(NOBODY), ONCE),
    "hang, done": (CHANGES, lambda: after(NOBODY), ONCE),
    "slow": (EVERY, lambda: late, ALWAYS),
    "flap": (EVERY, Flapping, ALWAYS),
    "half-written answer": (EVERY, lambda: halved, ONCE),
    "a page instead of SCIM, not done": (EVERY, lambda: instead(PAGE), ONCE),
    "a page instead of SCIM, done": (EVERY, lambda: after(PAGE), ONCE),
    "wrong content type": (EVERY, lambda: mislabelled, ALWAYS),
}


@pytest.fixture(scope="module")
def real_receivers() -> Iterator[Callable[[str], Remote]]:
    with scim2_server() as make:
        yield make


@pytest.fixture(params=["small", "scim2-server"])
def receiver(request: pytest.FixtureRequest, acme: Tenant) -> Iterator[Receiver]:
    real: Remote | None = None
    if request.param != "small":
        make = request.getfixturevalue("real_receivers")
        real = make(str(acme.scope.tenant_id).replace("_", "-"))
    running: AbstractContextManager[Receiver] = faulty_receiver(real)
    with running as found:
        yield found


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = TargetClient.__init__

    def hurried(self: TargetClient, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **{**options, "timeout": PATIENCE})

    monkeypatch.setattr(TargetClient, "__init__", hurried)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", TABLE)
def test_whatever_goes_wrong_the_receiver_equals_the_directory_in_the_end(
    acme: Tenant, receiver: Receiver, name: str
) -> None:
    requests, make, times = TABLE[name]
    target_of(acme, receiver, "delete")
    life = Life(acme, "delete")
    met: Counter[str] = Counter()
    for step in life.steps():
        fault = make()
        for wanted in requests:
            method, path = wanted.split()
            receiver.fault(method, f"{path}(/.*)?", counted(fault, wanted, met), times)
        step()
        settle(acme)
        receiver.faults.clear()
        life.compare(receiver)
    assert met, "nothing went wrong"
    assert drain().worked == 0
    if not name.startswith("hang"):  # who hangs is still busy when he is asked again
        assert receiver.overlaps == []
    gone = {asked.path for asked in receiver.requests("DELETE")}
    assert len(gone) == 3, f"two people and a group were to go, not {gone}"


@pytest.mark.timeout(240)
def test_whatever_backup_the_receiver_goes_back_to_a_comparison_heals_it(acme: Tenant, receiver: Receiver) -> None:
    target_id = target_of(acme, receiver, "delete")
    life = Life(acme, "delete")
    for step in life.steps():
        backup = receiver.backup()
        step()
        settle(acme)
        life.compare(receiver)
        receiver.restore(backup)
        compare(acme, target_id, "overwrite")
        settle(acme)
        life.compare(receiver)
    assert compare(acme, target_id).missing == 0 and drain().worked == 0


def counted(fault: Fault, wanted: str, met: Counter[str]) -> Fault:
    def counting(asked: Asked, act: Callable[[], Answer]) -> Answer | None:
        met[wanted] += 1
        return fault(asked, act)

    return counting


def test_the_table_has_every_fault_that_was_asked_for() -> None:
    said = json.dumps([*TABLE, test_whatever_backup_the_receiver_goes_back_to_a_comparison_heals_it.__name__])
    for wanted in (
        "404",
        "409",
        "412",
        "413",
        "429 with ",
        "429 without",
        "500",
        "hang",
        "slow",
        "flap",
        "half-",
        "content type",
        "backup",
    ):
        assert wanted in said
