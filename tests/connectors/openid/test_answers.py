"""Answers of the browser and of the endpoints that are not to be believed, each beside one that is."""

from __future__ import annotations

import json
import time
from contextlib import closing
from typing import Any

import pytest

from connectors import kinds
from connectors.egress import Egress
from connectors.http import HttpClient
from connectors.openid import connect
from connectors.port import (
    Misconfigured,
    Refused,
    Reply,
    ReturnTo,
    Unreachable,
)
from tests.connectors.openid.signing_in import CALLBACK, Change, sign_in, upstream
from tests.issuer import CLIENT, SECRET, Issuer, visit


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ({"iss": None}, "does not say which issuer"),
        ({"iss": "https://other.example"}, "another issuer"),
        ({"iss": ""}, "another issuer"),
        ({"iss": ["x", "y"]}, "more than once"),
        ({"code": None}, "no code"),
        ({"code": ""}, "no code"),
        ({"code": ["x", "y"]}, "more than once"),
        ({"code": "invented"}, "refused the code: invalid_grant"),
        ({"code": None, "error": "access_denied"}, "declined"),
        ({"error": "access_denied"}, "declined"),
        ({"code": None, "error": "odd\n<b>" + "x" * 500}, "refused: odd"),
    ],
)
def test_an_answer_that_is_not_the_one_asked_for_is_refused(
    issuer: Issuer, http: HttpClient, reply: Change, why: str
) -> None:
    issuer.reply = reply
    with pytest.raises(Refused, match=why) as caught:
        sign_in(upstream(issuer, http))
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)
    assert "invented" not in str(caught.value)


def test_who_does_not_announce_its_name_may_leave_it_out_but_not_change_it(issuer: Issuer, http: HttpClient) -> None:
    issuer.said, issuer.reply = {"authorization_response_iss_parameter_supported": None}, {"iss": None}
    assert sign_in(upstream(issuer, http)).key == f"{issuer.url} alice"
    issuer.reply = {"iss": "https://other.example"}
    with pytest.raises(Refused, match="another issuer"):
        sign_in(upstream(issuer, http))


def test_the_upstreams_own_word_is_kept(issuer: Issuer, http: HttpClient) -> None:
    issuer.reply = {"code": None, "error": "login_required"}
    with pytest.raises(Refused) as caught:
        sign_in(upstream(issuer, http), prompt="none")
    assert caught.value.code == "login_required"
    issuer.reply = {"code": None, "error": "temporarily_unavailable"}
    with pytest.raises(Unreachable):
        sign_in(upstream(issuer, http))


def test_an_error_from_elsewhere_is_not_believed(issuer: Issuer, http: HttpClient) -> None:
    issuer.reply = {"code": None, "error": "access_denied", "iss": "https://other.example"}
    with pytest.raises(Refused, match="another issuer"):
        sign_in(upstream(issuer, http))


def test_a_code_is_worth_nothing_elsewhere_or_twice(issuer: Issuer, http: HttpClient) -> None:
    connector = upstream(issuer, http)
    mine, theirs = (connector.begin_sign_in(ReturnTo(CALLBACK, "s")) for _ in range(2))
    with pytest.raises(Refused, match="invalid_grant"):
        connector.finish_sign_in(mine.memo, visit(theirs.url))
    reply = visit(mine.url)
    assert connector.finish_sign_in(mine.memo, reply).key == f"{issuer.url} alice"
    with pytest.raises(Refused, match="invalid_grant"):
        connector.finish_sign_in(mine.memo, reply)


def test_a_memo_is_for_the_settings_it_was_made_with(issuer: Issuer, http: HttpClient) -> None:
    departure = upstream(issuer, http).begin_sign_in(ReturnTo(CALLBACK, "s"))
    with pytest.raises(Refused, match="settings of the provider changed"):
        upstream(issuer, http, client_id="other").finish_sign_in(departure.memo, visit(departure.url))
    with pytest.raises(Refused, match="began this sign-in"):
        upstream(issuer, http).finish_sign_in(None, Reply("GET", {"code": ["x"]}))


def test_userinfo_of_somebody_else_is_refused(issuer: Issuer, http: HttpClient) -> None:
    issuer.userinfo = {"department": "Research"}
    assert sign_in(upstream(issuer, http)).attributes["department"] == ("Research",)
    for sub in ("mallory", "Alice", None, ["alice"]):
        issuer.userinfo = {"sub": sub}
        with pytest.raises(Refused, match="somebody else"):
            sign_in(upstream(issuer, http))


HTML = 200, {"Content-Type": "text/html"}, b"<html>secret-page</html>"
CUT = 200, {"Content-Type": "application/json", "Content-Length": "5000"}, b'{"access_token": "secret-page'


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((500, {}, b"secret-page"), Unreachable),
        ((503, {"Retry-After": "7"}, b"{}"), Unreachable),
        ((429, {}, b"{}"), Unreachable),
        (HTML, Refused),
        ((403, {"Content-Type": "text/html"}, b"secret-page"), Refused),
        ((403, {}, b'{"access_token": "secret-page"}'), Refused),
        ((200, {}, b'{"access_token": "secret-'), Refused),
        ((200, {}, b"[]"), Refused),
        ((200, {}, b"{}"), Refused),
        ((200, {}, b'{"id_token": 5}'), Refused),
        ((200, {}, b'{"id_token": "x", "expires_in": "soon"}'), Refused),
        ((200, {}, b"[" * 100_000), Refused),
        ((200, {}, b'{"x": "' + b"x" * 300_000 + b'"}'), Refused),
        ((302, {"Location": "http://127.0.0.1:1/"}, b""), Misconfigured),
        ((400, {}, b'{"error": "invalid_client"}'), Misconfigured),
        ((400, {}, b'{"error": "invalid_grant", "error_description": 5}'), Refused),
        ((400, {}, b'{"error": ["invalid_grant"]}'), Refused),
    ],
)
def test_a_token_endpoint_that_does_not_give_tokens_is_no_sign_in(
    issuer: Issuer, http: HttpClient, answer: Any, error: type[Exception]
) -> None:
    issuer.answers["token"] = answer
    with pytest.raises(error) as caught:
        sign_in(upstream(issuer, http))
    assert "secret-page" not in str(caught.value)


def test_a_token_endpoint_that_hangs_or_breaks_off_is_unreachable(issuer: Issuer) -> None:
    with closing(HttpClient(Egress(loopback=True), timeout=0.3)) as http:
        connector = upstream(issuer, http)
        issuer.answers["token"] = lambda: (time.sleep(0.6), (200, {}, b"{}"))[1]
        with pytest.raises(Unreachable):
            sign_in(connector)
        issuer.answers["token"] = CUT
        with pytest.raises(Unreachable):
            sign_in(connector)


def test_what_the_upstream_says_of_a_refusal_holds_no_secret_of_ours(issuer: Issuer, http: HttpClient) -> None:
    connector = upstream(issuer, http)
    departure = connector.begin_sign_in(ReturnTo(CALLBACK, "s"))
    reply = visit(departure.url)
    verifier = json.loads(departure.memo)["verifier"]
    said = f"secret {SECRET}, verifier {verifier}, code {reply.one('code')}"
    issuer.answers["token"] = 400, {}, json.dumps({"error": "invalid_grant", "error_description": said}).encode()
    with pytest.raises(Refused, match=r"secret \*\*\*, verifier \*\*\*, code \*\*\*"):
        connector.finish_sign_in(departure.memo, reply)


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"issuer": "https://other.example"}, "issuer"),
        ({"issuer": None}, "issuer"),
        ({"token_endpoint": None}, None),
        ({"authorization_endpoint": "javascript:alert(1)"}, None),
        ({"authorization_endpoint": "http://elsewhere.example/authorize"}, None),
        ({"authorization_endpoint": "https://user@elsewhere.example/"}, None),
        ({"jwks_uri": 5}, None),
        ({"jwks_uri": "http://[::1"}, None),
        ({"end_session_endpoint": "data:text/html,x"}, None),
    ],
)
def test_a_discovery_document_that_cannot_be_trusted_stops_before_anybody_is_sent(
    issuer: Issuer, http: HttpClient, said: Change, field: str | None
) -> None:
    issuer.said = said
    with pytest.raises(Misconfigured) as caught:
        upstream(issuer, http).begin_sign_in(ReturnTo(CALLBACK, "s"))
    assert set(caught.value.fields) == ({field} if field else set())


def test_an_issuer_is_compared_to_the_last_letter(issuer: Issuer, http: HttpClient) -> None:
    issuer.said = {"issuer": f"{issuer.url}/"}
    with pytest.raises(Misconfigured, match="calls itself"):
        upstream(issuer, http).begin_sign_in(ReturnTo(CALLBACK, "s"))
    made = kinds.config_from("oidc", {"issuer": f"{issuer.url}/", "client_id": CLIENT, "client_secret": SECRET})
    assert connect(made, http).begin_sign_in(ReturnTo(CALLBACK, "s")).url


def test_discovery_leads_nowhere_else(issuer: Issuer, http: HttpClient) -> None:
    issuer.answers["openid-configuration"] = 302, {"Location": f"{issuer.url}/.well-known/moved"}, b""
    with pytest.raises(Misconfigured, match="redirect"):
        upstream(issuer, http).begin_sign_in(ReturnTo(CALLBACK, "s"))
    assert "moved" not in issuer.asked


def test_our_own_network_is_not_an_upstream(issuer: Issuer) -> None:
    with closing(HttpClient(Egress())) as http, pytest.raises(Misconfigured, match="not asked"):
        upstream(issuer, http).begin_sign_in(ReturnTo(CALLBACK, "s"))
    with closing(HttpClient(Egress(loopback=True))) as http:
        issuer.said = {"token_endpoint": "https://169.254.169.254/token"}
        with pytest.raises(Misconfigured, match="not asked"):
            sign_in(upstream(issuer, http))


def test_what_does_not_verify_is_not_kept(issuer: Issuer, http: HttpClient) -> None:
    connector = upstream(issuer, http)
    issuer.said = {"issuer": "https://other.example"}
    with pytest.raises(Misconfigured):
        connector.begin_sign_in(ReturnTo(CALLBACK, "s"))
    issuer.said = {}
    assert connector.begin_sign_in(ReturnTo(CALLBACK, "s")).url
