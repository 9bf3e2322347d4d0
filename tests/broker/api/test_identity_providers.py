"""Identity providers: checked when saved, explained when tested, never asked for what an export cannot do."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from broker import ids
from broker.attributes import CUSTOM
from broker.db import db, directory_writes, platform_scope
from broker.models import IdentityProvider, Link, ScimToken
from broker.registry import providers
from connectors import kinds
from connectors.egress import Egress
from connectors.port import Page, Step, setting
from tests import issuer
from tests.casting import Caller, Cast, code, give_role, make_group, make_user
from tests.issuer import CLIENT, SECRET

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
        ({"config": {"base_dn": "nonsense"}}, "config.base_dn"),
        ({"config": {"base_dn": 3}}, "config.base_dn"),
        ({"config": {"colour": "red"}}, "config.colour"),
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


def test_a_mapping_may_fill_what_the_tenant_has_declared_as_it_is_declared(cast: Cast) -> None:
    own = {"name": "level", "type": "integer"}, {"name": "size", "canonical_values": ["small"]}, {"name": "at"}
    for declared in own:
        assert cast.acme_admin.post("/custom-attributes", {"type": "string", **declared}).status_code == 201
    level, size, at = (f"{CUSTOM['User']}:{declared['name']}" for declared in own)
    rows: list[dict[str, Any]] = [
        {"from": "grade", "to": level, "default": 1},
        {"from": "size", "to": size, "default": "Small", "authority": "fills"},
        {"from": "l", "to": at, "transform": {"name": "lower"}},
    ]
    assert make(cast.acme_admin, attribute_mapping=rows)["attribute_mapping"] == rows
    wrong = [
        {"from": "x", "to": f"{CUSTOM['User']}:nowhere"},
        {"from": "x", "to": f"{CUSTOM['Group']}:level"},
        {"from": "x", "to": level, "default": "1"},
        {"from": "x", "to": level, "transform": {"name": "upper"}},
        {"from": "x", "to": size, "default": "medium"},
        {"to": level, "transform": {"name": "constant", "args": {"value": "1"}}},
    ]
    for row in wrong:
        refused = cast.acme_admin.post(PATH, new(name="Other", attribute_mapping=[row]))
        assert code(refused) == (422, "validation_failed"), row
        assert list(refused.get_json()["errors"]) == ["attribute_mapping.0"]


def test_kinds_and_fields_of_later_versions_are_not_available(cast: Cast) -> None:
    for kind in ("entra", "google", "saml"):
        assert code(cast.acme_admin.post(PATH, new(kind=kind))) == (422, "not_available")
    for field in (
        {"sign_in": True},
        {"jit": {"enabled": True}},
        {"linking": "verified_email"},
        {"match": [{"claim": "email", "attribute": "emails"}]},
        {"sync": {"enabled": True, "schedule": "* * * * *"}},
        {"domains": ["acme.example"]},
    ):
        assert code(cast.acme_admin.post(PATH, new(**field))) == (422, "not_available"), field
    assert make(cast.acme_admin, sign_in=False)["kind"] == "ldap"


def oidc(issuer: str = "https://login.example.com", **fields: Any) -> dict[str, Any]:
    config = {"issuer": issuer, "client_id": CLIENT, "client_secret": SECRET, **fields.pop("config", {})}
    return new(**{"kind": "oidc", "name": "Login", "config": config, **fields})


def test_how_people_sign_in_is_kept(cast: Cast) -> None:
    directory = make(cast.acme_admin)["id"]
    token = cast.acme_admin.post("/scim-tokens", {"name": "hr"}).get_json()["id"]
    group = make_group(cast.acme)
    asked = {
        "sign_in": True,
        "domains": ["ACME.example.", "bücher.example", "acme.example"],
        "jit": {"enabled": True, "groups": [group]},
        "linking": "verified_email",
        "match": [{"claim": "upn", "attribute": "userPrincipalName"}, {"claim": "email", "attribute": "emails"}],
        "match_within": [directory, token],
    }
    provider = make(cast.acme_admin, **oidc(**asked))
    kept = {**asked, "domains": ["acme.example", "xn--bcher-kva.example"]}
    assert {name: provider[name] for name in asked} == kept
    path = f"{PATH}/{provider['id']}"
    assert cast.acme_admin.patch(path, {"jit": {"enabled": False}}).get_json()["jit"] == {
        "enabled": False,
        "groups": [],
    }
    assert cast.acme_admin.patch(path, {"match": [], "match_within": []}).status_code == 200
    assert code(cast.acme_admin.patch(path, {"match": asked["match"]})) == (422, "validation_failed")


def test_a_provider_lets_nobody_in_unless_told_to(cast: Cast) -> None:
    provider = make(cast.acme_admin, **oidc())
    assert (provider["sign_in"], provider["linking"], provider["jit"]) == (
        False,
        "never",
        {"enabled": False, "groups": []},
    )


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"sign_in": "yes"}, "sign_in"),
        ({"domains": ["nonsense"]}, "domains"),
        ({"domains": ["a.example"] * 101}, "domains"),
        ({"domains": "acme.example"}, "domains"),
        ({"jit": {"enabled": 1}}, "jit.enabled"),
        ({"jit": {"groups": ["grp_x"]}}, "jit.groups"),
        ({"jit": {"groups": [5]}}, "jit.groups.0"),
        ({"jit": {"role": "tenant_admin"}}, "jit.role"),
        ({"linking": "always"}, "linking"),
        ({"match": [{"claim": "email"}]}, "match.0.attribute"),
        ({"match": [{"claim": "email", "attribute": "active"}]}, "match.0"),
        ({"match": [{"claim": "email", "attribute": "emails"}]}, "match_within"),
        ({"match_within": ["idp_x"]}, "match_within"),
        ({"config": {"issuer": "http://login.example.com"}}, "config.issuer"),
        ({"config": {"client_secret": "***"}}, "config.client_secret"),
        ({"config": {"scopes": ["openid", 5]}}, "config.scopes"),
    ],
)
def test_a_wrong_way_to_sign_in_is_named(cast: Cast, fields: dict[str, Any], wrong: str) -> None:
    refused = cast.acme_admin.post(PATH, oidc(**fields))
    assert code(refused) == (422, "validation_failed")
    assert list(refused.get_json()["errors"]) == [wrong]


def test_what_is_another_tenants_is_not_there(cast: Cast) -> None:
    theirs = make(cast.globex_admin)["id"]
    token = cast.globex_admin.post("/scim-tokens", {"name": "hr"}).get_json()["id"]
    for fields in (
        {"jit": {"groups": [make_group(cast.globex)]}},
        {"jit": {"groups": [make_user(cast.acme)]}},
        {"match_within": [theirs]},
        {"match_within": [token]},
    ):
        assert code(cast.acme_admin.post(PATH, oidc(**fields))) == (422, "validation_failed"), fields


def test_newcomers_enter_no_group_of_administrators(cast: Cast) -> None:
    group = make_group(cast.acme)
    assert make(cast.acme_admin, **oidc(jit={"enabled": True, "groups": [group]}))
    give_role(cast.acme, group, "tenant_admin", cast.acme.tenant_id)
    refused = cast.acme_admin.post(PATH, oidc(name="Second", jit={"enabled": True, "groups": [group]}))
    assert list(refused.get_json()["errors"]) == ["jit.groups"]


def test_secrets_are_never_shown_and_stay_when_sent_back(cast: Cast) -> None:
    provider = make(cast.acme_admin, **oidc())
    assert provider["config"]["client_secret"] == "***"
    path = f"{PATH}/{provider['id']}"
    changed = cast.acme_admin.patch(path, {"config": {**provider["config"], "prompt": "login"}})
    assert changed.get_json()["config"]["client_secret"] == "***"
    with platform_scope() as session:
        row = session.query(IdentityProvider).filter_by(id=provider["id"]).one()
        with cast.client.application.app_context():
            assert providers.full_config(row)["client_secret"] == SECRET
        assert SECRET not in str(row.config)
    answers = [cast.acme_admin.get(path), cast.acme_admin.get(PATH), cast.acme_admin.get("/events"), changed]
    assert not any(SECRET in answer.get_data(as_text=True) for answer in answers)


def test_a_secret_is_not_sent_to_somewhere_else_by_who_does_not_know_it(cast: Cast) -> None:
    provider = make(cast.acme_admin, **oidc())
    path, moved = f"{PATH}/{provider['id']}", {**provider["config"], "issuer": "https://elsewhere.example"}
    refused = cast.acme_admin.patch(path, {"config": moved})
    assert code(refused) == (422, "validation_failed")
    assert list(refused.get_json()["errors"]) == ["config.client_secret"]
    assert cast.acme_admin.patch(path, {"config": {**moved, "client_secret": "new"}}).status_code == 200


def test_an_openid_provider_is_asked_when_tested(cast: Cast) -> None:
    with issuer.running() as login:
        path = f"{PATH}/{make(cast.acme_admin, **oidc(login.url))['id']}"
        verdict = cast.acme_admin.post(f"{path}/test").get_json()
        assert verdict["ok"], verdict
        assert verdict["steps"][0]["name"] == "settings"
        redirect = verdict["steps"][-1]
        assert f"/t/{cast.acme.slug}/callback/{path.rpartition('/')[2]} " in redirect["found"].replace(";", " ")
        login.answers["token"] = 401, {}, b'{"error": "invalid_client"}'
        verdict = cast.acme_admin.post(f"{path}/test").get_json()
        assert [step["name"] for step in verdict["steps"] if not step["ok"]] == ["client"]
    assert SECRET not in str(verdict)
    assert code(cast.acme_admin.post(f"{path}/sync")) == (422, "not_available")


class Watching:
    """A diagnosis that looks whether a unit of work is open around it."""

    def steps(self) -> Iterator[Step]:
        yield Step("watch", "scope" not in db.session().info and not db.session().in_transaction(), "")


def test_no_transaction_is_open_while_a_provider_is_asked(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "diagnose", lambda *_, **__: Watching())
    path = f"{PATH}/{make(cast.acme_admin, **oidc())['id']}"
    verdict = cast.acme_admin.post(f"{path}/test").get_json()
    assert [(step["name"], step["ok"]) for step in verdict["steps"]] == [("settings", True), ("watch", True)]


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


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("ca_certificates", "-----BEGIN CERTIFICATE-----\n\u00fc\n-----END CERTIFICATE-----"),
        ("user_filter", "(a=**)"),
        ("user_filter", "(&" * 400 + "(a=b)" + ")" * 400),
        ("servers", ["ldaps://dc.acme.example"] * 11),
    ],
    ids=["letters", "stars", "depth", "servers"],
)
def test_settings_of_a_live_directory_that_cannot_work_are_refused_by_name(
    cast: Cast, setting: str, value: Any
) -> None:
    right = {
        "source": "ldap",
        "servers": ["ldaps://dc.acme.example"],
        "bind_dn": "reader@acme.example",
        "bind_password": "secret",
    }
    refused = cast.acme_admin.post(PATH, new(config={**right, setting: value}))
    assert code(refused) == (422, "validation_failed")
    assert list(refused.get_json()["errors"]) == [f"config.{setting}"]
    assert make(cast.acme_admin, config=right)["config"]["bind_password"] == "***"


class Live:
    """A live upstream whose diagnosis waits until it may go on."""

    def __init__(self, egress: Egress) -> None:
        self.egress = egress
        self.begun, self.go_on = threading.Event(), threading.Event()

    def changes_since(self, cursor: str | None) -> Iterator[Page]:
        raise AssertionError("nobody is read")

    def steps(self) -> Iterator[Step]:
        self.begun.set()
        yield Step("waited", self.go_on.wait(20), f"{self.egress.until - time.monotonic():.0f} s are left")


def test_testing_a_live_directory_has_a_turn_and_an_end(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Live] = []

    def connects(config: Somewhere, egress: Egress) -> Live:
        made.append(Live(egress))
        return made[-1]

    monkeypatch.setattr(kinds, "KINDS", {**kinds.KINDS, "ldap": kinds.Connector(Somewhere, connects=connects)})
    path = f"{PATH}/{make(cast.acme_admin, config={'source': 'ldap'})['id']}"

    def tested() -> dict[str, Any]:
        verdict: dict[str, Any] = cast.acme_admin.post(f"{path}/test").get_json()
        return verdict

    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(tested)
        try:
            deadline = time.monotonic() + 10
            while not any(one.begun.is_set() for one in made) and time.monotonic() < deadline:
                time.sleep(0.02)
            verdict = tested()
            said = [(step["name"], step["ok"]) for step in verdict["steps"]]
            assert said == [("settings", True), ("connection", False)]
            assert "Nobody was asked" in verdict["steps"][-1]["found"] and not verdict["ok"]
        finally:
            for one in made:
                one.go_on.set()
    (_, waited) = first.result()["steps"]
    assert waited["ok"] and 25 < int(waited["found"].partition(" ")[0]) <= 30
    assert len([one for one in made if one.begun.is_set()]) == 1


@dataclass(frozen=True)
class Somewhere:
    source: str = setting("Where from", default="ldif")


@pytest.fixture
def checking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A live directory checks passwords; an exported one does not."""

    class Checks:
        def check_password(self, name: str, password: str) -> None:
            raise AssertionError("nobody is asked")

    def connects(config: Somewhere, egress: Egress) -> Checks | None:
        return Checks() if config.source == "ldap" else None

    monkeypatch.setattr(kinds, "KINDS", {**kinds.KINDS, "ldap": kinds.Connector(Somewhere, connects=connects)})


@pytest.mark.usefixtures("checking")
def test_people_sign_in_at_a_live_directory_and_at_no_file(cast: Cast) -> None:
    asked = {"sign_in": True, "domains": ["acme.example"], "jit": {"enabled": True, "groups": []}}
    made = make(cast.acme_admin, config={"source": "ldap"}, **asked)
    assert {name: made[name] for name in asked} == asked
    path = f"{PATH}/{made['id']}"
    assert code(cast.acme_admin.patch(path, {"config": {}})) == (422, "not_available")
    assert cast.acme_admin.patch(path, {"name": "Renamed"}).status_code == 200
    nothing = {"sign_in": False, "domains": [], "jit": {"enabled": False}}
    assert cast.acme_admin.patch(path, {"config": {}, **nothing}).status_code == 200
    for field in asked:
        refused = cast.acme_admin.patch(path, {field: asked[field]})
        assert code(refused) == (422, "not_available") and list(refused.get_json()["errors"]) == [field]


@pytest.mark.usefixtures("checking")
@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ({"linking": "verified_email"}, "linking"),
        ({"match": [{"claim": "mail", "attribute": "emails"}]}, "match"),
        ({"match_within": ["idp_x"]}, "match_within"),
        ({"jit": {"enabled": True, "groups": ["grp_x"]}}, "jit.groups"),
    ],
)
def test_a_directorys_people_are_those_who_are_read_from_it(cast: Cast, field: dict[str, Any], wrong: str) -> None:
    refused = cast.acme_admin.post(PATH, new(config={"source": "ldap"}, sign_in=True, **field))
    assert code(refused) == (422, "not_available") and list(refused.get_json()["errors"]) == [wrong]
