"""The product's settings, by level.

A setting is declared once, with its default, its check and its sentence. The value set nearest the tenant wins unless a
level above locked it: platform → partner → tenant. The process's environment is `config`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from .context import Scope
from .db import db
from .errors import Conflict, NotAvailable, ValidationFailed
from .models import SettingValue

Level = Literal["platform", "partner", "tenant"]
PLATFORM_OWNER = "platform"
LONGEST_ACCESS_TOKEN = 86_400
"""Seconds no access token outlives, whatever an application or a tenant sets: keys that signed are kept so long."""


@dataclass(frozen=True, slots=True)
class Setting:
    """`check` returns the cleaned value or raises ValueError with a sentence for the administrator. One that is of the
    platform alone shows and is set nowhere else."""

    name: str
    default: Any
    doc: str
    check: Callable[[Any], Any]
    platform_only: bool = False


@dataclass(frozen=True, slots=True)
class Effective:
    """A setting's value, the level that set it (or `default`), and the level that locked it, if any."""

    value: Any
    source: Level | Literal["default"]
    locked_by: Level | None


def _seconds(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"must be a whole number of seconds from {low} to {high}")
        return value

    return check


def _count(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return check


def _guard(value: Any) -> dict[str, int]:
    default: dict[str, int] = REMOVAL_GUARD
    if not isinstance(value, dict) or set(value) - set(default):
        raise ValueError("must be an object with min, percent and percent_24h")
    merged = {**default, **value}
    for name, number in merged.items():
        top = 1_000_000 if name == "min" else 100
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= top:
            raise ValueError(f"{name} must be a whole number from 0 to {top}")
    return merged


def _mfa(value: Any) -> str:
    if value in ("optional", "required", "admins"):
        raise NotAvailable("mfa_policy: only `off` is available")
    if value != "off":
        raise ValueError("must be off")
    return "off"


def _password_policy(value: Any) -> dict[str, int]:
    if not isinstance(value, dict) or set(value) - {"min_length"}:
        raise ValueError("must be an object with min_length")
    length = value.get("min_length", 15)
    if isinstance(length, bool) or not isinstance(length, int) or not 8 <= length <= 128:
        raise ValueError("min_length must be a whole number from 8 to 128")
    return {"min_length": length}


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _off(value: Any) -> bool:
    if _flag(value):
        raise NotAvailable("password_grant_enabled: the password grant is not available")
    return False


REMOVAL_GUARD = {"min": 5, "percent": 10, "percent_24h": 20}

SETTINGS: dict[str, Setting] = {
    setting.name: setting
    for setting in (
        Setting("mfa_policy", "off", "Who needs a second factor to sign in.", _mfa),
        Setting("password_policy", {"min_length": 15}, "What a local password must satisfy.", _password_policy),
        Setting("session_timeout", 43_200, "Longest life of a session, in seconds.", _seconds(300, 2_592_000)),
        Setting("session_idle_timeout", 1_800, "A session unused this long ends, in seconds.", _seconds(60, 2_592_000)),
        Setting(
            "access_token_lifetime", 3_600, "Life of an access token, in seconds.", _seconds(60, LONGEST_ACCESS_TOKEN)
        ),
        Setting("refresh_token_lifetime", 2_592_000, "Life of a refresh token, in seconds.", _seconds(300, 31_536_000)),
        Setting("password_grant_enabled", False, "Whether the password grant may be used.", _off),
        Setting(
            "removal_guard",
            REMOVAL_GUARD,
            "How many removals pass unseen: more than `min` and more than `percent` of those linked in one run, or "
            "`percent_24h` in 24 hours, are held for approval.",
            _guard,
        ),
        Setting(
            "scim_unique_group_names",
            True,
            "Whether SCIM refuses a group whose name another group of the tenant has. Groups that an upstream brings "
            "are never refused.",
            _flag,
        ),
        Setting(
            "scim_requests_per_second",
            500,
            "How many requests a second one credential may make at the SCIM door, in the long run.",
            _count(1, 10_000),
        ),
        Setting(
            "scim_burst",
            5_000,
            "How many requests one credential may make at the SCIM door at once; a bulk's operations count.",
            _count(1, 100_000),
        ),
        Setting(
            "sync_runs_per_tenant",
            2,
            "How many upstreams of one tenant are read at the same time.",
            _count(1, 100),
            platform_only=True,
        ),
        Setting(
            "sync_runs_at_once",
            16,
            "How many upstreams are read at the same time in the whole installation; half of them in full at most.",
            _count(2, 1_000),
            platform_only=True,
        ),
        Setting(
            "signing_key_lifetime",
            7_776_000,
            "How long a key signs before the next one takes over, in seconds.",
            _seconds(86_400, 63_072_000),
            platform_only=True,
        ),
    )
}


def owners(scope: Scope) -> Sequence[tuple[Level, str]]:
    """The levels of a scope, widest first, with the id that owns the values set there."""
    chain: list[tuple[Level, str]] = [("platform", PLATFORM_OWNER)]
    if scope.partner_id:
        chain.append(("partner", scope.partner_id))
    if scope.tenant_id:
        chain.append(("tenant", scope.tenant_id))
    return chain


def all_of(scope: Scope) -> dict[str, Effective]:
    """Every setting as it holds in the scope. Needs an open unit of work that may read the levels."""
    chain = owners(scope)
    rows = db.session().execute(
        sa.select(SettingValue.owner_id, SettingValue.name, SettingValue.value, SettingValue.locked).where(
            SettingValue.owner_id.in_([owner for _, owner in chain])
        )
    )
    found = {(owner, name): (value, locked) for owner, name, value, locked in rows}
    effective: dict[str, Effective] = {}
    for name, setting in SETTINGS.items():
        if setting.platform_only and chain[-1][0] != "platform":
            continue
        result = Effective(setting.default, "default", None)
        for level, owner in chain:
            if (owner, name) in found:
                value, locked = found[owner, name]
                result = Effective(value, level, level if locked else None)
                if locked:
                    break
        effective[name] = result
    return effective


def of(scope: Scope, name: str) -> Any:
    """The value of one setting in the scope."""
    return all_of(scope)[name].value


def change(scope: Scope, values: dict[str, Any]) -> list[str]:
    """Set values at the scope's own level: `{name: value | {"value": …, "locked": bool} | null}`; null takes the
    value back.

    Returns the names that changed. Raises ValidationFailed, NotAvailable, or Conflict when a level above locked one.
    """
    chain = owners(scope)
    level, owner = chain[-1]
    present = all_of(scope)
    errors: dict[str, list[str]] = {}
    clean: dict[str, tuple[Any, bool] | None] = {}
    for name, given in values.items():
        setting = SETTINGS.get(name)
        if setting is None or name not in present:
            errors[name] = ["There is no such setting."]
            continue
        if present[name].locked_by not in (None, level):
            raise Conflict(f"{name} is locked at the {present[name].locked_by} level")
        if given is None:
            clean[name] = None
            continue
        locked = False
        if isinstance(given, dict) and "value" in given and set(given) <= {"value", "locked"}:
            locked, given = given.get("locked", False), given["value"]
            if not isinstance(locked, bool):
                errors[name] = ["locked must be true or false"]
                continue
        try:
            clean[name] = (setting.check(given), locked)
        except ValueError as error:
            errors[name] = [str(error)]
    if errors:
        raise ValidationFailed(errors=errors)
    session = db.session()
    changed = []
    for name, item in clean.items():
        row = session.get(SettingValue, (owner, name))
        if item is None:
            if row is not None:
                session.delete(row)
                changed.append(name)
        elif row is None:
            session.add(SettingValue(owner_id=owner, name=name, value=item[0], locked=item[1]))
            changed.append(name)
        elif (row.value, row.locked) != item:
            row.value, row.locked = item
            changed.append(name)
    session.flush()
    return changed
