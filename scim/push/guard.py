"""The removal guard of a target: how many people and groups may be taken away there before somebody is asked.

Owns the count and the holding; the thresholds are `broker.guard`'s. Everything that waits to be taken away is judged
together, before any of it is sent: a mass removal is held as a whole. Adding and updating never wait. What is let
pass is written down before it is sent, with the target's row locked, so that two workers never both use the last of
the allowance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from broker import events
from broker import guard as allowance
from broker.db import db
from broker.models import Delivery, ScimTarget, TargetRemoval, TargetResource

from .reach import losing, reached
from .work import Target, Work

_DAY = "24 hours"

_DONE = sa.text(f"""
    SELECT count(*) FILTER (WHERE NOT approved) AS done,
           coalesce(array_agg(resource_id) FILTER (WHERE resource_id = ANY(:ids)), '{{}}') AS passed
    FROM target_removals
    WHERE tenant_id = :tenant AND target_id = :target AND at > now() - interval '{_DAY}'
""")  # noqa: S608 - constant text
_LET_PASS = sa.text("""
    INSERT INTO target_removals (tenant_id, target_id, resource_id, approved)
    SELECT :tenant, :target, u.id, u.approved
    FROM unnest(CAST(:ids AS text[]), CAST(:approved AS boolean[])) AS u(id, approved)
""")
_OLD = sa.text(f"""
    DELETE FROM target_removals WHERE tenant_id = :tenant AND target_id = :target AND at < now() - interval '{_DAY}'
""")  # noqa: S608 - constant text
_HOLD = sa.text("""
    UPDATE deliveries SET status = 'held', lease_until = NULL, problem = :reason, updated_at = now()
    WHERE tenant_id = :tenant AND target_id = :target AND task = 'push' AND resource_id = ANY(:ids)
      AND status = 'pending' AND (lease_until IS NULL OR lease_until < now() OR resource_id = ANY(:ours))
""")


def let_pass(target: Target, works: Sequence[Work]) -> list[Work]:
    """Those of these removals that may be sent now; the rest is held, in the open unit of work."""
    session = db.session()
    # Later claims of removals wait here until this verdict is committed.
    session.execute(sa.select(ScimTarget.id).where(ScimTarget.id == target.id).with_for_update())
    place = {"tenant": target.tenant, "target": target.id}
    ids = [work.resource_id for work in works]
    done, passed = session.execute(_DONE, {**place, "ids": ids}).one()
    approved = {work.resource_id for work in works if work.approved}
    asking = [work for work in works if work.resource_id not in approved and work.resource_id not in passed]
    held: set[str] = set()
    if asking:
        held = _judge(target, asking, done)
    passing = [work for work in works if work.resource_id not in held]
    new = [work.resource_id for work in passing if work.resource_id not in passed]
    if new:
        session.execute(_OLD, place)
        session.execute(_LET_PASS, {**place, "ids": new, "approved": [id in approved for id in new]})
    return passing


def _judge(target: Target, asking: Sequence[Work], done: int) -> set[str]:
    """The resources to hold among all that wait to be taken away; empty when the allowance covers them."""
    waiting = _waiting(target)
    losing = Counter(kind for _, kind in waiting)
    present, anybody = _standing(target)
    if not anybody and present.total() > 1:
        complaint: str | None = "Nobody is in the target's reach any more."
    else:
        complaint = allowance.of(target.scope, target.removal_guard).complaint(losing, present, done)
    if complaint is None:
        return set()
    session = db.session()
    first = not session.scalar(sa.select(sa.exists().where(Delivery.target_id == target.id, Delivery.status == "held")))
    ours = [work.resource_id for work in asking]
    ids = sorted({id for id, _ in waiting}.union(ours))
    session.execute(
        _HOLD, {"tenant": target.tenant, "target": target.id, "ids": ids, "ours": ours, "reason": complaint}
    )
    if first:
        changes = events.Changes()
        changes.add("scim_target.removals_held", "ScimTarget", target.id, {"removals": len(ids), "reason": complaint})
        events.record(changes)
    return set(ours)


def _waiting(target: Target) -> list[tuple[str, str]]:
    """Everything owed or held that would be taken away, but for what was approved or let pass already: (id, kind)."""
    here = reached(target.tenant, target).cte("here")
    there = TargetResource
    passed = sa.exists(
        sa.select(TargetRemoval.no).where(
            TargetRemoval.tenant_id == target.tenant,
            TargetRemoval.target_id == target.id,
            TargetRemoval.resource_id == Delivery.resource_id,
            TargetRemoval.at > sa.func.now() - sa.cast(_DAY, pg.INTERVAL),
        )
    )
    statement = (
        sa.select(Delivery.resource_id, sa.func.lower(Delivery.resource_type))
        .join(
            there,
            (there.tenant_id == target.tenant)
            & (there.target_id == target.id)
            & (there.resource_id == Delivery.resource_id),
        )
        .outerjoin(here, here.c.id == Delivery.resource_id)
        .where(
            Delivery.tenant_id == target.tenant,
            Delivery.target_id == target.id,
            Delivery.task == "push",
            Delivery.status.in_(("pending", "held")),
            losing(target, here, there),
            sa.not_(passed),
            sa.not_(Delivery.approved),
        )
    )
    return [(id, kind) for id, kind in db.session().execute(statement)]


def _standing(target: Target) -> tuple[Counter[str], bool]:
    """How many of each kind are present at the target, and whether anybody is in its reach."""
    session = db.session()
    present = session.execute(
        sa.select(sa.func.lower(TargetResource.resource_type), sa.func.count())
        .where(
            TargetResource.tenant_id == target.tenant,
            TargetResource.target_id == target.id,
            TargetResource.state == "present",
        )
        .group_by(TargetResource.resource_type)
    )
    counted: Counter[str] = Counter({kind: count for kind, count in present})
    return counted, bool(session.scalar(sa.select(sa.exists(reached(target.tenant, target)))))
