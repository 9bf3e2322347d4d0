"""What our SCIM resources are: models built from RFC 7643 and the attribute catalogue, and how we describe ourselves.

Owns the models of the three resource types, the provider scim2-server works with, what ServiceProviderConfig announces,
and reading a client's JSON through a model. What SCIM requires of a resource is scim2-models'; which attributes our
extensions have is `broker.attributes.CATALOGUE`'s. The models are more lenient than the RFC's examples where a
directory is: any text is an e-mail address or a web page. Rows and SQL are not known here.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any

import scim2_models as scim
from pydantic import (
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import core_schema

from broker.attributes import AD_GROUP, AD_USER, AGENT, CATALOGUE, SCAIKEY_GROUP, UNIT, Attribute, ResourceType
from broker.errors import BadRequest

from .problems import refusal

RESOURCE_TYPES: tuple[ResourceType, ...] = ("User", "Group", "OrganizationalUnit", "Agent")
ENDPOINTS: Mapping[str, str] = {
    "User": "Users",
    "Group": "Groups",
    "OrganizationalUnit": "OrganizationalUnits",
    "Agent": "Agents",
    "GroupMember": "GroupMembers",
}
MEMBERSHIP = "urn:ietf:params:scim:schemas:core:2.0:GroupMember"
TYPE_AT: Mapping[str, ResourceType] = {ENDPOINTS[name]: name for name in RESOURCE_TYPES}

MEDIA_TYPE = "application/scim+json"
MAX_BYTES = 1 << 20
MAX_OPERATIONS = 1_000
MAX_BULK_BYTES = 10 << 20
DEFAULT_COUNT = 100
MAX_RESULTS = 1_000
CURSOR_TIMEOUT = 3_600
"""Seconds a cursor is good for."""

_OCTETS = frozenset(line.ad for line in CATALOGUE if line.ad and line.form == "binary")
_DIGITS = re.compile(r"\s*[+-]?[0-9.]+\s*")
_TYPE_OF_FORM = {"integer": "integer", "boolean": "boolean", "binary": "binary", "dateTime": "dateTime"}


class WebPage(scim.Reference[scim.External]):
    """A reference to an external resource as people type it: `www.acme.example` is a web page in every directory."""

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source_type: type[Any], handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(
            cls, core_schema.str_schema(), serialization=core_schema.plain_serializer_function_ser_schema(str)
        )


class Email(scim.Email):
    value: str | None = None
    """An e-mail address, as the upstream or the client writes it."""


class Manager(scim.Manager):
    ref: scim.Reference[scim.User[Any]] | None = Field(None, serialization_alias="$ref", validation_alias="$ref")
    """The URI of the SCIM resource representing the User's manager."""


class EnterpriseUser(scim.EnterpriseUser):
    """Enterprise User"""

    manager: Manager | None = None
    """The User's manager."""


class User(scim.User[Any]):
    """User Account"""

    emails: list[Email] | None = None  # type: ignore[assignment]
    """Email addresses for the user."""

    profile_url: WebPage | None = None
    """A URL pointing to a page representing the User's online profile."""


class GroupMember(scim.GroupMember):
    value: Annotated[str | None, scim.Mutability.immutable, scim.Required.true, scim.CaseExact.true] = None
    """Identifier of the member of this Group."""

    display: Annotated[str | None, scim.Mutability.read_only, scim.Returned.request] = None
    """The member's name."""


class Group(scim.Group):
    """Group"""

    members: list[GroupMember] | None = None  # type: ignore[assignment]
    """The members of the Group, people and nested groups."""


def simple(name: str, type_: str, **characteristics: Any) -> scim.Attribute:
    given = {"multiValued": False, "caseExact": False, **characteristics}
    return scim.Attribute.model_validate({"name": name, "type": type_, **given})


def _described(line: Attribute, name: str) -> scim.Attribute:
    """One line of the catalogue as a SCIM attribute definition."""
    return simple(
        name,
        _TYPE_OF_FORM.get(line.form, "string"),
        multiValued=line.many,
        caseExact=line.case_exact,
        mutability="readOnly" if line.read_only else "readWrite",
        returned="request" if line.on_request or line.quiet or line.read_only else "default",
        description=f"The directory's attribute {line.ad}." if line.ad else f"{name}.",
    )


def _model(base: Any, schema: scim.Schema) -> Any:
    """A model of the schema, which it announces.

    Octets stay the base64 text they came as, because scim2-models decodes a list of them twice when one is added:
    `check_octets` checks them instead. Of what a tenant has declared, `declared` knows which values are the same.
    """
    taken = schema.model_copy(deep=True)
    for attribute in taken.attributes or ():
        for one in (attribute, *(attribute.sub_attributes or ())):
            if one.type is scim.Attribute.Type.binary:
                one.type = scim.Attribute.Type.string
            if base is _Custom:
                one.mutability = scim.Mutability.read_write
    model = base.from_schema(taken)
    model.to_schema = classmethod(lambda cls: schema)
    return model


class _Custom(scim.Extension):
    """An extension whose attributes may be called anything, and whose values are what they are said to be."""

    model_config = ConfigDict(protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _is_of_its_kind(cls, value: Any, info: ValidationInfo) -> Any:
        """A truth is no number, and a number neither a truth nor a moment, written as text either."""
        kind = cls.get_field_root_type(str(info.field_name))
        for item in value if isinstance(value, list) else (value,):
            number = isinstance(item, int | float) and not isinstance(item, bool)
            number |= kind is datetime and isinstance(item, str) and _DIGITS.fullmatch(item) is not None
            if (isinstance(item, bool) and kind is not bool) or (number and kind in (bool, datetime)):
                raise ValueError(f"{item} is of another type")
        return value


def extension(schema: scim.Schema) -> type[scim.Extension]:
    """The model of an extension that is not ours."""
    model: type[scim.Extension] = _model(_Custom, schema)
    return model


def _overflow() -> scim.Attribute:
    return simple(
        "attributes",
        "complex",
        multiValued=True,
        returned="request",
        description="Every attribute of the directory that no other attribute carries.",
        subAttributes=[
            simple("name", "string", description="The attribute's name in the directory."),
            simple("syntax", "string", description="The OID of its syntax."),
            simple("values", "string", multiValued=True, caseExact=True, description="Its values that are text."),
            simple("binaryValues", "binary", multiValued=True, caseExact=True, description="Its other values."),
        ],
    )


def _lines(urn: str, resource_type: ResourceType) -> Iterator[tuple[Attribute, str]]:
    """The catalogue's lines of one extension schema, with their attribute names."""
    for line in CATALOGUE:
        path = line.path_on(resource_type) if resource_type in line.on else None
        if path is not None and path.startswith(f"{urn}:"):
            yield line, path.removeprefix(f"{urn}:")


def _extension(
    urn: str, name: str, description: str, resource_type: ResourceType, *more: scim.Attribute
) -> type[scim.Extension]:
    attributes = [_described(*line) for line in _lines(urn, resource_type)]
    schema = scim.Schema(id=urn, name=name, description=description, attributes=[*attributes, *more])
    extension: type[scim.Extension] = _model(scim.Extension, schema)
    return extension


def _unit() -> type[scim.Resource[Any]]:
    parent = simple(
        "parent",
        "complex",
        description="The unit this one is in.",
        subAttributes=[
            simple("value", "string", caseExact=True, description="The id of the parent unit."),
            simple(
                "$ref",
                "reference",
                caseExact=True,
                referenceTypes=["OrganizationalUnit"],
                description="The URI of the parent unit.",
            ),
        ],
    )
    name = simple("displayName", "string", required=True, description="The unit's name.")
    common = ("displayName", "externalId", "parent.value")
    lines = [
        _described(line, line.path)
        for line in CATALOGUE
        if "OrganizationalUnit" in line.on and line.path is not None and line.path not in common
    ]
    description = "A unit of an organisation: a branch of its directory."
    attributes = [name, *lines, parent, _overflow()]
    schema = scim.Schema(id=UNIT, name="OrganizationalUnit", description=description, attributes=attributes)
    resource: type[scim.Resource[Any]] = _model(scim.Resource, schema)
    return resource


def _agent() -> type[scim.Resource[Any]]:
    """After draft-wzdk-scim-agent-resource; `name` is what draft-abbey-scim-agent-extension calls an agent by."""
    owner = [
        simple("value", "string", caseExact=True, description="The id of the owner."),
        simple("$ref", "reference", caseExact=True, referenceTypes=["User"], description="The URI of the owner."),
    ]
    attributes = [
        simple("agentUserName", "string", required=True, uniqueness="server", description="The agent's unique name."),
        simple("name", "string", description="Another name of the agent; an agent without agentUserName gets this."),
        simple("displayName", "string", description="The agent's name for people."),
        simple("active", "boolean", description="Whether the agent may act."),
        simple("description", "string", description="What the agent is for."),
        simple("owners", "complex", multiValued=True, description="People who answer for it.", subAttributes=owner),
    ]
    schema = scim.Schema(id=AGENT, name="Agent", description="Software that acts on its own.", attributes=attributes)
    resource: type[scim.Resource[Any]] = _model(scim.Resource, schema)
    return resource


def _membership() -> type[scim.Resource[Any]]:
    """One member of one group as a resource, after draft-zollner-scim-group-members."""

    def side(name: str, description: str, kinds: list[str], *more: scim.Attribute) -> scim.Attribute:
        fixed: dict[str, Any] = {"mutability": "immutable", "caseExact": True}
        value = simple("value", "string", required=True, description="Its id.", **fixed)
        reference = simple("$ref", "reference", referenceTypes=kinds, description="Its URI.", **fixed)
        display = simple("display", "string", mutability="readOnly", description="Its name.")
        given: dict[str, Any] = {"required": True, "mutability": "immutable", "description": description}
        return simple(name, "complex", subAttributes=[value, reference, *more, display], **given)

    kind = simple(
        "type", "string", mutability="readOnly", canonicalValues=["User", "Group"], description="Its resource type."
    )
    # Said, because a generic client takes it for one that it may write on every resource.
    external = simple("externalId", "string", mutability="readOnly", caseExact=True, description="It has none.")
    group = side("group", "The group.", ["Group"])
    member = side("member", "The person or group that is directly in it.", ["User", "Group"], kind)
    schema = scim.Schema(
        id=MEMBERSHIP, name="GroupMember", description="One member of one group.", attributes=[external, group, member]
    )
    resource: type[scim.Resource[Any]] = _model(scim.Resource, schema)
    return resource


ActiveDirectoryUser = _extension(
    AD_USER, "ActiveDirectoryUser", "What Active Directory says of a person.", "User", _overflow()
)
ActiveDirectoryGroup = _extension(
    AD_GROUP, "ActiveDirectoryGroup", "What Active Directory says of a group.", "Group", _overflow()
)
TokenGroup = _extension(SCAIKEY_GROUP, "TokenGroup", "The name of a group in tokens.", "Group")
OrganizationalUnit = _unit()
Agent = _agent()
Membership = _membership()


def _extended(resource: Any, extensions: Any) -> type[scim.Resource[Any]]:
    extended: type[scim.Resource[Any]] = resource[extensions]
    return extended


MODELS: Mapping[str, type[scim.Resource[Any]]] = {
    "User": _extended(User, EnterpriseUser | ActiveDirectoryUser),
    "Group": _extended(Group, ActiveDirectoryGroup | TokenGroup),
    "OrganizationalUnit": OrganizationalUnit,
    "Agent": Agent,
    "GroupMember": Membership,
}


POLICY = scim.ScimPolicy(
    unknown=scim.ScimPolicy.Unknown.ignore,
    remove_value_as_filter=scim.ScimPolicy.RemoveValue.apply,
    unmatched_path_filter=scim.ScimPolicy.UnmatchedPathFilter.create,
)

CONFIG = scim.ServiceProviderConfig(
    patch=scim.Patch(supported=True),
    bulk=scim.Bulk(supported=True, max_operations=MAX_OPERATIONS, max_payload_size=MAX_BULK_BYTES),
    filter=scim.Filter(supported=True, max_results=MAX_RESULTS),
    change_password=scim.ChangePassword(supported=True),
    sort=scim.Sort(supported=True),
    etag=scim.ETag(supported=True),
    pagination=scim.Pagination(
        cursor=True,
        index=True,
        default_pagination_method=scim.Pagination.DefaultPaginationMethod.index,
        default_page_size=DEFAULT_COUNT,
        max_page_size=MAX_RESULTS,
        cursor_timeout=CURSOR_TIMEOUT,
    ),
    authentication_schemes=[
        scim.AuthenticationScheme(
            type=scim.AuthenticationScheme.Type.oauthbearertoken,
            name="Bearer token",
            description="A SCIM token of the tenant, or an administrator's token with the scope scim.",
            primary=True,
        ),
        scim.AuthenticationScheme(
            type=scim.AuthenticationScheme.Type.oauth2,
            name="OAuth 2.0 client credentials",
            description="A service account that administers the tenant, or its application, gets a token for it.",
        ),
    ],
)


def extended(resource_type: str, extension: type[scim.Extension]) -> type[scim.Resource[Any]]:
    """Our model of the type with one extension more."""
    if resource_type == "User":
        return _extended(User, EnterpriseUser | ActiveDirectoryUser | extension)
    return _extended(Group, ActiveDirectoryGroup | TokenGroup | extension)


def provider(more: Mapping[str, type[scim.Extension]]) -> scim.ScimProvider:
    """What scim2-server works with; `more`: an extension of a resource type beside ours."""
    # The name of a group in tokens is nobody's to write and shown only on request: not part of the announced type.
    group = ActiveDirectoryGroup | more["Group"] if "Group" in more else ActiveDirectoryGroup
    user = extended("User", more["User"]) if "User" in more else MODELS["User"]
    return scim.ScimProvider(
        models=[
            User,
            EnterpriseUser,
            ActiveDirectoryUser,
            Group,
            ActiveDirectoryGroup,
            TokenGroup,
            OrganizationalUnit,
            Agent,
            Membership,
            *more.values(),
        ],
        resource_types=[
            scim.ResourceType.from_resource(model)
            for model in (user, _extended(Group, group), OrganizationalUnit, Agent, Membership)
        ],
        config=CONFIG,
        policy=POLICY,
    )


PROVIDER = provider({})


def read(
    resource_type: str, data: Any, context: scim.Context, models: Mapping[str, type[scim.Resource[Any]]] = MODELS
) -> scim.Resource[Any]:
    """A client's JSON as a model, checked as the operation `context` stands for. Raises BadRequest."""
    if resource_type == "Agent":
        data = _called(data)
    try:
        return models[resource_type].model_validate(data, scim_ctx=context, scim_policy=POLICY)
    except ValidationError as error:
        raise refusal(error) from None


def _called(data: Any) -> Any:
    """An agent that has only the name of the other draft is called by it."""
    if not isinstance(data, dict) or any(key.lower() == "agentusername" for key in data):
        return data
    return {**data, "agentUserName": data.get("name")}


def written(model: scim.Resource[Any]) -> dict[str, Any]:
    """What a client may write of a model, as canonical JSON: no read-only or empty attribute, no password."""
    document = model.model_dump(scim_ctx=scim.Context.RESOURCE_REPLACEMENT_REQUEST, scim_policy=POLICY)
    document.pop("password", None)
    return document


def check_octets(resource_type: str, document: Mapping[str, Any]) -> None:
    """Raises BadRequest where an attribute of octets is not base64."""
    urn = AD_GROUP if resource_type == "Group" else AD_USER
    place = document if resource_type == "OrganizationalUnit" else document.get(urn, {})
    texts = [text for item in place.get("attributes", ()) for text in item.get("binaryValues", ())]
    for name in _OCTETS & place.keys():
        texts += place[name] if isinstance(place[name], list) else [place[name]]
    for text in texts:
        try:
            base64.b64decode(text, validate=True)
        except ValueError:
            raise BadRequest("A value of octets is not base64", scim_type="invalidValue") from None
