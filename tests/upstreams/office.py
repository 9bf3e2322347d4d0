"""Somebody at work in a live OpenLDAP the whole time, and what must come of each deed where it is followed.

Owns the deeds and the account of them. Everybody is subject of one deed at most, and which teams change before
everything has been read once and which afterwards is kept apart: of what is changed afterwards each event can be told
beforehand, of what is changed earlier the most there can be.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tests.upstreams.slapd import GROUP_OF, OpenLdap

_DEEDS = {"hire": 4, "promote": 6, "dismiss": 1, "join": 3, "quit": 2}
_LEAST_LEFT = 0.7
"""Share of a team that always stays: what would halve a group is held for somebody to decide."""


@dataclass
class Team:
    """A group, by the people it had, and who came and went."""

    name: str
    joined: int = 0
    left: int = 0


@dataclass
class Account:
    """What was done while the people of one half of the teams were those to be changed."""

    hired: set[str] = field(default_factory=set)
    promoted: set[str] = field(default_factory=set)
    dismissed: dict[str, datetime] = field(default_factory=dict)
    """Since when they may be gone."""
    teams: dict[str, Team] = field(default_factory=dict)

    def deeds(self) -> Counter[str]:
        joined = sum(team.joined for team in self.teams.values())
        left = sum(team.left for team in self.teams.values())
        return Counter(
            hired=len(self.hired),
            promoted=len(self.promoted),
            dismissed=len(self.dismissed),
            joined=joined - len(self.hired),
            left=left - len(self.dismissed),
        )


class Office:
    """Works in a thread of its own. `early` is the account until `everything_is_read`, `late` the one from then on."""

    def __init__(self, directory: OpenLdap, people: int, seed: int, pause: float) -> None:
        self.directory = directory
        self.pause = pause
        self.early, self.late = Account(), Account()
        self._chance = random.Random(seed)
        self._closing = threading.Event()
        self._read = threading.Event()
        self._trouble: BaseException | None = None
        self._numbers = {False: list[int](), True: list[int]()}
        for number in range(people):
            self._numbers[number // GROUP_OF % 2 == 1].append(number)
        for numbers in self._numbers.values():
            self._chance.shuffle(numbers)

    def everything_is_read(self) -> None:
        self._read.set()

    @property
    def is_late(self) -> bool:
        return self._read.is_set()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        thread = threading.Thread(target=self._work, name="office")
        thread.start()
        try:
            yield
        finally:
            self._closing.set()
            thread.join()
        if self._trouble is not None:
            raise self._trouble

    def _work(self) -> None:
        try:
            while not self._closing.wait(self._chance.uniform(0, 2 * self.pause)):
                late = self.is_late
                if len(self._numbers[late]) > 1:
                    self._do(self.late if late else self.early, self._numbers[late])
        except BaseException as error:
            self._trouble = error

    def _do(self, account: Account, numbers: list[int]) -> None:
        directory = self.directory
        number = numbers.pop()
        uid, dn = f"user{number:05d}", f"uid=user{number:05d},{directory.people}"
        own = _team(account, number)
        match self._chance.choices(list(_DEEDS), list(_DEEDS.values()))[0]:
            case "hire":
                name = f"newcomer{number:05d}"
                account.hired.add(name)
                self._join(own, directory.add_user(name, title="Newcomer"))
            case "dismiss" if own.left < GROUP_OF * (1 - _LEAST_LEFT):
                account.dismissed[uid] = datetime.now(UTC)
                own.left += 1
                directory.delete(dn)
            case "quit" if own.left < GROUP_OF * (1 - _LEAST_LEFT):
                own.left += 1
                directory.remove_member(f"cn={own.name},{directory.groups}", dn)
            case "join" if (other := _team(account, numbers[-1])) is not own:
                self._join(other, dn)
            case _:
                account.promoted.add(uid)
                directory.set(dn, title=f"Promoted {number}")

    def _join(self, team: Team, dn: str) -> None:
        team.joined += 1
        self.directory.add_member(f"cn={team.name},{self.directory.groups}", dn)


def _team(account: Account, number: int) -> Team:
    name = f"team{number // GROUP_OF:04d}"
    return account.teams.setdefault(name, Team(name))
