"""What upstreams take away: found, re-checked, done in sets; and what stays behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from broker import credentials, ids
from broker.attributes import ENTERPRISE
from broker.db import db, directory_writes
from broker.directory import EXPLICIT, Loss, members_lost
from broker.models import HeldRemoval, Link, PersonalAccessToken, Resource, ResourceValue, RoleAssignment, SyncRun
from broker.standing import Subject, standing
from connectors.port import Gone
from oidc.tokens import Issuer
from tests.oidc.minting import sign_in

from .conftest import Tenant, Upstream, dn, group, other, ou, person

NAMES = [f"p{n}" for n in range(12)]


def halved(ad: Upstream, keep: int = 4, floor: int = 5) -> list[Loss]:
    """A group of twelve that the next pass finds with only so many."""
    ad.apply(*map(person, NAMES), group("staff", *map(dn, NAMES)))
    return ad.next_run().apply(*map(person, NAMES), group("staff", *map(dn, NAMES[:keep])), floor=floor).losses


def test_halved_group_keeps_its_members_until_it_is_taken_away(acme: Tenant, ad: Upstream) -> None:
    [loss] = halved(ad)
    staff = ad.resource("key-staff")
    assert (loss.action, loss.kind, members_lost(loss)) == ("shrink", "group", 8)
    assert len(acme.members(staff)) == 12
    acme.news()
    ad.take_away([loss])
    assert acme.members(staff) == set(NAMES[:4])
    assert [(event.name, event.changed) for event in acme.news()] == [
        ("group.members_changed", {"added": 0, "removed": 8})
    ]
    assert ad.take_away([loss]).removed == 0 and acme.news() == []


def test_halved_group_gains_new_members_at_once(acme: Tenant, ad: Upstream) -> None:
    halved(ad)
    ad.next_run().apply(person("new"), group("staff", *map(dn, [*NAMES[:4], "new"])))
    assert acme.members(ad.resource("key-staff")) == {*NAMES, "new"}


@pytest.mark.parametrize(("keep", "floor"), [(7, 5), (7, 1), (2, 10)])
def test_group_that_loses_less_than_half_or_few_loses_them_at_once(
    acme: Tenant, ad: Upstream, keep: int, floor: int
) -> None:
    assert halved(ad, keep, floor) == []
    assert acme.members(ad.resource("key-staff")) == set(NAMES[:keep])


def test_shrink_is_dropped_when_the_group_changed_meanwhile(acme: Tenant, ad: Upstream) -> None:
    [loss] = halved(ad)
    ad.next_run().apply(group("staff", *map(dn, NAMES)))
    ad.take_away([loss])
    assert acme.members(ad.resource("key-staff")) == set(NAMES)


def test_shrink_spares_members_who_were_renamed_meanwhile(acme: Tenant, ad: Upstream) -> None:
    [loss] = halved(ad)
    ad.next_run().apply(person("p0", at=dn("p0", "OU=Moved")), *map(person, NAMES[1:]))
    ad.take_away([loss])
    assert acme.members(ad.resource("key-staff")) == set(NAMES[:4])


def test_held_members_stay_when_they_are_renamed(acme: Tenant, ad: Upstream) -> None:
    ad.apply(*map(person, NAMES), group("staff", *map(dn, NAMES)))
    ad.next_run()
    moved = person("p11", at=dn("p11", "OU=Moved"))
    losses = ad.apply(moved, *map(person, NAMES[:11]), group("staff", *map(dn, NAMES[:4]))).losses
    hold(ad, losses)
    with ad.open() as (directory, via):
        directory.correct(via, ad.run_no)
    assert acme.members(ad.resource("key-staff")) == set(NAMES)
    ad.take_away(losses)
    assert acme.members(ad.resource("key-staff")) == set(NAMES[:4])


def hold(ad: Upstream, losses: Sequence[Loss]) -> None:
    """Store losses as the guard does."""
    with ad.open() as (_, via):
        session = db.session()
        run = SyncRun(id=ids.new("run"), provider_id=via.id, kind="full", status="held")
        session.add(run)
        session.flush()
        for loss in losses:
            held = HeldRemoval(link_no=loss.link_no, action=loss.action, digest=loss.digest, reason="x")
            held.provider_id, held.run_id, held.evidence = via.id, run.id, loss.evidence
            session.add(held)


def test_same_shrink_has_the_same_evidence(acme: Tenant, ad: Upstream) -> None:
    [first] = halved(ad)
    people = map(dn, NAMES[:4])
    [again] = ad.next_run().apply(group("staff", *people, info="touched")).losses
    assert again.evidence == first.evidence and again.digest != first.digest


def test_absent_people_groups_and_units_are_removed(acme: Tenant, ad: Upstream) -> None:
    ad.pass_over(person("ann", mail="a@x"), group("staff", dn("ann")), ou("Sales"), other("printer"), person("bob"))
    ann, staff, sales = ad.resource("key-ann"), ad.resource("key-staff"), ad.resource("key-Sales")
    acme.news()
    ad.next_run().apply(person("bob"))
    losses = ad.losses()
    assert sorted((loss.action, loss.kind) for loss in losses) == [
        ("remove", kind) for kind in ("group", "other", "unit", "user")
    ]
    outcome = ad.take_away(losses)
    assert outcome.removed == 3 and outcome.by_kind["other", "removed"] == 1
    assert sorted(outcome.plan) == ["removed group staff", "removed unit Sales", "removed user ann"]
    assert acme.happened() == ["group.removed", "unit.removed", "user.removed"]
    for id in (ann, staff, sales):
        row = acme.row(id)
        assert row.removed_at is not None and row.version == 2 and not row.active
    with acme.open() as session:
        assert session.scalars(sa.select(ResourceValue.resource_id).where(ResourceValue.resource_id == ann)).all() == []
    assert ad.link("key-ann").gone_at is not None and ad.link("key-ann").resource_id == ann
    assert ad.losses() == [] and ad.take_away(losses).removed == 0 and acme.news() == []


def test_record_that_is_back_is_not_removed(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann"), person("bob"))
    ad.next_run().apply(person("bob"))
    losses = ad.losses()
    with ad.open() as (directory, via):
        run_no = ad.run_no
        directory.apply([person("ann")], via, run_no + 1)
        outcome = directory.take_away(losses, via, run_no)
    assert outcome.removed == 0 and acme.names() == ["ann", "bob"]


def test_explicit_deletion_needs_no_absence(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann"), person("bob"))
    [loss] = ad.apply(Gone("key-ann"), Gone("key-nobody")).losses
    assert loss.evidence == EXPLICIT
    assert ad.take_away([loss._replace(evidence=None)]).removed == 0
    assert ad.take_away([loss]).removed == 1
    assert acme.names() == ["bob"] and ad.apply(Gone("key-ann")).losses == []


def test_disabled_upstream_stays_active_until_it_is_taken_away(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann"), person("bob"))
    ann = ad.resource("key-ann")
    acme.news()
    ad.next_run().apply(person("ann", active=False, userAccountControl="514"), person("bob"))
    assert acme.row(ann).active and acme.document(ann)["active"] is True
    assert not ad.link("key-ann").active
    losses = ad.losses()
    assert [(loss.action, loss.kind) for loss in losses] == [("disable", "user")]
    acme.news()
    assert ad.take_away(losses).disabled == 1
    assert [(event.name, event.resource, event.changed) for event in acme.news()] == [
        ("user.disabled", ann, ["active"])
    ]
    assert acme.document(ann)["active"] is False
    assert ad.losses() == [] and ad.take_away(losses).disabled == 0 and acme.news() == []


def _here(acme: Tenant, ad: Upstream, id: str) -> None:
    acme.put("User", id, {"userName": acme.row(id).name, "active": False})


def _upstream(acme: Tenant, ad: Upstream, id: str) -> None:
    ad.pass_over(person("ann", active=False), person("bob"))


def _upstream_while_the_guard_waits(acme: Tenant, ad: Upstream, id: str) -> None:
    ad.next_run().apply(person("ann", active=False), person("bob"))


def _by_its_time(acme: Tenant, ad: Upstream, id: str) -> None:
    ad.next_run().apply(person("ann", accountExpires="116444736000000000"), person("bob"))


def _by_the_clock(acme: Tenant, ad: Upstream, id: str) -> None:
    with acme.open() as session, directory_writes():
        session.get_one(Resource, (acme.scope.tenant_id, id)).active_until = datetime.now(UTC)
        session.flush()
    with acme.directory() as directory:
        assert directory.expire_due() == 1
    with acme.open() as session, directory_writes():
        session.execute(sa.update(Link).where(Link.resource_id == id).values(digest=b""))


WAYS = [_here, _upstream, _upstream_while_the_guard_waits, _by_its_time, _by_the_clock]


@pytest.mark.parametrize("disable", WAYS)
def test_nothing_from_before_comes_back_with_a_disabled_person(
    acme: Tenant, ad: Upstream, disable: Callable[[Tenant, Upstream, str], None]
) -> None:
    ad.apply(person("ann"), person("bob"))
    ann, bob = (ad.resource(f"key-{name}") for name in ("ann", "bob"))
    held = {id: sign_in(acme.scope, id, issuer=Issuer("https://acme.example", acme.scope)) for id in (ann, bob)}
    acme.news()
    disable(acme, ad, ann)
    ended = [event for event in acme.news() if event.name.endswith(".ended")]
    assert sorted(event.resource for event in ended) == sorted([held[ann].session_id, held[ann].grant_id])
    assert {event.changed["reason"] for event in ended} == {"user_disabled"}
    ad.pass_over(person("ann"), person("bob"))
    if disable is _here:
        acme.put("User", ann, {"userName": acme.row(ann).name, "active": True})
    row = acme.row(ann)
    assert row.active and row.active_until is None
    assert not [event for event in acme.news() if event.name.endswith(".ended")]
    for id, alive in ((ann, False), (bob, True)):
        about = Subject(user_id=id, session_id=held[id].session_id, grant_id=held[id].grant_id)
        facts = standing(about, tenant_id=acme.scope.tenant_id)
        assert facts.user_usable and (facts.session_live, facts.grant_live) == (alive, alive)


def test_expired_account_waits_like_a_disabled_one(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann"))
    ad.next_run().apply(person("ann", accountExpires="116444736000000000"))
    assert acme.row(ad.resource("key-ann")).active
    assert [loss.action for loss in ad.losses()] == ["disable"]
    ad.take_away()
    assert not acme.row(ad.resource("key-ann")).active


def test_person_enabled_meanwhile_is_not_disabled(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann"))
    ad.next_run().apply(person("ann", active=False))
    losses = ad.losses()
    ad.next_run().apply(person("ann"))
    assert ad.take_away(losses).disabled == 0
    assert acme.row(ad.resource("key-ann")).active


def test_removed_manager_leaves_reports_without_one(acme: Tenant, ad: Upstream) -> None:
    people = [person("boss"), person("ann", manager=dn("boss")), person("bob", manager=dn("boss"))]
    ad.pass_over(*people)
    ann, boss = ad.resource("key-ann"), ad.resource("key-boss")
    acme.news()
    ad.pass_over(*people[1:])
    assert acme.row(ann).manager_id is None and ENTERPRISE not in acme.document(ann)
    assert ENTERPRISE not in acme.document(ann)["schemas"]
    changed = [event.changed for event in acme.news() if event.name == "user.updated"]
    assert changed == [[f"{ENTERPRISE}:manager"]] * 2
    ad.pass_over(*people)
    assert acme.row(ann).manager_id == boss
    assert [event.name for event in acme.news()].count("user.updated") == 2


def test_removed_unit_leaves_its_children_without_a_parent(acme: Tenant, ad: Upstream) -> None:
    parent = "OU=Acme,DC=acme,DC=test"
    ad.pass_over(ou("Acme"), ou("Sales", parent=parent), person("ann", unit=parent))
    sales, ann = ad.resource("key-Sales"), ad.resource("key-ann")
    acme.news()
    ad.pass_over(ou("Sales", parent=parent), person("ann", unit=parent))
    assert "parent" not in acme.document(sales) and acme.row(sales).version == 2
    assert acme.row(ann).parent_id is None and acme.row(ann).version == 1
    assert acme.happened() == ["unit.removed", "unit.updated"]


def test_linked_counts_who_is_here_by_kind(acme: Tenant, ad: Upstream, hr: Upstream) -> None:
    acme.user("taken")
    ad.pass_over(person("ann"), person("bob"), person("taken"), group("staff"), ou("Sales"), other("printer"))
    with ad.open() as (directory, via):
        assert directory.linked(via) == {"user": 2, "group": 1, "unit": 1}
    ad.pass_over(person("ann"))
    with ad.open() as (directory, via):
        assert directory.linked(via) == {"user": 1}
    with hr.open() as (directory, via):
        assert directory.linked(via) == {}


def assign(tenant: Tenant, principal_id: str, role: str = "tenant_admin") -> None:
    with tenant.open() as session:
        scope_id = tenant.scope.tenant_id
        session.add(RoleAssignment(id=ids.new("rol"), role=role, principal_id=principal_id, scope_id=scope_id))


def test_administrators_are_found_directly_and_through_nested_groups(acme: Tenant, ad: Upstream) -> None:
    inner, outer = dn("inner", "OU=Groups"), dn("outer", "OU=Groups")
    ad.apply(
        *(person(name) for name in ("direct", "nested", "primary", "nobody")),
        group("outer", inner, alias="S-1"),
        group("inner", dn("nested"), outer),
        person("of-outer", primary_group="S-1"),
        group("plain", dn("nobody")),
    )
    assign(acme, ad.resource("key-direct"))
    assign(acme, ad.resource("key-outer"))
    ad.next_run()
    losses = ad.losses()
    numbers = {loss.link_no: loss for loss in losses}
    with ad.open() as (directory, _):
        found = directory.administrators_among(losses)
    admins = {ad.link(f"key-{name}").no for name in ("direct", "nested", "of-outer", "outer", "inner")}
    assert found == admins and found < numbers.keys()
    with ad.open() as (directory, _):
        assert directory.administrators_among([]) == set()


def test_roles_and_tokens_end_with_whoever_held_them(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann"))
    ann = ad.resource("key-ann")
    assign(acme, ann)
    with acme.open():
        credentials.mint_pat(ann, name="x")
    ad.pass_over()
    ad.pass_over(person("ann"))
    assert ad.resource("key-ann") == ann and acme.row(ann).removed_at is None
    with acme.open() as session:
        assert session.scalars(sa.select(RoleAssignment)).all() == []
        (token,) = session.scalars(sa.select(PersonalAccessToken))
        assert token.revoked_at is not None
    assert {"role.revoked", "personal_access_token.revoked"} <= {event.name for event in acme.news()}


def test_held_removal_is_forgotten_when_the_record_is_back(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann"), person("bob"))
    ad.next_run().apply(person("bob", active=False))
    hold(ad, ad.losses())

    def held() -> list[str]:
        with acme.open() as session:
            return sorted(session.scalars(sa.select(HeldRemoval.action)))

    assert held() == ["disable", "remove"]
    ad.next_run().apply(person("ann"), person("bob", active=False))
    assert held() == ["disable"]
    ad.apply(person("bob"))
    assert held() == []


def test_thousand_go_in_a_bounded_number_of_statements(acme: Tenant, ad: Upstream) -> None:
    people = [person(f"p{n}", manager=dn("p0")) for n in range(300)]
    ad.apply(*people, group("staff", *(dn(f"p{n}") for n in range(300))))
    ad.next_run()
    losses = ad.losses()
    seen = []
    with ad.open() as (directory, via):
        engine = db.session().get_bind()

        def count_one(*args: object) -> None:
            seen.append(args[2])

        event.listen(engine, "before_cursor_execute", count_one)
        try:
            outcome = directory.take_away(losses, via, ad.run_no)
        finally:
            event.remove(engine, "before_cursor_execute", count_one)
    assert outcome.removed == 301 and len(seen) < 25
    with acme.open() as session:
        assert session.scalars(sa.select(Resource.id).where(Resource.removed_at.is_(None))).all() == []
