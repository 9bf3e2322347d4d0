"""Tokens against node oidc-provider 9.13.3, and beside what signing itself costs.

Ours: granian as in the Procfile, PostgreSQL with durability and the walls on, nothing cached that could be revoked.
Theirs: one node process with its in-memory store, as its documentation starts it. `make parties` installs it.
Answers are checked before anything is timed; rounds of both sides alternate.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

from demo.asking import Door
from demo.browser import Browser

from . import ground
from .load import Connection, Server, free_port, process, rate

PARTIES = Path(__file__).resolve().parent.parent / ".parties"
ROUNDS, SECONDS, CONNECTIONS = 5, 2.0, 8
CALLBACK = "http://localhost:1/callback"
AIMS = {
    **{"client credentials RS256": "1x", "client credentials ES256": "1x", "introspection": "0.7x", "JWKS": "1.2x"},
    "RS256 beside sign-ins, of idle": "0.4",
}
VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
PASSWORD = "a long sentence nobody guesses"


@dataclass
class Side:
    """One server and how it is asked."""

    name: str
    server: Server
    machines: dict[str, dict[str, str]]
    """Algorithm to the form of a client credentials request."""
    token: str
    introspect: str
    jwks: str
    discovery: str
    authorize: str
    secrets: dict[str, str]
    """`client_id` and `client_secret` of the application people sign in to."""
    login: tuple[str, str]
    """Names of the fields of the sign-in page."""
    opaque: dict[str, str] = field(default_factory=dict)

    def form(self, path: str, values: dict[str, str]) -> bytes:
        body = urlencode(values).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost:{self.server.port}\r\nContent-Length: {len(body)}\r\n"
            "Content-Type: application/x-www-form-urlencoded\r\n\r\n"
        )
        return head.encode() + body

    def get(self, path: str) -> bytes:
        return f"GET {path} HTTP/1.1\r\nHost: localhost:{self.server.port}\r\n\r\n".encode()

    def ask(self, request: bytes) -> dict[str, object]:
        connection = Connection(self.server.port)
        try:
            status, body = connection.ask(request)
        finally:
            connection.close()
        assert status == 200, (self.name, status, body[:300])
        found: dict[str, object] = json.loads(body)
        return found

    def sign_in(self) -> None:
        """A whole sign-in in a fresh browser, to the tokens."""
        browser = Browser(stops_at=CALLBACK)
        asked = {"response_type": "code", "scope": "openid", "redirect_uri": CALLBACK, "state": "s", "nonce": "n"}
        challenge = {"code_challenge": CHALLENGE, "code_challenge_method": "S256"}
        query = urlencode({**asked, **challenge, "client_id": self.secrets["client_id"]})
        browser.open(f"http://localhost:{self.server.port}{self.authorize}?{query}")
        name, password = self.login
        browser.submit(**{name: "bench", password: PASSWORD})
        if not browser.url.startswith(CALLBACK):
            browser.press(browser.forms()[0].action)
        code = parse_qs(urlsplit(browser.url).query)["code"][0]
        sent = {"grant_type": "authorization_code", "code": code, "code_verifier": VERIFIER, "redirect_uri": CALLBACK}
        assert "id_token" in self.ask(self.form(self.token, {**sent, **self.secrets}))


def main(arguments: list[str]) -> None:
    seconds = float(next(iter(arguments), SECONDS))
    with ground.servers() as (_, folder), _ours(folder) as ours, _theirs() as theirs:
        sides = (ours, theirs)
        for side in sides:
            _check(side)
        results = _measure(sides, seconds)
    rows = []
    for name, found in results.items():
        mine, other = ground.median(found["ours"]), ground.median(found["theirs"])
        spread = (
            f"{min(found['ours']):,.2f}-{max(found['ours']):,.2f}"
            if mine < 10
            else (f"{min(found['ours']):,.0f}-{max(found['ours']):,.0f}")
        )
        shown = [f"{value:,.2f}" if value < 10 else f"{value:,.0f}" for value in (mine, other)]
        rows.append((name, shown[0], spread, shown[1], f"{mine / other:,.2f}x", AIMS.get(name, "")))
    ground.table(
        f"Tokens, per second (median of {ROUNDS} interleaved rounds of {seconds:g} s)",
        ("operation", "ours", "ours, range", "oidc-provider 9.13.3", "ratio", "aim"),
        rows,
    )
    ground.console.print(
        "Signing alone: the same claims signed by joserfc in two processes, with parsed keys, in both columns."
    )


def _measure(sides: tuple[Side, ...], seconds: float) -> dict[str, dict[str, list[float]]]:
    """Every round measures everything, each side in turn."""
    requests: dict[str, Callable[[Side], bytes]] = {
        "client credentials RS256": lambda side: side.form(side.token, side.machines["RS256"]),
        "client credentials ES256": lambda side: side.form(side.token, side.machines["ES256"]),
        "introspection": lambda side: side.form(side.introspect, side.opaque),
        "JWKS": lambda side: side.get(side.jwks),
        "discovery": lambda side: side.get(side.discovery),
    }
    results: dict[str, dict[str, list[float]]] = {}

    def note(name: str, side: Side, found: float) -> None:
        results.setdefault(name, {}).setdefault(side.name, []).append(found)

    for _ in range(ROUNDS):
        for name, make in requests.items():
            for side in sides:
                same = itertools.repeat(make(side))
                found = rate(side.server, same, expect=(200,), seconds=seconds, connections=CONNECTIONS)
                note(name, side, found)
        for algorithm in ("RS256", "ES256"):
            signed = _signing(algorithm, seconds)
            for side in sides:
                note(f"signing {algorithm} alone", side, signed)
        for side in sides:
            note("full sign-in", side, _sign_ins(side, seconds))
        for side in sides:
            idle, stormed, logins = _storm(side, seconds)
            note("RS256 beside sign-ins, of idle", side, stormed / idle)
            note("sign-ins meanwhile", side, logins)
    return results


def _sign_ins(side: Side, seconds: float, threads: int = 4) -> float:
    """Whole sign-ins a second, each in a browser of its own."""
    done, problems = [0] * threads, list[BaseException]()
    began = time.perf_counter()

    def work(number: int) -> None:
        try:
            while time.perf_counter() - began < seconds and not problems:
                side.sign_in()
                done[number] += 1
        except BaseException as error:
            problems.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if problems:
        raise problems[0]
    return sum(done) / (time.perf_counter() - began)


def _storm(side: Side, seconds: float) -> tuple[float, float, float]:
    """Token traffic alone, then beside people signing in; and how many of those."""
    request = side.form(side.token, side.machines["RS256"])

    def tokens() -> float:
        return rate(side.server, itertools.repeat(request), expect=(200,), seconds=2 * seconds, connections=CONNECTIONS)

    idle = tokens()
    logins: list[float] = []
    storm = threading.Thread(target=lambda: logins.append(_sign_ins(side, 2.5 * seconds)))
    storm.start()
    stormed = tokens()
    storm.join()
    return idle, stormed, logins[0]


def _check(side: Side) -> None:
    """That both do the same work: signed tokens of the right kind, an active introspection, keys, a sign-in."""
    keys = KeySet.import_key_set(side.ask(side.get(side.jwks)))  # type: ignore[arg-type]
    for algorithm, form in side.machines.items():
        token = str(side.ask(side.form(side.token, form))["access_token"])
        decoded = jwt.decode(token, keys, algorithms=[algorithm])
        assert decoded.header["alg"] == algorithm and decoded.claims["sub"] == form["client_id"], decoded
    assert side.ask(side.form(side.introspect, side.opaque))["active"] is True
    assert "token_endpoint" in side.ask(side.get(side.discovery))
    side.sign_in()


def _signing(algorithm: str, seconds: float) -> float:
    """Signatures a second over a token's claims by two processes, as many as serve ours."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        return sum(pool.map(_signed, [algorithm] * 2, [seconds] * 2))


def _signed(algorithm: str, seconds: float) -> float:
    claims = {"iss": "https://issuer.example/tenants/acme", "sub": "x" * 30, "aud": "https://api.example", "exp": 2**31}
    key = RSAKey.generate_key(2048) if algorithm == "RS256" else ECKey.generate_key("P-256")
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        jwt.encode({"alg": algorithm, "typ": "at+jwt", "kid": "k"}, claims, key)
        count += 1
    return count / (time.perf_counter() - began)


@contextmanager
def _ours(folder: Path) -> Iterator[Side]:
    port = free_port()
    base = f"http://localhost:{port}"
    environment = {
        **os.environ,
        "SCAIKEY_DATA_DIR": str(folder),
        "SCAIKEY_BASE_URL": base,
        "SCAIKEY_ALLOW_HTTP_LOOPBACK": "1",
        "SCAIKEY_LOG_LEVEL": "WARNING",
    }
    made = subprocess.run(
        [sys.executable, "-m", "broker.cli", "bootstrap", "--json"], env=environment, capture_output=True, check=True
    )
    command = ["granian", "--interface", "wsgi", "--workers", "2", "--blocking-threads", "12", "--no-ws"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warning", "wsgi:app"]
    server = Server("ours", port, "", "")
    with process(command, environment, server, "/healthz"):
        yield _registered(server, Door(f"{base}/api/v1", json.loads(made.stdout)["pat"]))


def _registered(server: Server, platform: Door) -> Side:
    partner = platform.post("/partners", {"name": "Bench", "slug": "bench-partner"})
    tenant = platform.post("/tenants", {"partner_id": partner["id"], "name": "Bench", "slug": "bench"})
    acme = Door(f"{platform.base_url}/t/{tenant['id']}", platform.token)
    issuer = "/api/v1/auth/tenants/bench"
    machines = {}
    for algorithm in ("RS256", "ES256"):
        audience = f"https://api.example/{algorithm}"
        wanted = {
            **{"name": algorithm, "type": "service", "grant_types": ["client_credentials"], "audience": audience},
            **{"scopes": ["api"], "access_token_signed_response_alg": algorithm},
            "token_endpoint_auth_method": "client_secret_post",
        }
        made = acme.post("/applications", wanted)
        client = {"client_id": made["client_id"], "client_secret": made["client_secret"]}
        machines[algorithm] = {"grant_type": "client_credentials", "scope": "api", **client}
    web = acme.post(
        "/applications",
        {
            **{"name": "web", "type": "web", "redirect_uris": [CALLBACK], "assignment_required": False},
            "token_endpoint_auth_method": "client_secret_post",
        },
    )
    scim = Door(
        f"{platform.base_url.removesuffix('/api/v1')}/scim/v2/bench", acme.post("/scim-tokens", {"name": "b"})["token"]
    )
    schema = "urn:ietf:params:scim:schemas:core:2.0:User"
    person = scim.post("/Users", {"schemas": [schema], "userName": "bench"})
    assert acme.ask("PUT", f"/users/{person['id']}/password", {"password": PASSWORD}).status in (200, 204)
    side = Side(
        "ours",
        server,
        machines,
        f"{issuer}/oauth/token",
        f"{issuer}/oauth/introspect",
        f"{issuer}/oauth/jwks",
        f"{issuer}/.well-known/openid-configuration",
        f"{issuer}/oauth/authorize",
        {"client_id": web["client_id"], "client_secret": web["client_secret"]},
        ("username", "password"),
    )
    return _with_token(side)


@contextmanager
def _theirs() -> Iterator[Side]:
    if not (PARTIES / "node_modules" / "oidc-provider").is_dir() or shutil.which("node") is None:
        raise SystemExit("The peer is not here: run `make parties` (it needs node and npm)")
    port, secret = free_port(), secrets.token_urlsafe(24)
    peer = Path(__file__).with_name("peer_issuer.mjs")
    command = ["node", str(peer), str(port), str(PARTIES)]
    server = Server("theirs", port, "", "")
    machine = {"client_id": "machine", "client_secret": secret, "grant_type": "client_credentials", "scope": "api"}
    machines = {name: {**machine, "resource": f"https://api.example/{name[:2].lower()}"} for name in ("RS256", "ES256")}
    with process(command, {**os.environ, "PEER_SECRET": secret, "NODE_ENV": "production"}, server, "/jwks"):
        side = Side(
            "theirs",
            server,
            machines,
            "/token",
            "/token/introspection",
            "/jwks",
            "/.well-known/openid-configuration",
            "/auth",
            {"client_id": "web", "client_secret": secret},
            ("login", "password"),
        )
        yield _with_token(side, lasting={name: machine[name] for name in machine if name != "scope"})


def _with_token(side: Side, lasting: dict[str, str] | None = None) -> Side:
    """Introspection needs a token: ours a JWT; theirs an opaque one, for it does not introspect JWTs."""
    form = lasting or side.machines["RS256"]
    token = str(side.ask(side.form(side.token, form))["access_token"])
    client = {name: form[name] for name in ("client_id", "client_secret")}
    side.opaque = {"token": token, **client}
    return side
