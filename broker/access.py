"""From a credential to an actor, from a name to a scope, from an id to a row the actor may touch.

Owns the one hot statement that turns a token of ours into an `Actor` with the roles it holds at this moment: nothing of
it is cached, so a disabled person, tenant or token is refused on the next request. Access tokens, which are JWTs, have
theirs in `bearers`. Views load rows only with `fetch`. Which deed a route is and how a refusal looks is the doors'.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, LiteralString, TypeVar

import sqlalchemy as sa

from oidc import bearers
from oidc.tokens import looks_like_one

from . import credentials, ids
from .context import ANONYMOUS, Actor, Grant, Scope, current_actor
from .db import current_scope, current_tenant, db, hot, unit
from .directory.reach import groups_above
from .errors import AuthenticationRequired, Forbidden, NotFound, TokenExpired
from .held import HELD, holding
from .models import Application, Partner, Resource, RoleAssignment, Tenant, TenantOwned
from .policy import RULES, Action, Where, authorize, permits
from .protocol import OUR_AUDIENCE
from .standing import USABLE

Row = TypeVar("Row")

USE_NOTED_EVERY = 60.0
"""Seconds between two notes of one token's last use."""

_FIND = """
WITH found AS MATERIALIZED (
    SELECT t.kind, t.id, set_config('scaikey.tenant', t.tenant_id, true) AS tenant
    FROM scaikey_find_token(%(digest)s) AS t LIMIT 1
)
SELECT found.kind, found.id, found.tenant, shown.*
FROM found, LATERAL (
    SELECT t.partner_id, t.kind AS tenant_kind, t.slug, t.status, t.declarations,
           c.principal, c.name, c.account, c.usable, c.revoked_at, c.issued_at, c.expires_at, c.scopes, c.audiences,
           c.allow_password, c.mode, {held} AS held
    FROM tenants t, LATERAL ({credential} OFFSET 0) c
    WHERE t.id = found.tenant
    OFFSET 0
) shown
"""
_FIND_BY_PREFIX: dict[str, LiteralString] = {
    credentials.PAT_PREFIX: _FIND.replace("{held}", HELD).replace(
        "{credential}",
        """
        SELECT p.user_id AS principal, u.name,
               (SELECT a.name FROM service_accounts a WHERE a.tenant_id = u.tenant_id AND a.id = u.id) AS account,
               {usable} AS usable,
               p.revoked_at, p.created_at AS issued_at, p.expires_at, p.scopes, p.audiences, false AS allow_password,
               'tolerant' AS mode
        FROM personal_access_tokens p
        JOIN resources u ON u.tenant_id = p.tenant_id AND u.id = p.user_id
        WHERE found.kind = 'pat' AND p.tenant_id = found.tenant AND p.id = found.id
        """.replace("{usable}", USABLE),
    ),
    credentials.SCIM_PREFIX: _FIND.replace("{held}", "NULL").replace(
        "{credential}",
        """
        SELECT s.id AS principal, s.name, NULL AS account, true AS usable, s.revoked_at, s.created_at AS issued_at,
               s.expires_at, '["scim"]'::jsonb AS scopes, '["scaikey"]'::jsonb AS audiences, s.allow_password, s.mode
        FROM scim_tokens s
        WHERE found.kind = 'scim' AND s.tenant_id = found.tenant AND s.id = found.id
        """,
    ),
}
"""One for each kind of token, as they come with every request: a statement of both costs the database twice as much.

OFFSET 0 keeps look-ups by key where the planner, knowing nothing of a young tenant, would read whole tables."""

_SCOPE = """
WITH found AS MATERIALIZED (
    SELECT set_config('scaikey.tenant', f.tenant_id, true) AS tenant FROM {finder} AS f(tenant_id) LIMIT 1
)
SELECT shown.* FROM found, LATERAL (
    SELECT t.id, t.partner_id, t.kind, t.slug, t.declarations FROM tenants t WHERE t.id = found.tenant OFFSET 0
) shown
"""
_SCOPE_BY_SLUG = _SCOPE.format(finder="scaikey_find_tenant(%(name)s)")
_SCOPE_BY_ID = _SCOPE.format(finder="(VALUES (%(name)s::text))")

_own_scopes: dict[str, Scope] = {}
_noted: dict[str, float] = {}


def authenticate(authorization: str | None, *, audience: str | None = OUR_AUDIENCE) -> Actor:
    """The actor behind an Authorization header; without one, ANONYMOUS. `audience` None takes a token for any.

    Raises AuthenticationRequired (unknown, revoked, of another audience, of somebody or some tenant that is
    disabled) and TokenExpired.
    """
    if authorization is None:
        return ANONYMOUS
    scheme, _, secret = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise AuthenticationRequired(note="not a bearer token")
    secret = secret.strip()
    return _by_jwt(secret, audience) if looks_like_one(secret) else _by_secret(secret, audience)


def _by_secret(secret: str, audience: str | None) -> Actor:
    row = look_up(secret)
    if audience is not None and audience not in row.audiences:
        raise AuthenticationRequired(note=f"{row.id} is for another audience")
    _own_scopes[row.tenant] = Scope(row.tenant, row.partner_id, row.tenant_kind, row.slug, row.declarations)
    scim = row.kind == "scim"
    return Actor(
        kind="scim_token" if scim else "user" if row.account is None else "service_account",
        id=row.principal,
        tenant_id=row.tenant,
        partner_id=row.partner_id,
        name=row.name,
        grants=frozenset() if scim else holding(row.held, row.tenant, row.partner_id, row.tenant_kind),
        scopes=frozenset(row.scopes),
        credential_id=row.id,
        audiences=frozenset(row.audiences),
        allow_password=row.allow_password,
        mode=row.mode,
        expires_at=row.expires_at,
    )


def look_up(secret: str) -> Any:
    """The row behind a personal access token or a SCIM token that is good at this moment, whatever its audience.

    Raises AuthenticationRequired and TokenExpired.
    """
    digest = credentials.digest_of(secret)
    if digest is None:
        raise AuthenticationRequired(note="not a token of ours")
    rows = hot(_FIND_BY_PREFIX[secret[: len(credentials.PAT_PREFIX)]], {"digest": digest})
    if not rows:
        raise AuthenticationRequired(note="unknown token")
    row = rows[0]
    if row.revoked_at is not None or not row.usable or row.status != "active":
        raise AuthenticationRequired(note=f"{row.id} is revoked, or its holder or tenant is disabled")
    if row.expires_at is not None and row.expires_at <= datetime.now(UTC):
        raise TokenExpired
    return row


def _by_jwt(token: str, audience: str | None) -> Actor:
    bearer = bearers.check(token, audience=audience)
    claims, tenant = bearer.claims, bearer.tenant
    if tenant is not None and tenant.tenant_id is not None:
        _own_scopes[tenant.tenant_id] = tenant
    return Actor(
        kind=bearer.kind,
        id=bearer.principal_id,
        tenant_id=claims.tenant_id,
        partner_id=tenant.partner_id if tenant else None,
        name=bearer.name,
        grants=bearer.grants,
        scopes=claims.scopes,
        credential_id=claims.jti,
        audiences=frozenset({claims.audience}),
        expires_at=datetime.fromtimestamp(claims.expires_at, UTC),
        kept_by=bearer.registration.tenant_id if bearer.kind == "application" else None,
    )


def grants_of(principal_id: str) -> frozenset[Grant]:
    """The roles a principal of the open tenant holds, directly and through nested groups."""
    tenant_id = current_tenant()
    above = groups_above(tenant_id, [principal_id])
    held = sa.select(RoleAssignment.role, RoleAssignment.scope_id).where(
        sa.or_(RoleAssignment.principal_id == principal_id, RoleAssignment.principal_id.in_(sa.select(above.c.id)))
    )
    return frozenset(Grant(role, scope_id) for role, scope_id in db.session().execute(held))  # type: ignore[arg-type]


def own_scope(actor: Actor) -> Scope:
    """The tenant the actor's credential belongs to. Raises AuthenticationRequired for nobody."""
    if actor.tenant_id is None:
        raise AuthenticationRequired
    return _own_scopes[actor.tenant_id]


def scope_for_slug(slug: str, actor: Actor = ANONYMOUS) -> Scope | None:
    """The tenant of that slug. `actor`, when just authenticated in that tenant, saves the look-up."""
    own = _own_scopes.get(actor.tenant_id or "")
    if own is not None and own.slug == slug:
        return own
    return _scope(_SCOPE_BY_SLUG, slug)


def scope_for_tenant(tenant_id: str, actor: Actor = ANONYMOUS) -> Scope | None:
    """The tenant of that id. `actor`, when just authenticated in that tenant, saves the look-up."""
    if tenant_id == actor.tenant_id and tenant_id in _own_scopes:
        return _own_scopes[tenant_id]
    return _scope(_SCOPE_BY_ID, tenant_id)


def _scope(statement: Any, name: str) -> Scope | None:
    if "\0" in name:
        return None
    rows = hot(statement, {"name": name})
    return Scope(*rows[0]) if rows else None


def use_is_due(actor: Actor, *, noting: bool = True) -> bool:
    """Whether the use of the actor's token should be noted again. `noting`: the caller will, so that it is True for
    nobody else within a minute in this process."""
    if actor.credential_id is None or not ids.is_id(actor.credential_id):
        return False  # a JWT leaves no row to note it in
    now = time.monotonic()
    if now - _noted.get(actor.credential_id, -USE_NOTED_EVERY) < USE_NOTED_EVERY:
        return False
    if not noting:
        return True
    if len(_noted) > 50_000:
        _noted.clear()
    _noted[actor.credential_id] = now
    return True


def note_use(actor: Actor) -> None:
    """Write `last_used_at`, in a transaction of its own, after the answer has left."""
    if actor.credential_id is not None:
        with unit(own_scope(actor)):
            credentials.note_use(actor.credential_id, scim=actor.kind == "scim_token")


def fetch(model: type[Row], id: str, *, to: Action, lock: bool = False) -> Row:
    """The row of that id in the open unit of work, if the actor may do `to` there; `lock` keeps it for a change.

    Raises NotFound (absent, removed, or not for this actor's eyes) and Forbidden.
    """
    table: Any = model
    statement = sa.select(table).where(table.id == id)
    if issubclass(model, Resource):
        statement = statement.where(table.removed_at.is_(None))
    if lock:
        statement = statement.with_for_update(of=table)
    row: Any = db.session().scalar(statement)
    if row is None:
        raise NotFound
    authorize(current_actor(), to, place_of(row))
    scope = current_scope()
    if isinstance(row, Application) and not to.endswith(".read") and scope.tenant_id not in (None, row.tenant_id):
        raise Forbidden("The application is kept by another tenant: act in that one")
    loaded: Row = row
    return loaded


def place_of(row: object) -> Where:
    """Where a deed on this row happens."""
    if isinstance(row, Tenant):
        return Where(row.id, row.partner_id, row.kind)
    if isinstance(row, Partner):
        return Where(None, row.id)
    scope = current_scope()
    if scope.tenant_id is None and isinstance(row, TenantOwned | Application):
        found = scope_for_tenant(row.tenant_id)
        if found is None:
            raise NotFound
        return Where.of(found)
    return Where.of(scope)


def places(actor: Actor) -> Sequence[Where]:
    """Every place the actor holds a role at, widest first."""
    found = []
    for grant in actor.grants:
        if grant.role == "super_admin":
            found.append(Where())
        elif grant.role == "partner_admin":
            found.append(Where(None, grant.scope_id))
        else:
            found.append(Where(grant.scope_id, actor.partner_id, "customer"))
    return sorted(found, key=lambda where: (where.tenant_id is not None, where.partner_id is not None))


def reach(actor: Actor, action: Action) -> Sequence[Where]:
    """The places where the actor may do `action`: what a list that spans tenants shows. Raises as `authorize` does."""
    allowed = [where for where in places(actor) if action in RULES and permits(actor, action, where)]
    if not allowed:
        authorize(actor, action, Where())
    authorize(actor, action, allowed[0])
    return allowed
