"""What a person allowed a third-party application: asked once, remembered, and asked again for more.

The only writer of `consents`. Applications of the house itself ask for nothing; access while the person is away
(`offline_access`) is among what is asked.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from broker import events
from broker.db import current_tenant, db
from broker.models import Consent
from broker.sign_in.requests import AuthRequest
from broker.sign_in.sessions import LiveSession


def missing(request: AuthRequest, session: LiveSession, *, answered: bool) -> Sequence[str]:
    """The scopes to ask this person for; empty when nothing is to be asked. `answered`: on a page of this sign-in."""
    if not request.third_party:
        return ()
    # Looked up even when the page was answered: by now it may be somebody else who is signed in.
    allowed = _allowed(session.user_id, request.application_id)
    asked = request.scopes or ("openid",)
    if allowed is None or not allowed.issuperset(request.scopes):
        return asked
    return asked if "consent" in request.prompt and not answered else ()


def give(request: AuthRequest, session: LiveSession, scopes: Sequence[str]) -> None:
    """The person allows the application these scopes, beside what was allowed before."""
    before = _allowed(session.user_id, request.application_id) or frozenset()
    given = pg.insert(Consent).values(
        tenant_id=current_tenant(),
        user_id=session.user_id,
        application_id=request.application_id,
        scopes=sorted(scopes),
    )
    db.session().execute(
        given.on_conflict_do_update(
            index_elements=["tenant_id", "user_id", "application_id"],
            set_={"scopes": sorted(before.union(scopes)), "updated_at": sa.func.now()},
        )
    )
    batch = events.Changes()
    about = {"user_id": session.user_id, "scopes": list(scopes)}
    batch.add("consent.given", "Application", request.application_id, about)
    events.record(batch, actor=session.actor())


def _allowed(user_id: str, application_id: str) -> frozenset[str] | None:
    found = db.session().scalar(
        sa.select(Consent.scopes).where(Consent.user_id == user_id, Consent.application_id == application_id)
    )
    return None if found is None else frozenset(found)
