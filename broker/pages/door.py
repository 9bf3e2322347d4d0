"""The door of the pages: their headers, their style sheets, and a plain page for every refusal.

Which pages there are is the neighbouring modules'.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from flask import Response, render_template

from broker.context import current_request_id
from broker.doors import About, Door
from broker.errors import NotFound, Problem
from broker.policy import Action

POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_STATIC = {
    path.name: (path.read_bytes(), {".css": "text/css"}[path.suffix])
    for path in sorted((Path(__file__).parent / "static").iterdir())
}
_DIGESTS = {name: sha256(content).hexdigest()[:12] for name, (content, _) in _STATIC.items()}


def page(template: str, status: int = 200, **values: object) -> Response:
    """A page of the house, with the policy that lets it load our own style sheet and nothing else."""
    body = render_template(template, style=f"/static/{_DIGESTS['style.css']}/style.css", **values)
    return Response(body, status, {"Content-Security-Policy": POLICY}, mimetype="text/html")


def render(problem: Problem) -> Response:
    return page("error.html", problem.status, problem=problem, request_id=current_request_id())


door = Door("pages", url_prefix="", render=render, max_bytes=64 * 1024)


@door.route("/static/<digest>/<name>", action=Action.NOTHING_SECRET, context="none", about=About(announced=False))
def static(digest: str, name: str) -> Response:
    """A style sheet. Its address changes with its content, so it is kept for good."""
    if _DIGESTS.get(name) != digest:
        raise NotFound
    content, kind = _STATIC[name]
    return Response(content, headers={"Cache-Control": "public, max-age=31536000, immutable"}, mimetype=kind)
