"""Settings of an OpenID provider that can be seen to be wrong at once."""

from __future__ import annotations

import json

import pytest

from connectors import kinds
from connectors.http import HttpClient
from connectors.port import (
    Departure,
    Diagnose,
    Misconfigured,
    ReturnTo,
    SignIn,
    SignOut,
)
from tests.connectors.openid.signing_in import CALLBACK, Change, upstream
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
