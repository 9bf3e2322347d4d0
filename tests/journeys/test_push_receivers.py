"""The whole life of people and groups, pushed into SCIM servers that other people wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.receivers import Remote, scim2_server, scimmy
from tests.scim.test_push import ENTERPRISE, Tenant, acme, drain, pushing

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


PEOPLE = ("alice", "bob", "carol", "dave", "erin", "frank")


def described(name: str, **values: Any) -> dict[str, Any]:
    """What all of these receivers keep of a person."""
    return {
        "name": {"givenName": name.title(), "familyName": "Ahorn", "formatted": f"{name.title()} Ahorn"},
        "displayName": f"{name.title()} Ahorn",
        "title": "Engineer",
        "emails": [{"value": f"{name}@acme.example"}],
        ENTERPRISE: {"department": "Sales"},
        **values,
    }


def seen(remote: Remote) -> dict[str, tuple[Any, ...]]:
    """Everybody there, in the terms of `told`. Nobody is there twice."""
    return {
        name: (
            user["active"],
            user["displayName"],
            user.get("title"),
            user["emails"][0]["value"],
            user[ENTERPRISE].get("department"),
        )
        for name, user in remote.users().items()
    }


def told(name: str, active: bool = True, title: str = "Engineer", department: str = "Sales") -> tuple[Any, ...]:
    return (active, f"{name.title()} Ahorn", title, f"{name}@acme.example", department)


def members(remote: Remote) -> dict[str, set[str]]:
    """Who is in which group there, by name. These servers keep the ids of accounts that they deleted."""
    names = {user["id"]: name for name, user in remote.users().items()}
    listed = remote.all("Groups")
    groups = {
        group["displayName"]: {names[one["value"]] for one in group.get("members") or [] if one["value"] in names}
        for group in listed
    }
    assert len(groups) == len(listed), "the receiver has a group twice"
    return groups


def settled(acme: Tenant) -> None:
    for _ in range(3):
        drain()
        acme.wait_over()
    assert acme.deliveries() == []


@pytest.mark.timeout(180)
@pytest.mark.parametrize("deprovision", ["disable", "delete"])
def test_a_receiver_equals_the_directory_at_every_step(
    acme: Tenant, remote: Remote, kind: str, deprovision: str
) -> None:
    auth = {"method": "bearer", "token": remote.token}
    acme.target(remote, scope="assigned", deprovision=deprovision, auth=auth)
    ids = {name: acme.user(name, **described(name)) for name in PEOPLE}
    staff = acme.group("Staff", list(ids.values()))
    assignment = acme.assign(staff)
    wiki = acme.group("Wiki", [ids["alice"], ids["bob"]])
    wiki_assignment = acme.assign(wiki)
    settled(acme)
    there = {name: told(name) for name in PEOPLE}
    groups = {"Staff": set(PEOPLE), "Wiki": {"alice", "bob"}}
    assert (seen(remote), members(remote)) == (there, groups)

    acme.change(ids["alice"], **described("alice", title="Director", **{ENTERPRISE: {"department": "Board"}}))
    acme.members(wiki, add=[ids["carol"]], remove=[ids["alice"]])
    settled(acme)
    there["alice"] = told("alice", title="Director", department="Board")
    groups["Wiki"] = {"bob", "carol"}
    assert (seen(remote), members(remote)) == (there, groups)

    acme.change(ids["bob"], **described("bob", active=False))
    settled(acme)
    there["bob"] = told("bob", active=False)
    assert (seen(remote), members(remote)) == (there, groups)

    acme.change(ids["bob"], **described("bob", active=True))
    acme.members(staff, remove=[ids["erin"]])
    settled(acme)
    there["bob"] = told("bob")
    groups["Staff"] = set(PEOPLE) - {"erin"}
    if deprovision == "disable":
        there["erin"] = told("erin", active=False)
    else:
        del there["erin"]
    assert (seen(remote), members(remote)) == (there, groups)

    acme.remove(ids["frank"])
    acme.unassign(wiki_assignment)
    settled(acme)
    groups["Staff"] -= {"frank"}
    groups["Wiki"] = set()
    if deprovision == "disable":
        there["frank"] = told("frank", active=False)
    else:
        del there["frank"], groups["Wiki"]
    assert (seen(remote), members(remote)) == (there, groups)
    assert assignment and drain().worked == 0
