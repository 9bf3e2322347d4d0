"""What a run writes down of itself: its counters, the records it skipped, how far it is and how fast.

Works on the run's row in the open unit of work; when something is written down is `run`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import sqlalchemy as sa

from broker import removals
from broker.db import db
from broker.directory import Outcome, Skip
from broker.models import SyncRun, SyncSkip

KEPT_SKIPS = 10_000
"""Skipped records a run keeps with their reasons; all of them are counted."""


_FORGET = sa.text("DELETE FROM sync_skips WHERE tenant_id = :tenant AND run_id = :run AND name = ANY(:names)")


@dataclass(frozen=True, slots=True)
class SyncProgress:
    """Where a run is after a page; `done` of `total` in the upstream's own measure (bytes, records), `rate` in records
    a second."""

    run_id: str
    status: str
    kind: str
    read: int
    created: int
    updated: int
    unchanged: int
    disabled: int
    removed: int
    skipped: int
    held_removals: int
    done: int | None
    total: int | None
    rate: float | None

    @classmethod
    def of(cls, run: SyncRun) -> SyncProgress:
        return cls(run_id=run.id, **{name: getattr(run, name) for name in _TOLD})

    def in_words(self) -> str:
        """How far it is, for a line of the log."""
        words = f"{self.read} records read"
        if self.rate:
            words += f", {self.rate:.0f}/s"
            if (left := remaining_seconds(self.done, self.total, self.rate)) is not None:
                words += f", about {left} s left"
        return words


_TOLD = [field.name for field in fields(SyncProgress) if field.name != "run_id"]


def remaining_seconds(done: int | None, total: int | None, rate: float | None) -> int | None:
    """About how long a run will still take, where both its pace and its length are known in records."""
    return round(max(total - done, 0) / rate) if rate and total and done is not None else None


def count(run: SyncRun, outcome: Outcome) -> None:
    run.read += outcome.read
    run.created += outcome.created
    run.updated += outcome.updated
    run.unchanged += outcome.unchanged
    _skip(run, outcome.skips)
    if run.dry_run:
        run.plan = [*run.plan, *outcome.plan][: removals.PLANNED]


def pace(run: SyncRun, records: int, seconds: float) -> None:
    """How fast it is lately: the last page weighs as much as all before it."""
    if records:
        present = records / max(seconds, 0.001)
        run.rate = round(present if run.rate is None else (run.rate + present) / 2, 1)


def _skip(run: SyncRun, skips: Sequence[Skip]) -> None:
    kept = skips[: max(0, KEPT_SKIPS - run.skipped)]
    run.skipped += len(skips)
    db.session().add_all(
        SyncSkip(
            run_id=run.id,
            position=_storable(skip.position),
            name=_storable(skip.name),
            reason=skip.reason,
            detail=_storable(skip.detail) or "",
        )
        for skip in kept
    )


def settled(run: SyncRun, names: Iterable[str], still: Iterable[Skip]) -> None:
    """What was skipped in this run under these names has found its place after all, but for who is skipped still."""
    left = {_storable(skip.name) for skip in still}
    over = [name for name in map(_storable, names) if name not in left]
    gone = db.session().execute(_FORGET, {"tenant": run.tenant_id, "run": run.id, "names": over})
    run.skipped -= gone.rowcount  # type: ignore[attr-defined]


def _storable(text: str | None) -> str | None:
    return text.replace("\0", "\ufffd") if text is not None else None
