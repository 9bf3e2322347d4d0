"""Pushing people and groups into applications, from the outbox.

A delivery says that a target is owed the present state of one resource; here it is found, decided, sent and settled.
`reach` says who should be where and subscribes to changes, `plan` compares that with what is remembered, `guard`
holds mass removals, `delivery` talks to the target through `scim.client`, `outbox` is the queue in PostgreSQL.
"""

from __future__ import annotations

from .comparisons import ask, comparison_is_due, schedule_comparisons
from .diagnosis import examine
from .outbox import is_due, look_again
from .preview import preview
from .reach import owed
from .reconcile import compare_due, compare_now
from .run import Tally, drain, egress
from .standing import standing

__all__ = [
    "Tally",
    "ask",
    "compare_due",
    "compare_now",
    "comparison_is_due",
    "drain",
    "egress",
    "examine",
    "is_due",
    "look_again",
    "owed",
    "preview",
    "schedule_comparisons",
    "standing",
]
