"""How much an upstream may take away before a person has to look.

Owns the thresholds of the removal guard and the sentence that says why a set of removals waits. Counts only: what would
go, what is linked and what went lately is told by the caller, and holding or doing it is `removals`'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from . import settings
from .context import Scope

KINDS = ("user", "group", "unit")
"""What is counted; records of other classes are nobody's loss."""


@dataclass(frozen=True, slots=True)
class Guard:
    """Held is what exceeds `min` and `percent` of those linked, in one pass, or `percent_24h` within a day."""

    min: int
    percent: int
    percent_24h: int

    def complaint(self, losing: Mapping[str, int], linked: Mapping[str, int], taken: int = 0) -> str | None:
        """Why these losses have to wait, or None.

        By kind: `losing` now, `linked` before it. `taken`: losses of the last 24 hours that nobody was asked about.
        """
        for kind in KINDS:
            if self._exceeds(losing.get(kind, 0), linked.get(kind, 0), self.percent):
                return f"{losing[kind]} of {linked.get(kind, 0)} {kind}s would go; {self._allowed(self.percent)} may."
        total, of = (sum(counts.get(kind, 0) for kind in KINDS) for counts in (losing, linked))
        if self._exceeds(total, of, self.percent):
            return f"{total} of {of} linked resources would go; {self._allowed(self.percent)} may."
        if total and self._exceeds(total + taken, of + taken, self.percent_24h):
            return (
                f"{total + taken} of {of + taken} linked resources would have gone within 24 hours; "
                f"{self._allowed(self.percent_24h)} may."
            )
        return None

    def _exceeds(self, count: int, of: int, percent: int) -> bool:
        return count > self.min and 100 * count > percent * of

    def _allowed(self, percent: int) -> str:
        return f"at most {self.min} or {percent} %"


def of(scope: Scope, own: Mapping[str, int]) -> Guard:
    """The guard that holds in the scope, with what a provider or target sets for itself laid over it."""
    return Guard(**{**settings.of(scope, "removal_guard"), **own})
