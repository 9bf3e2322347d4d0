"""A large tenant from a small one that was imported: its people and teams copied in the database.

Reading a million records takes most of an hour, and what is measured of the tenant afterwards is how it is found. Every
copy has all the rows that an imported person has: resource, value index, link, record, memberships.
"""

from __future__ import annotations

import sqlalchemy as sa

from broker.context import Scope
from broker.db import platform_scope

_COLUMNS = """
    display_name display_key user_type active disabled active_until manager_id manager_ref parent_id parent_ref
    local pins version removed_at email_doubted
"""
_KEPT = ", ".join(f"r.{name}" for name in _COLUMNS.split())
_STATEMENTS = (
    """
    CREATE TEMP TABLE copied ON COMMIT DROP AS
    SELECT r.id AS was, left(r.id, 4) || '01' || left(md5(r.id || ' ' || k), 24) AS id, k,
           CASE r.type WHEN 'User' THEN left(r.name, 8) ELSE r.name END AS name_was,
           CASE r.type WHEN 'User'
                       THEN 'p' || lpad((k * CAST(:people AS int) + substr(r.name, 2, 7)::int)::text, 7, '0')
                       ELSE r.name || ' of ' || k END AS name
    FROM resources r CROSS JOIN generate_series(1, CAST(:times AS int) - 1) AS k
    WHERE r.tenant_id = :tenant AND r.type IN ('User', 'Group')
    """,
    "CREATE UNIQUE INDEX ON copied (was, k)",
    "ANALYZE copied",
    """
    INSERT INTO resources (tenant_id, id, type, name, name_key, external_id, token_name, token_key, document, <columns>)
    SELECT r.tenant_id, c.id, r.type, replace(r.name, c.name_was, c.name),
           lower(replace(r.name, c.name_was, c.name)), r.external_id || '-' || c.k,
           r.token_name || '-' || c.k, r.token_key || '-' || c.k,
           convert_to(replace(replace(convert_from(r.document, 'UTF8'), c.name_was, c.name), c.was, c.id), 'UTF8'),
           <kept>
    FROM copied c JOIN resources r ON r.tenant_id = :tenant AND r.id = c.was
    """.replace("<columns>", _KEPT.replace("r.", "")).replace("<kept>", _KEPT),
    """
    INSERT INTO resource_values (tenant_id, attribute, value_key, resource_id, kind)
    SELECT v.tenant_id, v.attribute,
           CASE WHEN v.value_key LIKE '%' || c.name_was || '%' THEN replace(v.value_key, c.name_was, c.name)
                ELSE v.value_key || '-' || c.k END, c.id, v.kind
    FROM copied c JOIN resource_values v ON v.tenant_id = :tenant AND v.resource_id = c.was
    """,
    """
    INSERT INTO links (tenant_id, provider_id, key, resource_id, kind, primary_ref, name, ref, alias, active, digest,
                       quiet_digest, seen_run)
    SELECT l.tenant_id, l.provider_id, l.key || '-' || c.k, c.id, l.kind, l.primary_ref, l.name, l.ref || '-' || c.k,
           l.alias || '-' || c.k, l.active, l.digest, l.quiet_digest, l.seen_run
    FROM copied c JOIN links l ON l.tenant_id = :tenant AND l.resource_id = c.was
    """,
    """
    INSERT INTO link_records (tenant_id, link_no, record)
    SELECT l.tenant_id, l.no, convert_to(replace(convert_from(e.record, 'UTF8'), c.name_was, c.name), 'UTF8')
    FROM copied c
    JOIN links w ON w.tenant_id = :tenant AND w.resource_id = c.was
    JOIN link_records e ON e.tenant_id = w.tenant_id AND e.link_no = w.no
    JOIN links l ON l.tenant_id = w.tenant_id AND l.resource_id = c.id
    """,
    """
    INSERT INTO memberships (tenant_id, group_id, member_id, member_key, raw, ordinal, via, kind)
    SELECT m.tenant_id, g.id, c.id, m.member_key || '-' || c.k, m.raw, m.ordinal, m.via, m.kind
    FROM copied c JOIN memberships m ON m.tenant_id = :tenant AND m.member_id = c.was
    JOIN copied g ON g.was = m.group_id AND g.k = c.k
    """,
)


def multiply(scope: Scope, people: int, times: int) -> None:
    """Make `times` as many of the first `people` people of the benchmark's export, and of their teams."""
    with platform_scope() as session:
        for statement in _STATEMENTS:
            session.execute(sa.text(statement), {"tenant": scope.tenant_id, "people": people, "times": times})
