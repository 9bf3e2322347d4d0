"""The OAuth 2.1 draft by its sections, where RFC 9700's tests do not say it already; refusals beside their twins."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from flask import Flask

from broker.context import Scope
from tests.conftest import World
from tests.oidc.party import BACK, Party, Pkce, answered, make_app, party, sign_in
from tests.oidc.test_rfc9700 import error_of, refused_by_page


@pytest.fixture
def wiki(web: Flask, world: World) -> Party:
    return party(web, make_app(world.acme), world.acme, world.acme)


def test_1_4_the_access_token_is_a_bearer_token_for_a_while(wiki: Party) -> None:
    body = wiki.signed_in()
    assert body["token_type"] == "Bearer" and body["expires_in"] == 3600


def test_2_3_2_a_query_that_was_registered_stays_in_the_redirect_uri(web: Flask, world: World) -> None:
    uri = "https://wiki.example/back?tenant=1&x=%20y"
    one = party(web, make_app(world.acme, redirect_uris=[uri]), world.acme, world.acme)
    pkce = Pkce()
    answer = one.authorize(pkce)
    assert answer.headers["Location"].startswith(uri + "&code=")
    assert one.redeem(answered(answer)["code"], pkce).status_code == 200


def test_2_3_1_every_one_of_several_redirect_uris_serves_and_one_must_be_named(web: Flask, world: World) -> None:
    uris = [BACK, "https://wiki.example/other"]
    one = party(web, make_app(world.acme, redirect_uris=uris), world.acme, world.acme)
    for uri in uris:
        pkce = Pkce()
        answer = one.authorize(pkce, redirect_uri=uri)
        assert answer.headers["Location"].startswith(uri + "?code=")
        assert one.redeem(answered(answer)["code"], pkce, redirect_uri=uri).status_code == 200
    refused_by_page(one, redirect_uri=None)


def test_2_3_a_native_applications_own_scheme_is_a_redirect_uri(web: Flask, world: World) -> None:
    uri = "com.example.wiki:/back"
    one = party(web, make_app(world.acme, type="native", redirect_uris=[uri]), world.acme, world.acme)
    assert one.authorize().headers["Location"].startswith(uri + "?code=")
    refused_by_page(one, redirect_uri="com.example.evil:/back")


@pytest.mark.parametrize(
    "name", ["response_type", "scope", "state", "nonce", "prompt", "code_challenge", "foreign", "login_hint"]
)
def test_3_1_no_parameter_is_given_twice_at_the_authorization_endpoint(wiki: Party, name: str) -> None:
    asked = [*wiki.question(Pkce()).items(), (name, "openid"), (name, "openid")]
    answer = wiki.client.get(wiki.path("authorize"), query_string=asked)  # type: ignore[arg-type]
    said = answered(answer)
    assert said["error"] == "invalid_request" and said["iss"] == wiki.issuer.url and "code" not in said


@pytest.mark.parametrize("name", ["client_id", "redirect_uri"])
def test_3_1_whom_to_answer_is_said_once(wiki: Party, name: str) -> None:
    question = wiki.question(Pkce())
    for again in (question[name], "https://evil.example/"):
        for asked in ([*question.items(), (name, again)], [(name, again), *question.items()]):
            answer = wiki.client.get(wiki.path("authorize"), query_string=asked)  # type: ignore[arg-type]
            assert answer.status_code == 400 and "Location" not in answer.headers


def test_3_1_a_parameter_without_a_value_counts_as_omitted(wiki: Party) -> None:
    assert "code" in answered(wiki.authorize(prompt="", max_age="", resource="", response_mode=""))
    assert answered(wiki.authorize(response_type=""))["error"] == "invalid_request"
    assert answered(wiki.authorize(code_challenge=""))["error"] == "invalid_request"


@pytest.mark.parametrize(("name", "most"), [("state", 1024), ("nonce", 1024), ("login_hint", 320), ("provider", 64)])
def test_3_1_what_is_kept_until_the_person_has_signed_in_is_short(wiki: Party, name: str, most: int) -> None:
    assert "code" in answered(wiki.authorize(**{name: "x" * most}))
    assert answered(wiki.authorize(**{name: "x" * (most + 1)}))["error"] == "invalid_request"


def test_3_1_a_post_from_another_site_comes_again_as_a_get_and_with_its_cookies(wiki: Party) -> None:
    strange = {"Origin": "https://wiki.example", "Sec-Fetch-Site": "cross-site"}
    question = wiki.question(Pkce(), prompt="none", state="a&b=c é")
    path = wiki.path("authorize")
    without = wiki.web.test_client().post(path, data=question, headers=strange)
    assert without.status_code == 303 and "Set-Cookie" not in without.headers
    again = without.headers["Location"]
    assert again.startswith(f"{wiki.issuer.url}/oauth/authorize?")
    came = answered(wiki.client.get(again))
    assert "code" in came and came["state"] == "a&b=c é"
    twice = wiki.client.post(path, data={**question, "scope": ["openid", "openid"]}, headers=strange)
    assert answered(wiki.client.get(twice.headers["Location"]))["error"] == "invalid_request"
    long = wiki.client.post(path, data={**question, "state": "x" * 8_001}, headers=strange)
    assert long.status_code == 400 and "Location" not in long.headers
    for ours in ({}, {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}):
        assert "code" in answered(wiki.client.post(path, data=question, headers=ours))


def test_3_1_head_is_asked_like_get(wiki: Party) -> None:
    path = wiki.path("authorize")
    question = wiki.question(Pkce(), prompt="none")
    assert "code" in answered(wiki.client.head(path, query_string=question))
    assert wiki.client.head(path, query_string={**question, "client_id": "nobody"}).status_code == 400


def test_3_1_unknown_parameters_are_passed_over(wiki: Party) -> None:
    assert "code" in answered(wiki.authorize(foo="bar", display="popup", ui_locales="de", acr_values="urn:high"))


def test_3_1_the_request_may_be_posted(wiki: Party) -> None:
    answer = wiki.client.post(wiki.path("authorize"), data=wiki.question(Pkce()))
    assert answer.status_code == 303
    split = wiki.client.post(wiki.path("authorize"), query_string=wiki.question(Pkce()), data={"x": "y"})
    assert split.status_code == 400, "parameters of a POST are those of its body"
    wrong = wiki.client.post(wiki.path("authorize"), json=wiki.question(Pkce()))
    assert wrong.status_code == 400 and wrong.mimetype == "text/html"


def test_3_2_the_token_endpoint_is_for_post(wiki: Party) -> None:
    answer = wiki.client.get(wiki.path("token"), query_string={"grant_type": "client_credentials"})
    assert answer.status_code == 405 and "POST" in answer.headers["Allow"]


def test_3_2_2_1_what_the_scope_is_is_said(wiki: Party) -> None:
    assert wiki.signed_in(scope="openid email")["scope"] == "openid email"
    assert wiki.signed_in(scope="openid openid email")["scope"] == "openid email"
    assert wiki.signed_in(scope=None)["scope"] == "openid profile email", "what is registered, but nothing for offline"
    assert wiki.signed_in(scope="profile")["scope"] == "profile"
    assert "id_token" not in wiki.signed_in(scope="profile")


@pytest.mark.parametrize("scope", ["admin", "openid admin", "openid  profile", "OPENID", 'openid"', "scaikey:write"])
def test_1_4_1_an_unknown_scope_is_refused(wiki: Party, scope: str) -> None:
    assert answered(wiki.authorize(scope=scope))["error"] == "invalid_scope"


def test_4_1_3_the_verifier_is_demanded_of_everybody(wiki: Party) -> None:
    answer = wiki.redeem(wiki.code(Pkce()), Pkce(), code_verifier=None)
    assert error_of(answer) == (400, "invalid_request")


def test_4_1_3_a_code_that_is_none_is_refused(wiki: Party) -> None:
    for code in ("x", "x" * 43, "", None, "\u00e9" * 43, "x" * 8000, "'; DROP TABLE grants"):
        assert wiki.redeem(code or "", Pkce()).status_code == 400


def test_4_2_client_credentials_are_for_confidential_clients(web: Flask, world: World) -> None:
    app = make_app(
        world.acme, grant_types=["client_credentials"], token_endpoint_auth_method="none", secret=False, scopes=["read"]
    )
    one = party(web, app, world.acme, world.acme)
    answer = one.token(headers={}, grant_type="client_credentials", client_id=app.client_id)
    assert error_of(answer) == (400, "unauthorized_client")


def test_7_5_3_and_10_what_2_1_left_out_is_not_there(wiki: Party) -> None:
    said = wiki.client.get(urlsplit(wiki.issuer.url).path + "/.well-known/openid-configuration").json
    assert said["response_types_supported"] == ["code"] and said["code_challenge_methods_supported"] == ["S256"]
    assert not {"password", "implicit"} & set(said["grant_types_supported"])
    assert answered(wiki.authorize(response_mode="fragment"))["error"] == "invalid_request"


def test_oidc_3_1_2_1_requests_by_value_or_reference_are_named_unsupported(wiki: Party) -> None:
    assert answered(wiki.authorize(request="e30.e30."))["error"] == "request_not_supported"
    assert answered(wiki.authorize(request_uri="https://evil.example/r"))["error"] == "request_uri_not_supported"
    assert answered(wiki.authorize(registration="{}"))["error"] == "registration_not_supported"


@pytest.mark.parametrize("prompt", ["none login", "create", "None", "login;consent"])
def test_oidc_3_1_2_1_prompt_is_one_of_four_words(wiki: Party, prompt: str) -> None:
    assert answered(wiki.authorize(prompt=prompt))["error"] == "invalid_request"


@pytest.mark.parametrize("max_age", ["-1", "1.5", "soon", "9" * 12, "٣"])
def test_oidc_3_1_2_1_max_age_is_a_number(wiki: Party, max_age: str) -> None:
    assert answered(wiki.authorize(max_age=max_age))["error"] == "invalid_request"
    assert "code" in answered(wiki.authorize(max_age="3600"))


def test_oidc_3_1_2_1_prompt_none_answers_at_once(wiki: Party) -> None:
    assert "code" in answered(wiki.authorize(prompt="none"))
    nobody = Party(wiki.web, wiki.app, wiki.issuer, "", "", wiki.web.test_client())
    said = answered(nobody.authorize(prompt="none"))
    assert said["error"] == "login_required" and said["state"] == "the-state" and said["iss"] == wiki.issuer.url


def test_oidc_3_1_2_1_prompt_login_asks_whoever_is_signed_in_already(wiki: Party) -> None:
    for asked in ({"prompt": "login"}, {"prompt": "select_account"}, {"max_age": "0"}):
        answer = wiki.authorize(**asked)
        assert answer.status_code == 303 and "/sign-in?flow=" in answer.headers["Location"]


def test_oidc_3_1_2_1_a_hint_of_somebody_else_is_no_answer_for_whoever_is_signed_in(
    wiki: Party, web: Flask, world: World
) -> None:
    hint = wiki.signed_in()["id_token"]
    assert "code" in answered(wiki.authorize(prompt="none", id_token_hint=hint))
    other = party(web, wiki.app, world.acme, world.acme)
    for wrong in (hint, "nonsense", other.signed_in()["access_token"]):
        assert answered(other.authorize(prompt="none", id_token_hint=wrong))["error"] == "login_required"


def test_oidc_3_1_2_1_a_hint_asks_whoever_else_is_signed_in(
    wiki: Party, web: Flask, world: World, platform: Scope
) -> None:
    hint = wiki.signed_in()["id_token"]
    other = party(web, wiki.app, world.acme, world.acme)
    assert "code" in answered(wiki.authorize(id_token_hint=hint))
    assert "/sign-in?flow=" in other.authorize(id_token_hint=hint).headers["Location"]
    with web.app_context():
        sign_in(web, world.acme, wiki.user_id, other.client)
    assert "code" in answered(other.authorize(id_token_hint=hint))
    # What is no ID token of this issuer (any more) means nobody.
    assert "code" in answered(other.authorize(id_token_hint="nonsense"))
    app = make_app(platform, scope="GLOBAL", shared_with=(world.acme, world.globex))
    here, there = party(web, app, None, world.acme), party(web, app, None, world.globex)
    hint = here.signed_in()["id_token"]
    assert "code" in answered(here.authorize(id_token_hint=hint))
    assert "/sign-in?request=" in there.authorize(id_token_hint=hint).headers["Location"]
    assert answered(there.authorize(id_token_hint=hint, prompt="none"))["error"] == "login_required"


def test_oidc_3_1_2_4_a_third_partys_person_is_asked(web: Flask, world: World) -> None:
    one = party(web, make_app(world.acme, third_party=True), world.acme, world.acme)
    assert "/consent?flow=" in one.authorize().headers["Location"]
    assert answered(one.authorize(prompt="none"))["error"] == "consent_required"


def test_the_platform_asks_which_organisation_and_knows_who_is_signed_in(
    web: Flask, world: World, platform: Scope
) -> None:
    app = make_app(platform, scope="GLOBAL", shared_with=(world.acme,))
    one = party(web, app, None, world.acme)
    assert "code" in answered(one.authorize())
    nobody = Party(web, app, one.issuer, "", "", web.test_client())
    for path in (one.path("authorize"), "/oauth/authorize", "/auth"):
        answer = nobody.client.get(path, query_string=nobody.question(Pkce()))
        assert answer.status_code == 303 and "/sign-in?request=" in answer.headers["Location"]
    assert answered(nobody.authorize(prompt="none"))["error"] == "login_required"


def test_a_disabled_application_is_told_to_the_person_and_not_by_redirect(web: Flask, world: World) -> None:
    one = party(web, make_app(world.acme, enabled=False), world.acme, world.acme)
    answer = one.client.get(one.path("authorize"), query_string=one.question(Pkce()))
    assert answer.status_code == 403 and "Location" not in answer.headers


def test_what_is_later_answers_501_and_is_not_announced(wiki: Party) -> None:
    for name in ("device", "par"):
        assert wiki.client.post(wiki.path(name)).status_code == 501
    for page in ("/console", "/console/tenants", "/t/acme/account"):
        assert wiki.client.get(page).status_code == 501
    said = wiki.client.get(urlsplit(wiki.issuer.url).path + "/.well-known/openid-configuration").json
    assert not {"device_authorization_endpoint", "pushed_authorization_request_endpoint"} & set(said)
