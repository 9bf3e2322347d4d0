"""The end of sessions and grants, said once: who ends what, what ends with it, and what the log is told.

Everything happens in the open unit of work; nothing that had ended before is told again. Whoever looks at a session, a
grant or a token finds the end by `standing`, at the next request. Why, and who may, is known where it is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from . import events
from .db import db
from .models import Grant, Session
from .protocol import OFFLINE

DISABLED = "user_disabled"


def end_session(session_id: str, reason: str, *, everything: bool = False) -> bool:
    """A session, and the grants that live as long as it: all of them with `everything`, else those without offline
    access. False when it had ended before."""
    changes = events.Changes()
    ended = _end_sessions(Session.id == session_id, reason, changes)
    hanging = Grant.session_id == session_id
    if not everything:
        hanging &= Grant.scopes.contains([OFFLINE]).is_(False)
    _end_grants(hanging, "session_ended", changes)
    events.record(changes)
    return ended > 0


def end_grant(grant_id: str, reason: str) -> bool:
    """A grant, with every token that came of it. False when it had ended before."""
    changes = events.Changes()
    ended = _end_grants(Grant.id == grant_id, reason, changes)
    events.record(changes)
    return ended > 0


def end_all_of(user_ids: Sequence[str], reason: str, changes: events.Changes) -> None:
    """Every session and every grant of these people, into the changes of whoever ends them."""
    if not user_ids:
        return
    theirs = sa.any_(sa.cast(list(user_ids), pg.ARRAY(sa.Text)))
    _end_sessions(Session.user_id == theirs, reason, changes)
    _end_grants(Grant.user_id == theirs, reason, changes)


def _end_sessions(which: sa.ColumnElement[bool], reason: str, changes: events.Changes) -> int:
    return _end(Session, which, reason, changes, (Session.id, Session.user_id))


def _end_grants(which: sa.ColumnElement[bool], reason: str, changes: events.Changes) -> int:
    return _end(Grant, which, reason, changes, (Grant.id, Grant.user_id, Grant.session_id))


def _end(
    kind: type[Session] | type[Grant],
    which: sa.ColumnElement[bool],
    reason: str,
    changes: events.Changes,
    told: Sequence[Any],
) -> int:
    ended = (
        db.session()
        .execute(
            sa.update(kind)
            .where(which, kind.ended_at.is_(None))
            .values(ended_at=sa.func.now(), end_reason=reason)
            .returning(*told)
            .execution_options(synchronize_session=False)
        )
        .mappings()
        .all()
    )
    name = kind.__name__
    for row in ended:
        about = {column: value for column, value in row.items() if column != "id"}
        changes.add(f"{name.lower()}.ended", name, row["id"], {**about, "reason": reason})
    return len(ended)
