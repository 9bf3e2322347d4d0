"""`scaikey …`: the commands of the public contract.

Owns what a command takes and prints, and its exit status: 0 done, 1 something is wrong, 2 it could not begin. What is
wrong with the configuration or the installation is one line. What the commands do is their rooms'.
"""

from __future__ import annotations

import json
import os
import re
import sys
from datetime import timedelta
from typing import Any, NoReturn

import click
import sqlalchemy as sa
from flask import Flask
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from broker import (
    attributes,
    commands,
    config,
    credentials,
    embedded,
    health,
    migrations,
    push_commands,
    running,
    supervisor,
)
from broker.app import StartRefused, load_config, running_app
from broker.config import Config, ConfigError
from broker.context import Scope, acting, system
from broker.db import connect, db, platform_scope, unit
from broker.directory import Directory
from broker.errors import Problem
from broker.models import PersonalAccessToken, User
from broker.protocol import OUR_SCOPES
from broker.registry import changes, partners, roles
from broker.vault import VaultError

BOOTSTRAP_LIFE = timedelta(days=30)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="scaikey", prog_name="scaikey", message="%(prog)s %(version)s")
def cli() -> None:
    """ScaiKey: one directory between upstreams and applications."""


@cli.group()
def sync() -> None:
    """Read an upstream into the directory."""


@cli.group()
def scim() -> None:
    """Import and export people, groups and units."""


@cli.group()
def keys() -> None:
    """The keys that sign tokens."""


@cli.group()
def push() -> None:
    """Look after the targets that people and groups are pushed to."""


keys.add_command(commands.list_keys)
keys.add_command(commands.rotate_keys)
sync.add_command(commands.run_sync)
scim.add_command(commands.import_file)
scim.add_command(commands.export_file)
for command in (
    push_commands.show_status,
    push_commands.show_errors,
    push_commands.show_preview,
    push_commands.compare_target,
    push_commands.list_runs,
):
    push.add_command(command)


def main() -> None:
    """The `scaikey` command."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (ConfigError, StartRefused, embedded.ServicesFailed, supervisor.CannotRun, VaultError) as error:
        _fail(str(error))
    except Problem as problem:
        wrong = [f"{name}: {text}" for name, texts in problem.errors.items() for text in texts]
        _fail("; ".join([problem.detail, *wrong]))
    except sa.exc.OperationalError as error:
        _fail(f"database: {str(error.orig).splitlines()[0]}")


def _fail(line: str) -> NoReturn:
    click.echo(f"scaikey: {line}", err=True)
    sys.exit(2)


host_option = click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
port_option = click.option("--port", default=8080, show_default=True, type=click.IntRange(1, 65535))


@cli.command()
@host_option
@port_option
def up(host: str, port: int) -> None:
    """Run everything on this machine, until Ctrl-C."""
    sys.exit(supervisor.run(config.load(), host, port, migrate=_migrate))


def _migrate(configured: Config) -> str:
    return migrations.upgrade(configured.owner_database_url or "")


@cli.command()
@host_option
@port_option
def web(host: str, port: int) -> None:
    """Serve HTTP."""
    config.load()
    command = supervisor.web_command(host, port)
    os.execv(command[0], command)


@cli.command()
@click.option("--lane", type=click.Choice(["push", "pull"]), help="Only this work, for those who scale it by itself.")
def worker(lane: str | None) -> None:
    """Work off what applications are owed (push), and read upstreams (pull)."""
    from broker import worker as room

    with running_app():
        room.work(lane)


@cli.command()
def clock() -> None:
    """Wake what is due."""
    from broker import worker as room

    with running_app():
        room.tick()


@cli.command()
def migrate() -> None:
    """Bring the database's schema to its head."""
    loaded = load_config()
    with embedded.attach(loaded) as services:
        click.echo(f"at {_migrate(services.configure(loaded))}")


@cli.command()
@click.option("--email", default="admin@localhost", show_default=True, help="E-mail and user name of the super admin.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--reset", is_flag=True, help="Revoke the tokens of earlier bootstraps and make a new one.")
def bootstrap(email: str, as_json: bool, reset: bool) -> None:
    """Make the first super admin and a platform token, once."""
    if not (email.isprintable() and re.fullmatch(r"[^@\s]+@[^@\s]+", email)):
        _fail("--email must be an e-mail address")
    with running_app(), acting(system("bootstrap")):
        base_url = running.config().base_url
        made = first_administrator(email, reset=reset)
    if made is None:
        _fail("this installation is bootstrapped already; --reset makes a new token and revokes the earlier ones")
    user_id, pat = made
    if as_json:
        click.echo(json.dumps({"base_url": base_url, "pat": pat, "user_id": user_id}))
    else:
        click.echo(f"Super admin {email} ({user_id}) at {base_url}\n\n    {pat}\n")
        click.echo(f"This token is shown once and lasts {BOOTSTRAP_LIFE.days} days.")


def first_administrator(email: str, *, reset: bool) -> tuple[str, str] | None:
    """Make the reserved tenant, its super admin and a platform token; None when that was done before."""
    with platform_scope():
        partner = partners.create_platform()
        tenant = Scope(partner.home_tenant_id, partner.id, "platform", partner.slug)
    with unit(tenant) as session:
        session.execute(sa.text("SELECT pg_advisory_xact_lock(hashtextextended('scaikey:bootstrap', 0))"))
        done = session.scalar(sa.select(sa.exists().where(PersonalAccessToken.bootstrap)))
        if done and not reset:
            return None
        revoked = credentials.revoke_bootstrap()
        user_id = _super_admin(email)
        options: dict[str, Any] = {"scopes": OUR_SCOPES, "longest": BOOTSTRAP_LIFE, "bootstrap": True}
        _, pat = credentials.mint_pat(user_id, name="bootstrap", **options)
        changes.tell("platform.bootstrapped", "User", user_id, {"reset": reset, "revoked_tokens": revoked})
    return user_id, pat


def _super_admin(email: str) -> str:
    """The person of that user name in the platform tenant, able to sign in and a super admin."""
    session = db.session()
    found = sa.select(User).where(User.name_key == attributes.fold(email), User.removed_at.is_(None))
    user = session.scalar(found)
    if user is None:
        document = {"userName": email, "displayName": email, "emails": [{"value": email, "type": "work"}]}
        user_id = Directory().create("User", {**document, "active": True}).id
    else:
        user_id = user.id
        if not user.active:
            Directory().replace("User", user_id, {**json.loads(user.document), "active": True}, complete=True)
    roles.appoint(user_id)
    return user_id


@cli.command()
def doctor() -> None:
    """Look at everything this installation stands on."""
    loaded = load_config()
    with embedded.attach(loaded) as services:
        app = Flask("doctor")
        configured = services.configure(loaded)
        running.install(app, configured)
        connect(app, url=services.database_url, platform_url=services.platform_database_url)
        with app.app_context():
            verdicts = health.examination()
            for engine in db.engines.values():
                engine.dispose()
    table = Table("check", "verdict", "found", "what to do", title="ScaiKey doctor", title_justify="left")
    for verdict in verdicts:
        table.add_row(
            verdict.name,
            "[green]ok[/]" if verdict.ok else "[red]broken[/]",
            escape(verdict.found),
            escape(verdict.mend),
        )
    Console().print(table)
    sys.exit(0 if all(verdict.ok for verdict in verdicts) else 1)


if __name__ == "__main__":
    main()
