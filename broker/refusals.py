"""What was asked for and not done, in the audit log.

Owns the events of refused writes (`write.refused`) and of members, managers and parents who are nobody here and were
passed over (`reference.passed_over`): who asked, with which credential, in which request, for what, and why not. A
client that repeats itself must not fill the log: the same of one credential is told once a minute, no more than `MOST`
in a minute, and each event says how many were left out since the last. Each is written in a unit of work of its own,
because the one that was refused is rolled back. What a refusal is, and that one has come, is the door's to say.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from .context import Actor, Scope
from .db import unit
from .events import Changes, record

REFUSED, PASSED_OVER = "write.refused", "reference.passed_over"
EVERY = 60.0
"""Seconds in which the same is told once."""
MOST = 20
"""Events of one credential in that time, of one process."""
LONGEST = 300
"""Characters of a reason, which may quote what the client said."""

_REMEMBERED = 20_000

log = logging.getLogger("scaikey.refusals")


@dataclass(slots=True)
class _Minute:
    since: float
    left_out: int = 0
    told: set[tuple[str, ...]] = field(default_factory=set)


_lock = threading.Lock()
_minutes: dict[tuple[str | None, str], _Minute] = {}


def tell(
    name: str, scope: Scope, actor: Actor, resource_type: str, resource_id: str, why: str, said: Mapping[str, Any]
) -> None:
    """Remember it in the tenant's audit log, unless it was told a moment ago. `why` is short and the same for the same
    reason; `said` is shown. Never raises for a database that is away: the answer does not hang on it."""
    left_out = _counted((scope.tenant_id, actor.counted_as), (name, resource_type, resource_id, why[:LONGEST]))
    if left_out is None:
        return
    changes = Changes()
    shown = {key: _short(value) for key, value in said.items() if value is not None}
    changes.add(name, resource_type, resource_id, {**shown, **({"left_out": left_out} if left_out else {})})
    try:
        with unit(scope):
            record(changes, actor=actor)
    except SQLAlchemyError as error:
        log.warning("a refusal is not in the audit log: %s", type(error).__name__)


def _counted(whose: tuple[str | None, str], what: tuple[str, ...]) -> int | None:
    """How many were left out since the last that was told; None where this one is left out as well."""
    now = time.monotonic()
    with _lock:
        minute = _minutes.get(whose)
        if minute is None or now - minute.since >= EVERY:
            if len(_minutes) >= _REMEMBERED:
                _minutes.clear()
            minute = _minutes[whose] = _Minute(now, minute.left_out if minute is not None else 0)
        if what in minute.told or len(minute.told) >= MOST:
            minute.left_out += 1
            return None
        minute.told.add(what)
        left_out, minute.left_out = minute.left_out, 0
        return left_out


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "")[:LONGEST]
    return [_short(one) for one in value] if isinstance(value, list) else value
