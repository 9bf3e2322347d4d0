"""What the OpenID IPSIE profile of SCIM for account lifecycle (draft 00) asks of a service provider, line by line.

AL1 is people, AL2 groups as well. Local edits, which AL2 forbids, are a matter of who administers. That tokens of every
kind end with their person is shown in `tests/journeys/test_revocation.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from broker import allowance, settings
from broker.db import unit
from broker.models import Event
from tests.casting import make_token
from tests.conftest import World
from tests.scim.conftest import Scim, token_of

MEMBERS = 50
"""Member operations that one PATCH must be able to carry."""
REQUESTS_PER_SECOND = 25
WORK = {"type": "work", "value": "ada@acme.example"}


@pytest.fixture
def acme(web: Flask, world: World) -> Scim:
    assert world.acme.slug is not None
    return Scim(web, world.acme.slug, token_of(world.acme))


@pytest.mark.parametrize(
    "filter",
    [
        'userName eq "ada"',
        'userName eq "ADA"',
        'externalId eq "hr-7"',
        'emails[value eq "ada@acme.example"]',
        'emails[type eq "work" and value eq "ada@acme.example"]',
        'emails.value eq "ada@acme.example"',
    ],
)
def test_al1_a_person_is_found_by_every_filter_of_the_profile(acme: Scim, filter: str) -> None:
    acme.user("ada", externalId="hr-7", emails=[WORK, {"type": "home", "value": "ada@home.example"}])
    acme.user("eve", externalId="HR-7", emails=[{"type": "home", "value": "eve@home.example"}])
    assert acme.names("/Users", filter=filter) == ["ada"]


def test_al1_a_filter_that_nobody_meets_is_an_empty_list(acme: Scim) -> None:
    acme.user("ada", emails=[WORK])
    for filter in ('userName eq "nobody"', 'emails[type eq "home" and value eq "ada@acme.example"]'):
        assert acme.names("/Users", filter=filter) == []


DEACTIVATIONS: dict[str, Callable[[Scim, str], int]] = {
    "path": lambda scim, id: scim.patch(f"/Users/{id}", _active(False)).status_code,
    "no path": lambda scim, id: scim.patch(f"/Users/{id}", {"op": "replace", "value": {"active": False}}).status_code,
}


def _active(value: bool) -> dict[str, Any]:
    return {"op": "replace", "path": "active", "value": value}


@pytest.mark.parametrize("way", DEACTIVATIONS)
def test_al1_deactivation_ends_the_persons_tokens_and_reactivation_is_possible(
    acme: Scim, world: World, way: str
) -> None:
    ada = acme.user("ada")
    with acme.app.app_context():
        pat = {"Authorization": f"Bearer {make_token(world.acme, ada)}"}
    client = acme.app.test_client()
    assert client.get("/api/v1/auth/whoami", headers=pat).status_code == 200
    assert DEACTIVATIONS[way](acme, ada) == 200
    assert acme.get(f"/Users/{ada}").json["active"] is False
    assert client.get("/api/v1/auth/whoami", headers=pat).status_code == 401
    assert acme.patch(f"/Users/{ada}", _active(True)).json["active"] is True


def test_al1_a_deleted_person_is_gone_and_the_name_is_free(acme: Scim) -> None:
    ada = acme.user("ada", externalId="hr-7", emails=[WORK])
    assert acme.delete(f"/Users/{ada}").status_code == 204
    for answer in (acme.get(f"/Users/{ada}"), acme.delete(f"/Users/{ada}"), acme.patch(f"/Users/{ada}", _active(True))):
        assert answer.status_code == 404
    assert acme.names("/Users", filter='userName eq "ada"') == []
    again = acme.make("/Users", userName="ada", externalId="hr-7", emails=[WORK])
    assert again["id"] != ada and again["active"] is True and not again.get("groups")


def test_al1_a_name_that_is_taken_is_a_conflict(acme: Scim) -> None:
    acme.user("ada")
    refused = acme.post("/Users", {"userName": "Ada"})
    assert (refused.status_code, refused.json["scimType"]) == (409, "uniqueness")


def test_al1_no_password_is_needed_or_shown(acme: Scim) -> None:
    made = acme.make("/Users", userName="ada", password="correct horse battery staple")
    assert "password" not in made and "password" not in acme.get(f"/Users/{made['id']}?attributes=password").json


@pytest.mark.parametrize("apart", [True, False], ids=["an operation each", "one list"])
def test_al2_a_patch_carries_fifty_member_operations_and_more(acme: Scim, apart: bool) -> None:
    people = [acme.user(f"person{number:02}") for number in range(MEMBERS)]
    group = acme.group("Team")

    def operations(op: str) -> list[dict[str, Any]]:
        if apart and op == "remove":
            return [{"op": op, "path": f'members[value eq "{id}"]'} for id in people]
        if apart:
            return [{"op": op, "path": "members", "value": [{"value": id}]} for id in people]
        return [{"op": op, "path": "members", "value": [{"value": id} for id in people]}]

    assert acme.patch(f"/Groups/{group}", *operations("add")).status_code in (200, 204)
    assert {one["value"] for one in acme.get(f"/Groups/{group}").json["members"]} == set(people)
    assert acme.patch(f"/Groups/{group}", *operations("remove")).status_code in (200, 204)
    assert not acme.get(f"/Groups/{group}").json.get("members")


def test_al2_a_group_is_found_by_its_name_and_left_by_who_is_deleted(acme: Scim) -> None:
    ada = acme.user("ada")
    group = acme.group("Team", ada)
    assert acme.names("/Groups", filter='displayName eq "team"') == ["Team"]
    assert acme.delete(f"/Users/{ada}").status_code == 204
    assert not acme.get(f"/Groups/{group}").json.get("members")


def test_twenty_five_requests_a_second_pass_and_beyond_the_limit_it_is_429(acme: Scim, world: World) -> None:
    for name in ("scim_requests_per_second", "scim_burst"):
        assert settings.SETTINGS[name].default >= REQUESTS_PER_SECOND
    with acme.app.app_context(), unit(world.acme):
        settings.change(world.acme, {name: REQUESTS_PER_SECOND for name in ("scim_requests_per_second", "scim_burst")})
    allowance._limits.clear()
    began = time.monotonic()
    answers = [acme.get("/Users?count=0")]
    while answers[-1].status_code == 200 and time.monotonic() - began < 20:
        answers.append(acme.get("/Users?count=0"))
    allowance._limits.clear()
    assert len(answers) > REQUESTS_PER_SECOND
    if answers[-1].status_code != 200:  # a machine that answers no more than the limit refuses nobody
        assert answers[-1].status_code == 429 and int(answers[-1].headers["Retry-After"]) >= 1


def test_every_write_is_in_the_log(acme: Scim, world: World) -> None:
    ada = acme.user("ada")
    acme.patch(f"/Users/{ada}", _active(False))
    acme.delete(f"/Users/{ada}")
    with acme.app.app_context(), unit(world.acme) as session:
        told = session.query(Event).filter(Event.resource_id == ada).order_by(Event.id).all()
        assert [one.name for one in told] == ["user.created", "user.disabled", "user.removed"]
        assert all(one.actor_kind == "scim_token" and one.credential_id == one.actor_id for one in told)


def test_bulk_and_oauth_are_announced(acme: Scim) -> None:
    said = acme.get("/ServiceProviderConfig").json
    assert said["bulk"]["supported"] and said["patch"]["supported"] and said["filter"]["supported"]
    assert "oauth2" in [one["type"] for one in said["authenticationSchemes"]]
