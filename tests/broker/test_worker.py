"""The worker, the clock and the bell: woken, forged at, killed, and without Valkey."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
import redis
import sqlalchemy as sa
from flask import Flask
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from broker import bell, running, worker
from broker.config import Config
from broker.context import acting, system
from broker.db import directory_writes, platform_scope, unit
from broker.directory import Directory
from broker.embedded import Services
from broker.models import (
    Attempt,
    AuthorizationCode,
    Delivery,
    Event,
    Grant,
    OneTime,
    RefreshToken,
    Resource,
    RevokedToken,
    Session,
    SignInFlow,
)
from broker.registry import applications, targets
from oidc.tokens import Issuer
from scim import push
from tests.conftest import World
from tests.oidc.minting import sign_in
from tests.receivers import TOKEN, Answer, Receiver, faulty_receiver

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]  # whole processes start here, on machines that may be busy

ROOT = Path(__file__).parents[2]
WORKER = "cli.cli(['worker'])"
USER = "urn:ietf:params:scim:schemas:core:2.0:User"


@pytest.fixture
def housed(app: Flask, services: Services, settings: Config) -> Iterator[Flask]:
    """The app as assembly leaves it, with an empty Valkey."""
    running.install(app, services.configure(settings))
    bell.connection().flushdb()
    with acting(system("tests")):
        yield app
    bell.connection().close()
    for name in [name for name in app.extensions if name.startswith("scaikey.bell")]:
        del app.extensions[name]
    with platform_scope() as session:
        session.execute(sa.text("UPDATE scim_targets SET status = 'paused'"))


@pytest.fixture
def receiver(housed: Flask) -> Iterator[Receiver]:
    with faulty_receiver() as receiver:
        yield receiver
    for client in housed.extensions.pop("scaikey.push.clients", {}).values():
        client.close()


@pytest.fixture
def owed(world: World, receiver: Receiver) -> Callable[[int], None]:
    """Makes so many people who are owed to a target at the receiver."""
    with unit(world.acme):
        application = applications.create({"name": "Wiki", "type": "web"})
        auth = {"method": "bearer", "token": TOKEN}
        targets.create({"application_id": application.id, "base_url": receiver.base_url, "auth": auth, "scope": "all"})

    push.drain(5)

    def make(count: int) -> None:
        with unit(world.acme):
            for number in range(count):
                Directory().create("User", {"schemas": [USER], "userName": f"person{number}"})

    return make


@pytest.fixture
def valkey(housed: Flask) -> redis.Redis:
    return bell.connection()


@contextmanager
def process(kind: str, services: Services, settings: Config) -> Iterator[subprocess.Popen[bytes]]:
    """`scaikey worker` or `scaikey clock` as it runs in production."""
    config = services.configure(settings)
    environment = {
        **os.environ,
        "DATABASE_URL": config.database_url,
        "SCAIKEY_OWNER_DATABASE_URL": config.owner_database_url,
        "SCAIKEY_PLATFORM_DATABASE_URL": config.platform_database_url,
        "REDIS_URL": config.redis_url,
        "SCAIKEY_DATA_DIR": str(config.data_dir),
        "SCAIKEY_ALLOW_HTTP_LOOPBACK": "1",
    }
    script = f"from broker import cli; cli.cli(['{kind}'])"
    started = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment,
        start_new_session=True,  # type: ignore[arg-type]
    )
    try:
        yield started
    finally:
        started.terminate()
        assert started.wait(timeout=60) in (0, -signal.SIGTERM, -signal.SIGKILL)


def eventually(condition: Callable[[], bool], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)


def left(world: World) -> int:
    with unit(world.acme) as session:
        return session.scalar(sa.select(sa.func.count()).select_from(Delivery)) or 0


def queue(valkey: redis.Redis) -> Queue:
    return Queue(bell.QUEUES[bell.PUSH], connection=valkey, serializer=JSONSerializer)


def test_a_commit_that_owes_rings_once_until_somebody_hears(
    housed: Flask, owed: Callable[[int], None], valkey: redis.Redis
) -> None:
    bell.listen(housed)
    owed(3)
    assert bell.ring() and bell.ring()
    assert [job.func_name for job in queue(valkey).jobs] == ["push"]
    bell.heard()
    assert bell.ring()
    assert len(queue(valkey).jobs) == 2


def test_jobs_are_json_and_carry_nothing(housed: Flask, valkey: redis.Redis) -> None:
    bell.ring()
    [job] = queue(valkey).jobs
    data = valkey.hget(job.key, "data")
    assert zlib.decompress(data) == b'["push", null, [], {}]'  # type: ignore[arg-type]


def silence(app: Flask) -> None:
    config = dataclasses.replace(running.config(), redis_url="redis://127.0.0.1:1/0")
    running.install(app, config)
    app.extensions.pop("scaikey.bell", None)


def test_without_valkey_ringing_harms_nobody_and_does_not_hammer(housed: Flask, owed: Callable[[int], None]) -> None:
    silence(housed)
    bell.listen(housed)
    owed(1)
    assert not bell.ring()
    began = time.monotonic()
    assert not any(bell.ring() for _ in range(100))
    assert time.monotonic() - began < 0.1


def test_without_valkey_the_clock_delivers_itself(
    housed: Flask, world: World, owed: Callable[[int], None], receiver: Receiver
) -> None:
    owed(5)
    silence(housed)
    worker.sweep()
    assert len(receiver.users()) == 5
    assert left(world) == 0


def test_the_clock_rings_for_what_nobody_rang_for(
    housed: Flask, owed: Callable[[int], None], valkey: redis.Redis
) -> None:
    worker.sweep()
    assert queue(valkey).jobs == []
    owed(1)
    valkey.flushdb()
    worker.sweep()
    assert [job.func_name for job in queue(valkey).jobs] == ["push"]


def test_the_clock_ends_accounts_whose_time_has_passed(housed: Flask, world: World) -> None:
    now = datetime.now(UTC)
    people = {}
    for name, until in (("yesterday", now - timedelta(days=1)), ("tomorrow", now + timedelta(days=1))):
        with unit(world.acme):
            people[name] = Directory().create("User", {"schemas": [USER], "userName": name}).id
        with platform_scope() as session, directory_writes():
            session.execute(sa.update(Resource).where(Resource.id == people[name]).values(active_until=until))
    worker.expire()
    worker.expire()
    with unit(world.acme) as session:
        disabled = sa.select(Event.resource_id).where(Event.name == "user.disabled")
        assert list(session.scalars(disabled)) == [people["yesterday"]]


def test_the_clock_forgets_what_has_expired_in_bounded_batches_and_nothing_that_is_still_of_use(
    housed: Flask, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_FORGOTTEN_AT_ONCE", 2)
    now, tenant = datetime.now(UTC), world.acme.tenant_id
    long_ago, soon = now - timedelta(days=3), now + timedelta(minutes=5)
    with unit(world.acme):
        user_id = Directory().create("User", {"schemas": [USER], "userName": "alice"}).id
    signed_in = sign_in(world.acme, user_id, issuer=Issuer("https://id.example", world.acme))
    person = {"tenant_id": tenant, "user_id": user_id}
    with platform_scope() as session:
        for name, ends in (("gone", long_ago), ("gone too", long_ago), ("gone as well", long_ago), ("here", soon)):
            at = {"tenant_id": tenant, "expires_at": ends}
            session.add(SignInFlow(**at, id=name, browser=b""))
            session.add(RevokedToken(**at, jti=name))
            session.add(OneTime(**at, purpose="assertion", digest=name.encode()))
            session.add(Attempt(tenant_id=tenant, subject=name.encode(), window_ends=ends))
            session.add(
                Session(**person, id=name, digest=name.encode() + os.urandom(8), auth_time=now, expires_at=ends)
            )
            session.flush()
            session.add(
                Grant(
                    **person,
                    id=name,
                    application_id=signed_in.client.id,
                    session_id=name,
                    issuer="tenant",
                    scopes=[],
                    audience="a",
                    auth_time=now,
                    amr=[],
                    expires_at=ends,
                )
            )
            session.flush()
            session.add(RefreshToken(**at, id=name, grant_id=name, digest=os.urandom(32), salt=b""))
        for name, ends in (("gone", long_ago), ("a thief may show it", now - timedelta(hours=1)), ("here", soon)):
            code = {"digest": os.urandom(32), "redirect_uri": "", "code_challenge": "", "expires_at": ends}
            session.add(AuthorizationCode(**code, tenant_id=tenant, id=name, grant_id="here"))
        session.add(Attempt(tenant_id=tenant, subject=b"blocked", window_ends=long_ago, blocked_until=soon))
        session.execute(sa.update(Session).where(Session.id == signed_in.session_id).values(expires_at=long_ago))
    worker.forget()
    with unit(world.acme) as session:
        left = {
            table.__tablename__: set(session.scalars(sa.select(column)))
            for table, column in (
                (SignInFlow, SignInFlow.id),
                (RevokedToken, RevokedToken.jti),
                (OneTime, OneTime.digest),
                (Attempt, Attempt.subject),
                (Session, Session.id),
                (Grant, Grant.id),
                (RefreshToken, RefreshToken.id),
                (AuthorizationCode, AuthorizationCode.id),
            )
        }
    assert left == {
        "sign_in_flows": {"here"},
        "revoked_tokens": {"here"},
        "one_time": {b"here"},
        "attempts": {b"here", b"blocked"},
        "sessions": {"here", signed_in.session_id},
        "grants": {"here", signed_in.grant_id},
        "refresh_tokens": {"here"},
        "authorization_codes": {"a thief may show it", "here"},
    }


class Forger:
    """Writes what an intruder in Valkey could write."""

    def __init__(self, valkey: redis.Redis, directory: Path) -> None:
        self.queue = queue(valkey)
        self.trace = directory / "executed"

    def job(self, name: str, *args: str, **fields: str) -> Job:
        made = self.queue.create_job(name, args=list(args), timeout=10, failure_ttl=600)
        made.save()
        for field, value in fields.items():
            self.queue.connection.hset(made.key, field, value)
        self.queue.push_job_id(made.id)
        return made


def test_forged_jobs_are_refused_and_the_worker_goes_on(
    housed: Flask,
    world: World,
    owed: Callable[[int], None],
    receiver: Receiver,
    valkey: redis.Redis,
    services: Services,
    settings: Config,
    tmp_path: Path,
) -> None:
    owed(12)
    forger = Forger(valkey, tmp_path)
    forged = [
        forger.job("os.system", f"touch {forger.trace}"),
        forger.job("subprocess.check_call", f"touch {forger.trace}"),
        forger.job("broker.worker.deliver"),
        forger.job("push", "an argument"),
        forger.job(""),
    ]
    pickled = forger.job("push", data="cos\nsystem\n(S'touch " + str(forger.trace) + "'\ntR.")
    callback = forger.job(
        "push", success_callback_name="builtins.breakpoint", failure_callback_name="builtins.breakpoint"
    )
    with process("worker", services, settings):
        eventually(lambda: left(world) == 0 and not forger.queue.job_ids)
        eventually(lambda: all(job.get_status() == "failed" for job in [*forged, pickled]))
        eventually(lambda: not Job.exists(callback.id, valkey) or callback.get_status() == "finished")
    assert not forger.trace.exists()
    assert len(receiver.users()) == 12


def test_a_worker_killed_in_the_middle_loses_nobody_and_makes_nobody_twice(
    housed: Flask,
    world: World,
    owed: Callable[[int], None],
    receiver: Receiver,
    services: Services,
    settings: Config,
) -> None:
    owed(60)
    receiver.fault("POST", "/Users", lambda asked, act: Answer(201, act().body, delay=0.3), times=16)
    with process("worker", services, settings) as started:
        bell.ring()
        eventually(lambda: len(receiver.requests("POST")) > 10)
        os.kill(started.pid, signal.SIGKILL)
        started.wait()
    eventually(lambda: not horses())
    with platform_scope() as session:
        session.execute(sa.text("UPDATE deliveries SET lease_until = now() WHERE lease_until IS NOT NULL"))
    with process("worker", services, settings):
        bell.heard()
        bell.ring()
        eventually(lambda: left(world) == 0)
    assert len(receiver.users()) == 60


def horses() -> list[psutil.Process]:
    """Work-horses whose parent is gone."""
    return [one for one in psutil.process_iter(["ppid", "cmdline"]) if one.info["ppid"] == 1 and WORKER in _line(one)]


def _line(one: psutil.Process) -> str:
    return " ".join(one.info["cmdline"] or ())


def test_a_worker_that_is_asked_to_end_finishes_what_it_has_begun_and_gives_back_the_rest(
    housed: Flask,
    world: World,
    owed: Callable[[int], None],
    receiver: Receiver,
    services: Services,
    settings: Config,
) -> None:
    owed(60)
    receiver.fault("POST", "/Users", lambda asked, act: Answer(201, act().body, delay=0.2), times=60)
    with process("worker", services, settings) as started:
        bell.ring()
        eventually(lambda: len(receiver.requests("POST")) > 4)
        started.terminate()
        assert started.wait(timeout=60) == 0
    with unit(world.acme) as session:
        assert session.scalar(sa.select(sa.func.count()).where(Delivery.lease_until.is_not(None))) == 0
        remaining = session.scalar(sa.select(sa.func.count()).select_from(Delivery))
    assert remaining == 60 - len(receiver.users())
    assert remaining


def test_the_clock_as_a_process_rings_and_ends_on_a_signal(
    housed: Flask,
    owed: Callable[[int], None],
    valkey: redis.Redis,
    services: Services,
    settings: Config,
) -> None:
    owed(1)
    with process("clock", services, settings) as started:
        eventually(lambda: [job.func_name for job in queue(valkey).jobs] == ["push"])
        started.terminate()
        assert started.wait(timeout=60) == 0


def lane(started: subprocess.Popen[bytes]) -> psutil.Process | None:
    """The process beside a worker's own that reads upstreams."""
    children = psutil.Process(started.pid).children()
    return next((one for one in children if "--lane pull" in _line_of(one)), None)


def _line_of(one: psutil.Process) -> str:
    try:
        return " ".join(one.cmdline())
    except psutil.Error:
        return ""


def is_up(one: psutil.Process) -> bool:
    try:
        return one.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_worker_reads_upstreams_in_a_process_beside_its_own_that_comes_back_and_ends_with_it(
    housed: Flask, valkey: redis.Redis, services: Services, settings: Config
) -> None:
    with process("worker", services, settings) as started:
        eventually(lambda: lane(started) is not None)
        first = lane(started)
        assert first is not None
        first.kill()
        eventually(lambda: (found := lane(started)) is not None and found.pid != first.pid)
        second = lane(started)
        assert second is not None
    eventually(lambda: not is_up(second))


def test_the_lane_ends_when_its_worker_is_killed(
    housed: Flask, valkey: redis.Redis, services: Services, settings: Config
) -> None:
    with process("worker", services, settings) as started:
        eventually(lambda: lane(started) is not None)
        found = lane(started)
        assert found is not None
        # Only a process that has come as far as Python can be asked to end.
        eventually(lambda: bool(valkey.keys("rq:worker:*")))
        started.kill()
        started.wait()
    eventually(lambda: not is_up(found), 30)


def test_an_upstream_that_is_due_rings_its_own_lane(
    housed: Flask, world: World, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.sync.queue.is_due", lambda: True)
    worker.sweep()
    worker.sweep()
    lanes = Queue(bell.QUEUES[bell.PULL], connection=valkey, serializer=JSONSerializer)
    assert [(job.func_name, job.timeout) for job in lanes.jobs] == [("pull", -1)]
    assert not queue(valkey).jobs


def test_without_a_bell_the_clock_reads_what_is_due_beside_its_own_work(
    housed: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, over = threading.Event(), threading.Event()

    def work(_: Callable[[], bool]) -> None:
        begun.set()
        over.wait(30)

    monkeypatch.setattr("broker.sync.queue.is_due", lambda: True)
    monkeypatch.setattr(bell, "ring", lambda lane=bell.PUSH: False)
    monkeypatch.setattr("broker.sync.work.work", work)
    worker.sweep()
    assert begun.wait(10)
    before = threading.active_count()
    worker.sweep()
    assert threading.active_count() == before  # one pass over the queue is enough
    over.set()
