"""The work of pushing: takes what is due, sends it over a few connections at once, settles what came back.

Owns the loop, its threads and the clients it speaks through. One thread does all the claiming and settling, in
sets; the others only talk to targets. However it ends, nothing is lost: what was claimed falls due again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from queue import Empty, SimpleQueue
from typing import Any, cast
from urllib.parse import urlsplit

import sqlalchemy as sa
from flask import Flask, current_app

from broker import running
from broker.config import Config
from broker.context import Scope, acting, system
from broker.db import in_one_transaction, is_for_neighbours, unit
from broker.vault import VaultError
from connectors.egress import Egress
from connectors.http import HttpClient
from scim.client import TargetClient

from . import credential, outbox, plan, reach
from .delivery import Channel, carry_out
from .order import Order, sorted_out
from .pace import paced
from .together import batches, carry_out_together
from .work import LEASE, Outcome, Target, Work, read_target

CONNECTIONS = 16
_AHEAD = 8
"""Works claimed for each connection: enough to keep it busy while others are claimed, few enough to lose little to a
kill."""
_BULK_WINDOW = 2_000
"""Works claimed at a time where many go in one request."""
_GATHERING = 0.1
"""Seconds in which what comes back is settled together."""
_TARGETS = 16
_GIVING_WAY = 5
_STANDARD_PORTS = {"postgresql+psycopg": 5432, "redis": 6379, "rediss": 6379, "http": 80, "https": 443}
_CLIENTS = "scaikey.push.clients"
_OURS, _OURS_WAIT = "An error of ours; the log says which.", 60.0

log = logging.getLogger("scaikey.push")


@dataclass
class Tally:
    """What one run did: works by what became of them, and expansions made."""

    outcomes: Counter[str] = field(default_factory=Counter)
    expansions: int = 0

    @property
    def worked(self) -> int:
        return self.outcomes.total() + self.expansions


def drain(limit_seconds: float = 30.0, limit: int | None = None, stopping: Callable[[], bool] = lambda: False) -> Tally:
    """Send what is due until nothing is, the time is up, `limit` works are done, or `stopping` says so.

    What must wait (a retry, a postponed target) is left for a later run. Needs an app context and no open unit.
    """
    with acting(system("push")):
        return _Run(time.monotonic() + limit_seconds, limit, stopping).run()


@dataclass(eq=False, slots=True)
class _Flight:
    """Works on their way over one connection, and what came back."""

    works: list[Work]
    channel: Channel
    outcomes: list[Outcome] = field(default_factory=list)
    end: BaseException | None = None


class _Run:
    def __init__(self, deadline: float, limit: int | None, stopping: Callable[[], bool]) -> None:
        self.app = cast(Any, current_app)._get_current_object()
        self.deadline = deadline
        self.limit = limit
        self.stopping = stopping
        self.tally = Tally()
        self.channels: dict[tuple[str, str, str, str], Channel] = {}
        self.flying: set[_Flight] = set()
        self.order = Order()
        self.ripe: list[tuple[Channel, list[Work]]] = []
        """Works that waited for others, and over which channel those went."""
        self.waiting: SimpleQueue[_Flight | None] = SimpleQueue()
        self.landed: SimpleQueue[_Flight] = SimpleQueue()
        self.threads: list[threading.Thread] = []
        self.window = 2 * CONNECTIONS
        """Grows with every claim: a run that begins leaves something to another beside it."""
        self.empty_until = 0.0
        self.moved = False
        """Whether anything was found in the last look: taken, held, or to be taken once more."""
        self.gave_way = 0  # claims in a row
        self.renewed = time.monotonic()

    def run(self) -> Tally:
        try:
            while True:
                if self.ripe and len(self.flying) <= self.window // 2:
                    self._follow()
                took = self._has_room() and self._may_take() and self._take(self.window - len(self.flying))
                if self.flying:
                    self._land()
                elif not took and not self.ripe:
                    return self.tally
                self._renew()
        finally:
            self._stop()
            for _ in self.threads:
                self.waiting.put(None)
            for thread in self.threads:
                thread.join()

    def _has_room(self) -> bool:
        """Not looked for again at once where there was nothing: what flies is settled first."""
        if not self.flying:
            return True
        room = len(self.flying) <= self.window // 2 and self._in_flight() <= max(_BULK_WINDOW // 2, self.window)
        return room and time.monotonic() >= self.empty_until

    def _send(self, flight: _Flight) -> None:
        self.flying.add(flight)
        self.waiting.put(flight)
        if len(self.threads) < min(CONNECTIONS, len(self.flying)):
            thread = threading.Thread(target=self._fly, name=f"push-{len(self.threads)}")
            self.threads.append(thread)
            thread.start()

    def _fly(self) -> None:
        with self.app.app_context(), acting(system("push")):
            while (flight := self.waiting.get()) is not None:
                try:
                    flight.outcomes = _carried_out(flight)
                except BaseException as end:
                    flight.end = end  # of the whole run, and raised there
                self.landed.put(flight)

    def _may_take(self) -> bool:
        if self.stopping():
            self._stop()
            return False
        left = self.limit is None or self.tally.worked + self._in_flight() < self.limit
        return left and time.monotonic() < self.deadline

    def _stop(self) -> None:
        """What has not begun yet is given back."""
        for channel in self.channels.values():
            channel.stopped = True

    def _take(self, room: int) -> bool:
        """Claim up to so many works, a share for each target; whether there was anything to do."""
        self.moved = False
        targets = outbox.due_targets(_TARGETS)
        for scope, target_id in targets:
            share = max(1, room // len(targets))
            with self._keeping_apart(scope, target_id), self._giving_way():
                for channel, works in self._claim(scope, target_id, share):
                    self._send(_Flight(works, channel))
                self.gave_way = 0
        self.empty_until = 0.0 if self.moved else time.monotonic() + _GATHERING
        self.window = min(2 * self.window, _AHEAD * CONNECTIONS)
        return self.moved

    def _in_flight(self) -> int:
        return sum(1 for _ in self._in_hand())

    def _in_hand(self) -> Iterator[Work]:
        """Everything that is claimed: on its way, waiting for others, and about to follow them."""
        ripe = [works for _, works in self.ripe]
        return chain(self.order.works(), *ripe, *(flight.works for flight in self.flying))

    def _people_in_hand(self, target: Target) -> set[str]:
        ours = (work for work in self._in_hand() if work.target.id == target.id)
        return {work.resource_id for work in ours if work.resource_type == "User"}

    def _claim(self, scope: Scope, target_id: str, share: int) -> list[tuple[Channel, list[Work]]]:
        """Claimed and decided in one transaction; expansions are carried out on the spot."""
        with unit(scope):
            try:
                target = read_target(scope, target_id)
            except VaultError as error:
                outbox.postpone(scope, target_id, f"Its credential cannot be opened: {error}", 60.0)
                return []
            if target is None:
                return []
            channel = self._channel(target)
            if target.stale and not channel.probed:
                return self._probe(target, channel)
            if channel.takes_bulk and target.profile.bulk_operations:
                share = min(share * target.profile.bulk_operations, _BULK_WINDOW)
            works = outbox.claim(target, 1 if target.quarantined else share)
            self.moved = self.moved or bool(works)
            waiting: dict[str, list[Work]] = {}
            expansions = [work for work in works if work.task == "expand"]
            if expansions and len(works) > 1:
                # What is claimed beside an expansion would be owed once more by the page that finds it missing there.
                back = [Outcome(work, "back") for work in works if work.task != "expand"]
                outbox.settle(target, back, answered=False)
                works = expansions
            elif not target.quarantined:
                works, waiting = sorted_out(target, works, self._people_in_hand(target))
            to_send = self._prepare(target, [work for work in works if work.task == "push"])
        self.order.hold_back(waiting)
        self._release(channel, works, to_send)
        for work in expansions:
            self._expand(work)
        return [(channel, batch) for batch in batches(to_send, channel, CONNECTIONS)]

    def _prepare(self, target: Target, works: list[Work]) -> list[Work]:
        """Decided in the open unit of work; what is left to send."""
        to_send, already = plan.prepare(target, works)
        if already:
            outbox.settle(target, [Outcome(work, "done") for work in already], answered=False)
        self.tally.outcomes["unchanged"] += len(already)
        return to_send

    def _release(self, channel: Channel, works: Sequence[Work], flying: Sequence[Work] = ()) -> None:
        """Who waited for one of these works waits no longer, unless it is only now on its way."""
        still = {id(work) for work in flying}
        if followers := self.order.released(work for work in works if id(work) not in still):
            self.ripe.append((channel, followers))

    def _follow(self) -> None:
        """Decide and send the works that waited for others, as far as the target still stands as they were claimed for;
        the rest is given back, and so is what an administrator approved: he may have taken that back meanwhile."""
        by_channel: dict[int, tuple[Channel, list[Work]]] = {}
        for channel, works in self.ripe:
            by_channel.setdefault(id(channel), (channel, []))[1].extend(works)
        self.ripe.clear()
        over = self.stopping() or time.monotonic() >= self.deadline
        for channel, works in by_channel.values():
            scope, target_id = works[0].target.scope, works[0].target.id
            sent: list[Work] = []
            with self._keeping_apart(scope, target_id):
                going: list[Work] = []
                to_send: list[Work] = []
                if not over and not channel.stopped:
                    with unit(scope):
                        target = read_target(scope, target_id)
                        if target is not None and self._channel(target) is channel:
                            going = [work for work in works if work.target == target and not work.approved]
                            to_send = self._prepare(target, going)
                sent = to_send  # now that it is committed
                taken = {work.key for work in going}
                if back := [Outcome(work, "back") for work in works if work.key not in taken]:
                    self._settle(back)
            # After a defect as well: who waited for these waits for nobody any more.
            self._release(channel, works, sent)
            for batch in batches(sent, channel, CONNECTIONS):
                self._send(_Flight(batch, channel))

    def _probe(self, target: Target, channel: Channel) -> list[tuple[Channel, list[Work]]]:
        """Before anything is claimed: what it can do says in which form it is sent."""
        if channel.probing:
            return []
        channel.probing = self.moved = True
        return [(channel, [Work(target, reach.WHOLE, target.id, "probe", 0, 0, 0, None, False, deed="probe")])]

    def _expand(self, work: Work) -> None:
        """Page by page, each with its cursor in one transaction; the rest is anybody's who claims it next."""
        target, cursor = work.target, work.cursor
        while True:
            with unit(target.scope):
                if not outbox.still_current(work):
                    outbox.settle(target, [Outcome(work, "back")])
                    return
                cursor = reach.expand(target.tenant, target, cursor)
                if cursor is None:
                    outbox.settle(target, [Outcome(work, "done")], answered=False)
                    self.tally.expansions += 1
                    return
                outbox.advance(work, cursor)
                if time.monotonic() > self.deadline:
                    outbox.settle(target, [Outcome(work, "back")])
                    return

    def _land(self) -> None:
        """Settle what came back within a moment, in one transaction per target."""
        landed: dict[str, list[Outcome]] = defaultdict(list)
        flights = self._gathered()
        for flight in flights:
            if flight.works[0].task == "probe":
                continue
            self.tally.outcomes["lost"] += len(flight.works) - len(flight.outcomes)
            landed[flight.works[0].target.id] += flight.outcomes
        for target_id, outcomes in landed.items():
            if not outcomes:
                continue
            with self._keeping_apart(outcomes[0].work.target.scope, target_id):
                self._settle(outcomes)
        for flight in flights:
            self._release(flight.channel, flight.works)

    def _gathered(self) -> list[_Flight]:
        """Waits for the first that lands, and for others unless there is room to claim more, or nothing to wait for."""
        gathered: list[_Flight] = []
        until = time.monotonic() + LEASE / 6
        while self.flying:
            try:
                flight = self.landed.get(timeout=max(until - time.monotonic(), 0))
            except Empty:
                break
            self.flying.remove(flight)
            if flight.end is not None:
                raise flight.end
            gathered.append(flight)
            if len(gathered) == 1:
                until = time.monotonic() + _GATHERING
            if self._has_room() and self.landed.empty():
                break
        return gathered

    @contextmanager
    def _keeping_apart(self, scope: Scope, target_id: str) -> Iterator[None]:
        """A defect met with one target shall not keep the others from being served."""
        try:
            yield
        except Exception:
            log.exception("target %s cannot be served", target_id, extra={"tenant": scope.tenant_id})
            with unit(scope):
                outbox.postpone(scope, target_id, _OURS, _OURS_WAIT)

    @contextmanager
    def _giving_way(self) -> Iterator[None]:
        """A claim that the database aborted for another's sake is made again; what it wanted is still owed."""
        try:
            yield
        except sa.exc.DBAPIError as error:
            if not is_for_neighbours(error) or self.gave_way == _GIVING_WAY:
                raise
            self.gave_way, self.moved = self.gave_way + 1, True

    def _settle(self, outcomes: Sequence[Outcome]) -> None:
        target = outcomes[0].work.target
        try:
            undecided = self.order.behind(outcome.work for outcome in outcomes)
            in_one_transaction(
                partial(unit, target.scope), partial(outbox.settle, target, outcomes, undecided=undecided)
            )
        except sa.exc.IntegrityError:
            # One remote id for two of ours: find out which, and keep the others' results.
            if len(outcomes) > 1:
                for outcome in outcomes:
                    self._settle([outcome])
                return
            problem = f"The target gave the id {outcomes[0].remote_id}, which stands for another resource already."
            taken = Outcome(outcomes[0].work, "failed", problem=problem)
            in_one_transaction(partial(unit, target.scope), partial(outbox.settle, target, [taken]))
            outcomes = [taken]
        for outcome in outcomes:
            self.tally.outcomes[outcome.kind] += 1
            if outcome.problem is not None:
                log.warning(
                    "push of %s to %s: %s",
                    outcome.work.resource_id,
                    target.id,
                    outcome.problem,
                    extra={"tenant": target.tenant},
                )

    def _renew(self) -> None:
        if time.monotonic() - self.renewed < LEASE / 3:
            return
        self.renewed = time.monotonic()
        by_target: dict[str, list[Work]] = defaultdict(list)
        for work in self._in_hand():
            by_target[work.target.id].append(work)
        for works in by_target.values():
            asked = time.monotonic()
            with unit(works[0].target.scope):
                ours = outbox.renew(works)
            for work in works:
                work.good_until = asked + LEASE if work.key in ours else 0.0

    def _channel(self, target: Target) -> Channel:
        key = (target.id, target.base_url, f"{target.auth} {target.requests_per_second}", target.secret)
        known = self.channels.get(key)
        if known is None or known.stopped:
            known = self.channels[key] = Channel(client_of(self.app, target))
        known.client.profile = target.profile
        return known


def _carried_out(flight: _Flight) -> list[Outcome]:
    works, channel = flight.works, flight.channel
    first = works[0]
    try:
        if len(works) > 1:
            return carry_out_together(works, channel)
        outcome = carry_out(first, channel)
        return [] if outcome is None else [outcome]
    except Exception:
        log.exception("push of %s to %s", first.resource_id, first.target.id, extra={"tenant": first.target.tenant})
        return [Outcome(work, "later", problem=_OURS) for work in works]


def client_of(app: Flask, target: Target) -> TargetClient:
    """Whoever speaks to the target, at its pace and with its credential."""
    http = paced(http_client(app, target.tenant), target)
    shown = credential.of(http, target.auth, target.secret)
    return TargetClient(http, target.base_url, shown, profile=target.profile)


def http_client(app: Flask, tenant_id: str) -> HttpClient:
    """The tenant's guarded client: it reaches what this tenant may reach, and its connections are nobody else's."""
    clients: dict[str, HttpClient] = app.extensions.setdefault(_CLIENTS, {})
    if tenant_id not in clients:
        clients[tenant_id] = HttpClient(egress(running.config(), tenant_id))
    return clients[tenant_id]


def egress(config: Config, tenant_id: str) -> Egress:
    """What connections made for this tenant may reach."""
    # An https address without a port is the proxy's before us; refusing 443 would close every on-premises target.
    behind_proxy = config.base_url.startswith("https://") and urlsplit(config.base_url).port is None
    urls = (
        None if behind_proxy else config.base_url,
        config.database_url,
        config.owner_database_url,
        config.platform_database_url,
        config.redis_url,
    )
    return Egress(
        loopback=config.allow_http_loopback,
        allowed=[(rule.network, rule.port) for rule in config.egress_allow if rule.tenant in ("*", tenant_id)],
        own_ports=frozenset(port for url in urls if url is not None and (port := _port(url)) is not None),
    )


def _port(url: str) -> int | None:
    """Where the server of this URL listens; None for a socket in the file system."""
    parts = urlsplit(url)
    return parts.port or _STANDARD_PORTS.get(parts.scheme)
