"""Other people's programs as processes: started on demand, spoken to in lines of JSON, ended with the test run.

Owns what is installed and what happens when it is not: on a developer's machine the tests skip and say how to install
it, with `CI=true` they fail. What each program does is in its own file.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
INSTALLED = HERE.parents[1] / ".parties"

_PATIENCE = 30.0


class Refused(Exception):
    """The program said no; `said` is how: name, message, code, oauth (the protocol's error), cause …"""

    def __init__(self, said: Mapping[str, Any]) -> None:
        super().__init__(json.dumps(said, indent=1))
        self.said = said


class Party:
    """A running program. Its errors and log lines are in `log`."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "NO_COLOR": "1"},
            )
        self._unread = b""
        try:
            self.hello: dict[str, Any] = self._line()
        except BaseException:
            self.end()
            raise

    def ask(self, deed: str, **said: Any) -> Any:
        """What the program answers. Raises Refused."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": deed, **said}).encode() + b"\n")
        self._process.stdin.flush()
        line = self._line()
        if "error" in line:
            raise Refused(line["error"])
        return line["answer"]

    def end(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        source = self._process.stdout.fileno()
        deadline = time.monotonic() + _PATIENCE
        while b"\n" not in self._unread:
            ready, _, _ = select.select([source], [], [], max(0.0, deadline - time.monotonic()))
            more = os.read(source, 65_536) if ready else b""
            assert more, f"{'it ended' if ready else 'no answer'}: {self.log.read_text()[-3000:]}"
            self._unread += more
        line, self._unread = self._unread.split(b"\n", 1)
        found: dict[str, Any] = json.loads(line)
        return found


def node(script: str, log: Path, said: Mapping[str, Any] | None = None) -> Party:
    """One of the scripts beside this file."""
    return Party([needed("node"), str(HERE / script), json.dumps(said or {})], log)


def needed(program: str) -> str:
    """The path of a program that these tests cannot do without."""
    missing = "" if (INSTALLED / ".ready").exists() else "the packages"
    found = str(INSTALLED / "venv/bin/python") if program == "python" else shutil.which(program)
    if found is None or missing:
        _without(missing or program)
    assert found is not None
    return found


def installed(path: str) -> Path:
    """A file below what is installed, which these tests cannot do without."""
    found = INSTALLED / path
    if not found.exists():
        _without(path)
    return found


def _without(what: str) -> None:
    why = f"OTHER PEOPLE'S PROGRAMS ARE MISSING ({what}): install nodejs, npm and chromium, then `make parties`"
    if os.environ.get("CI") == "true":
        pytest.fail(why, pytrace=False)
    pytest.skip(why)
