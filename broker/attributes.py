"""The attribute catalogue: one line per attribute, in three languages.

A line says our name, the SCIM path and the AD name; the default mapping, the filter compiler, the value index, the SCIM
extension schemas and the quiet values all come from it. What nobody declared is kept verbatim in `Link.record` and
rendered as the extension's typed overflow.

A SCIM path here is a flat key: `userName`, `name.givenName`, `emails[type eq "work"].value`, `<urn>:department`. Flat
keys are the grain of ownership; `directory.mapping` nests them into a document.
"""

from __future__ import annotations

import unicodedata
from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal

CORE_USER = "urn:ietf:params:scim:schemas:core:2.0:User"
CORE_GROUP = "urn:ietf:params:scim:schemas:core:2.0:Group"
ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
AD_USER = "urn:scaikey:params:scim:schemas:extension:activedirectory:1.0:User"
AD_GROUP = "urn:scaikey:params:scim:schemas:extension:activedirectory:1.0:Group"
SCAIKEY_GROUP = "urn:scaikey:params:scim:schemas:extension:scaikey:1.0:Group"
UNIT = "urn:scaikey:params:scim:schemas:core:1.0:OrganizationalUnit"
AGENT = "urn:ietf:params:scim:schemas:core:2.0:Agent"
CUSTOM: Mapping[str, str] = {
    "User": "urn:ietf:params:scim:schemas:extension:scaikey:2.0:User",
    "Group": "urn:ietf:params:scim:schemas:extension:scaikey:2.0:Group",
}
"""The extension of each type that holds what a tenant has declared itself: one URN, another content in every tenant."""

ResourceType = Literal["User", "Group", "OrganizationalUnit", "Agent"]
Form = Literal["string", "integer", "decimal", "boolean", "binary", "dateTime", "guid", "sid", "dn"]
"""How a value is written: `decimal` is an int64 as text (JSON numbers lose it), `guid`, `sid` and `binary` start as
octets."""

USERS = frozenset[ResourceType]({"User"})
GROUPS = frozenset[ResourceType]({"Group"})
UNITS = frozenset[ResourceType]({"OrganizationalUnit"})
AGENTS = frozenset[ResourceType]({"Agent"})
PRINCIPALS = USERS | GROUPS
ALL = USERS | GROUPS | UNITS


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute of the catalogue.

    `path` is a flat SCIM key; `{ad}` in it stands for the AD extension of the resource type at hand. `number`, where
    given, is the
    attribute's stable number in the value index, which makes it filterable through an index. `column` is the hot
    column that
    holds it. `transform` names how the AD values become the SCIM value (see `directory.mapping`). `quiet`: kept
    verbatim, but its
    change raises no version and no event.
    """

    name: str
    path: str | None
    ad: str | None
    on: frozenset[ResourceType]
    form: Form = "string"
    many: bool = False
    case_exact: bool = False
    read_only: bool = False
    number: int | None = None
    column: str | None = None
    transform: str = "first"
    quiet: bool = False
    on_request: bool = False

    def path_on(self, resource_type: ResourceType) -> str | None:
        if self.path is None:
            return None
        return self.path.replace("{ad}", AD_GROUP if resource_type == "Group" else AD_USER)


def _ad(
    name: str,
    ad: str,
    form: Form = "string",
    on: frozenset[ResourceType] = PRINCIPALS,
    *,
    many: bool = False,
    case_exact: bool = False,
    number: int | None = None,
    quiet: bool = False,
    on_request: bool = False,
) -> Attribute:
    """An attribute of the AD extension, under its own AD name."""
    return Attribute(
        name,
        f"{{ad}}:{ad}",
        ad,
        on,
        form,
        many,
        case_exact or form in ("guid", "sid", "binary"),
        number=number,
        transform="all" if many else "first",
        quiet=quiet,
        on_request=on_request,
    )


def _quiet(ad: str) -> Attribute:
    """A value that changes without meaning: in the record only."""
    return Attribute(ad, None, ad, ALL, quiet=True)


def _work(name: str, ad: str, sub: str) -> Attribute:
    return Attribute(name, f'addresses[type eq "work"].{sub}', ad, USERS)


CATALOGUE: tuple[Attribute, ...] = (
    Attribute("user_name", "userName", "userPrincipalName", USERS, column="name", transform="user_name"),
    Attribute("external_id", "externalId", "objectGUID", ALL, "guid", case_exact=True, column="external_id"),
    Attribute("active", "active", None, USERS, "boolean", column="active"),
    Attribute("display_name", "displayName", "displayName", USERS, column="display_name", transform="display_name"),
    Attribute("group_name", "displayName", "cn", GROUPS, column="name", transform="group_name"),
    Attribute("unit_name", "displayName", "ou", UNITS, column="name", transform="group_name"),
    Attribute("user_type", "userType", None, USERS, column="user_type"),
    Attribute("given_name", "name.givenName", "givenName", USERS),
    Attribute("family_name", "name.familyName", "sn", USERS),
    Attribute("middle_name", "name.middleName", "middleName", USERS),
    Attribute("honorific_suffix", "name.honorificSuffix", "generationQualifier", USERS),
    Attribute("honorific_prefix", "name.honorificPrefix", "personalTitle", USERS),
    Attribute("formatted_name", "name.formatted", None, USERS),
    Attribute("nick_name", "nickName", None, USERS),
    Attribute("profile_url", "profileUrl", "wWWHomePage", USERS, case_exact=True),
    Attribute("title", "title", "title", USERS),
    Attribute("preferred_language", "preferredLanguage", "preferredLanguage", USERS),
    Attribute("locale", "locale", None, USERS),
    Attribute("timezone", "timezone", None, USERS),
    Attribute("photo", 'photos[type eq "photo"].value', None, USERS, case_exact=True),
    Attribute("email", 'emails[type eq "work"].value', "mail", USERS, number=1, transform="first"),
    Attribute("phone", 'phoneNumbers[type eq "work"].value', "telephoneNumber", USERS),
    Attribute("mobile", 'phoneNumbers[type eq "mobile"].value', "mobile", USERS),
    Attribute("fax", 'phoneNumbers[type eq "fax"].value', "facsimileTelephoneNumber", USERS),
    Attribute("pager", 'phoneNumbers[type eq "pager"].value', "pager", USERS),
    Attribute("home_phone", 'phoneNumbers[type eq "home"].value', "homePhone", USERS),
    _work("street", "streetAddress", "streetAddress"),
    _work("city", "l", "locality"),
    _work("region", "st", "region"),
    _work("postal_code", "postalCode", "postalCode"),
    _work("country", "c", "country"),
    Attribute("employee_number", f"{ENTERPRISE}:employeeNumber", "employeeID", USERS, number=3),
    Attribute("department", f"{ENTERPRISE}:department", "department", USERS),
    Attribute("division", f"{ENTERPRISE}:division", "division", USERS),
    Attribute("organization", f"{ENTERPRISE}:organization", "company", USERS),
    Attribute("cost_center", f"{ENTERPRISE}:costCenter", None, USERS),
    Attribute("manager", f"{ENTERPRISE}:manager.value", "manager", USERS, "dn", column="manager_id", transform="refer"),
    _ad("object_guid", "objectGUID", "guid"),
    _ad("object_sid", "objectSid", "sid", number=11),
    _ad("sam_account_name", "sAMAccountName", number=12),
    _ad("user_principal_name", "userPrincipalName", on=USERS, number=13),
    _ad("distinguished_name", "distinguishedName", "dn"),
    Attribute("manager_dn", "{ad}:managerDN", "manager", USERS, "dn"),
    _ad("primary_group_id", "primaryGroupID", "integer", USERS),
    _ad("user_account_control", "userAccountControl", "integer", USERS),
    _ad("group_type", "groupType", "integer"),
    _ad("account_expires", "accountExpires", "decimal", USERS),
    _ad("pwd_last_set", "pwdLastSet", "decimal", USERS),
    _ad("last_logon_timestamp", "lastLogonTimestamp", "decimal", USERS, quiet=True),
    _ad("usn_changed", "uSNChanged", "decimal", quiet=True),
    _ad("proxy_addresses", "proxyAddresses", many=True, case_exact=True, number=15),
    _ad("service_principal_name", "servicePrincipalName", many=True, case_exact=True, number=16),
    _ad("other_telephone", "otherTelephone", many=True, case_exact=True),
    _ad("description", "description", many=True, case_exact=True),
    _ad("thumbnail_photo", "thumbnailPhoto", "binary", USERS, on_request=True),
    _ad("user_certificate", "userCertificate", "binary", USERS, many=True, on_request=True),
    _ad("member_of_dn", "memberOfDN", "dn", many=True, on_request=True),
    *(_ad(f"extension_attribute_{n}", f"extensionAttribute{n}") for n in range(1, 16)),
    Attribute("unit_dn", "dn", "distinguishedName", UNITS, "dn"),
    Attribute("unit_ou", "ou", "ou", UNITS),
    Attribute("unit_description", "description", "description", UNITS, many=True, case_exact=True, transform="all"),
    Attribute("unit_managed_by", "managedBy", "managedBy", UNITS, "dn"),
    Attribute("unit_parent", "parent.value", None, UNITS, column="parent_id", transform="refer"),
    Attribute("agent_user_name", "agentUserName", None, AGENTS, column="name"),
    Attribute("agent_name", "name", None, AGENTS),
    Attribute("agent_external_id", "externalId", None, AGENTS, case_exact=True, column="external_id"),
    Attribute("agent_active", "active", None, AGENTS, "boolean", column="active"),
    Attribute("agent_display_name", "displayName", None, AGENTS, column="display_name"),
    Attribute("agent_description", "description", None, AGENTS),
    Attribute("agent_owners", "owners.value", None, AGENTS, many=True, case_exact=True, number=20),
    Attribute("token_name", f"{SCAIKEY_GROUP}:tokenName", None, GROUPS, read_only=True, column="token_name"),
    _quiet("memberOf"),
    _quiet("lastLogon"),
    _quiet("lastLogoff"),
    _quiet("logonCount"),
    _quiet("badPwdCount"),
    _quiet("badPasswordTime"),
    _quiet("whenChanged"),
    _quiet("uSNCreated"),
    _quiet("dSCorePropagationData"),
    _quiet("modifyTimestamp"),
    _quiet("entryCSN"),
    _quiet("contextCSN"),
)

SCHEMA_VERSION = 1
"""Part of every record's digest: raise it when the catalogue maps a record to different values."""

QUIET: frozenset[str] = frozenset(line.ad.lower() for line in CATALOGUE if line.quiet and line.ad)
"""Lower-cased upstream names of the quiet attributes."""


def on(resource_type: ResourceType) -> Iterator[Attribute]:
    """The lines of one resource type that have a SCIM path."""
    return (line for line in CATALOGUE if resource_type in line.on and line.path is not None)


def by_path(resource_type: ResourceType) -> Mapping[str, Attribute]:
    """Flat SCIM key to its line."""
    return {path: line for line in on(resource_type) if (path := line.path_on(resource_type)) is not None}


def value_key(value: object, *, exact: bool) -> str:
    """The form in which a value of any type stands in the value index: equal values have equal keys."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"{Decimal(str(value)).normalize() + 0:f}"
        case datetime():
            try:
                return value.astimezone(UTC).isoformat()
            except OverflowError:
                return value.isoformat()  # at either end of time, a date in its own zone alone: nothing kept has it
    return str(value) if exact else fold(str(value))


def alike(type_: str, one: object, other: object, *, exact: bool) -> bool:
    """Whether two values of a SCIM type, or lists of them in any order, are the same, however they are written."""
    first, second = (value if isinstance(value, list) else [value] for value in (one, other))
    return sorted(_sense(type_, item, exact) for item in first) == sorted(_sense(type_, item, exact) for item in second)


def _sense(type_: str, value: object, exact: bool) -> str:
    if type_ == "dateTime" and isinstance(value, str):
        return value_key(datetime.fromisoformat(value), exact=exact)
    if type_ == "binary" and isinstance(value, str):
        return b64decode(value).hex()
    return value_key(value, exact=exact)


_FARTHEST = timedelta(hours=16)


def is_moment(text: str) -> bool:
    """Whether a date and time can be compared with others, wherever they were said: it names its time zone, one that
    the database knows as well, and is a date in every zone. Raises ValueError for what is no date at all."""
    moment = datetime.fromisoformat(text)
    offset = moment.utcoffset()
    try:
        return offset is not None and abs(offset) < _FARTHEST and bool(moment.astimezone(UTC))
    except OverflowError:
        return False


def fold(text: str) -> str:
    """The form in which names are compared: case-folded NFKC, so that `ß`, `SS` and decomposed letters meet."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
