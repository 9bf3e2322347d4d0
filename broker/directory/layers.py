"""What each resource's links contribute, and the recomputing of resources when that changes.

Owns the reading of links with their records and mappings into ranked layers, and `recompute`: the one place that turns
layers, local values and pins into a row, writes what differs, and says what changed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa

from connectors.port import Attributes

from ..attributes import CUSTOM
from ..db import db
from ..events import Changes
from ..models import IdentityProvider
from . import declared, mapping, names, rows
from .declared import Declarations, Declared
from .mapping import Layer, Mapping_, Values
from .rows import Row


class Provider(NamedTuple):
    """What the directory needs to know of an upstream: its rank and its mapping."""

    id: str
    priority: int
    mapping: Mapping_
    sign_in: bool = False
    """It tells of people only when they sign in: see `mapping.SIGN_IN_KINDS`."""

    @classmethod
    def of(cls, via: IdentityProvider) -> Provider:
        known = declared.declared(via.tenant_id) if mapping.names_declared(via.attribute_mapping) else {}
        return _provider(known, via.id, via.kind, via.priority, via.attribute_mapping)

    @property
    def digest(self) -> bytes:
        """Changes with whatever decides what a record comes to: the mapping, and the rank among the upstreams."""
        return blake2b(b"%d" % self.priority, key=self.mapping.digest, digest_size=15).digest()


@dataclass(frozen=True, slots=True)
class Said:
    """One live link's contribution to a resource."""

    rank: tuple[int, str]
    active: bool
    active_until: datetime | None
    layer: Layer
    sign_in: bool = False
    doubted: frozenset[str] = frozenset()
    """Addresses that a sign-in brought and its upstream did not vouch for."""
    refused: list[str] = field(default_factory=list)
    """Why values that it says are not taken, those of what the tenant has declared."""

    @property
    def via(self) -> str:
        """The provider's id."""
        return self.rank[1]


_PROVIDERS = sa.text("SELECT id, kind, priority, attribute_mapping FROM identity_providers WHERE tenant_id = :tenant")
_LINKS = sa.text("""
    SELECT l.resource_id, l.provider_id, l.active, CASE WHEN l.name_kept THEN s.name END, r.record
    FROM links l JOIN link_records r ON r.tenant_id = l.tenant_id AND r.link_no = l.no
    JOIN resources s ON s.tenant_id = l.tenant_id AND s.id = l.resource_id
    WHERE l.tenant_id = :tenant AND l.resource_id = ANY(:ids) AND l.gone_at IS NULL AND l.skipped IS NULL
      AND l.provider_id <> :besides
""")


def providers(tenant: str) -> dict[str, Provider]:
    found = db.session().execute(_PROVIDERS, {"tenant": tenant}).all()
    known = declared.declared(tenant) if any(mapping.names_declared(rows) for *_, rows in found) else {}
    return {id: _provider(known, id, *rest) for id, *rest in found}


def _provider(known: Declarations, id: str, kind: str, priority: int, rows: Sequence[Mapping[str, Any]]) -> Provider:
    return Provider(id, priority, mapping.compiled(rows, kind, known), kind in mapping.SIGN_IN_KINDS)


def said_of(
    tenant: str,
    row_types: Mapping[str, str],
    *,
    besides: str = "",
    believed: Callable[[Provider, Attributes], Attributes] | None = None,
) -> dict[str, list[Said]]:
    """The contributions of every live link of these resources (id → type), one provider left out if asked. `believed`
    says what counts of a record, where not all of it does."""
    result: dict[str, list[Said]] = defaultdict(list)
    if not row_types:
        return result
    found = db.session().execute(_LINKS, {"tenant": tenant, "ids": list(row_types), "besides": besides}).all()
    known = providers(tenant) if found else {}
    for resource_id, provider_id, active, kept, record in found:
        resource_type = row_types[resource_id]
        attributes: Attributes = mapping.decode_record(record)
        if believed is not None:
            attributes = believed(known[provider_id], attributes)
        said = contribution(known[provider_id], resource_type, attributes, active)
        if kept is not None:
            said.layer.values[rows.name_attribute(resource_type)] = kept
        result[resource_id].append(said)
    return result


def contribution(provider: Provider, resource_type: str, attributes: Attributes, active: bool) -> Said:
    """What a record says about a resource of this type."""
    said = mapping.said(attributes)
    ends = None if provider.sign_in else said.get("accountexpires")
    until = mapping.filetime(ends[0]) if ends else None
    refused: list[str] = []
    values = mapping.mapped(provider.mapping, resource_type, said, refused)
    layer = Layer(provider.mapping, values)
    doubted = _addresses(values) - mapping.vouched(said) if provider.sign_in else frozenset()
    return Said((provider.priority, provider.id), active, until, layer, provider.sign_in, doubted, refused)


def ranked(contributions: Iterable[Said]) -> list[Layer]:
    return [said.layer for said in sorted(contributions, key=lambda said: said.rank)]


def effective(row: Row, contributions: Sequence[Said]) -> Values:
    """The values that hold for a row, from its links, what was written here, and pins; and whether the row has an
    address by nobody's word but of a sign-in that did not vouch for it."""
    values = mapping.merged(row.type, ranked(contributions), row.local, row.pins)
    doubted = frozenset[str]().union(*(said.doubted for said in contributions))
    row.email_doubted = bool(doubted and _addresses(values) & doubted - _believed(row, contributions))
    return values


def _believed(row: Row, contributions: Sequence[Said]) -> frozenset[str]:
    """The addresses that a directory or somebody here says, or a sign-in with its upstream's word."""
    elsewhere = ranked(said for said in contributions if not said.sign_in)
    vouched = (_addresses(said.layer.values) - said.doubted for said in contributions if said.sign_in)
    return _addresses(mapping.merged(row.type, elsewhere, row.local, row.pins)).union(*vouched)


def _addresses(values: Values) -> frozenset[str]:
    items = mapping.nested("User", "", values).get("emails", ())
    return frozenset(item["value"] for item in items if isinstance(item.get("value"), str))


def earliest(contributions: Sequence[Said]) -> datetime | None:
    return min((said.active_until for said in contributions if said.active_until is not None), default=None)


def admitted(row: Row, contributions: Sequence[Said]) -> bool:
    """Whether nothing speaks against this person: not disabled here, by no link, and the time has not run out."""
    until = earliest(contributions)
    return not row.disabled and all(said.active for said in contributions) and (until is None or until > rows.now())


def bind(tenant: str, standing: Iterable[tuple[Row, Sequence[Said]]]) -> None:
    """Hold what links say to what the tenant has declared, before it takes effect: a value that never changes stays as
    it is, and one that is one resource's alone is its first holder's. What gives way is out of the link's layer, and
    told in its `refused`."""
    bound = [(row, said, lines) for row, said in standing if (lines := _bound(row.type, said))]
    for row, said, lines in bound:
        _keep_immutable(row, said, [line for line in lines if line.immutable])
    while True:
        claims = {row.id: _claims(row, said, lines) for row, said, lines in bound}
        contested = declared.contested(tenant, {id: claimed.keys() for id, claimed in claims.items()})
        given_way = [
            _give_way(line, item, said)
            for row, said, _ in bound
            for line, item in (claims[row.id][one] for one in sorted(contested.get(row.id, ())))
        ]
        if not any(given_way):
            return


def _bound(resource_type: str, contributions: Iterable[Said]) -> list[Declared]:
    return list(dict.fromkeys(line for said in contributions for line in said.layer.mapping.bound[resource_type]))


def _keep_immutable(row: Row, contributions: Sequence[Said], lines: Sequence[Declared]) -> None:
    if not lines or row.removed_at is not None:
        return
    before = row.read().get(CUSTOM[row.type], {})
    values = mapping.merged(row.type, ranked(contributions), row.local, row.pins)
    for line in lines:
        old, new = before.get(line.name), values.get(line.key)
        if old is not None and new is None:
            # What could not be read says nothing: it does not take away what never changes.
            unread = (said for said in contributions if any(why.startswith(f"{line.name}: ") for why in said.refused))
            for said in unread:
                said.layer.values[line.key] = old
        if old is None or new is None or old == new:
            continue
        differs = not declared.same(line, old, new)
        for said in contributions:
            if said.layer.values.get(line.key) == new:
                said.layer.values[line.key] = old
                if differs:
                    said.refused.append(f"{line.name}: Never changes once it has a value.")


def _claims(
    row: Row, contributions: Sequence[Said], lines: Iterable[Declared]
) -> dict[declared.Claim, tuple[Declared, Any]]:
    """What a resource would have that is one resource's alone, by what it lays claim to."""
    values = mapping.merged(row.type, ranked(contributions), row.local, row.pins)
    return {
        declared.claim(line, item): (line, item)
        for line in lines
        if line.unique and line.key in values
        for item in declared.items(values[line.key])
    }


def _give_way(line: Declared, item: Any, contributions: Iterable[Said]) -> bool:
    """Take a value from whichever link says it; False where none does."""
    taken = declared.claim(line, item)
    found = False
    for said in contributions:
        given = declared.items(said.layer.values.get(line.key, []))
        left = [one for one in given if declared.claim(line, one) != taken]
        if len(left) == len(given):
            continue
        found = True
        said.refused.append(f"{line.name}: Another {mapping.NOUN[line.resource_type]} has this value.")
        if left:
            said.layer.values[line.key] = left
        else:
            del said.layer.values[line.key]
    return found


def owned_keys(resource_type: str, contributions: Sequence[Said]) -> frozenset[str]:
    """The flat keys some link owns; writing them needs a pin."""
    empty: frozenset[str] = frozenset()
    return empty.union(*(said.layer.mapping.owned[resource_type] for said in contributions))


def _silent(row: Row) -> tuple[datetime | None, bool]:
    """What is kept with a row and shows in no document."""
    return row.active_until, row.email_doubted


_REREAD = sa.text("""
    UPDATE links SET digest = '', name_kept = name_kept OR resource_id = ANY(:kept)
    WHERE tenant_id = :tenant AND resource_id = ANY(:ids) AND gone_at IS NULL
""")


def recompute(
    tenant: str, ids: Sequence[str], changes: Changes, *, reread: bool = True, heard: list[Said] | None = None
) -> set[str]:
    """Bring live resources up to what their remaining links say; writes and records only differences.

    A name that is missing now, or that somebody else has, stays what it was; returns whose name was somebody else's.
    `reread`: a link has gone, and the remaining upstreams' records are read anew in their next pass, for who manages
    whom is not kept with them. `heard` gets what the links said.
    """
    if not ids:
        return set()
    found = rows.load(tenant, ids)
    contributions = said_of(tenant, {row.id: row.type for row in found.values()})
    bind(tenant, [(row, contributions[row.id]) for row in found.values()])
    if heard is not None:
        heard.extend(said for each in contributions.values() for said in each)
    before = {id: (row.document, row.name, row.name_key, row.active, _silent(row)) for id, row in found.items()}
    values: dict[str, Values] = {}
    for row in found.values():
        said = contributions[row.id]
        if row.type == "User":
            row.active = row.active or admitted(row, said)
            row.active_until = earliest(said)
        values[row.id], _ = rows.fit_living(row, effective(row, said))
    claims = [
        names.Claim(row.id, row.name_key, before[row.id][2])
        for row in found.values()
        if row.type == "User" and row.name_key != before[row.id][2]
    ]
    refused = names.refused(tenant, claims)
    for id in refused:
        values[id], _ = rows.fit_living(found[id], {**values[id], "userName": before[id][1]})
    changed = []
    for row in found.values():
        document, _, _, was_active, silent = before[row.id]
        rows.compose(row, values[row.id])
        if row.document != document:
            row.version += 1
            deed = "enabled" if row.active and not was_active else "updated"
            differing = mapping.differing(orjson.loads(document), row.read())
            changes.add(f"{row.noun}.{deed}", row.type, row.id, differing)
        elif _silent(row) == silent:
            continue
        changed.append(row)
    renamed = [row.id for row in changed if row.name_key != before[row.id][2]]
    rows.park(tenant, renamed)
    rows.update(tenant, changed)
    if reread:
        db.session().execute(_REREAD, {"tenant": tenant, "ids": list(found), "kept": sorted(refused)})
    return refused
