"""What each resource's links contribute, and the recomputing of resources when that changes.

Owns the reading of links with their records and mappings into ranked layers, and `recompute`: the one place that turns
layers, local values and pins into a row, writes what differs, and says what changed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import NamedTuple

import orjson
import sqlalchemy as sa

from connectors.port import Attributes

from ..db import db
from ..events import Changes
from . import mapping, names, rows
from .mapping import Layer, Mapping_, Values
from .rows import Row


class Provider(NamedTuple):
    """What the directory needs to know of an upstream: its rank and its mapping."""

    id: str
    priority: int
    mapping: Mapping_

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


_PROVIDERS = sa.text("SELECT id, priority, attribute_mapping FROM identity_providers WHERE tenant_id = :tenant")
_LINKS = sa.text("""
    SELECT l.resource_id, l.provider_id, l.active, CASE WHEN l.name_kept THEN s.name END, r.record
    FROM links l JOIN link_records r ON r.tenant_id = l.tenant_id AND r.link_no = l.no
    JOIN resources s ON s.tenant_id = l.tenant_id AND s.id = l.resource_id
    WHERE l.tenant_id = :tenant AND l.resource_id = ANY(:ids) AND l.gone_at IS NULL AND l.skipped IS NULL
      AND l.provider_id <> :besides
""")


def providers(tenant: str) -> dict[str, Provider]:
    found = db.session().execute(_PROVIDERS, {"tenant": tenant})
    return {id: Provider(id, priority, mapping.compiled(lines)) for id, priority, lines in found}


def said_of(tenant: str, row_types: Mapping[str, str], *, besides: str = "") -> dict[str, list[Said]]:
    """The contributions of every live link of these resources (id → type), one provider left out if asked."""
    result: dict[str, list[Said]] = defaultdict(list)
    if not row_types:
        return result
    found = db.session().execute(_LINKS, {"tenant": tenant, "ids": list(row_types), "besides": besides}).all()
    known = providers(tenant) if found else {}
    for resource_id, provider_id, active, kept, record in found:
        resource_type = row_types[resource_id]
        said = contribution(known[provider_id], resource_type, mapping.decode_record(record), active)
        if kept is not None:
            said.layer.values[rows.name_attribute(resource_type)] = kept
        result[resource_id].append(said)
    return result


def contribution(provider: Provider, resource_type: str, attributes: Attributes, active: bool) -> Said:
    """What a record says about a resource of this type."""
    said = mapping.said(attributes)
    until = mapping.filetime(found[0]) if (found := said.get("accountexpires")) else None
    values = mapping.mapped(provider.mapping, resource_type, said)
    return Said((provider.priority, provider.id), active, until, Layer(provider.mapping, values))


def ranked(contributions: Iterable[Said]) -> list[Layer]:
    return [said.layer for said in sorted(contributions, key=lambda said: said.rank)]


def effective(row: Row, contributions: Sequence[Said]) -> Values:
    """The values that hold for a row, from its links, what was written here, and pins."""
    return mapping.merged(row.type, ranked(contributions), row.local, row.pins)


def earliest(contributions: Sequence[Said]) -> datetime | None:
    return min((said.active_until for said in contributions if said.active_until is not None), default=None)


def admitted(row: Row, contributions: Sequence[Said]) -> bool:
    """Whether nothing speaks against this person: not disabled here, by no link, and the time has not run out."""
    until = earliest(contributions)
    return not row.disabled and all(said.active for said in contributions) and (until is None or until > rows.now())


def owned_keys(resource_type: str, contributions: Sequence[Said]) -> frozenset[str]:
    """The flat keys some link owns; writing them needs a pin."""
    empty: frozenset[str] = frozenset()
    return empty.union(*(said.layer.mapping.owned[resource_type] for said in contributions))


_REREAD = sa.text("""
    UPDATE links SET digest = '', name_kept = name_kept OR resource_id = ANY(:kept)
    WHERE tenant_id = :tenant AND resource_id = ANY(:ids) AND gone_at IS NULL
""")


def recompute(tenant: str, ids: Sequence[str], changes: Changes) -> None:
    """Bring live resources up to what their remaining links say; writes and records only differences.

    A name that is missing now, or that somebody else has, stays what it was. The remaining upstreams' records are
    read anew in their next pass: who manages whom is not kept with them.
    """
    if not ids:
        return
    found = rows.load(tenant, ids)
    contributions = said_of(tenant, {row.id: row.type for row in found.values()})
    before = {id: (row.document, row.name, row.name_key, row.active, row.active_until) for id, row in found.items()}
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
        document, _, _, was_active, until = before[row.id]
        rows.compose(row, values[row.id])
        if row.document != document:
            row.version += 1
            deed = "enabled" if row.active and not was_active else "updated"
            differing = mapping.differing(orjson.loads(document), row.read())
            changes.add(f"{row.noun}.{deed}", row.type, row.id, differing)
        elif row.active_until == until:
            continue
        changed.append(row)
    renamed = [row.id for row in changed if row.name_key != before[row.id][2]]
    rows.park(tenant, renamed)
    rows.update(tenant, changed)
    db.session().execute(_REREAD, {"tenant": tenant, "ids": list(found), "kept": sorted(refused)})
