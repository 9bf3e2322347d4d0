"""An archive imported into a tenant: batch by batch, each in a transaction, and taken up where it was.

Owns the run and its mark, whether ids are kept or renewed, and which provider or target here is meant by one of the
archive. What may be written, and what is refused, is the directory's and `remotes`'.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from broker import access, ids
from broker.context import Scope, current_actor
from broker.db import db, refresh_statistics, unit
from broker.directory import Directory, Restored
from broker.directory.rows import PREFIX
from broker.errors import Conflict, Problem, ValidationFailed
from broker.models import ArchiveRefusal, ArchiveRun, IdentityProvider, Resource, RoleAssignment
from broker.policy import Where, at_least_as_wide

from . import remotes
from .lines import PARTS, Contents, Line, examined, items

AT_ONCE = 500
"""Lines of a transaction."""
_MANY = 5_000
"""Lines after which the planner is told how large the directory has become."""
_REHEARSED = 1_000
"""Refusals of a dry run that are kept; all are counted."""

T = TypeVar("T")
Progress = Callable[[ArchiveRun], None]

_ELSEWHERE = sa.text("SELECT id FROM scaikey_find_elsewhere(ARRAY[CAST(:id AS text)])")
_NAMES = re.compile(rf"(\.\./[A-Za-z]+/)?((?:{'|'.join(PREFIX.values())})_[0-7][0-9a-v]{{25}})")
IDS = frozenset({"id", "manager_id", "parent_id", "resource_id", "group_id", "member_id"})
_FREE = frozenset({"document", "local", "pins"})


class _Rehearsed(Exception):
    """Ends the transaction of a dry run."""


@dataclass
class _Places:
    """What the archive's names stand for here."""

    renew: bool = False
    providers: dict[str, str] = field(default_factory=dict)
    targets: dict[str, str | None] = field(default_factory=dict)
    refused: list[ArchiveRefusal] = field(default_factory=list)


def import_archive(scope: Scope, path: Path, *, dry_run: bool = False, progress: Progress | None = None) -> ArchiveRun:
    """Take in what the archive holds and is not here yet; returns the run.

    A run of the same archive that was interrupted goes on. Raises Broken (the file, before anything is written),
    ValidationFailed (a provider is missing), LimitExceeded, Conflict (others import, or take names), OSError.
    """
    contents = examined(path)
    with unit(scope):
        places = _places(scope, contents)
        run = _taken_up(contents) if not dry_run else None
    if run is None:
        run = _begun(scope, contents, dry_run, places)
    try:
        if dry_run:
            _rehearse(scope, run, path, places, progress)
        else:
            for batch in _batches(path, run):
                with unit(scope):
                    _take(scope, run, batch, places)
                if progress is not None:
                    progress(run)
    except Problem as problem:
        _end(scope, run, "failed", problem.detail)
        raise
    _end(scope, run, "done")
    if not dry_run and run.created >= _MANY:
        refresh_statistics()
    return run


def _rehearse(scope: Scope, run: ArchiveRun, path: Path, places: _Places, progress: Progress | None) -> None:
    """Everything in one transaction that is given up at the end: later lines name what earlier ones bring."""
    refused: list[Mapping[str, Any]] = []
    try:
        with unit(scope):
            for batch in _batches(path, run):
                refused += _take(scope, run, batch, places)[: _REHEARSED - len(refused)]
                if progress is not None:
                    progress(run)
            raise _Rehearsed
    except _Rehearsed:
        with unit(scope) as session:
            session.add_all(ArchiveRefusal(**row) for row in refused)


def _places(scope: Scope, contents: Contents) -> _Places:
    """Raises ValidationFailed when a provider of the archive is not here."""
    places = _Places(renew=_renews(scope, contents.first))
    here = db.session().execute(sa.select(IdentityProvider.id, IdentityProvider.kind, IdentityProvider.name)).all()
    missing = {}
    for line in contents.named:
        if line.part != "provider":
            continue
        said = line.values
        same = [row.id for row in here if row.id == said["id"] and row.kind == said["kind"]]
        same = same or [row.id for row in here if (row.kind, row.name) == (said["kind"], said["name"])]
        if same:
            places.providers[said["id"]] = same[0]
        else:
            text = f"Make an identity provider of kind {said['kind']} called {said['name']!r} first."
            missing[f"line {line.number}, /name"] = [text]
    if missing:
        raise ValidationFailed("The archive names identity providers that are not here", errors=missing)
    targets = [line for line in contents.named if line.part == "target"]
    places.targets = remotes.destinations([line.values for line in targets])
    for line in targets:
        if places.targets[line.values["id"]] is None:
            text = "What is known of this target is not taken: there is no paused target of this base_url here."
            places.refused.append(ArchiveRefusal(line=line.number, path="/base_url", detail=text))
    return places


def _renews(scope: Scope, first: str | None) -> bool:
    """Whether ids are given anew: they are another tenant's, or were given anew before."""
    if first is None or scope.tenant_id is None:
        return False
    session = db.session()
    asked = [first, ids.renewed(first, scope.tenant_id)]
    here = set(session.scalars(sa.select(Resource.id).where(Resource.id.in_(asked))))
    if here:
        return first not in here
    return session.execute(_ELSEWHERE, {"id": first}).first() is not None


def _taken_up(contents: Contents) -> ArchiveRun | None:
    """The latest run of this archive, if it did not come to its end."""
    session = db.session()
    run = session.scalars(
        sa.select(ArchiveRun)
        .where(ArchiveRun.digest == contents.digest, ArchiveRun.dry_run.is_(False))
        .order_by(ArchiveRun.no.desc())
        .limit(1)
    ).first()
    if run is None or run.status == "done":
        return None
    run.status, run.problem, run.finished_at = "running", None, None
    session.flush()
    session.refresh(run)
    session.expunge(run)
    return run


def _begun(scope: Scope, contents: Contents, dry_run: bool, places: _Places) -> ArchiveRun:
    with unit(scope) as session:
        run = ArchiveRun(
            id=ids.new("arc"),
            digest=contents.digest,
            dry_run=dry_run,
            line=0,
            total=contents.lines,
            requested_by=current_actor().id,
        )
        session.add(run)
        session.flush()
        for row in places.refused:
            row.run_id = run.id
            session.add(row)
        session.flush()
        session.refresh(run)
        session.expunge(run)
        return run


def _batches(path: Path, run: ArchiveRun) -> Iterator[list[Line]]:
    """The lines that are left, so many at once of one part."""
    for _, lines in groupby(items(path, run.line, run.position), attrgetter("part")):
        while batch := list(islice(lines, AT_ONCE)):
            yield batch


def _take(scope: Scope, run: ArchiveRun, batch: Sequence[Line], places: _Places) -> list[Mapping[str, Any]]:
    """Write one batch, and how far the run has come; returns what was refused, where and why.

    Raises Conflict when another process does the same.
    """
    done, refused = _written(scope, batch, places)
    last = batch[-1]
    session = db.session()
    told: list[Mapping[str, Any]] = [
        {"run_id": run.id, "line": batch[index].number, "path": path, "detail": detail}
        for index, path, detail in done.refused
    ]
    session.add_all(ArchiveRefusal(**row) for row in told)
    session.flush()
    now = {
        "line": last.number,
        "position": last.end,
        "created": run.created + done.created,
        "unchanged": run.unchanged + done.unchanged,
        "refused": run.refused + refused,
    }
    moved = session.execute(
        sa.update(ArchiveRun)
        .where(ArchiveRun.id == run.id, ArchiveRun.line == run.line, ArchiveRun.status == "running")
        .values(now)
        .execution_options(synchronize_session=False)
    )
    if moved.rowcount != 1:  # type: ignore[attr-defined]
        raise Conflict("This archive is being imported by somebody else")
    for name, value in now.items():
        setattr(run, name, value)
    return told


def _written(scope: Scope, batch: Sequence[Line], places: _Places) -> tuple[Restored, int]:
    """What became of a batch, and how many of its lines were refused."""
    part = batch[0].part
    assert scope.tenant_id is not None
    if part == "provider":
        return Restored(unchanged=len(batch)), 0
    if part == "target":
        lost = sum(places.targets[line.values["id"]] is None for line in batch)
        return Restored(unchanged=len(batch) - lost), lost
    if part in ("remote", "remote_member"):
        staying = [line for line in batch if _named(line, "target_id", places.targets) is not None]
    else:
        staying = list(batch)
    values = [_here(line, places, scope.tenant_id) for line in staying]
    match part:
        case "remote":
            done = remotes.resources(scope.tenant_id, values)
        case "remote_member":
            done = remotes.members(scope.tenant_id, values)
        case "link":
            guarded = _guarded(scope, [item["resource_id"] for item in values])
            done = Directory(scope).restore("link", values, guarded=guarded)
        case _:
            done = Directory(scope).restore(part, values)  # type: ignore[arg-type]
    return done, len(done.refused) + len(batch) - len(staying)


def _guarded(scope: Scope, wanted: Sequence[str | None]) -> frozenset[str]:
    """Those whose roles are wider than the importer's."""
    actor = current_actor()
    if actor.kind == "system":
        return frozenset()
    holders = db.session().scalars(
        sa.select(RoleAssignment.principal_id).where(RoleAssignment.principal_id.in_({id for id in wanted if id}))
    )
    here = Where.of(scope)
    return frozenset(id for id in set(holders) if not at_least_as_wide(actor, access.grants_of(id), here))


def _here(line: Line, places: _Places, tenant: str) -> dict[str, Any]:
    """The values of a line as they are called here."""
    values = dict(line.values)
    for name in ("provider_id", "via"):
        if values.get(name) is not None:
            values[name] = _named(line, name, places.providers)
    if "target_id" in values:
        values["target_id"] = _named(line, "target_id", places.targets)
    if not places.renew:
        return values
    for name in PARTS[line.part]:
        value = values[name]
        if name in IDS and value is not None:
            values[name] = ids.renewed(value, tenant)
        elif name in _FREE:
            values[name] = renewed(value, tenant)
    if line.part == "membership" and line.values["member_key"] == line.values["member_id"]:
        values["member_key"] = values["member_id"]
    return values


def _named(line: Line, name: str, known: Mapping[str, T]) -> T:
    """What a provider or target of the archive is here. Raises ValidationFailed when no line has named it."""
    if line.values[name] not in known:
        where = f"line {line.number}, /{name}"
        raise ValidationFailed(errors={where: ["The archive does not say what this is."]})
    return known[line.values[name]]


def renewed(value: Any, tenant: str) -> Any:
    """A JSON value in which every id of a resource is given anew."""
    match value:
        case str():
            named = _NAMES.fullmatch(value)
            return f"{named[1] or ''}{ids.renewed(named[2], tenant)}" if named else value
        case list():
            return [renewed(item, tenant) for item in value]
        case Mapping():
            return {key: renewed(item, tenant) for key, item in value.items()}
    return value


def _end(scope: Scope, run: ArchiveRun, status: str, problem: str | None = None) -> None:
    with unit(scope) as session:
        row = session.get_one(ArchiveRun, (scope.tenant_id, run.id))
        for name in ("line", "position", "created", "unchanged", "refused") if run.dry_run else ():
            setattr(row, name, getattr(run, name))
        row.status, row.problem, row.finished_at = status, problem, sa.func.now()
        session.flush()
        session.refresh(row)
        session.expunge(row)
    for name in ("status", "problem", "finished_at"):
        setattr(run, name, getattr(row, name))
