"""The third parties among themselves: what later fails with ScaiKey between them is ScaiKey's doing."""

from __future__ import annotations

import json

import pytest

from tests.parties.conftest import Open, Somehow
from tests.parties.issuers import CanailleIssuer, NodeIssuer
from tests.parties.landing import Landing
from tests.parties.party import Party

pytestmark = pytest.mark.long


def test_openid_client_signs_in_at_oidc_provider(
    node_issuer: NodeIssuer, openid_client: Party, walking: Somehow, applications: Landing
) -> None:
    person = node_issuer.knows("each-other", email="each@other.example", groups=["sre"])
    made = node_issuer.register(applications.callback, token_endpoint_auth_method="client_secret_basic")
    known = openid_client.ask(
        "discover",
        issuer=node_issuer.url,
        client_id=made["client_id"],
        secret=made["client_secret"],
        method="client_secret_basic",
    )
    number = known["number"]
    url = openid_client.ask("authorize", number=number, redirect_uri=applications.callback, scope="openid email groups")
    with walking() as visitor:
        visitor.goto(url)
        node_issuer.sign_in(visitor, person)
        answer = visitor.arrive(applications.callback)
    tokens = openid_client.ask("exchange", number=number, url=answer)
    assert tokens["claims"]["sub"] == person
    told = openid_client.ask("userinfo", number=number, token=tokens["access_token"], sub=person)
    assert told["groups"] == ["sre"]
    again = openid_client.ask("refresh", number=number, token=tokens["refresh_token"])
    assert again["access_token"] != tokens["access_token"]


def test_openid_client_signs_in_at_canaille(
    canaille_issuer: CanailleIssuer, openid_client: Party, walking: Somehow, applications: Landing
) -> None:
    made = canaille_issuer.register(
        applications.callback,
        token_endpoint_auth_method="client_secret_basic",
        scope="openid profile email groups",
        client_uri=applications.base_url,
    )
    known = openid_client.ask(
        "discover",
        issuer=canaille_issuer.url,
        client_id=made["client_id"],
        secret=made["client_secret"],
        method="client_secret_basic",
    )
    number = known["number"]
    url = openid_client.ask("authorize", number=number, redirect_uri=applications.callback, scope="openid email")
    with walking() as visitor:
        visitor.goto(url)
        canaille_issuer.sign_in(visitor, "zoe")
        answer = visitor.arrive(applications.callback)
    tokens = openid_client.ask("exchange", number=number, url=answer)
    assert tokens["claims"]["sub"] == "zoe"


def test_oidc_client_ts_signs_in_at_oidc_provider(
    node_issuer: NodeIssuer, browser: Open, applications: Landing
) -> None:
    person = node_issuer.knows("in-the-browser", email="in@the.example")
    made = node_issuer.register(
        applications.spa,
        token_endpoint_auth_method="none",
        post_logout_redirect_uris=[applications.spa],
    )
    settings = {"authority": node_issuer.url, "client_id": made["client_id"], "scope": "openid email"}
    with browser() as visitor:
        visitor.goto(f"{applications.spa}#{json.dumps(settings)}")
        visitor.click("#in")
        node_issuer.sign_in(visitor, person)
        visitor.wait('#state:has-text("signed_in")')
        assert json.loads(visitor.text("#state"))["signed_in"]["profile"]["email"] == "in@the.example"
        visitor.click("#again")
        visitor.wait('#state:has-text("refreshed")')
        assert json.loads(visitor.text("#state"))["refreshed"]["access_token"]
        assert visitor.complaints == []


def test_authlib_signs_in_at_oidc_provider(node_issuer: NodeIssuer, authlib_application: Party, browser: Open) -> None:
    person = node_issuer.knows("by-authlib", email="by@authlib.example")
    home = f"{authlib_application.hello['base_url']}/others"
    made = node_issuer.register(f"{home}/callback", post_logout_redirect_uris=[f"{home}/farewell"])
    authlib_application.ask(
        "register",
        name="others",
        issuer=node_issuer.url,
        client_id=made["client_id"],
        client_secret=made["client_secret"],
        scope="openid email",
    )
    with browser() as visitor:
        visitor.goto(f"{home}/sign-in")
        node_issuer.sign_in(visitor, person)
        visitor.arrive(f"{home}/callback")
        assert json.loads(visitor.text("#said"))["signed_in"]["userinfo"]["sub"] == person
        visitor.goto(f"{home}/userinfo")
        assert json.loads(visitor.text("#said"))["userinfo"]["email"] == "by@authlib.example"
        visitor.goto(f"{home}/refresh")
        assert json.loads(visitor.text("#said"))["refreshed"]["access_token"]
