"""Passwords set by administrators and by SCIM tokens that may."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from broker import passwords
from broker.context import Scope
from broker.db import unit
from broker.models import Event, Password
from tests.broker.api.test_service_accounts import make, scim, scim_token
from tests.casting import Caller, Cast, code, give_role, make_user

GOOD = "correct horse battery"
OTHER = "staple battery horse"


def put(caller: Caller, user_id: str, password: Any = GOOD) -> Any:
    return caller.ask("PUT", f"/users/{user_id}/password", {"password": password})


def opens(scope: Scope, name: str, password: str) -> bool:
    return passwords.check(scope, name, password, None).user_id is not None


def test_an_administrator_gives_a_local_account_its_password(cast: Cast) -> None:
    alice = make_user(cast.acme, "alice")
    assert put(cast.acme_admin, alice).status_code == 204
    assert opens(cast.acme, "alice", GOOD)
    assert put(cast.partner_admin.at(cast.acme), alice, OTHER).status_code == 204
    assert not opens(cast.acme, "alice", GOOD) and opens(cast.acme, "alice", OTHER)
    with unit(cast.acme) as session:
        told = session.scalars(sa.select(Event.changed).where(Event.name == "password.set")).all()
    assert told == [[], []]


@pytest.mark.parametrize("wrong", ["short", "aaaaaaaaaaaaaaaaaaaa", "", None, 15, "x" * 2_000])
def test_a_password_that_cannot_be_is_named(cast: Cast, wrong: Any) -> None:
    refused = put(cast.acme_admin, make_user(cast.acme, "alice"), wrong)
    assert code(refused) == (422, "validation_failed") and list(refused.get_json()["errors"]) == ["password"]
    if isinstance(wrong, str) and wrong:
        assert wrong not in refused.get_data(as_text=True)


def test_nobody_sets_the_password_of_a_wider_role(cast: Cast) -> None:
    chief = make_user(cast.home, "chief")
    give_role(cast.home, chief, "partner_admin", cast.world.partner_id)
    assert code(put(cast.acme_admin.at(None), chief)) == (404, "not_found")
    assert put(cast.partner_admin.at(cast.home), chief).status_code == 204
    assert put(cast.super_admin.at(cast.platform), cast.super_admin.user_id).status_code == 204
    assert code(put(cast.partner_admin.at(cast.platform), cast.super_admin.user_id)) == (404, "not_found")


def test_only_administrators_of_the_tenant_set_passwords(cast: Cast) -> None:
    alice = make_user(cast.acme, "alice")
    for caller in (cast.globex_admin, cast.person):
        assert put(caller, alice).status_code in (403, 404)
    reading = cast.caller(cast.acme_admin.user_id, cast.acme, scopes=("scaikey:read", "scim"))
    assert code(put(reading, alice)) == (403, "access_denied")
    robot = make(cast.acme_admin)["id"]
    assert code(put(cast.acme_admin, robot)) == (422, "validation_failed")
    with unit(cast.acme) as session:
        assert session.scalar(sa.select(Password.user_id)) is None


def test_a_scim_token_that_may_sets_passwords_and_they_are_never_shown(cast: Cast) -> None:
    token = scim_token(cast, allow_password=True)
    made = scim(cast, "POST", "/Users", {"userName": "alice", "password": GOOD}, token)
    assert made.status_code == 201 and GOOD not in made.get_data(as_text=True)
    assert opens(cast.acme, "alice", GOOD)
    path = f"/Users/{made.get_json()['id']}"
    version = made.headers["ETag"]
    patch = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"]}
    change = {**patch, "Operations": [{"op": "replace", "path": "password", "value": OTHER}]}
    changed = scim(cast, "PATCH", path, change, token)
    assert changed.status_code == 200 and OTHER not in changed.get_data(as_text=True)
    assert opens(cast.acme, "alice", OTHER) and not opens(cast.acme, "alice", GOOD)
    put_ = scim(cast, "PUT", path, {"userName": "alice", "password": GOOD}, token)
    assert put_.status_code == 200 and opens(cast.acme, "alice", GOOD)
    assert scim(cast, "GET", path).headers["ETag"] == version
    assert scim(cast, "GET", "/Users?filter=password pr", None, token).status_code == 400
    shown = scim(cast, "GET", f"{path}?attributes=password,userName", None, token)
    assert "password" not in shown.get_json()


def test_a_scim_token_that_may_not_sets_none_and_goes_on(cast: Cast) -> None:
    token = scim_token(cast)
    assert scim(cast, "POST", "/Users", {"userName": "alice", "password": GOOD}, token).status_code == 201
    assert not opens(cast.acme, "alice", GOOD)


def test_a_poor_password_keeps_a_scim_user_out(cast: Cast) -> None:
    token = scim_token(cast, allow_password=True)
    refused = scim(cast, "POST", "/Users", {"userName": "alice", "password": "Secret1!"}, token)
    assert refused.status_code == 400 and refused.get_json()["scimType"] == "invalidValue"
    assert scim(cast, "GET", '/Users?filter=userName eq "alice"', None, token).get_json()["totalResults"] == 0


def test_a_scim_token_sets_no_administrators_password(cast: Cast) -> None:
    token = scim_token(cast, allow_password=True)
    path = f"/Users/{cast.acme_admin.user_id}"
    name = scim(cast, "GET", path).get_json()["userName"]
    refused = scim(cast, "PUT", path, {"userName": name, "active": True, "password": GOOD}, token)
    assert refused.status_code == 403
    assert not opens(cast.acme, name, GOOD)


def test_an_administrator_sets_passwords_elsewhere_than_in_scim(cast: Cast) -> None:
    refused = scim(cast, "POST", "/Users", {"userName": "alice", "password": GOOD})
    assert refused.status_code == 400 and "/users/" in refused.get_json()["detail"]
