"""A page of an upstream's changes, written in sets.

Owns the comparing of records with what is linked, the deciding of each record's fate (new, changed, unchanged, kept
without a
resource, skipped with a reason), and the writing of the page: a bounded number of statements whatever its size,
events in the
same transaction. It never takes anything away: a halved group is handed back as a `Loss`, disables and absences are
found by `removal`.
Applying a page twice is silent the second time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import orjson
import sqlalchemy as sa

from connectors.port import Change, Gone, Members, Record, Ref, Unreadable

from .. import attributes as catalogue
from ..db import arrays, db
from ..events import Changes, record
from . import layers, mapping, members, rows
from .layers import Provider, Said
from .mapping import TYPE_OF_KIND, Encoded
from .rows import Row, Unfit, ref_key

Removal = Literal["remove", "disable", "shrink"]


class Skip(NamedTuple):
    """A record that was not taken, and why."""

    position: str | None
    name: str | None
    reason: str
    detail: str


class Loss(NamedTuple):
    """Something an upstream would take away: never done by `apply`, always by `take_away` after the guard."""

    link_no: int
    action: Removal
    kind: str
    digest: bytes
    evidence: bytes | None = None


@dataclass(slots=True)
class Outcome:
    """What became of a page. `by_kind` counts `(kind, fate)`; the plain numbers are its sums."""

    read: int = 0
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    disabled: int = 0
    removed: int = 0
    skips: list[Skip] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    by_kind: Counter[tuple[str, str]] = field(default_factory=Counter)
    plan: list[str] = field(default_factory=list)
    """The first changes in words, for a dry run's reader."""

    def count(self, kind: str, fate: str, name: str = "") -> None:
        self.by_kind[kind, fate] += 1
        setattr(self, fate, getattr(self, fate) + 1)
        if fate != "unchanged" and len(self.plan) < 100:
            self.plan.append(f"{fate} {kind} {name}")


class Link(NamedTuple):
    no: int
    key: str
    digest: bytes
    quiet_digest: bytes
    resource_id: str | None
    kind: str
    active: bool
    gone: bool
    skipped: str | None
    ref: str
    seen_run: int


@dataclass(slots=True)
class Item:
    """One record on its way through the page."""

    record: Record
    encoded: Encoded
    link: Link | None
    row: Row | None = None
    before: bytes = b""
    name_before: str = ""
    revived: bool = False
    fresh: bool = False
    skipped: str | None = None
    said: Said | None = None

    @property
    def active(self) -> bool:
        """Whether the upstream lets this person in today."""
        until = self.said.active_until if self.said else None
        return self.record.active and (until is None or until > rows.now())


# Each key is looked up by itself (LATERAL … OFFSET 0): `key = ANY(…)` leaves the planner free to walk all links of the
# provider for every page whenever it thinks that a tenant is small.
_LINKS = sa.text("""
    SELECT l.* FROM unnest(CAST(:keys AS text[])) AS k(key) CROSS JOIN LATERAL (
        SELECT no, key, digest, quiet_digest, resource_id, kind, active, gone_at IS NOT NULL, skipped, ref, seen_run
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
"""An entry that is there but cannot be read is not absent."""
_RECORDS = sa.text("""
    SELECT r.* FROM unnest(CAST(:nos AS bigint[])) AS u(no) CROSS JOIN LATERAL (
        SELECT link_no, record FROM link_records WHERE tenant_id = :tenant AND link_no = u.no OFFSET 0) r
""")
_REFS = sa.text("""
    SELECT l.* FROM unnest(CAST(:refs AS text[])) AS u(ref) CROSS JOIN LATERAL (
        SELECT ref, resource_id, kind FROM links WHERE tenant_id = :tenant AND provider_id = :via AND ref = u.ref
          AND resource_id IS NOT NULL AND gone_at IS NULL OFFSET 0) l
""")
_NAMES = sa.text("""
    SELECT r.* FROM unnest(CAST(:keys AS text[])) AS k(key) CROSS JOIN LATERAL (
        SELECT name_key, id FROM resources
        WHERE tenant_id = :tenant AND type = 'User' AND removed_at IS NULL AND name_key = k.key OFFSET 0) r
""")
_LINK = sa.text("""
    INSERT INTO links AS l (tenant_id, provider_id, key, resource_id, kind, name, ref, alias, primary_ref, active,
                            digest, quiet_digest, seen_run, skipped, gone_at)
    SELECT :tenant, :via, u.key, u.resource, u.kind, u.name, u.ref, u.alias, u.primary_ref, u.active,
           u.digest, u.quiet, :run, u.skipped, NULL
    FROM unnest(CAST(:keys AS text[]), CAST(:resources AS text[]), CAST(:kinds AS text[]), CAST(:names AS text[]),
                CAST(:refs AS text[]), CAST(:aliases AS text[]), CAST(:primaries AS text[]),
                CAST(:actives AS boolean[]), CAST(:digests AS bytea[]), CAST(:quiets AS bytea[]),
                CAST(:skips AS text[]))
         AS u(key, resource, kind, name, ref, alias, primary_ref, active, digest, quiet, skipped)
    ON CONFLICT (tenant_id, provider_id, key) DO UPDATE SET
        resource_id = EXCLUDED.resource_id, kind = EXCLUDED.kind, name = EXCLUDED.name, ref = EXCLUDED.ref,
        alias = EXCLUDED.alias, primary_ref = EXCLUDED.primary_ref, active = EXCLUDED.active,
        digest = EXCLUDED.digest, quiet_digest = EXCLUDED.quiet_digest, seen_run = EXCLUDED.seen_run,
        skipped = EXCLUDED.skipped, gone_at = NULL
    RETURNING l.key, l.no
""")
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
_ANY_HELD = sa.text("SELECT 1 FROM held_removals WHERE tenant_id = :tenant AND provider_id = :via LIMIT 1")
_WAITING = sa.text("""
    SELECT r.id, r.type, r.manager_ref, r.parent_ref FROM unnest(CAST(:refs AS text[])) AS u(ref) CROSS JOIN LATERAL (
        SELECT id, type, manager_ref, parent_ref FROM resources
        WHERE tenant_id = :tenant AND removed_at IS NULL AND manager_id IS NULL AND manager_ref = u.ref
        UNION
        SELECT id, type, manager_ref, parent_ref FROM resources
        WHERE tenant_id = :tenant AND removed_at IS NULL AND parent_id IS NULL AND parent_ref = u.ref OFFSET 0) r
    WHERE EXISTS (SELECT 1 FROM links l WHERE l.tenant_id = :tenant AND l.resource_id = r.id AND l.provider_id = :via)
""")
_REFER = sa.text("""
    UPDATE resources r SET manager_id = coalesce(u.manager, r.manager_id), parent_id = coalesce(u.parent, r.parent_id)
    FROM unnest(CAST(:ids AS text[]), CAST(:managers AS text[]), CAST(:parents AS text[])) AS u(id, manager, parent)
    WHERE r.tenant_id = :tenant AND r.id = u.id
""")
_TOUCH = sa.text("""
    UPDATE resources SET version = version + 1, updated_at = now() WHERE tenant_id = :tenant AND id = ANY(:ids)
    RETURNING id
""")
_USERS = sa.text("""
    SELECT count(*) FROM resources WHERE tenant_id = :tenant AND type = 'User' AND removed_at IS NULL
      AND user_type IS DISTINCT FROM 'ServiceAccount'
""")


class PageOfChanges:
    """One page of one upstream in one tenant, inside the caller's unit of work."""

    def __init__(self, tenant: str, via: Provider, run_no: int, *, halving_floor: int, room: int | None) -> None:
        self.tenant = tenant
        self.via = via
        self.run_no = run_no
        self.halving_floor = halving_floor
        self.room = room
        self.outcome = Outcome()
        self.changes = Changes()
        self.tally = members.Tally()
        self.session = db.session()

    def apply(self, changes: Sequence[Change]) -> Outcome:
        records: dict[str, Record] = {}
        deltas: list[Members] = []
        gone: list[Gone] = []
        unreadable: list[str] = []
        for change in changes:
            self.outcome.read += 1
            if isinstance(change, Record):
                if (earlier := records.pop(change.key, None)) is not None:
                    self._skip(earlier, "duplicate_key", "Another entry of the page has the same immutable id.")
                records[change.key] = change
            elif isinstance(change, Unreadable):
                self.outcome.skips.append(Skip(change.position, change.name, change.reason, change.detail))
                if change.ref is not None:
                    unreadable.append(ref_key(change.ref))
            elif isinstance(change, Members):
                deltas.append(change)
            else:
                gone.append(change)
        if unreadable:
            self.session.execute(
                _THERE, {"tenant": self.tenant, "via": self.via.id, "run": self.run_no, "refs": unreadable}
            )
        items = self._classified(records)
        self._decide(items)
        self._write(items)
        self._deltas(deltas)
        self._gone(gone)
        self._news(items)
        return self.outcome

    def _skip(self, record: Record, reason: str, detail: str) -> None:
        self.outcome.skips.append(Skip(None, record.name, reason, detail))

    def _links(self, keys: Iterable[str]) -> dict[str, Link]:
        found = self.session.execute(_LINKS, arrays({"tenant": self.tenant, "via": self.via.id, "keys": list(keys)}))
        return {row[1]: Link(*row) for row in found}

    def _classified(self, records: dict[str, Record]) -> list[Item]:
        """Everything that differs from what is linked; the rest is marked as seen, its quiet values refreshed."""
        links = self._links(records)
        items: list[Item] = []
        quiet: list[tuple[int, Encoded]] = []
        seen: list[Link] = []
        for key, record_ in records.items():
            if len(key) > rows.LONGEST_NAME or "\x00" in key or "\x00" in record_.name:
                self._skip(record_, "unfit_key", "Its immutable id or name cannot be stored.")
                continue
            encoded = mapping.encode_record(record_, self.via.mapping.digest)
            link = links.get(key)
            if link and link.digest == encoded.digest and not link.gone and link.skipped is None:
                seen.append(link)
                self.outcome.count(link.kind, "unchanged")
                if link.quiet_digest != encoded.quiet_digest:
                    quiet.append((link.no, encoded))
            else:
                items.append(Item(record_, encoded, link))
        stale = [link.no for link in seen if link.seen_run != self.run_no]
        if stale:
            self.session.execute(_SEEN, arrays({"tenant": self.tenant, "run": self.run_no, "nos": stale}))
        self._unhold([link.no for link in seen])
        if quiet:
            self.session.execute(
                _QUIET,
                arrays(
                    {
                        "tenant": self.tenant,
                        "nos": [no for no, _ in quiet],
                        "quiets": [encoded.quiet_digest for _, encoded in quiet],
                        "records": [encoded.stored for _, encoded in quiet],
                    }
                ),
            )
        return items

    def _unhold(self, numbers: Sequence[int]) -> None:
        """What was seen again is no longer absent, and who is enabled again no longer to be disabled."""
        where = {"tenant": self.tenant, "via": self.via.id}
        if numbers and self.session.execute(_ANY_HELD, where).first() is not None:
            self.session.execute(_UNHOLD, {**where, "nos": list(numbers)})

    def _decide(self, items: Sequence[Item]) -> None:
        """Give each record its row, or the reason why it has none."""
        known = [item.link.resource_id for item in items if item.link and item.link.resource_id]
        loaded = rows.load(self.tenant, known, removed=True)
        others = layers.said_of(self.tenant, {row.id: row.type for row in loaded.values()}, besides=self.via.id)
        for item in items:
            kind = TYPE_OF_KIND.get(item.record.kind)
            if kind is None:
                if item.link and item.link.resource_id:
                    item.row = loaded.get(item.link.resource_id)
                    item.skipped = "kind_changed"
                continue
            item.said = layers.contribution(self.via, kind, item.record.attributes, item.record.active)
            row = loaded.get(item.link.resource_id) if item.link and item.link.resource_id else None
            if row is not None and row.type != kind:
                item.row, item.skipped = row, "kind_changed"
                continue
            if row is None:
                row, item.fresh = Row(rows.new_id(kind), kind), True
            item.row, item.before, item.name_before = row, row.document, row.name_key
            item.revived = row.removed_at is not None
        self._refer(items)
        for item in items:
            if item.row is not None and item.skipped is None and item.said is not None:
                self._settle(item, item.row, [item.said, *others.get(item.row.id, ())])
        self._keep_names_apart(items)
        self._keep_within_room(items)
        for item in items:
            if item.skipped:
                self._skip(item.record, item.skipped, _REASONS.get(item.skipped, item.skipped))

    def _refer(self, items: Sequence[Item]) -> None:
        """Resolve managers and parents within the page and among what is linked; the others wait by reference."""
        here = {
            ref_key(item.record.ref): (item.row.id, item.record.kind)
            for item in items
            if item.row is not None and item.skipped is None
        }
        wanted = {
            ref_key(ref.key)
            for item in items
            for ref in (item.record.manager, item.record.parent)
            if item.row is not None and ref is not None
        } - here.keys()
        if wanted:
            found = self.session.execute(
                _REFS, arrays({"tenant": self.tenant, "via": self.via.id, "refs": list(wanted)})
            )
            here.update({ref: (resource, kind) for ref, resource, kind in found})
        for item in items:
            row, record_ = item.row, item.record
            if row is None or item.skipped:
                continue
            row.manager_ref = ref_key(record_.manager.key) if record_.manager else None
            row.manager_id = _pointing(here, row.manager_ref, "user")
            row.parent_ref = ref_key(record_.parent.key) if record_.parent else None
            row.parent_id = _pointing(here, row.parent_ref, "unit")

    def _settle(self, item: Item, row: Row, contributions: Sequence[Said]) -> None:
        was_active = row.active and not item.fresh and not item.revived
        until = layers.earliest(contributions)
        if item.active:
            row.active = not row.disabled and all(said.active for said in contributions)
            row.active_until = until
        elif not was_active:
            row.active, row.active_until = False, until
        row.removed_at = None
        try:
            rows.settle(row, layers.effective(row, contributions))
        except Unfit as unfit:
            item.skipped = unfit.reason
            _REASONS.setdefault(unfit.reason, unfit.detail)

    def _keep_names_apart(self, items: Sequence[Item]) -> None:
        """A userName that is taken skips its record; nobody is joined by name."""
        claims = [
            item
            for item in items
            if item.row is not None
            and item.skipped is None
            and item.row.type == "User"
            and (item.fresh or item.revived or item.row.name_key != item.name_before)
        ]
        if not claims:
            return
        leaving = {item.row.id for item in claims if item.row is not None}
        keys = [item.row.name_key for item in claims if item.row is not None]
        found = self.session.execute(_NAMES, arrays({"tenant": self.tenant, "keys": keys}))
        holders = {key: id for key, id in found if id not in leaving}
        for item in sorted(claims, key=lambda item: item.fresh):
            assert item.row is not None
            if holders.setdefault(item.row.name_key, item.row.id) != item.row.id:
                item.skipped = "user_name_taken"
        stuck = {item.name_before for item in claims if item.skipped and not item.fresh and not item.revived}
        for item in claims:
            if item.skipped is None and item.row is not None and item.row.name_key in stuck:
                item.skipped = "user_name_taken"

    def _keep_within_room(self, items: Sequence[Item]) -> None:
        if self.room is None:
            return
        for item in items:
            adds = item.row is not None and item.row.type == "User" and (item.fresh or item.revived)
            if adds and item.skipped is None:
                if self.room <= 0:
                    item.skipped = "limit_exceeded"
                else:
                    self.room -= 1

    def _write(self, items: Sequence[Item]) -> None:
        fresh = [item.row for item in items if item.row and item.fresh and not item.skipped]
        rows.name_tokens(self.tenant, fresh)
        rows.insert(self.tenant, fresh)
        self._update(items)
        if items:
            self._link(items)
        wanted = {
            item.row.id: item.record.members
            for item in items
            if item.row and not item.skipped and item.record.kind == "group" and item.record.members is not None
        }
        self._members(items, wanted)
        arrivals = [item for item in items if item.row and not item.skipped and _newly_here(item)]
        members.arrived(self.tenant, self.via.id, [item.record.key for item in arrivals], self.tally)
        users = {
            item.row.id: item.record.primary_group.key if item.record.primary_group else None
            for item in items
            if item.row and not item.skipped and item.record.kind == "user"
        }
        groups = {
            item.row.id: item.record.alias
            for item in arrivals
            if item.row and item.record.kind == "group" and item.record.alias
        }
        members.follow_primary(self.tenant, self.via.id, users, groups, self.tally)
        self._awaited(arrivals)

    def _update(self, items: Sequence[Item]) -> None:
        """Write the rows that differ, and say in which attributes."""
        settled = [item for item in items if item.row and not item.fresh and not item.skipped]
        nos = [item.link.no for item in settled if item.link]
        stored: dict[int, bytes] = {}
        if nos:
            found = self.session.execute(_RECORDS, arrays({"tenant": self.tenant, "nos": nos}))
            stored.update((no, record) for no, record in found)
        written, renamed = [], []
        for item in settled:
            row, link = item.row, item.link
            assert row is not None and link is not None
            changed = mapping.differing(orjson.loads(item.before), row.read())
            if link.no in stored:
                changed += _overflow_changed(row.type, stored[link.no], item.encoded.stored)
            if not changed and not item.revived:
                continue
            row.version += 1
            written.append(row)
            if row.name_key != item.name_before:
                renamed.append(row.id)
            if item.revived:
                self.changes.add(f"{row.noun}.revived", row.type, row.id)
            elif "active" in changed and row.active:
                self.changes.add(f"{row.noun}.enabled", row.type, row.id, changed)
            else:
                self.changes.add(f"{row.noun}.updated", row.type, row.id, changed)
        rows.update(self.tenant, written, renamed=renamed)

    def _link(self, items: Sequence[Item]) -> None:
        columns: dict[str, list[Any]] = {
            "keys": [item.record.key for item in items],
            "resources": [_linked(item) for item in items],
            "kinds": [item.record.kind for item in items],
            "names": [item.record.name for item in items],
            "refs": [ref_key(item.record.ref) for item in items],
            "aliases": [item.record.alias for item in items],
            "primaries": [item.record.primary_group.key if item.record.primary_group else None for item in items],
            "actives": [item.active for item in items],
            "digests": [item.encoded.digest for item in items],
            "quiets": [item.encoded.quiet_digest for item in items],
            "skips": [item.skipped for item in items],
        }
        where = {"tenant": self.tenant, "via": self.via.id}
        numbers: dict[str, int] = {}
        linked = self.session.execute(_LINK, arrays({**where, "run": self.run_no, **columns}))
        numbers.update((key, no) for key, no in linked)
        self.session.execute(
            _RECORD,
            arrays(
                {
                    "tenant": self.tenant,
                    "nos": [numbers[item.record.key] for item in items],
                    "records": [_kept(item) for item in items],
                }
            ),
        )
        self._unhold(list(numbers.values()))
        self._numbers = numbers

    def _members(self, items: Sequence[Item], wanted: dict[str, tuple[Ref, ...]]) -> None:
        """The member lists of the page's groups. One that would lose half gains the new ones at once, and keeps the old
        until the guard decides."""
        known = {item.row.id: item for item in items if item.row and not item.fresh and item.row.id in wanted}
        halved = {}
        if known:
            present = {group: wanted[group] for group in known}
            members.follow_renames(self.tenant, self.via.id, present)
            found = members.lost_by_halving(self.tenant, self.via.id, present, self.halving_floor)
            for group, (_, lost) in found.items():
                item = known[group]
                halved[group] = wanted.pop(group)
                evidence = encode_members(halved[group], lost)
                self.outcome.losses.append(
                    Loss(self._numbers[item.record.key], "shrink", "group", item.encoded.digest, evidence)
                )
        members.write(self.tenant, self.via.id, wanted, self.tally)
        members.add(self.tenant, self.via.id, halved, self.tally)

    def _awaited(self, arrivals: Sequence[Item]) -> None:
        """Managers and parents that others waited for."""
        here = {ref_key(item.record.ref): (item.row.id, item.record.kind) for item in arrivals if item.row}
        if not here:
            return
        found = self.session.execute(
            _WAITING, arrays({"tenant": self.tenant, "via": self.via.id, "refs": list(here)})
        ).all()
        pointed = [
            (id, type_, _pointing(here, manager, "user"), _pointing(here, parent, "unit"))
            for id, type_, manager, parent in found
        ]
        pointed = [line for line in pointed if line[2] or line[3]]
        if not pointed:
            return
        self.session.execute(
            _REFER,
            arrays(
                {
                    "tenant": self.tenant,
                    "ids": [line[0] for line in pointed],
                    "managers": [line[2] for line in pointed],
                    "parents": [line[3] for line in pointed],
                }
            ),
        )
        shown = [line[0] for line in pointed if line[2] or line[1] == "OrganizationalUnit"]
        for start in range(0, len(shown), 1_000):
            layers.recompute(self.tenant, shown[start : start + 1_000], self.changes)

    def _deltas(self, deltas: Sequence[Members]) -> None:
        """Incremental membership changes, as a followed upstream tells them."""
        if not deltas:
            return
        links = self._links({delta.key for delta in deltas})
        for delta in deltas:
            link = links.get(delta.key)
            if link is None or link.resource_id is None or link.gone:
                detail = "Members of a group that is not linked."
                self.outcome.skips.append(Skip(None, delta.key, "unknown_group", detail))
                continue
            members.change(self.tenant, self.via.id, link.resource_id, delta.add, delta.remove, self.tally)
            self.outcome.count("group", "updated", delta.key)

    def _gone(self, gone: Sequence[Gone]) -> None:
        for link in self._links({change.key for change in gone}).values() if gone else ():
            if not link.gone:
                self.outcome.losses.append(Loss(link.no, "remove", link.kind, link.digest, EXPLICIT))

    def _news(self, items: Sequence[Item]) -> None:
        created = {item.row.id for item in items if item.row and item.fresh and not item.skipped}
        for item in items:
            row, kind = item.row, item.record.kind
            if row is not None and row.id in created:
                self.changes.add(f"{row.noun}.created", row.type, row.id)
            if item.skipped:
                continue
            self.outcome.count(kind, "created" if item.link is None or item.fresh else "updated", item.record.name)
        tell_members(self.tenant, self.tally, self.changes, besides=created)
        record(self.changes)


def tell_members(tenant: str, tally: members.Tally, changes: Changes, *, besides: Iterable[str] = ()) -> None:
    """One event and one version for each group whose members changed; groups just created have told already."""
    groups = [group for group in tally.groups() if group not in set(besides)]
    if not groups:
        return
    live = db.session().execute(_TOUCH, {"tenant": tenant, "ids": groups}).scalars()
    for group in live:
        counts = {"added": tally.added[group], "removed": tally.removed[group]}
        changes.add("group.members_changed", "Group", group, counts)


EXPLICIT = b"gone"
"""Evidence of a removal the upstream said in so many words."""

_REASONS = {
    "user_name_taken": "Its userName belongs to somebody else of this tenant.",
    "limit_exceeded": "The tenant has as many users as its partner allows.",
    "kind_changed": "The entry is of another class than the resource it was linked to.",
}


def encode_members(wanted: Sequence[Ref], lost: int) -> bytes:
    """The evidence of a shrink: the members that would be left, and how many would go."""
    return orjson.dumps({"lost": lost, "members": [(member.key, member.raw) for member in wanted]})


def decode_members(evidence: bytes) -> tuple[Ref, ...]:
    return tuple(Ref(key, raw) for key, raw in orjson.loads(evidence)["members"])


def members_lost(loss: Loss) -> int:
    """How many members the group of a shrink would lose."""
    return int(orjson.loads(loss.evidence)["lost"]) if loss.evidence is not None else 0


def count_users(tenant: str) -> int:
    return int(db.session().execute(_USERS, {"tenant": tenant}).scalar_one())


def _pointing(here: Mapping[str, tuple[str, str]], ref: str | None, kind: str) -> str | None:
    found = here.get(ref) if ref is not None else None
    return found[0] if found is not None and found[1] == kind else None


def _kept(item: Item) -> bytes:
    """What is stored of a record: a skipped group gets no membership rows, so that its members stay in the record."""
    if not item.skipped or not item.record.members:
        return item.encoded.stored
    attributes = {**item.record.attributes}
    attributes[mapping.member_attribute(attributes)] = [member.raw for member in item.record.members]
    return mapping.encode_record(replace(item.record, attributes=attributes), b"").stored


def _linked(item: Item) -> str | None:
    """The resource a link points to: a skipped record keeps the one it had and gets no new one."""
    if item.skipped:
        return item.link.resource_id if item.link else None
    return item.row.id if item.row else None


def _newly_here(item: Item) -> bool:
    """Whether others may have waited for this record under its present name."""
    link = item.link
    return link is None or item.fresh or item.revived or link.gone or link.ref != ref_key(item.record.ref)


def _overflow_changed(resource_type: str, before: bytes, after: bytes) -> list[str]:
    """Names of upstream attributes outside the document whose meaning changed, as extension paths."""
    (old, _), (new, _) = orjson.loads(before), orjson.loads(after)
    if old == new:
        return []
    was, now = dict(old), dict(new)
    urn = catalogue.AD_GROUP if resource_type == "Group" else catalogue.AD_USER
    named = mapping.document_sources(resource_type)
    names = {name for name in {*was, *now} if was.get(name) != now.get(name) and name.lower() not in named}
    return sorted(f"{urn}:{name}" for name in names)
