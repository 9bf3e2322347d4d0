"""Agents over SCIM: resources of their own, found by name, owned by people, nobody's users."""

from __future__ import annotations

import sqlalchemy as sa

from broker.attributes import AGENT
from broker.db import unit
from broker.models import Delivery, Event
from tests.conftest import World
from tests.scim.conftest import Scim


def told(world: World, id: str) -> list[str]:
    with unit(world.acme) as session:
        found = session.scalars(sa.select(Event.name).where(Event.resource_id == id).order_by(Event.no))
        return list(found)


def test_an_agent_is_made_found_changed_and_removed(acme: Scim, world: World) -> None:
    ada = acme.user("ada")
    made = acme.make(
        "/Agents", agentUserName="Scribe", displayName="The scribe", description="Writes.", owners=[{"value": ada}]
    )
    base = made["meta"]["location"].rpartition("/Agents/")[0]
    assert made["schemas"] == [AGENT] and made["active"] is True
    assert made["id"].startswith("agt_") and made["meta"]["resourceType"] == "Agent"
    assert made["owners"] == [{"value": ada, "$ref": f"{base}/Users/{ada}"}]
    for text in (
        'agentUserName eq "SCRIBE"',
        f'owners.value eq "{ada}"',
        f'owners[value eq "{ada}"]',
        "active eq true",
    ):
        found = acme.app.test_client().get(
            f"/scim/v2/{acme.slug}/Agents",
            query_string={"filter": text},
            headers={"Authorization": f"Bearer {acme.token}"},
        )
        assert [each["id"] for each in found.json["Resources"]] == [made["id"]], text
    path = f"/Agents/{made['id']}"
    changed = acme.patch(
        path, {"op": "replace", "path": "active", "value": False}, {"op": "add", "path": "displayName", "value": "S"}
    )
    assert (changed.json["active"], changed.json["displayName"]) == (False, "S")
    assert acme.get(path, If_None_Match=changed.headers["ETag"]).status_code == 304
    assert acme.delete(path, If_Match='W/"99"').status_code == 412
    assert acme.put(path, {"agentUserName": "scribe-2", "active": True}).json.get("owners") is None
    assert acme.delete(path).status_code == 204
    assert acme.get(path).status_code == 404
    assert told(world, made["id"]) == [
        "agent.created", "agent.disabled", "write.refused", "agent.enabled", "agent.removed",
    ]  # fmt: skip


def test_the_name_of_an_agent_is_its_own_until_it_is_gone(acme: Scim, globex: Scim) -> None:
    acme.user("scribe")
    first = acme.make("/Agents", agentUserName="scribe")["id"]
    refused = acme.post("/Agents", {"agentUserName": "SCRIBE"})
    assert (refused.status_code, refused.json["scimType"]) == (409, "uniqueness")
    other = acme.make("/Agents", agentUserName="clerk")["id"]
    assert (
        acme.patch(f"/Agents/{other}", {"op": "replace", "path": "agentUserName", "value": "Scribe"}).status_code == 409
    )
    globex.make("/Agents", agentUserName="scribe")
    assert acme.delete(f"/Agents/{first}").status_code == 204
    again = acme.make("/Agents", agentUserName="scribe")["id"]
    assert again != first


def test_the_name_of_a_person_is_free_when_the_person_is_gone(acme: Scim) -> None:
    first = acme.user("ada")
    assert acme.post("/Users", {"userName": "ADA"}).status_code == 409
    assert acme.delete(f"/Users/{first}").status_code == 204
    assert acme.user("Ada") != first


def test_an_agent_known_by_the_other_draft_s_name_is_called_by_it(acme: Scim) -> None:
    made = acme.make("/Agents", name="Scribe")
    assert (made["name"], made["agentUserName"]) == ("Scribe", "Scribe")
    assert acme.post("/Agents", {"displayName": "nameless"}).status_code == 400


def test_an_owner_who_is_removed_is_shown_no_more(acme: Scim, world: World) -> None:
    ada, bob = acme.user("ada"), acme.user("bob")
    agent = acme.make("/Agents", agentUserName="scribe", owners=[{"value": ada}, {"value": bob}, {"value": ada}])
    assert [owner["value"] for owner in agent["owners"]] == [ada, bob]
    assert acme.delete(f"/Users/{ada}").status_code == 204
    after = acme.get(f"/Agents/{agent['id']}")
    assert [owner["value"] for owner in after.json["owners"]] == [bob]
    assert after.headers["ETag"] != agent["meta"]["version"]
    assert acme.names("/Agents", filter=f'owners.value eq "{ada}"') == []
    removal = acme.patch(f"/Agents/{agent['id']}", {"op": "remove", "path": f'owners[value eq "{bob}"]'})
    assert "owners" not in removal.json
    assert told(world, agent["id"]) == ["agent.created", "agent.updated", "agent.updated"]


def test_owners_are_people_of_the_tenant(acme: Scim, globex: Scim) -> None:
    strangers = (globex.user("ada"), acme.group("staff"), "usr_none", "")
    for id in strangers:
        refused = acme.post("/Agents", {"agentUserName": "scribe", "owners": [{"value": id}]})
        assert (refused.status_code, refused.json["scimType"]) == (400, "invalidValue"), id
    assert acme.get("/Agents").json["totalResults"] == 0


def test_agents_are_not_users_and_not_pushed(acme: Scim, globex: Scim, world: World) -> None:
    agent = acme.make("/Agents", agentUserName="scribe")["id"]
    assert acme.get("/Users").json["totalResults"] == 0
    assert acme.get(f"/Users/{agent}").status_code == 404
    assert globex.get(f"/Agents/{agent}").status_code == 404
    assert "members" not in acme.make("/Groups", displayName="staff", members=[{"value": agent}])
    with unit(world.acme) as session:
        assert session.scalars(sa.select(Delivery.resource_id)).all() == []


def test_agents_are_announced(acme: Scim) -> None:
    types = {one["name"]: one for one in acme.get("/ResourceTypes").json["Resources"]}
    assert (types["Agent"]["endpoint"], types["Agent"]["schema"]) == ("/Agents", AGENT)
    attributes = {one["name"]: one for one in acme.get(f"/Schemas/{AGENT}").json["attributes"]}
    assert attributes["agentUserName"]["required"] and attributes["agentUserName"]["uniqueness"] == "server"
