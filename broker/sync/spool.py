"""A pass that has been read and put by, so that a rehearsal opens its one transaction only when the network is done.

The pages are kept in a file without a name, which nobody else can open and which ends with the process.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Iterator
from typing import IO

from connectors.port import ChangeFeed, CursorExpired, Page


class Spool:
    """What `feed` said after `cursor`, as a ChangeFeed. Raises what the feed raises."""

    def __init__(self, feed: ChangeFeed, cursor: str | None, each: Callable[[Page], None]) -> None:
        """`each` is told of every page as it arrives."""
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self.cursor = cursor
        try:
            for page in feed.changes_since(cursor):
                pickle.dump(page, self._file, pickle.HIGHEST_PROTOCOL)
                each(page)
                if page.last:
                    break
        except BaseException:
            self.close()
            raise

    def changes_since(self, cursor: str | None) -> Iterator[Page]:
        if cursor != self.cursor:
            raise CursorExpired("Something else was put by.")
        self._file.seek(0)
        while True:
            try:
                page: Page = pickle.load(self._file)  # noqa: S301 - our own, and nobody else can have written it
            except EOFError:
                return
            yield page

    def close(self) -> None:
        self._file.close()
