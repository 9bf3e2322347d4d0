"""The removal guard while an upstream is followed: what deltas take away by and by, what full passes find missing."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from broker import removals
from broker.context import acting, system
from broker.db import unit
from broker.models import HeldRemoval, SyncRun
from connectors.port import Gone, Page, Record, Unreachable
from tests.broker.test_following import Acme, group
from tests.broker.test_guard import shift
from tests.casting import give_role
from tests.conftest import World
from tests.scripted import person


@pytest.fixture
def hundred(world: World) -> Acme:
    """A hundred people, read once."""
    acme = Acme(world)
    acme.directory.put(*(person(f"p{n:03}") for n in range(100)))
    assert acme.run().status == "done"
    return acme


def leave(acme: Acme, *numbers: int) -> SyncRun:
    acme.directory.drop(*(f"key-p{n:03}" for n in numbers))
    return acme.run()


def held(acme: Acme) -> int:
    with unit(acme.scope) as session:
        waiting = sa.select(sa.func.count()).where(HeldRemoval.status == "held")
        return session.scalar(waiting) or 0


def decide(acme: Acme, run: SyncRun, decision: Any) -> None:
    with unit(acme.scope), acting(system("administrator")):
        decision(run.id)


def disabled(number: int) -> Record:
    return person(f"p{number:03}", active=False)


def test_a_single_leaver_passes_at_once(hundred: Acme) -> None:
    run = leave(hundred, 7)
    assert (run.status, run.removed, held(hundred)) == ("done", 1, 0)


def test_a_slow_drain_by_deltas_is_held_when_a_day_has_seen_too_much(hundred: Acme) -> None:
    for first in range(0, 20, 5):
        assert leave(hundred, *range(first, first + 5)).status == "done"
        shift(hundred, "1 hour")
    run = leave(hundred, 20)
    assert (run.status, run.removed, held(hundred)) == ("held", 0, 1) and "24 hours" in run.hold_reason
    shift(hundred, "25 hours")
    assert hundred.run().status == "done"  # looked at anew: a day later it is one leaver
    assert held(hundred) == 0 and len(hundred.people()) == 79


def test_half_of_the_people_gone_in_one_delta_are_held_and_come_back_unharmed(hundred: Acme) -> None:
    kept = dict(hundred.directory.records)
    run = leave(hundred, *range(50))
    assert (run.status, run.removed, held(hundred)) == ("held", 0, 50) and len(hundred.people()) == 100
    hundred.directory.put(*(record for key, record in kept.items() if key < "key-p050"))
    run = hundred.run()
    assert (run.status, held(hundred)) == ("done", 0) and len(hundred.people()) == 100


def test_a_source_that_holds_nobody_is_held_by_the_full_pass(hundred: Acme) -> None:
    hundred.directory.records.clear()
    run = hundred.run(full=True)
    assert run.status == "held" and "nobody at all" in run.hold_reason and held(hundred) == 100


def test_a_mass_disabling_waits_though_nobody_of_them_signs_in(hundred: Acme) -> None:
    hundred.directory.put(*(disabled(n) for n in range(30)))
    run = hundred.run()
    assert (run.status, run.disabled, held(hundred)) == ("held", 0, 30)
    with unit(hundred.scope) as session:
        usable = session.scalar(
            sa.text("SELECT count(*) FROM links WHERE tenant_id = :t AND active").bindparams(t=hundred.scope.tenant_id)
        )
    assert usable == 70  # what a sign-in asks


def test_an_administrator_who_leaves_is_held_alone(hundred: Acme) -> None:
    with unit(hundred.scope) as session:
        admin = session.scalar(
            sa.text("SELECT id FROM resources WHERE name LIKE 'p042@%' AND tenant_id = :t").bindparams(
                t=hundred.scope.tenant_id
            )
        )
    give_role(hundred.scope, admin, "tenant_admin", hundred.scope.tenant_id)
    run = leave(hundred, 42)
    assert run.status == "held" and "administrator" in run.hold_reason and "p042" in hundred.people()
    decide(hundred, run, removals.approve)
    assert "p042" not in hundred.people()


def test_a_group_that_halves_in_a_delta_waits_for_approval(hundred: Acme) -> None:
    names = [f"p{n:03}" for n in range(20)]
    hundred.directory.put(group("team", *names))
    hundred.run()
    hundred.directory.put(group("team", *names[:8]))
    run = hundred.run()
    assert run.status == "held" and len(hundred.members("team")) == 20
    decide(hundred, run, removals.approve)
    assert hundred.members("team") == set(names[:8])


def test_rejected_removals_of_a_delta_stay_muted_and_the_next_ones_pass(hundred: Acme) -> None:
    run = leave(hundred, *range(20))
    decide(hundred, run, removals.reject)
    again = leave(hundred, 50)
    assert (again.status, again.removed) == ("done", 1)
    full = hundred.run(full=True)
    assert (full.status, full.removed) == ("done", 0) and len(hundred.people()) == 99


def test_a_listing_cut_in_the_middle_takes_nobody_away(hundred: Acme) -> None:
    def cut(page: Page) -> None:
        if page.changes and page.changes[0].key == "key-p050":
            raise Unreachable("The connection broke.")

    hundred.directory.each_page = cut
    run = hundred.run(full=True)
    assert (run.status, run.removed, held(hundred)) == ("failed", 0, 0) and len(hundred.people()) == 100
    hundred.directory.each_page = lambda _: None
    assert hundred.run(full=True).status == "done"


def test_a_page_that_comes_twice_changes_nothing_twice(hundred: Acme) -> None:
    hundred.directory.put(person("new"))
    hundred.directory.drop("key-p001")
    hundred.directory.history += hundred.directory.history[-2:]  # and again
    run = hundred.run()
    assert (run.status, run.created, run.removed) == ("done", 1, 1)
    assert hundred.events("user.created").count("user.created") == 101
    assert hundred.events("user.removed") == ["user.removed"]


def test_who_is_gone_and_back_within_one_delta_stays(hundred: Acme) -> None:
    hundred.directory.history += [Gone("key-p005"), person("p005")]
    run = hundred.run()
    assert (run.removed, run.status) == (0, "done") and "p005" in hundred.people()


def test_a_hold_outlives_restarts_and_is_done_as_far_as_it_still_holds(hundred: Acme) -> None:
    run = leave(hundred, *range(20))
    again = hundred.run()  # nothing new; the same set is judged anew
    assert (again.status, again.held_removals, hundred.row(run.id).status) == ("held", 20, "done")
    hundred.directory.put(person("p003"))
    newest = hundred.run()
    assert newest.held_removals == 19
    decide(hundred, newest, removals.approve)
    assert "p003" in hundred.people() and len(hundred.people()) == 81
