"""SCIM targets of a tenant: where an application receives people, in what form, and how it is spared.

Writes the target's row; its credential is `target_auth`'s. What is owed to it, and what it has, is `scim.push`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import urlsplit

import sqlalchemy as sa

from broker import ids, running, schedule
from broker.config import is_loopback
from broker.db import current_tenant, db
from broker.errors import Conflict, ValidationFailed
from broker.models import (
    ApplicationAccess,
    Delivery,
    Resource,
    ScimTarget,
    TargetMember,
    TargetRemoval,
    TargetResource,
)
from broker.registry import target_auth
from broker.registry.changes import assign, check_web_url, tell
from broker.settings import SETTINGS
from scim import profiles

RECONCILE: Mapping[str, Any] = {"enabled": False, "schedule": "1d", "policy": "report", "ignore": []}
POLICIES = ("overwrite", "report", "ignore")
DRIFTS = ("missing", "changed", "unexpected")
_FORM = frozenset({"profile", "mapping", "nested_groups"})


def create(values: Mapping[str, Any]) -> ScimTarget:
    """A target of the open tenant. Raises ValidationFailed, NotAvailable."""
    session = db.session()
    if session.get(ApplicationAccess, (current_tenant(), values["application_id"])) is None:
        raise ValidationFailed(errors={"application_id": ["There is no such application for this tenant."]})
    target = ScimTarget(tenant_id=current_tenant(), id=ids.new("tgt"), **_checked(values))
    target_auth.keep(target, values["auth"])
    _reform(target)
    _reschedule(target)
    session.add(target)
    session.flush()
    session.refresh(target)
    tell("scim_target.created", "ScimTarget", target.id, sorted(values))
    return target


def update(target: ScimTarget, values: Mapping[str, Any]) -> list[str]:
    """Change it. Pausing is a change of status; leaving a pause is `resume`'s.

    Raises Conflict for another base_url while somebody is still to be taken away at the present one.
    """
    if values.get("status", target.status) not in ("paused", target.status):
        raise ValidationFailed(errors={"status": ["A target is set to paused here, and leaves that by resume."]})
    days = target.deprovision_days
    changed = assign(target, _checked(values))
    if "auth" in values and target_auth.keep(target, values["auth"]):
        changed = sorted({*changed, "auth"})
    if "base_url" in changed:
        _forget_what_is_there(target)
        target.capabilities, target.probed_at = {}, None
    if not _FORM.isdisjoint(changed) or "base_url" in changed:
        _reform(target)
    if "reconcile" in changed:
        _reschedule(target)
    if "deprovision" in changed and target.deprovision == "delete_after_days":
        _begin_days(target)
    if "deprovision" in changed or target.deprovision_days < days:
        _judge_anew(target)
    if not {"base_url", "auth"}.isdisjoint(changed):
        _try_again(target)
    if changed:
        db.session().flush()
        tell("scim_target.updated", "ScimTarget", target.id, changed)
    return changed


def learn(target: ScimTarget, capabilities: Mapping[str, Any]) -> bool:
    """Keep what the target said of itself just now; whether it will be spoken to differently."""
    before = target.profile, target.flattens, profiles.of(target.profile, target.capabilities)
    target.capabilities, target.probed_at = dict(capabilities), sa.func.now()
    if before[2] == profiles.of(target.profile, target.capabilities):
        return False
    _reform(target)
    db.session().flush()
    tell("scim_target.updated", "ScimTarget", target.id, ["capabilities"])
    return True


def _reform(target: ScimTarget) -> None:
    """Everybody at the target is looked at again: he may have to be sent in another form."""
    target.revision = (target.revision or 0) + 1
    profile = profiles.of(target.profile or "auto", target.capabilities or {})
    target.flattens = profiles.flattens(target.nested_groups or "auto", profile)


def reconcile_schedule(values: Mapping[str, Any]) -> schedule.Schedule:
    """When a target is compared by itself. Raises ValueError with a sentence for the administrator."""
    unknown = sorted(set(values) - set(RECONCILE))
    if unknown:
        raise ValueError(f"{unknown[0]}: there is no such setting; there are {', '.join(RECONCILE)}")
    whole = {**RECONCILE, **values}
    if whole["policy"] not in POLICIES:
        raise ValueError(f"policy must be one of {', '.join(POLICIES)}")
    ignored = whole["ignore"]
    if not isinstance(ignored, list) or any(kind not in DRIFTS for kind in ignored):
        raise ValueError(f"ignore must be a list of {', '.join(DRIFTS)}")
    return schedule.parse({"enabled": whole["enabled"], "schedule": whole["schedule"]})


def _reschedule(target: ScimTarget) -> None:
    target.reconcile = {**RECONCILE, **(target.reconcile or {})}
    following = reconcile_schedule(target.reconcile)
    target.reconcile_due_at = following.after(datetime.now(UTC)) if following.enabled else None


def remove(target: ScimTarget) -> None:
    """Stop provisioning. The accounts at the target stay as they are. Told before the row goes, for subscribers."""
    tell("scim_target.removed", "ScimTarget", target.id, {"application_id": target.application_id})
    db.session().delete(target)
    db.session().flush()


def resume(target: ScimTarget, removals: Literal["approve", "reject"] | None) -> None:
    """Leave pause or quarantine, and try again what failed.

    Removals held at this moment are sent (`approve`), dropped and muted until they change (`reject`), or go on waiting
    (None); those that were not judged yet are no part of the decision.
    """
    session = db.session()
    if removals is not None:
        rejected = {"status": "muted", "updated_at": sa.func.now()}
        decided = {**_again(), "approved": True} if removals == "approve" else rejected
        held = sa.update(Delivery).where(Delivery.target_id == target.id, Delivery.status == "held")
        session.execute(held.values(decided))
    _try_again(target)
    target.status = "active"
    session.flush()
    tell("scim_target.resumed", "ScimTarget", target.id, {"removals": removals} if removals else ["status"])


def _try_again(target: ScimTarget) -> None:
    """Whatever stood in the way may be gone: nothing waits, and what failed is owed again."""
    failed = sa.update(Delivery).where(Delivery.target_id == target.id, Delivery.status == "failed")
    db.session().execute(failed.values(_again()))
    target.postponed_until, target.postponements, target.status_reason = None, 0, None
    target.failing_since = None


def _again() -> dict[str, Any]:
    return {"status": "pending", "attempts": 0, "due_at": sa.func.now(), "updated_at": sa.func.now()}


def _begin_days(target: ScimTarget) -> None:
    """Who left under another policy was promised nothing: his days until he is deleted begin now."""
    left = sa.update(TargetResource).where(TargetResource.target_id == target.id, TargetResource.left_at.is_not(None))
    db.session().execute(left.values(left_at=sa.func.now()))


def _judge_anew(target: ScimTarget) -> None:
    """What was let pass or approved was so under the policy of then: more than to be disabled is asked for again."""
    session = db.session()
    deletions = sa.update(TargetRemoval).where(TargetRemoval.target_id == target.id, TargetRemoval.covers == "delete")
    session.execute(deletions.values(covers="disable"))
    approved = sa.update(Delivery).where(Delivery.target_id == target.id, Delivery.approved)
    session.execute(approved.values(approved=False))


def _forget_what_is_there(target: ScimTarget) -> None:
    """Another address may be another receiver: everybody is looked for there before he is made.

    Raises Conflict while anybody is still to be taken away at the old one: he would keep his account there unseen.
    """
    if db.session().scalar(sa.select(sa.exists(_leaving(target)))):
        raise Conflict(
            "People or groups are still to be taken away at the present base_url. Resume the target, decide over held "
            "removals, and wait until they are sent; or remove the target and make another."
        )
    for remembered in (TargetResource, TargetMember):
        db.session().execute(sa.delete(remembered).where(remembered.target_id == target.id))


def _leaving(target: ScimTarget) -> sa.Select[str]:
    """Whoever is usable at the target and shall not be; not those whose removal an administrator rejected."""
    live = Resource.removed_at.is_(None) & sa.or_(
        Resource.type == "Group",
        Resource.active & sa.or_(Resource.active_until.is_(None), Resource.active_until > sa.func.now()),
    )
    departure = sa.or_(Delivery.status == "held", (Delivery.lane == 0) & Delivery.status.in_(("pending", "failed")))
    return (
        sa.select(TargetResource.resource_id)
        .outerjoin(
            Resource, (Resource.tenant_id == TargetResource.tenant_id) & (Resource.id == TargetResource.resource_id)
        )
        .outerjoin(
            Delivery,
            (Delivery.tenant_id == TargetResource.tenant_id)
            & (Delivery.target_id == TargetResource.target_id)
            & (Delivery.resource_id == TargetResource.resource_id)
            & (Delivery.task == "push"),
        )
        .where(
            TargetResource.target_id == target.id,
            TargetResource.state.in_(("creating", "present")),
            sa.or_(departure, sa.not_(sa.func.coalesce(live, False))),
            Delivery.status.is_distinct_from("muted"),
        )
    )


def _checked(values: Mapping[str, Any]) -> dict[str, Any]:
    if "base_url" in values:
        url = values["base_url"]
        loopback = running.config().allow_http_loopback
        check_web_url("base_url", url, loopback=loopback)
        parts = urlsplit(url)
        if parts.query or parts.fragment or (parts.scheme == "http" and not is_loopback(parts.hostname or "")):
            raise ValidationFailed(errors={"base_url": ["Must be an https URL without query (http on loopback only)."]})
    if not 1 <= values.get("deprovision_days", 1) <= 3_650:
        raise ValidationFailed(errors={"deprovision_days": ["Must be from 1 to 3650."]})
    pace = values.get("requests_per_second")
    if pace is not None and not 0.5 <= pace <= 10_000:
        raise ValidationFailed(errors={"requests_per_second": ["Must be from 0.5 to 10000, or null."]})
    try:
        reconcile_schedule(values.get("reconcile", {}))
    except ValueError as error:
        raise ValidationFailed(errors={"reconcile": [str(error)]}) from None
    try:
        SETTINGS["removal_guard"].check(values.get("removal_guard", {}))
    except ValueError as error:
        raise ValidationFailed(errors={"removal_guard": [str(error)]}) from None
    return {name: value for name, value in values.items() if name != "auth"}
