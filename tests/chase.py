"""A live directory followed under fire: it changes all the time, and whoever follows it is killed.

Owns the story that the everyday test and the soak share: set-up through the admin API, a run under way at every moment,
the strikes, and what must hold afterwards. The processes are those of `scaikey up`.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

import psutil
from rich.console import Console
from rich.table import Table

from connectors.ldif import write_entry
from demo.asking import Door, Json, Unexpected
from tests.canonical_ldif import canonical
from tests.installation import Installation, kill
from tests.upstreams.directory import Attributes, paged
from tests.upstreams.office import Account, Office
from tests.upstreams.slapd import OpenLdap

UNDER_WAY = ("first pass", "full pass", "delta", "nothing")
_READ = "(|(objectClass=inetOrgPerson)(objectClass=groupOfNames)(objectClass=organizationalUnit))"
_ATTRIBUTES = ("*", "entryUUID", "createTimestamp", "modifyTimestamp", "memberOf")
_KINDS = frozenset({"User", "Group", "OrganizationalUnit"})
_SILENCE, _PASS = 60.0, 600.0

T = TypeVar("T")


@dataclass
class Chase:
    installation: Installation
    directory: OpenLdap
    people: int
    seed: int
    pause: float
    """Seconds between two deeds at the directory, on average."""
    page_size: int = 500

    strikes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By victim and by what was under way."""
    notes: list[tuple[str, str]] = field(default_factory=list)

    def prepare(self) -> None:
        """A tenant that follows the directory by the clock and has not read anything yet."""
        self.began = time.monotonic()
        self.chance = random.Random(self.seed)
        self.office = Office(self.directory, self.people, self.seed, self.pause)
        self.installation.start()
        platform = self.installation.bootstrap()
        partner = platform.post("/partners", {"name": "Northwind", "slug": "northwind"})
        tenant = platform.post("/tenants", {"partner_id": partner["id"], "name": "Acme", "slug": "acme"})
        self.door = Door(f"{platform.base_url}/t/{tenant['id']}", platform.token)
        token = self.door.post("/scim-tokens", {"name": "chase"})["token"]
        self.scim = Door(f"{self.installation.base_url}/scim/v2/acme", token)
        name, password = self.directory.service
        config = {
            "source": "ldap",
            "servers": [self.directory.url],
            "ca_certificates": self.directory.ca,
            "bind_dn": name,
            "bind_password": password,
            "page_size": self.page_size,
        }
        schedule = {"enabled": True, "schedule": "1m", "full_every": "10m"}
        wanted = {"kind": "ldap", "name": "OpenLDAP", "config": config, "sync": schedule}
        self.provider = self.door.post("/identity-providers", wanted)["id"]
        self.run: Json | None = None
        self.full = True
        self.wanted = 0

    def under_fire(self, hands: Sequence[Sequence[str]], pause: tuple[float, float]) -> None:
        """A run at every moment, and the next victim dies so long after the last one has been made up for.

        The first hand strikes while everything is read for the first time; then deltas are wanted and full passes in
        turn.
        """
        struck = time.monotonic()
        with self.office.at_work():
            for number, hand in enumerate(hands):
                self.full = number % 2 == 0
                for victim in hand:
                    self.until("a run under way", lambda: self.phase() != "nothing")
                    self.follow(self.chance.uniform(*pause))
                    self.until("a run under way", lambda: self.phase() != "nothing")
                    phase = self.phase()
                    self.strike(victim)
                    self.strikes[victim, phase] += 1
                self.until("everything read once", lambda: self.office.is_late)
            self.until("a run finished after that", self.finished())
        self.notes.append(("under fire", f"{time.monotonic() - struck:.0f} s"))

    def settle(self) -> None:
        """Two full passes of a directory that nobody changes any more: the second one has nothing to do.

        The clock rests from now on, so that what is compared stands still.
        """
        self.door.patch(f"/identity-providers/{self.provider}", {"sync": {"enabled": False}})
        self.read_in_full()
        last = self.read_in_full()
        assert (last["unchanged"], last["created"], last["updated"]) == (last["read"], 0, 0), last

    def read_in_full(self) -> Json:
        def is_over() -> bool:
            return bool(self.current()["status"] != "running")

        self.until("no run under way", is_over, follow=False)
        wanted = self.asked(full=True)
        self.until("a full pass done", is_over, follow=False)
        last = self.current()
        assert (last["id"], last["status"], last["kind"]) == (wanted, "done", "full"), last
        return last

    def follow(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.keep_going()
            time.sleep(0.05)

    def keep_going(self) -> None:
        """Somebody always wants a run now."""
        run = self.current()
        if run["status"] == "running":
            return
        if run["status"] != "none" and not self.office.is_late:
            assert run["status"] == "done", run
            self.names = {one["id"]: _uid(one) for one in self.patiently(lambda: self.scim.resources("Users"))}
            self.office.everything_is_read()
        with suppress(Unexpected):
            self.asked(full=self.full)
            self.wanted += 1

    def until(self, what: str, true: Callable[[], bool], *, follow: bool = True) -> None:
        deadline = time.monotonic() + _PASS
        while not true():
            assert time.monotonic() < deadline, f"not {what}: {self.run}; {self.installation.log.read_text()[-2000:]}"
            self.follow(0.05) if follow else time.sleep(0.1)

    def finished(self) -> Callable[[], bool]:
        """Whether a run that is asked for from now on has ended."""
        asked = self.wanted
        return lambda: self.wanted > asked + 1

    def phase(self) -> str:
        """What a live process of ours is at: a run whose process died counts as running, too."""
        run = self.current()
        if run["status"] != "running" or run["started_at"] is None or self.installation.pulling_horse() is None:
            return "nothing"
        if not self.office.is_late:
            return "first pass"
        return "full pass" if run["kind"] == "full" else "delta"

    def current(self) -> Json:
        """The newest run; who asks is answered sooner or later."""
        found = self.patiently(lambda: self.door.get("/sync-runs?limit=1"))["items"]
        self.run = found[0] if found else {"id": "none", "status": "none"}
        return self.run

    def asked(self, *, full: bool) -> str:
        """Raises Unexpected where a run has come between."""
        return str(self.door.post(f"/identity-providers/{self.provider}/sync", {"full": full})["id"])

    def patiently(self, ask: Callable[[], T]) -> T:
        until = time.monotonic() + _SILENCE
        while True:
            try:
                return ask()
            except Unexpected as silence:
                assert time.monotonic() < until, silence
            time.sleep(0.05)

    def strike(self, victim: str) -> None:
        installation = self.installation
        match victim:
            case "worker" | "clock":
                kill(self.found(victim, lambda: installation.child(victim)))
            case "pull lane":
                kill(self.found(victim, installation.puller))
            case "work-horse":
                while not kill(self.found(victim, installation.pulling_horse)):
                    pass
            case "pull lane and work-horse":
                horse = self.found("work-horse", installation.pulling_horse)
                kill(self.found("pull lane", installation.puller))
                kill(horse)
            case "postgres, immediate restart":
                self.found(victim, installation.postgres).send_signal(signal.SIGQUIT)
            case "postgres, a backend":
                kill(self.found(victim, installation.postgres_backend))
            case "valkey, emptied":
                installation.empty_valkey(self.found(victim, installation.valkey))
            case _:
                raise ValueError(victim)

    def found(self, victim: str, look: Callable[[], psutil.Process | None]) -> psutil.Process:
        until = time.monotonic() + _SILENCE
        while (process := look()) is None:
            assert time.monotonic() < until, f"no {victim} to be seen"
            self.follow(0.02)
        return process

    def verify(self) -> None:
        """Everything that must hold when all is done."""
        self.there = self.read_directly()
        self.runs = list(self.door.items("/sync-runs"))
        self.events = list(self.door.items("/events"))
        self.told: dict[str, dict[str, Counter[str]]] = {}
        for event in self.events:
            kind, id = event["resource"]["type"], event["resource"]["id"]
            self.told.setdefault(kind, {}).setdefault(id, Counter())[event["name"]] += 1
        self.verify_lossless()
        self.verify_served()
        self.verify_runs()
        self.verify_people()
        self.verify_teams()

    def read_directly(self) -> dict[str, Attributes]:
        """What the directory says to whoever asks it without us."""
        connection = self.directory.connect(*self.directory.service)
        try:
            return dict(paged(connection, self.directory.base_dn, _READ, _ATTRIBUTES))
        finally:
            connection.unbind()

    def verify_lossless(self) -> None:
        """Directory = LDAP, attribute by attribute."""
        path = self.installation.folder / "returned.ldif"
        self.installation.scaikey("scim", "export", "--tenant", "acme", str(path))
        read = canonical(b"".join(write_entry(dn, dict(attributes)) for dn, attributes in self.there.items()))
        returned = canonical(path)
        self.compared = len(read)
        if read != returned:
            only = [f"- {line}" for line in sorted(set(read) - set(returned))[:3]]
            raise AssertionError(only + [f"+ {line}" for line in sorted(set(returned) - set(read))[:3]])

    def verify_served(self) -> None:
        """Whoever asks us sees the people and the members that the directory has."""
        users, groups = self.scim.resources("Users"), self.scim.resources("Groups")
        self.ids = {one["id"]: _uid(one) for one in users}
        self.versions = {one["id"]: one["meta"]["version"] for one in users}
        names = {one["id"]: one["displayName"] for one in groups} | self.ids
        assert len(names) == len(users) + len(groups), "the list shows something twice"
        assert all(one["active"] for one in users)
        shown = {_uid(one): one.get("title") for one in users}
        held = {_first(said, "uid"): _first(said, "title") or None for said in self.there.values() if "uid" in said}
        assert shown == held
        short = {dn: _first(said, "uid") or _first(said, "cn") for dn, said in self.there.items()}
        members = {
            _first(said, "cn"): {short[dn.decode()] for dn in said["member"]}
            for said in self.there.values()
            if "member" in said
        }
        assert {one["displayName"]: {names[each["value"]] for each in one["members"]} for one in groups} == members
        self.teams = {one["id"]: one["displayName"] for one in groups}

    def verify_runs(self) -> None:
        """Each ended well and told so once, and together they counted what was told of."""
        assert {run["status"] for run in self.runs} == {"done"}, [run["problem"] for run in self.runs]
        provider = [event for event in self.events if event["resource"]["id"] == self.provider]
        finished = Counter(event["changed"]["run_id"] for event in provider if event["name"] == "sync.finished")
        assert finished == Counter(run["id"] for run in self.runs)
        others = {event["name"] for event in provider if event["name"].startswith("sync.")}
        assert others <= {"sync.finished", "sync.began_again"}
        told = Counter(event["name"].partition(".")[2] for event in self.events if event["resource"]["type"] in _KINDS)
        counted = {name: sum(run[name] for run in self.runs) for name in ("created", "removed", "disabled", "skipped")}
        assert counted == {"created": told["created"], "removed": told["removed"], "disabled": 0, "skipped": 0}

    def verify_people(self) -> None:
        """One event for each thing that happened to somebody, and nobody was ever taken away who had not left."""
        early, late = self.office.early, self.office.late
        dismissed = early.dismissed | late.dismissed
        told = self.told["User"]
        for id, name in (self.names | self.ids).items():
            found = told.pop(id)
            wanted = Counter({"user.created": 1})
            if name in late.promoted or (name in early.promoted and found["user.updated"]):
                wanted["user.updated"] = 1
            if name in dismissed:
                wanted["user.removed"] = 1
            assert found == wanted, (name, found, wanted)
            assert name in dismissed or self.versions[id] == f'W/"{found.total()}"', (name, found)
        # Of those who left while everything was read for the first time, some were seen and some were not.
        assert all(found == Counter({"user.created": 1, "user.removed": 1}) for found in told.values()), told
        assert len(told) <= len(early.dismissed)
        first = min(dismissed.values(), default=None)
        self.removed = [event for event in self.events if event["name"] == "user.removed"]
        for event in self.removed:
            left = dismissed.get(self.names.get(event["resource"]["id"], ""), first)
            assert left is not None and datetime.fromisoformat(event["occurred_at"]) > left, event

    def verify_teams(self) -> None:
        """Each coming and going was told once."""
        early, late = self.office.early.teams, self.office.late.teams
        sums: dict[str, Counter[str]] = {}
        for event in self.events:
            if event["name"] == "group.members_changed":
                sums.setdefault(event["resource"]["id"], Counter()).update(event["changed"])
        told = self.told["Group"]
        assert told.keys() == self.teams.keys()
        for id, name in self.teams.items():
            assert told[id]["group.created"] == 1 and told[id].keys() <= {"group.created", "group.members_changed"}
            found = sums.get(id, Counter())
            if name in early:
                assert found["added"] <= early[name].joined and found["removed"] <= early[name].left, (name, found)
            else:
                team = late.get(name)
                wanted = (team.joined, team.left) if team else (0, 0)
                assert (found["added"], found["removed"]) == wanted, (name, found, wanted)
        units = self.told["OrganizationalUnit"].values()
        assert list(units) == [Counter({"unit.created": 1})] * 2

    def stop(self) -> None:
        """The ordinary end; nothing is left of it."""
        assert self.installation.stop() == 0
        assert self.installation.running() == []

    def tell(self) -> None:
        """The summary, to quote."""
        table = Table(title=f"{self.strikes.total()} strikes, seed {self.seed}", title_justify="left")
        for heading in ("victim", "times", *(f"during {phase}" for phase in UNDER_WAY)):
            table.add_column(heading, justify="left" if heading == "victim" else "right")
        for victim in dict.fromkeys(victim for victim, _ in self.strikes):
            times = [self.strikes[victim, phase] for phase in UNDER_WAY]
            table.add_row(victim, *map(str, (sum(times), *times)))
        users = sum(1 for said in self.there.values() if "uid" in said)
        began_again = sum(event["name"] == "sync.began_again" for event in self.events)
        facts = Table(show_header=False)
        for name, text in (
            ("directory = LDAP", f"{users} people, {self.compared} lines compared"),
            ("changed during the first pass", _deeds(self.office.early)),
            ("changed afterwards", _deeds(self.office.late)),
            ("runs", f"{len(self.runs)}, all done; passes begun anew {began_again} times"),
            ("events", f"{len(self.events)}, each once"),
            ("removed", f"{len(self.removed)}, each after the person had left"),
            *self.notes,
            ("whole duration", f"{time.monotonic() - self.began:.0f} s"),
        ):
            facts.add_row(name, text)
        console = Console(width=120)
        console.print()
        console.print(table)
        console.print(facts)


def _uid(user: Json) -> str:
    """People are known here by their mail addresses."""
    return str(user["userName"]).partition("@")[0]


def _first(said: Attributes, name: str) -> str:
    return said[name][0].decode() if said.get(name) else ""


def _deeds(account: Account) -> str:
    return ", ".join(f"{times} {deed}" for deed, times in account.deeds().items())
