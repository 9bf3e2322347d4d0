"""Somebody signs in at an upstream: who of ours is it?

Owns the answer, in this order: the link that says so; the provider's rules; an address that is proven; a new person,
where the provider may bring some. Whoever is refused gets no second account, and an event tells why. It writes the link
with the identity's claims verbatim, and what they fill. A sign-in never makes anybody of an administrator. At a
directory that is read, the link alone says who it is, and a sign-in writes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from connectors.port import Identity, Record

from ..attributes import fold
from ..db import db
from ..events import Changes, record
from ..models import IdentityProvider
from . import layers, links, matching, members, names, removal, rows
from .layers import Provider, Said
from .links import Link
from .news import Shown, tell_shown
from .records import Encoded, encode_record
from .rows import Row, Unfit, ref_key

_NAME = "userName"
_AT = re.compile("[@\ufe6b\uff20]")

How = Literal["link", "match", "verified_email", "created"]


@dataclass(frozen=True, slots=True)
class Admission:
    """Who it is and how that is known, or why nobody is let in.

    `refused`: `provider_disabled`, `unusable_key`, `user_disabled`, `match_ambiguous`, `match_administrator`,
    `already_linked`, `not_known`, `user_name_taken`, `limit_exceeded`, or what a record cannot be (`no_name`, …).
    """

    user_id: str | None
    how: How | None = None
    refused: str | None = None


_ONE_AT_A_TIME = sa.text("SELECT pg_advisory_xact_lock(hashtextextended('admit ' || :tenant || :via || :key, 0))")
_OTHER_KEY = sa.text("""
    SELECT 1 FROM links WHERE tenant_id = :tenant AND provider_id = :via AND resource_id = :id AND key <> :key LIMIT 1
""")
_OTHER_UPSTREAM = sa.text("""
    SELECT 1 FROM links WHERE tenant_id = :tenant AND resource_id = :id AND provider_id <> :via LIMIT 1
""")
_NAME_KEPT = sa.text("UPDATE links SET name_kept = true WHERE tenant_id = :tenant AND no = :no")
_GROUPS = sa.text("""
    SELECT id FROM resources WHERE tenant_id = :tenant AND id = ANY(:ids) AND type = 'Group' AND removed_at IS NULL
    ORDER BY id FOR KEY SHARE
""")


class Arrival:
    """One identity at the door of one tenant, inside the caller's unit of work.

    `room` tells how many more users the tenant may have, None for any number.
    """

    def __init__(self, tenant: str, via: IdentityProvider, identity: Identity, room: Callable[[], int | None]) -> None:
        self.tenant = tenant
        self.via = via
        self.provider = Provider.of(via)
        self.identity = identity
        self.room = room
        self.key = ref_key(identity.key)
        self.changes = Changes()

    def admit(self) -> Admission:
        admission = self._refused("unusable_key") if "\x00" in self.key else self._admitted()
        record(self.changes)
        return admission

    def _admitted(self) -> Admission:
        if not (self.via.enabled and self.via.sign_in):
            return self._refused("provider_disabled")
        # Two first sign-ins of one person in the same moment: the second one finds the link of the first.
        values = {"tenant": self.tenant, "via": self.via.id, "key": self.key}
        db.session().execute(_ONE_AT_A_TIME, values)
        link = links.find(self.tenant, self.via.id, [self.key]).get(self.key)
        if not self.provider.sign_in:
            return self._read(link)
        if link is not None and link.resource_id is not None:
            return self._known(link, link.resource_id)
        found = matching.by_rules(self.tenant, self.identity, self.via.match, self.via.match_within)
        how: How = "match"
        if not found and self.via.linking == "verified_email":
            found, how = matching.by_email(self.tenant, self.identity.verified_emails), "verified_email"
        if len(found) > 1:
            return self._refused("match_ambiguous", found)
        return self._joined(found[0], how) if found else self._new()

    def _read(self, link: Link | None) -> Admission:
        """A directory's people are those who were read from it."""
        if link is None or link.gone or link.kind != "user":
            return self._refused("not_known")
        if link.resource_id is None:
            return self._refused(link.skipped or "not_known")
        return self._known(link, link.resource_id)

    def _known(self, link: Link, id: str) -> Admission:
        """The link says who it is. What a sign-in said is read anew; what a sync said stays for the sync."""
        row = rows.load(self.tenant, [id], removed=True)[id]
        if row.removed_at is not None:
            return self._new(row) if self._own(row) else self._refused("user_disabled", [id])
        if not self._usable(row):
            return self._refused("user_disabled", [id])
        if self.provider.sign_in and not (link.stands and link.digest == self._encoded().digest):
            self._write(row)
        return Admission(id, "link")

    def _joined(self, id: str, how: How) -> Admission:
        """Exactly one person fits: let him be it, unless too much or too little hangs on him."""
        row = rows.load(self.tenant, [id]).get(id)
        if row is None:
            return self._refused("not_known")
        if removal.is_administrator(self.tenant, id):
            return self._refused("match_administrator", [id])
        where = {"tenant": self.tenant, "via": self.via.id, "id": id, "key": self.key}
        if db.session().execute(_OTHER_KEY, where).first() is not None:
            return self._refused("already_linked", [id])
        if not self._usable(row):
            return self._refused("user_disabled", [id])
        self.changes.add("link.created", row.type, id, {"provider_id": self.via.id, "how": how})
        self._write(row)
        return Admission(id, how)

    def _new(self, removed: Row | None = None) -> Admission:
        """A person of this provider's making, or one of its own who was removed and comes back."""
        if not self.via.jit.get("enabled"):
            return self._refused("user_disabled" if removed else "not_known", [removed.id] if removed else ())
        row = removed or Row(rows.new_id("User"), "User")
        if row.disabled:
            return self._refused("user_disabled", [row.id])
        row.active = True
        said = layers.contribution(self.provider, "User", self.identity.attributes, True)
        layers.bind(self.tenant, [(row, [said])])  # as one who was let go: he is not held to what he had
        row.removed_at = None
        renamed = self._claims_a_foreign_name(said)
        if renamed:
            said.layer.values[_NAME] = self._own_name()
        try:
            rows.settle(row, layers.effective(row, [said]))
        except Unfit as unfit:
            return self._refused(unfit.reason)
        if names.refused(self.tenant, [names.Claim(row.id, row.name_key, None)]):
            return self._refused("user_name_taken")
        room = self.room()
        if room is not None and room <= 0:
            return self._refused("limit_exceeded")
        try:
            with db.session().begin_nested():
                self._store(row, revived=removed is not None)
        except IntegrityError as error:
            if not names.is_clash(error):
                raise
            return self._refused("user_name_taken")
        self.changes.add("user.revived" if removed else "user.created", row.type, row.id)
        number = self._link(row.id)
        if renamed:
            self._keep_name(number)
        self._tell_refused(row.id, [said])
        self._enter_groups(row.id)
        return Admission(row.id, "created")

    def _store(self, row: Row, *, revived: bool) -> None:
        if revived:
            row.version += 1
            rows.update(self.tenant, [row])
        else:
            rows.insert(self.tenant, [row])

    def _own(self, row: Row) -> bool:
        """Whether the person is here because of this provider's sign-ins alone: who came from a directory, from SCIM
        or from an administrator comes back from there."""
        where = {"tenant": self.tenant, "id": row.id, "via": self.via.id}
        return (
            self.provider.sign_in
            and rows.name_attribute(row.type) not in row.local
            and db.session().execute(_OTHER_UPSTREAM, where).first() is None
        )

    def _usable(self, row: Row) -> bool:
        said: Sequence[Said] = layers.said_of(self.tenant, {row.id: row.type})[row.id]
        return row.active and layers.admitted(row, said)

    def _write(self, row: Row) -> None:
        """Keep what the identity says, and bring the person up to it where that makes a difference."""
        number = self._link(row.id)
        said = layers.contribution(self.provider, "User", self.identity.attributes, True)
        if fold(said.layer.values.get(_NAME, "")) != row.name_key and self._claims_a_foreign_name(said):
            self._keep_name(number)
        heard: list[Said] = []
        if layers.recompute(self.tenant, [row.id], self.changes, reread=False, heard=heard):
            self._keep_name(number)
        self._tell_refused(row.id, heard)

    def _tell_refused(self, id: str, heard: Sequence[Said]) -> None:
        """Claims that what the tenant has declared cannot have stay out; who signs in is let in nevertheless."""
        reasons = [reason for said in heard if said.via == self.via.id for reason in said.refused]
        if reasons:
            self.changes.add("link.values_refused", "User", id, {"provider_id": self.via.id, "reasons": reasons})

    def _keep_name(self, number: int) -> None:
        db.session().execute(_NAME_KEPT, {"tenant": self.tenant, "no": number})

    def _claims_a_foreign_name(self, said: Said) -> bool:
        """Whether the claims would call the person by an address that may be somebody else's: many upstreams let
        people choose their `preferred_username`. A mapping of the name is an administrator's word for it."""
        if any(row.get("to") == _NAME for row in self.via.attribute_mapping):
            return False
        name = said.layer.values.get(_NAME, "")
        return matching.unproven(name, self.identity.verified_emails)

    def _own_name(self) -> str:
        """What a newcomer is called instead: an address that is vouched for, else the subject, which is no address."""
        subject = next((str(value) for value in self.identity.attributes.get("sub", ())), self.identity.key)
        if matching.unproven(subject, self.identity.verified_emails):
            subject = _AT.sub("_", subject)
        return min(self.identity.verified_emails, default=subject)

    def _link(self, id: str) -> int:
        encoded = self._encoded()
        columns: dict[str, list[Any]] = {
            "keys": [self.key],
            "resources": [id],
            "kinds": ["user"],
            "names": [self._name()],
            "refs": [self.key],
            "aliases": [None],
            "primaries": [None],
            "actives": [True],
            "digests": [encoded.digest],
            "quiets": [encoded.quiet_digest],
            "skips": [None],
            "kept": [False],
            "stales": [False],
        }
        return links.write(self.tenant, self.via.id, 0, columns, [encoded.stored])[self.key]

    def _encoded(self) -> Encoded:
        said = Record(self.identity.key, "user", self._name(), self.identity.key, self.identity.attributes)
        return encode_record(said, self.provider.digest)

    def _name(self) -> str:
        return (self.identity.name or self.identity.key).replace("\x00", "")

    def _enter_groups(self, id: str) -> None:
        """The groups newcomers are put into, but for those that would make an administrator."""
        wanted = [group for group in self.via.jit.get("groups") or () if isinstance(group, str) and "\x00" not in group]
        if not wanted:
            return
        found = set(db.session().execute(_GROUPS, {"tenant": self.tenant, "ids": wanted}).scalars())
        for group in sorted(found - members.carrying_roles(self.tenant, found)):
            if members.add_local(self.tenant, group, [id]):
                tell_shown(self.tenant, {group: Shown(1, 0)}, self.changes)

    def _refused(self, reason: str, users: Sequence[str] = ()) -> Admission:
        told = {"reason": reason, "name": self._name()[:200], "user_ids": list(users)[:10]}
        self.changes.add("sign_in.refused", "IdentityProvider", self.via.id, told)
        return Admission(None, None, reason)
