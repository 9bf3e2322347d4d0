"""Signing keys: made once, sealed, published before they sign and as long as anything they signed lives."""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

import orjson
import pytest
import sqlalchemy as sa
from flask import Flask
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from broker import health, running, worker
from broker.context import PLATFORM, Scope, acting, system
from broker.db import db, hot, platform_scope, unit
from broker.errors import Conflict, ValidationFailed
from broker.models import Event, SigningKey
from broker.settings import SETTINGS, all_of, change
from broker.vault import VaultError
from oidc import keys
from tests.conftest import World


@pytest.fixture
def house(web: Flask, world: World) -> Iterator[Flask]:
    """The assembled app, with keys that nobody has turned."""
    with web.app_context(), acting(system("test")):
        fresh()
        yield web
        fresh()


def fresh() -> None:
    with platform_scope() as session:
        session.execute(sa.delete(SigningKey))
    keys.forget()
    with platform_scope():
        keys.provide()


def age(by: timedelta, *statuses: str) -> None:
    """As if that much time had passed."""
    with platform_scope() as session:
        session.execute(
            sa.update(SigningKey)
            .where(SigningKey.status.in_(statuses or ("current", "next", "previous")))
            .values(
                created_at=SigningKey.created_at - by,
                activated_at=SigningKey.activated_at - by,
                retire_after=SigningKey.retire_after - by,
            )
        )
    keys.forget()


def by_status(status: str) -> dict[str, str]:
    with platform_scope():
        return {key.algorithm: key.id for key in keys.everything() if key.status == status}


def published() -> list[str]:
    return [key["kid"] for key in orjson.loads(keys.ring().jwks())["keys"]]


def signed(algorithm: str = "RS256") -> str:
    key = keys.ring().signing(algorithm)
    return jws.serialize_compact({"alg": algorithm, "kid": key.kid}, b"{}", key, algorithms=[algorithm])


def verifies(token: str, key_set: bytes) -> bool:
    try:
        jws.deserialize_compact(token, KeySet.import_key_set(orjson.loads(key_set)), algorithms=["RS256", "ES256"])
    except JoseError:
        return False
    return True


def test_the_key_set_shows_public_keys_by_their_thumbprints_and_nothing_else(house: Flask) -> None:
    shown = orjson.loads(keys.ring().jwks())["keys"]
    assert [(key["kty"], key["alg"], key["use"]) for key in shown] == [
        ("RSA", "RS256", "sig"),
        ("EC", "ES256", "sig"),
    ] * 2
    for key in shown:
        assert set(key) == {"kty", "alg", "use", "kid"} | ({"n", "e"} if key["kty"] == "RSA" else {"crv", "x", "y"})
        imported = KeySet.import_key_set({"keys": [key]}).keys[0]
        assert imported.thumbprint() == key["kid"] and not imported.is_private
    assert KeySet.import_key_set({"keys": [shown[0]]}).keys[0].public_key.key_size == 2048


def test_private_keys_are_sealed_and_open_in_their_own_row_only(house: Flask) -> None:
    with platform_scope():
        rows = {key.id: key.private for key in keys.everything() if key.private}
    assert len(rows) == 4
    one, other = list(rows)[:2]
    assert b'"d"' not in rows[one]
    place = {"table": "signing_keys", "column": "private", "tenant": ""}
    assert orjson.loads(running.vault().open(rows[one], **place, row=one))["kid"] == one
    with pytest.raises(VaultError):
        running.vault().open(rows[other], **place, row=one)


def test_the_application_role_reads_keys_and_writes_none(house: Flask, world: World) -> None:
    assert hot("SELECT count(*) AS n FROM signing_keys")[0].n >= 4
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"), unit(world.acme):
        db.session().execute(sa.delete(SigningKey))


def test_many_who_find_no_keys_make_one_set(house: Flask) -> None:
    with platform_scope() as session:
        session.execute(sa.delete(SigningKey))

    def provide() -> None:
        with house.app_context(), platform_scope():
            keys.provide()

    threads = [threading.Thread(target=provide) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(by_status("current")) == len(by_status("next")) == 2
    with platform_scope():
        assert len(keys.everything()) == 4


def test_keys_are_parsed_once_and_read_again_after_half_a_minute(house: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def count(statement: str, *rest: object) -> object:
        asked.append(statement)
        return hot(statement, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(keys, "hot", count)
    first = keys.ring()
    signing = first.signing("RS256")
    assert keys.ring() is first and len(asked) <= 1
    monkeypatch.setattr(keys, "REREAD_SECONDS", 0.0)
    again = keys.ring()
    assert again is not first and again.signing("RS256") is signing and again.etag == first.etag


def test_invented_kids_do_not_make_us_ask_the_database_each_time(house: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def count(statement: str, *rest: object) -> object:
        asked.append(statement)
        return hot(statement, *rest)  # type: ignore[arg-type]

    keys.ring()
    monkeypatch.setattr(keys, "hot", count)
    assert all(keys.verifying(f"invented-{number}") is None for number in range(50))
    assert len(asked) <= 1


def test_what_is_published_stays_so_while_the_database_is_away(
    house: Flask, world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tenant = f"/api/v1/auth/tenants/{world.acme.slug}"
    paths = ("/.well-known/jwks.json", f"{tenant}/oauth/jwks", f"{tenant}/.well-known/openid-configuration")
    caller = house.test_client()
    before = [caller.get(path).data for path in paths]
    connections = house.extensions["scaikey.hot"]
    with socket.socket() as nobody, monkeypatch.context() as away:
        nobody.bind(("127.0.0.1", 0))
        away.setitem(connections._arguments, "host", "127.0.0.1")
        away.setitem(connections._arguments, "port", nobody.getsockname()[1])
        connections.close()
        away.setattr("time.monotonic", lambda later=time.monotonic: later() + 60)
        assert [(said.status_code, said.data) for said in map(caller.get, paths)] == [(200, body) for body in before]
        assert "those of before are used" in caplog.text
        assert caller.get("/api/v1/auth/tenants/never-asked-for/oauth/jwks").status_code == 503
        keys.forget()
        assert caller.get(paths[0]).status_code == 503
    assert caller.get(paths[0]).data == before[0]


def test_a_kid_another_process_has_just_made_is_found(house: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "UNKNOWN_SECONDS", 0.0)
    before = keys.ring()
    monkeypatch.setattr(keys, "forget", lambda: None)  # another process would not tell ours
    with platform_scope():
        new = keys.rotate(emergency=True)[0].next
    assert before.verifying(new) is None and keys.ring() is before
    found = keys.verifying(new)
    assert found is not None and found.kid == new


def test_a_next_key_that_is_not_published_long_enough_does_not_sign(house: Flask) -> None:
    before = by_status("current")
    with pytest.raises(Conflict, match=r"cached for 10 minutes.*--emergency"), platform_scope():
        keys.rotate()
    assert by_status("current") == before
    age(keys.AHEAD)
    upcoming = by_status("next")
    with platform_scope():
        keys.rotate()
    assert by_status("current") == upcoming


def test_what_was_signed_before_a_rotation_verifies_by_old_key_sets_and_new(house: Flask) -> None:
    age(keys.AHEAD)
    cached, old = keys.ring().jwks(), {algorithm: signed(algorithm) for algorithm in keys.ALGORITHMS}
    with platform_scope():
        turned = keys.rotate()
    assert {one.algorithm for one in turned} == set(keys.ALGORITHMS)
    for algorithm in keys.ALGORITHMS:
        new = signed(algorithm)
        assert verifies(new, cached), "a cache as old as the last rotation knows the new key"
        assert verifies(old[algorithm], keys.ring().jwks()) and verifies(new, keys.ring().jwks())
    assert {key for one in turned for key in (one.current, one.next, one.replaced)} == set(published())


def test_three_rotations_refuse_nothing_to_a_validator_with_a_cache_of_ten_minutes(house: Flask) -> None:
    cached, alive = keys.ring().jwks(), [signed()]
    for _ in range(3):
        age(keys.AHEAD)
        cached = keys.ring().jwks()
        with platform_scope():
            keys.rotate()
        alive.append(signed())
        assert all(verifies(token, cached) for token in alive)
    assert len(set(alive)) == 4


def test_rotations_under_load_refuse_nothing_of_ours(web: Flask, house: Flask) -> None:
    stop, wrong, read = threading.Event(), list[object](), list[str]()

    def work(algorithm: str) -> None:
        with web.app_context():
            token = None
            while not stop.is_set():
                try:
                    token = token or signed(algorithm)
                    kid = orjson.loads(base64.urlsafe_b64decode(token.partition(".")[0] + "=="))["kid"]
                    key = keys.verifying(kid)
                    assert key is not None, kid
                    jws.deserialize_compact(token, key, algorithms=[algorithm])
                    read.append(kid)
                    token = token if len(read) % 7 else None
                except Exception as failure:
                    wrong.append(failure)
                    return

    threads = [threading.Thread(target=work, args=(algorithm,)) for algorithm in keys.ALGORITHMS * 2]
    for thread in threads:
        thread.start()
    for _ in range(3):
        age(keys.AHEAD)
        with platform_scope():
            keys.rotate()
        before = len(read)
        while len(read) < before + 40 and not wrong:
            time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == [] and len(set(read)) >= 6


def test_a_previous_key_is_published_until_nothing_it_signed_lives_and_then_wiped(house: Flask) -> None:
    age(keys.AHEAD)
    old = keys.ring().signing("RS256").kid
    with platform_scope():
        keys.rotate()
    with platform_scope():
        [row] = [key for key in keys.everything() if key.id == old]
        assert row.retire_after is not None and row.replaced_at is not None
        assert row.retire_after - row.replaced_at == keys.longest_life() + keys.SKEW
    age(keys.longest_life(), "previous")
    worker.turn_keys()
    assert old in published(), "the skew is not over"
    age(keys.SKEW, "previous")
    assert old not in published() and keys.verifying(old or "") is None, "by the time itself, before any clock looked"
    worker.turn_keys()
    with platform_scope():
        [row] = [key for key in keys.everything() if key.id == old]
        assert (row.status, row.private) == ("retired", None)


def test_an_emergency_trusts_nothing_that_was_signed_before(house: Flask) -> None:
    age(keys.AHEAD)
    older = signed()
    with platform_scope():
        keys.rotate()
    present = signed()
    with platform_scope():
        keys.rotate(emergency=True)
    assert not verifies(older, keys.ring().jwks()) and not verifies(present, keys.ring().jwks())
    assert verifies(signed(), keys.ring().jwks())
    assert by_status("previous") == {} and len(by_status("current")) == len(by_status("next")) == 2


def test_the_clock_rotates_what_has_signed_its_time_and_not_before(house: Flask) -> None:
    lifetime = timedelta(seconds=SETTINGS["signing_key_lifetime"].default)
    before = by_status("current")
    age(lifetime - timedelta(hours=1))
    worker.turn_keys()
    assert by_status("current") == before
    age(timedelta(hours=1))
    upcoming = by_status("next")
    worker.turn_keys()
    worker.turn_keys()
    assert by_status("current") == upcoming and by_status("previous") == before


def test_the_clock_waits_when_the_next_key_is_too_young(house: Flask) -> None:
    age(timedelta(seconds=SETTINGS["signing_key_lifetime"].default), "current")
    before = by_status("current")
    worker.turn_keys()
    assert by_status("current") == before


def test_how_long_a_key_signs_is_the_platforms_setting_and_nobody_elses(house: Flask, world: World) -> None:
    with unit(world.acme):
        assert "signing_key_lifetime" not in all_of(world.acme)
        with pytest.raises(ValidationFailed):
            change(world.acme, {"signing_key_lifetime": 86_400})
    with platform_scope():
        assert all_of(PLATFORM)["signing_key_lifetime"].value == 90 * 86_400
        change(PLATFORM, {"signing_key_lifetime": 86_400})
    try:
        age(timedelta(days=1))
        upcoming = by_status("next")
        worker.turn_keys()
        assert by_status("current") == upcoming
    finally:
        with platform_scope():
            change(PLATFORM, {"signing_key_lifetime": None})


def test_a_rotation_is_told_in_the_platforms_log(house: Flask, platform: Scope) -> None:
    with platform_scope():
        turned = keys.rotate(emergency=True)
    with unit(platform) as session:
        found = session.scalars(
            sa.select(Event).where(Event.name == "signing_key.rotated", Event.resource_id == turned[0].current)
        ).one()
        assert (found.actor_id, found.changed) == ("system:test", {"emergency": True})


def test_the_doctor_sees_keys_that_are_missing_or_cannot_be_opened(house: Flask) -> None:
    assert health.signing_keys().ok
    with platform_scope() as session:
        session.execute(sa.update(SigningKey).where(SigningKey.status == "next").values(private=b"damaged"))
    assert not health.signing_keys().ok
    with platform_scope() as session:
        session.execute(sa.delete(SigningKey).where(SigningKey.status == "next"))
    missing = health.signing_keys()
    assert not missing.ok and "no next RS256 key" in missing.found
    with platform_scope():
        keys.provide()
    assert health.signing_keys().ok
