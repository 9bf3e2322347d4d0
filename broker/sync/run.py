"""A run: which one it is, where it begins, and whether it is a rehearsal.

Owns beginning and taking up the run's row, full pass or delta, and the dry run. Reading page by page to the end is
`reading`'s. No transaction is open while a live upstream is read.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from broker import context, ids, removals
from broker.context import Scope
from broker.db import db, unit
from broker.errors import Conflict
from broker.models import SyncRun
from connectors.port import (
    ChangeFeed,
    CursorExpired,
    Page,
    UpstreamError,
)

from . import book, leases
from .leases import Lease
from .reading import RECONFIGURED, Ended, Paused, Reading, Stopping, Watch, moment
from .spool import Spool

CHANGED = "The provider's configuration has changed since the last good run: this is what reading it now would do."

_LAST_FULL = sa.text("""
    SELECT read FROM sync_runs WHERE tenant_id = :tenant AND provider_id = :via AND source = 'upstream'
      AND kind = 'full' AND complete AND NOT dry_run ORDER BY no DESC LIMIT 1
""")
_RENUMBER = sa.text("""
    UPDATE sync_runs SET no = DEFAULT, kind = 'full', cursor = NULL, complete = false, done = NULL,
        read = 0, unchanged = 0, skipped = 0
    WHERE tenant_id = :tenant AND id = :run
""")
_KEEPS = timedelta(hours=6)
"""How long after it began a pass that was read to its end is still worth judging by."""
_FORGET_SKIPS = sa.text("DELETE FROM sync_skips WHERE tenant_id = :tenant AND run_id = :run")

log = logging.getLogger("scaikey.sync")


@dataclass(frozen=True, slots=True)
class Order:
    """What is wanted of a run. `live`: the upstream itself is read, not an export of it; `run_id`: the run that was
    asked for earlier; `full`: everything, not only what changed.

    `may_be_full`: whether there is a place for a full pass; without one, a delta that turns out to need it is left for
    whoever has. `config`: digest of the settings the feed was made by."""

    live: bool = False
    full: bool = False
    dry_run: bool = False
    run_id: str | None = None
    may_be_full: bool = True
    config: bytes | None = None


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


class _Pass(Reading):
    """One run under one lease: which one it is, where it begins, and whether it is a rehearsal."""

    def __init__(
        self,
        lease: Lease,
        feed: ChangeFeed,
        order: Order,
        requested_by: str,
        progress: Watch | None,
        stopping: Stopping,
    ) -> None:
        super().__init__(lease, feed, live=order.live, dry_run=order.dry_run, progress=progress, stopping=stopping)
        self.order = order
        self.requested_by = requested_by

    def follow(self) -> str:
        """Read a live upstream: from where the last good run ended, or everything."""
        try:
            cursor, complete = self._prepare()
            if not self.dry_run:
                return self.read(cursor, complete=complete)
            spool = self._put_by(cursor)
        except Paused:
            return self.run_id
        except (UpstreamError, Ended) as error:
            self.fail(error)
            return self.run_id
        try:
            self.feed = spool
            return self.rehearse(spool.cursor)
        finally:
            spool.close()

    def read(self, cursor: str | None = None, *, complete: bool = False) -> str:
        if not self.live:
            cursor = self._begin()
        try:
            if not complete:
                try:
                    self.through(cursor)
                except CursorExpired as expired:
                    if not self._begin_again(cursor, expired):
                        raise
                    self.through(None)
            self.end()
        except Paused:
            log.info("run %s is left to be taken up", self.run_id)
        except (UpstreamError, Ended) as error:
            self.fail(error)
        self.report()
        return self.run_id

    def rehearse(self, cursor: str | None = None) -> str:
        """The same in one transaction, of which only the run's row is kept."""
        try:
            with unit(self.scope):
                if self.live:
                    self.run().read = 0  # it was counted while it was put by
                self.read(cursor)
                run = self.run()
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
            waits = self.live and not failed and via.good_config not in (None, self.config)
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
                removals.quietly(via).due_at = None  # until somebody has decided, or changed it again
                removals.supersede(via, run)
                removals.tell("held", via, run)
            self.note(run)
        self.report()

    def _prepare(self) -> tuple[str | None, bool]:
        """Take up the run that was asked for or that died, or start one; returns the cursor to go on from, and whether
        everything has been read already. Under settings that no good run has read by, it becomes a rehearsal."""
        with unit(self.scope) as session:
            via = self.lease.extend()
            if not via.enabled:
                raise Conflict("The provider is disabled")
            self.config = removals.config_digest(via)
            if self.order.config not in (None, self.config):
                raise Conflict("The provider's configuration was changed at this moment")
            run = self._wanted(session)
            if run is not None and run.config not in (None, self.config):
                removals.fail(via, run, RECONFIGURED)
                run = None
            if run is None:
                run = self._start(live=True)
            unproven = via.good_config not in (None, self.config)
            self.run_id, run.fence, run.config = run.id, self.lease.fence, self.config
            self.dry_run = run.dry_run = run.dry_run or unproven
            if self.dry_run:
                run.read = 0
            if run.started_at is None:
                run.started_at = sa.func.now()
            begun = run.cursor is not None and not self.dry_run
            if begun and run.complete and run.started_at is not None and moment() - run.started_at > _KEEPS:
                self._renumber(session, run)
                begun = False
            if not begun:
                due = via.full_due_at is None or via.full_due_at <= moment()
                full = self.order.full or run.kind == "full" or via.feed_cursor is None or due or unproven
                run.kind = "full" if full else "delta"
                run.total = session.execute(_LAST_FULL, self.named()).scalar() if full else None
            session.flush()
            self.note(run)
            cursor = run.cursor if begun else None if run.kind == "full" else via.feed_cursor
            complete = begun and run.complete
            waits = run.kind == "full" and not begun and not self.order.may_be_full
        if waits:
            raise Paused
        return cursor, complete

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
            with unit(self.scope) as session:
                via, run = self.lease.extend(), self.run()
                self.refuse_to_go_on(via, run)
                run.read += len(page.changes)
                run.done, run.total = page.done or run.read, page.total or run.total
                book.pace(run, len(page.changes), time.monotonic() - self.page_at)
                session.flush()
                self.note(run)
            self.page_at = time.monotonic()
            self.report()
            if self.stopping():
                raise Paused

        try:
            return Spool(self.feed, cursor, count)
        except CursorExpired as expired:
            if cursor is None or not self._begin_again(cursor, expired):
                raise
            return Spool(self.feed, None, count)

    def _begin(self) -> str | None:
        """Of an export: take up the run that died, or start one; returns the cursor to go on from."""
        with self.unit() as session:
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

    def _begin_again(self, cursor: str | None, expired: CursorExpired) -> bool:
        """The cursor leads nowhere any more: read everything, from the start. False where that was done already.

        A live upstream's run goes on under another number, so that what its earlier part met does not count as met. Of
        an export it is other input, which gets a run of its own; one that changes while it is read has failed.
        """
        if cursor is None or (not self.live and self.now is not None):
            return False
        if not self.live:
            self.fail(expired, "Superseded: it was interrupted, and what was read next was another listing.")
            with self.unit():
                self.lease.extend()
                self._start()
            return True
        log.info("run %s reads everything: %s", self.run_id, expired)
        with self.unit() as session:
            via, run = self.lease.extend(), self.run()
            self._renumber(session, run)
            run.total = session.execute(_LAST_FULL, self.named()).scalar()
            removals.tell("began_again", via, run)
            self.note(run)
        if not self.order.may_be_full:
            raise Paused
        return True

    def _renumber(self, session: Session, run: SyncRun) -> None:
        """From the start, under another number: what was met before does not count as met."""
        session.execute(_FORGET_SKIPS, self.named())
        session.execute(_RENUMBER, self.named())
        session.refresh(run)
