"""The pages of signing in over HTTP: forms are our own, a password opens a session, and nothing tells who exists."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import sqlalchemy as sa
from werkzeug.test import TestResponse

from broker import passwords
from broker.context import Scope
from broker.db import unit
from broker.models import Assignment, Attempt, Tenant
from broker.sign_in import requests
from broker.sign_in.requests import Asked
from tests.broker.sign_in.stage import REDIRECT, Browser, Stage, location
from tests.casting import Cast, make_group, make_user
from tests.oidc.party import make_app

PASSWORD = "long enough and nobody's"


def fresh(stage: Stage, browser: Browser) -> TestResponse:
    """The page of a new sign-in."""
    return browser.get(location(browser.get(f"/t/{stage.slug}/sign-in")))


def text(answer: TestResponse) -> str:
    return answer.get_data(as_text=True)


@pytest.fixture
def local(acme: Stage) -> str:
    user_id = acme.user("alice", displayName="Alice")
    acme.password(user_id, PASSWORD)
    return user_id


def test_a_password_opens_a_session(acme: Stage, local: str) -> None:
    browser = acme.browser()
    answer = browser.submit(fresh(acme, browser), username=" Alice ", password=PASSWORD)
    assert (answer.status_code, location(answer)) == (303, f"/t/{acme.slug}/apps")
    live = acme.live(browser)
    assert live is not None and (live.user_id, live.amr, live.provider_id) == (local, ("pwd",), None)
    assert acme.events("sign_in.succeeded")[0].changed["amr"] == ["pwd"]


@pytest.mark.parametrize("at_the_platform", [False, True])
def test_a_password_that_is_changed_while_it_is_checked_opens_nothing(
    acme: Stage, local: str, platform: Scope, monkeypatch: pytest.MonkeyPatch, at_the_platform: bool
) -> None:
    check = passwords.check

    def slowly(*shown: Any) -> passwords.Verdict:
        verdict = check(*shown)
        acme.password(local, PASSWORD + " II")
        return verdict

    browser = acme.browser()
    page = browser.get(location(ask(acme, browser, acme.slug))) if at_the_platform else fresh(acme, browser)
    monkeypatch.setattr(passwords, "check", slowly)
    answer = browser.submit(page, username="alice", password=PASSWORD)
    assert answer.status_code == 403 and "User name or password is wrong" in text(answer)
    assert acme.live(browser) is None and acme.sessions() == []
    monkeypatch.undo()
    answer = browser.submit(answer, username="alice", password=PASSWORD + " II")
    assert answer.status_code == 303 and acme.live(browser) is not None


def test_who_guesses_elsewhere_keeps_nobody_out_of_a_browser_where_he_signed_in(acme: Stage, local: str) -> None:
    acme.password(acme.user("bob"), PASSWORD)
    known, bobs, stranger = acme.browser(), acme.browser(), acme.browser()
    assert known.submit(fresh(acme, known), username="alice", password=PASSWORD).status_code == 303
    assert bobs.submit(fresh(acme, bobs), username="bob", password=PASSWORD).status_code == 303
    for browser in (known, bobs):
        browser.client.delete_cookie(f"sk-{acme.slug}")
    guess(acme, stranger)
    for other in (stranger, bobs, acme.browser()):
        assert other.submit(fresh(acme, other), username="alice", password=PASSWORD).status_code == 429
    assert known.submit(fresh(acme, known), username=" ALICE", password=PASSWORD).status_code == 303
    assert acme.live(known) is not None and acme.live(bobs) is None
    known.client.delete_cookie(f"sk-{acme.slug}")
    guess(acme, known)
    answer = known.submit(fresh(acme, known), username="alice", password=PASSWORD)
    assert answer.status_code == 429, "nor may it guess more often than others"


def guess(stage: Stage, browser: Browser) -> None:
    """As often as is free; what has to wait now waits for as long as the test takes."""
    page = fresh(stage, browser)
    for _ in range(5):
        assert browser.submit(page, username="alice", password="wrong").status_code == 403
    with stage.unit() as session:
        held = sa.update(Attempt).where(Attempt.blocked_until.is_not(None))
        session.execute(held.values(blocked_until=sa.func.now() + timedelta(hours=1)))


def test_a_wrong_password_and_an_unknown_name_are_told_the_same(acme: Stage, local: str) -> None:
    told = []
    for name, password in (("alice", "wrong"), ("nobody", PASSWORD), ("nobody", "wrong")):
        browser = acme.browser()
        answer = browser.submit(fresh(acme, browser), username=name, password=password)
        plain = re.sub(r'value="[^"]*"|flow=[^"]*', "", text(answer))
        told.append((answer.status_code, plain))
        assert acme.live(browser) is None
    assert told[0] == told[1] == told[2] and told[0][0] == 403
    assert "User name or password is wrong" in told[0][1]


def test_guessing_is_slowed_down(acme: Stage, local: str) -> None:
    browser = acme.browser()
    page = fresh(acme, browser)
    answers = [browser.submit(page, username="alice", password="wrong") for _ in range(7)]
    slow = [one for one in answers if one.status_code == 429]
    assert slow and int(slow[0].headers["Retry-After"]) >= 1 and "Too many attempts" in text(slow[0])


def test_a_form_that_is_not_ours_does_nothing(acme: Stage, local: str) -> None:
    browser = acme.browser()
    page = fresh(acme, browser)
    url = location(browser.sent[0])
    fields = {"username": "alice", "password": PASSWORD}
    proof = re.search(r'name="csrf" value="([0-9a-f]+)"', text(page))
    assert proof
    other = fresh(acme, acme.browser())
    strangers = re.search(r'name="csrf" value="([0-9a-f]+)"', text(other))
    assert strangers
    for said, headers in (
        ({}, {}),
        ({"csrf": "0" * 64}, {}),
        ({"csrf": strangers[1]}, {}),
        ({"csrf": proof[1]}, {"Origin": "https://evil.example"}),
        ({"csrf": proof[1]}, {"Origin": "null"}),
        ({"csrf": proof[1]}, {"Sec-Fetch-Site": "cross-site"}),
    ):
        answer = browser.post(url, {**fields, **said}, headers=headers)
        assert answer.status_code == 400 and "did not come from our page" in text(answer)
    assert acme.live(browser) is None and acme.reasons() == ["forged"]
    ours = {"Origin": "http://localhost:8080", "Sec-Fetch-Site": "same-origin"}
    assert browser.post(url, {**fields, "csrf": proof[1]}, headers=ours).status_code == 303
    assert acme.live(browser) is not None


def test_the_log_is_told_once_however_often_a_request_is_repeated(acme: Stage, local: str) -> None:
    mine, foreign = acme.browser(), acme.browser()
    foreign.get(f"/t/{acme.slug}/sign-in")
    for _ in range(2):
        page = location(mine.get(f"/t/{acme.slug}/sign-in"))
        for browser in (mine, foreign) * 3:
            assert browser.post(page, {"csrf": "0" * 64, "username": "x"}).status_code == 400
    assert acme.reasons() == ["forged"] * 2
    flow_id, _ = acme.authorize(mine, acme.application(enabled=False))
    for _ in range(3):
        assert mine.get(f"/t/{acme.slug}/sign-in?flow={flow_id}").status_code == 403
    assert acme.reasons() == ["forged", "forged", "application_disabled"]


def test_the_page_is_framed_by_nobody_and_sends_its_form_to_us_and_the_application(acme: Stage, local: str) -> None:
    browser = acme.browser()
    flow_id, _ = acme.authorize(browser, acme.application())
    policy = browser.get(f"/t/{acme.slug}/sign-in?flow={flow_id}").headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in policy and "default-src 'none'" in policy
    assert f"form-action 'self' {REDIRECT.removesuffix('/callback')};" in policy


def test_without_a_cookie_there_is_no_flow(acme: Stage, local: str) -> None:
    flow_page = location(acme.browser().get(f"/t/{acme.slug}/sign-in"))
    answer = acme.browser().get(flow_page)
    assert answer.status_code == 400 and "cookies" in text(answer)


def test_a_tenant_nobody_has_is_not_found(acme: Stage) -> None:
    for path in ("sign-in", "apps", "sign-out", "signed-out", "consent", "callback/idp_x"):
        assert acme.browser().get(f"/t/no-such-tenant/{path}").status_code == 404


def test_whoever_is_signed_in_is_led_to_the_launcher(acme: Stage, local: str) -> None:
    browser = acme.browser()
    browser.submit(fresh(acme, browser), username="alice", password=PASSWORD)
    assert location(browser.get(f"/t/{acme.slug}/sign-in")) == f"/t/{acme.slug}/apps"


def test_cancelling_leads_back_to_the_application(acme: Stage, local: str) -> None:
    browser = acme.browser()
    flow_id, _ = acme.authorize(browser, acme.application())
    page = browser.get(f"/t/{acme.slug}/sign-in?flow={flow_id}")
    assert f'href="/t/{acme.slug}/sign-in/cancel?flow={flow_id}"' in text(page)
    answer = browser.get(f"/t/{acme.slug}/sign-in/cancel?flow={flow_id}")
    assert location(answer) == f"/api/v1/auth/tenants/{acme.slug}/oauth/authorize?flow={flow_id}"
    assert acme.step(browser, flow_id).error == "access_denied"  # type: ignore[union-attr]


def test_consent_names_the_application_and_what_it_asks_and_no_is_no(acme: Stage, local: str) -> None:
    browser = acme.browser()
    application_id = acme.application(third_party=True)
    flow_id, _ = acme.authorize(browser, application_id, third_party=True, scopes=("openid", "offline_access"))
    signed_in = browser.submit(
        browser.get(f"/t/{acme.slug}/sign-in?flow={flow_id}"), username="alice", password=PASSWORD
    )
    page = browser.get(location(signed_in))
    assert "Wiki" in text(page) and "Alice" in text(page) and "when you are not using it" in text(page)
    forged = browser.post(location(signed_in), {"decision": "allow"})
    assert forged.status_code == 400
    answer = browser.submit(page, decision="deny")
    assert location(answer).endswith(f"/oauth/authorize?flow={flow_id}")
    assert acme.step(browser, flow_id).error == "access_denied"  # type: ignore[union-attr]


def test_consent_names_who_keeps_an_application_that_is_not_the_tenants_own(
    acme: Stage, cast: Cast, local: str
) -> None:
    with acme.app.app_context():
        with unit(cast.home) as session:
            keeper = session.scalars(sa.select(Tenant.name)).one()
        theirs = make_app(cast.home, scope="PARTNER", third_party=True, shared_with=(cast.acme,)).id
    browser = acme.browser()
    browser.submit(fresh(acme, browser), username="alice", password=PASSWORD)
    for application_id, named in ((theirs, True), (acme.application(third_party=True), False)):
        flow_id, _ = acme.authorize(browser, application_id, third_party=True)
        page = text(browser.get(f"/t/{acme.slug}/consent?flow={flow_id}"))
        assert (f"Published by <bdi>{keeper}</bdi>." in page) == named and ("Published by" in page) == named


def test_an_application_that_is_not_assigned_says_who_is_signed_in_and_leads_back(acme: Stage, local: str) -> None:
    browser = acme.browser()
    flow_id, _ = acme.authorize(browser, acme.application(assignment_required=True))
    answer = browser.submit(browser.get(f"/t/{acme.slug}/sign-in?flow={flow_id}"), username="alice", password=PASSWORD)
    page = browser.get(location(answer))
    assert page.status_code == 403 and "signed in as Alice" in text(page)
    assert f'href="/t/{acme.slug}/sign-in/cancel?flow={flow_id}"' in text(page)
    assert acme.reasons() == ["not_assigned"]


def test_the_launcher_shows_what_this_person_may_open(acme: Stage, globex: Stage, local: str) -> None:
    with acme.app.app_context():
        inner = make_group(acme.scope, local)
        outer = make_group(acme.scope, inner)
        stranger = make_user(acme.scope)

    def application(name: str, *assigned: str, **fields: object) -> None:
        values = {"name": name, "assignment_required": True, "launch_url": f"https://{name}.example/", **fields}
        id = acme.application(**values)
        with acme.unit() as session:
            for principal_id in assigned:
                session.add(Assignment(id=f"asg_{id[4:]}", application_id=id, principal_id=principal_id))

    application("mine", local)
    application("by-group", outer)
    application("for-all", assignment_required=False)
    application("another", stranger)
    application("off", local, enabled=False)
    application("nowhere", local, launch_url=None)
    globex.application(name="foreign", assignment_required=False, launch_url="https://foreign.example/")
    browser = acme.browser()
    browser.submit(fresh(acme, browser), username="alice", password=PASSWORD)
    page = text(browser.get(f"/t/{acme.slug}/apps"))
    assert re.findall(r'href="https://([a-z-]+)\.example/"', page) == ["by-group", "for-all", "mine"]


def test_signing_out_asks_first_and_ends_the_session(acme: Stage, local: str) -> None:
    browser = acme.browser()
    browser.submit(fresh(acme, browser), username="alice", password=PASSWORD)
    asked = browser.get(f"/t/{acme.slug}/sign-out")
    assert asked.status_code == 200 and acme.live(browser) is not None
    assert browser.post(f"/t/{acme.slug}/sign-out", {}).status_code == 400 and acme.live(browser) is not None
    answer = browser.submit(asked)
    assert location(answer) == f"/t/{acme.slug}/signed-out"
    assert browser.cookie(f"sk-{acme.slug}") is None
    assert "signed out" in text(browser.get(location(answer)))
    assert acme.sessions()[0].end_reason == "signed_out"


def test_signing_out_goes_on_to_the_upstream(acme: Stage) -> None:
    acme.provider()
    browser = acme.browser()
    acme.signed_in(browser)
    there = urlsplit(location(browser.submit(browser.get(f"/t/{acme.slug}/sign-out"))))
    asked = parse_qs(there.query)
    assert f"{there.scheme}://{there.netloc}" == acme.issuer and asked["id_token_hint"]
    assert asked["post_logout_redirect_uri"] == [f"http://localhost:8080/t/{acme.slug}/signed-out"]
    assert acme.live(browser) is None and browser.cookie(f"sk-{acme.slug}") is None


# The platform's page.


def ask(stage: Stage, browser: Browser, identifier: str) -> TestResponse:
    """Begin at the platform, for a GLOBAL application, and name an organisation."""
    with stage.app.app_context():
        request = stage.request(stage.application(), issuer="platform")
        sealed = requests.seal(Asked(request))
    return browser.submit(browser.get(f"/sign-in?request={sealed}"), username=identifier)


def shown(page: TestResponse) -> tuple[int, str, str]:
    body = re.sub(r'value="[^"]*"|request=[^"]*|<code>.*?</code>', "", text(page))
    return page.status_code, page.headers["Content-Security-Policy"], body


def test_the_platform_tells_nobody_which_organisations_exist(acme: Stage, local: str, platform: Scope) -> None:
    acme.domain(f"{acme.slug}.example")
    with acme.app.app_context(), unit(platform) as session:
        session.execute(sa.delete(Attempt))  # other tests have guessed from this address within the minute
    pages, answers = [], []
    for identifier in (acme.slug, f"alice@{acme.slug}.example", "no-such-slug", "alice@no.example", "@", "ä@ö"):
        browser = acme.browser()
        answer = ask(acme, browser, identifier)
        assert answer.status_code == 303 and location(answer).startswith("/sign-in?request=")
        pages.append(shown(page := browser.get(location(answer))))
        answers.append(shown(browser.submit(page, username="alice", password="wrong")))
    assert len(set(pages)) == 1 and pages[0][0] == 200 and 'name="password"' in pages[0][2]
    assert len(set(answers)) == 1 and answers[0][0] == 403


def test_a_password_at_the_platform_signs_in_at_the_tenant(acme: Stage, local: str, platform: Scope) -> None:
    for identifier in (acme.slug, acme.slug.upper()):
        browser = acme.browser()
        page = browser.get(location(ask(acme, browser, identifier)))
        answer = browser.submit(page, username="alice", password=PASSWORD)
        assert location(answer).startswith(f"/api/v1/platform/oauth/authorize?flow={acme.slug}.")
        live = acme.live(browser)
        assert live is not None and live.user_id == local


def test_an_organisation_with_an_upstream_is_left_to_it(acme: Stage, platform: Scope) -> None:
    domain = f"{acme.slug}.example"
    acme.domain(domain)
    acme.provider(domains=[domain])
    browser = acme.browser()
    flow_page = location(ask(acme, browser, f"alice@{domain}"))
    assert flow_page.startswith(f"/t/{acme.slug}/sign-in?flow=")
    there = location(browser.get(flow_page))
    assert there.startswith(acme.issuer) and parse_qs(urlsplit(there).query)["login_hint"] == [f"alice@{domain}"]
    back = browser.get(acme.at_upstream(there))
    assert location(back).startswith("/api/v1/platform/oauth/authorize?flow=")


def test_whoever_leaves_after_a_form_leaves_by_a_page_and_by_nothing_else(acme: Stage, platform: Scope) -> None:
    acme.provider()
    browser = acme.browser()
    left = browser.get(location(ask(acme, browser, acme.slug)))
    assert left.status_code == 200 and location(left).startswith(acme.issuer)
    without_form = browser.get(location(browser.get(f"/t/{acme.slug}/sign-in")))
    assert without_form.status_code == 303 and location(without_form).startswith(acme.issuer)


@pytest.mark.parametrize("sealed", ["", "nonsense", "A" * 400, "ä"])
def test_a_request_we_did_not_seal_is_refused(acme: Stage, sealed: str) -> None:
    assert acme.browser().get("/sign-in", query_string={"request": sealed}).status_code == 400


def test_the_platforms_forms_are_our_own(acme: Stage, local: str, platform: Scope) -> None:
    browser = acme.browser()
    page = browser.get("/sign-in")
    proof = re.search(r'name="csrf" value="([0-9a-f]+)"', text(page))
    assert page.status_code == 200 and proof
    fields = {"username": acme.slug, "csrf": proof[1]}
    assert browser.post("/sign-in", {"username": acme.slug}).status_code == 400
    assert browser.post("/sign-in", fields, headers={"Origin": "https://evil.example"}).status_code == 400
    assert acme.browser().post("/sign-in", fields).status_code == 400
    assert browser.post("/sign-in", fields).status_code == 303


def test_without_an_application_the_platform_leads_to_the_launcher(acme: Stage, local: str, cast: Cast) -> None:
    assert cast.platform
    browser = acme.browser()
    page = browser.get(location(browser.submit(browser.get("/sign-in"), username=acme.slug)))
    answer = browser.submit(page, username="alice", password=PASSWORD)
    assert location(answer) == f"/t/{acme.slug}/apps"
