"""The life of people and groups at one target, step by step, and what its receiver must show after each.

Owns the story and the comparison; who receives, and what goes wrong on the way, is the tests'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.receivers import Remote
from tests.scim.test_push import ENTERPRISE, Tenant, drain

PEOPLE = ("alice", "bob", "carol", "dave", "erin", "frank")
_ROUNDS = 40

Seen = tuple[bool, str, str | None, str, str | None]
"""Active, displayName, title, e-mail, department: what every receiver keeps of a person."""


def described(name: str, title: str = "Engineer", department: str = "Sales", **values: Any) -> dict[str, Any]:
    return {
        "name": {"givenName": name.title(), "familyName": "Ahorn", "formatted": f"{name.title()} Ahorn"},
        "displayName": f"{name.title()} Ahorn",
        "title": title,
        "emails": [{"value": f"{name}@acme.example"}],
        ENTERPRISE: {"department": department},
        **values,
    }


def told(name: str, active: bool = True, title: str = "Engineer", department: str = "Sales") -> Seen:
    return (active, f"{name.title()} Ahorn", title, f"{name}@acme.example", department)


def people_at(remote: Remote) -> dict[str, Seen]:
    """Everybody there; nobody is there twice."""
    return {
        name: (
            user["active"],
            user["displayName"],
            user.get("title"),
            user["emails"][0]["value"],
            user.get(ENTERPRISE, {}).get("department"),
        )
        for name, user in remote.users().items()
    }


def groups_at(remote: Remote) -> dict[str, set[str]]:
    """Who is in which group there. Some servers keep the ids of accounts they deleted: those give nobody anything."""
    users = remote.users()
    # canaille shows a member by his name.
    names = {user["id"]: name for name, user in users.items()} | {name: name for name in users}
    listed = remote.all("Groups")
    groups = {
        group["displayName"]: {names[one["value"]] for one in group.get("members") or [] if one["value"] in names}
        for group in listed
    }
    assert len(groups) == len(listed), "the receiver has a group twice"
    return groups


def settle(acme: Tenant) -> None:
    """Runs, as far apart as they want to be, until nothing is owed."""
    for _ in range(_ROUNDS):
        drain()
        owed = acme.deliveries()
        if not owed:
            return
        acme.wait_over()
    raise AssertionError([(one.resource_id, one.status, one.problem) for one in owed])


@dataclass
class Life:
    """`deprovision`: what the target does to those who leave, `disable` or `delete`."""

    acme: Tenant
    deprovision: str

    def steps(self) -> Iterator[Callable[[], None]]:
        """Each changes the directory, and what must be seen when that has arrived."""
        yield self.they_come
        yield self.they_change
        yield self.one_is_disabled
        yield self.one_comes_back_and_one_leaves_the_scope
        yield self.one_is_deleted_and_a_group_leaves_the_scope

    def they_come(self) -> None:
        self.ids = {name: self.acme.user(name, **described(name)) for name in PEOPLE}
        self.staff = self.acme.group("Staff", list(self.ids.values()))
        self.acme.assign(self.staff)
        self.wiki = self.acme.group("Wiki", [self.ids["alice"], self.ids["bob"]])
        self.wiki_assignment = self.acme.assign(self.wiki)
        self.people: dict[str, Seen] = {name: told(name) for name in PEOPLE}
        self.groups: dict[str, set[str]] = {"Staff": set(PEOPLE), "Wiki": {"alice", "bob"}}

    def they_change(self) -> None:
        self.acme.change(self.ids["alice"], **described("alice", "Director", "Board"))
        self.acme.members(self.wiki, add=[self.ids["carol"]], remove=[self.ids["alice"]])
        self.acme.rename(self.staff, "Everybody")
        self.people["alice"] = told("alice", title="Director", department="Board")
        self.groups = {"Everybody": set(PEOPLE), "Wiki": {"bob", "carol"}}

    def one_is_disabled(self) -> None:
        self.acme.change(self.ids["bob"], **described("bob", active=False))
        self.people["bob"] = told("bob", active=False)

    def one_comes_back_and_one_leaves_the_scope(self) -> None:
        self.acme.change(self.ids["bob"], **described("bob", active=True))
        self.people["bob"] = told("bob")
        self.acme.members(self.staff, remove=[self.ids["erin"]])
        self.groups["Everybody"] -= {"erin"}
        self.leaves("erin")

    def one_is_deleted_and_a_group_leaves_the_scope(self) -> None:
        self.acme.remove(self.ids["frank"])
        self.groups["Everybody"] -= {"frank"}
        self.leaves("frank")
        self.acme.unassign(self.wiki_assignment)
        self.groups["Wiki"] = set()
        if self.deprovision == "delete":
            del self.groups["Wiki"]

    def leaves(self, name: str) -> None:
        if self.deprovision == "delete":
            del self.people[name]
        else:
            self.people[name] = told(name, active=False)

    def compare(self, remote: Remote) -> None:
        assert people_at(remote) == self.people
        assert groups_at(remote) == self.groups


def target_of(acme: Tenant, remote: Remote, deprovision: str, values: Mapping[str, Any] | None = None) -> str:
    auth = {"method": "bearer", "token": remote.token}
    return acme.target(remote, scope="assigned", deprovision=deprovision, auth=auth, **(values or {}))
