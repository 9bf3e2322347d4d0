"""The commands that move a directory (import a file, export one, run a sync) and those that turn the signing keys.

Owns their options, the progress they show (a bar on a terminal, a line of JSON per event with `--json`) and their exit
status: 0 done, 3 removals are held or lines were refused, 1 failed, 2 could not begin. The work is `sync`'s,
`scim.archive`'s and `keys`'.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import click
import sqlalchemy as sa
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from broker import connections, context, sync
from broker.app import running_app
from broker.context import Scope
from broker.db import platform_scope, unit
from broker.errors import Problem
from broker.models import ArchiveRefusal, ArchiveRun, IdentityProvider, SyncRun, Tenant
from broker.registry import providers
from broker.sync import Order, SyncProgress
from connectors import kinds
from connectors.port import ChangeFeed, Misconfigured
from oidc import keys
from scim import archive

_STATUS = {"done": 0, "held": 3, "failed": 1}
_SHOWN = ("read", "created", "updated", "unchanged", "disabled", "removed", "skipped", "held_removals")
_TAKEN = ("line", "total", "created", "unchanged", "refused")
_REFUSED = 100
"""Refusals that are shown; the run has them all."""
_PATIENCE = sync.LEASE.total_seconds() + 2
"""Seconds to wait for a run that died: as long as its lease may last."""

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON line per event instead of a progress bar.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--provider", "provider_id", help="The provider whose directory the file is an export of.")
@click.option("--tenant", "slug", help="The tenant an NDJSON archive belongs to.")
@dry_run_option
@json_option
def import_file(file: Path, provider_id: str | None, slug: str | None, dry_run: bool, as_json: bool) -> None:
    """Read FILE: an LDIF export as a full pass of a provider, or an archive (NDJSON) into a tenant."""
    if (slug is None) == (provider_id is None):
        refuse("name the tenant of an archive (--tenant …) or the provider of an LDIF export (--provider idp_…)")
    with ready():
        if slug is not None:
            sys.exit(_take(_scope_of_tenant(slug), file, dry_run, as_json))
        assert provider_id is not None
        scope = _scope_of_provider(provider_id)
        feed = _feed(scope, provider_id, file)
        status = _read(scope, provider_id, feed, Order(dry_run=dry_run), as_json)
    sys.exit(status)


@click.command("export")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--tenant", "slug", required=True, help="The tenant's slug.")
@click.option("--provider", "provider_id", help="Whose records; may be left out where the tenant has one directory.")
@json_option
def export_file(file: Path, slug: str, provider_id: str | None, as_json: bool) -> None:
    """Write to FILE, without loss, what a provider said (*.ldif), or the whole tenant (*.ndjson)."""
    whole = file.suffix == ".ndjson"
    if whole and provider_id is not None:
        refuse("an archive is of the whole tenant: leave --provider out, or name the file *.ldif")
    with ready():
        scope = _scope_of_tenant(slug)
        if whole:
            with bar(as_json, MofNCompleteColumn()) as show:
                counts = archive.export_archive(scope, file, lambda done, total: show(done, total, done))
            _tell_archive(counts, file, as_json)
            return
        chosen = _provider_of(scope, provider_id)
        with bar(as_json, MofNCompleteColumn()) as show:
            written = archive.export_ldif(scope, chosen, file, lambda done, total: show(done, total, done))
    if as_json:
        say("done", entries=written, file=str(file))
    else:
        click.echo(f"{written} entries in {file}")


@click.command("run")
@click.argument("provider_id")
@dry_run_option
@click.option("--full", is_flag=True, help="Read everything, not only what changed.")
@json_option
def run_sync(provider_id: str, dry_run: bool, full: bool, as_json: bool) -> None:
    """Read a live upstream now, in this process."""
    with ready():
        scope = _scope_of_provider(provider_id)
        with unit(scope) as session:
            row = session.get_one(IdentityProvider, (scope.tenant_id, provider_id))
            provider = connections.provider_of(row)
        feed = connections.live_feed_of(provider)
        if feed is not None:
            sys.exit(_read(scope, provider_id, feed, Order(live=True, full=full, dry_run=dry_run), as_json))
    problem = f"{provider_id} reads exported files; import one with `scaikey scim import`"
    if not as_json:
        refuse(f"not available: {problem}")
    say("not_available", problem=problem)
    sys.exit(2)


@click.command("rotate")
@click.option("--emergency", is_flag=True, help="Trust nothing any more that the present and earlier keys signed.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line per key.")
def rotate_keys(emergency: bool, as_json: bool) -> None:
    """Let the next signing keys take over."""
    with ready(), platform_scope():
        rotations = keys.rotate(emergency=emergency)
    for one in rotations:
        if as_json:
            say("rotated", emergency=emergency, **asdict(one))
        else:
            click.echo(f"{one.algorithm}: {one.current} signs; {one.next} is published as the next")


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON line per key.")
def list_keys(as_json: bool) -> None:
    """Show the signing keys, oldest first."""
    moments = ("created_at", "activated_at", "replaced_at", "retire_after")
    table = Table("key", "algorithm", "status", *(name.replace("_", " ") for name in moments))
    with ready(), platform_scope():
        for key in keys.everything():
            times = {name: (moment := getattr(key, name)) and moment.isoformat(timespec="seconds") for name in moments}
            if as_json:
                say("key", kid=key.id, algorithm=key.algorithm, status=key.status, **times)
            table.add_row(key.id, key.algorithm, key.status, *(time or "" for time in times.values()))
    if not as_json:
        Console(soft_wrap=True, highlight=False).print(table)


def refuse(line: str) -> NoReturn:
    raise click.ClickException(line)


@contextmanager
def ready() -> Iterator[None]:
    try:
        with running_app(), context.acting(context.system("operator")):
            yield
    except Problem as problem:
        refuse("; ".join([problem.detail, *(f"{where}: {' '.join(told)}" for where, told in problem.errors.items())]))
    except archive.Broken as broken:
        refuse(str(broken))
    except Misconfigured as flaw:
        refuse(str(flaw))
    except OSError as error:
        refuse(str(error))


def _scope_of_provider(provider_id: str) -> Scope:
    return scope_of(
        sa.select(Tenant).where(
            Tenant.id.in_(sa.select(IdentityProvider.tenant_id).where(IdentityProvider.id == provider_id))
        ),
        f"there is no provider {provider_id}",
    )


def _scope_of_tenant(slug: str) -> Scope:
    return scope_of(sa.select(Tenant).where(Tenant.slug == slug), f"there is no tenant {slug}")


def scope_of(statement: sa.Select[Any], otherwise: str) -> Scope:
    with platform_scope() as session:
        tenant: Tenant | None = session.scalar(statement)
        if tenant is None:
            refuse(otherwise)
        return Scope(tenant.id, tenant.partner_id, tenant.kind, tenant.slug)  # type: ignore[arg-type]


def _provider_of(scope: Scope, provider_id: str | None) -> str:
    with unit(scope) as session:
        found = session.scalars(sa.select(IdentityProvider.id).where(IdentityProvider.kind == "ldap")).all()
    if provider_id is not None:
        if provider_id not in found:
            refuse(f"the tenant has no directory {provider_id}")
        return provider_id
    if len(found) != 1:
        refuse(f"the tenant has {len(found)} directories: choose one with --provider")
    return found[0]


def _feed(scope: Scope, provider_id: str, file: Path) -> ChangeFeed:
    with unit(scope) as session:
        provider = session.get_one(IdentityProvider, (scope.tenant_id, provider_id))
        config = kinds.config_from(provider.kind, providers.full_config(provider))
        if kinds.is_live(provider.kind, config):
            refuse(f"{provider_id} reads its directory itself; start that with `scaikey sync run`")
        return kinds.file_feed(provider.kind, config, file)


def _read(scope: Scope, provider_id: str, feed: ChangeFeed, order: Order, as_json: bool) -> int:
    """Carry out a run before the operator's eyes; returns the exit status."""
    amount = MofNCompleteColumn() if order.live else DownloadColumn(binary_units=True)
    with _watching(as_json, amount) as watch:
        run_id = sync.pull(scope, provider_id, feed, order, progress=watch, patience=_PATIENCE)
    with unit(scope) as session:
        run = session.get_one(SyncRun, (scope.tenant_id, run_id))
        _tell_outcome(run, as_json)
        return 3 if order.dry_run and run.hold_reason else _STATUS[run.status]


def _take(scope: Scope, file: Path, dry_run: bool, as_json: bool) -> int:
    """Import an archive before the operator's eyes; returns the exit status."""
    with bar(as_json, MofNCompleteColumn()) as show:

        def watch(run: ArchiveRun) -> None:
            if as_json:
                say("progress", **{name: getattr(run, name) for name in _TAKEN})
            else:
                show(run.line, run.total, run.line)

        run = archive.import_archive(scope, file, dry_run=dry_run, progress=watch)
    with unit(scope) as session:
        refused = session.scalars(
            sa.select(ArchiveRefusal).where(ArchiveRefusal.run_id == run.id).order_by(ArchiveRefusal.no).limit(_REFUSED)
        ).all()
        for one in refused:
            if as_json:
                say("refused", line=one.line, path=one.path, detail=one.detail)
            else:
                click.echo(f"line {one.line}, {one.path}: {one.detail}")
    numbers = {name: getattr(run, name) for name in _TAKEN}
    if as_json:
        say(run.status, run_id=run.id, dry_run=run.dry_run, **numbers)
    else:
        table = Table(run.id, "dry run" if run.dry_run else run.status)
        for name, number in numbers.items():
            table.add_row(name, str(number))
        Console(soft_wrap=True, highlight=False).print(table)
    return 3 if run.refused else 0


def _tell_archive(counts: Mapping[str, int], file: Path, as_json: bool) -> None:
    if as_json:
        say("done", counts=dict(counts), file=str(file))
        return
    told = ", ".join(f"{count} × {part.replace('_', ' ')}" for part, count in counts.items() if count)
    click.echo(f"{told or 'nothing'} in {file}")


@contextmanager
def _watching(as_json: bool, amount: ProgressColumn) -> Iterator[Callable[[SyncProgress], None]]:
    with bar(as_json, amount) as show:

        def watch(now: SyncProgress) -> None:
            if as_json:
                say("progress", **asdict(now))
            else:
                show(now.done or 0, now.total, now.read)

        yield watch


@contextmanager
def bar(as_json: bool, amount: ProgressColumn) -> Iterator[Callable[[int, int | None, int], None]]:
    """A progress bar where somebody watches: `show(done, total, records)`; without a total it only moves."""
    console = Console(stderr=True)
    columns = (BarColumn(), amount, TextColumn("{task.description}"), TimeRemainingColumn(elapsed_when_finished=True))
    with Progress(*columns, console=console, transient=True, disable=as_json or not console.is_terminal) as progress:
        task = progress.add_task("", total=None)
        begun = time.monotonic()
        first: list[int] = []

        def show(done: int, total: int | None, records: int) -> None:
            first[:] = first or [records]  # a run that was taken up again had read some before
            pace = (records - first[0]) / max(time.monotonic() - begun, 0.001)
            progress.update(task, completed=done, total=total, description=f"{records} records, {pace:.0f}/s")

        yield show


def _tell_outcome(run: SyncRun, as_json: bool) -> None:
    numbers = {name: getattr(run, name) for name in _SHOWN}
    if as_json:
        told = {"hold_reason": run.hold_reason, "problem": run.problem, "plan": run.plan}
        say(run.status, run_id=run.id, dry_run=run.dry_run, **numbers, **told)
        return
    table = Table(run.id, "dry run" if run.dry_run else run.status)
    for name, number in numbers.items():
        table.add_row(name.replace("_", " "), str(number))
    console = Console(soft_wrap=True, highlight=False)
    for line in run.plan:
        console.print(escape(line))
    console.print(table)
    if run.problem:
        console.print(f"[red]failed[/]: {escape(run.problem)}")
    if run.hold_reason:
        console.print(f"[yellow]held[/]: {escape(run.hold_reason)}")
    if run.status == "held":
        done = "Nothing was changed." if run.dry_run else "Nothing was taken away."
        console.print(f"{done} Decide with POST /api/v1/sync-runs/{run.id}/approve or …/reject.")


def say(event: str, **told: Any) -> None:
    click.echo(json.dumps({"event": event, **told}))
