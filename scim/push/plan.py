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
from .reach import reached
from .work import Target, Work

# Text, and arrays as literals: a thousand works are decided at a time.
_RESOURCES = sa.text("""
    SELECT id, type, name, version, document, manager_id FROM resources
    WHERE tenant_id = :tenant AND id = ANY(CAST(:ids AS text[]))
""")
_REMEMBERED = sa.text("""
    SELECT resource_id, state, remote_id, sent_digest, left_at IS NOT NULL,
           coalesce(left_at <= now() - make_interval(days => :days), false)
    FROM target_resources
    WHERE tenant_id = :tenant AND target_id = :target AND resource_id = ANY(CAST(:ids AS text[]))
""")
_REMOTE_IDS = sa.text("""
    SELECT resource_id, remote_id FROM target_resources
    WHERE tenant_id = :tenant AND target_id = :target AND resource_id = ANY(CAST(:ids AS text[]))
      AND remote_id IS NOT NULL
""")
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
    rows = _resources(target, ids)
    there = _remembered(target, ids)
    up: dict[str, bool] = {row.id: row.up for row in db.session().execute(reached(target.tenant, target, ids))}
    managers = _remote_ids(target, {row.manager_id for row in rows.values() if row.manager_id is not None})
    for work in works:
        _decide(work, rows.get(work.resource_id), there.get(work.resource_id), up.get(work.resource_id), managers)
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


def _resources(target: Target, ids: Sequence[str]) -> dict[str, sa.Row[Any]]:
    rows = db.session().execute(_RESOURCES, arrays({"tenant": target.tenant, "ids": list(ids)}))
    return {row.id: row for row in rows}


def _remembered(target: Target, ids: Sequence[str]) -> dict[str, There]:
    values = {"tenant": target.tenant, "target": target.id, "days": target.deprovision_days, "ids": list(ids)}
    return {row[0]: There(*row[1:]) for row in db.session().execute(_REMEMBERED, arrays(values))}


def _remote_ids(target: Target, ids: set[str]) -> dict[str, str]:
    if not ids:
        return {}
    values = {"tenant": target.tenant, "target": target.id, "ids": sorted(ids)}
    return {id: remote for id, remote in db.session().execute(_REMOTE_IDS, arrays(values))}


def _decide(
    work: Work, row: sa.Row[Any] | None, there: There | None, up: bool | None, managers: Mapping[str, str]
) -> None:
    """`up` is None for what is out of reach, False for a person who shall be there but not use it."""
    there = there or _GONE
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
            manager=managers.get(row.manager_id),
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
