"""The directory: people, groups, units, who belongs where, and what each upstream said.

One row per resource: hot columns that are matched, sorted or acted on, the canonical SCIM document as bytes (without
`meta.location`, `groups`, `members` and the rendered AD overflow), a version. Memberships are rows, never an array in a
document. A removed resource keeps its row (`removed_at`): the same upstream key revives the same one. All of it is
written by `broker.directory` alone.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import CheckConstraint, Identity, Index, SmallInteger, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, Big, Bytes, DirectoryOwned, Key, Moment, Stamped, TenantOwned, belongs_to_tenant, same_tenant
from .declarations import UNIQUE_FROM

LIVE = text("removed_at IS NULL")


class Resource(Stamped, DirectoryOwned, Base):
    """A person, a group, an organisational unit or an agent; `type` is the SCIM resource type."""

    __tablename__ = "resources"
    __mapper_args__ = {"polymorphic_on": "type"}
    __table_args__ = (
        belongs_to_tenant(),
        same_tenant("manager_id", "resources.id", ondelete="NO ACTION"),
        same_tenant("parent_id", "resources.id", ondelete="NO ACTION"),
        CheckConstraint("type IN ('User', 'Group', 'OrganizationalUnit', 'Agent')", "type"),
        Index(
            "uq_resources_user_name",
            "tenant_id",
            "name_key",
            unique=True,
            postgresql_where=text("type = 'User' AND removed_at IS NULL"),
        ),
        Index(
            "uq_resources_agent_name",
            "tenant_id",
            "name_key",
            unique=True,
            postgresql_where=text("type = 'Agent' AND removed_at IS NULL"),
        ),
        Index(
            "uq_resources_token_name",
            "tenant_id",
            "token_key",
            unique=True,
            postgresql_where=text("token_key IS NOT NULL"),
        ),
        # Whether an id is another tenant's is asked without knowing whose. A hash: in an order of all tenants' ids a
        # page of one tenant would be looked for among everybody's.
        Index("ix_resources_id", "id", postgresql_using="hash"),
        # With the user_type, so that a list is counted without reading the rows.
        Index(
            "ix_resources_type",
            "tenant_id",
            "type",
            "id",
            postgresql_include=["user_type"],
            postgresql_where=LIVE,
        ),
        Index(
            "ix_resources_name",
            "tenant_id",
            "type",
            "name_key",
            "id",
            postgresql_where=text("type <> 'User' AND removed_at IS NULL"),
        ),
        Index("ix_resources_display", "tenant_id", "type", "display_key", "id", postgresql_where=LIVE),
        Index("ix_resources_external_id", "tenant_id", "type", "external_id", postgresql_where=LIVE),
        Index("ix_resources_manager", "tenant_id", "manager_id", postgresql_where=text("manager_id IS NOT NULL")),
        Index("ix_resources_parent", "tenant_id", "parent_id", postgresql_where=text("parent_id IS NOT NULL")),
        Index(
            "ix_resources_waiting_manager",
            "tenant_id",
            "manager_ref",
            postgresql_where=text("manager_id IS NULL AND manager_ref IS NOT NULL"),
        ),
        Index(
            "ix_resources_waiting_parent",
            "tenant_id",
            "parent_ref",
            postgresql_where=text("parent_id IS NULL AND parent_ref IS NOT NULL"),
        ),
        Index(
            "ix_resources_active_until", "tenant_id", "active_until", postgresql_where=text("active_until IS NOT NULL")
        ),
        {"postgresql_with": {"fillfactor": "85"}},
    )

    id: Mapped[Key] = mapped_column(primary_key=True)
    type: Mapped[Key]
    name: Mapped[str]
    """`userName` of a person, `agentUserName` of an agent, `displayName` of a group or unit."""
    name_key: Mapped[Key]
    display_name: Mapped[str | None]
    display_key: Mapped[Key | None]
    external_id: Mapped[Key | None]
    user_type: Mapped[str | None]
    """Only `ServiceAccount` is acted upon: such users stay out of lists and pushes."""
    active: Mapped[bool] = mapped_column(server_default=text("true"))
    """Not disabled here, no owning link disabled; `active_until` is compared where it is read."""
    disabled: Mapped[bool] = mapped_column(server_default=text("false"))
    active_until: Mapped[Moment | None]
    email_doubted: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether an address is here by the word of a sign-in alone, whose upstream did not vouch for it."""
    token_name: Mapped[str | None]
    token_key: Mapped[Key | None]
    manager_id: Mapped[Key | None]
    manager_ref: Mapped[Key | None]
    parent_id: Mapped[Key | None]
    parent_ref: Mapped[Key | None]
    document: Mapped[Bytes]
    local: Mapped[Any] = mapped_column(JSONB, server_default=text("'{}'"))
    """What SCIM or an administrator wrote: flat `{SCIM path: value}`, the layer below the links."""
    pins: Mapped[Any] = mapped_column(JSONB, server_default=text("'{}'"))
    """`{SCIM path: value}` an administrator pinned above every link."""
    version: Mapped[Big] = mapped_column(server_default=text("1"))
    removed_at: Mapped[Moment | None]


class User(Resource):
    __mapper_args__ = {"polymorphic_identity": "User"}


class Group(Resource):
    __mapper_args__ = {"polymorphic_identity": "Group"}


class OrganizationalUnit(Resource):
    __mapper_args__ = {"polymorphic_identity": "OrganizationalUnit"}


class Agent(Resource):
    """Software that acts on its own (an MCPAgent): it is nobody's user and has no credentials here."""

    __mapper_args__ = {"polymorphic_identity": "Agent"}


class ResourceCount(TenantOwned, Base):
    """How many live resources of a type the tenant has: the sum of its rows. Triggers of the database add one for what
    came or went; nobody waits for a row of somebody else's."""

    __tablename__ = "resource_counts"
    __table_args__ = (belongs_to_tenant(),)

    type: Mapped[Key] = mapped_column(primary_key=True)
    no: Mapped[Big] = mapped_column(Identity(always=True), primary_key=True)
    resources: Mapped[Big]


class ResourceValue(DirectoryOwned, Base):
    """The typed value index: filterable multi-valued and extension attributes, `attribute` by its catalogue number."""

    __tablename__ = "resource_values"
    __table_args__ = (
        same_tenant("resource_id", "resources.id"),
        Index("ix_resource_values_resource", "tenant_id", "resource_id"),
        Index(
            "uq_resource_values_declared",
            "tenant_id",
            "attribute",
            "value_key",
            unique=True,
            postgresql_where=text(f"attribute >= {UNIQUE_FROM}"),
        ),
    )

    attribute: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    value_key: Mapped[Key] = mapped_column(primary_key=True)
    resource_id: Mapped[Key] = mapped_column(primary_key=True)
    kind: Mapped[Key] = mapped_column(primary_key=True, server_default="")
    """The value's `type` sub-attribute (`work`), or empty."""


class Membership(DirectoryOwned, Base):
    """One member of one group as one giver said it; `member_id` is null while the member is not known to us."""

    __tablename__ = "memberships"
    __table_args__ = (
        same_tenant("group_id", "resources.id"),
        same_tenant("member_id", "resources.id"),
        same_tenant("via", "identity_providers.id"),
        Index(
            "uq_memberships_member",
            "tenant_id",
            "group_id",
            "via",
            "kind",
            "member_key",
            unique=True,
            postgresql_nulls_not_distinct=True,
        ),
        Index("ix_memberships_group", "tenant_id", "group_id", "member_id"),
        Index(
            "ix_memberships_of", "tenant_id", "member_id", "group_id", postgresql_where=text("member_id IS NOT NULL")
        ),
        Index("ix_memberships_waiting", "member_key", "tenant_id", "via", postgresql_where=text("member_id IS NULL")),
        Index("ix_memberships_leaving", "tenant_id", "via", postgresql_where=text("kind = 'leaving'")),
        CheckConstraint("kind IN ('member', 'primary', 'leaving')", "kind"),
    )

    no: Mapped[Big] = mapped_column(Identity(always=True), primary_key=True)
    group_id: Mapped[Key]
    member_id: Mapped[Key | None]
    member_key: Mapped[Key]
    """The giver's reference (a folded DN), or the member's id for what SCIM or an administrator wrote."""
    raw: Mapped[str | None]
    ordinal: Mapped[int] = mapped_column(server_default=text("0"))
    via: Mapped[Key | None]
    """The provider that gave it; null for SCIM and administrators."""
    kind: Mapped[str] = mapped_column(server_default="member")
    """`member`; `primary`, which no member list names; `leaving`, which the list no longer names, until the member's
    own record tells whether it was only renamed."""


class Link(DirectoryOwned, Base):
    """Our resource and one upstream's record of it; without a resource, a record that is kept but is nobody here."""

    __tablename__ = "links"
    __table_args__ = (
        belongs_to_tenant(),
        same_tenant("provider_id", "identity_providers.id"),
        same_tenant("resource_id", "resources.id"),
        UniqueConstraint("tenant_id", "no"),
        # Led by the selective column: without statistics the planner takes any index that begins with tenant and
        # provider, and walks the whole provider for each key.
        Index("ix_links_ref", "ref", "tenant_id", "provider_id"),
        Index("ix_links_alias", "alias", "tenant_id", "provider_id", postgresql_where=text("alias IS NOT NULL")),
        Index("ix_links_resource", "tenant_id", "resource_id", postgresql_where=text("resource_id IS NOT NULL")),
        Index(
            "ix_links_primary",
            "primary_ref",
            "tenant_id",
            "provider_id",
            postgresql_where=text("primary_ref IS NOT NULL"),
        ),
        Index("ix_links_disabled", "tenant_id", "provider_id", postgresql_where=text("NOT active AND gone_at IS NULL")),
        Index("ix_links_moved", "tenant_id", "provider_id", postgresql_where=text("moved")),
        Index(
            "ix_links_unsettled",
            "tenant_id",
            "provider_id",
            postgresql_where=text("skipped IS NOT NULL OR name_kept"),
        ),
        {"postgresql_with": {"fillfactor": "70"}},
    )

    provider_id: Mapped[Key] = mapped_column(primary_key=True)
    key: Mapped[Key] = mapped_column(primary_key=True)
    no: Mapped[Big] = mapped_column(Identity(always=True))
    resource_id: Mapped[Key | None]
    kind: Mapped[str]
    """`user`, `group`, `unit` or `other`, as the port says it."""
    primary_ref: Mapped[Key | None]
    """The alias of the record's primary group, which no member list names."""
    name: Mapped[str]
    """The upstream's own name, verbatim (a DN)."""
    ref: Mapped[Key]
    alias: Mapped[Key | None]
    active: Mapped[bool] = mapped_column(server_default=text("true"))
    digest: Mapped[Bytes]
    """Over the record without quiet values, its references, the mapping and the schema version: equal means stop."""
    quiet_digest: Mapped[Bytes]
    seen_run: Mapped[Big] = mapped_column(server_default=text("0"))
    skipped: Mapped[str | None]
    """Why this record has no resource although its kind would have one (`user_name_taken`)."""
    name_kept: Mapped[bool] = mapped_column(server_default=text("false"))
    """The resource kept its old name, the record's being somebody else's or none at all."""
    stale: Mapped[bool] = mapped_column(server_default=text("false"))
    """Read again, the record is news even if it says the same: single members of its group were told since, or values
    of it could not be taken."""
    moved: Mapped[bool] = mapped_column(server_default=text("false"))
    """Called by another `ref` than before, and no pass has been finished since."""
    gone_at: Mapped[Moment | None]


class LinkRecord(DirectoryOwned, Base):
    """The record verbatim, apart from its link because every full pass touches every link."""

    __tablename__ = "link_records"
    __table_args__ = (same_tenant("link_no", "links.no"),)

    link_no: Mapped[Big] = mapped_column(primary_key=True)
    record: Mapped[Bytes]
