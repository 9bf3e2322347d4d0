"""The values that pass between finding, deciding, sending and settling.

Owns no behaviour beyond reading a target's secret: a `Target` is a snapshot of one receiver, a `Work` one claimed
delivery with all that is needed to carry it out, an `Outcome` what became of it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast

import sqlalchemy as sa

from broker.context import Scope
from broker.db import db
from broker.models import ScimTarget
from broker.registry import target_auth
from scim import profiles
from scim.profiles import Profile

LEASE = 30.0
"""Seconds a claim lasts unless renewed; the work of a killed process is taken up after as long."""

_FRESH = timedelta(days=1)

_TABLE = cast(sa.Table, ScimTarget.__table__)
# Read before every claim: a row, not an object, which costs three times as much.
_READ = sa.select(_TABLE).where(_TABLE.c.tenant_id == sa.bindparam("tenant"), _TABLE.c.id == sa.bindparam("target"))

Deed = Literal["provide", "disable", "delete", "empty", "nothing", "expand", "probe"]
"""`empty`: take our members out of a group that cannot be disabled. `probe`: ask the target what it can do."""


@dataclass(frozen=True, slots=True)
class Target:
    """One receiver as it stood when work was claimed for it."""

    scope: Scope
    id: str
    application_id: str
    base_url: str
    reach: str
    deprovision: str
    deprovision_days: int
    removal_guard: Mapping[str, int]
    postponements: int
    quarantined: bool
    requests_per_second: float | None
    profile_name: str
    profile: Profile
    mapping: Sequence[Mapping[str, Any]]
    flattens: bool
    revision: int
    asked: bool
    """It has said before what it can do."""
    stale: bool
    """It was never asked what it can do, or so long ago that it shall be asked again."""
    auth: Mapping[str, Any]
    secret: str = field(repr=False)

    @property
    def tenant(self) -> str:
        assert self.scope.tenant_id is not None
        return self.scope.tenant_id


@dataclass(slots=True)
class Work:
    """One claimed delivery."""

    target: Target
    resource_type: str
    resource_id: str
    task: str
    generation: int
    fence: int
    attempts: int
    cursor: str | None
    approved: bool
    """An administrator released it from the removal guard, and nothing about it has changed since."""
    deed: Deed = "nothing"
    name: str = ""
    document: dict[str, Any] = field(default_factory=dict)
    digest: bytes = b""
    version: int = 0
    left_out: list[str] = field(default_factory=list)
    usable: bool = True
    """Whether a person shall be able to use the application; makes the difference between present and disabled."""
    remote_id: str | None = None
    known_digest: bytes | None = None
    losing: bool = False
    gone: bool = False
    """Out of the target's reach, as against disabled within it."""
    good_until: float = field(default_factory=lambda: time.monotonic() + LEASE)
    """By this process's own clock; checked before every request that changes something."""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.resource_type, self.resource_id, self.task


@dataclass(slots=True)
class Outcome:
    """What became of a work.

    `done` and `failed` are final until the resource changes; `later` is tried again after `wait` seconds; `back` was
    not tried, or not to its end. `state`, where given, is how the resource now stands at the target.
    """

    work: Work
    kind: Literal["done", "failed", "later", "back"]
    state: Literal["creating", "present", "disabled", "removed"] | None = None
    remote_id: str | None = None
    digest: bytes | None = None
    problem: str | None = None
    exchange: Mapping[str, Any] | None = None
    """What was asked and answered when it failed, fit to be shown."""
    wait: float | None = None
    pause: float | None = None
    """The target as a whole is in trouble: send nothing to it for so many seconds at least."""
    counts: bool = True
    """Whether a day of such failures ends in `failed`."""
    never_there: bool = False
    """The target refused to make it: there is nothing to remember."""


def read_target(scope: Scope, target_id: str, *, although_paused: bool = False) -> Target | None:
    """The target in the open unit of work, or None unless it is to be served. Raises VaultError."""
    row = db.session().execute(_READ, {"tenant": scope.tenant_id, "target": target_id}).one_or_none()
    if row is None or (row.status == "paused" and not although_paused):
        return None
    return Target(
        scope=scope,
        id=row.id,
        application_id=row.application_id,
        base_url=row.base_url,
        reach=row.scope,
        deprovision=row.deprovision,
        deprovision_days=row.deprovision_days,
        removal_guard=dict(row.removal_guard),
        postponements=row.postponements,
        quarantined=row.status == "quarantined",
        requests_per_second=row.requests_per_second,
        profile_name=row.profile,
        profile=profiles.of(row.profile, row.capabilities),
        mapping=row.mapping,
        flattens=row.flattens,
        revision=row.revision,
        asked=row.probed_at is not None,
        stale=row.profile == "auto" and (row.probed_at is None or row.probed_at < datetime.now(UTC) - _FRESH),
        auth=row.auth,
        secret=target_auth.secret(row),
    )
