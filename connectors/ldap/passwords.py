"""Whether a name and a password belong together: asked of the directory by signing in to it.

Owns finding the person, what a stranger may notice, and Active Directory's own lock-out, which nobody is driven into
from here. The password is used for one bind inside TLS and is nowhere kept.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from connectors.egress import Egress
from connectors.ldap.config import Config
from connectors.ldap.entries import filetime
from connectors.ldap.reading import Reader
from connectors.ldap.scope import Scope, scope_of, value
from connectors.ldap.session import Session, connected, opened
from connectors.ldap.wire import LITTLE, Entry
from connectors.port import PASSWORD_REFUSALS, Identity, Misconfigured, Record, Refused

LONGEST = 256
"""Characters of a name; nobody has a longer one."""

_NAMES = {True: ("userPrincipalName", "sAMAccountName", "mail"), False: ("uid", "mail")}
LOCKED = "account_locked"
_POLICY = "msDS-ResultantPSO"


@dataclass(frozen=True, slots=True)
class LockOut:
    """After how many wrong passwords within `window` an account is locked, and for how long (zero: until unlocked)."""

    threshold: int
    window: timedelta
    duration: timedelta

    def keeps_out(self, person: Mapping[str, Sequence[str | bytes]], margin: int, now: datetime) -> bool:
        """Whether the account is locked, or no more wrong passwords are left than `margin`; 0 passes all on."""
        locked = filetime(_number(person, "lockoutTime"))
        if locked and (not self.duration or locked + self.duration > now):
            return True
        last = filetime(_number(person, "badPasswordTime"))
        if not margin or not self.threshold or last is None or last + self.window <= now:
            return False
        # A margin as wide as the threshold would keep everybody out after a single mistake made elsewhere.
        return self.threshold - _number(person, "badPwdCount") <= min(margin, self.threshold - 1)


def check(config: Config, egress: Egress, name: str, password: str, may_try: Callable[[str], bool]) -> Identity | None:
    """As the port has it."""
    if not name.strip() or len(name) > LONGEST or not name.isprintable() or not password:
        # Some servers end a name at a NUL: what follows it would be ours alone.
        return None
    try:
        return _check(config, egress, name.strip(), password, may_try)
    except Refused as error:
        if error.code in PASSWORD_REFUSALS:
            raise
        raise Misconfigured(str(error)) from None


def _check(config: Config, egress: Egress, name: str, password: str, may_try: Callable[[str], bool]) -> Identity | None:
    with opened(config, egress, LITTLE) as session:
        person, policy = _person(config, session, name)
        active = session.root.active_directory
        lock_out = _lock_out(session, policy) if active else None
        # Of who does not exist or may not try as much is asked as of anybody, so that time and load do not tell.
        nobody = f"CN={secrets.token_hex(8)},{session.root.default}"
        at = session.server
    allowed = may_try(person.key if person else f"?{name}")
    now = datetime.now(UTC)
    kept_out = person is not None and (
        not allowed or (lock_out is not None and lock_out.keeps_out(person.attributes, config.lockout_margin, now))
    )
    with connected(config, egress, [at], LITTLE) as session:
        verdict = session.bind(person.name if person and not kept_out else nobody, password)
    if kept_out:
        raise Refused("The account is locked, or would be with one more wrong password.", LOCKED)
    if person is None:
        return None
    if not verdict.ok:
        # Only of Active Directory is it known which of these it says to nobody who has not shown the right password.
        if verdict.code and (active or verdict.code == LOCKED):
            raise Refused(f"The directory says that {verdict.reason}.", verdict.code)
        return None
    shown = next(iter(person.attributes.get("userPrincipalName", ())), person.name)
    return Identity(
        key=person.key,
        attributes=person.attributes,
        auth_time=datetime.now(UTC),
        amr=("pwd",),
        name=shown if isinstance(shown, str) else person.name,
    )


def _person(config: Config, session: Session, name: str) -> tuple[Record | None, str]:
    """The one person of this name, and the name of the password policy that is only theirs."""
    scope = scope_of(config, session)
    reader = Reader(session, scope, 2)
    found = _named(config, reader, scope, name)
    if len(found) != 1:
        return None, ""
    policy = next(iter(found[0].attributes.pop(_POLICY, [])), b"").decode("utf-8", "replace")
    person = reader.change(found[0])
    return (person if isinstance(person, Record) and person.kind == "user" else None), policy


def _named(config: Config, reader: Reader, scope: Scope, name: str) -> list[Entry]:
    """Those of this name; two are as bad as many."""
    names = config.sign_in_names or _NAMES[scope.active_directory]
    clauses = "".join(f"({attribute}={value(name)})" for attribute in names)
    attributes = (*scope.attributes, _POLICY) if scope.active_directory else scope.attributes
    found: list[Entry] = []
    for base in scope.bases:
        for page in reader.pages(base, f"(&{scope.wanted_people}(|{clauses}))", attributes):
            found += page
            if len(found) > 1:
                return found
    return found


def _lock_out(session: Session, policy: str) -> LockOut:
    """The lock-out of the person's own policy where it can be read, else the domain's."""
    prefix, entry = "msDS-", session.entry(policy, ["*"]) if policy else None
    if entry is None:
        prefix, entry = "", session.entry(session.root.default, ["*"])
    said = {name: list[str | bytes](values) for name, values in entry.attributes.items()} if entry else {}

    def span(name: str) -> timedelta:
        ticks = -_number(said, prefix + name)
        # The greatest negative number means for ever.
        return timedelta(microseconds=ticks // 10) if 0 < ticks < 1 << 60 else timedelta()

    return LockOut(
        _number(said, f"{prefix}lockoutThreshold"), span("lockOutObservationWindow"), span("lockoutDuration")
    )


def _number(said: Mapping[str, Sequence[str | bytes]], name: str) -> int:
    values = next((held for spelt, held in said.items() if spelt.lower() == name.lower()), ())
    try:
        return int(values[0]) if values else 0
    except ValueError:
        return 0
