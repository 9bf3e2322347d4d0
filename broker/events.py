"""The audit log and the outbox: what changed, and who is owed the news.

`record` writes a batch of changes as events and, for every subscriber, the deliveries they owe: a handful of
statements in the transaction of the change, whatever the size of the batch. Delivering is the subscriber's.
A delivery names a resource, never a delta: the subscriber sends its present state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from . import ids
from .context import Actor, current_actor, current_request_id
from .db import after_commit, arrays, connection, current_scope, db
from .models import Delivery

Owed = Callable[[sa.FromClause], sa.Select[Any]]
"""From the batch (columns `name`, `resource_type`, `resource_id`) to a select of the deliveries it owes:
columns `target_id`, `resource_type`, `resource_id`, `task`, `lane`."""


@dataclass(slots=True)
class Changes:
    """A batch of changes, column by column."""

    names: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    def add(self, name: str, resource_type: str, resource_id: str, changed: Any = ()) -> None:
        """`changed`: the attribute paths that differ, or a small object; it is shown in the audit log, so never a
        secret."""
        self.names.append(name)
        self.types.append(resource_type)
        self.ids.append(resource_id)
        self.changed.append(orjson.dumps(changed, default=list).decode())

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, slots=True)
class _Subscriber:
    name: str
    to: tuple[str, ...]
    owed: Owed
    among: sa.FromClause | None


_subscribers: list[_Subscriber] = []
_bells: list[Callable[[], None]] = []


def subscribe(name: str, *, to: Sequence[str], among: sa.FromClause | None = None) -> Callable[[Owed], Owed]:
    """Register who is owed deliveries for events whose names match the patterns in `to` (`user.*`).

    `among`: the table of those who can be owed anything; most tenants have none of them, and are spared the query.
    """

    def register(owed: Owed) -> Owed:
        _subscribers[:] = [known for known in _subscribers if known.name != name]
        _subscribers.append(_Subscriber(name, tuple(to), owed, among))
        return owed

    return register


def on_owed(ring: Callable[[], None]) -> None:
    """Called after a commit that owes deliveries. A nudge only: the clock's sweep is the guarantee."""
    _bells.append(ring)


_INSERT = """
    WITH told AS (
        INSERT INTO events (tenant_id, id, name, actor_kind, actor_id, credential_id,
                            resource_type, resource_id, changed, request_id)
        SELECT :tenant, u.id, u.name, :actor_kind, :actor_id, :credential, u.type, u.resource, u.changed::jsonb,
               :request
        FROM unnest(CAST(:ids AS text[]), CAST(:names AS text[]), CAST(:types AS text[]),
                    CAST(:resources AS text[]), CAST(:changed AS text[])) AS u(id, name, type, resource, changed))
    SELECT <anybody>
"""
"""Answers, subscriber by subscriber, whether there is anybody who could be owed something."""


def record(changes: Changes, *, tenant_id: str | None = None, actor: Actor | None = None) -> None:
    """Write the events and owe the deliveries, in the open unit of work.

    `tenant_id` is given only in a unit of work that spans tenants, and says whose log this is.
    """
    if not changes:
        return
    tenant = current_scope().tenant_id or tenant_id
    if tenant is None:
        raise ValueError("events of a unit of work that spans tenants must name the tenant")
    actor = actor or current_actor()
    subscribers = tuple(_subscribers)
    anybody = db.session().execute(
        _inserting(subscribers),
        arrays(
            {
                "tenant": tenant,
                "actor_kind": actor.kind,
                "actor_id": actor.id,
                "credential": actor.credential_id,
                "request": current_request_id(),
                "ids": ids.new_many("evt", len(changes)),
                "names": changes.names,
                "types": changes.types,
                "resources": changes.ids,
                "changed": changes.changed,
            }
        ),
    )
    for subscriber, is_anybody in zip(subscribers, anybody.one(), strict=True):
        wanted = [
            index
            for index, name in enumerate(changes.names)
            if is_anybody and any(fnmatchcase(name, pattern) for pattern in subscriber.to)
        ]
        if wanted:
            _owe(subscriber, changes, wanted, tenant)


@lru_cache(maxsize=8)
def _inserting(subscribers: Sequence[_Subscriber]) -> sa.TextClause:
    tables = (subscriber.among for subscriber in subscribers)
    asked = ["true" if table is None else f"EXISTS (SELECT FROM {table} WHERE tenant_id = :tenant)" for table in tables]
    return sa.text(_INSERT.replace("<anybody>", ", ".join(asked)))


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A subscriber's insert as text. `tenant` names those of its parameters that are the tenant's id."""

    text: str
    parameters: Mapping[str, Any]
    tenant: frozenset[str]


_prepared: dict[tuple[_Subscriber, bool], _Prepared] = {}


def _owe(subscriber: _Subscriber, changes: Changes, wanted: Sequence[int], tenant: str) -> None:
    # Building and compiling the query took half of a small write; it is the same for every tenant.
    key = subscriber, current_scope().spans_tenants
    prepared = _prepared.get(key)
    if prepared is None:
        prepared = _prepared[key] = _prepare(subscriber, tenant)
    columns = zip(_BATCH, (changes.names, changes.types, changes.ids), strict=True)
    parameters = {
        **prepared.parameters,
        **dict.fromkeys(prepared.tenant, tenant),
        **arrays({name: [source[index] for index in wanted] for name, source in columns}),
    }
    db.session().flush()
    connection().exec_driver_sql(prepared.text, parameters)
    _ring()


_BATCH = ("batch_names", "batch_types", "batch_ids")


def _prepare(subscriber: _Subscriber, tenant: str) -> _Prepared:
    text_array = pg.ARRAY(sa.Text)
    batch = (
        sa.func.unnest(*(sa.cast(sa.bindparam(name, "{}", sa.Text), text_array) for name in _BATCH))
        .table_valued("name", "resource_type", "resource_id", name="batch")
        .render_derived()
    )
    dialect = connection().dialect
    compiled = _insert(subscriber.owed(batch), tenant).compile(
        dialect=dialect, compile_kwargs={"render_postcompile": True}
    )
    fixed = {name: value for name, value in compiled.params.items() if name not in _BATCH}
    names = frozenset(name for name, value in fixed.items() if value == tenant)
    return _Prepared(str(compiled), fixed, names)


def owe(owed: sa.Select[Any], tenant: str) -> None:
    """Insert the deliveries a select names; one that is already owed is raised to a new generation instead."""
    db.session().execute(_insert(owed, tenant))
    _ring()


def _ring() -> None:
    for ring in _bells:
        after_commit(ring)


def _insert(owed: sa.Select[Any], tenant: str) -> pg.Insert:
    source = owed.subquery("owed")
    insert = pg.insert(Delivery)
    return insert.from_select(
        ["tenant_id", "target_id", "resource_type", "resource_id", "task", "lane"],
        sa.select(
            sa.literal(tenant),
            source.c.target_id,
            source.c.resource_type,
            source.c.resource_id,
            source.c.task,
            source.c.lane,
        )
        .ext(pg.distinct_on(source.c.target_id, source.c.resource_type, source.c.resource_id, source.c.task))
        .order_by(source.c.target_id, source.c.resource_type, source.c.resource_id, source.c.task),
    ).on_conflict_do_update(
        index_elements=["tenant_id", "target_id", "resource_type", "resource_id", "task"],
        set_={
            "generation": Delivery.generation + 1,
            "status": "pending",
            "attempts": 0,
            "cursor": None,
            "approved": False,
            "due_at": sa.func.now(),
            "updated_at": sa.func.now(),
        },
    )
