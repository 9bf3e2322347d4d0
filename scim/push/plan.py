"""What a claimed delivery comes to: the present state against what is remembered of the target.

Owns the decision per resource (provide, disable, delete, nothing), read in sets for all works of a target at once,
and the marks that must be committed before anything is sent: that somebody is being created, that it is not known any
more what is there. What may be taken away is `guard`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa

from broker.attributes import CUSTOM
from broker.db import arrays, db
from broker.models import TargetResource
from scim import profiles

from . import guard, mapping, render
from .reach import UP, among
from .work import Target, Work

# Text, and arrays as literals: a thousand works are decided at a time, in one statement.
_STANDING = sa.text(f"""
    SELECT n.id, r.type, r.name, r.version, r.document, {UP} AS up, m.remote_id AS manager,
           k.state, k.remote_id, k.sent_digest, k.left_at IS NOT NULL AS has_left,
           coalesce(k.left_at <= now() - make_interval(days => :days), false) AS over
    FROM unnest(CAST(:ids AS text[])) AS n(id)
    LEFT JOIN resources r ON r.tenant_id = :tenant AND r.id = n.id
    LEFT JOIN target_resources k ON k.tenant_id = :tenant AND k.target_id = :target AND k.resource_id = n.id
    LEFT JOIN target_resources m ON m.tenant_id = :tenant AND m.target_id = :target AND m.resource_id = r.manager_id
""")  # noqa: S608 - constant text
_CREATING = sa.text("""
    INSERT INTO target_resources AS t (tenant_id, target_id, resource_id, resource_type, state)
    SELECT :tenant, :target, u.id, u.type, 'creating'
    FROM unnest(CAST(:ids AS text[]), CAST(:types AS text[])) AS u(id, type)
    ON CONFLICT (tenant_id, target_id, resource_id)
    DO UPDATE SET state = 'creating', remote_id = NULL, sent_digest = NULL, updated_at = now()
    WHERE t.remote_id IS NULL
""")

# Inserted, though every row is there: a conflict is found by key, whatever the planner expects.
# A kill may come between a request and its mark. What was remembered before it must then not look like the present
# state, should that return to what it was; and whoever may be usable there counts as usable.
_UNKNOWN = sa.text("""
    INSERT INTO target_resources AS t (tenant_id, target_id, resource_id, resource_type, state)
    SELECT :tenant, :target, n.id, k.resource_type,
           CASE WHEN k.state = 'disabled' AND n.usable THEN 'present' ELSE k.state END
    FROM unnest(CAST(:ids AS text[]), CAST(:usable AS boolean[])) AS n(id, usable),
    LATERAL (SELECT resource_type, state FROM target_resources
             WHERE tenant_id = :tenant AND target_id = :target AND resource_id = n.id FOR UPDATE) k
    ON CONFLICT (tenant_id, target_id, resource_id) DO UPDATE SET sent_digest = NULL, state = EXCLUDED.state
""")


_LOOKED_AT = sa.text("""
    UPDATE target_resources SET sent_revision = :revision
    WHERE tenant_id = :tenant AND target_id = :target AND resource_id = ANY(:ids) AND sent_revision <> :revision
""")


class There(NamedTuple):
    """What is remembered of a resource at the target."""

    state: str
    remote_id: str | None
    digest: bytes | None
    left: bool = False
    over: bool = False
    """He left, and the days for which he stays disabled have passed."""


def prepare(target: Target, works: Sequence[Work]) -> tuple[list[Work], list[Work]]:
    """Decide every work, in the open unit of work that claimed them; returns (to send, already done).

    Works that the removal guard holds are in neither.
    """
    tenant = target.tenant
    if not works:
        return [], []
    there = decide(target, works)
    _mark_left(target, [work for work in works if work.gone and work.deed == "nothing"])
    taking = [work for work in works if work.losing]
    passing = guard.let_pass(target, taking) if taking else []
    allowed = {id(work) for work in passing}
    works = [work for work in works if not work.losing or id(work) in allowed]
    making = [
        work
        for work in works
        if work.deed == "provide" and work.usable and there.get(work.resource_id, _GONE).state == "removed"
    ]
    place = {"tenant": tenant, "target": target.id}
    if making:
        db.session().execute(
            _CREATING,
            arrays(
                {
                    **place,
                    "ids": [work.resource_id for work in making],
                    "types": [work.resource_type for work in making],
                }
            ),
        )
    writing = sorted(
        (work for work in works if _writes(work, there.get(work.resource_id, _GONE))),
        key=lambda work: work.resource_id,
    )
    if writing:
        db.session().execute(
            _UNKNOWN,
            arrays(
                {
                    **place,
                    "ids": [work.resource_id for work in writing],
                    "usable": [work.deed == "provide" and work.usable for work in writing],
                }
            ),
        )
    guard.forget(target, [work.resource_id for work in works if work.usable])
    already = [work for work in works if work.deed == "nothing"]
    if already:
        looked_at = {"revision": target.revision, "ids": [work.resource_id for work in already]}
        db.session().execute(_LOOKED_AT, {**place, **looked_at})
    return [work for work in works if work.deed != "nothing"], already


def decide(target: Target, works: Sequence[Work]) -> Mapping[str, There]:
    """Say of each work what it comes to, in the open unit of work, and change nothing; returns what is remembered.

    The one place that decides: a push acts by it, a preview shows it, a comparison holds it against what is there.
    """
    ids = [work.resource_id for work in works]
    values = {"tenant": target.tenant, "target": target.id, "days": target.deprovision_days, "ids": ids}
    rows = {row.id: row for row in db.session().execute(_STANDING, arrays(values))}
    assigned = None if target.reach == "all" else among(target, ids)
    there: dict[str, There] = {}
    for work in works:
        row = rows[work.resource_id]
        known = _GONE
        if row.state is not None:
            known = there[row.id] = There(row.state, row.remote_id, row.sent_digest, row.has_left, row.over)
        up = row.up if assigned is None or row.id in assigned else None
        _decide(work, None if row.type is None else row, known, up)
    return there


_GONE = There("removed", None, None)


def _writes(work: Work, there: There) -> bool:
    """Whether it changes what is remembered to be there; the members of a group are remembered one by one."""
    if work.deed == "nothing" or there.remote_id is None:
        return False
    only_members = work.deed == "empty" or (there.state == "present" and there.digest == work.digest)
    return work.resource_type == "User" or work.deed == "delete" or not only_members


def _mark_left(target: Target, works: Sequence[Work]) -> None:
    """Who was disabled there before he left the reach: his days begin now."""
    if works:
        statement = sa.update(TargetResource).where(
            TargetResource.target_id == target.id,
            TargetResource.resource_id.in_([work.resource_id for work in works]),
            TargetResource.state == "disabled",
            TargetResource.left_at.is_(None),
        )
        db.session().execute(statement.values(left_at=sa.func.now()))


def _decide(work: Work, row: sa.Row[Any] | None, there: There, up: bool | None) -> None:
    """`up` is None for what is out of reach, False for a person who shall be there but not use it."""
    policy = work.target.deprovision
    work.remote_id, work.known_digest = there.remote_id, there.digest
    if row is None:
        return
    work.name, work.version, work.usable = row.name, row.version, bool(up)
    document, takes = orjson.loads(row.document), work.target.profile.attributes or ()
    rows = mapping.of(work.target.mapping, row.type)
    if row.type == "User":
        sent = render.person(
            document,
            row.id,
            usable=bool(up),
            manager=row.manager,
            custom=CUSTOM["User"].lower() in takes,
        )
    else:
        sent = render.group(document, row.id, row.name, custom=CUSTOM["Group"].lower() in takes)
    if rows:
        sent = mapping.applied(rows, document, sent)
    work.document, work.left_out = profiles.fitting(sent, work.target.profile)
    if row.type == "User":
        work.name = work.document["userName"]
    work.gone = up is None
    work.digest = render.digest(work.document)
    if up:
        same = there.state == "present" and there.digest == work.digest
        # Of a group the members may differ still.
        work.deed = "nothing" if same and row.type == "User" else "provide"
    elif there.state == "removed" or (up is None and policy == "never"):
        work.deed = "nothing"
    elif up is False:
        same = there.state == "disabled" and there.digest == work.digest
        work.deed = "nothing" if same else "provide"
        work.losing = there.state != "disabled"
    elif policy == "delete":
        work.deed, work.losing = "delete", True
    elif policy == "delete_after_days" and there.over:
        work.deed, work.losing = "delete", True  # let pass when he was disabled, unless the days were others then
    elif there.state != "disabled":
        work.deed, work.losing = "disable" if row.type == "User" else "empty", True
