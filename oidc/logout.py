"""RP-initiated logout (OpenID Connect): an application asks that its person be signed out here.

Owns when that needs the person's own word, and where the browser may go afterwards. A hint is an ID token of this
issuer, expired or not; without one for the very person that is signed in, a page asks. Ending the session is
`endings`', the upstream's one `upstream`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from flask import Response, request

from broker import access, endings, running
from broker.context import Scope, acting, current_request_id
from broker.db import unit
from broker.sign_in import browser, sessions, upstream
from broker.sign_in.sessions import LiveSession
from oidc import clients, looks
from oidc.authorize import Untrusted, redirect
from oidc.tokens import Issuer, TokenIssuer

PARAMETERS = ("id_token_hint", "client_id", "post_logout_redirect_uri", "state", "logout_hint", "ui_locales")
PURPOSE = "logout"


def end_session(issuer: Issuer) -> Response:
    """One request of the end-session endpoint. Raises Untrusted."""
    confirmed = request.method == "POST" and "csrf" in request.form
    asked = _asked(request.form if request.method == "POST" and not confirmed else request.args)
    if request.method == "POST" and not confirmed and not browser.same_site():
        # A cross-site POST brings no cookie; the GET it is turned into does.
        return redirect(_here(issuer, asked))
    hint = TokenIssuer(issuer).read_hint(asked["id_token_hint"]) if "id_token_hint" in asked else None
    back = _back(issuer, asked, hint)
    session = _session(issuer, hint)
    if session is None:
        return redirect(back) if back else _signed_out(issuer.scope)
    if confirmed:
        if not session.proven(PURPOSE):
            raise Untrusted("forged", "The form is not one of ours")
    elif hint is None or hint["sub"] != session.user_id:
        return looks.faces().logout(
            session, action=_here(issuer, asked), csrf=session.csrf(PURPOSE), then=[back] if back else []
        )
    return _ended(session, back)


def _ended(session: LiveSession, back: str | None) -> Response:
    """End the session here, then at its upstream, and go where the application asked."""
    slug = session.scope.slug or ""
    with unit(session.scope), acting(session.actor(), current_request_id()):
        endings.end_session(session.id, "signed_out")
    departure = None if back else upstream.begin_sign_out(session, running.config().base_url + _page(session.scope))
    if back is not None:
        response = _leave(back, by_form=request.method == "POST")
    elif departure is None:
        response = redirect(_page(session.scope))
    elif departure.form is None:
        response = _leave(departure.url, by_form=request.method == "POST")
    else:
        response = looks.faces().post_form(departure.url, departure.form)
    sessions.clear_cookie(response, slug)
    return response


def _leave(url: str, *, by_form: bool) -> Response:
    """After a form of ours by a page: browsers hold redirects to the policy of the form before them."""
    return looks.faces().onward(url) if by_form else redirect(url)


def _signed_out(scope: Scope | None) -> Response:
    return looks.faces().logged_out() if scope is None else redirect(_page(scope))


def _page(scope: Scope) -> str:
    return f"/t/{scope.slug}/signed-out"


def _asked(given: Any) -> dict[str, str]:
    """The request's parameters. Raises Untrusted for one given twice, or that is no readable text."""
    asked: dict[str, str] = {}
    for name in PARAMETERS:
        values = given.getlist(name)
        if len(values) > 1 or any(not value.isprintable() for value in values):
            raise Untrusted("bad_request", f"{name} is given more than once, or is not readable")
        if values and values[0]:
            asked[name] = values[0]
    return asked


def _back(issuer: Issuer, asked: Mapping[str, str], hint: Mapping[str, Any] | None) -> str | None:
    """Where the browser goes afterwards. Raises Untrusted when that is not registered for the application."""
    named = asked.get("client_id")
    if hint is not None and named not in (None, hint["aud"]):
        raise Untrusted("bad_request", "client_id is not whom the hint is for")
    wanted = asked.get("post_logout_redirect_uri")
    if wanted is None:
        return None
    client_id = named or (str(hint["aud"]) if hint is not None else None)
    client = clients.find(client_id, issuer) if client_id else None
    if client is None or not client.enabled or wanted not in client.post_logout_redirect_uris:
        raise Untrusted("bad_request", "The post_logout_redirect_uri is not one that is registered")
    state = asked.get("state")
    if state is None:
        return wanted
    return wanted + ("&" if "?" in wanted else "?") + urlencode({"state": state})


def _session(issuer: Issuer, hint: Mapping[str, Any] | None) -> LiveSession | None:
    """The browser's session this is about: at the platform issuer the one of the hint's tenant, else the only one."""
    if issuer.scope is not None:
        return sessions.of_request(issuer.scope.slug or "")
    tenant_id = (hint or {}).get("tenant_id")
    if not isinstance(tenant_id, str):
        return sessions.of_browser()
    scope = access.scope_for_tenant(tenant_id)
    return sessions.of_request(scope.slug or "") if scope else None


def _here(issuer: Issuer, asked: Mapping[str, str]) -> str:
    return f"{issuer.endpoint('logout')}?{urlencode(asked)}" if asked else issuer.endpoint("logout")
