"""How a target is spoken to: its profile, what it said of itself, what it is sent under which names.

Existing targets begin as `auto`: they are asked what they can before they are next sent anything.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    column: sa.Column[Any]
    for column in (
        sa.Column("profile", sa.Text(), server_default="auto", nullable=False),
        sa.Column("mapping", JSONB(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("nested_groups", sa.Text(), server_default="auto", nullable=False),
        sa.Column("capabilities", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("probed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("flattens", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("revision", sa.Integer(), server_default=sa.text("0"), nullable=False),
    ):
        op.add_column("scim_targets", column)
    op.create_check_constraint("nested_groups", "scim_targets", "nested_groups IN ('auto', 'keep', 'flatten')")
    for column in (
        sa.Column("sent_revision", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("left_out", JSONB(), server_default=sa.text("'[]'"), nullable=False),
    ):
        op.add_column("target_resources", column)
