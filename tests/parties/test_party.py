"""Without other people's programs a developer is told how to install them, and a check of the whole fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parties import party


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(party, "INSTALLED", tmp_path)


def test_a_developer_without_them_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="make parties"):
        party.needed("node")


def test_a_check_of_the_whole_without_them_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="make parties"):
        party.needed("node")
