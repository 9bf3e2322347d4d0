"""Small Active Directories to export: entries by kind, written as LDIF, and read into a tenant."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import sqlalchemy as sa

from broker import sync
from broker.context import Scope
from broker.db import unit
from broker.models import Event, SyncRun, SyncSkip
from broker.sync import SyncProgress
from connectors import kinds
from connectors.ldif import write_entry

BASE = "DC=corp,DC=example"
Entry = tuple[str, dict[str, list[str | bytes]]]


def person(number: int, *, base: str = BASE, disabled: bool = False, **more: str | Sequence[str | bytes]) -> Entry:
    name = f"p{number:04d}"
    dn = f"CN={name},OU=People,{base}"
    values = {
        "cn": name,
        "userAccountControl": "514" if disabled else "512",
        "sAMAccountName": name,
        "userPrincipalName": f"{name}@corp.example",
        "distinguishedName": dn,
    }
    return _entry(dn, 1, number, ["top", "person", "organizationalPerson", "user"], **{**values, **more})


def group(number: int, members: Iterable[Entry] = (), **more: str | Sequence[str | bytes]) -> Entry:
    name = f"g{number:04d}"
    dn = f"CN={name},OU=Groups,{BASE}"
    values: dict[str, str | Sequence[str | bytes]] = {"cn": name, "sAMAccountName": name}
    if listed := [member for member, _ in members]:
        values["member"] = listed
    return _entry(dn, 2, number, ["top", "group"], **{**values, **more})


def unit_entry(number: int, name: str, *, base: str = BASE) -> Entry:
    return _entry(f"OU={name},{base}", 3, number, ["top", "organizationalUnit"], ou=name)


def computer(number: int, **more: str | Sequence[str | bytes]) -> Entry:
    name = f"HOST{number}"
    classes = ["top", "person", "organizationalPerson", "user", "computer"]
    return _entry(f"CN={name},CN=Computers,{BASE}", 4, number, classes, cn=name, **more)


def _entry(dn: str, series: int, number: int, classes: list[str], **more: str | Sequence[str | bytes]) -> Entry:
    attributes: dict[str, list[str | bytes]] = {"objectClass": list(classes)}
    attributes["objectGUID"] = [uuid.UUID(key(number, series)).bytes_le]
    attributes |= {name: [value] if isinstance(value, str) else list(value) for name, value in more.items()}
    return dn, attributes


def key(number: int, series: int = 1) -> str:
    """The immutable key of an entry; people are of series 1, groups of 2."""
    return str(uuid.UUID(int=(0xFEDC << 100) + (series << 64) + number))


def people(count: int, start: int = 0, **more: str | Sequence[str | bytes]) -> list[Entry]:
    return [person(number, **more) for number in range(start, start + count)]


def write(path: Path, entries: Iterable[Entry]) -> Path:
    path.write_bytes(b"".join(write_entry(dn, attributes) for dn, attributes in entries))
    return path


class Upstream:
    """One provider of one tenant and the file its directory is exported to."""

    def __init__(self, scope: Scope, provider_id: str, folder: Path) -> None:
        self.scope = scope
        self.provider_id = provider_id
        self.file = folder / f"{provider_id}.ldif"

    def read(
        self,
        entries: Iterable[Entry] | Path,
        *,
        dry_run: bool = False,
        progress: Callable[[SyncProgress], None] | None = None,
        patience: float = 0,
    ) -> SyncRun:
        """Export these entries (or take that file), pull them in, and return the run."""
        path = entries if isinstance(entries, Path) else write(self.file, entries)
        feed = kinds.file_feed("ldap", kinds.config_from("ldap", {}), path)
        run_id = sync.pull(self.scope, self.provider_id, feed, dry_run=dry_run, progress=progress, patience=patience)
        return self.run(run_id)

    def run(self, run_id: str) -> SyncRun:
        with unit(self.scope) as session:
            run = session.get_one(SyncRun, (self.scope.tenant_id, run_id))
            session.expunge(run)
            return run

    def runs(self) -> list[SyncRun]:
        with unit(self.scope) as session:
            found = list(session.scalars(sa.select(SyncRun).order_by(SyncRun.no)))
            session.expunge_all()
            return found

    def skips(self, run: SyncRun) -> list[tuple[str | None, str]]:
        with unit(self.scope) as session:
            found = session.scalars(sa.select(SyncSkip).where(SyncSkip.run_id == run.id).order_by(SyncSkip.no))
            return [(skip.name, skip.reason) for skip in found]

    def events(self, pattern: str = "%") -> list[str]:
        """Names of events so far, in order."""
        with unit(self.scope) as session:
            return list(session.scalars(sa.select(Event.name).where(Event.name.like(pattern)).order_by(Event.no)))

    def active(self) -> int:
        """People who may sign in."""
        return self._count("type = 'User' AND removed_at IS NULL AND active")

    def present(self) -> dict[str, int]:
        """Live resources by type."""
        with unit(self.scope) as session:
            found = session.execute(
                sa.text(
                    "SELECT type, count(*) FROM resources WHERE tenant_id = :t AND removed_at IS NULL GROUP BY type"
                ),
                {"t": self.scope.tenant_id},
            )
            return {type_: count for type_, count in found}

    def members(self, number: int) -> int:
        """How many members a group has that we know."""
        with unit(self.scope) as session:
            return session.execute(
                sa.text("""
                    SELECT count(m.member_id) FROM resources r JOIN memberships m
                      ON m.tenant_id = r.tenant_id AND m.group_id = r.id
                    WHERE r.tenant_id = :t AND r.name = :name"""),
                {"t": self.scope.tenant_id, "name": f"g{number:04d}"},
            ).scalar_one()

    def id_of(self, name: str) -> str:
        with unit(self.scope) as session:
            return session.execute(
                sa.text("SELECT id FROM resources WHERE tenant_id = :t AND (name = :n OR name LIKE :n || '@%')"),
                {"t": self.scope.tenant_id, "n": name},
            ).scalar_one()

    def _count(self, condition: str) -> int:
        with unit(self.scope) as session:
            return session.execute(
                sa.text(f"SELECT count(*) FROM resources WHERE tenant_id = :t AND {condition}"),
                {"t": self.scope.tenant_id},
            ).scalar_one()
