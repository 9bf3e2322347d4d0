"""Attributes that a tenant declares of its own: declared over the admin API, used over SCIM, each property of them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pytest
from scim2_client.engines.wsgi import WSGISCIMClient
from scim2_tester import Status, check_server

from broker.attributes import CORE_USER, CUSTOM, ENTERPRISE
from broker.context import Scope
from broker.db import WallError, current_scope
from broker.directory import declarations
from scim import declared, profiles, schemas
from scim.archive import export_archive
from scim.client import BULK_REQUEST
from scim.push import render
from scim.push.mapping import applied, check_rows
from scim.schemas import POLICY
from tests.archives import canonical, reseal
from tests.casting import Caller, Cast
from tests.scim.conftest import Scim, token_of
from tests.scim.test_archive import refusals, taken

URN = CUSTOM["User"]
Declare = Callable[..., dict[str, Any]]


@pytest.fixture
def admin(cast: Cast) -> Caller:
    """Somebody who lives elsewhere, so that he is in no list."""
    return cast.super_admin.at(cast.acme)


@pytest.fixture
def declare(admin: Caller) -> Declare:
    def declare(name: str, **values: Any) -> dict[str, Any]:
        answer = admin.post("/custom-attributes", {"name": name, **values})
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json
        return made

    return declare


def own(acme: Scim, id: str) -> dict[str, Any]:
    """What a person carries of the tenant's own."""
    found: dict[str, Any] = acme.get(f"/Users/{id}").json.get(URN, {})
    return found


def test_a_declared_attribute_is_shown_at_once_and_to_its_tenant_alone(
    acme: Scim, globex: Scim, declare: Declare
) -> None:
    """No process is told: each sees with the tenant's row, which every request reads, that there is something new."""
    assert URN not in acme.get("/Schemas").text + acme.get("/ResourceTypes").text
    made = declare("costCode", description="Where it is booked.", filterable=True, case_exact=True)
    assert made["path"] == f"{URN}:costCode"
    attribute = acme.get(f"/Schemas/{URN}").json["attributes"][0]
    assert attribute["name"] == "costCode" and attribute["description"] == "Where it is booked."
    assert (attribute["type"], attribute["multiValued"], attribute["caseExact"]) == ("string", False, True)
    assert (attribute["mutability"], attribute["returned"], attribute["uniqueness"]) == ("readWrite", "default", "none")
    assert {"schema": URN, "required": False} in acme.get("/ResourceTypes/User").json["schemaExtensions"]
    assert URN not in globex.get("/Schemas").text + globex.get("/ResourceTypes").text
    assert globex.get(f"/Schemas/{URN}").status_code == 404
    declare("second")
    assert [one["name"] for one in acme.get(f"/Schemas/{URN}").json["attributes"]] == ["costCode", "second"]


def test_tenants_with_the_same_name_for_something_else_do_not_meet(
    admin: Caller, cast: Cast, acme: Scim, globex: Scim, declare: Declare
) -> None:
    declare("badge", type="integer", filterable=True)
    theirs = cast.super_admin.at(cast.world.globex).post("/custom-attributes", {"name": "badge", "filterable": True})
    assert theirs.status_code == 201
    ada = acme.user("ada", **{URN: {"badge": 7}})
    bo = globex.user("bo", **{URN: {"badge": "seven"}})
    assert own(acme, ada) == {"badge": 7} and own(globex, bo) == {"badge": "seven"}
    assert acme.post("/Users", {"userName": "x", URN: {"badge": "seven"}}).status_code == 400
    assert acme.names("/Users", filter=f"{URN}:badge ge 7") == ["ada"]
    assert globex.names("/Users", filter=f'{URN}:badge sw "sev"') == ["bo"]


TYPES = [
    ("string", "Blue", ["Blue", "green"], 5),
    ("boolean", True, [True, False], "perhaps"),
    ("decimal", 1.5, [1.5, 2], "much"),
    ("integer", 42, [42, -1], 1.5),
    ("dateTime", "2026-01-31T12:00:00Z", ["2026-01-31T12:00:00Z", "2027-01-31T12:00:00Z"], "tomorrow"),
    ("reference", "https://acme.example/a", ["https://acme.example/a", "https://acme.example/b"], 5),
    ("binary", "AAEC", ["AAEC", "/w=="], "no base64!"),
]


@pytest.mark.parametrize(("type_", "one", "many", "wrong"), TYPES, ids=[line[0] for line in TYPES])
def test_each_type_is_taken_given_back_filtered_and_refused(
    acme: Scim, declare: Declare, type_: str, one: Any, many: list[Any], wrong: Any
) -> None:
    declare("single", type=type_, filterable=True)
    declare("several", type=type_, multi_valued=True, filterable=True)
    ada, _ = acme.user("ada", **{URN: {"single": one, "several": many}}), acme.user("bo")
    assert own(acme, ada) == {"single": one, "several": many}
    text = {True: "true", False: "false"}.get(one) if isinstance(one, bool) else one
    written = f'"{one}"' if isinstance(one, str) else text
    for name in ("single", "several"):
        assert acme.names("/Users", filter=f"{URN}:{name} eq {written}") == ["ada"]
        assert acme.names("/Users", filter=f"{URN}:{name} pr") == ["ada"]
    assert acme.names("/Users", sortBy=f"{URN}:single") == ["ada", "bo"]
    for body in ({"single": wrong}, {"several": [wrong]}, {"single": many}, {"single": {"value": one}}):
        answer = acme.post("/Users", {"userName": "wrong", URN: body})
        assert answer.status_code == 400 and answer.json["scimType"] == "invalidValue", (body, answer.text)
    assert acme.patch(f"/Users/{ada}", {"op": "replace", "path": f"{URN}:single", "value": wrong}).status_code == 400
    assert own(acme, ada) == {"single": one, "several": many}


def test_what_no_index_or_number_holds_is_a_clear_refusal(acme: Scim, declare: Declare) -> None:
    declare("count", type="integer", filterable=True)
    declare("essay", filterable=True, uniqueness="server")
    huge = acme.post("/Users", f'{{"userName": "ada", "{URN}": {{"count": {2**64}}}}}'.encode())
    as_text = acme.post("/Users", {"userName": "ada", URN: {"count": str(2**64)}})
    assert (huge.status_code, as_text.status_code) == (400, 400)
    long = "long " * 1_000
    ada = acme.user("ada", **{URN: {"essay": long}})
    assert own(acme, ada) == {"essay": long}
    assert acme.post("/Users", {"userName": "bo", URN: {"essay": long.upper()}}).status_code == 409
    assert acme.post("/Users", {"userName": "bo", URN: {"essay": "nul\0"}}).status_code == 400


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        ("integer", True),
        ("decimal", True),
        ("boolean", 1),
        ("dateTime", 5),
        ("dateTime", True),
        ("dateTime", "2026-01-31"),
        ("dateTime", "2026-01-31T12:00:00"),
        ("dateTime", "0001-01-01T00:00:00+14:00"),
        ("dateTime", "9999-12-31T23:59:59-14:00"),
        ("dateTime", "2026-01-31T12:00:00+20:00"),
        ("dateTime", "1769860800"),
        ("decimal", "inf"),
        ("decimal", "nan"),
    ],
)
def test_a_value_is_never_taken_for_one_of_another_type(acme: Scim, declare: Declare, type_: str, value: Any) -> None:
    declare("single", type=type_, filterable=True)
    declare("several", type=type_, multi_valued=True, uniqueness="none" if type_ == "boolean" else "server")
    ada = acme.user("ada")
    answers = [
        acme.post("/Users", {"userName": "bo", URN: {"single": value}}),
        acme.put(f"/Users/{ada}", {"userName": "ada", URN: {"several": [value]}}),
        acme.patch(f"/Users/{ada}", {"op": "add", "path": f"{URN}:several", "value": [value]}),
    ]
    assert [(one.status_code, one.json["scimType"]) for one in answers] == [(400, "invalidValue")] * 3
    assert own(acme, ada) == {}


def test_a_filter_may_look_for_either_end_of_time(acme: Scim, declare: Declare) -> None:
    declare("hired", type="dateTime", filterable=True)
    acme.user("ada", **{URN: {"hired": "2020-01-01T00:00:00Z"}})
    assert acme.names("/Users", filter=f'{URN}:hired gt "0001-01-01T00:00:00+14:00"') == ["ada"]
    for end in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"):
        assert acme.names("/Users", filter=f'{URN}:hired eq "{end}"') == []


@pytest.mark.parametrize("type_", [line[0] for line in TYPES])
@pytest.mark.parametrize("literal", ["true", "1", '"x"', "null"])
def test_a_filter_may_compare_with_a_value_of_another_type(
    acme: Scim, declare: Declare, type_: str, literal: str
) -> None:
    declare("single", type=type_, filterable=True)
    for operator in ("eq", "ne", "gt"):
        answer = acme.get(f"/Users?filter={URN}:single {operator} {literal}")
        assert answer.status_code in (200, 400), answer.text
        assert answer.status_code == 200 or answer.json["scimType"] == "invalidFilter", answer.text


def test_what_is_declared_of_another_type_is_not_heard_in_vain_either(acme: Scim, declare: Declare) -> None:
    declare("purpose", resource_type="Group")
    declare("badge")
    urn, ada = CUSTOM["Group"], acme.user("ada")
    answers = [
        acme.post("/Users", {"userName": "bo", urn: {"purpose": "x"}}),
        acme.patch(f"/Users/{ada}", {"op": "add", "path": f"{urn}:purpose", "value": "x"}),
        acme.patch(f"/Users/{ada}", {"op": "add", "value": {f"{urn}:purpose": "x"}}),
        acme.post("/Groups", {"displayName": "ops", URN: {"badge": "x"}}),
    ]
    assert [(one.status_code, one.json["scimType"]) for one in answers] == [(400, "invalidPath")] * 4


def test_nothing_under_the_tenants_own_urn_is_heard_in_vain(acme: Scim, declare: Declare) -> None:
    declare("costCode")
    declare("floors", multi_valued=True)
    ada = acme.user("ada", **{f"{URN}:costCode": "1", URN: {"floors": ["2"]}})
    assert own(acme, ada) == {"costCode": "1", "floors": ["2"]}
    assert acme.put(f"/Users/{ada}", {"userName": "ada", f"{URN.upper()}:FLOORS": ["3"]}).json[URN] == {"floors": ["3"]}
    for key in ("nothing", "costCode.part", 'floors[value eq "3"]'):
        assert acme.post("/Users", {"userName": "bo", f"{URN}:{key}": "1"}).status_code == 400, key
    for path in ("costCode.value", "costCode.part", "floors.value", 'floors[value eq "3"].value', "floors.x[y pr]"):
        answer = acme.patch(f"/Users/{ada}", {"op": "replace", "path": f"{URN}:{path}", "value": "4"})
        assert (answer.status_code, answer.json["scimType"]) == (400, "invalidPath"), path
    changed = acme.patch(f"/Users/{ada}", {"op": "replace", "path": f'{URN}:floors[value eq "3"]', "value": "4.5"})
    assert changed.json[URN] == {"floors": ["4.5"]}


@pytest.mark.parametrize("where", ["POST", "PUT", "PATCH path", "PATCH without path", "PATCH with keys"])
def test_undeclared_names_are_refused_wherever_they_stand(acme: Scim, declare: Declare, where: str) -> None:
    declare("costCode")
    ada = acme.user("ada", **{URN: {"costCode": "1"}})
    match where:
        case "POST":
            answer = acme.post("/Users", {"userName": "bo", URN: {"costcentre": "1"}})
        case "PUT":
            answer = acme.put(f"/Users/{ada}", {"userName": "ada", URN: {"costcentre": "1"}})
        case "PATCH path":
            answer = acme.patch(f"/Users/{ada}", {"op": "add", "path": f"{URN}:costcentre", "value": "1"})
        case "PATCH without path":
            answer = acme.patch(f"/Users/{ada}", {"op": "add", "value": {URN: {"costcentre": "1"}}})
        case _:
            answer = acme.patch(f"/Users/{ada}", {"op": "add", "value": {f"{URN}:costcentre": "1"}})
    assert answer.status_code == 400, answer.text
    assert "costcentre" in answer.json["detail"]
    assert own(acme, ada) == {"costCode": "1"}


@pytest.mark.parametrize("mode", ["tolerant", "strict"])
def test_values_are_written_by_every_method(cast: Cast, acme: Scim, declare: Declare, mode: str) -> None:
    acme.token = token_of(cast.world.acme, mode=mode)
    declare("costCode")
    declare("floors", type="integer", multi_valued=True)
    schemas = [CORE_USER, URN]
    ada = acme.user("ada", schemas=schemas, **{URN: {"costCode": "1", "floors": [1, 2]}})
    assert acme.get(f"/Users/{ada}").json["schemas"] == schemas

    def patch(*operations: dict[str, Any]) -> dict[str, Any]:
        answer = acme.patch(f"/Users/{ada}", *operations)
        assert answer.status_code == 200, answer.text
        return own(acme, ada)

    assert patch({"op": "replace", "path": f"{URN}:costCode", "value": "2"}) == {"costCode": "2", "floors": [1, 2]}
    assert patch({"op": "add", "path": f"{URN.upper()}:FLOORS", "value": [3]})["floors"] == [1, 2, 3]
    assert patch({"op": "remove", "path": f"{URN}:floors"}) == {"costCode": "2"}
    assert patch({"op": "add", "path": URN, "value": {"floors": [9]}}) == {"costCode": "2", "floors": [9]}
    if mode == "tolerant":
        assert patch({"op": "replace", "value": {f"{URN}:costCode": "3"}})["costCode"] == "3"
        assert patch({"op": "Replace", "value": {URN: {"costCode": "4"}}})["costCode"] == "4"
    else:
        answer = acme.put(f"/Users/{ada}", {"schemas": schemas, "userName": "ada", URN: {"colour": "red"}})
        assert (answer.status_code, answer.json["scimType"]) == (400, "invalidSyntax")
    assert acme.put(f"/Users/{ada}", {"schemas": schemas, "userName": "ada", URN: {"floors": [5]}}).status_code == 200
    assert own(acme, ada) == {"floors": [5]}
    assert acme.put(f"/Users/{ada}", {"schemas": [CORE_USER], "userName": "ada"}).status_code == 200
    assert acme.get(f"/Users/{ada}").json["schemas"] == [CORE_USER] and own(acme, ada) == {}


def test_no_dialect_speaks_of_what_a_tenant_calls_like_something_of_ours(acme: Scim, declare: Declare) -> None:
    for name in ("manager", "active", "groups", "roles"):
        declare(name)
    ada = acme.user("ada", **{URN: {"manager": "Bo", "active": "False"}})
    assert own(acme, ada) == {"manager": "Bo", "active": "False"}
    operations = [{"op": "replace", "path": f"{URN}:{name}", "value": "x"} for name in ("manager", "groups", "roles")]
    assert acme.patch(f"/Users/{ada}", *operations).status_code == 200
    assert own(acme, ada) == {"manager": "x", "active": "False", "groups": "x", "roles": "x"}


def test_attributes_and_excluded_attributes_name_them(acme: Scim, declare: Declare) -> None:
    declare("costCode")
    declare("colour")
    ada = acme.user("ada", title="Dr", **{URN: {"costCode": "1", "colour": "red"}})

    def shown(query: str) -> Any:
        return acme.get(f"/Users/{ada}?{query}").json.get(URN)

    assert shown(f"attributes={URN}:costCode") == {"costCode": "1"}
    assert shown(f"attributes={URN}") == {"costCode": "1", "colour": "red"}
    assert shown(f"excludedAttributes={URN}:colour,title") == {"costCode": "1"}
    assert shown(f"excludedAttributes={URN}") is None
    assert shown("attributes=title") is None


def test_an_immutable_value_is_given_once(acme: Scim, declare: Declare) -> None:
    declare("hired", type="dateTime", mutability="immutable")
    first, other = "2020-01-01T00:00:00Z", "2021-01-01T00:00:00Z"
    ada = acme.user("ada")
    path = f"{URN}:hired"
    assert acme.patch(f"/Users/{ada}", {"op": "add", "path": path, "value": first}).status_code == 200
    refusals = [
        acme.patch(f"/Users/{ada}", {"op": "replace", "path": path, "value": other}),
        acme.patch(f"/Users/{ada}", {"op": "remove", "path": path}),
        acme.put(f"/Users/{ada}", {"userName": "ada", URN: {"hired": other}}),
    ]
    assert [(one.status_code, one.json["scimType"]) for one in refusals] == [(400, "mutability")] * 3
    assert acme.put(f"/Users/{ada}", {"userName": "ada", "title": "Dr"}).json[URN] == {"hired": first}
    assert acme.put(f"/Users/{ada}", {"userName": "ada", URN: {"hired": first}}).status_code == 200
    assert acme.get(f"/Schemas/{URN}").json["attributes"][0]["mutability"] == "immutable"


SAME = [
    ("string", "Blue", ["blue", "BLUE"], "green"),
    ("boolean", True, [True], False),
    ("decimal", 1, [1.0, 1.00], 1.5),
    ("integer", 42, [42], 43),
    (
        "dateTime",
        "2020-01-01T00:00:00Z",
        ["2020-01-01T01:00:00+01:00", "2020-01-01T00:00:00.000Z"],
        "2020-01-01T00:00:01Z",
    ),
    ("reference", "https://acme.example/a", ["https://acme.example/a"], "https://acme.example/A"),
    ("binary", "/w==", ["/w=="], "AAEC"),
]


@pytest.mark.parametrize(("type_", "value", "same", "other"), SAME, ids=[line[0] for line in SAME])
def test_an_immutable_value_is_the_same_however_it_is_written(
    acme: Scim, declare: Declare, type_: str, value: Any, same: list[Any], other: Any
) -> None:
    declare("fixed", type=type_, mutability="immutable")
    declare("several", type=type_, mutability="immutable", multi_valued=True)
    ada = acme.user("ada", **{URN: {"fixed": value, "several": [value, other]}})
    before, tag = own(acme, ada), acme.get(f"/Users/{ada}").headers["ETag"]
    for again in same:
        custom = {"fixed": again, "several": [other, again]}
        answers = [
            acme.put(f"/Users/{ada}", {"userName": "ada", URN: custom}),
            *(
                acme.patch(f"/Users/{ada}", {"op": op, "path": f"{URN}:{name}", "value": custom[name]})
                for op in ("replace", "add")
                for name in ("fixed", "several")
                if (op, name) != ("add", "several")
            ),
            acme.patch(f"/Users/{ada}", {"op": "replace", "value": {URN: custom}}),
        ]
        assert [one.status_code for one in answers] == [200] * 5, [one.text for one in answers]
        assert own(acme, ada) == before and acme.get(f"/Users/{ada}").headers["ETag"] == tag
    refusals = [
        acme.put(f"/Users/{ada}", {"userName": "ada", URN: {"fixed": other}}),
        acme.put(f"/Users/{ada}", {"userName": "ada", URN: {"several": [value]}}),
        acme.patch(f"/Users/{ada}", {"op": "replace", "path": f"{URN}:fixed", "value": other}),
        acme.patch(f"/Users/{ada}", {"op": "remove", "path": f"{URN}:several"}),
        acme.patch(f"/Users/{ada}", {"op": "remove", "path": URN}),
    ]
    assert [(one.status_code, one.json["scimType"]) for one in refusals] == [(400, "mutability")] * 5
    assert own(acme, ada) == before


def test_a_unique_value_is_one_resources_alone(acme: Scim, globex: Scim, declare: Declare) -> None:
    declare("badge", uniqueness="server")
    ada, bo = acme.user("ada", **{URN: {"badge": "A1"}}), acme.user("bo")
    taken = [
        acme.post("/Users", {"userName": "cy", URN: {"badge": "a1"}}),
        acme.patch(f"/Users/{bo}", {"op": "add", "path": f"{URN}:badge", "value": "A1"}),
        acme.put(f"/Users/{bo}", {"userName": "bo", URN: {"badge": "A1"}}),
    ]
    assert [(one.status_code, one.json["scimType"]) for one in taken] == [(409, "uniqueness")] * 3
    assert "badge" in taken[0].json["detail"]
    assert acme.patch(f"/Users/{ada}", {"op": "add", "path": "title", "value": "Dr"}).status_code == 200
    assert acme.delete(f"/Users/{ada}").status_code == 204
    assert acme.patch(f"/Users/{bo}", {"op": "add", "path": f"{URN}:badge", "value": "A1"}).status_code == 200


def test_of_many_who_take_a_value_at_once_one_gets_it(acme: Scim, declare: Declare) -> None:
    declare("badge", uniqueness="server", type="integer")

    def take(number: int) -> int:
        return acme.post("/Users", {"userName": f"u{number}", URN: {"badge": 1}}).status_code

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(take, range(12)))
    assert sorted(answers) == [201] + [409] * 11


def test_only_what_is_declared_filterable_is_filtered_and_sorted_by(acme: Scim, declare: Declare) -> None:
    declare("open", filterable=True)
    declare("closed")
    for name in ("bo", "ada"):
        acme.user(name, **{URN: {"open": name.upper(), "closed": name}})
    assert acme.names("/Users", filter=f'{URN}:open eq "ada" and userName pr') == ["ada"]
    assert acme.names("/Users", filter=f'not ({URN}:open eq "ada")') == ["bo"]
    assert acme.names("/Users", sortBy=f"{URN}:open") == ["ada", "bo"]
    filtered, sorted_ = acme.get(f'/Users?filter={URN}:closed eq "ada"'), acme.get(f"/Users?sortBy={URN}:closed")
    assert (filtered.status_code, filtered.json["scimType"]) == (400, "invalidFilter")
    assert (sorted_.status_code, sorted_.json["scimType"]) == (400, "invalidPath")
    unknown = acme.get(f'/Users?filter={URN}:nowhere eq "ada"')
    assert (unknown.status_code, unknown.json["scimType"]) == (400, "invalidFilter")


def test_canonical_values_are_the_only_ones_and_may_become_more(admin: Caller, acme: Scim, declare: Declare) -> None:
    made = declare("size", canonical_values=["small", "large"])
    ada = acme.user("ada", **{URN: {"size": "Large"}})
    change = {"op": "replace", "path": f"{URN}:size", "value": "medium"}
    refused = acme.patch(f"/Users/{ada}", change)
    assert (refused.status_code, refused.json["scimType"]) == (400, "invalidValue")
    path = f"/custom-attributes/{made['id']}"
    fewer = admin.patch(path, {"canonical_values": ["small"]})
    assert fewer.status_code == 422 and "canonical_values" in fewer.json["errors"]
    assert admin.patch(path, {"canonical_values": ["small", "medium", "large"]}).status_code == 200
    assert acme.patch(f"/Users/{ada}", change).status_code == 200


def test_groups_have_their_own(acme: Scim, declare: Declare) -> None:
    declare("purpose", resource_type="Group", filterable=True, uniqueness="server")
    urn = CUSTOM["Group"]
    ada = acme.user("ada")
    ops = acme.group("ops", ada, **{urn: {"purpose": "on call"}})
    assert acme.get(f"/Groups/{ops}").json[urn] == {"purpose": "on call"}
    assert acme.names("/Groups", filter=f'{urn}:purpose eq "ON CALL"') == ["ops"]
    assert acme.post("/Groups", {"displayName": "x", urn: {"purpose": "on call"}}).status_code == 409
    done = acme.patch(
        f"/Groups/{ops}",
        {"op": "remove", "path": f'members[value eq "{ada}"]'},
        {"op": "replace", "path": f"{urn}:purpose", "value": "asleep"},
    )
    assert done.json[urn] == {"purpose": "asleep"} and "members" not in done.json
    assert URN not in acme.get("/Schemas").text


def test_everything_else_of_a_person_stays_as_it_was(acme: Scim, declare: Declare) -> None:
    declare("costCode", filterable=True)
    boss = acme.user("boss")
    values = {ENTERPRISE: {"department": "R&D", "manager": {"value": boss}}, URN: {"costCode": "1"}}
    ada = acme.user("ada", emails=[{"value": "ada@acme.example", "type": "work"}], **values)
    found = acme.get(
        "/Users",
    ).json
    assert found["totalResults"] == 2
    assert acme.names("/Users", filter='emails.value eq "ada@acme.example"') == ["ada"]
    assert acme.get(f'?filter={URN}:costCode eq "1"').json["Resources"][0]["id"] == ada
    walked = acme.get(f"/Users?cursor=&count=1&sortBy={URN}:costCode&sortOrder=descending").json
    assert walked["nextCursor"] and len(walked["Resources"]) == 1
    by_bulk = acme.post(
        "/Bulk",
        {
            "schemas": ["urn:ietf:params:scim:api:messages:2.0:BulkRequest"],
            "Operations": [
                {"method": "POST", "path": "/Users", "bulkId": "1", "data": {"userName": "bo", URN: {"costCode": "2"}}},
                {"method": "POST", "path": "/Users", "bulkId": "2", "data": {"userName": "cy", URN: {"colour": "2"}}},
            ],
        },
    ).json["Operations"]
    assert [one["status"] for one in by_bulk] == ["201", "400"]


def test_only_bad_declarations_are_refused(admin: Caller, declare: Declare) -> None:
    declare("costCode")
    wrong: list[tuple[dict[str, Any], int]] = [
        ({"name": "COSTCODE"}, 409),
        ({}, 422),
        ({"name": "1st"}, 422),
        ({"name": "a.b"}, 422),
        ({"name": "schemas"}, 422),
        ({"name": "x" * 65}, 422),
        ({"name": "x", "type": "complex"}, 422),
        ({"name": "x", "type": "boolean", "uniqueness": "server"}, 422),
        ({"name": "x", "type": "integer", "canonical_values": ["1"]}, 422),
        ({"name": "x", "mutability": "writeOnly"}, 422),
        ({"name": "x", "resource_type": "Agent"}, 422),
        ({"name": "x", "number": 1}, 422),
        ({"name": "x", "canonical_values": [""]}, 422),
    ]
    for body, status in wrong:
        answer = admin.post("/custom-attributes", body)
        assert answer.status_code == status, (body, answer.text)


def test_any_name_that_the_grammar_allows_becomes_an_attribute(acme: Scim, declare: Declare) -> None:
    names = ["class", "json", "model_dump", "model_config", "costCode", "cost_code", "cost-code", "copy", "x1"]
    for name in names:
        declare(name)
    ada = acme.user("ada", **{URN: dict.fromkeys(names, "v")})
    assert own(acme, ada) == dict.fromkeys(names, "v")


def test_a_tenant_declares_no_more_than_so_many(
    admin: Caller, declare: Declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(declarations, "MOST", 2)
    declare("one"), declare("two")
    answer = admin.post("/custom-attributes", {"name": "three"})
    assert (answer.status_code, answer.json["code"]) == (409, "limit_exceeded")
    declare("three", resource_type="Group")


def test_what_values_rely_on_never_changes(admin: Caller, declare: Declare) -> None:
    made = declare("costCode")
    path = f"/custom-attributes/{made['id']}"
    for body in ({"type": "integer"}, {"name": "other"}, {"filterable": True}, {"uniqueness": "server"}):
        assert admin.patch(path, body).status_code == 422, body
    seen = admin.get(path)
    changed = admin.patch(path, {"description": "Booked here."}, headers={"If-Match": seen.headers["ETag"]})
    assert changed.status_code == 200 and changed.json["description"] == "Booked here."
    stale = admin.delete(path, headers={"If-Match": seen.headers["ETag"]})
    assert stale.status_code == 412
    names = [one["name"] for one in admin.get("/events?name=custom_attribute.updated").json["items"]]
    assert names == ["custom_attribute.updated"]


def test_an_attribute_ends_with_its_values_when_that_is_confirmed(admin: Caller, acme: Scim, declare: Declare) -> None:
    made = declare("costCode")
    declare("kept")
    ada = acme.user("ada", **{URN: {"costCode": "1", "kept": "2"}})
    bo = acme.user("bo", **{URN: {"costCode": "1"}})
    gone = acme.user("gone", **{URN: {"costCode": "1"}})
    acme.delete(f"/Users/{gone}")
    path = f"/custom-attributes/{made['id']}"
    refused = admin.delete(path)
    assert refused.status_code == 409 and "?confirm=costCode" in refused.json["detail"]
    assert admin.delete(f"{path}?confirm=wrong").status_code == 409
    before = acme.get(f"/Users/{bo}").headers["ETag"]
    assert admin.delete(f"{path}?confirm=costCode").status_code == 204
    assert own(acme, ada) == {"kept": "2"} and own(acme, bo) == {}
    after = acme.get(f"/Users/{bo}")
    assert after.headers["ETag"] != before and after.json["schemas"] == [CORE_USER]
    assert acme.post("/Users", {"userName": "x", URN: {"costCode": "1"}}).status_code == 400
    told = admin.get(f"/events?resource={bo}&name=user.updated").json["items"]
    assert [one["changed"] for one in told] == [[f"{URN}:costCode"]]
    declare("costCode", type="integer")
    assert acme.patch(f"/Users/{ada}", {"op": "add", "path": f"{URN}:costCode", "value": 5}).status_code == 200


def archived(scope: Scope, path: Path) -> Path:
    export_archive(scope, path)
    return path


def test_an_archive_brings_what_was_declared_before_who_carries_it(
    cast: Cast, acme: Scim, globex: Scim, declare: Declare, tmp_path: Path
) -> None:
    declare("badge", uniqueness="server", filterable=True, mutability="immutable", description="What opens doors.")
    declare("floors", type="integer", multi_valued=True)
    declare("purpose", resource_type="Group", canonical_values=["work"])
    ada = acme.user("ada", **{URN: {"badge": "A1", "floors": [1, 2]}})
    acme.group("ops", ada, **{CUSTOM["Group"]: {"purpose": "work"}})
    file = archived(cast.acme, tmp_path / "acme.ndjson")
    run = taken(cast.globex, file)
    assert (run.status, run.refused) == ("done", 0)
    assert canonical(archived(cast.globex, tmp_path / "globex.ndjson")) == canonical(file, into=cast.globex.tenant_id)
    assert globex.names("/Users", filter=f'{URN}:badge eq "a1"') == ["ada"]
    assert globex.post("/Users", {"userName": "bo", URN: {"badge": "A1"}}).status_code == 409
    again = taken(cast.globex, file)
    assert (again.created, again.refused) == (0, 0)


def test_what_an_archive_cannot_bring_is_refused_with_its_place(
    admin: Caller, cast: Cast, acme: Scim, globex: Scim, declare: Declare, tmp_path: Path
) -> None:
    declare("badge", uniqueness="server")
    declare("age", type="integer")
    for name, values in (("ada", {"badge": "A1"}), ("bo", {"age": 5}), ("cy", {"badge": "C1"})):
        acme.user(name, **{URN: values})
    file = archived(cast.acme, tmp_path / "acme.ndjson")
    theirs = admin.at(cast.globex)
    for body in ({"name": "badge", "uniqueness": "server"}, {"name": "age"}):
        assert theirs.post("/custom-attributes", body).status_code == 201
    globex.user("di", **{URN: {"badge": "a1"}})
    run = taken(cast.globex, file)
    assert {(path, detail) for _, path, detail in refusals(cast.globex, run)} == {
        ("/name", "This attribute is declared here already, and differs."),
        (f"/document/{URN}/badge", "This value is another resource's."),
        (f"/document/{URN}/age", "Not of the type string."),
    }
    assert sorted(globex.names("/Users")) == ["cy", "di"]


def test_what_an_archive_keeps_out_of_sight_is_declared_too(
    cast: Cast, acme: Scim, declare: Declare, tmp_path: Path
) -> None:
    """Otherwise the next change of such a person, or his return, would come upon values of nothing."""
    declare("badge")
    made = {name: acme.user(name, **{URN: {"badge": name}}) for name in ("ada", "bo", "cy")}
    acme.delete(f"/Users/{made['cy']}")
    file = archived(cast.acme, tmp_path / "acme.ndjson")
    lines = [orjson.loads(line) for line in file.read_bytes().splitlines()]
    for line in lines:
        if line["part"] == "resource" and line["name"] in ("ada", "cy"):
            line["local"] |= {f"{URN}:badge": 5, f"{URN}:undeclared": "x"}
    run = taken(cast.globex, reseal(file, lines))
    assert sorted(detail for _, _, detail in refusals(cast.globex, run)) == ["Not of the type string."] * 2


def test_a_target_is_sent_what_it_announces_or_its_mapping_names() -> None:
    person = {"userName": "ada", URN: {"costCode": "1", "badge": "A1"}}
    users = {"id": CORE_USER, "attributes": [{"name": "userName"}]}
    theirs = {"id": URN, "attributes": [{"name": "badge"}]}

    def sent(*schemas: dict[str, Any], mapping: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
        profile = profiles.of("auto", profiles.capabilities({}, {"Resources": list(schemas)}, {}))
        announced = URN.lower() in (profile.attributes or ())
        document = render.person(person, "usr_1", usable=True, manager=None, custom=announced)
        return profiles.fitting(applied(mapping, person, document) if mapping else document, profile)[0]

    assert sent(users)["schemas"] == [CORE_USER]
    assert sent(users, theirs)[URN] == {"badge": "A1"}
    rows = ({"from": f"{URN}:costCode", "to": "title"}, {"from": f"{URN}:badge", "to": "urn:acme:badges:2.0:User:no"})
    mapped = sent(mapping=rows)
    assert (mapped["title"], mapped["urn:acme:badges:2.0:User"], URN in mapped) == ("1", {"no": "A1"}, False)
    assert check_rows(rows) == list(rows)


def test_models_of_few_tenants_are_kept_and_none_for_who_declares_nothing(
    acme: Scim, globex: Scim, declare: Declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(declared, "KEPT", 1)
    declared._kept.clear()
    globex.user("bo")
    assert not declared._kept
    declare("costCode")
    acme.user("ada", **{URN: {"costCode": "1"}})
    [(version, models)] = declared._kept.values()
    acme.user("cy", **{URN: {"costCode": "1"}})
    assert [kept[1] for kept in declared._kept.values()] == [models]
    assert models["Agent"] is declared.OURS["Agent"] and models.provider.policy is POLICY
    declare("second")
    acme.user("di", **{URN: {"second": "1"}})
    [(newer, others)] = declared._kept.values()
    assert newer > version and others is not models


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "Bulk"])
def test_models_are_built_before_a_transaction_is_open(
    acme: Scim, declare: Declare, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    built: list[bool] = []

    def noting(build: Callable[..., Any]) -> Callable[..., Any]:
        def note(*values: Any) -> Any:
            built.append(in_unit())
            return build(*values)

        return note

    def in_unit() -> bool:
        try:
            current_scope()
        except WallError:
            return False
        return True

    ada = acme.user("ada")
    declare("costCode", filterable=True)
    for name in ("extended", "provider"):
        monkeypatch.setattr(schemas, name, noting(getattr(schemas, name)))
    said = {"userName": "bo", URN: {"costCode": "1"}}
    operation = {"method": "POST", "path": "/Users", "bulkId": "1", "data": said}
    requests: dict[str, Callable[[], Any]] = {
        "GET": lambda: acme.get(f"/Users?filter={URN}:costCode%20pr"),
        "POST": lambda: acme.post("/Users", said),
        "PATCH": lambda: acme.patch(f"/Users/{ada}", {"op": "add", "path": f"{URN}:costCode", "value": "1"}),
        "Bulk": lambda: acme.post("/Bulk", {"schemas": [BULK_REQUEST], "Operations": [operation]}),
    }
    assert requests[method]().status_code in (200, 201)
    assert built and not any(built)


def test_scim2_tester_finds_no_error_in_attributes_it_can_judge(acme: Scim, declare: Declare) -> None:
    # It makes up no decimal and no moment, reads octets otherwise than it writes them, sets what is immutable twice and
    # takes what is added to a list for the whole list. Groups have the fewest attributes besides.
    for type_ in ("string", "boolean", "integer", "reference"):
        declare(f"one{type_}", type=type_, filterable=True, resource_type="Group")
    declare("unique", uniqueness="server", resource_type="Group")
    declare("chosen", canonical_values=["a", "b"], resource_type="Group")
    declare("ofPeople")
    client = WSGISCIMClient(
        acme.app.wsgi_app,
        f"http://localhost:8080/scim/v2/{acme.slug}",
        headers={"Authorization": f"Bearer {acme.token}"},
    )
    client.discover()
    results: list[Any] = check_server(client, resource_types=["Group"])
    found = {status: [f"{r.title}: {r.reason}" for r in results if r.status is status] for status in Status}
    assert found[Status.SUCCESS]
    assert not found[Status.ERROR] and not found[Status.CRITICAL], found
