"""The SCIM server against scim2-server's reference server, each served the way it is meant to be.

Ours: granian as in the Procfile, PostgreSQL with durability and the walls on. Theirs: its own in-memory store under
gunicorn
(one process, four threads; more processes would not share it). Both are filled with the same people over SCIM.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from broker import credentials
from broker.context import acting, system
from broker.db import refresh_statistics, unit

from . import ground
from .load import Connection, Server, cycle, free_port, process, rate

SCHEMA = "urn:ietf:params:scim:schemas:core:2.0:User"
ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
GROUP = "urn:ietf:params:scim:schemas:core:2.0:Group"
PATCH = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
ROUNDS, SECONDS = 5, 1.5


def main(arguments: list[str]) -> None:
    people = int(next((word for word in arguments if word.isdigit()), "12000"))
    large = min(10_000, people - 1)
    with ground.servers() as (_, folder), _ours(folder) as ours, _theirs(folder) as theirs:
        both = (ours, theirs)
        filled = {server.name: _fill(server, people, large) for server in both}
        refresh_statistics()
        _check(both, filled, people)
        results = _measure(both, filled)
    rows = []
    for name, found in results.items():
        mine, other = ground.median(found["ours"]), ground.median(found["theirs"])
        spread = f"{min(found['ours']):,.0f}-{max(found['ours']):,.0f}"
        rows.append((name, f"{mine:,.0f}", spread, f"{other:,.1f}", f"{mine / other:,.1f}x"))
    ground.table(
        f"SCIM, {people:,} people, requests per second (median of {ROUNDS} interleaved rounds of {SECONDS} s)",
        ("operation (connections)", "ours", "ours, range", "scim2-server 0.8.3", "ratio"),
        rows,
    )
    for side in ("ours", "theirs"):
        small, big = (ground.median(results[f"PATCH add member, group of {n} (1)"][side]) for n in ("10", f"{large:,}"))
        ground.console.print(f"{side}: member add in the group of {large:,} costs {small / big:.2f}x that of 10")


@contextmanager
def _ours(folder: Path) -> Iterator[Server]:
    scope, _ = ground.tenant("bench")
    with unit(scope), acting(system("bench")):
        _, secret = credentials.mint_scim_token({"name": "bench"})
    port = free_port()
    environment = {
        **os.environ,
        "SCAIKEY_DATA_DIR": str(folder),
        "SCAIKEY_BASE_URL": f"http://localhost:{port}",
        "SCAIKEY_ALLOW_HTTP_LOOPBACK": "1",
        "SCAIKEY_LOG_LEVEL": "WARNING",
    }
    command = ["granian", "--interface", "wsgi", "--workers", "2", "--blocking-threads", "12", "--no-ws"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warning", "wsgi:app"]
    server = Server("ours", port, f"/scim/v2/{scope.slug}", secret)
    with process(command, environment, server, "/ServiceProviderConfig"):
        yield server


@contextmanager
def _theirs(folder: Path) -> Iterator[Server]:
    port, token = free_port(), secrets.token_urlsafe(16)
    command = ["gunicorn", "--worker-class", "gthread", "--workers", "1", "--threads", "4", "--keep-alive", "75"]
    command += ["--bind", f"127.0.0.1:{port}", "--log-level", "warning", "bench.peer:app"]
    server = Server("theirs", port, "/v2", token)
    with process(command, {**os.environ, "PEER_TOKEN": token}, server, "/ServiceProviderConfig"):
        yield server


def _person(number: int, tag: str = "p") -> bytes:
    return json.dumps(
        {
            "schemas": [SCHEMA, ENTERPRISE],
            "userName": f"{tag}{number:06d}@bench.example",
            "externalId": f"{tag}-{number}",
            "name": {"givenName": f"Given {number}", "familyName": f"Surname {number}"},
            "displayName": f"Person {number}",
            "title": "Engineer",
            "active": True,
            "emails": [{"value": f"{tag}{number:06d}@bench.example", "type": "work", "primary": True}],
            "phoneNumbers": [{"value": f"+49 30 {number:07d}", "type": "work"}],
            ENTERPRISE: {"employeeNumber": str(number), "department": f"Department {number % 40}"},
        }
    ).encode()


def _ask(server: Server, method: str, path: str, body: bytes = b"") -> Any:
    connection = Connection(server.port)
    try:
        status, answer = connection.ask(server.request(method, path, body))
    finally:
        connection.close()
    if not 200 <= status < 300:
        raise AssertionError(f"{server.name}: {method} {path} answered {status}: {answer[:300]!r}")
    return json.loads(answer) if answer else None


def _fill(server: Server, people: int, large: int) -> dict[str, Any]:
    connection = Connection(server.port)
    found = []
    for number in range(people):
        status, answer = connection.ask(server.request("POST", "/Users", _person(number)))
        if status != 201:
            raise AssertionError(f"{server.name}: POST answered {status}: {answer[:300]!r}")
        found.append(json.loads(answer)["id"])
    connection.close()
    groups = {}
    for size in (10, large):
        group = {
            "schemas": [GROUP],
            "displayName": f"Group of {size}",
            "members": [{"value": id} for id in found[:size]],
        }
        groups[f"{size:,}"] = _ask(server, "POST", "/Groups", json.dumps(group).encode())["id"]
    return {"people": found, "groups": groups}


def _check(both: tuple[Server, ...], filled: dict[str, Any], people: int) -> None:
    """Both answer the same to every question that is timed."""
    for number in (0, people // 2, people - 1):
        shown = []
        for server in both:
            found = _ask(server, "GET", f"/Users/{filled[server.name]['people'][number]}")
            listed = _ask(server, "GET", f"/Users?filter=userName%20eq%20%22P{number:06d}@bench.example%22")
            if listed["totalResults"] != 1 or listed["Resources"][0]["id"] != found["id"]:
                raise AssertionError(f"{server.name} does not find person {number}")
            shown.append({key: value for key, value in found.items() if key not in ("id", "meta", "groups")})
        if shown[0] != shown[1]:
            raise AssertionError(f"the two servers disagree: {shown}")
    for server in both:
        page = _ask(server, "GET", "/Users?startIndex=1&count=100")
        if page["totalResults"] != people or len(page["Resources"]) != 100:
            raise AssertionError(f"{server.name}: a page of 100 is {len(page['Resources'])} of {page['totalResults']}")


def _measure(both: tuple[Server, ...], filled: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    results: dict[str, dict[str, list[float]]] = {}

    def timed(name: str, server: Server, requests: Iterator[bytes], expect: tuple[int, ...], connections: int) -> None:
        found = rate(server, requests, expect=expect, seconds=SECONDS, connections=connections)
        results.setdefault(f"{name} ({connections})", {}).setdefault(server.name, []).append(found)

    for round_ in range(ROUNDS):
        for server in both if round_ % 2 == 0 else reversed(both):
            people, groups = filled[server.name]["people"], filled[server.name]["groups"]
            reads = [people[index * 37 % len(people)] for index in range(500)]
            timed(
                "GET by id",
                server,
                cycle(lambda n, s=server, r=reads: s.request("GET", f"/Users/{r[n]}"), 500),
                (200,),
                8,
            )
            timed(
                "filter userName eq",
                server,
                cycle(
                    lambda n, s=server, p=people: s.request(
                        "GET", f"/Users?filter=userName%20eq%20%22p{n * 37 % len(p):06d}@bench.example%22"
                    ),
                    500,
                ),
                (200,),
                8,
            )
            timed(
                "list of 100",
                server,
                cycle(lambda n, s=server: s.request("GET", "/Users?startIndex=1&count=100"), 1),
                (200,),
                1,
            )
            start = round_ * 1_000_000
            timed(
                "POST person",
                server,
                (server.request("POST", "/Users", _person(start + n, "new")) for n in range(1_000_000)),
                (201,),
                8,
            )
            for size, group in groups.items():
                timed(
                    f"PATCH add member, group of {size}",
                    server,
                    _member_adds(server, group, people),
                    (200, 204),
                    1,
                )
    return results


def _member_adds(server: Server, group: str, people: list[str]) -> Iterator[bytes]:
    """Add one person and take it out again, so that the group keeps its size."""
    bodies = []
    for operation in (
        {"op": "add", "path": "members", "value": [{"value": people[-1]}]},
        {"op": "remove", "path": f'members[value eq "{people[-1]}"]'},
    ):
        body = json.dumps({"schemas": [PATCH], "Operations": [operation]}).encode()
        bodies.append(server.request("PATCH", f"/Groups/{group}?excludedAttributes=members", body))
    return cycle(lambda n: bodies[n], 2)
