"""The SCIM servers that are compared, each as it is meant to be served, and the limit of ours: its WSGI server alone.

Ours: granian as in the Procfile, PostgreSQL with durability and the walls on. scim2-server: its own in-memory store
under gunicorn (one process, four threads; more processes would not share it). scimmy: behind scimmy-routers on Node, in
memory.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker import credentials
from broker.context import Scope, acting, system
from broker.db import unit
from tests.parties.party import HERE, INSTALLED

from .load import Server, free_port, process

_GRANIAN = ("granian", "--interface", "wsgi", "--workers", "2", "--blocking-threads", "12", "--no-ws")


@contextmanager
def ours(folder: Path, *scopes: Scope) -> Iterator[list[Server]]:
    """One installation; a server for each of the tenants."""
    port = free_port()
    environment = {
        **os.environ,
        "SCAIKEY_DATA_DIR": str(folder),
        "SCAIKEY_BASE_URL": f"http://localhost:{port}",
        "SCAIKEY_ALLOW_HTTP_LOOPBACK": "1",
        "SCAIKEY_LOG_LEVEL": "WARNING",
    }
    servers = []
    for scope in scopes:
        with unit(scope), acting(system("bench")):
            _, secret = credentials.mint_scim_token({"name": "bench"})
        servers.append(Server("ours", port, f"/scim/v2/{scope.slug}", secret))
    with process(_granian(port, "wsgi:app"), environment, servers[0], "/ServiceProviderConfig"):
        yield servers


@contextmanager
def limit() -> Iterator[Server]:
    server = Server("limit", free_port(), "", "")
    with process(_granian(server.port, "bench.hello:app"), dict(os.environ), server, "/"):
        yield server


def _granian(port: int, target: str) -> list[str]:
    return [*_GRANIAN, "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning", target]


@contextmanager
def scim2_server() -> Iterator[Server]:
    port, token = free_port(), secrets.token_urlsafe(16)
    command = ["gunicorn", "--worker-class", "gthread", "--workers", "1", "--threads", "4", "--keep-alive", "75"]
    command += ["--bind", f"127.0.0.1:{port}", "--timeout", "300", "--log-level", "warning", "bench.peer:app"]
    server = Server("scim2-server", port, "/v2", token)
    with process(command, {**os.environ, "PEER_TOKEN": token}, server, "/ServiceProviderConfig"):
        yield server


@contextmanager
def scimmy() -> Iterator[Server]:
    if not (INSTALLED / ".ready").exists():
        raise SystemExit("scimmy is missing: install nodejs, npm and chromium, then `make parties`")
    port, token = free_port(), secrets.token_urlsafe(16)
    command = ["node", str(HERE / "scimmy_receiver.mjs"), json.dumps({"token": token, "port": port})]
    server = Server("scimmy", port, "/bench/v2", token)
    with process(command, dict(os.environ), server, "/ServiceProviderConfig"):
        yield server
