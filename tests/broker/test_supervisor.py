"""`scaikey up` starts everything in order, keeps it up, and leaves nothing behind however it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from broker import config, embedded, supervisor

pytestmark = pytest.mark.long

PROGRAM = """
import json, os, sys
from broker import config, supervisor
from broker.supervisor import Child
import psycopg

def migrate(settings):
    with psycopg.connect(settings.owner_database_url.replace("+psycopg", "")) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS migrated ()")
    print("migrated", flush=True)

supervisor._FIRST_PAUSE = float(os.environ.get("FIRST_PAUSE", supervisor._FIRST_PAUSE))
host, port, children = json.loads(sys.argv[1])
children = [Child(name, [sys.executable, "-c", code, str(port)]) for name, code in children]
try:
    sys.exit(supervisor.run(config.load(), host, port, migrate=migrate, children=children))
except supervisor.CannotRun as error:
    sys.exit(f"cannot run: {error}")
"""

# A web server whose worker left the process group, ignores SIGTERM and holds the port, as an RQ work-horse might.
# Each says a line in one write: `print` writes a line in parts, and the other process writes into the same pipe.
STUBBORN = """
import os, signal, sys, time
from http.server import HTTPServer, BaseHTTPRequestHandler
server = HTTPServer(("127.0.0.1", int(sys.argv[1])), BaseHTTPRequestHandler)
if os.fork() == 0:
    os.setpgrp()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server.serve_forever()
os.write(1, b"web up %d\\n" % os.getpid())
time.sleep(600)
"""
IDLE = "import os, time; os.write(1, b'idle up %d\\n' % os.getpid()); time.sleep(600)"


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("seed")
    embedded.start(config.load({"SCAIKEY_DATA_DIR": str(path)}), durable=False).stop()
    return path


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Up:
    """One `scaikey up` of dummy children, its output read line by line."""

    def __init__(self, data_dir: Path, port: int, children: list[tuple[str, str]], **environ: str) -> None:
        self.data_dir = data_dir
        self.lines: list[str] = []
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SCAIKEY")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps(["127.0.0.1", port, children])],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment | {"SCAIKEY_DATA_DIR": str(data_dir)} | environ,
        )

    def until(self, words: str) -> str:
        """Read on to the line that holds these words."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if words in line:
                return line.rstrip("\n")
        raise AssertionError(f"ended with {self.process.wait()} before saying {words!r}: {self.lines}")

    def web(self) -> int:
        """The process of the web child, once it says so."""
        return int(self.until("web up").split()[-1])

    def rest(self) -> int:
        assert self.process.stdout is not None
        self.lines += self.process.stdout.read().splitlines()
        return self.process.wait(20)

    def everything(self) -> list[int]:
        """All processes of this run: our children, theirs, and the keeper's."""
        keeper = [
            process
            for process in psutil.process_iter(["cmdline"])
            if str(self.data_dir) in (process.info["cmdline"] or ())
            and "broker.embedded.keeper" in process.info["cmdline"]
        ]
        roots = [psutil.Process(self.process.pid), *keeper]
        found = [p.pid for root in roots for p in (root, *root.children(recursive=True))]
        assert len(keeper) == 1 and len(found) > 8
        return found


@pytest.fixture
def start(tmp_path: Path, seed: Path, port: int) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []
    shutil.copytree(seed, tmp_path / "data", ignore=shutil.ignore_patterns("run"))

    def begin(*children: tuple[str, str], **environ: str) -> Up:
        started.append(Up(tmp_path / "data", port, list(children), **environ))
        return started[-1]

    yield begin
    for up in started:
        if up.process.poll() is None:
            up.process.terminate()
        up.process.communicate(timeout=30)


def is_up(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def test_services_migrations_and_children_start_in_this_order(start: Callable[..., Up]) -> None:
    up = start(("web", STUBBORN), ("clock", IDLE))
    for words in ("ready at http://localhost:8080", "web    | web up", "clock  | idle up"):
        if not any(words in line for line in up.lines):
            up.until(words)
    assert up.lines[0] == "migrated"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_everything_cleanly(start: Callable[..., Up], port: int, signum: int) -> None:
    up = start(("web", STUBBORN.replace("SIG_IGN", "SIG_DFL")), ("worker", IDLE))
    up.until("ready at")
    everything = up.everything()
    up.process.send_signal(signum)
    assert up.rest() == 0
    wait_until(lambda: not any(map(is_up, everything)), 1.0)
    assert is_free(port)
    log = (up.data_dir / "embedded" / "postgres.log").read_text()
    assert log.rstrip().endswith("database system is shut down")


def test_children_stop_before_the_servers_they_use(start: Callable[..., Up]) -> None:
    last_words = """
import os, psycopg, redis, signal, sys, time
def leave(*_):
    with psycopg.connect(os.environ["DATABASE_URL"].replace("+psycopg", "")) as connection:
        print("still here:", connection.execute("SELECT current_user").fetchone()[0])
    print("still here:", redis.Redis.from_url(os.environ["REDIS_URL"]).ping())
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
print("listening", flush=True)
time.sleep(600)
"""
    up = start(("worker", last_words))
    up.until("listening")
    up.process.terminate()
    assert up.rest() == 0
    assert up.lines[-2:] == ["worker | still here: scaikey_app", "worker | still here: True"]


def test_killing_it_ends_every_process_and_the_next_one_starts_on_the_same_data(
    start: Callable[..., Up], port: int
) -> None:
    up = start(("web", STUBBORN), ("worker", IDLE))
    up.until("ready at")
    everything = up.everything()
    up.process.kill()
    wait_until(lambda: not any(map(is_up, everything)), 10.0)
    assert is_free(port)
    start(("web", STUBBORN)).until("ready at")


def test_killing_it_with_its_watchdog_still_stops_servers_and_well_behaved_children(start: Callable[..., Up]) -> None:
    up = start(("worker", IDLE))
    up.until("idle up")
    everything = up.everything()
    watchdog = next(
        child.pid for child in psutil.Process(up.process.pid).children() if "broker.processes" in child.cmdline()
    )
    os.kill(watchdog, signal.SIGKILL)
    up.process.kill()
    wait_until(lambda: not any(map(is_up, everything)), 10.0)


def test_a_crashed_child_is_started_again_and_what_it_left_is_ended(start: Callable[..., Up], port: int) -> None:
    up = start(("web", STUBBORN))
    first = up.web()
    [left] = [child.pid for child in psutil.Process(first).children()]
    os.kill(first, signal.SIGKILL)
    up.until("web ended with status -9; starting it again in 0.5 s")
    assert up.web() != first
    assert not is_up(left) and not is_free(port)


def test_a_child_that_keeps_crashing_ends_the_run(start: Callable[..., Up]) -> None:
    up = start(("worker", "raise SystemExit('no such queue, password=hunter2')"), ("clock", IDLE), FIRST_PAUSE="0.02")
    assert up.rest() == 1
    assert sum(line == "worker | no such queue, password=***" for line in up.lines) == 6
    pauses = [line.split("again in ")[1] for line in up.lines if "starting it again" in line]
    assert pauses == ["0.02 s", "0.04 s", "0.08 s", "0.16 s", "0.32 s"]
    assert any("worker ended 6 times in a row, now with status 1; stopping" in line for line in up.lines)


def test_a_killed_watchdog_is_replaced(start: Callable[..., Up]) -> None:
    up = start(("worker", IDLE))
    up.until("idle up")

    def watchdogs() -> list[int]:
        return [p.pid for p in psutil.Process(up.process.pid).children() if "broker.processes" in p.cmdline()]

    [first] = watchdogs()
    os.kill(first, signal.SIGKILL)
    up.until("the watchdog is gone; starting it again")
    wait_until(lambda: watchdogs() not in ([], [first]))


def test_killed_servers_come_back_under_the_same_urls(start: Callable[..., Up]) -> None:
    asking = """
import os, psycopg, time
while True:
    try:
        with psycopg.connect(os.environ["DATABASE_URL"].replace("+psycopg", ""), autocommit=True) as connection:
            [since] = connection.execute("SELECT pg_postmaster_start_time()::text").fetchone()
            print("reached server", since, flush=True)
    except psycopg.OperationalError:
        print("no server", flush=True)
    time.sleep(0.1)
"""
    up = start(("worker", asking))
    first = up.until("reached server")
    keeper = next(p for p in psutil.process_iter(["cmdline"]) if str(up.data_dir) in (p.info["cmdline"] or ()))
    keeper.kill()
    up.until("no server")
    assert up.until("reached server") != first


def test_a_second_signal_ends_the_stubborn_at_once(start: Callable[..., Up]) -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(99)"
    )
    up = start(("worker", stubborn))
    up.until("deaf")
    up.process.send_signal(signal.SIGINT)
    time.sleep(1.2)
    assert up.process.poll() is None
    asked_again = time.monotonic()
    up.process.send_signal(signal.SIGINT)
    up.rest()
    assert time.monotonic() - asked_again < 4.0
    assert any("asked again" in line for line in up.lines)


def test_a_taken_port_is_refused_before_anything_starts(start: Callable[..., Up], port: int) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        up = start(("worker", IDLE))
        assert up.rest() == 1
    assert up.lines == [f"cannot run: cannot listen on 127.0.0.1 port {port}: Address already in use"]


def test_servers_that_cannot_start_are_said_in_one_line(start: Callable[..., Up], tmp_path: Path) -> None:
    (tmp_path / "data" / "embedded" / "postgres" / "PG_VERSION").write_text("9\n")
    up = start(("worker", IDLE))
    assert up.rest() == 1
    assert len(up.lines) == 1 and "was made by PostgreSQL 9" in up.lines[0]


def test_json_lines_of_children_keep_their_shape_and_other_lines_get_one(start: Callable[..., Up]) -> None:
    speaks = (
        'import time; print(\'{"level": "info", "message": "mine"}\\nplain token=hunter2\', flush=True); time.sleep(99)'
    )
    up = start(("worker", speaks), SCAIKEY_LOG_FORMAT="json")
    assert json.loads(up.until("mine")) == {"process": "worker", "level": "info", "message": "mine"}
    assert json.loads(up.until("plain")) == {"process": "worker", "message": "plain token=***"}


def test_children_get_the_configuration_and_no_role_they_have_no_use_for_is_missing(start: Callable[..., Up]) -> None:
    speaks = (
        "import time; from broker import config; c = config.load(); "
        "print('all urls:', None not in (c.database_url, c.owner_database_url, c.platform_database_url, c.redis_url), "
        "c.base_url, c.data_dir, c.log_level, flush=True); time.sleep(99)"
    )
    up = start(("worker", speaks), SCAIKEY_BASE_URL="http://localhost:9", SCAIKEY_LOG_LEVEL="debug")
    assert up.until("all urls").endswith(f"all urls: True http://localhost:9 {up.data_dir} DEBUG")


def test_the_procfile_names_the_same_process_types() -> None:
    lines = (Path(supervisor.__file__).parent.parent / "Procfile").read_text().splitlines()
    procfile = {name: command for name, _, command in (line.partition(": ") for line in lines)}
    assert list(procfile) == [child.name for child in supervisor.process_types("127.0.0.1", 1)]
    for option in ("--interface wsgi", "--workers 2", "--blocking-threads 12"):
        assert option in procfile["web"] and option in " ".join(supervisor.web_command("127.0.0.1", 1))
