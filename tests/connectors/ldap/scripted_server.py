"""A server on loopback that says what the test wants, to see what is said to it."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.upstreams import tls

BOUND, SEARCHED, ENTRY, REFERENCE, EXTENDED = 0x61, 0x65, 0x64, 0x73, 0x78

Script = Callable[[socket.socket, "Heard"], None]


@dataclass
class Heard:
    """Every byte that was said outside TLS, and inside it."""

    port: int
    outside: bytearray = field(default_factory=bytearray)
    inside: bytearray = field(default_factory=bytearray)
    connections: int = 0


@contextmanager
def listening(script: Script) -> Iterator[Heard]:
    """Plays the script with whoever connects, one after the other."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        heard = Heard(server.getsockname()[1])

        def serve() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                heard.connections += 1
                with peer:
                    peer.settimeout(5)
                    try:
                        script(peer, heard)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield heard
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def question(peer: socket.socket, into: bytearray) -> bytes:
    """One LDAP message of fewer than 128 bytes; empty when the other side has left."""
    said = peer.recv(4096)
    into += said
    return said


def secured(peer: socket.socket, folder: Path) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context.wrap_socket(peer, server_side=True)


def certified(folder: Path, host: str = "localhost") -> str:
    """Makes a key and a certificate for the host; gives the authority's certificate."""
    return tls.issue(folder, host).authority.read_text()


def message(number: int, operation: int, *parts: bytes) -> bytes:
    body = element(2, bytes([number])) + element(operation, b"".join(parts))
    return element(0x30, body)


def element(tag: int, contents: bytes) -> bytes:
    length = len(contents)
    head = bytes([length]) if length < 128 else b"\x84" + length.to_bytes(4)
    return bytes([tag]) + head + contents


def result(number: int, operation: int, code: int = 0, said: str = "", **controls: bytes | None) -> bytes:
    """A last message. `controls`: their values by identifier, with underscores for dots; None: without a value."""
    done = element(operation, element(10, bytes([code])) + element(4, b"") + element(4, said.encode()))
    told = b""
    for oid, value in controls.items():
        name = element(4, oid.lstrip("_").replace("_", ".").encode())
        told += element(0x30, name + (b"" if value is None else element(4, value)))
    return element(0x30, element(2, bytes([number])) + done + (element(0xA0, told) if told else b""))


def paged(number: int, cookie: bytes = b"") -> bytes:
    """The end of a page; without a cookie of the last one."""
    value = element(0x30, element(2, b"\x00") + element(4, cookie))
    return result(number, SEARCHED, _1_2_840_113556_1_4_319=value)


def entry(number: int, dn: str, **attributes: list[bytes]) -> bytes:
    pairs = [
        element(0x30, element(4, name.encode()) + element(0x31, b"".join(element(4, value) for value in values)))
        for name, values in attributes.items()
    ]
    return message(number, ENTRY, element(4, dn.encode()), element(0x30, b"".join(pairs)))


def inside(folder: Path, *answers: bytes) -> Script:
    """A server that begins with TLS and answers each question with the next of these."""

    def script(peer: socket.socket, heard: Heard) -> None:
        with secured(peer, folder) as secure:
            for answer in answers:
                if not question(secure, heard.inside):
                    return
                secure.sendall(answer)
            while question(secure, heard.inside):
                pass

    return script
