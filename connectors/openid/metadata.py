"""What an OpenID provider says about itself: its endpoints and its signing keys, and how long we believe it.

Owns discovery (OpenID Connect Discovery, RFC 8414), the JWK set, their caches on the shelf, and the passage of our
requests through the guarded client in the port's errors. Every endpoint is checked before anybody is sent there.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry, Key, KeySet

from connectors.http import BadResponse, Blocked, HttpClient, OutboundError, Response, TooLarge
from connectors.openid.claims import check_text
from connectors.openid.config import url_flaw
from connectors.port import Misconfigured, Refused, Shelf, Unreachable

METADATA_SECONDS = 3600
KEYS_SECONDS = 600
RENEWAL_SECONDS = 30
"""Whoever shows tokens with keys that do not exist makes us ask for the keys this often, not oftener."""

_DOCUMENT, _KEY_SET = "The discovery document", "The key set"
_METADATA_BYTES = 256 * 1024
_KEYS_BYTES = 512 * 1024
_RSA_BITS = 2048
_PUBLIC = frozenset({"kty", "use", "alg", "kid", "n", "e", "crv", "x", "y"})


@dataclass(frozen=True, slots=True)
class Metadata:
    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None
    end_session_endpoint: str | None
    names_itself: bool
    """Whether every authorization response carries `iss` (RFC 9207)."""
    said: Mapping[str, Any]


class Source:
    """One issuer, asked through the guarded client."""

    def __init__(self, issuer: str, http: HttpClient, shelf: Shelf, ca: str | None) -> None:
        self._issuer, self._http, self._shelf, self._ca = issuer, http, shelf, ca
        self.discovery_url = issuer.rstrip("/") + "/.well-known/openid-configuration"

    def reach(
        self,
        method: str,
        url: str,
        what: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        most: int = _METADATA_BYTES,
    ) -> Response:
        """One answer, whatever its status. Raises Misconfigured, Unreachable, Refused."""
        headers = {"Accept": "application/json", **(headers or {})}
        try:
            return self._http.request(method, url, headers=headers, body=body, max_response=most, ca=self._ca)
        except Blocked as error:
            raise Misconfigured(f"{what} is not asked: {error}.") from None
        except TooLarge as error:
            raise Refused(f"{what}: {error}.") from None
        except OutboundError as error:
            raise Unreachable(f"{what} did not answer: {error}.") from None

    def ask(self, method: str, url: str, what: str, **options: Any) -> Response:
        """One answer below 300 or from 400 to 499. Raises Misconfigured, Unreachable, Refused."""
        return _settled(self.reach(method, url, what, **options), what)

    def metadata(self) -> Metadata:
        """What the provider says of itself, checked. Raises Misconfigured, Unreachable, Refused."""
        place = f"metadata {self._issuer}"
        if kept := self._shelf.get(place):
            return self._checked(json.loads(kept))
        metadata = self.read(self.reach("GET", self.discovery_url, _DOCUMENT))
        self._shelf.put(place, json.dumps(metadata.said).encode(), METADATA_SECONDS)
        return metadata

    def read(self, answer: Response) -> Metadata:
        """The discovery document in this answer. Raises Misconfigured, Unreachable, Refused."""
        return self._checked(_found(_settled(answer, _DOCUMENT), _DOCUMENT))

    def keys(self, metadata: Metadata, *, fresh: bool = False) -> KeySet:
        """The keys that may sign. Raises Misconfigured, Unreachable, Refused."""
        place = f"keys {metadata.jwks_uri}"
        kept = None if fresh else self._shelf.get(place)
        if kept:
            return usable_keys(json.loads(kept))
        said = _found(self.ask("GET", metadata.jwks_uri, _KEY_SET, most=_KEYS_BYTES), _KEY_SET)
        keys = usable_keys(said)
        self._shelf.put(place, json.dumps(said).encode(), KEYS_SECONDS)
        return keys

    def renewed_keys(self, metadata: Metadata) -> KeySet | None:
        """The keys as they are now, or None when they were asked for a moment ago."""
        place = f"renewal {metadata.jwks_uri}"
        if self._shelf.get(place):
            return None
        self._shelf.put(place, b"asked", RENEWAL_SECONDS)
        return self.keys(metadata, fresh=True)

    def _checked(self, said: Mapping[str, Any]) -> Metadata:
        named = said.get("issuer")
        if named != self._issuer:
            text = f"The provider calls itself {shown(named)}, not {self._issuer}."
            raise Misconfigured(text, {"issuer": text})
        plain = self._issuer.startswith("http:")

        def endpoint(name: str) -> str | None:
            url = said.get(name)
            if url is None:
                return None
            flaw = url_flaw(url, http=plain) if isinstance(url, str) else "Is no URL."
            if flaw:
                raise Misconfigured(f"The provider's {name} cannot be used. {flaw}")
            return str(url)

        def required(name: str) -> str:
            url = endpoint(name)
            if url is None:
                raise Misconfigured(f"The provider names no {name}.")
            return url

        return Metadata(
            issuer=self._issuer,
            authorization_endpoint=required("authorization_endpoint"),
            token_endpoint=required("token_endpoint"),
            jwks_uri=required("jwks_uri"),
            userinfo_endpoint=endpoint("userinfo_endpoint"),
            end_session_endpoint=endpoint("end_session_endpoint"),
            names_itself=said.get("authorization_response_iss_parameter_supported") is True,
            said=said,
        )


def _settled(answer: Response, what: str) -> Response:
    if answer.status >= 500 or answer.status == 429:
        raise Unreachable(f"{what} answered with status {answer.status}.", answer.retry_after)
    if 300 <= answer.status < 400:
        raise Misconfigured(f"{what} answered with a redirect, and redirects are not followed.")
    return answer


def _found(answer: Response, what: str) -> dict[str, Any]:
    if answer.status != 200:
        raise Misconfigured(f"{what} is not there: status {answer.status}.")
    return json_object(answer, what)


def json_object(answer: Response, what: str) -> dict[str, Any]:
    try:
        value = answer.json()
        check_text(value)
    except (BadResponse, ValueError):
        raise Refused(f"{what} is not JSON.") from None
    if not isinstance(value, dict):
        raise Refused(f"{what} is not a JSON object.")
    return value


def usable_keys(said: Mapping[str, Any]) -> KeySet:
    """The public keys that may sign; what is of another kind, broken, secret or too short is passed over."""
    listed = said.get("keys")
    keys = [key for entry in (listed if isinstance(listed, list) else []) if (key := _usable(entry)) is not None]
    return KeySet(keys)


def shown(value: object) -> str:
    """Another party's word in a text of ours: on one line, and short."""
    if not isinstance(value, str):
        return "nothing"
    text = "".join(letter if letter.isprintable() else "?" for letter in value[:201])
    return text if len(text) <= 200 else f"{text[:200]}…"


def _usable(entry: Any) -> Key | None:
    if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC", "OKP") or entry.get("use", "sig") != "sig":
        return None
    if "verify" not in entry.get("key_ops", ["verify"]):
        return None
    public = {name: value for name, value in entry.items() if name in _PUBLIC}
    try:
        if entry["kty"] == "RSA" and len(urlsafe_b64decode(entry["n"] + "==").lstrip(b"\0")) * 8 < _RSA_BITS:
            return None
        return JWKRegistry.import_key(public)
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        return None
