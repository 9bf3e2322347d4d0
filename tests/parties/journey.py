"""What a person and an application do together: the steps that every journey is made of."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass
from typing import Any

from joserfc import jwt
from joserfc.jwk import KeySet

from tests.parties.house import PASSWORD
from tests.parties.issuers import Issuer
from tests.parties.landing import Landing
from tests.parties.party import Party
from tests.parties.visitor import Visitor
from tests.parties.walker import Walker

Person = Visitor | Walker

EVERYTHING = "openid profile email offline_access"


@dataclass
class Client:
    """An application written with openid-client, for one issuer."""

    party: Party
    application: dict[str, Any]
    issuer: str
    applications: Landing
    jwk: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        known = self.party.ask(
            "discover",
            issuer=self.issuer,
            client_id=self.application["client_id"],
            secret=self.application.get("client_secret"),
            method=self.application["token_endpoint_auth_method"],
            jwk=self.jwk,
        )
        self.number: int = known["number"]
        self.metadata: dict[str, Any] = known["metadata"]

    def ask(self, deed: str, **said: Any) -> Any:
        return self.party.ask(deed, number=self.number, **said)

    def authorize(self, scope: str = EVERYTHING, **extra: str) -> str:
        """Where the browser goes to sign in."""
        return str(self.ask("authorize", redirect_uri=self.applications.callback, scope=scope, extra=extra))

    def exchange(self, visitor: Person, **said: Any) -> dict[str, Any]:
        """The tokens for the code that the browser comes back with."""
        answer = visitor.arrive(self.applications.callback)
        tokens: dict[str, Any] = self.ask("exchange", url=answer, **said)
        return tokens

    def verify(self, token: str, audience: str | None = None) -> dict[str, Any]:
        """The claims of an access token, verified by jose."""
        found = self.ask("verify", token=token, audience=audience or self.application["client_id"], typ="at+jwt")
        claims: dict[str, Any] = found["claims"]
        return claims


def with_password(visitor: Person, name: str, password: str = PASSWORD) -> None:
    """On the sign-in page: the name, and the password when it is asked for, on this page or the next."""
    visitor.asks("username")
    if not visitor.has("password"):
        visitor.submit(username=name)
        visitor.asks("password")
    visitor.submit(username=name, password=password)


def at_upstream(visitor: Person, issuer: Issuer, name: str, button: str = "") -> None:
    """By the button of the upstream, unless we are sent there without being asked, and there in its own way."""
    if visitor.asks("provider", "login") == "provider":
        visitor.choose("provider", button)
    issuer.sign_in(visitor, name)


def sign_out(visitor: Person, url: str, back_at: str) -> str:
    """Log out there, saying yes when asked; returns the address one comes back to."""
    visitor.goto(url)
    if not visitor.url.startswith(back_at):
        visitor.submit()
    return visitor.arrive(back_at)


def verified(token: str, jwks_uri: str, typ: str = "at+jwt") -> dict[str, Any]:
    """The claims of a token, its signature verified by joserfc from what is published and nothing else."""
    with urllib.request.urlopen(jwks_uri, timeout=10) as answer:
        keys = KeySet.import_key_set(json.load(answer))
    read = jwt.decode(token, keys, algorithms=["RS256", "ES256"])
    assert read.header["typ"] == typ
    return read.claims
