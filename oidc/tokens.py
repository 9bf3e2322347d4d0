"""TokenIssuer: signs and checks the tokens of one issuer, a tenant's or the platform's.

Every grant ends here, and what a token says is said here (about people: `claims`). A token of ours is a JWT with
exactly the header we write, signed by a key of the ring, from an issuer of ours that fits its tenant, for one audience.
Whether its subject is still welcome is asked of `broker.standing` by whoever takes the token.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, LiteralString, Protocol

import orjson
from joserfc import jws
from joserfc.errors import ExpiredTokenError, InvalidClaimError, JoseError
from joserfc.jwt import JWTClaimsRegistry

from broker import running, settings, strict_json
from broker.context import Scope
from broker.db import IN_TENANT, current_scope, hot
from broker.errors import AuthenticationRequired, TokenExpired
from broker.settings import LONGEST_ACCESS_TOKEN
from oidc import claims as said
from oidc import keys
from oidc.claims import Person

ACCESS_TOKEN, ID_TOKEN = "at+jwt", "JWT"
ID_TOKEN_LIFE = 300
"""Seconds. An ID token is read when it arrives; as a hint it is taken after its end, too."""
ACR = "1"
"""One factor, whichever; there is no other level."""
LARGEST = 64 * 1024
"""Bytes of a token. Headers of HTTP end earlier almost everywhere."""
CLOCKS_APART = 30
"""Seconds one machine of ours may issue ahead of another's clock."""

_TENANTS = "/api/v1/auth/tenants/"
_PLATFORM = "/api/v1/platform"
_COMPACT = re.compile(r"([A-Za-z0-9_-]{1,512})\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]{1,1024})")
_FOUND: LiteralString = (
    "SELECT found.slug FROM scope, LATERAL (SELECT t.slug FROM tenants t WHERE t.id = scope.tenant OFFSET 0) found"
)
_SLUG: LiteralString = IN_TENANT + _FOUND


class Client(Protocol):
    """What a token says of the client it is for."""

    @property
    def kind(self) -> Literal["application", "service_account"]: ...
    @property
    def client_id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def access_token_alg(self) -> str: ...
    @property
    def id_token_alg(self) -> str: ...
    @property
    def access_token_lifetime(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Issuer:
    """One `iss`: of a tenant, or (`scope` None) of the platform."""

    url: str
    scope: Scope | None

    @classmethod
    def of_tenant(cls, scope: Scope) -> Issuer:
        return cls(f"{running.config().base_url}{_TENANTS}{scope.slug}", scope)

    @classmethod
    def platform(cls) -> Issuer:
        return cls(f"{running.config().base_url}{_PLATFORM}", None)

    @property
    def kind(self) -> Literal["tenant", "platform"]:
        return "platform" if self.scope is None else "tenant"

    def endpoint(self, name: str) -> str:
        """The URL of `token`, `authorize`, …"""
        return f"{self.url}/oauth/{name}"


@dataclass(frozen=True, slots=True)
class Authentication:
    """How and when the person signed in, and in which session."""

    session_id: str
    auth_time: datetime
    amr: Sequence[str] = ()
    acr: str = ACR

    def claims(self) -> dict[str, Any]:
        return {
            "sid": self.session_id,
            "auth_time": int(self.auth_time.timestamp()),
            "amr": list(self.amr),
            "acr": self.acr,
        }


@dataclass(frozen=True, slots=True)
class Issued:
    """An access token, and what its receiver is told of it; `expires_at` is in Unix seconds."""

    token: str
    expires_in: int
    expires_at: int
    jti: str


@dataclass(frozen=True, slots=True)
class Claims:
    """An access token of ours that was read. `grant_id` is the family it belongs to; None for a client's own."""

    issuer: str
    subject: str
    audience: str
    client_id: str
    tenant_id: str | None
    partner_id: str | None
    identity_id: str
    scopes: frozenset[str]
    jti: str
    issued_at: int
    expires_at: int
    session_id: str | None
    all: Mapping[str, Any] = field(repr=False)

    @property
    def of_a_person(self) -> bool:
        return self.subject != self.client_id

    @property
    def grant_id(self) -> str | None:
        return self.jti.partition(".")[0] if self.of_a_person else None


class TokenIssuer:
    """Signs and checks in one issuer's name."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer

    def access_token(
        self,
        *,
        client: Client,
        audience: str,
        scopes: Collection[str],
        person: Person | None = None,
        grant_id: str | None = None,
        authentication: Authentication | None = None,
        tenant: Scope | None = None,
        lifetime: int | None = None,
    ) -> Issued:
        """A JWT (RFC 9068) for the person, of that grant and sign-in, or for the client itself.

        `tenant`: the one a client names at the platform issuer. `lifetime`: seconds, when the caller knows them;
        otherwise the client's, else the setting of the open unit's scope.
        """
        where = self.issuer.scope or (person.tenant if person else tenant)
        if person is not None and (where is None or where.tenant_id != person.tenant.tenant_id):
            raise ValueError("a person of another tenant")
        if (person is None) != (grant_id is None) or (person is None) != (authentication is None):
            raise ValueError("a person's token is of a grant and a sign-in, a client's of none")
        now = int(time.time())
        life = min(lifetime or client.access_token_lifetime or _usual_lifetime(), LONGEST_ACCESS_TOKEN)
        jti = secrets.token_urlsafe(16)
        claims: dict[str, Any] = {
            "iss": self.issuer.url,
            "sub": person.id if person else client.client_id,
            "aud": audience,
            "client_id": client.client_id,
            "exp": now + life,
            "iat": now,
            "jti": f"{grant_id}.{jti}" if grant_id else jti,
            "scope": " ".join(scopes),
            "identity_id": person.identity_id if person else identity_of(client),
        }
        if where is not None:
            claims |= {"tenant_id": where.tenant_id, "partner_id": where.partner_id}
        if person is not None and authentication is not None:
            claims |= {**authentication.claims(), **said.in_access_token(person)}
        token = _sign(claims, client.access_token_alg, ACCESS_TOKEN)
        return Issued(token, life, now + life, claims["jti"])

    def id_token(
        self,
        *,
        client: Client,
        person: Person,
        authentication: Authentication,
        scopes: Collection[str],
        nonce: str | None = None,
        access_token: str | None = None,
    ) -> str:
        """An ID token (OpenID Connect Core section 2) that tells this client who signed in, and how."""
        now = int(time.time())
        claims = {
            **said.by_scope(person, scopes),
            **authentication.claims(),
            "iss": self.issuer.url,
            "sub": person.id,
            "aud": client.client_id,
            "azp": client.client_id,
            "exp": now + ID_TOKEN_LIFE,
            "iat": now,
            "tenant_id": person.tenant.tenant_id,
        }
        if nonce is not None:
            claims["nonce"] = nonce
        if access_token is not None:
            claims["at_hash"] = _half_hash(access_token)
        return _sign(claims, client.id_token_alg, ID_TOKEN)

    def read(self, token: str, *, audience: str | None) -> Claims:
        """An access token of this issuer, for that audience (None: for any).

        Raises AuthenticationRequired, and TokenExpired for one that was good.
        """
        claims = _access_token(token, audience)
        if claims.issuer != self.issuer.url:
            raise AuthenticationRequired(note=f"a token of another issuer: {claims.issuer}")
        if self.issuer.scope is not None and claims.tenant_id != self.issuer.scope.tenant_id:
            raise AuthenticationRequired(note="a tenant that is not its issuer's")
        return claims

    def read_hint(self, token: str) -> Mapping[str, Any] | None:
        """The claims of an ID token of this issuer that is shown as a hint, expired or not; None for anything else."""
        try:
            claims = _verified(token, ID_TOKEN)
        except AuthenticationRequired:
            return None
        fits = claims.get("iss") == self.issuer.url and all(
            isinstance(claims.get(name), str) for name in ("sub", "aud", "sid")
        )
        return claims if fits else None


def identity_of(client: Client) -> str:
    """The name of a client that acts by itself."""
    return f"sa:{client.name}" if client.kind == "service_account" else f"app:{client.client_id}"


def read_any(token: str, audience: str | None) -> Claims:
    """An access token of any issuer of ours that fits the tenant it names. Raises as `TokenIssuer.read` does."""
    claims = _access_token(token, audience)
    base = running.config().base_url
    if claims.issuer != base + _PLATFORM:
        slug = _slug_of(claims.tenant_id) if claims.tenant_id else None
        if slug is None or claims.issuer != f"{base}{_TENANTS}{slug}":
            raise AuthenticationRequired(note=f"{claims.issuer} is no issuer of ours for {claims.tenant_id}")
    return claims


def looks_like_one(token: str) -> bool:
    """Whether the text has the form of a JWT."""
    return token.startswith("ey") and token.count(".") == 2


_slugs: dict[str, str] = {}


def _slug_of(tenant_id: str) -> str | None:
    # Slugs never change and are never given out again.
    slug = _slugs.get(tenant_id)
    if slug is None:
        rows = hot(_SLUG, {"tenant": tenant_id})
        if not rows:
            return None
        slug = _slugs[tenant_id] = rows[0].slug
    return slug


def _usual_lifetime() -> int:
    return int(settings.of(current_scope(), "access_token_lifetime"))


_JWS = jws.JWSRegistry(algorithms=list(keys.ALGORITHMS))


def _sign(claims: Mapping[str, Any], algorithm: str, typ: str) -> str:
    key = keys.ring().signing(algorithm)
    header = {"alg": algorithm, "kid": key.kid, "typ": typ}
    return jws.serialize_compact(header, orjson.dumps(claims), key, registry=_JWS)


def _half_hash(text: str) -> str:
    """The left half of the SHA-256 of it: both our algorithms sign that digest."""
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()[:16]).rstrip(b"=").decode()


class _OurClaims(JWTClaimsRegistry):
    def validate_iat(self, value: object) -> None:
        # Strict about the end, forgiving about the beginning: our machines' clocks are not one.
        if type(value) is not int or value > self.now + CLOCKS_APART:
            raise InvalidClaimError("iat")


_TEXT = ("iss", "sub", "aud", "client_id", "jti", "scope", "identity_id")
_OURS = _OurClaims(**{name: {"essential": True} for name in (*_TEXT[:5], "exp", "iat", "identity_id")})  # type: ignore[arg-type]


def _access_token(token: str, audience: str | None) -> Claims:
    claims = _verified(token, ACCESS_TOKEN)
    if not all(isinstance(claims.get(name), str) for name in _TEXT) or type(claims.get("exp")) is not int:
        raise AuthenticationRequired(note="a claim is missing or of a wrong type")
    if not all(
        claims.get(name) is None or isinstance(claims[name], str) for name in ("tenant_id", "partner_id", "sid")
    ):
        raise AuthenticationRequired(note="a claim is of a wrong type")
    try:
        _OURS.validate(dict(claims))
    except ExpiredTokenError:
        raise TokenExpired from None
    except JoseError as error:
        raise AuthenticationRequired(note=str(error)) from None
    if audience is not None and claims["aud"] != audience:
        raise AuthenticationRequired(note=f"a token for {claims['aud']}")
    return Claims(
        issuer=claims["iss"],
        subject=claims["sub"],
        audience=claims["aud"],
        client_id=claims["client_id"],
        tenant_id=claims.get("tenant_id"),
        partner_id=claims.get("partner_id"),
        identity_id=claims["identity_id"],
        scopes=frozenset(claims["scope"].split()),
        jti=claims["jti"],
        issued_at=claims["iat"],
        expires_at=claims["exp"],
        session_id=claims.get("sid"),
        all=claims,
    )


def _verified(token: str, typ: str) -> Mapping[str, Any]:
    """The payload of a JWT that is signed by a key of ours and has the header we write, and no other."""
    if len(token) > LARGEST or (parts := _COMPACT.fullmatch(token)) is None:
        raise AuthenticationRequired(note="not a JWT, or too large")
    try:
        header = strict_json.loads(_bytes(parts[1]), max_depth=1)
        if not isinstance(header, dict) or set(header) != {"alg", "kid", "typ"} or header["typ"] != typ:
            raise AuthenticationRequired(note="not a header of ours")
        key = keys.verifying(header["kid"]) if isinstance(header["kid"], str) else None
        if key is None or header["alg"] != key.alg:
            raise AuthenticationRequired(note="signed with no key of ours")
        signed = jws.deserialize_compact(token, key, registry=_JWS)
        claims = strict_json.loads(signed.payload or b"", max_bytes=LARGEST, max_depth=5)
    except (JoseError, strict_json.StrictJsonError, binascii.Error, ValueError) as error:
        raise AuthenticationRequired(note=f"not a token of ours: {error}") from None
    if not isinstance(claims, dict):
        raise AuthenticationRequired(note="the payload is no object")
    return claims


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
