"""`/applications`, with the tenants that may use each and the people and groups assigned.

What must be true of an application, an access or an assignment whoever asks is `registry.applications`'.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from flask import Response
from marshmallow import RAISE, Schema, validate

from broker import access, credentials
from broker.api.door import api, body, check_if_match, created, json, listed, nothing, show
from broker.api.shapes import NAME, Instant, Object, Shape, Whole, auto_field, fields, one_of, take, take_changes
from broker.context import Scope
from broker.db import current_tenant, db
from broker.doors import About, scope
from broker.errors import Conflict, Forbidden, NotFound
from broker.models import Application, ApplicationAccess, Assignment, ClientSecret
from broker.policy import Action
from broker.protocol import AUTH_METHODS, SECRET_METHODS
from broker.registry import applications as registry


def _texts() -> Any:
    return fields.List(fields.String(), validate=validate.Length(max=100))


class ApplicationShape(Shape):
    FIXED = frozenset({"scope"})
    LATER = frozenset({"backchannel_logout_uri"})

    class Meta(Shape.Meta):
        model = Application

    id = auto_field(dump_only=True)
    tenant_id = auto_field(dump_only=True)
    name = auto_field(validate=NAME)
    type = auto_field(validate=one_of("web", "spa", "native", "service", "mcp"))
    scope = auto_field(validate=one_of("TENANT", "PARTNER", "GLOBAL"))
    client_id = auto_field(dump_only=True)
    enabled = auto_field()
    third_party = auto_field()
    assignment_required = auto_field()
    redirect_uris = _texts()
    post_logout_redirect_uris = _texts()
    grant_types = _texts()
    token_endpoint_auth_method = auto_field(validate=one_of(*AUTH_METHODS))
    jwks = Object(allow_none=True)
    jwks_uri = auto_field()
    access_token_signed_response_alg = auto_field(validate=one_of("RS256", "ES256"))
    id_token_signed_response_alg = auto_field(validate=one_of("RS256", "ES256"))
    audience = auto_field(validate=NAME)
    allowed_audiences = _texts()
    scopes = _texts()
    access_token_lifetime = auto_field()
    authorization_code_lifetime = auto_field()
    launch_url = auto_field()
    icon_url = auto_field()
    created_at = auto_field(dump_only=True)
    updated_at = auto_field(dump_only=True)


class NewApplicationShape(ApplicationShape):
    client_secret = fields.String(dump_only=True)


class RotationShape(Schema):
    """`overlap`: for how many seconds earlier secrets go on working."""

    class Meta:
        unknown = RAISE

    overlap = Whole(load_default=int(credentials.OVERLAP.total_seconds()))


class SecretShape(Shape):
    class Meta(Shape.Meta):
        model = ClientSecret

    id = auto_field(dump_only=True)
    client_secret = fields.String(dump_only=True)
    created_at = auto_field(dump_only=True)
    expires_at = auto_field(dump_only=True)


class AccessShape(Schema):
    class Meta:
        unknown = RAISE

    tenant_id = fields.String(required=True)
    created_at = Instant(dump_only=True)


class AssignmentShape(Shape):
    FIXED = frozenset({"principal_id"})

    class Meta(Shape.Meta):
        model = Assignment

    id = auto_field(dump_only=True)
    application_id = auto_field(dump_only=True)
    principal_id = auto_field()
    roles = fields.List(fields.String(), validate=validate.Length(max=50))
    created_at = auto_field(dump_only=True)
    updated_at = auto_field(dump_only=True)


@api.route(
    "/applications",
    action=Action.APPLICATION_READ,
    about=About(
        gives=ApplicationShape,
        listed=True,
        query={"client_id": "Only the application of this client id.", "scope": "Only applications of this scope."},
    ),
)
def list_applications() -> Response:
    """The applications the tenant may use, its own and those shared with it."""
    return listed(
        sa.select(Application),
        ApplicationShape,
        [Application.id],
        filters={
            "client_id": lambda client_id: Application.client_id == client_id,
            "scope": lambda name: Application.scope == name,
        },
    )


@api.route(
    "/applications",
    methods=["POST"],
    action=Action.APPLICATION_WRITE,
    about=About(takes=ApplicationShape, gives=NewApplicationShape, status=201),
)
def create_application() -> Response:
    """Register an application. `client_secret`, for a client that authenticates by one, is shown in this answer only.

    PARTNER ones are registered in the partner's home tenant, GLOBAL ones in the platform tenant.
    """
    application = registry.create(take(ApplicationShape, body()))
    besides = {}
    if application.token_endpoint_auth_method in SECRET_METHODS:
        _, besides["client_secret"] = credentials.mint_client_secret(application_id=application.id)
    return created(ApplicationShape, application, f"/applications/{application.id}", **besides)


@api.route("/applications/<application_id>", action=Action.APPLICATION_READ, about=About(gives=ApplicationShape))
def read_application(application_id: str) -> Response:
    """One application."""
    return show(ApplicationShape, access.fetch(Application, application_id, to=Action.APPLICATION_READ))


@api.route(
    "/applications/<application_id>",
    methods=["PATCH"],
    action=Action.APPLICATION_WRITE,
    about=About(takes=ApplicationShape, gives=ApplicationShape),
)
def change_application(application_id: str) -> Response:
    """Change an application in the tenant that keeps it."""
    application = access.fetch(Application, application_id, to=Action.APPLICATION_WRITE)
    # Taken only now: the lock would be refused for an application of another tenant.
    db.session().refresh(application, with_for_update=True)
    check_if_match(ApplicationShape, application)
    registry.update(application, take_changes(ApplicationShape, application, body()))
    if application.token_endpoint_auth_method not in SECRET_METHODS:
        credentials.forget_client_secrets(application_id=application.id)
    return show(ApplicationShape, application)


@api.route(
    "/applications/<application_id>/secrets",
    methods=["POST"],
    action=Action.APPLICATION_WRITE,
    about=About(takes=RotationShape, gives=SecretShape, status=201),
)
def rotate_application_secret(application_id: str) -> Response:
    """Make a new client secret, shown in this answer only.

    Earlier ones work for `overlap` seconds longer, a day unless said otherwise; with 0 they end now.
    """
    application = access.fetch(Application, application_id, to=Action.APPLICATION_WRITE)
    overlap = timedelta(seconds=take(RotationShape, body())["overlap"])
    if application.token_endpoint_auth_method not in SECRET_METHODS:
        raise Conflict("The application does not authenticate by a secret")
    made, secret = credentials.mint_client_secret(application_id=application.id, overlap=overlap)
    return show(SecretShape, made, 201, client_secret=secret)


@api.route(
    "/applications/<application_id>",
    methods=["DELETE"],
    action=Action.APPLICATION_WRITE,
    spanning=True,
    about=About(status=204),
)
def remove_application(application_id: str) -> Response:
    """Delete an application for every tenant. Its SCIM targets have to be removed first."""
    application = _kept_here(application_id, scope(), Action.APPLICATION_WRITE)
    check_if_match(ApplicationShape, application)
    registry.remove(application)
    return nothing()


@api.route(
    "/applications/<application_id>/access",
    action=Action.APPLICATION_READ,
    about=About(gives=AccessShape, listed=True),
    spanning=True,
)
def list_access(application_id: str) -> Response:
    """The tenants that may use an application; in a tenant that does not keep it, that tenant alone."""
    here = scope()
    statement = sa.select(ApplicationAccess).where(ApplicationAccess.application_id == application_id)
    own = db.session().get(ApplicationAccess, (here.tenant_id, application_id))
    if own is None:
        raise NotFound
    if own.owner_tenant_id != here.tenant_id:
        statement = statement.where(ApplicationAccess.tenant_id == here.tenant_id)
    return listed(statement, AccessShape, [ApplicationAccess.tenant_id])


@api.route(
    "/applications/<application_id>/access",
    methods=["POST"],
    action=Action.APPLICATION_SHARE,
    spanning=True,
    about=About(takes=AccessShape, gives=AccessShape, status=201),
)
def share_application(application_id: str) -> Response:
    """Let another tenant use a PARTNER or GLOBAL application."""
    application = _kept_here(application_id, scope(), Action.APPLICATION_SHARE)
    shared = registry.share(application, take(AccessShape, body())["tenant_id"])
    return json(AccessShape().dump(shared), 201)


@api.route(
    "/applications/<application_id>/access/<other_tenant_id>",
    methods=["DELETE"],
    action=Action.APPLICATION_SHARE,
    spanning=True,
    about=About(status=204),
)
def withdraw_application(application_id: str, other_tenant_id: str) -> Response:
    """End a tenant's access, and with it its assignments. Its SCIM targets have to be removed first."""
    registry.withdraw(_kept_here(application_id, scope(), Action.APPLICATION_SHARE), other_tenant_id)
    return nothing()


def _kept_here(application_id: str, here: Scope, to: Action) -> Application:
    """The application, which the tenant at hand must keep: these transactions span tenants, and the wall is open."""
    session = db.session()
    kept = sa.select(Application).where(Application.id == application_id, Application.tenant_id == here.tenant_id)
    if session.scalar(kept.with_for_update()) is None:
        if session.get(ApplicationAccess, (here.tenant_id, application_id)) is None:
            raise NotFound
        raise Forbidden("The application is kept by another tenant: act in that one")
    return access.fetch(Application, application_id, to=to)


@api.route(
    "/applications/<application_id>/assignments",
    action=Action.ASSIGNMENT_READ,
    about=About(gives=AssignmentShape, listed=True, query={"principal_id": "Only this user or group."}),
)
def list_assignments(application_id: str) -> Response:
    """The people and groups of the tenant that are assigned to an application."""
    access.fetch(Application, application_id, to=Action.ASSIGNMENT_READ)
    return listed(
        sa.select(Assignment).where(Assignment.application_id == application_id),
        AssignmentShape,
        [Assignment.id],
        filters={"principal_id": lambda principal_id: Assignment.principal_id == principal_id},
    )


@api.route(
    "/applications/<application_id>/assignments",
    methods=["POST"],
    action=Action.ASSIGNMENT_WRITE,
    about=About(takes=AssignmentShape, gives=AssignmentShape, status=201),
)
def create_assignment(application_id: str) -> Response:
    """Assign a person or a group to an application."""
    application = access.fetch(Application, application_id, to=Action.APPLICATION_READ)
    values = take(AssignmentShape, body())
    assignment = registry.assign_to(application, values["principal_id"], values.get("roles", []))
    return created(AssignmentShape, assignment, f"/applications/{application_id}/assignments/{assignment.id}")


@api.route(
    "/applications/<application_id>/assignments/<assignment_id>",
    action=Action.ASSIGNMENT_READ,
    about=About(gives=AssignmentShape),
)
def read_assignment(application_id: str, assignment_id: str) -> Response:
    """One assignment."""
    return show(AssignmentShape, _assignment(application_id, assignment_id, Action.ASSIGNMENT_READ))


@api.route(
    "/applications/<application_id>/assignments/<assignment_id>",
    methods=["PATCH"],
    action=Action.ASSIGNMENT_WRITE,
    about=About(takes=AssignmentShape, gives=AssignmentShape),
)
def change_assignment(application_id: str, assignment_id: str) -> Response:
    """Change the roles of an assignment."""
    assignment = _assignment(application_id, assignment_id, Action.ASSIGNMENT_WRITE, lock=True)
    check_if_match(AssignmentShape, assignment)
    changes = take_changes(AssignmentShape, assignment, body())
    registry.change_roles(assignment, changes.get("roles", assignment.roles))
    return show(AssignmentShape, assignment)


@api.route(
    "/applications/<application_id>/assignments/<assignment_id>",
    methods=["DELETE"],
    action=Action.ASSIGNMENT_WRITE,
    about=About(status=204),
)
def remove_assignment(application_id: str, assignment_id: str) -> Response:
    """Take a person or a group off an application."""
    assignment = _assignment(application_id, assignment_id, Action.ASSIGNMENT_WRITE, lock=True)
    check_if_match(AssignmentShape, assignment)
    registry.unassign(assignment)
    return nothing()


def _assignment(application_id: str, assignment_id: str, to: Action, *, lock: bool = False) -> Assignment:
    assignment = access.fetch(Assignment, assignment_id, to=to, lock=lock)
    if assignment.application_id != application_id or assignment.tenant_id != current_tenant():
        raise NotFound
    return assignment
