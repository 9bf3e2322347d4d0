"""A name and a password that were typed here: ours first, then those of the tenant's directories.

Counts and delays come before anybody is asked, each before what it guards: our own passwords, or a directory's.
Whatever was wrong, the answer to it is the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from broker import passwords
from broker.db import unit
from broker.sign_in import browser, devices, directories, flow
from broker.sign_in.directories import Answer
from broker.sign_in.flow import Flow
from broker.sign_in.sessions import LiveSession
from broker.sign_in.upstream import Failed


@dataclass(frozen=True, slots=True)
class Wrong:
    """The name, the password or both; `retry_after`: it was not tried, and is not before so many seconds."""

    retry_after: int | None = None


def sign_in(under_way: Flow, username: str, password: str, present: LiveSession | None) -> LiveSession | Failed | Wrong:
    """Outside any unit of work. `present` is the browser's session so far."""
    scope, device = under_way.scope, devices.known(under_way.scope, username)
    with unit(scope):
        asked = directories.of(under_way, username)
    answer = Answer()

    def elsewhere(may_try: passwords.MayTry) -> bool | None:
        nonlocal answer
        answer = directories.ask(scope, asked, username, password, may_try)
        return answer.right

    verdict = passwords.check(scope, username, password, browser.address(), device, elsewhere if asked else None)
    if verdict.retry_after is not None:
        return Wrong(verdict.retry_after)
    if verdict.user_id is None:
        return directories.conclude(under_way, answer, present, known=device is not None) or Wrong()
    with unit(scope):
        if not passwords.still_right(verdict):
            return Wrong()
        began = flow.signed_in(under_way, verdict.user_id, provider_id=None, amr=["pwd"], replacing=present)
    return Failed(began, None) if isinstance(began, str) else began
