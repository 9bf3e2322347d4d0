"""What is known of a person for one audience at this moment, and how tokens say it.

Owns the one statement that gathers it (names, e-mail, groups, roles) and the names of the claims: nothing else computes
a claim about a person. What a mapping or an assignment writes becomes a name, a group or a role here, and never a
reserved claim or an administrator's role. What else a token carries, and its signature, are `tokens`'.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, LiteralString

import orjson

from broker import attributes
from broker.context import ADMIN_ROLES, Scope
from broker.db import IN_TENANT, current_tenant, db, hot
from broker.held import HELD, holding
from broker.protocol import OUR_NAMES

IdentityType = Literal["user", "service_account"]

_WHOLE: LiteralString = """
SELECT known.* FROM scope, LATERAL (
    SELECT t.id AS tenant, t.partner_id, t.kind AS tenant_kind, t.slug, c.*, around.*, {held} AS held
    FROM tenants t, LATERAL (
        SELECT u.id AS principal, u.name AS user_name, u.display_name, u.user_type, u.document, u.updated_at,
               u.email_doubted,
               (SELECT s.name FROM service_accounts s WHERE s.tenant_id = t.id AND s.id = u.id) AS account
        FROM resources u
        WHERE u.tenant_id = t.id AND u.id = %(user)s AND u.type = 'User' AND u.removed_at IS NULL OFFSET 0
    ) c, LATERAL (
        WITH RECURSIVE up(id) AS (
            SELECT m.group_id FROM memberships m WHERE m.tenant_id = t.id AND m.member_id = c.principal
            UNION
            SELECT m.group_id FROM up JOIN memberships m ON m.tenant_id = t.id AND m.member_id = up.id
        )
        SELECT
            (SELECT jsonb_agg(g.token_name ORDER BY g.token_name COLLATE "C")
             FROM up JOIN resources g ON g.tenant_id = t.id AND g.id = up.id
             WHERE g.removed_at IS NULL AND g.token_name IS NOT NULL) AS groups,
            (SELECT jsonb_agg(DISTINCT given.role)
             FROM application_access x
             JOIN applications a ON a.tenant_id = x.owner_tenant_id AND a.id = x.application_id
             JOIN assignments s ON s.tenant_id = t.id AND s.application_id = x.application_id
             CROSS JOIN LATERAL jsonb_array_elements_text(s.roles) AS given(role)
             WHERE x.tenant_id = t.id AND %(audience)s::text IN (a.audience, a.client_id)
               AND (s.principal_id = c.principal OR s.principal_id IN (SELECT up.id FROM up))) AS roles,
            (SELECT jsonb_agg(d.name) FROM domains d WHERE d.tenant_id = t.id AND d.verified) AS domains
    ) around
    WHERE t.id = scope.tenant OFFSET 0
) known
""".replace("{held}", HELD)

_PERSON: LiteralString = IN_TENANT + _WHOLE


@dataclass(frozen=True, slots=True)
class Person:
    """A person, or a service account, as one audience sees them: `groups` by their token names, direct and nested;
    `roles` at that audience, with the administrators' roles that hold."""

    id: str
    tenant: Scope
    kind: IdentityType
    user_name: str
    name: str
    email: str | None
    email_verified: bool
    about: Mapping[str, Any]
    """The rest of the `profile` claims."""
    groups: tuple[str, ...]
    roles: tuple[str, ...]

    @property
    def identity_id(self) -> str:
        return f"{'sa' if self.kind == 'service_account' else 'user'}:{self.user_name}"


def person(user_id: str, audience: str | None, *, tenant_id: str | None = None) -> Person | None:
    """Whom tokens for `audience` are about; None when there is no such person. One statement.

    Of `tenant_id` as committed, or of the open unit of work with what it has written. Whether the person may get tokens
    is `broker.standing`'s question.
    """
    values = {"tenant": tenant_id or current_tenant(), "user": user_id, "audience": audience}
    if tenant_id is not None:
        rows = hot(_PERSON, values)
    else:
        rows = db.session().connection().exec_driver_sql(_PERSON, values).all()
    return _person(rows[0]) if rows else None


def _person(row: Any) -> Person:
    document = orjson.loads(row.document)
    name = document.get("name") or {}
    email = _email(document)
    domain = attributes.fold((email or "").rpartition("@")[2])
    given = {role for role in row.roles or () if role not in ADMIN_ROLES and not role.startswith(OUR_NAMES)}
    grants = holding(row.held, row.tenant, row.partner_id, row.tenant_kind)
    about = {
        "given_name": name.get("givenName"),
        "family_name": name.get("familyName"),
        "middle_name": name.get("middleName"),
        "nickname": document.get("nickName"),
        "locale": document.get("locale"),
        "zoneinfo": document.get("timezone"),
        "updated_at": int(row.updated_at.timestamp()),
    }
    account = row.user_type == "ServiceAccount"
    return Person(
        id=row.principal,
        tenant=Scope(row.tenant, row.partner_id, row.tenant_kind, row.slug),
        kind="service_account" if account else "user",
        user_name=(row.account if account else None) or row.user_name,
        name=row.display_name or name.get("formatted") or row.user_name,
        email=email,
        email_verified=domain in (row.domains or ()) and not row.email_doubted,
        about={claim: value for claim, value in about.items() if value},
        groups=tuple(row.groups or ()),
        roles=tuple(sorted(given | {grant.role for grant in grants})),
    )


def _email(document: Mapping[str, Any]) -> str | None:
    """The primary address, else the first."""
    addresses = [one for one in document.get("emails") or () if one.get("value")]
    chosen = [one["value"] for one in addresses if one.get("primary")] or [one["value"] for one in addresses]
    return chosen[0] if chosen else None


def in_access_token(person: Person) -> dict[str, Any]:
    """What an access token says of its person."""
    said = {"preferred_username": person.user_name, "name": person.name}
    if person.email is not None:
        said["email"] = person.email
    return {**said, "roles": list(person.roles), "groups": list(person.groups)}


def by_scope(person: Person, scopes: Collection[str]) -> dict[str, Any]:
    """What ID tokens and userinfo say of a person (OpenID Connect Core section 5.4): `profile` and `email`."""
    said: dict[str, Any] = {}
    if "profile" in scopes:
        said |= {"preferred_username": person.user_name, "name": person.name, **person.about}
    if "email" in scopes and person.email is not None:
        said |= {"email": person.email, "email_verified": person.email_verified}
    return said


def userinfo(person: Person, scopes: Collection[str]) -> dict[str, Any]:
    """The answer of the userinfo endpoint: with `profile` also the groups, and the roles at the token's audience."""
    said = {"sub": person.id, **by_scope(person, scopes)}
    if "profile" in scopes:
        said |= {"roles": list(person.roles), "groups": list(person.groups)}
    return said
