"""May they? Each reason there is beside none, for everybody it concerns and nobody else, committed or under way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import sqlalchemy as sa

from broker import ids
from broker.context import Scope
from broker.db import db, platform_scope, unit
from broker.models import IdentityProvider
from broker.standing import Subject, may_receive_tokens, standing
from oidc.tokens import Issuer
from tests.casting import make_group, make_user
from tests.conftest import World
from tests.oidc.minting import SignedIn, assign, make_application, sign_in

JTI = "shown"


@dataclass(frozen=True)
class Somebody:
    """A person of acme who came through an upstream and is signed in at an application."""

    scope: Scope
    signed_in: SignedIn
    provider_id: str

    @property
    def subjects(self) -> dict[str, Subject]:
        """Whom one may ask about, by what is known of them."""
        user, app = self.signed_in.user_id, self.signed_in.client.id
        session, grant = self.signed_in.session_id, self.signed_in.grant_id
        return {
            "everything": Subject(user, app, session_id=session, grant_id=grant, jti=JTI),
            "person": Subject(user),
            "arriving": Subject(user, provider_id=self.provider_id),
            "application": Subject(application_id=app),
            "person at application": Subject(user, app),
            "session": Subject(session_id=session),
            "grant": Subject(grant_id=grant),
            "token": Subject(jti=JTI),
        }

    def change(self, *statements: str) -> None:
        """In the open unit of work, across the tenants or in ours."""
        about = {
            "tenant": self.scope.tenant_id,
            "user": self.signed_in.user_id,
            "app": self.signed_in.client.id,
            "provider": self.provider_id,
            "session": self.signed_in.session_id,
            "grant": self.signed_in.grant_id,
            "jti": JTI,
        }
        for statement in statements:
            said = sa.text(statement)
            found = db.session().execute(said, {name: about[name] for name in said._bindparams})
            assert found.rowcount == 1  # type: ignore[attr-defined]

    def committed(self) -> dict[str, str]:
        """The reasons of those who may not, by the hot statement."""
        found = {
            name: may_receive_tokens(standing(one, tenant_id=self.scope.tenant_id))
            for name, one in self.subjects.items()
        }
        return {name: reason for name, reason in found.items() if reason}

    def in_the_unit(self) -> dict[str, str]:
        found = {name: may_receive_tokens(standing(one)) for name, one in self.subjects.items()}
        return {name: reason for name, reason in found.items() if reason}


@pytest.fixture
def alice(world: World) -> Iterator[Somebody]:
    scope, provider_id = world.acme, ids.new("idp")
    with platform_scope() as session:
        session.add(IdentityProvider(tenant_id=scope.tenant_id, id=provider_id, kind="oidc", name="Acme ID"))
    issuer = Issuer("https://acme.example", scope)
    signed_in = sign_in(scope, make_user(scope), provider_id=provider_id, issuer=issuer)
    yield Somebody(scope, signed_in, provider_id)


def of(reason: str, *subjects: str) -> dict[str, str]:
    return dict.fromkeys(subjects, reason)


EVERYBODY = (
    *("everything", "person", "arriving", "application", "person at application", "session", "grant", "token"),
)
PEOPLE = ("everything", "person", "arriving", "person at application")
AT_THE_APPLICATION = ("everything", "application", "person at application")
RESOURCE = "WHERE tenant_id = :tenant AND id = :user"
APPLICATION = "WHERE tenant_id = :tenant AND id = :app"
SESSION = "WHERE tenant_id = :tenant AND id = :session"

FAULTS: dict[str, tuple[str, dict[str, str]]] = {
    "suspended": ("UPDATE tenants SET status = 'suspended' WHERE id = :tenant", of("tenant_suspended", *EVERYBODY)),
    "disabled": (f"UPDATE resources SET active = false {RESOURCE}", of("user_disabled", *PEOPLE)),
    "expired": (
        f"UPDATE resources SET active_until = now() - interval '1 second' {RESOURCE}",
        of("user_disabled", *PEOPLE),
    ),
    "removed": (f"UPDATE resources SET removed_at = now() {RESOURCE}", of("user_disabled", *PEOPLE)),
    "application off": (
        f"UPDATE applications SET enabled = false {APPLICATION}",
        of("application_disabled", *AT_THE_APPLICATION),
    ),
    "assignment": (
        f"UPDATE applications SET assignment_required = true {APPLICATION}",
        of("not_assigned", "everything", "person at application"),
    ),
    "provider off": (
        "UPDATE identity_providers SET enabled = false WHERE tenant_id = :tenant AND id = :provider",
        of("provider_disabled", "everything", "arriving", "session", "grant"),
    ),
    "signed out": (f"UPDATE sessions SET ended_at = now() {SESSION}", of("session_ended", "everything", "session")),
    "session over": (
        f"UPDATE sessions SET expires_at = now() - interval '1 second' {SESSION}",
        of("session_ended", "everything", "session"),
    ),
    "grant ended": (
        "UPDATE grants SET ended_at = now() WHERE tenant_id = :tenant AND id = :grant",
        of("grant_ended", "everything", "grant"),
    ),
    "revoked": (
        "INSERT INTO revoked_tokens (tenant_id, jti, expires_at) VALUES (:tenant, :jti, now() + interval '1 hour')",
        of("token_revoked", "everything", "token"),
    ),
}
"""What happens, and who may not from then on, with the reason."""


def test_nothing_stands_against_somebody_in_good_standing(alice: Somebody) -> None:
    assert alice.committed() == {}
    with unit(alice.scope):
        assert alice.in_the_unit() == {}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_happened_stops_whom_it_concerns_and_nobody_else(alice: Somebody, fault: str) -> None:
    statement, refused = FAULTS[fault]
    with platform_scope():
        alice.change(statement)
    assert alice.committed() == refused
    with unit(alice.scope):
        assert alice.in_the_unit() == refused


@pytest.mark.parametrize("fault", [one for one in FAULTS if one != "suspended"])
def test_a_unit_of_work_is_told_of_what_it_has_written_itself(alice: Somebody, fault: str) -> None:
    """But for the tenant, which no unit of its own may change."""
    statement, refused = FAULTS[fault]
    with unit(alice.scope):
        alice.change(statement)
        assert alice.in_the_unit() == refused
        assert alice.committed() == {}
        db.session().rollback()


def test_an_application_the_tenant_has_no_access_to_is_nobodys_there(alice: Somebody, world: World) -> None:
    theirs = make_application(world.globex)
    for about in (Subject(application_id=theirs.id), Subject(alice.signed_in.user_id, theirs.id)):
        assert verdicts(alice.scope, about) == {"no_access"}
    assert verdicts(world.globex, Subject(application_id=theirs.id)) == {None}


def test_an_upstream_that_disabled_the_person_is_enough_until_its_record_is_gone(alice: Somebody) -> None:
    subject, where = Subject(alice.signed_in.user_id), "WHERE tenant_id = :tenant AND resource_id = :user"

    def after(statement: str) -> set[str | None]:
        with platform_scope():
            alice.change(statement)
        return verdicts(alice.scope, subject)

    assert after(
        "INSERT INTO links (tenant_id, provider_id, key, name, ref, kind, digest, quiet_digest, resource_id, active) "
        "VALUES (:tenant, :provider, 'a', 'a', 'a', 'user', '', '', :user, false)"
    ) == {"user_disabled"}
    assert after(f"UPDATE links SET active = true {where}") == {None}
    assert after(f"UPDATE links SET active = false {where}") == {"user_disabled"}
    assert after(f"UPDATE links SET gone_at = now() {where}") == {None}


def test_an_assignment_counts_directly_and_through_groups_of_groups(world: World) -> None:
    scope, client = world.acme, make_application(world.acme, assignment_required=True)
    direct, nested, nobody = (make_user(scope) for _ in range(3))
    outer = make_group(scope, make_group(scope, nested))
    assign(scope, client, direct)
    assign(scope, client, outer)
    for user_id, reason in ((direct, None), (nested, None), (nobody, "not_assigned")):
        assert verdicts(scope, Subject(user_id, client.id)) == {reason}


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        ("user_id", "user_disabled"),
        ("application_id", "no_access"),
        ("session_id", "session_ended"),
        ("grant_id", "grant_ended"),
    ],
)
def test_what_is_another_tenants_or_nobodys_is_none(alice: Somebody, world: World, about: str, reason: str) -> None:
    everything = alice.subjects["everything"]
    assert verdicts(alice.scope, Subject(**{about: getattr(everything, about)})) == {None}
    assert verdicts(world.globex, Subject(**{about: getattr(everything, about)})) == {reason}
    assert verdicts(alice.scope, Subject(**{about: "nothing"})) == {reason}


def test_a_tenant_nobody_has_is_as_good_as_suspended(world: World) -> None:
    assert may_receive_tokens(standing(Subject(), tenant_id="tnt_nothing")) == "tenant_suspended"


def verdicts(scope: Scope, about: Subject) -> set[str | None]:
    """By both statements."""
    committed = may_receive_tokens(standing(about, tenant_id=scope.tenant_id))
    with unit(scope):
        return {committed, may_receive_tokens(standing(about))}
