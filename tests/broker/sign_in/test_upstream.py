"""The round trip to an upstream: one answer, from the browser that left, to the provider it left for, once."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa

from broker import connections
from broker.db import platform_scope, unit
from broker.models import IdentityProvider, SignInFlow, Tenant
from broker.sign_in import upstream
from tests.broker.sign_in.stage import Browser, Stage, location, state_of


def departed(stage: Stage, browser: Browser, sub: str = "alice") -> str:
    """The callback's address that the upstream leads to."""
    answer = browser.get(location(browser.get(f"/t/{stage.slug}/sign-in")))
    return stage.at_upstream(location(answer), sub, email=f"{sub}@acme.example", name=sub.title())


def lost(answer: object) -> bool:
    return answer.status_code == 400 and "This page has expired" in answer.get_data(as_text=True)  # type: ignore[attr-defined]


def test_a_person_signs_in_at_the_upstream_and_reaches_the_launcher(acme: Stage) -> None:
    provider_id = acme.provider()
    browser = acme.browser()
    answer = acme.signed_in(browser)
    assert (answer.status_code, location(answer)) == (303, f"/t/{acme.slug}/apps")
    assert "Alice" in browser.get(location(answer)).get_data(as_text=True)
    (session,) = acme.sessions()
    assert session.ended_at is None and session.upstream is not None and b"alice" not in session.upstream
    (event,) = acme.events("sign_in.succeeded")
    assert event.changed["user_id"] == session.user_id == event.actor_id
    assert event.changed["provider_id"] == provider_id == session.provider_id


def test_an_answer_counts_once(acme: Stage) -> None:
    acme.provider()
    browser = acme.browser()
    callback = departed(acme, browser)
    assert browser.get(callback).status_code == 303
    assert lost(browser.get(callback))
    assert len(acme.sessions()) == 1


def test_of_answers_that_arrive_together_one_counts(acme: Stage) -> None:
    acme.provider()
    browser = acme.browser()
    callback = departed(acme, browser)
    tabs = [acme.browser() for _ in range(4)]
    for tab in tabs:
        tab.client.set_cookie(f"sk_flow-{acme.slug}", browser.cookie(f"sk_flow-{acme.slug}") or "")
    with ThreadPoolExecutor(len(tabs)) as threads:
        answers = list(threads.map(lambda tab: tab.get(callback).status_code, tabs))
    assert sorted(answers) == [303, 400, 400, 400] and len(acme.sessions()) == 1


def test_an_answer_counts_in_the_browser_that_left(acme: Stage) -> None:
    acme.provider()
    mine, foreign, passing_by = acme.browser(), acme.browser(), acme.browser()
    callback = departed(acme, mine)
    departed(acme, foreign)
    assert lost(foreign.get(callback))
    without = passing_by.get(callback)
    assert without.status_code == 400 and "cookies" in without.get_data(as_text=True)
    assert acme.sessions() == [] and acme.reasons() == []
    assert mine.get(callback).status_code == 303


def test_tabs_sign_in_beside_each_other_and_never_for_each_other(acme: Stage) -> None:
    acme.provider()
    browser = acme.browser()
    first, second = departed(acme, browser), departed(acme, browser, "bob")
    crossed = first.replace(state_of(first), state_of(second))
    assert browser.get(first).status_code == browser.get(second).status_code == 303
    assert lost(browser.get(crossed))
    assert len([one for one in acme.sessions() if one.ended_at is None]) == 1


def test_a_state_of_another_tenant_or_provider_is_nobodys(acme: Stage, globex: Stage) -> None:
    acme.provider()
    globex.provider()
    other = acme.provider("Second", sign_in=False)
    browser = acme.browser()
    callback = departed(acme, browser)
    departed(globex, browser)
    path = urlsplit(callback).path
    assert lost(browser.get(callback.replace(acme.slug, globex.slug)))
    assert lost(browser.get(callback.replace(path.rpartition("/")[2], other)))
    assert lost(browser.get(callback.replace(state_of(callback), "x" * 43)))
    assert browser.get(callback).status_code == 303


def test_an_answer_after_a_quarter_of_an_hour_is_too_late(acme: Stage) -> None:
    acme.provider()
    browser = acme.browser()
    callback = departed(acme, browser)
    with acme.unit() as session:
        session.execute(sa.update(SignInFlow).values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))
    assert lost(browser.get(callback))
    assert acme.sessions() == []


def test_a_parameter_given_twice_is_refused(acme: Stage) -> None:
    acme.provider()
    browser = acme.browser()
    assert lost(browser.get(departed(acme, browser) + "&state=another"))
    refused = browser.get(departed(acme, browser) + "&code=another")
    assert refused.status_code == 403 and acme.reasons() == ["upstream_refused"]


def test_an_answer_of_too_many_parameters_is_nobodys(acme: Stage) -> None:
    acme.provider()
    browser = acme.browser()
    callback = departed(acme, browser)
    many = "&a=b" * 51
    assert lost(browser.get(callback + many))
    assert lost(browser.post(urlsplit(callback).path, {f"a{number}": "b" for number in range(51)}))
    assert lost(browser.get(f"{urlsplit(callback).path}?{many}"))
    assert browser.get(callback + "".join(f"&a{number}=b" for number in range(40))).status_code == 303


def test_claims_that_are_no_text_are_a_refusal_like_any_other(acme: Stage) -> None:
    acme.provider()
    for amr, status in ((["pwd"], 303), (["\0"], 403)):
        browser = acme.browser()
        onward = location(browser.get(location(browser.get(f"/t/{acme.slug}/sign-in"))))
        arrived = browser.get(acme.at_upstream(onward, "alice", email="alice@acme.example", amr=amr))
        assert arrived.status_code == status
    assert acme.reasons() == ["upstream_refused"] and len(acme.sessions()) == 1


def test_a_refusal_of_the_upstream_is_told_and_leads_back_to_the_choice(acme: Stage) -> None:
    provider_id = acme.provider()
    browser = acme.browser()
    callback = departed(acme, browser)
    error = f"{urlsplit(callback).path}?state={state_of(callback)}&error=access_denied"
    refused = browser.get(error)
    text = refused.get_data(as_text=True)
    assert refused.status_code == 403 and "Acme ID" in text
    (event,) = acme.events("sign_in.refused")
    assert event.changed["reason"] == "upstream_refused" and event.resource_id == provider_id
    choice = browser.get(text.partition('href="/t/')[2].partition('"')[0].join(("/t/", "")))
    assert choice.status_code == 200 and "did not confirm" in choice.get_data(as_text=True)
    again = browser.submit(choice, provider=provider_id)
    onward = browser.get(location(again))
    assert browser.get(acme.at_upstream(location(onward))).status_code == 303


def test_a_form_from_the_upstream_waits_for_the_browsers_cookie(acme: Stage) -> None:
    acme.provider()
    mine, foreign = acme.browser(), acme.browser()
    callback = departed(acme, mine)
    path, _, query = callback.partition("?")
    fields = dict(pair.split("=", 1) for pair in query.split("&"))
    strange = {"Origin": acme.issuer, "Sec-Fetch-Site": "cross-site"}
    put_by = acme.browser().post(urlsplit(path).path, fields, headers=strange)
    assert put_by.status_code == 303 and "code" not in put_by.headers["Location"]
    assert foreign.get(put_by.headers["Location"]).status_code == 400
    assert acme.sessions() == []
    assert location(mine.get(put_by.headers["Location"])) == f"/t/{acme.slug}/apps"
    assert lost(mine.get(put_by.headers["Location"]))


@pytest.mark.parametrize("change", [{"enabled": False}, {"sign_in": False}])
def test_a_provider_switched_off_in_between_lets_nobody_in(acme: Stage, change: dict[str, bool]) -> None:
    provider_id = acme.provider()
    browser = acme.browser()
    callback = departed(acme, browser)
    with acme.unit() as session:
        session.execute(sa.update(IdentityProvider).where(IdentityProvider.id == provider_id).values(**change))
    assert browser.get(callback).status_code == 403
    assert acme.sessions() == [] and acme.reasons() == ["provider_disabled"]


def test_a_provider_changed_while_it_is_asked_lets_nobody_in(acme: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    provider_id = acme.provider()
    browser = acme.browser()
    callback = departed(acme, browser)
    asked = connections.connector_of

    def meanwhile(provider: connections.Provider) -> object:
        with acme.unit() as session:
            session.get_one(IdentityProvider, (acme.scope.tenant_id, provider_id)).enabled = False
        return asked(provider)

    monkeypatch.setattr(connections, "connector_of", meanwhile)
    assert browser.get(callback).status_code == 403
    assert acme.sessions() == [] and acme.reasons() == ["provider_disabled"]


def test_a_suspended_tenant_lets_nobody_in(acme: Stage) -> None:
    acme.provider()
    browser = acme.browser()
    callback = departed(acme, browser)
    with acme.app.app_context(), platform_scope() as session:
        session.get_one(Tenant, acme.scope.tenant_id).status = "suspended"
    refused = browser.get(callback)
    assert refused.status_code == 403 and "suspended" in refused.get_data(as_text=True)
    assert acme.sessions() == [] and acme.reasons() == ["tenant_suspended"]
    fresh = acme.browser()
    shown = fresh.get(location(fresh.get(f"/t/{acme.slug}/sign-in")))
    assert shown.status_code == 403 and "suspended" in shown.get_data(as_text=True)


def test_a_disabled_person_is_let_in_by_no_upstream(acme: Stage) -> None:
    acme.provider()
    assert acme.signed_in(acme.browser()).status_code == 303
    (session,) = acme.sessions()
    acme.change_user(session.user_id, active=False)
    refused = acme.signed_in(acme.browser())
    assert refused.status_code == 403 and "disabled" in refused.get_data(as_text=True)
    assert len(acme.sessions()) == 1 and acme.reasons() == ["user_disabled"]


def test_a_stranger_is_no_second_account(acme: Stage) -> None:
    acme.provider(jit={"enabled": False, "groups": []})
    refused = acme.signed_in(acme.browser())
    assert refused.status_code == 403 and "not known here" in refused.get_data(as_text=True)
    assert acme.sessions() == [] and acme.reasons() == ["not_known"]


def test_an_upstream_that_does_not_answer_is_a_page_with_a_way_back(acme: Stage) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        config = {
            "issuer": f"http://127.0.0.1:{taken.getsockname()[1]}",
            "client_id": "scaikey",
            "client_secret": "secret",
        }
        acme.provider(config=config)
        browser = acme.browser()
        flow_page = location(browser.get(f"/t/{acme.slug}/sign-in"))
        down = browser.get(flow_page)
    assert down.status_code == 503 and f'href="{flow_page}"' in down.get_data(as_text=True)
    assert acme.reasons() == ["upstream_unavailable"]
    assert "cannot be reached" in browser.get(flow_page).get_data(as_text=True)


def test_an_assertion_is_used_once(acme: Stage) -> None:
    provider_id, until = acme.provider(), datetime.now(UTC) + timedelta(minutes=5)
    uses = []
    for name in ("a", "a", "b"):
        with acme.app.app_context(), unit(acme.scope):
            uses.append(upstream._first_time(provider_id, name, until))
    assert uses == [True, False, True]
