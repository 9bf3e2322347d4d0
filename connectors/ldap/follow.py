"""What has changed in a live directory since a cursor, found in one of three ways and then read anew.

Owns the choice of the way, and what becomes of what was found: DirSync (Active Directory's own list of changes), update
sequence numbers (for accounts without the right to it), times of modification (other directories). Each way only
finds which entries changed; what they are now is read through the scope, and what is not found there is gone. A group
that only gained or lost members is not read: the difference is told, whatever the size of the group.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from ldap3.protocol.microsoft import DirSyncControlRequestValue, extended_dn_control, show_deleted_control
from ldap3.utils.asn1 import encode

from connectors import dn
from connectors.egress import Egress
from connectors.ldap.config import Config
from connectors.ldap.cursors import LONGEST_COOKIE, Cursor
from connectors.ldap.entries import generalized_time
from connectors.ldap.reading import Reader
from connectors.ldap.scope import Scope, batches, key_of, scope_of, value
from connectors.ldap.session import DIRSYNC, Session, opened
from connectors.ldap.wire import Entry, elements
from connectors.port import Change, CursorExpired, Gone, Members, Misconfigured, Page, Record, Ref, Refused

OVERLAP = timedelta(minutes=5)
"""Times of modification have whole seconds and the server's own clock: what is this old is read once more."""

_NOTHING = f"(objectGUID={value(bytes(16))})"
_VISIBLE = 0x1
_DIFFERENCES = -0x80000000
_MOST_BYTES = 4 * 1024 * 1024
_MOST_IDLE = 10_000
_ALWAYS_TOLD = frozenset({"objectguid", "parentguid", "instancetype"})
_JOINED, _LEFT = "member;range=1-1", "member;range=0-0"
_EXTENDED = re.compile(rb"(?:<(?:GUID=(?P<guid>[0-9a-fA-F-]+)|[^>]*)>;)*(?P<dn>.*)", re.DOTALL).fullmatch


Mention = tuple[str, Ref]
"""A member's key, empty where it is not told, and its name."""


@dataclass
class Found:
    """Keys of what changed. Everything here is bounded by the number of changes, never by the size of a group."""

    again: dict[str, None] = field(default_factory=dict)
    renamed: dict[str, None] = field(default_factory=dict)
    """Those whose name changed, and with it perhaps the names of everything below them."""
    gone: dict[str, None] = field(default_factory=dict)
    members: dict[str, tuple[list[Mention], list[Mention]]] = field(default_factory=dict)


def begin(config: Config, session: Session, scope: Scope) -> Cursor:
    """Where following begins for a full pass that is about to read. Raises Misconfigured for a way that is not open."""
    if config.mode == "full":
        return Cursor("full", scope.digest)
    if not scope.active_directory:
        if config.mode != "auto":
            text = f"{config.mode} is Active Directory's, and {session.server} is none."
            raise Misconfigured(text, {"mode": text})
        return Cursor("modified", scope.digest, _moment(session, scope))
    flaw = ""
    if config.mode in ("auto", "dirsync"):
        flaw = dirsync_flaw(session, scope)
        for mode in () if flaw else ("dirsync", "visible"):
            try:
                return _skipped(session, scope, Cursor(mode, scope.digest))
            except Refused as error:
                flaw = str(error)
    invocation = session.invocation()
    if config.mode == "dirsync" or not invocation:
        text = flaw or f"{session.server} does not tell the identity of its database, so that its updates cannot count."
        raise Misconfigured(text, {"mode": text})
    return Cursor("usn", scope.digest, f"{invocation}.{session.root.usn}")


def dirsync_flaw(session: Session, scope: Scope) -> str:
    """What keeps DirSync from being asked for at all; whether the account may is seen by asking."""
    if DIRSYNC not in session.root.controls:
        return f"{session.server} has no DirSync."
    if len(scope.roots) > 1 or not any(dn.fold(scope.roots[0]) == dn.fold(name) for name in session.root.contexts):
        return "DirSync follows one naming context, and the bases do not lie in one of this server's."
    return ""


def changes(config: Config, egress: Egress, cursor: Cursor) -> Iterator[Page]:
    """Raises CursorExpired for a cursor that does not fit the settings or the server any more."""
    if cursor.mode == "pass":
        raise CursorExpired("A full pass that was interrupted begins anew.")
    if cursor.mode == "full" or config.mode == "full":
        raise CursorExpired("Changes are not followed: every run reads everything.")
    if config.mode not in ("auto", {"visible": "dirsync"}.get(cursor.mode, cursor.mode)):
        raise CursorExpired("Changes are found in another way now.")
    with opened(config, egress) as session:
        scope = scope_of(config, session)
        if scope.digest != cursor.scope:
            raise CursorExpired("What is read has changed since the last pass: the settings, the group or the domain.")
        reader = Reader(session, scope, config.page_size)
        if cursor.mode in ("dirsync", "visible"):
            yield from _by_dirsync(reader, cursor)
        elif cursor.mode == "usn":
            yield from _by_usn(reader, cursor)
        else:
            yield from _by_time(reader, cursor)


def _by_dirsync(reader: Reader, cursor: Cursor) -> Iterator[Page]:
    scope = reader.scope
    rounds = _rounds(reader.session, scope, f"(|{scope.kinds}(isDeleted=TRUE))", cursor)
    while True:
        try:
            told = next(rounds, None)
        except Refused as error:
            raise CursorExpired(f"The server does not go on from the cursor: {error}") from None
        if told is None:
            return
        found = Found()
        for entry in told.entries:
            _sort(entry, scope, found)
        yield from _pages(reader, found, cursor, told.following, last=not told.more)
        cursor = told.following


def _sort(entry: Entry, scope: Scope, found: Found) -> None:
    key = key_of(entry, "objectGUID")
    if key is None:
        return
    said = {name.lower(): values for name, values in entry.attributes.items()}
    if said.get("isdeleted") == [b"TRUE"]:
        found.gone[key] = None
        return
    changed = said.keys() - _ALWAYS_TOLD
    joined, left = (list(map(_mentioned, said.get(name, ()))) for name in (_JOINED, _LEFT))
    if key in scope.closure:
        # Whoever joined or left the group that people have to belong to may be wanted now, or not any more.
        found.again.update(dict.fromkeys(member for member, _ in (*joined, *left) if member))
    if changed and changed <= {_JOINED, _LEFT}:
        found.members[key] = (joined, left)
        return
    found.again[key] = None
    # Of one that only moved a server may tell nothing but where it is now, which it tells of everybody.
    if not changed or "name" in changed:
        found.renamed[key] = None


def _mentioned(member: bytes) -> Mention:
    """A member as DirSync names it: by its key and a name, of who left perhaps the one it had then."""
    parts = _EXTENDED(member)
    key, name = (parts["guid"] or b"", parts["dn"]) if parts else (b"", member)
    raw = name.decode("utf-8", "replace")
    try:
        return key.decode().lower(), Ref(dn.fold(raw), raw)
    except ValueError:
        return key.decode().lower(), Ref(f"?{raw}", raw)


def _by_usn(reader: Reader, cursor: Cursor) -> Iterator[Page]:
    session, scope = reader.session, reader.scope
    invocation, _, since = cursor.place.partition(".")
    if not since.isdecimal() or invocation != session.invocation() or session.root.usn < int(since):
        raise CursorExpired("The updates were counted by another server, or by this one before it was restored.")
    following = cursor.at(f"{invocation}.{session.root.usn}")
    news = f"(uSNChanged>={int(since) + 1})"
    found = Found()
    for root in scope.roots:
        for entry in _all(session, root, f"(&{scope.kinds}{news})"):
            _notice(entry, scope, found)
        for entry in _all(session, root, f"(&(isDeleted=TRUE){news})", [show_deleted_control(criticality=True)]):
            if key := key_of(entry, "objectGUID"):
                found.gone[key] = None
    yield from _pages(reader, found, cursor, following, last=True)


def _by_time(reader: Reader, cursor: Cursor) -> Iterator[Page]:
    session, scope = reader.session, reader.scope
    try:
        since = generalized_time(cursor.place)
    except ValueError:
        raise CursorExpired("The cursor is damaged.") from None
    following = cursor.at(_moment(session, scope))
    found = Found()
    for base in scope.bases:
        for entry in _all(session, base, f"(&{scope.kinds}(modifyTimestamp>={_written(since - OVERLAP)}))"):
            _notice(entry, scope, found)
    yield from _pages(reader, found, cursor, following, last=True)


def _notice(entry: Entry, scope: Scope, found: Found) -> None:
    """Of an entry it is only known that it changed: it may have another name, a group any other members."""
    key = key_of(entry, scope.key)
    if key is None:
        return
    if key in scope.closure:
        raise CursorExpired("The group that people have to belong to has changed.")
    found.again[key] = found.renamed[key] = None


def _all(session: Session, base: str, filter: str, controls: tuple[Any, ...] | list[Any] = ()) -> Iterator[Entry]:
    for page in session.pages(base, filter, ["objectGUID", "entryUUID"], 1000, controls):
        yield from page


def _pages(reader: Reader, found: Found, before: Cursor, after: Cursor, last: bool) -> Iterator[Page]:
    """What was found as pages; only the last of them carries the new cursor, since all may be told again."""
    held: list[Change] = []
    for change in _told(reader, found):
        if len(held) >= reader.page_size:
            yield Page(tuple(held), str(before), False, "delta")
            held = []
        held.append(change)
    yield Page(tuple(held), str(after), last, "delta")


def _told(reader: Reader, found: Found) -> Iterator[Change]:
    """Records first, groups after everybody else, so that whoever they name is known by the name he has now; then
    members; then who is gone."""
    scope = reader.scope
    _descend(reader, found)
    missing = dict.fromkeys(key for key in found.again if key not in found.gone)
    today: dict[str, Ref] = {}
    for filter in (scope.ungrouped, scope.groups):
        for batch in batches(list(missing)):
            for key, change in reader.again(batch, filter):
                missing.pop(key, None)
                if isinstance(change, Record):
                    today[key] = Ref(change.ref, change.name)
                yield change
    groups = [key for key in found.members if key not in found.again and key not in found.gone]
    for batch in batches(groups):
        there = {key_of(entry, scope.key) for entry in reader.found(batch, scope.groups, [scope.key])}
        for key in batch:
            if key in there:
                joined, left = (tuple(today.get(who, ref) for who, ref in told) for told in found.members[key])
                yield Members(key, joined, left)
            else:
                missing[key] = None
    for key in (*found.gone, *missing):
        yield Gone(key)


def _descend(reader: Reader, found: Found) -> None:
    """Adds what lies below renamed units: the directory changes its name without touching it."""
    scope = reader.scope
    if not found.renamed:
        return
    inside = scope.roots if scope.active_directory else scope.bases
    for batch in batches(list(found.renamed)):
        for root in inside:
            for unit in _all(reader.session, root, f"(&{scope.containers}{scope.named(batch)})"):
                for entry in _all(reader.session, unit.name, scope.kinds):
                    if key := key_of(entry, scope.key):
                        found.again[key] = None


class Round(NamedTuple):
    """One answer to DirSync, and where the next one begins."""

    entries: Sequence[Entry]
    following: Cursor
    more: bool


def _skipped(session: Session, scope: Scope, cursor: Cursor) -> Cursor:
    """The cursor behind everything that is there now; entries are not asked for, so that this costs next to nothing."""
    for told in _rounds(session, scope, _NOTHING, cursor):
        cursor = told.following
    return cursor


def _rounds(session: Session, scope: Scope, filter: str, cursor: Cursor) -> Iterator[Round]:
    idle = 0
    while True:
        told = _dirsync(session, scope, filter, cursor)
        idle = 0 if told.entries else idle + 1
        if told.more and (told.following == cursor or idle > _MOST_IDLE):
            raise Refused(f"{session.server} says that there are more changes, and does not give them.")
        yield told
        if not told.more:
            return
        cursor = told.following


def _dirsync(session: Session, scope: Scope, filter: str, cursor: Cursor) -> Round:
    control = DirSyncControlRequestValue()
    flags = _DIFFERENCES | (_VISIBLE if cursor.mode == "visible" else 0)
    control.setComponentByName("Flags", flags)
    control.setComponentByName("MaxBytes", _MOST_BYTES)
    control.setComponentByName("Cookie", cursor.cookie)
    controls = [
        (DIRSYNC, True, encode(control)),
        extended_dn_control(criticality=False),
        show_deleted_control(criticality=False),
    ]
    answer = session.search(scope.roots[0], filter, ["*"], controls=controls)
    if DIRSYNC not in answer.controls:
        raise Refused(f"{session.server} answers DirSync without a cookie.")
    told = elements(answer.controls[DIRSYNC])
    if len(told) != 3 or not 0 < len(told[2]) <= LONGEST_COOKIE:
        raise Refused(f"{session.server} answers DirSync with no cookie, or one that is too long.")
    return Round(answer.entries, cursor.at(told[2]), any(told[0]))


def _moment(session: Session, scope: Scope) -> str:
    """When the server was last changed, by its own clock where it tells (`contextCSN`), else by ours."""
    told = []
    for base in scope.roots:
        entry = session.entry(base, ["contextCSN"])
        for values in entry.attributes.values() if entry else ():
            told += [value.decode("ascii", "replace").partition("#")[0] for value in values]
    try:
        return _written(max(map(generalized_time, told)))
    except ValueError:
        return _written(datetime.now(UTC))


def _written(moment: datetime) -> str:
    return f"{moment:%Y%m%d%H%M%S}Z"
