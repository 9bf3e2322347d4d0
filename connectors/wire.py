"""HTTP/1.1 on one connected socket: a request written at once, its answer read within a limit (RFC 9112).

Owns the octets: where an answer's head and body end, and whether the connection can be asked again. The parser of
the standard library, made for mail, costs as much as all the rest of a request. What a URL is, which connection is
used, what an answer means and how a failure is called are `connectors.http`'s.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from contextlib import suppress

_PIECE = 65_536
_LONGEST_HEAD, _MOST_FIELDS, _LONGEST_LINE = 65_536, 100, 1_024
_END = re.compile(rb"\r?\n\r?\n")
_FOLD = re.compile(r"\r?\n[ \t]+")
_STATUS = re.compile(r"HTTP/1\.([01]) ([1-9][0-9]{2})(?: |$)")
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*)")
_LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;|$)")


class Silent(Exception):
    """The other side ended the connection without a word."""


class Malformed(Exception):
    """No complete HTTP answer."""


class TooLong(Exception):
    """The body is larger than we take."""


class Wire:
    """One connection; after `ask` it may be used again if `reusable`."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._read = bytearray()
        self.reusable = False

    def ask(self, request: bytes, *, bodyless: bool, most: int) -> tuple[int, dict[str, str], bytes]:
        """Status, header fields (names in lower case, repeated ones joined) and at most `most` octets of body.

        `bodyless`: the answer has none, as one to HEAD. Raises Silent, Malformed, TooLong, and OSError.
        """
        self.reusable = False
        # A server may refuse a body early and close: its answer is still there to read.
        with suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(request)
        version, status, fields = self._head()
        while status == 100:
            version, status, fields = self._head()
        options = {option.strip().lower() for option in fields.get("connection", "").split(",")}
        lasting = "close" not in options and (version == "1" or "keep-alive" in options)
        coding, length = fields.get("transfer-encoding"), fields.get("content-length")
        if bodyless or status < 200 or status in (204, 304):
            body = b""
        elif coding is not None:
            if coding.strip().lower() != "chunked":
                raise Malformed
            body = self._chunks(most)
            lasting = lasting and length is None  # two lengths: somebody between us may have believed the other
        elif length is not None:
            # The same length said twice is one length (RFC 9110 §8.6).
            [said, *others] = {one.strip() for one in length.split(",")}
            if others or not _LENGTH.fullmatch(said):
                raise Malformed
            if int(said) > most:
                raise TooLong
            body = self._octets(int(said))
        else:
            body, lasting = self._rest(most), False
        self.reusable = lasting and not self._read
        return status, fields, body

    def _more(self) -> bool:
        piece = self._socket.recv(_PIECE)
        self._read += piece
        return bool(piece)

    def _head(self) -> tuple[str, int, dict[str, str]]:
        while (end := _END.search(self._read)) is None:
            if len(self._read) > _LONGEST_HEAD:
                raise Malformed
            if not self._more():
                raise Malformed if self._read else Silent
        if end.start() > _LONGEST_HEAD:
            raise Malformed
        head = self._read[: end.start()].decode("latin-1")
        del self._read[: end.end()]
        lines = _FOLD.sub(" ", head).split("\n")
        status = _STATUS.match(lines[0].rstrip())
        if status is None or len(lines) > _MOST_FIELDS:
            raise Malformed
        fields: dict[str, str] = {}
        for line in lines[1:]:
            field = _FIELD.fullmatch(line.rstrip())
            if field is None:
                raise Malformed
            name, value = field[1].lower(), field[2]
            fields[name] = f"{fields[name]}, {value}" if name in fields else value
        return status[1], int(status[2]), fields

    def _octets(self, count: int) -> bytes:
        while len(self._read) < count:
            if not self._more():
                raise Malformed
        octets = bytes(self._read[:count])
        del self._read[:count]
        return octets

    def _rest(self, most: int) -> bytes:
        while len(self._read) <= most and self._more():
            pass
        if len(self._read) > most:
            raise TooLong
        return self._octets(len(self._read))

    def _chunks(self, most: int) -> bytes:
        pieces: list[bytes] = []
        length = 0
        while True:
            said = _CHUNK.match(self._line())
            if said is None:
                raise Malformed
            size = int(said[1], 16)
            if size == 0:
                break
            length += size
            if length > most:
                raise TooLong
            pieces.append(self._octets(size))
            if self._line():
                raise Malformed
        fields = 0
        while self._line():
            fields += 1
            if fields > _MOST_FIELDS:
                raise Malformed
        return b"".join(pieces)

    def _line(self) -> bytes:
        while (end := self._read.find(b"\n")) < 0:
            if len(self._read) > _LONGEST_LINE or not self._more():
                raise Malformed
        line = bytes(self._read[:end])
        del self._read[: end + 1]
        return line.removesuffix(b"\r")


def request(method: str, target: str, host: str, fields: Mapping[str, str], body: bytes | None) -> bytes:
    """The octets of one request; names, values and target were checked before."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Accept-Encoding: identity"]
    if body is not None or method in ("POST", "PUT", "PATCH"):
        lines.append(f"Content-Length: {len(body or b'')}")
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")
