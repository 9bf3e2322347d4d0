"""How a target is shown who we are: tokens of a real token endpoint, got in time, renewed once, never told."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from joserfc.jwk import KeySet

from broker.db import unit
from broker.models import Event, ScimTarget
from tests.issuer import CLIENT, SECRET, Issuer, ec_key, running
from tests.receivers import Answer, Receiver, faulty_receiver
from tests.scim.test_push import Tenant, acme, drain, pushing

__all__ = ["acme", "pushing"]


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running() as made:
        yield made


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with faulty_receiver() as made:
        made.accepts.clear()
        yield made


def auth(issuer: Issuer, method: str = "client_secret_basic", **values: Any) -> dict[str, Any]:
    secret = {} if method == "private_key_jwt" else {"client_secret": SECRET}
    return {
        "method": "oauth2_client_credentials",
        "token_url": f"{issuer.url}/token",
        "client_id": CLIENT,
        "token_endpoint_auth_method": method,
        **secret,
        **values,
    }


def accepting(receiver: Receiver, issuer: Issuer) -> None:
    """The receiver takes every token the issuer gave."""
    real = issuer.redeem

    def redeem(form: Any, authorization: str | None) -> Any:
        answer = real(form, authorization)
        receiver.accepts.update(issuer.granted)
        return answer

    issuer.redeem = redeem  # type: ignore[method-assign]


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_one_token_serves_all_until_it_ends(acme: Tenant, receiver: Receiver, issuer: Issuer, method: str) -> None:
    accepting(receiver, issuer)
    acme.target(receiver, auth=auth(issuer, method, scope="scim", audience="https://wiki.example"))
    acme.users(12)
    drain()
    assert acme.deliveries() == [] and len(receiver.stored["Users"]) == 12
    [posted] = issuer.posted
    assert (posted["grant_type"], posted["scope"], posted["audience"]) == (
        "client_credentials",
        "scim",
        "https://wiki.example",
    )


@pytest.mark.parametrize("given", [None, ec_key("ours").as_pem(private=True).decode()])
def test_a_key_of_ours_signs_whether_made_or_given(
    acme: Tenant, receiver: Receiver, issuer: Issuer, given: str | None
) -> None:
    accepting(receiver, issuer)
    key = {} if given is None else {"private_key": given}
    target = acme.target(receiver, auth=auth(issuer, "private_key_jwt", assertion_audience=issuer.url, **key))
    with unit(acme.scope) as session:
        row = session.get_one(ScimTarget, (acme.scope.tenant_id, target))
        assert "d" not in row.auth["public_key"]
        issuer.client_keys = KeySet.import_key_set({"keys": [row.auth["public_key"]]})
    acme.user("alice")
    drain()
    assert acme.deliveries() == [] and len(issuer.granted) == 1


def test_a_refused_token_is_renewed_once_then_the_target_is_left_alone(
    acme: Tenant, receiver: Receiver, issuer: Issuer
) -> None:
    accepting(receiver, issuer)
    target = acme.target(receiver, auth=auth(issuer))
    acme.user("alice")
    drain()
    receiver.accepts.clear()
    acme.user("bob")
    drain()
    assert acme.deliveries() == [] and len(issuer.granted) <= 3
    issuer.redeem = type(issuer).redeem.__get__(issuer)  # type: ignore[method-assign]
    receiver.accepts.clear()
    before = len(issuer.granted)
    acme.user("carol")
    drain()
    assert len(issuer.granted) - before <= 2
    assert acme.delivery().status == "pending"
    with unit(acme.scope) as session:
        row = session.get_one(ScimTarget, (acme.scope.tenant_id, target))
        assert row.postponed_until is not None and "answered 401" in (row.status_reason or "")
    accepting(receiver, issuer)
    acme.wait_over()
    drain()
    assert acme.deliveries() == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((401, {}, b'{"error": "invalid_client"}'), "The token endpoint answered 401: invalid_client."),
        ((200, {}, b'{"access_token": "a b"}'), "without a usable access_token"),
        ((200, {}, b'{"access_token": "x", "token_type": "mac"}'), "no bearer token"),
        ((200, {}, b"<html>"), "without a usable access_token"),
        ((503, {"Retry-After": "9"}, b""), "The token endpoint answered 503"),
    ],
)
def test_a_token_endpoint_in_trouble_is_no_persons_fault(
    acme: Tenant, receiver: Receiver, issuer: Issuer, answer: Any, reason: str
) -> None:
    issuer.answers["token"] = answer
    target = acme.target(receiver, auth=auth(issuer))
    acme.user("alice")
    drain()
    assert acme.delivery().status == "pending" and receiver.asked == []
    with unit(acme.scope) as session:
        assert reason in (session.get_one(ScimTarget, (acme.scope.tenant_id, target)).status_reason or "")
    del issuer.answers["token"]
    accepting(receiver, issuer)
    acme.wait_over()
    drain()
    assert acme.deliveries() == []


def test_no_secret_and_no_token_is_told(
    acme: Tenant, receiver: Receiver, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    accepting(receiver, issuer)
    caplog.set_level(logging.DEBUG)
    acme.target(receiver, auth=auth(issuer, "client_secret_post"))
    receiver.fault(
        "POST", "/Users", lambda asked, act: Answer(400, {"detail": f"not with {issuer.granted[-1]}"}), times=9
    )
    acme.user("alice")
    drain()
    failed = acme.delivery()
    assert failed.problem == "POST /Users answered 400: not with ***"
    with unit(acme.scope) as session:
        told = str([*session.execute(sa.select(Event.changed)), *session.scalars(sa.select(ScimTarget.auth))])
    for secret in (SECRET, *issuer.granted):
        assert secret not in told and secret not in caplog.text
