"""What is remembered of targets, carried along: who is there under which id, and what was sent last.

Owns the rows that an archive brings of targets. They are taken for a target that is paused only, so that nothing is
sent before everything is here; what was there already is not created again. Sending is `scim.push`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from broker.db import db
from broker.directory import Restored
from broker.models import Resource, ScimTarget, TargetMember, TargetResource

Item = Mapping[str, Any]

_REMOTE = ("target_id", "resource_id", "resource_type", "remote_id", "state")
_SENT = ("sent_digest", "sent_version", "left_at", "left_out")
_MEMBER = ("target_id", "group_id", "member_id", "certain")


def destinations(wanted: Sequence[Item]) -> dict[str, str | None]:
    """Archived target → the target here: of the same id, else the only one of its `base_url`. None where there is none
    that is paused."""
    here = db.session().execute(sa.select(ScimTarget.id, ScimTarget.base_url, ScimTarget.status)).all()
    found: dict[str, str | None] = {}
    for target in wanted:
        same = [row for row in here if row.id == target["id"]]
        same = same or [row for row in here if row.base_url == target["base_url"]]
        found[target["id"]] = same[0].id if len(same) == 1 and same[0].status == "paused" else None
    return found


def resources(tenant: str, items: Sequence[Item]) -> Restored:
    """Who is known where, under which id."""
    done = Restored()
    keys = [(item["target_id"], item["resource_id"]) for item in items]
    here = _here(TargetResource, _REMOTE, (TargetResource.target_id, TargetResource.resource_id), keys)
    asked = [(item["target_id"], item["remote_id"]) for item in items if item["remote_id"] is not None]
    names = (TargetResource.target_id, TargetResource.resource_type, TargetResource.remote_id)
    held = db.session().execute(
        sa.select(*names).where(sa.tuple_(TargetResource.target_id, TargetResource.remote_id).in_(asked))
    )
    remote_ids = {tuple(row) for row in held}
    known = _known([item["resource_id"] for item in items])
    taken: list[Item] = []
    for index, (key, item) in enumerate(zip(keys, items, strict=True)):
        remote = (item["target_id"], item["resource_type"], item["remote_id"])
        if key in here:
            # What was sent since is known better here.
            if here[key][3] == item["remote_id"]:
                done.unchanged += 1
            else:
                done.refuse(index, "/remote_id", "This resource is known there under another remote id.")
        elif known.get(item["resource_id"]) != item["resource_type"]:
            done.refuse(index, "/resource_id", "There is no such resource.")
        elif item["remote_id"] is not None and remote in remote_ids:
            done.refuse(index, "/remote_id", "This remote id is another resource's.")
        else:
            here[key] = tuple(item[name] for name in _REMOTE)
            remote_ids.add(remote)
            taken.append(item)
    _insert(tenant, TargetResource, (*_REMOTE, *_SENT), taken)
    done.created = len(taken)
    return done


def members(tenant: str, items: Sequence[Item]) -> Restored:
    """Which memberships were written where."""
    done = Restored()
    keys = [(item["target_id"], item["group_id"], item["member_id"]) for item in items]
    place = (TargetMember.target_id, TargetMember.group_id, TargetMember.member_id)
    here = _here(TargetMember, _MEMBER, place, keys)
    known = _known([item[name] for item in items for name in ("group_id", "member_id")])
    taken: list[Item] = []
    for index, (key, item) in enumerate(zip(keys, items, strict=True)):
        if key in here:
            done.unchanged += 1
        elif item["group_id"] not in known or item["member_id"] not in known:
            done.refuse(index, "/group_id", "There is no such group or no such member.")
        else:
            here[key] = tuple(item[name] for name in _MEMBER)
            taken.append(item)
    _insert(tenant, TargetMember, _MEMBER, taken)
    done.created = len(taken)
    return done


def _here(table: Any, names: Sequence[str], place: Sequence[Any], keys: Sequence[Any]) -> dict[Any, tuple[Any, ...]]:
    statement = sa.select(*(getattr(table, name) for name in names)).where(sa.tuple_(*place).in_(keys))
    return {tuple(row[: len(place)]): tuple(row) for row in db.session().execute(statement)}


def _known(wanted: Sequence[str]) -> dict[str, str]:
    found = db.session().execute(sa.select(Resource.id, Resource.type).where(Resource.id.in_(set(wanted))))
    return {id: kind for id, kind in found}


def _insert(tenant: str, table: Any, names: Sequence[str], items: Sequence[Item]) -> None:
    if items:
        values = [{"tenant_id": tenant, **{name: item[name] for name in names}} for item in items]
        db.session().execute(insert(table.__table__), values)
