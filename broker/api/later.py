"""What the contract names and this version does not have: 501 for everybody, and not announced."""

from __future__ import annotations

from flask import Response

from broker.api.door import api
from broker.doors import About
from broker.errors import NotImplementedHere
from broker.policy import Action

_EVERY = ("GET", "POST", "PUT", "PATCH", "DELETE")
RULES = (
    "/trust-rules",
    "/trust-rules/<path:rest>",
    "/agents/<path:rest>",
    "/users/<user_id>/credentials",
    "/users/<user_id>/credentials/<path:rest>",
    "/auth/exchange",
)


def _later(**arguments: str) -> Response:
    raise NotImplementedHere


for _rule in RULES:
    api.route(_rule, methods=_EVERY, action=Action.NOTHING_SECRET, context="none", about=About(announced=False))(_later)
