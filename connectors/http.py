"""The one outbound HTTP client: connectors fetch with it, and SCIM pushes with it.

Owns URL form, TLS, a pool of connections per origin, one deadline over a whole call, the size of an answer,
and retries that honour Retry-After. `egress` decides where a connection may go. No redirects, no proxies,
no netrc, no compression, no cookies: what is asked is what is sent, to the host that was named.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import select
import ssl
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from connectors.egress import Blocked, ConnectFailed, Egress, OutboundError, SecureSocket, TimedSocket, Timeout

__all__ = ["BadResponse", "Blocked", "ConnectFailed", "HttpClient", "OutboundError", "Response", "Timeout", "TooLarge"]

_PER_ORIGIN = 16
_ORIGINS = 64
_IDLE_SECONDS = 30.0
_LONGEST_WAIT = 5.0
_LATER = frozenset({429, 502, 503, 504})
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\.?")
_TARGET = re.compile(r"[!-~]+")
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_VALUE = re.compile(r"[\t -~\x80-\xff]*")


class TooLarge(OutboundError):
    """The answer is larger than we take."""


class BadResponse(OutboundError):
    """The answer is cut short or is not the HTTP or JSON it claims to be."""


@dataclass(frozen=True)
class Response:
    """One answer, whatever its status. Header names are in lower case, repeated ones joined by a comma."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def header(self, name: str) -> str | None:
        return self.headers.get(name.lower())

    def json(self) -> Any:
        """The body as JSON. Raises BadResponse; the message does not quote the body."""
        try:
            return json.loads(self.body, parse_constant=_no_number)
        except (ValueError, RecursionError):
            raise BadResponse(f"the answer (status {self.status}) is not JSON", sent=True) from None

    @property
    def retry_after(self) -> float | None:
        """Seconds the other side asks us to wait (RFC 9110 §10.2.3), a day at most."""
        said = (self.header("retry-after") or "").strip()
        if said.isascii() and said.isdigit():
            return float(min(int(said[:9]), 86_400))
        try:
            date = parsedate_to_datetime(said)
        except ValueError:
            return None
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return min(max((date - datetime.now(UTC)).total_seconds(), 0.0), 86_400.0)


@dataclass(frozen=True)
class _Origin:
    secure: bool
    host: str
    port: int
    ca: str | None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}"


class HttpClient:
    """Speaks HTTP within one egress. Safe to share between threads; connections are not shared between forks.

    `connect_timeout` and `timeout` are seconds, the latter for a whole call with its retries and waits;
    `max_response` is bytes.
    """

    def __init__(
        self,
        egress: Egress,
        *,
        connect_timeout: float = 3.0,
        timeout: float = 10.0,
        max_response: int = 2 * 1024 * 1024,
    ) -> None:
        self._egress = egress
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self._max_response = max_response
        self._pools: dict[_Origin, _Pool] = {}
        self._lock = threading.Lock()
        self._process = os.getpid()
        weakref.finalize(self, _close, self._pools)

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout: float | None = None,
        max_response: int | None = None,
        attempts: int | None = None,
        ca: str | None = None,
    ) -> Response:
        """The answer to one request, redirects and errors of the server included.

        `attempts` counts tries: three for GET and HEAD unless said, else one; a further try follows a failed
        connection, a broken answer and 429, 502, 503, 504. `ca` is PEM trusted beside the system's authorities.
        Raises OutboundError in one of its five kinds.
        """
        origin, target = _parse(url, ca)
        sent_headers = _checked({"User-Agent": "ScaiKey", **(headers or {})})
        deadline = time.monotonic() + (timeout or self._timeout)
        last = (attempts or (3 if method in {"GET", "HEAD"} else 1)) - 1
        for attempt in range(last + 1):
            wait = random.uniform(0.5, 1.0) * 0.4 * 2**attempt  # noqa: S311 (spreads load, keeps no secret)
            limit = self._max_response if max_response is None else max_response
            try:
                response = self._try(origin, method, target, sent_headers, body, deadline, limit)
            except (ConnectFailed, Timeout, BadResponse):
                if attempt == last or time.monotonic() + wait > deadline:
                    raise
            else:
                if response.status not in _LATER or attempt == last:
                    return response
                wait = max(wait, response.retry_after or 0.0)
                if wait > _LONGEST_WAIT or time.monotonic() + wait > deadline:
                    return response
            time.sleep(wait)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def close(self) -> None:
        """Close the idle connections; the client stays usable."""
        with self._lock:
            _close(self._pools)

    def _try(
        self,
        origin: _Origin,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        deadline: float,
        max_response: int,
    ) -> Response:
        pool = self._pool(origin)
        with pool.place(deadline):
            connection = pool.idle_connection()
            if connection is not None:
                connection.deadline = deadline
                try:
                    return _exchange(pool, connection, method, target, headers, body, max_response)
                except ConnectFailed:
                    # An idle connection may end in the moment we use it; what may be repeated is, on a fresh one.
                    if method not in _REPEATABLE:
                        raise
            connection = self._connect(pool, deadline)
            return _exchange(pool, connection, method, target, headers, body, max_response)

    def _connect(self, pool: _Pool, deadline: float) -> _Connection:
        origin = pool.origin
        raw = self._egress.connect(
            origin.host,
            origin.port,
            plaintext=not origin.secure,
            deadline=deadline,
            timeout=self._connect_timeout,
        )
        if not origin.secure:
            return _Connection(origin, raw)
        raw.settimeout(min(self._connect_timeout, max(deadline - time.monotonic(), 0.001)))
        try:
            secure = pool.tls.wrap_socket(raw, server_hostname=origin.host.rstrip("."))
        except TimeoutError:
            raise Timeout(f"{origin}: the TLS handshake took too long") from None
        except ssl.SSLCertVerificationError as error:
            raise ConnectFailed(f"{origin}: the certificate is not accepted: {error.verify_message}") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or "the connection ended"
            raise ConnectFailed(f"{origin}: no TLS connection: {reason}") from None
        finally:
            raw.close()
        assert isinstance(secure, SecureSocket)
        secure.deadline = deadline
        return _Connection(origin, secure)

    def _pool(self, origin: _Origin) -> _Pool:
        with self._lock:
            if self._process != os.getpid():
                _close(self._pools)
                self._process = os.getpid()
            pool = self._pools.pop(origin, None) or _Pool(origin)
            self._pools[origin] = pool
            if len(self._pools) > _ORIGINS:
                self._pools.pop(next(iter(self._pools))).close()
            return pool


class _Connection(http.client.HTTPConnection):
    """http.client over a socket that is open already; it never opens one itself."""

    auto_open = 0

    def __init__(self, origin: _Origin, sock: TimedSocket) -> None:
        super().__init__(origin.host, origin.port)
        self.default_port = 443 if origin.secure else 80
        self.sock: TimedSocket = sock
        self.idle_since = 0.0
        self._unsent: list[bytes] = []

    def send(self, data: Any) -> None:
        """http.client hands over the head and the body apart; together they are one packet."""
        self._unsent.append(data)

    def flush(self) -> None:
        """Send what was handed over."""
        unsent, self._unsent = self._unsent, []
        self.sock.sendall(b"".join(unsent))

    @property
    def deadline(self) -> float:
        return self.sock.deadline

    @deadline.setter
    def deadline(self, deadline: float) -> None:
        self.sock.deadline = deadline

    def is_fresh(self) -> bool:
        """Young, and silent: bytes or an end before we asked mean the other side is done with this connection."""
        if time.monotonic() - self.idle_since > _IDLE_SECONDS:
            return False
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(0)


class _Pool:
    """The connections to one origin: so many at once, the idle ones kept for a while."""

    def __init__(self, origin: _Origin) -> None:
        self.origin = origin
        self._room = threading.BoundedSemaphore(_PER_ORIGIN)
        self._idle: list[_Connection] = []
        self._lock = threading.Lock()
        self._closed = False
        if origin.secure:
            self.tls = _tls(origin.ca)

    @contextmanager
    def place(self, deadline: float) -> Iterator[None]:
        if not self._room.acquire(timeout=max(deadline - time.monotonic(), 0)):
            raise Timeout(f"{self.origin}: all {_PER_ORIGIN} connections stayed busy")
        try:
            yield
        finally:
            self._room.release()

    def idle_connection(self) -> _Connection | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if connection.is_fresh():
                return connection
            connection.close()

    def keep(self, connection: _Connection) -> None:
        connection.idle_since = time.monotonic()
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


def _exchange(
    pool: _Pool,
    connection: _Connection,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes | None,
    max_response: int,
) -> Response:
    """One request and its answer; the connection goes back to the pool only after a complete one."""
    origin = pool.origin
    reusable = False
    try:
        # A server may refuse a body early and close: its answer is still there to read.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, target, body, dict(headers))
            connection.flush()
        answer = connection.getresponse()
        with answer:
            response = _read(answer, origin, max_response)
        reusable = not answer.will_close
        return response
    except TimeoutError:
        raise Timeout(f"{origin} did not finish its answer in time", sent=True) from None
    except http.client.RemoteDisconnected:
        raise ConnectFailed(f"{origin} closed the connection without an answer", sent=True) from None
    except OSError as error:
        raise ConnectFailed(f"{origin}: {error.strerror or 'the connection broke'}", sent=True) from None
    except (http.client.HTTPException, ValueError):
        raise BadResponse(f"{origin} sent no complete HTTP answer", sent=True) from None
    finally:
        if reusable:
            pool.keep(connection)
        else:
            connection.close()


def _read(answer: http.client.HTTPResponse, origin: _Origin, max_response: int) -> Response:
    if answer.status < 200:
        raise BadResponse(f"{origin} answered {answer.status}", sent=True)
    headers: dict[str, str] = {}
    for name, value in answer.getheaders():
        name = name.lower()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise BadResponse(f"{origin} compressed its answer though asked not to", sent=True)
    announced = answer.length or 0
    body = answer.read(max_response + 1) if announced <= max_response else b""
    if announced > max_response or len(body) > max_response:
        raise TooLarge(f"{origin} sent more than {max_response} bytes", sent=True)
    if answer.length:
        raise BadResponse(f"{origin} cut its answer short", sent=True)
    return Response(answer.status, headers, body)


def _parse(url: str, ca: str | None) -> tuple[_Origin, str]:
    if not _TARGET.fullmatch(url) or "\\" in url:
        raise Blocked("the URL holds characters that must be percent-encoded")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Blocked("the URL is malformed") from None
    host = parts.hostname or ""
    if parts.scheme not in {"http", "https"}:
        raise Blocked("the URL is neither https nor http")
    if "@" in parts.netloc:
        raise Blocked("the URL carries a user name or password")
    if not (_HOST.fullmatch(host) or (":" in host and "%" not in host)):
        raise Blocked("the URL names no host")
    secure = parts.scheme == "https"
    origin = _Origin(secure, host, port if port is not None else 443 if secure else 80, ca)
    return origin, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _checked(headers: Mapping[str, str]) -> Mapping[str, str]:
    # http.client checks too, but its message quotes the value, which may be a token.
    for name, value in headers.items():
        if not (_FIELD_NAME.fullmatch(name) and _FIELD_VALUE.fullmatch(value)):
            raise Blocked(f"the request header {name!r} holds characters that HTTP forbids")
    return headers


@lru_cache(maxsize=_ORIGINS)  # reading the system's authorities takes longer than a request
def _tls(ca: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.sslsocket_class = SecureSocket
    if ca is not None:
        try:
            context.load_verify_locations(cadata=ca)
        except (ssl.SSLError, ValueError):
            raise Blocked("the additional certificate authority is not PEM") from None
    return context


def _no_number(name: str) -> float:
    raise ValueError(name)


def _close(pools: dict[_Origin, _Pool]) -> None:
    while pools:
        pools.popitem()[1].close()
