"""Who is read next: schedules, runs asked for, runs that died; limits, fairness, and no storm after a long silence."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import sqlalchemy as sa
from flask import Flask

from broker import ids, running, settings
from broker.config import Config
from broker.context import PLATFORM, Scope, acting, system
from broker.db import platform_scope, unit
from broker.embedded import Services
from broker.errors import Conflict
from broker.models import IdentityProvider, SyncRun, Tenant
from broker.sync import carry_out, leases, queue, work
from connectors.port import Page
from tests import scripted
from tests.conftest import World, make_provider
from tests.scripted import CONFIG, Directory, person

EVERY_HOUR = {"enabled": True, "schedule": "1h", "full_every": "1d"}


@pytest.fixture
def housed(app: Flask, services: Services, settings: Config) -> Iterator[Flask]:
    """As assembly leaves it, and nobody due but whom the test makes so."""
    running.install(app, services.configure(settings))
    with platform_scope() as session:
        session.execute(sa.text("UPDATE identity_providers SET due_at = NULL, lease_until = NULL"))
        session.execute(sa.text("UPDATE sync_runs SET status = 'failed' WHERE status = 'running'"))
    yield app
    with platform_scope() as session:
        session.execute(sa.text("UPDATE identity_providers SET due_at = NULL, lease_until = NULL"))
        session.execute(sa.text("UPDATE sync_runs SET status = 'failed' WHERE status = 'running'"))


@pytest.fixture
def directories(monkeypatch: pytest.MonkeyPatch) -> dict[str, Directory]:
    """By the base their providers are configured with."""
    found: dict[str, Directory] = {}
    scripted.install(monkeypatch, lambda config: found.setdefault(config.base_dn, Directory()))
    return found


def tenant(world: World) -> Scope:
    """One more customer of the partner."""
    made = ids.new("tnt")
    with platform_scope() as session:
        slug = made.replace("_", "-")
        session.add(Tenant(id=made, partner_id=world.partner_id, name="One more", slug=slug, kind="customer"))
    return Scope(made, world.partner_id, "customer", slug)


def due(scope: Scope, base: str = "DC=a", *, followed: bool = True, ago: float = 1.0, **fields: object) -> str:
    """A provider whose time has come `ago` seconds ago; `followed`: it was read before, so that a delta is owed."""
    values = {"config": {**CONFIG, "base_dn": base}, "sync": EVERY_HOUR, "enabled": True, **fields}
    if followed:
        values |= {"feed_cursor": "at:0", "full_due_at": sa.text("now() + interval '1 day'")}
    made = make_provider(scope, ids.new("idp"), **values)
    with platform_scope() as session:
        session.execute(
            sa.text("UPDATE identity_providers SET due_at = now() - make_interval(secs => :ago) WHERE id = :id"),
            {"ago": ago, "id": made},
        )
    return made


def runs(provider: str) -> list[SyncRun]:
    with platform_scope() as session:
        found = list(session.scalars(sa.select(SyncRun).where(SyncRun.provider_id == provider).order_by(SyncRun.no)))
        session.expunge_all()
        return found


def test_nobody_is_due_before_his_time(housed: Flask, world: World) -> None:
    due(world.acme, ago=-60)
    due(world.acme, sync={**EVERY_HOUR, "enabled": False})
    due(world.acme, enabled=False)
    assert not queue.is_due() and queue.claim() is None and queue.backlog() == (0, 0.0)


def test_a_claim_is_one_run_under_a_lease_and_the_next_time_is_later(housed: Flask, world: World) -> None:
    provider = due(world.acme, ago=10_000)
    depth, age = queue.backlog()
    assert depth == 1 and 10_000 <= age < 10_010
    claimed = queue.claim()
    assert claimed is not None and claimed.lease.provider_id == provider and not claimed.full
    [run] = runs(provider)
    assert (run.status, run.started_at, run.requested_by) == ("running", None, "system:clock")
    assert queue.claim() is None and not queue.is_due()
    with pytest.raises(Conflict):
        leases.take(world.acme, provider)
    with platform_scope() as session:
        left = session.scalar(sa.select(IdentityProvider.due_at - sa.func.now()).where(IdentityProvider.id == provider))
    assert timedelta(minutes=59) < left < timedelta(minutes=66)  # once, though it was missed three times


def test_several_clocks_and_workers_give_one_run_each(housed: Flask, world: World) -> None:
    providers = [due(tenant(world)) for _ in range(6)]

    def claim(_: int) -> str | None:
        with housed.app_context():
            claimed = queue.claim()
            return claimed.lease.provider_id if claimed else None

    with ThreadPoolExecutor(8) as pool:
        claimed = Counter(pool.map(claim, range(16)))
    assert claimed.pop(None) == 10 and claimed == Counter(providers)
    assert all(len(runs(provider)) == 1 for provider in providers)


def test_a_run_whose_worker_died_is_given_to_another(housed: Flask, world: World) -> None:
    provider = due(world.acme)
    first = queue.claim()
    assert first is not None
    with platform_scope() as session:
        session.execute(sa.text("UPDATE identity_providers SET lease_until = now() - interval '1 s'"))
    second = queue.claim()
    assert second is not None and second.order == first.order and second.attempt == 2
    assert second.lease.fence == first.lease.fence + 1 and len(runs(provider)) == 1
    with unit(world.acme), pytest.raises(Conflict, match="taken over"):
        first.lease.extend()


def test_a_defect_of_ours_ends_the_run_at_once(housed: Flask, world: World, directories: dict[str, Directory]) -> None:
    provider = due(world.acme, "DC=deadly")

    def die(_: Page) -> None:
        raise RuntimeError("a defect")

    directories["DC=deadly"] = Directory(each_page=die)
    work.work(lambda: False)
    [run] = runs(provider)
    assert run.status == "failed" and "defect" in run.problem
    assert not queue.is_due()


def test_a_run_that_ends_its_workers_is_given_up_unless_it_comes_further(
    housed: Flask, world: World, directories: dict[str, Directory]
) -> None:
    """As when the kernel ends a process for its memory: nobody is left to say why."""
    provider = due(world.acme, "DC=deadly", followed=False)
    deadly = directories["DC=deadly"] = Directory()
    deadly.put(*(person(f"p{n:02}") for n in range(30)))

    class Killed(BaseException):
        pass

    def kill(page: Page) -> None:
        if page.last:
            raise Killed

    deadly.each_page = kill
    for attempt in range(queue.ATTEMPTS + 1):
        if attempt == 1:
            [run] = runs(provider)
            assert (run.status, run.furthest, run.attempts) == ("running", 20, 0)  # it came further than before
        claimed = queue.claim()
        assert claimed is not None
        with pytest.raises(Killed):
            carry_out(claimed.lease, scripted.Feed(deadly), claimed.order)
    assert runs(provider)[0].attempts == queue.ATTEMPTS
    deadly.each_page = lambda _: None
    work.work(lambda: False)
    assert runs(provider)[0].status == "failed" and "got nowhere" in runs(provider)[0].problem


def test_one_tenant_takes_no_more_places_than_it_may(housed: Flask, world: World) -> None:
    for _ in range(4):
        due(world.acme)
    other = due(world.globex)
    claimed = [queue.claim() for _ in range(5)]
    taken = Counter(one.lease.scope.tenant_id for one in claimed if one)
    assert taken == {world.acme.tenant_id: 2, world.globex.tenant_id: 1}
    assert claimed[1] is not None and claimed[1].lease.provider_id == other  # the tenant with nothing under way


def test_the_installation_has_its_limit(housed: Flask, world: World) -> None:
    for _ in range(6):
        due(tenant(world))
    with platform_scope():
        settings.change(PLATFORM, {"sync_runs_at_once": 3})
    try:
        assert sum(queue.claim() is not None for _ in range(6)) == 3
    finally:
        with platform_scope():
            settings.change(PLATFORM, {"sync_runs_at_once": None})


def test_full_passes_leave_places_for_deltas(housed: Flask, world: World) -> None:
    for _ in range(3):
        due(tenant(world), followed=False, ago=100)
    small = due(tenant(world), ago=1)
    first = queue.claim(full_too=False)
    assert first is not None and first.lease.provider_id == small
    assert queue.claim(full_too=False) is None
    full = queue.claim()
    assert full is not None and full.full


def test_what_is_asked_for_waits_and_is_the_same_when_asked_again(housed: Flask, world: World) -> None:
    provider = due(world.acme, ago=-3_600)
    with unit(world.acme) as session, acting(system("administrator")):
        via = session.get_one(IdentityProvider, (world.acme.tenant_id, provider))
        run = queue.ask(via)
        wanted = run.id
        assert queue.ask(via).id == wanted and run.kind == "delta"
        assert queue.ask(via, full=True).kind == "full"
        assert queue.ask(via, dry_run=True).id != wanted
    claimed = queue.claim()
    assert claimed is not None and claimed.order.run_id == wanted
    with unit(world.acme) as session:
        session.get_one(SyncRun, (world.acme.tenant_id, wanted)).started_at = sa.func.now()
        session.flush()
        with pytest.raises(Conflict):
            queue.ask(session.get_one(IdentityProvider, (world.acme.tenant_id, provider)))


def test_a_run_that_waits_can_be_cancelled(housed: Flask, world: World) -> None:
    provider = due(world.acme, ago=-3_600)
    with unit(world.acme) as session, acting(system("administrator")):
        run = queue.ask(session.get_one(IdentityProvider, (world.acme.tenant_id, provider)))
        queue.cancel(run)
        with pytest.raises(Conflict):
            queue.cancel(run)
    assert runs(provider)[0].problem == "Cancelled by system:administrator."
    assert not queue.is_due()


def test_a_small_tenant_does_not_wait_for_the_full_passes_of_others(
    housed: Flask, world: World, directories: dict[str, Directory]
) -> None:
    """Several threads of one worker: whoever waits for his upstream keeps nobody waiting."""
    over = threading.Event()
    for number in range(3):
        base = f"DC=large{number}"
        large = Directory(each_page=lambda _: over.wait(0.2) and None)
        large.put(*(person(f"l{number}x{n:03}") for n in range(200)))
        directories[base] = large
        due(tenant(world), base, followed=False, ago=100)
    finished: dict[str, float] = {}
    worker = threading.Thread(target=_work_in, args=(housed,))
    worker.start()
    time.sleep(1.0)
    began = time.monotonic()
    smalls = [due(tenant(world), f"DC=small{n}") for n in range(6)]
    deadline = began + 20
    while len(finished) < len(smalls) and time.monotonic() < deadline:
        for provider in smalls:
            if provider not in finished and [run.status for run in runs(provider)] == ["done"]:
                finished[provider] = time.monotonic() - began
        time.sleep(0.1)
    over.set()
    worker.join(60)
    assert len(finished) == 6 and max(finished.values()) < 15
    with platform_scope() as session:
        statement = sa.select(SyncRun.status, sa.func.count()).where(SyncRun.kind == "full", SyncRun.read == 200)
        assert dict(session.execute(statement.group_by(SyncRun.status)).all()) == {"done": 3}


def _work_in(app: Flask) -> None:
    with app.app_context():
        work.work(lambda: False)


@pytest.mark.long
def test_two_hundred_schedules_due_at_once_are_no_storm(
    housed: Flask, world: World, directories: dict[str, Directory]
) -> None:
    """After downtime everybody is due. Each is read once, few at a time, and they are not due together again."""
    at_once, most = Counter[str](), []
    lock = threading.Lock()

    def watch(_: Page) -> None:
        with lock:
            at_once["now"] += 1
            most.append(at_once["now"])
        time.sleep(0.01)
        with lock:
            at_once["now"] -= 1

    directories["DC=many"] = Directory(each_page=watch)
    scopes = [tenant(world) for _ in range(50)]
    providers = [due(scope, "DC=many", ago=86_400 * 3) for scope in scopes for _ in range(4)]
    work.work(lambda: False)
    with platform_scope() as session:
        counted = session.execute(
            sa.select(SyncRun.provider_id, sa.func.count())
            .where(SyncRun.provider_id.in_(providers))
            .group_by(SyncRun.provider_id)
        ).all()
        following = list(session.scalars(sa.select(IdentityProvider.due_at).where(IdentityProvider.id.in_(providers))))
    assert Counter(count for _, count in counted) == {1: 200}
    assert max(most) <= work.AT_ONCE
    spread = max(following) - min(following)
    assert spread > timedelta(minutes=3)
    assert not queue.is_due()


def test_a_worker_that_has_to_stop_takes_nothing_new(housed: Flask, world: World) -> None:
    provider = due(world.acme)
    work.work(lambda: True)
    assert runs(provider) == [] and queue.is_due()


def test_a_provider_that_reads_files_by_now_fails_its_run_in_words(housed: Flask, world: World) -> None:
    provider = due(world.acme, config={"source": "ldif"})
    work.work(lambda: False)
    [run] = runs(provider)
    assert (run.status, run.problem) == ("failed", "This provider reads exported files.")


def test_a_crowd_of_one_tenant_hides_nobody(housed: Flask, world: World) -> None:
    for _ in range(8):
        due(world.acme, ago=1_000)
    small = due(world.globex)
    claimed = [queue.claim() for _ in range(3)]
    assert small in [one.lease.provider_id for one in claimed if one]


def test_a_tenant_reads_one_upstream_in_full_at_a_time(housed: Flask, world: World) -> None:
    for _ in range(2):
        due(world.acme, followed=False)
    other = due(world.globex, followed=False)
    first, second, third = queue.claim(), queue.claim(), queue.claim()
    assert first is not None and second is not None and third is None
    assert {first.lease.scope.tenant_id, second.lease.scope.tenant_id} == {
        world.acme.tenant_id,
        world.globex.tenant_id,
    } and other in (first.lease.provider_id, second.lease.provider_id)


def test_a_delta_that_becomes_a_full_pass_waits_for_the_place_of_one(
    housed: Flask, world: World, directories: dict[str, Directory]
) -> None:
    provider = due(world.acme, "DC=expired")
    expired = directories["DC=expired"] = Directory(expires=True)
    expired.put(person("p00"))
    claimed = queue.claim()
    assert claimed is not None and not claimed.full
    carry_out(claimed.lease, scripted.Feed(expired), claimed.order)
    [run] = runs(provider)
    assert (run.status, run.kind, run.read) == ("running", "full", 0)
    assert queue.claim(full_too=False) is None
    work.work(lambda: False)
    assert [(run.status, run.created) for run in runs(provider)] == [("done", 1)]


def test_a_provider_this_process_has_not_come_back_from_is_not_given_to_it_again(housed: Flask, world: World) -> None:
    provider = due(world.acme)
    assert queue.claim(besides=[provider]) is None
    assert queue.claim(besides=["idp_another"]) is not None


def test_a_run_that_nobody_works_on_is_cancelled_at_once(housed: Flask, world: World) -> None:
    provider = due(world.acme)
    claimed = queue.claim()
    assert claimed is not None
    with platform_scope() as session:
        session.execute(sa.text("UPDATE sync_runs SET started_at = now() WHERE status = 'running'"))
        session.execute(sa.text("UPDATE identity_providers SET lease_until = now() - interval '1 s'"))
    with unit(world.acme) as session, acting(system("administrator")):
        queue.cancel(session.get_one(SyncRun, (world.acme.tenant_id, claimed.order.run_id or "")))
    assert runs(provider)[0].status == "failed"
