"""Local passwords: hashed with Argon2id, checked at a pace that guessing cannot afford, refused when they are common.

Owns the rows of `passwords` and of `attempts`: who failed how often, by account, by address, by tenant, and at somebody
else's directory. A wrong password is an answer, not an exception, and its count is committed. Whoever has no password,
is disabled or is nobody at all costs the same work and gets the same answer. What a right password opens is
`sign_in`'s; who may set one the doors'.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import threading
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Any, NamedTuple

import argon2
import orjson
import sqlalchemy as sa

from . import events, password_rules, settings
from .attributes import fold
from .context import PLATFORM_TENANT, Scope
from .db import current_scope, db, hot, unit
from .endings import end_all_of
from .errors import NotFound, OwnedByUpstream, ServiceUnavailable, ValidationFailed

MOST_OCTETS = 1_024
FREE_FAILURES = 5
"""Of one account, before each next one costs a delay: 1, 2, 4 … seconds."""
LONGEST_DELAY = 60
FAILURES_A_DAY = 100
"""Of one account, then it rests until the day is over. Whoever signs in at an upstream, or with a directory's password,
is not held up."""
FAILURES_A_MINUTE = 30
"""From one address (the /64 of an IPv6 one)."""
ALARMING_FAILURES = 200
"""Of one tenant within an hour: an event tells its administrators, once an hour."""
FAILURES_ELSEWHERE = 4
"""Of one name, and of one account whatever it is called, that a directory is asked about; then it is asked no more
until there was none for `REST_ELSEWHERE`: directories lock accounts, many after five, and nobody shall lock another's
by guessing here."""
REST_ELSEWHERE = timedelta(minutes=15)
SLOT_WAIT = 3.0
"""Seconds a hash may wait for its turn."""

_HASHER = argon2.PasswordHasher(time_cost=2, memory_cost=19 * 1_024, parallelism=1, hash_len=32, salt_len=16)
# One hash at a time in each process: several would leave nothing of the machine to anybody else.
_slot = threading.BoundedSemaphore(1)

_FIND = sa.text("""
    SELECT r.id, p.hash, p.changed_at,
        r.active AND (r.active_until IS NULL OR r.active_until > now())
        AND EXISTS (SELECT 1 FROM tenants t WHERE t.id = :tenant AND t.status = 'active')
        AND NOT EXISTS (
            SELECT 1 FROM links l JOIN identity_providers v ON v.tenant_id = :tenant AND v.id = l.provider_id
            WHERE l.tenant_id = :tenant AND l.resource_id = r.id AND l.gone_at IS NULL AND l.skipped IS NULL
              AND (NOT l.active OR (v.sign_in AND v.enabled))) AS usable
    FROM resources r JOIN passwords p ON p.tenant_id = :tenant AND p.user_id = r.id
    WHERE r.tenant_id = :tenant AND r.name_key = :name AND r.type = 'User' AND r.removed_at IS NULL
      AND r.user_type IS DISTINCT FROM 'ServiceAccount'
""")
_COUNT = sa.text("""
    INSERT INTO attempts AS a (tenant_id, subject, failures, window_ends) VALUES (:tenant, :subject, 1, now() + :window)
    ON CONFLICT (tenant_id, subject) DO UPDATE SET
        failures = CASE WHEN a.window_ends <= now() THEN 1 ELSE a.failures + 1 END,
        window_ends = CASE WHEN :sliding OR a.window_ends <= now() THEN EXCLUDED.window_ends ELSE a.window_ends END,
        blocked_until = CASE
            WHEN a.window_ends <= now() THEN NULL
            WHEN a.failures + 1 >= :most THEN CASE WHEN :sliding THEN EXCLUDED.window_ends ELSE a.window_ends END
            WHEN a.failures + 1 >= :free THEN now() + make_interval(
                secs => least(:longest, power(2, a.failures + 1 - :free)))
        END
    WHERE a.window_ends <= now() OR a.blocked_until IS NULL OR a.blocked_until <= now()
    RETURNING failures
""")
_WAIT = sa.text("""
    SELECT extract(epoch FROM blocked_until - now()) FROM attempts WHERE tenant_id = :tenant AND subject = :subject
""")
_TAKE_BACK = sa.text("""
    UPDATE attempts SET failures = greatest(failures - 1, 0), blocked_until = NULL
    WHERE tenant_id = :tenant AND subject = :subject
""")
_FORGET = sa.text("DELETE FROM attempts WHERE tenant_id = :tenant AND subject = :subject")
_REHASH = sa.text("""
    UPDATE passwords SET hash = :new WHERE tenant_id = :tenant AND user_id = :user AND hash = :hash
""")
_OWNER = sa.text("""
    SELECT r.name, r.name_key, r.user_type, r.document, t.name AS tenant_name, t.slug, p.hash,
        EXISTS (SELECT 1 FROM links l JOIN identity_providers v ON v.tenant_id = :tenant AND v.id = l.provider_id
                WHERE l.tenant_id = :tenant AND l.resource_id = r.id AND l.gone_at IS NULL AND l.skipped IS NULL
                  AND v.sign_in AND v.enabled) AS federated
    FROM resources r JOIN tenants t ON t.id = :tenant
    LEFT JOIN passwords p ON p.tenant_id = :tenant AND p.user_id = r.id
    WHERE r.tenant_id = :tenant AND r.id = :user AND r.type = 'User' AND r.removed_at IS NULL
    FOR NO KEY UPDATE OF r
""")
_HOLD = sa.text("SELECT 1 FROM resources WHERE tenant_id = :tenant AND id = :user FOR SHARE")
_SINCE = sa.text("SELECT 1 FROM passwords WHERE tenant_id = :tenant AND user_id = :user AND changed_at = :set_at")
_KEEP = sa.text("""
    INSERT INTO passwords (tenant_id, user_id, hash) VALUES (:tenant, :user, :hash)
    ON CONFLICT (tenant_id, user_id) DO UPDATE SET hash = EXCLUDED.hash, changed_at = now()
""")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whose password it was, or nobody's; `retry_after`: nothing was tried, and not before so many seconds."""

    user_id: str | None
    retry_after: int | None = None
    set_at: datetime | None = field(default=None, compare=False)
    """Since when the password is his."""


class _Counter(NamedTuple):
    """Failures of one subject within a window, and from which on they cost a delay, or the rest of the window.
    `sliding`: the window begins anew with each."""

    subject: bytes
    window: timedelta
    free: int
    most: int
    sliding: bool = False


class _Claim(NamedTuple):
    """The account of a name: nobody's has no password, and none that is shown fits."""

    user_id: str | None
    hash: str | None
    usable: bool
    set_at: datetime | None = None


_NOBODY = _Claim(None, None, False)

MayTry = Callable[[str], bool]
"""Whether one more password may be tried at somebody's account elsewhere, by the account's own key. Counts the try:
whatever somebody calls himself, his account there has one count."""

Elsewhere = Callable[[MayTry], bool | None]
"""Whether somebody else takes the password, or None when he did not say."""


def check(
    scope: Scope | None,
    username: str,
    password: str,
    address: str | None,
    device: str | None = None,
    elsewhere: Elsewhere | None = None,
) -> Verdict:
    """Whether this is the password of an active account of the tenant, by its userName. Outside any unit of work.

    Without a scope the name is of a tenant that does not exist: the same is done, and the answer is no. Every try
    counts as a failure before it is made, so that parallel ones are no more than others, and is taken back when it was
    right. `device`: a browser in which the account signed in before; whoever guesses elsewhere does not hold it up.
    `elsewhere` is asked when it is no password of ours, and while our own account has to wait, which holds nobody up
    who signs in there; the verdict is nobody's then. That he says nothing takes back what was counted of him, not what
    was counted here: the password was a wrong one of ours, whether or not the name has one.
    Raises ServiceUnavailable when too many wait.
    """
    place = scope or _nowhere()
    name = fold(username.strip()[:500]).replace("\x00", "\ufffd")
    kind, mark = ("account", "") if device is None else ("device", f"\x00{device}")
    account = _Counter(_subject(kind, scope, name + mark), timedelta(days=1), FREE_FAILURES, FAILURES_A_DAY)
    caller = _Counter(
        _subject("address", None, _network(address)), timedelta(minutes=1), FAILURES_A_MINUTE, FAILURES_A_MINUTE
    )
    with unit(place):
        refused, _ = _count(place, caller)
        wait, failures = (refused, 0) if refused else _count(place, account)
        claim = _NOBODY if wait else _claim(place, name)
    if refused or (wait and elsewhere is None):
        return Verdict(None, wait)
    if scope is None:
        claim = _NOBODY
    shown = _octets(password)
    counted = [caller] if wait else [caller, account]
    if not wait and (user_id := _owner_of(place, name, claim, shown, counted)) is not None:
        return Verdict(user_id, set_at=claim.set_at)
    said, rest = None, None
    if elsewhere is not None and shown is not None:
        said, rest = _There(place, scope, name, mark).says(elsewhere)
    with unit(place):
        if said:
            _take_back(place, *counted)
            return Verdict(None)
        _tell_failure(place, claim, failures)
    return Verdict(None, min(filter(None, (wait, rest)), default=None))


def still_right(verdict: Verdict) -> bool:
    """Whether the password is still the one that was shown. Asked in the unit of work of what it opens: until that is
    over nobody changes the password or disables the person, and whoever does so afterwards ends what was opened."""
    scope = current_scope()
    _run(scope, _HOLD, user=verdict.user_id)
    # A statement of its own: after the wait it sees what was waited for.
    return _run(scope, _SINCE, user=verdict.user_id, set_at=verdict.set_at).first() is not None


def set_password(user_id: str, password: str) -> bool:
    """Give a person of the open unit's tenant this password, and end all that the earlier one opened. False when it is
    the present one: nothing happens then.

    Raises NotFound, ValidationFailed (`password`), OwnedByUpstream for who signs in at an upstream, ServiceUnavailable.
    """
    scope = current_scope()
    owner = _run(scope, _OWNER, user=user_id).first()
    if owner is None:
        raise NotFound("There is no such user")
    if owner.user_type == "ServiceAccount":
        raise ValidationFailed(errors={"password": ["A service account has none."]}, scim_type="invalidValue")
    if owner.federated:
        raise OwnedByUpstream("This person signs in at an upstream", scim_type="mutability")
    shown = _octets(password)
    least = int(settings.of(scope, "password_policy")["min_length"])
    complaint = (
        f"Has more than {MOST_OCTETS} octets."
        if shown is None
        else password_rules.complaint(shown.decode(), least, _own_words(owner))
    )
    if complaint is not None or shown is None:
        raise ValidationFailed(
            "password: " + str(complaint), errors={"password": [str(complaint)]}, scim_type="invalidValue"
        )
    with _turn():
        if owner.hash is not None and _fits(owner.hash, shown):
            return False
        kept = _HASHER.hash(shown)
    _run(scope, _KEEP, user=user_id, hash=kept)
    _run(scope, _FORGET, subject=_subject("account", scope, owner.name_key))
    batch = events.Changes()
    batch.add("password.set", "User", user_id)
    end_all_of([user_id], "password_changed", batch)
    events.record(batch)
    return True


def _run(scope: Scope, statement: sa.TextClause, **values: Any) -> sa.Result[Any]:
    return db.session().execute(statement, {"tenant": scope.tenant_id, **values})


def _count(scope: Scope, counter: _Counter) -> tuple[int | None, int]:
    """Count one more try: how long it has to wait instead, if it must, and which failure it will be."""
    values = {**counter._asdict(), "longest": LONGEST_DELAY}
    failures = _run(scope, _COUNT, **values).scalar()
    if failures is not None:
        return None, int(failures)
    wait = _run(scope, _WAIT, subject=counter.subject).scalar()
    return max(1, math.ceil(wait or 0)), 0


def _take_back(scope: Scope, *counters: _Counter) -> None:
    for counter in counters:
        _run(scope, _TAKE_BACK, subject=counter.subject)


def _owner_of(scope: Scope, name: str, claim: _Claim, shown: bytes | None, counted: list[_Counter]) -> str | None:
    """Whose password was shown, if it was his and he may use it; what was counted is taken back then."""
    try:
        with _turn():
            right = _fits(claim.hash or _decoy(), shown or b"") and shown is not None and claim.hash is not None
            fresh = _HASHER.hash(shown or b"") if right and _HASHER.check_needs_rehash(claim.hash or "") else None
    except ServiceUnavailable:
        with unit(scope):
            _take_back(scope, *counted)
        raise
    with unit(scope):
        if not (right and claim.usable and _claim(scope, name) == claim):
            return None
        caller, account = counted
        _take_back(scope, caller)
        _run(scope, _FORGET, subject=account.subject)
        if fresh is not None:
            _run(scope, _REHASH, user=claim.user_id, hash=claim.hash, new=fresh)
        return claim.user_id


class _There:
    """What is counted of a name at somebody else's directories: of the name as it was typed, and of whom it turns out
    to be at each, since people have several names there."""

    def __init__(self, place: Scope, scope: Scope | None, name: str, mark: str) -> None:
        self._place, self._scope, self._mark = place, scope, mark
        self._name = self._counter(name)
        self._last: _Counter | None = None

    def says(self, elsewhere: Elsewhere) -> tuple[bool | None, int | None]:
        """What he says, and how long he rests instead. No unit of work is open while he is asked."""
        with unit(self._place):
            rest, _ = _count(self._place, self._name)
        if rest:
            return False, rest
        said = elsewhere(self._may_try)
        with unit(self._place):
            if said:
                for counter in filter(None, (self._name, self._last)):
                    _run(self._place, _FORGET, subject=counter.subject)
            elif said is None:
                # The account's count stays: the password was on its way, and may have been counted there.
                _take_back(self._place, self._name)
        return said, None

    def _may_try(self, whom: str) -> bool:
        self._last = self._counter(f"\x00{whom}")
        with unit(self._place):
            wait, _ = _count(self._place, self._last)
        return wait is None

    def _counter(self, whom: str) -> _Counter:
        most = FAILURES_ELSEWHERE
        return _Counter(_subject("elsewhere", self._scope, whom + self._mark), REST_ELSEWHERE, most, most, sliding=True)


def _claim(scope: Scope, name: str) -> _Claim:
    found = _run(scope, _FIND, name=name).first()
    return _NOBODY if found is None else _Claim(found.id, found.hash, found.usable, found.changed_at)


def _tell_failure(scope: Scope, claim: _Claim, failures: int) -> None:
    """An account that rests now, and a tenant that is being guessed at, are worth an event; one failure is not."""
    batch = events.Changes()
    if failures == FAILURES_A_DAY:
        kind, id = ("User", claim.user_id) if claim.user_id else ("Tenant", scope.tenant_id)
        batch.add("sign_in.locked", kind, id or "", {"failures": failures})
    tenant = _Counter(_subject("tenant", None, ""), timedelta(hours=1), 2**31 - 1, 2**31 - 1)
    _, of_tenant = _count(scope, tenant)
    if of_tenant == ALARMING_FAILURES:
        batch.add("sign_in.alarm", "Tenant", scope.tenant_id or "", {"failures": of_tenant, "seconds": 3_600})
    events.record(batch)


def _nowhere() -> Scope:
    """Where the tries of nobody's tenants are counted."""
    return Scope(hot("SELECT tenant_id FROM scaikey_find_tenant(%(slug)s)", {"slug": PLATFORM_TENANT})[0][0])


def _subject(kind: str, scope: Scope | None, name: str) -> bytes:
    where = scope.tenant_id if scope is not None else None
    return hashlib.sha256("\x00".join((kind, where or "", name)).encode("utf-8", "surrogatepass")).digest()


def _network(address: str | None) -> str:
    try:
        parsed = ip_address(address or "")
    except ValueError:
        return "unknown"
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return parsed.packed[:8].hex()
    return str(parsed)


def _octets(password: str) -> bytes | None:
    """The password as it is hashed, whatever keyboard wrote its letters; None for what cannot be one."""
    try:
        octets = unicodedata.normalize("NFC", password[: MOST_OCTETS + 1]).encode()
    except UnicodeEncodeError:
        return None
    return octets if len(octets) <= MOST_OCTETS and len(password) <= MOST_OCTETS else None


@contextmanager
def _turn() -> Iterator[None]:
    if not _slot.acquire(timeout=SLOT_WAIT):
        raise ServiceUnavailable("Too many people sign in at this moment", retry_after=1)
    try:
        yield
    finally:
        _slot.release()


def _fits(hash: str, password: bytes) -> bool:
    try:
        return _HASHER.verify(hash, password)
    except argon2.exceptions.VerificationError:
        return False


@lru_cache(maxsize=1)
def _decoy() -> str:
    """A hash no password fits, for names that have none."""
    return _HASHER.hash(secrets.token_bytes(32))


def _own_words(owner: Any) -> list[str]:
    """What everybody knows of a person: names and addresses, and the organisation's."""
    document = orjson.loads(owner.document)
    emails = [item.get("value") for item in document.get("emails", ()) if isinstance(item, dict)]
    said = [owner.name, document.get("displayName"), owner.tenant_name, owner.slug, *emails]
    return [word for word in said if isinstance(word, str)]
