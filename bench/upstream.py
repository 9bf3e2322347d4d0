"""A live OpenLDAP of any size, tenants that follow it, and the processes that read it for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from broker import bell
from broker.context import Scope
from broker.db import unit
from broker.models import IdentityProvider, SyncRun
from broker.registry import providers
from broker.sync import queue
from tests.upstreams.slapd import OpenLdap, openldap

from . import ground

_PATIENCE = 1_800.0


@dataclass(frozen=True)
class Follower:
    """One provider of a tenant of its own."""

    scope: Scope
    provider_id: str

    def ask(self, *, full: bool = False) -> str:
        """Want a run now, as the admin API does; returns its id."""
        with unit(self.scope) as session:
            run_id = queue.ask(session.get_one(IdentityProvider, self._key), full=full).id
        bell.ring(bell.PULL)
        return run_id

    def run(self, run_id: str) -> SyncRun:
        with unit(self.scope) as session:
            run = session.get_one(SyncRun, (self.scope.tenant_id, run_id))
            session.expunge(run)
            return run

    def finished(self, run_id: str) -> SyncRun:
        """The run, once it is over, which has to be a good one."""
        deadline = time.monotonic() + _PATIENCE
        while (run := self.run(run_id)).status == "running":
            if time.monotonic() > deadline:
                raise AssertionError(f"run {run_id} does not end: {run.read} of {run.total}")
            time.sleep(0.1)
        if run.status != "done" or run.skipped:
            raise AssertionError(f"run {run_id}: {run.status}, {run.problem or run.hold_reason}, {run.skipped} skipped")
        return run

    def schedule(self, values: dict[str, object]) -> None:
        with unit(self.scope) as session:
            providers.update(session.get_one(IdentityProvider, self._key), {"sync": values})

    @property
    def _key(self) -> tuple[str | None, str]:
        return self.scope.tenant_id, self.provider_id


def seconds(run: SyncRun) -> float:
    assert run.started_at is not None and run.finished_at is not None
    return (run.finished_at - run.started_at).total_seconds()


@contextmanager
def directory(people: int) -> Iterator[OpenLdap]:
    with openldap(people) as running:
        yield running


def settings(directory: OpenLdap, base: str = "") -> dict[str, object]:
    name, password = directory.service
    return {
        "source": "ldap",
        "servers": [directory.url],
        "ca_certificates": directory.ca,
        "bind_dn": name,
        "bind_password": password,
        "base_dns": [base] if base else [],
    }


def follower(slug: str, directory: OpenLdap, base: str = "", sync: dict[str, object] | None = None) -> Follower:
    """A tenant that follows what lies below `base`; by a schedule only if one is given."""
    scope, provider_id = ground.tenant(slug)
    wanted: dict[str, object] = {"config": settings(directory, base), **({"sync": sync} if sync else {})}
    with unit(scope) as session:
        providers.update(session.get_one(IdentityProvider, (scope.tenant_id, provider_id)), wanted)
    return Follower(scope, provider_id)


@contextmanager
def processes(folder: Path, *commands: Sequence[str]) -> Iterator[list[psutil.Process]]:
    """Processes of `scaikey` on the servers in that folder, each by its words; they end with the block."""
    environment = {
        **os.environ,
        "SCAIKEY_DATA_DIR": str(folder),
        "SCAIKEY_ALLOW_HTTP_LOOPBACK": "1",
        "SCAIKEY_LOG_LEVEL": "WARNING",
    }
    started = [subprocess.Popen([sys.executable, "-m", "broker.cli", *words], env=environment) for words in commands]
    try:
        yield [psutil.Process(one.pid) for one in started]
    finally:
        for one in started:
            one.send_signal(signal.SIGTERM)
        for one in started:
            one.wait(60)


def entries(directory: OpenLdap, units: int, people: int) -> list[str]:
    """So many units with so many people each; returns their names."""
    made = []
    connection = directory.admin()
    for number in range(units):
        ou = f"ou=unit{number:03d},{directory.base_dn}"
        connection.add(ou, "organizationalUnit", {"ou": f"unit{number:03d}"})
        for person in range(people):
            uid = f"u{number:03d}p{person:02d}"
            values = {"uid": uid, "cn": uid, "sn": uid, "mail": f"{uid}@unit{number:03d}.test"}
            connection.add(f"uid={uid},{ou}", "inetOrgPerson", values)
        made.append(ou)
    connection.unbind()
    return made
