"""Where we may connect: the guard every outbound socket passes, HTTP or not.

Owns name lookup, the verdict over each address, and the TCP connection to an address so judged: the name
is looked up once and the checked address is the one connected to, so a second answer of the DNS changes
nothing. Sockets made here keep one deadline over all their reads and writes. Knows no HTTP.
"""

from __future__ import annotations

import ipaddress
import math
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_GLOBAL_V6 = ipaddress.ip_network("2000::/3")
_NOT_GLOBAL = [
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's wire server: a public address that answers from inside
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "2001::/23",  # Teredo and other embeddings
        "2001:db8::/32",
        "2002::/16",  # 6to4: any IPv4 address in disguise
        "3fff::/20",
    )
]
# No allow-list reaches these: metadata services, link-local, multicast and what is no address of a host.
_NEVER = [
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "100.100.100.200/32",
        "168.63.129.16/32",
        "169.254.0.0/16",
        "192.0.0.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "fd00:ec2::/32",
        "fd20:ce::/32",
    )
]
_LISTABLE_V6 = [ipaddress.ip_network(network) for network in ("::1/128", "fc00::/7", "2000::/3")]
# Ports of well-known services that are not the web: a stranger's URL shall not make us talk to them.
_NOT_WEB = frozenset({1433, 1521, 2049, 3306, 3389, 5432, 5900, 5984, 6379, 9042, 9200, 11211, 27017})
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)


class OutboundError(Exception):
    """What went wrong outside, in words for an administrator. `sent`: the other side may have acted on the request."""

    def __init__(self, message: str, *, sent: bool = False) -> None:
        super().__init__(message)
        self.sent = sent


class Blocked(OutboundError):
    """We do not connect there; trying again changes nothing."""


class ConnectFailed(OutboundError):
    """No connection, or it broke: unknown name, refused, reset, certificate not accepted."""


class Timeout(OutboundError):
    """The deadline passed."""


@dataclass(frozen=True)
class Egress:
    """What one tenant's connections may reach: public addresses over TLS, and what is named here.

    `loopback` admits this machine, with or without TLS. `allowed` are networks and ports of on-premises
    systems, with TLS. `own_ports` are ours (database, Valkey, web) and refused on every address that is not public.
    `until` is the moment (of `time.monotonic`) at which somebody stops waiting for whatever is connected here.
    """

    loopback: bool = False
    allowed: Sequence[tuple[Network, int]] = ()
    own_ports: frozenset[int] = frozenset()
    resolve: Callable[..., Sequence[tuple[Any, ...]]] = socket.getaddrinfo
    until: float = math.inf

    def connect(
        self,
        host: str,
        port: int,
        *,
        plaintext: bool,
        deadline: float,
        timeout: float,
        ports: frozenset[int] = frozenset(),
    ) -> TimedSocket:
        """A connected socket that keeps `deadline` (of `time.monotonic`); connecting takes `timeout` seconds at most.

        `ports` are those of the protocol spoken, where it is not the web's. Raises Blocked, ConnectFailed, Timeout.
        One forbidden address among several forbids the name.
        """
        deadline = min(deadline, self.until)
        give_up = min(deadline, time.monotonic() + timeout)
        addresses = self._addresses(host, port, give_up)
        for address in addresses:
            self._judge(host, address, port, plaintext, ports)
        failure: OutboundError = ConnectFailed(f"{host} has no address")
        for position, address in enumerate(addresses):
            # Each address has an equal share of the time left: a dead first one does not use up the second's.
            share = _remaining(give_up, host) / (len(addresses) - position)
            family = socket.AF_INET if address.version == 4 else socket.AF_INET6
            try:
                made = TimedSocket(family, socket.SOCK_STREAM)
            except OSError as error:
                failure = ConnectFailed(f"{host} ({address}): {error.strerror}")
                continue
            made.settimeout(share)
            try:
                made.connect((str(address), port))
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except TimeoutError:
                made.close()
                failure = Timeout(f"{host} port {port} did not answer in {timeout:g} s")
            except OSError as error:
                made.close()
                failure = ConnectFailed(f"{host} port {port}: {error.strerror or 'no connection'}")
            else:
                made.deadline, made.until = deadline, self.until
                return made
        raise failure

    def _addresses(self, host: str, port: int, give_up: float) -> list[Address]:
        try:
            return [ipaddress.ip_address(host)]
        except ValueError:
            pass
        # getaddrinfo knows no timeout; a thread that outlives our patience ends with its lookup.
        answers: queue.SimpleQueue[Sequence[tuple[Any, ...]] | Exception] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answers.put(self.resolve(host, port, type=socket.SOCK_STREAM))
            except (OSError, UnicodeError) as error:
                answers.put(error)

        threading.Thread(target=ask, daemon=True, name=f"lookup of {host}").start()
        try:
            answer = answers.get(timeout=_remaining(give_up, host))
        except queue.Empty:
            raise Timeout(f"the name {host} was not found out in time") from None
        if isinstance(answer, Exception):
            raise ConnectFailed(f"the name {host} is not known")
        return list(dict.fromkeys(ipaddress.ip_address(entry[4][0]) for entry in answer))

    def _judge(
        self, host: str, address: Address, port: int, plaintext: bool, ports: frozenset[int] = frozenset()
    ) -> None:
        if _is_global(address):
            if plaintext:
                raise Blocked(f"{host} is not on this machine: only https is spoken with it")
            if port not in ports and ((port < 1024 and port != 443) or port in _NOT_WEB):
                raise Blocked(f"port {port} of {host} is not a port for {'this protocol' if ports else 'https'}")
            return
        if port in self.own_ports:
            raise Blocked(f"port {port} of {host} is one of our own")
        if self.loopback and address.is_loopback:
            return
        listed = any(port == open_port and address in network for network, open_port in self.allowed)
        if not listed or _is_never(address):
            raise Blocked(f"{host} is at {address}, which is no public address")
        if plaintext:
            raise Blocked(f"{host} is not on this machine: only https is spoken with it")


class TimedSocket(socket.socket):
    """A socket whose operations all end by one `deadline`, however slowly the bytes drip, and none after `until`."""

    deadline: float
    until: float = math.inf

    def recv_into(self, *args: Any, **options: Any) -> int:
        self.settimeout(_remaining(min(self.deadline, self.until)))
        if _QUICKACK is not None:
            # A server that writes head and body apart waits for our acknowledgement: 40 ms a request on Linux.
            self.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        return super().recv_into(*args, **options)

    def send(self, *args: Any, **options: Any) -> int:
        self.settimeout(_remaining(min(self.deadline, self.until)))
        return super().send(*args, **options)

    def sendall(self, *args: Any, **options: Any) -> None:
        self.settimeout(_remaining(min(self.deadline, self.until)))
        return super().sendall(*args, **options)


class SecureSocket(TimedSocket, ssl.SSLSocket):
    """TLS with the same deadline."""


def _remaining(deadline: float, host: str | None = None) -> float:
    left = deadline - time.monotonic()
    if left > 0:
        return left
    if host is None:
        raise TimeoutError
    raise Timeout(f"{host} did not answer in time")


def _is_global(address: Address) -> bool:
    # Python's own verdict differs between versions and admits some of the list above; both must agree.
    if any(address in network for network in _NOT_GLOBAL) or not address.is_global:
        return False
    return address.version == 4 or address in _GLOBAL_V6


def _is_never(address: Address) -> bool:
    if any(address in network for network in _NEVER):
        return True
    return address.version == 6 and not any(address in network for network in _LISTABLE_V6)
