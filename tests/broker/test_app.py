"""Assembly: what stops a start, and what every assembled app does alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask

from broker import app as assembly
from broker import doors, migrations
from broker.config import Config
from broker.db import db
from broker.embedded import Services

Assemble = Callable[..., Flask]


@pytest.fixture
def assemble(services: Services, settings: Config) -> Iterator[Assemble]:
    """An app of this run's servers with another configuration, disconnected afterwards."""
    made = []

    def make(role: Any = "web", **changes: Any) -> Flask:
        app = assembly.create_app(replace(services.configure(settings), **changes), role=role)
        made.append(app)
        return app

    yield make
    for app in made:
        with app.app_context():
            for engine in db.engines.values():
                engine.dispose()


def test_a_role_that_could_cross_the_wall_stops_the_start(assemble: Assemble, services: Services) -> None:
    for url, complaint in (
        (services.owner_database_url, "owns the tables"),
        (services.platform_database_url, "bypasses row-level security"),
    ):
        with pytest.raises(assembly.StartRefused, match=complaint):
            assemble(database_url=url)
    with pytest.raises(assembly.StartRefused, match="platform role"):
        assemble(platform_database_url=services.database_url)


def test_a_schema_or_key_of_another_time_stops_the_start(assemble: Assemble, monkeypatch: pytest.MonkeyPatch) -> None:
    assemble()
    with pytest.raises(assembly.StartRefused, match="SCAIKEY_SECRET_KEY") as refusal:
        assemble(secret_key=bytes(32))
    assert "\n" not in str(refusal.value)
    monkeypatch.setattr(migrations, "head", lambda: "9999")
    with pytest.raises(assembly.StartRefused, match=r"migrations: .* 9999 is needed"):
        assemble()


def test_a_worker_opens_no_door(assemble: Assemble) -> None:
    assert list(assemble("worker").url_map.iter_rules()) == []


def test_a_public_address_is_kept_to_https_and_its_own_name(assemble: Assemble) -> None:
    app = assemble(base_url="https://id.example", allow_http_loopback=False)
    client = app.test_client()
    answer = client.get("/docs", headers={"Host": "id.example"})
    assert answer.status_code == 200 and "max-age" in answer.headers["Strict-Transport-Security"]
    assert client.get("/docs", headers={"Host": "localhost"}).status_code == 400
    assert client.get("/healthz", headers={"Host": "10.1.2.3"}).status_code == 200
    described = client.get("/api/v1/openapi.json", headers={"Host": "id.example"}).get_json()
    assert described["servers"] == [{"url": "https://id.example"}]


def test_metrics_are_told_where_they_are_enabled(assemble: Assemble) -> None:
    told = assemble(metrics_enabled=True).test_client().get("/metrics")
    assert told.status_code == 200 and told.mimetype == "text/plain"
    assert "scaikey_build_info" in told.get_data(as_text=True)


def test_readiness_fails_without_valkey_and_says_no_more(assemble: Assemble) -> None:
    answer = assemble(redis_url="redis://:secret@127.0.0.1:1/0").test_client().get("/readyz")
    assert answer.status_code == 503
    assert answer.get_json()["checks"] == {"database": "ok", "valkey": "failed", "migrations": "ok"}
    assert "127.0.0.1" not in answer.get_data(as_text=True)


def test_every_route_of_the_assembled_app_is_in_the_route_table(assemble: Assemble) -> None:
    app = assemble()
    assert len(doors.routes(app)) == len(list(app.url_map.iter_rules()))
    with app.app_context():
        assert doors.routes() == doors.routes(app)
