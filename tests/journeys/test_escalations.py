"""Nobody becomes more than he is (contract §2): each attempt refused, each with a twin that is allowed.

Attempts by id, header or path on other tenants are `test_walls`'; here somebody has a foot in the door and wants more.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from flask import Flask
from werkzeug.test import TestResponse

from broker import credentials, ids
from broker.context import Scope, acting, system
from broker.db import platform_scope, unit
from broker.models import Tenant
from tests.casting import Caller, Cast, code, give_role, make_group, make_token, make_user
from tests.conftest import World, make_world

ROLES = "/role-assignments"
TOKENS = "/personal-access-tokens"
PATCH = "urn:ietf:params:scim:api:messages:2.0:PatchOp"


@pytest.fixture
def others(app: Flask) -> World:
    """Another partner with its tenants."""
    return make_world()


class Scim:
    """One credential at one tenant's SCIM server."""

    def __init__(self, cast: Cast, scope: Scope, token: str) -> None:
        self._client, self._slug, self._token = cast.client, scope.slug, token

    def ask(self, method: str, path: str, body: Any = None) -> TestResponse:
        return self._client.open(
            f"/scim/v2/{self._slug}{path}",
            method=method,
            data=None if body is None else orjson.dumps(body),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/scim+json"},
        )

    def patch(self, path: str, *operations: dict[str, Any]) -> TestResponse:
        return self.ask("PATCH", path, {"schemas": [PATCH], "Operations": list(operations)})


def upstream(cast: Cast, scope: Scope) -> Scim:
    with unit(scope), acting(system("test")):
        return Scim(cast, scope, credentials.mint_scim_token({"name": "upstream"})[1])


def grant(caller: Caller, role: str, principal_id: str, scope_id: str | None = None) -> TestResponse:
    body = {"role": role, "principal_id": principal_id}
    return caller.post(ROLES, body if scope_id is None else {**body, "scope_id": scope_id})


def test_a_tenants_admin_grants_nothing_wider_than_his_own(cast: Cast, others: World) -> None:
    admin, user, at_home = cast.acme_admin, make_user(cast.acme), make_user(cast.home)
    for role, scope_id in (("partner_admin", cast.world.partner_id), ("super_admin", None)):
        assert code(grant(admin, role, user, scope_id)) == (422, "validation_failed")
        assert code(grant(admin.at(cast.home), role, at_home, scope_id)) == (400, "context_conflict")
    for elsewhere in (cast.globex, others.acme):
        assert code(grant(admin, "tenant_admin", user, elsewhere.tenant_id)) == (422, "validation_failed")
        assert code(grant(admin, "tenant_admin", make_user(elsewhere))) == (422, "validation_failed")
        assert code(grant(admin.at(elsewhere), "tenant_admin", make_user(elsewhere))) == (400, "context_conflict")
    assert grant(admin, "tenant_admin", user).status_code == 201


def test_a_partners_admin_grants_nothing_above_or_beside_him(cast: Cast, others: World) -> None:
    admin, at_home = cast.partner_admin, make_user(cast.home)
    assert code(grant(admin.at(cast.home), "super_admin", at_home)) == (422, "validation_failed")
    assert code(grant(admin.at(cast.platform), "super_admin", make_user(cast.platform))) == (404, "not_found")
    assert code(grant(admin.at(cast.home), "partner_admin", at_home, others.partner_id)) == (422, "validation_failed")
    assert code(grant(admin.at(others.home), "partner_admin", make_user(others.home))) == (404, "not_found")
    assert code(grant(admin.at(cast.acme), "partner_admin", make_user(cast.acme))) == (422, "validation_failed")
    assert code(grant(admin.at(cast.home), "tenant_admin", at_home)) == (422, "validation_failed")
    assert grant(admin.at(cast.home), "partner_admin", at_home, cast.world.partner_id).status_code == 201
    assert grant(admin.at(cast.acme), "tenant_admin", make_user(cast.acme)).status_code == 201


def test_wide_roles_come_through_no_group(cast: Cast) -> None:
    member = make_user(cast.home)
    group = make_group(cast.home, member)
    assert code(grant(cast.partner_admin.at(cast.home), "partner_admin", group)) == (422, "validation_failed")
    assert code(grant(cast.super_admin.at(cast.platform), "super_admin", make_group(cast.platform)))[0] == 422
    give_role(cast.home, group, "partner_admin", cast.world.partner_id)
    caller = cast.caller(member, cast.home)
    assert code(caller.get("/partners")) == (404, "not_found"), "not even if the row were there"
    assert grant(cast.partner_admin.at(cast.home), "partner_admin", member).status_code == 201
    assert caller.get("/partners").status_code == 200


@pytest.mark.parametrize("role", ["tenant_admin", "partner_admin", "super_admin"])
def test_a_role_held_where_it_cannot_live_is_none(cast: Cast, role: str) -> None:
    lives = {"tenant_admin": cast.acme, "partner_admin": cast.home, "super_admin": cast.platform}[role]
    for scope in (cast.acme, cast.home, cast.platform):
        reach = {"tenant_admin": scope.tenant_id, "partner_admin": scope.partner_id, "super_admin": None}[role]
        user = make_user(scope)
        give_role(scope, user, role, reach)
        answer = cast.caller(user, scope).get("/tenants")
        assert (answer.status_code == 200) is (scope == lives), (role, scope.kind)


def test_home_and_platform_are_administered_from_above_only(cast: Cast, others: World) -> None:
    at_home = cast.caller(make_user(cast.home), cast.home)
    give_role(cast.home, at_home.user_id, "tenant_admin", cast.home.tenant_id)
    attempts: list[tuple[Caller, tuple[int, str]]] = [
        (at_home, (404, "not_found")),
        (at_home.at(cast.home), (404, "not_found")),
        (cast.acme_admin.at(cast.home), (400, "context_conflict")),
        (cast.partner_admin.at(others.home), (404, "not_found")),
        (cast.partner_admin.at(cast.platform), (404, "not_found")),
    ]
    for caller, refusal in attempts:
        assert code(caller.post("/scim-tokens", {"name": "mine"})) == refusal
        assert code(caller.post("/identity-providers", {"kind": "ldap", "name": "mine"})) == refusal
        assert code(caller.get("/events")) == refusal
    for caller in (cast.partner_admin.at(cast.home), cast.super_admin.at(cast.platform)):
        assert caller.post("/scim-tokens", {"name": "ours"}).status_code == 201


def test_contexts_that_disagree_are_refused(cast: Cast, others: World) -> None:
    admin, acme, globex = cast.partner_admin, cast.acme.tenant_id, cast.globex.tenant_id
    for caller, path, headers in (
        (admin.at(globex), f"/t/{acme}/events", {}),
        (admin.at(globex), f"/tenants/{acme}", {}),
        (admin.at(globex), f"/tenants/{acme}/settings", {}),
        (admin.at(acme), "/events", {"X-Partner-ID": others.partner_id}),
        (admin.at(others.acme), f"/partners/{cast.world.partner_id}", {}),
        (admin, f"/partners/{cast.world.partner_id}", {"X-Partner-ID": others.partner_id}),
        (cast.acme_admin, "/events", {"X-Tenant-ID": others.acme.tenant_id}),
        (cast.acme_admin, f"/t/{globex}/events", {}),
    ):
        assert code(caller.get(path, headers=headers)) == (400, "context_conflict"), (path, headers)
    agreeing = {"X-Tenant-ID": acme, "X-Partner-ID": cast.world.partner_id}
    assert admin.get(f"/t/{acme}/events", headers=agreeing).status_code == 200
    assert cast.acme_admin.get("/events", headers=agreeing).status_code == 200


def test_limits_and_names_are_set_from_above(cast: Cast) -> None:
    acme, partner = f"/tenants/{cast.acme.tenant_id}", f"/partners/{cast.world.partner_id}"
    assert code(cast.acme_admin.patch(acme, {"status": "active"})) == (403, "access_denied")
    assert code(cast.acme_admin.delete(f"{acme}?confirm={cast.acme.slug}")) == (403, "access_denied")
    assert code(cast.partner_admin.patch(partner, {"max_tenants": 1_000})) == (403, "access_denied")
    assert code(cast.partner_admin.post("/partners", {"name": "P", "slug": "p"})) == (404, "not_found")
    assert code(cast.acme_admin.get(partner)) == (404, "not_found")
    assert cast.partner_admin.patch(acme, {"name": "Acme"}).status_code == 200
    assert cast.super_admin.patch(partner, {"max_tenants": 1_000}).status_code == 200


def test_a_locked_setting_stays_what_those_above_say(cast: Cast) -> None:
    acme = f"/tenants/{cast.acme.tenant_id}/settings"
    locked = {"session_timeout": {"value": 600, "locked": True}}
    assert cast.partner_admin.patch(f"/partners/{cast.world.partner_id}/settings", locked).status_code == 200
    for attempt in (86_400, {"value": 86_400, "locked": False}, None):
        assert code(cast.acme_admin.patch(acme, {"session_timeout": attempt})) == (409, "conflict")
    assert cast.acme_admin.patch(acme, {"session_idle_timeout": 600}).status_code == 200


def test_only_those_above_vouch_for_a_domain(cast: Cast) -> None:
    name = f"{ids.new('dom')[4:]}.example"
    assert code(cast.acme_admin.post("/domains", {"name": name, "verified": True})) == (403, "access_denied")
    made = cast.acme_admin.post("/domains", {"name": name})
    assert made.status_code == 201
    path = f"/domains/{made.get_json()['id']}"
    assert code(cast.acme_admin.patch(path, {"verified": True})) == (403, "access_denied")
    assert cast.partner_admin.at(cast.acme).patch(path, {"verified": True}).status_code == 200


def test_applications_are_as_wide_as_those_who_register_them(cast: Cast, others: World) -> None:
    new = {"name": "Wide", "type": "web"}
    for caller, scope in (
        (cast.acme_admin, "PARTNER"),
        (cast.acme_admin, "GLOBAL"),
        (cast.partner_admin.at(cast.home), "GLOBAL"),
        (cast.partner_admin.at(cast.acme), "PARTNER"),
    ):
        assert code(caller.post("/applications", {**new, "scope": scope})) == (422, "validation_failed")
    home = cast.partner_admin.at(cast.home)
    made = home.post("/applications", {**new, "scope": "PARTNER"})
    assert made.status_code == 201
    path = f"/applications/{made.get_json()['id']}"
    assert code(home.post(f"{path}/access", {"tenant_id": others.acme.tenant_id})) == (422, "validation_failed")
    assert code(home.patch(path, {"scope": "GLOBAL"})) == (422, "validation_failed")
    assert home.post(f"{path}/access", {"tenant_id": cast.acme.tenant_id}).status_code == 201


def test_whoever_may_use_an_application_does_not_own_it(cast: Cast) -> None:
    home, acme = cast.partner_admin.at(cast.home), cast.acme_admin
    path = "/applications/" + home.post("/applications", {"name": "S", "type": "web", "scope": "PARTNER"}).json["id"]
    for tenant in (cast.acme, cast.globex):
        home.post(f"{path}/access", {"tenant_id": tenant.tenant_id})
    for attempt in (
        acme.patch(path, {"name": "Mine", "audience": "mine"}),
        acme.delete(path),
        acme.post(f"{path}/access", {"tenant_id": cast.globex.tenant_id}),
        acme.delete(f"{path}/access/{cast.globex.tenant_id}"),
        cast.partner_admin.at(cast.acme).patch(path, {"name": "Mine"}),
        cast.partner_admin.at(cast.acme).delete(f"{path}/access/{cast.globex.tenant_id}"),
    ):
        assert code(attempt) == (403, "access_denied")
    assert [one["tenant_id"] for one in acme.get(f"{path}/access").json["items"]] == [cast.acme.tenant_id]
    assert len(home.get(f"{path}/access").json["items"]) == 3
    assert code(acme.post(f"{path}/assignments", {"principal_id": make_user(cast.globex)}))[0] == 422
    assert acme.post(f"{path}/assignments", {"principal_id": make_user(cast.acme)}).status_code == 201


@pytest.mark.parametrize("role", ["super_admin", "Tenant_Admin", "scaikey:write"])
def test_no_application_makes_administrators(cast: Cast, role: str) -> None:
    made = cast.acme_admin.post("/applications", {"name": "A", "type": "web"}).json["id"]
    path, user = f"/applications/{made}/assignments", make_user(cast.acme)
    assert code(cast.acme_admin.post(path, {"principal_id": user, "roles": [role]})) == (422, "validation_failed")
    assert code(cast.acme_admin.patch(f"/applications/{made}", {"audience": "scaikey"})) == (422, "validation_failed")
    assert cast.acme_admin.post(path, {"principal_id": user, "roles": ["admin"]}).status_code == 201


def test_a_token_gives_no_more_than_it_carries(cast: Cast) -> None:
    for own, wanted in (
        (("scaikey:write",), "scim"),
        (("scaikey:write", "scim"), "introspect"),
        (("scaikey:write", "scim"), "everything"),
    ):
        caller = cast.caller(cast.acme_admin.user_id, cast.acme, scopes=own)
        refused = caller.post(TOKENS, {"name": "more", "scopes": [wanted]})
        assert code(refused)[0] == (422 if wanted == "everything" else 403)
        assert caller.post(TOKENS, {"name": "same", "scopes": ["scaikey:read", *own]}).status_code == 201


@pytest.mark.parametrize("scopes", [("scaikey:read",), ("scim",), ("introspect",), ("scaikey:read", "introspect")])
def test_a_token_that_only_reads_writes_nothing(cast: Cast, scopes: tuple[str, ...]) -> None:
    caller = cast.caller(cast.acme_admin.user_id, cast.acme, scopes=scopes)
    attempts: dict[str, Any] = {
        TOKENS: {"name": "wider", "scopes": ["scaikey:write"]},
        ROLES: {"role": "tenant_admin", "principal_id": cast.person.user_id},
        "/scim-tokens": {"name": "mine"},
        "/applications": {"name": "mine", "type": "web"},
    }
    for path, body in attempts.items():
        assert code(caller.post(path, body)) == (403, "access_denied")
        assert (caller.get(path).status_code == 200) is ("scaikey:read" in scopes)
    directory = Scim(cast, cast.acme, caller.token or "")
    made = directory.ask("POST", "/Users", {"userName": ids.new("usr")})
    assert made.status_code == (201 if "scim" in scopes else 403)


def test_a_token_made_by_an_administrator_begets_none_that_outlives_it(cast: Cast) -> None:
    """Or thirty days for somebody else would be as long as one likes, and in that person's name."""
    body = {"name": "for you", "user_id": cast.person.user_id, "scopes": ["scaikey:write"]}
    made = cast.acme_admin.post(TOKENS, body).json
    borrowed = Caller(cast.client, cast.person.user_id, made["token"])
    long = {"name": "longer", "scopes": ["scaikey:write"], "expires_at": days(60)}
    assert code(borrowed.post(TOKENS, long)) == (422, "validation_failed")
    child = borrowed.post(TOKENS, {"name": "as long", "scopes": ["scaikey:write"]}).json
    assert child["expires_at"] <= made["expires_at"]
    grandchild = Caller(cast.client, cast.person.user_id, child["token"])
    assert code(grandchild.post(TOKENS, long)) == (422, "validation_failed")
    assert cast.person.post(TOKENS, long).status_code == 201, "his own tokens are his own affair"


def days(count: float) -> str:
    return (datetime.now(UTC) + timedelta(days=count)).isoformat()


def test_nobody_borrows_a_wider_principals_name(cast: Cast) -> None:
    """Minting for, listing and revoking of others: within the tenant and only up to one's own width."""
    wide = make_user(cast.acme)
    give_role(cast.acme, wide, "partner_admin", cast.world.partner_id)
    token = make_token(cast.acme, wide)
    assert code(cast.acme_admin.post(TOKENS, {"name": "x", "user_id": wide})) == (403, "access_denied")
    [theirs] = cast.acme_admin.get(f"{TOKENS}?user_id={wide}").json["items"]
    assert code(cast.acme_admin.delete(f"{TOKENS}/{theirs['id']}")) == (403, "access_denied")
    assert code(cast.person.post(TOKENS, {"name": "x", "user_id": cast.acme_admin.user_id})) == (404, "not_found")
    assert code(cast.person.get(f"{TOKENS}?user_id={cast.acme_admin.user_id}")) == (404, "not_found")
    assert code(cast.acme_admin.post(TOKENS, {"name": "x", "user_id": make_user(cast.globex)})) == (404, "not_found")
    assert Caller(cast.client, wide, token).get(TOKENS).status_code == 200, "still there"
    assert cast.acme_admin.post(TOKENS, {"name": "x", "user_id": cast.person.user_id}).status_code == 201
    assert cast.partner_admin.at(cast.acme).delete(f"{TOKENS}/{theirs['id']}").status_code == 204


def administrators(cast: Cast) -> dict[str, str]:
    """acme's administrators: by name, through a group, and through a group in a group."""
    direct, through, deep = (make_user(cast.acme, f"{name}-{ids.new('usr')}") for name in ("direct", "through", "deep"))
    inner = make_group(cast.acme, deep)
    give_role(cast.acme, direct, "tenant_admin", cast.acme.tenant_id)
    give_role(cast.acme, make_group(cast.acme, through, inner), "tenant_admin", cast.acme.tenant_id)
    return {"direct": direct, "through a group": through, "through a nested group": deep}


DEEDS: dict[str, Callable[[Scim, str], TestResponse]] = {
    "rename": lambda scim, id: scim.patch(f"/Users/{id}", {"op": "replace", "path": "userName", "value": "mallory"}),
    "change e-mail": lambda scim, id: scim.patch(
        f"/Users/{id}", {"op": "add", "path": "emails", "value": [{"value": "mallory@evil.example"}]}
    ),
    "change externalId": lambda scim, id: scim.patch(f"/Users/{id}", {"op": "add", "value": {"externalId": "m"}}),
    "replace": lambda scim, id: scim.ask("PUT", f"/Users/{id}", {"userName": "mallory"}),
    "delete": lambda scim, id: scim.ask("DELETE", f"/Users/{id}"),
    "make a service account": lambda scim, id: scim.patch(
        f"/Users/{id}", {"op": "add", "path": "userType", "value": "ServiceAccount"}
    ),
    "disable and rename": lambda scim, id: scim.patch(
        f"/Users/{id}", {"op": "replace", "value": {"active": False, "userName": "mallory"}}
    ),
}


@pytest.mark.parametrize("deed", DEEDS)
def test_a_scim_token_does_nothing_to_an_administrator(cast: Cast, deed: str) -> None:
    scim = upstream(cast, cast.acme)
    for holder, user in administrators(cast).items():
        before = scim.ask("GET", f"/Users/{user}").json
        refused = DEEDS[deed](scim, user)
        assert refused.status_code == 403, (holder, refused.text)
        assert scim.ask("GET", f"/Users/{user}").json == before, holder
    plain = make_user(cast.acme, ids.new("usr"))
    expected = (403,) if deed == "make a service account" else (200, 204)
    assert DEEDS[deed](scim, plain).status_code in expected


def test_a_scim_token_may_only_deactivate_an_administrator(cast: Cast) -> None:
    scim = upstream(cast, cast.acme)
    for holder, user in administrators(cast).items():
        caller = cast.caller(user, cast.acme)
        assert caller.get("/events").status_code == 200
        for active, status in ((False, 200), (True, 403)):
            done = scim.patch(f"/Users/{user}", {"op": "replace", "path": "active", "value": active})
            assert done.status_code == status, holder
        assert code(caller.get("/events")) == (401, "authentication_required")


def test_a_scim_token_makes_nobody_an_administrator(cast: Cast) -> None:
    """Memberships of groups that carry a role, directly or above them, are for administrators and syncs."""
    mallory, admin = make_user(cast.acme), make_user(cast.acme)
    inner = make_group(cast.acme, admin)
    carrying = make_group(cast.acme, inner)
    give_role(cast.acme, carrying, "tenant_admin", cast.acme.tenant_id)
    scim, boss = upstream(cast, cast.acme), Scim(cast, cast.acme, cast.acme_admin.token or "")
    mine = scim.ask("POST", "/Groups", {"displayName": "mine", "members": [{"value": mallory}]}).json["id"]
    for group in (inner, carrying):
        path = f"/Groups/{group}"
        for who in (mallory, mine):
            entry = [{"value": who}]
            for attempt in (
                scim.patch(path, {"op": "add", "path": "members", "value": entry}),
                scim.patch(path, {"op": "replace", "path": "members", "value": entry}),
                scim.patch(path, {"op": "add", "value": {"members": entry}}),
                scim.patch(
                    path, {"op": "add", "value": {"urn:ietf:params:scim:schemas:core:2.0:Group:members": entry}}
                ),
                scim.ask("PUT", path, {"displayName": "g", "members": entry}),
            ):
                assert attempt.status_code == 403, attempt.text
        for attempt in (
            scim.patch(path, {"op": "remove", "path": f'members[value eq "{admin}"]'}),
            scim.patch(path, {"op": "remove", "path": "members"}),
            scim.patch(path, {"op": "replace", "path": "displayName", "value": "Harmless"}),
            scim.ask("PUT", path, {"displayName": "g"}),
            scim.ask("DELETE", path),
        ):
            assert attempt.status_code == 403, attempt.text
    caller = cast.caller(mallory, cast.acme)
    assert code(caller.get("/events")) == (404, "not_found")
    assert cast.caller(admin, cast.acme).get("/events").status_code == 200
    above = scim.ask("POST", "/Groups", {"displayName": "above", "members": [{"value": carrying}, {"value": mallory}]})
    assert above.status_code == 201 and code(caller.get("/events"))[0] == 404, "a role comes down, never up"
    assert (
        scim.patch(f"/Groups/{mine}", {"op": "add", "path": "members", "value": [{"value": admin}]}).status_code == 200
    )
    added = boss.patch(f"/Groups/{inner}", {"op": "add", "path": "members", "value": [{"value": mallory}]})
    assert added.status_code == 200 and caller.get("/events").status_code == 200


def test_roles_said_by_scim_are_data(cast: Cast) -> None:
    scim = upstream(cast, cast.acme)
    roles = [{"value": "super_admin"}, {"value": "tenant_admin"}]
    made = scim.ask("POST", "/Users", {"userName": ids.new("usr"), "roles": roles}).json
    assert made["roles"] == roles
    caller = cast.caller(made["id"], cast.acme)
    assert code(caller.get("/events")) == (404, "not_found")
    assert grant(cast.acme_admin, "tenant_admin", made["id"]).status_code == 201
    assert caller.get("/events").status_code == 200


def test_a_scim_token_is_good_for_scim_in_its_tenant_alone(cast: Cast) -> None:
    scim = upstream(cast, cast.acme)
    as_caller = Caller(cast.client, "", scim._token)
    for path in ("/events", TOKENS, ROLES, "/scim-tokens", "/tenants", f"/tenants/{cast.acme.tenant_id}"):
        assert as_caller.get(path).status_code in (403, 404), path
    for path, body in ((TOKENS, {"name": "x"}), ("/scim-tokens", {"name": "x"})):
        assert as_caller.post(path, body).status_code in (403, 404), path
    user = make_user(cast.acme, ids.new("usr"))
    renaming = {"op": "replace", "path": "displayName", "value": "P"}
    assert scim.patch(f"/Users/{user}?pin=true", renaming).status_code == 403
    for elsewhere in (cast.globex, cast.home, cast.platform):
        assert Scim(cast, elsewhere, scim._token).ask("GET", "/Users").status_code == 404
    assert scim.patch(f"/Users/{user}", renaming).status_code == 200


def test_a_suspended_tenants_people_and_machines_stop_at_once(cast: Cast) -> None:
    scim = upstream(cast, cast.acme)
    assert cast.acme_admin.get("/events").status_code == scim.ask("GET", "/Users").status_code == 200
    for status, expected in (("suspended", 401), ("active", 200)):
        with platform_scope() as session:
            session.execute(sa.update(Tenant).where(Tenant.id == cast.acme.tenant_id).values(status=status))
        assert cast.acme_admin.get("/events").status_code == expected
        assert scim.ask("GET", "/Users").status_code == expected
        assert cast.partner_admin.at(cast.acme).get("/events").status_code == 200
