"""The whole app over HTTP, and one caller for each kind of person that may knock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
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
from broker.models import Partner, RoleAssignment
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
    """The world's people: a super admin, the partner's admin, each customer's admin, and a person of acme."""

    world: World
    platform: Scope
    client: FlaskClient
    nobody: Caller
    super_admin: Caller
    partner_admin: Caller
    acme_admin: Caller
    globex_admin: Caller
    person: Caller

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
    client = web.test_client()

    def administrator(scope: Scope, role: str, reach: str | None) -> Caller:
        user_id = make_user(scope)
        give_role(scope, user_id, role, reach)
        return Caller(client, user_id, make_token(scope, user_id))

    person = make_user(world.acme)
    return Cast(
        world,
        platform,
        client,
        nobody=Caller(client),
        super_admin=administrator(platform, "super_admin", None),
        partner_admin=administrator(world.home, "partner_admin", world.partner_id),
        acme_admin=administrator(world.acme, "tenant_admin", world.acme.tenant_id),
        globex_admin=administrator(world.globex, "tenant_admin", world.globex.tenant_id),
        person=Caller(client, person, make_token(world.acme, person)),
    )


def code(response: TestResponse) -> tuple[int, str]:
    """Status and problem code of a refusal."""
    assert response.mimetype == "application/problem+json", response.get_data(as_text=True)
    said = response.get_json()
    assert said["status"] == response.status_code and said["request_id"] == response.headers["X-Request-ID"]
    return response.status_code, said["code"]
