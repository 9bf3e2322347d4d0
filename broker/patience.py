"""How long, and how many of a process's threads at once, wait for somebody else's network while a request is open.

A process answers everybody with a few threads: were they all to wait for one silent upstream, nobody of any tenant
would be answered. Owns the turns, of which a tenant has a few at a time, and the memory of who did not answer. A step
has its turn from its first outbound request to its end; what asks otherwise than by HTTP has it by `asking`. Background
jobs, with processes of their own, need none.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from connectors.http import BadResponse, ConnectFailed, HttpClient, Response, Timeout
from connectors.port import Unreachable

PATIENCE = 5.0
"""Seconds one step may take at an upstream, with all that is asked there."""
TURNS = 8
"""How many steps of a process ask at once."""
OF_A_TENANT = 3
"""How many of them for one tenant."""
QUEUED = 2
"""How many more may wait for a turn. Of a process's threads (`Procfile`) two are left for everybody else."""
QUEUE = 1.0
"""So many seconds at most a step waits for its turn, and only behind steps that have not taken longer themselves."""
TEST = 30.0
"""Seconds in which it is found out why an upstream does not work."""
TESTS = 2
"""How many of the steps of a process do that at once, each for another tenant."""
REMEMBERED = 15.0
"""So many seconds who did not answer is not asked again."""

_MOST_REMEMBERED = 10_000
_MOST_SHARED = 16


class NoTurn(ConnectFailed):
    """Nobody was asked: too many wait already."""


@dataclass(frozen=True, slots=True)
class Place:
    """Whom a step asks: a tenant's upstream as it is configured now, or a client's key set."""

    tenant_id: str
    name: str
    version: int = 0


class _Turns:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: list[tuple[str, float]] = []
        """Tenant and beginning of each step that has a turn, oldest first."""
        self._queued = 0
        self._tests: set[str] = set()
        self._silent: OrderedDict[Place, float] = OrderedDict()
        self._shared: OrderedDict[tuple[Place, str], tuple[float, Response]] = OrderedDict()

    def take(self, tenant_id: str) -> float | None:
        """When the tenant's turn began, after a short wait perhaps; None when it has none."""
        with self._changed:
            if not self._is_free(tenant_id) and not self._waited_for(tenant_id):
                return None
            began = time.monotonic()
            self._running.append((tenant_id, began))
            return began

    def _waited_for(self, tenant_id: str) -> bool:
        if self._queued >= QUEUED:
            return False
        self._queued += 1
        try:
            until = time.monotonic() + QUEUE
            while not self._is_free(tenant_id):
                own = [began for tenant, began in self._running if tenant == tenant_id]
                full = len(own) >= OF_A_TENANT
                oldest = own[0] if full else self._running[0][1]
                left = min(until, oldest + QUEUE) - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
            return True
        finally:
            self._queued -= 1

    def take_test(self, tenant_id: str) -> float | None:
        with self._changed:
            if tenant_id in self._tests or len(self._tests) >= TESTS:
                return None
            self._tests.add(tenant_id)
        began = self.take(tenant_id)
        if began is None:
            self._tests.discard(tenant_id)
        return began

    def end_test(self, tenant_id: str, began: float) -> None:
        self._tests.discard(tenant_id)
        self.give_back(tenant_id, began)

    def give_back(self, tenant_id: str, began: float) -> None:
        with self._changed:
            self._running.remove((tenant_id, began))
            self._changed.notify_all()

    def is_silent(self, place: Place) -> bool:
        with self._changed:
            until = self._silent.get(place, 0.0)
            if until <= time.monotonic():
                self._silent.pop(place, None)
                return False
            return True

    def remember(self, place: Place) -> None:
        with self._changed:
            self._silent[place] = time.monotonic() + REMEMBERED
            self._silent.move_to_end(place)
            if len(self._silent) > _MOST_REMEMBERED:
                self._silent.popitem(last=False)

    def forget(self, place: Place) -> None:
        with self._changed:
            self._silent.pop(place, None)

    def share(self, place: Place, url: str, answer: Response) -> None:
        with self._changed:
            self._shared[place, url] = time.monotonic(), answer
            self._shared.move_to_end((place, url))
            if len(self._shared) > _MOST_SHARED:
                self._shared.popitem(last=False)

    def shared_since(self, moment: float, place: Place, url: str) -> Response | None:
        with self._changed:
            at, answer = self._shared.get((place, url), (0.0, None))
            return answer if at > moment else None

    def _is_free(self, tenant_id: str) -> bool:
        own = sum(tenant == tenant_id for tenant, _ in self._running)
        return own < OF_A_TENANT and len(self._running) < TURNS


_turns = _Turns()


@contextmanager
def asking(place: Place) -> Iterator[float]:
    """A turn to ask this place otherwise than by HTTP, until the moment that is given.

    Raises Unreachable where nobody is asked; one that was long in coming is remembered.
    """
    if _turns.is_silent(place):
        raise Unreachable("It did not answer a moment ago.")
    began = _turns.take(place.tenant_id)
    if began is None:
        raise Unreachable("Too many wait for an answer already.")
    try:
        yield began + PATIENCE
    except Unreachable:
        # One that fails at once keeps nobody waiting, and is perhaps back already.
        if time.monotonic() - began > QUEUE:
            _turns.remember(place)
        raise
    else:
        _turns.forget(place)
    finally:
        _turns.give_back(place.tenant_id, began)


@contextmanager
def testing(place: Place) -> Iterator[float]:
    """A turn to find out otherwise than by HTTP why a place does not work, until the moment that is given. Who did not
    answer a moment ago is asked, and what is found out is not remembered. Raises Unreachable where there is no turn."""
    began = _turns.take_test(place.tenant_id)
    if began is None:
        raise Unreachable("Too many wait for an answer already, or are testing.")
    try:
        yield began + TEST
    finally:
        _turns.end_test(place.tenant_id, began)


class Step(HttpClient):
    """The client of one step at one place: a context in which all requests together keep one deadline and one turn.

    A document that another step fetched while this one waited for its turn is not fetched again. `again` asks whoever
    was silent a moment ago, as a diagnosis has to.
    """

    def __init__(self, http: HttpClient, place: Place, *, again: bool = False) -> None:
        self._http, self._place, self._again = http, place, again
        self._began = time.monotonic()
        self._until = self._began + PATIENCE
        self._turn: float | None = None

    def __enter__(self) -> Step:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._turn is not None:
            _turns.give_back(self._place.tenant_id, self._turn)
            self._turn = None

    def request(
        self, method: str, url: str, *, headers: Any = None, timeout: float | None = None, **options: Any
    ) -> Response:
        if not self._again and _turns.is_silent(self._place):
            raise ConnectFailed("it did not answer a moment ago")
        if self._turn is None:
            self._turn = _turns.take(self._place.tenant_id)
            if self._turn is None:
                raise NoTurn("too many wait for an answer already")
        public = method == "GET" and "Authorization" not in (headers or {})
        if public and not self._again and (answer := _turns.shared_since(self._began, self._place, url)) is not None:
            return answer
        answer = self._asked(method, url, headers, timeout, options)
        if public:
            _turns.share(self._place, url, answer)
        return answer

    def _asked(self, method: str, url: str, headers: Any, timeout: float | None, options: dict[str, Any]) -> Response:
        began = time.monotonic()
        left = self._until - began
        if left <= 0:
            _turns.remember(self._place)
            raise Timeout("the upstream took too long")
        try:
            answer = self._http.request(method, url, headers=headers, timeout=min(timeout or left, left), **options)
        except (ConnectFailed, Timeout, BadResponse):
            _turns.remember(self._place)
            raise
        # An error at once is an answer: a server may have it for a forged code, which anybody can send.
        if answer.status >= 500 and time.monotonic() - began > PATIENCE / 2:
            _turns.remember(self._place)
        else:
            _turns.forget(self._place)
        return answer
