"""The third parties of these tests, each started once when first asked for, on loopback and a free port."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import pytest

from broker.config import Config
from broker.context import Scope
from broker.embedded import Services
from tests.parties.house import House, live
from tests.parties.issuers import CANAILLE_PEOPLE, CanailleIssuer, NodeIssuer
from tests.parties.journey import Person
from tests.parties.landing import Landing, landing
from tests.parties.party import HERE, Party, needed, node
from tests.parties.visitor import Visitor, somebody
from tests.parties.walker import Walker


class Open(Protocol):
    """A new browser; `size`, `scheme` (light, dark) and `scripts` (False: none run) may be named."""

    def __call__(self, **options: Any) -> AbstractContextManager[Visitor]: ...


class Somehow(Protocol):
    """A new browser of either kind."""

    def __call__(self) -> AbstractContextManager[Person]: ...


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the programs wrote to their standard errors, one file each."""
    return tmp_path_factory.mktemp("parties")


@pytest.fixture(scope="session")
def node_issuer(logs: Path) -> Iterator[NodeIssuer]:
    """node oidc-provider, under a path as many issuers are."""
    people = logs / "people.json"
    people.write_text("{}")
    running = node("issuer.mjs", logs / "issuer.log", {"host": "127.0.0.1", "path": "/idp", "people": str(people)})
    yield NodeIssuer(running.hello["issuer"], "/reg", people)
    running.end()


@pytest.fixture(scope="session")
def canaille_issuer(logs: Path) -> Iterator[CanailleIssuer]:
    """canaille; it knows `CANAILLE_PEOPLE`."""
    command = [needed("python"), str(HERE / "canaille_issuer.py"), json.dumps(CANAILLE_PEOPLE)]
    running = Party(command, logs / "canaille.log")
    yield CanailleIssuer(running.hello["issuer"], "/oauth/register")
    running.end()


@pytest.fixture(scope="session")
def openid_client(logs: Path) -> Iterator[Party]:
    running = node("openid_client.mjs", logs / "openid_client.log")
    yield running
    running.end()


@pytest.fixture(scope="session")
def chromium(logs: Path) -> Iterator[Party]:
    running = node("browser.mjs", logs / "browser.log", {"executable": needed("chromium")})
    yield running
    running.end()


@pytest.fixture(scope="session")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures of this run."""
    return tmp_path_factory.mktemp("album")


@pytest.fixture(scope="session")
def browser(chromium: Party, album: Path) -> Open:
    return lambda **options: somebody(chromium, album, **options)


@pytest.fixture
def walking() -> Somehow:
    return lambda: nullcontext(Walker())


@pytest.fixture
def somehow(request: pytest.FixtureRequest) -> Somehow:
    """Chromium where the test's parameter says `browser`, else on foot."""
    found: Somehow = request.getfixturevalue(getattr(request, "param", "walking"))
    return found


@pytest.fixture(scope="session")
def applications() -> Iterator[Landing]:
    """Where every application of these tests lives. Another site than `localhost`, where ScaiKey is."""
    needed("node")
    with landing() as place:
        yield place


@pytest.fixture(scope="session")
def house(services: Services, settings: Config, platform: Scope) -> Iterator[House]:
    """ScaiKey at `http://localhost:…`."""
    with live(services, str(settings.data_dir), platform) as running:
        yield running


@pytest.fixture(scope="session")
def authlib_application(logs: Path) -> Iterator[Party]:
    """An application with Authlib's client; it lives at its `hello["base_url"]`."""
    running = Party([needed("python"), str(HERE / "authlib_application.py")], logs / "authlib.log")
    yield running
    running.end()
