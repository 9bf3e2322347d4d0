"""Names made by clients and token names of groups: unique, folded, suffixed, for ever."""

from __future__ import annotations

from collections.abc import Callable
from threading import Barrier, Thread

import pytest
import sqlalchemy as sa
from flask import Flask

from broker.db import platform_scope
from broker.errors import Conflict, LimitExceeded, NotFound, PreconditionFailed, ValidationFailed
from broker.models import Partner

from .conftest import Tenant, Upstream, dn, group


def at_once(app: Flask, work: Callable[[int], object], count: int) -> list[Exception]:
    """Do the work `count` times in parallel; returns what it raised."""
    raised: list[Exception] = []
    start = Barrier(count)

    def one(number: int) -> None:
        with app.app_context():
            start.wait(10)
            try:
                work(number)
            except Exception as error:
                raised.append(error)

    threads = [Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return raised


def limit(tenant: Tenant, users: int) -> None:
    with platform_scope() as session:
        session.execute(
            sa.update(Partner).where(Partner.id == tenant.scope.partner_id).values(max_users_per_tenant=users)
        )


def test_parallel_creates_of_one_name_make_one_user(acme: Tenant, app: Flask) -> None:
    raised = at_once(app, lambda n: acme.user("ann" if n % 2 else "ANN"), 6)
    assert [type(error) for error in raised] == [Conflict] * 5
    assert {error.scim_type for error in raised if isinstance(error, Conflict)} == {"uniqueness"}
    assert len(acme.names()) == 1
    assert acme.happened() == ["user.created"]


def test_parallel_renames_to_one_name_leave_one(acme: Tenant, app: Flask) -> None:
    ids = [acme.user(f"p{n}") for n in range(4)]
    raised = at_once(app, lambda n: acme.put("User", ids[n], {"userName": "same"}), 4)
    assert [type(error) for error in raised] == [Conflict] * 3
    assert acme.names().count("same") == 1


def test_parallel_creates_stay_within_the_limit(acme: Tenant, app: Flask) -> None:
    limit(acme, 3)
    raised = at_once(app, lambda n: acme.user(f"p{n}"), 6)
    assert [type(error) for error in raised] == [LimitExceeded] * 3
    assert raised[0].args[0].startswith("max_users_per_tenant")
    assert len(acme.names()) == 3


def test_service_accounts_and_groups_need_no_room(acme: Tenant) -> None:
    limit(acme, 1)
    acme.user("robot", userType="ServiceAccount")
    acme.group("staff")
    ann = acme.user("ann")
    with pytest.raises(LimitExceeded):
        acme.user("bob")
    with pytest.raises(LimitExceeded):
        acme.put("User", acme.id("robot"), {"userName": "robot"})
    acme.remove("User", ann)
    acme.put("User", acme.id("robot"), {"userName": "robot"})


def test_user_names_are_compared_folded(acme: Tenant, globex: Tenant) -> None:
    acme.user("Straße@acme.test")
    with pytest.raises(Conflict) as refused:
        acme.user("STRASSE@acme.test")
    assert refused.value.scim_type == "uniqueness"
    globex.user("Straße@acme.test")


def test_own_name_may_be_respelt(acme: Tenant) -> None:
    id = acme.user("ann")
    acme.put("User", id, {"userName": "ANN"})
    assert acme.row(id).name == "ANN"


def test_disabled_user_keeps_the_name_a_removed_one_frees_it(acme: Tenant) -> None:
    id = acme.user("ann")
    acme.put("User", id, {"userName": "ann", "active": False})
    with pytest.raises(Conflict):
        acme.user("ann")
    acme.remove("User", id)
    with pytest.raises(NotFound):
        acme.remove("User", id)
    assert acme.user("ann") != id


@pytest.mark.parametrize(
    ("resource_type", "document"),
    [
        ("User", {}),
        ("User", {"userName": " "}),
        ("User", {"userName": "x" * 501}),
        ("User", {"userName": "\ufdfa" * 500}),
        ("User", {"userName": "a\x00"}),
        ("User", {"userName": "a", "title": "\x00"}),
        ("User", {"userName": "a", "emails": [{"value": "\x00", "type": "work"}]}),
        ("User", {"userName": "a", "externalId": "й" * 1_001}),
        ("Group", {"displayName": None}),
        ("Group", {"displayName": "\U00010400" * 501}),
        ("OrganizationalUnit", {"displayName": ""}),
    ],
)
def test_values_that_cannot_be_are_refused(acme: Tenant, resource_type: str, document: dict[str, object]) -> None:
    with pytest.raises(ValidationFailed) as refused:
        acme.create(resource_type, **document)
    assert refused.value.scim_type == "invalidValue"


def test_longest_names_are_taken(acme: Tenant) -> None:
    name = "\U00010400" * 500
    id = acme.user(name, displayName=name * 3, externalId="й" * 1_000, title=r"a\u0000")
    acme.group(name)
    acme.create("OrganizationalUnit", displayName=name)
    assert acme.row(id).name == name and acme.document(id)["title"] == r"a\u0000"
    long = [{"value": "й" * 600 + "@x", "type": "t" * 5_000}, {"value": "a@x", "type": "t" * 5_000}]
    acme.put("User", id, {"userName": name, "emails": long})
    assert acme.document(id)["emails"] == long


def test_replace_and_remove_honour_the_version(acme: Tenant) -> None:
    id = acme.user("ann")
    acme.put("User", id, {"userName": "anna"}, if_match=1)
    with pytest.raises(PreconditionFailed):
        acme.put("User", id, {"userName": "anne"}, if_match=1)
    with pytest.raises(PreconditionFailed):
        acme.remove("User", id, if_match=1)
    acme.remove("User", id, if_match=2)


def test_resources_are_found_by_their_own_type_alone(acme: Tenant, globex: Tenant) -> None:
    id = acme.user("ann")
    with pytest.raises(NotFound):
        acme.put("Group", id, {"displayName": "ann"})
    with pytest.raises(NotFound):
        acme.remove("Group", id)
    with pytest.raises(NotFound):
        globex.put("User", id, {"userName": "ann"})
    with pytest.raises(NotFound):
        globex.remove("User", id)


def tokens(tenant: Tenant, *ids: str) -> list[str | None]:
    return [tenant.row(id).token_name for id in ids]


def test_token_names_are_plain_and_suffixed(acme: Tenant) -> None:
    names = ["Sales & Support", "sales   support", "Sales-Support", "Ärzte_1.2", "—", "///", "sales-support-2"]
    assert tokens(acme, *(acme.group(name) for name in names)) == [
        "sales-support",
        "sales-support-2",
        "sales-support-3",
        "ärzte_1.2",
        "group",
        "group-2",
        "sales-support-2-2",
    ]


def test_token_name_outlives_its_group_and_any_renaming(acme: Tenant) -> None:
    id = acme.group("staff")
    acme.put("Group", id, {"displayName": "crew"})
    assert tokens(acme, id) == ["staff"]
    acme.remove("Group", id)
    assert tokens(acme, acme.group("staff"), acme.group("crew")) == ["staff-2", "crew"]


def test_token_names_of_a_page_are_chosen_with_one_question(acme: Tenant, ad: Upstream) -> None:
    acme.group("staff")
    acme.group("staff-3")
    ad.apply(*(group("Staff", key=str(n), at=dn(f"g{n}")) for n in range(4)))
    found = tokens(acme, *(ad.resource(str(n)) for n in range(4)))
    assert found == ["staff-2", "staff-4", "staff-5", "staff-6"]


def test_long_token_names_are_cut_and_stay_apart(acme: Tenant) -> None:
    one, two = acme.group("й" * 300), acme.group("й" * 400)
    assert tokens(acme, one, two) == ["й" * 120, "й" * 120 + "-2"]


def test_parallel_groups_of_one_name_get_token_names_of_their_own(acme: Tenant, app: Flask) -> None:
    assert at_once(app, lambda n: acme.group("staff"), 6) == []
    with acme.open() as session:
        found = session.scalars(sa.text("SELECT token_name FROM resources WHERE type = 'Group'"))
        assert sorted(found) == ["staff", "staff-2", "staff-3", "staff-4", "staff-5", "staff-6"]


def test_clients_cannot_write_a_token_name(acme: Tenant) -> None:
    urn = "urn:scaikey:params:scim:schemas:extension:scaikey:1.0:Group"
    id = acme.create("Group", displayName="staff", **{urn: {"tokenName": "root"}})
    assert tokens(acme, id) == ["staff"]
    acme.news()
    acme.put("Group", id, {"displayName": "staff", urn: {"tokenName": "root"}})
    assert tokens(acme, id) == ["staff"] and acme.news() == []
