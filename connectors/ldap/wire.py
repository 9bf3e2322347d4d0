"""LDAP messages (RFC 4511) over one socket of ours: a question, its answer, and a deadline for both.

Owns the framing, the bounds of a message, and that no referral is ever followed. Questions and results are encoded by
ldap3; its connections are not used, since they look names up, reopen themselves and read without a bound. Values stay
bytes, secrets are dropped while an entry is taken apart.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from functools import lru_cache
from io import BufferedReader
from socket import SocketIO
from typing import Any, NamedTuple

from ldap3 import DEREF_NEVER, SIMPLE
from ldap3.core.results import RESULT_CODES
from ldap3.operation.bind import bind_operation
from ldap3.operation.extended import extended_operation
from ldap3.operation.search import search_operation
from ldap3.protocol.convert import build_controls_list
from ldap3.protocol.rfc4511 import LDAPMessage, MessageID, ProtocolOp
from ldap3.strategy.base import BaseStrategy
from ldap3.utils.asn1 import decode_message_fast, encode

from connectors.egress import TimedSocket
from connectors.ldap.entries import EXCLUDED
from connectors.port import Refused

LARGEST = 64 * 1024 * 1024
"""Bytes of one message; a server that announces more is not listened to."""

START_TLS = "1.3.6.1.4.1.1466.20037"

_BOUND, _ENTRY, _SEARCHED, _REFERENCE, _EXTENDED = 0x61, 0x64, 0x65, 0x73, 0x78
_UNSOLICITED = 0


class Entry(NamedTuple):
    """An entry as it came, without its secrets; `size` is that of its message."""

    dn: bytes
    attributes: dict[str, list[bytes]]
    size: int


class Answer(NamedTuple):
    """`name` is the result's own (`noSuchObject`), `controls` by object identifier."""

    code: int
    name: str
    message: str
    entries: list[Entry]
    controls: dict[str, Any]


class Wire:
    """Raises OSError when the connection breaks or its deadline passes, Refused for what is no LDAP."""

    def __init__(self, sock: TimedSocket, timeout: float) -> None:
        self.sock = sock
        self.timeout = timeout
        self._raw = sock.makefile("rb", buffering=0)
        self._stream: SocketIO | BufferedReader = self._raw
        self._last = 0

    def secured(self, sock: TimedSocket) -> Wire:
        """The same conversation inside TLS. Nothing was read ahead, so nothing said before it counts as said in it."""
        wire = Wire(sock, self.timeout)
        wire._last = self._last
        return wire

    def read_ahead(self) -> None:
        self._stream = BufferedReader(self._raw, 256 * 1024)

    def close(self) -> None:
        try:
            self._stream.close()
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        finally:
            self.sock.close()

    def start_tls(self) -> Answer:
        return self._ask("extendedReq", extended_operation(START_TLS))

    def bind(self, name: str, password: str) -> Answer:
        # Bytes are sent as they are; of text ldap3 would make another password (RFC 4013), which AD does not.
        return self._ask("bindRequest", bind_operation(3, SIMPLE, name, password.encode()))

    def search(
        self, base: str, filter: str, scope: str, attributes: Sequence[str], controls: Sequence[Any] = ()
    ) -> Answer:
        request = search_operation(
            base, filter, scope, DEREF_NEVER, list(attributes), 0, 0, False, False, False, None, None, False
        )
        return self._ask("searchRequest", request, controls)

    def _ask(self, kind: str, request: Any, controls: Sequence[Any] = ()) -> Answer:
        self._last += 1
        message = LDAPMessage()
        message["messageID"] = MessageID(self._last)
        message["protocolOp"] = ProtocolOp().setComponentByName(kind, request)
        if controls:
            message["controls"] = build_controls_list(list(controls))
        self.sock.deadline = time.monotonic() + self.timeout
        self.sock.sendall(encode(message))
        return self._answer()

    def _answer(self) -> Answer:
        entries: list[Entry] = []
        while True:
            raw = self._message()
            try:
                start, stop = _contents(raw, _contents(raw, 0)[0])
                number, tag = int.from_bytes(raw[start:stop]), raw[stop]
                if number == _UNSOLICITED:
                    raise ConnectionResetError("the server ends the connection")
                if number != self._last:
                    continue
                if tag == _ENTRY:
                    entries.append(_entry(raw, stop))
                elif tag in (_BOUND, _SEARCHED, _EXTENDED):
                    return _result(raw, entries)
                elif tag != _REFERENCE:
                    raise Refused("The server answers with something that was not asked for.")
            except (IndexError, KeyError, ValueError, TypeError, RecursionError):
                raise Refused("What the server says is not LDAP.") from None

    def _message(self) -> bytes:
        head = self._exactly(2)
        if head[0] != 0x30:
            raise Refused("What the server says is not LDAP.")
        length = head[1]
        if length > 0x7F:
            more = self._exactly(length & 0x7F)
            head, length = head + more, int.from_bytes(more)
        if length > LARGEST:
            raise Refused(f"The server sends a message of more than {LARGEST} bytes.")
        return head + self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        parts, missing = [], count
        while missing:
            part = self._stream.read(missing)
            if not part:
                raise ConnectionResetError("the server ended the connection")
            parts.append(part)
            missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _contents(raw: bytes, at: int) -> tuple[int, int]:
    """Where the contents of an element start and stop (BER, definite lengths)."""
    length = raw[at + 1]
    if length < 0x80:
        return at + 2, at + 2 + length
    start = at + 2 + (length & 0x7F)
    return start, start + int.from_bytes(raw[at + 2 : start])


def _entry(raw: bytes, at: int) -> Entry:
    """Taken apart here, since nothing else costs a full pass as much; ldap3 takes four times as long."""
    dn_start, dn_stop = _contents(raw, _contents(raw, at)[0])
    attributes = {}
    at, end = _contents(raw, dn_stop)
    while at < end:
        pair, at = _contents(raw, at)
        start, stop = _contents(raw, pair)
        name = _kept(raw[start:stop])
        start, last = _contents(raw, stop)
        values = []
        while start < last:
            start, stop = _contents(raw, start)
            values.append(raw[start:stop])
            start = stop
        if name:
            attributes[name] = values
    return Entry(raw[dn_start:dn_stop], attributes, len(raw))


@lru_cache(maxsize=4096)  # entries share few names
def _kept(name: bytes) -> str:
    """An attribute's name; empty for a secret's."""
    text = name.decode("ascii", "replace")
    return "" if text.partition(";")[0].lower() in EXCLUDED else text


def _result(raw: bytes, entries: list[Entry]) -> Answer:
    decoded = decode_message_fast(raw)
    payload = decoded["payload"]
    code = int(payload[0][3])
    said = payload[2][3].decode("utf-8", "replace")
    message = "".join(letter for letter in said if letter.isprintable())[:200]
    given = dict(BaseStrategy.decode_control_fast(control[3]) for control in decoded["controls"] or ())
    told = {oid: control["value"] for oid, control in given.items()}
    return Answer(code, RESULT_CODES.get(code, str(code)), message, entries, told)
