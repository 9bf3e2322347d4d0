"""The mode `strict`, requirement by requirement of the interoperability profile, over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from broker.attributes import CORE_USER, ENTERPRISE
from tests.conftest import World
from tests.scim.conftest import Scim, token_of
from tests.scim.test_server import refused

UNDEFINED = "urn:example:nowhere:2.0:User"
NAME = {"givenName": "Ada", "familyName": "King", "formatted": "Ada King"}
HOME = {"type": "home", "value": "ada@home.example"}
WORK = {"type": "work", "value": "ada@acme.example"}


@pytest.fixture
def strict(web: Flask, world: World) -> Scim:
    assert world.acme.slug is not None
    return Scim(web, world.acme.slug, token_of(world.acme, mode="strict"))


def op(deed: str, path: str | None = None, **value: Any) -> dict[str, Any]:
    return {"op": deed, **({} if path is None else {"path": path}), **value}


def test_conformance_is_announced_to_a_strict_credential_alone(strict: Scim, acme: Scim) -> None:
    config = strict.get("/ServiceProviderConfig").json
    assert config["interopProfileConformant"] is True and config["etag"] == {"supported": False}
    assert config["filter"]["supported"] and config["patch"]["supported"] and config["filter"]["maxResults"] >= 100
    assert "interopProfileConformant" not in acme.get("/ServiceProviderConfig").json
    assert acme.get("/ServiceProviderConfig").json["etag"] == {"supported": True}


def test_every_schema_of_a_resource_type_is_served_and_its_id_is_its_name(strict: Scim) -> None:
    types = strict.get("/ResourceTypes").json["Resources"]
    served = {one["id"] for one in strict.get("/Schemas").json["Resources"]}
    endpoints = [one["endpoint"] for one in types]
    assert types and len(set(endpoints)) == len(endpoints)
    for one in types:
        assert one["id"] == one["name"]
        assert {one["schema"], *(extension["schema"] for extension in one.get("schemaExtensions", ()))} <= served


def test_the_types_of_typed_values_are_declared(strict: Scim) -> None:
    attributes = strict.get(f"/Schemas/{CORE_USER}").json["attributes"]
    typed = {
        one["name"]: part.get("canonicalValues")
        for one in attributes
        for part in one.get("subAttributes", ())
        if part["name"] == "type" and one["multiValued"]
    }
    for name in ("emails", "phoneNumbers", "ims", "addresses"):
        assert typed[name], name


@pytest.mark.parametrize(
    "body",
    [
        {"userName": "new", "favouriteColour": "blue"},
        {"userName": "new", "name": {"nick": "x"}},
        {"userName": "new", "emails": [{**WORK, "verified": True}]},
        {"userName": "new", UNDEFINED: {"x": 1}},
        {"userName": "new", "schemas": [CORE_USER, UNDEFINED]},
        {"userName": "new", ENTERPRISE: {"shoeSize": 43}},
    ],
)
def test_what_no_schema_defines_is_refused_when_a_resource_is_said(strict: Scim, body: dict[str, Any]) -> None:
    ada = strict.user("ada")
    refused(strict.post("/Users", body), 400, "invalidSyntax")
    refused(strict.put(f"/Users/{ada}", body), 400, "invalidSyntax")
    assert strict.names("/Users") == ["ada"]


@pytest.mark.parametrize(
    ("operation", "scim_type"),
    [
        (op("replace", value={"active": False}), "invalidSyntax"),
        (op("add", "", value={"title": "x"}), "invalidSyntax"),
        (op("replace", "favouriteColour", value="blue"), "invalidSyntax"),
        (op("replace", "name.nick", value="x"), "invalidSyntax"),
        (op("replace", "name", value={"nick": "x"}), "invalidSyntax"),
        (op("add", "emails", value=[{**WORK, "verified": True}]), "invalidSyntax"),
        (op("replace", f"{UNDEFINED}:x", value="1"), "invalidSyntax"),
        (op("replace", f"{ENTERPRISE}:shoeSize", value="1"), "invalidSyntax"),
        (op("replace", 'emails[colour eq "x"].value', value="1"), "invalidSyntax"),
        (op("replace", 'emails[type eq "work"].colour', value="1"), "invalidSyntax"),
        (op("replace", 'emails[type sw "w"].value', value="1"), "invalidSyntax"),
        (op("replace", 'emails[type eq "work" or type eq "home"].value', value="1"), "invalidSyntax"),
        (op("replace", 'emails[type eq "work"]', value=WORK), "invalidPath"),
        (op("replace", "emails[type", value="1"), "invalidPath"),
    ],
)
def test_a_patch_beside_the_profile_is_refused(strict: Scim, operation: dict[str, Any], scim_type: str) -> None:
    ada = strict.make("/Users", userName="ada", emails=[WORK], name=NAME)
    refused(strict.patch(f"/Users/{ada['id']}", op("add", "title", value="Dr"), operation), 400, scim_type)
    assert strict.get(f"/Users/{ada['id']}").json == ada


@pytest.mark.parametrize(
    ("operations", "becomes"),
    [
        ([op("add", "title", value="Dr")], {"title": "Dr"}),
        ([op("replace", "title", value="Dr")], {"title": "Dr"}),
        ([op("replace", "name.givenName", value="A.")], {"name": {**NAME, "givenName": "A."}}),
        ([op("replace", "name", value={"givenName": "A."})], {"name": {"givenName": "A."}}),
        ([op("add", "name", value={"givenName": "A."})], {"name": {**NAME, "givenName": "A."}}),
        ([op("replace", "emails", value=[HOME])], {"emails": [HOME]}),
        ([op("add", "emails", value=[HOME])], {"emails": [WORK, HOME]}),
        ([op("replace", 'emails[type eq "work"].value', value="w")], {"emails": [{**WORK, "value": "w"}]}),
        ([op("replace", f"{ENTERPRISE}:department", value="R&D")], {ENTERPRISE: {"department": "R&D"}}),
        ([op("replace", "active", value=False)], {"active": False}),
    ],
)  # fmt: skip
def test_a_patch_of_the_profile_means_what_it_says(strict: Scim, operations: Any, becomes: dict[str, Any]) -> None:
    ada = strict.make("/Users", userName="ada", emails=[WORK], name=NAME)["id"]
    answer = strict.patch(f"/Users/{ada}", *operations)
    assert answer.status_code == 200, answer.text
    read = strict.get(f"/Users/{ada}").json
    assert {key: read.get(key) for key in becomes} == becomes


def test_members_are_added_and_removed_by_path(strict: Scim) -> None:
    ada, bo = strict.user("ada"), strict.user("bo")
    devs = strict.group("devs", ada)
    answer = strict.patch(f"/Groups/{devs}", op("add", "members", value=[{"value": bo}]))
    assert sorted(one["value"] for one in answer.json["members"]) == sorted([ada, bo])
    answer = strict.patch(f"/Groups/{devs}", op("remove", f'members[value eq "{ada}"]'))
    assert [one["value"] for one in answer.json["members"]] == [bo]


@pytest.mark.parametrize(
    "filter",
    ['userName eq "ADA"', 'userName eq "ada" and active eq true', 'emails[type eq "work"]', 'externalId eq "X1"'],
)
def test_filters_of_the_profile_are_answered(strict: Scim, filter: str) -> None:
    strict.make("/Users", userName="Ada", emails=[WORK], externalId="X1")
    assert strict.names("/Users", filter=filter) == ["Ada"]


@pytest.mark.parametrize(
    "filter",
    [
        'userName sw "a"', 'not (userName eq "a")', 'userName eq "a" or userName eq "b"', "title pr",
        'emails[type ne "work"]', 'favouriteColour eq "blue"',
    ],
)  # fmt: skip
def test_filters_beside_the_profile_are_refused(strict: Scim, filter: str) -> None:
    answer = strict.app.test_client().get(
        f"/scim/v2/{strict.slug}/Users",
        query_string={"filter": filter},
        headers={"Authorization": f"Bearer {strict.token}"},
    )
    refused(answer, 400, "invalidFilter")


def test_case_counts_in_filters_as_it_does_in_conflicts(strict: Scim) -> None:
    strict.make("/Users", userName="JSmith", externalId="abc-1")
    refused(strict.post("/Users", {"userName": "jsmith"}), 409, "uniqueness")
    assert strict.names("/Users", filter='userName eq "jsmith"') == ["JSmith"]
    assert strict.names("/Users", filter='externalId eq "ABC-1"') == []
    assert strict.make("/Users", userName="other", externalId="ABC-1")


def test_a_name_that_is_taken_is_a_conflict_whichever_way_it_is_said(strict: Scim) -> None:
    strict.user("ada")
    bo = strict.user("bo")
    refused(strict.post("/Users", {"userName": "ada"}), 409, "uniqueness")
    refused(strict.patch(f"/Users/{bo}", op("replace", "userName", value="Ada")), 409, "uniqueness")


def test_deleting_deletes_and_frees_the_name(strict: Scim) -> None:
    ada = strict.user("ada")
    assert strict.delete(f"/Users/{ada}").status_code == 204
    refused(strict.get(f"/Users/{ada}"), 404)
    refused(strict.patch(f"/Users/{ada}", op("replace", "active", value=True)), 404)
    refused(strict.delete(f"/Users/{ada}"), 404)
    assert strict.names("/Users") == []
    assert strict.user("ada") != ada


def test_a_deactivated_person_stays(strict: Scim) -> None:
    ada = strict.user("ada")
    assert strict.patch(f"/Users/{ada}", op("replace", "active", value=False)).status_code == 200
    assert strict.get(f"/Users/{ada}").json["active"] is False


def test_a_page_has_a_hundred_when_asked_and_no_more_than_announced(strict: Scim) -> None:
    for number in range(101):
        strict.user(f"user{number}")
    assert strict.get("/Users").json["itemsPerPage"] == 100
    assert strict.get("/Users?count=101").json["itemsPerPage"] == 101
    assert strict.get("/Users?count=100000").json["totalResults"] == 101


def test_entity_tags_are_neither_sent_nor_heard(strict: Scim) -> None:
    ada = strict.user("ada")
    answer = strict.get(f"/Users/{ada}", If_None_Match='W/"1"')
    assert answer.status_code == 200 and "ETag" not in answer.headers
    changed = strict.call("PUT", f"/Users/{ada}", {"userName": "ada", "title": "Dr"}, If_Match='W/"99"')
    assert changed.status_code == 200 and "ETag" not in changed.headers


def test_scim_is_spoken_in_its_own_media_type(strict: Scim) -> None:
    refused(strict.call("POST", "/Users", {"userName": "ada"}, Content_Type="application/json"), 415)
    answer = strict.post("/Users", {"userName": "ada"})
    assert answer.status_code == 201 and answer.content_type == "application/scim+json"
    assert strict.get("/Schemas").content_type == "application/scim+json"


def test_a_bulk_request_is_held_to_the_profile_too(strict: Scim) -> None:
    body = {
        "schemas": ["urn:ietf:params:scim:api:messages:2.0:BulkRequest"],
        "Operations": [{"method": "POST", "path": "/Users", "bulkId": "1", "data": {"userName": "bo", "colour": "x"}}],
    }
    (outcome,) = strict.post("/Bulk", body).json["Operations"]
    assert outcome["status"] == "400" and outcome["response"]["scimType"] == "invalidSyntax"
