"""Who acts, in which scope, in which request.

Owns `Actor`, `Scope` and the context variables that carry them. Decides nothing: what an actor may do is
`policy`'s, what a scope shows is `db`'s.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, get_args

from . import ids

TenantKind = Literal["customer", "home", "platform"]
ActorKind = Literal["user", "service_account", "application", "scim_token", "system", "anonymous"]


@dataclass(frozen=True, slots=True)
class Scope:
    """The one tenant a unit of work acts in; `tenant_id` None spans tenants and is made only by `platform_scope`."""

    tenant_id: str | None
    partner_id: str | None = None
    kind: TenantKind | None = None
    slug: str | None = None
    declarations: int = field(default=0, compare=False)
    """How often the tenant's custom attributes have changed, where a request has just read it; 0: it has none."""

    @property
    def spans_tenants(self) -> bool:
        return self.tenant_id is None


PLATFORM = Scope(None)
PLATFORM_TENANT = "platform"
"""Slug of the reserved partner and tenant that hold the super admins."""


AdminRole = Literal["tenant_admin", "partner_admin", "super_admin"]
ADMIN_ROLES: tuple[AdminRole, ...] = get_args(AdminRole)


@dataclass(frozen=True, slots=True)
class Grant:
    """One role held: `scope_id` is a `tnt_…`, a `prt_…`, or None for the platform."""

    role: AdminRole
    scope_id: str | None


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts. `id` is the principal, `credential_id` what it showed, `scopes` what that credential may be used
    for."""

    kind: ActorKind
    id: str
    tenant_id: str | None = None
    partner_id: str | None = None
    name: str = ""
    grants: frozenset[Grant] = frozenset()
    scopes: frozenset[str] = frozenset()
    credential_id: str | None = None
    audiences: frozenset[str] = field(default=frozenset())
    allow_password: bool = False
    mode: Literal["tolerant", "strict"] = "tolerant"
    """How the SCIM door hears it."""
    kept_by: str | None = None
    """The tenant that registered an application which acts for itself."""
    expires_at: datetime | None = None
    """When the credential ends."""

    @property
    def counted_as(self) -> str:
        """What its requests are counted by: a JWT is one of many that its holder may ask for."""
        shown = self.credential_id
        return shown if shown is not None and ids.is_id(shown) else self.id


ANONYMOUS = Actor("anonymous", "anonymous")


def system(name: str) -> Actor:
    """The actor of work nobody asked for in person: `system:sync`, `system:clock`."""
    return Actor("system", f"system:{name}", name=name)


_actor: ContextVar[Actor] = ContextVar("scaikey_actor", default=ANONYMOUS)
_request_id: ContextVar[str | None] = ContextVar("scaikey_request_id", default=None)


def current_actor() -> Actor:
    return _actor.get()


def current_request_id() -> str | None:
    return _request_id.get()


@contextmanager
def acting(actor: Actor, request_id: str | None = None) -> Iterator[Actor]:
    """Everything inside is done by `actor`; nests."""
    actor_token = _actor.set(actor)
    request_token = _request_id.set(request_id if request_id is not None else _request_id.get())
    try:
        yield actor
    finally:
        _request_id.reset(request_token)
        _actor.reset(actor_token)


def request_id_from(header: str | None) -> str:
    """The caller's `X-Request-ID` when it is 1 to 128 printable ASCII characters, else a new one."""
    if header and len(header) <= 128 and header.isascii() and header.isprintable():
        return header
    return secrets.token_hex(16)
