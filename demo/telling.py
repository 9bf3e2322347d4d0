"""What is shown of the story: a line per step with its verdict, what was found, and the table at the end.

Owns the words' form on a terminal and in a log, and the count of what failed. What is compared is the story's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .asking import Unexpected


class Step:
    """One step under way. It holds if everything expected of it was found."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._facts: list[str] = []
        self._complaints: list[str] = []

    @property
    def holds(self) -> bool:
        return not self._complaints

    def fact(self, text: str) -> None:
        """Something worth showing."""
        self._facts.append(text)

    def expect(self, wanted: object, found: object, what: str) -> None:
        """Compare; the step fails when they differ, and the story goes on."""
        if wanted != found:
            self.complain(f"{what}: expected {_short(wanted)}, found {_short(found)}")

    def same(self, wanted: Set[str], found: Sequence[str], what: str) -> None:
        """Compare names one by one, each expected once."""
        missing, surplus = wanted - set(found), set(found) - wanted
        if missing:
            self.complain(f"{what}: {len(missing)} missing, such as {min(missing)}")
        if surplus:
            self.complain(f"{what}: {len(surplus)} too many, such as {min(surplus)}")
        if len(found) != len(set(found)):
            self.complain(f"{what}: {len(found) - len(set(found))} twice")

    def complain(self, text: str) -> None:
        self._complaints.append(text)

    def progress(self, text: str) -> None:
        """How far a longer wait has come; on a terminal only."""
        self._status.update(f"  {escape(self._title)} [dim]{escape(text)}[/]")

    @contextmanager
    def under_way(self) -> Iterator[None]:
        begun = time.monotonic()
        self._status = self._console.status(f"  {escape(self._title)}")
        try:
            with self._status:
                yield
        except Unexpected as error:
            self.complain(str(error))
            self._show(time.monotonic() - begun)
            raise
        self._show(time.monotonic() - begun)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """While another program writes to the terminal."""
        self._status.stop()
        try:
            yield
        finally:
            self._status.start()

    def _show(self, seconds: float) -> None:
        mark = "[green]✓[/]" if self.holds else "[red]✗[/]"
        title = f"{mark} [bold]{escape(self._title)}[/]  [dim]{seconds:.1f} s[/]"
        self._console.print(title, highlight=False, soft_wrap=True)
        for text in self._facts:
            self._console.print(f"    {escape(text)}", highlight=False, soft_wrap=True)
        for text in self._complaints:
            self._console.print(f"    [red]{escape(text)}[/]", highlight=False, soft_wrap=True)


class Telling:
    """The whole story as it is told."""

    def __init__(self) -> None:
        self.console = Console()
        self.steps = 0
        self.failed = 0

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """A step of the story. An Unexpected answer ends it and goes on to the caller."""
        step = Step(self.console, title)
        self.steps += 1
        try:
            with step.under_way():
                yield step
        finally:
            self.failed += not step.holds

    def say(self, text: str = "") -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        table = Table(title=title, title_justify="left", title_style="bold")
        for number, column in enumerate(columns):
            table.add_column(column, justify="right" if number else "left")
        for row in rows:
            table.add_row(*row)
        self.console.print()
        self.console.print(table)


def number(value: int) -> str:
    return f"{value:,}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 200 else f"{text[:200]}…"
