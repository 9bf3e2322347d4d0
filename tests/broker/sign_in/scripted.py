"""A directory that says what a test wants to hear, in the place of the connector that speaks LDAP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from broker.context import acting, system
from broker.directory import Directory
from broker.models import IdentityProvider
from connectors import kinds
from connectors.egress import Egress
from connectors.port import Change, Identity, Record, Refused, Unreadable, setting
from tests.broker.directory.conftest import person
from tests.broker.sign_in.stage import Stage

PASSWORD = "Us3r-Pass.7 / of the directory"


@dataclass(frozen=True)
class Config:
    source: str = setting("Where from", default="ldif")
    place: str = setting("Which one", default="")


@dataclass
class Script:
    """One directory: who is in it, what it says to whom, and what it was asked."""

    passwords: dict[str, str] = field(default_factory=dict)
    says: dict[str, str | Exception] = field(default_factory=dict)
    """To a name whatever the password: a code of a refusal, or what it raises."""
    fails: Exception | None = None
    asked: list[str] = field(default_factory=list)
    meanwhile: Callable[[], object] = lambda: None
    """Done while it is asked."""

    keys: dict[str, str] = field(default_factory=dict)
    """Whom a name is of, where it is another's than its own."""
    passed_on: list[str] = field(default_factory=list)
    """The keys of those at whose account a password was tried."""

    def check_password(
        self, name: str, password: str, may_try: Callable[[str], bool] = lambda key: True
    ) -> Identity | None:
        self.asked.append(name)
        self.meanwhile()
        if self.fails is not None:
            raise self.fails
        said = self.says.get(name)
        if isinstance(said, Exception):
            raise said
        if said is not None:
            raise Refused(f"The account may not: {said}.", said)
        who = self.keys.get(name, name.partition("@")[0])
        if not may_try(f"key-{who}"):
            raise Refused("The account rests.", "account_locked")
        self.passed_on.append(who)
        if name not in self.passwords or self.passwords[name] != password:
            return None
        return Identity(f"key-{who}", {"cn": [who]}, name=name)


@dataclass
class Telling(Script):
    """One that can be asked for records, too."""

    tells: list[Record | Unreadable] = field(default_factory=list)

    def records(self, keys: Sequence[str]) -> Iterator[Record | Unreadable]:
        self.meanwhile()
        yield from (one for one in self.tells if isinstance(one, Unreadable) or one.key in keys)


class Scripts(dict[str, Script]):
    """The directories there are, by their place."""

    def provider(self, stage: Stage, script: Script | None = None, name: str = "Acme AD", **fields: object) -> str:
        """A directory of the tenant that checks passwords; nobody becomes a person by it unless said otherwise."""
        self[name] = script or Script({"alice": PASSWORD})
        values = {"kind": "ldap", "config": {"source": "ldap", "place": name}, "jit": {"enabled": False}, **fields}
        return stage.provider(name, **values)


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Scripts:
    known = Scripts()

    def connects(config: Config, egress: Egress) -> Script | None:
        return known[config.place] if config.source == "ldap" else None

    monkeypatch.setattr(kinds, "KINDS", {**kinds.KINDS, "ldap": kinds.Connector(Config, connects=connects)})
    return known


def read(stage: Stage, provider_id: str, *changes: Change) -> None:
    """Take these changes in, as a run of the provider does."""
    with stage.unit() as session, acting(system("sync")):
        via = session.get_one(IdentityProvider, (stage.scope.tenant_id, provider_id))
        Directory().apply(changes, via, 1)


__all__ = ["PASSWORD", "Script", "Scripts", "Telling", "person", "read", "scripts"]
