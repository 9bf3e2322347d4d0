"""The commands that look after targets: how they stand, what failed, what a push would do, and a comparison now.

Owns their options and what they print: a table, or one line of JSON per target, delivery or deed with `--json`; a
comparison shows a bar on a terminal. Exit status: 0 done, 3 something differs, 1 failed, 2 could not begin. Counting,
planning and comparing are `scim.push`'s.
"""

from __future__ import annotations

import sys
from typing import Any

import click
import sqlalchemy as sa
from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn
from rich.table import Table

from broker.commands import bar, json_option, ready, refuse, say
from broker.context import Scope
from broker.db import db, platform_scope, unit
from broker.models import Delivery, ScimTarget, TargetRun, Tenant
from broker.registry.targets import POLICIES
from scim import push

_COMPARED = ("done", "total", "missing", "changed", "unexpected", "owed")
_STATUS = {"done": 0, "failed": 1}
_MOST = 1_000
_WIDTH = 200
"""Letters in a line where no terminal says how many there are."""

limit_option = click.option("--limit", default=20, show_default=True, type=click.IntRange(1, _MOST))


@click.command("status")
@click.argument("target_id", required=False)
@click.option("--tenant", "slug", help="Only the targets of this tenant.")
@json_option
def show_status(target_id: str | None, slug: str | None, as_json: bool) -> None:
    """How one target stands, or all: queue depth and age, convergence, failures, drift."""
    table = Table("target", "status", "queued", "oldest", "p50 / p99", "failed", "held", "drift", "last comparison")
    with ready():
        for scope, found in _targets(target_id, slug):
            with unit(scope) as session:
                target = session.get_one(ScimTarget, (scope.tenant_id, found))
                shown = {"target_id": found, "tenant": scope.slug, **push.standing(target)}
                shown["comparison"] = _last_run(found)
            if as_json:
                say("target", **shown)
            table.add_row(*_row(shown))
    if not as_json:
        _print(table)


@click.command("errors")
@click.argument("target_id")
@limit_option
@json_option
def show_errors(target_id: str, limit: int, as_json: bool) -> None:
    """What a target was not brought to take, object by object; with --json what was asked and answered too."""
    table = Table("object", "status", "tries", "next", "problem")
    with ready():
        scope = _scope_of(target_id)
        with unit(scope) as session:
            statement = sa.select(Delivery).where(Delivery.target_id == target_id, Delivery.problem.is_not(None))
            for one in session.scalars(statement.order_by(Delivery.updated_at.desc()).limit(limit)):
                due = one.due_at.isoformat(timespec="seconds")
                if as_json:
                    told = {"attempts": one.attempts, "due_at": due, "problem": one.problem, "exchange": one.exchange}
                    say(one.status, resource_type=one.resource_type, resource_id=one.resource_id, **told)
                table.add_row(one.resource_id, one.status, str(one.attempts), due, escape(one.problem or ""))
    if not as_json:
        _print(table)


@click.command("preview")
@click.argument("target_id")
@limit_option
@json_option
def show_preview(target_id: str, limit: int, as_json: bool) -> None:
    """What a push would do now. Changes nothing, here or there."""
    with ready():
        plan = push.preview(_scope_of(target_id), target_id, limit)
    if as_json:
        for item in plan["items"]:
            say(item["deed"], **{name: value for name, value in item.items() if name != "deed"})
        say("counts", **plan["counts"])
        return
    table = Table("deed", "object", "name", "differences")
    for item in plan["items"]:
        said = item["problem"] or ", ".join([*item["differences"], *_members(item["members"])])
        table.add_row(item["deed"], item["resource_id"], escape(item["name"] or ""), escape(said))
    _print(table, ", ".join(f"{deed} {many}" for deed, many in plan["counts"].items()))


@click.command("compare")
@click.argument("target_id")
@click.option(
    "--policy", type=click.Choice(POLICIES), help="What follows from a difference; the target's own if unsaid."
)
@json_option
def compare_target(target_id: str, policy: str | None, as_json: bool) -> None:
    """Compare everything at a target with what should be there, now, with its progress."""
    with ready():
        scope = _scope_of(target_id)
        with unit(scope) as session:
            target = session.get_one(ScimTarget, (scope.tenant_id, target_id))
            if target.status != "active":
                refuse(f"{target_id} is {target.status}: nothing is compared until it is resumed")
            run_id = push.ask(target, policy).id
        with bar(as_json, MofNCompleteColumn()) as show:

            def watch(run: TargetRun) -> None:
                if as_json:
                    say("progress", phase=run.phase, **_numbers(run))
                else:
                    show(run.done, run.total, run.done)

            run = push.compare_now(scope, run_id, watch)
    if as_json:
        say(run.status, run_id=run.id, policy=run.policy, problem=run.problem, **_numbers(run))
    else:
        table = Table(run.id, run.status)
        for name, number in _numbers(run).items():
            table.add_row(name, str(number))
        _print(table, f"[red]failed[/]: {escape(run.problem)}" if run.problem else "")
    differs = run.missing + run.changed + run.unexpected > 0
    sys.exit(3 if run.status == "done" and differs else _STATUS[run.status])


@click.command("runs")
@click.argument("target_id")
@limit_option
@json_option
def list_runs(target_id: str, limit: int, as_json: bool) -> None:
    """The comparisons of a target, newest first."""
    table = Table("comparison", "status", "asked for", *_COMPARED, "problem")
    with ready():
        scope = _scope_of(target_id)
        with unit(scope) as session:
            statement = sa.select(TargetRun).where(TargetRun.target_id == target_id).order_by(TargetRun.no.desc())
            for run in session.scalars(statement.limit(limit)):
                asked = run.created_at.isoformat(timespec="seconds")
                if as_json:
                    say(run.status, run_id=run.id, created_at=asked, problem=run.problem, **_numbers(run))
                table.add_row(run.id, run.status, asked, *map(str, _numbers(run).values()), escape(run.problem or ""))
    if not as_json:
        _print(table)


def _targets(target_id: str | None, slug: str | None) -> list[tuple[Scope, str]]:
    """The targets asked for, each with its tenant's scope; refuses a name that nothing bears."""
    statement = sa.select(Tenant, ScimTarget.id).join(ScimTarget, ScimTarget.tenant_id == Tenant.id)
    if target_id is not None:
        statement = statement.where(ScimTarget.id == target_id)
    if slug is not None:
        statement = statement.where(Tenant.slug == slug)
    with platform_scope() as session:
        rows = session.execute(statement.order_by(Tenant.slug, ScimTarget.id)).all()
        found = [(Scope(one.id, one.partner_id, one.kind, one.slug), id) for one, id in rows]  # type: ignore[arg-type]
        unknown = slug is not None and session.scalar(sa.select(Tenant.id).where(Tenant.slug == slug)) is None
    if unknown:
        refuse(f"there is no tenant {slug}")
    if target_id is not None and not found:
        refuse(f"there is no target {target_id}")
    return found


def _scope_of(target_id: str) -> Scope:
    [(scope, _)] = _targets(target_id, None)
    return scope


def _last_run(target_id: str) -> dict[str, Any] | None:
    statement = sa.select(TargetRun).where(TargetRun.target_id == target_id).order_by(TargetRun.no.desc()).limit(1)
    run = db.session().scalar(statement)
    return None if run is None else {"run_id": run.id, "status": run.status, "problem": run.problem, **_numbers(run)}


def _numbers(run: TargetRun) -> dict[str, int | None]:
    return {name: getattr(run, name) for name in _COMPARED}


def _row(shown: dict[str, Any]) -> list[str]:
    owed, drift, run = shown["deliveries"], shown["drift"], shown["comparison"]
    reason = f": {shown['status_reason']}" if shown["status_reason"] else ""
    times = (shown["convergence_p50_seconds"], shown["convergence_p99_seconds"])
    return [
        f"{shown['tenant']} {shown['target_id']}",
        escape(shown["status"] + reason),
        str(shown["queue_depth"]),
        f"{shown['queue_age_seconds']:.0f} s",
        " / ".join("-" if one is None else f"{one:g} s" for one in times),
        str(owed.get("failed", 0)),
        str(owed.get("held", 0)),
        str(sum(drift.values())),
        "never" if run is None else f"{run['status']}, {run['done']} of {run['total'] or '?'}",
    ]


def _members(members: dict[str, int]) -> list[str]:
    return [f"{many} members to {name}" for name, many in members.items() if many]


def _print(table: Table, line: str = "") -> None:
    console = Console(soft_wrap=True, highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH
    console.print(table)
    if line:
        console.print(line)
