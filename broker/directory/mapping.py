"""Which attribute of an upstream becomes which value of ours, with what authority.

Owns the mapping rules (the catalogue's defaults, overridden by a provider's rows), what a record says under them, and
the merging of layers by ownership. How values are written is `transforms`', how they become a document `documents`',
how a record is stored `records`'. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from .. import attributes as catalogue
from ..attributes import SCHEMA_VERSION, ResourceType
from ..errors import ValidationFailed
from .documents import (
    CORE,
    MANAGER,
    NOUN,
    PARENT,
    Values,
    differing,
    flattened,
    index_rows,
    keys,
    nested,
    parse,
    render_extras,
    said,
    stored_extras,
)
from .records import Encoded, decode_record, encode_record, member_attribute
from .transforms import (
    FORMS,
    TRANSFORMS,
    WHOLE_RECORD,
    Convert,
    Said,
    Transform,
    claimed_name,
    filetime,
    guid,
    proven_email,
    sid,
    text,
    vouched,
)

__all__ = [
    "CORE",
    "MANAGER",
    "NOUN",
    "PARENT",
    "SIGN_IN_KINDS",
    "TYPE_OF_KIND",
    "Encoded",
    "Layer",
    "Mapping_",
    "Values",
    "check_rows",
    "compiled",
    "decode_record",
    "differing",
    "encode_record",
    "filetime",
    "flattened",
    "guid",
    "index_rows",
    "mapped",
    "member_attribute",
    "merged",
    "nested",
    "parse",
    "render_extras",
    "said",
    "sid",
    "stored_extras",
    "vouched",
]

TYPE_OF_KIND: dict[str, ResourceType] = {"user": "User", "group": "Group", "unit": "OrganizationalUnit"}
AUTHORITIES = ("owns", "fills", "never")
SIGN_IN_KINDS = frozenset({"oidc"})
"""Kinds of providers that tell of a person only when he signs in, in claims. Unless a mapping says otherwise they fill
what nobody owns, they decide nothing about who exists, and what they say is read anew at each sign-in."""
SERVICE_ACCOUNT = "ServiceAccount"
"""The `userType` no upstream can give."""
_CLAIMS = {
    "name.givenName": "given_name",
    "name.familyName": "family_name",
    "name.middleName": "middle_name",
    "displayName": "name",
    "nickName": "nickname",
    "profileUrl": "profile",
    "locale": "locale",
    "timezone": "zoneinfo",
    'phoneNumbers[type eq "work"].value': "phone_number",
    'photos[type eq "photo"].value': "picture",
    'addresses[type eq "work"].streetAddress': "address.street_address",
    'addresses[type eq "work"].locality': "address.locality",
    'addresses[type eq "work"].region': "address.region",
    'addresses[type eq "work"].postalCode': "address.postal_code",
    'addresses[type eq "work"].country': "address.country",
}
"""What the standard claims (OpenID Connect Core 5.1) fill, by flat key; and an address that is vouched for."""
_EMAIL = 'emails[type eq "work"].value'


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a mapping: which upstream attribute becomes which flat key, how, and with what authority."""

    source: str
    to: str
    apply: Transform
    args: Mapping[str, Any]
    convert: Convert | None
    many: bool
    owns: bool
    default: Any
    always: bool
    """The transform looks at more than its own source (`user_name`), so it runs even when that is absent."""
    plain: bool
    """Nothing but the first value as text, as most are."""


@dataclass(frozen=True, slots=True)
class Mapping_:
    """A provider's compiled mapping, per resource type; `digest` changes with its meaning."""

    digest: bytes
    rules: Mapping[str, tuple[Rule, ...]]
    owned: Mapping[str, frozenset[str]]
    """Flat keys this provider owns, whether or not a record has a value."""


def compiled(rows: Sequence[Mapping[str, Any]], kind: str = "ldap") -> Mapping_:
    """The default mapping of a kind of provider with a provider's rows laid over it, keyed by `to`."""
    return _compiled(orjson.dumps(list(rows), option=orjson.OPT_SORT_KEYS), kind in SIGN_IN_KINDS)


@lru_cache(maxsize=512)
def _compiled(text: bytes, claims: bool) -> Mapping_:
    rows: list[dict[str, Any]] = orjson.loads(text)
    authority = "fills" if claims else "owns"
    rules: dict[str, tuple[Rule, ...]] = {}
    for resource_type in TYPE_OF_KIND.values():
        lines = _claimed(resource_type) if claims else _catalogued(resource_type)
        for row in rows:
            if row.get("to") in keys(resource_type):
                lines.pop(row["to"], None)
                if row.get("authority", authority) != "never":
                    lines[row["to"]] = _rule({"authority": authority, **row}, keys(resource_type)[row["to"]])
        rules[resource_type] = tuple(lines.values())
    digest = blake2b(text, digest_size=15, salt=bytes([SCHEMA_VERSION]), person=b"claims" if claims else b"")
    owned = {name: frozenset(rule.to for rule in found if rule.owns) for name, found in rules.items()}
    if not claims:
        owned["User"] |= {MANAGER}
        owned["OrganizationalUnit"] |= {PARENT}
    return Mapping_(digest.digest(), rules, owned)


def _catalogued(resource_type: str) -> dict[str, Rule]:
    """What a directory owns: every attribute of the catalogue, by its name in Active Directory."""
    lines: dict[str, Rule] = {}
    for line in catalogue.on(resource_type):  # type: ignore[arg-type]
        path = line.path_on(resource_type)  # type: ignore[arg-type]
        if line.ad is None or path is None or line.quiet or line.on_request or line.transform == "refer":
            continue
        lines[path] = Rule(
            source=line.ad.lower(),
            to=path,
            apply=TRANSFORMS[line.transform],
            args={},
            convert=FORMS.get(line.form),
            many=line.many,
            owns=True,
            default=None,
            always=line.transform in WHOLE_RECORD,
            plain=line.transform == "first" and line.form not in FORMS and not line.many,
        )
    return lines


def _claimed(resource_type: str) -> dict[str, Rule]:
    """What a sign-in fills: people's values, by the standard claims."""
    if resource_type != "User":
        return {}
    first = TRANSFORMS["first"]
    lines = {"userName": Rule("sub", "userName", claimed_name, {}, None, False, False, None, True, False)}
    lines[_EMAIL] = Rule("email", _EMAIL, proven_email, {}, None, False, False, None, False, False)
    for path, claim in _CLAIMS.items():
        lines[path] = Rule(claim, path, first, {}, None, False, False, None, False, True)
    return lines


def _rule(row: Mapping[str, Any], line: catalogue.Attribute) -> Rule:
    transform = row.get("transform") or {"name": "all" if line.many else "first"}
    source = str(row.get("from") or "").lower()
    convert = _convert(line, source) if transform["name"] in ("first", "all") else None
    return Rule(
        source=source,
        to=row["to"],
        apply=TRANSFORMS[transform["name"]],
        args=transform.get("args") or {},
        convert=convert,
        many=line.many,
        owns=row.get("authority", "owns") == "owns",
        default=row.get("default"),
        always=transform["name"] in WHOLE_RECORD,
        plain=transform["name"] == "first" and convert is None and not line.many,
    )


def _convert(line: catalogue.Attribute, source: str) -> Convert | None:
    """How values of `source` become the line's form. Text of sixteen letters is no GUID unless its source is one."""
    convert = FORMS.get(line.form)
    if convert is None or line.form not in ("guid", "sid") or source.endswith(line.form):
        return convert
    whole = convert
    return lambda value: whole(value) if isinstance(value, bytes) else text(value)


def check_rows(rows: Any) -> list[dict[str, Any]]:
    """Validate a provider's mapping rows. Raises ValidationFailed naming each row that cannot work."""
    if not isinstance(rows, list):
        raise ValidationFailed(errors={"attribute_mapping": ["A mapping is a list of rows."]})
    lines = {
        path: line
        for resource_type in TYPE_OF_KIND.values()
        for path, line in keys(resource_type).items()
        if not line.read_only
    }
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


def _complaint(row: Any, lines: Mapping[str, catalogue.Attribute]) -> str | None:
    """What is wrong with one row, if anything."""
    if not isinstance(row, dict) or set(row) - {"from", "to", "transform", "authority", "default"}:
        return "A row is an object of from, to, transform, authority and default."
    to = row.get("to")
    if not isinstance(to, str) or to not in lines or to in (MANAGER, PARENT, "active"):
        return "`to` must be an attribute path of the catalogue that a mapping may write."
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


def _textual(line: catalogue.Attribute) -> bool:
    return line.form not in ("integer", "boolean", "binary")


def _suits(line: catalogue.Attribute, value: Any) -> bool:
    """Whether this JSON value can stand under the line's path."""
    if line.many:
        return isinstance(value, list) and all(_suits_once(line, item) for item in value)
    return _suits_once(line, value)


def _suits_once(line: catalogue.Attribute, value: Any) -> bool:
    if line.form == "boolean":
        return isinstance(value, bool)
    if line.form == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, str)


def _wanted(line: catalogue.Attribute) -> str:
    form = {"boolean": "true or false", "integer": "a whole number"}.get(line.form, "a string")
    return f"a list, each item {form}" if line.many else form


def mapped(mapping: Mapping_, resource_type: str, attributes: Said) -> Values:
    """What a record says, in our keys. Absent values are absent."""
    values: Values = {}
    for rule in mapping.rules[resource_type]:
        found = attributes.get(rule.source)
        if not found and not rule.always:
            if rule.default is not None:
                values[rule.to] = rule.default
            continue
        value: Any
        if rule.plain and found and (value := text(found[0])):
            values[rule.to] = value
            continue
        if rule.convert is not None and found:
            value = [item for item in map(rule.convert, found) if item is not None]
        else:
            value = rule.apply(found or (), attributes, rule.args)
        if isinstance(value, list) is not rule.many:
            value = (value[0] if value else None) if isinstance(value, list) else value and [value]
        if value is None or value in ("", []):
            value = rule.default
        if value is not None:
            values[rule.to] = value
    if values.get("userType") == SERVICE_ACCOUNT:
        del values["userType"]
    return values


class Layer(NamedTuple):
    """What one link contributes, highest rank first in a stack."""

    mapping: Mapping_
    values: Values


def merged(resource_type: str, layers: Sequence[Layer], local: Values, pins: Values) -> Values:
    """The effective values: a pin; else the highest link that owns; else what was written here; else the highest link
    that fills."""
    if len(layers) == 1 and not local and not pins:
        return layers[0].values
    owned, decided = owned_values(resource_type, layers)
    result = {**owned, **{key: value for key, value in local.items() if key not in decided}}
    for key, value in filling(resource_type, layers, local, decided).items():
        result[key] = value
    result.update(pins)
    return result


def owned_values(resource_type: str, layers: Sequence[Layer]) -> tuple[Values, set[str]]:
    """What the links own, and all the keys that they do: the highest decides, by saying nothing too."""
    values: Values = {}
    decided: set[str] = set()
    for layer in layers:
        owned = layer.mapping.owned[resource_type]
        for key, value in layer.values.items():
            if key in owned and key not in decided:
                values[key] = value
        decided |= owned
    return values, decided


def filling(resource_type: str, layers: Sequence[Layer], local: Values, decided: set[str]) -> Values:
    """What links fill in where nobody owns the value and nothing was written here."""
    values: Values = {}
    for layer in layers:
        owned = layer.mapping.owned[resource_type]
        for key, value in layer.values.items():
            if key not in owned and key not in decided and key not in values and not _written(local, key):
                values[key] = value
    return values


def _written(local: Values, key: str) -> bool:
    """Whether a flat key has a value among what was written here, where typed values stand in lists."""
    if key in local:
        return True
    _, attribute, kind, sub = parse(key)
    if kind is None:
        return False
    return any(
        isinstance(item, Mapping) and item.get("type") == kind and sub in item for item in local.get(attribute, ())
    )
