"""A group's name is one group's, by SCIM and where the tenant wants it so."""

from __future__ import annotations

import threading

import pytest
from flask import Flask

from broker import settings
from broker.context import acting, system
from broker.db import unit
from broker.directory import Directory
from tests.conftest import World
from tests.scim.conftest import Scim, token_of
from tests.scim.test_server import refused


def test_a_name_that_another_group_has_is_refused(acme: Scim, globex: Scim) -> None:
    first, second = acme.group("Wizards"), acme.group("Others")
    rename = {"op": "replace", "path": "displayName", "value": "WIZARDS"}
    refused(acme.post("/Groups", {"displayName": "wizards"}), 409, "uniqueness")
    refused(acme.put(f"/Groups/{second}", {"displayName": "Wizards"}), 409, "uniqueness")
    refused(acme.patch(f"/Groups/{second}", rename), 409, "uniqueness")
    assert acme.patch(f"/Groups/{first}", rename).json["displayName"] == "WIZARDS"
    assert acme.put(f"/Groups/{first}", {"displayName": "wizards"}).status_code == 200
    assert globex.group("Wizards")
    assert acme.delete(f"/Groups/{first}").status_code == 204
    assert acme.patch(f"/Groups/{second}", rename).status_code == 200
    acme.user("wizards")
    acme.make("/OrganizationalUnits", displayName="Wizards")


def test_a_tenant_may_allow_groups_of_one_name(acme: Scim, world: World) -> None:
    with acting(system("tests")), unit(world.acme):
        settings.change(world.acme, {"scim_unique_group_names": False})
    assert acme.group("Wizards") != acme.group("Wizards")


def test_groups_that_did_not_come_by_scim_keep_their_names(acme: Scim, world: World) -> None:
    with acting(system("tests")), unit(world.acme):
        twins = [Directory().create("Group", {"displayName": "Twins"}).id for _ in range(2)]
    for id in twins:
        assert acme.put(f"/Groups/{id}", {"displayName": "twins", "externalId": id}).status_code == 200
    refused(acme.post("/Groups", {"displayName": "Twins"}), 409, "uniqueness")


@pytest.mark.parametrize("way", ["create", "rename"])
def test_of_many_who_take_a_name_at_once_one_has_it(web: Flask, acme: Scim, world: World, way: str) -> None:
    groups = [acme.group(f"g{number}") for number in range(6)]
    answers: list[int] = []
    together = threading.Barrier(6)

    def take(number: int) -> None:
        client = Scim(web, acme.slug, token_of(world.acme))
        together.wait(30)
        if way == "create":
            answers.append(client.post("/Groups", {"displayName": "One"}).status_code)
        else:
            change = {"op": "replace", "value": {"displayName": "One"}}
            answers.append(client.patch(f"/Groups/{groups[number]}", change).status_code)

    def taking(number: int) -> None:
        with web.app_context():
            take(number)

    threads = [threading.Thread(target=taking, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [201 if way == "create" else 200, *[409] * 5]
    assert len(acme.names("/Groups", filter='displayName eq "one"')) == 1
