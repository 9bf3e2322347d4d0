"""The door of the pages: their headers, their style sheets, and a plain page for every refusal.

Which pages there are is the neighbouring modules'.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from flask import Flask, Response, render_template

from broker.context import current_request_id
from broker.doors import About, Door
from broker.errors import NotFound, Problem
from broker.pages import accent, words
from broker.pages.words import gettext as _
from broker.policy import Action

_STATIC = {
    path.name: path.read_bytes()
    for path in sorted((Path(__file__).parent / "static").iterdir())
    if path.suffix == ".css"
}
_THEME = re.compile(r"([0-9a-f]{6})\.css")


def page(
    template: str,
    status: int = 200,
    *,
    colour: str | None = None,
    forms_to: Sequence[str] = ("'none'",),
    nonce: str | None = None,
    **values: Any,
) -> Response:
    """A page of the house, which may load our own style sheets and nothing else.

    `forms_to` are the sources its forms may be sent to and redirected to; `nonce` is that of its one script.
    """
    sheets = [_address(name) for name in ("style.css", f"{colour[1:]}.css" if colour else None) if name]
    body = render_template(template, sheets=sheets, nonce=nonce, **values)
    policy = (
        f"default-src 'none'; style-src 'self'; img-src 'self' data:; form-action {' '.join(forms_to)}; "
        "frame-ancestors 'none'; base-uri 'none'" + (f"; script-src 'nonce-{nonce}'" if nonce else "")
    )
    headers = {"Content-Security-Policy": policy, "Content-Language": words.language()}
    if "'self'" in forms_to:
        # Under `no-referrer` browsers send our own forms with `Origin: null`.
        headers["Referrer-Policy"] = "same-origin"
    return Response(body, status, headers, mimetype="text/html")


def source(url: str) -> str:
    """The source expression (CSP 3) that admits `url`: its origin, or its scheme when that is a native app's.

    CSP has no form for an IPv6 address; its scheme has to do. Raises ValueError for what is no address.
    """
    parts = urlsplit(url)
    if parts.scheme in ("http", "https") and parts.hostname:
        if ":" in parts.hostname:
            return f"{parts.scheme}:"
        if re.fullmatch(r"[a-z0-9._-]+", parts.hostname):
            return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
    elif re.fullmatch(r"[a-z][a-z0-9+-]*(\.[a-z0-9+-]+)+", parts.scheme):
        return f"{parts.scheme}:"
    raise ValueError(f"{url!r} cannot be named in a policy")


def render(problem: Problem) -> Response:
    """A refusal from below. Its own words are looked up in the catalogue as they come."""
    title, text = _said(problem)
    return page("refused.html", problem.status, title=title, text=text, request_id=current_request_id())


def _said(problem: Problem) -> tuple[str, str]:
    match problem.code:
        case "not_found":
            return _("There is no such page"), _("The address may be mistyped or out of date.")
        case "too_many_requests" | "service_unavailable":
            return _("This is taking too long"), _("There is much to do at the moment. Try again in a minute.")
        case "internal_error":
            return _("Something went wrong"), _("It was not your doing, and it has been noted. Try again in a moment.")
    return _(problem.title), _(problem.detail)


door = Door("pages", url_prefix="", render=render, max_bytes=64 * 1024)
door.blueprint.record_once(lambda state: words.install(cast(Flask, state.app)))


@door.route("/static/<digest>/<name>", action=Action.NOTHING_SECRET, context="none", about=About(announced=False))
def static(digest: str, name: str) -> Response:
    """A style sheet. Its address changes with its content, so it is kept for good."""
    content = _sheet(name)
    if content is None or _digest(content) != digest:
        raise NotFound
    return Response(content, headers={"Cache-Control": "public, max-age=31536000, immutable"}, mimetype="text/css")


def _sheet(name: str) -> bytes | None:
    """One of our own, or the theme of the colour it is named after."""
    themed = _THEME.fullmatch(name)
    return accent.sheet(f"#{themed[1]}") if themed else _STATIC.get(name)


@lru_cache(maxsize=256)
def _address(name: str) -> str:
    content = _sheet(name)
    assert content is not None
    return f"/static/{_digest(content)}/{name}"


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()[:12]
