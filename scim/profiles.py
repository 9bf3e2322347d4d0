"""What a receiver can do, as data: profiles by name, and what a receiver says of itself.

Owns the profiles with their published limits (`docs/push.md` names the sources) and the reading of
ServiceProviderConfig, ResourceTypes and Schemas into capabilities. Asking a receiver is `scim.client`'s, acting on
the answer `scim.push`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from broker.attributes import CORE_GROUP, CORE_USER, ENTERPRISE

_MOST_OPERATIONS, _MOST_PAYLOAD, _LEAST_PAYLOAD = 500, 4 * 1024 * 1024, 16 * 1024
_ALWAYS = frozenset({"schemas", "id", "externalid", "username", "displayname", "active"})
"""What no receiver is spared: without them nobody is found, named or disabled there."""


@dataclass(frozen=True, slots=True)
class Profile:
    """How one kind of receiver is spoken to."""

    put: bool = True
    bulk_operations: int = 0
    """Operations in one /Bulk request; 0: it offers none."""
    bulk_payload: int = 0
    member_changes: int = 100
    """Members one PATCH may add or remove."""
    removal: Literal["path", "value"] = "path"
    """Whether a member is removed by a path that names it, or by a value."""
    external_id: Literal["replace", "add"] = "replace"
    """The PATCH operation that sets the externalId of a group."""
    patch_operations: int = 0
    """Operations one PATCH of a person may have; 0: any number."""
    group_operations: int = 0
    """Operations one PATCH of a group may have; 0: any number."""
    filters: frozenset[str] = frozenset({"externalId", "userName", "displayName"})
    """Attributes by which it can be searched."""
    searches: bool = True
    """Whether it filters and counts; one that does not is asked for everybody, and searched here."""
    disjunctions: bool = False
    """Whether a filter may hold `or`."""
    paging: Literal["index", "cursor", "none"] = "index"
    page: int = 100
    excludes: bool = True
    """Whether it understands `excludedAttributes`."""
    attributes: frozenset[str] | None = None
    """Lower-case flat names it takes of a person, and in extensions; None: any."""
    one_value: bool = False
    """Multi-valued attributes hold one value at most."""
    nested_groups: bool = True
    lists_members: bool = False
    """Whether it lists who is in which group, as `GroupMember` resources."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.lower().split())


_AWS_ATTRIBUTES = _names(
    "userName name name.formatted name.familyName name.givenName name.middleName name.honorificPrefix "
    "name.honorificSuffix displayName nickName profileUrl title userType preferredLanguage locale timezone active "
    "emails emails.type emails.value emails.primary phoneNumbers phoneNumbers.type phoneNumbers.value "
    "phoneNumbers.primary addresses addresses.type addresses.primary addresses.formatted addresses.streetAddress "
    "addresses.locality addresses.region addresses.postalCode addresses.country "
    f"{ENTERPRISE} {ENTERPRISE}:employeeNumber {ENTERPRISE}:costCenter {ENTERPRISE}:organization "
    f"{ENTERPRISE}:division {ENTERPRISE}:department {ENTERPRISE}:manager {ENTERPRISE}:manager.value"
)

PROFILES: Mapping[str, Profile] = {
    "auto": Profile(),
    "generic": Profile(),
    "aws_iam_identity_center": Profile(
        member_changes=100,
        removal="value",
        paging="cursor",
        page=100,
        excludes=False,
        attributes=_AWS_ATTRIBUTES,
        one_value=True,
        nested_groups=False,
    ),
    "google_cloud_identity": Profile(
        put=False,
        member_changes=1,
        external_id="add",
        patch_operations=20,
        group_operations=2,
        paging="none",
    ),
}


def of(name: str, capabilities: Mapping[str, Any]) -> Profile:
    """The profile of that name; `auto` is what the receiver says of itself."""
    profile = PROFILES[name]
    if name != "auto" or not capabilities:
        return profile
    bulk = capabilities.get("bulk")
    attributes = capabilities.get("attributes")
    return replace(
        profile,
        bulk_operations=min(bulk["operations"], _MOST_OPERATIONS) if bulk else 0,
        bulk_payload=min(bulk["payload"], _MOST_PAYLOAD) if bulk else 0,
        searches=capabilities.get("searches", True),
        disjunctions=bool(capabilities.get("filter")),
        paging="cursor" if capabilities.get("cursor") else "index",
        page=min(capabilities.get("max_results") or profile.page, 200),
        attributes=None if attributes is None else frozenset(attributes),
        nested_groups=capabilities.get("nested_groups", True),
        lists_members="GroupMember" in capabilities.get("types", ()),
    )


def flattens(nested_groups: str, profile: Profile) -> bool:
    """Whether members of groups in groups are sent as members of the outer ones."""
    return nested_groups == "flatten" or (nested_groups == "auto" and not profile.nested_groups)


def capabilities(config: Any, schemas: Any, types: Any) -> dict[str, Any]:
    """What a receiver's discovery documents come to; what they do not say, or say oddly, is left out."""
    said: dict[str, Any] = {}
    config = config if isinstance(config, dict) else {}
    bulk, search = _supported(config, "bulk"), _supported(config, "filter")
    operations, payload = _number(bulk, "maxOperations"), _number(bulk, "maxPayloadSize")
    if operations > 1 and payload >= _LEAST_PAYLOAD:
        said["bulk"] = {"operations": operations, "payload": payload}
    if search:
        said["filter"] = True
        if most := _number(search, "maxResults"):
            said["max_results"] = most
    unsearched = config.get("filter")
    if isinstance(unsearched, dict) and unsearched.get("supported") is False:
        said["searches"] = False
    pagination = config.get("pagination")
    if isinstance(pagination, dict) and pagination.get("cursor") is True:
        said["cursor"] = True
    listed = {one["id"]: one for one in _resources(schemas) if isinstance(one.get("id"), str)}
    if (user := listed.get(CORE_USER)) and (core := sorted(_flat(user, ""))):
        said["attributes"] = core + [
            name
            for urn, schema in sorted(listed.items())
            if urn not in (CORE_USER, CORE_GROUP)
            for name in (urn.lower(), *sorted(_flat(schema, f"{urn}:")))
        ]
    if (group := listed.get(CORE_GROUP)) and not _takes_groups(group):
        said["nested_groups"] = False
    named = sorted(name for one in _resources(types) if isinstance(name := one.get("name"), str) and len(name) < 100)
    if named:
        said["types"] = named[:50]
    return said


def fitting(document: Mapping[str, Any], profile: Profile) -> tuple[dict[str, Any], list[str]]:
    """The person or group as the receiver takes it, and the names of what was left out."""
    if profile.attributes is None and not profile.one_value:
        return dict(document), []
    kept: dict[str, Any] = {}
    left: list[str] = []
    for name, value in document.items():
        if ":" not in name:
            _fit(kept, name, name, value, profile, left)
            continue
        if not _takes(profile, name):
            left.append(name)
            continue
        extension: dict[str, Any] = {}
        for inner, inner_value in value.items():
            _fit(extension, inner, f"{name}:{inner}", inner_value, profile, left)
        if extension:
            kept[name] = extension
    kept["schemas"] = [urn for urn in document["schemas"] if urn in (CORE_USER, CORE_GROUP) or urn in kept]
    return kept, sorted(set(left))


def _fit(into: dict[str, Any], name: str, path: str, value: Any, profile: Profile, left: list[str]) -> None:
    if not _takes(profile, path):
        left.append(path)
    elif isinstance(value, dict):
        if inner := _fit_subs(path, value, profile, left):
            into[name] = inner
    elif isinstance(value, list) and name != "schemas":
        items = [_fit_subs(path, item, profile, left) if isinstance(item, dict) else item for item in value]
        if profile.one_value and len(items) > 1:
            first = next((at for at, item in enumerate(value) if isinstance(item, dict) and item.get("primary")), 0)
            items = items[first : first + 1]
            left.append(f"{path}: all but one")
        if items := [item for item in items if item not in ({}, None)]:
            into[name] = items
    else:
        into[name] = value


def _fit_subs(path: str, value: Mapping[str, Any], profile: Profile, left: list[str]) -> dict[str, Any]:
    known = profile.attributes
    if known is None or not any(name.startswith(f"{path.lower()}.") for name in known):
        return dict(value)
    kept = {sub: inner for sub, inner in value.items() if f"{path}.{sub}".lower() in known}
    left.extend(f"{path}.{sub}" for sub in value if sub not in kept)
    return kept


def _takes(profile: Profile, path: str) -> bool:
    lower = path.lower()
    return profile.attributes is None or lower in _ALWAYS or lower in profile.attributes


def _flat(schema: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """The lower-case names of what a schema lets us write, sub-attributes included."""
    for one in _dicts(schema.get("attributes")):
        name = one.get("name")
        if not isinstance(name, str) or one.get("mutability") == "readOnly":
            continue
        yield f"{prefix}{name}".lower()
        for sub in _dicts(one.get("subAttributes")):
            if isinstance(sub.get("name"), str) and (sub.get("mutability") != "readOnly" or sub["name"] == "value"):
                yield f"{prefix}{name}.{sub['name']}".lower()


def _takes_groups(group: Mapping[str, Any]) -> bool:
    """Whether members may be groups: a schema that names their types leaves `Group` out where they may not."""
    for one in _dicts(group.get("attributes")):
        if one.get("name") == "members":
            for sub in _dicts(one.get("subAttributes")):
                named = sub.get("canonicalValues") if sub.get("name") == "type" else sub.get("referenceTypes")
                if isinstance(named, list) and named and sub.get("name") in ("type", "$ref"):
                    return "Group" in named
    return True


def _supported(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    feature = config.get(name)
    return feature if isinstance(feature, dict) and feature.get("supported") is True else {}


def _number(feature: Mapping[str, Any], name: str) -> int:
    value = feature.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31 else 0


def _resources(answer: Any) -> list[dict[str, Any]]:
    return _dicts(answer.get("Resources") if isinstance(answer, dict) else answer)


def _dicts(value: Any) -> list[dict[str, Any]]:
    listed: Sequence[Any] = value if isinstance(value, list) else ()
    return [one for one in listed if isinstance(one, dict)]
