"""What is due, done: several runs at once in threads of one process, until nothing is left.

Waiting for one upstream keeps nobody else waiting, and full passes never take all places, so that the short runs of
other tenants go on beside them. What a run is, and who is next, is `run`'s and `queue`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace

from flask import Flask, current_app
from sqlalchemy.exc import SQLAlchemyError

from broker import connections, removals
from broker.context import acting, system
from broker.db import unit
from broker.errors import Conflict
from broker.models import IdentityProvider
from connectors.port import Misconfigured

from . import queue
from .queue import Claim
from .run import carry_out

AT_ONCE, FULL_AT_ONCE = 4, 2
"""Runs of one process, and full passes among them."""
_LOOK_EVERY = 1.0

log = logging.getLogger("scaikey.sync")


def work(stopping: Callable[[], bool]) -> None:
    """Carry out what is due until nothing is, or until `stopping`: then each run ends after its page, and waits."""
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    running: dict[Future[None], Claim] = {}
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="sync") as pool:
        while True:
            running = {future: claim for future, claim in running.items() if not future.done()}
            claimed = None if stopping() or len(running) == AT_ONCE else _next(list(running.values()))
            if claimed is not None:
                running[pool.submit(_carry_out, app, claimed, stopping)] = claimed
            elif not running:
                return
            else:
                wait(running, timeout=_LOOK_EVERY, return_when=FIRST_COMPLETED)


def _next(under_way: Sequence[Claim]) -> Claim | None:
    try:
        return queue.claim(
            full_too=sum(claim.full for claim in under_way) < FULL_AT_ONCE,
            besides=[claim.lease.provider_id for claim in under_way],
        )
    except SQLAlchemyError as error:
        log.warning("the queue of runs could not be read: %s", type(error).__name__)
        return None


def _carry_out(app: Flask, claimed: Claim, stopping: Callable[[], bool]) -> None:
    with app.app_context(), acting(system("sync")):
        try:
            _read(claimed, stopping)
        except Conflict as conflict:
            log.warning("run %s: %s", claimed.order.run_id, conflict.detail)
        except SQLAlchemyError as error:
            log.warning("run %s is left to be taken up: %s", claimed.order.run_id, type(error).__name__)
        except Exception:
            log.exception("run %s came upon a defect of ours", claimed.order.run_id)
            with suppress(Conflict, SQLAlchemyError), unit(claimed.lease.scope):
                queue.give_up(claimed, "A defect of ours ended it; see the log of the worker.")


def _read(claimed: Claim, stopping: Callable[[], bool]) -> None:
    lease = claimed.lease
    with unit(lease.scope) as session:
        if claimed.attempt > queue.ATTEMPTS:
            queue.give_up(claimed, f"It was begun {queue.ATTEMPTS} times and got nowhere; see the log of the worker.")
            return
        row = session.get_one(IdentityProvider, (lease.scope.tenant_id, lease.provider_id))
        provider = connections.provider_of(row)
        order = replace(claimed.order, config=removals.config_digest(row))
    try:
        feed = connections.live_feed_of(provider)
        if feed is None:
            raise Misconfigured("This provider reads exported files.")
    except Misconfigured as flaw:
        with unit(lease.scope):
            queue.give_up(claimed, str(flaw))
        return
    carry_out(lease, feed, order, stopping=stopping)
