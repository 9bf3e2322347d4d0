"""Membership rows, in sets.

Owns the writing of who is in which group: what a page of group records says, members that arrive later, primary
groups, and single
additions and removals from SCIM and administrators. A group is never loaded to change it, and a membership row says
who gave it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from connectors.port import Ref

from ..db import arrays, db
from .rows import ref_key


@dataclass(slots=True)
class Tally:
    """How many members each group gained and lost."""

    added: Counter[str] = field(default_factory=Counter)
    removed: Counter[str] = field(default_factory=Counter)

    def groups(self) -> list[str]:
        return sorted({*self.added, *self.removed})


_WANTED = """
    wanted AS MATERIALIZED (
        SELECT * FROM unnest(CAST(:groups AS text[]), CAST(:keys AS text[]), CAST(:raws AS text[]),
                             CAST(:ordinals AS int[])) AS u(group_id, member_key, raw, ordinal))
"""
_RENAME = sa.text(f"""
    WITH {_WANTED}
    UPDATE memberships m SET member_key = w.member_key, raw = w.raw, ordinal = w.ordinal
    FROM wanted w JOIN links l ON l.tenant_id = :tenant AND l.provider_id = :via AND l.ref = w.member_key
    WHERE m.tenant_id = :tenant AND m.group_id = w.group_id AND m.via = :via AND m.kind = 'member'
      AND l.resource_id IS NOT NULL AND l.gone_at IS NULL AND m.member_id = l.resource_id
      AND m.member_key <> w.member_key
      AND NOT EXISTS (SELECT 1 FROM memberships o WHERE o.tenant_id = :tenant AND o.group_id = w.group_id
                      AND o.via = :via AND o.kind = 'member' AND o.member_key = w.member_key)
""")  # noqa: S608 - constant text
_LOST = sa.text(f"""
    WITH {_WANTED}
    SELECT m.group_id, count(*) AS had, count(*) FILTER (WHERE w.member_key IS NULL) AS lost
    FROM memberships m LEFT JOIN wanted w ON w.group_id = m.group_id AND w.member_key = m.member_key
    WHERE m.tenant_id = :tenant AND m.via = :via AND m.kind = 'member' AND m.group_id = ANY(:all)
    GROUP BY m.group_id HAVING count(*) FILTER (WHERE w.member_key IS NULL) > :floor
""")  # noqa: S608 - constant text
_DROP = sa.text(f"""
    WITH {_WANTED}
    DELETE FROM memberships m WHERE m.tenant_id = :tenant AND m.via = :via AND m.kind = 'member'
      AND m.group_id = ANY(:all)
      AND NOT EXISTS (SELECT 1 FROM wanted w WHERE w.group_id = m.group_id AND w.member_key = m.member_key)
    RETURNING m.group_id
""")  # noqa: S608 - constant text
_ADD = sa.text(f"""
    WITH {_WANTED}
    INSERT INTO memberships AS m (tenant_id, group_id, member_id, member_key, raw, ordinal, via, kind)
    SELECT :tenant, w.group_id, l.resource_id, w.member_key, w.raw, w.ordinal, :via, 'member'
    FROM wanted w LEFT JOIN LATERAL (
        SELECT l.resource_id FROM links l WHERE l.tenant_id = :tenant AND l.provider_id = :via
          AND l.ref = w.member_key AND l.gone_at IS NULL AND l.kind IN ('user', 'group')
        ORDER BY l.resource_id LIMIT 1) l ON true
    ON CONFLICT (tenant_id, group_id, via, kind, member_key)
    DO UPDATE SET raw = EXCLUDED.raw, ordinal = EXCLUDED.ordinal
    WHERE (m.raw, m.ordinal) IS DISTINCT FROM (EXCLUDED.raw, EXCLUDED.ordinal)
    RETURNING m.group_id, (xmax = 0) AS new
""")  # noqa: S608 - constant text


def lost_by_halving(
    tenant: str, via: str, wanted: Mapping[str, Sequence[Ref]], floor: int
) -> dict[str, tuple[int, int]]:
    """Groups that would lose at least half of their members and more than `floor`: group → (had, would lose)."""
    found = _run(_LOST, tenant, via, wanted, floor=floor)
    return {group: (had, lost) for group, had, lost in found if 2 * lost >= had}


def follow_renames(tenant: str, via: str, wanted: Mapping[str, Sequence[Ref]]) -> None:
    """A member that only changed its name (its DN) stays the same member."""
    _run(_RENAME, tenant, via, wanted, rows=False)


def write(tenant: str, via: str, wanted: Mapping[str, Sequence[Ref]], tally: Tally) -> None:
    """Make each group's members from this upstream exactly these, in this order; others' memberships stay."""
    if not wanted:
        return
    tally.removed.update(group for (group,) in _run(_DROP, tenant, via, wanted))
    add(tenant, via, wanted, tally)


def add(tenant: str, via: str, wanted: Mapping[str, Sequence[Ref]], tally: Tally) -> None:
    """Give each group the members it lacks; nobody leaves."""
    if wanted:
        tally.added.update(group for group, new in _run(_ADD, tenant, via, wanted) if new)


def _run(
    statement: sa.TextClause,
    tenant: str,
    via: str,
    wanted: Mapping[str, Sequence[Ref]],
    *,
    rows: bool = True,
    **more: Any,
) -> Sequence[Any]:
    groups, keys, raws, ordinals = [], [], [], []
    for group, members in wanted.items():
        seen: Counter[str] = Counter()
        for ordinal, member in enumerate(members):
            key = ref_key(member.key)
            seen[key] += 1
            groups.append(group)
            keys.append(key if seen[key] == 1 else f"{key}#{seen[key]}")
            raws.append(member.raw)
            ordinals.append(ordinal)
    result = db.session().execute(
        statement,
        arrays(
            {
                "tenant": tenant,
                "via": via,
                "groups": groups,
                "keys": keys,
                "raws": raws,
                "ordinals": ordinals,
                "all": list(wanted),
                **more,
            }
        ),
    )
    return result.all() if rows else ()


_ARRIVED = sa.text("""
    UPDATE memberships m SET member_id = l.resource_id FROM links l
    WHERE l.tenant_id = :tenant AND l.provider_id = :via AND l.key = ANY(:keys) AND l.resource_id IS NOT NULL
      AND l.kind IN ('user', 'group') AND m.tenant_id = :tenant AND m.via = :via AND m.member_id IS NULL
      AND m.kind = 'member' AND m.member_key = l.ref
    RETURNING m.group_id
""")
_LEAVE_PRIMARY = sa.text("""
    WITH u AS MATERIALIZED (
        SELECT * FROM unnest(CAST(:users AS text[]), CAST(:refs AS text[])) AS u(user_id, ref)),
    mine AS MATERIALIZED (
        SELECT m.no, m.group_id, u.ref FROM u JOIN memberships m
          ON m.tenant_id = :tenant AND m.member_id = u.user_id AND m.kind = 'primary' AND m.via = :via)
    DELETE FROM memberships m USING mine
    WHERE m.tenant_id = :tenant AND m.no = mine.no
      AND NOT EXISTS (SELECT 1 FROM links g WHERE g.tenant_id = :tenant AND g.provider_id = :via
                      AND g.alias = mine.ref AND g.resource_id = mine.group_id)
    RETURNING m.group_id
""")
_JOIN_PRIMARY_USERS = sa.text("""
    WITH g AS MATERIALIZED (
        SELECT alias, resource_id FROM links WHERE tenant_id = :tenant AND provider_id = :via
          AND alias = ANY(:distinct) AND kind = 'group' AND resource_id IS NOT NULL AND gone_at IS NULL)
    INSERT INTO memberships (tenant_id, group_id, member_id, member_key, via, kind)
    SELECT :tenant, g.resource_id, u.user_id, u.user_id, :via, 'primary'
    FROM unnest(CAST(:users AS text[]), CAST(:refs AS text[])) AS u(user_id, ref) JOIN g ON g.alias = u.ref
    ON CONFLICT DO NOTHING RETURNING group_id
""")
_JOIN_PRIMARY_GROUPS = sa.text("""
    INSERT INTO memberships (tenant_id, group_id, member_id, member_key, via, kind)
    SELECT :tenant, g.group_id, l.resource_id, l.resource_id, :via, 'primary'
    FROM unnest(CAST(:groups AS text[]), CAST(:aliases AS text[])) AS g(group_id, alias)
    CROSS JOIN LATERAL (
        SELECT l.resource_id FROM links l WHERE l.tenant_id = :tenant AND l.provider_id = :via
          AND l.primary_ref = g.alias AND l.resource_id IS NOT NULL AND l.gone_at IS NULL AND l.kind = 'user'
          AND l.skipped IS NULL OFFSET 0) l
    ON CONFLICT DO NOTHING RETURNING group_id
""")


def arrived(tenant: str, via: str, keys: Sequence[str], tally: Tally) -> None:
    """Members that were waited for under these upstream keys are here now."""
    if keys:
        values = {"tenant": tenant, "via": via, "keys": list(keys)}
        tally.added.update(db.session().execute(_ARRIVED, arrays(values)).scalars())


def follow_primary(
    tenant: str, via: str, users: Mapping[str, str | None], groups: Mapping[str, str], tally: Tally
) -> None:
    """Primary groups, which no member list names.

    `users`: person → alias of the primary group the record names now; `groups`: group that has just arrived → its
    alias.
    """
    session = db.session()
    where = {"tenant": tenant, "via": via}
    if users:
        values = {**where, "users": list(users), "refs": list(users.values())}
        tally.removed.update(session.execute(_LEAVE_PRIMARY, arrays(values)).scalars())
        named = sorted({ref for ref in users.values() if ref is not None})
        if named:
            found = session.execute(_JOIN_PRIMARY_USERS, arrays({**values, "distinct": named}))
            tally.added.update(found.scalars())
    if groups:
        values = {**where, "groups": list(groups), "aliases": list(groups.values())}
        tally.added.update(session.execute(_JOIN_PRIMARY_GROUPS, values).scalars())


_FORGET = sa.text("""
    WITH dropped AS (
        DELETE FROM memberships WHERE tenant_id = :tenant AND member_id = ANY(:ids)
          AND (via IS NULL OR kind = 'primary') RETURNING group_id),
    waiting AS (
        UPDATE memberships SET member_id = NULL WHERE tenant_id = :tenant AND member_id = ANY(:ids)
          AND via IS NOT NULL AND kind = 'member' RETURNING group_id),
    emptied AS (
        DELETE FROM memberships WHERE tenant_id = :tenant AND group_id = ANY(:ids) RETURNING 1)
    SELECT group_id FROM dropped UNION ALL SELECT group_id FROM waiting
""")


def forget(tenant: str, ids: Sequence[str], tally: Tally) -> None:
    """These resources are removed: they leave their groups, and groups among them lose their members.

    What an upstream's member list still names goes back to waiting, so that a revived person is in again.
    """
    gone = set(ids)
    found = db.session().execute(_FORGET, {"tenant": tenant, "ids": list(ids)}).scalars()
    tally.removed.update(group for group in found if group not in gone)


_KNOWN = sa.text("""
    SELECT id FROM resources WHERE tenant_id = :tenant AND id = ANY(:ids) AND removed_at IS NULL
      AND type IN ('User', 'Group') AND user_type IS DISTINCT FROM 'ServiceAccount'
""")
_ADD_LOCAL = sa.text("""
    INSERT INTO memberships (tenant_id, group_id, member_id, member_key, kind)
    SELECT :tenant, :group, m, m, 'member' FROM unnest(CAST(:ids AS text[])) AS m
    WHERE NOT EXISTS (SELECT 1 FROM memberships o WHERE o.tenant_id = :tenant AND o.group_id = :group
                      AND o.member_id = m)
    ON CONFLICT DO NOTHING RETURNING member_id
""")
_DROP_LOCAL = sa.text("""
    DELETE FROM memberships WHERE tenant_id = :tenant AND group_id = :group AND via IS NULL AND member_id = ANY(:ids)
    RETURNING member_id
""")
_GIVEN = sa.text("""
    SELECT DISTINCT member_id FROM memberships WHERE tenant_id = :tenant AND group_id = :group
      AND via IS NOT NULL AND member_id = ANY(:ids)
""")
_LOCAL = sa.text("""
    SELECT DISTINCT member_id, bool_or(via IS NULL) FROM memberships
    WHERE tenant_id = :tenant AND group_id = :group AND member_id IS NOT NULL GROUP BY member_id
""")


def unknown(tenant: str, members: Sequence[str]) -> list[str]:
    """Which of these ids are no user or group of the tenant."""
    found = set(db.session().execute(_KNOWN, {"tenant": tenant, "ids": list(members)}).scalars())
    return [member for member in members if member not in found]


def add_local(tenant: str, group: str, members: Sequence[str]) -> list[str]:
    """Add what is not in the group yet, given by nobody upstream; returns those added."""
    values = {"tenant": tenant, "group": group, "ids": list(dict.fromkeys(members))}
    return list(db.session().execute(_ADD_LOCAL, values).scalars())


def drop_local(tenant: str, group: str, members: Sequence[str]) -> tuple[list[str], list[str]]:
    """Remove memberships written here; returns (removed, those that an upstream gives and that therefore stay)."""
    values = {"tenant": tenant, "group": group, "ids": list(members)}
    session = db.session()
    removed = list(session.execute(_DROP_LOCAL, values).scalars())
    return removed, list(session.execute(_GIVEN, values).scalars())


def present(tenant: str, group: str) -> dict[str, bool]:
    """The members of one group: id → whether it was written here."""
    return {id: here for id, here in db.session().execute(_LOCAL, {"tenant": tenant, "group": group})}


_DELTA_DROP = sa.text("""
    DELETE FROM memberships WHERE tenant_id = :tenant AND group_id = :group AND via = :via AND kind = 'member'
      AND member_key = ANY(:keys) RETURNING group_id
""")
_LAST = sa.text("""
    SELECT coalesce(max(ordinal), -1) FROM memberships
    WHERE tenant_id = :tenant AND group_id = :group AND via = :via AND kind = 'member'
""")


def change(tenant: str, via: str, group: str, add: Sequence[Ref], remove: Sequence[Ref], tally: Tally) -> None:
    """An incremental change of one group's members from one upstream; new ones go to the end."""
    session = db.session()
    where = {"tenant": tenant, "group": group, "via": via}
    if remove:
        keys = [ref_key(member.key) for member in remove]
        tally.removed.update(session.execute(_DELTA_DROP, {**where, "keys": keys}).scalars())
    if add:
        last = int(session.execute(_LAST, where).scalar_one())
        values = {
            "tenant": tenant,
            "via": via,
            "groups": [group] * len(add),
            "keys": [ref_key(member.key) for member in add],
            "raws": [member.raw for member in add],
            "ordinals": list(range(last + 1, last + 1 + len(add))),
        }
        tally.added.update(found for found, new in session.execute(_ADD, arrays(values)) if new)
