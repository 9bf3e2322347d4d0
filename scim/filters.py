"""SCIM filters as SQL.

Owns `condition` and `conditions`. Hot columns and the value index answer what they can, and everything else is read
from the document, last. Every condition is two-valued, so that `not` means what RFC 7644 says; values are bound
parameters. What one of several types searched at once does not have is without a value (RFC 7644 §3.4.2.1). Where an
attribute is in the database is `scim.columns`'; running the statement is `scim.reading`'s.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import scim2_models as scim
from scim2_models import path as grammar
from scim2_models.path import CompareOperator as Op
from scim2_server.utils import parametrize

from broker.attributes import fold, value_key
from broker.db import IN_TENANT
from broker.errors import BadRequest

from .columns import (
    RELATIONS,
    Items,
    Names,
    Value,
    document_value,
    elements,
    head,
    hidden,
    is_complex,
    names,
    parts,
    quoted,
    typed,
)
from .declared import OURS, Models, remembered
from .problems import refusal

LONGEST = 4_096
DEEPEST = 20
MOST_TERMS = 50
LONGEST_INDEXED = 1_024
"""Octets of a folded value the value index takes; longer ones are only found in the document."""

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Sql:
    """A piece of a statement. `reads_document`: it needs `j.d`; `of_user_type`: the client speaks of userType;
    `unknown`: the attributes that the resource type does not have."""

    text: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    reads_document: bool = False
    of_user_type: bool = False
    unknown: frozenset[str] = frozenset()


def condition(resource_type: str, text: str, models: Models = OURS) -> Sql:
    """A client's filter. Raises BadRequest with the scimType invalidFilter."""
    [found] = conditions((resource_type,), text, models)
    return found


def conditions(resource_types: Sequence[str], text: str, models: Models = OURS) -> list[Sql]:
    """A client's filter for each of the types it is to hold for. Raises BadRequest with the scimType invalidFilter,
    also for an attribute that none of them has."""
    if len(text.encode()) > LONGEST:
        raise BadRequest(f"The filter is longer than {LONGEST} bytes", scim_type="invalidFilter")
    found = [_condition(models, resource_type, text, len(resource_types) > 1) for resource_type in resource_types]
    for nowhere in frozenset.intersection(*(one.unknown for one in found)):
        raise BadRequest(f"No resource has the attribute {nowhere}", scim_type="invalidFilter")
    return found


@remembered(1_024)
def _condition(models: Models, resource_type: str, text: str, lenient: bool) -> Sql:
    try:
        bound = _bound(models, resource_type, text)
        _check_size(bound.ast, "invalidFilter")
        compiler = _Filter(names(models, resource_type), bound, lenient=lenient)
        found = compiler.visit(bound.ast)
        unknown = frozenset(compiler.unknown)
        return Sql(found, compiler.parameters, compiler.reads_document, compiler.of_user_type, unknown)
    except scim.SCIMException as error:
        raise refusal(error) from None


def members_where(text: str) -> tuple[str, Mapping[str, Any]]:
    """The ids of those members of the group `%(id)s` that a PATCH path selects, as a statement with its parameters."""
    try:
        bound = _bound(OURS, "Group", f"members[{text}]")
        node = bound.ast
        if not isinstance(node, grammar.ValuePath):
            raise BadRequest("The path selects no members", scim_type="invalidPath")
        _check_size(node, "invalidPath")
        outer = _Filter(names(OURS, "Group"), bound)
        chosen = _Item(outer, outer.resolve(node.attr_path, compared=False)).visit(node.val_filter)
    except scim.SCIMException as error:
        raise refusal(error) from None
    items = RELATIONS["members"][0]
    return (
        f"{IN_TENANT} SELECT DISTINCT x.id FROM scope, LATERAL (SELECT x.id FROM (SELECT %(id)s::text AS id) r, "  # noqa: S608 - our own names
        f"{items.relation} WHERE {items.where} AND {chosen} OFFSET 0) x",
        outer.parameters,
    )


def _bound(models: Models, resource_type: str, text: str) -> scim.ScimFilter[Any]:
    return parametrize(scim.ScimFilter, models[resource_type])(text)


def _check_size(node: grammar.FilterNode, scim_type: str) -> None:
    depth, terms = _measure(node)
    if depth > DEEPEST or terms > MOST_TERMS:
        raise BadRequest(
            f"The filter has more than {MOST_TERMS} terms, or is nested deeper than {DEEPEST}", scim_type=scim_type
        )


def _measure(node: grammar.FilterNode) -> tuple[int, int]:
    """How deep a filter is nested, and how many comparisons it makes."""
    depth, terms, level = 0, 0, [node]
    while level:
        depth += 1
        inner: list[grammar.FilterNode] = []
        for one in level:
            match one:
                case grammar.LogicalExpr():
                    inner += one.terms
                case grammar.Not():
                    inner.append(one.expr)
                case grammar.ValuePath():
                    inner.append(one.val_filter)
                case _:
                    terms += 1
        level = inner
    return depth, terms


class _Comparing(grammar.FilterVisitor[str]):
    """What comparing a value means, wherever it is."""

    parameters: dict[str, Any]

    def bind(self, value: Any) -> str:
        if isinstance(value, str) and ("\0" in value or _SURROGATE.search(value)):
            raise BadRequest("A value holds a character no attribute can have", scim_type="invalidFilter")
        name = f"f{len(self.parameters)}"
        self.parameters[name] = value
        return f"%({name})s"

    def compare(self, value: Value, op: Op, operand: Any) -> str:
        if value.form in _UNORDERED and op not in (Op.eq, Op.ne):
            raise BadRequest(f"{op.value} says nothing of {_UNORDERED[value.form]}", scim_type="invalidFilter")
        if operand is None:
            if op is Op.eq:
                return f"({value.text} IS NULL)" if value.nullable else "FALSE"
            if op is Op.ne:
                return f"({value.text} IS NOT NULL)" if value.nullable else "TRUE"
            return "FALSE"
        if value.form == "text":
            return self._compare_text(value, op, operand)
        if op in (Op.co, Op.sw, Op.ew):
            return "FALSE"
        match value.form:
            case "octets":
                bound = self.bind(base64.b64encode(operand).decode()) + "::text"
            case "number" if isinstance(operand, bool):
                return "TRUE" if op is Op.ne else "FALSE"
            case "number":
                bound = self.bind(operand) + "::numeric"
            case "moment":
                bound = self.bind(operand) + "::timestamptz"
            case _:
                bound = self.bind(operand) + "::boolean"
        return self._plain(value, op, bound)

    def _compare_text(self, value: Value, op: Op, operand: Any) -> str:
        if not isinstance(operand, str):
            return "TRUE" if op is Op.ne else "FALSE"
        text = (str(operand) if value.exact else fold(operand))[: value.longest]
        if op is Op.sw and value.cheap:
            return self._begins(value, text)
        bound = f"{self.bind(text)}::text"
        if op is Op.sw:
            return _sure(value, f"starts_with({value.text}, {bound})")
        if op is Op.co:
            return _sure(value, f"strpos({value.text}, {bound}) > 0")
        if op is Op.ew:
            return _sure(value, f"right({value.text}, length({bound})) = {bound}")
        return self._plain(value, op, bound)

    def _plain(self, value: Value, op: Op, bound: str) -> str:
        if op is Op.ne:
            return f"({value.text} IS DISTINCT FROM {bound})"
        return _sure(value, f"{value.text} {_SIGNS[op]} {bound}")

    def _begins(self, value: Value, prefix: str) -> str:
        """A range, because LIKE does not use its index under row-level security."""
        if not prefix:
            return f"({value.text} IS NOT NULL)"
        low = _sure(value, f"{value.text} >= {self.bind(prefix)}::text")
        end = _after(prefix)
        return low if end is None else f"({low} AND {value.text} < {self.bind(end)}::text)"

    def visit_not(self, node: grammar.Not) -> str:
        return f"(NOT {self.visit(node.expr)})"

    def visit_logical_expr(self, node: grammar.LogicalExpr) -> str:
        joined = f" {node.op.value.upper()} ".join(self.visit(term) for term in node.terms)
        return f"({joined})"


_NOTHING = Value("NULL::text")
_UNORDERED = {"boolean": "a truth value", "octets": "octets"}
"""RFC 7644 §3.4.2.2: a comparison by order with one is refused; one of text with it is as meaningless."""
_SIGNS = {Op.eq: "=", Op.gt: ">", Op.ge: ">=", Op.lt: "<", Op.le: "<="}


def _sure(value: Value, comparison: str) -> str:
    """The comparison, false where there is no value."""
    if not value.nullable:
        return f"({comparison})"
    return f"({value.text} IS NOT NULL AND {comparison})" if value.cheap else f"coalesce({comparison}, FALSE)"


def _after(prefix: str) -> str | None:
    """The least text above everything that begins with `prefix`, by code points; None when nothing is."""
    while prefix:
        point = ord(prefix[-1]) + 1
        if point <= 0x10FFFF:
            return prefix[:-1] + chr(0xE000 if 0xD800 <= point <= 0xDFFF else point)
        prefix = prefix[:-1]
    return None


class _Filter(_Comparing):
    """One filter over resources of one type. `lenient`: what the type does not have is an attribute without a value."""

    def __init__(self, known: Names, bound: scim.ScimFilter[Any], *, lenient: bool = False) -> None:
        self.names = known
        self.bound = bound
        self.parameters = {}
        self.reads_document = False
        self.of_user_type = False
        self.lenient = lenient
        self.unknown: set[str] = set()

    def lacks(self, path: grammar.AttrPath) -> bool:
        if not self.lenient or self.bound.resolve(path, strict=False) is not None:
            return False
        self.unknown.add(str(path))
        return True

    def resolve(self, path: grammar.AttrPath, *, compared: bool) -> grammar.AttributeBinding:
        resolve = self.bound.resolve_comparison if compared else self.bound.resolve
        binding = resolve(path)
        assert binding is not None
        if (hidden(binding) and binding.urn not in self.names.columns) or binding.urn in self.names.closed:
            raise BadRequest(f"{path} cannot be filtered on", scim_type="invalidFilter")
        self.of_user_type |= binding.field_name == "user_type"
        return binding

    def visit_comparison(self, node: grammar.Comparison) -> str:
        if self.lacks(node.attr_path):
            return self.compare(_NOTHING, node.op, node.value)
        binding = self.resolve(node.attr_path, compared=True)
        operand = grammar.coerce_value(binding, node.value, node.op)
        if (column := self.names.columns.get(binding.urn)) is not None:
            return self.compare(column, node.op, operand)
        if binding.is_multivalued:
            items, value = self.items(binding)
            found = self.compare_any(items, value, node.op, operand)
        else:
            self.reads_document = True
            found = self.compare(document_value(binding, head(binding)), node.op, operand)
        narrow = self.narrow(binding, node.op, operand)
        return f"({narrow} AND {found})" if narrow else found

    def compare_any(self, items: Items, value: Value, op: Op, operand: Any) -> str:
        """Any of the values, but for `ne`, which all of them must satisfy."""
        if operand is None:
            null = self.compare(value, Op.eq, None)
            if op is Op.eq:
                return f"({items.absent} OR {_exists(items, null)})"
            return f"(NOT {items.absent} AND NOT {_exists(items, null)})" if op is Op.ne else "FALSE"
        if op is Op.ne:
            return f"(NOT {_exists(items, self.compare(value, Op.eq, operand))})"
        return _exists(items, self.compare(value, op, operand))

    def items(self, binding: grammar.AttributeBinding) -> tuple[Items, Value]:
        """The values of a multi-valued attribute, and what of each one the path names."""
        if (relation := RELATIONS.get(binding.field_name)) is not None:
            sub = parts(binding)[2]
            assert sub is not None
            return relation[0], relation[1][sub]
        return self.listed(binding), document_value(binding, "e.v")

    def listed(self, binding: grammar.AttributeBinding) -> Items:
        if (relation := RELATIONS.get(binding.field_name)) is not None:
            return relation[0]
        self.reads_document = True
        return Items(f"{elements(head(binding))} AS e(v)", "TRUE", f"({head(binding)} IS NULL)")

    def narrow(self, binding: grammar.AttributeBinding, op: Op, operand: Any) -> str | None:
        """The few resources an index knows to have this value; the document then decides."""
        if op is not Op.eq or not isinstance(operand, str | int | float | datetime):
            return None
        if (relation := RELATIONS.get(binding.field_name)) is not None:
            if binding.sub_field_name != "value":
                return None
            return f"r.id = ANY(ARRAY({relation[2].format(f'{self.bind(operand)}::text')}))"
        number = self.names.indexed.get(binding.urn)
        key = value_key(operand, exact=binding.case_exact)
        if number is None or len(key.encode()) > LONGEST_INDEXED:
            return None
        return (
            "r.id = ANY(ARRAY(SELECT v.resource_id FROM resource_values v WHERE v.tenant_id = scope.tenant "  # noqa: S608
            f"AND v.attribute = {number} AND v.value_key = {self.bind(key)}::text))"
        )

    def visit_present(self, node: grammar.Present) -> str:
        if self.lacks(node.attr_path):
            return "FALSE"
        binding = self.resolve(node.attr_path, compared=False)
        if (column := self.names.columns.get(binding.urn)) is not None:
            return _present(column)
        if binding.urn == f"{binding.model.__schema__}:meta":  # type: ignore[attr-defined]
            return "TRUE"
        if binding.field_name in RELATIONS and binding.sub_field_name is None:
            return f"(NOT {self.listed(binding).absent})"
        if binding.is_multivalued:
            items = self.listed(binding)
            if binding.sub_field_name is None and is_complex(binding):
                return _exists(items, "EXISTS (SELECT FROM jsonb_each_text(e.v) t WHERE t.value <> '')")
            return _exists(items, _present(self.items(binding)[1]))
        self.reads_document = True
        if is_complex(binding) and binding.sub_field_name is None:
            whole = f"CASE WHEN jsonb_typeof({head(binding)}) = 'object' THEN {head(binding)} END"
            return f"EXISTS (SELECT FROM jsonb_each_text({whole}) t WHERE t.value <> '')"
        return _present(document_value(binding, head(binding)))

    def visit_value_path(self, node: grammar.ValuePath) -> str:
        if self.lacks(node.attr_path):
            return "FALSE"
        binding = self.resolve(node.attr_path, compared=False)
        inner = _Item(self, binding)
        found = _exists(self.listed(binding), inner.visit(node.val_filter))
        narrow = self.narrow_item(node)
        return f"({narrow} AND {found})" if narrow else found

    def narrow_item(self, node: grammar.ValuePath) -> str | None:
        """`emails[type eq "work" and value eq "x"]` has an index for `value`."""
        for term in _conjunction(node.val_filter):
            if isinstance(term, grammar.Comparison) and term.op is Op.eq and term.attr_path.attr.lower() == "value":
                path = grammar.AttrPath(node.attr_path.attr, "value", node.attr_path.uri)
                binding = self.bound.resolve(path, strict=False)
                if binding is not None:
                    return self.narrow(binding, term.op, term.value)
        return None


def _conjunction(node: grammar.FilterNode) -> Iterator[grammar.FilterNode]:
    if isinstance(node, grammar.LogicalExpr) and node.op.value == "and":
        yield from node.terms
    else:
        yield node


def _exists(items: Items, condition: str) -> str:
    return f"EXISTS (SELECT FROM {items.relation} WHERE {items.where} AND {condition})"


def _present(value: Value) -> str:
    if value.form != "text":
        return f"({value.text} IS NOT NULL)" if value.nullable else "TRUE"
    return f"coalesce({value.text} <> '', FALSE)"


class _Item(_Comparing):
    """The filter inside the brackets of a value path: over one value of a multi-valued attribute."""

    def __init__(self, outer: _Filter, binding: grammar.AttributeBinding) -> None:
        self.parameters = outer.parameters
        self.head = binding
        self.relation = RELATIONS.get(binding.field_name)

    def value_of(self, path: grammar.AttrPath) -> tuple[Value, grammar.AttributeBinding | None]:
        model = self.head.field_type
        if not is_complex(self.head):
            if path.attr.lower() == "value" and path.sub_attr is None:
                return typed(self.head, "e.v", "(e.v #>> '{}')"), None
            raise BadRequest(f"{path} is not part of {self.head.urn}", scim_type="invalidFilter")
        binding = scim.ScimFilter[model](f"{path} pr").resolve(path)  # type: ignore[valid-type]
        assert binding is not None
        if self.relation is not None:
            return self.relation[1][binding.urn], binding
        name = quoted(binding.urn)
        return typed(binding, f"(e.v->{name})", f"(e.v->>{name})"), binding

    def visit_comparison(self, node: grammar.Comparison) -> str:
        value, binding = self.value_of(node.attr_path)
        operand = node.value if binding is None else grammar.coerce_value(binding, node.value, node.op)
        return self.compare(value, node.op, operand)

    def visit_present(self, node: grammar.Present) -> str:
        return _present(self.value_of(node.attr_path)[0])

    def visit_value_path(self, node: grammar.ValuePath) -> str:
        raise BadRequest("A value path cannot hold another", scim_type="invalidFilter")
