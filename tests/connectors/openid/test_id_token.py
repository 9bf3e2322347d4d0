"""Every rule an ID token may break, each beside a token that keeps it."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given, settings, strategies
from joserfc import jws, jwt
from joserfc.jwk import KeySet, OctKey, RSAKey

from connectors.http import HttpClient
from connectors.openid import connect, id_token
from connectors.port import (
    Refused,
)
from connectors.shelf import MemoryShelf
from tests.connectors.openid.signing_in import Change, config, sign_in, upstream
from tests.issuer import CLIENT, SECRET, Issuer, ec_key, encoded, half_hash, rsa_key

now = time.time


def as_they_are(header: Change, claims: Change) -> str:
    return jwt.encode(header, claims, rsa_key("first"), algorithms=["RS256"], default_type=None)


@dataclass(frozen=True)
class At:
    """So many seconds from when the test runs: tables are made long before."""

    seconds: float


def as_of_now(claims: Change) -> Change:
    return {
        name: type(value.seconds)(now() + value.seconds) if isinstance(value, At) else value
        for name, value in claims.items()
    }


@pytest.mark.parametrize(
    ("claims", "fits", "why"),
    [
        ({"iss": "https://other.example"}, {}, "another issuer"),
        ({"iss": None}, {}, "another issuer"),
        ({"iss": 5}, {}, "another issuer"),
        ({"aud": "another client"}, {"aud": [CLIENT]}, "somebody else"),
        ({"aud": []}, {}, "somebody else"),
        ({"aud": None}, {}, "somebody else"),
        ({"aud": {CLIENT: 1}}, {}, "somebody else"),
        ({"aud": [CLIENT, "x"]}, {"aud": [CLIENT, "x"], "azp": CLIENT}, "another client"),
        ({"aud": [CLIENT, "x"], "azp": "x"}, {"azp": CLIENT}, "another client"),
        ({"azp": "x"}, {"azp": CLIENT}, "another client"),
        ({"exp": At(-61)}, {"exp": At(-20)}, "expired"),
        ({"exp": None}, {}, "until when"),
        ({"exp": "tomorrow"}, {"exp": At(60.5)}, "until when"),
        ({"exp": 10**400}, {"exp": 10**10}, "until when"),
        ({"iat": At(600)}, {"iat": At(30)}, "issued in the future"),
        ({"iat": None}, {}, "issued in the future"),
        ({"nbf": At(600)}, {"nbf": At(30)}, "not hold yet"),
        ({"nonce": "another"}, {}, "another sign-in"),
        ({"nonce": None}, {}, "another sign-in"),
        ({"nonce": ["x"]}, {}, "another sign-in"),
        ({"nonce": "ü"}, {}, "another sign-in"),
        ({"at_hash": half_hash("another")}, {"at_hash": None}, "another access token"),
        ({"at_hash": ""}, {}, "another access token"),
        ({"at_hash": 5}, {}, "another access token"),
        ({"auth_time": At(600)}, {"auth_time": At(-600)}, "auth_time"),
        ({"auth_time": True}, {"auth_time": At(-5.5)}, "auth_time"),
    ],
)
def test_a_token_with_a_wrong_claim_is_refused_and_its_twin_is_not(
    issuer: Issuer, http: HttpClient, claims: Change, fits: Change, why: str
) -> None:
    issuer.claims = as_of_now(fits)
    assert sign_in(upstream(issuer, http)).key == f"{issuer.url} alice"
    issuer.claims = as_of_now(claims)
    with pytest.raises(Refused, match=why):
        sign_in(upstream(issuer, http))


def test_a_nonce_among_several_is_none(issuer: Issuer, http: HttpClient) -> None:
    issuer.forge = lambda header, claims: as_they_are(header, {**claims, "nonce": [claims["nonce"], "x"]})
    with pytest.raises(Refused, match="another sign-in"):
        sign_in(upstream(issuer, http))


@pytest.mark.parametrize(
    ("header", "fits"),
    [
        ({"typ": "at+jwt"}, {"typ": "JWT"}),
        ({"typ": "logout+jwt"}, {"typ": "jwt"}),
        ({"typ": 5}, {}),
        ({"crit": ["b64"], "b64": True}, {"x-unknown": "yes"}),
        ({"kid": "third"}, {"kid": "first"}),
        ({"kid": None}, {}),
        ({"kid": 5}, {}),
        ({"kid": "second"}, {}),
    ],
)
def test_a_token_with_a_wrong_header_is_refused_and_its_twin_is_not(
    issuer: Issuer, http: HttpClient, header: Change, fits: Change
) -> None:
    def signed(header: Change, claims: Change) -> str:
        content = f"{encoded(header)}.{encoded(claims)}"
        raw = rsa_key("first").private_key
        assert raw is not None
        return f"{content}.{encoded(raw.sign(content.encode(), padding.PKCS1v15(), hashes.SHA256()))}"

    issuer.forge, issuer.header = signed, fits
    assert sign_in(upstream(issuer, http)).key == f"{issuer.url} alice"
    issuer.header = header
    with pytest.raises(Refused):
        sign_in(upstream(issuer, http))


def test_a_token_without_a_key_id_fits_a_single_key(issuer: Issuer, http: HttpClient) -> None:
    issuer.header, issuer.published = {"kid": None}, [rsa_key("first"), {**ec_key("second").as_dict(), "use": "enc"}]
    assert sign_in(upstream(issuer, http)).key == f"{issuer.url} alice"


def hmac_by(secret: bytes) -> Callable[[Change, Change], str]:
    def forge(header: Change, claims: Change) -> str:
        content = f"{encoded({**header, 'alg': 'HS256'})}.{encoded(claims)}"
        return f"{content}.{encoded(hmac.digest(secret, content.encode(), hashlib.sha256))}"

    return forge


FORGERIES: dict[str, Callable[[Change, Change], str]] = {
    "none": lambda header, claims: f"{encoded({'alg': 'none'})}.{encoded(claims)}.",
    "none, with a key id": lambda header, claims: f"{encoded({**header, 'alg': 'none'})}.{encoded(claims)}.",
    "None": lambda header, claims: f"{encoded({**header, 'alg': 'None'})}.{encoded(claims)}.",
    "no signature": lambda header, claims: f"{encoded(header)}.{encoded(claims)}.",
    "two parts": lambda header, claims: f"{encoded(header)}.{encoded(claims)}",
    "the public key as a secret": hmac_by(rsa_key("first").as_pem(private=False)),
    "the client's secret": hmac_by(SECRET.encode()),
    "a foreign key": lambda header, claims: jwt.encode(header, claims, rsa_key("foreign")),
    "a key in the header": lambda header, claims: jwt.encode(
        {**header, "kid": "foreign", "jwk": rsa_key("foreign").as_dict(private=False)}, claims, rsa_key("foreign")
    ),
    "a key in the header, under a known name": lambda header, claims: jwt.encode(
        {**header, "jwk": rsa_key("foreign").as_dict(private=False)}, claims, rsa_key("foreign")
    ),
    "another key of the set": lambda header, claims: jwt.encode(
        {"alg": "ES256", "kid": "first"}, claims, ec_key("second")
    ),
    "a changed payload": lambda header, claims: ".".join(
        [
            (parts := as_they_are(header, claims).split("."))[0],
            encoded({**claims, "sub": "root"}),
            parts[2],
        ]
    ),
    "repeated members": lambda header, claims: _signed_text(
        header, json.dumps(claims)[:-1] + f', "sub": "root", "nonce": {json.dumps(claims["nonce"])}}}'
    ),
    "not a number": lambda header, claims: _signed_text(header, json.dumps({**claims, "exp": float("nan")})),
    "half a letter": lambda header, claims: _signed_text(header, json.dumps(claims)[:-1] + ', "name": "\\ud800"}'),
    "a NUL": lambda header, claims: _signed_text(header, json.dumps({**claims, "amr": ["pwd", "\0"]})),
    "a NUL in a name": lambda header, claims: _signed_text(header, json.dumps({**claims, "\\\0": 1})),
    "no object": lambda header, claims: _signed_text(header, "[1]"),
    "no JSON": lambda header, claims: _signed_text(header, "\xff"),
    "deep": lambda header, claims: _signed_text(header, '{"a":' + "[" * 9000 + "]" * 9000 + "}"),
    "a header that is a list": lambda header, claims: f"{encoded(['alg'])}.{encoded(claims)}.AA",
    "a header that is deep": lambda header, claims: f"{encoded(b'[' * 3000)}.{encoded(claims)}.AA",
    "an algorithm that is a list": lambda header, claims: f"{encoded({'alg': ['RS256']})}.{encoded(claims)}.AA",
    "nothing": lambda header, claims: "",
    "dots": lambda header, claims: "..",
    "letters": lambda header, claims: "ü.ü.ü",
    "encrypted": lambda header, claims: f"{encoded({'alg': 'RSA-OAEP', 'enc': 'A128GCM'})}.a.b.c.d",
    "too large": lambda header, claims: as_they_are(header, {**claims, "photo": "x" * 66_000}),
}


def _signed_text(header: Change, payload: str) -> str:
    return jws.serialize_compact(header, payload.encode("latin-1"), rsa_key("first"))


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_token_is_refused(issuer: Issuer, http: HttpClient, forge: Callable[[Change, Change], str]) -> None:
    connector = upstream(issuer, http)
    assert sign_in(connector).key == f"{issuer.url} alice"
    issuer.forge = forge
    with pytest.raises(Refused) as caught:
        sign_in(connector)
    assert len(str(caught.value)) < 300


def test_what_only_looks_like_an_escape_is_text(issuer: Issuer, http: HttpClient) -> None:
    issuer.claims = {"amr": ["\\u0000", "\\ud800", "\U0001f511"]}
    assert sign_in(upstream(issuer, http)).amr == ("\\u0000", "\\ud800", "\U0001f511")


def test_a_published_secret_key_verifies_nothing(issuer: Issuer, http: HttpClient) -> None:
    shared = OctKey.import_key(b"0" * 32, {"kid": "shared"})
    issuer.published = [rsa_key("first"), shared.as_dict(private=True)]
    issuer.forge = lambda header, claims: jwt.encode({"alg": "HS256", "kid": "shared"}, claims, shared)
    with pytest.raises(Refused):
        sign_in(upstream(issuer, http))


def test_a_short_key_verifies_nothing(issuer: Issuer, http: HttpClient) -> None:
    short = RSAKey(rsa.generate_private_key(65537, 1024), None, {"kid": "short"})
    issuer.key, issuer.published = short, [short]
    with pytest.raises(Refused, match="key is not among"):
        sign_in(upstream(issuer, http))


@pytest.mark.parametrize(
    "keys", [[], [5, {}, {"kty": "RSA"}, {"kty": "RSA", "n": 5, "e": "AQAB"}, {"kty": "EC"}], None]
)
def test_keys_that_are_none_are_passed_over(issuer: Issuer, http: HttpClient, keys: Any) -> None:
    issuer.answers["jwks"] = 200, {}, json.dumps({"keys": keys}).encode()
    with pytest.raises(Refused, match="key is not among"):
        sign_in(upstream(issuer, http))
    issuer.answers["jwks"] = 200, {}, json.dumps({"keys": [*(keys or []), rsa_key("first").as_dict()]}).encode()
    assert sign_in(upstream(issuer, http)).key == f"{issuer.url} alice"


def test_new_keys_are_found_at_once_but_asked_for_seldom(issuer: Issuer, http: HttpClient) -> None:
    clock = [0.0]
    connector = connect(config(issuer), http, MemoryShelf(lambda: clock[0]))
    sign_in(connector)
    sign_in(connector)
    assert (issuer.asked.count("jwks"), issuer.asked.count("openid-configuration")) == (1, 1)
    issuer.key = rsa_key("rotated")
    issuer.published = [*issuer.published, issuer.key]
    assert sign_in(connector).key == f"{issuer.url} alice"
    assert issuer.asked.count("jwks") == 2
    issuer.key = rsa_key("unpublished")
    for _ in range(5):
        with pytest.raises(Refused, match="key is not among"):
            sign_in(connector)
    assert issuer.asked.count("jwks") == 2
    clock[0] += 31
    issuer.published = [issuer.key]
    assert sign_in(connector).key == f"{issuer.url} alice"
    clock[0] += 601
    issuer.published = [rsa_key("first")]
    with pytest.raises(Refused):
        sign_in(connector)


def test_freshness_has_to_be_proven(issuer: Issuer, http: HttpClient) -> None:
    connector = upstream(issuer, http)
    assert sign_in(connector, fresh=True).auth_time is not None
    assert sign_in(connector, max_age=3600).auth_time is not None
    issuer.claims = {"auth_time": int(now()) - 600}
    assert sign_in(connector).auth_time is not None
    assert sign_in(connector, max_age=3600).auth_time is not None
    for hints in ({"fresh": True}, {"max_age": 300}, {"max_age": 0}):
        with pytest.raises(Refused, match="too long ago"):
            sign_in(connector, **hints)
    issuer.claims = {"auth_time": None}
    for hints in ({"fresh": True}, {"max_age": 300}):
        with pytest.raises(Refused, match="does not say when"):
            sign_in(connector, **hints)


ANY_JSON = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats() | strategies.text(),
    lambda inner: strategies.lists(inner, max_size=3) | strategies.dictionaries(strategies.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = strategies.sampled_from(
    [
        "iss",
        "sub",
        "aud",
        "exp",
        "iat",
        "nbf",
        "nonce",
        "azp",
        "at_hash",
        "auth_time",
        "alg",
        "kid",
        "typ",
        "crit",
        "b64",
    ]
)
ANY_MEMBERS = strategies.dictionaries(NAMES, ANY_JSON, max_size=6)
EXPECTED = id_token.Expected("https://login.example.com", CLIENT, "n", "access", ["ES256"])


@settings(max_examples=100, deadline=None)
@given(strategies.text() | strategies.builds("{}.{}.{}".format, *[strategies.text("ab=-_{}")] * 3))
def test_no_text_raises_anything_but_a_refusal(token: str) -> None:
    with pytest.raises(Refused):
        id_token.verified(token, KeySet([ec_key("k")]), lambda: None, EXPECTED)


@settings(max_examples=100, deadline=None)
@given(header=ANY_MEMBERS, claims=ANY_MEMBERS)
def test_nothing_signed_raises_anything_but_a_refusal(header: Change, claims: Change) -> None:
    now = int(time.time())
    right = {"iss": EXPECTED.issuer, "aud": CLIENT, "nonce": "n", "sub": "a", "exp": now + 60, "iat": now}
    content = f"{encoded({'alg': 'ES256', 'kid': 'k', **header})}.{encoded({**right, **claims})}"
    signature = es256_signature(content)
    try:
        told = id_token.verified(f"{content}.{signature}", KeySet([ec_key("k")]), lambda: None, EXPECTED)
    except Refused:
        return
    assert told["iss"] == EXPECTED.issuer and told["nonce"] == "n"
    assert told["aud"] == CLIENT or CLIENT in told["aud"]


def es256_signature(content: str) -> str:
    key = ec_key("k").private_key
    assert key is not None
    r, s = decode_dss_signature(key.sign(content.encode(), ec.ECDSA(hashes.SHA256())))
    return encoded(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
