"""A tenant that follows a live directory and provisions a receiver: one word to catch up, and what is there then."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa

from broker import sync
from broker.context import Scope
from broker.db import unit
from broker.models import Event, IdentityProvider, Resource, SyncRun, SyncSkip
from broker.registry import applications, targets
from broker.sync import Order
from connectors import kinds
from connectors.egress import Egress
from connectors.ldif import write_entry
from scim import archive, push
from tests.canonical_ldif import canonical
from tests.conftest import make_provider
from tests.receivers import TOKEN, Remote
from tests.upstreams.samba import ActiveDirectory, Service
from tests.upstreams.slapd import OpenLdap

NAMED_BY = [{"from": "distinguishedName", "to": "nickName"}]
"""Lets the receiver see where in the directory somebody is."""

_KINDS = {b"user", b"group", b"organizationalUnit", b"inetOrgPerson", b"groupOfNames"}

Read = list[tuple[str, dict[str, list[bytes]]]]


class Following:
    """One provider of one tenant. `settings` are the connector's."""

    def __init__(self, scope: Scope, settings: Mapping[str, Any], **provider: Any) -> None:
        self.scope = scope
        self.settings = {"source": "ldap", "timeout": 60, **settings}
        self.provider_id = make_provider(scope, **provider)

    @classmethod
    def active_directory(
        cls, scope: Scope, directory: ActiveDirectory, service: Service, mode: str = "auto", **settings: Any
    ) -> Following:
        user, password = directory.service(service)
        account = {"bind_dn": user, "bind_password": password, "mode": mode, "base_dns": [directory.corp]}
        at = {"servers": [directory.url], "ca_certificates": directory.ca}
        return cls(scope, {**at, **account, **settings}, attribute_mapping=NAMED_BY)

    @classmethod
    def openldap(cls, scope: Scope, directory: OpenLdap, **settings: Any) -> Following:
        user, password = directory.service
        at = {"servers": [directory.url], "ca_certificates": directory.ca}
        return cls(scope, {**at, "bind_dn": user, "bind_password": password, **settings})

    def sync(self, *, full: bool = False) -> SyncRun:
        """One run from where the last one ended, which has to be a good one."""
        run = self.attempt(full=full)
        assert run.status == "done", f"{run.status}: {run.problem or run.hold_reason}; {self.skips(run)}"
        return run

    def attempt(self, *, full: bool = False) -> SyncRun:
        """One run, however it ends."""
        feed = kinds.live_feed("ldap", kinds.config_from("ldap", self.settings), Egress(loopback=True))
        assert feed is not None
        run_id = sync.pull(self.scope, self.provider_id, feed, Order(live=True, full=full))
        with unit(self.scope) as session:
            run = session.get_one(SyncRun, (self.scope.tenant_id, run_id))
            session.expunge(run)
            return run

    def guard(self, limits: Mapping[str, int]) -> None:
        """From now on the provider has a removal guard of its own."""
        with unit(self.scope) as session:
            session.get_one(IdentityProvider, (self.scope.tenant_id, self.provider_id)).removal_guard = dict(limits)

    def skips(self, run: SyncRun) -> list[tuple[str | None, str]]:
        with unit(self.scope) as session:
            found = session.scalars(sa.select(SyncSkip).where(SyncSkip.run_id == run.id).order_by(SyncSkip.no))
            return [(skip.name, skip.reason) for skip in found]

    def provision(self, remote: Remote, **values: Any) -> str:
        """Everybody at this receiver, from now on; returns the target's id."""
        with unit(self.scope):
            application = applications.create({"name": "Wiki", "type": "web"})
            auth = {"method": "bearer", "token": TOKEN}
            made = {"application_id": application.id, "base_url": remote.base_url, "auth": auth, "scope": "all"}
            return targets.create({**made, **values}).id

    def catch_up(self, *, full: bool = False) -> SyncRun:
        """One run, and everything that it owes sent."""
        run = self.sync(full=full)
        while push.is_due():
            push.drain(20)
        return run

    def exported(self, path: Path) -> Path:
        archive.export_ldif(self.scope, self.provider_id, path)
        return path

    def events(self, pattern: str = "%") -> list[str]:
        with unit(self.scope) as session:
            return list(session.scalars(sa.select(Event.name).where(Event.name.like(pattern)).order_by(Event.no)))

    def document(self, name: str, type_: str = "User") -> dict[str, Any] | None:
        """What we say of somebody who is there; None where nobody of that name is."""
        wanted = sa.select(Resource.document).where(
            Resource.type == type_, Resource.name == name, Resource.removed_at.is_(None)
        )
        with unit(self.scope) as session:
            document = session.scalar(wanted)
        return None if document is None else orjson.loads(document)


def read_canonically(entries: Read) -> list[str]:
    """What a plain search found of people, groups and units, in the form in which directories are compared."""
    wanted = []
    for dn, attributes in entries:
        classes = set(attributes.get("objectClass", ()))  # some entries show their names alone
        if classes & _KINDS and b"computer" not in classes:
            wanted.append((dn, attributes))
    return canonical(b"".join(write_entry(dn, dict(attributes)) for dn, attributes in wanted))
