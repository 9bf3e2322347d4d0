"""One tenant's upstream says nothing while many of its people arrive: everybody else is answered as before."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from flask import Flask

from broker.config import Config
from broker.context import Scope
from tests.broker.sign_in.stage import Stage
from tests.broker.sign_in.test_patience import config, silent
from tests.casting import Cast
from tests.live import live

pytestmark = pytest.mark.long

ARRIVALS = 12


def test_a_silent_upstream_stops_nobody_of_another_tenant(
    web: Flask, cast: Cast, settings: Config, platform: Scope, tmp_path: Path
) -> None:
    acme = Stage(web, cast.acme, "")
    with silent() as server, live(web, settings, platform, tmp_path / "web.log") as two:
        provider_id = acme.provider(config=config(server))
        here = two.house.base_url
        arrival = f"{here}/t/{acme.slug}/sign-in?provider={provider_id}"
        elsewhere = f"{here}/t/{cast.globex.slug}/sign-in"
        with ThreadPoolExecutor(ARRIVALS) as threads:
            arriving = [threads.submit(httpx.get, arrival, follow_redirects=True, timeout=60) for _ in range(ARRIVALS)]
            longest, asked = 0.0, 0
            while not all(one.done() for one in arriving):
                began = time.monotonic()
                assert httpx.get(elsewhere, follow_redirects=True, timeout=60).status_code == 200
                longest, asked = max(longest, time.monotonic() - began), asked + 1
                time.sleep(0.1)
        assert [one.result().status_code for one in arriving] == [503] * ARRIVALS
        assert asked > 5 and longest < 3.0, (asked, longest)
