"""Settings by level: the value nearest the tenant holds, unless a level above locked it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import Session

from broker import settings
from broker.context import PLATFORM, Scope
from broker.db import platform_scope, unit
from broker.errors import Conflict, NotAvailable, ValidationFailed
from broker.models import SettingValue
from broker.settings import REMOVAL_GUARD, SETTINGS, Effective
from tests.conftest import World

TIMEOUT = "session_timeout"


@contextmanager
def at(scope: Scope) -> Iterator[Session]:
    """A unit of work in which the settings of a level may be written."""
    with platform_scope() if scope.spans_tenants else unit(scope) as session:
        yield session


def change(scope: Scope, **values: Any) -> list[str]:
    with at(scope):
        return settings.change(scope, values)


def effective(scope: Scope, name: str = TIMEOUT) -> tuple[Any, str, str | None]:
    with at(scope):
        found = settings.all_of(scope)[name]
    return found.value, found.source, found.locked_by


@pytest.fixture
def platform(app: Flask) -> Iterator[Scope]:
    """The platform's own level, which all tests share: left as it was found."""
    yield PLATFORM
    with platform_scope() as session:
        session.execute(sa.delete(SettingValue).where(SettingValue.owner_id == settings.PLATFORM_OWNER))


@pytest.fixture
def partner(world: World) -> Scope:
    return Scope(None, world.partner_id)


def test_defaults_hold_where_nothing_is_set(world: World) -> None:
    with unit(world.acme):
        found = settings.all_of(world.acme)
        assert settings.of(world.acme, TIMEOUT) == 43_200
    assert found == {
        name: Effective(setting.default, "default", None)
        for name, setting in SETTINGS.items()
        if not setting.platform_only
    }


def test_value_nearest_the_tenant_holds(world: World, platform: Scope, partner: Scope) -> None:
    expected = [(43_200, "default", None)]
    for scope, seconds, source in (
        (platform, 1_000, "platform"),
        (partner, 2_000, "partner"),
        (world.acme, 3_000, "tenant"),
    ):
        assert effective(world.acme) == expected[-1]
        assert change(scope, session_timeout=seconds) == [TIMEOUT]
        expected.append((seconds, source, None))
    assert effective(world.acme) == (3_000, "tenant", None)
    assert effective(world.globex) == effective(partner) == (2_000, "partner", None)
    assert effective(platform) == (1_000, "platform", None)
    for scope, (seconds, source, _) in zip((world.acme, partner, platform), reversed(expected[:-1]), strict=True):
        assert change(scope, session_timeout=None) == [TIMEOUT]
        assert effective(world.acme) == (seconds, source, None)


@pytest.mark.parametrize("level", ["platform", "partner"])
def test_locked_value_holds_below(world: World, platform: Scope, partner: Scope, level: str) -> None:
    above = platform if level == "platform" else partner
    change(world.acme, session_timeout=3_000)
    change(above, session_timeout={"value": 600, "locked": True})
    assert effective(world.acme) == (600, level, level)
    for below in (world.acme, partner) if level == "platform" else (world.acme,):
        for value in (700, None):
            with pytest.raises(Conflict, match=f"locked at the {level}"):
                change(below, session_timeout=value)
    change(above, session_timeout={"value": 600, "locked": False})
    assert effective(world.acme) == (3_000, "tenant", None)


def test_highest_lock_wins(world: World, platform: Scope, partner: Scope) -> None:
    change(partner, session_timeout={"value": 700, "locked": True})
    change(platform, session_timeout={"value": 600, "locked": True})
    assert effective(world.acme) == (600, "platform", "platform")


def test_own_lock_does_not_bind_its_level(world: World) -> None:
    change(world.acme, session_timeout={"value": 600, "locked": True})
    assert effective(world.acme) == (600, "tenant", "tenant")
    assert change(world.acme, session_timeout=700) == [TIMEOUT]
    assert effective(world.acme) == (700, "tenant", None)


def test_only_what_differs_changes(world: World) -> None:
    assert change(world.acme, session_timeout=600, mfa_policy="off") == [TIMEOUT, "mfa_policy"]
    assert change(world.acme, session_timeout=600, mfa_policy=None, removal_guard=None) == ["mfa_policy"]
    assert change(world.acme, session_timeout={"value": 600, "locked": True}) == [TIMEOUT]
    assert change(world.acme, session_timeout={"value": 600, "locked": True}) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("session_timeout", 299),
        ("session_timeout", 2_592_001),
        ("session_timeout", True),
        ("session_timeout", 600.0),
        ("session_timeout", "600"),
        ("session_timeout", {"value": "600"}),
        ("session_timeout", {"value": 600, "locked": "yes"}),
        ("session_timeout", {"value": 600, "extra": 1}),
        ("password_policy", {"min_length": 7}),
        ("password_policy", {"min_length": 129}),
        ("password_policy", {"min_length": True}),
        ("password_policy", {"max_length": 20}),
        ("password_policy", 20),
        ("password_grant_enabled", 0),
        ("mfa_policy", "sometimes"),
        ("mfa_policy", ["off"]),
        ("removal_guard", {"min": -1}),
        ("removal_guard", {"percent": 101}),
        ("removal_guard", {"percent_24h": 1.5}),
        ("removal_guard", {"minimum": 1}),
        ("removal_guard", [5, 10, 20]),
        ("no_such_setting", 1),
    ],
)
def test_wrong_values_are_named_and_nothing_is_written(world: World, name: str, value: Any) -> None:
    with pytest.raises(ValidationFailed) as refused:
        change(world.acme, **{"session_idle_timeout": 60, name: value})
    assert refused.value.errors.keys() == {name}
    assert effective(world.acme, "session_idle_timeout")[1] == "default"


@pytest.mark.parametrize("values", [{"mfa_policy": "required"}, {"password_grant_enabled": True}])
def test_what_is_not_built_is_not_available(world: World, values: dict[str, Any]) -> None:
    with pytest.raises(NotAvailable):
        change(world.acme, **values)


def test_objects_are_completed_with_their_defaults(world: World) -> None:
    change(world.acme, removal_guard={"percent": 30}, password_policy={})
    assert effective(world.acme, "removal_guard")[0] == {**REMOVAL_GUARD, "percent": 30}
    assert effective(world.acme, "password_policy")[0] == {"min_length": 15}


def test_object_named_value_is_a_wrapper_not_a_guard(world: World) -> None:
    change(world.acme, removal_guard={"value": {"min": 1}, "locked": True})
    assert effective(world.acme, "removal_guard") == ({**REMOVAL_GUARD, "min": 1}, "tenant", "tenant")


def test_tenants_do_not_meet(world: World) -> None:
    change(world.acme, session_timeout=600)
    assert effective(world.globex) == (43_200, "default", None)
    with unit(world.globex) as session:
        assert session.scalars(sa.select(SettingValue)).all() == []
        assert settings.of(world.acme, TIMEOUT) == 43_200


@pytest.mark.parametrize("owner", ["platform", "partner", "other tenant"])
def test_database_refuses_to_write_another_levels_value(world: World, owner: str) -> None:
    owner_id = {"platform": "platform", "partner": world.partner_id, "other tenant": world.globex.tenant_id}[owner]
    with pytest.raises(ProgrammingError, match="row-level security"), unit(world.acme) as session:
        session.add(SettingValue(owner_id=owner_id, name=TIMEOUT, value=600))
        session.flush()
