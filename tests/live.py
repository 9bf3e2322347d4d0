"""ScaiKey in two web processes on the suite's servers, and connections of which it is known who answers them.

The Procfile's own line starts them, so that what one process remembers cannot hide what another has changed. Whoever
tests what ends at once, or what every process must know, asks each of the two by a `Line` of its own.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import psutil
from flask import Flask

from broker.config import Config
from broker.context import Scope
from demo.asking import Door, Unexpected
from tests.casting import give_role, make_token, make_user
from tests.parties.house import House

ROOT = Path(__file__).resolve().parent.parent
PROCESSES = 2

_PATIENCE = 180.0
_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class Reply:
    """An answer, with when it was asked for and when it was there (`time.monotonic`)."""

    status: int
    headers: Mapping[str, str]
    text: str
    begun: float
    received: float

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def location(self) -> str:
        return self.headers.get("location", "")


class Line:
    """A connection that is kept, and answered by one process the whole time."""

    def __init__(self, base_url: str, pid: int | None = None) -> None:
        """`pid` None: whichever process."""
        self.base_url = base_url
        self.pid = pid
        self._connection: http.client.HTTPConnection | None = None

    def ask(
        self,
        method: str,
        url: str,
        *,
        token: str | None = None,
        basic: tuple[str, str] | None = None,
        form: Mapping[str, str] | None = None,
        body: Any = None,
        cookies: Mapping[str, str] | None = None,
    ) -> Reply:
        """`url` is a path, or an address of this installation."""
        headers = {"Accept": "application/json, application/scim+json, text/html;q=0.9"}
        content = None
        if form is not None:
            content, headers["Content-Type"] = urlencode(form).encode(), _FORM
        elif body is not None:
            content, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        elif basic is not None:
            headers["Authorization"] = "Basic " + base64.b64encode(":".join(basic).encode()).decode()
        if cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
        path = url.removeprefix(self.base_url)
        began, connection = self._sent(method, path, content, headers)
        response = connection.getresponse()
        text = response.read().decode()
        received = time.monotonic()
        if connection.sock is None:
            self.close()
        said = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, said, text, began, received)

    def _sent(
        self, method: str, path: str, content: bytes | None, headers: dict[str, str]
    ) -> tuple[float, http.client.HTTPConnection]:
        """A connection that rested may have been closed at the other end, which then has not read what was asked."""
        try:
            began, connection = time.monotonic(), self._held()
            connection.request(method, path, content, headers)
        except (BrokenPipeError, ConnectionResetError):
            self.close()
            began, connection = time.monotonic(), self._held()
            connection.request(method, path, content, headers)
        return began, connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _held(self) -> http.client.HTTPConnection:
        """Which process takes a new connection is the kernel's choice: it is asked until it chose ours."""
        deadline = time.monotonic() + _PATIENCE
        while self._connection is None:
            assert time.monotonic() < deadline, f"process {self.pid} takes no connection"
            connection = http.client.HTTPConnection(urlsplit(self.base_url).netloc, timeout=60)
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            if self.pid is None or (connection.sock and _is_taken_by(self.pid, connection.sock.getsockname())):
                self._connection = connection
            else:
                connection.close()
        return self._connection


@dataclass(frozen=True)
class Live:
    """The running installation, and the ids of its two processes."""

    house: House
    pids: tuple[int, ...]

    def lines(self) -> tuple[Line, ...]:
        """A new line to each process."""
        return tuple(Line(self.house.base_url, pid) for pid in self.pids)


@contextmanager
def live(web: Flask, settings: Config, platform: Scope, log: Path, *, factory: str | None = None) -> Iterator[Live]:
    """The two processes on the servers of `settings`' data directory, which run already. `factory` makes another app
    of theirs, as `module:function`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    base_url = f"http://127.0.0.1:{port}"
    with web.app_context():
        administrator = make_user(platform)
        give_role(platform, administrator, "super_admin", None)
        house = House(base_url, make_token(platform, administrator), platform.tenant_id or "")
    foreign = {"DATABASE_URL", "REDIS_URL"}
    kept = {name: text for name, text in os.environ.items() if not (name in foreign or name[:8] == "SCAIKEY_")}
    environment = {
        **kept,
        "SCAIKEY_BASE_URL": base_url,
        "SCAIKEY_DATA_DIR": str(settings.data_dir),
        "SCAIKEY_ALLOW_HTTP_LOOPBACK": "1",
        "SCAIKEY_LOG_LEVEL": "WARNING",
    }
    with log.open("ab") as output:
        process = subprocess.Popen(
            _command(port, factory), env=environment, cwd=ROOT, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield Live(house, _ready(process, base_url, log))
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _command(port: int, factory: str | None) -> list[str]:
    """The Procfile's `web`, on loopback."""
    lines = (ROOT / "Procfile").read_text().splitlines()
    line = next(text.partition(":")[2] for text in lines if text.startswith("web:"))
    program, *arguments = shlex.split(line.replace("${PORT:-8080}", str(port)).replace("0.0.0.0", "127.0.0.1"))
    assert arguments[-1] == "wsgi:app" and f"--workers {PROCESSES}" in line, line
    target = arguments[-1:] if factory is None else ["--factory", factory]
    return [str(Path(sys.executable).with_name(program)), *arguments[:-1], *target]


def _ready(process: subprocess.Popen[bytes], base_url: str, log: Path) -> tuple[int, ...]:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        pids = [one.pid for one in psutil.Process(process.pid).children() if "resource_tracker" not in _words(one)]
        try:
            if len(pids) == PROCESSES and Door(base_url).ask("GET", "/readyz").status == 200:
                return tuple(pids)
        except Unexpected:
            pass
        time.sleep(0.05)
    raise AssertionError(f"the web processes do not come up: {log.read_text()[-2000:]}")


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _is_taken_by(pid: int, address: tuple[str, int]) -> bool:
    held = psutil.Process(pid).net_connections(kind="tcp4")
    return any(one.raddr and (one.raddr.ip, one.raddr.port) == address for one in held)
