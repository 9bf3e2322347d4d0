"""Managers and parents: who names whom, resolved when both are here.

Owns the columns `manager_id` and `parent_id` and their place in the documents. A record names its manager by reference
(a DN); one that is not known yet is waited for, one that is removed is let go, or taken over by whoever has that
reference now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import sqlalchemy as sa

from ..db import arrays, db
from ..errors import ValidationFailed
from ..events import Changes
from . import documents, rows
from .documents import MANAGER, PARENT
from .rows import Row

AT_ONCE = 1_000

Resolved = Mapping[str, tuple[str, str]]
"""Reference to (resource id, kind)."""

_SHOWN = {"User": MANAGER, "OrganizationalUnit": PARENT}
"""The reference that a type's document shows; a person's unit is kept in the row alone."""

_ONE_MOVE = sa.text("SELECT pg_advisory_xact_lock(hashtextextended('units ' || :tenant, 0))")
_ABOVE = sa.text("""
    WITH RECURSIVE up(id) AS (
        SELECT CAST(:parent AS text) COLLATE "C"
        UNION
        SELECT r.parent_id FROM up, LATERAL (
            SELECT r.parent_id FROM resources r WHERE r.tenant_id = :tenant AND r.id = up.id
              AND r.parent_id IS NOT NULL OFFSET 0) r)
    SELECT 1 FROM up WHERE up.id = :unit
""")
_RESOLVE = sa.text("""
    SELECT l.* FROM unnest(CAST(:refs AS text[])) AS u(ref) CROSS JOIN LATERAL (
        SELECT ref, resource_id, kind FROM links WHERE tenant_id = :tenant AND provider_id = :via AND ref = u.ref
          AND resource_id IS NOT NULL AND gone_at IS NULL AND skipped IS NULL
        ORDER BY seen_run, resource_id OFFSET 0) l
""")
_WAITING = sa.text("""
    SELECT DISTINCT r.id FROM unnest(CAST(:refs AS text[])) AS u(ref) CROSS JOIN LATERAL (
        SELECT id FROM resources
        WHERE tenant_id = :tenant AND removed_at IS NULL AND manager_id IS NULL AND manager_ref = u.ref
        UNION ALL
        SELECT id FROM resources
        WHERE tenant_id = :tenant AND removed_at IS NULL AND parent_id IS NULL AND parent_ref = u.ref OFFSET 0) r
    WHERE EXISTS (SELECT 1 FROM links l WHERE l.tenant_id = :tenant AND l.resource_id = r.id AND l.provider_id = :via)
""")
_MISLED = sa.text("""
    SELECT DISTINCT r.id FROM links mover
    JOIN resources r ON r.tenant_id = :tenant AND r.removed_at IS NULL
      AND ((r.manager_id = mover.resource_id AND r.manager_ref <> mover.ref)
        OR (r.parent_id = mover.resource_id AND r.parent_ref <> mover.ref))
    JOIN links l ON l.tenant_id = :tenant AND l.resource_id = r.id AND l.provider_id = :via AND l.seen_run = :run
    WHERE mover.tenant_id = :tenant AND mover.provider_id = :via AND mover.moved AND mover.gone_at IS NULL
""")
_POINTING = sa.text("""
    SELECT id FROM resources WHERE tenant_id = :tenant AND removed_at IS NULL
      AND (manager_id = ANY(CAST(:ids AS text[])) OR parent_id = ANY(CAST(:ids AS text[])))
""")


def resolve(tenant: str, via: str, refs: Iterable[str]) -> dict[str, tuple[str, str]]:
    """What this upstream's references mean today; of two with the same one, the one seen last."""
    wanted = list(refs)
    if not wanted:
        return {}
    found = db.session().execute(_RESOLVE, arrays({"tenant": tenant, "via": via, "refs": wanted}))
    return {ref: (resource, kind) for ref, resource, kind in found}


def meant(resolved: Resolved, ref: str | None, kind: str) -> str | None:
    """The resource a reference means, if it is of that kind."""
    found = resolved.get(ref) if ref is not None else None
    return found[0] if found is not None and found[1] == kind else None


def arrived(tenant: str, via: str, here: Resolved, changes: Changes) -> None:
    """Resources that others waited for as manager or parent are here under these references."""
    if not here:
        return
    found = db.session().execute(_WAITING, arrays({"tenant": tenant, "via": via, "refs": list(here)})).scalars().all()

    def repoint(row: Row) -> None:
        if row.manager_id is None and MANAGER not in row.pins:
            row.manager_id = meant(here, row.manager_ref, "user")
        if row.parent_id is None and PARENT not in row.pins:
            row.parent_id = meant(here, row.parent_ref, "unit")

    _repoint(tenant, found, repoint, changes)


def correct(tenant: str, via: str, run_no: int, changes: Changes) -> None:
    """Records read in this pass mean whoever is called so at its end, not who was called so when they were read."""
    where = {"tenant": tenant, "via": via, "run": run_no}
    found = db.session().execute(_MISLED, where).scalars().all()
    for start in range(0, len(found), AT_ONCE):
        loaded = rows.load(tenant, found[start : start + AT_ONCE])
        refs = {ref for row in loaded.values() for ref in (row.manager_ref, row.parent_ref) if ref is not None}
        now = resolve(tenant, via, refs)

        def repoint(row: Row, now: Resolved = now) -> None:
            if MANAGER not in row.pins:
                row.manager_id = meant(now, row.manager_ref, "user")
            if PARENT not in row.pins:
                row.parent_id = meant(now, row.parent_ref, "unit")

        _write(tenant, loaded.values(), repoint, changes)


def check_above(tenant: str, unit: str, parent: str) -> None:
    """Whether the unit may be in that parent. Raises ValidationFailed: the parent is the unit, or inside it. Moves of
    one tenant's units come one after the other, or two of them could close a circle together."""
    where = {"tenant": tenant, "unit": unit, "parent": parent}
    db.session().execute(_ONE_MOVE, {"tenant": tenant})
    if db.session().execute(_ABOVE, where).first() is not None:
        raise ValidationFailed(f"{PARENT}: a unit cannot be inside itself", scim_type="invalidValue")


def left(tenant: str, gone: Sequence[str], via: str | None, changes: Changes) -> None:
    """These resources are removed: nobody's manager or parent any more. `via`: the upstream that let them go, in which
    somebody else may have their references by now."""
    ids = set(gone)
    found = db.session().execute(_POINTING, arrays({"tenant": tenant, "ids": list(ids)})).scalars().all()
    for start in range(0, len(found), AT_ONCE):
        part = found[start : start + AT_ONCE]
        loaded = rows.load(tenant, part)
        refs = {ref for row in loaded.values() for ref in (row.manager_ref, row.parent_ref) if ref is not None}
        now = resolve(tenant, via, refs) if via is not None else {}

        def repoint(row: Row, now: Resolved = now) -> None:
            if row.manager_id in ids:
                row.manager_id = meant(now, row.manager_ref, "user")
                row.pins.pop(MANAGER, None)
            if row.parent_id in ids:
                row.parent_id = meant(now, row.parent_ref, "unit")
                row.pins.pop(PARENT, None)

        _write(tenant, loaded.values(), repoint, changes)


def _repoint(tenant: str, ids: Sequence[str], repoint: Callable[[Row], None], changes: Changes) -> None:
    for start in range(0, len(ids), AT_ONCE):
        _write(tenant, rows.load(tenant, ids[start : start + AT_ONCE]).values(), repoint, changes)


def _write(tenant: str, loaded: Iterable[Row], repoint: Callable[[Row], None], changes: Changes) -> None:
    """Point each row elsewhere; a version and an event for those whose document shows it."""
    shown, silent = [], []
    for row in loaded:
        before = (row.manager_id, row.parent_id)
        repoint(row)
        if (row.manager_id, row.parent_id) == before:
            continue
        key = _SHOWN.get(row.type)
        now = row.manager_id if key == MANAGER else row.parent_id
        was = before[0] if key == MANAGER else before[1]
        if key is None or now == was:
            silent.append(row)
            continue
        document = row.read()
        documents.point(document, key, now)
        row.write(document)
        row.version += 1
        shown.append(row)
        changes.add(f"{row.noun}.updated", row.type, row.id, [key.removesuffix(".value")])
    rows.update_documents(tenant, shown)
    rows.update_silently(tenant, silent)
