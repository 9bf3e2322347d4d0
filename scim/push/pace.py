"""The pace of a target: how many requests a second it may be sent by all workers together.

Owns the waiting before a request. The bucket is one moment in the target's row, when the requests made so far are paid
for; whoever asks moves it on, and waits until it is his turn.
"""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa

from broker.db import unit
from connectors.http import HttpClient, Response

from .work import Target

_TURN = sa.text("""
    UPDATE scim_targets SET paced_until =
        GREATEST(coalesce(paced_until, now()), now() - interval '1 second') + make_interval(secs => :each)
    WHERE tenant_id = :tenant AND id = :target
    RETURNING extract(epoch FROM paced_until - clock_timestamp())
""")


class Paced(HttpClient):
    """The tenant's client, one turn of the target before each request."""

    def __init__(self, http: HttpClient, target: Target, rate: float) -> None:
        self._inner = http
        self._target = target
        self._each = 1.0 / rate

    def request(self, *args: Any, **options: Any) -> Response:
        with unit(self._target.scope) as session:
            place = {"tenant": self._target.tenant, "target": self._target.id, "each": self._each}
            wait = session.execute(_TURN, place).scalar()
        if wait is not None and wait > self._each:
            time.sleep(float(wait) - self._each)
        return self._inner.request(*args, **options)


def paced(http: HttpClient, target: Target) -> HttpClient:
    """The client as this target may be spoken to."""
    return http if target.requests_per_second is None else Paced(http, target, target.requests_per_second)
