"""`python -m demo`: plays the story, prints how to look around, and stays up until Ctrl-C; `DEMO=once` ends with it.

The scenes are `story`'s, with `AD=live` those of `following`, the machinery behind them `stage`'s.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

from rich.markup import escape

from .asking import Unexpected
from .play import Play
from .stage import PREFERRED_PORT, CannotPlay, Stage, set_up, shown
from .story import Story
from .telling import Telling


def main() -> int:
    telling = Telling()
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _interrupt)
    try:
        with ExitStack() as held:
            tells = _chosen(held, telling)
            stage = held.enter_context(set_up())
            try:
                return _show(stage, telling, tells)
            finally:
                _ignore_signals()
    except CannotPlay as error:
        telling.say(f"[red]The demo cannot begin: {error}[/]")
        return 2
    except KeyboardInterrupt:
        telling.say("[yellow]Stopped before the end of the story.[/]")
        return 130


def _chosen(held: ExitStack, telling: Telling) -> Callable[[Stage], Play]:
    """The story `AD` asks for; what it needs is there until `held` is left. Raises CannotPlay."""
    wanted = os.environ.get("AD", "")
    if wanted not in ("", "live"):
        raise CannotPlay(f"AD is {wanted!r}; it can be live, or nothing for the story of an export")
    if not wanted:
        return lambda stage: Story(stage, telling)
    # What the live story needs besides the demo is loaded for nobody else.
    from .following import Following, live_directory

    directory = held.enter_context(live_directory(telling))
    return lambda stage: Following(stage, telling, directory)


def _show(stage: Stage, telling: Telling, tells: Callable[[Stage], Play]) -> int:
    begun = time.monotonic()
    if stage.port != PREFERRED_PORT:
        telling.say(f"[yellow]Port {PREFERRED_PORT} is taken; this demo uses {stage.port}.[/]")
    try:
        story = tells(stage)
        story.play()
    except Unexpected:
        telling.say(f"[red]The story cannot go on.[/] The logs are in {shown(stage.path)}.")
        return 1
    seconds = time.monotonic() - begun
    verdict = (
        f"[red]{telling.failed} of {telling.steps} steps failed[/]" if telling.failed else "[green]all steps hold[/]"
    )
    telling.say(f"\n{telling.steps} steps in {seconds:.0f} s: {verdict}.")
    if os.environ.get("DEMO") != "once":
        _tell_around(stage, telling, story)
        _stay(stage, telling)
    return 1 if telling.failed else 0


def _tell_around(stage: Stage, telling: Telling, story: Play) -> None:
    pat = shown(stage.pat_file)
    lines = (
        ("API reference", f"{stage.base_url}/docs"),
        ("Admin API", f"{stage.base_url}/api/v1"),
        *story.around(),
        ("Its launcher", f"{stage.base_url}/t/acme/apps"),
        ("SCIM of acme", f"{stage.base_url}/scim/v2/acme"),
        ("SCIM of globex", f"{stage.base_url}/scim/v2/globex"),
        ("Sign in with", f"the super admin's token in {pat}"),
        ("For example", f'curl -H "Authorization: Bearer $(cat {pat})" "{stage.base_url}/scim/v2/acme/Users?count=2"'),
        ("Stop with", "Ctrl-C; the next demo begins anew"),
    )
    telling.say()
    for name, text in lines:
        telling.say(f"  {name:<15} {text}")
    telling.say()


def _stay(stage: Stage, telling: Telling) -> None:
    try:
        while True:
            time.sleep(1)
            stage.refuse_if_ended()
    except KeyboardInterrupt:
        telling.say("Stopping.")
    except Unexpected as error:
        telling.say(f"[red]{escape(str(error))}[/]")
        telling.failed += 1


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    """The end has begun and takes seconds; asked again it would only be less orderly."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
