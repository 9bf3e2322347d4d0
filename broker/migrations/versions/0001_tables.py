"""The tables of the ground."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "partners",
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("slug", sa.Text(collation="C"), nullable=False),
        sa.Column("max_tenants", sa.Integer(), nullable=True),
        sa.Column("max_users_per_tenant", sa.Integer(), nullable=True),
        sa.Column("max_applications_per_tenant", sa.Integer(), nullable=True),
        sa.Column("home_tenant_id", sa.Text(collation="C"), nullable=True),
        sa.Column("branding", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_partners")),
        sa.UniqueConstraint("slug", name=op.f("uq_partners_slug")),
    )
    op.create_table(
        "platform_facts",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_platform_facts")),
    )
    op.create_table(
        "retired_slugs",
        sa.Column("slug", sa.Text(collation="C"), nullable=False),
        sa.PrimaryKeyConstraint("slug", name=op.f("pk_retired_slugs")),
    )
    op.create_table(
        "setting_values",
        sa.Column("owner_id", sa.Text(collation="C"), nullable=False),
        sa.Column("name", sa.Text(collation="C"), nullable=False),
        sa.Column("value", JSONB(), nullable=False),
        sa.Column("locked", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("owner_id", "name", name=op.f("pk_setting_values")),
    )
    op.create_table(
        "tenants",
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("partner_id", sa.Text(collation="C"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("slug", sa.Text(collation="C"), nullable=False),
        sa.Column("kind", sa.Text(), server_default="customer", nullable=False),
        sa.Column("status", sa.Text(), server_default="active", nullable=False),
        sa.Column("branding", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("kind IN ('customer', 'home', 'platform')", name=op.f("ck_tenants_kind")),
        sa.CheckConstraint("status IN ('active', 'suspended')", name=op.f("ck_tenants_status")),
        sa.ForeignKeyConstraint(["partner_id"], ["partners.id"], name=op.f("fk_tenants_partner_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tenants")),
        sa.UniqueConstraint("slug", name=op.f("uq_tenants_slug")),
    )
    op.create_index(op.f("ix_tenants_partner_id"), "tenants", ["partner_id"], unique=False)
    op.create_table(
        "applications",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), server_default="TENANT", nullable=False),
        sa.Column("client_id", sa.Text(collation="C"), nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("assignment_required", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("launch_url", sa.Text(), nullable=True),
        sa.Column("icon_url", sa.Text(), nullable=True),
        sa.Column("audience", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("scope IN ('TENANT', 'PARTNER', 'GLOBAL')", name=op.f("ck_applications_scope")),
        sa.CheckConstraint("type IN ('web', 'spa', 'native', 'service', 'mcp')", name=op.f("ck_applications_type")),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_applications_tenant_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_applications")),
        sa.UniqueConstraint("client_id", name=op.f("uq_applications_client_id")),
    )
    op.create_table(
        "domains",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("name", sa.Text(collation="C"), nullable=False),
        sa.Column("verified", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("verified_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("verified_by", sa.Text(), nullable=True),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_domains_tenant_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_domains")),
    )
    op.create_index("uq_domains_tenant_name", "domains", ["tenant_id", "name"], unique=True)
    op.create_index("uq_domains_verified_name", "domains", ["name"], unique=True, postgresql_where=sa.text("verified"))
    op.create_table(
        "events",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("no", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("name", sa.Text(collation="C"), nullable=False),
        sa.Column("actor_kind", sa.Text(), nullable=False),
        sa.Column("actor_id", sa.Text(collation="C"), nullable=False),
        sa.Column("credential_id", sa.Text(), nullable=True),
        sa.Column("resource_type", sa.Text(collation="C"), nullable=False),
        sa.Column("resource_id", sa.Text(collation="C"), nullable=False),
        sa.Column("changed", JSONB(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("request_id", sa.Text(collation="C"), nullable=True),
        sa.Column("occurred_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_events_tenant_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("tenant_id", "no", name=op.f("pk_events")),
        sa.UniqueConstraint("tenant_id", "id", name=op.f("uq_events_tenant_id_id")),
    )
    op.create_index("ix_events_actor", "events", ["tenant_id", "actor_id", "no"], unique=False)
    op.create_index("ix_events_name", "events", ["tenant_id", "name", "no"], unique=False)
    op.create_index("ix_events_occurred", "events", ["tenant_id", "occurred_at"], unique=False)
    op.create_index("ix_events_resource", "events", ["tenant_id", "resource_id", "no"], unique=False)
    op.create_table(
        "identity_providers",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("kind", sa.Text(collation="C"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("priority", sa.Integer(), server_default=sa.text("100"), nullable=False),
        sa.Column("config", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("secrets", sa.LargeBinary(), nullable=True),
        sa.Column("attribute_mapping", JSONB(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("removal_guard", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("good_config", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("lease_fence", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_identity_providers_tenant_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_identity_providers")),
    )
    op.create_index("uq_identity_providers_name", "identity_providers", ["tenant_id", "name"], unique=True)
    op.create_table(
        "resources",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("type", sa.Text(collation="C"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("name_key", sa.Text(collation="C"), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=True),
        sa.Column("display_key", sa.Text(collation="C"), nullable=True),
        sa.Column("external_id", sa.Text(collation="C"), nullable=True),
        sa.Column("user_type", sa.Text(), nullable=True),
        sa.Column("active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("disabled", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("active_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("token_name", sa.Text(), nullable=True),
        sa.Column("token_key", sa.Text(collation="C"), nullable=True),
        sa.Column("manager_id", sa.Text(collation="C"), nullable=True),
        sa.Column("manager_ref", sa.Text(collation="C"), nullable=True),
        sa.Column("parent_id", sa.Text(collation="C"), nullable=True),
        sa.Column("parent_ref", sa.Text(collation="C"), nullable=True),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("local", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("pins", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("type IN ('User', 'Group', 'OrganizationalUnit')", name=op.f("ck_resources_type")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "manager_id"],
            ["resources.tenant_id", "resources.id"],
            name=op.f("fk_resources_tenant_id_manager_id"),
            ondelete="NO ACTION",
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "parent_id"],
            ["resources.tenant_id", "resources.id"],
            name=op.f("fk_resources_tenant_id_parent_id"),
            ondelete="NO ACTION",
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_resources_tenant_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_resources")),
        postgresql_with={"fillfactor": "85"},
    )
    op.create_index(
        "ix_resources_active_until",
        "resources",
        ["tenant_id", "active_until"],
        unique=False,
        postgresql_where=sa.text("active_until IS NOT NULL"),
    )
    op.create_index(
        "ix_resources_display",
        "resources",
        ["tenant_id", "type", "display_key", "id"],
        unique=False,
        postgresql_where=sa.text("removed_at IS NULL"),
    )
    op.create_index(
        "ix_resources_external_id",
        "resources",
        ["tenant_id", "type", "external_id"],
        unique=False,
        postgresql_where=sa.text("removed_at IS NULL"),
    )
    op.create_index(
        "ix_resources_manager",
        "resources",
        ["tenant_id", "manager_id"],
        unique=False,
        postgresql_where=sa.text("manager_id IS NOT NULL"),
    )
    op.create_index(
        "ix_resources_name",
        "resources",
        ["tenant_id", "type", "name_key", "id"],
        unique=False,
        postgresql_where=sa.text("type <> 'User' AND removed_at IS NULL"),
    )
    op.create_index(
        "ix_resources_parent",
        "resources",
        ["tenant_id", "parent_id"],
        unique=False,
        postgresql_where=sa.text("parent_id IS NOT NULL"),
    )
    op.create_index(
        "ix_resources_type",
        "resources",
        ["tenant_id", "type", "id"],
        unique=False,
        postgresql_include=["user_type"],
        postgresql_where=sa.text("removed_at IS NULL"),
    )
    op.create_index(
        "ix_resources_waiting_manager",
        "resources",
        ["tenant_id", "manager_ref"],
        unique=False,
        postgresql_where=sa.text("manager_id IS NULL AND manager_ref IS NOT NULL"),
    )
    op.create_index(
        "ix_resources_waiting_parent",
        "resources",
        ["tenant_id", "parent_ref"],
        unique=False,
        postgresql_where=sa.text("parent_id IS NULL AND parent_ref IS NOT NULL"),
    )
    op.create_index(
        "uq_resources_token_name",
        "resources",
        ["tenant_id", "token_key"],
        unique=True,
        postgresql_where=sa.text("token_key IS NOT NULL"),
    )
    op.create_index(
        "uq_resources_user_name",
        "resources",
        ["tenant_id", "name_key"],
        unique=True,
        postgresql_where=sa.text("type = 'User' AND removed_at IS NULL"),
    )
    op.create_table(
        "application_access",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("application_id", sa.Text(collation="C"), nullable=False),
        sa.Column("owner_tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["owner_tenant_id", "application_id"],
            ["applications.tenant_id", "applications.id"],
            name=op.f("fk_application_access_owner_tenant_id_application_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_application_access_tenant_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tenant_id", "application_id", name=op.f("pk_application_access")),
    )
    op.create_table(
        "links",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("provider_id", sa.Text(collation="C"), nullable=False),
        sa.Column("key", sa.Text(collation="C"), nullable=False),
        sa.Column("no", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("resource_id", sa.Text(collation="C"), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("primary_ref", sa.Text(collation="C"), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("ref", sa.Text(collation="C"), nullable=False),
        sa.Column("alias", sa.Text(collation="C"), nullable=True),
        sa.Column("active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("quiet_digest", sa.LargeBinary(), nullable=False),
        sa.Column("seen_run", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("skipped", sa.Text(), nullable=True),
        sa.Column("name_kept", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("moved", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("gone_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["tenant_id", "provider_id"],
            ["identity_providers.tenant_id", "identity_providers.id"],
            name=op.f("fk_links_tenant_id_provider_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "resource_id"],
            ["resources.tenant_id", "resources.id"],
            name=op.f("fk_links_tenant_id_resource_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_links_tenant_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("tenant_id", "provider_id", "key", name=op.f("pk_links")),
        sa.UniqueConstraint("tenant_id", "no", name=op.f("uq_links_tenant_id_no")),
        postgresql_with={"fillfactor": "70"},
    )
    op.create_index(
        "ix_links_alias",
        "links",
        ["alias", "tenant_id", "provider_id"],
        unique=False,
        postgresql_where=sa.text("alias IS NOT NULL"),
    )
    op.create_index(
        "ix_links_disabled",
        "links",
        ["tenant_id", "provider_id"],
        unique=False,
        postgresql_where=sa.text("NOT active AND gone_at IS NULL"),
    )
    op.create_index(
        "ix_links_moved", "links", ["tenant_id", "provider_id"], unique=False, postgresql_where=sa.text("moved")
    )
    op.create_index(
        "ix_links_primary",
        "links",
        ["primary_ref", "tenant_id", "provider_id"],
        unique=False,
        postgresql_where=sa.text("primary_ref IS NOT NULL"),
    )
    op.create_index("ix_links_ref", "links", ["ref", "tenant_id", "provider_id"], unique=False)
    op.create_index(
        "ix_links_resource",
        "links",
        ["tenant_id", "resource_id"],
        unique=False,
        postgresql_where=sa.text("resource_id IS NOT NULL"),
    )
    op.create_table(
        "memberships",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("no", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("group_id", sa.Text(collation="C"), nullable=False),
        sa.Column("member_id", sa.Text(collation="C"), nullable=True),
        sa.Column("member_key", sa.Text(collation="C"), nullable=False),
        sa.Column("raw", sa.Text(), nullable=True),
        sa.Column("ordinal", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("via", sa.Text(collation="C"), nullable=True),
        sa.Column("kind", sa.Text(), server_default="member", nullable=False),
        sa.CheckConstraint("kind IN ('member', 'primary', 'leaving')", name=op.f("ck_memberships_kind")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "group_id"],
            ["resources.tenant_id", "resources.id"],
            name=op.f("fk_memberships_tenant_id_group_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "member_id"],
            ["resources.tenant_id", "resources.id"],
            name=op.f("fk_memberships_tenant_id_member_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "via"],
            ["identity_providers.tenant_id", "identity_providers.id"],
            name=op.f("fk_memberships_tenant_id_via"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "no", name=op.f("pk_memberships")),
    )
    op.create_index("ix_memberships_group", "memberships", ["tenant_id", "group_id", "member_id"], unique=False)
    op.create_index(
        "ix_memberships_leaving",
        "memberships",
        ["tenant_id", "via"],
        unique=False,
        postgresql_where=sa.text("kind = 'leaving'"),
    )
    op.create_index(
        "ix_memberships_of",
        "memberships",
        ["tenant_id", "member_id", "group_id"],
        unique=False,
        postgresql_where=sa.text("member_id IS NOT NULL"),
    )
    op.create_index(
        "ix_memberships_waiting",
        "memberships",
        ["member_key", "tenant_id", "via"],
        unique=False,
        postgresql_where=sa.text("member_id IS NULL"),
    )
    op.create_index(
        "uq_memberships_member",
        "memberships",
        ["tenant_id", "group_id", "via", "kind", "member_key"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_table(
        "personal_access_tokens",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("user_id", sa.Text(collation="C"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("audiences", JSONB(), server_default=sa.text("'[\"scaikey\"]'"), nullable=False),
        sa.Column("scopes", JSONB(), server_default=sa.text("'[\"scaikey:read\"]'"), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("bootstrap", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "user_id"],
            ["resources.tenant_id", "resources.id"],
            name=op.f("fk_personal_access_tokens_tenant_id_user_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_personal_access_tokens")),
        sa.UniqueConstraint("digest", name=op.f("uq_personal_access_tokens_digest")),
    )
    op.create_index("ix_personal_access_tokens_user", "personal_access_tokens", ["tenant_id", "user_id"], unique=False)
    op.create_table(
        "resource_values",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("attribute", sa.SmallInteger(), nullable=False),
        sa.Column("value_key", sa.Text(collation="C"), nullable=False),
        sa.Column("resource_id", sa.Text(collation="C"), nullable=False),
        sa.Column("kind", sa.Text(collation="C"), server_default="", nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "resource_id"],
            ["resources.tenant_id", "resources.id"],
            name=op.f("fk_resource_values_tenant_id_resource_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(
            "tenant_id", "attribute", "value_key", "resource_id", "kind", name=op.f("pk_resource_values")
        ),
    )
    op.create_index("ix_resource_values_resource", "resource_values", ["tenant_id", "resource_id"], unique=False)
    op.create_table(
        "role_assignments",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("principal_id", sa.Text(collation="C"), nullable=False),
        sa.Column("scope_id", sa.Text(collation="C"), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("(role = 'super_admin') = (scope_id IS NULL)", name=op.f("ck_role_assignments_scope")),
        sa.CheckConstraint(
            "role IN ('tenant_admin', 'partner_admin', 'super_admin')", name=op.f("ck_role_assignments_role")
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "principal_id"],
            ["resources.tenant_id", "resources.id"],
            name=op.f("fk_role_assignments_tenant_id_principal_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_role_assignments")),
    )
    op.create_index(
        "uq_role_assignments_grant",
        "role_assignments",
        ["tenant_id", "principal_id", "role", "scope_id"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_table(
        "scim_tokens",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), server_default="tolerant", nullable=False),
        sa.Column("identity_provider_id", sa.Text(collation="C"), nullable=True),
        sa.Column("allow_password", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("mode IN ('tolerant', 'strict')", name=op.f("ck_scim_tokens_mode")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "identity_provider_id"],
            ["identity_providers.tenant_id", "identity_providers.id"],
            name=op.f("fk_scim_tokens_tenant_id_identity_provider_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_scim_tokens_tenant_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_scim_tokens")),
        sa.UniqueConstraint("digest", name=op.f("uq_scim_tokens_digest")),
    )
    op.create_table(
        "sync_runs",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("no", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("provider_id", sa.Text(collation="C"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("dry_run", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("status", sa.Text(), server_default="running", nullable=False),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("cursor", sa.Text(), nullable=True),
        sa.Column("fence", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("read", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("created", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("updated", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("unchanged", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("disabled", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("removed", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("skipped", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("held_removals", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("hold_reason", sa.Text(), nullable=True),
        sa.Column("plan", JSONB(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("done", sa.BigInteger(), nullable=True),
        sa.Column("total", sa.BigInteger(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("requested_by", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("kind IN ('full', 'delta')", name=op.f("ck_sync_runs_kind")),
        sa.CheckConstraint("status IN ('running', 'done', 'failed', 'held')", name=op.f("ck_sync_runs_status")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "provider_id"],
            ["identity_providers.tenant_id", "identity_providers.id"],
            name=op.f("fk_sync_runs_tenant_id_provider_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_sync_runs")),
        sa.UniqueConstraint("tenant_id", "no", name=op.f("uq_sync_runs_tenant_id_no")),
    )
    op.create_index("ix_sync_runs_provider", "sync_runs", ["tenant_id", "provider_id", "no"], unique=False)
    op.create_table(
        "assignments",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("application_id", sa.Text(collation="C"), nullable=False),
        sa.Column("principal_id", sa.Text(collation="C"), nullable=False),
        sa.Column("roles", JSONB(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "application_id"],
            ["application_access.tenant_id", "application_access.application_id"],
            name=op.f("fk_assignments_tenant_id_application_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "principal_id"],
            ["resources.tenant_id", "resources.id"],
            name=op.f("fk_assignments_tenant_id_principal_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_assignments")),
    )
    op.create_index("ix_assignments_principal", "assignments", ["tenant_id", "principal_id"], unique=False)
    op.create_index(
        "uq_assignments_principal", "assignments", ["tenant_id", "application_id", "principal_id"], unique=True
    )
    op.create_table(
        "held_removals",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("link_no", sa.BigInteger(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("provider_id", sa.Text(collation="C"), nullable=False),
        sa.Column("run_id", sa.Text(collation="C"), nullable=False),
        sa.Column("status", sa.Text(), server_default="held", nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("evidence", sa.LargeBinary(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("action IN ('remove', 'disable', 'shrink')", name=op.f("ck_held_removals_action")),
        sa.CheckConstraint("status IN ('held', 'rejected')", name=op.f("ck_held_removals_status")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "link_no"],
            ["links.tenant_id", "links.no"],
            name=op.f("fk_held_removals_tenant_id_link_no"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "run_id"],
            ["sync_runs.tenant_id", "sync_runs.id"],
            name=op.f("fk_held_removals_tenant_id_run_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "link_no", "action", name=op.f("pk_held_removals")),
    )
    op.create_index("ix_held_removals_provider", "held_removals", ["tenant_id", "provider_id", "status"], unique=False)
    op.create_table(
        "link_records",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("link_no", sa.BigInteger(), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "link_no"],
            ["links.tenant_id", "links.no"],
            name=op.f("fk_link_records_tenant_id_link_no"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "link_no", name=op.f("pk_link_records")),
    )
    op.create_table(
        "scim_targets",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("application_id", sa.Text(collation="C"), nullable=False),
        sa.Column("base_url", sa.Text(), nullable=False),
        sa.Column("auth", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("secrets", sa.LargeBinary(), nullable=True),
        sa.Column("scope", sa.Text(), server_default="assigned", nullable=False),
        sa.Column("deprovision", sa.Text(), server_default="disable", nullable=False),
        sa.Column("removal_guard", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("status", sa.Text(), server_default="active", nullable=False),
        sa.Column("status_reason", sa.Text(), nullable=True),
        sa.Column("postponed_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("postponements", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("scope IN ('assigned', 'all')", name=op.f("ck_scim_targets_scope")),
        sa.CheckConstraint("status IN ('active', 'paused', 'quarantined')", name=op.f("ck_scim_targets_status")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "application_id"],
            ["application_access.tenant_id", "application_access.application_id"],
            name=op.f("fk_scim_targets_tenant_id_application_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_scim_targets")),
    )
    op.create_table(
        "sync_skips",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("no", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("run_id", sa.Text(collation="C"), nullable=False),
        sa.Column("position", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "run_id"],
            ["sync_runs.tenant_id", "sync_runs.id"],
            name=op.f("fk_sync_skips_tenant_id_run_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "no", name=op.f("pk_sync_skips")),
    )
    op.create_index("ix_sync_skips_run", "sync_skips", ["tenant_id", "run_id", "no"], unique=False)
    op.create_table(
        "deliveries",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("target_id", sa.Text(collation="C"), nullable=False),
        sa.Column("resource_type", sa.Text(collation="C"), nullable=False),
        sa.Column("resource_id", sa.Text(collation="C"), nullable=False),
        sa.Column("task", sa.Text(collation="C"), server_default="push", nullable=False),
        sa.Column("generation", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("lane", sa.SmallInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("fence", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("cursor", sa.Text(), nullable=True),
        sa.Column("approved", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("owed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("status IN ('pending', 'held', 'muted', 'failed')", name=op.f("ck_deliveries_status")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "target_id"],
            ["scim_targets.tenant_id", "scim_targets.id"],
            name=op.f("fk_deliveries_tenant_id_target_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(
            "tenant_id", "target_id", "resource_type", "resource_id", "task", name=op.f("pk_deliveries")
        ),
    )
    op.create_index(
        "ix_deliveries_due",
        "deliveries",
        ["tenant_id", "target_id", "lane", "due_at"],
        unique=False,
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index("ix_deliveries_target", "deliveries", ["tenant_id", "target_id", "status", "due_at"], unique=False)
    op.create_table(
        "target_members",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("target_id", sa.Text(collation="C"), nullable=False),
        sa.Column("group_id", sa.Text(collation="C"), nullable=False),
        sa.Column("member_id", sa.Text(collation="C"), nullable=False),
        sa.Column("certain", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "target_id"],
            ["scim_targets.tenant_id", "scim_targets.id"],
            name=op.f("fk_target_members_tenant_id_target_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "target_id", "group_id", "member_id", name=op.f("pk_target_members")),
    )
    op.create_index("ix_target_members_member", "target_members", ["tenant_id", "target_id", "member_id"], unique=False)
    op.create_table(
        "target_removals",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("no", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("target_id", sa.Text(collation="C"), nullable=False),
        sa.Column("resource_id", sa.Text(collation="C"), nullable=False),
        sa.Column("approved", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "target_id"],
            ["scim_targets.tenant_id", "scim_targets.id"],
            name=op.f("fk_target_removals_tenant_id_target_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "no", name=op.f("pk_target_removals")),
    )
    op.create_index("ix_target_removals_at", "target_removals", ["tenant_id", "target_id", "at"], unique=False)
    op.create_table(
        "target_resources",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("target_id", sa.Text(collation="C"), nullable=False),
        sa.Column("resource_id", sa.Text(collation="C"), nullable=False),
        sa.Column("resource_type", sa.Text(), nullable=False),
        sa.Column("remote_id", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), server_default="present", nullable=False),
        sa.Column("sent_digest", sa.LargeBinary(), nullable=True),
        sa.Column("sent_version", sa.BigInteger(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "state IN ('creating', 'present', 'disabled', 'removed')", name=op.f("ck_target_resources_state")
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "target_id"],
            ["scim_targets.tenant_id", "scim_targets.id"],
            name=op.f("fk_target_resources_tenant_id_target_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "target_id", "resource_id", name=op.f("pk_target_resources")),
    )
    op.create_index("ix_target_resources_resource", "target_resources", ["tenant_id", "resource_id"], unique=False)
    op.create_index(
        "uq_target_resources_remote",
        "target_resources",
        ["tenant_id", "target_id", "resource_type", "remote_id"],
        unique=True,
        postgresql_where=sa.text("remote_id IS NOT NULL"),
    )
