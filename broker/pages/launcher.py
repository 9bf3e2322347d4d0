"""`/t/{slug}/apps`: the applications a person may open. Who is not signed in is asked to, and comes back.

An application shows when it is enabled, within the tenant's access, has an address, and is assigned to the person or
asks for no assignment.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from flask import Response

from broker.context import Scope, acting, current_request_id
from broker.db import current_tenant, db, unit
from broker.directory.reach import groups_above
from broker.doors import About
from broker.models import Application, ApplicationAccess, Assignment
from broker.pages import faces
from broker.pages.door import door
from broker.pages.sign_out import PURPOSE
from broker.pages.tenant import brand, of_tenant, see_other
from broker.policy import Action, authorize
from broker.sign_in import sessions


@door.route("/t/<tenant_slug>/apps", action=Action.NOTHING_SECRET, context="none", about=About(announced=False))
@of_tenant
def show_apps(scope: Scope) -> Response:
    """The launcher."""
    live = sessions.of_request(scope.slug or "")
    if live is None:
        return see_other(f"/t/{scope.slug}/sign-in")
    authorize(live.actor(), Action.LAUNCHER_READ, scope)
    with acting(live.actor(), current_request_id()), unit(scope):
        look = brand(scope)
        tiles = [faces.Tile(one.name, one.launch_url, one.icon_url) for one in openable(live.user_id)]
    return faces.apps(
        look,
        user=live.user_name,
        applications=tiles,
        sign_out=f"/t/{scope.slug}/sign-out",
        csrf=live.csrf(PURPOSE),
    )


def openable(user_id: str) -> Sequence[Application]:
    """The applications of the open unit's tenant that the person may open, by name."""
    above = groups_above(current_tenant(), [user_id])
    mine = sa.or_(Assignment.principal_id == user_id, Assignment.principal_id.in_(sa.select(above.c.id)))
    assigned = Application.id.in_(sa.select(Assignment.application_id).where(mine))
    return (
        db.session()
        .scalars(
            sa.select(Application)
            .where(
                Application.enabled,
                Application.launch_url.is_not(None),
                Application.id.in_(sa.select(ApplicationAccess.application_id)),
                sa.or_(~Application.assignment_required, assigned),
            )
            .order_by(sa.func.lower(Application.name), Application.id)
        )
        .all()
    )
