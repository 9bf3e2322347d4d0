"""Who owns a value: a pin, the highest link that owns it, what was written here, one that fills it while empty."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from broker.attributes import AD_USER, ENTERPRISE
from broker.errors import OwnedByUpstream, ValidationFailed
from connectors.port import Record

from .conftest import Tenant, Upstream, dn, group, ou, person

NICK = {"from": "info", "to": "nickName"}
FILLS = [{**NICK, "authority": "fills"}]


@pytest.fixture
def ann(acme: Tenant, ad: Upstream) -> str:
    """Somebody the Active Directory has."""
    ad.apply(person("ann", title="Clerk", mail="ann@acme.test", givenName="Ann"))
    acme.news()
    return ad.resource("key-ann")


def join(upstream: Upstream, record: Record, id: str) -> None:
    """Let the upstream's record be linked to a resource that is here, and read again."""
    name = upstream.tenant.row(id).name
    upstream.apply(replace(record, attributes={**record.attributes, "userPrincipalName": [name]}))
    upstream.adopt(record.key, id)
    assert upstream.apply(record).skips == []


def refused(tenant: Tenant, id: str, document: dict[str, Any], **how: Any) -> None:
    before = tenant.row(id)
    with pytest.raises(OwnedByUpstream) as error:
        tenant.put("User", id, document, **how)
    assert error.value.scim_type == "mutability"
    after = tenant.row(id)
    assert (before.document, before.version) == (after.document, after.version)


def test_giving_back_what_was_given_changes_nothing(acme: Tenant, ad: Upstream, ann: str) -> None:
    acme.put("User", ann, acme.document(ann))
    acme.put("User", ann, acme.document(ann), complete=True)
    assert acme.news() == [] and acme.row(ann).version == 1
    assert (acme.row(ann).local, acme.row(ann).pins) == ({}, {})


def test_owned_value_is_not_written_here(acme: Tenant, ann: str) -> None:
    document = acme.document(ann)
    refused(acme, ann, {**document, "title": "Chief"})
    refused(acme, ann, {**document, "userName": "anna"})
    refused(acme, ann, {**document, "name": {**document["name"], "givenName": "Anna"}})
    refused(acme, ann, {**document, "emails": [{"value": "x@y", "type": "work", "primary": True}]})
    assert acme.news() == []


def test_value_an_upstream_owns_but_does_not_have_is_not_written_here(acme: Tenant, ann: str) -> None:
    refused(acme, ann, {**acme.document(ann), ENTERPRISE: {"department": "Sales"}})


def test_replacement_without_owned_values_leaves_them_alone(acme: Tenant, ann: str) -> None:
    acme.put("User", ann, {"userName": "ann"})
    assert acme.document(ann)["title"] == "Clerk" and acme.news() == []


def test_deliberate_removal_of_an_owned_value_is_refused(acme: Tenant, ann: str) -> None:
    document = acme.document(ann)
    del document["title"]
    refused(acme, ann, document, complete=True)
    document = acme.document(ann)
    document["emails"] = []
    refused(acme, ann, document, complete=True)
    acme.put("User", ann, document)
    assert acme.news() == []


def test_free_values_are_written_here(acme: Tenant, ad: Upstream, ann: str) -> None:
    acme.put("User", ann, {**acme.document(ann), "nickName": "Annie", "locale": "fr"})
    assert acme.document(ann)["nickName"] == "Annie"
    assert [event.changed for event in acme.news()] == [["locale", "nickName"]]
    ad.next_run().apply(person("ann", title="Chief"))
    assert (acme.document(ann)["nickName"], acme.document(ann)["title"]) == ("Annie", "Chief")
    acme.put("User", ann, {**acme.document(ann), "nickName": None})
    assert "nickName" not in acme.document(ann) and acme.document(ann)["locale"] == "fr"


def test_pin_lays_a_value_above_the_upstream(acme: Tenant, ad: Upstream, ann: str) -> None:
    acme.put("User", ann, {**acme.document(ann), "title": "Queen"}, pin=True)
    assert acme.document(ann)["title"] == "Queen" and acme.row(ann).pins == {"title": "Queen"}
    acme.news()
    ad.next_run().apply(person("ann", title="Chief", mail="ann@acme.test", givenName="Ann"))
    assert acme.document(ann)["title"] == "Queen" and acme.news() == []
    refused(acme, ann, {**acme.document(ann), "title": "Chief"})
    acme.put("User", ann, acme.document(ann))
    acme.put("User", ann, {**acme.document(ann), "title": "Chief"}, pin=True)
    assert acme.row(ann).pins == {} and acme.document(ann)["title"] == "Chief"


def test_pin_of_a_work_address(acme: Tenant, ad: Upstream, ann: str) -> None:
    work = {"value": "queen@acme.test", "type": "work", "primary": True}
    acme.put("User", ann, {**acme.document(ann), "emails": [work]}, pin=True)
    assert acme.document(ann)["emails"] == [work]
    ad.next_run().apply(person("ann", mail="new@acme.test"))
    assert acme.document(ann)["emails"] == [work]


def test_pin_goes_when_nobody_owns_the_value_any_more(acme: Tenant, ad: Upstream, ann: str) -> None:
    acme.put("User", ann, {**acme.document(ann), "title": "Queen"}, pin=True)
    ad.change(attribute_mapping=[{"to": "title", "authority": "never"}])
    ad.next_run().apply(person("ann", title="Clerk"))
    acme.put("User", ann, {**acme.document(ann), "title": "Page"})
    assert acme.document(ann)["title"] == "Page" and acme.row(ann).pins == {}


def test_manager_is_owned_pinned_and_released(acme: Tenant, ad: Upstream) -> None:
    page = [person("boss"), person("ann", manager=dn("boss")), person("bob")]
    ad.apply(*page)
    ann, boss, bob = (ad.resource(f"key-{name}") for name in ("ann", "boss", "bob"))
    document = acme.document(ann)

    def under(id: str | None) -> dict[str, Any]:
        return {**document, ENTERPRISE: {"manager": {"value": id}} if id else {}}

    refused(acme, ann, under(bob))
    refused(acme, ann, under(None), complete=True)
    acme.put("User", ann, under(None))
    assert acme.row(ann).manager_id == boss
    acme.put("User", ann, under(bob), pin=True)
    assert acme.document(ann)[ENTERPRISE]["manager"]["value"] == bob
    ad.next_run().apply(page[0], person("ann", manager=dn("boss"), title="Clerk"), page[2])
    assert acme.row(ann).manager_id == bob
    acme.put("User", ann, {**acme.document(ann), ENTERPRISE: {"manager": {"value": boss}}}, pin=True)
    assert acme.row(ann).pins == {} and acme.row(ann).manager_id == boss


def test_manager_pinned_to_somebody_who_is_removed_is_the_upstreams_again(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("boss"), person("ann", manager=dn("boss")))
    ann, local = ad.resource("key-ann"), acme.user("local")
    acme.put("User", ann, {**acme.document(ann), ENTERPRISE: {"manager": {"value": local}}}, pin=True)
    acme.remove("User", local)
    assert acme.row(ann).manager_id is None and acme.row(ann).pins == {}
    ad.next_run().apply(person("boss"), person("ann", manager=dn("boss"), title="x"))
    assert acme.row(ann).manager_id == ad.resource("key-boss")


def test_manager_and_parent_written_here(acme: Tenant) -> None:
    boss, ann = acme.user("boss"), acme.user("ann")
    acme.put("User", ann, {"userName": "ann", ENTERPRISE: {"manager": {"value": boss}}})
    assert acme.document(ann)[ENTERPRISE] == {"manager": {"value": boss, "$ref": f"../Users/{boss}"}}
    top = acme.create("OrganizationalUnit", displayName="Top")
    low = acme.create("OrganizationalUnit", displayName="Low", parent={"value": top})
    assert acme.document(low)["parent"] == {"value": top, "$ref": f"../OrganizationalUnits/{top}"}
    for wrong in (top, "usr_nobody"):
        with pytest.raises(ValidationFailed):
            acme.put("User", ann, {"userName": "ann", ENTERPRISE: {"manager": {"value": wrong}}})
    acme.news()
    acme.put("User", ann, {"userName": "ann"})
    assert ENTERPRISE not in acme.document(ann) and ENTERPRISE not in acme.document(ann)["schemas"]
    assert [event.changed for event in acme.news()] == [[f"{ENTERPRISE}:manager"]]


def test_local_home_address_stands_beside_the_upstreams_work_address(acme: Tenant, ad: Upstream, ann: str) -> None:
    work = {"value": "ann@acme.test", "type": "work", "primary": True}
    home = {"value": "ann@home.test", "type": "home"}
    acme.put("User", ann, {**acme.document(ann), "emails": [work, home]})
    assert acme.row(ann).local == {"emails": [home]}
    assert sorted(acme.document(ann)["emails"], key=str) == sorted([work, home], key=str)
    acme.news()
    for _ in range(2):
        acme.put("User", ann, acme.document(ann))
        acme.put("User", ann, acme.document(ann), complete=True)
    assert acme.news() == []

    ad.next_run().apply(person("ann", title="Clerk", mail="new@acme.test", givenName="Ann"))
    assert {item["value"] for item in acme.document(ann)["emails"]} == {"new@acme.test", "ann@home.test"}
    acme.put("User", ann, {**acme.document(ann), "emails": [home]})
    assert {item["value"] for item in acme.document(ann)["emails"]} == {"new@acme.test", "ann@home.test"}
    refused(acme, ann, {**acme.document(ann), "emails": [home]}, complete=True)
    acme.put("User", ann, {**acme.document(ann), "emails": []})
    assert acme.document(ann)["emails"] == [{"value": "new@acme.test", "type": "work", "primary": True}]


@pytest.mark.parametrize("order", [1, -1])
def test_second_work_address_is_refused_not_lost(acme: Tenant, ann: str, order: int) -> None:
    both = [{"value": "ann@acme.test", "type": "work"}, {"value": "b@acme.test", "type": "work"}][::order]
    refused(acme, ann, {**acme.document(ann), "emails": both})


def test_partly_owned_address_keeps_what_is_written_here(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann", streetAddress="Elm 1"))
    ann = ad.resource("key-ann")
    [address] = acme.document(ann)["addresses"]
    assert address == {"type": "work", "streetAddress": "Elm 1"}
    written = {**address, "formatted": "Elm 1, Springfield"}
    acme.put("User", ann, {**acme.document(ann), "addresses": [written]})
    assert acme.document(ann)["addresses"] == [written]
    refused(acme, ann, {**acme.document(ann), "addresses": [{**written, "locality": "Shelbyville"}]})
    ad.next_run().apply(person("ann", streetAddress="Elm 2"))
    assert acme.document(ann)["addresses"] == [{**written, "streetAddress": "Elm 2"}]


def test_filled_value_gives_way_to_what_is_written_here(acme: Tenant, ad: Upstream, ann: str) -> None:
    ad.change(attribute_mapping=FILLS)
    ad.next_run().apply(person("ann", info="Annie"))
    assert acme.document(ann)["nickName"] == "Annie"
    acme.put("User", ann, acme.document(ann))
    assert acme.row(ann).local == {}
    ad.next_run().apply(person("ann", info="Nan"))
    assert acme.document(ann)["nickName"] == "Nan"
    acme.put("User", ann, {**acme.document(ann), "nickName": "Queenie"})
    ad.next_run().apply(person("ann", info="Annie"))
    assert acme.document(ann)["nickName"] == "Queenie"
    acme.put("User", ann, {**acme.document(ann), "nickName": None})
    assert acme.document(ann)["nickName"] == "Annie"


def test_filled_typed_value_gives_way_to_a_list_element(acme: Tenant, ad: Upstream) -> None:
    ad.change(attribute_mapping=[{"from": "mail", "to": 'emails[type eq "work"].value', "authority": "fills"}])
    ad.apply(person("ann", mail="ad@acme.test"))
    ann = ad.resource("key-ann")
    home = {"value": "a@home", "type": "home"}
    filled = {"value": "ad@acme.test", "type": "work", "primary": True}
    acme.put("User", ann, {**acme.document(ann), "emails": [filled, home]})
    assert acme.row(ann).local == {"emails": [home]}
    ad.next_run().apply(person("ann", mail="ad2@acme.test"))
    assert {item["value"] for item in acme.document(ann)["emails"]} == {"ad2@acme.test", "a@home"}
    acme.put("User", ann, {**acme.document(ann), "emails": [{"value": "own@acme.test", "type": "work"}, home]})
    ad.next_run().apply(person("ann", mail="ad3@acme.test"))
    assert {item["value"] for item in acme.document(ann)["emails"]} == {"own@acme.test", "a@home"}


def test_higher_upstream_decides_by_saying_nothing_too(acme: Tenant, ad: Upstream, hr: Upstream, ann: str) -> None:
    join(hr, person("ann", key="hr-1", at="1", title="HR title", department="HR department"), ann)
    document = acme.document(ann)
    assert document["title"] == "Clerk" and ENTERPRISE not in document
    assert acme.news() == []


def test_lower_upstream_gives_what_the_higher_leaves_to_others(
    acme: Tenant, ad: Upstream, hr: Upstream, ann: str
) -> None:
    department = f"{ENTERPRISE}:department"
    ad.change(attribute_mapping=[{"to": department, "authority": "never"}])
    hr.change(attribute_mapping=[NICK])
    ad.next_run().apply(person("ann", title="Clerk", department="x"))
    join(hr, person("ann", key="hr-1", at="1", title="HR title", department="Board", info="Annie"), ann)
    document = acme.document(ann)
    assert (document["title"], document["nickName"]) == ("Clerk", "Annie")
    assert document[ENTERPRISE] == {"department": "Board"}
    refused(acme, ann, {**document, "nickName": "x"})


@pytest.mark.parametrize("filler", ["ad", "hr"])
def test_one_that_owns_goes_before_one_that_fills_whatever_their_rank(
    acme: Tenant, ad: Upstream, hr: Upstream, ann: str, filler: str
) -> None:
    (ad if filler == "ad" else hr).change(attribute_mapping=FILLS)
    (hr if filler == "ad" else ad).change(attribute_mapping=[NICK])
    ad.next_run().apply(person("ann", info="of ad"))
    join(hr, person("ann", key="hr-1", at="1", info="of hr"), ann)
    assert acme.document(ann)["nickName"] == ("of hr" if filler == "ad" else "of ad")


def test_of_two_that_fill_the_higher_is_heard(acme: Tenant, ad: Upstream, hr: Upstream, ann: str) -> None:
    ad.change(attribute_mapping=FILLS)
    hr.change(attribute_mapping=FILLS)
    join(hr, person("ann", key="hr-1", at="1", info="of hr"), ann)
    assert acme.document(ann)["nickName"] == "of hr"
    ad.next_run().apply(person("ann", info="of ad"))
    assert acme.document(ann)["nickName"] == "of ad"


def test_changed_rank_is_followed_by_the_next_pass(acme: Tenant, ad: Upstream, hr: Upstream, ann: str) -> None:
    record = person("ann", key="hr-1", at="1", title="HR title")
    join(hr, record, ann)
    hr.change(priority=1)
    assert hr.next_run().apply(record).updated == 1
    assert acme.document(ann)["title"] == "HR title"


def test_manager_is_the_highest_upstreams(acme: Tenant, ad: Upstream, hr: Upstream) -> None:
    ad.apply(person("boss"), person("ann", manager=dn("boss")))
    ann, boss = ad.resource("key-ann"), ad.resource("key-boss")
    join(hr, person("ann", key="hr-1", at="1"), ann)
    assert acme.row(ann).manager_id == boss
    hr.next_run().apply(person("chief", key="hr-2", at="2"), person("ann", key="hr-1", at="1", manager="2"))
    assert acme.row(ann).manager_id == boss


def test_lower_upstream_takes_over_when_the_higher_lets_go(acme: Tenant, ad: Upstream, hr: Upstream) -> None:
    ad.pass_over(person("boss"), person("ann", title="Clerk", manager=dn("boss"), department="Sales"))
    ann = ad.resource("key-ann")
    join(hr, person("chief", key="hr-2", at="2"), ad.resource("key-boss"))
    record = person("anna", key="hr-1", at="1", manager="2", title="HR title")
    join(hr, record, ann)
    assert acme.row(ann).name == "ann"
    acme.news()
    ad.pass_over(person("boss"))
    document = acme.document(ann)
    assert (document["userName"], document["title"]) == ("anna", "HR title") and "department" not in document.get(
        ENTERPRISE, {}
    )
    assert acme.happened() == ["user.updated"]
    hr.next_run().apply(record, person("chief", key="hr-2", at="2"))
    assert acme.row(ann).manager_id == ad.resource("key-boss")


def test_name_left_by_the_higher_upstream_may_be_somebody_elses(acme: Tenant, ad: Upstream, hr: Upstream) -> None:
    acme.user("anna")
    ad.pass_over(person("ann"), person("x"))
    ann = ad.resource("key-ann")
    record = person("anna", key="hr-1", at="1", title="HR title")
    join(hr, record, ann)
    ad.pass_over(person("x"))
    assert acme.row(ann).name == "ann" and acme.document(ann)["title"] == "HR title"
    assert [skip.reason for skip in hr.next_run().apply(record).skips] == ["user_name_taken"]
    acme.remove("User", acme.id("anna"))
    assert hr.next_run().apply(record).skips == []
    assert acme.row(ann).name == "anna"


def test_resource_that_was_here_before_its_upstream_outlives_it(acme: Tenant, ad: Upstream) -> None:
    ann = acme.user("ann", title="Local", nickName="Annie")
    join(ad, person("ann", title="Clerk"), ann)
    assert acme.document(ann)["title"] == "Clerk"
    acme.put("User", ann, acme.document(ann))
    ad.pass_over(person("x"))
    assert acme.row(ann).removed_at is None
    assert acme.document(ann)["title"] == "Local" and acme.document(ann)["nickName"] == "Annie"
    acme.put("User", ann, {"userName": "ann", "title": "Free"})
    acme.remove("User", ann)


def test_resource_an_upstream_has_is_removed_there(acme: Tenant, ad: Upstream) -> None:
    ad.apply(person("ann"), group("staff"), ou("Sales"))
    for resource_type, key in (("User", "ann"), ("Group", "staff"), ("OrganizationalUnit", "Sales")):
        with pytest.raises(OwnedByUpstream) as error:
            acme.remove(resource_type, ad.resource(f"key-{key}"))
        assert error.value.scim_type == "mutability"


def test_local_disable_holds_against_the_upstream(acme: Tenant, ad: Upstream, ann: str) -> None:
    acme.put("User", ann, {**acme.document(ann), "active": False})
    assert [(event.name, event.changed) for event in acme.news()] == [("user.disabled", ["active"])]
    ad.next_run().apply(person("ann", title="Chief"))
    assert acme.document(ann)["active"] is False
    acme.news()
    acme.put("User", ann, {**acme.document(ann), "active": True})
    assert [event.name for event in acme.news()] == ["user.enabled"]
    assert acme.document(ann)["active"] is True


def test_disabled_upstream_is_enabled_there(acme: Tenant, ad: Upstream, ann: str) -> None:
    ad.pass_over(person("ann", title="Clerk", active=False))
    document = acme.document(ann)
    assert document["active"] is False
    refused(acme, ann, {**document, "active": True})
    acme.put("User", ann, document)
    assert not acme.row(ann).disabled
    acme.news()
    ad.next_run().apply(person("ann", title="Clerk"))
    assert acme.document(ann)["active"] is True
    assert [event.name for event in acme.news()] == ["user.enabled"]


def test_person_is_active_when_every_upstream_agrees(acme: Tenant, ad: Upstream, hr: Upstream, ann: str) -> None:
    record = person("ann", key="hr-1", at="1")
    join(hr, record, ann)
    hr.pass_over(person("ann", key="hr-1", at="1", active=False))
    assert not acme.row(ann).active
    ad.next_run().apply(person("ann", title="Chief"))
    assert not acme.row(ann).active
    acme.news()
    hr.pass_over(person("x", key="hr-x", at="x"))
    assert acme.row(ann).active and [event.name for event in acme.news()] == ["user.created", "user.enabled"]


def test_held_disable_of_one_upstream_is_not_done_by_another(
    acme: Tenant, ad: Upstream, hr: Upstream, ann: str
) -> None:
    join(hr, person("ann", key="hr-1", at="1"), ann)
    hr.next_run().apply(person("ann", key="hr-1", at="1", active=False))
    ad.next_run().apply(person("ann", title="Chief"))
    assert acme.row(ann).active
    hr.take_away()
    assert not acme.row(ann).active


def test_values_on_request_are_written_here_and_told(acme: Tenant) -> None:
    ann = acme.user("ann", **{AD_USER: {"thumbnailPhoto": "AAAA", "attributes": [{"name": "x", "values": ["1"]}]}})
    assert AD_USER not in acme.document(ann)
    acme.news()
    acme.put("User", ann, {"userName": "ann", AD_USER: {"thumbnailPhoto": "BBBB"}})
    [told] = acme.news()
    assert told.changed == [f"{AD_USER}:attributes", f"{AD_USER}:thumbnailPhoto"]
    assert acme.row(ann).version == 2 and acme.row(ann).local[f"{AD_USER}:thumbnailPhoto"] == "BBBB"
