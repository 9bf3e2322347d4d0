"""The push to a receiver that takes 30 ms for each answer: `python -m bench push [people]`.

The limit is what so many connections can ask when nothing else costs time: connections / latency. First everybody is
new (found by nobody, then made), then everybody has changed (one request each). Beside it the same to a receiver that
offers bulk.
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

from broker import sync
from broker.context import Scope, acting, system
from broker.db import refresh_statistics, unit
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
    limit = running_push.CONNECTIONS / (MILLISECONDS / 1000)
    rows = []
    rates: dict[str, dict[str, float]] = {}
    with acting(system("bench")), ground.servers() as (_, folder):
        before, after = folder / "before.ldif", folder / "after.ldif"
        ground.write_ldif(before, people)
        ground.write_ldif(after, people, changed=1)
        for offer in ("single", "bulk"):
            scope, provider_id = ground.tenant(f"push-{offer}")
            _read(scope, provider_id, before)
            with _sink(offer) as sink:
                _aim(scope, sink)
                for name, file in (("new", None), ("changed", after)):
                    if file is not None:
                        _read(scope, provider_id, file)
                    refresh_statistics()
                    requests, changes, seconds = _pushed(sink)
                    if changes < people:
                        raise AssertionError(f"{offer}, {name}: {changes} changes arrived, not {people}")
                    rates.setdefault(name, {})[offer] = changes / seconds
                    share = requests / seconds / limit
                    counts = (f"{changes / seconds:,.0f}", f"{requests / seconds:,.0f}", f"{share:.2f}")
                    rows.append((f"{name}, {offer}", f"{changes:,}", *counts))
    ground.table(
        f"Push of {people:,} people and their groups over {running_push.CONNECTIONS} connections, {MILLISECONDS} ms an"
        f" answer: at most {limit:,.0f} requests a second",
        ("", "changes", "changes / s", "requests / s", "of the limit (aim, single: 0.85)"),
        rows,
    )
    for name, found in rates.items():
        ground.console.print(f"{name}: bulk is {found['bulk'] / found['single']:.1f} times single (aim: 20)")
    ground.console.print(f"Load of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


def _read(scope: Scope, provider_id: str, export: Path) -> None:
    sync.pull(scope, provider_id, LdifDirectory(export, Config()))


@contextmanager
def _sink(offer: str) -> Iterator[Server]:
    server = Server("sink", free_port(), "/v2", "nobody-asks")
    command = [sys.executable, "-m", "bench.sink", str(server.port), str(MILLISECONDS), offer]
    with process(command, dict(os.environ), server, "/asked"):
        yield server


def _aim(scope: Scope, sink: Server) -> None:
    """A target that wants everybody."""
    with unit(scope):
        application = applications.create({"name": "Sink", "type": "web"})
        auth = {"method": "bearer", "token": sink.token}
        base_url = f"http://127.0.0.1:{sink.port}{sink.prefix}"
        targets.create({"application_id": application.id, "base_url": base_url, "auth": auth, "scope": "all"})


def _pushed(sink: Server) -> tuple[int, int, float]:
    """Requests and changes that arrived, and the seconds it took, until nothing was left to do."""
    before = _asked(sink)
    began = time.perf_counter()
    while push.drain(600).worked:
        pass
    seconds = time.perf_counter() - began
    after = _asked(sink)
    return after["requests"] - before["requests"], after["changes"] - before["changes"], seconds


def _asked(sink: Server) -> dict[str, int]:
    with urllib.request.urlopen(f"http://127.0.0.1:{sink.port}{sink.prefix}/asked", timeout=10) as answer:
        found: dict[str, int] = json.load(answer)
    return {"requests": 0, "changes": 0, **found}
