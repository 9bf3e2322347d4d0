"""The SCIM server against scim2-server's reference server and scimmy on Node: `python -m bench scim [people] [rounds]`;
`python -m bench scim keyed [people]`: ours with so many people (1,000,000, copies of an imported thousand) against ours
with 1,000.

All are filled with the same people over SCIM, and their answers are compared before anything is timed.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

from broker import sync
from broker.context import acting, system
from broker.db import refresh_statistics, unit
from broker.models import SyncRun
from connectors.ldap import Config, LdifDirectory

from . import copies, ground, sides
from .load import Connection, Server, cycle, rate, turns

SCHEMA = "urn:ietf:params:scim:schemas:core:2.0:User"
ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
GROUP = "urn:ietf:params:scim:schemas:core:2.0:Group"
PATCH = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
ROUNDS, SECONDS = 5, 1.5
SIZES = (10, 1_000, 10_000, 100_000)
PATIENCE = 10_000
"""Groups larger than this are changed at the peers in the first round only: one change takes them seconds."""
CONNECTIONS = 8
CHUNK = 1_000
AIMS = {
    "GET by id": 3,
    "filter userName eq": 8,
    "list of 100": 40,
    "POST person": 1.5,
    "add member": 100,
}

Found = dict[str, dict[str, list[float]]]
"""Requests a second by operation and server."""


def main(arguments: list[str]) -> None:
    numbers = [int(word) for word in arguments if word.isdigit()]
    if "keyed" in arguments:
        _keyed(numbers[0] if numbers else 1_000_000)
        return
    people = numbers[0] if numbers else 5_000
    rounds = numbers[1] if len(numbers) > 1 else ROUNDS
    sizes = [size for size in SIZES if size < people]
    with ground.servers() as (_, folder), sides.scim2_server() as scim2, sides.scimmy() as scimmy:
        scope, _ = ground.tenant("bench")
        with sides.ours(folder, scope) as [ours], sides.limit() as limit:
            servers = (ours, scim2, scimmy)
            filled = {server.name: Filled(server, people, sizes) for server in servers}
            refresh_statistics()
            _check(filled)
            found: Found = {}
            for round_ in range(rounds):
                for server in servers if round_ % 2 == 0 else reversed(servers):
                    filled[server.name].measure(found, round_)
                hello = rate(limit, itertools.repeat(limit.request("GET", "/")), **_options(CONNECTIONS))
                found.setdefault("limit", {}).setdefault("limit", []).append(hello)
    _tell(found, people, rounds)


def _options(connections: int) -> dict[str, Any]:
    return {"expect": (200, 201, 204), "seconds": SECONDS, "connections": connections}


def _person(number: int, tag: str = "p") -> bytes:
    return json.dumps(
        {
            "schemas": [SCHEMA, ENTERPRISE],
            "userName": f"{tag}{number:07d}@bench.test",
            "externalId": f"{tag}-{number}",
            "name": {"givenName": f"Given {number}", "familyName": f"Surname {number}"},
            "displayName": f"Person {number}",
            "title": "Engineer",
            "active": True,
            "emails": [{"value": f"{tag}{number:07d}@bench.test", "type": "work", "primary": True}],
            "phoneNumbers": [{"value": f"+49 30 {number:07d}", "type": "work"}],
            ENTERPRISE: {"employeeNumber": str(number), "department": f"Department {number % 40}"},
        }
    ).encode()


def _patch(*operations: dict[str, Any]) -> bytes:
    return json.dumps({"schemas": [PATCH], "Operations": operations}).encode()


def _by_name(number: int) -> str:
    return "/Users?filter=" + quote(f'userName eq "p{number:07d}@bench.test"')


def _by_mail(number: int) -> str:
    return "/Users?filter=" + quote(f'emails[type eq "work" and value eq "p{number:07d}@bench.test"]')


def _ask(server: Server, method: str, path: str, body: bytes = b"", connection: Connection | None = None) -> Any:
    used = connection or Connection(server.port)
    try:
        status, answer = used.ask(server.request(method, path, body))
    finally:
        if connection is None:
            used.close()
    if not 200 <= status < 300:
        raise AssertionError(f"{server.name}: {method} {path} answered {status}: {answer[:300]!r}")
    return json.loads(answer) if answer else None


class Filled:
    """One server with its people, its groups and the questions that it is asked."""

    def __init__(self, server: Server, people: int, sizes: Sequence[int]) -> None:
        self.server = server
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            shares = pool.map(self._made, [range(at, people, CONNECTIONS) for at in range(CONNECTIONS)])
            made = dict(itertools.chain.from_iterable(shares))
        self.people = [made[number] for number in range(people)]
        self.groups = {size: self._group(size) for size in sizes}
        self.deep = self._deep()

    @classmethod
    def of_a_sync(cls, server: Server, people: int, group: str) -> Filled:
        """A directory that was read from an export, with the ids of a few hundred of its people."""
        made = cls.__new__(cls)
        made.server = server
        spread = range(0, people, max(1, people // 500))
        made.people = [_ask(server, "GET", _by_name(number))["Resources"][0]["id"] for number in spread]
        filter_ = quote(f'displayName eq "{group}"')
        made.groups = {50: _ask(server, "GET", f"/Groups?filter={filter_}")["Resources"][0]["id"]}
        made.deep = made._deep()
        return made

    def _made(self, numbers: range) -> list[tuple[int, str]]:
        connection = Connection(self.server.port)
        try:
            return [
                (number, _ask(self.server, "POST", "/Users", _person(number), connection)["id"]) for number in numbers
            ]
        finally:
            connection.close()

    def _group(self, size: int) -> str:
        """Made with as many members as one request may carry, and given the others after."""
        members = [{"value": id} for id in self.people[:size]]
        chunk = CHUNK if self.server.name == "ours" else PATIENCE
        group = {"schemas": [GROUP], "displayName": f"Group of {size}", "members": members[:chunk]}
        made: str = _ask(self.server, "POST", "/Groups", json.dumps(group).encode())["id"]
        for at in range(chunk, size, chunk):
            add = {"op": "add", "path": "members", "value": members[at : at + chunk]}
            _ask(self.server, "PATCH", f"/Groups/{made}?excludedAttributes=members", _patch(add))
        return made

    def _deep(self) -> str:
        """The page of 100 in the middle of everybody: by cursor where there are cursors."""
        total = _ask(self.server, "GET", "/Users?count=1")["totalResults"]
        if not _ask(self.server, "GET", "/ServiceProviderConfig").get("pagination", {}).get("cursor"):
            return f"/Users?startIndex={total // 2 // 100 * 100 + 1}&count=100"
        page = _ask(self.server, "GET", "/Users?cursor=&count=100")
        for _ in range(total // 2 // 100 - 1):
            page = _ask(self.server, "GET", f"/Users?cursor={quote(page['nextCursor'])}&count=100")
        return f"/Users?cursor={quote(page['nextCursor'])}&count=100"

    def measure(self, found: Found, round_: int) -> None:
        server, people = self.server, self.people
        step = max(1, len(people) // 500)
        some = list(range(0, len(people), step))[:500]

        def timed(name: str, requests: Iterator[bytes], connections: int = CONNECTIONS) -> None:
            rates = found.setdefault(f"{name} ({connections})", {}).setdefault(server.name, [])
            rates.append(rate(server, requests, **_options(connections)))

        def asked(paths: Sequence[str]) -> Iterator[bytes]:
            return cycle(lambda n: server.request("GET", paths[n]), len(paths))

        timed("GET by id", asked([f"/Users/{people[n]}" for n in some]))
        timed("filter userName eq", asked([_by_name(n) for n in self.numbers(some)]))
        timed("filter emails by type and value", asked([_by_mail(n) for n in self.numbers(some)]))
        timed("list of 100", asked(["/Users?startIndex=1&count=100"]), 1)
        timed("page of 100 in the middle", asked([self.deep]), 1)
        start = round_ * 1_000_000
        timed("POST person", (server.request("POST", "/Users", _person(start + n, "new")) for n in itertools.count()))
        timed("PATCH active", self._switched(some))
        for size, group in self.groups.items():
            if size > PATIENCE and round_ and server.name != "ours":
                continue
            added, removed = turns(server, self._members(group), expect=(200, 204), seconds=SECONDS)
            for name, each in (("add member", added), ("remove member", removed)):
                found.setdefault(f"{name}, group of {size:,} (1)", {}).setdefault(server.name, []).append(each)

    def numbers(self, some: Sequence[int]) -> Sequence[int]:
        return some

    def _switched(self, some: Sequence[int]) -> Iterator[bytes]:
        """Everybody off, then everybody on."""
        for active in itertools.cycle((False, True)):
            body = _patch({"op": "replace", "path": "active", "value": active})
            for number in some:
                yield self.server.request("PATCH", f"/Users/{self.people[number]}", body)

    def _members(self, group: str) -> Iterator[Sequence[bytes]]:
        """One person comes and goes, so that the group keeps its size."""
        person = self.people[-1]
        add = _patch({"op": "add", "path": "members", "value": [{"value": person}]})
        remove = _patch({"op": "remove", "path": f'members[value eq "{person}"]'})
        # scimmy takes the members out of the group itself when they are excluded from its answer.
        path = f"/Groups/{group}" + "?excludedAttributes=members" * (self.server.name != "scimmy")
        return itertools.repeat([self.server.request("PATCH", path, body) for body in (add, remove)])


def _check(filled: dict[str, Filled]) -> None:
    """All answer the same to every question that is timed."""
    sides_ = list(filled.values())
    count = len(sides_[0].people)
    for number in (0, count // 2, count - 1):
        shown = []
        for side in sides_:
            found = _ask(side.server, "GET", f"/Users/{side.people[number]}")
            for path in (_by_name(number), _by_mail(number)):
                listed = _ask(side.server, "GET", path)
                if listed["totalResults"] != 1 or listed["Resources"][0]["id"] != found["id"]:
                    raise AssertionError(f"{side.server.name} does not find person {number}: {path}")
            shown.append({key: value for key, value in found.items() if key not in ("id", "meta", "groups", "schemas")})
        if any(one != shown[0] for one in shown):
            raise AssertionError(f"the servers disagree: {shown}")
    for side in sides_:
        name, server = side.server.name, side.server
        for path in ("/Users?startIndex=1&count=100", side.deep):
            page = _ask(server, "GET", path)
            if page.get("totalResults", count) != count or len(page["Resources"]) != 100:
                raise AssertionError(f"{name}: {path} is {len(page['Resources'])} of {page.get('totalResults')}")
        person = f"/Users/{side.people[0]}"
        for active in (False, True):
            _ask(server, "PATCH", person, _patch({"op": "replace", "path": "active", "value": active}))
            if _ask(server, "GET", person)["active"] is not active:
                raise AssertionError(f"{name}: active is not {active}")
        smallest = min(side.groups)
        add, remove = next(side._members(side.groups[smallest]))
        for request, size in ((add, smallest + 1), (remove, smallest)):
            connection = Connection(server.port)
            connection.ask(request)
            connection.close()
            members = _ask(server, "GET", f"/Groups/{side.groups[smallest]}")["members"]
            if len(members) != size:
                raise AssertionError(f"{name}: {len(members)} members, not {size}")


def _tell(found: Found, people: int, rounds: int) -> None:
    limit = ground.median(found.pop("limit")["limit"])
    rows = []
    for name, rates in found.items():
        mine, *peers = (ground.median(rates[side]) for side in ("ours", "scim2-server", "scimmy"))
        aim = next((f"{aim:g}" for words, aim in AIMS.items() if name.startswith(words)), "")
        shown = f"{mine:,.0f} ({min(rates['ours']):,.0f}-{max(rates['ours']):,.0f})"
        theirs = (f"{peer:,.1f}" for peer in peers)
        rows.append((name, shown, *theirs, f"{mine / max(peers):,.1f}", aim, f"{mine / limit:.3f}"))
    ground.table(
        f"SCIM, {people:,} people, requests per second (median of {rounds} interleaved rounds of {SECONDS} s)",
        ("operation (connections)", "ours", "scim2-server", "scimmy", "x best", "aim", "of the limit"),
        rows,
    )
    ground.console.print(
        f"the limit: {limit:,.0f} answers a second of the same WSGI server that asks nothing of anybody"
    )
    adds = {name: rates for name, rates in found.items() if name.startswith("add member")}
    smallest, largest = next(iter(adds)), list(adds)[-1]
    for side in ("ours", "scim2-server", "scimmy"):
        ratio = ground.median(adds[smallest][side]) / ground.median(adds[largest][side])
        ground.console.print(f"{side}: {largest} costs {ratio:.2f} times {smallest}" + " (aim: 1.2)" * (side == "ours"))
    ground.console.print(f"Load of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


class _Imported(Filled):
    """People of an export, of whom every so-manieth is asked for."""

    spread: range

    def numbers(self, some: Sequence[int]) -> Sequence[int]:
        return [self.spread[n] for n in some]


def _keyed(people: int) -> None:
    """What is found by a key costs the same among a million as among a thousand."""
    small = 1_000
    with ground.servers() as (_, folder), acting(system("bench")):
        scopes = []
        for count in (small, people):
            scope, provider_id = ground.tenant(f"bench-{count}")
            export = folder / f"{count}.ldif"
            ground.write_ldif(export, small)
            run_id = sync.pull(scope, provider_id, LdifDirectory(export, Config()))
            with unit(scope) as session:
                run = session.get_one(SyncRun, (scope.tenant_id, run_id))
                if (run.status, run.skipped) != ("done", 0):
                    raise AssertionError(f"{run.status}, {run.skipped} skipped: {run.problem or run.hold_reason}")
            ground.console.print(f"{count:,} people: copying the imported {small:,}")
            copies.multiply(scope, small, count // small)
            scopes.append(scope)
        refresh_statistics()
        ground.console.print("measuring")
        found: Found = {}
        with sides.ours(folder, *scopes) as servers:
            named = [
                _Imported.of_a_sync(Server(f"{count:,}", one.port, one.prefix, one.token), count, "Team 0")
                for one, count in zip(servers, (small, people), strict=True)
            ]
            for side, count in zip(named, (small, people), strict=True):
                side.spread = range(0, count, max(1, count // 500))
            for round_ in range(ROUNDS):
                for side in named if round_ % 2 == 0 else reversed(named):
                    side.measure(found, round_)
    rows = []
    for name, rates in found.items():
        few, many = (ground.median(rates[f"{count:,}"]) for count in (small, people))
        rows.append((name, f"{few:,.0f}", f"{many:,.0f}", f"{few / many:.2f}"))
    ground.table(
        f"SCIM by key, requests per second (median of {ROUNDS} interleaved rounds of {SECONDS} s)",
        ("operation (connections)", f"{small:,} people", f"{people:,} people", "costs times (aim: 1.6)"),
        rows,
    )
