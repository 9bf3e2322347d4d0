"""Pushing people and groups into applications, from the outbox.

A delivery says that a target is owed the present state of one resource; here it is found, decided, sent and settled.
`reach` says who should be where and subscribes to changes, `plan` compares that with what is remembered, `guard`
holds mass removals, `delivery` talks to the target through `scim.client`, `outbox` is the queue in PostgreSQL.
"""

from __future__ import annotations

from .outbox import is_due, look_again
from .reach import owed
from .run import Tally, drain, egress

__all__ = ["Tally", "drain", "egress", "is_due", "look_again", "owed"]
