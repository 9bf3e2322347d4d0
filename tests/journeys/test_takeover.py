"""Taking over somebody's account through an upstream: each attempt is refused with a page and an event, makes no second
account, and its valid twin, which differs in nothing else, gets in.

People are given by a SCIM token or an Active Directory; strangers sign in at a real OpenID provider in a browser.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa

from broker.context import acting, system
from broker.directory import Directory
from broker.models import Domain, IdentityProvider, User
from connectors.port import Record
from tests.broker.sign_in.stage import Stage, acme, globex, issuer, location
from tests.casting import PREFIX, give_role

pytestmark = pytest.mark.long

__all__ = ["acme", "globex", "issuer"]

BY_NAME = [{"claim": "preferred_username", "attribute": "userName"}]
BACK = "/apps"


@dataclass
class Attempt:
    """What came of one sign-in: who it is now, or with what reason nobody."""

    user_id: str | None
    reason: str | None


@dataclass
class House:
    """acme's people and the ways in."""

    stage: Stage

    def __post_init__(self) -> None:
        self._admin = self.stage.admin
        made = self._api("POST", "/scim-tokens", {"name": "HR"})
        self.token, self.source = made["token"], made["id"]

    @property
    def domain(self) -> str:
        return f"{self.stage.slug}.example"

    def address(self, name: str = "alice") -> str:
        return f"{name}@{self.domain}"

    def mail(self, name: str = "alice") -> dict[str, Any]:
        """The claims of an address that the upstream vouches for."""
        return {"email": self.address(name), "email_verified": True}

    def _api(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {self._admin}"}
        answer = self.stage.app.test_client().open(PREFIX + path, method=method, json=body, headers=headers)
        assert answer.status_code in (200, 201, 204), answer.get_data(as_text=True)
        return answer.get_json()

    def person(self, name: str, email: str | None = None, **more: Any) -> str:
        """Somebody whom the SCIM token gives."""
        body = {"userName": name, "active": True, **more}
        if email is not None:
            body["emails"] = [{"value": email, "type": "work"}]
        return str(self._scim("POST", "/Users", body)["id"])

    def change(self, id: str, **values: Any) -> None:
        operations = [{"op": "replace", "path": name, "value": value} for name, value in values.items()]
        schemas = ["urn:ietf:params:scim:api:messages:2.0:PatchOp"]
        self._scim("PATCH", f"/Users/{id}", {"schemas": schemas, "Operations": operations})

    def remove(self, id: str) -> None:
        self._scim("DELETE", f"/Users/{id}", None)

    def _scim(self, method: str, path: str, body: Any) -> Any:
        answer = self.stage.app.test_client().open(
            f"/scim/v2/{self.stage.slug}{path}",
            method=method,
            json=body,
            headers={"Authorization": f"Bearer {self.token}"},
        )
        assert answer.status_code in (200, 201, 204), answer.get_data(as_text=True)
        return answer.get_json()

    def people(self) -> int:
        with self.stage.unit() as session:
            return int(session.scalar(sa.select(sa.func.count(User.id)).where(User.removed_at.is_(None))))

    def attempt(self, sub: str, **claims: Any) -> Attempt:
        """Sign in as `sub` at the upstream, in a browser of one's own. Nobody is made unless the provider may."""
        before, refusals = self.people(), len(self.stage.reasons())
        browser = self.stage.browser()
        onward = browser.get(location(browser.get(f"/t/{self.stage.slug}/sign-in")))
        answer = browser.get(self.stage.at_upstream(location(onward), sub, **claims))
        live = self.stage.live(browser)
        reasons = self.stage.reasons()[refusals:]
        if live is not None:
            assert answer.status_code == 303 and location(answer).endswith(BACK) and reasons == []
            return Attempt(live.user_id, None)
        assert answer.status_code == 403 and self.people() == before
        [reason] = reasons
        return Attempt(None, reason)

    def enter(self, sub: str, **claims: Any) -> str:
        attempt = self.attempt(sub, **claims)
        assert attempt.user_id is not None, attempt.reason
        return attempt.user_id

    def refuse(self, sub: str, **claims: Any) -> str:
        attempt = self.attempt(sub, **claims)
        assert attempt.reason is not None, attempt.user_id
        return attempt.reason


@pytest.fixture
def house(acme: Stage) -> House:
    return House(acme)


def by_address(house: House, *, domain: bool = True, **fields: Any) -> str:
    """An upstream whose verified addresses are believed, and a domain that is the tenant's."""
    if domain:
        house.stage.domain(house.domain)
    return house.stage.provider(linking="verified_email", **{"jit": {"enabled": False, "groups": []}, **fields})


def by_name(house: House, **fields: Any) -> str:
    """An upstream whose people are found by their names among those the SCIM token gave."""
    off = {"jit": {"enabled": False, "groups": []}}
    return house.stage.provider(**{**off, "match": BY_NAME, "match_within": [house.source], **fields})


@pytest.mark.parametrize("word", [{}, {"email_verified": False}, {"email_verified": "true"}])
def test_an_address_nobody_vouches_for(house: House, word: Mapping[str, Any]) -> None:
    alice = house.person("alice", house.address())
    by_address(house)
    assert house.refuse("mallory", email=house.address(), **word) == "not_known"
    assert house.enter("alice", **house.mail()) == alice


def test_an_address_nobody_vouches_for_is_a_newcomers_neither_as_name_nor_as_address(house: House) -> None:
    """With newcomers allowed, who claims a person's name and address gets neither, and her account stays hers."""
    alice = house.person(house.address(), house.address())
    by_address(house, jit={"enabled": True, "groups": []})
    claims = {"email": house.address(), "email_verified": False, "preferred_username": house.address()}
    mallory = house.enter("mallory", **claims)
    with house.stage.unit() as session:
        found = session.scalars(sa.select(User).where(User.id == mallory)).one()
        assert found.name == "mallory" and house.domain.encode() not in found.document
    assert house.enter("alice", **{**claims, "email_verified": True}) == alice != mallory


@pytest.mark.parametrize("whose", ["another tenant's", "nobody's", "claimed, not proven"])
def test_a_verified_address_of_a_domain_that_is_not_the_tenants(house: House, globex: Stage, whose: str) -> None:
    alice = house.person("alice", house.address())
    by_address(house, domain=False)
    if whose == "another tenant's":
        globex.domain(house.domain)
    if whose == "claimed, not proven":
        house.stage.domain(house.domain, verified=False)
    assert house.refuse("alice", **house.mail()) == "not_known"
    with globex.unit() as session:
        session.execute(sa.delete(Domain))
    with house.stage.unit() as session:
        session.execute(sa.delete(Domain))
    house.stage.domain(house.domain)
    assert house.enter("alice", **house.mail()) == alice


@pytest.mark.parametrize("letters", ["\uff41lice@{}", "al\u0131ce@{}", "\u24d0lice@{}", "alice@\uff41{}"])
def test_an_address_in_letters_that_only_look_alike(house: House, letters: str) -> None:
    alice = house.person("alice", house.address())
    by_address(house)
    alike = letters.format(house.domain[1:] if letters.startswith("alice") else house.domain)
    assert house.refuse("mallory", email=alike, email_verified=True) == "not_known"
    assert house.enter("alice", email=house.address().upper(), email_verified=True) == alice


def test_a_match_on_two_people(house: House) -> None:
    rules = [{"claim": "email", "attribute": "emails"}]
    alice, twin = house.person("alice", house.address()), house.person("alice2", house.address())
    by_name(house, match=rules)
    assert house.refuse("alice", **house.mail()) == "match_ambiguous"
    [told] = house.stage.events("sign_in.refused")
    assert set(told.changed["user_ids"]) == {alice, twin}
    house.change(twin, emails=[{"value": house.address("other"), "type": "work"}])
    assert house.enter("alice", **house.mail()) == alice


def test_a_proven_address_of_two_people(house: House) -> None:
    alice, twin = house.person("alice", house.address()), house.person("alice2", house.address())
    by_address(house)
    assert house.refuse("alice", **house.mail()) == "match_ambiguous"
    house.remove(twin)
    assert house.enter("alice", **house.mail()) == alice


@pytest.mark.parametrize("way", ["match", "address"])
@pytest.mark.parametrize("held", ["directly", "by a group"])
def test_an_administrator_is_nobodys_match(house: House, way: str, held: str) -> None:
    stage, scope = house.stage, house.stage.scope
    boss, clerk = house.person("boss", house.address("boss")), house.person("clerk", house.address("clerk"))
    (by_name if way == "match" else by_address)(house)
    with stage.app.app_context():
        holder = boss
        if held == "by a group":
            with acting(system("test")), stage.unit():
                inner = Directory().create("Group", {"displayName": "inner", "members": [{"value": boss}]}).id
                holder = Directory().create("Group", {"displayName": "outer", "members": [{"value": inner}]}).id
        give_role(scope, holder, "tenant_admin", scope.tenant_id)

    def claims(name: str) -> dict[str, Any]:
        return house.mail(name) if way == "address" else {"preferred_username": name}

    assert house.refuse("mallory", **claims("boss")) == "match_administrator"
    assert house.enter("clerk", **claims("clerk")) == clerk


def test_a_name_registered_anew(house: House) -> None:
    """The upstream gave a leaver's name to somebody else, who has another subject."""
    by_name(house, jit={"enabled": True, "groups": []})
    alice = house.person("alice")
    assert house.enter("first-alice", preferred_username="alice") == alice
    assert house.refuse("second-alice", preferred_username="alice") == "already_linked"
    assert house.enter("first-alice", preferred_username="alice") == alice
    newcomer = house.enter("first-bob", preferred_username="bob")
    assert house.refuse("second-bob", preferred_username="bob") == "user_name_taken"
    assert house.enter("first-bob", preferred_username="bob") == newcomer


def test_a_subject_that_changed(house: House) -> None:
    alice = house.person("alice", house.address())
    by_address(house)
    assert house.enter("subject-1", **house.mail()) == alice
    assert house.refuse("subject-2", **house.mail()) == "already_linked"
    assert house.enter("subject-1", **house.mail()) == alice


def test_somebody_whom_the_directory_disabled(house: House) -> None:
    """The Active Directory disabled him; the upstream, and the removal guard, know nothing of it yet."""
    stage = house.stage
    ad = stage.provider("Active Directory", kind="ldap", config={}, sign_in=False, jit={"enabled": False, "groups": []})
    by_name(house, match_within=[ad])

    def export(run: int, **active: bool) -> None:
        with stage.unit() as session, acting(system("sync")):
            via = session.get_one(IdentityProvider, (stage.scope.tenant_id, ad))
            records = [
                Record(name, "user", f"CN={name}", f"cn={name}", {"userPrincipalName": [name]}, active=enabled)
                for name, enabled in active.items()
            ]
            Directory().apply(records, via, run)

    export(1, alice=True, bob=True, carol=True)
    alice = house.enter("alice", preferred_username="alice")
    export(2, alice=False, bob=False, carol=True)
    assert house.refuse("alice", preferred_username="alice") == "user_disabled"
    assert house.refuse("bob", preferred_username="bob") == "user_disabled"
    assert house.enter("carol", preferred_username="carol")
    export(3, alice=True, bob=True, carol=True)
    assert house.enter("alice", preferred_username="alice") == alice


def test_somebody_who_was_disabled_or_removed_here(house: House) -> None:
    by_name(house, jit={"enabled": True, "groups": []})
    alice = house.person("alice")
    assert house.enter("alice", preferred_username="alice") == alice
    house.change(alice, active=False)
    assert house.refuse("alice", preferred_username="alice") == "user_disabled"
    house.change(alice, active=True)
    assert house.enter("alice", preferred_username="alice") == alice
    house.remove(alice)
    assert house.refuse("alice", preferred_username="alice") == "user_disabled"


def test_a_service_account_is_nobodys_match(house: House) -> None:
    body = {"name": "robot", "audiences": ["scaikey"]}
    account = house._api("POST", "/service-accounts", body)
    by_name(house)
    person = house.person("person")
    assert house.refuse("mallory", preferred_username="sa:robot") == "not_known"
    assert house.enter("person", preferred_username="person") == person != account["id"]


def test_people_of_another_tenant_are_nobodys_match(house: House, globex: Stage) -> None:
    theirs = House(globex)
    theirs.person("alice", house.address())
    globex.domain(house.domain)
    provider = by_name(house, linking="verified_email")
    with house.stage.unit() as session:
        via = session.get_one(IdentityProvider, (house.stage.scope.tenant_id, provider))
        via.match_within = [house.source, theirs.source]
    assert house.refuse("alice", preferred_username="alice", **house.mail()) == "not_known"
    alice = house.person("alice")
    assert house.enter("alice", preferred_username="alice", **house.mail()) == alice
