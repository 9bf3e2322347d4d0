"""The push to a receiver that takes 30 ms for each answer: `python -m bench push [people]`.

The limit is what so many connections can ask when nothing else costs time: connections / latency. First everybody is
new (found by nobody, then made), then everybody has changed (one request each); over sixteen connections and over one,
and the same to a receiver that offers bulk. Beside each rate stands what a request cost in processor time: where our
process, the database and the receiver share few processors, these are the limit and not the latency.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
import sqlalchemy as sa

from broker import sync
from broker.context import Scope, acting, system
from broker.db import platform_scope, refresh_statistics, unit
from broker.registry import applications, targets
from connectors.ldap import Config, LdifDirectory
from scim import push
from scim.push import run as running_push

from . import ground
from .load import Server, free_port, process

MILLISECONDS = 30
PEOPLE = 2_000


def main(arguments: list[str]) -> None:
    people = int(next((word for word in arguments if word.isdigit()), str(PEOPLE)))
    rows = []
    rates: dict[tuple[int, str, str], float] = {}
    with acting(system("bench")), ground.servers() as (_, folder):
        before, after = folder / "before.ldif", folder / "after.ldif"
        for connections in (running_push.CONNECTIONS, 1):
            # One connection alone takes as many seconds for a tenth of the people.
            count = people if connections > 1 else max(people // 10, 50)
            ground.write_ldif(before, count)
            ground.write_ldif(after, count, changed=1)
            for offer in ("single", "bulk"):
                scope, provider_id = ground.tenant(f"push-{offer}-{connections}")
                _read(scope, provider_id, before)
                with _over(connections), _sink(offer) as (sink, receiver):
                    _aim(scope, sink)
                    for name, file in (("new", None), ("changed", after)):
                        if file is not None:
                            _read(scope, provider_id, file)
                        refresh_statistics()
                        found = _pushed(sink, receiver)
                        if found.changes < count:
                            raise AssertionError(f"{offer}, {name}: {found.changes} changes arrived, not {count}")
                        rates[connections, name, offer] = count / found.seconds
                        rows.append((f"{connections} × {name}, {offer}", *_row(count, found, connections)))
    ground.table(
        f"Push of {people:,} people and their groups, {MILLISECONDS} ms an answer: a connection asks at most"
        f" {1000 / MILLISECONDS:.1f} times a second",
        (
            "connections",
            "people / s",
            "changes / s",
            "requests / s",
            "of the limit",
            "ms of processors: ours, db, sink",
        ),
        rows,
    )
    for connections, name in {(connections, name): None for connections, name, _ in rates}:
        ratio = rates[connections, name, "bulk"] / rates[connections, name, "single"]
        ground.console.print(f"{connections} × {name}: bulk brings {ratio:.1f} times as many as single (aim: 20)")
    ground.console.print("Of the limit, single over 16 connections (aim: 0.85); processor time is per request")
    ground.console.print(f"Load of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


class _Found(NamedTuple):
    requests: int
    changes: int
    seconds: float
    ours: float
    database: float
    receiver: float


def _row(people: int, found: _Found, connections: int) -> tuple[str, ...]:
    asked = found.requests / found.seconds
    cost = (found.ours, found.database, found.receiver)
    return (
        f"{people / found.seconds:,.0f}",
        f"{found.changes / found.seconds:,.0f}",
        f"{asked:,.0f}",
        f"{asked / connections * MILLISECONDS / 1000:.2f}",
        " ".join(f"{1000 * seconds / found.requests:.2f}" for seconds in cost),
    )


@contextmanager
def _over(connections: int) -> Iterator[None]:
    usual, running_push.CONNECTIONS = running_push.CONNECTIONS, connections
    try:
        yield
    finally:
        running_push.CONNECTIONS = usual


def _read(scope: Scope, provider_id: str, export: Path) -> None:
    sync.pull(scope, provider_id, LdifDirectory(export, Config()))


@contextmanager
def _sink(offer: str) -> Iterator[tuple[Server, psutil.Process]]:
    server = Server("sink", free_port(), "/v2", "nobody-asks")
    command = [sys.executable, "-m", "bench.sink", str(server.port), str(MILLISECONDS), offer]
    with process(command, dict(os.environ), server, "/asked") as started:
        yield server, psutil.Process(started.pid)


def _aim(scope: Scope, sink: Server) -> None:
    """A target that wants everybody."""
    with unit(scope):
        application = applications.create({"name": "Sink", "type": "web"})
        auth = {"method": "bearer", "token": sink.token}
        base_url = f"http://127.0.0.1:{sink.port}{sink.prefix}"
        targets.create({"application_id": application.id, "base_url": base_url, "auth": auth, "scope": "all"})


def _pushed(sink: Server, receiver: psutil.Process) -> _Found:
    """What arrived until nothing was left to do, and what it took."""
    before, spent, began = _asked(sink), _spent(receiver), time.perf_counter()
    while push.drain(600).worked:
        pass
    seconds = time.perf_counter() - began
    spent = [after - earlier for after, earlier in zip(_spent(receiver), spent, strict=True)]
    after = _asked(sink)
    return _Found(after["requests"] - before["requests"], after["changes"] - before["changes"], seconds, *spent)


def _spent(receiver: psutil.Process) -> list[float]:
    """Seconds of processors so far: this process, the database's, the receiver."""
    with platform_scope() as session:
        others = session.execute(sa.text("SELECT pid FROM pg_stat_activity")).scalars().all()
    return [time.process_time(), sum(map(_processor, others)), _processor(receiver.pid)]


def _processor(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _asked(sink: Server) -> dict[str, int]:
    with urllib.request.urlopen(f"http://127.0.0.1:{sink.port}{sink.prefix}/asked", timeout=10) as answer:
        found: dict[str, int] = json.load(answer)
    return {"requests": 0, "changes": 0, **found}
