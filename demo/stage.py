"""Where the story plays: a fresh directory, ScaiKey as a newcomer starts it, and the application's SCIM receiver.

Owns the demo's files below `var/demo`, the free ports, and the start and the end of both programs: neither outlives
the demo, however that ends. ScaiKey's own data in `var` is never touched, nor is any server named in the environment.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from broker import processes

from .asking import Door, Unexpected

ROOT = Path(__file__).resolve().parent.parent
PREFERRED_PORT = 8080

_PATIENCE = 240.0
_GRACE = 25.0


class CannotPlay(Exception):
    """The demo cannot begin; the text is for whoever started it."""


@dataclass
class Program:
    """A program of the demo and where it writes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def refuse_if_ended(self) -> None:
        """Raises Unexpected with the last line of its log."""
        if self.process.poll() is not None:
            last = self.log.read_text(errors="replace").splitlines()[-1:]
            raise Unexpected(f"{self.name} ended with status {self.process.returncode}: {' '.join(last)}")

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@dataclass
class Stage:
    """The demo's directory and its programs, started one by one."""

    path: Path
    port: int
    programs: list[Program] = field(default_factory=list)

    @property
    def base_url(self) -> str:
        return f"http://localhost:{self.port}"

    @property
    def pat_file(self) -> Path:
        return self.path / "platform-admin.pat"

    @property
    def receiver_token_file(self) -> Path:
        return self.path / "receiver.token"

    def start_scaikey(self) -> None:
        command = processes.python("broker.cli", "up", "--port", str(self.port))
        self._start("ScaiKey", command, self.path / "scaikey.log")

    def scaikey(self, *arguments: str) -> str:
        """Run one of ScaiKey's commands; returns what it prints. Raises Unexpected when it fails."""
        command = processes.python("broker.cli", *arguments)
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise Unexpected(f"scaikey {' '.join(arguments)} ended with {done.returncode}: {' '.join(last)}")
        return done.stdout

    def watch_scaikey(self, *arguments: str) -> int:
        """Run one of ScaiKey's commands before the audience's eyes; returns its exit status."""
        command = processes.python("broker.cli", *arguments)
        return subprocess.run(command, env=self._environment()).returncode

    def start_receiver(self) -> Door:
        """The application's side: the test server of scim2-server, which keeps what it is sent in memory."""
        token, port = secrets.token_urlsafe(24), free_port()
        keep_secret(self.receiver_token_file, token)
        options = ("--port", str(port), f"--bearer-token={token}")  # in one word, for it may begin with a dash
        self._start(
            "The receiver", processes.python("scim2_server.testserver.cli", *options), self.path / "receiver.log"
        )
        return Door(f"http://127.0.0.1:{port}/v2", token)

    def start_upstream(self, people: Sequence[Mapping[str, str]]) -> Door:
        """acme's own identity provider: oidc-provider-mock, which knows these people and asks for no password."""
        port = free_port()
        known = [option for person in people for option in ("--user-claims", json.dumps(person))]
        options = ("--port", str(port), "--host", "localhost", *known)
        self._start(
            "The identity provider", processes.python("oidc_provider_mock", *options), self.path / "upstream.log"
        )
        return Door(f"http://localhost:{port}")

    def start_application(self, port: int, issuer: str, client_id: str, client_secret: str) -> Door:
        """The application people sign in to."""
        options = ("--port", str(port), "--issuer", issuer, f"--client-id={client_id}")
        command = processes.python("demo.application", *options)
        self._start("The application", command, self.path / "application.log", DEMO_CLIENT_SECRET=client_secret)
        return Door(f"http://localhost:{port}")

    def wait_for_answer(self, door: Door, path: str) -> None:
        """Until a GET there is answered by 200. Raises Unexpected as `wait_for` does."""

        def answers() -> bool:
            try:
                return door.ask("GET", path).status == 200
            except Unexpected:
                return False

        self.wait_for(answers)

    def wait_for(self, ready: Callable[[], bool]) -> None:
        """Until it is so. Raises Unexpected when a program ends meanwhile, or after four minutes."""
        deadline = time.monotonic() + _PATIENCE
        while not ready():
            self.refuse_if_ended()
            if time.monotonic() > deadline:
                raise Unexpected(f"not ready after {_PATIENCE:.0f} seconds; see the logs in {shown(self.path)}")
            time.sleep(0.1)

    def refuse_if_ended(self) -> None:
        for program in self.programs:
            program.refuse_if_ended()

    def end(self) -> None:
        """Nothing runs and no port is held when this returns."""
        for program in reversed(self.programs):
            program.end()

    def _start(self, name: str, command: Sequence[str], log: Path, **more: str) -> None:
        # A session of its own: Ctrl-C in the terminal is for the demo alone, which then ends the others in order.
        with log.open("ab") as output:
            started = processes.launch(
                command, death_signal=signal.SIGTERM, cwd=ROOT, env={**self._environment(), **more}, output=output
            )
        self.programs.append(Program(name, started, log))

    def _environment(self) -> Mapping[str, str]:
        foreign = {"DATABASE_URL", "REDIS_URL"}
        kept = {name: text for name, text in os.environ.items() if not (name in foreign or name[:8] == "SCAIKEY_")}
        return {
            **kept,
            "SCAIKEY_BASE_URL": self.base_url,
            "SCAIKEY_DATA_DIR": str(self.path / "data"),
            "SCAIKEY_ALLOW_HTTP_LOOPBACK": "1",
        }


@contextmanager
def set_up() -> Iterator[Stage]:
    """An empty stage; whatever was started on it has ended when the block is left. Raises CannotPlay."""
    home = ROOT / "var"
    home.mkdir(mode=0o700, exist_ok=True)
    with (home / "demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotPlay("another demo is running in this directory") from None
        stage = Stage(_emptied(home / "demo"), free_port(PREFERRED_PORT))
        try:
            yield stage
        finally:
            stage.end()


def keep_secret(path: Path, text: str) -> None:
    """Write a file that only its owner reads."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")


def shown(path: Path) -> str:
    """A path as somebody in the project's directory would type it."""
    return str(path.relative_to(ROOT))


def _emptied(path: Path) -> Path:
    if path.exists():
        # Aside first: servers of a demo that was killed may have seconds to live and files to write.
        path.rename(path.with_name(f".demo-{secrets.token_hex(4)}"))
    for aside in path.parent.glob(".demo-*"):
        shutil.rmtree(aside, ignore_errors=True)
    path.mkdir(mode=0o700)
    return path


def free_port(preferred: int = 0) -> int:
    """The preferred port when nobody listens there, or any that is free."""
    for port in (preferred, 0):
        try:
            with socket.socket(socket.AF_INET) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
                if not port or not _answers_on_ipv6(port):
                    return int(probe.getsockname()[1])
        except OSError:
            continue
    raise CannotPlay("no port is free")


def _answers_on_ipv6(port: int) -> bool:
    """Whether somebody else is what `localhost` means to a browser that asks there first."""
    try:
        socket.create_connection(("::1", port), timeout=1).close()
    except OSError:
        return False
    return True
