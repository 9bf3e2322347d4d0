"""Identity providers: checked when saved, explained when tested, never asked for what an export cannot do."""

from __future__ import annotations

from typing import Any

import pytest

from broker import ids
from broker.db import directory_writes, platform_scope
from broker.models import IdentityProvider, Link, ScimToken
from tests.casting import Caller, Cast, code

PATH = "/identity-providers"


def new(**fields: Any) -> dict[str, Any]:
    return {"kind": "ldap", "name": "Active Directory", **fields}


def make(caller: Caller, **fields: Any) -> dict[str, Any]:
    response = caller.post(PATH, new(**fields))
    assert response.status_code == 201, response.get_data(as_text=True)
    made: dict[str, Any] = response.get_json()
    return made


def test_a_provider_is_made_changed_and_deleted(cast: Cast) -> None:
    provider = make(cast.acme_admin, config={"base_dn": "DC=acme,DC=example"}, priority=5)
    assert provider["config"] == {"base_dn": "DC=acme,DC=example"} and provider["enabled"] and provider["priority"] == 5
    path = f"{PATH}/{provider['id']}"
    changed = cast.acme_admin.patch(path, {"enabled": False, "removal_guard": {"percent": 50}, "name": "AD"})
    assert changed.status_code == 200
    assert changed.get_json()["removal_guard"] == {"percent": 50} and not changed.get_json()["enabled"]
    with platform_scope() as session:
        assert session.query(IdentityProvider).filter_by(id=provider["id"]).one().version == 2
    assert [one["name"] for one in cast.acme_admin.get(f"{PATH}?name=AD").get_json()["items"]] == ["AD"]
    assert cast.acme_admin.delete(path).status_code == 204
    assert code(cast.acme_admin.get(path)) == (404, "not_found")


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"config": {"base_dn": "nonsense"}}, "config"),
        ({"config": {"base_dn": 3}}, "config"),
        ({"config": {"colour": "red"}}, "config"),
        ({"config": []}, "config"),
        ({"priority": "first"}, "priority"),
        ({"removal_guard": {"percent": 101}}, "removal_guard"),
        ({"removal_guard": {"quota": 1}}, "removal_guard"),
        ({"attribute_mapping": [{"from": "mail"}]}, "attribute_mapping.0.to"),
        ({"attribute_mapping": [{"to": []}]}, "attribute_mapping.0.to"),
        ({"attribute_mapping": [{"to": "noSuchAttribute"}]}, "attribute_mapping.0"),
        ({"attribute_mapping": [{"to": "title", "authority": "maybe"}]}, "attribute_mapping.0"),
        ({"secrets": "x"}, "secrets"),
        ({"version": 9}, "version"),
    ],
)
def test_wrong_fields_are_named(cast: Cast, fields: dict[str, Any], wrong: str) -> None:
    refused = cast.acme_admin.post(PATH, new(**fields))
    assert code(refused) == (422, "validation_failed") and list(refused.get_json()["errors"]) == [wrong]


def test_a_mapping_of_the_catalogue_is_kept(cast: Cast) -> None:
    rows = [{"from": "info", "to": "title", "authority": "fills"}]
    assert make(cast.acme_admin, attribute_mapping=rows)["attribute_mapping"] == rows


def test_kinds_and_fields_of_later_versions_are_not_available(cast: Cast) -> None:
    for kind in ("oidc", "entra", "google", "saml"):
        assert code(cast.acme_admin.post(PATH, new(kind=kind))) == (422, "not_available")
    for field in (
        {"sign_in": True},
        {"jit": {"enabled": True}},
        {"linking": "verified_email"},
        {"match": [{"claim": "a", "attribute": "b"}]},
        {"sync": {"schedule": "* * * * *"}},
        {"domains": ["acme.example"]},
    ):
        assert code(cast.acme_admin.post(PATH, new(**field))) == (422, "not_available"), field
    assert make(cast.acme_admin, sign_in=False)["kind"] == "ldap"


def test_the_kind_never_changes_and_names_are_unique_in_a_tenant(cast: Cast) -> None:
    provider = make(cast.acme_admin)
    assert code(cast.acme_admin.patch(f"{PATH}/{provider['id']}", {"kind": "saml"})) == (422, "validation_failed")
    assert code(cast.acme_admin.post(PATH, new())) == (409, "conflict")
    assert make(cast.globex_admin)["name"] == provider["name"]
    other = make(cast.acme_admin, name="Other")
    assert code(cast.acme_admin.patch(f"{PATH}/{other['id']}", {"name": "Active Directory"})) == (409, "conflict")


def test_a_provider_with_linked_records_is_not_deleted(cast: Cast) -> None:
    provider = make(cast.acme_admin)["id"]
    with directory_writes(), platform_scope() as session:
        session.add(
            Link(
                tenant_id=cast.acme.tenant_id,
                provider_id=provider,
                key="k",
                kind="user",
                name="n",
                ref="n",
                digest=b"d",
                quiet_digest=b"q",
            )
        )
    assert code(cast.acme_admin.delete(f"{PATH}/{provider}")) == (409, "conflict")


def test_a_test_gives_a_verdict_per_step(cast: Cast) -> None:
    provider = make(cast.acme_admin)["id"]
    verdict = cast.acme_admin.post(f"{PATH}/{provider}/test").get_json()
    assert verdict["ok"] and [step["name"] for step in verdict["steps"]] == ["settings"]
    with platform_scope() as session:
        session.query(IdentityProvider).filter_by(id=provider).update({"config": {"base_dn": 7}})
    verdict = cast.acme_admin.post(f"{PATH}/{provider}/test").get_json()
    assert not verdict["ok"] and "base_dn" in verdict["steps"][0]["found"] and verdict["steps"][0]["mend"]


def test_an_export_cannot_be_asked_to_sync(cast: Cast) -> None:
    provider = make(cast.acme_admin)["id"]
    for body in (None, {"dry_run": True}):
        assert code(cast.acme_admin.post(f"{PATH}/{provider}/sync", body)) == (422, "not_available")
    assert code(cast.acme_admin.post(f"{PATH}/{ids.new('idp')}/sync")) == (404, "not_found")


def test_strangers_see_no_provider(cast: Cast) -> None:
    path = f"{PATH}/{make(cast.acme_admin)['id']}"
    assert cast.acme_admin.get(path).status_code == 200
    for caller in (cast.globex_admin, cast.person):
        assert code(caller.get(path)) == (404, "not_found")
        assert code(caller.patch(path, {"name": "x"})) == (404, "not_found")
        assert code(caller.delete(path)) == (404, "not_found")
        assert code(caller.post(f"{path}/test")) == (404, "not_found")
        assert code(caller.post(f"{path}/sync")) == (404, "not_found")


def test_a_provider_stays_while_a_token_provisions_for_it(cast: Cast) -> None:
    provider = make(cast.acme_admin, name="Named by a token")
    path = f"{PATH}/{provider['id']}"
    body = {"name": "hr", "identity_provider_id": provider["id"]}
    token = cast.acme_admin.post("/scim-tokens", body).get_json()
    assert code(cast.acme_admin.delete(path)) == (409, "conflict")
    assert cast.acme_admin.delete(f"/scim-tokens/{token['id']}").status_code == 204
    assert cast.acme_admin.delete(path).status_code == 204
    with platform_scope() as session:
        kept = session.query(ScimToken).filter_by(id=token["id"]).one()
        assert kept.revoked_at is not None and kept.identity_provider_id is None
