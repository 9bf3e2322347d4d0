"""The upstream that people of these tests sign in at, and the stage they do it on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
from flask import Flask

from tests.broker.sign_in.stage import Stage
from tests.casting import Cast


@pytest.fixture(scope="session")
def issuer() -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import oidc_provider_mock

        with oidc_provider_mock.run_server_in_thread() as server:
            yield f"http://localhost:{server.server_port}"


@pytest.fixture
def acme(web: Flask, cast: Cast, issuer: str) -> Stage:
    return Stage(web, cast.acme, issuer)


@pytest.fixture
def globex(web: Flask, cast: Cast, issuer: str) -> Stage:
    return Stage(web, cast.globex, issuer)
