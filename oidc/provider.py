"""The authorization server of one issuer: Authlib's, made anew for each request and bound to its issuer.

Owns which grants there are and how an answer of theirs becomes tokens. A server that lives as long as its request has
no client, tenant or issuer of anybody else to confuse (decision 40). How requests are read is `requests`', clients are
`clients`' and `authentication`'s, grants `grants`', claims and signatures `tokens`'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import orjson
from authlib.oauth2 import AuthorizationServer, OAuth2Error
from authlib.oauth2.rfc6749 import (
    InvalidClientError,
    InvalidGrantError,
    InvalidRequestError,
    UnauthorizedClientError,
)
from flask import Response

from broker.context import Actor, acting, current_request_id
from oidc import authentication, claims, clients
from oidc.clients import Client
from oidc.grants import S256, ClientGrant, CodeGrant, Issue, RefreshGrant, invalid_target
from oidc.requests import HouseRequest
from oidc.tokens import Authentication, Issued, Issuer, TokenIssuer

NOT_KEPT = {"Cache-Control": "no-store", "Pragma": "no-cache"}


class Server(AuthorizationServer):  # type: ignore[misc]
    """One issuer, for one request."""

    def __init__(self, issuer: Issuer) -> None:
        super().__init__()
        self.issuer = issuer
        authentication.install(self)
        self.register_grant(CodeGrant, [S256(required=True)])
        self.register_grant(RefreshGrant)
        self.register_grant(ClientGrant)

    def client(self, client_id: str | None) -> Client | None:
        """The client within this issuer's reach, disabled ones too."""
        return clients.find(client_id, self.issuer) if client_id else None

    def authenticated(self, request: HouseRequest, endpoint: str = "token", *, public: bool = True) -> Client:
        """The client that asks, proven. Raises OAuth2Error."""
        return authentication.authenticate(self, request, endpoint, public=public)

    def token_response(self, request: HouseRequest) -> Response:
        """RFC 6749 sections 5.1 and 5.2. The client is proven first; what a refusal wrote inside is committed."""
        try:
            request.check_form()
            if request.get("grant_type") is None:
                raise InvalidRequestError("grant_type is missing")
            grant = self.get_token_grant(request)
            client = self.authenticated(request)
            with acting(actor_of(client), current_request_id()), grant.transaction():
                return self._granted(grant, request)
        except OAuth2Error as error:
            return self.refused(error)

    def _granted(self, grant: Any, request: HouseRequest) -> Response:
        try:
            grant.validate_token_request()
            answer: Response = self.handle_response(*grant.create_token_response())
        except OAuth2Error as error:
            return self.refused(error)
        return answer

    def refused(self, error: OAuth2Error) -> Response:
        """RFC 6749 section 5.2."""
        response = answer(dict(error.get_body()), error.status_code)
        if isinstance(error, InvalidClientError) and getattr(error, "challenge", False):
            response.headers["WWW-Authenticate"] = 'Basic realm="scaikey"'
        return response

    # What Authlib asks of a server.

    def query_client(self, client_id: str) -> Client | None:
        return self.client(client_id)

    def create_oauth2_request(self, request: HouseRequest) -> HouseRequest:
        return request

    def generate_token(
        self,
        grant_type: str,
        client: Client,
        user: Issue | None = None,
        scope: str | None = None,
        expires_in: int | None = None,
        include_refresh_token: bool = True,
    ) -> dict[str, Any]:
        """The answer of RFC 6749 section 5.1 to what a grant decided."""
        if user is None:
            raise UnauthorizedClientError("Nothing was granted")
        scopes = list(dict.fromkeys(scope.split())) if scope and user.family else user.scopes
        if self.issuer.scope is None and user.scope is not None and not client.reaches(user.audience):
            raise invalid_target()
        # What was taken from the application since it was granted is not given again.
        allowed = client.scopes_for(user.audience)
        return issued(self.issuer, user, [one for one in scopes if one in allowed])

    def save_token(self, token: Mapping[str, Any], request: HouseRequest) -> None:
        """Access tokens are not stored, and refresh tokens were before they were shown."""

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Nobody listens."""

    def handle_response(self, status: int, body: Any, headers: Sequence[tuple[str, str]]) -> Response:
        return answer(body, status)


def issued(issuer: Issuer, decided: Issue, scopes: Sequence[str]) -> dict[str, Any]:
    """Access token, ID token where `openid` was granted, refresh token where there is one."""
    signer, client, family = TokenIssuer(issuer), decided.client, decided.family
    # At the platform issuer the setting is that of the tenant in whose unit of work we are.
    usual = client.usual_lifetime if issuer.scope or decided.scope is None else None
    lifetime = client.access_token_lifetime or usual
    if family is None:
        token = signer.access_token(
            client=client, audience=decided.audience, scopes=scopes, tenant=decided.scope, lifetime=lifetime
        )
        return _bearer(token, scopes)
    person = claims.person(family.user_id, decided.audience)
    if person is None:
        raise InvalidGrantError("The grant is not valid any more")
    sign_in = Authentication(family.session_id, family.auth_time, family.amr)
    token = signer.access_token(
        client=client,
        audience=decided.audience,
        scopes=scopes,
        person=person,
        grant_id=family.id,
        authentication=sign_in,
        lifetime=lifetime,
    )
    body = _bearer(token, scopes)
    if "openid" in scopes:
        body["id_token"] = signer.id_token(
            client=client,
            person=person,
            authentication=sign_in,
            scopes=scopes,
            nonce=family.nonce if decided.first else None,
            access_token=token.token,
        )
    if decided.refresh_token is not None:
        body["refresh_token"] = decided.refresh_token
    return body


def _bearer(token: Issued, scopes: Sequence[str]) -> dict[str, Any]:
    return {
        "access_token": token.token,
        "token_type": "Bearer",
        "expires_in": token.expires_in,
        "scope": " ".join(scopes),
    }


def answer(body: Any, status: int = 200, **headers: str) -> Response:
    """JSON that nobody keeps."""
    return Response(orjson.dumps(body), status, {**NOT_KEPT, **headers}, mimetype="application/json")


def actor_of(client: Client) -> Actor:
    """The client as who acts, for the log."""
    scope = client.scope or client.owner
    kind: Literal["application", "service_account"] = client.kind
    return Actor(kind, client.id, scope.tenant_id, scope.partner_id, client.name)
