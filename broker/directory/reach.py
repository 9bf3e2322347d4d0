"""Who is in what, through nested groups: computed in the database, never in Python.

Both directions are recursive queries with UNION, so a membership cycle ends by itself. They yield columns
`start_id` and `id`: from each start to everything it reaches. Callers join them; nobody loads a group to count it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from ..models import Membership

Ids = Sequence[str] | sa.Select[Any]

_memberships = Membership.__table__.c


def groups_above(tenant_id: str, members: Ids, *, name: str = "groups_above") -> sa.CTE:
    """Every group each member is in, directly or through other groups."""
    return _closure(tenant_id, members, _memberships.member_id, _memberships.group_id, name)


def members_below(tenant_id: str, groups: Ids, *, name: str = "members_below") -> sa.CTE:
    """Every user and group below each group, directly or through other groups."""
    return _closure(tenant_id, groups, _memberships.group_id, _memberships.member_id, name)


def _closure(tenant_id: str, starts: Ids, source: Any, target: Any, name: str) -> sa.CTE:
    known = (_memberships.tenant_id == tenant_id, _memberships.member_id.is_not(None))
    if isinstance(starts, sa.Select):
        begins = source.in_(starts)
    else:
        begins = source == sa.any_(sa.cast(sa.literal(list(starts), pg.ARRAY(sa.Text)), pg.ARRAY(sa.Text)))
    base = sa.select(source.label("start_id"), target.label("id")).where(*known, begins)
    closure = base.cte(name, recursive=True)
    step = sa.select(closure.c.start_id, target).where(*known, source == closure.c.id)
    return closure.union(step)
