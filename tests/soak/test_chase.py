"""Random kills and restarts while 20,000 people are followed in a directory that changes all the time.

The size and the seed are arguments of the environment, for whoever looks for the cause of a failure:
`SOAK_PEOPLE`, `SOAK_SEED`, `SOAK_HANDS`.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chase import Chase
from tests.installation import Installation
from tests.upstreams.slapd import openldap

PEOPLE = int(os.environ.get("SOAK_PEOPLE", "20000"))
SEED = int(os.environ.get("SOAK_SEED", "20261130"))
HANDS = int(os.environ.get("SOAK_HANDS", "3"))

HAND = (
    "worker",
    "pull lane",
    *("work-horse",) * 2,
    *("pull lane and work-horse",) * 2,
    "clock",
    "postgres, immediate restart",
    "postgres, a backend",
    "valkey, emptied",
)


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path)
    yield made
    made.end()


def dealt(chance: random.Random) -> list[list[str]]:
    """Hands of everything, each shuffled: what gives a process type up never sees it die in a row."""
    return [chance.sample(HAND, len(HAND)) for _ in range(HANDS)]


@pytest.mark.soak
def test_random_kills_while_a_live_directory_is_followed_lose_nobody_and_double_nothing(
    installation: Installation,
) -> None:
    with openldap(PEOPLE) as directory:
        chase = Chase(installation, directory, PEOPLE, SEED, pause=0.15)
        chase.prepare()
        chase.under_fire(dealt(random.Random(SEED)), pause=(0.2, 5.0))
        chase.settle()
        chase.verify()
        chase.stop()
    chase.tell()
