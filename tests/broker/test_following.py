"""A live upstream, followed: full passes and deltas, where each begins, what a changed configuration waits for, and how
a run ends before its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from broker import removals, sync
from broker.context import acting, system
from broker.db import db, platform_scope, unit
from broker.directory import Directory as Writer
from broker.errors import Conflict
from broker.models import Event, HeldRemoval, IdentityProvider, Resource, SyncRun
from broker.sync import Order, leases, queue
from connectors.port import Gone, Members, Page, Record, Ref, Refused, Unreachable, Unreadable
from tests import scripted
from tests.conftest import World, make_provider
from tests.scripted import CONFIG, Directory, Feed, person


class Acme:
    """A provider of acme, and what it reads."""

    def __init__(self, world: World) -> None:
        self.scope = world.acme
        schedule = {"enabled": True, "schedule": "1h", "full_every": "1d"}
        self.id = make_provider(world.acme, config=CONFIG, sync=schedule)
        self.directory = Directory()
        self.lookups = True

    def run(self, **order: Any) -> SyncRun:
        return self.read(Order(live=True, **order))

    def read(self, order: Order, **options: Any) -> SyncRun:
        feed: Any = Feed(self.directory)
        return self.row(sync.pull(self.scope, self.id, feed, order, **options))

    def row(self, run_id: str) -> SyncRun:
        with unit(self.scope) as session:
            run = session.get_one(SyncRun, (self.scope.tenant_id, run_id))
            session.expunge(run)
            return run

    def via(self) -> IdentityProvider:
        with unit(self.scope) as session:
            via = session.get_one(IdentityProvider, (self.scope.tenant_id, self.id))
            session.expunge(via)
            return via

    def change(self, **values: Any) -> None:
        with unit(self.scope) as session:
            via = session.get_one(IdentityProvider, (self.scope.tenant_id, self.id))
            for name, value in values.items():
                setattr(via, name, value)

    def people(self) -> set[str]:
        with unit(self.scope) as session:
            living = sa.select(Resource.name).where(Resource.type == "User", Resource.removed_at.is_(None))
            return {name.partition("@")[0] for name in session.scalars(living)}

    def events(self, pattern: str = "sync.%") -> list[str]:
        with unit(self.scope) as session:
            return list(session.scalars(sa.select(Event.name).where(Event.name.like(pattern)).order_by(Event.no)))

    def members(self, group: str) -> set[str]:
        with unit(self.scope) as session:
            found = session.execute(
                sa.text("""
                    SELECT u.name FROM memberships m
                    JOIN resources g ON g.tenant_id = m.tenant_id AND g.id = m.group_id
                    JOIN resources u ON u.tenant_id = m.tenant_id AND u.id = m.member_id
                    WHERE m.tenant_id = :t AND g.name = :group"""),
                {"t": self.scope.tenant_id, "group": group},
            )
            return {name.partition("@")[0] for name in found.scalars()}


@pytest.fixture
def acme(world: World) -> Acme:
    return Acme(world)


@pytest.fixture
def thirty(acme: Acme) -> Acme:
    """Thirty people, read once."""
    acme.directory.put(*(person(f"p{n:02}") for n in range(30)))
    assert acme.run().status == "done"
    return acme


def group(name: str, *members: str) -> Record:
    refs = tuple(Ref(f"cn={member},dc=corp", f"CN={member},DC=corp") for member in members)
    return Record(f"key-{name}", "group", f"CN={name},DC=corp", f"cn={name},dc=corp", {"cn": [name]}, members=refs)


def ref(name: str) -> Ref:
    return Ref(f"cn={name},dc=corp", f"CN={name},DC=corp")


def test_the_first_run_reads_everything_and_the_next_only_what_changed(thirty: Acme) -> None:
    thirty.directory.put(person("new"))
    run = thirty.run()
    assert (run.kind, run.status, run.read, run.created, run.source) == ("delta", "done", 1, 1, "upstream")
    assert thirty.directory.reads == ["everything", "at:30"]
    assert thirty.run().read == 0 and thirty.directory.reads[-1] == "at:31"


def test_a_delta_takes_nobody_away_by_silence_and_the_deleted_at_once(thirty: Acme) -> None:
    thirty.directory.drop("key-p07")
    run = thirty.run()
    assert (run.kind, run.removed) == ("delta", 1)
    assert "p07" not in thirty.people() and len(thirty.people()) == 29


def test_a_full_pass_heals_what_a_delta_could_not_see(thirty: Acme) -> None:
    del thirty.directory.records["key-p03"]  # and no word of it
    assert thirty.run().removed == 0
    run = thirty.run(full=True)
    assert (run.kind, run.removed) == ("full", 1)


def test_when_its_time_has_come_a_run_reads_everything(thirty: Acme) -> None:
    before = thirty.via().full_due_at
    assert before is not None and thirty.run().kind == "delta"
    thirty.change(full_due_at=before - timedelta(days=2))
    assert thirty.run().kind == "full"
    after = thirty.via().full_due_at
    assert after is not None and after > before - timedelta(minutes=10)


def test_every_run_of_a_live_upstream_is_told_and_people_only_when_they_changed(thirty: Acme) -> None:
    people = thirty.events("user.%")
    thirty.run()
    assert thirty.events() == ["sync.finished"] * 2 and thirty.events("user.%") == people


def test_a_cursor_that_leads_nowhere_becomes_a_full_pass_of_the_same_run(thirty: Acme) -> None:
    thirty.directory.expires = True
    del thirty.directory.records["key-p03"]
    run = thirty.run()
    assert (run.kind, run.status, run.read, run.removed) == ("full", "done", 29, 1)
    assert thirty.events() == ["sync.finished", "sync.began_again", "sync.finished"]


def test_a_full_pass_that_was_interrupted_begins_again_and_counts_nobody_as_met(thirty: Acme) -> None:
    """Whoever was met before the break and is gone after it is gone."""

    class Cut(BaseException):
        pass

    def cut(now: sync.SyncProgress) -> None:
        if now.read >= 20:
            raise Cut

    with pytest.raises(Cut):
        thirty.read(Order(live=True, full=True), progress=cut)
    first = next(iter(thirty.directory.records))
    del thirty.directory.records[first]
    run = thirty.run()
    assert (run.status, run.kind, run.read, run.removed) == ("done", "full", 29, 1)
    with unit(thirty.scope) as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(SyncRun)) == 2


def test_a_full_pass_that_died_after_its_last_page_still_takes_away(
    thirty: Acme, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last cursor begins the next delta: read on from there, and absence would never be judged."""
    del thirty.directory.records["key-p03"]
    judge = removals.judge

    def die(*_: object) -> Any:
        raise OperationalError("…", {}, Exception())

    monkeypatch.setattr(removals, "judge", die)
    with pytest.raises(OperationalError):
        thirty.run(full=True)
    monkeypatch.setattr(removals, "judge", judge)
    thirty.directory.put(person("later"))
    run = thirty.run()
    assert (run.kind, run.status, run.removed) == ("full", "done", 1)
    assert thirty.run().created == 1


def test_an_upstream_that_is_away_changes_nothing_and_is_asked_again_soon(thirty: Acme) -> None:
    def away(_: Page) -> None:
        raise Unreachable("It does not answer.", retry_after=None)

    with unit(thirty.scope) as session:
        session.execute(sa.text("UPDATE identity_providers SET due_at = now() + interval '1 hour'"))
    cursor = thirty.via().feed_cursor
    thirty.directory.each_page = away
    run = thirty.run()
    via = thirty.via()
    assert (run.status, run.problem, via.failures, via.feed_cursor) == ("failed", "It does not answer.", 1, cursor)
    with unit(thirty.scope) as session:
        soon = session.scalar(sa.select(IdentityProvider.due_at - sa.func.now()))
    assert timedelta(seconds=20) < soon < timedelta(seconds=40)
    thirty.directory.each_page = lambda _: None
    assert thirty.run().status == "done" and thirty.via().failures == 0


def test_an_upstream_that_says_no_waits_for_its_next_time(thirty: Acme) -> None:
    def refuse(_: Page) -> None:
        raise Refused("The account is disabled.")

    due = timedelta(hours=1)
    with unit(thirty.scope) as session:
        session.execute(sa.text("UPDATE identity_providers SET due_at = now() + interval '1 hour'"))
    thirty.directory.each_page = refuse
    assert thirty.run().status == "failed"
    with unit(thirty.scope) as session:
        left = session.scalar(sa.select(IdentityProvider.due_at - sa.func.now()))
    assert due - timedelta(minutes=1) < left <= due


def test_who_wants_to_be_asked_later_is_asked_later(thirty: Acme) -> None:
    def busy(_: Page) -> None:
        raise Unreachable("Busy.", retry_after=7_200)

    thirty.change(due_at=sa.func.now())
    thirty.directory.each_page = busy
    thirty.run()
    with unit(thirty.scope) as session:
        left = session.scalar(sa.select(IdentityProvider.due_at - sa.func.now()))
    assert left > timedelta(hours=1.9)


def test_changed_settings_wait_for_approval_with_a_plan_and_then_read_everything(thirty: Acme) -> None:
    thirty.change(config={**CONFIG, "base_dn": "OU=New,DC=corp"})
    kept = dict(thirty.directory.records)
    for number in range(10):
        del thirty.directory.records[f"key-p{number:02}"]
    thirty.directory.put(person("new"))
    run = thirty.run()
    assert (run.status, run.dry_run, run.kind) == ("held", True, "full")
    assert "configuration has changed" in run.hold_reason
    assert any(line.startswith("created user CN=new") for line in run.plan)
    assert any(line.startswith("held remove user") for line in run.plan)
    assert len(thirty.people()) == 30 and "new" not in thirty.people()
    assert thirty.via().due_at is None  # the schedule waits as well
    with unit(thirty.scope), acting(system("administrator")):
        removals.approve(run.id)
    assert thirty.via().due_at is not None
    thirty.directory.records = {**kept, "key-new": person("new")}
    run = thirty.run(full=True)
    assert (run.status, run.dry_run, run.created) == ("done", False, 1)


def test_rejected_settings_stay_unread_until_they_are_changed_again(thirty: Acme) -> None:
    thirty.change(config={**CONFIG, "base_dn": "OU=New,DC=corp"})
    run = thirty.run()
    with unit(thirty.scope), acting(system("administrator")):
        removals.reject(run.id)
    assert (thirty.row(run.id).status, thirty.via().due_at) == ("done", None)
    thirty.change(config=CONFIG)
    assert thirty.run().dry_run is False


def test_settings_that_were_changed_after_the_plan_cannot_be_approved_by_it(thirty: Acme) -> None:
    thirty.change(config={**CONFIG, "base_dn": "OU=New,DC=corp"})
    run = thirty.run()
    thirty.change(config={**CONFIG, "base_dn": "OU=Newer,DC=corp"})
    with unit(thirty.scope), pytest.raises(Conflict):
        removals.approve(run.id)


def test_another_server_or_password_needs_no_approval(thirty: Acme) -> None:
    thirty.change(config={**CONFIG, "servers": ["ldaps://dc2.corp.example"], "bind_password": "another one"})
    assert thirty.run().dry_run is False


def test_settings_changed_in_the_middle_end_the_run(thirty: Acme) -> None:
    def meddle(now: sync.SyncProgress) -> None:
        if now.read == 10 and now.status == "running":
            thirty.change(config={**CONFIG, "base_dn": "OU=New,DC=corp"})

    run = thirty.read(Order(live=True, full=True), progress=meddle)
    assert run.status == "failed" and "changed while it was read" in run.problem
    assert len(thirty.people()) == 30


def test_a_cancelled_run_ends_before_its_next_page_and_takes_nobody_away(thirty: Acme) -> None:
    def cancel(now: sync.SyncProgress) -> None:
        if now.read == 10 and now.status == "running":
            with unit(thirty.scope) as session, acting(system("administrator")):
                queue.cancel(session.get_one(SyncRun, (thirty.scope.tenant_id, now.run_id)))

    thirty.directory.records.popitem()
    run = thirty.read(Order(live=True, full=True), progress=cancel)
    assert (run.status, run.problem, run.read) == ("failed", "Cancelled by system:administrator.", 10)
    assert len(thirty.people()) == 30 and thirty.via().failures == 0


def test_a_provider_disabled_in_the_middle_is_read_no_further(thirty: Acme) -> None:
    run = thirty.read(Order(live=True, full=True), progress=lambda now: thirty.change(enabled=False))
    assert run.status == "failed" and "disabled" in run.problem


def test_a_suspended_tenants_upstream_is_read_no_further(thirty: Acme) -> None:
    def suspend(_: object) -> None:
        with platform_scope() as session:
            session.execute(
                sa.text("UPDATE tenants SET status = 'suspended' WHERE id = :t"), {"t": thirty.scope.tenant_id}
            )

    run = thirty.read(Order(live=True, full=True), progress=suspend)
    assert run.status == "failed" and "suspended" in run.problem


def test_a_process_that_has_to_stop_leaves_the_run_to_another(thirty: Acme) -> None:
    thirty.directory.put(*(person(f"q{n:02}") for n in range(25)))
    with acting(system("clock")):
        lease = leases.take(thirty.scope, thirty.id)
        asked: Iterator[bool] = iter([False, True])
        run_id = sync.carry_out(lease, Feed(thirty.directory), Order(live=True), stopping=lambda: next(asked))
    assert (thirty.row(run_id).status, thirty.row(run_id).read) == ("running", 20)
    run = thirty.run()  # the lease was given back, so that nobody waits for it
    assert run.id == run_id and (run.status, run.read) == ("done", 55)  # everything: a cursor in the middle had died


def test_a_dry_run_holds_no_transaction_while_the_upstream_is_read(thirty: Acme) -> None:
    open_while_read = []
    thirty.directory.each_page = lambda _: open_while_read.append("scope" in db.session().info)
    thirty.directory.put(person("new"))
    thirty.directory.drop("key-p03")
    before = thirty.people()
    run = thirty.run(dry_run=True)
    assert (run.status, run.dry_run, run.created, run.removed) == ("done", True, 1, 1)
    assert open_while_read == [False] and thirty.people() == before
    real = thirty.run()
    assert (real.created, real.removed, real.read) == (run.created, run.removed, run.read)


def test_an_account_made_again_under_its_old_name_takes_its_place_in_the_same_run(thirty: Acme) -> None:
    """The old one leaves at the end of the pass; until then the name is his, and the delta will not tell again."""
    thirty.directory.drop("key-p03")
    again = person("p03")
    thirty.directory.put(Record("key-again", "user", again.name, again.ref, again.attributes))
    run = thirty.run()
    assert (run.removed, run.created, run.skipped, run.status) == (1, 1, 0, "done")
    assert "p03" in thirty.people() and len(thirty.people()) == 30


def test_a_record_that_found_no_place_is_asked_for_until_there_is_one(thirty: Acme) -> None:
    with unit(thirty.scope), acting(system("administrator")):
        local = Writer().create("User", {"userName": "late@corp.example", "active": True}).id
    thirty.directory.put(person("late"))
    assert (thirty.run().skipped, thirty.run().skipped) == (1, 0)  # told once, and asked for again in each run
    with unit(thirty.scope), acting(system("administrator")):
        Writer().remove("User", local)
    run = thirty.run()
    assert (run.created, run.skipped) == (1, 0)


@pytest.mark.parametrize("whole", [False, True], ids=["told as a change", "told as a list"])
def test_somebody_renamed_leaves_his_group_under_his_new_name(thirty: Acme, whole: bool) -> None:
    """Who has another name is known by it in his groups: the upstream says nothing of them."""
    thirty.directory.put(group("team", "p01", "p02", "p03", "p04"))
    thirty.run()
    old = person("p01")
    thirty.directory.put(Record(old.key, "user", "CN=neo,DC=corp", "cn=neo,dc=corp", old.attributes))
    thirty.run()
    assert thirty.members("team") == {"p01", "p02", "p03", "p04"}
    change = group("team", "p02", "p03", "p04") if whole else Members("key-team", remove=(ref("neo"),))
    thirty.directory.history.append(change)
    thirty.run()
    assert thirty.members("team") == {"p02", "p03", "p04"}


def test_two_who_exchange_their_names_keep_their_own_memberships(thirty: Acme) -> None:
    thirty.directory.put(group("one", "p01", "p05", "p06"), group("both", "p01", "p02", "p05", "p06"))
    thirty.run()
    first, second = person("p01"), person("p02")
    thirty.directory.put(
        Record(first.key, "user", second.name, second.ref, first.attributes),
        Record(second.key, "user", first.name, first.ref, second.attributes),
    )
    thirty.run()
    assert (thirty.members("one"), thirty.members("both")) == ({"p01", "p05", "p06"}, {"p01", "p02", "p05", "p06"})
    # "CN=p02" is the first one now.
    thirty.directory.history.append(Members("key-both", remove=(ref("p02"),)))
    thirty.run()
    assert thirty.members("both") == {"p02", "p05", "p06"}


def test_who_leaves_while_a_stranger_joins_has_left(thirty: Acme) -> None:
    """In a full pass the stranger might be him under another name; a delta would have said so."""
    thirty.directory.put(group("team", "p01", "p02", "p03", "p04"))
    thirty.run()
    thirty.directory.history.append(group("team", "p02", "p03", "p04", "contact"))
    thirty.run()
    assert thirty.members("team") == {"p02", "p03", "p04"}


def test_held_removals_of_a_delta_stay_held_while_the_cursor_goes_on(thirty: Acme) -> None:
    thirty.directory.drop(*(f"key-p{n:02}" for n in range(8)))
    held = thirty.run()
    assert (held.status, held.held_removals) == ("held", 8)
    thirty.directory.put(person("new"))
    run = thirty.run()
    assert (run.kind, run.created, run.status, run.held_removals) == ("delta", 1, "held", 8)
    assert thirty.row(held.id).status == "done"
    with unit(thirty.scope), acting(system("administrator")):
        removals.approve(run.id)
    assert len(thirty.people()) == 23
    with unit(thirty.scope) as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(HeldRemoval)) == 0


def test_what_was_told_of_single_members_is_put_right_by_a_full_pass(thirty: Acme) -> None:
    """The list says what it said when it was last read, and is read anew all the same."""
    thirty.directory.put(group("team", "p01", "p02"))
    thirty.run()
    thirty.directory.history.append(Members("key-team", add=(ref("p03"),)))
    thirty.run()
    assert thirty.members("team") == {"p01", "p02", "p03"}  # and that he left again is never told
    thirty.run(full=True)
    assert thirty.members("team") == {"p01", "p02"}


def test_a_namesake_does_not_inherit_the_place_of_somebody_deleted_unseen(thirty: Acme) -> None:
    thirty.directory.put(group("team", "p01", "p02"))
    thirty.run()
    thirty.directory.history.append(Members("key-team", add=(ref("p03"),)))
    thirty.run()
    del thirty.directory.records["key-p03"]  # an account without the right to tombstones
    thirty.run(full=True)
    again = person("p03")
    thirty.directory.put(Record("key-namesake", "user", again.name, again.ref, again.attributes))
    thirty.run()
    thirty.run(full=True)
    assert "p03" in thirty.people() and thirty.members("team") == {"p01", "p02"}


def test_who_was_called_gone_and_came_back_is_in_his_groups_by_name(thirty: Acme) -> None:
    """Moved out of what is read and back, while the removal of so many was held."""
    team = {"memberOf": ["CN=team,DC=corp"]}
    kept = [person(f"p{n:02}", attributes=team) for n in range(8)]
    thirty.directory.put(*kept, group("team", *(f"p{n:02}" for n in range(12))))
    thirty.run()
    thirty.directory.drop(*(record.key for record in kept))
    assert thirty.run().status == "held"
    thirty.directory.put(*kept)
    assert thirty.run().status == "done"
    with unit(thirty.scope) as session:
        keys = set(
            session.scalars(
                sa.text("SELECT member_key FROM memberships WHERE tenant_id = :t").bindparams(t=thirty.scope.tenant_id)
            )
        )
    assert keys == {f"cn=p{n:02},dc=corp" for n in range(12)}


def test_a_held_group_whose_members_are_back_is_held_no_more(thirty: Acme) -> None:
    names = [f"p{n:02}" for n in range(20)]
    thirty.directory.put(group("team", *names))
    thirty.run()
    thirty.directory.history.append(Members("key-team", remove=tuple(map(ref, names[:12]))))
    assert thirty.run().status == "held"
    thirty.directory.history.append(Members("key-team", add=tuple(map(ref, names[:12]))))
    run = thirty.run()
    assert run.status == "done" and thirty.members("team") == set(names)


def test_a_held_group_stays_held_when_somebody_else_of_it_leaves_the_directory(thirty: Acme) -> None:
    names = [f"p{n:02}" for n in range(20)]
    thirty.directory.put(group("team", *names))
    thirty.run()
    thirty.directory.history.append(Members("key-team", remove=tuple(map(ref, names[:12]))))
    assert thirty.run().status == "held"
    thirty.directory.drop("key-p19")
    run = thirty.run()
    assert run.status == "held"
    with unit(thirty.scope), acting(system("administrator")):
        removals.approve(run.id)
    assert thirty.members("team") == set(names[12:19]) and "p19" not in thirty.people()


def test_who_was_only_missed_in_a_full_pass_is_asked_for_and_stays(thirty: Acme) -> None:
    """He moved from a base that was not read yet to one that had been."""
    moved = thirty.directory.records.pop("key-p03")
    thirty.directory.each_page = lambda page: page.last and thirty.directory.records.update({moved.key: moved})
    run = thirty.run(full=True)
    assert (run.status, run.removed) == ("done", 0) and "p03" in thirty.people()


def test_who_is_said_to_be_gone_and_is_there_stays(thirty: Acme) -> None:
    thirty.directory.history.append(Gone("key-p03"))
    run = thirty.run()
    assert (run.status, run.removed) == ("done", 0) and "p03" in thirty.people()


def test_a_hold_is_not_approved_under_other_settings_than_it_was_read_by(thirty: Acme) -> None:
    thirty.directory.drop(*(f"key-p{n:02}" for n in range(8)))
    run = thirty.run()
    thirty.change(config={**CONFIG, "base_dn": "OU=New,DC=corp"})
    with unit(thirty.scope), acting(system("administrator")), pytest.raises(Conflict):
        removals.approve(run.id)
    assert thirty.run().dry_run  # nobody has seen what the new ones would do


def test_settings_changed_while_people_are_taken_away_are_not_proven(
    thirty: Acme, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removals, "AT_ONCE", 1)
    take_away, done = removals.take_away, []

    def meddle(*arguments: Any) -> None:
        take_away(*arguments)
        done.append(True)

    monkeypatch.setattr(removals, "take_away", meddle)
    lookup = Feed.records

    def change_first(feed: Feed, keys: Any) -> Any:
        if not done:
            thirty.change(config={**CONFIG, "base_dn": "OU=New,DC=corp"})
        return lookup(feed, keys)

    monkeypatch.setattr(Feed, "records", change_first)
    thirty.directory.drop("key-p00", "key-p01")
    run = thirty.run()
    assert run.status == "failed" and "changed while it was read" in run.problem and not done
    assert thirty.run().dry_run


def test_a_rehearsal_is_cancelled_while_it_reads(thirty: Acme) -> None:
    def cancel(now: sync.SyncProgress) -> None:
        if now.read == 10 and now.status == "running":
            with unit(thirty.scope) as session, acting(system("administrator")):
                queue.cancel(session.get_one(SyncRun, (thirty.scope.tenant_id, now.run_id)))

    run = thirty.read(Order(live=True, full=True, dry_run=True), progress=cancel)
    assert (run.status, run.read) == ("failed", 10) and run.problem.startswith("Cancelled")


def test_runs_leave_what_administrators_saw_of_the_provider_as_it_is(thirty: Acme) -> None:
    before = thirty.via().updated_at
    thirty.directory.put(person("new"))
    thirty.run()
    thirty.run(full=True)
    assert thirty.via().updated_at == before


def test_a_place_that_cannot_be_stored_is_told_without_its_nul(thirty: Acme) -> None:
    thirty.directory.history.append(Unreadable("cn=a\0b,dc=corp", "bad_dn", "No name\0.", None))
    run = thirty.run()
    assert (run.status, run.skipped) == ("done", 1)


def test_a_pass_read_long_ago_is_not_judged_by(thirty: Acme, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> Any:
        raise OperationalError("…", {}, Exception())

    gone = thirty.directory.records.pop("key-p03")
    with monkeypatch.context() as broken:
        broken.setattr(removals, "judge", die)
        with pytest.raises(OperationalError):
            thirty.run(full=True)
    with unit(thirty.scope) as session:
        session.execute(sa.text("UPDATE sync_runs SET started_at = now() - interval '1 day' WHERE status = 'running'"))
    thirty.directory.put(gone)
    run = thirty.run()
    assert (run.status, run.read, run.removed) == ("done", 30, 0)


def test_progress_tells_a_pace_and_an_estimate(thirty: Acme) -> None:
    told: list[sync.SyncProgress] = []
    thirty.read(Order(live=True, full=True), progress=told.append)
    assert [now.done for now in told if now.status == "running"] == [10, 20, 30]
    assert {now.total for now in told} == {30} and all(now.rate and now.rate > 0 for now in told)
    assert "s left" in told[0].in_words()


def test_signs_of_life_keep_the_lease_while_the_upstream_keeps_us_waiting(
    thirty: Acme, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASE", timedelta(seconds=0.4))
    monkeypatch.setattr(leases, "BEAT", 0.1)
    tried: list[Callable[..., object]] = []

    def slow(_: Page) -> None:
        import time

        time.sleep(1.2)
        with pytest.raises(Conflict):
            leases.take(thirty.scope, thirty.id)
        tried.append(slow)

    thirty.directory.each_page = slow
    assert thirty.run().status == "done" and tried


def test_a_run_that_is_stuck_gives_no_sign_of_life(thirty: Acme, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE", timedelta(seconds=0.3))
    monkeypatch.setattr(leases, "BEAT", 0.1)
    monkeypatch.setattr(leases, "SILENCE", 0.3)

    def stuck(_: Page) -> None:
        import time

        time.sleep(1.2)
        taken.append(leases.take(thirty.scope, thirty.id))

    taken: list[leases.Lease] = []
    thirty.directory.each_page = stuck
    with pytest.raises(Conflict, match="taken over"):
        thirty.run()
    assert len(taken) == 1


def test_the_scripted_upstream_is_found_by_its_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    from connectors import kinds
    from connectors.egress import Egress

    directory = Directory()
    scripted.install(monkeypatch, lambda config: directory)
    config = kinds.config_from("ldap", CONFIG)
    assert kinds.is_live("ldap", config) and not kinds.is_live("ldap", kinds.config_from("ldap", {}))
    assert kinds.live_feed("ldap", config, Egress()) == Feed(directory)


@pytest.mark.parametrize("later", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("whole", [False, True], ids=["told as a change", "told as a list"])
def test_an_account_made_again_under_its_old_name_is_in_none_of_the_old_ones_groups(
    thirty: Acme, later: bool, whole: bool
) -> None:
    """The directory let go of the old one's memberships without a word about the group."""
    thirty.directory.put(group("team", "p03", "p04"))
    thirty.run()
    thirty.directory.drop("key-p03")
    if later:
        thirty.run()
        assert thirty.members("team") == {"p04"}
    again = person("p03")
    thirty.directory.put(Record("key-again", "user", again.name, again.ref, again.attributes))
    thirty.run()
    assert "p03" in thirty.people() and thirty.members("team") == {"p04"}
    rejoined = group("team", "p03", "p04") if whole else Members("key-team", add=(ref("p03"),))
    thirty.directory.history.append(rejoined)
    thirty.run()
    assert thirty.members("team") == {"p03", "p04"}


def test_who_comes_back_is_in_the_groups_the_record_names(thirty: Acme) -> None:
    """Whoever left what is read, and is moved into it again, was in his groups all the time."""
    thirty.directory.put(group("team", "p03", "p04"), group("crew", "p03"))
    thirty.run()
    old = thirty.directory.records["key-p03"]
    thirty.directory.drop("key-p03")
    thirty.run()
    assert (thirty.members("team"), thirty.members("crew")) == ({"p04"}, set())
    moved = {**old.attributes, "memberOf": ["CN=team,DC=corp", "CN=elsewhere,DC=corp"]}
    thirty.directory.put(Record(old.key, "user", "CN=p03,OU=new,DC=corp", "cn=p03,ou=new,dc=corp", moved))
    thirty.run()
    assert (thirty.members("team"), thirty.members("crew")) == ({"p03", "p04"}, set())
