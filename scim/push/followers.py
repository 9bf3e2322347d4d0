"""Who is owed something because of another: groups and reports of those who arrived, groups of those who left.

Owns the two questions; a group or report whose turn has not come yet is asked nothing more than it is owed already.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from broker import events

from .reach import GROUPS, PEOPLE
from .work import Target, Work

_WHO_WAITS = sa.text("""
    WITH RECURSIVE above(id) AS (
        SELECT group_id FROM memberships WHERE tenant_id = :tenant AND member_id = ANY(:ids)
        UNION
        SELECT m.group_id FROM above a JOIN memberships m ON m.tenant_id = :tenant AND m.member_id = a.id
        WHERE :flattens)
    SELECT DISTINCT :target AS target_id, w.type AS resource_type, w.id AS resource_id, 'push' AS task,
           CASE w.type WHEN 'Group' THEN :groups ELSE :people END AS lane
    FROM (SELECT 'Group' AS type, id FROM above
          UNION ALL
          SELECT 'User', id FROM resources WHERE tenant_id = :tenant AND manager_id = ANY(:ids)
            AND id <> ALL(CAST(:undecided AS text[]))) w
    WHERE EXISTS (SELECT 1 FROM target_resources k WHERE k.tenant_id = :tenant AND k.target_id = :target
                  AND k.resource_id = w.id AND k.state IN ('creating', 'present'))
       OR EXISTS (SELECT 1 FROM deliveries d WHERE d.tenant_id = :tenant AND d.target_id = :target
                  AND d.resource_type = w.type AND d.resource_id = w.id AND d.task = 'push' AND d.status = 'pending')
""")
_WHO_KEPT = sa.text("""
    SELECT DISTINCT :target AS target_id, 'Group' AS resource_type, w.group_id AS resource_id, 'push' AS task,
           CAST(:groups AS smallint) AS lane
    FROM target_members w
    WHERE w.tenant_id = :tenant AND w.target_id = :target AND w.member_id = ANY(:ids)
      AND NOT EXISTS (SELECT 1 FROM memberships m WHERE m.tenant_id = :tenant AND m.group_id = w.group_id
                      AND m.member_id = w.member_id)
""")


def owe_those_of_the_arrived(target: Target, works: Sequence[Work], undecided: Sequence[Work]) -> None:
    """Groups and reports that name these are owed: until now they had to leave them out. `undecided`: works of which
    nothing was read yet, and which miss nothing."""
    if works:
        waiting = _WHO_WAITS.bindparams(
            tenant=target.tenant,
            target=target.id,
            ids=[work.resource_id for work in works],
            undecided=[work.resource_id for work in undecided],
            groups=GROUPS,
            people=PEOPLE,
            flattens=target.flattens,
        )
        _owe(target, waiting)


def owe_groups_of_the_disabled(target: Target, works: Sequence[Work]) -> None:
    """Groups there that still have these, and not here: they kept them while their leaving was held."""
    if works:
        ids = [work.resource_id for work in works]
        _owe(target, _WHO_KEPT.bindparams(tenant=target.tenant, target=target.id, ids=ids, groups=GROUPS))


def _owe(target: Target, who: sa.TextClause) -> None:
    owed = who.columns(
        sa.column("target_id", sa.Text),
        sa.column("resource_type", sa.Text),
        sa.column("resource_id", sa.Text),
        sa.column("task", sa.Text),
        sa.column("lane", sa.SmallInteger),
    )
    events.owe(sa.select(owed.subquery("owed")), target.tenant)
