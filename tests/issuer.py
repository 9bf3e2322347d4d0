"""An OpenID provider that keeps the rules, and breaks exactly the one a test tells it to.

Strict about what it is sent (client, redirect URI, PKCE, each code once), so that a connector which leaves something
out fails here; `claims`, `header`, `reply`, `token`, `answers` and `said` are where faults go in.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OKPKey, RSAKey

from connectors.port import Reply

CLIENT, SECRET = "our client", "a secret: with ü and %"
Answer = tuple[int, Mapping[str, str], bytes]


@cache
def rsa_key(name: str) -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": name, "use": "sig"})


@cache
def ec_key(name: str, curve: str = "P-256") -> ECKey:
    return ECKey.generate_key(curve, {"kid": name})  # type: ignore[arg-type]


@cache
def ed_key(name: str) -> OKPKey:
    return OKPKey.generate_key("Ed25519", {"kid": name})


def half_hash(text: str, digest: str = "sha256") -> str:
    whole = hashlib.new(digest, text.encode()).digest()
    return base64.urlsafe_b64encode(whole[: len(whole) // 2]).rstrip(b"=").decode()


def encoded(value: Any) -> str:
    """A part of a JWT, made by hand."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Issuer:
    """One provider on loopback. What is None or empty here follows the rules."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}/realms/acme"
        self.key: RSAKey | ECKey | OKPKey = rsa_key("first")
        self.algorithm = "RS256"
        self.published: list[Any] = [rsa_key("first"), ec_key("second")]
        self.person: dict[str, Any] = {"sub": "alice"}
        self.userinfo: dict[str, Any] | None = None
        self.said: dict[str, Any] = {}
        """Changes to the discovery document; None takes a member out."""
        self.claims: dict[str, Any] = {}
        """Changes to the ID token; None takes a claim out."""
        self.header: dict[str, Any] = {}
        self.reply: dict[str, Any] = {}
        """Changes to the authorization response; a list repeats a parameter, None takes it out."""
        self.token: dict[str, Any] = {}
        """Changes to the token response."""
        self.forge: Callable[[dict[str, Any], dict[str, Any]], str] | None = None
        self.answers: dict[str, Answer | Callable[[], Answer]] = {}
        """Whole answers by the last part of the path: `jwks`, `token`, `openid-configuration` …"""
        self.client_keys: KeySet | None = None
        self.asked: list[str] = []
        self.posted: list[dict[str, str]] = []
        self.granted: list[str] = []
        """Access tokens given for client credentials."""
        self._codes: dict[str, dict[str, str]] = {}
        self._access: dict[str, dict[str, Any]] = {}

    def metadata(self) -> dict[str, Any]:
        document = {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize?tenant=acme",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/jwks",
            "userinfo_endpoint": f"{self.url}/userinfo" if self.userinfo is not None else None,
            "end_session_endpoint": f"{self.url}/logout",
            "response_types_supported": ["code"],
            "response_modes_supported": ["query", "form_post"],
            "code_challenge_methods_supported": ["S256"],
            "id_token_signing_alg_values_supported": [self.algorithm],
            "authorization_response_iss_parameter_supported": True,
        }
        return _changed(document, self.said)

    def authorize(self, asked: Mapping[str, str]) -> list[tuple[str, str]]:
        """The parameters of the answer to an authorization request."""
        assert asked["client_id"] == CLIENT
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        assert "openid" in asked["scope"].split()
        code = secrets.token_urlsafe(24)
        self._codes[code] = dict(asked)
        answer = _changed({"code": code, "state": asked["state"], "iss": self.url}, self.reply)
        return [(name, one) for name, said in answer.items() for one in (said if isinstance(said, list) else [said])]

    def redeem(self, form: Mapping[str, str], authorization: str | None) -> Answer:
        asked = self._codes.pop(form.get("code", ""), None)
        if not self._is_client(form, authorization):
            return _json(401, {"error": "invalid_client", "error_description": "who are you?"})
        if form.get("grant_type") == "client_credentials":
            self.granted.append(secrets.token_urlsafe(24))
            answer = {"access_token": self.granted[-1], "token_type": "Bearer", "expires_in": 3_600}
            return _json(200, _changed(answer, self.token))
        challenge = encoded(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if (
            asked is None
            or form.get("grant_type") != "authorization_code"
            or asked["redirect_uri"] != form.get("redirect_uri")
            or not hmac.compare_digest(asked["code_challenge"], challenge)
        ):
            return _json(400, {"error": "invalid_grant", "error_description": f"no code {form.get('code')}"})
        access = secrets.token_urlsafe(24)
        self._access[access] = self.person
        answer = {
            "access_token": access,
            "token_type": "Bearer",
            "expires_in": 60,
            "id_token": self.id_token(asked, access),
        }
        return _json(200, _changed(answer, self.token))

    def id_token(self, asked: Mapping[str, str], access: str) -> str:
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": CLIENT,
            "exp": now + 300,
            "iat": now,
            "nonce": asked["nonce"],
            "at_hash": half_hash(access, "sha512" if self.algorithm.startswith("Ed") else f"sha{self.algorithm[2:]}"),
            **({"auth_time": now} if "max_age" in asked else {}),
            **self.person,
        }
        claims = _changed(claims, self.claims)
        header = _changed({"alg": self.algorithm, "kid": self.key.kid}, self.header)
        if self.forge is not None:
            return self.forge(header, claims)
        return jwt.encode(header, claims, self.key, algorithms=[self.algorithm], default_type=None)

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        last = path.partition("?")[0].rsplit("/", 1)[-1]
        self.asked.append(last)
        if (prepared := self.answers.get(last)) is not None:
            return prepared() if callable(prepared) else prepared
        if last == "openid-configuration":
            return _json(200, self.metadata())
        if last == "jwks":
            keys = [key if isinstance(key, dict) else key.as_dict(private=False) for key in self.published]
            return _json(200, {"keys": keys})
        if last == "authorize":
            asked = {name: values[0] for name, values in parse_qs(urlsplit(path).query).items()}
            assert asked["tenant"] == "acme"
            return 303, {"Location": f"{asked['redirect_uri']}?{urlencode(self.authorize(asked))}"}, b""
        if last == "token" and method == "POST":
            form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
            self.posted.append(form)
            return self.redeem(form, headers.get("Authorization"))
        if last == "userinfo":
            known = self._access.get(headers.get("Authorization", "").removeprefix("Bearer "))
            return _json(401, {}) if known is None else _json(200, {"sub": known["sub"], **(self.userinfo or {})})
        return _json(404, {})

    def _is_client(self, form: Mapping[str, str], authorization: str | None) -> bool:
        if authorization is not None:
            name, _, secret = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
            return (unquote_plus(name), unquote_plus(secret)) == (CLIENT, SECRET)
        if "client_assertion" in form:
            assert self.client_keys is not None
            token = jwt.decode(form["client_assertion"], self.client_keys, algorithms=["RS256", "ES256"])
            said = token.claims
            assert said["exp"] - said["iat"] <= 300
            return said["iss"] == said["sub"] == form["client_id"] == CLIENT and said["aud"] == self.url
        return (form.get("client_id"), form.get("client_secret")) == (CLIENT, SECRET)


@contextmanager
def running() -> Iterator[Issuer]:
    """A provider that answers on loopback until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, text = issuer.answer(self.command, self.path, dict(self.headers.items()), body)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(text)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """A client that went away is part of the tests."""

    server = Server(("127.0.0.1", 0), Handler)
    issuer = Issuer(server.server_port)
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def visit(url: str) -> Reply:
    """What a browser brings back that is sent there and knows the person already."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.netloc, timeout=10)
    try:
        connection.request("GET", f"{parts.path}?{parts.query}")
        answer = connection.getresponse()
        answer.read()
        location = urlsplit(answer.headers["Location"])
    finally:
        connection.close()
    return Reply("GET", parse_qs(location.query, keep_blank_values=True), location.query.encode())


def _changed(values: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**values, **changes}.items() if value is not None}


def _json(status: int, value: Any) -> Answer:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()
