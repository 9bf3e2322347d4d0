"""A live OpenLDAP that gives nobody more than a thousand entries at once: read whole in pages, and followed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from broker.context import acting, system
from broker.db import unit
from broker.models import Membership, Resource
from connectors.ldap.session import Session
from connectors.ldap.wire import Entry
from tests.canonical_ldif import canonical
from tests.conftest import make_world
from tests.journeys.following import Following, read_canonically
from tests.upstreams.slapd import HARD_LIMIT, OpenLdap

pytestmark = pytest.mark.long

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


def test_who_leaves_what_is_read_and_comes_back_is_in_the_groups_of_before(
    acme: Following, slapd: OpenLdap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The groups have not changed meanwhile, and the record is all that tells of them."""
    monkeypatch.setattr("connectors.ldap.follow.OVERLAP", timedelta(0))
    dn = slapd.add_user("returning")
    team = slapd.add_group("returners", [dn])
    time.sleep(2.1)
    wanted = {**acme.settings, "user_filter": "(!(title=external))"}
    chosen = Following(make_world().acme, wanted)
    chosen.sync()
    chosen.guard({"min": 100, "percent": 100, "percent_24h": 100})
    assert grouped(chosen, "returning@acme.test") == ["returners"]
    slapd.set(dn, title="external")
    chosen.sync()
    assert chosen.document("returning@acme.test") is None
    slapd.set(dn, title=None)
    chosen.sync()
    assert grouped(chosen, "returning@acme.test") == ["returners"]
    before = chosen.events("user.%"), chosen.events("group.%")
    chosen.sync(full=True)
    assert (chosen.events("user.%"), chosen.events("group.%")) == before, "and nothing is told twice"
    slapd.delete(team)
    slapd.delete(dn)


def grouped(acme: Following, name: str) -> list[str]:
    """The groups somebody is in, by their names."""
    person, group = sa.orm.aliased(Resource), sa.orm.aliased(Resource)
    found = (
        sa.select(group.display_name)
        .join(Membership, Membership.group_id == group.id)
        .join(person, person.id == Membership.member_id)
        .where(person.name == name, person.removed_at.is_(None))
    )
    with unit(acme.scope) as session:
        return list(session.scalars(found))
