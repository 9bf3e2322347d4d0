"""`/sign-in`: the platform's own page, before a tenant is known. Which organisation? Then its upstream, or a password.

What is asked for, and what was typed, travels sealed in the address; nothing is kept for people nobody knows. An
organisation without an upstream and one that does not exist get the same page, and a password is checked as slowly.
"""

from __future__ import annotations

from flask import Response, request

from broker import access, passwords
from broker.context import PLATFORM_TENANT, Scope
from broker.db import unit
from broker.doors import About
from broker.errors import NotFound
from broker.pages import faces, refusals
from broker.pages.door import door, source
from broker.pages.sign_in import wrong_password
from broker.pages.tenant import see_other, turned_away
from broker.policy import Action
from broker.sign_in import browser, devices, flow, realms, requests, sessions
from broker.sign_in.requests import Asked

_PURPOSE = "platform"
_LONGEST = 320
_HIDDEN = About(announced=False)


@door.route("/sign-in", action=Action.NOTHING_SECRET, context="none", about=_HIDDEN)
def show_platform_sign_in() -> Response:
    """Which organisation?"""
    asked = _asked()
    return _lost("flow_expired") if asked is None else _show(asked)


@door.route("/sign-in", methods=["POST"], action=Action.NOTHING_SECRET, context="none", about=_HIDDEN)
def take_platform_sign_in() -> Response:
    """An address or a short name, then a password."""
    asked = _asked()
    if asked is None:
        return _lost("flow_expired")
    secrets = browser.tabs(browser.platform_cookie())
    if not any(browser.proven(secret, _PURPOSE) for secret in secrets):
        return _lost("forged" if secrets else "cookies_missing")
    username, password = request.form.get("username", "").strip()[:_LONGEST], request.form.get("password", "")
    if asked.identifier is not None and password:
        return _by_password(asked, asked.identifier, username, password)
    return _organisation(asked, username)


def _show(asked: Asked, *, error: str | None = None, locked_for: int | None = None, status: int = 200) -> Response:
    secret = browser.new_tab(browser.platform_cookie(), seconds=requests.LIFE)
    application = asked.request.client_name if asked.request else None
    csrf, then = browser.proof(secret, _PURPOSE), _then(asked)
    if asked.identifier is None:
        return faces.platform(action=_here(asked), csrf=csrf, application=application, then=then)
    return faces.platform_password(
        action=_here(asked),
        csrf=csrf,
        application=application,
        identifier=asked.identifier,
        error=error,
        locked_for=locked_for,
        again=_here(Asked(asked.request)),
        then=then,
        status=status,
    )


def _organisation(asked: Asked, identifier: str) -> Response:
    """To the upstreams of the organisation that was named; without any, or without such an organisation, a password."""
    scope = realms.tenant_of(identifier)
    with unit(scope or _nobody()):
        ways = realms.ways()
        if scope is not None and ways.every:
            under_way = flow.begin(scope, asked.request, username=identifier if "@" in identifier else None)
            # `form`: whoever leaves for an upstream from here still has our form's policy upon him.
            return see_other(f"/t/{scope.slug}/sign-in?flow={under_way.id}&form")
    return see_other(_here(Asked(asked.request, identifier)))


def _by_password(asked: Asked, identifier: str, username: str, password: str) -> Response:
    scope = realms.tenant_of(username if "@" in identifier else identifier)
    verdict = passwords.check(scope, username, password, browser.address(), devices.known(scope, username))
    if scope is None or verdict.user_id is None:
        if verdict.retry_after is not None:
            answer = _show(Asked(asked.request, identifier), locked_for=verdict.retry_after, status=429)
            answer.headers["Retry-After"] = str(verdict.retry_after)
            return answer
        return _show(Asked(asked.request, identifier), error=wrong_password(), status=403)
    present = sessions.of_request(scope.slug or "")
    with unit(scope):
        if not passwords.still_right(verdict):
            return _show(Asked(asked.request, identifier), error=wrong_password(), status=403)
        under_way = flow.begin(scope, asked.request, username=username)
        began = flow.signed_in(under_way, verdict.user_id, provider_id=None, amr=["pwd"], replacing=present)
        step = None if isinstance(began, str) else flow.next_step(flow.reloaded(under_way), began)
    if isinstance(began, str) or step is None:
        return turned_away(scope, str(began))
    answer = see_other(flow.address(under_way, step))
    sessions.set_cookie(answer, scope.slug or "", began.secret)
    devices.remember(answer, scope, username)
    return answer


def _nobody() -> Scope:
    """Where the same is asked for an organisation that does not exist."""
    found = access.scope_for_slug(PLATFORM_TENANT)
    if found is None:
        raise NotFound
    return found


def _asked() -> Asked | None:
    sealed = request.args.get("request")
    return Asked(None) if sealed is None else requests.unseal(sealed)


def _here(asked: Asked) -> str:
    return "/sign-in" if asked == Asked(None) else f"/sign-in?request={requests.seal(asked)}"


def _then(asked: Asked) -> list[str]:
    if asked.request is None:
        return []
    try:
        source(asked.request.redirect_uri)
    except ValueError:
        return []
    return [asked.request.redirect_uri]


def _lost(reason: str) -> Response:
    return refusals.turned_away(None, reason, back="/sign-in")
