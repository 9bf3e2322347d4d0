"""The whole life of people and groups, pushed into SCIM servers that other people wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.journeys.pushed import Life, settle, target_of
from tests.receivers import Remote, scim2_server, scimmy
from tests.scim.test_push import Tenant, acme, drain, pushing

__all__ = ["acme", "pushing"]

Make = Callable[[str], Remote]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("receivers")


@pytest.fixture(scope="module")
def scim2_receivers(logs: Path) -> Iterator[Make]:
    with scim2_server(logs / "scim2-server.log") as make:
        yield make


@pytest.fixture(scope="module")
def scimmy_receivers(logs: Path) -> Iterator[Make]:
    with scimmy(logs / "scimmy.log") as make:
        yield make


@pytest.fixture(params=["scim2", "scimmy"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def remote(request: pytest.FixtureRequest, kind: str, acme: Tenant) -> Remote:
    make: Make = request.getfixturevalue(f"{kind}_receivers")
    return make(str(acme.scope.tenant_id).replace("_", "-"))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("deprovision", ["disable", "delete"])
def test_a_receiver_equals_the_directory_at_every_step(acme: Tenant, remote: Remote, deprovision: str) -> None:
    target_of(acme, remote, deprovision)
    life = Life(acme, deprovision)
    for step in life.steps():
        step()
        settle(acme)
        life.compare(remote)
    assert drain().worked == 0
