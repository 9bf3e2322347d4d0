"""Values that a tenant has declared attributes for: how they are indexed, and what must be true of them.

Owns what holds whoever writes them: each is declared, stands in the value index under the number of its declaration,
and is one resource's alone where it shall be unique. Whether a value has its type is asked where it comes in: by the
model at the SCIM door, by `faults` in an archive, by `typed` in what an upstream says. The declarations themselves are
`declarations`'.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from datetime import datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from ..attributes import CUSTOM, alike, fold, is_moment, value_key
from ..db import arrays, db
from ..errors import Conflict
from ..models.declarations import UNIQUE_FROM
from .documents import MAX_INDEXED
from .transforms import decimal, moment, octets, text, truth, whole

if TYPE_CHECKING:
    from .rows import Row

_DECLARED = sa.text("""
    SELECT resource_type, name, id, type, multi_valued, case_exact, filterable, number, mutability = 'immutable',
           canonical_values
    FROM custom_attributes WHERE tenant_id = :tenant FOR KEY SHARE
""")
_HELD = sa.text("""
    SELECT v.attribute FROM unnest(CAST(:numbers AS smallint[]), CAST(:keys AS text[])) AS u(number, key)
    JOIN resource_values v ON v.tenant_id = :tenant AND v.attribute = u.number AND v.value_key = u.key
    WHERE v.resource_id <> :id
""")
_HOLDERS = sa.text("""
    SELECT v.* FROM unnest(CAST(:numbers AS smallint[]), CAST(:keys AS text[])) AS u(number, key), LATERAL (
        SELECT attribute, value_key, resource_id FROM resource_values
        WHERE tenant_id = :tenant AND attribute = u.number AND value_key = u.key OFFSET 0) v
""")
_RELEASE = sa.text("""
    DELETE FROM resource_values v USING unnest(CAST(:numbers AS smallint[]), CAST(:keys AS text[])) AS u(number, key)
    WHERE v.tenant_id = :tenant AND v.attribute = u.number AND v.value_key = u.key
      AND v.resource_id = ANY(CAST(:ids AS text[]))
""")


class Declared(NamedTuple):
    """What the values of an attribute have to satisfy."""

    resource_type: str
    name: str
    id: str
    type: str
    many: bool
    exact: bool
    filterable: bool
    number: int
    immutable: bool
    choices: tuple[str, ...]

    @property
    def unique(self) -> bool:
        return self.number >= UNIQUE_FROM

    @property
    def key(self) -> str:
        """Its flat key, which is its fully qualified name."""
        return f"{CUSTOM[self.resource_type]}:{self.name}"


Declarations = Mapping[tuple[str, str], Declared]
"""By resource type and name."""
Claim = tuple[int, str]
"""The number of an attribute whose values are one resource's alone, and the key of such a value."""


def declared(tenant: str) -> Declarations:
    """The tenant's declarations, none of which ends before the unit of work does."""
    found = db.session().execute(_DECLARED, {"tenant": tenant})
    lines = [Declared._make((*rest, tuple(choices))) for *rest, choices in found]
    return {(line.resource_type, line.name): line for line in lines}


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
        for item in items(value):
            found.add((line, _key(line, item) if line.filterable or line.unique else ""))
    return found


def items(value: Any) -> Sequence[Any]:
    """The values under an attribute, however many it has."""
    return value if isinstance(value, list) else (value,)


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
    taken = set(_holders(tenant, [(line.number, key) for claimed in claims.values() for line, key in claimed]))
    refused: dict[str, str] = {}
    for id, claimed in claims.items():
        clashing = [line.name for line, key in claimed if (line.number, key) in taken]
        if clashing:
            refused[id] = min(clashing)
        else:
            taken |= {(line.number, key) for line, key in claimed}
    return refused


def claim(line: Declared, item: Any) -> Claim:
    """What a value of an attribute whose values are one resource's alone lays claim to."""
    return line.number, _key(line, item)


def contested(tenant: str, claims: Mapping[str, Set[Claim]]) -> dict[str, set[Claim]]:
    """Who of these resources cannot have what he claims: it is somebody else's, and stays his. What one of them lets go
    another may take."""
    holders = _holders(tenant, [one for claimed in claims.values() for one in claimed])
    taken = {one: id for one, id in holders.items() if id not in claims or one in claims[id]}
    refused: dict[str, set[Claim]] = {}
    for id, claimed in claims.items():
        clashing = {one for one in sorted(claimed) if taken.setdefault(one, id) != id}
        if clashing:
            refused[id] = clashing
    return refused


def _holders(tenant: str, claims: Sequence[Claim]) -> dict[Claim, str]:
    if not claims:
        return {}
    columns = {"numbers": [number for number, _ in claims], "keys": [key for _, key in claims]}
    found = db.session().execute(_HOLDERS, arrays({"tenant": tenant, **columns}))
    return {(number, key): id for number, key, id in found}


def release(tenant: str, arriving: Sequence[Row], staying: Sequence[str]) -> None:
    """Let go what these resources carry from those who stay and are written anew after them, so that values change
    hands."""
    carrying = [row for row in arriving if CUSTOM.get(row.type) in row.read()]
    if not carrying or not staying:
        return
    known = declared(tenant)
    claims = [(line.number, key) for row in carrying for line, key in _keys(row, known) if line.unique]
    if claims:
        columns = {"numbers": [number for number, _ in claims], "keys": [key for _, key in claims]}
        db.session().execute(_RELEASE, arrays({"tenant": tenant, "ids": list(staying), **columns}))


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


def written(resource_type: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What of flat values is the tenant's own, as it stands in a document."""
    own = {key.rpartition(":")[2]: values[key] for key in _declared_keys(resource_type, values)}
    return {CUSTOM[resource_type]: own} if own else {}


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
        elif wrong := next((found for item in items(value) if (found := fault(line, item))), None):
            yield name, wrong


def fault(line: Declared, value: Any) -> str | None:
    """Why this JSON value is none that the attribute may have, if it is none."""
    if not _suits(line.type, value) or (line.type == "integer" and not -(2**63) <= value < 2**63):
        return f"Not of the type {line.type}."
    if isinstance(value, str) and "\x00" in value:
        return "A value holds a NUL character."
    if line.choices and not any(value == one if line.exact else fold(value) == fold(one) for one in line.choices):
        return "Not one of the values it takes."
    return None


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


_READ = {"boolean": truth, "integer": whole, "decimal": decimal, "dateTime": moment, "binary": octets}


def typed(line: Declared, said: str | bytes) -> Any:
    """What a value that an upstream said in text or octets is by the attribute's type. Raises ValueError."""
    value = _READ.get(line.type, text)(said)
    if (wrong := fault(line, value)) is not None:
        raise ValueError(wrong)
    return value


def same(line: Declared, one: Any, other: Any) -> bool:
    """Whether two values of the attribute, or lists of them, are the same by its type, however they are written."""
    return alike(line.type, one, other, exact=line.exact)
