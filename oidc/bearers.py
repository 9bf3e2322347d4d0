"""From an access token of ours to whom it stands for at this moment, or a refusal.

Owns the one statement behind every use of a JWT at our own doors: what the token says is held against the tenant, the
person or client, the application, the provider, the session, the grant and the revocations as they are now. Roles come
from the database, never from the token, and of its scopes those count with which its client is still registered. Which
doors take it, and for what, is theirs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, LiteralString, NamedTuple

from broker.context import Grant, Scope
from broker.db import IN_TENANT, hot
from broker.errors import AuthenticationRequired
from broker.held import HELD, holding
from broker.protocol import OFFLINE
from broker.standing import CLIENT_FACTS, FACTS, Standing, Subject, may_receive_tokens, parameters
from oidc.tokens import Claims, Issuer, TokenIssuer, read_any

_APPLICATION: LiteralString = """SELECT jsonb_build_array(
                 jsonb_build_array(coalesce(a.audience, a.client_id)) || a.allowed_audiences, a.scopes)
             FROM application_access x
             JOIN applications a ON a.tenant_id = x.owner_tenant_id AND a.id = x.application_id
             WHERE x.tenant_id = t.id AND x.application_id = %(application)s"""
_SHOWN: LiteralString = (
    """
SELECT facts.*, shown.* FROM scope, {facts}, LATERAL (
    SELECT t.partner_id, t.kind AS tenant_kind, t.slug, t.declarations, c.name, c.service_account, {held} AS held,
        coalesce(
            ({application}),
            (SELECT jsonb_build_array(coalesce(nullif(s.audiences, '[]'), jsonb_build_array(s.client_id)), s.scopes)
             FROM service_accounts s WHERE s.tenant_id = t.id AND s.id = %(user)s)
        ) AS registered
    FROM tenants t LEFT JOIN LATERAL (
        SELECT u.id AS principal, u.name, u.user_type IS NOT DISTINCT FROM 'ServiceAccount' AS service_account
        FROM resources u WHERE u.tenant_id = t.id AND u.id = %(user)s OFFSET 0
    ) c ON true
    WHERE t.id = scope.tenant OFFSET 0
) shown
""".replace("{facts}", FACTS)
    .replace("{held}", HELD)
    .replace("{application}", _APPLICATION)
)
_BEARER: LiteralString = IN_TENANT + _SHOWN

_OF_APPLICATION: LiteralString = """
WITH scope AS MATERIALIZED (
    SELECT set_config('scaikey.tenant', %(tenant)s, true) AS tenant, 'application'::text AS kind,
        %(application)s::text AS id
)
SELECT facts.*, shown.* FROM scope, {facts}, LATERAL (
    SELECT t.partner_id, t.kind AS tenant_kind, t.slug, t.declarations, NULL AS name, NULL AS service_account,
        NULL AS held,
        ({application}) AS registered,
        EXISTS (SELECT 1 FROM revoked_tokens r WHERE r.tenant_id = t.id AND r.jti = %(jti)s) AS revoked
    FROM tenants t WHERE t.id = scope.tenant OFFSET 0
) shown
""".replace("{facts}", CLIENT_FACTS).replace("{application}", _APPLICATION)
"""An application's own token: the same questions, but for those about people. It is asked for most often."""

_REGISTERED: LiteralString = "SELECT f.tenant_id, f.id, f.kind FROM scaikey_find_client(%(client)s) AS f"
_REMEMBERED = 50_000


class Registration(NamedTuple):
    """Who a client id belongs to: of the tenant that keeps it, an `app_…` or the `usr_…` of a service account."""

    tenant_id: str
    id: str
    kind: Literal["application", "service_account"]


@dataclass(frozen=True, slots=True)
class Bearer:
    """A good token: its claims with the scopes that are left, and who that is. `tenant` None: a platform client that
    named none."""

    claims: Claims
    kind: Literal["user", "service_account", "application"]
    principal_id: str
    name: str
    tenant: Scope | None
    registration: Registration
    grants: frozenset[Grant]

    @property
    def identity_id(self) -> str:
        """As it is called now, where that can change."""
        return f"user:{self.name}" if self.kind == "user" else self.claims.identity_id


def check(token: str, *, audience: str | None = None, issuer: Issuer | None = None) -> Bearer:
    """Whom the token stands for. `audience` None takes a token for any; `issuer` takes only its own, and without one
    any issuer of ours that fits the tenant does.

    Raises AuthenticationRequired and TokenExpired, and says why only in the note.
    """
    claims = read_any(token, audience) if issuer is None else TokenIssuer(issuer).read(token, audience=audience)
    registration = registered(claims.client_id)
    if registration is None:
        raise AuthenticationRequired(note="of a client that is gone")
    of_account = registration.kind == "service_account"
    tenant_id = claims.tenant_id or registration.tenant_id
    if of_account and (claims.of_a_person or tenant_id != registration.tenant_id):
        raise AuthenticationRequired(note="not what this service account gets")
    user_id = claims.subject if claims.of_a_person else registration.id if of_account else None
    subject = Subject(
        user_id=user_id,
        application_id=None if of_account else registration.id,
        # Access that was asked for offline lasts beyond the session; to end a session everywhere ends its grants.
        session_id=None if OFFLINE in claims.scopes else claims.session_id,
        grant_id=claims.grant_id,
        jti=claims.jti,
    )
    asked = parameters(subject, tenant_id)
    rows = hot(_BEARER, asked) if user_id is not None else hot(_OF_APPLICATION, asked)
    if not rows:
        raise AuthenticationRequired(note="of a tenant that is gone")
    row = rows[0]
    facts = Standing(*row[: len(Standing._fields)])
    reason = may_receive_tokens(facts if user_id is not None else facts._replace(token_revoked=row.revoked))
    if reason is not None:
        raise AuthenticationRequired(note=f"{claims.jti}: {reason}")
    if row.registered is None:
        raise AuthenticationRequired(note="of a client that is gone")
    audiences, scopes = row.registered
    if claims.audience not in audiences:
        raise AuthenticationRequired(note=f"{claims.jti}: {claims.audience} was taken from the client")
    if user_id is not None and row.service_account != of_account:
        raise AuthenticationRequired(note="a person's token for a service account, or the other way round")
    return Bearer(
        claims=replace(claims, scopes=claims.scopes.intersection(scopes)),
        kind="user" if claims.of_a_person else registration.kind,
        principal_id=user_id or registration.id,
        name=row.name or claims.client_id,
        tenant=_scope(tenant_id, row) if claims.tenant_id else None,
        registration=registration,
        grants=holding(row.held, tenant_id, row.partner_id, row.tenant_kind),
    )


def _scope(tenant_id: str | None, row: Any) -> Scope:
    return Scope(tenant_id, row.partner_id, row.tenant_kind, row.slug, row.declarations)


_registered: dict[str, Registration] = {}


def registered(client_id: str) -> Registration | None:
    """Whose client id this is. One that was given never becomes another's, so that an answer is remembered; that the
    client is still there is for the statement to say."""
    found = _registered.get(client_id)
    if found is None:
        rows = hot(_REGISTERED, {"client": client_id})
        if not rows:
            return None
        if len(_registered) >= _REMEMBERED:
            _registered.clear()
        found = _registered[client_id] = Registration(*rows[0])
    return found
