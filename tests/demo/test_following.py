"""The demo against a live directory says in one line what it needs, before anything is started or emptied."""

from __future__ import annotations

from contextlib import ExitStack
from typing import NoReturn

import pytest

from demo import __main__ as play
from demo import following
from demo.stage import CannotPlay
from demo.story import Story
from demo.telling import Telling


def chosen() -> object:
    with ExitStack() as held:
        return play._chosen(held, Telling())


def test_without_a_word_the_story_is_that_of_an_export(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AD", raising=False)
    monkeypatch.setattr(following, "live_directory", None)
    tells = chosen()
    assert callable(tells) and isinstance(tells(None), Story)


def test_another_word_than_live_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AD", "dead")
    with pytest.raises(CannotPlay, match="AD is 'dead'; it can be live"):
        chosen()


def test_only_root_may_give_samba_a_network_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AD", "live")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(CannotPlay, match="only root"):
        chosen()


def test_where_samba_is_missing_its_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(packages: str, *names: str) -> NoReturn:
        raise pytest.skip.Exception(f"{names} IS MISSING")

    monkeypatch.setenv("AD", "live")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(following, "programs", missing)
    with pytest.raises(CannotPlay, match="apt-get install --no-install-recommends samba samba-ad-provision") as refused:
        chosen()
    assert "\n" not in str(refused.value)
