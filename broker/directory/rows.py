"""Directory rows in sets: read many, write many, one statement each.

Owns the in-memory row, how effective values become its hot columns and its document, and the statements that insert
and update
resources with their value index. Decides nothing about ownership or events.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import orjson
import sqlalchemy as sa

from .. import ids
from ..attributes import fold
from ..db import arrays, db
from . import mapping
from .mapping import MANAGER, PARENT, Values

PREFIX = {"User": "usr", "Group": "grp", "OrganizationalUnit": "ou"}
LONGEST_NAME = 500
"""Characters of a userName or a group's name that the unique index takes."""
LONGEST_REF = 2_000


class Unfit(Exception):
    """These values cannot be a resource; `reason` is one word for the run, the text is for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(slots=True)
class Row:
    """One resource as it is stored."""

    id: str
    type: str
    name: str = ""
    name_key: str = ""
    display_name: str | None = None
    display_key: str | None = None
    external_id: str | None = None
    user_type: str | None = None
    active: bool = True
    disabled: bool = False
    active_until: datetime | None = None
    token_name: str | None = None
    token_key: str | None = None
    manager_id: str | None = None
    manager_ref: str | None = None
    parent_id: str | None = None
    parent_ref: str | None = None
    document: bytes = b""
    local: Values = field(default_factory=dict)
    pins: Values = field(default_factory=dict)
    version: int = 1
    removed_at: datetime | None = None

    @property
    def noun(self) -> str:
        return mapping.NOUN[self.type]

    def read(self) -> dict[str, Any]:
        """The stored document, parsed; empty for a row that has none yet."""
        return orjson.loads(self.document) if self.document else {}


_TYPES = {
    "id": "text",
    "type": "text",
    "name": "text",
    "name_key": "text",
    "display_name": "text",
    "display_key": "text",
    "external_id": "text",
    "user_type": "text",
    "active": "boolean",
    "disabled": "boolean",
    "active_until": "timestamptz",
    "token_name": "text",
    "token_key": "text",
    "manager_id": "text",
    "manager_ref": "text",
    "parent_id": "text",
    "parent_ref": "text",
    "document": "bytea",
    "local": "jsonb",
    "pins": "jsonb",
    "version": "bigint",
    "removed_at": "timestamptz",
}
_COLUMNS = tuple(_TYPES)
_ARRAYS = ", ".join(f"CAST(:{name} AS {'text' if kind == 'jsonb' else kind}[])" for name, kind in _TYPES.items())
_CASTS = ", ".join(f"u.{name}::jsonb" if kind == "jsonb" else f"u.{name}" for name, kind in _TYPES.items())
_NAMES = ", ".join(_COLUMNS)

_INSERT = sa.text(
    f"INSERT INTO resources (tenant_id, {_NAMES}) SELECT :tenant, {_CASTS} "  # noqa: S608 - names of our own columns
    f"FROM unnest({_ARRAYS}) AS u({_NAMES})"
)
_CHANGING = [name for name in _COLUMNS if name not in ("id", "type")]
_UPDATE = sa.text(
    "UPDATE resources r SET updated_at = now(), "  # noqa: S608 - names of our own columns
    + ", ".join(f"{name} = u.{name}{'::jsonb' if _TYPES[name] == 'jsonb' else ''}" for name in _CHANGING)
    + f" FROM unnest({_ARRAYS}) AS u({_NAMES}) WHERE r.tenant_id = :tenant AND r.id = u.id"
)
_SELECT = (
    f"SELECT {', '.join(f'r.{name}' for name in _COLUMNS)} FROM resources r "  # noqa: S608 - names of our own columns
    "JOIN unnest(CAST(:ids AS text[])) AS u(id) ON u.id = r.id WHERE r.tenant_id = :tenant"
)
_PARK = sa.text(
    "UPDATE resources SET name_key = chr(1) || id WHERE tenant_id = :tenant AND id = ANY(:ids) AND type = 'User'"
)
_INDEX = sa.text("""
    INSERT INTO resource_values (tenant_id, attribute, value_key, resource_id, kind)
    SELECT :tenant, u.* FROM unnest(CAST(:attributes AS smallint[]), CAST(:values AS text[]),
                                    CAST(:resources AS text[]), CAST(:kinds AS text[])) AS u
""")
_UNINDEX = sa.text("DELETE FROM resource_values WHERE tenant_id = :tenant AND resource_id = ANY(:ids)")


def load(tenant: str, wanted: Sequence[str], *, lock: bool = True, removed: bool = False) -> dict[str, Row]:
    """Rows by id; locked against other writers unless told otherwise. Removed ones only when asked."""
    if not wanted:
        return {}
    statement = _SELECT
    if not removed:
        statement += " AND r.removed_at IS NULL"
    if lock:
        statement += " ORDER BY r.id FOR NO KEY UPDATE OF r"
    found = db.session().execute(sa.text(statement), arrays({"tenant": tenant, "ids": list(wanted)}))
    return {row[0]: Row(*row) for row in found}


def insert(tenant: str, rows: Sequence[Row]) -> None:
    if rows:
        db.session().execute(_INSERT, arrays({"tenant": tenant, **_columns(rows)}))
        _write_index(tenant, rows)


def update(tenant: str, rows: Sequence[Row], *, renamed: Sequence[str] = ()) -> None:
    """Write the rows back. `renamed`: people whose userName changes, parked first so that two may swap names."""
    if not rows:
        return
    session = db.session()
    if len(renamed) > 1:
        session.execute(_PARK, {"tenant": tenant, "ids": list(renamed)})
    session.execute(_UPDATE, arrays({"tenant": tenant, **_columns(rows)}))
    session.execute(_UNINDEX, arrays({"tenant": tenant, "ids": [row.id for row in rows]}))
    _write_index(tenant, rows)


def _columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in _COLUMNS}
    for name in ("local", "pins"):
        columns[name] = [orjson.dumps(value).decode() if value else "{}" for value in columns[name]]
    return columns


def _write_index(tenant: str, rows: Iterable[Row]) -> None:
    attributes, values, resources, kinds = [], [], [], []
    for row in rows:
        if row.removed_at is not None:
            continue
        for number, key, kind in mapping.index_rows(row.type, row.read()):
            attributes.append(number)
            values.append(key)
            resources.append(row.id)
            kinds.append(kind)
    if attributes:
        db.session().execute(
            _INDEX,
            arrays(
                {"tenant": tenant, "attributes": attributes, "values": values, "resources": resources, "kinds": kinds}
            ),
        )


def ref_key(ref: str) -> str:
    """A reference as the index can hold it."""
    if len(ref) <= LONGEST_REF // 4 or len(ref.encode()) <= LONGEST_REF:
        return ref
    return "#" + blake2b(ref.encode(), digest_size=32).hexdigest()


def settle(row: Row, values: Values) -> None:
    """Make the row say these effective values: hot columns and document. Raises Unfit."""
    people = row.type == "User"
    name = values.get("userName" if people else "displayName")
    if not isinstance(name, str) or not name.strip():
        raise Unfit("no_name", "The record has no value that could be its name.")
    if len(name) > LONGEST_NAME:
        raise Unfit("name_too_long", f"Its name is longer than {LONGEST_NAME} characters.")
    display = values.get("displayName")
    external = values.get("externalId")
    user_type = values.get("userType") if people else None
    for text in (name, display, external, user_type):
        if text is not None and "\x00" in str(text):
            raise Unfit("control_character", "A value holds a NUL character.")
    row.name, row.name_key = name, fold(name)
    row.display_name = str(display) if display is not None else None
    row.display_key = fold(row.display_name)[:LONGEST_NAME] if row.display_name is not None else None
    row.external_id = str(external) if external is not None else None
    row.user_type = str(user_type) if user_type is not None else None
    hidden = {"active", MANAGER, PARENT, *mapping.stored_extras(row.type, values)}
    shown = {key: value for key, value in values.items() if key not in hidden}
    document = mapping.nested(row.type, row.id, shown)
    if people:
        if not row.active or "active" not in row.local:
            document["active"] = row.active
        if row.manager_id is not None:
            mapping.place_reference(document, MANAGER, row.manager_id)
    elif row.type == "OrganizationalUnit" and row.parent_id is not None:
        mapping.place_reference(document, PARENT, row.parent_id)
    row.document = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)


_ONE_AT_A_TIME = sa.text("SELECT pg_advisory_xact_lock(hashtextextended('token_name ' || :tenant, 0))")
_CHOSEN = sa.text("SELECT token_key FROM resources WHERE tenant_id = :tenant AND token_key = ANY(:keys)")


def name_tokens(tenant: str, rows: Sequence[Row]) -> None:
    """Give new groups their `token_name`: from the name, suffixed if taken, unique in the tenant for ever."""
    waiting = [row for row in rows if row.type == "Group" and row.token_name is None]
    if waiting:
        db.session().execute(_ONE_AT_A_TIME, {"tenant": tenant})
    taken: set[str] = set()
    suffix = 1
    while waiting:
        wanted: dict[str, Row] = {}
        blocked = []
        for row in waiting:
            name = _token_name(row.name) + (f"-{suffix}" if suffix > 1 else "")
            key = fold(name)
            if key in taken or key in wanted:
                blocked.append(row)
            else:
                row.token_name, row.token_key = name, key
                wanted[key] = row
        found = db.session().execute(_CHOSEN, {"tenant": tenant, "keys": list(wanted)}).scalars()
        for key in found:
            blocked.append(wanted.pop(key))
        taken |= wanted.keys()
        waiting, suffix = blocked, suffix + 1


def _token_name(name: str) -> str:
    plain = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in fold(name))
    while "--" in plain:
        plain = plain.replace("--", "-")
    return plain.strip("-")[:120] or "group"


def new_id(resource_type: str) -> str:
    return ids.new(PREFIX[resource_type])


def now() -> datetime:
    return datetime.now(UTC)
