"""What an application is registered with as a client, and the secrets by which it proves itself."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from joserfc.jwk import ECKey, OctKey, RSAKey

from broker import ids
from broker.context import Scope
from broker.credentials import client_secret_valid
from broker.db import platform_scope, unit
from broker.models import Application
from broker.pages.door import source
from tests.broker.api.test_applications import make, new
from tests.casting import Caller, Cast, client_secrets, code

OPEN = {"token_endpoint_auth_method": "none"}


def refused(caller: Caller, field: str, **fields: Any) -> str:
    response = caller.post("/applications", new(**fields))
    assert code(response) == (422, "validation_failed"), response.get_json()
    errors: dict[str, list[str]] = response.get_json()["errors"]
    assert list(errors) == [field]
    return errors[field][0]


def public(key: Any) -> dict[str, Any]:
    shown: dict[str, Any] = key.as_dict(private=False)
    return shown


@pytest.mark.parametrize(
    ("type", "method", "grants"),
    [
        ("web", "client_secret_basic", ["authorization_code"]),
        ("mcp", "client_secret_basic", ["authorization_code"]),
        ("spa", "none", ["authorization_code"]),
        ("native", "none", ["authorization_code"]),
        ("service", "client_secret_basic", ["client_credentials"]),
    ],
)
def test_each_type_has_the_usual_settings(cast: Cast, type: str, method: str, grants: list[str]) -> None:
    app = make(cast.acme_admin, type=type)
    assert (app["token_endpoint_auth_method"], app["grant_types"]) == (method, grants)
    assert ("client_secret" in app) == (method != "none")
    assert app["scopes"] == ([] if type == "service" else ["openid", "profile", "email", "offline_access"])
    assert not app["third_party"] and app["access_token_signed_response_alg"] == "RS256"


def test_everything_of_a_client_is_registered_and_shown(cast: Cast) -> None:
    api = make(cast.acme_admin, audience="https://api.acme.example/v1", name="API")
    fields = {
        "redirect_uris": ["https://wiki.acme.example/cb?flow=1", "https://wiki.acme.example:8443/cb"],
        "post_logout_redirect_uris": ["https://wiki.acme.example/bye"],
        "grant_types": ["authorization_code", "refresh_token", "client_credentials"],
        "token_endpoint_auth_method": "client_secret_post",
        "access_token_signed_response_alg": "ES256",
        "id_token_signed_response_alg": "ES256",
        "audience": "urn:acme:wiki",
        "allowed_audiences": [api["audience"], "scaikey"],
        "scopes": ["openid", "wiki:read", "scaikey:read"],
        "access_token_lifetime": 300,
        "authorization_code_lifetime": 30,
    }
    app = make(cast.acme_admin, **fields)
    assert {name: app[name] for name in fields} == fields
    path = f"/applications/{app['id']}"
    assert "client_secret" not in cast.acme_admin.get(path).get_json()
    assert cast.acme_admin.patch(path, {"third_party": True, "allowed_audiences": [], "scopes": []}).status_code == 200


@pytest.mark.parametrize(
    ("type", "uri"),
    [
        ("web", "https://wiki.acme.example/cb"),
        ("web", "http://localhost:3000/cb"),
        ("spa", "http://127.0.0.1:5173/"),
        ("native", "http://[::1]/cb"),
        ("web", "https://xn--wki-dma.acme-1.example:8443/cb"),
        ("web", "https://192.0.2.1/cb"),
        ("web", f"https://{'a' * 63}.example/cb"),
        ("web", "https://4wiki.example/cb"),
        ("web", "https://[2001:db8::1]:8443/cb"),
        ("native", "com.acme.wiki:/back"),
    ],
)
def test_redirect_uris_are_https_loopback_or_an_apps_own_scheme(cast: Cast, type: str, uri: str) -> None:
    assert make(cast.acme_admin, type=type, redirect_uris=[uri])["redirect_uris"] == [uri]
    assert source(uri), "and the pages can name it"


@pytest.mark.parametrize(
    ("type", "uri"),
    [
        ("web", "http://wiki.acme.example/cb"),
        ("web", "https://wiki.acme.example/cb#here"),
        ("web", "https://wiki.acme.example/cb#"),
        ("web", "https://*.acme.example/cb"),
        ("web", "https://wiki.acme.example/*"),
        ("web", "https://user@wiki.acme.example/cb"),
        ("web", "https://user:pass@wiki.acme.example/cb"),
        ("web", "https://wiki.acme.example\\@evil.example/cb"),
        ("web", "https://wiki.acme.example/a/../cb"),
        ("web", "https://wiki.acme.example/cb "),
        ("web", "https://wiki.acme.example/\u00e9"),
        ("web", "https://w\u0456ki.acme.example/cb"),
        ("web", "https:///cb"),
        ("web", "https://wiki.acme.example:99999/cb"),
        ("web", "https://wiki.Acme.example/cb"),
        ("web", "https://wiki..example/cb"),
        ("web", "https://.acme.example/cb"),
        ("web", "https://wiki.acme.example./cb"),
        ("web", "https://wiki$(acme)!'&=.example/cb"),
        ("web", "https://wiki_acme.example/cb"),
        ("web", "https://-wiki.example/cb"),
        ("web", "https://wiki-.example/cb"),
        ("web", f"https://{'a' * 64}.example/cb"),
        ("web", "https://192.0.2/cb"),
        ("web", "https://0300.0.2.1/cb"),
        ("web", "https://wiki.0x1/cb"),
        ("web", "https://[2001:db8::1::2]/cb"),
        ("web", "https://wiki.acme.example:/cb"),
        ("web", "//wiki.acme.example/cb"),
        ("web", "/cb"),
        ("web", "HTTPS://wiki.acme.example/cb"),
        ("web", "javascript:alert(1)"),
        ("web", "data:text/html,x"),
        ("web", "com.acme.wiki:/back"),
        ("spa", "com.acme.wiki:/back"),
        ("native", "wiki:/back"),
        ("native", "javascript:alert(1)"),
        ("native", "com.acme.wiki://host/back"),
        ("native", "com.acme.wiki:"),
        ("native", "http://localhost.evil.example/cb"),
        ("native", "http://127.0.0.1.evil.example/cb"),
    ],
)
@pytest.mark.parametrize("field", ["redirect_uris", "post_logout_redirect_uris"])
def test_no_other_redirect_uri_is_registered(cast: Cast, type: str, uri: str, field: str) -> None:
    assert refused(cast.acme_admin, field, type=type, **{field: [uri]})


def test_redirect_uris_are_few_and_different(cast: Cast) -> None:
    many = [f"https://x.example/{number}" for number in range(51)]
    assert refused(cast.acme_admin, "redirect_uris", redirect_uris=many)
    assert refused(cast.acme_admin, "redirect_uris", redirect_uris=[many[0], many[0]])
    make(cast.acme_admin, redirect_uris=many[:50])


@pytest.mark.parametrize("grant", ["implicit", "password", "urn:ietf:params:oauth:grant-type:device_code"])
def test_other_grants_are_not_available(cast: Cast, grant: str) -> None:
    response = cast.acme_admin.post("/applications", new(grant_types=["authorization_code", grant]))
    assert code(response) == (422, "not_available") and list(response.get_json()["errors"]) == ["grant_types"]


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("grant_types", {**OPEN, "grant_types": ["client_credentials"]}),
        ("grant_types", {"grant_types": ["refresh_token"]}),
        ("token_endpoint_auth_method", {"type": "spa", "token_endpoint_auth_method": "client_secret_basic"}),
        ("token_endpoint_auth_method", {"type": "native", "token_endpoint_auth_method": "client_secret_post"}),
        ("token_endpoint_auth_method", {"token_endpoint_auth_method": "client_secret_jwt"}),
        ("access_token_signed_response_alg", {"access_token_signed_response_alg": "none"}),
        ("id_token_signed_response_alg", {"id_token_signed_response_alg": "HS256"}),
        ("access_token_lifetime", {"access_token_lifetime": 59}),
        ("access_token_lifetime", {"access_token_lifetime": 86_401}),
        ("authorization_code_lifetime", {"authorization_code_lifetime": 601}),
        ("scopes", {"scopes": ["with blank"]}),
        ("scopes", {"scopes": ['quo"te']}),
        ("scopes", {"scopes": ["scaikey:read"]}),
        ("scopes", {"scopes": ["scim"]}),
        ("scopes", {"scopes": ["scaikey:everything"], "allowed_audiences": ["scaikey"]}),
        ("audience", {"audience": "scaikey:admin"}),
        ("audience", {"audience": "http://localhost:8080/api/v1/platform"}),
        ("audience", {"audience": "with blank"}),
        ("allowed_audiences", {"allowed_audiences": ["https://unknown.example"]}),
        ("allowed_audiences", {"allowed_audiences": ["a b"]}),
        ("allowed_audiences", {"allowed_audiences": ["scaikey"], "third_party": True}),
        ("jwks", {"token_endpoint_auth_method": "private_key_jwt"}),
        ("jwks_uri", {"jwks_uri": "ftp://x.example/keys"}),
    ],
)
def test_what_does_not_go_together_is_named(cast: Cast, field: str, fields: dict[str, Any]) -> None:
    assert refused(cast.acme_admin, field, **fields)


def test_a_change_is_judged_with_what_is_there_already(cast: Cast) -> None:
    app = make(cast.acme_admin, allowed_audiences=["scaikey"], scopes=["scaikey:read"])
    path = f"/applications/{app['id']}"
    response = cast.acme_admin.patch(path, {"third_party": True})
    assert code(response) == (422, "validation_failed") and "allowed_audiences" in response.get_json()["errors"]
    assert code(cast.acme_admin.patch(path, {"allowed_audiences": []}))[0] == 422
    assert cast.acme_admin.patch(path, {"allowed_audiences": [], "scopes": ["openid"]}).status_code == 200


def test_keys_are_public_and_strong(cast: Cast) -> None:
    method = {"token_endpoint_auth_method": "private_key_jwt"}
    rsa, ec = RSAKey.generate_key(2048), ECKey.generate_key("P-256")
    app = make(cast.acme_admin, **method, jwks={"keys": [{**public(rsa), "kid": "1"}, {**public(ec), "kid": "2"}]})
    assert "client_secret" not in app and len(app["jwks"]["keys"]) == 2
    make(cast.acme_admin, **method, jwks_uri="https://wiki.acme.example/keys")
    numbers = generate_private_key(65_537, 1_024).public_key().public_numbers()
    weak = {"kty": "RSA", "e": "AQAB", "n": urlsafe_b64encode(numbers.n.to_bytes(128, "big")).decode().rstrip("=")}
    for key in (
        ec.as_dict(private=True),
        OctKey.generate_key(256).as_dict(private=True),
        weak,
        public(ECKey.generate_key("secp256k1")),
        {"kty": "EC", "crv": "P-256", "x": "?", "y": "?"},
        {**public(ec), "use": "enc"},
        "no key",
    ):
        assert refused(cast.acme_admin, "jwks", **method, jwks={"keys": [key]})
    for jwks in ({}, {"keys": []}, {"keys": [{**public(rsa), "kid": "1"}, {**public(ec), "kid": "1"}]}):
        assert refused(cast.acme_admin, "jwks", **method, jwks=jwks)
    both = {"jwks": {"keys": [public(ec)]}, "jwks_uri": "https://wiki.acme.example/keys"}
    assert refused(cast.acme_admin, "jwks_uri", **method, **both)


def test_an_audience_is_one_applications(cast: Cast) -> None:
    api = make(cast.acme_admin, audience="https://api.acme.example")
    assert code(cast.acme_admin.post("/applications", new(audience=api["audience"]))) == (409, "conflict")
    other = make(cast.acme_admin)
    change = {"audience": api["audience"]}
    assert code(cast.acme_admin.patch(f"/applications/{other['id']}", change)) == (409, "conflict")
    assert refused(cast.acme_admin, "audience", audience=other["client_id"])
    make(cast.globex_admin, audience=api["audience"])
    assert cast.acme_admin.patch(f"/applications/{api['id']}", {"audience": api["audience"]}).status_code == 200


def test_a_shared_application_keeps_its_audience_to_itself(cast: Cast) -> None:
    home = cast.partner_admin.at(cast.home)
    shared = make(home, scope="PARTNER", audience="https://shared.example")
    older = make(cast.globex_admin)
    with platform_scope() as session:  # as versions before this one let it be
        session.get_one(Application, (cast.globex.tenant_id, older["id"])).audience = shared["audience"]
    path = f"/applications/{shared['id']}/access"
    assert home.post(path, {"tenant_id": cast.acme.tenant_id}).status_code == 201
    assert code(home.post(path, {"tenant_id": cast.globex.tenant_id})) == (409, "conflict")
    assert code(cast.acme_admin.post("/applications", new(audience=shared["audience"]))) == (409, "conflict")
    make(cast.acme_admin, allowed_audiences=[shared["audience"]])


@pytest.mark.parametrize("reach", ["PARTNER", "GLOBAL"])
def test_nobody_within_reach_of_an_api_takes_its_audience(cast: Cast, reach: str) -> None:
    """Access or not: else a tenant without it would make tokens that the API takes for its own."""
    keeper = cast.partner_admin.at(cast.home) if reach == "PARTNER" else cast.super_admin.at(cast.platform)
    audience = f"https://api-{cast.acme.slug}.example"
    taken, free = new(audience=audience), f"{audience}/other"
    shared = make(keeper, scope=reach, audience=audience)
    for admin in (cast.acme_admin, cast.globex_admin):
        assert code(admin.post("/applications", taken)) == (409, "conflict")
        path = f"/applications/{make(admin)['id']}"
        assert code(admin.patch(path, {"audience": audience})) == (409, "conflict")
        assert admin.patch(path, {"audience": free}).status_code == 200
    assert code(keeper.post("/applications", new(scope=reach, audience=free))) == (409, "conflict")
    assert code(keeper.patch(f"/applications/{shared['id']}", {"audience": free})) == (409, "conflict")
    assert keeper.patch(f"/applications/{shared['id']}", {"audience": f"{audience}/v2"}).status_code == 200
    make(cast.acme_admin, audience=audience)


def test_an_audience_in_another_partners_reach_is_free(cast: Cast) -> None:
    audience = f"https://api-{cast.acme.slug}.example"
    make(cast.partner_admin.at(cast.home), scope="PARTNER", audience=audience)
    partner = cast.super_admin.post("/partners", {"name": "E", "slug": ids.new("prt")[4:]}).get_json()
    elsewhere = Scope(partner["home_tenant_id"], partner["id"], "home", f"{partner['slug']}-home")
    make(cast.super_admin.at(elsewhere), scope="PARTNER", audience=audience)
    assert code(cast.super_admin.at(cast.platform).post("/applications", new(scope="GLOBAL", audience=audience))) == (
        409,
        "conflict",
    )


def valid(scope: Scope, application_id: str, secret: str) -> bool:
    with unit(scope):
        return client_secret_valid(secret, client_secrets(application_id))


def test_a_secret_is_shown_once_and_rotated_with_an_overlap(cast: Cast) -> None:
    app = make(cast.acme_admin)
    path, first = f"/applications/{app['id']}/secrets", app["client_secret"]
    made = cast.acme_admin.post(path, {"overlap": 60})
    assert made.status_code == 201 and made.get_json()["expires_at"] is None
    second = made.get_json()["client_secret"]
    assert valid(cast.acme, app["id"], first) and valid(cast.acme, app["id"], second)
    third = cast.acme_admin.post(path, {"overlap": 0}).get_json()["client_secret"]
    assert [valid(cast.acme, app["id"], one) for one in (first, second, third)] == [False, False, True]
    for overlap in (-1, 30 * 86_400 + 1, "1", None):
        assert code(cast.acme_admin.post(path, {"overlap": overlap})) == (422, "validation_failed")
    fourth = cast.acme_admin.post(path).get_json()["client_secret"]
    assert valid(cast.acme, app["id"], third) and valid(cast.acme, app["id"], fourth)


def test_a_client_that_needs_no_secret_has_none(cast: Cast) -> None:
    app = make(cast.acme_admin)
    path = f"/applications/{app['id']}"
    assert cast.acme_admin.patch(path, OPEN).status_code == 200
    assert not valid(cast.acme, app["id"], app["client_secret"])
    assert code(cast.acme_admin.post(f"{path}/secrets")) == (409, "conflict")
    assert cast.acme_admin.patch(path, {"token_endpoint_auth_method": "client_secret_post"}).status_code == 200
    assert not valid(cast.acme, app["id"], app["client_secret"])


def test_only_the_tenant_that_keeps_an_application_rotates_its_secret(cast: Cast) -> None:
    home = cast.partner_admin.at(cast.home)
    shared = make(home, scope="PARTNER")
    home.post(f"/applications/{shared['id']}/access", {"tenant_id": cast.acme.tenant_id})
    path = f"/applications/{shared['id']}/secrets"
    assert code(cast.acme_admin.post(path)) == (403, "access_denied")
    assert code(cast.globex_admin.post(path)) == (404, "not_found")
    assert home.post(path).status_code == 201


def test_a_secret_cannot_be_chosen(cast: Cast) -> None:
    assert refused(cast.acme_admin, "client_secret", client_secret="mine")
