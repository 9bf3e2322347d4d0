"""The grants of the token endpoint, on Authlib's: code with PKCE, refresh with rotation, client credentials.

Owns what each grant demands beyond Authlib, and that `may_receive_tokens` is asked before anything is issued. Each
opens the transaction it works in; what a refusal has written there (a spent code, a family ended) is committed, because
the refusal is answered inside it. Rows are `families`', claims and signatures `tokens`'.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import (
    InvalidGrantError,
    InvalidRequestError,
    InvalidScopeError,
    UnauthorizedClientError,
    grants,
)
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc7636.challenge import CODE_CHALLENGE_PATTERN

from broker import access, settings
from broker.context import Scope
from broker.db import unit
from broker.standing import NOWHERE, Standing, Subject, may_receive_tokens, standing
from oidc import families
from oidc.clients import Client
from oidc.families import Code, Family, Refresh
from oidc.requests import HouseRequest

if TYPE_CHECKING:
    from oidc.provider import Server

log = logging.getLogger("scaikey.oidc")


@dataclass(frozen=True, slots=True)
class Issue:
    """What a grant decided, for the server to turn into tokens: who, with what, and the next refresh token."""

    client: Client
    scope: Scope | None
    scopes: list[str]
    audience: str
    family: Family | None = None
    refresh_token: str | None = None
    first: bool = False
    """Whether this answers the sign-in itself, whose nonce the ID token then carries."""


def invalid_target() -> OAuth2Error:
    """RFC 8707 section 2."""
    return OAuth2Error("This API is not one the client may ask for", error="invalid_target")


class S256(CodeChallenge):  # type: ignore[misc]
    """PKCE by S256, of every client; Authlib's own takes `plain`, and asks public clients only."""

    DEFAULT_CODE_CHALLENGE_METHOD = "S256"
    SUPPORTED_CODE_CHALLENGE_METHOD = ("S256",)

    def validate_code_challenge(self, grant: Any, redirect_uri: str) -> None:
        request: HouseRequest = grant.request
        challenge = request.get("code_challenge")
        if challenge is None:
            raise InvalidRequestError("PKCE is required: code_challenge is missing")
        if request.get("code_challenge_method") != "S256":
            raise InvalidRequestError("PKCE is required with code_challenge_method S256")
        if len(challenge) != 43 or not CODE_CHALLENGE_PATTERN.fullmatch(challenge):
            raise InvalidRequestError("code_challenge is not an S256 challenge")

    def get_authorization_code_challenge_method(self, authorization_code: Any) -> str:
        return "S256"


class _AtTheTokenEndpoint:
    """What every grant of ours shares."""

    request: HouseRequest
    server: Server
    TOKEN_ENDPOINT_AUTH_METHODS = ()

    def authenticate_token_endpoint_client(self) -> Client:
        """The server did that before the transaction began, for a client's keys may be on another's network."""
        client: Client = self.request.client
        return client

    def transaction(self) -> AbstractContextManager[object]:
        """The unit of work the grant is answered in."""
        raise NotImplementedError

    def _unit_of(self, whose: Callable[[str], str | None], secret: str | None) -> AbstractContextManager[object]:
        """In the issuer's tenant; at the platform issuer in the tenant of what is shown, or nowhere."""
        scope = self.server.issuer.scope
        if scope is None:
            tenant_id = whose(secret or "")
            scope = access.scope_for_tenant(tenant_id) if tenant_id else None
        self.scope = scope
        return nullcontext() if scope is None else unit(scope)

    def _target(self, client: Client, family: Family) -> None:
        """An API named here must be the one that was granted, and one the client may still ask for."""
        try:
            asked = self.request.target()
        except ValueError:
            raise invalid_target() from None
        if asked is not None and asked != family.audience:
            raise invalid_target()
        if family.audience not in client.audiences:
            raise InvalidGrantError("The grant is not valid any more")


class CodeGrant(_AtTheTokenEndpoint, grants.AuthorizationCodeGrant):  # type: ignore[misc]
    """RFC 6749 section 4.1, RFC 7636."""

    def transaction(self) -> AbstractContextManager[object]:
        return self._unit_of(families.tenant_of_code, self.request.get("code"))

    @classmethod
    def check_authorization_endpoint(cls, request: HouseRequest) -> bool:
        """Always: it is the one grant there, and it alone knows whether an error may be sent to the client."""
        return True

    def query_authorization_code(self, code: str, client: Client) -> CodeShown | None:
        """Claims it: whatever is wrong with the rest of the request, a code is shown once."""
        if self.scope is None or client.application_id is None:
            return None
        claimed = families.claim_code(code, application_id=client.application_id, issuer=self.server.issuer.kind)
        return None if claimed is None else CodeShown(claimed)

    def authenticate_user(self, authorization_code: CodeShown) -> Issue | None:
        client: Client = self.request.client
        family = authorization_code.family
        self._target(client, family)
        refuse_whoever_may_not(
            Subject(
                user_id=family.user_id,
                application_id=family.application_id,
                session_id=family.session_id,
                grant_id=family.id,
            )
        )
        refresh_token = None
        if client.check_grant_type("refresh_token"):
            life = settings.of(_known(self.scope), "refresh_token_lifetime")
            refresh_token = families.first_refresh_token(family, timedelta(seconds=life))
        return Issue(client, self.scope, list(family.scopes), family.audience, family, refresh_token, first=True)

    def delete_authorization_code(self, authorization_code: CodeShown) -> None:
        """It stays, spent, so that a second use is known."""


class CodeShown:
    """A claimed code as Authlib asks for it."""

    def __init__(self, code: Code) -> None:
        self.family = code.family
        self.code_challenge = code.code_challenge
        self._redirect_uri = code.redirect_uri

    def get_redirect_uri(self) -> str:
        return self._redirect_uri

    def get_scope(self) -> str:
        return " ".join(self.family.scopes)


class RefreshGrant(_AtTheTokenEndpoint, grants.RefreshTokenGrant):  # type: ignore[misc]
    """RFC 6749 section 6, RFC 9700 section 4.14."""

    INCLUDE_NEW_REFRESH_TOKEN = True

    def transaction(self) -> AbstractContextManager[object]:
        return self._unit_of(families.tenant_of_refresh, self.request.get("refresh_token"))

    def authenticate_refresh_token(self, refresh_token: str) -> RefreshShown | None:
        client: Client = self.request.client
        if self.scope is None or client.application_id is None:
            return None
        found = families.find_refresh(
            refresh_token,
            application_id=client.application_id,
            issuer=self.server.issuer.kind,
            idle=timedelta(seconds=settings.of(self.scope, "session_idle_timeout")),
        )
        return None if found is None else RefreshShown(found)

    def authenticate_user(self, refresh_token: RefreshShown) -> Issue:
        client: Client = self.request.client
        shown, family = refresh_token.shown, refresh_token.shown.family
        self._target(client, family)
        if not family.outlives_its_session and not shown.session_live:
            raise InvalidGrantError("The session has ended")
        refuse_whoever_may_not(
            Subject(
                user_id=family.user_id,
                application_id=family.application_id,
                session_id=None if family.outlives_its_session else family.session_id,
                grant_id=family.id,
            )
        )
        successor = families.rotate(shown)
        if successor is None:
            log.warning("a spent refresh token of %s was shown again: its family is ended", family.id)
            raise InvalidGrantError("The refresh token was used before")
        return Issue(client, self.scope, list(family.scopes), family.audience, family, successor)

    def revoke_old_credential(self, refresh_token: RefreshShown) -> None:
        """Spent already, before anything was issued."""


class RefreshShown:
    """A refresh token as Authlib asks for it."""

    def __init__(self, shown: Refresh) -> None:
        self.shown = shown

    def check_client(self, client: Client) -> bool:
        return client.application_id == self.shown.family.application_id

    def get_scope(self) -> str:
        return " ".join(self.shown.family.scopes)


class ClientGrant(_AtTheTokenEndpoint, grants.ClientCredentialsGrant):  # type: ignore[misc]
    """RFC 6749 section 4.4. Nothing is written."""

    def transaction(self) -> AbstractContextManager[object]:
        """At the platform issuer in the tenant that is named, if any; elsewhere nothing is left to be read."""
        named = self.request.get("tenant_id") if self.server.issuer.scope is None else None
        self.scope = self.server.issuer.scope if named is None else access.scope_for_tenant(named)
        return nullcontext() if named is None or self.scope is None else unit(self.scope)

    def validate_requested_scope(self) -> None:
        client: Client = self.request.client
        try:
            audience = client.audience(self.request.target())
        except ValueError:
            audience = None
        if audience is None:
            raise invalid_target()
        scopes = client.narrowed(self.request.get("scope"), audience, people=False)
        if scopes is None:
            raise InvalidScopeError()
        reason = may_receive_tokens(self._standing(client))
        if reason is not None:
            log.info("%s gets no token: %s", client.client_id, reason)
            raise UnauthorizedClientError("The client may not get tokens here")
        self.request.user = Issue(client, self.scope, scopes, audience)

    def _standing(self, client: Client) -> Standing:
        named = self.request.get("tenant_id")
        if named is None:
            return client.standing
        if self.server.issuer.scope is None:
            return NOWHERE if self.scope is None else standing(client.subject())
        if named != self.server.issuer.scope.tenant_id:
            raise InvalidRequestError("tenant_id is not the tenant of this issuer")
        return client.standing

    def generate_token(self, user: Any = None, **options: Any) -> dict[str, Any]:
        token: dict[str, Any] = super().generate_token(user=self.request.user, **options)
        return token


def refuse_whoever_may_not(subject: Subject) -> None:
    """Raises InvalidGrantError when person, application, session or grant may not get tokens at this moment."""
    reason = may_receive_tokens(standing(subject))
    if reason is not None:
        log.info("no token for %s: %s", subject.grant_id, reason)
        raise InvalidGrantError("The grant is not valid any more")


def _known(scope: Scope | None) -> Scope:
    assert scope is not None
    return scope
