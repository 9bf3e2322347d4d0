"""When an upstream is read by itself: intervals or cron, in UTC, spread so that what was set alike does not run alike.

Owns the form of a provider's `sync` and the arithmetic of moments. Who is due is asked of the database, by
`broker.sync.queue`; nothing here looks at a clock.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from croniter import croniter

DEFAULT: Mapping[str, Any] = {"enabled": False, "schedule": "1h", "full_every": "1d"}

SHORTEST, LONGEST = timedelta(minutes=1), timedelta(days=366)
SHORTEST_FULL = timedelta(minutes=10)
SPREAD = 0.1
"""A moment is put off by a random share of its interval, up to this much and up to `MOST_SPREAD`."""
MOST_SPREAD = timedelta(minutes=5)
FIRST_RETRY, LAST_RETRY = timedelta(seconds=30), timedelta(hours=1)

_INTERVAL = re.compile(r"([1-9][0-9]{0,5})([mhd])").fullmatch
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_FIELDS = 5
_LONGEST_CRON = 100


@dataclass(frozen=True, slots=True)
class Schedule:
    """`cron` is None where `every` says it. Equal schedules of two providers are due at different seconds."""

    enabled: bool
    every: timedelta
    cron: str | None
    full_every: timedelta

    def after(self, moment: datetime) -> datetime:
        """The next time it is due. Of what was missed in between nothing is made up for."""
        if self.cron is None:
            return moment + _spread(self.every)
        following = croniter(self.cron, moment).get_next(datetime)
        gap = croniter(self.cron, following).get_next(datetime) - following
        return following + _spread(gap) - gap  # type: ignore[no-any-return]

    def full_after(self, moment: datetime) -> datetime:
        """When the next run has to be a full pass."""
        return moment + _spread(self.full_every)


def parse(values: Mapping[str, Any]) -> Schedule:
    """The schedule that a provider's `sync` describes. Raises ValueError with a sentence for the administrator."""
    unknown = sorted(set(values) - set(DEFAULT))
    if unknown:
        raise ValueError(f"{unknown[0]}: there is no such setting; there are {', '.join(DEFAULT)}")
    whole = {**DEFAULT, **values}
    if not isinstance(whole["enabled"], bool):
        raise ValueError("enabled must be true or false")
    text = whole["schedule"]
    full = _interval(whole["full_every"])
    if full is None or not SHORTEST_FULL <= full <= LONGEST:
        raise ValueError("full_every must be an interval from 10m to 366d, such as 1d")
    every = _interval(text)
    if every is not None:
        if not SHORTEST <= every <= LONGEST:
            raise ValueError("schedule must be from 1m to 366d")
        return Schedule(whole["enabled"], every, None, full)
    if not isinstance(text, str) or len(text) > _LONGEST_CRON or len(text.split()) != _FIELDS or not _is_cron(text):
        raise ValueError(
            "schedule must be an interval such as 15m, 1h or 1d, or a cron line such as 30 2 * * 1-5 (UTC)"
        )
    return Schedule(whole["enabled"], SHORTEST, text, full)


def retry_after(failures: int, named: float | None) -> timedelta:
    """How long to wait after so many failures in a row; `named`: seconds the upstream asked for, kept up to a day."""
    wait = min(FIRST_RETRY * 2 ** min(max(failures - 1, 0), 10), LAST_RETRY)
    return max(_spread(wait), timedelta(seconds=min(named or 0.0, 86_400.0)))


def _interval(text: Any) -> timedelta | None:
    found = _INTERVAL(text) if isinstance(text, str) else None
    return int(found[1]) * _UNITS[found[2]] if found else None


def _is_cron(text: str) -> bool:
    """Whether it is a cron line that comes true some day."""
    try:
        return bool(croniter.is_valid(text)) and bool(croniter(text).get_next(float) > 0)
    except (ValueError, KeyError):
        return False


def _spread(interval: timedelta) -> timedelta:
    return interval + min(interval * SPREAD, MOST_SPREAD) * (secrets.randbelow(10_000) / 10_000)
