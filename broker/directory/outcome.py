"""What a page of changes came to: counts, records that were not taken, and what waits for the guard.

Filled by the modules that write pages and take away; whether a loss is carried out is `broker.removals`'.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import orjson

Removal = Literal["remove", "disable", "shrink"]

EXPLICIT = b"gone"
"""Evidence of a removal the upstream said in so many words."""


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


class Leaving(NamedTuple):
    """A membership row a shrink would delete; one that was said again meanwhile has another ordinal."""

    key: str
    ordinal: int


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


def encode_leaving(leaving: Iterable[Leaving]) -> bytes:
    """The evidence of a shrink: the rows that would go, in an order that makes equal ones equal."""
    return orjson.dumps(sorted(tuple(row) for row in leaving))


def decode_leaving(evidence: bytes) -> list[Leaving]:
    return [Leaving(key, ordinal) for key, ordinal in orjson.loads(evidence)]


def members_lost(loss: Loss) -> int:
    """How many members the group of a shrink would lose."""
    return len(orjson.loads(loss.evidence)) if loss.evidence is not None else 0
