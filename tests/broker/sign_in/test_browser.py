"""What is believed of a request: whose address it is, and whether our own page sent it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest
from flask import Flask

from broker import running
from broker.sign_in import browser

PROXIES = tuple(ip_network(text) for text in ("10.0.0.0/8", "2001:db8::/32"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "caller"),
    [
        ("203.0.113.9", None, "203.0.113.9"),
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "192.0.2.66, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1, 10.2.3.4", "198.51.100.1"),
        ("10.0.0.1", "nonsense", "10.0.0.1"),
        ("10.0.0.1", "192.0.2.66, nonsense, 10.9.9.9", "10.9.9.9"),
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("2001:db8::1", "2001:DB9::7", "2001:db9::7"),
    ],
)
def test_the_caller_is_the_nearest_hop_that_is_no_proxy_of_ours(
    web: Flask, monkeypatch: pytest.MonkeyPatch, peer: str, forwarded: str | None, caller: str
) -> None:
    with web.app_context():
        trusting = replace(running.config(), trusted_proxies=PROXIES)
    monkeypatch.setattr(running, "config", lambda: trusting)
    headers = {"X-Forwarded-For": forwarded} if forwarded else {}
    with web.test_request_context(environ_base={"REMOTE_ADDR": peer}, headers=headers):
        assert browser.address() == caller


@pytest.mark.parametrize(
    ("headers", "ours"),
    [
        ({}, True),
        ({"Origin": "http://localhost:8080"}, True),
        ({"Origin": "http://localhost"}, True),
        ({"Origin": "http://localhost:9999"}, False),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://["}, False),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"}, False),
    ],
)
def test_a_form_comes_from_our_own_page(web: Flask, headers: dict[str, str], ours: bool) -> None:
    with web.test_request_context("/", method="POST", headers=headers, data={"csrf": browser.proof("secret", "this")}):
        assert browser.same_site() == ours
        assert browser.proven("secret", "this") == ours
        assert not browser.proven("secret", "that")
        assert not browser.proven("another", "this")


@pytest.mark.parametrize("form", [{}, {"csrf": ""}, {"csrf": "ä"}, {"csrf": ["x", "y"]}])
def test_a_form_without_proof_is_none_of_ours(web: Flask, form: dict[str, object]) -> None:
    with web.test_request_context("/", method="POST", data=form):
        assert not browser.proven("secret", "this")


def test_no_tenants_session_is_called_like_a_flow(web: Flask) -> None:
    with web.app_context():
        names = {browser.flow_cookie("acme"), browser.platform_cookie()}
        assert not any(name.startswith(browser.session_cookie("")) for name in names)
