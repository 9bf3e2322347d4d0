"""`python -m demo.application`: the demo's application, an ordinary OpenID Connect client.

It knows the issuer's URL, its own client id and secret, and nothing else of ScaiKey. It signs people in by the
authorization code with PKCE, verifies what it gets against the published keys with joserfc, and shows who is there:
as a page to people, as JSON to who asks for it. One person at a time, for it is a demo.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import secrets
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

Json = dict[str, Any]
AUDIENCE = "https://intranet.acme.test"


class Failed(Exception):
    """The sign-in did not work; the text says why."""


@dataclass
class Client:
    """What the application has been told, and who is signed in."""

    issuer: str
    client_id: str
    client_secret: str
    base_url: str
    pending: dict[str, tuple[str, str]] = field(default_factory=dict)
    """`state` to the PKCE verifier and the nonce."""
    tokens: Json = field(default_factory=dict)
    access: Json = field(default_factory=dict)
    identity: Json = field(default_factory=dict)
    problem: str = ""

    @property
    def redirect_uri(self) -> str:
        return f"{self.base_url}/callback"

    def depart(self) -> str:
        """Where to send the browser."""
        state, verifier, nonce = (secrets.token_urlsafe(32) for _ in range(3))
        self.pending[state] = (verifier, nonce)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": self.redirect_uri,
            "scope": "openid profile email offline_access",
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return f"{self.metadata()['authorization_endpoint']}?{urlencode(asked)}"

    def arrive(self, reply: dict[str, str]) -> None:
        """The browser is back. Raises Failed."""
        if reply.get("state") not in self.pending:
            raise Failed("an answer nobody asked for")
        verifier, nonce = self.pending.pop(reply["state"])
        if reply.get("iss") != self.issuer:
            raise Failed(f"an answer of another issuer: {reply.get('iss')}")
        if "error" in reply:
            raise Failed(f"{reply['error']}: {reply.get('error_description', '')}")
        code = {"grant_type": "authorization_code", "code": reply["code"], "code_verifier": verifier}
        self.take(self.ask_token({**code, "redirect_uri": self.redirect_uri}), nonce)

    def refresh(self) -> None:
        """Raises Failed."""
        self.take(self.ask_token({"grant_type": "refresh_token", "refresh_token": self.tokens["refresh_token"]}), None)

    def take(self, tokens: Json, nonce: str | None) -> None:
        """Believe nothing that is not signed by the issuer, for us, now."""
        self.access = self.verified(tokens["access_token"], "at+jwt", AUDIENCE)
        if nonce is not None:
            self.identity = self.verified(tokens["id_token"], "JWT", self.client_id)
            if self.identity.get("nonce") != nonce:
                raise Failed("an ID token of another sign-in")
        self.tokens = tokens

    def verified(self, token: str, kind: str, audience: str) -> Json:
        keys = KeySet.import_key_set(self.fetch(self.metadata()["jwks_uri"]))  # type: ignore[arg-type]
        try:
            decoded = jwt.decode(token, keys, algorithms=["RS256", "ES256"])
            rules = {
                name: {"essential": True, "value": value} for name, value in (("iss", self.issuer), ("aud", audience))
            }
            jwt.JWTClaimsRegistry(exp={"essential": True}, **rules).validate(decoded.claims)  # type: ignore[arg-type]
        except (JoseError, ValueError) as error:
            raise Failed(f"a token that is not valid: {error}") from None
        if decoded.header.get("typ") != kind:
            raise Failed(f"a token of type {decoded.header.get('typ')}")
        return dict(decoded.claims)

    def metadata(self) -> Json:
        return self.fetch(f"{self.issuer}/.well-known/openid-configuration")

    def fetch(self, url: str) -> Json:
        with urllib.request.urlopen(url, timeout=30) as response:  # noqa: S310 - the issuer's own addresses
            found: Json = json.load(response)
        return found

    def ask_token(self, fields: dict[str, str]) -> Json:
        basic = base64.b64encode(f"{self.client_id}:{self.client_secret}".encode()).decode()
        request = urllib.request.Request(  # noqa: S310
            self.metadata()["token_endpoint"], urlencode(fields).encode(), {"Authorization": f"Basic {basic}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
                found: Json = json.load(response)
        except urllib.error.HTTPError as error:
            said = json.load(error)
            raise Failed(f"{said.get('error')}: {said.get('error_description', '')}") from None
        return found


class Pages(BaseHTTPRequestHandler):
    client: Client

    def do_GET(self) -> None:
        place = urlsplit(self.path)
        if place.path == "/sign-in":
            self._answer(303, location=self.client.depart())
        elif place.path == "/callback":
            reply = {name: values[0] for name, values in parse_qs(place.query).items()}
            self._try(lambda: self.client.arrive(reply))
        elif place.path == "/who":
            about = {"access": self.client.access, "identity": self.client.identity, "problem": self.client.problem}
            self._answer(200, json.dumps(about), "application/json")
        else:
            self._answer(200, self._page(), "text/html; charset=utf-8")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/refresh" and self.client.tokens:
            self._try(self.client.refresh)
        else:
            self._answer(303, location="/")

    def _try(self, deed: Any) -> None:
        self.client.problem = ""
        try:
            deed()
        except (Failed, OSError, KeyError) as error:
            self.client.problem = str(error) or type(error).__name__
        self._answer(303, location="/")

    def _page(self) -> str:
        client, who = self.client, self.client.access
        lines = ["<!doctype html><html lang=en><meta charset=utf-8><title>Intranet</title><h1>acme's intranet</h1>"]
        if client.problem:
            lines.append(f"<p><strong>{escape(client.problem)}</strong></p>")
        if who:
            lines.append(f"<p>{escape(str(who.get('name')))} &lt;{escape(str(who.get('preferred_username')))}&gt;</p>")
            for title in ("roles", "groups"):
                lines.append(f"<p>{title}: {escape(', '.join(who.get(title, [])))}</p>")
            left = int(who["exp"] - time.time())
            lines.append(
                f"<p>The token holds for {left} s.</p><form method=post action=/refresh><button>Renew</button></form>"
            )
        lines.append('<p><a href="/sign-in">Sign in with ScaiKey</a></p></html>')
        return "\n".join(lines)

    def _answer(self, status: int, text: str = "", kind: str = "text/plain", location: str | None = None) -> None:
        body = text.encode()
        self.send_response(status)
        if location is not None:
            self.send_header("Location", location)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--issuer", required=True)
    parser.add_argument("--client-id", required=True)
    given = parser.parse_args()
    base_url = f"http://localhost:{given.port}"
    Pages.client = Client(given.issuer, given.client_id, os.environ["DEMO_CLIENT_SECRET"], base_url)
    ThreadingHTTPServer(("127.0.0.1", given.port), Pages).serve_forever()


if __name__ == "__main__":
    main()
