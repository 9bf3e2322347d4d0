"""Settings: the nearest value wins unless a level above locked it; each level belongs to its own administrators."""

from __future__ import annotations

from typing import Any

import pytest

from broker import settings
from broker.db import unit
from broker.models import Event
from tests.casting import Caller, Cast, code


def read(caller: Caller, path: str, name: str) -> tuple[Any, str, str | None]:
    found = caller.get(path).get_json()[name]
    return found["value"], found["source"], found["locked_by"]


def test_every_setting_is_shown_with_its_source(cast: Cast) -> None:
    shown = cast.acme_admin.get(f"/tenants/{cast.acme.tenant_id}/settings").get_json()
    assert set(shown) == set(settings.SETTINGS) - {"signing_key_lifetime", "sync_runs_at_once", "sync_runs_per_tenant"}
    whole = cast.super_admin.get("/platform/settings").get_json()
    assert set(whole) == set(settings.SETTINGS) and whole["signing_key_lifetime"]["value"] == 90 * 86_400
    assert shown["removal_guard"]["value"] == {"min": 5, "percent": 10, "percent_24h": 20}
    assert shown["session_timeout"]["source"] == "default" and shown["session_timeout"]["locked_by"] is None


def test_the_nearest_value_wins_until_a_level_above_locks(cast: Cast) -> None:
    tenant, partner = f"/tenants/{cast.acme.tenant_id}/settings", f"/partners/{cast.world.partner_id}/settings"
    name = "session_timeout"
    assert cast.partner_admin.patch(partner, {name: 7200}).status_code == 200
    assert read(cast.acme_admin, tenant, name) == (7200, "partner", None)
    assert cast.acme_admin.patch(tenant, {name: 600}).status_code == 200
    assert read(cast.acme_admin, tenant, name) == (600, "tenant", None)
    assert read(cast.globex_admin, f"/tenants/{cast.globex.tenant_id}/settings", name) == (7200, "partner", None)
    locked = cast.partner_admin.patch(partner, {name: {"value": 3600, "locked": True}})
    assert locked.get_json()[name] == {**locked.get_json()[name], "value": 3600, "locked_by": "partner"}
    assert read(cast.acme_admin, tenant, name) == (3600, "partner", "partner")
    assert code(cast.acme_admin.patch(tenant, {name: 900})) == (409, "conflict")
    assert cast.partner_admin.patch(partner, {name: None}).status_code == 200
    assert read(cast.acme_admin, tenant, name) == (600, "tenant", None)
    assert cast.acme_admin.patch(tenant, {name: None}).status_code == 200
    assert read(cast.acme_admin, tenant, name) == (43200, "default", None)
    for scope, kind in ((cast.acme, "Tenant"), (cast.home, "Partner")):
        with unit(scope) as session:
            told = session.query(Event).filter(Event.name == "settings.changed")
            assert {event.resource_type for event in told} == {kind}


def test_the_platform_sets_for_all(cast: Cast) -> None:
    path, tenant = "/platform/settings", f"/tenants/{cast.acme.tenant_id}/settings"
    try:
        assert cast.super_admin.patch(path, {"session_idle_timeout": 120}).status_code == 200
        assert read(cast.acme_admin, tenant, "session_idle_timeout") == (120, "platform", None)
    finally:
        cast.super_admin.patch(path, {"session_idle_timeout": None})
    assert read(cast.acme_admin, tenant, "session_idle_timeout")[1] == "default"


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ({"session_timeout": "long"}, (422, "validation_failed")),
        ({"session_timeout": 1}, (422, "validation_failed")),
        ({"session_timeout": True}, (422, "validation_failed")),
        ({"no_such": 1}, (422, "validation_failed")),
        ({"removal_guard": {"percent": 200}}, (422, "validation_failed")),
        ({"mfa_policy": "required"}, (422, "not_available")),
        ({"mfa_policy": "sometimes"}, (422, "validation_failed")),
        ({"mfa_policy": []}, (422, "validation_failed")),
        ({"password_grant_enabled": True}, (422, "not_available")),
        ({"session_timeout": {"value": 600, "locked": "yes"}}, (422, "validation_failed")),
    ],
)
def test_wrong_values_are_refused(cast: Cast, body: dict[str, Any], refusal: tuple[int, str]) -> None:
    path = f"/tenants/{cast.acme.tenant_id}/settings"
    assert code(cast.acme_admin.patch(path, body)) == refusal
    assert cast.acme_admin.patch(path, {"mfa_policy": "off", "removal_guard": {"percent": 20}}).status_code == 200


def test_each_level_belongs_to_its_own(cast: Cast) -> None:
    tenant, partner = f"/tenants/{cast.acme.tenant_id}/settings", f"/partners/{cast.world.partner_id}/settings"
    body = {"session_timeout": 600}
    for caller, path in (
        (cast.acme_admin, partner),
        (cast.acme_admin, "/platform/settings"),
        (cast.partner_admin, "/platform/settings"),
        (cast.globex_admin, tenant),
        (cast.person, tenant),
    ):
        assert code(caller.get(path)) == (404, "not_found")
        assert code(caller.patch(path, body)) == (404, "not_found")
    assert cast.partner_admin.patch(tenant, body).status_code == 200
    assert code(cast.super_admin.get("/partners/prt_none/settings")) == (404, "not_found")
    home = f"/tenants/{cast.home.tenant_id}/settings"
    assert cast.partner_admin.patch(home, body).status_code == 200


def test_settings_have_an_etag_and_heed_if_match(cast: Cast) -> None:
    for caller, path in (
        (cast.acme_admin, f"/tenants/{cast.acme.tenant_id}/settings"),
        (cast.partner_admin, f"/partners/{cast.world.partner_id}/settings"),
    ):
        before = caller.get(path).headers["ETag"]
        changed = caller.patch(path, {"session_timeout": 7300}, headers={"If-Match": before})
        assert changed.status_code == 200 and changed.headers["ETag"] == caller.get(path).headers["ETag"] != before
        stale = caller.patch(path, {"session_timeout": None}, headers={"If-Match": before})
        assert code(stale) == (412, "precondition_failed")
        assert caller.patch(path, {"session_timeout": None}).headers["ETag"] == before
