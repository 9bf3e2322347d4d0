"""What a client may be registered with: redirect URIs, grants, keys, scopes, audiences, lifetimes.

Owns the rules that need nothing but the application itself (RFC 6749, 7591, 8252, 9700) and the defaults of each type.
What else is registered in the tenant, and who may register, is asked elsewhere.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Any
from urllib.parse import urlsplit

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey, import_key

from broker import running
from broker.errors import NotAvailable, ValidationFailed
from broker.protocol import GRANT_TYPES, OUR_AUDIENCE, OUR_NAMES, OUR_SCOPES, STANDARD_SCOPES
from broker.registry.changes import check_web_url

MOST_URIS = 50
MOST_KEYS = 10
MOST_SCOPES = 100
MOST_AUDIENCES = 50
LIFETIMES = {"access_token_lifetime": (60, 86_400), "authorization_code_lifetime": (10, 600)}
"""Seconds, least and most."""

_IN_THE_OPEN = frozenset({"spa", "native"})
"""Types whose code everybody has: they keep no secret."""
_SCOPE = re.compile(r"[!#-\[\]-~]{1,100}")
_AUDIENCE = re.compile(r"[!-~]{1,200}")
_URI = re.compile(r"[!$&'()+,\-./0-9:;=?@A-Z\[\]_a-z~%]{1,2000}")
"""What a URI is written with (RFC 3986), without `#` and `*`: no fragment and no wildcard."""
_NETLOC = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9.-]*[a-z0-9]))(?::[0-9]{1,5})?")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_LONGEST_HOST = 253
_PRIVATE_SCHEME = re.compile(r"[a-z][a-z0-9+-]*(?:\.[a-z0-9+-]+)+")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_PRIVATE_PARTS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_CURVES = frozenset({"P-256", "P-384", "Ed25519"})
_LEAST_RSA_BITS = 2048

Errors = dict[str, list[str]]


def defaults(type: str) -> dict[str, Any]:
    """What an application of this type is unless it says otherwise."""
    if type == "service":
        return {
            "token_endpoint_auth_method": "client_secret_basic",
            "grant_types": ["client_credentials"],
            "scopes": [],
        }
    method = "none" if type in _IN_THE_OPEN else "client_secret_basic"
    return {
        "token_endpoint_auth_method": method,
        "grant_types": ["authorization_code"],
        "scopes": list(STANDARD_SCOPES),
    }


def check(client: Mapping[str, Any]) -> None:
    """Raises ValidationFailed, or NotAvailable for a grant that is not there yet. `client` has every field."""
    errors: Errors = {}
    _check_grants(client, errors)
    _check_authentication(client, errors)
    for name in ("redirect_uris", "post_logout_redirect_uris"):
        if complaint := _uris_complaint(client[name], client["type"]):
            errors[name] = [complaint]
    if complaint := _audience_complaint(client["audience"]):
        errors["audience"] = [complaint]
    if complaint := scopes_complaint(client["scopes"], client["allowed_audiences"]):
        errors["scopes"] = [complaint]
    if complaint := audiences_complaint(client["allowed_audiences"], first_party=not client["third_party"]):
        errors["allowed_audiences"] = [complaint]
    for name, (least, most) in LIFETIMES.items():
        if client[name] is not None and not least <= client[name] <= most:
            errors[name] = [f"Must be {least} to {most} seconds."]
    if errors:
        raise ValidationFailed(errors=errors)


def scopes_complaint(scopes: Sequence[str], audiences: Iterable[str]) -> str | None:
    """What is wrong with the scopes of a client that may ask for tokens for these audiences."""
    if len(scopes) > MOST_SCOPES:
        return f"At most {MOST_SCOPES}."
    if not all(_SCOPE.fullmatch(scope) for scope in scopes):
        return "A scope is 1 to 100 printable ASCII characters without blanks, quotes and backslashes."
    ours = [scope for scope in scopes if scope in OUR_SCOPES or scope.lower().startswith(OUR_NAMES)]
    if ours and OUR_AUDIENCE not in audiences:
        return f"{ours[0]} is a scope of ScaiKey's own API: it needs {OUR_AUDIENCE} among the audiences."
    if unknown := sorted(set(ours) - set(OUR_SCOPES)):
        return f"Unknown: {', '.join(unknown)}. Of ScaiKey's own there are {', '.join(sorted(OUR_SCOPES))}."
    return None


def audiences_complaint(audiences: Sequence[str], *, first_party: bool) -> str | None:
    """What is wrong with the audiences a client may ask for, but for whether there are such APIs."""
    if len(audiences) > MOST_AUDIENCES:
        return f"At most {MOST_AUDIENCES}."
    if not all(_AUDIENCE.fullmatch(audience) for audience in audiences):
        return "An audience is 1 to 200 printable ASCII characters without blanks."
    if OUR_AUDIENCE in audiences and not first_party:
        return f"A third party's application gets no token for {OUR_AUDIENCE}."
    return None


def _check_grants(client: Mapping[str, Any], errors: Errors) -> None:
    grants = client["grant_types"]
    if unknown := sorted(set(grants) - set(GRANT_TYPES)):
        available = f"Available: {', '.join(GRANT_TYPES)}."
        raise NotAvailable(errors={"grant_types": [f"{unknown[0]} is not. {available}"]})
    if "refresh_token" in grants and "authorization_code" not in grants:
        errors["grant_types"] = ["refresh_token goes with authorization_code."]
    if "client_credentials" in grants and client["token_endpoint_auth_method"] == "none":
        errors["grant_types"] = ["A client that does not authenticate cannot have client_credentials."]


def _check_authentication(client: Mapping[str, Any], errors: Errors) -> None:
    method, keys, place = client["token_endpoint_auth_method"], client["jwks"], client["jwks_uri"]
    if client["type"] in _IN_THE_OPEN and method != "none":
        errors["token_endpoint_auth_method"] = ["Everybody has this application's code: it keeps no secret (none)."]
    elif client["type"] == "service" and method == "none":
        errors["token_endpoint_auth_method"] = ["A service authenticates."]
    if keys is not None and place is not None:
        errors["jwks_uri"] = ["Either jwks or jwks_uri."]
    elif method == "private_key_jwt" and keys is None and place is None:
        errors["jwks"] = ["private_key_jwt needs jwks or jwks_uri."]
    if keys is not None and (complaint := _keys_complaint(keys)):
        errors["jwks"] = [complaint]
    try:
        check_web_url("jwks_uri", place, loopback=place is not None and running.config().allow_http_loopback)
    except ValidationFailed as wrong:
        errors["jwks_uri"] = wrong.errors["jwks_uri"]


def _keys_complaint(jwks: Any) -> str | None:
    keys = jwks.get("keys") if isinstance(jwks, dict) else None
    if not isinstance(keys, list) or not 1 <= len(keys) <= MOST_KEYS or not all(isinstance(key, dict) for key in keys):
        return f"Must be a JWK set of 1 to {MOST_KEYS} keys."
    for key in keys:
        if _PRIVATE_PARTS & key.keys():
            return "Holds a private or symmetric key: register public keys only, and replace this one."
        if key.get("use", "sig") != "sig":
            return "Holds a key that is not for signatures."
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a weak key is refused below
                made = import_key(key)
        except (JoseError, ValueError, TypeError, KeyError):
            return "Holds a key that cannot be read."
        if isinstance(made, RSAKey):
            if made.raw_value.key_size < _LEAST_RSA_BITS:
                return f"Holds an RSA key of less than {_LEAST_RSA_BITS} bits."
        elif not isinstance(made, ECKey | OKPKey) or key.get("crv") not in _CURVES:
            return f"Keys are RSA, or of the curves {', '.join(sorted(_CURVES))}."
    named = [key["kid"] for key in keys if "kid" in key]
    if len(set(map(str, named))) != len(named):
        return "Two keys have one kid."
    return None


def _audience_complaint(audience: str | None) -> str | None:
    if audience is None:
        return None
    if not _AUDIENCE.fullmatch(audience):
        return "Is 1 to 200 printable ASCII characters without blanks."
    folded = audience.casefold()
    ours = folded == OUR_AUDIENCE or folded.startswith(OUR_NAMES)
    if ours or ("://" in folded and folded.startswith(running.config().base_url.casefold())):
        return "Is reserved."
    return None


def _uris_complaint(uris: Sequence[str], type: str) -> str | None:
    if len(uris) > MOST_URIS:
        return f"At most {MOST_URIS}."
    if len(set(uris)) != len(uris):
        return "One is there twice."
    return next((complaint for uri in uris if (complaint := _uri_complaint(uri, type))), None)


def _uri_complaint(uri: str, type: str) -> str | None:
    """What is wrong with a redirect URI; they are compared character by character, so nothing is normalised."""
    shown = uri[:80] if uri.isascii() and uri.isprintable() else "One"
    if not _URI.fullmatch(uri):
        return f"{shown}: an absolute URI without fragment, wildcard and blanks."
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError:
        return f"{shown}: not a URI."
    scheme = uri.partition(":")[0]
    if scheme not in ("https", "http"):
        if type == "native" and _PRIVATE_SCHEME.fullmatch(scheme) and len(uri) > len(scheme) + 1 and not parts.netloc:
            return None
        if type == "native":
            return f"{shown}: a scheme of its own is a reversed domain name, as in com.example.app:/back."
        return f"{shown}: must begin with https://."
    if not _is_host(parts.netloc):
        return f"{shown}: a host in small letters, digits and hyphens, or an IP address, and no user name."
    if "/../" in f"{parts.path}/" or "/./" in f"{parts.path}/":
        return f"{shown}: a path without dots."
    if scheme == "http" and not (
        parts.hostname in _LOOPBACK and (type == "native" or running.config().allow_http_loopback)
    ):
        return f"{shown}: must begin with https://."
    return None


def _is_host(netloc: str) -> bool:
    """Whether this is a host as browsers leave it, with or without a port: what they rewrite or refuse leads elsewhere
    or nowhere, and no page may name it."""
    match = _NETLOC.fullmatch(netloc)
    if match is None:
        return False
    v6, name = match[1], match[2]
    try:
        if v6 is not None:
            IPv6Address(v6)
            return True
        if name.rpartition(".")[2][0].isdigit():
            IPv4Address(name)
            return True
    except ValueError:
        return False
    return len(name) <= _LONGEST_HOST and all(map(_LABEL.fullmatch, name.split(".")))
