"""How much one credential may ask of a door in a while.

Owns a bucket for each credential: it fills at a rate up to a height, both settings of the tenant the credential belongs
to, and each request takes one out. The buckets are in Valkey, for all processes together; a process takes a handful at
once and gives from that, so that most requests ask nobody. Without Valkey nobody is refused: people who have to
be provisioned or disabled matter more than evenness. What is refused, and how it looks, is the door's.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import dataclass
from typing import Any, cast

import redis
from flask import current_app

from . import bell, settings
from .access import own_scope
from .context import Actor
from .db import unit
from .errors import TooManyRequests

HANDFUL = 20
"""The part of a second for which a process takes from a bucket at once."""
HANDFUL_SECONDS = 1.0
"""So long it may keep what it took."""
SETTINGS_SECONDS = 10.0
"""So old may be what a process knows of a tenant's settings."""

_SULK_SECONDS = 5.0
_SILENT_UNTIL, _SCRIPT = "scaikey.allowance.silent_until", "scaikey.allowance.script"
_MOST = 50_000
_TAKE = """
local rate, height, wanted, owed = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local kept = redis.call('HMGET', KEYS[1], 'left', 'at')
local left = height
if kept[1] then left = math.min(height, kept[1] + math.max(0, now - kept[2]) * rate) end
local given = 0
if owed then given = wanted elseif left >= 1 then given = math.min(wanted, math.floor(left)) end
left = left - given
redis.call('HSET', KEYS[1], 'left', string.format('%.6f', left), 'at', string.format('%.6f', now))
redis.call('EXPIRE', KEYS[1], math.ceil((height - left) / rate) + 1)
return {given, math.ceil(math.max(0, (1 - left) / rate) * 1000)}
"""
"""Takes `wanted`, or as many as there are; all of them, into debt, where they are owed. With the milliseconds until
there is one again."""

log = logging.getLogger("scaikey.allowance")


@dataclass(slots=True)
class _Hand:
    """What this process took of one bucket and has not given yet, or that there was nothing."""

    left: int = 0
    until: float = 0.0
    refused_until: float = 0.0


_lock = threading.Lock()
_hands: dict[str, _Hand] = {}
_limits: dict[str, tuple[float, int, int]] = {}


def take(actor: Actor) -> None:
    """One request of this credential. Raises TooManyRequests with the seconds after which there is room again."""
    if actor.tenant_id is None:
        return  # of a client of the platform that may do nothing in any tenant
    key = _key(actor)
    with _lock:
        hand = _hands.get(key)
        if hand is None:
            if len(_hands) >= _MOST:
                _hands.clear()
            hand = _hands[key] = _Hand()
        now = time.monotonic()
        if hand.left > 0 and now < hand.until:
            hand.left -= 1
            return
        refused_until = hand.refused_until
    if now < refused_until:
        raise _refusal(refused_until - now)
    rate, height = _limits_of(actor)
    answer = _asked(key, rate, height, max(1, min(rate // HANDFUL, height // HANDFUL)), owed=False)
    if answer is None:
        return
    given, wait = answer
    with _lock:
        if given:
            hand.left, hand.until = given - 1, time.monotonic() + HANDFUL_SECONDS
            return
        hand.left, hand.refused_until = 0, time.monotonic() + wait
    raise _refusal(wait)


def give_back(actor: Actor) -> None:
    """The request counts once more: what was taken for it is there again."""
    with _lock:
        if (hand := _hands.get(_key(actor))) is not None:
            hand.left, hand.until = hand.left + 1, max(hand.until, time.monotonic() + HANDFUL_SECONDS)


def charge(actor: Actor, count: int) -> None:
    """What one request cost beyond itself. It is done already: the bucket may come into debt, and later ones wait."""
    if count <= 0 or actor.tenant_id is None:
        return
    rate, height = _limits_of(actor)
    answer = _asked(_key(actor), rate, height, count, owed=True)
    if answer is not None and answer[1]:
        with _lock:
            if (hand := _hands.get(_key(actor))) is not None:
                hand.left = 0


def _key(actor: Actor) -> str:
    return f"scaikey:allowance:{actor.tenant_id}:{actor.counted_as}"


def _limits_of(actor: Actor) -> tuple[int, int]:
    tenant_id, now = cast(str, actor.tenant_id), time.monotonic()
    until, rate, height = _limits.get(tenant_id, (0.0, 0, 0))
    if now >= until:
        scope = own_scope(actor)
        with unit(scope):
            found = settings.all_of(scope)
        rate, height = int(found["scim_requests_per_second"].value), int(found["scim_burst"].value)
        if len(_limits) >= _MOST:
            _limits.clear()
        _limits[tenant_id] = now + SETTINGS_SECONDS, rate, height
    return rate, height


def _asked(key: str, rate: int, height: int, wanted: int, *, owed: bool) -> tuple[int, float] | None:
    """How many were given, and after how many seconds there is one; None without Valkey."""
    extensions = current_app.extensions
    if extensions.get(_SILENT_UNTIL, 0.0) > time.monotonic():
        return None
    try:
        script: Any = extensions.get(_SCRIPT)
        if script is None:
            script = extensions[_SCRIPT] = bell.connection().register_script(_TAKE)
        given, milliseconds = script(keys=[key], args=[rate, height, wanted, int(owed)])
    except (redis.RedisError, OSError) as error:
        extensions[_SILENT_UNTIL] = time.monotonic() + _SULK_SECONDS
        log.warning("Valkey cannot be asked how much a credential may, so that none is refused: %s", error)
        return None
    return int(given), int(milliseconds) / 1000


def _refusal(seconds: float) -> TooManyRequests:
    return TooManyRequests(
        "This credential asks more than it may; ask again after the seconds that Retry-After names",
        retry_after=max(1, math.ceil(seconds)),
    )
