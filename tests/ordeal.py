"""The main job under fire: a directory read and pushed while its processes are killed, then compared on all sides.

Owns the story that the everyday test and the soak share: set-up through the admin API, somebody who keys in people
meanwhile, the strikes, and what must hold afterwards. A second tenant reads the same exports undisturbed; its events
are what the first one's must be.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
from rich.console import Console
from rich.table import Table

from demo.asking import Door, Json, Unexpected
from scim.reading import MOST_MEMBERS_SHOWN
from tests.canonical_ldif import differences
from tests.installation import Installation, kill
from tests.population import BASE, Population
from tests.receivers import Remote

ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
PATCH_OP = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
LOCAL = "Keyed in"
PHASES = ("reading", "reading again", "pushing")

# The receiver writes no line for an answer that nobody was there to take any more.
_REQUEST = re.compile(r'"(GET|POST|PUT|PATCH|DELETE) /\w+/v2/(\w+)\S* HTTP/1\.\d" (\d+)')
_DRAINED, _SILENCE = 600.0, 120.0


class Importing:
    """`scaikey scim import`, killed as planned and begun again each time, until it is done.

    `deaths`: how many entries it has read when its end draws near (0: it has hardly begun), and the seconds left then.
    """

    def __init__(
        self, installation: Installation, provider: str, file: Path, deaths: Sequence[tuple[int, float]] = ()
    ) -> None:
        self.installation = installation
        self.command = installation.command("scim", "import", "--provider", provider, "--json", str(file))
        self.output = installation.folder / f"import-{provider}.log"
        self.deaths = list(deaths)
        self.kills: Counter[str] = Counter()
        self.begun = 0
        self.done = self.again = False
        self.start()

    def start(self) -> None:
        self.begun += 1
        self.again = self.again or self.done  # an export that was read to its end already: nothing may come of it
        self.done = False
        self.fatal: float | None = None
        with self.output.open("wb") as output:
            environment = self.installation.environment()
            self.process = subprocess.Popen(self.command, env=environment, stdout=output, stderr=subprocess.STDOUT)

    def phase(self) -> str:
        return "pushing" if self.done else PHASES[self.again]

    def tend(self) -> None:
        """What is due: its end, or its next beginning. Any end but ours or success is a failure of the product."""
        status = self.process.poll()
        if status is None:
            self.meet_death()
        elif status == 0 and not self.deaths:
            self.done = True
        else:
            assert status in (0, -9), f"the import ended with {status}: {self.output.read_text()[-2000:]}"
            self.done = status == 0
            self.start()

    def meet_death(self) -> None:
        now = time.monotonic()
        if self.fatal is None and self.deaths and self.deaths[0][0] <= self.read():
            self.fatal = now + self.deaths[0][1]
        if self.fatal is not None and now >= self.fatal:
            self.process.kill()
            if self.process.wait() == -9:
                self.kills[self.phase()] += 1
                self.deaths.pop(0)

    def read(self) -> int:
        """Entries, as it told last."""
        told = [line for line in self.output.read_bytes().splitlines() if line.startswith(b'{"event": "progress"')]
        return int(json.loads(told[-1])["read"]) if told and told[-1].endswith(b"}") else 0

    def finish(self) -> None:
        while not self.done:
            self.tend()
            time.sleep(0.02)


class Clerk:
    """Keys in people by SCIM the whole time, and tries again when nobody answers: each shall exist once.

    Everybody is put into a group, taken out and put in again; every third leaves it for good.
    """

    def __init__(self, scim: Door, pause: float) -> None:
        self.scim = scim
        self.pause = pause
        self.names: list[str] = []
        self.left: set[str] = set()
        """Those of them who are in the group no more."""
        self.statuses: Counter[int] = Counter()
        self.unanswered = 0
        self.troubles: list[str] = []
        self.may_be_ending = False
        """Whether the whole installation is being killed: web processes may outlive its database by a moment."""
        self._closing = threading.Event()
        self._group = ""

    @contextmanager
    def at_work(self) -> Iterator[None]:
        thread = threading.Thread(target=self._work, name="clerk")
        self._closing.clear()
        thread.start()
        try:
            yield
        finally:
            self._closing.set()
            thread.join()

    def _work(self) -> None:
        self._group = self._group or self.made("Groups", "displayName", LOCAL)
        while not self._closing.is_set():
            name = f"local{len(self.names):05d}@corp.example"
            person = self.made("Users", "userName", name)
            self.names.append(name)
            add = {"op": "add", "path": "members", "value": [{"value": person}]}
            remove = {"op": "remove", "path": f'members[value eq "{person}"]'}
            deeds = [add, remove, add]
            if len(self.names) % 3 == 0:
                deeds.append(remove)
                self.left.add(name)
            for operation in deeds:
                self.ask("PATCH", f"/Groups/{self._group}", {"schemas": [PATCH_OP], "Operations": [operation]})
            self._closing.wait(self.pause)

    def made(self, endpoint: str, attribute: str, name: str) -> str:
        """Its id. An unanswered request may have made it: look, then try again."""
        schema = f"urn:ietf:params:scim:schemas:core:2.0:{endpoint[:-1]}"
        while True:
            with suppress(Unexpected):
                answer = self.once("POST", f"/{endpoint}", {"schemas": [schema], attribute: name})
                if answer is not None and answer["id"]:
                    return str(answer["id"])
            found = self.ask("GET", f'/{endpoint}?filter={attribute}%20eq%20"{name}"'.replace('"', "%22"))
            if found["totalResults"]:
                return str(found["Resources"][0]["id"])

    def ask(self, method: str, path: str, body: Json | None = None) -> Json:
        """Until there is an answer."""
        until = time.monotonic() + _SILENCE
        while time.monotonic() < until:
            with suppress(Unexpected):
                answer = self.once(method, path, body)
                if answer is not None:
                    return answer
        raise AssertionError(f"{method} {path} is never answered: {self.troubles[-1:]}")

    def once(self, method: str, path: str, body: Json | None = None) -> Json | None:
        """None: it was refused. Raises Unexpected when there is no answer."""
        try:
            answer = self.scim.ask(method, path, body)
            if answer.status == 503 and self.may_be_ending:
                raise Unexpected("the servers ended before the web")
        except Unexpected:
            self.unanswered += 1
            time.sleep(0.1)
            raise
        self.statuses[answer.status] += 1
        if answer.status < 400:
            return answer.body if isinstance(answer.body, dict) else {}
        if answer.status != 409 or method != "POST":  # 409: what went unanswered had been done
            self.troubles.append(f"{method} {path} answered {answer.status}: {answer.body}")
        time.sleep(0.1)
        return None


@dataclass
class Side:
    """What one tenant serves, by id and by name, and the names of its events."""

    people: dict[str, Json]
    groups: dict[str, Json]
    units: dict[str, Json]
    events: list[Json]

    def names(self) -> dict[str, str]:
        return {id: one.get("userName") or one["displayName"] for id, one in (self.people | self.groups).items()}


@dataclass
class Ordeal:
    installation: Installation
    receiver: Remote
    receiver_log: Path
    people: int
    seed: int
    photo_bytes: int
    clerk_pause: float = 0.5

    strikes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By victim and by what was under way."""
    notes: list[tuple[str, str]] = field(default_factory=list)
    upstream_keys: dict[str, str | None] = field(default_factory=dict)
    """Our ids to the upstream's, of both tenants, those who left included."""
    sent: set[str] = field(default_factory=set)
    """Ids of everybody who was ever to be at the receiver."""

    def prepare(self) -> None:
        """A partner, two tenants with a directory each, an application that wants all of the first one's people."""
        self.began = time.monotonic()
        self.chance = random.Random(self.seed)
        self.population = Population(self.people, self.seed, photo_bytes=self.photo_bytes)
        self.installation.start()
        platform = self.installation.bootstrap()
        partner = platform.post("/partners", {"name": "Northwind", "slug": "northwind"})
        self.doors: dict[str, Door] = {}
        self.scim: dict[str, Door] = {}
        self.providers: dict[str, str] = {}
        for slug in ("acme", "calm"):
            tenant = platform.post("/tenants", {"partner_id": partner["id"], "name": slug, "slug": slug})
            door = self.doors[slug] = Door(f"{platform.base_url}/t/{tenant['id']}", platform.token)
            token = door.post("/scim-tokens", {"name": "ordeal"})["token"]
            self.scim[slug] = Door(f"{self.installation.base_url}/scim/v2/{slug}", token)
            config = {"source": "ldif", "base_dn": BASE}
            upstream = {"kind": "ldap", "name": "Active Directory", "config": config}
            self.providers[slug] = door.post("/identity-providers", upstream)["id"]
        acme = self.doors["acme"]
        application = acme.post("/applications", {"name": "Intranet", "type": "web"})
        wanted = {
            "application_id": application["id"],
            "base_url": self.receiver.base_url,
            "auth": {"method": "bearer", "token": self.receiver.token},
            "scope": "all",
        }
        self.target = acme.post("/scim-targets", wanted)["id"]
        self.clerk = Clerk(self.scim["acme"], self.clerk_pause)

    def round(self, name: str, imports: int, victims: Sequence[str], pause: tuple[float, float]) -> None:
        """Read the present export with these kills, `pause` apart; when nothing is owed any more, compare.

        The import is killed so often beside them: at places of the export, which is short, not at times.
        """
        began = time.monotonic()
        self.file = self.population.write(self.installation.folder / f"{name}.ldif")
        calm = Importing(self.installation, self.providers["calm"], self.file)
        calm.finish()
        undisturbed = time.monotonic() - began
        self.importing = Importing(self.installation, self.providers["acme"], self.file, self.deaths(imports))
        self.installation.meanwhile = self.importing.tend
        struck = time.monotonic()
        with self.clerk.at_work():
            for victim in victims:
                self.work(self.chance.uniform(*pause))
                self.strike(victim)
                self.strikes[victim, self.importing.phase()] += 1
            self.importing.finish()
        self.strikes.update({("import", phase): times for phase, times in self.importing.kills.items()})
        read = time.monotonic()
        self.wait_for_push()
        now = time.monotonic()
        self.notes += [
            (f"{name}: undisturbed import", f"{undisturbed:.1f} s"),
            (f"{name}: import under fire", f"{read - struck:.1f} s in {self.importing.begun} processes"),
            (f"{name}: until nothing was owed", f"{now - struck:.1f} s"),
        ]
        self.verify()

    def deaths(self, count: int) -> list[tuple[int, float]]:
        """Three of four while it reads, at any place but the very end; the others while it starts or waits."""
        chance = self.chance
        entries = 0.85 * len(self.population.people)
        reading = iter(sorted(int(chance.uniform(1, entries)) for _ in range(count)))
        return [
            (0, chance.uniform(0.0, 4.0)) if number % 4 == 3 else (next(reading), chance.uniform(0.0, 0.3))
            for number in range(count)
        ]

    def work(self, seconds: float) -> None:
        """Let time pass; a killed import is begun again meanwhile."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.importing.tend()
            time.sleep(0.02)

    def strike(self, victim: str) -> None:
        installation = self.installation
        match victim:
            case "worker" | "clock":
                kill(self.found(victim, lambda: installation.child(victim)))
            case "work-horse":
                self.strike_work_horse()
            case "worker and work-horse":
                kill(self.strike_work_horse())
            case "web worker":
                kill(self.found(victim, lambda: next(iter(installation.web_workers()), None)))
            case "web":
                kill(self.found(victim, lambda: installation.child("granian")))
            case "valkey, emptied":
                installation.empty_valkey(self.found(victim, installation.valkey))
            case "scaikey up":
                self.strike_all()
            case _:
                raise ValueError(victim)

    def strike_work_horse(self) -> psutil.Process:
        """At whatever it is doing; returns the worker it worked for."""
        while True:
            horse = self.found("work-horse", self.installation.work_horse)
            self.work(self.chance.uniform(0.0, 0.3))
            worker = self.installation.child("worker")
            if worker is not None and kill(horse):
                return worker

    def strike_all(self) -> None:
        """`scaikey up` itself: all of it ends within ten seconds, and the next one goes on with the same data."""
        installation = self.installation
        assert installation.process is not None
        self.clerk.may_be_ending = True
        installation.process.kill()
        installation.process.wait()
        took = installation.wait_for("everything of it has ended", lambda: not self.left_of_up(), 10.0)
        assert installation.is_port_free()
        self.notes.append(("everything gone after kill -9 of `scaikey up`", f"{took:.1f} s"))
        installation.start()
        self.clerk.may_be_ending = False

    def left_of_up(self) -> list[psutil.Process]:
        """Without the import, which has a life of its own and keeps the servers for itself."""
        left = self.installation.running()
        if self.importing.process.poll() is None:
            servers = self.installation.servers()
            left = [one for one in left if one.pid != self.importing.process.pid and one.pid not in servers]
        return left

    def found(self, victim: str, look: Any) -> psutil.Process:
        until = time.monotonic() + 60
        while (process := look()) is None:
            assert time.monotonic() < until, f"no {victim} to be seen"
            self.work(0.02)
        return process

    def wait_for_push(self) -> None:
        until = time.monotonic() + max(_DRAINED, 0.2 * self.people)
        while owed := self.doors["acme"].get(f"/scim-targets/{self.target}/deliveries?limit=200")["items"]:
            stuck = [one for one in owed if one["status"] != "pending"]
            assert len(stuck) < len(owed), f"{len(stuck)} deliveries will not go: {stuck[0]}"
            assert time.monotonic() < until, f"still owed: {owed[0]}"
            time.sleep(0.3)

    def verify(self) -> None:
        """Everything that must hold when all is done."""
        acme, calm = self.side("acme"), self.side("calm")
        for side in (acme, calm):
            documents = side.people | side.groups | side.units
            self.upstream_keys.update({id: one.get("externalId") for id, one in documents.items()})
        self.verify_served(acme, self.clerk.names)
        self.verify_served(calm, [])
        self.verify_lossless()
        self.verify_events(acme, calm)
        self.verify_runs()
        self.verify_receiver(acme)
        assert not self.clerk.troubles, self.clerk.troubles[:3]

    def side(self, slug: str) -> Side:
        people, groups, units = (
            _by_id(self.scim[slug].resources(endpoint)) for endpoint in ("Users", "Groups", "OrganizationalUnits")
        )
        for id, group in groups.items():
            if len(group.get("members", ())) >= MOST_MEMBERS_SHOWN:
                listed = self.scim[slug].resources("GroupMembers", "&filter=" + quote(f'group.value eq "{id}"'))
                group["members"] = [one["member"] for one in listed]
        return Side(people, groups, units, list(self.doors[slug].items("/events")))

    def verify_served(self, side: Side, keyed: Sequence[str]) -> None:
        """Directory = source."""
        names = side.names()
        people = {one["userName"]: _told(one, names) for one in side.people.values()}
        assert len(people) == len(side.people), "a person is there twice"
        local = {name: people.pop(name) for name in keyed}
        assert len(local) == len(keyed)
        _same(self.population.people_seen(), people)
        groups = {one["displayName"]: _members(one, names) for one in side.groups.values()}
        assert len(groups) == len(side.groups), "a group is there twice"
        if keyed:
            assert groups.pop(LOCAL) == set(keyed) - self.clerk.left
        _same(self.population.groups_seen(), groups)
        assert len(side.units) == 2

    def verify_lossless(self) -> None:
        path = self.installation.folder / "returned.ldif"
        self.installation.scaikey("scim", "export", "--tenant", "acme", str(path))
        assert differences(self.file, path)[:3] == []

    def verify_events(self, acme: Side, calm: Side) -> None:
        """Exactly one per change: those of the undisturbed tenant, and one for each deed of the clerk."""
        told, undisturbed = self.told(acme), self.told(calm)
        keyed = len(self.clerk.names)
        local = {
            ("User", "user.created", "[]"): keyed,
            ("Group", "group.created", "[]"): 1,
            ("Group", "group.members_changed", '{"added": 1, "removed": 0}'): 2 * keyed,
            ("Group", "group.members_changed", '{"added": 0, "removed": 1}'): keyed + len(self.clerk.left),
        }
        assert told.pop(None) == local
        _same(undisturbed, told)
        syncs = [
            Counter(event["name"] for event in side.events if event["resource"]["type"] == "IdentityProvider")
            for side in (acme, calm)
        ]
        assert syncs[0] == syncs[1]
        self.compared = sum(counted.total() for counted in told.values())

    def told(self, side: Side) -> dict[str | None, Counter[tuple[str, str, str]]]:
        """How often each thing was told of each resource, by its upstream key; None: of those keyed in."""
        told: dict[str | None, Counter[tuple[str, str, str]]] = {}
        for event in side.events:
            kind, id = event["resource"]["type"], event["resource"]["id"]
            if kind in ("User", "Group", "OrganizationalUnit"):
                changed = event["changed"]
                line = (kind, event["name"], json.dumps(sorted(changed) if isinstance(changed, list) else changed))
                told.setdefault(self.upstream_keys[id], Counter())[line] += 1
        return told

    def verify_runs(self) -> None:
        totals = {}
        for slug in ("acme", "calm"):
            runs = list(self.doors[slug].items("/sync-runs"))
            assert {run["status"] for run in runs} == {"done"}, [run["problem"] for run in runs]
            assert sum(run["skipped"] for run in runs) == 0
            totals[slug] = {
                name: sum(run[name] for run in runs) for name in ("created", "updated", "disabled", "removed")
            }
        assert totals["acme"] == totals["calm"]

    def verify_receiver(self, side: Side) -> None:
        """Receiver = directory: each of ours once, under our id, with the same names, and the same groups."""
        there = self.receiver.all("Users")
        ours = {one["id"]: one["externalId"] for one in there}
        self.sent |= {id for id, one in side.people.items() if one["active"]}
        assert Counter(ours.values()) == Counter(self.sent)
        names = side.names()
        named = {remote: names.get(id, "") for remote, id in ours.items()}
        shown = {one["externalId"]: _told(one, named) for one in there}
        wanted = {}
        for id in self.sent:
            if id not in side.people:  # left: kept there as it was, unusable
                wanted[id] = {**shown[id], "active": False}
                continue
            wanted[id] = _told(side.people[id], names)
            if manager := side.people[id].get(ENTERPRISE, {}).get("manager"):
                wanted[id]["manager"] = names[manager["value"]] if manager["value"] in self.sent else None
        _same(wanted, shown)
        assert {one["userName"] for one in there if one["active"]} == {
            one["userName"] for one in side.people.values() if one["active"]
        }
        groups = self.receiver.all("Groups")
        assert Counter(one["externalId"] for one in groups) == Counter(side.groups.keys())
        ours.update((one["id"], one["externalId"]) for one in groups)
        members = {one["externalId"]: {ours[each["value"]] for each in one.get("members", [])} for one in groups}
        known = self.sent | set(side.groups)
        _same(
            {id: {one["value"] for one in doc.get("members", [])} & known for id, doc in side.groups.items()}, members
        )
        assert {one["externalId"]: one["displayName"] for one in groups} == {
            id: one["displayName"] for id, one in side.groups.items()
        }
        self.requests = Counter(
            (method, endpoint, int(status))
            for method, endpoint, status in _REQUEST.findall(self.receiver_log.read_text())
        )
        for endpoint, present in (("Users", len(there)), ("Groups", len(groups))):
            assert self.requests["POST", endpoint, 201] <= present, "something was made twice"
        self.at_receiver = len(there), len(groups), sum(map(len, members.values()))

    def stop(self) -> None:
        """The ordinary end; nothing is left of it."""
        assert self.installation.stop() == 0
        self.installation.wait_for("nothing of it is left", lambda: not self.installation.running(), 2.0)
        assert self.installation.is_port_free()

    def tell(self) -> None:
        """The summary, to quote."""
        table = Table(title=f"{self.strikes.total()} kills, seed {self.seed}", title_justify="left")
        for heading in ("kill -9 of", "times", *(f"while {phase}" for phase in PHASES)):
            table.add_column(heading, justify="left" if heading == "kill -9 of" else "right")
        for victim in dict.fromkeys(victim for victim, _ in self.strikes):
            times = [self.strikes[victim, phase] for phase in PHASES]
            table.add_row(victim, *map(str, (sum(times), *times)))
        people, groups, members = self.at_receiver
        made = sum(count for (method, _, status), count in self.requests.items() if (method, status) == ("POST", 201))
        refused = Counter(
            status for (_, _, status), count in self.requests.items() if status >= 400 for _ in range(count)
        )
        by_method: Counter[str] = Counter()
        for (method, _, _), count in self.requests.items():
            by_method[method] += count
        facts = Table(show_header=False)
        for name, text in (
            ("directory = source", f"{len(self.population.people)} people, {len(self.population.groups())} groups"),
            (
                "keyed in meanwhile",
                f"{len(self.clerk.names)} people, each once, {len(self.clerk.left)} out of the group",
            ),
            ("SCIM answers", ", ".join(f"{n} × {status}" for status, n in sorted(self.clerk.statuses.items()))),
            ("SCIM requests unanswered (web was down)", str(self.clerk.unanswered)),
            ("events compared with the undisturbed tenant", f"{self.compared}, all equal"),
            ("receiver = directory", f"{people} accounts, {groups} groups, {members} memberships"),
            ("requests at the receiver", f"{self.requests.total()}: {dict(by_method)}"),
            ("refused there", str(dict(refused) or "none")),
            ("created there", f"{people + groups}, none twice"),
            ("of these, in bulk or with an answer that a kill cut off", str(people + groups - made)),
            *self.notes,
            ("whole duration", f"{time.monotonic() - self.began:.0f} s"),
        ):
            facts.add_row(name, text)
        console = Console(width=120)
        console.print()
        console.print(table)
        console.print(facts)


def _told(document: Json, names: dict[str, str]) -> Json:
    """A person of either side, reduced to what the population knows; the manager by name."""
    enterprise = document.get(ENTERPRISE, {})
    manager = enterprise.get("manager")
    return {
        "displayName": document.get("displayName"),
        "givenName": document.get("name", {}).get("givenName"),
        "familyName": document.get("name", {}).get("familyName"),
        "title": document.get("title"),
        "department": enterprise.get("department"),
        "mail": next((one["value"] for one in document.get("emails", [])), None),
        "manager": names[manager["value"]] if manager else None,
        "active": document["active"],
    }


def _by_id(listed: Sequence[Json]) -> dict[str, Json]:
    by_id = {one["id"]: one for one in listed}
    assert len(by_id) == len(listed), "the list shows something twice"
    return by_id


def _members(group: Json, names: dict[str, str]) -> set[str]:
    members = [names[one["value"]] for one in group.get("members", [])]
    assert len(members) == len(set(members))
    return set(members)


def _same(wanted: dict[Any, Any], found: dict[Any, Any]) -> None:
    """Equal, or the first differences: whole directories are too long to read."""
    missing = [key for key in wanted if key not in found]
    surplus = [key for key in found if key not in wanted]
    differing = [(key, value, found[key]) for key, value in wanted.items() if key in found and found[key] != value]
    counts = (len(missing), len(surplus), len(differing))
    assert counts == (0, 0, 0), (counts, missing[:3], surplus[:3], differing[:2])
