"""Memberships as a followed upstream tells of them: single additions and removals, members who got another name, who
leave altogether and who come back.

Each costs what it is, whatever the size of the group. Whole lists are `members`'.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import sqlalchemy as sa

from connectors.port import Members, Ref

from ..db import arrays, db
from . import members
from .news import Tally
from .outcome import Leaving
from .rows import ref_key

_LAST = sa.text("""
    SELECT group_id, max(ordinal) FROM memberships WHERE tenant_id = :tenant AND via = :via AND kind = 'member'
      AND group_id = ANY(CAST(:groups AS text[])) GROUP BY group_id
""")
_FOUND = sa.text("""
    SELECT m.group_id, h.rows, array_agg(m.member_key), array_agg(m.ordinal)
    FROM unnest(CAST(:groups AS text[]), CAST(:keys AS text[])) AS u(group_id, member_key)
    LEFT JOIN LATERAL (
        SELECT l.resource_id FROM links l WHERE l.tenant_id = :tenant AND l.provider_id = :via
          AND l.ref = u.member_key AND l.gone_at IS NULL AND l.skipped IS NULL AND l.kind IN ('user', 'group')
        ORDER BY l.seen_run DESC, l.resource_id DESC LIMIT 1) l ON true
    JOIN memberships m ON m.tenant_id = :tenant AND m.via = :via AND m.kind = 'member' AND m.group_id = u.group_id
      AND (m.member_id = l.resource_id OR (m.member_key = u.member_key
           AND (l.resource_id IS NULL OR m.member_id IS NULL)))
    CROSS JOIN LATERAL (
        SELECT count(*) AS rows FROM memberships o WHERE o.tenant_id = :tenant AND o.group_id = m.group_id
          AND o.via = :via AND o.kind = 'member' OFFSET 0) h
    GROUP BY m.group_id, h.rows
""")
"""Who is meant by a name is the one who has it now; a row may still know him by an earlier one."""
_UNNAME = sa.text("""
    UPDATE memberships m SET member_key = chr(1) || m.no, raw = u.raw
    FROM unnest(CAST(:ids AS text[]), CAST(:olds AS text[]), CAST(:news AS text[]), CAST(:raws AS text[]))
         AS u(id, old, new, raw)
    WHERE m.tenant_id = :tenant AND m.via = :via AND m.kind = 'member' AND m.member_id = u.id AND m.member_key = u.old
      AND NOT EXISTS (
          SELECT 1 FROM memberships o WHERE o.tenant_id = :tenant AND o.group_id = m.group_id AND o.via = :via
            AND o.kind = 'member' AND o.member_key = u.new
            AND NOT EXISTS (SELECT 1 FROM unnest(CAST(:ids AS text[]), CAST(:olds AS text[])) AS r(id, old)
                            WHERE r.id = o.member_id AND r.old = o.member_key))
""")
_NAME = sa.text("""
    UPDATE memberships m SET member_key = u.new
    FROM unnest(CAST(:ids AS text[]), CAST(:news AS text[])) AS u(id, new)
    WHERE m.tenant_id = :tenant AND m.via = :via AND m.kind = 'member' AND m.member_id = u.id
      AND m.member_key = chr(1) || m.no
""")
_LEAVE = sa.text("""
    WITH leaving AS (
        UPDATE memberships m SET member_key = chr(1) || m.no FROM links l
        WHERE l.tenant_id = :tenant AND l.provider_id = :via AND l.key = ANY(CAST(:keys AS text[]))
          AND l.gone_at IS NULL AND m.tenant_id = :tenant AND m.member_id = l.resource_id AND m.via = :via
          AND m.kind = 'member'
        RETURNING m.group_id)
    UPDATE links g SET stale = true FROM (SELECT DISTINCT group_id FROM leaving) left_
    WHERE g.tenant_id = :tenant AND g.provider_id = :via AND g.resource_id = left_.group_id
""")
"""Lists are not what was read any more: read again, they are news, even where they say the same as they did then."""
_BACK = sa.text("""
    UPDATE memberships m SET member_key = u.key, raw = u.raw
    FROM unnest(CAST(:ids AS text[]), CAST(:keys AS text[]), CAST(:raws AS text[]), CAST(:groups AS text[]))
         AS u(id, key, raw, group_ref)
    JOIN links g ON g.ref = u.group_ref AND g.tenant_id = :tenant AND g.provider_id = :via AND g.gone_at IS NULL
    WHERE m.tenant_id = :tenant AND m.via = :via AND m.kind = 'member' AND m.group_id = g.resource_id
      AND m.member_id = u.id AND m.member_key = chr(1) || m.no
      AND NOT EXISTS (
          SELECT 1 FROM memberships o WHERE o.tenant_id = :tenant AND o.group_id = m.group_id AND o.via = :via
            AND o.kind = 'member' AND o.member_key = u.key)
""")
_COME = sa.text("""
    INSERT INTO memberships (tenant_id, group_id, member_id, member_key, raw, ordinal, via, kind)
    SELECT :tenant, g.resource_id, u.id, u.key, u.raw, last.ordinal + 1, :via, 'member'
    FROM unnest(CAST(:ids AS text[]), CAST(:keys AS text[]), CAST(:raws AS text[]), CAST(:groups AS text[]))
         AS u(id, key, raw, group_ref)
    JOIN links g ON g.ref = u.group_ref AND g.tenant_id = :tenant AND g.provider_id = :via AND g.kind = 'group'
      AND g.gone_at IS NULL AND g.skipped IS NULL AND g.resource_id IS NOT NULL
    CROSS JOIN LATERAL (
        SELECT coalesce(max(ordinal), -1) AS ordinal FROM memberships m
        WHERE m.tenant_id = :tenant AND m.group_id = g.resource_id AND m.via = :via AND m.kind = 'member') last
    WHERE NOT EXISTS (
        SELECT 1 FROM memberships m WHERE m.tenant_id = :tenant AND m.group_id = g.resource_id AND m.via = :via
          AND m.kind = 'member' AND m.member_id = u.id)
    ON CONFLICT (tenant_id, group_id, via, kind, member_key) DO NOTHING RETURNING group_id, member_id
""")


_STALE = sa.text("""
    UPDATE links SET stale = true
    WHERE tenant_id = :tenant AND provider_id = :via AND resource_id = ANY(CAST(:groups AS text[])) AND NOT stale
""")


def leave(tenant: str, via: str, keys: Sequence[str]) -> None:
    """Those with these upstream keys are gone there, though perhaps not yet here, and lists that are not read again
    still know them: by names that may be somebody else's by now, who must not take their places. See `members.forget`.
    """
    db.session().execute(_LEAVE, arrays({"tenant": tenant, "via": via, "keys": list(keys)}))


def come(tenant: str, via: str, arrivals: Sequence[tuple[str, str, str, str]], tally: Tally) -> None:
    """People and groups whose records were read, `(id, key, name, key of a group)`: they are in the groups that they
    themselves name, of which nothing else may be told, by the name they have now."""
    if arrivals:
        ids, keys, raws, groups = (list(column) for column in zip(*arrivals, strict=True))
        values = {"tenant": tenant, "via": via, "ids": ids, "keys": keys, "raws": raws, "groups": groups}
        db.session().execute(_BACK, arrays(values))
        tally.gain(db.session().execute(_COME, arrays(values)))


def rename(tenant: str, via: str, renamed: Sequence[tuple[str, str, str, str]]) -> None:
    """Members `(id, old key, new key, new name)` are called otherwise in the lists they are in; they may have exchanged
    their names. A list that knows somebody else by the new name stays until it is read."""
    if not renamed:
        return
    ids, olds, news, raws = (list(column) for column in zip(*renamed, strict=True))
    values = arrays({"tenant": tenant, "via": via, "ids": ids, "olds": olds, "news": news, "raws": raws})
    session = db.session()
    session.execute(_UNNAME, values)
    session.execute(_NAME, values)


def change(
    tenant: str, via: str, deltas: Sequence[tuple[str, Members]], tally: Tally, *, floor: int
) -> dict[str, list[Leaving]]:
    """Incremental changes of groups' members from one upstream, the last word on each member; new ones go to the end.

    A group that would lose half of its members, or one that carries a role, keeps them, as in `write`.
    """
    last: dict[tuple[str, str], Ref | None] = {}
    for group, delta in deltas:
        for member in delta.remove:
            last[group, ref_key(member.key)] = None
        for member in delta.add:
            last.pop((group, ref_key(member.key)), None)
            last[group, ref_key(member.key)] = member
    session = db.session()
    where = {"tenant": tenant, "via": via}
    if last:
        session.execute(_STALE, arrays({**where, "groups": sorted({group for group, _ in last})}))
    held: dict[str, list[Leaving]] = {}
    removing = [pair for pair, member in last.items() if member is None]
    if removing:
        groups, keys = (list(column) for column in zip(*removing, strict=True))
        found = session.execute(_FOUND, arrays({**where, "groups": groups, "keys": keys})).all()
        going: dict[str, list[Leaving]] = {}
        weighty = members.carrying_roles(tenant, set(groups))
        for group, had, found_keys, ordinals in found:
            leaving = [Leaving(key, ordinal) for key, ordinal in zip(found_keys, ordinals, strict=True)]
            halved = len(leaving) > floor and 2 * len(leaving) >= had
            (held if halved or group in weighty else going)[group] = leaving
        members.shrink(tenant, via, going, tally)
    adding = [(group, key, member.raw) for (group, key), member in last.items() if member is not None]
    if adding:
        groups, keys, raws = (list(column) for column in zip(*adding, strict=True))
        ordinals = Counter(dict(session.execute(_LAST, arrays({**where, "groups": list(set(groups))})).all()))
        places = []
        for group in groups:
            ordinals[group] += 1
            places.append(ordinals[group])
        columns = {"groups": groups, "keys": keys, "raws": raws, "ordinals": places}
        added = session.execute(members.ADD, arrays({**where, **columns}))
        tally.gain((group, member) for group, member, new in added if new)
    return held
