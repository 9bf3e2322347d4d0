"""Clients that sign (`private_key_jwt`, RFC 7523): their keys, and the assertion that proves one.

Owns the check of an assertion, that it is used once, and this process's copy of keys that a client publishes. An
assertion is for our issuer alone: with its token endpoint as audience, another server could have asked for it.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from typing import Any, LiteralString

import orjson
from flask import current_app
from joserfc import jws
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from broker import connections
from broker.db import db, unit
from broker.patience import NoTurn, Place, Step
from connectors.http import OutboundError
from oidc.clients import Client
from oidc.requests import HouseRequest
from oidc.tokens import Issuer

ALGORITHMS = ("RS256", "PS256", "ES256", "ES384", "EdDSA", "Ed25519")
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
LONGEST_LIFE = 3_600
LEEWAY = 60
"""Seconds between the client's clock and ours."""

_KEPT_FOR = 300.0
_ASKED_AGAIN_AFTER = 10.0
_MOST_KEYS = 20
_LARGEST = 65_536
_CACHE = "scaikey.client_keys"

_CLAIM: LiteralString = """
    INSERT INTO one_time (tenant_id, purpose, digest, expires_at)
    VALUES (%(tenant)s, 'client_assertion', %(digest)s, to_timestamp(%(until)s))
    ON CONFLICT DO NOTHING RETURNING 1
"""

PublicKey = RSAKey | ECKey | OKPKey
_KINDS: dict[str, type[RSAKey] | type[ECKey] | type[OKPKey]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
_SHORTEST_MODULUS = 342
"""Characters of base64url that 2048 bits take."""


class _Allowed(jws.JWSRegistry):
    """Our algorithms. joserfc's own registry also warns of EdDSA's name, which RFC 9864 replaces and clients use."""

    def get_alg(self, name: str) -> Any:
        if name not in ALGORITHMS:
            raise UnsupportedAlgorithmError(f"{name} is not taken")
        return self.algorithms[name]


_ALLOWED = _Allowed()


def by_assertion(query: Callable[[str], Client | None], request: HouseRequest, issuer: Issuer) -> Client | None:
    """The client that signed the request's assertion; None when it proves nothing."""
    assertion = request.get("client_assertion") or ""
    if request.get("client_assertion_type") != ASSERTION_TYPE:
        return None
    client_id = subject_of(assertion)
    client = query(client_id) if client_id else None
    if client is None or "private_key_jwt" not in client.auth_methods:
        return None
    claims = _verified(assertion, client)
    if claims is None or not _is_for(claims, client, issuer):
        return None
    return client if _first_use(client, claims) else None


def subject_of(assertion: str) -> str | None:
    """Who an assertion says it is from; nothing about it is checked."""
    try:
        claims = orjson.loads(jws.extract_compact(assertion.encode("ascii")).payload)
    except (JoseError, ValueError, RecursionError):
        return None
    subject = claims.get("sub") if isinstance(claims, dict) else None
    return subject if isinstance(subject, str) else None


def _verified(assertion: str, client: Client) -> dict[str, Any] | None:
    try:
        header = jws.extract_compact(assertion.encode("ascii")).headers()
    except (JoseError, ValueError, RecursionError):
        return None
    for key in _keys(client, header.get("kid")):
        try:
            proven = jws.deserialize_compact(assertion, key, registry=_ALLOWED)
            claims = orjson.loads(proven.payload)
        except (JoseError, ValueError, RecursionError):
            continue
        return claims if isinstance(claims, dict) else None
    return None


def _is_for(claims: dict[str, Any], client: Client, issuer: Issuer) -> bool:
    now, expires = time.time(), claims.get("exp")
    if isinstance(expires, bool) or not isinstance(expires, int | float) or not isinstance(claims.get("jti"), str):
        return False
    for name in ("nbf", "iat"):
        moment = claims.get(name, 0)
        if isinstance(moment, bool) or not isinstance(moment, int | float) or moment > now + LEEWAY:
            return False
    return (
        claims.get("iss") == client.client_id == claims.get("sub")
        and claims.get("aud") in (issuer.url, [issuer.url])
        and now - LEEWAY < expires <= now + LONGEST_LIFE + LEEWAY
    )


def _first_use(client: Client, claims: dict[str, Any]) -> bool:
    digest = hashlib.sha256(orjson.dumps([client.client_id, claims["jti"]])).digest()
    until = claims["exp"] + 2 * LEEWAY
    with unit(client.owner):
        used = (
            db.session()
            .connection()
            .exec_driver_sql(_CLAIM, {"tenant": client.owner.tenant_id, "digest": digest, "until": until})
        )
        return used.first() is not None


def _keys(client: Client, kid: Any) -> list[PublicKey]:
    """The client's public keys that may have signed under that kid."""
    if client.jwks is not None:
        found = _parsed(client.jwks)
    elif client.jwks_uri is not None:
        found = _published(client, kid)
    else:
        found = []
    return [key for key in found if kid is None or key.kid is None or key.kid == kid]


def _parsed(jwks: Any) -> list[PublicKey]:
    """Symmetric keys are none of these: what the client knows, whoever reads its registration would know too."""
    found: list[PublicKey] = []
    keys = jwks.get("keys") if isinstance(jwks, dict) else None
    for one in (keys if isinstance(keys, list) else [])[:_MOST_KEYS]:
        kind = _KINDS.get(str(one.get("kty"))) if isinstance(one, dict) else None
        if kind is None or (kind is RSAKey and len(str(one.get("n"))) < _SHORTEST_MODULUS):
            continue
        try:
            found.append(kind.import_key(one))
        except (JoseError, ValueError, TypeError, KeyError, AttributeError):
            continue
    return found


class _Published:
    """Key sets of clients as they were last fetched."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.sets: dict[str, tuple[float, list[PublicKey]]] = {}


def _published(client: Client, kid: Any) -> list[PublicKey]:
    """Fetched again when old, and for an unknown kid at most every ten seconds; as they were while others wait."""
    cache: _Published = current_app.extensions.setdefault(_CACHE, _Published())
    uri, tenant_id = client.jwks_uri or "", client.owner.tenant_id or ""
    name = f"{tenant_id} {uri}"
    with cache.lock:
        fetched_at, keys = cache.sets.get(name, (-1e9, []))
    age = time.monotonic() - fetched_at
    known = kid is None or any(key.kid == kid for key in keys)
    if age < _ASKED_AGAIN_AFTER or (known and age < _KEPT_FOR):
        return keys
    headers = {"Accept": "application/json"}
    try:
        with Step(connections.http_client(tenant_id), Place(tenant_id, uri)) as http:
            answer = http.request("GET", uri, headers=headers, max_response=_LARGEST, attempts=1)
        if answer.status == 200:
            keys = _parsed(answer.json())
    except NoTurn:
        return keys
    except OutboundError:
        pass
    with cache.lock:
        if len(cache.sets) > 1_000:
            cache.sets.clear()
        cache.sets[name] = (time.monotonic(), keys)
    return keys
