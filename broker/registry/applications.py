"""Applications, which tenants may use them, and who is assigned.

A TENANT application is its tenant's own; PARTNER ones are kept by the partner's home tenant and GLOBAL ones by the
platform tenant, and other tenants meet them only through access. What happens to access is told in both logs.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from broker import ids
from broker.context import ADMIN_ROLES, Scope
from broker.db import current_scope, db
from broker.errors import Conflict, LimitExceeded, NotFound, ValidationFailed
from broker.models import Application, ApplicationAccess, Assignment, Partner, Resource, ScimTarget, Tenant
from broker.protocol import OUR_AUDIENCE, OUR_NAMES
from broker.registry import client_rules
from broker.registry.changes import assign, check_web_url, one_at_a_time, tell

_KEPT_BY = {"PARTNER": ("home", "the partner's home tenant"), "GLOBAL": ("platform", "the platform tenant")}
_ROLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}")
_EMPTY: dict[str, Any] = {
    "redirect_uris": [],
    "post_logout_redirect_uris": [],
    "allowed_audiences": [],
    "third_party": False,
}
_NULLABLE = (
    "jwks",
    "jwks_uri",
    "audience",
    "access_token_lifetime",
    "authorization_code_lifetime",
    "launch_url",
    "icon_url",
)
_IS_CLIENT = sa.text("SELECT 1 FROM scaikey_find_client(:name)")
_TAKEN = sa.text("SELECT 1 FROM scaikey_find_audience(:name, :reach)")
"""Whether an application has it that some tenant may meet beside one of this reach, kept by the tenant at hand."""


def create(values: Mapping[str, Any]) -> Application:
    """An application of the open tenant, which may use it at once. Raises ValidationFailed, NotAvailable, Conflict,
    LimitExceeded."""
    scope, session = current_scope(), db.session()
    kind, keeper = _KEPT_BY.get(values.get("scope", "TENANT"), (scope.kind, ""))
    if scope.kind != kind:
        raise ValidationFailed(errors={"scope": [f"{values['scope']} applications are kept by {keeper}: act there."]})
    state = {**dict.fromkeys(_NULLABLE), **_EMPTY, **client_rules.defaults(values["type"]), **values}
    _check(state)
    _check_apis(state, None, values.get("scope", "TENANT"))
    _check_limit(scope)
    application = Application(
        tenant_id=scope.tenant_id, id=ids.new("app"), client_id=secrets.token_urlsafe(18), **state
    )
    session.add(application)
    session.flush()
    session.add(ApplicationAccess(application_id=application.id, owner_tenant_id=application.tenant_id))
    session.flush()
    session.refresh(application)
    tell("application.created", "Application", application.id, sorted(values))
    return application


def update(application: Application, values: Mapping[str, Any]) -> list[str]:
    """Change it; the names of what differs. Raises ValidationFailed, NotAvailable, Conflict."""
    names = (*_NULLABLE, *_EMPTY, "type", "token_endpoint_auth_method", "grant_types", "scopes")
    state = {**{name: getattr(application, name) for name in names}, **values}
    _check(state)
    _check_apis(state, application, application.scope)
    changed = assign(application, values)
    if changed:
        db.session().flush()
        tell("application.updated", "Application", application.id, changed)
    return changed


def remove(application: Application) -> None:
    """Delete it everywhere, in a unit of work that spans tenants. Raises Conflict while SCIM targets provision it."""
    session = db.session()
    _refuse_while_provisioned(sa.select(ScimTarget.id).where(ScimTarget.application_id == application.id))
    users = session.scalars(
        sa.select(ApplicationAccess.tenant_id).where(ApplicationAccess.application_id == application.id)
    ).all()
    for tenant_id in users:
        tell("application.removed", "Application", application.id, {"name": application.name}, tenant_id=tenant_id)
    session.delete(application)
    session.flush()


def share(application: Application, tenant_id: str) -> ApplicationAccess:
    """Let another tenant use it, in a unit of work that spans tenants. Raises ValidationFailed, Conflict."""
    session = db.session()
    if application.scope == "TENANT":
        raise Conflict("A TENANT application is its own tenant's alone")
    tenant, owner = session.get(Tenant, tenant_id), session.get_one(Tenant, application.tenant_id)
    within = tenant is not None and (application.scope == "GLOBAL" or tenant.partner_id == owner.partner_id)
    if tenant is None or not within:
        raise ValidationFailed(errors={"tenant_id": ["There is no such tenant within the application's reach."]})
    if session.get(ApplicationAccess, (tenant_id, application.id)):
        raise Conflict("The tenant has access already")
    access = ApplicationAccess(
        tenant_id=tenant_id, application_id=application.id, owner_tenant_id=application.tenant_id
    )
    if application.audience is not None:
        theirs = sa.select(Application.id).join(
            ApplicationAccess,
            (ApplicationAccess.application_id == Application.id) & (ApplicationAccess.tenant_id == tenant_id),
        )
        if session.scalar(theirs.where(Application.audience == application.audience).limit(1)):
            raise Conflict("The tenant uses another application of this audience")
    session.add(access)
    session.flush()
    session.refresh(access)
    _tell_both("application.access_granted", application, tenant_id)
    return access


def withdraw(application: Application, tenant_id: str) -> None:
    """End a tenant's access and its assignments, spanning tenants. Raises NotFound, Conflict."""
    session = db.session()
    access = session.get(ApplicationAccess, (tenant_id, application.id))
    if access is None:
        raise NotFound
    if tenant_id == application.tenant_id:
        raise Conflict("The tenant that keeps an application has access for as long as it exists")
    _refuse_while_provisioned(
        sa.select(ScimTarget.id).where(ScimTarget.tenant_id == tenant_id, ScimTarget.application_id == application.id)
    )
    _tell_both("application.access_withdrawn", application, tenant_id)
    session.delete(access)
    session.flush()


def _refuse_while_provisioned(targets: sa.Select[str]) -> None:
    """Deleting a target's row would leave the accounts it made behind with nobody to remove them."""
    if db.session().scalar(targets.limit(1)) is not None:
        raise Conflict("SCIM targets still provision this application: remove them first")


def _tell_both(name: str, application: Application, tenant_id: str) -> None:
    for log in (application.tenant_id, tenant_id):
        tell(name, "Application", application.id, {"tenant_id": tenant_id}, tenant_id=log)


def assign_to(application: Application, principal_id: str, roles: Sequence[str]) -> Assignment:
    """Assign a person or a group of the open tenant. Raises NotFound, ValidationFailed, Conflict."""
    session, tenant_id = db.session(), current_scope().tenant_id
    if session.get(ApplicationAccess, (tenant_id, application.id)) is None:
        raise NotFound
    principal = session.scalar(
        sa.select(Resource.type).where(Resource.id == principal_id, Resource.removed_at.is_(None))
    )
    if principal not in ("User", "Group"):
        raise ValidationFailed(errors={"principal_id": ["There is no such user or group in this tenant."]})
    known = sa.select(Assignment.id).where(
        Assignment.application_id == application.id, Assignment.principal_id == principal_id
    )
    if session.scalar(known):
        raise Conflict("The principal is assigned already")
    assignment = Assignment(
        id=ids.new("asg"), application_id=application.id, principal_id=principal_id, roles=_checked_roles(roles)
    )
    session.add(assignment)
    session.flush()
    tell("assignment.created", "Assignment", assignment.id, _told(assignment))
    return assignment


def change_roles(assignment: Assignment, roles: Sequence[str]) -> bool:
    changed = assign(assignment, {"roles": _checked_roles(roles)})
    if changed:
        db.session().flush()
        tell("assignment.updated", "Assignment", assignment.id, _told(assignment))
    return bool(changed)


def unassign(assignment: Assignment) -> None:
    """Told before the row goes, so that subscribers still see who and what it was."""
    tell("assignment.removed", "Assignment", assignment.id, _told(assignment))
    db.session().delete(assignment)
    db.session().flush()


def _told(assignment: Assignment) -> dict[str, Any]:
    return {
        "application_id": assignment.application_id,
        "principal_id": assignment.principal_id,
        "roles": list(assignment.roles),
    }


def _checked_roles(roles: Sequence[str]) -> list[str]:
    wrong = [role for role in roles if not _ROLE.fullmatch(role)]
    ours = [role for role in roles if role.casefold() in ADMIN_ROLES or role.casefold().startswith(OUR_NAMES)]
    if wrong or ours:
        complaint = "An administrator's role is never an application's." if ours else "Letters, digits and . _ : / - ."
        raise ValidationFailed(errors={"roles": [complaint]})
    return list(dict.fromkeys(roles))


def _check(values: Mapping[str, Any]) -> None:
    for name in ("launch_url", "icon_url"):
        check_web_url(name, values[name], loopback=True)
    client_rules.check(values)


def _check_apis(values: Mapping[str, Any], own: Application | None, reach: str) -> None:
    """Its audience is no other application's within the reach of either, whoever was given access, nor any client's id;
    and it asks for tokens only for APIs of applications that the tenant may use. Raises ValidationFailed, Conflict."""
    session, audience = db.session(), values["audience"]
    if audience is not None and (own is None or own.audience != audience):
        one_at_a_time("audience", audience)
        if session.execute(_IS_CLIENT, {"name": audience}).first() is not None:
            raise ValidationFailed(errors={"audience": ["Is reserved."]})
        if session.execute(_TAKEN, {"name": audience, "reach": reach}).first() is not None:
            raise Conflict("Another application has this audience")
    present = own.allowed_audiences if own is not None else ()
    check_audiences("allowed_audiences", [one for one in values["allowed_audiences"] if one not in present])


def check_audiences(name: str, audiences: Sequence[str]) -> None:
    """Raises ValidationFailed unless each is our own API or one of an application that the open tenant may use."""
    others = set(audiences) - {OUR_AUDIENCE}
    if others:
        known = sa.select(Application.audience).where(Application.audience.in_(others))
        if unknown := sorted(others - set(db.session().scalars(known))):
            raise ValidationFailed(errors={name: [f"No application of the tenant has the audience {unknown[0]}."]})


def _check_limit(scope: Scope) -> None:
    session = db.session()
    limit = session.scalar(sa.select(Partner.max_applications_per_tenant).where(Partner.id == scope.partner_id))
    if limit is None or scope.kind != "customer":
        return
    one_at_a_time("applications", scope.tenant_id or "")
    count = session.scalar(sa.select(sa.func.count()).where(Application.tenant_id == scope.tenant_id))
    if (count or 0) >= limit:
        raise LimitExceeded(f"max_applications_per_tenant is {limit}")
