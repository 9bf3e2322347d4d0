"""The main job, step by step: a directory read without loss, served to its tenant alone, pushed into an application.

Owns the order of the steps and what is expected after each, worked out from the export by `organisation` and found by
asking the other side: ScaiKey's SCIM, its audit log, the application's receiver. How it looks is `telling`'s.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from .asking import ENTERPRISE, Json, Unexpected
from .organisation import Organisation
from .play import BASE_DN, SIDES, Play
from .provisioning import Provisioning
from .signing_in import TEAM, VISITOR, Federated
from .stage import ROOT, free_port, shown
from .telling import Step, number

EXPORT = ROOT / "tests" / "data" / "acme.ldif"
OLD_DEPARTMENT, NEW_DEPARTMENT = "Ingénierie", "Engineering"
_DONE, _HELD = 0, 3
"""Exit statuses of an import."""


@dataclass
class Story(Play):
    signing_in: Federated = field(init=False)
    provisioning: Provisioning = field(init=False)
    leaver: str = field(init=False)
    disabled: str = field(init=False)
    """Signs in before."""
    mover: str = field(init=False)
    """Somebody of Sales who changes teams."""

    def __post_init__(self) -> None:
        self.organisation = Organisation(EXPORT)
        people = self.organisation.active_people()
        self.leaver = next(name for name in sorted(people) if name.startswith("plain"))
        self.mover = self.of_team("Sales")[0]
        self.disabled, visitor = self.of_team(TEAM)[:2]
        self.signing_in = Federated(self, self.disabled, free_port(), visitor=visitor)
        self.provisioning = Provisioning(self)

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
        self.signing_in.open()
        self.signing_in.sign_in()
        self.read_again()
        self.provisioning.pause()
        self.follow()
        self.provisioning.foresee({self.leaver, self.disabled}, OLD_DEPARTMENT, NEW_DEPARTMENT)
        self.provisioning.resume()
        self.arrive()
        self.hold()
        self.provisioning.hold()
        self.provisioning.heal()
        self.conclude()

    def connect(self) -> None:
        with self.telling.step("acme's Active Directory comes in, an application wants its people") as step:
            config = {"source": "ldif", "base_dn": BASE_DN}
            upstream = {"kind": "ldap", "name": "Active Directory", "config": config}
            self.provider = self.acme.post("/identity-providers", upstream)["id"]
            self.offer(deprovision="disable")
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
            path = self.returned(step, EXPORT, "acme-returned.ldif")
            values = sum(len(entry.lines) for entry in self.organisation.entries())
            step.fact(f"{shown(path)} equals the source: every entry, {number(values)} values, secrets excluded")

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
            step.fact(
                f"{number(run['updated'])} updated, 1 removed, 1 disabled; {renamed} people are of {NEW_DEPARTMENT}"
            )

    def arrive(self) -> None:
        with self.telling.step("Resumed, the application gets exactly that") as step:
            organisation = self.organisation
            leaver, disabled, mover = self.leaver, self.disabled, self.mover
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
                f"at the receiver {leaver} and {disabled} are inactive, {now[NEW_DEPARTMENT]} people of "
                f"{NEW_DEPARTMENT} are active there, {mover} left Sales for Engineers"
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
            path = self.returned(step, self.stage.path / "acme-next-day.ldif", "acme-returned-next-day.ldif")
            rows = self.sides(step, Organisation(path))
            step.fact(f"{shown(path)} equals the next day's export")
        self.telling.table("acme's directory", ("", "in the export", *SIDES), rows)

    def around(self) -> list[tuple[str, str]]:
        return [("The Intranet", f"http://localhost:{self.signing_in.port} – be {VISITOR} at acme's identity provider")]

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
