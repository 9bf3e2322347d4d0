"""Home-realm discovery: the ways of signing in that a tenant has, and whose way somebody's e-mail address names.

An address leads to an upstream only through a domain that the tenant has verified and the upstream claims. People leave
for some upstreams; others, directories, check the password that is typed here. Nothing here depends on whether a person
exists.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from broker import access
from broker.context import Scope
from broker.db import db, hot
from broker.models import Domain, IdentityProvider, Password
from connectors import kinds


@dataclass(frozen=True, slots=True)
class Upstream:
    """A provider people may sign in at, and the verified domains that are sent there. `departs`: people leave for it,
    rather than show it their password here."""

    id: str
    name: str
    domains: frozenset[str]
    departs: bool = True


@dataclass(frozen=True, slots=True)
class Ways:
    """How people of one tenant sign in: all upstreams by rank, and whether anybody has a password of ours."""

    every: tuple[Upstream, ...]
    local: bool

    @property
    def upstreams(self) -> tuple[Upstream, ...]:
        """Those that people leave for."""
        return tuple(one for one in self.every if one.departs)

    @property
    def directories(self) -> tuple[Upstream, ...]:
        """Those that check passwords."""
        return tuple(one for one in self.every if not one.departs)

    @property
    def by_password(self) -> bool:
        """Whether a password that is typed here can be anybody's."""
        return self.local or bool(self.directories)

    def upstream(self, provider_id: str | None) -> Upstream | None:
        return next((one for one in self.every if one.id == provider_id), None)

    def home_of(self, username: str | None) -> Upstream | None:
        """The upstream an e-mail address belongs to; of several, the highest in rank."""
        domain = domain_of(username)
        return next((one for one in self.every if domain in one.domains), None) if domain else None

    def asked_about(self, username: str, named: str | None) -> tuple[Upstream, ...]:
        """The directories that may know this name: the one that is named, the one its address belongs to, or all."""
        wanted = next((one for one in self.directories if one.id == named), None) or self.home_of(username)
        if wanted is None:
            return self.directories
        return () if wanted.departs else (wanted,)


def ways() -> Ways:
    """Of the open unit's tenant."""
    session = db.session()
    providers = session.execute(
        sa.select(IdentityProvider.id, IdentityProvider.name, IdentityProvider.domains, IdentityProvider.kind)
        .where(IdentityProvider.enabled, IdentityProvider.sign_in)
        .order_by(IdentityProvider.priority, IdentityProvider.id)
    ).all()
    verified = set(session.scalars(sa.select(Domain.name).where(Domain.verified)))
    every = tuple(
        Upstream(id, name, frozenset(verified.intersection(domains)), kinds.signs_in(kind))
        for id, name, domains, kind in providers
    )
    local = not every or session.scalar(sa.select(sa.exists(sa.select(Password.user_id)))) is True
    return Ways(every, local)


def domain_of(username: str | None) -> str | None:
    """The domain of an e-mail address, as domains are stored; None for what is no address."""
    local, at, domain = (username or "").strip().rpartition("@")
    if not (local and at and domain):
        return None
    try:
        return domain.rstrip(".").encode("idna").decode("ascii").lower() or None
    except UnicodeError:
        return None


def tenant_of(identifier: str) -> Scope | None:
    """The tenant somebody names at the platform: by an address of a verified domain, or by its slug."""
    name = identifier.strip()
    if "@" not in name:
        return access.scope_for_slug(name.lower())
    domain = domain_of(name)
    rows = hot("SELECT tenant_id FROM scaikey_find_domain(%(name)s)", {"name": domain}) if domain else ()
    return access.scope_for_tenant(rows[0].tenant_id) if rows else None
