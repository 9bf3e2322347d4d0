"""Sessions hold while everything they hang on does, in the one browser whose cookie they are, and end with what came
of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from broker import endings, ids
from broker.db import platform_scope
from broker.models import Grant, IdentityProvider, Session, SettingValue, Tenant
from broker.sign_in import browser as cookies
from broker.sign_in import sessions
from broker.sign_in.flow import Choose, Done
from tests.broker.sign_in.stage import Browser, Stage


@pytest.fixture
def signed_in(acme: Stage) -> Browser:
    acme.provider()
    browser = acme.browser()
    assert acme.signed_in(browser).status_code == 303
    assert acme.live(browser) is not None
    return browser


def grant(stage: Stage, *scopes: str) -> str:
    """One of the newest session, for an application of its own."""
    application_id, session_of = stage.application(), stage.sessions()[-1]
    id = f"gnt_{application_id[4:]}"
    now = datetime.now(UTC)
    with stage.unit() as session:
        session.add(
            Grant(
                id=id,
                user_id=session_of.user_id,
                application_id=application_id,
                session_id=session_of.id,
                issuer="tenant",
                scopes=list(scopes),
                audience="wiki",
                auth_time=now,
                amr=[],
                expires_at=now + timedelta(hours=1),
            )
        )
    return id


def grants(stage: Stage) -> dict[str, tuple[bool, str]]:
    """Grant → whether it lives, and its session."""
    with stage.unit() as session:
        return {one.id: (one.ended_at is None, one.session_id) for one in session.query(Grant)}


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(acme: Stage) -> None:
    acme.provider()
    answer = acme.signed_in(acme.browser())
    [cookie] = [one for one in answer.headers.getlist("Set-Cookie") if one.startswith(f"sk-{acme.slug}=")]
    value, *flags = cookie.split("; ")
    assert set(flags) == {"HttpOnly", "Path=/", "SameSite=Lax"}
    with acme.unit() as session:
        assert value.partition("=")[2].encode() not in session.query(Session).one().digest


def test_on_https_the_cookie_is_bound_to_the_host(acme: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cookies, "_https", lambda: True)
    acme.provider()
    answer = acme.signed_in(acme.browser())
    [cookie] = [one for one in answer.headers.getlist("Set-Cookie") if one.startswith("__Host-sk-")]
    assert cookie.startswith(f"__Host-sk-{acme.slug}=")
    assert set(cookie.split("; ")[1:]) == {"Secure", "HttpOnly", "Path=/", "SameSite=Lax"}


def test_a_cookie_that_a_browser_brings_is_never_adopted(acme: Stage) -> None:
    acme.provider()
    victim = acme.browser()
    planted = "a" * 43
    victim.client.set_cookie(f"sk-{acme.slug}", planted)
    assert acme.live(victim) is None
    acme.signed_in(victim)
    assert victim.cookie(f"sk-{acme.slug}") != planted
    attacker = acme.browser()
    attacker.client.set_cookie(f"sk-{acme.slug}", planted)
    assert acme.live(attacker) is None


def test_an_attackers_session_planted_in_a_browser_never_becomes_its_owners(acme: Stage) -> None:
    provider_id = acme.provider()
    attacker, victim = acme.browser(), acme.browser()
    acme.signed_in(attacker, "mallory")
    victim.client.set_cookie(f"sk-{acme.slug}", attacker.cookie(f"sk-{acme.slug}") or "")
    flow_id, _ = acme.authorize(victim, acme.application(), prompt=frozenset({"select_account"}))
    acme.through(victim, flow_id, provider_id)
    live = acme.live(victim)
    assert live is not None and live.user_name == "Alice"
    assert acme.live(attacker) is None


def test_an_upstream_that_is_no_way_in_any_more_keeps_whom_it_let_in_and_a_disabled_one_does_not(acme: Stage) -> None:
    provider_id, browser = acme.provider(), acme.browser()
    acme.signed_in(browser)
    acme.change_provider(provider_id, sign_in=False)
    assert acme.live(browser) is not None
    assert isinstance(acme.authorize(browser, acme.application())[1], Done)
    _, step = acme.authorize(acme.browser(), acme.application(), provider=provider_id)
    assert step == Choose(None, (), ask_password=True)
    acme.change_provider(provider_id, enabled=False)
    assert acme.live(browser) is None


def test_each_sign_in_has_a_fresh_secret_and_the_one_before_opens_nothing(acme: Stage, signed_in: Browser) -> None:
    before = signed_in.cookie(f"sk-{acme.slug}")
    flow_id, _ = acme.authorize(signed_in, acme.application(), prompt=frozenset({"select_account"}))
    acme.through(signed_in, flow_id, acme.sessions()[0].provider_id or "")
    assert signed_in.cookie(f"sk-{acme.slug}") != before
    assert acme.live(signed_in) is not None and len(acme.sessions()) == 1
    stale = acme.browser()
    stale.client.set_cookie(f"sk-{acme.slug}", before or "")
    assert acme.live(stale) is None


def test_the_same_persons_session_goes_on_with_its_grants_and_anothers_ends(acme: Stage, signed_in: Browser) -> None:
    kept = grant(acme, "openid")
    before = acme.live(signed_in)
    assert before is not None

    def again(user_id: str) -> Session:
        with acme.app.test_request_context(), acme.unit() as session:
            began, _ = sessions.begin(user_id, provider_id=None, amr=["pwd"], replacing=before)
            session.expunge(began)
            return began

    same = again(before.user_id)
    assert (same.id, same.amr, same.provider_id, same.upstream) == (before.id, ["pwd"], None, None)
    assert same.auth_time > before.auth_time and grants(acme) == {kept: (True, before.id)}
    other = again(acme.user())
    assert other.id != before.id and grants(acme) == {kept: (False, before.id)}
    assert [one.end_reason for one in acme.sessions()] == ["replaced", None]
    revived = again(before.user_id)
    assert revived.id not in (before.id, other.id)


@pytest.mark.parametrize("everything", [False, True])
def test_ending_a_session_ends_what_lives_as_long_as_it(acme: Stage, signed_in: Browser, everything: bool) -> None:
    with_it, offline = grant(acme, "openid"), grant(acme, "openid", "offline_access")
    live = acme.live(signed_in)
    assert live is not None
    with acme.unit():
        assert endings.end_session(live.id, "signed_out", everything=everything)
    with acme.unit():
        assert not endings.end_session(live.id, "signed_out")
    assert {id for id, (lives, _) in grants(acme).items() if lives} == (set() if everything else {offline})
    ended = {event.resource_id for event in acme.events("grant.ended")}
    assert ended == ({with_it, offline} if everything else {with_it})
    [event] = acme.events("session.ended")
    assert event.changed == {"user_id": live.user_id, "reason": "signed_out"}
    assert acme.live(signed_in) is None


def _tenant(stage: Stage) -> None:
    with stage.app.app_context(), platform_scope() as session:
        session.get_one(Tenant, stage.scope.tenant_id).status = "suspended"


def _provider(stage: Stage) -> None:
    with stage.unit() as session:
        session.execute(sa.update(IdentityProvider).values(enabled=False))


def _columns(**values: Any) -> Callable[[Stage], None]:
    def change(stage: Stage) -> None:
        with stage.unit() as session:
            session.execute(sa.update(Session).values(**values))

    return change


ENDS: dict[str, Callable[[Stage], None]] = {
    "the person is disabled": lambda stage: stage.change_user(stage.sessions()[0].user_id, active=False),
    "the tenant is suspended": _tenant,
    "the provider is disabled": _provider,
    "its time is over": _columns(expires_at=datetime.now(UTC) - timedelta(seconds=1)),
    "it was idle": _columns(last_seen_at=datetime.now(UTC) - timedelta(minutes=31)),
    "it was ended": _columns(ended_at=datetime.now(UTC)),
}


@pytest.mark.parametrize("change", ENDS.values(), ids=ENDS)
def test_a_session_stops_at_the_next_request_when(
    acme: Stage, signed_in: Browser, change: Callable[[Stage], None]
) -> None:
    assert signed_in.get(f"/t/{acme.slug}/apps").status_code == 200
    change(acme)
    assert acme.live(signed_in) is None
    answer = signed_in.get(f"/t/{acme.slug}/apps")
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/t/{acme.slug}/sign-in")


@pytest.mark.parametrize(
    ("levels", "holds"),
    [
        ({"tenant": (3_600, False)}, True),
        ({"partner": (3_600, False)}, True),
        ({"partner": (3_600, False), "tenant": (900, False)}, False),
        ({"partner": (3_600, True), "tenant": (900, False)}, True),
        ({"partner": (900, True), "tenant": (3_600, False)}, False),
        ({"tenant": (900, True), "partner": (3_600, True)}, True),
    ],
)
def test_the_idle_limit_is_the_one_the_settings_resolve_to(
    acme: Stage, signed_in: Browser, levels: dict[str, tuple[int, bool]], holds: bool
) -> None:
    owners = {"tenant": acme.scope.tenant_id, "partner": acme.scope.partner_id}
    with acme.app.app_context(), platform_scope() as session:
        for level, (value, locked) in levels.items():
            session.add(SettingValue(owner_id=owners[level], name="session_idle_timeout", value=value, locked=locked))
    _columns(last_seen_at=datetime.now(UTC) - timedelta(minutes=31))(acme)
    assert (acme.live(signed_in) is not None) == holds


def test_the_last_use_is_noted_once_a_minute(acme: Stage, signed_in: Browser) -> None:
    recently = datetime.now(UTC) - timedelta(seconds=50)
    _columns(last_seen_at=recently)(acme)
    assert acme.live(signed_in) and acme.sessions()[0].last_seen_at == recently
    _columns(last_seen_at=datetime.now(UTC) - timedelta(seconds=70))(acme)
    assert acme.live(signed_in) and acme.sessions()[0].last_seen_at > recently


def test_a_session_of_one_tenant_is_none_at_another(acme: Stage, globex: Stage, signed_in: Browser) -> None:
    signed_in.client.set_cookie(f"sk-{globex.slug}", signed_in.cookie(f"sk-{acme.slug}") or "")
    assert globex.live(signed_in) is None
    assert signed_in.get(f"/t/{globex.slug}/apps").status_code == 303


def test_the_platform_takes_the_one_session_there_is(acme: Stage, globex: Stage, signed_in: Browser) -> None:
    def of_browser() -> str | None:
        with acme._as(signed_in):
            live = sessions.of_browser()
            return live.scope.slug if live else None

    assert of_browser() == acme.slug
    signed_in.client.set_cookie("sk-nobody", "x" * 43)
    assert of_browser() == acme.slug
    globex.provider()
    globex.signed_in(signed_in)
    assert of_browser() is None


def test_what_signing_out_upstream_needs_opens_in_its_own_row_only(acme: Stage, signed_in: Browser) -> None:
    acme.signed_in(acme.browser(), "bob")
    first, second = acme.sessions()
    with acme.app.app_context():
        kept = sessions.upstream_of(first)
        assert kept is not None and sessions.unpacked(kept["memo"])
        second.upstream = first.upstream
        with pytest.raises(Exception, match="another place"):
            sessions.upstream_of(second)
    assert ids.is_id(first.id, "ses")
