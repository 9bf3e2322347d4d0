"""Who speaks for a provider: its connector, with the tenant's guarded HTTP client and a shelf of its own.

A shelf lives in this process and is forgotten when the provider changes. How long people wait for an upstream, and how
many at once, is `broker.patience`'s.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from flask import current_app

from broker import running
from broker.models import IdentityProvider
from broker.patience import Place, Step, asking, testing
from broker.registry import providers
from connectors import kinds, port
from connectors.egress import Egress
from connectors.http import HttpClient
from connectors.port import ChangeFeed, Diagnose, PasswordCheck, SignIn, Unreachable
from connectors.shelf import MemoryShelf
from scim import push

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


@contextmanager
def connector_of(provider: Provider) -> Iterator[SignIn | None]:
    """The connector people sign in through, for one step; None for a kind that has no such. Raises Misconfigured."""
    config = kinds.config_from(provider.kind, provider.config)
    with _step(provider) as http:
        yield kinds.sign_in(provider.kind, config, http, shelf_of(provider))


@contextmanager
def password_check_of(provider: Provider) -> Iterator[PasswordCheck | None]:
    """What checks passwords at the provider, for one step; None where nothing does. Raises Misconfigured, and
    Unreachable where nobody may be asked now."""
    config = kinds.config_from(provider.kind, provider.config)
    with asking(_place(provider)) as until:
        yield kinds.password_check(provider.kind, config, replace(egress(provider.tenant_id), until=until))


@contextmanager
def diagnosis_of(provider: Provider, config: Any, callback: str) -> Iterator[Diagnose | None]:
    """What explains why the provider does not work: it asks, though there was no answer a moment ago. Where there is no
    turn to ask, that is what it says."""
    if not kinds.is_live(provider.kind, config):
        with _step(provider, again=True) as http:
            yield kinds.diagnose(provider.kind, config, http, callback=callback)
        return
    with ExitStack() as turn:
        try:
            until = turn.enter_context(testing(_place(provider)))
        except Unreachable as error:
            yield _Untold(str(error))
            return
        reaching = replace(egress(provider.tenant_id), until=until)
        yield kinds.diagnose(provider.kind, config, http_client(provider.tenant_id), egress=reaching)


@dataclass(frozen=True, slots=True)
class _Untold:
    why: str

    def steps(self) -> Iterator[port.Step]:
        yield port.Step("connection", False, f"Nobody was asked. {self.why}", "Test it again in a moment.")


def live_feed_of(provider: Provider) -> ChangeFeed | None:
    """The provider's live upstream; None for one that reads files or nobody. Raises Misconfigured."""
    config = kinds.config_from(provider.kind, provider.config)
    return kinds.live_feed(provider.kind, config, egress(provider.tenant_id))


def _step(provider: Provider, *, again: bool = False) -> Step:
    return Step(http_client(provider.tenant_id), _place(provider), again=again)


def _place(provider: Provider) -> Place:
    return Place(provider.tenant_id, provider.id, provider.version)


def http_client(tenant_id: str) -> HttpClient:
    """The tenant's guarded client: it reaches what this tenant may reach, and its connections are nobody else's."""
    clients: dict[str, HttpClient] = current_app.extensions.setdefault(_CLIENTS, {})
    with _lock:
        if tenant_id not in clients:
            clients[tenant_id] = HttpClient(egress(tenant_id))
        return clients[tenant_id]


def egress(tenant_id: str) -> Egress:
    """What the tenant's connections may reach, HTTP or not."""
    return push.egress(running.config(), tenant_id)


def shelf_of(provider: Provider) -> MemoryShelf:
    key = provider.tenant_id, provider.id, provider.version
    with _lock:
        shelf = _shelves.setdefault(key, MemoryShelf())
        _shelves.move_to_end(key)
        while len(_shelves) > _SHELVES:
            _shelves.popitem(last=False)
        return shelf
