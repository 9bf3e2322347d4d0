"""Whether tenants wait for one another's upstreams: two workers, a large OpenLDAP and one that the small tenants share.

First the storm: every schedule is due at once, the first time ever and then after hours without workers. Then ten small
tenants, each with a change to be found every few seconds, alone and beside another tenant's large first pass. A start
delay is what the runs' rows say: from when a run was due to when a worker began it. What is due is found by the clock,
which looks every two seconds: that is the limit, about one second at the median. Schedules shorter than a minute there
are none, so that due moments are brought on by hand.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import ldap3
import orjson
import sqlalchemy as sa

from broker.context import acting, system
from broker.db import platform_scope, unit
from broker.models import IdentityProvider, SyncRun, User
from tests.upstreams.slapd import OpenLdap

from . import ground, upstream
from .upstream import Follower

LARGE, SCHEDULES = 200_000, 200
SMALL, PEOPLE_EACH = 10, 10
EVERY, ALONE = 7.0, 60.0
"""Seconds between two changes of a small tenant, and how long the small ones are watched alone."""
WORKERS = (("worker", "--lane", "pull"), ("worker", "--lane", "pull"), ("clock",))
SCHEDULE: dict[str, object] = {"enabled": True, "schedule": "1h", "full_every": "1d"}
SPAN = 10
"""Seconds within which due moments count as together."""

_BRING_ON = sa.text("UPDATE identity_providers SET due_at = now() WHERE id = ANY(:ids) RETURNING now()")
_MISS = sa.text("""
    UPDATE identity_providers SET due_at = now() - random() * interval '3 hours' WHERE id = ANY(:ids) RETURNING now()
""")


def main(arguments: list[str]) -> None:
    numbers = [int(word) for word in arguments if word.isdigit()]
    people = numbers[0] if numbers else LARGE
    schedules = numbers[1] if len(numbers) > 1 else SCHEDULES
    with (
        acting(system("bench")),
        upstream.directory(people) as large,
        upstream.directory(0) as directory,
        ground.servers() as (_, folder),
    ):
        units = upstream.entries(directory, schedules, PEOPLE_EACH)
        everybody = [upstream.follower(f"t{number}", directory, base, SCHEDULE) for number, base in enumerate(units)]
        storms = {
            "the first time (full passes)": _storm(folder, everybody, _BRING_ON, "full"),
            "after three hours without workers (deltas)": _storm(folder, everybody, _MISS, "delta"),
        }
        for other in everybody[SMALL:]:
            other.schedule({"enabled": False})
        changes = Changes(directory, everybody[:SMALL], units[:SMALL])
        delays = _beside_a_large_one(folder, upstream.follower("large", large, large.people), changes, people)
    _tell(storms, delays, schedules)


@dataclass(frozen=True)
class Storm:
    runs: Sequence[SyncRun]
    following: Sequence[datetime]
    """When each provider is due next."""

    def row(self) -> Iterator[str]:
        began = [run.started_at for run in self.runs if run.started_at]
        ended = [run.finished_at for run in self.runs if run.finished_at]
        steps = sorted([(moment, 1) for moment in began] + [(moment, -1) for moment in ended])
        together = Counter(int(moment.timestamp()) // SPAN for moment in self.following)
        yield f"{max(itertools.accumulate(step for _, step in steps))}"
        yield f"{(max(ended) - min(began)).total_seconds():.1f}"
        yield f"{(max(self.following) - min(self.following)).total_seconds():.0f}"
        yield f"{max(together.values())}"


def _storm(folder: Path, followers: Sequence[Follower], due: sa.TextClause, kind: str) -> Storm:
    """Nobody works while all of them become due; then workers come, until everybody has been read once."""
    ids = [follower.provider_id for follower in followers]
    since = _due(due, ids)
    with upstream.processes(folder, *WORKERS):
        while len(runs := _runs(ids, since)) < len(ids) or any(run.status == "running" for run in runs):
            time.sleep(0.5)
    for run in runs:
        if (run.kind, run.status, run.skipped) != (kind, "done", 0) or (kind == "full" and run.read != PEOPLE_EACH + 1):
            raise AssertionError(f"{run.kind}, {run.status}, {run.read} read: {run.problem or run.hold_reason}")
    if sorted(run.provider_id for run in runs) != sorted(ids):
        raise AssertionError("somebody was read twice")
    with platform_scope() as session:
        following = session.scalars(sa.select(IdentityProvider.due_at).where(IdentityProvider.id.in_(ids)))
        return Storm(runs, [moment for moment in following if moment])


@dataclass
class Changes:
    """What small tenants find: now and then one person of each has another title, and its time has come."""

    directory: OpenLdap
    followers: Sequence[Follower]
    units: Sequence[str]
    titles: dict[int, str] = field(default_factory=dict)

    def during(self, wanted: Callable[[], bool]) -> list[SyncRun]:
        """One after the other as long as is wanted; returns the runs that were due meanwhile and have begun."""
        connection = self.directory.admin()
        began: datetime | None = None
        while wanted():
            for at, follower in enumerate(self.followers):
                self.titles[at] = f"At {time.monotonic()}"
                replaced = {"title": [(ldap3.MODIFY_REPLACE, [self.titles[at]])]}
                connection.modify(f"uid=u{at:03d}p00,{self.units[at]}", replaced)
                moment = _due(_BRING_ON, [follower.provider_id])
                began = began or moment
                time.sleep(EVERY / len(self.followers))
        connection.unbind()
        assert began is not None
        return _runs([follower.provider_id for follower in self.followers], began)

    def are_found(self) -> bool:
        return all(self._title(follower) == self.titles[at] for at, follower in enumerate(self.followers))

    def _title(self, follower: Follower) -> object:
        with unit(follower.scope) as session:
            document = session.scalar(sa.select(User.document).where(User.name_key.like("u___p00@%")))
            return orjson.loads(document or b"{}").get("title")


def _beside_a_large_one(
    folder: Path, large: Follower, changes: Changes, people: int
) -> dict[str, tuple[list[float], str]]:
    """Start delays of the small tenants' runs by what went on beside them, and what that came to."""
    with upstream.processes(folder, *WORKERS):
        alone = time.monotonic() + ALONE
        idle = changes.during(lambda: time.monotonic() < alone)
        run_id = large.ask(full=True)
        busy = changes.during(lambda: large.run(run_id).status == "running")
        run = large.finished(run_id)
        if (run.kind, run.created) != ("full", people + 1):
            raise AssertionError(f"the large pass created {run.created} of {people + 1}")
        deadline = time.monotonic() + 60
        while not changes.are_found():
            if time.monotonic() > deadline:
                raise AssertionError("a change was never found")
            time.sleep(0.5)
    large_one = f"{people:,} people in {upstream.seconds(run):.0f} s"
    return {"nothing": (_delays(idle), ""), "a large first pass": (_delays(busy), large_one)}


def _delays(runs: Sequence[SyncRun]) -> list[float]:
    return [(run.started_at - run.due_at).total_seconds() for run in runs if run.started_at]


def _due(statement: sa.TextClause, ids: Sequence[str]) -> datetime:
    """Make them due; returns the database's moment."""
    with platform_scope() as session:
        moment: datetime = session.execute(statement, {"ids": ids}).scalars().all()[0]
        return moment


def _runs(ids: Sequence[str], since: datetime) -> Sequence[SyncRun]:
    """Of these providers, those that have begun since then."""
    begun = sa.select(SyncRun).where(SyncRun.provider_id.in_(ids), SyncRun.started_at >= since).order_by(SyncRun.no)
    with platform_scope() as session:
        found = session.scalars(begun).all()
        session.expunge_all()
        return found


def _tell(storms: dict[str, Storm], delays: dict[str, tuple[list[float], str]], schedules: int) -> None:
    ground.table(
        f"{schedules:,} schedules due at once, two workers",
        ("", "at once at most", "all done in, s", "next due spread over, s", f"due together in {SPAN} s"),
        [(name, *storm.row()) for name, storm in storms.items()],
    )
    ground.table(
        f"Start delay of {SMALL} small tenants' deltas, s (aim: never more than 60)",
        ("beside", "runs", "p50", "worst", ""),
        [
            (name, f"{len(found)}", f"{ground.median(found):.2f}", f"{max(found):.2f}", words)
            for name, (found, words) in delays.items()
        ],
    )
    ground.console.print(f"Load of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
