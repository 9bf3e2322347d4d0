"""May this person, or this client, get and keep tokens here? One statement, one verdict.

Every flow that ends in a token or a session asks `may_receive_tokens`, and so does every use of one at our own doors:
what is disabled stops at the next request. Nothing here is cached and nothing is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import LiteralString, NamedTuple

from .db import IN_TENANT, current_tenant, db, hot


class Standing(NamedTuple):
    """The facts, as they are now. None: nobody asked about it."""

    tenant_active: bool
    user_usable: bool | None
    application_enabled: bool | None
    has_access: bool | None
    assigned: bool | None
    provider_enabled: bool | None
    session_live: bool | None
    grant_live: bool | None
    token_revoked: bool | None


NOWHERE = Standing(False, None, None, None, None, None, None, None, None)


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom and what it is about. The provider of a session or a grant is found by itself."""

    user_id: str | None = None
    application_id: str | None = None
    provider_id: str | None = None
    session_id: str | None = None
    grant_id: str | None = None
    jti: str | None = None


USABLE: LiteralString = """u.removed_at IS NULL AND u.active
                AND (u.active_until IS NULL OR u.active_until > now())
                AND NOT EXISTS (
                    SELECT 1 FROM links l WHERE l.tenant_id = u.tenant_id AND l.resource_id = u.id
                    AND NOT l.active AND l.gone_at IS NULL AND l.skipped IS NULL)"""
"""Of a row `u` of resources: not removed, not disabled here or by an owning link, `active_until` not passed."""

_USABLE: LiteralString = """SELECT {usable}
             FROM resources u WHERE u.tenant_id = scope.tenant AND u.type = 'User' AND u.id =""".replace(
    "{usable}", USABLE
)
_APPLICATION: LiteralString = """SELECT a.enabled, a.assignment_required FROM application_access x
        JOIN applications a ON a.tenant_id = x.owner_tenant_id AND a.id = x.application_id
        WHERE x.tenant_id = scope.tenant AND x.application_id ="""
_COLUMNS: LiteralString = """(tenant_active, user_usable, application_enabled, has_access, assigned, provider_enabled,
    session_live, grant_live, token_revoked)"""

FACTS: LiteralString = (
    """LATERAL (
    SELECT t.status = 'active',
        CASE WHEN %(user)s::text IS NOT NULL THEN coalesce(({usable} %(user)s), false) END,
        CASE WHEN %(application)s::text IS NOT NULL THEN coalesce(a.enabled, false) END,
        CASE WHEN %(application)s::text IS NOT NULL THEN a.enabled IS NOT NULL END,
        CASE WHEN %(application)s::text IS NOT NULL AND %(user)s::text IS NOT NULL THEN
            coalesce(NOT a.assignment_required, false)
            OR EXISTS (
                SELECT 1 FROM assignments s WHERE s.tenant_id = scope.tenant
                AND s.application_id = %(application)s AND s.principal_id = %(user)s)
            OR EXISTS (
                WITH RECURSIVE up(id) AS (
                    SELECT m.group_id FROM memberships m WHERE m.tenant_id = scope.tenant AND m.member_id = %(user)s
                    UNION
                    SELECT m.group_id FROM up
                    JOIN memberships m ON m.tenant_id = scope.tenant AND m.member_id = up.id)
                SELECT 1 FROM up JOIN assignments s ON s.tenant_id = scope.tenant
                AND s.application_id = %(application)s AND s.principal_id = up.id) END,
        (SELECT p.enabled FROM identity_providers p WHERE p.tenant_id = scope.tenant
         AND p.id = coalesce(%(provider)s::text, g.provider_id, n.provider_id)),
        CASE WHEN %(session)s::text IS NOT NULL THEN coalesce(n.ended_at IS NULL AND n.expires_at > now(), false) END,
        CASE WHEN %(grant)s::text IS NOT NULL THEN g.id IS NOT NULL AND g.ended_at IS NULL END,
        CASE WHEN %(jti)s::text IS NOT NULL THEN EXISTS (
            SELECT 1 FROM revoked_tokens r WHERE r.tenant_id = scope.tenant AND r.jti = %(jti)s) END
    FROM tenants t
    LEFT JOIN LATERAL ({application} %(application)s OFFSET 0) a ON true
    LEFT JOIN LATERAL (
        SELECT g.id, g.provider_id, g.ended_at FROM grants g
        WHERE g.tenant_id = scope.tenant AND g.id = %(grant)s OFFSET 0
    ) g ON true
    LEFT JOIN LATERAL (
        SELECT s.provider_id, s.ended_at, s.expires_at FROM sessions s
        WHERE s.tenant_id = scope.tenant AND s.id = %(session)s OFFSET 0
    ) n ON true
    WHERE t.id = scope.tenant OFFSET 0
) AS facts {columns}
""".replace("{usable}", _USABLE)
    .replace("{application}", _APPLICATION)
    .replace("{columns}", _COLUMNS)
)
"""To be joined to `IN_TENANT`, with the parameters of `parameters`: the columns of a `Standing`."""

CLIENT_FACTS: LiteralString = (
    """LATERAL (
    SELECT t.status = 'active',
        CASE scope.kind WHEN 'service_account' THEN coalesce(({usable} scope.id), false) END,
        CASE scope.kind WHEN 'application' THEN coalesce(a.enabled, false) END,
        CASE scope.kind WHEN 'application' THEN a.enabled IS NOT NULL END,
        NULL::boolean, NULL::boolean, NULL::boolean, NULL::boolean, NULL::boolean
    FROM tenants t LEFT JOIN LATERAL ({application} scope.id AND scope.kind = 'application' OFFSET 0) a ON true
    WHERE t.id = scope.tenant OFFSET 0
) AS facts {columns}
""".replace("{usable}", _USABLE)
    .replace("{application}", _APPLICATION)
    .replace("{columns}", _COLUMNS)
)
"""The same about a client that acts for itself: to be joined to a `scope` of tenant, kind and id."""

_ALONE: LiteralString = "SELECT facts.* FROM scope, "
_STANDING: LiteralString = IN_TENANT + _ALONE + FACTS


def standing(subject: Subject, *, tenant_id: str | None = None) -> Standing:
    """The facts about the subject: of `tenant_id` as committed, or of the open unit of work with what it has written.

    A removed group has no memberships left, so the way up the groups needs no look at them.
    """
    values = parameters(subject, tenant_id or current_tenant())
    if tenant_id is not None:
        rows = hot(_STANDING, values)
    else:
        rows = db.session().connection().exec_driver_sql(_STANDING, values).all()
    return Standing(*rows[0]) if rows else NOWHERE


def parameters(subject: Subject, tenant_id: str) -> dict[str, str | None]:
    """What `FACTS` asks with."""
    return {
        "tenant": tenant_id,
        "user": subject.user_id,
        "application": subject.application_id,
        "provider": subject.provider_id,
        "session": subject.session_id,
        "grant": subject.grant_id,
        "jti": subject.jti,
    }


def may_receive_tokens(facts: Standing) -> str | None:
    """None when nothing stands against it, else the first reason, for the log and for a plain page.

    Reasons: `tenant_suspended`, `user_disabled`, `application_disabled`, `no_access`, `not_assigned`,
    `provider_disabled`, `session_ended`, `grant_ended`, `token_revoked`.
    """
    if not facts.tenant_active:
        return "tenant_suspended"
    if facts.user_usable is False:
        return "user_disabled"
    if facts.has_access is False:
        return "no_access"
    if facts.application_enabled is False:
        return "application_disabled"
    if facts.assigned is False:
        return "not_assigned"
    if facts.provider_enabled is False:
        return "provider_disabled"
    if facts.session_live is False:
        return "session_ended"
    if facts.grant_live is False:
        return "grant_ended"
    if facts.token_revoked:
        return "token_revoked"
    return None
