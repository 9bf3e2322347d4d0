"""Userinfo, introspection and revocation: who may ask, what is said, what ends."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from broker.context import acting, system
from broker.db import unit
from broker.directory import Directory
from tests.casting import make_group, make_token, make_user
from tests.conftest import World
from tests.oidc.party import App, Party, Pkce, assign, make_app, make_service_account, party
from tests.oidc.test_rfc9700 import bearer, error_of

INACTIVE = {"active": False}


@pytest.fixture
def wiki(web: Flask, world: World) -> Party:
    address = f"alice@{world.acme.slug}.example"
    document = {
        "userName": address,
        "displayName": "Alice",
        "name": {"givenName": "Alice", "familyName": "Smith"},
        "emails": [{"value": address, "primary": True}],
    }
    with web.app_context(), unit(world.acme), acting(system("test")):
        user_id = Directory().create("User", document).id
    make_group(world.acme, user_id)
    app = make_app(world.acme)
    assign(world.acme, app.id, user_id, "editor")
    return party(web, app, world.acme, world.acme, user_id)


def ask(party: Party, name: str, token: str, headers: dict[str, str] | None = None, **form: str) -> TestResponse:
    given = {"token": token, **form}
    return party.web.test_client().post(
        party.path(name), data=given, headers=party.app.basic if headers is None else headers
    )


def test_userinfo_says_what_the_scopes_allow(wiki: Party) -> None:
    def said(scope: str) -> dict[str, Any]:
        token = wiki.signed_in(scope=scope)["access_token"]
        answer = wiki.client.get(wiki.path("userinfo"), headers=bearer(token))
        assert answer.status_code == 200 and answer.headers["Cache-Control"] == "no-store"
        return dict(answer.json or {})

    assert said("openid") == {"sub": wiki.user_id}
    assert set(said("openid email")) == {"sub", "email", "email_verified"}
    full = said("openid profile")
    assert full["name"] == "Alice" and full["family_name"] == "Smith" and full["roles"] == ["editor"]
    assert len(full["groups"]) == 1 and "email" not in full


def test_userinfo_refuses_by_rfc_6750(wiki: Party, web: Flask) -> None:
    path, client = wiki.path("userinfo"), web.test_client()
    nothing = client.get(path)
    assert nothing.status_code == 401 and nothing.headers["WWW-Authenticate"] == 'Bearer realm="scaikey"'
    wrong = client.get(path, headers=bearer("nonsense"))
    assert wrong.status_code == 401 and 'error="invalid_token"' in wrong.headers["WWW-Authenticate"]
    token = wiki.signed_in(scope="profile")["access_token"]
    narrow = client.get(path, headers=bearer(token))
    assert error_of(narrow) == (403, "insufficient_scope") and 'scope="openid"' in narrow.headers["WWW-Authenticate"]
    twice = client.post(path, data={"access_token": token}, headers=bearer(token))
    assert error_of(twice) == (400, "invalid_request")
    good = wiki.signed_in()["access_token"]
    assert client.post(path, headers=bearer(good)).status_code == 200
    assert client.get(path, headers={"Authorization": f"bearer {good}"}).status_code == 200


def test_a_clients_own_token_has_no_userinfo(wiki: Party, web: Flask, world: World) -> None:
    account = make_service_account(world.acme)
    form = {"grant_type": "client_credentials"}
    token = web.test_client().post(wiki.path("token"), data=form, headers=account.basic).json["access_token"]
    assert wiki.client.get(wiki.path("userinfo"), headers=bearer(token)).status_code == 403


def test_introspection_tells_a_client_of_its_tenants_tokens(wiki: Party, world: World) -> None:
    body = wiki.signed_in()
    said = ask(wiki, "introspect", body["access_token"]).json
    assert said["active"] is True and said["sub"] == wiki.user_id and said["client_id"] == wiki.app.client_id
    assert said["tenant_id"] == world.acme.tenant_id and said["identity_type"] == "user"
    assert said["identity_id"] == f"user:alice@{world.acme.slug}.example"
    assert said["scope"] == "openid profile" and said["iss"] == wiki.issuer.url
    for other in (body["refresh_token"], body["id_token"], "x", "ey.x.y"):
        answer = ask(wiki, "introspect", other)
        assert answer.status_code == 200 and answer.json == INACTIVE


def test_who_may_not_introspect_is_refused(wiki: Party, web: Flask, world: World) -> None:
    token = wiki.signed_in()["access_token"]
    assert error_of(ask(wiki, "introspect", token, headers={})) == (401, "invalid_client")
    public = make_app(world.acme, token_endpoint_auth_method="none", secret=False)
    assert error_of(ask(wiki, "introspect", token, headers={}, client_id=public.client_id)) == (401, "invalid_client")
    wrong = App(wiki.app.id, wiki.app.client_id, "wrong", wiki.app.scope)
    assert error_of(ask(wiki, "introspect", token, headers=wrong.basic)) == (401, "invalid_client")
    assert error_of(ask(wiki, "introspect", token, headers=bearer(token))) == (401, "invalid_token")
    assert error_of(ask(wiki, "introspect", "", headers=wiki.app.basic)) == (400, "invalid_request")


def test_a_token_with_the_scope_introspects_its_own_tenant(wiki: Party, web: Flask, world: World) -> None:
    token = wiki.signed_in()["access_token"]
    may = make_token(world.acme, make_user(world.acme), scopes=("introspect",))
    may_not = make_token(world.acme, make_user(world.acme), scopes=("scaikey:read",))
    stranger = make_token(world.globex, make_user(world.globex), scopes=("introspect",))
    machine = make_service_account(world.acme, scopes=["introspect"], audiences=["scaikey", "https://api.example"])
    form = {"grant_type": "client_credentials"}
    ours = web.test_client().post(wiki.path("token"), data=form, headers=machine.basic).json["access_token"]
    form["resource"] = "https://api.example"
    theirs = web.test_client().post(wiki.path("token"), data=form, headers=machine.basic).json["access_token"]
    for good in (may, ours):
        assert ask(wiki, "introspect", token, headers=bearer(good)).json["active"] is True
    assert error_of(ask(wiki, "introspect", token, headers=bearer(may_not))) == (403, "insufficient_scope")
    for bad in (stranger, theirs, "nonsense"):
        assert error_of(ask(wiki, "introspect", token, headers=bearer(bad))) == (401, "invalid_token")


def test_a_revoked_access_token_is_refused_and_the_others_are_not(wiki: Party) -> None:
    first = wiki.signed_in()
    second = wiki.refresh(first["refresh_token"]).json
    for _ in range(2):
        answer = ask(wiki, "revoke", first["access_token"], token_type_hint="refresh_token")
        assert answer.status_code == 200 and answer.json == {}
    assert wiki.client.get(wiki.path("userinfo"), headers=bearer(first["access_token"])).status_code == 401
    assert ask(wiki, "introspect", first["access_token"]).json == INACTIVE
    assert wiki.client.get(wiki.path("userinfo"), headers=bearer(second["access_token"])).status_code == 200
    assert wiki.refresh(second["refresh_token"]).status_code == 200


def test_a_revoked_refresh_token_ends_its_grant(wiki: Party) -> None:
    body, other = wiki.signed_in(), wiki.signed_in()
    assert ask(wiki, "revoke", body["refresh_token"]).status_code == 200
    assert error_of(wiki.refresh(body["refresh_token"])) == (400, "invalid_grant")
    assert wiki.client.get(wiki.path("userinfo"), headers=bearer(body["access_token"])).status_code == 401
    assert wiki.refresh(other["refresh_token"]).status_code == 200


def test_nobody_revokes_what_is_not_his(wiki: Party, world: World) -> None:
    body, other = wiki.signed_in(), make_app(world.acme)
    for token in (body["access_token"], body["refresh_token"], "unknown", "ey.x.y"):
        assert ask(wiki, "revoke", token, headers=other.basic).status_code == 200
    assert wiki.client.get(wiki.path("userinfo"), headers=bearer(body["access_token"])).status_code == 200
    assert wiki.refresh(body["refresh_token"]).status_code == 200
    assert error_of(ask(wiki, "revoke", body["refresh_token"], headers={})) == (401, "invalid_client")


def test_a_public_client_revokes_its_own(web: Flask, world: World) -> None:
    app = make_app(world.acme, type="spa", token_endpoint_auth_method="none", secret=False)
    spa = party(web, app, world.acme, world.acme)
    mine = {"headers": {}, "client_id": app.client_id}
    pkce = Pkce()
    body = spa.redeem(spa.code(pkce), pkce, **mine).json
    assert ask(spa, "revoke", body["refresh_token"], headers={}, client_id=app.client_id).status_code == 200
    assert error_of(spa.refresh(body["refresh_token"], **mine)) == (400, "invalid_grant")
