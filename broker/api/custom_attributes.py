"""`/custom-attributes`: what a tenant declares of its people and groups beside what everybody has.

Names, limits and values are `directory.declarations`'; how the attributes look in SCIM is `scim.declared`'s.
"""

from __future__ import annotations

import sqlalchemy as sa
from flask import Response, request

from broker import access
from broker.api.door import api, body, check_if_match, created, listed, nothing, show
from broker.api.shapes import NAME, Shape, auto_field, fields, one_of, take, take_changes
from broker.attributes import CUSTOM
from broker.directory import declarations
from broker.doors import About
from broker.models import CustomAttribute
from broker.models.declarations import TYPES
from broker.policy import Action


class CustomAttributeShape(Shape):
    FIXED = frozenset(
        {"resource_type", "name", "type", "multi_valued", "case_exact", "uniqueness", "mutability", "filterable"}
    )

    class Meta(Shape.Meta):
        model = CustomAttribute

    id = auto_field(dump_only=True)
    resource_type = auto_field(validate=one_of(*CUSTOM))
    name = auto_field(required=True, validate=NAME)
    path = fields.Function(lambda one: f"{CUSTOM[one.resource_type]}:{one.name}", metadata={"type": "string"})
    type = auto_field(validate=one_of(*TYPES))
    multi_valued = auto_field()
    case_exact = auto_field()
    uniqueness = auto_field(validate=one_of("none", "server"))
    mutability = auto_field(validate=one_of("readWrite", "immutable"))
    filterable = auto_field()
    canonical_values = fields.List(fields.String())
    description = auto_field()
    created_at = auto_field(dump_only=True)
    updated_at = auto_field(dump_only=True)


@api.route(
    "/custom-attributes",
    action=Action.CUSTOM_ATTRIBUTE_READ,
    about=About(gives=CustomAttributeShape, listed=True, query={"resource_type": "Only those of this type."}),
)
def list_custom_attributes() -> Response:
    """The attributes the tenant has declared."""
    filters = {"resource_type": lambda name: CustomAttribute.resource_type == name}
    return listed(sa.select(CustomAttribute), CustomAttributeShape, [CustomAttribute.id], filters=filters)


@api.route(
    "/custom-attributes",
    methods=["POST"],
    action=Action.CUSTOM_ATTRIBUTE_WRITE,
    about=About(takes=CustomAttributeShape, gives=CustomAttributeShape, status=201),
)
def create_custom_attribute() -> Response:
    """Declare an attribute. From the next request on SCIM shows and takes it under `path`."""
    attribute = declarations.declare(take(CustomAttributeShape, body()))
    return created(CustomAttributeShape, attribute, f"/custom-attributes/{attribute.id}")


@api.route(
    "/custom-attributes/<attribute_id>",
    action=Action.CUSTOM_ATTRIBUTE_READ,
    about=About(gives=CustomAttributeShape),
)
def read_custom_attribute(attribute_id: str) -> Response:
    """One declared attribute."""
    return show(CustomAttributeShape, access.fetch(CustomAttribute, attribute_id, to=Action.CUSTOM_ATTRIBUTE_READ))


@api.route(
    "/custom-attributes/<attribute_id>",
    methods=["PATCH"],
    action=Action.CUSTOM_ATTRIBUTE_WRITE,
    about=About(takes=CustomAttributeShape, gives=CustomAttributeShape),
)
def change_custom_attribute(attribute_id: str) -> Response:
    """Describe an attribute otherwise, or let it take more values. What values in use rely on never changes."""
    attribute = access.fetch(CustomAttribute, attribute_id, to=Action.CUSTOM_ATTRIBUTE_WRITE, lock=True)
    check_if_match(CustomAttributeShape, attribute)
    declarations.change(attribute, take_changes(CustomAttributeShape, attribute, body()))
    return show(CustomAttributeShape, attribute)


@api.route(
    "/custom-attributes/<attribute_id>",
    methods=["DELETE"],
    action=Action.CUSTOM_ATTRIBUTE_WRITE,
    about=About(status=204, query={"confirm": "The attribute's name, if resources carry values of it."}),
)
def remove_custom_attribute(attribute_id: str) -> Response:
    """End an attribute, and take its values from whoever carries one."""
    attribute = access.fetch(CustomAttribute, attribute_id, to=Action.CUSTOM_ATTRIBUTE_WRITE, lock=True)
    check_if_match(CustomAttributeShape, attribute)
    declarations.remove(attribute, request.args.get("confirm"))
    return nothing()
