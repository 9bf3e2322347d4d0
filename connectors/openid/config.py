"""What an administrator tells us about an OpenID provider, and what of it can be seen to be wrong at once.

Owns the settings, their texts, and the form of a URL that an upstream may have. Nothing here asks anybody.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from connectors.port import Misconfigured, setting

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
"""Signatures by a key that only the upstream has. Never `none`, never one with a shared secret."""

AUTH_METHODS = ("client_secret_basic", "client_secret_post", "private_key_jwt", "none")

_OUR_PARAMETERS = """
    client_id client_secret code_challenge code_challenge_method id_token_hint login_hint max_age nonce prompt
    redirect_uri registration request request_uri response_mode response_type scope state
"""
_OURS = frozenset(_OUR_PARAMETERS.split())
_NAMES = "email emails preferred_username upn unique_name name nickname phone_number login"
_REASSIGNED = frozenset(_NAMES.split())


@dataclass(frozen=True, slots=True)
class Config:
    issuer: str = setting(
        "The provider's issuer, exactly as it writes it, such as `https://login.example.com/realms/acme`. Everything "
        "else is read from `/.well-known/openid-configuration` below it.",
        confides=True,
    )
    client_id: str = setting("The name under which the provider knows us.")
    token_endpoint_auth_method: str = setting(
        "How we prove to the provider that we are this client.", default="client_secret_basic", choices=AUTH_METHODS
    )
    client_secret: str = setting("The secret, for the two `client_secret` methods.", secret=True, default="")
    private_key: str = setting(
        "The private key for `private_key_jwt`: RSA or EC, as PEM or JWK. The provider is given its public half.",
        secret=True,
        default="",
    )
    assertion_audience: str = setting(
        "Whom a `private_key_jwt` is addressed to: the issuer, as is asked of clients today, or the token endpoint, "
        "for providers that still want that.",
        default="issuer",
        choices=("issuer", "token_endpoint"),
    )
    scopes: list[str] = setting(  # noqa: RUF009 (a field, not a shared list)
        "The scopes we ask for; `openid` among them.", default=["openid", "profile", "email"]
    )
    algorithms: list[str] = setting(  # noqa: RUF009
        "The signature algorithms an ID token may have.",
        default=["RS256", "PS256", "ES256", "ES384", "EdDSA", "Ed25519"],
        choices=ALGORITHMS,
    )
    response_mode: str = setting(
        "How the provider hands the code back: in the URL, or in a form.",
        default="query",
        choices=("query", "form_post"),
    )
    prompt: str = setting(
        "What the provider asks of people whenever nothing else is wanted.",
        default="",
        choices=("", "login", "select_account", "consent"),
    )
    parameters: dict[str, str] = setting(  # noqa: RUF009
        "Further parameters of the authorization request, such as `acr_values` or a provider's own.", default={}
    )
    userinfo: bool = setting("Whether the userinfo endpoint is asked for further claims.", default=True)
    groups_claim: str = setting(
        "The claim that names the person's groups, such as `groups` or `realm_access.roles`. Empty: none are read.",
        default="",
    )
    key_claim: str = setting(
        "The claim of the ID token by which a person is known again. It never changes and is never given to "
        "somebody else.",
        default="sub",
    )
    ca: str = setting("Certificate authorities of the provider's own, as PEM, beside the public ones.", default="")

    def __post_init__(self) -> None:
        wrong = dict(self._wrong())
        if wrong:
            raise Misconfigured("; ".join(f"{name}: {text}" for name, text in wrong.items()), wrong)

    def _wrong(self) -> Iterator[tuple[str, str]]:
        flaw = url_flaw(self.issuer, http=True)
        if flaw or "?" in self.issuer:
            yield "issuer", flaw or "Has no query."
        if not self.client_id or not self.client_id.isprintable():
            yield "client_id", "Is required."
        if self.token_endpoint_auth_method.startswith("client_secret") and not self.client_secret:
            yield "client_secret", f"Is required for {self.token_endpoint_auth_method}."
        if self.token_endpoint_auth_method == "private_key_jwt":
            from connectors.openid.client import key_flaw

            if flaw := key_flaw(self.private_key):
                yield "private_key", flaw
        if "openid" not in self.scopes:
            yield "scopes", "Has to name openid."
        elif not all(_is_scope(scope) for scope in self.scopes):
            yield "scopes", "A scope has no blanks, quotation marks or backslashes."
        if not self.algorithms:
            yield "algorithms", "Has to name one at least."
        if ours := sorted(_OURS & {name.lower() for name in self.parameters}):
            yield "parameters", f"Is ours to set: {', '.join(ours)}."
        if not self.key_claim:
            yield "key_claim", "Is required."
        elif self.key_claim.lower() in _REASSIGNED:
            yield "key_claim", "Is a name or an address, which may be given to somebody else."
        if self.ca and not _is_pem(self.ca):
            yield "ca", "Has to be certificates as PEM."


def url_flaw(url: str, *, http: bool) -> str:
    """What keeps this from being a URL of an upstream; with `http`, this machine may be without TLS."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return "Is no URL."
    if not host or not url.isascii() or not url.isprintable() or set(url) & set(' "<>\\^`{|}'):
        return "Is no URL."
    if "@" in parts.netloc:
        return "Has no user name."
    if "#" in url:
        return "Has no fragment."
    if parts.scheme == "https" or (parts.scheme == "http" and http and _is_loopback(host)):
        return ""
    return "Has to begin with https://."


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_scope(scope: str) -> bool:
    return bool(scope) and scope.isascii() and scope.isprintable() and not set(scope) & set(' "\\')


def _is_pem(text: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):
        return False
    return True
