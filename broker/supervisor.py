"""`scaikey up`: everything on one machine, in the foreground, as one log stream.

Owns the order of things: services, migrations, then the process types of the Procfile, each started again when it
crashes; and their end, ordered on a signal, complete within ten seconds when this process is killed. It has a
single thread. What the children do is theirs; who runs the servers is `embedded`'s.
"""

from __future__ import annotations

import http.client
import logging
import os
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

from broker import embedded, logs, processes
from broker.config import Config

_GRACE = 6.0  # `docker stop` waits ten seconds for all of it
_RESTARTS = 5
_FIRST_PAUSE = 0.5
_STEADY = 60.0
"""Seconds after which a child counts as up and its earlier crashes as forgotten."""
_CHUNK = 65_536

log = logging.getLogger(__name__)


class CannotRun(Exception):
    """`scaikey up` cannot begin; the text is for the operator."""


@dataclass(frozen=True)
class Child:
    """One process type: the name that marks its lines, and its command line."""

    name: str
    command: Sequence[str]


def process_types(host: str, port: int) -> list[Child]:
    """The Procfile's process types, run by this interpreter."""
    return [
        Child("web", processes.python("broker.cli", "web", "--host", host, "--port", str(port))),
        Child("worker", processes.python("broker.cli", "worker")),
        Child("clock", processes.python("broker.cli", "clock")),
    ]


def web_command(host: str, port: int) -> list[str]:
    """The command line of the web server, which `scaikey web` becomes."""
    return processes.python(
        "granian",
        *("--interface", "wsgi", "--workers", "2", "--blocking-threads", "12"),
        *("--respawn-failed-workers", "--respawn-interval", "0.5", "--workers-kill-timeout", "8"),
        *("--host", host, "--port", str(port), "--log-level", "warning", "--factory", "broker.app:create_app"),
    )


def run(
    config: Config,
    host: str,
    port: int,
    *,
    migrate: Callable[[Config], object],
    children: Sequence[Child] | None = None,
    stream: TextIO | None = None,
) -> int:
    """Run until SIGTERM, SIGINT or SIGHUP and return the exit status: 1 when something would not stay up.

    `migrate` gets the configuration with the URLs of the running services. The same signal again, later than a
    second after the first, ends what is left at once. Call it from the main thread. Raises CannotRun.
    """
    output = logs.MergedStream(stream or sys.stdout, config.log_format == "json")
    logs.configure(config, output.of("up"))
    _refuse_taken_port(host, port)
    types = process_types(host, port) if children is None else children
    with _signals() as wake:
        try:
            services = embedded.attach(config)
        except embedded.ServicesFailed as error:
            raise CannotRun(str(error)) from error
        supervisor = _Supervisor(config, services, types, output, wake)
        try:
            migrate(services.configure(config))
            return supervisor.run(host, port)
        finally:
            supervisor.end()


class _Wake:
    """What the signal handlers leave behind; its socket wakes the one `select` of this process."""

    def __init__(self) -> None:
        self.receiver, self.sender = socket.socketpair()
        self.receiver.setblocking(False)
        self.sender.setblocking(False)
        self.asked: float | None = None

    def ask(self, signum: int, _frame: object) -> None:
        if self.asked is None:
            self.asked = time.monotonic()
        elif time.monotonic() - self.asked > 1.0:  # Ctrl-C reaches us from the terminal and from a parent alike
            raise KeyboardInterrupt

    def clear(self) -> None:
        self.receiver.recv(_CHUNK)


@contextmanager
def _signals() -> Iterator[_Wake]:
    wake = _Wake()
    handlers = {
        signal.SIGTERM: wake.ask,
        signal.SIGINT: wake.ask,
        signal.SIGHUP: wake.ask,
        signal.SIGCHLD: lambda *_: None,
    }
    previous = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
    previous_descriptor = signal.set_wakeup_fd(wake.sender.fileno(), warn_on_full_buffer=False)
    try:
        yield wake
    finally:
        signal.set_wakeup_fd(previous_descriptor)
        for signum, handler in previous.items():
            signal.signal(signum, handler)
        wake.receiver.close()
        wake.sender.close()


class _Running:
    """A child at work, or waiting to be started again."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.process: subprocess.Popen[bytes] | None = None
        self.unfinished = b""
        self.started = 0.0
        self.crashes = 0
        self.due = 0.0

    def has_voice(self) -> bool:
        """Whether its output is still open."""
        return self.process is not None and self.process.stdout is not None and not self.process.stdout.closed

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


class _Supervisor:
    def __init__(
        self,
        config: Config,
        services: embedded.Services,
        types: Sequence[Child],
        output: logs.MergedStream,
        wake: _Wake,
    ) -> None:
        self._config = config
        self._services = services
        self._output = output
        self._wake = wake
        self._ending = False
        self._mark = secrets.token_hex(16)
        self._all = [_Running(child) for child in types]
        self._selector = selectors.DefaultSelector()
        self._selector.register(wake.receiver, selectors.EVENT_READ, "signal")
        self._watch_services()
        self._watchdog = self._start_watchdog()

    def run(self, host: str, port: int) -> int:
        announce_until = time.monotonic() + _STEADY
        while self._wake.asked is None and not self._output.closed:
            try:
                self._start_due()
                self._turn(0.2 if announce_until else 1.0)
                self._mend()
            except _WillNotStay as error:
                log.error("%s; stopping", error)
                return 1
            if announce_until and _answers(host, port):
                log.info("ready at %s", self._config.base_url)
                announce_until = 0.0
            elif time.monotonic() > announce_until:
                announce_until = 0.0
        return 0

    def end(self) -> None:
        """Children first, then the servers they use. Nothing of ours runs when this returns."""
        self._ending = True
        try:
            for running in self._all:
                if running.process is not None and running.is_alive():
                    running.process.terminate()
            deadline = time.monotonic() + _GRACE
            while any(running.is_alive() for running in self._all) and time.monotonic() < deadline:
                self._turn(0.1)
        except KeyboardInterrupt:
            log.warning("asked again: ending what is left at once")
        finally:
            processes.end_relatives(self._mark, grace=0.0)
            for running in self._all:
                self._bury(running)
            assert self._watchdog.stdin is not None
            self._watchdog.stdin.close()
            self._watchdog.wait()
            self._services.stop()
            self._selector.close()

    def _start_watchdog(self) -> subprocess.Popen[bytes]:
        """It waits for the other end of its standard input, ours, to close."""
        return subprocess.Popen(
            processes.python("broker.processes", self._mark),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=processes.python_environment(),
            start_new_session=True,
        )

    def _watch_services(self) -> None:
        if self._services.lease is not None:
            self._selector.register(self._services.lease, selectors.EVENT_READ, "services")

    def _start_due(self) -> None:
        for running in self._all:
            if running.process is not None or running.due > time.monotonic():
                continue
            running.process = processes.launch(
                running.child.command,
                death_signal=signal.SIGTERM,
                env=self._environment(),
                output=subprocess.PIPE,
            )
            running.started = time.monotonic()
            assert running.process.stdout is not None
            os.set_blocking(running.process.stdout.fileno(), False)
            self._selector.register(running.process.stdout, selectors.EVENT_READ, running)

    def _environment(self) -> dict[str, str]:
        """What the children are told: our configuration, with the URLs of the servers in it."""
        config = self._services.configure(self._config)
        said = {
            "DATABASE_URL": config.database_url,
            "SCAIKEY_OWNER_DATABASE_URL": config.owner_database_url,
            "SCAIKEY_PLATFORM_DATABASE_URL": config.platform_database_url,
            "REDIS_URL": config.redis_url,
            "SCAIKEY_BASE_URL": config.base_url,
            "SCAIKEY_DATA_DIR": str(config.data_dir),
            "SCAIKEY_LOG_LEVEL": config.log_level,
            "SCAIKEY_LOG_FORMAT": config.log_format,
            "PYTHONUNBUFFERED": "1",
            processes.MARK: self._mark,
        }
        return processes.python_environment(**{name: value for name, value in said.items() if value})

    def _turn(self, timeout: float) -> None:
        """Wait for something to happen, and pass on what children say."""
        for key, _ in self._selector.select(timeout):
            if isinstance(key.data, _Running):
                self._read(key.data)
            elif key.data == "signal":
                self._wake.clear()
            elif self._ending:
                self._selector.unregister(key.fileobj)
            else:
                self._start_services_again()

    def _read(self, running: _Running) -> bool:
        """Pass on what the child said meanwhile; False when that was nothing."""
        assert running.process is not None and running.process.stdout is not None
        try:
            received = os.read(running.process.stdout.fileno(), _CHUNK)
        except BlockingIOError:
            return False
        *lines, running.unfinished = (running.unfinished + received).split(b"\n")
        if not received or len(running.unfinished) > _CHUNK:
            lines.append(running.unfinished)
            running.unfinished = b""
        for line in lines:
            if line:
                self._output.say(running.child.name, line.decode(errors="backslashreplace").rstrip("\r"))
        if not received:
            self._silence(running)
        return bool(received)

    def _silence(self, running: _Running) -> None:
        assert running.process is not None and running.process.stdout is not None
        self._selector.unregister(running.process.stdout)
        running.process.stdout.close()

    def _start_services_again(self) -> None:
        """Our lease ended because somebody killed the keeper. URLs stay the same, so the children reconnect."""
        log.error("the embedded servers are gone; starting them again")
        assert self._services.lease is not None
        self._selector.unregister(self._services.lease)
        self._services.stop()
        try:
            self._services = embedded.attach(self._config)
        except embedded.ServicesFailed as error:
            raise _WillNotStay(str(error)) from error
        self._watch_services()

    def _mend(self) -> None:
        if self._watchdog.poll() is not None:
            log.error("the watchdog is gone; starting it again")
            self._watchdog = self._start_watchdog()
        for running in self._all:
            if running.process is None or running.is_alive():
                continue
            name, status = running.child.name, running.process.returncode
            self._bury(running)
            if time.monotonic() - running.started > _STEADY:
                running.crashes = 0
            if running.crashes == _RESTARTS:
                raise _WillNotStay(f"{name} ended {_RESTARTS + 1} times in a row, now with status {status}")
            pause = _FIRST_PAUSE * 2**running.crashes
            running.crashes += 1
            running.due = time.monotonic() + pause
            log.warning("%s ended with status %d; starting it again in %g s", name, status, pause)

    def _bury(self, running: _Running) -> None:
        """End what a dead child left in its session (it may hold the port), and pass on its last words."""
        if running.process is None:
            return
        processes.end(processes.session(running.process.pid), (signal.SIGTERM, 1.0))
        while running.has_voice() and self._read(running):
            continue
        if running.has_voice():
            self._silence(running)
        running.process.wait()
        running.process = None


class _WillNotStay(Exception):
    """Something crashes whenever it is started."""


def _refuse_taken_port(host: str, port: int) -> None:
    """The web server shares its port among its workers and would share it with a stranger just as well."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise CannotRun(f"cannot listen on {host} port {port}: {error.strerror or error}") from None


def _answers(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port, timeout=0.5)
    try:
        connection.request("GET", "/healthz")
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True
