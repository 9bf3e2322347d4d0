"""What `/Schemas` and `/ResourceTypes` say to whom, where two clients want to be told differently.

Owns the difference between what the models take and what is announced. A strict credential is told exactly what is
taken; a tolerant one less, because a generic client takes for lost what it does not read back. The documents themselves
are scim2-server's, made of `scim.schemas`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from broker.attributes import AD_GROUP, AD_USER, CORE_GROUP

from .schemas import MEMBERSHIP

_LISTS = frozenset({AD_USER, AD_GROUP})
"""Extensions whose lists a client cannot compare with what it wrote."""


def schemas(document: dict[str, Any], *, strict: bool, unique_group_names: bool) -> dict[str, Any]:
    """A schema, or a list of them, as this credential is told it; changes the document."""
    for schema in document.get("Resources", (document,)):
        if schema["id"] == CORE_GROUP and unique_group_names:
            _named(schema, "displayName")["uniqueness"] = "server"
        if not strict:
            _be_careful(schema)
    return document


def _be_careful(schema: dict[str, Any]) -> None:
    for attribute in schema["attributes"]:
        if attribute["returned"] == "request" or (attribute["multiValued"] and schema["id"] in _LISTS):
            for one in (attribute, *_parts(attribute)):
                one["mutability"] = "readOnly"
        if schema["id"] == MEMBERSHIP:
            # The id alone is enough; but a client that fills what it must, and nothing else, cannot make one up.
            for one in _parts(attribute):
                one["required"] = one["required"] or one["name"] == "$ref"


def _named(schema: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in schema["attributes"] if one["name"] == name)
    return found


def _parts(attribute: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from attribute.get("subAttributes", ())
