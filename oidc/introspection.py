"""Introspection: what a token of ours means at this moment, for those who may know.

Owns the answer (RFC 7662, with whose it is) for access tokens and personal access tokens alike, and the rule who sees
it: a token for one's own audience, or of one's own tenant. A personal access token is good for an API while its holder
may use the application. Whatever else it may be, it is inactive. How a caller proves
itself, and the form of the answer, are the doors'.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, LiteralString

from broker import access
from broker.context import Actor
from broker.db import IN_TENANT, hot
from broker.errors import AuthenticationRequired
from broker.protocol import OUR_AUDIENCE
from broker.standing import Subject, may_receive_tokens, standing
from oidc import bearers, tokens
from oidc.bearers import Bearer
from oidc.tokens import Issuer

INACTIVE: dict[str, Any] = {"active": False}

_ACCESS: LiteralString = """
SELECT 1 FROM scope, LATERAL (
    SELECT 1 FROM application_access x
    WHERE x.tenant_id = scope.tenant AND x.application_id = %(application)s OFFSET 0
) reached
"""
_REACHES: LiteralString = IN_TENANT + _ACCESS

_KEEPERS: LiteralString = """
SELECT kept.* FROM scope, LATERAL (
    SELECT wanted.audience, x.application_id, EXISTS (
        SELECT 1 FROM service_accounts s
        WHERE s.tenant_id = scope.tenant AND s.id = %(user)s AND jsonb_exists(s.audiences, wanted.audience)
    ) AS registered
    FROM application_access x
    JOIN applications a ON a.tenant_id = x.owner_tenant_id AND a.id = x.application_id
    JOIN unnest(%(audiences)s::text[]) AS wanted(audience) ON wanted.audience IN (a.audience, a.client_id)
    WHERE x.tenant_id = scope.tenant OFFSET 0
) kept
"""
_KEPT: LiteralString = IN_TENANT + _KEEPERS
"""The applications of the tenant whose APIs these audiences are."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `audiences` are those it is itself; an application has them only in the tenants it may be used by.
    `issuer`: the endpoint asked is of this one, and knows no other's tokens."""

    tenant_id: str | None
    audiences: frozenset[str]
    application_id: str | None = None
    issuer: Issuer | None = None


_OWN: LiteralString = """
SELECT own.* FROM scope, LATERAL (
    SELECT a.audience, a.client_id FROM applications a
    WHERE a.tenant_id = scope.tenant AND a.id = %(application)s OFFSET 0
) own
"""
_ITS_AUDIENCES: LiteralString = IN_TENANT + _OWN


def caller_of(actor: Actor) -> Caller:
    """Somebody who shows a token: an application is an audience by itself, everybody else only of a tenant."""
    if actor.kind != "application":
        return Caller(actor.tenant_id, frozenset())
    registration = bearers.registered(actor.name)
    if registration is None:
        raise AuthenticationRequired(note="of a client that is gone")
    rows = hot(_ITS_AUDIENCES, {"tenant": registration.tenant_id, "application": registration.id})
    audiences = frozenset(name for row in rows for name in row if name)
    return Caller(actor.tenant_id, audiences, registration.id)


def introspect(token: str, caller: Caller) -> dict[str, Any]:
    """The members of RFC 7662 section 2.2 with `tenant_id`, `partner_id`, `identity_id` and `identity_type`;
    `{"active": False}` for anything the caller may not know of."""
    try:
        if tokens.looks_like_one(token):
            bearer = bearers.check(token, issuer=caller.issuer)
            claims = bearer.claims
            shown = _may_see(caller, claims.tenant_id, frozenset({claims.audience}))
            return _of_bearer(bearer) if shown else dict(INACTIVE)
        found = access.look_up(token)
    except AuthenticationRequired:
        return dict(INACTIVE)
    if found.kind != "pat" or not _at_issuer(caller.issuer, found.tenant):
        return dict(INACTIVE)
    audiences = _received(found)
    if not audiences or not _may_see(caller, found.tenant, frozenset(audiences)):
        return dict(INACTIVE)
    return _of_pat(found, audiences)


def _received(found: Any) -> list[str]:
    """Of a personal access token's audiences those for which its holder might have got a token at this moment: our own
    API, and that of an application of the tenant which the holder may use. A service account is not assigned to the
    APIs it is registered with."""
    others = [audience for audience in found.audiences if audience != OUR_AUDIENCE]
    wanted = {"tenant": found.tenant, "user": found.principal, "audiences": others}
    usable = {
        row.audience
        for row in (hot(_KEPT, wanted) if others else ())
        if may_receive_tokens(
            standing(
                Subject(user_id=None if row.registered else found.principal, application_id=row.application_id),
                tenant_id=found.tenant,
            )
        )
        is None
    }
    return [audience for audience in found.audiences if audience == OUR_AUDIENCE or audience in usable]


def _may_see(caller: Caller, tenant_id: str | None, audiences: frozenset[str]) -> bool:
    if caller.tenant_id is not None and caller.tenant_id == tenant_id:
        return True
    if not caller.audiences & audiences or caller.application_id is None:
        return False
    # Two tenants may call their APIs alike: the name alone says nothing of another tenant's token.
    return tenant_id is None or bool(hot(_REACHES, {"tenant": tenant_id, "application": caller.application_id}))


def _at_issuer(issuer: Issuer | None, tenant_id: str) -> bool:
    return issuer is None or issuer.scope is None or issuer.scope.tenant_id == tenant_id


def _of_bearer(bearer: Bearer) -> dict[str, Any]:
    claims = bearer.claims
    said = {
        "active": True,
        "iss": claims.issuer,
        "sub": claims.subject,
        "aud": claims.audience,
        "client_id": claims.client_id,
        "scope": " ".join(sorted(claims.scopes)),
        "token_type": "Bearer",
        "jti": claims.jti,
        "iat": claims.issued_at,
        "exp": claims.expires_at,
        "tenant_id": claims.tenant_id,
        "partner_id": claims.partner_id,
        "identity_id": bearer.identity_id,
        "identity_type": bearer.kind,
    }
    if bearer.kind == "user":
        said["username"] = bearer.name
    return {name: value for name, value in said.items() if value is not None}


def _of_pat(found: Any, audiences: list[str]) -> dict[str, Any]:
    account = found.account is not None
    return {
        "active": True,
        "sub": found.principal,
        "aud": audiences,
        "scope": " ".join(sorted(found.scopes)),
        "token_type": "Bearer",
        "jti": found.id,
        "iat": int(found.issued_at.timestamp()),
        "exp": int(found.expires_at.timestamp()),
        "tenant_id": found.tenant,
        "partner_id": found.partner_id,
        "identity_id": f"sa:{found.account}" if account else f"user:{found.name}",
        "identity_type": "service_account" if account else "user",
        "username": found.name,
    }
