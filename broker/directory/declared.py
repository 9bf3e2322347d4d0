"""Values that a tenant has declared attributes for: how they are indexed, and what must be true of them.

Owns what holds whoever writes them: each is declared, stands in the value index under the number of its declaration,
and is one resource's alone where it shall be unique. Whether a value has its type is asked where it comes in: by the
model at the SCIM door, by `faults` in an archive. The declarations themselves are `declarations`'.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from ..attributes import CUSTOM, is_moment, value_key
from ..db import arrays, db
from ..errors import Conflict
from ..models.declarations import UNIQUE_FROM
from .documents import MAX_INDEXED

if TYPE_CHECKING:
    from .rows import Row

_DECLARED = sa.text("""
    SELECT resource_type, name, type, multi_valued, case_exact, filterable, number FROM custom_attributes
    WHERE tenant_id = :tenant FOR KEY SHARE
""")
_HELD = sa.text("""
    SELECT v.attribute FROM unnest(CAST(:numbers AS smallint[]), CAST(:keys AS text[])) AS u(number, key)
    JOIN resource_values v ON v.tenant_id = :tenant AND v.attribute = u.number AND v.value_key = u.key
    WHERE v.resource_id <> :id
""")

_THERE = sa.text("""
    SELECT v.attribute, v.value_key FROM unnest(CAST(:numbers AS smallint[]), CAST(:keys AS text[])) AS u(number, key)
    JOIN resource_values v ON v.tenant_id = :tenant AND v.attribute = u.number AND v.value_key = u.key
""")


class Declared(NamedTuple):
    """What the values of an attribute have to satisfy."""

    name: str
    type: str
    many: bool
    exact: bool
    filterable: bool
    number: int

    @property
    def unique(self) -> bool:
        return self.number >= UNIQUE_FROM


Declarations = Mapping[tuple[str, str], Declared]
"""By resource type and name."""


def declared(tenant: str) -> Declarations:
    """The tenant's declarations, none of which ends before the unit of work does."""
    found = db.session().execute(_DECLARED, {"tenant": tenant})
    return {(resource_type, name): Declared(name, *rest) for resource_type, name, *rest in found}


def index_rows(tenant: str, written: Iterable[Row]) -> list[tuple[int, str, str]]:
    """The value-index rows of what these resources carry: number, key, resource. An attribute that is not filtered on
    stands there without its value. Raises Conflict for one that is not declared any more."""
    carrying = [row for row in written if CUSTOM.get(row.type) in row.read()]
    if not carrying:
        return []
    known = declared(tenant)
    return [(line.number, key, row.id) for row in carrying for line, key in sorted(_keys(row, known))]


def _keys(row: Row, known: Declarations) -> set[tuple[Declared, str]]:
    found = set()
    for name, value in row.read()[CUSTOM[row.type]].items():
        line = known.get((row.type, name))
        if line is None:
            raise Conflict(f"{name} is not declared any more")
        for item in value if isinstance(value, list) else (value,):
            found.add((line, _key(line, item) if line.filterable or line.unique else ""))
    return found


def _key(line: Declared, value: Any) -> str:
    typed = datetime.fromisoformat(value) if line.type == "dateTime" else value
    key = value_key(typed, exact=line.exact)
    return key if len(key.encode()) <= MAX_INDEXED else "#" + blake2b(key.encode(), digest_size=32).hexdigest()


def check_unique(tenant: str, row: Row) -> None:
    """Raises Conflict (`uniqueness`) when somebody else has a value of the row's that is one resource's alone."""
    if CUSTOM.get(row.type) not in row.read():
        return
    claimed = [(line, key) for line, key in _keys(row, declared(tenant)) if line.unique]
    if not claimed:
        return
    asked = {"numbers": [line.number for line, _ in claimed], "keys": [key for _, key in claimed]}
    taken = db.session().execute(_HELD, arrays({"tenant": tenant, "id": row.id, **asked})).scalar()
    if taken is not None:
        name = next(line.name for line, _ in claimed if line.number == taken)
        raise Conflict(f"{name}: another {row.noun} has this value", scim_type="uniqueness")


def held(tenant: str, arriving: Sequence[Row]) -> dict[str, str]:
    """Who of these cannot come in, and the attribute by which: somebody before him has a value that is one resource's
    alone."""
    carrying = [row for row in arriving if CUSTOM.get(row.type) in row.read()]
    if not carrying:
        return {}
    known = declared(tenant)
    claims = {row.id: [one for one in _keys(row, known) if one[0].unique] for row in carrying}
    asked = [(line.number, key) for claimed in claims.values() for line, key in claimed]
    columns = {"numbers": [number for number, _ in asked], "keys": [key for _, key in asked]}
    there = db.session().execute(_THERE, arrays({"tenant": tenant, **columns})) if asked else ()
    taken = {(number, key) for number, key in there}
    refused: dict[str, str] = {}
    for id, claimed in claims.items():
        clashing = [line.name for line, key in claimed if (line.number, key) in taken]
        if clashing:
            refused[id] = min(clashing)
        else:
            taken |= {(line.number, key) for line, key in claimed}
    return refused


def is_clash(error: IntegrityError) -> bool:
    """Whether the database refused a value that somebody else took in the same moment."""
    diagnosis = getattr(error.orig, "diag", None)
    return getattr(diagnosis, "constraint_name", None) == "uq_resource_values_declared"


def let_go(gone: Iterable[Row]) -> None:
    """Who is removed carries nothing that the tenant has declared: his values are free, and their declaration may
    end."""
    for row in gone:
        for layer in (row.local, row.pins):
            for key in _declared_keys(row.type, layer):
                del layer[key]


def _declared_keys(resource_type: str, values: Iterable[str]) -> list[str]:
    urn = CUSTOM.get(resource_type)
    return [] if urn is None else [key for key in values if key.startswith(f"{urn}:")]


def faults(known: Declarations, resource_type: str, document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The attributes of a document that are not declared, or not so, and what is wrong with them."""
    carried = document.get(CUSTOM.get(resource_type, ""), {})
    if not isinstance(carried, dict):
        yield "", "An extension is an object."
        return
    for name, value in carried.items():
        line = known.get((resource_type, name))
        if line is None:
            yield name, "This attribute is not declared here."
        elif not (isinstance(value, list) and value if line.many else not isinstance(value, list)):
            yield name, "The attribute has several values." if line.many else "The attribute has one value."
        elif not all(_suits(line.type, item) for item in (value if line.many else (value,))):
            yield name, f"Not of the type {line.type}."


def _suits(type_: str, value: Any) -> bool:
    try:
        match type_:
            case "boolean":
                return isinstance(value, bool)
            case "integer" | "decimal":
                return isinstance(value, int if type_ == "integer" else int | float) and not isinstance(value, bool)
            case "dateTime":
                return isinstance(value, str) and is_moment(value)
            case "binary":
                return isinstance(value, str) and base64.b64decode(value, validate=True) is not None
    except (ValueError, binascii.Error):
        return False
    return isinstance(value, str)
