"""Reports after their managers: who is sent once his manager has an id at the target is sent once.

Owns which of the works a run has claimed wait for which others, and hands them out when what they waited for is over,
however it ended. One that waits is a claim like any other, and nothing is decided of it yet: it is renewed by the run,
and what it is sent is read when its turn has come. Managers of managers are claimed with those who need them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import sqlalchemy as sa

from broker.db import arrays, db

from . import outbox
from .work import LEASE, Target, Work

# From each of the people upwards, as long as somebody is not there; nobody is asked for twice.
_MISSING = sa.text("""
    WITH RECURSIVE missing(id, manager) AS (
        SELECT r.id, r.manager_id FROM unnest(CAST(:ids AS text[])) AS n(id)
        JOIN resources r ON r.tenant_id = :tenant AND r.id = n.id
        WHERE r.manager_id <> r.id AND r.active AND r.removed_at IS NULL
          AND NOT EXISTS (SELECT 1 FROM target_resources k WHERE k.tenant_id = :tenant AND k.target_id = :target
                          AND k.resource_id = r.manager_id AND k.remote_id IS NOT NULL)
        UNION
        SELECT r.id, r.manager_id FROM missing m JOIN resources r ON r.tenant_id = :tenant AND r.id = m.manager
        WHERE r.manager_id <> r.id AND r.active AND r.removed_at IS NULL
          AND NOT EXISTS (SELECT 1 FROM target_resources k WHERE k.tenant_id = :tenant AND k.target_id = :target
                          AND k.resource_id = r.manager_id AND k.remote_id IS NOT NULL))
    SELECT id, manager FROM missing
""")
_CLAIM_PEOPLE = sa.text(f"""
    WITH due AS (
        SELECT ctid FROM deliveries
        WHERE tenant_id = :tenant AND target_id = :target AND resource_type = 'User' AND task = 'push'
          AND resource_id = ANY(CAST(:ids AS text[])) AND status = 'pending'
          AND due_at <= now() AND (lease_until IS NULL OR lease_until < now())
        FOR UPDATE SKIP LOCKED)
    {outbox.TAKE}
""")  # noqa: S608 - constant text


class Order:
    """What a run holds back, by the work it waits for."""

    def __init__(self) -> None:
        self._behind: dict[tuple[str, str], list[Work]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._behind.values()))

    def works(self) -> Iterable[Work]:
        return (work for waiting in self._behind.values() for work in waiting)

    def hold_back(self, waiting: Mapping[str, list[Work]]) -> None:
        """What `sorted_out` said, once it is committed."""
        for manager, works in waiting.items():
            self._behind.setdefault((works[0].target.id, manager), []).extend(works)

    def behind(self, works: Iterable[Work]) -> list[Work]:
        """Those that wait for one of these."""
        return [one for work in works for one in self._behind.get(_place(work), ())]

    def released(self, works: Iterable[Work]) -> list[Work]:
        """The same, whose wait is over."""
        return [one for work in works for one in self._behind.pop(_place(work), ())]


def sorted_out(
    target: Target, works: Sequence[Work], in_hand: Collection[str]
) -> tuple[list[Work], dict[str, list[Work]]]:
    """The works that may go at once, and by their managers' ids those that wait; in the unit of work that claimed them.

    `in_hand`: people of this target whom the run claimed before and is not done with. Managers who are owed and not at
    the target are claimed too. Nobody waits for one whom somebody else has in hand, who cannot be had, or who waits for
    him in the end.
    """
    people = [work.resource_id for work in works if work.resource_type == "User" and work.task == "push"]
    if not people:
        return list(works), {}
    values = {"tenant": target.tenant, "target": target.id, "ids": people}
    managers: dict[str, str] = {id: manager for id, manager in db.session().execute(_MISSING, arrays(values))}
    unclaimed = sorted(set(managers.values()).difference(people, in_hand))
    works = [*works, *_claimed(target, unclaimed)] if unclaimed else list(works)
    claimed = {work.resource_id for work in works if work.resource_type == "User" and work.task == "push"}
    had = claimed.union(in_hand)
    managers = _without_rings({id: manager for id, manager in managers.items() if id in claimed and manager in had})
    waiting: dict[str, list[Work]] = {}
    ready = []
    for work in works:
        manager = managers.get(work.resource_id) if work.resource_type == "User" else None
        if manager is None:
            ready.append(work)
        else:
            waiting.setdefault(manager, []).append(work)
    return ready, waiting


def _claimed(target: Target, ids: Sequence[str]) -> list[Work]:
    """Those of these people who are due and nobody has in hand, as `outbox.claim` takes them."""
    values = {"tenant": target.tenant, "target": target.id, "lease": LEASE, "ids": list(ids)}
    return [outbox.work_of(target, row) for row in db.session().execute(_CLAIM_PEOPLE, arrays(values))]


def _without_rings(managers: dict[str, str]) -> dict[str, str]:
    """Where people manage each other in a ring, one of them waits for nobody."""
    clear: set[str] = set()
    for start in list(managers):
        path: dict[str, None] = {}
        one = start
        while one in managers and one not in clear and one not in path:
            path[one] = None
            one = managers[one]
        if one in path:
            del managers[one]
        clear.update(path)
    return managers


def _place(work: Work) -> tuple[str, str]:
    return work.target.id, work.resource_id
