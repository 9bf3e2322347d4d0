"""One real PostgreSQL and one real Valkey for the whole run, and a fresh world of tenants for each test that asks."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from flask import Flask

from broker import config, embedded, ids, migrations
from broker.config import Config
from broker.context import Scope
from broker.db import connect, db, platform_scope
from broker.embedded import Services
from broker.models import IdentityProvider, Partner, Tenant
from tests.casting import cast, platform, web
from tests.upstreams.fixtures import active_directory, slapd
from tests.upstreams.missing import pytest_terminal_summary

__all__ = ["active_directory", "cast", "platform", "pytest_terminal_summary", "slapd", "web"]


@dataclass(frozen=True)
class World:
    """A partner with its home tenant and two customers that must never meet."""

    partner_id: str
    home: Scope
    acme: Scope
    globex: Scope

    @property
    def tenants(self) -> tuple[Scope, Scope]:
        return self.acme, self.globex


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The process configuration of the test run: everything embedded, plain http on loopback allowed."""
    return config.load(
        {"SCAIKEY_DATA_DIR": str(tmp_path_factory.mktemp("scaikey")), "SCAIKEY_ALLOW_HTTP_LOOPBACK": "1"}
    )


@pytest.fixture(scope="session")
def services(settings: Config) -> Iterator[Services]:
    running = embedded.start(settings, durable=False)
    try:
        migrations.upgrade(running.owner_database_url)
        yield running
        check_counts(running)
    finally:
        running.stop()


def check_counts(services: Services) -> None:
    """Whatever came and went, what the database keeps of how many there are is how many there are."""
    wrong = """
        SELECT * FROM (SELECT tenant_id, type, sum(resources) AS kept FROM resource_counts GROUP BY 1, 2) k
        FULL JOIN (SELECT tenant_id, type, count(*) AS there FROM resources
                   WHERE removed_at IS NULL AND user_type IS DISTINCT FROM 'ServiceAccount' GROUP BY 1, 2) r
        USING (tenant_id, type) WHERE coalesce(kept, 0) <> coalesce(there, 0)"""
    with psycopg.connect(services.platform_database_url.replace("+psycopg", "")) as connection:
        assert connection.execute(wrong).fetchall() == []


@pytest.fixture(scope="session")
def engines(services: Services) -> Iterator[Flask]:
    """A bare Flask app that owns the two engines: what the lower floors need."""
    app = Flask("tests", root_path=str(Path(__file__).parent))
    connect(app, url=services.database_url, platform_url=services.platform_database_url, statement_timeout_ms=30_000)
    yield app
    with app.app_context():
        for engine in db.engines.values():
            engine.dispose()


@pytest.fixture
def app(engines: Flask) -> Iterator[Flask]:
    with engines.app_context():
        yield engines


@pytest.fixture
def world(app: Flask) -> World:
    return make_world()


def make_world() -> World:
    """Insert a partner, its home and two customers with names nobody else has."""
    tag = secrets.token_hex(4)
    partner_id = ids.new("prt")
    scopes = {}
    with platform_scope() as session:
        session.add(Partner(id=partner_id, name=f"Partner {tag}", slug=f"partner-{tag}"))
        session.flush()
        for name, kind in (("home", "home"), ("acme", "customer"), ("globex", "customer")):
            slug = f"partner-{tag}-home" if kind == "home" else f"{name}-{tag}"
            tenant = Tenant(id=ids.new("tnt"), partner_id=partner_id, name=name.title(), slug=slug, kind=kind)
            session.add(tenant)
            scopes[name] = Scope(tenant.id, partner_id, tenant.kind, slug)  # type: ignore[arg-type]
        session.flush()
        partner = session.get(Partner, partner_id)
        assert partner is not None
        partner.home_tenant_id = scopes["home"].tenant_id
    return World(partner_id, scopes["home"], scopes["acme"], scopes["globex"])


def make_provider(scope: Scope, name: str = "Active Directory", **fields: object) -> str:
    """An `ldap` provider of the tenant; returns its id."""
    provider_id = ids.new("idp")
    with platform_scope() as session:
        session.add(
            IdentityProvider(tenant_id=scope.tenant_id, id=provider_id, kind="ldap", name=name, **fields)  # type: ignore[arg-type]
        )
    return provider_id


DATA = Path(__file__).parent / "data"
