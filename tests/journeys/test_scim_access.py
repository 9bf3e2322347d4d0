"""Every kind of credential at the SCIM door: what it may, where it ends, and that what it wrote names it."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
from werkzeug.test import TestResponse

from broker.context import Scope
from tests.casting import Cast
from tests.oidc.party import basic
from tests.scim.conftest import PATCH_OP


def service_account(cast: Cast, scope: Scope, *, administers: bool = True, scopes: tuple[str, ...] = ("scim",)) -> Any:
    """One of the tenant, made as its administrators make it."""
    wanted = {"name": f"hr-{secrets.token_hex(4)}", "scopes": list(scopes), "audiences": ["scaikey"]}
    made = cast.super_admin.at(scope).post("/service-accounts", wanted)
    assert made.status_code == 201, made.text
    account = made.get_json()
    if administers:
        role = {"role": "tenant_admin", "principal_id": account["id"], "scope_id": scope.tenant_id}
        assert cast.super_admin.at(scope).post("/role-assignments", role).status_code == 201
    return account


def asked(cast: Cast, at: Scope, account: Any, **form: str) -> TestResponse:
    """The tenant's token endpoint, asked by the account for itself."""
    return cast.client.post(
        f"/api/v1/auth/tenants/{at.slug}/oauth/token",
        data={"grant_type": "client_credentials", "scope": "scim", "resource": "scaikey", **form},
        headers=basic(account["client_id"], account["client_secret"]),
    )


def granted(cast: Cast, at: Scope, account: Any, **form: str) -> str:
    answer = asked(cast, at, account, **form)
    assert answer.status_code == 200, answer.text
    token: str = answer.get_json()["access_token"]
    return token


def scim(
    cast: Cast, scope: Scope, token: str, method: str = "GET", path: str = "/Users?count=1", body: Any = None
) -> TestResponse:
    return cast.client.open(
        f"/scim/v2/{scope.slug}{path}", method=method, json=body, headers={"Authorization": f"Bearer {token}"}
    )


def test_a_service_account_provisions_the_tenant_it_administers_and_no_other(cast: Cast) -> None:
    token = granted(cast, cast.acme, service_account(cast, cast.acme))
    made = scim(cast, cast.acme, token, "POST", "/Users", {"userName": "ada"})
    assert made.status_code == 201, made.text
    person = f"/Users/{made.get_json()['id']}"
    assert scim(cast, cast.acme, token, path=person).status_code == 200
    assert scim(cast, cast.acme, token, "DELETE", person).status_code == 204
    for path in ("/Users", person):
        assert scim(cast, cast.globex, token, path=path).status_code == 404
    assert scim(cast, cast.globex, token, "POST", "/Users", {"userName": "eve"}).status_code == 404


def test_a_token_without_the_scope_or_the_role_opens_nothing(cast: Cast) -> None:
    reader = service_account(cast, cast.acme, scopes=("scim", "scaikey:read"))
    assert scim(cast, cast.acme, granted(cast, cast.acme, reader, scope="scaikey:read")).status_code == 403
    refused = asked(cast, cast.acme, service_account(cast, cast.acme, scopes=("scaikey:read",)))
    assert (refused.status_code, refused.get_json()["error"]) == (400, "invalid_scope")
    stranger = service_account(cast, cast.acme, administers=False)
    assert scim(cast, cast.acme, granted(cast, cast.acme, stranger)).status_code == 404


def application(cast: Cast, where: Scope, **values: Any) -> Any:
    """One that an administrator of the tenant lets provision it."""
    wanted = {
        "name": "Robot",
        "type": "service",
        "grant_types": ["client_credentials"],
        "scopes": ["scim"],
        "allowed_audiences": ["scaikey"],
        **values,
    }
    made = cast.super_admin.at(where).post("/applications", wanted)
    assert made.status_code == 201, made.text
    return made.get_json()


def test_an_application_with_the_scope_provisions_the_tenant_that_registered_it_and_no_other(cast: Cast) -> None:
    robot = application(cast, cast.acme)
    token = granted(cast, cast.acme, robot)
    made = scim(cast, cast.acme, token, "POST", "/Users", {"userName": "ada", "password": "placeholder"})
    assert made.status_code == 201, made.text
    person = f"/Users/{made.get_json()['id']}"
    assert scim(cast, cast.acme, token, "DELETE", person).status_code == 204
    for path in ("/Users", person):
        assert scim(cast, cast.globex, token, path=path).status_code == 404
    assert scim(cast, cast.globex, token, "POST", "/Users", {"userName": "eve"}).status_code == 404
    assert asked(cast, cast.globex, robot).status_code == 401
    told = cast.acme_admin.get(f"/events?name=user.created&resource={person[7:]}").get_json()["items"][0]["actor"]
    assert (told["kind"], told["id"]) == ("application", robot["id"]) and told["credential_id"]


def test_an_application_may_at_the_scim_door_what_a_token_may_and_nothing_elsewhere(cast: Cast) -> None:
    token = granted(cast, cast.acme, application(cast, cast.acme, scopes=["scim", "scaikey:write"]), scope="scim")
    both = granted(
        cast, cast.acme, application(cast, cast.acme, scopes=["scim", "scaikey:write"]), scope="scim scaikey:write"
    )
    boss = cast.acme_admin.get("/role-assignments?role=tenant_admin").get_json()["items"][0]["principal_id"]
    for shown in (token, both):
        title = {"schemas": [PATCH_OP], "Operations": [{"op": "add", "path": "title", "value": "x"}]}
        assert scim(cast, cast.acme, shown, "PATCH", f"/Users/{boss}", title).status_code == 403
        assert scim(cast, cast.acme, shown, "DELETE", f"/Users/{boss}").status_code == 403
        pinned = scim(cast, cast.acme, shown, "PUT", f"/Users/{boss}?pin=true", {"userName": "x"})
        assert pinned.status_code == 403
        for path in ("/applications", "/scim-tokens", "/events"):
            answer = cast.client.get(f"/api/v1{path}", headers={"Authorization": f"Bearer {shown}"})
            assert answer.status_code in (403, 404), path


def ended(cast: Cast, path: str, end: str) -> int:
    """End what the client at `path` may do; what its tokens are answered from then on."""
    match end:
        case "disabled":
            assert cast.acme_admin.patch(path, {"enabled": False}).status_code == 200
        case "deleted":
            assert cast.acme_admin.delete(path).status_code == 204
        case _:
            assert end == "scope taken"
            assert cast.acme_admin.patch(path, {"scopes": []}).status_code == 200
            return 403
    return 401


@pytest.mark.parametrize("end", ["disabled", "scope taken", "audience taken", "deleted"])
def test_an_application_is_out_with_the_answer_that_ends_it(cast: Cast, end: str) -> None:
    robot = application(cast, cast.acme)
    token, path = granted(cast, cast.acme, robot), f"/applications/{robot['id']}"
    assert scim(cast, cast.acme, token).status_code == 200
    if end == "audience taken":
        expected = 401
        assert cast.acme_admin.patch(path, {"allowed_audiences": [], "scopes": []}).status_code == 200
    else:
        expected = ended(cast, path, end)
    assert scim(cast, cast.acme, token).status_code == expected


def test_an_application_of_another_tenant_that_is_used_here_provisions_nothing(cast: Cast) -> None:
    shared = application(cast, cast.home, scope="PARTNER")
    given = cast.super_admin.at(cast.home).post(
        f"/applications/{shared['id']}/access", {"tenant_id": cast.acme.tenant_id}
    )
    assert given.status_code in (200, 201), given.text
    token = granted(cast, cast.acme, shared)
    assert scim(cast, cast.acme, token).status_code == 404
    assert scim(cast, cast.acme, token, "POST", "/Users", {"userName": "eve"}).status_code == 404


@pytest.mark.parametrize("end", ["disabled", "role taken", "scope taken", "deleted"])
def test_a_service_account_is_out_with_the_answer_that_ends_it(cast: Cast, end: str) -> None:
    account = service_account(cast, cast.acme)
    token, path = granted(cast, cast.acme, account), f"/service-accounts/{account['id']}"
    assert scim(cast, cast.acme, token).status_code == 200
    if end == "role taken":
        expected = 404
        [role] = cast.acme_admin.get(f"/role-assignments?principal_id={account['id']}").get_json()["items"]
        assert cast.acme_admin.delete(f"/role-assignments/{role['id']}").status_code == 204
    else:
        expected = ended(cast, path, end)
    assert scim(cast, cast.acme, token).status_code == expected


def test_both_ways_to_a_credential_are_announced(cast: Cast) -> None:
    token = granted(cast, cast.acme, service_account(cast, cast.acme))
    schemes = scim(cast, cast.acme, token, path="/ServiceProviderConfig").get_json()["authenticationSchemes"]
    assert [(one["type"], one.get("primary", False)) for one in schemes] == [
        ("oauthbearertoken", True),
        ("oauth2", False),
    ]
    assert all(one["name"] and one["description"] for one in schemes)


@pytest.mark.parametrize("kind", ["scim_token", "user", "service_account"])
def test_every_write_names_who_made_it_and_with_which_credential(cast: Cast, kind: str) -> None:
    credential: str | None = None
    match kind:
        case "scim_token":
            made = cast.acme_admin.post("/scim-tokens", {"name": "HR"}).get_json()
            token, actor, credential = made["token"], made["id"], made["id"]
        case "user":
            made = cast.acme_admin.post("/personal-access-tokens", {"name": "script", "scopes": ["scim"]}).get_json()
            token, actor, credential = made["token"], cast.acme_admin.user_id, made["id"]
        case _:
            account = service_account(cast, cast.acme)
            token, actor = granted(cast, cast.acme, account), account["id"]
    ada = scim(cast, cast.acme, token, "POST", "/Users", {"userName": "ada"}).get_json()["id"]
    bob = scim(cast, cast.acme, token, "POST", "/Users", {"userName": "bob"}).get_json()["id"]
    team = scim(cast, cast.acme, token, "POST", "/Groups", {"displayName": "Team"}).get_json()["id"]
    change = {"op": "add", "path": "members", "value": [{"value": ada}]}
    for method, path, body in (
        ("PUT", f"/Users/{ada}", {"userName": "ada", "title": "Countess"}),
        (
            "PATCH",
            f"/Users/{bob}",
            {"schemas": [PATCH_OP], "Operations": [{"op": "replace", "value": {"active": False}}]},
        ),
        ("PATCH", f"/Groups/{team}", {"schemas": [PATCH_OP], "Operations": [change]}),
        ("DELETE", f"/Users/{bob}", None),
        ("DELETE", f"/Groups/{team}", None),
    ):
        assert scim(cast, cast.acme, token, method, path, body).status_code in (200, 204), (method, path)
    told = {
        (one["name"], one["resource"]["id"]): one
        for id in (ada, bob, team)
        for one in cast.acme_admin.get(f"/events?resource={id}").get_json()["items"]
    }
    for name, id in (
        ("user.created", ada),
        ("user.updated", ada),
        ("user.created", bob),
        ("user.disabled", bob),
        ("user.removed", bob),
        ("group.created", team),
        ("group.members_changed", team),
        ("group.removed", team),
    ):
        assert (name, id) in told, (name, sorted(told))
    for one in told.values():
        assert (one["actor"]["kind"], one["actor"]["id"]) == (kind, actor), one
        assert one["actor"]["credential_id"] and (credential is None or one["actor"]["credential_id"] == credential)
        assert one["request_id"]
