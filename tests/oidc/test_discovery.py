"""What issuers publish: at every address the contract names, the same bytes, for everybody's scripts and caches."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from oidc import keys
from oidc.tokens import Issuer
from tests.conftest import World

PLATFORM = "/api/v1/platform"


Get = Callable[..., TestResponse]


@pytest.fixture
def get(web: Flask) -> Get:
    def ask(path: str, **headers: str) -> TestResponse:
        return web.test_client().get(path, headers=headers)

    return ask


def well_known(path: str) -> tuple[str, ...]:
    return (
        f"{path}/.well-known/openid-configuration",
        f"/.well-known/openid-configuration{path}",
        f"/.well-known/oauth-authorization-server{path}",
    )


def test_each_form_of_discovery_tells_of_its_issuer(web: Flask, world: World, get: Get) -> None:
    with web.app_context():
        issuers = {
            f"/api/v1/auth/tenants/{world.acme.slug}": Issuer.of_tenant(world.acme),
            f"/api/v1/auth/tenants/{world.globex.slug}": Issuer.of_tenant(world.globex),
            PLATFORM: Issuer.platform(),
        }
    for path, issuer in issuers.items():
        bodies = {get(form).data for form in well_known(path)}
        assert len(bodies) == 1
        said = get(well_known(path)[0]).json
        assert said["issuer"] == issuer.url
        assert said["token_endpoint"] == issuer.url + "/oauth/token"
        assert said["jwks_uri"] == issuer.url + "/oauth/jwks"
        assert said["acr_values_supported"] == ["1"]
    assert get("/.well-known/openid-configuration").data == get(well_known(PLATFORM)[0]).data


def test_all_issuers_publish_one_key_set(web: Flask, world: World, get: Get) -> None:
    paths = (f"/api/v1/auth/tenants/{world.acme.slug}/oauth/jwks", f"{PLATFORM}/oauth/jwks", "/.well-known/jwks.json")
    answers = [get(path) for path in paths]
    assert len({answer.data for answer in answers}) == 1
    keys = answers[0].json["keys"]
    assert {key["alg"] for key in keys} == {"RS256", "ES256"} and len({key["kid"] for key in keys}) == len(keys)
    assert not [key for key in keys if {"d", "p", "q", "k"} & set(key)]
    assert answers[0].headers["Cache-Control"] == "public, max-age=600"


@pytest.mark.parametrize("path", [f"{PLATFORM}/oauth/jwks", well_known(PLATFORM)[0]])
def test_who_has_the_document_is_told_so(get: Get, path: str) -> None:
    first = get(path)
    again = get(path, **{"If-None-Match": first.headers["ETag"]})
    assert again.status_code == 304 and again.data == b""
    assert again.headers["Access-Control-Allow-Origin"] == "*"
    assert get(path, **{"If-None-Match": '"another"'}).data == first.data


def test_a_foreign_host_is_not_reflected(web: Flask) -> None:
    client = web.test_client()
    refused = client.get(well_known(PLATFORM)[0], headers={"Host": "evil.example"})
    assert refused.status_code == 400 and b"evil" not in refused.data
    forwarded = client.get(well_known(PLATFORM)[0], headers={"X-Forwarded-Host": "evil.example"})
    assert forwarded.status_code == 200 and b"evil" not in forwarded.data


def test_what_is_published_is_kept_for_a_moment_and_no_longer_than_its_keys(web: Flask, world: World) -> None:
    path = f"/api/v1/auth/tenants/{world.acme.slug}/oauth/jwks"
    client = web.test_client()
    first, again = client.get(path), client.get(path)
    assert first.data == again.data and first.headers["ETag"] == again.headers["ETag"]
    assert first.headers["X-Request-ID"] != again.headers["X-Request-ID"]
    assert client.get(path, headers={"If-None-Match": first.headers["ETag"]}).status_code == 304
    assert client.get(path, headers={"Host": "elsewhere.example"}).status_code == 400
    with web.app_context():
        keys.forget()
    asked: list[object] = []
    web.before_request_funcs.setdefault(None, []).append(lambda: asked.append(1))
    try:
        client.get(path)
        client.get(path)
    finally:
        web.before_request_funcs[None].pop()
    assert len(asked) == 1
