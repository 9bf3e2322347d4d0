"""Alembic's entry: runs the revisions on the connection that `upgrade` opened."""

from __future__ import annotations

from alembic import context

from broker.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    compare_type=True,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
