"""Whatever is killed, nothing is lost, nothing happens twice, nothing is left. The full count is the soak's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installation import Installation
from tests.ordeal import Ordeal
from tests.receivers import scim2_server

pytestmark = pytest.mark.long

VICTIMS = ("work-horse", "web worker", "valkey, emptied")


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path)
    yield made
    made.end()


@pytest.mark.timeout(300)
def test_kills_during_import_and_push_lose_nothing_and_double_nothing(installation: Installation) -> None:
    log = installation.folder / "receiver.log"
    with scim2_server(log) as receiver:
        ordeal = Ordeal(installation, receiver("acme"), log, people=600, seed=3, photo_bytes=14_000)
        ordeal.prepare()
        ordeal.round("first", 1, VICTIMS, pause=(0.1, 0.5))
        ordeal.stop()
    ordeal.tell()


@pytest.mark.timeout(300)
def test_killing_scaikey_up_leaves_no_process_and_the_next_one_serves_the_same_data(
    installation: Installation,
) -> None:
    installation.start()
    platform = installation.bootstrap()
    partner = platform.post("/partners", {"name": "Northwind", "slug": "northwind"})
    assert len(installation.running()) > 10
    assert installation.process is not None
    installation.process.kill()
    installation.process.wait()
    installation.wait_for("everything has ended", lambda: not installation.running(), 10.0)
    assert installation.is_port_free()
    installation.start()
    assert platform.get(f"/partners/{partner['id']}") == partner
    assert installation.stop() == 0
    assert installation.running() == []
