"""Runs: pages, resuming, the lease, the dry run, and records nobody can take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg.errors
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from broker import context, sync
from broker.db import db, platform_scope, unit
from broker.directory import Directory, Outcome
from broker.errors import Conflict, NotFound
from broker.models import IdentityProvider
from connectors import ldap
from connectors.port import Change, CursorExpired, Page, Record, Unreachable, Unreadable
from tests.conftest import World, make_provider
from tests.directories import Upstream, group, people, person


@pytest.fixture
def acme(world: World, tmp_path: Path) -> Upstream:
    return Upstream(world.acme, make_provider(world.acme), tmp_path)


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ldap.export, "RECORDS_PER_PAGE", 10)


class Script:
    """An upstream that says what the test gives it; exceptions among the pages are raised."""

    def __init__(self, *pages: Page | Exception) -> None:
        self.pages = pages

    def changes_since(self, cursor: str | None) -> Iterator[Page]:
        for page in self.pages:
            if isinstance(page, Exception):
                raise page
            yield page


def pull(upstream: Upstream, *pages: Page | Exception, **options: object):
    return upstream.run(sync.pull(upstream.scope, upstream.provider_id, Script(*pages), **options))


def page(*changes: Change, last: bool = True) -> Page:
    return Page(changes, "here", last, "full")


def record(name: str, **more: object) -> Record:
    attributes = {"cn": [name], "userPrincipalName": [f"{name}@corp.example"]}
    return Record(name, "user", f"CN={name}", f"cn={name}", attributes, **more)  # type: ignore[arg-type]


def test_a_run_counts_what_it_read_and_says_where_it_is(acme: Upstream, small_pages: None):
    told = []
    run = acme.read([*people(24), group(1, people(3))], progress=told.append)
    assert (run.status, run.kind, run.read, run.created, run.skipped) == ("done", "full", 25, 25, 0)
    assert [(now.status, now.read) for now in told] == [("running", 10), ("running", 20), ("running", 25), ("done", 25)]
    assert all(now.run_id == run.id and now.total == acme.file.stat().st_size for now in told)
    assert told[-1].done == told[-1].total
    assert acme.present() == {"User": 24, "Group": 1}
    assert run.finished_at is not None


def test_a_second_run_on_the_same_input_leaves_no_trace_but_its_row(acme: Upstream):
    acme.read([*people(20), group(1, people(3))])
    events = acme.events()
    run = acme.read(acme.file)
    assert (run.status, run.read, run.unchanged, run.created, run.updated) == ("done", 21, 21, 0, 0)
    assert acme.events() == events


def test_no_transaction_is_open_while_the_upstream_is_read(acme: Upstream):
    class Watching(Script):
        def changes_since(self, cursor: str | None) -> Iterator[Page]:
            for given in super().changes_since(cursor):
                assert "scope" not in db.session().info
                yield given

    feed = Watching(page(record("a"), last=False), page(record("b")))
    assert acme.run(sync.pull(acme.scope, acme.provider_id, feed)).status == "done"


def test_changes_are_the_syncs_and_the_run_says_who_asked(acme: Upstream):
    acme.file.write_bytes(b"")
    with context.acting(context.system("operator")):
        run = acme.read(people(1))
    assert run.requested_by == "system:operator"
    with unit(acme.scope) as session:
        assert set(
            session.scalars(
                sa.text("SELECT actor_id FROM events WHERE tenant_id = :t").bindparams(t=acme.scope.tenant_id)
            )
        ) == {"system:sync"}


class Killed(BaseException):
    """As good as `kill -9` for what is committed."""


def interrupt(upstream: Upstream, entries: object, after: int) -> None:
    def die(now: sync.SyncProgress) -> None:
        if now.read >= after:
            raise Killed

    with pytest.raises(Killed):
        upstream.read(entries, progress=die)  # type: ignore[arg-type]


def test_an_interrupted_run_goes_on_after_its_last_page(acme: Upstream, small_pages: None):
    everybody = [*people(35), group(1, people(35))]
    interrupt(acme, everybody, after=20)
    (died,) = acme.runs()
    assert (died.status, died.read) == ("running", 20)
    told = []
    run = acme.read(acme.file, progress=told.append)
    assert run.id == died.id
    assert (run.status, run.read, run.created) == ("done", 36, 36)
    assert told[0].read == 30
    assert acme.events("user.created") == ["user.created"] * 35


def test_a_run_that_died_after_its_last_page_is_finished(acme: Upstream, small_pages: None):
    acme.read(people(20))
    interrupt(acme, people(18), after=18)
    run = acme.read(acme.file)
    assert (run.status, run.read, run.removed) == ("done", 18, 2)
    assert acme.present() == {"User": 18}


def test_removals_that_were_begun_are_finished(acme: Upstream, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("broker.removals.AT_ONCE", 2)
    acme.read(people(30))
    done = []
    take_away = Directory.take_away

    def dying(self, losses, via, run_no):
        if done:
            raise Killed
        done.append(take_away(self, losses, via, run_no))
        return done[0]

    monkeypatch.setattr(Directory, "take_away", dying)
    with pytest.raises(Killed):
        acme.read(people(25))
    assert acme.present() == {"User": 28}
    monkeypatch.setattr(Directory, "take_away", take_away)
    run = acme.read(acme.file)
    assert (run.status, run.removed) == ("done", 5)
    assert acme.present() == {"User": 25}


def test_another_input_ends_an_interrupted_run_and_begins_a_new_one(acme: Upstream, small_pages: None):
    interrupt(acme, people(35), after=20)
    run = acme.read(people(36))
    died, new = acme.runs()
    assert new.id == run.id
    assert (died.status, new.status, new.read) == ("failed", "done", 36)
    assert died.problem.startswith("Superseded")


@pytest.mark.parametrize(
    ("pages", "problem"),
    [
        ((page(record("a"), last=False), Unreachable("The upstream did not answer.")), "The upstream did not answer."),
        ((page(record("a"), last=False), CursorExpired("It was changed meanwhile.")), "It was changed meanwhile."),
        ((page(record("a"), last=False),), "The listing ended without saying that it is complete."),
    ],
    ids=["unreachable", "changed while read", "no end"],
)
def test_an_unfinished_listing_fails_the_run_and_takes_nobody_away(acme: Upstream, pages, problem: str):
    pull(acme, page(record("b"), record("c")))
    run = pull(acme, *pages)
    assert (run.status, run.problem, run.created) == ("failed", problem, 1)
    assert acme.present() == {"User": 3}
    assert acme.events("sync.%")[-1] == "sync.failed"


def test_a_second_run_at_once_is_refused(acme: Upstream):
    def interfere(_: object) -> None:
        with pytest.raises(Conflict, match="under way"):
            acme.read(people(5))

    assert acme.read(people(5), progress=interfere).status == "done"
    assert len(acme.runs()) == 1


def test_another_provider_is_read_meanwhile(acme: Upstream, tmp_path: Path):
    other = Upstream(acme.scope, make_provider(acme.scope, "Another"), tmp_path)
    acme.read(people(5), progress=lambda _: other.read(people(3, 100)) and None)
    assert acme.present() == {"User": 8}


def lease(upstream: Upstream, until: str) -> None:
    with unit(upstream.scope) as session:
        session.execute(
            sa.text("UPDATE identity_providers SET lease_until = now() + CAST(:until AS interval) WHERE id = :id"),
            {"until": until, "id": upstream.provider_id},
        )


def test_a_late_holder_commits_nothing_more(acme: Upstream, small_pages: None):
    taken_over = []

    def be_late(now: sync.SyncProgress) -> None:
        if not taken_over:
            lease(acme, "-1 second")
            taken_over.append(acme.read(acme.file))

    with pytest.raises(Conflict, match="taken over"):
        acme.read(people(35), progress=be_late)
    (run,) = acme.runs()
    assert run.id == taken_over[0].id
    assert (run.status, run.read, run.created) == ("done", 35, 35)
    assert acme.events("user.created") == ["user.created"] * 35


def test_the_lease_of_a_run_that_died_is_waited_for(acme: Upstream):
    lease(acme, "1 second")
    with pytest.raises(Conflict) as refused:
        acme.read(people(1))
    assert refused.value.retry_after
    assert acme.read(people(1), patience=10).status == "done"


def test_waiting_ends_when_the_holder_shows_that_it_lives(acme: Upstream, monkeypatch: pytest.MonkeyPatch):
    lease(acme, "10 seconds")
    monkeypatch.setattr(sync.leases.time, "sleep", lambda _: lease(acme, "10 seconds"))
    with pytest.raises(Conflict, match="under way"):
        acme.read(people(1), patience=60)


def test_a_dry_run_says_what_would_change_and_changes_nothing(acme: Upstream, small_pages: None):
    acme.read(people(30))
    before, events = acme.present(), acme.events()
    changed = [person(0, title="Chief"), *people(27, 1), *people(15, 100)]
    run = acme.read(changed, dry_run=True)
    assert run.dry_run
    assert (run.status, run.read, run.created, run.updated, run.removed) == ("done", 43, 15, 1, 2)
    assert any(line.startswith("created user CN=p0100") for line in run.plan)
    assert any(line.startswith("removed user p0028") for line in run.plan)
    assert (acme.present(), acme.events()) == (before, events)
    real = acme.read(changed)
    assert (real.created, real.updated, real.removed) == (run.created, run.updated, run.removed)
    assert real.plan == []


def test_a_dry_run_says_what_would_be_held(acme: Upstream):
    acme.read(people(30))
    run = acme.read(people(3), dry_run=True)
    assert (run.status, run.held_removals, run.removed) == ("done", 27, 0)
    assert run.hold_reason
    assert f"held remove user {people(1, 9)[0][0]}" in run.plan
    assert acme.read(people(30)).unchanged == 30


def test_a_dry_run_of_an_unfinished_listing_fails(acme: Upstream):
    run = pull(acme, page(record("a"), last=False), Unreachable("Gone."), dry_run=True)
    assert (run.status, run.problem, run.dry_run) == ("failed", "Gone.", True)
    assert acme.present() == {}


def test_a_record_the_database_refuses_is_skipped_alone(acme: Upstream, monkeypatch: pytest.MonkeyPatch):
    poison = record("p")
    apply = Directory.apply

    def refusing(directory: Directory, changes: Sequence[Change], *page: Any, **how: Any) -> Outcome:
        if poison in changes:
            db.session().execute(sa.text("SELECT CAST('poison' AS int)"))
        return apply(directory, changes, *page, **how)

    monkeypatch.setattr(Directory, "apply", refusing)
    run = pull(acme, page(*(record(f"a{n}") for n in range(20)), poison, *(record(f"b{n}") for n in range(20))))
    assert (run.status, run.read, run.created, run.skipped) == ("done", 41, 40, 1)
    assert acme.skips(run) == [("CN=p", "refused")]
    assert acme.present() == {"User": 40}


def test_skipped_records_are_kept_with_their_reasons_up_to_a_number(acme: Upstream, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sync.book, "KEPT_SKIPS", 3)
    unreadable = [Unreadable(f"byte {n}", "bad_line", "Not LDIF.", name=f"CN=\x00{n}") for n in range(5)]
    run = pull(acme, page(*unreadable[:2], last=False), page(*unreadable[2:]))
    assert (run.status, run.read, run.skipped) == ("done", 5, 5)
    assert acme.skips(run) == [(f"CN=\ufffd{n}", "bad_line") for n in range(3)]


def test_a_taken_user_name_is_skipped_and_heals_by_itself(acme: Upstream, tmp_path: Path):
    other = Upstream(acme.scope, make_provider(acme.scope, "Another"), tmp_path)
    acme.read(people(3))
    run = other.read([person(100, userPrincipalName="P0001@corp.example"), *people(2, 101)])
    assert (run.created, run.skipped, other.skips(run)[0][1]) == (2, 1, "user_name_taken")
    acme.read([person(1, userPrincipalName="renamed@corp.example"), *people(1), *people(1, 2)])
    assert other.read(other.file).created == 1


def test_a_page_that_met_a_deadlock_is_tried_again(acme: Upstream, monkeypatch: pytest.MonkeyPatch):
    apply, failed = Directory.apply, []

    def unlucky(self, *args, **options):
        if not failed:
            failed.append(True)
            raise OperationalError("…", {}, psycopg.errors.DeadlockDetected())
        return apply(self, *args, **options)

    monkeypatch.setattr(Directory, "apply", unlucky)
    run = acme.read(people(5))
    assert (run.status, run.read, run.created) == ("done", 5, 5)


def test_a_failure_of_ours_leaves_the_run_to_be_taken_up(acme: Upstream, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as broken:
        broken.setattr(Directory, "apply", lambda *args, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            acme.read(people(5))
    assert acme.runs()[0].status == "running"
    assert acme.read(acme.file).status == "done"
    assert len(acme.runs()) == 1


def test_a_disabled_provider_is_not_read(acme: Upstream):
    with platform_scope() as session:
        session.get_one(IdentityProvider, (acme.scope.tenant_id, acme.provider_id)).enabled = False
    with pytest.raises(Conflict, match="disabled"):
        acme.read(people(1))


def test_a_provider_of_another_tenant_is_not_there(acme: Upstream, world: World, tmp_path: Path):
    stranger = Upstream(world.globex, acme.provider_id, tmp_path)
    with pytest.raises(NotFound):
        stranger.read(people(1))
