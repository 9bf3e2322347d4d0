"""Sessions over the API: one's own, an administrator's view of others', and an end that is one everywhere."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from broker import access, ids
from broker.context import Grant as Grants
from broker.models import Grant, Session
from tests.broker.sign_in.stage import Browser, Stage
from tests.casting import Caller, Cast, code, give_role, make_token


@pytest.fixture
def browser(acme: Stage) -> Browser:
    acme.provider()
    browser = acme.browser()
    assert acme.signed_in(browser).status_code == 303
    return browser


@pytest.fixture
def alice(acme: Stage, cast: Cast, browser: Browser) -> Caller:
    """Who is signed in, with a token of her own."""
    user_id = acme.sessions()[0].user_id
    with acme.app.app_context():
        return Caller(cast.client, user_id, make_token(acme.scope, user_id))


def items(caller: Caller, **query: str) -> list[dict[str, Any]]:
    answer = caller.get("/sessions", query_string=query)
    assert answer.status_code == 200, answer.get_json()
    found: list[dict[str, Any]] = answer.get_json()["items"]
    return found


def grant(stage: Stage, *scopes: str) -> tuple[str, str]:
    """Of the only session; its id and its application."""
    application_id, of = stage.application(), stage.sessions()[0]
    now = datetime.now(UTC)
    with stage.unit() as session:
        made = Grant(
            id=f"gnt_{application_id[4:]}",
            user_id=of.user_id,
            application_id=application_id,
            session_id=of.id,
            issuer="tenant",
            scopes=list(scopes),
            audience="wiki",
            auth_time=now,
            amr=[],
            expires_at=now + timedelta(hours=1),
        )
        session.add(made)
        return made.id, application_id


def test_a_person_sees_and_ends_his_own_session(acme: Stage, browser: Browser, alice: Caller) -> None:
    first, application_id = grant(acme, "openid", "offline_access")
    [shown] = items(alice)
    assert shown["user_id"] == alice.user_id and shown["applications"] == [application_id]
    assert set(shown) == {"id", "user_id", "amr", "applications", "last_seen_at", "created_at", "updated_at"}
    assert alice.get(f"/sessions/{shown['id']}").get_json() == shown
    assert alice.delete(f"/sessions/{shown['id']}").status_code == 204
    assert acme.live(browser) is None and items(alice) == []
    assert code(alice.get(f"/sessions/{shown['id']}")) == (404, "not_found")
    assert code(alice.delete(f"/sessions/{shown['id']}")) == (404, "not_found")
    with acme.unit() as session:
        assert session.get_one(Grant, (acme.scope.tenant_id, first)).ended_at is not None
    [event] = acme.events("session.ended")
    assert event.actor_id == alice.user_id and event.changed["reason"] == "ended_by_person"


def test_an_administrator_sees_and_ends_another_persons(
    acme: Stage, cast: Cast, browser: Browser, alice: Caller
) -> None:
    assert items(cast.acme_admin) == []
    [shown] = items(cast.acme_admin, user_id=alice.user_id)
    assert cast.acme_admin.delete(f"/sessions/{shown['id']}").status_code == 204
    assert acme.live(browser) is None
    assert acme.events("session.ended")[0].changed["reason"] == "ended_by_administrator"


def test_nobody_else_sees_or_ends_it(acme: Stage, cast: Cast, browser: Browser, alice: Caller) -> None:
    [shown] = items(alice)
    for caller in (cast.person, cast.globex_admin):
        listed = caller.get("/sessions", query_string={"user_id": alice.user_id})
        if listed.status_code == 200:
            assert listed.get_json()["items"] == []
        else:
            assert code(listed) == (404, "not_found")
        assert caller.get(f"/sessions/{shown['id']}").status_code == 404
        assert caller.delete(f"/sessions/{shown['id']}").status_code in (403, 404)
    assert acme.live(browser) is not None


def test_administrators_end_the_session_of_one_of_their_own(
    acme: Stage, cast: Cast, browser: Browser, alice: Caller
) -> None:
    with acme.app.app_context():
        give_role(acme.scope, alice.user_id, "tenant_admin", acme.scope.tenant_id)
    [shown] = items(cast.acme_admin, user_id=alice.user_id)
    assert cast.acme_admin.delete(f"/sessions/{shown['id']}").status_code == 204
    assert acme.live(browser) is None


def test_a_role_held_wider_than_the_askers_keeps_its_session(
    acme: Stage, cast: Cast, browser: Browser, alice: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    wider = frozenset({Grants("partner_admin", acme.scope.partner_id)})
    monkeypatch.setattr(access, "grants_of", lambda user_id: wider)
    [shown] = items(cast.acme_admin, user_id=alice.user_id)
    assert code(cast.acme_admin.delete(f"/sessions/{shown['id']}")) == (403, "access_denied")
    assert acme.live(browser) is not None


def test_a_read_only_token_ends_nothing(acme: Stage, cast: Cast, browser: Browser, alice: Caller) -> None:
    [shown] = items(alice)
    with acme.app.app_context():
        reading = Caller(cast.client, alice.user_id, make_token(acme.scope, alice.user_id, scopes=("scaikey:read",)))
    assert items(reading) == [shown]
    assert code(reading.delete(f"/sessions/{shown['id']}")) == (403, "access_denied")
    assert acme.live(browser) is not None


@pytest.mark.parametrize("past", ["expires_at", "last_seen_at", "ended_at"])
def test_what_no_longer_holds_is_not_listed(acme: Stage, alice: Caller, past: str) -> None:
    assert items(alice)
    with acme.unit() as session:
        session.execute(sa.update(Session).values({past: datetime.now(UTC) - timedelta(hours=13)}))
    assert items(alice) == []


def test_a_session_that_is_none_is_not_found(cast: Cast) -> None:
    for id in (ids.new("ses"), "nothing"):
        assert code(cast.acme_admin.get(f"/sessions/{id}")) == (404, "not_found")
