"""Who is in which group: order, duplicates, renames, late arrivals, primary groups, several givers."""

from __future__ import annotations

from threading import Thread

import pytest
import sqlalchemy as sa
from flask import Flask

from broker.attributes import ENTERPRISE
from broker.db import platform_scope
from broker.directory import members_lost
from broker.errors import NotFound, OwnedByUpstream, PreconditionFailed, ValidationFailed
from broker.models import Membership
from connectors.port import Members

from .conftest import Tenant, Upstream, dn, group, other, person, ref

MEMBERS_CHANGED = "group.members_changed"


def kinds(tenant: Tenant, group_id: str) -> list[str]:
    with tenant.open() as session:
        return sorted(session.scalars(sa.select(Membership.kind).where(Membership.group_id == group_id)))


def test_member_order_and_spelling_are_kept(acme: Tenant, ad: Upstream) -> None:
    names = ["Zoë", "ann", "BOB"]
    ad.apply(group("staff", *map(dn, names)), *(person(name) for name in names))
    staff = ad.resource("key-staff")
    assert acme.raws(staff) == [dn(name) for name in names]
    acme.news()
    ad.next_run().apply(group("staff", *map(dn, reversed(names))))
    assert acme.raws(staff) == [dn(name) for name in reversed(names)]
    assert acme.row(staff).version == 1 and acme.news() == []


def test_member_listed_twice_is_kept_twice_and_is_one_member(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann"), group("staff", dn("ann"), dn("x"), dn("ann"), dn("x")))
    staff = ad.resource("key-staff")
    assert acme.raws(staff) == [dn("ann"), dn("x"), dn("ann"), dn("x")]
    assert acme.members(staff) == {"ann"}
    acme.news()
    ad.next_run().apply(group("staff", dn("ann"), dn("x")))
    assert acme.raws(staff) == [dn("ann"), dn("x")]
    assert acme.members(staff) == {"ann"} and acme.news() == []


def test_members_wait_for_their_people_and_arrive_with_one_event(acme: Tenant, ad: Upstream) -> None:
    ad.apply(group("staff", dn("ann"), dn("bob"), dn("never")))
    staff = ad.resource("key-staff")
    assert acme.members(staff) == set()
    acme.news()
    ad.apply(person("ann"), person("bob"))
    assert acme.members(staff) == {"ann", "bob"}
    told = [event for event in acme.news() if event.name == MEMBERS_CHANGED]
    assert [(event.resource, event.changed) for event in told] == [(staff, {"added": 2, "removed": 0})]
    assert acme.row(staff).version == 2


def test_unknown_members_come_and_go_without_an_event(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann"), group("staff", dn("ann")))
    acme.news()
    ad.next_run().apply(group("staff", dn("ann"), dn("contact")))
    ad.next_run().apply(group("staff", dn("ann")))
    assert acme.raws(ad.resource("key-staff")) == [dn("ann")]
    assert acme.news() == [] and acme.row(ad.resource("key-staff")).version == 1


def test_joining_and_leaving_are_counted(acme: Tenant, ad: Upstream) -> None:
    ad.apply(*(person(f"p{n}") for n in range(5)), group("staff", *(dn(f"p{n}") for n in range(4))))
    acme.news()
    ad.next_run().apply(group("staff", dn("p1"), dn("p2"), dn("p3"), dn("p4")))
    [told] = acme.news()
    assert (told.name, told.changed) == (MEMBERS_CHANGED, {"added": 1, "removed": 1})
    assert acme.members(ad.resource("key-staff")) == {"p1", "p2", "p3", "p4"}


def test_contacts_and_units_are_no_members(acme: Tenant, ad: Upstream) -> None:
    ad.apply(other("contact"), group("staff", dn("contact")))
    assert acme.members(ad.resource("key-staff")) == set()
    assert acme.raws(ad.resource("key-staff")) == [dn("contact")]


def test_group_that_does_not_say_keeps_its_members(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann"), group("staff", dn("ann")))
    ad.next_run().apply(group("staff", silent=True, info="new"))
    assert acme.members(ad.resource("key-staff")) == {"ann"}
    ad.next_run().apply(group("staff", info="new"))
    assert acme.members(ad.resource("key-staff")) == set()


@pytest.mark.parametrize("order", ["person first", "group first", "one page", "group's page first"])
def test_renamed_member_is_no_change_of_membership(acme: Tenant, ad: Upstream, order: str) -> None:
    names = [f"p{n}" for n in range(12)]
    ad.apply(*map(person, names), group("staff", *map(dn, names)))
    staff = ad.resource("key-staff")
    acme.news()
    moved = [dn(name, "OU=Moved") for name in names]
    people = [person(name, at=at) for name, at in zip(names, moved, strict=True)]
    ad.next_run()
    listing = group("staff", *moved)
    if order == "one page":
        losses = ad.apply(*people[:6], listing, *people[6:]).losses
    elif order == "group's page first":
        losses = [*ad.apply(listing).losses, *ad.apply(*people[:6]).losses, *ad.apply(*people[6:]).losses]
    else:
        first, second = ([listing], people) if order == "group first" else (people, [listing])
        losses = [*ad.apply(*first).losses, *ad.apply(*second).losses]
    assert losses == []
    assert acme.members(staff) == set(names) and acme.raws(staff) == moved
    assert acme.row(staff).version == 1 and acme.news() == []
    assert kinds(acme, staff) == ["member"] * 12
    assert ad.next_run().apply(listing, *people).unchanged == 13


def test_member_who_leaves_while_another_is_unknown_leaves_in_the_same_pass(acme: Tenant, ad: Upstream) -> None:
    ad.apply(*(person(f"p{n}") for n in range(4)), group("staff", *(dn(f"p{n}") for n in range(4))))
    staff = ad.resource("key-staff")
    acme.news()
    ad.next_run().apply(group("staff", dn("p0"), dn("p1"), dn("p2"), dn("stranger")))
    assert acme.members(staff) == {"p0", "p1", "p2", "p3"} and acme.news() == []
    ad.apply(*(person(f"p{n}") for n in range(4)))
    assert acme.members(staff) == {"p0", "p1", "p2"}
    assert [(event.name, event.changed) for event in acme.news()] == [(MEMBERS_CHANGED, {"added": 0, "removed": 1})]


def test_member_whose_record_was_read_already_leaves_at_once(acme: Tenant, ad: Upstream) -> None:
    people = [person(f"p{n}") for n in range(4)]
    ad.apply(*people, group("staff", *(dn(f"p{n}") for n in range(4))))
    ad.next_run().apply(*people)
    ad.apply(group("staff", dn("p0"), dn("p1"), dn("p2"), dn("stranger")))
    assert acme.members(ad.resource("key-staff")) == {"p0", "p1", "p2"}


def test_member_who_leaves_and_returns_while_unread_is_a_member(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("a"), person("b"), person("c"), group("staff", dn("a"), dn("b"), dn("c")))
    staff = ad.resource("key-staff")
    for _ in range(2):
        ad.next_run().apply(group("staff", dn("a"), dn("b"), dn("stranger")))
        ad.next_run().apply(group("staff", dn("a"), dn("b"), dn("c")))
    acme.news()
    ad.next_run().apply(person("a"), person("b"), person("c"))
    assert acme.members(staff) == {"a", "b", "c"} and acme.news() == []
    assert kinds(acme, staff) == ["member"] * 3


@pytest.mark.parametrize("listed_first", [True, False])
def test_two_who_swap_their_dns_are_told_apart_at_the_end(acme: Tenant, ad: Upstream, listed_first: bool) -> None:
    x, y = dn("x"), dn("y")
    staff, reports = group("staff", x), person("rep", manager=x)
    ad.pass_over(person("ann", at=x), person("bob", at=y), staff, reports)
    staff_id, rep, bob = ad.resource("key-staff"), ad.resource("key-rep"), ad.resource("key-bob")
    acme.news()
    ad.next_run()
    pages = [[staff, reports], [person("ann", at=y)], [person("bob", at=x)]]
    for page in pages if listed_first else reversed(pages):
        ad.apply(*page)
    ad.finish()
    assert acme.members(staff_id) == {"bob"}
    assert acme.row(rep).manager_id == bob
    assert acme.happened() == [MEMBERS_CHANGED, "user.updated"]
    ad.pass_over(person("ann", at=y), person("bob", at=x), staff, reports)
    assert acme.news() == []


def test_recreated_account_takes_the_place_of_its_name(acme: Tenant, ad: Upstream) -> None:
    people = [person("ann", key="old"), person("bob", manager=dn("ann")), group("staff", dn("ann"), dn("bob"))]
    ad.pass_over(*people)
    staff, bob = ad.resource("key-staff"), ad.resource("key-bob")
    acme.news()
    again = [person("ann2", key="new", at=dn("ann")), *people[1:]]
    ad.pass_over(*again)
    new = ad.resource("new")
    assert acme.members(staff) == {"ann2", "bob"}
    assert acme.row(bob).manager_id == new
    assert acme.document(bob)[ENTERPRISE]["manager"]["value"] == new
    assert acme.happened() == [MEMBERS_CHANGED, "user.created", "user.removed", "user.updated"]


@pytest.mark.parametrize("group_first", [True, False])
def test_primary_group_counts_in_either_order(acme: Tenant, ad: Upstream, group_first: bool) -> None:
    users = group("Domain Users", alias="S-513")
    page = [person("ann", primary_group="S-513")]
    for change in [users, *page] if group_first else [*page, users]:
        ad.apply(change)
    group_id = ad.resource("key-Domain Users")
    assert acme.members(group_id) == {"ann"}
    told = [event for event in acme.news() if event.name == MEMBERS_CHANGED]
    assert len(told) == (1 if group_first else 0)
    assert ad.next_run().apply(users, *page).unchanged == 2 and acme.news() == []


def test_changed_primary_group_moves_the_person(acme: Tenant, ad: Upstream) -> None:
    groups = [group("one", alias="S-1"), group("two", alias="S-2")]
    ad.apply(*groups, person("ann", primary_group="S-1"))
    acme.news()
    ad.next_run().apply(person("ann", primary_group="S-2", primaryGroupID="2"))
    assert acme.members(ad.resource("key-one")) == set() and acme.members(ad.resource("key-two")) == {"ann"}
    told = {event.resource: event.changed for event in acme.news() if event.name == MEMBERS_CHANGED}
    assert told == {
        ad.resource("key-one"): {"added": 0, "removed": 1},
        ad.resource("key-two"): {"added": 1, "removed": 0},
    }


def test_primary_member_who_is_listed_too_is_one_member(acme: Tenant, ad: Upstream) -> None:
    ad.apply(group("one", dn("ann"), alias="S-1"), person("ann", primary_group="S-1"))
    acme.news()
    ad.next_run().apply(group("one", alias="S-1"))
    assert acme.members(ad.resource("key-one")) == {"ann"} and acme.news() == []


def test_cycles_of_groups_are_taken(acme: Tenant, ad: Upstream) -> None:
    here = [dn(name, "OU=Groups") for name in "abc"]
    ad.apply(group("a", here[1]), group("b", here[2]), group("c", here[0], here[2]))
    assert [acme.members(ad.resource(f"key-{name}")) for name in "abc"] == [{"b"}, {"c"}, {"a", "c"}]


def test_sync_touches_only_its_own_memberships(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann"), group("staff", dn("ann")))
    staff, local = ad.resource("key-staff"), acme.user("bob")
    assert acme.change(staff, add=[local])
    acme.news()
    ad.next_run().apply(group("staff"))
    assert acme.members(staff) == {"bob"}
    assert [event.changed for event in acme.news()] == [{"added": 0, "removed": 1}]


def test_member_whom_two_give_leaves_with_the_last(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann"), group("staff"))
    staff, ann = ad.resource("key-staff"), ad.resource("key-ann")
    assert acme.change(staff, add=[ann])
    acme.news()
    ad.next_run().apply(group("staff", dn("ann")))
    assert acme.news() == []
    ad.next_run().apply(group("staff"))
    assert acme.members(staff) == {"ann"} and acme.news() == []
    assert acme.change(staff, remove=[ann])
    assert [event.changed for event in acme.news()] == [{"added": 0, "removed": 1}]


def test_clients_add_and_remove_members_without_loading_the_group(acme: Tenant) -> None:
    ann, bob, staff = acme.user("ann"), acme.user("bob"), acme.group("staff")
    nested = acme.group("nested")
    acme.news()
    assert acme.change(staff, add=[ann, bob, nested, ann])
    assert acme.members(staff) == {"ann", "bob", "nested"} and acme.row(staff).version == 2
    assert not acme.change(staff, add=[ann]) and not acme.change(staff, remove=["usr_nobody"])
    assert acme.change(staff, add=[ann], remove=[bob])
    assert not acme.change(staff, add=[ann], remove=[ann])
    assert [event.changed for event in acme.news()] == [{"added": 3, "removed": 0}, {"added": 0, "removed": 1}]
    assert acme.members(staff) == {"ann", "nested"} and acme.row(staff).version == 3


def test_members_must_be_people_or_groups_of_the_tenant(acme: Tenant, globex: Tenant) -> None:
    staff, unit = acme.group("staff"), acme.create("OrganizationalUnit", displayName="Sales")
    gone, robot = acme.user("gone"), acme.user("robot", userType="ServiceAccount")
    acme.remove("User", gone)
    acme.news()
    for stranger in (globex.user("ann"), unit, gone, robot, staff, "usr_x"):
        with pytest.raises(ValidationFailed) as refused:
            acme.change(staff, add=[stranger])
        assert refused.value.scim_type == "invalidValue"
    with pytest.raises(NotFound):
        globex.change(staff)
    with pytest.raises(NotFound):
        acme.change(acme.user("ann"))
    assert acme.members(staff) == set()


def test_change_of_members_honours_the_version(acme: Tenant) -> None:
    staff, ann, bob = acme.group("staff"), acme.user("ann"), acme.user("bob")
    assert acme.change(staff, add=[ann], if_match=1)
    with pytest.raises(PreconditionFailed):
        acme.change(staff, add=[bob], if_match=1)
    assert acme.change(staff, add=[bob], if_match=2)


def test_of_two_conditional_changes_at_once_one_wins(acme: Tenant, app: Flask) -> None:
    staff, people = acme.group("staff"), [acme.user(f"p{n}") for n in range(6)]
    refused = []

    def change(id: str) -> None:
        with app.app_context():
            try:
                acme.change(staff, add=[id], if_match=1)
            except PreconditionFailed:
                refused.append(id)

    threads = [Thread(target=change, args=(id,)) for id in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(refused) == 5 and len(acme.members(staff)) == 1 and acme.row(staff).version == 2


def test_parallel_additions_all_arrive(acme: Tenant, app: Flask) -> None:
    staff, people = acme.group("staff"), [acme.user(f"p{n}") for n in range(24)]
    acme.news()

    def add(ids: list[str]) -> None:
        with app.app_context():
            for id in ids:
                acme.change(staff, add=[id])

    threads = [Thread(target=add, args=(people[n::6],)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(acme.members(staff)) == 24 and acme.row(staff).version == 25
    assert acme.happened() == [MEMBERS_CHANGED] * 24


def test_membership_an_upstream_gives_is_removed_there(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann"), group("staff", dn("ann")))
    staff, ann = ad.resource("key-staff"), ad.resource("key-ann")
    with pytest.raises(OwnedByUpstream) as refused:
        acme.change(staff, remove=[ann])
    assert refused.value.scim_type == "mutability"
    assert acme.members(staff) == {"ann"}
    assert not acme.change(staff, add=[ann], remove=[ann])


def test_replacing_a_group_sets_the_members_written_here(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann"), group("staff", dn("ann")))
    staff, ann = ad.resource("key-staff"), ad.resource("key-ann")
    bob, cyd = acme.user("bob"), acme.user("cyd")
    acme.change(staff, add=[bob])
    document = acme.document(staff)
    acme.put("Group", staff, {**document, "members": [{"value": ann}, {"value": cyd}]})
    assert acme.members(staff) == {"ann", "cyd"}
    with pytest.raises(OwnedByUpstream):
        acme.put("Group", staff, {**document, "members": [{"value": cyd}]})
    with pytest.raises(OwnedByUpstream):
        acme.put("Group", staff, {**document, "members": []}, complete=True)
    acme.put("Group", staff, {**document, "members": []})
    assert acme.members(staff) == {"ann"}
    acme.news()
    acme.put("Group", staff, document)
    acme.put("Group", staff, {**document, "members": []})
    assert acme.members(staff) == {"ann"} and acme.news() == []


def test_increments_of_a_followed_upstream_are_applied_in_order(acme: Tenant, ad: Upstream) -> None:
    names = ["a", "b", "c", "d"]
    ad.apply(*map(person, names), group("staff", dn("a"), dn("b"), dn("c")), group("other"))
    staff, others = ad.resource("key-staff"), ad.resource("key-other")
    acme.news()
    ad.next_run().apply(
        Members("key-staff", add=(ref(dn("d")), ref(dn("later"))), remove=(ref(dn("a")),)),
        Members("key-staff", add=(ref(dn("a")),), remove=(ref(dn("b")), ref(dn("nobody")))),
        Members("key-other", add=(ref(dn("a")),)),
    )
    assert acme.members(staff) == {"a", "c", "d"} and acme.members(others) == {"a"}
    assert acme.raws(staff) == [dn("c"), dn("d"), dn("later"), dn("a")]
    told = {event.resource: event.changed for event in acme.news()}
    assert told == {staff: {"added": 1, "removed": 1}, others: {"added": 1, "removed": 0}}
    ad.apply(person("later"))
    assert acme.members(staff) == {"a", "c", "d", "later"}
    assert ad.apply(Members("key-nowhere"), Members("key-a")).skips[0].reason == "unknown_group"


def test_increments_that_halve_a_group_wait_for_the_guard(acme: Tenant, ad: Upstream) -> None:
    names = [f"p{n}" for n in range(10)]
    ad.apply(*map(person, names), group("staff", *map(dn, names)))
    staff = ad.resource("key-staff")
    outcome = ad.next_run().apply(
        Members("key-staff", remove=tuple(ref(dn(name)) for name in names[:6]), add=(ref(dn("new")),)), person("new")
    )
    assert acme.members(staff) == {*names, "new"}
    [loss] = outcome.losses
    assert (loss.action, loss.kind, members_lost(loss)) == ("shrink", "group", 6)
    ad.apply(Members("key-staff", add=(ref(dn("p0")),), remove=(ref(dn("p9")),)))
    ad.take_away([loss])
    assert acme.members(staff) == {"p0", "p6", "p7", "p8", "new"}


def test_member_said_again_after_it_was_held_stays(acme: Tenant, ad: Upstream) -> None:
    names = [f"p{n}" for n in range(4)]
    ad.apply(*map(person, names), group("staff", *map(dn, names)))
    remove = Members("key-staff", remove=tuple(ref(dn(name)) for name in names[:3]))
    [loss] = ad.next_run().apply(remove, floor=1).losses
    ad.apply(Members("key-staff", add=(ref(dn("p0")),)))
    ad.take_away([loss])
    assert acme.members(ad.resource("key-staff")) == {"p0", "p3"}


def test_removed_person_leaves_all_groups(acme: Tenant, ad: Upstream) -> None:
    page = [person("ann", primary_group="S-1"), person("bob"), group("one", dn("ann"), dn("bob"), alias="S-1")]
    ad.pass_over(*page)
    one, ann = ad.resource("key-one"), ad.resource("key-ann")
    local = acme.group("local", ann)
    acme.news()
    ad.pass_over(*page[1:])
    assert acme.members(one) == {"bob"} and acme.members(local) == set()
    assert acme.raws(one) == [dn("ann"), dn("bob")]
    told = {event.resource: event.changed for event in acme.news() if event.name == MEMBERS_CHANGED}
    assert told == {one: {"added": 0, "removed": 1}, local: {"added": 0, "removed": 1}}
    ad.pass_over(*page)
    assert acme.members(one) == {"ann", "bob"} and acme.members(local) == set()


def test_removed_group_loses_its_members_and_its_place(acme: Tenant, ad: Upstream) -> None:
    inner = dn("inner", "OU=Groups")
    page = [person("ann"), group("inner", dn("ann")), group("outer", inner)]
    ad.pass_over(*page)
    outer, inner_id = ad.resource("key-outer"), ad.resource("key-inner")
    acme.news()
    ad.pass_over(page[0], page[2])
    assert acme.members(outer) == set()
    assert acme.happened() == [MEMBERS_CHANGED, "group.removed"]
    with platform_scope() as session:
        found = session.execute(
            sa.select(sa.func.count()).select_from(Membership).where(Membership.group_id == inner_id)
        )
        assert found.scalar_one() == 0
    ad.pass_over(*page)
    assert acme.members(inner_id) == {"ann"} and acme.members(outer) == {"inner"}


def test_groups_removed_together_leave_no_rows(acme: Tenant, ad: Upstream) -> None:
    a, b = dn("a", "OU=Groups"), dn("b", "OU=Groups")
    ad.pass_over(group("a", b), group("b", a), person("ann"))
    ad.pass_over(person("ann"))
    with acme.open() as session:
        assert session.scalars(sa.select(sa.func.count()).select_from(Membership)).one() == 0
