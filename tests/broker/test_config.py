"""The environment is read once; every wrong value stops the start with a line that names its variable."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path

import pytest

from broker import config
from broker.config import ConfigError, EgressRule, load

KEY = base64.b64encode(bytes(range(32))).decode()
TENANT = "tnt_0" + "1" * 25
URLS = {
    "DATABASE_URL": "postgresql://app:apw@db.example/scaikey",
    "SCAIKEY_OWNER_DATABASE_URL": "postgres://owner:opw@db.example/scaikey",
    "SCAIKEY_PLATFORM_DATABASE_URL": "postgresql+psycopg://platform:ppw@db.example/scaikey",
}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_an_empty_environment_gives_the_documented_defaults(data_dir: Path) -> None:
    got = load({"SCAIKEY_DATA_DIR": str(data_dir), "DATABASE_URL": "", "SCAIKEY_LOG_FORMAT": " "})
    assert (got.database_url, got.owner_database_url, got.platform_database_url, got.redis_url) == (None,) * 4
    assert got.base_url == "http://localhost:8080"
    assert got.data_dir == data_dir
    assert not got.allow_http_loopback and not got.metrics_enabled
    assert got.egress_allow == () and got.trusted_proxies == ()
    assert (got.log_level, got.log_format) == ("INFO", "text")


def test_the_data_directory_is_relative_to_where_the_process_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load({}).data_dir == tmp_path / "var"


def test_every_value_is_read(data_dir: Path) -> None:
    got = load(
        URLS
        | {
            "REDIS_URL": "rediss://:pw@cache.example:6380/1",
            "SCAIKEY_BASE_URL": "https://ID.Example.com:443/",
            "SCAIKEY_DATA_DIR": str(data_dir),
            "SCAIKEY_SECRET_KEY": KEY,
            "SCAIKEY_EGRESS_ALLOW": f"{TENANT}=10.1.0.0/16:636, *=[fd00::/8]:443,",
            "SCAIKEY_TRUSTED_PROXIES": "10.0.0.1,192.168.0.0/24",
            "SCAIKEY_LOG_LEVEL": "debug",
            "SCAIKEY_LOG_FORMAT": "JSON",
            "SCAIKEY_METRICS": "1",
        }
    )
    assert got.database_url == "postgresql+psycopg://app:apw@db.example/scaikey"
    assert got.owner_database_url == "postgresql+psycopg://owner:opw@db.example/scaikey"
    assert got.platform_database_url == "postgresql+psycopg://platform:ppw@db.example/scaikey"
    assert got.redis_url == "rediss://:pw@cache.example:6380/1"
    assert got.base_url == "https://id.example.com"
    assert got.secret_key == bytes(range(32))
    assert got.egress_allow == (
        EgressRule(TENANT, ip_network("10.1.0.0/16"), 636),
        EgressRule("*", ip_network("fd00::/8"), 443),
    )
    assert got.trusted_proxies == (ip_network("10.0.0.1/32"), ip_network("192.168.0.0/24"))
    assert (got.log_level, got.log_format, got.metrics_enabled) == ("DEBUG", "json", True)
    assert not data_dir.exists(), "nothing is to be kept, so nothing is made"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SCAIKEY_BASE_URL", "id.example.com"),
        ("SCAIKEY_BASE_URL", "http://id.example.com"),
        ("SCAIKEY_BASE_URL", "https://id.example.com/sso"),
        ("SCAIKEY_BASE_URL", "https://id.example.com?x=1"),
        ("SCAIKEY_BASE_URL", "https://me:pw@id.example.com"),
        ("SCAIKEY_BASE_URL", "https://id.example.com:99999"),
        ("SCAIKEY_BASE_URL", "https://[::1"),
        ("SCAIKEY_BASE_URL", "https://a..b"),
        ("SCAIKEY_ALLOW_HTTP_LOOPBACK", "maybe"),
        ("SCAIKEY_METRICS", "2"),
        ("SCAIKEY_SECRET_KEY", "not base64!"),
        ("SCAIKEY_SECRET_KEY", base64.b64encode(b"short").decode()),
        ("SCAIKEY_EGRESS_ALLOW", "10.0.0.0/8:443"),
        ("SCAIKEY_EGRESS_ALLOW", "tnt_x=10.0.0.0/8:443"),
        ("SCAIKEY_EGRESS_ALLOW", "*=10.0.0.0/8"),
        ("SCAIKEY_EGRESS_ALLOW", "*=10.0.0.1/8:443"),
        ("SCAIKEY_EGRESS_ALLOW", "*=10.0.0.0/8:0"),
        ("SCAIKEY_EGRESS_ALLOW", "*=10.0.0.0/8:65536"),
        ("SCAIKEY_EGRESS_ALLOW", "*=10.0.0.0/8:https"),
        ("SCAIKEY_TRUSTED_PROXIES", "proxy.example"),
        ("SCAIKEY_LOG_LEVEL", "loud"),
        ("SCAIKEY_LOG_FORMAT", "xml"),
        ("REDIS_URL", "http://cache.example"),
        ("REDIS_URL", "redis:///0"),
        ("REDIS_URL", "unix://"),
    ],
)
def test_a_wrong_value_is_one_line_naming_the_variable(data_dir: Path, variable: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({"SCAIKEY_DATA_DIR": str(data_dir), variable: value})
    assert caught.value.variable == variable
    assert str(caught.value).startswith(f"{variable}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", URLS)
def test_two_of_three_database_urls_are_refused(data_dir: Path, missing: str) -> None:
    urls = {name: url for name, url in URLS.items() if name != missing}
    with pytest.raises(ConfigError, match=f"^{missing}: is missing"):
        load(urls | {"SCAIKEY_DATA_DIR": str(data_dir)})


@pytest.mark.parametrize(
    "url",
    ["mysql://app:hunter2@h/d", "postgresql://h/d", "postgresql://app:hunter2@h", "postgresql://app:hunter2@[h/d"],
)
def test_a_wrong_database_url_is_refused_without_showing_its_password(data_dir: Path, url: str) -> None:
    with pytest.raises(ConfigError, match=r"^DATABASE_URL: ") as caught:
        load(URLS | {"DATABASE_URL": url, "SCAIKEY_DATA_DIR": str(data_dir)})
    assert "hunter2" not in str(caught.value)


def test_the_application_must_not_connect_as_the_owner(data_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"^SCAIKEY_OWNER_DATABASE_URL: must name another role than DATABASE_URL"):
        load(URLS | {"SCAIKEY_OWNER_DATABASE_URL": URLS["DATABASE_URL"], "SCAIKEY_DATA_DIR": str(data_dir)})


@pytest.mark.parametrize("base", ["http://localhost:8080", "http://127.0.0.9", "http://[::1]:1", "https://a.localhost"])
def test_plain_http_is_allowed_when_the_base_url_is_on_loopback(data_dir: Path, base: str) -> None:
    got = load({"SCAIKEY_DATA_DIR": str(data_dir), "SCAIKEY_BASE_URL": base, "SCAIKEY_ALLOW_HTTP_LOOPBACK": "1"})
    assert got.allow_http_loopback and got.base_url == base


@pytest.mark.parametrize(
    "base", ["https://id.example.com", "https://localhost.example.com", "https://127.0.0.1.nip.io"]
)
def test_plain_http_is_refused_when_the_base_url_is_public(data_dir: Path, base: str) -> None:
    with pytest.raises(ConfigError, match=r"^SCAIKEY_ALLOW_HTTP_LOOPBACK: "):
        load({"SCAIKEY_DATA_DIR": str(data_dir), "SCAIKEY_BASE_URL": base, "SCAIKEY_ALLOW_HTTP_LOOPBACK": "1"})


def test_the_secret_key_is_made_once_and_kept_private(data_dir: Path) -> None:
    first = load({"SCAIKEY_DATA_DIR": str(data_dir)}).secret_key
    second = load({"SCAIKEY_DATA_DIR": str(data_dir)}).secret_key
    assert len(first) == 32 and first == second
    assert stat.S_IMODE((data_dir / config.SECRET_KEY_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    assert os.listdir(data_dir) == [config.SECRET_KEY_FILE]


def test_processes_starting_at_once_agree_on_one_secret_key(data_dir: Path) -> None:
    program = f"import broker.config as c; print(c.load({{'SCAIKEY_DATA_DIR': {str(data_dir)!r}}}).secret_key.hex())"
    running = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(6)]
    keys = {process.communicate(timeout=30)[0] for process in running}
    assert len(keys) == 1 and len(keys.pop().strip()) == 64
    assert os.listdir(data_dir) == [config.SECRET_KEY_FILE]


def test_a_secret_key_others_may_read_is_refused(data_dir: Path) -> None:
    load({"SCAIKEY_DATA_DIR": str(data_dir)})
    (data_dir / config.SECRET_KEY_FILE).chmod(0o644)
    with pytest.raises(ConfigError, match=r"^SCAIKEY_SECRET_KEY: .*chmod 600"):
        load({"SCAIKEY_DATA_DIR": str(data_dir)})


def test_a_damaged_secret_key_is_refused_rather_than_replaced(data_dir: Path) -> None:
    load({"SCAIKEY_DATA_DIR": str(data_dir)})
    (data_dir / config.SECRET_KEY_FILE).write_text("AAAA\n")
    with pytest.raises(ConfigError, match=r"^SCAIKEY_SECRET_KEY: "):
        load({"SCAIKEY_DATA_DIR": str(data_dir)})
    assert (data_dir / config.SECRET_KEY_FILE).read_text() == "AAAA\n"


def test_a_data_directory_left_open_is_closed(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o755)
    load({"SCAIKEY_DATA_DIR": str(data_dir)})
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700


def test_a_directory_everybody_writes_to_is_refused(data_dir: Path) -> None:
    data_dir.mkdir()
    data_dir.chmod(0o1777)
    with pytest.raises(ConfigError, match=r"^SCAIKEY_DATA_DIR: "):
        load({"SCAIKEY_DATA_DIR": str(data_dir)})
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o1777


def test_a_data_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"^SCAIKEY_DATA_DIR: "):
        load({"SCAIKEY_DATA_DIR": str(tmp_path / "file" / "data")})


def test_the_configuration_shows_no_secret_when_printed(data_dir: Path) -> None:
    environ = URLS | {
        "REDIS_URL": "redis://:rpw@h",
        "SCAIKEY_SECRET_KEY": KEY,
        "SCAIKEY_DATA_DIR": str(data_dir),
    }
    shown = repr(load(environ))
    assert "log_level='INFO'" in shown
    for secret in ("apw", "opw", "ppw", "rpw", KEY, repr(bytes(range(32)))):
        assert secret not in shown
