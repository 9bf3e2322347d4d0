"""`/personal-access-tokens`: one's own, and those an administrator makes for a principal of his scope.

Their form, digests and longest lives are `broker.credentials`'; what one opens is `broker.policy`'s.
"""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa
from flask import Response, request
from marshmallow import validate

from broker import access, credentials
from broker.api.door import api, body, check_if_match, created, listed, nothing, show
from broker.api.shapes import NAME, Shape, auto_field, fields, take
from broker.context import current_actor
from broker.db import current_scope, db
from broker.doors import About
from broker.errors import Forbidden, NotFound, ValidationFailed
from broker.models import PersonalAccessToken
from broker.policy import Action, Where, at_least_as_wide, authorize
from broker.protocol import OUR_SCOPES


class TokenShape(Shape):
    class Meta(Shape.Meta):
        model = PersonalAccessToken

    id = auto_field(dump_only=True)
    user_id = auto_field(required=False)
    name = auto_field(validate=NAME)
    audiences = fields.List(
        fields.String(validate=validate.Regexp(r"[!-~]{1,200}\Z", error="Must be printable ASCII without spaces.")),
        validate=validate.Length(min=1, max=20),
    )
    scopes = fields.List(fields.String(), validate=validate.Length(min=1, max=20))
    expires_at = auto_field(required=False)
    last_used_at = auto_field(dump_only=True)
    created_at = auto_field(dump_only=True)
    updated_at = auto_field(dump_only=True)


class NewTokenShape(TokenShape):
    token = fields.String(dump_only=True)


@api.route(
    "/personal-access-tokens",
    action=Action.OWN_TOKEN_READ,
    context="own",
    about=About(gives=TokenShape, listed=True, query={"user_id": "Another principal's tokens."}),
)
def list_tokens() -> Response:
    """Your own tokens or, for administrators, those of `user_id`."""
    user_id = request.args.get("user_id", current_actor().id)
    if not _own(user_id):
        authorize(current_actor(), Action.TOKEN_FOR_OTHERS_READ, current_scope())
    statement = sa.select(PersonalAccessToken).where(
        PersonalAccessToken.user_id == user_id, PersonalAccessToken.revoked_at.is_(None)
    )
    # Filtered above already: here it only becomes a known parameter.
    return listed(statement, TokenShape, [PersonalAccessToken.id], filters={"user_id": lambda _: sa.true()})


@api.route(
    "/personal-access-tokens",
    methods=["POST"],
    action=Action.OWN_TOKEN_WRITE,
    context="own",
    about=About(takes=TokenShape, gives=NewTokenShape, status=201),
)
def create_token() -> Response:
    """Make a token, for yourself or, for at most 30 days, for the principal in `user_id`.

    `token` is shown in this answer only.
    """
    actor, values = current_actor(), take(TokenShape, body())
    user_id = values.pop("user_id", actor.id)
    longest, made_by = credentials.LONGEST_LIFE, actor.id
    if not _own(user_id):
        _check_width(user_id, Action.TOKEN_FOR_OTHERS_WRITE)
        longest = credentials.LONGEST_LIFE_FOR_OTHERS
    elif (shown := _lent()) is not None:
        # Else the limit on tokens for others would be none: such a token begets one that lasts, in its holder's name.
        longest = shown.expires_at - datetime.now(UTC) - credentials.LEEWAY
        made_by = shown.created_by or actor.id
    carried = actor.scopes | ({"scaikey:read"} if "scaikey:write" in actor.scopes else set())
    scopes = values.setdefault("scopes", ["scaikey:read"])
    if not set(scopes) & set(OUR_SCOPES) <= carried:
        raise Forbidden("A token cannot give a scope it does not carry itself")
    token, secret = credentials.mint_pat(user_id, longest=longest, created_by=made_by, **values)
    return created(TokenShape, token, f"/personal-access-tokens/{token.id}", token=secret)


@api.route(
    "/personal-access-tokens/<token_id>", action=Action.OWN_TOKEN_READ, context="own", about=About(gives=TokenShape)
)
def read_token(token_id: str) -> Response:
    """One token."""
    return show(TokenShape, _token(token_id, Action.OWN_TOKEN_READ, Action.TOKEN_FOR_OTHERS_READ))


@api.route(
    "/personal-access-tokens/<token_id>",
    methods=["DELETE"],
    action=Action.OWN_TOKEN_WRITE,
    context="own",
    about=About(status=204),
)
def revoke_token(token_id: str) -> Response:
    """Revoke a token."""
    token = _token(token_id, Action.OWN_TOKEN_WRITE, Action.TOKEN_FOR_OTHERS_WRITE)
    check_if_match(TokenShape, token)
    credentials.revoke(token)
    return nothing()


def _own(user_id: str) -> bool:
    actor = current_actor()
    return user_id == actor.id and actor.tenant_id == current_scope().tenant_id


def _lent() -> PersonalAccessToken | None:
    """The token that was shown, when somebody else made it for its holder."""
    actor = current_actor()
    shown = db.session().get(PersonalAccessToken, (actor.tenant_id, actor.credential_id))
    return shown if shown is not None and shown.created_by not in (None, shown.user_id) else None


def _token(token_id: str, own: Action, of_others: Action) -> PersonalAccessToken:
    token = access.fetch(PersonalAccessToken, token_id, to=own, lock=not own.endswith(".read"))
    if token.revoked_at is not None:
        raise NotFound
    if not _own(token.user_id):
        if of_others.endswith(".read"):
            authorize(current_actor(), of_others, current_scope())
        else:
            _check_width(token.user_id, of_others)
    return token


def _check_width(user_id: str, to: Action) -> None:
    """Whoever acts on a principal's credentials has a role at least as wide as the principal's."""
    scope = current_scope()
    authorize(current_actor(), to, scope)
    if user_id == current_actor().id:
        raise ValidationFailed(errors={"user_id": ["Name a principal of this tenant."]})
    if not at_least_as_wide(current_actor(), access.grants_of(user_id), Where.of(scope)):
        raise Forbidden("The principal holds a wider role than yours")
