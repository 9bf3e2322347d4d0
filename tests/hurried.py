"""ScaiKey's web process where keys age faster: `granian --factory … tests.hurried:create`.

Every time limit of the signing keys is shorter by one factor, and nothing else is changed: how long others may keep
the key set, how long a process goes without reading its own, and the allowance for clocks.
"""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask

from broker.app import create_app
from oidc import keys

PACE = 100
_LIMITS = ("CACHED_FOR", "SKEW", "AHEAD", "REREAD_SECONDS", "UNKNOWN_SECONDS")
LIMITS = {name: getattr(keys, name) / PACE for name in _LIMITS}


def hurry(change: Callable[[object, str, object], None]) -> None:
    for name, limit in LIMITS.items():
        change(keys, name, limit)


def create() -> Flask:
    hurry(setattr)
    return create_app()
