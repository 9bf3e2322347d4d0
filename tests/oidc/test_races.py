"""Many at once, with a slow database: one code yields tokens once, one refresh token has one successor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from werkzeug.test import TestResponse

from broker import db as database
from broker.db import db, unit
from broker.models import RefreshToken
from oidc.tokens import Issuer
from tests.conftest import World
from tests.oidc.party import Party, Pkce, make_app, make_service_account, party
from tests.oidc.test_rfc9700 import jwt_claims

CROWD = 50
LATENCY = 0.05


@pytest.fixture
def slowly(web: Flask, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every statement takes 50 ms longer."""

    def wait(*arguments: Any) -> None:
        time.sleep(LATENCY)

    ask = database._HotConnections._ask

    def slow_ask(self: Any, *arguments: Any) -> Any:
        time.sleep(LATENCY)
        return ask(self, *arguments)

    monkeypatch.setattr(database._HotConnections, "_ask", slow_ask)
    with web.app_context():
        engine = db.engine
    sa.event.listen(engine, "before_cursor_execute", wait)
    yield
    sa.event.remove(engine, "before_cursor_execute", wait)


@pytest.fixture
def wiki(web: Flask, world: World) -> Party:
    return party(web, make_app(world.acme), world.acme, world.acme)


def at_once(ask: Callable[[], TestResponse]) -> list[TestResponse]:
    ready = Barrier(CROWD)

    def go() -> TestResponse:
        ready.wait(30)
        return ask()

    with ThreadPoolExecutor(CROWD) as pool:
        return [future.result() for future in [pool.submit(go) for _ in range(CROWD)]]


def test_of_fifty_redemptions_of_one_code_one_succeeds(wiki: Party, slowly: None) -> None:
    pkce = Pkce()
    code = wiki.code(pkce)
    answers = at_once(lambda: wiki.redeem(code, pkce))
    good = [answer.json for answer in answers if answer.status_code == 200]
    assert len(good) == 1
    assert all(answer.json == {"error": "invalid_grant", "error_description": "Invalid 'code' in request."}
               for answer in answers if answer.status_code != 200)  # fmt: skip
    # And because it was shown again, what came of it is good no more.
    assert wiki.refresh(good[0]["refresh_token"]).status_code == 400


def test_fifty_refreshes_with_one_token_get_one_successor(wiki: Party, world: World, slowly: None) -> None:
    secret = wiki.signed_in()["refresh_token"]
    answers = at_once(lambda: wiki.refresh(secret))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json["refresh_token"] for answer in answers}) == 1
    assert len({answer.json["access_token"] for answer in answers}) == CROWD
    with wiki.web.app_context(), unit(world.acme) as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(RefreshToken)) == 2
    assert wiki.refresh(answers[0].json["refresh_token"]).status_code == 200


def test_a_sign_in_that_comes_back_many_times_yields_one_code(wiki: Party, world: World) -> None:
    stranger = wiki.web.test_client()
    where = stranger.get(wiki.path("authorize"), query_string=wiki.question(Pkce())).headers["Location"]
    cookie = f"sk-{world.acme.slug}"
    held = {cookie: wiki.client.get_cookie(cookie), f"sk_flow-{world.acme.slug}": stranger.get_cookie(
        f"sk_flow-{world.acme.slug}")}  # fmt: skip
    assert all(held.values())

    def come_back() -> TestResponse:
        browser = wiki.web.test_client()
        for name, one in held.items():
            browser.set_cookie(name, one.value if one else "", domain="localhost")
        return browser.get(wiki.path("authorize"), query_string={"flow": where.partition("flow=")[2]})

    answers = at_once(come_back)
    assert len([one for one in answers if "code=" in one.headers.get("Location", "")]) == 1


def test_threads_of_two_tenants_never_swap_their_issuer(web: Flask, world: World) -> None:
    accounts = {scope: make_service_account(scope) for scope in world.tenants}
    with web.app_context():
        urls = {scope: Issuer.of_tenant(scope).url for scope in world.tenants}
    wrong = []

    def ask(scope: Any) -> None:
        path = f"/api/v1/auth/tenants/{scope.slug}/oauth/token"
        client, form = web.test_client(), {"grant_type": "client_credentials"}
        for _ in range(25):
            claims = jwt_claims(client.post(path, data=form, headers=accounts[scope].basic).json["access_token"])
            if (claims["iss"], claims["tenant_id"], claims["sub"]) != (
                urls[scope],
                scope.tenant_id,
                accounts[scope].client_id,
            ):
                wrong.append(claims)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(ask, world.tenants[index % 2]) for index in range(8)]:
            future.result()
    assert not wrong
