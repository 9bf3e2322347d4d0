"""The demo's own reading of an export agrees with the tests' one, and its changes are what a directory would do."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.organisation import Organisation
from tests.canonical_ldif import canonical, differences
from tests.conftest import DATA

ACME = DATA / "acme.ldif"
LEAVER, DISABLED, MOVER = "plain00001@ad.acme.test", "plain00002@ad.acme.test", "user0060@ad.acme.test"


@pytest.fixture
def organisation() -> Organisation:
    return Organisation(ACME)


def lines_with(text: str, path: Path) -> list[str]:
    return [line for line in canonical(path) if text in line]


def test_an_untouched_export_is_written_with_the_same_meaning(organisation: Organisation, tmp_path: Path) -> None:
    assert differences(ACME, organisation.write(tmp_path / "same.ldif")) == []


def test_disabled_and_expired_people_are_not_active(organisation: Organisation) -> None:
    assert organisation.counted() == {"person": 1204, "group": 51, "unit": 10, "other": 222}
    assert len(organisation.people()) == 1204
    active = organisation.active_people()
    assert len(active) == 1142
    assert "user0003@ad.acme.test" not in active  # expired in 2025
    assert "user0008@ad.acme.test" in active  # expires in 2100


def test_members_are_known_by_name_through_escapes_and_primary_groups(organisation: Organisation) -> None:
    members = organisation.active_members()
    assert members["CycleA"] == {"user0020@ad.acme.test", "CycleB"}
    assert "user0040@ad.acme.test" in members["Vertrieb, Süd + Export"]
    assert LEAVER in members["Domain Users"]
    assert members["Machines"] == {"user0030@ad.acme.test"}


def test_who_leaves_leaves_every_list(organisation: Organisation, tmp_path: Path) -> None:
    organisation.leave(LEAVER)
    path = organisation.write(tmp_path / "next.ldif")
    gone = {line.partition(" ")[0] for line in differences(ACME, path)}
    assert gone == {"-"}
    assert LEAVER not in organisation.people()
    assert lines_with("CN=plain00001,", path) == []
    assert LEAVER not in organisation.active_members()["Everyone"]


def test_a_change_touches_nothing_else(organisation: Organisation, tmp_path: Path) -> None:
    organisation.disable(DISABLED)
    organisation.move(MOVER, "Sales", "Engineers")
    moved = organisation.rename_department("Ingénierie", "Engineering")
    changed = differences(ACME, organisation.write(tmp_path / "next.ldif"))
    assert len(changed) == 2 + 4 + 2 * moved
    assert DISABLED in organisation.people() and DISABLED not in organisation.active_people()
    members = organisation.active_members()
    assert MOVER in members["Engineers"] and MOVER not in members["Sales"]


def test_a_halved_export_lacks_every_second_person_and_lists_name_them_still(
    organisation: Organisation, tmp_path: Path
) -> None:
    everyone = len(organisation.groups()["Everyone"].values("member"))
    assert organisation.halve() == 602
    assert organisation.counted() == {"person": 602, "group": 51, "unit": 10, "other": 222}
    assert len(organisation.groups()["Everyone"].values("member")) == everyone
    assert {line[0] for line in differences(ACME, organisation.write(tmp_path / "halved.ldif"))} == {"-"}
