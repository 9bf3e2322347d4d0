"""The event and the version that groups get when their members change, from whatever side."""

from __future__ import annotations

from collections.abc import Mapping, Set

import sqlalchemy as sa

from ..db import arrays, db
from ..events import Changes
from .members import Shown, Tally, shown

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
