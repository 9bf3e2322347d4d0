"""A tenant written as an archive and imported elsewhere: equal there, silent when repeated, refused when broken."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa

from broker import context, ids
from broker.context import Scope
from broker.db import platform_scope, unit
from broker.directory import Directory
from broker.errors import Conflict, LimitExceeded, ValidationFailed
from broker.models import ArchiveRefusal, ArchiveRun, Event, Partner, Resource
from scim.archive import Broken, export_archive, import_archive, taking, writing
from tests.archives import canonical, forget_tenant, reseal
from tests.conftest import World, make_provider, make_world
from tests.directories import Upstream, computer, group, people, unit_entry

USER = "urn:ietf:params:scim:schemas:core:2.0:User"
GROUP = "urn:ietf:params:scim:schemas:core:2.0:Group"


@pytest.fixture
def acme(world: World, tmp_path: Path) -> Upstream:
    upstream = Upstream(world.acme, make_provider(world.acme), tmp_path)
    one, two, three = people(3)
    two[1]["manager"] = [one[0]]
    upstream.read([one, two, three, group(1, [one, two]), unit_entry(1, "People"), computer(1)])
    first = upstream.id_of("p0000")
    with unit(world.acme), context.acting(context.system("test")):
        directory = Directory()
        boss = directory.create("User", {"schemas": [USER], "userName": "boss", "title": "Chief"})
        crowd = directory.create("Group", {"schemas": [GROUP], "displayName": "Crowd"})
        directory.change_members(crowd.id, [boss.id, first])
        gone = directory.create("User", {"schemas": [USER], "userName": "gone"})
        directory.remove("User", gone.id)
    return upstream


@pytest.fixture
def archive(acme: Upstream, tmp_path: Path) -> Path:
    path = tmp_path / "acme.ndjson"
    export_archive(acme.scope, path)
    return path


def taken(scope: Scope, path: Path, **how: Any) -> ArchiveRun:
    with context.acting(context.system("test")):
        return import_archive(scope, path, **how)


def refusals(scope: Scope, run: ArchiveRun) -> list[tuple[int, str, str]]:
    with unit(scope) as session:
        rows = session.execute(
            sa.select(ArchiveRefusal.line, ArchiveRefusal.path, ArchiveRefusal.detail)
            .where(ArchiveRefusal.run_id == run.id)
            .order_by(ArchiveRefusal.no)
        )
        return [(line, path, detail) for line, path, detail in rows]


def events(scope: Scope) -> list[str]:
    with unit(scope) as session:
        return list(session.scalars(sa.select(Event.name).order_by(Event.no)))


def test_a_tenant_imported_into_another_one_is_equal_and_has_ids_of_its_own(
    acme: Upstream, archive: Path, world: World, tmp_path: Path
):
    make_provider(world.globex)
    run = taken(world.globex, archive)
    assert (run.status, run.refused, run.line) == ("done", 0, run.total)
    again = tmp_path / "globex.ndjson"
    counts = export_archive(world.globex, again)
    assert counts["resource"] == 8 and counts["membership"] == 4 and counts["link"] == 6 and counts["reference"] > 0
    assert canonical(again) == canonical(archive, into=world.globex.tenant_id)
    assert Upstream(world.globex, "", tmp_path).present() == acme.present()
    with unit(world.globex) as session:
        imported = set(session.scalars(sa.select(Resource.id)))
    with unit(acme.scope) as session:
        assert not imported & set(session.scalars(sa.select(Resource.id)))
    created = [name for name in events(world.globex) if name.endswith(".created")]
    assert len(created) == 7, "whoever was removed is not told of"


def test_an_archive_imported_twice_changes_nothing(acme: Upstream, archive: Path, world: World):
    make_provider(world.globex)
    first = taken(world.globex, archive)
    told = events(world.globex)
    second = taken(world.globex, archive)
    assert (second.created, second.refused, second.unchanged) == (0, 0, first.created + first.unchanged)
    assert events(world.globex) == told
    before = events(acme.scope)
    home = taken(acme.scope, archive)
    assert (home.created, home.refused) == (0, 0)
    assert events(acme.scope) == before


def test_where_the_tenant_is_not_known_ids_are_kept(acme: Upstream, archive: Path, tmp_path: Path):
    forget_tenant(acme.scope)
    other = make_world().acme
    make_provider(other)
    run = taken(other, archive)
    assert (run.refused, run.status) == (0, "done")
    again = tmp_path / "again.ndjson"
    export_archive(other, again)
    assert canonical(again) == canonical(archive)


def test_a_dry_run_counts_and_changes_nothing(archive: Path, world: World, tmp_path: Path):
    make_provider(world.globex)
    dry = taken(world.globex, archive, dry_run=True)
    assert Upstream(world.globex, "", tmp_path).present() == {}
    assert events(world.globex) == []
    wet = taken(world.globex, archive)
    assert (dry.created, dry.unchanged, dry.refused) == (wet.created, wet.unchanged, wet.refused)
    assert (dry.dry_run, dry.status, wet.dry_run) == (True, "done", False)


def test_an_interrupted_import_goes_on_where_it_was(
    archive: Path, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    make_provider(world.globex)
    monkeypatch.setattr(taking, "AT_ONCE", 2)
    seen: list[int] = []

    def pulled(run: ArchiveRun) -> None:
        seen.append(run.line)
        if len(seen) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        taken(world.globex, archive, progress=pulled)
    lines: list[int] = []
    run = taken(world.globex, archive, progress=lambda run: lines.append(run.line))
    assert min(lines) > seen[-1]
    assert (run.status, run.unchanged + run.created) == ("done", run.total - 1)
    again = tmp_path / "again.ndjson"
    export_archive(world.globex, again)
    assert canonical(again) == canonical(archive, into=world.globex.tenant_id)


def test_two_who_import_the_same_archive_do_not_take_a_batch_twice(
    archive: Path, world: World, monkeypatch: pytest.MonkeyPatch
):
    make_provider(world.globex)
    monkeypatch.setattr(taking, "AT_ONCE", 2)
    others = []

    def meddle(run: ArchiveRun) -> None:
        if not others:
            others.append(1)
            others.append(taken(world.globex, archive))

    with pytest.raises(Conflict, match="somebody else"):
        taken(world.globex, archive, progress=meddle)
    assert others[1].status == "done"


def test_pages_of_an_export_join_without_a_seam(
    acme: Upstream, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(writing, "AT_ONCE", 2)
    told = []
    again = tmp_path / "again.ndjson"
    counts = export_archive(acme.scope, again, lambda done, total: told.append((done, total)))
    assert again.read_bytes() == archive.read_bytes()
    assert told[-1] == (sum(counts.values()), sum(counts.values()))
    assert stat.S_IMODE(again.stat().st_mode) == 0o600


def test_a_name_that_is_taken_and_what_differs_are_refused_with_their_place(
    acme: Upstream, archive: Path, world: World
):
    make_provider(world.globex)
    with unit(world.globex), context.acting(context.system("test")):
        Directory().create("User", {"schemas": [USER], "userName": "BOSS"})
    run = taken(world.globex, archive)
    refused = refusals(world.globex, run)
    assert run.refused == len(refused) == 2
    assert [(path, detail) for _, path, detail in refused] == [
        ("/name", "This userName is somebody else's."),
        ("/member_id", "There is no such member."),
    ]
    lines = archive.read_bytes().splitlines()
    assert orjson.loads(lines[refused[0][0] - 1])["name"] == "boss"
    with unit(acme.scope), context.acting(context.system("test")):
        boss = next(orjson.loads(line) for line in lines if b'"name":"boss"' in line)
        Directory().replace("User", boss["id"], {**boss["document"], "title": "Janitor"})
    home = taken(acme.scope, archive)
    assert [(path, detail) for _, path, detail in refusals(acme.scope, home)] == [
        ("/id", "This resource is here already, and differs.")
    ]


def test_ids_of_another_tenant_are_refused(acme: Upstream, archive: Path, world: World, tmp_path: Path):
    """Who puts his own person before them makes them look like those of a tenant nobody knows."""
    make_provider(world.globex)
    stranger = ids.new("usr")

    lines = [orjson.loads(line) for line in archive.read_bytes().splitlines()]
    first = next(line for line in lines if line["part"] == "resource" and line["name"] == "boss")
    mine = {**first, "id": stranger, "name": "mine", "document": {**first["document"], "id": stranger}}
    mine["document"]["userName"] = "mine"
    at = next(number for number, line in enumerate(lines) if line["part"] == "resource")
    forged = reseal(tmp_path / "forged.ndjson", [*lines[:at], mine, *lines[at:]])
    run = taken(world.globex, forged)
    told = refusals(world.globex, run)
    assert {detail for _, path, detail in told if path == "/id"} >= {"This id is another tenant's."}
    with unit(world.globex) as session:
        assert list(session.scalars(sa.select(Resource.id))) == [stranger]
    assert acme.present()["User"] == 4


def test_a_provider_must_be_there_and_is_named(archive: Path, world: World):
    with pytest.raises(ValidationFailed) as caught:
        taken(world.globex, archive)
    assert caught.value.errors == {
        "line 2, /name": ["Make an identity provider of kind ldap called 'Active Directory' first."]
    }
    with unit(world.globex) as session:
        assert session.scalars(sa.select(ArchiveRun)).all() == []


def test_a_limit_of_the_partner_holds(archive: Path, world: World):
    make_provider(world.globex)
    with platform_scope() as session:
        session.get_one(Partner, world.partner_id).max_users_per_tenant = 2
    with pytest.raises(LimitExceeded):
        taken(world.globex, archive)
    with unit(world.globex) as session:
        run = session.scalars(sa.select(ArchiveRun)).one()
        assert (run.status, run.created) == ("failed", 0)
        assert session.scalars(sa.select(Resource)).all() == []


def _without(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda line: {key: value for key, value in line.items() if key != name}


@pytest.mark.parametrize(
    ("part", "change", "path", "complaint"),
    [
        ("resource", _without("name"), "/name", "missing"),
        ("resource", lambda line: {**line, "shoe": 43}, "/shoe", "no such field"),
        ("resource", lambda line: {**line, "name": "a\0b"}, "/name", "without NUL"),
        ("resource", lambda line: {**line, "active": 1}, "/active", "true or false"),
        ("resource", lambda line: {**line, "version": -1}, "/version", "whole number"),
        ("resource", lambda line: {**line, "resource_type": "Printer"}, "/resource_type", "one of User"),
        ("resource", lambda line: {**line, "created_at": "yesterday"}, "/created_at", "a moment"),
        ("resource", lambda line: {**line, "document": []}, "/document", "an object"),
        ("resource", lambda line: {**line, "id": "usr_x"}, "/id", "an id"),
        ("link", lambda line: {**line, "digest": "%"}, "/digest", "base64"),
        ("link", lambda line: {**line, "key": "k" * 2_001}, "/key", "2000 octets"),
        ("membership", lambda line: {**line, "kind": "guest"}, "/kind", "one of member"),
        ("membership", lambda line: {**line, "part": "shoe"}, "/part", "no part"),
        ("membership", lambda line: {**line, "part": ["membership"]}, "/part", "no part"),
        ("header", lambda line: {**line, "version": 2}, "/version", "of version 2"),
        ("header", lambda line: {**line, "format": "ldif"}, "/format", "no archive"),
    ],
)
def test_a_broken_line_is_named_and_nothing_is_written(
    archive: Path,
    world: World,
    tmp_path: Path,
    part: str,
    change: Callable[[dict[str, Any]], dict[str, Any]],
    path: str,
    complaint: str,
):
    make_provider(world.globex)
    lines = [orjson.loads(line) for line in archive.read_bytes().splitlines()]
    at = next(number for number, line in enumerate(lines) if line["part"] == part)
    lines[at] = change(lines[at])
    with pytest.raises(Broken) as caught:
        taken(world.globex, reseal(tmp_path / "broken.ndjson", lines))
    assert (caught.value.line, caught.value.path) == (at + 1, path)
    assert complaint in caught.value.detail
    assert events(world.globex) == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda raw: raw[:-1], "not whole"),
        (lambda raw: b"".join(raw.splitlines(keepends=True)[:-1]), "not whole"),
        (lambda raw: b"".join(raw.splitlines(keepends=True)[:-2] + raw.splitlines(keepends=True)[-1:]), "lost"),
        (lambda raw: raw.replace(b'"userName":"boss"', b'"userName":"bass"'), "changed"),
        (lambda raw: raw + b"{}\n", "after the end"),
        (lambda raw: raw.replace(b'{"part":"resource"', b'{"part":"resource","part":"resource"', 1), "twice"),
        (lambda raw: raw.replace(b'"boss"', b'"\xff"', 1), "UTF-8"),
        (lambda raw: raw.replace(b'"boss"', b'"\\ud800"', 1), "surrogate"),
        (lambda raw: raw.replace(b"}\n", b"\n", 1), "not JSON"),
        (lambda raw: b"[]\n" + raw, "JSON object"),
        (lambda raw: b"", "not whole"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(
    archive: Path, world: World, change: Callable[[bytes], bytes], complaint: str
):
    make_provider(world.globex)
    archive.write_bytes(change(archive.read_bytes()))
    with pytest.raises(Broken, match=complaint):
        taken(world.globex, archive)
    assert events(world.globex) == []


def test_lines_out_of_their_order_and_too_long_are_refused(
    archive: Path, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lines = [orjson.loads(line) for line in archive.read_bytes().splitlines()]
    mixed = [lines[0], *reversed(lines[1:-1]), lines[-1]]
    with pytest.raises(Broken, match="stands after what may name it"):
        taken(world.globex, reseal(tmp_path / "mixed.ndjson", mixed))
    monkeypatch.setattr("scim.archive.lines.LONGEST", 700)
    with pytest.raises(Broken, match="longer than 700"):
        taken(world.globex, archive)


def test_no_secret_is_in_an_archive(world: World, tmp_path: Path):
    make_provider(world.acme, config={"bind_dn": "cn=reader"}, secrets=b"sealed-secret")
    path = tmp_path / "acme.ndjson"
    export_archive(world.acme, path)
    provider = orjson.loads(path.read_bytes().splitlines()[1])
    assert provider.keys() == {"part", "id", "kind", "name"}
    assert b"sealed" not in path.read_bytes()
