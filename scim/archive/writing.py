"""A whole tenant written as an archive: one consistent snapshot, page by page, in constant memory.

Owns which rows are the tenant's directory and in which order they are read. What a line looks like is `lines`'.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa

from broker.context import Scope
from broker.db import db, unit
from broker.models import (
    CustomAttribute,
    IdentityProvider,
    Link,
    LinkRecord,
    Membership,
    Resource,
    ScimTarget,
    TargetMember,
    TargetResource,
)

from . import lines
from .ldif import replacing

AT_ONCE = 500
"""Rows held in memory."""

_PATIENT = sa.text("SELECT set_config('statement_timeout', '120000', true)")
_REFERS = sa.or_(
    Resource.manager_id.is_not(None),
    Resource.manager_ref.is_not(None),
    Resource.parent_id.is_not(None),
    Resource.parent_ref.is_not(None),
)
_ELSEWHERE = {("resource", "resource_type"): Resource.type, ("link", "record"): LinkRecord.record}
"""Fields that are called otherwise, or kept apart."""
_SOURCES: Mapping[str, tuple[Any, tuple[Any, ...], Any]] = {
    "provider": (IdentityProvider, (IdentityProvider.id,), None),
    "target": (ScimTarget, (ScimTarget.id,), ScimTarget.id.in_(sa.select(TargetResource.target_id))),
    "custom_attribute": (CustomAttribute, (CustomAttribute.id,), None),
    "resource": (Resource, (Resource.id,), None),
    "reference": (Resource, (Resource.id,), _REFERS),
    "link": (Link, (Link.no,), None),
    "membership": (Membership, (Membership.no,), None),
    "remote": (TargetResource, (TargetResource.target_id, TargetResource.resource_id), None),
    "remote_member": (TargetMember, (TargetMember.target_id, TargetMember.group_id, TargetMember.member_id), None),
}
"""Each part's table, the key its pages go by, and which rows."""


def export_archive(scope: Scope, path: Path, progress: Callable[[int, int], None] | None = None) -> dict[str, int]:
    """Write everything of the tenant's directory; returns how many lines of each part.

    The file appears whole or not at all, readable by its owner alone. `progress` is told how many lines of how many
    are written. Raises OSError.
    """
    assert scope.tenant_id is not None
    digest = hashlib.sha256()
    with unit(scope) as session, replacing(path) as file:
        # One snapshot for all pages: what commits meanwhile is in it as a whole or not at all.
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        session.execute(_PATIENT)
        counts = {part: _count(part) for part in _SOURCES}
        total, done = sum(counts.values()), 0

        def write(line: Mapping[str, Any]) -> None:
            raw = orjson.dumps(line) + b"\n"
            digest.update(raw)
            file.write(raw)

        write(lines.header(scope.tenant_id, scope.slug or "", counts))
        for part in _SOURCES:
            for page in _pages(part):
                for row in page:
                    write(lines.written(part, row))
                done += len(page)
                if progress is not None:
                    progress(done, total)
        file.write(orjson.dumps(lines.trailer(counts, digest.digest())) + b"\n")
    return counts


def _count(part: str) -> int:
    table, _, which = _SOURCES[part]
    statement = sa.select(sa.func.count()).select_from(table)
    return int(db.session().execute(statement if which is None else statement.where(which)).scalar_one())


def _pages(part: str) -> Iterator[list[Mapping[str, Any]]]:
    table, key, which = _SOURCES[part]
    fields: list[Any] = [
        _ELSEWHERE.get((part, name), getattr(table, name, None)).label(name)  # type: ignore[union-attr]
        for name in lines.PARTS[part]
    ]
    places = [column.label(f"place{number}") for number, column in enumerate(key)]
    statement = sa.select(*fields, *places).order_by(*key).limit(AT_ONCE)
    if which is not None:
        statement = statement.where(which)
    if part == "link":
        statement = statement.join(LinkRecord, LinkRecord.link_no == Link.no)
    after: tuple[Any, ...] | None = None
    while True:
        paged = statement if after is None else statement.where(sa.tuple_(*key) > sa.tuple_(*after))
        page: list[Mapping[str, Any]] = [dict(row._mapping) for row in db.session().execute(paged)]
        if page:
            yield page
        if len(page) < AT_ONCE:
            return
        after = tuple(page[-1][label.name] for label in places)
