"""What every story of the demo shares: the stage made ready, the sides asked, and what is compared between them.

Owns the steps that do not depend on how the directory comes in, and finding what each side has: ScaiKey's SCIM, its
audit log, the application's receiver. What happens in between is `story`'s and `following`'s, how it looks `telling`'s.
"""

from __future__ import annotations

import json
import stat
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.canonical_ldif import differences

from .application import AUDIENCE
from .asking import Door, Json, Unexpected
from .organisation import Organisation
from .signing_in import SigningIn
from .stage import Stage, keep_secret, shown
from .telling import Step, Telling, number

BASE_DN = "DC=ad,DC=acme,DC=test"
KINDS = {"person": "Users", "group": "Groups", "unit": "OrganizationalUnits"}
SIDES = ("stored", "served by SCIM", "active at the receiver")
"""Titles of the columns in which each side's numbers are shown, after the source's."""
_PUSH_PATIENCE = 300.0


@dataclass
class Play:
    stage: Stage
    telling: Telling

    organisation: Organisation = field(init=False)
    """acme as its own directory shows it at this moment of the story."""
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
    met: set[str] = field(init=False, default_factory=set)
    """The ids of everybody the receiver has ever had."""

    def play(self) -> None:
        """Raises Unexpected when it cannot go on; what merely differs is told and counted."""
        raise NotImplementedError

    def around(self) -> list[tuple[str, str]]:
        """What is worth looking at once the story is over, besides ScaiKey itself."""
        raise NotImplementedError

    def of_team(self, team: str) -> list[str]:
        people, members = self.organisation.active_people(), self.organisation.groups()[team].values("member")
        return [name for name in sorted(people) if people[name].dn.encode() in members]

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

    def offer(self, deprovision: str) -> None:
        """An application that wants acme's people, and its receiver, at which nobody is assigned yet."""
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
            "deprovision": deprovision,
        }
        self.target = self.acme.post("/scim-targets", receiver)["id"]

    def keep_apart(self) -> None:
        with self.telling.step("globex sees none of it") as step:
            people = self.acme_scim.get("/Users?count=20")["Resources"]
            groups = self.acme_scim.get("/Groups?count=20")["Resources"]
            for endpoint in KINDS.values():
                step.expect(0, self.globex_scim.total(endpoint), f"{endpoint} of globex")
            for endpoint, resources in (("Users", people), ("Groups", groups)):
                found = Counter(self.globex_scim.ask("GET", f"/{endpoint}/{one['id']}").status for one in resources)
                step.expect({404: len(resources)}, dict(found), f"acme's ids asked for at globex, {endpoint}")
            stranger = Door(self.globex_scim.base_url, self.acme_scim.token).ask("GET", "/Users").status
            if stranger not in (401, 403, 404):
                step.complain(f"acme's token at globex was answered {stranger}")
            asked = len(people) + len(groups)
            step.fact(f"no people, groups or units; {asked} of acme's ids answer 404 there, acme's token {stranger}")

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

    def wait_for_hold(self, step: Step) -> None:
        """Until all that is still owed is held by the target's guard. Raises Unexpected when that takes too long."""
        deadline = time.monotonic() + _PUSH_PATIENCE
        while {one["status"] for one in self.waiting()} != {"held"}:
            step.progress("the target's guard looks at it")
            self.stage.refuse_if_ended()
            if time.monotonic() > deadline:
                raise Unexpected("the target's guard holds nothing")
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
        self.met |= people.keys() | groups.keys()
        names = {id: one.get("userName") or one["displayName"] for id, one in (people | groups).items()}
        wanted = self.organisation.active_members()
        total = 0
        for group in groups.values():
            # This receiver keeps members whom it has deleted.
            there = (one["value"] for one in group.get("members") or [] if one["value"] not in self.met - names.keys())
            members = [name for id in there if (name := names.get(id, id)) not in gone]
            step.same(wanted.get(group["displayName"], set()), members, f"members of {group['displayName']} there")
            total += len(members)
        return total

    def active_at_receiver(self) -> list[Json]:
        return [person for person in self.receiver.resources("Users") if person.get("active")]

    def at_receiver(self, name: str) -> Json:
        found = self.receiver.resources("Users", f"&filter={quote(f'userName eq {json.dumps(name)}')}")
        return found[0] if found else {}

    def versions_at_receiver(self) -> dict[str, Any]:
        """When each resource there was last changed, as the receiver says."""
        return {
            one["id"]: one["meta"]["lastModified"]
            for endpoint in ("Users", "Groups")
            for one in self.receiver.resources(endpoint)
        }

    def last_event(self) -> str:
        return str(self.acme.get("/events?limit=1")["items"][0]["id"])

    def returned(self, step: Step, source: Path, name: str) -> Path:
        """The directory given back as LDIF, compared with where it came from."""
        path = self.exported(name)
        for line in differences(source, path)[:5]:
            step.complain(line)
        return path

    def sides(self, step: Step, stored: Organisation) -> list[list[str]]:
        """A line per kind: how many there are on each side."""
        source, kept = self.organisation.counted(), stored.counted()
        there = {"person": len(self.active_at_receiver()), "group": self.receiver.total("Groups")}
        rows = []
        for kind, endpoint in KINDS.items():
            served = self.acme_scim.total(endpoint)
            step.expect((source[kind], source[kind]), (kept[kind], served), f"{endpoint} stored and served")
            cells = [number(value) for value in (source[kind], kept[kind], served)]
            rows.append([_WORDS[kind], *cells, number(there[kind]) if kind in there else "–"])
        return rows


_WORDS = {"person": "people", "group": "groups", "unit": "units"}
