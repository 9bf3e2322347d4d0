"""Partners: who makes them, what comes with them, what they limit."""

from __future__ import annotations

import secrets

import pytest

from broker.context import Scope
from broker.db import unit
from broker.models import Event
from tests.casting import Cast, code


def new(**fields: object) -> dict[str, object]:
    return {"name": "Northwind", "slug": f"northwind-{secrets.token_hex(4)}", **fields}


def test_a_partner_comes_with_its_home_tenant_and_both_are_told(cast: Cast) -> None:
    body = new(max_tenants=3)
    response = cast.super_admin.post("/partners", body)
    assert response.status_code == 201
    partner = response.get_json()
    assert partner["slug"] == body["slug"] and partner["max_tenants"] == 3 and partner["branding"] == {}
    assert response.headers["Location"].endswith(f"/api/v1/partners/{partner['id']}")
    home = cast.super_admin.get(f"/tenants/{partner['home_tenant_id']}").get_json()
    assert (home["slug"], home["kind"], home["partner_id"]) == (f"{body['slug']}-home", "home", partner["id"])
    with unit(Scope(home["id"])) as session:
        assert {event.name for event in session.query(Event)} == {"partner.created", "tenant.created"}


@pytest.mark.parametrize("who", ["partner_admin", "acme_admin", "person"])
def test_only_super_admins_make_partners(cast: Cast, who: str) -> None:
    assert code(getattr(cast, who).post("/partners", new())) == (404, "not_found")
    assert code(cast.nobody.post("/partners", new())) == (401, "authentication_required")


@pytest.mark.parametrize(
    "slug", ["", "-a", "a-", "A", "a b", "a--b", "platform", "x-home", "a" * 60, "ünicode", "a.b", "a\n"]
)
def test_slugs_that_nobody_may_choose(cast: Cast, slug: str) -> None:
    response = cast.super_admin.post("/partners", new(slug=slug))
    assert code(response) == (422, "validation_failed") and "slug" in response.get_json()["errors"]


def test_a_slug_is_given_out_once(cast: Cast) -> None:
    body = new()
    partner = cast.super_admin.post("/partners", body).get_json()
    assert code(cast.super_admin.post("/partners", body)) == (409, "conflict")
    assert cast.super_admin.delete(f"/partners/{partner['id']}").status_code == 204
    assert code(cast.super_admin.get(f"/partners/{partner['id']}")) == (404, "not_found")
    assert code(cast.super_admin.post("/partners", body)) == (409, "conflict"), "the home tenant's slug is retired"


def test_a_partner_with_tenants_is_not_deleted(cast: Cast) -> None:
    assert code(cast.super_admin.delete(f"/partners/{cast.world.partner_id}")) == (409, "conflict")
    assert code(cast.super_admin.delete(f"/partners/{cast.platform.partner_id}")) == (409, "conflict")


def test_a_partner_admin_sees_his_partner_and_no_other(cast: Cast) -> None:
    other = cast.super_admin.post("/partners", new()).get_json()
    mine = cast.partner_admin.get("/partners").get_json()["items"]
    assert [partner["id"] for partner in mine] == [cast.world.partner_id]
    assert cast.partner_admin.get(f"/partners/{cast.world.partner_id}").status_code == 200
    assert code(cast.partner_admin.get(f"/partners/{other['id']}")) == (404, "not_found")
    assert code(cast.partner_admin.patch(f"/partners/{other['id']}", {"name": "x"})) == (404, "not_found")
    assert code(cast.partner_admin.patch(f"/partners/{cast.world.partner_id}", {"max_tenants": 99})) == (
        403,
        "access_denied",
    )
    assert code(cast.acme_admin.get("/partners")) == (404, "not_found")
    found = cast.super_admin.get(f"/partners?slug={other['slug']}").get_json()["items"]
    assert [partner["id"] for partner in found] == [other["id"]]


def test_a_change_is_checked_field_by_field(cast: Cast) -> None:
    partner = cast.super_admin.post("/partners", new()).get_json()
    path = f"/partners/{partner['id']}"
    changed = cast.super_admin.patch(path, {"name": "Südwind", "max_users_per_tenant": 10})
    assert changed.status_code == 200 and changed.get_json()["name"] == "Südwind"
    for body, field in (
        ({"slug": "another"}, "slug"),
        ({"id": "prt_x"}, "id"),
        ({"max_tenants": "3"}, "max_tenants"),
        ({"max_tenants": True}, "max_tenants"),
        ({"max_tenants": -1}, "max_tenants"),
        ({"max_tenants": 2**31}, "max_tenants"),
        ({"name": ""}, "name"),
        ({"name": "  "}, "name"),
        ({"name": None}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"name": "tab\there"}, "name"),
        ({"nickname": "x"}, "nickname"),
        ({"branding": {"css": "*{}"}}, "branding.css"),
        ({"branding": {"color": "red"}}, "branding.color"),
    ):
        refused = cast.super_admin.patch(path, body)
        assert code(refused) == (422, "validation_failed"), body
        assert list(refused.get_json()["errors"]) == [field]
    whole = cast.super_admin.get(path).get_json()
    assert cast.super_admin.patch(path, whole).get_json()["updated_at"] == whole["updated_at"], "nothing differed"
    branded = cast.super_admin.patch(path, {"branding": {"color": "#0a4b8c"}, "max_tenants": None})
    assert branded.get_json()["branding"] == {"color": "#0a4b8c"}
