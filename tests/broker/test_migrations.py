"""The schema's history ends where the models are, and running it again changes nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from broker import migrations
from broker.models import Base


@pytest.fixture
def owner(services):
    engine = sa.create_engine(services.owner_database_url, poolclass=sa.NullPool)
    yield engine
    engine.dispose()


def test_models_and_migrations_say_the_same(owner):
    with owner.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": False})
        assert compare_metadata(context, Base.metadata) == []


def test_upgrading_twice_and_from_two_places_at_once_is_safe(services, owner):
    with ThreadPoolExecutor(2) as pool:
        heads = set(pool.map(migrations.upgrade, [services.owner_database_url] * 2))
    assert heads == {migrations.head()}
    with owner.connect() as connection:
        assert migrations.current(connection) == migrations.head()
