"""Every line of the dialect, as its client sends it, over HTTP; and that no line goes without a test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from broker.attributes import CORE_GROUP, CORE_USER, ENTERPRISE
from scim.dialects import DIALECT
from tests.scim.conftest import PATCH_OP, Scim

OLD_GROUP = "http://schemas.microsoft.com/2006/11/ResourceManagement/ADSCIM/2.0/Group"
WORK = {"type": "work", "value": "ada@acme.example", "primary": True}


@dataclass(frozen=True)
class Sentence:
    """What a client says of Ada, or of a group whose members are Ada and Bo; `{ada}`, `{bo}` are ids in it."""

    line: str
    said: Any
    becomes: dict[str, Any]
    method: str = "PATCH"
    group: bool = False
    before: dict[str, Any] = field(default_factory=dict)
    key: str = "Operations"

    @property
    def name(self) -> str:
        return f"{self.line} ({self.method})"


def op(deed: str, path: str | None = None, value: Any = ...) -> dict[str, Any]:
    return {"op": deed} | ({} if path is None else {"path": path}) | ({} if value is ... else {"value": value})


SENTENCES = (
    Sentence("deeds in capitals", [op("Replace", "title", "Dr")], {"title": "Dr"}),
    Sentence("deeds in capitals", [op("Add", "members", [{"value": "{ada}"}])], {"members": ["ada", "bo"]}, group=True),
    Sentence("lower-case operations", [op("replace", "title", "Dr")], {"title": "Dr"}, key="operations"),
    Sentence(
        "old group schema",
        {"schemas": [OLD_GROUP], "displayName": "ops", "members": []},
        {"displayName": "ops", "members": [], "schemas": [CORE_GROUP]},
        "POST",
        group=True,
    ),
    Sentence(
        "old group schema",
        {"schemas": [CORE_GROUP, OLD_GROUP], "displayName": "ops"},
        {"displayName": "ops"},
        "POST",
        group=True,
    ),
    Sentence(
        "old group schema",
        [op("Replace", f"{OLD_GROUP}:displayName", "ops")],
        {"displayName": "ops", "members": ["ada", "bo"]},
        group=True,
    ),
    Sentence(
        "paths as keys",
        [
            op(
                "replace",
                None,
                {
                    "active": "False",
                    "name.givenName": "Ada",
                    "name.familyName": "King",
                    f"{ENTERPRISE}:employeeNumber": "7",
                    f"{ENTERPRISE}:department": "R&D",
                    'emails[type eq "work"].value': "ada@acme.example",
                    f"{CORE_USER}:title": "Dr",
                },
            )
        ],
        {
            "active": False,
            "name": {"givenName": "Ada", "familyName": "King"},
            ENTERPRISE: {"employeeNumber": "7", "department": "R&D"},
            "emails": [{"type": "work", "value": "ada@acme.example"}],
            "title": "Dr",
        },
    ),
    Sentence(
        "what is nobody's to write",
        [op("replace", None, {"id": "{id}", "schemas": [CORE_GROUP], "meta": {}, "displayName": "ops"})],
        {"displayName": "ops", "members": ["ada", "bo"]},
        group=True,
    ),
    Sentence("what is nobody's to write", [op("replace", "id", "{id}"), op("add", "title", "Dr")], {"title": "Dr"}),
    Sentence("what is nobody's to write", {"userName": "ada", "groups": [], "title": "Dr"}, {"title": "Dr"}, "PUT"),
    Sentence("truths as text", [op("Replace", "active", "False")], {"active": False}),
    Sentence("truths as text", [op("Replace", "active", "True")], {"active": True}, before={"active": False}),
    Sentence("truths as text", {"userName": "new", "active": "False"}, {"active": False}, "POST"),
    Sentence(
        "primary as text",
        {"userName": "new", "emails": [{**WORK, "primary": "True"}]},
        {"emails": [WORK]},
        "POST",
    ),
    Sentence("primary as text", [op("Add", "emails", [{**WORK, "primary": "True"}])], {"emails": [WORK]}),
    Sentence(
        "primary as text",
        [op("Replace", 'emails[primary eq "True"].value', "new@acme.example")],
        {"emails": [{**WORK, "value": "new@acme.example"}]},
        before={"emails": [WORK]},
    ),
    Sentence(
        "roles as JSON text",
        [op("Add", "roles", [{"value": '{"id":"1","value":"Admin","displayName":"Administrators"}'}])],
        {"roles": [{"value": "Admin"}]},
    ),
    Sentence(
        "roles as JSON text",
        {
            "userName": "new",
            "roles": [
                {"primary": "False", "type": "WindowsAzureActiveDirectoryRole", "value": '{"id":"1","value":"Admin"}'}
            ],
        },
        {"roles": [{"primary": False, "type": "WindowsAzureActiveDirectoryRole", "value": "Admin"}]},
        "POST",
    ),
    Sentence(
        "lists of texts",
        {"userName": "new", "emails": ["ada@acme.example"], "roles": ["Admin", "User"]},
        {"emails": [{"value": "ada@acme.example"}], "roles": [{"value": "Admin"}, {"value": "User"}]},
        "POST",
    ),
    *(
        Sentence("a manager in any form", said, {ENTERPRISE: {"manager": {"value": "bo"}}}, method)
        for method, said in (
            ("POST", {"userName": "new", ENTERPRISE: {"manager": "{bo}"}}),
            ("POST", {"userName": "new", ENTERPRISE: {"manager": [{"$ref": "../Users/{bo}", "value": "{bo}"}]}}),
            ("PUT", {"userName": "ada", ENTERPRISE: {"manager": {"value": "{bo}"}}}),
            ("PATCH", [op("Add", f"{ENTERPRISE}:manager", "{bo}")]),
            ("PATCH", [op("Replace", f"{ENTERPRISE}:manager", [{"$ref": None, "value": "{bo}"}])]),
            ("PATCH", [op("Add", f"{ENTERPRISE}:manager", {"value": "{bo}"})]),
            ("PATCH", [op("Replace", f"{ENTERPRISE}:manager.value", "{bo}")]),
            ("PATCH", [op("replace", None, {f"{ENTERPRISE}:manager": "{bo}"})]),
        )
    ),
    Sentence(
        "a manager in any form",
        {"userName": "ada", "title": "Dr", ENTERPRISE: {"manager": {"value": ""}}},
        {"title": "Dr", ENTERPRISE: None},
        "PUT",
        before={ENTERPRISE: {"manager": {"value": "{bo}"}}},
    ),
    *(
        Sentence(
            "a manager set to nothing", [said], {ENTERPRISE: None}, before={ENTERPRISE: {"manager": {"value": "{bo}"}}}
        )
        for said in (
            op("Replace", f"{ENTERPRISE}:manager", ""),
            op("Replace", f"{ENTERPRISE}:manager", {"value": ""}),
            op("Replace", f"{ENTERPRISE}:manager.value", ""),
            op("Remove", f"{ENTERPRISE}:manager"),
            op("replace", None, {f"{ENTERPRISE}:manager": ""}),
        )
    ),
    Sentence(
        "members removed by value",
        [op("Remove", "members", [{"$ref": None, "value": "{ada}"}])],
        {"members": ["bo"]},
        group=True,
    ),
    Sentence("members removed by value", [op("remove", 'members[value eq "{ada}"]')], {"members": ["bo"]}, group=True),
    Sentence(
        "members without a path",
        [op("add", None, {"members": [{"value": "{cy}"}]})],
        {"members": ["ada", "bo", "cy"]},
        group=True,
    ),
    Sentence(
        "members with a display",
        [op("add", "members", [{"value": "{cy}", "display": "cy@acme.example"}, {"value": "{ada}", "display": "x"}])],
        {"members": ["ada", "bo", "cy"]},
        group=True,
    ),
    Sentence("an empty group pushed", [op("replace", "members", [])], {"members": []}, group=True),
    Sentence(
        "an entry that is not there",
        [
            op("Add", 'emails[type eq "work"].value', "ada@acme.example"),
            op("Replace", 'addresses[type eq "work"].locality', "Ulm"),
        ],
        {"emails": [{"type": "work", "value": "ada@acme.example"}], "addresses": [{"type": "work", "locality": "Ulm"}]},
    ),
    Sentence("deactivation without a path", [op("replace", None, {"active": False})], {"active": False}),
    Sentence("a password nobody may set", {"userName": "new", "password": "1mz050nq"}, {"userName": "new"}, "POST"),
    Sentence("a password nobody may set", [op("replace", None, {"password": "1mz050nq"})], {"active": True}),
    Sentence("a PUT without active", {"userName": "ada"}, {"active": True}, "PUT"),
    Sentence("a PUT without active", {"userName": "ada"}, {"active": False}, "PUT", before={"active": False}),
    Sentence(
        "attributes of other schemas", {"userName": "new", "favouriteColour": "blue"}, {"userName": "new"}, "POST"
    ),
    Sentence(
        "attributes of other schemas", [op("Add", "favouriteColour", "blue"), op("Add", "title", "Dr")], {"title": "Dr"}
    ),
)


def named(said: Any, ids: dict[str, str]) -> Any:
    """The same with ids in the place of names."""
    if isinstance(said, str):
        for name, id in ids.items():
            said = said.replace(f"{{{name}}}", id)
        return said
    if isinstance(said, list):
        return [named(one, ids) for one in said]
    return {key: named(one, ids) for key, one in said.items()} if isinstance(said, dict) else said


def shown(resource: dict[str, Any], ids: dict[str, str], wanted: dict[str, Any]) -> dict[str, Any]:
    """What of the resource the sentence speaks of, with names in the place of ids and without references."""
    names = {id: name for name, id in ids.items()}

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: bare(one) for key, one in value.items() if key not in ("$ref", "displayName", "display")}
        if isinstance(value, list):
            return [bare(one) for one in value]
        return names.get(value, value) if isinstance(value, str) else value

    found = {key: resource["displayName"] if key == "displayName" else bare(resource.get(key)) for key in wanted}
    if "members" in found:
        found["members"] = sorted(one["value"] for one in found["members"] or [])
    return found


@pytest.mark.parametrize("sentence", SENTENCES, ids=lambda sentence: sentence.name)
def test_a_sentence_of_the_dialect_is_understood(acme: Scim, sentence: Sentence) -> None:
    ids = {name: acme.user(name) for name in ("bo", "cy")}
    ids["ada"] = acme.make("/Users", userName="ada", **named(sentence.before, ids))["id"]
    if sentence.group:
        ids["id"] = acme.group("devs", ids["ada"], ids["bo"])
    else:
        ids["id"] = ids["ada"]
    said, place = named(sentence.said, ids), "/Groups" if sentence.group else "/Users"
    if sentence.method == "PATCH":
        answer = acme.call("PATCH", f"{place}/{ids['id']}", {"schemas": [PATCH_OP], sentence.key: said})
    elif sentence.method == "PUT":
        answer = acme.put(f"{place}/{ids['id']}", said)
    else:
        answer = acme.post(place, said)
    assert answer.status_code in (200, 201), answer.text
    read = acme.get(f"{place}/{answer.json['id']}").json
    assert shown(read, ids, sentence.becomes) == sentence.becomes


def test_every_line_of_the_dialect_has_a_sentence() -> None:
    assert {sentence.line for sentence in SENTENCES} == {line.name for line in DIALECT}


@pytest.mark.parametrize(
    ("place", "filter"),
    [
        ("/Users", 'emails[type eq "work"].value eq "ada@acme.example"'),
        ("/Users", 'emails[type eq "work" and primary eq "True"].value eq "ada@acme.example"'),
        ("/Users", 'externalId eq "x1" and active eq "True"'),
        ("/Groups", 'id eq "{devs}" and members eq "{ada}"'),
    ],
)
def test_a_filter_of_entra_finds_what_it_means(acme: Scim, place: str, filter: str) -> None:
    ada = acme.make("/Users", userName="ada", emails=[WORK], externalId="x1")["id"]
    acme.user("bo")
    devs = acme.group("devs", ada)
    acme.group("ops")
    found = acme.names(place, filter=named(filter, {"ada": ada, "devs": devs}))
    assert found == (["ada"] if place == "/Users" else ["devs"])


def test_a_dialect_is_understood_inside_a_bulk_request(acme: Scim) -> None:
    ada = acme.user("ada")
    body = {
        "schemas": ["urn:ietf:params:scim:api:messages:2.0:BulkRequest"],
        "Operations": [
            {"method": "PATCH", "path": f"/Users/{ada}", "data": {"Operations": [op("Replace", "active", "False")]}},
            {"method": "POST", "path": "/Users", "bulkId": "1", "data": {"userName": "bo", "roles": ["Admin"]}},
        ],
    }
    answer = acme.post("/Bulk", body)
    assert [one["status"] for one in answer.json["Operations"]] == ["200", "201"], answer.text
    assert acme.get(f"/Users/{ada}").json["active"] is False
