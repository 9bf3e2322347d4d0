"""Other people's judges of a SCIM server: scim2-server's storage contract and scim2-tester."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import orjson
import pytest
import scim2_models as scim
from flask import Flask
from scim2_client.engines.wsgi import WSGISCIMClient
from scim2_server.testing import ScimStorageContract
from scim2_tester import Status, check_server
from werkzeug.serving import make_server

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
    assert {"User", "Group", "OrganizationalUnit", "Agent", "GroupMember"} <= {one.resource_type for one in results}
    assert not found[Status.ERROR] and not found[Status.CRITICAL], found


def test_scim_sanity_finds_no_failure(web: Flask, world: World) -> None:
    server = make_server("127.0.0.1", 0, web, threaded=True)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        ran = subprocess.run(
            [
                str(Path(sys.executable).with_name("scim-sanity")),
                "probe",
                f"http://127.0.0.1:{server.server_port}/scim/v2/{world.acme.slug}",
                "--token",
                token_of(world.acme),
                "--json-output",
                "--i-accept-side-effects",
            ],
            capture_output=True,
            timeout=120,
            check=False,
        )
    finally:
        server.shutdown()
        server.server_close()
    results = orjson.loads(ran.stdout)["results"]
    assert sum(one["status"] == "pass" for one in results) >= 31
    assert not [one for one in results if one["status"] not in ("pass", "skip", "warning")]
