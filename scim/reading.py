"""The directory read for SCIM: one resource, or a page of them, as bytes.

Owns the statements of the read path. Each is one round trip that names its tenant itself; memberships are read with
the page, for all of it at once and only when they are wanted, and totals are asked for only when the page does not
tell. Statements go to `run`: `db.hot`, or `in_unit` inside an open unit of work, which sees what the unit has written.
"""

# ruff: noqa: S608 - statements are put together from names of our own; every value is bound

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from typing import Any, NamedTuple

import psycopg.errors
import sqlalchemy.exc

from broker import ids
from broker.attributes import SCAIKEY_GROUP
from broker.db import IN_TENANT, arrays, connection
from broker.directory.mapping import SIGN_IN_KINDS, decode_record, render_extras
from broker.directory.rows import PREFIX
from broker.directory.rows import Row as Made
from broker.errors import BadRequest, NotFound

from .columns import DOCUMENT
from .filters import Sql
from .resources import Projection, Row, projected
from .schemas import RESOURCE_TYPES

Run = Callable[[str, Mapping[str, Any]], Sequence[Any]]

MOST_MEMBERS_ANSWERED = 200
"""A PATCH of a larger group is answered without the group."""
MOST_MEMBERS_SHOWN = 1_000
"""A larger group shows its first members; all of them are listed at /GroupMembers."""

_STAMP = """to_char(r.<column> AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
ROW = (
    f"r.id, r.document, r.version, {_STAMP.replace('<column>', 'created_at')} AS created, "
    f"{_STAMP.replace('<column>', 'updated_at')} AS modified"
)
_LISTS = {
    "User": """
        WITH RECURSIVE up(start, id, direct) AS (
            SELECT s.id, m.group_id, true FROM <starts>, LATERAL (
                SELECT m.group_id FROM memberships m
                WHERE m.tenant_id = scope.tenant AND m.member_id = s.id OFFSET 0) m
            UNION
            SELECT up.start, m.group_id, false FROM up, LATERAL (
                SELECT m.group_id FROM memberships m
                WHERE m.tenant_id = scope.tenant AND m.member_id = up.id OFFSET 0) m
        )
        SELECT u.start, string_agg('{"value":"' || u.id || '","$ref":"' || %(base)s::text || '/Groups/' || u.id
            || '","display":' || to_json(g.name)::text
            || CASE WHEN u.direct THEN ',"type":"direct"}' ELSE ',"type":"indirect"}' END, ',' ORDER BY u.id) AS listed,
            false AS more
        FROM (SELECT up.start, up.id, bool_or(up.direct) AS direct FROM up GROUP BY up.start, up.id) u, LATERAL (
            SELECT g.name, g.removed_at FROM resources g
            WHERE g.tenant_id = scope.tenant AND g.id = u.id OFFSET 0) g
        WHERE g.removed_at IS NULL GROUP BY u.start""",
    "Group": """
        SELECT s.id AS start, string_agg('{"value":"' || m.member_id || '","$ref":"' || %(base)s::text
            || CASE x.type WHEN 'Group' THEN '/Groups/' ELSE '/Users/' END || m.member_id
            || '","type":"' || x.type || '"'
            || CASE WHEN %(named)s::boolean THEN ',"display":' || to_json(x.name)::text ELSE '' END
            || '}', ',' ORDER BY m.member_id) FILTER (WHERE m.place <= <most>) AS listed, max(m.place) > <most> AS more
        FROM <starts>, LATERAL (
            SELECT m.member_id, row_number() OVER (ORDER BY m.member_id) AS place FROM (
                SELECT DISTINCT m.member_id FROM memberships m
                WHERE m.tenant_id = scope.tenant AND m.group_id = s.id AND m.member_id IS NOT NULL
                ORDER BY m.member_id LIMIT <most> + 1) m) m, LATERAL (
            SELECT x.type, coalesce(x.display_name, x.name) AS name, x.removed_at FROM resources x
            WHERE x.tenant_id = scope.tenant AND x.id = m.member_id OFFSET 0) x
        WHERE x.removed_at IS NULL GROUP BY s.id""".replace("<most>", str(MOST_MEMBERS_SHOWN)),
}
"""Of each start, the items of the attribute that is rows, as JSON text: a person's groups, a group's first members, and
whether there are more.

Rows are looked up key by key (LATERAL, OFFSET 0), whatever the planner believes of the size of the tenant; by the key
alone, because any index of live rows serves a planner who has no statistics yet.
"""


def _one(resource_type: str, *, lists: bool) -> str:
    found = (
        f"SELECT {ROW}, r.type, r.removed_at FROM resources r "
        "WHERE r.tenant_id = scope.tenant AND r.id = %(id)s OFFSET 0"
    )
    columns = "r.id, r.document, r.version, r.created, r.modified"
    here = f"r.type = '{resource_type}' AND r.removed_at IS NULL"
    if not lists:
        return f"{IN_TENANT} SELECT {columns} FROM scope, LATERAL ({found}) r WHERE {here}"
    listed = _LISTS[resource_type].replace("<starts>", "(SELECT r.id) s")
    return (
        f"{IN_TENANT} SELECT {columns}, l.listed, coalesce(l.more, false) AS more FROM scope, LATERAL ({found}) r "
        f"LEFT JOIN LATERAL ({listed} OFFSET 0) l ON true WHERE {here}"
    )


_ONE: Mapping[str, str] = {name: _one(name, lists=False) for name in RESOURCE_TYPES}
_ONE_WITH_LIST: Mapping[str, str] = {name: _one(name, lists=True) for name in _LISTS}
_LISTED = {
    name: f"{IN_TENANT} SELECT l.* FROM scope, LATERAL ({text} OFFSET 0) l".replace(
        "<starts>", "unnest(%(ids)s::text[]) AS s(id)"
    )
    for name, text in _LISTS.items()
}
_MANY_MEMBERS = f"""{IN_TENANT} SELECT m.n FROM scope, LATERAL (
    SELECT count(*) AS n FROM (
        SELECT DISTINCT m.member_id FROM memberships m
        WHERE m.tenant_id = scope.tenant AND m.group_id = %(id)s AND m.member_id IS NOT NULL
        LIMIT {MOST_MEMBERS_ANSWERED + 1}) m OFFSET 0) m"""
_RECORDS = f"""{IN_TENANT} SELECT x.* FROM scope, LATERAL (
    SELECT r.id, r.local, r.token_name,
           (SELECT array_agg(k.record ORDER BY p.priority, p.id) FROM links l
            JOIN identity_providers p ON p.tenant_id = l.tenant_id AND p.id = l.provider_id
                AND p.kind <> ALL(%(sign_in_kinds)s::text[])
            JOIN link_records k ON k.tenant_id = l.tenant_id AND k.link_no = l.no
            WHERE l.tenant_id = scope.tenant AND l.resource_id = r.id AND l.gone_at IS NULL) AS records
    FROM resources r WHERE r.tenant_id = scope.tenant AND r.id = ANY(%(ids)s::text[]) OFFSET 0) x"""


class Page(NamedTuple):
    resources: list[bytes]
    total: int


def in_unit(statement: str, parameters: Mapping[str, Any]) -> Sequence[Any]:
    """Run a statement on the connection of the open unit of work."""
    return connection().exec_driver_sql(statement, dict(parameters)).all()


def row(run: Run, tenant: str, base: str, resource_type: str, id: str, *, lists: bool, named: bool = False) -> Row:
    """One live resource. Raises NotFound."""
    if not ids.is_id(id, PREFIX[resource_type]):
        raise NotFound
    statement = _ONE_WITH_LIST[resource_type] if lists and resource_type in _LISTS else _ONE[resource_type]
    found = run(statement, {"tenant": tenant, "base": base, "id": id, "named": named})
    if not found:
        raise NotFound
    return Row(*found[0])


def one(run: Run, tenant: str, base: str, wanted: Projection, id: str) -> tuple[Row, bytes]:
    """One live resource as the client wants it. Raises NotFound."""
    found = row(run, tenant, base, wanted.resource_type, id, lists=wanted.lists, named=wanted.names_members)
    return found, resources(run, tenant, base, wanted, [found])[0]


def new(run: Run, tenant: str, base: str, wanted: Projection, made: Made) -> tuple[Row, bytes]:
    """A resource made in this unit of work, as the client wants it. A new person is in no group yet, and everything
    else of him is in hand: he is not read back."""
    if made.arrived_at is None:
        return one(run, tenant, base, wanted, made.id)
    at = made.arrived_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    row = Row(made.id, made.document, made.version, at, at)
    return row, resources(run, tenant, base, wanted, [row])[0]


def page(
    run: Run,
    tenant: str,
    base: str,
    wanted: Projection,
    *,
    condition: Sql | None = None,
    order: Sql | None = None,
    start: int = 1,
    count: int | None = None,
) -> Page:
    """The resources of one type that satisfy `condition`, from the `start`th on (1 is the first), at most `count`.

    Service accounts are left out unless the condition speaks of userType. Raises BadRequest with the scimType tooMany
    when the answer takes longer than the statement timeout.
    """
    document = DOCUMENT if (condition and condition.reads_document) or (order and order.reads_document) else ""
    parameters = {
        "tenant": tenant,
        "base": base,
        "count": count,
        "skipped": min(start, 1 << 40) - 1,
        "named": wanted.names_members,
        **(condition.parameters if condition else {}),
    }
    counting = counted(wanted.resource_type, condition)
    found: list[Row] = []
    total: int | None = None
    if count != 0:
        chosen = (
            f"SELECT {ROW}, r.type, NULL AS key FROM resources r {document} "
            f"WHERE {live(wanted.resource_type, condition)} "
            f"ORDER BY {order.text if order else 'r.id'} LIMIT %(count)s::bigint OFFSET %(skipped)s"
        )
        # How many there are of everybody is known, and said in passing; how many satisfy a condition has to be found.
        beside = "SELECT NULL::bigint" if condition else counting
        found, total = with_lists(run, chosen, wanted, parameters, beside)
    if total is None and len(found) != count and (found or start == 1):
        total = start - 1 + len(found)
    if total is None:
        [(total,)] = timed(run, f"{IN_TENANT} SELECT r.n FROM scope, LATERAL ({counting} OFFSET 0) r", parameters)
    return Page(resources(run, tenant, base, wanted, found), total)


def with_lists(
    run: Run, chosen: str, wanted: Projection, parameters: Mapping[str, Any], beside: str = "SELECT NULL::bigint"
) -> tuple[list[Row], int | None]:
    """The rows that `chosen` selects of one type, in its order, each with its groups or members as far as those are
    wanted, and the number that `beside` selects, where there are rows. Raises BadRequest (`tooMany`).

    What is listed comes in rows of its own, behind the others: joined to them it would be put together once for each
    where the planner expects few.
    """
    statement = (
        f"{IN_TENANT}, page AS MATERIALIZED ("
        f"SELECT r.*, row_number() OVER () AS place FROM scope, LATERAL ({chosen}) r) "
        "SELECT r.id, r.document, r.version, r.created, r.modified, NULL::text AS listed, false AS more, r.type, "
        f"r.key::text, r.place, (SELECT b.* FROM scope, LATERAL ({beside} OFFSET 0) b) AS beside FROM page r"
    )
    if wanted.lists:
        of_page = _LISTS[wanted.resource_type].replace("<starts>", "page s")
        statement += (
            " UNION ALL SELECT l.start, NULL, NULL, NULL, NULL, l.listed, l.more, NULL, NULL, NULL, NULL "
            f"FROM scope, LATERAL ({of_page} OFFSET 0) l"
        )
    answer = timed(run, f"{statement} ORDER BY place", parameters)
    lists = {each.id: (each.listed, each.more) for each in answer if each.place is None}
    rows = []
    for id, document, version, created, modified, *_, kind, key, _, _ in answer[: len(answer) - len(lists)]:
        rows.append(Row(id, document, version, created, modified, *lists.get(id, (None, False)), kind, key))
    return rows, answer[0].beside if rows else None


def counted(resource_type: str, condition: Sql | None) -> str:
    """The selection of how many there are, as `n`. Of everybody it is known: see `ResourceCount`."""
    if condition is None:
        return (
            "SELECT coalesce(sum(c.resources), 0)::bigint AS n FROM resource_counts c "
            f"WHERE c.tenant_id = scope.tenant AND c.type = '{resource_type}'"
        )
    document = DOCUMENT if condition.reads_document else ""
    return f"SELECT count(*) AS n FROM resources r {document} WHERE {live(resource_type, condition)}"


def live(resource_type: str, condition: Sql | None) -> str:
    """Which rows of `resources r` a list of the type has. Service accounts are in none that does not ask for a
    userType."""
    kind = PREFIX[resource_type]
    # The bounds say nothing new. Along the primary key a page would else be looked for behind all other types.
    where = (
        f"r.tenant_id = scope.tenant AND r.type = '{resource_type}' AND r.removed_at IS NULL "
        f"AND r.id >= '{kind}_' AND r.id < '{kind}`'"
    )
    if resource_type == "User" and not (condition and condition.of_user_type):
        where += " AND r.user_type IS DISTINCT FROM 'ServiceAccount'"
    return f"{where} AND {condition.text}" if condition is not None else where


def in_full(run: Run, tenant: str, base: str, wanted: Projection, rows: list[Row]) -> list[bytes]:
    """Rows of one type as the client wants them, with the groups or members of all of them read at once."""
    if rows and wanted.lists:
        ids = [each.id for each in rows]
        starts = arrays({"tenant": tenant, "base": base, "ids": ids, "named": wanted.names_members})
        listed = {id: text for id, text, _ in run(_LISTED[wanted.resource_type], starts)}
        rows = [each._replace(listed=listed.get(each.id)) for each in rows]
    return resources(run, tenant, base, wanted, rows)


def timed(run: Run, statement: str, parameters: Mapping[str, Any]) -> Sequence[Any]:
    """Run a statement that may take too long. Raises BadRequest with the scimType tooMany."""
    try:
        return run(statement, parameters)
    except sqlalchemy.exc.OperationalError as error:
        if isinstance(error.orig, psycopg.errors.QueryCanceled):
            raise BadRequest(
                "The filter needs more work than one request may cause: filter by an indexed attribute",
                scim_type="tooMany",
            ) from None
        raise


def resources(run: Run, tenant: str, base: str, wanted: Projection, rows: Sequence[Row]) -> list[bytes]:
    """Rows of one type as the client wants them; whose groups or members are wanted has them with him."""
    if not (rows and wanted.extras):
        return [projected(base, each, wanted) for each in rows]
    extras = {}
    ids = [each.id for each in rows]
    values = arrays({"tenant": tenant, "ids": ids, "sign_in_kinds": sorted(SIGN_IN_KINDS)})
    for id, local, token_name, records in run(_RECORDS, values):
        extras[id] = render_extras(wanted.resource_type, [decode_record(record) for record in records or ()], local)
        if token_name is not None:
            extras[id][SCAIKEY_GROUP] = {"tokenName": token_name}
    return [projected(base, each, wanted, extras.get(each.id)) for each in rows]


def has_many_members(run: Run, tenant: str, group_id: str) -> bool:
    """Whether a group has more members than a PATCH is answered with."""
    [(members,)] = run(_MANY_MEMBERS, {"tenant": tenant, "id": group_id})
    return bool(members > MOST_MEMBERS_ANSWERED)
