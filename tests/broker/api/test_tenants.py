"""Tenants: made within limits, seen from above, suspended at once, deleted for good."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor

import pytest

from broker.context import Scope
from broker.db import unit
from broker.models import Event
from tests.casting import Cast, code, make_token, make_user


def new(**fields: object) -> dict[str, object]:
    return {"name": "Initech", "slug": f"initech-{secrets.token_hex(4)}", **fields}


def names(scope: Scope) -> set[str]:
    with unit(scope) as session:
        return {event.name for event in session.query(Event)}


def test_a_partner_admin_makes_tenants_of_his_partner(cast: Cast) -> None:
    response = cast.partner_admin.post("/tenants", new())
    assert response.status_code == 201
    tenant = response.get_json()
    assert (tenant["partner_id"], tenant["kind"], tenant["status"]) == (cast.world.partner_id, "customer", "active")
    assert names(Scope(tenant["id"])) == {"tenant.created"}


def test_the_partner_of_a_new_tenant_is_named_once(cast: Cast) -> None:
    other = cast.super_admin.post("/partners", {"name": "O", "slug": f"o-{secrets.token_hex(4)}"}).get_json()["id"]
    mine = cast.world.partner_id
    assert code(cast.super_admin.post("/tenants", new())) == (400, "context_required")
    assert cast.super_admin.post("/tenants", new(), headers={"X-Partner-ID": mine}).status_code == 201
    assert cast.super_admin.post("/tenants", new(partner_id=mine)).status_code == 201
    disagreeing = cast.super_admin.post("/tenants", new(partner_id=mine), headers={"X-Partner-ID": other})
    assert code(disagreeing) == (400, "context_conflict")
    assert code(cast.partner_admin.post("/tenants", new(partner_id=other))) == (404, "not_found")
    assert code(cast.super_admin.post("/tenants", new(partner_id="prt_none"))) == (422, "validation_failed")
    platform = cast.platform.partner_id
    assert code(cast.super_admin.post("/tenants", new(partner_id=platform))) == (422, "validation_failed")


@pytest.mark.parametrize("who", ["acme_admin", "person"])
def test_nobody_below_makes_tenants(cast: Cast, who: str) -> None:
    assert code(getattr(cast, who).post("/tenants", new(partner_id=cast.world.partner_id)))[0] in (403, 404)


def test_max_tenants_counts_customers_only_and_holds_under_parallel_requests(cast: Cast) -> None:
    path = f"/partners/{cast.world.partner_id}"
    assert cast.super_admin.patch(path, {"max_tenants": 4}).status_code == 200
    app, admin = cast.client.application, cast.partner_admin

    def make(_: int) -> int:
        caller = type(admin)(app.test_client(), admin.user_id, admin.token)
        return caller.post("/tenants", new()).status_code

    with ThreadPoolExecutor(6) as pool:
        answers = sorted(pool.map(make, range(6)))
    assert answers == [201, 201, 409, 409, 409, 409]
    refused = admin.post("/tenants", new())
    assert code(refused) == (409, "limit_exceeded") and "max_tenants is 4" in refused.get_json()["detail"]


def test_one_slug_asked_for_in_parallel_goes_to_one(cast: Cast) -> None:
    body, app, admin = new(), cast.client.application, cast.partner_admin

    def make(_: int) -> int:
        return type(admin)(app.test_client(), admin.user_id, admin.token).post("/tenants", body).status_code

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(make, range(4))) == [201, 409, 409, 409]


def test_lists_show_what_each_administers(cast: Cast) -> None:
    def seen(caller: object, query: str = "") -> set[str]:
        return {tenant["id"] for tenant in caller.get(f"/tenants{query}").get_json()["items"]}  # type: ignore[attr-defined]

    everything = {cast.home.tenant_id, cast.acme.tenant_id, cast.globex.tenant_id}
    assert seen(cast.acme_admin) == {cast.acme.tenant_id}
    assert seen(cast.partner_admin) == everything
    assert seen(cast.super_admin, f"?partner_id={cast.world.partner_id}") == everything
    assert seen(cast.super_admin, "?slug=platform") == {cast.platform.tenant_id}
    assert seen(cast.partner_admin, "?slug=platform") == set()
    assert code(cast.person.get("/tenants")) == (404, "not_found")


def test_a_stranger_reads_and_changes_no_tenant(cast: Cast) -> None:
    path = f"/tenants/{cast.globex.tenant_id}"
    for caller in (cast.acme_admin, cast.person):
        assert code(caller.get(path)) == (404, "not_found")
        assert code(caller.patch(path, {"name": "x"})) == (404, "not_found")
        assert code(caller.delete(f"{path}?confirm={cast.globex.slug}")) == (404, "not_found")
    own = f"/tenants/{cast.acme.tenant_id}"
    assert cast.acme_admin.get(own).status_code == 200
    assert code(cast.acme_admin.patch(own, {"name": "x"})) == (403, "access_denied")
    assert cast.partner_admin.patch(own, {"name": "Acme Inc."}).get_json()["name"] == "Acme Inc."


def test_a_suspended_tenant_stops_at_once_but_for_those_above(cast: Cast) -> None:
    path = f"/tenants/{cast.acme.tenant_id}"
    assert cast.acme_admin.get(path).status_code == 200
    assert cast.partner_admin.patch(path, {"status": "suspended"}).get_json()["status"] == "suspended"
    assert code(cast.acme_admin.get(path)) == (401, "authentication_required")
    assert cast.partner_admin.at(cast.acme).get("/applications").status_code == 200
    assert cast.partner_admin.patch(path, {"status": "active"}).status_code == 200
    assert cast.acme_admin.get(path).status_code == 200
    assert names(cast.acme) >= {"tenant.updated", "tenant.suspended", "tenant.resumed"}
    assert code(cast.super_admin.patch(f"/tenants/{cast.home.tenant_id}", {"status": "suspended"})) == (409, "conflict")
    platform = f"/tenants/{cast.platform.tenant_id}"
    assert code(cast.super_admin.patch(platform, {"status": "suspended"})) == (409, "conflict")
    assert code(cast.partner_admin.patch(path, {"status": "asleep"})) == (422, "validation_failed")


def test_a_tenant_is_deleted_only_by_its_name_and_the_name_is_retired(cast: Cast) -> None:
    body = new()
    tenant = cast.partner_admin.post("/tenants", body).get_json()
    scope = Scope(tenant["id"], cast.world.partner_id, "customer", tenant["slug"])
    token = make_token(scope, make_user(scope))
    cast.partner_admin.patch(f"/tenants/{tenant['id']}/settings", {"session_timeout": 600})
    path = f"/tenants/{tenant['id']}"
    assert code(cast.partner_admin.delete(path)) == (422, "validation_failed")
    assert code(cast.partner_admin.delete(f"{path}?confirm=acme")) == (422, "validation_failed")
    assert cast.partner_admin.delete(f"{path}?confirm={body['slug']}").status_code == 204
    assert code(cast.partner_admin.get(path)) == (404, "not_found")
    refused = cast.nobody.get("/personal-access-tokens", headers={"Authorization": f"Bearer {token}"})
    assert code(refused) == (401, "authentication_required")
    assert code(cast.partner_admin.post("/tenants", body)) == (409, "conflict")
    assert "tenant.removed" in names(cast.home)
    assert code(cast.super_admin.delete(f"/tenants/{cast.home.tenant_id}?confirm={cast.home.slug}")) == (
        409,
        "conflict",
    )


def test_etags_guard_changes(cast: Cast) -> None:
    path = f"/tenants/{cast.acme.tenant_id}"
    etag = cast.partner_admin.get(path).headers["ETag"]
    first = cast.partner_admin.patch(path, {"name": "One"}, headers={"If-Match": etag})
    assert first.status_code == 200 and first.headers["ETag"] != etag
    late = cast.partner_admin.patch(path, {"name": "Two"}, headers={"If-Match": etag})
    assert code(late) == (412, "precondition_failed")
    assert cast.partner_admin.get(path).get_json()["name"] == "One"
    assert cast.partner_admin.patch(path, {"name": "Three"}, headers={"If-Match": "*"}).status_code == 200
    again = cast.partner_admin.get(path).headers["ETag"]
    assert cast.partner_admin.patch(path, {"name": "4"}, headers={"If-Match": f'"other", {again}'}).status_code == 200


def test_what_comes_with_a_later_version_is_not_available(cast: Cast) -> None:
    path = f"/tenants/{cast.acme.tenant_id}"
    refused = cast.partner_admin.patch(path, {"custom_domain": "id.acme.example"})
    assert code(refused) == (422, "not_available") and "custom_domain" in refused.get_json()["errors"]
    assert cast.partner_admin.patch(path, {"custom_domain": None, "name": "Acme"}).status_code == 200
