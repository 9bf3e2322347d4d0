"""A tenant's directory with upstreams that say what a test wants, and the news of what became of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from broker.context import Scope, acting, system
from broker.db import unit
from broker.directory import Directory, Loss, Outcome
from broker.models import Event, IdentityProvider, Link, LinkRecord, Membership, Resource
from connectors.port import Change, Record, Ref
from tests.conftest import World, make_provider

Values = Mapping[str, str | bytes | Sequence[str | bytes]]
BASE = "DC=acme,DC=test"


def dn(name: str, place: str = "OU=People") -> str:
    return f"CN={name},{place},{BASE}"


def ref(name: str) -> Ref:
    return Ref(name.lower(), name)


def _attributes(values: Values) -> dict[str, Sequence[str | bytes]]:
    return {name: [value] if isinstance(value, (str, bytes)) else list(value) for name, value in values.items()}


def person(
    name: str,
    *,
    key: str | None = None,
    at: str | None = None,
    manager: str | None = None,
    unit: str | None = None,
    primary_group: str | None = None,
    active: bool = True,
    **values: str | bytes | Sequence[str | bytes],
) -> Record:
    """A person whose userName is `name`, mentioned by others as the DN `at`; `key` defaults to one of the name."""
    at = at or dn(name)
    return Record(
        key=key or f"key-{name}",
        kind="user",
        name=at,
        ref=at.lower(),
        attributes=_attributes({"userPrincipalName": name, "cn": name, **values}),
        manager=ref(manager) if manager else None,
        parent=ref(unit) if unit else None,
        primary_group=Ref(primary_group, primary_group) if primary_group else None,
        active=active,
    )


def group(
    name: str,
    *members: str,
    key: str | None = None,
    at: str | None = None,
    alias: str | None = None,
    silent: bool = False,
    **values: str | bytes | Sequence[str | bytes],
) -> Record:
    """A group with these member DNs; `silent`: the upstream does not say who is in it."""
    at = at or dn(name, "OU=Groups")
    return Record(
        key=key or f"key-{name}",
        kind="group",
        name=at,
        ref=at.lower(),
        attributes=_attributes({"cn": name, **values}),
        alias=alias,
        members=None if silent else tuple(ref(member) for member in members),
    )


def ou(name: str, *, parent: str | None = None, at: str | None = None, key: str | None = None, **values: str) -> Record:
    at = at or f"OU={name},{BASE}"
    return Record(
        key=key or f"key-{name}",
        kind="unit",
        name=at,
        ref=at.lower(),
        attributes=_attributes({"ou": name, **values}),
        parent=ref(parent) if parent else None,
    )


def other(name: str, *, key: str | None = None, **values: str) -> Record:
    """An entry of a class that becomes nobody here."""
    return Record(key or f"key-{name}", "other", dn(name), dn(name).lower(), _attributes({"cn": name, **values}))


@dataclass(frozen=True)
class News:
    """One event."""

    name: str
    resource: str
    changed: Any

    def __iter__(self) -> Iterator[Any]:
        return iter((self.name, self.resource))


@dataclass
class Tenant:
    """One tenant's directory, as a test looks at it. Every call is a unit of work of its own."""

    scope: Scope
    _told: int = 0

    @contextmanager
    def open(self) -> Iterator[Session]:
        with acting(system("tests")), unit(self.scope) as session:
            yield session

    @contextmanager
    def directory(self) -> Iterator[Directory]:
        with self.open():
            yield Directory()

    def create(self, resource_type: str, **document: Any) -> str:
        with self.directory() as directory:
            return directory.create(resource_type, document).id

    def user(self, name: str, **document: Any) -> str:
        return self.create("User", userName=name, **document)

    def group(self, name: str, *members: str, **document: Any) -> str:
        return self.create("Group", displayName=name, members=[{"value": id} for id in members], **document)

    def put(self, resource_type: str, id: str, document: Mapping[str, Any], **how: Any) -> None:
        with self.directory() as directory:
            directory.replace(resource_type, id, document, **how)

    def remove(self, resource_type: str, id: str, **how: Any) -> None:
        with self.directory() as directory:
            directory.remove(resource_type, id, **how)

    def change(self, group_id: str, add: Sequence[str] = (), remove: Sequence[str] = (), **how: Any) -> bool:
        with self.directory() as directory:
            return directory.change_members(group_id, add, remove, **how)

    def row(self, id: str) -> Resource:
        with self.open() as session:
            row = session.scalars(sa.select(Resource).where(Resource.id == id)).one()
            session.expunge(row)
            return row

    def document(self, id: str) -> dict[str, Any]:
        document: dict[str, Any] = orjson.loads(self.row(id).document)
        return document

    def id(self, name: str) -> str:
        """The live resource of that userName or displayName."""
        with self.open() as session:
            wanted = sa.select(Resource.id).where(Resource.name == name, Resource.removed_at.is_(None))
            return session.scalars(wanted).one()

    def names(self, resource_type: str = "User") -> list[str]:
        with self.open() as session:
            live = sa.select(Resource.name).where(Resource.type == resource_type, Resource.removed_at.is_(None))
            return sorted(session.scalars(live))

    def members(self, group_id: str) -> set[str]:
        """Names of those who are in the group itself."""
        with self.open() as session:
            return set(
                session.scalars(
                    sa.select(Resource.name)
                    .join(Membership, Membership.member_id == Resource.id)
                    .where(Membership.group_id == group_id)
                )
            )

    def raws(self, group_id: str) -> list[str | None]:
        """The member list as the upstream wrote it."""
        with self.open() as session:
            rows = sa.select(Membership.raw).where(Membership.group_id == group_id, Membership.kind == "member")
            return list(session.scalars(rows.order_by(Membership.ordinal)))

    def news(self) -> list[News]:
        """The events since the last call, in order."""
        with self.open() as session:
            found = session.execute(
                sa.select(Event.no, Event.name, Event.resource_id, Event.changed)
                .where(Event.no > self._told)
                .order_by(Event.no)
            ).all()
        if found:
            self._told = found[-1][0]
        return [News(name, resource, changed) for _, name, resource, changed in found]

    def happened(self) -> list[str]:
        """The names of the events since the last call, in order of name."""
        return sorted(event.name for event in self.news())


@dataclass
class Upstream:
    """One provider of a tenant, and the passes over it."""

    tenant: Tenant
    id: str
    run_no: int = 1
    _numbers: Iterator[int] = field(default_factory=lambda: count(2))

    def next_run(self) -> Upstream:
        self.run_no = next(self._numbers)
        return self

    @contextmanager
    def open(self) -> Iterator[tuple[Directory, IdentityProvider]]:
        with self.tenant.open() as session:
            yield Directory(), session.get_one(IdentityProvider, (self.tenant.scope.tenant_id, self.id))

    def apply(self, *changes: Change, floor: int = 5) -> Outcome:
        """One page of the present pass."""
        with self.open() as (directory, via):
            return directory.apply(changes, via, self.run_no, halving_floor=floor)

    def losses(self) -> list[Loss]:
        """What the present pass, now complete, did not meet or found disabled."""
        with self.open() as (directory, via):
            return [*directory.absent(via, self.run_no), *directory.disables(via)]

    def take_away(self, losses: Sequence[Loss] | None = None) -> Outcome:
        losses = self.losses() if losses is None else losses
        with self.open() as (directory, via):
            return directory.take_away(losses, via, self.run_no)

    def finish(self, losses: Sequence[Loss] = ()) -> Outcome:
        """End the present pass: put right whom it mistook, and take away what it did not meet."""
        with self.open() as (directory, via):
            directory.correct(via, self.run_no)
        return self.take_away([*losses, *self.losses()])

    def pass_over(self, *changes: Change) -> Outcome:
        """A whole pass in one page, with everything it takes away."""
        self.next_run()
        applied = self.apply(*changes)
        self.finish(applied.losses)
        return applied

    def link(self, key: str) -> Link:
        with self.tenant.open() as session:
            link = session.scalars(sa.select(Link).where(Link.provider_id == self.id, Link.key == key)).one()
            session.expunge(link)
            return link

    def resource(self, key: str) -> str:
        """The id of the resource this record is linked to."""
        id = self.link(key).resource_id
        assert id is not None
        return id

    def record(self, key: str) -> bytes:
        with self.tenant.open() as session:
            return session.scalars(
                sa.select(LinkRecord.record)
                .join(Link, Link.no == LinkRecord.link_no)
                .where(Link.provider_id == self.id, Link.key == key)
            ).one()

    def adopt(self, key: str, resource_id: str) -> None:
        """What an administrator does who links a skipped record to somebody who is here already."""
        from broker.db import directory_writes

        with self.tenant.open() as session, directory_writes():
            link = session.scalars(sa.select(Link).where(Link.provider_id == self.id, Link.key == key)).one()
            link.resource_id, link.skipped, link.digest = resource_id, None, b""
            session.flush()

    def change(self, **fields: Any) -> None:
        """Change the provider's own row: its mapping, its priority."""
        with self.tenant.open() as session:
            via = session.get_one(IdentityProvider, (self.tenant.scope.tenant_id, self.id))
            for name, value in fields.items():
                setattr(via, name, value)


@pytest.fixture
def acme(world: World) -> Tenant:
    return Tenant(world.acme)


@pytest.fixture
def globex(world: World) -> Tenant:
    return Tenant(world.globex)


@pytest.fixture
def ad(acme: Tenant) -> Upstream:
    """The acme tenant's Active Directory."""
    return Upstream(acme, make_provider(acme.scope))


@pytest.fixture
def hr(acme: Tenant) -> Upstream:
    """A second upstream of acme, of lower rank."""
    return Upstream(acme, make_provider(acme.scope, "HR", priority=200))
