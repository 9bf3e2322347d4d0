"""Somebody else's identity providers: what their administrator does there, and how a person signs in at them."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.parties.visitor import Visitor
from tests.parties.walker import Walker

PASSWORD = "correct horse"


@dataclass(frozen=True)
class Issuer:
    """A running provider. Clients register themselves (RFC 7591) at `registration` below its URL."""

    url: str
    registration: str

    def register(self, *redirect_uris: str, **metadata: Any) -> dict[str, Any]:
        """A new client: `client_id`, `client_secret` …"""
        body = {
            "client_name": "A client",
            "redirect_uris": redirect_uris,
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            **metadata,
        }
        request = urllib.request.Request(
            self.url + self.registration, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            made: dict[str, Any] = json.load(answer)
        return made

    def sign_in(self, visitor: Visitor | Walker, name: str) -> None:
        """What a person does who was sent here."""
        raise NotImplementedError


@dataclass(frozen=True)
class NodeIssuer(Issuer):
    """node oidc-provider. Its people are in a file that it reads at each use."""

    people: Path

    def knows(self, name: str, /, **claims: Any) -> str:
        """Somebody with these claims may sign in there from now on; returns the name."""
        known = json.loads(self.people.read_text())
        known[name] = {"password": PASSWORD, "claims": claims}
        self.people.write_text(json.dumps(known))
        return name

    def sign_in(self, visitor: Visitor | Walker, name: str) -> None:
        visitor.asks("login")
        visitor.submit(login=name, password=PASSWORD)


@dataclass(frozen=True)
class CanailleIssuer(Issuer):
    """canaille, which asks for the name and the password on two pages."""

    def sign_in(self, visitor: Visitor | Walker, name: str) -> None:
        visitor.asks("login")
        visitor.submit(login=name)
        visitor.asks("password")
        visitor.submit(password=PASSWORD)


CANAILLE_PEOPLE = {
    "zoe": {
        "password": PASSWORD,
        "attributes": {
            "given_name": "Zoë",
            "family_name": "Ng",
            "formatted_name": "Zoë Ng",
            "display_name": "zoe",
            "emails": ["zoe@acme.example"],
        },
    }
}
