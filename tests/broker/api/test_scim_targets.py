"""SCIM targets: their credential is kept and never shown, and pausing, holding and resuming does what was asked."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from broker import ids
from broker.context import Scope
from broker.db import platform_scope, unit
from broker.models import Delivery, Event, ScimTarget, TargetResource
from broker.registry import target_auth
from tests.casting import Caller, Cast, code

PATH = "/scim-targets"
TOKEN = "remote-secret-token"


def application(caller: Caller) -> str:
    made: str = caller.post("/applications", {"name": "Wiki", "type": "web"}).get_json()["id"]
    return made


def new(caller: Caller, **fields: Any) -> dict[str, Any]:
    auth = {"method": "bearer", "token": TOKEN}
    return {"application_id": application(caller), "base_url": "https://wiki.example/scim/v2", "auth": auth, **fields}


def make(caller: Caller, **fields: Any) -> dict[str, Any]:
    response = caller.post(PATH, new(caller, **fields))
    assert response.status_code == 201, response.get_data(as_text=True)
    made: dict[str, Any] = response.get_json()
    return made


def test_the_credential_is_sealed_and_never_shown(cast: Cast) -> None:
    target = make(cast.acme_admin)
    path = f"{PATH}/{target['id']}"
    assert target["auth"] == {"method": "bearer", "token": "***"}
    assert (target["scope"], target["deprovision"], target["status"]) == ("assigned", "disable", "active")
    with cast.client.application.app_context(), unit(cast.acme) as session:
        row = session.get_one(ScimTarget, (cast.acme.tenant_id, target["id"]))
        assert TOKEN.encode() not in (row.secrets or b"") and target_auth.secret(row) == TOKEN
    same = cast.acme_admin.patch(path, {"auth": target["auth"]})
    assert same.get_json()["updated_at"] == target["updated_at"]
    cast.acme_admin.patch(path, {"auth": {"method": "bearer", "token": "second"}})
    with cast.client.application.app_context(), unit(cast.acme) as session:
        row = session.get_one(ScimTarget, (cast.acme.tenant_id, target["id"]))
        assert target_auth.secret(row) == "second"
        told = sa.select(Event.name, Event.changed).where(Event.resource_id == target["id"]).order_by(Event.no)
        log = session.execute(told).all()
        assert [name for name, _ in log] == ["scim_target.created", "scim_target.updated"] and log[1][1] == ["auth"]
        assert TOKEN not in str(log)


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"base_url": "ftp://x.example"}, "base_url"),
        ({"base_url": "http://wiki.example/scim"}, "base_url"),
        ({"base_url": "https://u:p@wiki.example/scim"}, "base_url"),
        ({"base_url": "https://wiki.example/scim?x=1"}, "base_url"),
        ({"auth": {"method": "basic", "token": "x"}}, "auth.method"),
        ({"auth": {"method": "bearer"}}, "auth.token"),
        ({"auth": {"method": "bearer", "token": "a b"}}, "auth"),
        ({"auth": {"method": "bearer", "token": "***"}}, "auth"),
        ({"auth": "bearer"}, "auth"),
        ({"scope": "everybody"}, "scope"),
        ({"deprovision": "burn"}, "deprovision"),
        ({"removal_guard": {"percent": -1}}, "removal_guard"),
        ({"deprovision": "delete_after_days", "deprovision_days": 0}, "deprovision_days"),
        ({"requests_per_second": 0.01}, "requests_per_second"),
        ({"reconcile": {"policy": "guess"}}, "reconcile"),
        ({"reconcile": {"ignore": ["everything"]}}, "reconcile"),
        ({"reconcile": {"schedule": "often"}}, "reconcile"),
        ({"application_id": "app_none"}, "application_id"),
        ({"secrets": "x"}, "secrets"),
    ],
)
def test_wrong_fields_are_named(cast: Cast, fields: dict[str, Any], wrong: str) -> None:
    refused = cast.acme_admin.post(PATH, new(cast.acme_admin, **fields))
    assert code(refused)[0] == 422 and wrong in refused.get_json()["errors"], refused.get_json()
    assert make(cast.acme_admin, base_url="http://127.0.0.1:9999/v2")["base_url"] == "http://127.0.0.1:9999/v2"


def test_a_target_is_paused_here_and_leaves_that_by_resume(cast: Cast) -> None:
    path = f"{PATH}/{make(cast.acme_admin)['id']}"
    assert cast.acme_admin.patch(path, {"status": "paused"}).get_json()["status"] == "paused"
    for status in ("active", "quarantined"):
        assert code(cast.acme_admin.patch(path, {"status": status})) == (422, "validation_failed")
    assert cast.acme_admin.post(f"{path}/resume").get_json()["status"] == "active"
    assert code(cast.acme_admin.post(f"{path}/resume", {"removals": "maybe"})) == (422, "validation_failed")
    assert code(cast.acme_admin.patch(path, {"application_id": "app_x"})) == (422, "validation_failed")


EXCHANGE = {"request": {"method": "POST", "path": "/Users"}, "answer": {"status": 400}}


def owe(scope: Scope, target_id: str, status: str) -> str:
    resource = ids.new("usr")
    with platform_scope() as session:
        session.add(
            Delivery(
                tenant_id=scope.tenant_id,
                target_id=target_id,
                resource_type="User",
                resource_id=resource,
                status=status,
                problem="because",
                exchange=EXCHANGE,
            )
        )
    return resource


@pytest.mark.parametrize(
    ("removals", "held", "failed"),
    [("approve", "pending", "pending"), ("reject", "muted", "pending"), (None, "held", "pending")],
)
def test_held_removals_are_approved_rejected_or_left(cast: Cast, removals: str | None, held: str, failed: str) -> None:
    target = make(cast.acme_admin)["id"]
    one, two = owe(cast.acme, target, "held"), owe(cast.acme, target, "failed")
    elsewhere = owe(cast.acme, make(cast.acme_admin)["id"], "held")
    body = {} if removals is None else {"removals": removals}
    assert cast.acme_admin.post(f"{PATH}/{target}/resume", body).status_code == 200
    with unit(cast.acme) as session:
        rows = session.query(Delivery).all()
        status = {row.resource_id: row.status for row in rows}
        assert {row.resource_id for row in rows if row.approved} == ({one} if removals == "approve" else set())
    assert (status[one], status[two], status[elsewhere]) == (held, failed, "held")


@pytest.mark.parametrize(("state", "delivery"), [("creating", None), ("present", "held"), ("present", "failed")])
def test_a_target_does_not_move_while_somebody_is_to_be_taken_away(
    cast: Cast, state: str, delivery: str | None
) -> None:
    target = make(cast.acme_admin, scope="all")["id"]
    path, elsewhere = f"{PATH}/{target}", {"base_url": "https://elsewhere.example/scim"}
    gone = owe(cast.acme, target, delivery) if delivery else ids.new("usr")
    place = {"tenant_id": cast.acme.tenant_id, "target_id": target, "resource_id": gone}
    with platform_scope() as session:
        session.add(TargetResource(**place, resource_type="User", remote_id="r-1", state=state))
    refused = cast.acme_admin.patch(path, elsewhere)
    assert code(refused) == (409, "conflict") and "Resume" in refused.get_json()["detail"]
    assert cast.acme_admin.get(path).get_json()["base_url"] != elsewhere["base_url"]
    with platform_scope() as session:
        session.execute(sa.update(TargetResource).filter_by(**place).values(state="disabled"))
    assert cast.acme_admin.patch(path, elsewhere).status_code == 200


def test_a_target_moves_when_the_removals_were_rejected(cast: Cast) -> None:
    target = make(cast.acme_admin, scope="all")["id"]
    gone = owe(cast.acme, target, "held")
    with platform_scope() as session:
        session.add(
            TargetResource(
                tenant_id=cast.acme.tenant_id, target_id=target, resource_id=gone, resource_type="User", remote_id="r-1"
            )
        )
    assert cast.acme_admin.post(f"{PATH}/{target}/resume", {"removals": "reject"}).status_code == 200
    moved = cast.acme_admin.patch(f"{PATH}/{target}", {"base_url": "https://elsewhere.example/scim"})
    assert moved.status_code == 200


def test_deliveries_and_remote_resources_are_shown_with_their_problems(cast: Cast) -> None:
    target = make(cast.acme_admin)["id"]
    owed = {owe(cast.acme, target, "failed") for _ in range(3)} | {owe(cast.acme, target, "held")}
    resource = ids.new("usr")
    with platform_scope() as session:
        session.add(
            TargetResource(
                tenant_id=cast.acme.tenant_id,
                target_id=target,
                resource_id=resource,
                resource_type="User",
                remote_id="r-1",
                state="present",
            )
        )
    path = f"{PATH}/{target}/deliveries"
    first = cast.acme_admin.get(f"{path}?limit=3").get_json()
    rest = cast.acme_admin.get(f"{path}?limit=3&cursor={first['next_cursor']}").get_json()
    seen = [one["resource_id"] for one in first["items"] + rest["items"] if one["resource_type"] == "User"]
    assert set(seen) == owed and len(seen) == 4
    failed = cast.acme_admin.get(f"{path}?status=failed").get_json()["items"]
    assert len(failed) == 3 and {one["problem"] for one in failed} == {"because"}
    assert failed[0]["exchange"] == EXCHANGE
    [shown] = cast.acme_admin.get(f"{PATH}/{target}/resources").get_json()["items"]
    assert (shown["resource_id"], shown["remote_id"], shown["state"]) == (resource, "r-1", "present")


def test_strangers_see_no_target_and_the_application_stays(cast: Cast) -> None:
    target = make(cast.acme_admin)
    path = f"{PATH}/{target['id']}"
    for caller in (cast.globex_admin, cast.person):
        for answer in (
            caller.get(path),
            caller.patch(path, {"status": "paused"}),
            caller.delete(path),
            caller.post(f"{path}/resume"),
            caller.get(f"{path}/deliveries"),
            caller.get(f"{path}/resources"),
        ):
            assert code(answer) == (404, "not_found")
    in_use = cast.acme_admin.delete(f"/applications/{target['application_id']}")
    assert code(in_use) == (409, "conflict")
    assert cast.acme_admin.delete(path).status_code == 204
    assert cast.acme_admin.delete(f"/applications/{target['application_id']}").status_code == 204


def test_a_target_begins_active_or_paused(cast: Cast) -> None:
    assert make(cast.acme_admin, status="paused")["status"] == "paused"
    refused = cast.acme_admin.post(PATH, new(cast.acme_admin, status="quarantined"))
    assert code(refused) == (422, "validation_failed") and set(refused.get_json()["errors"]) == {"status"}


def test_resuming_heeds_if_match(cast: Cast) -> None:
    path = f"{PATH}/{make(cast.acme_admin)['id']}"
    before = cast.acme_admin.get(path).headers["ETag"]
    paused = cast.acme_admin.patch(path, {"status": "paused"}).headers["ETag"]
    stale = cast.acme_admin.post(f"{path}/resume", headers={"If-Match": before})
    assert code(stale) == (412, "precondition_failed")
    assert cast.acme_admin.post(f"{path}/resume", headers={"If-Match": paused}).get_json()["status"] == "active"


OAUTH = {
    "method": "oauth2_client_credentials",
    "token_url": "https://wiki.example/oauth/token",
    "client_id": "us",
    "client_secret": "hush",
}


def test_a_client_of_a_token_endpoint_shows_no_secret_and_keeps_it(cast: Cast) -> None:
    target = make(cast.acme_admin, auth=OAUTH)
    shown = {**OAUTH, "token_endpoint_auth_method": "client_secret_basic", "client_secret": "***"}
    assert target["auth"] == shown
    path = f"{PATH}/{target['id']}"
    assert cast.acme_admin.patch(path, {"auth": {**shown, "scope": "scim"}}).get_json()["auth"]["scope"] == "scim"
    with cast.client.application.app_context(), unit(cast.acme) as session:
        assert target_auth.secret(session.get_one(ScimTarget, (cast.acme.tenant_id, target["id"]))) == "hush"
    elsewhere = cast.acme_admin.patch(path, {"auth": {**shown, "token_url": "https://other.example/token"}})
    assert code(elsewhere)[0] == 422 and "auth" in elsewhere.get_json()["errors"]


def test_a_key_is_made_where_none_is_given_and_its_public_half_is_shown(cast: Cast) -> None:
    without = {**OAUTH, "client_secret": None, "token_endpoint_auth_method": "private_key_jwt"}
    given = {name: value for name, value in without.items() if value is not None}
    target = make(cast.acme_admin, auth=given)
    key = target["auth"]["public_key"]
    assert (key["kty"], key["alg"], key["use"], target["auth"]["private_key"]) == ("RSA", "RS256", "sig", "***")
    assert not {"d", "p", "q"} & set(key)
    again = cast.acme_admin.patch(f"{PATH}/{target['id']}", {"auth": given}).get_json()
    assert again["auth"]["public_key"] == key


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"client_id": None}, "auth.client_id"),
        ({"token_url": "ftp://wiki.example"}, "auth.token_url"),
        ({"token_url": "http://wiki.example/token"}, "auth.token_url"),
        ({"client_secret": None}, "auth.client_secret"),
        ({"token": "x"}, "auth.token"),
        ({"token_endpoint_auth_method": "none"}, "auth.token_endpoint_auth_method"),
        ({"token_endpoint_auth_method": "private_key_jwt"}, "auth.client_secret"),
        (
            {"token_endpoint_auth_method": "private_key_jwt", "client_secret": None, "private_key": "x"},
            "auth.private_key",
        ),
    ],
)
def test_what_a_token_endpoint_needs_is_named(cast: Cast, change: dict[str, Any], wrong: str) -> None:
    auth = {name: value for name, value in {**OAUTH, **change}.items() if value is not None}
    refused = cast.acme_admin.post(PATH, new(cast.acme_admin, auth=auth))
    assert code(refused)[0] == 422 and wrong in refused.get_json()["errors"], refused.get_json()


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"to": "title"},
        {"from": "title"},
        {"from": "title", "to": "id"},
        {"from": "title", "to": "active"},
        {"from": "title", "to": "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:manager"},
        {"from": "title", "to": "nick name"},
        {"from": "a[b", "to": "title"},
        {"from": "title", "to": "title", "constant": "x"},
        {"constant": {"a": 1}, "to": "title"},
        {"constant": "x" * 501, "to": "title"},
        {"constant": "x", "to": "title", "default": "y"},
        {"from": "title", "to": "title", "transform": {"name": "eval"}},
        {"from": "title", "to": "title", "transform": {"name": "join", "args": {"with": 1}}},
        {"from": "title", "to": "title", "transform": "lower"},
        {"from": 7, "to": "title"},
        {"omit": "yes", "to": "title"},
        {"from": "title", "to": "title", "also": 1},
    ],
)
def test_a_mapping_that_cannot_work_is_refused_by_its_row(cast: Cast, row: dict[str, Any]) -> None:
    good = {"from": "nickName", "to": "displayName"}
    refused = cast.acme_admin.post(PATH, new(cast.acme_admin, mapping=[good, row]))
    assert code(refused)[0] == 422 and list(refused.get_json()["errors"]) == ["mapping.1"], refused.get_json()


def test_profile_mapping_and_nested_groups_are_kept_and_checked(cast: Cast) -> None:
    rows = [{"from": "nickName", "to": "displayName", "transform": {"name": "lower"}, "default": "x"}]
    kept = make(cast.acme_admin, profile="aws_iam_identity_center", mapping=rows, nested_groups="keep")
    assert (kept["profile"], kept["mapping"], kept["nested_groups"]) == ("aws_iam_identity_center", rows, "keep")
    plain = make(cast.acme_admin)
    assert (plain["profile"], plain["mapping"], plain["capabilities"], plain["probed_at"]) == ("auto", [], {}, None)
    for field, value in (("profile", "slack"), ("nested_groups", "maybe"), ("mapping", [rows[0], rows[0]])):
        refused = cast.acme_admin.post(PATH, new(cast.acme_admin, **{field: value}))
        assert code(refused)[0] == 422 and str(field) in str(refused.get_json()["errors"])
