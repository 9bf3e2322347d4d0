"""Who asks the SCIM door too much is told when to come back, and nobody else notices."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from broker import allowance, bell, settings
from broker.db import unit
from tests.conftest import World
from tests.scim.conftest import Scim, admin_token_of, token_of

BULK = "urn:ietf:params:scim:api:messages:2.0:BulkRequest"
ERROR = "urn:ietf:params:scim:api:messages:2.0:Error"


def limit(world: World, rate: int, burst: int) -> None:
    with unit(world.acme):
        settings.change(world.acme, {"scim_requests_per_second": rate, "scim_burst": burst})
    allowance._limits.clear()


@pytest.fixture
def slow(acme: Scim, world: World) -> Iterator[Scim]:
    """A client who may ask five times at once and then once in a second."""
    limit(world, 1, 5)
    yield acme
    allowance._limits.clear()


def statuses(scim: Scim, count: int, path: str = "/Users?count=0") -> list[int]:
    return [scim.get(path).status_code for _ in range(count)]


def test_a_client_beyond_its_burst_is_told_when_to_come_back(slow: Scim) -> None:
    assert statuses(slow, 5) == [200] * 5
    refused = next(answer for answer in (slow.get("/Users") for _ in range(5)) if answer.status_code != 200)
    assert refused.status_code == 429 and refused.mimetype == "application/scim+json"
    assert refused.json["schemas"] == [ERROR] and refused.json["status"] == "429" and refused.json["detail"]
    wait = int(refused.headers["Retry-After"])
    assert 1 <= wait <= 2
    time.sleep(wait)
    assert slow.get("/Users").status_code == 200


def test_every_way_in_counts(slow: Scim) -> None:
    ada = slow.user("ada")
    paths = ["/ServiceProviderConfig", f"/Users/{ada}", "/Users/nobody", "/Groups"]
    assert [slow.get(path).status_code for path in paths] == [200, 200, 404, 200]
    answers = [slow.post("/Users", {"userName": f"eve{number}"}).status_code for number in range(4)]
    assert 429 in answers
    assert 429 in statuses(slow, 3, f"/Users/{ada}")


def test_a_method_that_no_path_takes_counts_too(slow: Scim) -> None:
    answers = [slow.delete("/Users") for _ in range(8)]
    assert [one.status_code for one in answers[:5]] == [405] * 5
    late = next(one for one in answers if one.status_code != 405)
    assert late.status_code == 429 and late.headers["Retry-After"] and "Allow" not in late.headers


def test_credentials_do_not_share_an_allowance(slow: Scim, globex: Scim, world: World) -> None:
    assert 429 in statuses(slow, 8)
    assert statuses(Scim(slow.app, slow.slug, token_of(world.acme)), 3) == [200] * 3
    admin = admin_token_of(world.acme, "tenant_admin", world.acme.tenant_id)
    assert statuses(Scim(slow.app, slow.slug, admin), 3) == [200] * 3
    assert statuses(globex, 8) == [200] * 8


def test_a_bulk_request_costs_its_operations(slow: Scim, world: World) -> None:
    limit(world, 10, 10)
    operations: list[dict[str, Any]] = [
        {"method": "POST", "path": "/Users", "bulkId": str(number), "data": {"userName": f"p{number}"}}
        for number in range(30)
    ]
    began = time.monotonic()
    assert slow.post("/Bulk", {"schemas": [BULK], "Operations": operations}).status_code == 200
    refused = slow.get("/Users")
    while refused.status_code == 429:
        assert int(refused.headers["Retry-After"]) <= 3
        time.sleep(0.1)
        refused = slow.get("/Users")
    assert time.monotonic() - began > 1.9


def test_twenty_five_requests_a_second_pass_without_anything_set(acme: Scim) -> None:
    assert settings.SETTINGS["scim_requests_per_second"].default >= 25
    assert statuses(acme, 100) == [200] * 100


def test_without_valkey_nobody_is_refused_and_the_log_says_so(slow: Scim, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(allowance.log, "warning", lambda text, *values: said.append(text % values))

    def gone() -> redis.Redis:
        raise redis.ConnectionError("gone")

    monkeypatch.setattr(bell, "connection", gone)
    monkeypatch.setitem(slow.app.extensions, allowance._SCRIPT, None)
    monkeypatch.setitem(slow.app.extensions, allowance._SILENT_UNTIL, 0.0)
    assert statuses(slow, 20) == [200] * 20
    assert said and all("gone" in one for one in said)


def test_most_requests_ask_nobody(acme: Scim, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    ask = allowance._asked
    monkeypatch.setattr(allowance, "_asked", lambda *args, **options: asked.append(args) or ask(*args, **options))
    monkeypatch.setattr(allowance, "HANDFUL_SECONDS", 60.0)
    assert statuses(acme, 50) == [200] * 50
    assert 1 <= len(asked) <= 3
