"""The commands: what they print, how they end, and that the first administrator is made once."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from flask import Flask

from broker import app as assembly
from broker import cli, health, ids
from broker.config import Config
from broker.context import Scope
from broker.db import unit
from broker.embedded import Services
from broker.errors import ValidationFailed
from broker.models import Event, PersonalAccessToken, SyncRun
from broker.vault import VaultError
from oidc import keys
from tests.casting import Caller, Cast, code
from tests.conftest import make_provider

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def scaikey(
    services: Services, settings: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """The command in this process, on this run's servers; status, output and errors."""
    for name, value in {
        "DATABASE_URL": services.database_url,
        "SCAIKEY_OWNER_DATABASE_URL": services.owner_database_url,
        "SCAIKEY_PLATFORM_DATABASE_URL": services.platform_database_url,
        "REDIS_URL": services.redis_url,
        "SCAIKEY_SECRET_KEY": base64.b64encode(settings.secret_key).decode(),
        "SCAIKEY_DATA_DIR": str(settings.data_dir),
        "COLUMNS": "200",
    }.items():
        monkeypatch.setenv(name, value)
    # The log of the test run is pytest's.
    monkeypatch.setattr(assembly.logs, "configure", lambda _: None)

    def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["scaikey", *arguments])
            for name, value in environment.items():
                patch.setenv(name, value)
            try:
                cli.main()
                status = 0
            except SystemExit as end:
                status = int(end.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return run


def test_the_first_administrator_is_made_once_and_again_only_on_reset(
    scaikey: Run, cast: Cast, platform: Scope
) -> None:
    status, out, _ = scaikey("bootstrap", "--json")
    assert status == 0
    made = json.loads(out)
    assert set(made) == {"base_url", "pat", "user_id"} and made["base_url"] == "http://localhost:8080"
    first = Caller(cast.client, made["user_id"], made["pat"])
    assert first.get("/platform/settings").status_code == 200
    status, out, err = scaikey("bootstrap")
    assert (status, out) == (2, "") and "--reset" in err and err.count("\n") == 1
    status, out, _ = scaikey("bootstrap", "--reset", "--json", "--email", "root@example.org")
    again = json.loads(out)
    assert status == 0 and again["user_id"] != made["user_id"]
    assert code(first.get("/platform/settings")) == (401, "authentication_required")
    second = Caller(cast.client, again["user_id"], again["pat"])
    assert second.get("/platform/settings").status_code == 200
    with unit(platform) as session:
        told = session.query(Event).filter(Event.name == "platform.bootstrapped").order_by(Event.no).all()
        assert [event.changed for event in told] == [
            {"reset": False, "revoked_tokens": 0},
            {"reset": True, "revoked_tokens": 1},
        ]
        assert {event.actor_id for event in told} == {"system:bootstrap"}
        [token] = session.query(PersonalAccessToken).filter_by(bootstrap=True, revoked_at=None)
        assert timedelta(days=29) < token.expires_at - datetime.now(UTC) <= timedelta(days=30)


def test_a_disabled_administrator_is_enabled_again_by_reset(scaikey: Run, cast: Cast) -> None:
    email = "phoenix@example.org"
    made = json.loads(scaikey("bootstrap", "--reset", "--json", "--email", email)[1])
    path = f"/scim/v2/platform/Users/{made['user_id']}"
    bearer = {"Authorization": f"Bearer {made['pat']}", "Content-Type": "application/scim+json"}
    body = {
        "schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"],
        "Operations": [{"op": "replace", "path": "active", "value": False}],
    }
    assert cast.client.patch(path, data=json.dumps(body), headers=bearer).status_code == 200
    assert cast.client.get(path, headers=bearer).status_code == 401
    again = json.loads(scaikey("bootstrap", "--reset", "--json", "--email", email.upper())[1])
    assert again["user_id"] == made["user_id"]
    assert cast.client.get(path, headers={"Authorization": f"Bearer {again['pat']}"}).status_code == 200


def test_migrating_twice_changes_nothing(scaikey: Run) -> None:
    first = scaikey("migrate")
    assert first[0] == 0 and first[1].startswith("at ") and scaikey("migrate") == first


def test_the_doctor_finds_nothing_wrong_and_then_the_fault(scaikey: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # Other tests leave failed runs behind.
    monkeypatch.setattr(health, "each_provider", lambda: ())
    monkeypatch.setattr(health, "each_target", lambda: ())
    status, out, _ = scaikey("doctor")
    assert status == 0 and "broken" not in out
    for name in ("database", "application role", "platform role", "owner role", "migrations", "key", "clock", "valkey"):
        assert name in out
    assert "signing keys" in out
    status, out, _ = scaikey("doctor", REDIS_URL="redis://127.0.0.1:1/0")
    assert status == 1 and out.count("broken") == 1
    status, out, _ = scaikey("doctor", SCAIKEY_SECRET_KEY=base64.b64encode(bytes(32)).decode())
    assert status == 1 and "SCAIKEY_SECRET_KEY" in out


def test_the_doctor_asks_each_provider_and_sees_whose_last_run_failed(web: Flask, cast: Cast) -> None:
    with web.app_context():
        provider = make_provider(cast.acme)
        name = f"{cast.acme.slug}: Active Directory"

        def found() -> health.Verdict:
            mine = health.each_provider(tenant_id=cast.acme.tenant_id)
            return next(verdict for verdict in mine if verdict.name == name)

        assert found().ok and found().found == "reads exported files"
        for status, ok in (("done", True), ("failed", False), ("held", True)):
            with unit(cast.acme) as session:
                run = SyncRun(id=ids.new("run"), provider_id=provider, kind="full", status=status)
                run.problem = "It was cut off."
                session.add(run)
            verdict = found()
            assert verdict.ok is ok and ("It was cut off." in verdict.found) is (status != "done")


def test_keys_are_listed_and_turned(scaikey: Run, web: Flask) -> None:
    def listed() -> dict[tuple[str, str], str]:
        status, out, _ = scaikey("keys", "list", "--json")
        found = [json.loads(line) for line in out.splitlines()]
        assert status == 0 and all(key["event"] == "key" and set(key) >= {"kid", "created_at"} for key in found)
        return {(key["algorithm"], key["status"]): key["kid"] for key in found if key["status"] != "retired"}

    before = listed()
    assert set(before) >= {(alg, status) for alg in ("RS256", "ES256") for status in ("current", "next")}
    status, out, _ = scaikey("keys", "rotate", "--emergency", "--json")
    turned = {line["algorithm"]: line for line in map(json.loads, out.splitlines())}
    assert status == 0 and set(turned) == {"RS256", "ES256"}
    for algorithm, told in turned.items():
        assert told["current"] == before[algorithm, "next"] and told["replaced"] == before[algorithm, "current"]
    assert listed()["RS256", "next"] == turned["RS256"]["next"]
    status, out, err = scaikey("keys", "rotate")
    assert (status, out) == (2, "") and "--emergency" in err and len(err.splitlines()) == 1
    status, out, _ = scaikey("keys", "list")
    assert status == 0 and turned["ES256"]["next"] in out
    with web.app_context():
        keys.forget()  # this run's other tests hold a ring of their own


@pytest.mark.parametrize(
    ("arguments", "environment", "complaint"),
    [
        (("doctor",), {"SCAIKEY_BASE_URL": "nonsense"}, "SCAIKEY_BASE_URL"),
        (("bootstrap",), {"SCAIKEY_SECRET_KEY": base64.b64encode(bytes(32)).decode()}, "SCAIKEY_SECRET_KEY"),
        (("bootstrap", "--email", " "), {}, "--email"),
        (("bootstrap", "--email", "ada"), {}, "--email"),
        (("bootstrap",), {"DATABASE_URL": "postgresql://scaikey_app:x@127.0.0.1:1/scaikey"}, "database"),
    ],
)
def test_what_cannot_begin_is_one_line_and_two(
    scaikey: Run, arguments: tuple[str, ...], environment: dict[str, str], complaint: str
) -> None:
    status, out, err = scaikey(*arguments, **environment)
    assert (status, out) == (2, "") and err.startswith("scaikey: ") and complaint in err and err.count("\n") == 1


def test_an_unknown_command_is_refused(scaikey: Run) -> None:
    assert scaikey("conquer")[0] == 2
    status, out, _ = scaikey("--version")
    assert status == 0 and out.startswith("scaikey ")


@pytest.mark.parametrize(
    ("refusal", "line"),
    [
        (ValidationFailed("No", errors={"userName": ["Is taken."]}), "scaikey: No; userName: Is taken.\n"),
        (VaultError("a sealed value is damaged"), "scaikey: a sealed value is damaged\n"),
    ],
)
def test_a_refusal_is_one_line_and_two(
    scaikey: Run, monkeypatch: pytest.MonkeyPatch, refusal: Exception, line: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise refusal

    monkeypatch.setattr(cli, "first_administrator", refuse)
    assert scaikey("bootstrap") == (2, "", line)


def test_an_older_postgresql_is_refused_with_one_line(scaikey: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "OLDEST_POSTGRESQL", 99)
    status, out, err = scaikey("bootstrap")
    assert (status, out) == (2, "") and err.startswith("scaikey: database: PostgreSQL ")
    assert err.endswith(" is too old. PostgreSQL 99 or newer is needed.\n") and err.count("\n") == 1
    status, out, _ = scaikey("doctor")
    assert status == 1 and "is too old" in out


def test_the_doctor_wants_the_owner_to_own_the_tables(
    scaikey: Run, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "each_provider", lambda: ())
    monkeypatch.setattr(health, "each_target", lambda: ())
    database = sa.make_url(services.owner_database_url).database
    superuser = sa.make_url(services.superuser_database_url or "").set(database=database)
    stranger = superuser.render_as_string(hide_password=False)
    status, out, _ = scaikey("doctor", SCAIKEY_OWNER_DATABASE_URL=stranger)
    assert status == 1 and out.count("broken") == 1 and "does not own" in out
