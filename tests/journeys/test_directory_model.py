"""Random changes of a live Active Directory, and after each delta we say what a model in memory says.

`MODEL_SECONDS` says how long each mode is tried, `MODEL_SEED` by which random numbers; a failure tells the seed, and
what was done since the last time all was well.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask import Flask

from broker.context import Scope, acting, system
from broker.db import unit
from tests.canonical_ldif import canonical
from tests.conftest import make_world
from tests.journeys.following import Following, read_canonically
from tests.journeys.modelled import Expected, Model
from tests.upstreams.samba import Service, active_directory

pytestmark = pytest.mark.long

SECONDS = int(os.environ.get("MODEL_SECONDS", "15"))
SEED = os.environ.get("MODEL_SEED", "4")
AT_ONCE = 6
MODES: list[tuple[str, Service]] = [("dirsync", "dirsync"), ("usn", "deleted")]
ANYTHING_GOES = {"min": 100_000, "percent": 100, "percent_24h": 100}

_PEOPLE = sa.text("""
    SELECT l.key, r.external_id, l.ref, r.active AND coalesce(r.active_until > now(), true),
           convert_from(r.document, 'UTF8')::jsonb ->> 'title', m.key,
           convert_from(r.document, 'UTF8')::jsonb #>> ARRAY[CAST(:ad AS text), 'sAMAccountName']
    FROM links l JOIN resources r ON r.tenant_id = l.tenant_id AND r.id = l.resource_id
    LEFT JOIN links m ON m.tenant_id = l.tenant_id AND m.resource_id = r.manager_id AND m.gone_at IS NULL
    WHERE l.tenant_id = :tenant AND l.gone_at IS NULL AND r.removed_at IS NULL AND r.type = 'User'
""")
_GROUPS = sa.text("""
    SELECT g.key, g.ref, array_remove(array_agg(m.key), NULL)
    FROM links g JOIN resources r ON r.tenant_id = g.tenant_id AND r.id = g.resource_id
    LEFT JOIN memberships s ON s.tenant_id = g.tenant_id AND s.group_id = r.id AND s.kind = 'member'
    LEFT JOIN links m ON m.tenant_id = g.tenant_id AND m.resource_id = s.member_id AND m.gone_at IS NULL
    WHERE g.tenant_id = :tenant AND g.gone_at IS NULL AND r.removed_at IS NULL AND r.type = 'Group'
    GROUP BY g.key, g.ref
""")
_UNITS = sa.text("""
    SELECT l.key, l.ref FROM links l JOIN resources r ON r.tenant_id = l.tenant_id AND r.id = l.resource_id
    WHERE l.tenant_id = :tenant AND l.gone_at IS NULL AND r.removed_at IS NULL AND r.type = 'OrganizationalUnit'
      AND l.ref <> :root
""")
AD_USER = "urn:scaikey:params:scim:schemas:extension:activedirectory:1.0:User"


def said(scope: Scope, root: str) -> Expected:
    """What the tenant's directory says."""
    values = {"tenant": scope.tenant_id, "ad": AD_USER, "root": root.lower()}
    with unit(scope) as session:
        people = session.execute(_PEOPLE, values).all()
        groups = session.execute(_GROUPS, values).all()
        units = session.execute(_UNITS, values).all()
    found = {}
    for key, external_id, ref, active, title, manager, account in people:
        assert external_id == key
        found[key] = (account, ref, active, title, manager)
    counted = {key: (ref, frozenset(members)) for key, ref, members in groups}
    assert all(len(members) == len(set(members)) for _, _, members in groups), "somebody is in a group twice"
    return Expected(found, counted, dict(map(tuple, units)))


def differing(found: Expected, expected: Expected) -> str:
    lines = []
    for kind, ours, theirs in zip(Expected._fields, found, expected, strict=True):
        for key in sorted(ours.keys() | theirs.keys()):
            if ours.get(key) != theirs.get(key):
                lines.append(f"{kind} {key}: said {ours.get(key)}, expected {theirs.get(key)}")
    return "\n".join(lines)


def try_for(mode: str, service: Service, seconds: float, seed: str, folder: Path) -> int:
    """Change and compare for so long; returns how many deltas were compared."""
    with active_directory() as directory:
        model = Model(directory, f"{seed} {mode}")
        followed = Following.active_directory(make_world().acme, directory, service, mode, base_dns=[model.root])
        followed.guard(ANYTHING_GOES)
        followed.sync()
        assert said(followed.scope, model.root) == model.expected()
        rounds, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            done = [model.deed() for _ in range(model.random.randint(1, AT_ONCE))]
            story = f"seed {seed}, mode {mode}, delta {rounds}, after: {'; '.join(done)}"
            assert followed.sync().kind == "delta", story
            found, expected = said(followed.scope, model.root), model.expected()
            assert found == expected, f"{story}\n{differing(found, expected)}"
            if model.random.random() < 0.1:
                again = followed.sync(full=True)
                assert (again.created, again.removed, again.disabled, again.skipped) == (0, 0, 0, 0), story
                assert said(followed.scope, model.root) == expected, story
            rounds += 1
        followed.sync(full=True)
        there = read_canonically(directory.raw_read(service, model.root))
        assert canonical(followed.exported(folder / "out.ldif")) == there
        return rounds


@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.parametrize(("mode", "service"), MODES)
def test_after_each_delta_the_directory_is_what_the_model_says(
    engines: Flask, mode: str, service: Service, tmp_path: Path
) -> None:
    with engines.app_context(), acting(system("tests")):
        assert try_for(mode, service, SECONDS, SEED, tmp_path) > 5
