"""Links: our resources and an upstream's records of them, read and written a page at a time.

Owns the rows of `links` and `link_records`, and the forgetting of held removals whose reason is gone. What a record
means, and which resource it gets, is `apply`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from ..db import arrays, db
from .outcome import Leaving, decode_leaving
from .records import Encoded
from .rows import ref_key


class Link(NamedTuple):
    no: int
    key: str
    digest: bytes
    quiet_digest: bytes
    resource_id: str | None
    kind: str
    gone: bool
    skipped: str | None
    name_kept: bool
    ref: str
    seen_run: int
    stale: bool

    @property
    def stands(self) -> bool:
        """Whether an equal digest means that there is nothing to do."""
        return not self.gone and self.skipped is None and not self.name_kept and not self.stale


# Each key is looked up by itself (LATERAL … OFFSET 0): `key = ANY(…)` leaves the planner free to walk all links of the
# provider for every page whenever it thinks that a tenant is small.
_LINKS = sa.text("""
    SELECT l.* FROM unnest(CAST(:keys AS text[])) AS k(key) CROSS JOIN LATERAL (
        SELECT no, key, digest, quiet_digest, resource_id, kind, gone_at IS NOT NULL, skipped, name_kept, ref, seen_run,
               stale
        FROM links WHERE tenant_id = :tenant AND provider_id = :via AND key = k.key OFFSET 0) l
""")
_SEEN = sa.text("""
    UPDATE links l SET seen_run = :run FROM unnest(CAST(:nos AS bigint[])) AS u(no)
    WHERE l.tenant_id = :tenant AND l.no = u.no
""")
_THERE = sa.text("""
    UPDATE links l SET seen_run = :run FROM unnest(CAST(:refs AS text[])) AS u(ref)
    WHERE l.tenant_id = :tenant AND l.provider_id = :via AND l.ref = u.ref AND l.gone_at IS NULL
""")
_RECORDS = sa.text("""
    SELECT r.* FROM unnest(CAST(:nos AS bigint[])) AS u(no) CROSS JOIN LATERAL (
        SELECT link_no, record FROM link_records WHERE tenant_id = :tenant AND link_no = u.no OFFSET 0) r
""")
_LINK = sa.text("""
    INSERT INTO links AS l (tenant_id, provider_id, key, resource_id, kind, name, ref, alias, primary_ref, active,
                            digest, quiet_digest, seen_run, skipped, name_kept, stale, gone_at)
    SELECT :tenant, :via, u.key, u.resource, u.kind, u.name, u.ref, u.alias, u.primary_ref, u.active,
           u.digest, u.quiet, :run, u.skipped, u.name_kept, u.stale, NULL
    FROM unnest(CAST(:keys AS text[]), CAST(:resources AS text[]), CAST(:kinds AS text[]), CAST(:names AS text[]),
                CAST(:refs AS text[]), CAST(:aliases AS text[]), CAST(:primaries AS text[]),
                CAST(:actives AS boolean[]), CAST(:digests AS bytea[]), CAST(:quiets AS bytea[]),
                CAST(:skips AS text[]), CAST(:kept AS boolean[]), CAST(:stales AS boolean[]))
         AS u(key, resource, kind, name, ref, alias, primary_ref, active, digest, quiet, skipped, name_kept, stale)
    ON CONFLICT (tenant_id, provider_id, key) DO UPDATE SET
        resource_id = EXCLUDED.resource_id, kind = EXCLUDED.kind, name = EXCLUDED.name, ref = EXCLUDED.ref,
        alias = EXCLUDED.alias, primary_ref = EXCLUDED.primary_ref, active = EXCLUDED.active,
        digest = EXCLUDED.digest, quiet_digest = EXCLUDED.quiet_digest, seen_run = EXCLUDED.seen_run,
        skipped = EXCLUDED.skipped, name_kept = EXCLUDED.name_kept, moved = l.moved OR l.ref <> EXCLUDED.ref,
        stale = EXCLUDED.stale, gone_at = NULL
    RETURNING l.key, l.no
""")
_SETTLED = sa.text("UPDATE links SET moved = false WHERE tenant_id = :tenant AND provider_id = :via AND moved")
_RECORD = sa.text("""
    INSERT INTO link_records (tenant_id, link_no, record)
    SELECT :tenant, u.* FROM unnest(CAST(:nos AS bigint[]), CAST(:records AS bytea[])) AS u
    ON CONFLICT (tenant_id, link_no) DO UPDATE SET record = EXCLUDED.record
""")
_QUIET = sa.text("""
    WITH u AS MATERIALIZED (
        SELECT * FROM unnest(CAST(:nos AS bigint[]), CAST(:quiets AS bytea[]), CAST(:records AS bytea[]))
            AS u(no, quiet, record)),
    touched AS (
        UPDATE links l SET quiet_digest = u.quiet FROM u WHERE l.tenant_id = :tenant AND l.no = u.no)
    UPDATE link_records r SET record = u.record FROM u WHERE r.tenant_id = :tenant AND r.link_no = u.no
""")
_UNHOLD = sa.text("""
    DELETE FROM held_removals h USING links l
    WHERE h.tenant_id = :tenant AND h.provider_id = :via AND h.link_no = ANY(:nos)
      AND l.tenant_id = :tenant AND l.no = h.link_no AND (h.action = 'remove' OR (h.action = 'disable' AND l.active))
""")
_UNSETTLED = sa.text("""
    SELECT key FROM links WHERE tenant_id = :tenant AND provider_id = :via
      AND (skipped IS NOT NULL OR name_kept) AND (gone_at IS NULL OR skipped = 'kind_changed')
    ORDER BY seen_run, no LIMIT 1000
""")
_ANY_HELD = sa.text("SELECT 1 FROM held_removals WHERE tenant_id = :tenant AND provider_id = :via LIMIT 1")
_HELD = sa.text("""
    SELECT link_no, evidence FROM held_removals
    WHERE tenant_id = :tenant AND link_no = ANY(:nos) AND action = 'shrink' AND status = 'held'
""")


def find(tenant: str, via: str, keys: Iterable[str]) -> dict[str, Link]:
    """The links under these keys, gone ones included."""
    wanted = list(keys)
    if not wanted:
        return {}
    found = db.session().execute(_LINKS, arrays({"tenant": tenant, "via": via, "keys": wanted}))
    return {row[1]: Link(*row) for row in found}


def mark_seen(tenant: str, via: str, run_no: int, links: Sequence[Link]) -> None:
    """Unchanged records of this pass: they are there, and what was held against them as absent is forgotten."""
    stale = [link.no for link in links if link.seen_run != run_no]
    if stale:
        db.session().execute(_SEEN, arrays({"tenant": tenant, "run": run_no, "nos": stale}))
    unhold(tenant, via, [link.no for link in links])


def mark_there(tenant: str, via: str, run_no: int, refs: Iterable[str]) -> None:
    """An entry that is there but cannot be read is not absent."""
    keys = [ref_key(ref) for ref in refs]
    if keys:
        db.session().execute(_THERE, arrays({"tenant": tenant, "via": via, "run": run_no, "refs": keys}))


def rewrite_quietly(tenant: str, changed: Sequence[tuple[int, Encoded]]) -> None:
    """Records whose quiet values alone are others."""
    if changed:
        columns = {
            "nos": [no for no, _ in changed],
            "quiets": [encoded.quiet_digest for _, encoded in changed],
            "records": [encoded.stored for _, encoded in changed],
        }
        db.session().execute(_QUIET, arrays({"tenant": tenant, **columns}))


def records(tenant: str, numbers: Sequence[int]) -> dict[int, bytes]:
    """The stored records of these links."""
    if not numbers:
        return {}
    found = db.session().execute(_RECORDS, arrays({"tenant": tenant, "nos": list(numbers)}))
    return {no: record for no, record in found}


def write(
    tenant: str, via: str, run_no: int, columns: Mapping[str, list[Any]], stored: Sequence[bytes]
) -> dict[str, int]:
    """Write links (a list for each column, `keys` first) with their records; returns the numbers by key."""
    session = db.session()
    found = session.execute(_LINK, arrays({"tenant": tenant, "via": via, "run": run_no, **columns}))
    numbers: dict[str, int] = {key: no for key, no in found}
    kept = {"nos": [numbers[key] for key in columns["keys"]], "records": list(stored)}
    session.execute(_RECORD, arrays({"tenant": tenant, **kept}))
    unhold(tenant, via, list(numbers.values()))
    return numbers


def unsettled(tenant: str, via: str) -> list[str]:
    """Keys of records that could not be taken, or not as they are; those first that were not asked for lately."""
    return list(db.session().execute(_UNSETTLED, {"tenant": tenant, "via": via}).scalars())


def settle(tenant: str, via: str) -> None:
    """A pass is finished: whoever was called by another name than before is known by it now."""
    db.session().execute(_SETTLED, {"tenant": tenant, "via": via})


def unhold(tenant: str, via: str, numbers: Sequence[int]) -> None:
    """What was seen again is no longer absent, and who is enabled again no longer to be disabled."""
    session = db.session()
    where = {"tenant": tenant, "via": via}
    if numbers and session.execute(_ANY_HELD, where).first() is not None:
        session.execute(_UNHOLD, {**where, "nos": list(numbers)})


def held_shrinks(tenant: str, numbers: Sequence[int]) -> dict[int, set[Leaving]]:
    """What is held already of the members these groups would lose."""
    found = db.session().execute(_HELD, {"tenant": tenant, "nos": list(numbers)})
    return {no: set(decode_leaving(evidence)) for no, evidence in found}
