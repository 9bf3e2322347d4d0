"""Settings of an OpenID provider that can be seen to be wrong at once."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from connectors import kinds
from connectors.http import HttpClient
from connectors.openid import connect
from connectors.port import (
    Departure,
    Diagnose,
    Misconfigured,
    ReturnTo,
    SignIn,
    SignOut,
)
from tests.connectors.openid.signing_in import CALLBACK, Change, config, upstream
from tests.issuer import Issuer, rsa_key


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"issuer": "http://login.example.com"}, "issuer"),
        ({"issuer": "https://login.example.com?x=1"}, "issuer"),
        ({"issuer": "https://login.example.com/#x"}, "issuer"),
        ({"issuer": "https://u:p@login.example.com"}, "issuer"),
        ({"issuer": "login.example.com"}, "issuer"),
        ({"issuer": "https://"}, "issuer"),
        ({"issuer": "https://a b"}, "issuer"),
        ({"client_id": ""}, "client_id"),
        ({"client_secret": ""}, "client_secret"),
        ({"token_endpoint_auth_method": "private_key_jwt"}, "private_key"),
        ({"token_endpoint_auth_method": "private_key_jwt", "private_key": "x"}, "private_key"),
        ({"token_endpoint_auth_method": "private_key_jwt", "private_key": "{}"}, "private_key"),
        ({"token_endpoint_auth_method": "private_key_jwt", "private_key": "[1]"}, "private_key"),
        (
            {
                "token_endpoint_auth_method": "private_key_jwt",
                "private_key": json.dumps(rsa_key("first").as_dict(private=False)),
            },
            "private_key",
        ),
        ({"token_endpoint_auth_method": "client_secret_jwt"}, "token_endpoint_auth_method"),
        ({"scopes": ["profile"]}, "scopes"),
        ({"scopes": ["openid", "a b"]}, "scopes"),
        ({"scopes": ["openid", 5]}, "scopes"),
        ({"scopes": "openid"}, "scopes"),
        ({"algorithms": []}, "algorithms"),
        ({"algorithms": ["none"]}, "algorithms"),
        ({"algorithms": ["RS256", "HS256"]}, "algorithms"),
        ({"parameters": {"state": "x"}}, "parameters"),
        ({"parameters": {"Nonce": "x"}}, "parameters"),
        ({"parameters": {"a": 5}}, "parameters"),
        ({"prompt": "none"}, "prompt"),
        ({"response_mode": "fragment"}, "response_mode"),
        ({"key_claim": "email"}, "key_claim"),
        ({"key_claim": ""}, "key_claim"),
        ({"ca": "x"}, "ca"),
        ({"userinfo": "yes"}, "userinfo"),
    ],
)
def test_a_wrong_setting_is_named(given: Change, field: str) -> None:
    right = {"issuer": "https://login.example.com", "client_id": "c", "client_secret": "s"}
    assert kinds.config_from("oidc", right)
    with pytest.raises(Misconfigured) as caught:
        kinds.config_from("oidc", {**right, **given})
    assert set(caught.value.fields) == {field}


def test_secrets_are_marked_as_such() -> None:
    assert {setting.name for setting in kinds.describe("oidc") if setting.secret} == {"client_secret", "private_key"}
    assert all(setting.help.endswith(".") for setting in kinds.describe("oidc"))


def test_what_this_connector_can(issuer: Issuer, http: HttpClient) -> None:
    connector = upstream(issuer, http)
    assert isinstance(connector, (SignIn, SignOut, Diagnose))
    assert isinstance(connector.begin_sign_in(ReturnTo(CALLBACK, "s")), Departure)
    assert kinds.sign_in("ldap", kinds.config_from("ldap", {}), http) is None
    assert kinds.diagnose("ldap", kinds.config_from("ldap", {}), http) is None


def test_the_documentation_names_every_setting_and_its_choices() -> None:
    text = (Path(__file__).parents[3] / "docs" / "connectors" / "oidc.md").read_text()
    table = text.partition("## Settings\n")[2].partition("\n## ")[0]
    rows = {found[1]: found[2] for found in re.finditer(r"^\| `(\w+)` \| (.+) \|$", table, re.MULTILINE)}
    assert list(rows) == [setting.name for setting in kinds.describe("oidc")]
    for setting in kinds.describe("oidc"):
        if setting.type == "str":
            assert all(f"`{choice}`" in rows[setting.name] for choice in setting.choices if choice)
    algorithms = next(setting for setting in kinds.describe("oidc") if setting.name == "algorithms")
    assert set(re.findall(r"`(\w+)`", rows["algorithms"])) == set(algorithms.default)


def test_the_documentation_names_every_step_of_a_diagnosis(issuer: Issuer, http: HttpClient) -> None:
    text = (Path(__file__).parents[3] / "docs" / "connectors" / "oidc.md").read_text()
    table = text.partition("## What the diagnosis says\n")[2].partition("\n## ")[0]
    steps = [step.name for step in connect(config(issuer), http, callback=CALLBACK).steps()]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == ["settings", *steps]
