"""`/sync-runs`: what each run read, changed and skipped, and the removals it held for a person to decide.

Runs and their queue are `broker.sync`'s; judging, holding and carrying out removals is `broker.removals`'.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from flask import Response
from marshmallow import Schema

from broker import access, bell, removals, running
from broker.api.door import PREFIX, api, listed, show
from broker.api.shapes import Instant, Shape, auto_field, fields
from broker.db import after_commit, db
from broker.doors import About
from broker.models import HeldRemoval, IdentityProvider, Link, SyncRun, SyncSkip
from broker.policy import Action
from broker.sync import queue
from broker.sync.book import remaining_seconds


class SyncRunShape(Shape):
    class Meta(Shape.Meta):
        model = SyncRun

    id = auto_field(dump_only=True)
    provider_id = auto_field(dump_only=True)
    kind = auto_field(dump_only=True)
    dry_run = auto_field(dump_only=True)
    status = auto_field(dump_only=True)
    read = auto_field(dump_only=True)
    created = auto_field(dump_only=True)
    updated = auto_field(dump_only=True)
    unchanged = auto_field(dump_only=True)
    disabled = auto_field(dump_only=True)
    removed = auto_field(dump_only=True)
    skipped = auto_field(dump_only=True)
    held_removals = auto_field(dump_only=True)
    hold_reason = auto_field(dump_only=True)
    plan = fields.List(fields.Raw(), dump_only=True)
    problem = auto_field(dump_only=True)
    done = auto_field(dump_only=True)
    total = auto_field(dump_only=True)
    rate = auto_field(dump_only=True)
    remaining_seconds = fields.Method("_remaining", dump_only=True)
    requested_by = auto_field(dump_only=True)
    due_at = auto_field(dump_only=True)
    started_at = auto_field(dump_only=True)
    finished_at = auto_field(dump_only=True)

    def _remaining(self, run: SyncRun) -> int | None:
        known = run.status == "running" and run.source == "upstream"
        return remaining_seconds(run.done, run.total, run.rate) if known else None


class SkipShape(Shape):
    class Meta(Shape.Meta):
        model = SyncSkip

    position = auto_field(dump_only=True)
    name = auto_field(dump_only=True)
    reason = auto_field(dump_only=True)
    detail = auto_field(dump_only=True)


class HeldShape(Schema):
    """One removal the guard holds."""

    name = fields.String()
    kind = fields.String()
    action = fields.String()
    status = fields.String()
    reason = fields.String()
    resource_id = fields.String()
    created_at = Instant()


@api.route(
    "/sync-runs",
    action=Action.SYNC_READ,
    about=About(
        gives=SyncRunShape,
        listed=True,
        query={"provider_id": "Only runs of this provider.", "status": "Only runs of this status."},
    ),
)
def list_runs() -> Response:
    """The runs of the tenant's upstreams, newest first."""
    return listed(
        sa.select(SyncRun),
        SyncRunShape,
        [SyncRun.no],
        filters={
            "provider_id": lambda provider_id: SyncRun.provider_id == provider_id,
            "status": lambda status: SyncRun.status == status,
        },
        newest_first=True,
    )


@api.route("/sync-runs/<run_id>", action=Action.SYNC_READ, about=About(gives=SyncRunShape))
def read_run(run_id: str) -> Response:
    """One run with its counters."""
    return show(SyncRunShape, access.fetch(SyncRun, run_id, to=Action.SYNC_READ))


@api.route("/sync-runs/<run_id>/skipped", action=Action.SYNC_READ, about=About(gives=SkipShape, listed=True))
def list_skipped(run_id: str) -> Response:
    """The records a run could not take, each with its reason."""
    run = access.fetch(SyncRun, run_id, to=Action.SYNC_READ)
    return listed(sa.select(SyncSkip).where(SyncSkip.run_id == run.id), SkipShape, [SyncSkip.no])


@api.route("/sync-runs/<run_id>/held-removals", action=Action.SYNC_READ, about=About(gives=HeldShape, listed=True))
def list_held(run_id: str) -> Response:
    """The removals a run holds for approval, and those that were rejected and stay muted."""
    run = access.fetch(SyncRun, run_id, to=Action.SYNC_READ)
    statement = sa.select(HeldRemoval).where(HeldRemoval.run_id == run.id)

    def shown(row: HeldRemoval) -> Any:
        link = db.session().scalars(sa.select(Link).where(Link.no == row.link_no)).one()
        return HeldShape().dump(
            {
                "name": link.name,
                "kind": link.kind,
                "action": row.action,
                "status": row.status,
                "reason": row.reason,
                "resource_id": link.resource_id,
                "created_at": row.created_at,
            }
        )

    return listed(statement, shown, [HeldRemoval.link_no, HeldRemoval.action])


@api.route("/sync-runs/<run_id>/approve", methods=["POST"], action=Action.SYNC_WRITE, about=About(gives=SyncRunShape))
def approve_run(run_id: str) -> Response:
    """Carry out the removals a run holds, each checked again against the present state.

    Where the run showed what changed settings would do: read by them from now on, beginning at once.
    """
    run = access.fetch(SyncRun, run_id, to=Action.SYNC_WRITE)
    removals.approve(run_id)
    if run.dry_run:
        queue.ask(access.fetch(IdentityProvider, run.provider_id, to=Action.SYNC_WRITE), full=True)
        after_commit(wake)
    return _after(run_id)


@api.route("/sync-runs/<run_id>/reject", methods=["POST"], action=Action.SYNC_WRITE, about=About(gives=SyncRunShape))
def reject_run(run_id: str) -> Response:
    """Drop the removals a run holds, and mute the same ones until they change."""
    access.fetch(SyncRun, run_id, to=Action.SYNC_WRITE)
    removals.reject(run_id)
    return _after(run_id)


@api.route("/sync-runs/<run_id>/cancel", methods=["POST"], action=Action.SYNC_WRITE, about=About(gives=SyncRunShape))
def cancel_run(run_id: str) -> Response:
    """End a run of a live upstream before its next page. What it has written stays; it takes nobody away."""
    queue.cancel(access.fetch(SyncRun, run_id, to=Action.SYNC_WRITE, lock=True))
    return _after(run_id)


def started(run: SyncRun) -> Response:
    """A run that has been asked for, and where to watch it."""
    response = show(SyncRunShape, run, 202)
    response.headers["Location"] = f"{running.config().base_url}{PREFIX}/sync-runs/{run.id}"
    return response


def wake() -> None:
    """Tell the workers that an upstream is to be read."""
    bell.ring(bell.PULL)


def _after(run_id: str) -> Response:
    db.session().expire_all()
    return show(SyncRunShape, access.fetch(SyncRun, run_id, to=Action.SYNC_READ))
