"""An organisation as its directory's export shows it: counted, and changed the way its administrators would.

Owns a reading of LDIF of its own, apart from the product's, so that the demo checks the product against the file and
not against itself. It knows what a directory does besides what it is told: who leaves also leaves every list that
names him. Entries nobody touched are written as they were.
"""

from __future__ import annotations

import base64
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_DISABLED = 0x2
_UNIX_EPOCH = 11_644_473_600
_NEVER = 0x7FFF_FFFF_FFFF_FFFF


@dataclass
class Entry:
    """One entry, a line per value, unfolded."""

    lines: list[bytes]

    def values(self, name: str) -> list[bytes]:
        wanted = name.lower().encode()
        return [_value(line) for line in self.lines if _name(line) == wanted]

    def first(self, name: str) -> str | None:
        return next((value.decode() for value in self.values(name)), None)

    @property
    def dn(self) -> str:
        return _value(self.lines[0]).decode()

    def set(self, name: str, value: str) -> None:
        """Replace the only value of an attribute."""
        wanted = name.lower().encode()
        self.lines = [_line(name, value) if _name(line) == wanted else line for line in self.lines]

    def add(self, name: str, value: str) -> None:
        """One more value, after those there are."""
        wanted = name.lower().encode()
        places = [place for place, line in enumerate(self.lines) if _name(line) == wanted]
        self.lines.insert(places[-1] + 1 if places else len(self.lines), _line(name, value))

    def drop(self, is_unwanted: Callable[[bytes, bytes], bool]) -> None:
        """Without the values, told by lower-case name and octets, that are unwanted; never the entry's own name."""
        self.lines[1:] = [line for line in self.lines[1:] if not is_unwanted(_name(line), _value(line))]

    def kind(self) -> str:
        """`person`, `group`, `unit`, or `other` for what is nobody and no list of anybody."""
        classes = {value.lower() for value in self.values("objectClass")}
        if b"user" in classes and b"computer" not in classes:
            return "person"
        return "group" if b"group" in classes else "unit" if b"organizationalunit" in classes else "other"

    def may_sign_in(self) -> bool:
        """Neither disabled nor expired."""
        expires = int(self.first("accountExpires") or 0)
        over = expires not in (0, _NEVER) and expires / 10_000_000 - _UNIX_EPOCH < time.time()
        return not int(self.first("userAccountControl") or 0) & _DISABLED and not over


class Organisation:
    """All entries of one export."""

    def __init__(self, path: Path) -> None:
        blocks = path.read_bytes().replace(b"\n ", b"").split(b"\n\n")
        self._blocks = [Entry(block.splitlines()) for block in blocks if block.strip()]

    def write(self, path: Path) -> Path:
        path.write_bytes(b"\n\n".join(b"\n".join(entry.lines) for entry in self._blocks) + b"\n")
        return path

    def entries(self) -> Iterator[Entry]:
        return (entry for entry in self._blocks if _name(entry.lines[0]) == b"dn")

    def counted(self) -> Counter[str]:
        """How many entries of each kind."""
        return Counter(entry.kind() for entry in self.entries())

    def people(self) -> dict[str, Entry]:
        """By the name they sign in with."""
        return {_sign_in_name(entry): entry for entry in self.entries() if entry.kind() == "person"}

    def active_people(self) -> dict[str, Entry]:
        return {name: entry for name, entry in self.people().items() if entry.may_sign_in()}

    def groups(self) -> dict[str, Entry]:
        return {entry.first("cn") or entry.dn: entry for entry in self.entries() if entry.kind() == "group"}

    def active_members(self) -> dict[str, set[str]]:
        """Group to the names of its active people and of its groups, primary groups counted."""
        people, groups = self.active_people(), self.groups()
        known = {entry.dn: name for named in (people, groups) for name, entry in named.items()}
        members = {
            name: {known[dn] for value in entry.values("member") if (dn := value.decode()) in known}
            for name, entry in groups.items()
        }
        of_number = {_relative_id(entry): name for name, entry in groups.items()}
        for name, entry in people.items():
            if (group := of_number.get(int(entry.first("primaryGroupID") or 0))) is not None:
                members[group].add(name)
        return members

    def leave(self, person: str) -> None:
        """Somebody's entry is deleted, and with it every mention."""
        gone = self.people()[person]
        mention = gone.dn.encode()
        self._without([gone])
        for entry in self.entries():
            entry.drop(lambda _, value: value == mention)

    def disable(self, person: str) -> None:
        entry = self.people()[person]
        entry.set("userAccountControl", str(int(entry.first("userAccountControl") or 0) | _DISABLED))

    def rename_department(self, old: str, new: str) -> int:
        """Returns how many people it moved."""
        moved = [entry for entry in self.entries() if entry.first("department") == old]
        for entry in moved:
            entry.set("department", new)
        return len(moved)

    def move(self, person: str, from_group: str, to_group: str) -> None:
        entry, groups = self.people()[person], self.groups()
        left, joined = groups[from_group], groups[to_group]
        left.drop(lambda name, value: name == b"member" and value.decode() == entry.dn)
        joined.add("member", entry.dn)
        entry.drop(lambda name, value: name == b"memberof" and value.decode() == left.dn)
        entry.add("memberOf", joined.dn)

    def halve(self) -> int:
        """Every second person is missing, though lists name them still: an export made with too few rights.

        Returns how many.
        """
        missing = list(self.people().values())[1::2]
        self._without(missing)
        return len(missing)

    def _without(self, entries: Sequence[Entry]) -> None:
        unwanted = {id(entry) for entry in entries}
        self._blocks = [entry for entry in self._blocks if id(entry) not in unwanted]


def _sign_in_name(entry: Entry) -> str:
    return entry.first("userPrincipalName") or entry.first("sAMAccountName") or entry.dn


def _relative_id(entry: Entry) -> int:
    """The last part of an objectSid."""
    number: int = struct.unpack("<I", entry.values("objectSid")[0][-4:])[0]
    return number


def _name(line: bytes) -> bytes:
    return line.partition(b":")[0].lower()


def _value(line: bytes) -> bytes:
    rest = line.partition(b":")[2]
    return base64.b64decode(rest[1:]) if rest.startswith(b":") else rest.strip()


def _line(name: str, value: str) -> bytes:
    return f"{name}:: ".encode() + base64.b64encode(value.encode())
