"""Other people's judges of a SCIM server: scim2-server's storage contract and scim2-tester."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import scim2_models as scim
from flask import Flask
from scim2_client.engines.wsgi import WSGISCIMClient
from scim2_server.testing import ScimStorageContract
from scim2_tester import Status, check_server

from broker.context import acting, system
from scim.schemas import PROVIDER
from scim.storage import DirectoryStorage
from tests.conftest import World
from tests.scim.conftest import token_of


class TestStorageContract(ScimStorageContract):
    @pytest.fixture
    def provider(self) -> scim.ScimProvider:
        return PROVIDER

    @pytest.fixture
    def storage(self, world: World) -> Iterator[DirectoryStorage]:
        with acting(system("tests")):
            yield DirectoryStorage(world.acme, "https://scaikey.example/scim/v2/acme")


def test_scim2_tester_finds_no_error(web: Flask, world: World) -> None:
    client = WSGISCIMClient(
        web.wsgi_app,
        f"http://localhost:8080/scim/v2/{world.acme.slug}",
        headers={"Authorization": f"Bearer {token_of(world.acme)}"},
    )
    client.discover()
    results: list[Any] = check_server(client)
    found = {status: [f"{r.title}: {r.reason}" for r in results if r.status is status] for status in Status}
    assert found[Status.SUCCESS]
    assert not found[Status.ERROR] and not found[Status.CRITICAL], found
