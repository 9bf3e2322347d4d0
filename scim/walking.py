"""Pages that follow one another: by cursor (RFC 9865), and of several resource types as one list.

Owns the keyset. A page begins behind the sort value and the id of the last resource of the page before it, so that it
costs the same however deep it is, and a walk meets everybody who stays and keeps his sort value exactly once, whoever
comes and goes meanwhile. Resources without a sort value are a stretch of their own, last when ascending. Pages of one
type by index are `scim.reading`'s.
"""

# ruff: noqa: S608 - statements are put together from names of our own; every value is bound

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from broker.db import IN_TENANT

from .columns import DOCUMENT, Value
from .filters import Sql
from .reading import ROW, Run, counted, in_full, live, resources, timed, with_lists
from .resources import Projection, Row

LONGEST_KEY = 256
"""Characters of a text in the document by which resources are walked: a position has to fit into a URL."""

_TYPES = {"text": "text", "octets": "text", "number": "numeric", "boolean": "boolean", "moment": "timestamptz"}

Stretch = Literal["all", "present", "absent"]


class Place(NamedTuple):
    """Between two resources: behind the one with this sort value and id, or before it when the walk goes back."""

    key: str | None
    id: str
    back: bool = False


class Stage(NamedTuple):
    resources: list[bytes]
    total: int | None
    """None where counting costs more than the page."""
    next: Place | None
    previous: Place | None


@dataclass(frozen=True, slots=True)
class Branch:
    """One type of a list: what is wanted of it, which of it, and the value it is sorted by, if it has one."""

    wanted: Projection
    condition: Sql | None = None
    key: Value | None = None
    key_reads_document: bool = False

    @property
    def expression(self) -> str | None:
        if self.key is None:
            return None
        if self.key.form not in ("text", "octets"):
            return self.key.text
        text = f'({self.key.text} COLLATE "C")'
        return text if self.key.cheap else f"left({text}, {LONGEST_KEY})"

    @property
    def reads_document(self) -> bool:
        return bool(self.condition and self.condition.reads_document)


def _own(number: int, statement: str) -> str:
    """With the parameters of its own branch."""
    return statement.replace("%(f", f"%(b{number}_f")


def _in(stretch: Stretch, key: Value) -> bool:
    return stretch == "present" or key.nullable


@dataclass(frozen=True, slots=True)
class Listing:
    """A list to be walked, of one tenant. `base` is the URL of its SCIM root."""

    run: Run
    tenant: str
    base: str
    branches: Sequence[Branch]
    descending: bool = False

    def stage(self, place: Place | None, count: int, total: int | None = None) -> Stage:
        """At most `count` resources from `place` on, or from the beginning. `total`: as counted there.

        Raises BadRequest with the scimType tooMany when the answer takes longer than the statement timeout.
        """
        rows: list[Row] = []
        if count > 0:
            for stretch in self._stretches(place):
                rows += self._rows(stretch, place, count + 1 - len(rows))
                if len(rows) > count:
                    break
        more, rows = len(rows) > count, rows[:count]
        if place is not None and place.back:
            rows.reverse()
        elif place is None:
            total = len(rows) if count > 0 and not more else self._count()
        return Stage(self._in_full(rows), total, *self._around(rows, place, more))

    def page(self, start: int, count: int | None) -> tuple[list[bytes], int]:
        """At most `count` resources from the `start`th on, and how many there are."""
        skipped = min(start, 1 << 40) - 1
        rows = [] if count == 0 else self._rows("all", None, count, skipped)
        return self._in_full(rows), self._count(always=True) or 0

    def _around(self, rows: list[Row], place: Place | None, more: bool) -> tuple[Place | None, Place | None]:
        if not rows:
            return None, None
        first, last = Place(rows[0].key, rows[0].id, True), Place(rows[-1].key, rows[-1].id)
        if place is not None and place.back:
            return last, first if more else None
        return last if more else None, first if place is not None else None

    def _stretches(self, place: Place | None) -> Iterator[Stretch]:
        keys = [branch.key for branch in self.branches]
        if all(key is None for key in keys) or all(key is not None and not key.nullable for key in keys):
            yield "all"
            return
        stretches: list[Stretch] = ["absent", "present"] if self._downwards(place) else ["present", "absent"]
        if place is not None and (place.key is None) is (stretches[1] == "absent"):
            del stretches[0]
        yield from stretches

    def _rows(self, stretch: Stretch, place: Place | None, limit: int | None, skipped: int = 0) -> list[Row]:
        way = "DESC" if self._downwards(place) else "ASC"
        here = place is not None and (stretch == "all" or (place.key is None) is (stretch == "absent"))
        several = len(self.branches) > 1
        chosen = [
            self._chosen(number, branch, stretch, way, place if here else None)
            + f" LIMIT %(limit)s::bigint {'+' if several else 'OFFSET'} %(skipped)s::bigint"
            for number, branch in enumerate(self.branches)
            if stretch == "all" or (stretch == "absent" if branch.key is None else _in(stretch, branch.key))
        ]
        parameters = {**self._parameters(), "limit": limit, "skipped": skipped}
        if here and place is not None:
            parameters |= {"place_key": place.key, "place_id": place.id}
        if not several:
            return with_lists(self.run, chosen[0], self.branches[0].wanted, parameters)[0]
        together = (
            f"SELECT * FROM ({' UNION ALL '.join(f'({one})' for one in chosen)}) u ORDER BY key {way}, id {way} "
            "LIMIT %(limit)s::bigint OFFSET %(skipped)s::bigint"
        )
        found = timed(
            self.run,
            f"{IN_TENANT} SELECT r.id, r.document, r.version, r.created, r.modified, NULL AS listed, false AS more, "
            f"r.type, r.key::text FROM scope, LATERAL ({together}) r",
            parameters,
        )
        return [Row(*each) for each in found]

    def _chosen(self, number: int, branch: Branch, stretch: Stretch, way: str, place: Place | None) -> str:
        """The rows of one type in their order, with the value they are sorted by as `key`."""
        key = branch.expression if stretch != "absent" else None
        where = [_own(number, live(branch.wanted.resource_type, branch.condition))]
        if branch.key is not None and branch.key.nullable and stretch != "all":
            where.append(f"{branch.key.text} IS {'NOT ' if stretch == 'present' else ''}NULL")
        if place is not None:
            sign = "<" if way == "DESC" else ">"
            if place.key is None or key is None:
                where.append(f"r.id {sign} %(place_id)s::text")
            else:
                where.append(f"({key}, r.id) {sign} (%(place_key)s::{self._kind}, %(place_id)s::text)")
        document = DOCUMENT if branch.reads_document or branch.key_reads_document else ""
        return (
            f"SELECT {ROW}, r.type, {key or self._nothing} AS key FROM resources r {document} "
            f"WHERE {' AND '.join(where)} ORDER BY {f'{key} {way}, ' if key else ''}r.id {way}"
        )

    def _downwards(self, place: Place | None) -> bool:
        return self.descending is not (place is not None and place.back)

    def _count(self, *, always: bool = False) -> int | None:
        if not always and any(branch.reads_document for branch in self.branches):
            return None
        counts = " + ".join(
            f"({_own(number, counted(branch.wanted.resource_type, branch.condition))})"
            for number, branch in enumerate(self.branches)
        )
        statement = f"{IN_TENANT} SELECT r.n FROM scope, LATERAL (SELECT {counts} AS n OFFSET 0) r"
        [(total,)] = timed(self.run, statement, self._parameters())
        return int(total)

    def _parameters(self) -> Mapping[str, Any]:
        named = self.branches[0].wanted.names_members
        found: dict[str, Any] = {"tenant": self.tenant, "base": self.base, "named": named}
        for number, branch in enumerate(self.branches):
            for name, value in (branch.condition.parameters if branch.condition else {}).items():
                found[f"b{number}_{name}"] = value
        return found

    @property
    def _nothing(self) -> str:
        return f"NULL::{self._kind}" + (' COLLATE "C"' if self._kind == "text" else "")

    @property
    def _kind(self) -> str:
        return next((_TYPES[branch.key.form] for branch in self.branches if branch.key is not None), "text")

    def _in_full(self, rows: Sequence[Row]) -> list[bytes]:
        if len(self.branches) == 1:
            return resources(self.run, self.tenant, self.base, self.branches[0].wanted, rows)
        made: dict[str, bytes] = {}
        for branch in self.branches:
            of_type = [row for row in rows if row.type == branch.wanted.resource_type]
            full = in_full(self.run, self.tenant, self.base, branch.wanted, of_type)
            made |= {row.id: resource for row, resource in zip(of_type, full, strict=True)}
        return [made[row.id] for row in rows]
