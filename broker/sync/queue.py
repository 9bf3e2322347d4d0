"""Which upstreams are to be read now, and in which order: the runs somebody asked for, those that died, and schedules.

PostgreSQL is the queue. A run that is `running` and under nobody's lease is owed, whoever began it; a provider whose
time has come gets one run, however often its time came meanwhile. Claiming takes the provider's lease. Tenants with the
fewest runs under way come first and deltas before full passes, of which a tenant has one at a time, so that nobody
waits for another tenant's first import.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from broker import ids, removals, schedule, settings
from broker.context import PLATFORM, Scope, current_actor, system
from broker.db import db, platform_scope
from broker.errors import Conflict
from broker.models import IdentityProvider, SyncRun

from .leases import LEASE, Lease
from .run import Order

ATTEMPTS = 20
"""How often a run is taken up without getting further than before, until it is given up."""

_WAITING = """
    SELECT p.tenant_id, p.id AS provider_id, n.partner_id, n.kind AS tenant_kind, n.slug, p.sync,
           r.id AS run_id, r.attempts, coalesce(r.due_at, p.due_at) AS due_at,
           coalesce(r.kind = 'full' OR r.dry_run, false) OR r.cursor IS NULL
               AND (p.feed_cursor IS NULL OR p.full_due_at IS NULL OR p.full_due_at <= now()) AS full
    FROM identity_providers p
    JOIN tenants n ON n.id = p.tenant_id AND n.status = 'active'
    LEFT JOIN LATERAL (
        SELECT id, attempts, due_at, kind, cursor, dry_run FROM sync_runs
        WHERE tenant_id = p.tenant_id AND provider_id = p.id AND status = 'running' AND source = 'upstream'
        ORDER BY no LIMIT 1) r ON true
    WHERE p.enabled AND (p.lease_until IS NULL OR p.lease_until < now())
      AND (r.id IS NOT NULL OR (p.due_at <= now() AND (p.sync ->> 'enabled')::boolean))
"""
_DUE = sa.text(f"SELECT EXISTS ({_WAITING})")
_BACKLOG = sa.text(
    f"SELECT count(*), coalesce(extract(epoch FROM now() - min(w.due_at)), 0) FROM ({_WAITING}) w"  # noqa: S608
)
_CANDIDATES = sa.text(
    f"SELECT DISTINCT ON (w.tenant_id, w.full) w.*, now() AS now FROM ({_WAITING}) w "  # noqa: S608
    "WHERE NOT w.provider_id = ANY(:besides) ORDER BY w.tenant_id, w.full, w.due_at"
)
"""The first of each tenant and kind: a claim takes one, and no tenant's crowd hides another's."""
_BUSY = sa.text("""
    SELECT p.tenant_id, EXISTS (
        SELECT 1 FROM sync_runs r WHERE r.tenant_id = p.tenant_id AND r.provider_id = p.id AND r.status = 'running'
          AND r.source = 'upstream' AND r.kind = 'full') AS full
    FROM identity_providers p WHERE p.lease_until >= now()
""")
_ONE_AT_A_TIME = sa.text("SELECT pg_advisory_xact_lock(hashtextextended('scaikey:sync', 0))")
_LEASE = sa.text("""
    UPDATE identity_providers SET lease_fence = lease_fence + 1, lease_until = now() + :lease, due_at = :due
    WHERE tenant_id = :tenant AND id = (
        SELECT id FROM identity_providers WHERE tenant_id = :tenant AND id = :via
          AND (lease_until IS NULL OR lease_until < now()) FOR NO KEY UPDATE SKIP LOCKED)
    RETURNING lease_fence
""")
_ATTEMPT = sa.text("""
    UPDATE sync_runs SET attempts = attempts + 1, kind = CASE WHEN :full THEN 'full' ELSE kind END
    WHERE tenant_id = :tenant AND id = :run
""")


@dataclass(frozen=True, slots=True)
class Claim:
    """A run to be carried out, its provider's lease ours. `attempt`: which one without a page between."""

    lease: Lease
    order: Order
    full: bool
    attempt: int


def is_due() -> bool:
    """Whether any upstream is to be read now."""
    with platform_scope() as session:
        return bool(session.execute(_DUE).scalar())


def backlog() -> tuple[int, float]:
    """How many wait, and for how many seconds the first of them."""
    with platform_scope() as session:
        depth, age = session.execute(_BACKLOG).one()
        return int(depth), float(age)


def claim(*, full_too: bool = True, besides: Collection[str] = ()) -> Claim | None:
    """The next run, within the limits of the platform and of each tenant; None when there is none for us.

    `full_too`: whether a full pass may be given, which takes long. `besides`: providers that are not given, because
    this process has not come back from them yet.
    """
    with platform_scope() as session:
        session.execute(_ONE_AT_A_TIME)
        busy = session.execute(_BUSY).all()
        limits = settings.all_of(PLATFORM)
        at_once, each = (limits[name].value for name in ("sync_runs_at_once", "sync_runs_per_tenant"))
        if len(busy) >= at_once:
            return None
        under_way = Counter(row.tenant_id for row in busy)
        reading_all = {row.tenant_id for row in busy if row.full}
        full_too = full_too and 2 * sum(row.full for row in busy) < at_once
        waiting = session.execute(_CANDIDATES, {"besides": list(besides)}).all()
        for row in sorted(waiting, key=lambda row: (under_way[row.tenant_id], row.full, row.due_at)):
            if (row.full and (not full_too or row.tenant_id in reading_all)) or under_way[row.tenant_id] >= each:
                continue
            if (claimed := _claimed(Scope(row.tenant_id, row.partner_id, row.tenant_kind, row.slug), row)) is not None:
                return claimed
    return None


def _claimed(scope: Scope, row: Any) -> Claim | None:
    session = db.session()
    named = {"tenant": row.tenant_id, "via": row.provider_id}
    following = schedule.parse(row.sync)
    due = following.after(row.now) if following.enabled else None
    fence = session.execute(_LEASE, {**named, "lease": LEASE, "due": due}).scalar()
    if fence is None:
        return None
    run_id = row.run_id
    if run_id is None:
        run_id = _owe(row.tenant_id, row.provider_id, system("clock").id, due_at=row.due_at).id
    session.execute(_ATTEMPT, {"tenant": row.tenant_id, "run": run_id, "full": row.full})
    lease = Lease(scope, row.provider_id, fence)
    return Claim(lease, Order(live=True, run_id=run_id, may_be_full=row.full), row.full, (row.attempts or 0) + 1)


def ask(via: IdentityProvider, *, full: bool = False, dry_run: bool = False) -> SyncRun:
    """Owe a run of the provider, in the open unit of work; the same one, if one waits already.

    Raises Conflict while a run is under way.
    """
    session = db.session()
    waiting = session.scalars(
        sa.select(SyncRun).where(
            SyncRun.provider_id == via.id, SyncRun.source == "upstream", SyncRun.status == "running"
        )
    ).all()
    for run in waiting:
        if run.started_at is None and run.dry_run == dry_run:
            if full:
                run.kind = "full"
            return run
    if any(run.started_at is not None for run in waiting):
        raise Conflict("A run of this provider is under way")
    return _owe(via.tenant_id, via.id, current_actor().id, full=full, dry_run=dry_run)


def cancel(run: SyncRun) -> None:
    """Let a live upstream's run end before its next page; one that nobody works on ends at once. Raises Conflict."""
    if run.status != "running" or run.source != "upstream":
        raise Conflict("Only a run of a live upstream that is under way can be cancelled")
    run.cancelled_by = current_actor().id
    session = db.session()
    via = session.get_one(IdentityProvider, (run.tenant_id, run.provider_id))
    if run.started_at is None or session.scalar(
        sa.select(sa.func.coalesce(via.lease_until, sa.func.now()) <= sa.func.now())
    ):
        removals.fail(via, run, f"Cancelled by {run.cancelled_by}.")


def give_up(claimed: Claim, problem: str) -> None:
    """End a run that cannot come to its end; its provider waits for its next time. In an open unit of work."""
    lease = claimed.lease
    via = removals.quietly(lease.extend())
    run = db.session().get_one(SyncRun, (lease.scope.tenant_id, claimed.order.run_id))
    via.failures += 1
    removals.fail(via, run, problem)


def _owe(
    tenant: str,
    via: str,
    requested_by: str,
    *,
    full: bool = False,
    dry_run: bool = False,
    due_at: Any = None,
) -> SyncRun:
    run = SyncRun(
        tenant_id=tenant,
        id=ids.new("run"),
        provider_id=via,
        source="upstream",
        kind="full" if full else "delta",
        dry_run=dry_run,
        requested_by=requested_by,
        due_at=due_at if due_at is not None else sa.func.now(),
        started_at=sa.null(),
    )
    session = db.session()
    session.add(run)
    session.flush()
    return run
