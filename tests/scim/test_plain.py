"""The plain question is answered as the door answers it, and whatever is not plain is left to the door."""

from __future__ import annotations

import pytest
from flask import Flask
from werkzeug.test import EnvironBuilder

from scim import plain
from tests.conftest import World
from tests.scim.conftest import Scim, admin_token_of, token_of

BY_THE_DOOR = {"If_None_Match": 'W/"another"'}
"""A condition that changes no answer, but has to be looked at."""


def plainly(scim: Scim, path: str, slug: str | None = None, **environ: str) -> bytes | None:
    """The body that is found before the framework is asked; None when the door has to."""
    builder = EnvironBuilder(f"/scim/v2/{slug or scim.slug}{path}")
    asked = builder.get_environ() | {"HTTP_AUTHORIZATION": f"Bearer {scim.token}", **environ}
    with scim.app.app_context():
        found = plain.answer(asked)
    return None if found is None else found[1]


@pytest.fixture
def known(acme: Scim) -> Scim:
    """A client whose token was used a moment ago: its next use need not be noted."""
    assert acme.get("/Users?count=0").status_code == 200
    return acme


def test_a_resource_of_every_type_is_answered_as_by_the_door(known: Scim) -> None:
    boss = known.user("boss", emails=[{"value": "boss@acme.example", "type": "work"}])
    ada = known.user(
        "ada", **{"urn:ietf:params:scim:schemas:extension:enterprise:2.0:User": {"manager": {"value": boss}}}
    )
    team = known.group("team", ada, boss)
    unit = known.make("/OrganizationalUnits", displayName="Unit")["id"]
    for path in (f"/Users/{ada}", f"/Groups/{team}", f"/OrganizationalUnits/{unit}"):
        by_the_door = known.get(path, **BY_THE_DOOR)
        at_once = known.get(path)
        assert plainly(known, path) == at_once.data == by_the_door.data
        assert at_once.status_code == by_the_door.status_code == 200
        shown = [sorted((k, v) for k, v in each.headers if k != "X-Request-ID") for each in (at_once, by_the_door)]
        assert shown[0] == shown[1]
        assert at_once.headers["X-Request-ID"]


@pytest.mark.parametrize(
    "asked",
    [
        "",
        "?count=0",
        "?startIndex=2&count=1",
        "?filter=userName%20eq%20%22ADA%22",
        "?filter=userName+sw+%22a%22&sortBy=userName&sortOrder=descending",
        "?attributes=userName,emails.value&count=2&count=1",
        "?excludedAttributes=groups&filter=",
        "?filter=externalId%20eq%20%22nobody%22",
    ],
)
def test_a_page_is_answered_as_by_the_door(known: Scim, asked: str) -> None:
    ada = known.user("ada", emails=[{"value": "ada@acme.example", "type": "work"}])
    known.user("grace")
    known.group("team", ada)
    by_the_door = known.get(f"/Users{asked}", **BY_THE_DOOR)
    found = plainly(known, f"/Users{asked}")
    assert found == (by_the_door.data if by_the_door.status_code == 200 else None)
    at_once = known.get(f"/Users{asked}")
    assert (at_once.status_code, at_once.data) == (by_the_door.status_code, by_the_door.data)


@pytest.mark.parametrize(
    "asked",
    [
        "?filter=title%20eq%20%22x%22",  # read from the documents: it may take too long
        "?sortBy=title",
        "?cursor=",
        "?%63ursor=&count=1",
        "?filter=userName%20eq",
        "?filter=userName%20eq%20%22%FF%22",
        "?filter=userName%20eq%20%22\xe9%22",
        "?attributes=userName&excludedAttributes=title",
        "?count=many",
    ],
)
def test_a_page_that_is_not_plain_is_left_to_the_door(known: Scim, asked: str) -> None:
    known.user("ada")
    assert plainly(known, f"/Users{asked}") is None
    assert known.get(f"/Users{asked}").status_code in (200, 400)


def test_whatever_is_not_plain_is_left_to_the_door(known: Scim, globex: Scim, world: World, web: Flask) -> None:
    ada, theirs = known.user("ada"), globex.user("theirs")
    assert plainly(known, f"/Users/{ada}") is not None
    for path in (f"/Groups/{ada}", f"/Users/{theirs}", "/Users/nobody", f"/Users/{ada}/x", f"/Nothing/{ada}"):
        assert plainly(known, path) is None, path
    for name, value in (
        ("QUERY_STRING", "attributes=userName"),
        ("HTTP_IF_MATCH", "*"),
        ("HTTP_IF_NONE_MATCH", "*"),
        ("HTTP_X_TENANT_ID", str(world.globex.tenant_id)),
        ("HTTP_X_PARTNER_ID", "prt_x"),
        ("HTTP_AUTHORIZATION", "Bearer skt_wrong"),
        ("HTTP_AUTHORIZATION", f"Basic {known.token}"),
    ):
        assert plainly(known, f"/Users/{ada}", **{name: value}) is None, name
    assert plainly(known, f"/Users/{theirs}", slug=globex.slug) is None
    assert plainly(known, f"/Users/{ada}", slug="nowhere") is None
    assert known.get(f"/Users/{theirs}").status_code == 404
    reading = Scim(web, known.slug, admin_token_of(world.acme, "tenant_admin", world.acme.tenant_id, "scaikey:read"))
    assert reading.get("/Users").status_code == 403
    assert plainly(reading, f"/Users/{ada}") is None


def test_a_strict_credential_is_the_doors_which_shows_it_no_entity_tag(known: Scim, world: World) -> None:
    ada = known.user("ada")
    strict = Scim(known.app, known.slug, token_of(world.acme, mode="strict"))
    for _ in range(2):
        answer = strict.get(f"/Users/{ada}")
        assert answer.status_code == 200 and "ETag" not in answer.headers
    assert plainly(strict, f"/Users/{ada}") is None


def test_the_first_use_of_a_token_is_the_doors_to_note(acme: Scim, world: World) -> None:
    ada = acme.user("ada")
    fresh = Scim(acme.app, acme.slug, token_of(world.acme))
    assert plainly(fresh, f"/Users/{ada}") is None
    assert fresh.get(f"/Users/{ada}").status_code == 200
    assert plainly(fresh, f"/Users/{ada}") is not None
