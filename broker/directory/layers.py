"""What each resource's links contribute, and the recomputing of resources when that changes.

Owns the reading of links with their records and mappings into ranked layers, and `recompute`: the one place that turns
layers, local values and pins into a row, writes what differs, and says what changed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from connectors.port import Attributes

from ..db import db
from ..events import Changes
from . import mapping, rows
from .mapping import Layer, Mapping_, Values
from .rows import Row


class Provider(NamedTuple):
    """What the directory needs to know of an upstream: its rank and its mapping."""

    id: str
    priority: int
    mapping: Mapping_


@dataclass(frozen=True, slots=True)
class Said:
    """One live link's contribution to a resource."""

    rank: tuple[int, str]
    active: bool
    active_until: datetime | None
    layer: Layer


_PROVIDERS = sa.text("SELECT id, priority, attribute_mapping FROM identity_providers WHERE tenant_id = :tenant")
_LINKS = sa.text("""
    SELECT l.resource_id, l.provider_id, l.active, r.record
    FROM links l JOIN link_records r ON r.tenant_id = l.tenant_id AND r.link_no = l.no
    WHERE l.tenant_id = :tenant AND l.resource_id = ANY(:ids) AND l.gone_at IS NULL AND l.skipped IS NULL
      AND l.provider_id <> :besides
""")


def providers(tenant: str) -> dict[str, Provider]:
    found = db.session().execute(_PROVIDERS, {"tenant": tenant})
    return {id: Provider(id, priority, mapping.compiled(lines)) for id, priority, lines in found}


def said_of(tenant: str, row_types: dict[str, str], *, besides: str = "") -> dict[str, list[Said]]:
    """The contributions of every live link of these resources (id → type), one provider left out if asked."""
    result: dict[str, list[Said]] = defaultdict(list)
    if not row_types:
        return result
    found = db.session().execute(_LINKS, {"tenant": tenant, "ids": list(row_types), "besides": besides}).all()
    known = providers(tenant) if found else {}
    for resource_id, provider_id, active, record in found:
        result[resource_id].append(
            contribution(known[provider_id], row_types[resource_id], mapping.decode_record(record), active)
        )
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


def owned_keys(resource_type: str, contributions: Sequence[Said]) -> frozenset[str]:
    """The flat keys some link owns; writing them needs a pin."""
    empty: frozenset[str] = frozenset()
    return empty.union(*(said.layer.mapping.owned[resource_type] for said in contributions))


def recompute(tenant: str, ids: Sequence[str], changes: Changes) -> None:
    """Bring the documents of live resources up to what their links say now; writes and records only differences."""
    found = rows.load(tenant, ids)
    contributions = said_of(tenant, {row.id: row.type for row in found.values()})
    changed = []
    renamed = []
    for row in found.values():
        before, name_key = row.document, row.name_key
        old = row.read()
        rows.settle(row, effective(row, contributions[row.id]))
        if row.document == before:
            continue
        row.version += 1
        changed.append(row)
        if row.name_key != name_key:
            renamed.append(row.id)
        changes.add(f"{row.noun}.updated", row.type, row.id, mapping.differing(old, row.read()))
    rows.update(tenant, changed, renamed=renamed)
