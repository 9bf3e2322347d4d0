"""RP-initiated logout: whose word is needed, what ends, and where the browser goes."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from broker.context import Scope
from oidc.tokens import Issuer
from tests.casting import make_user
from tests.conftest import World
from tests.oidc.party import Party, make_app, party, sign_in

AFTER = "https://wiki.example/bye"


@pytest.fixture
def wiki(web: Flask, world: World) -> Party:
    app = make_app(world.acme, post_logout_redirect_uris=[AFTER])
    return party(web, app, world.acme, world.acme)


def is_signed_in(party: Party) -> bool:
    return "code=" in party.authorize(prompt="none").headers["Location"]


def leave(party: Party, **asked: str) -> TestResponse:
    return party.client.get(party.path("logout"), query_string=asked)


def test_with_a_hint_for_the_person_the_session_ends_without_a_word(wiki: Party) -> None:
    body = wiki.signed_in()
    answer = leave(wiki, id_token_hint=body["id_token"], post_logout_redirect_uri=AFTER, state="s 1")
    assert answer.status_code == 303 and answer.headers["Location"] == AFTER + "?state=s+1"
    assert not is_signed_in(wiki)
    assert wiki.refresh(body["refresh_token"]).status_code == 400
    token = {"Authorization": f"Bearer {body['access_token']}"}
    assert wiki.client.get(wiki.path("userinfo"), headers=token).status_code == 401


def test_what_was_given_for_offline_outlives_the_logout(wiki: Party) -> None:
    body = wiki.signed_in(scope="openid offline_access")
    assert leave(wiki, id_token_hint=body["id_token"]).status_code == 303
    assert not is_signed_in(wiki)
    assert wiki.refresh(body["refresh_token"]).status_code == 200


def test_without_a_hint_a_page_asks_and_its_answer_ends_the_session(wiki: Party) -> None:
    answer = leave(wiki, client_id=wiki.app.client_id, post_logout_redirect_uri=AFTER, state="s")
    page = answer.get_data(as_text=True)
    assert answer.status_code == 200 and is_signed_in(wiki)
    action, csrf = re.search(r'action="([^"]+)"', page), re.search(r'name="csrf" value="([^"]+)"', page)
    assert action and csrf
    where = urlsplit(action[1].replace("&amp;", "&"))
    forged = wiki.client.post(f"{where.path}?{where.query}", data={"csrf": "x" * 64})
    assert forged.status_code == 400 and is_signed_in(wiki)
    elsewhere = wiki.client.post(
        f"{where.path}?{where.query}", data={"csrf": csrf[1]}, headers={"Sec-Fetch-Site": "cross-site"}
    )
    assert elsewhere.status_code == 400 and is_signed_in(wiki)
    answer = wiki.client.post(f"{where.path}?{where.query}", data={"csrf": csrf[1]})
    assert answer.status_code == 200 and f"{AFTER}?state=s" in answer.get_data(as_text=True)
    assert not is_signed_in(wiki)


def test_somebody_elses_hint_is_none(wiki: Party, web: Flask, world: World) -> None:
    other = party(web, wiki.app, world.acme, world.acme)
    hint = other.signed_in()["id_token"]
    assert leave(wiki, id_token_hint=hint).status_code == 200
    access_token = wiki.signed_in()["access_token"]
    assert leave(wiki, id_token_hint=access_token).status_code == 200
    assert leave(wiki, id_token_hint="nonsense").status_code == 200
    assert is_signed_in(wiki) and is_signed_in(other)


@pytest.mark.parametrize(
    "uri", [AFTER + "/", AFTER + "?x=1", "https://evil.example/", "//evil.example", "https://WIKI.example/bye"]
)
def test_afterwards_it_goes_to_registered_addresses_alone(wiki: Party, uri: str) -> None:
    hint = wiki.signed_in()["id_token"]
    for asked in ({"id_token_hint": hint}, {"client_id": wiki.app.client_id}, {}):
        answer = leave(wiki, post_logout_redirect_uri=uri, **asked)
        assert answer.status_code == 400 and "Location" not in answer.headers
    assert is_signed_in(wiki)
    assert leave(wiki, id_token_hint=hint, post_logout_redirect_uri=AFTER).headers["Location"] == AFTER


def test_a_client_id_that_is_not_the_hints_is_refused(wiki: Party, world: World) -> None:
    other = make_app(world.acme, post_logout_redirect_uris=[AFTER])
    hint = wiki.signed_in()["id_token"]
    assert leave(wiki, id_token_hint=hint, client_id=other.client_id).status_code == 400
    assert leave(wiki, id_token_hint=hint, state="\x00").status_code == 400
    assert is_signed_in(wiki)


def test_a_post_from_another_site_comes_back_as_a_get_that_brings_the_cookie(wiki: Party) -> None:
    hint = wiki.signed_in()["id_token"]
    answer = wiki.web.test_client().post(
        wiki.path("logout"),
        data={"id_token_hint": hint, "post_logout_redirect_uri": AFTER},
        headers={"Origin": "https://wiki.example", "Sec-Fetch-Site": "cross-site"},
    )
    assert answer.status_code == 303 and answer.headers["Location"].startswith(wiki.issuer.endpoint("logout") + "?")
    assert wiki.client.get(answer.headers["Location"]).headers["Location"] == AFTER
    assert not is_signed_in(wiki)


def test_whoever_is_not_signed_in_is_sent_on(wiki: Party) -> None:
    nobody = wiki.web.test_client()
    answer = nobody.get(wiki.path("logout"), query_string={"client_id": wiki.app.client_id})
    assert answer.status_code == 303 and answer.headers["Location"].endswith("/signed-out")
    hint = wiki.signed_in()["id_token"]
    answer = nobody.get(wiki.path("logout"), query_string={"id_token_hint": hint, "post_logout_redirect_uri": AFTER})
    assert answer.headers["Location"] == AFTER
    assert nobody.get("/api/v1/platform/oauth/logout").status_code == 200


def test_the_other_tenants_hint_ends_nothing_here(wiki: Party, web: Flask, world: World, platform: Scope) -> None:
    """In one browser, signed in at both: the hint of one does not reach the other's session."""
    everywhere = make_app(platform, scope="GLOBAL", shared_with=world.tenants, post_logout_redirect_uris=[AFTER])
    here = party(web, everywhere, world.acme, world.acme)
    hint = here.signed_in()["id_token"]
    there_id = make_user(world.globex)
    with web.app_context():
        sign_in(web, world.globex, there_id, here.client)
        there = Party(web, everywhere, Issuer.of_tenant(world.globex), there_id, "", here.client)
    answer = leave(there, id_token_hint=hint)
    assert answer.status_code == 200 and is_signed_in(there) and is_signed_in(here)
    assert leave(here, id_token_hint=hint).status_code == 303
    assert is_signed_in(there) and not is_signed_in(here)


def test_at_the_platform_issuer_the_hint_says_whose_session(web: Flask, world: World, platform: Scope) -> None:
    app = make_app(platform, scope="GLOBAL", shared_with=(world.acme,), post_logout_redirect_uris=[AFTER])
    one = party(web, app, None, world.acme)
    hint = one.signed_in()["id_token"]
    answer = leave(one, id_token_hint=hint, post_logout_redirect_uri=AFTER)
    assert answer.headers["Location"] == AFTER
    assert "login_required" in one.authorize(prompt="none").headers["Location"]
