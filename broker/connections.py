"""Who speaks for a provider: its connector, with the tenant's guarded HTTP client and a shelf of its own.

A shelf lives in this process and is forgotten when the provider changes. How long people wait for an upstream is
bounded here, over all requests of one step.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flask import current_app

from broker import running
from broker.models import IdentityProvider
from broker.registry import providers
from connectors import kinds
from connectors.http import HttpClient, Response, Timeout
from connectors.port import SignIn
from connectors.shelf import MemoryShelf
from scim import push

PATIENCE = 15.0
"""Seconds one step of a sign-in may take at an upstream, with all that is asked there."""

_CLIENTS = "scaikey.connections"
_SHELVES = 512
_lock = threading.Lock()
_shelves: OrderedDict[tuple[str, str, int], MemoryShelf] = OrderedDict()


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider as it was read in a unit of work, for use outside it."""

    id: str
    tenant_id: str
    name: str
    kind: str
    version: int
    config: Mapping[str, Any] = field(repr=False)


def provider_of(row: IdentityProvider) -> Provider:
    return Provider(row.id, row.tenant_id, row.name, row.kind, row.version, providers.full_config(row))


def connector_of(provider: Provider) -> SignIn | None:
    """The connector people sign in through, for one step; None for a kind that has no such. Raises Misconfigured."""
    config = kinds.config_from(provider.kind, provider.config)
    return kinds.sign_in(provider.kind, config, _Patient(http_client(provider.tenant_id)), shelf_of(provider))


def http_client(tenant_id: str) -> HttpClient:
    """The tenant's guarded client: it reaches what this tenant may reach, and its connections are nobody else's."""
    clients: dict[str, HttpClient] = current_app.extensions.setdefault(_CLIENTS, {})
    with _lock:
        if tenant_id not in clients:
            clients[tenant_id] = HttpClient(push.egress(running.config(), tenant_id))
        return clients[tenant_id]


def shelf_of(provider: Provider) -> MemoryShelf:
    key = provider.tenant_id, provider.id, provider.version
    with _lock:
        shelf = _shelves.setdefault(key, MemoryShelf())
        _shelves.move_to_end(key)
        while len(_shelves) > _SHELVES:
            _shelves.popitem(last=False)
        return shelf


class _Patient(HttpClient):
    """The client of one step: all its requests together keep one deadline."""

    def __init__(self, http: HttpClient, seconds: float = PATIENCE) -> None:
        self._http, self._until = http, time.monotonic() + seconds

    def request(self, method: str, url: str, *, timeout: float | None = None, **options: Any) -> Response:
        left = self._until - time.monotonic()
        if left <= 0:
            raise Timeout("the upstream took too long")
        return self._http.request(method, url, timeout=min(timeout or left, left, 10.0), **options)
