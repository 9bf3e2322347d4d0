"""The documents say what the code does: links lead somewhere, lists are complete, commands and variables exist."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from broker import attributes, config, health, schedule
from broker.cli import cli
from broker.settings import SETTINGS
from connectors import kinds
from connectors.ldap import EXCLUDED, diagnosis

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
LIVE = "docs/connectors/active-directory.md"
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))


def section(path: str, heading: str) -> str:
    """The text below a heading, up to the next one of the same level."""
    text = (ROOT / path).read_text()
    assert f"\n## {heading}\n" in text, f"{path} has no section {heading}"
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize(
    ("path", "heading"),
    [
        ("docs/lossless.md", "What is left out"),
        ("docs/connectors/ldif.md", "What is never read"),
        (LIVE, "What is never read"),
    ],
)
def test_the_excluded_secrets_are_listed_in_full(path: str, heading: str) -> None:
    text = section(path, heading)
    lists = text[text.index("Active Directory:") :].split("\n\n")[:2]
    assert set(re.findall(r"`([\w-]+)`", "".join(lists).lower())) == EXCLUDED


def test_the_quiet_attributes_are_listed_in_full() -> None:
    text = section("docs/lossless.md", "Quiet attributes")
    listed = next(part for part in text.split("\n\n") if part.startswith("`"))
    assert set(re.findall(r"`(\w+)`", listed.lower())) == attributes.QUIET


def rows(text: str) -> dict[str, list[str]]:
    """The lines of a table, by what their first cell names in code."""
    cells = (re.split(r"(?<!\\) ?\| ?", line)[1:-1] for line in text.splitlines() if line.startswith("| `"))
    return {first.strip("` "): rest for first, *rest in cells}


def test_every_setting_of_a_directory_is_explained_with_what_holds_unless_it_is_given() -> None:
    explained = rows(section(LIVE, "Settings"))
    settings = {setting.name: setting for setting in kinds.describe("ldap")}
    assert explained.keys() == settings.keys()
    for name, (default, meaning) in explained.items():
        if settings[name].default not in ("", []):
            assert default.strip("`") == str(settings[name].default)
        assert set(settings[name].choices) <= {text for text in re.findall(r"`([^`]+)`", default + meaning)}, name
    named = set(re.findall(r"`(\w+)`", section(LIVE, "Settings").rpartition("|")[2].partition(" say who is read")[0]))
    assert named == {name for name, setting in settings.items() if setting.selects}


def test_the_steps_of_a_directorys_diagnosis_are_explained_in_their_order() -> None:
    taken = re.findall(r'Step\(\s*"(\w+)"', Path(diagnosis.__file__).read_text())
    assert list(rows(section(LIVE, "What the diagnosis says"))) == ["settings", *dict.fromkeys(taken)]


def test_what_can_go_wrong_with_a_directory_is_quoted_as_it_is_said() -> None:
    said = "".join(path.read_text() for path in (ROOT / "connectors").rglob("*.py"))
    quoted = re.findall(
        r'"([^"]+)"', "".join(re.findall(r"^\| (.*?) \|", section(LIVE, "What goes wrong"), re.MULTILINE))
    )
    assert len(quoted) > 15 and [text for text in quoted if text not in said] == []


def test_schedules_and_limits_are_what_holds_unless_they_are_given() -> None:
    text = (ROOT / "docs/sync.md").read_text()
    schedules = {name: rest[0].strip("`") for name, rest in rows(text).items() if name in schedule.DEFAULT}
    assert schedules == {name: str(value).lower() for name, value in schedule.DEFAULT.items()}
    for name in ("sync_runs_at_once", "sync_runs_per_tenant"):
        assert rows(text)[name][0] == str(SETTINGS[name].default)


def test_every_metric_is_explained() -> None:
    given = set(re.findall(r'[("\' ](scaikey_[a-z_]+)["{ ]', inspect.getsource(health._lines)))
    explained = set(re.findall(r"`(scaikey_\w+)", section("docs/operations.md", "Health")))
    assert explained == given


def test_every_environment_variable_is_explained() -> None:
    read = set(re.findall(r'"((?:SCAIKEY_[A-Z_]+)|DATABASE_URL|REDIS_URL)"', Path(config.__file__).read_text()))
    explained = set(re.findall(r"^\| `(\w+)`", section("docs/operations.md", "Environment"), re.MULTILINE))
    assert explained == read


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_named_exists(path: Path) -> None:
    unknown = [words for words in commands_in(path.read_text()) if not exists(words)]
    assert unknown == []


def test_every_command_is_explained() -> None:
    named = {tuple(words) for path in DOCUMENTS for words in commands_in(path.read_text())}
    unnamed = [path for path in paths_of(cli) if not any(words[: len(path)] == path for words in named)]
    assert unnamed == []


def paths_of(group: click.Group, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command that does something."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from paths_of(command, (*above, name))
        else:
            yield (*above, name)


def commands_in(text: str) -> Iterator[list[str]]:
    """What follows `scaikey` in code, up to the first word that is no name of a command."""
    for code in re.findall(r"```[^\n]*\n(.*?)```|`([^`\n]+)`", text, re.DOTALL):
        for line in "\n".join(code).splitlines():
            if found := re.match(r"\s*(?:\$ |\.venv/bin/)?scaikey ((?:[a-z]+ ?)+)", line):
                yield found[1].split()


def exists(words: list[str]) -> bool:
    command: click.Command = cli
    for word in words:
        if not isinstance(command, click.Group):
            return True
        if word not in command.commands:
            return False
        command = command.commands[word]
    return True


def test_decisions_have_a_number_of_their_own_and_say_context_decision_consequences() -> None:
    numbers = Counter(path.name[:4] for path in DECISIONS)
    assert all(count == 1 and number.isdigit() for number, count in numbers.items())
    for path in DECISIONS:
        text = path.read_text()
        assert text.startswith(f"# {int(path.name[:4])}. "), path.name
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"], path.name
