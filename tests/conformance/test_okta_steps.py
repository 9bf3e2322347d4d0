"""The requests of Okta's published "SCIM 2.0 SPEC Test", and what it asks of each answer, as a table of our own.

The file itself (Okta-SCIM-20-SPEC-Test.json) comes without a licence to keep it, so nothing of it is copied: the
requests are the protocol's, the expectations are said in our words. Its pauses and its limit on response times are
left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from flask import Flask

from tests.conftest import World
from tests.scim.conftest import Scim, token_of

CORE_USER = "urn:ietf:params:scim:schemas:core:2.0:User"
LIST = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
ERROR = "urn:ietf:params:scim:api:messages:2.0:Error"
SOMETHING = object()
"""A value that is there and not empty."""
A_NUMBER = object()
PERSON = {
    "schemas": [CORE_USER],
    "userName": "runa@okta.example",
    "name": {"givenName": "Runa", "familyName": "Scope"},
    "emails": [{"primary": True, "value": "runa@okta.example", "type": "work"}],
    "displayName": "Runa Scope",
    "active": True,
}
SHOWN = {
    "id": SOMETHING,
    "name.familyName": SOMETHING,
    "name.givenName": SOMETHING,
    "userName": SOMETHING,
    "active": SOMETHING,
    "emails.0.value": SOMETHING,
}


@dataclass(frozen=True)
class Step:
    """`{first}` and `{made}` in a path are ids of answers before."""

    name: str
    path: str
    status: int
    expects: dict[str, Any]
    body: dict[str, Any] | None = None
    keep: tuple[str, str] | None = None
    authorization: str | None = None


STEPS = (
    Step(
        "people are listed", "/Users?count=1&startIndex=1", 200,
        {"Resources": SOMETHING, "schemas.0": LIST, "itemsPerPage": A_NUMBER, "startIndex": A_NUMBER,
         "totalResults": A_NUMBER, **{f"Resources.0.{path}": value for path, value in SHOWN.items()}},
        keep=("first", "Resources.0.id"),
    ),
    Step("one of them is read", "/Users/{first}", 200, SHOWN),
    Step("nobody has the name", '/Users?filter=userName eq "nobody@okta.example"', 200,
         {"schemas.0": LIST, "totalResults": 0}),
    Step("nobody has the id", "/Users/010101001010101011001010101011", 404, {"detail": SOMETHING, "schemas.0": ERROR}),
    Step("the new person is not there", '/Users?filter=userName eq "runa@okta.example"', 200,
         {"schemas.0": LIST, "totalResults": 0}),
    Step("the person is made", "/Users", 201,
         {"active": True, "id": SOMETHING, "name.familyName": "Scope", "name.givenName": "Runa",
          "schemas.0": CORE_USER, "userName": "runa@okta.example"}, body=PERSON, keep=("made", "id")),
    Step("the person is there", "/Users/{made}", 200,
         {"userName": "runa@okta.example", "name.familyName": "Scope", "name.givenName": "Runa"}),
    Step("the person is not made twice", "/Users", 409, {"scimType": "uniqueness"}, body=PERSON),
    Step("the name is found in capitals", '/Users?filter=userName eq "RUNA@OKTA.EXAMPLE"', 200, {"totalResults": 1}),
    Step("groups are listed", "/Groups", 200, {"totalResults": 1, "Resources": SOMETHING}),
    Step("without a token there is nothing", '/Users?filter=userName eq "RUNA@OKTA.EXAMPLE"', 401,
         {"detail": SOMETHING, "status": "401", "schemas.0": ERROR}, authorization="non-token"),
    Step("an id of nobody", "/Users/00919288221112222", 404,
         {"detail": SOMETHING, "status": "404", "schemas.0": ERROR}),
)  # fmt: skip


def at(document: Any, path: str) -> Any:
    for part in path.split("."):
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


@pytest.mark.parametrize("media_type", ["application/scim+json; charset=utf-8", "application/json"])
def test_the_steps_of_okta_are_answered_as_it_expects(web: Flask, world: World, media_type: str) -> None:
    assert world.acme.slug is not None
    acme = Scim(web, world.acme.slug, token_of(world.acme))
    acme.make("/Users", **{**PERSON, "userName": "first@okta.example"})
    acme.group("devs")
    kept: dict[str, str] = {}
    for step in STEPS:
        headers = {"Content_Type": media_type, "Accept": "application/scim+json"}
        if step.authorization is not None:
            headers["Authorization"] = step.authorization
        path = step.path.format(**kept)
        answer = acme.call("GET" if step.body is None else "POST", path, step.body, **headers)
        assert answer.status_code == step.status, (step.name, answer.text)
        for where, wanted in step.expects.items():
            found = at(answer.json, where)
            if wanted is SOMETHING:
                assert found not in (None, "", [], {}), (step.name, where)
            elif wanted is A_NUMBER:
                assert isinstance(found, int) and not isinstance(found, bool), (step.name, where)
            else:
                assert found == wanted, (step.name, where)
        if step.keep is not None:
            kept[step.keep[0]] = at(answer.json, step.keep[1])
