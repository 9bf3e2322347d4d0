"""One pass over an upstream: page by page into the directory, each page in a transaction of its own.

Owns the lease that lets one run at a time read a provider, the run's row (cursor, counters, status), resuming what
died, the dry run, and records that the database refuses. What becomes of a record is the directory's, what may be
taken away at the end `removals`'. No transaction is open while the upstream is read, but for a dry run; times are
the database's.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from datetime import timedelta
from itertools import chain
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import Session

from connectors.port import Change, ChangeFeed, CursorExpired, Page, Unreadable, UpstreamError

from . import context, ids, removals
from .context import Scope
from .db import db, unit
from .directory import Directory, Loss, Outcome, Skip
from .errors import Conflict, NotFound
from .models import IdentityProvider, SyncRun, SyncSkip

LEASE = timedelta(seconds=10)
"""A run that has not committed a page for this long is taken for dead."""
KEPT_SKIPS = 10_000
"""Skipped records a run keeps with their reasons; all of them are counted."""
GROWTH = (1_000, 10_000, 100_000, 1_000_000)
"""Records created in one run, after which the planner's idea of the tables is out of date: see decision 6."""

_TAKE = sa.text("""
    UPDATE identity_providers SET lease_fence = lease_fence + 1, lease_until = now() + :lease
    WHERE tenant_id = :tenant AND id = :via AND (lease_until IS NULL OR lease_until < now()) RETURNING lease_fence
""")
_EXTEND = sa.text("""
    UPDATE identity_providers SET lease_until = now() + :lease
    WHERE tenant_id = :tenant AND id = :via AND lease_fence = :fence RETURNING id
""")
_RELEASE = sa.text("""
    UPDATE identity_providers SET lease_until = NULL WHERE tenant_id = :tenant AND id = :via AND lease_fence = :fence
""")
_ANALYZE = sa.text("SELECT scaikey_refresh_statistics()")
_AGAIN = frozenset({"40001", "40P01", "55P03"})
"""Serialization failure, deadlock, lock timeout: the same page succeeds when the other transaction is over."""
_LOCKED = "55P03"


@dataclass(frozen=True, slots=True)
class SyncProgress:
    """Where a run is after a page; `done` of `total` in the upstream's own measure (bytes, records)."""

    run_id: str
    status: str
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


_TOLD = [field.name for field in fields(SyncProgress) if field.name != "run_id"]
T = TypeVar("T")
Watch = Callable[[SyncProgress], None]


def pull(
    scope: Scope,
    provider_id: str,
    feed: ChangeFeed,
    *,
    dry_run: bool = False,
    progress: Watch | None = None,
    patience: float = 0,
) -> str:
    """Read the feed to its end and return the run's id; how it ended is in the run's row.

    An interrupted run on the same input goes on after its last page. A dry run does everything in one transaction and
    takes it back. `patience`: seconds to wait for the lease of a run that seems to be dead.
    Raises NotFound, and Conflict while another run of the provider is under way or has taken this one over.
    """
    requested_by = context.current_actor().id
    with context.acting(context.system("sync")):
        fence = _take_lease(scope, provider_id, patience)
        try:
            reading = _Pass(scope, provider_id, fence, feed, requested_by, dry_run, progress)
            return reading.rehearse() if dry_run else reading.read()
        finally:
            with contextlib.suppress(OperationalError), unit(scope) as session:
                session.execute(_RELEASE, {"tenant": scope.tenant_id, "via": provider_id, "fence": fence})


def _take_lease(scope: Scope, provider_id: str, patience: float) -> int:
    """The fence of the lease. A holder that extends its lease while we wait is alive, and we give up."""
    where = {"tenant": scope.tenant_id, "via": provider_id}
    deadline = time.monotonic() + patience
    seen = None
    while True:
        try:
            with unit(scope) as session:
                fence: int | None = session.execute(_TAKE, {**where, "lease": LEASE}).scalar()
                if fence is not None:
                    return fence
                via = session.get(IdentityProvider, (scope.tenant_id, provider_id))
                if via is None:
                    raise NotFound("There is no such provider")
                until = via.lease_until
        except OperationalError as error:
            if _sqlstate(error) != _LOCKED:
                raise
            until = None
        if time.monotonic() >= deadline or (seen is not None and until != seen):
            raise Conflict("Another run of this provider is under way", retry_after=int(LEASE.total_seconds()))
        seen = until
        time.sleep(0.5)


class _Rehearsed(Exception):
    """Takes a dry run's transaction back."""


class _Pass:
    """One run under one lease."""

    def __init__(
        self,
        scope: Scope,
        provider_id: str,
        fence: int,
        feed: ChangeFeed,
        requested_by: str,
        dry_run: bool,
        progress: Watch | None,
    ) -> None:
        self.scope = scope
        self.provider_id = provider_id
        self.fence = fence
        self.feed = feed
        self.requested_by = requested_by
        self.dry_run = dry_run
        self.progress = progress
        self.run_id = ""
        self.now: SyncProgress | None = None

    def read(self) -> str:
        try:
            for page in self._pages(self._begin()):
                before = self.now.created if self.now else 0
                self._twice(self._take, page)
                self._tell_planner(before)
                self._report()
                if page.last:
                    self._end()
                    break
            else:
                self._fail("The listing ended without saying that it is complete.")
        except UpstreamError as error:
            self._fail(str(error))
        self._report()
        return self.run_id

    def rehearse(self) -> str:
        """The same in one transaction, of which only the run's row is kept."""
        try:
            with unit(self.scope):
                self.read()
                run = self._run()
                kept = {column.key: getattr(run, column.key) for column in SyncRun.__table__.c if column.key != "no"}
                raise _Rehearsed
        except _Rehearsed:
            pass
        kept["status"] = "failed" if kept["status"] == "failed" else "done"
        with unit(self.scope) as session:
            session.add(SyncRun(**{**kept, "cursor": None, "finished_at": sa.func.now()}))
        return self.run_id

    def _unit(self) -> AbstractContextManager[Session]:
        return nullcontext(db.session()) if self.dry_run else unit(self.scope)

    def _begin(self) -> str | None:
        """Take up the run that died, or start one; returns the cursor to go on from."""
        with self._unit() as session:
            if not self._via().enabled:
                raise Conflict("The provider is disabled")
            died = sa.select(SyncRun).where(SyncRun.provider_id == self.provider_id, SyncRun.status == "running")
            run = None if self.dry_run else session.scalars(died).first()
            if run is None:
                self._start()
                return None
            self.run_id, run.fence = run.id, self.fence
            return run.cursor

    def _start(self) -> None:
        self.run_id = ids.new("run")
        session = db.session()
        session.add(
            SyncRun(
                id=self.run_id,
                provider_id=self.provider_id,
                kind="full",
                dry_run=self.dry_run,
                fence=self.fence,
                requested_by=self.requested_by,
            )
        )
        session.flush()

    def _via(self) -> IdentityProvider:
        """The provider, its lease extended; locked to the end of the transaction, so that nobody takes it over."""
        session = db.session()
        where = {"tenant": self.scope.tenant_id, "via": self.provider_id}
        if session.execute(_EXTEND, {**where, "fence": self.fence, "lease": LEASE}).scalar() is None:
            raise Conflict("Another run of this provider has taken over")
        return session.get_one(IdentityProvider, (self.scope.tenant_id, self.provider_id))

    def _run(self) -> SyncRun:
        return db.session().get_one(SyncRun, (self.scope.tenant_id, self.run_id))

    def _pages(self, cursor: str | None) -> Iterator[Page]:
        """What follows the cursor. One that means nothing any more is of other input: then a new run begins."""
        pages = self.feed.changes_since(cursor)
        if cursor is None:
            return pages
        try:
            return chain([next(pages)], pages)
        except CursorExpired:
            self._fail("Superseded: it was interrupted, and what was read next was another listing.")
        except StopIteration:
            return pages
        with self._unit():
            self._via()
            self._start()
        return self.feed.changes_since(None)

    def _take(self, page: Page) -> None:
        with self._unit():
            via, run = self._via(), self._run()
            run.kind, run.cursor, run.done, run.total = page.kind, page.cursor, page.done, page.total
            for outcome in self._applied(page.changes, via, run.no):
                run.read += outcome.read
                run.created += outcome.created
                run.updated += outcome.updated
                run.unchanged += outcome.unchanged
                self._skip(run, outcome.skips)
                removals.keep(via, run, outcome.losses)
                if self.dry_run:
                    run.plan = [*run.plan, *outcome.plan][: removals.PLANNED]
            self._note(run)

    def _tell_planner(self, before: int) -> None:
        """A first import outruns autovacuum: without statistics each page would take longer than the one before."""
        created = self.now.created if self.now else 0
        if any(before < step <= created for step in GROWTH):
            with contextlib.suppress(OperationalError), self._unit() as session, session.begin_nested():
                session.execute(_ANALYZE)

    def _applied(self, changes: Sequence[Change], via: IdentityProvider, run_no: int) -> Iterator[Outcome]:
        """Apply a page. One the database refuses is halved until the record it refuses is alone, and skipped."""
        try:
            with db.session().begin_nested():
                outcome = Directory().apply(changes, via, run_no)
        except (DataError, IntegrityError, UnicodeError):
            if len(changes) > 1:
                for part in (changes[: len(changes) // 2], changes[len(changes) // 2 :]):
                    yield from self._applied(part, via, run_no)
                return
            refused = Skip(None, _name(changes[0]), "refused", "The database does not take a value of it.")
            outcome = Outcome(read=1, skips=[refused])
        yield outcome

    def _skip(self, run: SyncRun, skips: Sequence[Skip]) -> None:
        kept = skips[: max(0, KEPT_SKIPS - run.skipped)]
        run.skipped += len(skips)
        db.session().add_all(
            SyncSkip(
                run_id=run.id,
                position=skip.position,
                name=skip.name.replace("\0", "\ufffd") if skip.name is not None else None,
                reason=skip.reason,
                detail=skip.detail,
            )
            for skip in kept
        )

    def _end(self) -> None:
        """The listing is complete: what it would take away is done, or held."""
        with self._unit():
            via, run = self._via(), self._run()
            if run.kind == "full":
                Directory().correct(via, run.no)
            verdict = removals.judge(via, run)
            passed = run.disabled + run.removed > 0  # before this process took the run up
            if verdict.complaint and not passed:
                removals.hold(via, run, verdict)
            elif not verdict.losses:
                removals.finish(via, run)
            self._note(run)
            waiting = run.status == "running"
        if waiting:
            self._take_away(verdict.losses)
        self._tell_planner(0)

    def _take_away(self, losses: Sequence[Loss]) -> None:
        for start in range(0, len(losses), removals.AT_ONCE):
            self._twice(self._take_some, losses[start : start + removals.AT_ONCE])
        with self._unit():
            via, run = self._via(), self._run()
            removals.finish(via, run)
            self._note(run)

    def _take_some(self, losses: Sequence[Loss]) -> None:
        with self._unit():
            removals.take_away(self._via(), self._run(), losses)

    def _fail(self, problem: str) -> None:
        with self._unit():
            via, run = self._via(), self._run()
            run.status, run.problem, run.finished_at = "failed", problem, sa.func.now()
            removals.tell("failed", via, run)
            self._note(run)

    def _twice(self, step: Callable[[T], None], what: T) -> None:
        try:
            step(what)
        except DBAPIError as error:
            if self.dry_run or _sqlstate(error) not in _AGAIN:
                raise
            step(what)

    def _note(self, run: SyncRun) -> None:
        """Keep the numbers for whoever watches, who is told outside the transaction."""
        self.now = SyncProgress(run_id=run.id, **{name: getattr(run, name) for name in _TOLD})

    def _report(self) -> None:
        if self.progress is not None and self.now is not None:
            self.progress(self.now)


def _name(change: Change) -> str:
    return change.name or change.position if isinstance(change, Unreadable) else getattr(change, "name", change.key)


def _sqlstate(error: DBAPIError) -> str | None:
    state: str | None = getattr(error.orig, "sqlstate", None)
    return state
