"""What the sources promise: who may span tenants, no SQL out of strings, every module says what it is for."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import doors

ROOT = Path(__file__).parents[2]
PACKAGES = ("broker", "scim", "connectors", "oidc", "demo")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path.read_text())

SPANS_TENANTS = {
    "broker/doors.py",  # requests of routes whose deed spans tenants
    "broker/cli.py",  # bootstrap, before there is anybody to ask
    "broker/commands.py",  # from a slug or a provider's id to the tenant a command works in
    "broker/push_commands.py",  # from a target's id to its tenant, and how the targets of all tenants stand
    "broker/health.py",  # what an installation stands on is no tenant's
    "broker/worker.py",  # which tenants have work for the clock
    "broker/sync/queue.py",  # which upstreams of which tenants are to be read now
    "scim/push/outbox.py",  # which targets are owed something
    "scim/push/comparisons.py",  # which targets are to be compared
}
"""Where `platform_scope` may be entered; everywhere else one unit of work has one tenant."""

LONGEST = 450
LONGER = {
    "broker/directory/apply.py": 620,
    "broker/directory/service.py": 480,
    "broker/migrations/versions/0001_tables.py": 800,
}
"""Modules that were asked what second thing they do, and had none: a page of changes is one algorithm, told in one
place; the one writer has one face; the first revision is every table."""

SMALL = 40
"""Of so many lines, a module says what it is in one."""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in MODULES:
        yield name_of(path), ast.parse(path.read_text())


def names_in(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name):
                found.add(name)
    return found


def test_tenants_are_spanned_in_the_named_files_only() -> None:
    assert {name for name, tree in trees() if "platform_scope" in names_in(tree)} == SPANS_TENANTS


def test_the_door_spans_tenants_only_where_a_route_says_so(web: object) -> None:
    spanning = {(route.rule, *sorted(route.methods)) for route in doors.routes(web) if route.deed.spanning}  # type: ignore[arg-type]
    everywhere = {route for route in spanning if route[0].startswith(("/api/v1/partners", "/api/v1/platform"))}
    rules = {re.sub(r"^/api/v1(/t/<chosen_tenant>)?", "", route[0]) + " " + route[1] for route in spanning - everywhere}
    assert rules == {
        "/applications/<application_id> DELETE",
        "/applications/<application_id>/access GET",
        "/applications/<application_id>/access POST",
        "/applications/<application_id>/access/<other_tenant_id> DELETE",
        "/tenants GET",
        "/tenants POST",
        "/tenants/<tenant_id> DELETE",
        "/tenants/<tenant_id> PATCH",
    }


def test_the_directory_alone_writes_the_directory() -> None:
    writers = {name for name, tree in trees() if "directory_writes" in names_in(tree)} - {"broker/db.py"}
    assert writers and all(name.startswith("broker/directory/") for name in writers)


PUT_TOGETHER = {
    ("broker/access.py", "_scope"): "one of two constants",
    ("broker/directory/rows.py", "load"): "clauses of our own, by what the caller asked for",
    ("broker/events.py", "_inserting"): "the names of our own tables",
    ("broker/events.py", "_owe"): "a subscriber's select, compiled by SQLAlchemy with its values bound",
    ("broker/migrations/versions/0002_walls.py", "upgrade"): "our own tables",
    ("broker/migrations/versions/0002_walls.py", "finder"): "our own functions",
    ("broker/migrations/versions/0003_sign_in.py", "walls"): "our own tables",
    ("broker/migrations/versions/0009_archives.py", "upgrade"): "our own tables",
    ("broker/migrations/versions/0003_sign_in.py", "finder"): "our own functions",
    ("broker/migrations/versions/0008_target_plans.py", "upgrade"): "our own tables",
    ("broker/migrations/versions/0014_resource_counts.py", "upgrade"): "our own tables and functions",
    ("oidc/families.py", "_run"): "one of the constants above it",
    ("scim/columns.py", "_relation"): "our own columns",
    ("scim/filters.py", "_exists"): "conditions compiled from the filter's grammar, every value bound",
    ("scim/filters.py", "members_where"): "the same",
    ("scim/filters.py", "narrow"): "the same, and an attribute's number in the catalogue",
    ("scim/filters.py", "visit_present"): "the same",
    ("scim/memberships.py", "_found"): "our own columns, every value bound",
    ("scim/memberships.py", "page"): "the same",
    ("scim/patch.py", "change_members"): "what `members_where` compiled",
    ("scim/reading.py", "_one"): "one of three types of resource",
    ("scim/reading.py", "in_unit"): "runs what its callers pass, who are looked at themselves",
    ("scim/reading.py", "counted"): "one of our types, and what `filters` compiled",
    ("scim/reading.py", "page"): "what `filters` compiled",
    ("scim/reading.py", "with_lists"): "what `page` and `walking` put together, and constants",
    ("scim/sorting.py", "_primary"): "one of our own columns",
    ("scim/walking.py", "_chosen"): "what `filters` and `sorting` compiled, every value bound",
    ("scim/walking.py", "_count"): "the same",
    ("scim/walking.py", "_rows"): "the same",
}
"""Functions that put SQL together, or run it from anything but a constant, and from what."""


def functions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node


def constant(node: ast.expr) -> bool:
    """Text written in the source, or put together from names that are constants by our naming."""
    match node:
        case ast.Constant():
            return True
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.strip("_").isupper()
        case ast.Subscript(value=value):
            return constant(value)
        case ast.BinOp(left=left, right=right):
            return constant(left) and constant(right)
        case ast.JoinedStr(values=values):
            return all(constant(one.value) if isinstance(one, ast.FormattedValue) else True for one in values)
        case ast.IfExp(body=body, orelse=orelse):
            return constant(body) and constant(orelse)
    return False


def looks_like_sql(node: ast.expr) -> bool:
    parts = [one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    return bool(
        re.search(r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM|CREATE|ALTER|GRANT|SET LOCAL|WITH)\b", " ".join(parts))
    )


def runs_text(node: ast.Call) -> bool:
    match node.func:
        case ast.Attribute(value=ast.Name(id="sa" | "sqlalchemy"), attr="text") | ast.Attribute(attr="exec_driver_sql"):
            return True
        case ast.Name(id="hot" | "in_unit"):
            return True
    return False


def test_no_statement_is_put_together_from_values() -> None:
    """SQL in a function's f-string, or run there as anything but a constant, is explained above or forbidden."""
    found = set()
    for name, tree in trees():
        for function, body in functions(tree):
            for node in ast.walk(body):
                match node:
                    case ast.JoinedStr() if looks_like_sql(node) and not constant(node):
                        found.add((name, function))
                    case ast.Call(args=[statement, *_]) if runs_text(node) and not constant(statement):
                        found.add((name, function))
    assert found == set(PUT_TOGETHER), found ^ set(PUT_TOGETHER)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_says_what_it_owns_in_a_few_lines_and_does_one_thing(path: Path) -> None:
    text = path.read_text()
    lines, said = len(text.splitlines()), ast.get_docstring(ast.parse(text))
    assert said is not None, "says nothing"
    least = 1 if lines <= SMALL or "migrations/versions" in name_of(path) else 2
    assert least <= len(said.splitlines()) <= 8, said
    assert lines <= LONGER.get(name_of(path), LONGEST)


def test_the_lock_names_packages_and_no_place() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pinned = [line for line in lines if re.match(r"[a-z0-9]", line)]
    assert len(pinned) > 40 and all(re.match(r"[a-z0-9-]+(\[[a-z,]+\])?==\S+", line) for line in pinned)
    assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line) for line in lines if line.startswith("    "))
    assert not re.search(r"://|index|@", "\n".join(lines))
