"""How a target stands: what is owed, for how long, how fast deliveries are settled, and what it is compared.

Owns reading only, for the API, the command line, metrics and the doctor. Runs in the caller's unit of work.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from broker.db import db
from broker.models import ScimTarget

_OWED = sa.text("""
    SELECT status, count(*) AS many, coalesce(extract(epoch FROM now() - min(owed_at)), 0) AS age
    FROM deliveries WHERE tenant_id = :tenant AND target_id = :target GROUP BY status
""")
_THERE = sa.text("""
    SELECT state, count(*) AS many FROM target_resources
    WHERE tenant_id = :tenant AND target_id = :target GROUP BY state
""")
_SETTLED = sa.text("""
    SELECT bucket, sum(settled) AS many FROM target_convergence
    WHERE tenant_id = :tenant AND target_id = :target AND hour > now() - interval '24 hours'
    GROUP BY bucket ORDER BY bucket
""")
_DRIFT = sa.text("""
    SELECT kind, count(*) AS many FROM target_drifts
    WHERE tenant_id = :tenant AND target_id = :target AND NOT ignored GROUP BY kind
""")


def standing(target: ScimTarget) -> dict[str, Any]:
    """The figures of one target; times in seconds, convergence over the last 24 hours."""
    session, place = db.session(), {"tenant": target.tenant_id, "target": target.id}
    owed = session.execute(_OWED, place).all()
    settled = [(row.bucket, int(row.many)) for row in session.execute(_SETTLED, place)]
    pending = next((row for row in owed if row.status == "pending"), None)
    return {
        "deliveries": {row.status: int(row.many) for row in owed},
        "queue_depth": int(pending.many) if pending else 0,
        "queue_age_seconds": round(float(pending.age), 1) if pending else 0.0,
        "resources": {row.state: int(row.many) for row in session.execute(_THERE, place)},
        "drift": {row.kind: int(row.many) for row in session.execute(_DRIFT, place)},
        "settled_24h": sum(many for _, many in settled),
        "convergence_p50_seconds": _quantile(settled, 0.5),
        "convergence_p99_seconds": _quantile(settled, 0.99),
        "status": target.status,
        "status_reason": target.status_reason,
        "failing_since": target.failing_since and target.failing_since.isoformat(),
    }


def _quantile(settled: list[tuple[int, int]], share: float) -> float | None:
    """The upper end of the bucket in which that share is reached."""
    wanted, reached = share * sum(many for _, many in settled), 0
    for bucket, many in settled:
        reached += many
        if reached >= wanted:
            return float(2.0**bucket / 4)
    return None
