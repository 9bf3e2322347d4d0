"""Whether the rows of a provider's mapping can work.

Owns their validation, against the catalogue and what the tenant has declared. What they do is `mapping`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import attributes as catalogue
from ..errors import ValidationFailed
from . import declared
from .declared import Declarations, Declared
from .documents import MANAGER, PARENT, keys
from .mapping import AUTHORITIES, TYPE_OF_KIND
from .transforms import TRANSFORMS, WHOLE_RECORD


def check_rows(rows: Any, known: Declarations | None = None) -> list[dict[str, Any]]:
    """Validate a provider's mapping rows. `known`: what the tenant has declared. Raises ValidationFailed naming each
    row that cannot work."""
    if not isinstance(rows, list):
        raise ValidationFailed(errors={"attribute_mapping": ["A mapping is a list of rows."]})
    lines: dict[str, catalogue.Attribute | Declared] = {
        path: line
        for resource_type in TYPE_OF_KIND.values()
        for path, line in keys(resource_type).items()
        if not line.read_only
    }
    lines |= {line.key: line for line in (known or {}).values()}
    errors: dict[str, list[str]] = {}
    mapped: set[str] = set()
    for index, row in enumerate(rows):
        complaint = _complaint(row, lines)
        if complaint is None and row["to"] in mapped:
            complaint = "`to` is mapped twice."
        if complaint is not None:
            errors[f"attribute_mapping.{index}"] = [complaint]
        else:
            mapped.add(row["to"])
    if errors:
        raise ValidationFailed(errors=errors)
    return list(rows)


def _complaint(row: Any, lines: Mapping[str, catalogue.Attribute | Declared]) -> str | None:
    """What is wrong with one row, if anything."""
    if not isinstance(row, dict) or set(row) - {"from", "to", "transform", "authority", "default"}:
        return "A row is an object of from, to, transform, authority and default."
    to = row.get("to")
    if not isinstance(to, str) or to not in lines or to in (MANAGER, PARENT, "active"):
        return "`to` must be an attribute path of the catalogue, or of what is declared, that a mapping may write."
    line = lines[to]
    if row.get("authority", "owns") not in AUTHORITIES:
        return f"`authority` is one of {', '.join(AUTHORITIES)}."
    if not isinstance(row.get("from", ""), str | None):
        return "`from` is the name of an upstream attribute."
    transform = row.get("transform") or {"name": "first"}
    if not isinstance(transform, dict) or set(transform) - {"name", "args"}:
        return "`transform` is an object of name and args."
    name, args = transform.get("name"), transform.get("args") or {}
    allowed = [known for known in TRANSFORMS if known != "refer" and (_textual(line) or known in _SHAPELESS)]
    if name not in allowed:
        return f"`transform.name` is one of {', '.join(sorted(allowed))}."
    if not isinstance(args, dict) or not isinstance(args.get("with", ""), str):
        return "`transform.args` is an object; what `join` joins with is a string."
    if name == "constant" and not _suits(line, args.get("value")):
        return f"`transform.args.value` has to be {_wanted(line)}."
    if name not in WHOLE_RECORD and not row.get("from") and row.get("authority") != "never":
        return "`from` names the upstream attribute that is mapped."
    if row.get("default") is not None and not _suits(line, row["default"]):
        return f"`default` has to be {_wanted(line)}."
    return None


_SHAPELESS = ("first", "all", "constant")


def _textual(line: catalogue.Attribute | Declared) -> bool:
    if isinstance(line, Declared):
        return line.type in ("string", "reference")
    return line.form not in ("integer", "boolean", "binary")


def _suits(line: catalogue.Attribute | Declared, value: Any) -> bool:
    """Whether this JSON value can stand under the line's path."""
    if line.many:
        return isinstance(value, list) and all(_suits_once(line, item) for item in value)
    return _suits_once(line, value)


def _suits_once(line: catalogue.Attribute | Declared, value: Any) -> bool:
    if isinstance(line, Declared):
        return declared.fault(line, value) is None
    if line.form == "boolean":
        return isinstance(value, bool)
    if line.form == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, str)


def _wanted(line: catalogue.Attribute | Declared) -> str:
    form = _WORDS.get(line.type if isinstance(line, Declared) else line.form, "a string")
    if isinstance(line, Declared) and line.choices:
        form = "one of the values it takes"
    return f"a list, each item {form}" if line.many else form


_WORDS = {
    "boolean": "true or false",
    "integer": "a whole number",
    "dateTime": "a date and time with its zone",
    "reference": "a URI",
    "binary": "base64",
}
