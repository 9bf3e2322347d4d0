"""What happened in a live directory is told after one delta, whichever way changes are found."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from connectors.dn import fold
from connectors.ldap import cursors
from connectors.ldap import session as sessions
from connectors.ldap.follow import Found, _sort
from connectors.ldap.scope import Scope
from connectors.ldap.wire import Entry
from connectors.port import CursorExpired, Members, Misconfigured, Record, Ref, Unreadable
from tests.connectors.ldap.live import Follower, connect, everything, told
from tests.upstreams.samba import ActiveDirectory, Service
from tests.upstreams.slapd import OpenLdap, openldap

pytestmark = pytest.mark.long

WAYS: dict[str, tuple[Service, dict[str, Any]]] = {
    "dirsync": ("dirsync", {}),
    "visible": ("deleted", {}),
    "usn": ("deleted", {"mode": "usn"}),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def unit(active_directory: ActiveDirectory) -> str:
    """A place of the test's own, which is all that is read."""
    return active_directory.add_ou(f"Süd, {secrets.token_hex(4)}")


@pytest.fixture(scope="module")
def small() -> Iterator[OpenLdap]:
    with openldap(20) as running:
        yield running


def name() -> str:
    return f"n{secrets.token_hex(4)}"


def follower(directory: ActiveDirectory, way: str, base: str, **settings: Any) -> Follower:
    service, ours = WAYS[way]
    made = Follower(connect(directory, service, **{"base_dns": [base], **ours, **settings}))
    assert cursors.cursor(made.cursor).mode == way
    return made


def test_nothing_new_is_an_empty_last_page(active_directory: ActiveDirectory, way: str, unit: str) -> None:
    following = follower(active_directory, way, unit)
    for _ in range(2):
        assert [page.changes for page in following.pages()] == [()]


def test_what_happened_during_the_pass_is_told_after_it(active_directory: ActiveDirectory, way: str) -> None:
    service, ours = WAYS[way]
    feed = connect(active_directory, service, base_dns=[active_directory.corp], **ours)
    pages = feed.changes_since(None)
    read = [next(pages)]
    dn = active_directory.add_user(name())
    read += pages
    news = told(list(feed.changes_since(read[-1].cursor)))
    assert [change.name for change in news if isinstance(change, Record)] == [dn]


def test_a_person_comes_changes_and_goes(active_directory: ActiveDirectory, way: str, unit: str) -> None:
    following = follower(active_directory, way, unit)
    dn = active_directory.add_user(name(), unit, title="Engineer")
    key = active_directory.guid(dn)
    assert following.news().records[key].attributes["title"] == ["Engineer"]
    active_directory.set(dn, title=None, department="Süd")
    changed = following.news().records[key]
    assert "title" not in changed.attributes and changed.attributes["department"] == ["Süd"]
    active_directory.disable(dn)
    assert following.news().records[key].active is False
    active_directory.expire(dn)
    assert following.news().records[key].attributes["accountExpires"] != ["0"]
    dn = active_directory.rename(dn, "Gone, or not")
    assert following.news().records[key].name == dn
    active_directory.delete(dn)
    news = following.news()
    assert (news.records, news.gone) == ({}, {key})


def test_a_record_of_a_delta_is_the_same_as_one_of_a_full_pass(
    active_directory: ActiveDirectory, way: str, unit: str
) -> None:
    following = follower(active_directory, way, unit)
    dn = active_directory.add_user(name(), unit, otherTelephone=["b", "a"], thumbnailPhoto=b"\xff\xd8")
    active_directory.add_group(name(), [dn], unit)
    news = following.news()
    read = everything(following.feed)
    assert len(news.records) == 2
    for key, record in news.records.items():
        assert record == read[key]


def test_who_is_made_anew_under_the_old_name_is_somebody_else(
    active_directory: ActiveDirectory, way: str, unit: str
) -> None:
    called = name()
    dn = active_directory.add_user(called, unit)
    old = active_directory.guid(dn)
    following = follower(active_directory, way, unit)
    active_directory.delete(dn)
    assert active_directory.add_user(called, unit) == dn
    news = following.news()
    assert (news.gone, set(news.records)) == ({old}, {active_directory.guid(dn)})


def test_who_moves_out_of_the_bases_is_gone_and_comes_back_whole(
    active_directory: ActiveDirectory, way: str, unit: str
) -> None:
    dn = active_directory.add_user(name(), unit, title="Engineer")
    key = active_directory.guid(dn)
    following = follower(active_directory, way, unit)
    dn = active_directory.move(dn, active_directory.people)
    news = following.news()
    assert (news.records, news.gone) == ({}, {key})
    active_directory.move(dn, unit)
    assert following.news().records[key].attributes["title"] == ["Engineer"]


def test_whom_the_filter_leaves_out_any_more_is_gone(active_directory: ActiveDirectory, way: str, unit: str) -> None:
    dn = active_directory.add_user(name(), unit)
    key = active_directory.guid(dn)
    following = follower(active_directory, way, unit, user_filter="(!(employeeType=external))")
    active_directory.set(dn, employeeType="external")
    assert following.news().gone == {key}
    active_directory.set(dn, employeeType=None)
    assert set(following.news().records) == {key}


def test_a_renamed_unit_brings_everybody_below_it(active_directory: ActiveDirectory, way: str, unit: str) -> None:
    """Active Directory gives them their new names without touching them."""
    outer = active_directory.add_ou("outer", unit)
    inner = active_directory.add_ou("inner", outer)
    below = (outer, inner, active_directory.add_user(name(), inner), active_directory.add_group(name(), (), inner))
    keys = {active_directory.guid(dn) for dn in below}
    following = follower(active_directory, way, unit)
    outer = active_directory.rename(outer, "Straße, Nord")
    records = following.news().records
    assert set(records) == keys
    assert all(record.name.endswith(outer) for record in records.values())
    outer = active_directory.move(outer, active_directory.people)
    news = following.news()
    assert (news.records, news.gone) == ({}, keys)
    active_directory.move(outer, unit)
    assert set(following.news().records) == keys


def test_groups_are_nested_and_circular(active_directory: ActiveDirectory, way: str, unit: str) -> None:
    following = follower(active_directory, way, unit)
    inner = active_directory.add_group(name(), (), unit)
    outer = active_directory.add_group(name(), [inner], unit)
    active_directory.add_member(inner, outer)
    records = following.news().records
    assert {record.name: [ref.raw for ref in record.members or ()] for record in records.values()} == {
        inner: [outer],
        outer: [inner],
    }
    assert everything(following.feed) == {**everything(following.feed), **records}


def test_a_change_of_primary_group_is_told(active_directory: ActiveDirectory, way: str, unit: str) -> None:
    dn = active_directory.add_user(name(), unit)
    group = active_directory.add_group(name(), [dn], unit)
    following = follower(active_directory, way, unit)
    alias = everything(following.feed)[active_directory.guid(group)].alias
    assert alias is not None
    relative = alias.rpartition("-")[2]
    active_directory.set(dn, primaryGroupID=relative)
    assert following.news().records[active_directory.guid(dn)].primary_group == Ref(alias, relative)


def test_by_update_numbers_a_group_that_changed_comes_whole(active_directory: ActiveDirectory, unit: str) -> None:
    first, second = (active_directory.add_user(name(), unit) for _ in range(2))
    group = active_directory.add_group(name(), [first], unit)
    following = follower(active_directory, "usn", unit)
    active_directory.add_member(group, second)
    news = following.news()
    assert (news.names, news.members) == ({group}, [])
    (record,) = news.records.values()
    assert {ref.raw for ref in record.members or ()} == {first, second}


@pytest.mark.parametrize("way", ["dirsync", "visible"], indirect=False)
def test_memberships_are_told_one_by_one(active_directory: ActiveDirectory, way: str, unit: str) -> None:
    group = active_directory.add_group(name(), [active_directory.add_user(name(), unit)], unit)
    dn = active_directory.rename(active_directory.add_user(name(), unit), "Jöiner, the")
    ref = Ref(fold(dn), dn)
    following = follower(active_directory, way, unit)
    active_directory.add_member(group, dn)
    (change,) = following.news().members
    assert change == Members(active_directory.guid(group), (ref,), ())
    active_directory.remove_member(group, dn)
    (change,) = following.news().members
    assert change == Members(active_directory.guid(group), (), (ref,))


def test_who_left_a_group_and_got_another_name_is_named_as_he_is_today(
    active_directory: ActiveDirectory, unit: str
) -> None:
    """Samba keeps the name he left under; the record told before has renamed him by then."""
    outer = active_directory.add_ou("outer", unit)
    dn = active_directory.add_user(name(), outer)
    group = active_directory.add_group(name(), [dn, active_directory.add_user(name(), unit)], unit)
    key = active_directory.guid(dn)
    following = follower(active_directory, "dirsync", unit)
    active_directory.remove_member(group, dn)
    active_directory.rename(outer, "other")
    dn = active_directory.named(key)
    (change,) = following.news().members
    assert change == Members(active_directory.guid(group), (), (Ref(fold(dn), dn),))


def test_a_member_is_known_before_its_membership_and_a_changed_group_comes_whole(
    active_directory: ActiveDirectory, unit: str
) -> None:
    team, other = (active_directory.add_group(name(), (), unit) for _ in range(2))
    following = follower(active_directory, "dirsync", unit)
    dn = active_directory.add_user(name(), unit)
    active_directory.add_member(team, dn)
    active_directory.add_member(other, dn)
    active_directory.set(other, description="changed")
    news = following.news()
    assert news.names == {dn, other}
    assert [change.key for change in news.members] == [active_directory.guid(team)]


def test_groups_are_told_after_everybody_they_may_name(active_directory: ActiveDirectory, way: str, unit: str) -> None:
    dn = active_directory.add_user(name(), unit)
    group = active_directory.add_group(name(), [dn], unit)
    following = follower(active_directory, way, unit)
    active_directory.set(group, description="Changed first")
    inner = active_directory.add_ou(f"Ä {name()}", unit)
    moved = active_directory.move(dn, inner)
    changes = told(list(following.feed.changes_since(following.cursor)))
    kinds = [change.kind for change in changes if isinstance(change, Record)]
    assert sorted(kinds) == ["group", "unit", "user"] and kinds[-1] == "group"
    (listed,) = (change for change in changes if isinstance(change, Record) and change.kind == "group")
    assert [ref.raw for ref in listed.members or ()] == [moved]


def sorted_out(*names: str, **attributes: list[bytes]) -> Found:
    """What becomes of an entry of DirSync that tells these attributes besides those that are always told."""
    always = {"objectGUID": [bytes(15) + b"\x01"], "parentGUID": [bytes(16)], "instanceType": [b"4"]}
    entry = Entry(b"CN=a", {**always, **attributes, **{name: [b"x"] for name in names}}, 1)
    found = Found()
    _sort(entry, Scope(True, (), (), "", "", "", frozenset(), ""), found)
    return found


KEY = "00000000-0000-0000-0000-000000000001"
BOB = b"<GUID=00000000-0000-0000-0000-000000000002>;CN=bob,DC=acme"


def test_a_group_that_tells_where_it_is_and_whom_it_gained_is_not_read() -> None:
    found = sorted_out(**{"member;range=1-1": [BOB]})
    assert list(found.members) == [KEY] and not found.again and not found.renamed
    ((joined, left),) = found.members.values()
    assert [ref.raw for _, ref in joined] == ["CN=bob,DC=acme"] and left == []


@pytest.mark.parametrize(
    ("found", "renamed"),
    [
        (sorted_out(), True),
        (sorted_out("name"), True),
        (sorted_out("name", **{"member;range=0-0": [BOB]}), True),
        (sorted_out("description"), False),
        (sorted_out("description", **{"member;range=1-1": [BOB]}), False),
    ],
    ids=["where-it-is-alone", "name", "name-and-members", "another", "another-and-members"],
)
def test_what_moved_is_read_with_all_below_it(found: Found, renamed: bool) -> None:
    assert list(found.again) == [KEY] and not found.members
    assert list(found.renamed) == ([KEY] if renamed else [])


def test_memberships_of_groups_outside_the_bases_are_not_told(active_directory: ActiveDirectory, unit: str) -> None:
    group = active_directory.add_group(name())
    following = follower(active_directory, "dirsync", unit)
    dn = active_directory.add_user(name(), unit)
    active_directory.add_member(group, dn)
    news = following.news()
    assert (news.names, news.members) == ({dn}, [])


def test_the_cost_of_a_membership_does_not_depend_on_the_size_of_the_group(
    active_directory: ActiveDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[int] = []
    search = sessions.Session.search

    def counted(self: sessions.Session, *args: Any, **options: Any) -> Any:
        answer = search(self, *args, **options)
        heard.append(sum(found.size for found in answer.entries))
        return answer

    people = [active_directory.add_user(name()) for _ in range(2)]
    small_one, large_one = active_directory.add_group(name()), f"CN=Everyone,{active_directory.groups}"
    following = follower(active_directory, "dirsync", active_directory.groups)
    monkeypatch.setattr(sessions.Session, "search", counted)
    costs = []
    for group, dn in zip((small_one, large_one), people, strict=True):
        active_directory.add_member(group, dn)
        heard.clear()
        assert len(following.news().members) == 1
        costs.append(sum(heard))
    assert abs(costs[0] - costs[1]) < 500


@pytest.mark.parametrize("settings", [{}, {"mode": "usn"}], ids=["visible", "usn"])
def test_deletions_that_the_account_does_not_see_are_found_by_the_full_pass(
    active_directory: ActiveDirectory, unit: str, settings: dict[str, str]
) -> None:
    dn = active_directory.add_user(name(), unit)
    key = active_directory.guid(dn)
    following = Follower(connect(active_directory, "sync", base_dns=[unit], **settings))
    active_directory.set(dn, description="seen")
    assert set(following.news().records) == {key}
    active_directory.delete(dn)
    assert following.news().gone == set()
    assert key not in everything(following.feed)


def test_many_changes_come_in_pages_that_may_be_told_again(
    active_directory: ActiveDirectory, way: str, unit: str
) -> None:
    inner = active_directory.add_ou("inner", unit)
    for _ in range(7):
        active_directory.add_user(name(), inner)
    following = follower(active_directory, way, unit, page_size=3)
    before = following.cursor
    active_directory.rename(inner, "renamed")
    pages = following.pages()
    assert [len(page.changes) for page in pages] == [3, 3, 2]
    assert [page.cursor == before for page in pages] == [True, True, False]
    assert told(list(following.feed.changes_since(pages[0].cursor))) == told(pages)


def test_what_cannot_be_read_is_not_gone(
    active_directory: ActiveDirectory, unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    following = follower(active_directory, "dirsync", unit)
    dn = active_directory.add_user(name(), unit)
    monkeypatch.setattr("connectors.ldif.LARGEST", 100)
    (change,) = told(list(following.feed.changes_since(following.cursor)))
    assert isinstance(change, Unreadable)
    assert (change.reason, change.name, change.ref) == ("too_large", dn, fold(dn))


def test_the_group_of_those_wanted_is_followed(active_directory: ActiveDirectory, unit: str) -> None:
    first, second = (active_directory.add_user(name(), unit) for _ in range(2))
    inner = active_directory.add_group(name(), [first], unit)
    outer = active_directory.add_group(name(), [inner])
    following = follower(active_directory, "dirsync", unit, member_of=outer)
    active_directory.add_member(inner, second)
    active_directory.remove_member(inner, first)
    news = following.news()
    assert set(news.records) == {active_directory.guid(second)}
    assert news.gone == {active_directory.guid(first)}
    assert [change.key for change in news.members] == [active_directory.guid(inner)]
    active_directory.remove_member(outer, inner)
    with pytest.raises(CursorExpired, match="the group"):
        following.pages()


def test_by_update_numbers_a_change_of_that_group_means_a_full_pass(
    active_directory: ActiveDirectory, unit: str
) -> None:
    outer = active_directory.add_group(name(), [active_directory.add_user(name(), unit)])
    following = follower(active_directory, "usn", unit, member_of=outer)
    active_directory.add_member(outer, active_directory.add_user(name(), unit))
    with pytest.raises(CursorExpired, match="has changed"):
        following.pages()


@pytest.mark.parametrize(
    "settings",
    [{"user_filter": "(cn=a*)"}, {"mode": "full"}, {"base_dns": ["DC=ad,DC=acme,DC=test"]}],
    ids=lambda settings: next(iter(settings)),
)
def test_other_settings_expire_the_cursor(
    active_directory: ActiveDirectory, way: str, unit: str, settings: dict[str, Any]
) -> None:
    cursor = follower(active_directory, way, unit).cursor
    service, ours = WAYS[way]
    other = connect(active_directory, service, **{"base_dns": [unit], **ours, **settings})
    with pytest.raises(CursorExpired):
        list(other.changes_since(cursor))


def test_another_way_expires_the_cursor(active_directory: ActiveDirectory, unit: str) -> None:
    cursor = follower(active_directory, "dirsync", unit).cursor
    with pytest.raises(CursorExpired, match="another way"):
        list(connect(active_directory, base_dns=[unit], mode="usn").changes_since(cursor))


def test_a_right_that_was_taken_away_expires_the_cursor(active_directory: ActiveDirectory, unit: str) -> None:
    cursor = follower(active_directory, "dirsync", unit).cursor
    with pytest.raises(CursorExpired, match="insufficientAccessRights"):
        list(connect(active_directory, "sync", base_dns=[unit]).changes_since(cursor))


def test_a_cookie_the_server_does_not_know_has_expired(active_directory: ActiveDirectory, unit: str) -> None:
    following = follower(active_directory, "dirsync", unit)
    ours = cursors.cursor(following.cursor)
    for cookie in (b"no cookie", ours.cookie[:-5], b"\xff" * 200):
        with pytest.raises(CursorExpired):
            list(following.feed.changes_since(str(ours.at(cookie))))


def test_a_count_of_another_server_has_expired(active_directory: ActiveDirectory, unit: str) -> None:
    """Or of this one, restored to what it was before."""
    following = follower(active_directory, "usn", unit)
    ours = cursors.cursor(following.cursor)
    other = "03020100-0504-0706-0809-0a0b0c0d0e0f.5"
    for place in (other, f"{ours.place}0000", ours.place.partition(".")[0], "", "."):
        with pytest.raises(CursorExpired):
            list(following.feed.changes_since(str(ours.at(place))))


def test_a_directory_that_is_not_followed_is_read_in_full_each_time(
    active_directory: ActiveDirectory, unit: str
) -> None:
    feed = connect(active_directory, mode="full", base_dns=[unit])
    with pytest.raises(CursorExpired, match="every run reads everything"):
        list(feed.changes_since(Follower(feed).cursor))


def test_dirsync_is_demanded_in_vain_where_it_cannot_be(active_directory: ActiveDirectory, unit: str) -> None:
    bases = [unit, f"CN=Sites,CN=Configuration,{active_directory.base_dn}"]
    with pytest.raises(Misconfigured, match="one naming context") as caught:
        list(connect(active_directory, mode="dirsync", base_dns=bases).changes_since(None))
    assert set(caught.value.fields) == {"mode"}
    following = Follower(connect(active_directory, base_dns=bases))
    assert cursors.cursor(following.cursor).mode == "usn"


def slow_follower(slapd: OpenLdap, **settings: Any) -> Follower:
    made = Follower(connect(slapd, **settings))
    assert cursors.cursor(made.cursor).mode == "modified"
    return made


def test_another_directory_is_followed_by_time(small: OpenLdap) -> None:
    following = slow_follower(small)
    dn = small.add_user("newcomer", title="Engineer")
    team = small.add_group("newcomers", [dn])
    assert {dn, team} <= following.news().names
    small.set(dn, title=None)
    small.add_member(team, f"uid=user00001,{small.people}")
    records = {record.name: record for record in following.news().records.values()}
    assert "title" not in records[dn].attributes
    assert [ref.raw for ref in records[team].members or ()] == [dn, f"uid=user00001,{small.people}"]
    small.delete(team)
    small.delete(dn)
    assert following.news().gone == set()
    assert dn not in {record.name for record in everything(following.feed).values()}


def test_times_overlap_so_that_a_second_is_never_lost(small: OpenLdap) -> None:
    following = slow_follower(small)
    dn = small.add_user("overlapping")
    assert dn in following.news().names
    time.sleep(1.1)
    assert dn in following.news().names


def test_whom_the_filter_leaves_out_is_gone_by_time_as_well(small: OpenLdap) -> None:
    dn = small.add_user("filtered")
    following = slow_follower(small, user_filter="(!(title=external))")
    key = next(record.key for record in following.news().records.values() if record.name == dn)
    small.set(dn, title="external")
    assert key in following.news().gone


def test_who_comes_back_names_his_groups(small: OpenLdap) -> None:
    """The group has not changed, so that nothing else may tell."""
    dn = small.add_user("returning")
    team = small.add_group("returners", [dn])
    following = slow_follower(small, user_filter="(!(title=external))")
    small.set(dn, title="external")
    assert dn not in following.news().names
    small.set(dn, title=None)
    back = next(record for record in following.news().records.values() if record.name == dn)
    assert back.attributes["memberOf"] == [team]
    alone = small.add_user("alone")
    record = next(record for record in following.news().records.values() if record.name == alone)
    assert "memberOf" not in record.attributes
    assert everything(following.feed)[back.key].attributes == back.attributes


def test_a_renamed_unit_brings_everybody_below_it_by_time(small: OpenLdap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.ldap.follow.OVERLAP", timedelta(0))
    time.sleep(2.1)
    following = slow_follower(small)
    people = small.rename(small.people, "staff")
    try:
        names = following.news().names
        assert {f"uid=user{number:05d},{people}" for number in range(20)} <= names
    finally:
        small.rename(people, "people")


@pytest.mark.parametrize("place", ["", "yesterday", "99999999999999Z"])
def test_a_moment_that_is_none_has_expired(small: OpenLdap, place: str) -> None:
    following = slow_follower(small)
    with pytest.raises(CursorExpired):
        list(following.feed.changes_since(str(cursors.cursor(following.cursor).at(place))))


def test_a_feed_serves_several_at_once(active_directory: ActiveDirectory) -> None:
    """It keeps nothing between calls."""
    feed = connect(active_directory, base_dns=[active_directory.people], page_size=50)
    first, second = feed.changes_since(None), feed.changes_since(None)
    pairs = list(zip(first, second, strict=True))
    assert len(pairs) > 2
    assert [one.changes == other.changes for one, other in pairs] == [True] * len(pairs)
