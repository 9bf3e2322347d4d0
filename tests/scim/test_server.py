"""The protocol as its clients meet it: RFC 7643 and 7644, and nothing of another tenant."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import orjson
import pytest
import sqlalchemy as sa
from flask import Flask

from broker import ids
from broker.attributes import AD_USER, ENTERPRISE, SCAIKEY_GROUP
from broker.context import Scope, acting, system
from broker.db import unit
from broker.directory import Directory
from broker.errors import BadRequest
from broker.models import RoleAssignment
from scim import reading
from scim.filters import condition
from scim.resources import Projection
from tests.conftest import World
from tests.scim.conftest import Scim, admin_token_of, token_of

ERROR = "urn:ietf:params:scim:api:messages:2.0:Error"
CORE_USER = "urn:ietf:params:scim:schemas:core:2.0:User"


def refused(answer, status: int, scim_type: str | None = None) -> str:
    """The detail of a refusal, which must have SCIM's shape."""
    assert answer.status_code == status, answer.text
    assert answer.content_type == "application/scim+json"
    assert answer.headers["X-Request-ID"]
    body = answer.json
    assert body["schemas"] == [ERROR]
    assert body["status"] == str(status)
    assert body.get("scimType") == scim_type, body
    assert "Traceback" not in answer.text
    return str(body["detail"])


def test_a_created_resource_is_answered_located_and_read_back(acme: Scim) -> None:
    body = {"schemas": [CORE_USER], "userName": "Ada", "name": {"givenName": "Ada"}, "externalId": "x1"}
    answer = acme.post("/Users", body)
    assert answer.status_code == 201
    made = answer.json
    assert answer.headers["Location"] == made["meta"]["location"] == answer.headers["Content-Location"]
    assert made["meta"]["location"] == f"http://localhost:8080/scim/v2/{acme.slug}/Users/{made['id']}"
    assert answer.headers["ETag"] == made["meta"]["version"] == 'W/"1"'
    assert made["meta"]["created"] == made["meta"]["lastModified"]
    assert (made["userName"], made["active"], made["externalId"]) == ("Ada", True, "x1")
    read = acme.get(f"/Users/{made['id']}")
    assert read.status_code == 200 and read.json == made and read.headers["ETag"] == 'W/"1"'


def test_attribute_names_are_case_insensitive_and_unknown_ones_are_ignored(acme: Scim) -> None:
    made = acme.make("/Users", USERNAME="bo", DisplayName="Bo", whatever=1, meta={"version": "x"}, id="mine", groups=[])
    assert made["userName"] == "bo" and made["displayName"] == "Bo"
    assert "whatever" not in made and made["id"] != "mine"


def test_a_user_name_is_unique_whatever_its_case(acme: Scim, globex: Scim) -> None:
    acme.user("straße")
    refused(acme.post("/Users", {"userName": "STRASSE"}), 409, "uniqueness")
    globex.user("straße")


def test_required_attributes_and_types_are_checked(acme: Scim) -> None:
    refused(acme.post("/Users", {"displayName": "x"}), 400, "invalidValue")
    refused(acme.post("/Groups", {"members": []}), 400, "invalidValue")
    refused(acme.post("/Users", {"userName": 5}), 400, "invalidValue")
    refused(acme.post("/Users", {"userName": "x", "active": "perhaps"}), 400, "invalidValue")
    refused(acme.post("/Users", [1]), 400, "invalidSyntax")
    emails = [{"value": "a", "primary": True}, {"value": "b", "primary": True}]
    refused(acme.post("/Users", {"userName": "x", "emails": emails}), 400, "invalidValue")


@pytest.mark.parametrize(
    ("body", "content_type", "status", "scim_type"),
    [
        (b"{", "application/scim+json", 400, "invalidSyntax"),
        (b'{"userName":"a","userName":"b"}', "application/json", 400, "invalidSyntax"),
        (b'{"userName":NaN}', "application/json", 400, "invalidSyntax"),
        (b'{"userName":"a\\u0000"}', "application/json", 400, "invalidSyntax"),
        (b'{"userName":"\\ud800"}', "application/json", 400, "invalidSyntax"),
        (b'{"userName":"\xff"}', "application/json", 400, "invalidSyntax"),
        (b"[" * 50 + b"]" * 50, "application/json", 400, "invalidSyntax"),
        (b'{"userName":"a"}', "text/plain", 415, None),
        (b'{"userName":"a"}', "application/json; charset=latin-1", 415, None),
        (b'{"userName":"' + b"a" * (1 << 20) + b'"}', "application/scim+json", 413, "tooLarge"),
    ],
)
def test_a_body_is_strict_json(acme: Scim, body: bytes, content_type: str, status: int, scim_type: str | None) -> None:
    refused(acme.call("POST", "/Users", body, Content_Type=content_type), status, scim_type)


def test_a_list_is_paged_by_index_and_counts_all(acme: Scim) -> None:
    names = [f"user{number}" for number in range(7)]
    for name in names:
        acme.user(name)
    first = acme.get("/Users?startIndex=1&count=3").json
    assert (first["totalResults"], first["startIndex"], first["itemsPerPage"]) == (7, 1, 3)
    assert first["schemas"] == ["urn:ietf:params:scim:api:messages:2.0:ListResponse"]
    assert acme.names("/Users", startIndex="6", count="3") == names[5:]
    assert acme.get("/Users?startIndex=8").json | {"schemas": 0} == {
        "schemas": 0, "totalResults": 7, "startIndex": 8, "itemsPerPage": 0, "Resources": [],
    }  # fmt: skip
    nothing = acme.get("/Users?count=0").json
    assert (nothing["totalResults"], nothing["Resources"]) == (7, [])
    assert acme.get("/Users?count=-1&startIndex=-5").json["startIndex"] == 1
    assert acme.get("/Users?count=99999").json["itemsPerPage"] == 7
    refused(acme.get("/Users?count=many"), 400, "invalidValue")
    refused(acme.get("/Users?startIndex=1.5"), 400, "invalidValue")
    assert acme.get(f"/Users?startIndex={10**17}").json["totalResults"] == 7


def test_filters_and_sort_reach_the_list(acme: Scim) -> None:
    for name, title in (("carol", "B"), ("alice", "c"), ("bob", None)):
        acme.make("/Users", userName=name, title=title)
    assert acme.names("/Users", filter='userName eq "ALICE"') == ["alice"]
    assert acme.names("/Users", filter='title pr and not (userName sw "c")') == ["alice"]
    assert acme.names("/Users", sortBy="userName") == ["alice", "bob", "carol"]
    assert acme.names("/Users", sortBy="title") == ["carol", "alice", "bob"]
    assert acme.names("/Users", sortBy="title", sortOrder="descending") == ["bob", "alice", "carol"]
    refused(acme.get("/Users?filter=userName%20xx%201"), 400, "invalidFilter")
    refused(acme.get("/Users?sortBy=nothing"), 400, "invalidPath")
    refused(acme.get("/Users?sortBy=userName&sortOrder=sideways"), 400, "invalidValue")


def test_a_filter_that_takes_too_long_is_too_many(
    acme: Scim, world: World, app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme.user("somebody")
    slow = "CROSS JOIN LATERAL (SELECT '{}'::jsonb AS d FROM pg_sleep(30) OFFSET 0) j"
    monkeypatch.setattr("scim.reading.DOCUMENT", slow)
    with pytest.raises(BadRequest) as refused, unit(world.acme) as session:
        session.execute(sa.text("SET LOCAL statement_timeout = '50ms'"))
        assert world.acme.tenant_id is not None
        found = condition("User", 'title co "x"')
        reading.page(reading.in_unit, world.acme.tenant_id, "", Projection("User"), condition=found)
    assert refused.value.scim_type == "tooMany"


def test_attributes_and_excluded_attributes_choose(acme: Scim) -> None:
    made = acme.make(
        "/Users",
        userName="ada",
        title="x",
        name={"givenName": "A", "familyName": "L"},
        emails=[{"value": "a@x.example", "type": "work"}],
        **{ENTERPRISE: {"department": "d", "costCenter": "c"}},
    )
    path = f"/Users/{made['id']}"

    def shown(query: str) -> dict:
        body = acme.get(f"{path}?{query}").json
        assert body.pop("id") == made["id"]
        return body

    assert shown("attributes=userName") == {"schemas": [CORE_USER], "userName": "ada"}
    assert shown("attributes=NAME.givenname,emails.value") == {
        "schemas": [CORE_USER], "name": {"givenName": "A"}, "emails": [{"value": "a@x.example"}],
    }  # fmt: skip
    assert shown(f"attributes={ENTERPRISE}:department,{CORE_USER}:title,nothing") == {
        "schemas": [CORE_USER, ENTERPRISE], "title": "x", ENTERPRISE: {"department": "d"},
    }  # fmt: skip
    assert shown(f"attributes={ENTERPRISE}")[ENTERPRISE] == {"department": "d", "costCenter": "c"}
    assert set(shown("attributes=meta.version")) == {"schemas", "meta"}
    without = shown(f"excludedAttributes=id,schemas,userName,name.familyName,meta,{ENTERPRISE}")
    assert set(without) == {"schemas", "active", "title", "name", "emails"} and without["name"] == {"givenName": "A"}
    assert without["schemas"] == [CORE_USER]
    refused(acme.get(f"{path}?attributes=userName&excludedAttributes=title"), 400, "invalidValue")
    listed = acme.get("/Users?attributes=userName").json["Resources"]
    assert listed == [{"id": made["id"], "schemas": [CORE_USER], "userName": "ada"}]


def test_what_is_returned_on_request_is_returned_only_then(acme: Scim) -> None:
    made = acme.make(
        "/Users",
        userName="ada",
        **{
            AD_USER: {
                "sAMAccountName": "ada",
                "thumbnailPhoto": "AAECAw==",
                "userCertificate": ["AQ==", "AQ=="],
                "proxyAddresses": ["SMTP:a", "smtp:A"],
                "attributes": [{"name": "msX", "values": ["b", "", "b"], "binaryValues": ["AA=="]}],
            }
        },
    )
    assert made[AD_USER] == {"sAMAccountName": "ada", "proxyAddresses": ["SMTP:a", "smtp:A"]}
    path = f"/Users/{made['id']}"
    assert acme.get(path).json == made
    assert acme.get(f"{path}?attributes={AD_USER}").json[AD_USER] == made[AD_USER]
    asked = acme.get(f"{path}?attributes={AD_USER}:thumbnailPhoto,{AD_USER}:attributes,{AD_USER}:userCertificate").json
    assert asked[AD_USER] == {
        "thumbnailPhoto": "AAECAw==",
        "userCertificate": ["AQ==", "AQ=="],
        "attributes": [{"name": "msX", "values": ["b", "", "b"], "binaryValues": ["AA=="]}],
    }
    # A client that does not see them does not take them away, neither by PUT nor by PATCH.
    assert acme.put(path, {"userName": "ada", "title": "x"}).status_code == 200
    assert acme.patch(path, {"op": "replace", "path": "title", "value": "y"}).status_code == 200
    kept = acme.get(f"{path}?attributes={AD_USER}:thumbnailPhoto,{AD_USER}:userCertificate").json
    assert kept[AD_USER] == {"thumbnailPhoto": "AAECAw==", "userCertificate": ["AQ==", "AQ=="]}
    certificate = {"op": "add", "path": f"{AD_USER}:userCertificate", "value": ["Ag=="]}
    assert acme.patch(path, certificate).status_code == 200
    assert acme.patch(path, {"op": "remove", "path": f"{AD_USER}:thumbnailPhoto"}).status_code == 200
    kept = acme.get(f"{path}?attributes={AD_USER}:thumbnailPhoto,{AD_USER}:userCertificate").json
    assert kept[AD_USER] == {"userCertificate": ["AQ==", "AQ==", "Ag=="]}
    refused(acme.post("/Users", {"userName": "b", AD_USER: {"thumbnailPhoto": "no octets"}}), 400, "invalidValue")


def test_a_token_name_is_shown_on_request_and_read_only(acme: Scim) -> None:
    made = acme.make("/Groups", displayName="Site Reliability", **{SCAIKEY_GROUP: {"tokenName": "root"}})
    assert SCAIKEY_GROUP not in made and SCAIKEY_GROUP not in made["schemas"]
    asked = acme.get(f"/Groups/{made['id']}?attributes={SCAIKEY_GROUP}:tokenName").json
    assert asked[SCAIKEY_GROUP] == {"tokenName": "site-reliability"}
    assert SCAIKEY_GROUP in asked["schemas"]
    assert acme.names("/Groups", filter=f'{SCAIKEY_GROUP}:tokenName eq "site-reliability"') == ["Site Reliability"]
    renamed = acme.patch(f"/Groups/{made['id']}", {"op": "replace", "path": "displayName", "value": "SRE"})
    assert renamed.json["displayName"] == "SRE"
    asked = acme.get(f"/Groups/{made['id']}?attributes={SCAIKEY_GROUP}:tokenName").json
    assert asked[SCAIKEY_GROUP] == {"tokenName": "site-reliability"}
    change = {"op": "replace", "path": f"{SCAIKEY_GROUP}:tokenName", "value": "root"}
    refused(acme.patch(f"/Groups/{made['id']}", change), 400, "mutability")


def test_entity_tags_guard_reads_and_writes(acme: Scim) -> None:
    path = f"/Users/{acme.user('ada')}"
    assert acme.get(path, If_None_Match='W/"1"').status_code == 304
    assert acme.get(path, If_None_Match='"1"').status_code == 304
    assert acme.get(path, If_None_Match='W/"2"').status_code == 200
    refused(acme.get(path, If_Match='W/"2"'), 412)
    change = {"op": "replace", "path": "title", "value": "x"}
    refused(acme.patch(path, change, If_Match='W/"7"'), 412)
    changed = acme.patch(path, change, If_Match='W/"7", W/"1"')
    assert changed.status_code == 200 and changed.headers["ETag"] == 'W/"2"'
    refused(acme.put(path, {"userName": "ada"}, If_Match='W/"1"'), 412)
    refused(acme.delete(path, If_Match='W/"1"'), 412)
    refused(acme.patch(path, change, If_None_Match="*"), 412)
    same = acme.patch(path, change)
    assert same.status_code == 200 and same.headers["ETag"] == 'W/"2"'
    assert acme.delete(path, If_Match="*").status_code == 204
    group = acme.group("g")
    member = {"op": "add", "path": "members", "value": [{"value": acme.user("m")}]}
    refused(acme.patch(f"/Groups/{group}", member, If_Match='W/"9"'), 412)
    assert acme.patch(f"/Groups/{group}", member, If_Match='W/"1"').headers["ETag"] == 'W/"2"'


def test_put_replaces_and_what_is_left_out_is_gone(acme: Scim) -> None:
    id = acme.user("ada", title="x", emails=[{"value": "a@x.example"}], externalId="e")
    answer = acme.put(f"/Users/{id}", {"userName": "ada2", "id": "other", "nickName": "A"})
    assert answer.status_code == 200
    assert answer.json["userName"] == "ada2" and answer.json["id"] == id and answer.json["nickName"] == "A"
    assert not {"title", "emails", "externalId"} & answer.json.keys()
    refused(acme.put(f"/Users/{id}", {"title": "x"}), 400, "invalidValue")
    refused(acme.put(f"/Users/{ids.new('usr')}", {"userName": "x"}), 404)


def test_put_sets_the_members_of_a_group(acme: Scim) -> None:
    a, b, c = (acme.user(name) for name in "abc")
    group = acme.group("g", a, b)
    answer = acme.put(f"/Groups/{group}", {"displayName": "g2", "members": [{"value": b}, {"value": c}]})
    assert {each["value"] for each in answer.json["members"]} == {b, c}
    assert "members" not in acme.put(f"/Groups/{group}", {"displayName": "g2"}).json
    both = {"displayName": "g", "members": [{"value": group}]}
    refused(acme.put(f"/Groups/{group}", both), 400, "invalidValue")


def test_a_value_that_a_patch_may_not_write_is_told_as_one_of_a_post_is(acme: Scim) -> None:
    ada = acme.user("ada")
    made = acme.post("/Users", {"userName": "bo", "title": {"a": 1}})
    changed = acme.patch(f"/Users/{ada}", {"op": "replace", "path": "title", "value": {"a": 1}})
    assert made.status_code == 400 and (made.status_code, made.json) == (changed.status_code, changed.json)


def test_patch_changes_attributes_in_every_shape(acme: Scim) -> None:
    path = f"/Users/{acme.user('ada', emails=[{'value': 'a@x.example', 'type': 'work'}])}"
    done = acme.patch(
        path,
        {"op": "Replace", "path": "displayName", "value": "Ada"},
        {"op": "ADD", "value": {"title": "x", f"{ENTERPRISE}:department": "d", "name.givenName": "A"}},
        {"op": "replace", "path": 'emails[type eq "work"].value', "value": "b@x.example"},
        {"op": "add", "path": 'phoneNumbers[type eq "mobile"].value', "value": "1"},
        {"op": "replace", "path": "urn:ietf:params:scim:schemas:core:2.0:User:nickName", "value": "n"},
    )
    assert done.status_code == 200, done.text
    user = done.json
    assert (user["displayName"], user["title"], user["nickName"]) == ("Ada", "x", "n")
    assert user["emails"] == [{"value": "b@x.example", "type": "work"}]
    assert user["phoneNumbers"] == [{"value": "1", "type": "mobile"}]
    assert user[ENTERPRISE] == {"department": "d"} and user["name"] == {"givenName": "A"}
    assert acme.patch(path, {"op": "replace", "value": {"active": False}}).json["active"] is False
    removed = acme.patch(path, {"op": "remove", "path": "emails"}, {"op": "remove", "path": "name.givenName"}).json
    assert not {"emails", "name"} & removed.keys()
    refused(acme.patch(path, {"op": "remove", "path": "userName"}), 400, "mutability")
    # What is read-only is dropped in the tolerant mode, and nothing is left of these.
    refused(acme.patch(path, {"op": "replace", "path": "id", "value": "x"}), 400, "invalidSyntax")
    refused(acme.patch(path, {"op": "replace", "path": "groups", "value": []}), 400, "invalidSyntax")
    refused(acme.patch(path, {"op": "remove"}), 400, "noTarget")
    refused(acme.patch(path, {"op": "jump", "path": "title"}), 400, "invalidSyntax")
    refused(acme.patch(path), 400, "invalidSyntax")
    refused(acme.patch(path, {"op": "replace", "path": "no.such.path", "value": 1}), 400, "invalidPath")
    assert acme.patch(path, {"op": "add", "path": "title", "value": ["x"]}).status_code == 400
    before = acme.get(path).json
    refused(acme.patch(path, {"op": "replace", "path": "title", "value": "z"}, {"op": "remove"}), 400, "noTarget")
    assert acme.get(path).json == before


def test_a_removed_active_is_unassigned_and_the_person_active(acme: Scim) -> None:
    path = f"/Users/{acme.user('ada', active=False)}"
    answer = acme.patch(path, {"op": "remove", "path": "active"})
    assert "active" not in answer.json
    assert acme.names("/Users", filter="active eq true") == ["ada"]
    assert acme.patch(path, {"op": "replace", "path": "title", "value": "x"}).json.keys() >= {"title"}
    assert "active" not in acme.get(path).json
    assert acme.patch(path, {"op": "add", "path": "active", "value": False}).json["active"] is False


def test_a_manager_is_a_person_of_the_tenant(acme: Scim, globex: Scim) -> None:
    boss = acme.user("boss")
    made = acme.make("/Users", userName="ada", **{ENTERPRISE: {"manager": {"value": boss}}})
    reference = f"http://localhost:8080/scim/v2/{acme.slug}/Users/{boss}"
    assert made[ENTERPRISE]["manager"] == {"value": boss, "$ref": reference}
    assert acme.names("/Users", filter=f'{ENTERPRISE}:manager.value eq "{boss}"') == ["ada"]
    assert acme.names("/Users", filter=f'{ENTERPRISE}:manager.$ref eq "{reference}"') == ["ada"]
    stranger = globex.user("stranger")
    assert ENTERPRISE not in acme.make("/Users", userName="x", **{ENTERPRISE: {"manager": {"value": stranger}}})
    manager = {"op": "replace", "path": f"{ENTERPRISE}:manager", "value": {"value": made["id"], "$ref": "x"}}
    assert acme.patch(f"/Users/{boss}", manager).json[ENTERPRISE]["manager"]["value"] == made["id"]


def test_units_have_parents(acme: Scim) -> None:
    parent = acme.make("/OrganizationalUnits", displayName="Sales", dn="OU=Sales,DC=x")
    child = acme.make(
        "/OrganizationalUnits", displayName="North", parent={"value": parent["id"]}, description=["a", "b"]
    )
    assert child["parent"] == {"value": parent["id"], "$ref": parent["meta"]["location"]}
    assert acme.names("/OrganizationalUnits", filter=f'parent.value eq "{parent["id"]}"') == ["North"]
    assert acme.names("/OrganizationalUnits", filter='dn eq "ou=sales,dc=X"', sortBy="displayName") == ["Sales"]
    moved = acme.patch(f"/OrganizationalUnits/{child['id']}", {"op": "remove", "path": "parent"})
    assert "parent" not in moved.json and moved.json["description"] == ["a", "b"]
    assert acme.delete(f"/OrganizationalUnits/{parent['id']}").status_code == 204


def test_a_unit_is_never_inside_itself(acme: Scim) -> None:
    top = acme.make("/OrganizationalUnits", displayName="Top")["id"]
    middle = acme.make("/OrganizationalUnits", displayName="Middle", parent={"value": top})["id"]
    low = acme.make("/OrganizationalUnits", displayName="Low", parent={"value": middle})["id"]
    for parent in (top, middle, low):
        move = {"op": "replace", "path": "parent", "value": {"value": parent}}
        refused(acme.patch(f"/OrganizationalUnits/{top}", move), 400, "invalidValue")
        refused(
            acme.put(f"/OrganizationalUnits/{top}", {"displayName": "Top", "parent": {"value": parent}}),
            400,
            "invalidValue",
        )
    assert "parent" not in acme.get(f"/OrganizationalUnits/{top}").json
    up = {"op": "replace", "path": "parent", "value": {"value": top}}
    assert acme.patch(f"/OrganizationalUnits/{low}", up).json["parent"]["value"] == top
    down = {"op": "replace", "path": "parent", "value": {"value": low}}
    assert acme.patch(f"/OrganizationalUnits/{middle}", down).json["parent"]["value"] == low
    refused(acme.patch(f"/OrganizationalUnits/{low}", {**down, "value": {"value": middle}}), 400, "invalidValue")


def test_groups_nest_and_a_persons_groups_are_direct_or_indirect(acme: Scim) -> None:
    ada = acme.user("ada")
    inner = acme.group("inner", ada)
    outer = acme.group("outer", inner)
    acme.patch(f"/Groups/{inner}", {"op": "add", "path": "members", "value": [{"value": outer}]})
    groups = {each["display"]: each for each in acme.get(f"/Users/{ada}").json["groups"]}
    assert groups["inner"]["type"] == "direct" and groups["outer"]["type"] == "indirect"
    assert groups["outer"]["$ref"] == f"http://localhost:8080/scim/v2/{acme.slug}/Groups/{outer}"
    [member] = acme.get(f"/Groups/{outer}").json["members"]
    assert member == {"value": inner, "$ref": groups["inner"]["$ref"], "type": "Group"}
    [named] = acme.get(f"/Groups/{outer}?attributes=members.display,members.value").json["members"]
    assert named == {"value": inner, "display": "inner"}
    assert acme.names("/Users", filter=f'groups eq "{outer}"') == ["ada"]
    assert acme.names("/Users", filter=f'groups[value eq "{outer}" and type eq "direct"]') == []
    assert acme.names("/Groups", filter=f'members eq "{ada}"') == ["inner"]
    assert acme.names("/Groups", filter=f'id eq "{inner}" and members eq "{ada}"') == ["inner"]
    listed = acme.get("/Groups?excludedAttributes=members").json["Resources"]
    assert all("members" not in each for each in listed)
    assert acme.delete(f"/Groups/{inner}").status_code == 204
    assert "groups" not in acme.get(f"/Users/{ada}").json
    assert "members" not in acme.get(f"/Groups/{outer}").json


def test_members_change_in_every_shape_clients_send(acme: Scim) -> None:
    a, b, c = (acme.user(name) for name in "abc")
    path = f"/Groups/{acme.group('g')}"

    def after(*operations: dict) -> set[str]:
        answer = acme.patch(path, *operations)
        assert answer.status_code == 200, answer.text
        return {each["value"] for each in answer.json.get("members", ())}

    assert after({"op": "add", "path": "members", "value": [{"value": a}, {"value": b, "display": "B"}]}) == {a, b}
    assert after({"op": "Add", "path": "members", "value": {"value": a}}) == {a, b}
    assert after({"op": "remove", "path": f'members[value eq "{a}"]'}) == {b}
    assert after({"op": "add", "value": {"members": [{"value": a}, {"value": c}]}}) == {a, b, c}
    assert after({"op": "Remove", "path": "members", "value": [{"$ref": None, "value": a}]}) == {b, c}
    assert after({"op": "remove", "path": f'members[value eq "{b}" or value eq "{c}"]'}) == set()
    assert after({"op": "replace", "path": "members", "value": [{"value": a}, {"value": b}]}) == {a, b}
    assert after({"op": "remove", "path": 'members[type eq "User"]'}) == set()
    assert after({"op": "replace", "value": {"members": [{"value": c}]}}) == {c}
    core = "urn:ietf:params:scim:schemas:core:2.0:Group:members"
    assert after({"op": "add", "path": core, "value": [{"value": a}]}) == {a, c}
    assert after(
        {"op": "remove", "path": f'members[value eq "{c}"]'}, {"op": "add", "path": "members", "value": [{"value": b}]}
    ) == {a, b}
    assert after({"op": "replace", "path": "members", "value": []}) == set()
    both = {"op": "replace", "value": {"id": path.rpartition("/")[2], "displayName": "g2", "members": [{"value": a}]}}
    assert after(both) == {a}
    assert acme.get(path).json["displayName"] == "g2"
    assert after({"op": "remove", "path": "members"}) == set()
    assert after({"op": "remove", "path": f'members[value eq "{a}"]'}) == set()
    itself = [{"value": path.rpartition("/")[2]}]
    refused(acme.patch(path, {"op": "add", "path": "members", "value": itself}), 400, "invalidValue")
    refused(acme.patch(path, {"op": "add", "path": "members", "value": [{"display": "x"}]}), 400, "invalidValue")
    refused(
        acme.patch(path, {"op": "replace", "path": f'members[value eq "{a}"].value', "value": b}), 400, "mutability"
    )
    refused(acme.patch(path, {"op": "remove", "path": "members[value xx 1]"}), 400, "invalidPath")
    refused(acme.patch(path, {"op": "add", "path": "members"}), 400, "invalidValue")
    refused(acme.patch(f"/Groups/{ids.new('grp')}", {"op": "remove", "path": "members"}), 404)


def test_a_member_change_is_silent_when_nothing_changes(acme: Scim) -> None:
    ada = acme.user("ada")
    path = f"/Groups/{acme.group('g', ada)}"
    add = {"op": "add", "path": "members", "value": [{"value": ada}]}
    assert acme.patch(path, add).headers["ETag"] == 'W/"1"'


def test_a_group_of_more_than_200_is_not_shown_in_answer(acme: Scim, world: World) -> None:
    with acting(system("tests")), unit(world.acme):
        directory = Directory()
        people = [directory.create("User", {"userName": f"u{number}"}).id for number in range(202)]
        group = directory.create("Group", {"displayName": "big", "members": [{"value": id} for id in people[:200]]}).id
    path = f"/Groups/{group}"

    def add(id: str, query: str = ""):
        return acme.patch(path + query, {"op": "add", "path": "members", "value": [{"value": id}]})

    assert acme.patch(path, {"op": "replace", "path": "externalId", "value": "x"}).status_code == 200
    more = add(people[200])
    assert (more.status_code, more.data, more.headers["ETag"]) == (204, b"", 'W/"3"')
    assert add(people[201], "?excludedAttributes=members").json["displayName"] == "big"
    assert len(acme.get(path).json["members"]) == 202


def test_sixty_parallel_additions_all_arrive(acme: Scim) -> None:
    people = [acme.user(f"u{number}") for number in range(60)]
    path = f"/Groups/{acme.group('g')}"

    def add(id: str) -> int:
        return acme.patch(path, {"op": "add", "path": "members", "value": [{"value": id}]}).status_code

    with ThreadPoolExecutor(12) as clients:
        assert set(clients.map(add, people)) == {200}
    assert {each["value"] for each in acme.get(path).json["members"]} == set(people)


def test_parallel_changes_of_one_person_queue_up(acme: Scim) -> None:
    path = f"/Users/{acme.user('ada')}"

    def change(number: int) -> int:
        value = {"value": f"{number}@x.example", "type": f"t{number}"}
        return acme.patch(path, {"op": "add", "path": "emails", "value": [value]}).status_code

    with ThreadPoolExecutor(8) as clients:
        assert set(clients.map(change, range(24))) == {200}
    assert len(acme.get(path).json["emails"]) == 24


def test_deleted_is_gone_and_frees_the_name(acme: Scim) -> None:
    id = acme.user("ada")
    assert acme.delete(f"/Users/{id}").status_code == 204
    for answer in (acme.get(f"/Users/{id}"), acme.delete(f"/Users/{id}"), acme.put(f"/Users/{id}", {"userName": "x"})):
        refused(answer, 404)
    assert acme.names("/Users") == []
    assert acme.user("ada") != id


@pytest.mark.parametrize("id", ["nobody", "usr_", "grp_01k80rhs6bn9bdb6bbh73mqkc6", "%00", "a%2Fb", "x" * 3000])
def test_an_id_that_is_none_is_not_found(acme: Scim, id: str) -> None:
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        body = (
            {"userName": "x", "Operations": [{"op": "remove", "path": "title"}]} if method in ("PUT", "PATCH") else None
        )
        refused(acme.call(method, f"/Users/{id}", body), 404)


def test_another_tenant_is_as_if_it_did_not_exist(acme: Scim, globex: Scim, world: World) -> None:
    id, group = acme.user("ada"), acme.group("g")
    here = Scim(acme.app, acme.slug, globex.token)
    nowhere = Scim(acme.app, "no-such-tenant", globex.token)
    for path in (f"/Users/{id}", "/Users", "/Schemas", "/Nothing", "/Me"):
        there, absent = here.get(path), nowhere.get(path)
        assert refused(there, 404) == refused(absent, 404)
    refused(here.post("/Users", {"userName": "x"}), 404)
    refused(here.delete(f"/Users/{id}"), 404)
    for path in (f"/Users/{id}", f"/Groups/{group}"):
        refused(globex.get(path), 404)
        refused(globex.delete(path), 404)
    refused(globex.patch(f"/Groups/{group}", {"op": "remove", "path": "members"}), 404)
    member = {"op": "add", "path": "members", "value": [{"value": id}]}
    assert "members" not in globex.patch(f"/Groups/{globex.group('g')}", member).json
    assert globex.names("/Users") == []


def test_without_a_credential_nothing_is_told(acme: Scim) -> None:
    for slug in (acme.slug, "no-such-tenant"):
        for token in (None, "sks_wrong"):
            answer = Scim(acme.app, slug, token).get("/Users")
            refused(answer, 401)
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_administrators_use_the_same_endpoints(acme: Scim, world: World) -> None:
    own = admin_token_of(world.acme, "tenant_admin", world.acme.tenant_id)
    partner = admin_token_of(world.home, "partner_admin", world.partner_id)
    other = admin_token_of(world.globex, "tenant_admin", world.globex.tenant_id)
    for token, status in ((own, 200), (partner, 200), (other, 404)):
        assert Scim(acme.app, acme.slug, token).get("/Users").status_code == status
    assert Scim(acme.app, acme.slug, partner).post("/Users", {"userName": "by-partner"}).status_code == 201


def test_what_is_not_served_is_501_and_not_announced(acme: Scim) -> None:
    for method in ("POST", "DELETE"):
        refused(acme.call(method, "/Me", {} if method == "POST" else None), 501)
    config = acme.get("/ServiceProviderConfig").json
    announced = {
        name: config[name]["supported"] for name in ("patch", "bulk", "filter", "changePassword", "sort", "etag")
    }
    assert announced == {
        "patch": True, "bulk": True, "filter": True, "changePassword": True, "sort": True, "etag": True,
    }  # fmt: skip
    assert config["filter"]["maxResults"] == 1000
    assert config["pagination"] == {
        "cursor": True, "index": True, "defaultPaginationMethod": "index", "defaultPageSize": 100,
        "maxPageSize": 1000, "cursorTimeout": 3600,
    }  # fmt: skip
    assert [each["name"] for each in acme.get("/ResourceTypes").json["Resources"]] == [
        "User",
        "Group",
        "OrganizationalUnit",
        "Agent",
        "GroupMember",
    ]


def test_a_path_means_the_same_with_a_slash_at_its_end(acme: Scim) -> None:
    ada = acme.post("/Users/", {"userName": "ada"}).json["id"]
    assert acme.names("/Users/", filter='userName eq "ada"') == ["ada"]
    assert acme.get(f"/Users/{ada}/").json == acme.get(f"/Users/{ada}").json
    assert acme.get("/ServiceProviderConfig/").status_code == 200
    refused(acme.get("/Users//"), 404)


def test_a_write_may_ask_that_it_is_not_this_version(acme: Scim) -> None:
    path = f"/Users/{acme.user('ada')}"
    member = f"/GroupMembers/{acme.group('g', path[7:])}.{path[7:]}"
    for listed in ('W/"1"', '"1"', 'W/"7", W/"1"', "*"):
        refused(acme.put(path, {"userName": "ada"}, If_None_Match=listed), 412)
        refused(acme.patch(path, {"op": "remove", "path": "title"}, If_None_Match=listed), 412)
        refused(acme.delete(path, If_None_Match=listed), 412)
        refused(acme.delete(member, If_None_Match=listed), 412)
        assert acme.get(path, If_None_Match=listed).status_code == 304
        assert acme.get(path, If_Match=listed).status_code == 200
    assert acme.put(path, {"userName": "ada"}, If_None_Match='W/"2"', If_Match="*").status_code == 200
    assert acme.delete(member, If_Match='W/"1", W/"2"').status_code == 204
    assert acme.delete(path, If_None_Match='W/"9"').status_code == 204
    for method in ("PUT", "PATCH", "DELETE"):
        body = {"userName": "x", "Operations": [{"op": "remove", "path": "title"}]}
        refused(acme.call(method, path, body if method != "DELETE" else None, If_Match="*"), 404)


def test_me_is_the_person_whose_credential_it_is(acme: Scim, world: World) -> None:
    me = Scim(acme.app, acme.slug, admin_token_of(world.acme, "tenant_admin", world.acme.tenant_id))
    shown = me.get("/Me")
    path = f"/Users/{shown.json['id']}"
    assert shown.json == me.get(path).json and shown.headers["Content-Location"].endswith(path)
    assert me.get("/Me", If_None_Match=shown.headers["ETag"]).status_code == 304
    changed = me.patch("/Me?attributes=title", {"op": "add", "path": "title", "value": "Dr"}, If_Match='W/"1"')
    assert changed.json["title"] == "Dr" and "userName" not in changed.json
    refused(me.patch("/Me", {"op": "remove", "path": "title"}, If_Match='W/"1"'), 412)
    assert me.put("/Me", {"userName": "said-anew"}).json["meta"]["location"].endswith(path)
    assert me.get(path).json["userName"] == "said-anew"
    for method in ("POST", "DELETE"):
        refused(me.call(method, "/Me", {}), 501)


def test_who_is_nobody_here_has_no_me(acme: Scim, world: World) -> None:
    partner = Scim(acme.app, acme.slug, admin_token_of(world.home, "partner_admin", world.partner_id))
    for client in (acme, partner):
        refused(client.get("/Me"), 404)
        refused(client.put("/Me", {"userName": "x"}), 404)
        refused(client.patch("/Me", {"op": "remove", "path": "title"}), 404)


def test_discovery_describes_every_schema(acme: Scim) -> None:
    listed = acme.get("/Schemas").json
    assert listed["totalResults"] == 9
    for schema in listed["Resources"]:
        assert acme.get(f"/Schemas/{schema['id']}").json == schema
        assert "null" not in orjson.dumps(schema).decode()
    kind = acme.get("/ResourceTypes/User").json
    assert kind["meta"]["location"].endswith(f"/scim/v2/{acme.slug}/ResourceTypes/User")
    refused(acme.get("/Schemas/urn:nobody"), 404)
    refused(acme.get("/ResourceTypes/Nothing"), 404)
    refused(acme.get("/Schemas?filter=id%20pr"), 403)


def test_unknown_paths_and_methods_are_refused_as_scim(acme: Scim) -> None:
    refused(acme.get("/Nothing"), 404)
    refused(acme.get("/Users/x/y"), 404)
    answer = acme.call("DELETE", "/Users")
    refused(answer, 405)
    assert set(answer.headers["Allow"].split(", ")) >= {"GET", "POST"}


def test_a_failure_tells_its_number_and_nothing_else(acme: Scim, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("scim.reading.page", fail)
    answer = acme.get("/Users", X_Request_ID="abc")
    assert refused(answer, 500) == "Internal error"
    assert answer.headers["X-Request-ID"] == "abc" and "secret" not in answer.text


def test_service_accounts_are_listed_only_to_who_asks(acme: Scim, world: World) -> None:
    acme.user("ada")
    with acting(system("tests")), unit(world.acme):
        account = Directory().create("User", {"userName": "robot", "userType": "ServiceAccount"}).id
    assert acme.names("/Users") == ["ada"]
    assert acme.get("/Users?count=0").json["totalResults"] == 1
    assert acme.names("/Users", filter='userName eq "robot"') == []
    assert acme.names("/Users", filter='userType eq "serviceaccount"') == ["robot"]
    assert acme.get(f"/Users/{account}").status_code == 200
    refused(acme.patch(f"/Users/{account}", {"op": "replace", "path": "title", "value": "x"}), 403)
    refused(acme.delete(f"/Users/{account}"), 403)
    refused(acme.post("/Users", {"userName": "second", "userType": "ServiceAccount"}), 400, "invalidValue")


def test_a_token_may_only_deactivate_who_holds_an_admin_role(acme: Scim, world: World) -> None:
    admin, member, plain = acme.user("admin", title="x"), acme.user("member"), acme.user("plain")
    group = acme.group("admins", member)
    nested = acme.group("nested", plain)
    acme.patch(f"/Groups/{group}", {"op": "add", "path": "members", "value": [{"value": nested}]})
    grant(world.acme, admin)
    grant(world.acme, group)
    for id in (admin, member, plain):
        refused(acme.patch(f"/Users/{id}", {"op": "replace", "path": "title", "value": "y"}), 403)
        refused(acme.patch(f"/Users/{id}", {"op": "remove", "path": "active"}), 403)
        refused(acme.put(f"/Users/{id}", {"userName": "other"}), 403)
        refused(acme.delete(f"/Users/{id}"), 403)
    for id in (group, nested):
        for operation in (
            {"op": "add", "path": "members", "value": [{"value": acme.user(ids.new("usr"))}]},
            {"op": "remove", "path": "members"},
            {"op": "replace", "path": "displayName", "value": "x"},
        ):
            refused(acme.patch(f"/Groups/{id}", operation), 403)
        refused(acme.put(f"/Groups/{id}", {"displayName": "x"}), 403)
        refused(acme.delete(f"/Groups/{id}"), 403)
    assert acme.patch(f"/Users/{admin}", {"op": "replace", "path": "active", "value": False}).json["active"] is False
    assert acme.get(f"/Users/{admin}").json["title"] == "x"
    refused(acme.patch(f"/Users/{admin}", {"op": "replace", "path": "active", "value": True}), 403)
    assert acme.put(f"/Users/{member}", {"userName": "member", "active": False}).json["active"] is False
    by_admin = Scim(acme.app, acme.slug, admin_token_of(world.acme, "tenant_admin", world.acme.tenant_id))
    assert by_admin.patch(f"/Users/{admin}", {"op": "replace", "path": "active", "value": True}).status_code == 200


def test_who_is_in_a_group_that_holds_an_admin_role_is_said_by_who_may_grant_roles(acme: Scim, world: World) -> None:
    """With the scope `scim` alone nobody makes administrators."""
    tenant_id = world.acme.tenant_id
    narrow = Scim(acme.app, acme.slug, admin_token_of(world.acme, "tenant_admin", tenant_id))
    wide = Scim(acme.app, acme.slug, admin_token_of(world.acme, "tenant_admin", tenant_id, "scim", "scaikey:write"))
    member, climber = acme.user("member"), acme.user("climber")
    nested = acme.group("nested")
    admins, plain = acme.group("admins", member, nested), acme.group("plain", member)
    grant(world.acme, admins)
    added = {"op": "add", "path": "members", "value": [{"value": climber}]}
    removed = {"op": "remove", "path": f'members[value eq "{climber}"]'}
    both = [{"value": member}, {"value": nested}]
    for group, name, members in ((admins, "admins", both), (nested, "nested", [])):
        path, more = f"/Groups/{group}", [*members, {"value": climber}]
        refused(narrow.patch(path, added), 403)
        refused(narrow.patch(path, {"op": "replace", "value": {"displayName": name, "members": more}}), 403)
        refused(narrow.put(path, {"displayName": name, "members": more}), 403)
        assert narrow.put(path, {"displayName": name, "members": members}).status_code == 200
        assert narrow.patch(path, {"op": "replace", "path": "displayName", "value": f"{name}!"}).status_code == 200
        assert wide.patch(path, added).status_code == wide.patch(path, removed).status_code == 200
        assert wide.put(path, {"displayName": name, "members": more}).status_code == 200
        refused(narrow.patch(path, removed), 403)
        refused(narrow.put(path, {"displayName": name}), 403)
    assert narrow.patch(f"/Groups/{plain}", added).status_code == 200
    assert narrow.put(f"/Groups/{plain}", {"displayName": "plain"}).status_code == 200
    narrow.group("new", climber)


def grant(scope: Scope, principal_id: str) -> None:
    with acting(system("tests")), unit(scope) as session:
        session.add(
            RoleAssignment(id=ids.new("rol"), role="tenant_admin", principal_id=principal_id, scope_id=scope.tenant_id)
        )


def test_roles_are_data(acme: Scim) -> None:
    made = acme.make("/Users", userName="ada", roles=[{"value": "super_admin", "primary": True}])
    assert made["roles"] == [{"value": "super_admin", "primary": True}]
    refused(Scim(acme.app, acme.slug, acme.token).get(f"/Groups/{made['id']}"), 404)


def test_a_password_is_ignored_from_who_may_not_set_it_and_refused_to_who_may(acme: Scim, world: World) -> None:
    made = acme.make("/Users", userName="ada", password="correct horse battery staple")
    assert "password" not in made
    assert "password" not in acme.get(f"/Users/{made['id']}?attributes=password").text
    change = {"op": "replace", "path": "password", "value": "x"}
    assert acme.patch(f"/Users/{made['id']}", change).status_code == 200
    allowed = Scim(acme.app, acme.slug, token_of(world.acme, allow_password=True))
    admin = Scim(acme.app, acme.slug, admin_token_of(world.acme, "tenant_admin", world.acme.tenant_id))
    for client in (allowed, admin):
        refused(client.post("/Users", {"userName": "bo", "password": "x"}), 400, "invalidValue")
        refused(client.patch(f"/Users/{made['id']}", change), 400, "invalidValue")


def test_a_token_pins_nothing(acme: Scim) -> None:
    refused(acme.put(f"/Users/{acme.user('ada')}?pin=true", {"userName": "ada"}), 403)
