"""`/scim-targets/{id}/preview`, `…/reconcile`, `…/runs`, `…/drift`, `…/standing`.

Owns the shapes of plans, comparisons and drift; what a push would do and what is there is `scim.push`'s.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from flask import Response
from marshmallow import RAISE, Schema

from broker import access, bell
from broker.api.door import api, body, json, listed, show
from broker.api.shapes import Flag, Shape, Text, Whole, auto_field, fields, one_of, take
from broker.db import after_commit, db, unit
from broker.doors import About, scope
from broker.errors import NotFound
from broker.models import ScimTarget, TargetDrift, TargetRun
from broker.policy import Action
from broker.registry.targets import POLICIES
from scim import push

_PREVIEWED = 20


class WantedPreview(Schema):
    class Meta:
        unknown = RAISE

    limit = Whole()


class WantedComparison(Schema):
    class Meta:
        unknown = RAISE

    policy = fields.String(validate=one_of(*POLICIES))


class Silenced(Schema):
    class Meta:
        unknown = RAISE

    resource_type = fields.String(required=True, validate=one_of("User", "Group"))
    key = Text(required=True)
    ignored = Flag(required=True)


class TargetRunShape(Shape):
    class Meta(Shape.Meta):
        model = TargetRun

    id = auto_field(dump_only=True)
    target_id = auto_field(dump_only=True)
    policy = auto_field(dump_only=True)
    status = auto_field(dump_only=True)
    phase = auto_field(dump_only=True)
    done = auto_field(dump_only=True)
    total = auto_field(dump_only=True)
    rate = fields.Float(dump_only=True)
    remaining_seconds = fields.Method("remaining", dump_only=True)
    missing = auto_field(dump_only=True)
    changed = auto_field(dump_only=True)
    unexpected = auto_field(dump_only=True)
    owed = auto_field(dump_only=True)
    problem = auto_field(dump_only=True)
    created_at = auto_field(dump_only=True)
    started_at = auto_field(dump_only=True)
    finished_at = auto_field(dump_only=True)

    def remaining(self, run: TargetRun) -> float | None:
        if run.status != "running" or run.total is None or not run.rate:
            return None
        return round(max(run.total - run.done, 0) / run.rate, 1)


class DriftShape(Shape):
    class Meta(Shape.Meta):
        model = TargetDrift

    kind = auto_field(dump_only=True)
    resource_type = auto_field(dump_only=True)
    key = auto_field(dump_only=True)
    resource_id = auto_field(dump_only=True)
    remote_id = auto_field(dump_only=True)
    name = auto_field(dump_only=True)
    differences = fields.Raw(dump_only=True)
    ignored = auto_field(dump_only=True)
    found_at = auto_field(dump_only=True)


@api.route(
    "/scim-targets/<target_id>/preview",
    methods=["POST"],
    action=Action.TARGET_WRITE,
    transaction=False,
    about=About(takes=WantedPreview),
)
def preview_target(target_id: str) -> Response:
    """What a push would do now: counts of each deed, and the first `limit` (50 at most) in words. Changes nothing."""
    wanted = take(WantedPreview, body())
    with unit(scope()):
        target = access.fetch(ScimTarget, target_id, to=Action.TARGET_WRITE)
        found = target.id
    return json(push.preview(scope(), found, wanted.get("limit", _PREVIEWED)))


@api.route(
    "/scim-targets/<target_id>/reconcile",
    methods=["POST"],
    action=Action.TARGET_WRITE,
    about=About(takes=WantedComparison, gives=TargetRunShape, status=202),
)
def reconcile_target(target_id: str) -> Response:
    """Compare everything at the target with what should be there, by the target's policy or the one named."""
    target = access.fetch(ScimTarget, target_id, to=Action.TARGET_WRITE)
    run = push.ask(target, take(WantedComparison, body()).get("policy"))
    after_commit(_wake)
    return show(TargetRunShape, run, 202)


@api.route("/scim-targets/<target_id>/runs", action=Action.TARGET_READ, about=About(gives=TargetRunShape, listed=True))
def list_comparisons(target_id: str) -> Response:
    """The comparisons of a target, newest first, with how far each has come."""
    target = access.fetch(ScimTarget, target_id, to=Action.TARGET_READ)
    statement = sa.select(TargetRun).where(TargetRun.target_id == target.id)
    return listed(statement, TargetRunShape, [TargetRun.no], newest_first=True)


@api.route(
    "/scim-targets/<target_id>/drift",
    action=Action.TARGET_READ,
    about=About(gives=DriftShape, listed=True, query={"kind": "Only what is `missing`, `changed` or `unexpected`."}),
)
def list_drift(target_id: str) -> Response:
    """What the last comparison found at the target that is not as it should be, per object."""
    target = access.fetch(ScimTarget, target_id, to=Action.TARGET_READ)
    return listed(
        sa.select(TargetDrift).where(TargetDrift.target_id == target.id),
        DriftShape,
        [TargetDrift.resource_type, TargetDrift.key],
        filters={"kind": lambda kind: TargetDrift.kind == kind},
    )


@api.route(
    "/scim-targets/<target_id>/drift/ignore",
    methods=["POST"],
    action=Action.TARGET_WRITE,
    about=About(takes=Silenced, gives=DriftShape),
)
def ignore_drift(target_id: str) -> Response:
    """Leave one object at the target as it is from now on, or no longer."""
    target = access.fetch(ScimTarget, target_id, to=Action.TARGET_WRITE)
    wanted: dict[str, Any] = take(Silenced, body())
    key = (target.tenant_id, target.id, wanted["resource_type"], wanted["key"])
    drift = db.session().get(TargetDrift, key)
    if drift is None:
        raise NotFound("There is no such drift.")
    drift.ignored = wanted["ignored"]
    db.session().flush()
    return show(DriftShape, drift)


@api.route("/scim-targets/<target_id>/standing", action=Action.TARGET_READ, about=About())
def target_standing(target_id: str) -> Response:
    """How the target stands: queue depth and age, convergence, drift, what is there."""
    return json(push.standing(access.fetch(ScimTarget, target_id, to=Action.TARGET_READ)))


def _wake() -> None:
    bell.ring(bell.PULL)
