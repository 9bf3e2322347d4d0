"""Filters and sort orders in SQL against scim2-models' own evaluator, over random people, groups and filters."""

from __future__ import annotations

import random
from typing import Any

import orjson
import pytest
import scim2_models as scim
from flask import Flask

from broker.attributes import AD_USER, ENTERPRISE, SCAIKEY_GROUP, fold
from broker.context import acting, system
from broker.db import hot, unit
from broker.directory import Directory
from broker.errors import BadRequest
from scim import filters, reading
from scim.filters import condition
from scim.resources import Projection, projection
from scim.schemas import MODELS
from scim.sorting import order
from tests.conftest import make_world

BASE = "https://scaikey.example/scim/v2/acme"
POLICY = scim.ScimPolicy(comparison_key=lambda binding, value: value if binding.case_exact else fold(value))
# fmt: off
WORDS = [
    "alice", "ALICE", "Bob", "bo", "straße", "STRASSE", "Zo\u00eb", "Zoe\u0308", "ﬁn", "FIN", "İx", "日本", "😀",
    "a_b", "a%b", "z", "ж", "Ж", 'say "hi"', "back\\slash", " lead",
]
TYPES = ["work", "home", "other"]
TOKEN_NAME = f"{SCAIKEY_GROUP}:tokenName"
STRINGS = [
    "userName", "displayName", "title", "nickName", "externalId", "userType", "name.givenName", "name.familyName",
    "locale", "roles", "emails", "emails.value", "emails.type", "phoneNumbers", "phoneNumbers.value",
    "addresses.locality", "schemas", "id", "meta.resourceType", "meta.version", "groups", "groups.display",
    "groups.type", f"{ENTERPRISE}:employeeNumber", f"{ENTERPRISE}:department", f"{ENTERPRISE}:costCenter",
    f"{ENTERPRISE}:manager.value", f"{AD_USER}:sAMAccountName", f"{AD_USER}:objectGUID", f"{AD_USER}:proxyAddresses",
    "urn:ietf:params:scim:schemas:core:2.0:User:username",
]
GROUP_STRINGS = [
    "displayName", "externalId", "members", "members.value", "members.type", "members.display", "id", TOKEN_NAME,
]
OTHERS = ["active", "name", "emails.primary", "groups", "meta", f"{AD_USER}:primaryGroupID", f"{ENTERPRISE}:manager"]
SORTS = [
    "userName", "displayName", "title", "active", "externalId", "userType", "name.familyName", "emails",
    "emails.type", "phoneNumbers.value", "meta.created", "meta.lastModified", "id", f"{ENTERPRISE}:department",
    f"{ENTERPRISE}:manager.value", f"{AD_USER}:primaryGroupID", f"{AD_USER}:proxyAddresses",
]
# fmt: on
OPERATORS = ["eq", "eq", "eq", "ne", "co", "sw", "ew", "gt", "ge", "lt", "le"]
UNORDERED = ["gt", "ge", "lt", "le", "co", "sw", "ew"]
ORDERED = ["eq", "ne", "gt", "ge", "lt", "le"]


def person(chance: random.Random, number: int, managers: list[str]) -> dict[str, Any]:
    """A document in which any attribute may be missing."""

    def word() -> str:
        return chance.choice(WORDS)

    def some(odds: float = 0.6, **values: Any) -> dict[str, Any]:
        return {name: value for name, value in values.items() if value is not None and chance.random() < odds}

    emails = [
        {"value": f"{word()}@x.example", "primary": kind == "home", **some(0.8, type=kind)}
        for kind in TYPES[: chance.randint(1, 3)]
    ]
    manager = {"value": chance.choice(managers)} if managers else None
    enterprise = some(employeeNumber=word(), department=word(), costCenter=word(), manager=manager)
    directory = some(
        sAMAccountName=word(),
        objectGUID=word(),
        primaryGroupID=chance.randint(510, 515),
        proxyAddresses=[f"SMTP:{word()}", f"smtp:{word()}"],
    )
    return {
        "userName": f"{word()}-{number}",
        **some(
            displayName=word(),
            title=chance.choice([*WORDS, ""]),
            nickName=word(),
            externalId=word(),
            userType=chance.choice(["Employee", "EMPLOYEE", "Guest"]),
            active=chance.random() < 0.5,
            name={"givenName": word(), **some(familyName=word())},
            emails=emails,
            phoneNumbers=[{"value": word(), "type": chance.choice(TYPES)}],
            roles=[{"value": word()}],
        ),
        **({ENTERPRISE: enterprise} if enterprise else {}),
        **({AD_USER: directory} if directory else {}),
    }


@pytest.fixture(scope="module")
def crowd(engines: Flask) -> dict[str, list[Any]]:
    """Forty people and nine nested groups, two of them in a cycle, as the models their JSON makes."""
    chance = random.Random(7)
    with engines.app_context():
        scope = make_world().acme
        tenant = scope.tenant_id
        assert tenant is not None
        with acting(system("tests")), unit(scope):
            directory = Directory()
            people: list[str] = []
            for number in range(40):
                people.append(directory.create("User", person(chance, number, people)).id)
            groups: list[str] = []
            for number in range(9):
                members = chance.sample(people, chance.randint(0, 6))
                members += chance.sample(groups, min(len(groups), chance.randint(0, 2)))
                document = {
                    "displayName": f"{chance.choice(WORDS)} {number}",
                    "externalId": chance.choice([None, "x", "X"]),
                    "members": [{"value": id} for id in members],
                }
                groups.append(directory.create("Group", document).id)
            directory.change_members(groups[0], add=[groups[8]])
        return {
            "tenant": [tenant],
            "ids": [*people[:3], *groups[:3], groups[8]],
            "User": models(tenant, Projection("User")),
            "Group": models(
                tenant,
                projection(
                    "Group", f"displayName,externalId,members.value,members.type,members.display,{TOKEN_NAME}", None
                ),
            ),
        }


def models(tenant: str, wanted: Projection) -> list[Any]:
    page = reading.page(hot, tenant, BASE, wanted, count=1000)
    return [MODELS[wanted.resource_type].model_validate_json(each) for each in page.resources]


def text(chance: random.Random, ids: list[str]) -> str:
    base = chance.choice([*WORDS, *ids, "work", "Employee", "direct", "User", "", "@x.example", 'W/"1"', "urn:"])
    if chance.random() < 0.2:
        base = base[: chance.randint(0, len(base))]
    return orjson.dumps(chance.choice([base, base.upper(), base.lower(), f"{base}@x.example"])).decode()


def term(chance: random.Random, ids: list[str], depth: int = 0) -> str:
    roll = chance.random()
    if depth < 2 and roll < 0.25:
        terms = [term(chance, ids, depth + 1) for _ in range(chance.randint(2, 3))]
        joined = chance.choice([" and ", " or "]).join(terms)
        return f"({joined})"
    if depth < 2 and roll < 0.35:
        return f"not ({term(chance, ids, depth + 1)})"
    if roll < 0.45:
        return f"{chance.choice(STRINGS + OTHERS)} pr"
    if roll < 0.52:
        attribute = chance.choice(["active", "emails.primary", "roles.primary"])
        return f"{attribute} {chance.choice(['eq', 'ne'])} {chance.choice(['true', 'false', 'null'])}"
    if roll < 0.57:
        return f"{AD_USER}:primaryGroupID {chance.choice(ORDERED)} {chance.randint(509, 516)}"
    if roll < 0.6:
        moment = chance.choice(["2000-01-01T00:00:00Z", "2100-01-01T00:00:00+02:00"])
        return f'meta.{chance.choice(["created", "lastModified"])} {chance.choice(ORDERED)} "{moment}"'
    if roll < 0.78:
        return value_path(chance, ids, chance.choice(["emails", "phoneNumbers", "groups"]))
    attribute = chance.choice(STRINGS)
    if chance.random() < 0.12:
        return f"{attribute} {chance.choice(['eq', 'ne', 'gt'])} null"
    return f"{attribute} {chance.choice(OPERATORS)} {text(chance, ids)}"


def group_term(chance: random.Random, ids: list[str]) -> str:
    roll = chance.random()
    if roll < 0.3:
        return value_path(chance, ids, "members")
    attribute = chance.choice(GROUP_STRINGS)
    if roll < 0.4:
        return f"{attribute} pr"
    comparison = f"{attribute} {chance.choice(OPERATORS)} {text(chance, ids)}"
    return f"not ({comparison})" if roll < 0.6 else comparison


def value_path(chance: random.Random, ids: list[str], attribute: str) -> str:
    terms = []
    for sub in chance.sample(["value", "type", "display"], chance.randint(1, 2)):
        comparison = f"{sub} {chance.choice(OPERATORS)} {text(chance, ids)}"
        terms.append(chance.choice([comparison, f"{sub} pr", f"not ({comparison})"]))
    path = f"{attribute}[{' and '.join(terms)}]"
    if chance.random() < 0.2:
        return f"{path}.value {chance.choice(['eq', 'sw'])} {text(chance, ids)}"
    return path


def selected(tenant: str, resource_type: str, filter_text: str) -> list[str]:
    compiled = condition(resource_type, filter_text)
    page = reading.page(hot, tenant, BASE, Projection(resource_type, {"id": {}}), condition=compiled, count=1000)
    assert page.total == len(page.resources)
    return [orjson.loads(each)["id"] for each in page.resources]


def expected(models: list[Any], resource_type: str, filter_text: str) -> list[str]:
    bound: Any = scim.ScimFilter
    with POLICY:
        evaluator = bound[MODELS[resource_type]](filter_text)
        return [model.id for model in models if evaluator.match(model, strict=True)]


def test_random_filters_select_what_the_evaluator_selects(app: Flask, crowd: dict[str, list[Any]]) -> None:
    chance = random.Random(20)
    telling = 0
    for _ in range(700):
        filter_text = term(chance, crowd["ids"])
        wanted = expected(crowd["User"], "User", filter_text)
        assert selected(crowd["tenant"][0], "User", filter_text) == wanted, filter_text
        telling += 0 < len(wanted) < 40
    assert telling > 250


def test_random_group_filters_select_what_the_evaluator_selects(app: Flask, crowd: dict[str, list[Any]]) -> None:
    chance = random.Random(21)
    telling = 0
    for _ in range(250):
        terms = [group_term(chance, crowd["ids"]) for _ in range(chance.randint(1, 3))]
        filter_text = f" {chance.choice(['and', 'or'])} ".join(terms)
        wanted = expected(crowd["Group"], "Group", filter_text)
        assert selected(crowd["tenant"][0], "Group", filter_text) == wanted, filter_text
        telling += 0 < len(wanted) < 9
    assert telling > 25


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("sort_by", SORTS)
def test_sort_orders_as_the_evaluator_does(
    app: Flask, crowd: dict[str, list[Any]], sort_by: str, descending: bool
) -> None:
    tenant, direction = crowd["tenant"][0], "descending" if descending else "ascending"
    request: Any = scim.SearchRequest
    asked = request[MODELS["User"]](sort_by=sort_by, sort_order=direction)
    found = reading.page(hot, tenant, BASE, Projection("User"), order=order("User", sort_by, descending), count=100)
    sorted_here = [MODELS["User"].model_validate_json(each) for each in found.resources]
    with POLICY:
        wanted = [asked.sort_value(model) for model in asked.sort(crowd["User"])]
        assert [asked.sort_value(model) for model in sorted_here] == wanted
    ids = [model.id for model in sorted_here]
    again = reading.page(
        hot, tenant, BASE, Projection("User"), order=order("User", sort_by, descending), start=11, count=7
    )
    assert [orjson.loads(each)["id"] for each in again.resources] == ids[10:17]


@pytest.mark.parametrize(
    ("text", "scim_type"),
    [
        ("userName eq", "invalidFilter"),
        ("nothing eq 1", "invalidFilter"),
        ('urn:nobody:1.0:Thing:x eq "1"', "invalidFilter"),
        ("userName", "invalidFilter"),
        *((f"{name} {op} true", "invalidFilter") for name in ("active", "emails.primary") for op in UNORDERED),
        *((f'{name} {op} "x"', "invalidFilter") for name in ("active", "emails.primary") for op in UNORDERED),
        *((f"emails[primary {op} true]", "invalidFilter") for op in UNORDERED),
        *((f'emails[type eq "work" and primary {op} "x"]', "invalidFilter") for op in UNORDERED),
        *((f'{name} {op} "AA=="', "invalidFilter") for name in ("x509Certificates.value",) for op in UNORDERED),
        *((f'x509Certificates[value {op} "AA=="]', "invalidFilter") for op in UNORDERED),
        ("active gt null", "invalidFilter"),
        ('active eq "maybe"', "invalidFilter"),
        ('password eq "x"', "invalidFilter"),
        ('name eq "x"', "invalidFilter"),
        ('addresses eq "x"', "invalidFilter"),
        ('userName[value eq "x"]', "invalidFilter"),
        ('emails[nothing eq "x"]', "invalidFilter"),
        (f'{AD_USER}:thumbnailPhoto eq "AA=="', "invalidFilter"),
        (f'{AD_USER}:attributes[name eq "x"]', "invalidFilter"),
        ('meta.created gt "yesterday"', "invalidFilter"),
        ('userName eq "a\\u0000b"', "invalidFilter"),
        ('userName eq "\\ud800"', "invalidFilter"),
        (" or ".join(['userName eq "x"'] * 51), "invalidFilter"),
        ("not (" * 21 + "title pr" + ")" * 21, "invalidFilter"),
        (f'userName eq "{"x" * 4_096}"', "invalidFilter"),
    ],
)
def test_a_filter_that_cannot_be_is_refused(text: str, scim_type: str) -> None:
    with pytest.raises(BadRequest) as refused:
        condition("User", text)
    assert refused.value.scim_type == scim_type


@pytest.mark.parametrize(
    "sort_by", ["nothing", "name", "password", "groups", f"{AD_USER}:thumbnailPhoto", "emails[x eq 1]"]
)
def test_an_attribute_without_an_order_is_refused(sort_by: str) -> None:
    with pytest.raises(BadRequest) as refused:
        order("User", sort_by, False)
    assert refused.value.scim_type == "invalidPath"


@pytest.mark.parametrize(
    ("prefix", "end"),
    [("ab", "ac"), ("a\U0010ffff", "b"), ("\U0010ffff", None), ("\ud7ff", "\ue000"), ("", None)],
)
def test_a_prefix_is_a_range(prefix: str, end: str | None) -> None:
    assert filters._after(prefix) == end
