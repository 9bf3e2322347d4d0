"""A provider's directory given back as it came: LDIF out, in constant memory.

Owns the order and the content of the file: every live record verbatim, whether or not it became a resource, its member
lists and `memberOf` rebuilt from the membership rows. The format is `connectors.ldif`'s, reading it back
`connectors.ldap`'s.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO, NamedTuple

import sqlalchemy as sa

from broker.context import Scope
from broker.db import arrays, db, unit
from broker.directory.mapping import decode_record, member_attribute
from broker.directory.rows import ref_key
from connectors import dn
from connectors.ldif import write_entry

AT_ONCE = 200
"""Records held in memory."""

Attributes = dict[str, list[str | bytes]]

_COUNT = sa.text("SELECT count(*) FROM links WHERE tenant_id = :tenant AND provider_id = :via AND gone_at IS NULL")
_LINKS = sa.text("""
    SELECT l.no, l.name, l.ref, l.resource_id, l.kind = 'group' AND l.skipped IS NULL AS listing, r.record
    FROM links l JOIN link_records r ON r.tenant_id = :tenant AND r.link_no = l.no
    WHERE l.tenant_id = :tenant AND l.provider_id = :via AND l.no > :after AND l.gone_at IS NULL
    ORDER BY l.no LIMIT :limit
""")
_MEMBERS = sa.text("""
    SELECT m.group_id, m.raw
    FROM unnest(CAST(:groups AS text[])) WITH ORDINALITY AS g(id, place)
    JOIN memberships m ON m.tenant_id = :tenant AND m.group_id = g.id AND m.via = :via AND m.kind = 'member'
    ORDER BY g.place, m.ordinal, m.no
""").execution_options(yield_per=1_000)
# Keyed look-ups, as in the directory: decision 6.
_LISTED = sa.text("""
    SELECT m.* FROM unnest(CAST(:resources AS text[])) AS k(id) CROSS JOIN LATERAL (
        SELECT member_key, group_id FROM memberships
        WHERE tenant_id = :tenant AND member_id = k.id AND via = :via AND kind = 'member' OFFSET 0) m
    UNION ALL
    SELECT m.* FROM unnest(CAST(:refs AS text[])) AS k(ref) CROSS JOIN LATERAL (
        SELECT member_key, group_id FROM memberships
        WHERE tenant_id = :tenant AND member_key = k.ref AND via = :via AND kind = 'member' AND member_id IS NULL
        OFFSET 0) m
""")
_NAMES = sa.text("""
    SELECT l.* FROM unnest(CAST(:groups AS text[])) AS k(id) CROSS JOIN LATERAL (
        SELECT resource_id, ref, name FROM links
        WHERE tenant_id = :tenant AND provider_id = :via AND resource_id = k.id AND kind = 'group'
          AND gone_at IS NULL AND skipped IS NULL OFFSET 0) l
""")
_GROUPS = sa.text("""
    SELECT l.ref FROM unnest(CAST(:refs AS text[])) AS k(ref) CROSS JOIN LATERAL (
        SELECT ref FROM links
        WHERE tenant_id = :tenant AND provider_id = :via AND ref = k.ref AND kind = 'group'
          AND resource_id IS NOT NULL AND skipped IS NULL OFFSET 0) l
""")
_SAYS_MEMBER_OF = sa.text("""
    SELECT EXISTS (
        SELECT 1 FROM links l JOIN link_records r ON r.tenant_id = :tenant AND r.link_no = l.no
        WHERE l.tenant_id = :tenant AND l.provider_id = :via AND l.gone_at IS NULL
          AND lower(convert_from(r.record, 'UTF8')) LIKE '%"memberof"%')
""")


class Entry(NamedTuple):
    name: str
    ref: str
    resource_id: str | None
    listing: bool
    """A group whose members are rows, not in its record."""
    attributes: Attributes


def export_ldif(scope: Scope, provider_id: str, path: Path, progress: Callable[[int, int], None] | None = None) -> int:
    """Write all that one provider said and we keep; returns how many entries.

    The file appears whole or not at all, readable by its owner alone. `progress` is told how many entries of how many
    are written. Raises OSError.
    """
    where = {"tenant": scope.tenant_id, "via": provider_id}
    with unit(scope) as session, replacing(path) as file:
        # One snapshot for all pages: a sync that commits meanwhile is in it as a whole or not at all.
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        total, written = session.execute(_COUNT, where).scalar_one(), 0
        says_member_of = session.execute(_SAYS_MEMBER_OF, where).scalar_one()
        file.write(b"version: 1\n\n")
        for entries in _pages(where):
            if says_member_of:
                _restore_member_of(where, entries)
            members = _members(where, entries)
            waiting = next(members, None)
            for entry in entries:
                if waiting is not None and waiting[0] == entry.resource_id:
                    entry.attributes[member_attribute(entry.attributes)] = waiting[1]
                    waiting = next(members, None)
                file.write(write_entry(entry.name, entry.attributes))
            written += len(entries)
            if progress is not None:
                progress(written, total)
    return written


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of the one at `path` when the block ends, or leaves it as it was."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _pages(where: dict[str, str | None]) -> Iterator[list[Entry]]:
    after = 0
    while True:
        found = db.session().execute(_LINKS, {**where, "after": after, "limit": AT_ONCE}).all()
        if not found:
            return
        yield [Entry(row.name, row.ref, row.resource_id, row.listing, decode_record(row.record)) for row in found]
        after = found[-1].no


def _members(where: dict[str, str | None], entries: Sequence[Entry]) -> Iterator[tuple[str, list[str | bytes]]]:
    """The member lists of the groups among the entries, in their order, one at a time."""
    groups = [entry.resource_id for entry in entries if entry.listing]
    for group, rows in groupby(db.session().execute(_MEMBERS, arrays({**where, "groups": groups})), itemgetter(0)):
        yield group, [raw for _, raw in rows]


def _restore_member_of(where: dict[str, str | None], entries: Sequence[Entry]) -> None:
    """Make `memberOf` the groups that list the entry now, and those of the record that are no group we know."""
    session = db.session()
    refs = [entry.ref for entry in entries]
    resources = [entry.resource_id for entry in entries if entry.resource_id is not None]
    rows = session.execute(_LISTED, arrays({**where, "resources": resources, "refs": refs})).all()
    named = session.execute(_NAMES, arrays({**where, "groups": list({group for _, group in rows})}))
    names = {group: (ref, name) for group, ref, name in named}
    listed: dict[str, dict[str, str | bytes]] = defaultdict(dict)
    for member, group in rows:
        if group in names:
            listed[member].update([names[group]])
    said = [{_ref(value): value for value in _member_of(entry.attributes)[1]} for entry in entries]
    told = list({ref for refs in said for ref in refs})
    known = set(session.execute(_GROUPS, arrays({**where, "refs": told})).scalars())
    for entry, values in zip(entries, said, strict=True):
        name, _ = _member_of(entry.attributes)
        now = listed[entry.ref]
        kept = {ref: value for ref, value in values.items() if ref in now or ref not in known}
        if restored := {**now, **kept}:
            entry.attributes[name] = list(restored.values())
        else:
            entry.attributes.pop(name, None)


def _member_of(attributes: Attributes) -> tuple[str, list[str | bytes]]:
    return next(((name, values) for name, values in attributes.items() if name.lower() == "memberof"), ("memberOf", []))


def _ref(value: str | bytes) -> str:
    try:
        return ref_key(dn.fold(value)) if isinstance(value, str) else f"?{value.hex()}"
    except ValueError:
        return f"?{value!r}"
