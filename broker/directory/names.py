"""Names that must be nobody else's: people's userNames, and groups' token names.

Owns who gets a userName when several want it, and the choosing of a group's `token_name`. Writes nothing but the lock
that makes token names be chosen one transaction after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from ..attributes import fold
from ..db import arrays, db
from .rows import Row


class Claim(NamedTuple):
    """A person who wants the folded name `key`; `before` is the one held now, None for who is not here yet."""

    id: str
    key: str
    before: str | None


_HOLDERS = sa.text("""
    SELECT r.* FROM unnest(CAST(:keys AS text[])) AS k(key) CROSS JOIN LATERAL (
        SELECT name_key, id FROM resources
        WHERE tenant_id = :tenant AND type = 'User' AND removed_at IS NULL AND name_key = k.key OFFSET 0) r
""")


def refused(tenant: str, claims: Sequence[Claim]) -> set[str]:
    """Whose claims fail, the name being somebody else's. Who is here goes before who is new; names may be swapped.

    A claim that fails leaves its person with the old name, which makes others fail in turn.
    """
    if not claims:
        return set()
    keys = list({claim.key for claim in claims})
    found = db.session().execute(_HOLDERS, arrays({"tenant": tenant, "keys": keys})).all()
    leaving = {claim.id for claim in claims if claim.before is not None}
    staying = {key: id for key, id in found if id not in leaving}
    ordered = sorted(claims, key=lambda claim: claim.before is None)
    failed: set[str] = set()
    while True:
        taken = {**staying, **{claim.before: claim.id for claim in ordered if claim.id in failed and claim.before}}
        more = {
            claim.id
            for claim in ordered
            if claim.id not in failed and taken.setdefault(claim.key, claim.id) != claim.id
        }
        if not more:
            return failed
        failed |= more


def is_clash(error: IntegrityError) -> bool:
    """Whether the database refused a name that somebody else took in the same moment."""
    diagnosis = getattr(error.orig, "diag", None)
    return getattr(diagnosis, "constraint_name", None) in ("uq_resources_user_name", "uq_resources_agent_name")


_ONE_AT_A_TIME = sa.text("SELECT pg_advisory_xact_lock(hashtextextended('token_name ' || :tenant, 0))")
_TOKENS = sa.text("""
    SELECT r.token_key FROM unnest(CAST(:bases AS text[])) AS b(base) CROSS JOIN LATERAL (
        SELECT token_key FROM resources WHERE tenant_id = :tenant AND token_key = b.base
        UNION ALL
        SELECT token_key FROM resources WHERE tenant_id = :tenant
          AND token_key >= b.base || '-' AND token_key < b.base || '.'
          AND substr(token_key, length(b.base) + 2) ~ '^[0-9]+$' OFFSET 0) r
""")
"""`.` follows `-` in the order of octets: the range is whatever begins with the base and a hyphen."""


def name_tokens(tenant: str, rows: Sequence[Row]) -> None:
    """Give new groups their `token_name`: from the name, suffixed if taken, unique in the tenant for ever."""
    waiting = [row for row in rows if row.type == "Group" and row.token_name is None]
    if not waiting:
        return
    session = db.session()
    session.execute(_ONE_AT_A_TIME, {"tenant": tenant})
    bases = [_token_name(row.name) for row in waiting]
    wanted = list({fold(base) for base in bases})
    taken = set(session.execute(_TOKENS, arrays({"tenant": tenant, "bases": wanted})).scalars())
    last: dict[str, int] = {}
    for row, base in zip(waiting, bases, strict=True):
        number = last.get(base, 0)
        key = None
        while key is None or key in taken:
            number += 1
            row.token_name = base if number == 1 else f"{base}-{number}"
            key = fold(row.token_name)
        last[base] = number
        row.token_key = key
        taken.add(key)


def _token_name(name: str) -> str:
    plain = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in fold(name))
    while "--" in plain:
        plain = plain.replace("--", "-")
    return plain.strip("-")[:120] or "group"
