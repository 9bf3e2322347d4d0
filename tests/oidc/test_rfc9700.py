"""RFC 9700, Best Current Practice for OAuth 2.0 Security, section by section; refusals beside their valid twins."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest
import sqlalchemy as sa
from flask import Flask
from joserfc import jwk, jws, jwt

from broker.context import acting, system
from broker.db import unit
from broker.models import AuthorizationCode, Event, Grant, RefreshToken
from oidc.tokens import Issuer
from tests.conftest import World
from tests.oidc.party import BACK, Party, Pkce, answered, basic, make_app, make_service_account, party


@pytest.fixture
def wiki(web: Flask, world: World) -> Party:
    return party(web, make_app(world.acme), world.acme, world.acme)


@pytest.fixture
def other(web: Flask, world: World) -> Party:
    """Another application of the same tenant, with the same redirect URI."""
    return party(web, make_app(world.acme, name="Other"), world.acme, world.acme)


@pytest.fixture
def spa(web: Flask, world: World) -> Party:
    """A public client."""
    app = make_app(world.acme, name="Spa", type="spa", token_endpoint_auth_method="none", secret=False)
    return party(web, app, world.acme, world.acme)


TWISTED = {
    "another path": "https://wiki.example/backdoor",
    "a longer path": BACK + "/more",
    "a path that climbs": "https://wiki.example/back/../evil",
    "a query": BACK + "?next=https://evil.example",
    "a fragment": BACK + "#x",
    "a trailing slash": BACK + "/",
    "other case": "https://wiki.example/Back",
    "the host in other case": "https://WIKI.example/back",
    "plain http": "http://wiki.example/back",
    "a port": "https://wiki.example:443/back",
    "a subdomain": "https://a.wiki.example/back",
    "user information": "https://wiki.example@evil.example/back",
    "an encoded path": "https://wiki.example/%62ack",
    "a backslash": "https://wiki.example\\@evil.example/back",
    "a space": BACK + " ",
    "a script": "javascript:alert(1)//" + BACK,
}


def refused_by_page(party: Party, **changes: str | None) -> None:
    """The person sees a page; nothing is sent anywhere."""
    answer = party.client.get(party.path("authorize"), query_string=party.question(Pkce(), **changes))
    assert answer.status_code == 400 and "Location" not in answer.headers and answer.mimetype == "text/html"


def error_of(answer: Any) -> tuple[int, str]:
    assert answer.mimetype == "application/json", answer.get_data(as_text=True)
    return answer.status_code, answer.json["error"]


@pytest.mark.parametrize("uri", TWISTED.values(), ids=TWISTED)
def test_2_1_and_4_1_redirect_uris_are_compared_as_text(wiki: Party, uri: str) -> None:
    refused_by_page(wiki, redirect_uri=uri)


def test_2_1_the_registered_redirect_uri_is_taken(wiki: Party) -> None:
    assert wiki.authorize().headers["Location"].startswith(BACK + "?code=")


def test_4_1_3_a_native_application_may_vary_the_port_of_its_loopback_address_and_nothing_else(
    web: Flask, world: World
) -> None:
    native = party(
        web,
        make_app(world.acme, type="native", redirect_uris=["http://127.0.0.1/back", "http://[::1]/back"]),
        world.acme,
        world.acme,
    )
    for good in ("http://127.0.0.1:65535/back", "http://[::1]:8/back", "http://127.0.0.1/back"):
        assert native.authorize(redirect_uri=good).headers["Location"].startswith(good + "?code=")
    for bad in (
        "http://127.0.0.1:51004/other",
        "http://127.0.0.1:80@evil.example/back",
        "http://127.0.0.1:x/back",
        "http://127.0.0.1:65536/back",
        "http://[::1]:99999/back",
        "http://127.0.0.1.evil.example/back",
        "http://localhost:51004/back",
        "https://127.0.0.1:51004/back",
        "http://127.0.0.2:51004/back",
    ):
        refused_by_page(native, redirect_uri=bad)
    web_app = party(web, make_app(world.acme, redirect_uris=["http://127.0.0.1/back"]), world.acme, world.acme)
    refused_by_page(web_app, redirect_uri="http://127.0.0.1:51004/back")


def test_2_1_and_4_11_it_is_no_open_redirector(wiki: Party) -> None:
    """An unknown client's redirect URI is never followed, nor a known one's with an unknown client."""
    refused_by_page(wiki, client_id="unknown", redirect_uri="https://evil.example/")
    refused_by_page(wiki, client_id="unknown")
    refused_by_page(wiki, redirect_uri=None)
    refused_by_page(wiki, client_id=None)
    refused_by_page(wiki, response_type="token", redirect_uri="https://evil.example/")
    refused_by_page(wiki, scope="unknown", redirect_uri="https://evil.example/")
    # The same errors of a client that is known go to it.
    assert answered(wiki.authorize(response_type="token"))["error"] == "unsupported_response_type"
    assert answered(wiki.authorize(scope="unknown"))["error"] == "invalid_scope"


@pytest.mark.parametrize(
    "changes",
    [
        {"code_challenge": None, "code_challenge_method": None},
        {"code_challenge": None},
        {"code_challenge_method": None},
        {"code_challenge_method": "plain"},
        {"code_challenge_method": "S512"},
        {"code_challenge": "short"},
        {"code_challenge": "x" * 44},
        {"code_challenge": "x" * 42 + "+"},
    ],
)
def test_2_1_1_pkce_by_s256_is_required_of_every_client(
    wiki: Party, spa: Party, changes: dict[str, str | None]
) -> None:
    for one in (wiki, spa):
        said = answered(one.authorize(**changes))
        assert said["error"] == "invalid_request" and "code" not in said and said["iss"] == one.issuer.url


def test_2_1_1_with_pkce_confidential_and_public_clients_get_codes(wiki: Party, spa: Party) -> None:
    assert wiki.code(Pkce()) and spa.code(Pkce())


@pytest.mark.parametrize(
    "response_type", ["token", "id_token", "code token", "code id_token", "id_token token", "none", "CODE", '"><x']
)
def test_2_1_2_there_is_no_implicit_grant(wiki: Party, response_type: str) -> None:
    answer = wiki.authorize(response_type=response_type)
    assert answered(answer)["error"] == "unsupported_response_type"
    assert "access_token" not in answer.headers["Location"] and "#" not in answer.headers["Location"]


def test_2_2_2_and_4_14_refresh_tokens_of_public_clients_rotate_and_reuse_ends_the_family(
    spa: Party, world: World
) -> None:
    pkce = Pkce()
    body = spa.redeem(spa.code(pkce), pkce, headers={}, client_id=spa.app.client_id).json
    first = body["refresh_token"]
    second = spa.refresh(first, headers={}, client_id=spa.app.client_id).json
    assert second["refresh_token"] != first
    # Within ten seconds the same successor, for an answer that was lost.
    assert spa.refresh(first, headers={}, client_id=spa.app.client_id).json["refresh_token"] == second["refresh_token"]
    with spa.web.app_context():
        age(world, RefreshToken, timedelta(seconds=11))
    assert error_of(spa.refresh(first, headers={}, client_id=spa.app.client_id)) == (400, "invalid_grant")
    # The family is at its end: neither the newest refresh token nor the access token is good any more.
    newest = spa.refresh(second["refresh_token"], headers={}, client_id=spa.app.client_id)
    assert error_of(newest) == (400, "invalid_grant")
    assert spa.client.get(spa.path("userinfo"), headers=bearer(second["access_token"])).status_code == 401
    with spa.web.app_context(), unit(world.acme) as session:
        ended = session.scalars(sa.select(Event).where(Event.name == "grant.ended")).one()
        assert ended.changed["reason"] == "refresh_token_reused"


def age(world: World, table: Any, by: timedelta) -> None:
    """As if what was used had been used so much earlier."""
    with unit(world.acme) as session, acting(system("test")):
        session.execute(sa.update(table).where(table.used_at.is_not(None)).values(used_at=table.used_at - by))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_2_3_4_9_and_4_10_an_access_token_is_for_one_audience(wiki: Party, web: Flask, world: World) -> None:
    """And an application's own token opens neither the admin API nor SCIM."""
    token = wiki.signed_in()["access_token"]
    assert jwt_claims(token)["aud"] == wiki.app.client_id
    slug = world.acme.slug
    for path in ("/api/v1/applications", f"/scim/v2/{slug}/Users"):
        assert wiki.client.get(path, headers=bearer(token)).status_code == 401
    api = party(web, make_app(world.acme, audience="https://api.example"), world.acme, world.acme)
    assert jwt_claims(api.signed_in()["access_token"])["aud"] == "https://api.example"


def test_2_3_and_rfc_8707_only_a_registered_api_may_be_asked_for(web: Flask, world: World) -> None:
    app = make_app(world.acme, audience="https://a.example", allowed_audiences=["https://b.example"])
    one = party(web, app, world.acme, world.acme)
    assert answered(one.authorize(resource="https://evil.example"))["error"] == "invalid_target"
    assert answered(one.authorize(resource="https://a.example", audience="https://b.example"))["error"] == (
        "invalid_target"
    )
    body = one.signed_in(resource="https://b.example")
    assert jwt_claims(body["access_token"])["aud"] == "https://b.example"
    assert error_of(one.refresh(body["refresh_token"], resource="https://a.example")) == (400, "invalid_target")
    assert one.refresh(body["refresh_token"], resource="https://b.example").status_code == 200


def jwt_claims(token: str) -> dict[str, Any]:
    return dict(orjson.loads(jws.extract_compact(token.encode()).payload))


def test_2_4_there_is_no_password_grant(wiki: Party) -> None:
    for grant_type in ("password", "implicit", "urn:ietf:params:oauth:grant-type:device_code", '"\\', "x" * 9000):
        answer = wiki.token(grant_type=grant_type, username="alice", password="secret")
        assert answer.status_code == 400 and answer.json["error"] in ("unsupported_grant_type", "invalid_request")
    announced = wiki.client.get(urlsplit(wiki.issuer.url).path + "/.well-known/openid-configuration").json
    assert announced["grant_types_supported"] == ["authorization_code", "refresh_token", "client_credentials"]


def test_2_5_a_client_authenticates_in_its_own_way_alone(wiki: Party) -> None:
    pkce = Pkce()
    code = wiki.code(pkce)
    app = wiki.app
    for headers, form in (
        ({}, {}),
        ({}, {"client_id": app.client_id}),
        ({}, {"client_id": app.client_id, "client_secret": app.secret}),
        (basic(app.client_id, "wrong"), {}),
        (basic("unknown", app.secret or ""), {}),
        (basic(app.client_id, ""), {}),
        ({"Authorization": "Basic ###"}, {}),
        ({"Authorization": "Basic " + "/w=="}, {}),
    ):
        answer = wiki.redeem(code, pkce, headers=headers, **form)
        assert error_of(answer) == (401, "invalid_client")
        assert ("WWW-Authenticate" in answer.headers) == bool(headers)
        assert answer.json["error_description"] == "Client authentication failed"
    twice = wiki.redeem(code, pkce, headers=app.basic, client_id=app.client_id, client_secret=app.secret)
    assert error_of(twice) == (400, "invalid_request")
    assert wiki.redeem(code, pkce).status_code == 200


def test_2_6_the_authorization_endpoint_has_no_cors(wiki: Party) -> None:
    origin = {"Origin": "https://spa.example"}
    answer = wiki.client.get(wiki.path("authorize"), query_string=wiki.question(Pkce()), headers=origin)
    assert not [name for name in dict(answer.headers) if name.startswith("Access-Control")]
    assert wiki.client.options(wiki.path("authorize"), headers=origin).status_code == 405
    for name in ("token", "userinfo", "revoke", "jwks"):
        preflight = wiki.client.options(wiki.path(name), headers=origin)
        assert preflight.status_code == 204 and preflight.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in preflight.headers
    assert wiki.token().headers["Access-Control-Allow-Origin"] == "*"


def test_2_6_metadata_is_published_and_true(wiki: Party) -> None:
    path = urlsplit(wiki.issuer.url).path
    said = wiki.client.get(path + "/.well-known/openid-configuration")
    assert said.json["issuer"] == wiki.issuer.url
    for form in ("openid-configuration", "oauth-authorization-server"):
        assert wiki.client.get(f"/.well-known/{form}{path}").data == said.data
    again = wiki.client.get(path + "/.well-known/openid-configuration", headers={"If-None-Match": said.headers["ETag"]})
    assert again.status_code == 304
    for name, url in said.json.items():
        if name.endswith(("_endpoint", "_uri")) and isinstance(url, str):
            assert wiki.client.open(urlsplit(url).path, method="GET").status_code != 404, name


def test_4_2_4_a_code_is_short_lived(wiki: Party, world: World) -> None:
    pkce = Pkce()
    code = wiki.code(pkce)
    with wiki.web.app_context(), unit(world.acme) as session:
        row = session.scalars(sa.select(AuthorizationCode)).one()
        assert timedelta(seconds=50) < row.expires_at - datetime.now(UTC) <= timedelta(seconds=60)
        session.execute(sa.update(AuthorizationCode).values(expires_at=datetime.now(UTC)))
    assert error_of(wiki.redeem(code, pkce)) == (400, "invalid_grant")
    pkce = Pkce()
    assert wiki.redeem(wiki.code(pkce), pkce).status_code == 200


def test_4_2_4_and_4_5_a_code_shown_twice_ends_all_that_came_of_it(wiki: Party, world: World) -> None:
    pkce = Pkce()
    code = wiki.code(pkce)
    body = wiki.redeem(code, pkce).json
    assert wiki.client.get(wiki.path("userinfo"), headers=bearer(body["access_token"])).status_code == 200
    assert error_of(wiki.redeem(code, pkce)) == (400, "invalid_grant")
    assert wiki.client.get(wiki.path("userinfo"), headers=bearer(body["access_token"])).status_code == 401
    assert error_of(wiki.refresh(body["refresh_token"])) == (400, "invalid_grant")
    with wiki.web.app_context(), unit(world.acme) as session:
        assert session.scalars(sa.select(Grant.end_reason)).one() == "code_reused"


def test_4_2_and_4_3_answers_leave_no_trace_with_others(wiki: Party) -> None:
    """No Referer that tells the code, and nothing a cache may keep."""
    for answer in (wiki.authorize(), wiki.authorize(scope="unknown")):
        assert answer.headers["Referrer-Policy"] == "no-referrer" and answer.headers["Cache-Control"] == "no-store"
    page = wiki.authorize(response_mode="form_post")
    assert page.headers["Referrer-Policy"] in ("no-referrer", "same-origin")
    assert page.headers["Cache-Control"] == "no-store"


def test_4_6_the_id_token_names_the_access_token_and_the_request_it_answers(wiki: Party) -> None:
    body = wiki.signed_in(nonce="n-1")
    claims = jwt_claims(body["id_token"])
    half = hashlib.sha256(body["access_token"].encode()).digest()[:16]
    assert claims["at_hash"] == base64.urlsafe_b64encode(half).decode().rstrip("=")
    assert claims["nonce"] == "n-1" and claims["aud"] == claims["azp"] == wiki.app.client_id
    assert "nonce" not in jwt_claims(wiki.signed_in(nonce=None)["id_token"])


def test_4_4_every_authorization_response_names_its_issuer(wiki: Party, web: Flask, world: World) -> None:
    """Mix-up: the client sees whose answer it is, of a success as of an error."""
    assert answered(wiki.authorize())["iss"] == wiki.issuer.url
    assert answered(wiki.authorize(scope="unknown"))["iss"] == wiki.issuer.url
    assert answered(wiki.authorize(prompt="none", max_age="0"))["iss"] == wiki.issuer.url
    announced = wiki.client.get(urlsplit(wiki.issuer.url).path + "/.well-known/openid-configuration").json
    assert announced["authorization_response_iss_parameter_supported"] is True


def test_4_4_a_code_of_one_issuer_is_worth_nothing_at_another(web: Flask, world: World, platform: Any) -> None:
    app = make_app(platform, scope="GLOBAL", shared_with=(world.acme, world.globex))
    here = party(web, app, world.acme, world.acme)
    for elsewhere in (world.globex, None):
        pkce = Pkce()
        code = here.code(pkce)
        with web.app_context():
            issuer = Issuer.platform() if elsewhere is None else Issuer.of_tenant(elsewhere)
        there = Party(web, app, issuer, here.user_id, here.session_id, here.client)
        assert error_of(there.redeem(code, pkce)) == (400, "invalid_grant")
        assert here.redeem(code, pkce).status_code == 200


def test_4_5_an_injected_code_is_refused_for_want_of_its_verifier(wiki: Party) -> None:
    stolen = wiki.code(Pkce())
    assert error_of(wiki.redeem(stolen, Pkce())) == (400, "invalid_grant")
    for verifier in (None, "", "short", "x" * 129, "ü" * 43):
        answer = wiki.redeem(wiki.code(Pkce()), Pkce(), code_verifier=verifier)
        assert error_of(answer)[0] == 400 and "access_token" not in answer.json
    pkce = Pkce()
    assert wiki.redeem(wiki.code(pkce), pkce).status_code == 200


def test_4_5_a_code_is_for_the_client_it_was_given_to(wiki: Party, other: Party, spa: Party) -> None:
    pkce = Pkce()
    code = wiki.code(pkce)
    assert error_of(other.redeem(code, pkce)) == (400, "invalid_grant")
    assert error_of(spa.redeem(code, pkce, headers={}, client_id=spa.app.client_id)) == (400, "invalid_grant")
    assert wiki.redeem(code, pkce).status_code == 200


@pytest.mark.parametrize("uri", [None, "", BACK + "/", "https://evil.example/back", BACK + "?"])
def test_4_5_a_code_is_for_the_redirect_uri_it_was_sent_to(wiki: Party, uri: str | None) -> None:
    pkce = Pkce()
    assert error_of(wiki.redeem(wiki.code(pkce), pkce, redirect_uri=uri)) == (400, "invalid_grant")
    pkce = Pkce()
    assert wiki.redeem(wiki.code(pkce), pkce).status_code == 200


def test_4_7_state_comes_back_as_it_was_and_codes_do_not_follow_a_link(wiki: Party) -> None:
    for state in ("x" * 500, "a b&c=d#é", None):
        assert answered(wiki.authorize(state=state)).get("state") == state
    # Somebody who is not signed in gets no code out of a link: he is asked who he is.
    stranger = wiki.web.test_client()
    answer = stranger.get(wiki.path("authorize"), query_string=wiki.question(Pkce()))
    assert answer.status_code == 303 and "/sign-in?flow=" in answer.headers["Location"]


def test_4_7_a_sign_in_goes_on_only_in_the_browser_that_began_it(wiki: Party) -> None:
    """CSRF and session fixation: a flow's address, given to somebody else, is worth nothing there."""
    mine = wiki.web.test_client()
    where = mine.get(wiki.path("authorize"), query_string=wiki.question(Pkce())).headers["Location"]
    flow = where.partition("flow=")[2]
    answer = wiki.client.get(wiki.path("authorize"), query_string={"flow": flow})
    assert answer.status_code == 400 and "Location" not in answer.headers
    assert mine.get(wiki.path("authorize"), query_string={"flow": flow}).status_code == 303


def test_4_7_a_sign_in_yields_one_code(wiki: Party) -> None:
    stranger = wiki.web.test_client()
    where = stranger.get(wiki.path("authorize"), query_string=wiki.question(Pkce())).headers["Location"]
    flow = where.partition("flow=")[2]
    for cookie in ("sk-" + str(wiki.issuer.scope and wiki.issuer.scope.slug),):
        held = wiki.client.get_cookie(cookie)
        assert held is not None
        stranger.set_cookie(cookie, held.value, domain="localhost")
    assert "code" in answered(stranger.get(wiki.path("authorize"), query_string={"flow": flow}))
    again = stranger.get(wiki.path("authorize"), query_string={"flow": flow})
    assert again.status_code == 400 and "Location" not in again.headers


def test_4_8_2_a_downgrade_of_pkce_is_refused_at_both_ends(wiki: Party) -> None:
    assert answered(wiki.authorize(code_challenge=None, code_challenge_method=None))["error"] == "invalid_request"
    pkce = Pkce()
    plain = wiki.redeem(wiki.code(pkce), pkce, code_verifier=pkce.challenge)
    assert error_of(plain) == (400, "invalid_grant")
    without = wiki.redeem(wiki.code(pkce), pkce, code_verifier=None)
    assert error_of(without) == (400, "invalid_request")
    assert wiki.redeem(wiki.code(pkce), pkce).status_code == 200


def test_rfc_8725_what_is_no_access_token_of_ours_is_refused(wiki: Party) -> None:
    """Forged and confused tokens: alg none, HMAC with the public key, an ID token for an access token, another key."""
    body = wiki.signed_in()
    good, claims = body["access_token"], jwt_claims(body["access_token"])
    published = wiki.client.get(wiki.path("jwks")).json["keys"]
    rsa = next(key for key in published if key["alg"] == "RS256")
    header = {"alg": "RS256", "kid": rsa["kid"], "typ": "at+jwt"}
    mine = jwk.RSAKey.generate_key(2048)
    head, payload, _ = good.split(".")
    forged = {
        "alg none": none_of({**header, "alg": "none"}, claims),
        "another key": jwt.encode(header, claims, mine),
        "its own key inside": jwt.encode({**header, "jwk": mine.as_dict(private=False)}, claims, mine),
        "HMAC with the public key": jwt.encode(
            {**header, "alg": "HS256"}, claims, jwk.OctKey.import_key(rsa["n"].encode())
        ),
        "an ID token": body["id_token"],
        "a refresh token": body["refresh_token"],
        "no signature": f"{head}.{payload}.",
        "nothing": "",
        "noise": "x.y.z",
        "a JSON form": '{"payload":"x"}',
    }
    for name, token in forged.items():
        for path in (wiki.path("userinfo"), "/api/v1/auth/whoami"):
            assert wiki.client.get(path, headers=bearer(token)).status_code == 401, name
        answer = wiki.web.test_client().post(
            wiki.path("introspect"), data={"token": token or "x"}, headers=wiki.app.basic
        )
        assert answer.json == {"active": False}, name
    assert wiki.client.get(wiki.path("userinfo"), headers=bearer(good)).status_code == 200


def none_of(header: dict[str, Any], claims: dict[str, Any]) -> str:
    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(orjson.dumps(value)).decode().rstrip("=")

    return f"{part(header)}.{part(claims)}."


def test_4_12_redirects_are_303(wiki: Party) -> None:
    answer = wiki.client.post(wiki.path("authorize"), data=wiki.question(Pkce()))
    while "/oauth/authorize?flow=" in answer.headers.get("Location", ""):
        assert answer.status_code == 303
        answer = wiki.client.get(answer.headers["Location"])
    assert answer.status_code == 303 and "code=" in answer.headers["Location"]


def test_4_3_2_tokens_and_codes_are_taken_from_no_url(wiki: Party) -> None:
    token = wiki.signed_in()["access_token"]
    assert wiki.client.get(wiki.path("userinfo"), query_string={"access_token": token}).status_code == 401
    assert wiki.client.post(wiki.path("userinfo"), data={"access_token": token}).status_code == 200
    pkce = Pkce()
    form = {"grant_type": "authorization_code", "code": wiki.code(pkce), "redirect_uri": BACK}
    answer = wiki.client.post(
        wiki.path("token"),
        query_string={**form, "code_verifier": pkce.verifier},
        headers={**wiki.app.basic, "Content-Type": "application/x-www-form-urlencoded"},
    )
    assert error_of(answer) == (400, "invalid_request")


def test_4_13_what_a_stranger_says_of_a_proxy_changes_no_issuer(wiki: Party) -> None:
    path = urlsplit(wiki.issuer.url).path + "/.well-known/openid-configuration"
    for name, value in (
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Proto", "gopher"),
        ("Forwarded", "host=evil.example;proto=gopher"),
        ("X-Forwarded-Prefix", "/evil"),
    ):
        assert wiki.client.get(path, headers={name: value}).json["issuer"] == wiki.issuer.url
        answer = wiki.client.get(wiki.path("authorize"), query_string=wiki.question(Pkce()), headers={name: value})
        assert "evil" not in answer.headers["Location"] and "gopher" not in answer.headers["Location"]


def test_4_15_a_client_is_never_taken_for_a_person(wiki: Party, web: Flask, world: World) -> None:
    """Its subject is its client id, which the server made, and its tokens open nothing that is a person's."""
    account = make_service_account(world.acme, audiences=["scaikey"], scopes=["scaikey:read"])
    form = {"grant_type": "client_credentials"}
    token = web.test_client().post(wiki.path("token"), data=form, headers=account.basic).json["access_token"]
    claims = jwt_claims(token)
    assert claims["sub"] == account.client_id != wiki.user_id and claims["identity_id"].startswith("sa:")
    assert wiki.client.get(wiki.path("userinfo"), headers=bearer(token)).status_code == 403
    mine = wiki.signed_in()["access_token"]
    assert jwt_claims(mine)["sub"] == wiki.user_id
    assert wiki.client.get(wiki.path("userinfo"), headers=bearer(mine)).status_code == 200


def test_4_14_a_refresh_token_is_for_its_client_and_its_scopes(wiki: Party, other: Party) -> None:
    body = wiki.signed_in(scope="openid profile email")
    secret = body["refresh_token"]
    assert error_of(other.refresh(secret)) == (400, "invalid_grant")
    assert error_of(wiki.refresh(secret, scope="openid offline_access")) == (400, "invalid_scope")
    assert error_of(wiki.refresh(secret[:-1] + "é")) == (400, "invalid_grant")
    narrow = wiki.refresh(secret, scope="profile").json
    assert narrow["scope"] == "profile" and "id_token" not in narrow
    wide = wiki.refresh(narrow["refresh_token"]).json
    assert wide["scope"] == "openid profile email"
    assert "nonce" not in jwt_claims(wide["id_token"]) and jwt_claims(body["id_token"])["nonce"] == "the-nonce"


def test_4_16_nothing_of_it_can_be_framed(wiki: Party) -> None:
    for answer in (
        wiki.client.get(wiki.path("authorize")),
        wiki.client.get(wiki.path("logout")),
        wiki.authorize(response_mode="form_post"),
    ):
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]


def test_4_17_an_in_browser_answer_is_a_form_to_the_registered_address_alone(wiki: Party) -> None:
    answer = wiki.authorize(response_mode="form_post", state='"><script>alert(1)</script>')
    page = answer.get_data(as_text=True)
    assert answer.status_code == 200 and f'action="{BACK}"' in page and 'name="code"' in page and 'name="iss"' in page
    assert "<script>alert" not in page
    assert "form-action https://wiki.example;" in answer.headers["Content-Security-Policy"]
    failed = wiki.authorize(response_mode="form_post", scope="unknown")
    assert 'value="invalid_scope"' in failed.get_data(as_text=True)
