"""No secret reaches the log, whatever way it took; every line says who and where."""

from __future__ import annotations

import base64
import io
import json
import logging
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from broker import config, logs
from broker.config import Config, LogFormat

PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEAhunter2\nhunter2AB==\n-----END RSA PRIVATE KEY-----"
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJodW50ZXIyIn0.hunter2-signature_part"
# Every one holds the word "hunter2" inside what must not be seen, and only there.
LEAKS = [
    "Authorization: Bearer hunter2abcdefgh",
    "authorization=hunter2",
    "{'Authorization': 'Basic aHVudGVyMg==hunter2', 'Accept': '*/*'}",
    "[('Authorization', 'Bearer hunter2hunter2')]",
    "headers: {b'authorization': b'Negotiate hunter2=='}",
    "Cookie: sk-acme=hunter2; other=hunter2",
    "set-cookie: __Host-sk-acme=hunter2; Secure; HttpOnly",
    "sent Bearer hunter2.abcdefgh to the target",
    "token skt_hunter2_ABCDEFGHIJKLMNOP was refused",
    "the SCIM token sks_hunter2abcdefgh expired",
    f"got {JWT} from the client",
    PEM,
    PEM.replace("\n", "\\n"),
    PEM.replace("RSA PRIVATE", "ENCRYPTED PRIVATE"),
    PEM[:60],
    "postgresql+psycopg://scaikey_app:hunter2@db.example/scaikey",
    "redis://:hunter2@cache:6379/0 refused",
    "unix://:hunter2@/run/valkey.sock?db=0",
    "https://user:hunter2%40x@host/path",
    "password=hunter2",
    "password = hunter2, user=alice",
    "newPassword=hunter2",
    "SCAIKEY_SECRET_KEY=hunter2",
    "?client_id=x&client_secret=hunter2&grant_type=y",
    "{'password': 'hunter2'}",
    '{"password": "two words and \\"hunter2\\" quoted"}',
    '"{\\"client_secret\\": \\"hunter2\\"}"',
    '{"refresh_token":"hunter2","token_type":"Bearer"}',
    "password='pass hunter2",
    "userPassword: {SSHA}hunter2",
    "unicodePwd:: aHVudGVyMghunter2",
    "bind_password => hunter2",
    "client_assertion=hunter2",
    "code_verifier: hunter2",
    "GET /callback?code=hunter2&state=hunter2 302",
    "POST /acs?SAMLResponse=hunter2",
]
KEPT = [
    "user usr_01hv3 created in tenant tnt_01hv3",
    "basic authentication failed for bearer scheme",
    '{"token_type": "Bearer", "token_endpoint": "https://id.example/oauth/token"}',
    "https://id.example.com:8443/t/acme/sign-in?next=/apps",
    "password check took 245 ms",
    "2 tokens revoked, code=invalid_grant",
    "mail alice@acme.example to https://acme.example/",
]


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    return config.load({"SCAIKEY_DATA_DIR": str(tmp_path)})


@pytest.fixture(autouse=True)
def _unchanged_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(logs, "_known_secrets", ())
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture(params=["json", "text"])
def stream(request: pytest.FixtureRequest, settings: Config) -> io.StringIO:
    chosen: LogFormat = request.param
    written = io.StringIO()
    logs.configure(replace(settings, log_format=chosen, log_level="DEBUG"), written)
    return written


@pytest.fixture
def lines(settings: Config) -> io.StringIO:
    written = io.StringIO()
    logs.configure(replace(settings, log_format="json"), written)
    return written


log = logging.getLogger("broker.test")


def without_pytests_handlers() -> None:
    """They raise what they cannot format."""
    root = logging.getLogger()
    root.handlers[:] = [handler for handler in root.handlers if type(handler).__module__ == "broker.logs"]


@pytest.mark.parametrize("leak", LEAKS)
def test_a_secret_never_shows_by_whatever_way_it_came(stream: io.StringIO, leak: str) -> None:
    log.info(leak)
    log.info("said %s and %r", leak, {"body": leak})
    log.info("an event", extra={"detail": leak, "nested": {"list": [leak, (leak,)]}, "bytes": leak.encode()})
    try:
        try:
            raise ValueError(leak)
        except ValueError as error:
            raise RuntimeError(f"while handling {leak}") from error
    except RuntimeError:
        log.exception("it failed")
        log.error("with a stack", stack_info=True)
    with logs.bound(request_id=leak):
        log.info("bound")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(leak, stacklevel=1)
    written = stream.getvalue()
    assert logs.HIDDEN in written and "it failed" in written
    assert "hunter2" not in written


@pytest.mark.parametrize("text", KEPT)
def test_what_is_no_secret_stays(text: str) -> None:
    assert logs.redact(text) == text


@pytest.mark.parametrize(
    "name", ["password", "client_secret", "Authorization", "cookie", "accessToken", "bind-password", "private_key"]
)
def test_a_field_is_hidden_by_its_name_alone(lines: io.StringIO, name: str) -> None:
    log.info("saved", extra={name: "plain", "config": {name: ["plain"], "host": "dc1"}})
    assert "plain" not in lines.getvalue()
    assert json.loads(lines.getvalue())["config"]["host"] == "dc1"


def test_the_secrets_this_process_was_started_with_never_show(settings: Config) -> None:
    given = replace(
        settings, database_url="postgresql+psycopg://app:pl%40in-words@h/d", redis_url="redis://:otherwords@h"
    )
    written = io.StringIO()
    logs.configure(given, written)
    key = base64.b64encode(settings.secret_key).decode()
    log.warning("%s %s %s %s", "pl@in-words", "pl%40in-words", key, settings.secret_key.hex())
    log.warning("otherwords", extra={"thing": ["otherwords"]})
    assert not [s for s in ("in-words", "otherwords", key, settings.secret_key.hex()) if s in written.getvalue()]


def test_concealed_words_never_show(lines: io.StringIO) -> None:
    logs.conceal("correct horse", "correct horse battery")
    log.info("correct horse battery, correct horse")
    assert json.loads(lines.getvalue())["message"] == "***, ***"


def test_lines_carry_the_fields_of_their_unit_of_work(lines: io.StringIO) -> None:
    token = logs.bind(request_id="r1", tenant="tnt_1")
    with logs.bound(actor="usr_1"):
        log.info("inside", extra={"count": 3})
    log.info("outside")
    logs.unbind(token)
    log.info("after")
    inside, outside, after = map(json.loads, lines.getvalue().splitlines())
    assert {
        name: inside[name] for name in ("request_id", "tenant", "actor", "count", "message", "level", "logger")
    } == {
        "request_id": "r1",
        "tenant": "tnt_1",
        "actor": "usr_1",
        "count": 3,
        "message": "inside",
        "level": "info",
        "logger": "broker.test",
    }
    assert "actor" not in outside and outside["tenant"] == "tnt_1"
    assert "request_id" not in after


def test_fields_of_one_thread_do_not_show_in_another(lines: io.StringIO) -> None:
    with logs.bound(request_id="mine"):
        thread = threading.Thread(target=lambda: log.info("other"))
        thread.start()
        thread.join()
    assert "request_id" not in json.loads(lines.getvalue())


def test_a_field_cannot_replace_what_the_record_says(lines: io.StringIO) -> None:
    with logs.bound(level="forged", logger="forged"):
        log.info("true")
    line = json.loads(lines.getvalue())
    assert (line["level"], line["logger"]) == ("info", "broker.test")


def test_nobody_forges_a_line(stream: io.StringIO) -> None:
    with logs.bound(actor="eve\n2026-01-01 INFO forged"):
        log.info("name: %s", "eve\r\n2026-01-01 INFO forged\x1b[2J\u2028")
    written = stream.getvalue()
    assert written.count("\n") == 1 and "\x1b" not in written and "\r" not in written


def test_text_shows_an_exception_below_its_line(settings: Config) -> None:
    written = io.StringIO()
    logs.configure(settings, written)
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("it failed", extra={"run": "run_1"})
    first, *rest = written.getvalue().splitlines()
    assert first.endswith("ERROR   broker.test: it failed run=run_1")
    assert rest[-1] == "    ValueError: broken" and all(line.startswith("    ") for line in rest)


def test_arguments_that_do_not_fit_lose_neither_the_line_nor_a_secret(
    stream: io.StringIO, capfd: pytest.CaptureFixture[str]
) -> None:
    without_pytests_handlers()
    log.info("%d people with password=hunter2", "password=hunter2")
    shown = stream.getvalue() + "".join(capfd.readouterr())
    assert "people with" in shown and "TypeError" in shown and "hunter2" not in shown


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("hunter2")

    __repr__ = __str__


def test_a_value_that_cannot_be_shown_costs_one_plain_line(
    stream: io.StringIO, capfd: pytest.CaptureFixture[str]
) -> None:
    without_pytests_handlers()
    log.info("event", extra={"thing": Unprintable()})
    log.info("next")
    errors = "".join(capfd.readouterr())
    assert "a log record of broker.test" in errors and "RuntimeError" in errors
    assert "hunter2" not in errors + stream.getvalue() and "next" in stream.getvalue()


def test_lone_surrogates_and_other_scripts_are_written(settings: Config, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w", encoding="utf-8") as file:
        logs.configure(replace(settings, log_format="json"), file)
        log.info("王小明 \ud800")
    assert "王小明 \\ud800" in (tmp_path / "log").read_text(encoding="utf-8")


def test_an_uncaught_exception_is_logged_without_its_secrets(settings: Config) -> None:
    environ = {"SCAIKEY_DATA_DIR": str(settings.data_dir), "SCAIKEY_LOG_FORMAT": "json"}
    program = (
        f"import sys, threading; from broker import config, logs; logs.configure(config.load({environ}))\n"
        "def fail(): raise RuntimeError('password=hunter2')\n"
        "thread = threading.Thread(target=fail); thread.start(); thread.join(); fail()"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    said = [json.loads(line) for line in ended.stderr.splitlines()]
    assert ended.returncode == 1
    assert [line["level"] for line in said] == ["critical", "critical"]
    assert all("RuntimeError: password=***" in line["exception"] for line in said)


def test_a_huge_message_is_cut_and_costs_little(lines: io.StringIO) -> None:
    started = time.monotonic()
    for hostile in ("a." * 500_000, "password" * 100_000, "eyJaaaaaaaa." * 80_000, "-----BEGIN " * 90_000):
        log.info(hostile)
    assert time.monotonic() - started < 2.0
    assert all(len(line) < 110_000 for line in lines.getvalue().splitlines())


def test_the_level_is_kept(settings: Config) -> None:
    written = io.StringIO()
    logs.configure(replace(settings, log_level="WARNING"), written)
    log.info("quiet")
    log.warning("loud")
    assert "quiet" not in written.getvalue() and "loud" in written.getvalue()
