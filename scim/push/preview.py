"""What a push would do, without doing it.

Owns the counts, which the database gives for the whole target, and the first so many deeds in words: the planner of the
push decides each, and the target is asked where only it knows (whether somebody is adopted, what an update changes).
Nothing is written here or there, and no transaction is open while the target is asked.
"""

from __future__ import annotations

from typing import Any, cast

import sqlalchemy as sa
from flask import current_app

from broker.context import Scope
from broker.db import db, unit
from broker.errors import NotFound
from broker.models import Delivery, TargetResource
from scim.client import Missing, Remote, TargetClient, TargetError

from . import ledger, plan
from .compare import differences
from .reach import losing, reached
from .run import client_of
from .work import Target, Work, read_target

MOST = 50
_MEMBERS = 200


def preview(scope: Scope, target_id: str, limit: int) -> dict[str, Any]:
    """The plan of the target, of a paused one as well: what would be sent once it is resumed.

    Needs an app context and no open unit. Raises NotFound.
    """
    with unit(scope):
        target = read_target(scope, target_id, although_paused=True)
        if target is None:
            raise NotFound("There is no such target.")
        counts = _counts(target)
        works = _first(target, min(limit, MOST))
        plan.decide(target, works)
        members = {work.resource_id: _members(work) for work in works if work.resource_type == "Group"}
    client = client_of(cast(Any, current_app)._get_current_object(), target)
    items = [_told(client, work, members.get(work.resource_id, {})) for work in works if work.deed != "nothing"]
    return {"counts": counts, "items": items}


def _differing(target: Target) -> tuple[Any, Any, Any, Any]:
    here = reached(target.tenant, target).cte("here")
    there = (
        sa.select(
            TargetResource.resource_id, TargetResource.resource_type, TargetResource.state, TargetResource.left_at
        )
        .where(TargetResource.tenant_id == target.tenant, TargetResource.target_id == target.id)
        .cte("there")
    )
    owed = (
        sa.select(Delivery.resource_id, Delivery.status)
        .where(Delivery.tenant_id == target.tenant, Delivery.target_id == target.id, Delivery.task == "push")
        .cte("owed")
    )
    key = sa.func.coalesce(here.c.id, there.c.resource_id)
    joined = sa.outerjoin(here, there, there.c.resource_id == here.c.id, full=True).outerjoin(
        owed, owed.c.resource_id == key
    )
    absent = there.c.state.is_(None) | there.c.state.in_(("creating", "removed"))
    deleted = sa.or_(sa.literal(target.deprovision == "delete"), there.c.state == "disabled")
    deed = sa.case(
        (losing(target, here, there) & here.c.id.is_not(None), "disable"),
        (losing(target, here, there) & deleted, "delete"),
        (losing(target, here, there), "disable"),
        (here.c.id.is_not(None) & here.c.up & absent, "create"),
        (here.c.id.is_not(None) & here.c.up & (there.c.state == "disabled"), "update"),
        (here.c.id.is_not(None) & here.c.up & owed.c.status.is_not(None), "update"),
        else_="nothing",
    )
    kind = sa.func.coalesce(here.c.type, there.c.resource_type)
    return joined, key, kind, deed


def _counts(target: Target) -> dict[str, int]:
    joined, _, _, deed = _differing(target)
    named = deed.label("deed")
    rows = db.session().execute(sa.select(named, sa.func.count()).select_from(joined).group_by(named))
    counted = {name: int(many) for name, many in rows}
    return {name: counted.get(name, 0) for name in ("create", "update", "disable", "delete", "nothing")}


def _first(target: Target, limit: int) -> list[Work]:
    joined, key, kind, deed = _differing(target)
    page = sa.select(kind, key).select_from(joined).where(deed != "nothing").order_by(deed, key).limit(limit)
    rows = db.session().execute(page)
    return [Work(target, type, id, "push", 0, 0, 0, None, False) for type, id in rows]


def _members(work: Work) -> dict[str, int]:
    """How many members one push would add and remove, up to a number nobody reads further than."""
    adding = len(ledger.members(work, adding=True, after="", limit=_MEMBERS))
    removing = len(ledger.members(work, adding=False, after="", limit=_MEMBERS))
    return {"add": adding, "remove": removing}


def _told(client: TargetClient, work: Work, members: dict[str, int]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "deed": {"provide": "update", "empty": "disable"}.get(work.deed, work.deed),
        "resource_type": work.resource_type,
        "resource_id": work.resource_id,
        "name": work.name,
        "remote_id": work.remote_id,
        "differences": {},
        "members": members,
        "problem": None,
    }
    if work.deed == "provide":
        try:
            found = _at(client, work)
        except TargetError as error:
            told["problem"] = str(error)
            return told
        if found is None:
            told["deed"] = "create"
            told["differences"] = {name: {"expected": value, "found": None} for name, value in work.document.items()}
        else:
            known = "disable" if work.losing else "update"
            told["deed"] = known if work.remote_id is not None else "adopt"
            told["remote_id"] = found.id
            told["differences"] = differences(work.document, found.document)
    return told


def _at(client: TargetClient, work: Work) -> Remote | None:
    """The resource as the target shows it, by the id we know or as a push would look for it."""
    if work.remote_id is not None:
        try:
            return client.read(work.resource_type, work.remote_id)
        except Missing:
            return None
    pairs = [("externalId", work.resource_id)]
    if work.resource_type == "User":
        pairs.append(("userName", work.name))
    for attribute, value in pairs:
        if attribute in client.profile.filters:
            found = client.find(work.resource_type, attribute, value)
            if found:
                return found[0]
    return None
