"""What is shown at a target: its bearer token, or a token got from its token endpoint for as long as that is good.

Owns the request for a token (RFC 6749 §4.4) with the three proofs of a client (§2.3.1, RFC 7523), and the one token
that all connections to a target share. Tokens live in memory only; nothing of a secret or a token is ever part of a
message.
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote_plus, urlencode
from uuid import uuid4

from joserfc import jwt

from broker.strict_json import StrictJsonError, loads
from connectors.client_key import signer
from connectors.http import Blocked, HttpClient, OutboundError, Response
from scim.client import Busy, Closed, Credential, Denied, Fixed, Unreachable

_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_ASSERTION_SECONDS = 60
_EARLY = 30.0
"""Seconds before its end in which a token is used no more."""
_UNSAID = 300.0
"""Seconds a token is used whose end the endpoint does not say."""
_LONGEST = 86_400.0
_ANSWER_BYTES = 256 * 1024
_TIMEOUT = 15.0
_LONGEST_TOKEN = 16_384


def of(http: HttpClient, auth: Mapping[str, Any], secret: str) -> Credential:
    """The credential of a target, by its `auth` and its secret."""
    if auth.get("method") == "oauth2_client_credentials":
        return ClientCredentials(http, auth, secret)
    return Fixed(secret)


class ClientCredentials:
    """A token of the target's token endpoint, asked for when there is none or the last one was refused."""

    def __init__(self, http: HttpClient, auth: Mapping[str, Any], secret: str) -> None:
        self._http = http
        self._auth = auth
        self._secret = secret
        self._lock = threading.Lock()
        self._token: str | None = None
        self._good_until = 0.0
        self._refused: str | None = None
        """The last token the target would not take: one new one is asked for in its place."""

    def token(self) -> str:
        """The present token. Raises TargetError in one of its kinds."""
        with self._lock:
            if self._token is None or time.monotonic() > self._good_until:
                self._get()
            assert self._token is not None
            return self._token

    def renew(self, refused: str) -> bool:
        """The target refused this token; whether there is another to try. Raises TargetError."""
        with self._lock:
            if self._token == refused:
                if self._refused is not None:
                    return False
                self._refused = refused
                self._get()
            return True

    def accepted(self) -> None:
        """The target took the present token."""
        self._refused = None

    def _get(self) -> None:
        self._token = None
        url = self._auth["token_url"]
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        form = {"grant_type": "client_credentials"}
        form |= {name: self._auth[name] for name in ("scope", "audience") if name in self._auth}
        self._prove(headers, form)
        try:
            response = self._http.request(
                "POST",
                url,
                headers=headers,
                body=urlencode(form).encode(),
                timeout=_TIMEOUT,
                max_response=_ANSWER_BYTES,
                attempts=1,
            )
        except Blocked as error:
            raise Closed(f"The token endpoint cannot be asked: {error}") from None
        except OutboundError as error:
            raise Unreachable(f"The token endpoint does not answer: {error}") from None
        self._token, seconds = _read(response)
        self._good_until = time.monotonic() + min(max(seconds - _EARLY, seconds / 2), _LONGEST)

    def _prove(self, headers: dict[str, str], form: dict[str, str]) -> None:
        client_id = self._auth["client_id"]
        match self._auth["token_endpoint_auth_method"]:
            case "client_secret_basic":
                # RFC 6749 §2.3.1: both halves are form-encoded first.
                pair = f"{quote_plus(client_id)}:{quote_plus(self._secret)}"
                headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
            case "client_secret_post":
                form |= {"client_id": client_id, "client_secret": self._secret}
            case _:
                form |= {
                    "client_id": client_id,
                    "client_assertion_type": _ASSERTION,
                    "client_assertion": self._assertion(client_id),
                }

    def _assertion(self, client_id: str) -> str:
        key, algorithm, kid = signer(self._secret)
        now = int(time.time())
        claims = {
            "iss": client_id,
            "sub": client_id,
            "aud": self._auth.get("assertion_audience") or self._auth["token_url"],
            "iat": now,
            "exp": now + _ASSERTION_SECONDS,
            "jti": uuid4().hex,
        }
        return jwt.encode({"alg": algorithm, "kid": kid, "typ": "JWT"}, claims, key, algorithms=[algorithm])


def _read(response: Response) -> tuple[str, float]:
    """The token and the seconds it is good for. Raises TargetError; no word of the body but the error's code."""
    text = f"The token endpoint answered {response.status}"
    try:
        answer = loads(response.body, max_bytes=_ANSWER_BYTES)
    except StrictJsonError:
        answer = None
    answer = answer if isinstance(answer, dict) else {}
    if response.status in (429, 502, 503, 504):
        raise Busy(text, retry_after=response.retry_after)
    if response.status >= 500:
        raise Unreachable(text)
    if response.status != 200:
        code = answer.get("error")
        said = f": {code}" if isinstance(code, str) and code.isidentifier() and len(code) < 100 else ""
        raise Denied(f"{text}{said}.")
    token, seconds = answer.get("access_token"), answer.get("expires_in")
    if not isinstance(token, str) or not 0 < len(token) <= _LONGEST_TOKEN or not _is_token(token):
        raise Closed(f"{text} without a usable access_token.")
    kind = answer.get("token_type", "Bearer")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise Closed(f"{text} with a token that is no bearer token.")
    if isinstance(seconds, str) and seconds.isascii() and seconds.isdigit():
        seconds = int(seconds[:9])
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds <= 0:
        return token, _UNSAID
    return token, float(seconds)


def _is_token(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text
