"""Whatever is killed while a live directory is followed, we end up as it is, and nothing is told twice.

The full count is the soak's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chase import Chase
from tests.installation import Installation
from tests.upstreams.slapd import openldap

pytestmark = pytest.mark.long

VICTIMS = ("valkey, emptied", "clock", "postgres, immediate restart", "pull lane and work-horse")


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path)
    yield made
    made.end()


@pytest.mark.timeout(300)
def test_kills_while_a_live_directory_is_followed_lose_nobody_and_double_nothing(installation: Installation) -> None:
    with openldap(600) as directory:
        chase = Chase(installation, directory, people=600, seed=5, pause=0.1, page_size=25)
        chase.prepare()
        chase.under_fire([VICTIMS, ()], pause=(0.0, 0.5))
        chase.settle()
        chase.verify()
        chase.stop()
    chase.tell()
