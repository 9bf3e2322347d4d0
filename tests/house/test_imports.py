"""The floors of the house: imports go down, and only the assembly of connectors names one."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import grimp
import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[2]
PACKAGES = ("broker", "scim", "oidc", "connectors")
GROUND_OF_CONNECTORS = {"connectors.port", "connectors.http", "connectors.egress"}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)


def test_the_import_contracts_hold(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    failed = lint_imports(no_cache=True)
    assert not failed, capsys.readouterr().out


def test_every_room_stands_on_a_floor(graph):
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    floors = next(contract["layers"] for contract in contracts if contract["id"] == "floors")
    placed = {room.strip("() ") for floor in floors for room in floor.replace("|", ":").split(":")}
    rooms = {room for package in ("broker", "scim", "oidc") for room in graph.find_children(package)}
    assert rooms - placed == set()


def test_only_kinds_names_a_connector(graph):
    if "connectors.kinds" not in graph.modules:
        pytest.skip("no connector is assembled yet")
    named = graph.find_modules_directly_imported_by("connectors.kinds") - GROUND_OF_CONNECTORS
    connectors = {module for module in named if module.startswith("connectors.")}
    assert connectors
    for connector in connectors:
        assert graph.find_modules_that_directly_import(connector) == {"connectors.kinds"}


@pytest.mark.parametrize("module", sorted(GROUND_OF_CONNECTORS))
def test_the_ground_of_connectors_needs_the_standard_library_only(module, graph):
    imported = {name.partition(".")[0] for name in graph.find_modules_directly_imported_by(module)}
    assert imported - {"connectors"} <= sys.stdlib_module_names
