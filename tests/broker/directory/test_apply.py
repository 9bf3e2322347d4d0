"""A page of an upstream's changes: what is new, changed, unchanged, quiet, skipped."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from threading import Event as Signal
from threading import Thread

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy import event

from broker.attributes import AD_USER, ENTERPRISE
from broker.context import acting, system
from broker.db import db, platform_scope, unit
from broker.directory import Directory, Skip
from broker.errors import Conflict
from broker.models import IdentityProvider, Partner
from connectors.port import Gone, Record, Unreadable

from .conftest import Tenant, Upstream, dn, group, other, ou, person

MANAGER = f"{ENTERPRISE}:manager"


def reasons(skips: list[Skip]) -> list[str]:
    return [skip.reason for skip in skips]


def set_limit(tenant: Tenant, users: int | None) -> None:
    with platform_scope() as session:
        session.execute(
            sa.update(Partner).where(Partner.id == tenant.scope.partner_id).values(max_users_per_tenant=users)
        )


def test_page_applied_twice_is_silent(acme: Tenant, ad: Upstream) -> None:
    page = (
        ou("People"),
        person("ann", unit="OU=People,DC=acme,DC=test", manager=dn("bob"), mail="ann@acme.test"),
        person("bob", primary_group="S-1-5-21-513", thumbnailPhoto=b"\xff\xd8"),
        group("staff", dn("ann"), dn("bob"), dn("unknown"), alias="S-1-5-21-513"),
        other("printer"),
    )
    first = ad.apply(*page)
    assert (first.read, first.created, first.updated, first.unchanged) == (5, 5, 0, 0)
    assert acme.happened() == ["group.created", "unit.created", "user.created", "user.created"]
    versions = {name: acme.row(ad.resource(name)).version for name in ("key-ann", "key-bob", "key-staff", "key-People")}
    assert set(versions.values()) == {1}

    again = ad.next_run().apply(*page)
    assert (again.read, again.created, again.updated, again.unchanged) == (5, 0, 0, 5)
    assert ad.apply(*page).unchanged == 5
    assert acme.news() == []
    assert versions == {name: acme.row(ad.resource(name)).version for name in versions}
    assert ad.losses() == []


def test_new_changed_and_unchanged_records_are_told_apart(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann"), person("bob", title="Clerk"))
    acme.news()
    outcome = ad.next_run().apply(person("ann"), person("bob", title="Chief"), person("cyd"))
    assert (outcome.created, outcome.updated, outcome.unchanged) == (1, 1, 1)
    assert outcome.by_kind == {("user", "created"): 1, ("user", "updated"): 1, ("user", "unchanged"): 1}
    told = {event.name: event for event in acme.news()}
    assert told.keys() == {"user.created", "user.updated"}
    assert told["user.updated"].changed == ["title"]
    assert acme.row(ad.resource("key-bob")).version == 2
    assert acme.document(ad.resource("key-bob"))["title"] == "Chief"


def test_quiet_values_are_rewritten_in_place_without_version_or_event(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann", lastLogon="1", badPwdCount="0", memberOf=[dn("x")]))
    acme.news()
    outcome = ad.next_run().apply(person("ann", lastLogon="2", badPwdCount="3", memberOf=[dn("y")]))
    assert (outcome.updated, outcome.unchanged) == (0, 1)
    assert acme.news() == []
    assert acme.row(ad.resource("key-ann")).version == 1
    record = ad.record("key-ann")
    assert b'"lastLogon",["2"]' in record and dn("y").encode() in record
    assert dn("x").encode() not in record


def test_change_of_an_unknown_attribute_makes_a_version_and_is_named(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann", acmeBadge="1", departmentNumber="7"))
    acme.news()
    ad.next_run().apply(person("ann", acmeBadge="2", departmentNumber="7"))
    [told] = acme.news()
    assert (told.name, told.changed) == ("user.updated", [f"{AD_USER}:acmeBadge"])
    assert acme.row(ad.resource("key-ann")).version == 2


def test_records_of_other_classes_are_links_without_a_resource(acme: Tenant, ad: Upstream) -> None:
    outcome = ad.apply(other("printer", serialNumber="1"))
    assert outcome.created == 1
    assert ad.link("key-printer").resource_id is None
    assert ad.next_run().apply(other("printer", serialNumber="2")).updated == 1
    assert acme.news() == []
    assert b'"serialNumber",["2"]' in ad.record("key-printer")


def test_a_page_takes_as_many_statements_whatever_its_size(acme: Tenant, ad: Upstream, app: Flask) -> None:
    def statements(first: int, count: int, title: str) -> int:
        names = [f"p{n}" for n in range(first, first + count)]
        people = [person(name, manager=dn(names[0]), primary_group="S-1", title=title) for name in names]
        teams = [group(f"g{name}", *map(dn, names[0 if title == "a" else 1 : 20])) for name in names]
        seen: list[str] = []
        with ad.open() as (directory, via):
            engine = db.session().get_bind()

            def count_one(*args: object) -> None:
                seen.append(str(args[2]))

            event.listen(engine, "before_cursor_execute", count_one)
            try:
                directory.apply([*people, *teams], via, ad.run_no)
            finally:
                event.remove(engine, "before_cursor_execute", count_one)
        return len(seen)

    small, large = statements(0, 3, "a"), statements(1_000, 60, "a")
    assert large <= small + 2
    ad.next_run()
    assert statements(1_000, 60, "b") <= statements(0, 3, "b") + 2


def test_name_conflict_skips_the_record_and_keeps_it(acme: Tenant, ad: Upstream) -> None:
    local = acme.user("ann")
    acme.news()
    outcome = ad.apply(person("ANN", title="Impostor"), person("bob"))
    assert reasons(outcome.skips) == ["user_name_taken"]
    assert outcome.skips[0].name == dn("ANN")
    assert acme.happened() == ["user.created"]
    link = ad.link("key-ANN")
    assert (link.resource_id, link.skipped, link.seen_run) == (None, "user_name_taken", ad.run_no)
    assert b"Impostor" in ad.record("key-ANN")
    assert "title" not in acme.document(local)
    again = ad.next_run().apply(person("ANN", title="Impostor"))
    assert reasons(again.skips) == ["user_name_taken"] and acme.news() == []


def test_name_conflict_heals_when_the_other_leaves(acme: Tenant, ad: Upstream) -> None:
    local = acme.user("ann")
    ad.apply(person("ann"))
    acme.remove("User", local)
    acme.news()
    outcome = ad.next_run().apply(person("ann"))
    assert outcome.created == 1 and outcome.skips == []
    assert acme.happened() == ["user.created"]
    assert ad.resource("key-ann") != local


@pytest.mark.parametrize(
    ("held", "wanted"), [("straße", "STRASSE"), ("ﬁn", "FIN"), ("Ångström", "a\u030angström"), ("İ", "i\u0307")]
)
def test_names_are_compared_folded(acme: Tenant, ad: Upstream, held: str, wanted: str) -> None:
    acme.user(held)
    assert reasons(ad.apply(person(wanted)).skips) == ["user_name_taken"]


def test_conflict_within_a_page_leaves_the_first(acme: Tenant, ad: Upstream) -> None:
    outcome = ad.apply(person("ann", key="1"), person("Ann", key="2", at="CN=ann2"))
    assert reasons(outcome.skips) == ["user_name_taken"]
    assert ad.link("1").resource_id is not None and ad.link("2").resource_id is None


def test_two_people_may_swap_names_in_one_page(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann", key="1"), person("bob", key="2"))
    one, two = ad.resource("1"), ad.resource("2")
    acme.news()
    outcome = ad.next_run().apply(person("bob", key="1", at=dn("ann")), person("ann", key="2", at=dn("bob")))
    assert outcome.skips == [] and outcome.updated == 2
    assert (acme.row(one).name, acme.row(two).name) == ("bob", "ann")
    assert ["userName" in event.changed for event in acme.news()] == [True, True]


def test_a_newcomer_may_take_the_name_that_another_gives_up_in_the_page(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann", key="1"))
    outcome = ad.next_run().apply(person("ann", key="2", at="CN=x"), person("anna", key="1"))
    assert outcome.skips == []
    assert acme.row(ad.resource("2")).name == "ann" and acme.row(ad.resource("1")).name == "anna"


def test_a_revived_person_may_take_the_name_that_another_gives_up_in_the_page(acme: Tenant, ad: Upstream) -> None:
    ad.pass_over(person("ann", key="1"))
    ad.pass_over(person("bob", key="2"))
    ad.pass_over(person("ann", key="2", at=dn("bob")))
    outcome = ad.next_run().apply(person("ann", key="1"), person("bob", key="2"))
    assert outcome.skips == []
    assert acme.row(ad.resource("1")).name == "ann" and acme.row(ad.resource("2")).name == "bob"


def test_who_is_here_keeps_the_old_name_when_the_new_one_is_taken(acme: Tenant, ad: Upstream) -> None:
    acme.user("taken")
    ad.apply(person("ann", title="Clerk"))
    acme.news()
    clash = person("taken", key="key-ann", at=dn("ann"), cn="ann", title="Chief")
    assert reasons(ad.next_run().apply(clash).skips) == ["user_name_taken"]
    id = ad.resource("key-ann")
    assert acme.row(id).name == "ann" and acme.document(id)["userName"] == "ann"
    [told] = acme.news()
    assert told.changed == ["title", f"{AD_USER}:userPrincipalName"]
    assert ad.next_run().apply(clash).updated == 0
    assert acme.news() == []

    acme.put("User", id, acme.document(id))
    with pytest.raises(Conflict):
        acme.put("User", id, {**acme.document(id), "title": "King"})
    assert acme.news() == []

    acme.remove("User", acme.id("taken"))
    assert ad.next_run().apply(clash).skips == []
    assert acme.row(id).name == "taken" and not ad.link("key-ann").name_kept


def test_a_chain_of_renames_fails_as_a_whole_when_its_end_fails(acme: Tenant, ad: Upstream) -> None:
    acme.user("d")
    names = ["a", "b", "c"]
    ad.apply(*(person(name, key=name, at=name) for name in names))
    renamed = [person(new, key=old, at=old) for old, new in (("a", "b"), ("b", "c"), ("c", "d"))]
    outcome = ad.next_run().apply(*renamed)
    assert reasons(outcome.skips) == ["user_name_taken"] * 3
    assert [acme.row(ad.resource(name)).name for name in names] == names
    acme.remove("User", acme.id("d"))
    assert ad.next_run().apply(*renamed).skips == []
    assert [acme.row(ad.resource(name)).name for name in names] == ["b", "c", "d"]


def test_reports_of_a_manager_who_is_skipped_wait_for_him(acme: Tenant, ad: Upstream) -> None:
    boss = acme.user("boss")
    page = (person("boss"), person("ann", manager=dn("boss")))
    ad.apply(*page)
    ann = ad.resource("key-ann")
    assert acme.row(ann).manager_id is None
    acme.remove("User", boss)
    acme.news()
    ad.next_run().apply(*page)
    assert acme.row(ann).manager_id == ad.resource("key-boss")
    assert {event.name: event.changed for event in acme.news()} == {"user.created": [], "user.updated": [MANAGER]}


def test_removed_user_is_revived_by_the_same_key_with_the_same_id(acme: Tenant, ad: Upstream) -> None:
    ad.pass_over(person("ann", title="Clerk"))
    id = ad.resource("key-ann")
    ad.pass_over()
    assert acme.names() == []
    acme.news()
    outcome = ad.next_run().apply(person("ann", title="Chief"))
    assert outcome.updated == 1
    assert [tuple(event) for event in acme.news()] == [("user.revived", id)]
    row = acme.row(id)
    assert (row.removed_at, row.active, row.name, row.version) == (None, True, "ann", 3)
    assert ad.next_run().apply(person("ann", title="Chief")).unchanged == 1


def test_removed_name_is_free_for_others(acme: Tenant, ad: Upstream) -> None:
    ad.pass_over(person("ann"))
    ad.pass_over()
    assert acme.user("ann")


def test_revived_user_whose_name_is_taken_is_skipped(acme: Tenant, ad: Upstream) -> None:
    ad.pass_over(person("ann"), group("staff", dn("ann")))
    id, staff = ad.resource("key-ann"), ad.resource("key-staff")
    ad.pass_over(group("staff", dn("ann")))
    local = acme.user("ann")
    outcome = ad.next_run().apply(person("ann"), group("staff", dn("ann"), dn("bob")))
    assert reasons(outcome.skips) == ["user_name_taken"]
    assert acme.row(id).removed_at is not None and acme.members(staff) == set()
    with ad.open() as (directory, via):
        assert directory.linked(via) == {"group": 1}
    acme.remove("User", local)
    ad.next_run().apply(person("ann"), group("staff", dn("ann"), dn("bob")))
    assert acme.row(id).removed_at is None and acme.members(staff) == {"ann"}


def test_entry_of_another_class_waits_until_its_old_resource_is_taken_away(acme: Tenant, ad: Upstream) -> None:
    ad.pass_over(person("ann", title="Clerk"))
    id = ad.resource("key-ann")
    acme.news()
    changed = other("ann", serialNumber="9")
    outcome = ad.next_run().apply(changed)
    assert reasons(outcome.skips) == ["kind_changed"]
    assert [(loss.action, loss.kind) for loss in outcome.losses] == [("remove", "user")]
    assert acme.row(id).removed_at is None and acme.news() == []
    assert b"serialNumber" in ad.record("key-ann")

    ad.take_away(outcome.losses)
    assert acme.happened() == ["user.removed"]
    assert ad.next_run().apply(changed).skips == []
    link = ad.link("key-ann")
    assert (link.kind, link.resource_id, link.gone_at) == ("other", None, None)
    assert ad.next_run().apply(changed).unchanged == 1


def test_person_who_became_a_group_gets_a_new_id(acme: Tenant, ad: Upstream) -> None:
    ad.pass_over(person("x"))
    id = ad.resource("key-x")
    became = group("x", at=dn("x"))
    ad.pass_over(became)
    assert ad.next_run().apply(became).created == 1
    assert ad.resource("key-x") not in (id, None) and acme.names("Group") == ["x"]


def test_the_last_of_two_records_with_one_key_counts(acme: Tenant, ad: Upstream) -> None:
    outcome = ad.apply(person("ann", key="1", at="CN=a"), person("bob", key="1", at="CN=b"))
    assert [(skip.name, skip.reason) for skip in outcome.skips] == [("CN=a", "duplicate_key")]
    assert acme.names() == ["bob"]


def test_a_record_after_its_deletion_in_the_page_is_no_loss(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann"))
    assert ad.next_run().apply(Gone("key-ann"), person("ann")).losses == []
    [loss] = ad.apply(person("ann"), Gone("key-ann")).losses
    assert loss.action == "remove" and acme.names() == ["ann"]


def test_what_cannot_be_read_is_not_absent(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann"), person("bob"))
    torn = Unreadable("byte 7", "bad_value", "No number.", dn("ann"), dn("ann").lower())
    outcome = ad.next_run().apply(torn)
    assert outcome.read == 1 and outcome.skips == [Skip("byte 7", dn("ann"), "bad_value", "No number.")]
    assert [loss.link_no for loss in ad.losses()] == [ad.link("key-bob").no]


@pytest.mark.parametrize("until", ["0", "9223372036854775807"])
def test_accounts_that_never_expire_have_no_end(acme: Tenant, ad: Upstream, until: str) -> None:
    ad.apply(person("ann", accountExpires=until))
    row = acme.row(ad.resource("key-ann"))
    assert (row.active, row.active_until) == (True, None)


def filetime(moment: datetime) -> str:
    return str((moment - datetime(1601, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 10)


def test_account_that_expired_before_it_arrived_is_inactive(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann", accountExpires=filetime(datetime(2020, 1, 1, tzinfo=UTC))))
    row = acme.row(ad.resource("key-ann"))
    assert not row.active and row.active_until == datetime(2020, 1, 1, tzinfo=UTC)
    assert ad.losses() == []


def test_expiry_is_swept_into_one_event_and_extended_by_the_upstream(acme: Tenant, ad: Upstream) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    ad.apply(person("ann", accountExpires=filetime(soon)), person("bob"))
    id = ad.resource("key-ann")
    acme.news()
    with acme.directory() as directory:
        assert directory.expire_due() == 0
    with platform_scope() as session:
        session.execute(sa.text("UPDATE resources SET active_until = now() WHERE id = :id"), {"id": id})
    with acme.directory() as directory:
        assert directory.expire_due() == 1
        assert directory.expire_due() == 0
    assert [(event.name, event.resource, event.changed) for event in acme.news()] == [("user.disabled", id, ["active"])]
    assert acme.document(id)["active"] is False and acme.row(id).version == 2

    ad.next_run().apply(person("ann", accountExpires=filetime(soon + timedelta(days=1))), person("bob"))
    assert [event.name for event in acme.news()] == ["user.enabled"]
    assert acme.document(id)["active"] is True


def test_moved_expiry_alone_is_kept_without_version_or_event(acme: Tenant, ad: Upstream) -> None:
    ad.change(attribute_mapping=[{"to": f"{AD_USER}:accountExpires", "authority": "never"}])
    end = datetime(2099, 1, 1, tzinfo=UTC)
    ad.apply(person("ann", accountExpires=filetime(end)))
    acme.news()
    ad.next_run().apply(person("ann", accountExpires=filetime(end + timedelta(days=1))))
    assert acme.row(ad.resource("key-ann")).active_until == end + timedelta(days=1)
    assert acme.news() == []


def test_disabled_newcomers_arrive_inactive(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann", active=False))
    assert acme.document(ad.resource("key-ann"))["active"] is False
    assert ad.losses() == [] and acme.happened() == ["user.created"]


def test_no_more_users_than_the_partner_allows(acme: Tenant, ad: Upstream) -> None:
    set_limit(acme, 2)
    outcome = ad.apply(*(person(f"p{n}") for n in range(4)), group("staff", dn("p0"), dn("p3")))
    assert reasons(outcome.skips) == ["limit_exceeded"] * 2
    assert acme.names() == ["p0", "p1"] and acme.members(ad.resource("key-staff")) == {"p0"}
    set_limit(acme, 3)
    ad.next_run().apply(*(person(f"p{n}") for n in range(4)))
    assert acme.names() == ["p0", "p1", "p2"]
    set_limit(acme, None)
    ad.next_run().apply(*(person(f"p{n}") for n in range(4)))
    assert len(acme.names()) == 4 and acme.members(ad.resource("key-staff")) == {"p0", "p3"}


def test_changed_users_need_no_room(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann"))
    set_limit(acme, 1)
    outcome = ad.next_run().apply(person("ann", title="Chief"))
    assert outcome.updated == 1 and outcome.skips == []


@pytest.mark.parametrize("wide", ["ж" * 500, "\U00010400" * 500, "\ufdfa" * 500])
def test_names_that_no_index_takes_skip_the_record(acme: Tenant, ad: Upstream, wide: str) -> None:
    fits = len(wide.encode()) <= 1_000
    outcome = ad.apply(person(wide, key="1", at="CN=1"), person("x" * 501, key="2", at="CN=2"), person("ok"))
    expected = ["name_too_long"] if fits or wide[0] == "\U00010400" else ["name_too_long"] * 2
    assert reasons(outcome.skips) == expected
    assert "ok" in acme.names()


def test_long_keys_names_and_references_are_taken(acme: Tenant, ad: Upstream) -> None:
    long = [dn("й" * 2_500 + letter) for letter in "ab"]
    assert all(len(name.encode()) > 5_000 for name in long)
    page = (
        person("ann", key="k" * 4_000, at=long[0]),
        person("bob", key="k" * 4_000 + "2", at=long[1], manager=long[0], primary_group="S" * 5_000),
        group("staff", *long, long[0], alias="S" * 5_000),
    )
    assert ad.apply(*page).created == 3
    staff = acme.id("staff")
    assert acme.members(staff) == {"ann", "bob"}
    assert acme.raws(staff) == [*long, long[0]]
    assert acme.row(acme.id("bob")).manager_id == acme.id("ann")
    assert ad.next_run().apply(*page).unchanged == 3


def test_members_are_not_mistaken_for_the_second_mention_of_another(acme: Tenant, ad: Upstream) -> None:
    ad.apply(group("staff", "cn=a", "cn=a", "cn=a#2", "cn=a"))
    assert acme.raws(ad.resource("key-staff")) == ["cn=a", "cn=a", "cn=a#2", "cn=a"]


@pytest.mark.parametrize(
    "poison",
    [
        person("p", key="k\x00"),
        person("p", at="CN=\x00"),
        person("p", manager="CN=\x00"),
        person("p", primary_group="S\x00"),
        group("p", "CN=\x00"),
        group("p", alias="S\x00"),
    ],
)
def test_names_with_nul_skip_the_record(acme: Tenant, ad: Upstream, poison: Record) -> None:
    outcome = ad.apply(poison, person("ann"))
    assert reasons(outcome.skips) == ["control_character"]
    assert acme.names() == ["ann"]


def test_values_with_nul_are_kept_as_octets(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann", title="a\x00b", description=["x\x00"], displayName="\x00", cn="Ann"))
    id = ad.resource("key-ann")
    document = acme.document(id)
    assert document["title"] == base64.b64encode(b"a\x00b").decode()
    assert document[AD_USER]["description"] == [base64.b64encode(b"x\x00").decode()]
    assert document["displayName"] == "Ann"
    with acme.open() as session:  # what the slow path of a filter does
        assert session.execute(sa.text("SELECT convert_from(document, 'UTF8')::jsonb FROM resources")).all()
    assert (
        ad.next_run()
        .apply(person("ann", title="a\x00b", description=["x\x00"], displayName="\x00", cn="Ann"))
        .unchanged
    )


def test_name_with_nul_falls_back_to_the_next_one(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("a\x00", key="1", at="CN=1", sAMAccountName="ann", cn="Ann"))
    assert acme.names() == ["ann"]


def test_record_without_any_name_is_skipped_and_healed(acme: Tenant, ad: Upstream) -> None:
    nameless = Record("1", "user", "CN=1", "cn=1", {"title": ["Ghost"]})
    assert reasons(ad.apply(nameless).skips) == ["no_name"]
    assert ad.next_run().apply(person("ann", key="1", at="CN=1")).created == 1


def test_person_whose_record_loses_its_name_keeps_it(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann", key="1", at="CN=1"))
    outcome = ad.next_run().apply(Record("1", "user", "CN=1", "cn=1", {"title": ["Ghost"]}))
    assert reasons(outcome.skips) == ["no_name"]
    document = acme.document(ad.resource("1"))
    assert (document["userName"], document["title"]) == ("ann", "Ghost")


def test_numbers_no_json_holds_are_left_out(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann", userAccountControl="9" * 30, primaryGroupID="513", accountExpires="9" * 5_000))
    document = acme.document(ad.resource("key-ann"))
    assert "userAccountControl" not in document[AD_USER] and document[AD_USER]["primaryGroupID"] == 513


def test_manager_who_arrives_later_is_found(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann", manager=dn("boss")))
    ann = ad.resource("key-ann")
    acme.news()
    ad.apply(person("boss"))
    boss = ad.resource("key-boss")
    assert acme.row(ann).manager_id == boss
    assert acme.document(ann)[ENTERPRISE]["manager"] == {"value": boss, "$ref": f"../Users/{boss}"}
    assert [(event.name, event.changed) for event in acme.news()] == [
        ("user.updated", [MANAGER]),
        ("user.created", []),
    ]


def test_manager_who_is_renamed_stays_the_manager(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("boss"), person("ann", manager=dn("boss")))
    ann, boss = ad.resource("key-ann"), ad.resource("key-boss")
    acme.news()
    moved = dn("boss", "OU=Board")
    ad.next_run().apply(person("ann", manager=moved), person("boss", at=moved))
    assert acme.row(ann).manager_id == boss and acme.news() == []


def test_manager_reference_that_waits_follows_the_record(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann", manager=dn("x")))
    ad.next_run().apply(person("ann", manager=dn("y")))
    ad.apply(person("x"))
    assert acme.row(ad.resource("key-ann")).manager_id is None
    ad.apply(person("y"))
    assert acme.row(ad.resource("key-ann")).manager_id == ad.resource("key-y")


def test_group_as_manager_is_nobody(acme: Tenant, ad: Upstream) -> None:
    ad.apply(group("staff", at=dn("staff")), person("ann", manager=dn("staff")))
    assert acme.row(ad.resource("key-ann")).manager_id is None


def test_units_know_their_parents_in_any_order(acme: Tenant, ad: Upstream) -> None:
    ad.apply(ou("Sales", parent="OU=Acme,DC=acme,DC=test"), person("ann", unit="OU=Acme,DC=acme,DC=test"))
    sales, ann = ad.resource("key-Sales"), ad.resource("key-ann")
    acme.news()
    ad.apply(ou("Acme"))
    acme_unit = ad.resource("key-Acme")
    assert acme.document(sales)["parent"] == {"value": acme_unit, "$ref": f"../OrganizationalUnits/{acme_unit}"}
    assert acme.row(ann).parent_id == acme_unit and acme.row(ann).version == 1
    assert [(event.name, event.changed) for event in acme.news()] == [
        ("unit.updated", ["parent"]),
        ("unit.created", []),
    ]


def test_moved_person_changes_silently_but_for_its_name(acme: Tenant, ad: Upstream) -> None:
    ad.apply(ou("A"), ou("B"), person("ann", unit="OU=A,DC=acme,DC=test"))
    acme.news()
    ad.next_run().apply(person("ann", unit="OU=B,DC=acme,DC=test", at=dn("ann", "OU=B")))
    row = acme.row(ad.resource("key-ann"))
    assert (row.parent_id, row.version) == (ad.resource("key-B"), 1)
    assert acme.news() == []


def test_page_that_races_with_a_client_for_a_name_skips_the_record(acme: Tenant, ad: Upstream, app: Flask) -> None:
    id = acme.user("ann")
    taken, applied = Signal(), Signal()
    outcome = []

    def page() -> None:
        with app.app_context(), acting(system("tests")), unit(acme.scope) as session:
            via = session.get_one(IdentityProvider, (acme.scope.tenant_id, ad.id))
            taken.wait(10)
            outcome.append(Directory().apply([person("new"), person("bob")], via, 1))
            applied.set()

    thread = Thread(target=page)
    thread.start()
    with acme.directory() as directory:
        directory.replace("User", id, {"userName": "new"})
        taken.set()
        assert not applied.wait(0.5)
    thread.join(10)
    assert reasons(outcome[0].skips) == ["user_name_taken"]
    assert acme.names() == ["bob", "new"]


def test_client_that_races_with_a_page_for_a_name_is_refused(acme: Tenant, ad: Upstream, app: Flask) -> None:
    id = acme.user("ann")
    applied = Signal()
    failures = []

    def client() -> None:
        applied.wait(10)
        with app.app_context():
            try:
                acme.put("User", id, {"userName": "new"})
            except Conflict as conflict:
                failures.append(conflict.scim_type)

    thread = Thread(target=client)
    thread.start()
    with ad.open() as (directory, via):
        directory.apply([person("new")], via, 1)
        applied.set()
        thread.join(0.5)
        assert thread.is_alive()
    thread.join(10)
    assert failures == ["uniqueness"]
    assert acme.names() == ["ann", "new"]


def test_changed_mapping_rereads_what_did_not_change(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann", info="Hello"))
    acme.news()
    ad.change(attribute_mapping=[{"from": "info", "to": "nickName"}])
    assert ad.next_run().apply(person("ann", info="Hello")).updated == 1
    assert acme.document(ad.resource("key-ann"))["nickName"] == "Hello"
    assert [event.changed for event in acme.news()] == [["nickName"]]


def test_two_tenants_keep_the_same_upstream_apart(acme: Tenant, globex: Tenant, ad: Upstream) -> None:
    from tests.conftest import make_provider

    theirs = Upstream(globex, make_provider(globex.scope))
    ad.apply(person("ann"), group("staff", dn("ann")))
    theirs.apply(person("ann"), group("staff", dn("ann")))
    assert ad.resource("key-ann") != theirs.resource("key-ann")
    assert acme.names() == globex.names() == ["ann"]
    theirs.pass_over()
    assert acme.names() == ["ann"] and globex.names() == []
