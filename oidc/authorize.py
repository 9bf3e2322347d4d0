"""The authorization endpoint: what an application asks is checked, its person signs in, it gets a code or an error.

Owns the check of a request (RFC 6749 section 4.1, OpenID Connect Core section 3.1.2) beyond Authlib's, the answer to
the client with `iss` (RFC 9207), and that a sign-in yields one code. An error goes to the client only when client and
redirect URI are known to belong together; else the person sees a page. What happens between is `sign_in.flow`'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from urllib.parse import urlencode

from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import InvalidRequestError, InvalidScopeError, UnauthorizedClientError
from flask import Response

from broker import ids, settings
from broker.context import Scope, acting, current_request_id
from broker.db import unit
from broker.sign_in import flow as sign_in
from broker.sign_in import sessions
from broker.sign_in.flow import Done, Flow, FlowLost, Refused
from broker.sign_in.requests import AuthRequest, sign_in_page
from broker.sign_in.sessions import LiveSession
from broker.standing import Subject, may_receive_tokens, standing
from oidc import families, looks
from oidc.clients import Client
from oidc.families import Family
from oidc.grants import CodeGrant, invalid_target
from oidc.provider import Server
from oidc.requests import HouseRequest
from oidc.tokens import TokenIssuer

CODE_LIFE = 60
"""Seconds, unless the application says otherwise."""

RESPONSE_MODES = ("query", "form_post")
PROMPTS = frozenset({"none", "login", "consent", "select_account"})

_LONGEST = {"state": 1_024, "nonce": 1_024, "login_hint": 320, "provider": 64}
"""Characters of what is kept until the person has signed in; anybody may ask for that."""
_LONGEST_QUERY = 8_000
_NUMBER = re.compile(r"[0-9]{1,9}")
_PASSED_BY_VALUE = {
    "request": "request_not_supported",
    "request_uri": "request_uri_not_supported",
    "registration": "registration_not_supported",
}


class Untrusted(Exception):
    """The client or its redirect URI is not to be trusted with an answer: the person sees a page. `reason` is a code of
    the pages."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def begin(server: Server, request: HouseRequest) -> Response:
    """A new request of an application. Raises Untrusted."""
    client, redirect_uri = _whom_to_answer(server, request)
    try:
        asked = _checked(server, request, client, redirect_uri)
    except OAuth2Error as error:
        return _refused(server, redirect_uri, request.get("response_mode"), request.get("state"), error)
    scope, session = _place(server, asked)
    if scope is None:
        if "none" in asked.prompt:
            nobody = OAuth2Error("Nobody is signed in", error="login_required")
            return _refused(server, redirect_uri, asked.response_mode, asked.state, nobody)
        return redirect(sign_in_page(asked))
    with unit(scope):
        flow = sign_in.begin(scope, asked)
        return _onward(server, flow, session)


def by_get(server: Server, request: HouseRequest) -> Response:
    """The same request as a GET: a cross-site POST brings no cookie, and what it set would take the place of those
    that stayed behind. Raises Untrusted."""
    query = urlencode([(name, value) for name, values in request.payload.datalist.items() for value in values])
    if len(query) > _LONGEST_QUERY:
        raise Untrusted("bad_request", f"A request from another site has at most {_LONGEST_QUERY} characters")
    return redirect(f"{server.issuer.endpoint('authorize')}?{query}")


def resume(server: Server, flow_id: str) -> Response:
    """The browser comes back from its sign-in. Raises FlowLost, Untrusted."""
    scope = sign_in.scope_of(flow_id)
    if scope is None or (server.issuer.scope is not None and server.issuer.scope.tenant_id != scope.tenant_id):
        raise FlowLost("flow_expired")
    session = sessions.of_request(scope.slug or "")
    with unit(scope):
        flow = sign_in.load(scope, flow_id, issuer=server.issuer.kind)
        if flow.request is None:
            raise FlowLost("flow_expired")
        return _onward(server, flow, session)


def _place(server: Server, asked: AuthRequest) -> tuple[Scope | None, LiveSession | None]:
    """The tenant where the person signs in, and this browser's session there. At the platform issuer that of the one
    session there is, if it can be the one that is meant; None: the person is to be asked."""
    scope = server.issuer.scope
    if scope is not None:
        return scope, sessions.of_request(scope.slug or "")
    known = sessions.of_browser()
    if known is None or "select_account" in asked.prompt or asked.person not in (None, known.user_id):
        return None, None
    return known.scope, known


def _person_meant(server: Server, request: HouseRequest, *, silent: bool) -> str | None:
    """Whom a hint names. One that is no ID token of this issuer names nobody: the person is asked, where that can be,
    for our keys pass and hints stay. Raises OAuth2Error, to be sent to the client."""
    shown = request.get("id_token_hint")
    hint = TokenIssuer(server.issuer).read_hint(shown) if shown else None
    if shown and hint is None and silent:
        raise OAuth2Error("The id_token_hint is not an ID token of this issuer", error="login_required")
    return None if hint is None else str(hint["sub"])


def _onward(server: Server, flow: Flow, session: LiveSession | None) -> Response:
    """One step further; at the end the one code of this flow, in the transaction that ends it."""
    asked = flow.request
    assert asked is not None
    step = sign_in.next_step(flow, session)
    match step:
        case Refused(error, description):
            sign_in.consume(flow)
            refusal = OAuth2Error(description, error=error)
            return _refused(server, asked.redirect_uri, asked.response_mode, asked.state, refusal)
        case Done(live):
            # What was registered may have changed while the person signed in.
            client = server.client(asked.client_id)
            if client is None or not _still_fits(client, asked):
                raise Untrusted("application_disabled", "The application is not available any more")
            if not sign_in.consume(flow):
                raise FlowLost("flow_expired")
            with acting(live.actor(), current_request_id()):
                code = _code(client, asked, live)
            return _answered(server, asked, {"code": code})
        case _:
            return redirect(sign_in.address(flow, step))


def _still_fits(client: Client, asked: AuthRequest) -> bool:
    return (
        client.enabled
        and client.check_redirect_uri(asked.redirect_uri)
        and client.check_response_type("code")
        and asked.audience in client.audiences
        and set(asked.scopes) <= set(client.scopes_for(asked.audience))
    )


def _code(client: Client, asked: AuthRequest, live: LiveSession) -> str:
    subject = Subject(user_id=live.user_id, application_id=client.id, session_id=live.id)
    reason = may_receive_tokens(standing(subject))
    if reason is not None:
        raise Untrusted(reason, "The person may not use the application")
    kept = settings.all_of(live.scope)
    life = client.access_token_lifetime or kept["access_token_lifetime"].value
    if client.check_grant_type("refresh_token"):
        life += kept["refresh_token_lifetime"].value
    family = Family(
        id=ids.new("gnt"),
        user_id=live.user_id,
        application_id=client.id,
        session_id=live.id,
        issuer=asked.issuer,
        scopes=asked.scopes,
        audience=asked.audience,
        nonce=asked.nonce,
        auth_time=live.auth_time,
        amr=live.amr,
    )
    return families.begin(
        family,
        provider_id=live.provider_id,
        redirect_uri=asked.redirect_uri,
        code_challenge=asked.code_challenge,
        code_life=timedelta(seconds=client.code_lifetime or CODE_LIFE),
        life=timedelta(seconds=life),
    )


def _whom_to_answer(server: Server, request: HouseRequest) -> tuple[Client, str]:
    """The client and the redirect URI, which belong together. Raises Untrusted."""
    for name in ("client_id", "redirect_uri"):
        given = request.payload.datalist.get(name, ())
        if len(given) != 1 or not given[0] or not given[0].isprintable():
            raise Untrusted("bad_request", f"{name} is missing, or given more than once")
    client = server.client(request.get("client_id"))
    if client is None:
        raise Untrusted("bad_request", "The application is not known here")
    redirect_uri = request.get("redirect_uri") or ""
    if not client.check_redirect_uri(redirect_uri):
        raise Untrusted("bad_request", "The redirect_uri is not one that is registered for the application")
    if not client.enabled:
        raise Untrusted("application_disabled", "The application is disabled")
    return client, redirect_uri


def _checked(server: Server, request: HouseRequest, client: Client, redirect_uri: str) -> AuthRequest:
    """The request as it is kept. Raises OAuth2Error, to be sent to the client."""
    request.check_form()
    for name, most in _LONGEST.items():
        if len(request.get(name) or "") > most:
            raise InvalidRequestError(f"{name} has more than {most} characters")
    for name, code in _PASSED_BY_VALUE.items():
        if request.get(name) is not None:
            raise OAuth2Error(f"{name} is not supported", error=code)
    if request.get("response_type") is None:
        raise InvalidRequestError("response_type is missing")
    if request.get("response_type") != "code":
        raise OAuth2Error("Only response_type=code is supported", error="unsupported_response_type")
    if not client.check_grant_type("authorization_code"):
        raise UnauthorizedClientError("The client may not use the authorization code grant")
    mode = request.get("response_mode") or "query"
    if mode not in RESPONSE_MODES:
        raise InvalidRequestError("response_mode is not supported")
    prompt = frozenset((request.get("prompt") or "").split())
    if not prompt <= PROMPTS or ("none" in prompt and len(prompt) > 1):
        raise InvalidRequestError("prompt holds an unknown value, or none beside others")
    max_age = request.get("max_age")
    if max_age is not None and not _NUMBER.fullmatch(max_age):
        raise InvalidRequestError("max_age is not a number of seconds")
    # Authlib's own checks, PKCE among them, which hangs on them.
    grant: CodeGrant = server.get_consent_grant(request)
    try:
        audience = client.audience(request.target())
    except ValueError:
        audience = None
    if audience is None:
        raise invalid_target()
    scopes = client.narrowed(request.get("scope"), audience, people=True)
    if scopes is None:
        raise InvalidScopeError()
    return AuthRequest(
        issuer=server.issuer.kind,
        application_id=client.id,
        client_id=client.client_id,
        client_name=client.name,
        redirect_uri=grant.redirect_uri,
        scopes=tuple(scopes),
        audience=audience,
        code_challenge=request.get("code_challenge") or "",
        state=request.get("state"),
        nonce=request.get("nonce"),
        response_mode=mode,
        prompt=prompt,
        max_age=None if max_age is None else int(max_age),
        login_hint=request.get("login_hint"),
        provider=request.get("provider"),
        third_party=client.third_party,
        person=_person_meant(server, request, silent="none" in prompt),
    )


def _refused(server: Server, redirect_uri: str, mode: str | None, state: str | None, error: OAuth2Error) -> Response:
    fields = {"error": error.error, "error_description": error.description}
    return _sent(server, redirect_uri, mode, state, {name: text for name, text in fields.items() if text})


def _answered(server: Server, asked: AuthRequest, fields: Mapping[str, str]) -> Response:
    return _sent(server, asked.redirect_uri, asked.response_mode, asked.state, fields)


def _sent(
    server: Server, redirect_uri: str, mode: str | None, state: str | None, fields: Mapping[str, str]
) -> Response:
    """The authorization response, by the way the client asked for."""
    said = {**fields, **({} if state is None else {"state": state}), "iss": server.issuer.url}
    if mode == "form_post":
        return looks.faces().post_form(redirect_uri, said)
    return redirect(redirect_uri + ("&" if "?" in redirect_uri else "?") + urlencode(said))


def redirect(url: str) -> Response:
    """By 303, so that no body of a POST is sent on (RFC 9700 section 4.12)."""
    response = Response(status=303, headers={"Cache-Control": "no-store"})
    response.headers["Location"] = url
    return response
