"""PostgreSQL and Valkey of our own, where the configuration names none.

Owns `start`, `attach` and the `Services` they give. All processes of one data directory share one pair of
servers, run by one `keeper` that stops them when the last user is gone, even by `kill -9`. Real servers on
real data: what is missing against a managed pair is other machines.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Literal

from broker import processes
from broker.config import Config
from broker.embedded.home import SUPERUSER, Home

Service = Literal["postgres", "valkey"]

_START_PATIENCE = 150.0
_STOP_PATIENCE = 30.0


class ServicesFailed(Exception):
    """The embedded servers cannot be started; the text is for the operator."""


@dataclass(frozen=True)
class Services:
    """Where the servers are, for as long as this is held: stop it, or leave the `with`, when they are not needed."""

    database_url: str = field(repr=False)
    owner_database_url: str = field(repr=False)
    platform_database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    superuser_database_url: str | None = field(default=None, repr=False)
    pids: Mapping[str, int] = field(default_factory=dict)
    lease: socket.socket | None = field(default=None, repr=False, compare=False)

    def configure(self, config: Config) -> Config:
        """The configuration with these URLs in it."""
        return replace(
            config,
            database_url=self.database_url,
            owner_database_url=self.owner_database_url,
            platform_database_url=self.platform_database_url,
            redis_url=self.redis_url,
        )

    def stop(self) -> None:
        """Give the servers back. Returns when they are down, or at once while others use them; safe to call twice."""
        if self.lease is None or self.lease.fileno() == -1:
            return
        with self.lease as lease:
            try:
                lease.shutdown(socket.SHUT_WR)
                lease.settimeout(_STOP_PATIENCE)
                while lease.recv(1024):
                    pass
            except OSError:
                return  # the keeper is gone already

    def __enter__(self) -> Services:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def attach(config: Config) -> Services:
    """The servers of this configuration: those it names, and ours for what it does not name."""
    services: list[Service] = []
    if config.database_url is None:
        services.append("postgres")
    if config.redis_url is None:
        services.append("valkey")
    return start(config, services=services)


def start(config: Config, *, services: Sequence[Service] = ("postgres", "valkey"), durable: bool = True) -> Services:
    """Use our own servers on `config.data_dir`: those already running for it, or new ones on its data.

    `durable=False` is for tests alone: a crash of the machine may lose or damage the data.
    Raises ServicesFailed.
    """
    try:
        lease, pids = _lease(Home(config.data_dir), services, durable) if services else (None, {})
        return _services(config, services, lease, pids)
    except (OSError, EOFError) as error:
        raise ServicesFailed(f"the embedded {' and '.join(services)} cannot be started: {error}") from error


def _services(
    config: Config, services: Sequence[Service], lease: socket.socket | None, pids: Mapping[str, int]
) -> Services:
    home = Home(config.data_dir) if services else None
    own = home if "postgres" in services else None
    return Services(
        database_url=own.database_url("scaikey_app") if own else config.database_url or "",
        owner_database_url=own.database_url("scaikey_owner") if own else config.owner_database_url or "",
        platform_database_url=own.database_url("scaikey_platform") if own else config.platform_database_url or "",
        redis_url=home.redis_url() if home and "valkey" in services else config.redis_url or "",
        superuser_database_url=own.database_url(SUPERUSER, "postgres") if own else None,
        pids=pids,
        lease=lease,
    )


def _lease(home: Home, services: Sequence[Service], durable: bool) -> tuple[socket.socket, Mapping[str, int]]:
    deadline = time.monotonic() + _START_PATIENCE
    request = json.dumps({"services": list(services), "durable": durable}).encode() + b"\n"
    with home.lock("start", _START_PATIENCE):  # of those who find no keeper, one starts it
        while True:
            joined = _join(home)
            lease = joined or _spawn(home, deadline)
            try:
                lease.settimeout(deadline - time.monotonic())
                lease.sendall(request)
                answer = _line(lease)
            except (EOFError, ConnectionError):
                lease.close()
                if joined is None or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)  # that keeper is on its way out
                continue
            except BaseException:
                lease.close()
                raise
            if "error" in answer:
                lease.close()
                raise OSError(answer["error"])
            _close_in_forks(lease)
            return lease, dict(answer["pids"])


def _join(home: Home) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(home.control))
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    return connection


def _spawn(home: Home, deadline: float) -> socket.socket:
    with home.lock("keeper", deadline - time.monotonic()):
        pass  # the last keeper has finished stopping
    home.passwords()
    ours, its = socket.socketpair()
    with its, home.log("keeper").open("ab") as log:
        subprocess.run(
            processes.python("broker.embedded.keeper", str(home.path.parent)),
            stdin=its.fileno(),
            stdout=log,
            stderr=log,
            env=processes.python_environment(),
            start_new_session=True,
            check=True,
        )
    return ours


def _line(lease: socket.socket) -> dict[str, Any]:
    received = b""
    while not received.endswith(b"\n"):
        more = lease.recv(4096)
        if not more:
            raise EOFError("the keeper ended; its log is keeper.log")
        received += more
    answer: dict[str, Any] = json.loads(received)
    return answer


def _close_in_forks(lease: socket.socket) -> None:
    """A forked child (an RQ work-horse) that outlives us must not keep the servers alive."""
    reference = weakref.ref(lease)

    def close() -> None:
        if (inherited := reference()) is not None:
            inherited.close()

    os.register_at_fork(after_in_child=close)
