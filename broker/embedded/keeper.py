"""The keeper: the one process that runs the embedded servers of a data directory (`python -m broker.embedded.keeper`).

Everybody who uses the servers holds a lease, a connection to the keeper; the kernel closes it when the holder
dies, however it dies. With the last lease gone the keeper stops both servers and exits, within ten seconds.
A server that crashes is started again. Clients are `broker.embedded`; the servers' own ways are `postgres` and
`valkey`.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import psutil

from broker import processes
from broker.embedded.home import Home
from broker.embedded.postgres import Postgres
from broker.embedded.valkey import Valkey

_RESTARTS = 5
_RESTART_WINDOW = 60.0
_START_PATIENCE = 120.0  # a crashed PostgreSQL replays its log before it is ready


class Server(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def stop_signals(self) -> tuple[tuple[int, float], ...]: ...

    def prepare(self) -> None: ...
    def launch(self, log: Path) -> subprocess.Popen[bytes]: ...
    def is_ready(self) -> bool: ...
    def settle(self) -> None: ...


_KINDS: dict[str, Callable[[Home, processes.Account | None, bool], Server]] = {"postgres": Postgres, "valkey": Valkey}


class _Abandoned(Exception):
    """Nobody waits for the servers any more, or they cannot be kept up."""


class Keeper:
    """Serves leases until there is none."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._servers: dict[str, Server] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._restarts: deque[float] = deque(maxlen=_RESTARTS)
        self._selector = selectors.DefaultSelector()
        self._leases: dict[socket.socket, bytes] = {}
        self._requests: deque[tuple[socket.socket, bytes]] = deque()
        self._last: socket.socket | None = None
        self._told_to_stop = False

    def run(self, first: socket.socket) -> None:
        """Serve `first` and whoever connects. Returns when both servers are stopped."""
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, self._tell_to_stop)
        self._home.control.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self._home.control))
        listener.listen(64)
        self._selector.register(listener, selectors.EVENT_READ)
        self._admit(first)
        try:
            while self._is_wanted():
                self._turn(1.0)
                while self._requests:
                    self._serve(*self._requests.popleft())
                self._revive()
        except _Abandoned:
            pass
        finally:
            # Out of reach first: who comes now finds no keeper and starts the next one.
            self._home.control.unlink(missing_ok=True)
            listener.close()
            self._stop_servers()

    def _is_wanted(self) -> bool:
        return bool(self._leases) and not self._told_to_stop

    def _tell_to_stop(self, *_: object) -> None:
        self._told_to_stop = True

    def _admit(self, lease: socket.socket) -> None:
        lease.setblocking(False)
        self._leases[lease] = b""
        self._selector.register(lease, selectors.EVENT_READ)

    def _turn(self, timeout: float) -> None:
        """Take in what clients send; the last one to leave is not answered before the servers are down."""
        for key, _ in self._selector.select(timeout):
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            if connection not in self._leases:
                self._admit(connection.accept()[0])
                continue
            try:
                received = connection.recv(4096)
            except OSError:
                received = b""
            if received:
                self._leases[connection] += received
                if b"\n" in self._leases[connection]:
                    self._requests.append((connection, self._leases[connection]))
                    self._leases[connection] = b""
                continue
            self._selector.unregister(connection)
            del self._leases[connection]
            if self._leases:
                connection.close()
            else:
                self._last = connection  # our exit closes it: its holder waits for that

    def _serve(self, lease: socket.socket, request: bytes) -> None:
        answer: dict[str, object]
        try:
            asked = json.loads(request)
            self._ensure(asked["services"], asked["durable"])
            pids = {name: process.pid for name, process in self._running.items()}
            answer = {"pids": {"keeper": os.getpid(), **pids}}
        except OSError as error:
            answer = {"error": str(error)}
        try:
            lease.sendall(json.dumps(answer).encode() + b"\n")
        except OSError:
            return  # it left; the next turn sees that

    def _ensure(self, services: list[str], durable: bool) -> None:
        missing = [name for name in services if name not in self._running]
        account = processes.server_account()
        for name in missing:
            self._servers[name] = _KINDS[name](self._home, account, durable)
        try:
            self._start([self._servers[name] for name in missing])
        except OSError:
            for name in missing:
                self._stop(name)
                del self._servers[name]
            raise

    def _start(self, servers: list[Server]) -> None:
        """Launch them side by side and wait until each is ready."""
        logs: dict[str, tuple[Path, int]] = {}
        for server in servers:
            server.prepare()
            log = self._home.log(server.name)
            logs[server.name] = log, log.stat().st_size
            self._running[server.name] = server.launch(log)
        deadline = time.monotonic() + _START_PATIENCE
        for server in servers:
            while not server.is_ready():
                log, start = logs[server.name]
                if self._running[server.name].poll() is not None:
                    raise OSError(f"{server.name} did not start: {_tail(log, start)}")
                if time.monotonic() > deadline:
                    raise OSError(f"{server.name} was not ready in {_START_PATIENCE:.0f} s: {_tail(log, start)}")
                self._turn(0.02)
                if not self._is_wanted():
                    raise _Abandoned
            server.settle()

    def _revive(self) -> None:
        """Start again what crashed; give up, and with us every client's lease, when it keeps crashing."""
        dead = [name for name, process in self._running.items() if process.poll() is not None]
        for name in dead:
            now = time.monotonic()
            _say(f"{name} ended by itself ({self._running[name].returncode})")
            if len(self._restarts) == _RESTARTS and now - self._restarts[0] < _RESTART_WINDOW:
                _say(f"giving up after {_RESTARTS} restarts in {_RESTART_WINDOW:.0f} s")
                raise _Abandoned
            self._restarts.append(now)
            try:
                self._start([self._servers[name]])
            except OSError as error:
                _say(str(error))
                raise _Abandoned from None

    def _stop_servers(self) -> None:
        for name in ("valkey", "postgres"):
            self._stop(name)

    def _stop(self, name: str) -> None:
        process = self._running.pop(name, None)
        if process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            server = psutil.Process(process.pid)
            its_own = server.children(recursive=True)
            processes.end([server], *self._servers[name].stop_signals)
            # One that was still writing when patience ended would outlive a server that was killed.
            processes.end(its_own)
        process.wait()


def _say(text: str) -> None:
    print(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), text, file=sys.stderr, flush=True)


def _tail(log: Path, start: int) -> str:
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").strip().splitlines()
    return " | ".join(lines[-6:]) or f"nothing in {log}"


def main(data_dir: str) -> None:
    # Nobody's child: whoever started us may leave while others still hold leases.
    if os.fork():
        os._exit(0)
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]  # meant for other connections than the one that sets up the roles
    home = Home(Path(data_dir))
    first = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    keeper = Keeper(home)
    with home.lock("keeper", patience=0.0):
        try:
            keeper.run(first)
        finally:
            home.forget_sockets()


if __name__ == "__main__":
    main(sys.argv[1])
