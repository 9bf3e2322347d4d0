"""What upstreams would take away: judged at the end of a pass, then done, or held until an administrator decides.

Owns the rows of `held_removals` and the end of every sync run. What would go is found, re-checked and done by the
directory; how much may go is `guard`'s. A held removal is one row per link; a rejected one stays and mutes the same
removal until the upstream's record changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

import orjson
import sqlalchemy as sa
from sqlalchemy.orm.attributes import flag_modified

from connectors import kinds

from . import events, guard
from .db import current_scope, db
from .directory import EXPLICIT, Directory, Loss, members_lost
from .errors import Conflict, NotFound
from .models import HeldRemoval, IdentityProvider, SyncRun

AT_ONCE = 1_000
"""Losses done in one statement set, and by a pass in one transaction."""

PLANNED = 100
"""Lines of a dry run's plan."""

_KEEP = sa.text("""
    INSERT INTO held_removals AS h (tenant_id, provider_id, run_id, link_no, action, digest, evidence, reason, status)
    SELECT :tenant, :via, :run, u.link_no, u.action, u.digest, u.evidence, u.reason, 'held'
    FROM unnest(CAST(:links AS bigint[]), CAST(:actions AS text[]), CAST(:digests AS bytea[]),
                CAST(:evidence AS bytea[]), CAST(:reasons AS text[])) AS u(link_no, action, digest, evidence, reason)
    ON CONFLICT (tenant_id, link_no, action) DO UPDATE SET
        run_id = EXCLUDED.run_id, digest = EXCLUDED.digest, evidence = EXCLUDED.evidence, reason = EXCLUDED.reason,
        status = CASE WHEN h.status = 'rejected' AND (h.digest = EXCLUDED.digest
                           OR (h.action = 'shrink' AND h.evidence = EXCLUDED.evidence))
                      THEN 'rejected' ELSE 'held' END
""")
_KEPT = sa.text("""
    SELECT h.link_no, h.action, l.kind, h.digest, h.evidence, h.run_id
    FROM held_removals h JOIN links l ON l.tenant_id = :tenant AND l.no = h.link_no
    WHERE h.tenant_id = :tenant AND h.provider_id = :via AND h.status = 'held' AND l.gone_at IS NULL
      AND (h.action <> 'shrink' OR h.digest = l.digest) ORDER BY h.link_no
""")
_MUTED = sa.text("""
    SELECT link_no, action, digest FROM held_removals
    WHERE tenant_id = :tenant AND provider_id = :via AND status = 'rejected'
""")
_SEEN = sa.text("""
    SELECT kind, count(*) FROM links
    WHERE tenant_id = :tenant AND provider_id = :via AND seen_run = :run AND gone_at IS NULL GROUP BY kind
""")
_TAKEN = sa.text("""
    SELECT coalesce(sum(removed + disabled), 0) FROM sync_runs
    WHERE tenant_id = :tenant AND provider_id = :via AND id <> :run AND NOT dry_run
      AND coalesce(finished_at, started_at) > greatest(now() - interval '24 hours', (
          SELECT max(occurred_at) FROM events
          WHERE tenant_id = :tenant AND resource_id = :via AND name = 'sync.approved'))
""")
_NAMELESS = sa.text("""
    SELECT (SELECT count(*) FROM sync_skips WHERE tenant_id = :tenant AND run_id = :run AND name IS NULL)
         > (SELECT count(*) FROM sync_skips WHERE tenant_id = :tenant AND name IS NULL AND run_id = (
                SELECT id FROM sync_runs WHERE tenant_id = :tenant AND provider_id = :via AND status = 'done'
                  AND NOT dry_run ORDER BY no DESC LIMIT 1))
""")
_NAMES = sa.text("SELECT no, name FROM links WHERE tenant_id = :tenant AND no = ANY(:nos)")

_REASONS = {
    "remove": "A finished full pass did not meet it.",
    "disable": "Disabled upstream.",
    "shrink": "The group would lose at least half of its members.",
}


class Verdict(NamedTuple):
    """What a pass would take away, and why that has to wait, if it has to."""

    losses: Sequence[Loss]
    complaint: str | None


def keep(via: IdentityProvider, run: SyncRun, losses: Sequence[Loss]) -> None:
    """Store losses in the page's transaction, so that no crash forgets one; what was rejected stays so."""
    if losses:
        db.session().execute(
            _KEEP,
            {
                "tenant": run.tenant_id,
                "via": via.id,
                "run": run.id,
                "links": [loss.link_no for loss in losses],
                "actions": [loss.action for loss in losses],
                "digests": [loss.digest for loss in losses],
                "evidence": [loss.evidence for loss in losses],
                "reasons": [_reason(loss) for loss in losses],
            },
        )


def judge(via: IdentityProvider, run: SyncRun) -> Verdict:
    """At the end of a pass: everything it and the held ones before it would take away, and what the guard says."""
    losses = _unmuted(via, run)
    counted = Counter(loss.kind for loss in losses if loss.kind in guard.KINDS)
    directory = Directory()
    linked = directory.linked(via)
    session = db.session()
    where = {"tenant": run.tenant_id, "via": via.id, "run": run.id}
    complaints = []
    if counted:
        seen: dict[str, int] = dict(session.execute(_SEEN, {**where, "run": run.no}).all())
        if run.kind == "full" and (not seen or (linked.get("user") and not seen.get("user"))):
            complaints.append("The source holds nobody at all.")
        if via.good_config not in (None, config_digest(via)):
            complaints.append("The provider's configuration has changed since the last good run.")
        if run.kind == "full" and session.execute(_NAMELESS, where).scalar_one():
            complaints.append("Entries whose names cannot be read may be those that are missed.")
    limits = guard.of(current_scope(), via.removal_guard)
    if shrinking := sum(loss.action == "shrink" and members_lost(loss) > limits.min for loss in losses):
        complaints.append(f"{shrinking} groups would lose at least half of their members, and more than {limits.min}.")
    if administrators := len(directory.administrators_among(losses)):
        complaints.append(f"{administrators} of them hold or carry an administrator's role.")
    taken = int(session.execute(_TAKEN, where).scalar_one())
    if excess := limits.complaint(counted, linked, taken):
        complaints.append(excess)
    return Verdict(losses, " ".join(complaints) or None)


def hold(via: IdentityProvider, run: SyncRun, verdict: Verdict) -> None:
    """Take nothing away: the whole set waits for an administrator, in place of what earlier runs held."""
    news = {(loss.link_no, loss.action) for loss in verdict.losses} != {
        (loss.link_no, loss.action) for loss, found_by in _kept(via) if found_by != run.id
    }
    keep(via, run, verdict.losses)
    _drop(via, besides=run.id)
    run.status, run.hold_reason, run.held_removals = "held", verdict.complaint, len(verdict.losses)
    _close(via, run)
    if run.dry_run:
        run.plan = [*run.plan, *_told(verdict.losses[:PLANNED])]
    if news or run.source == "upstream":
        tell("held", via, run)


def take_away(via: IdentityProvider, run: SyncRun, losses: Sequence[Loss]) -> None:
    """Do these losses that still hold, and count them in the run."""
    for start in range(0, len(losses), AT_ONCE):
        outcome = Directory().take_away(losses[start : start + AT_ONCE], via, run.no)
        run.disabled += outcome.disabled
        run.removed += outcome.removed
        if run.dry_run:
            run.plan = [*run.plan, *outcome.plan][: 2 * PLANNED]


def finish(via: IdentityProvider, run: SyncRun) -> None:
    """The pass is over and nothing of it waits. An import that changed nothing leaves no event: its row is the
    history."""
    _drop(via)
    run.status = "done"
    _prove(via, run)
    _close(via, run)
    if run.source == "upstream" or run.created or run.updated or run.disabled or run.removed:
        tell("finished", via, run)


def approve(run_id: str) -> None:
    """Do what a held run would take away, as far as it still holds; of a rehearsal, let the settings it was held under
    count as good. Raises NotFound, Conflict."""
    via, run = _held(run_id)
    if run.config not in (None, config_digest(via)):
        raise Conflict("The provider's configuration has been changed since this run")
    if run.dry_run:
        _accept_settings(via, run)
        return
    take_away(via, run, [loss for loss, _ in _kept(via)])
    _drop(via)
    run.status, run.finished_at = "done", sa.func.now()
    _prove(via, run)
    tell("approved", via, run)


def reject(run_id: str) -> None:
    """Drop what a held run would take away, and mute it until it changes. Raises NotFound, Conflict."""
    via, run = _held(run_id)
    if run.dry_run:
        run.status = "done"
        tell("rejected", via, run)
        return
    db.session().execute(
        sa.update(HeldRemoval)
        .where(HeldRemoval.provider_id == via.id, HeldRemoval.status == "held")
        .values(status="rejected")
    )
    run.status, run.finished_at = "done", sa.func.now()
    tell("rejected", via, run)


def fail(via: IdentityProvider, run: SyncRun, problem: str) -> None:
    """The pass is over before its end: what it created and changed stays, and it takes nobody away."""
    run.status, run.problem, run.finished_at = "failed", problem, sa.func.now()
    tell("failed", via, run)


def tell(deed: str, via: IdentityProvider, run: SyncRun) -> None:
    """Record `sync.{deed}` of the provider, with the run's numbers."""
    db.session().flush()
    numbers = ("created", "updated", "disabled", "removed", "skipped", "held_removals")
    changes = events.Changes()
    changes.add(
        f"sync.{deed}",
        "IdentityProvider",
        via.id,
        {"run_id": run.id, **{name: getattr(run, name) for name in numbers}},
    )
    events.record(changes)


def config_digest(via: IdentityProvider) -> bytes:
    """Of the settings that say which records are read: a password or another server changes nothing about that."""
    selecting = [setting for setting in kinds.describe(via.kind) if setting.selects]
    chosen = {setting.name: via.config.get(setting.name, setting.default) for setting in selecting}
    return blake2b(orjson.dumps(chosen, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()


def quietly(via: IdentityProvider) -> IdentityProvider:
    """For what a run notes in the row: nobody has changed the provider, so that what was seen of it stays good."""
    flag_modified(via, "updated_at")
    return via


def _prove(via: IdentityProvider, run: SyncRun) -> None:
    """The settings this run read by are good."""
    quietly(via).good_config = run.config or config_digest(via)


def supersede(via: IdentityProvider, run: SyncRun) -> None:
    """What earlier runs held has been judged anew by this one, so that there is nothing left of them to decide."""
    db.session().execute(
        sa.update(SyncRun)
        .where(SyncRun.provider_id == via.id, SyncRun.status == "held", SyncRun.id != run.id)
        .values(status="done", problem=f"Superseded by {run.id}.")
    )


def _accept_settings(via: IdentityProvider, run: SyncRun) -> None:
    """The rehearsal showed what reading by them does; the schedule goes on."""
    _prove(via, run)
    via.due_at = sa.func.now()
    run.status = "done"
    tell("approved", via, run)


def _unmuted(via: IdentityProvider, run: SyncRun) -> list[Loss]:
    """Each loss once; what the upstream said in so many words goes before what it only left out."""
    directory = Directory()
    found = [*(directory.absent(via, run.no) if run.kind == "full" else ()), *directory.disables(via)]
    losses = {(loss.link_no, loss.action): loss for loss in (*found, *(loss for loss, _ in _kept(via)))}
    muted = set(db.session().execute(_MUTED, {"tenant": run.tenant_id, "via": via.id}))
    return [loss for loss in losses.values() if (loss.link_no, loss.action, loss.digest) not in muted]


def _kept(via: IdentityProvider) -> list[tuple[Loss, str]]:
    """Held losses that still stand, each with the run that held it last."""
    found = db.session().execute(_KEPT, {"tenant": via.tenant_id, "via": via.id})
    kept = [(Loss(*values), run_id) for *values, run_id in found]
    left = Directory().still_leaving(via, [loss for loss, _ in kept if loss.action == "shrink"])
    return [
        (loss._replace(evidence=left.get(loss.link_no, loss.evidence)), run_id)
        for loss, run_id in kept
        if loss.action != "shrink" or loss.link_no in left
    ]


def _drop(via: IdentityProvider, *, besides: str = "") -> None:
    """Forget what is held, but for what this run holds."""
    db.session().execute(
        sa.delete(HeldRemoval).where(
            HeldRemoval.provider_id == via.id, HeldRemoval.status == "held", HeldRemoval.run_id != besides
        )
    )


def _close(via: IdentityProvider, run: SyncRun) -> None:
    run.finished_at = sa.func.now()
    supersede(via, run)


def _held(run_id: str) -> tuple[IdentityProvider, SyncRun]:
    session = db.session()
    tenant = current_scope().tenant_id
    run = session.get(SyncRun, (tenant, run_id))
    if run is None:
        raise NotFound
    via, free = session.execute(
        sa.select(IdentityProvider, sa.func.coalesce(IdentityProvider.lease_until < sa.func.now(), sa.true()))
        .where(IdentityProvider.id == run.provider_id)
        .with_for_update(key_share=True)
    ).one()
    session.refresh(run)
    if not free:
        raise Conflict("A run of this provider is under way and will judge anew")
    if run.status != "held":
        raise Conflict("The run holds nothing that waits for a decision")
    return via, run


def _reason(loss: Loss) -> str:
    return "Deleted upstream." if loss.evidence == EXPLICIT else _REASONS[loss.action]


def _told(losses: Iterable[Loss]) -> Iterator[str]:
    chosen = list(losses)
    names = db.session().execute(
        _NAMES, {"tenant": current_scope().tenant_id, "nos": [loss.link_no for loss in chosen]}
    )
    known: dict[int, str] = dict(names.all())
    return (f"held {loss.action} {loss.kind} {known[loss.link_no]}" for loss in chosen)
