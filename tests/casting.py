"""The whole app over HTTP, and one caller for each kind of person that may knock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from broker import credentials, ids
from broker.app import create_app
from broker.config import Config
from broker.context import Scope, acting, system
from broker.db import db, platform_scope, unit
from broker.directory import Directory
from broker.embedded import Services
from broker.models import ClientSecret, Partner, RoleAssignment
from broker.registry import partners

if TYPE_CHECKING:
    from tests.conftest import World

PREFIX = "/api/v1"
EVERY_SCOPE = ("scaikey:read", "scaikey:write", "scim", "introspect")


@pytest.fixture(scope="session")
def web(services: Services, settings: Config) -> Iterator[Flask]:
    """The assembled app."""
    assembled = create_app(services.configure(settings))
    yield assembled
    with assembled.app_context():
        for engine in db.engines.values():
            engine.dispose()


@dataclass
class Caller:
    """Somebody with a token, and the headers he always sends."""

    client: FlaskClient
    user_id: str = ""
    token: str | None = None
    tenant: str | None = None

    def at(self, scope: Scope | str | None) -> Caller:
        """The same caller, naming a tenant with X-Tenant-ID."""
        chosen = scope.tenant_id if isinstance(scope, Scope) else scope
        return Caller(self.client, self.user_id, self.token, chosen)

    def ask(self, method: str, path: str, body: Any = None, **options: Any) -> TestResponse:
        headers = dict(options.pop("headers", {}))
        if self.token:
            headers.setdefault("Authorization", f"Bearer {self.token}")
        if self.tenant:
            headers.setdefault("X-Tenant-ID", self.tenant)
        if body is not None:
            options["json"] = body
        return self.client.open(PREFIX + path, method=method, headers=headers, **options)

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.ask("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> TestResponse:
        return self.ask("POST", path, body, **options)

    def patch(self, path: str, body: Any, **options: Any) -> TestResponse:
        return self.ask("PATCH", path, body, **options)

    def delete(self, path: str, **options: Any) -> TestResponse:
        return self.ask("DELETE", path, **options)


@dataclass
class Cast:
    """The world's people, each made when first called for."""

    world: World
    platform: Scope
    client: FlaskClient

    @cached_property
    def nobody(self) -> Caller:
        return Caller(self.client)

    @cached_property
    def super_admin(self) -> Caller:
        return self._administrator(self.platform, "super_admin", None)

    @cached_property
    def partner_admin(self) -> Caller:
        return self._administrator(self.world.home, "partner_admin", self.world.partner_id)

    @cached_property
    def acme_admin(self) -> Caller:
        return self._administrator(self.acme, "tenant_admin", self.acme.tenant_id)

    @cached_property
    def globex_admin(self) -> Caller:
        return self._administrator(self.globex, "tenant_admin", self.globex.tenant_id)

    @cached_property
    def person(self) -> Caller:
        """Somebody of acme without any role."""
        return self.caller(make_user(self.acme), self.acme)

    def _administrator(self, scope: Scope, role: str, reach: str | None) -> Caller:
        user_id = make_user(scope)
        give_role(scope, user_id, role, reach)
        return self.caller(user_id, scope)

    @property
    def acme(self) -> Scope:
        return self.world.acme

    @property
    def globex(self) -> Scope:
        return self.world.globex

    @property
    def home(self) -> Scope:
        return self.world.home

    def caller(self, user_id: str, scope: Scope, **options: Any) -> Caller:
        return Caller(self.client, user_id, make_token(scope, user_id, **options))


def make_user(scope: Scope, name: str = "", **attributes: Any) -> str:
    with unit(scope), acting(system("test")):
        document = {"userName": name or ids.new("usr"), "active": True, **attributes}
        return Directory().create("User", document).id


def make_group(scope: Scope, *members: str) -> str:
    with unit(scope), acting(system("test")):
        document = {"displayName": ids.new("grp"), "members": [{"value": member} for member in members]}
        return Directory().create("Group", document).id


def make_token(scope: Scope, user_id: str, **options: Any) -> str:
    options.setdefault("scopes", EVERY_SCOPE)
    with unit(scope), acting(system("test")):
        return credentials.mint_pat(user_id, name="test", **options)[1]


def client_secrets(owner_id: str) -> list[bytes]:
    """The digests of the secrets that a client of the open unit's tenant may show now."""
    found = (
        db.session()
        .query(ClientSecret)
        .filter(
            sa.or_(ClientSecret.application_id == owner_id, ClientSecret.service_account_id == owner_id),
            sa.or_(ClientSecret.expires_at.is_(None), ClientSecret.expires_at > sa.func.now()),
        )
    )
    return [row.digest for row in found]


def give_role(scope: Scope, principal_id: str, role: str, reach: str | None) -> None:
    """A role straight into the table, for those who grant the first ones."""
    with unit(scope) as session:
        session.add(RoleAssignment(id=ids.new("rol"), role=role, principal_id=principal_id, scope_id=reach))


@pytest.fixture(scope="session")
def platform(engines: Flask) -> Scope:
    with engines.app_context(), platform_scope() as session, acting(system("test")):
        partner: Partner = partners.create_platform()
        session.flush()
        return Scope(partner.home_tenant_id, partner.id, "platform", "platform")


@pytest.fixture
def cast(web: Flask, world: World, platform: Scope) -> Cast:
    return Cast(world, platform, web.test_client())


def code(response: TestResponse) -> tuple[int, str]:
    """Status and problem code of a refusal."""
    assert response.mimetype == "application/problem+json", response.get_data(as_text=True)
    said = response.get_json()
    assert said["status"] == response.status_code and said["request_id"] == response.headers["X-Request-ID"]
    return response.status_code, said["code"]
