"""The assembled app's context over a world of tenants, for what signs and reads tokens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask import Flask

from tests.casting import Cast


@pytest.fixture
def acme(web: Flask, cast: Cast) -> Iterator[Cast]:
    with web.app_context():
        yield cast
