"""What is announced is what is taken, to whom it is told so."""

from __future__ import annotations

import base64
import uuid
from typing import Any

import pytest
from flask import Flask

from broker import settings
from broker.attributes import AD_GROUP, AD_USER, CORE_GROUP, UNIT
from broker.context import acting, system
from broker.db import unit
from scim.schemas import MEMBERSHIP
from tests.conftest import World
from tests.scim.conftest import Scim, token_of
from tests.scim.test_server import refused


@pytest.fixture
def strict(web: Flask, world: World) -> Scim:
    assert world.acme.slug is not None
    return Scim(web, world.acme.slug, token_of(world.acme, mode="strict"))


def attributes(client: Scim, urn: str) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in client.get(f"/Schemas/{urn}").json["attributes"]}


def some(attribute: dict[str, Any]) -> Any:
    """A value as the schema describes it."""
    value: Any = str(uuid.uuid4())
    match attribute["type"]:
        case "integer":
            value = 512
        case "boolean":
            value = True
        case "dateTime":
            value = "2026-01-31T12:00:00Z"
        case "binary":
            value = base64.b64encode(uuid.uuid4().bytes).decode()
        case "complex":
            value = {part["name"]: some(part) for part in attribute["subAttributes"]}
    return [value] if attribute["multiValued"] else value


@pytest.mark.parametrize(
    ("urn", "path", "said"),
    [
        (AD_USER, "/Users", {"userName": "ada"}),
        (AD_GROUP, "/Groups", {"displayName": "g"}),
        (UNIT, "/OrganizationalUnits", {}),
    ],
)
def test_whatever_a_strict_credential_is_told_it_may_write_is_taken(
    strict: Scim, urn: str, path: str, said: dict[str, Any]
) -> None:
    described = attributes(strict, urn)
    values = {
        name: some(one) for name, one in described.items() if one["mutability"] == "readWrite" and name != "parent"
    }
    assert len(values) > 4 and any(described[name]["returned"] == "request" for name in values)
    made = strict.make(path, **said, **(values if urn == UNIT else {urn: values}))
    read = strict.get(f"{path}/{made['id']}?attributes={','.join(f'{urn}:{name}' for name in values)}").json
    shown = read if urn == UNIT else read[urn]
    assert {name: (shown.get(name), value) for name, value in values.items() if shown.get(name) != value} == {}
    kept = {name for name, one in described.items() if one["mutability"] == "readOnly"}
    assert not kept & {"attributes", "thumbnailPhoto", "proxyAddresses"}


def test_a_tolerant_credential_is_told_less_than_is_taken(acme: Scim, strict: Scim) -> None:
    told, taken = attributes(acme, AD_USER), attributes(strict, AD_USER)
    for name in ("thumbnailPhoto", "attributes", "proxyAddresses"):
        assert (told[name]["mutability"], taken[name]["mutability"]) == ("readOnly", "readWrite"), name
    assert {part["mutability"] for part in told["attributes"]["subAttributes"]} == {"readOnly"}
    assert told["sAMAccountName"] == taken["sAMAccountName"]
    ada = acme.user("ada", **{AD_USER: {"proxyAddresses": ["SMTP:ada@acme.example"]}})
    assert acme.get(f"/Users/{ada}").json[AD_USER]["proxyAddresses"] == ["SMTP:ada@acme.example"]


def test_a_groups_name_is_announced_as_unique_where_it_is(acme: Scim, strict: Scim, world: World) -> None:
    for client in (acme, strict):
        assert attributes(client, CORE_GROUP)["displayName"]["uniqueness"] == "server"
    with acting(system("tests")), unit(world.acme):
        settings.change(world.acme, {"scim_unique_group_names": False})
    for client in (acme, strict):
        assert attributes(client, CORE_GROUP)["displayName"]["uniqueness"] == "none"


def test_a_membership_is_a_type_of_resource_without_an_external_id(acme: Scim, strict: Scim) -> None:
    for client in (acme, strict):
        types = {one["name"]: one["endpoint"] for one in client.get("/ResourceTypes").json["Resources"]}
        assert types["GroupMember"] == "/GroupMembers"
        assert attributes(client, MEMBERSHIP)["externalId"]["mutability"] == "readOnly"
    ada, group = acme.user("ada"), acme.group("g")
    refused(acme.post("/GroupMembers", {"group": {}, "member": {"value": ada}}), 400, "invalidValue")
    sides = {"group": {"value": group}, "member": {"value": ada}, "externalId": "mine"}
    assert "externalId" not in acme.make("/GroupMembers", **sides)
    reference = {one["name"]: one for one in attributes(strict, MEMBERSHIP)["member"]["subAttributes"]}["$ref"]
    assert reference["required"] is False
