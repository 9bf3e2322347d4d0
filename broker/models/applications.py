"""Applications, who may use them, and the SCIM targets they offer.

An application is owned by one tenant (a PARTNER one by the partner's home tenant, a GLOBAL one by the platform tenant);
every tenant that may use it, its own included, has an `ApplicationAccess` row, and assignments and targets hang on
that.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import CheckConstraint, Double, ForeignKeyConstraint, Identity, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, Big, Bytes, Key, Moment, Stamped, TenantOwned, belongs_to_tenant, same_tenant


class Application(Stamped, Base):
    """Read by its owner and by whoever has access: the session and the row-level security both say so."""

    __tablename__ = "applications"
    __table_args__ = (
        belongs_to_tenant(),
        CheckConstraint("scope IN ('TENANT', 'PARTNER', 'GLOBAL')", "scope"),
        CheckConstraint("type IN ('web', 'spa', 'native', 'service', 'mcp')", "type"),
        CheckConstraint(
            "token_endpoint_auth_method IN ('client_secret_basic', 'client_secret_post', 'private_key_jwt', 'none')",
            "auth_method",
        ),
        Index("ix_applications_audience", "audience", postgresql_where=text("audience IS NOT NULL")),
    )

    tenant_id: Mapped[Key] = mapped_column(primary_key=True)
    id: Mapped[Key] = mapped_column(primary_key=True)
    name: Mapped[str]
    type: Mapped[str]
    scope: Mapped[str] = mapped_column(server_default="TENANT")
    client_id: Mapped[Key] = mapped_column(unique=True)
    enabled: Mapped[bool] = mapped_column(server_default=text("true"))
    assignment_required: Mapped[bool] = mapped_column(server_default=text("true"))
    launch_url: Mapped[str | None]
    icon_url: Mapped[str | None]
    third_party: Mapped[bool] = mapped_column(server_default=text("false"))
    """Its people are asked for consent."""
    redirect_uris: Mapped[list[str]] = mapped_column(server_default=text("'[]'"))
    post_logout_redirect_uris: Mapped[list[str]] = mapped_column(server_default=text("'[]'"))
    grant_types: Mapped[list[str]] = mapped_column(server_default=text("""'["authorization_code"]'"""))
    token_endpoint_auth_method: Mapped[str] = mapped_column(server_default="client_secret_basic")
    jwks: Mapped[dict[str, Any] | None]
    """Public keys of a client that authenticates by `private_key_jwt`; or `jwks_uri` says where they are."""
    jwks_uri: Mapped[str | None]
    access_token_signed_response_alg: Mapped[str] = mapped_column(server_default="RS256")
    id_token_signed_response_alg: Mapped[str] = mapped_column(server_default="RS256")
    audience: Mapped[str | None]
    """The API identifier its access tokens carry."""
    allowed_audiences: Mapped[list[str]] = mapped_column(server_default=text("'[]'"))
    scopes: Mapped[list[str]] = mapped_column(
        server_default=text("""'["openid", "profile", "email", "offline_access"]'""")
    )
    access_token_lifetime: Mapped[int | None]
    authorization_code_lifetime: Mapped[int | None]


class ApplicationAccess(TenantOwned, Base):
    __tablename__ = "application_access"
    __table_args__ = (
        belongs_to_tenant(),
        ForeignKeyConstraint(
            ["owner_tenant_id", "application_id"], ["applications.tenant_id", "applications.id"], ondelete="CASCADE"
        ),
    )

    application_id: Mapped[Key] = mapped_column(primary_key=True)
    owner_tenant_id: Mapped[Key]
    created_at: Mapped[Moment] = mapped_column(server_default=text("now()"))


class Assignment(Stamped, TenantOwned, Base):
    __tablename__ = "assignments"
    __table_args__ = (
        same_tenant("application_id", "application_access.application_id"),
        same_tenant("principal_id", "resources.id"),
        Index("uq_assignments_principal", "tenant_id", "application_id", "principal_id", unique=True),
        Index("ix_assignments_principal", "tenant_id", "principal_id"),
    )

    id: Mapped[Key] = mapped_column(primary_key=True)
    application_id: Mapped[Key]
    principal_id: Mapped[Key]
    roles: Mapped[list[str]] = mapped_column(server_default=text("'[]'"))


class ScimTarget(Stamped, TenantOwned, Base):
    __tablename__ = "scim_targets"
    __table_args__ = (
        same_tenant("application_id", "application_access.application_id"),
        CheckConstraint("scope IN ('assigned', 'all')", "scope"),
        CheckConstraint("status IN ('active', 'paused', 'quarantined')", "status"),
        CheckConstraint("nested_groups IN ('auto', 'keep', 'flatten')", "nested_groups"),
        Index("ix_scim_targets_reconcile", "reconcile_due_at", postgresql_where=text("reconcile_due_at IS NOT NULL")),
    )

    id: Mapped[Key] = mapped_column(primary_key=True)
    application_id: Mapped[Key]
    base_url: Mapped[str]
    auth: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    """`{"method": "bearer"}`, or who we are at which token endpoint; the secret itself is sealed in `secrets`."""
    secrets: Mapped[Bytes | None]
    profile: Mapped[str] = mapped_column(server_default="auto")
    mapping: Mapped[list[Any]] = mapped_column(server_default=text("'[]'"))
    nested_groups: Mapped[str] = mapped_column(server_default="auto")
    capabilities: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    """What it said of itself when it was last asked, at `probed_at`."""
    probed_at: Mapped[Moment | None]
    flattens: Mapped[bool] = mapped_column(server_default=text("false"))
    """Groups in groups are not for it: what follows from `nested_groups`, the profile and the capabilities."""
    revision: Mapped[int] = mapped_column(server_default=text("0"))
    """Raised when the same resource would be sent differently: another mapping, profile or capability."""
    scope: Mapped[str] = mapped_column(server_default="assigned")
    deprovision: Mapped[str] = mapped_column(server_default="disable")
    removal_guard: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    status: Mapped[str] = mapped_column(server_default="active")
    status_reason: Mapped[str | None]
    postponed_until: Mapped[Moment | None]
    """It did not answer, or asked for time: nothing is sent before this moment."""
    postponements: Mapped[int] = mapped_column(server_default=text("0"))
    """How many in a row; `status_reason` says why."""
    failing_since: Mapped[Moment | None]
    """The first of them: after a day of nothing else the target is `quarantined`."""
    deprovision_days: Mapped[int] = mapped_column(server_default=text("30"))
    """With `delete_after_days`: how long who left stays disabled there."""
    requests_per_second: Mapped[float | None] = mapped_column(Double)
    paced_until: Mapped[Moment | None]
    """When the requests made so far are paid for, at that pace."""
    reconcile: Mapped[dict[str, Any]] = mapped_column(
        server_default=text("""'{"enabled": false, "schedule": "1d", "policy": "report", "ignore": []}'""")
    )
    reconcile_due_at: Mapped[Moment | None]


class TargetResource(TenantOwned, Base):
    """What we know of one resource at one target: its remote id and the state last sent."""

    __tablename__ = "target_resources"
    __table_args__ = (
        same_tenant("target_id", "scim_targets.id"),
        Index("ix_target_resources_resource", "tenant_id", "resource_id"),
        Index(
            "uq_target_resources_remote",
            "tenant_id",
            "target_id",
            "resource_type",
            "remote_id",
            unique=True,
            postgresql_where=text("remote_id IS NOT NULL"),
        ),
        Index("ix_target_resources_left", "left_at", postgresql_where=text("left_at IS NOT NULL")),
        CheckConstraint("state IN ('creating', 'present', 'disabled', 'removed')", "state"),
    )

    target_id: Mapped[Key] = mapped_column(primary_key=True)
    resource_id: Mapped[Key] = mapped_column(primary_key=True)
    resource_type: Mapped[str]
    remote_id: Mapped[str | None]
    state: Mapped[str] = mapped_column(server_default="present")
    """`creating` (sent, answer unknown), `present`, `disabled`, `removed`."""
    sent_digest: Mapped[Bytes | None]
    """Of the document that is there; null while something is being sent that may or may not arrive."""
    sent_version: Mapped[Big | None]
    left_at: Mapped[Moment | None]
    """Since when it is disabled there for having left the target's reach."""
    met_no: Mapped[Big | None]
    """The last comparison that met it there."""
    sent_revision: Mapped[int] = mapped_column(server_default=text("0"))
    """The target's `revision` under which it was last looked at."""
    left_out: Mapped[list[str]] = mapped_column(server_default=text("'[]'"))
    """Attributes the target does not take."""
    problem: Mapped[str | None]
    updated_at: Mapped[Moment] = mapped_column(server_default=text("now()"))


class TargetMember(TenantOwned, Base):
    """A membership we have written at a target, or have tried to."""

    __tablename__ = "target_members"
    __table_args__ = (
        same_tenant("target_id", "scim_targets.id"),
        Index("ix_target_members_member", "tenant_id", "target_id", "member_id"),
    )

    target_id: Mapped[Key] = mapped_column(primary_key=True)
    group_id: Mapped[Key] = mapped_column(primary_key=True)
    member_id: Mapped[Key] = mapped_column(primary_key=True)
    certain: Mapped[bool] = mapped_column(server_default=text("true"))
    """False while a request that adds or removes it may or may not have been carried out."""


class TargetRemoval(TenantOwned, Base):
    """A removal or disable the removal guard let pass at a target; valid for 24 hours, and counted unless approved.

    That of somebody who is to be deleted after days is valid until he is.
    """

    __tablename__ = "target_removals"
    __table_args__ = (
        same_tenant("target_id", "scim_targets.id"),
        CheckConstraint("covers IN ('nothing', 'disable', 'delete')", "covers"),
        Index("ix_target_removals_at", "tenant_id", "target_id", "at"),
        Index("ix_target_removals_resource", "tenant_id", "target_id", "resource_id"),
    )

    no: Mapped[Big] = mapped_column(Identity(always=True), primary_key=True)
    target_id: Mapped[Key]
    resource_id: Mapped[Key]
    approved: Mapped[bool] = mapped_column(server_default=text("false"))
    covers: Mapped[str] = mapped_column(server_default="disable")
    """How much was let pass; `nothing` once it is undone: who came back leaves anew."""
    at: Mapped[Moment] = mapped_column(server_default=text("now()"))
