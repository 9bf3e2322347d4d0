"""Pages into the directory, one transaction each, and the end of a pass.

Owns taking a page (and finding the one record of it that the database refuses), the reasons to go no further, and what
happens when everything has been read: judging, taking away, asking again for what found no place. Which run it is and
where it begins is `run`'s; what becomes of a record the directory's, what may be taken away `removals`'.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Literal, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import Session

from broker import removals, schedule
from broker.db import db, unit
from broker.directory import Directory, Loss, Outcome, Skip
from broker.models import IdentityProvider, SyncRun, Tenant
from connectors.port import Change, ChangeFeed, Lookup, Page, Record, Unreachable, Unreadable

from . import book
from .book import SyncProgress
from .leases import Lease, sqlstate

GROWTH = (1_000, 10_000, 100_000, 1_000_000)
"""Records created in one run, after which the planner's idea of the tables is out of date: see decision 6."""
LONGEST = timedelta(days=2)
"""After which a run is ended that an upstream keeps going by never coming to an end."""
TOLD_EVERY = 10.0
"""Seconds between two lines of the log about a run."""
RECONFIGURED = "The provider's configuration was changed while it was read."

_ANALYZE = sa.text("SELECT scaikey_refresh_statistics()")
_AGAIN = frozenset({"40001", "40P01", "55P03"})
"""Serialization failure, deadlock, lock timeout: the same page succeeds when the other transaction is over."""

T = TypeVar("T")
Watch = Callable[[SyncProgress], None]
Stopping = Callable[[], bool]

log = logging.getLogger("scaikey.sync")


class Ended(Exception):
    """Somebody or something ends the run before its next page; the text is its problem."""


class Paused(Exception):
    """This process has to stop; another one takes the run up."""


class Reading:
    """What one run reads under one lease. `live`: the upstream itself, not an export of it."""

    def __init__(
        self,
        lease: Lease,
        feed: ChangeFeed,
        *,
        live: bool,
        dry_run: bool,
        progress: Watch | None,
        stopping: Stopping,
    ) -> None:
        self.lease = lease
        self.scope = lease.scope
        self.provider_id = lease.provider_id
        self.feed = feed
        self.live = live
        self.dry_run = dry_run
        self.progress = progress
        self.stopping = stopping
        self.config: bytes | None = None
        self.kind: Literal["full", "delta"] = "full"
        self.run_id = ""
        self.now: SyncProgress | None = None
        self.page_at = self.told_at = time.monotonic()

    def through(self, cursor: str | None) -> None:
        """The pages after the cursor, up to the one that says that it is the last. Raises UpstreamError, Ended."""
        for page in self.feed.changes_since(cursor):
            before = self.now.created if self.now else 0
            self._twice(self._take, page)
            self._tell_planner(before)
            self.report()
            if page.last:
                return
            if not self.dry_run and self.stopping():
                raise Paused
        raise Unreachable("The listing ended without saying that it is complete.")

    def _take(self, page: Page) -> None:
        with self.unit() as session:
            via, run = self.lease.extend(), self.run()
            self.refuse_to_go_on(via, run)
            self.kind = run.kind = page.kind
            run.cursor, run.complete = page.cursor, page.last
            self._bring_in(page.changes, via, run)
            if self.live and page.total is None:
                run.done = run.read
            else:
                run.done, run.total = page.done, page.total
            book.pace(run, len(page.changes), time.monotonic() - self.page_at)
            self.page_at = time.monotonic()
            if run.read > run.furthest or page.last:
                run.furthest, run.attempts = run.read, 0
            session.flush()
            self.note(run)

    def refuse_to_go_on(self, via: IdentityProvider, run: SyncRun) -> None:
        """Raises Ended."""
        if run.cancelled_by is not None:
            raise Ended(f"Cancelled by {run.cancelled_by}.")
        if not self.live:
            return
        if not via.enabled:
            raise Ended("The provider was disabled.")
        if self.config != removals.config_digest(via):
            raise Ended(RECONFIGURED)
        if run.started_at is not None and moment() - run.started_at > LONGEST:
            raise Ended(f"It has taken longer than {LONGEST.days} days.")
        tenant = db.session().get(Tenant, self.scope.tenant_id)
        if tenant is None or tenant.status != "active":
            raise Ended("The tenant was suspended.")

    def _tell_planner(self, before: int) -> None:
        """A first import outruns autovacuum: without statistics each page would take longer than the one before."""
        created = self.now.created if self.now else 0
        if any(before < step <= created for step in GROWTH):
            with suppress(OperationalError), self.unit() as session, session.begin_nested():
                session.execute(_ANALYZE)

    def _bring_in(self, changes: Sequence[Change], via: IdentityProvider, run: SyncRun) -> None:
        for outcome in self._applied(changes, via, run.no):
            book.count(run, outcome)
            removals.keep(via, run, outcome.losses)

    def _applied(self, changes: Sequence[Change], via: IdentityProvider, run_no: int) -> Iterator[Outcome]:
        """Apply a page. One the database refuses is halved until the record it refuses is alone, and skipped."""
        try:
            with db.session().begin_nested():
                outcome = Directory().apply(changes, via, run_no, followed=self.live and self.kind == "delta")
        except (DataError, IntegrityError, UnicodeError):
            if len(changes) > 1:
                for part in (changes[: len(changes) // 2], changes[len(changes) // 2 :]):
                    yield from self._applied(part, via, run_no)
                return
            refused = Skip(None, _name(changes[0]), "refused", "The database does not take a value of it.")
            outcome = Outcome(read=1, skips=[refused])
        yield outcome

    def end(self) -> None:
        """The listing is complete: what it would take away is done, or held."""
        self._look_again()
        with self.unit():
            via, run = self.lease.extend(), self.run()
            self.refuse_to_go_on(via, run)
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
            self.note(run)
            waiting = run.status == "running"
        if waiting:
            self._take_away(verdict.losses)
        self._tell_planner(0)

    def _look_again(self) -> None:
        """Ask by name for whoever would be taken away: somebody who moved while a pass was read can be missed in both
        places, and one server may not know yet what another told."""
        if not isinstance(self.feed, Lookup):
            return
        with self.unit():
            via, run = self.lease.extend(), self.run()
            keys = Directory().missing(via, run.no if run.kind == "full" else None)
        for start in range(0, len(keys), removals.AT_ONCE):
            found = list(self.feed.records(keys[start : start + removals.AT_ONCE]))
            if not found:
                self.lease.heard = time.monotonic()
                continue
            with self.unit() as session:
                via, run = self.lease.extend(), self.run()
                self.refuse_to_go_on(via, run)
                self._bring_in(found, via, run)
                session.flush()

    def _take_away(self, losses: Sequence[Loss]) -> None:
        for start in range(0, len(losses), removals.AT_ONCE):
            self._twice(self._take_some, losses[start : start + removals.AT_ONCE])
        self._settle()
        with self.unit():
            via, run = self.lease.extend(), self.run()
            self.refuse_to_go_on(via, run)
            removals.finish(via, run)
            self._proceed(via, run)
            self.note(run)

    def _take_some(self, losses: Sequence[Loss]) -> None:
        with self.unit():
            via, run = self.lease.extend(), self.run()
            self.refuse_to_go_on(via, run)
            removals.take_away(via, run, losses)

    def _unsettled(self, via: IdentityProvider, run: SyncRun) -> Sequence[str]:
        """Keys of records that could not be taken as they are, and of which a delta will not tell again."""
        live = self.live and run.kind == "delta" and isinstance(self.feed, Lookup)
        return Directory().unsettled(via) if live else ()

    def _settle(self) -> None:
        """Ask for them again, now that names may have become free; of a rehearsal nothing is asked."""
        with self.unit():
            via, run = self.lease.extend(), self.run()
            keys = self._unsettled(via, run)
        if not keys or not isinstance(self.feed, Lookup):
            return
        records: list[Record | Unreadable] = list(self.feed.records(keys))
        with self.unit() as session:
            via, run = self.lease.extend(), self.run()
            for outcome in self._applied(records, via, run.no):
                # Who has no place yet was told of when he was met.
                book.settled(run, [name for record in records if (name := record.name)], outcome.skips)
                book.count(run, replace(outcome, read=0, skips=[]))
                removals.keep(via, run, outcome.losses)
            session.flush()

    def _proceed(self, via: IdentityProvider, run: SyncRun) -> None:
        """The run is over and was a good one: the next delta begins where it ended."""
        if not self.live:
            return
        now = moment()
        removals.quietly(via)
        via.feed_cursor, via.failures, via.succeeded_at = run.cursor, 0, now
        if run.kind == "full":
            via.full_due_at = schedule.parse(via.sync).full_after(now)

    def fail(self, error: Exception, problem: str | None = None) -> None:
        with self.unit():
            via, run = self.lease.extend(), self.run()
            if self.live and not isinstance(error, Ended):
                removals.quietly(via).failures += 1
                self._try_soon(via, error)
            removals.fail(via, run, problem or str(error))
            self.note(run)

    def _try_soon(self, via: IdentityProvider, error: Exception) -> None:
        """An upstream that could not be reached is asked again before its next time, or not before it wants to be."""
        if via.due_at is None or not isinstance(error, Unreachable):
            return
        again = moment() + schedule.retry_after(via.failures, error.retry_after)
        via.due_at = again if error.retry_after else min(via.due_at, again)

    def _twice(self, step: Callable[[T], None], what: T) -> None:
        try:
            step(what)
        except DBAPIError as error:
            if self.dry_run or sqlstate(error) not in _AGAIN:
                raise
            step(what)

    def note(self, run: SyncRun) -> None:
        """Keep the numbers for whoever watches, who is told outside the transaction."""
        self.now = SyncProgress.of(run)

    def report(self) -> None:
        if self.now is None:
            return
        if self.progress is not None:
            self.progress(self.now)
        if time.monotonic() - self.told_at >= TOLD_EVERY:
            self.told_at = time.monotonic()
            log.info("run %s of %s: %s", self.run_id, self.provider_id, self.now.in_words())

    def named(self) -> dict[str, object]:
        return {"tenant": self.scope.tenant_id, "via": self.provider_id, "run": self.run_id}

    def unit(self) -> AbstractContextManager[Session]:
        session = db.session()
        return nullcontext(session) if "scope" in session.info else unit(self.scope)

    def run(self) -> SyncRun:
        return db.session().get_one(SyncRun, (self.scope.tenant_id, self.run_id))


def moment() -> datetime:
    """The database's."""
    moment: datetime = db.session().execute(sa.select(sa.func.now())).scalar_one()
    return moment


def _name(change: Change) -> str:
    return change.name or change.position if isinstance(change, Unreadable) else getattr(change, "name", change.key)
