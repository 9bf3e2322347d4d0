"""One key signs for everybody: what is one tenant's is refused at every endpoint of the other, and of the platform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from broker.context import Scope
from oidc.tokens import Issuer
from tests.conftest import World
from tests.oidc.party import App, Party, Pkce, make_app, make_service_account, party
from tests.oidc.test_rfc9700 import bearer, error_of, jwt_claims


@dataclass
class Two:
    """A GLOBAL application and a person at each of three issuers: acme's, globex's, the platform's (of acme)."""

    app: App
    acme: Party
    globex: Party
    platform: Party

    @property
    def all(self) -> tuple[Party, ...]:
        return self.acme, self.globex, self.platform


@pytest.fixture
def two(web: Flask, world: World, platform: Scope) -> Two:
    app = make_app(platform, scope="GLOBAL", shared_with=world.tenants)
    return Two(
        app,
        party(web, app, world.acme, world.acme),
        party(web, app, world.globex, world.globex),
        party(web, app, None, world.acme),
    )


def test_a_token_says_whose_it_is(two: Two, world: World) -> None:
    for one, scope in ((two.acme, world.acme), (two.globex, world.globex), (two.platform, world.acme)):
        body = one.signed_in()
        for token in (body["access_token"], body["id_token"]):
            claims = jwt_claims(token)
            assert claims["iss"] == one.issuer.url and claims["tenant_id"] == scope.tenant_id
            assert claims["sub"] == one.user_id


def test_codes_and_refresh_tokens_are_good_at_their_own_issuer(two: Two) -> None:
    for mine in two.all:
        for other in two.all:
            if other is mine:
                continue
            pkce = Pkce()
            code, secret = mine.code(pkce), mine.signed_in()["refresh_token"]
            assert error_of(other.redeem(code, pkce)) == (400, "invalid_grant")
            assert error_of(other.refresh(secret)) == (400, "invalid_grant")
            assert mine.redeem(code, pkce).status_code == 200
            assert mine.refresh(secret).status_code == 200


def test_userinfo_takes_its_own_issuers_tokens(two: Two) -> None:
    for mine in two.all:
        token = mine.signed_in()["access_token"]
        for other in two.all:
            status = other.client.get(other.path("userinfo"), headers=bearer(token)).status_code
            assert status == (200 if other is mine else 401)


def test_introspection_knows_its_own_issuers_tokens(two: Two) -> None:
    for mine in two.all:
        token = mine.signed_in()["access_token"]
        for other in two.all:
            answer = two.acme.web.test_client().post(
                other.path("introspect"), data={"token": token}, headers=two.app.basic
            )
            assert answer.status_code == 200 and answer.json["active"] is (other is mine)


def test_revocation_elsewhere_changes_nothing(two: Two) -> None:
    for mine in two.all:
        body = mine.signed_in()
        for other in (*[one for one in two.all if one is not mine], mine):
            for token in (body["access_token"], body["refresh_token"]):
                answer = other.web.test_client().post(
                    other.path("revoke"), data={"token": token}, headers=two.app.basic
                )
                assert answer.status_code == 200 and answer.json == {}
            status = mine.client.get(mine.path("userinfo"), headers=bearer(body["access_token"])).status_code
            assert status == (401 if other is mine else 200)
        assert error_of(mine.refresh(body["refresh_token"])) == (400, "invalid_grant")


def test_a_session_is_its_tenants(two: Two) -> None:
    """The other tenant's cookie under this tenant's name, and a browser that is signed in there alone."""
    secret = two.globex.client.get_cookie(f"sk-{two.globex.issuer.scope and two.globex.issuer.scope.slug}")
    assert secret is not None
    stranger: FlaskClient = two.acme.web.test_client()
    scope = two.acme.issuer.scope
    assert scope is not None
    stranger.set_cookie(f"sk-{scope.slug}", secret.value, domain="localhost")
    for browser in (stranger, two.globex.client):
        one = Party(two.acme.web, two.app, two.acme.issuer, "", "", browser)
        assert "error=login_required" in one.authorize(prompt="none").headers["Location"]
    assert "code=" in two.acme.authorize(prompt="none").headers["Location"]


def test_a_tenants_client_is_nobody_elsewhere(web: Flask, world: World) -> None:
    """Its secret, right as it is, opens no endpoint of the other tenant."""
    own = party(web, make_app(world.acme), world.acme, world.acme)
    account = make_service_account(world.acme)
    token = own.signed_in()["access_token"]
    with web.app_context():
        elsewhere = [Issuer.of_tenant(world.globex), Issuer.platform()]
    for issuer in elsewhere:
        there = Party(web, own.app, issuer, own.user_id, own.session_id, own.client)
        for client in (own.app, account):
            for name in ("introspect", "revoke", "token"):
                form: dict[str, Any] = {"token": token, "grant_type": "client_credentials"}
                answer = web.test_client().post(there.path(name), data=form, headers=client.basic)
                assert error_of(answer) == (401, "invalid_client"), name
        answer = there.client.get(there.path("authorize"), query_string=there.question(Pkce()))
        assert answer.status_code == 400 and "Location" not in answer.headers


def test_introspection_of_another_tenants_token_shows_nothing(web: Flask, world: World) -> None:
    """Even when both tenants call their API alike."""
    same = {"audience": "https://api.example", "name": "Api"}
    here = party(web, make_app(world.acme, **same), world.acme, world.acme)
    there = party(web, make_app(world.globex, **same), world.globex, world.globex)
    token = here.signed_in()["access_token"]
    for asker, active in ((here, True), (there, False)):
        answer = web.test_client().post(asker.path("introspect"), data={"token": token}, headers=asker.app.basic)
        assert answer.json["active"] is active


def test_a_slug_nobody_has_is_no_issuer(web: Flask) -> None:
    client = web.test_client()
    for slug in ("nobody", "x%00y", "é", "a" * 300, "..", "%2e%2e"):
        base = f"/api/v1/auth/tenants/{slug}"
        for name in ("token", "introspect", "revoke"):
            assert client.post(f"{base}/oauth/{name}", data={"x": "y"}).status_code == 404
        for name in ("authorize", "userinfo", "jwks", "logout"):
            assert client.get(f"{base}/oauth/{name}").status_code == 404
        assert client.get(f"{base}/.well-known/openid-configuration").status_code == 404
