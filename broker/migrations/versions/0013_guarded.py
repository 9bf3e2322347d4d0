"""What the removal guard let pass says how much it was: to be disabled, or to be deleted in the end.

Comparisons that are over are found by their end.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("target_removals", sa.Column("covers", sa.Text(), server_default="disable", nullable=False))
    op.create_check_constraint("covers", "target_removals", "covers IN ('nothing', 'disable', 'delete')")
    op.create_index("ix_target_removals_resource", "target_removals", ["tenant_id", "target_id", "resource_id"])
    op.create_index("ix_target_runs_finished", "target_runs", ["finished_at"])
