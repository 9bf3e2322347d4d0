"""What a receiver shows: one resource of its own, and everything at one that cannot search.

Owns the names by which somebody is looked for, and the map of a receiver that has to be listed for it: read once,
believed for a minute and until an answer contradicts it. It is as large as one answer may be.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from broker.attributes import fold

_KEYS = ("externalId", "userName", "displayName")
_BELIEVED = 60.0


@dataclass(frozen=True, slots=True)
class Remote:
    """A resource as the receiver shows it."""

    id: str
    document: Mapping[str, Any]

    def get(self, name: str) -> Any:
        """One attribute; SCIM's attribute names know no case (RFC 7643 §2.1)."""
        if name in self.document:
            return self.document[name]
        return next((value for key, value in self.document.items() if key.lower() == name.lower()), None)

    def agrees(self, attribute: str, value: str) -> bool:
        """An attribute that is not shown proves nothing."""
        shown = self.get(attribute)
        return shown is None or _key(attribute, str(shown)) == _key(attribute, value)


class Listing:
    """Everybody at one receiver by what he is looked for. One thread reads, the others wait for what it read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, dict[tuple[str, str], list[Remote]]]] = {}

    def find(self, kind: str, attribute: str, value: str, read: Callable[[], Sequence[Remote]]) -> list[Remote]:
        with self._lock:
            until, known = self._known.get(kind, (0.0, {}))
            if time.monotonic() > until:
                known = {}
                for remote in read():
                    _put(known, remote)
                self._known[kind] = time.monotonic() + _BELIEVED, known
            return list(known.get((attribute, _key(attribute, value)), ()))

    def add(self, kind: str, remote: Remote) -> None:
        """Somebody who was made since it was read."""
        with self._lock:
            if kind in self._known:
                _put(self._known[kind][1], remote)

    def forget(self) -> None:
        with self._lock:
            self._known.clear()


def _put(known: dict[tuple[str, str], list[Remote]], remote: Remote) -> None:
    names = {name: value for name in _KEYS if isinstance(value := remote.get(name), str)}
    little = Remote(remote.id, names)
    for name, value in names.items():
        known.setdefault((name, _key(name, value)), []).append(little)


def _key(attribute: str, value: str) -> str:
    return value if attribute == "externalId" else fold(value)
