"""The commands as an operator meets them: what they print, and their exit status."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from broker import cli
from broker.config import Config
from broker.db import unit
from broker.embedded import Services
from broker.models import IdentityProvider, SyncRun
from tests import scripted
from tests.canonical_ldif import differences
from tests.conftest import World, make_provider
from tests.directories import Upstream, people, write
from tests.scripted import Directory

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def scaikey(
    services: Services, settings: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run a command in this process, on the servers of the tests: exit status, output, errors."""
    configured = services.configure(settings)
    for name, value in (
        ("DATABASE_URL", configured.database_url),
        ("SCAIKEY_OWNER_DATABASE_URL", configured.owner_database_url),
        ("SCAIKEY_PLATFORM_DATABASE_URL", configured.platform_database_url),
        ("REDIS_URL", configured.redis_url),
        ("SCAIKEY_DATA_DIR", str(configured.data_dir)),
        ("SCAIKEY_LOG_LEVEL", "ERROR"),
    ):
        monkeypatch.setenv(name, value or "")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["scaikey", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture
def acme(world: World, tmp_path: Path) -> Upstream:
    return Upstream(world.acme, make_provider(world.acme), tmp_path)


def test_a_file_goes_in_and_comes_out(scaikey: Command, acme: Upstream, tmp_path: Path):
    write(acme.file, people(8))
    status, out, _ = scaikey("scim", "import", "--provider", acme.provider_id, acme.file)
    assert status == 0
    assert "created" in out
    assert acme.present() == {"User": 8}
    copy = tmp_path / "copy.ldif"
    status, out, _ = scaikey("scim", "export", "--tenant", acme.scope.slug, copy)
    assert (status, out) == (0, f"8 entries in {copy}\n")
    assert differences(acme.file, copy) == []


def test_events_are_lines_of_json(scaikey: Command, acme: Upstream):
    write(acme.file, people(8))
    status, out, _ = scaikey("scim", "import", "--provider", acme.provider_id, acme.file, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [line["event"] for line in lines] == ["progress", "progress", "done"]
    assert lines[0]["done"] == lines[0]["total"] == acme.file.stat().st_size
    assert (lines[-1]["created"], lines[-1]["run_id"]) == (8, lines[0]["run_id"])


def test_a_dry_run_prints_its_plan(scaikey: Command, acme: Upstream):
    write(acme.file, people(2))
    status, out, _ = scaikey("scim", "import", "--provider", acme.provider_id, acme.file, "--dry-run")
    assert status == 0
    assert f"created user {people(1)[0][0]}\n" in out
    assert acme.present() == {}


def test_held_removals_exit_with_three_and_say_how_to_decide(scaikey: Command, acme: Upstream):
    acme.read(people(20))
    write(acme.file, people(2))
    status, out, _ = scaikey("scim", "import", "--provider", acme.provider_id, acme.file, "--dry-run")
    assert status == 3
    status, out, _ = scaikey("scim", "import", "--provider", acme.provider_id, acme.file)
    assert status == 3
    with unit(acme.scope) as session:
        run_id = session.scalar(sa.select(SyncRun.id).where(SyncRun.status == "held"))
    assert f"/api/v1/sync-runs/{run_id}/approve" in out


def test_a_failed_run_exits_with_one(scaikey: Command, acme: Upstream):
    acme.file.write_bytes(b"dn: CN=a,DC=x\nobjectClass: user")
    status, out, _ = scaikey("scim", "import", "--provider", acme.provider_id, acme.file)
    assert status == 1
    assert "Unfinished listing" in out


def test_what_cannot_begin_exits_with_two_and_one_line(scaikey: Command, acme: Upstream, tmp_path: Path):
    write(acme.file, people(1))
    absent = tmp_path / "absent.ldif"
    for arguments, complaint in (
        (("scim", "import", "--provider", "idp_nobody", acme.file), "there is no provider idp_nobody"),
        (("scim", "import", acme.file), "name the tenant of an archive"),
        (("scim", "import", acme.file, "--tenant", "x", "--provider", "y"), "name the tenant of an archive"),
        (("scim", "import", "--provider", acme.provider_id, absent), "does not exist"),
        (("scim", "import", "--tenant", acme.scope.slug, acme.file), "line 1: the line is not JSON"),
        (("scim", "export", "--tenant", acme.scope.slug, "--provider", "x", tmp_path / "x.ndjson"), "leave --provider"),
        (("scim", "export", "--tenant", "nobody", absent), "there is no tenant nobody"),
        (("scim", "export", "--tenant", acme.scope.slug, "--provider", "idp_x", absent), "no directory idp_x"),
        (("scim", "export", "--tenant", acme.scope.slug, tmp_path / "no" / "x.ldif"), "No such file or directory"),
        (("sync", "run", acme.provider_id), "not available"),
        (("sync", "run", "idp_nobody"), "there is no provider idp_nobody"),
    ):
        status, _, errors = scaikey(*arguments)
        assert (status, complaint in errors) == (2, True), errors


def test_the_provider_is_named_where_a_tenant_has_several(scaikey: Command, acme: Upstream, tmp_path: Path):
    make_provider(acme.scope, "Another")
    status, _, errors = scaikey("scim", "export", "--tenant", acme.scope.slug, tmp_path / "out.ldif")
    assert (status, "the tenant has 2 directories" in errors) == (2, True)


def test_an_import_while_another_runs_is_refused(scaikey: Command, acme: Upstream, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("broker.commands._PATIENCE", 0.0)
    with unit(acme.scope) as session:
        session.execute(
            sa.text("UPDATE identity_providers SET lease_until = now() + interval '1 minute' WHERE id = :id"),
            {"id": acme.provider_id},
        )
    write(acme.file, people(1))
    status, _, errors = scaikey("scim", "import", "--provider", acme.provider_id, acme.file)
    assert (status, "Another run of this provider is under way" in errors) == (2, True)


def test_a_live_run_is_not_available_in_json_either(scaikey: Command, acme: Upstream):
    status, out, errors = scaikey("sync", "run", acme.provider_id, "--json")
    told = json.loads(out)
    assert (status, errors, told["event"]) == (2, "", "not_available")
    assert acme.provider_id in told["problem"]


@pytest.fixture
def followed(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Upstream, Directory]:
    """A live upstream of twelve people."""
    directory = Directory()
    scripted.install(monkeypatch, lambda config: directory)
    directory.put(*(scripted.person(f"p{n:02}") for n in range(12)))
    provider = make_provider(world.acme, config=scripted.CONFIG)
    return Upstream(world.acme, provider, tmp_path), directory


def test_a_live_upstream_is_read_now(scaikey: Command, followed: tuple[Upstream, Directory]):
    acme, directory = followed
    status, out, _ = scaikey("sync", "run", acme.provider_id, "--dry-run")
    assert status == 0 and "created user CN=p00,DC=corp" in out and acme.present() == {}
    status, out, _ = scaikey("sync", "run", acme.provider_id, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and [line["event"] for line in lines][-1] == "done"
    assert (lines[0]["kind"], lines[-1]["created"], acme.present()) == ("full", 12, {"User": 12})
    status, out, _ = scaikey("sync", "run", acme.provider_id, "--json")
    assert json.loads(out.splitlines()[-1])["read"] == 0  # only what changed
    directory.drop(*(f"key-p{n:02}" for n in range(8)))
    status, out, _ = scaikey("sync", "run", acme.provider_id, "--full")
    assert status == 3 and "Nothing was taken away" in out and acme.present() == {"User": 12}


def test_a_live_upstream_takes_no_file(scaikey: Command, followed: tuple[Upstream, Directory]):
    acme, _ = followed
    write(acme.file, people(1))
    status, _, errors = scaikey("scim", "import", "--provider", acme.provider_id, acme.file)
    assert status == 2 and "reads its directory itself" in errors


def test_changed_settings_show_what_they_would_do(scaikey: Command, followed: tuple[Upstream, Directory]):
    acme, _ = followed
    assert scaikey("sync", "run", acme.provider_id)[0] == 0
    with unit(acme.scope) as session:
        via = session.get_one(IdentityProvider, (acme.scope.tenant_id, acme.provider_id))
        via.config = {**scripted.CONFIG, "base_dn": "OU=Other,DC=corp"}
    status, out, _ = scaikey("sync", "run", acme.provider_id)
    assert status == 3 and "Nothing was changed" in out and "configuration has changed" in out


def test_a_tenant_goes_into_another_one(scaikey: Command, acme: Upstream, world: World, tmp_path: Path):
    acme.read(people(8))
    file = tmp_path / "acme.ndjson"
    status, out, _ = scaikey("scim", "export", "--tenant", acme.scope.slug, file)
    assert (status, out) == (0, f"1 × provider, 8 × resource, 8 × reference, 8 × link in {file}\n")
    into = ("scim", "import", "--tenant", world.globex.slug, file)
    status, _, errors = scaikey(*into)
    assert (status, "line 2, /name: Make an identity provider of kind ldap" in errors) == (2, True)
    make_provider(world.globex)
    there = Upstream(world.globex, "", tmp_path)
    status, out, _ = scaikey(*into, "--dry-run", "--json")
    assert (status, json.loads(out.splitlines()[-1])["created"], there.present()) == (0, 24, {})
    status, out, _ = scaikey(*into)
    assert (status, there.present()) == (0, {"User": 8})
    status, out, _ = scaikey(*into, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["event"] for line in lines] == ["progress"] * 4 + ["done"]
    assert (lines[-1]["created"], lines[-1]["unchanged"]) == (0, 25)


def test_what_an_archive_could_not_bring_is_shown_and_exits_with_three(
    scaikey: Command, acme: Upstream, world: World, tmp_path: Path
):
    acme.read(people(2))
    file = tmp_path / "acme.ndjson"
    scaikey("scim", "export", "--tenant", acme.scope.slug, file)
    there = Upstream(world.globex, make_provider(world.globex, "Other"), tmp_path)
    there.read(people(1))
    make_provider(world.globex)
    status, out, _ = scaikey("scim", "import", "--tenant", world.globex.slug, file)
    assert (status, "line 3, /name: This userName is somebody else's." in out) == (3, True)
