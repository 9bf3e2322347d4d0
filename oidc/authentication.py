"""How a client proves itself at the token, introspection and revocation endpoints.

Owns the four ways (RFC 6749 section 2.3, RFC 7523) and that there is one of them per request, the one the client is
registered with. Every failure is the same answer: nobody learns whether a client exists. Keys of clients that sign are
`client_keys`'.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from authlib.oauth2.rfc6749 import InvalidClientError, InvalidRequestError

from broker import credentials
from oidc import client_keys
from oidc.clients import Client
from oidc.requests import HouseRequest

if TYPE_CHECKING:
    from oidc.provider import Server

Query = Callable[[str], Client | None]


def authenticate(server: Server, request: HouseRequest, endpoint: str, *, public: bool = True) -> Client:
    """The client that asks. Raises InvalidClientError, and InvalidRequestError when it says who it is in two ways."""
    method = _shown(request)
    if method is None or (method == "none" and not public):
        raise refusal(request)
    try:
        client: Client = server.authenticate_client(request, [method], endpoint)
    except InvalidClientError:
        raise refusal(request) from None
    named = request.get("client_id")
    if named is not None and named != client.client_id:
        raise InvalidRequestError("client_id names another client than the one that authenticates")
    if not client.enabled:
        raise refusal(request)
    request.client = client
    return client


def install(server: Server) -> None:
    """Put our ways in the place of Authlib's, which tell unknown clients from wrong secrets."""
    server.register_client_auth_method("client_secret_basic", _by_basic)
    server.register_client_auth_method("client_secret_post", _by_post)
    server.register_client_auth_method("none", _by_name)
    server.register_client_auth_method(
        "private_key_jwt", lambda query, request: client_keys.by_assertion(query, request, server.issuer)
    )


def refusal(request: HouseRequest) -> InvalidClientError:
    """The one answer to whoever is not a client."""
    error = InvalidClientError("Client authentication failed", status_code=401)
    error.challenge = "Authorization" in request.headers
    return error


def client_named(request: HouseRequest) -> str | None:
    """Who the request says it comes from, unproven."""
    match _shown(request):
        case "client_secret_basic":
            pair = _basic(request)
            return pair[0] if pair else None
        case "private_key_jwt":
            return client_keys.subject_of(request.get("client_assertion") or "")
        case _:
            return request.get("client_id")


def _shown(request: HouseRequest) -> str | None:
    shown = []
    if _scheme(request) == "basic":
        shown.append("client_secret_basic")
    if "client_secret" in request.form:
        shown.append("client_secret_post")
    if "client_assertion" in request.form or "client_assertion_type" in request.form:
        shown.append("private_key_jwt")
    if len(shown) > 1:
        raise InvalidRequestError("The client authenticates in more than one way")
    if shown:
        return shown[0]
    return "none" if "client_id" in request.form else None


def _scheme(request: HouseRequest) -> str:
    said: str = request.headers.get("Authorization", "")
    return said.partition(" ")[0].lower()


def _basic(request: HouseRequest) -> tuple[str, str] | None:
    """RFC 6749 section 2.3.1: both parts form-encoded, then RFC 7617."""
    said = request.headers.get("Authorization", "").partition(" ")[2].strip()
    try:
        name, colon, secret = base64.b64decode(said, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return (unquote_plus(name), unquote_plus(secret)) if colon else None


def _by_basic(query: Query, request: HouseRequest) -> Client | None:
    pair = _basic(request)
    return _with_secret(query, *pair) if pair else None


def _by_post(query: Query, request: HouseRequest) -> Client | None:
    return _with_secret(query, request.get("client_id") or "", request.form["client_secret"])


def _with_secret(query: Query, client_id: str, secret: str) -> Client | None:
    client = query(client_id)
    valid = credentials.client_secret_valid(secret, client.secrets if client else [bytes(32)])
    return client if valid else None


def _by_name(query: Query, request: HouseRequest) -> Client | None:
    return query(request.form["client_id"])
