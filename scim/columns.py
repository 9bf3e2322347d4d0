"""Where each SCIM attribute is in the database.

Owns what an attribute is as an SQL expression over `r` (a row of `resources`), `scope.tenant` and `j.d` (the row's
document as jsonb): a hot column, a membership relation, or a value in the document; and which attributes have rows in
the value index. All of it comes from the catalogue and the schemas, so no name in an expression is a client's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Literal, NamedTuple

import scim2_models as scim
from scim2_models.path import AttributeBinding

from broker.attributes import by_path
from broker.errors import BadRequest

from .declared import Models, remembered
from .schemas import ENDPOINTS

Form = Literal["text", "number", "boolean", "moment", "octets"]


class Value(NamedTuple):
    """An SQL expression to compare, already folded unless `exact`. `cheap`: a column, whose index a range may use.

    `longest`: the characters a folded column keeps; what is longer is compared by them.
    """

    text: str
    form: Form = "text"
    exact: bool = True
    nullable: bool = True
    cheap: bool = False
    longest: int | None = None


class Items(NamedTuple):
    """The values of a multi-valued attribute as a relation; `absent` says that there are none."""

    relation: str
    where: str
    absent: str


def folded(text: str) -> str:
    """`broker.attributes.fold` in SQL."""
    return f'(normalize(casefold(normalize({text}, NFKC) COLLATE pg_unicode_fast), NFKC) COLLATE "C")'


DOCUMENT = "CROSS JOIN LATERAL (SELECT convert_from(r.document, 'UTF8')::jsonb AS d OFFSET 0) j"
"""Joined where `j.d` is needed. OFFSET 0 keeps it one parse per row, after every condition on columns alone."""

_COLUMNS: Mapping[str, Value] = {
    "name": Value("r.name_key", exact=False, nullable=False, cheap=True),
    "display_name": Value("r.display_key", exact=False, cheap=True, longest=500),
    "external_id": Value("r.external_id", cheap=True),
    "user_type": Value(folded("r.user_type"), exact=False),
    "active": Value("r.active", "boolean", nullable=False),
    "token_name": Value("r.token_key", exact=False, cheap=True),
    "manager_id": Value("r.manager_id", cheap=True),
    "parent_id": Value("r.parent_id", cheap=True),
}
_PERSON_OR_GROUP = """LATERAL (
    SELECT x.id, x.type, x.name, x.display_name FROM resources x
    WHERE x.tenant_id = scope.tenant AND x.id = <id> AND x.removed_at IS NULL OFFSET 0) x"""
_MEMBERS = """LATERAL (
    SELECT DISTINCT m.member_id FROM memberships m
    WHERE m.tenant_id = scope.tenant AND m.group_id = r.id AND m.member_id IS NOT NULL OFFSET 0) m, """
_GROUPS = """(
    WITH RECURSIVE up(id, direct) AS (
        SELECT m.group_id, true FROM memberships m WHERE m.tenant_id = scope.tenant AND m.member_id = r.id
        UNION
        SELECT m.group_id, false FROM up, LATERAL (
            SELECT m.group_id FROM memberships m WHERE m.tenant_id = scope.tenant AND m.member_id = up.id OFFSET 0) m)
    SELECT up.id, bool_or(up.direct) AS direct FROM up GROUP BY up.id) u, """


def _relation(relation: str) -> Items:
    return Items(relation, "TRUE", f"NOT EXISTS (SELECT FROM {relation})")


_NAME = Value(folded("coalesce(x.display_name, x.name)"), exact=False)
RELATIONS: Mapping[str, tuple[Items, Mapping[str, Value], str]] = {
    "members": (
        _relation(_MEMBERS + _PERSON_OR_GROUP.replace("<id>", "m.member_id")),
        {
            "value": Value("x.id", nullable=False),
            "type": Value("lower(x.type)", exact=False, nullable=False),
            "display": _NAME,
            "$ref": Value("(%(base)s::text || CASE x.type WHEN 'Group' THEN '/Groups/' ELSE '/Users/' END || x.id)"),
        },
        "SELECT m.group_id FROM memberships m WHERE m.tenant_id = scope.tenant AND m.member_id = {}",
    ),
    "groups": (
        _relation(_GROUPS + _PERSON_OR_GROUP.replace("<id>", "u.id")),
        {
            "value": Value("x.id", nullable=False),
            "type": Value("CASE WHEN u.direct THEN 'direct' ELSE 'indirect' END", exact=False, nullable=False),
            "display": _NAME,
            "$ref": Value("(%(base)s::text || '/Groups/' || x.id)"),
        },
        """WITH RECURSIVE down(id) AS (
            SELECT m.member_id FROM memberships m WHERE m.tenant_id = scope.tenant AND m.group_id = {}
            UNION
            SELECT m.member_id FROM down, LATERAL (
                SELECT m.member_id FROM memberships m
                WHERE m.tenant_id = scope.tenant AND m.group_id = down.id OFFSET 0) m)
        SELECT down.id FROM down""",
    ),
}
"""Membership is rows: the relation, its sub-attributes, and the ids of who has one given value.

Rows are looked up key by key (LATERAL, OFFSET 0), whatever the planner believes of the size of the tenant.
"""


class Names(NamedTuple):
    """What a resource type's attributes are in the database, by fully qualified name."""

    columns: Mapping[str, Value]
    indexed: Mapping[str, int]
    closed: frozenset[str]
    """What the tenant has declared without wanting to filter or sort by it."""


@remembered(8)
def names(models: Models, resource_type: str) -> Names:
    core = str(models[resource_type].__schema__)
    own = f"(%(base)s::text || '/{ENDPOINTS[resource_type]}/' || r.id)"
    columns = {
        f"{core}:id": Value("r.id", nullable=False, cheap=True),
        f"{core}:meta.resourceType": Value(f"'{resource_type}'::text", nullable=False),
        f"{core}:meta.created": Value("r.created_at", "moment", nullable=False),
        f"{core}:meta.lastModified": Value("r.updated_at", "moment", nullable=False),
        f"{core}:meta.version": Value("""('W/"' || r.version || '"')""", nullable=False),
        f"{core}:meta.location": Value(own, exact=False, nullable=False),
    }
    indexed = {}
    for path, line in by_path(resource_type).items():  # type: ignore[arg-type]
        name = re.sub(r'\[type eq "\w+"\]', "", path if path.startswith("urn:") else f"{core}:{path}")
        if line.column is not None:
            columns[name] = _COLUMNS[line.column]
        if line.column in ("manager_id", "parent_id"):
            endpoint = ENDPOINTS["User" if line.column == "manager_id" else "OrganizationalUnit"]
            reference = f"(%(base)s::text || '/{endpoint}/' || r.{line.column})"
            columns[name.removesuffix("value") + "$ref"] = Value(reference)
        if line.number is not None:
            indexed[name] = line.number
    declared = models.lines.get(resource_type, [])
    indexed |= {one.key: one.number for one in declared if one.filterable}
    return Names(columns, indexed, frozenset(one.key for one in declared if not one.filterable))


def hidden(binding: AttributeBinding) -> bool:
    """Whether the attribute is not in the stored document: returned on request only, or never."""
    returned = binding.model.get_field_annotation(binding.field_name, scim.Returned)
    return returned in (scim.Returned.request, scim.Returned.never)


def quoted(name: str) -> str:
    """A name our schemas declare, as an SQL text literal."""
    if not re.fullmatch(r"[A-Za-z$][\w.:$-]*", name):
        raise ValueError(f"not an attribute name: {name}")
    return f"'{name}'"


def parts(binding: AttributeBinding) -> tuple[str | None, str, str | None]:
    """Extension URN, attribute and sub-attribute, as the schema spells them."""
    schema = str(getattr(binding.model, "__schema__", None) or "")
    attribute, _, sub = binding.urn.removeprefix(f"{schema}:").partition(".")
    return (schema if issubclass(binding.model, scim.Extension) else None), attribute, sub or None


def head(binding: AttributeBinding) -> str:
    """The attribute in the document, without the sub-attribute."""
    urn, attribute, _ = parts(binding)
    place = "j.d" if urn is None else f"j.d->{quoted(urn)}"
    return f"({place}->{quoted(attribute)})"


def elements(place: str) -> str:
    """The items of a list in jsonb; none when it is absent."""
    return f"jsonb_array_elements(CASE WHEN jsonb_typeof({place}) = 'array' THEN {place} END)"


def is_complex(binding: AttributeBinding) -> bool:
    return isinstance(binding.field_type, type) and issubclass(binding.field_type, scim.BaseModel)


def document_value(binding: AttributeBinding, place: str) -> Value:
    """The value of an attribute, or of one of an item's sub-attributes, out of jsonb."""
    sub = parts(binding)[2]
    whole = place if sub is None else f"({place}->{quoted(sub)})"
    text = f"({place} #>> '{{}}')" if sub is None else f"({place}->>{quoted(sub)})"
    return typed(binding, whole, text)


def typed(binding: AttributeBinding, whole: str, text: str) -> Value:
    """A value in jsonb (`whole`, and as text) in the form its attribute is compared in."""
    kind = binding.target_type
    if kind is None or not isinstance(kind, type) or issubclass(kind, scim.BaseModel):
        raise BadRequest(f"{binding.urn} is complex: compare one of its sub-attributes", scim_type="invalidFilter")
    if issubclass(kind, bool):
        return Value(f"({text} = 'true')", "boolean")
    if issubclass(kind, int | float):
        return Value(f"(CASE WHEN jsonb_typeof({whole}) = 'number' THEN {whole}::numeric END)", "number")
    if issubclass(kind, bytes):
        return Value(text, "octets")
    if issubclass(kind, datetime):
        return Value(f"({text})::timestamptz", "moment")
    return Value(f'({text} COLLATE "C")' if binding.case_exact else folded(text), exact=binding.case_exact)
