"""The demo's stage: fresh, alone, never on a taken port, and blind to servers named in the environment."""

from __future__ import annotations

import socket
import stat
import sys
from pathlib import Path

import pytest

from demo import stage
from demo.asking import Unexpected
from demo.stage import CannotPlay, set_up


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(stage, "ROOT", tmp_path)
    return tmp_path


def test_every_demo_begins_on_an_empty_directory_of_its_own(somewhere_else: Path) -> None:
    (somewhere_else / "var").mkdir()
    (somewhere_else / "var" / "secret.key").write_text("somebody's")
    with set_up() as first:
        (first.path / "left").write_text("behind")
    with set_up() as second:
        assert list(second.path.iterdir()) == []
        assert stat.S_IMODE(second.path.stat().st_mode) == 0o700
    assert (somewhere_else / "var" / "secret.key").read_text() == "somebody's"
    assert sorted(path.name for path in (somewhere_else / "var").iterdir()) == ["demo", "demo.lock", "secret.key"]


def test_a_second_demo_in_the_same_tree_is_refused() -> None:
    with set_up() as first:
        (first.path / "kept").write_text("")
        with pytest.raises(CannotPlay, match="another demo is running"), set_up():
            pass
        assert (first.path / "kept").exists()


def test_a_taken_port_is_left_to_its_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = holder.getsockname()[1]
        monkeypatch.setattr(stage, "PREFERRED_PORT", taken)
        with set_up() as other:
            assert other.port not in (0, taken)
            assert other.base_url == f"http://localhost:{other.port}"


def test_servers_named_in_the_environment_are_not_the_demos(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "DATABASE_URL",
        "SCAIKEY_OWNER_DATABASE_URL",
        "REDIS_URL",
        "SCAIKEY_SECRET_KEY",
        "SCAIKEY_EGRESS_ALLOW",
    ):
        monkeypatch.setenv(name, "somebody's")
    with set_up() as here:
        environment = here._environment()
    assert "somebody's" not in environment.values()
    assert environment["SCAIKEY_DATA_DIR"] == str(here.path / "data")


def test_secrets_are_kept_for_their_owner_alone(tmp_path: Path) -> None:
    stage.keep_secret(tmp_path / "token", "s3cret")
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        stage.keep_secret(tmp_path / "token", "another")


def test_programs_end_with_the_stage_and_their_early_end_is_told() -> None:
    with set_up() as here:
        here._start("A sleeper", [sys.executable, "-c", "import time; time.sleep(60)"], here.path / "sleeper.log")
        here.refuse_if_ended()
        here._start("A loser", [sys.executable, "-c", "print('out of luck'); raise SystemExit(3)"], here.path / "log")
        with pytest.raises(Unexpected, match="A loser ended with status 3: out of luck"):
            here.wait_for(lambda: False)
        sleeper = here.programs[0].process
    assert sleeper.poll() is not None
