"""A tenant of 200,000 people is exported, imported elsewhere, read, pushed and compared, each process under 300 MB.

`SOAK_MEMORY` is how many people, for whoever has less time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa
from flask import Flask

from broker import context, ids
from broker.config import Config
from broker.context import Scope
from broker.db import platform_scope, unit
from broker.embedded import Services
from broker.models import Delivery, Resource, ScimTarget, TargetDrift, TargetResource, TargetRun
from broker.registry import applications, targets
from scim import push
from tests.conftest import World, make_provider
from tests.population import BASE, Population
from tests.receivers import Remote, hoard
from tests.scim.test_push import pushing  # noqa: F401

PEOPLE = int(os.environ.get("SOAK_MEMORY", "200000"))
GROUP = 10_000
MEDDLED = 20
MOST = 300 * 1024
"""Kilobytes."""
_PATIENCE = 60.0 + PEOPLE / 50

_PEOPLE = sa.text("""
    INSERT INTO resources (tenant_id, id, type, name, name_key, document, local)
    SELECT :tenant, u.id, 'User', 'p' || u.no, 'p' || u.no, convert_to(jsonb_build_object(
        'id', u.id, 'schemas', jsonb_build_array('urn:ietf:params:scim:schemas:core:2.0:User'),
        'userName', 'p' || u.no, 'displayName', 'Person number ' || u.no)::text, 'UTF8'), '{}'
    FROM unnest(CAST(:ids AS text[])) WITH ORDINALITY AS u(id, no)
""")
_GROUPS = sa.text("""
    INSERT INTO resources (tenant_id, id, type, name, name_key, display_name, display_key, token_name, token_key,
                           document)
    SELECT :tenant, g.id, 'Group', g.name, g.name, g.name, g.name, g.name, g.name,
        convert_to(jsonb_build_object('id', g.id, 'displayName', g.name,
        'schemas', jsonb_build_array('urn:ietf:params:scim:schemas:core:2.0:Group'))::text, 'UTF8')
    FROM (SELECT id, 'group' || no AS name FROM unnest(CAST(:ids AS text[])) WITH ORDINALITY AS u(id, no)) g
""")
_MEMBERS = sa.text("""
    INSERT INTO memberships (tenant_id, group_id, member_id, member_key)
    SELECT p.tenant_id, u.id, p.id, p.id
    FROM (SELECT tenant_id, id, row_number() OVER (ORDER BY id) AS place FROM resources
          WHERE tenant_id = :tenant AND type = 'User') p
    JOIN unnest(CAST(:ids AS text[])) WITH ORDINALITY AS u(id, no) ON p.place % :many = u.no - 1
""")
_LINKS = sa.text("""
    WITH made AS (
        INSERT INTO links (tenant_id, provider_id, key, resource_id, kind, name, ref, digest, quiet_digest)
        SELECT tenant_id, :via, id, id, 'user', 'CN=' || name, 'cn=' || name, '\\x00', '\\x00'
        FROM resources WHERE tenant_id = :tenant AND type = 'User' RETURNING tenant_id, no, name)
    INSERT INTO link_records (tenant_id, link_no, record)
    SELECT tenant_id, no, convert_to('[[["cn",["' || name || '"]],["info",["' || repeat('x', 600) || '"]]],[]]', 'UTF8')
    FROM made
""")


def crowd(scope: Scope, groups: int) -> None:
    """People with records, each in one of the groups."""
    via, made = make_provider(scope), ids.new_many("grp", groups)
    here = {"tenant": scope.tenant_id}
    with context.acting(context.system("test")), platform_scope() as session:
        session.execute(sa.text("SET LOCAL statement_timeout = 0"))
        session.execute(_PEOPLE, {**here, "ids": ids.new_many("usr", PEOPLE)})
        session.execute(_GROUPS, {**here, "ids": made})
        session.execute(_MEMBERS, {**here, "ids": made, "many": groups})
        session.execute(_LINKS, {**here, "via": via})
    with platform_scope() as session:
        session.execute(sa.text("ANALYZE resources, memberships, links"))


class Watch:
    """The most that each process of these ever had, by what it is; children included, which may be short-lived."""

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self._watched: list[tuple[str, psutil.Process]] = []
        self._closing = threading.Event()

    def add(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self._watched.append((name, psutil.Process(process.pid)))

    @contextmanager
    def watching(self) -> Iterator[None]:
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield
        finally:
            self._closing.set()
            thread.join()

    def _watch(self) -> None:
        while not self._closing.wait(0.1):
            for name, process in self._watched:
                with suppress(psutil.Error):
                    self._note(name, process.pid)
                    for child in process.children(recursive=True):
                        self._note(f"{name}'s child", child.pid)

    def _note(self, name: str, pid: int) -> None:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    self.peaks[name] = max(self.peaks.get(name, 0), int(line.split()[1]))

    def told(self) -> str:
        return ", ".join(f"{name} {kilobytes >> 10} MiB" for name, kilobytes in sorted(self.peaks.items()))

    def verify(self) -> None:
        assert max(self.peaks.values()) < MOST, self.told()


def environment(services: Services, settings: Config) -> Mapping[str, str]:
    configured = services.configure(settings)
    return {
        **os.environ,
        "DATABASE_URL": configured.database_url or "",
        "SCAIKEY_OWNER_DATABASE_URL": configured.owner_database_url or "",
        "SCAIKEY_PLATFORM_DATABASE_URL": configured.platform_database_url or "",
        "REDIS_URL": configured.redis_url or "",
        "SCAIKEY_DATA_DIR": str(configured.data_dir),
        "SCAIKEY_ALLOW_HTTP_LOOPBACK": "1",
        "SCAIKEY_LOG_LEVEL": "ERROR",
    }


@contextmanager
def started(*arguments: str, env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program of Python's, ended in the ordinary way when the block is left."""
    with log.open("ab") as output:
        child = subprocess.Popen([sys.executable, "-m", *arguments], env=env, stdout=output, stderr=output)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(60)


def until(what: str, true: Callable[[], bool], running: Sequence[subprocess.Popen[bytes]]) -> float:
    """Until it is so; the seconds that took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < _PATIENCE, f"not yet: {what}"
        assert all(process.poll() is None for process in running), "a process ended by itself"
        time.sleep(0.5)
    return time.monotonic() - began


@pytest.mark.soak
def test_a_large_tenant_is_moved_in_little_memory(
    services: Services, settings: Config, world: World, tmp_path: Path
) -> None:
    crowd(world.acme, 1)
    make_provider(world.globex)
    path = tmp_path / "acme.ndjson"
    env = environment(services, settings)
    for deed, slug in (("export", world.acme.slug), ("import", world.globex.slug)):
        told = command(deed, "--tenant", str(slug), str(path), env=env, log=tmp_path / f"{deed}.log")
        print(f"{PEOPLE} people, {path.stat().st_size >> 20} MiB, {told}")
    assert resources(world.globex) == PEOPLE + 1


@pytest.mark.soak
def test_a_large_directory_is_read_and_given_back_in_little_memory(
    services: Services, settings: Config, world: World, tmp_path: Path
) -> None:
    population = Population(PEOPLE, 7, photo_bytes=100)
    source, returned = population.write(tmp_path / "acme.ldif"), tmp_path / "returned.ldif"
    provider = make_provider(world.acme, config={"source": "ldif", "base_dn": BASE})
    env = environment(services, settings)
    for deed, *words in (
        ("import", "--provider", provider, str(source)),
        ("export", "--tenant", str(world.acme.slug), "--provider", provider, str(returned)),
    ):
        told = command(deed, *words, env=env, log=tmp_path / f"{deed}.log")
        print(f"{PEOPLE} people, {source.stat().st_size >> 20} MiB of LDIF, {told}")
    assert resources(world.acme) == PEOPLE + len(population.groups()) + 2
    assert returned.stat().st_size > source.stat().st_size // 2


def command(*words: str, env: Mapping[str, str], log: Path) -> str:
    """One of `scaikey scim`, which must end well and take little; returns how long it took, and how much."""
    watch, began = Watch(), time.monotonic()
    with started("broker.cli", "scim", *words, "--json", env=env, log=log) as child, watch.watching():
        watch.add(words[0], child)
        assert child.wait() == 0, log.read_text()[-2000:]
    watch.verify()
    return f"{time.monotonic() - began:.0f} s: {watch.told()}"


def resources(scope: Scope) -> int:
    with unit(scope) as session:
        return session.scalar(sa.select(sa.func.count()).select_from(Resource)) or 0


@pytest.mark.soak
def test_a_large_tenant_is_pushed_and_compared_in_little_memory(
    pushing: Flask,  # noqa: F811
    services: Services,
    settings: Config,
    world: World,
    tmp_path: Path,
) -> None:
    scope, groups = world.acme, max(1, PEOPLE // GROUP)
    crowd(scope, groups)
    watch, env = Watch(), environment(services, settings)
    with ExitStack() as held:
        remote = held.enter_context(hoard(tmp_path / "hoard.log"))
        target_id = aim(scope, remote)
        ours = [
            held.enter_context(started("broker.cli", name, env=env, log=tmp_path / f"{name}.log"))
            for name in ("worker", "clock")
        ]
        for name, process in zip(("worker", "clock"), ours, strict=True):
            watch.add(name, process)
        with watch.watching():
            seconds = until("all are there", lambda: standing(scope) == (0, PEOPLE + groups), ours)
            print(f"push of {PEOPLE} people and {groups} groups: {seconds:.0f} s: {watch.told()}")
            assert remote.get("/Users?count=1")["totalResults"] == PEOPLE
            meddle(remote)
            with unit(scope) as session:
                push.ask(session.get_one(ScimTarget, (scope.tenant_id, target_id)), "overwrite")
            seconds = until("compared", lambda: compared(scope) is not None, ours)
            print(f"comparison: {seconds:.0f} s: {watch.told()}")
            until("healed", lambda: standing(scope) == (0, PEOPLE + groups), ours)
    found = compared(scope)
    assert found is not None and (found.status, found.missing, found.changed, found.unexpected) == (
        "done",
        MEDDLED,
        MEDDLED,
        1,
    )
    watch.verify()


def aim(scope: Scope, remote: Remote) -> str:
    """A target that wants everybody."""
    with unit(scope):
        application = applications.create({"name": "Hoard", "type": "web"})
        auth = {"method": "bearer", "token": remote.token}
        wanted = {"application_id": application.id, "base_url": remote.base_url, "auth": auth, "scope": "all"}
        return targets.create(wanted).id


def standing(scope: Scope) -> tuple[int, int]:
    """How many deliveries are owed, and how many resources are there."""
    with unit(scope) as session:
        owed = session.scalar(sa.select(sa.func.count()).select_from(Delivery))
        there = session.scalar(
            sa.select(sa.func.count()).select_from(TargetResource).where(TargetResource.state == "present")
        )
    return owed or 0, there or 0


def meddle(remote: Remote) -> None:
    """Some accounts are deleted, some have another name, and there is one more."""
    listed = remote.get(f"/Users?count={2 * MEDDLED}")["Resources"]
    for one in listed[:MEDDLED]:
        assert remote.send("DELETE", f"/Users/{one['id']}") == 204
    for one in listed[MEDDLED:]:
        assert remote.send("PUT", f"/Users/{one['id']}", {**one, "displayName": "King"}) == 200
    assert remote.send("POST", "/Users", {"userName": "mallory"}) == 201


def compared(scope: Scope) -> TargetRun | None:
    """The comparison, once it is over."""
    with unit(scope) as session:
        run = session.scalars(sa.select(TargetRun)).one()
        if run.status in ("waiting", "running"):
            return None
        assert run.status == "done", run.problem
        assert session.scalar(sa.select(sa.func.count()).select_from(TargetDrift)) == 2 * MEDDLED + 1
        session.expunge(run)
    return run
