"""ScaiKey as an operator runs it, on a directory and a port of its own, and every one of its processes to kill.

Owns starting and stopping real processes, finding the victims among them, and killing them; nothing of ScaiKey runs in
the process of the test. What must hold afterwards is the tests' own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import redis

from broker.embedded.home import Home
from broker.processes import is_alive
from demo.asking import Door, Unexpected

_PATIENCE = 240.0


class Installation:
    """One data directory and what runs on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.log = folder / "scaikey.log"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.meanwhile: Callable[[], None] = lambda: None
        """Done again and again while we wait for something."""

    def start(self) -> None:
        """`scaikey up`; returns when it is ready."""
        with self.log.open("ab") as output:
            command = self.command("up", "--port", str(self.port))
            self.process = subprocess.Popen(command, env=self.environment(), stdout=output, stderr=output)
        self.wait_for("ready", self.is_ready)

    def stop(self) -> int:
        """The way Ctrl-C stops it; returns the exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(30)

    def end(self) -> None:
        """Whatever state it is in, nothing of it runs afterwards."""
        if self.process is not None and self.process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        deadline = time.monotonic() + 15
        while left := self.running():
            if time.monotonic() > deadline:
                for process in left:
                    process.kill()
            time.sleep(0.1)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "broker.cli", *arguments]

    def environment(self) -> Mapping[str, str]:
        foreign = {"DATABASE_URL", "REDIS_URL"}
        kept = {name: text for name, text in os.environ.items() if not (name in foreign or name[:8] == "SCAIKEY_")}
        return {
            **kept,
            "SCAIKEY_BASE_URL": self.base_url,
            "SCAIKEY_DATA_DIR": str(self.data_dir),
            "SCAIKEY_ALLOW_HTTP_LOOPBACK": "1",
            "SCAIKEY_LOG_FORMAT": "json",
        }

    def scaikey(self, *arguments: str) -> str:
        """One of its commands, which must succeed; returns what it printed."""
        done = subprocess.run(self.command(*arguments), env=self.environment(), capture_output=True, text=True)
        assert done.returncode == 0, f"{arguments} ended with {done.returncode}: {done.stderr}"
        return done.stdout

    def bootstrap(self) -> Door:
        """The admin API for the first super admin."""
        return Door(f"{self.base_url}/api/v1", json.loads(self.scaikey("bootstrap", "--json"))["pat"])

    def is_ready(self) -> bool:
        try:
            return Door(self.base_url).ask("GET", "/readyz").status == 200
        except Unexpected:
            return False

    def is_port_free(self) -> bool:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self.port))
            except OSError:
                return False
        return True

    def wait_for(self, what: str, true: Callable[[], bool], seconds: float = _PATIENCE) -> float:
        """Until it is so; returns how long that took."""
        began = time.monotonic()
        while not true():
            waited = time.monotonic() - began
            assert waited < seconds, f"not {what} within {seconds} s; {self.log.read_text()[-2000:]}"
            self.meanwhile()
            time.sleep(0.03)
        return time.monotonic() - began

    def running(self) -> list[psutil.Process]:
        """Every process that works for this installation: by its command line, its place, or its environment."""
        place = str(self.data_dir)
        found = []
        for process in psutil.process_iter():
            if process.pid == os.getpid():
                continue
            try:
                known = [*process.cmdline(), process.cwd(), process.environ().get("SCAIKEY_DATA_DIR", "")]
                if any(place in text for text in known) and is_alive(process):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def child(self, name: str) -> psutil.Process | None:
        """A process type of `scaikey up` by the word in its command line: granian, worker, clock."""
        assert self.process is not None
        return next((one for one in _children(self.process.pid) if name in _words(one)), None)

    def work_horse(self) -> psutil.Process | None:
        """The process that sends what is owed, while there is any."""
        worker = self.child("worker")
        found = _children(worker.pid) if worker else []
        return next((one for one in found if is_alive(one) and "--lane" not in _words(one)), None)

    def puller(self) -> psutil.Process | None:
        """The process of the lane that reads upstreams."""
        worker = self.child("worker")
        return next((one for one in _children(worker.pid) if "--lane" in _words(one)), None) if worker else None

    def pulling_horse(self) -> psutil.Process | None:
        """The process that reads upstreams, while any is due."""
        puller = self.puller()
        return next((one for one in _children(puller.pid) if is_alive(one)), None) if puller else None

    def web_workers(self) -> list[psutil.Process]:
        web = self.child("granian")
        return [one for one in _children(web.pid) if "resource_tracker" not in " ".join(_words(one))] if web else []

    def keeper(self) -> psutil.Process | None:
        place = str(self.data_dir)
        words = (({*_words(one)}, one) for one in psutil.process_iter())
        return next((one for said, one in words if {"broker.embedded.keeper", place} <= said), None)

    def servers(self) -> set[int]:
        """The keeper and everything below it, by process id."""
        keeper = self.keeper()
        return {keeper.pid, *(one.pid for one in _children(keeper.pid, recursive=True))} if keeper else set()

    def valkey(self) -> psutil.Process | None:
        return self._server("valkey-server")

    def postgres(self) -> psutil.Process | None:
        return self._server("postgres")

    def postgres_backend(self) -> psutil.Process | None:
        """One of those that serve us; when it is killed, PostgreSQL ends all of them and recovers."""
        postgres = self.postgres()
        found = _children(postgres.pid) if postgres else []
        return next((one for one in found if "postgres: scaikey_app " in " ".join(_words(one))), None)

    def _server(self, name: str) -> psutil.Process | None:
        keeper = self.keeper()
        return next((one for one in _children(keeper.pid) if one.name() == name), None) if keeper else None

    def empty_valkey(self, process: psutil.Process) -> None:
        """Kill it and take its data away: it comes back with an empty store."""
        store = redis.Redis.from_url(Home(self.data_dir).redis_url())
        store.set("marker", b"here")
        kill(process)
        for path in Home(self.data_dir).valkey.iterdir():
            shutil.rmtree(path, ignore_errors=True)

        def is_back() -> bool:
            try:
                return bool(store.ping())
            except (redis.RedisError, OSError):
                return False

        self.wait_for("Valkey is back", is_back, 20)
        assert store.get("marker") is None, "the store was not empty"
        store.close()


def kill(process: psutil.Process) -> bool:
    """`kill -9`; False when it was over already."""
    if not is_alive(process):
        return False
    process.send_signal(signal.SIGKILL)
    return True


def _children(pid: int, *, recursive: bool = False) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = psutil.Process(pid).children(recursive=recursive)
    except psutil.NoSuchProcess:
        return []
    return found


def _words(process: psutil.Process) -> list[str]:
    try:
        words: list[str] = process.cmdline()
    except psutil.Error:
        return []
    return words
