"""How long, and how many of a process's threads at once, wait for somebody else's network while a request is open.

A process answers everybody with a few threads: were they all to wait for one silent upstream, nobody of any tenant
would be answered. Owns the turns, of which a tenant has one at a time, and the memory of who did not answer. A step has
its turn from its first outbound request to its end. Background jobs, with processes of their own, need none.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from connectors.http import BadResponse, ConnectFailed, HttpClient, Response, Timeout

PATIENCE = 5.0
"""Seconds one step may take at an upstream, with all that is asked there."""
TURNS = 2
"""How many steps of a process ask at once: of its threads (`Procfile`), two fewer than there are."""
QUEUE = 1.0
"""One step more may wait for its turn, while the one before it has not taken longer than this many seconds."""
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
        self._began: dict[str, float] = {}
        self._queued = False
        self._silent: OrderedDict[Place, float] = OrderedDict()
        self._shared: OrderedDict[tuple[Place, str], tuple[float, Response]] = OrderedDict()

    def take(self, tenant_id: str) -> bool:
        """Whether the tenant has its turn now, after a short wait perhaps."""
        with self._changed:
            if self._is_free(tenant_id):
                self._began[tenant_id] = time.monotonic()
                return True
            if self._queued:
                return False
            self._queued = True
            try:
                while not self._is_free(tenant_id):
                    before = self._began.get(tenant_id) or max(self._began.values())
                    left = before + QUEUE - time.monotonic()
                    if left <= 0:
                        return False
                    self._changed.wait(left)
            finally:
                self._queued = False
            self._began[tenant_id] = time.monotonic()
            return True

    def give_back(self, tenant_id: str) -> None:
        with self._changed:
            del self._began[tenant_id]
            self._changed.notify()

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
        return tenant_id not in self._began and len(self._began) < TURNS


_turns = _Turns()


class Step(HttpClient):
    """The client of one step at one place: a context in which all requests together keep one deadline and one turn.

    A document that another step fetched while this one waited for its turn is not fetched again. `again` asks whoever
    was silent a moment ago, as a diagnosis has to.
    """

    def __init__(self, http: HttpClient, place: Place, *, again: bool = False) -> None:
        self._http, self._place, self._again = http, place, again
        self._began = time.monotonic()
        self._until = self._began + PATIENCE
        self._has_turn = False

    def __enter__(self) -> Step:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._has_turn:
            self._has_turn = False
            _turns.give_back(self._place.tenant_id)

    def request(
        self, method: str, url: str, *, headers: Any = None, timeout: float | None = None, **options: Any
    ) -> Response:
        if not self._again and _turns.is_silent(self._place):
            raise ConnectFailed("it did not answer a moment ago")
        if not self._has_turn:
            if not _turns.take(self._place.tenant_id):
                raise NoTurn("too many wait for an answer already")
            self._has_turn = True
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
