"""Roles: held where their holders live, and never granted wider than the granter's own."""

from __future__ import annotations

from typing import Any

import pytest

from broker import ids
from broker.db import unit
from broker.models import Event
from tests.casting import Caller, Cast, code, make_group, make_user

PATH = "/role-assignments"


def grant(caller: Caller, role: str, principal_id: str, scope_id: str | None = None) -> Any:
    body: dict[str, Any] = {"role": role, "principal_id": principal_id}
    return caller.post(PATH, body if scope_id is None else {**body, "scope_id": scope_id})


def test_a_tenants_admin_makes_another_and_takes_the_role_back(cast: Cast) -> None:
    user = make_user(cast.acme)
    granted = grant(cast.acme_admin, "tenant_admin", user)
    assert granted.status_code == 201 and granted.get_json()["scope_id"] == cast.acme.tenant_id
    second = cast.caller(user, cast.acme)
    assert second.get("/applications").status_code == 200
    assert code(grant(cast.acme_admin, "tenant_admin", user)) == (409, "conflict")
    assert cast.acme_admin.delete(f"{PATH}/{granted.get_json()['id']}").status_code == 204
    assert code(second.get("/applications")) == (404, "not_found"), "the role is gone on the next request"
    with unit(cast.acme) as session:
        names = [event.name for event in session.query(Event).order_by(Event.no)]
    assert [name for name in names if name.startswith("role.")] == ["role.granted", "role.revoked"]


def test_tenant_admin_comes_through_nested_groups_too(cast: Cast) -> None:
    user = make_user(cast.acme)
    outer = make_group(cast.acme, make_group(cast.acme, user))
    caller = cast.caller(user, cast.acme)
    assert code(caller.get("/applications")) == (404, "not_found")
    assert grant(cast.acme_admin, "tenant_admin", outer).status_code == 201
    assert caller.get("/applications").status_code == 200


@pytest.mark.parametrize("role", ["partner_admin", "super_admin"])
def test_wide_roles_are_not_granted_in_a_customers_tenant(cast: Cast, role: str) -> None:
    user = make_user(cast.acme)
    for caller in (cast.acme_admin, cast.partner_admin.at(cast.acme), cast.super_admin.at(cast.acme)):
        assert code(grant(caller, role, user)) == (422, "validation_failed")


def test_nobody_grants_wider_than_his_own(cast: Cast) -> None:
    at_home, at_platform = make_user(cast.home), make_user(cast.platform)
    assert code(grant(cast.partner_admin.at(cast.platform), "super_admin", at_platform)) == (404, "not_found")
    assert code(grant(cast.partner_admin.at(cast.home), "super_admin", at_home)) == (422, "validation_failed")
    assert grant(cast.partner_admin.at(cast.home), "partner_admin", at_home).status_code == 201
    assert grant(cast.super_admin.at(cast.platform), "super_admin", at_platform).status_code == 201
    assert code(grant(cast.acme_admin.at(cast.home), "partner_admin", make_user(cast.home))) == (
        400,
        "context_conflict",
    )
    assert code(grant(cast.person, "tenant_admin", cast.person.user_id)) == (404, "not_found")


def test_the_scope_of_a_role_is_where_its_holder_lives(cast: Cast) -> None:
    user, at_home = make_user(cast.acme), make_user(cast.home)
    for scope_id in (cast.globex.tenant_id, cast.world.partner_id, "tnt_none"):
        assert code(grant(cast.acme_admin, "tenant_admin", user, scope_id)) == (422, "validation_failed")
    other = cast.super_admin.post("/partners", {"name": "O", "slug": ids.new("prt")[4:]}).get_json()["id"]
    for caller in (cast.partner_admin.at(cast.home), cast.super_admin.at(cast.home)):
        assert code(grant(caller, "partner_admin", at_home, other)) == (422, "validation_failed")
        assert code(grant(caller, "tenant_admin", at_home, cast.acme.tenant_id)) == (422, "validation_failed")
    assert grant(cast.acme_admin, "tenant_admin", user, cast.acme.tenant_id).status_code == 201


def test_wide_roles_go_to_people_directly(cast: Cast) -> None:
    home = cast.partner_admin.at(cast.home)
    machine = make_user(cast.home, userType="ServiceAccount")
    for principal in (make_group(cast.home, make_user(cast.home)), machine):
        assert code(grant(home, "partner_admin", principal)) == (422, "validation_failed")
    assert grant(home, "partner_admin", make_user(cast.home)).status_code == 201
    assert grant(cast.acme_admin, "tenant_admin", make_user(cast.acme, userType="ServiceAccount")).status_code == 201


def test_principals_of_other_tenants_hold_nothing_here(cast: Cast) -> None:
    for principal in (make_user(cast.globex), ids.new("usr"), "x"):
        assert code(grant(cast.acme_admin, "tenant_admin", principal)) == (422, "validation_failed")


def test_only_those_above_administer_a_home_tenant(cast: Cast) -> None:
    """A home tenant's own users are administered by partner and super admins alone."""
    person = cast.caller(make_user(cast.home), cast.home)
    for path in ("/scim-tokens", "/identity-providers", "/role-assignments", "/events", "/applications"):
        assert code(person.get(path)) == (404, "not_found")
        assert code(cast.acme_admin.at(cast.home).get(path)) == (400, "context_conflict")
        assert cast.partner_admin.at(cast.home).get(path).status_code == 200
        assert cast.super_admin.at(cast.home).get(path).status_code == 200
        assert code(cast.partner_admin.at(cast.platform).get(path)) == (404, "not_found")


def test_the_last_super_admin_keeps_the_role(cast: Cast) -> None:
    platform = cast.super_admin.at(cast.platform)
    grants = {one["principal_id"]: one["id"] for one in items(platform, "super_admin")}
    own = grants.pop(cast.super_admin.user_id)
    for other in grants.values():
        assert platform.delete(f"{PATH}/{other}").status_code == 204
    assert code(platform.delete(f"{PATH}/{own}")) == (409, "conflict")
    for principal in (*grants, make_user(cast.platform)):
        assert grant(platform, "super_admin", principal).status_code == 201
    assert platform.delete(f"{PATH}/{own}").status_code == 204


def items(caller: Caller, role: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = ""
    while cursor is not None:
        page = caller.get(f"{PATH}?role={role}&limit=200{cursor and '&cursor=' + cursor}").get_json()
        found += page["items"]
        cursor = page["next_cursor"]
    return found


def test_a_stranger_sees_no_roles(cast: Cast) -> None:
    [one] = cast.acme_admin.get(PATH).get_json()["items"]
    assert one["principal_id"] == cast.acme_admin.user_id
    path = f"{PATH}/{one['id']}"
    assert cast.acme_admin.get(path).status_code == 200
    assert code(cast.globex_admin.get(path)) == (404, "not_found")
    assert code(cast.globex_admin.delete(path)) == (404, "not_found")
