"""A load generator that costs little itself: prepared requests over kept connections, one thread a connection.

`rate` answers how many requests a second a server finished in a bounded time. Every answer's status is checked.
"""

from __future__ import annotations

import itertools
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_PATIENCE = 300
"""Seconds for one answer: a peer may take a minute over a group of 100,000."""


@dataclass(frozen=True)
class Server:
    """A SCIM server on loopback and the bearer token it takes."""

    name: str
    port: int
    prefix: str
    token: str

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        head = (
            f"{method} {self.prefix}{path} HTTP/1.1\r\nHost: localhost:{self.port}\r\n"
            f"Authorization: Bearer {self.token}\r\nAccept: application/scim+json\r\n"
        )
        if body:
            head += f"Content-Type: application/scim+json\r\nContent-Length: {len(body)}\r\n"
        return f"{head}\r\n".encode() + body


class Connection:
    """One kept-alive connection that knows Content-Length and chunked answers."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def ask(self, request: bytes) -> tuple[int, bytes]:
        self.socket.sendall(request)
        while b"\r\n\r\n" not in self.buffer:
            self._more()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        status = int(head[9:12])
        lower = head.lower()
        if b"transfer-encoding: chunked" in lower:
            return status, self._chunked()
        at = lower.find(b"content-length:")
        length = int(lower[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        while len(self.buffer) < length:
            self._more()
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return status, body

    def _chunked(self) -> bytes:
        body = b""
        while True:
            while b"\r\n" not in self.buffer:
                self._more()
            size, _, self.buffer = self.buffer.partition(b"\r\n")
            length = int(size, 16)
            while len(self.buffer) < length + 2:
                self._more()
            body += self.buffer[:length]
            self.buffer = self.buffer[length + 2 :]
            if length == 0:
                return body

    def _more(self) -> None:
        data = self.socket.recv(262_144)
        if not data:
            raise ConnectionError("the server closed the connection")
        self.buffer += data

    def close(self) -> None:
        self.socket.close()


def rate(
    server: Server, requests: Iterable[bytes], *, expect: Sequence[int], seconds: float, connections: int
) -> float:
    """Finished requests a second. `requests` is shared by the connections; each answer must have an expected status."""
    source: Iterator[bytes] = iter(requests)
    lock = threading.Lock()
    done = [0] * connections
    problems: list[str] = []
    deadline = time.perf_counter() + seconds

    def work(index: int) -> None:
        connection = Connection(server.port)
        try:
            while time.perf_counter() < deadline and not problems:
                with lock:
                    request = next(source, None)
                if request is None:
                    return
                status, body = connection.ask(request)
                if status not in expect:
                    problems.append(f"{server.name} answered {status}: {body[:300]!r}")
                    return
                done[index] += 1
        except (OSError, ConnectionError) as error:
            problems.append(f"{server.name}: {error}")
        finally:
            connection.close()

    started = time.perf_counter()
    threads = [threading.Thread(target=work, args=(index,)) for index in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise AssertionError(problems[0])
    return sum(done) / (time.perf_counter() - started)


def turns(server: Server, requests: Iterable[Sequence[bytes]], *, expect: Sequence[int], seconds: float) -> list[float]:
    """Of requests that are only sent in turns, such as one that adds and one that takes away again: how many of each a
    second, over one connection."""
    spent: dict[int, list[float]] = {}
    connection = Connection(server.port)
    deadline = time.perf_counter() + seconds
    try:
        for these in requests:
            for index, request in enumerate(these):
                began = time.perf_counter()
                status, body = connection.ask(request)
                spent.setdefault(index, []).append(time.perf_counter() - began)
                if status not in expect:
                    raise AssertionError(f"{server.name} answered {status}: {body[:300]!r}")
            if time.perf_counter() > deadline:
                break
    finally:
        connection.close()
    return [len(times) / sum(times) for times in spent.values()]


def waits(
    server: Server,
    requests: Iterable[bytes],
    *,
    expect: Sequence[int],
    a_second: float,
    connections: int,
    over: Callable[[], bool],
) -> list[float]:
    """Seconds to each answer at a steady pace until it is `over`, counted from when the request was due: who is kept
    waiting by an earlier answer waits, too."""
    source = iter(requests)
    lock = threading.Lock()
    found: list[float] = []
    problems: list[str] = []
    began = time.perf_counter()
    due = itertools.count()

    def work() -> None:
        connection = Connection(server.port)
        try:
            while not over() and not problems:
                with lock:
                    request, moment = next(source), began + next(due) / a_second
                time.sleep(max(moment - time.perf_counter(), 0))
                status, body = connection.ask(request)
                found.append(time.perf_counter() - moment)
                if status not in expect:
                    problems.append(f"{server.name} answered {status}: {body[:300]!r}")
        except OSError as error:
            problems.append(f"{server.name}: {error}")
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise AssertionError(problems[0])
    return found


def cycle(make: Callable[[int], bytes], count: int) -> Iterator[bytes]:
    """The same prepared requests again and again."""
    return itertools.cycle([make(index) for index in range(count)])


@contextmanager
def process(
    command: list[str], environment: dict[str, str], server: Server, probe: str
) -> Iterator[subprocess.Popen[bytes]]:
    """The server while the block lasts, from when it answers `probe`."""
    program = shutil.which(command[0], path=str(Path(sys.executable).parent)) or command[0]
    process = subprocess.Popen([program, *command[1:]], env=environment, stdin=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                connection = Connection(server.port)
                status, _ = connection.ask(server.request("GET", probe))
                connection.close()
                if status == 200:
                    break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
            time.sleep(0.2)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
