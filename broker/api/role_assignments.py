"""`/role-assignments`: who administers the tenant at hand, its partner, or the platform.

Who may hold a role, where, and who may give it is `registry.roles`'.
"""

from __future__ import annotations

import sqlalchemy as sa
from flask import Response

from broker import access
from broker.api.door import api, body, check_if_match, created, listed, nothing, show
from broker.api.shapes import Shape, auto_field, one_of, take
from broker.context import ADMIN_ROLES
from broker.doors import About
from broker.models import RoleAssignment
from broker.policy import Action
from broker.registry import roles as registry


class RoleAssignmentShape(Shape):
    class Meta(Shape.Meta):
        model = RoleAssignment

    id = auto_field(dump_only=True)
    role = auto_field(validate=one_of(*ADMIN_ROLES))
    principal_id = auto_field()
    scope_id = auto_field()
    created_at = auto_field(dump_only=True)
    updated_at = auto_field(dump_only=True)


@api.route(
    "/role-assignments",
    action=Action.ROLE_READ,
    about=About(
        gives=RoleAssignmentShape,
        listed=True,
        query={"principal_id": "Only roles of this principal.", "role": "Only this role."},
    ),
)
def list_role_assignments() -> Response:
    """The administrators who live in the tenant."""
    return listed(
        sa.select(RoleAssignment),
        RoleAssignmentShape,
        [RoleAssignment.id],
        filters={
            "principal_id": lambda principal_id: RoleAssignment.principal_id == principal_id,
            "role": lambda role: RoleAssignment.role == role,
        },
    )


@api.route(
    "/role-assignments",
    methods=["POST"],
    action=Action.ROLE_WRITE,
    about=About(takes=RoleAssignmentShape, gives=RoleAssignmentShape, status=201),
)
def create_role_assignment() -> Response:
    """Grant a role, never a wider one than your own."""
    values = take(RoleAssignmentShape, body())
    assignment = registry.grant(values["role"], values["principal_id"], values.get("scope_id"))
    return created(RoleAssignmentShape, assignment, f"/role-assignments/{assignment.id}")


@api.route("/role-assignments/<assignment_id>", action=Action.ROLE_READ, about=About(gives=RoleAssignmentShape))
def read_role_assignment(assignment_id: str) -> Response:
    """One role assignment."""
    return show(RoleAssignmentShape, access.fetch(RoleAssignment, assignment_id, to=Action.ROLE_READ))


@api.route("/role-assignments/<assignment_id>", methods=["DELETE"], action=Action.ROLE_WRITE, about=About(status=204))
def remove_role_assignment(assignment_id: str) -> Response:
    """Take a role back."""
    assignment = access.fetch(RoleAssignment, assignment_id, to=Action.ROLE_WRITE, lock=True)
    check_if_match(RoleAssignmentShape, assignment)
    registry.revoke(assignment)
    return nothing()
