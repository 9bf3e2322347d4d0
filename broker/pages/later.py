"""Pages the contract names and this version does not have: 501 for everybody."""

from __future__ import annotations

from flask import Response

from broker.doors import About
from broker.errors import NotImplementedHere
from broker.pages.door import door
from broker.policy import Action

RULES = ("/console", "/console/<path:rest>", "/t/<tenant_slug>/account")


def _later(**arguments: str) -> Response:
    raise NotImplementedHere


for _rule in RULES:
    door.route(_rule, action=Action.NOTHING_SECRET, context="none", about=About(announced=False))(_later)
