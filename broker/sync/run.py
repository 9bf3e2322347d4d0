"""One pass over an upstream: page by page into the directory, each page in a transaction of its own.

Owns the run's row (cursor, counters, status), resuming what died, the rehearsal (dry run), and records that the
database refuses. What becomes of a record is the directory's, what may be taken away at the end `removals`'. No
transaction is open while a live upstream is read.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import Session

from broker import context, ids, removals, schedule
from broker.context import Scope
from broker.db import db, unit
from broker.directory import Directory, Loss, Outcome, Skip
from broker.errors import Conflict
from broker.models import IdentityProvider, SyncRun, Tenant
from connectors.port import (
    Change,
    ChangeFeed,
    CursorExpired,
    Lookup,
    Page,
    Record,
    Unreachable,
    Unreadable,
    UpstreamError,
)

from . import book, leases
from .book import SyncProgress
from .leases import Lease, sqlstate
from .spool import Spool

GROWTH = (1_000, 10_000, 100_000, 1_000_000)
"""Records created in one run, after which the planner's idea of the tables is out of date: see decision 6."""
TOLD_EVERY = 10.0
"""Seconds between two lines of the log about a run."""
CHANGED = "The provider's configuration has changed since the last good run: this is what reading it now would do."

_RECONFIGURED = "The provider's configuration was changed while it was read."
_ANALYZE = sa.text("SELECT scaikey_refresh_statistics()")
_LAST_FULL = sa.text("""
    SELECT read FROM sync_runs WHERE tenant_id = :tenant AND provider_id = :via AND source = 'upstream'
      AND kind = 'full' AND complete AND NOT dry_run ORDER BY no DESC LIMIT 1
""")
_RENUMBER = sa.text("""
    UPDATE sync_runs SET no = DEFAULT, kind = 'full', cursor = NULL, read = 0, unchanged = 0, skipped = 0, done = NULL
    WHERE tenant_id = :tenant AND id = :run
""")
_FORGET_SKIPS = sa.text("DELETE FROM sync_skips WHERE tenant_id = :tenant AND run_id = :run")
_AGAIN = frozenset({"40001", "40P01", "55P03"})
"""Serialization failure, deadlock, lock timeout: the same page succeeds when the other transaction is over."""

log = logging.getLogger("scaikey.sync")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Order:
    """What is wanted of a run. `live`: the upstream itself is read, not an export of it; `run_id`: the run that was
    asked for earlier; `full`: everything, not only what changed."""

    live: bool = False
    full: bool = False
    dry_run: bool = False
    run_id: str | None = None


Watch = Callable[[SyncProgress], None]
Stopping = Callable[[], bool]


def pull(
    scope: Scope,
    provider_id: str,
    feed: ChangeFeed,
    order: Order | None = None,
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
    lease = leases.take(scope, provider_id, patience)
    return carry_out(lease, feed, order or Order(dry_run=dry_run), progress=progress)


def carry_out(
    lease: Lease, feed: ChangeFeed, order: Order, *, progress: Watch | None = None, stopping: Stopping | None = None
) -> str:
    """Read under a lease that is ours already, and give it back; returns the run's id.

    `stopping`: asked after each page; True leaves the run to whoever takes it up. Raises as `pull` does.
    """
    requested_by = context.current_actor().id
    with context.acting(context.system("sync")), lease.kept():
        reading = _Pass(lease, feed, order, requested_by, progress, stopping or (lambda: False))
        return reading.follow() if order.live else reading.rehearse() if order.dry_run else reading.read()


class _Rehearsed(Exception):
    """Takes a dry run's transaction back."""


class _Ended(Exception):
    """Somebody or something ends the run before its next page; the text is its problem."""


class _Paused(Exception):
    """This process has to stop; another one takes the run up."""


class _Pass:
    """One run under one lease."""

    def __init__(
        self,
        lease: Lease,
        feed: ChangeFeed,
        order: Order,
        requested_by: str,
        progress: Watch | None,
        stopping: Stopping,
    ) -> None:
        self.lease = lease
        self.scope = lease.scope
        self.provider_id = lease.provider_id
        self.feed = feed
        self.order = order
        self.requested_by = requested_by
        self.progress = progress
        self.stopping = stopping
        self.dry_run = order.dry_run
        self.config: bytes | None = None
        self.kind: Literal["full", "delta"] = "full"
        self.run_id = ""
        self.now: SyncProgress | None = None
        self.page_at = self.told_at = time.monotonic()

    def follow(self) -> str:
        """Read a live upstream: from where the last good run ended, or everything."""
        cursor, complete = self._prepare()
        if not self.dry_run:
            return self.read(cursor, complete=complete)
        try:
            spool = self._put_by(cursor)
        except UpstreamError as error:
            self._fail(error)
            return self.run_id
        try:
            self.feed = spool
            return self.rehearse(spool.cursor)
        finally:
            spool.close()

    def read(self, cursor: str | None = None, *, complete: bool = False) -> str:
        if not self.order.live:
            cursor = self._begin()
        try:
            if not complete:
                try:
                    self._through(cursor)
                except CursorExpired as expired:
                    if not self._begin_again(cursor, expired):
                        raise
                    self._through(None)
            self._end()
        except _Paused:
            log.info("run %s is left to be taken up", self.run_id)
        except (UpstreamError, _Ended) as error:
            self._fail(error)
        self._report()
        return self.run_id

    def _through(self, cursor: str | None) -> None:
        """The pages after the cursor, up to the one that says that it is the last. Raises UpstreamError, _Ended."""
        for page in self.feed.changes_since(cursor):
            before = self.now.created if self.now else 0
            self._twice(self._take, page)
            self._tell_planner(before)
            self._report()
            if page.last:
                return
            if not self.dry_run and self.stopping():
                raise _Paused
        raise Unreachable("The listing ended without saying that it is complete.")

    def rehearse(self, cursor: str | None = None) -> str:
        """The same in one transaction, of which only the run's row is kept."""
        try:
            with unit(self.scope):
                self.read(cursor)
                run = self._run()
                kept = {column.key: getattr(run, column.key) for column in SyncRun.__table__.c if column.key != "no"}
                raise _Rehearsed
        except _Rehearsed:
            pass
        self._keep(kept)
        return self.run_id

    def _keep(self, kept: dict[str, object]) -> None:
        """What a rehearsal came to, in the run's row."""
        failed = kept["status"] == "failed"
        with unit(self.scope) as session:
            via = self.lease.extend()
            waits = self.order.live and not failed and via.good_config not in (None, self.config)
            kept |= {"cursor": None, "finished_at": sa.func.now()}
            kept["status"] = "failed" if failed else "held" if waits else "done"
            if waits:
                kept["hold_reason"] = " ".join(filter(None, (CHANGED, str(kept["hold_reason"] or ""))))
            run = session.get(SyncRun, (self.scope.tenant_id, self.run_id))
            if run is None:
                session.add(SyncRun(**kept))
                return
            for name, value in kept.items():
                setattr(run, name, value)
            if waits:
                via.due_at = None  # until somebody has decided, or changed it again
                removals.supersede(via, run)
                removals.tell("held", via, run)
            self._note(run)
        self._report()

    def _unit(self) -> AbstractContextManager[Session]:
        session = db.session()
        return nullcontext(session) if "scope" in session.info else unit(self.scope)

    def _prepare(self) -> tuple[str | None, bool]:
        """Take up the run that was asked for or that died, or start one; returns the cursor to go on from, and whether
        everything has been read already. Under settings that no good run has read by, it becomes a rehearsal."""
        with unit(self.scope) as session:
            via = self.lease.extend()
            if not via.enabled:
                raise Conflict("The provider is disabled")
            self.config = removals.config_digest(via)
            run = self._wanted(session)
            if run is not None and run.config not in (None, self.config):
                run.status, run.problem, run.finished_at = "failed", _RECONFIGURED, sa.func.now()
                removals.tell("failed", via, run)
                run = None
            if run is None:
                run = self._start(live=True)
            unproven = via.good_config not in (None, self.config)
            self.run_id, run.fence, run.config = run.id, self.lease.fence, self.config
            self.dry_run = run.dry_run = run.dry_run or unproven
            if run.started_at is None:
                run.started_at = sa.func.now()
            begun = run.cursor is not None and not self.dry_run
            if not begun:
                due = via.full_due_at is None or via.full_due_at <= _moment()
                full = self.order.full or run.kind == "full" or via.feed_cursor is None or due or unproven
                run.kind = "full" if full else "delta"
                run.total = session.execute(_LAST_FULL, self._named()).scalar() if full else None
            session.flush()
            self._note(run)
            if begun:
                return run.cursor, run.complete
            return (None if run.kind == "full" else via.feed_cursor), False

    def _wanted(self, session: Session) -> SyncRun | None:
        waiting = sa.select(SyncRun).where(
            SyncRun.provider_id == self.provider_id, SyncRun.source == "upstream", SyncRun.status == "running"
        )
        if self.order.run_id is not None:
            waiting = waiting.where(SyncRun.id == self.order.run_id)
        else:
            waiting = waiting.where(SyncRun.dry_run == self.order.dry_run)
        return session.scalars(waiting.order_by(SyncRun.no)).first()

    def _put_by(self, cursor: str | None) -> Spool:
        def count(page: Page) -> None:
            self.lease.heard = time.monotonic()
            if self.now is not None:
                read = self.now.read + len(page.changes)
                self.now = replace(self.now, read=read, done=page.done or read, total=page.total or self.now.total)
                self._report()

        try:
            return Spool(self.feed, cursor, count)
        except CursorExpired as expired:
            if cursor is None or not self._begin_again(cursor, expired):
                raise
            return Spool(self.feed, None, count)

    def _begin(self) -> str | None:
        """Of an export: take up the run that died, or start one; returns the cursor to go on from."""
        with self._unit() as session:
            if not self.lease.extend().enabled:
                raise Conflict("The provider is disabled")
            died = sa.select(SyncRun).where(
                SyncRun.provider_id == self.provider_id, SyncRun.status == "running", SyncRun.source == "file"
            )
            run = None if self.dry_run else session.scalars(died).first()
            if run is None:
                self._start()
                return None
            self.run_id, run.fence = run.id, self.lease.fence
            return run.cursor

    def _start(self, *, live: bool = False) -> SyncRun:
        self.run_id = ids.new("run")
        session = db.session()
        run = SyncRun(
            id=self.run_id,
            provider_id=self.provider_id,
            kind="full" if self.order.full or not live else "delta",
            source="upstream" if live else "file",
            dry_run=self.dry_run,
            fence=self.lease.fence,
            requested_by=self.requested_by,
        )
        session.add(run)
        session.flush()
        session.refresh(run)
        return run

    def _run(self) -> SyncRun:
        return db.session().get_one(SyncRun, (self.scope.tenant_id, self.run_id))

    def _begin_again(self, cursor: str | None, expired: CursorExpired) -> bool:
        """The cursor leads nowhere any more: read everything, from the start. False where that was done already.

        A live upstream's run goes on under another number, so that what its earlier part met does not count as met. Of
        an export it is other input, which gets a run of its own; one that changes while it is read has failed.
        """
        if cursor is None or (not self.order.live and self.now is not None):
            return False
        if not self.order.live:
            self._fail(expired, "Superseded: it was interrupted, and what was read next was another listing.")
            with self._unit():
                self.lease.extend()
                self._start()
            return True
        log.info("run %s reads everything: %s", self.run_id, expired)
        with self._unit() as session:
            via, run = self.lease.extend(), self._run()
            session.execute(_FORGET_SKIPS, self._named())
            session.execute(_RENUMBER, self._named())
            session.refresh(run)
            run.total = session.execute(_LAST_FULL, self._named()).scalar()
            removals.tell("began_again", via, run)
            self._note(run)
        return True

    def _take(self, page: Page) -> None:
        with self._unit() as session:
            via, run = self.lease.extend(), self._run()
            self._refuse_to_go_on(via, run)
            self.kind = run.kind = page.kind
            run.cursor, run.complete, run.attempts = page.cursor, page.last, 0
            for outcome in self._applied(page.changes, via, run.no):
                book.count(run, outcome)
                removals.keep(via, run, outcome.losses)
            if self.order.live and page.total is None:
                run.done = run.read
            else:
                run.done, run.total = page.done, page.total
            book.pace(run, len(page.changes), time.monotonic() - self.page_at)
            self.page_at = time.monotonic()
            session.flush()
            self._note(run)

    def _refuse_to_go_on(self, via: IdentityProvider, run: SyncRun) -> None:
        """Raises _Ended."""
        if run.cancelled_by is not None:
            raise _Ended(f"Cancelled by {run.cancelled_by}.")
        if not self.order.live:
            return
        if not via.enabled:
            raise _Ended("The provider was disabled.")
        if self.config != removals.config_digest(via):
            raise _Ended(_RECONFIGURED)
        tenant = db.session().get(Tenant, self.scope.tenant_id)
        if tenant is None or tenant.status != "active":
            raise _Ended("The tenant was suspended.")

    def _tell_planner(self, before: int) -> None:
        """A first import outruns autovacuum: without statistics each page would take longer than the one before."""
        created = self.now.created if self.now else 0
        if any(before < step <= created for step in GROWTH):
            with suppress(OperationalError), self._unit() as session, session.begin_nested():
                session.execute(_ANALYZE)

    def _applied(self, changes: Sequence[Change], via: IdentityProvider, run_no: int) -> Iterator[Outcome]:
        """Apply a page. One the database refuses is halved until the record it refuses is alone, and skipped."""
        try:
            with db.session().begin_nested():
                outcome = Directory().apply(changes, via, run_no, followed=self.order.live and self.kind == "delta")
        except (DataError, IntegrityError, UnicodeError):
            if len(changes) > 1:
                for part in (changes[: len(changes) // 2], changes[len(changes) // 2 :]):
                    yield from self._applied(part, via, run_no)
                return
            refused = Skip(None, _name(changes[0]), "refused", "The database does not take a value of it.")
            outcome = Outcome(read=1, skips=[refused])
        yield outcome

    def _end(self) -> None:
        """The listing is complete: what it would take away is done, or held."""
        with self._unit():
            via, run = self.lease.extend(), self._run()
            self._refuse_to_go_on(via, run)
            if run.kind == "full":
                Directory().correct(via, run.no)
            verdict = removals.judge(via, run)
            passed = run.disabled + run.removed > 0  # before this process took the run up
            if verdict.complaint and not passed:
                removals.hold(via, run, verdict)
                self._proceed(via, run)
            elif not verdict.losses and not self._unsettled(via, run):
                removals.finish(via, run)
                self._proceed(via, run)
            self._note(run)
            waiting = run.status == "running"
        if waiting:
            self._take_away(verdict.losses)
        self._tell_planner(0)

    def _take_away(self, losses: Sequence[Loss]) -> None:
        for start in range(0, len(losses), removals.AT_ONCE):
            self._twice(self._take_some, losses[start : start + removals.AT_ONCE])
        self._settle()
        with self._unit():
            via, run = self.lease.extend(), self._run()
            removals.finish(via, run)
            self._proceed(via, run)
            self._note(run)

    def _take_some(self, losses: Sequence[Loss]) -> None:
        with self._unit():
            removals.take_away(self.lease.extend(), self._run(), losses)

    def _unsettled(self, via: IdentityProvider, run: SyncRun) -> Sequence[str]:
        """Keys of records that could not be taken as they are, and of which a delta will not tell again."""
        live = self.order.live and run.kind == "delta" and isinstance(self.feed, Lookup)
        return Directory().unsettled(via) if live else ()

    def _settle(self) -> None:
        """Ask for them again, now that names may have become free; of a rehearsal nothing is asked."""
        with self._unit():
            via, run = self.lease.extend(), self._run()
            keys = self._unsettled(via, run)
        if not keys or not isinstance(self.feed, Lookup):
            return
        records: list[Record | Unreadable] = list(self.feed.records(keys))
        with self._unit() as session:
            via, run = self.lease.extend(), self._run()
            for outcome in self._applied(records, via, run.no):
                book.count(run, outcome)
                removals.keep(via, run, outcome.losses)
            session.flush()

    def _proceed(self, via: IdentityProvider, run: SyncRun) -> None:
        """The run is over and was a good one: the next delta begins where it ended."""
        if not self.order.live:
            return
        now = _moment()
        via.feed_cursor, via.failures, via.succeeded_at = run.cursor, 0, now
        if run.kind == "full":
            via.full_due_at = schedule.parse(via.sync).full_after(now)

    def _fail(self, error: Exception, problem: str | None = None) -> None:
        with self._unit():
            via, run = self.lease.extend(), self._run()
            run.status, run.problem, run.finished_at = "failed", problem or str(error), sa.func.now()
            if self.order.live and not isinstance(error, _Ended):
                via.failures += 1
                self._try_soon(via, error)
            removals.tell("failed", via, run)
            self._note(run)

    def _try_soon(self, via: IdentityProvider, error: Exception) -> None:
        """An upstream that could not be reached is asked again before its next time, or not before it wants to be."""
        if via.due_at is None or not isinstance(error, Unreachable):
            return
        again = _moment() + schedule.retry_after(via.failures, error.retry_after)
        via.due_at = again if error.retry_after else min(via.due_at, again)

    def _twice(self, step: Callable[[T], None], what: T) -> None:
        try:
            step(what)
        except DBAPIError as error:
            if self.dry_run or sqlstate(error) not in _AGAIN:
                raise
            step(what)

    def _note(self, run: SyncRun) -> None:
        """Keep the numbers for whoever watches, who is told outside the transaction."""
        self.now = SyncProgress.of(run)

    def _report(self) -> None:
        if self.now is None:
            return
        if self.progress is not None:
            self.progress(self.now)
        if time.monotonic() - self.told_at >= TOLD_EVERY:
            self.told_at = time.monotonic()
            log.info("run %s of %s: %s", self.run_id, self.provider_id, self.now.in_words())

    def _named(self) -> dict[str, object]:
        return {"tenant": self.scope.tenant_id, "via": self.provider_id, "run": self.run_id}


def _moment() -> datetime:
    """The database's."""
    moment: datetime = db.session().execute(sa.select(sa.func.now())).scalar_one()
    return moment


def _name(change: Change) -> str:
    return change.name or change.position if isinstance(change, Unreadable) else getattr(change, "name", change.key)
