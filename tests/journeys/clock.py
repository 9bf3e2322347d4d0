"""The time of one tenant's pushes, moved on at will.

PostgreSQL's `now()` is the only clock of deliveries and targets. Here it stands still, as it were, and every moment
they hold is set back by what has passed: what counts is the distance between the two, and the code runs as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from broker.db import platform_scope
from broker.models.base import Base
from scim import push
from tests.scim.test_push import Tenant, drain

HOUR = 3600.0

_PUSHED = ("deliveries", "scim_targets", "target_resources", "target_removals", "target_runs", "target_drifts")
_NEXT = sa.text("""
    SELECT extract(epoch FROM min(greatest(d.due_at, coalesce(t.postponed_until, d.due_at))) - now())
    FROM deliveries d JOIN scim_targets t ON t.tenant_id = d.tenant_id AND t.id = d.target_id
    WHERE d.tenant_id = :tenant AND d.status IN ('pending', 'failed')
""")


@dataclass
class Clock:
    acme: Tenant
    passed: float = 0.0
    """Seconds since the story began."""

    def run(self, hours: float, look: Callable[[float], None] = lambda hour: None) -> None:
        """Let so many hours pass, with a run of the clock and of a worker whenever something falls due."""
        end = self.passed + hours * HOUR
        while True:
            push.look_again()
            drain()
            look(self.passed / HOUR)
            if self.passed >= end:
                return
            self._forward(min(max(self._next(), 1.0), end - self.passed))

    def _next(self) -> float:
        with platform_scope() as session:
            seconds = session.execute(_NEXT, {"tenant": self.acme.scope.tenant_id}).scalar()
        return float("inf") if seconds is None else float(seconds)

    def _forward(self, seconds: float) -> None:
        self.passed += seconds
        with platform_scope() as session:
            for name in _PUSHED:
                table = Base.metadata.tables[name]
                moments = [column for column in table.columns if isinstance(column.type, sa.DateTime)]
                earlier = {column.name: column - sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds) for column in moments}
                session.execute(table.update().where(table.c.tenant_id == self.acme.scope.tenant_id).values(earlier))
