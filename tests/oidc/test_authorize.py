"""From an authorization request to tokens that verify, and every way a request can be wrong."""

from __future__ import annotations

import pytest
from flask import Flask

from tests.conftest import World
from tests.oidc.party import Party, Pkce, answered, make_app, party


@pytest.fixture
def wiki(web: Flask, world: World) -> Party:
    return party(web, make_app(world.acme), world.acme, world.acme)


def test_a_person_who_is_signed_in_gets_tokens(wiki: Party) -> None:
    pkce = Pkce()
    said = answered(wiki.authorize(pkce))
    assert said["state"] == "the-state" and said["iss"] == wiki.issuer.url
    answer = wiki.redeem(said["code"], pkce)
    assert answer.status_code == 200, answer.get_data(as_text=True)
    body = answer.json
    assert body is not None
    assert set(body) == {"access_token", "id_token", "refresh_token", "token_type", "expires_in", "scope"}
    assert answer.headers["Cache-Control"] == "no-store"
