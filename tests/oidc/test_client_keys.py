"""A client's key set that does not answer: few wait for it, and it is not asked again at once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import pytest
from flask import Flask
from joserfc import jwk, jwt

from connectors import http
from oidc.tokens import Issuer
from tests.conftest import World
from tests.oidc.party import App, make_app

ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class KeySet:
    """What is at the client's `jwks_uri`: its keys, or silence for a while."""

    def __init__(self, key: jwk.RSAKey) -> None:
        self.asked = 0
        self.silent_for: float | None = None
        self._key = key

    def request(self, *_: Any, **__: Any) -> http.Response:
        self.asked += 1
        if self.silent_for is not None:
            time.sleep(self.silent_for)
            raise http.Timeout("late")
        return http.Response(200, {}, orjson.dumps({"keys": [self._key.as_dict(private=False)]}))


@pytest.fixture(scope="module")
def key() -> jwk.RSAKey:
    return jwk.RSAKey.generate_key(2048, {"kid": "k1"})


@pytest.fixture
def there(key: jwk.RSAKey, monkeypatch: pytest.MonkeyPatch) -> KeySet:
    made = KeySet(key)
    monkeypatch.setattr(http.HttpClient, "request", made.request)
    return made


@pytest.fixture
def wiki(world: World) -> App:
    return make_app(
        world.acme,
        secret=False,
        token_endpoint_auth_method="private_key_jwt",
        jwks_uri=f"https://client.example/{world.acme.slug}",
        grant_types=["client_credentials"],
        scopes=["read"],
    )


def shown(web: Flask, world: World, wiki: App, key: jwk.RSAKey, kid: str = "k1") -> int:
    """How the token endpoint answers an assertion of that key."""
    with web.app_context():
        issuer = Issuer.of_tenant(world.acme)
    claims = {"iss": wiki.client_id, "sub": wiki.client_id, "aud": issuer.url, "exp": int(time.time()) + 60}
    assertion = jwt.encode({"alg": "RS256", "kid": kid}, {**claims, "jti": str(time.monotonic_ns())}, key)
    form = {"client_assertion_type": ASSERTION, "client_assertion": assertion, "grant_type": "client_credentials"}
    path = f"/api/v1/auth/tenants/{world.acme.slug}/oauth/token"
    return web.test_client().post(path, data=form).status_code


def test_a_silent_key_set_keeps_one_and_is_not_asked_again_at_once(
    web: Flask, world: World, wiki: App, key: jwk.RSAKey, there: KeySet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.patience.QUEUE", 0.1)
    monkeypatch.setattr("broker.patience.OF_A_TENANT", 1)
    monkeypatch.setattr("broker.patience.REMEMBERED", 1.5)
    monkeypatch.setattr("oidc.client_keys._ASKED_AGAIN_AFTER", 0.0)
    there.silent_for = 1.0
    with ThreadPoolExecutor(5) as threads:
        answers = list(threads.map(lambda _: shown(web, world, wiki, key), range(5)))
    assert answers == [401] * 5 and there.asked == 1
    there.silent_for = None
    assert shown(web, world, wiki, key) == 401 and there.asked == 1
    time.sleep(1.6)
    assert shown(web, world, wiki, key) == 200 and there.asked == 2


def test_keys_that_are_known_serve_while_the_set_is_silent(
    web: Flask, world: World, wiki: App, key: jwk.RSAKey, there: KeySet, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shown(web, world, wiki, key) == 200
    monkeypatch.setattr("oidc.client_keys._ASKED_AGAIN_AFTER", 0.0)
    there.silent_for = 0.0
    assert shown(web, world, wiki, key, "forged") == 401 and there.asked == 2
    assert shown(web, world, wiki, key, "forged") == 401 and there.asked == 2
    assert shown(web, world, wiki, key) == 200
