"""A live OpenLDAP that gives nobody more than a thousand entries at once: read whole in pages, and followed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from broker.context import acting, system
from connectors.ldap.session import Session
from connectors.ldap.wire import Entry
from tests.canonical_ldif import canonical
from tests.conftest import make_world
from tests.journeys.following import Following, read_canonically
from tests.upstreams.slapd import HARD_LIMIT, OpenLdap

NOT_READ = (["structuralobjectclass"], ["creatorsname"], ["modifiersname"], ["entrydn"], ["entrycsn"])
"""What a server adds by itself and nobody asks for; `memberOf` is made again of the groups."""


@pytest.fixture(scope="module")
def acme(engines: Flask, slapd: OpenLdap) -> Iterator[Following]:
    """A tenant that has read everybody once."""
    with engines.app_context(), acting(system("tests")):
        followed = Following.openldap(make_world().acme, slapd)
        run = followed.sync()
        assert (run.kind, run.skipped, run.created) == ("full", 0, run.read)
        yield followed


def test_everybody_is_read_though_the_server_gives_a_thousand_at_once(
    acme: Following, slapd: OpenLdap, tmp_path: Path
) -> None:
    assert len(slapd.raw_read(filter="(objectClass=inetOrgPerson)")) == 2500 > 2 * HARD_LIMIT
    there = [line for line in read_canonically(slapd.raw_read()) if is_read(line)]
    assert [line for line in canonical(acme.exported(tmp_path / "out.ldif")) if is_read(line)] == there
    run = acme.sync(full=True)
    assert (run.unchanged, run.removed) == (run.read, 0) and run.read > 2500


def is_read(line: str) -> bool:
    attribute = line.split(" | ")[1:2]
    return attribute not in (*NOT_READ, ["memberof"], ["subschemasubentry"], ["hassubordinates"])


def test_without_pages_the_pass_fails_and_nobody_is_taken_for_gone(
    acme: Following, slapd: OpenLdap, monkeypatch: pytest.MonkeyPatch
) -> None:

    def at_once(self: Session, base: str, filter: str, attributes: Any, size: int, controls: Any = ()) -> Any:
        found: list[Entry] = self.search(base, filter, attributes, controls=controls).entries
        yield found

    monkeypatch.setattr(Session, "pages", at_once)
    run = acme.attempt(full=True)
    assert run.status == "failed" and "sizeLimitExceeded" in run.problem
    assert run.removed == 0 and acme.document("user00000@acme.test") is not None


def test_changes_are_found_by_their_time_and_deletions_by_the_full_pass(acme: Following, slapd: OpenLdap) -> None:
    team = f"cn=team0001,{slapd.groups}"
    dn = slapd.add_user("newcomer", title="Clerk")
    slapd.add_member(team, dn)
    slapd.set(f"uid=user00100,{slapd.people}", title="Chief")
    run = acme.sync()
    assert run.kind == "delta" and run.created == 1
    assert acme.document("newcomer@acme.test") is not None and titled(acme, "user00100@acme.test") == "Chief"
    slapd.delete(dn)
    assert acme.sync().removed == 0
    assert acme.sync(full=True).removed == 1
    assert acme.document("newcomer@acme.test") is None


def titled(acme: Following, name: str) -> str:
    document = acme.document(name)
    assert document is not None
    title: str = document["title"]
    return title
