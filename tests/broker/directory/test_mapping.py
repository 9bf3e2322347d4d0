"""Records as stored, what they say under a mapping, and documents made of flat values and taken apart again."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.attributes import AD_GROUP, AD_USER, ENTERPRISE, UNIT, by_path, on
from broker.directory.documents import (
    apart,
    differing,
    document_sources,
    flattened,
    index_rows,
    nested,
    parse,
    point,
    render_extras,
    said,
    stored_extras,
)
from broker.directory.mapping import Layer, Mapping_, compiled, mapped, merged
from broker.directory.records import decode_record, encode_record, member_attribute
from broker.directory.rules import check_rows
from broker.directory.transforms import filetime, guid, integer, sid
from broker.errors import ValidationFailed
from connectors.port import Record, Ref

WORK = 'emails[type eq "work"].value'
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.lists(st.one_of(TEXT, st.binary(max_size=20)), max_size=4)
NAMES = st.one_of(
    st.sampled_from(["cn", "CN", "Cn", "lastLogon", "LASTLOGON", "memberOf", "userCertificate;binary", "objectGUID"]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12),
)
SIDS = bytes.fromhex("010500000000000515000000a065cf7e784b9b5fe77c8770091c0100")


def record(attributes: Mapping[str, Sequence[str | bytes]] | None = None, **fields: Any) -> Record:
    return Record(
        **{"key": "1", "kind": "user", "name": "CN=1", "ref": "cn=1", "attributes": attributes or {}, **fields}
    )


@settings(deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=8))
def test_records_are_stored_without_loss(attributes: dict[str, list[str | bytes]]) -> None:
    assert decode_record(encode_record(record(attributes), b"").stored) == attributes


@pytest.mark.parametrize(
    "value",
    [
        str(1 << 63),
        "-9223372036854775808",
        "9223372036854775807",
        "\x00",
        " leading and trailing ",
        "a\r\nb",
        "\\2C\\00",
        "\U0001f600é\u0301",
        b"",
        b"\xff\x00",
        "",
        '{"b": "AA=="}',
    ],
)
def test_awkward_values_are_stored_without_loss(value: str | bytes) -> None:
    assert decode_record(encode_record(record({"x": [value]}), b"").stored) == {"x": [value]}


@pytest.mark.parametrize(
    "changed",
    [
        record({"cn": ["x"], "Title": ["b"]}),
        record({"cn": ["x"], "title": ["b"], "lastlogon": ["2"]}),
        record({"cn": ["x"], "title": ["b", "b"]}),
        record({"cn": ["x"], "title": [b"b"]}),
        record({"cn": ["x"]}),
    ],
)
def test_digest_tells_values_with_meaning_from_quiet_ones(changed: Record) -> None:
    plain = encode_record(record({"cn": ["x"], "title": ["b"], "lastLogon": ["1"]}), b"m")
    other = encode_record(changed, b"m")
    quiet_only = "lastlogon" in changed.attributes
    assert (plain.digest == other.digest) is quiet_only
    assert plain.quiet_digest != other.quiet_digest and plain.stored != other.stored


@pytest.mark.parametrize(
    "field",
    [
        {"name": "CN=2"},
        {"ref": "cn=2"},
        {"alias": "S-1"},
        {"active": False},
        {"kind": "other"},
        {"members": ()},
        {"members": (Ref("a", "a"),)},
        {"manager": Ref("a", "a")},
        {"parent": Ref("a", "a")},
        {"primary_group": Ref("a", "a")},
    ],
)
def test_digest_covers_all_the_directory_acts_on(field: dict[str, Any]) -> None:
    plain = record({"cn": ["x"]})
    digests = {encode_record(each, b"m").digest for each in (plain, replace(plain, **field))}
    assert len(digests) == 2
    members = [record(members=(Ref("a", "A"), Ref("b", "B"))), record(members=(Ref("b", "B"), Ref("a", "A")))]
    assert len({encode_record(each, b"m").digest for each in members}) == 2


def test_digest_changes_with_the_mapping() -> None:
    rows: list[list[dict[str, Any]]] = [
        [],
        [{"from": "info", "to": "nickName"}],
        [{"from": "info", "to": "nickName", "authority": "fills"}],
        [{"from": "info", "to": "nickName", "default": "x"}],
        [{"from": "info", "to": "nickName", "transform": {"name": "lower"}}],
    ]
    digests = [compiled(each).digest for each in rows]
    assert len(set(digests)) == len(rows)
    assert digests == [compiled(orjson.loads(orjson.dumps(each))).digest for each in rows]
    assert len({encode_record(record(), digest).digest for digest in digests}) == len(rows)


def test_group_classes_name_their_members_differently() -> None:
    assert member_attribute({"objectClass": ["top", "groupOfUniqueNames"]}) == "uniqueMember"
    assert member_attribute({"OBJECTCLASS": ["group"]}) == "member"
    assert member_attribute({}) == "member"


def test_guids_and_sids_are_read_from_octets_and_from_text() -> None:
    found = uuid.UUID("0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9")
    assert guid(found.bytes_le) == str(found) == guid(str(found).upper())
    assert guid("abcdefghijklmnop") == str(uuid.UUID(bytes_le=b"abcdefghijklmnop"))
    assert sid(SIDS) == "S-1-5-21-2127521184-1604012920-1887927527-72713"
    assert sid("S-1-5-32-544") == "S-1-5-32-544"
    assert sid(SIDS[:-1]) == base64.b64encode(SIDS[:-1]).decode()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", None),
        ("9223372036854775807", None),
        ("-1", None),
        ("never", None),
        ("9223372036854775806", None),
        ("9" * 5_000, None),
        (b"\xff", None),
        ("132223104000000000", datetime(2020, 1, 1, tzinfo=UTC)),
        ("1", datetime(1601, 1, 1, tzinfo=UTC)),
    ],
)
def test_filetimes(value: str | bytes, expected: datetime | None) -> None:
    assert filetime(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [("512", 512), ("-2147483646", -2147483646), ("x", None), (str(1 << 63), None), (str(-(1 << 63)), -(1 << 63))],
)
def test_integers(value: str, expected: int | None) -> None:
    assert integer(value) == expected


def values_of(rows: list[dict[str, Any]], resource_type: str = "User", **attributes: Any) -> dict[str, Any]:
    lists = {name: value if isinstance(value, list) else [value] for name, value in attributes.items()}
    return mapped(compiled(check_rows(rows)), resource_type, said(lists))


def test_default_mapping_speaks_scim() -> None:
    found = uuid.uuid4()
    values = values_of(
        [],
        userPrincipalName="ann@acme.test",
        objectGUID=found.bytes_le,
        objectSid=SIDS,
        cn="Ann A.",
        mail=["ann@acme.test", "second@acme.test"],
        userAccountControl="512",
        accountExpires="9223372036854775807",
        proxyAddresses=["SMTP:a", "smtp:b"],
        thumbnailPhoto=b"\xff",
        lastLogonTimestamp="1",
    )
    assert values == {
        "userName": "ann@acme.test",
        "externalId": str(found),
        "displayName": "Ann A.",
        WORK: "ann@acme.test",
        f"{AD_USER}:objectGUID": str(found),
        f"{AD_USER}:objectSid": "S-1-5-21-2127521184-1604012920-1887927527-72713",
        f"{AD_USER}:userPrincipalName": "ann@acme.test",
        f"{AD_USER}:userAccountControl": 512,
        f"{AD_USER}:accountExpires": "9223372036854775807",
        f"{AD_USER}:proxyAddresses": ["SMTP:a", "smtp:b"],
    }


def test_the_managers_dn_is_shown_though_nobody_here_has_it() -> None:
    values = values_of([], userPrincipalName="ann", manager="CN=Boss,DC=elsewhere")
    assert values[f"{AD_USER}:managerDN"] == "CN=Boss,DC=elsewhere"


def test_names_fall_back_in_order() -> None:
    assert values_of([], sAMAccountName="ann", cn="Ann")["userName"] == "ann"
    assert values_of([], uid="ann")["userName"] == "ann"
    assert values_of([], userPrincipalName=b"\xff", sAMAccountName="ann")["userName"] == "ann"
    assert "userName" not in values_of([], title="x")
    assert values_of([], "Group", sAMAccountName="staff")["displayName"] == "staff"
    assert values_of([], "OrganizationalUnit", ou="Sales", distinguishedName="OU=Sales") == {
        "displayName": "Sales",
        "ou": "Sales",
        "dn": "OU=Sales",
    }


@pytest.mark.parametrize(
    ("row", "said_", "expected"),
    [
        ({"from": "info"}, {"INFO": ["x", "y"]}, "x"),
        ({"from": "info", "transform": {"name": "all"}}, {"info": ["x", "y"]}, "x"),
        ({"from": "info", "transform": {"name": "lower"}}, {"info": ["ÀB"]}, "àb"),
        ({"from": "info", "transform": {"name": "upper"}}, {"info": ["àb"]}, "ÀB"),
        ({"from": "info", "transform": {"name": "join"}}, {"info": ["a", "b"]}, "a b"),
        ({"from": "info", "transform": {"name": "join", "args": {"with": ", "}}}, {"info": ["a", "b"]}, "a, b"),
        ({"transform": {"name": "constant", "args": {"value": "x"}}}, {}, "x"),
        ({"transform": {"name": "display_name"}}, {"cn": ["Ann"]}, "Ann"),
        ({"from": "info", "default": "none"}, {}, "none"),
        ({"from": "info", "default": "none"}, {"info": [""]}, "none"),
        ({"from": "info", "default": "none"}, {"info": []}, "none"),
        ({"from": "info", "default": "none"}, {"info": ["x"]}, "x"),
        ({"from": "info"}, {"info": [b"\xff"]}, "/w=="),
        ({"from": "info"}, {}, None),
        ({"authority": "never"}, {"nickName": ["x"]}, None),
    ],
)
def test_rows_map_and_transform(row: dict[str, Any], said_: dict[str, Any], expected: str | None) -> None:
    values = values_of([{"to": "nickName", **row}], **said_)
    assert values.get("nickName") == expected


def test_rows_replace_the_default_line() -> None:
    rows = [{"from": "extensionAttribute1", "to": "userName"}, {"to": "title", "authority": "never"}]
    values = values_of(rows, userPrincipalName="upn", extensionAttribute1="own", title="x")
    assert values["userName"] == "own" and "title" not in values
    assert "userName" not in values_of(rows, userPrincipalName="upn")
    owned = compiled(rows).owned["User"]
    assert "userName" in owned and "title" not in owned and f"{ENTERPRISE}:manager.value" in owned


def test_shape_follows_the_attribute() -> None:
    rows = [
        {"from": "info", "to": f"{AD_USER}:proxyAddresses", "transform": {"name": "lower"}},
        {"from": "info", "to": f"{AD_USER}:userAccountControl"},
    ]
    values = values_of(rows, info=["A", "B"])
    assert values[f"{AD_USER}:proxyAddresses"] == ["a"] and f"{AD_USER}:userAccountControl" not in values
    assert values_of(rows, info="7")[f"{AD_USER}:userAccountControl"] == 7


def test_text_of_sixteen_letters_is_no_guid_unless_its_source_is_one() -> None:
    rows = [{"from": "employeeNumber", "to": "externalId"}]
    assert values_of(rows, employeeNumber="ABCDEFGHIJKLMNOP")["externalId"] == "ABCDEFGHIJKLMNOP"
    found = uuid.uuid4()
    rows = [{"from": "mS-DS-ConsistencyGuid", "to": "externalId"}]
    assert values_of(rows, **{"mS-DS-ConsistencyGuid": found.bytes_le})["externalId"] == str(found)


def test_options_are_left_out_and_the_plain_value_goes_before() -> None:
    for attributes in (
        {"title": ["plain"], "title;lang-fr": ["français"]},
        {"title;lang-fr": ["français"], "title": ["plain"]},
    ):
        assert mapped(compiled([]), "User", said(attributes))["title"] == "plain"
    assert mapped(compiled([]), "User", said({"title;lang-fr": ["français"]}))["title"] == "français"


@pytest.mark.parametrize(
    "row",
    [
        None,
        [],
        "userName",
        {},
        {"from": "x"},
        {"from": "x", "to": "nowhere"},
        {"from": "x", "to": ["userName"]},
        {"from": "x", "to": "active"},
        {"from": "x", "to": f"{ENTERPRISE}:manager.value"},
        {"from": "x", "to": "parent.value"},
        {"from": "x", "to": "urn:scaikey:params:scim:schemas:extension:scaikey:1.0:Group:tokenName"},
        {"from": "x", "to": "title", "authority": "sometimes"},
        {"from": "x", "to": "title", "authority": ["owns"]},
        {"from": "x", "to": "title", "transform": "lower"},
        {"from": "x", "to": "title", "transform": {"name": "eval"}},
        {"from": "x", "to": "title", "transform": {"name": "refer"}},
        {"from": "x", "to": "title", "transform": {"name": ["lower"]}},
        {"from": "x", "to": "title", "transform": {"name": "join", "args": {"with": 1}}},
        {"from": "x", "to": "title", "transform": {"name": "join", "args": "x"}},
        {"from": "x", "to": "title", "transform": {"name": "lower", "script": "x"}},
        {"from": 1, "to": "title"},
        {"to": "title"},
        {"from": "x", "to": "title", "default": 1},
        {"from": "x", "to": "title", "default": ["x"]},
        {"to": "title", "transform": {"name": "constant"}},
        {"from": "x", "to": f"{AD_USER}:userAccountControl", "default": "7"},
        {"from": "x", "to": f"{AD_USER}:userAccountControl", "transform": {"name": "upper"}},
        {"from": "x", "to": f"{AD_USER}:proxyAddresses", "default": "x"},
        {"from": "x", "to": "title", "script": "x"},
    ],
)
def test_rows_that_cannot_work_are_named(row: Any) -> None:
    with pytest.raises(ValidationFailed) as refused:
        check_rows([{"from": "info", "to": "nickName"}, row])
    assert refused.value.errors.keys() == {"attribute_mapping.1"}


def test_each_path_is_mapped_once_and_rows_are_a_list() -> None:
    row = {"from": "info", "to": "nickName"}
    with pytest.raises(ValidationFailed) as refused:
        check_rows([row, row])
    assert refused.value.errors == {"attribute_mapping.1": ["`to` is mapped twice."]}
    with pytest.raises(ValidationFailed):
        check_rows({"from": "info"})
    assert check_rows([]) == [] and check_rows([row]) == [row]
    good: list[dict[str, Any]] = [
        {"to": "title", "authority": "never"},
        {"to": "nickName", "transform": {"name": "constant", "args": {"value": "x"}}},
        {"from": "x", "to": f"{AD_USER}:proxyAddresses", "default": ["x"]},
        {"from": "x", "to": f"{AD_GROUP}:groupType", "default": 2, "transform": {"name": "first"}},
        {"from": "x", "to": WORK, "authority": "fills", "transform": None, "default": None},
    ]
    assert check_rows(good) == good


def layer(owned: dict[str, Any] | None = None, filled: dict[str, Any] | None = None, *silent: str) -> Layer:
    owned = owned or {}
    return Layer(Mapping_(b"", {}, {"User": frozenset([*owned, *silent])}, {}), {**owned, **(filled or {})})


def test_layers_merge_by_ownership() -> None:
    top = layer({"a": "top"}, {"d": "top", "e": "top"}, "b")
    low = layer({"a": "low", "b": "low", "c": "low"}, {"d": "low", "f": "low"})
    local = {"a": "here", "c": "here", "e": "here", "g": "here"}
    assert merged("User", [top, low], local, {}) == {
        "a": "top",
        "c": "low",
        "d": "top",
        "e": "here",
        "f": "low",
        "g": "here",
    }
    assert merged("User", [top, low], local, {"b": "pin", "g": "pin"})["b"] == "pin"
    assert merged("User", [], local, {}) == local
    assert merged("User", [top], {}, {}) == {"a": "top", "d": "top", "e": "top"}


def test_differing_names_what_differs() -> None:
    before = {"schemas": ["a"], "id": "1", "title": "x", "emails": [1], ENTERPRISE: {"a": 1, "b": 2}, AD_USER: {"x": 1}}
    after = {"schemas": ["b"], "id": "2", "title": "x", "emails": [2], ENTERPRISE: {"a": 1, "b": 3}, "nickName": "y"}
    assert differing(before, after) == sorted(["emails", "nickName", f"{AD_USER}:x", f"{ENTERPRISE}:b"])
    assert differing(before, before) == [] and differing({}, {"schemas": [], "id": "1"}) == []


FLAT = {
    resource_type: [
        path
        for path, line in by_path(resource_type).items()
        if not line.read_only and line.transform != "refer" and path not in ("active",)
    ]
    for resource_type in ("User", "Group", "OrganizationalUnit")
}


@st.composite
def flat_values(draw: st.DrawFn, resource_type: str) -> dict[str, Any]:
    """Values under any of the catalogue's paths, in any order."""
    chosen = draw(st.lists(st.sampled_from(FLAT[resource_type]), unique=True))
    lines = by_path(resource_type)  # type: ignore[arg-type]
    word = st.text(min_size=1, max_size=8)
    values: dict[str, Any] = {}
    for path in chosen:
        one = st.integers() if lines[path].form == "integer" else word
        values[path] = draw(st.lists(one, min_size=1, max_size=3) if lines[path].many else one)
    return values


@pytest.mark.parametrize("resource_type", sorted(FLAT))
@settings(deadline=None)
@given(data=st.data())
def test_documents_are_taken_apart_into_what_they_were_made_of(resource_type: str, data: st.DataObject) -> None:
    values = data.draw(flat_values(resource_type))
    document = nested(resource_type, "id_1", values)
    back = flattened(resource_type, document)
    typed = {key for key in values if parse(key).kind is not None}
    assert apart(back, typed, {}) == values
    shuffled = nested(resource_type, "id_1", dict(data.draw(st.permutations(list(values.items())))))
    assert set(differing(document, shuffled)) <= {parse(key).attribute for key in typed}
    assert document["schemas"] == shuffled["schemas"]
    assert set(document["schemas"][1:]) == {key for key in document if key.startswith("urn:")}


def test_documents_hold_standard_shapes() -> None:
    values = {
        "userName": "ann",
        "name.givenName": "Ann",
        WORK: "ann@acme.test",
        'addresses[type eq "work"].locality': "Springfield",
        'addresses[type eq "work"].streetAddress': "Elm 1",
        f"{ENTERPRISE}:department": "Sales",
        f"{AD_USER}:description": ["a", "b"],
    }
    document = nested("User", "usr_1", values)
    assert document == {
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User", ENTERPRISE, AD_USER],
        "id": "usr_1",
        "userName": "ann",
        "name": {"givenName": "Ann"},
        "emails": [{"value": "ann@acme.test", "type": "work", "primary": True}],
        "addresses": [{"locality": "Springfield", "streetAddress": "Elm 1", "type": "work"}],
        ENTERPRISE: {"department": "Sales"},
        AD_USER: {"description": ["a", "b"]},
    }


def test_references_are_put_in_and_taken_out() -> None:
    document = nested("User", "usr_1", {"userName": "ann"})
    before = orjson.loads(orjson.dumps(document))
    key = f"{ENTERPRISE}:manager.value"
    point(document, key, "usr_2")
    assert document[ENTERPRISE] == {"manager": {"value": "usr_2", "$ref": "../Users/usr_2"}}
    assert document["schemas"][1:] == [ENTERPRISE]
    assert flattened("User", document)[key] == "usr_2"
    point(document, key, None)
    point(document, key, None)
    assert document == before
    unit = nested("OrganizationalUnit", "ou_1", {"displayName": "Sales"})
    point(unit, "parent.value", "ou_2")
    assert unit["parent"] == {"value": "ou_2", "$ref": "../OrganizationalUnits/ou_2"}
    point(unit, "parent.value", None)
    assert "parent" not in unit


def test_flattening_leaves_out_what_is_not_written() -> None:
    document = {
        "schemas": ["x"],
        "id": "1",
        "meta": {},
        "groups": [],
        "members": [{"value": "x"}],
        "displayName": "staff",
        "externalId": None,
        "urn:scaikey:params:scim:schemas:extension:scaikey:1.0:Group": {"tokenName": "root"},
        AD_GROUP: {"description": [], "groupType": 0},
    }
    assert flattened("Group", document) == {"displayName": "staff", f"{AD_GROUP}:groupType": 0}
    manager = {"value": "usr_1", "$ref": "../Users/usr_1", "displayName": "Boss"}
    assert flattened("User", {ENTERPRISE: {"manager": manager}}) == {f"{ENTERPRISE}:manager.value": "usr_1"}
    assert flattened("User", {"active": False, "name": {"givenName": None}}) == {"active": False}


def test_lists_come_apart_where_somebody_owns_a_part() -> None:
    emails = [
        {"value": "w", "type": "work", "primary": True, "display": "W"},
        {"value": "h", "type": "home"},
        {"value": "n"},
        {"type": "work", "display": "no value"},
    ]
    assert apart({"emails": emails, "title": "x"}, {WORK}, {}) == {
        WORK: "w",
        "emails": [*emails[1:]],
        "title": "x",
    }
    assert apart({"emails": emails}, set(), {}) == {"emails": emails}
    two = [{"value": "w", "type": "work"}, {"value": "v", "type": "work"}]
    assert (
        apart({"emails": two}, {WORK}, {WORK: "w"}) == {WORK: "v"} == apart({"emails": two[::-1]}, {WORK}, {WORK: "w"})
    )


def test_value_index_holds_folded_values_with_their_types() -> None:
    document = nested(
        "User",
        "usr_1",
        {WORK: "Straße@x", f"{ENTERPRISE}:employeeNumber": "E1", f"{AD_USER}:proxyAddresses": ["SMTP:A"]},
    )
    document["emails"] += [{"value": "b@x"}, {"value": "c" * 2_000}, {"value": "d@x", "type": "t" * 65}, {"type": "x"}]
    assert index_rows("User", document) == [
        (1, "b@x", ""),
        (1, "strasse@x", "work"),
        (3, "e1", ""),
        (15, "SMTP:A", ""),
    ]
    assert index_rows("Group", {"displayName": "x"}) == []


def test_what_is_returned_on_request_stays_out_of_the_document() -> None:
    values = {
        "title": "x",
        f"{AD_USER}:thumbnailPhoto": "AA==",
        f"{AD_USER}:attributes": [],
        f"{AD_USER}:uSNChanged": "1",
    }
    assert stored_extras("User", values).keys() == values.keys() - {"title"}
    assert "thumbnailphoto" not in document_sources("User") and "title" in document_sources("User")


def test_extras_are_rendered_from_the_records() -> None:
    top = {
        "thumbnailPhoto": [b"\xff"],
        "userCertificate;binary": [b"1", b"2"],
        "memberOf": ["CN=a", "CN=b"],
        "lastLogonTimestamp": ["7"],
        "acmeBadge": ["1", b"\xfe", "nul\x00"],
        "note;lang-fr": ["un"],
        "note": ["one"],
        "title": ["named"],
    }
    low = {"ACMEBADGE": ["other"], "shoeSize": ["43"], "thumbnailPhoto": [b"low"]}
    local = {f"{AD_USER}:attributes": [{"name": "shoeSize", "values": ["1"]}, {"name": "own", "values": ["x"]}]}
    assert render_extras("User", [top, low], local) == {
        AD_USER: {
            "thumbnailPhoto": "/w==",
            "userCertificate": ["MQ==", "Mg=="],
            "memberOfDN": ["CN=a", "CN=b"],
            "lastLogonTimestamp": "7",
            "attributes": [
                {
                    "name": "acmeBadge",
                    "syntax": "2.5.5.10",
                    "values": ["1"],
                    "binaryValues": ["/g==", base64.b64encode(b"nul\x00").decode()],
                },
                {"name": "note;lang-fr", "syntax": "2.5.5.12", "values": ["un"]},
                {"name": "note", "syntax": "2.5.5.12", "values": ["one"]},
                {"name": "shoeSize", "syntax": "2.5.5.12", "values": ["43"]},
                {"name": "own", "values": ["x"]},
            ],
        }
    }
    assert render_extras("User", [], {}) == {}
    assert render_extras("User", [], {f"{AD_USER}:thumbnailPhoto": "BB=="}) == {AD_USER: {"thumbnailPhoto": "BB=="}}
    unit = render_extras("OrganizationalUnit", [{"ou": ["x"], "gPLink": ["y"]}], {})
    assert unit == {"attributes": [{"name": "gPLink", "syntax": "2.5.5.12", "values": ["y"]}]}
    assert UNIT not in unit


def test_every_catalogue_path_is_a_flat_key() -> None:
    for resource_type in ("User", "Group", "OrganizationalUnit"):
        for line in on(resource_type):  # type: ignore[arg-type]
            path = parse(str(line.path_on(resource_type)))  # type: ignore[arg-type]
            assert path.attribute
    with pytest.raises(ValueError, match="not a flat"):
        parse("emails[type eq work")
