"""`/scim-tokens`: the credentials with which upstreams push people into a tenant.

Their form and digests are `broker.credentials`'; what one may touch is `scim.storage`'s.
"""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa
from flask import Response

from broker import access, credentials
from broker.api.applications import RotationShape
from broker.api.door import api, body, check_if_match, created, listed, nothing, show
from broker.api.shapes import NAME, Shape, auto_field, fields, one_of, take, take_changes
from broker.doors import About
from broker.errors import NotFound
from broker.models import ScimToken
from broker.policy import Action


class ScimTokenShape(Shape):
    class Meta(Shape.Meta):
        model = ScimToken

    id = auto_field(dump_only=True)
    name = auto_field(validate=NAME)
    mode = auto_field(validate=one_of("tolerant", "strict"))
    identity_provider_id = auto_field()
    allow_password = auto_field()
    expires_at = auto_field()
    earlier_until = auto_field(dump_only=True)
    last_used_at = auto_field(dump_only=True)
    created_at = auto_field(dump_only=True)
    updated_at = auto_field(dump_only=True)


class NewScimTokenShape(ScimTokenShape):
    token = fields.String(dump_only=True)


@api.route("/scim-tokens", action=Action.SCIM_TOKEN_READ, about=About(gives=ScimTokenShape, listed=True))
def list_scim_tokens() -> Response:
    """The tenant's inbound SCIM credentials."""
    return listed(sa.select(ScimToken).where(ScimToken.revoked_at.is_(None)), ScimTokenShape, [ScimToken.id])


@api.route(
    "/scim-tokens",
    methods=["POST"],
    action=Action.SCIM_TOKEN_WRITE,
    about=About(takes=ScimTokenShape, gives=NewScimTokenShape, status=201),
)
def create_scim_token() -> Response:
    """Make an inbound SCIM credential. `token` is shown in this answer only."""
    values = take(ScimTokenShape, body())
    token, secret = credentials.mint_scim_token(values)
    return created(ScimTokenShape, token, f"/scim-tokens/{token.id}", token=secret)


@api.route("/scim-tokens/<token_id>", action=Action.SCIM_TOKEN_READ, about=About(gives=ScimTokenShape))
def read_scim_token(token_id: str) -> Response:
    """One inbound SCIM credential."""
    return show(ScimTokenShape, _token(token_id, Action.SCIM_TOKEN_READ))


@api.route(
    "/scim-tokens/<token_id>",
    methods=["PATCH"],
    action=Action.SCIM_TOKEN_WRITE,
    about=About(takes=ScimTokenShape, gives=ScimTokenShape),
)
def change_scim_token(token_id: str) -> Response:
    """Change an inbound SCIM credential. Its secret stays; a new end holds from the next request."""
    token = _token(token_id, Action.SCIM_TOKEN_WRITE)
    check_if_match(ScimTokenShape, token)
    values = take_changes(ScimTokenShape, token, body())
    credentials.change_scim_token(token, values)
    return show(ScimTokenShape, token)


@api.route(
    "/scim-tokens/<token_id>/rotate",
    methods=["POST"],
    action=Action.SCIM_TOKEN_WRITE,
    about=About(takes=RotationShape, gives=NewScimTokenShape),
)
def rotate_scim_token(token_id: str) -> Response:
    """Give an inbound SCIM credential a new secret, shown in this answer only.

    The secret before it works for `overlap` seconds longer, a day unless said otherwise; with 0 it ends now.
    """
    token = _token(token_id, Action.SCIM_TOKEN_WRITE)
    check_if_match(ScimTokenShape, token)
    secret = credentials.rotate_scim_token(token, timedelta(seconds=take(RotationShape, body())["overlap"]))
    return show(NewScimTokenShape, token, token=secret)


@api.route("/scim-tokens/<token_id>", methods=["DELETE"], action=Action.SCIM_TOKEN_WRITE, about=About(status=204))
def revoke_scim_token(token_id: str) -> Response:
    """Revoke an inbound SCIM credential."""
    token = _token(token_id, Action.SCIM_TOKEN_WRITE)
    check_if_match(ScimTokenShape, token)
    credentials.revoke(token)
    return nothing()


def _token(token_id: str, to: Action) -> ScimToken:
    token = access.fetch(ScimToken, token_id, to=to, lock=not to.endswith(".read"))
    if token.revoked_at is not None:
        raise NotFound
    return token
