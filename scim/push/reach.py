"""Which targets are owed a change, and what a target should hold.

Owns the outbox subscription and its query, the reach of a target (everything, or what is assigned, directly or
through groups), and the expansion that compares a whole reach with what is at the target. All of it is computed in
the database, in sets. When to send, and what, are its neighbours'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from broker.db import current_scope, db
from broker.directory.reach import groups_above, members_below
from broker.events import subscribe
from broker.models import Assignment, Delivery, Resource, ScimTarget, TargetResource

from .work import Target

WHOLE = "*"
"""Stands for all of a target's reach, as type and as id of an expansion."""
FIRST, PEOPLE, GROUPS = 0, 1, 2
"""Lanes: departures and expansions, then people, then the groups that name them."""
PAGE = 5_000

_PUSHED = ("User", "Group")
_DEPARTURES = ("user.disabled", "user.removed")
_RESHAPING = ("group.created", "group.revived", "group.members_changed")
_SERVICE_ACCOUNT = "ServiceAccount"


def _lane(resource_type: sa.ColumnElement[str]) -> sa.ColumnElement[int]:
    return sa.case((resource_type == "Group", GROUPS), else_=PEOPLE)


@subscribe(
    "scim",
    to=("user.*", "group.*", "assignment.*", "scim_target.created", "scim_target.updated", "scim_target.resumed"),
    among=ScimTarget.__table__,
)
def owed(batch: sa.FromClause) -> sa.Select[Any]:
    """The deliveries a batch of changes owes: resources that changed, and targets whose reach did."""
    tenant = current_scope().tenant_id
    changed = batch.c
    none = sa.select(
        ScimTarget.id.label("target_id"),
        changed.resource_type.label("resource_type"),
        changed.resource_id.label("resource_id"),
        sa.literal("push").label("task"),
        sa.literal(FIRST).label("lane"),
    )
    if tenant is None:  # platform rows only: no tenant's directory, and no target of it, is changed in such a unit
        return none.where(sa.false())
    assigned = _assigned(tenant, batch)
    known = sa.exists(
        sa.select(TargetResource.resource_id).where(
            TargetResource.tenant_id == tenant,
            TargetResource.target_id == ScimTarget.id,
            TargetResource.resource_id == changed.resource_id,
        )
    )
    in_reach = sa.tuple_(changed.resource_id, ScimTarget.application_id).in_(assigned)
    pushes = (
        sa.select(
            ScimTarget.id.label("target_id"),
            changed.resource_type.label("resource_type"),
            changed.resource_id.label("resource_id"),
            sa.literal("push").label("task"),
            sa.case((changed.name.in_(_DEPARTURES), FIRST), else_=_lane(changed.resource_type)).label("lane"),
        )
        .join_from(batch, ScimTarget, ScimTarget.tenant_id == tenant)
        .outerjoin(Resource, (Resource.tenant_id == tenant) & (Resource.id == changed.resource_id))
        .where(
            changed.resource_type.in_(_PUSHED),
            sa.or_(
                (ScimTarget.scope == "all") & Resource.user_type.is_distinct_from(_SERVICE_ACCOUNT),
                (ScimTarget.scope == "assigned") & in_reach,
                known,
            ),
        )
    )
    whole = (
        ScimTarget.id.label("target_id"),
        sa.literal(WHOLE).label("resource_type"),
        sa.literal(WHOLE).label("resource_id"),
        sa.literal("expand").label("task"),
        sa.literal(FIRST).label("lane"),
    )
    reshaped = (
        sa.select(*whole)
        .join_from(batch, ScimTarget, (ScimTarget.tenant_id == tenant) & (ScimTarget.scope == "assigned"))
        .where(
            sa.or_(
                changed.name == "group.removed",  # what it was in is no longer known
                changed.name.in_(_RESHAPING) & sa.or_(in_reach, known),
            )
        )
    )
    reassigned = (
        sa.select(*whole)
        .join_from(batch, ScimTarget, (ScimTarget.tenant_id == tenant) & (ScimTarget.scope == "assigned"))
        .outerjoin(Assignment, (Assignment.tenant_id == tenant) & (Assignment.id == changed.resource_id))
        .where(
            changed.name.like("assignment.%"),
            # An assignment that is gone no longer says which application it was of.
            sa.or_(Assignment.id.is_(None), Assignment.application_id == ScimTarget.application_id),
        )
    )
    retargeted = sa.select(*whole).join_from(
        batch, ScimTarget, (ScimTarget.tenant_id == tenant) & (ScimTarget.id == changed.resource_id)
    )
    every = sa.union_all(pushes, reshaped, reassigned, retargeted, *_outer(tenant, batch)).subquery("every")
    return sa.select(every)


def _outer(tenant: str, batch: sa.FromClause) -> tuple[Any, Any]:
    """Groups that hold the members of the batch's groups as their own, where groups in groups are flattened."""
    flattening = (ScimTarget.tenant_id == tenant) & ScimTarget.flattens
    asks = sa.exists(sa.select(ScimTarget.id).where(flattening))
    starts = sa.select(batch.c.resource_id).where(batch.c.name.in_(_RESHAPING), asks)
    above = groups_above(tenant, starts, name="outer_groups")
    groups = (
        sa.select(
            ScimTarget.id.label("target_id"),
            sa.literal("Group").label("resource_type"),
            TargetResource.resource_id.label("resource_id"),
            sa.literal("push").label("task"),
            sa.literal(GROUPS).label("lane"),
        )
        .join(TargetResource, (TargetResource.tenant_id == tenant) & (TargetResource.target_id == ScimTarget.id))
        .where(flattening, TargetResource.resource_type == "Group", TargetResource.state.in_(("creating", "present")))
    )
    gone = sa.exists(sa.select(batch.c.resource_id).where(batch.c.name == "group.removed"))
    # What a removed group was in is no longer known: all are looked at.
    return groups.where(TargetResource.resource_id.in_(sa.select(above.c.id))), groups.where(gone)


def _assigned(tenant: str, batch: sa.FromClause) -> sa.CompoundSelect[Any]:
    """Pairs (resource of the batch, application it is assigned to), directly or through groups."""
    # Nobody computes groups for a tenant without a target that asks for them.
    asks = sa.exists(sa.select(ScimTarget.id).where(ScimTarget.tenant_id == tenant, ScimTarget.scope == "assigned"))
    starts = sa.select(batch.c.resource_id).where(batch.c.resource_type.in_(_PUSHED), asks)
    return _assignments_of(tenant, starts)


def _assignments_of(tenant: str, starts: sa.Select[Any]) -> sa.CompoundSelect[Any]:
    above = groups_above(tenant, starts)
    return sa.union(
        sa.select(Assignment.principal_id, Assignment.application_id).where(
            Assignment.tenant_id == tenant, Assignment.principal_id.in_(starts)
        ),
        sa.select(above.c.start_id, Assignment.application_id).join_from(
            above, Assignment, (Assignment.tenant_id == tenant) & (Assignment.principal_id == above.c.id)
        ),
    )


def reached(tenant: str, target: Target, among: Sequence[str] | None = None) -> sa.Select[str, str, bool]:
    """What the target should know: `id`, `type`, and `up`, whether it should be usable there.

    `among` restricts the answer to these ids and is computed from them; without it the whole reach is.
    """
    up = sa.or_(
        Resource.type == "Group",
        Resource.active & sa.or_(Resource.active_until.is_(None), Resource.active_until > sa.func.now()),
    )
    live = sa.select(Resource.id, Resource.type, up.label("up")).where(
        Resource.tenant_id == tenant,
        Resource.type.in_(_PUSHED),
        Resource.removed_at.is_(None),
        Resource.user_type.is_distinct_from(_SERVICE_ACCOUNT),
    )
    if among is not None:
        given = sa.cast(sa.literal(list(among), pg.ARRAY(sa.Text)), pg.ARRAY(sa.Text))
        live = live.where(Resource.id == sa.any_(given))
        if target.reach == "all":
            return live
        starts = sa.select(sa.func.unnest(given).label("id"))
        pairs = _assignments_of(tenant, starts).subquery("pairs")
        return live.where(Resource.id.in_(sa.select(pairs.c[0]).where(pairs.c.application_id == target.application_id)))
    if target.reach == "all":
        return live
    principals = sa.select(Assignment.principal_id).where(
        Assignment.tenant_id == tenant, Assignment.application_id == target.application_id
    )
    below = members_below(tenant, principals)
    return live.where(Resource.id.in_(sa.union(principals, sa.select(below.c.id))))


UP = """
    CASE WHEN r.type IN ('User', 'Group') AND r.removed_at IS NULL AND r.user_type IS DISTINCT FROM 'ServiceAccount'
         THEN r.type = 'Group' OR (r.active AND (r.active_until IS NULL OR r.active_until > now())) END
"""
"""The `up` of `reached` for a row `r` of resources, whatever is assigned; null for one who is in nobody's reach."""


def among(target: Target, ids: Sequence[str]) -> set[str]:
    """Which of these are in the reach of a target to which they must be assigned."""
    return set(db.session().execute(reached(target.tenant, target, ids)).scalars())


def losing(target: Target, here: sa.FromClause, there: sa.FromClause | type[TargetResource]) -> sa.ColumnElement[bool]:
    """Whether a row of what is at the target (`there`) would be taken away, given what should be (`here`, outer)."""
    columns: Any = there.c if isinstance(there, sa.FromClause) else there
    held = columns.state.in_(("creating", "present"))
    gone = here.c.id.is_(None)
    if target.deprovision == "never":
        return sa.and_(held, sa.not_(here.c.up))
    taken: sa.ColumnElement[bool] = held & sa.or_(gone, sa.not_(here.c.up))
    if target.deprovision == "delete":
        return sa.or_(taken, gone & (columns.state == "disabled"))
    if target.deprovision == "delete_after_days":
        return sa.or_(taken, gone & (columns.state == "disabled") & over(target, columns.left_at))
    return taken


def over(target: Target, left_at: Any) -> sa.ColumnElement[bool]:
    """Whether the days have passed for which somebody who left stays disabled."""
    passed: sa.ColumnElement[bool] = left_at <= sa.func.now() - sa.func.make_interval(0, 0, 0, target.deprovision_days)
    return passed


def expand(tenant: str, target: Target, cursor: str | None) -> str | None:
    """Owe one page of differences between the target's reach and what is there; returns where to go on, or None.

    What could not be made is left until it changes; what is held, muted or approved stays so, unless it should be
    there again.
    """
    here = reached(tenant, target).cte("here")
    there = (
        sa.select(
            TargetResource.resource_id,
            TargetResource.resource_type,
            TargetResource.state,
            TargetResource.left_at,
            TargetResource.sent_revision.label("revision"),
        )
        .where(TargetResource.tenant_id == tenant, TargetResource.target_id == target.id)
        .cte("there")
    )
    key = sa.func.coalesce(here.c.id, there.c.resource_id)
    kind = sa.func.coalesce(here.c.type, there.c.resource_type)
    queued = sa.orm.aliased(Delivery)
    back = here.c.id.is_not(None) & here.c.up
    differs = sa.or_(
        back & queued.status.is_distinct_from("failed") & there.c.state.is_distinct_from("present"),
        back & sa.or_(queued.status.in_(("held", "muted")), queued.approved),
        here.c.id.is_not(None)
        & there.c.state.in_(("present", "disabled"))
        & (there.c.revision != target.revision)
        & sa.or_(queued.status.is_(None), queued.status == "pending"),
        losing(target, here, there) & sa.or_(queued.status.is_(None), queued.status.in_(("pending", "failed"))),
    )
    if target.deprovision == "delete_after_days":
        # Disabled before he left: his days begin now.
        left = here.c.id.is_(None) & (there.c.state == "disabled")
        # Held under fewer days, and not due any more.
        early = left & (queued.status == "held") & sa.not_(over(target, there.c.left_at))
        differs = sa.or_(differs, left & there.c.left_at.is_(None) & queued.status.is_(None), early)
    page = (
        sa.select(key.label("id"), kind.label("type"), _lane_of(back, kind).label("lane"))
        .select_from(
            sa.outerjoin(here, there, there.c.resource_id == here.c.id, full=True).outerjoin(
                queued,
                (queued.tenant_id == tenant)
                & (queued.target_id == target.id)
                & (queued.resource_type == kind)
                & (queued.resource_id == key)
                & (queued.task == "push"),
            )
        )
        .where(differs, *(() if cursor is None else (key > cursor,)))
        .order_by(key)
        .limit(PAGE)
        .cte("page")
    )
    insert = pg.insert(Delivery)
    statement = (
        insert.from_select(
            ["tenant_id", "target_id", "resource_type", "resource_id", "task", "lane"],
            sa.select(
                sa.literal(tenant), sa.literal(target.id), page.c.type, page.c.id, sa.literal("push"), page.c.lane
            ).order_by(page.c.type, page.c.id),
        )
        .on_conflict_do_update(
            index_elements=["tenant_id", "target_id", "resource_type", "resource_id", "task"],
            set_={
                "generation": Delivery.generation + 1,
                "status": "pending",
                "problem": None,
                "exchange": sa.null(),
                # Nobody is released for another leaving than the one that was seen.
                "approved": Delivery.approved & (insert.excluded.lane == FIRST),
                "updated_at": sa.func.now(),
            },
        )
        .returning(Delivery.resource_id)
    )
    ids = db.session().execute(statement).scalars().all()
    return cast("str | None", max(ids)) if len(ids) == PAGE else None


def _lane_of(back: sa.ColumnElement[bool], kind: sa.ColumnElement[str]) -> sa.ColumnElement[int]:
    return sa.case((back, _lane(kind)), else_=FIRST)
