"""How many resources there are: kept by the database, whoever writes, and never counted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import cast

import pytest
import sqlalchemy as sa
from flask import Flask, current_app

from broker.db import platform_scope
from broker.models import ResourceCount, Tenant

from .conftest import Tenant as Directory
from .conftest import Upstream, person


def kept(acme: Directory, resource_type: str = "User") -> int:
    with acme.open() as session:
        return session.scalar(
            sa.select(sa.func.coalesce(sa.func.sum(ResourceCount.resources), 0)).where(
                ResourceCount.type == resource_type
            )
        )


def rows(acme: Directory) -> int:
    with acme.open() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(ResourceCount))


def test_who_comes_goes_and_comes_back_is_counted(acme: Directory, ad: Upstream) -> None:
    ad.pass_over(*[person(f"p{number}") for number in range(12)])
    acme.group("Staff")
    assert (kept(acme), kept(acme, "Group"), kept(acme, "Agent")) == (12, 1, 0)
    ad.pass_over(*[person(f"p{number}") for number in range(3)])
    assert kept(acme) == len(acme.names()) == 3
    ad.pass_over(*[person(f"p{number}") for number in range(10)])
    assert kept(acme) == len(acme.names()) == 10


def test_a_service_account_is_nobody_and_somebody_who_becomes_one_is_not_counted_any_more(acme: Directory) -> None:
    acme.user("robot", userType="ServiceAccount")
    alice = acme.user("alice")
    assert kept(acme) == 1
    acme.put("User", alice, {"userName": "alice", "userType": "ServiceAccount"})
    assert kept(acme) == 0


def test_what_is_undone_is_not_counted(acme: Directory) -> None:
    with pytest.raises(RuntimeError), acme.directory() as directory:
        directory.create("User", {"userName": "nobody"})
        raise RuntimeError
    assert kept(acme) == 0


def test_many_who_come_at_once_are_all_counted_and_leave_few_rows(acme: Directory) -> None:
    app = cast(Flask, current_app)._get_current_object()

    def come(number: int) -> None:
        with app.app_context():
            for each in range(25):
                acme.user(f"person-{number}-{each}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(come, range(8)))
    assert kept(acme) == len(acme.names()) == 200
    assert rows(acme) < 100, "they are made one now and then"


def test_a_tenant_that_is_deleted_leaves_no_count(acme: Directory) -> None:
    acme.user("alice")
    with platform_scope() as session:
        session.execute(sa.delete(Tenant).where(Tenant.id == acme.scope.tenant_id))
        left = sa.select(sa.func.count()).select_from(ResourceCount)
        assert session.scalar(left.where(ResourceCount.tenant_id == acme.scope.tenant_id)) == 0


def test_resources_deleted_by_hand_are_not_counted_any_more(acme: Directory) -> None:
    alice, _ = acme.user("alice"), acme.user("bob")
    with platform_scope() as session:
        session.execute(
            sa.text("DELETE FROM resources WHERE tenant_id = :tenant AND id = :id"),
            {"tenant": acme.scope.tenant_id, "id": alice},
        )
    assert kept(acme) == 1
