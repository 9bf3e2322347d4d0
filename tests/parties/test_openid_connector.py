"""Our connector and other people's identity providers, with a real browser between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc.jwk import ECKey, RSAKey

from connectors.egress import Egress
from connectors.http import HttpClient
from connectors.openid import Config, connect
from connectors.port import Identity, Refused, Reply, ReturnTo
from tests.parties.conftest import Open, Somehow
from tests.parties.issuers import CanailleIssuer, Issuer, NodeIssuer
from tests.parties.landing import Landing

pytestmark = pytest.mark.long

KEYS: dict[str, RSAKey | ECKey] = {
    "RS256": RSAKey.generate_key(2048, auto_kid=True),
    "ES256": ECKey.generate_key("P-256", auto_kid=True),
}


@pytest.fixture
def http() -> Iterator[HttpClient]:
    with closing(HttpClient(Egress(loopback=True))) as made:
        yield made


@pytest.fixture(params=["client_secret_basic", "client_secret_post", "none", "RS256", "ES256"])
def registered(request: pytest.FixtureRequest, node_issuer: NodeIssuer, applications: Landing) -> dict[str, Any]:
    """Settings for oidc-provider, once for each way to prove who we are; the last two are `private_key_jwt`."""
    settings = {"issuer": node_issuer.url, "scopes": ["openid", "profile", "email", "groups"], "groups_claim": "groups"}
    if request.param in KEYS:
        key, method = KEYS[request.param], "private_key_jwt"
        public = {**key.as_dict(private=False), "alg": request.param, "use": "sig"}
        made = node_issuer.register(
            applications.callback,
            token_endpoint_auth_method=method,
            token_endpoint_auth_signing_alg=request.param,
            jwks={"keys": [public]},
        )
        return {
            **settings,
            "client_id": made["client_id"],
            "token_endpoint_auth_method": method,
            "private_key": key.as_pem(private=True).decode(),
        }
    made = node_issuer.register(
        applications.callback,
        token_endpoint_auth_method=request.param,
        post_logout_redirect_uris=[applications.farewell],
    )
    return {
        **settings,
        "client_id": made["client_id"],
        "client_secret": made.get("client_secret", ""),
        "token_endpoint_auth_method": request.param,
    }


def signed_in(
    config: Config, http: HttpClient, issuer: Issuer, name: str, somehow: Somehow, applications: Landing
) -> tuple[Identity, bytes, Reply]:
    """The whole way of one person, and what was said on it."""
    upstream = connect(config, http)
    departure = upstream.begin_sign_in(ReturnTo(applications.callback, "a-state"))
    applications.posted.clear()
    with somehow() as visitor:
        visitor.goto(departure.url)
        issuer.sign_in(visitor, name)
        answer = visitor.arrive(applications.callback)
    if applications.posted:
        reply = Reply("POST", {key: [value] for key, value in applications.posted[-1].items()})
    else:
        reply = Reply("GET", parse_qs(urlsplit(answer).query))
    assert reply.one("state") == "a-state"
    return upstream.finish_sign_in(departure.memo, reply), departure.memo, reply


def test_a_person_of_oidc_provider_is_known_by_every_client_authentication(
    registered: dict[str, Any], http: HttpClient, node_issuer: NodeIssuer, walking: Somehow, applications: Landing
) -> None:
    name = node_issuer.knows(
        "mia", email="mia@acme.example", email_verified=True, given_name="Mia", family_name="Ö", groups=["sre", "ü&<x>"]
    )
    config = Config(**registered)
    assert [step for step in connect(config, http).steps() if not step.ok] == []
    identity, memo, reply = signed_in(config, http, node_issuer, name, walking, applications)
    assert identity.key == f"{node_issuer.url} mia"
    assert identity.verified_emails == {"mia@acme.example"}
    assert identity.groups == {"sre", "ü&<x>"}
    assert (identity.attributes["given_name"], identity.attributes["family_name"]) == (("Mia",), ("Ö",))
    with pytest.raises(Refused, match="invalid_grant"):
        connect(config, http).finish_sign_in(memo, reply)


def test_an_unverified_address_of_oidc_provider_stays_unverified(
    http: HttpClient, node_issuer: NodeIssuer, browser: Open, applications: Landing
) -> None:
    name = node_issuer.knows("eve", email="ceo@acme.example", email_verified=False)
    made = node_issuer.register(applications.callback)
    config = Config(
        issuer=node_issuer.url,
        client_id=made["client_id"],
        client_secret=made["client_secret"],
        response_mode="form_post",
    )
    identity, _, reply = signed_in(config, http, node_issuer, name, browser, applications)
    assert reply.method == "POST"
    assert identity.attributes["email"] == ("ceo@acme.example",)
    assert identity.verified_emails == frozenset() and identity.groups is None


def test_a_person_of_canaille_is_known(
    http: HttpClient, canaille_issuer: CanailleIssuer, walking: Somehow, applications: Landing
) -> None:
    made = canaille_issuer.register(
        applications.callback, scope="openid profile email groups", client_uri=applications.base_url
    )
    config = Config(issuer=canaille_issuer.url, client_id=made["client_id"], client_secret=made["client_secret"])
    assert [step for step in connect(config, http).steps() if not step.ok] == []
    identity, _, _ = signed_in(config, http, canaille_issuer, "zoe", walking, applications)
    assert identity.key == f"{canaille_issuer.url} zoe"
    assert identity.attributes["email"] == ("zoe@acme.example",)
    assert identity.attributes["given_name"] == ("Zoë",)


@pytest.mark.parametrize("which", ["node_issuer", "canaille_issuer"])
def test_a_wrong_secret_is_told_from_a_wrong_issuer(
    which: str, request: pytest.FixtureRequest, http: HttpClient, applications: Landing
) -> None:
    issuer: Issuer = request.getfixturevalue(which)
    made = issuer.register(applications.callback)
    good = {"issuer": issuer.url, "client_id": made["client_id"], "client_secret": made["client_secret"]}

    def failing(**other: str) -> list[str]:
        return [step.name for step in connect(Config(**{**good, **other}), http).steps() if not step.ok]

    assert failing() == []
    assert failing(client_secret="something else") == ["client"]
    assert failing(issuer=f"{issuer.url}/elsewhere") == ["discovery"]


def test_the_session_at_oidc_provider_can_be_ended_too(
    http: HttpClient, node_issuer: NodeIssuer, walking: Somehow, applications: Landing
) -> None:
    name = node_issuer.knows("leaver", email="leaver@acme.example")
    made = node_issuer.register(applications.callback, post_logout_redirect_uris=[applications.farewell])
    upstream = connect(
        Config(issuer=node_issuer.url, client_id=made["client_id"], client_secret=made["client_secret"]), http
    )
    departure = upstream.begin_sign_in(ReturnTo(applications.callback, "a-state"))
    with walking() as visitor:
        visitor.goto(departure.url)
        node_issuer.sign_in(visitor, name)
        answer = visitor.arrive(applications.callback)
        identity = upstream.finish_sign_in(departure.memo, Reply("GET", parse_qs(urlsplit(answer).query)))
        visitor.goto(upstream.begin_sign_in(ReturnTo(applications.callback, "again")).url)
        assert "code=" in visitor.arrive(applications.callback), "the session there is alive"
        assert identity.sign_out_memo is not None
        leaving = upstream.begin_sign_out(identity.sign_out_memo, ReturnTo(applications.farewell, "bye"))
        assert leaving is not None
        visitor.goto(leaving.url)
        visitor.choose("logout", "yes")
        assert visitor.arrive(applications.farewell).endswith("state=bye")
        visitor.goto(upstream.begin_sign_in(ReturnTo(applications.callback, "anew")).url)
        visitor.asks("login")
