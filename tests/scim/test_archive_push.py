"""A tenant that was moved pushes nobody twice: what a paused target knew comes along, and is gone on from."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from flask import Flask

from broker.context import Scope
from broker.db import platform_scope, unit
from broker.directory import Directory
from broker.models import ArchiveRefusal, ScimTarget
from broker.registry import applications, targets
from scim import push
from scim.archive import export_archive, import_archive
from tests.archives import forget_tenant
from tests.conftest import World, make_world
from tests.receivers import TOKEN, Receiver
from tests.scim.test_push import listening, pushing, receiver

__all__ = ["listening", "pushing", "receiver"]
USER = "urn:ietf:params:scim:schemas:core:2.0:User"


def make_target(scope: Scope, receiver: Receiver, *, paused: bool) -> str:
    with unit(scope):
        application = applications.create({"name": "Wiki", "type": "web"})
        auth = {"method": "bearer", "token": TOKEN}
        values = {"application_id": application.id, "base_url": receiver.base_url, "auth": auth, "scope": "all"}
        made = targets.create(values)
        if paused:
            targets.update(made, {"status": "paused"})
        return made.id


def pushed_once(scope: Scope, receiver: Receiver, path: Path) -> None:
    """Three people and a group of two are at the receiver, and the tenant is in the archive."""
    make_target(scope, receiver, paused=False)
    with unit(scope):
        directory = Directory()
        three = [directory.create("User", {"schemas": [USER], "userName": f"person{n}"}).id for n in range(3)]
        directory.create("Group", {"displayName": "Crowd", "members": [{"value": id} for id in three[:2]]})
    push.drain(20)
    assert (len(receiver.stored["Users"]), len(receiver.stored["Groups"])) == (3, 1)
    export_archive(scope, path)
    with platform_scope() as session:
        session.execute(sa.text("UPDATE scim_targets SET status = 'paused'"))


def resume(scope: Scope, target_id: str) -> None:
    with unit(scope) as session:
        targets.resume(session.get_one(ScimTarget, (scope.tenant_id, target_id)), None)
    push.drain(20)


def writes(receiver: Receiver) -> list[str]:
    return [asked.method for asked in receiver.asked if asked.method != "GET"]


def test_a_tenant_imported_elsewhere_sends_nothing_again(
    pushing: Flask, world: World, receiver: Receiver, tmp_path: Path
):
    path = tmp_path / "acme.ndjson"
    pushed_once(world.acme, receiver, path)
    forget_tenant(world.acme)
    elsewhere = make_world().acme
    target = make_target(elsewhere, receiver, paused=True)
    run = import_archive(elsewhere, path)
    assert (run.status, run.refused) == ("done", 0)
    receiver.asked.clear()
    resume(elsewhere, target)
    assert writes(receiver) == []
    again = import_archive(elsewhere, path)
    assert (again.created, again.refused) == (0, 7), "what a target knows is its own once it sends"
    with unit(elsewhere):
        Directory().create("User", {"schemas": [USER], "userName": "newcomer"})
    push.drain(20)
    assert writes(receiver) == ["POST"]


def test_with_ids_given_anew_accounts_are_updated_and_none_is_made(
    pushing: Flask, world: World, receiver: Receiver, tmp_path: Path
):
    path = tmp_path / "acme.ndjson"
    pushed_once(world.acme, receiver, path)
    before = set(receiver.stored["Users"]) | set(receiver.stored["Groups"])
    target = make_target(world.globex, receiver, paused=True)
    assert import_archive(world.globex, path).refused == 0
    receiver.asked.clear()
    resume(world.globex, target)
    assert set(receiver.stored["Users"]) | set(receiver.stored["Groups"]) == before
    assert "POST" not in writes(receiver) and "DELETE" not in writes(receiver)


def test_a_target_that_is_not_paused_takes_nothing_over(
    pushing: Flask, world: World, receiver: Receiver, tmp_path: Path
):
    path = tmp_path / "acme.ndjson"
    pushed_once(world.acme, receiver, path)
    run = import_archive(world.globex, path)
    assert (run.status, run.refused) == ("done", 1 + 4 + 2)
    with unit(world.globex) as session:
        [told] = session.scalars(sa.select(ArchiveRefusal).where(ArchiveRefusal.run_id == run.id)).all()
        assert (told.line, told.path) == (2, "/base_url") and "no paused target" in told.detail
