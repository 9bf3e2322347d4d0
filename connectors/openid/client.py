"""How we speak to a provider as its client: the authorization request, the token request, and how we prove who we are.

Authlib's OAuth 2.0 client makes and reads the messages; they travel through the guarded client. What an upstream
answers is put into words without the secrets that were sent.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, MutableMapping
from typing import Any
from urllib.parse import quote_plus, urlencode

from authlib.oauth2.client import OAuth2Client
from authlib.oauth2.rfc7523 import private_key_jwt_sign
from authlib.oauth2.rfc7523.client import ASSERTION_TYPE
from joserfc.jwk import ECKey, RSAKey

from connectors.client_key import WANTED, signer
from connectors.http import Response
from connectors.openid.config import Config
from connectors.openid.metadata import Metadata, Source, json_object, shown
from connectors.port import Misconfigured, Refused

ANSWER_BYTES = 256 * 1024
_ASSERTION_SECONDS = 60
_RSA_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_BAD_CLIENT = frozenset({"invalid_client", "unauthorized_client", "unsupported_grant_type"})


def authorization_url(config: Config, metadata: Metadata, callback: str, verifier: str, **parameters: Any) -> str:
    """Where the browser asks for a code (RFC 6749 §4.1.1, RFC 7636)."""
    client = OAuth2Client(
        None,
        client_id=config.client_id,
        redirect_uri=callback,
        scope=" ".join(config.scopes),
        code_challenge_method="S256",
    )
    parameters = {**config.parameters, **parameters, "response_mode": config.response_mode}
    url, _ = client.create_authorization_url(metadata.authorization_endpoint, code_verifier=verifier, **parameters)
    return str(url)


def redeem(config: Config, metadata: Metadata, source: Source, callback: str, code: str, verifier: str) -> Any:
    """The token response for a code. Raises Refused, Unreachable, Misconfigured.

    What an upstream says against our client itself is a Misconfigured, what it says against the code a Refused.
    """
    client = _Client(
        _Session(source),
        client_id=config.client_id,
        client_secret=config.client_secret,
        token_endpoint_auth_method=config.token_endpoint_auth_method,
        redirect_uri=callback,
    )
    client.register_client_auth_method(("client_secret_basic", _basic))
    client.register_client_auth_method(("private_key_jwt", _Assertion(config, metadata)))
    try:
        return client.fetch_token(
            metadata.token_endpoint, grant_type="authorization_code", code=code, code_verifier=verifier
        )
    except _Said as error:
        said = shown(_without(f"{error.code}. {error.text}".strip(), config, code, verifier))
        if error.code in _BAD_CLIENT:
            raise Misconfigured(f"The token endpoint does not take us for its client: {said}") from None
        raise Refused(f"The token endpoint refused the code: {said}", error.code) from None
    except (ValueError, TypeError):
        raise Refused("The token endpoint did not answer with tokens.") from None


def key_flaw(text: str) -> str:
    """What keeps this from being our private key."""
    if not text:
        return "Is required for private_key_jwt."
    try:
        _signer(text)
    except ValueError:
        return WANTED
    return ""


def key_id(config: Config) -> str:
    """How the provider is to know the public half of our key."""
    return _signer(config.private_key)[2]


class _Said(Exception):
    """An error of the token endpoint (RFC 6749 §5.2), whatever letters its description is made of."""

    def __init__(self, error: object, description: object) -> None:
        super().__init__()
        self.code = shown(error) if isinstance(error, str) else "an error without a name"
        self.text = description if isinstance(description, str) else ""


class _Client(OAuth2Client):  # type: ignore[misc]
    oauth_error_class = _Said


class _Answer:
    """A response as Authlib's client reads it."""

    def __init__(self, answer: Response) -> None:
        self._answer = answer
        self.status_code = answer.status

    def json(self) -> dict[str, Any]:
        said = json_object(self._answer, "The answer of the token endpoint")
        if self.status_code != 200 and "error" not in said:
            self.raise_for_status()
        return said

    def raise_for_status(self) -> None:
        raise Refused(f"The token endpoint answered with status {self.status_code}.")


class _Session:
    """The guarded client as the HTTP session that Authlib's client works with."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def post(self, url: str, *, data: Mapping[str, str], headers: Mapping[str, str], auth: Any) -> _Answer:
        url, signed_headers, body = auth.prepare("POST", url, dict(headers), urlencode(data))
        answer = self._source.ask(
            "POST", url, "The token endpoint", headers=signed_headers, body=body.encode(), most=ANSWER_BYTES
        )
        return _Answer(answer)


def _basic(
    auth: Any, method: str, url: str, headers: MutableMapping[str, str], body: str
) -> tuple[str, MutableMapping[str, str], str]:
    # RFC 6749 §2.3.1: both halves are form-encoded first; Authlib's own leaves that out.
    pair = f"{quote_plus(auth.client_id)}:{quote_plus(auth.client_secret)}"
    headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return url, headers, body


class _Assertion:
    """`private_key_jwt` (RFC 7523 §3), short-lived and addressed as the settings say."""

    def __init__(self, config: Config, metadata: Metadata) -> None:
        self._key = config.private_key
        self._audience = metadata.issuer if config.assertion_audience == "issuer" else metadata.token_endpoint

    def __call__(self, auth: Any, method: str, url: str, headers: Any, body: str) -> tuple[str, Any, str]:
        key, algorithm, kid = _signer(self._key)
        assertion = private_key_jwt_sign(
            key,
            client_id=auth.client_id,
            token_endpoint=self._audience,
            alg=algorithm,
            header={"kid": kid},
            expires_in=_ASSERTION_SECONDS,
        )
        proof = {
            "client_id": auth.client_id,
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": assertion,
        }
        return url, headers, f"{body}&{urlencode(proof)}"


def _signer(text: str) -> tuple[RSAKey | ECKey, str, str]:
    """Our key, the algorithm it names or the usual one, and its name. Raises ValueError."""
    key, algorithm, kid = signer(text)
    return key, key.alg if key.alg in _RSA_ALGORITHMS else algorithm, kid


def _without(text: str, config: Config, *secrets: str) -> str:
    for secret in (config.client_secret, *secrets):
        if secret:
            text = text.replace(secret, "***")
    return text
