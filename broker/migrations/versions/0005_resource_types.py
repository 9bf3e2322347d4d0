"""Agents are resources as well, with names of their own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_constraint(op.f("ck_resources_type"), "resources", type_="check")
    op.create_check_constraint(
        op.f("ck_resources_type"), "resources", "type IN ('User', 'Group', 'OrganizationalUnit', 'Agent')"
    )
    op.create_index(
        "uq_resources_agent_name",
        "resources",
        ["tenant_id", "name_key"],
        unique=True,
        postgresql_where=sa.text("type = 'Agent' AND removed_at IS NULL"),
    )
