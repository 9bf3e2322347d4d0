"""The lease of a provider: one run at a time reads it, and a dead one is found out by its silence.

Owns taking, extending and giving back. The number of a lease (its fence) is checked in every page's transaction, so
that a run that was taken for dead and comes back commits nothing. Times are the database's.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import sqlalchemy as sa
from flask import Flask, current_app
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from broker.context import Scope
from broker.db import db, unit
from broker.errors import Conflict, NotFound
from broker.models import IdentityProvider

LEASE = timedelta(seconds=10)
"""A run that has not been heard of for this long is taken for dead."""
BEAT = 3.0
"""Seconds between two signs of life while the upstream is read."""
SILENCE = 900.0
"""Seconds without a page after which a run is taken for stuck, and no sign of life is given for it any more."""

_TAKE = sa.text("""
    UPDATE identity_providers SET lease_fence = lease_fence + 1, lease_until = now() + :lease
    WHERE tenant_id = :tenant AND id = :via AND (lease_until IS NULL OR lease_until < now()) RETURNING lease_fence
""")
_EXTEND = sa.text("""
    UPDATE identity_providers SET lease_until = now() + :lease
    WHERE tenant_id = :tenant AND id = :via AND lease_fence = :fence RETURNING id
""")
_BEAT = sa.text("""
    UPDATE identity_providers SET lease_until = now() + :lease
    WHERE tenant_id = :tenant AND id = (
        SELECT id FROM identity_providers WHERE tenant_id = :tenant AND id = :via AND lease_fence = :fence
        FOR NO KEY UPDATE SKIP LOCKED)
""")
_RELEASE = sa.text("""
    UPDATE identity_providers SET lease_until = NULL WHERE tenant_id = :tenant AND id = :via AND lease_fence = :fence
""")
_LOCKED = "55P03"

log = logging.getLogger("scaikey.sync")


@dataclass(slots=True)
class Lease:
    """Ours, of one provider, for as long as nobody else has taken it."""

    scope: Scope
    provider_id: str
    fence: int
    heard: float = field(default_factory=time.monotonic)
    """When the run last got somewhere, by this process's own clock."""

    def extend(self) -> IdentityProvider:
        """The provider, in the open unit of work and locked to its end, so that nobody takes it over meanwhile.

        Raises Conflict when somebody has.
        """
        self.heard = time.monotonic()
        if db.session().execute(_EXTEND, self._named()).scalar() is None:
            raise Conflict("Another run of this provider has taken over")
        return db.session().get_one(IdentityProvider, (self.scope.tenant_id, self.provider_id), populate_existing=True)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Inside, signs of life are given while the upstream keeps us waiting; afterwards the lease is given back."""
        app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
        over = threading.Event()
        heart = threading.Thread(target=self._beat, args=(app, over), name=f"lease of {self.provider_id}", daemon=True)
        heart.start()
        try:
            yield
        finally:
            over.set()
            heart.join()
            with contextlib.suppress(OperationalError), unit(self.scope) as session:
                session.execute(_RELEASE, self._named())

    def _beat(self, app: Flask, over: threading.Event) -> None:
        with app.app_context():
            while not over.wait(BEAT) and time.monotonic() - self.heard < SILENCE:
                try:
                    with unit(self.scope) as session:
                        session.execute(_BEAT, self._named())
                except SQLAlchemyError as error:
                    # The page's own transaction finds out whether the lease was lost meanwhile.
                    log.warning("no sign of life for the run of %s: %s", self.provider_id, type(error).__name__)

    def _named(self) -> dict[str, object]:
        return {"tenant": self.scope.tenant_id, "via": self.provider_id, "fence": self.fence, "lease": LEASE}


def take(scope: Scope, provider_id: str, patience: float = 0) -> Lease:
    """The lease of a provider. A holder that extends it while we wait is alive, and we give up.

    `patience`: seconds to wait for the lease of a run that seems to be dead. Raises NotFound, Conflict.
    """
    where = {"tenant": scope.tenant_id, "via": provider_id, "lease": LEASE}
    deadline = time.monotonic() + patience
    seen = None
    while True:
        try:
            with unit(scope) as session:
                fence: int | None = session.execute(_TAKE, where).scalar()
                if fence is not None:
                    return Lease(scope, provider_id, fence)
                via = session.get(IdentityProvider, (scope.tenant_id, provider_id))
                if via is None:
                    raise NotFound("There is no such provider")
                until = via.lease_until
        except OperationalError as error:
            if sqlstate(error) != _LOCKED:
                raise
            until = None
        if time.monotonic() >= deadline or (seen is not None and until != seen):
            raise Conflict("Another run of this provider is under way", retry_after=int(LEASE.total_seconds()))
        seen = until
        time.sleep(0.5)


def sqlstate(error: DBAPIError) -> str | None:
    state: str | None = getattr(error.orig, "sqlstate", None)
    return state
