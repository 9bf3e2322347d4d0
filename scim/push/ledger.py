"""What is read and written down while a delivery is being carried out.

Owns the rows that say which members a group at a target has from us, the check that a work is still ours, and the
question whose account a remote id is. Each function runs in its caller's unit of work, which no request overlaps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from broker.db import db
from broker.models import ScimTarget
from broker.registry import targets

from .work import Target, Work


class Member(NamedTuple):
    """A member of a group; without a remote id it is no longer at the target."""

    id: str
    remote_id: str | None
    type: str

    @property
    def reference(self) -> dict[str, str]:
        """It as a member of a group at the target, where it is."""
        assert self.remote_id is not None
        reference = {"value": self.remote_id}
        return {**reference, "type": "Group"} if self.type == "Group" else reference


_ADDED = sa.text("""
    SELECT DISTINCT m.member_id, k.remote_id, k.resource_type
    FROM memberships m JOIN target_resources k
      ON k.tenant_id = m.tenant_id AND k.target_id = :target AND k.resource_id = m.member_id
    WHERE m.tenant_id = :tenant AND m.group_id = :group AND m.member_id > :after AND m.member_id <> :group
      AND :keeping AND k.remote_id IS NOT NULL AND k.state IN ('present', 'disabled')
      AND NOT EXISTS (SELECT 1 FROM target_members w WHERE w.tenant_id = :tenant AND w.target_id = :target
                      AND w.group_id = :group AND w.member_id = m.member_id AND w.certain)
    ORDER BY m.member_id LIMIT :limit
""")
# Who is held stays where he is: his account is there, and nobody has said yet that he leaves.
_HELD = """EXISTS (SELECT 1 FROM deliveries d WHERE d.tenant_id = :tenant AND d.target_id = :target
                      AND d.resource_id = w.member_id AND d.task = 'push' AND d.status IN ('held', 'muted'))"""
_REMOVED = sa.text(f"""
    SELECT w.member_id, k.remote_id, coalesce(k.resource_type, 'User')
    FROM target_members w LEFT JOIN target_resources k
      ON k.tenant_id = :tenant AND k.target_id = :target AND k.resource_id = w.member_id
    WHERE w.tenant_id = :tenant AND w.target_id = :target AND w.group_id = :group AND w.member_id > :after
      AND (NOT :keeping OR NOT EXISTS (SELECT 1 FROM memberships m WHERE m.tenant_id = :tenant
                                       AND m.group_id = :group AND m.member_id = w.member_id))
      AND (NOT :keeping OR NOT {_HELD})
    ORDER BY w.member_id LIMIT :limit
""")  # noqa: S608 - constant text
# The same where groups in groups are not for the target: everybody below, and people only.
_BELOW = """
    WITH RECURSIVE below(id) AS (
        SELECT member_id FROM memberships WHERE tenant_id = :tenant AND group_id = :group AND member_id IS NOT NULL
        UNION
        SELECT m.member_id FROM below b JOIN memberships m ON m.tenant_id = :tenant AND m.group_id = b.id
        WHERE m.member_id IS NOT NULL)
"""
_ADDED_BELOW = sa.text(f"""
    {_BELOW}
    SELECT k.resource_id, k.remote_id, k.resource_type
    FROM below b JOIN target_resources k
      ON k.tenant_id = :tenant AND k.target_id = :target AND k.resource_id = b.id
    WHERE b.id > :after AND k.resource_type = 'User'
      AND :keeping AND k.remote_id IS NOT NULL AND k.state IN ('present', 'disabled')
      AND NOT EXISTS (SELECT 1 FROM target_members w WHERE w.tenant_id = :tenant AND w.target_id = :target
                      AND w.group_id = :group AND w.member_id = b.id AND w.certain)
    ORDER BY k.resource_id LIMIT :limit
""")  # noqa: S608 - constant text
_REMOVED_BELOW = sa.text(f"""
    {_BELOW}
    SELECT w.member_id, k.remote_id, coalesce(k.resource_type, 'User')
    FROM target_members w LEFT JOIN target_resources k
      ON k.tenant_id = :tenant AND k.target_id = :target AND k.resource_id = w.member_id
    WHERE w.tenant_id = :tenant AND w.target_id = :target AND w.group_id = :group AND w.member_id > :after
      AND (NOT :keeping OR k.resource_type = 'Group' OR w.member_id NOT IN (SELECT id FROM below))
      AND (NOT :keeping OR NOT {_HELD})
    ORDER BY w.member_id LIMIT :limit
""")  # noqa: S608 - constant text
_WRITE = sa.text("""
    INSERT INTO target_members (tenant_id, target_id, group_id, member_id, certain)
    SELECT :tenant, :target, :group, u, :certain FROM unnest(CAST(:ids AS text[])) AS u
    ON CONFLICT (tenant_id, target_id, group_id, member_id) DO UPDATE SET certain = EXCLUDED.certain
""")
_ERASE = sa.text("""
    DELETE FROM target_members WHERE tenant_id = :tenant AND target_id = :target AND group_id = :group
      AND member_id = ANY(:ids)
""")
_MINE = sa.text("""
    SELECT 1 FROM deliveries WHERE tenant_id = :tenant AND target_id = :target AND resource_type = :type
      AND resource_id = :id AND task = :task AND fence = :fence FOR SHARE
""")
_OTHERS = sa.text("""
    SELECT k.remote_id FROM target_resources k
    WHERE k.tenant_id = :tenant AND k.target_id = :target AND k.resource_type = :type AND k.remote_id = ANY(:remotes)
      AND k.resource_id <> :id
    UNION ALL
    SELECT r.id FROM resources r WHERE r.tenant_id = :tenant AND r.id = ANY(:externals) AND r.id <> :id
""")
_LOST = sa.text("""
    UPDATE target_resources SET state = 'creating', remote_id = NULL, sent_digest = NULL, updated_at = now()
    WHERE tenant_id = :tenant AND target_id = :target AND resource_id = :id
""")
_FORGET_WRITTEN = sa.text("""
    DELETE FROM target_members WHERE tenant_id = :tenant AND target_id = :target AND (member_id = :id OR group_id = :id)
""")


def members(work: Work, *, adding: bool, after: str, limit: int) -> list[Member]:
    """One page, by id, of the members to add to or remove from the group at the target."""
    values: dict[str, Any] = {"tenant": work.target.tenant, "target": work.target.id, "group": work.resource_id}
    values |= {"after": after, "limit": limit, "keeping": work.deed != "empty"}
    direct, below = (_ADDED, _ADDED_BELOW) if adding else (_REMOVED, _REMOVED_BELOW)
    statement = below if work.target.flattens else direct
    return [Member(*row) for row in db.session().execute(statement, values)]


def learnt(target: Target, said: Mapping[str, Any] | None) -> None:
    """What the target said of itself, unless it has become another one meanwhile; None: it stays what was known."""
    row = db.session().get(ScimTarget, (target.tenant, target.id), with_for_update=True, populate_existing=True)
    if row is not None and row.base_url == target.base_url:
        targets.learn(row, row.capabilities if said is None else said)


def writing(work: Work, ids: Sequence[str]) -> None:
    """The target is about to be asked to add or remove these members: from now on it may have them or not."""
    db.session().execute(_WRITE, {**_group(work, ids), "certain": False})


def written(work: Work, ids: Sequence[str], *, added: bool) -> None:
    """The target has, or no longer has, these members of the group."""
    if added:
        db.session().execute(_WRITE, {**_group(work, ids), "certain": True})
    else:
        db.session().execute(_ERASE, _group(work, ids))


def _group(work: Work, ids: Sequence[str]) -> dict[str, Any]:
    return {"tenant": work.target.tenant, "target": work.target.id, "group": work.resource_id, "ids": list(ids)}


def is_mine(work: Work) -> bool:
    """Whether this work is still claimed by us; keeps it so until the unit of work ends."""
    values: dict[str, Any] = {"tenant": work.target.tenant, "target": work.target.id, "type": work.resource_type}
    values |= {"id": work.resource_id, "task": work.task, "fence": work.fence}
    return db.session().execute(_MINE, values).first() is not None


def others(work: Work, remote_ids: Sequence[str], external_ids: Sequence[str]) -> set[str]:
    """Which of these remote ids and external ids stand for another resource of the tenant at the target."""
    values: dict[str, Any] = {"tenant": work.target.tenant, "target": work.target.id, "type": work.resource_type}
    values |= {"id": work.resource_id, "remotes": list(remote_ids), "externals": list(external_ids)}
    return set(db.session().execute(_OTHERS, values).scalars())


def lost(work: Work) -> None:
    """What we knew at the target is gone there: it will be made anew, and the groups there no longer hold it."""
    values = {"tenant": work.target.tenant, "target": work.target.id, "id": work.resource_id}
    db.session().execute(_LOST, values)
    db.session().execute(_FORGET_WRITTEN, values)
