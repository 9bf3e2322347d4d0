"""Import of a large directory: ours against a per-row ORM import of the same records and against parsing and hashing
alone.

The ORM side is what most brokers do: for each record look the link up, build the same document with the same mapping,
and write
the same rows through the ORM, a commit every thousand. It runs on a share of the records between our passes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import orjson
import sqlalchemy as sa

from broker import sync
from broker.attributes import fold
from broker.context import Scope, acting, current_actor, system
from broker.db import db, directory_writes, unit
from broker.directory import layers, mapping, rows
from broker.ids import new
from broker.models import Event, IdentityProvider, Link, LinkRecord, ResourceValue, SyncRun, User
from connectors.ldap import Config, LdifDirectory
from connectors.port import Record

from . import ground


def main(arguments: list[str]) -> None:
    people = int(next((word for word in arguments if word.isdigit()), "100000"))
    sample = max(500, min(4_000, people // 5))
    with ground.servers() as (_, folder):
        before, after = folder / "before.ldif", folder / "after.ldif"
        ground.write_ldif(before, people)
        ground.write_ldif(after, people, changed=100)
        scope, provider_id = ground.tenant("bench")
        slow_scope, slow_provider = ground.tenant("bench-orm")
        ours, theirs, limits = {}, {}, {}
        with acting(system("bench")):
            for name, file in (("first import", before), ("nothing changed", before), ("1 % changed", after)):
                limits[name] = _rate(lambda file=file: _limit(file))
                theirs[name] = _rate(lambda file=file: per_row(slow_scope, slow_provider, people_of(file, sample)))
                ours[name] = _rate(lambda file=file, name=name: _ours(scope, provider_id, file, name))
        check_alike(scope, slow_scope, sample)
    ground.table(
        f"Import of {people:,} people (records per second; per-row ORM on {sample:,} of them)",
        ("", "ours", "per-row ORM", "ours / ORM", "parse + hash", "ours / limit"),
        [
            (
                name,
                f"{ours[name]:,.0f}",
                f"{theirs[name]:,.0f}",
                f"{ours[name] / theirs[name]:.1f}x",
                f"{limits[name]:,.0f}",
                f"{ours[name] / limits[name]:.2f}",
            )
            for name in ours
        ],
    )


def _rate(work: Callable[[], int]) -> float:
    started = time.perf_counter()
    done = work()
    return done / (time.perf_counter() - started)


def _ours(scope: Scope, provider_id: str, file: Path, name: str) -> int:
    run_id = sync.pull(scope, provider_id, LdifDirectory(file, Config()))
    with unit(scope) as session:
        run = session.execute(sa.select(SyncRun).where(SyncRun.id == run_id)).scalar_one()
        if run.status != "done" or (name == "nothing changed" and run.created + run.updated):
            raise AssertionError(f"{name}: {run.status}, {run.created} created, {run.updated} updated")
        return run.read


def _limit(file: Path) -> int:
    digest = mapping.compiled([]).digest
    count = 0
    for page in LdifDirectory(file, Config()).changes_since(None):
        for record in page.changes:
            if isinstance(record, Record):
                mapping.encode_record(record, digest)
                count += 1
    return count


def people_of(file: Path, sample: int) -> Iterator[Record]:
    records = (
        record
        for page in LdifDirectory(file, Config()).changes_since(None)
        for record in page.changes
        if isinstance(record, Record) and record.kind == "user"
    )
    return islice(records, sample)


def per_row(scope: Scope, provider_id: str, records: Iterable[Record]) -> int:
    count = 0
    wanted = iter(records)
    while chunk := list(islice(wanted, 1_000)):
        with unit(scope) as session, directory_writes():
            via = session.get(IdentityProvider, (scope.tenant_id, provider_id))
            assert via is not None
            provider = layers.Provider(via.id, via.priority, mapping.compiled(via.attribute_mapping))
            for record in chunk:
                _one(provider, record)
                session.flush()
                count += 1
    return count


def _one(provider: layers.Provider, record: Record) -> None:
    session = db.session()
    encoded = mapping.encode_record(record, provider.mapping.digest)
    found = session.execute(sa.select(Link).where(Link.provider_id == provider.id, Link.key == record.key))
    link = found.scalar_one_or_none()
    if link is not None and link.digest == encoded.digest:
        link.seen_run += 1
        return
    said = layers.contribution(provider, "User", record.attributes, record.active)
    row = rows.Row(link.resource_id if link and link.resource_id else new("usr"), "User")
    rows.settle(row, layers.effective(row, [said]))
    if link is None:
        user = User(id=row.id, name=row.name, name_key=fold(row.name), document=row.document)
        session.add(user)
        session.flush()
        link = Link(
            provider_id=provider.id, key=record.key, resource_id=row.id, kind="user", name=record.name, ref=record.ref
        )
        session.add(link)
        name = "user.created"
    else:
        user = session.execute(sa.select(User).where(User.id == row.id)).scalar_one()
        user.version += 1
        name = "user.updated"
    user.name, user.name_key, user.display_name, user.display_key = (
        row.name,
        row.name_key,
        row.display_name,
        row.display_key,
    )
    user.external_id, user.document = row.external_id, row.document
    link.digest, link.quiet_digest, link.alias = encoded.digest, encoded.quiet_digest, record.alias
    session.flush()
    stored = session.execute(sa.select(LinkRecord).where(LinkRecord.link_no == link.no)).scalar_one_or_none()
    if stored is None:
        session.add(LinkRecord(link_no=link.no, record=encoded.stored))
    else:
        stored.record = encoded.stored
    present = {
        (value.attribute, value.value_key, value.kind): value
        for value in session.execute(sa.select(ResourceValue).where(ResourceValue.resource_id == row.id)).scalars()
    }
    wanted = set(mapping.index_rows("User", row.read()))
    for key in present.keys() - wanted:
        session.delete(present[key])
    for number, value, kind in wanted - present.keys():
        session.add(ResourceValue(attribute=number, value_key=value, kind=kind, resource_id=row.id))
    actor = current_actor()
    session.add(
        Event(
            id=new("evt"),
            name=name,
            actor_kind=actor.kind,
            actor_id=actor.id,
            resource_type="User",
            resource_id=row.id,
            changed=[],
        )
    )


def check_alike(scope: Scope, slow_scope: Scope, sample: int) -> None:
    """The other side holds so many people, and ours the same, whose documents agree but for ids and managers."""

    def documents(where: Scope, names: Iterable[str]) -> dict[str, object]:
        with unit(where) as session:
            found = session.execute(
                sa.select(User.name, User.document).where(User.removed_at.is_(None), User.name.in_(names))
            )
            shown = {}
            for name, document in found:
                plain = orjson.loads(document)
                plain.pop("id")
                plain.get(layers.mapping.MANAGER.partition(":manager")[0], {}).pop("manager", None)
                shown[name] = plain
            return shown

    with unit(slow_scope) as session:
        names = list(session.scalars(sa.select(User.name).where(User.removed_at.is_(None))))
    mine, other = documents(scope, names), documents(slow_scope, names)
    if len(other) != sample or mine != other:
        raise AssertionError(f"the two imports disagree: {len(mine)} and {len(other)} people")
