"""Which attribute of an upstream becomes which value of ours, with what authority.

Owns the mapping rules (the catalogue's defaults, overridden by a provider's rows, which may name what the tenant has
declared as well), what a record says under them, and the merging of layers by ownership. How values are written is
`transforms`', what a declared attribute may have `declared`'s, how they become a document `documents`', how a record is
stored `records`'; whether rows can work is asked by `rules`. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from .. import attributes as catalogue
from ..attributes import CUSTOM, SCHEMA_VERSION, ResourceType
from . import declared
from .declared import Declarations, Declared
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
    "names_declared",
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
    line: Declared | None = None
    """What the tenant has declared of the attribute, where it is not the catalogue's."""


@dataclass(frozen=True, slots=True)
class Mapping_:
    """A provider's compiled mapping, per resource type; `digest` changes with its meaning."""

    digest: bytes
    rules: Mapping[str, tuple[Rule, ...]]
    owned: Mapping[str, frozenset[str]]
    """Flat keys this provider owns, whether or not a record has a value."""
    bound: Mapping[str, tuple[Declared, ...]]
    """What it writes whose values are one resource's alone, or never change."""


def compiled(rows: Sequence[Mapping[str, Any]], kind: str = "ldap", known: Declarations | None = None) -> Mapping_:
    """The default mapping of a kind of provider with a provider's rows laid over it, keyed by `to`. `known`: what the
    tenant has declared."""
    named = {row.get("to") for row in rows} if known else ()
    own = tuple(line for line in (known or {}).values() if line.key in named)
    return _compiled(orjson.dumps(list(rows), option=orjson.OPT_SORT_KEYS), kind in SIGN_IN_KINDS, own)


def names_declared(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a provider's rows fill something that its tenant has declared."""
    return any(str(row.get("to")).startswith(_OWN) for row in rows)


_OWN = tuple(f"{urn}:" for urn in CUSTOM.values())


@lru_cache(maxsize=512)
def _compiled(text: bytes, claims: bool, own: tuple[Declared, ...]) -> Mapping_:
    rows: list[dict[str, Any]] = orjson.loads(text)
    authority = "fills" if claims else "owns"
    rules: dict[str, tuple[Rule, ...]] = {}
    for resource_type in TYPE_OF_KIND.values():
        lines = _claimed(resource_type) if claims else _catalogued(resource_type)
        known: dict[str, catalogue.Attribute | Declared] = {**keys(resource_type)}
        known |= {line.key: line for line in own if line.resource_type == resource_type}
        for row in rows:
            if row.get("to") in known:
                lines.pop(row["to"], None)
                if row.get("authority", authority) != "never":
                    lines[row["to"]] = _rule({"authority": authority, **row}, known[row["to"]])
        rules[resource_type] = tuple(lines.values())
    digest = blake2b(text, digest_size=15, salt=bytes([SCHEMA_VERSION]), person=b"claims" if claims else b"")
    for line in own:
        digest.update(line.id.encode())  # one that is declared anew under the same name is another
    bound = {
        name: tuple(rule.line for rule in found if rule.line and (rule.line.unique or rule.line.immutable))
        for name, found in rules.items()
    }
    owned = {name: frozenset(rule.to for rule in found if rule.owns) for name, found in rules.items()}
    if not claims:
        owned["User"] |= {MANAGER}
        owned["OrganizationalUnit"] |= {PARENT}
    return Mapping_(digest.digest(), rules, owned, bound)


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


def _rule(row: Mapping[str, Any], line: catalogue.Attribute | Declared) -> Rule:
    transform = row.get("transform") or {"name": "all" if line.many else "first"}
    source = str(row.get("from") or "").lower()
    own = line if isinstance(line, Declared) else None
    convert = None
    if not isinstance(line, Declared) and transform["name"] in ("first", "all"):
        convert = _convert(line, source)
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
        plain=transform["name"] == "first" and convert is None and not line.many and own is None,
        line=own,
    )


def _convert(line: catalogue.Attribute, source: str) -> Convert | None:
    """How values of `source` become the line's form. Text of sixteen letters is no GUID unless its source is one."""
    convert = FORMS.get(line.form)
    if convert is None or line.form not in ("guid", "sid") or source.endswith(line.form):
        return convert
    whole = convert
    return lambda value: whole(value) if isinstance(value, bytes) else text(value)


def mapped(mapping: Mapping_, resource_type: str, attributes: Said, refused: list[str] | None = None) -> Values:
    """What a record says, in our keys. Absent values are absent. `refused` is told of values that what the tenant has
    declared cannot have."""
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
        if rule.line is not None:
            value = _declared(rule, rule.line, found or (), attributes, refused)
        elif rule.convert is not None and found:
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


def _declared(
    rule: Rule, line: Declared, found: Sequence[str | bytes], attributes: Said, refused: list[str] | None
) -> Any:
    """What an attribute that the tenant has declared gets of a record, each value by its type. A constant has it."""
    if rule.apply is TRANSFORMS["constant"]:
        return rule.apply(found, attributes, rule.args)
    if rule.apply is not TRANSFORMS["first"] and rule.apply is not TRANSFORMS["all"]:
        made = rule.apply(found, attributes, rule.args)
        found = () if made is None else declared.items(made)
    taken = []
    for value in found if line.many else found[:1]:
        try:
            if value not in ("", b""):
                taken.append(declared.typed(line, value))
        except ValueError as wrong:
            if refused is not None:
                refused.append(f"{line.name}: {wrong}")
    return taken


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
