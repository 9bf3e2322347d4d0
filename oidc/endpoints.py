"""The door of OAuth 2.0 and OpenID Connect, at every issuer and at the host's root.

Owns the addresses, which issuer each stands for, whom browsers of other origins may ask (CORS), and how a refusal looks
here: an OAuth error to machines, a plain page to people. What the endpoints do is `authorize`'s, `provider`'s,
`protected`'s and `logout`'s; their transactions open there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps

from authlib.oauth2 import OAuth2Error
from flask import Response, current_app, request
from sqlalchemy.exc import DBAPIError

from broker import access
from broker.context import Scope
from broker.doors import About, Door
from broker.errors import NotFound, NotImplementedHere, Problem
from broker.policy import Action
from broker.sign_in import browser
from broker.sign_in.flow import FlowLost
from oidc import authentication, authorize, clients, discovery, keys, logout, looks, protected, requests
from oidc.authorize import Untrusted
from oidc.provider import Server, answer
from oidc.tokens import Issuer

View = Callable[..., Response]

TENANT = "/api/v1/auth/tenants/<slug>"
PLATFORM = "/api/v1/platform"
ISSUERS = (TENANT, PLATFORM)
PREFIXES = (
    "/api/v1/auth/tenants/",
    "/api/v1/platform/oauth/",
    "/api/v1/platform/.well-known/",
    "/oauth/",
    "/auth",
    "/.well-known/",
)

_SCOPES = "scaikey.oidc.scopes"


_KNOWN_FOR = 30.0
"""Seconds a tenant's slug is taken to be there; whether it may still do anything is asked each time."""
_FOR_EVERYBODY = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "WWW-Authenticate"}
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type",
    "Access-Control-Max-Age": "7200",
}
_READING = ("GET", "HEAD")
_FOR_PEOPLE = ("/oauth/authorize", "/auth", "/oauth/logout")


def render(problem: Problem) -> Response:
    """A refusal from below, in this door's language."""
    if request.path.endswith(_FOR_PEOPLE):
        return looks.faces().refused(problem)
    match problem.status:
        case 503:
            error = "temporarily_unavailable"
        case 500:
            error = "server_error"
        case 401:
            error = "invalid_token"
        case _:
            error = "invalid_request"
    response = answer({"error": error, "error_description": _plain(problem.detail)}, problem.status)
    if not request.path.endswith("/introspect"):
        response.headers.update(_FOR_EVERYBODY)
    return response


door = Door("oidc", url_prefix="", render=render, max_bytes=64 * 1024)


def endpoint(*rules: str, methods: tuple[str, ...], open_to_browsers: bool = False) -> Callable[[View], View]:
    """Register a view at each of the rules. `open_to_browsers`: scripts of any origin may ask, without credentials."""

    def register(view: View) -> View:
        served = _opened(view) if open_to_browsers else view
        every = (*methods, "OPTIONS") if open_to_browsers else methods
        for rule in rules:
            door.route(rule, methods=every, action=Action.NOTHING_SECRET, context="none", about=About(announced=False))(
                served
            )
        return view

    return register


def _opened(view: View) -> View:
    @wraps(view)
    def shared(**arguments: str) -> Response:
        response = Response(status=204, headers=_PREFLIGHT) if request.method == "OPTIONS" else view(**arguments)
        response.headers.update(_FOR_EVERYBODY)
        return response

    return shared


def at_each(path: str) -> tuple[str, str]:
    return TENANT + path, PLATFORM + path


@endpoint(*at_each("/oauth/authorize"), "/oauth/authorize", "/auth", methods=("GET", "POST"))
def begin(slug: str | None = None) -> Response:
    """The authorization endpoint."""
    server = Server(issuer_of(slug))
    try:
        flow_id = request.args.get("flow") if request.method in _READING else None
        if flow_id is not None and "client_id" not in request.args:
            return authorize.resume(server, flow_id)
        asked = _read()
        if request.method == "POST" and not browser.same_site():
            return authorize.by_get(server, asked)
        return authorize.begin(server, asked)
    except Untrusted as refusal:
        return looks.faces().turned_away(refusal.reason, refusal.detail)
    except FlowLost as lost:
        return looks.faces().turned_away(lost.reason)
    except OAuth2Error as error:
        return looks.faces().turned_away("bad_request", error.description)


@endpoint(*at_each("/oauth/token"), methods=("POST",), open_to_browsers=True)
def token(slug: str | None = None) -> Response:
    """The token endpoint."""
    return _token(Server(issuer_of(slug)))


@endpoint("/oauth/token", methods=("POST",), open_to_browsers=True)
def token_of_the_client() -> Response:
    """The token endpoint of the issuer the client belongs to."""
    return _token(Server(issuer_chosen()))


@endpoint(*at_each("/oauth/introspect"), methods=("POST",))
def introspect(slug: str | None = None) -> Response:
    """The introspection endpoint (RFC 7662)."""
    return protected.introspect(Server(issuer_of(slug)), request)


@endpoint(*at_each("/oauth/revoke"), methods=("POST",), open_to_browsers=True)
def revoke(slug: str | None = None) -> Response:
    """The revocation endpoint (RFC 7009)."""
    return protected.revoke(Server(issuer_of(slug)), request)


@endpoint(*at_each("/oauth/userinfo"), methods=("GET", "POST"), open_to_browsers=True)
def userinfo(slug: str | None = None) -> Response:
    """The userinfo endpoint (OpenID Connect Core section 5.3)."""
    return protected.userinfo(issuer_of(slug), request)


@endpoint(*at_each("/oauth/logout"), methods=("GET", "POST"))
def end_session(slug: str | None = None) -> Response:
    """The end-session endpoint (OpenID Connect RP-Initiated Logout)."""
    try:
        return logout.end_session(issuer_of(slug))
    except Untrusted as refusal:
        return looks.faces().turned_away(refusal.reason, refusal.detail)


@endpoint(*at_each("/oauth/jwks"), "/.well-known/jwks.json", methods=("GET",), open_to_browsers=True)
def jwks(slug: str | None = None) -> Response:
    """The public keys of everything we sign."""
    issuer_of(slug)
    ring = keys.ring()
    return _published(ring.jwks(), f'"{ring.etag}"', int(keys.CACHED_FOR.total_seconds()), "application/jwk-set+json")


@endpoint(
    *at_each("/.well-known/openid-configuration"),
    *(
        f"/.well-known/{name}{path}"
        for name in ("openid-configuration", "oauth-authorization-server")
        for path in ISSUERS
    ),
    "/.well-known/openid-configuration",
    methods=("GET",),
    open_to_browsers=True,
)
def configuration(slug: str | None = None) -> Response:
    """The metadata of the issuer."""
    return _published(*discovery.document(issuer_of(slug)), 300, "application/json")


@endpoint(*at_each("/oauth/device"), *at_each("/oauth/par"), methods=("GET", "POST"))
def on_device_later(slug: str | None = None) -> Response:
    """Named by the contract, not there yet."""
    raise NotImplementedHere


def issuer_of(slug: str | None) -> Issuer:
    """Raises NotFound when no tenant is called so."""
    if slug is None:
        return Issuer.platform()
    scopes: dict[str, tuple[float, Scope]] = current_app.extensions.setdefault(_SCOPES, {})
    known = scopes.get(slug)
    if known is None or time.monotonic() - known[0] > _KNOWN_FOR:
        try:
            scope = access.scope_for_slug(slug)
        except DBAPIError:
            if known is None:
                raise
            # What is published needs no database, and everything else asks it.
            return Issuer.of_tenant(known[1])
        if scope is None:
            scopes.pop(slug, None)
            raise NotFound("There is no such issuer")
        if len(scopes) > 10_000:
            scopes.clear()
        known = scopes[slug] = time.monotonic(), scope
    return Issuer.of_tenant(known[1])


def issuer_chosen() -> Issuer:
    """At the host's root the client says which issuer is meant: its own tenant's; for a GLOBAL application the
    platform's; for a PARTNER one that of the `tenant_id` it names, if any. Who nobody knows is refused there."""
    try:
        asked = requests.of_body(request)
        client_id = authentication.client_named(asked)
    except OAuth2Error:
        return Issuer.platform()
    client = clients.home(client_id) if client_id else None
    if client is None or client.reach == "GLOBAL":
        return Issuer.platform()
    named = asked.get("tenant_id") if client.reach == "PARTNER" else None
    scope = client.owner if named is None else access.scope_for_tenant(named)
    return Issuer.platform() if scope is None else Issuer.of_tenant(scope)


def _token(server: Server) -> Response:
    try:
        asked = requests.of_body(request)
    except OAuth2Error as error:
        return server.refused(error)
    return server.token_response(asked)


def _read() -> requests.HouseRequest:
    return requests.of_query(request) if request.method in _READING else requests.of_body(request)


def _published(body: bytes, etag: str, seconds: int, mimetype: str) -> Response:
    """Bytes that others may keep for a while."""
    headers = {"ETag": etag, "Cache-Control": f"public, max-age={seconds}"}
    if request.headers.get("If-None-Match") == etag:
        return Response(status=304, headers=headers)
    return Response(body, 200, headers, mimetype=mimetype)


def _plain(text: str) -> str:
    """RFC 6749 section 5.2: printable ASCII without quotation mark and backslash."""
    return "".join(one for one in text if one in " !" or "#" <= one <= "[" or "]" <= one <= "~")
