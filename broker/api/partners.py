"""`/partners`: made and limited by super admins, seen by their own admins.

Slugs, and the home tenant that comes with each, are `registry.partners`'.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from flask import Response
from marshmallow import RAISE, Schema, ValidationError, validate

from broker import access
from broker.api.door import api, body, check_if_match, created, listed, nothing, show
from broker.api.shapes import NAME, Shape, Text, auto_field, fields, take, take_changes
from broker.context import current_actor
from broker.doors import About
from broker.models import Partner
from broker.policy import Action
from broker.registry import partners as registry
from broker.registry.branding import NotAPicture, redrawn


class Colour(fields.String):
    def __init__(self, **options: Any) -> None:
        super().__init__(validate=validate.Regexp(r"#[0-9a-f]{6}\Z", error="Must be like #0a4b8c."), **options)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        return super()._deserialize(value, attr, data, **options).lower()


class Picture(fields.String):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        try:
            return redrawn(super()._deserialize(value, attr, data, **options))
        except NotAPicture as error:
            raise ValidationError(str(error)) from None


class Branding(Schema):
    """What a tenant's people see on its pages; a tenant's own goes before its partner's. No CSS, HTML or SVG."""

    class Meta:
        unknown = RAISE

    name = Text(most=200, metadata={"description": "Shown instead of the tenant's name."})
    color = Colour(metadata={"description": "The accent, `#rrggbb`; kept legible on light and dark."})
    logo = Picture(metadata={"description": "PNG, JPEG, WebP or GIF in base64; kept as a PNG, 512 by 512 at most."})


class PartnerShape(Shape):
    FIXED = frozenset({"slug"})

    class Meta(Shape.Meta):
        model = Partner

    id = auto_field(dump_only=True)
    name = auto_field(validate=NAME)
    slug = auto_field()
    max_tenants = auto_field()
    max_users_per_tenant = auto_field()
    max_applications_per_tenant = auto_field()
    home_tenant_id = auto_field(dump_only=True)
    branding = fields.Nested(Branding)
    created_at = auto_field(dump_only=True)
    updated_at = auto_field(dump_only=True)


@api.route(
    "/partners",
    action=Action.PARTNER_READ,
    context="reach",
    about=About(gives=PartnerShape, listed=True, query={"slug": "Only the partner of this slug."}),
)
def list_partners() -> Response:
    """The partners you administer."""
    statement = sa.select(Partner)
    places = access.reach(current_actor(), Action.PARTNER_READ)
    if places[0].partner_id is not None:
        statement = statement.where(Partner.id.in_([place.partner_id for place in places]))
    return listed(statement, PartnerShape, [Partner.id], filters={"slug": lambda slug: Partner.slug == slug})


@api.route(
    "/partners",
    methods=["POST"],
    action=Action.PARTNER_CREATE,
    context="platform",
    about=About(takes=PartnerShape, gives=PartnerShape, status=201),
)
def create_partner() -> Response:
    """Make a partner and, with it, its home tenant."""
    partner = registry.create(take(PartnerShape, body()))
    return created(PartnerShape, partner, f"/partners/{partner.id}")


@api.route("/partners/<partner_id>", action=Action.PARTNER_READ, context="partner", about=About(gives=PartnerShape))
def read_partner(partner_id: str) -> Response:
    """One partner."""
    return show(PartnerShape, access.fetch(Partner, partner_id, to=Action.PARTNER_READ))


@api.route(
    "/partners/<partner_id>",
    methods=["PATCH"],
    action=Action.PARTNER_WRITE,
    context="partner",
    about=About(takes=PartnerShape, gives=PartnerShape),
)
def change_partner(partner_id: str) -> Response:
    """Change name, limits or branding."""
    partner = access.fetch(Partner, partner_id, to=Action.PARTNER_WRITE, lock=True)
    check_if_match(PartnerShape, partner)
    registry.update(partner, take_changes(PartnerShape, partner, body()))
    return show(PartnerShape, partner)


@api.route(
    "/partners/<partner_id>",
    methods=["DELETE"],
    action=Action.PARTNER_WRITE,
    context="partner",
    about=About(status=204),
)
def remove_partner(partner_id: str) -> Response:
    """Delete a partner that has no tenants left."""
    partner = access.fetch(Partner, partner_id, to=Action.PARTNER_WRITE, lock=True)
    check_if_match(PartnerShape, partner)
    registry.remove(partner)
    return nothing()
