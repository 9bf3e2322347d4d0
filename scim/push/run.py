"""The work of pushing: takes what is due, sends it over a few connections at once, settles what came back.

Owns the loop, its threads and the clients it speaks through. One thread does all the claiming and settling, in
sets; the others only talk to targets. However it ends, nothing is lost: what was claimed falls due again.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast
from urllib.parse import urlsplit

import psycopg.errors
import sqlalchemy as sa
from flask import Flask, current_app

from broker import running
from broker.config import Config
from broker.context import Scope, acting, system
from broker.db import unit
from broker.vault import VaultError
from connectors.egress import Egress
from connectors.http import HttpClient
from scim.client import TargetClient

from . import credential, outbox, plan, reach
from .delivery import Channel, carry_out
from .pace import paced
from .together import batches, carry_out_together
from .work import LEASE, Outcome, Target, Work, read_target

CONNECTIONS = 8
_WINDOW = 4 * CONNECTIONS
"""Works claimed at a time: enough to keep the connections busy, few enough to lose little to a kill."""
_BULK_WINDOW = 2_000
"""Works claimed at a time where many go in one request."""
_TARGETS = 16
_ATTEMPTS = 5
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


class _Run:
    def __init__(self, deadline: float, limit: int | None, stopping: Callable[[], bool]) -> None:
        self.app = cast(Any, current_app)._get_current_object()
        self.deadline = deadline
        self.limit = limit
        self.stopping = stopping
        self.tally = Tally()
        self.channels: dict[tuple[str, str, str, str], Channel] = {}
        self.flying: dict[Future[list[Outcome]], list[Work]] = {}
        self.renewed = time.monotonic()

    def run(self) -> Tally:
        with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="push") as pool:
            try:
                while True:
                    took = False
                    if self._may_take() and len(self.flying) <= _WINDOW // 2:
                        took = self._take(pool, _WINDOW - len(self.flying))
                    if self.flying:
                        self._land()
                    elif not took:
                        return self.tally
                    self._renew()
            finally:
                self._stop()

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

    def _take(self, pool: ThreadPoolExecutor, room: int) -> bool:
        """Claim up to so many works, a share for each target; whether there was anything to do."""
        before = self.tally.worked + self._in_flight()
        targets = outbox.due_targets(_TARGETS)
        for scope, target_id in targets:
            share = max(1, room // len(targets))
            with self._keeping_apart(scope, target_id):
                for channel, works in self._claim(scope, target_id, share):
                    self.flying[pool.submit(_fly, self.app, works, channel)] = works
        return self.tally.worked + self._in_flight() > before

    def _in_flight(self) -> int:
        return sum(map(len, self.flying.values()))

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
            to_send, already = plan.prepare(target, [work for work in works if work.task == "push"])
            if already:
                outbox.settle(target, [Outcome(work, "done") for work in already], answered=False)
        self.tally.outcomes["unchanged"] += len(already)
        for work in works:
            if work.task == "expand":
                self._expand(work)
        return [(channel, batch) for batch in batches(to_send, channel, CONNECTIONS)]

    def _probe(self, target: Target, channel: Channel) -> list[tuple[Channel, list[Work]]]:
        """Before anything is claimed: what it can do says in which form it is sent."""
        if channel.probing:
            return []
        channel.probing = True
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
        """Settle everything that came back, in one transaction per target."""
        done, _ = wait(self.flying, timeout=LEASE / 6, return_when=FIRST_COMPLETED)
        landed: dict[str, list[Outcome]] = defaultdict(list)
        for future in done:
            works = self.flying.pop(future)
            if works[0].task == "probe":
                continue
            outcomes = future.result()
            if len(outcomes) < len(works):
                self.tally.outcomes["lost"] += len(works) - len(outcomes)
            landed[works[0].target.id] += outcomes
        for target_id, outcomes in landed.items():
            if not outcomes:
                continue
            with self._keeping_apart(outcomes[0].work.target.scope, target_id):
                self._settle(outcomes)

    @contextmanager
    def _keeping_apart(self, scope: Scope, target_id: str) -> Iterator[None]:
        """A defect met with one target shall not keep the others from being served."""
        try:
            yield
        except Exception:
            log.exception("target %s cannot be served", target_id, extra={"tenant": scope.tenant_id})
            with unit(scope):
                outbox.postpone(scope, target_id, _OURS, _OURS_WAIT)

    def _settle(self, outcomes: Sequence[Outcome]) -> None:
        target = outcomes[0].work.target
        try:
            _attempt(target.scope, partial(outbox.settle, target, outcomes))
        except sa.exc.IntegrityError:
            # One remote id for two of ours: find out which, and keep the others' results.
            if len(outcomes) > 1:
                for outcome in outcomes:
                    self._settle([outcome])
                return
            problem = f"The target gave the id {outcomes[0].remote_id}, which stands for another resource already."
            taken = Outcome(outcomes[0].work, "failed", problem=problem)
            _attempt(target.scope, partial(outbox.settle, target, [taken]))
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
        for works in self.flying.values():
            by_target[works[0].target.id] += works
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


def _fly(app: Flask, works: list[Work], channel: Channel) -> list[Outcome]:
    first = works[0]
    with app.app_context(), acting(system("push")):
        try:
            if len(works) > 1:
                return carry_out_together(works, channel)
            outcome = carry_out(first, channel)
            return [] if outcome is None else [outcome]
        except Exception:
            log.exception("push of %s to %s", first.resource_id, first.target.id, extra={"tenant": first.target.tenant})
            return [Outcome(work, "later", problem=_OURS) for work in works]


def _attempt(scope: Scope, action: Any) -> None:
    """Again when two transactions waited for each other: the other one is done by then."""
    for attempt in range(_ATTEMPTS):
        try:
            with unit(scope):
                action()
            return
        except sa.exc.OperationalError as error:
            if attempt == _ATTEMPTS - 1 or not isinstance(error.orig, psycopg.errors.DeadlockDetected):
                raise


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
