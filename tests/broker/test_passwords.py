"""Local passwords: what is taken for one, who may have one, and how little guessing brings."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from datetime import UTC, datetime, timedelta
from typing import Any

import argon2
import pytest
import sqlalchemy as sa
from flask import Flask

from broker import ids, passwords
from broker.context import Scope, acting, system
from broker.db import directory_writes, platform_scope, unit
from broker.directory import Directory
from broker.errors import NotFound, OwnedByUpstream, ServiceUnavailable, ValidationFailed
from broker.models import Attempt, Event, Grant, IdentityProvider, Link, Password, Session, SettingValue, Tenant
from broker.passwords import Verdict, check, set_password
from connectors.port import Identity
from tests.casting import make_user
from tests.conftest import World, make_provider

GOOD = "correct horse battery"
HERE = "192.0.2.7"


@pytest.fixture(autouse=True)
def as_the_house() -> Iterator[None]:
    with acting(system("test")):
        yield


@pytest.fixture
def acme(world: World) -> Scope:
    return world.acme


@pytest.fixture
def alice(acme: Scope) -> str:
    """A local account of acme with a password."""
    return account(acme, "alice")


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hashes that passwords were compared with, in order."""
    compared: list[str] = []
    whole = passwords._fits

    def fits(hash: str, password: bytes) -> bool:
        compared.append(hash)
        return whole(hash, password)

    monkeypatch.setattr(passwords, "_fits", fits)
    return compared


def account(scope: Scope, name: str, password: str = GOOD) -> str:
    user_id = make_user(scope, name)
    put(scope, user_id, password)
    return user_id


def put(scope: Scope, user_id: str, password: str) -> bool:
    with unit(scope):
        return set_password(user_id, password)


def let_pass(scope: Scope, **ago: float) -> None:
    """Move every count of the tenant back in time."""
    past = timedelta(**ago)
    with unit(scope) as session:
        for row in session.scalars(sa.select(Attempt)):
            row.window_ends -= past
            row.blocked_until = row.blocked_until and row.blocked_until - past


def told(scope: Scope) -> list[str]:
    with unit(scope) as session:
        names = sa.select(Event.name).where(Event.name.like("%sign_in%") | Event.name.like("password%"))
        return list(session.scalars(names.order_by(Event.no)))


def complaint(scope: Scope, user_id: str, password: str) -> str:
    with pytest.raises(ValidationFailed) as refused:
        put(scope, user_id, password)
    [text] = refused.value.errors["password"]
    return text


def test_the_right_password_of_the_name_in_any_case_opens(acme: Scope, alice: str) -> None:
    assert check(acme, " ALICE ", GOOD, HERE) == Verdict(alice)
    assert check(acme, "alice", GOOD + "!", HERE) == Verdict(None)
    assert check(acme, "alice", "", None) == Verdict(None)


def test_what_is_stored_is_argon2id_of_nineteen_mebibytes(acme: Scope, alice: str) -> None:
    with unit(acme) as session:
        [stored] = session.scalars(sa.select(Password.hash))
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


def test_composed_and_decomposed_letters_are_one_password(acme: Scope) -> None:
    bob = account(acme, "bob", "Stra\u00dfencaf\u00e9 in Z\u00fcrich")
    assert check(acme, "bob", "Stra\u00dfencafe\u0301 in Zu\u0308rich", HERE) == Verdict(bob)


def test_a_password_of_another_tenant_opens_nothing(world: World, alice: str) -> None:
    assert check(world.globex, "alice", GOOD, HERE) == Verdict(None)


@pytest.mark.parametrize("wrong", ["x" * 1_025, "\u00fc" * 513, "\ud800", "\x00"])
def test_what_cannot_be_a_password_is_a_wrong_one(acme: Scope, alice: str, hashed: list[str], wrong: str) -> None:
    assert check(acme, "alice", wrong, HERE) == Verdict(None)
    assert len(hashed) == 1


def test_a_weaker_hash_is_replaced_when_its_password_is_shown(acme: Scope, alice: str) -> None:
    weaker = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(GOOD)
    with unit(acme) as session:
        session.execute(sa.update(Password).values(hash=weaker))
    assert check(acme, "alice", "wrong", HERE) == Verdict(None)
    with unit(acme) as session:
        assert session.scalars(sa.select(Password.hash)).one() == weaker
    assert check(acme, "alice", GOOD, HERE) == Verdict(alice)
    with unit(acme) as session:
        assert "m=19456,t=2" in session.scalars(sa.select(Password.hash)).one()
    assert check(acme, "alice", GOOD, HERE) == Verdict(alice)


def test_the_unknown_the_disabled_and_the_passwordless_cost_and_say_the_same(
    acme: Scope, alice: str, hashed: list[str], platform: Scope
) -> None:
    disabled = account(acme, "dan")
    with unit(acme):
        Directory().replace("User", disabled, {"userName": "dan", "active": False})
    make_user(acme, "pat")
    tries = [(acme, "alice", "wrong"), (acme, "nobody", GOOD), (acme, "dan", GOOD), (acme, "pat", GOOD)]
    for scope, name, password in [*tries, (None, "alice", GOOD), (acme, "al\x00ice", GOOD)]:
        hashed.clear()
        assert check(scope, name, password, None) == Verdict(None)
        assert len(hashed) == 1 and "m=19456,t=2,p=1" in hashed[0]


@pytest.mark.parametrize("name", ["alice", "nobody"])
def test_every_failure_after_the_fifth_doubles_the_wait_up_to_a_minute(acme: Scope, alice: str, name: str) -> None:
    for _ in range(4):
        assert check(acme, name, "wrong", None).retry_after is None
    waits = []
    for _ in range(8):
        assert check(acme, name, "wrong", None).retry_after is None
        wait = check(acme, name, GOOD, None).retry_after
        assert wait is not None
        waits.append(wait)
        let_pass(acme, seconds=wait)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


def test_nothing_is_hashed_while_an_account_has_to_wait(acme: Scope, alice: str, hashed: list[str]) -> None:
    for _ in range(5):
        check(acme, "alice", "wrong", None)
    hashed.clear()
    assert check(acme, "alice", GOOD, None) == Verdict(None, 1)
    assert hashed == []


def test_success_ends_the_count(acme: Scope, alice: str) -> None:
    for _ in range(4):
        check(acme, "alice", "wrong", None)
    assert check(acme, "alice", GOOD, None) == Verdict(alice)
    for _ in range(4):
        assert check(acme, "alice", "wrong", None) == Verdict(None)
    assert check(acme, "alice", GOOD, None) == Verdict(alice)


def test_the_hundredth_failure_of_a_day_lays_the_account_to_rest_until_the_day_is_over(acme: Scope, alice: str) -> None:
    check(acme, "alice", "wrong", None)
    with unit(acme) as session:
        of_the_day = Attempt.window_ends > datetime.now(UTC) + timedelta(hours=2)
        session.execute(sa.update(Attempt).where(of_the_day).values(failures=99))
    assert check(acme, "alice", "wrong", None) == Verdict(None)
    wait = check(acme, "alice", GOOD, None).retry_after
    assert wait is not None and wait > 86_000
    assert "sign_in.locked" in told(acme)
    let_pass(acme, days=1)
    assert check(acme, "alice", GOOD, None) == Verdict(alice)


def test_a_new_password_wakes_an_account_at_rest(acme: Scope, alice: str) -> None:
    for _ in range(5):
        check(acme, "alice", "wrong", None)
    assert check(acme, "alice", GOOD, None).retry_after == 1
    put(acme, alice, GOOD + " staple")
    assert check(acme, "alice", GOOD + " staple", None) == Verdict(alice)


@pytest.mark.parametrize(
    ("addresses", "other"),
    [
        ([HERE, f"::ffff:{HERE}"], "192.0.2.8"),
        (["2001:db8:1:2::1", "2001:db8:1:2:ffff::9"], "2001:db8:1:3::1"),
        (["?", None], "192.0.2.8"),
    ],
)
def test_an_address_has_thirty_failures_a_minute(
    acme: Scope, alice: str, addresses: list[str | None], other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords, "_fits", lambda hash, password: password == GOOD.encode())
    for number in range(30):
        assert check(acme, f"user{number}", "wrong", addresses[number % 2]).retry_after is None
    wait = check(acme, "alice", GOOD, addresses[0]).retry_after
    assert wait is not None and 50 < wait <= 60
    assert check(acme, "alice", GOOD, other) == Verdict(alice)
    let_pass(acme, minutes=1)
    assert check(acme, "alice", GOOD, addresses[0]) == Verdict(alice)


def test_people_who_know_their_passwords_do_not_use_up_their_address(
    acme: Scope, alice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords, "_fits", lambda hash, password: True)
    for _ in range(35):
        assert check(acme, "alice", GOOD, HERE) == Verdict(alice)


def test_a_tenant_that_is_guessed_at_is_told_once_an_hour(acme: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "ALARMING_FAILURES", 3)
    for number in range(5):
        check(acme, f"user{number}", "wrong", None)
    assert told(acme).count("sign_in.alarm") == 1
    let_pass(acme, hours=1)
    for number in range(3):
        check(acme, f"user{number}", "wrong", None)
    assert told(acme).count("sign_in.alarm") == 2


def test_parallel_guesses_are_no_more_than_others(acme: Scope, alice: str, app: Flask, hashed: list[str]) -> None:
    def guess(_: int) -> Verdict:
        with app.app_context(), acting(system("test")):
            return check(acme, "alice", "wrong", None)

    with ThreadPoolExecutor(8) as pool:
        verdicts = list(pool.map(guess, range(12)))
    assert len(hashed) == 5 and sum(verdict.retry_after is not None for verdict in verdicts) == 7


def test_a_hash_waits_for_its_turn_and_not_for_ever(acme: Scope, alice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "SLOT_WAIT", 0.01)
    with passwords._turn():
        for _ in range(6):
            with pytest.raises(ServiceUnavailable) as busy:
                check(acme, "alice", GOOD, HERE)
            assert busy.value.retry_after == 1
        with pytest.raises(ServiceUnavailable):
            put(acme, alice, GOOD + " staple")
    assert check(acme, "alice", GOOD, HERE) == Verdict(alice)


@pytest.mark.parametrize(
    ("password", "words"),
    [
        ("fourteen chars", "at least 15"),
        ("x" * 1_025, "1024 octets"),
        ("\ud800" * 20, "1024 octets"),
        ("Football!123456789", "tried first"),
        ("Password1234567", "tried first"),
        ("!!!letmein!!!!!!!!!!", "tried first"),
        ("dragondragondragon", "tried first"),
        ("aaaaaaaaaaaaaaaaaaaa", "tried first"),
        ("123456789012345", "tried first"),
        ("109876543210987", "tried first"),
        ("alice.liddell@acme", "everybody knows"),
        ("Alice.Liddell-2026", "everybody knows"),
        ("LiddellAcmeAlice!!", "everybody knows"),
    ],
)
def test_short_common_and_personal_passwords_are_refused(acme: Scope, password: str, words: str) -> None:
    address = {"value": "alice.liddell@acme.example", "type": "work"}
    alice = make_user(acme, "alice.liddell", displayName="Alice Liddell", emails=[address])
    assert words in complaint(acme, alice, password)


@pytest.mark.parametrize(
    "password",
    ["acme correct horse battery", "onlysmallletters", "    spaces inside    ", "\u5bc6\u7801" * 4 + "ABCDEFG"],
)
def test_no_composition_is_asked_for(acme: Scope, password: str) -> None:
    assert account(acme, "bob", password)
    assert check(acme, "bob", password, None).user_id is not None


def test_the_least_length_is_the_tenants_setting(acme: Scope) -> None:
    bob = make_user(acme, "bob")
    assert complaint(acme, bob, "tr0ub4dor")
    with platform_scope() as session:
        session.add(SettingValue(owner_id=acme.tenant_id, name="password_policy", value={"min_length": 8}))
    assert put(acme, bob, "tr0ub4dor")


def test_a_change_ends_what_the_old_password_opened_and_the_same_one_changes_nothing(acme: Scope, alice: str) -> None:
    now = datetime.now(UTC)
    with unit(acme) as session:
        row = Session(id=ids.new("ses"), user_id=alice, digest=ids.new("ses").encode(), auth_time=now)
        row.expires_at = now + timedelta(hours=1)
        session.add(row)
        session_id = row.id
    assert put(acme, alice, GOOD) is False
    with unit(acme) as session:
        assert session.get_one(Session, (acme.tenant_id, session_id)).ended_at is None
    assert put(acme, alice, GOOD + " staple") is True
    with unit(acme) as session:
        assert session.get_one(Session, (acme.tenant_id, session_id)).end_reason == "password_changed"
        assert session.scalar(sa.select(Grant.id)) is None
    assert check(acme, "alice", GOOD, None) == Verdict(None)
    assert told(acme).count("password.set") == 2


def test_a_password_holds_until_what_it_opens_is_there_and_no_longer(acme: Scope, alice: str, app: Flask) -> None:
    verdict = check(acme, "alice", GOOD, None)
    now = datetime.now(UTC)

    def change() -> bool:
        with app.app_context(), acting(system("test")):
            return put(acme, alice, GOOD + " staple")

    with ThreadPoolExecutor(1) as pool:
        with unit(acme) as session:
            assert passwords.still_right(verdict)
            changed = pool.submit(change)
            with pytest.raises(TimeoutError):
                changed.result(timeout=0.5)
            row = Session(id=ids.new("ses"), user_id=alice, digest=b"d", auth_time=now, expires_at=now)
            session.add(row)
        assert changed.result(timeout=10) is True
    with unit(acme) as session:
        assert session.scalars(sa.select(Session.end_reason)).all() == ["password_changed"]
        assert not passwords.still_right(verdict), "the password has changed"
        assert not passwords.still_right(Verdict(alice)) and not passwords.still_right(Verdict(None))
    fresh = check(acme, "alice", GOOD + " staple", None)
    with unit(acme):
        assert passwords.still_right(fresh)


def test_only_living_people_of_the_tenant_have_passwords(world: World, acme: Scope, alice: str) -> None:
    with unit(acme):
        robot = Directory().create("User", {"userName": "robot", "userType": "ServiceAccount"}).id
    assert complaint(acme, robot, GOOD)
    for scope, user_id in ((world.globex, alice), (acme, ids.new("usr"))):
        with pytest.raises(NotFound):
            put(scope, user_id, GOOD)
    with unit(acme):
        Directory().remove("User", alice)
    with pytest.raises(NotFound):
        put(acme, alice, GOOD)
    assert check(acme, "alice", GOOD, None) == Verdict(None)
    with unit(acme) as session:
        assert session.scalar(sa.select(Password.user_id)) is None


def test_who_signs_in_at_an_upstream_has_no_local_password_while_it_is_on(acme: Scope, alice: str) -> None:
    provider = make_provider(acme, sign_in=True, jit={"enabled": True})
    with platform_scope() as session:
        via = session.get_one(IdentityProvider, (acme.tenant_id, provider))
        via.kind = "oidc"
    with unit(acme) as session:
        via = session.get_one(IdentityProvider, (acme.tenant_id, provider))
        assert Directory().admit(Identity("i", {"sub": ["bob"]}), via).user_id
        with directory_writes():
            session.execute(sa.update(Link).values(resource_id=alice))
    assert check(acme, "alice", GOOD, None) == Verdict(None)
    with pytest.raises(OwnedByUpstream):
        put(acme, alice, GOOD + " staple")
    with unit(acme) as session:
        session.get_one(IdentityProvider, (acme.tenant_id, provider)).enabled = False
    assert check(acme, "alice", GOOD, None) == Verdict(alice)


def test_a_suspended_tenant_lets_nobody_in(acme: Scope, alice: str) -> None:
    with platform_scope() as session:
        session.get_one(Tenant, acme.tenant_id).status = "suspended"
    assert check(acme, "alice", GOOD, None) == Verdict(None)


def test_a_failure_is_counted_whatever_happens_to_the_request(acme: Scope, alice: str) -> None:
    check(acme, "alice", "wrong", HERE)
    with unit(acme) as session:
        counted: list[Any] = list(session.scalars(sa.select(Attempt.failures)))
    assert counted == [1, 1, 1]


def elsewhere(*says: bool | None) -> tuple[list[bool | None], passwords.Elsewhere]:
    """Somebody who says these things one after another; what he has not said yet."""
    left = list(says)
    return left, lambda may_try: left.pop(0)


def counts(scope: Scope) -> list[int]:
    with unit(scope) as session:
        return sorted(session.scalars(sa.select(Attempt.failures)))


def test_somebody_else_is_asked_only_about_what_is_no_password_of_ours(acme: Scope, alice: str) -> None:
    left, ask = elsewhere(True, True)
    assert check(acme, "alice", GOOD, HERE, None, ask) == Verdict(alice) and len(left) == 2
    assert check(acme, "alice", "x" * 1_025, HERE, None, ask) == Verdict(None) and len(left) == 2
    assert check(acme, "alice", "another", HERE, None, ask) == Verdict(None) and len(left) == 1
    assert check(acme, "nobody", GOOD, HERE, None, ask) == Verdict(None) and left == []


def test_the_counts_are_as_somebody_else_says(acme: Scope, alice: str) -> None:
    _, ask = elsewhere(False, None, True)
    check(acme, "alice", "wrong", HERE, None, ask)
    assert counts(acme) == [1, 1, 1, 1], "of the address, the account, the account elsewhere and the tenant"
    check(acme, "alice", "wrong", HERE, None, ask)
    assert counts(acme) == [1, 2, 2, 2], "who says nothing takes back his own alone: it was no password of ours"
    check(acme, "alice", "right", HERE, None, ask)
    assert counts(acme) == [2, 2, 2], "and a right one of his is no right one of ours, whose count stays as it was"


def silent(may_try: passwords.MayTry) -> bool | None:
    return None


@pytest.mark.parametrize("name", ["alice", "somebody with no password here", "nobody"])
def test_while_a_directory_is_silent_wrong_passwords_of_ours_are_delayed_as_ever(
    acme: Scope, alice: str, hashed: list[str], name: str
) -> None:
    make_user(acme, "somebody with no password here")
    alone = [check(acme, name + " twin", "wrong", None).retry_after is None for _ in range(8)]
    beside = [check(acme, name, "wrong", HERE, None, silent).retry_after is None for _ in range(8)]
    assert beside == alone == [True] * 5 + [False] * 3
    assert len(hashed) == 10


def test_whoever_has_a_password_elsewhere_is_not_kept_out_by_having_tried(acme: Scope, alice: str) -> None:
    let_pass(acme, minutes=2)
    for _ in range(20):
        check(acme, "alice", "wrong", HERE, None, silent)
    with unit(acme) as session:
        session.execute(sa.update(Attempt).where(Attempt.blocked_until.is_not(None)).values(failures=100))
    _, ask = elsewhere(True)
    assert check(acme, "alice", "of the directory", HERE, None, ask) == Verdict(None)
    assert check(acme, "alice", GOOD, HERE, None, silent).retry_after, "while ours rests"


def test_a_right_password_elsewhere_gives_no_free_guesses_here(acme: Scope, alice: str) -> None:
    """Somebody of the directory may be called as one of our accounts is."""
    for _ in range(5):
        assert check(acme, "alice", "wrong", None, None, elsewhere(False)[1]).retry_after is None
        check(acme, "alice", "of the directory", None, None, elsewhere(True)[1])
    assert check(acme, "alice", GOOD, None).retry_after


def test_an_account_elsewhere_has_one_count_whatever_it_is_called(acme: Scope) -> None:
    passed: list[str] = []

    def at(key: str) -> passwords.Elsewhere:
        def ask(may_try: passwords.MayTry) -> bool:
            if may_try(key):
                passed.append(key)
            return False

        return ask

    names = ["ann", "ann@acme.test", "\u00e4nn", "anne.smith@mail.test"]
    for name in names * 3:
        assert check(acme, name, "wrong", None, None, at("ann")).retry_after is None, "as of a name nobody has"
    assert passed == ["ann"] * passwords.FAILURES_ELSEWHERE
    check(acme, "bob", "wrong", None, None, at("bob"))
    check(acme, "ann", "wrong", None, "a browser of ann's", at("ann"))
    assert passed[passwords.FAILURES_ELSEWHERE :] == ["bob", "ann"]


def test_the_count_of_an_account_elsewhere_ends_with_its_own_password_alone(acme: Scope) -> None:
    answers: list[bool] = []

    def two(right: bool | None) -> passwords.Elsewhere:
        """Two directories with an account of that name; the password is the second one's."""

        def ask(may_try: passwords.MayTry) -> bool | None:
            answers.append(may_try("first"))
            return may_try("second") and right

        return ask

    for _ in range(passwords.FAILURES_ELSEWHERE + 2):
        assert check(acme, "ann", "of the second", None, None, two(True)) == Verdict(None)
    assert answers == [True] * passwords.FAILURES_ELSEWHERE + [False] * 2


def test_a_password_that_was_on_its_way_counts_at_the_account_whatever_came_back(acme: Scope) -> None:
    answers: list[bool] = []

    def ask(may_try: passwords.MayTry) -> None:
        answers.append(may_try("ann"))

    for number in range(passwords.FAILURES_ELSEWHERE + 1):
        check(acme, f"name {number}", "wrong", None, None, ask)
    assert answers == [True] * passwords.FAILURES_ELSEWHERE + [False]


def test_parallel_guesses_reach_somebody_else_no_more_often_than_others(acme: Scope, app: Flask) -> None:
    asked: list[bool] = []

    def ask(may_try: passwords.MayTry) -> bool:
        asked.append(True)
        return False

    def guess(_: int) -> Verdict:
        with app.app_context(), acting(system("test")):
            return check(acme, "alice", "wrong", HERE, None, ask)

    with ThreadPoolExecutor(4) as threads:
        verdicts = list(threads.map(guess, range(12)))
    assert len(asked) <= passwords.FAILURES_ELSEWHERE
    assert any(verdict.retry_after for verdict in verdicts)
