"""Sessions: a browser in which a person is signed in, from the cookie to the one statement that believes it.

The cookie holds 256 random bits, new at every sign-in and stored as a digest; whatever a browser brought before is
never adopted. Idle and absolute limits come from the settings, and a session whose person, tenant or upstream is
disabled is none at the next request. What ends one is `endings`'.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

import orjson
import sqlalchemy as sa
from flask import Response

from broker import endings, ids, running, settings
from broker.context import Actor, Scope
from broker.db import current_scope, db, hot, unit
from broker.models import Session
from broker.sign_in import browser
from broker.standing import USABLE, Standing, may_receive_tokens

SEEN_EVERY = timedelta(minutes=1)
"""Between two notes of one session's last use."""

_LOOKED_AT = 5

_FIND: LiteralString = """
WITH found AS MATERIALIZED (
    SELECT f.id, set_config('scaikey.tenant', f.tenant_id, true) AS tenant
    FROM scaikey_find_session(%(digest)s) AS f LIMIT 1
)
SELECT shown.* FROM found, LATERAL (
    SELECT s.id, s.user_id, s.provider_id, s.amr, s.auth_time,
        s.last_seen_at, s.last_seen_at <= now() - %(seen)s AS due,
        t.id AS tenant_id, t.partner_id, t.kind, t.slug, coalesce(u.display_name, u.name) AS name,
        t.status = 'active' AS tenant_active,
        {usable} AS user_usable,
        (SELECT p.enabled FROM identity_providers p
         WHERE p.tenant_id = s.tenant_id AND p.id = s.provider_id) AS provider_enabled,
        s.ended_at IS NULL AND s.expires_at > now() AND s.last_seen_at + make_interval(secs => coalesce(
            (SELECT v.value #>> '{}' FROM setting_values v
             WHERE v.name = 'session_idle_timeout' AND v.owner_id IN ('platform', t.partner_id, t.id)
             ORDER BY v.locked DESC, CASE v.owner_id WHEN 'platform' THEN 0 WHEN t.id THEN 2 ELSE 1 END
                 * CASE WHEN v.locked THEN 1 ELSE -1 END
             LIMIT 1)::float8, %(idle)s)) > now() AS live
    FROM sessions s
    JOIN tenants t ON t.id = s.tenant_id
    JOIN resources u ON u.tenant_id = s.tenant_id AND u.id = s.user_id
    WHERE s.tenant_id = found.tenant AND s.id = found.id OFFSET 0
) shown
""".replace("{usable}", USABLE)
"""The idle limit as `settings.of` resolves it: the widest level that locks it, else the one nearest the tenant."""


@dataclass(frozen=True, slots=True)
class LiveSession:
    """A session that holds at this moment, and the secret its browser showed."""

    id: str
    scope: Scope
    user_id: str
    user_name: str
    provider_id: str | None
    amr: tuple[str, ...]
    auth_time: datetime
    secret: str = field(repr=False)

    def actor(self) -> Actor:
        """The person as who acts on our own pages; a browser's session carries no scope of any API."""
        return Actor("user", self.user_id, self.scope.tenant_id, self.scope.partner_id, self.user_name)

    def csrf(self, purpose: str) -> str:
        return browser.proof(self.secret, purpose)

    def proven(self, purpose: str) -> bool:
        """Whether the form that was sent is one this session was shown for that purpose."""
        return browser.proven(self.secret, purpose)


def of_request(slug: str) -> LiveSession | None:
    """The session of this browser at the tenant of that slug, if it holds now. Outside any unit of work."""
    secret = browser.read(browser.session_cookie(slug))
    found = _live(secret) if secret else None
    return found if found is not None and found.scope.slug == slug else None


def of_browser() -> LiveSession | None:
    """For the platform issuer, before a tenant is named: the one session of this browser; None if there are several."""
    held = []
    for slug, secret in list(browser.sessions_brought())[:_LOOKED_AT]:
        found = _live(secret)
        if found is not None and found.scope.slug == slug:
            held.append(found)
    return held[0] if len(held) == 1 else None


def begin(
    user_id: str,
    *,
    provider_id: str | None,
    amr: Sequence[str],
    auth_time: datetime | None = None,
    upstream: dict[str, str | None] | None = None,
    replacing: LiveSession | None = None,
) -> tuple[Session, str]:
    """A session in the open unit of work, and its cookie's secret, which is told here only.

    `upstream` is kept, sealed, for signing out there. `replacing` is the browser's session so far: the same person's
    goes on under a new secret, so that its `sid` and its grants keep their meaning; anybody else's is ended.
    """
    scope, secret, now = current_scope(), browser.new_secret(), datetime.now(UTC)
    longest = timedelta(seconds=settings.of(scope, "session_timeout"))
    here = replacing if replacing is not None and replacing.scope.tenant_id == scope.tenant_id else None
    session = _same_persons(here, user_id) if here else None
    if session is None:
        session = Session(tenant_id=scope.tenant_id, id=ids.new("ses"), user_id=user_id)
        if here is not None:
            endings.end_session(here.id, "replaced")
    session.provider_id = provider_id
    session.digest = browser.digest(secret)
    session.auth_time = min(auth_time or now, now)
    session.amr = list(amr)
    session.user_agent = browser.user_agent()
    session.last_seen_at = now
    session.expires_at = now + longest
    session.upstream = running.vault().seal(orjson.dumps(upstream), **_place(session)) if upstream else None
    db.session().add(session)
    db.session().flush()
    return session, secret


def upstream_of(session: Session) -> dict[str, str | None] | None:
    """What was kept for signing out at the upstream."""
    if session.upstream is None:
        return None
    kept: dict[str, str | None] = orjson.loads(running.vault().open(session.upstream, **_place(session)))
    return kept


def packed(memo: bytes | None) -> str | None:
    return None if memo is None else base64.b64encode(memo).decode()


def unpacked(memo: str | None) -> bytes | None:
    return None if memo is None else base64.b64decode(memo)


def set_cookie(response: Response, slug: str, secret: str) -> None:
    """The cookie of a session that has just begun."""
    browser.keep(response, browser.session_cookie(slug), secret)


def clear_cookie(response: Response, slug: str) -> None:
    browser.forget(response, browser.session_cookie(slug))


def _same_persons(here: LiveSession, user_id: str) -> Session | None:
    if here.user_id != user_id:
        return None
    return db.session().scalar(
        sa.select(Session).where(Session.id == here.id, Session.ended_at.is_(None)).with_for_update()
    )


def _live(secret: str) -> LiveSession | None:
    values = {
        "digest": browser.digest(secret),
        "seen": SEEN_EVERY,
        "idle": settings.SETTINGS["session_idle_timeout"].default,
    }
    rows = hot(_FIND, values)
    if not rows:
        return None
    row = rows[0]
    facts = Standing(row.tenant_active, row.user_usable, None, None, None, row.provider_enabled, row.live, None, None)
    if may_receive_tokens(facts) is not None:
        return None
    scope = Scope(row.tenant_id, row.partner_id, row.kind, row.slug)
    if row.due:
        _note_use(scope, row)
    return LiveSession(row.id, scope, row.user_id, row.name, row.provider_id, tuple(row.amr), row.auth_time, secret)


def _note_use(scope: Scope, row: Any) -> None:
    with unit(scope) as session:
        session.execute(
            sa.update(Session)
            .where(Session.id == row.id, Session.last_seen_at == row.last_seen_at)
            .values(last_seen_at=sa.func.now())
            .execution_options(synchronize_session=False)
        )


def _place(session: Session) -> dict[str, str]:
    return {"table": "sessions", "column": "upstream", "tenant": session.tenant_id, "row": session.id}
