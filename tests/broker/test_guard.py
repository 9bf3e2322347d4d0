"""The removal guard: what passes, what is held, and what approving and rejecting do."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from broker import removals, sync
from broker.db import db, platform_scope, unit
from broker.errors import Conflict, NotFound
from broker.guard import Guard
from broker.models import HeldRemoval, IdentityProvider, RoleAssignment
from connectors.port import Gone, Members, Page, Record, Ref
from tests.conftest import DATA, World, make_provider
from tests.directories import BASE, Upstream, computer, group, key, people, person, unit_entry, write

GUARD = Guard(min=5, percent=10, percent_24h=20)


@pytest.mark.parametrize(
    ("losing", "linked", "taken", "held"),
    [
        ({"user": 5}, {"user": 6}, 0, False),
        ({"user": 6}, {"user": 60}, 0, False),
        ({"user": 7}, {"user": 60}, 0, True),
        ({"user": 6}, {"user": 59}, 0, True),
        ({"group": 6}, {"user": 1000, "group": 10}, 0, True),
        ({"user": 4, "group": 4}, {"user": 30, "group": 30}, 0, True),
        ({"user": 4, "group": 4}, {"user": 60, "group": 60}, 0, False),
        ({"user": 5}, {"user": 100}, 15, False),
        ({"user": 9}, {"user": 100}, 15, True),
        ({}, {"user": 10}, 900, False),
        ({"other": 900}, {"user": 10}, 0, False),
    ],
)
def test_what_exceeds_both_the_number_and_the_share_is_held(losing, linked, taken, held):
    assert (GUARD.complaint(losing, linked, taken) is not None) is held


@pytest.fixture
def acme(world: World, tmp_path: Path) -> Upstream:
    return Upstream(world.acme, make_provider(world.acme), tmp_path)


def directory(count: int = 60) -> list:
    """People, two groups of them, a unit and a computer."""
    everybody = people(count)
    return [unit_entry(1, "People"), *everybody, group(1, everybody), group(2, everybody[:12]), computer(1)]


def without(entries: list, *names: str) -> list:
    """The export without these entries, nor any mention of them."""
    gone = {dn for dn, _ in entries if any(dn.startswith(f"CN={name},") for name in names)}
    return [
        (dn, {name: [value for value in values if value not in gone] for name, values in attributes.items()})
        for dn, attributes in entries
        if dn not in gone
    ]


def held(upstream: Upstream) -> list[tuple[str, str]]:
    with unit(upstream.scope) as session:
        return [(row.action, row.status) for row in session.scalars(sa.select(HeldRemoval))]


def decide(upstream: Upstream, deed, run) -> None:
    with unit(upstream.scope):
        deed(run.id)


def untouched(upstream: Upstream, before: dict[str, int]) -> bool:
    lost = {"user.disabled", "user.removed", "group.removed", "unit.removed"}
    return upstream.present() == before and not lost & set(upstream.events())


def test_a_single_leaver_passes_at_once(acme: Upstream):
    acme.read(directory())
    run = acme.read(without(directory(), "p0003"))
    assert (run.status, run.removed, run.held_removals) == ("done", 1, 0)
    assert acme.present()["User"] == 59
    assert acme.events("user.removed") == ["user.removed"]
    assert acme.members(1) == 59


def test_a_single_disable_passes_at_once(acme: Upstream):
    acme.read(directory())
    run = acme.read([person(0, disabled=True), *directory()[2:], unit_entry(1, "People")])
    assert (run.status, run.disabled, acme.active()) == ("done", 1, 59)


@pytest.mark.parametrize(
    "export",
    [
        [],
        [unit_entry(1, "People"), computer(1)],
        directory()[:30],
        without(directory(), *(f"p{number:04d}" for number in range(7))),
        [unit_entry(7, "People", base="DC=other"), *people(60, 5000, base="DC=other")],
        [person(number, disabled=True) for number in range(60)],
        without(directory(60), "g0001", "g0002"),
    ],
    ids=["empty", "nobody in it", "halved", "seven of sixty", "other base", "all disabled", "groups of which few"],
)
def test_what_is_more_than_the_guard_allows_is_held_whole(acme: Upstream, export: list):
    acme.read([*directory(), *(group(number) for number in range(3, 9))])
    before, active = acme.present(), acme.active()
    grown = before if export and export[0][0].endswith("=other") else None
    if grown:
        grown = {**before, "User": before["User"] + 60, "OrganizationalUnit": before["OrganizationalUnit"] + 1}
        active += 60
    run = acme.read(export)
    assert run.status == "held", run.hold_reason
    assert run.held_removals == len(held(acme)) > 0
    assert untouched(acme, grown or before)
    assert acme.active() == active
    assert "sync.held" in acme.events()
    assert (run.disabled, run.removed) == (0, 0)


def test_a_halved_export_of_a_real_directory_is_held(acme: Upstream, tmp_path: Path):
    whole = (DATA / "acme.ldif").read_bytes().split(b"\n\n")
    acme.read(DATA / "acme.ldif")
    before = acme.present()
    halved = tmp_path / "halved.ldif"
    halved.write_bytes(b"\n\n".join(whole[: len(whole) // 2]) + b"\n\n")
    run = acme.read(halved)
    assert run.status == "held"
    assert untouched(acme, before)


def test_an_administrator_is_never_taken_away_unasked(acme: Upstream):
    acme.read(directory())
    appoint(acme, "p0003")
    before = acme.present()
    run = acme.read(without(directory(), "p0003"))
    assert run.status == "held"
    assert "administrator" in run.hold_reason
    assert untouched(acme, before)


def test_who_is_an_administrator_through_nested_groups_is_not_taken_away_either(acme: Upstream):
    everybody = people(60)
    inner, outer = group(1, everybody[:2]), group(2)
    outer[1]["member"] = [inner[0]]
    acme.read([*everybody, inner, outer])
    appoint(acme, "g0002")
    run = acme.read([*everybody[1:], inner, outer])
    assert run.status == "held"


def test_an_administrator_by_group_who_leaves_with_the_membership_is_held_too(acme: Upstream):
    everybody = people(60)
    inner, outer = group(1, everybody[:5]), group(2)
    outer[1]["member"] = [inner[0]]
    acme.read([*everybody, inner, outer])
    appoint(acme, "g0002")
    before = acme.present()
    run = acme.read(without([*everybody, inner, outer], "p0000"))
    assert run.status == "held"
    assert "administrator" in run.hold_reason
    assert untouched(acme, before)


def appoint(upstream: Upstream, name: str) -> None:
    principal = upstream.id_of(name)
    with unit(upstream.scope) as session:
        session.add(
            RoleAssignment(
                id=f"rol_{principal}", role="tenant_admin", principal_id=principal, scope_id=upstream.scope.tenant_id
            )
        )


def test_a_group_that_would_lose_half_keeps_its_members_and_gains_the_new_ones(acme: Upstream):
    acme.read(directory())
    newcomer = person(99)
    everybody = people(60)
    run = acme.read(
        [
            unit_entry(1, "People"),
            *everybody,
            newcomer,
            group(1, [*everybody[:20], newcomer]),
            group(2, everybody[:12]),
            computer(1),
        ]
    )
    assert (run.status, run.held_removals, run.created) == ("held", 1, 1)
    assert acme.members(1) == 61
    decide(acme, removals.approve, run)
    assert acme.members(1) == 21
    assert acme.read(acme.file).status == "done"
    assert acme.members(1) == 21


def test_a_rejected_shrinking_stays_muted_until_the_list_changes(acme: Upstream):
    everybody = people(60)
    acme.read([*everybody, group(1, everybody)])
    run = acme.read([*everybody, group(1, everybody[:20])])
    decide(acme, removals.reject, run)
    assert acme.members(1) == 60
    assert acme.read(acme.file).status == "done"
    renamed = acme.read([*everybody, group(1, everybody[:20], description="the same list")])
    assert (renamed.status, acme.members(1)) == ("done", 60)
    other = acme.read([*everybody, group(1, everybody[:10])])
    assert other.status == "held"
    decide(acme, removals.approve, other)
    assert acme.members(1) == 10


def test_a_slow_drain_is_held_when_a_day_has_seen_too_much(acme: Upstream):
    acme.read(people(100))
    for leaving in (6, 12, 18):
        assert acme.read(people(100 - leaving, leaving)).status == "done"
    run = acme.read(people(76, 24))
    assert (run.status, run.held_removals) == ("held", 6)
    assert "24 hours" in run.hold_reason


def test_what_left_more_than_a_day_ago_counts_no_more(acme: Upstream):
    acme.read(people(100))
    for leaving in (6, 12, 18):
        assert acme.read(people(100 - leaving, leaving)).status == "done"
    shift(acme, "25 hours")
    assert acme.read(people(76, 24)).status == "done"


def test_an_approval_is_the_new_baseline_of_the_day(acme: Upstream):
    acme.read(people(100))
    decide(acme, removals.approve, acme.read(people(50, 50)))
    assert acme.present() == {"User": 50}
    assert acme.read(people(49, 51)).status == "done"


def shift(upstream: Upstream, by: str) -> None:
    """All runs so far were that long ago."""
    with unit(upstream.scope) as session:
        session.execute(
            sa.text(
                "UPDATE sync_runs SET started_at = started_at - CAST(:by AS interval), "
                "finished_at = finished_at - CAST(:by AS interval) WHERE tenant_id = :t"
            ),
            {"by": by, "t": upstream.scope.tenant_id},
        )


def test_approve_does_what_was_held(acme: Upstream):
    acme.read(directory())
    run = acme.read(without(directory(), *(f"p{number:04d}" for number in range(40, 60))))
    decide(acme, removals.approve, run)
    run = acme.run(run.id)
    assert (run.status, run.removed, run.held_removals) == ("done", 20, 20)
    assert acme.present()["User"] == 40
    assert acme.events("sync.%")[-1] == "sync.approved"
    assert held(acme) == []
    assert acme.read(acme.file).status == "done"


def test_approve_judges_each_again(acme: Upstream, tmp_path: Path):
    acme.read(directory())
    run = acme.read(directory()[:41])
    broken = tmp_path / "broken.ldif"
    broken.write_bytes(write(acme.file, people(8, 40)).read_bytes()[:-1])
    assert acme.read(broken).status == "failed"
    decide(acme, removals.approve, run)
    # Seven had come back in the listing that never ended.
    assert acme.run(run.id).removed == 13 + 2
    assert acme.present()["User"] == 47


def test_reject_mutes_the_same_removals_until_they_change(acme: Upstream):
    acme.read(directory())
    smaller = without(directory(), *(f"p{number:04d}" for number in range(20)))
    run = acme.read(smaller)
    decide(acme, removals.reject, run)
    assert acme.run(run.id).status == "done"
    assert acme.events("sync.%")[-1] == "sync.rejected"
    again = acme.read(smaller)
    assert (again.status, again.held_removals) == ("done", 0)
    assert acme.present()["User"] == 60
    leaver = acme.read(without(smaller, "p0030"))
    assert (leaver.status, leaver.removed) == ("done", 1)
    acme.read(without(directory(), "p0030"))
    back_and_gone = acme.read(without(smaller, "p0030"))
    assert (back_and_gone.status, back_and_gone.held_removals) == ("held", 20)


def test_a_rejected_disable_mutes_no_removal(acme: Upstream):
    acme.read(people(60))
    decide(acme, removals.reject, acme.read([person(number, disabled=True) for number in range(60)]))
    assert acme.active() == 60
    assert acme.read(acme.file).status == "done"
    assert acme.read(people(20)).status == "held"


def test_people_who_come_back_dissolve_the_hold(acme: Upstream):
    acme.read(directory())
    first = acme.read(people(10))
    second = acme.read(directory())
    assert second.status == "done"
    superseded = acme.run(first.id)
    assert superseded.status == "done"
    assert superseded.problem == f"Superseded by {second.id}."
    assert held(acme) == []
    with pytest.raises(Conflict):
        decide(acme, removals.approve, first)


def test_only_the_newest_hold_can_be_decided(acme: Upstream):
    acme.read(directory())
    first, second = acme.read(people(10)), acme.read(people(9))
    with pytest.raises(Conflict):
        decide(acme, removals.approve, first)
    decide(acme, removals.approve, second)
    assert acme.present() == {"User": 9}


def test_a_hold_that_stays_the_same_is_told_once(acme: Upstream):
    acme.read(directory())
    for _ in range(3):
        assert acme.read(people(10)).status == "held"
    assert acme.events("sync.held") == ["sync.held"]


def test_nothing_is_decided_twice_nor_by_another_tenant(acme: Upstream, world: World):
    acme.read(directory())
    run = acme.read([])
    with pytest.raises(NotFound), unit(world.globex):
        removals.approve(run.id)
    decide(acme, removals.reject, run)
    for deed in (removals.approve, removals.reject):
        with pytest.raises(Conflict):
            decide(acme, deed, run)


def test_nothing_is_decided_while_a_run_is_under_way(acme: Upstream):
    acme.read(directory())
    run = acme.read([])

    def interfere(_: object) -> None:
        with pytest.raises(Conflict):
            decide(acme, removals.approve, run)

    acme.read(directory(), progress=interfere)
    assert acme.present()["User"] == 60


def test_a_hold_outlives_every_connection(acme: Upstream):
    acme.read(directory())
    run = acme.read([])
    for engine in db.engines.values():
        engine.dispose()
    decide(acme, removals.approve, run)
    assert acme.present() == {}


def test_a_truncated_file_takes_nobody_away(acme: Upstream):
    acme.read(directory())
    acme.file.write_bytes(acme.file.read_bytes()[:2_000])
    run = acme.read(acme.file)
    assert run.status == "failed"
    assert "Unfinished" in run.problem
    assert acme.present()["User"] == 60


def test_a_provider_may_have_a_guard_of_its_own(world: World, tmp_path: Path):
    strict = Upstream(world.acme, make_provider(world.acme, removal_guard={"min": 0, "percent": 0}), tmp_path)
    strict.read(people(10))
    assert strict.read(people(9)).status == "held"


def test_removals_after_a_change_of_configuration_are_held(acme: Upstream):
    acme.read(directory())
    with platform_scope() as session:
        via = session.get_one(IdentityProvider, (acme.scope.tenant_id, acme.provider_id))
        via.config = {"base_dn": BASE}
    run = acme.read(without(directory(), "p0003"))
    assert run.status == "held"
    decide(acme, removals.approve, run)
    assert acme.read(without(directory(), "p0003", "p0004")).status == "done"


def test_an_entry_that_cannot_be_told_may_be_the_one_that_is_missed(acme: Upstream, tmp_path: Path):
    acme.read(directory())
    unreadable = tmp_path / "unreadable.ldif"
    acme.read(without(directory(), "p0003"), dry_run=True)
    unreadable.write_bytes(acme.file.read_bytes() + b"dn:: /w==\nobjectClass: user\n\n")
    run = acme.read(unreadable)
    assert run.status == "held"
    decide(acme, removals.approve, run)
    unreadable.write_bytes(unreadable.read_bytes().replace(b"dn: CN=p0004,", b"dn: CN=p0004 gone,"))
    assert acme.read(unreadable).status == "done"


def test_a_known_entry_that_cannot_be_read_is_not_missed(acme: Upstream, tmp_path: Path):
    acme.read(directory())
    acme.file.write_bytes(acme.file.read_bytes().replace(b"cn: p0003\n", b"cn: p0003\nphoto:< file:///x\n"))
    run = acme.read(acme.file)
    assert (run.status, run.skipped) == ("done", 1)
    assert acme.present()["User"] == 60


def test_explicit_deletions_count_against_the_guard(acme: Upstream):
    acme.read(people(60))
    gone = [(dn, {**attributes, "isDeleted": ["TRUE"]}) for dn, attributes in people(60)[:7]]
    run = acme.read([*gone, *people(53, 7)])
    assert (run.status, run.held_removals) == ("held", 7)
    decide(acme, removals.approve, run)
    assert acme.present() == {"User": 53}


class Feed:
    """An upstream that is followed: what it says is given."""

    def __init__(self, *changes: object) -> None:
        self.changes = changes

    def changes_since(self, cursor):
        yield Page(self.changes, "1", True, "delta")


def test_a_delta_misses_nobody_and_obeys_the_guard(acme: Upstream):
    acme.read([*people(60), group(1, people(3))])
    keys = [key(number) for number in range(60)]
    newcomer = Record("new", "user", "CN=new", "cn=new", {"cn": ["new"], "userPrincipalName": ["new@corp.example"]})
    member = Members(key(1, series=2), add=(Ref("cn=new", "CN=new"),))
    run = acme.run(sync.pull(acme.scope, acme.provider_id, Feed(Gone(keys[0]), newcomer, member)))
    assert (run.kind, run.status, run.removed, run.created) == ("delta", "done", 1, 1)
    assert acme.present()["User"] == 60
    assert acme.members(1) == 3
    run = acme.run(sync.pull(acme.scope, acme.provider_id, Feed(*(Gone(key) for key in keys[1:20]))))
    assert (run.status, run.held_removals) == ("held", 19)
