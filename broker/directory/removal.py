"""Taking away what an upstream no longer has, after the guard has let it pass.

Owns the finding of what would go (absent after a finished full pass, disabled upstream) and the doing of it in sets,
each re-checked against the present state. Whether it may happen is the guard's. A removed resource keeps its row, frees
its name and leaves its groups; the same upstream key revives it.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from ..db import db
from ..endings import DISABLED, end_all_of
from ..events import Changes, record
from . import declared, layers, members, owners, references, rows
from .mapping import SIGN_IN_KINDS
from .news import Tally, tell_members
from .outcome import EXPLICIT, Loss, Outcome, decode_leaving

_ABSENT = sa.text("""
    SELECT no, kind, digest FROM links
    WHERE tenant_id = :tenant AND provider_id = :via AND seen_run < :run AND gone_at IS NULL ORDER BY no
""")
_MISSING = sa.text("""
    SELECT key FROM links WHERE tenant_id = :tenant AND provider_id = :via AND seen_run < :run AND gone_at IS NULL
    ORDER BY no
""")
_SAID_GONE = sa.text("""
    SELECT l.key FROM held_removals h JOIN links l ON l.tenant_id = :tenant AND l.no = h.link_no
    WHERE h.tenant_id = :tenant AND h.provider_id = :via AND h.action = 'remove' AND h.status = 'held'
      AND l.gone_at IS NULL ORDER BY l.no
""")
_DISABLED = sa.text("""
    SELECT l.no, l.kind, l.digest FROM links l
    JOIN resources r ON r.tenant_id = l.tenant_id AND r.id = l.resource_id
    WHERE l.tenant_id = :tenant AND l.provider_id = :via AND NOT l.active AND l.gone_at IS NULL
      AND r.active AND r.removed_at IS NULL AND r.type = 'User' ORDER BY l.no
""")
_LINKED = sa.text("""
    SELECT l.kind, count(*) FROM links l
    JOIN resources r ON r.tenant_id = l.tenant_id AND r.id = l.resource_id AND r.removed_at IS NULL
    WHERE l.tenant_id = :tenant AND l.provider_id = :via AND l.gone_at IS NULL GROUP BY l.kind
""")
_ADMINISTRATORS = sa.text("""
    WITH RECURSIVE holders(id) AS (
        SELECT principal_id FROM role_assignments WHERE tenant_id = :tenant
        UNION SELECT m.member_id FROM holders h JOIN memberships m
            ON m.tenant_id = :tenant AND m.group_id = h.id AND m.member_id IS NOT NULL)
    SELECT l.no FROM links l JOIN holders h ON h.id = l.resource_id WHERE l.tenant_id = :tenant AND l.no = ANY(:nos)
""")
_ADMINISTRATOR = sa.text("""
    WITH RECURSIVE up(id) AS (
        SELECT CAST(:id AS text) COLLATE "C"
        UNION SELECT m.group_id FROM up, LATERAL (
            SELECT group_id FROM memberships WHERE tenant_id = :tenant AND member_id = up.id OFFSET 0) m)
    SELECT 1 FROM role_assignments a JOIN up ON up.id = a.principal_id WHERE a.tenant_id = :tenant LIMIT 1
""")
_REVOKE_ROLES = sa.text(
    "DELETE FROM role_assignments WHERE tenant_id = :tenant AND principal_id = ANY(:ids) RETURNING id"
)
_REVOKE_TOKENS = sa.text("""
    UPDATE personal_access_tokens SET revoked_at = now()
    WHERE tenant_id = :tenant AND user_id = ANY(:ids) AND revoked_at IS NULL RETURNING id
""")
_ASSIGNED = sa.text("""
    SELECT a.id, a.application_id, a.principal_id, a.roles FROM assignments a
    JOIN resources r ON r.tenant_id = :tenant AND r.id = a.principal_id AND r.type = 'User'
    WHERE a.tenant_id = :tenant AND a.principal_id = ANY(:ids) ORDER BY a.id FOR UPDATE OF a
""")
_UNASSIGN = sa.text("DELETE FROM assignments WHERE tenant_id = :tenant AND id = ANY(:ids)")
_FORGET_CONSENTS = sa.text("""
    DELETE FROM consents WHERE tenant_id = :tenant AND user_id = ANY(:ids) RETURNING application_id, user_id
""")
_FORGET_PASSWORDS = sa.text("DELETE FROM passwords WHERE tenant_id = :tenant AND user_id = ANY(:ids)")
_FORGET_CLIENTS = sa.text("DELETE FROM service_accounts WHERE tenant_id = :tenant AND id = ANY(:ids)")
_LET_GO = sa.text("""
    UPDATE links SET gone_at = now() WHERE tenant_id = :tenant AND resource_id = ANY(:ids) AND gone_at IS NULL
""")
_UNLINK = sa.text("""
    UPDATE links SET gone_at = now() WHERE tenant_id = :tenant AND provider_id = :via AND no = ANY(:nos)
      AND gone_at IS NULL AND (seen_run < :run OR no = ANY(:explicit))
    RETURNING resource_id, kind
""")
_STILL_LINKED = sa.text("""
    SELECT DISTINCT l.resource_id FROM links l
    JOIN identity_providers p ON p.tenant_id = :tenant AND p.id = l.provider_id AND p.kind <> ALL(:sign_in_kinds)
    WHERE l.tenant_id = :tenant AND l.resource_id = ANY(:ids) AND l.gone_at IS NULL
""")
"""Who signs in at another upstream is not here because of that."""
_STILL_DISABLED = sa.text("""
    SELECT DISTINCT resource_id FROM links WHERE tenant_id = :tenant AND provider_id = :via AND no = ANY(:nos)
      AND NOT active AND gone_at IS NULL AND resource_id IS NOT NULL
""")
_GROUPS = sa.text("""
    SELECT l.no, l.resource_id, l.digest FROM links l JOIN resources r
      ON r.tenant_id = l.tenant_id AND r.id = l.resource_id AND r.removed_at IS NULL
    WHERE l.tenant_id = :tenant AND l.provider_id = :via AND l.no = ANY(:nos) AND l.gone_at IS NULL
""")
_UNHOLD = sa.text("DELETE FROM held_removals WHERE tenant_id = :tenant AND link_no = ANY(:nos) AND action = :action")
_EXPIRED = sa.text("""
    SELECT id FROM resources WHERE tenant_id = :tenant AND active AND active_until <= now() AND removed_at IS NULL
    ORDER BY id LIMIT :limit FOR NO KEY UPDATE
""")


def absent(tenant: str, via: str, run_no: int) -> list[Loss]:
    """Live links a finished full pass did not meet."""
    found = db.session().execute(_ABSENT, {"tenant": tenant, "via": via, "run": run_no})
    return [Loss(no, "remove", kind, digest) for no, kind, digest in found]


def missing(tenant: str, via: str, run_no: int | None) -> list[str]:
    """Upstream keys of live links that are said to be gone or, where `run_no` is a full pass, were not met in it."""
    where = {"tenant": tenant, "via": via}
    session = db.session()
    unmet = session.execute(_MISSING, {**where, "run": run_no}).scalars() if run_no is not None else ()
    return list(dict.fromkeys([*unmet, *session.execute(_SAID_GONE, where).scalars()]))


def disables(tenant: str, via: str) -> list[Loss]:
    """People whom this upstream has disabled and who are still active here."""
    found = db.session().execute(_DISABLED, {"tenant": tenant, "via": via})
    return [Loss(no, "disable", kind, digest) for no, kind, digest in found]


def linked(tenant: str, via: str) -> dict[str, int]:
    found = db.session().execute(_LINKED, {"tenant": tenant, "via": via})
    return {kind: int(count) for kind, count in found}


def administrators_among(tenant: str, losses: Sequence[Loss]) -> set[int]:
    """Links of people who hold an admin role, directly or through groups, and of groups that carry one: whoever leaves
    such a group is an administrator no more."""
    numbers = [loss.link_no for loss in losses]
    return set(db.session().execute(_ADMINISTRATORS, {"tenant": tenant, "nos": numbers}).scalars())


def is_administrator(tenant: str, id: str) -> bool:
    """Whether this resource holds an admin role, directly or through groups."""
    return db.session().execute(_ADMINISTRATOR, {"tenant": tenant, "id": id}).first() is not None


def take_away(tenant: str, via: str, losses: Sequence[Loss], run_no: int) -> Outcome:
    """Do these losses that still hold; what changed meanwhile is left alone. `run_no`: the full pass that proves
    absence."""
    outcome, changes, tally = Outcome(), Changes(), Tally()
    by_action = {
        action: [loss for loss in losses if loss.action == action] for action in ("remove", "disable", "shrink")
    }
    _remove(tenant, via, by_action["remove"], run_no, outcome, changes, tally)
    _disable(tenant, via, by_action["disable"], outcome, changes)
    _shrink(tenant, via, by_action["shrink"], tally)
    tell_members(tenant, tally, changes)
    record(changes)
    for action, done in by_action.items():
        if done:
            numbers = [loss.link_no for loss in done]
            db.session().execute(_UNHOLD, {"tenant": tenant, "nos": numbers, "action": action})
    return outcome


def _remove(
    tenant: str,
    via: str,
    losses: Sequence[Loss],
    run_no: int,
    outcome: Outcome,
    changes: Changes,
    tally: Tally,
) -> None:
    if not losses:
        return
    found = (
        db.session()
        .execute(
            _UNLINK,
            {
                "tenant": tenant,
                "via": via,
                "run": run_no,
                "nos": [loss.link_no for loss in losses],
                "explicit": [loss.link_no for loss in losses if loss.evidence == EXPLICIT],
            },
        )
        .all()
    )
    for resource_id, kind in found:
        if resource_id is None:
            outcome.by_kind[kind, "removed"] += 1
    unlinked = [resource_id for resource_id, _ in found if resource_id is not None]
    if not unlinked:
        return
    where = {"tenant": tenant, "ids": unlinked, "sign_in_kinds": sorted(SIGN_IN_KINDS)}
    still = set(db.session().execute(_STILL_LINKED, where).scalars())
    loaded = rows.load(tenant, unlinked)
    gone = [row for row in loaded.values() if row.id not in still and not _written_here(row)]
    for row in gone:
        outcome.count(row.noun, "removed", row.name)
    staying = loaded.keys() - {row.id for row in gone}
    layers.recompute(tenant, sorted(staying), changes)
    remove_rows(tenant, gone, changes, tally, via=via)


def _written_here(row: rows.Row) -> bool:
    """Whether the resource exists in its own right: SCIM or an administrator gave it its name."""
    return rows.name_attribute(row.type) in row.local


def remove_rows(
    tenant: str, gone: Sequence[rows.Row], changes: Changes, tally: Tally, *, via: str | None = None
) -> None:
    """Remove live resources: out of sight, out of their groups, names free; their reports and children point nowhere,
    or to whoever the upstream `via` calls so by now."""
    if not gone:
        return
    ids = [row.id for row in gone]
    for row in gone:
        row.removed_at, row.active = rows.now(), False
        row.manager_id = row.parent_id = None
        row.version += 1
        changes.add(f"{row.noun}.removed", row.type, row.id)
    declared.let_go(gone)
    rows.update(tenant, gone)
    db.session().execute(_LET_GO, {"tenant": tenant, "ids": ids})
    _end_privileges(tenant, ids, changes)
    members.forget(tenant, ids, tally)
    references.left(tenant, ids, via, changes)
    owners.left(tenant, ids, changes)


def _end_privileges(tenant: str, ids: Sequence[str], changes: Changes) -> None:
    """Roles, assignments, tokens, sessions and secrets end with the person who held them: somebody who is revived is
    nobody's administrator, uses what he is given anew, and signs in anew. What is assigned to a group stays the
    group's: who is in it is said anew."""
    where = {"tenant": tenant, "ids": list(ids)}
    end_all_of(ids, "user_removed", changes)
    for statement in (_FORGET_PASSWORDS, _FORGET_CLIENTS):
        db.session().execute(statement, where)
    for id in db.session().execute(_REVOKE_ROLES, where).scalars():
        changes.add("role.revoked", "RoleAssignment", id)
    for id in db.session().execute(_REVOKE_TOKENS, where).scalars():
        changes.add("personal_access_token.revoked", "PersonalAccessToken", id)
    for application_id, user_id in db.session().execute(_FORGET_CONSENTS, where):
        changes.add("consent.ended", "Application", application_id, {"user_id": user_id, "reason": "user_removed"})
    _unassign(tenant, ids)


def _unassign(tenant: str, ids: Sequence[str]) -> None:
    """Told before the rows go, so that subscribers still see which applications it is about."""
    assigned = db.session().execute(_ASSIGNED, {"tenant": tenant, "ids": list(ids)}).all()
    if not assigned:
        return
    changes = Changes()
    for id, application_id, principal_id, roles in assigned:
        about = {"application_id": application_id, "principal_id": principal_id, "roles": roles}
        changes.add("assignment.removed", "Assignment", id, about)
    record(changes, tenant_id=tenant)
    db.session().execute(_UNASSIGN, {"tenant": tenant, "ids": [id for id, *_ in assigned]})


def _disable(tenant: str, via: str, losses: Sequence[Loss], outcome: Outcome, changes: Changes) -> None:
    if not losses:
        return
    values = {"tenant": tenant, "via": via, "nos": [loss.link_no for loss in losses]}
    ids = list(db.session().execute(_STILL_DISABLED, values).scalars())
    for row in deactivate(tenant, ids, changes):
        outcome.count("user", "disabled", row.name)


def deactivate(tenant: str, ids: Sequence[str], changes: Changes) -> list[rows.Row]:
    """Make these people inactive, and end what they signed in to; returns those who were active."""
    active = [row for row in rows.load(tenant, ids).values() if row.active]
    for row in active:
        row.active = False
        row.version += 1
        row.write({**row.read(), "active": False})
        changes.add("user.disabled", row.type, row.id, ["active"])
    rows.update(tenant, active)
    end_all_of([row.id for row in active], DISABLED, changes)
    return active


def _shrink(tenant: str, via: str, losses: Sequence[Loss], tally: Tally) -> None:
    if not losses:
        return
    leaving = {}
    losing = {loss.link_no: loss for loss in losses}
    for number, group, digest in db.session().execute(_GROUPS, {"tenant": tenant, "via": via, "nos": list(losing)}):
        loss = losing[number]
        if digest == loss.digest and loss.evidence is not None:
            leaving[group] = decode_leaving(loss.evidence)
    members.shrink(tenant, via, leaving, tally)


def expire_due(tenant: str, limit: int = 1_000) -> int:
    """Turn `active_until` that has passed into an event; returns how many people it was."""
    ids = list(db.session().execute(_EXPIRED, {"tenant": tenant, "limit": limit}).scalars())
    changes = Changes()
    expired = deactivate(tenant, ids, changes)
    record(changes)
    return len(expired)
