"""A live directory as the port knows it: read in full, followed, asked for single records, passwords and its health.

Owns the full pass and which module answers what. Every call has its own connection, and ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from connectors.egress import Egress
from connectors.ldap import cursors, diagnosis, follow, passwords
from connectors.ldap.config import Config
from connectors.ldap.cursors import Cursor
from connectors.ldap.reading import Reader
from connectors.ldap.scope import scope_of
from connectors.ldap.session import opened
from connectors.port import Identity, Page, Record, Step, Unreadable


class LiveDirectory:
    """ChangeFeed, Lookup, PasswordCheck and Diagnose of one directory."""

    def __init__(self, config: Config, egress: Egress) -> None:
        self.config = config
        self.egress = egress

    def changes_since(self, cursor: str | None) -> Iterator[Page]:
        if cursor is None:
            yield from self._everything()
        else:
            yield from follow.changes(self.config, self.egress, cursors.cursor(cursor))

    def records(self, keys: Sequence[str]) -> Iterator[Record | Unreadable]:
        with opened(self.config, self.egress) as session:
            reader = Reader(session, scope_of(self.config, session), self.config.page_size)
            yield from (change for _, change in reader.again(keys))

    def check_password(
        self, name: str, password: str, may_try: Callable[[str], bool] = lambda key: True
    ) -> Identity | None:
        return passwords.check(self.config, self.egress, name, password, may_try)

    def steps(self) -> Iterator[Step]:
        return diagnosis.steps(self.config, self.egress)

    def _everything(self) -> Iterator[Page]:
        with opened(self.config, self.egress) as session:
            scope = scope_of(self.config, session)
            following = follow.begin(self.config, session, scope)
            inside = str(Cursor("pass", scope.digest))
            read, held = 0, None
            for changes in Reader(session, scope, self.config.page_size).everything():
                if held is not None:
                    yield Page(held, inside, False, "full", done=read)
                held, read = changes, read + len(changes)
            yield Page(held or (), str(following), True, "full", done=read)
