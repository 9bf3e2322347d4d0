"""`/scim-targets`: the SCIM receivers of a tenant's applications, what is owed to them and what they have.

The target's row is `registry.targets`'; sending is `scim.push`'s.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from flask import Response
from marshmallow import RAISE, Schema, validate

from broker import access
from broker.api.door import api, body, check_if_match, created, listed, nothing, show
from broker.api.shapes import Object, Shape, Text, auto_field, fields, one_of, take, take_changes
from broker.doors import About
from broker.errors import ValidationFailed
from broker.models import Delivery, ScimTarget, TargetResource
from broker.policy import Action
from broker.registry import target_auth
from broker.registry import targets as registry
from scim import profiles
from scim.push import mapping


class Auth(Schema):
    class Meta:
        unknown = RAISE

    method = fields.String(required=True, validate=one_of("bearer", "oauth2_client_credentials"))
    token = Text(most=4_096)
    token_url = Text()
    client_id = Text()
    token_endpoint_auth_method = fields.String(validate=one_of(*target_auth.CLIENT_METHODS))
    client_secret = Text(most=4_096)
    private_key = fields.String(validate=validate.Length(min=1, max=20_000))
    public_key = fields.Dict(keys=fields.String())
    scope = Text()
    audience = Text()
    assertion_audience = Text()


class TargetShape(Shape):
    FIXED = frozenset({"application_id"})

    class Meta(Shape.Meta):
        model = ScimTarget

    id = auto_field(dump_only=True)
    application_id = auto_field()
    base_url = auto_field()
    auth = fields.Nested(Auth, required=True)
    profile = auto_field(validate=one_of(*profiles.PROFILES))
    mapping = fields.List(Object())
    nested_groups = auto_field(validate=one_of("auto", "keep", "flatten"))
    capabilities = auto_field(dump_only=True)
    probed_at = auto_field(dump_only=True)
    scope = auto_field(validate=one_of("assigned", "all"))
    deprovision = auto_field(validate=one_of("disable", "delete", "delete_after_days", "never"))
    deprovision_days = auto_field()
    removal_guard = Object()
    requests_per_second = fields.Float(allow_none=True, allow_nan=False)
    reconcile = Object()
    reconcile_due_at = auto_field(dump_only=True)
    status = auto_field(validate=one_of("active", "paused", "quarantined"))
    status_reason = auto_field(dump_only=True)
    created_at = auto_field(dump_only=True)
    updated_at = auto_field(dump_only=True)

    def get_attribute(self, obj: Any, attr: str, default: Any) -> Any:
        if attr == "auth":
            return {**obj.auth, target_auth.secret_name(obj.auth): target_auth.HIDDEN}
        return super().get_attribute(obj, attr, default)


class DeliveryShape(Shape):
    class Meta(Shape.Meta):
        model = Delivery

    resource_type = auto_field(dump_only=True)
    resource_id = auto_field(dump_only=True)
    task = auto_field(dump_only=True)
    status = auto_field(dump_only=True)
    attempts = auto_field(dump_only=True)
    due_at = auto_field(dump_only=True)
    problem = auto_field(dump_only=True)
    exchange = auto_field(dump_only=True)
    owed_at = auto_field(dump_only=True)
    updated_at = auto_field(dump_only=True)


class RemoteShape(Shape):
    class Meta(Shape.Meta):
        model = TargetResource

    resource_id = auto_field(dump_only=True)
    resource_type = auto_field(dump_only=True)
    remote_id = auto_field(dump_only=True)
    state = auto_field(dump_only=True)
    left_out = auto_field(dump_only=True)
    problem = auto_field(dump_only=True)
    updated_at = auto_field(dump_only=True)


class ResumeShape(Schema):
    class Meta:
        unknown = RAISE

    removals = fields.String(validate=one_of("approve", "reject"))


@api.route(
    "/scim-targets",
    action=Action.TARGET_READ,
    about=About(gives=TargetShape, listed=True, query={"application_id": "Only targets of this application."}),
)
def list_targets() -> Response:
    """The SCIM receivers the tenant provisions."""
    return listed(
        sa.select(ScimTarget),
        TargetShape,
        [ScimTarget.id],
        filters={"application_id": lambda application_id: ScimTarget.application_id == application_id},
    )


@api.route(
    "/scim-targets",
    methods=["POST"],
    action=Action.TARGET_WRITE,
    about=About(takes=TargetShape, gives=TargetShape, status=201),
)
def create_target() -> Response:
    """Provision an application: people and groups in its reach are pushed from now on."""
    values = _checked(take(TargetShape, body()))
    if values.get("status") == "quarantined":
        raise ValidationFailed(errors={"status": ["Must be one of: active, paused."]})
    target = registry.create(values)
    return created(TargetShape, target, f"/scim-targets/{target.id}")


@api.route("/scim-targets/<target_id>", action=Action.TARGET_READ, about=About(gives=TargetShape))
def read_target(target_id: str) -> Response:
    """One target; its credential is shown as `***`."""
    return show(TargetShape, access.fetch(ScimTarget, target_id, to=Action.TARGET_READ))


@api.route(
    "/scim-targets/<target_id>",
    methods=["PATCH"],
    action=Action.TARGET_WRITE,
    about=About(takes=TargetShape, gives=TargetShape),
)
def change_target(target_id: str) -> Response:
    """Change or pause a target. A `token` sent as `***` stays what it is."""
    target = access.fetch(ScimTarget, target_id, to=Action.TARGET_WRITE, lock=True)
    check_if_match(TargetShape, target)
    registry.update(target, _checked(take_changes(TargetShape, target, body())))
    return show(TargetShape, target)


@api.route("/scim-targets/<target_id>", methods=["DELETE"], action=Action.TARGET_WRITE, about=About(status=204))
def remove_target(target_id: str) -> Response:
    """Stop provisioning. What was provisioned stays at the target."""
    target = access.fetch(ScimTarget, target_id, to=Action.TARGET_WRITE, lock=True)
    check_if_match(TargetShape, target)
    registry.remove(target)
    return nothing()


@api.route(
    "/scim-targets/<target_id>/resume",
    methods=["POST"],
    action=Action.TARGET_WRITE,
    about=About(takes=ResumeShape, gives=TargetShape),
)
def resume_target(target_id: str) -> Response:
    """Leave pause or quarantine, and say what becomes of held removals."""
    target = access.fetch(ScimTarget, target_id, to=Action.TARGET_WRITE, lock=True)
    check_if_match(TargetShape, target)
    registry.resume(target, take(ResumeShape, body()).get("removals"))
    return show(TargetShape, target)


@api.route(
    "/scim-targets/<target_id>/deliveries",
    action=Action.TARGET_READ,
    about=About(
        gives=DeliveryShape,
        listed=True,
        query={"status": "Only `pending`, `held`, `muted` or `failed` ones.", "resource_id": "Only this resource's."},
    ),
)
def list_deliveries(target_id: str) -> Response:
    """What is owed to a target and what stands in the way, per object."""
    target = access.fetch(ScimTarget, target_id, to=Action.TARGET_READ)
    return listed(
        sa.select(Delivery).where(Delivery.target_id == target.id),
        DeliveryShape,
        [Delivery.resource_type, Delivery.resource_id, Delivery.task],
        filters={
            "status": lambda status: Delivery.status == status,
            "resource_id": lambda resource_id: Delivery.resource_id == resource_id,
        },
    )


@api.route(
    "/scim-targets/<target_id>/resources",
    action=Action.TARGET_READ,
    about=About(
        gives=RemoteShape,
        listed=True,
        query={"state": "Only resources in this state.", "resource_id": "Only this resource."},
    ),
)
def list_resources(target_id: str) -> Response:
    """What a target has of ours: remote ids, last states, last problems."""
    target = access.fetch(ScimTarget, target_id, to=Action.TARGET_READ)
    return listed(
        sa.select(TargetResource).where(TargetResource.target_id == target.id),
        RemoteShape,
        [TargetResource.resource_id],
        filters={
            "state": lambda state: TargetResource.state == state,
            "resource_id": lambda resource_id: TargetResource.resource_id == resource_id,
        },
    )


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    if "mapping" in values:
        values["mapping"] = mapping.check_rows(values["mapping"])
    return values
