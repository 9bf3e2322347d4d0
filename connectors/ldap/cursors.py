"""The cursor of a live directory: short printable text that says where following goes on, and of what.

Owns its form. `mode` is how changes are found, `scope` the digest of what is read; `place` is the server's cookie, the
count of a server's updates, or a moment.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, replace

from connectors.port import CursorExpired

LONGEST_COOKIE = 48 * 1024
_FORM = re.compile(
    r"ldap1:(?P<mode>dirsync|visible|usn|modified|full|pass):(?P<scope>[0-9a-f]{24}):(?P<place>[A-Za-z0-9_=.-]{0,65536})"
).fullmatch


@dataclass(frozen=True, slots=True)
class Cursor:
    """`visible` is DirSync without the right to replicate: what the account sees changing, deletions not among it.

    `pass` is a place inside a full pass, which dies with its connection.
    """

    mode: str
    scope: str
    place: str = ""

    def __str__(self) -> str:
        return f"ldap1:{self.mode}:{self.scope}:{self.place}"

    @property
    def cookie(self) -> bytes:
        """Raises CursorExpired."""
        try:
            return urlsafe_b64decode(self.place)
        except ValueError:
            raise CursorExpired("The cursor is damaged.") from None

    def at(self, place: str | bytes) -> Cursor:
        return replace(self, place=place if isinstance(place, str) else urlsafe_b64encode(place).decode())


def cursor(text: str) -> Cursor:
    """Raises CursorExpired."""
    found = _FORM(text)
    if found is None:
        raise CursorExpired("The cursor is of another connector, or of another version of this one.")
    return Cursor(found["mode"], found["scope"], found["place"])
