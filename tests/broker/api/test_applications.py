"""Applications: kept by one tenant, met by others through access, assigned to people and groups."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from broker import ids
from broker.context import Scope
from broker.db import unit
from broker.models import Event
from tests.casting import Caller, Cast, code, make_group, make_user


def new(**fields: Any) -> dict[str, Any]:
    return {"name": "Wiki", "type": "web", **fields}


def make(caller: Caller, **fields: Any) -> dict[str, Any]:
    response = caller.post("/applications", new(**fields))
    assert response.status_code == 201, response.get_data(as_text=True)
    made: dict[str, Any] = response.get_json()
    return made


def told(scope: Scope) -> list[str]:
    with unit(scope) as session:
        return [event.name for event in session.query(Event).order_by(Event.no)]


def test_an_application_is_made_read_changed_and_deleted(cast: Cast) -> None:
    app = make(cast.acme_admin, launch_url="https://wiki.acme.example/start", audience="https://api.acme.example")
    assert app["scope"] == "TENANT" and app["enabled"] and app["assignment_required"] and app["client_id"]
    path = f"/applications/{app['id']}"
    assert app.pop("client_secret")
    assert cast.acme_admin.get(path).get_json() == app
    changed = cast.acme_admin.patch(path, {"name": "Handbook", "enabled": False})
    assert changed.get_json()["name"] == "Handbook" and not changed.get_json()["enabled"]
    stale = cast.acme_admin.delete(path, headers={"If-Match": '"stale"'})
    assert code(stale) == (412, "precondition_failed")
    assert cast.acme_admin.delete(path).status_code == 204
    assert code(cast.acme_admin.get(path)) == (404, "not_found")
    mine = [name for name in told(cast.acme) if name.startswith("application")]
    assert mine == ["application.created", "application.secret_created", "application.updated", "application.removed"]


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"type": "spaceship"}, "type"),
        ({"scope": "tenant"}, "scope"),
        ({"launch_url": "javascript:alert(1)"}, "launch_url"),
        ({"launch_url": "https://user:secret@x.example/"}, "launch_url"),
        ({"launch_url": "//x.example"}, "launch_url"),
        ({"icon_url": "https://x.example/a b"}, "icon_url"),
        ({"audience": "ScaiKey"}, "audience"),
        ({"enabled": "yes"}, "enabled"),
        ({"enabled": 1}, "enabled"),
        ({"client_id": "mine"}, "client_id"),
        ({"tenant_id": "tnt_x"}, "tenant_id"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_wrong_fields_are_named(cast: Cast, fields: dict[str, Any], wrong: str) -> None:
    response = cast.acme_admin.post("/applications", new(**fields))
    assert code(response) == (422, "validation_failed") and list(response.get_json()["errors"]) == [wrong]


def test_logout_by_the_back_channel_is_not_available(cast: Cast) -> None:
    response = cast.acme_admin.post("/applications", new(backchannel_logout_uri="https://x.example/out"))
    assert code(response) == (422, "not_available")
    assert list(response.get_json()["errors"]) == ["backchannel_logout_uri"]
    make(cast.acme_admin, backchannel_logout_uri=None)


def test_the_scope_of_an_application_never_changes(cast: Cast) -> None:
    path = f"/applications/{make(cast.acme_admin)['id']}"
    assert code(cast.acme_admin.patch(path, {"scope": "PARTNER"})) == (422, "validation_failed")
    assert cast.acme_admin.patch(path, {"scope": "TENANT"}).status_code == 200


def test_wide_applications_are_kept_by_home_and_platform(cast: Cast) -> None:
    for caller in (cast.acme_admin, cast.partner_admin.at(cast.acme), cast.super_admin.at(cast.acme)):
        for scope in ("PARTNER", "GLOBAL"):
            assert code(caller.post("/applications", new(scope=scope))) == (422, "validation_failed")
    assert make(cast.partner_admin.at(cast.home), scope="PARTNER")["tenant_id"] == cast.home.tenant_id
    assert code(cast.partner_admin.at(cast.home).post("/applications", new(scope="GLOBAL"))) == (
        422,
        "validation_failed",
    )
    assert make(cast.super_admin.at(cast.platform), scope="GLOBAL")["tenant_id"] == cast.platform.tenant_id
    assert code(cast.super_admin.at(cast.platform).post("/applications", new(scope="PARTNER"))) == (
        422,
        "validation_failed",
    )


def test_another_tenant_meets_an_application_through_access_alone(cast: Cast) -> None:
    home = cast.partner_admin.at(cast.home)
    app = make(home, scope="PARTNER")
    path, access = f"/applications/{app['id']}", f"/applications/{app['id']}/access"
    assert code(cast.acme_admin.get(path)) == (404, "not_found")
    shared = home.post(access, {"tenant_id": cast.acme.tenant_id})
    assert shared.status_code == 201 and shared.get_json()["tenant_id"] == cast.acme.tenant_id
    assert cast.acme_admin.get(path).get_json()["id"] == app["id"]
    assert app["id"] in [one["id"] for one in cast.acme_admin.get("/applications").get_json()["items"]]
    assert code(cast.globex_admin.get(path)) == (404, "not_found")
    assert code(cast.globex_admin.get(access)) == (404, "not_found")
    seen = [one["tenant_id"] for one in cast.acme_admin.get(access).get_json()["items"]]
    assert seen == [cast.acme.tenant_id], "a user of an application does not see the others"
    assert len(home.get(access).get_json()["items"]) == 2
    for refused in (
        cast.acme_admin.patch(path, {"name": "Mine"}),
        cast.acme_admin.delete(path),
        cast.acme_admin.post(access, {"tenant_id": cast.globex.tenant_id}),
        cast.partner_admin.at(cast.acme).delete(path),
        cast.partner_admin.at(cast.acme).patch(path, {"name": "Mine"}),
    ):
        assert code(refused) == (403, "access_denied")
    assert code(home.post(access, {"tenant_id": cast.acme.tenant_id})) == (409, "conflict")
    assert "application.access_granted" in told(cast.acme) and "application.access_granted" in told(cast.home)
    assert home.delete(f"{access}/{cast.acme.tenant_id}").status_code == 204
    assert code(cast.acme_admin.get(path)) == (404, "not_found")
    assert code(home.delete(f"{access}/{cast.acme.tenant_id}")) == (404, "not_found")
    assert code(home.delete(f"{access}/{cast.home.tenant_id}")) == (409, "conflict")


def test_applications_are_shared_within_their_reach_only(cast: Cast) -> None:
    home, platform = cast.partner_admin.at(cast.home), cast.super_admin.at(cast.platform)
    partner_app, global_app = make(home, scope="PARTNER")["id"], make(platform, scope="GLOBAL")["id"]
    elsewhere = cast.super_admin.post("/partners", {"name": "E", "slug": ids.new("prt")[4:]}).get_json()
    foreign = {"tenant_id": elsewhere["home_tenant_id"]}
    for caller in (home, cast.super_admin.at(cast.home)):
        assert code(caller.post(f"/applications/{partner_app}/access", foreign)) == (422, "validation_failed")
    nothing = home.post(f"/applications/{partner_app}/access", {"tenant_id": "tnt_none"})
    assert code(nothing) == (422, "validation_failed")
    assert platform.post(f"/applications/{global_app}/access", foreign).status_code == 201
    assert code(home.post(f"/applications/{global_app}/access", foreign)) == (404, "not_found")
    own = make(cast.acme_admin)["id"]
    shared = cast.partner_admin.at(cast.acme).post(f"/applications/{own}/access", {"tenant_id": cast.globex.tenant_id})
    assert code(shared) == (409, "conflict")
    assert code(cast.acme_admin.post(f"/applications/{own}/access", {"tenant_id": cast.globex.tenant_id})) == (
        403,
        "access_denied",
    )


def test_the_limit_of_applications_holds_under_parallel_requests(cast: Cast) -> None:
    cast.super_admin.patch(f"/partners/{cast.world.partner_id}", {"max_applications_per_tenant": 2})
    app, admin = cast.client.application, cast.acme_admin

    def attempt(_: int) -> int:
        return Caller(app.test_client(), admin.user_id, admin.token).post("/applications", new()).status_code

    with ThreadPoolExecutor(5) as pool:
        assert sorted(pool.map(attempt, range(5))) == [201, 201, 409, 409, 409]
    refused = admin.post("/applications", new())
    assert code(refused) == (409, "limit_exceeded") and "2" in refused.get_json()["detail"]
    assert cast.globex_admin.post("/applications", new()).status_code == 201, "each tenant has its own count"
    for _ in range(3):
        make(cast.partner_admin.at(cast.home), scope="PARTNER")


def test_people_and_groups_are_assigned_with_roles(cast: Cast) -> None:
    path = f"/applications/{make(cast.acme_admin)['id']}/assignments"
    user, group = make_user(cast.acme), make_group(cast.acme)
    assigned = cast.acme_admin.post(path, {"principal_id": user, "roles": ["editor", "editor", "viewer"]})
    assert assigned.status_code == 201 and assigned.get_json()["roles"] == ["editor", "viewer"]
    assert cast.acme_admin.post(path, {"principal_id": group}).get_json()["roles"] == []
    assert code(cast.acme_admin.post(path, {"principal_id": user})) == (409, "conflict")
    one = f"{path}/{assigned.get_json()['id']}"
    assert cast.acme_admin.patch(one, {"roles": ["owner"]}).get_json()["roles"] == ["owner"]
    assert code(cast.acme_admin.patch(one, {"principal_id": group})) == (422, "validation_failed")
    assert len(cast.acme_admin.get(path).get_json()["items"]) == 2
    assert len(cast.acme_admin.get(f"{path}?principal_id={user}").get_json()["items"]) == 1
    assert cast.acme_admin.delete(one).status_code == 204 and code(cast.acme_admin.get(one)) == (404, "not_found")
    assert told(cast.acme)[-4:] == [
        "assignment.created",
        "assignment.created",
        "assignment.updated",
        "assignment.removed",
    ]


@pytest.mark.parametrize(
    "role", ["tenant_admin", "PARTNER_ADMIN", "super_admin", "scaikey:read", "ScaiKey:x", "", "a b", "é"]
)
def test_an_administrators_role_is_never_an_applications(cast: Cast, role: str) -> None:
    path = f"/applications/{make(cast.acme_admin)['id']}/assignments"
    user = make_user(cast.acme)
    assert code(cast.acme_admin.post(path, {"principal_id": user, "roles": [role]})) == (422, "validation_failed")
    assert cast.acme_admin.post(path, {"principal_id": user, "roles": ["admin"]}).status_code == 201


def test_only_principals_of_the_tenant_are_assigned(cast: Cast) -> None:
    path = f"/applications/{make(cast.acme_admin)['id']}/assignments"
    for principal in (make_user(cast.globex), ids.new("usr"), cast.acme.tenant_id):
        assert code(cast.acme_admin.post(path, {"principal_id": principal})) == (422, "validation_failed")
    assert code(cast.globex_admin.get(path)) == (404, "not_found")
    assert code(cast.globex_admin.post(path, {"principal_id": make_user(cast.globex)})) == (404, "not_found")


def test_each_tenant_sees_its_own_assignments_of_a_shared_application(cast: Cast) -> None:
    home = cast.partner_admin.at(cast.home)
    app = make(home, scope="PARTNER")["id"]
    for tenant in (cast.acme, cast.globex):
        assert home.post(f"/applications/{app}/access", {"tenant_id": tenant.tenant_id}).status_code == 201
    path = f"/applications/{app}/assignments"
    mine = cast.acme_admin.post(path, {"principal_id": make_user(cast.acme)}).get_json()["id"]
    cast.globex_admin.post(path, {"principal_id": make_user(cast.globex)})
    assert [one["id"] for one in cast.acme_admin.get(path).get_json()["items"]] == [mine]
    assert code(cast.globex_admin.get(f"{path}/{mine}")) == (404, "not_found")
    assert code(cast.globex_admin.delete(f"{path}/{mine}")) == (404, "not_found")
    assert home.delete(f"/applications/{app}/access/{cast.acme.tenant_id}").status_code == 204
    assert code(cast.acme_admin.get(path)) == (404, "not_found")
    assert len(cast.globex_admin.get(path).get_json()["items"]) == 1
