"""A tenant of 200,000 people is written as an archive and imported elsewhere under 300 MB.

`SOAK_ARCHIVE` is how many people, for whoever has less time.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from broker import context, ids
from broker.config import Config
from broker.context import Scope
from broker.db import platform_scope, unit
from broker.embedded import Services
from broker.models import Resource
from tests.conftest import World, make_provider

PEOPLE = int(os.environ.get("SOAK_ARCHIVE", "200000"))
MOST = 300 * 1024
"""Kilobytes."""

_PEOPLE = sa.text("""
    INSERT INTO resources (tenant_id, id, type, name, name_key, document, local)
    SELECT :tenant, u.id, 'User', 'p' || u.no, 'p' || u.no, convert_to(jsonb_build_object(
        'id', u.id, 'schemas', jsonb_build_array('urn:ietf:params:scim:schemas:core:2.0:User'),
        'userName', 'p' || u.no, 'displayName', 'Person number ' || u.no)::text, 'UTF8'), '{}'
    FROM unnest(CAST(:ids AS text[])) WITH ORDINALITY AS u(id, no)
""")
_GROUP = sa.text("""
    INSERT INTO resources (tenant_id, id, type, name, name_key, display_name, display_key, token_name, token_key,
                           document)
    SELECT :tenant, CAST(:id AS text), 'Group', 'all', 'all', 'all', 'all', 'all', 'all',
        convert_to(jsonb_build_object('id', CAST(:id AS text), 'displayName', 'all',
        'schemas', jsonb_build_array('urn:ietf:params:scim:schemas:core:2.0:Group'))::text, 'UTF8')
""")
_MEMBERS = sa.text("""
    INSERT INTO memberships (tenant_id, group_id, member_id, member_key)
    SELECT tenant_id, :id, id, id FROM resources WHERE tenant_id = :tenant AND type = 'User'
""")
_LINKS = sa.text("""
    WITH made AS (
        INSERT INTO links (tenant_id, provider_id, key, resource_id, kind, name, ref, digest, quiet_digest)
        SELECT tenant_id, :via, id, id, 'user', 'CN=' || name, 'cn=' || name, '\\x00', '\\x00'
        FROM resources WHERE tenant_id = :tenant AND type = 'User' RETURNING tenant_id, no, name)
    INSERT INTO link_records (tenant_id, link_no, record)
    SELECT tenant_id, no, convert_to('[[["cn",["' || name || '"]],["info",["' || repeat('x', 600) || '"]]],[]]', 'UTF8')
    FROM made
""")


def crowd(scope: Scope) -> None:
    """People with records, all of them in one group."""
    via, group = make_provider(scope), ids.new("grp")
    here = {"tenant": scope.tenant_id}
    with platform_scope() as session:
        session.execute(sa.text("SET LOCAL statement_timeout = 0"))
        session.execute(_PEOPLE, {**here, "ids": ids.new_many("usr", PEOPLE)})
        session.execute(_GROUP, {**here, "id": group})
        session.execute(_MEMBERS, {**here, "id": group})
        session.execute(_LINKS, {**here, "via": via})


def command(services: Services, settings: Config, *arguments: str) -> tuple[float, int]:
    """Seconds and the most kilobytes of a command, which must end well."""
    configured = services.configure(settings)
    environment = {
        **os.environ,
        "DATABASE_URL": configured.database_url or "",
        "SCAIKEY_OWNER_DATABASE_URL": configured.owner_database_url or "",
        "SCAIKEY_PLATFORM_DATABASE_URL": configured.platform_database_url or "",
        "REDIS_URL": configured.redis_url or "",
        "SCAIKEY_DATA_DIR": str(configured.data_dir),
        "SCAIKEY_LOG_LEVEL": "ERROR",
    }
    begun = time.monotonic()
    order = [sys.executable, "-m", "broker.cli", "scim", *arguments, "--json"]
    child = subprocess.Popen(order, env=environment, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    assert isinstance(used, resource.struct_rusage)
    return time.monotonic() - begun, used.ru_maxrss


@pytest.mark.soak
def test_a_large_tenant_is_moved_in_little_memory(
    services: Services, settings: Config, world: World, tmp_path: Path
) -> None:
    with context.acting(context.system("test")):
        crowd(world.acme)
    make_provider(world.globex)
    path = tmp_path / "acme.ndjson"
    for deed, slug in (("export", world.acme.slug), ("import", world.globex.slug)):
        seconds, kilobytes = command(services, settings, deed, "--tenant", str(slug), str(path))
        print(f"{deed}: {PEOPLE} people, {path.stat().st_size >> 20} MiB, {seconds:.0f} s, {kilobytes >> 10} MiB")
        assert kilobytes < MOST
    with unit(world.globex) as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Resource)) == PEOPLE + 1
