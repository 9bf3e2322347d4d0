"""A made-up company of any size, the same for the same seed: exported as Active Directory would, and known by heart.

Owns the oracle of journeys that compare three sides: what the export says, what we serve, what a receiver has. Its
`change` does what happens in a tenth of a year: marriages, promotions, departures, new colleagues, other teams.
"""

from __future__ import annotations

import random
import struct
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from connectors.ldif import write_entry

BASE = "DC=corp,DC=example"
EVERYBODY = "Domain Users"
_EVERYBODY_NUMBER = 513
_TEAMS, _DIVISIONS = 10_000_000, 20_000_000
"""Where the numbers of groups begin: beyond those of people, whose SIDs come from the same range."""
_TEAM = 40

_GIVEN = ("Ada", "Bashir", "Chloé", "Дмитрий", "Eun-ji", "Fatma", "Giò", "Hōnoka", "Ingrid", "José", "Kwame", "Łucja")
_FAMILY = ("Okafor", "Nguyễn", "Ødegaard", "Șerban", "Иванова", "田中", "Müller", "O'Brien", "de Souza", "Smith, Jr.")
_TITLES = ("Engineer", "Accountant", "Ingénieur", "Buyer", "Lawyer", "設計者", "Nurse")
_DEPARTMENTS = ("Research", "Sales", "Ventes", "Legal", "Finance", "Операции")


@dataclass(eq=False)
class Person:
    """Somebody, whatever the name."""

    number: int
    given: str
    family: str
    title: str
    department: str
    photo: int
    login: str = ""
    manager: Person | None = None
    enabled: bool = True

    @property
    def user_name(self) -> str:
        return f"{self.login}@corp.example"

    @property
    def display_name(self) -> str:
        return f"{self.given} {self.family} ({self.number})"

    @property
    def dn(self) -> str:
        return f"CN={_escaped(self.display_name)},OU=People,{BASE}"

    def seen(self) -> dict[str, Any]:
        """What SCIM should say of the person; the manager by name."""
        return {
            "displayName": self.display_name,
            "givenName": self.given,
            "familyName": self.family,
            "title": self.title,
            "department": self.department,
            "mail": self.user_name,
            "manager": self.manager.user_name if self.manager else None,
            "active": self.enabled,
        }


@dataclass(eq=False)
class Team:
    number: int
    name: str
    people: list[Person] = field(default_factory=list)
    teams: list[Team] = field(default_factory=list)

    @property
    def dn(self) -> str:
        return f"CN={_escaped(self.name)},OU=Groups,{BASE}"


class Population:
    """People with managers, teams of them, divisions of teams, and two divisions that contain each other."""

    def __init__(self, size: int, seed: int, *, photo_bytes: int) -> None:
        self._chance = random.Random(seed)
        self._photo_bytes = photo_bytes
        self._next = 1000
        self.people: list[Person] = []
        for _ in range(size):
            self._hire()
        for person in self.people:
            person.enabled = self._chance.random() > 0.02
        self.teams = [Team(_TEAMS + number, f"Team {number:03d}") for number in range(1, max(4, size // _TEAM) + 1)]
        for team in self.teams:
            team.people = self._chance.sample(self.people, min(size, self._chance.randint(_TEAM // 2, 2 * _TEAM)))
        self.divisions = [Team(_DIVISIONS + number, f"Division {number}") for number in range(4)]
        for number, division in enumerate(self.divisions):
            division.teams = self.teams[number::4]
            division.people = self._chance.sample(self.people, 5)
        self.divisions[0].teams = [*self.divisions[0].teams, self.divisions[1]]
        self.divisions[1].teams = [*self.divisions[1].teams, self.divisions[0]]
        self.empty = Team(_DIVISIONS + 90, "Nobody, yet")
        self.everybody = Team(_EVERYBODY_NUMBER, EVERYBODY)

    def groups(self) -> list[Team]:
        return [*self.teams, *self.divisions, self.empty, self.everybody]

    def people_seen(self) -> dict[str, dict[str, Any]]:
        """By user name."""
        return {person.user_name: person.seen() for person in self.people}

    def groups_seen(self) -> dict[str, set[str]]:
        """By name, the names of the direct members, those by primary group included."""
        seen = {
            team.name: {person.user_name for person in team.people} | {inner.name for inner in team.teams}
            for team in self.groups()
        }
        return {**seen, EVERYBODY: {person.user_name for person in self.people}}

    def change(self, share: float) -> dict[str, int]:
        """What happens to so much of the company; returns how often each thing did."""
        chance, count = self._chance, int(len(self.people) * share)
        touched = chance.sample(self.people, count)
        deeds = {"renamed": 30, "promoted": 25, "disabled": 12, "left": 12, "moved": 21}
        done = dict.fromkeys(deeds, 0)
        for person in touched:
            [deed] = chance.choices(list(deeds), list(deeds.values()))
            done[deed] += 1
            getattr(self, f"_{deed}")(person)
        done["enabled"] = 0
        for person in [one for one in self.people if not one.enabled and one not in touched][: count // 20]:
            person.enabled = True
            done["enabled"] += 1
        done["joined"] = count // 10
        for _ in range(done["joined"]):
            self._chance.choice(self.teams).people.append(self._hire())
        return done

    def write(self, path: Path) -> Path:
        """The export: units first, then everybody and everything in no order."""
        entries = [self._person(person) for person in self.people] + [self._group(team) for team in self.groups()]
        random.Random(len(entries)).shuffle(entries)
        units = [_unit(1, "People"), _unit(2, "Groups")]
        with path.open("wb") as file:
            for dn, attributes in units + entries:
                file.write(write_entry(dn, attributes))
        return path

    def _hire(self) -> Person:
        chance, self._next = self._chance, self._next + 1
        person = Person(
            self._next,
            chance.choice(_GIVEN),
            chance.choice(_FAMILY),
            chance.choice(_TITLES),
            chance.choice(_DEPARTMENTS),
            photo=chance.getrandbits(32),
            login=f"p{self._next}",
        )
        person.manager = chance.choice(self.people) if self.people and chance.random() < 0.8 else None
        self.people.append(person)
        return person

    def _renamed(self, person: Person) -> None:
        """Marriage: the entry's own name changes; for every second person the name to sign in with too."""
        person.family = self._chance.choice([name for name in _FAMILY if name != person.family])
        if self._chance.random() < 0.5:
            person.login += "b"

    def _promoted(self, person: Person) -> None:
        person.title = f"Senior {person.title}"
        person.department = self._chance.choice(_DEPARTMENTS)
        person.photo += 1

    def _disabled(self, person: Person) -> None:
        person.enabled = False

    def _left(self, person: Person) -> None:
        """Who leaves a directory leaves every place that names him."""
        self.people.remove(person)
        for team in self.groups():
            team.people = [one for one in team.people if one is not person]
        for one in self.people:
            if one.manager is person:
                one.manager = None

    def _moved(self, person: Person) -> None:
        for team in self.teams:
            if person in team.people:
                team.people.remove(person)
                break
        others = [team for team in self.teams if person not in team.people]
        self._chance.choice(others).people.append(person)

    def _person(self, person: Person) -> _Entry:
        attributes: _Attributes = {
            "objectClass": ["top", "person", "organizationalPerson", "user"],
            "cn": [person.display_name],
            "sn": [person.family],
            "givenName": [person.given],
            "displayName": [person.display_name],
            "objectGUID": [_guid(1, person.number)],
            "objectSid": [_sid(person.number)],
            "primaryGroupID": [str(_EVERYBODY_NUMBER)],
            "userAccountControl": ["512" if person.enabled else "514"],
            "sAMAccountName": [person.login],
            "userPrincipalName": [person.user_name],
            "mail": [person.user_name],
            "title": [person.title],
            "department": [person.department],
            "distinguishedName": [person.dn],
            "thumbnailPhoto": [b"\xff\xd8" + random.Random(person.photo).randbytes(self._photo_bytes)],
        }
        if person.manager:
            attributes["manager"] = [person.manager.dn]
        return person.dn, attributes

    def _group(self, team: Team) -> _Entry:
        attributes: _Attributes = {
            "objectClass": ["top", "group"],
            "cn": [team.name],
            "objectGUID": [_guid(2, team.number)],
            "objectSid": [_sid(team.number)],
            "sAMAccountName": [team.name],
            "distinguishedName": [team.dn],
        }
        if team.teams or team.people:
            attributes["member"] = [*(inner.dn for inner in team.teams), *(person.dn for person in team.people)]
        return team.dn, attributes


_Attributes = dict[str, list[str | bytes]]
_Entry = tuple[str, _Attributes]


def _unit(number: int, name: str) -> _Entry:
    dn = f"OU={name},{BASE}"
    return dn, {"objectClass": ["top", "organizationalUnit"], "ou": [name], "objectGUID": [_guid(3, number)]}


def _guid(series: int, number: int) -> bytes:
    return uuid.UUID(int=(0xC0DE << 100) + (series << 64) + number).bytes_le


def _sid(number: int) -> bytes:
    return struct.pack("<BB6s5I", 1, 5, b"\0\0\0\0\0\5", 21, 1004, 2005, 3006, number)


def _escaped(name: str) -> str:
    return name.replace(",", "\\,")
