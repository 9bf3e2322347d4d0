"""`/domains`: what a tenant claims, and which claims are verified, by the DNS or by somebody above.

The rules of names, and that one tenant has a verified one, are `registry.domains`'.
"""

from __future__ import annotations

import sqlalchemy as sa
from flask import Response

from broker import access
from broker.api.door import api, body, check_if_match, created, listed, nothing, show
from broker.api.shapes import NAME, Shape, auto_field, take, take_changes
from broker.context import current_actor
from broker.db import current_scope, unit
from broker.doors import About, scope
from broker.models import Domain
from broker.policy import Action, authorize
from broker.registry import domains as registry


class DomainShape(Shape):
    FIXED = frozenset({"name"})

    class Meta(Shape.Meta):
        model = Domain

    id = auto_field(dump_only=True)
    name = auto_field(validate=NAME)
    verified = auto_field()
    verified_at = auto_field(dump_only=True)
    token = auto_field(dump_only=True)
    created_at = auto_field(dump_only=True)
    updated_at = auto_field(dump_only=True)


def _named(name: str) -> sa.ColumnElement[bool]:
    return Domain.name == registry.folded_name(name)


@api.route(
    "/domains",
    action=Action.DOMAIN_READ,
    about=About(gives=DomainShape, listed=True, query={"name": "Only this domain."}),
)
def list_domains() -> Response:
    """The domains the tenant claims."""
    return listed(sa.select(Domain), DomainShape, [Domain.id], filters={"name": _named})


@api.route(
    "/domains",
    methods=["POST"],
    action=Action.DOMAIN_WRITE,
    about=About(takes=DomainShape, gives=DomainShape, status=201),
)
def create_domain() -> Response:
    """Claim a domain. `token` is what a DNS TXT record of the domain has to say before it is verified."""
    values = take(DomainShape, body())
    if values.get("verified"):
        authorize(current_actor(), Action.DOMAIN_VERIFY, current_scope(), visible=True)
    domain = registry.create(values["name"])
    registry.set_verified(domain, values.get("verified", False))
    return created(DomainShape, domain, f"/domains/{domain.id}")


@api.route("/domains/<domain_id>", action=Action.DOMAIN_READ, about=About(gives=DomainShape))
def read_domain(domain_id: str) -> Response:
    """One domain."""
    return show(DomainShape, access.fetch(Domain, domain_id, to=Action.DOMAIN_READ))


@api.route(
    "/domains/<domain_id>",
    methods=["PATCH"],
    action=Action.DOMAIN_VERIFY,
    about=About(takes=DomainShape, gives=DomainShape),
)
def change_domain(domain_id: str) -> Response:
    """Verify a domain by hand, or take that back; for partner and super admins."""
    domain = access.fetch(Domain, domain_id, to=Action.DOMAIN_VERIFY, lock=True)
    check_if_match(DomainShape, domain)
    registry.set_verified(domain, take_changes(DomainShape, domain, body()).get("verified", domain.verified))
    return show(DomainShape, domain)


@api.route(
    "/domains/<domain_id>/verify",
    methods=["POST"],
    action=Action.DOMAIN_WRITE,
    transaction=False,
    about=About(gives=DomainShape),
)
def verify_domain(domain_id: str) -> Response:
    """Look for the token in the domain's TXT records, and verify the domain if it is there."""
    with unit(scope()):
        domain = access.fetch(Domain, domain_id, to=Action.DOMAIN_WRITE)
        check_if_match(DomainShape, domain)
        name, token = domain.name, domain.token
    registry.check_published(name, token)
    with unit(scope()):
        domain = access.fetch(Domain, domain_id, to=Action.DOMAIN_WRITE, lock=True)
        registry.set_verified(domain, True, by_hand=False)
        return show(DomainShape, domain)


@api.route("/domains/<domain_id>", methods=["DELETE"], action=Action.DOMAIN_WRITE, about=About(status=204))
def remove_domain(domain_id: str) -> Response:
    """Give up a domain."""
    domain = access.fetch(Domain, domain_id, to=Action.DOMAIN_WRITE, lock=True)
    check_if_match(DomainShape, domain)
    registry.remove(domain)
    return nothing()
