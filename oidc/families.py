"""Grants and what comes of them: codes, rotating refresh tokens, revocations. Only here do they begin and change.

A grant is one authorization of one person for one application, the family of all its tokens. Codes and refresh tokens
are claimed by one conditional UPDATE, so that of any number of redemptions one wins; what is spent stays known, and
showing it again ends the family. Whatever else ends a grant does it by `broker.endings`, as this does. Everything
happens in the unit of work of the caller, who knows who asks.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, LiteralString

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from broker import endings, events, ids
from broker.db import current_tenant, db, hot
from broker.models import AuthorizationCode, Grant, RevokedToken
from broker.protocol import OFFLINE

GRACE = timedelta(seconds=10)
"""A refresh token shown again within it gets the successor it got before: answers are lost on the way."""
SEEN_EVERY = timedelta(minutes=1)

_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")
_FAMILY: LiteralString = (
    "g.id, g.user_id, g.application_id, g.session_id, g.issuer, g.scopes, g.audience, g.nonce, g.auth_time, g.amr"
)

_CLAIM_CODE: LiteralString = """
    UPDATE authorization_codes c SET used_at = clock_timestamp() FROM grants g
    WHERE c.tenant_id = %(tenant)s AND c.digest = %(digest)s AND c.used_at IS NULL
      AND g.tenant_id = c.tenant_id AND g.id = c.grant_id
      AND g.application_id = %(application)s AND g.issuer = %(issuer)s
    RETURNING c.redirect_uri, c.code_challenge, c.expires_at > now() AS fresh, {family}
""".replace("{family}", _FAMILY)
_TENANT_OF_CODE: LiteralString = "SELECT tenant_id FROM scaikey_find_code(%(digest)s)"
_TENANT_OF_REFRESH: LiteralString = "SELECT tenant_id FROM scaikey_find_refresh(%(digest)s)"
_SPENT_CODE: LiteralString = """
    SELECT g.id FROM authorization_codes c JOIN grants g ON g.tenant_id = c.tenant_id AND g.id = c.grant_id
    WHERE c.tenant_id = %(tenant)s AND c.digest = %(digest)s AND c.used_at IS NOT NULL
      AND g.application_id = %(application)s AND g.issuer = %(issuer)s
"""
_FIND_REFRESH: LiteralString = """
    SELECT r.id AS refresh_id, r.salt, r.expires_at > now() AS fresh,
        s.ended_at IS NULL AND s.expires_at > now() AND s.last_seen_at > now() - %(idle)s AS session_live,
        s.last_seen_at <= now() - %(seen)s AS session_due, {family}
    FROM refresh_tokens r
    JOIN grants g ON g.tenant_id = r.tenant_id AND g.id = r.grant_id
    JOIN sessions s ON s.tenant_id = g.tenant_id AND s.id = g.session_id
    WHERE r.tenant_id = %(tenant)s AND r.digest = %(digest)s
      AND g.application_id = %(application)s AND g.issuer = %(issuer)s
""".replace("{family}", _FAMILY)
_GRANT_OF_REFRESH: LiteralString = """
    SELECT g.id FROM refresh_tokens r JOIN grants g ON g.tenant_id = r.tenant_id AND g.id = r.grant_id
    WHERE r.tenant_id = %(tenant)s AND r.digest = %(digest)s
      AND g.application_id = %(application)s AND g.issuer = %(issuer)s
"""
_ROTATE: LiteralString = """
    WITH claimed AS (
        UPDATE refresh_tokens SET used_at = clock_timestamp()
        WHERE tenant_id = %(tenant)s AND id = %(id)s AND used_at IS NULL
        RETURNING tenant_id, grant_id, expires_at
    )
    INSERT INTO refresh_tokens (tenant_id, id, grant_id, digest, salt, expires_at)
    SELECT tenant_id, %(new_id)s, grant_id, %(digest)s, %(salt)s, expires_at FROM claimed RETURNING id
"""
_IN_GRACE: LiteralString = """
    SELECT used_at > clock_timestamp() - %(grace)s FROM refresh_tokens WHERE tenant_id = %(tenant)s AND id = %(id)s
"""
_FIRST_REFRESH: LiteralString = """
    INSERT INTO refresh_tokens (tenant_id, id, grant_id, digest, salt, expires_at)
    VALUES (%(tenant)s, %(new_id)s, %(grant)s, %(digest)s, %(salt)s, now() + %(life)s)
"""
_SEEN: LiteralString = """
    UPDATE sessions SET last_seen_at = now() WHERE tenant_id = %(tenant)s AND id = %(id)s AND ended_at IS NULL
"""


@dataclass(frozen=True, slots=True)
class Family:
    """A grant, as its tokens say it."""

    id: str
    user_id: str
    application_id: str
    session_id: str
    issuer: Literal["tenant", "platform"]
    scopes: Sequence[str]
    audience: str
    nonce: str | None
    auth_time: datetime
    amr: Sequence[str]

    @property
    def outlives_its_session(self) -> bool:
        return OFFLINE in self.scopes


@dataclass(frozen=True, slots=True)
class Code:
    """A code that was just claimed, and what must be shown with it."""

    family: Family
    redirect_uri: str
    code_challenge: str


@dataclass(frozen=True, slots=True)
class Refresh:
    """A refresh token that was shown, not claimed yet."""

    id: str
    secret: str
    salt: bytes
    session_live: bool
    session_due: bool
    family: Family


def digest_of(secret: str) -> bytes | None:
    """What is stored of a code or refresh token; None when the text cannot be one."""
    return hashlib.sha256(secret.encode()).digest() if _SECRET.fullmatch(secret) else None


def tenant_of_code(code: str) -> str | None:
    """Whose code this is, for the platform issuer. Outside any unit of work, as is `tenant_of_refresh`."""
    digest = digest_of(code)
    rows = hot(_TENANT_OF_CODE, {"digest": digest}) if digest else ()
    return rows[0].tenant_id if rows else None


def tenant_of_refresh(secret: str) -> str | None:
    digest = digest_of(secret)
    rows = hot(_TENANT_OF_REFRESH, {"digest": digest}) if digest else ()
    return rows[0].tenant_id if rows else None


def begin(
    family: Family,
    *,
    provider_id: str | None,
    redirect_uri: str,
    code_challenge: str,
    code_life: timedelta,
    life: timedelta,
) -> str:
    """Keep a new grant and its code; `life` is that of the longest-lived token to come of it. Returns the code."""
    session, code = db.session(), secrets.token_urlsafe(32)
    now = sa.func.now()
    session.add(
        Grant(
            id=family.id,
            user_id=family.user_id,
            application_id=family.application_id,
            session_id=family.session_id,
            provider_id=provider_id,
            issuer=family.issuer,
            scopes=list(family.scopes),
            audience=family.audience,
            nonce=family.nonce,
            auth_time=family.auth_time,
            amr=list(family.amr),
            expires_at=now + code_life + life,
        )
    )
    session.flush()
    session.add(
        AuthorizationCode(
            id=ids.new("cod"),
            grant_id=family.id,
            digest=hashlib.sha256(code.encode()).digest(),
            redirect_uri=redirect_uri,
            code_challenge=code_challenge,
            expires_at=now + code_life,
        )
    )
    session.flush()
    _tell("grant.created", family.id, {"application_id": family.application_id, "scopes": list(family.scopes)})
    return code


def claim_code(code: str, *, application_id: str, issuer: str) -> Code | None:
    """Spend a code of this client at this issuer; None when there is none. One that was spent before ends its
    family, which the caller must commit."""
    digest = digest_of(code)
    if digest is None:
        return None
    asked = {"tenant": current_tenant(), "digest": digest, "application": application_id, "issuer": issuer}
    row = _run(_CLAIM_CODE, asked).first()
    if row is not None:
        return Code(_family(row), row.redirect_uri, row.code_challenge) if row.fresh else None
    spent = _run(_SPENT_CODE, asked).first()
    if spent is not None:
        endings.end_grant(spent.id, "code_reused")
    return None


def first_refresh_token(family: Family, life: timedelta) -> str:
    """The first link of the family's chain; `life` is that of the whole chain."""
    secret = secrets.token_urlsafe(32)
    _run(_FIRST_REFRESH, {**_new_link(secret), "grant": family.id, "life": life})
    return secret


def find_refresh(secret: str, *, application_id: str, issuer: str, idle: timedelta) -> Refresh | None:
    """The refresh token of this client at this issuer, if it has not expired; nothing is claimed yet. `idle` is how
    long a session may be unused."""
    digest = digest_of(secret)
    if digest is None:
        return None
    asked = {
        "tenant": current_tenant(),
        "digest": digest,
        "application": application_id,
        "issuer": issuer,
        "idle": idle,
        "seen": SEEN_EVERY,
    }
    row = _run(_FIND_REFRESH, asked).first()
    if row is None or not row.fresh:
        return None
    return Refresh(row.refresh_id, secret, bytes(row.salt), row.session_live, row.session_due, _family(row))


def rotate(shown: Refresh) -> str | None:
    """The one successor of a refresh token: made now, or the same again within the grace. Shown later, it ends the
    family and gives None, which the caller must commit."""
    successor = _successor(shown)
    if _run(_ROTATE, {**_new_link(successor), "id": shown.id}).first() is not None:
        if shown.session_due and not shown.family.outlives_its_session:
            _run(_SEEN, {"tenant": current_tenant(), "id": shown.family.session_id})
        return successor
    if _run(_IN_GRACE, {"tenant": current_tenant(), "id": shown.id, "grace": GRACE}).scalar():
        return successor
    endings.end_grant(shown.family.id, "refresh_token_reused")
    return None


def grant_of_refresh(secret: str, *, application_id: str, issuer: str) -> str | None:
    """The grant of a refresh token of this client at this issuer, whether it was used or not."""
    asked = {"digest": digest_of(secret), "application": application_id, "issuer": issuer}
    found: str | None = _run(_GRANT_OF_REFRESH, {**asked, "tenant": current_tenant()}).scalar()
    return found


def revoke_access_token(jti: str, expires_at: datetime) -> None:
    """Refuse this one access token from now on."""
    known = pg.insert(RevokedToken).values(tenant_id=current_tenant(), jti=jti, expires_at=expires_at)
    if db.session().scalar(known.on_conflict_do_nothing().returning(RevokedToken.jti)) is not None:
        _tell("token.revoked", jti, [])


def _successor(shown: Refresh) -> str:
    """The same for everybody who shows the same token, and told by nothing that is stored."""
    mac = hmac.new(shown.salt, shown.secret.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(mac).decode().rstrip("=")


def _new_link(secret: str) -> dict[str, Any]:
    return {
        "tenant": current_tenant(),
        "new_id": ids.new("rft"),
        "digest": hashlib.sha256(secret.encode()).digest(),
        "salt": secrets.token_bytes(32),
    }


def _family(row: Any) -> Family:
    return Family(
        row.id,
        row.user_id,
        row.application_id,
        row.session_id,
        row.issuer,
        tuple(row.scopes),
        row.audience,
        row.nonce,
        row.auth_time,
        tuple(row.amr),
    )


def _run(statement: LiteralString, values: dict[str, Any]) -> sa.CursorResult[Any]:
    return db.session().connection().exec_driver_sql(statement, values)


def _tell(name: str, grant_id: str, changed: Any) -> None:
    batch = events.Changes()
    batch.add(name, "Grant", grant_id, changed)
    events.record(batch)
