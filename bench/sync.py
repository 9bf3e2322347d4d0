"""A full pass over a live OpenLDAP: ours against `ldapsearch` of the same entries, which is the limit, and against a
per-row ORM import of them; then what serving feels of it, and the memory of the process that reads.

Ours is what runs in production: asked for, claimed by `scaikey worker --lane pull`, timed by the run's own row. The ORM
side is `imports`', on a share of the people and with the reading done beforehand. Rounds interleave the sides.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import psutil
import sqlalchemy as sa

from broker import credentials
from broker.context import acting, system
from broker.db import unit
from broker.models import User
from connectors import kinds
from connectors.egress import Egress
from connectors.port import Record
from tests.upstreams.missing import programs
from tests.upstreams.slapd import OpenLdap

from . import ground, imports, upstream
from .load import Server, cycle, free_port, process, waits
from .upstream import Follower

FILTER = "(|(objectClass=inetOrgPerson)(objectClass=groupOfNames)(objectClass=organizationalUnit))"
ATTRIBUTES = ("*", "entryUUID", "createTimestamp", "modifyTimestamp")
ROUNDS, PAGE = 3, 500
PACE, CONNECTIONS, IDLE_SECONDS = 50.0, 4, 15.0
"""SCIM reads a second, over so many connections."""
MOST_MEMORY = 300
"""MB of the reading process."""


def main(arguments: list[str]) -> None:
    numbers = [int(word) for word in arguments if word.isdigit()]
    people = numbers[0] if numbers else 50_000
    rounds = numbers[1] if len(numbers) > 1 else ROUNDS
    sample = max(200, min(2_000, people // 10))
    with (
        acting(system("bench")),
        upstream.directory(people) as directory,
        ground.servers() as (_, folder),
        upstream.processes(folder, ("worker", "--lane", "pull"), ("clock",)) as (lane, _),
        _memory(lane) as peak,
    ):
        entries = _listed(directory)
        found: dict[str, list[float]] = {}

        def note(name: str, done: int, took: float) -> None:
            found.setdefault(name, []).append(done / took)

        for number in range(rounds):
            ours = upstream.follower(f"ours-{number}", directory)
            note("ldapsearch", entries, _ldapsearch(directory))
            note("first pass", entries, _pass(ours, entries, created=entries))
            note("per-row ORM import", sample, _per_row(ours, directory, number, sample))
            note("ldapsearch", entries, _ldapsearch(directory))
            note("nothing changed", entries, _pass(ours, entries, created=0))
        waited = _serving(folder, directory, ours, entries)
    _tell(people, entries, rounds, sample, found, waited, max(peak))


def _listed(directory: OpenLdap) -> int:
    """How many entries `ldapsearch` gives, which takes `localhost` for another name of this machine."""
    return _search(directory, subprocess.PIPE).count(b"\ndn:") + 1


def _ldapsearch(directory: OpenLdap) -> float:
    began = time.perf_counter()
    _search(directory, subprocess.DEVNULL)
    return time.perf_counter() - began


def _search(directory: OpenLdap, output: int) -> bytes:
    (program,) = programs("ldap-utils", "ldapsearch")
    name, password = directory.service
    command = [
        program,
        "-x",
        "-LLL",
        "-o",
        "ldif_wrap=no",
        "-H",
        f"ldaps://127.0.0.1:{directory.tls_port}",
        "-D",
        name,
        "-w",
        password,
    ]
    command += ["-w", password, "-b", directory.base_dn, "-E", f"pr={PAGE}/noprompt", FILTER, *ATTRIBUTES]
    environment = {**os.environ, "LDAPTLS_CACERT": str(directory.folder / "tls/ca.pem")}
    done = subprocess.run(command, env=environment, stdout=output, check=True)
    return (done.stdout or b"").strip().removeprefix(b"\n")


def _pass(ours: Follower, entries: int, *, created: int) -> float:
    """Seconds of a full pass, which has to have read every entry and created as many as it should."""
    run = ours.finished(ours.ask(full=True))
    counted = (run.kind, run.read, run.created, run.unchanged)
    if counted != ("full", entries, created, entries - created):
        raise AssertionError(f"{counted}: {entries} entries were listed")
    return upstream.seconds(run)


def _per_row(ours: Follower, directory: OpenLdap, number: int, sample: int) -> float:
    """Seconds for a share of the people, who are read beforehand; they have to be the same as ours."""
    scope, provider_id = ground.tenant(f"rows-{number}")
    records = list(islice(_people(directory), sample))
    began = time.perf_counter()
    imports.per_row(scope, provider_id, records)
    took = time.perf_counter() - began
    imports.check_alike(ours.scope, scope, sample)
    return took


def _people(directory: OpenLdap) -> Iterator[Record]:
    feed = kinds.live_feed("ldap", kinds.config_from("ldap", upstream.settings(directory)), Egress(loopback=True))
    assert feed is not None
    for page in feed.changes_since(None):
        yield from (change for change in page.changes if isinstance(change, Record) and change.kind == "user")


def _serving(folder: Path, directory: OpenLdap, ours: Follower, entries: int) -> dict[str, list[float]]:
    """Seconds that readers of a tenant wait: nothing else going on, and while passes go on."""
    port = free_port()
    with unit(ours.scope) as session:
        _, secret = credentials.mint_scim_token({"name": "bench"})
        ids = list(session.scalars(sa.select(User.id).limit(500)))
    server = Server("ours", port, f"/scim/v2/{ours.scope.slug}", secret)
    environment = {
        **os.environ,
        "SCAIKEY_DATA_DIR": str(folder),
        "SCAIKEY_BASE_URL": f"http://localhost:{port}",
        "SCAIKEY_ALLOW_HTTP_LOOPBACK": "1",
        "SCAIKEY_LOG_LEVEL": "WARNING",
    }
    command = ["granian", "--interface", "wsgi", "--workers", "2", "--blocking-threads", "12", "--no-ws"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warning", "wsgi:app"]
    reads = cycle(lambda n: server.request("GET", f"/Users/{ids[n]}"), len(ids))
    found: dict[str, list[float]] = {"idle": [], "first pass": [], "nothing changed": []}
    with process(command, environment, server, "/ServiceProviderConfig"):
        with _readers(server, reads, []):  # each of its processes has answered before
            time.sleep(2.0)
        for number in range(2):
            with _readers(server, reads, found["idle"]):
                time.sleep(IDLE_SECONDS)
            fresh = upstream.follower(f"beside-{number}", directory)
            for name, created in (("first pass", entries), ("nothing changed", 0)):
                with _readers(server, reads, found[name]):
                    _pass(fresh, entries, created=created)
    return found


@contextmanager
def _readers(server: Server, reads: Iterator[bytes], waited: list[float]) -> Iterator[None]:
    """Inside, people are read at a steady pace."""
    over = threading.Event()
    pace = {"a_second": PACE, "connections": CONNECTIONS, "over": over.is_set}
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(lambda: waits(server, reads, expect=(200,), **pace))
        try:
            yield
        finally:
            over.set()
        waited += reading.result()


@contextmanager
def _memory(lane: psutil.Process) -> Iterator[list[int]]:
    """Inside, the peak memory of every process that reads for this lane is noted, in bytes."""
    peaks: list[int] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.2):
            for one in lane.children():
                with suppress(psutil.Error, OSError):
                    lines = Path(f"/proc/{one.pid}/status").read_text().splitlines()
                    peaks.extend(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


def _tell(
    people: int,
    entries: int,
    rounds: int,
    sample: int,
    found: dict[str, list[float]],
    waited: dict[str, list[float]],
    peak: int,
) -> None:
    limit = ground.median(found["ldapsearch"])
    ground.table(
        f"Full pass over {people:,} people ({entries:,} entries), entries a second (median of {rounds} rounds; "
        f"per-row ORM on {sample:,} of them, reading not counted)",
        ("", "a second", "range", "of ldapsearch", "of per-row ORM"),
        [
            (
                name,
                f"{ground.median(rates):,.0f}",
                f"{min(rates):,.0f}-{max(rates):,.0f}",
                f"{ground.median(rates) / limit:.2f}",
                f"{ground.median(rates) / ground.median(found['per-row ORM import']):.1f}x",
            )
            for name, rates in found.items()
        ],
    )
    idle = _share(waited["idle"], 0.99)
    ground.table(
        f"SCIM GET of one person, {PACE:g} a second over {CONNECTIONS} connections, ms (aim: p99 at most 3x idle)",
        ("beside", "reads", "p50", "p99", "worst", "p99 of idle"),
        [
            (
                name,
                f"{len(times):,}",
                *(f"{1000 * value:.1f}" for value in (statistics.median(times), _share(times, 0.99), max(times))),
                f"{_share(times, 0.99) / idle:.1f}x",
            )
            for name, times in waited.items()
        ],
    )
    ground.console.print(f"Peak memory of the reading process: {peak / 2**20:.0f} MB (aim: under {MOST_MEMORY} MB)")
    ground.console.print(f"Load of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


def _share(times: list[float], share: float) -> float:
    return sorted(times)[int(share * (len(times) - 1))]
