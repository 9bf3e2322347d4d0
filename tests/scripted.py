"""An upstream that says what a test wrote down, as a live provider of kind `ldap`.

Owns the directory of people that can be read in full or followed, and the hooks by which it misbehaves. Nothing here is
LDAP: what real servers do is under test in `tests/upstreams` and with the connector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from connectors import kinds, ldap
from connectors.port import Change, CursorExpired, Gone, Page, Record

PAGE = 10

CONFIG = {
    "source": "ldap",
    "servers": ["ldaps://localhost"],
    "bind_dn": "CN=reader",
    "bind_password": "a secret of this test",
    "base_dn": "DC=corp",
}
"""Settings under which a provider counts as live; nobody ever connects."""


def person(name: str, **more: Any) -> Record:
    said = {"cn": [name], "userPrincipalName": [f"{name}@corp.example"], **more.pop("attributes", {})}
    return Record(f"key-{name}", "user", f"CN={name},DC=corp", f"cn={name},dc=corp", said, **more)


@dataclass
class Directory:
    """What there is, and everything that ever changed; a cursor is a place in that history."""

    records: dict[str, Record] = field(default_factory=dict)
    history: list[Change] = field(default_factory=list)
    each_page: Callable[[Page], None] = lambda page: None
    """Called before a page is handed over; what it raises, the feed raises."""
    expires: bool = False
    """Whether cursors of deltas lead nowhere."""
    reads: list[str] = field(default_factory=list)

    def put(self, *records: Record) -> None:
        for record in records:
            self.records[record.key] = record
            self.history.append(record)

    def drop(self, *keys: str) -> None:
        for key in keys:
            del self.records[key]
            self.history.append(Gone(key))

    def changes_since(self, cursor: str | None) -> Iterator[Page]:
        now = f"at:{len(self.history)}"
        self.reads.append(cursor or "everything")
        if cursor is None:
            yield from self._pages(list(self.records.values()), "full", now)
            return
        kind, _, place = cursor.partition(":")
        if kind != "at" or self.expires:
            raise CursorExpired("That is no place any more.")
        yield from self._pages(self.history[int(place) :], "delta", now)

    def records_of(self, keys: Sequence[str]) -> Iterator[Record]:
        return (self.records[key] for key in keys if key in self.records)

    def _pages(self, changes: list[Any], kind: Any, after: str) -> Iterator[Page]:
        for start in range(0, max(len(changes), 1), PAGE):
            last = start + PAGE >= len(changes)
            page = Page(changes[start : start + PAGE], after if last else "middle:", last, kind)
            self.each_page(page)
            yield page


@dataclass
class Feed:
    """One connection's view of it, with the capabilities of a real one."""

    directory: Directory

    def changes_since(self, cursor: str | None) -> Iterator[Page]:
        return self.directory.changes_since(cursor)

    def records(self, keys: Sequence[str]) -> Iterator[Record]:
        return self.directory.records_of(keys)


def install(monkeypatch: pytest.MonkeyPatch, choose: Callable[[Any], Directory]) -> None:
    """Providers whose configuration `choose` knows are read from there."""

    def connects(config: Any, egress: Any) -> object | None:
        return None if config.source == "ldif" else Feed(choose(config))

    entry = kinds.KINDS["ldap"]._replace(connects=connects)
    monkeypatch.setattr(kinds, "KINDS", {**kinds.KINDS, "ldap": entry})
    assert entry.config is ldap.Config
