"""What happens when a counterpart cannot run here: skipped with a loud reason; with `CI` set it fails.

Only a kernel that refuses namespaces is excused there too. The run then says at its end what stood in.
"""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

INSTEAD = "NO LIVE ACTIVE DIRECTORY HERE: EXPORTED LDIF AND SLAPD STAND IN"


def programs(packages: str, *names: str) -> list[str]:
    """The paths of programs, which those Debian packages bring."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    found = [shutil.which(name, path=path) for name in names]
    missing = [name for name, where in zip(names, found, strict=True) if where is None]
    if missing:
        absent(f"{', '.join(missing)} IS MISSING: apt-get install --no-install-recommends {packages}")
    return [where for where in found if where is not None]


def absent(why: str, *, excused: bool = False) -> NoReturn:
    if os.environ.get("CI") == "true" and not excused:
        pytest.fail(why, pytrace=False)
    pytest.skip(f"{INSTEAD} ({why})" if excused else why)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A run without the live directory is not to be taken for one with it."""
    for report in terminalreporter.getreports("skipped"):
        if INSTEAD in str(report.longrepr):
            terminalreporter.write_sep("!", INSTEAD, red=True, bold=True)
            return
