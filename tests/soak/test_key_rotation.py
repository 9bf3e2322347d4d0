"""Keys turned under load, all limits as they are: a key set is kept for ten minutes, a next key waits for twelve.

`SOAK_ROTATIONS` says how often. From the second on, each key that begins to sign was made while key sets without it
were still being handed out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from flask import Flask

from broker.config import Config
from broker.context import Scope, acting, system
from broker.db import platform_scope
from broker.errors import Conflict
from oidc import keys
from tests.live import Live, live
from tests.turning import Turning, signing

ROTATIONS = int(os.environ.get("SOAK_ROTATIONS", "2"))


@pytest.fixture
def running(web: Flask, settings: Config, platform: Scope, tmp_path: Path) -> Iterator[Live]:
    with live(web, settings, platform, tmp_path / "web.log") as two:
        yield two


@pytest.mark.soak
def test_rotations_refuse_nothing_to_a_validator_with_a_cache_of_ten_minutes(running: Live, web: Flask) -> None:
    def rotate() -> Mapping[str, str] | float:
        with web.app_context(), acting(system("soak")):
            try:
                with platform_scope():
                    return signing(keys.rotate())
            except Conflict:
                return 1.0

    turning = Turning(running, rotate, keys.CACHED_FOR.total_seconds(), keys.REREAD_SECONDS, pause=0.5)
    with turning.traffic():
        turning.turn(ROTATIONS)
    turning.verify()
    assert turning.still_good() >= 6 * ROTATIONS
