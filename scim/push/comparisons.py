"""The comparisons of targets as a queue: which are due, who holds them, and how far they have come.

Owns the rows of `target_runs`: asking for one, the schedule, claiming under a lease with a fence, progress by page,
and the end. What is compared, and what follows, is `reconcile`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from broker import ids
from broker.context import Scope, current_actor
from broker.db import db, platform_scope
from broker.errors import Conflict
from broker.models import ScimTarget, TargetRun
from broker.registry.changes import tell
from broker.registry.targets import reconcile_schedule

LEASE = 60.0
ATTEMPTS = 20
"""How often a comparison is taken up without getting further, until it has failed."""
_AT_ONCE = 50

_SCHEDULED = sa.text("""
    SELECT t.tenant_id, t.id, t.reconcile FROM scim_targets t
    WHERE t.reconcile_due_at <= now() AND t.status = 'active'
    ORDER BY t.reconcile_due_at LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
""")
_OWE = sa.text("""
    INSERT INTO target_runs (tenant_id, id, target_id, policy, requested_by)
    VALUES (:tenant, :id, :target, :policy, :actor)
    ON CONFLICT (tenant_id, target_id) WHERE status IN ('waiting', 'running') DO NOTHING
""")
_NEXT = sa.text("UPDATE scim_targets SET reconcile_due_at = :due WHERE tenant_id = :tenant AND id = :target")
_WAITING = """
    SELECT r.tenant_id, r.id, n.partner_id, n.kind, n.slug
    FROM target_runs r
    JOIN scim_targets t ON t.tenant_id = r.tenant_id AND t.id = r.target_id AND t.status = 'active'
    JOIN tenants n ON n.id = r.tenant_id AND n.status = 'active'
    WHERE r.status IN ('waiting', 'running') AND r.due_at <= now() AND (r.lease_until IS NULL OR r.lease_until < now())
"""
_IS_DUE = sa.text(f"SELECT EXISTS ({_WAITING})")
_CANDIDATE = sa.text(f"""
    {_WAITING} AND (CAST(:only AS text) IS NULL OR r.id = :only)
    ORDER BY r.due_at LIMIT 1 FOR UPDATE OF r SKIP LOCKED
""")
_CLAIM = sa.text("""
    UPDATE target_runs SET status = 'running', fence = fence + 1, attempts = attempts + 1,
        lease_until = now() + make_interval(secs => :lease), started_at = coalesce(started_at, now())
    WHERE tenant_id = :tenant AND id = :id
    RETURNING no, target_id, policy, phase, position, fence, attempts
""")
_HOLD = sa.text("""
    UPDATE target_runs SET lease_until = now() + make_interval(secs => :lease)
    WHERE tenant_id = :tenant AND id = :id AND fence = :fence AND status = 'running' RETURNING id
""")
_ADVANCE = sa.text("""
    UPDATE target_runs SET phase = :phase, position = :position, done = done + :done, total = coalesce(:total, total),
        attempts = 0, rate = (done + :done) / greatest(extract(epoch FROM now() - started_at), 0.001),
        missing = missing + :missing, changed = changed + :changed, unexpected = unexpected + :unexpected,
        owed = owed + :owed
    WHERE tenant_id = :tenant AND id = :id
""")
_END = sa.text("""
    UPDATE target_runs SET status = :status, problem = :problem, lease_until = NULL, finished_at = now()
    WHERE tenant_id = :tenant AND id = :id
    RETURNING target_id, missing, changed, unexpected, owed
""")
_WAIT = sa.text("""
    UPDATE target_runs SET lease_until = NULL, problem = :problem, due_at = now() + make_interval(secs => :wait)
    WHERE tenant_id = :tenant AND id = :id AND fence = :fence
""")


class Superseded(Exception):
    """Somebody else has taken the comparison over."""


@dataclass(slots=True)
class Comparison:
    """One claimed run."""

    scope: Scope
    id: str
    no: int
    target_id: str
    policy: str
    phase: str
    position: str | None
    fence: int
    attempt: int

    @property
    def place(self) -> dict[str, Any]:
        return {"tenant": self.scope.tenant_id, "id": self.id}


def ask(target: ScimTarget, policy: str | None = None) -> TargetRun:
    """Owe a comparison of the target, in the open unit of work. Raises Conflict while one is under way."""
    session = db.session()
    actor = current_actor()
    values = {
        "tenant": target.tenant_id,
        "id": ids.new("trn"),
        "target": target.id,
        "policy": policy or target.reconcile["policy"],
        "actor": actor.id if actor is not None else None,
    }
    if session.execute(_OWE, values).rowcount == 0:  # type: ignore[attr-defined]
        raise Conflict("A comparison of this target is under way.")
    return session.get_one(TargetRun, (target.tenant_id, values["id"]))


def schedule_comparisons() -> None:
    """Owe the comparisons whose time has come; of what was missed nothing is made up for."""
    with platform_scope() as session:
        for tenant, target, reconcile in session.execute(_SCHEDULED, {"limit": _AT_ONCE}).all():
            following = reconcile_schedule(reconcile)
            place = {"tenant": tenant, "target": target}
            if following.enabled:
                owed = {**place, "id": ids.new("trn"), "policy": reconcile["policy"], "actor": None}
                session.execute(_OWE, owed)
            due = following.after(datetime.now(UTC)) if following.enabled else None
            session.execute(_NEXT, {**place, "due": due})


def comparison_is_due() -> bool:
    """Whether any target is to be compared now."""
    with platform_scope() as session:
        return bool(session.execute(_IS_DUE).scalar())


def claim(only: str | None = None) -> Comparison | None:
    """The next comparison, or this one alone if it is due; ours until the lease ends."""
    with platform_scope() as session:
        row = session.execute(_CANDIDATE, {"only": only}).first()
        if row is None:
            return None
        claimed = session.execute(_CLAIM, {"tenant": row.tenant_id, "id": row.id, "lease": LEASE}).one()
        return Comparison(Scope(row.tenant_id, row.partner_id, row.kind, row.slug), row.id, *claimed)


def hold(run: Comparison) -> None:
    """Keep it for another lease, in the open unit of work and locked to its end. Raises Superseded."""
    held = db.session().execute(_HOLD, {**run.place, "fence": run.fence, "lease": LEASE}).scalar()
    if held is None:
        raise Superseded


def advance(
    run: Comparison, phase: str, position: str | None, done: int, total: int | None, found: dict[str, int]
) -> None:
    """It has come so far, in the transaction of the page."""
    counts = {name: found.get(name, 0) for name in ("missing", "changed", "unexpected", "owed")}
    db.session().execute(
        _ADVANCE, {**run.place, "phase": phase, "position": position, "done": done, "total": total, **counts}
    )
    run.phase, run.position, run.attempt = phase, position, 0


def end(run: Comparison, status: str, problem: str | None = None) -> None:
    """It is over, in the open unit of work."""
    row = db.session().execute(_END, {**run.place, "status": status, "problem": problem}).one()
    counts = {"missing": row.missing, "changed": row.changed, "unexpected": row.unexpected, "owed": row.owed}
    told = {"run_id": run.id, "status": status, **counts}
    tell("scim_target.reconciled", "ScimTarget", row.target_id, told)


def wait(run: Comparison, problem: str | None, seconds: float) -> None:
    """Give it back; it goes on from where it is, so many seconds from now."""
    db.session().execute(_WAIT, {**run.place, "fence": run.fence, "problem": problem, "wait": seconds})
