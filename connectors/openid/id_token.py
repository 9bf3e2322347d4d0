"""What we believe of an ID token: a signature by a published key, and claims that are about us, this sign-in and now.

Owns every check of OpenID Connect Core §3.1.3.7. The signature is joserfc's; the algorithms are those of the settings,
all asymmetric, whatever the token says of itself.
"""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from authlib.oidc.core.util import create_half_hash
from joserfc import jws
from joserfc.errors import ClaimError, ExpiredTokenError, InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry
from joserfc.jwt import JWTClaimsRegistry

from connectors.openid.claims import check_text
from connectors.port import Refused

MOST_BYTES = 64 * 1024
LEEWAY = 60
"""Seconds by which our clock and the upstream's may differ."""

Claims = dict[str, Any]

_WRONG = {
    "iss": "It names another issuer.",
    "aud": "It is meant for somebody else.",
    "exp": "It does not say until when it holds.",
    "iat": "It was issued in the future: compare the upstream's clock with ours.",
    "nbf": "It does not hold yet: compare the upstream's clock with ours.",
    "sub": "It does not say whom it is about.",
}


@dataclass(frozen=True, slots=True)
class Expected:
    """What a token has to fit. `authenticated_since`: when the person may have authenticated at the earliest."""

    issuer: str
    client_id: str
    nonce: str
    access_token: str | None
    algorithms: Collection[str]
    authenticated_since: float | None = None


def verified(token: str, keys: KeySet, renewed_keys: Callable[[], KeySet | None], expected: Expected) -> Claims:
    """The token's claims, all of them checked. Raises Refused.

    A token that names a key we do not know makes us look once whether there are new ones.
    """
    header = _header(token)
    try:
        claims = _signed(token, keys, expected.algorithms)
    except InvalidKeyIdError:
        renewed = renewed_keys()
        try:
            if renewed is None:
                raise InvalidKeyIdError
            claims = _signed(token, renewed, expected.algorithms)
        except InvalidKeyIdError:
            raise Refused("The ID token is not accepted. Its key is not among those the upstream publishes.") from None
    _check_claims(claims, expected)
    _check_access_token(claims, expected.access_token, header["alg"])
    return claims


def moment(value: object) -> datetime | None:
    """A NumericDate as a moment; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        return None


class _Registry(JWSRegistry):
    """Signatures by exactly the given algorithms, in tokens of the size we take."""

    max_header_length = 4096
    max_payload_length = MOST_BYTES

    def get_alg(self, name: str) -> Any:
        # joserfc's own also warns of EdDSA's name, which RFC 9864 replaces but upstreams still use.
        if name not in (self.allowed or ()):
            raise Refused(f"The ID token is not accepted. Its signature algorithm is {_brief(name)}.")
        return self.algorithms[name]


class _StrictJson(json.JSONDecoder):
    def __init__(self) -> None:
        super().__init__(object_pairs_hook=_unrepeated, parse_constant=_no_number)


def _header(token: str) -> dict[str, Any]:
    if len(token) > MOST_BYTES:
        raise Refused("The ID token is not accepted. It is too large.")
    try:
        header = jws.extract_compact(token.encode("ascii"), registry=_Registry()).headers()
        if not isinstance(header, dict) or not isinstance(header["alg"], str):
            raise ValueError("header")
    except (JoseError, ValueError, TypeError, KeyError, RecursionError):
        raise Refused("The ID token is not a signed JWT.") from None
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() != "jwt" or "crit" in header:
        # RFC 8725 §3.11: a token of another kind (access, logout) is none of identity.
        raise Refused("The ID token is not accepted. Its header is of another kind of token.")
    return header


def _signed(token: str, keys: KeySet, algorithms: Collection[str]) -> Claims:
    registry = _Registry(algorithms=algorithms, strict_check_header=False)
    try:
        payload = jws.deserialize_compact(token, keys, registry=registry).payload
        claims = json.loads(payload or b"", cls=_StrictJson)
        check_text(claims)
    except InvalidKeyIdError:
        raise
    except JoseError:
        raise Refused("The ID token is not accepted. Its signature is not the upstream's.") from None
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Refused("The ID token is not accepted. It cannot be read.") from None
    if not isinstance(claims, dict):
        raise Refused("The ID token is not accepted. It cannot be read.")
    return claims


def _check_claims(claims: Claims, expected: Expected) -> None:
    now = int(time.time())
    registry = JWTClaimsRegistry(
        now=now,
        leeway=LEEWAY,
        iss={"essential": True, "value": expected.issuer},
        aud={"essential": True, "value": expected.client_id},
        exp={"essential": True},
        iat={"essential": True},
        sub={"essential": True},
    )
    try:
        registry.validate({name: claims[name] for name in ("iss", "aud", "exp", "iat", "nbf", "sub") if name in claims})
    except ExpiredTokenError:
        raise Refused("The ID token has expired: compare the upstream's clock with ours.") from None
    except ClaimError as error:
        raise Refused(f"The ID token is not accepted. {_WRONG[error.claim.partition(',')[0]]}") from None
    audiences = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
    if (len(audiences) > 1 or "azp" in claims) and claims.get("azp") != expected.client_id:
        raise Refused("The ID token is not accepted. It was issued to another client.")
    nonce = claims.get("nonce")
    if not (isinstance(nonce, str) and nonce.isascii() and hmac.compare_digest(nonce, expected.nonce)):
        raise Refused("The ID token is not accepted. It belongs to another sign-in.")
    if moment(claims["exp"]) is None:
        raise Refused("The ID token is not accepted. It does not say until when it holds.")
    _check_age(claims, expected, now)


def _check_age(claims: Claims, expected: Expected, now: int) -> None:
    when = moment(claims.get("auth_time"))
    if "auth_time" in claims and (when is None or when.timestamp() > now + LEEWAY):
        raise Refused("The ID token is not accepted. Its auth_time is no moment in the past.")
    if expected.authenticated_since is None:
        return
    if when is None:
        raise Refused("The upstream does not say when the person authenticated.")
    if when.timestamp() < expected.authenticated_since - LEEWAY:
        raise Refused("The person authenticated too long ago, and the upstream did not ask again.")


def _check_access_token(claims: Claims, access_token: str | None, algorithm: str) -> None:
    said = claims.get("at_hash")
    if said is None:
        return
    if access_token is not None and isinstance(said, str) and said.isascii():
        # Ed25519 hashes with SHA-512, under its old name and its new one.
        expected = create_half_hash(access_token, "EdDSA" if algorithm == "Ed25519" else algorithm)
        if hmac.compare_digest(expected or b"", said.encode()):
            return
    raise Refused("The ID token is not accepted. It belongs to another access token.")


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a repeated member")
    return made


def _no_number(name: str) -> float:
    raise ValueError(name)


def _brief(name: object) -> str:
    return name if isinstance(name, str) and name.isascii() and name.isalnum() and len(name) <= 20 else "unknown"
