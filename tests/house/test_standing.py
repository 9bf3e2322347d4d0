"""Nothing that ends in a session, a grant or a token is begun before somebody asked whether it may be.

Read from the sources: whoever calls what begins one has, earlier in the same function, asked `may_receive_tokens` and
turned back on a reason.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.test_sources import MODULES, name_of

OPENS = {
    "sessions.begin": "a session",
    "families.begin": "a grant and its code",
    "families.first_refresh_token": "a refresh token",
    "families.rotate": "the next refresh token",
    "Issue": "what a grant decided, which `provider.issued` turns into tokens",
}
ASKED_BEFORE = {
    ("broker/sign_in/flow.py", "signed_in"),
    ("oidc/authorize.py", "_code"),
    ("oidc/grants.py", "CodeGrant.authenticate_user"),
    ("oidc/grants.py", "RefreshGrant.authenticate_user"),
    ("oidc/grants.py", "ClientGrant.validate_requested_scope"),
}
"""Every function that opens something."""

SIGNS = {("oidc/provider.py", "issued")}
"""Where tokens are signed: of an `Issue`, and only there."""

WRITERS = {
    "Session": {"broker/sign_in/sessions.py"},
    "Grant": {"oidc/families.py"},
    "AuthorizationCode": {"oidc/families.py"},
    "RefreshToken": set(),  # by statements of `oidc.families`
}
"""Rows that are the thing itself, and who makes them."""

REFUSES = "refuse_whoever_may_not"


def functions(tree: ast.AST, within: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.FunctionDef(name=name):
                yield within + name, node
            case ast.ClassDef(name=name):
                yield from functions(node, f"{name}.")


def called(node: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for one in ast.walk(node):
        match one:
            case ast.Call(func=ast.Name(id=name)):
                yield name, one
            case ast.Call(func=ast.Attribute(value=ast.Name(id=room), attr=name)):
                yield f"{room}.{name}", one
            case ast.Call(func=ast.Attribute(attr=name)):
                yield f"?.{name}", one


def asked_at(function: ast.FunctionDef) -> int | None:
    """The line by which the function has turned back whoever may not; None when it never does, or only sometimes."""
    reasons = set()
    for node in function.body:
        match node:
            case ast.Expr(value=ast.Call(func=ast.Name(id=name))) if name == REFUSES:
                return node.lineno
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=ast.Name(id="may_receive_tokens"))):
                reasons.add(name)
            case ast.If(
                test=ast.Compare(left=ast.Name(id=name), ops=[ast.IsNot()], comparators=[ast.Constant(value=None)]),
                body=[*_, ast.Raise() | ast.Return()],
            ) if name in reasons:
                return node.lineno
    return None


def opening(text: str) -> dict[str, bool]:
    """The functions of a module that open something, and whether each asked first."""
    found = {}
    for name, function in functions(ast.parse(text)):
        lines = [call.lineno for what, call in called(function) if what in OPENS]
        if lines:
            asked = asked_at(function)
            found[name] = asked is not None and asked < min(lines)
    return found


def test_whoever_opens_something_has_asked_before() -> None:
    found = {
        (name_of(path), function): asked for path in MODULES for function, asked in opening(path.read_text()).items()
    }
    assert set(found) == ASKED_BEFORE
    assert all(found.values()), found
    refuses = next(function for name, function in functions(ast.parse(source("oidc/grants.py"))) if name == REFUSES)
    assert asked_at(refuses) is not None


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("reason = may_receive_tokens(x)\n if reason is not None:\n  return\n sessions.begin(x)", True),
        ("refuse_whoever_may_not(x)\n families.rotate(x)", True),
        ("sessions.begin(x)", False),
        ("reason = may_receive_tokens(x)\n sessions.begin(x)", False),
        ("sessions.begin(x)\n refuse_whoever_may_not(x)", False),
        ("if x:\n  refuse_whoever_may_not(x)\n return Issue(x)", False),
        ("reason = may_receive_tokens(x)\n if reason is not None:\n  log(x)\n families.begin(x)", False),
    ],
)
def test_the_test_tells_who_asked_from_who_did_not(text: str, asked: bool) -> None:
    assert opening(f"def one(x):\n {text}") == {"one": asked}


def test_tokens_are_signed_of_what_a_grant_decided_only() -> None:
    found = {
        (name_of(path), function)
        for path in MODULES
        if name_of(path) != "oidc/tokens.py"
        for function, body in functions(ast.parse(path.read_text()))
        for name, call in called(body)
        if name.rpartition(".")[2] in ("access_token", "id_token") and any(one.arg == "client" for one in call.keywords)
    }
    assert found == SIGNS
    signing = {name_of(path) for path in MODULES if "tokens._sign" in path.read_text()}
    assert signing == set()


@pytest.mark.parametrize("row", WRITERS)
def test_rows_that_open_something_are_made_in_one_place(row: str) -> None:
    makers = set()
    for path in MODULES:
        tree = ast.parse(path.read_text())
        imported = any(
            isinstance(node, ast.ImportFrom)
            and (node.module or "").endswith("models")
            and any(alias.name == row for alias in node.names)
            for node in ast.walk(tree)
        )
        if imported and any(name == row for name, _ in called(tree)):
            makers.add(name_of(path))
    assert makers == WRITERS[row]


def test_sessions_and_grants_end_in_one_place() -> None:
    ends = re.compile(r"\bSET ended_at\b|\.values\([^)]*ended_at=|\.ended_at = ")
    assert {name_of(path) for path in MODULES if ends.search(path.read_text())} == {"broker/endings.py"}


def test_what_opens_something_is_called_by_its_full_name() -> None:
    """So that nobody escapes the first test by another name."""
    hidden = {
        (name_of(path), alias.name)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[-1] in ("sessions", "families", "grants")
        for alias in node.names
        if alias.asname or alias.name in {one.rpartition(".")[2] for one in OPENS if "." in one}
    }
    assert hidden == set()


def source(name: str) -> str:
    return (Path(__file__).parents[2] / name).read_text()
