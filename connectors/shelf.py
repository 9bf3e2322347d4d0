"""A shelf in the memory of this process: what connectors keep between calls when nobody hands them another.

Owns its bound and the passing of time. Nothing on it is missed by another process or after a restart.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_MOST = 64


class MemoryShelf:
    """A `port.Shelf`. Safe to share between threads; `clock` counts seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: dict[str, tuple[float, bytes]] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> bytes | None:
        with self._lock:
            until, value = self._kept.get(name, (0.0, b""))
            if name in self._kept and until > self._clock():
                return value
            self._kept.pop(name, None)
            return None

    def put(self, name: str, value: bytes, seconds: float) -> None:
        with self._lock:
            self._kept.pop(name, None)
            self._kept[name] = (self._clock() + seconds, value)
            if len(self._kept) > _MOST:
                self._kept.pop(next(iter(self._kept)))
