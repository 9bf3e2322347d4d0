"""An exported LDIF file read as a full pass.

Owns the order, the pages and the cursor of the pass. The file format is `ldif`'s, what entries mean `entries`'.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from connectors import dn, ldif
from connectors.ldap import entries
from connectors.ldap.config import Config
from connectors.port import Change, CursorExpired, Misconfigured, Page, Unreachable, UpstreamError

RECORDS_PER_PAGE = 1000
BYTES_PER_PAGE = 4 * 1024 * 1024

_CURSOR = re.compile(r"ldif1:(?P<digest>[0-9a-f]+):(?P<offset>[0-9]{1,18}):(?P<awaiting>[01])").fullmatch


class LdifDirectory:
    """An LDIF export as a ChangeFeed: always a full pass, in the order of the file, in bounded memory.

    A cursor names the file by a digest of all its bytes and expires with any other file. The last page comes only
    when the file proves complete; after its own cursor it comes again, without changes.
    """

    def __init__(self, path: str | os.PathLike[str], config: Config | None = None) -> None:
        """Raises Misconfigured for a directory that is read from its server: the two would undo one another."""
        if config and config.source != "ldif":
            raise Misconfigured("This directory is read from its server, not from files.")
        self.path = Path(path)
        self.base = dn.fold(config.base_dn) if config and config.base_dn else ""

    def changes_since(self, cursor: str | None) -> Iterator[Page]:
        try:
            with self.path.open("rb") as file:
                yield from self._pages(file, cursor)
        except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
            raise Misconfigured(f"The file cannot be opened: {error.strerror}.") from None
        except OSError as error:
            raise Unreachable(f"The file cannot be read: {error.strerror}.") from None

    def _pages(self, file: BinaryIO, cursor: str | None) -> Iterator[Page]:
        before = os.fstat(file.fileno())
        digest = ldif.fingerprint(file)
        end, awaiting = _opened(cursor, digest, before.st_size) if cursor is not None else (0, False)
        begun = end
        changes: list[Change] = []

        def page(last: bool) -> Page:
            mark = f"ldif1:{digest}:{end}:{awaiting:d}"
            done = before.st_size if last else end
            return Page(tuple(changes), mark, last, "full", done=done, total=before.st_size)

        reader = ldif.Reader(file, end, awaiting)
        try:
            for entry in reader:
                if len(changes) >= RECORDS_PER_PAGE or (changes and entry.end - begun > BYTES_PER_PAGE):
                    yield page(last=False)
                    changes, begun = [], end
                changes.append(self._change(entry))
                end, awaiting = entry.end, reader.awaiting
        except UpstreamError:
            if changes:
                yield page(last=False)
            raise
        after = os.fstat(file.fileno())
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise CursorExpired("The file was changed while it was read.")
        yield page(last=True)

    def _change(self, entry: ldif.Entry | ldif.Flaw) -> Change:
        position = f"byte {entry.start}"
        if isinstance(entry, ldif.Flaw):
            return entries.unreadable(position, ldif.Unfit(entry.reason, entry.detail), entry.dn)
        return entries.read(entry.dn, entry.attributes, position, self.base)


def _opened(cursor: str, digest: str, size: int) -> tuple[int, bool]:
    found = _CURSOR(cursor)
    if found is None or found["digest"] != digest or int(found["offset"]) > size:
        raise CursorExpired("The cursor is of another file.")
    return int(found["offset"]), found["awaiting"] == "1"
