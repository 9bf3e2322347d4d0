"""How rows become JSON and JSON becomes checked values: marshmallow schemas derived from the columns.

A shape names the columns it shows; their types and nullability come from the table. Types are strict (text is no
number, 1 is no true), unknown and read-only fields are refused, and a field the contract promises for later says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

import sqlalchemy as sa
from marshmallow import RAISE, Schema, ValidationError, fields, validate
from marshmallow_sqlalchemy import ModelConverter, SQLAlchemySchema, auto_field

from broker.errors import NotAvailable, ValidationFailed

__all__ = [
    "NAME",
    "Flag",
    "Instant",
    "Shape",
    "Text",
    "Whole",
    "auto_field",
    "fields",
    "one_of",
    "take",
    "take_changes",
]

_LARGEST = 2**31 - 1


class Text(fields.String):
    """Text as typed by people or machines: not empty, no control characters."""

    def __init__(self, *, most: int = 2_000, **options: Any) -> None:
        super().__init__(**options)
        self.validators.insert(0, validate.Length(min=1, max=most))

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        text = super()._deserialize(value, attr, data, **options)
        if text and (not text.strip() or any(ord(letter) < 32 or ord(letter) == 127 for letter in text)):
            raise ValidationError("Must not be blank or hold control characters.")
        return text


class Flag(fields.Boolean):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class Whole(fields.Integer):
    """A whole number of 32 bits, not negative."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"strict": True, **options})
        self.validators.insert(0, validate.Range(min=0, max=_LARGEST))

    def _validated(self, value: Any) -> int:
        if isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return super()._validated(value)


class Instant(fields.AwareDateTime):
    """A moment in RFC 3339, taken and shown in UTC."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> datetime:
        try:
            return super()._deserialize(value, attr, data, **options).astimezone(UTC)
        except OverflowError:
            raise self.make_error("invalid", input=value, obj_type=self.OBJ_TYPE) from None

    def _serialize(self, value: datetime | None, attr: str | None, obj: Any, **options: Any) -> str | None:
        return None if value is None else value.astimezone(UTC).isoformat().replace("+00:00", "Z")


class Object(fields.Dict):
    def __init__(self, **options: Any) -> None:
        super().__init__(**{"keys": fields.String(), **options})


class _Strict(ModelConverter):
    SQLA_TYPE_MAPPING = {
        **ModelConverter.SQLA_TYPE_MAPPING,
        sa.DateTime: Instant,
        sa.Boolean: Flag,
        sa.Integer: Whole,
        sa.Text: Text,
    }


class Shape(SQLAlchemySchema[Any]):
    """`LATER`: fields the contract names and this version does not take. `FIXED`: those set only at creation."""

    LATER: ClassVar[frozenset[str]] = frozenset()
    FIXED: ClassVar[frozenset[str]] = frozenset()

    class Meta:
        unknown = RAISE
        model_converter = _Strict


NAME = validate.Length(max=200)


def one_of(*choices: str) -> validate.OneOf:
    return validate.OneOf(choices, error="Must be one of: {choices}.")


def take(shape: type[Schema], body: Mapping[str, Any]) -> dict[str, Any]:
    """The checked values of a new resource. Raises ValidationFailed, NotAvailable."""
    schema = shape()
    given = _without_later(schema, body)
    wrong = {name: ["Is read-only."] for name in given if _read_only(schema, name)}
    return _loaded(schema, given, wrong)


def take_changes(shape: type[Schema], row: object, body: Mapping[str, Any]) -> dict[str, Any]:
    """The checked values of a change. What is fixed or read-only may be sent back as it was shown."""
    schema = shape(partial=True)
    given, kept, wrong = _without_later(schema, body), {}, {}
    fixed: frozenset[str] = getattr(shape, "FIXED", frozenset())
    closed = {name for name in given if name in fixed or _read_only(schema, name)}
    shown = schema.dump(row) if closed else {}
    for name, value in given.items():
        if name not in closed:
            kept[name] = value
        elif value != shown.get(name):
            wrong[name] = ["Never changes." if name in fixed else "Is read-only."]
    return _loaded(schema, kept, wrong)


def _read_only(schema: Schema, name: str) -> bool:
    known = schema.fields.get(name)
    return known is not None and known.dump_only


def _without_later(schema: Schema, body: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    later: frozenset[str] = getattr(schema, "LATER", frozenset())
    asked = sorted(name for name in body if name in later and body[name] not in (None, False, [], {}))
    if asked:
        raise NotAvailable(errors={f"{path}{name}": ["Is not available."] for name in asked})
    given = {name: value for name, value in body.items() if name not in later}
    for name, value in given.items():
        field = schema.fields.get(name)
        if isinstance(field, fields.Nested) and isinstance(value, dict):
            given[name] = _without_later(field.schema, value, f"{path}{name}.")
    return given


def _loaded(schema: Schema, given: Mapping[str, Any], wrong: dict[str, list[str]]) -> dict[str, Any]:
    try:
        values: dict[str, Any] = schema.load({name: value for name, value in given.items() if name not in wrong})
    except ValidationError as error:
        wrong = {**_flat(error.messages), **wrong}
    if wrong:
        raise ValidationFailed(errors=wrong)
    return values


def _flat(messages: Any, prefix: str = "") -> dict[str, list[str]]:
    """marshmallow's nested messages as `field` or `field.inner` → sentences."""
    flat: dict[str, list[str]] = {}
    for name, inner in messages.items():
        path = prefix.rstrip(".") if name == "_schema" else f"{prefix}{name}"
        if isinstance(inner, dict):
            flat |= _flat(inner, f"{path}.")
        else:
            flat[path] = [str(text) for text in inner]
    return flat
