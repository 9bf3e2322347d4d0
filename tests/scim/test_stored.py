"""What is stored and goes out as bytes is what scim2-models would have made of it, for a real directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import scim2_models as scim
from flask import Flask

from broker.attributes import AD_GROUP, AD_USER, ENTERPRISE
from broker.db import hot
from scim import reading
from scim.resources import Projection, projection
from scim.schemas import ENDPOINTS, MODELS, RESOURCE_TYPES
from tests.conftest import DATA, make_provider, make_world
from tests.directories import Upstream
from tests.scim.conftest import Scim, admin_token_of, token_of

BASE = "https://scaikey.example/scim/v2/acme"


DIRECTORY_TYPES = tuple(name for name in RESOURCE_TYPES if name != "Agent")
"""Agents come from no directory."""


@pytest.fixture(scope="module")
def samba(engines: Flask, tmp_path_factory: pytest.TempPathFactory) -> Upstream:
    """A tenant that holds the export of a real Active Directory."""
    with engines.app_context():
        world = make_world()
        upstream = Upstream(world.acme, make_provider(world.acme), Path(tmp_path_factory.mktemp("samba")))
        upstream.read(DATA / "acme.ldif")
    return upstream


def stored(upstream: Upstream, wanted: Projection) -> list[dict[str, Any]]:
    tenant = upstream.scope.tenant_id
    assert tenant is not None
    found: list[dict[str, Any]] = []
    while True:
        page = reading.page(hot, tenant, BASE, wanted, start=len(found) + 1, count=500)
        found += [orjson.loads(each) for each in page.resources]
        if len(found) == page.total:
            return found


@pytest.mark.parametrize("resource_type", DIRECTORY_TYPES)
def test_every_stored_resource_is_what_its_model_says(app: Flask, samba: Upstream, resource_type: str) -> None:
    resources = stored(samba, Projection(resource_type))
    assert len(resources) > {"User": 1_000, "Group": 50, "OrganizationalUnit": 5}[resource_type]
    for resource in resources:
        model = MODELS[resource_type].model_validate(resource, scim_ctx=scim.Context.RESOURCE_QUERY_RESPONSE)
        said = model.model_dump(scim_ctx=scim.Context.RESOURCE_QUERY_RESPONSE)
        assert {**said, "schemas": sorted(said["schemas"])} == {**resource, "schemas": sorted(resource["schemas"])}


@pytest.mark.parametrize("resource_type", DIRECTORY_TYPES)
def test_what_is_shown_on_request_fits_the_model_too(app: Flask, samba: Upstream, resource_type: str) -> None:
    urn = {"User": f"{AD_USER}:", "Group": f"{AD_GROUP}:", "OrganizationalUnit": ""}[resource_type]
    names = ("thumbnailPhoto", "userCertificate", "memberOfDN", "lastLogonTimestamp", "uSNChanged", "attributes")
    asked = projection(resource_type, ",".join(f"{urn}{name}" for name in names), None)
    seen: set[str] = set()
    for resource in stored(samba, asked):
        MODELS[resource_type].model_validate(resource)
        seen |= resource.get(urn.rstrip(":"), resource).keys()
    assert seen >= {"attributes", *({"thumbnailPhoto", "memberOfDN"} if resource_type == "User" else ())}


def test_an_owned_value_is_changed_only_by_a_pin(web: Flask, app: Flask, samba: Upstream) -> None:
    assert samba.scope.slug is not None
    token = Scim(web, samba.scope.slug, token_of(samba.scope))
    admin = Scim(web, samba.scope.slug, admin_token_of(samba.scope, "tenant_admin", samba.scope.tenant_id))
    user = next(each for each in stored(samba, Projection("User")) if each.get(ENTERPRISE, {}).get("department"))
    path = f"/Users/{user['id']}"
    department = {"op": "replace", "path": f"{ENTERPRISE}:department", "value": "Other"}
    refused = token.patch(path, department)
    assert (refused.status_code, refused.json["scimType"]) == (400, "mutability")
    assert token.delete(path).json["scimType"] == "mutability"
    changed = token.patch(path, {"op": "add", "path": "nickName", "value": "Nick"})
    assert changed.status_code == 200 and changed.json["nickName"] == "Nick"
    same = {**user, "nickName": "Nick2"}
    for name in ("id", "meta", "groups"):
        same.pop(name, None)
    assert token.put(path, same).json["nickName"] == "Nick2"
    kept = token.put(path, {"userName": user["userName"]}).json
    assert "nickName" not in kept and kept[ENTERPRISE]["department"] == user[ENTERPRISE]["department"]
    assert token.put(f"{path}?pin=true", same).status_code == 403
    pinned = admin.call("PATCH", f"{path}?pin=true", {"Operations": [department]})
    assert pinned.json[ENTERPRISE]["department"] == "Other"


def test_members_an_upstream_gives_stay(web: Flask, app: Flask, samba: Upstream) -> None:
    assert samba.scope.slug is not None
    token = Scim(web, samba.scope.slug, token_of(samba.scope))
    group = next(each for each in stored(samba, Projection("Group")) if 2 < len(each.get("members", ())) < 100)
    given = {each["value"] for each in group["members"]}
    path = f"/{ENDPOINTS['Group']}/{group['id']}"
    mine = token.user("mine-alone")
    assert token.patch(path, {"op": "add", "path": "members", "value": [{"value": mine}]}).status_code == 200
    taken = token.patch(path, {"op": "remove", "path": f'members[value eq "{min(given)}"]'})
    assert (taken.status_code, taken.json["scimType"]) == (400, "mutability")
    assert token.patch(path, {"op": "replace", "path": "members", "value": []}).json["scimType"] == "mutability"
    left = token.put(path, {"displayName": group["displayName"]})
    assert {each["value"] for each in left.json["members"]} == given
