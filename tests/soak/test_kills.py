"""Random kills while 20,000 people and 500 groups are read and pushed, and again while a tenth of them change.

One group has everybody, and members are added and removed by SCIM the whole time. The receiver finds in no time whom it
has: scim2-server, which the everyday test pushes to, looks through all of them for each.

The size and the seed are arguments of the environment, for whoever looks for the cause of a failure:
`SOAK_PEOPLE`, `SOAK_SEED`, `SOAK_HANDS`.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installation import Installation
from tests.ordeal import Ordeal
from tests.receivers import hoard

PEOPLE = int(os.environ.get("SOAK_PEOPLE", "20000"))
SEED = int(os.environ.get("SOAK_SEED", "20261122"))
HANDS = int(os.environ.get("SOAK_HANDS", "3"))

# `scaikey up` gives a process type up that was killed six times in a row: it is itself the last of each hand.
HAND = (*("worker",) * 2, *("work-horse",) * 2, *("worker and work-horse",) * 2)
IMPORTS = 3
BESIDES = ("clock", "valkey, emptied")


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path)
    yield made
    made.end()


def dealt(chance: random.Random, hands: int) -> list[str]:
    """So many hands, each shuffled with a few besides and ended by the whole of it; with the imports, ten kills."""
    victims = []
    for number in range(hands):
        hand = [*HAND, ("web worker", "web")[number % 2], *BESIDES]
        chance.shuffle(hand)
        victims += [*hand, "scaikey up"]
    return victims


@pytest.mark.soak
def test_random_kills_lose_nothing_and_double_nothing(installation: Installation) -> None:
    chance = random.Random(SEED)
    log = installation.folder / "receiver.log"
    with hoard(log) as receiver:
        ordeal = Ordeal(installation, receiver, log, PEOPLE, SEED, photo_bytes=9_000, clerk_pause=0.2)
        ordeal.prepare()
        ordeal.round("first", HANDS * IMPORTS, dealt(chance, HANDS), pause=(0.3, 6.0))
        changed = ordeal.population.change(0.1)
        ordeal.notes.append(("changes of the second round", ", ".join(f"{n} {deed}" for deed, n in changed.items())))
        ordeal.round("second", IMPORTS, dealt(chance, 1), pause=(0.3, 4.0))
        ordeal.stop()
    ordeal.tell()
