"""What an administrator is told about a provider that does not work: the step that fails, and its mend."""

from __future__ import annotations

import json
import socket
from contextlib import closing
from typing import Any

import pytest

from connectors.egress import Egress
from connectors.http import HttpClient
from connectors.openid import connect
from connectors.port import Step
from tests.connectors.openid.signing_in import CALLBACK, Change, config
from tests.issuer import SECRET, Issuer, rsa_key

ALL = ["connection", "discovery", "abilities", "keys", "client", "redirect_uri"]


def steps(issuer: Issuer, http: HttpClient, **settings: Any) -> list[Step]:
    return list(connect(config(issuer, **settings), http, callback=CALLBACK).steps())


def test_a_provider_that_works_passes_every_step(issuer: Issuer, http: HttpClient) -> None:
    told = steps(issuer, http)
    assert [step.name for step in told] == ALL
    assert all(step.ok for step in told)
    assert CALLBACK in told[-1].found


@pytest.mark.parametrize(
    ("said", "settings", "failing"),
    [
        ({"issuer": "https://other.example"}, {}, "discovery"),
        ({"token_endpoint": None}, {}, "discovery"),
        ({"response_modes_supported": ["query"]}, {"response_mode": "form_post"}, "abilities"),
        ({"response_types_supported": ["id_token"]}, {}, "abilities"),
        ({"code_challenge_methods_supported": ["plain"]}, {}, "abilities"),
        ({"token_endpoint_auth_methods_supported": ["client_secret_post"]}, {}, "abilities"),
        ({"id_token_signing_alg_values_supported": ["HS256"]}, {}, "keys"),
        ({}, {"algorithms": ["EdDSA"]}, "keys"),
        ({}, {"client_secret": "wrong"}, "client"),
        (
            {},
            {"token_endpoint_auth_method": "private_key_jwt", "private_key": json.dumps(rsa_key("x").as_dict(True))},
            "client",
        ),
    ],
)
def test_the_step_that_fails_says_how_to_mend_it(
    issuer: Issuer, http: HttpClient, said: Change, settings: Change, failing: str
) -> None:
    issuer.said = said
    told = steps(issuer, http, **settings)
    assert [step.name for step in told if not step.ok] == [failing]
    assert all(step.mend for step in told if not step.ok)
    assert not any(SECRET in step.found + step.mend for step in told)
    issuer.said = {}
    assert all(step.ok for step in steps(issuer, http))


@pytest.mark.parametrize(
    ("last", "answer", "failing"),
    [
        ("openid-configuration", (404, {}, b""), "discovery"),
        ("openid-configuration", (500, {}, b""), "discovery"),
        ("openid-configuration", (301, {"Location": "https://moved.example/"}, b""), "discovery"),
        ("openid-configuration", (200, {}, b"<html>"), "discovery"),
        ("jwks", (404, {}, b""), "keys"),
        ("jwks", (200, {}, b"{}"), "keys"),
        ("token", (502, {}, b""), "client"),
    ],
)
def test_an_endpoint_that_does_not_answer_is_named(
    issuer: Issuer, http: HttpClient, last: str, answer: Any, failing: str
) -> None:
    issuer.answers[last] = answer
    told = steps(issuer, http)
    assert [step.name for step in told if not step.ok] == [failing]
    assert [step.name for step in told] == (ALL[:2] if failing == "discovery" else ALL)


def test_what_cannot_be_told_is_said_so(issuer: Issuer, http: HttpClient) -> None:
    issuer.answers["token"] = 400, {}, b'{"error": "invalid_request"}'
    client = next(step for step in steps(issuer, http) if step.name == "client")
    assert client.ok
    assert "does not say" in client.found


def test_nothing_follows_where_nobody_answers(issuer: Issuer, http: HttpClient) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as unused:
        port = unused.getsockname()[1]
    issuer.url = f"http://127.0.0.1:{port}"
    told = steps(issuer, http)
    assert [(step.name, step.ok) for step in told] == [("connection", False)]
    assert "certificate" in told[0].mend
    with closing(HttpClient(Egress())) as guarded:
        told = steps(issuer, guarded)
    assert [(step.name, step.ok) for step in told] == [("connection", False)]
    assert "operator" in told[0].mend


def test_nothing_is_taken_from_the_caches(issuer: Issuer, http: HttpClient) -> None:
    connector = connect(config(issuer), http)
    assert all(step.ok for step in connector.steps())
    issuer.published = []
    assert [step.name for step in connector.steps() if not step.ok] == ["keys"]
