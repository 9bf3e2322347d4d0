"""One provider for each module of tests, keeping every rule again before each test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from connectors.egress import Egress
from connectors.http import HttpClient
from tests.issuer import Issuer, running


@pytest.fixture
def http() -> Iterator[HttpClient]:
    with closing(HttpClient(Egress(loopback=True), timeout=3.0)) as client:
        yield client


@pytest.fixture(scope="module")
def server() -> Iterator[Issuer]:
    with running() as issuer:
        yield issuer


@pytest.fixture
def issuer(server: Issuer) -> Issuer:
    """The running provider, keeping every rule again."""
    vars(server).update(vars(Issuer(server.port)))
    return server
