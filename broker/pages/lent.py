"""Pages that the door of OAuth shows: made here, handed over by the assembly, for doors never import each other.

What they say is decided there; whose brand they carry, and how a page looks, is found here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flask import Response

from broker.db import unit
from broker.errors import Problem
from broker.pages import faces, refusals
from broker.pages.door import render, source
from broker.pages.tenant import brand
from broker.sign_in.sessions import LiveSession

_SAID_IN_DETAIL = frozenset({"bad_request"})


def turned_away(reason: str, detail: str = "") -> Response:
    """The page of a reason code. Who sent a request that cannot be answered is told what is wrong with it."""
    if reason not in _SAID_IN_DETAIL or not detail:
        return refusals.turned_away(None, reason)
    said = refusals.explain(reason)
    return faces.refused(None, title=said.title, text=f"{said.text} ({detail}.)", status=said.status)


def refused(problem: Problem) -> Response:
    return render(problem)


def post_form(url: str, fields: Mapping[str, str]) -> Response:
    return faces.post_form(url, fields)


def onward(url: str) -> Response:
    return faces.onward(None, url=url)


def logout(session: LiveSession, *, action: str, csrf: str, then: Sequence[str]) -> Response:
    with unit(session.scope):
        look = brand(session.scope)
    return faces.logout(
        look, action=action, csrf=csrf, user=session.user_name, then=[url for url in then if _named(url)]
    )


def logged_out() -> Response:
    return faces.logged_out(None, sign_in=None, back=None)


def _named(url: str) -> bool:
    try:
        source(url)
    except ValueError:
        return False
    return True
