"""When an upstream is due: intervals and cron, spread, never made up for, and what is no schedule."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from broker import schedule

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "earliest", "latest"),
    [
        ("15m", timedelta(minutes=15), timedelta(minutes=16.5)),
        ("1d", timedelta(days=1), timedelta(days=1, minutes=5)),
        ("*/15 * * * *", timedelta(minutes=15), timedelta(minutes=16.5)),
        ("30 2 * * *", timedelta(hours=14, minutes=30), timedelta(hours=14, minutes=35)),
    ],
)
def test_the_next_time_is_on_time_or_a_little_later(text: str, earliest: timedelta, latest: timedelta) -> None:
    every = schedule.parse({"enabled": True, "schedule": text})
    found = [every.after(NOON) - NOON for _ in range(300)]
    assert earliest <= min(found) and max(found) <= latest
    assert max(found) - min(found) > (latest - earliest) / 2  # what was set alike does not run alike


def test_what_was_missed_is_not_made_up_for() -> None:
    every = schedule.parse({"enabled": True, "schedule": "*/5 * * * *"})
    assert every.after(NOON + timedelta(days=3)) > NOON + timedelta(days=3)


def test_a_provider_that_says_nothing_is_not_read_by_itself() -> None:
    assert schedule.parse({}) == schedule.Schedule(False, timedelta(hours=1), None, timedelta(days=1))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"schedule": "30s"}, "interval"),
        ({"schedule": "0m"}, "interval"),
        ({"schedule": "400d"}, "366d"),
        ({"schedule": "* * * * * *"}, "cron"),
        ({"schedule": "0 0 30 2 *"}, "cron"),
        ({"schedule": "61 * * * *"}, "cron"),
        ({"schedule": "@daily"}, "cron"),
        ({"schedule": None}, "cron"),
        ({"schedule": 15}, "cron"),
        ({"enabled": "yes"}, "enabled"),
        ({"full_every": "5m"}, "full_every"),
        ({"full_every": "0 0 * * *"}, "full_every"),
        ({"every": "5m"}, "every"),
    ],
)
def test_what_is_no_schedule_is_refused_in_words(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        schedule.parse(values)


def test_an_upstream_that_is_away_is_asked_more_and_more_rarely() -> None:
    waits = [schedule.retry_after(failures, None).total_seconds() for failures in (1, 2, 5, 50)]
    for wait, base in zip(waits, (30, 60, 480, 3600), strict=True):
        assert base <= wait <= 1.1 * base
    assert schedule.retry_after(1, 700) == timedelta(seconds=700)
    assert schedule.retry_after(1, 1e9) == timedelta(days=1)
