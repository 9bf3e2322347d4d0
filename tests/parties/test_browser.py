"""In a real browser: an application that lives there, and people without scripts or without a mouse."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.parties.conftest import Open
from tests.parties.house import PASSWORD, House, Tenant
from tests.parties.journey import Client, with_password
from tests.parties.landing import Landing
from tests.parties.party import Party

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def acme(house: House) -> Tenant:
    made = house.tenant("acme")
    domain = made.domain(f"{made.slug}.example")
    name = f"alice@{domain}"
    made.person(name, PASSWORD, displayName="Alice Ahn", emails=[{"value": name, "primary": True}])
    return made


@pytest.fixture(scope="module")
def alice(acme: Tenant) -> str:
    return f"alice@{acme.slug}.example"


@pytest.fixture
def wiki(acme: Tenant, openid_client: Party, applications: Landing) -> Client:
    made = acme.application(applications.callback, post_logout_redirect_uris=[applications.farewell])
    return Client(openid_client, made, acme.issuer, applications)


@pytest.mark.parametrize("where", ["tenant", "platform"])
def test_oidc_client_ts_does_everything(
    where: str, house: House, acme: Tenant, alice: str, browser: Open, applications: Landing
) -> None:
    fields = {
        "name": "In the browser",
        "type": "spa",
        "token_endpoint_auth_method": "none",
        "post_logout_redirect_uris": [applications.spa],
    }
    if where == "tenant":
        issuer, made = acme.issuer, acme.application(applications.spa, **fields)
    else:
        issuer, made = house.platform, house.application(acme, applications.spa, **fields)
    settings = {"authority": issuer, "client_id": made["client_id"], "scope": "openid profile email"}

    with browser() as visitor:

        def state(what: str) -> dict[str, Any]:
            visitor.wait(f'#state:has-text("{what}")')
            found: dict[str, Any] = json.loads(visitor.text("#state"))[what]
            return found

        visitor.goto(f"{applications.spa}#{json.dumps(settings)}")
        visitor.click("#in")
        with_password(visitor, alice)
        first = state("signed_in")
        assert first["profile"]["email"] == alice and not first["expired"]
        visitor.click("#again")
        second = state("refreshed")
        assert second["access_token"] != first["access_token"]
        assert second["refresh_token"] != first["refresh_token"]
        visitor.click("#out")
        visitor.wait('main [type="submit"], #state:has-text("signed_out")')
        if visitor.shows('main [type="submit"]'):
            visitor.click('main [type="submit"]')
        visitor.wait('#state:has-text("signed_out")')
        assert visitor.complaints == []


def test_everything_works_without_scripts(wiki: Client, alice: str, browser: Open) -> None:
    with browser(scripts=False) as visitor:
        visitor.goto(wiki.authorize())
        with_password(visitor, alice)
        assert wiki.exchange(visitor)["claims"]["sub"]
        visitor.goto(wiki.authorize(response_mode="form_post"))
        visitor.click("button")
        visitor.arrive(wiki.applications.callback)


def test_everything_works_without_a_mouse(wiki: Client, alice: str, browser: Open) -> None:
    with browser() as visitor:
        visitor.goto(wiki.authorize())
        visitor.wait('[name="username"]')
        for field, text in (("username", alice), ("password", PASSWORD)):
            assert visitor.evaluate("document.activeElement.name") == field
            visitor.type(text)
            visitor.press("Tab")
        visitor.press("Enter")
        assert wiki.exchange(visitor)["claims"]["sub"]


def test_cookies_are_kept_from_scripts_and_from_other_sites(
    acme: Tenant, wiki: Client, alice: str, browser: Open
) -> None:
    with browser() as visitor:
        visitor.goto(wiki.authorize())
        with_password(visitor, alice)
        visitor.arrive(wiki.applications.callback)
        ours = {name: cookie for name, cookie in visitor.cookies.items() if name.startswith("sk")}
    assert f"sk-{acme.slug}" in ours
    assert {(cookie["httpOnly"], cookie["sameSite"], cookie["path"]) for cookie in ours.values()} == {
        (True, "Lax", "/")
    }


def test_two_tabs_sign_in_side_by_side(wiki: Client, alice: str, browser: Open) -> None:
    with browser() as one:
        two = one.another_tab()
        one.goto(wiki.authorize())
        one.wait('[name="username"]')
        other = Client(wiki.party, wiki.application, wiki.issuer, wiki.applications)
        two.goto(other.authorize())
        with_password(two, alice)
        assert other.exchange(two)["claims"]["sub"]
        with_password(one, alice)
        assert wiki.exchange(one)["claims"]["sub"]


def test_the_way_back_does_no_harm(wiki: Client, alice: str, browser: Open) -> None:
    with browser() as visitor:
        visitor.goto(wiki.authorize())
        with_password(visitor, alice)
        assert wiki.exchange(visitor)["claims"]["sub"]
        visitor.back()
        if visitor.has("password"):
            visitor.submit(username=alice, password=PASSWORD)
            visitor.wait("h1")
        assert not visitor.url.startswith(wiki.applications.callback), "a flow is finished once"
        assert "500" not in {str(answer["status"]) for answer in visitor.answers}
        visitor.goto(wiki.authorize())
        assert wiki.exchange(visitor)["claims"]["sub"], "the session is as good as before"


def test_the_session_of_a_tenant_counts_at_the_platform(
    house: House, acme: Tenant, wiki: Client, alice: str, browser: Open, openid_client: Party, applications: Landing
) -> None:
    portal = Client(openid_client, house.application(acme, applications.callback), house.platform, applications)
    with browser() as visitor:
        visitor.goto(wiki.authorize())
        with_password(visitor, alice)
        first = wiki.exchange(visitor)["claims"]
        visitor.goto(portal.authorize())
        second = portal.exchange(visitor)["claims"]
    assert (second["sub"], second["sid"], second["iss"]) == (first["sub"], first["sid"], house.platform)


def test_every_page_on_the_way_is_fit_for_everybody(
    house: House, acme: Tenant, wiki: Client, alice: str, browser: Open, applications: Landing, openid_client: Party
) -> None:
    """The pages as they come, each photographed on a phone and a desk and judged by axe-core."""
    seen: dict[str, list[str]] = {}
    stranger = Client(
        openid_client,
        acme.application(applications.callback, name="Somebody else's", third_party=True),
        acme.issuer,
        applications,
    )
    closed = Client(
        openid_client,
        acme.application(applications.callback, name="For some", assignment_required=True),
        acme.issuer,
        applications,
    )
    portal = Client(
        openid_client,
        house.application(acme, applications.callback, name="Portal", launch_url=f"{applications.base_url}/portal"),
        house.platform,
        applications,
    )
    acme.admin.post(
        "/identity-providers",
        {
            "kind": "oidc",
            "name": "Out of order",
            "sign_in": True,
            "config": {"issuer": "http://127.0.0.1:9", "client_id": "x", "client_secret": "y"},
        },
    )
    with browser() as visitor:

        def look(name: str, status: int | None = None) -> None:
            seen[name] = visitor.look(f"way {name}", "phone", "desk")
            assert status is None or visitor.answers[-1]["status"] == status, name

        visitor.goto(portal.authorize())
        look("platform", 200)
        visitor.goto(wiki.authorize())
        look("sign-in", 200)
        with_password(visitor, alice, "not the password")
        visitor.wait('[role="alert"]')
        look("wrong password")
        visitor.choose("provider")
        visitor.wait("main:not(:has([name=password]))")
        look("upstream down", 503)
        visitor.goto(stranger.authorize())
        with_password(visitor, alice)
        visitor.asks("decision")
        look("consent", 200)
        visitor.choose("decision", "allow")
        visitor.arrive(applications.callback)
        visitor.goto(closed.authorize())
        look("not assigned", 403)
        visitor.goto(f"{acme.pages}/apps")
        look("launcher", 200)
        visitor.click('main a:has-text("Portal")')
        visitor.arrive(f"{applications.base_url}/portal")
        visitor.goto(f"{acme.issuer}/oauth/logout")
        look("log out", 200)
        visitor.click('main [type="submit"]')
        visitor.wait("h1:has-text('signed out')")
        look("logged out")
        visitor.goto(f"{acme.pages}/sign-in?flow={acme.slug}.gone")
        look("expired", 400)
        visitor.goto(f"{acme.issuer}/oauth/authorize?client_id=nobody&response_type=code")
        look("unknown client", 400)
        visitor.goto(wiki.authorize().replace("callback", "elsewhere"))
        look("unknown redirect", 400)
        visitor.goto(f"{house.base_url}/nowhere")
        look("not found", 404)
        assert {name: found for name, found in seen.items() if found} == {}
        assert [text for text in visitor.complaints if "responded with a status" not in text] == []
