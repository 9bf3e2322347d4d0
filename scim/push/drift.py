"""Drift as rows: what a comparison found at a target, and the deliveries that heal it.

Owns `target_drifts` and the questions a comparison has about what is remembered. Each function runs in its caller's
unit of work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa

from broker.db import db
from broker.models import Delivery, TargetDrift, TargetResource

from .comparisons import Comparison
from .reach import GROUPS, PEOPLE
from .work import Target


@dataclass(slots=True)
class Finding:
    """One thing that is not as it should be."""

    kind: str
    resource_type: str
    key: str
    resource_id: str | None
    remote_id: str | None
    name: str
    differences: dict[str, Any] = field(default_factory=dict)
    ours: bool = False
    """Unexpected, but an account that we made and took away: it came back."""


class Unmet(NamedTuple):
    resource_id: str
    resource_type: str
    remote_id: str


_KNOWN = sa.text("""
    SELECT remote_id, resource_id FROM target_resources
    WHERE tenant_id = :tenant AND target_id = :target AND resource_type = :kind AND remote_id = ANY(:remotes)
""")
_CLAIMED = sa.text("""
    SELECT id FROM resources WHERE tenant_id = :tenant AND type = :kind AND id = ANY(:externals)
""")
_MET = sa.text("""
    UPDATE target_resources SET met_no = :no
    WHERE tenant_id = :tenant AND target_id = :target AND resource_type = :kind AND remote_id = ANY(:remotes)
""")
_UNMET = sa.text("""
    SELECT resource_id, resource_type, remote_id FROM target_resources
    WHERE tenant_id = :tenant AND target_id = :target AND state IN ('present', 'disabled') AND remote_id IS NOT NULL
      AND coalesce(met_no, 0) <> :no AND resource_id > :after
      AND updated_at < (SELECT started_at FROM target_runs WHERE tenant_id = :tenant AND no = :no)
    ORDER BY resource_id LIMIT :limit
""")
_LOST = sa.text("""
    SELECT w.member_id FROM target_members w JOIN target_resources k
      ON k.tenant_id = :tenant AND k.target_id = :target AND k.resource_id = w.member_id
    WHERE w.tenant_id = :tenant AND w.target_id = :target AND w.group_id = :group AND w.certain
      AND k.remote_id IS NOT NULL AND NOT k.remote_id = ANY(:shown)
""")
_EXTRA = sa.text("""
    SELECT k.resource_id FROM target_resources k
    WHERE k.tenant_id = :tenant AND k.target_id = :target AND k.remote_id = ANY(:shown)
      AND NOT EXISTS (SELECT 1 FROM target_members w WHERE w.tenant_id = :tenant AND w.target_id = :target
                      AND w.group_id = :group AND w.member_id = k.resource_id)
""")
_DOUBT = sa.text("""
    INSERT INTO target_members (tenant_id, target_id, group_id, member_id, certain)
    SELECT :tenant, :target, :group, u, false FROM unnest(CAST(:ids AS text[])) AS u
    ON CONFLICT (tenant_id, target_id, group_id, member_id) DO UPDATE SET certain = false
""")
_KEEP = sa.text("""
    INSERT INTO target_drifts AS d
        (tenant_id, target_id, resource_type, key, kind, resource_id, remote_id, name, differences, run_no)
    SELECT :tenant, :target, u.type, u.key, u.kind, u.resource, u.remote, u.name, CAST(u.differences AS jsonb), :no
    FROM unnest(CAST(:types AS text[]), CAST(:keys AS text[]), CAST(:kinds AS text[]), CAST(:resources AS text[]),
                CAST(:remotes AS text[]), CAST(:names AS text[]), CAST(:differences AS text[]))
         AS u(type, key, kind, resource, remote, name, differences)
    ON CONFLICT (tenant_id, target_id, resource_type, key) DO UPDATE SET
        kind = EXCLUDED.kind, resource_id = EXCLUDED.resource_id, remote_id = EXCLUDED.remote_id,
        name = EXCLUDED.name, differences = EXCLUDED.differences, run_no = EXCLUDED.run_no
    RETURNING d.resource_type, d.key, d.ignored
""")
_DOUBTED = sa.text("""
    UPDATE target_resources SET sent_digest = NULL, state = 'present'
    WHERE tenant_id = :tenant AND target_id = :target AND resource_id = ANY(:ids) AND state IN ('present', 'disabled')
""")
_CAME_BACK = sa.text("""
    UPDATE target_resources k SET state = 'present', remote_id = u.remote, sent_digest = NULL
    FROM unnest(CAST(:ids AS text[]), CAST(:remotes AS text[])) AS u(id, remote)
    WHERE k.tenant_id = :tenant AND k.target_id = :target AND k.resource_id = u.id AND k.remote_id IS NULL
""")
_OWE = sa.text("""
    INSERT INTO deliveries (tenant_id, target_id, resource_type, resource_id, task, lane)
    SELECT :tenant, :target, u.type, u.id, 'push', CASE u.type WHEN 'Group' THEN :groups ELSE :people END
    FROM unnest(CAST(:types AS text[]), CAST(:ids AS text[])) AS u(type, id) ORDER BY 3, 4
    ON CONFLICT (tenant_id, target_id, resource_type, resource_id, task) DO NOTHING
    RETURNING resource_id
""")


def known(target: Target, kind: str, remote_ids: Sequence[str]) -> dict[str, str]:
    """Remote id → our id, of what we have there."""
    values = {"tenant": target.tenant, "target": target.id, "kind": kind, "remotes": list(remote_ids)}
    return {row.remote_id: row.resource_id for row in db.session().execute(_KNOWN, values)}


def claimed(target: Target, kind: str, externals: Mapping[str, str]) -> dict[str, str]:
    """Remote id → our id, of what bears one of our ids though we do not know it."""
    values = {"tenant": target.tenant, "kind": kind, "externals": sorted({one for one in externals.values() if one})}
    ours = set(db.session().execute(_CLAIMED, values).scalars())
    return {remote_id: external for remote_id, external in externals.items() if external in ours}


def met(target: Target, kind: str, remote_ids: Sequence[str], no: int) -> None:
    values = {"tenant": target.tenant, "target": target.id, "kind": kind, "remotes": list(remote_ids), "no": no}
    db.session().execute(_MET, values)


def owed(target: Target, ids: Sequence[str]) -> set[str]:
    """Of which of these a delivery is under way or waits for a decision."""
    statement = sa.select(Delivery.resource_id).where(Delivery.target_id == target.id, Delivery.resource_id.in_(ids))
    return set(db.session().scalars(statement))


def unmet(target: Target, no: int, after: str, limit: int) -> list[Unmet]:
    """What should be there and the comparison did not meet; not what was sent since it began."""
    values = {"tenant": target.tenant, "target": target.id, "no": no, "after": after, "limit": limit}
    return [Unmet(*row) for row in db.session().execute(_UNMET, values)]


def member_differences(target: Target, group_id: str, shown: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our members the group there has lost, and people of ours in it whom we did not put there."""
    values = {"tenant": target.tenant, "target": target.id, "group": group_id, "shown": list(shown)}
    session = db.session()
    return list(session.execute(_LOST, values).scalars()), list(session.execute(_EXTRA, values).scalars())


def doubt_members(target: Target, group_id: str, ids: Sequence[str]) -> None:
    """Of these memberships it is no longer known whether they are there: the next push writes or ends them."""
    db.session().execute(_DOUBT, {"tenant": target.tenant, "target": target.id, "group": group_id, "ids": list(ids)})


def keep(target: Target, run: Comparison, findings: Sequence[Finding], ignored: frozenset[str]) -> dict[str, int]:
    """List what was found, owe what heals it under `overwrite`; returns how many of each kind, and how many owed."""
    findings = [finding for finding in findings if finding.kind not in ignored]
    counts: Counter[str] = Counter(finding.kind for finding in findings)
    if findings and run.policy != "ignore":
        silenced = _list(target, run, findings)
        if run.policy == "overwrite":
            counts["owed"] = _heal(target, [one for one in findings if (one.resource_type, one.key) not in silenced])
    return dict(counts)


def _list(target: Target, run: Comparison, findings: Sequence[Finding]) -> set[tuple[str, str]]:
    rows = db.session().execute(
        _KEEP,
        {
            "tenant": target.tenant,
            "target": target.id,
            "no": run.no,
            "types": [one.resource_type for one in findings],
            "keys": [one.key for one in findings],
            "kinds": [one.kind for one in findings],
            "resources": [one.resource_id for one in findings],
            "remotes": [one.remote_id for one in findings],
            "names": [one.name for one in findings],
            "differences": [orjson.dumps(one.differences).decode().replace("\\u0000", "") for one in findings],
        },
    )
    return {(row.resource_type, row.key) for row in rows if row.ignored}


def _heal(target: Target, findings: Sequence[Finding]) -> int:
    """Owe a push of whatever is ours: it is judged, held and sent like any other."""
    mine = [one for one in findings if one.resource_id is not None and (one.kind != "unexpected" or one.ours)]
    if not mine:
        return 0
    session, place = db.session(), {"tenant": target.tenant, "target": target.id}
    back = [one for one in mine if one.ours]
    session.execute(_DOUBTED, {**place, "ids": [one.resource_id for one in mine if not one.ours]})
    if back:
        came = {"ids": [one.resource_id for one in back], "remotes": [one.remote_id for one in back]}
        session.execute(_CAME_BACK, {**place, **came})
    values = {"types": [one.resource_type for one in mine], "ids": [one.resource_id for one in mine]}
    return len(session.execute(_OWE, {**place, **values, "groups": GROUPS, "people": PEOPLE}).all())


def forget_old(target: Target, no: int) -> None:
    """What this comparison did not find again is in order."""
    db.session().execute(sa.delete(TargetDrift).where(TargetDrift.target_id == target.id, TargetDrift.run_no < no))


def total(target: Target, shown: int | None, kind: str) -> int | None:
    """How many there will be to look at: what the target says of this listing and what we have of the other."""
    if shown is None:
        return None
    other = "Group" if kind == "User" else "User"
    counted = sa.select(sa.func.count()).where(
        TargetResource.target_id == target.id,
        TargetResource.resource_type == other,
        TargetResource.remote_id.is_not(None),
    )
    return shown + (db.session().scalar(counted) or 0)
