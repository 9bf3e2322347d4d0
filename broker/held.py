"""Administrators' roles as they are held at this moment: directly, and through nested groups where a role may be.

Owns the one query for them and the rule that a role holds only where its holder may live. It is part of larger
statements, so that who somebody is and what he may do are read together. Who may grant a role is `registry`'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import LiteralString

from .context import Grant

HELD: LiteralString = """(
    SELECT jsonb_agg(jsonb_build_array(held.role, held.scope_id))
    FROM (
        SELECT r.role, r.scope_id FROM role_assignments r
        WHERE r.tenant_id = t.id AND r.principal_id = c.principal
        UNION
        (WITH RECURSIVE up(id) AS (
            SELECT m.group_id FROM memberships m
            WHERE m.tenant_id = t.id AND m.member_id = c.principal
              AND EXISTS (SELECT 1 FROM role_assignments r WHERE r.tenant_id = t.id
                          AND r.principal_id >= 'grp_' AND r.principal_id < 'grp`')
            UNION
            SELECT m.group_id FROM up
            JOIN memberships m ON m.tenant_id = t.id AND m.member_id = up.id
        )
        SELECT r.role, r.scope_id FROM role_assignments r
        WHERE r.tenant_id = t.id AND r.principal_id >= 'grp_' AND r.principal_id < 'grp`'
          AND r.role = 'tenant_admin' AND r.principal_id IN (SELECT up.id FROM up)
          AND EXISTS (SELECT 1 FROM resources g WHERE g.tenant_id = t.id
                      AND g.id = r.principal_id AND g.removed_at IS NULL OFFSET 0))
    ) held
)"""
"""An expression over a row `t` of tenants and a column `c.principal`: `[[role, scope_id], …]`, or null.

A group that was removed has no memberships left, so the way up needs no look at the groups between."""


def holding(
    held: Iterable[tuple[str, str | None]] | None, tenant_id: str, partner_id: str, kind: str
) -> frozenset[Grant]:
    """The roles of `HELD`, each only where its holder may live: a row that should not exist grants nothing."""
    home = {
        "super_admin": kind == "platform",
        "partner_admin": kind == "home",
        "tenant_admin": kind == "customer",
    }
    reach = {"super_admin": None, "partner_admin": partner_id, "tenant_admin": tenant_id}
    return frozenset(
        Grant(role, scope)  # type: ignore[arg-type]
        for role, scope in held or ()
        if home[role] and reach[role] == scope
    )
