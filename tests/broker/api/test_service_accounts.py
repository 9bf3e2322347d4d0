"""Service accounts: users that are no people, the clients they authenticate as, and what ends with them."""

from __future__ import annotations

from typing import Any

import pytest

from broker.context import Scope
from broker.credentials import client_secret_valid
from broker.db import platform_scope, unit
from broker.models import ClientSecret, Event, Partner, ServiceAccount, User
from broker.standing import Subject, may_receive_tokens, standing
from tests.casting import Caller, Cast, client_secrets, code, make_token

PATH = "/service-accounts"


def new(name: str = "reporting", **fields: Any) -> dict[str, Any]:
    return {"name": name, "audiences": ["scaikey"], "scopes": ["scaikey:read"], **fields}


def make(caller: Caller, name: str = "reporting", **fields: Any) -> dict[str, Any]:
    response = caller.post(PATH, new(name, **fields))
    assert response.status_code == 201, response.get_data(as_text=True)
    made: dict[str, Any] = response.get_json()
    return made


def valid(scope: Scope, account_id: str, secret: str) -> bool:
    with unit(scope):
        return client_secret_valid(secret, client_secrets(account_id))


def verdict(scope: Scope, account_id: str) -> str | None:
    return may_receive_tokens(standing(Subject(user_id=account_id), tenant_id=scope.tenant_id))


def test_a_service_account_is_made_read_changed_and_deleted(cast: Cast) -> None:
    made = make(cast.acme_admin)
    secret = made.pop("client_secret")
    assert made["id"].startswith("usr_") and made["client_id"] and made["enabled"]
    path = f"{PATH}/{made['id']}"
    assert cast.acme_admin.get(path).get_json() == made
    assert cast.acme_admin.get(PATH).get_json()["items"] == [made]
    assert cast.acme_admin.get(f"{PATH}?name=other").get_json()["items"] == []
    changed = cast.acme_admin.patch(path, {"scopes": ["scim", "scim"], "name": "reporting"})
    assert changed.get_json()["scopes"] == ["scim"]
    assert code(cast.acme_admin.delete(path, headers={"If-Match": '"stale"'})) == (412, "precondition_failed")
    assert valid(cast.acme, made["id"], secret) and verdict(cast.acme, made["id"]) is None
    assert cast.acme_admin.delete(path).status_code == 204
    assert code(cast.acme_admin.get(path)) == (404, "not_found")
    assert verdict(cast.acme, made["id"]) == "user_disabled"
    with unit(cast.acme) as session:
        assert session.query(ServiceAccount).count() == session.query(ClientSecret).count() == 0
        mine = [name for (name,) in session.query(Event.name).order_by(Event.no) if name.startswith("service")]
    told = ["created", "secret_created", "updated", "removed"]
    assert mine == [f"service_account.{deed}" for deed in told]
    assert make(cast.acme_admin)["id"] != made["id"]


def test_a_secret_is_rotated_with_an_overlap(cast: Cast) -> None:
    made = make(cast.acme_admin)
    path = f"{PATH}/{made['id']}/secrets"
    second = cast.acme_admin.post(path, {"overlap": 60}).get_json()["client_secret"]
    assert valid(cast.acme, made["id"], made["client_secret"]) and valid(cast.acme, made["id"], second)
    third = cast.acme_admin.post(path, {"overlap": 0}).get_json()["client_secret"]
    assert not valid(cast.acme, made["id"], second) and valid(cast.acme, made["id"], third)
    assert code(cast.globex_admin.post(path)) == (404, "not_found")


def test_a_disabled_account_stops_and_starts_again(cast: Cast) -> None:
    made = make(cast.acme_admin)
    path = f"{PATH}/{made['id']}"
    assert cast.acme_admin.patch(path, {"enabled": False}).get_json()["enabled"] is False
    assert verdict(cast.acme, made["id"]) == "user_disabled"
    assert cast.acme_admin.patch(path, {"enabled": True}).get_json()["enabled"] is True
    assert verdict(cast.acme, made["id"]) is None


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("name", {"name": "with blank"}),
        ("name", {"name": ""}),
        ("name", {"name": "a" * 101}),
        ("audiences", {"audiences": [], "scopes": []}),
        ("audiences", {"audiences": ["https://unknown.example"], "scopes": []}),
        ("scopes", {"scopes": ["scaikey:everything"]}),
        ("scopes", {"scopes": ["openid"]}),
        ("scopes", {"scopes": ["with blank"]}),
        ("client_id", {"client_id": "mine"}),
        ("client_secret", {"client_secret": "mine"}),
        ("enabled", {"enabled": 1}),
    ],
)
def test_wrong_fields_are_named(cast: Cast, field: str, fields: dict[str, Any]) -> None:
    response = cast.acme_admin.post(PATH, {**new(), **fields})
    assert code(response) == (422, "validation_failed") and list(response.get_json()["errors"]) == [field]


def test_our_scopes_go_with_our_audience_and_others_with_their_apis(cast: Cast) -> None:
    api = {"name": "API", "type": "service", "audience": "https://api.acme.example", "scopes": ["api:read"]}
    assert cast.acme_admin.post("/applications", api).status_code == 201
    made = make(cast.acme_admin, audiences=[api["audience"]], scopes=["api:read"])
    for scope in ("scim", "api:write"):
        refused = cast.acme_admin.patch(f"{PATH}/{made['id']}", {"scopes": [scope]})
        assert code(refused) == (422, "validation_failed") and list(refused.get_json()["errors"]) == ["scopes"]
    assert code(cast.acme_admin.post(PATH, new("x", audiences=[api["audience"]], scopes=["api:write"])))[0] == 422
    both = {"scopes": ["scim"], "audiences": [api["audience"], "scaikey"]}
    assert cast.acme_admin.patch(f"{PATH}/{made['id']}", both).status_code == 200
    assert code(cast.globex_admin.post(PATH, new(audiences=[api["audience"]])))[0] == 422


def test_a_name_is_one_accounts_and_never_changes(cast: Cast) -> None:
    made = make(cast.acme_admin)
    assert code(cast.acme_admin.post(PATH, new())) == (409, "conflict")
    assert code(cast.acme_admin.post(PATH, new("REPORTING"))) == (409, "conflict")
    make(cast.globex_admin)
    assert code(cast.acme_admin.patch(f"{PATH}/{made['id']}", {"name": "other"})) == (422, "validation_failed")


def test_a_token_gives_an_account_no_scope_it_does_not_carry(cast: Cast) -> None:
    narrow = cast.caller(cast.acme_admin.user_id, cast.acme, scopes=("scaikey:write",))
    assert code(narrow.post(PATH, new(scopes=["scim"]))) == (403, "access_denied")
    made = make(narrow, scopes=["scaikey:read"])
    path = f"{PATH}/{made['id']}"
    assert code(narrow.patch(path, {"scopes": ["scaikey:read", "scim"]})) == (403, "access_denied")
    assert cast.acme_admin.patch(path, {"scopes": ["scim"]}).status_code == 200
    assert narrow.patch(path, {"scopes": ["scim", "scaikey:write"]}).status_code == 200


def test_an_account_is_no_user_of_the_limit_and_in_no_list(cast: Cast) -> None:
    with platform_scope() as session:
        session.get_one(Partner, cast.world.partner_id).max_users_per_tenant = 1
    made = make(cast.acme_admin)
    make(cast.acme_admin, "second")
    people = scim(cast, "GET", "/Users")
    assert [one["id"] for one in people.get_json()["Resources"]] == [cast.acme_admin.user_id]
    asked = scim(cast, "GET", '/Users?filter=userType eq "ServiceAccount" and displayName eq "reporting"')
    assert [one["id"] for one in asked.get_json()["Resources"]] == [made["id"]]


def scim(cast: Cast, method: str, path: str, body: Any = None, token: str | None = None) -> Any:
    return cast.client.open(
        f"/scim/v2/{cast.acme.slug}{path}",
        method=method,
        json=body,
        headers={"Authorization": f"Bearer {token or cast.acme_admin.token}"},
    )


def scim_token(cast: Cast, **fields: Any) -> str:
    token: str = cast.acme_admin.post("/scim-tokens", {"name": "Entra", **fields}).get_json()["token"]
    return token


def test_scim_neither_makes_nor_turns_nor_removes_service_accounts(cast: Cast) -> None:
    made = make(cast.acme_admin)
    path = f"/Users/{made['id']}"
    person = scim(cast, "POST", "/Users", {"userName": "alice"}).get_json()
    kind = {"userType": "ServiceAccount"}
    patch = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"]}
    for token in (None, scim_token(cast, allow_password=True)):
        for method, place, body in (
            ("POST", "/Users", {"userName": "robot", **kind}),
            ("PUT", f"/Users/{person['id']}", {"userName": "alice", **kind}),
            ("PATCH", f"/Users/{person['id']}", {**patch, "Operations": [{"op": "add", "value": kind}]}),
            ("PUT", path, {"userName": "sa:reporting"}),
            ("DELETE", path, None),
        ):
            answer = scim(cast, method, place, body, token)
            assert answer.status_code in (400, 403), (method, place, answer.get_json())
    assert cast.acme_admin.get(f"{PATH}/{made['id']}").status_code == 200
    with unit(cast.acme) as session:
        assert session.query(User).filter(User.user_type == "ServiceAccount").count() == 1


def test_a_service_account_holds_a_role_and_loses_it_with_its_end(cast: Cast) -> None:
    made = make(cast.acme_admin)
    role = {"role": "tenant_admin", "principal_id": made["id"]}
    assert cast.acme_admin.post("/role-assignments", role).status_code == 201
    robot = cast.caller(made["id"], cast.acme)
    assert robot.get("/applications").status_code == 200
    cast.acme_admin.delete(f"{PATH}/{made['id']}")
    assert code(robot.get("/applications")) == (401, "authentication_required")
    assert cast.acme_admin.get("/role-assignments").get_json()["items"][-1]["principal_id"] != made["id"]


def test_strangers_see_no_account(cast: Cast) -> None:
    path = f"{PATH}/{make(cast.acme_admin)['id']}"
    for caller in (cast.globex_admin, cast.person):
        assert code(caller.get(path)) == (404, "not_found")
        assert code(caller.patch(path, {"scopes": []})) == (404, "not_found")
        assert code(caller.delete(path)) == (404, "not_found")
    reading = Caller(cast.client, "", make_token(cast.acme, cast.acme_admin.user_id, scopes=("scaikey:read",)))
    assert reading.get(path).status_code == 200
    assert code(reading.delete(path)) == (403, "access_denied")
