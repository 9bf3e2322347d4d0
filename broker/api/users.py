"""`/users/{id}/password`: what SCIM does not know of a person. People themselves are read and written through SCIM.

What may be a password, and who may have one, is `broker.passwords`'; who may set whose is said here.
"""

from __future__ import annotations

from flask import Response
from marshmallow import RAISE, Schema

from broker import access, passwords
from broker.api.door import api, body, nothing
from broker.api.shapes import fields, take
from broker.context import current_actor
from broker.db import current_scope
from broker.doors import About
from broker.errors import Forbidden
from broker.models import User
from broker.policy import Action, Where, at_least_as_wide


class PasswordShape(Schema):
    class Meta:
        unknown = RAISE

    password = fields.String(required=True, load_only=True)


@api.route(
    "/users/<user_id>/password",
    methods=["PUT"],
    action=Action.PASSWORD_WRITE,
    about=About(takes=PasswordShape, status=204),
)
def set_password(user_id: str) -> Response:
    """Set the password of a local account and end its sessions.

    Not for people who sign in at an upstream, nor for holders of a wider role than one's own.
    """
    user = access.fetch(User, user_id, to=Action.PASSWORD_WRITE)
    password = take(PasswordShape, body())["password"]
    if not at_least_as_wide(current_actor(), access.grants_of(user.id), Where.of(current_scope())):
        raise Forbidden("This person holds a wider role than yours")
    passwords.set_password(user.id, password)
    return nothing()
