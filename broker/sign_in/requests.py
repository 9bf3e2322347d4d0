"""What an application asked for, checked, as it is kept until its person has signed in.

Owns `AuthRequest`, its stored form, and its sealed form, in which it waits at the platform's sign-in page before any
tenant is known. Checking it against the client was done by who made it.
"""

from __future__ import annotations

import base64
import binascii
import time
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import orjson

from broker import running
from broker.vault import VaultError

IssuerKind = Literal["tenant", "platform"]

LIFE = 15 * 60
"""Seconds from the request until it is too late to answer it."""

_PLACE = {"table": "sign_in", "column": "request", "tenant": "", "row": "platform"}


@dataclass(frozen=True, slots=True)
class AuthRequest:
    """One checked authorization request. `scopes` and `audience` are what will be granted."""

    issuer: IssuerKind
    application_id: str
    client_id: str
    client_name: str
    redirect_uri: str
    scopes: tuple[str, ...]
    audience: str
    code_challenge: str
    state: str | None = None
    nonce: str | None = None
    response_mode: str = "query"
    prompt: frozenset[str] = frozenset()
    max_age: int | None = None
    login_hint: str | None = None
    third_party: bool = False
    provider: str | None = None
    """The id of the upstream to go to, where the application knows it."""
    person: str | None = None
    """The id of the one person who will do, where the application knows it."""

    def stored(self) -> dict[str, Any]:
        return {**asdict(self), "scopes": list(self.scopes), "prompt": sorted(self.prompt)}

    @classmethod
    def of_stored(cls, kept: dict[str, Any]) -> AuthRequest:
        known = {field.name for field in fields(cls)}
        values = {name: value for name, value in kept.items() if name in known}
        values["scopes"] = tuple(values["scopes"])
        values["prompt"] = frozenset(values["prompt"])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Asked:
    """At the platform's page: what is asked for, and the organisation or address that was typed, once it was."""

    request: AuthRequest | None
    identifier: str | None = None


def seal(asked: Asked) -> str:
    kept = {
        "request": asked.request and asked.request.stored(),
        "identifier": asked.identifier,
        "until": time.time() + LIFE,
    }
    return base64.urlsafe_b64encode(running.vault().seal(orjson.dumps(kept), **_PLACE)).decode().rstrip("=")


def unseal(text: str) -> Asked | None:
    """None for what is not ours, or too old."""
    try:
        kept = orjson.loads(running.vault().open(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), **_PLACE))
    except (VaultError, binascii.Error, ValueError):
        return None
    if kept["until"] < time.time():
        return None
    return Asked(kept["request"] and AuthRequest.of_stored(kept["request"]), kept["identifier"])


def sign_in_page(request: AuthRequest | None) -> str:
    """Where somebody says which organisation is his: the platform's sign-in page for this request."""
    base = f"{running.config().base_url}/sign-in"
    return f"{base}?request={seal(Asked(request))}" if request else base
