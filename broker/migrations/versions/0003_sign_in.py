"""People sign in and applications get tokens: their tables, walls and finders."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TENANT_TABLES = (
    "attempts",
    "authorization_codes",
    "client_secrets",
    "consents",
    "grants",
    "one_time",
    "passwords",
    "refresh_tokens",
    "revoked_tokens",
    "service_accounts",
    "sessions",
    "sign_in_flows",
)
TENANT = "current_setting('scaikey.tenant', true)"


def upgrade() -> None:
    op.create_table(
        "signing_keys",
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("algorithm", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("public", JSONB(), nullable=False),
        sa.Column("private", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("activated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("replaced_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("retire_after", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("algorithm IN ('RS256', 'ES256')", name=op.f("ck_signing_keys_algorithm")),
        sa.CheckConstraint("status IN ('next', 'current', 'previous', 'retired')", name=op.f("ck_signing_keys_status")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_signing_keys")),
    )
    op.create_index(
        "uq_signing_keys_status",
        "signing_keys",
        ["algorithm", "status"],
        unique=True,
        postgresql_where=sa.text("status IN ('next', 'current')"),
    )
    op.create_table(
        "attempts",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("subject", sa.LargeBinary(), nullable=False),
        sa.Column("failures", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("window_ends", sa.DateTime(timezone=True), nullable=False),
        sa.Column("blocked_until", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_attempts_tenant_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("tenant_id", "subject", name=op.f("pk_attempts")),
    )
    op.create_index("ix_attempts_window", "attempts", ["window_ends"], unique=False)
    op.create_table(
        "one_time",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("purpose", sa.Text(collation="C"), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_one_time_tenant_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("tenant_id", "purpose", "digest", name=op.f("pk_one_time")),
    )
    op.create_index("ix_one_time_expires", "one_time", ["expires_at"], unique=False)
    op.create_table(
        "revoked_tokens",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("jti", sa.Text(collation="C"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_revoked_tokens_tenant_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tenant_id", "jti", name=op.f("pk_revoked_tokens")),
    )
    op.create_index("ix_revoked_tokens_expires", "revoked_tokens", ["expires_at"], unique=False)
    op.create_table(
        "sign_in_flows",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("browser", sa.LargeBinary(), nullable=False),
        sa.Column("request", JSONB(), nullable=True),
        sa.Column("issuer", sa.Text(), server_default="tenant", nullable=False),
        sa.Column("username", sa.Text(), nullable=True),
        sa.Column("provider_id", sa.Text(collation="C"), nullable=True),
        sa.Column("state", sa.LargeBinary(), nullable=True),
        sa.Column("memo", sa.LargeBinary(), nullable=True),
        sa.Column("reply", sa.LargeBinary(), nullable=True),
        sa.Column("session_id", sa.Text(collation="C"), nullable=True),
        sa.Column("consented", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("noted", JSONB(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_sign_in_flows_tenant_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_sign_in_flows")),
    )
    op.create_index("ix_sign_in_flows_expires", "sign_in_flows", ["expires_at"], unique=False)
    op.create_table(
        "passwords",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("user_id", sa.Text(collation="C"), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "user_id"],
            ["resources.tenant_id", "resources.id"],
            name=op.f("fk_passwords_tenant_id_user_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "user_id", name=op.f("pk_passwords")),
    )
    op.create_table(
        "service_accounts",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("name", sa.Text(collation="C"), nullable=False),
        sa.Column("client_id", sa.Text(collation="C"), nullable=False),
        sa.Column("scopes", JSONB(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("audiences", JSONB(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "id"],
            ["resources.tenant_id", "resources.id"],
            name=op.f("fk_service_accounts_tenant_id_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_service_accounts")),
        sa.UniqueConstraint("client_id", name=op.f("uq_service_accounts_client_id")),
    )
    op.create_index("uq_service_accounts_name", "service_accounts", ["tenant_id", "name"], unique=True)
    op.create_table(
        "sessions",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("user_id", sa.Text(collation="C"), nullable=False),
        sa.Column("provider_id", sa.Text(collation="C"), nullable=True),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("auth_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("amr", JSONB(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("upstream", sa.LargeBinary(), nullable=True),
        sa.Column("user_agent", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["tenant_id", "provider_id"],
            ["identity_providers.tenant_id", "identity_providers.id"],
            name=op.f("fk_sessions_tenant_id_provider_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "user_id"],
            ["resources.tenant_id", "resources.id"],
            name=op.f("fk_sessions_tenant_id_user_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_sessions")),
        sa.UniqueConstraint("digest", name=op.f("uq_sessions_digest")),
    )
    op.create_index("ix_sessions_expires", "sessions", ["expires_at"], unique=False)
    op.create_index("ix_sessions_user", "sessions", ["tenant_id", "user_id"], unique=False)
    op.create_table(
        "client_secrets",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("application_id", sa.Text(collation="C"), nullable=True),
        sa.Column("service_account_id", sa.Text(collation="C"), nullable=True),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "num_nonnulls(application_id, service_account_id) = 1", name=op.f("ck_client_secrets_owner")
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "application_id"],
            ["applications.tenant_id", "applications.id"],
            name=op.f("fk_client_secrets_tenant_id_application_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "service_account_id"],
            ["service_accounts.tenant_id", "service_accounts.id"],
            name=op.f("fk_client_secrets_tenant_id_service_account_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_client_secrets_tenant_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_client_secrets")),
    )
    op.create_index("ix_client_secrets_application", "client_secrets", ["tenant_id", "application_id"], unique=False)
    op.create_index(
        "ix_client_secrets_service_account", "client_secrets", ["tenant_id", "service_account_id"], unique=False
    )
    op.create_table(
        "consents",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("user_id", sa.Text(collation="C"), nullable=False),
        sa.Column("application_id", sa.Text(collation="C"), nullable=False),
        sa.Column("scopes", JSONB(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "application_id"],
            ["application_access.tenant_id", "application_access.application_id"],
            name=op.f("fk_consents_tenant_id_application_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "user_id"],
            ["resources.tenant_id", "resources.id"],
            name=op.f("fk_consents_tenant_id_user_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "user_id", "application_id", name=op.f("pk_consents")),
    )
    op.create_table(
        "grants",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("user_id", sa.Text(collation="C"), nullable=False),
        sa.Column("application_id", sa.Text(collation="C"), nullable=False),
        sa.Column("session_id", sa.Text(collation="C"), nullable=False),
        sa.Column("provider_id", sa.Text(collation="C"), nullable=True),
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("scopes", JSONB(), nullable=False),
        sa.Column("audience", sa.Text(), nullable=False),
        sa.Column("nonce", sa.Text(), nullable=True),
        sa.Column("auth_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("amr", JSONB(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_reason", sa.Text(), nullable=True),
        sa.CheckConstraint("issuer IN ('tenant', 'platform')", name=op.f("ck_grants_issuer")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "application_id"],
            ["application_access.tenant_id", "application_access.application_id"],
            name=op.f("fk_grants_tenant_id_application_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "provider_id"],
            ["identity_providers.tenant_id", "identity_providers.id"],
            name=op.f("fk_grants_tenant_id_provider_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "session_id"],
            ["sessions.tenant_id", "sessions.id"],
            name=op.f("fk_grants_tenant_id_session_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "user_id"],
            ["resources.tenant_id", "resources.id"],
            name=op.f("fk_grants_tenant_id_user_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_grants")),
    )
    op.create_index("ix_grants_application", "grants", ["tenant_id", "application_id"], unique=False)
    op.create_index("ix_grants_expires", "grants", ["expires_at"], unique=False)
    op.create_index("ix_grants_session", "grants", ["tenant_id", "session_id"], unique=False)
    op.create_index("ix_grants_user", "grants", ["tenant_id", "user_id"], unique=False)
    op.create_table(
        "authorization_codes",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("grant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("redirect_uri", sa.Text(), nullable=False),
        sa.Column("code_challenge", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["tenant_id", "grant_id"],
            ["grants.tenant_id", "grants.id"],
            name=op.f("fk_authorization_codes_tenant_id_grant_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_authorization_codes")),
        sa.UniqueConstraint("digest", name=op.f("uq_authorization_codes_digest")),
    )
    op.create_index("ix_authorization_codes_expires", "authorization_codes", ["expires_at"], unique=False)
    op.create_table(
        "refresh_tokens",
        sa.Column("tenant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("grant_id", sa.Text(collation="C"), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["tenant_id", "grant_id"],
            ["grants.tenant_id", "grants.id"],
            name=op.f("fk_refresh_tokens_tenant_id_grant_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_refresh_tokens")),
        sa.UniqueConstraint("digest", name=op.f("uq_refresh_tokens_digest")),
    )
    op.create_index("ix_refresh_tokens_grant", "refresh_tokens", ["tenant_id", "grant_id"], unique=False)
    op.add_column(
        "applications", sa.Column("third_party", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.add_column("applications", sa.Column("redirect_uris", JSONB(), server_default=sa.text("'[]'"), nullable=False))
    op.add_column(
        "applications", sa.Column("post_logout_redirect_uris", JSONB(), server_default=sa.text("'[]'"), nullable=False)
    )
    op.add_column(
        "applications",
        sa.Column("grant_types", JSONB(), server_default=sa.text("'[\"authorization_code\"]'"), nullable=False),
    )
    op.add_column(
        "applications",
        sa.Column("token_endpoint_auth_method", sa.Text(), server_default="client_secret_basic", nullable=False),
    )
    op.add_column("applications", sa.Column("jwks", JSONB(), nullable=True))
    op.add_column("applications", sa.Column("jwks_uri", sa.Text(), nullable=True))
    op.add_column(
        "applications", sa.Column("access_token_signed_response_alg", sa.Text(), server_default="RS256", nullable=False)
    )
    op.add_column(
        "applications", sa.Column("id_token_signed_response_alg", sa.Text(), server_default="RS256", nullable=False)
    )
    op.add_column(
        "applications", sa.Column("allowed_audiences", JSONB(), server_default=sa.text("'[]'"), nullable=False)
    )
    op.add_column(
        "applications",
        sa.Column(
            "scopes",
            JSONB(),
            server_default=sa.text('\'["openid", "profile", "email", "offline_access"]\''),
            nullable=False,
        ),
    )
    op.add_column("applications", sa.Column("access_token_lifetime", sa.Integer(), nullable=True))
    op.add_column("applications", sa.Column("authorization_code_lifetime", sa.Integer(), nullable=True))
    op.add_column(
        "resources", sa.Column("email_doubted", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.add_column(
        "identity_providers", sa.Column("sign_in", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.add_column("identity_providers", sa.Column("domains", JSONB(), server_default=sa.text("'[]'"), nullable=False))
    op.add_column(
        "identity_providers",
        sa.Column("jit", JSONB(), server_default=sa.text('\'{"enabled": false, "groups": []}\''), nullable=False),
    )
    op.add_column("identity_providers", sa.Column("linking", sa.Text(), server_default="never", nullable=False))
    op.add_column("identity_providers", sa.Column("match", JSONB(), server_default=sa.text("'[]'"), nullable=False))
    op.add_column(
        "identity_providers", sa.Column("match_within", JSONB(), server_default=sa.text("'[]'"), nullable=False)
    )
    # ### end Alembic commands ###
    op.create_check_constraint(
        "auth_method",
        "applications",
        "token_endpoint_auth_method IN ('client_secret_basic', 'client_secret_post', 'private_key_jwt', 'none')",
    )
    op.create_index(
        "ix_applications_audience",
        "applications",
        ["audience"],
        unique=False,
        postgresql_where=sa.text("audience IS NOT NULL"),
    )
    op.create_check_constraint("linking", "identity_providers", "linking IN ('never', 'verified_email')")
    walls()


def walls() -> None:
    """Row-level security and grants as for every table, and the finders of what is shown before its tenant is known."""
    execute = op.get_bind().exec_driver_sql
    for name in ("signing_keys", *TENANT_TABLES):
        execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO scaikey_platform")
        execute(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY")
        execute(f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY")
    for name in TENANT_TABLES:
        execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO scaikey_app")
        execute(f"CREATE POLICY tenant ON {name} USING (tenant_id = {TENANT}) WITH CHECK (tenant_id = {TENANT})")
    execute("GRANT SELECT ON signing_keys TO scaikey_app")
    execute("CREATE POLICY everybody ON signing_keys FOR SELECT USING (true)")
    finder(
        "scaikey_find_client(wanted text)",
        "TABLE (tenant_id text, id text, kind text)",
        "SELECT tenant_id, id, 'application' FROM applications WHERE client_id = wanted "
        "UNION ALL SELECT tenant_id, id, 'service_account' FROM service_accounts WHERE client_id = wanted",
    )
    finder(
        "scaikey_find_audience(wanted text, reach text)",
        "TABLE (tenant_id text, id text)",
        "SELECT a.tenant_id, a.id FROM tenants here, applications a JOIN tenants keeper ON keeper.id = a.tenant_id "
        f"WHERE here.id = {TENANT} AND a.audience = wanted AND (a.tenant_id = here.id OR 'GLOBAL' IN (a.scope, reach) "
        "OR 'PARTNER' IN (a.scope, reach) AND keeper.partner_id = here.partner_id)",
    )
    for noun, table in (("code", "authorization_codes"), ("refresh", "refresh_tokens"), ("session", "sessions")):
        finder(
            f"scaikey_find_{noun}(wanted bytea)",
            "TABLE (tenant_id text, id text)",
            f"SELECT tenant_id, id FROM {table} WHERE digest = wanted",
        )
    finder(
        "scaikey_find_domain(wanted text)",
        "TABLE (tenant_id text, id text)",
        "SELECT tenant_id, id FROM domains WHERE name = wanted AND verified",
    )


def finder(signature: str, returns: str, body: str) -> None:
    """A look-up that must come before any tenant is known: returns tenant and id, nothing else."""
    execute = op.get_bind().exec_driver_sql
    name, _, arguments = signature.rstrip(")").partition("(")
    typed = f"{name}({', '.join(argument.split()[-1] for argument in arguments.split(','))})"
    execute(
        f"CREATE FUNCTION {signature} RETURNS {returns} LANGUAGE sql STABLE ROWS 1 SECURITY DEFINER "
        f"SET search_path = pg_catalog, public, pg_temp AS $$ {body} $$"
    )
    execute(f"REVOKE ALL ON FUNCTION {typed} FROM PUBLIC")
    execute(f"GRANT EXECUTE ON FUNCTION {typed} TO scaikey_app, scaikey_platform")
    execute(f"ALTER FUNCTION {typed} OWNER TO scaikey_platform")
