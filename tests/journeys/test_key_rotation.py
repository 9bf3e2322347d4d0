"""Keys are turned three times under load, and nothing of ours is refused to anybody.

The processes run with every time limit of the keys shorter by one factor, so that what takes half an hour takes
seconds; the proportions, and all that happens, are real. With the limits as they are it is the soak's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from flask import Flask

from broker.config import Config
from broker.context import Scope, acting, system
from broker.db import platform_scope
from broker.errors import Conflict
from oidc import keys
from tests.hurried import LIMITS, hurry
from tests.live import Live, live
from tests.turning import Turning, signing

pytestmark = pytest.mark.long


@pytest.fixture
def running(
    web: Flask, settings: Config, platform: Scope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Live]:
    hurry(monkeypatch.setattr)
    with live(web, settings, platform, tmp_path / "web.log", factory="tests.hurried:create") as two:
        yield two


@pytest.mark.timeout(300)
def test_three_rotations_under_load_refuse_nothing_to_any_validator(running: Live, web: Flask) -> None:
    def rotate() -> Mapping[str, str] | float:
        with web.app_context(), acting(system("test")):
            try:
                with platform_scope():
                    return signing(keys.rotate())
            except Conflict:
                return 0.05

    cached_for: timedelta = LIMITS["CACHED_FOR"]
    turning = Turning(running, rotate, cached_for.total_seconds(), LIMITS["REREAD_SECONDS"], pause=0.03)
    with turning.traffic():
        turning.turn(3)
    turning.verify()
    assert turning.still_good() >= 24
