"""20,000 people walked by cursor and by index, again and again, while others come and go."""

from __future__ import annotations

from contextlib import closing

import pytest
from flask import Flask

from broker.config import Config
from broker.context import Scope
from tests.journeys.walk import Crowd, by_cursor, by_index
from tests.live import live

PEOPLE = 20_000
ROUNDS = 5


@pytest.mark.soak
def test_walks_of_twenty_thousand_keep_what_they_promise(
    web: Flask, settings: Config, platform: Scope, tmp_path_factory: pytest.TempPathFactory
) -> None:
    log = tmp_path_factory.mktemp("walk") / "web.log"
    with live(web, settings, platform, log) as running, closing(Crowd(running, web, PEOPLE)) as crowd:
        for number in range(ROUNDS):
            for count, order in ((50, {}), (200, {"sortBy": "userName"}), (200, {"sortBy": "displayName"})):
                there = crowd.there
                met = crowd.walked(by_cursor(count, **order))
                print(f"{number}: {met.pages} pages, {len(met.gone)} left, {len(met.come)} came, {met.seconds:.1f} s")
                assert len(met.gone) > 20 and met.missed(there) == set() and met.doubled == set()
            there = crowd.there
            met = crowd.walked(by_index(100))
            print(f"{number}: by index {len(met.missed(there))} missed, {len(met.gone)} left")
            assert met.doubled & set(there) == set() and len(met.missed(there)) <= len(met.gone)
