"""Identity providers that others wrote, as upstreams: their people sign in, and applications get tokens for them."""

from __future__ import annotations

from typing import Any

import pytest
from joserfc.jwk import RSAKey

from tests.parties.conftest import Open, Somehow
from tests.parties.house import House, Tenant
from tests.parties.issuers import CanailleIssuer, NodeIssuer
from tests.parties.journey import Client, at_upstream, sign_out, verified
from tests.parties.landing import Landing
from tests.parties.party import Party, Refused
from tests.parties.walker import Walker

pytestmark = pytest.mark.long

KEY = RSAKey.generate_key(2048, auto_kid=True)
PUBLIC = {**KEY.as_dict(private=False), "alg": "RS256", "use": "sig"}


@pytest.fixture
def acme(house: House) -> Tenant:
    return house.tenant("acme")


@pytest.fixture
def wiki(acme: Tenant, openid_client: Party, applications: Landing) -> Client:
    made = acme.application(applications.callback, post_logout_redirect_uris=[applications.farewell])
    return Client(openid_client, made, acme.issuer, applications)


def told(client: Client, tokens: dict[str, Any]) -> dict[str, Any]:
    """Who it is, by the token as anybody verifies it, who has to be the same as at userinfo."""
    claims = verified(tokens["access_token"], client.metadata["jwks_uri"])
    found: dict[str, Any] = client.ask("userinfo", token=tokens["access_token"], sub=claims["sub"])
    return {**claims, **found}


WAYS = {
    "basic": ({}, {"token_endpoint_auth_method": "client_secret_basic"}),
    "post, form_post": (
        {"token_endpoint_auth_method": "client_secret_post", "response_mode": "form_post"},
        {"token_endpoint_auth_method": "client_secret_post"},
    ),
    "private_key_jwt": (
        {"token_endpoint_auth_method": "private_key_jwt", "private_key": KEY.as_pem(private=True).decode()},
        {
            "token_endpoint_auth_method": "private_key_jwt",
            "token_endpoint_auth_signing_alg": "RS256",
            "jwks": {"keys": [PUBLIC]},
        },
    ),
}


@pytest.mark.parametrize(
    ("way", "somehow"),
    [("basic", "walking"), ("post, form_post", "browser"), ("private_key_jwt", "walking")],
    indirect=["somehow"],
)
def test_a_person_of_oidc_provider_gets_tokens_here(
    way: str, acme: Tenant, wiki: Client, node_issuer: NodeIssuer, somehow: Somehow
) -> None:
    config, registration = WAYS[way]
    acme.provider(node_issuer, registration, config={**config, "scopes": ["openid", "profile", "email"]}, name="Node")
    email = f"mia@{acme.slug}.example"
    name = node_issuer.knows(
        email,
        email=email,
        email_verified=True,
        given_name="Mia",
        family_name="Ö",
        name="Mia Ö",
        preferred_username=email,
    )
    with somehow() as visitor:
        visitor.goto(wiki.authorize())
        at_upstream(visitor, node_issuer, name, "Node")
        tokens = wiki.exchange(visitor)
        assert isinstance(visitor, Walker) or visitor.complaints == []
    first = told(wiki, tokens)
    assert (first["tenant_id"], first["email"], first["name"]) == (acme.id, email, "Mia Ö")
    again = wiki.ask("refresh", token=tokens["refresh_token"])
    assert wiki.verify(again["access_token"])["sub"] == first["sub"]
    with somehow() as visitor:
        visitor.goto(wiki.authorize())
        at_upstream(visitor, node_issuer, name, "Node")
        assert told(wiki, wiki.exchange(visitor))["sub"] == first["sub"], "the same person a second time"


def test_a_person_of_canaille_gets_tokens_here(
    acme: Tenant, wiki: Client, canaille_issuer: CanailleIssuer, browser: Open
) -> None:
    acme.provider(
        canaille_issuer,
        {"scope": "openid profile email groups", "client_uri": "http://127.0.0.1"},
        name="Canaille",
    )
    with browser() as visitor:
        visitor.goto(wiki.authorize())
        at_upstream(visitor, canaille_issuer, "zoe", "Canaille")
        tokens = wiki.exchange(visitor)
        url = wiki.ask("logout", id_token=tokens["id_token"], redirect_uri=wiki.applications.farewell, state="x")
        sign_out(visitor, url, wiki.applications.farewell)
        visitor.goto(wiki.authorize(prompt="none"))
        with pytest.raises(Refused) as refused:
            wiki.exchange(visitor)
    assert refused.value.said["oauth"] == "login_required"
    found = told(wiki, wiki.ask("refresh", token=tokens["refresh_token"]))
    assert found["name"] == "Zoë Ng"
    assert "email" not in found, "canaille does not say that it verified the address"


def test_one_person_of_two_upstreams_is_asked_which(
    acme: Tenant, wiki: Client, node_issuer: NodeIssuer, canaille_issuer: CanailleIssuer, walking: Somehow
) -> None:
    acme.provider(node_issuer, name="Node")
    acme.provider(
        canaille_issuer, {"scope": "openid profile email groups", "client_uri": "http://127.0.0.1"}, name="Canaille"
    )
    name = node_issuer.knows(f"two-{acme.slug}", preferred_username=f"two-{acme.slug}")
    with walking() as visitor:
        visitor.goto(wiki.authorize())
        assert visitor.asks("provider", "login") == "provider" and "Canaille" in visitor.text()
        at_upstream(visitor, node_issuer, name, "Node")
        tokens = wiki.exchange(visitor)
    assert told(wiki, tokens)["preferred_username"] == name


def test_the_domain_of_an_address_says_which_upstream(
    house: House, acme: Tenant, node_issuer: NodeIssuer, openid_client: Party, walking: Somehow, applications: Landing
) -> None:
    domain = acme.domain(f"{acme.slug}.example")
    acme.provider(node_issuer, domains=[domain], name="Node")
    email = f"ida@{domain}"
    name = node_issuer.knows(email, email=email, email_verified=True, preferred_username=email)
    portal = Client(openid_client, house.application(acme, applications.callback), house.platform, applications)
    with walking() as visitor:
        visitor.goto(portal.authorize())
        visitor.asks("username")
        visitor.submit(username=email)
        node_issuer.sign_in(visitor, name)
        tokens = portal.exchange(visitor)
    claims = portal.verify(tokens["access_token"])
    assert (claims["iss"], claims["tenant_id"]) == (house.platform, acme.id)


def test_a_person_who_declines_at_the_upstream_can_choose_again(
    acme: Tenant, wiki: Client, node_issuer: NodeIssuer, walking: Somehow
) -> None:
    acme.provider(node_issuer, name="Node")
    name = node_issuer.knows(f"shy-{acme.slug}", preferred_username=f"shy-{acme.slug}")
    with walking() as visitor:
        visitor.goto(wiki.authorize())
        if visitor.asks("provider", "login") == "provider":
            visitor.choose("provider", "Node")
        visitor.asks("login")
        visitor.choose("cancel")
        visitor.goto(wiki.authorize())
        at_upstream(visitor, node_issuer, name, "Node")
        assert wiki.exchange(visitor)["claims"]["sub"]


def test_a_fresh_sign_in_is_a_fresh_sign_in_at_the_upstream(
    acme: Tenant, wiki: Client, node_issuer: NodeIssuer, walking: Somehow
) -> None:
    acme.provider(node_issuer, name="Node")
    name = node_issuer.knows(f"again-{acme.slug}", preferred_username=f"again-{acme.slug}")
    with walking() as visitor:
        visitor.goto(wiki.authorize())
        at_upstream(visitor, node_issuer, name, "Node")
        first = wiki.exchange(visitor)["claims"]
        visitor.goto(wiki.authorize(prompt="login"))
        at_upstream(visitor, node_issuer, name, "Node")
        second = wiki.exchange(visitor)["claims"]
    assert second["sub"] == first["sub"] and second["auth_time"] >= first["auth_time"]


def test_a_provider_that_is_switched_off_stops_the_refresh(
    acme: Tenant, wiki: Client, node_issuer: NodeIssuer, walking: Somehow
) -> None:
    provider = acme.provider(node_issuer, name="Node")
    name = node_issuer.knows(f"off-{acme.slug}", preferred_username=f"off-{acme.slug}")
    with walking() as visitor:
        visitor.goto(wiki.authorize())
        at_upstream(visitor, node_issuer, name, "Node")
        tokens = wiki.exchange(visitor)
    acme.admin.patch(f"/identity-providers/{provider['id']}", {"enabled": False})
    with pytest.raises(Refused) as refused:
        wiki.ask("refresh", token=tokens["refresh_token"])
    assert refused.value.said["oauth"] == "invalid_grant"
