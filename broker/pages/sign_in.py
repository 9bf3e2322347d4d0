"""`/t/{slug}/sign-in` and what belongs to it: who are you, the way to an upstream and back, and consent.

Each view reads the flow, asks `next_step` and shows that step or leads to it; nothing here decides what comes next.
Every POST is answered by a redirect, but for a refused password. Whoever leaves for an upstream after a form leaves by
a page of its own, for browsers hold redirects to the policy of the form before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flask import Response, request

from broker.context import Scope
from broker.db import unit
from broker.doors import About
from broker.pages import faces, refusals
from broker.pages.door import door, source
from broker.pages.tenant import brand, of_tenant, publisher, see_other, turned_away, words_of
from broker.pages.words import gettext as _
from broker.policy import Action
from broker.sign_in import by_password, devices, flow, realms, sessions, upstream
from broker.sign_in.flow import AskConsent, Barred, Choose, Depart, Flow, FlowLost, Step
from broker.sign_in.sessions import LiveSession
from broker.sign_in.upstream import Failed
from connectors.port import Departure, Reply

_FORM = "application/x-www-form-urlencoded"
_HIDDEN = About(announced=False)


@door.route("/t/<tenant_slug>/sign-in", action=Action.NOTHING_SECRET, context="none", about=_HIDDEN)
@of_tenant
def show_sign_in(scope: Scope) -> Response:
    """Sign in at a tenant."""
    live = sessions.of_request(scope.slug or "")
    if "flow" not in request.args:
        return _fresh(scope, live)
    with unit(scope):
        under_way = flow.load(scope, request.args["flow"])
        step = flow.next_step(under_way, live)
    if isinstance(step, Depart) and "form" in request.args:
        step = replace(step, chosen=True)
    return _show(under_way, step, live)


@door.route("/t/<tenant_slug>/sign-in", methods=["POST"], action=Action.NOTHING_SECRET, context="none", about=_HIDDEN)
@of_tenant
def take_sign_in(scope: Scope) -> Response:
    """A name, a name with a password, or an upstream."""
    under_way = _posted(scope)
    if "provider" in request.form:
        with unit(scope):
            flow.choose(under_way, request.form["provider"])
        # `form`: whoever leaves for an upstream from here still has our form's policy upon him.
        return see_other(_here(under_way) + "&form")
    username, password = request.form.get("username", "").strip(), request.form.get("password", "")
    with unit(scope):
        home = realms.ways().home_of(username)
        elsewhere = home is not None and home.departs and username != under_way.name
        if not password or elsewhere:
            flow.say_name(under_way, username)
    if not password or elsewhere:
        return see_other(_here(under_way))
    return _by_password(under_way, username, password)


@door.route("/t/<tenant_slug>/sign-in/cancel", action=Action.NOTHING_SECRET, context="none", about=_HIDDEN)
@of_tenant
def cancel_sign_in(scope: Scope) -> Response:
    """Back to the application, without signing in."""
    with unit(scope):
        under_way = flow.load(scope, request.args.get("flow", ""))
        flow.cancel(under_way)
        step = flow.next_step(flow.reloaded(under_way), None)
    return see_other(flow.address(under_way, step))


@door.route("/t/<tenant_slug>/consent", action=Action.NOTHING_SECRET, context="none", about=_HIDDEN)
@of_tenant
def show_consent(scope: Scope) -> Response:
    """May this application?"""
    live = sessions.of_request(scope.slug or "")
    with unit(scope):
        under_way = flow.load(scope, request.args.get("flow", ""))
        step = flow.next_step(under_way, live)
        look = brand(scope)
    if not isinstance(step, AskConsent) or live is None or under_way.request is None:
        return see_other(flow.address(under_way, step))
    return faces.consent(
        look,
        action=f"/t/{scope.slug}/consent?flow={under_way.id}",
        csrf=under_way.csrf(),
        application=under_way.request.client_name,
        publisher=publisher(scope, under_way.request.application_id),
        scopes=step.scopes,
        user=live.user_name,
        then=_then(under_way),
    )


@door.route("/t/<tenant_slug>/consent", methods=["POST"], action=Action.NOTHING_SECRET, context="none", about=_HIDDEN)
@of_tenant
def take_consent(scope: Scope) -> Response:
    """The answer of the person."""
    under_way = _posted(scope)
    live = sessions.of_request(scope.slug or "")
    with unit(scope):
        step = flow.next_step(under_way, live)
        if isinstance(step, AskConsent) and live is not None:
            if request.form.get("decision") == "allow":
                flow.consent(under_way, live, step.scopes)
            else:
                flow.cancel(under_way)
            step = flow.next_step(flow.reloaded(under_way), live)
    return see_other(flow.address(under_way, step))


@door.route("/t/<tenant_slug>/callback/<provider_id>", action=Action.NOTHING_SECRET, context="none", about=_HIDDEN)
@of_tenant
def take_answer(scope: Scope, provider_id: str) -> Response:
    """An upstream's answer, in the browser that departed."""
    live = sessions.of_request(scope.slug or "")
    reply = upstream.reply_of("GET", request.query_string)
    with unit(scope):
        if "flow" in request.args and "state" not in request.args:
            under_way = flow.load(scope, request.args["flow"])
            kept = upstream.put_by_earlier(under_way)
            if kept is None:
                raise FlowLost("flow_expired")
            reply = kept
        else:
            under_way = _of_answer(scope, provider_id, reply)
    arrived = upstream.arrive(under_way, provider_id, reply, live)
    if isinstance(arrived, Failed):
        return _failed(under_way, arrived)
    return _signed_in(under_way, arrived)


@door.route(
    "/t/<tenant_slug>/callback/<provider_id>",
    methods=["POST"],
    action=Action.NOTHING_SECRET,
    context="none",
    about=_HIDDEN,
)
@of_tenant
def put_answer_by(scope: Scope, provider_id: str) -> Response:
    """An upstream's answer as a cross-site form, which brings no cookie: kept until the browser comes back with it."""
    if request.mimetype != _FORM:
        raise FlowLost("flow_expired")
    reply = upstream.reply_of("POST", request.get_data())
    with unit(scope):
        flow_id = upstream.flow_of_state(scope, provider_id, _state(reply))
        if flow_id is None:
            raise FlowLost("flow_expired")
        upstream.put_by(flow_id, reply)
    return see_other(f"/t/{scope.slug}/callback/{provider_id}?flow={flow_id}")


def _fresh(scope: Scope, live: LiveSession | None) -> Response:
    """Nobody's request: a sign-in that leads to the launcher."""
    if live is not None:
        return see_other(f"/t/{scope.slug}/apps")
    with unit(scope):
        under_way = flow.begin(
            scope, None, username=request.args.get("login_hint"), provider_id=request.args.get("provider")
        )
    return see_other(_here(under_way))


def _show(under_way: Flow, step: Step, live: LiveSession | None) -> Response:
    match step:
        case Choose():
            return _choose(under_way, step)
        case Depart():
            left = upstream.depart(under_way, step)
            return _failed(under_way, left) if isinstance(left, Failed) else _leave(left, chosen=step.chosen)
        case Barred():
            return _barred(under_way, step, live)
    return see_other(flow.address(under_way, step))


def _choose(
    under_way: Flow,
    step: Choose,
    *,
    error: str | None = None,
    locked_for: int | None = None,
    status: int = 200,
) -> Response:
    with unit(under_way.scope):
        look = brand(under_way.scope)
    return faces.choose(
        look,
        action=_here(under_way),
        csrf=under_way.csrf(),
        application=under_way.request.client_name if under_way.request else None,
        username=step.username or "",
        providers=[faces.Button(one.id, one.name) for one in step.upstreams],
        ask_password=step.ask_password,
        error=error or _trouble(step.error),
        locked_for=locked_for,
        cancel=_cancel(under_way),
        then=_then(under_way),
        status=status,
    )


def _trouble(reason: str | None) -> str | None:
    if reason is None or reason == flow.CANCELLED:
        return None
    if reason == "no_home":
        return _("Nothing is known of this address. Choose how to sign in.")
    return refusals.explain(words_of(reason)).text


def _by_password(under_way: Flow, username: str, password: str) -> Response:
    scope = under_way.scope
    came_to = by_password.sign_in(under_way, username, password, sessions.of_request(scope.slug or ""))
    if isinstance(came_to, LiveSession):
        answer = _signed_in(under_way, came_to)
        devices.remember(answer, scope, username)
        return answer
    if isinstance(came_to, Failed):
        return _failed(under_way, came_to)
    with unit(scope):
        step = Choose(username, realms.ways().upstreams, ask_password=True)
    if came_to.retry_after is None:
        return _choose(under_way, step, error=wrong_password(), status=403)
    answer = _choose(under_way, step, locked_for=came_to.retry_after, status=429)
    answer.headers["Retry-After"] = str(came_to.retry_after)
    return answer


def wrong_password() -> str:
    """One text whether the name, the password or both are wrong."""
    return _("User name or password is wrong.")


def _signed_in(under_way: Flow, live: LiveSession) -> Response:
    with unit(under_way.scope):
        step = flow.next_step(flow.reloaded(under_way), live)
    answer = see_other(flow.address(under_way, step))
    sessions.set_cookie(answer, under_way.scope.slug or "", live.secret)
    return answer


def _leave(departure: Departure, *, chosen: bool) -> Response:
    if departure.form is not None:
        return faces.post_form(departure.url, departure.form)
    return faces.onward(None, url=departure.url) if chosen else see_other(departure.url)


def _failed(under_way: Flow, failed: Failed) -> Response:
    return turned_away(under_way.scope, failed.reason, upstream=failed.provider, back=_here(under_way))


def _barred(under_way: Flow, step: Barred, live: LiveSession | None) -> Response:
    application = under_way.request.client_name if under_way.request else None
    with unit(under_way.scope):
        look = brand(under_way.scope)
        flow.note_refusal(under_way, step.reason, user_id=live.user_id if live else None)
    said = refusals.explain(words_of(step.reason), application=application)
    text = said.text if live is None else f"{said.text} {_('You are signed in as %(user)s.', user=live.user_name)}"
    return faces.refused(look, title=said.title, text=text, status=said.status, back=_cancel(under_way))


def _posted(scope: Scope) -> Flow:
    """The flow whose form was sent. Raises FlowLost for one that is none of ours."""
    with unit(scope):
        under_way = flow.load(scope, request.args.get("flow", ""))
        forged = not under_way.proven()
        if forged:
            flow.note_refusal(under_way, "forged")
    if forged:
        raise FlowLost("forged")
    return under_way


def _of_answer(scope: Scope, provider_id: str, reply: Reply) -> Flow:
    """The flow an answer is for. Raises FlowLost; that another browser brings it is remembered."""
    flow_id = upstream.flow_of_state(scope, provider_id, _state(reply))
    if flow_id is None:
        raise FlowLost("flow_expired")
    return flow.load(scope, flow_id)


def _state(reply: Reply) -> str:
    states: Sequence[str] = reply.parameters.get("state", ())
    if len(states) != 1:
        raise FlowLost("flow_expired")
    return states[0]


def _here(under_way: Flow) -> str:
    return f"/t/{under_way.scope.slug}/sign-in?flow={under_way.id}"


def _cancel(under_way: Flow) -> str | None:
    return f"/t/{under_way.scope.slug}/sign-in/cancel?flow={under_way.id}" if under_way.request else None


def _then(under_way: Flow) -> list[str]:
    """Where the browser may be led on from a form: the application's own address, if a policy can name it."""
    if under_way.request is None:
        return []
    try:
        source(under_way.request.redirect_uri)
    except ValueError:
        return []
    return [under_way.request.redirect_uri]
