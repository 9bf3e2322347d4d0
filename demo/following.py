"""The main job against a live Active Directory: read by itself, followed while it changes, guarded, signed in with.

Owns the steps of `AD=live` and what is expected after each, worked out from a plain search of the directory that
ScaiKey has no part in. The directory is Samba's domain controller, stood up and changed by what the tests do it with.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.upstreams.missing import programs
from tests.upstreams.samba import (
    ADMIN_PASSWORD,
    DEBIAN_PYTHON,
    PACKAGES,
    PASSWORD,
    ActiveDirectory,
    active_directory,
)

from .asking import Json, Unexpected
from .organisation import Entry, Organisation
from .play import SIDES, Play
from .signing_in import TEAM, ByPassword
from .stage import CannotPlay, free_port, shown
from .telling import Step, Telling, number

PAUSED = {"enabled": False, "schedule": "1m", "full_every": "1d"}
FOLLOWED = {**PAUSED, "enabled": True}
_WHERE = [{"from": "distinguishedName", "to": "nickName"}]
"""Lets the receiver see where in the directory somebody is."""
_PATIENCE = 300.0
_ACCEPTED, _UNDER_WAY = 202, 409

Change = tuple[str, str, Callable[[Json], bool]]
"""What was done in the directory, whose account shows it at the receiver, and how."""


@contextmanager
def live_directory(telling: Telling) -> Iterator[ActiveDirectory]:
    """Raises CannotPlay where none can stand."""
    if os.geteuid():
        raise CannotPlay("AD=live gives Samba a network of its own, which only root may: sudo make demo AD=live")
    with ExitStack() as held:
        try:
            programs(PACKAGES, "samba", "samba-tool", DEBIAN_PYTHON)
        except (pytest.skip.Exception, pytest.fail.Exception):
            text = f"AD=live needs Samba; on Debian: apt-get install --no-install-recommends {PACKAGES}"
            raise CannotPlay(text) from None
        with telling.step("An Active Directory starts: Samba's domain controller, in a network of its own") as step:
            step.progress("the first time it is filled, which takes half a minute")
            try:
                directory = held.enter_context(active_directory())
            except (pytest.skip.Exception, AssertionError) as error:
                last = str(error).strip().splitlines()[-1:]
                raise CannotPlay(f"Samba does not start here: {' '.join(last)}") from None
            step.fact(f"{directory.domain} at {directory.url}, with a certificate of an authority of its own")
        yield directory


@dataclass
class Following(Play):
    ad: ActiveDirectory
    signing_in: ByPassword = field(init=False)
    disabled: str = field(init=False)
    """Signs in before."""

    def __post_init__(self) -> None:
        self.look("acme-at-first.ldif")
        names = (name for name in self.of_team(TEAM) if name > "user0004")
        self.disabled = next(names)
        self.signing_in = ByPassword(self, self.disabled, free_port(), password=password_of(self.disabled))

    def play(self) -> None:
        self.start()
        self.appoint()
        self.open_receiver()
        self.found_tenants()
        self.connect()
        self.read()
        self.give_back()
        self.keep_apart()
        self.push()
        self.signing_in.assign()
        self.signing_in.open()
        self.signing_in.refuse_wrong()
        self.signing_in.sign_in()
        self.follow()
        self.undo()
        self.hold()
        self.conclude()

    def look(self, name: str) -> Path:
        """What a plain search finds of people, groups and units, written as an export."""
        path = self.stage.path / name
        with path.open("wb") as file:
            for dn, attributes in self.ad.raw_read("dirsync", self.ad.corp):
                values = [("dn", dn.encode()), *((name, value) for name, all in attributes.items() for value in all)]
                lines = [f"{name}:: ".encode() + base64.b64encode(value) for name, value in values]
                if Entry(lines).kind() != "other":
                    file.write(b"\n".join(lines) + b"\n\n")
        self.organisation = Organisation(path)
        return path

    def connect(self) -> None:
        user, password = self.ad.service("dirsync")
        with self.telling.step("acme's Active Directory is named, and every question about it is answered") as step:
            wanted = {
                "kind": "ldap",
                "name": "Active Directory",
                "config": {
                    "source": "ldap",
                    "servers": [self.ad.url],
                    "ca_certificates": self.ad.ca,
                    "bind_dn": user,
                    "bind_password": password,
                    "base_dns": [self.ad.corp],
                },
                "attribute_mapping": _WHERE,
                "sign_in": True,
                "sync": PAUSED,
            }
            made = self.acme.post("/identity-providers", wanted)
            self.provider = made["id"]
            step.expect("***", made["config"].get("bind_password"), "the account's password, read back")
            verdict = self.acme.post(f"/identity-providers/{self.provider}/test")
            for one in verdict["steps"]:
                step.expect(True, one["ok"], f"{one['name']}: {one['found']} {one['mend']}")
                step.fact(f"{one['name']:<12} {one['found']}")
            self.offer(deprovision="delete")

    def read(self) -> None:
        """The first run, compared with a plain search by name."""
        with self.telling.step("Its schedule is switched on, and the directory is read by itself") as step:
            self.acme.patch(f"/identity-providers/{self.provider}", {"sync": FOLLOWED})
            run = self.ended(step, lambda: self.newest())
            counted = self.organisation.counted()
            total = sum(counted.values())
            step.expect(("full", total, 0), (run["kind"], run["read"], run["skipped"]), "kind, read and skipped")
            self.compare_served(step)
            step.fact(
                f"{number(total)} records at {number(round(run['rate'] or 0))} a second, none skipped; SCIM serves "
                f"{number(counted['person'])} people, {counted['group']} groups and {counted['unit']} units of acme, "
                "the names a plain search finds one by one"
            )

    def give_back(self) -> None:
        with self.telling.step("Nothing is lost: the directory given back as LDIF equals a plain search") as step:
            path = self.returned(step, self.look("acme-searched.ldif"), "acme-returned.ldif")
            values = sum(len(entry.lines) for entry in self.organisation.entries())
            step.fact(f"{shown(path)}: every person, group and unit, {number(values)} values, byte by byte")

    def follow(self) -> None:
        """What administrators do in a day, seen at the receiver after one delta that nobody asked for."""
        with self.telling.step("Ten changes in the directory; within a minute the schedule has found them") as step:
            changes = self.change({one["userName"]: one["id"] for one in self.receiver.resources("Users")})
            moment = datetime.now(UTC)
            run = self.ended(step, lambda: self.newest(moment))
            step.expect("delta", run["kind"], "kind of the run")
            self.look("acme-changed.ldif")
            self.compare_served(step)
            self.wait_for_push(step)
            self.compare_receiver(step, gone=frozenset({self.disabled}))
            there = {one["userName"]: one for one in self.receiver.resources("Users")}
            for what, name, holds in changes:
                step.expect(True, holds(there.get(name, {})), what)
                step.fact(what)
            self.signing_in.shut_out(step)
            step.fact(f"{run['read']} records were read for it, of {number(sum(self.organisation.counted().values()))}")

    def change(self, ids: Mapping[str, str]) -> list[Change]:
        """`ids`: what the receiver calls everybody before."""
        ad, people = self.ad, self.organisation.people()
        renamed, moved, joins, deleted, remade = [name for name in sorted(people) if name.startswith("plain")][10:15]
        leaves = next(name for name in self.of_team("Sales") if name > "user0080")
        wed = f"paula.wed@{ad.domain}"
        unit, _ = ad.search("(&(objectClass=organizationalUnit)(ou=Vertrieb*))")[0]
        below = next(name for name, entry in self.organisation.active_people().items() if entry.dn.endswith(unit))
        team = {name: group.dn for name, group in self.organisation.groups().items()}

        ad.add_member(team[TEAM], ad.add_user("nora.new", displayName="Nora New"))
        ad.set(ad.rename(people[renamed].dn, "Wed, Paula"), sn="Wed", userPrincipalName=wed)
        ad.move(people[moved].dn, ad.people)
        ad.disable(people[self.disabled].dn)
        ad.add_member(team["Sales"], people[joins].dn)
        ad.remove_member(team["Sales"], people[leaves].dn)
        ad.rename(unit, "Sales North")
        ad.delete(people[deleted].dn)
        ad.delete(people[remade].dn)
        ad.add_user(remade.partition("@")[0], f"OU=Plain,{ad.corp}")
        ad.delete(team["Everyone"])

        def stays(name: str, before: str) -> Callable[[Json], bool]:
            """The same account, at the place where the directory has the person now."""
            return lambda one: (
                one.get("id") == ids[before] and one.get("nickName") == self.organisation.people()[name].dn
            )

        return [
            ("created:    nora.new, of Engineers", f"nora.new@{ad.domain}", lambda one: one.get("active") is True),
            (f"renamed:    {renamed} is {wed}, the same account", wed, stays(wed, renamed)),
            (f"moved:      {moved} to another unit", moved, stays(moved, moved)),
            (f"disabled:   {self.disabled}", self.disabled, lambda one: one.get("active") is False),
            (f"joined:     {joins} is in Sales", joins, stays(joins, joins)),
            (f"left:       {leaves} is not", leaves, stays(leaves, leaves)),
            (f"unit:       renamed, and {below} is told to be below the new name", below, stays(below, below)),
            (f"deleted:    {deleted}", deleted, lambda one: not one),
            (f"made anew:  {remade} is somebody else", remade, lambda one: one.get("id") not in (None, ids[remade])),
            ("a group:    Everyone is deleted, and nobody with it", joins, stays(joins, joins)),
        ]

    def undo(self) -> None:
        with self.telling.step("A unit with everybody in it is dragged out of what is read, and back") as step:
            self.acme.patch(f"/identity-providers/{self.provider}", {"sync": PAUSED})
            outside = self.ad.move(self.ad.people, self.ad.base_dn)
            run = self.nothing_changes(step, "held")
            step.fact(f"{number(run['held_removals'])} removals held. {run['hold_reason']}")
            self.ad.move(outside, self.ad.corp)
            self.nothing_changes(step)
            held = self.acme.get(f"/sync-runs/{run['id']}")
            step.expect("done", held["status"], "status of the held run after the next one")
            step.fact("dragged back: the next delta lets go of all of it, and nothing has happened anywhere")

    def hold(self) -> None:
        with self.telling.step("Half of the people are deleted: held, and done once somebody approves") as step:
            there = self.versions_at_receiver().keys()
            people = self.organisation.people()
            leavers = sorted(people)[1::2]
            for done, name in enumerate(leavers):
                step.progress(f"{done} of {len(leavers)} deleted")
                self.ad.delete(people[name].dn)
            run = self.nothing_changes(step, "held")
            step.fact(f"{number(run['held_removals'])} removals held. {run['hold_reason']}")
            after = self.acme.post(f"/sync-runs/{run['id']}/approve")
            step.expect(("done", len(leavers)), (after["status"], after["removed"]), "status and removed when approved")
            self.look("acme-halved.ldif")
            self.compare_served(step)
            self.wait_for_hold(step)
            step.expect(True, there == self.versions_at_receiver().keys(), "who is at the receiver")
            self.acme.post(f"/scim-targets/{self.target}/resume", {"removals": "approve"})
            self.wait_for_push(step)
            self.compare_receiver(step, gone=frozenset({self.disabled} - set(leavers)))
            step.fact("approved here, held once more by the target's own guard, approved there: gone on both sides")

    def conclude(self) -> None:
        with self.telling.step("A full pass finds nobody who was missed: all sides agree") as step:
            run = self.nothing_changes(step, full=True)
            step.expect(("full", 0), (run["kind"], run["skipped"]), "kind and skipped")
            path = self.returned(step, self.look("acme-at-last.ldif"), "acme-returned-at-last.ldif")
            rows = self.sides(step, Organisation(path))
            self.acme.patch(f"/identity-providers/{self.provider}", {"sync": FOLLOWED})
            step.fact(f"{number(run['read'])} records, nobody new and nobody gone; {shown(path)} equals a plain search")
        self.telling.table("acme's directory", ("", "in the directory", *SIDES), rows)

    def around(self) -> list[tuple[str, str]]:
        known = next(name for name in self.of_team(TEAM) if name > "user0004")
        ca = self.ad.folder / "tls/ca.pem"
        return [
            ("The Intranet", f"http://localhost:{self.signing_in.port} – be {known}, {password_of(known)}"),
            ("The directory", f"LDAPTLS_CACERT={ca} ldapmodify -H {self.ad.url} -D Administrator@{self.ad.domain} -W"),
            ("Its password", f"{ADMIN_PASSWORD}; what you change is followed every minute"),
        ]

    def run_now(self, step: Step, wanted: str = "done", **how: bool) -> Json:
        """A run that is asked for, which ends as wanted."""
        deadline = time.monotonic() + _PATIENCE
        while (answer := self.acme.ask("POST", f"/identity-providers/{self.provider}/sync", how)).status == _UNDER_WAY:
            if time.monotonic() > deadline:
                raise Unexpected("another run of the provider does not end")
            time.sleep(0.5)
        if answer.status != _ACCEPTED:
            raise Unexpected(f"a run was asked for, and the answer was {answer.status}: {answer.body}")
        return self.ended(step, lambda: self.acme.get(f"/sync-runs/{answer.body['id']}"), wanted)

    def newest(self, after: datetime | None = None) -> Json | None:
        """The provider's newest run; None when there is none, or none that began later."""
        runs = self.acme.get(f"/sync-runs?provider_id={self.provider}&limit=1")["items"]
        begun = datetime.fromisoformat(runs[0]["started_at"]) if runs and runs[0]["started_at"] else None
        if not runs or (after is not None and (begun is None or begun < after)):
            return None
        return dict(runs[0])

    def ended(self, step: Step, find: Callable[[], Json | None], wanted: str = "done") -> Json:
        """The run once it is there and over, its progress shown. Raises Unexpected when that takes too long."""
        deadline = time.monotonic() + _PATIENCE
        while (run := find()) is None or run["status"] == "running":
            step.progress("waits for its time" if run is None else _so_far(run))
            self.stage.refuse_if_ended()
            if time.monotonic() > deadline:
                raise Unexpected(f"no run has ended after {_PATIENCE:.0f} seconds")
            time.sleep(0.2)
        step.expect(wanted, run["status"], f"status of the run ({run['problem'] or run['hold_reason']})")
        return run

    def nothing_changes(self, step: Step, wanted: str = "done", **how: bool) -> Json:
        """A run in which nobody comes or goes, and after which the receiver is as it was."""
        there = self.versions_at_receiver()
        run = self.run_now(step, wanted, **how)
        changed = {name: run[name] for name in ("created", "disabled", "removed")}
        step.expect(0, sum(changed.values()), f"changes {changed}")
        self.wait_for_push(step)
        step.expect(True, there == self.versions_at_receiver(), "the receiver as it was")
        return run


def password_of(person: str) -> str:
    return f"{PASSWORD}{int(person[4:8])}"


def _so_far(run: Json) -> str:
    words = f"{number(run['read'])} of {number(run['total'])} records" if run["total"] else f"{run['read']} records"
    if run["rate"]:
        words += f", {run['rate']:.0f} a second"
    return words if run["remaining_seconds"] is None else f"{words}, about {run['remaining_seconds']} s left"
