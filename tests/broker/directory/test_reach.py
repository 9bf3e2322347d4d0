"""Effective groups and members through nesting and cycles, in both directions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import sqlalchemy as sa

from broker.directory.reach import groups_above, members_below
from broker.models import Group, User

from .conftest import Tenant, Upstream, dn, group, person


def above(tenant: Tenant, *members: str) -> set[tuple[str, str]]:
    with tenant.open() as session:
        closure = groups_above(str(tenant.scope.tenant_id), members)
        return {(start, id) for start, id in session.execute(sa.select(closure))}


def below(tenant: Tenant, *groups: str) -> set[tuple[str, str]]:
    with tenant.open() as session:
        closure = members_below(str(tenant.scope.tenant_id), groups)
        return {(start, id) for start, id in session.execute(sa.select(closure))}


def nest(tenant: Tenant, *names: str) -> Sequence[str]:
    """Groups of which each is a member of the next."""
    ids = [tenant.group(name) for name in names]
    for inner, outer in pairwise(ids):
        tenant.change(outer, add=[inner])
    return ids


def test_people_are_in_the_groups_their_groups_are_in(acme: Tenant) -> None:
    ann, bob = acme.user("ann"), acme.user("bob")
    a, b, c = nest(acme, "a", "b", "c")
    acme.change(a, add=[ann])
    acme.change(c, add=[bob])
    assert above(acme, ann, bob) == {(ann, a), (ann, b), (ann, c), (bob, c)}
    assert below(acme, b, c) == {(b, a), (b, ann), (c, a), (c, b), (c, ann), (c, bob)}
    assert above(acme) == set()


def test_cycles_end(acme: Tenant) -> None:
    ann = acme.user("ann")
    ring = nest(acme, "a", "b", "c")
    acme.change(ring[0], add=[ring[2], ann])
    assert above(acme, ann) == {(ann, id) for id in ring}
    assert below(acme, ring[1]) == {(ring[1], id) for id in (*ring, ann)}


def test_primary_groups_and_unresolved_members_are_minded(acme: Tenant, ad: Upstream) -> None:
    ad.apply(
        group("users", alias="S-1"),
        group("outer", dn("users", "OU=Groups"), dn("nobody")),
        person("ann", primary_group="S-1"),
    )
    ann, users, outer = (ad.resource(f"key-{name}") for name in ("ann", "users", "outer"))
    assert above(acme, ann) == {(ann, users), (ann, outer)}
    assert below(acme, outer) == {(outer, users), (outer, ann)}


def test_many_ways_to_a_group_count_once(acme: Tenant) -> None:
    ann, top = acme.user("ann"), acme.group("top")
    for name in "abc":
        acme.change(top, add=[acme.group(name, ann)])
    acme.change(top, add=[ann])
    assert len(above(acme, ann)) == 4


def test_removed_groups_lead_nowhere(acme: Tenant) -> None:
    ann = acme.user("ann")
    a, b, c = nest(acme, "a", "b", "c")
    acme.change(a, add=[ann])
    acme.remove("Group", b)
    assert above(acme, ann) == {(ann, a)} and below(acme, c) == set()


def test_starts_may_be_a_query(acme: Tenant) -> None:
    ann = acme.user("ann")
    nest(acme, "a", "b")
    acme.change(acme.id("a"), add=[ann])
    with acme.open() as session:
        tenant = str(acme.scope.tenant_id)
        up = groups_above(tenant, sa.select(User.id).where(User.name == "ann"))
        down = members_below(tenant, sa.select(Group.id).where(Group.name == "b"))
        assert len(session.execute(sa.select(up)).all()) == 2
        found = sa.select(User.name).join(down, down.c.id == User.id)
        assert session.scalars(found).all() == ["ann"]


def test_other_tenants_memberships_are_not_walked(acme: Tenant, globex: Tenant) -> None:
    ann = acme.user("ann")
    acme.group("staff", ann)
    with globex.open() as session:
        for tenant in (acme, globex):
            closure = groups_above(str(tenant.scope.tenant_id), [ann])
            assert session.execute(sa.select(closure)).all() == []
