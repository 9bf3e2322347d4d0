"""The application's receiver looked after: what would be sent is shown first, what would be taken away waits, and what
somebody changed there is found and put right.

Owns the scenes about the target; each asks the receiver itself, before and after. The rest is the stories'.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .asking import ENTERPRISE, Json, Unexpected
from .signing_in import TEAM
from .telling import number

if TYPE_CHECKING:
    from .play import Play

_PREVIEWED = 50
_PATIENCE = 120.0
_DEPARTMENT = f"{ENTERPRISE}:department"


@dataclass
class Provisioning:
    story: Play

    def pause(self) -> None:
        self.story.acme.patch(self.target, {"status": "paused"})

    def foresee(self, leaving: set[str], old: str, new: str) -> None:
        """What is owed to the paused target: people who leave, and a department that has another name."""
        story = self.story
        with story.telling.step("What the application would get is shown first, and nothing happens there") as step:
            there = story.versions_at_receiver()
            plan = story.acme.post(f"{self.target}/preview", {"limit": _PREVIEWED})
            counts, items = plan["counts"], plan["items"]
            step.expect((0, 0), (counts["create"], counts["delete"]), "to be created and deleted")
            step.same(leaving, [one["name"] for one in items if one["deed"] == "disable"], "to be disabled")
            step.expect([], [one["problem"] for one in items if one["problem"]], "problems")
            step.fact(f"{number(counts['update'])} updates and {counts['disable']} to be disabled, among them:")
            for one in (one for one in items if one["deed"] == "disable"):
                step.fact(f"disable  {one['name']}")
            renamed = [one for one in items if _DEPARTMENT in one["differences"]]
            step.expect(True, bool(renamed), "whether somebody's department is among the differences")
            for one in renamed[:2]:
                department = one["differences"][_DEPARTMENT]
                step.expect({"expected": new, "found": old}, department, f"department of {one['name']}")
                shown = story.at_receiver(one["name"]).get(ENTERPRISE, {}).get("department")
                step.expect(old, shown, f"department of {one['name']}, asked there")
                step.fact(f"update   {one['name']}: department {old} → {new}")
            for one in items:
                if any(one["members"].values()):
                    added, removed = one["members"]["add"], one["members"]["remove"]
                    step.fact(f"update   group {one['name']}: {added} to be added, {removed} to be removed")
            step.expect(True, there == story.versions_at_receiver(), "the receiver as it was")

    def resume(self, **decision: str) -> None:
        self.story.acme.post(f"{self.target}/resume", decision)

    def hold(self) -> None:
        """Somebody narrows the target to what is assigned, which is one team."""
        story = self.story
        with story.telling.step(f"The target is narrowed to {TEAM}: removing all others is held, and rejected") as step:
            there, active = story.versions_at_receiver(), story.receiver.total("Users", "active eq true")
            story.acme.patch(self.target, {"scope": "assigned"})
            story.wait_for_hold(step)
            held = Counter(one["resource_type"] for one in story.acme.items(f"{self.target}/deliveries?status=held"))
            [event] = story.acme.get("/events?name=scim_target.removals_held&limit=1")["items"]
            step.expect(held.total(), event["changed"]["removals"], "removals the audit log tells of")
            step.expect(active, story.receiver.total("Users", "active eq true"), "active people at the receiver")
            step.fact(f"{number(held['User'])} people and {held['Group']} groups held. {event['changed']['reason']}")
            self.resume(removals="reject")
            story.acme.patch(self.target, {"scope": "all"})
            story.wait_for_push(step)
            step.expect(True, there == story.versions_at_receiver(), "the receiver after all")
            step.fact("rejected, and the target has everybody again; at the receiver nothing has happened")

    def heal(self) -> None:
        """Somebody meddles at the receiver; a comparison finds what, and what is ours is put right."""
        story = self.story
        with story.telling.step("Somebody changes things at the receiver itself: found one by one, and healed") as step:
            people = story.organisation.active_people()
            promoted, deleted = [name for name in sorted(people) if people[name].first("title")][:2]
            stranger = "mallory@elsewhere.test"
            self.meddle(promoted, deleted, stranger)
            run = self.compared()
            found = {one["name"]: one for one in story.acme.items(f"{self.target}/drift")}
            kinds = {name: one["kind"] for name, one in found.items()}
            step.expect({promoted: "changed", deleted: "missing", stranger: "unexpected"}, kinds, "drift")
            step.fact(f"{number(run['done'])} people and groups compared:")
            title = found.get(promoted, {}).get("differences", {}).get("title")
            if title is None:
                raise Unexpected(f"the comparison finds no other title: {found}")
            step.fact(f"changed     {promoted}: title {title['found']}, not {title['expected']}")
            step.fact(f"missing     {deleted}")
            step.fact(f"unexpected  {stranger}, an account that was never ours")
            story.wait_for_push(step)
            shown = story.at_receiver(promoted)
            step.expect((title["expected"], True), (shown.get("title"), shown.get("active")), f"{promoted} there again")
            step.expect(True, story.at_receiver(deleted).get("active"), f"whether {deleted} is there again")
            self.dismiss(stranger)
            again = self.compared()
            left = (again["missing"], again["changed"], again["unexpected"])
            step.expect((0, 0, 0), left, "missing, changed and unexpected afterwards")
            step.fact(
                f"asked there: {promoted} has the title of before, {deleted} an account again; {stranger} was left "
                "alone, for the administrator there to remove, who did; another comparison finds all in place"
            )

    def meddle(self, promoted: str, deleted: str, stranger: str) -> None:
        there = self.story.receiver
        king = self.story.at_receiver(promoted)
        self._ask("PUT", f"/Users/{king['id']}", {**king, "title": "King"})
        self._ask("DELETE", f"/Users/{self.story.at_receiver(deleted)['id']}")
        schemas = ["urn:ietf:params:scim:schemas:core:2.0:User"]
        there.post("/Users", {"schemas": schemas, "userName": stranger, "active": True})

    def dismiss(self, stranger: str) -> None:
        self._ask("DELETE", f"/Users/{self.story.at_receiver(stranger)['id']}")

    def compared(self) -> Json:
        """A comparison that puts right what differs, once it is over. Raises Unexpected when that takes too long."""
        story = self.story
        asked = story.acme.post(f"{self.target}/reconcile", {"policy": "overwrite"})["id"]
        deadline = time.monotonic() + _PATIENCE
        while True:
            run: dict[str, Any] = story.acme.get(f"{self.target}/runs?limit=1")["items"][0]
            if run["id"] == asked and run["status"] == "done":
                return run
            if run["status"] == "failed" or time.monotonic() > deadline:
                raise Unexpected(f"the comparison is {run['status']}: {run['problem']}")
            story.stage.refuse_if_ended()
            time.sleep(0.2)

    @property
    def target(self) -> str:
        return f"/scim-targets/{self.story.target}"

    def _ask(self, method: str, path: str, body: Json | None = None) -> None:
        """At the receiver, by its own administrator. Raises Unexpected."""
        answer = self.story.receiver.ask(method, path, body)
        if answer.status >= 300:
            raise Unexpected(f"{method} {path} at the receiver answered {answer.status}: {answer.body}")
