"""Deliveries as a queue: which are due, who holds them, and what is left of them when they are done.

Owns claiming (a lease with a fence, SKIP LOCKED), renewing, the marks that make an answer ours, and when to try
again. PostgreSQL is the queue; no transaction of this module is open while anybody waits for a target.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import orjson
import sqlalchemy as sa

from broker.context import Scope
from broker.db import arrays, db, platform_scope
from broker.registry.changes import tell

from . import followers
from .reach import FIRST, GROUPS
from .work import LEASE, Outcome, Target, Work

_FIRST_WAIT, _LONGEST_WAIT, _LONGEST_POSTPONEMENT = 2.0, 600.0, 300.0
_PATIENCE = "24 hours"
"""A delivery that has failed for so long is put in quarantine, and so is a target that did nothing else."""
_RETRY, _PROBE = 6 * 3600.0, 1800.0
"""Seconds after which a delivery, and a target, in quarantine is tried again."""
_AT_ONCE = 1_000

_DUE = sa.text("""
    SELECT t.tenant_id, t.id, n.partner_id, n.kind, n.slug
    FROM scim_targets t
    JOIN tenants n ON n.id = t.tenant_id AND n.status = 'active'
    JOIN application_access c ON c.tenant_id = t.tenant_id AND c.application_id = t.application_id
    JOIN applications a ON a.tenant_id = c.owner_tenant_id AND a.id = c.application_id AND a.enabled
    WHERE t.status IN ('active', 'quarantined') AND (t.postponed_until IS NULL OR t.postponed_until <= now())
      AND EXISTS (SELECT 1 FROM deliveries d
                  WHERE d.tenant_id = t.tenant_id AND d.target_id = t.id AND d.status = 'pending'
                    AND d.due_at <= now() AND (d.lease_until IS NULL OR d.lease_until < now()))
    ORDER BY random() LIMIT :limit
""")
# Rows are found by one list of ids, locked, and from then on named by their place: where statistics are older than what
# is owed, a planner that expects one row joins by comparing every claim with every delivery of the target.
TAKE = """
    UPDATE deliveries d SET lease_until = now() + make_interval(secs => :lease), fence = d.fence + 1
    WHERE d.tenant_id = :tenant AND d.target_id = :target AND d.ctid = ANY(ARRAY(SELECT ctid FROM due))
    RETURNING d.resource_type, d.resource_id, d.task, d.generation, d.fence, d.attempts, d.cursor, d.lane,
              d.approved
"""
_CLAIM = sa.text(f"""
    WITH due AS (
        SELECT ctid FROM deliveries
        WHERE tenant_id = :tenant AND target_id = :target AND status = 'pending'
          AND due_at <= now() AND (lease_until IS NULL OR lease_until < now())
          AND (lane < :groups OR NOT EXISTS (
              SELECT 1 FROM deliveries WHERE tenant_id = :tenant AND target_id = :target AND status = 'pending'
                AND lane < :groups AND (due_at <= now() OR lease_until >= now())))
        ORDER BY lane, due_at, resource_id LIMIT :limit FOR UPDATE SKIP LOCKED)
    {TAKE}
""")  # noqa: S608 - constant text
_LOCK = sa.text("""
    SELECT resource_type, resource_id, task, fence, generation, CAST(ctid AS text) AS place FROM deliveries
    WHERE tenant_id = :tenant AND target_id = :target AND resource_id = ANY(CAST(:ids AS text[]))
    ORDER BY resource_type, resource_id, task FOR UPDATE
""")
_RENEW = sa.text("""
    UPDATE deliveries d SET lease_until = now() + make_interval(secs => :lease)
    WHERE d.tenant_id = :tenant AND d.target_id = :target AND d.ctid = ANY(CAST(:places AS tid[]))
""")
_FINISH = sa.text("""
    WITH settled AS (
        DELETE FROM deliveries d
        WHERE d.tenant_id = :tenant AND d.target_id = :target AND d.ctid = ANY(CAST(:places AS tid[]))
        RETURNING d.task, extract(epoch FROM now() - d.owed_at)::double precision AS took)
    INSERT INTO target_convergence AS c (tenant_id, target_id, hour, bucket, settled)
    SELECT :tenant, :target, date_trunc('hour', now()), b.bucket, count(*)
    FROM (SELECT ceil(log(greatest(took * 4, 1)) / log(2.0::double precision))::smallint AS bucket
          FROM settled WHERE task = 'push') b
    GROUP BY b.bucket ORDER BY b.bucket
    ON CONFLICT (tenant_id, target_id, hour, bucket) DO UPDATE SET settled = c.settled + EXCLUDED.settled
""")
_AGAIN = sa.text("""
    UPDATE deliveries d SET lease_until = NULL, attempts = 0, problem = NULL, due_at = now()
    WHERE d.tenant_id = :tenant AND d.target_id = :target AND d.ctid = ANY(CAST(:places AS tid[]))
""")
_RELEASE = sa.text("""
    UPDATE deliveries d SET lease_until = NULL
    WHERE d.tenant_id = :tenant AND d.target_id = :target AND d.ctid = ANY(CAST(:places AS tid[]))
""")
_ONE = """
    WHERE d.tenant_id = :tenant AND d.target_id = :target AND d.resource_type = :type AND d.resource_id = :id
      AND d.task = :task AND d.fence = :fence
"""
_CURRENT = sa.text(f"""
    SELECT 1 FROM deliveries d {_ONE} AND d.generation = :generation FOR UPDATE
""")  # noqa: S608 - constant text
_ADVANCE = sa.text(f"""
    UPDATE deliveries d SET cursor = :cursor, lease_until = now() + make_interval(secs => :lease) {_ONE}
""")  # noqa: S608 - constant text
_FAIL = sa.text(f"""
    UPDATE deliveries d SET
        lease_until = NULL,
        status = CASE WHEN d.generation <> :generation THEN 'pending' ELSE 'failed' END,
        attempts = CASE WHEN d.generation <> :generation THEN 0 ELSE d.attempts + 1 END,
        failing_since = CASE WHEN d.attempts = 0 THEN now() ELSE d.failing_since END,
        due_at = CASE WHEN d.generation <> :generation THEN now() ELSE now() + make_interval(secs => :rest) END,
        problem = :problem, exchange = CAST(:exchange AS jsonb), updated_at = now()
    {_ONE}
""")  # noqa: S608 - constant text
_LATER = sa.text(f"""
    UPDATE deliveries d SET
        lease_until = NULL,
        status = CASE WHEN :counts AND d.attempts > 0 AND d.failing_since < now() - interval '{_PATIENCE}'
                      THEN 'failed' ELSE 'pending' END,
        failing_since = CASE WHEN d.attempts = 0 THEN now() ELSE d.failing_since END,
        attempts = d.attempts + CASE WHEN :counts THEN 1 ELSE 0 END,
        due_at = now() + make_interval(secs =>
            CASE WHEN :counts AND d.attempts > 0 AND d.failing_since < now() - interval '{_PATIENCE}'
                 THEN CAST(:rest AS double precision) ELSE :wait END),
        problem = :problem, exchange = CAST(:exchange AS jsonb)
    {_ONE}
""")  # noqa: S608 - constant text
# Inserted, though every row is there: a conflict is found by key, whatever the planner expects.
_REMEMBER = sa.text("""
    INSERT INTO target_resources AS t (tenant_id, target_id, resource_id, resource_type, remote_id, state, sent_digest,
                                       sent_version, sent_revision, left_out, left_at)
    SELECT :tenant, :target, n.id, k.resource_type, n.remote_id, n.state, n.digest, n.version, :revision,
           CAST(n.left_out AS jsonb), CASE WHEN n.gone THEN now() END
    FROM unnest(CAST(:ids AS text[]), CAST(:remotes AS text[]), CAST(:states AS text[]), CAST(:digests AS bytea[]),
                CAST(:versions AS bigint[]), CAST(:left_out AS text[]), CAST(:gone AS boolean[]))
         AS n(id, remote_id, state, digest, version, left_out, gone),
    LATERAL (SELECT resource_type FROM target_resources
             WHERE tenant_id = :tenant AND target_id = :target AND resource_id = n.id FOR UPDATE) k
    ON CONFLICT (tenant_id, target_id, resource_id) DO UPDATE SET
        remote_id = EXCLUDED.remote_id, state = EXCLUDED.state, sent_digest = EXCLUDED.sent_digest,
        sent_version = EXCLUDED.sent_version, sent_revision = EXCLUDED.sent_revision, left_out = EXCLUDED.left_out,
        problem = NULL, updated_at = now(),
        left_at = CASE WHEN EXCLUDED.left_at IS NOT NULL THEN coalesce(t.left_at, EXCLUDED.left_at) END
""")
_BLAME = sa.text("""
    UPDATE target_resources SET problem = :problem, updated_at = now()
    WHERE tenant_id = :tenant AND target_id = :target AND resource_id = :id
""")
_NEVER_THERE = sa.text("""
    DELETE FROM target_resources WHERE tenant_id = :tenant AND target_id = :target AND resource_id = :id
      AND remote_id IS NULL
""")
_FORGET_MEMBERS = sa.text("""
    DELETE FROM target_members WHERE tenant_id = :tenant AND target_id = :target
      AND (member_id = ANY(:ids) OR group_id = ANY(:ids))
""")
_POSTPONE = sa.text(f"""
    WITH before AS (
        SELECT status, failing_since < now() - interval '{_PATIENCE}' AS over FROM scim_targets
        WHERE tenant_id = :tenant AND id = :target AND (postponed_until IS NULL OR postponed_until <= now())
        FOR NO KEY UPDATE)
    UPDATE scim_targets t SET
        postponed_until = now() + make_interval(
            secs => GREATEST(:wait, CASE WHEN b.over THEN CAST(:probe AS double precision)
                                    ELSE LEAST(power(2, LEAST(postponements, 10)), :longest) END)),
        postponements = postponements + 1, status_reason = :reason, failing_since = coalesce(failing_since, now()),
        status = CASE WHEN b.over AND t.status = 'active' THEN 'quarantined' ELSE t.status END
    FROM before b WHERE t.tenant_id = :tenant AND t.id = :target
    RETURNING t.status <> b.status
""")  # noqa: S608 - constant text
_ANSWERS_AGAIN = sa.text("""
    WITH before AS (
        SELECT status FROM scim_targets WHERE tenant_id = :tenant AND id = :target AND postponements > 0
        FOR NO KEY UPDATE)
    UPDATE scim_targets t SET postponed_until = NULL, postponements = 0, status_reason = NULL, failing_since = NULL,
        status = CASE t.status WHEN 'quarantined' THEN 'active' ELSE t.status END
    FROM before b WHERE t.tenant_id = :tenant AND t.id = :target
    RETURNING t.status <> b.status
""")
_OWED_AGAIN = sa.text("""
    UPDATE deliveries SET status = 'pending', attempts = 0, due_at = now(), updated_at = now()
    WHERE tenant_id = :tenant AND target_id = :target AND status = 'failed'
""")
_RETRIED = sa.text("""
    UPDATE deliveries d SET status = 'pending', updated_at = now()
    FROM (SELECT tenant_id, target_id, resource_type, resource_id, task FROM deliveries
          WHERE status = 'failed' AND due_at <= now() LIMIT :limit FOR UPDATE SKIP LOCKED) f
    WHERE d.tenant_id = f.tenant_id AND d.target_id = f.target_id AND d.resource_type = f.resource_type
      AND d.resource_id = f.resource_id AND d.task = f.task
""")
_LEFT_LONG_AGO = sa.text("""
    INSERT INTO deliveries (tenant_id, target_id, resource_type, resource_id, task, lane)
    SELECT k.tenant_id, k.target_id, k.resource_type, k.resource_id, 'push', :lane
    FROM target_resources k JOIN scim_targets t ON t.tenant_id = k.tenant_id AND t.id = k.target_id
    WHERE t.deprovision = 'delete_after_days' AND k.state = 'disabled'
      AND k.left_at <= now() - make_interval(days => t.deprovision_days)
      AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.tenant_id = k.tenant_id AND d.target_id = k.target_id
                      AND d.resource_type = k.resource_type AND d.resource_id = k.resource_id AND d.task = 'push')
    LIMIT :limit ON CONFLICT DO NOTHING
""")


def due_targets(limit: int) -> list[tuple[Scope, str]]:
    """Targets with work that may be sent now, in no order: nobody is always first."""
    with platform_scope() as session:
        rows = session.execute(_DUE, {"limit": limit}).all()
    return [(Scope(tenant, partner, kind, slug), target) for tenant, target, partner, kind, slug in rows]


def is_due() -> bool:
    """Whether anything may be sent now."""
    return bool(due_targets(1))


def look_again() -> None:
    """What time alone makes due: another try for what is in quarantine, and the deletion of who left long ago."""
    with platform_scope() as session:
        session.execute(_RETRIED, {"limit": _AT_ONCE})
        session.execute(_LEFT_LONG_AGO, {"limit": _AT_ONCE, "lane": FIRST})


def claim(target: Target, limit: int) -> list[Work]:
    """Take due deliveries of the target, ours until the lease ends; groups only when no person is due or on the way."""
    place = {"tenant": target.tenant, "target": target.id, "lease": LEASE}
    rows = db.session().execute(_CLAIM, {**place, "limit": limit, "groups": GROUPS})
    return [work_of(target, row) for row in sorted(rows, key=lambda row: row.lane)]


def work_of(target: Target, row: sa.Row[Any]) -> Work:
    """What a claim returned."""
    return Work(
        target,
        row.resource_type,
        row.resource_id,
        row.task,
        row.generation,
        row.fence,
        row.attempts,
        row.cursor,
        row.approved,
        deed="expand" if row.task == "expand" else "nothing",
    )


def renew(works: Sequence[Work]) -> set[tuple[str, str, str]]:
    """Keep these works of one target for another lease, in the open unit of work; returns the keys still ours."""
    ours = _lock(works)
    _change(_RENEW, works[0].target, [place for _, place in ours.values()], lease=LEASE)
    return set(ours)


def settle(
    target: Target, outcomes: Sequence[Outcome], *, answered: bool = True, undecided: Sequence[Work] = ()
) -> None:
    """Write down what became of works of one target, in the open unit of work; those no longer ours are left.

    `answered`: what is done was done by the target, which is in order then. `undecided`: claimed works of which nothing
    was read yet, so that they miss nothing of what is written here.
    """
    ours = _lock([*(outcome.work for outcome in outcomes), *undecided])
    outcomes = [outcome for outcome in outcomes if outcome.work.key in ours]
    standing = [outcome for outcome in outcomes if outcome.state is not None]
    _remember(target, standing)
    # What changed meanwhile stays owed.
    over: list[str] = []
    again: list[str] = []
    for work in (outcome.work for outcome in outcomes if outcome.kind == "done"):
        generation, place = ours[work.key]
        (over if generation == work.generation else again).append(place)
    _change(_FINISH, target, over)
    _change(_AGAIN, target, again)
    back = [outcome.work for outcome in outcomes if outcome.kind == "back"]
    _change(_RELEASE, target, [ours[work.key][1] for work in back])
    for outcome in outcomes:
        if outcome.kind in ("failed", "later"):
            _try_again(outcome)
    still = [work for work in undecided if work.key in ours]
    followers.owe_those_of_the_arrived(target, [outcome.work for outcome in standing if _has_arrived(outcome)], still)
    followers.owe_groups_of_the_disabled(target, [each.work for each in standing if each.state == "disabled"])
    troubles = [outcome for outcome in outcomes if outcome.pause is not None]
    if answered and target.postponements and any(outcome.kind in ("done", "failed") for outcome in outcomes):
        _answers_again(target)
    if troubles:
        worst = max(troubles, key=lambda outcome: outcome.pause or 0.0)
        postpone(target.scope, target.id, worst.problem or "", worst.pause or 0.0)


def still_current(work: Work) -> bool:
    """Whether an expansion is ours and of the present reach; keeps it so until the unit of work ends."""
    return db.session().execute(_CURRENT, {**_place(work), "generation": work.generation}).first() is not None


def advance(work: Work, cursor: str) -> None:
    """An expansion has come so far."""
    db.session().execute(_ADVANCE, {**_place(work), "cursor": cursor, "lease": LEASE})


def postpone(scope: Scope, target_id: str, reason: str, wait: float) -> None:
    """Send nothing to the target for a while: so many seconds at least, longer the more often in a row.

    After a day of nothing else it is in quarantine, and one delivery is tried now and then.
    """
    quarantined = db.session().execute(
        _POSTPONE,
        {
            "tenant": scope.tenant_id,
            "target": target_id,
            "wait": wait,
            "longest": _LONGEST_POSTPONEMENT,
            "probe": _PROBE,
            "reason": reason,
        },
    )
    if quarantined.scalar():
        tell("scim_target.quarantined", "ScimTarget", target_id, {"reason": reason})


def _answers_again(target: Target) -> None:
    place = {"tenant": target.tenant, "target": target.id}
    if db.session().execute(_ANSWERS_AGAIN, place).scalar():
        db.session().execute(_OWED_AGAIN, place)
        tell("scim_target.recovered", "ScimTarget", target.id, ["status"])


def _lock(works: Sequence[Work]) -> dict[tuple[str, str, str], tuple[int, str]]:
    """Those of the works that are still ours, locked in one order: the generation and the place of each."""
    target, fences = works[0].target, {work.key: work.fence for work in works}
    values = {"tenant": target.tenant, "target": target.id, "ids": [work.resource_id for work in works]}
    rows = db.session().execute(_LOCK, arrays(values))
    return {
        key: (row.generation, row.place)
        for row in rows
        if fences.get(key := (row.resource_type, row.resource_id, row.task)) == row.fence
    }


def _change(statement: sa.TextClause, target: Target, places: Sequence[str], **values: Any) -> None:
    """The statement over rows that are locked."""
    if places:
        given = {"tenant": target.tenant, "target": target.id, "places": list(places), **values}
        db.session().execute(statement, arrays(given))


def _place(work: Work) -> dict[str, Any]:
    return {
        "tenant": work.target.tenant,
        "target": work.target.id,
        "type": work.resource_type,
        "id": work.resource_id,
        "task": work.task,
        "fence": work.fence,
    }


def _remember(target: Target, changed: Sequence[Outcome]) -> None:
    if not changed:
        return
    session = db.session()
    changed = sorted(changed, key=lambda outcome: outcome.work.resource_id)
    place = {"tenant": target.tenant, "target": target.id}
    # Whoever is gone there, or there under another id, is in none of the groups there that we wrote.
    replaced = [
        outcome.work.resource_id
        for outcome in changed
        if outcome.state == "removed"
        or (outcome.work.remote_id is not None and outcome.remote_id != outcome.work.remote_id)
    ]
    if replaced:
        session.execute(_FORGET_MEMBERS, {**place, "ids": replaced})
    session.execute(
        _REMEMBER,
        arrays(
            {
                **place,
                "ids": [outcome.work.resource_id for outcome in changed],
                "remotes": [None if outcome.state == "removed" else outcome.remote_id for outcome in changed],
                "states": [outcome.state for outcome in changed],
                "digests": [outcome.digest for outcome in changed],
                "versions": [outcome.work.version for outcome in changed],
                "left_out": [orjson.dumps(outcome.work.left_out).decode() for outcome in changed],
                "revision": target.revision,
                "gone": [outcome.state == "disabled" and outcome.work.gone for outcome in changed],
            }
        ),
    )


def _try_again(outcome: Outcome) -> None:
    work = outcome.work
    session = db.session()
    exchange = None if outcome.exchange is None else orjson.dumps(outcome.exchange).decode()
    values = {**_place(work), "problem": outcome.problem, "exchange": exchange, "rest": _spread(_RETRY)}
    if outcome.kind == "failed":
        session.execute(_FAIL, {**values, "generation": work.generation})
    else:
        wait = outcome.wait if outcome.wait is not None else backoff(work.attempts)
        session.execute(_LATER, {**values, "wait": wait, "counts": outcome.counts})
    place = {"tenant": work.target.tenant, "target": work.target.id, "id": work.resource_id}
    if outcome.never_there:
        session.execute(_NEVER_THERE, place)
    else:
        session.execute(_BLAME, {**place, "problem": outcome.problem})


def _has_arrived(outcome: Outcome) -> bool:
    return outcome.remote_id is not None and outcome.remote_id != outcome.work.remote_id


def backoff(attempts: int) -> float:
    """Seconds to the next try: doubling, and spread so that what failed together does not return together."""
    return _spread(min(_FIRST_WAIT * 2.0 ** min(attempts, 20), _LONGEST_WAIT))


def _spread(seconds: float) -> float:
    return seconds * (0.75 + secrets.randbelow(500) / 1000)
