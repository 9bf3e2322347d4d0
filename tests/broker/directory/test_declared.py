"""What a tenant has declared, filled by its upstreams: typed, unique, immutable, and told where it is not taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask

from broker.attributes import CUSTOM
from broker.directory import Outcome, declarations, declared
from broker.errors import Conflict, OwnedByUpstream
from broker.models import CustomAttribute
from tests.broker.directory.conftest import Tenant, Upstream, group, person

URN = CUSTOM["User"]
Declare = Callable[..., str]


def path(name: str, resource_type: str = "User") -> str:
    return f"{CUSTOM[resource_type]}:{name}"


def row(source: str, to: str, **rest: Any) -> dict[str, Any]:
    return {"from": source, "to": path(to), **rest}


@pytest.fixture
def declare(acme: Tenant) -> Declare:
    def declare(name: str, **values: Any) -> str:
        with acme.open():
            return declarations.declare({"name": name, **values}).id

    return declare


def own(acme: Tenant, id: str) -> dict[str, Any]:
    found: dict[str, Any] = acme.document(id).get(URN, {})
    return found


def refused(outcome: Outcome) -> list[str]:
    assert {skip.reason for skip in outcome.skips} <= {"values_refused"}
    return [skip.detail for skip in outcome.skips]


@pytest.mark.parametrize(
    ("type_", "said", "expected"),
    [
        ("string", "Blue", "Blue"),
        ("boolean", "TRUE", True),
        ("boolean", "false", False),
        ("integer", "-42", -42),
        ("decimal", "1.50", 1.5),
        ("decimal", "2", 2),
        ("dateTime", "20260131120000.0Z", "2026-01-31T12:00:00.0Z"),
        ("dateTime", "202601311200+0130", "2026-01-31T12:00:00+01:30"),
        ("dateTime", "2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
        ("reference", "https://acme.test/a", "https://acme.test/a"),
        ("binary", b"\x00\xff", "AP8="),
        ("binary", "abc", "YWJj"),
    ],
)
def test_text_becomes_what_is_declared(
    acme: Tenant, ad: Upstream, declare: Declare, type_: str, said: str | bytes, expected: Any
) -> None:
    declare("one", type=type_, filterable=True)
    declare("several", type=type_, multi_valued=True)
    ad.change(attribute_mapping=[row("info", "one"), row("info", "several")])
    outcome = ad.apply(person("ann", info=said))
    found = own(acme, ad.resource("key-ann"))
    assert found == {"one": expected, "several": [expected]} and type(found["one"]) is type(found["several"][0])
    assert (outcome.created, outcome.skips) == (1, [])


@pytest.mark.parametrize(
    ("type_", "said"),
    [
        ("boolean", "yes"),
        ("integer", "1.5"),
        ("integer", str(2**63)),
        ("integer", "1_000"),
        ("integer", "\u0661"),
        ("decimal", "much"),
        ("decimal", "nan"),
        ("decimal", "1e999"),
        ("dateTime", "2026-01-31"),
        ("dateTime", "20261331120000Z"),
        ("dateTime", "99991231235959-1400"),
        ("string", "medium"),
    ],
)
def test_a_value_that_does_not_fit_is_told_and_the_rest_is_taken(
    acme: Tenant, ad: Upstream, declare: Declare, type_: str, said: str
) -> None:
    declare("one", type=type_, **({"canonical_values": ["small", "large"]} if type_ == "string" else {}))
    ad.change(attribute_mapping=[row("info", "one")])
    outcome = ad.apply(person("ann", info=said, title="Clerk"))
    ann = ad.resource("key-ann")
    assert acme.document(ann)["title"] == "Clerk" and own(acme, ann) == {}
    [detail] = refused(outcome)
    assert detail.startswith("one: ") and outcome.created == 1
    acme.news()
    again = ad.next_run().apply(person("ann", info=said, title="Clerk"))
    assert refused(again) == [detail] and acme.news() == [] and again.updated == 0


def test_one_bad_value_of_several_leaves_the_others(acme: Tenant, ad: Upstream, declare: Declare) -> None:
    declare("floors", type="integer", multi_valued=True)
    ad.change(attribute_mapping=[row("info", "floors")])
    outcome = ad.apply(person("ann", info=["1", "two", "3"]))
    assert own(acme, ad.resource("key-ann")) == {"floors": [1, 3]}
    assert len(refused(outcome)) == 1


def test_reading_again_is_silent_and_what_ends_upstream_ends_here(acme: Tenant, ad: Upstream, declare: Declare) -> None:
    declare("costCode", filterable=True)
    ad.change(attribute_mapping=[row("info", "costCode")])
    ad.apply(person("ann", info="A1"))
    ann = ad.resource("key-ann")
    acme.news()
    assert ad.next_run().apply(person("ann", info="A1")).unchanged == 1 and acme.news() == []
    ad.next_run().apply(person("ann", info="A2"))
    assert own(acme, ann) == {"costCode": "A2"} and path("costCode") in acme.news()[0].changed
    ad.next_run().apply(person("ann"))
    assert URN not in acme.document(ann) and acme.happened() == ["user.updated"]


def test_groups_are_filled_too(acme: Tenant, ad: Upstream, declare: Declare) -> None:
    declare("purpose", resource_type="Group", uniqueness="server")
    ad.change(attribute_mapping=[{"from": "info", "to": path("purpose", "Group")}])
    outcome = ad.apply(group("ops", info="on call"), group("dev", info="On Call"), person("ann", info="x"))
    assert acme.document(ad.resource("key-ops"))[CUSTOM["Group"]] == {"purpose": "on call"}
    assert refused(outcome) == ["purpose: Another group has this value."]
    assert CUSTOM["Group"] not in acme.document(ad.resource("key-dev"))


def test_transforms_constants_and_defaults_have_the_type(acme: Tenant, ad: Upstream, declare: Declare) -> None:
    declare("code", case_exact=True)
    declare("level", type="integer")
    declare("floors", type="integer", multi_valued=True)
    rows = [
        row("info", "code", transform={"name": "upper"}),
        row("x", "level", default=3),
        {"to": path("floors"), "transform": {"name": "constant", "args": {"value": [1, 2]}}},
    ]
    ad.change(attribute_mapping=rows)
    ad.apply(person("ann", info="a1"))
    assert own(acme, ad.resource("key-ann")) == {"code": "A1", "level": 3, "floors": [1, 2]}


def test_what_an_upstream_owns_is_not_written_here_and_what_it_fills_is(
    acme: Tenant, ad: Upstream, declare: Declare
) -> None:
    declare("owned")
    declare("filled")
    ad.change(attribute_mapping=[row("info", "owned"), row("info", "filled", authority="fills")])
    ad.apply(person("ann", info="A1"))
    ann = ad.resource("key-ann")
    document = acme.document(ann)
    acme.put("User", ann, {**document, URN: {"owned": "A1", "filled": "B1"}})
    assert own(acme, ann) == {"owned": "A1", "filled": "B1"}
    with pytest.raises(OwnedByUpstream):
        acme.put("User", ann, {**document, URN: {"owned": "other", "filled": "B1"}})
    acme.put("User", ann, {**document, URN: {"owned": "pinned"}}, pin=True)
    ad.next_run().apply(person("ann", info="A2"))
    assert own(acme, ann) == {"owned": "pinned", "filled": "A2"}


def test_a_unique_value_stays_with_its_first_holder_until_it_is_free(
    acme: Tenant, ad: Upstream, declare: Declare
) -> None:
    declare("badge", uniqueness="server")
    here = acme.user("here", **{URN: {"badge": "B1"}})
    ad.change(attribute_mapping=[row("info", "badge")])
    records = person("ann", info="A1"), person("bo", info="a1"), person("cy", info="B1")
    outcome = ad.apply(*records)
    ann, bo, cy = (ad.resource(f"key-{name}") for name in ("ann", "bo", "cy"))
    assert (own(acme, ann), own(acme, bo), own(acme, cy)) == ({"badge": "A1"}, {}, {})
    assert refused(outcome) == ["badge: Another user has this value."] * 2 and outcome.created == 3
    acme.put("User", bo, {**acme.document(bo), "title": "Clerk"} | {"userName": "bo"}, pin=True)
    assert acme.document(bo)["title"] == "Clerk"
    acme.remove("User", here)
    acme.news()
    assert len(refused(ad.next_run().apply(*records))) == 1
    assert own(acme, cy) == {"badge": "B1"} and acme.happened() == ["user.updated"]
    with pytest.raises(Conflict, match="badge"):
        acme.user("di", **{URN: {"badge": "b1"}})


def test_unique_values_change_hands_within_a_page(acme: Tenant, ad: Upstream, declare: Declare) -> None:
    declare("badge", uniqueness="server")
    ad.change(attribute_mapping=[row("info", "badge")])
    ad.apply(person("ann", info="1"), person("bo", info="2"))
    swapped = ad.next_run().apply(person("ann", info="2"), person("bo", info="1"))
    ann, bo = ad.resource("key-ann"), ad.resource("key-bo")
    assert swapped.skips == [] and (own(acme, ann), own(acme, bo)) == ({"badge": "2"}, {"badge": "1"})
    passed_on = ad.next_run().apply(person("cy", info="1"), person("bo", info="3"))
    assert passed_on.skips == [] and own(acme, ad.resource("key-cy")) == {"badge": "1"}
    assert own(acme, bo) == {"badge": "3"}


def test_who_takes_a_value_in_the_same_moment_goes_first(
    app: Flask, acme: Tenant, ad: Upstream, declare: Declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare("badge", uniqueness="server")
    ad.change(attribute_mapping=[row("info", "badge")])

    def take() -> str:
        with app.app_context():
            return acme.user("eve", **{URN: {"badge": "1"}})

    look, taken = declared.contested, list[str]()

    def look_too_early(tenant: str, claims: Mapping[str, Set[declared.Claim]]) -> dict[str, set[declared.Claim]]:
        found = look(tenant, claims)
        if not taken:
            with ThreadPoolExecutor(1) as pool:
                taken.append(pool.submit(take).result())
        return found

    monkeypatch.setattr(declared, "contested", look_too_early)
    outcome = ad.apply(person("ann", info="1"))
    assert refused(outcome) == ["badge: Another user has this value."]
    assert (own(acme, ad.resource("key-ann")), own(acme, taken[0])) == ({}, {"badge": "1"})


def test_of_several_unique_values_those_that_are_free_are_taken(acme: Tenant, ad: Upstream, declare: Declare) -> None:
    declare("keys", uniqueness="server", multi_valued=True, type="integer")
    ad.change(attribute_mapping=[row("info", "keys")])
    ad.apply(person("ann", info=["1", "2"]))
    outcome = ad.apply(person("bo", info=["2", "3", "3"]))
    assert own(acme, ad.resource("key-bo")) == {"keys": [3, 3]} and len(outcome.skips) == 1


def test_an_immutable_value_stays_whatever_an_upstream_says_next(acme: Tenant, ad: Upstream, declare: Declare) -> None:
    declare("hired", type="dateTime", mutability="immutable")
    ad.change(attribute_mapping=[row("info", "hired")])
    ad.apply(person("ann", info="20200101000000Z"))
    ann = ad.resource("key-ann")
    same = ad.next_run().apply(person("ann", info="20200101010000+0100"))
    other = ad.next_run().apply(person("ann", info="20210101000000Z"))
    assert same.skips == [] and refused(other) == ["hired: Never changes once it has a value."]
    unreadable = ad.next_run().apply(person("ann", info="last year"))
    assert len(refused(unreadable)) == 1
    assert own(acme, ann) == {"hired": "2020-01-01T00:00:00Z"}
    acme.put("User", ann, acme.document(ann))
    ad.next_run().apply(person("ann"))
    assert own(acme, ann) == {}


def test_the_value_of_the_next_upstream_is_held_to_the_same(
    acme: Tenant, ad: Upstream, hr: Upstream, declare: Declare
) -> None:
    declare("badge", uniqueness="server")
    ad.change(attribute_mapping=[row("info", "badge")])
    hr.change(attribute_mapping=[row("info", "badge")])
    ad.apply(person("ann", info="1"), person("bo", info="2"))
    ann, bo = ad.resource("key-ann"), ad.resource("key-bo")
    hr.apply(person("ann", key="hr-ann", at="CN=hr"))
    hr.adopt("hr-ann", ann)
    assert hr.next_run().apply(person("ann", key="hr-ann", at="CN=hr", info="2")).skips == []
    ad.pass_over(person("bo", info="2"))
    assert own(acme, ann) == {} and own(acme, bo) == {"badge": "2"}
    again = hr.next_run().apply(person("ann", key="hr-ann", at="CN=hr", info="2"))
    assert refused(again) == ["badge: Another user has this value."]


def test_what_an_upstream_fills_does_not_end_under_it(acme: Tenant, ad: Upstream, declare: Declare) -> None:
    made = declare("costCode")
    ad.change(attribute_mapping=[row("info", "costCode")])
    ad.apply(person("ann", info="A1"))
    ann = ad.resource("key-ann")

    def end() -> None:
        with acme.open() as session:
            attribute = session.get_one(CustomAttribute, (acme.scope.tenant_id, made))
            declarations.remove(attribute, "costCode")

    with pytest.raises(Conflict, match="mapping of the provider"):
        end()
    ad.change(attribute_mapping=[])
    end()
    assert own(acme, ann) == {}
    declare("costCode", type="integer")
    ad.change(attribute_mapping=[row("info", "costCode")])
    assert len(refused(ad.next_run().apply(person("ann", info="A1")))) == 1
    ad.next_run().apply(person("ann", info="7"))
    assert own(acme, ann) == {"costCode": 7}


def test_somebody_who_comes_back_is_filled_anew(acme: Tenant, ad: Upstream, declare: Declare) -> None:
    declare("hired", type="integer", mutability="immutable", uniqueness="server")
    ad.change(attribute_mapping=[row("info", "hired")])
    ad.pass_over(person("ann", info="1"))
    ann = ad.resource("key-ann")
    ad.pass_over()
    assert ad.pass_over(person("bo", info="1"), person("ann", info="2")).skips == []
    assert own(acme, ann) == {"hired": 2}
