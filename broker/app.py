"""Assembly: `create_app` makes one Flask app of every room, or refuses to.

The only file that knows them all. It connects the database, checks that the wall between tenants stands, opens
the doors, and gives every answer its request id and its headers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from flask import Flask, Response, request
from werkzeug.exceptions import MethodNotAllowed
from werkzeug.sansio.utils import host_is_trusted

from broker import bell, config, db, doors, embedded, health, logs, running
from broker.config import Config, is_loopback
from broker.context import ANONYMOUS, acting, request_id_from
from broker.doors import Door
from broker.embedded import Services
from broker.errors import BadRequest, Problem
from oidc import keys
from scim import push  # noqa: F401 - push subscribes to the outbox

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger("scaikey.app")

Role = Literal["web", "worker"]

_TIMEOUTS = {"web": 5_000, "worker": 120_000}
_PROBES = frozenset({"healthz", "readyz", "metrics"})
_TEMPLATES = Path(__file__).resolve().parent.parent / "templates"
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Cache-Control": "no-store",
}


class StartRefused(Exception):
    """The app will not start like this; the text is one line for the operator."""


def create_app(config: Config | None = None, *, role: Role = "web") -> Flask:
    """The app of one process. Raises ConfigError, ServicesFailed, StartRefused."""
    app = Flask("scaikey", static_folder=None, template_folder=str(_TEMPLATES))
    _connect(app, config or load_config(), role)
    bell.listen(app)
    with app.app_context():
        _refuse_a_broken_wall()
        if role == "web":
            _open_doors(app)
    return app


@contextmanager
def running_app() -> Iterator[Flask]:
    """The assembled app without its doors, for commands that work on the directory."""
    app = create_app(load_config(), role="worker")
    services: Services = app.extensions["scaikey.services"]
    try:
        with app.app_context():
            try:
                yield app
            finally:
                _disconnect()
    finally:
        services.stop()


def load_config() -> Config:
    """The environment, and the log it asks for. Raises ConfigError."""
    loaded = config.load()
    logs.configure(loaded)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    return loaded


def _connect(app: Flask, given: Config, role: Role) -> None:
    services = embedded.attach(given)
    # Held as long as the app lives: our own servers stop when nobody holds them.
    app.extensions["scaikey.services"] = services
    configured = services.configure(given)
    running.install(app, configured)
    db.connect(
        app,
        url=services.database_url,
        platform_url=services.platform_database_url,
        statement_timeout_ms=_TIMEOUTS[role],
    )


def _refuse_a_broken_wall() -> None:
    """Raises StartRefused when roles, migrations or the key are not what they must be."""
    for verdict in health.preconditions():
        if not verdict.ok:
            _disconnect()
            raise StartRefused(f"{verdict.name}: {verdict.found}. {verdict.mend}".strip())


def _disconnect() -> None:
    for engine in db.db.engines.values():
        engine.dispose()


def _open_doors(app: Flask) -> None:
    # Here, because a command or a worker that opens no door need not load what they are made of.
    from broker import api, pages
    from broker.pages import lent
    from oidc import discovery, endpoints, looks
    from scim import plain, server

    app.url_map.merge_slashes = False
    app.config["MAX_CONTENT_LENGTH"] = 2 * 1024 * 1024
    app.config["MAX_FORM_MEMORY_SIZE"] = 64 * 1024
    opened = (api.api, server.door, health.door, endpoints.door, pages.door)
    for door in opened:
        app.register_blueprint(door.blueprint)
    looks.hand_over(app, lent)
    try:
        doors.routes(app)
    except LookupError as error:
        raise StartRefused(str(error)) from None
    of_segment = {door.url_prefix.split("/")[1]: door for door in opened if door.url_prefix}
    of_segment |= dict.fromkeys(_PROBES, health.door)
    hosts = _hosts(running.config())

    def door_here() -> Door:
        if request.path.startswith(endpoints.PREFIXES):
            return endpoints.door
        return of_segment.get(request.path.split("/")[1], pages.door)

    @app.before_request
    def check_host() -> None:
        # Probes come by address, and nothing they are told depends on the name they used.
        if request.path[1:] not in _PROBES and not host_is_trusted(request.headers.get("Host"), hosts):
            raise BadRequest("This is not a name of this service")

    @app.errorhandler(Exception)
    def refuse(error: Exception) -> Response:
        problem = doors.problem_of(error)
        if error is request.routing_exception and problem.status == 405:
            problem = door_here().astray(problem)
        if problem.note:
            log.info("%s: %s (%s)", problem.code, problem.detail, problem.note)
        response = door_here().render(problem)
        if problem.status == 401:
            response.headers.setdefault("WWW-Authenticate", _challenge(problem))
        if problem.status == 405 and isinstance(error, MethodNotAllowed) and error.valid_methods:
            response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
        if problem.retry_after is not None:
            response.headers["Retry-After"] = str(problem.retry_after)
        return response

    @app.after_request
    def dress(response: Response) -> Response:
        for name, value in _headers().items():
            response.headers.setdefault(name, value)
        return response

    kept = _Kept(app, app.wsgi_app, discovery.is_published)
    app.wsgi_app = _Numbered(_Plain(app, kept, plain.answer, hosts, _headers()))  # type: ignore[method-assign]


def _headers() -> dict[str, str]:
    """What every answer carries."""
    secure = running.config().base_url.startswith("https://")
    return {**_HEADERS, "Strict-Transport-Security": "max-age=31536000"} if secure else _HEADERS


def _challenge(problem: Problem) -> str:
    """RFC 6750 section 3: no error for a request that showed nothing."""
    if "Authorization" not in request.headers:
        return 'Bearer realm="scaikey"'
    return f'Bearer realm="scaikey", error="invalid_token", error_description="{problem.title}"'


def _hosts(config: Config) -> list[str]:
    host = urlsplit(config.base_url).hostname or ""
    return [host, "localhost", "127.0.0.1", "[::1]"] if is_loopback(host) else [host]


class _Numbered:
    """Every request has an id, taken over or made, and every answer returns it."""

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request_id = request_id_from(environ.get("HTTP_X_REQUEST_ID"))

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            return start_response(status, [*headers, ("X-Request-ID", request_id)], *rest)

        with acting(ANONYMOUS, request_id), logs.bound(request_id=request_id):
            return self._application(environ, start)


class _Plain:
    """What `answer` knows is answered without Flask; everything else by it."""

    def __init__(
        self,
        app: Flask,
        application: WSGIApplication,
        answer: Callable[[Mapping[str, Any]], tuple[list[tuple[str, str]], bytes] | None],
        hosts: list[str],
        headers: Mapping[str, str],
    ) -> None:
        self._app = app
        self._application = application
        self._answer = answer
        self._hosts = hosts
        self._headers = list(headers.items())

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        asked = environ["REQUEST_METHOD"] == "GET" and environ["PATH_INFO"].startswith("/scim/")
        if asked and host_is_trusted(environ.get("HTTP_HOST"), self._hosts):
            with self._app.app_context():
                found = self._answer(environ)
            if found is not None:
                headers, body = found
                start_response("200 OK", [*headers, *self._headers])
                return [body]
        return self._application(environ, start_response)


class _Kept:
    """What is published to everybody is answered as it was a second ago: validators of every application ask for it.

    An answer is kept no longer than the keys it was made with are this process's.
    """

    _SECONDS = 1.0
    _MOST, _LONGEST = 1_000, 500
    """Answers, and characters of what was asked."""

    def __init__(self, app: Flask, application: WSGIApplication, is_published: Callable[[str], bool]) -> None:
        self._app = app
        self._application = application
        self._is_published = is_published
        self._answers: dict[tuple[str | None, ...], tuple[float, object, str, list[tuple[str, str]], list[bytes]]] = {}

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] != "GET" or environ.get("QUERY_STRING") or not self._is_published(path):
            return self._application(environ, start_response)
        asked = (path, environ.get("HTTP_HOST"), environ.get("HTTP_IF_NONE_MATCH"))
        kept = self._answers.get(asked)
        if kept is None or time.monotonic() > kept[0] or kept[1] is not keys.present(self._app):
            return self._answered(asked, environ, start_response)
        start_response(kept[2], list(kept[3]))
        return kept[4]

    def _answered(
        self, asked: tuple[str | None, ...], environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        said: list[Any] = []

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            said[:] = status, headers
            return start_response(status, headers, *rest)

        answer = self._application(environ, start)
        body = list(answer)
        if hasattr(answer, "close"):
            answer.close()
        status, headers = said
        if status.startswith(("200", "304")) and sum(len(part or "") for part in asked) < self._LONGEST:
            if len(self._answers) >= self._MOST:
                self._answers.clear()
            until = time.monotonic() + self._SECONDS
            self._answers[asked] = until, keys.present(self._app), status, list(headers), body
        return body
