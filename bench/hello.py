"""The least that a WSGI application can do: what its server could answer, were there nothing to answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_BODY = b'{"hello": "world"}'
_HEADERS = [("Content-Type", "application/json"), ("Content-Length", str(len(_BODY)))]


def app(_: dict[str, Any], start: Any) -> Iterable[bytes]:
    start("200 OK", _HEADERS)
    return [_BODY]
