"""Who answers for an agent: references to people of the tenant.

Owns the check of the owners a client names, and that a person who is removed is shown as nobody's owner any more. The
value index knows whose owner somebody is.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from ..db import arrays, db
from ..errors import ValidationFailed
from ..events import Changes
from . import rows
from .documents import Values

OWNERS = "owners"
NUMBER = 20
"""The catalogue's number of `owners.value` in the value index."""
MOST = 1_000

_PEOPLE = sa.text("""
    SELECT id FROM resources WHERE tenant_id = :tenant AND id = ANY(CAST(:ids AS text[])) AND type = 'User'
      AND removed_at IS NULL FOR KEY SHARE
""")
_OWNED = sa.text("""
    SELECT DISTINCT v.resource_id FROM unnest(CAST(:ids AS text[])) AS u(id)
    JOIN resource_values v ON v.tenant_id = :tenant AND v.attribute = :number AND v.value_key = u.id
""")


def check(tenant: str, resource_type: str, values: Values) -> None:
    """Bring the owners of an agent into the form they are kept in. Raises ValidationFailed: one is no person here."""
    if resource_type != "Agent" or OWNERS not in values:
        return
    wanted = list(dict.fromkeys(str(item.get("value") or "") for item in values.pop(OWNERS)))
    if len(wanted) > MOST:
        raise ValidationFailed(f"{OWNERS}: an agent has at most {MOST}", scim_type="invalidValue")
    found = set(db.session().execute(_PEOPLE, arrays({"tenant": tenant, "ids": wanted})).scalars())
    for id in wanted:
        if id not in found:
            raise ValidationFailed(f"{OWNERS}: there is no such User", scim_type="invalidValue")
    if wanted:
        values[OWNERS] = [{"value": id, "$ref": f"../Users/{id}"} for id in wanted]


def left(tenant: str, gone: Sequence[str], changes: Changes) -> None:
    """These resources are removed: nobody's owners any more."""
    found = db.session().execute(_OWNED, arrays({"tenant": tenant, "ids": list(gone), "number": NUMBER})).scalars()
    agents = rows.load(tenant, list(found))
    for row in agents.values():
        kept = [item for item in row.local[OWNERS] if item["value"] not in gone]
        document = {**row.read(), OWNERS: kept}
        if not kept:
            del document[OWNERS]
        row.local = {key: value for key, value in row.local.items() if key != OWNERS}
        if kept:
            row.local[OWNERS] = kept
        row.write(document)
        row.version += 1
        changes.add(f"{row.noun}.updated", row.type, row.id, [OWNERS])
    rows.update(tenant, list(agents.values()))
