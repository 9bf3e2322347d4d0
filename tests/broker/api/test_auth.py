"""`/auth/whoami` and `/auth/introspect`: who a token is, and who may ask."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask

from broker import credentials
from broker.context import acting, system
from broker.db import platform_scope, unit
from broker.models import Application, Group
from oidc import introspection
from oidc.introspection import Caller as Asking
from oidc.tokens import Issuer, TokenIssuer
from tests.casting import Caller, Cast, code, give_role, make_group, make_token, make_user
from tests.oidc.minting import assign, make_application, make_service_account, own_token, sign_in


@pytest.fixture
def acme(web: Flask, cast: Cast) -> Iterator[Cast]:
    with web.app_context():
        yield cast


def caller(cast: Cast, token: str) -> Caller:
    return Caller(cast.client, token=token)


def test_whoami_tells_a_person_everything_of_this_moment(acme: Cast) -> None:
    user_id = make_user(acme.acme, f"alice@{acme.acme.slug}.example", displayName="Alice")
    group_id = make_group(acme.acme, make_group(acme.acme, user_id))
    client = make_application(acme.acme, audience="wiki")
    issued = sign_in(acme.acme, user_id, client).issue("wiki", ("openid", "profile"))
    alice = caller(acme, issued.token)
    answer = alice.get("/auth/whoami")
    assert answer.headers["Cache-Control"] == "no-store"
    shown = answer.get_json()
    assert len(shown.pop("groups")) == 2
    assert shown == {
        "identity_id": f"user:alice@{acme.acme.slug}.example",
        "identity_type": "user",
        "display_name": "Alice",
        "tenant_id": acme.acme.tenant_id,
        "partner_id": acme.world.partner_id,
        "scopes": ["openid", "profile"],
        "roles": [],
        "mfa_verified_at": None,
        "token_expires_at": datetime.fromtimestamp(issued.expires_at, UTC).isoformat().replace("+00:00", "Z"),
    }
    assign(acme.acme, client, group_id, "editor")
    give_role(acme.acme, group_id, "tenant_admin", acme.acme.tenant_id)
    with unit(acme.acme) as session:
        name = session.get_one(Group, (acme.acme.tenant_id, group_id)).token_name
    shown = alice.get("/auth/whoami").get_json()
    assert f"group:{name}" in shown["groups"] and shown["roles"] == ["editor", "tenant_admin"]


def test_whoami_takes_personal_access_tokens_and_clients_of_any_audience(acme: Cast) -> None:
    pat = make_token(acme.acme, make_user(acme.acme, "bob"), audiences=["billing", "crm"], scopes=["scaikey:read"])
    shown = caller(acme, pat).get("/auth/whoami").get_json()
    assert (shown["identity_id"], shown["identity_type"], shown["scopes"]) == ("user:bob", "user", ["scaikey:read"])
    account = make_service_account(acme.acme, "reporting")
    for token in (own_token(acme.acme, account, "billing"), make_token(acme.acme, account.id)):
        shown = caller(acme, token).get("/auth/whoami").get_json()
        assert (shown["identity_id"], shown["identity_type"]) == ("sa:reporting", "service_account")
    client = make_application(acme.acme)
    shown = caller(acme, own_token(acme.acme, client, "crm")).get("/auth/whoami").get_json()
    assert (shown["identity_id"], shown["identity_type"]) == (f"app:{client.client_id}", "application")
    assert shown["display_name"] == client.name


def test_whoami_answers_a_platform_client_that_names_no_tenant(acme: Cast) -> None:
    client = make_application(acme.platform, scope="GLOBAL")
    token = TokenIssuer(Issuer.platform()).access_token(client=client, audience="api", scopes=["introspect"]).token
    shown = caller(acme, token).get("/auth/whoami").get_json()
    assert (shown["identity_id"], shown["tenant_id"]) == (f"app:{client.client_id}", None)
    assert caller(acme, token).post("/auth/introspect", {"token": token}).get_json()["active"] is False
    own = TokenIssuer(Issuer.platform()).access_token(client=client, audience=client.client_id, scopes=[]).token
    assert caller(acme, token).post("/auth/introspect", {"token": own}).get_json()["active"] is True


def test_whoami_is_for_nobody_else(acme: Cast) -> None:
    with unit(acme.acme), acting(system("test")):
        _, scim = credentials.mint_scim_token({"name": "Entra"})
    assert code(caller(acme, scim).get("/auth/whoami")) == (403, "access_denied")
    for token in (sign_in(acme.acme, make_user(acme.acme)).id_token(), "skt_x", "eyJ.e30.x"):
        assert code(caller(acme, token).get("/auth/whoami")) == (401, "authentication_required")
    assert code(acme.nobody.get("/auth/whoami")) == (401, "authentication_required")


def test_an_administrator_who_always_names_a_tenant_is_answered_too(acme: Cast) -> None:
    assert acme.super_admin.at(acme.acme).get("/auth/whoami").get_json()["roles"] == ["super_admin"]


def test_introspection_tells_of_jwts_and_personal_access_tokens_of_the_own_tenant(acme: Cast) -> None:
    asking = caller(acme, own_token(acme.acme, make_service_account(acme.acme, "gateway"), scopes=("introspect",)))
    issued = sign_in(acme.acme, make_user(acme.acme, "alice")).issue("billing", ("read", "openid"))
    shown = asking.post("/auth/introspect", {"token": issued.token}).get_json()
    ends = datetime.fromtimestamp(issued.expires_at, UTC)
    assert shown == {
        "active": True,
        "identity_id": "user:alice",
        "identity_type": "user",
        "tenant_id": acme.acme.tenant_id,
        "scopes": ["openid", "read"],
        "issued_at": (ends - timedelta(seconds=600)).isoformat().replace("+00:00", "Z"),
        "expires_at": ends.isoformat().replace("+00:00", "Z"),
    }
    make_application(acme.acme, audience="billing")
    pat = make_token(acme.acme, make_user(acme.acme, "bob"), audiences=["billing"])
    shown = asking.post("/auth/introspect", {"token": pat}).get_json()
    assert (shown["active"], shown["identity_id"], shown["identity_type"]) == (True, "user:bob", "user")


def test_a_personal_access_token_is_good_for_apis_its_holder_may_use(acme: Cast) -> None:
    billing = make_application(acme.acme, audience="billing", assignment_required=True)
    user_id, account = make_user(acme.acme), make_service_account(acme.acme, "robot")
    pat = make_token(acme.acme, user_id, audiences=["billing"])
    both = make_token(acme.acme, user_id, audiences=["billing", "scaikey", "nobodys"])
    machine = make_token(acme.acme, account.id, audiences=["billing"])

    def good_for(token: str) -> list[str]:
        told = introspection.introspect(token, Asking(acme.acme.tenant_id, frozenset()))
        assert told["active"] or told == {"active": False}
        return list(told.get("aud", []))

    assert (good_for(pat), good_for(both), good_for(machine)) == ([], ["scaikey"], ["billing"])
    assign(acme.acme, billing, user_id)
    assert (good_for(pat), good_for(both)) == (["billing"], ["billing", "scaikey"])
    assert acme.acme_admin.post("/auth/introspect", {"token": pat}).get_json()["active"] is True
    with platform_scope() as session:
        session.get_one(Application, (acme.acme.tenant_id, billing.id)).enabled = False
    assert (good_for(pat), good_for(both), good_for(machine)) == ([], ["scaikey"], [])
    assert good_for(make_token(acme.acme, user_id, audiences=["nobodys"])) == []


def test_what_is_not_good_or_not_ones_own_is_inactive_and_nothing_more(acme: Cast) -> None:
    asking = acme.acme_admin
    carol = make_user(acme.acme)
    with unit(acme.acme), acting(system("test")):
        row, revoked = credentials.mint_pat(carol, name="x")
        credentials.revoke(row)
        _, scim = credentials.mint_scim_token({"name": "Entra"})
    ended = sign_in(acme.acme, make_user(acme.acme))
    other = sign_in(acme.globex, make_user(acme.globex))
    good = ended.token()
    for token in (
        *("nonsense", "skt_x", "eyJ.e30.x", "x" * 60_000, revoked, scim),
        *(ended.id_token(), other.token(), make_token(acme.globex, make_user(acme.globex))),
    ):
        answer = asking.post("/auth/introspect", {"token": token})
        assert (answer.status_code, answer.get_json()) == (200, {"active": False}), token[:20]
    assert asking.post("/auth/introspect", {"token": good}).get_json()["active"] is True


def test_who_asks_needs_the_scope_and_a_token(acme: Cast) -> None:
    signed_in = sign_in(acme.acme, make_user(acme.acme))
    without = caller(acme, signed_in.token(scopes=("openid", "scaikey:write")))
    assert code(without.post("/auth/introspect", {"token": "x"})) == (403, "access_denied")
    asking = caller(acme, signed_in.token(scopes=("introspect",)))
    assert asking.post("/auth/introspect", {"token": "x"}).status_code == 200
    for body in ({}, {"token": ""}, {"token": 1}, {"token": "x", "more": 1}):
        assert asking.post("/auth/introspect", body).status_code == 422
    assert code(acme.nobody.post("/auth/introspect", {"token": "x"})) == (401, "authentication_required")


def test_an_application_sees_its_own_audience_where_it_may_be_used_and_nowhere_else(acme: Cast) -> None:
    billing = make_application(acme.platform, acme.acme, scope="GLOBAL", audience=f"billing-{acme.acme.slug}")
    issuer = TokenIssuer(Issuer.platform())
    asking = caller(acme, issuer.access_token(client=billing, audience="crm", scopes=["introspect"]).token)
    audience = f"billing-{acme.acme.slug}"
    names = [audience, "crm"]
    here, there = (
        sign_in(scope, make_user(scope), make_application(scope, allowed_audiences=names))
        for scope in acme.world.tenants
    )
    sees = {
        name: asking.post("/auth/introspect", {"token": token}).get_json()["active"]
        for name, token in (
            ("its audience here", here.token(audience)),
            ("its audience as a personal access token", make_token(acme.acme, here.user_id, audiences=[audience])),
            ("another audience here", here.token("crm")),
            ("the same name where it may not be used", there.token(audience)),
        )
    }
    assert sees == {
        "its audience here": True,
        "its audience as a personal access token": True,
        "another audience here": False,
        "the same name where it may not be used": False,
    }


def test_an_issuers_endpoint_knows_its_own_tokens_only(acme: Cast) -> None:
    client = make_application(acme.platform, acme.acme, scope="GLOBAL")
    user_id = make_user(acme.acme)
    of_tenant = sign_in(acme.acme, user_id).token()
    of_platform = sign_in(acme.acme, user_id, client, issuer=Issuer.platform()).token()
    pat = make_token(acme.acme, user_id)

    def active(token: str, issuer: Issuer) -> bool:
        return bool(introspection.introspect(token, Asking(acme.acme.tenant_id, frozenset(), issuer=issuer))["active"])

    assert active(of_tenant, Issuer.of_tenant(acme.acme)) and active(pat, Issuer.of_tenant(acme.acme))
    assert active(of_platform, Issuer.platform())
    assert not active(of_platform, Issuer.of_tenant(acme.acme)) and not active(of_tenant, Issuer.platform())
    assert not active(pat, Issuer.of_tenant(acme.globex))


def test_the_members_of_rfc_7662(acme: Cast) -> None:
    signed_in = sign_in(acme.acme, make_user(acme.acme, "alice"))
    issued = signed_in.issue("billing", ("read", "openid"))
    told = introspection.introspect(issued.token, Asking(acme.acme.tenant_id, frozenset()))
    assert told == {
        "active": True,
        "iss": signed_in.issuer.url,
        "sub": signed_in.user_id,
        "aud": "billing",
        "client_id": signed_in.client.client_id,
        "scope": "openid read",
        "token_type": "Bearer",
        "jti": issued.jti,
        "iat": issued.expires_at - 600,
        "exp": issued.expires_at,
        "tenant_id": acme.acme.tenant_id,
        "partner_id": acme.world.partner_id,
        "identity_id": "user:alice",
        "identity_type": "user",
        "username": "alice",
    }
