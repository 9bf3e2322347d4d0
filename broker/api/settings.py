"""Settings at three levels. The value set nearest the tenant wins unless a level above locked it.

Which settings there are, their checks and their defaults are `broker.settings`'.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from flask import Response

from broker import access, settings
from broker.api.door import api, body, check_seen, tagged
from broker.context import PLATFORM, Scope
from broker.db import current_scope, db
from broker.doors import About
from broker.models import Partner
from broker.policy import Action
from broker.registry.changes import tell
from broker.registry.partners import platform_tenant_id

_DESCRIBED = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "properties": {
            "value": {},
            "source": {"enum": ["default", "platform", "partner", "tenant"]},
            "locked_by": {"enum": ["platform", "partner", "tenant", None]},
            "description": {"type": "string"},
        },
    },
    "description": ", ".join(settings.SETTINGS),
}
_TAKEN = {
    "type": "object",
    "properties": {name: {"description": setting.doc} for name, setting in settings.SETTINGS.items()},
    "additionalProperties": False,
    "description": 'Each a value, `{"value": …, "locked": true}`, or null to take the value back.',
}


def _shown(scope: Scope) -> dict[str, Any]:
    return {
        name: {
            "value": found.value,
            "source": found.source,
            "locked_by": found.locked_by,
            "description": settings.SETTINGS[name].doc,
        }
        for name, found in settings.all_of(scope).items()
    }


def _change(scope: Scope, resource_type: str, resource_id: str, log: Callable[[], str | None]) -> Response:
    # What a level holds is many rows and, at first, none: who compares them waits for who changes them.
    db.session().execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(resource_id, 0))))
    check_seen(_shown(scope))
    changed = settings.change(scope, body())
    if changed:
        tell("settings.changed", resource_type, resource_id, changed, tenant_id=log())
    return tagged(_shown(scope))


@api.route(
    "/platform/settings", action=Action.PLATFORM_SETTINGS_READ, context="platform", about=About(gives=_DESCRIBED)
)
def read_platform_settings() -> Response:
    """The settings as they hold for the whole platform."""
    return tagged(_shown(PLATFORM))


@api.route(
    "/platform/settings",
    methods=["PATCH"],
    action=Action.PLATFORM_SETTINGS_WRITE,
    context="platform",
    about=About(takes=_TAKEN, gives=_DESCRIBED),
)
def change_platform_settings() -> Response:
    """Set or lock values for everybody."""
    return _change(PLATFORM, "Platform", "platform", platform_tenant_id)


def _partner(partner_id: str, action: Action) -> tuple[Partner, Scope]:
    return access.fetch(Partner, partner_id, to=action), Scope(None, partner_id)


@api.route(
    "/partners/<partner_id>/settings",
    action=Action.PARTNER_SETTINGS_READ,
    context="partner",
    about=About(gives=_DESCRIBED),
)
def read_partner_settings(partner_id: str) -> Response:
    """The settings as they hold for a partner."""
    return tagged(_shown(_partner(partner_id, Action.PARTNER_SETTINGS_READ)[1]))


@api.route(
    "/partners/<partner_id>/settings",
    methods=["PATCH"],
    action=Action.PARTNER_SETTINGS_WRITE,
    context="partner",
    about=About(takes=_TAKEN, gives=_DESCRIBED),
)
def change_partner_settings(partner_id: str) -> Response:
    """Set or lock values for all tenants of a partner."""
    partner, scope = _partner(partner_id, Action.PARTNER_SETTINGS_WRITE)
    return _change(scope, "Partner", partner.id, lambda: partner.home_tenant_id)


@api.route("/tenants/<tenant_id>/settings", action=Action.SETTINGS_READ, about=About(gives=_DESCRIBED))
def read_tenant_settings(tenant_id: str) -> Response:
    """The settings as they hold for a tenant."""
    return tagged(_shown(current_scope()))


@api.route(
    "/tenants/<tenant_id>/settings",
    methods=["PATCH"],
    action=Action.SETTINGS_WRITE,
    about=About(takes=_TAKEN, gives=_DESCRIBED),
)
def change_tenant_settings(tenant_id: str) -> Response:
    """Set values for a tenant."""
    return _change(current_scope(), "Tenant", tenant_id, lambda: None)
