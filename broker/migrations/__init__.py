"""The schema's history, and the one way to bring a database to its head.

Revisions carry the tables, the row-level security, the grants and the SECURITY DEFINER functions. They run as the owner
role, under an advisory lock: safe to run twice and from two machines at once.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

LOCK = 0x5CA1_4E11


def _settings() -> AlembicConfig:
    settings = AlembicConfig()
    settings.set_main_option("script_location", str(Path(__file__).parent))
    return settings


def head() -> str:
    """The revision this code needs."""
    revision = ScriptDirectory.from_config(_settings()).get_current_head()
    assert revision is not None
    return revision


def current(connection: sa.Connection) -> str | None:
    """The revision the database has, or None before the first migration."""
    return MigrationContext.configure(connection).get_current_revision()


def upgrade(owner_url: str, to: str = "head") -> str:
    """Bring the schema to head, or to an earlier revision, as the owner role; returns the head."""
    engine = sa.create_engine(owner_url, poolclass=sa.NullPool)
    try:
        with engine.connect() as guard, engine.connect() as connection:
            guard.execute(sa.text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
            try:
                settings = _settings()
                settings.attributes["connection"] = connection
                command.upgrade(settings, to)
                connection.commit()
            finally:
                guard.execute(sa.text("SELECT pg_advisory_unlock(:lock)"), {"lock": LOCK})
    finally:
        engine.dispose()
    return head()
