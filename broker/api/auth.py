"""`/auth/whoami` and `/auth/introspect`: tokens explained in plain JSON, for services that put a thin layer on top.

Owns the words of the two answers. What a token is worth is `broker.access`', who may know of it `oidc.introspection`'s;
the protocol's own endpoints are `oidc.endpoints`'.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flask import Response
from marshmallow import RAISE, Schema, validate

from broker.api.door import api, body, json
from broker.api.shapes import Instant, fields, take
from broker.context import Actor, current_actor
from broker.doors import About
from broker.errors import AuthenticationRequired, Forbidden
from broker.policy import Action
from oidc import claims, clients, introspection
from oidc.tokens import LARGEST

_TYPES = ("user", "service_account", "application")


class WhoShape(Schema):
    identity_id = fields.String(metadata={"description": "`user:…`, `sa:…`, or `app:…` for an application itself."})
    identity_type = fields.String(validate=validate.OneOf(_TYPES))
    display_name = fields.String()
    tenant_id = fields.String(allow_none=True)
    partner_id = fields.String(allow_none=True)
    scopes = fields.List(fields.String())
    groups = fields.List(fields.String(metadata={"description": "`group:` and the group's name in tokens."}))
    roles = fields.List(fields.String())
    mfa_verified_at = Instant(allow_none=True)
    token_expires_at = Instant()


class AskedTokenShape(Schema):
    class Meta:
        unknown = RAISE

    token = fields.String(required=True, validate=validate.Length(min=1, max=LARGEST))


class MeaningShape(Schema):
    active = fields.Boolean(required=True)
    identity_id = fields.String()
    identity_type = fields.String(validate=validate.OneOf(_TYPES))
    tenant_id = fields.String(allow_none=True)
    scopes = fields.List(fields.String())
    issued_at = Instant()
    expires_at = Instant()


@api.route("/auth/whoami", action=Action.WHOAMI, context="self", any_audience=True, about=About(gives=WhoShape))
def whoami() -> Response:
    """Whom the token stands for, with the groups and roles of this moment.

    Takes any access token or personal access token of ours, whatever its audience.
    """
    actor = current_actor()
    if actor.kind == "scim_token":
        raise Forbidden("A SCIM token stands for nobody")
    shown = {
        "identity_type": actor.kind,
        "tenant_id": actor.tenant_id,
        "partner_id": actor.partner_id,
        "scopes": sorted(actor.scopes),
        "mfa_verified_at": None,
        "token_expires_at": actor.expires_at,
    }
    return json(WhoShape().dump({**shown, **_identity(actor)}))


def _identity(actor: Actor) -> dict[str, Any]:
    if actor.kind == "application":
        client = clients.home(actor.name)
        name = client.name if client else actor.name
        return {"identity_id": f"app:{actor.name}", "display_name": name, "groups": [], "roles": []}
    seen = [claims.person(actor.id, audience, tenant_id=actor.tenant_id) for audience in actor.audiences]
    known = [person for person in seen if person is not None]
    if not known:
        raise AuthenticationRequired(note="removed this very moment")
    return {
        "identity_id": known[0].identity_id,
        "display_name": known[0].name,
        "groups": [f"group:{name}" for name in known[0].groups],
        "roles": sorted({role for person in known for role in person.roles}),
    }


@api.route(
    "/auth/introspect",
    methods=["POST"],
    action=Action.INTROSPECT,
    context="self",
    any_audience=True,
    about=About(takes=AskedTokenShape, gives=MeaningShape),
)
def introspect() -> Response:
    """What a token means at this moment.

    Yours to know when it is for your own audience or of your own tenant; anything else is `{"active": false}`.
    """
    token = take(AskedTokenShape, body())["token"]
    found = introspection.introspect(token, introspection.caller_of(current_actor()))
    if not found["active"]:
        return json(found)
    meaning = {
        "active": True,
        "identity_id": found["identity_id"],
        "identity_type": found["identity_type"],
        "tenant_id": found.get("tenant_id"),
        "scopes": found["scope"].split(),
        "issued_at": datetime.fromtimestamp(found["iat"], UTC),
        "expires_at": datetime.fromtimestamp(found["exp"], UTC),
    }
    return json(MeaningShape().dump(meaning))
