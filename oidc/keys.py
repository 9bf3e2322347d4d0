"""The installation's signing keys, and this process's parsed copy of them: the ring.

One key of each algorithm signs (`current`), one is published ahead of its time (`next`), and those that signed before
(`previous`) are published until nothing they signed lives any more. A kid is the RFC 7638 thumbprint; private keys are
sealed in the vault. Only this module writes `signing_keys`, in a unit of work across tenants that its caller opens;
everybody else takes keys from `ring`. What is signed, and for whom, is `tokens`'.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString, cast

import orjson
import sqlalchemy as sa
from flask import Flask, current_app
from joserfc.jwk import ECKey, RSAKey
from sqlalchemy.exc import DBAPIError

from broker import events, running, settings
from broker.context import PLATFORM
from broker.db import after_commit, db, hot
from broker.errors import Conflict
from broker.models import SigningKey, Tenant

SigningJwk = RSAKey | ECKey

ALGORITHMS = ("RS256", "ES256")
CACHED_FOR = timedelta(minutes=10)
"""How long others may keep our key set."""
SKEW = timedelta(minutes=2)
"""Between our clocks and theirs, and until every process of ours has re-read the ring."""
AHEAD = CACHED_FOR + SKEW
"""How long a key is published before it signs: the last process to show it may do so half a minute after it is made."""
REREAD_SECONDS = 30.0
UNKNOWN_SECONDS = 5.0
"""The ring is re-read for a kid it does not know at most so often: tokens with invented kids cost nothing."""

_RING = "scaikey.ring"
_TABLE = "signing_keys"

log = logging.getLogger("scaikey.keys")


@dataclass(frozen=True, slots=True)
class Ring:
    """The keys as they were when last read. Immutable: a caller that holds one sees one state."""

    _signing: Mapping[str, SigningJwk]
    _verifying: Mapping[str, SigningJwk]
    _jwks: bytes
    etag: str

    def signing(self, algorithm: str) -> SigningJwk:
        """The current key of that algorithm. Raises KeyError for an algorithm we do not sign with."""
        return self._signing[algorithm]

    def verifying(self, kid: str) -> SigningJwk | None:
        """The published key of that kid; its `alg` is the one algorithm it may be used with."""
        return self._verifying.get(kid)

    def jwks(self) -> bytes:
        """The key set as JSON (RFC 7517): public keys only, the current first."""
        return self._jwks


class _Held:
    """This process's ring. Re-read by one thread at a time while the others go on with what there is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ring: Ring | None = None
        self._read_at = self._sought_at = -1e9
        self._parsed: dict[str, SigningJwk] = {}

    @property
    def held(self) -> Ring | None:
        return self._ring

    def ring(self) -> Ring:
        present = self._ring
        if present is not None and time.monotonic() - self._read_at < REREAD_SECONDS:
            return present
        if present is not None and self._lock.locked():
            return present
        try:
            return self._reread(self._read_at)
        except DBAPIError as away:
            if present is None:
                raise
            # Public keys are good without the database, and whatever else they serve asks it anyway.
            log.warning("the signing keys cannot be read again, those of before are used: %s", away)
            self._read_at = time.monotonic() - REREAD_SECONDS + UNKNOWN_SECONDS
            return present

    def verifying(self, kid: str) -> SigningJwk | None:
        seen = self._read_at
        key = self.ring().verifying(kid)
        now = time.monotonic()
        if key is None and now - self._sought_at >= UNKNOWN_SECONDS:
            self._sought_at = now
            key = self._reread(max(seen, self._read_at)).verifying(kid)
        return key

    def forget(self) -> None:
        # Under the lock: whoever is reading just now may read what was before.
        with self._lock:
            self._ring = None

    def _reread(self, seen: float) -> Ring:
        with self._lock:
            if self._ring is None or self._read_at <= seen:
                began = time.monotonic()
                self._ring = _ring_of(hot(_READ), self._parsed)
                self._read_at = began
            return self._ring


_READ: LiteralString = """
    SELECT id, algorithm, status, public, CASE WHEN status = 'current' THEN private END AS private
    FROM signing_keys WHERE status <> 'retired' AND (retire_after IS NULL OR retire_after > now())
    ORDER BY array_position(ARRAY['current', 'next', 'previous'], status), algorithm DESC, id
"""


def _ring_of(rows: Sequence[Any], parsed: dict[str, SigningJwk]) -> Ring:
    """`parsed` keeps what is slow to parse from one reading to the next: private keys by their kid."""
    signing, verifying = {}, {}
    for row in rows:
        verifying[row.id] = _parse(row.public)
        if row.status == "current":
            if row.id not in parsed:
                parsed[row.id] = _parse(orjson.loads(_open(row.id, row.private)))
            signing[row.algorithm] = parsed[row.id]
    for kid in set(parsed) - {key.kid for key in signing.values()}:
        del parsed[kid]
    shown = orjson.dumps({"keys": [row.public for row in rows]})
    return Ring(signing, verifying, shown, hashlib.sha256(shown).hexdigest()[:32])


def ring() -> Ring:
    """This process's keys, at most half a minute old; the last there were, while the database is away."""
    return _held().ring()


def verifying(kid: str) -> SigningJwk | None:
    """The published key of that kid; one that is not known is looked for in the database before it is refused."""
    return _held().verifying(kid)


def forget() -> None:
    """Read the keys again when they are next asked for."""
    _held().forget()


def present(app: Flask) -> Ring | None:
    """The ring this process holds at this moment, without looking whether there is a newer one."""
    held: _Held | None = app.extensions.get(_RING)
    return held.held if held else None


def _held() -> _Held:
    return cast(_Held, current_app.extensions.setdefault(_RING, _Held()))


@dataclass(frozen=True, slots=True)
class Rotation:
    """One algorithm's turn: the kid that signs from now on, the one before it, and the one that will be next."""

    algorithm: str
    current: str
    replaced: str
    next: str


def provide() -> None:
    """Make the keys that are missing. Safe from any number of processes at once."""
    _one_at_a_time()
    known = {(key.algorithm, key.status) for key in everything()}
    for algorithm in ALGORITHMS:
        for status in ("current", "next"):
            if (algorithm, status) not in known:
                _add(algorithm, status)
    db.session().flush()


def rotate(*, emergency: bool = False) -> Sequence[Rotation]:
    """Let the next keys sign. What the present ones signed stays good until it expires.

    `emergency`: the present and previous keys are not trusted any more, and everything they signed is refused at once,
    by us within half a minute and by others when they next fetch the key set. Raises Conflict when a next key has not
    been published for as long as others may cache the key set.
    """
    _one_at_a_time()
    provide()
    present = {(key.algorithm, key.status): key for key in everything() if key.status in ("current", "next")}
    now = _now()
    ready_at = max(present[algorithm, "next"].created_at for algorithm in ALGORITHMS) + AHEAD
    if now < ready_at and not emergency:
        wait = -(-(ready_at - now) // timedelta(seconds=1))
        raise Conflict(
            f"The next keys are not published long enough: key sets are cached for {CACHED_FOR.seconds // 60} minutes. "
            f"Try again in {wait} seconds, or rotate with --emergency"
        )
    if emergency:
        _retire([key for key in everything() if key.status in ("current", "previous")], now)
    rotations = []
    for algorithm in ALGORITHMS:
        old, new = present[algorithm, "current"], present[algorithm, "next"]
        if not emergency:
            old.status, old.retire_after = "previous", now + longest_life() + SKEW
        old.replaced_at = now
        db.session().flush()  # one current key per algorithm, at every moment
        new.status, new.activated_at = "current", now
        db.session().flush()
        rotations.append(Rotation(algorithm, new.id, old.id, _add(algorithm, "next").id))
    _tell("signing_key.rotated", [one.current for one in rotations], {"emergency": emergency})
    after_commit(forget)
    return rotations


def keep_up() -> None:
    """What is due by the clock: retire what nothing depends on any more, rotate what has signed long enough."""
    now = _now()
    due = [key for key in everything() if key.status == "previous" and key.retire_after and key.retire_after <= now]
    if due:
        _retire(due, now)
        _tell("signing_key.retired", [key.id for key in due], [])
    lifetime = timedelta(seconds=settings.of(PLATFORM, "signing_key_lifetime"))
    if any(key.status == "current" and (key.activated_at or key.created_at) + lifetime <= now for key in everything()):
        try:
            rotate()
        except Conflict as early:
            log.info("keys are not rotated yet: %s", early)


def everything() -> Sequence[SigningKey]:
    """Every key there is or was, oldest first."""
    statement = sa.select(SigningKey).order_by(SigningKey.created_at, SigningKey.id)
    return db.session().scalars(statement.execution_options(populate_existing=True)).all()


def check() -> str | None:
    """What is wrong with the keys, in words for the operator; None when they can sign."""
    known = {(key.algorithm, key.status): key for key in everything()}
    for algorithm in ALGORITHMS:
        for status in ("current", "next"):
            key = known.get((algorithm, status))
            if key is None:
                return f"there is no {status} {algorithm} key"
            if _parse(orjson.loads(_open(key.id, key.private or b""))).thumbprint() != key.id:
                return f"the {status} {algorithm} key is not the one it is called"
    return None


def longest_life() -> timedelta:
    """The longest anything we sign can live."""
    return timedelta(seconds=settings.LONGEST_ACCESS_TOKEN)


def _add(algorithm: str, status: str) -> SigningKey:
    made: SigningJwk = RSAKey.generate_key(2048) if algorithm == "RS256" else ECKey.generate_key("P-256")
    kid = made.thumbprint()
    extra = {"kid": kid, "use": "sig", "alg": algorithm}
    sealed = running.vault().seal(
        orjson.dumps(made.as_dict(private=True, **extra)), table=_TABLE, column="private", tenant="", row=kid
    )
    now = _now()
    key = SigningKey(
        id=kid,
        algorithm=algorithm,
        status=status,
        public=made.as_dict(private=False, **extra),
        private=sealed,
        created_at=now,
        activated_at=now if status == "current" else None,
    )
    db.session().add(key)
    db.session().flush()
    after_commit(forget)
    return key


def _retire(retiring: Sequence[SigningKey], now: datetime) -> None:
    for key in retiring:
        key.status, key.private, key.retire_after = "retired", None, now
    db.session().flush()
    after_commit(forget)


def _open(kid: str, sealed: bytes) -> bytes:
    return running.vault().open(sealed, table=_TABLE, column="private", tenant="", row=kid)


def _parse(jwk: Mapping[str, Any]) -> SigningJwk:
    return RSAKey.import_key(dict(jwk)) if jwk["kty"] == "RSA" else ECKey.import_key(dict(jwk))


def _one_at_a_time() -> None:
    db.session().execute(sa.text("SELECT pg_advisory_xact_lock(hashtextextended('scaikey:signing_keys', 0))"))


def _now() -> datetime:
    """The database's clock: the processes' may differ."""
    return cast(datetime, db.session().scalar(sa.select(sa.func.clock_timestamp()))).astimezone(UTC)


def _tell(name: str, kids: Sequence[str], changed: Any) -> None:
    """In the platform tenant's log; before there is one, nobody is there to read it."""
    platform = db.session().scalar(sa.select(Tenant.id).where(Tenant.kind == "platform"))
    if platform is not None:
        batch = events.Changes()
        for kid in kids:
            batch.add(name, "SigningKey", kid, changed)
        events.record(batch, tenant_id=platform)
