"""The token endpoint: clients that prove themselves, and clients that act for themselves."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from flask import Flask
from joserfc import jwk, jws, jwt

from broker import endings, settings
from broker.context import Scope, acting, system
from broker.db import platform_scope, unit
from broker.directory import Directory
from broker.models import Application, AuthorizationCode, Session, Tenant
from connectors import http
from oidc import client_keys
from oidc.tokens import Issuer
from tests.conftest import World
from tests.oidc.party import App, Pkce, answered, basic, make_app, make_service_account, party, share
from tests.oidc.test_rfc9700 import error_of, jwt_claims

ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ALIAS = "/oauth/token"


class _Signs(jws.JWSRegistry):
    """Whatever a client may sign with, by old names too, without a word about it."""

    def get_alg(self, name: str) -> Any:
        return self.algorithms[name]


SIGNS = _Signs()


@pytest.fixture
def at(web: Flask) -> Any:
    """POST to a token endpoint."""

    def ask(path: str, app: App, **form: str) -> Any:
        form = {"grant_type": "client_credentials", **form}
        return web.test_client().post(path, data=form, headers=app.basic)

    return ask


def token_path(scope: Scope | None) -> str:
    return "/api/v1/platform/oauth/token" if scope is None else f"/api/v1/auth/tenants/{scope.slug}/oauth/token"


def test_a_service_account_is_its_client_id(at: Any, world: World, web: Flask) -> None:
    account = make_service_account(world.acme, "reporting-" + str(world.acme.slug))
    answer = at(token_path(world.acme), account)
    assert answer.status_code == 200 and set(answer.json) == {"access_token", "token_type", "expires_in", "scope"}
    claims = jwt_claims(answer.json["access_token"])
    assert claims["sub"] == claims["client_id"] == account.client_id
    assert claims["identity_id"] == f"sa:reporting-{world.acme.slug}"
    assert claims["aud"] == "https://api.example" and claims["scope"] == "read write"
    assert claims["tenant_id"] == world.acme.tenant_id and claims["exp"] - claims["iat"] == 3600
    assert answer.json["expires_in"] == 3600
    with web.app_context():
        assert claims["iss"] == Issuer.of_tenant(world.acme).url


def test_scopes_and_apis_of_a_service_account_are_its_own(at: Any, world: World) -> None:
    account = make_service_account(world.acme, audiences=["https://a.example", "https://b.example"])
    path = token_path(world.acme)
    assert at(path, account, scope="read").json["scope"] == "read"
    assert error_of(at(path, account, scope="read admin")) == (400, "invalid_scope")
    assert error_of(at(path, account, scope="openid")) == (400, "invalid_scope")
    for name in ("resource", "audience"):
        token = at(path, account, **{name: "https://b.example"}).json["access_token"]
        assert jwt_claims(token)["aud"] == "https://b.example"
        assert error_of(at(path, account, **{name: "https://c.example"})) == (400, "invalid_target")


def test_a_service_account_may_send_its_secret_either_way(web: Flask, world: World) -> None:
    account = make_service_account(world.acme)
    form = {"grant_type": "client_credentials", "client_id": account.client_id, "client_secret": account.secret}
    assert web.test_client().post(token_path(world.acme), data=form).status_code == 200


def test_a_disabled_service_account_gets_nothing(at: Any, world: World, web: Flask) -> None:
    account = make_service_account(world.acme)
    assert at(token_path(world.acme), account).status_code == 200
    disable(web, world.acme, account.id)
    assert error_of(at(token_path(world.acme), account)) == (400, "unauthorized_client")


def disable(web: Flask, scope: Scope, user_id: str) -> None:
    with web.app_context(), unit(scope), acting(system("test")):
        Directory().replace("User", user_id, {"userName": user_id, "active": False, "userType": "ServiceAccount"})


def test_an_application_acts_for_itself_when_it_is_registered_so(at: Any, world: World) -> None:
    path = token_path(world.acme)
    app = make_app(world.acme, grant_types=["client_credentials"], scopes=["openid", "profile", "read"])
    answer = at(path, app)
    assert answer.json["scope"] == "read", "what means a person is not for clients"
    claims = jwt_claims(answer.json["access_token"])
    assert claims["sub"] == claims["client_id"] == app.client_id and "sid" not in claims
    assert "refresh_token" not in answer.json and "id_token" not in answer.json
    other = make_app(world.acme)
    assert error_of(at(path, other)) == (400, "unauthorized_client")
    public = make_app(world.acme, grant_types=["client_credentials"], token_endpoint_auth_method="none")
    answer = at(path, public)
    assert error_of(answer) == (401, "invalid_client")


def test_es256_and_a_life_of_its_own(at: Any, world: World) -> None:
    app = make_app(
        world.acme,
        grant_types=["client_credentials"],
        scopes=["read"],
        access_token_signed_response_alg="ES256",
        access_token_lifetime=120,
    )
    answer = at(token_path(world.acme), app)
    assert answer.json["expires_in"] == 120
    assert jws.extract_compact(answer.json["access_token"].encode()).headers()["alg"] == "ES256"


def test_what_is_suspended_or_disabled_stops_at_once(at: Any, world: World, web: Flask) -> None:
    app = make_app(world.acme, grant_types=["client_credentials"], scopes=["read"])
    path = token_path(world.acme)
    assert at(path, app).status_code == 200
    set_enabled(world.acme, app, False)
    assert error_of(at(path, app)) == (401, "invalid_client")
    set_enabled(world.acme, app, True)
    set_status(world.acme, "suspended")
    assert at(path, app).status_code in (400, 401)
    set_status(world.acme, "active")
    assert at(path, app).status_code == 200


def set_enabled(scope: Scope, app: App, enabled: bool) -> None:
    with unit(scope) as session:
        row = session.get(Application, (scope.tenant_id, app.id))
        assert row is not None
        row.enabled = enabled


def set_status(scope: Scope, status: str) -> None:
    with platform_scope() as session:
        row = session.get(Tenant, scope.tenant_id)
        assert row is not None
        row.status = status


def test_a_client_is_known_within_its_reach_alone(at: Any, world: World, platform: Scope) -> None:
    machine = {"grant_types": ["client_credentials"], "scopes": ["read"]}
    own = make_app(world.acme, **machine)
    partners = make_app(world.home, scope="PARTNER", shared_with=(world.acme,), **machine)
    everywhere = make_app(platform, scope="GLOBAL", shared_with=(world.acme,), **machine)
    account = make_service_account(world.acme)
    reach = {
        own: {world.acme},
        partners: {world.acme, world.home},
        everywhere: {world.acme, platform, None},
        account: {world.acme},
    }
    for app, places in reach.items():
        for place in (world.acme, world.globex, world.home, platform, None):
            answer = at(token_path(place), app)
            assert (answer.status_code == 200) == (place in places), (app, place, answer.json)
            if place not in places:
                assert error_of(answer) == (401, "invalid_client")


def test_at_the_hosts_root_the_client_chooses_the_issuer(at: Any, world: World, platform: Scope, web: Flask) -> None:
    machine = {"grant_types": ["client_credentials"], "scopes": ["read"]}
    own = make_app(world.acme, **machine)
    partners = make_app(world.home, scope="PARTNER", shared_with=(world.acme,), **machine)
    everywhere = make_app(platform, scope="GLOBAL", shared_with=(world.acme,), **machine)

    def issuer_of(answer: Any) -> tuple[str, str | None]:
        claims = jwt_claims(answer.json["access_token"])
        return claims["iss"], claims.get("tenant_id")

    with web.app_context():
        of_acme, of_home = Issuer.of_tenant(world.acme).url, Issuer.of_tenant(world.home).url
        of_platform = Issuer.platform().url
    assert issuer_of(at(ALIAS, own)) == (of_acme, world.acme.tenant_id)
    assert issuer_of(at(ALIAS, make_service_account(world.acme))) == (of_acme, world.acme.tenant_id)
    assert issuer_of(at(ALIAS, partners)) == (of_home, world.home.tenant_id)
    assert issuer_of(at(ALIAS, partners, tenant_id=world.acme.tenant_id)) == (of_acme, world.acme.tenant_id)
    assert issuer_of(at(ALIAS, everywhere)) == (of_platform, None)
    assert issuer_of(at(ALIAS, everywhere, tenant_id=world.acme.tenant_id)) == (of_platform, world.acme.tenant_id)
    for app in (partners, everywhere):
        for tenant_id in (world.globex.tenant_id, "tnt_unknown", "\u00e9"):
            assert at(ALIAS, app, tenant_id=tenant_id).status_code in (400, 401)
    assert error_of(at(token_path(world.acme), own, tenant_id=world.globex.tenant_id)) == (400, "invalid_request")


def test_a_key_proves_a_client_for_this_issuer_once(web: Flask, world: World) -> None:
    key = jwk.ECKey.generate_key("P-256", {"kid": "k1"})
    app = make_app(
        world.acme,
        secret=False,
        token_endpoint_auth_method="private_key_jwt",
        jwks={"keys": [key.as_dict(private=False)]},
        grant_types=["client_credentials"],
        scopes=["read"],
    )
    with web.app_context():
        issuer = Issuer.of_tenant(world.acme)
    now = int(time.time())
    good = {"iss": app.client_id, "sub": app.client_id, "aud": issuer.url, "exp": now + 60, "iat": now}

    def ask(claims: dict[str, Any], *, header: dict[str, Any] | None = None, signed: Any = key, **form: str) -> Any:
        said = {name: value for name, value in {"jti": ids(), **claims}.items() if value is not None}
        header = header or {"alg": "ES256", "kid": "k1"}
        assertion = jwt.encode(header, said, signed, algorithms=["ES256", "HS256", "RS256"])
        data = {
            "grant_type": "client_credentials",
            "client_assertion_type": ASSERTION,
            "client_assertion": assertion,
            **form,
        }
        return web.test_client().post(token_path(world.acme), data=data)

    assert ask(good).status_code == 200
    assert ask({**good, "aud": [issuer.url]}).status_code == 200
    assert ask(good, header={"alg": "ES256"}).status_code == 200
    assert ask(good, client_id=app.client_id).status_code == 200
    once = {**good, "jti": "the-very-same"}
    assert ask(once).status_code == 200
    bad: list[dict[str, Any]] = [
        once,
        {**good, "jti": None},
        {**good, "jti": 7},
        {**good, "exp": None},
        {**good, "exp": now - 120},
        {**good, "exp": now + 90_000},
        {**good, "exp": "soon"},
        {**good, "iat": now + 600},
        {**good, "nbf": now + 600},
        {**good, "iss": "somebody"},
        {**good, "sub": "somebody"},
        {**good, "sub": None},
        {**good, "aud": issuer.endpoint("token")},
        {**good, "aud": [issuer.url, "https://evil.example"]},
        {**good, "aud": None},
        {**good, "aud": url_of_another_issuer(web, world)},
    ]
    for claims in bad:
        assert error_of(ask(claims)) == (401, "invalid_client"), claims
    other = jwk.ECKey.generate_key("P-256", {"kid": "k1"})
    assert error_of(ask(good, signed=other)) == (401, "invalid_client")
    hmac = jwk.OctKey.import_key("a-secret-that-is-long-enough-for-hmac-256")
    assert error_of(ask(good, header={"alg": "HS256", "kid": "k1"}, signed=hmac)) == (401, "invalid_client")
    assert error_of(ask(good, client_id="another")) == (400, "invalid_request")
    assert error_of(ask(good, client_secret="x")) == (400, "invalid_request")
    for form in (
        {"client_assertion_type": ASSERTION},
        {"client_assertion_type": ASSERTION, "client_assertion": "a.b.c"},
        {"client_assertion_type": "urn:other", "client_assertion": "a.b.c"},
        {"client_assertion": "\u00e9"},
    ):
        answer = web.test_client().post(token_path(world.acme), data={"grant_type": "client_credentials", **form})
        assert error_of(answer) == (401, "invalid_client")


def ids() -> str:
    return secrets.token_hex(8)


def url_of_another_issuer(web: Flask, world: World) -> str:
    with web.app_context():
        return Issuer.of_tenant(world.globex).url


@pytest.mark.parametrize("alg", client_keys.ALGORITHMS)
def test_a_client_may_sign_with_each_announced_algorithm(web: Flask, world: World, alg: str) -> None:
    key: Any
    match alg:
        case "RS256" | "PS256":
            key = jwk.RSAKey.generate_key(2048)
        case "EdDSA" | "Ed25519":
            key = jwk.OKPKey.generate_key("Ed25519")
        case _:
            key = jwk.ECKey.generate_key(f"P-{alg[2:]}")
    app = make_app(
        world.acme,
        secret=False,
        token_endpoint_auth_method="private_key_jwt",
        jwks={"keys": [key.as_dict(private=False)]},
        grant_types=["client_credentials"],
        scopes=["read"],
    )
    with web.app_context():
        url = Issuer.of_tenant(world.acme).url
    claims = {"iss": app.client_id, "sub": app.client_id, "aud": url, "exp": int(time.time()) + 60, "jti": ids()}
    form = {
        "grant_type": "client_credentials",
        "client_assertion_type": ASSERTION,
        "client_assertion": jws.serialize_compact({"alg": alg}, orjson.dumps(claims), key, registry=SIGNS),
    }
    assert web.test_client().post(token_path(world.acme), data=form).status_code == 200


def test_keys_a_client_publishes_are_fetched(web: Flask, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    key = jwk.RSAKey.generate_key(2048, {"kid": "k1"})
    asked: list[str] = []

    def request(self: object, method: str, url: str, **options: Any) -> http.Response:
        asked.append(url)
        return http.Response(200, {}, orjson.dumps({"keys": [key.as_dict(private=False), {"kty": "oct", "k": "eA"}]}))

    monkeypatch.setattr(http.HttpClient, "request", request)
    uri = f"https://client.example/{world.acme.slug}/keys"
    app = make_app(
        world.acme,
        secret=False,
        token_endpoint_auth_method="private_key_jwt",
        jwks_uri=uri,
        grant_types=["client_credentials"],
        scopes=["read"],
    )
    with web.app_context():
        issuer = Issuer.of_tenant(world.acme)
    for _ in range(2):
        claims = {
            "iss": app.client_id,
            "sub": app.client_id,
            "aud": issuer.url,
            "exp": int(time.time()) + 60,
            "jti": ids(),
        }
        assertion = jwt.encode({"alg": "RS256", "kid": "k1"}, claims, key)
        form = {"client_assertion_type": ASSERTION, "client_assertion": assertion}
        answer = web.test_client().post(token_path(world.acme), data={"grant_type": "client_credentials", **form})
        assert answer.status_code == 200, answer.json
    assert asked == [uri]


def test_the_way_that_is_registered_is_the_only_one(web: Flask, world: World) -> None:
    machine = {"grant_types": ["client_credentials"], "scopes": ["read"]}
    by_post = make_app(world.acme, token_endpoint_auth_method="client_secret_post", **machine)
    form = {"grant_type": "client_credentials", "client_id": by_post.client_id, "client_secret": by_post.secret}
    assert web.test_client().post(token_path(world.acme), data=form).status_code == 200
    refused = web.test_client().post(token_path(world.acme), data=form | {"client_secret": ""}, headers=by_post.basic)
    assert error_of(refused) == (401, "invalid_client")
    encoded = basic(by_post.client_id.replace("-", "%2D"), by_post.secret or "")
    assert error_of(web.test_client().post(token_path(world.acme), data=form, headers=encoded))[0] == 400
    by_basic = make_app(world.acme, **machine)
    encoded = basic(by_basic.client_id.replace("-", "%2D").replace("_", "%5F"), by_basic.secret or "")
    machine_form = {"grant_type": "client_credentials"}
    assert web.test_client().post(token_path(world.acme), data=machine_form, headers=encoded).status_code == 200


def test_a_body_is_a_form_and_each_parameter_is_there_once(web: Flask, world: World) -> None:
    app = make_app(world.acme, grant_types=["client_credentials"], scopes=["read"])
    client, path = web.test_client(), token_path(world.acme)
    assert error_of(client.post(path, json={"grant_type": "client_credentials"}, headers=app.basic)) == (
        400,
        "invalid_request",
    )
    form = "application/x-www-form-urlencoded"
    for body in (
        "grant_type=client_credentials&grant_type=client_credentials",
        "grant_type=client_credentials&scope=read&scope=read",
        "grant_type=client_credentials&foo=1&foo=2",
        "grant_type=",
        "",
        "grant_type=client_credentials&scope=%00",
        "grant_type=client_credentials&scope=" + "x" * 9000,
    ):
        answer = client.post(path, data=body, content_type=form, headers=app.basic)
        assert error_of(answer) == (400, "invalid_request"), body[:60]
    answer = client.post(path, data="grant_type=client_credentials", content_type=form, headers=app.basic)
    assert answer.status_code == 200
    large = client.post(path, data="x=" + "y" * 70_000, content_type=form, headers=app.basic)
    assert large.status_code == 413 and large.json["error"] == "invalid_request"
    assert client.get(path).status_code == 405


def test_without_the_refresh_grant_there_is_no_refresh_token(web: Flask, world: World) -> None:
    one = party(web, make_app(world.acme, grant_types=["authorization_code"]), world.acme, world.acme)
    assert "refresh_token" not in one.signed_in()
    assert error_of(one.refresh("x" * 43)) == (400, "unauthorized_client")


def test_a_refresh_token_dies_with_its_session_unless_it_is_for_offline(web: Flask, world: World) -> None:
    one = party(web, make_app(world.acme), world.acme, world.acme)
    here, offline = one.signed_in(), one.signed_in(scope="openid offline_access")
    here = one.refresh(here["refresh_token"]).json
    assert here["refresh_token"]
    with web.app_context(), unit(world.acme):
        endings.end_session(one.session_id, "signed_out")
    assert error_of(one.refresh(here["refresh_token"])) == (400, "invalid_grant")
    assert one.refresh(offline["refresh_token"]).status_code == 200


def test_refreshing_is_use_of_the_session_and_an_idle_one_ends(web: Flask, world: World) -> None:
    one = party(web, make_app(world.acme), world.acme, world.acme)
    secret = one.signed_in()["refresh_token"]

    def idle(minutes: int) -> None:
        with web.app_context(), unit(world.acme) as session:
            row = session.get(Session, (world.acme.tenant_id, one.session_id))
            assert row is not None
            row.last_seen_at = datetime.now(UTC) - timedelta(minutes=minutes)

    idle(20)
    secret = one.refresh(secret).json["refresh_token"]
    with web.app_context(), unit(world.acme) as session:
        row = session.get(Session, (world.acme.tenant_id, one.session_id))
        assert row is not None and datetime.now(UTC) - row.last_seen_at < timedelta(minutes=1)
    idle(31)
    assert error_of(one.refresh(secret)) == (400, "invalid_grant")


def test_whoever_may_not_is_refused_code_and_refresh(web: Flask, world: World) -> None:
    """One after the other: the person, the application, its access, the assignment, the tenant."""
    app = make_app(world.acme)
    one = party(web, app, world.acme, world.acme)

    def refused(undo: Any) -> None:
        code, secret = codes.pop(), held.pop()
        assert one.redeem(code[0], code[1]).status_code in (400, 401)
        assert one.refresh(secret).status_code in (400, 401)
        undo()

    codes = [(one.code(pkce), pkce) for pkce in (Pkce() for _ in range(4))]
    held = [one.signed_in()["refresh_token"] for _ in range(4)]
    set_enabled(world.acme, app, False)
    refused(lambda: set_enabled(world.acme, app, True))
    set_status(world.acme, "suspended")
    refused(lambda: set_status(world.acme, "active"))
    set_field(world.acme, app, assignment_required=True)
    refused(lambda: set_field(world.acme, app, assignment_required=False))
    with web.app_context(), unit(world.acme), acting(system("test")):
        Directory().replace("User", one.user_id, {"userName": one.user_id, "active": False})
    refused(lambda: None)
    assert "code" not in one.authorize().headers.get("Location", "")


def set_field(scope: Scope, app: App, **values: Any) -> None:
    with unit(scope) as session:
        row = session.get(Application, (scope.tenant_id, app.id))
        for name, value in values.items():
            setattr(row, name, value)


def test_a_code_may_live_as_long_as_its_application_says(web: Flask, world: World) -> None:
    one = party(web, make_app(world.acme, authorization_code_lifetime=300), world.acme, world.acme)
    assert one.code(Pkce())
    with web.app_context(), unit(world.acme) as session:
        row = session.scalars(sa.select(AuthorizationCode)).one()
        assert row.expires_at - datetime.now(UTC) > timedelta(seconds=290)


def test_access_that_is_given_later_is_access(web: Flask, world: World) -> None:
    app = make_app(world.home, scope="PARTNER")
    one = party(web, app, world.acme, world.acme)
    answer = one.client.get(one.path("authorize"), query_string=one.question(Pkce()))
    assert answer.status_code == 400
    share(app.id, world.home, world.acme)
    assert one.signed_in()["access_token"]


def test_what_is_taken_from_an_application_is_not_given_again(web: Flask, world: World) -> None:
    app = make_app(world.acme, audience="https://a.example", allowed_audiences=["https://b.example"])
    one = party(web, app, world.acme, world.acme)
    secret = one.signed_in(scope="openid email profile", resource="https://b.example")["refresh_token"]
    set_field(world.acme, app, scopes=["openid", "profile"])
    body = one.refresh(secret).json
    assert body["scope"] == "openid profile"
    set_field(world.acme, app, allowed_audiences=[])
    assert error_of(one.refresh(body["refresh_token"])) == (400, "invalid_grant")
    set_field(world.acme, app, allowed_audiences=["https://b.example"])
    assert one.refresh(body["refresh_token"]).status_code == 200
    set_field(world.acme, app, grant_types=["authorization_code"])
    assert error_of(one.refresh(body["refresh_token"])) == (400, "unauthorized_client")


def test_what_a_scope_means_at_an_api_says_the_application_that_keeps_it(at: Any, web: Flask, world: World) -> None:
    """Its caller registers whatever it likes, and gets of it what there is at that API."""
    api = make_app(world.acme, audience="https://orders.example", scopes=["orders:read"], redirect_uris=[])
    wished = ["orders:read", "orders:write"]
    robot = make_service_account(world.acme, audiences=["https://orders.example"], scopes=wished)
    path = token_path(world.acme)
    assert at(path, robot).json["scope"] == "orders:read"
    assert at(path, robot, scope="orders:read").json["scope"] == "orders:read"
    assert error_of(at(path, robot, scope="orders:write")) == (400, "invalid_scope")
    app = make_app(
        world.acme,
        audience="https://shop.example",
        allowed_audiences=["https://orders.example"],
        scopes=["openid", *wished],
    )
    shop = party(web, app, world.acme, world.acme)
    there = {"resource": "https://orders.example"}
    assert answered(shop.authorize(scope="openid orders:write", **there))["error"] == "invalid_scope"
    body = shop.signed_in(scope="openid orders:read", **there)
    assert body["scope"] == "openid orders:read"
    own = shop.signed_in(scope="openid orders:write", resource="https://shop.example")
    assert own["scope"] == "openid orders:write"
    set_field(world.acme, api, scopes=[])
    assert shop.refresh(body["refresh_token"]).json["scope"] == "openid"
    assert at(path, robot).json["scope"] == ""


def test_an_api_that_no_application_keeps_any_more_is_not_asked_for(at: Any, web: Flask, world: World) -> None:
    api = make_app(world.acme, audience="https://gone.example", redirect_uris=[])
    robot = make_service_account(world.acme, audiences=["https://gone.example"], scopes=[])
    path = token_path(world.acme)
    app = make_app(world.acme, audience="https://shop.example", allowed_audiences=["https://gone.example"])
    shop = party(web, app, world.acme, world.acme)
    assert at(path, robot).status_code == 200
    secret = shop.signed_in(resource="https://gone.example")["refresh_token"]
    set_field(world.acme, api, audience="https://other.example")
    assert error_of(at(path, robot)) == (400, "invalid_target")
    assert answered(shop.authorize(resource="https://gone.example"))["error"] == "invalid_target"
    assert error_of(shop.refresh(secret)) == (400, "invalid_grant")
    assert shop.signed_in()["access_token"]


def test_at_the_platforms_issuer_an_api_is_asked_for_in_tenants_that_may_use_it(
    at: Any, web: Flask, world: World, platform: Scope
) -> None:
    audience = f"https://api-{world.acme.slug}.example"
    machine = {"grant_types": ["client_credentials", "authorization_code"]}
    api = make_app(platform, scope="GLOBAL", audience=audience, redirect_uris=[])
    app = make_app(platform, scope="GLOBAL", shared_with=world.tenants, allowed_audiences=[audience], **machine)
    share(api.id, platform, world.acme)
    for tenant, given in ((world.acme, True), (world.globex, False)):
        one, pkce = party(web, app, None, tenant), Pkce()
        code = one.code(pkce, resource=audience)
        named = at(token_path(None), app, tenant_id=tenant.tenant_id, resource=audience)
        for answer in (one.redeem(code, pkce), named):
            assert answer.status_code == 200 if given else error_of(answer) == (400, "invalid_target")
    assert at(token_path(None), app, resource=audience).status_code == 200


def test_the_setting_nearest_the_tenant_says_how_long_a_token_lives(
    at: Any, web: Flask, world: World, platform: Scope
) -> None:
    with web.app_context(), unit(world.acme):
        settings.change(world.acme, {"access_token_lifetime": 900})
    assert at(token_path(world.acme), make_service_account(world.acme)).json["expires_in"] == 900
    assert at(token_path(world.globex), make_service_account(world.globex)).json["expires_in"] == 3600
    machine = {"grant_types": ["client_credentials", "authorization_code"]}
    app = make_app(platform, scope="GLOBAL", shared_with=world.tenants, **machine)
    assert at(token_path(None), app).json["expires_in"] == 3600
    assert at(token_path(None), app, tenant_id=world.acme.tenant_id).json["expires_in"] == 900
    assert party(web, app, None, world.acme).signed_in()["expires_in"] == 900
    assert party(web, app, world.acme, world.acme).signed_in()["expires_in"] == 900
    assert party(web, app, None, world.globex).signed_in()["expires_in"] == 3600
