"""Personal access tokens and SCIM tokens: shown once, never wider than who made them, gone when revoked."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from broker import ids
from broker.db import unit
from broker.models import Event
from tests.casting import Caller, Cast, code, give_role, make_group, make_user

PATH = "/personal-access-tokens"


def days(count: float) -> str:
    return (datetime.now(UTC) + timedelta(days=count)).isoformat()


def lasting(token: dict[str, Any]) -> timedelta:
    return datetime.fromisoformat(token["expires_at"]) - datetime.now(UTC)


def test_a_person_makes_uses_lists_and_revokes_a_token(cast: Cast) -> None:
    made = cast.person.post(PATH, {"name": "laptop"})
    assert made.status_code == 201
    token = made.get_json()
    assert token["scopes"] == ["scaikey:read"] and token["audiences"] == ["scaikey"]
    assert timedelta(days=89) < lasting(token) <= timedelta(days=90)
    with_it = Caller(cast.client, cast.person.user_id, token["token"])
    listed = with_it.get(PATH).get_json()["items"]
    assert token["id"] in [one["id"] for one in listed] and all("token" not in one for one in listed)
    assert "token" not in cast.person.get(f"{PATH}/{token['id']}").get_json()
    assert cast.person.delete(f"{PATH}/{token['id']}").status_code == 204
    assert code(with_it.get(PATH)) == (401, "authentication_required")
    assert code(cast.person.get(f"{PATH}/{token['id']}")) == (404, "not_found")
    with unit(cast.acme) as session:
        names = [event.name for event in session.query(Event).filter(Event.resource_id == token["id"])]
    assert sorted(names) == ["personal_access_token.created", "personal_access_token.revoked"]


def test_the_last_use_shows_on_the_token(cast: Cast) -> None:
    token = cast.person.post(PATH, {"name": "x"}).get_json()
    assert token["last_used_at"] is None
    Caller(cast.client, "", token["token"]).get(PATH).close()
    assert cast.person.get(f"{PATH}/{token['id']}").get_json()["last_used_at"] is not None


def test_an_expired_token_says_so(cast: Cast) -> None:
    token = cast.person.post(PATH, {"name": "x", "expires_at": days(0.00001)}).get_json()
    late = datetime.fromisoformat(token["expires_at"])
    while datetime.now(UTC) <= late:
        pass
    refused = Caller(cast.client, "", token["token"]).get(PATH)
    assert code(refused) == (401, "token_expired") and "invalid_token" in refused.headers["WWW-Authenticate"]


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"name": ""}, "name"),
        ({"scopes": ["scaikey:admin"]}, "scopes"),
        ({"scopes": []}, "scopes"),
        ({"audiences": ["a b"]}, "audiences.0"),
        ({"audiences": []}, "audiences"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"expires_at": "2027-01-01T00:00:00"}, "expires_at"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "2099-01-01T00:00:00Z"}, "expires_at"),
        ({"bootstrap": True}, "bootstrap"),
        ({"last_used_at": None}, "last_used_at"),
    ],
)
def test_wrong_fields_are_named(cast: Cast, fields: dict[str, Any], wrong: str) -> None:
    refused = cast.person.post(PATH, {"name": "x", **fields})
    assert code(refused) == (422, "validation_failed") and list(refused.get_json()["errors"]) == [wrong]


def test_a_token_gives_no_scope_it_does_not_carry(cast: Cast) -> None:
    writer = cast.caller(cast.person.user_id, cast.acme, scopes=["scaikey:write"])
    for scopes in (["scim"], ["scaikey:read", "introspect"]):
        assert code(writer.post(PATH, {"name": "x", "scopes": scopes})) == (403, "access_denied")
    assert writer.post(PATH, {"name": "x", "scopes": ["scaikey:read", "scaikey:write"]}).status_code == 201
    reader = cast.caller(cast.person.user_id, cast.acme, scopes=["scaikey:read"])
    assert code(reader.post(PATH, {"name": "x"})) == (403, "access_denied")


def test_an_administrator_makes_short_tokens_for_people_of_his_tenant(cast: Cast) -> None:
    user = make_user(cast.acme)
    made = cast.acme_admin.post(PATH, {"name": "for you", "user_id": user})
    assert made.status_code == 201 and lasting(made.get_json()) <= timedelta(days=30)
    assert Caller(cast.client, user, made.get_json()["token"]).get(PATH).status_code == 200
    longer = cast.acme_admin.post(PATH, {"name": "x", "user_id": user, "expires_at": days(31)})
    assert code(longer) == (422, "validation_failed")
    listed = cast.acme_admin.get(f"{PATH}?user_id={user}").get_json()["items"]
    assert [one["user_id"] for one in listed] == [user]
    assert cast.acme_admin.delete(f"{PATH}/{listed[0]['id']}").status_code == 204
    from_above = cast.partner_admin.at(cast.acme).post(PATH, {"name": "x", "user_id": user})
    assert from_above.status_code == 201
    with unit(cast.acme) as session:
        [event] = session.query(Event).filter(Event.resource_id == from_above.get_json()["id"])
        assert event.actor_id == cast.partner_admin.user_id and event.changed["user_id"] == user


def test_nobody_touches_tokens_of_somebody_wider_or_elsewhere(cast: Cast) -> None:
    home, platform = cast.partner_admin.at(cast.home), cast.super_admin.at(cast.platform)
    peer, above = make_user(cast.home), make_user(cast.platform)
    give_role(cast.home, peer, "partner_admin", cast.world.partner_id)
    give_role(cast.platform, above, "super_admin", None)
    assert home.post(PATH, {"name": "x", "user_id": peer}).status_code == 201, "as wide as his own"
    assert platform.post(PATH, {"name": "x", "user_id": above}).status_code == 201
    assert code(cast.partner_admin.at(cast.platform).post(PATH, {"name": "x", "user_id": above})) == (404, "not_found")
    assert code(cast.acme_admin.post(PATH, {"name": "x", "user_id": make_user(cast.globex)})) == (404, "not_found")
    assert code(cast.acme_admin.post(PATH, {"name": "x", "user_id": ids.new("usr")})) == (404, "not_found")
    assert code(cast.person.post(PATH, {"name": "x", "user_id": cast.acme_admin.user_id}))[0] in (403, 404)
    assert code(cast.person.get(f"{PATH}?user_id={cast.acme_admin.user_id}")) == (404, "not_found")
    [theirs, *_] = cast.acme_admin.get(PATH).get_json()["items"]
    for stranger in (cast.person, cast.globex_admin):
        assert code(stranger.get(f"{PATH}/{theirs['id']}")) == (404, "not_found")
        assert code(stranger.delete(f"{PATH}/{theirs['id']}"))[0] in (403, 404)
    assert cast.acme_admin.get(f"{PATH}/{theirs['id']}").status_code == 200


def test_a_role_through_a_group_counts_as_width(cast: Cast) -> None:
    """A wide role that came by a way nobody would take still shields its holder."""
    user = make_user(cast.acme)
    give_role(cast.acme, make_group(cast.acme, user), "super_admin", None)
    assert code(cast.acme_admin.post(PATH, {"name": "x", "user_id": user})) == (403, "access_denied")


def test_own_tokens_live_where_their_owner_does(cast: Cast) -> None:
    assert cast.super_admin.post(PATH, {"name": "x"}).status_code == 201
    assert code(cast.super_admin.at(cast.acme).post(PATH, {"name": "x"})) == (422, "validation_failed")
    assert cast.super_admin.at(cast.acme).get(PATH).get_json()["items"] == []


def test_scim_tokens_are_shown_once_and_provision_one_tenant(cast: Cast) -> None:
    made = cast.acme_admin.post("/scim-tokens", {"name": "hr", "mode": "tolerant", "expires_at": days(10)})
    assert made.status_code == 201
    token = made.get_json()
    assert token["token"].startswith("sks_") and token["mode"] == "tolerant" and not token["allow_password"]
    assert "token" not in cast.acme_admin.get(f"/scim-tokens/{token['id']}").get_json()
    bearer = {"Authorization": f"Bearer {token['token']}"}
    assert cast.client.get(f"/scim/v2/{cast.acme.slug}/Users", headers=bearer).status_code == 200
    assert cast.client.get(f"/scim/v2/{cast.globex.slug}/Users", headers=bearer).status_code == 404
    assert code(cast.nobody.get("/scim-tokens", headers=bearer))[0] in (403, 404)
    assert code(cast.globex_admin.get(f"/scim-tokens/{token['id']}")) == (404, "not_found")
    assert code(cast.globex_admin.delete(f"/scim-tokens/{token['id']}")) == (404, "not_found")
    assert [one["id"] for one in cast.acme_admin.get("/scim-tokens").get_json()["items"]] == [token["id"]]
    assert cast.acme_admin.delete(f"/scim-tokens/{token['id']}").status_code == 204
    assert cast.client.get(f"/scim/v2/{cast.acme.slug}/Users", headers=bearer).status_code == 401
    assert cast.acme_admin.get("/scim-tokens").get_json()["items"] == []


def test_a_scim_token_makes_no_tokens_and_sees_no_administration(cast: Cast) -> None:
    token = cast.acme_admin.post("/scim-tokens", {"name": "hr"}).get_json()["token"]
    caller = Caller(cast.client, "", token)
    for path in (PATH, "/scim-tokens", "/applications", "/events", "/role-assignments"):
        assert caller.get(path).status_code in (403, 404), path
        assert caller.post(path, {"name": "x"}).status_code in (403, 404, 405), path


def answered(cast: Cast, secret: str) -> int:
    return cast.client.get(
        f"/scim/v2/{cast.acme.slug}/Users?count=0", headers={"Authorization": f"Bearer {secret}"}
    ).status_code


def test_a_scim_token_is_rotated_with_an_overlap(cast: Cast) -> None:
    made = cast.acme_admin.post("/scim-tokens", {"name": "hr"}).get_json()
    path = f"/scim-tokens/{made['id']}"
    rotated = cast.acme_admin.post(f"{path}/rotate", {"overlap": 3_600})
    second = rotated.get_json()
    assert rotated.status_code == 200 and second["id"] == made["id"] and second["token"].startswith("sks_")
    assert timedelta(minutes=55) < datetime.fromisoformat(second["earlier_until"]) - datetime.now(UTC)
    assert "token" not in cast.acme_admin.get(path).get_json()
    assert (answered(cast, made["token"]), answered(cast, second["token"])) == (200, 200)
    third = cast.acme_admin.post(f"{path}/rotate", {"overlap": 60}).get_json()["token"]
    assert [answered(cast, one) for one in (made["token"], second["token"], third)] == [401, 200, 200]
    last = cast.acme_admin.post(f"{path}/rotate", {"overlap": 0}).get_json()
    assert [answered(cast, one) for one in (second["token"], third, last["token"])] == [401, 401, 200]
    assert last["earlier_until"] is None
    told = cast.acme_admin.get(f"/events?name=scim_token.rotated&resource={made['id']}").get_json()["items"]
    assert [one["changed"] for one in told] == [{"overlap": 0}, {"overlap": 60}, {"overlap": 3_600}]
    assert {one["actor"]["id"] for one in told} == {cast.acme_admin.user_id}


def test_an_overlap_ends_by_itself_and_with_the_token(cast: Cast) -> None:
    first, second = (cast.acme_admin.post("/scim-tokens", {"name": "hr"}).get_json() for _ in range(2))
    assert cast.acme_admin.post(f"/scim-tokens/{first['id']}/rotate", {"overlap": 1}).status_code == 200
    later = cast.acme_admin.post(f"/scim-tokens/{second['id']}/rotate", {}).get_json()
    time.sleep(1.1)
    assert answered(cast, first["token"]) == 401
    assert cast.acme_admin.delete(f"/scim-tokens/{second['id']}").status_code == 204
    assert [answered(cast, one) for one in (second["token"], later["token"])] == [401, 401]
    assert code(cast.acme_admin.post(f"/scim-tokens/{second['id']}/rotate", {})) == (404, "not_found")


@pytest.mark.parametrize("overlap", [-1, 2_592_001, "1h", None, True])
def test_a_wrong_overlap_leaves_the_secret_as_it_is(cast: Cast, overlap: Any) -> None:
    made = cast.acme_admin.post("/scim-tokens", {"name": "hr"}).get_json()
    refused = cast.acme_admin.post(f"/scim-tokens/{made['id']}/rotate", {"overlap": overlap})
    assert code(refused) == (422, "validation_failed") and list(refused.get_json()["errors"]) == ["overlap"]
    assert answered(cast, made["token"]) == 200


def test_a_scim_token_is_changed_and_keeps_its_secret(cast: Cast) -> None:
    made = cast.acme_admin.post("/scim-tokens", {"name": "hr"}).get_json()
    path = f"/scim-tokens/{made['id']}"
    seen = cast.acme_admin.get(path)
    changed = cast.acme_admin.patch(path, {"name": "HR", "expires_at": days(10)})
    assert changed.status_code == 200 and changed.get_json()["name"] == "HR"
    assert answered(cast, made["token"]) == 200
    again = {**changed.get_json(), "expires_at": None}
    assert cast.acme_admin.patch(path, again).get_json()["expires_at"] is None
    stale = cast.acme_admin.patch(path, {"name": "x"}, headers={"If-Match": seen.headers["ETag"]})
    assert code(stale) == (412, "precondition_failed")
    told = cast.acme_admin.get(f"/events?name=scim_token.updated&resource={made['id']}").get_json()["items"]
    assert [one["changed"] for one in told] == [["expires_at"], ["expires_at", "name"]]
    for field, value in (("expires_at", "2020-01-01T00:00:00Z"), ("token", "x"), ("last_used_at", days(1))):
        refused = cast.acme_admin.patch(path, {field: value})
        assert code(refused) == (422, "validation_failed") and list(refused.get_json()["errors"]) == [field]
    for caller, status in ((cast.globex_admin, 404), (cast.person, 404)):
        assert caller.patch(path, {"name": "mine"}).status_code == status
        assert caller.post(f"{path}/rotate", {"overlap": 0}).status_code == status
    assert cast.acme_admin.get(path).get_json()["name"] == "HR"


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"mode": "lax"}, "mode"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"identity_provider_id": "idp_none"}, "identity_provider_id"),
        ({"allow_password": "no"}, "allow_password"),
        ({"digest": "x"}, "digest"),
    ],
)
def test_wrong_scim_token_fields_are_named(cast: Cast, fields: dict[str, Any], wrong: str) -> None:
    refused = cast.acme_admin.post("/scim-tokens", {"name": "hr", **fields})
    assert code(refused) == (422, "validation_failed") and list(refused.get_json()["errors"]) == [wrong]


def test_a_scim_token_is_tolerant_or_strict_and_nothing_else(cast: Cast) -> None:
    made = cast.acme_admin.post("/scim-tokens", {"name": "hr", "mode": "strict"})
    assert made.status_code == 201 and made.get_json()["mode"] == "strict"
    assert cast.acme_admin.post("/scim-tokens", {"name": "hr"}).get_json()["mode"] == "tolerant"
    assert code(cast.acme_admin.post("/scim-tokens", {"name": "hr", "mode": "loose"})) == (422, "validation_failed")


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00"])
def test_a_moment_beyond_the_calendar_is_not_valid(cast: Cast, moment: str) -> None:
    for path in ("/scim-tokens", PATH):
        refused = cast.acme_admin.post(path, {"name": "hr", "expires_at": moment})
        assert code(refused) == (422, "validation_failed") and set(refused.get_json()["errors"]) == {"expires_at"}
