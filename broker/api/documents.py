"""`/openapi.json`: what the admin API and SCIM offer, made from the routes themselves."""

from __future__ import annotations

import orjson
from flask import Response

from broker import openapi
from broker.api.door import api
from broker.doors import About
from broker.policy import Action


@api.route("/openapi.json", action=Action.NOTHING_SECRET, context="none", about=About(announced=False))
def read_openapi() -> Response:
    """This description."""
    return Response(orjson.dumps(openapi.document()), mimetype="application/json")
