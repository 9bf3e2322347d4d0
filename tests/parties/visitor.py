"""A person at a browser, as the tests see them: where they go, what they type and click, and what the page shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.parties.party import Party

PHONE = (390, 844)
DESK = (1280, 900)
VIEWS = (
    ("phone", PHONE, "light", None),
    ("dark", PHONE, "dark", ["color-contrast"]),
    ("desk", DESK, "light", None),
)
"""How a page is looked at, and by which of axe-core's rules; None is all of them."""


class Visitor:
    """A tab of one person's browser, which has cookies of its own."""

    def __init__(self, chromium: Party, tab: int, album: Path) -> None:
        self._chromium = chromium
        self._tab = tab
        self._album = album

    def _ask(self, deed: str, **said: Any) -> Any:
        return self._chromium.ask(deed, tab=self._tab, **said)

    def goto(self, url: str) -> int:
        """The status of the page one ends up at."""
        return int(self._ask("goto", url=url) or 0)

    def back(self) -> None:
        """The browser's own button."""
        self._ask("back")

    def another_tab(self) -> Visitor:
        """With the same cookies; it closes with this one."""
        return Visitor(self._chromium, self._ask("another"), self._album)

    def fill(self, **fields: str) -> None:
        """Form fields by their names."""
        for name, value in fields.items():
            self._ask("fill", selector=f'[name="{name}"]', value=value)

    def submit(self, **fields: str) -> None:
        """The form that has these fields, or the page's only one."""
        self.fill(**fields)
        form = f'form:has([name="{next(iter(fields))}"])' if fields else "main form"
        self.click(f'{form} [type="submit"], {form} button:not([type])')

    def choose(self, name: str, text: str = "") -> None:
        """The button of this name that says or sends `text`."""
        self.click(f'[name="{name}"]:has-text("{text}"), [name="{name}"][value="{text}"]')

    def asks(self, *names: str) -> str:
        """Wait for a page that asks for one of these, and say for which."""
        self.wait(", ".join(f'[name="{name}"]' for name in names))
        return next(name for name in names if self.has(name))

    def has(self, name: str) -> bool:
        return self.shows(f'[name="{name}"]')

    def click(self, selector: str) -> None:
        self._ask("click", selector=selector)

    def type(self, text: str) -> None:
        """On the keyboard, into whatever has the focus."""
        self._ask("type", text=text)

    def press(self, key: str) -> None:
        self._ask("press", key=key)

    def wait(self, selector: str) -> None:
        """Until the page shows it."""
        self._ask("wait", selector=selector)

    def arrive(self, prefix: str) -> str:
        """Wait for an address that begins so; returns all of it."""
        return str(self._ask("arrive", prefix=prefix))

    def text(self, selector: str = "body") -> str:
        return str(self._ask("text", selector=selector))

    def shows(self, selector: str) -> bool:
        return bool(self._ask("count", selector=selector))

    def evaluate(self, expression: str) -> Any:
        return self._ask("evaluate", expression=expression)

    @property
    def url(self) -> str:
        return str(self._ask("url"))

    @property
    def cookies(self) -> dict[str, dict[str, Any]]:
        return {cookie["name"]: cookie for cookie in self._ask("cookies")}

    @property
    def complaints(self) -> list[str]:
        """Errors and warnings of the console, failed requests, breaches of a content policy."""
        return list(self._ask("complaints"))

    @property
    def answers(self) -> list[dict[str, Any]]:
        """Every navigation so far: method, url, status."""
        return list(self._ask("answers"))

    def look(self, name: str, *views: str) -> list[str]:
        """Photograph the page in these views, or all; say what axe-core finds serious or worse."""
        found = []
        for view, (width, height), scheme, rules in (one for one in VIEWS if not views or one[0] in views):
            self._ask("resize", width=width, height=height)
            self._ask("scheme", scheme=scheme)
            self._ask("screenshot", path=str(self._album / f"{re.sub(r'[^a-z0-9]+', '-', name.lower())}-{view}.png"))
            if self.evaluate("document.documentElement.scrollWidth") > width:
                found.append(f"{view}: wider than the screen")
            found += [
                f"{view}: {one['id']}: {one['help']}: {one['nodes']}"
                for one in self._ask("axe", rules=rules)
                if one["impact"] in {"serious", "critical"}
            ]
        return found


@contextmanager
def somebody(
    chromium: Party, album: Path, size: tuple[int, int] = DESK, scheme: str = "light", scripts: bool = True
) -> Iterator[Visitor]:
    """A browser without any cookie."""
    tab = chromium.ask("open", width=size[0], height=size[1], scheme=scheme, scripts=scripts)
    try:
        yield Visitor(chromium, tab, album)
    finally:
        chromium.ask("close", tab=tab)
