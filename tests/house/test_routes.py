"""Every route names its deed and its place, nobody knocks without one, and the role table is what was agreed."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask import Flask

from broker import doors, policy
from broker.doors import Door, Route
from broker.errors import Problem
from broker.policy import RULES, Action
from tests.casting import PREFIX, Cast

ISSUERS = ("/api/v1/auth/tenants/<slug>", "/api/v1/platform")
OAUTH = {
    *(
        f"{issuer}/oauth/{name}"
        for issuer in ISSUERS
        for name in ("authorize", "token", "userinfo", "introspect", "revoke", "jwks", "logout")
    ),
    *(issuer + "/.well-known/openid-configuration" for issuer in ISSUERS),
    *("/.well-known/openid-configuration" + issuer for issuer in ISSUERS),
    *("/.well-known/oauth-authorization-server" + issuer for issuer in ISSUERS),
    *("/oauth/token", "/oauth/authorize", "/auth", "/.well-known/openid-configuration", "/.well-known/jwks.json"),
}
PUBLIC = {"/healthz", "/readyz", "/metrics", "/docs", "/api/v1/openapi.json", "/static/<digest>/<name>"} | OAUTH
PAGES = {"/sign-in"} | {
    f"/t/<tenant_slug>/{page}"
    for page in ("sign-in", "sign-in/cancel", "consent", "callback/<provider_id>", "sign-out", "signed-out", "apps")
}
"""For browsers, which show a session of their own."""
OWN = {Action.OWN_TOKEN_READ, Action.OWN_TOKEN_WRITE, Action.SESSION_READ, Action.SESSION_WRITE}
"""What everybody has of his own."""


def test_every_route_names_an_action_of_the_table(web: Flask) -> None:
    for route in doors.routes(web):
        assert route.action in RULES, route.rule
        assert (route.context == "none") == (route.action is Action.NOTHING_SECRET), route.rule


def test_a_route_without_an_action_stops_the_start(web: Flask) -> None:
    stray = Flask("stray", static_folder=None)
    stray.add_url_rule("/stray", "stray", lambda: "")
    with pytest.raises(LookupError, match="/stray"):
        doors.routes(stray)


def test_a_public_route_cannot_act_anywhere() -> None:
    def render(problem: Problem) -> doors.Response:
        raise AssertionError

    with pytest.raises(ValueError, match="public"):
        Door("d", url_prefix="/d", render=render).route("/x", action=Action.NOTHING_SECRET, context="tenant")


def test_what_is_public_is_listed_here(web: Flask) -> None:
    public = [route for route in doors.routes(web) if route.action is Action.NOTHING_SECRET]
    answering = {route.rule for route in public if not route.endpoint.endswith("_later")}
    assert answering == PUBLIC | PAGES


def paths(route: Route, tenant_id: str, partner_id: str, slug: str) -> str:
    values = {"tenant_id": tenant_id, "chosen_tenant": tenant_id, "partner_id": partner_id, "tenant_slug": slug}
    path = route.rule
    while "<" in path:
        before, _, rest = path.partition("<")
        name, _, after = rest.partition(">")
        choices, _, plain = name.rpartition(":")
        value = choices[4:-1].split(",")[0] if choices.startswith("any(") else values.get(plain, "nothing")
        path = before + value + after
    return path


def test_nobody_gets_past_any_route_without_a_token(web: Flask, cast: Cast) -> None:
    knocked = 0
    for route in doors.routes(web):
        if route.action is Action.NOTHING_SECRET:
            continue
        path = paths(route, cast.acme.tenant_id or "", cast.world.partner_id, cast.acme.slug or "")
        for method in route.methods:
            for headers in ({}, {"Authorization": "Bearer nonsense"}):
                answer = cast.client.open(path, method=method, headers=headers)
                assert answer.status_code == 401, (method, path)
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")
                knocked += 1
    assert knocked > 100


def test_an_ordinary_person_and_a_stranger_get_nothing_from_any_route(web: Flask, cast: Cast) -> None:
    """A person without a role in his own tenant, and another tenant's administrator in this one."""
    for route in doors.routes(web):
        if route.action is Action.NOTHING_SECRET or route.action in OWN:
            continue
        if route.context == "self":
            continue
        path = paths(route, cast.acme.tenant_id or "", cast.world.partner_id, cast.acme.slug or "")
        for method in route.methods:
            answer = cast.person.ask(method, path.removeprefix(PREFIX)) if path.startswith(PREFIX) else None
            answer = answer or cast.client.open(
                path, method=method, headers={"Authorization": f"Bearer {cast.person.token}"}
            )
            assert answer.status_code in (403, 404), ("person", method, path, answer.status_code)
            if route.context == "reach":
                continue
            answer = cast.client.open(
                path,
                method=method,
                headers={
                    "Authorization": f"Bearer {cast.globex_admin.token}",
                    **({"X-Tenant-ID": cast.acme.tenant_id or ""} if route.context in ("tenant", "own") else {}),
                },
            )
            assert answer.status_code in (400, 403, 404), ("globex", method, path, answer.status_code)


def table() -> str:
    width = max(len(action.value) for action in Action)
    lines = [
        f"{action.value:<{width}}  {' '.join(predicate.__name__ for predicate in RULES[action])}"
        for action in sorted(Action, key=lambda action: action.value)
    ]
    return "\n".join(lines) + "\n"


def test_the_role_table_is_the_one_that_was_agreed() -> None:
    assert table() == (Path(__file__).parent / "policy.txt").read_text()


def test_every_action_has_a_rule() -> None:
    assert set(policy.RULES) == set(Action)
