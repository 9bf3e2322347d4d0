"""Whether somebody new may come in: a name of his own, and a place among those the partner allows.

Owns the statements that ask, and the refusals. Two who come in the same moment are told apart by the unique index for
names and by a lock for places.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from ..db import db
from ..errors import Conflict, LimitExceeded
from . import declared, names
from .rows import NAMED_BY, Row

_NAME_HELD = """
    SELECT 1 FROM resources WHERE tenant_id = :tenant AND type = '<type>' AND removed_at IS NULL
      AND name_key = :key AND id <> :id
"""
_HELD = {name: sa.text(_NAME_HELD.replace("<type>", name)) for name in NAMED_BY}
_MAX_USERS = """
    SELECT max_users_per_tenant FROM partners WHERE id = (SELECT partner_id FROM tenants WHERE id = :tenant)
"""
_LIMIT = sa.text(_MAX_USERS)
_ARRIVAL = sa.text(f"""
    SELECT EXISTS (SELECT FROM resources WHERE tenant_id = :tenant AND type = 'User' AND removed_at IS NULL
                   AND name_key = :key), ({_MAX_USERS}) IS NOT NULL, now()
""")  # noqa: S608 - constant text
_USERS = sa.text("""
    SELECT coalesce(sum(resources), 0) FROM resource_counts WHERE tenant_id = :tenant AND type = 'User'
""")
_LOCK = sa.text("SELECT pg_advisory_xact_lock(hashtextextended('users ' || :tenant, 0))")


def check_arrival(tenant: str, row: Row) -> None:
    """Whether a new resource may come in. Raises Conflict (`uniqueness`) and LimitExceeded."""
    if row.type != "User":
        check_name(tenant, row)
        return
    taken, limited, row.arrived_at = db.session().execute(_ARRIVAL, {"tenant": tenant, "key": row.name_key}).one()
    if taken:
        raise _taken()
    if limited and row.counts:
        check_room(tenant)


def check_name(tenant: str, row: Row) -> None:
    """Whether the name that somebody takes is free. Raises Conflict (`uniqueness`)."""
    if row.type not in NAMED_BY:
        return
    if db.session().execute(_HELD[row.type], {"tenant": tenant, "key": row.name_key, "id": row.id}).first():
        raise _taken(NAMED_BY[row.type])


def places(tenant: str) -> int | None:
    """How many more users the tenant may have; None where the partner sets no limit. Others who ask wait."""
    limit = _limit(tenant)
    if limit is None:
        return None
    db.session().execute(_LOCK, {"tenant": tenant})
    return max(0, limit - int(db.session().execute(_USERS, {"tenant": tenant}).scalar_one()))


def check_room(tenant: str) -> None:
    """Whether the tenant may have one user more. Raises LimitExceeded."""
    left = places(tenant)
    if left is not None and left <= 0:
        raise LimitExceeded(f"max_users_per_tenant is {_limit(tenant)}, and the tenant has as many users")


@contextmanager
def one_name_each(attribute: str = "userName") -> Iterator[None]:
    """Two who take the same name, or value, in the same moment: the later one meets the index."""
    try:
        yield
    except IntegrityError as error:
        if names.is_clash(error):
            raise _taken(attribute) from None
        if declared.is_clash(error):
            raise Conflict("A value that is one resource's alone belongs to another", scim_type="uniqueness") from None
        raise


def _limit(tenant: str) -> int | None:
    return db.session().execute(_LIMIT, {"tenant": tenant}).scalar()


def _taken(attribute: str = "userName") -> Conflict:
    return Conflict(f"The {attribute} belongs to somebody else", scim_type="uniqueness")
