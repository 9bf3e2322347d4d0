"""LDIF (RFC 2849), the text form of directory entries: read as a stream, written an entry at a time.

Owns the format: folding, base64, comments, line ends, the trailers `ldapsearch` writes, and the question whether a
listing is complete. Memory is bounded by one entry. What attributes mean is `ldap`'s matter, and so is deciding what
becomes of an entry that cannot be read: it comes out as a `Flaw` and the reading goes on.
"""

from __future__ import annotations

import re
from base64 import b64encode
from binascii import a2b_base64
from collections.abc import Iterable, Iterator
from functools import lru_cache
from hashlib import blake2b
from typing import BinaryIO, NamedTuple

from connectors.port import Attributes, Misconfigured, Refused

LARGEST = 16 * 1024 * 1024
"""Bytes of one entry as written; a larger one is passed over without being held in memory."""

MOST_ATTRIBUTES = 1000

Values = list[str | bytes]

_CHUNK = 1024 * 1024
_WIDTH = 76
_SEPARATOR = re.compile(rb"\n\r?\n")
_NAME = re.compile(r"(?=.{1,128}$)(?:[A-Za-z][A-Za-z0-9_-]*|[0-9]+(?:\.[0-9]+)*)(?:;[A-Za-z0-9=*_-]+)*").fullmatch
_SAFE = re.compile(r"(?![ :<])[ -~]*(?<! )").fullmatch
"""Stricter than RFC 2849: control characters are base64 too, since some readers break lines at them."""
_COUNT = re.compile(rb"^# numEntries: ([0-9]{1,18})\r?$", re.MULTILINE).findall
_COMMENTED = re.compile(rb"^# (?:extended LDIF|LDAPv3)\r?$", re.MULTILINE).search
_TRAILER = (b"search: ", b"result: ")
_COOKIE = re.compile(rb"(?:# )?pagedresults:(?: estimate=[0-9]+)? cookie=(.*)").fullmatch


_CUT = (
    "Unfinished listing: the file ends inside an entry. Export it again, or, if you know it to be whole, "
    "end it with an empty line."
)


class Entry(NamedTuple):
    """An entry as written: names in their case, values in their order. `end` is the offset after it."""

    start: int
    end: int
    dn: str
    attributes: dict[str, Values]


class Flaw(NamedTuple):
    """An entry that cannot be read, and why; `dn` where that much could be told."""

    start: int
    end: int
    reason: str
    detail: str
    dn: str | None = None


class Unfit(Exception):
    """Why one entry cannot be used: a stable `reason` and a sentence without values of the entry."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def fingerprint(file: BinaryIO) -> str:
    """A digest of the whole file, which is read to its end.

    Raises Misconfigured when `ldapsearch` counted its entries and the file has another number of them: it is cut
    short, or names with line breaks, which `ldapsearch` copies into its comments, have made entries of their own.
    """
    digest, names, head, tail = blake2b(digest_size=12), 0, b"", b"\n"
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
        head = head or chunk[:512]
        names += (tail[-3:] + chunk).count(b"\ndn:")
        tail = (tail + chunk)[-4096:]
    counts = _COUNT(tail)
    if names and not counts and _COMMENTED(head):
        raise Misconfigured("Unfinished listing: the file ends before the search told how many entries it found.")
    if counts and int(counts[-1]) != names:
        raise Misconfigured(
            f"The file has {names} entries where the search found {counts[-1].decode()}. Export it again with "
            "`ldapsearch -LLL`, which writes no comments, and do not join several listings."
        )
    return digest.hexdigest()


class Reader:
    """The entries of a listing from `offset` on; iterating to the end is the proof that it was complete.

    `awaiting` is true while a trailer is owed: `ldapsearch` announced a listing, or a further page of it, and has
    not yet said that it ended well. It is true to the entry last yielded, and given back to resume there.
    """

    def __init__(self, file: BinaryIO, offset: int = 0, awaiting: bool = False) -> None:
        self.file = file
        self.offset = offset
        self.awaiting = awaiting

    def __iter__(self) -> Iterator[Entry | Flaw]:
        """Raises Misconfigured when the listing was cut off, Refused when its trailer reports an error."""
        self.file.seek(self.offset)
        if self.offset == 0:
            self._skip_mark()
        buffer, ended = b"", False
        while not ended:
            chunk = self.file.read(_CHUNK)
            ended = not chunk
            buffer += chunk
            position = 0
            breaks = _breaks(buffer)
            if b"\r" in buffer:
                breaks = ((found.start() + 1, found.end()) for found in _SEPARATOR.finditer(buffer))
            for stop, following in breaks:
                start, self.offset = self.offset, self.offset + following - position
                if stop - position > LARGEST:
                    yield _too_large(buffer[position : position + _CHUNK], start, self.offset)
                elif entry := self._read(buffer[position:stop], start):
                    yield entry
                position = following
            buffer = buffer[position:]
            if len(buffer) > LARGEST:
                start, head = self.offset, buffer[:_CHUNK]
                buffer = self._skip_entry(buffer)
                yield _too_large(head, start, self.offset)
        self._finish(buffer)

    def _skip_mark(self) -> None:
        mark = self.file.read(4)
        if mark[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise Misconfigured("The file is UTF-16. Export it again in UTF-8 (with ldifde: without the option -u).")
        self.offset = 3 if mark[:3] == b"\xef\xbb\xbf" else 0
        self.file.seek(self.offset)

    def _skip_entry(self, buffer: bytes) -> bytes:
        """Reads to the end of an entry that is too large to hold, and gives back what follows it."""
        while not (found := _SEPARATOR.search(buffer)):
            kept = buffer[-2:]
            self.offset += len(buffer) - len(kept)
            chunk = self.file.read(_CHUNK)
            if not chunk:
                raise Misconfigured(_CUT)
            buffer = kept + chunk
        self.offset += found.end()
        return buffer[found.end() :]

    def _finish(self, rest: bytes) -> None:
        lines = _unfolded(rest).split(b"\n")
        if lines[-1] or any(line[:1] != b"#" for line in lines if line):
            raise Misconfigured(_CUT)
        self._notice_all(lines)
        if self.awaiting:
            raise Misconfigured("Unfinished listing: the file ends before the search told its result. Export it again.")

    def _notice_all(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            self._notice(line)

    def _notice(self, line: bytes) -> None:
        """Learns from a comment or trailer line whether the listing goes on."""
        if line == b"# extended LDIF":
            self.awaiting = True
        elif found := _COOKIE(line):
            self.awaiting = bool(found[1])
        elif line.startswith(b"result: "):
            code, _, text = line[8:].partition(b" ")
            if code != b"0":
                told = text.decode("ascii", "replace")[:200]
                raise Refused(
                    f"Unfinished listing: the search ended with result {code.decode('ascii', 'replace')[:20]} ({told})."
                )
            self.awaiting = False

    def _without_comments(self, block: bytes) -> bytes:
        """Also without what `ldapsearch` lets slip out of a comment: a name's line break goes there as it is."""
        lines = block.split(b"\n")
        kept = [line for line in lines if line[:1] != b"#"]
        if kept and kept[0].startswith(_TRAILER):
            self._notice_all(lines)
            kept = []
        else:
            self._notice_all(line for line in lines if line[:1] == b"#")
            if kept and lines[0][:1] == b"#" and not kept[0].startswith((b"version:", b"ref: ")):
                kept = kept[next((place for place, line in enumerate(kept) if line[:3] == b"dn:"), 0) :]
        return b"\n".join(kept)

    def _read(self, block: bytes, start: int) -> Entry | Flaw | None:
        block = _unfolded(block).strip(b"\n")
        if block[:1] == b"#" or b"\n#" in block:
            block = self._without_comments(block)
        if block[:3] != b"dn:":
            if block.startswith(_TRAILER):
                self._notice_all(block.split(b"\n"))
                return None
            if block.startswith(b"version:"):
                version, _, block = block.partition(b"\n")
                if version[8:].strip() != b"1":
                    raise Misconfigured("The file is written in a version of LDIF other than 1.")
            if not block or block.startswith(b"ref: "):
                return None
        return _parsed(block, start, self.offset)


def _breaks(buffer: bytes) -> Iterator[tuple[int, int]]:
    """Where entries stop and where the next ones start, in a buffer without carriage returns."""
    found = buffer.find(b"\n\n")
    while found >= 0:
        yield found + 1, found + 2
        found = buffer.find(b"\n\n", found + 2)


def _unfolded(block: bytes) -> bytes:
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n")
    return block.replace(b"\n ", b"")


def _too_large(head: bytes, start: int, end: int) -> Flaw:
    lines = _unfolded(head).split(b"\n")
    dn = next((_told_dn(line) for line in lines[:-1] if line[:3] == b"dn:"), None)
    return Flaw(start, end, "too_large", f"The entry is longer than {LARGEST} bytes.", dn)


def _told_dn(line: bytes) -> str | None:
    try:
        value = _value(line.decode().partition(":")[2])
    except (UnicodeDecodeError, Unfit):
        return None
    return value if isinstance(value, str) else None


def _parsed(block: bytes, start: int, end: int) -> Entry | Flaw:
    dn: str | None = None
    try:
        first, _, rest = block.partition(b"\n")
        if first[:3].lower() != b"dn:":
            raise Unfit("no_dn", "The entry does not begin with its name.")
        dn = first[4:].decode() if first[3:4] == b" " and first[4:5] > b" " and first.isascii() else _told_dn(first)
        if dn is None:
            raise Unfit("bad_dn", "The name of the entry is not valid UTF-8.")
        if rest.startswith((b"changetype:", b"control:")):
            rest = _addition(rest)
        return Entry(start, end, dn, _attributes(rest))
    except Unfit as flaw:
        return Flaw(start, end, flaw.reason, flaw.detail, dn)


def _addition(rest: bytes) -> bytes:
    """What follows a `changetype: add`, which is how ldifde writes an export; any other change is refused."""
    while rest.startswith(b"control:"):
        rest = rest.partition(b"\n")[2]
    line, _, following = rest.partition(b"\n")
    if line[:11].lower() != b"changetype:":
        return rest
    if line[11:].strip().lower() != b"add":
        raise Unfit("change_record", "This is a change to an entry, not an entry.")
    return following


def _attributes(rest: bytes) -> dict[str, Values]:
    if not rest:
        return {}
    try:
        lines = rest.decode().split("\n")
    except UnicodeDecodeError:
        return _collected(_raw_pair(line) for line in rest.split(b"\n"))
    values: dict[str, Values] = {}
    value: str | bytes
    for line in lines:
        name, found, value = line.partition(": ")
        if not found or ":" in name or value[:1] == " ":
            name, value = _pair(line)
        if name in values:
            values[name].append(value)
        else:
            values[name] = [value]
    if not distinct(tuple(values)):
        return _collected(_pair(line) for line in lines)
    return values


def _pair(line: str) -> tuple[str, str | bytes]:
    name, colon, written = line.partition(":")
    if not colon:
        raise Unfit("bad_line", "A line of the entry has no colon.")
    return name, _value(written)


def _raw_pair(line: bytes) -> tuple[str, str | bytes]:
    """For lines some tools write against the rule, with values in a character set of their own: the bytes are kept."""
    try:
        return _pair(line.decode())
    except UnicodeDecodeError:
        name, _, value = line.partition(b":")
        if not name.isascii() or value[:1] in (b":", b"<"):
            raise Unfit("bad_line", "A line of the entry is not ASCII where it has to be.") from None
        return name.decode(), value.lstrip(b" ")


def _value(written: str) -> str | bytes:
    """The value after the first colon of a line: plain, or in base64 after another colon."""
    if written[:1] == "<":
        raise Unfit("external_value", "A value is kept in another file, which is never opened.")
    if written[:1] != ":":
        return written.lstrip(" ")
    try:
        data = a2b_base64(written[1:].strip(" "), strict_mode=True)
    except ValueError:
        raise Unfit("bad_base64", "A value is not valid base64.") from None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _collected(pairs: Iterable[tuple[str, str | bytes]]) -> dict[str, Values]:
    """Values by attribute where one attribute is spelt in several ways: the first spelling holds them all."""
    values: dict[str, Values] = {}
    spellings: dict[str, str] = {}
    for name, value in pairs:
        values.setdefault(spellings.setdefault(name.lower(), name), []).append(value)
    distinct(tuple(values))
    return values


@lru_cache(maxsize=1024)
def distinct(names: tuple[str, ...]) -> bool:
    """Whether no two names differ in case alone. Entries share few combinations of names, hence the cache."""
    if len(names) > MOST_ATTRIBUTES:
        raise Unfit("too_large", f"The entry has more than {MOST_ATTRIBUTES} attributes.")
    for name in names:
        if not _NAME(name) or name.lower() == "dn":
            raise Unfit("bad_line", "A line of the entry does not begin with the name of an attribute.")
    return len({name.lower() for name in names}) == len(names)


def write_entry(dn: str, attributes: Attributes) -> bytes:
    """One entry, its attributes and values in the order given, and the empty line that ends it."""
    lines = [_line("dn", dn)]
    for name, values in attributes.items():
        lines += [_line(name, value) for value in values]
    lines.append("\n")
    return "".join(lines).encode("ascii")


def _line(name: str, value: str | bytes) -> str:
    if isinstance(value, str) and _SAFE(value):
        line = f"{name}: {value}" if value else f"{name}:"
    else:
        data = value.encode() if isinstance(value, str) else value
        line = f"{name}:: {b64encode(data).decode('ascii')}"
    if len(line) <= _WIDTH:
        return line + "\n"
    parts = [line[:_WIDTH]]
    parts += [line[start : start + _WIDTH - 1] for start in range(_WIDTH, len(line), _WIDTH - 1)]
    return "\n ".join(parts) + "\n"
