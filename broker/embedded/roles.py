"""The three database roles and the database they share.

The statements are `roles.sql` and `grants.sql` beside this file, which an operator of another PostgreSQL runs
with psql; `ensure_roles` runs the same two. Tables, policies and what the roles may do with them are the
migrations'.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from broker.embedded.home import DATABASE, ROLES

_HERE = Path(__file__).parent


def ensure_roles(superuser: psycopg.Connection, passwords: Mapping[str, str], database: str = DATABASE) -> None:
    """Make the roles, their passwords and the database what they must be, whatever is there already.

    `superuser` is in autocommit mode and may be connected to any database of the cluster. `passwords` maps
    each role to its password; only salted verifiers are sent.
    """
    superuser.execute((_HERE / "roles.sql").read_bytes())
    for role in ROLES:
        verifier = superuser.pgconn.encrypt_password(passwords[role].encode(), role.encode(), b"scram-sha-256").decode()
        superuser.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(verifier)))
    if not superuser.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,)).fetchone():
        superuser.execute(
            sql.SQL("CREATE DATABASE {} OWNER scaikey_owner TEMPLATE template0 ENCODING 'UTF8'").format(
                sql.Identifier(database)
            )
        )
    there = make_conninfo(superuser.info.dsn, password=superuser.info.password, dbname=database)
    with psycopg.connect(there, autocommit=True) as connection:
        connection.execute((_HERE / "grants.sql").read_bytes())
