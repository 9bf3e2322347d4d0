"""What ends with a session, a grant, a person: told once, by name, and nobody else's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from broker import endings, events
from broker.context import acting, system
from broker.db import unit
from broker.models import Event, Grant, Session
from oidc.tokens import Issuer
from tests.casting import make_user
from tests.conftest import World
from tests.oidc.minting import SignedIn, sign_in

Told = dict[tuple[str, str], dict[str, Any]]
End = Callable[[Callable[[], object]], Told]


@pytest.fixture
def ending(world: World) -> End:
    """Does it in a unit of work of acme's, and gives what the log was told of sessions and grants."""

    def do(deed: Callable[[], object]) -> Told:
        with acting(system("test")), unit(world.acme) as session:
            last = session.scalar(sa.select(sa.func.max(Event.id))) or ""
            deed()
            session.flush()
            told = session.scalars(sa.select(Event).where(Event.id > last, Event.name.like("%.ended")))
            return {(one.name, one.resource_id): one.changed for one in told}

    return do


def alice(world: World, *scopes: str) -> SignedIn:
    made = sign_in(world.acme, make_user(world.acme), issuer=Issuer("https://acme.example", world.acme))
    with unit(world.acme) as session:
        session.get_one(Grant, (world.acme.tenant_id, made.grant_id)).scopes = list(scopes)
    return made


def of_session(one: SignedIn, reason: str) -> Told:
    return {("session.ended", one.session_id): {"user_id": one.user_id, "reason": reason}}


def of_grant(one: SignedIn, reason: str) -> Told:
    about = {"user_id": one.user_id, "session_id": one.session_id, "reason": reason}
    return {("grant.ended", one.grant_id): about}


def test_a_session_ends_once_with_what_lives_as_long_as_it(world: World, ending: End) -> None:
    one, other = alice(world, "openid"), alice(world, "openid")
    told = ending(lambda: endings.end_session(one.session_id, "signed_out"))
    assert told == of_session(one, "signed_out") | of_grant(one, "session_ended")
    assert ending(lambda: endings.end_session(one.session_id, "again")) == {}
    with unit(world.acme) as session:
        assert session.get_one(Session, (world.acme.tenant_id, one.session_id)).end_reason == "signed_out"
        assert session.get_one(Session, (world.acme.tenant_id, other.session_id)).ended_at is None


def test_offline_access_outlives_the_session_unless_everything_ends(world: World, ending: End) -> None:
    one = alice(world, "openid", "offline_access")
    assert ending(lambda: endings.end_session(one.session_id, "signed_out")) == of_session(one, "signed_out")
    told = ending(lambda: endings.end_session(one.session_id, "by_hand", everything=True))
    assert told == of_grant(one, "session_ended")


def test_a_grant_ends_once_and_its_session_goes_on(world: World, ending: End) -> None:
    one = alice(world)
    assert ending(lambda: endings.end_grant(one.grant_id, "revoked")) == of_grant(one, "revoked")
    assert ending(lambda: endings.end_grant(one.grant_id, "revoked")) == {}


def test_all_of_some_people_ends_and_nothing_of_others(world: World, ending: End) -> None:
    one, two, spared = alice(world, "offline_access"), alice(world), alice(world)

    def end() -> None:
        batch = events.Changes()
        endings.end_all_of([one.user_id, two.user_id], "user_removed", batch)
        events.record(batch)

    gone = (*map(of_session, (one, two), ("user_removed",) * 2), *map(of_grant, (one, two), ("user_removed",) * 2))
    assert ending(end) == {key: value for told in gone for key, value in told.items()}
    with unit(world.acme) as session:
        assert session.get_one(Session, (world.acme.tenant_id, spared.session_id)).ended_at is None


def test_another_tenants_are_out_of_reach(world: World) -> None:
    one = alice(world)
    with acting(system("test")), unit(world.globex):
        assert not endings.end_session(one.session_id, "taken")
        assert not endings.end_grant(one.grant_id, "taken")
