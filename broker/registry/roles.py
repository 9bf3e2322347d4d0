"""Administrators' roles: who may hold one, where its holder lives, and that nobody gives more than he has.

`tenant_admin` lives in the tenant it administers, and may come through a group; `partner_admin` lives in the partner's
home tenant and `super_admin` in the platform tenant, and both are held by a person directly.
"""

from __future__ import annotations

import sqlalchemy as sa

from broker import ids
from broker.context import Scope, current_actor
from broker.db import current_scope, db
from broker.errors import Conflict, Forbidden, ValidationFailed
from broker.models import Group, Resource, RoleAssignment, User
from broker.policy import Where, may_grant
from broker.registry.changes import one_at_a_time, tell

_LIVES = {"tenant_admin": "customer", "partner_admin": "home", "super_admin": "platform"}


def grant(role: str, principal_id: str, scope_id: str | None) -> RoleAssignment:
    """Give a role to a principal of the open tenant. Raises ValidationFailed, Forbidden, Conflict."""
    scope = current_scope()
    reach = _reach(role, scope)
    if scope_id not in (None, reach):
        raise ValidationFailed(errors={"scope_id": [f"A {role} who lives here is one of {reach or 'the platform'}."]})
    _check_principal(role, principal_id)
    if not may_grant(current_actor(), role, reach, Where.of(scope)):
        raise Forbidden("Nobody grants a role wider than his own")
    if _holds(role, principal_id, reach):
        raise Conflict("The principal holds this role already")
    return _add(role, principal_id, reach)


def appoint(principal_id: str) -> None:
    """Make a person of the platform tenant a super admin, for the operator of the machine: no actor could grant it."""
    reach = _reach("super_admin", current_scope())
    _check_principal("super_admin", principal_id)
    if not _holds("super_admin", principal_id, reach):
        _add("super_admin", principal_id, reach)


def _holds(role: str, principal_id: str, reach: str | None) -> bool:
    known = sa.select(RoleAssignment.id).where(
        RoleAssignment.principal_id == principal_id,
        RoleAssignment.role == role,
        RoleAssignment.scope_id.is_not_distinct_from(reach),
    )
    return db.session().scalar(known) is not None


def _add(role: str, principal_id: str, reach: str | None) -> RoleAssignment:
    assignment = RoleAssignment(id=ids.new("rol"), role=role, principal_id=principal_id, scope_id=reach)
    db.session().add(assignment)
    db.session().flush()
    tell("role.granted", "RoleAssignment", assignment.id, _told(assignment))
    return assignment


def revoke(assignment: RoleAssignment) -> None:
    """Take a role back. Raises Forbidden, and Conflict for the last super admin's."""
    scope = current_scope()
    if not may_grant(current_actor(), assignment.role, assignment.scope_id, Where.of(scope)):
        raise Forbidden("Nobody takes back a role wider than his own")
    session = db.session()
    if assignment.role == "super_admin":
        one_at_a_time("super_admins", "platform")
        others = (
            sa.select(RoleAssignment.id)
            .join(User, User.id == RoleAssignment.principal_id)
            .where(RoleAssignment.role == "super_admin", RoleAssignment.id != assignment.id)
            .where(User.removed_at.is_(None), User.active)
        )
        if session.scalar(others.limit(1)) is None:
            raise Conflict("The last super admin keeps the role")
    tell("role.revoked", "RoleAssignment", assignment.id, _told(assignment))
    session.delete(assignment)
    session.flush()


def _reach(role: str, scope: Scope) -> str | None:
    if _LIVES[role] != scope.kind:
        places = {"customer": "a customer tenant", "home": "a partner's home tenant", "platform": "the platform tenant"}
        raise ValidationFailed(errors={"role": [f"Holders of {role} live in {places[_LIVES[role]]}."]})
    return {"tenant_admin": scope.tenant_id, "partner_admin": scope.partner_id, "super_admin": None}[role]


def _check_principal(role: str, principal_id: str) -> None:
    found = db.session().scalar(sa.select(Resource).where(Resource.id == principal_id, Resource.removed_at.is_(None)))
    match found:
        case User() if role == "tenant_admin" or found.user_type != "ServiceAccount":
            return
        case Group() if role == "tenant_admin":
            return
        case User() | Group():
            raise ValidationFailed(errors={"principal_id": [f"{role} is granted to a person directly."]})
    raise ValidationFailed(errors={"principal_id": ["There is no such user or group in this tenant."]})


def _told(assignment: RoleAssignment) -> dict[str, str | None]:
    return {
        "role": assignment.role,
        "principal_id": assignment.principal_id,
        "scope_id": assignment.scope_id,
    }
