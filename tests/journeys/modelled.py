"""An Active Directory in memory beside the live one: each random deed is done in both, and they tell what is expected.

Owns the deeds and what Active Directory makes of them: who is deleted leaves groups and is nobody's manager, who is
renamed or moved is the same, a renamed unit renames all below it. Who lies outside of what is read is not seen, and
manages nobody: that the directory calls a manager otherwise who comes back, only a full pass can tell.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from ldap3.utils.dn import escape_rdn

from connectors.dn import fold
from tests.upstreams.samba import ActiveDirectory

NAMES = ("Zoë", "O'Neill, Jr.", "a+b=c", "李", "Ann; <x>", "#hash", "Ünal \\ Öz", "plain")
EXPIRED, VALID = timedelta(days=-1), timedelta(days=400)


@dataclass(eq=False)
class Unit:
    key: str
    name: str
    parent: Unit | None

    def dn(self, root: str) -> str:
        return f"OU={escape_rdn(self.name)},{self.parent.dn(root) if self.parent else root}"


@dataclass(eq=False)
class Entry:
    """A person or a group."""

    key: str
    account: str
    name: str
    unit: Unit
    outside: bool = False
    disabled: bool = False
    expired: bool = False
    title: str | None = None
    manager: Entry | None = None
    members: set[Entry] = field(default_factory=set)


class Expected(NamedTuple):
    """By keys, as names are compared: person → (account, name, active, title, manager), group → (name, members), unit →
    name."""

    people: dict[str, tuple[str, str, bool, str | None, str | None]]
    groups: dict[str, tuple[str, frozenset[str]]]
    units: dict[str, str]


class Model:
    """`deed` does something at random and says what it was. Everything happens below a unit of its own."""

    def __init__(self, directory: ActiveDirectory, seed: str) -> None:
        self.ad = directory
        self.random = random.Random(seed)
        self.root = directory.add_ou("Model")
        self.people: list[Entry] = []
        self.groups: list[Entry] = []
        self.units: list[Unit] = []
        self.left: list[str] = []
        """Accounts of people who were deleted, whose names are free."""
        self.count = 0
        for _ in range(3):
            self.unit()
        for _ in range(12):
            self.person()
        for _ in range(4):
            self.group()

    def deed(self) -> str:
        deeds: Sequence[tuple[Callable[[], str], int]] = (
            (self.person, 5),
            (self.person_again, 3),
            (self.group, 2),
            (self.unit, 1),
            (self.rename, 6),
            (self.exchange_names, 1),
            (self.move, 5),
            (self.move_out_or_in, 3),
            (self.rename_unit, 2),
            (self.switch, 4),
            (self.expire, 3),
            (self.entitle, 5),
            (self.report, 4),
            (self.join, 9),
            (self.quit, 6),
            (self.delete, 4),
            (self.delete_group, 1),
        )
        (chosen,) = self.random.choices([deed for deed, _ in deeds], [weight for _, weight in deeds])
        return chosen()

    def expected(self) -> Expected:
        inside = {one.key for one in (*self.people, *self.groups) if not one.outside}
        return Expected(
            {
                one.key: (
                    one.account,
                    fold(self.dn(one)),
                    not one.disabled and not one.expired,
                    one.title,
                    one.manager.key if one.manager else None,
                )
                for one in self.people
                if not one.outside
            },
            {
                group.key: (fold(self.dn(group)), frozenset(member.key for member in group.members) & inside)
                for group in self.groups
            },
            {unit.key: fold(unit.dn(self.root)) for unit in self.units},
        )

    def dn(self, entry: Entry) -> str:
        where = f"CN=Users,{self.ad.base_dn}" if entry.outside else entry.unit.dn(self.root)
        return f"CN={escape_rdn(entry.name)},{where}"

    def person(self, account: str | None = None, name: str | None = None) -> str:
        account = account or f"m{self._next()}"
        unit = self.random.choice(self.units)
        name = name or self._named()
        dn = self.ad.add_user(account, unit.dn(self.root))
        dn = self.ad.rename(dn, name)
        self.people.append(Entry(self.ad.guid(dn), account, name, unit))
        return f"{account} is new at {dn}"

    def person_again(self) -> str:
        """Under the account's name, and perhaps the very name, of somebody who was deleted."""
        if not self.left:
            return self.delete()
        account = self.left.pop()
        return f"{self.person(account)}, again"

    def group(self) -> str:
        name = self._named()
        unit = self.random.choice(self.units)
        members = self.random.sample(self.people, min(3, len(self.people)))
        account = f"g{self._next()}"
        dn = self.ad.add_group(account, [self.dn(member) for member in members], unit.dn(self.root))
        dn = self.ad.rename(dn, name)
        self.groups.append(Entry(self.ad.guid(dn), account, name, unit, members=set(members)))
        return f"{account} is new at {dn}"

    def unit(self) -> str:
        name, parent = self._named(), self.random.choice([None, *self.units])
        dn = self.ad.add_ou(name, parent.dn(self.root) if parent else self.root)
        self.units.append(Unit(self.ad.guid(dn), name, parent))
        return f"unit {dn}"

    def rename(self) -> str:
        entry = self.random.choice([*self.people, *self.groups])
        before, name = self.dn(entry), self._named()
        self.ad.rename(before, name)
        entry.name = name
        return f"{before} is now {name}"

    def exchange_names(self) -> str:
        one, other = self.random.sample(self.people, 2)
        if one.unit is not other.unit or one.outside or other.outside:
            return self.rename()
        between = self.ad.rename(self.dn(one), f"between {self._next()}")
        self.ad.rename(self.dn(other), one.name)
        self.ad.rename(between, other.name)
        one.name, other.name = other.name, one.name
        return f"{one.account} and {other.account} exchange names"

    def move(self) -> str:
        entry = self.random.choice([one for one in (*self.people, *self.groups) if not one.outside])
        before, entry_unit = self.dn(entry), self.random.choice(self.units)
        if entry_unit is entry.unit:
            return self.rename()
        self.ad.move(before, entry_unit.dn(self.root))
        entry.unit = entry_unit
        return f"{before} moves to {entry_unit.name}"

    def move_out_or_in(self) -> str:
        """Out of what is read, and back into it."""
        managers = {one.manager for one in self.people}
        staff = [one for one in self.people if one not in managers]
        if not staff:
            return self.move()
        entry = self.random.choice(staff)
        before = self.dn(entry)
        self.ad.move(before, entry.unit.dn(self.root) if entry.outside else f"CN=Users,{self.ad.base_dn}")
        entry.outside = not entry.outside
        return f"{before} moves {'out' if entry.outside else 'in'}"

    def rename_unit(self) -> str:
        unit = self.random.choice(self.units)
        before, name = unit.dn(self.root), self._named()
        self.ad.rename(before, name)
        unit.name = name
        return f"{before} is now {name}"

    def switch(self) -> str:
        entry = self.random.choice(self.people)
        entry.disabled = not entry.disabled
        (self.ad.disable if entry.disabled else self.ad.enable)(self.dn(entry))
        return f"{entry.account} is {'disabled' if entry.disabled else 'enabled'}"

    def expire(self) -> str:
        entry = self.random.choice(self.people)
        entry.expired = not entry.expired
        self.ad.expire(self.dn(entry), datetime.now(UTC) + (EXPIRED if entry.expired else VALID))
        return f"{entry.account} {'has expired' if entry.expired else 'is valid'}"

    def entitle(self) -> str:
        entry = self.random.choice(self.people)
        entry.title = self.random.choice([None, f"Title {self._next()}"])
        self.ad.set(self.dn(entry), title=entry.title)
        return f"{entry.account} is {entry.title}"

    def report(self) -> str:
        entry = self.random.choice(self.people)
        manager = self.random.choice([None, *(one for one in self.people if not one.outside)])
        self.ad.set(self.dn(entry), manager=self.dn(manager) if manager else None)
        entry.manager = manager
        return f"{entry.account} reports to {manager and manager.account}"

    def join(self) -> str:
        group, others = self.random.choice(self.groups), [*self.people, *self.groups]
        joining = [one for one in self.random.sample(others, min(3, len(others))) if one not in group.members]
        if joining:
            self.ad.add_member(self.dn(group), *map(self.dn, joining))
        group.members.update(joining)
        return f"{[one.account for one in joining]} join {group.account}"

    def quit(self) -> str:
        group = self.random.choice(self.groups)
        if not group.members:
            return self.join()
        leaving = self.random.choice(sorted(group.members, key=lambda one: one.account))
        self.ad.remove_member(self.dn(group), self.dn(leaving))
        group.members.remove(leaving)
        return f"{leaving.account} leaves {group.account}"

    def delete(self) -> str:
        if len(self.people) < 6:
            return self.person()
        entry = self.people.pop(self.random.randrange(len(self.people)))
        self._delete(entry)
        self.left.append(entry.account)
        return f"{entry.account} is deleted"

    def delete_group(self) -> str:
        if len(self.groups) < 3:
            return self.group()
        group = self.groups.pop(self.random.randrange(len(self.groups)))
        self._delete(group)
        return f"{group.account} is deleted"

    def _delete(self, entry: Entry) -> None:
        self.ad.delete(self.dn(entry))
        for group in self.groups:
            group.members.discard(entry)
        for one in self.people:
            if one.manager is entry:
                one.manager = None

    def _named(self) -> str:
        return f"{self.random.choice(NAMES)} {self._next()}"

    def _next(self) -> int:
        self.count += 1
        return self.count
