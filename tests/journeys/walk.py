"""A walk through everybody of a tenant over HTTP while people come and go all the time.

Owns the crowd, those who make and delete people meanwhile, and what a walk met. Which walks there are and what each
promises is said by the tests.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlencode

from flask import Flask

from broker.context import Scope, acting, system
from broker.db import directory_writes, unit
from broker.directory import rows
from tests.live import Line, Live
from tests.parties.house import Tenant

_WRITERS = 3


def settle(web: Flask, tenant: Tenant, people: int) -> list[str]:
    """So many people, written at once; their ids in the order in which they are listed."""
    made = []
    for number in range(people):
        row = rows.Row(rows.new_id("User"), "User", version=1)
        row.local = {"userName": f"person{number:06}", "displayName": f"Person {people - number:06}"}
        rows.settle(row, row.local)
        made.append(row)
    with web.app_context(), unit(Scope(tenant.id)), acting(system("test")), directory_writes():
        for start in range(0, people, 1_000):
            rows.insert(tenant.id, made[start : start + 1_000])
    return sorted(row.id for row in made)


@dataclass
class Met:
    """What one walk met, and what happened to the crowd while it was under way."""

    times: Counter[str] = field(default_factory=Counter)
    pages: int = 0
    gone: set[str] = field(default_factory=set)
    come: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def missed(self, there: list[str]) -> set[str]:
        """Who was there before the walk, is there still, and was not met."""
        return set(there) - self.gone - set(self.times)

    @property
    def doubled(self) -> set[str]:
        return {id for id, times in self.times.items() if times > 1}


class Crowd:
    """A tenant with its people, of whom some leave for good, and everybody who leaves is followed by somebody new."""

    def __init__(self, running: Live, web: Flask, people: int) -> None:
        self._running = running
        self._tenant = running.house.tenant("walk")
        self._token = str(self._tenant.admin.post("/scim-tokens", {"name": "walker"})["token"])
        self._line = Line(running.house.base_url)
        self.there = settle(web, self._tenant, people)

    def close(self) -> None:
        self._line.close()

    def walked(self, walk: Callable[[Crowd], Iterator[list[str]]]) -> Met:
        """One walk, with people coming and going from before its first page until after its last one."""
        met = Met()
        with self._coming_and_going(met):
            began = time.monotonic()
            for page in walk(self):
                met.times.update(page)
                met.pages += 1
            met.seconds = time.monotonic() - began
        self.there = sorted((set(self.there) | set(met.come)) - met.gone)
        return met

    def page(self, **query: str | int) -> Mapping[str, object]:
        path = f"/scim/v2/{self._tenant.slug}/Users?{urlencode({'attributes': 'id', **query})}"
        reply = self._line.ask("GET", path, token=self._token)
        assert reply.status == 200, reply.text
        found: Mapping[str, object] = reply.json
        return found

    @contextmanager
    def _coming_and_going(self, met: Met) -> Iterator[None]:
        leaving = random.Random(7).sample(self.there, len(self.there) // 2)
        shares = [leaving[number::_WRITERS] for number in range(_WRITERS)]
        ending, problems, busy = threading.Event(), list[str](), threading.Barrier(_WRITERS + 1)

        def write(number: int) -> None:
            line = Line(self._running.house.base_url)
            people, count = f"/scim/v2/{self._tenant.slug}/Users", 0
            try:
                while not ending.is_set() and shares[number]:
                    # Noted before it is asked: whoever is about to leave is nobody who stays.
                    met.gone.add(id := shares[number].pop())
                    gone = line.ask("DELETE", f"{people}/{id}", token=self._token)
                    body = {"userName": f"new{number}-{count}-{time.monotonic_ns()}"}
                    came = line.ask("POST", people, token=self._token, body=body)
                    if (gone.status, came.status) != (204, 201):
                        problems.append(f"{gone.status} {came.status}: {came.text[:200]}")
                        break
                    met.come.append(str(came.json["id"]))
                    count += 1
                    if count == 1:
                        busy.wait(60)
            except Exception as error:
                problems.append(repr(error))
                busy.abort()
            finally:
                line.close()

        threads = [threading.Thread(target=write, args=(number,)) for number in range(_WRITERS)]
        for thread in threads:
            thread.start()
        try:
            busy.wait(60)
            yield
        finally:
            ending.set()
            for thread in threads:
                thread.join()
        assert not problems, problems


def by_cursor(count: int, **query: str) -> Callable[[Crowd], Iterator[list[str]]]:
    """From `cursor=` until there is no next one (RFC 9865)."""

    def walk(crowd: Crowd) -> Iterator[list[str]]:
        cursor: object = ""
        while cursor is not None:
            page = crowd.page(cursor=str(cursor), count=count, **query)
            yield _ids(page)
            cursor = page.get("nextCursor")

    return walk


def by_index(count: int, **query: str) -> Callable[[Crowd], Iterator[list[str]]]:
    """From the first place until a page is empty."""

    def walk(crowd: Crowd) -> Iterator[list[str]]:
        start = 1
        while ids := _ids(crowd.page(startIndex=start, count=count, **query)):
            yield ids
            start += len(ids)

    return walk


def _ids(page: Mapping[str, object]) -> list[str]:
    resources = page["Resources"]
    assert isinstance(resources, list)
    return [one["id"] for one in resources]
