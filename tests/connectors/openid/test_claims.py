"""What is made of claims: key, attributes, groups, and the addresses somebody vouches for."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from connectors.http import HttpClient
from connectors.port import (
    Misconfigured,
    Refused,
    ReturnTo,
)
from tests.connectors.openid.signing_in import CALLBACK, Change, sign_in, upstream
from tests.issuer import Issuer, ec_key, ed_key, rsa_key, visit


def test_an_identity_is_what_the_upstream_said(issuer: Issuer, http: HttpClient) -> None:
    when = int(time.time()) - 30
    issuer.person = {
        "sub": "alice",
        "sid": "their-session",
        "auth_time": when,
        "amr": ["pwd", "otp"],
        "name": "Alice",
        "level": 7,
        "staff": True,
        "nothing": None,
        "address": {"locality": "Øl", "lines": ["a", "b"]},
        "https://acme.example/roles": ["x"],
    }
    identity = sign_in(upstream(issuer, http))
    assert identity.key == f"{issuer.url} alice"
    assert identity.attributes == {
        "sub": ("alice",),
        "name": ("Alice",),
        "level": ("7",),
        "staff": ("true",),
        "address.locality": ("Øl",),
        "address.lines": ("a", "b"),
        "https://acme.example/roles": ("x",),
    }
    assert (identity.session, identity.amr) == ("their-session", ("pwd", "otp"))
    assert identity.auth_time == datetime.fromtimestamp(when, UTC)
    assert (identity.groups, identity.verified_emails) == (None, frozenset())


@pytest.mark.parametrize(
    ("claim", "claims", "groups"),
    [
        ("groups", {}, None),
        ("groups", {"groups": []}, frozenset()),
        ("groups", {"groups": ["a", "b", "a"]}, {"a", "b"}),
        ("groups", {"groups": "a"}, {"a"}),
        ("realm_access.roles", {"realm_access": {"roles": ["r"]}}, {"r"}),
        ("https://acme.example/groups", {"https://acme.example/groups": ["g"]}, {"g"}),
        ("", {"groups": ["a"]}, None),
    ],
)
def test_groups_are_read_where_the_settings_say(
    issuer: Issuer, http: HttpClient, claim: str, claims: Change, groups: Any
) -> None:
    issuer.claims = claims
    assert sign_in(upstream(issuer, http, groups_claim=claim)).groups == groups


def test_groups_that_are_no_names_are_a_misconfiguration(issuer: Issuer, http: HttpClient) -> None:
    for groups in (5, {"a": 1}, ["a", 5], [["a"]]):
        issuer.claims = {"groups": groups}
        with pytest.raises(Misconfigured) as caught:
            sign_in(upstream(issuer, http, groups_claim="groups"))
        assert set(caught.value.fields) == {"groups_claim"}


A, B = "alice@acme.example", "bob@acme.example"


@pytest.mark.parametrize(
    ("token", "userinfo", "verified"),
    [
        ({"email": A, "email_verified": True}, None, {A}),
        ({"email": A, "email_verified": "true"}, None, set()),
        ({"email": A, "email_verified": 1}, None, set()),
        ({"email": A, "email_verified": False}, None, set()),
        ({"email": A}, None, set()),
        ({"email_verified": True}, None, set()),
        ({"email": [A], "email_verified": True}, None, set()),
        ({"email": A}, {"email": A, "email_verified": True}, {A}),
        ({}, {"email": A, "email_verified": True}, {A}),
        ({"email_verified": True}, {"email": A}, set()),
        ({"email": A}, {"email": B, "email_verified": True}, {B}),
        ({"email": A, "email_verified": True}, {"email": A, "email_verified": False}, set()),
        ({"email": A, "email_verified": False}, {"email": A, "email_verified": True}, set()),
    ],
)
def test_an_address_counts_only_where_one_source_vouches_for_it(
    issuer: Issuer, http: HttpClient, token: Change, userinfo: Change | None, verified: set[str]
) -> None:
    issuer.claims, issuer.userinfo = token, userinfo
    identity = sign_in(upstream(issuer, http))
    assert identity.verified_emails == verified
    word = identity.attributes.get("email_verified", ("false",))
    assert word == (("true",) if set(identity.attributes.get("email", ())) & verified else ("false",))


def test_userinfo_adds_to_the_token_and_overrules_nothing(issuer: Issuer, http: HttpClient) -> None:
    issuer.claims = {"name": "of the token", "email": A}
    issuer.userinfo = {"name": "of userinfo", "department": "Research", "email": B, "email_verified": True}
    told = sign_in(upstream(issuer, http)).attributes
    assert (told["name"], told["department"], told["email"]) == (("of the token",), ("Research",), (A,))
    assert told["email_verified"] == ("false",)
    assert "department" not in sign_in(upstream(issuer, http, userinfo=False)).attributes


def test_another_claim_can_be_the_key(issuer: Issuer, http: HttpClient) -> None:
    issuer.claims = {"oid": "0f3a"}
    connector = upstream(issuer, http, key_claim="oid")
    assert sign_in(connector).key == f"{issuer.url}  oid 0f3a"
    issuer.claims, issuer.userinfo = {}, {"oid": "0f3a"}
    with pytest.raises(Misconfigured, match="oid"):
        sign_in(connector)


@pytest.mark.parametrize("subject", ["", " ", " oid 0f3a", "a\nb", "x" * 256, 5, ["alice"], None])
def test_a_subject_that_is_no_id_is_refused(issuer: Issuer, http: HttpClient, subject: Any) -> None:
    issuer.claims = {"sub": "x" * 255}
    assert sign_in(upstream(issuer, http)).key.endswith("x" * 255)
    issuer.claims = {"sub": subject}
    with pytest.raises(Refused):
        sign_in(upstream(issuer, http))


def test_a_replay_has_the_same_name_and_another_sign_in_another(issuer: Issuer, http: HttpClient) -> None:
    connector = upstream(issuer, http)
    departure = connector.begin_sign_in(ReturnTo(CALLBACK, "s"))
    once = [connector.finish_sign_in(departure.memo, visit(departure.url)).once for _ in range(2)]
    other = sign_in(connector).once
    assert once[0] is not None and once[1] is not None and other is not None
    assert once[0][0] == once[1][0] != other[0]
    assert timedelta(minutes=5) < other[1] - datetime.now(UTC) < timedelta(minutes=7)
    issuer.claims = {"exp": 253402300799}
    far = sign_in(connector).once
    assert far is not None
    assert far[1] - datetime.now(UTC) <= timedelta(days=1, minutes=1)


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (rsa_key("k"), "RS256"),
        (rsa_key("k"), "PS256"),
        (ec_key("k"), "ES256"),
        (ec_key("k", "P-384"), "ES384"),
        (ed_key("k"), "EdDSA"),
        (ed_key("k"), "Ed25519"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")  # what the provider signs with, not what we read
def test_every_algorithm_of_the_settings_is_understood(
    issuer: Issuer, http: HttpClient, key: Any, algorithm: str
) -> None:
    issuer.key, issuer.algorithm, issuer.published = key, algorithm, [key]
    assert sign_in(upstream(issuer, http)).key == f"{issuer.url} alice"
    others = [name for name in ("RS512", "ES512") if name != algorithm]
    with pytest.raises(Refused, match=f"algorithm is {algorithm}"):
        sign_in(upstream(issuer, http, algorithms=others))
