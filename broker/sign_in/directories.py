"""Directories that check the passwords of their people: who is asked, what they say, and what that opens.

A name and a password are shown to each directory that may know the name, and kept nowhere. What is counted and delayed
before is `passwords`', how long and how many wait is `patience`'s, whose account it is our own directory's. What a
person may learn of a refusal is decided here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from broker import connections
from broker.connections import Provider
from broker.context import Scope
from broker.db import db, unit
from broker.directory import Directory
from broker.models import IdentityProvider
from broker.passwords import MayTry
from broker.patience import PATIENCE
from broker.sign_in import flow, realms, upstream
from broker.sign_in.flow import Flow
from broker.sign_in.sessions import LiveSession
from broker.sign_in.upstream import Failed
from connectors.port import (
    PASSWORD_REFUSALS,
    Identity,
    Lookup,
    Misconfigured,
    PasswordCheck,
    Record,
    Refused,
    Unreachable,
)

LOCKED = "account_locked"
_RIGHT = PASSWORD_REFUSALS - {LOCKED}
"""Refusals of who has shown the right password. That an account is locked is told to strangers, too."""
_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class Asked:
    """A directory, and whether whom it alone knows becomes a person here."""

    provider: Provider
    takes_newcomers: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What a directory said: who it is, with his record if he is new here; or a `reason` that is more than "no"."""

    provider: Provider | None = None
    identity: Identity | None = None
    record: Record | None = None
    reason: str | None = None
    detail: str | None = None
    denied: bool = False
    """Somebody who was asked said no: it counts as a wrong password, whatever others did not say."""

    @property
    def right(self) -> bool | None:
        """Whether the password was right; None when nobody said."""
        if self.identity is not None or self.reason in _RIGHT:
            return True
        return False if self.denied else None


def of(under_way: Flow, username: str) -> tuple[Asked, ...]:
    """Whom to ask about this name, by rank. In the open unit of work."""
    known = [one.id for one in realms.ways().asked_about(username, under_way.provider_id)]
    if not username or not username.isprintable() or not known:
        return ()
    found = db.session().scalars(sa.select(IdentityProvider).where(IdentityProvider.id.in_(known)))
    rows = {row.id: row for row in found}
    return tuple(
        Asked(connections.provider_of(rows[id]), bool(rows[id].jit.get("enabled"))) for id in known if id in rows
    )


def ask(scope: Scope, directories: Sequence[Asked], username: str, password: str, may_try: MayTry) -> Answer:
    """The first answer of one that takes the password, else the one that says most. Outside any unit of work. `may_try`
    is asked about each account that the name turns out to be; of one that rests the directory is told no password."""
    began, heard = time.monotonic(), Answer()
    denied = False
    for one in directories:
        if time.monotonic() - began > PATIENCE:
            heard = Answer(one.provider, reason="upstream_unavailable", detail="Others took too long before it.")
            break
        answer = _ask(scope, one, username, password, may_try)
        if answer.right:
            return answer
        denied |= answer.denied
        heard = max(heard, answer, key=_tells)
    return replace(heard, denied=denied)


def conclude(
    under_way: Flow, answer: Answer, present: LiveSession | None, *, known: bool
) -> LiveSession | Failed | None:
    """What the answer comes to; None where the person is told what everybody is told whose password is wrong. `known`:
    in a browser where the account was signed in to before. Opens units of work of its own."""
    if answer.provider is None:
        return None
    if answer.identity is not None:
        with unit(under_way.scope):
            return upstream.admit(under_way, answer.provider, answer.identity, present, answer.record)
    if answer.reason is None:
        return None
    if answer.reason == LOCKED and not known:
        with unit(under_way.scope):
            flow.note_refusal(under_way, LOCKED, provider_id=answer.provider.id, detail=answer.detail)
        return None
    return upstream.failed(under_way, answer.reason, answer.provider.id, answer.provider.name, answer.detail)


def _ask(scope: Scope, one: Asked, username: str, password: str, may_try: MayTry) -> Answer:
    provider = one.provider

    def may_try_at_this_one(key: str) -> bool:
        return may_try(f"{provider.id}\x00{key}")

    try:
        with connections.password_check_of(provider) as connector:
            if connector is None:
                raise Misconfigured(f"Nobody's password is checked at provider {provider.id}")
            identity = connector.check_password(username, password, may_try_at_this_one)
            record = _newcomer(scope, one, connector, identity) if identity is not None else None
    except Refused as refused:
        if refused.code not in PASSWORD_REFUSALS:
            return Answer(provider, denied=True)
        detail = f"{username[:_LONGEST_NAME]}: {refused}"
        return Answer(provider, reason=refused.code, detail=detail, denied=refused.code == LOCKED)
    except Unreachable as error:
        return Answer(provider, reason="upstream_unavailable", detail=str(error))
    except Misconfigured as error:
        return Answer(provider, reason="upstream_misconfigured", detail=str(error))
    if identity is None:
        return Answer(provider, denied=True)
    return Answer(provider, replace(identity, amr=identity.amr or ("pwd",)), record)


def _newcomer(scope: Scope, one: Asked, connector: PasswordCheck, identity: Identity) -> Record | None:
    """The record of somebody who has not been read yet, where such become people here."""
    if not one.takes_newcomers or not isinstance(connector, Lookup):
        return None
    with unit(scope):
        if Directory().has_read(identity.key, one.provider.id):
            return None
    found = list(connector.records([identity.key]))
    return next((one for one in found if isinstance(one, Record)), None)


def _tells(answer: Answer) -> int:
    """How much an answer tells that is not yes: nothing, no, locked, not there."""
    if answer.reason is None:
        return int(answer.denied)
    return 2 if answer.reason == LOCKED else 3
