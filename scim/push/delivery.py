"""Carrying out one delivery at its target.

Owns the order of requests: find before create, adopt what is ours, replace or patch, members as differences,
disable or delete, and a second look before anything is made anew. Any of it may be cut off at any point and done
again. Decides nothing about who should be where, and opens a unit of work only between requests.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from broker.db import unit
from scim.client import (
    Busy,
    Clash,
    Closed,
    Denied,
    Missing,
    NoTarget,
    Refused,
    Remote,
    TargetClient,
    TargetError,
    Troubled,
    Unreachable,
    Unsupported,
)

from . import ledger, mapping, render
from .outbox import backoff
from .work import Outcome, Work

_PAGE = 2_000
_SHORT_WAIT = 60.0
_NO_ACCESS_WAIT = 30.0
_TROUBLES = 8
"""So many failures in a row are the target's, not the resources'."""

NAMES = {"User": "userName", "Group": "displayName"}


Refusal = tuple[str, TargetError]
"""A member, and with what the target refused him."""


class LeaseLost(Exception):
    """Somebody else has this work by now."""


class StillThere(Refused):
    """404 to a PATCH of what can be read: of a member, perhaps, or because the target knows no PATCH."""


@dataclass(slots=True)
class Channel:
    """The way to one target during one run, and what was learnt of it on the way."""

    client: TargetClient
    takes_put: bool = True
    takes_patch: bool = True
    takes_bulk: bool = True
    probing: bool = False
    probed: bool = False
    """It was asked in this run what it can do."""
    stopped: bool = False
    troubles: int = 0

    @property
    def puts(self) -> bool:
        return self.takes_put and self.client.profile.put


def carry_out(work: Work, channel: Channel) -> Outcome | None:
    """Do what the work says; None when it turned out to be somebody else's. Needs an app context."""
    if channel.stopped:
        return Outcome(work, "back")
    errand = Errand(work, channel)
    try:
        outcome = _DEEDS[work.deed](errand)
    except LeaseLost:
        return None
    except TargetError as error:
        return failed(errand, error)
    channel.troubles = 0
    return outcome


def failed(errand: Errand, error: TargetError) -> Outcome:
    work, channel = errand.work, errand.channel
    outcome = Outcome(work, "later", problem=str(error), exchange=error.told)
    if errand.standing is not None:
        outcome.state, outcome.remote_id, outcome.digest = "present", errand.standing, work.digest
    if not error.again:
        outcome.kind, outcome.never_there = "failed", errand.refused
        return outcome
    channel.troubles += 1
    everywhere = error.everywhere or channel.troubles >= _TROUBLES
    if everywhere:
        channel.stopped = True
    # A credential that ran out or a wrong address is no resource's fault: nobody is given up for it.
    shut = isinstance(error, Closed | Denied)
    outcome.counts = not shut
    outcome.wait = backoff(work.attempts)
    if error.retry_after is not None:
        outcome.wait = error.retry_after
    elif shut:
        outcome.wait = _NO_ACCESS_WAIT
    elif isinstance(error, Unreachable | Busy):
        outcome.wait = min(outcome.wait, _SHORT_WAIT)
    if everywhere:
        outcome.pause = error.retry_after or (_NO_ACCESS_WAIT if isinstance(error, Denied | Closed) else 0.0)
    return outcome


class Errand:
    """One work on its way; every method is a step that may be repeated."""

    def __init__(self, work: Work, channel: Channel) -> None:
        self.work = work
        self.channel = channel
        self.client = channel.client
        self.kind = work.resource_type
        self.refused = False
        """It was looked for, was not there, and the target refused to make it."""
        self.standing: str | None = None
        """The remote id of what is there as it shall be, whatever happens to its members."""

    def probe(self) -> Outcome:
        """Ask the target what it can do. One that does not answer is left to the works that follow."""
        said = None
        try:
            said = self.client.discover(whole=self.work.target.asked)
        except TargetError as error:
            if error.everywhere:
                return Outcome(self.work, "back")
        finally:
            self.channel.probed = True
        with unit(self.work.target.scope):
            ledger.learnt(self.work.target, said)
        return Outcome(self.work, "back")

    def provide_person(self) -> Outcome:
        if self.work.losing:
            self.know_again()
        remote_id = self.provided(self.replace_person)
        if remote_id is None:
            return Outcome(self.work, "done", "removed")
        return Outcome(self.work, "done", "present" if self.work.usable else "disabled", remote_id, self.work.digest)

    def provide_group(self) -> Outcome:
        work = self.work
        remote_id = self.standing = self.provided(self.change_group)
        assert remote_id is not None
        try:
            refused = self.write_members(remote_id)
        except Missing:
            self.forget()
            remote_id = self.standing = self.found_or_made(self.change_group)
            assert remote_id is not None
            refused = self.write_members(remote_id)
        return _with(refused, "Members refused", Outcome(work, "done", "present", remote_id, work.digest))

    def disable(self) -> Outcome:
        """Somebody who left the target's reach: may not use the application, and nothing else of his is sent."""
        self.know_again()
        remote_id = self.work.remote_id or self.surely_there()
        if remote_id is None:
            return Outcome(self.work, "done", "removed")
        try:
            self.deactivate(remote_id)
        except Missing:
            return Outcome(self.work, "done", "removed")
        return Outcome(self.work, "done", "disabled", remote_id)

    def delete(self) -> Outcome:
        self.know_again()
        remote_id = self.work.remote_id or self.surely_there()
        if remote_id is not None:
            self.check()
            self.client.remove(self.kind, remote_id)
        return Outcome(self.work, "done", "removed")

    def empty(self) -> Outcome:
        """A group that left the target's reach: kept there, without the members we gave it."""
        remote_id = self.work.remote_id
        if remote_id is None:
            return Outcome(self.work, "done", "removed")
        try:
            refused = self.write_members(remote_id)
        except Missing:
            return Outcome(self.work, "done", "removed")
        return _with(refused, "Members that stayed", Outcome(self.work, "done", "disabled", remote_id))

    def know_again(self) -> None:
        """Before somebody is taken away: a target that was restored from a backup may have given his id to another of
        ours. Who is not there is told by the request that follows."""
        with suppress(Missing):
            remote_id = self.work.remote_id
            if remote_id is not None and not self.not_others([self.client.read(self.kind, remote_id)]):
                self.forget()

    def provided(self, write: Callable[[str], None]) -> str | None:
        """The remote id under which the target now has it; None when it is not there and need not be."""
        work = self.work
        if work.remote_id is None:
            return self.found_or_made(write)
        if work.digest == work.known_digest:
            return work.remote_id
        try:
            write(work.remote_id)
        except Missing as missing:
            if self.is_there(work.remote_id):
                raise Troubled(f"{missing}, though it can be read", missing.exchange) from None
            self.forget()
            return self.found_or_made(write)
        return work.remote_id

    def found_or_made(self, write: Callable[[str], None]) -> str | None:
        work = self.work
        remote_id = self.known_there() if work.usable else self.surely_there()
        if remote_id is None:
            if not work.usable:
                return None
            self.check()
            try:
                return self.client.create(self.kind, self.to_create)
            except Clash as clash:
                remote_id = self.known_there()
                if remote_id is None:
                    self.refused = True
                    text = f"{clash}. What it has under this name is not ours to take over"
                    raise Refused(text, clash.exchange) from None
            except TargetError as error:
                self.refused = not error.again
                raise
        try:
            write(remote_id)
        except Missing as missing:
            raise Troubled(f"{missing}, though a search shows it", missing.exchange) from None
        return remote_id

    @property
    def to_create(self) -> dict[str, Any]:
        """What is sent of somebody new: some want to be told that a new group is empty."""
        return {**self.work.document, "members": []} if self.kind == "Group" else self.work.document

    def known_there(self) -> str | None:
        """Looks for it by our id, then by its name. Raises Refused when two could be it."""
        return only(self.by_our_id() or self.not_others(self.by_name()))

    def surely_there(self) -> str | None:
        """The same, but a name alone is no proof: what we never made is not ours to take away."""
        found = self.by_our_id()
        if not found:
            found = [one for one in self.by_name() if one.get("externalId") == self.work.resource_id]
        return only(found)

    def by_our_id(self) -> list[Remote]:
        if "externalId" not in self.client.profile.filters:
            return []
        try:
            return self.client.find(self.kind, "externalId", self.work.resource_id)
        except (Refused, Unsupported):
            return []  # many receivers cannot search by externalId

    def by_name(self) -> list[Remote]:
        return self.client.find(self.kind, NAMES[self.kind], self.work.name)

    def not_others(self, found: Sequence[Remote]) -> list[Remote]:
        """Without those that stand for another person or group of this tenant."""
        if not found:
            return []
        externals = {remote.id: remote.get("externalId") for remote in found}
        with unit(self.work.target.scope):
            taken = ledger.others(
                self.work, list(externals), [one for one in externals.values() if isinstance(one, str)]
            )
        return [remote for remote in found if not {remote.id, externals[remote.id]} & taken]

    def replace_person(self, remote_id: str) -> None:
        if self.channel.puts:
            try:
                self.check()
                self.client.replace(self.kind, remote_id, self.work.document)
                return
            except Unsupported:
                shown = self.client.read(self.kind, remote_id)
            except Missing:
                # To a receiver without PUT this path does not exist; that does not mean the person is gone.
                shown = self.client.read(self.kind, remote_id)
            self.channel.takes_put = False
        else:
            shown = self.client.read(self.kind, remote_id)
        operations = render.as_patch(self.work.document, shown.document, self.said())
        most = self.client.profile.patch_operations or len(operations)
        for start in range(0, len(operations), most):
            self.check()
            self.client.patch(self.kind, remote_id, operations[start : start + most])

    def said(self) -> frozenset[str]:
        target = self.work.target
        rows = mapping.of(target.mapping, self.kind)
        return render.ours(self.kind, rows, target.profile.attributes or frozenset())

    def change_group(self, remote_id: str) -> None:
        # Never a PUT: it would replace the members too.
        said, profile = self.said(), self.client.profile
        shown = self.client.read(self.kind, remote_id).document if said else {}
        operations = render.group_as_patch(self.work.document, shown, said, profile.external_id)
        most = profile.group_operations or len(operations)
        try:
            for start in range(0, len(operations), most):
                self.check()
                self.patch(remote_id, operations[start : start + most])
        except StillThere as still:
            text = "the target has the group but knows no PATCH, which groups need"
            raise Refused(text, still.exchange) from None

    def deactivate(self, remote_id: str) -> None:
        self.check()
        if self.channel.takes_patch:
            try:
                self.client.patch(self.kind, remote_id, [{"op": "replace", "path": "active", "value": False}])
                return
            except Unsupported:
                self.channel.takes_patch = False
            except Missing:
                self.client.read(self.kind, remote_id)
        if not self.client.profile.put:
            raise Refused("the target knows neither this PATCH nor PUT")
        self.client.replace(self.kind, remote_id, self.work.document)

    def write_members(self, remote_id: str) -> list[Refusal]:
        """Remove, then add, what differs from what we wrote; returns the refusals. Raises Missing: no such group."""
        refusals: list[Refusal] = []
        for adding in (False, True):
            after = ""
            while True:
                with unit(self.work.target.scope):
                    page = ledger.members(self.work, adding=adding, after=after, limit=_PAGE)
                most = self.client.profile.member_changes
                for start in range(0, len(page), most):
                    self.write_chunk(remote_id, page[start : start + most], adding, refusals)
                if len(page) < _PAGE:
                    break
                after = page[-1][0]
        return refusals

    def write_chunk(
        self, remote_id: str, chunk: Sequence[ledger.Member], adding: bool, refusals: list[Refusal]
    ) -> None:
        """One PATCH; when it is refused, its halves, down to the member it is about."""
        there = [member for member in chunk if member.remote_id is not None]
        if there:
            operations = (
                render.additions([member.reference for member in there])
                if adding
                else render.removals(
                    [member.remote_id for member in there if member.remote_id is not None], self.client.profile.removal
                )
            )
            self.note(partial(ledger.writing, self.work, [member.id for member in there]))
            try:
                self.check()
                self.patch(remote_id, operations)
            except TargetError as error:
                if error.again or isinstance(error, Unsupported | Missing):
                    raise
                if len(chunk) > 1:
                    middle = len(chunk) // 2
                    self.write_chunk(remote_id, chunk[:middle], adding, refusals)
                    self.write_chunk(remote_id, chunk[middle:], adding, refusals)
                    return
                if adding or not isinstance(error, NoTarget):
                    refusals.append((chunk[0].id, error))
                    return
        self.note(partial(ledger.written, self.work, [member.id for member in chunk], added=adding))

    def patch(self, remote_id: str, operations: Sequence[Mapping[str, Any]]) -> None:
        """Raises Missing when it is gone, and StillThere when it is not: a first 404 may be a passing one."""
        try:
            self.client.patch(self.kind, remote_id, operations)
        except Missing:
            self.client.read(self.kind, remote_id)
            self.check()
            try:
                self.client.patch(self.kind, remote_id, operations)
            except Missing as missing:
                raise StillThere(str(missing), missing.exchange) from None

    def is_there(self, remote_id: str) -> bool:
        """Before it is forgotten in which groups somebody is: those who come back are in them still."""
        try:
            self.client.read(self.kind, remote_id)
        except Missing:
            return False
        return True

    def forget(self) -> None:
        """It is gone at the target. Committed before it is looked for and made again."""
        self.note(partial(ledger.lost, self.work))
        self.work.remote_id = self.work.known_digest = None

    def note(self, write: Callable[[], None]) -> None:
        """Write down what is known at this step, committed at once; only while the work is ours."""
        with unit(self.work.target.scope):
            if not ledger.is_mine(self.work):
                raise LeaseLost
            write()

    def check(self) -> None:
        """Before every request that changes something: whoever was asleep for a lease's time does nothing more."""
        if time.monotonic() > self.work.good_until:
            raise LeaseLost


def _provide(errand: Errand) -> Outcome:
    return errand.provide_person() if errand.kind == "User" else errand.provide_group()


_DEEDS: dict[str, Callable[[Errand], Outcome]] = {
    "provide": _provide,
    "disable": Errand.disable,
    "delete": Errand.delete,
    "empty": Errand.empty,
    "probe": Errand.probe,
}


def _with(refused: Sequence[Refusal], what: str, outcome: Outcome) -> Outcome:
    """The outcome of a group, failed where members were refused."""
    if refused:
        id, error = refused[0]
        outcome.kind, outcome.problem = "failed", f"{what}: {len(refused)}; the first: {id}: {error}"
        outcome.exchange = error.told
    return outcome


def only(found: Sequence[Remote]) -> str | None:
    if len(found) > 1:
        several = ", ".join(remote.id for remote in found[:3])
        raise Refused(f"{len(found)} resources at the target could be this one: {several}")
    return found[0].id if found else None
