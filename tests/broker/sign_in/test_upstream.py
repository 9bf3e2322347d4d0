"""The round trip to an upstream: one answer, from the browser that left, to the provider it left for, once."""

from __future__ import annotations

from tests.broker.sign_in.stage import Stage, location


def test_a_person_signs_in_at_the_upstream_and_reaches_the_launcher(acme: Stage) -> None:
    acme.provider()
    browser = acme.browser()
    answer = acme.signed_in(browser)
    assert (answer.status_code, location(answer)) == (303, f"/t/{acme.slug}/apps")
    assert browser.get(location(answer)).status_code == 200
    (session,) = acme.sessions()
    assert session.ended_at is None and session.upstream
    (event,) = acme.events("sign_in.succeeded")
    assert event.changed["user_id"] == session.user_id
