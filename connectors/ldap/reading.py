"""Entries of a live server turned into changes: the same records that an export of the same entries would give.

Owns paged reading, values that come in ranges, and reading single entries again by their keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from uuid import UUID

from connectors import ldif
from connectors.ldap import entries
from connectors.ldap.scope import Scope, batches
from connectors.ldap.session import Session
from connectors.ldap.wire import Entry
from connectors.ldif import Unfit, Values
from connectors.port import Gone, Misconfigured, Record, Refused, Unreadable

_NO_SUCH_BASE = frozenset({"noSuchObject", "referral", "invalidDNSyntax"})


class Reader:
    def __init__(self, session: Session, scope: Scope, page_size: int) -> None:
        self.session = session
        self.scope = scope
        self.page_size = page_size

    def everything(self) -> Iterator[list[Record | Gone | Unreadable]]:
        """All that is in scope; that it ends is the proof that the server has given everything."""
        for base in self.scope.bases:
            for page in self.pages(base, self.scope.filter, self.scope.attributes):
                yield [self.change(entry) for entry in page]

    def again(self, keys: Sequence[str], filter: str = "") -> Iterator[tuple[str, Record | Unreadable]]:
        """Those of these entries that are in scope now, or in what of it the filter says, each with its key."""
        for entry in self.found(keys, filter or self.scope.filter, self.scope.attributes):
            change = self.change(entry)
            if not isinstance(change, Gone):
                yield self.scope.key_of(entry) or "", change

    def found(self, keys: Sequence[str], filter: str, attributes: Sequence[str]) -> Iterator[Entry]:
        for batch in batches([key for key in keys if _is_key(key)]):
            for base in self.scope.bases:
                for page in self.pages(base, f"(&{filter}{self.scope.named(batch)})", attributes):
                    yield from page

    def pages(self, base: str, filter: str, attributes: Sequence[str]) -> Iterator[list[Entry]]:
        try:
            yield from self.session.pages(base, filter, attributes, self.page_size)
        except Refused as error:
            if error.code not in _NO_SUCH_BASE:
                raise
            text = f"{base} is not on {self.session.server}, or the account may not see it ({error.code})."
            raise Misconfigured(text, {"base_dns": text}) from None

    def change(self, entry: Entry) -> Record | Gone | Unreadable:
        try:
            name = entry.dn.decode()
        except UnicodeDecodeError:
            name = None
        position = name or entry.dn.decode("utf-8", "replace")
        try:
            if name is None:
                raise Unfit("bad_dn", "The name of the entry is not valid UTF-8.")
            if entry.size > ldif.LARGEST:
                raise Unfit("too_large", f"The entry is longer than {ldif.LARGEST} bytes.")
            return entries.read(name, self._values(entry), position)
        except Unfit as unfit:
            return entries.unreadable(position, unfit, name)

    def _values(self, entry: Entry) -> dict[str, Values]:
        """As `ldif.Reader` gives them: text where it is UTF-8, and no attribute without a value. Raises Unfit."""
        held: dict[str, Values] = {}
        for name, values in entry.attributes.items():
            if ";" in name and (part := entries.RANGE(name)):
                values = [*values, *self._rest(entry, part["name"], part["high"])]
                name = part["name"]
            if values:
                held[name] = [_value(value) for value in values]
        ldif.distinct(tuple(held))
        return held

    def _rest(self, entry: Entry, name: str, high: str) -> Iterator[bytes]:
        """The values after those that the server was willing to give at once."""
        size, low = entry.size, -1
        while high != "*":
            if int(high) < low:
                raise Unfit("partial_values", f"The server does not go on behind the first {low} values of {name}.")
            low = int(high) + 1
            more = self.session.entry(entry.dn.decode(), [f"{name};range={low}-*"])
            parts = [(entries.RANGE(held), values) for held, values in (more.attributes if more else {}).items()]
            part, values = next(((part, values) for part, values in parts if part), (None, []))
            if part is None or part["low"] != str(low) or not values:
                raise Unfit("partial_values", f"The server gives only the first {low} values of {name}.")
            size += more.size if more else 0
            if size > ldif.LARGEST:
                raise Unfit("too_large", f"The entry is longer than {ldif.LARGEST} bytes.")
            yield from values
            high = part["high"]


def _value(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _is_key(key: str) -> bool:
    try:
        return str(UUID(key)) == key
    except ValueError:
        return False
