"""Passwords that a directory checks: whom it opens to, what is told of a refusal, and what nobody learns."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from werkzeug.test import TestResponse

from broker import passwords, patience
from broker.context import Scope
from broker.db import db, platform_scope
from broker.models import Attempt, Link, User
from broker.passwords import FAILURES_ELSEWHERE
from broker.sign_in.flow import Choose, Depart
from connectors.port import PASSWORD_REFUSALS, Misconfigured, Refused, Unreachable, Unreadable
from tests.broker.directory.conftest import dn
from tests.broker.sign_in.scripted import PASSWORD, Script, Scripts, Telling, person, read, scripts
from tests.broker.sign_in.stage import Browser, Stage, location

__all__ = ["scripts"]

OURS = "long enough and nobody's"
TITLES = {
    "account_disabled": "Your account is disabled",
    "account_expired": "Your account has expired",
    "account_locked": "Your account is locked",
    "password_expired": "Your password has expired",
    "password_must_change": "Choose a password of your own first",
    "not_at_this_time": "You cannot sign in at this time",
    "not_from_here": "You cannot sign in from here",
}


def fresh(stage: Stage, browser: Browser) -> TestResponse:
    return browser.get(location(browser.get(f"/t/{stage.slug}/sign-in")))


def show(stage: Stage, name: str, password: str = PASSWORD, browser: Browser | None = None) -> TestResponse:
    """The answer to a name and a password, of a new browser unless one is given."""
    browser = browser or stage.browser()
    browser.client.delete_cookie(f"sk-{stage.slug}")
    return browser.submit(fresh(stage, browser), username=name, password=password)


def text(answer: TestResponse) -> str:
    return answer.get_data(as_text=True)


def plain(answer: TestResponse) -> tuple[int, str]:
    """What an answer tells, without what differs between any two."""
    return answer.status_code, re.sub(r'value="[^"]*"|flow=[^"]*', "", text(answer))


def allow_more(stage: Stage) -> None:
    """Forget what was counted."""
    with stage.unit() as session:
        session.execute(sa.delete(Attempt))


@pytest.fixture
def ad(acme: Stage, scripts: Scripts) -> Script:
    """acme's only way in: a directory, from which alice and bob were read."""
    script = Script({"alice": PASSWORD, "bob": PASSWORD})
    provider_id = scripts.provider(acme, script)
    read(acme, provider_id, person("alice"), person("bob"))
    return script


def test_a_tenant_with_nothing_but_a_directory_asks_for_name_and_password_at_once(acme: Stage, ad: Script) -> None:
    page = text(fresh(acme, acme.browser()))
    assert 'name="username"' in page and 'name="password"' in page and 'name="provider"' not in page


def test_a_password_of_the_directory_opens_a_session(acme: Stage, ad: Script) -> None:
    browser = acme.browser()
    answer = show(acme, " alice ", browser=browser)
    assert (answer.status_code, location(answer)) == (303, f"/t/{acme.slug}/apps")
    live = acme.live(browser)
    assert live is not None and live.amr == ("pwd",) and ad.asked == ["alice"]
    (event,) = acme.events("sign_in.succeeded")
    assert event.changed["provider_id"] == live.provider_id is not None
    assert event.changed["user_id"] == live.user_id and event.changed["amr"] == ["pwd"]


def test_nobody_of_another_tenant_is_asked_about(acme: Stage, globex: Stage, ad: Script) -> None:
    assert show(globex, "alice").status_code == 403
    assert ad.asked == []


@pytest.mark.parametrize(("name", "password"), [("alice", "wrong"), ("nobody", PASSWORD), ("alice", PASSWORD + " ")])
def test_whatever_is_wrong_is_told_the_same(acme: Stage, ad: Script, name: str, password: str) -> None:
    answer = show(acme, name, password)
    assert plain(answer) == plain(show(acme, "another", "and another"))
    assert answer.status_code == 403 and "User name or password is wrong" in text(answer)
    assert acme.sessions() == [] and acme.reasons() == []


@pytest.mark.parametrize(
    ("name", "password"),
    [("alice", ""), ("", PASSWORD), ("", ""), ("a\x00lice", PASSWORD), ("alice", "x" * 1_025)],
)
def test_what_cannot_be_a_name_or_a_password_is_put_to_no_directory(
    acme: Stage, ad: Script, name: str, password: str
) -> None:
    assert show(acme, name, password).status_code in (303, 403)
    assert ad.asked == [] and acme.sessions() == []


@pytest.mark.parametrize("code", sorted(PASSWORD_REFUSALS - {"account_locked"}))
def test_who_knows_the_password_is_told_why_he_may_not(acme: Stage, ad: Script, code: str) -> None:
    ad.says["alice"] = code
    browser = acme.browser()
    page = fresh(acme, browser)
    answer = browser.submit(page, username="alice", password=PASSWORD)
    assert answer.status_code == 403 and TITLES[code] in text(answer)
    assert acme.live(browser) is None and acme.sessions() == []
    (event,) = acme.events("sign_in.refused")
    assert event.changed["reason"] == code and event.changed["detail"].startswith("alice: ")
    assert event.resource_type == "IdentityProvider"
    back = re.search(r'href="([^"]*sign-in[^"]*)"', text(answer))
    assert back and 'name="password"' in text(browser.get(back[1]))
    assert show(acme, "bob").status_code == 303, "his twin may"


def test_that_an_account_is_locked_is_told_where_it_was_signed_in_to_and_nowhere_else(acme: Stage, ad: Script) -> None:
    known, bobs, stranger = acme.browser(), acme.browser(), acme.browser()
    assert show(acme, "alice", browser=known).status_code == show(acme, "bob", browser=bobs).status_code == 303
    wrong = plain(show(acme, "alice", "wrong"))
    ad.says["alice"] = "account_locked"
    for browser in (stranger, bobs):
        allow_more(acme)
        for password in (PASSWORD, "wrong"):
            answer = show(acme, "alice", password, browser=browser)
            assert plain(answer) == wrong
            page = browser.get(browser.sent[-2].request.path + "?" + browser.sent[-2].request.query_string.decode())
            assert "locked" not in text(page), "nor is it told later"
    assert acme.reasons() == ["account_locked"] * 4
    told = show(acme, "alice", browser=known)
    assert told.status_code == 403 and TITLES["account_locked"] in text(told)


def test_a_refusal_that_is_nothing_to_be_told_is_a_wrong_password(acme: Stage, ad: Script) -> None:
    wrong = plain(show(acme, "alice", "wrong"))
    ad.says["alice"] = Refused("The directory will not.", "unwillingToPerform")
    assert plain(show(acme, "alice")) == wrong


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [(Unreachable("silence"), 503, "upstream_unavailable"), (Misconfigured("who?"), 502, "upstream_misconfigured")],
)
def test_a_directory_that_says_nothing_counts_nothing_against_who_has_a_password_there(
    acme: Stage, ad: Script, error: Exception, status: int, reason: str
) -> None:
    ad.fails = error
    for _ in range(passwords.FREE_FAILURES):
        answer = show(acme, "alice", "wrong")
        assert answer.status_code == status and "Acme AD" in text(answer)
    assert set(acme.reasons()) == {reason}
    assert show(acme, "alice", "wrong").status_code == show(acme, "alice").status_code == 429, "it is none of ours"
    ad.fails = None
    assert show(acme, "alice").status_code == 303


def test_an_account_of_several_names_is_tried_at_the_directory_as_often_as_one(acme: Stage, ad: Script) -> None:
    names = ["alice", "alice@acme.example", "a.lice@mail.example", "\u00e1lice"]
    ad.keys = dict.fromkeys(names, "alice")
    wrong = plain(show(acme, "nobody", "wrong"))
    for name in names * 2:
        assert plain(show(acme, name, "wrong")) == wrong
    assert ad.passed_on == ["nobody"] + ["alice"] * FAILURES_ELSEWHERE
    assert plain(show(acme, "a.lice@mail.example")) == wrong
    assert show(acme, "bob").status_code == 303


def test_a_few_wrong_passwords_and_the_directory_is_asked_no_more_for_a_while(acme: Stage, ad: Script) -> None:
    known = acme.browser()
    assert show(acme, "alice", browser=known).status_code == 303
    for _ in range(FAILURES_ELSEWHERE):
        assert show(acme, "alice", "wrong").status_code == 403
    asked = len(ad.asked)
    resting = show(acme, "alice")
    assert resting.status_code == 429 and "Too many attempts" in text(resting)
    assert 60 < int(resting.headers["Retry-After"]) <= passwords.REST_ELSEWHERE.total_seconds()
    assert show(acme, " ALICE", "wrong").status_code == 429 and len(ad.asked) == asked
    assert show(acme, "bob").status_code == 303, "nobody else rests"
    assert show(acme, "alice", browser=known).status_code == 303, "nor a browser in which she signed in"
    with acme.unit() as session:
        session.execute(sa.update(Attempt).values(window_ends=sa.func.now(), blocked_until=None))
    assert show(acme, "alice").status_code == 303


def test_the_rest_begins_anew_with_each_failure_as_it_does_at_the_directory(acme: Stage, ad: Script) -> None:
    for _ in range(FAILURES_ELSEWHERE - 1):
        assert show(acme, "alice", "wrong").status_code == 403
        with acme.unit() as session:
            almost = passwords.REST_ELSEWHERE - timedelta(seconds=30)
            session.execute(sa.update(Attempt).values(window_ends=Attempt.window_ends - almost))
    assert show(acme, "alice", "wrong").status_code == 403
    rest = show(acme, "alice")
    assert rest.status_code == 429 and int(rest.headers["Retry-After"]) > 800
    assert len(ad.asked) == FAILURES_ELSEWHERE


def test_the_right_password_forgets_the_wrong_ones(acme: Stage, ad: Script) -> None:
    for _ in range(3):
        assert show(acme, "alice", "wrong").status_code == 403
        assert show(acme, "alice").status_code == 303
    ad.says["bob"] = "password_expired"
    for _ in range(passwords.FREE_FAILURES + 1):
        assert TITLES["password_expired"] in text(show(acme, "bob")), "nor is it a wrong one"


def test_our_own_delays_come_before_anybody_is_asked(acme: Stage, ad: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "FAILURES_A_MINUTE", 2)
    answers = [show(acme, f"name{number}", "wrong").status_code for number in range(4)]
    assert answers == [403, 403, 429, 429] and ad.asked == ["name0", "name1"]


def test_a_password_of_ours_is_tried_first_and_the_directory_is_not_told_it(acme: Stage, ad: Script) -> None:
    carol = acme.user("carol")
    acme.password(carol, OURS)
    browser = acme.browser()
    ad.fails = Unreachable("silence")
    assert show(acme, "carol", OURS, browser=browser).status_code == 303
    live = acme.live(browser)
    assert live is not None and (live.user_id, live.provider_id) == (carol, None) and ad.asked == []
    ad.fails = None
    assert show(acme, "carol", "wrong").status_code == 403 and ad.asked == ["carol"], "it may know another of that name"


def test_people_of_a_directory_for_signing_in_have_no_password_of_ours(acme: Stage, scripts: Scripts) -> None:
    provider_id = scripts.provider(acme, Script(), sign_in=False)
    read(acme, provider_id, person("alice"))
    with acme.unit() as session:
        alice = session.scalars(sa.select(User.id).where(User.name == "alice")).one()
    acme.password(alice, OURS)
    assert show(acme, "alice", OURS).status_code == 303
    acme.change_provider(provider_id, sign_in=True)
    assert show(acme, "alice", OURS).status_code == 403
    acme.change_provider(provider_id, sign_in=False)
    assert show(acme, "alice", OURS).status_code == 303
    assert scripts["Acme AD"].asked == ["alice"]


def test_who_was_never_read_is_not_known_and_one_out_of_reach_neither(acme: Stage, ad: Script) -> None:
    ad.passwords["carol"] = PASSWORD
    answer = show(acme, "carol")
    assert answer.status_code == 403 and "You are not known here" in text(answer)
    with acme.unit() as session:
        session.execute(sa.text("UPDATE links SET gone_at = now() WHERE tenant_id = :t"), {"t": acme.scope.tenant_id})
    assert "You are not known here" in text(show(acme, "alice"))
    assert acme.reasons() == ["not_known", "not_known"] and acme.sessions() == []
    with acme.unit() as session:
        assert sorted(session.scalars(sa.select(User.name))) == ["alice", "bob"]


def test_whom_the_directory_disables_is_out_though_his_removal_is_held(acme: Stage, scripts: Scripts) -> None:
    provider_id = scripts.provider(acme)
    read(acme, provider_id, person("alice"))
    read(acme, provider_id, person("alice", active=False))
    with acme.unit() as session:
        assert session.scalars(sa.select(User.active)).one(), "he is not disabled here yet"
    answer = show(acme, "alice")
    assert answer.status_code == 403 and "Your account is disabled" in text(answer)
    assert acme.reasons() == ["user_disabled"]


def test_a_record_becomes_a_person_at_his_first_sign_in_as_a_run_would_make_him(acme: Stage, scripts: Scripts) -> None:
    said = person("carol", title="Astronaut", manager=dn("alice"))
    script = Telling({"alice": PASSWORD, "carol": PASSWORD, "dan": PASSWORD, "eve": PASSWORD}, tells=[said])
    provider_id = scripts.provider(acme, script, jit={"enabled": True})
    read(acme, provider_id, person("alice"))
    browser = acme.browser()
    assert show(acme, "carol", browser=browser).status_code == 303
    with acme.unit() as session:
        carol = session.scalars(sa.select(User).where(User.name == "carol")).one()
        first = carol.id, carol.version, carol.document
        assert b"Astronaut" in carol.document and carol.manager_id is not None
        link = session.scalars(sa.select(Link).where(Link.resource_id == carol.id)).one()
        assert link.ref == said.ref and link.key == said.key
    live = acme.live(browser)
    assert live is not None and live.user_id == first[0]
    events = len(acme.events("user.created"))
    assert show(acme, "carol").status_code == 303
    read(acme, provider_id, said)
    with acme.unit() as session:
        carol = session.scalars(sa.select(User).where(User.name == "carol")).one()
        assert (carol.id, carol.version, carol.document) == first and len(acme.events("user.created")) == events
    assert "You are not known here" in text(show(acme, "dan")), "who is out of what is read stays out"
    script.tells.append(Unreadable("1", "no_name", "It has none.", ref="cn=eve"))
    assert "You are not known here" in text(show(acme, "eve"))


def test_a_newcomer_whose_name_is_taken_takes_nobodys_place(acme: Stage, scripts: Scripts) -> None:
    carol = acme.user("carol")
    script = Telling({"carol": PASSWORD}, tells=[person("carol")])
    scripts.provider(acme, script, jit={"enabled": True})
    for _ in range(2):
        assert show(acme, "carol").status_code == 403
    assert acme.reasons() == ["user_name_taken"] * 2
    with acme.unit() as session:
        assert session.scalars(sa.select(User.id)).all() == [carol]


def test_switching_the_directory_off_ends_what_it_opened(acme: Stage, ad: Script, scripts: Scripts) -> None:
    browser = acme.browser()
    assert show(acme, "alice", browser=browser).status_code == 303
    live = acme.live(browser)
    assert live is not None and live.provider_id is not None
    acme.change_provider(live.provider_id, sign_in=False)
    assert acme.live(browser) is not None, "no way in any more, but who came in stays"
    asked = len(ad.asked)
    assert show(acme, "alice", browser=acme.browser()).status_code == 403 and len(ad.asked) == asked
    acme.change_provider(live.provider_id, sign_in=True, enabled=False)
    assert acme.live(browser) is None
    assert show(acme, "alice", browser=acme.browser()).status_code == 403 and len(ad.asked) == asked


@pytest.mark.parametrize(
    ("change", "reason"), [({"enabled": False}, "provider_disabled"), ({"name": "Other"}, "upstream_refused")]
)
def test_a_directory_changed_while_it_is_asked_lets_nobody_in(
    acme: Stage, ad: Script, change: dict[str, Any], reason: str
) -> None:
    with acme.unit() as session:
        provider_id = session.scalars(sa.select(Link.provider_id).limit(1)).one()
    ad.meanwhile = lambda: acme.change_provider(provider_id, **change)
    assert show(acme, "alice").status_code == 403
    assert acme.reasons() == [reason] and acme.sessions() == []


def test_no_transaction_is_open_while_a_directory_is_asked(acme: Stage, scripts: Scripts) -> None:
    busy: list[int] = []
    script = Telling({"carol": PASSWORD}, tells=[person("carol")])
    script.meanwhile = lambda: busy.append(sum(engine.pool.checkedout() for engine in db.engines.values()))  # type: ignore[attr-defined]
    scripts.provider(acme, script, jit={"enabled": True})
    assert show(acme, "carol").status_code == 303
    assert busy == [0, 0]


@contextmanager
def every_statement(stage: Stage) -> Iterator[list[str]]:
    """The parameters of what is sent to the database."""
    sent: list[str] = []

    def keep(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append(repr(parameters))

    with stage.app.app_context():
        engines = list(db.engines.values())
    for engine in engines:
        sa.event.listen(engine, "before_cursor_execute", keep)
    try:
        yield sent
    finally:
        for engine in engines:
            sa.event.remove(engine, "before_cursor_execute", keep)


def test_the_password_is_kept_nowhere(acme: Stage, ad: Script, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("broker").debug("what is logged is seen here")
    secret = PASSWORD + " kept nowhere"
    ad.passwords |= {"alice": secret, "carol": secret}
    with every_statement(acme) as sent:
        for name in ("alice", "carol"):
            show(acme, name, secret)
        for said in ("account_disabled", Unreachable("silence"), Misconfigured("who?")):
            ad.says["bob"] = said
            show(acme, "bob", secret)
        show(acme, "nobody", secret)
    assert len(ad.asked) == 6
    assert any("alice" in parameters for parameters in sent)
    assert not any("kept nowhere" in parameters for parameters in sent)
    assert "is seen here" in caplog.text and "kept nowhere" not in caplog.text
    with acme.app.app_context(), platform_scope() as session:
        tables = session.scalars(
            sa.text("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        ).all()
        assert {"events", "attempts", "sign_in_flows", "sessions", "passwords"} <= set(tables)
        for table in tables:
            found = session.execute(sa.text(f"SELECT 1 FROM {table} t WHERE t::text LIKE '%kept nowhere%' LIMIT 1"))
            assert found.first() is None, table
        kept = sa.text("SELECT 1 FROM passwords WHERE tenant_id = :t")
        assert session.execute(kept, {"t": acme.scope.tenant_id}).first() is None


# Which way: the directory's domains, whether there is an upstream that people leave for, what is typed, what comes.
WAYS: list[tuple[list[str], bool, str, str]] = [
    ([], False, "", "password"),
    ([], False, "alice", "password"),
    (["home"], False, "", "password"),
    (["home"], False, "alice@home", "password"),
    ([], True, "", "name"),
    (["home"], True, "alice@home", "password"),
    (["home"], True, "alice@away", "leave"),
    (["home"], True, "alice", "password"),
]


@pytest.mark.parametrize(("domains", "both", "typed", "comes"), WAYS)
def test_an_address_leads_to_the_directory_or_away(
    acme: Stage, scripts: Scripts, domains: list[str], both: bool, typed: str, comes: str
) -> None:
    def full(name: str) -> str:
        return re.sub(r"\b(home|away)\b", rf"\1-{acme.slug}.example", name)

    for name in ("home", "away"):
        acme.domain(full(name))
    scripts.provider(acme, domains=[full(one) for one in domains])
    other = acme.provider("Away", domains=[full("away")], priority=1) if both else None
    hint = {"login_hint": full(typed)} if typed else {}
    _, step = acme.authorize(acme.browser(), acme.application(), **hint)
    if comes == "leave":
        assert step == Depart(other or "")
    else:
        assert isinstance(step, Choose) and step.ask_password == (comes == "password")
        assert [one.id for one in step.upstreams] == ([other] if other else [])


def test_directories_are_asked_by_rank_or_the_one_whose_address_it_is_or_that_was_named(
    acme: Stage, scripts: Scripts
) -> None:
    domain = f"{acme.slug}.example"
    acme.domain(domain)
    second = scripts.provider(acme, Script({"bob": PASSWORD, f"bob@{domain}": PASSWORD}), "Second", priority=20)
    first = scripts.provider(acme, Script(), "First", priority=10)
    acme.change_provider(second, domains=[domain])
    read(acme, second, person("bob"))

    def asked() -> dict[str, list[str]]:
        found = {name: list(script.asked) for name, script in scripts.items()}
        for script in scripts.values():
            script.asked.clear()
        return found

    assert show(acme, "bob").status_code == 303
    assert asked() == {"First": ["bob"], "Second": ["bob"]}
    assert show(acme, f"bob@{domain}").status_code == 303
    assert asked() == {"First": [], "Second": [f"bob@{domain}"]}
    browser = acme.browser()
    page = browser.get(location(browser.get(f"/t/{acme.slug}/sign-in?provider={first}")))
    assert 'name="password"' in text(page)
    assert browser.submit(page, username="bob", password=PASSWORD).status_code == 403
    assert asked() == {"First": ["bob"], "Second": []}


def test_the_password_of_who_signs_in_elsewhere_is_put_to_no_directory(acme: Stage, scripts: Scripts) -> None:
    domain = f"{acme.slug}.example"
    acme.domain(domain)
    away = acme.provider("Away", domains=[domain])
    script = Script({f"alice@{domain}": PASSWORD})
    scripts.provider(acme, script)
    browser = acme.browser()
    flow_id, step = acme.authorize(browser, acme.application(), login_hint=f"alice@{domain}")
    assert step == Depart(away)
    browser.get(f"/t/{acme.slug}/sign-in?flow={flow_id}")
    page = browser.get(f"/t/{acme.slug}/sign-in?flow={flow_id}")
    assert 'name="password"' in text(page), "whoever comes back is asked"
    assert browser.submit(page, username=f"alice@{domain}", password=PASSWORD).status_code == 403
    assert script.asked == []


def test_one_that_is_silent_hides_neither_a_yes_nor_a_no_of_the_next(acme: Stage, scripts: Scripts) -> None:
    scripts.provider(acme, Script(fails=Unreachable("silence")), "First", priority=1)
    second = scripts.provider(acme, Script({"bob": PASSWORD}), "Second", priority=2)
    read(acme, second, person("bob"))
    assert show(acme, "bob").status_code == 303
    for _ in range(FAILURES_ELSEWHERE):
        assert show(acme, "bob", "wrong").status_code == 503, "it could have been the first one's"
    assert show(acme, "bob").status_code == 429, "but it was counted"


def test_of_several_the_one_that_knows_the_password_speaks(acme: Stage, scripts: Scripts) -> None:
    scripts.provider(acme, Script(says={"bob": "account_locked", "eve": "account_locked"}), "First", priority=1)
    script = Script({"bob": PASSWORD}, says={"eve": "password_expired"})
    second = scripts.provider(acme, script, "Second", priority=2)
    read(acme, second, person("bob"))
    assert show(acme, "bob").status_code == 303
    assert TITLES["password_expired"] in text(show(acme, "eve"))
    assert acme.reasons() == ["password_expired"]


def test_a_silent_directory_keeps_nobody_of_another_tenant_waiting(
    acme: Stage, globex: Stage, scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TURNS": 2, "OF_A_TENANT": 1, "QUEUED": 1, "QUEUE": 0.2}.items():
        monkeypatch.setattr(patience, name, value)
    go_on = threading.Event()
    mute = Script(fails=Unreachable("silence"), meanwhile=lambda: go_on.wait(20))
    provider_id = scripts.provider(acme, mute)
    read(globex, scripts.provider(globex, name="Globex AD"), person("alice"))
    with ThreadPoolExecutor(6) as threads:
        arriving = [threads.submit(show, acme, f"name{number}", "x") for number in range(5)]
        try:
            deadline = time.monotonic() + 10
            while sum(not one.done() for one in arriving) > 1 and time.monotonic() < deadline:
                time.sleep(0.02)
            assert sum(not one.done() for one in arriving) == 1 and len(mute.asked) == 1
            began = time.monotonic()
            assert show(globex, "alice").status_code == 303
            assert time.monotonic() - began < 5
        finally:
            go_on.set()
    assert [one.result().status_code for one in arriving] == [503] * 5
    assert show(acme, "alice").status_code == 503 and len(mute.asked) == 1, "it is not asked again for a moment"
    mute.fails = None
    monkeypatch.setattr(patience, "REMEMBERED", 0.0)
    acme.change_provider(provider_id, priority=3)
    assert show(acme, "alice").status_code == 403 and len(mute.asked) == 2, "unless it was changed"


def test_the_platforms_page_leaves_an_organisation_with_a_directory_to_its_own_page(
    acme: Stage, ad: Script, platform: Scope
) -> None:
    browser = acme.browser()
    answer = browser.submit(browser.get("/sign-in"), username=acme.slug)
    assert location(answer).startswith(f"/t/{acme.slug}/sign-in?flow=")
    page = browser.get(location(answer))
    assert browser.submit(page, username="alice", password=PASSWORD).status_code == 303
