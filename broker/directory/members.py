"""Membership rows, in sets.

Owns the writing of who is in which group: what a page of group records says, members that arrive later, primary
groups, and single additions and removals from SCIM and administrators. A group is never loaded to change it, and a
membership row says who gave it. What a followed upstream tells of single members is `deltas`', and what others see of
the rows' coming and going is told by `news`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import Any

import sqlalchemy as sa

from connectors.port import Ref

from ..db import arrays, db
from .news import Tally
from .outcome import Leaving, Loss, decode_leaving, encode_leaving
from .rows import ref_key

_WANTED = """
    wanted AS MATERIALIZED (
        SELECT * FROM unnest(CAST(:groups AS text[]), CAST(:keys AS text[]), CAST(:raws AS text[]),
                             CAST(:ordinals AS int[])) AS u(group_id, member_key, raw, ordinal))
"""
_UNWANTED = """
    m.tenant_id = :tenant AND m.via = :via AND m.kind = 'member' AND m.group_id = ANY(CAST(:dropping AS text[]))
    AND NOT EXISTS (SELECT 1 FROM wanted w WHERE w.group_id = m.group_id AND w.member_key = m.member_key)
"""
_RENAME = sa.text(f"""
    WITH {_WANTED}
    UPDATE memberships m SET member_key = w.member_key, raw = w.raw, ordinal = w.ordinal
    FROM wanted w JOIN links l ON l.tenant_id = :tenant AND l.provider_id = :via AND l.ref = w.member_key
    WHERE m.tenant_id = :tenant AND m.group_id = w.group_id AND m.via = :via AND m.kind = 'member'
      AND l.resource_id IS NOT NULL AND l.gone_at IS NULL AND m.member_id = l.resource_id
      AND m.member_key <> w.member_key
      AND NOT EXISTS (SELECT 1 FROM wanted o WHERE o.group_id = m.group_id AND o.member_key = m.member_key)
      AND NOT EXISTS (SELECT 1 FROM memberships o WHERE o.tenant_id = :tenant AND o.group_id = w.group_id
                      AND o.via = :via AND o.kind = 'member' AND o.member_key = w.member_key)
""")  # noqa: S608 - constant text
ADD = sa.text(f"""
    WITH {_WANTED}
    INSERT INTO memberships AS m (tenant_id, group_id, member_id, member_key, raw, ordinal, via, kind)
    SELECT :tenant, w.group_id, l.resource_id, w.member_key, w.raw, w.ordinal, :via, 'member'
    FROM wanted w LEFT JOIN LATERAL (
        SELECT l.resource_id FROM links l WHERE l.tenant_id = :tenant AND l.provider_id = :via
          AND l.ref = w.member_key AND l.gone_at IS NULL AND l.skipped IS NULL AND l.kind IN ('user', 'group')
        ORDER BY l.seen_run DESC, l.resource_id DESC LIMIT 1) l ON true
    ON CONFLICT (tenant_id, group_id, via, kind, member_key)
    DO UPDATE SET raw = EXCLUDED.raw, ordinal = EXCLUDED.ordinal
    WHERE (m.raw, m.ordinal) IS DISTINCT FROM (EXCLUDED.raw, EXCLUDED.ordinal)
    RETURNING m.group_id, m.member_id, (xmax = 0) AS new
""")  # noqa: S608 - constant text
_LOSING = sa.text(f"""
    WITH {_WANTED}, had AS (
        SELECT m.group_id, count(*) AS rows FROM memberships m
        WHERE m.tenant_id = :tenant AND m.via = :via AND m.kind = 'member'
          AND m.group_id = ANY(CAST(:dropping AS text[])) GROUP BY m.group_id)
    SELECT m.group_id, had.rows, array_agg(m.member_key), array_agg(m.ordinal)
    FROM memberships m JOIN had ON had.group_id = m.group_id WHERE {_UNWANTED}
    GROUP BY m.group_id, had.rows HAVING count(*) > :floor
""")  # noqa: S608 - constant text
_LEAVE = sa.text(f"""
    WITH {_WANTED}
    UPDATE memberships m SET kind = 'leaving' FROM links l
    WHERE {_UNWANTED}
      AND l.tenant_id = :tenant AND l.resource_id = m.member_id AND l.provider_id = :via
      AND l.gone_at IS NULL AND l.seen_run < :run
      AND NOT EXISTS (SELECT 1 FROM memberships o WHERE o.tenant_id = :tenant AND o.group_id = m.group_id
                      AND o.via = :via AND o.kind = 'leaving' AND o.member_key = m.member_key)
""")  # noqa: S608 - constant text
_DROP = sa.text(f"WITH {_WANTED} DELETE FROM memberships m WHERE {_UNWANTED} RETURNING m.group_id, m.member_id")  # noqa: S608


_CARRYING = sa.text("""
    WITH RECURSIVE carriers(id) AS (
        SELECT principal_id FROM role_assignments WHERE tenant_id = :tenant AND principal_id >= 'grp_'
            AND principal_id < 'grp`'
        UNION SELECT m.member_id FROM carriers c JOIN memberships m ON m.tenant_id = :tenant AND m.group_id = c.id
            AND m.member_id >= 'grp_' AND m.member_id < 'grp`')
    SELECT id FROM carriers
""")


def carrying_roles(tenant: str, groups: Set[str]) -> Set[str]:
    """Those of the groups whose members hold an administrator's role by it, directly or through groups above."""
    return groups & set(db.session().execute(_CARRYING, {"tenant": tenant}).scalars())


def write(
    tenant: str,
    via: str,
    run_no: int | None,
    wanted: Mapping[str, Sequence[Ref]],
    known: Set[str],
    tally: Tally,
    *,
    floor: int,
) -> dict[str, list[Leaving]]:
    """Make each group's members from this upstream exactly these, in this order; others' memberships stay.

    `known`: the groups that may have members already. Of these, one that would lose half of them, and more than
    `floor`, gains the new ones but keeps the old: it is returned with what it would lose. So is one that carries an
    administrator's role, whoever would leave it. `run_no`: the pass in which everybody's name is read sooner or later;
    None: all names are known to be today's.
    """
    if not wanted:
        return {}
    values = _listed(tenant, via, wanted, dropping=sorted(known))
    session = db.session()
    if known:
        session.execute(_RENAME, values)
    found = session.execute(ADD, values).all()
    tally.gain((group, member) for group, member, new in found if new)
    if not known:
        return {}
    gained = Counter(group for group, _, new in found if new)
    unresolved = Counter(group for group, member, new in found if new and member is None)
    held = {}
    weighty = carrying_roles(tenant, known)
    for group, rows, keys, ordinals in session.execute(_LOSING, {**values, "floor": 0 if weighty else floor}):
        lost, had = len(keys) - unresolved[group], rows - gained[group]
        if lost > (0 if group in weighty else floor) and (group in weighty or 2 * lost >= had):
            held[group] = [Leaving(key, ordinal) for key, ordinal in zip(keys, ordinals, strict=True)]
    if run_no is not None and (uncertain := sorted(unresolved.keys() & known - held.keys())):
        session.execute(_LEAVE, {**values, **arrays({"dropping": uncertain}), "run": run_no})
    dropping = arrays({"dropping": sorted(known - held.keys())})
    tally.lose(session.execute(_DROP, {**values, **dropping}))
    return held


def _listed(tenant: str, via: str, wanted: Mapping[str, Sequence[Ref]], **more: Any) -> dict[str, Any]:
    """The parameters of the statements over `wanted`. A member listed twice is kept twice, under a key of its own."""
    groups, keys, raws, ordinals = [], [], [], []
    for group, members in wanted.items():
        seen: set[str] = set()
        for ordinal, member in enumerate(members):
            first = key = ref_key(member.key)
            times = 1
            while key in seen:
                times += 1
                key = f"{first}#{times}"
            seen.add(key)
            groups.append(group)
            keys.append(key)
            raws.append(member.raw)
            ordinals.append(ordinal)
    columns = {"groups": groups, "keys": keys, "raws": raws, "ordinals": ordinals}
    return arrays({"tenant": tenant, "via": via, **columns, **more})


_RELEASE = sa.text("""
    DELETE FROM memberships m USING links l
    WHERE m.tenant_id = :tenant AND m.via = :via AND m.kind = 'leaving'
      AND l.tenant_id = :tenant AND l.resource_id = m.member_id AND l.provider_id = :via AND l.seen_run = :run
    RETURNING m.group_id, m.member_id
""")
_SHRINK = sa.text("""
    DELETE FROM memberships m
    USING unnest(CAST(:groups AS text[]), CAST(:keys AS text[]), CAST(:ordinals AS int[]))
          AS u(group_id, member_key, ordinal)
    WHERE m.tenant_id = :tenant AND m.via = :via AND m.kind = 'member' AND m.group_id = u.group_id
      AND m.member_key = u.member_key AND m.ordinal = u.ordinal
    RETURNING m.group_id, m.member_id
""")


def release(tenant: str, via: str, run_no: int, tally: Tally) -> None:
    """Let go of members that a list no longer names, now that their own records of this pass have been read.

    A list names others by what they are called. Until the record of one who is missing from it has been read, he may
    just have another name, which the list already uses and nobody else explains: such rows wait as `leaving`.
    """
    found = db.session().execute(_RELEASE, {"tenant": tenant, "via": via, "run": run_no})
    tally.lose(found)


def shrink(tenant: str, via: str, leaving: Mapping[str, Sequence[Leaving]], tally: Tally) -> None:
    """Delete these rows of groups, those that were said again meanwhile excepted."""
    rows = [(group, row.key, row.ordinal) for group, found in leaving.items() for row in found]
    if not rows:
        return
    groups, keys, ordinals = (list(column) for column in zip(*rows, strict=True))
    values = {"tenant": tenant, "via": via, "groups": groups, "keys": keys, "ordinals": ordinals}
    tally.lose(db.session().execute(_SHRINK, arrays(values)))


_STILL = sa.text("""
    SELECT g.no, m.member_key, m.ordinal
    FROM unnest(CAST(:nos AS bigint[]), CAST(:keys AS text[]), CAST(:ordinals AS int[])) AS u(no, member_key, ordinal)
    JOIN links g ON g.tenant_id = :tenant AND g.no = u.no
    JOIN memberships m ON m.tenant_id = :tenant AND m.group_id = g.resource_id AND m.via = :via AND m.kind = 'member'
      AND m.member_key = u.member_key AND m.ordinal = u.ordinal
""")


def still_leaving(tenant: str, via: str, losses: Sequence[Loss]) -> dict[int, bytes]:
    """Link of a group to the rows that its shrink would still delete; those said again since have another ordinal."""
    rows = [(loss.link_no, *row) for loss in losses for row in decode_leaving(loss.evidence or b"[]")]
    if not rows:
        return {}
    nos, keys, ordinals = (list(column) for column in zip(*rows, strict=True))
    values = arrays({"tenant": tenant, "via": via, "nos": nos, "keys": keys, "ordinals": ordinals})
    left: dict[int, list[Leaving]] = {}
    for no, key, ordinal in db.session().execute(_STILL, values):
        left.setdefault(no, []).append(Leaving(key, ordinal))
    return {no: encode_leaving(found) for no, found in left.items()}


_ARRIVED = sa.text("""
    UPDATE memberships m SET member_id = l.resource_id FROM links l
    WHERE l.tenant_id = :tenant AND l.provider_id = :via AND l.key = ANY(CAST(:keys AS text[]))
      AND l.resource_id IS NOT NULL AND l.kind IN ('user', 'group') AND m.tenant_id = :tenant AND m.via = :via
      AND m.member_id IS NULL AND m.kind = 'member' AND m.member_key = l.ref
    RETURNING m.group_id, m.member_id
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
    RETURNING m.group_id, m.member_id
""")
_JOIN_PRIMARY_USERS = sa.text("""
    WITH g AS MATERIALIZED (
        SELECT alias, resource_id FROM links WHERE tenant_id = :tenant AND provider_id = :via
          AND alias = ANY(CAST(:distinct AS text[])) AND kind = 'group' AND resource_id IS NOT NULL
          AND gone_at IS NULL AND skipped IS NULL)
    INSERT INTO memberships (tenant_id, group_id, member_id, member_key, via, kind)
    SELECT :tenant, g.resource_id, u.user_id, u.user_id, :via, 'primary'
    FROM unnest(CAST(:users AS text[]), CAST(:refs AS text[])) AS u(user_id, ref) JOIN g ON g.alias = u.ref
    ON CONFLICT DO NOTHING RETURNING group_id, member_id
""")
_JOIN_PRIMARY_GROUPS = sa.text("""
    INSERT INTO memberships (tenant_id, group_id, member_id, member_key, via, kind)
    SELECT :tenant, g.group_id, l.resource_id, l.resource_id, :via, 'primary'
    FROM unnest(CAST(:groups AS text[]), CAST(:aliases AS text[])) AS g(group_id, alias)
    CROSS JOIN LATERAL (
        SELECT l.resource_id FROM links l WHERE l.tenant_id = :tenant AND l.provider_id = :via
          AND l.primary_ref = g.alias AND l.resource_id IS NOT NULL AND l.gone_at IS NULL AND l.kind = 'user'
          AND l.skipped IS NULL OFFSET 0) l
    ON CONFLICT DO NOTHING RETURNING group_id, member_id
""")


def arrived(tenant: str, via: str, keys: Sequence[str], tally: Tally) -> None:
    """Members that were waited for under these upstream keys are here now."""
    if keys:
        values = {"tenant": tenant, "via": via, "keys": list(keys)}
        tally.gain(db.session().execute(_ARRIVED, arrays(values)))


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
        values = arrays({**where, "users": list(users), "refs": list(users.values())})
        tally.lose(session.execute(_LEAVE_PRIMARY, values))
        if named := sorted({ref for ref in users.values() if ref is not None}):
            found = session.execute(_JOIN_PRIMARY_USERS, {**values, **arrays({"distinct": named})})
            tally.gain(found)
    if groups:
        values = arrays({**where, "groups": list(groups), "aliases": list(groups.values())})
        tally.gain(session.execute(_JOIN_PRIMARY_GROUPS, values))


_CORRECT = sa.text("""
    WITH stale AS MATERIALIZED (
        SELECT m.no, m.member_id AS was, (
            SELECT l.resource_id FROM links l
            WHERE l.tenant_id = :tenant AND l.provider_id = :via AND l.ref = m.member_key AND l.gone_at IS NULL
              AND l.skipped IS NULL AND l.kind IN ('user', 'group')
            ORDER BY l.seen_run DESC, l.resource_id DESC LIMIT 1) AS now
        FROM links mover
        JOIN memberships m ON m.tenant_id = :tenant AND m.member_id = mover.resource_id AND m.via = :via
          AND m.kind = 'member' AND m.member_key <> mover.ref
        JOIN links g ON g.tenant_id = :tenant AND g.resource_id = m.group_id AND g.provider_id = :via
          AND g.seen_run = :run AND g.gone_at IS NULL
        WHERE mover.tenant_id = :tenant AND mover.provider_id = :via AND mover.moved AND mover.gone_at IS NULL
          AND NOT EXISTS (SELECT 1 FROM held_removals h
                          WHERE h.tenant_id = :tenant AND h.link_no = g.no AND h.action = 'shrink'))
    UPDATE memberships m SET member_id = stale.now FROM stale
    WHERE m.tenant_id = :tenant AND m.no = stale.no AND stale.now IS DISTINCT FROM stale.was
    RETURNING m.group_id, stale.was, stale.now
""")


def correct(tenant: str, via: str, run_no: int, tally: Tally) -> None:
    """Lists read in this pass mean whoever is called so at its end, not who was called so when they were read.

    Groups of which some members are held keep what they have: their rows are not the list.
    """
    found = db.session().execute(_CORRECT, {"tenant": tenant, "via": via, "run": run_no}).all()
    tally.lose((group, was) for group, was, _ in found)
    tally.gain((group, now) for group, _, now in found)


_FORGET = sa.text("""
    WITH dropped AS (
        DELETE FROM memberships WHERE tenant_id = :tenant AND member_id = ANY(CAST(:ids AS text[]))
          AND group_id <> ALL(CAST(:ids AS text[]))
          AND (via IS NULL OR kind <> 'member' OR starts_with(member_key, chr(1)))
        RETURNING group_id, member_id, CAST(NULL AS text)),
    named AS (
        SELECT m.no, m.member_id AS was, (
            SELECT l.resource_id FROM links l
            WHERE l.tenant_id = :tenant AND l.provider_id = m.via AND l.ref = m.member_key AND l.gone_at IS NULL
              AND l.skipped IS NULL AND l.kind IN ('user', 'group') AND l.resource_id <> m.member_id
            ORDER BY l.seen_run DESC, l.resource_id DESC LIMIT 1) AS now
        FROM memberships m
        WHERE m.tenant_id = :tenant AND m.member_id = ANY(CAST(:ids AS text[]))
          AND m.group_id <> ALL(CAST(:ids AS text[])) AND m.via IS NOT NULL AND m.kind = 'member'
          AND NOT starts_with(m.member_key, chr(1))),
    waiting AS (
        UPDATE memberships m SET member_id = named.now FROM named WHERE m.tenant_id = :tenant AND m.no = named.no
        RETURNING m.group_id, named.was, named.now),
    emptied AS (
        DELETE FROM memberships WHERE tenant_id = :tenant AND group_id = ANY(CAST(:ids AS text[])))
    SELECT * FROM dropped UNION ALL SELECT * FROM waiting
""")


def forget(tenant: str, ids: Sequence[str], tally: Tally) -> None:
    """These resources are removed: they leave their groups, and groups among them lose their members.

    What an upstream's member list still names goes back to waiting, so that a revived person is in again; or to
    whoever has that name in the upstream by now. Lists that name who is gone are not believed: see `deltas.leave`.
    """
    found = db.session().execute(_FORGET, arrays({"tenant": tenant, "ids": list(ids)})).all()
    tally.lose((group, was) for group, was, _ in found)
    tally.gain((group, now) for group, _, now in found)


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
    SELECT member_id, bool_or(via IS NOT NULL) FROM memberships
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
    """Remove memberships written here; returns (those who left, those whom an upstream gives and who therefore
    stay)."""
    values = {"tenant": tenant, "group": group, "ids": list(members)}
    session = db.session()
    removed = session.execute(_DROP_LOCAL, values).scalars().all()
    given = session.execute(_GIVEN, values).scalars().all()
    return sorted(set(removed) - set(given)), list(given)


def present(tenant: str, group: str) -> dict[str, bool]:
    """The members of one group: id → whether an upstream gives it."""
    return {id: given for id, given in db.session().execute(_LOCAL, {"tenant": tenant, "group": group})}
