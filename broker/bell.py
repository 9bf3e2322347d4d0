"""The bell: a word to the workers that something is owed.

Owns the queues in Valkey, one for each lane of work, and the job that stands for the word. A nudge only: what is owed
is in PostgreSQL, and the clock's sweep is the guarantee. Whether Valkey is slow, empty or gone, whoever rings goes on
unharmed.
"""

from __future__ import annotations

import logging
import time

import redis
from flask import Flask, current_app

from . import events, running

PUSH, PULL = "push", "pull"
"""What lanes are named by: applications are owed something, an upstream is to be read."""
QUEUES = {PUSH: "scaikey", PULL: "scaikey:pull"}
JOB_SECONDS = {PUSH: 120, PULL: -1}
"""Seconds a job of the lane may take. A pass takes as long as it takes: its lease shows that it lives."""

_RUNG = "scaikey:rung:"
_RUNG_SECONDS = 5
"""One word is enough until a worker has heard it, or has had time to."""
_SULK_SECONDS = 5.0
_CONNECTION, _SILENT_UNTIL, _LISTENS = "scaikey.bell", "scaikey.bell.silent_until", "scaikey.bell.listens"

log = logging.getLogger("scaikey.bell")


def listen(app: Flask) -> None:
    """In this app, ring after every commit that owes deliveries."""
    app.extensions[_LISTENS] = True
    events.on_owed(_nudge)


def _nudge() -> None:
    if current_app.extensions.get(_LISTENS):
        ring()


def ring(lane: str = PUSH) -> bool:
    """Wake a worker of the lane. False when Valkey cannot be told; never raises for it."""
    extensions = current_app.extensions
    if extensions.get(_SILENT_UNTIL, 0.0) > time.monotonic():
        return False
    try:
        valkey = connection()
        if valkey.set(_RUNG + lane, b"1", nx=True, ex=_RUNG_SECONDS):
            _enqueue(valkey, lane)
    except (redis.RedisError, OSError) as error:
        extensions[_SILENT_UNTIL] = time.monotonic() + _SULK_SECONDS
        log.warning("Valkey cannot be told that something is owed: %s", error)
        return False
    return True


def heard(lane: str = PUSH) -> None:
    """A worker of the lane has begun: what is owed from now on needs another word."""
    try:
        connection().delete(_RUNG + lane)
    except (redis.RedisError, OSError):
        return  # it ends by itself


def connection() -> redis.Redis:
    """This app's connection for short words; it gives up quickly, for a request may be waiting."""
    extensions = current_app.extensions
    if _CONNECTION not in extensions:
        url = running.config().redis_url
        if url is None:
            raise redis.ConnectionError("no Valkey is configured")
        extensions[_CONNECTION] = redis.Redis.from_url(url, socket_connect_timeout=0.5, socket_timeout=1.0)
    kept: redis.Redis = extensions[_CONNECTION]
    return kept


def _enqueue(valkey: redis.Redis, lane: str) -> None:
    # Here, because a web process that never rings need not load it.
    from rq import Queue
    from rq.serializers import JSONSerializer

    queue = Queue(QUEUES[lane], connection=valkey, serializer=JSONSerializer)
    queue.enqueue_call(lane, timeout=JOB_SECONDS[lane], ttl=60, result_ttl=0, failure_ttl=3_600, description=lane)
