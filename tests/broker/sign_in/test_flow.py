"""What comes next in a sign-in, decided from what is stored: whom to ask and where, how fresh, consent, and one end."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
import sqlalchemy as sa

from broker.db import unit
from broker.models import Application, Consent, Session
from broker.sign_in import flow
from broker.sign_in.flow import AskConsent, Barred, Choose, Depart, Done, Refused
from tests.broker.sign_in.stage import REDIRECT, Browser, Stage, location

PASSWORD = "long enough and nobody's"


@pytest.fixture
def signed_in(acme: Stage) -> Browser:
    acme.provider()
    browser = acme.browser()
    assert acme.signed_in(browser).status_code == 303
    return browser


def aged(stage: Stage, **since: float) -> None:
    with stage.unit() as session:
        session.execute(sa.update(Session).values(auth_time=datetime.now(UTC) - timedelta(**since)))


def prompt(*values: str) -> dict[str, frozenset[str]]:
    return {"prompt": frozenset(values)}


# Which way: providers by what they claim, whether anybody has a password, what is known of the person, what comes next.
ONE, TWO = "one", "two"
WAYS: list[tuple[dict[str, list[str]], bool, dict[str, Any], str]] = [
    ({}, True, {}, "password"),
    ({}, False, {}, "password"),
    ({ONE: []}, False, {}, ONE),
    ({ONE: []}, True, {}, "password"),
    ({ONE: ["home"]}, True, {}, "name"),
    ({ONE: ["home"]}, True, {"login_hint": "alice@home"}, ONE),
    ({ONE: ["home"]}, True, {"login_hint": "alice@HOME."}, ONE),
    ({ONE: ["home"]}, True, {"login_hint": "alice@other"}, "password"),
    ({ONE: ["home"]}, True, {"login_hint": "alice"}, "password"),
    ({ONE: ["unverified"]}, True, {"login_hint": "alice@unverified"}, "password"),
    ({ONE: ["home"]}, True, {"login_hint": "alice@sub.home"}, "password"),
    ({ONE: [], TWO: []}, False, {}, "name"),
    ({ONE: ["home"], TWO: []}, False, {"login_hint": "alice@home"}, ONE),
    ({ONE: ["home"], TWO: ["home"]}, False, {"login_hint": "alice@home"}, ONE),
    ({ONE: [], TWO: []}, False, {"provider": TWO}, TWO),
    ({ONE: [], TWO: []}, False, {"provider": "idp_nothing"}, "name"),
    ({ONE: []}, False, prompt("select_account"), "name"),
    ({ONE: ["home"]}, False, {"login_hint": "alice@home", **prompt("select_account")}, "name"),
    ({ONE: []}, False, prompt("login"), ONE),
]


@pytest.mark.parametrize(("claims", "local", "asked", "comes"), WAYS)
def test_home_realm_discovery(
    acme: Stage, claims: dict[str, list[str]], local: bool, asked: dict[str, Any], comes: str
) -> None:
    def full(text: str) -> str:
        """`home` is a domain this tenant has verified, which nobody else can have."""
        return re.sub(r"\b(home|HOME|other|unverified)\b", rf"\1-{acme.slug}.example", text)

    acme.domain(full("home"))
    acme.domain(full("unverified"), verified=False)
    known = {
        name: acme.provider(name, domains=[full(one) for one in domains], priority=number)
        for number, (name, domains) in enumerate(claims.items())
    }
    if "login_hint" in asked:
        asked = {**asked, "login_hint": full(asked["login_hint"])}
    if local:
        acme.password(acme.user("local"), PASSWORD)
    if asked.get("provider") in known:
        asked = {**asked, "provider": known[asked["provider"]]}
    _, step = acme.authorize(acme.browser(), acme.application(), **asked)
    if comes in known:
        assert step == Depart(known[comes])
    else:
        assert isinstance(step, Choose) and [one.name for one in step.upstreams] == list(claims)
        assert step.ask_password == (comes == "password")


def test_an_application_names_the_upstream_by_its_id(acme: Stage, globex: Stage) -> None:
    _, named, elsewhere = acme.provider("First"), acme.provider("Second"), globex.provider()
    asked = {
        "response_type": "code",
        "client_id": acme.application(redirect_uris=[REDIRECT]),
        "redirect_uri": REDIRECT,
        "code_challenge": "c" * 43,
        "code_challenge_method": "S256",
    }
    issuer = f"/api/v1/auth/tenants/{acme.slug}"
    for provider, goes in ((named, True), ("", False), ("idp_nothing", False), ("Second", False), (elsewhere, False)):
        browser = acme.browser()
        page = browser.get(f"{issuer}/oauth/authorize?{urlencode({**asked, 'provider': provider})}")
        answer = browser.get(location(page))
        if goes:
            assert answer.status_code == 303 and location(answer).startswith(acme.issuer)
        else:
            assert answer.status_code == 200 and "First" in answer.get_data(as_text=True)


def test_whoever_chooses_the_upstream_that_was_named_leaves_by_a_page(acme: Stage) -> None:
    """Browsers hold redirects to the policy of the form before them."""
    named, browser = acme.provider(), acme.browser()
    flow_id, step = acme.authorize(browser, acme.application(), provider=named)
    assert step == Depart(named)
    browser.get(f"/t/{acme.slug}/sign-in?flow={flow_id}")
    page = browser.get(f"/t/{acme.slug}/sign-in?flow={flow_id}")
    left = browser.get(location(browser.submit(page, provider=named)))
    assert left.status_code == 200 and location(left).startswith(acme.issuer)


def test_a_hint_that_the_person_confirms_leads_home(acme: Stage) -> None:
    domain = f"{acme.slug}.example"
    acme.domain(domain)
    home = acme.provider(domains=[domain])
    browser = acme.browser()
    flow_id, step = acme.authorize(
        browser, acme.application(), login_hint=f"alice@{domain}", **prompt("select_account")
    )
    assert isinstance(step, Choose) and step.username == f"alice@{domain}"
    browser.submit(browser.get(f"/t/{acme.slug}/sign-in?flow={flow_id}"), username=f"alice@{domain}")
    assert acme.step(browser, flow_id) == Depart(home, chosen=True)


def test_a_provider_that_is_off_or_for_syncs_only_is_no_way_in(acme: Stage) -> None:
    acme.provider("off", enabled=False)
    acme.provider("no sign-in", sign_in=False)
    _, step = acme.authorize(acme.browser(), acme.application())
    assert step == Choose(None, (), ask_password=True)


def test_a_typed_address_leads_home_and_another_one_elsewhere(acme: Stage) -> None:
    domain = f"{acme.slug}.example"
    acme.domain(domain)
    home = acme.provider(domains=[domain])
    acme.password(acme.user("local"), PASSWORD)
    browser = acme.browser()
    flow_id, step = acme.authorize(browser, acme.application())
    assert isinstance(step, Choose) and not step.ask_password
    page = browser.get(f"/t/{acme.slug}/sign-in?flow={flow_id}")
    browser.submit(page, username=f"alice@{domain}")
    assert acme.step(browser, flow_id) == Depart(home, chosen=True)
    browser.submit(page, username="local")
    step = acme.step(browser, flow_id)
    assert isinstance(step, Choose) and (step.username, step.ask_password) == ("local", True)


def test_whoever_comes_back_from_an_upstream_is_asked_and_not_sent_again(acme: Stage) -> None:
    provider_id = acme.provider()
    browser = acme.browser()
    flow_id, step = acme.authorize(browser, acme.application())
    assert step == Depart(provider_id)
    assert location(browser.get(f"/t/{acme.slug}/sign-in?flow={flow_id}")).startswith(acme.issuer)
    again = acme.step(browser, flow_id)
    assert isinstance(again, Choose) and [one.id for one in again.upstreams] == [provider_id]


def test_who_is_signed_in_goes_on_at_once(acme: Stage, signed_in: Browser) -> None:
    _, step = acme.authorize(signed_in, acme.application())
    assert isinstance(step, Done) and step.session.user_name == "Alice"


def test_silence_never_shows_a_page(acme: Stage, signed_in: Browser) -> None:
    own, third, closed = (
        acme.application(),
        acme.application(third_party=True),
        acme.application(assignment_required=True),
    )
    stranger = acme.browser()
    assert isinstance(acme.authorize(signed_in, own, **prompt("none"))[1], Done)
    for browser, application_id, asked, error in (
        (stranger, own, {}, "login_required"),
        (signed_in, own, {"max_age": 0}, "login_required"),
        (signed_in, third, {"third_party": True}, "consent_required"),
        (signed_in, closed, {}, "access_denied"),
    ):
        _, step = acme.authorize(browser, application_id, **asked, **prompt("none"))
        assert isinstance(step, Refused) and step.error == error


@pytest.mark.parametrize(
    ("age", "asked", "asks"),
    [
        (60, {"max_age": 120}, False),
        (60, {"max_age": 30}, True),
        (60, {"max_age": 0}, True),
        (0, {"max_age": 0}, True),
        (0, prompt("login"), True),
        (0, prompt("select_account"), True),
        (40_000, {}, False),
    ],
)
def test_a_session_is_as_fresh_as_is_asked(
    acme: Stage, signed_in: Browser, age: int, asked: dict[str, Any], asks: bool
) -> None:
    aged(acme, seconds=age)
    _, step = acme.authorize(signed_in, acme.application(), **asked)
    assert isinstance(step, Choose | Depart) if asks else isinstance(step, Done)


def test_signing_in_again_satisfies_who_asked_for_it(acme: Stage) -> None:
    acme.password(acme.user("local"), PASSWORD)
    browser = acme.browser()
    for asked in ({}, prompt("login"), {"max_age": 0}, prompt("select_account")):
        flow_id, _ = acme.authorize(browser, acme.application(), **asked)
        page = browser.get(f"/t/{acme.slug}/sign-in?flow={flow_id}")
        assert browser.submit(page, username="local", password=PASSWORD).status_code == 303
        assert isinstance(acme.step(browser, flow_id), Done)


def test_an_application_that_means_one_person_gets_no_other(acme: Stage) -> None:
    alice, bob = acme.user("alice"), acme.user("bob")
    for one in (alice, bob):
        acme.password(one, PASSWORD)
    browser, application_id = acme.browser(), acme.application()

    def signs_in(name: str, flow_id: str) -> flow.Step:
        page = browser.get(f"/t/{acme.slug}/sign-in?flow={flow_id}")
        assert browser.submit(page, username=name, password=PASSWORD).status_code == 303
        return acme.step(browser, flow_id)

    assert isinstance(signs_in("bob", acme.authorize(browser, application_id, person=bob)[0]), Done)
    assert isinstance(acme.authorize(browser, application_id, person=bob)[1], Done)
    flow_id, step = acme.authorize(browser, application_id, person=alice)
    assert isinstance(step, Choose)
    assert isinstance(signs_in("alice", flow_id), Done)
    flow_id, step = acme.authorize(browser, application_id, person=bob)
    assert isinstance(step, Choose)
    assert signs_in("alice", flow_id) == Refused("login_required", "Another person is signed in")


def test_an_upstream_is_asked_for_another_account_than_the_one_that_will_not_do(
    acme: Stage, signed_in: Browser
) -> None:
    flow_id, step = acme.authorize(signed_in, acme.application(), person="usr_somebody")
    assert isinstance(step, Depart) and step.another
    assert "prompt=select_account" in location(signed_in.get(f"/t/{acme.slug}/sign-in?flow={flow_id}"))
    flow_id, step = acme.authorize(fresh := acme.browser(), acme.application(), person="usr_somebody")
    assert isinstance(step, Depart) and not step.another
    assert "prompt=" not in location(fresh.get(f"/t/{acme.slug}/sign-in?flow={flow_id}"))


def test_an_upstream_that_did_not_ask_again_is_not_believed(acme: Stage) -> None:
    acme.password(acme.user("local"), PASSWORD)
    browser = acme.browser()
    for asked in (prompt("login"), {"max_age": 30}):
        flow_id, _ = acme.authorize(browser, acme.application(), **asked)
        page = browser.get(f"/t/{acme.slug}/sign-in?flow={flow_id}")
        browser.submit(page, username="local", password=PASSWORD)
        aged(acme, hours=1)
        step = acme.step(browser, flow_id)
        assert isinstance(step, Refused) and step.error == "login_required"


def test_consent_is_asked_once_and_again_for_more(acme: Stage, signed_in: Browser) -> None:
    application_id = acme.application(third_party=True)

    def asked(*scopes: str, **more: Any) -> tuple[str, flow.Step]:
        return acme.authorize(signed_in, application_id, third_party=True, scopes=scopes, **more)

    flow_id, step = asked("openid", "email")
    assert step == AskConsent(("openid", "email"))
    allow(acme, signed_in, flow_id)
    assert isinstance(acme.step(signed_in, flow_id), Done)
    assert isinstance(asked("openid")[1], Done)
    assert asked("openid", "offline_access")[1] == AskConsent(("openid", "offline_access"))
    flow_id, step = asked("openid", **prompt("consent"))
    assert step == AskConsent(("openid",))
    allow(acme, signed_in, flow_id)
    assert isinstance(acme.step(signed_in, flow_id), Done)
    with acme.unit() as session:
        assert session.query(Consent).one().scopes == ["email", "openid"]
    assert len(acme.events("consent.given")) == 2


def test_consent_is_the_persons_who_gave_it(acme: Stage, signed_in: Browser) -> None:
    application_id = acme.application(third_party=True)
    flow_id, _ = acme.authorize(signed_in, application_id, third_party=True)
    allow(acme, signed_in, flow_id)
    acme.signed_in(other := acme.browser(), "bob")
    signed_in.client.set_cookie(f"sk-{acme.slug}", other.cookie(f"sk-{acme.slug}") or "")
    assert isinstance(acme.step(signed_in, flow_id), AskConsent)


def test_first_parties_ask_for_no_consent(acme: Stage, signed_in: Browser) -> None:
    _, step = acme.authorize(signed_in, acme.application(), scopes=("openid", "offline_access"))
    assert isinstance(step, Done)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"assignment_required": True}, "not_assigned"), ({"enabled": False}, "application_disabled")],
)
def test_an_application_that_is_not_for_this_person_is_told_on_a_page(
    acme: Stage, signed_in: Browser, fields: dict[str, bool], reason: str
) -> None:
    application_id = acme.application(**fields)
    flow_id, step = acme.authorize(signed_in, application_id)
    assert step == Barred(reason)
    with acme.unit() as session:
        app = session.get_one(Application, (acme.scope.tenant_id, application_id))
        app.enabled, app.assignment_required = True, False
    assert isinstance(acme.step(signed_in, flow_id), Done)


def test_a_flow_that_ended_is_lost(acme: Stage, signed_in: Browser) -> None:
    flow_id, _ = acme.authorize(signed_in, acme.application())
    with acme._as(signed_in):
        with unit(acme.scope):
            assert flow.consume(flow.load(acme.scope, flow_id))
        with unit(acme.scope), pytest.raises(flow.FlowLost):
            flow.load(acme.scope, flow_id)


def test_of_two_who_end_a_flow_one_does(acme: Stage, signed_in: Browser) -> None:
    flow_id, _ = acme.authorize(signed_in, acme.application())
    with acme._as(signed_in):
        with unit(acme.scope):
            read = flow.load(acme.scope, flow_id)
        ends = []
        for _ in range(2):
            with unit(acme.scope):
                ends.append(flow.consume(read))
    assert ends == [True, False]


def test_a_flow_is_its_issuers(acme: Stage, signed_in: Browser) -> None:
    flow_id, _ = acme.authorize(signed_in, acme.application(), issuer="platform")
    with acme._as(signed_in):
        assert flow.scope_of(flow_id) == acme.scope
        with unit(acme.scope):
            assert flow.load(acme.scope, flow_id, issuer="platform").issuer == "platform"
            with pytest.raises(flow.FlowLost):
                flow.load(acme.scope, flow_id, issuer="tenant")


def test_a_flow_is_its_tenants(acme: Stage, globex: Stage) -> None:
    browser = acme.browser()
    flow_id, _ = acme.authorize(browser, acme.application())
    browser.client.set_cookie(f"sk_flow-{globex.slug}", browser.cookie(f"sk_flow-{acme.slug}") or "")
    with pytest.raises(flow.FlowLost):
        globex.step(browser, flow_id)


def allow(stage: Stage, browser: Browser, flow_id: str) -> None:
    page = browser.get(f"/t/{stage.slug}/consent?flow={flow_id}")
    answer = browser.submit(page, decision="allow")
    assert location(answer) == f"/api/v1/auth/tenants/{stage.slug}/oauth/authorize?flow={flow_id}"
