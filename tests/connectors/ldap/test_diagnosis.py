"""What an administrator is told about a directory that does not work, or not as well as it could."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from connectors.egress import Egress
from connectors.ldap import diagnosis, wire
from connectors.ldap import session as sessions
from connectors.ldap.directory import LiveDirectory
from connectors.ldap.reading import Reader
from connectors.port import ChangeFeed, Diagnose, Lookup, PasswordCheck, Refused, Step, Unreachable
from tests.connectors.ldap.live import config, connect
from tests.upstreams.samba import ActiveDirectory, Service
from tests.upstreams.slapd import OpenLdap, openldap

ALL = ["connection", "credential", "bases", "changes", "deletions", "people"]


@pytest.fixture(scope="module")
def small() -> Iterator[OpenLdap]:
    with openldap(20) as running:
        yield running


@pytest.fixture(autouse=True)
def nobody_shunned() -> Iterator[None]:
    yield
    sessions._silent.clear()


def steps(directory: ActiveDirectory | OpenLdap, service: Service = "dirsync", **settings: Any) -> dict[str, Step]:
    taken = list(connect(directory, service, **settings).steps())
    assert all(step.name and step.found and step.found.isprintable() for step in taken)
    assert all(step.mend for step in taken if not step.ok)
    secret = directory.service(service)[1] if isinstance(directory, ActiveDirectory) else directory.service[1]
    assert secret not in str(taken)
    return {step.name: step for step in taken}


def test_a_live_directory_can_what_the_port_knows(active_directory: ActiveDirectory) -> None:
    made = connect(active_directory)
    for ability in (ChangeFeed, Lookup, PasswordCheck, Diagnose):
        assert isinstance(made, ability)


def test_a_directory_in_order(active_directory: ActiveDirectory) -> None:
    active_directory.delete(active_directory.add_user("deleted"))
    taken = steps(active_directory)
    assert list(taken) == ALL
    assert all(step.ok and not step.mend for step in taken.values())
    assert "Active Directory" in taken["bases"].found
    assert taken["changes"].found.startswith("DirSync: ")
    assert "sees what was deleted" in taken["deletions"].found
    assert "people, such as CN=" in taken["people"].found


def test_an_ordinary_account_is_told_what_it_does_not_see(active_directory: ActiveDirectory) -> None:
    taken = steps(active_directory, "sync")
    assert all(step.ok for step in taken.values())
    assert "without the right to replicate" in taken["changes"].found
    assert "Replicating Directory Changes" in taken["changes"].mend
    assert "full passes only" in taken["deletions"].found
    assert "dsacls" in taken["deletions"].mend


def test_a_way_that_was_chosen_is_not_mended(active_directory: ActiveDirectory) -> None:
    taken = steps(active_directory, mode="usn")
    assert taken["changes"].found.startswith("Update sequence numbers")
    assert taken["changes"].mend == ""
    assert list(steps(active_directory, mode="full")) == [name for name in ALL if name != "deletions"]


def test_bases_of_two_naming_contexts_are_followed_by_numbers(active_directory: ActiveDirectory) -> None:
    bases = [active_directory.corp, f"CN=Sites,CN=Configuration,{active_directory.base_dn}"]
    assert "one naming context" in steps(active_directory, base_dns=bases)["changes"].found
    failed = steps(active_directory, base_dns=bases, mode="dirsync")["changes"]
    assert not failed.ok


@pytest.mark.parametrize(
    ("settings", "failing", "says"),
    [
        ({"bind_password": "not-it"}, "credential", "the password is wrong"),
        ({"bind_dn": "CN=nobody,DC=ad,DC=acme,DC=test"}, "credential", "wrong"),
        ({"base_dns": ["OU=Nowhere,DC=ad,DC=acme,DC=test"]}, "bases", "no such entry"),
        ({"member_of": "CN=Nobody,DC=ad,DC=acme,DC=test"}, "bases", "no group"),
        ({"user_filter": "(cn=nobody at all)"}, "people", "nobody"),
        ({"ca_certificates": ""}, "connection", "certificate is not accepted"),
        ({"servers": ["ldaps://192.168.7.7"]}, "connection", "no public address"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_the_step_that_fails_is_the_last_and_says_what_to_do(
    active_directory: ActiveDirectory, settings: dict[str, Any], failing: str, says: str
) -> None:
    taken = steps(active_directory, **settings)
    assert [step.name for step in taken.values() if not step.ok] == [failing]
    assert list(taken) == ALL[: ALL.index(failing) + 1]
    assert says in taken[failing].found


def test_every_server_is_tried(active_directory: ActiveDirectory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = f"ldaps://localhost:{closed.getsockname()[1]}"
    servers = [dead, active_directory.url, active_directory.starttls_url]
    taken = list(connect(active_directory, servers=servers).steps())
    assert [(step.name, step.ok) for step in taken[:4]] == [
        ("connection", False),
        ("connection", True),
        ("connection", True),
        ("credential", True),
    ]


def test_an_account_that_is_disabled_is_told(active_directory: ActiveDirectory) -> None:
    dn = active_directory.add_user("retired", password="R1ght-Pass")
    active_directory.disable(dn)
    taken = steps(active_directory, bind_dn=dn, bind_password="R1ght-Pass")
    assert "the account is disabled" in taken["credential"].found


def test_many_people_are_not_all_counted(active_directory: ActiveDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.ldap.diagnosis.COUNTED", 500)
    assert steps(active_directory)["people"].found.startswith("More than 500 people, such as CN=")


def test_another_directory_in_order(small: OpenLdap) -> None:
    taken = steps(small)
    assert list(taken) == [name for name in ALL if name != "deletions"]
    assert all(step.ok for step in taken.values())
    assert "Deletions are found by full passes only" in taken["changes"].found
    assert taken["people"].found.startswith("20 people, such as uid=user")


def test_nothing_listens(small: OpenLdap) -> None:
    small.stop()
    try:
        (failed,) = steps(small).values()
        assert (failed.name, failed.ok) == ("connection", False)
    finally:
        small.start()


def test_the_guard_is_passed(small: OpenLdap) -> None:
    (failed,) = LiveDirectory(config(small), Egress()).steps()
    assert not failed.ok
    assert "operator" in failed.mend


def test_what_there_is_no_time_for_is_said_not_to_have_been_tried(
    small: OpenLdap, monkeypatch: pytest.MonkeyPatch
) -> None:
    until = time.monotonic() + 3
    whole = diagnosis._changes

    def slowly(*args: Any) -> Step:
        step = whole(*args)
        time.sleep(max(0.0, until - time.monotonic()))
        return step

    monkeypatch.setattr(diagnosis, "_changes", slowly)
    taken = list(LiveDirectory(config(small), Egress(loopback=True, until=until)).steps())
    assert [(step.name, step.ok) for step in taken[:-1]] == [
        ("connection", True),
        ("credential", True),
        ("bases", True),
        ("changes", True),
    ]
    assert (taken[-1].name, taken[-1].ok) == ("people", False) and "the time is up" in taken[-1].found
    late = LiveDirectory(config(small, servers=[small.url, small.starttls_url]), Egress(loopback=True, until=until))
    assert [(step.name, step.ok) for step in late.steps()] == [("connection", False)] * 2


def test_time_that_ends_within_a_step_fails_it(small: OpenLdap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.ldap.session.LONGEST_CONNECT", 0.3)
    until = time.monotonic() + 0.6
    with mute() as url:
        taken = list(LiveDirectory(config(small, servers=[url] * 5), Egress(loopback=True, until=until)).steps())
    assert [(step.name, step.ok) for step in taken] == [("connection", False)] * 5
    assert "the time is up" in taken[-1].found and "the time is up" not in taken[0].found
    assert time.monotonic() < until + 2


def test_a_silent_server_does_not_use_up_the_time_of_the_others(
    small: OpenLdap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "LONGEST_CONNECT", 1.0)
    began = time.monotonic()
    with mute() as url:
        taken = list(connect(small, servers=[url, small.url]).steps())
    assert [step.ok for step in taken] == [False, True, True, True, True, True]
    assert time.monotonic() - began < 10


def test_a_search_for_what_was_deleted_that_is_not_answered_is_a_step_that_failed(
    active_directory: ActiveDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sessions.Session.pages

    def pages(self: sessions.Session, base: str, filter: str, *rest: Any) -> Any:
        if "isDeleted" in filter:
            raise Unreachable("silence")
        return whole(self, base, filter, *rest)

    monkeypatch.setattr(sessions.Session, "pages", pages)
    taken = steps(active_directory)
    assert list(taken) == ALL
    assert [step.found for step in taken.values() if not step.ok] == ["silence"]


@pytest.mark.parametrize("after", range(5))
def test_a_server_that_talks_nonsense_is_steps_that_fail(
    small: OpenLdap, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """After so many answers that were in order."""
    real, asked = wire.Wire._answer, 0

    def answered(self: wire.Wire, entries: int | None) -> wire.Answer:
        nonlocal asked
        asked += 1
        if asked > after:
            raise Refused("What the server says is not LDAP.")
        return real(self, entries)

    monkeypatch.setattr(wire.Wire, "_answer", answered)
    taken = steps(small)
    assert not list(taken.values())[-1].ok
    assert all(step.ok for step in list(taken.values())[:-2])


def test_people_are_not_read_to_the_last(small: OpenLdap, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = wire.Wire.search

    def watched(self: wire.Wire, base: str, filter: str, *rest: Any) -> wire.Answer:
        asked.append(filter)
        return real(self, base, filter, *rest)

    monkeypatch.setattr(wire.Wire, "search", watched)
    monkeypatch.setattr(diagnosis, "COUNTED", 5)
    monkeypatch.setattr(diagnosis, "Reader", lambda session, scope, size: Reader(session, scope, 3))
    assert steps(small)["people"].found.startswith("More than 5 people")
    assert sum("inetOrgPerson" in filter for filter in asked) == 2


@contextmanager
def mute() -> Iterator[str]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"ldaps://localhost:{server.getsockname()[1]}"
