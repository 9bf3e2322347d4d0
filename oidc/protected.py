"""Endpoints that take a token: userinfo, introspection, revocation.

Owns who may ask each of them, in which forms a token is taken (RFC 6750), and how they refuse. What a token means is
`bearers`' and `introspection`'s, what is said of a person `claims`', and what a revocation writes `families`'.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import InvalidRequestError
from flask import Request, Response

from broker import access, endings
from broker.context import Scope, acting, current_request_id
from broker.db import unit
from broker.errors import AuthenticationRequired, Forbidden
from broker.protocol import OUR_AUDIENCE
from oidc import bearers, claims, families, introspection, requests, tokens
from oidc.bearers import Bearer
from oidc.clients import Client
from oidc.introspection import Caller
from oidc.provider import Server, actor_of, answer
from oidc.requests import HouseRequest
from oidc.tokens import Issuer, TokenIssuer

INTROSPECT = "introspect"


def userinfo(issuer: Issuer, request: Request) -> Response:
    """OpenID Connect Core section 5.3: for access tokens of this issuer with scope `openid`."""
    try:
        token = _shown(request)
    except InvalidRequestError as error:
        return _challenged("invalid_request", str(error.description), 400)
    if token is None:
        return answer({"error": "invalid_request", "error_description": "An access token is required"}, 401, **_ASKED)
    try:
        bearer = bearers.check(token, issuer=issuer)
    except AuthenticationRequired:
        return _challenged("invalid_token", "The access token is not valid here", 401)
    if bearer.kind != "user" or bearer.tenant is None or "openid" not in bearer.claims.scopes:
        return _challenged("insufficient_scope", "The access token lacks the scope openid", 403, "openid")
    known = claims.person(bearer.principal_id, bearer.claims.audience, tenant_id=bearer.tenant.tenant_id)
    if known is None:
        return _challenged("invalid_token", "The access token is not valid here", 401)
    return answer(claims.userinfo(known, bearer.claims.scopes))


def introspect(server: Server, request: Request) -> Response:
    """RFC 7662, asked by a client, or with a token that has the scope `introspect`."""
    try:
        asked = requests.of_body(request)
        asked.check_form()
        caller = _caller(server, asked, request)
        token = asked.get("token")
        if token is None:
            raise InvalidRequestError("token is missing")
    except AuthenticationRequired:
        return _challenged("invalid_token", "The access token is not valid here", 401)
    except Forbidden:
        return _challenged("insufficient_scope", "The access token lacks the scope introspect", 403, INTROSPECT)
    except OAuth2Error as error:
        return server.refused(error)
    return answer(introspection.introspect(token, caller))


def revoke(server: Server, request: Request) -> Response:
    """RFC 7009: a refresh token ends its grant, an access token itself; whatever is not the client's own is let be."""
    try:
        asked = requests.of_body(request)
        asked.check_form()
        client = server.authenticated(asked, "revocation")
        token = asked.get("token")
        if token is None:
            raise InvalidRequestError("token is missing")
    except OAuth2Error as error:
        return server.refused(error)
    with acting(actor_of(client), current_request_id()):
        if tokens.looks_like_one(token):
            _revoke_access_token(server.issuer, client, token)
        else:
            _revoke_refresh_token(server.issuer, client, token)
    return answer({})


def _revoke_access_token(issuer: Issuer, client: Client, token: str) -> None:
    try:
        read = TokenIssuer(issuer).read(token, audience=None)
    except AuthenticationRequired:
        return
    scope = _scope_of(read.tenant_id or client.owner.tenant_id)
    if read.client_id == client.client_id and scope is not None:
        with unit(scope):
            families.revoke_access_token(read.jti, datetime.fromtimestamp(read.expires_at, UTC))


def _revoke_refresh_token(issuer: Issuer, client: Client, token: str) -> None:
    tenant_id = families.tenant_of_refresh(token)
    if tenant_id is None or client.application_id is None:
        return
    scope = _scope_of(tenant_id) if issuer.scope is None else issuer.scope
    if scope is None or scope.tenant_id != tenant_id:
        return
    with unit(scope):
        grant_id = families.grant_of_refresh(token, application_id=client.application_id, issuer=issuer.kind)
        if grant_id is not None:
            endings.end_grant(grant_id, "revoked")


def _caller(server: Server, asked: HouseRequest, request: Request) -> Caller:
    """Raises OAuth2Error, and AuthenticationRequired or Forbidden for a token that does not do."""
    if request.headers.get("Authorization", "").partition(" ")[0].lower() == "bearer":
        return _caller_by_token(server.issuer, request.headers["Authorization"].partition(" ")[2].strip())
    client = server.authenticated(asked, "introspection", public=False)
    # Its own API is the first of those an application may ask for; what reaches over tenants is at home in none here.
    audiences = frozenset({client.client_id, *client.audiences[:1]}) if client.application_id else frozenset()
    tenant_id = client.owner.tenant_id if client.reach == "TENANT" else None
    return Caller(tenant_id, audiences, client.application_id, server.issuer)


def _caller_by_token(issuer: Issuer, token: str) -> Caller:
    """Whoever holds a token for ScaiKey's own API with the scope; at a tenant's issuer, one of that tenant."""
    if tokens.looks_like_one(token):
        bearer: Bearer = bearers.check(token, audience=OUR_AUDIENCE, issuer=issuer)
        tenant_id, scopes = bearer.claims.tenant_id, bearer.claims.scopes
    else:
        actor = access.authenticate(f"Bearer {token}")
        tenant_id, scopes = actor.tenant_id, actor.scopes
        if issuer.scope is not None and issuer.scope.tenant_id != tenant_id:
            raise AuthenticationRequired(note="a token of another tenant")
    if INTROSPECT not in scopes:
        raise Forbidden
    return Caller(tenant_id, frozenset(), None, issuer)


def _shown(request: Request) -> str | None:
    """The bearer token of the header, or of the body's form; never of the URL (RFC 6750 section 2)."""
    shown = []
    scheme, _, said = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        shown.append(said.strip())
    if request.method == "POST" and request.mimetype == "application/x-www-form-urlencoded":
        shown += request.form.getlist("access_token")
    if len(shown) > 1:
        raise InvalidRequestError("The access token is shown more than once")
    return shown[0] if shown else None


_ASKED = {"WWW-Authenticate": 'Bearer realm="scaikey"'}


def _challenged(error: str, description: str, status: int, scope: str | None = None) -> Response:
    """RFC 6750 section 3."""
    said = f'Bearer realm="scaikey", error="{error}", error_description="{description}"'
    if scope is not None:
        said += f', scope="{scope}"'
    body: dict[str, Any] = {"error": error, "error_description": description}
    return answer(body, status, **{"WWW-Authenticate": said})


def _scope_of(tenant_id: str | None) -> Scope | None:
    return access.scope_for_tenant(tenant_id) if tenant_id else None
