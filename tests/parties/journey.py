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

EVERYTHING = "openid profile email offline_access"
GO_ON = 'main [type="submit"]:not([name="provider"])'


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

    def exchange(self, visitor: Visitor, **said: Any) -> dict[str, Any]:
        """The tokens for the code that the browser comes back with."""
        answer = visitor.arrive(self.applications.callback)
        tokens: dict[str, Any] = self.ask("exchange", url=answer, **said)
        return tokens

    def verify(self, token: str, audience: str | None = None) -> dict[str, Any]:
        """The claims of an access token, verified by jose."""
        found = self.ask("verify", token=token, audience=audience or self.application["client_id"], typ="at+jwt")
        claims: dict[str, Any] = found["claims"]
        return claims


def with_password(visitor: Visitor, name: str, password: str = PASSWORD) -> None:
    """On the sign-in page: the name, and the password when it is asked for, on this page or the next."""
    visitor.wait('[name="username"]')
    visitor.fill(username=name)
    if not visitor.has('[name="password"]'):
        visitor.click(GO_ON)
        visitor.wait('[name="password"]')
    visitor.fill(username=name, password=password)
    visitor.click(GO_ON)


def at_upstream(visitor: Visitor, issuer: Issuer, name: str, button: str = "Upstream") -> None:
    """By the button of the upstream, unless we are sent there without being asked, and there in its own way."""
    visitor.wait('[name="provider"], [name="login"]')
    if visitor.has('[name="provider"]'):
        visitor.click(f'[name="provider"]:has-text("{button}")')
    issuer.sign_in(visitor, name)


def verified(token: str, jwks_uri: str, typ: str = "at+jwt") -> dict[str, Any]:
    """The claims of a token, its signature verified by joserfc from what is published and nothing else."""
    with urllib.request.urlopen(jwks_uri, timeout=10) as answer:
        keys = KeySet.import_key_set(json.load(answer))
    read = jwt.decode(token, keys, algorithms=["RS256", "ES256"])
    assert read.header["typ"] == typ
    return read.claims
