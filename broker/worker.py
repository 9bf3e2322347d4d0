"""The processes that work in the background: the worker, which is woken, and the clock, which looks by itself.

Owns the jobs there are, the refusal of all others, the lanes (what applications are owed never waits for an upstream
that is read), and the clock's sweeps: what is owed, who is due, what has expired, keys that have signed long enough. A
job is a name, as JSON; what is to be done is in PostgreSQL, so that a lost, doubled or forged job does no harm. The
work itself is `scim.push`'s, `sync`'s, `directory`'s and `keys`'.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Any

import redis
import sqlalchemy as sa
from flask import Flask, current_app
from rq import Queue, Worker
from rq.exceptions import DeserializationError
from rq.job import Job
from rq.serializers import JSONSerializer
from sqlalchemy.orm import aliased

from broker import bell, processes, running
from broker.context import Scope, acting, system
from broker.db import db, platform_scope, unit
from broker.directory import Directory
from broker.models import (
    Attempt,
    AuthorizationCode,
    Base,
    Grant,
    OneTime,
    Resource,
    RevokedToken,
    Session,
    SignInFlow,
    TargetConvergence,
    TargetRun,
    Tenant,
)
from broker.sync import queue
from broker.sync import work as sync_work
from oidc import keys
from scim import push

_BATCH_SECONDS, _BATCH = 30.0, 2_000
_TICK_SECONDS = 2.0
_EXPIRY_SECONDS = 30.0
_FORGETTING_SECONDS = 300.0
_FORGOTTEN_AT_ONCE = 1_000
_WORKER_TTL = 30

log = logging.getLogger("scaikey.worker")

_stopping = threading.Event()
_pulling: threading.Thread | None = None


def deliver() -> None:
    """Send a batch of what is owed, and pass the word on when there is more."""
    bell.heard()
    tally = push.drain(_BATCH_SECONDS, _BATCH, _stopping.is_set)
    if tally.worked and push.is_due():
        bell.ring()


def pull() -> None:
    """Read the upstreams that are due, for as long as any is."""
    bell.heard(bell.PULL)
    push.compare_due(_stopping.is_set)
    sync_work.work(_stopping.is_set)


JOBS: Mapping[str, Callable[[], None]] = {bell.PUSH: deliver, bell.PULL: pull}
"""Every job there is. None takes an argument: all of them look into the database."""


class Forged(Exception):
    """A job that is none of ours."""


class HouseJob(Job):
    """A job by its name in `JOBS`: nothing that stands in Valkey is ever imported or called."""

    @property
    def func(self) -> Callable[[], None]:
        job = JOBS.get(self.func_name or "")
        if job is None or self.instance is not None or self.args or self.kwargs:
            raise Forged("a job that is none of ours was refused")
        return job

    @property
    def success_callback(self) -> None:
        return None

    @property
    def failure_callback(self) -> None:
        return None

    @property
    def stopped_callback(self) -> None:
        return None

    def send_webhooks(self, *_: object, **__: object) -> None:
        """Nobody outside is told of jobs."""


class HouseWorker(Worker):
    """Runs `HouseJob`s, each in a child of its own that ends with this process."""

    job_class = HouseJob
    max_connection_wait_time = 5.0

    @property
    def asked_to_stop(self) -> bool:
        return self._shutdown_requested_date is not None

    def main_work_horse(self, job: Job, queue: Queue) -> None:
        # The parent's connections are the parent's.
        for engine in db.engines.values():
            engine.dispose(close=False)
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
        super().main_work_horse(job, queue)

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        # What a forger wrote has no place in the log.
        if exc_info[0] in (Forged, DeserializationError):
            log.warning("a job that is none of ours was refused: %s", job.id)
        else:
            super().handle_exception(job, *exc_info)

    def setup_work_horse_signals(self) -> None:
        """Asked to end, the child finishes what it has begun and gives back the rest."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, _stop)

    def handle_warm_shutdown_request(self) -> None:
        super().handle_warm_shutdown_request()  # type: ignore[no-untyped-call]
        if self.horse_pid:
            os.kill(self.horse_pid, signal.SIGTERM)


def work(lane: str | None = None) -> None:
    """Do the jobs of a lane that are rung for until SIGTERM or SIGINT; without one, of all lanes, each in a process of
    its own. Waits for Valkey when it is gone. Needs an app context."""
    if lane is None:
        with _beside(bell.PULL):
            work(bell.PUSH)
        return
    while True:
        valkey = redis.Redis.from_url(running.config().redis_url or "")
        try:
            worker = make_worker(valkey, lane)
            worker.work(logging_level="WARNING")
            if worker.asked_to_stop:
                return
        except (redis.RedisError, OSError) as error:
            log.warning("Valkey: %s", error)
        finally:
            valkey.close()
        time.sleep(_TICK_SECONDS)


@contextmanager
def _beside(lane: str) -> Iterator[None]:
    """Inside, another process does that lane's work; it is started again when it ends, and ends with us."""
    over = threading.Event()

    def begin() -> subprocess.Popen[bytes]:
        # The kernel ends it with the thread that started it, so that thread lives as long as we do.
        command = processes.python("broker.cli", "worker", "--lane", lane)
        return processes.launch(command, death_signal=signal.SIGTERM, env=processes.python_environment(), output=None)

    def keep() -> None:
        child = begin()
        while not over.wait(_TICK_SECONDS):
            if child.poll() is not None:
                log.warning("the %s lane ended with status %s; starting it again", lane, child.returncode)
                child = begin()
        child.terminate()
        child.wait()

    keeper = threading.Thread(target=keep, name=f"{lane} lane")
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()


def make_worker(valkey: redis.Redis, lane: str = bell.PUSH) -> HouseWorker:
    return HouseWorker(
        [Queue(bell.QUEUES[lane], connection=valkey, job_class=HouseJob, serializer=JSONSerializer)],
        connection=valkey,
        serializer=JSONSerializer,
        worker_ttl=_WORKER_TTL,
        log_job_description=False,
    )


def tick() -> None:
    """Look every few seconds for what is due, until SIGTERM or SIGINT. Needs an app context."""
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, _stop)
    expired_at = forgot_at = float("-inf")
    while not _stopping.is_set():
        try:
            sweep()
            if time.monotonic() - expired_at > _EXPIRY_SECONDS:
                expire()
                expired_at = time.monotonic()
            if time.monotonic() - forgot_at > _FORGETTING_SECONDS:
                forget()
                turn_keys()
                forgot_at = time.monotonic()
        except sa.exc.SQLAlchemyError as error:
            log.warning("the clock could not look: %s", error)
        _stopping.wait(_TICK_SECONDS)


def sweep() -> None:
    """Ring for everything due, whoever forgot to; without a bell, send it from here."""
    if push.is_due() and not bell.ring():
        push.drain(_BATCH_SECONDS, _BATCH, _stopping.is_set)
    push.schedule_comparisons()
    if (queue.is_due() or push.comparison_is_due()) and not bell.ring(bell.PULL):
        _pull_from_here()


def _pull_from_here() -> None:
    """Beside the clock's own work: a pass may take long."""
    global _pulling
    if _pulling is None or not _pulling.is_alive():
        app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]

        def pull_here() -> None:
            with app.app_context():
                push.compare_due(_stopping.is_set)
                sync_work.work(_stopping.is_set)

        _pulling = threading.Thread(target=pull_here, name="pull without a bell", daemon=True)
        _pulling.start()


def expire() -> None:
    """Turn every `active_until` that has passed into a change, tenant by tenant; and see what time alone makes owed."""
    push.look_again()
    for scope in _with_expired():
        with acting(system("clock")):
            while not _stopping.is_set():
                with unit(scope):
                    if not Directory().expire_due():
                        break


def _with_expired() -> list[Scope]:
    passed = sa.select(Resource.tenant_id).where(
        Resource.active_until <= sa.func.now(), Resource.active, Resource.removed_at.is_(None)
    )
    with platform_scope() as session:
        tenants = session.scalars(sa.select(Tenant).where(Tenant.id.in_(passed)))
        return [Scope(one.id, one.partner_id, one.kind, one.slug) for one in tenants]  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class _Passing:
    """Rows that end by themselves, and how long they are of use after that."""

    model: type[Base]
    ends: sa.SQLColumnExpression[Any]
    kept: timedelta = timedelta(0)
    unless: sa.ColumnElement[bool] | None = None


_later_run = aliased(TargetRun)

_PASSING: Sequence[_Passing] = (
    _Passing(SignInFlow, SignInFlow.expires_at, timedelta(hours=1)),
    # A code that is shown a second time tells of a thief, also when it has expired meanwhile.
    _Passing(AuthorizationCode, AuthorizationCode.expires_at, timedelta(days=1)),
    # With its refresh tokens, which show reuse as long as the family may live.
    _Passing(Grant, Grant.expires_at, timedelta(minutes=5)),
    # A grant goes with its session, and one for offline access outlives it.
    _Passing(
        Session,
        Session.expires_at,
        timedelta(days=1),
        sa.exists().where(Grant.tenant_id == Session.tenant_id, Grant.session_id == Session.id),
    ),
    _Passing(RevokedToken, RevokedToken.expires_at, timedelta(minutes=5)),
    _Passing(
        Attempt,
        Attempt.window_ends,
        timedelta(minutes=5),
        sa.func.coalesce(Attempt.blocked_until > sa.func.now(), sa.false()),
    ),
    _Passing(OneTime, OneTime.expires_at, timedelta(minutes=5)),
    # The last of each target tells how it stands, and its drift is of that run.
    _Passing(
        TargetRun,
        TargetRun.finished_at,
        timedelta(days=90),
        ~sa.exists().where(
            _later_run.tenant_id == TargetRun.tenant_id,
            _later_run.target_id == TargetRun.target_id,
            _later_run.no > TargetRun.no,
        ),
    ),
    _Passing(TargetConvergence, TargetConvergence.hour, timedelta(days=2)),
)


def forget() -> None:
    """Delete what has expired, a bounded number of rows in each transaction."""
    for passing in _PASSING:
        while not _stopping.is_set():
            with platform_scope() as session:
                if session.execute(_forgetting(passing)).rowcount < _FORGOTTEN_AT_ONCE:  # type: ignore[attr-defined]
                    break


def _forgetting(passing: _Passing) -> sa.Delete:
    key = sa.inspect(passing.model).primary_key
    over = sa.select(*key).where(passing.ends < sa.func.now() - passing.kept)
    if passing.unless is not None:
        over = over.where(~passing.unless)
    batch = over.limit(_FORGOTTEN_AT_ONCE).with_for_update(skip_locked=True, of=passing.model)
    return sa.delete(passing.model).where(sa.tuple_(*key).in_(batch)).execution_options(synchronize_session=False)


def turn_keys() -> None:
    """Retire and rotate the signing keys that are due."""
    with acting(system("clock")), platform_scope():
        keys.keep_up()


def _stop(_signum: int, _frame: FrameType | None) -> None:
    _stopping.set()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
