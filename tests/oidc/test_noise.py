"""Whatever is sent to an endpoint, the answer is one of the protocol's: never a 500, never a redirect to a stranger."""

from __future__ import annotations

import random
from urllib.parse import quote

import pytest
from flask import Flask

from tests.conftest import World
from tests.oidc.party import Party, Pkce, make_app, party

NOISE = (
    "", "\x00", "\ud800", "é", "x" * 9000, "-1", "[]", "{}", "null", "' OR 1=1", '"', "\\",
    "\r\nSet-Cookie: a=b", "%00", "a b", "https://evil.example", "//evil", "javascript:alert(1)", "..",
    "\u202e", "a" * 43, "none", "Bearer x", "💥", "eyJhbGciOiJub25lIn0.e30.", "ey.ey.ey", "e30.e30.e30",
    "scaikey", "openid",
)  # fmt: skip
NAMES = (
    "response_type", "client_id", "redirect_uri", "scope", "state", "nonce", "prompt", "max_age", "login_hint",
    "resource", "audience", "code_challenge", "code_challenge_method", "response_mode", "request", "flow",
    "id_token_hint", "grant_type", "code", "code_verifier", "refresh_token", "client_secret",
    "client_assertion", "client_assertion_type", "token", "token_type_hint", "access_token",
    "post_logout_redirect_uri", "csrf", "tenant_id", "logout_hint", "ui_locales",
)  # fmt: skip


@pytest.fixture
def wiki(web: Flask, world: World) -> Party:
    return party(
        web, make_app(world.acme, post_logout_redirect_uris=["https://wiki.example/bye"]), world.acme, world.acme
    )


def encoded(pairs: list[tuple[str, str]]) -> str:
    return "&".join(f"{name}={quote(value, errors='surrogatepass')}" for name, value in pairs)


@pytest.mark.parametrize("seed", range(6))
def test_noise_is_answered_in_the_protocols_own_words(wiki: Party, seed: int) -> None:
    dice = random.Random(seed)
    pkce = Pkce()
    good = {
        **wiki.question(pkce),
        "grant_type": "authorization_code",
        "token": "x",
        "client_secret": wiki.app.secret or "",
    }
    paths = [wiki.path(name) for name in ("authorize", "token", "userinfo", "introspect", "revoke", "logout")]
    paths += ["/oauth/token", "/auth", "/api/v1/platform/oauth/authorize", "/api/v1/platform/oauth/logout"]
    seen = set()
    for _ in range(120):
        given = {name: value for name, value in good.items() if dice.random() < 0.8}
        for name in dice.sample(NAMES, dice.randint(0, 4)):
            given[name] = dice.choice(NOISE)
        pairs = list(given.items())
        if dice.random() < 0.1 and pairs:
            pairs.append(dice.choice(pairs))
        headers = {}
        if dice.random() < 0.5:
            said = dice.choice(
                (f"Basic {dice.choice(('Og==', '/w==', '%', 'eDp5'))}", "Bearer x.y.z", "Bearer", "x", "")
            )
            headers = dice.choice((wiki.app.basic, {"Authorization": said}))
        path = dice.choice(paths)
        method = dice.choice(("GET", "POST"))
        body = encoded(pairs)
        if method == "GET":
            answer = wiki.client.get(path, query_string=body, headers=headers)
        else:
            form = dice.choice(("application/x-www-form-urlencoded",) * 5 + ("text/plain", "application/json"))
            answer = wiki.client.post(path, data=body, content_type=form, headers=headers)
        seen.add(answer.status_code)
        assert answer.status_code < 500, (method, path, pairs, headers, answer.get_data(as_text=True))
        where = answer.headers.get("Location", "")
        assert "evil" not in where.partition("?")[0] and "\n" not in where, where
        assert "Set-Cookie: a=b" not in str(answer.headers)
    assert {303, 400, 401} <= seen
