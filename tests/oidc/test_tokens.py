"""Tokens: what they say, of whom, and that nothing but a token of ours is read as one."""

from __future__ import annotations

import base64
import hashlib
import hmac
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import pytest
from flask import Flask
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from broker.context import Scope, acting, system
from broker.db import unit
from broker.directory import Directory
from broker.errors import AuthenticationRequired, TokenExpired
from broker.models import Domain, Group
from oidc import claims, keys, tokens
from oidc.tokens import Issuer, TokenIssuer, read_any
from tests.casting import Cast, give_role, make_group, make_user
from tests.oidc.minting import Client, SignedIn, assign, make_application, make_service_account, own_token, sign_in


def decoded(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    header, payload, _ = token.split(".")
    return orjson.loads(_bytes(header)), orjson.loads(_bytes(payload))


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def half(text: str) -> str:
    return _text(hashlib.sha256(text.encode()).digest()[:16])


@pytest.fixture
def alice(acme: Cast) -> SignedIn:
    document = {
        "userName": f"alice@{acme.acme.slug}.example",
        "displayName": "Alice Example",
        "name": {"givenName": "Alice", "familyName": "Example"},
        "locale": "de-CH",
        "emails": [{"value": "second@acme.example"}, {"value": "alice@acme.example", "primary": True}],
        "active": True,
    }
    with unit(acme.acme), acting(system("test")):
        user_id = Directory().create("User", document).id
    return sign_in(acme.acme, user_id)


def test_a_persons_access_token_says_what_the_contract_lists_and_no_more(acme: Cast, alice: SignedIn) -> None:
    issued = alice.issue("scaikey", ("openid", "scaikey:read"))
    header, said = decoded(issued.token)
    assert header == {"alg": "RS256", "kid": keys.ring().signing("RS256").kid, "typ": "at+jwt"}
    now = int(time.time())
    person = claims.person(alice.user_id, None, tenant_id=acme.acme.tenant_id)
    assert person is not None
    assert said["exp"] - said["iat"] == issued.expires_in == 600 and said["exp"] == issued.expires_at
    assert now - 5 <= said.pop("iat") <= now and said.pop("exp") > now
    assert said == {
        "iss": f"http://localhost:8080/api/v1/auth/tenants/{acme.acme.slug}",
        "sub": alice.user_id,
        "aud": "scaikey",
        "client_id": alice.client.client_id,
        "jti": issued.jti,
        "scope": "openid scaikey:read",
        "identity_id": f"user:{person.user_name}",
        "tenant_id": acme.acme.tenant_id,
        "partner_id": acme.world.partner_id,
        "preferred_username": person.user_name,
        "name": "Alice Example",
        "email": "alice@acme.example",
        "roles": [],
        "groups": [],
        "sid": alice.session_id,
        "auth_time": int(alice.auth.auth_time.timestamp()),
        "amr": ["pwd"],
        "acr": "1",
    }
    assert issued.jti.startswith(f"{alice.grant_id}.")


def test_a_clients_own_token_is_about_the_client_alone(acme: Cast) -> None:
    account = make_service_account(acme.acme, "reporting-service")
    for client, identity in (
        (account, "sa:reporting-service"),
        (made := make_application(acme.acme), f"app:{made.client_id}"),
    ):
        _, said = decoded(own_token(acme.acme, client, "billing", ("read",)))
        assert {name: said[name] for name in ("sub", "client_id", "aud", "identity_id")} == {
            "sub": client.client_id,
            "client_id": client.client_id,
            "aud": "billing",
            "identity_id": identity,
        }
        assert set(said) == {
            *("iss", "sub", "aud", "client_id", "exp", "iat", "jti", "scope", "tenant_id", "partner_id", "identity_id")
        }


def test_a_platform_client_that_names_no_tenant_has_none(acme: Cast) -> None:
    issuer = TokenIssuer(Issuer.platform())
    client = make_application(acme.platform, scope="GLOBAL")
    _, said = decoded(issuer.access_token(client=client, audience="api", scopes=()).token)
    assert said["iss"] == "http://localhost:8080/api/v1/platform" and not {"tenant_id", "partner_id"} & set(said)
    _, named = decoded(issuer.access_token(client=client, audience="api", scopes=(), tenant=acme.acme).token)
    assert (named["tenant_id"], named["partner_id"]) == (acme.acme.tenant_id, acme.world.partner_id)


def test_an_id_token_is_for_its_client_and_bound_to_what_came_with_it(acme: Cast, alice: SignedIn) -> None:
    token = alice.id_token(nonce="n-1", access_token="access", scopes=("openid",))
    header, said = decoded(token)
    assert header["typ"] == "JWT"
    assert said == {
        "iss": alice.issuer.url,
        "sub": alice.user_id,
        "aud": alice.client.client_id,
        "azp": alice.client.client_id,
        "exp": said["iat"] + 300,
        "iat": said["iat"],
        "nonce": "n-1",
        "at_hash": half("access"),
        "tenant_id": acme.acme.tenant_id,
        "sid": alice.session_id,
        "auth_time": int(alice.auth.auth_time.timestamp()),
        "amr": ["pwd"],
        "acr": "1",
    }


def test_claims_about_a_person_follow_the_scopes(acme: Cast, alice: SignedIn) -> None:
    plain, whole = (
        decoded(alice.id_token(scopes=scopes))[1] for scopes in (("openid",), ("openid", "profile", "email"))
    )
    added = {name: whole[name] for name in set(whole) - set(plain)}
    assert added.pop("updated_at") > 0 and added.pop("preferred_username")
    assert added == {
        "name": "Alice Example",
        "given_name": "Alice",
        "family_name": "Example",
        "locale": "de-CH",
        "email": "alice@acme.example",
        "email_verified": False,
    }
    person = claims.person(alice.user_id, "x", tenant_id=acme.acme.tenant_id)
    assert person is not None
    assert claims.userinfo(person, ["openid"]) == {"sub": alice.user_id}
    assert claims.userinfo(person, ["openid", "profile"]).keys() >= {"sub", "name", "roles", "groups"}


def test_an_address_is_verified_where_its_domain_is_this_tenants(acme: Cast, alice: SignedIn) -> None:
    name = f"{acme.acme.slug}.example"
    user_id = make_user(acme.acme, emails=[{"value": f"bob@{name.upper()}"}])
    for verified in (False, True):
        with unit(acme.acme) as session:
            row = session.get(Domain, (acme.acme.tenant_id, f"dom_{name}"))
            if row is None:
                session.add(Domain(id=f"dom_{name}", name=name, token="t"))
            else:
                row.verified = verified
        person = claims.person(user_id, None, tenant_id=acme.acme.tenant_id)
        assert person is not None and person.email_verified is verified


def test_groups_are_token_names_direct_and_nested_and_roles_are_the_audiences(acme: Cast) -> None:
    user_id = make_user(acme.acme)
    inner = make_group(acme.acme, user_id)
    outer = make_group(acme.acme, inner)
    make_group(acme.acme)
    wiki = make_application(acme.acme, audience=f"wiki-{acme.acme.slug}")
    other = make_application(acme.acme, audience=f"other-{acme.acme.slug}")
    assign(acme.acme, wiki, user_id, "reader", "tenant_admin", "scaikey:everything")
    assign(acme.acme, wiki, outer, "editor", "reader")
    assign(acme.acme, other, user_id, "owner")

    def seen(audience: str) -> claims.Person:
        person = claims.person(user_id, audience, tenant_id=acme.acme.tenant_id)
        assert person is not None
        with unit(acme.acme):
            assert claims.person(user_id, audience) == person
        return person

    with unit(acme.acme) as session:
        names = {session.get_one(Group, (acme.acme.tenant_id, id)).token_name for id in (inner, outer)}
    assert set(seen(f"wiki-{acme.acme.slug}").groups) == names
    assert seen(f"wiki-{acme.acme.slug}").roles == ("editor", "reader"), "an assignment gives no administrator's role"
    assert seen(other.client_id).roles == ("owner",)
    assert seen("scaikey").roles == ()
    assert claims.person(user_id, "scaikey", tenant_id=acme.globex.tenant_id) is None


def test_administrators_roles_are_in_tokens_where_they_hold_and_nowhere_else(acme: Cast) -> None:
    user_id = make_user(acme.acme)
    group_id = make_group(acme.acme, make_group(acme.acme, user_id))
    give_role(acme.acme, group_id, "tenant_admin", acme.acme.tenant_id)
    give_role(acme.acme, user_id, "partner_admin", acme.world.partner_id)
    give_role(acme.acme, user_id, "tenant_admin", acme.globex.tenant_id)
    _, said = decoded(sign_in(acme.acme, user_id).token("anything"))
    assert said["roles"] == ["tenant_admin"]


def test_es256_where_the_application_asks_for_it(acme: Cast) -> None:
    signed_in = sign_in(acme.acme, make_user(acme.acme), make_application(acme.acme, alg="ES256"))
    for token in (signed_in.token(), signed_in.id_token()):
        assert decoded(token)[0]["alg"] == "ES256"
    assert read_any(signed_in.token(), "scaikey").subject == signed_in.user_id


def test_lives_come_from_the_caller_the_application_or_the_setting_and_have_an_end(acme: Cast) -> None:
    issuer, client = TokenIssuer(Issuer.of_tenant(acme.acme)), make_application(acme.acme)
    usual = Client(client.id, client.client_id, access_token_lifetime=None)

    def life(one: Client, **options: Any) -> int:
        return issuer.access_token(client=one, audience="a", scopes=(), **options).expires_in

    assert life(client, lifetime=90) == 90 and life(client) == 600
    assert life(client, lifetime=10**9) == 86_400
    with unit(acme.acme):
        assert life(usual) == 3_600


def test_a_defect_of_ours_does_not_sign(acme: Cast, alice: SignedIn) -> None:
    person = claims.person(alice.user_id, None, tenant_id=acme.acme.tenant_id)
    common: dict[str, Any] = {"client": alice.client, "audience": "a", "scopes": (), "person": person}
    with pytest.raises(ValueError, match="another tenant"):
        TokenIssuer(Issuer.of_tenant(acme.globex)).access_token(**common, grant_id="g", authentication=alice.auth)
    with pytest.raises(ValueError, match="a grant"):
        TokenIssuer(alice.issuer).access_token(**common)


def test_a_token_is_read_by_its_own_issuer_and_for_its_own_audience(acme: Cast, alice: SignedIn) -> None:
    token = alice.token("billing")
    read = TokenIssuer(alice.issuer).read(token, audience="billing")
    assert (read.subject, read.tenant_id, read.grant_id) == (alice.user_id, acme.acme.tenant_id, alice.grant_id)
    assert TokenIssuer(alice.issuer).read(token, audience=None) == read == read_any(token, "billing")
    for refused in (
        lambda: TokenIssuer(alice.issuer).read(token, audience="scaikey"),
        lambda: TokenIssuer(Issuer.of_tenant(acme.globex)).read(token, audience="billing"),
        lambda: TokenIssuer(Issuer.platform()).read(token, audience="billing"),
        lambda: read_any(token, "scaikey"),
    ):
        with pytest.raises(AuthenticationRequired):
            refused()


def test_an_id_token_serves_as_a_hint_after_its_end_and_as_nothing_else(
    acme: Cast, alice: SignedIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = alice.id_token()
    for audience in (None, alice.client.client_id, "scaikey"):
        with pytest.raises(AuthenticationRequired):
            read_any(token, audience)
    monkeypatch.setattr(tokens.time, "time", lambda: float(2**31))
    hint = TokenIssuer(alice.issuer).read_hint(token)
    assert hint is not None and (hint["sub"], hint["sid"]) == (alice.user_id, alice.session_id)
    assert TokenIssuer(Issuer.of_tenant(acme.globex)).read_hint(token) is None
    assert TokenIssuer(alice.issuer).read_hint(alice.token()) is None
    assert TokenIssuer(alice.issuer).read_hint("x.y.z") is None


Forge = Callable[[dict[str, Any], dict[str, Any]], str]


def signed(header: Mapping[str, Any], payload: bytes, key: Any = None) -> str:
    """A JWS with whatever header and payload, truly signed by our key unless another is given."""
    key = key or keys.ring().signing("ES256" if header.get("alg") == "ES256" else "RS256")
    first = f"{_text(orjson.dumps(header))}.{_text(payload)}"
    algorithm = jws.JWSRegistry.algorithms[str(header["alg"])]
    return f"{first}.{_text(algorithm.sign(first.encode(), key))}"


def our(header: dict[str, Any], said: dict[str, Any], **changed: Any) -> str:
    return signed(header, orjson.dumps({**said, **changed}))


def without(said: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in said.items() if key != name}


def hmac_signed(header: Mapping[str, Any], payload: bytes) -> str:
    first = f"{_text(orjson.dumps(header))}.{_text(payload)}"
    public = keys.ring().signing("RS256").as_pem(private=False)
    return f"{first}.{_text(hmac.digest(public, first.encode(), 'sha256'))}"


STRANGER = RSAKey.generate_key(2048)
STRANGERS_CURVE = ECKey.generate_key("P-256")

FORGERIES: dict[str, Forge] = {
    "alg none": lambda h, c: f"{_text(orjson.dumps({**h, 'alg': 'none'}))}.{_text(orjson.dumps(c))}.",
    "alg none, a signature left": lambda h, c: (
        f"{_text(orjson.dumps({**h, 'alg': 'none'}))}.{_text(orjson.dumps(c))}.eA"
    ),
    "alg None": lambda h, c: f"{_text(orjson.dumps({**h, 'alg': 'NONE'}))}.{_text(orjson.dumps(c))}.eA",
    "no signature": lambda h, c: our(h, c).rpartition(".")[0] + ".",
    "HS256 with our public key": lambda h, c: hmac_signed({**h, "alg": "HS256"}, orjson.dumps(c)),
    "a key of somebody else, our kid": lambda h, c: signed(h, orjson.dumps(c), STRANGER),
    "ES256 under an RSA kid": lambda h, c: signed({**h, "alg": "ES256"}, orjson.dumps(c), STRANGERS_CURVE),
    "PS256 with our key": lambda h, c: signed({**h, "alg": "PS256"}, orjson.dumps(c)),
    "RS512 with our key": lambda h, c: signed({**h, "alg": "RS512"}, orjson.dumps(c)),
    "an unknown kid": lambda h, c: signed({**h, "kid": "nobody"}, orjson.dumps(c)),
    "no kid": lambda h, c: signed(without(h, "kid"), orjson.dumps(c)),
    "a kid that is a list": lambda h, c: signed({**h, "kid": [h["kid"]]}, orjson.dumps(c)),
    "its own jwk": lambda h, c: signed({**h, "jwk": STRANGER.as_dict(private=False)}, orjson.dumps(c), STRANGER),
    "its own jwk, our key": lambda h, c: signed({**h, "jwk": STRANGER.as_dict(private=False)}, orjson.dumps(c)),
    "a jku": lambda h, c: signed({**h, "jku": "https://evil.example/jwks"}, orjson.dumps(c)),
    "an x5u": lambda h, c: signed({**h, "x5u": "https://evil.example/cert"}, orjson.dumps(c)),
    "an x5c": lambda h, c: signed({**h, "x5c": ["MIIB"]}, orjson.dumps(c)),
    "a crit": lambda h, c: signed({**h, "crit": ["exp"], "exp": 1}, orjson.dumps(c)),
    "an empty crit": lambda h, c: signed({**h, "crit": []}, orjson.dumps(c)),
    "b64 false": lambda h, c: signed({**h, "b64": False, "crit": ["b64"]}, orjson.dumps(c)),
    "a zip": lambda h, c: signed({**h, "zip": "DEF"}, orjson.dumps(c)),
    "typ JWT": lambda h, c: signed({**h, "typ": "JWT"}, orjson.dumps(c)),
    "typ in capitals": lambda h, c: signed({**h, "typ": "AT+JWT"}, orjson.dumps(c)),
    "no typ": lambda h, c: signed(without(h, "typ"), orjson.dumps(c)),
    "a member twice in the header": lambda h, c: signed_raw(orjson.dumps(h)[:-1] + b',"alg":"none"}', orjson.dumps(c)),
    "a foreign issuer": lambda h, c: our(h, c, iss="https://evil.example"),
    "an issuer that begins like ours": lambda h, c: our(h, c, iss=c["iss"] + ".evil.example"),
    "another tenant's issuer": lambda h, c: our(h, c, iss=c["iss"].replace("acme", "globex")),
    "a list of issuers": lambda h, c: our(h, c, iss=[c["iss"]]),
    "a tenant that is not the issuer's": lambda h, c: our(h, c, tenant_id="tnt_00000000000000000000000000"),
    "no tenant at a tenant's issuer": lambda h, c: signed(h, orjson.dumps(without(c, "tenant_id"))),
    "a tenant with a NUL": lambda h, c: our(h, c, tenant_id="tnt_\0"),
    "a list of audiences": lambda h, c: our(h, c, aud=["scaikey", "evil"]),
    "a list of one audience": lambda h, c: our(h, c, aud=["scaikey"]),
    "another audience": lambda h, c: our(h, c, aud="billing"),
    "no audience": lambda h, c: signed(h, orjson.dumps(without(c, "aud"))),
    "issued tomorrow": lambda h, c: our(h, c, iat=int(time.time()) + 86_400, exp=int(time.time()) + 90_000),
    "an end in words": lambda h, c: our(h, c, exp="tomorrow"),
    "an endless end": lambda h, c: signed(h, orjson.dumps(c).replace(str(c["exp"]).encode(), b"Infinity")),
    "an end in half seconds": lambda h, c: our(h, c, exp=time.time() + 60.5),
    "an end that is true": lambda h, c: our(h, c, exp=True),
    "no end": lambda h, c: signed(h, orjson.dumps(without(c, "exp"))),
    "no beginning": lambda h, c: signed(h, orjson.dumps(without(c, "iat"))),
    "no jti": lambda h, c: signed(h, orjson.dumps(without(c, "jti"))),
    "not before tomorrow": lambda h, c: our(h, c, nbf=int(time.time()) + 86_400),
    "a subject that is a number": lambda h, c: our(h, c, sub=1),
    "a scope that is a list": lambda h, c: our(h, c, scope=["scaikey:write"]),
    "a member twice": lambda h, c: signed(h, orjson.dumps(c)[:-1] + b',"sub":"usr_somebody"}'),
    "a deep payload": lambda h, c: signed(h, orjson.dumps(c)[:-1] + b',"x":' + b"[" * 3_000 + b"]" * 3_000 + b"}"),
    "a large payload": lambda h, c: our(h, c, padding="x" * 70_000),
    "a list for a payload": lambda h, c: signed(h, b"[]"),
    "no JSON": lambda h, c: signed(h, b"\xff\xfe"),
    "another's payload": lambda h, c: ".".join(
        [our(h, c).split(".")[0], _text(orjson.dumps({**c, "sub": "usr_x"})), our(h, c).split(".")[2]]
    ),
    "four parts": lambda h, c: our(h, c) + ".e30",
    "a space inside": lambda h, c: our(h, c)[:40] + " " + our(h, c)[40:],
    "padding": lambda h, c: our(h, c) + "==",
    "five parts, encrypted": lambda h, c: "eyJhbGciOiJkaXIiLCJlbmMiOiJBMTI4R0NNIn0..AAAA.AAAA.AAAA",
}


def signed_raw(header: bytes, payload: bytes) -> str:
    first = f"{_text(header)}.{_text(payload)}"
    signature = jws.JWSRegistry.algorithms["RS256"].sign(first.encode(), keys.ring().signing("RS256"))
    return f"{first}.{_text(signature)}"


@pytest.mark.parametrize("name", FORGERIES)
def test_no_forgery_is_read(acme: Cast, alice: SignedIn, name: str) -> None:
    good = alice.token()
    header, said = decoded(good)
    forged = FORGERIES[name](header, said)
    with pytest.raises(AuthenticationRequired) as refusal:
        read_any(forged, "scaikey")
    assert refusal.value.code == "authentication_required"
    with pytest.raises(AuthenticationRequired):
        TokenIssuer(alice.issuer).read(forged, audience="scaikey")
    assert read_any(our(header, said), "scaikey").subject == alice.user_id, "the same way made, and nothing forged"


def test_an_issuer_of_another_tenant_is_refused_although_our_key_signed(acme: Cast, alice: SignedIn) -> None:
    header, said = decoded(alice.token())
    for changed in (
        {"iss": Issuer.of_tenant(acme.globex).url},
        {"tenant_id": acme.globex.tenant_id},
        {"iss": Issuer.platform().url + "/x"},
        {"iss": said["iss"].upper()},
    ):
        with pytest.raises(AuthenticationRequired):
            read_any(our(header, said, **changed), "scaikey")


def test_an_expired_token_says_so_only_when_it_was_good(acme: Cast, alice: SignedIn) -> None:
    header, said = decoded(alice.token())
    now = int(time.time())
    for end in (now, now - 1, 0):
        with pytest.raises(TokenExpired):
            read_any(our(header, said, exp=end), "scaikey")
    with pytest.raises(AuthenticationRequired) as refusal:
        read_any(signed(header, orjson.dumps({**said, "exp": now - 1}), STRANGER), "scaikey")
    assert refusal.value.code == "authentication_required"
    assert read_any(our(header, said, exp=now + 5, iat=now + tokens.CLOCKS_APART - 5), "scaikey")


def test_threads_of_two_tenants_never_swap_issuers(web: Flask, acme: Cast) -> None:
    wrong: list[object] = []

    def work(scope: Scope, user_id: str, client: Client) -> None:
        with web.app_context():
            for _ in range(15):
                signed_in = SignedIn(scope, user_id, client, "ses_x", "grn_x", Issuer.of_tenant(scope), auth)
                _, said = decoded(signed_in.token())
                _, hint = decoded(signed_in.id_token())
                if {said["iss"], hint["iss"]} != {Issuer.of_tenant(scope).url} or said["tenant_id"] != scope.tenant_id:
                    wrong.append(said)
                if TokenIssuer(Issuer.of_tenant(scope)).read(signed_in.token(), audience=None).subject != user_id:
                    wrong.append(said)

    people = [(scope, make_user(scope), make_application(scope, alg="ES256")) for scope in acme.world.tenants]
    auth = sign_in(*people[0]).auth
    threads = [threading.Thread(target=work, args=person) for person in people * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_removed_people_are_nobody(acme: Cast, alice: SignedIn) -> None:
    with unit(acme.acme), acting(system("test")):
        Directory().remove("User", alice.user_id)
    assert claims.person(alice.user_id, None, tenant_id=acme.acme.tenant_id) is None
