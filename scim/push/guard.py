"""The removal guard of a target: how many people and groups may be taken away there before somebody is asked.

Owns the count and the holding; the thresholds are `broker.guard`'s. Everything that waits to be taken away is judged
together, before any of it is sent: a mass removal is held as a whole. Adding and updating never wait. What is let
pass is written down before it is sent, with the target's row locked, so that two workers never both use the last of
the allowance. It is let pass for one leaving, and for no more than was to be done: who came back, and whoever is to be
deleted now where he was to be disabled then, is judged again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from broker import events
from broker import guard as allowance
from broker.db import arrays, db
from broker.models import Delivery, ScimTarget, TargetRemoval, TargetResource

from .reach import losing, reached
from .work import Target, Work

_DAY = "24 hours"

_DONE = sa.text(f"""
    SELECT count(*) FROM target_removals
    WHERE tenant_id = :tenant AND target_id = :target AND at > now() - interval '{_DAY}' AND NOT approved
""")  # noqa: S608 - constant text
_PASSED = sa.text(f"""
    SELECT resource_id, covers, at > now() - interval '{_DAY}' AS lately FROM target_removals
    WHERE tenant_id = :tenant AND target_id = :target AND resource_id = ANY(:ids) AND covers <> 'nothing'
""")  # noqa: S608 - constant text
_LET_PASS = sa.text("""
    INSERT INTO target_removals (tenant_id, target_id, resource_id, approved, covers)
    SELECT :tenant, :target, u.id, u.approved, u.covers
    FROM unnest(CAST(:ids AS text[]), CAST(:approved AS boolean[]), CAST(:covers AS text[]))
         AS u(id, approved, covers)
""")
_OLD = sa.text(f"""
    DELETE FROM target_removals WHERE no IN (
        SELECT r.no FROM target_removals r
        WHERE r.tenant_id = :tenant AND r.target_id = :target AND r.at < now() - interval '{_DAY}'
          AND NOT (:later AND r.covers = 'delete' AND EXISTS (
              SELECT 1 FROM target_resources k WHERE k.tenant_id = r.tenant_id AND k.target_id = r.target_id
                AND k.resource_id = r.resource_id AND k.state = 'disabled'))
        FOR UPDATE SKIP LOCKED)
""")  # noqa: S608 - constant text
_FORGET = sa.text("""
    UPDATE target_removals SET covers = 'nothing'
    WHERE tenant_id = :tenant AND target_id = :target AND resource_id = ANY(CAST(:ids AS text[]))
      AND covers <> 'nothing'
""")
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
    done = session.scalar(_DONE, place) or 0
    passed = _passed(target, works)
    approved = {work.resource_id for work in works if work.approved}
    asking = [work for work in works if work.resource_id not in approved and work.resource_id not in passed]
    held: set[str] = set()
    if asking:
        held = _judge(target, asking, done)
    passing = [work for work in works if work.resource_id not in held]
    new = [work for work in passing if work.resource_id not in passed]
    if new:
        later = target.deprovision == "delete_after_days"
        session.execute(_OLD, {**place, "later": later})
        covers = ["delete" if work.deed == "delete" or (later and work.gone) else "disable" for work in new]
        ids = [work.resource_id for work in new]
        values = {"ids": ids, "approved": [id in approved for id in ids], "covers": covers}
        session.execute(_LET_PASS, {**place, **values})
    return passing


def forget(target: Target, ids: Sequence[str]) -> None:
    """These shall be usable at the target: what was let pass of them is over, in the open unit of work."""
    if ids:
        place = {"tenant": target.tenant, "target": target.id}
        db.session().execute(_FORGET, arrays({**place, "ids": list(ids)}))


def _passed(target: Target, works: Sequence[Work]) -> set[str]:
    """Those of these works that were let pass before, for as much as they do now."""
    place = {"tenant": target.tenant, "target": target.id}
    deleting = {work.resource_id for work in works if work.deed == "delete"}
    rows = db.session().execute(_PASSED, {**place, "ids": [work.resource_id for work in works]})
    later = target.deprovision == "delete_after_days"
    return {
        row.resource_id
        for row in rows
        if (row.covers == "delete" and (row.lately or later) if row.resource_id in deleting else row.lately)
    }


def _judge(target: Target, asking: Sequence[Work], done: int) -> set[str]:
    """The resources to hold among all that wait to be taken away; empty when the allowance covers them."""
    # Who is to be deleted after days falls due a thousand at a time.
    later = target.deprovision == "delete_after_days" and any(work.deed == "delete" for work in asking)
    waiting = _waiting(target, whole=later)
    losing = Counter(kind for _, kind in waiting)
    present, anybody, usable = _standing(target)
    if (not usable and losing["user"] > 1) or (not anybody and present.total() > 1):
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


def _waiting(target: Target, *, whole: bool) -> list[tuple[str, str]]:
    """Everything that would be taken away, but for what was approved or let pass already: (id, kind).

    Where not everything is owed yet that will be, what is at the target says so, not what is owed.
    """
    here = reached(target.tenant, target).cte("here")
    there = TargetResource
    lately: Any = TargetRemoval.at > sa.func.now() - sa.cast(_DAY, pg.INTERVAL)
    deletes = TargetRemoval.covers == "delete"
    enough = lately
    if target.deprovision == "delete":
        enough = sa.case((here.c.id.is_(None), deletes & lately), else_=lately)
    elif target.deprovision == "delete_after_days":
        enough = sa.case((there.state == "disabled", deletes), else_=lately)
    passed = sa.exists(
        sa.select(TargetRemoval.no).where(
            TargetRemoval.tenant_id == target.tenant,
            TargetRemoval.target_id == target.id,
            TargetRemoval.resource_id == there.resource_id,
            TargetRemoval.covers != "nothing",
            enough,
        )
    )
    partly = not whole and not _expanding(target)
    statement = (
        sa.select(there.resource_id, sa.func.lower(there.resource_type))
        .join(
            Delivery,
            (Delivery.tenant_id == target.tenant)
            & (Delivery.target_id == target.id)
            & (Delivery.task == "push")
            & (Delivery.resource_id == there.resource_id),
            isouter=not partly,
        )
        .outerjoin(here, here.c.id == there.resource_id)
        .where(
            there.tenant_id == target.tenant,
            there.target_id == target.id,
            sa.or_(Delivery.status.in_(("pending", "held")), *(() if partly else (Delivery.status.is_(None),))),
            losing(target, here, there),
            sa.not_(passed),
            Delivery.approved.is_not(True),
        )
    )
    return [(id, kind) for id, kind in db.session().execute(statement)]


def _expanding(target: Target) -> bool:
    """Whether its reach has changed and what follows is not owed yet, or only in part."""
    expansion = sa.exists().where(
        Delivery.tenant_id == target.tenant, Delivery.target_id == target.id, Delivery.task == "expand"
    )
    return bool(db.session().scalar(sa.select(expansion)))


def _standing(target: Target) -> tuple[Counter[str], bool, bool]:
    """How many of each kind are present at the target, whether anybody is in its reach, and any person to be usable."""
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
    here = reached(target.tenant, target).cte("here")
    usable = sa.exists().where(here.c.type == "User", here.c.up)
    anybody, person = session.execute(sa.select(sa.exists(sa.select(here.c.id)), usable)).one()
    return counted, bool(anybody), bool(person)
