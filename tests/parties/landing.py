"""Where applications of the tests are sent back to: a page for every address, and the one of a browser application."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from tests.parties.party import HERE

_SCRIPT = HERE / "node_modules/oidc-client-ts/dist/browser/oidc-client-ts.min.js"
_PAGE = b'<!doctype html><html lang="en"><title>Landed</title><link rel="icon" href="data:,"><h1>Landed</h1></html>'


@dataclass
class Landing:
    """`http://127.0.0.1:…`; `posted` are the forms that were sent there."""

    base_url: str
    posted: list[dict[str, str]] = field(default_factory=list)

    @property
    def callback(self) -> str:
        return f"{self.base_url}/callback"

    @property
    def farewell(self) -> str:
        return f"{self.base_url}/farewell"

    @property
    def spa(self) -> str:
        return f"{self.base_url}/spa/"


@contextmanager
def landing() -> Iterator[Landing]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            match urlsplit(self.path).path:
                case "/spa/":
                    self.say((HERE / "spa.html").read_bytes(), "text/html; charset=utf-8")
                case "/spa/oidc-client-ts.js":
                    self.say(_SCRIPT.read_bytes(), "text/javascript")
                case _:
                    self.say(_PAGE, "text/html; charset=utf-8")

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            place.posted.append({name: values[0] for name, values in form.items()})
            self.say(_PAGE, "text/html; charset=utf-8")

        def say(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    place = Landing(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield place
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
