"""A target's own mapping: which value of ours is sent under which name there.

Owns the rows (`{from, to, transform: {name, args}, constant, default, omit}`), their validation and their effect on
the document that would be sent without them. The transforms are the directory's closed list; there is no expression
language. What a target can take at all is `scim.profiles`'.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from broker.attributes import AD_GROUP, CUSTOM, SCAIKEY_GROUP
from broker.directory.mapping import parse
from broker.directory.transforms import TRANSFORMS
from broker.errors import ValidationFailed

NAMED = ("all", "first", "join", "lower", "upper")
"""The transforms that make sense of a value of ours."""
MOST_ROWS = 200
_FIELDS = frozenset({"from", "to", "transform", "constant", "default", "omit"})
_NEVER = frozenset({"schemas", "id", "externalid", "meta", "groups", "members", "active", "password"})
_LONGEST = 500
_URN = re.compile(r"urn:[A-Za-z0-9][A-Za-z0-9-]{1,31}:[!-~]+")


def check_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Validate a target's mapping. Raises ValidationFailed naming each row that cannot work."""
    if len(rows) > MOST_ROWS:
        raise ValidationFailed(errors={"mapping": [f"Has more than {MOST_ROWS} rows."]})
    errors: dict[str, list[str]] = {}
    mapped: set[str] = set()
    for index, row in enumerate(rows):
        complaint = _complaint(row)
        if complaint is None and row["to"].lower() in mapped:
            complaint = "`to` is mapped twice."
        if complaint is not None:
            errors[f"mapping.{index}"] = [complaint]
        else:
            mapped.add(row["to"].lower())
    if errors:
        raise ValidationFailed(errors=errors)
    return [dict(row) for row in rows]


def of(rows: Sequence[Mapping[str, Any]], resource_type: str) -> list[Mapping[str, Any]]:
    """The rows that are about resources of this type: what comes from an extension of groups is about groups."""
    return [row for row in rows if _of_groups(row) == (resource_type == "Group")]


def _of_groups(row: Mapping[str, Any]) -> bool:
    return str(row.get("from") or "").lower().startswith(_GROUPS)


_GROUPS = tuple(f"{urn}:".lower() for urn in (CUSTOM["Group"], AD_GROUP, SCAIKEY_GROUP))


def applied(rows: Sequence[Mapping[str, Any]], source: Mapping[str, Any], sent: dict[str, Any]) -> dict[str, Any]:
    """The document with the rows that are about it laid over it; `source` is our resource.

    A row that comes to nothing takes the attribute out, but for `userName`, without which nobody can be sent.
    """
    name = sent.get("userName")
    for row in rows:
        _put(sent, row["to"], _value(row, source))
    if name is not None and (not isinstance(sent.get("userName"), str) or not sent["userName"]):
        sent["userName"] = name
    sent["schemas"] = [sent["schemas"][0], *sorted(key for key in sent if ":" in key)]
    return sent


def _complaint(row: Mapping[str, Any]) -> str | None:
    if odd := sorted(set(row) - _FIELDS):
        return f"A row has from, to, transform, constant, default and omit, but no {odd[0]!r}."
    if (complaint := _bad_path(row.get("to"))) is not None:
        return f"`to` {complaint}"
    urn, attribute, _, sub = parse(row["to"])
    if urn is None and attribute.lower() in _NEVER:
        return f"`to` cannot be {attribute}: that is ours to say."
    if urn is None and _of_groups(row):
        return "`to` names an extension: nothing else of a group can be mapped."
    if attribute.lower() == "manager":
        return "`to` cannot be manager: people are named by their ids at the target."
    ways = [name for name in ("from", "constant", "omit") if row.get(name) not in (None, False)]
    if len(ways) != 1:
        return "A row has exactly one of from, constant and omit."
    if row.get("omit") not in (None, True, False):
        return "`omit` is true or false."
    for name in ("constant", "default"):
        if row.get(name) is not None and not _plain(row[name]):
            return f"`{name}` is a text of at most {_LONGEST} characters, a number, true or false, or a list of these."
    if ways != ["from"]:
        odd_ones = [name for name in ("transform", "default") if row.get(name) is not None]
        return f"`{odd_ones[0]}` goes with from." if odd_ones else None
    if (complaint := _bad_path(row["from"])) is not None:
        return f"`from` {complaint}"
    if sub is None and attribute.lower() == "username" and row.get("transform", {}) == {"name": "all"}:
        return "`userName` has one value."
    return _bad_transform(row.get("transform"))


def _bad_transform(transform: Any) -> str | None:
    if transform is None:
        return None
    if not isinstance(transform, dict) or set(transform) - {"name", "args"}:
        return "`transform` is an object of name and args."
    if transform.get("name") not in NAMED:
        return f"`transform.name` is one of {', '.join(NAMED)}."
    args = transform.get("args") or {}
    if not isinstance(args, dict) or set(args) - {"with"} or not isinstance(args.get("with", ""), str):
        return "`transform.args` is an object; what `join` joins `with` is a string."
    return None


def _bad_path(path: Any) -> str | None:
    if not isinstance(path, str) or len(path) > _LONGEST:
        return "is an attribute path."
    try:
        urn, attribute, kind, sub = parse(path)
    except ValueError:
        return 'is no attribute path, such as name.givenName or emails[type eq "work"].value.'
    if urn is not None and (not _URN.fullmatch(urn) or kind is not None):
        return "names an extension by its URN, then one attribute of it."
    if attribute.startswith("$") or (kind is not None and sub is None):
        return "names one attribute or one of its sub-attributes."
    return None


def _plain(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) <= 100 and all(not isinstance(one, list) and _plain(one) for one in value)
    return isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= _LONGEST)


def _value(row: Mapping[str, Any], source: Mapping[str, Any]) -> Any:
    if row.get("omit"):
        return None
    if (constant := row.get("constant")) is not None:
        return constant
    found = _found(source, row["from"])
    transform = row.get("transform")
    if transform is None:
        value: Any = found if not isinstance(found, list) else found or None
    else:
        texts = [_text(one) for one in (found if isinstance(found, list) else [found]) if one is not None]
        value = TRANSFORMS[transform["name"]](texts, {}, transform.get("args") or {}) if texts else None
    return row.get("default") if value in (None, "", []) else value


def _text(value: Any) -> str:
    """A complex value of a list stands for its `value`."""
    if isinstance(value, dict):
        value = value.get("value", "")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _found(source: Mapping[str, Any], path: str) -> Any:
    urn, attribute, kind, sub = parse(path)
    place: Any = source if urn is None else _named(source, urn)
    value = _named(place, attribute)
    if kind is not None:
        items = value if isinstance(value, list) else []
        value = next((one for one in items if isinstance(one, dict) and one.get("type") == kind), None)
    if sub is None:
        return value
    if isinstance(value, list):
        return [inner for one in value if (inner := _named(one, sub)) is not None]
    return _named(value, sub)


def _named(place: Any, name: str) -> Any:
    """SCIM's names know no case."""
    if not isinstance(place, Mapping):
        return None
    if name in place:
        return place[name]
    return next((value for key, value in place.items() if key.lower() == name.lower()), None)


def _put(sent: dict[str, Any], path: str, value: Any) -> None:
    urn, attribute, kind, sub = parse(path)
    place = sent if urn is None else dict(sent.get(urn) or {})
    if kind is not None:
        items = [dict(one) for one in place.get(attribute) or [] if isinstance(one, dict)]
        item = next((one for one in items if one.get("type") == kind), None)
        if item is None and value is not None:
            items.append(
                {sub: value, "type": kind, **({"primary": True} if attribute == "emails" and not items else {})}
            )
        elif item is not None and value is not None:
            item[sub] = value
        elif item is not None:
            item.pop(sub, None)
            items = [one for one in items if set(one) - {"type", "primary", "display"}]
        value = items or None
    elif sub is not None:
        inner = dict(place.get(attribute) or {}) if isinstance(place.get(attribute), dict) else {}
        inner.pop(sub, None)
        value = {**inner, **({} if value is None else {sub: value})} or None
    if value is None:
        place.pop(attribute, None)
    else:
        place[attribute] = value
    if urn is not None:
        if place:
            sent[urn] = place
        else:
            sent.pop(urn, None)
