"""A page of an upstream's changes, written in sets.

Owns the comparing of records with what is linked, the deciding of each record's fate (new, changed, unchanged, kept
without a resource, skipped with a reason), and the writing of the page: a bounded number of statements whatever its
size, events in the same transaction. It never takes anything away: a halved group is handed back as a `Loss`, disables
and absences are found by `removal`. Applying a page twice is silent the second time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from connectors import dn
from connectors.port import Change, Gone, Members, Record, Ref, Unreadable

from ..endings import DISABLED, end_all_of
from ..events import Changes, record
from . import declared, documents, layers, links, mapping, members, names, references, rows
from . import deltas as single_members
from .documents import MANAGER, PARENT, Values
from .layers import Provider, Said
from .links import Link
from .mapping import TYPE_OF_KIND
from .news import Tally, tell_members
from .outcome import EXPLICIT, Loss, Outcome, Skip, encode_leaving
from .records import Encoded, encode_record, loud_parts, member_attribute
from .rows import Row, Unfit, ref_key


@dataclass(slots=True)
class Item:
    """One record on its way through the page."""

    record: Record
    key: str
    encoded: Encoded
    link: Link | None
    row: Row | None = None
    document_before: bytes = b""
    name_before: str = ""
    key_before: str | None = None
    silent_before: tuple[Any, ...] = ()
    revived: bool = False
    fresh: bool = False
    skipped: str | None = None
    name_kept: bool = False
    said: Said | None = None
    others: Sequence[Said] = ()
    values: Values = field(default_factory=dict)

    @property
    def refused(self) -> Sequence[str]:
        """Why values of the record are not taken, though the record is."""
        return self.said.refused if self.said is not None and self.skipped is None else ()

    @property
    def active(self) -> bool:
        """Whether the upstream lets this person in today."""
        until = self.said.active_until if self.said else None
        return self.record.active and (until is None or until > rows.now())

    @property
    def leads(self) -> bool:
        """Whether no directory of a higher rank has the resource: who manages whom is said by the highest."""
        return self.said is None or all(self.said.rank < other.rank for other in self.others if not other.sign_in)

    @property
    def arrives(self) -> bool:
        """Whether others may have waited for this record under its present name."""
        link = self.link
        return (
            link is None
            or self.fresh
            or self.revived
            or link.gone
            or link.skipped is not None
            or link.ref != ref_key(self.record.ref)
        )


_DETAILS = {
    "user_name_taken": "Its userName belongs to somebody else of this tenant.",
    "limit_exceeded": "The tenant has as many users as its partner allows.",
    "kind_changed": "The entry is of another class than the resource it was linked to.",
    "duplicate_key": "Another entry of the page has the same immutable id.",
    "control_character": "Its key, its name or a name it mentions holds a NUL character.",
}


class PageOfChanges:
    """One page of one upstream in one tenant, inside the caller's unit of work.

    `room` tells how many more users the tenant may have, None for any number. `followed`: the upstream tells what
    changed, in an order in which others have their new names before lists mention them.
    """

    def __init__(
        self,
        tenant: str,
        via: Provider,
        run_no: int,
        *,
        halving_floor: int,
        followed: bool,
        room: Callable[[], int | None],
    ) -> None:
        self.tenant = tenant
        self.via = via
        self.run_no = run_no
        self.halving_floor = halving_floor
        self.followed = followed
        self.room = room
        self.outcome = Outcome()
        self.changes = Changes()
        self.tally = Tally()

    def apply(self, changes: Sequence[Change]) -> Outcome:
        records: dict[str, Record] = {}
        deltas: list[Members] = []
        gone: dict[str, Gone] = {}
        unreadable: list[str] = []
        for change in changes:
            self.outcome.read += 1
            if isinstance(change, Record):
                if (earlier := records.pop(change.key, None)) is not None:
                    self._skip(earlier, "duplicate_key")
                gone.pop(change.key, None)
                records[change.key] = change
            elif isinstance(change, Unreadable):
                self.outcome.skips.append(Skip(change.position, change.name, change.reason, change.detail))
                if change.ref is not None:
                    unreadable.append(change.ref)
            elif isinstance(change, Members):
                deltas.append(change)
            else:
                gone[change.key] = change
        links.mark_there(self.tenant, self.via.id, self.run_no, unreadable)
        if self.followed and gone:
            single_members.leave(self.tenant, self.via.id, [ref_key(key) for key in gone])
        items = self._classified(records)
        if items:
            self._decide(items)
            self._write(items)
        self._change_members(deltas)
        members.release(self.tenant, self.via.id, self.run_no, self.tally)
        self._find_gone(gone.values())
        # The guard may keep them for a while; whoever is disabled there uses nothing meanwhile, and nothing comes back.
        out = [item.row.id for item in items if item.row and not item.skipped and not item.active]
        end_all_of(out, DISABLED, self.changes)
        self._tell(items)
        return self.outcome

    def _skip(self, record: Record, reason: str, detail: str = "") -> None:
        self.outcome.skips.append(Skip(None, record.name, reason, detail or _DETAILS[reason]))

    def _classified(self, records: dict[str, Record]) -> list[Item]:
        """Everything that differs from what is linked; the rest is marked as seen, its quiet values refreshed."""
        known = links.find(self.tenant, self.via.id, (ref_key(key) for key in records if "\x00" not in key))
        digest = self.via.digest
        items: list[Item] = []
        quiet: list[tuple[int, Encoded]] = []
        seen: list[Link] = []
        met: list[tuple[str, Record]] = []
        for key, record_ in records.items():
            if not _storable(record_):
                self._skip(record_, "control_character")
                continue
            stored_key = ref_key(key)
            encoded = encode_record(record_, digest)
            link = known.get(stored_key)
            if link and link.digest == encoded.digest and link.stands:
                seen.append(link)
                self.outcome.count(link.kind, "unchanged")
                if link.resource_id:
                    met.append((link.resource_id, record_))
                if link.quiet_digest != encoded.quiet_digest:
                    quiet.append((link.no, encoded))
            else:
                items.append(Item(record_, stored_key, encoded, link))
        links.mark_seen(self.tenant, self.via.id, self.run_no, seen)
        links.rewrite_quietly(self.tenant, quiet)
        if self.followed:
            self._come(met)
        return items

    def _decide(self, items: Sequence[Item]) -> None:
        """Give each record its row with everything it says, or the reason why it has none."""
        known = [item.link.resource_id for item in items if item.link and item.link.resource_id]
        loaded = rows.load(self.tenant, known, removed=True)
        others = layers.said_of(self.tenant, {row.id: row.type for row in loaded.values()}, besides=self.via.id)
        for item in items:
            self._give_row(item, loaded)
            if item.row is not None and item.skipped is None:
                item.others = others.get(item.row.id, ())
        layers.bind(self.tenant, [(item.row, [item.said, *item.others]) for item in items if item.row and item.said])
        for item in items:
            if item.row is not None and item.skipped is None:
                self._fit(item, item.row)
        self._keep_names_apart(items)
        self._keep_within_room(items)
        self._refer(items)
        for item in items:
            if item.skipped is not None:
                self._skip(item.record, item.skipped)
            elif item.row is not None:
                rows.compose(item.row, item.values)
            if item.refused:
                self._skip(item.record, "values_refused", " ".join(item.refused))

    def _give_row(self, item: Item, loaded: dict[str, Row]) -> None:
        kind = TYPE_OF_KIND.get(item.record.kind)
        row = loaded.get(item.link.resource_id) if item.link and item.link.resource_id else None
        if row is not None and row.type != kind:
            if row.removed_at is None:
                item.skipped = "kind_changed"
                return
            row = None
        if kind is None:
            return
        if row is None:
            row, item.fresh = Row(rows.new_id(kind), kind), True
        item.said = layers.contribution(self.via, kind, item.record.attributes, item.record.active)
        item.row = row
        item.revived = row.removed_at is not None
        item.document_before, item.name_before, item.silent_before = row.document, row.name, _silent(row)
        item.key_before = None if item.fresh or item.revived else row.name_key

    def _fit(self, item: Item, row: Row) -> None:
        """Put the values that hold into the row. Who is here already and cannot be called so keeps the old name."""
        assert item.said is not None
        contributions = [item.said, *item.others]
        was_active = row.active and item.key_before is not None
        admitted = layers.admitted(row, contributions)
        if item.active or not was_active:
            row.active_until = layers.earliest(contributions)
        row.active = was_active or admitted  # disabling is the guard's
        row.removed_at = None
        item.values = layers.effective(row, contributions)
        if item.key_before is not None:
            item.values, wrong = rows.fit_living(row, item.values)
            if wrong is not None:
                item.name_kept = True
                self._skip(item.record, wrong.reason, wrong.detail)
            return
        try:
            rows.fit(row, item.values)
        except Unfit as unfit:
            item.skipped = unfit.reason
            _DETAILS.setdefault(unfit.reason, unfit.detail)

    def _keep_names_apart(self, items: Sequence[Item]) -> None:
        """A userName that is taken keeps a newcomer out and leaves who is here with the old one; nobody is joined by
        name."""
        claimants = {
            item.row.id: item
            for item in items
            if item.row is not None
            and item.skipped is None
            and item.row.type == "User"
            and item.row.name_key != item.key_before
        }
        claims = [names.Claim(id, item.row.name_key, item.key_before) for id, item in claimants.items() if item.row]
        for id in names.refused(self.tenant, claims):
            item = claimants[id]
            if item.key_before is None or item.row is None:
                item.skipped = "user_name_taken"
            else:
                item.name_kept = True
                item.values, _ = rows.fit_living(item.row, {**item.values, "userName": item.name_before})
                self._skip(item.record, "user_name_taken")

    def _keep_within_room(self, items: Sequence[Item]) -> None:
        adding = [
            item
            for item in items
            if item.row is not None and item.skipped is None and item.key_before is None and item.row.counts
        ]
        room = self.room() if adding else None
        if room is not None:
            for item in adding[room:]:
                item.skipped = "limit_exceeded"

    def _refer(self, items: Sequence[Item]) -> None:
        """Resolve managers and parents within the page and among what is linked; the others wait by reference."""
        here: dict[str, tuple[str, str]] = {
            ref_key(item.record.ref): (item.row.id, item.record.kind)
            for item in items
            if item.row is not None and item.skipped is None
        }
        naming = [item for item in items if item.row is not None and item.skipped is None and item.leads]
        wanted = {
            ref_key(ref.key) for item in naming for ref in (item.record.manager, item.record.parent) if ref is not None
        } - here.keys()
        here = {**references.resolve(self.tenant, self.via.id, wanted), **here}
        for item in naming:
            row, record_ = item.row, item.record
            assert row is not None
            row.manager_ref = ref_key(record_.manager.key) if record_.manager else None
            row.parent_ref = ref_key(record_.parent.key) if record_.parent else None
            if MANAGER not in row.pins:
                row.manager_id = references.meant(here, row.manager_ref, "user")
            if PARENT not in row.pins:
                row.parent_id = references.meant(here, row.parent_ref, "unit")

    def _write(self, items: Sequence[Item]) -> None:
        fresh = [item.row for item in items if item.row and item.fresh and not item.skipped]
        names.name_tokens(self.tenant, fresh)
        rows.park(
            self.tenant,
            [
                item.row.id
                for item in items
                if item.row and item.row.type == "User" and item.key_before not in (None, item.row.name_key)
            ],
        )
        declared.release(
            self.tenant, fresh, [item.row.id for item in items if item.row and item.key_before is not None]
        )
        rows.insert(self.tenant, fresh)
        self._update(items)
        numbers = self._link(items)
        if self.followed:
            self._rename_members(items)
        for item in items:
            if item.skipped == "kind_changed" and item.link is not None:
                number = numbers[item.key]
                self.outcome.losses.append(Loss(number, "remove", item.link.kind, item.encoded.digest, EXPLICIT))
        self._write_members(items, numbers)
        arrivals = [item for item in items if item.row and not item.skipped and item.arrives]
        members.arrived(self.tenant, self.via.id, [item.key for item in arrivals], self.tally)
        if self.followed:
            self._come([(item.row.id, item.record) for item in items if item.row and not item.skipped])
        self._follow_primary(items, arrivals)
        here = {ref_key(item.record.ref): (item.row.id, item.record.kind) for item in arrivals if item.row}
        references.arrived(self.tenant, self.via.id, here, self.changes)

    def _update(self, items: Sequence[Item]) -> None:
        """Write the rows that differ, and say in which attributes."""
        settled = [item for item in items if item.row and not item.fresh and not item.skipped]
        stored = links.records(self.tenant, [item.link.no for item in settled if item.link])
        written, silent = [], []
        for item in settled:
            row, link = item.row, item.link
            assert row is not None and link is not None
            changed = mapping.differing(orjson.loads(item.document_before), row.read())
            if link.no in stored and not link.gone:
                changed += _overflow_changed(row.type, stored[link.no], item.encoded.stored)
            if not changed and not item.revived:
                if _silent(row) != item.silent_before:
                    silent.append(row)
                continue
            row.version += 1
            written.append(row)
            if item.revived:
                self.changes.add(f"{row.noun}.revived", row.type, row.id)
            elif "active" in changed and row.active:
                self.changes.add(f"{row.noun}.enabled", row.type, row.id, changed)
            else:
                self.changes.add(f"{row.noun}.updated", row.type, row.id, changed)
        rows.update(self.tenant, written)
        rows.update_silently(self.tenant, silent)

    def _link(self, items: Sequence[Item]) -> dict[str, int]:
        """Write the links with their records; returns their numbers by key."""
        columns: dict[str, list[Any]] = {
            "keys": [item.key for item in items],
            "resources": [_linked(item) for item in items],
            "kinds": [_kind(item) for item in items],
            "names": [item.record.name for item in items],
            "refs": [ref_key(item.record.ref) for item in items],
            "aliases": [_alias(item.record.alias) for item in items],
            "primaries": [_primary(item.record) for item in items],
            "actives": [item.active for item in items],
            "digests": [item.encoded.digest for item in items],
            "quiets": [item.encoded.quiet_digest for item in items],
            "skips": [item.skipped for item in items],
            "kept": [item.name_kept for item in items],
            "stales": [bool(item.refused) for item in items],
        }
        return links.write(self.tenant, self.via.id, self.run_no, columns, [_kept(item) for item in items])

    def _write_members(self, items: Sequence[Item], numbers: dict[str, int]) -> None:
        """The member lists of the page's groups. One that would lose half gains the new ones at once, and keeps the old
        until the guard decides."""
        groups = {
            item.row.id: item
            for item in items
            if item.row and not item.skipped and item.record.kind == "group" and item.record.members is not None
        }
        wanted: dict[str, Sequence[Ref]] = {id: item.record.members or () for id, item in groups.items()}
        known = {id for id, item in groups.items() if not item.fresh}
        held = members.write(
            self.tenant,
            self.via.id,
            None if self.followed else self.run_no,
            wanted,
            known,
            self.tally,
            floor=self.halving_floor,
        )
        for group, leaving in held.items():
            item = groups[group]
            evidence = encode_leaving(leaving)
            self.outcome.losses.append(Loss(numbers[item.key], "shrink", "group", item.encoded.digest, evidence))

    def _come(self, there: Sequence[tuple[str, Record]]) -> None:
        """Whoever a delta tells of is in the groups that his record names (`memberOf`): one who was called gone before
        is known by his name again."""
        named = [
            (id, ref_key(record_.ref), record_.name, group) for id, record_ in there for group in _groups_named(record_)
        ]
        single_members.come(self.tenant, self.via.id, named, self.tally)

    def _rename_members(self, items: Sequence[Item]) -> None:
        """Who has another name now is in his groups by that name: an upstream that is followed does not say so of each
        group."""
        single_members.rename(
            self.tenant,
            self.via.id,
            [
                (item.row.id, item.link.ref, ref_key(item.record.ref), item.record.name)
                for item in items
                if item.row and item.link and not item.skipped and item.link.ref != ref_key(item.record.ref)
            ],
        )

    def _follow_primary(self, items: Sequence[Item], arrivals: Sequence[Item]) -> None:
        users = {
            item.row.id: _primary(item.record)
            for item in items
            if item.row and not item.skipped and item.record.kind == "user"
        }
        groups = {
            item.row.id: alias
            for item in arrivals
            if item.row and item.record.kind == "group" and (alias := _alias(item.record.alias)) is not None
        }
        members.follow_primary(self.tenant, self.via.id, users, groups, self.tally)

    def _change_members(self, deltas: Sequence[Members]) -> None:
        """Incremental membership changes, as a followed upstream tells them."""
        if not deltas:
            return
        found = links.find(self.tenant, self.via.id, {ref_key(delta.key) for delta in deltas})
        known: list[tuple[str, Members]] = []
        linked: dict[str, Link] = {}
        for delta in deltas:
            link = found.get(ref_key(delta.key))
            if link is None or link.resource_id is None or link.gone or link.skipped or link.kind != "group":
                detail = "Members of a group that is not linked."
                self.outcome.skips.append(Skip(None, delta.key, "unknown_group", detail))
            else:
                known.append((link.resource_id, delta))
                linked[link.resource_id] = link
                self.outcome.count("group", "updated", delta.key)
        held = single_members.change(self.tenant, self.via.id, known, self.tally, floor=self.halving_floor)
        if not held:
            return
        earlier = links.held_shrinks(self.tenant, [linked[group].no for group in held])
        for group, leaving in held.items():
            link = linked[group]
            evidence = encode_leaving({*leaving, *earlier.get(link.no, ())})
            self.outcome.losses.append(Loss(link.no, "shrink", "group", link.digest, evidence))

    def _find_gone(self, gone: Iterable[Gone]) -> None:
        for link in links.find(self.tenant, self.via.id, {ref_key(change.key) for change in gone}).values():
            if not link.gone:
                self.outcome.losses.append(Loss(link.no, "remove", link.kind, link.digest, EXPLICIT))

    def _tell(self, items: Sequence[Item]) -> None:
        created: Set[str] = {item.row.id for item in items if item.row and item.fresh and not item.skipped}
        for item in items:
            row = item.row
            if row is not None and row.id in created:
                self.changes.add(f"{row.noun}.created", row.type, row.id)
            fate = "created" if item.link is None or item.fresh else "updated"
            if item.skipped or item.name_kept or (item.refused and fate == "updated"):
                continue
            self.outcome.count(item.record.kind, fate, item.record.name)
        tell_members(self.tenant, self.tally, self.changes, besides=created)
        record(self.changes)


def _storable(record: Record) -> bool:
    """Whether the names a record has and mentions can be stored; its values are stored as JSON and may be anything."""
    mentions = [ref for ref in (record.manager, record.parent, record.primary_group, *(record.members or ())) if ref]
    names = [record.key, record.name, record.ref, record.alias or ""]
    return not any("\x00" in name for name in names) and not any(
        "\x00" in mention.key or "\x00" in mention.raw for mention in mentions
    )


def _silent(row: Row) -> tuple[Any, ...]:
    """What a row holds that its document does not show."""
    return row.manager_id, row.manager_ref, row.parent_id, row.parent_ref, row.active_until, row.email_doubted


def _alias(alias: str | None) -> str | None:
    return ref_key(alias) if alias is not None else None


def _groups_named(record: Record) -> Iterator[str]:
    """The references of the groups that a record says it is in."""
    values = next((held for name, held in record.attributes.items() if name.lower() == "memberof"), ())
    for value in values:
        with suppress(ValueError):
            if isinstance(value, str):
                yield ref_key(dn.fold(value))


def _primary(record: Record) -> str | None:
    return ref_key(record.primary_group.key) if record.primary_group else None


def _kept(item: Item) -> bytes:
    """What is stored of a record: a skipped group gets no membership rows, so that its members stay in the record."""
    if not item.skipped or not item.record.members:
        return item.encoded.stored
    attributes = {**item.record.attributes}
    attributes[member_attribute(attributes)] = [member.raw for member in item.record.members]
    return encode_record(replace(item.record, attributes=attributes), b"").stored


def _linked(item: Item) -> str | None:
    """The resource a link points to: a skipped record keeps the one it had and gets no new one."""
    if item.skipped:
        return item.link.resource_id if item.link else None
    return item.row.id if item.row else None


def _kind(item: Item) -> str:
    """A record that became something else belongs to its old resource until that is taken away."""
    return item.link.kind if item.skipped == "kind_changed" and item.link else item.record.kind


def _overflow_changed(resource_type: str, before: bytes, after: bytes) -> list[str]:
    """Names of upstream attributes outside the document whose meaning changed, as extension paths."""
    was, now = loud_parts(before), loud_parts(after)
    if was == now:
        return []
    urn, named = documents.OWN[resource_type], documents.document_sources(resource_type)
    changed = {name for name in {*was, *now} if was.get(name) != now.get(name) and name.lower() not in named}
    return sorted(f"{urn}:{name}" for name in changed)
