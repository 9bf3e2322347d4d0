"""What a tenant declares of its own: attributes of its people and groups that the catalogue does not have.

Owns the declarations, from the rules of their names to their end. What holds of the values is `declared`'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import sqlalchemy as sa

from .. import ids
from ..attributes import CUSTOM
from ..db import current_tenant, db, directory_writes
from ..errors import Conflict, LimitExceeded, ValidationFailed
from ..events import Changes, record
from ..models import CustomAttribute
from ..models.declarations import UNIQUE_FROM
from . import layers, room

MOST = 50
"""Attributes of one resource type."""
MOST_CLEARED = 10_000
"""Resources that one removal takes an attribute from."""
_PLAIN_FROM = 1_000
_AT_ONCE = 500
_MOST_CHOICES = 100
_LONGEST_CHOICE = 200
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_RESERVED = frozenset({"schemas", "id", "externalid", "meta"})
_EXACT = ("reference", "binary")
_FOLDED = ("boolean", "decimal", "integer", "dateTime")

_NOTE = sa.text("SELECT scaikey_note_declarations()")
_CARRIERS = sa.text("""
    SELECT DISTINCT resource_id FROM resource_values WHERE tenant_id = :tenant AND attribute = :number
    ORDER BY resource_id LIMIT :most
""")
_FILLED = sa.text("""
    SELECT name FROM identity_providers WHERE tenant_id = :tenant AND attribute_mapping @> CAST(:row AS jsonb)
    ORDER BY name LIMIT 1
""")
_TAKE = sa.text("""
    UPDATE resources SET local = local - :key, pins = pins - :key WHERE tenant_id = :tenant AND id = ANY(:ids)
""")


def declare(values: Mapping[str, Any]) -> CustomAttribute:
    """A new attribute. Raises ValidationFailed, Conflict, LimitExceeded."""
    session, name, type_ = db.session(), values["name"], values.get("type", "string")
    if not _NAME.fullmatch(name) or name.lower() in _RESERVED:
        text = "Must be up to 64 of a-z, A-Z, 0-9, - and _, beginning with a letter, and none of SCIM's common names."
        raise ValidationFailed(errors={"name": [text]})
    unique = values.get("uniqueness") == "server"
    if unique and type_ == "boolean":
        raise ValidationFailed(errors={"uniqueness": ["A boolean is nobody's alone."]})
    if values.get("canonical_values") and type_ != "string":
        raise ValidationFailed(errors={"canonical_values": ["Belong to strings."]})
    attribute = CustomAttribute(**{"id": ids.new("att"), **values, "name_key": name.lower()})
    attribute.resource_type = values.get("resource_type", "User")
    attribute.canonical_values = _choices(values.get("canonical_values") or [])
    attribute.case_exact = type_ in _EXACT or (type_ not in _FOLDED and values.get("case_exact", False))
    with directory_writes():
        session.execute(_NOTE)  # whoever declares something else waits here
        there = session.scalars(sa.select(CustomAttribute)).all()
        alike = [one for one in there if one.resource_type == attribute.resource_type]
        if any(one.name_key == attribute.name_key for one in alike):
            raise Conflict("The tenant has declared an attribute of this name already")
        if len(alike) >= MOST:
            raise LimitExceeded(f"A tenant declares at most {MOST} attributes of a resource type")
        taken = {one.number for one in there}
        first = UNIQUE_FROM if unique else _PLAIN_FROM
        attribute.number = next(number for number in range(first, first + 2 * MOST + 1) if number not in taken)
        session.add(attribute)
        session.flush()
        _tell("created", attribute, {"name": name, "resource_type": attribute.resource_type})
    return attribute


def change(attribute: CustomAttribute, values: Mapping[str, Any]) -> None:
    """Say other things of an attribute, that hold for every value carried. Raises ValidationFailed."""
    session, before = db.session(), attribute.canonical_values
    if (choices := values.get("canonical_values")) is not None:
        choices = _choices(choices)
        if choices and (not before or set(before) - set(choices)):
            raise ValidationFailed(errors={"canonical_values": ["May only become more."]})
        if choices and attribute.type != "string":
            raise ValidationFailed(errors={"canonical_values": ["Belong to strings."]})
        values = {**values, "canonical_values": choices}
    changed = sorted(name for name, value in values.items() if getattr(attribute, name) != value)
    if not changed:
        return
    with directory_writes():
        session.execute(_NOTE)
        for name in changed:
            setattr(attribute, name, values[name])
        session.flush()
        _tell("updated", attribute, changed)


def remove(attribute: CustomAttribute, confirmed: str | None) -> None:
    """End an attribute and take its values from whoever carries one, if that is `confirmed` by its name. Raises
    Conflict, also while an upstream fills it."""
    session, tenant = db.session(), current_tenant()
    key = f"{CUSTOM[attribute.resource_type]}:{attribute.name}"
    filling = {"tenant": tenant, "row": orjson.dumps([{"to": key}]).decode()}
    if (provider := session.execute(_FILLED, filling).scalar()) is not None:
        raise Conflict(f"The mapping of the provider {provider} fills {attribute.name}: take it out there first")
    wanted = {"tenant": tenant, "number": attribute.number, "most": MOST_CLEARED + 1}
    carriers = list(session.execute(_CARRIERS, wanted).scalars())
    if len(carriers) > MOST_CLEARED:
        raise Conflict(f"More than {MOST_CLEARED} resources carry {attribute.name}: take it from them first")
    if carriers and confirmed != attribute.name:
        raise Conflict(
            f"Resources that carry {attribute.name}: {len(carriers)}. Confirm with ?confirm={attribute.name}"
        )
    changes = Changes()
    with directory_writes(), room.one_name_each():
        session.execute(_NOTE)
        for start in range(0, len(carriers), _AT_ONCE):
            batch = carriers[start : start + _AT_ONCE]
            session.execute(_TAKE, {"tenant": tenant, "key": key, "ids": batch})
            layers.recompute(tenant, batch, changes, reread=False)
        record(changes)
        _tell("removed", attribute, {"name": attribute.name, "resource_type": attribute.resource_type})
        session.delete(attribute)
        session.flush()


def _choices(wanted: Sequence[str]) -> list[str]:
    choices = list(dict.fromkeys(wanted))
    if len(choices) > _MOST_CHOICES or not all(choice and len(choice) <= _LONGEST_CHOICE for choice in choices):
        text = f"At most {_MOST_CHOICES}, each of 1 to {_LONGEST_CHOICE} characters."
        raise ValidationFailed(errors={"canonical_values": [text]})
    return choices


def _tell(deed: str, attribute: CustomAttribute, changed: Any) -> None:
    changes = Changes()
    changes.add(f"custom_attribute.{deed}", "CustomAttribute", attribute.id, changed)
    record(changes)
