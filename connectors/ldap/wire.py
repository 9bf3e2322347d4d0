"""LDAP messages (RFC 4511) over one socket of ours: a question, its answer, and a deadline for both.

Owns the framing, the bounds of an answer, and that no referral is ever followed. Questions are encoded by ldap3; its
connections are not used, since they look names up, reopen themselves and read without a bound. Answers are taken apart
here, level by level and never deeper than asked. Values stay bytes, secrets are dropped meanwhile.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from io import BufferedReader
from socket import SocketIO
from typing import Any, NamedTuple

from ldap3 import DEREF_NEVER, SIMPLE, SUBTREE
from ldap3.core.exceptions import LDAPExceptionError
from ldap3.core.results import RESULT_CODES
from ldap3.operation.bind import bind_operation
from ldap3.operation.extended import extended_operation
from ldap3.operation.search import search_operation
from ldap3.protocol.convert import build_controls_list
from ldap3.protocol.rfc4511 import LDAPMessage, MessageID, ProtocolOp
from ldap3.utils.asn1 import encode
from pyasn1.error import PyAsn1Error  # type: ignore[import-untyped]

from connectors.egress import TimedSocket
from connectors.ldap.entries import EXCLUDED
from connectors.ldif import LARGEST
from connectors.port import Refused

MOST = 64 * 1024 * 1024
"""What one answer may cost, such as a page of entries; a server that goes on is not listened to."""
LITTLE = 8 * 1024 * 1024
"""The same where single entries are asked for and a stranger waits."""

START_TLS = "1.3.6.1.4.1.1466.20037"

_BOUND, _ENTRY, _SEARCHED, _REFERENCE, _EXTENDED, _CONTROLS = 0x61, 0x64, 0x65, 0x73, 0x78, 0xA0
_UNSOLICITED = 0
_KEYS = frozenset({"objectguid", "entryuuid"})
_A_VALUE = 48
"""What a value costs besides its bytes: many short ones take more room than they have bytes."""


class Unsayable(Exception):
    """The question cannot be put: what it is made of is no filter, no name or no text."""


class Entry(NamedTuple):
    """An entry as it came, without its secrets; `size` is that of its message."""

    dn: bytes
    attributes: dict[str, list[bytes]]
    size: int

    @property
    def name(self) -> str:
        """Raises Refused for a name that cannot be asked about again."""
        try:
            return self.dn.decode()
        except UnicodeDecodeError:
            raise Refused("The server names an entry by something that is not UTF-8.") from None


class Answer(NamedTuple):
    """`name` is the result's own (`noSuchObject`), `controls` the values by object identifier, None without one."""

    code: int
    name: str
    message: str
    entries: list[Entry]
    controls: Mapping[str, bytes | None]


class Wire:
    """Raises OSError when the connection breaks or its deadline passes, Unsayable for what cannot be asked, Refused for
    what is no LDAP, and for an answer that costs more than `most` or has more entries than were asked for."""

    def __init__(self, sock: TimedSocket, timeout: float, most: int = MOST) -> None:
        self.sock = sock
        self.timeout = timeout
        self.most = most
        self._raw = sock.makefile("rb", buffering=0)
        self._stream: SocketIO | BufferedReader = self._raw
        self._last = 0

    def secured(self, sock: TimedSocket) -> Wire:
        """The same conversation inside TLS. Nothing was read ahead, so nothing said before it counts as said in it."""
        wire = Wire(sock, self.timeout, self.most)
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
        return self._ask("extendedReq", lambda: extended_operation(START_TLS))

    def bind(self, name: str, password: str) -> Answer:
        # Bytes are sent as they are; of text ldap3 would make another password (RFC 4013), which AD does not.
        return self._ask("bindRequest", lambda: bind_operation(3, SIMPLE, name, password.encode()))

    def search(
        self,
        base: str,
        filter: str,
        scope: str,
        attributes: Sequence[str],
        controls: Sequence[Any] = (),
        entries: int | None = None,
    ) -> Answer:
        """`entries`: how many there may be, where that is known."""
        return self._ask("searchRequest", lambda: _search(base, filter, scope, attributes), controls, entries)

    def _ask(
        self, kind: str, request: Callable[[], Any], controls: Sequence[Any] = (), entries: int | None = 0
    ) -> Answer:
        said = _encoded(self._last + 1, kind, request, controls)
        self._last += 1
        self.sock.deadline = time.monotonic() + self.timeout
        self.sock.sendall(said)
        return self._answer(entries)

    def _answer(self, most_entries: int | None) -> Answer:
        entries: list[Entry] = []
        left = self.most
        while True:
            raw = self._message(left)
            left -= len(raw)
            try:
                start, stop = _contents(raw, _contents(raw, 0)[0])
                number, tag = int.from_bytes(raw[start:stop]), raw[stop]
                if number == _UNSOLICITED:
                    raise ConnectionResetError("the server ends the connection")
                if number != self._last:
                    continue
                if tag == _ENTRY:
                    entries.append(entry := _entry(raw, stop))
                    left -= _A_VALUE * sum(map(len, entry.attributes.values()))
                elif tag in (_BOUND, _SEARCHED, _EXTENDED):
                    return _result(raw, stop, entries)
                elif tag != _REFERENCE:
                    raise Refused("The server answers with something that was not asked for.")
            except (IndexError, ValueError):
                raise Refused("What the server says is not LDAP.") from None
            if most_entries is not None and len(entries) > most_entries:
                raise Refused(f"The server gives more than the {most_entries} entries that were asked for.")

    def _message(self, most: int) -> bytes:
        head = self._exactly(2)
        if head[0] != 0x30:
            raise Refused("What the server says is not LDAP.")
        length = head[1]
        if length > 0x7F:
            more = self._exactly(length & 0x7F)
            head, length = head + more, int.from_bytes(more)
        if length > most:
            raise Refused(f"The server gives more than {self.most} bytes at once. Read in smaller pages.")
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


def sayable(filter: str) -> bool:
    """Whether this is a filter, by itself and as a part of another."""
    try:
        for whole in (filter, f"(&(objectClass=*){filter})"):
            _encoded(1, "searchRequest", partial(_search, "", whole, SUBTREE, ["*"]))
    except Unsayable:
        return False
    return True


def elements(value: bytes | None) -> list[bytes]:
    """What the sequence consists of that is a control's value. Raises Refused."""
    try:
        if value is None or value[0] != 0x30:
            raise ValueError
        return [value[start:stop] for start, stop in _each(value, *_contents(value, 0))]
    except (IndexError, ValueError):
        raise Refused("The server sends a control without its value.") from None


def _search(base: str, filter: str, scope: str, attributes: Sequence[str]) -> Any:
    return search_operation(
        base, filter, scope, DEREF_NEVER, list(attributes), 0, 0, False, False, False, None, None, False
    )


def _encoded(number: int, kind: str, request: Callable[[], Any], controls: Sequence[Any] = ()) -> bytes:
    try:
        message = LDAPMessage()
        message["messageID"] = MessageID(number)
        message["protocolOp"] = ProtocolOp().setComponentByName(kind, request())
        if controls:
            message["controls"] = build_controls_list(list(controls))
        encoded: bytes = encode(message)
    except (
        LDAPExceptionError,
        PyAsn1Error,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        RecursionError,
    ) as error:
        raise Unsayable(str(error)) from None
    return encoded


def _contents(raw: bytes, at: int) -> tuple[int, int]:
    """Where the contents of an element start and stop (BER, definite lengths)."""
    length = raw[at + 1]
    if length < 0x80:
        return at + 2, at + 2 + length
    start = at + 2 + (length & 0x7F)
    return start, start + int.from_bytes(raw[at + 2 : start])


def _each(raw: bytes, at: int, end: int) -> Iterator[tuple[int, int]]:
    """Where the contents of each element in a row start and stop. Raises ValueError where one goes beyond the end."""
    while at < end:
        start, at = _contents(raw, at)
        if at > end or end > len(raw):
            raise ValueError
        yield start, at


def _entry(raw: bytes, at: int) -> Entry:
    """Taken apart here, since nothing else costs a full pass as much; ldap3 takes four times as long. Of one that is
    too large to be read only its key is told."""
    dn_start, dn_stop = _contents(raw, _contents(raw, at)[0])
    attributes = {}
    large = len(raw) > LARGEST
    at, end = _contents(raw, dn_stop)
    while at < end:
        pair, at = _contents(raw, at)
        start, stop = _contents(raw, pair)
        name = _kept(raw[start:stop])
        if not name or (large and name.lower() not in _KEYS):
            continue
        start, last = _contents(raw, stop)
        values = []
        while start < last:
            start, stop = _contents(raw, start)
            values.append(raw[start:stop])
            start = stop
        attributes[name] = values
    return Entry(raw[dn_start:dn_stop], attributes, len(raw))


@lru_cache(maxsize=4096)  # entries share few names
def _kept(name: bytes) -> str:
    """An attribute's name; empty for a secret's."""
    text = name.decode("ascii", "replace")
    return "" if text.partition(";")[0].lower() in EXCLUDED else text


def _result(raw: bytes, at: int, entries: list[Entry]) -> Answer:
    at, end = _contents(raw, at)
    told = _each(raw, at, end)
    number, _, said = (raw[start:stop] for start, stop in (next(told, (0, 0)), next(told, (0, 0)), next(told, (0, 0))))
    if not 1 <= len(number) <= 4:
        raise ValueError
    code = int.from_bytes(number)
    message = "".join(letter for letter in said.decode("utf-8", "replace") if letter.isprintable())[:200]
    return Answer(code, RESULT_CODES.get(code, str(code)), message, entries, dict(_controls(raw, end)))


def _controls(raw: bytes, at: int) -> Iterator[tuple[str, bytes | None]]:
    if at >= len(raw) or raw[at] != _CONTROLS:
        return
    for start, stop in _each(raw, *_contents(raw, at)):
        parts = list(_each(raw, start, stop))
        (first, last), *others = parts
        # Between a control's name and its value there may be its criticality, a BOOLEAN.
        values = [
            raw[begin:end] for (_, before), (begin, end) in zip(parts, others, strict=False) if raw[before] == 0x04
        ]
        yield raw[first:last].decode("ascii", "replace"), values[0] if values else None
