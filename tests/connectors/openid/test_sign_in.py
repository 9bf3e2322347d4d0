"""Signing in at a real provider from PyPI and at a strict one of ours: what is sent, and the way out."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from joserfc.jwk import KeySet

from connectors import kinds
from connectors.http import HttpClient
from connectors.port import (
    Misconfigured,
    Refused,
    Reply,
    ReturnTo,
)
from tests.connectors.openid.signing_in import CALLBACK, sign_in, upstream
from tests.issuer import CLIENT, Issuer, ec_key, rsa_key


@pytest.fixture(scope="module")
def mock() -> Iterator[str]:
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    person = {
        "sub": "u-4711",
        "email": "alice@acme.example",
        "email_verified": True,
        "name": "Alice Ångström",
        "groups": ["sre", "staff"],
    }
    command = [sys.executable, "-m", "oidc_provider_mock", "--port", str(port), "--user-claims", json.dumps(person)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with socket.socket() as knock:
                if knock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def agree(url: str, subject: str) -> Reply:
    """The person chooses who to be on the mock's page."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.netloc, timeout=10)
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    connection.request("POST", f"{parts.path}?{parts.query}", urlencode({"sub": subject}), headers)
    location = urlsplit(connection.getresponse().headers["Location"])
    connection.close()
    return Reply("GET", parse_qs(location.query))


def test_a_person_signs_in_at_a_provider_from_pypi(mock: str, http: HttpClient) -> None:
    given = {"issuer": mock, "client_id": "c", "client_secret": "s", "groups_claim": "groups"}
    connector = kinds.sign_in("oidc", kinds.config_from("oidc", given), http)
    assert connector is not None
    departure = connector.begin_sign_in(ReturnTo(CALLBACK, "our-state"))
    reply = agree(departure.url, "u-4711")
    assert reply.one("state") == "our-state"
    identity = connector.finish_sign_in(departure.memo, reply)
    assert identity.key == f"{mock} u-4711"
    assert identity.attributes["name"] == ("Alice Ångström",)
    assert identity.groups == {"sre", "staff"}
    assert identity.verified_emails == {"alice@acme.example"}
    assert identity.name == "Alice Ångström"
    with pytest.raises(Refused):
        connector.finish_sign_in(departure.memo, reply)


def test_a_provider_from_pypi_is_found_in_order(mock: str, http: HttpClient) -> None:
    settings = kinds.config_from("oidc", {"issuer": mock, "client_id": "c", "client_secret": "s"})
    diagnose = kinds.diagnose("oidc", settings, http, callback=CALLBACK)
    assert diagnose is not None
    steps = list(diagnose.steps())
    assert [step.name for step in steps] == ["connection", "discovery", "abilities", "keys", "client", "redirect_uri"]
    assert all(step.ok for step in steps)


def test_the_request_is_bound_to_this_sign_in(issuer: Issuer, http: HttpClient) -> None:
    connector = upstream(issuer, http, parameters={"acr_values": "gold & silver"}, prompt="select_account")
    first, second = (connector.begin_sign_in(ReturnTo(CALLBACK, "s+t/a t&e", login_hint="a@b")) for _ in range(2))
    sent = parse_qs(urlsplit(first.url).query)
    assert {name: values[0] for name, values in sent.items() if name not in ("nonce", "code_challenge")} == {
        "tenant": "acme",
        "response_type": "code",
        "client_id": CLIENT,
        "redirect_uri": CALLBACK,
        "scope": "openid profile email",
        "state": "s+t/a t&e",
        "acr_values": "gold & silver",
        "prompt": "select_account",
        "login_hint": "a@b",
        "code_challenge_method": "S256",
        "response_mode": "query",
    }
    assert all(len(values) == 1 for values in sent.values())
    again = parse_qs(urlsplit(second.url).query)
    assert sent["nonce"] != again["nonce"]
    assert sent["code_challenge"] != again["code_challenge"]
    verifier = json.loads(first.memo)["verifier"]
    assert len(verifier) >= 43
    assert verifier not in first.url


def test_hints_of_the_flow_go_before_the_settings(issuer: Issuer, http: HttpClient) -> None:
    connector = upstream(issuer, http, prompt="select_account", response_mode="form_post")
    sent = parse_qs(urlsplit(connector.begin_sign_in(ReturnTo(CALLBACK, "s", prompt="none", max_age=60)).url).query)
    assert (sent["prompt"], sent["max_age"], sent["response_mode"]) == (["none"], ["60"], ["form_post"])
    sent = parse_qs(urlsplit(connector.begin_sign_in(ReturnTo(CALLBACK, "s", fresh=True)).url).query)
    assert (sent["prompt"], sent["max_age"]) == (["login"], ["0"])


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_the_client_proves_itself_by_its_secret(issuer: Issuer, http: HttpClient, method: str) -> None:
    assert sign_in(upstream(issuer, http, token_endpoint_auth_method=method)).key == f"{issuer.url} alice"
    assert ("client_secret" in issuer.posted[0]) == (method == "client_secret_post")
    with pytest.raises(Misconfigured, match="invalid_client"):
        sign_in(upstream(issuer, http, token_endpoint_auth_method=method, client_secret="wrong"))


@pytest.mark.parametrize("form", ["pem", "jwk"])
@pytest.mark.parametrize("key", [rsa_key("ours"), ec_key("ours")], ids=["rsa", "ec"])
def test_the_client_proves_itself_by_its_key(issuer: Issuer, http: HttpClient, key: Any, form: str) -> None:
    text = key.as_pem(private=True).decode() if form == "pem" else json.dumps(key.as_dict(private=True))
    public = key.as_dict(private=False)
    public["kid"] = public["kid"] if form == "jwk" else key.thumbprint()
    issuer.client_keys = KeySet.import_key_set({"keys": [public]})
    connector = upstream(issuer, http, token_endpoint_auth_method="private_key_jwt", private_key=text)
    assert sign_in(connector).key == f"{issuer.url} alice"
    assert "client_secret" not in issuer.posted[0]
    connector = upstream(
        issuer,
        http,
        token_endpoint_auth_method="private_key_jwt",
        private_key=text,
        assertion_audience="token_endpoint",
    )
    with pytest.raises(Misconfigured, match="invalid_client"):
        sign_in(connector)


def test_a_public_client_has_pkce_alone(issuer: Issuer, http: HttpClient) -> None:
    connector = upstream(issuer, http, token_endpoint_auth_method="none", client_secret="")
    with pytest.raises(Misconfigured):
        sign_in(connector)
    assert set(issuer.posted[0]) == {"grant_type", "code", "redirect_uri", "code_verifier", "client_id"}


def test_the_upstreams_session_is_ended_too(issuer: Issuer, http: HttpClient) -> None:
    connector = upstream(issuer, http)
    memo = sign_in(connector).sign_out_memo
    assert memo is not None
    departure = connector.begin_sign_out(memo, ReturnTo("https://broker.example/out", "st"))
    assert departure is not None
    assert departure.url.startswith(f"{issuer.url}/logout?")
    assert parse_qs(urlsplit(departure.url).query) == {
        "id_token_hint": [memo.decode()],
        "client_id": [CLIENT],
        "post_logout_redirect_uri": ["https://broker.example/out"],
        "state": ["st"],
    }
    long = connector.begin_sign_out(b"x" * 5000, ReturnTo("https://broker.example/out", "st"))
    assert long is not None and long.form is not None
    assert (long.url, long.form["id_token_hint"]) == (f"{issuer.url}/logout", "x" * 5000)
    issuer.said = {"end_session_endpoint": None}
    assert upstream(issuer, http).begin_sign_out(memo, ReturnTo("https://broker.example/out", "st")) is None
