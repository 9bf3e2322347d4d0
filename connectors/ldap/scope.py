"""What of a live directory is read: below which names, by which filters, with which attributes.

Owns the filters for people, groups and units, the group that people have to belong to, the naming of entries by their
keys, and the digest that makes one scope recognisable. Values are escaped whole, so that none is ever taken for syntax.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from uuid import UUID

from ldap3.utils.conv import escape_bytes

from connectors import dn
from connectors.ldap.config import Config
from connectors.ldap.entries import guid
from connectors.ldap.session import Session
from connectors.ldap.wire import Entry
from connectors.ldif import Unfit
from connectors.port import Misconfigured

IN_CHAIN = "1.2.840.113556.1.4.1941"
BATCH = 200
"""Keys asked for in one question."""

_UNITS = "(objectClass=organizationalUnit)"
_OTHER_PEOPLE = "(|(objectClass=inetOrgPerson)(&(objectClass=person)(uid=*)))"
_OTHER_GROUPS = (
    "(|(objectClass=groupOfNames)(objectClass=groupOfUniqueNames)(objectClass=groupOfMembers)(objectClass=posixGroup))"
)


def value(text: str | bytes) -> str:
    """A value for a filter, every byte of it escaped."""
    escaped: str = escape_bytes(text.encode() if isinstance(text, str) else text)
    return escaped


@dataclass(frozen=True, slots=True)
class Scope:
    active_directory: bool
    bases: tuple[str, ...]
    """Verbatim, none below another."""
    roots: tuple[str, ...]
    """The naming contexts that the bases lie in."""
    people: str
    """Whoever is a person, wanted or not."""
    groups: str
    wanted: str
    """What further is asked of people."""
    closure: frozenset[str]
    """The keys of `member_of` and of all groups in it."""
    digest: str

    @property
    def attributes(self) -> tuple[str, ...]:
        # Elsewhere than in Active Directory only who asks for memberOf is told it. In which groups somebody is who
        # comes, or comes back, nothing else may tell.
        return ("*",) if self.active_directory else ("*", "entryUUID", "createTimestamp", "modifyTimestamp", "memberOf")

    @property
    def key(self) -> str:
        return "objectGUID" if self.active_directory else "entryUUID"

    @property
    def filter(self) -> str:
        """Everything that is read."""
        return f"(|{self.ungrouped}{self.groups})"

    @property
    def ungrouped(self) -> str:
        """All of it but groups."""
        return f"(|{self.wanted_people}{_UNITS})"

    @property
    def wanted_people(self) -> str:
        return f"(&{self.people}{self.wanted})" if self.wanted else self.people

    @property
    def kinds(self) -> str:
        """Everything that could be read, were it wanted; what no longer is has to be noticed, too."""
        return f"(|{self.people}{self.groups}{self.containers})"

    @property
    def containers(self) -> str:
        """Whatever others lie below, so that their names change with its own."""
        return f"(|{_UNITS}(objectClass=container))" if self.active_directory else _UNITS

    def named(self, keys: Iterable[str]) -> str:
        """A filter for the entries with these keys."""
        parts = (UUID(key).bytes_le if self.active_directory else key for key in keys)
        return f"(|{''.join(f'({self.key}={value(part)})' for part in parts)})"

    def key_of(self, entry: Entry) -> str | None:
        """None for an entry that does not tell its key."""
        return key_of(entry, self.key)


def key_of(entry: Entry, attribute: str) -> str | None:
    values = next((held for name, held in entry.attributes.items() if name.lower() == attribute.lower()), None)
    try:
        if not values:
            return None
        return guid(values[0]) if attribute == "objectGUID" else str(UUID(values[0].decode("ascii", "replace")))
    except (Unfit, ValueError):
        return None


def scope_of(config: Config, session: Session) -> Scope:
    """Asks the server what the settings mean there. Raises Misconfigured."""
    root = session.root
    given = config.base_dns or [config.base_dn or root.default]
    if not given[0]:
        text = "The server names no default naming context: say below which entry people are."
        raise Misconfigured(text, {"base_dns": text})
    bases = tuple(_outermost(given))
    active = root.active_directory
    people = "(&(objectClass=user)(!(objectClass=computer)))" if active else _OTHER_PEOPLE
    groups = "(objectClass=group)" if active else _OTHER_GROUPS
    closure = _closure(config.member_of, groups, session) if config.member_of else {}
    wanted = config.user_filter + (_members(config.member_of, closure, active) if config.member_of else "")
    said = [active, [dn.fold(base) for base in bases], config.user_filter, config.member_of, sorted(closure.values())]
    digest = blake2b(json.dumps([*said, _domain(session)]).encode(), digest_size=12).hexdigest()
    roots = tuple(dict.fromkeys(_context(base, root.contexts) for base in bases))
    return Scope(active, bases, roots, people, groups, wanted, frozenset(closure.values()), digest)


def batches(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), BATCH):
        yield keys[start : start + BATCH]


def _outermost(names: Iterable[str]) -> Iterator[str]:
    folded = {dn.fold(name): name for name in names}
    for ref, name in folded.items():
        if not any(ref.endswith("," + other) for other in folded):
            yield name


def _context(base: str, contexts: Sequence[str]) -> str:
    """The innermost naming context a name lies in; the name itself where the server tells none."""
    ref = dn.fold(base)
    holding = [name for name in contexts if name and f",{ref}".endswith("," + dn.fold(name))]
    return max(holding, key=len, default=base)


def _domain(session: Session) -> str:
    """The domain's own key: another one of the same name is another directory."""
    if not session.root.active_directory:
        return ""
    found = session.entry(session.root.default, ["objectGUID"])
    return (key_of(found, "objectGUID") if found else None) or ""


def _closure(group: str, groups: str, session: Session) -> dict[str, str]:
    """The names of a group and of all groups in it, and their keys."""
    active, key = session.root.active_directory, "objectGUID" if session.root.active_directory else "entryUUID"
    head = session.entry(group, [key])
    if head is None:
        raise Misconfigured(f"There is no group {group}.", {"member_of": "There is no such group."})
    found = {group: key_of(head, key) or ""}
    if active:
        for entry in _below(session, f"(&{groups}(memberOf:{IN_CHAIN}:={value(group)}))", key):
            found[entry.name] = key_of(entry, key) or ""
        return found
    fresh = [group]
    while fresh:
        clauses = "".join(f"(memberOf={value(name)})" for name in fresh[:BATCH])
        del fresh[:BATCH]
        for entry in _below(session, f"(&{groups}(|{clauses}))", key):
            name = entry.name
            if name not in found:
                found[name] = key_of(entry, key) or ""
                fresh.append(name)
    return found


def _below(session: Session, filter: str, key: str) -> Iterator[Entry]:
    for page in session.pages(session.root.default, filter, [key], 1000):
        yield from page


def _members(group: str, closure: Iterable[str], active_directory: bool) -> str:
    if active_directory:
        return f"(memberOf:{IN_CHAIN}:={value(group)})"
    return f"(|{''.join(f'(memberOf={value(name)})' for name in closure)})"
