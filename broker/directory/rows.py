"""Directory rows in sets: read many, write many, one statement each.

Owns the in-memory row, how effective values become its hot columns and its document, and the statements that insert
and update resources with their value index. Decides nothing about ownership or events.
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
from . import declared, documents, mapping
from .mapping import MANAGER, PARENT, Values

PREFIX = {"User": "usr", "Group": "grp", "OrganizationalUnit": "ou", "Agent": "agt"}
NAMED_BY = {"User": "userName", "Agent": "agentUserName"}
"""The flat key of what a resource is called by, where that is not its displayName."""
SWITCHED = ("User", "Agent")
"""Types whose resources may be inactive."""
LONGEST_NAME = 500
"""Characters of a userName or a group's name that the unique index takes."""
LONGEST_REF = 2_000
"""Octets of a reference, a folded name or an externalId that an index takes."""


class Unfit(Exception):
    """These values cannot be a resource, for what stands under `key`; `reason` is one word for the run, the text is
    for people."""

    def __init__(self, key: str, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.key = key
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
    email_doubted: bool = False
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
    arrived_at: datetime | None = None
    """The `created_at` of a person made in this unit of work; not read back."""
    _parsed: dict[str, Any] | None = field(default=None, repr=False, compare=False)

    @property
    def noun(self) -> str:
        return mapping.NOUN[self.type]

    @property
    def counts(self) -> bool:
        """Whether it is one of the users a partner's limit is about."""
        return self.type == "User" and self.user_type != "ServiceAccount"

    def read(self) -> dict[str, Any]:
        """The document, parsed; empty for a row that has none yet. Whoever changes it writes it back."""
        if self._parsed is None:
            self._parsed = orjson.loads(self.document) if self.document else {}
        return self._parsed

    def write(self, document: dict[str, Any]) -> None:
        self.document, self._parsed = orjson.dumps(document, option=orjson.OPT_SORT_KEYS), document


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
    "email_doubted": "boolean",
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
_RESTORE = sa.text(
    f"INSERT INTO resources (tenant_id, created_at, updated_at, {_NAMES}) "  # noqa: S608 - names of our own columns
    f"SELECT :tenant, u.created_at, u.updated_at, {_CASTS} FROM unnest(CAST(:created_at AS timestamptz[]), "
    f"CAST(:updated_at AS timestamptz[]), {_ARRAYS}) AS u(created_at, updated_at, {_NAMES})"
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
_PARK = sa.text("""
    UPDATE resources SET name_key = chr(1) || id
    WHERE tenant_id = :tenant AND id = ANY(CAST(:ids AS text[])) AND type = 'User'
""")
_SILENT = ("id", "manager_id", "manager_ref", "parent_id", "parent_ref", "active_until", "email_doubted")
_SILENTLY = sa.text("""
    UPDATE resources r SET manager_id = u.manager_id, manager_ref = u.manager_ref, parent_id = u.parent_id,
                           parent_ref = u.parent_ref, active_until = u.active_until,
                           email_doubted = u.email_doubted
    FROM unnest(CAST(:id AS text[]), CAST(:manager_id AS text[]), CAST(:manager_ref AS text[]),
                CAST(:parent_id AS text[]), CAST(:parent_ref AS text[]), CAST(:active_until AS timestamptz[]),
                CAST(:email_doubted AS boolean[]))
         AS u(id, manager_id, manager_ref, parent_id, parent_ref, active_until, email_doubted)
    WHERE r.tenant_id = :tenant AND r.id = u.id
""")
_DOCUMENTS = sa.text("""
    UPDATE resources r SET document = u.document, version = u.version, manager_id = u.manager_id,
                           parent_id = u.parent_id, pins = u.pins::jsonb, updated_at = now()
    FROM unnest(CAST(:id AS text[]), CAST(:document AS bytea[]), CAST(:version AS bigint[]),
                CAST(:manager_id AS text[]), CAST(:parent_id AS text[]), CAST(:pins AS text[]))
         AS u(id, document, version, manager_id, parent_id, pins)
    WHERE r.tenant_id = :tenant AND r.id = u.id
""")
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


def restore(tenant: str, rows: Sequence[Row], made: Sequence[datetime], changed: Sequence[datetime]) -> None:
    """Insert rows with the moments they were made and last changed elsewhere."""
    if rows:
        moments = {"created_at": list(made), "updated_at": list(changed)}
        db.session().execute(_RESTORE, arrays({"tenant": tenant, **moments, **_columns(rows)}))
        _write_index(tenant, rows)


def park(tenant: str, renamed: Sequence[str]) -> None:
    """Give up the userNames of these people before any is written anew, so that names can change hands."""
    if renamed:
        db.session().execute(_PARK, arrays({"tenant": tenant, "ids": list(renamed)}))


def update(tenant: str, rows: Sequence[Row]) -> None:
    """Write the rows back as a whole, with their value index."""
    if not rows:
        return
    session = db.session()
    session.execute(_UPDATE, arrays({"tenant": tenant, **_columns(rows)}))
    session.execute(_UNINDEX, arrays({"tenant": tenant, "ids": [row.id for row in rows]}))
    _write_index(tenant, rows)


def update_documents(tenant: str, rows: Sequence[Row]) -> None:
    """Write back references and documents that differ in nothing the value index holds."""
    _update_columns(_DOCUMENTS, tenant, rows, ("id", "document", "version", "manager_id", "parent_id", "pins"))


def update_silently(tenant: str, rows: Sequence[Row]) -> None:
    """Write back what shows nowhere: awaited references, a person's unit, the moment an account ends, a doubt."""
    _update_columns(_SILENTLY, tenant, rows, _SILENT)


def _update_columns(statement: sa.TextClause, tenant: str, rows: Sequence[Row], names: Iterable[str]) -> None:
    if rows:
        columns = _columns(rows)
        db.session().execute(statement, arrays({"tenant": tenant, **{name: columns[name] for name in names}}))


def _columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in _COLUMNS}
    for name in ("local", "pins"):
        columns[name] = [orjson.dumps(value).decode() if value else "{}" for value in columns[name]]
    return columns


def _write_index(tenant: str, rows: Sequence[Row]) -> None:
    attributes, values, resources, kinds = [], [], [], []
    for row in rows:
        if row.removed_at is not None:
            continue
        for number, key, kind in mapping.index_rows(row.type, row.read()):
            attributes.append(number)
            values.append(key)
            resources.append(row.id)
            kinds.append(kind)
    for number, key, id in declared.index_rows(tenant, (row for row in rows if row.removed_at is None)):
        attributes.append(number)
        values.append(key)
        resources.append(id)
        kinds.append("")
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


def name_attribute(resource_type: str) -> str:
    """The flat key of the value a resource is called by."""
    return NAMED_BY.get(resource_type, "displayName")


def settle(row: Row, values: Values) -> None:
    """Make the row say these effective values: hot columns and document. Raises Unfit."""
    fit(row, values)
    compose(row, values)


def fit(row: Row, values: Values) -> None:
    """Take the hot columns from the values. Raises Unfit, and leaves the row as it was."""
    people = row.type == "User"
    key = name_attribute(row.type)
    name = values.get(key)
    if not isinstance(name, str) or not name.strip():
        raise Unfit(key, "no_name", "The record has no value that could be its name.")
    name_key = fold(name)
    if len(name) > LONGEST_NAME or len(name_key.encode()) > LONGEST_REF:
        raise Unfit(key, "name_too_long", f"Its name is longer than {LONGEST_NAME} characters.")
    display, external = _string(values.get("displayName")), _string(values.get("externalId"))
    user_type = _string(values.get("userType")) if people else None
    if external is not None and len(external.encode()) > LONGEST_REF:
        raise Unfit("externalId", "external_id_too_long", f"Its externalId is longer than {LONGEST_REF} octets.")
    for path, text in ((key, name), ("displayName", display), ("externalId", external), ("userType", user_type)):
        if text is not None and "\x00" in text:
            raise Unfit(path, "control_character", "A value holds a NUL character.")
    row.name, row.name_key = name, name_key
    row.display_name = display
    row.display_key = fold(display)[:LONGEST_NAME] if display is not None else None
    row.external_id, row.user_type = external, user_type


def _string(value: Any) -> str | None:
    return None if value is None else str(value)


def fit_living(row: Row, values: Values) -> tuple[Values, Unfit | None]:
    """The same for a resource that is here and stays: a name that cannot be is refused and the old one kept, any other
    value that cannot be is dropped. Returns the values that hold, and what was wrong with those given."""
    key, name, wrong = name_attribute(row.type), row.name, None
    while True:
        try:
            fit(row, values)
        except Unfit as unfit:
            if unfit.key == key and values.get(key) == name:
                raise
            wrong = unfit
            values = {other: value for other, value in values.items() if other != unfit.key}
            if unfit.key == key:
                values[key] = name
        else:
            return values, wrong


def compose(row: Row, values: Values) -> None:
    """Write the row's document from values that fit it and from what its columns refer to."""
    hidden = {"active", MANAGER, PARENT, *mapping.stored_extras(row.type, values)}
    document = mapping.nested(row.type, row.id, {key: value for key, value in values.items() if key not in hidden})
    if row.type in SWITCHED and (not row.active or "active" not in row.local):
        document["active"] = row.active
    if row.type == "User" and row.manager_id is not None:
        documents.point(document, MANAGER, row.manager_id)
    elif row.type == "OrganizationalUnit" and row.parent_id is not None:
        documents.point(document, PARENT, row.parent_id)
    row.write(document)


def new_id(resource_type: str) -> str:
    return ids.new(PREFIX[resource_type])


def now() -> datetime:
    return datetime.now(UTC)
