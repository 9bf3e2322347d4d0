"""Who it is that signs in: known, matched, proven by an address, or new; and what the claims come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from broker import ids
from broker.attributes import CUSTOM
from broker.context import Actor, acting
from broker.db import platform_scope, unit
from broker.directory import Admission, Directory, declarations
from broker.directory.matching import check_rules, guid_texts
from broker.errors import ValidationFailed
from broker.models import (
    Assignment,
    Consent,
    Delivery,
    Domain,
    IdentityProvider,
    Partner,
    Password,
    RoleAssignment,
    ScimTarget,
    Session,
)
from broker.registry import applications as registry
from connectors.port import Identity
from oidc import claims
from tests.broker.directory.conftest import Tenant, Upstream, person
from tests.conftest import World, make_provider

GUID = "0f8fad5b-d9cb-469f-a165-70867728950e"
ISSUER = "https://login.acme.example"


def identity(sub: str = "alice", *, verified: Sequence[str] = (), **claims: str | Sequence[str]) -> Identity:
    """Somebody as the upstream knows her: by `sub`, with these claims."""
    told = {"sub": sub, **claims}
    if verified:
        told = {**told, "email": verified[0], "email_verified": "true"}
    attributes = {name: [value] if isinstance(value, str) else list(value) for name, value in told.items()}
    return Identity(f"{ISSUER} {sub}", attributes, verified_emails=frozenset(verified), name=sub)


class Login(Upstream):
    """An OpenID provider of a tenant, at which people sign in."""

    def admit(self, who: Identity) -> Admission:
        with self.open() as (directory, via):
            return directory.admit(who, via)

    def enter(self, who: Identity) -> str:
        admission = self.admit(who)
        assert admission.refused is None and admission.user_id is not None, admission
        return admission.user_id

    def refuse(self, who: Identity) -> str:
        admission = self.admit(who)
        assert admission.user_id is None and admission.how is None and admission.refused is not None, admission
        return admission.refused


@pytest.fixture
def login(acme: Tenant, ad: Upstream) -> Login:
    """acme's OpenID provider: matches by userName within the Active Directory, brings nobody new."""
    rules = [{"claim": "preferred_username", "attribute": "userName"}]
    options: dict[str, Any] = {"sign_in": True, "match": rules, "match_within": [ad.id]}
    return Login(acme, oidc(acme, "Login", **options))


def oidc(tenant: Tenant, name: str, **fields: Any) -> str:
    id = make_provider(tenant.scope, name)
    with platform_scope() as session:
        via = session.get_one(IdentityProvider, (tenant.scope.tenant_id, id))
        via.kind = "oidc"
        for field, value in fields.items():
            setattr(via, field, value)
    return id


def bring(login: Login, *groups: str) -> Login:
    login.change(jit={"enabled": True, "groups": list(groups)})
    return login


def test_a_match_links_once_and_is_known_by_the_link_ever_after(acme: Tenant, ad: Upstream, login: Login) -> None:
    ad.pass_over(person("alice@acme.test", key="a"))
    acme.news()
    assert login.admit(identity(preferred_username="ALICE@acme.test")).how == "match"
    [told] = acme.news()
    assert told.name == "link.created" and told.resource == ad.resource("a")
    assert told.changed == {"provider_id": login.id, "how": "match"}
    again = login.admit(identity(preferred_username="somebody.else"))
    assert (again.user_id, again.how) == (ad.resource("a"), "link")
    assert acme.names() == ["alice@acme.test"]


def test_a_sign_in_that_says_nothing_new_is_silent_and_one_that_does_fills(
    acme: Tenant, ad: Upstream, login: Login
) -> None:
    ad.pass_over(person("alice", key="a", givenName="Alice"))
    who = {"preferred_username": "alice", "given_name": "Eve", "zoneinfo": "Europe/Berlin"}
    id = login.enter(identity(**who))
    document = acme.document(id)
    assert document["name"]["givenName"] == "Alice" and document["timezone"] == "Europe/Berlin"
    acme.news()
    version = acme.row(id).version
    login.enter(identity(**who))
    assert acme.happened() == [] and acme.row(id).version == version
    login.enter(identity(**{**who, "zoneinfo": "Europe/Paris", "given_name": "Mallory"}))
    assert [(event.name, event.changed) for event in acme.news()] == [("user.updated", ["timezone"])]
    assert acme.document(id)["name"]["givenName"] == "Alice"


def test_the_claims_are_kept_verbatim_and_show_in_no_directory_extension(
    acme: Tenant, ad: Upstream, login: Login
) -> None:
    ad.pass_over(person("alice", key="a"))
    login.enter(identity(preferred_username="alice", Favourite=["blue", "green"]))
    assert b'["Favourite",["blue","green"]]' in login.record(f"{ISSUER} alice")


def test_a_directory_goes_on_owning_a_person_who_signs_in_elsewhere(acme: Tenant, ad: Upstream, login: Login) -> None:
    login.change(priority=1)
    ad.pass_over(person("boss", key="b"), person("alice", key="a", title="Clerk"))
    id = login.enter(identity(preferred_username="alice", name="A. Liddell"))
    boss = ad.resource("b")
    ad.pass_over(
        person("boss", key="b"), person("alice", key="a", title="Chief", manager="CN=boss,OU=People,DC=acme,DC=test")
    )
    row = acme.row(id)
    assert row.manager_id == boss and acme.document(id)["title"] == "Chief"
    with acme.directory() as directory, pytest.raises(Exception, match="upstream has this resource"):
        directory.remove("User", id)


def test_whoever_leaves_the_directory_leaves_although_he_could_sign_in(
    acme: Tenant, ad: Upstream, login: Login
) -> None:
    everybody = [person("alice", key="a"), person("bob", key="b")]
    ad.pass_over(*everybody)
    id = login.enter(identity(preferred_username="alice"))
    ad.pass_over(everybody[1])
    assert acme.row(id).removed_at is not None
    assert login.refuse(identity(preferred_username="alice")) == "user_disabled"
    bring(login)
    assert login.refuse(identity(preferred_username="alice")) == "user_disabled"
    ad.pass_over(*everybody)
    assert login.enter(identity(preferred_username="alice")) == id


def test_an_administrator_removes_a_person_whom_only_a_sign_in_brought(acme: Tenant, login: Login) -> None:
    id = bring(login).enter(identity(preferred_username="alice"))
    acme.remove("User", id)
    assert acme.names() == []
    assert login.enter(identity(preferred_username="alice")) == id
    assert acme.row(id).removed_at is None and "user.revived" in acme.happened()
    login.change(jit={"enabled": False})
    acme.remove("User", id)
    assert login.refuse(identity(preferred_username="alice")) == "user_disabled"


def test_a_newcomer_is_made_of_the_standard_claims(acme: Tenant, login: Login) -> None:
    claims = {
        "preferred_username": "alice",
        "given_name": "Alice",
        "family_name": "Liddell",
        "name": "Alice Liddell",
        "locale": "en-GB",
        "zoneinfo": "Europe/London",
        "picture": "https://acme.example/alice.png",
        "email": "alice@acme.example",
        "email_verified": "true",
        "phone_number": "+44 20 1",
        "address.locality": "Oxford",
        "userType": "ServiceAccount",
    }
    admission = bring(login).admit(identity(**claims))
    assert admission.how == "created" and admission.user_id is not None
    document = acme.document(admission.user_id)
    assert document["userName"] == "alice" and document["displayName"] == "Alice Liddell"
    assert document["name"] == {"givenName": "Alice", "familyName": "Liddell"}
    assert (document["locale"], document["timezone"]) == ("en-GB", "Europe/London")
    assert document["emails"] == [{"value": "alice@acme.example", "type": "work", "primary": True}]
    assert document["photos"] == [{"value": "https://acme.example/alice.png", "type": "photo"}]
    assert document["addresses"] == [{"locality": "Oxford", "type": "work"}]
    assert acme.happened() == ["user.created"]


def test_without_a_name_of_his_own_a_newcomer_is_called_by_address_or_subject(acme: Tenant, login: Login) -> None:
    bring(login)
    assert acme.row(login.enter(identity("1", verified=["a@acme.example"]))).name == "a@acme.example"
    assert acme.row(login.enter(identity("2"))).name == "2"


def verify(tenant: Tenant) -> str:
    """A domain that this tenant has verified."""
    name = f"{tenant.scope.slug}.example"
    with tenant.open() as session:
        session.add(Domain(id=ids.new("dom"), name=name, token="t", verified=True))
    return name


@pytest.mark.parametrize("name", ["ceo@{}", "CEO@{}.", "ceo\uff20{}", "ceo@{} ", "ceo@\u200b{}"])
@pytest.mark.parametrize("whose", ["acme", "globex"])
def test_an_address_of_a_verified_domain_is_nobodys_name_unless_it_is_vouched_for(
    acme: Tenant, globex: Tenant, login: Login, name: str, whose: str
) -> None:
    domain = verify({"acme": acme, "globex": globex}[whose])
    bring(login)
    claimed = name.format(domain)
    mallory = login.enter(identity("1", preferred_username=claimed))
    assert acme.row(mallory).name == "1"
    login.enter(identity("1", preferred_username=claimed, given_name="M."))
    assert acme.row(mallory).name == "1", "nor does he get it by coming again"
    assert acme.row(login.enter(identity(f"x@{domain}", preferred_username=claimed))).name == f"x_{domain}"
    other = identity("2", preferred_username=claimed, verified=[f"mallory@{domain}"])
    assert acme.row(login.enter(other)).name == f"mallory@{domain}"
    free = "ceo@nobody.example"
    assert acme.row(login.enter(identity("3", preferred_username=free))).name == free
    ceo = identity("4", preferred_username=f"CEO@{domain}", verified=[f"ceo@{domain}"])
    assert acme.row(login.enter(ceo)).name == f"CEO@{domain}"


def test_nobody_is_renamed_to_an_address_that_may_be_somebody_elses(acme: Tenant, login: Login) -> None:
    bring(login)
    domain = verify(acme)
    mallory = login.enter(identity("1", preferred_username="mallory"))
    login.enter(identity("1", preferred_username=f"ceo@{domain}"))
    assert acme.row(mallory).name == "mallory"
    login.enter(identity("1", preferred_username=f"m@{domain}", verified=[f"m@{domain}"]))
    assert acme.row(mallory).name == f"m@{domain}"
    login.enter(identity("1", preferred_username=f"m@{domain}", zoneinfo="Europe/Paris"))
    assert acme.row(mallory).name == f"m@{domain}", "a name that he has stays his"


def test_a_mapping_of_the_name_trusts_what_the_upstream_calls_people(acme: Tenant, login: Login) -> None:
    bring(login).change(attribute_mapping=[{"from": "upn", "to": "userName"}])
    name = f"alice@{verify(acme)}"
    assert acme.row(login.enter(identity(upn=name))).name == name


def test_claims_fill_what_the_tenant_has_declared_and_one_that_does_not_fit_keeps_nobody_out(
    acme: Tenant, login: Login
) -> None:
    with acme.open():
        declarations.declare({"name": "level", "type": "integer"})
        declarations.declare({"name": "badge", "uniqueness": "server"})
    rows = [{"from": name, "to": f"{CUSTOM['User']}:{name}"} for name in ("level", "badge")]
    bring(login).change(attribute_mapping=rows)
    alice = login.enter(identity("1", preferred_username="alice", level="7", badge="A1"))
    assert acme.document(alice)[CUSTOM["User"]] == {"level": 7, "badge": "A1"}
    acme.news()
    bob = login.enter(identity("2", preferred_username="bob", level="high", badge="A1"))
    assert CUSTOM["User"] not in acme.document(bob)
    [told] = [event for event in acme.news() if event.name == "link.values_refused"]
    reasons = ["level: Not a whole number of 64 bits.", "badge: Another user has this value."]
    assert told.resource == bob and told.changed == {"provider_id": login.id, "reasons": reasons}
    login.enter(identity("2", preferred_username="bob", level="high", badge="A1"))
    assert acme.news() == []
    login.enter(identity("2", preferred_username="bob", level="8", badge="A1"))
    assert acme.document(bob)[CUSTOM["User"]] == {"level": 8}
    assert acme.happened() == ["link.values_refused", "user.updated"]


@pytest.mark.parametrize("word", [{}, {"email_verified": "false"}, {"email_verified": ["true", "false"]}])
def test_an_address_that_nobody_vouches_for_fills_nothing_unless_a_mapping_trusts_it(
    acme: Tenant, login: Login, word: dict[str, Any]
) -> None:
    bring(login)
    who = identity("1", preferred_username="alice", email="ceo@acme.example", **word)
    assert "emails" not in acme.document(login.enter(who))
    assert acme.row(login.enter(identity("2", email="ceo@acme.example", **word))).name == "2"
    login.change(attribute_mapping=[{"from": "email", "to": 'emails[type eq "work"].value'}])
    assert acme.document(login.enter(who))["emails"][0]["value"] == "ceo@acme.example"


def test_an_address_that_only_a_mapping_trusts_is_not_told_as_verified(
    acme: Tenant, ad: Upstream, login: Login
) -> None:
    domain = f"{acme.scope.slug}.example"
    with acme.open() as session:
        session.add(Domain(id=ids.new("dom"), name=domain, token="t", verified=True))
    bring(login).change(attribute_mapping=[{"from": "email", "to": 'emails[type eq "work"].value'}])

    def told(id: str) -> bool:
        person = claims.person(id, None, tenant_id=acme.scope.tenant_id)
        assert person is not None and person.email == f"ceo@{domain}"
        return person.email_verified

    said = {"preferred_username": "mallory", "email": f"ceo@{domain}"}
    mallory = login.enter(identity("m", **said, email_verified="false"))
    assert not told(mallory)
    login.enter(identity("m", verified=[f"ceo@{domain}"], **said))
    assert told(mallory), "the upstream vouches for it by now"
    login.enter(identity("m", **said))
    assert not told(mallory)
    ad.pass_over(person("boss", key="b", mail=f"ceo@{domain}"))
    login.change(match=check_rules([{"claim": "n", "attribute": "userName"}]))
    boss = login.enter(identity("b", n="boss", email=f"ceo@{domain}"))
    assert told(boss), "the directory says it"


def test_a_mapping_lays_itself_over_the_claims_and_makes_no_service_account(acme: Tenant, login: Login) -> None:
    rows = [
        {"from": "upn", "to": "userName"},
        {"from": "job", "to": "title", "authority": "owns"},
        {"from": "kind", "to": "userType"},
        {"from": "", "to": "locale", "authority": "never"},
    ]
    bring(login).change(attribute_mapping=rows)
    id = login.enter(identity(upn="al", preferred_username="alice", job="Clerk", kind="ServiceAccount", locale="de"))
    document = acme.document(id)
    assert (document["userName"], document["title"]) == ("al", "Clerk")
    assert "userType" not in document and "locale" not in document


def test_newcomers_enter_the_groups_they_are_meant_for_but_none_that_makes_administrators(
    acme: Tenant, login: Login
) -> None:
    plain, powerful, above = acme.group("plain"), acme.group("powerful"), acme.group("above")
    acme.change(above, add=[powerful])
    with acme.open() as session:
        role = {"role": "tenant_admin", "scope_id": acme.scope.tenant_id}
        session.add(RoleAssignment(id=ids.new("rol"), principal_id=above, **role))
    acme.news()
    bring(login, plain, powerful, "grp_nobody").enter(identity(preferred_username="alice"))
    assert acme.members(plain) == {"alice"} and acme.members(powerful) == set()
    assert acme.happened() == ["group.members_changed", "user.created"]


def test_a_taken_name_and_a_full_tenant_keep_a_newcomer_out(acme: Tenant, login: Login, world: World) -> None:
    bring(login)
    acme.user("alice")
    assert login.refuse(identity(preferred_username="Alice")) == "user_name_taken"
    with platform_scope() as session:
        session.get_one(Partner, world.partner_id).max_users_per_tenant = 1
    assert login.refuse(identity("bob", preferred_username="bob")) == "limit_exceeded"
    assert acme.names() == ["alice"]


def test_a_refusal_is_told_with_its_reason(acme: Tenant, login: Login) -> None:
    acme.news()
    assert login.refuse(identity("eve", preferred_username="eve")) == "not_known"
    [told] = acme.news()
    assert (told.name, told.resource) == ("sign_in.refused", login.id)
    assert told.changed == {"reason": "not_known", "name": "eve", "user_ids": []}


@pytest.mark.parametrize("off", [{"enabled": False}, {"sign_in": False}])
def test_a_provider_that_is_off_lets_nobody_in(acme: Tenant, login: Login, off: Mapping[str, bool]) -> None:
    id = bring(login).enter(identity(preferred_username="alice"))
    login.change(**off)
    assert login.refuse(identity(preferred_username="alice")) == "provider_disabled"
    login.change(enabled=True, sign_in=True)
    assert login.enter(identity(preferred_username="alice")) == id


def test_a_name_that_somebody_has_is_not_taken_over_by_a_later_claim(acme: Tenant, login: Login) -> None:
    id = bring(login).enter(identity(preferred_username="alice"))
    other = acme.user("bob")
    assert login.enter(identity(preferred_username="bob")) == id
    assert acme.row(id).name == "alice" and acme.row(other).name == "bob"
    acme.remove("User", other)
    login.enter(identity(preferred_username="bob"))
    assert acme.row(id).name == "bob"


@pytest.mark.parametrize(
    ("attribute", "claim"),
    [
        ("userName", "ALICE@ACME.test"),
        ("userPrincipalName", "alice@acme.TEST"),
        ("sam_account_name", "ALice"),
        ("emails", "Alice.L@acme.test"),
        ('emails[type eq "work"].value', "alice.l@acme.test"),
        ("mail", "alice.l@acme.test"),
        ("employeeID", "4711"),
        ("externalId", f"{{{GUID.upper()}}}"),
        ("objectGUID", GUID.replace("-", "")),
        ("objectGUID", "W62PD8vZn0ahZXCGdyiVDg=="),
        ("objectSid", "S-1-5-21-1-2-3-1104"),
    ],
)
def test_people_are_matched_by_any_indexed_attribute(
    acme: Tenant, ad: Upstream, login: Login, attribute: str, claim: str
) -> None:
    octets = bytes.fromhex("5bad8f0fcbd99f46a16570867728950e")
    told = {"sAMAccountName": "alice", "mail": "alice.l@acme.test", "employeeID": "4711"}
    told |= {"objectSid": "S-1-5-21-1-2-3-1104"}
    ad.pass_over(person("alice@acme.test", key=GUID, objectGUID=octets, **told), person("bob", key="b"))
    login.change(match=check_rules([{"claim": "who", "attribute": attribute}]))
    assert login.refuse(identity("x", who="nobody")) == "not_known"
    assert login.enter(identity(who=claim)) == ad.resource(GUID)


def test_base64_and_braces_are_forms_of_one_guid() -> None:
    assert guid_texts("W62PD8vZn0ahZXCGdyiVDg==") == guid_texts(f"{{{GUID.upper()}}}") == [GUID]
    assert guid_texts("not a guid") == guid_texts("!!!!!!!!!!!!!!!!!!!!!!!!") == []


def test_rules_are_tried_in_order_and_the_first_that_finds_anybody_decides(
    acme: Tenant, ad: Upstream, login: Login
) -> None:
    rules = [{"claim": "id", "attribute": "employeeID"}, {"claim": "name", "attribute": "userName"}]
    login.change(match=rules)
    ad.pass_over(person("alice", key="a", employeeID="1"), person("bob", key="b", employeeID="2"))
    assert login.enter(identity("x", id="2", name="alice")) == ad.resource("b")
    assert login.enter(identity("y", id="9", name="alice")) == ad.resource("a")


def test_only_people_of_the_named_sources_are_matched(acme: Tenant, ad: Upstream, hr: Upstream, login: Login) -> None:
    login.change(match_within=[hr.id])
    ad.pass_over(person("alice", key="a"))
    acme.user("carol")
    for name in ("alice", "carol"):
        assert login.refuse(identity(preferred_username=name)) == "not_known"
    hr.pass_over(person("dora", key="d"))
    assert login.enter(identity(preferred_username="dora")) == hr.resource("d")
    login.change(match_within=[])
    assert login.refuse(identity("y", preferred_username="dora")) == "not_known"


def test_people_whom_a_scim_token_gave_are_matched_within_it(acme: Tenant, login: Login) -> None:
    token, other = ids.new("sct"), ids.new("sct")
    actor = Actor("scim_token", token, acme.scope.tenant_id)
    with acting(actor), unit(acme.scope):
        alice = Directory().create("User", {"userName": "alice", "active": True}).id
    login.change(match_within=[other])
    assert login.refuse(identity(preferred_username="alice")) == "not_known"
    login.change(match_within=[token])
    assert login.enter(identity(preferred_username="alice")) == alice


def test_what_another_sign_in_filled_in_matches_nobody(acme: Tenant, login: Login) -> None:
    token = ids.new("sct")
    with acting(Actor("scim_token", token, acme.scope.tenant_id)), unit(acme.scope):
        mallory, boss = (Directory().create("User", {"userName": name}).id for name in ("mallory", "boss"))
    other = Login(acme, oidc(acme, "Other", sign_in=True, match=[{"claim": "n", "attribute": "userName"}]))
    trusting = [{"from": "email", "to": 'emails[type eq "work"].value'}]
    other.change(match_within=[token], attribute_mapping=trusting)
    login.change(match=[{"claim": "email", "attribute": "emails"}], match_within=[token])
    other.enter(identity("m", n="mallory", email="boss@acme.test"))
    assert acme.document(mallory)["emails"][0]["value"] == "boss@acme.test"
    assert login.refuse(identity("b", verified=["boss@acme.test"])) == "not_known"
    acme.put("User", boss, {"userName": "boss", "emails": [{"value": "boss@acme.test", "type": "work"}]})
    assert login.enter(identity("b", verified=["boss@acme.test"])) == boss


@pytest.mark.parametrize("claim", ["email", "emails", "mail", "profile.Email"])
@pytest.mark.parametrize("attribute", ["emails", "userName"])
def test_an_address_matches_only_where_the_upstream_vouches_for_it(
    acme: Tenant, ad: Upstream, login: Login, claim: str, attribute: str
) -> None:
    ad.pass_over(person("boss@acme.test", key="b", mail="boss@acme.test"))
    login.change(match=check_rules([{"claim": claim, "attribute": attribute}]))
    for word in ({}, {"email_verified": "false"}, {"email_verified": "true"}):
        assert login.refuse(identity("m", **{claim: "boss@acme.test"}, **word)) == "not_known"
    vouched = identity("b", verified=["boss@acme.test"], **{claim: "boss@acme.test"})
    assert login.enter(vouched) == ad.resource("b")


@pytest.mark.parametrize(
    "rules",
    [
        "userName",
        [{"claim": "sub"}],
        [{"claim": "", "attribute": "userName"}],
        [{"claim": "x", "attribute": "nickName"}],
        [{"claim": "x", "attribute": "password"}],
        [{"claim": "x", "attribute": "userName"}] * 11,
    ],
)
def test_rules_that_cannot_work_are_named(rules: Any) -> None:
    with pytest.raises(ValidationFailed) as refused:
        check_rules(rules)
    assert all(name.startswith("match") for name in refused.value.errors)


def test_two_first_sign_ins_at_once_are_one_person(acme: Tenant, login: Login, app: Flask) -> None:
    bring(login)
    who = identity(preferred_username="alice")

    def arrive(_: int) -> str:
        with app.app_context():
            return login.enter(who)

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(arrive, range(4)))) == 1
    assert acme.names() == ["alice"]


def test_two_newcomers_of_one_name_at_once_are_one_person_and_one_refusal(
    acme: Tenant, login: Login, app: Flask
) -> None:
    bring(login)

    def arrive(sub: str) -> str | None:
        with app.app_context():
            return login.admit(identity(sub, preferred_username="alice")).refused

    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(arrive, ["1", "2"])) == {None, "user_name_taken"}


def test_whoever_is_removed_is_signed_out_and_comes_back_without_a_password(acme: Tenant, login: Login) -> None:
    id = bring(login).enter(identity(preferred_username="alice"))
    now = datetime.now(UTC)
    with acme.open() as session:
        times = {"auth_time": now, "expires_at": now + timedelta(hours=1)}
        session.add(Session(id=ids.new("ses"), user_id=id, digest=id.encode(), **times))
        session.add(Password(user_id=id, hash="x"))
    acme.remove("User", id)
    assert login.enter(identity(preferred_username="alice")) == id
    with acme.open() as session:
        assert session.scalars(sa.select(Session.end_reason)).all() == ["user_removed"]
        assert session.scalar(sa.select(Password.user_id)) is None


def test_whoever_is_removed_comes_back_without_what_was_assigned_or_allowed(acme: Tenant, login: Login) -> None:
    bring(login)
    alice, bob = (login.enter(identity(name, preferred_username=name)) for name in ("alice", "bob"))
    group = acme.group("staff", alice)
    with acme.open() as session:
        application = registry.create({"name": "Wiki", "type": "web"})
        given = {id: registry.assign_to(application, id, ["editor"]).id for id in (alice, bob, group)}
        session.add_all(Consent(user_id=id, application_id=application.id, scopes=["openid"]) for id in (alice, bob))
        wiki = ids.new("tgt")
        target = ScimTarget(id=wiki, application_id=application.id, base_url="https://wiki.example")
        other = registry.create({"name": "Other", "type": "web"})
        bystander = ScimTarget(id=ids.new("tgt"), application_id=other.id, base_url="https://other.example")
        session.add_all([target, bystander])
        session.flush()
        session.execute(sa.delete(Delivery))
    acme.news()
    acme.remove("User", alice)
    told = {event.name: event for event in acme.news()}
    assert told["assignment.removed"].resource == given[alice]
    assert told["assignment.removed"].changed["principal_id"] == alice
    assert told["consent.ended"].changed == {"user_id": alice, "reason": "user_removed"}
    with acme.open() as session:
        expanded = sa.select(Delivery.target_id).where(Delivery.task == "expand")
        assert session.scalars(expanded).all() == [wiki], "what is provisioned to others is not looked at"
    assert login.enter(identity("alice", preferred_username="alice")) == alice
    with acme.open() as session:
        assert set(session.scalars(sa.select(Assignment.principal_id))) == {bob, group}
        assert session.scalars(sa.select(Consent.user_id)).all() == [bob]
