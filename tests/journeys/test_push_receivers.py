"""The whole life of people and groups, pushed into SCIM servers that other people wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.journeys.pushed import PEOPLE, Life, described, groups_at, people_at, settle, target_of, told
from tests.receivers import Remote, canaille, scim2_server, scimmy
from tests.scim.test_push import Tenant, acme, drain, pushing

pytestmark = pytest.mark.long

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


@pytest.mark.timeout(180)
def test_one_that_neither_searches_nor_counts_has_everybody_once_too(acme: Tenant, logs: Path) -> None:
    """canaille. It shows members by their names, renames no group, and fails when a member is taken out of one."""
    with canaille(logs / "canaille.log") as remote:
        target_of(acme, remote, "delete")
        ids = {name: acme.user(name, **described(name)) for name in PEOPLE}
        assignments = {name: acme.assign(id) for name, id in ids.items()}
        staff = acme.group("Staff", [ids["alice"], ids["bob"]])
        acme.assign(staff)
        settle(acme)
        there = {name: told(name) for name in PEOPLE}
        assert (people_at(remote), groups_at(remote)) == (there, {"Staff": {"alice", "bob"}})
        acme.change(ids["alice"], **described("alice", "Director", "Board"))
        acme.change(ids["bob"], **described("bob", active=False))
        acme.members(staff, add=[ids["carol"]])
        settle(acme)
        there |= {"alice": told("alice", title="Director", department="Board"), "bob": told("bob", active=False)}
        assert (people_at(remote), groups_at(remote)) == (there, {"Staff": {"alice", "bob", "carol"}})
        acme.change(ids["bob"], **described("bob", active=True))
        acme.unassign(assignments["erin"])
        acme.remove(ids["frank"])
        settle(acme)
        there["bob"] = told("bob")
        del there["erin"], there["frank"]
        assert (people_at(remote), groups_at(remote)) == (there, {"Staff": {"alice", "bob", "carol"}})
        assert drain().worked == 0
