"""The end of sessions and grants, said once: who ends what, what ends with it, and what the log is told.

Everything happens in the open unit of work; nothing that had ended before is told again. Whoever looks at a session, a
grant or a token finds the end by `standing`, at the next request. Why, and who may, is known where it is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from . import events
from .db import current_tenant, db
from .protocol import OFFLINE

DISABLED = "user_disabled"


_ENDING = """
    WITH s AS (
        UPDATE sessions SET ended_at = now(), end_reason = :reason
        WHERE tenant_id = :tenant AND ended_at IS NULL AND <sessions> RETURNING id, user_id),
    g AS (
        UPDATE grants SET ended_at = now(), end_reason = :hanging
        WHERE tenant_id = :tenant AND ended_at IS NULL AND <grants> RETURNING id, user_id, session_id)
    SELECT 'Session' AS kind, id, user_id, NULL AS session_id FROM s
    UNION ALL SELECT 'Grant', id, user_id, session_id FROM g
"""
_SESSION = _ENDING.replace("<sessions>", "id = :id")
_A_SESSION = sa.text(
    _SESSION.replace("<grants>", f"session_id = :id AND NOT scopes @> CAST('[\"{OFFLINE}\"]' AS jsonb)")
)
_A_WHOLE_SESSION = sa.text(_SESSION.replace("<grants>", "session_id = :id"))
_A_GRANT = sa.text(_ENDING.replace("<sessions>", "false").replace("<grants>", "id = :id"))
_ALL_OF = sa.text(_ENDING.replace("<sessions>", "user_id = ANY(:ids)").replace("<grants>", "user_id = ANY(:ids)"))


def end_session(session_id: str, reason: str, *, everything: bool = False) -> bool:
    """A session, and the grants that live as long as it: all of them with `everything`, else those without offline
    access. False when it had ended before."""
    changes = events.Changes()
    ended = _end(_A_WHOLE_SESSION if everything else _A_SESSION, reason, changes, "session_ended", id=session_id)
    events.record(changes)
    return "Session" in ended


def end_grant(grant_id: str, reason: str) -> bool:
    """A grant, with every token that came of it. False when it had ended before."""
    changes = events.Changes()
    ended = _end(_A_GRANT, reason, changes, id=grant_id)
    events.record(changes)
    return "Grant" in ended


def end_all_of(user_ids: Sequence[str], reason: str, changes: events.Changes) -> None:
    """Every session and every grant of these people, into the changes of whoever ends them."""
    if user_ids:
        _end(_ALL_OF, reason, changes, ids=list(user_ids))


def _end(
    statement: sa.TextClause, reason: str, changes: events.Changes, hanging: str | None = None, **which: Any
) -> set[str]:
    """Run it, tell of each that ends, and return the kinds of them. `hanging`: the reason of the grants, where it is
    another."""
    reasons = {"reason": reason, "hanging": hanging or reason}
    ended = db.session().execute(statement, {"tenant": current_tenant(), **reasons, **which}).all()
    for kind, id, user_id, session_id in ended:
        about = {"user_id": user_id, "reason": reason}
        if kind == "Grant":
            about |= {"session_id": session_id, "reason": reasons["hanging"]}
        changes.add(f"{kind.lower()}.ended", kind, id, about)
    return {kind for kind, *_ in ended}
