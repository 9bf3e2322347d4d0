"""Everything at a target against everything that should be there, page by page.

Owns the walk (people, groups with their members, then whoever was not met) and what follows from a difference: drift
that is listed, and by the target's policy a delivery that heals it. What a page shows is compared in one transaction
with its position, so that a killed comparison goes on where it was; no transaction is open while the target is asked.
Accounts that were never ours are listed and left alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

from flask import current_app

from broker.context import Scope, acting, system
from broker.db import unit
from broker.models import ScimTarget, TargetRun
from broker.vault import VaultError
from scim.client import Missing, Overlong, Remote, TargetClient, TargetError

from . import comparisons, drift, membership, plan
from .compare import differences
from .comparisons import ATTEMPTS, Comparison, Superseded
from .drift import Finding
from .outbox import backoff
from .run import client_of
from .work import Target, Work, read_target

PAGE = 100
_GLANCE = 0.5
"""Seconds between looks at a comparison that is another's, or not due yet."""
_PHASES = {"User": "Group", "Group": "missing"}

log = logging.getLogger("scaikey.push")


def compare_due(stopping: Callable[[], bool]) -> None:
    """Carry out the comparisons that are due, one after the other, until none is or `stopping` says so."""
    with acting(system("push")):
        while not stopping() and (run := comparisons.claim()) is not None:
            _keep_apart(run, stopping)


def compare_now(scope: Scope, run_id: str, watch: Callable[[TargetRun], None]) -> TargetRun:
    """Bring one comparison to its end before somebody's eyes: here, or watching whoever has it. Needs no open unit."""

    def watched() -> bool:
        watch(_looked_at(scope, run_id))
        return False

    with acting(system("push")):
        while True:
            row = _looked_at(scope, run_id)
            watch(row)
            if row.finished_at is not None:
                return row
            run = comparisons.claim(run_id)
            if run is None:
                time.sleep(_GLANCE)
            else:
                _keep_apart(run, watched)


def _looked_at(scope: Scope, run_id: str) -> TargetRun:
    with unit(scope) as session:
        row = session.get_one(TargetRun, (scope.tenant_id, run_id))
        session.expunge(row)
    return row


def _keep_apart(run: Comparison, stopping: Callable[[], bool]) -> None:
    """A defect met in one comparison ends that one alone."""
    try:
        _carry_out(run, stopping)
    except Superseded:
        log.warning("comparison %s was taken over", run.id)
    except Exception:
        log.exception("comparison %s came upon a defect of ours", run.id)
        with unit(run.scope):
            comparisons.end(run, "failed", "A defect of ours ended it; see the log of the worker.")


def _carry_out(run: Comparison, stopping: Callable[[], bool]) -> None:
    try:
        with unit(run.scope) as session:
            target = read_target(run.scope, run.target_id)
            row = session.get_one(ScimTarget, (run.scope.tenant_id, run.target_id))
            ignored = frozenset(row.reconcile.get("ignore", ()))
    except VaultError as error:
        with unit(run.scope):
            comparisons.end(run, "failed", f"Its credential cannot be opened: {error}")
        return
    if target is None:
        with unit(run.scope):
            comparisons.wait(run, "The target is paused.", 300.0)
        return
    walk = _Walk(run, target, client_of(cast(Any, current_app)._get_current_object(), target), ignored)
    try:
        while run.phase != "missing":
            if stopping():
                with unit(run.scope):
                    comparisons.wait(run, None, 0.0)
                return
            walk.page()
        while walk.not_met():
            pass
    except TargetError as error:
        with unit(run.scope):
            if error.again and run.attempt < ATTEMPTS:
                comparisons.wait(run, str(error), error.retry_after or backoff(run.attempt + 2))
            else:
                comparisons.end(run, "failed", str(error))


class _Walk:
    """One comparison on its way."""

    def __init__(self, run: Comparison, target: Target, client: TargetClient, ignored: frozenset[str]) -> None:
        self.run = run
        self.target = target
        self.client = client
        self.ignored = ignored
        self.overlong: list[str] = []
        """Groups whose members are too many to be told in an answer."""

    def page(self) -> None:
        """Compare one page of a listing."""
        kind, run = self.run.phase, self.run
        remotes, total, following = self.client.page(kind, run.position)
        members = self._members(remotes) if kind == "Group" else {}
        with unit(run.scope):
            comparisons.hold(run)
            found = drift.keep(self.target, run, self._compared(kind, remotes, members), self.ignored)
            phase = kind if following is not None else _PHASES[kind]
            comparisons.advance(run, phase, following, len(remotes), drift.total(self.target, total, kind), found)

    def _members(self, remotes: Sequence[Remote]) -> dict[str, list[str]]:
        """Of the groups of this page that are ours: who is in them there."""
        with unit(self.run.scope):
            ours = drift.known(self.target, "Group", [remote.id for remote in remotes])
        members = {}
        for remote_id in ours:
            self._hold()
            found: list[str] = []
            try:
                for page in membership.pages(self.client, remote_id):
                    found += page
                    self._hold()
                members[remote_id] = found
            except Missing:
                continue
            except Overlong as error:
                log.warning("members are not compared: %s", error, extra={"tenant": self.target.tenant})
                self.overlong.append(remote_id)
        return members

    def _hold(self) -> None:
        with unit(self.run.scope):
            comparisons.hold(self.run)

    def _compared(self, kind: str, remotes: Sequence[Remote], members: dict[str, list[str]]) -> list[Finding]:
        remote_ids = [remote.id for remote in remotes]
        drift.met(self.target, kind, remote_ids, self.run.no)
        ours = drift.known(self.target, kind, remote_ids)
        claimed = drift.claimed(
            self.target,
            kind,
            {remote.id: str(remote.get("externalId") or "") for remote in remotes if remote.id not in ours},
        )
        works = {
            remote_id: Work(self.target, kind, resource_id, "push", 0, 0, 0, None, False)
            for remote_id, resource_id in {**claimed, **ours}.items()
        }
        there = plan.decide(self.target, list(works.values())) if works else {}
        owed = drift.owed(self.target, [work.resource_id for work in works.values()])
        findings = []
        for remote in remotes:
            work = works.get(remote.id)
            if work is None:
                name = remote.get("userName" if kind == "User" else "displayName")
                findings.append(Finding("unexpected", kind, remote.id, None, remote.id, str(name)))
            elif work.resource_id in owed:
                continue  # a push of it is on its way
            elif remote.id in claimed:
                remembered = there.get(work.resource_id)
                if remembered is None or remembered.remote_id is None:
                    findings.append(_returned(work, remote))
                else:
                    findings.append(Finding("unexpected", kind, remote.id, work.resource_id, remote.id, work.name))
            else:
                state = there[work.resource_id].state
                differing = self._differing(work, remote, state)
                if remote.id in members:
                    lost, extra = drift.member_differences(self.target, work.resource_id, members[remote.id])
                    if lost or extra:
                        differing["members"] = {"missing": len(lost), "unexpected": len(extra)}
                        if self.heals("changed"):
                            drift.doubt_members(self.target, work.resource_id, [*lost, *extra])
                if differing:
                    key = work.resource_id
                    findings.append(Finding("changed", kind, key, key, remote.id, work.name, differing))
        return findings

    def heals(self, kind: str) -> bool:
        return self.run.policy == "overwrite" and kind not in self.ignored

    def _differing(self, work: Work, remote: Remote, state: str) -> dict[str, Any]:
        if work.gone:
            back = work.resource_type == "User" and state == "disabled" and remote.get("active") is True
            return {"active": {"expected": False, "found": True}} if back else {}
        plain = not self.target.mapping and self.target.profile.attributes is None
        return dict(differences(work.document, remote.document, surplus=plain and work.resource_type == "User"))

    def not_met(self) -> bool:
        """One page of what should be there and was in no listing; whether there is another."""
        run = self.run
        with unit(run.scope):
            comparisons.hold(run)
            page = drift.unmet(self.target, run.no, run.position or "", PAGE)
        gone = []
        for one in page:
            try:
                # A listing under change may leave somebody out.
                self.client.read(one.resource_type, one.remote_id)
            except Missing:
                gone.append(one)
        with unit(run.scope):
            comparisons.hold(run)
            works = [
                Work(self.target, one.resource_type, one.resource_id, "push", 0, 0, 0, None, False) for one in gone
            ]
            if works:
                plan.decide(self.target, works)
            owed = drift.owed(self.target, [work.resource_id for work in works])
            findings = [
                Finding("missing", work.resource_type, work.resource_id, work.resource_id, work.remote_id, work.name)
                for work in works
                if not work.gone and work.resource_id not in owed
            ]
            found = drift.keep(self.target, run, findings, self.ignored)
            if page:
                comparisons.advance(run, "missing", page[-1].resource_id, 0, None, found)
            if len(page) == PAGE:
                return True
            drift.forget_old(self.target, run.no)
            comparisons.end(run, "done", self.reservation())
        return False

    def reservation(self) -> str | None:
        """What a comparison that is done has left out."""
        if not self.overlong:
            return None
        few = ", ".join(self.overlong[:3])
        return f"The members of {len(self.overlong)} groups are too many to be compared: {few}."


def _returned(work: Work, remote: Remote) -> Finding:
    """It bears our id, and we know of none of ours there: made by a hand that was cut off, or brought back."""
    key, returned = work.resource_id, {"id": {"expected": None, "found": remote.id}}
    if work.gone:
        return Finding("unexpected", work.resource_type, remote.id, key, remote.id, work.name, returned, ours=True)
    return Finding("changed", work.resource_type, key, key, remote.id, work.name, returned)
