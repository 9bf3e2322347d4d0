"""A SCIM token that was rotated has an earlier secret, which holds a while longer and is found like the present one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("scim_tokens", sa.Column("earlier_digest", sa.LargeBinary(), nullable=True))
    op.add_column("scim_tokens", sa.Column("earlier_until", sa.DateTime(timezone=True), nullable=True))
    op.create_unique_constraint(op.f("uq_scim_tokens_earlier_digest"), "scim_tokens", ["earlier_digest"])
    execute = op.get_bind().exec_driver_sql
    # Replaced by its owner and not made anew: who may call it stays as it is.
    execute("SET LOCAL ROLE scaikey_platform")
    execute(
        "CREATE OR REPLACE FUNCTION scaikey_find_token(wanted bytea) "
        "RETURNS TABLE (tenant_id text, id text, kind text) LANGUAGE sql STABLE ROWS 1 SECURITY DEFINER "
        "SET search_path = pg_catalog, public, pg_temp AS $$ "
        "SELECT tenant_id, id, 'pat' FROM personal_access_tokens WHERE digest = wanted "
        "UNION ALL SELECT tenant_id, id, 'scim' FROM scim_tokens WHERE digest = wanted "
        "UNION ALL SELECT tenant_id, id, 'scim' FROM scim_tokens "
        "WHERE earlier_digest = wanted AND earlier_until > now() $$"
    )
    execute("RESET ROLE")
