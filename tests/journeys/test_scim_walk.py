"""5,000 people walked over HTTP while others come and go: what each way of paging promises, and keeps.

By cursor whoever stays is met exactly once. By index, in the order of creation, whoever was there before is met once at
most, and each who leaves may hide one other: no more is promised, and no less.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from flask import Flask

from broker.config import Config
from broker.context import Scope
from tests.journeys.walk import Crowd, by_cursor, by_index
from tests.live import Live, live

PEOPLE = 5_000
pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def running(web: Flask, settings: Config, platform: Scope, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(web, settings, platform, tmp_path_factory.mktemp("walk") / "web.log") as both:
        yield both


@pytest.fixture(scope="module")
def crowd(running: Live, web: Flask) -> Iterator[Crowd]:
    with closing(Crowd(running, web, PEOPLE)) as crowd:
        yield crowd


@pytest.mark.parametrize("order", [{}, {"sortBy": "displayName", "sortOrder": "descending"}], ids=["", "sorted"])
def test_a_walk_by_cursor_meets_everybody_who_stays_exactly_once(crowd: Crowd, order: dict[str, str]) -> None:
    there = crowd.there
    met = crowd.walked(by_cursor(100, **order))
    print(f"\n{met.pages} pages in {met.seconds:.1f} s, {len(met.gone)} left, {len(met.come)} came")
    assert met.pages > 20 and len(met.gone) >= 5 and len(met.come) >= 5
    assert met.missed(there) == set() and met.doubled == set()


def test_a_walk_by_index_meets_nobody_twice_and_misses_no_more_than_left(crowd: Crowd) -> None:
    there = crowd.there
    met = crowd.walked(by_index(100))
    missed = met.missed(there)
    print(
        f"\n{met.pages} pages in {met.seconds:.1f} s, {len(met.gone)} left, {len(met.come)} came, {len(missed)} missed"
    )
    assert met.pages > 20 and len(met.gone) >= 5
    assert met.doubled & set(there) == set()
    assert len(missed) <= len(met.gone)


def test_a_walk_by_index_is_exact_when_nobody_leaves(crowd: Crowd) -> None:
    met = [id for page in by_index(1_000)(crowd) for id in page]
    assert sorted(met) == crowd.there and len(met) == len(set(met))
    assert crowd.page(count=0)["totalResults"] == len(crowd.there)
