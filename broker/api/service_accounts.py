"""`/service-accounts`: workloads that act by themselves, each a user of `userType` ServiceAccount and a client.

The rules of the client are `registry.service_accounts`', the user is the directory's, secrets are `credentials`'.
"""

from __future__ import annotations

from datetime import timedelta

import orjson
import sqlalchemy as sa
from flask import Response
from marshmallow import validate

from broker import access, credentials
from broker.api.applications import RotationShape, SecretShape
from broker.api.door import api, body, check_if_match, created, listed, nothing, show
from broker.api.shapes import Flag, Shape, auto_field, fields, take, take_changes
from broker.context import current_actor
from broker.db import db
from broker.directory import Directory
from broker.doors import About
from broker.errors import Forbidden
from broker.models import ServiceAccount, User
from broker.policy import Action
from broker.protocol import OUR_SCOPES
from broker.registry import service_accounts as registry


class ServiceAccountShape(Shape):
    FIXED = frozenset({"name"})

    class Meta(Shape.Meta):
        model = ServiceAccount

    id = auto_field(dump_only=True)
    name = auto_field()
    client_id = auto_field(dump_only=True)
    scopes = fields.List(fields.String(), validate=validate.Length(max=100))
    audiences = fields.List(fields.String(), required=True, validate=validate.Length(max=100))
    enabled = Flag()
    created_at = auto_field(dump_only=True)
    updated_at = auto_field(dump_only=True)

    def get_attribute(self, obj: ServiceAccount, attr: str, default: object) -> object:
        if attr == "enabled":
            return _user(obj).active
        return super().get_attribute(obj, attr, default)


class NewServiceAccountShape(ServiceAccountShape):
    client_secret = fields.String(dump_only=True)


@api.route(
    "/service-accounts",
    action=Action.SERVICE_ACCOUNT_READ,
    about=About(
        gives=ServiceAccountShape,
        listed=True,
        query={"name": "Only the account of this name.", "client_id": "Only the account of this client id."},
    ),
)
def list_service_accounts() -> Response:
    """The tenant's service accounts."""
    return listed(
        sa.select(ServiceAccount),
        ServiceAccountShape,
        [ServiceAccount.id],
        filters={
            "name": lambda name: ServiceAccount.name == name,
            "client_id": lambda client_id: ServiceAccount.client_id == client_id,
        },
    )


@api.route(
    "/service-accounts",
    methods=["POST"],
    action=Action.SERVICE_ACCOUNT_WRITE,
    about=About(takes=ServiceAccountShape, gives=NewServiceAccountShape, status=201),
)
def create_service_account() -> Response:
    """Make a service account. `client_secret` is shown in this answer only.

    A token that names no audience is for the first of `audiences`.
    """
    values = {"scopes": [], **take(ServiceAccountShape, body())}
    _check_carried(values["scopes"])
    registry.check_new(values)
    document = {
        "userName": registry.user_name(values["name"]),
        "displayName": values["name"],
        "userType": "ServiceAccount",
        "active": values.get("enabled", True),
    }
    account = registry.create(Directory().create("User", document).id, values)
    _, secret = credentials.mint_client_secret(service_account_id=account.id)
    return created(ServiceAccountShape, account, f"/service-accounts/{account.id}", client_secret=secret)


@api.route("/service-accounts/<account_id>", action=Action.SERVICE_ACCOUNT_READ, about=About(gives=ServiceAccountShape))
def read_service_account(account_id: str) -> Response:
    """One service account."""
    return show(ServiceAccountShape, access.fetch(ServiceAccount, account_id, to=Action.SERVICE_ACCOUNT_READ))


@api.route(
    "/service-accounts/<account_id>",
    methods=["PATCH"],
    action=Action.SERVICE_ACCOUNT_WRITE,
    about=About(takes=ServiceAccountShape, gives=ServiceAccountShape),
)
def change_service_account(account_id: str) -> Response:
    """Change what a service account may ask for, or disable it: its tokens stop with the next request."""
    account = access.fetch(ServiceAccount, account_id, to=Action.SERVICE_ACCOUNT_WRITE, lock=True)
    check_if_match(ServiceAccountShape, account)
    values = take_changes(ServiceAccountShape, account, body())
    _check_carried([scope for scope in values.get("scopes", ()) if scope not in account.scopes])
    enabled = values.pop("enabled", None)
    registry.update(account, values)
    if enabled is not None and enabled != _user(account).active:
        document = {**orjson.loads(_user(account).document), "active": enabled}
        Directory().replace("User", account.id, document)
        account = access.fetch(ServiceAccount, account_id, to=Action.SERVICE_ACCOUNT_WRITE)
    return show(ServiceAccountShape, account)


@api.route(
    "/service-accounts/<account_id>", methods=["DELETE"], action=Action.SERVICE_ACCOUNT_WRITE, about=About(status=204)
)
def remove_service_account(account_id: str) -> Response:
    """Delete a service account: its secrets, tokens and roles are nobody's from now on."""
    account = access.fetch(ServiceAccount, account_id, to=Action.SERVICE_ACCOUNT_WRITE, lock=True)
    check_if_match(ServiceAccountShape, account)
    registry.removed(account)
    Directory().remove("User", account.id)
    return nothing()


@api.route(
    "/service-accounts/<account_id>/secrets",
    methods=["POST"],
    action=Action.SERVICE_ACCOUNT_WRITE,
    about=About(takes=RotationShape, gives=SecretShape, status=201),
)
def rotate_service_account_secret(account_id: str) -> Response:
    """Make a new client secret, shown in this answer only.

    Earlier ones work for `overlap` seconds longer, a day unless said otherwise; with 0 they end now.
    """
    account = access.fetch(ServiceAccount, account_id, to=Action.SERVICE_ACCOUNT_WRITE)
    overlap = timedelta(seconds=take(RotationShape, body())["overlap"])
    made, secret = credentials.mint_client_secret(service_account_id=account.id, overlap=overlap)
    return show(SecretShape, made, 201, client_secret=secret)


def _user(account: ServiceAccount) -> User:
    return db.session().get_one(User, (account.tenant_id, account.id))


def _check_carried(scopes: list[str]) -> None:
    """An account never gets more of our own scopes than the token carries that makes it."""
    actor = current_actor()
    carried = actor.scopes | ({"scaikey:read"} if "scaikey:write" in actor.scopes else set())
    if set(scopes) & set(OUR_SCOPES) - carried:
        raise Forbidden("A token cannot give a scope it does not carry itself")
