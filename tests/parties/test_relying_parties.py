"""Applications that others wrote, at our issuers: sign in, verify, refresh, ask, revoke, log out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from joserfc.jwk import ECKey

from tests.parties.conftest import Open, Somehow
from tests.parties.house import PASSWORD, House, Tenant
from tests.parties.journey import Client, sign_out, verified, with_password
from tests.parties.landing import Landing
from tests.parties.party import Party, Refused

pytestmark = pytest.mark.long

KEY = ECKey.generate_key("P-256", auto_kid=True)
PUBLIC = {**KEY.as_dict(private=False), "alg": "ES256", "use": "sig"}

Make = Callable[..., Client]


@pytest.fixture(scope="module")
def acme(house: House) -> Tenant:
    made = house.tenant("acme")
    domain = made.domain(f"{made.slug}.example")
    alice = made.person(
        f"alice@{domain}",
        PASSWORD,
        displayName="Alice Ahn",
        emails=[{"value": f"alice@{domain}", "primary": True}],
    )
    made.group("sre", alice)
    return made


@pytest.fixture(scope="module")
def alice(acme: Tenant) -> str:
    return f"alice@{acme.slug}.example"


@pytest.fixture
def issuer(request: pytest.FixtureRequest, house: House, acme: Tenant) -> str:
    """acme's, unless the test is `at_both`."""
    return house.platform if getattr(request, "param", "tenant") == "platform" else acme.issuer


at_both = pytest.mark.parametrize("issuer", ["tenant", "platform"], indirect=True)


@pytest.fixture
def make(house: House, acme: Tenant, issuer: str, openid_client: Party, applications: Landing) -> Make:
    """An application at the issuer of this test, written with openid-client."""

    def made(**fields: Any) -> Client:
        fields = {"post_logout_redirect_uris": [applications.farewell], **fields}
        if issuer == house.platform:
            application = house.application(acme, applications.callback, **fields)
        else:
            application = acme.application(applications.callback, **fields)
        return Client(openid_client, application, issuer, applications, KEY.as_dict(private=True))

    return made


@pytest.mark.parametrize(
    ("issuer", "method", "somehow"),
    [
        ("tenant", "client_secret_basic", "browser"),
        ("tenant", "client_secret_post", "walking"),
        ("tenant", "private_key_jwt", "walking"),
        ("tenant", "none", "walking"),
        ("platform", "client_secret_basic", "browser"),
        ("platform", "none", "walking"),
    ],
    indirect=["issuer", "somehow"],
)
def test_openid_client_does_everything(method: str, make: Make, acme: Tenant, alice: str, somehow: Somehow) -> None:
    public = {"type": "spa"} if method == "none" else {}
    jwks = {"jwks": {"keys": [PUBLIC]}} if method == "private_key_jwt" else {}
    application = make(token_endpoint_auth_method=method, name=f"By {method}", **public, **jwks)
    assert application.metadata["authorization_response_iss_parameter_supported"], "openid-client insists on it then"
    with somehow() as visitor:
        visitor.goto(application.authorize())
        with_password(visitor, alice)
        tokens = application.exchange(visitor)
        claims = application.verify(tokens["access_token"])
        assert claims["tenant_id"] == acme.id and claims["client_id"] == application.application["client_id"]
        assert claims["groups"] == ["sre"] and claims["sub"] == tokens["claims"]["sub"]
        assert verified(tokens["access_token"], application.metadata["jwks_uri"]) == claims
        assert verified(tokens["id_token"], application.metadata["jwks_uri"], "JWT")["aud"] == claims["client_id"]
        told = application.ask("userinfo", token=tokens["access_token"], sub=claims["sub"])
        assert told["email"] == alice and told["name"] == "Alice Ahn"

        again = application.ask("refresh", token=tokens["refresh_token"])
        assert application.verify(again["access_token"])["sub"] == claims["sub"]
        assert again["refresh_token"] != tokens["refresh_token"]
        if method != "none":
            assert application.ask("introspect", token=again["access_token"])["active"]
        application.ask("revoke", token=again["refresh_token"])
        with pytest.raises(Refused) as refused:
            application.ask("refresh", token=again["refresh_token"])
        assert refused.value.said["oauth"] == "invalid_grant"
        with pytest.raises(Refused):
            application.ask("userinfo", token=again["access_token"], sub=claims["sub"])

        url = application.ask(
            "logout", id_token=tokens["id_token"], redirect_uri=application.applications.farewell, state="bye"
        )
        assert sign_out(visitor, url, application.applications.farewell).endswith("state=bye")
        visitor.goto(application.authorize(prompt="none"))
        with pytest.raises(Refused) as refused:
            application.exchange(visitor)
        assert refused.value.said["oauth"] == "login_required"


def test_a_second_application_is_signed_in_to_without_a_question(make: Make, alice: str, walking: Somehow) -> None:
    first, second = make(name="First"), make(name="Second", id_token_signed_response_alg="ES256")
    with walking() as visitor:
        visitor.goto(first.authorize())
        with_password(visitor, alice)
        one = first.exchange(visitor)["claims"]
        visitor.goto(second.authorize())
        two = second.exchange(visitor)["claims"]
        assert (two["sub"], two["sid"], two["auth_time"]) == (one["sub"], one["sid"], one["auth_time"])
        visitor.goto(first.authorize(prompt="none"))
        assert first.exchange(visitor)["claims"]["sub"] == one["sub"]


def test_tokens_are_signed_with_es256_where_the_application_asks(make: Make, alice: str, walking: Somehow) -> None:
    application = make(access_token_signed_response_alg="ES256", id_token_signed_response_alg="ES256")
    with walking() as visitor:
        visitor.goto(application.authorize())
        with_password(visitor, alice)
        tokens = application.exchange(visitor)
    found = application.ask(
        "verify", token=tokens["access_token"], audience=application.application["client_id"], typ="at+jwt"
    )
    assert found["header"]["alg"] == "ES256"
    verified(tokens["id_token"], application.metadata["jwks_uri"], "JWT")


def test_a_fresh_sign_in_can_be_asked_for(make: Make, alice: str, walking: Somehow) -> None:
    application = make()
    with walking() as visitor:
        visitor.goto(application.authorize())
        with_password(visitor, alice)
        first = application.exchange(visitor)["claims"]
        for extra in ({"prompt": "login"}, {"max_age": "0"}):
            visitor.goto(application.authorize(**extra))
            with_password(visitor, alice)
            again = application.exchange(visitor, **({"max_age": 0} if "max_age" in extra else {}))["claims"]
            assert again["sub"] == first["sub"] and again["auth_time"] >= first["auth_time"]


def test_the_code_comes_as_a_form_where_the_application_asks(
    make: Make, alice: str, browser: Open, applications: Landing
) -> None:
    application = make()
    applications.posted.clear()
    with browser() as visitor:
        visitor.goto(application.authorize(response_mode="form_post"))
        with_password(visitor, alice)
        visitor.arrive(applications.callback)
        assert visitor.complaints == []
    form = applications.posted[-1]
    assert form["iss"] == application.issuer
    tokens = application.ask("exchange", url=f"{applications.callback}?{urlencode(form)}")
    assert application.verify(tokens["access_token"])


@at_both
def test_a_third_party_is_given_nothing_before_the_person_agrees(make: Make, alice: str, walking: Somehow) -> None:
    application = make(name="Somebody else's", third_party=True)
    with walking() as visitor:
        visitor.goto(application.authorize())
        with_password(visitor, alice)
        visitor.asks("decision")
        assert "Somebody else's" in visitor.text()
        visitor.choose("decision", "deny")
        with pytest.raises(Refused) as refused:
            application.exchange(visitor)
        assert refused.value.said["oauth"] == "access_denied"
        visitor.goto(application.authorize(prompt="none"))
        with pytest.raises(Refused) as refused:
            application.exchange(visitor)
        assert refused.value.said["oauth"] == "consent_required"
        visitor.goto(application.authorize())
        visitor.choose("decision", "allow")
        assert application.exchange(visitor)["claims"]["sub"]
        visitor.goto(application.authorize(prompt="none"))
        assert application.exchange(visitor)["claims"]["sub"], "the consent is remembered"


def test_a_service_gets_a_token_with_its_own_credentials(
    acme: Tenant, openid_client: Party, applications: Landing
) -> None:
    api = f"https://api.{acme.slug}.example"
    acme.application(applications.callback, name="API", audience=api)
    made = acme.admin.post("/service-accounts", {"name": "nightly", "audiences": [api]})
    account = Client(
        openid_client, {**made, "token_endpoint_auth_method": "client_secret_basic"}, acme.issuer, applications
    )
    tokens = account.ask("credentials", extra={})
    claims = account.verify(tokens["access_token"], api)
    assert (claims["sub"], claims["identity_id"]) == (made["client_id"], "sa:nightly")
    assert claims["tenant_id"] == acme.id
    assert account.ask("introspect", token=tokens["access_token"])["active"]


@at_both
def test_authlibs_client_signs_in_refreshes_and_signs_out(
    house: House, acme: Tenant, issuer: str, alice: str, authlib_application: Party, browser: Open
) -> None:
    name = "platform" if issuer == house.platform else "tenant"
    home = f"{authlib_application.hello['base_url']}/{name}"
    fields = {"name": "By Authlib", "post_logout_redirect_uris": [f"{home}/farewell"]}
    if issuer == house.platform:
        made = house.application(acme, f"{home}/callback", **fields)
    else:
        made = acme.application(f"{home}/callback", **fields)
    authlib_application.ask(
        "register",
        name=name,
        issuer=issuer,
        client_id=made["client_id"],
        client_secret=made["client_secret"],
        scope="openid profile email",
    )

    with browser() as visitor:

        def said() -> dict[str, Any]:
            found: dict[str, Any] = json.loads(visitor.text("#said"))
            return found

        visitor.goto(f"{home}/sign-in")
        with_password(visitor, alice)
        visitor.arrive(f"{home}/callback")
        tokens = said()["signed_in"]
        assert tokens["userinfo"]["iss"] == issuer
        visitor.goto(f"{home}/userinfo")
        assert said()["userinfo"]["email"] == alice
        visitor.goto(f"{home}/refresh")
        again = said()["refreshed"]
        assert again["refresh_token"] != tokens["refresh_token"]
        claims = verified(again["access_token"], f"{issuer}/oauth/jwks")
        assert claims["sub"] == tokens["userinfo"]["sub"] and claims["aud"] == made["client_id"]
        sign_out(visitor, f"{home}/sign-out", f"{home}/farewell")
        assert said() == {"signed_out": name}
        visitor.goto(f"{home}/refresh")
        assert said() == {"error": "invalid_grant"}
