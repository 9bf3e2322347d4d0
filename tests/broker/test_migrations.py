"""The schema's history ends where the models are, and running it again changes nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from broker import config, embedded, migrations
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


def test_what_was_read_before_live_upstreams_came_is_kept(tmp_path):
    """Forced row-level security hides every tenant's rows from whoever migrates."""
    running = embedded.start(config.load({"SCAIKEY_DATA_DIR": str(tmp_path)}), durable=False)
    try:
        migrations.upgrade(running.owner_database_url, "0003")
        platform = sa.create_engine(running.platform_database_url, poolclass=sa.NullPool)
        with platform.begin() as connection:
            for statement in (
                "INSERT INTO partners (id, name, slug) VALUES ('prt_a', 'A', 'a')",
                "INSERT INTO tenants (id, partner_id, name, slug, kind) "
                "VALUES ('tnt_a', 'prt_a', 'A', 'a', 'customer')",
                "INSERT INTO identity_providers (tenant_id, id, kind, name, good_config) "
                "VALUES ('tnt_a', 'idp_a', 'ldap', 'AD', 'x')",
                "INSERT INTO sync_runs (tenant_id, id, provider_id, kind) VALUES ('tnt_a', 'run_a', 'idp_a', 'full')",
            ):
                connection.exec_driver_sql(statement)
        migrations.upgrade(running.owner_database_url)
        with platform.begin() as connection:
            assert connection.exec_driver_sql("SELECT source FROM sync_runs").scalars().all() == ["file"]
            assert connection.exec_driver_sql("SELECT good_config FROM identity_providers").scalars().all() == [None]
            named = "relname IN ('sync_runs', 'identity_providers')"
            forced = f"SELECT bool_and(relforcerowsecurity) FROM pg_class WHERE {named}"
            assert connection.exec_driver_sql(forced).scalar()
    finally:
        running.stop()
