"""A live directory read in full: what an export of the same entries would give, and never a part for the whole."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from connectors import ldap
from connectors.egress import Egress
from connectors.ldap.directory import LiveDirectory
from connectors.ldap.reading import Reader
from connectors.ldap.scope import Scope, scope_of
from connectors.ldap.session import opened
from connectors.port import CursorExpired, Misconfigured, Record, Refused, Unreachable, Unreadable
from tests.connectors.ldap.live import LOOPBACK, config, connect, everything, told
from tests.upstreams.samba import ActiveDirectory
from tests.upstreams.slapd import OpenLdap

pytestmark = pytest.mark.long


def exported(path: Path) -> dict[str, Record]:
    changes = told(list(ldap.LdifDirectory(path).changes_since(None)))
    return {change.key: change for change in changes if isinstance(change, Record) and change.kind != "other"}


def test_the_records_are_those_of_an_export(active_directory: ActiveDirectory, tmp_path: Path) -> None:
    """But for the service accounts, whose own sign-ins change them meanwhile."""
    path = active_directory.ldif_export(tmp_path / "export.ldif", service="sync", base=active_directory.corp)
    feed = connect(active_directory, "sync", base_dns=[active_directory.corp])
    live, from_file = everything(feed), exported(path)
    assert live == from_file
    assert sum(record.kind == "user" for record in live.values()) == 1700
    assert any(isinstance(value, bytes) for record in live.values() for value in record.attributes["objectGUID"])


def test_every_value_is_the_servers(active_directory: ActiveDirectory) -> None:
    live = everything(connect(active_directory, "sync", base_dns=[active_directory.people]))
    raw = active_directory.raw_read("sync", active_directory.people)
    assert len(live) == len([dn for dn, values in raw if b"contact" not in values["objectClass"]])
    by_name = {record.name: record for record in live.values()}
    compared = 0
    for dn, values in raw:
        if record := by_name.get(dn):
            held = {
                name: [v.encode() if isinstance(v, str) else v for v in said]
                for name, said in record.attributes.items()
            }
            assert held == values
            compared += 1
    assert compared == len(live) > 100


@pytest.mark.parametrize("secret", sorted(ldap.EXCLUDED & {"unicodepwd", "ntsecuritydescriptor", "dbcspwd"}))
def test_no_secret_is_kept_even_of_an_administrators_view(active_directory: ActiveDirectory, secret: str) -> None:
    feed = connect(
        active_directory, bind_dn=f"Administrator@{active_directory.domain}", bind_password="Passw0rd.Admin1"
    )
    assert all(secret not in {name.lower() for name in record.attributes} for record in everything(feed).values())


def test_computers_and_what_the_domain_keeps_for_itself_are_not_read(active_directory: ActiveDirectory) -> None:
    kinds = {record.kind for record in everything(connect(active_directory)).values()}
    assert kinds == {"user", "group", "unit"}


def test_starttls_reads_the_same(active_directory: ActiveDirectory) -> None:
    scope = {"base_dns": [active_directory.groups]}
    plain = everything(connect(active_directory, servers=[active_directory.starttls_url], **scope))
    assert plain == everything(connect(active_directory, **scope))
    assert plain


def test_pages_are_as_large_as_set_and_only_the_last_is_last(active_directory: ActiveDirectory) -> None:
    pages = list(connect(active_directory, page_size=300).changes_since(None))
    assert max(len(page.changes) for page in pages) == 300
    assert [page.last for page in pages] == [False] * (len(pages) - 1) + [True]
    assert {page.kind for page in pages} == {"full"}
    done = [page.done or 0 for page in pages]
    assert done == sorted(done)
    assert done[-1] == len(told(pages))


def test_a_pass_that_was_interrupted_begins_anew(active_directory: ActiveDirectory) -> None:
    feed = connect(active_directory, page_size=300)
    pages = feed.changes_since(None)
    cursor = next(pages).cursor
    pages.close()
    with pytest.raises(CursorExpired, match="begins anew"):
        list(feed.changes_since(cursor))


def test_bases_that_lie_in_one_another_are_read_once(active_directory: ActiveDirectory) -> None:
    bases = [active_directory.groups, active_directory.people, active_directory.corp.upper()]
    together = everything(connect(active_directory, base_dns=bases))
    assert together == everything(connect(active_directory, base_dns=[active_directory.corp]))
    two = everything(connect(active_directory, base_dns=bases[:2]))
    assert {"user", "group"} <= {record.kind for record in two.values()}
    assert two.keys() < together.keys()


def test_a_base_that_is_not_there_is_a_misconfiguration(active_directory: ActiveDirectory) -> None:
    for base in ("OU=Nowhere,DC=ad,DC=acme,DC=test", "DC=elsewhere,DC=test"):
        with pytest.raises(Misconfigured) as caught:
            list(connect(active_directory, base_dns=[base]).changes_since(None))
        assert set(caught.value.fields) == {"base_dns"}


def test_a_filter_is_about_people_alone(active_directory: ActiveDirectory) -> None:
    every = everything(connect(active_directory, base_dns=[active_directory.corp]))
    some = everything(
        connect(active_directory, base_dns=[active_directory.corp], user_filter="(sAMAccountName=user000*)")
    )
    assert [record.kind for record in some.values()].count("user") == 10
    for kind in ("group", "unit"):
        assert [r for r in some.values() if r.kind == kind] == [r for r in every.values() if r.kind == kind]


def test_members_of_a_group_are_read_with_those_of_nested_groups(active_directory: ActiveDirectory) -> None:
    (first, _), (second, _), *_ = active_directory.search("(sAMAccountName=user000*)")
    inner = active_directory.add_group("Inner", [first])
    middle = active_directory.add_group("Middle", [inner])
    outer = active_directory.add_group("Outer (all)", [middle, second])
    people = [
        record.name
        for record in everything(connect(active_directory, member_of=outer)).values()
        if record.kind == "user"
    ]
    assert sorted(people) == sorted([first, second])


def test_a_group_that_is_not_there_is_a_misconfiguration(active_directory: ActiveDirectory) -> None:
    with pytest.raises(Misconfigured) as caught:
        list(connect(active_directory, member_of=f"CN=Nobody,{active_directory.groups}").changes_since(None))
    assert set(caught.value.fields) == {"member_of"}


def test_values_in_ranges_are_read_to_their_end(
    active_directory: ActiveDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Active Directory gives the 1,700 members of a group; Samba does when it is asked for them so."""
    whole = everything(connect(active_directory, base_dns=[active_directory.groups]))
    monkeypatch.setattr(Scope, "attributes", ("*", "member;range=0-499"))
    ranged = everything(connect(active_directory, base_dns=[active_directory.groups]))
    assert max(len(record.members or ()) for record in ranged.values()) == 1700
    assert ranged == whole


def test_a_range_that_ends_too_early_spoils_one_record_and_no_more(
    active_directory: ActiveDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(active_directory, base_dns=[active_directory.groups])
    with opened(settings, LOOPBACK) as session:
        scope = scope_of(settings, session)
        monkeypatch.setattr(Scope, "attributes", ("*", "member;range=0-499"))
        monkeypatch.setattr(session, "entry", lambda base, attributes: None)
        changes = [change for page in Reader(session, scope, 500).everything() for change in page]
    spoilt = [change for change in changes if isinstance(change, Unreadable)]
    assert {change.reason for change in spoilt} == {"partial_values"}
    assert f"CN=Everyone,{active_directory.groups}" in [change.name for change in spoilt]
    assert sum(isinstance(change, Record) for change in changes) == len(changes) - len(spoilt) > 5


def test_records_are_looked_up_by_their_keys(active_directory: ActiveDirectory) -> None:
    feed = connect(active_directory, base_dns=[active_directory.people], user_filter="(!(sAMAccountName=user0002))")
    read = everything(feed)
    wanted = list(read)[:250]
    outside = active_directory.guid(f"CN=Everyone,{active_directory.groups}")
    filtered = active_directory.search("(sAMAccountName=user0002)")[0][0]
    others = [outside, active_directory.guid(filtered), "03020100-0504-0706-0809-0a0b0c0d0e0f", "no-key", "*"]
    assert {r.key: r for r in feed.records([*others, *wanted]) if isinstance(r, Record)} == {
        key: read[key] for key in wanted
    }
    assert list(feed.records([])) == list(feed.records(others)) == []


def test_a_size_limit_does_not_stop_a_pass(slapd: OpenLdap) -> None:
    feed = connect(slapd)
    records = everything(feed)
    assert sum(record.kind == "user" for record in records.values()) == 2500
    assert sum(record.kind == "group" for record in records.values()) == 26
    raw = dict(slapd.raw_read())
    for record in records.values():
        held = {name.lower() for name in record.attributes} | ({"member"} if record.members else set())
        assert {"entryuuid", "createtimestamp", "modifytimestamp"} <= held
        assert "userpassword" not in held
        assert record.key.encode() in raw[record.name]["entryUUID"]


def test_without_pages_the_same_server_gives_a_part_and_that_is_refused(slapd: OpenLdap) -> None:
    with (
        opened(config(slapd), LOOPBACK) as session,
        pytest.raises(Refused, match="only a part"),
    ):
        session.search(slapd.base_dn, "(objectClass=inetOrgPerson)", ["*"])


def test_nested_groups_are_found_without_active_directory(slapd: OpenLdap) -> None:
    team = f"cn=team0003,{slapd.groups}"
    top = slapd.add_group("top", [team])
    records = everything(connect(slapd, member_of=top))
    assert sum(record.kind == "user" for record in records.values()) == 100
    slapd.delete(top)


def test_ways_of_active_directory_are_refused_elsewhere(slapd: OpenLdap) -> None:
    for mode in ("dirsync", "usn"):
        with pytest.raises(Misconfigured) as caught:
            list(connect(slapd, mode=mode).changes_since(None))
        assert set(caught.value.fields) == {"mode"}


def test_a_directory_that_is_not_there_is_unreachable(slapd: OpenLdap) -> None:
    slapd.stop()
    try:
        for read in (
            lambda feed: list(feed.changes_since(None)),
            lambda feed: list(feed.records(["03020100-0504-0706-0809-0a0b0c0d0e0f"])),
            lambda feed: feed.check_password("user00001", "x"),
        ):
            with pytest.raises(Unreachable, match=f"port {slapd.tls_port}"):
                read(connect(slapd))
    finally:
        slapd.start()


def test_a_directory_that_dies_in_the_middle_gives_no_last_page(slapd: OpenLdap) -> None:
    pages = connect(slapd, page_size=100).changes_since(None)
    assert not next(pages).last
    slapd.kill()
    try:
        with pytest.raises(Unreachable):
            for page in pages:
                assert not page.last
    finally:
        slapd.start()


def test_a_pass_ends_when_nobody_waits_for_it_any_more(slapd: OpenLdap) -> None:
    egress = replace(LOOPBACK, until=time.monotonic() + 0.5)
    pages = LiveDirectory(config(slapd, page_size=10), egress).changes_since(None)
    next(pages)
    time.sleep(0.6)
    with pytest.raises(Unreachable):
        for page in pages:
            assert not page.last


def test_the_guard_is_passed(slapd: OpenLdap) -> None:
    with pytest.raises(Misconfigured, match="no public address"):
        list(LiveDirectory(config(slapd), Egress()).changes_since(None))
