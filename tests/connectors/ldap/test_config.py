"""What of a directory's settings is seen to be wrong before anybody is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from connectors import kinds, ldap
from connectors.ldap.config import Server, server
from connectors.port import Misconfigured
from tests.upstreams import tls

LIVE: dict[str, Any] = {
    "source": "ldap",
    "servers": ["ldaps://dc1.acme.test"],
    "bind_dn": "reader@acme.test",
    "bind_password": "secret-of-the-reader",
}


def flaws(**settings: Any) -> dict[str, str]:
    with pytest.raises(Misconfigured) as caught:
        kinds.config_from("ldap", {**LIVE, **settings})
    assert "secret-of-the-reader" not in str(caught.value)
    return dict(caught.value.fields)


def test_a_live_directory_needs_a_server_and_an_account() -> None:
    with pytest.raises(Misconfigured) as caught:
        kinds.config_from("ldap", {"source": "ldap"})
    assert set(caught.value.fields) == {"servers", "bind_dn", "bind_password"}
    assert kinds.config_from("ldap", LIVE).mode == "auto"


def test_an_empty_password_is_refused_before_anybody_is_asked() -> None:
    assert "anonymous" in flaws(bind_password="")["bind_password"]
    assert "anonymously" in flaws(bind_dn=" ")["bind_dn"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("servers", ["dc1.acme.test"]),
        ("servers", ["https://dc1.acme.test"]),
        ("servers", ["ldapi:///var/run/ldapi"]),
        ("servers", ["ldaps://"]),
        ("servers", ["ldaps://dc1.acme.test", "ldaps://user:pw@dc2.acme.test"]),
        ("servers", ["ldaps://dc1.acme.test/DC=acme"]),
        ("servers", ["ldaps://dc1.acme.test?sub"]),
        ("servers", ["ldaps://dc1.acme.test:0"]),
        ("servers", ["ldaps://dc1.acme.test:70000"]),
        ("servers", ["ldaps://dc1 .acme.test"]),
        ("ca_certificates", "-----BEGIN CERTIFICATE-----"),
        ("base_dn", "acme"),
        ("base_dns", ["DC=acme", "acme"]),
        ("member_of", "Staff"),
        ("user_filter", "department=Sales"),
        ("user_filter", "(department=Sales"),
        ("user_filter", "(department=Sales)(title=x)"),
        ("user_filter", "(a=b))(|(c=d)"),
        ("mode", "sometimes"),
        ("page_size", 0),
        ("page_size", 1001),
        ("timeout", 0),
        ("timeout", 301),
        ("sign_in_names", ["mail)(objectClass=*"]),
        ("sign_in_names", [""]),
        ("lockout_margin", -1),
        ("servers", [f"ldaps://dc{number}.acme.test" for number in range(11)]),
        ("servers", [f"ldaps://{'d' * 4_000}.acme.test"]),
        ("base_dns", [f"OU={number},DC=acme" for number in range(51)]),
        ("sign_in_names", [f"name{number}" for number in range(51)]),
        ("bind_dn", "x" * 4_001),
        ("bind_password", "x" * 4_001),
        ("bind_dn", "\ud800"),
        ("ca_certificates", "-----BEGIN CERTIFICATE-----\n\u00fc\n-----END CERTIFICATE-----"),
        ("ca_certificates", "x" * 500_001),
        ("user_filter", "(a=**)"),
        ("user_filter", "(&" * 400 + "(a=b)" + ")" * 400),
        ("user_filter", "(&" * 20 + "(a=b)" + ")" * 20),
        ("user_filter", "(!" * 1_900),
    ],
)
def test_a_wrong_setting_is_named(setting: str, value: Any) -> None:
    assert set(flaws(**{setting: value})) == {setting}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("servers", ["ldaps://dc1.acme.test", "ldap://10.0.0.1:3268", "ldaps://[fd12::1]:636/"]),
        ("base_dns", ["DC=acme,DC=test", "OU=Straße\\, Süd,DC=acme,DC=test"]),
        ("user_filter", "(&(department=Ingénierie)(!(title=\\2a)))"),
        ("user_filter", "(userAccountControl:1.2.840.113556.1.4.803:=2)"),
        ("user_filter", "(a=*b*c*)"),
        ("user_filter", "(&" * 19 + "(a=b)" + ")" * 19),
        ("user_filter", "(title=\u00dc\\28\\29)"),
        ("servers", [f"ldaps://dc{number}.acme.test" for number in range(10)]),
        ("sign_in_names", [f"name{number}" for number in range(50)]),
        ("member_of", "CN=Staff,DC=acme"),
        ("page_size", 1000),
        ("sign_in_names", ["extensionAttribute1"]),
        ("lockout_margin", 0),
    ],
)
def test_a_right_setting_is_taken(setting: str, value: Any) -> None:
    assert getattr(kinds.config_from("ldap", {**LIVE, setting: value}), setting) == value


def test_authorities_are_taken_as_pem(tmp_path: Path) -> None:
    authority = tls.issue(tmp_path, "dc1.acme.test").authority.read_text()
    assert kinds.config_from("ldap", {**LIVE, "ca_certificates": authority}).ca_certificates == authority


@pytest.mark.parametrize("setting", sorted(set(LIVE) - {"source"} | {"base_dns", "user_filter", "mode", "timeout"}))
def test_settings_of_a_live_server_are_refused_for_a_file(setting: str) -> None:
    given = {**LIVE, "base_dns": ["DC=acme"], "user_filter": "(a=b)", "mode": "usn", "timeout": 5}[setting]
    with pytest.raises(Misconfigured, match="live server") as caught:
        ldap.Config(**{setting: given})
    assert set(caught.value.fields) == {setting}


def test_no_file_is_read_into_a_live_directory(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="not from files"):
        kinds.file_feed("ldap", kinds.config_from("ldap", LIVE), tmp_path / "export.ldif")


@pytest.mark.parametrize(
    ("url", "parts", "written"),
    [
        ("ldaps://DC1.acme.test", Server("dc1.acme.test", 636, True), "ldaps://dc1.acme.test:636"),
        ("ldap://dc1.acme.test/", Server("dc1.acme.test", 389, False), "ldap://dc1.acme.test:389"),
        ("ldaps://[fd12::1]:3269", Server("fd12::1", 3269, True), "ldaps://[fd12::1]:3269"),
    ],
)
def test_a_servers_url_is_taken_apart(url: str, parts: Server, written: str) -> None:
    assert server(url) == parts
    assert str(parts) == written
