"""What a client's sortBy is in SQL.

Owns `sort_key`, the value resources are sorted by, and `order`, the ORDER BY of a page by index. Where an attribute is
in the database is `scim.columns`'; pages that follow one another by their sort value are `scim.walking`'s.
"""

from __future__ import annotations

from collections.abc import Sequence

import scim2_models as scim
from pydantic import ValidationError
from scim2_models import path as grammar

from broker.errors import BadRequest

from .columns import RELATIONS, Value, document_value, elements, head, hidden, names
from .declared import OURS, Models, remembered
from .filters import LONGEST, Sql
from .problems import refusal


def order(resource_type: str, sort_by: str, descending: bool, models: Models = OURS) -> Sql:
    """A client's sortBy, ties broken by id. Raises BadRequest with the scimType invalidPath."""
    [(value, reads)] = sort_keys((resource_type,), sort_by, models)
    way = "DESC" if descending else "ASC"
    assert value is not None
    return Sql(f"{value.text} {way}, r.id {way}", reads_document=reads)


def sort_keys(resource_types: Sequence[str], sort_by: str, models: Models = OURS) -> list[tuple[Value | None, bool]]:
    """The value each type is sorted by, None for a type without the attribute, and whether it is read from the
    document. Raises BadRequest with the scimType invalidPath, also when the types cannot be sorted together."""
    found = [_sort_key(models, resource_type, sort_by[:LONGEST]) for resource_type in resource_types]
    reasons = [one for one in found if isinstance(one, BadRequest)]
    keys: list[tuple[Value | None, bool]] = [(None, False) if isinstance(one, BadRequest) else one for one in found]
    if len(reasons) == len(found):
        raise BadRequest(reasons[0].detail, scim_type="invalidPath")
    if len({value.form for value, _ in keys if value is not None}) > 1:
        raise BadRequest(f"{sort_by} is not the same in every resource type", scim_type="invalidPath")
    return keys


@remembered(256)
def _sort_key(models: Models, resource_type: str, sort_by: str) -> tuple[Value, bool] | BadRequest:
    model = models[resource_type]
    try:
        request = scim.SearchRequest[model].model_validate({"sortBy": sort_by})  # type: ignore[valid-type]
    except ValidationError as error:
        return BadRequest(refusal(error).detail)
    binding = request.sort_binding(model)
    known = names(models, resource_type)
    column = None if binding is None else known.columns.get(binding.urn)
    if (
        binding is None
        or binding.field_name in RELATIONS
        or binding.urn in known.closed
        or (column is None and hidden(binding))
    ):
        return BadRequest(f"{sort_by} is not an attribute to sort by")
    if column is not None:
        return column, False
    return document_value(binding, _primary(binding) if binding.is_multivalued else head(binding)), True


def _primary(binding: grammar.AttributeBinding) -> str:
    """The value a multi-valued attribute is sorted by: the primary one, else the first (RFC 7644 §3.4.2.3)."""
    items = f"{elements(head(binding))} WITH ORDINALITY AS e(v, n)"
    return f"(SELECT e.v FROM {items} ORDER BY (e.v->>'primary') = 'true' DESC NULLS LAST, e.n LIMIT 1)"  # noqa: S608
