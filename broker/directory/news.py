"""What others are told of a group's members: who came and who left, whoever gave them.

Owns the telling of membership rows from members, and the event and the version that groups get when their members
change, from whatever side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import NamedTuple

import sqlalchemy as sa

from ..db import arrays, db
from ..events import Changes


@dataclass(slots=True)
class Tally:
    """Membership rows gained less rows lost, by (group, member), of members who are known."""

    rows: Counter[tuple[str, str]] = field(default_factory=Counter)

    def gain(self, pairs: Iterable[tuple[str, str | None]]) -> None:
        self.rows.update((group, member) for group, member in pairs if member is not None)

    def lose(self, pairs: Iterable[tuple[str, str | None]]) -> None:
        self.rows.subtract((group, member) for group, member in pairs if member is not None)


class Shown(NamedTuple):
    """How many members a group gained and lost, as others see it."""

    added: int
    removed: int


_SHOWN = sa.text("""
    SELECT u.group_id, count(*) FILTER (WHERE n.rows > 0 AND n.rows <= u.delta),
           count(*) FILTER (WHERE n.rows = 0 AND u.delta < 0)
    FROM unnest(CAST(:groups AS text[]), CAST(:members AS text[]), CAST(:deltas AS int[]))
         AS u(group_id, member_id, delta)
    CROSS JOIN LATERAL (
        SELECT count(*) AS rows FROM memberships m
        WHERE m.tenant_id = :tenant AND m.group_id = u.group_id AND m.member_id = u.member_id OFFSET 0) n
    GROUP BY u.group_id ORDER BY u.group_id
""")


def shown(tenant: str, tally: Tally, *, besides: Set[str] = frozenset()) -> dict[str, Shown]:
    """The groups whose members are others than before: a member given twice, or given by another row now, is no
    change."""
    rows = [(group, member, delta) for (group, member), delta in tally.rows.items() if delta and group not in besides]
    if not rows:
        return {}
    groups, members, deltas = (list(column) for column in zip(*rows, strict=True))
    values = {"tenant": tenant, "groups": groups, "members": members, "deltas": deltas}
    found = db.session().execute(_SHOWN, arrays(values))
    return {group: Shown(added, removed) for group, added, removed in found if added or removed}


_TOUCH = sa.text("""
    WITH locked AS MATERIALIZED (
        SELECT id FROM resources WHERE tenant_id = :tenant AND id = ANY(CAST(:ids AS text[])) AND removed_at IS NULL
        ORDER BY id FOR NO KEY UPDATE)
    UPDATE resources r SET version = r.version + 1, updated_at = now() FROM locked
    WHERE r.tenant_id = :tenant AND r.id = locked.id RETURNING r.id
""")


def tell_members(tenant: str, tally: Tally, changes: Changes, *, besides: Set[str] = frozenset()) -> None:
    """One event and one version for each group whose members changed; groups just created have told already."""
    tell_shown(tenant, shown(tenant, tally, besides=besides), changes)


def tell_shown(tenant: str, groups: Mapping[str, Shown], changes: Changes) -> None:
    if not groups:
        return
    live = set(db.session().execute(_TOUCH, arrays({"tenant": tenant, "ids": list(groups)})).scalars())
    for group, change in groups.items():
        if group in live:
            changes.add("group.members_changed", "Group", group, change._asdict())
