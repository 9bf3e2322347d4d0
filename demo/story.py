"""The main job, step by step: a directory read without loss, served to its tenant alone, pushed into an application.

Owns the order of the steps and what is expected after each, worked out from the export by `organisation` and found by
asking the other side: ScaiKey's SCIM, its audit log, the application's receiver. How it looks is `telling`'s.
"""

from __future__ import annotations

import json
import stat
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.canonical_ldif import differences

from .application import AUDIENCE
from .asking import Door, Json, Unexpected
from .organisation import Organisation
from .signing_in import TEAM, SigningIn
from .stage import ROOT, Stage, free_port, keep_secret, shown
from .telling import Step, Telling, number

EXPORT = ROOT / "tests" / "data" / "acme.ldif"
BASE_DN = "DC=ad,DC=acme,DC=test"
KINDS = {"person": "Users", "group": "Groups", "unit": "OrganizationalUnits"}
ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
OLD_DEPARTMENT, NEW_DEPARTMENT = "Ingénierie", "Engineering"
_PUSH_PATIENCE = 300.0
_DONE, _HELD = 0, 3
"""Exit statuses of an import."""


@dataclass
class Story:
    stage: Stage
    telling: Telling
    organisation: Organisation = field(default_factory=lambda: Organisation(EXPORT))

    platform: Door = field(init=False)
    receiver: Door = field(init=False)
    acme: Door = field(init=False)
    """acme's admin API; `acme_scim` is its SCIM."""
    acme_scim: Door = field(init=False)
    globex_scim: Door = field(init=False)
    provider: str = field(init=False)
    target: str = field(init=False)
    intranet: Json = field(init=False)
    """The application as it was registered; its secret is shown this once."""
    signing_in: SigningIn = field(init=False)

    leaver: str = field(init=False)
    disabled: str = field(init=False)
    """Signs in before."""
    mover: str = field(init=False)
    """Somebody of Sales who changes teams."""

    def __post_init__(self) -> None:
        people = self.organisation.active_people()
        self.leaver = next(name for name in sorted(people) if name.startswith("plain"))
        self.mover = self.of_team("Sales")[0]
        self.disabled, visitor = self.of_team(TEAM)[:2]
        self.signing_in = SigningIn(self, self.disabled, visitor, free_port())

    def of_team(self, team: str) -> list[str]:
        people, members = self.organisation.active_people(), self.organisation.groups()[team].values("member")
        return [name for name in sorted(people) if people[name].dn.encode() in members]

    def play(self) -> None:
        """Raises Unexpected when it cannot go on; what merely differs is told and counted."""
        self.start()
        self.appoint()
        self.open_receiver()
        self.found_tenants()
        self.connect()
        self.read()
        self.give_back()
        self.keep_apart()
        self.push()
        self.signing_in.federate()
        self.signing_in.sign_in()
        self.read_again()
        self.follow()
        self.hold()
        self.conclude()

    def start(self) -> None:
        self.stage.start_scaikey()
        with self.telling.step("ScaiKey starts, with a PostgreSQL and a Valkey of its own") as step:
            self.platform = Door(f"{self.stage.base_url}/api/v1")
            self.stage.wait_for_answer(Door(self.stage.base_url), "/readyz")
            step.fact(f"{self.stage.base_url}/readyz says ready; its log is {shown(self.stage.path / 'scaikey.log')}")

    def appoint(self) -> None:
        with self.telling.step("A first administrator") as step:
            made = json.loads(self.stage.scaikey("bootstrap", "--json"))
            keep_secret(self.stage.pat_file, made["pat"])
            step.expect(0o600, stat.S_IMODE(self.stage.pat_file.stat().st_mode), "mode of the token's file")
            step.expect(401, self.platform.ask("GET", "/partners").status, "the admin API without a token")
            self.platform = Door(self.platform.base_url, made["pat"])
            self.platform.get("/partners")
            step.fact(f"The admin API refuses strangers and takes the token in {shown(self.stage.pat_file)} (0600)")

    def open_receiver(self) -> None:
        self.receiver = self.stage.start_receiver()
        with self.telling.step("The application's own SCIM server, somebody else's program") as step:
            self.stage.wait_for_answer(self.receiver, "/ServiceProviderConfig")
            step.expect(401, Door(self.receiver.base_url, "wrong").ask("GET", "/Users").status, "with a wrong token")
            step.expect(0, self.receiver.total("Users"), "people there")
            step.fact(f"scim2-server at {self.receiver.base_url}, empty")

    def found_tenants(self) -> None:
        with self.telling.step("A partner with two customers, acme and globex") as step:
            partner = self.platform.post("/partners", {"name": "Northwind Partners", "slug": "northwind"})
            ids = {}
            for slug in ("acme", "globex"):
                wanted = {"partner_id": partner["id"], "name": slug.title(), "slug": slug}
                ids[slug] = self.platform.post("/tenants", wanted)["id"]
            listed = {tenant["slug"] for tenant in self.platform.items(f"/tenants?partner_id={partner['id']}")}
            step.same({"acme", "globex", "northwind-home"}, sorted(listed), "tenants of the partner")
            self.acme, globex = (Door(f"{self.platform.base_url}/t/{id}", self.platform.token) for id in ids.values())
            self.acme_scim, self.globex_scim = (
                Door(f"{self.stage.base_url}/scim/v2/{slug}", door.post("/scim-tokens", {"name": "demo"})["token"])
                for slug, door in (("acme", self.acme), ("globex", globex))
            )
            step.fact(f"acme is {ids['acme']}, globex is {ids['globex']}; each has a SCIM token of its own")

    def connect(self) -> None:
        with self.telling.step("acme's Active Directory comes in, an application wants its people") as step:
            config = {"source": "ldif", "base_dn": BASE_DN}
            upstream = {"kind": "ldap", "name": "Active Directory", "config": config}
            self.provider = self.acme.post("/identity-providers", upstream)["id"]
            wanted = {
                "name": "Intranet",
                "type": "web",
                "redirect_uris": [f"http://localhost:{self.signing_in.port}/callback"],
                "grant_types": ["authorization_code", "refresh_token"],
                "audience": AUDIENCE,
                "launch_url": f"http://localhost:{self.signing_in.port}/sign-in",
            }
            self.intranet = self.acme.post("/applications", wanted)
            receiver = {
                "application_id": self.intranet["id"],
                "base_url": self.receiver.base_url,
                "auth": {"method": "bearer", "token": self.receiver.token},
                "scope": "assigned",
            }
            self.target = self.acme.post("/scim-targets", receiver)["id"]
            told = self.acme.get(f"/scim-targets/{self.target}")["auth"]
            step.expect("***", told.get("token"), "the receiver's token, read back")
            step.fact(f"provider {self.provider}, application {self.intranet['id']}, SCIM target {self.target}")

    def read(self) -> None:
        """The first import, compared with the file by name."""
        with self.telling.step("The directory is read") as step:
            entries, counted = sum(1 for _ in self.organisation.entries()), self.organisation.counted()
            run = self.imported(step, EXPORT)
            step.expect((entries, 0), (run["read"], run["skipped"]), "entries read and skipped")
            self.compare_served(step)
            step.expect(0, self.receiver.total("Users"), "people at the receiver, of whom nobody is assigned yet")
            step.fact(
                f"{number(entries)} entries read, none skipped; SCIM serves {number(counted['person'])} people, "
                f"{counted['group']} groups and {counted['unit']} units of acme, the names of the export one by one"
            )

    def give_back(self) -> None:
        with self.telling.step("Nothing is lost: the directory given back as LDIF") as step:
            path = self.exported("acme-returned.ldif")
            for line in differences(EXPORT, path)[:5]:
                step.complain(line)
            values = sum(len(entry.lines) for entry in self.organisation.entries())
            step.fact(f"{shown(path)} equals the source: every entry, {number(values)} values, secrets excluded")

    def keep_apart(self) -> None:
        with self.telling.step("globex sees none of it") as step:
            people = self.acme_scim.get("/Users?count=20")["Resources"]
            groups = self.acme_scim.get("/Groups?count=20")["Resources"]
            for endpoint in KINDS.values():
                step.expect(0, self.globex_scim.total(endpoint), f"{endpoint} of globex")
            for endpoint, resources in (("Users", people), ("Groups", groups)):
                found = Counter(self.globex_scim.ask("GET", f"/{endpoint}/{one['id']}").status for one in resources)
                step.expect({404: 20}, dict(found), f"acme's ids asked for at globex, {endpoint}")
            stranger = Door(self.globex_scim.base_url, self.acme_scim.token).ask("GET", "/Users").status
            if stranger not in (401, 403, 404):
                step.complain(f"acme's token at globex was answered {stranger}")
            step.fact(f"no people, groups or units; 40 of acme's ids answer 404 there, acme's token {stranger}")

    def push(self) -> None:
        with self.telling.step("The application gets acme's people and groups") as step:
            self.acme.patch(f"/scim-targets/{self.target}", {"scope": "all"})
            self.wait_for_push(step)
            members = self.compare_receiver(step)
            people = self.organisation.people()
            active = self.organisation.active_people()
            step.fact(
                f"asked there: {number(len(active))} people, {len(self.organisation.groups())} groups and "
                f"{number(members)} memberships, the same names; {len(people) - len(active)} disabled or expired "
                "people are not sent"
            )

    def read_again(self) -> None:
        with self.telling.step("The same export again changes nothing") as step:
            event, there = self.last_event(), self.versions_at_receiver()
            run = self.imported(step, EXPORT)
            changed = {name: run[name] for name in ("created", "updated", "disabled", "removed")}
            step.expect(0, sum(changed.values()), f"changes {changed}")
            step.expect(run["read"], run["unchanged"], "entries unchanged")
            step.expect(event, self.last_event(), "newest event")
            step.expect([], self.waiting(), "deliveries")
            step.expect(True, there == self.versions_at_receiver(), "the receiver as it was")
            step.fact(f"{number(run['unchanged'])} unchanged: 0 changes, 0 events, 0 deliveries")

    def follow(self) -> None:
        """The next day's export."""
        with self.telling.step(
            "The next day: one leaves, one is disabled, one changes teams, a department is renamed"
        ) as step:
            organisation = self.organisation
            leaver, disabled, mover = self.leaver, self.disabled, self.mover
            organisation.leave(leaver)
            organisation.disable(disabled)
            renamed = organisation.rename_department(OLD_DEPARTMENT, NEW_DEPARTMENT)
            organisation.move(mover, "Sales", "Engineers")
            path = organisation.write(self.stage.path / "acme-next-day.ldif")
            run = self.imported(step, path)
            step.expect((1, 1), (run["removed"], run["disabled"]), "removed and disabled")
            self.signing_in.shut_out(step)
            self.compare_served(step)
            self.wait_for_push(step)
            self.compare_receiver(step, gone=frozenset({leaver, disabled}))
            for name in (leaver, disabled):
                step.expect(False, self.at_receiver(name).get("active"), f"{name} active at the receiver")
            departments = Counter(
                person.get(ENTERPRISE, {}).get("department")
                for person in self.receiver.resources("Users")
                if person.get("active")
            )
            now = Counter(entry.first("department") for entry in organisation.active_people().values())
            step.expect(dict(now), dict(departments), "people by department at the receiver")
            step.fact(
                f"{number(run['updated'])} updated, 1 removed, 1 disabled; at the receiver {leaver} and {disabled} are "
                f"inactive, {now[NEW_DEPARTMENT]} of {renamed} people of {NEW_DEPARTMENT} are active there, {mover} "
                "left Sales for Engineers"
            )

    def hold(self) -> None:
        """An export with half of the people, as a careless administrator makes it."""
        with self.telling.step("An export with half of the people is held, and rejected") as step:
            path = self.stage.path / "acme-next-day.ldif"
            halved = Organisation(path)
            missing = halved.halve()
            there = self.versions_at_receiver()
            run = self.imported(step, halved.write(self.stage.path / "acme-halved.ldif"), "held")
            found = (run["created"], run["updated"], run["removed"], run["disabled"])
            step.expect((0, 0, 0, 0), found, "created, updated, removed and disabled")
            self.compare_served(step)
            self.wait_for_push(step)
            step.expect(True, there == self.versions_at_receiver(), "the receiver as it was")
            step.fact(f"{missing} people missing: {number(run['held_removals'])} removals held. {run['hold_reason']}")
            after = self.acme.post(f"/sync-runs/{run['id']}/reject")
            step.expect("done", after["status"], "status after rejecting")
            again = self.imported(step, path)
            found = (again["created"], again["updated"], again["removed"], again["disabled"])
            step.expect((0, 0, 0, 0), found, "the complete export afterwards")
            step.expect([], self.waiting(), "deliveries")
            step.expect(True, there == self.versions_at_receiver(), "the receiver after all")
            step.fact("rejected; nobody was disabled anywhere, and the complete export after it finds all in place")

    def conclude(self) -> None:
        with self.telling.step("At the end all sides agree") as step:
            path = self.exported("acme-returned-next-day.ldif")
            for line in differences(self.stage.path / "acme-next-day.ldif", path)[:5]:
                step.complain(line)
            source, stored = self.organisation.counted(), Organisation(path).counted()
            there = {"person": len(self.active_at_receiver()), "group": self.receiver.total("Groups")}
            rows = []
            for kind, endpoint in KINDS.items():
                served = self.acme_scim.total(endpoint)
                step.expect((source[kind], source[kind]), (stored[kind], served), f"{endpoint} stored and served")
                cells = [number(value) for value in (source[kind], stored[kind], served)]
                rows.append([_WORDS[kind], *cells, number(there[kind]) if kind in there else "–"])
            step.fact(f"{shown(path)} equals the next day's export")
        self.telling.table(
            "acme's directory", ("", "in the export", "stored", "served by SCIM", "active at the receiver"), rows
        )

    def imported(self, step: Step, path: Path, wanted: str = "done") -> Json:
        """Import an export with the command an operator uses; returns the run, which ends as wanted.

        Raises Unexpected when the command itself fails.
        """
        with step.aside():
            self.telling.say(f"[dim]$ scaikey scim import --provider {self.provider} {shown(path)}[/]")
            status = self.stage.watch_scaikey("scim", "import", "--provider", self.provider, str(path))
        if status not in (_DONE, _HELD):
            raise Unexpected(f"scaikey scim import ended with status {status}")
        run: Json = self.acme.get(f"/sync-runs?provider_id={self.provider}&limit=1")["items"][0]
        step.expect({"done": _DONE, "held": _HELD}[wanted], status, "exit status of the import")
        step.expect(wanted, run["status"], "status of the run")
        return run

    def exported(self, name: str) -> Path:
        path = self.stage.path / name
        self.stage.scaikey("scim", "export", "--tenant", "acme", "--provider", self.provider, str(path))
        return path

    def compare_served(self, step: Step) -> None:
        """What acme's SCIM serves against the export."""
        counted = self.organisation.counted()
        for kind, endpoint in KINDS.items():
            step.expect(counted[kind], self.acme_scim.total(endpoint), f"{endpoint} served")
        people = [person["userName"] for person in self.acme_scim.resources("Users", "&attributes=userName")]
        step.same(set(self.organisation.people()), people, "people served")

    def wait_for_push(self, step: Step) -> None:
        """Until nothing is owed any more. Raises Unexpected when that takes too long."""
        deadline = time.monotonic() + _PUSH_PATIENCE
        while waiting := self.waiting():
            if (failed := [one for one in waiting if one["status"] != "pending"]) and len(failed) == len(waiting):
                step.complain(f"{len(failed)} deliveries are {failed[0]['status']}: {failed[0]['problem']}")
                return
            if time.monotonic() > deadline:
                raise Unexpected(f"{len(waiting)} or more deliveries still wait: {waiting[0]['problem']}")
            people, groups = self.receiver.total("Users"), self.receiver.total("Groups")
            step.progress(f"{number(people)} people and {groups} groups are there")
            self.stage.refuse_if_ended()
            time.sleep(0.5)

    def waiting(self) -> list[Json]:
        """The first deliveries owed to the target."""
        found: list[Json] = self.acme.get(f"/scim-targets/{self.target}/deliveries?limit=50")["items"]
        return found

    def compare_receiver(self, step: Step, gone: frozenset[str] = frozenset()) -> int:
        """What the receiver has against the export, people, groups and members by name; returns how many members."""
        people = {one["id"]: one for one in self.receiver.resources("Users")}
        groups = {one["id"]: one for one in self.receiver.resources("Groups")}
        active, inactive = (
            [one["userName"] for one in people.values() if bool(one.get("active")) is state] for state in (True, False)
        )
        step.same(set(self.organisation.active_people()), active, "active people at the receiver")
        step.same(gone, inactive, "inactive people there")
        step.same(set(self.organisation.groups()), [one["displayName"] for one in groups.values()], "groups there")
        names = {id: one.get("userName") or one["displayName"] for id, one in (people | groups).items()}
        wanted = self.organisation.active_members()
        total = 0
        for group in groups.values():
            named = (names.get(one["value"], one["value"]) for one in group.get("members") or [])
            members = [name for name in named if name not in gone]
            step.same(wanted.get(group["displayName"], set()), members, f"members of {group['displayName']} there")
            total += len(members)
        return total

    def active_at_receiver(self) -> list[Json]:
        return [person for person in self.receiver.resources("Users") if person.get("active")]

    def at_receiver(self, name: str) -> Json:
        return next((one for one in self.receiver.resources("Users") if one["userName"] == name), {})

    def versions_at_receiver(self) -> dict[str, Any]:
        """When each resource there was last changed, as the receiver says."""
        return {
            one["id"]: one["meta"]["lastModified"]
            for endpoint in ("Users", "Groups")
            for one in self.receiver.resources(endpoint)
        }

    def last_event(self) -> str:
        return str(self.acme.get("/events?limit=1")["items"][0]["id"])


_WORDS = {"person": "people", "group": "groups", "unit": "units"}
