"""`Directory`: the only writer of one tenant's users, groups, memberships, units and links.

Three ways in: SCIM and administrators (`create`, `replace`, `remove`, `change_members`), a sync (`apply`, then
`take_away` once
the guard agrees), and the clock (`expire_due`). Every method compares, writes only what differs, and records events
in the same
transaction: no difference, no event. It works inside the caller's unit of work and never commits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import sqlalchemy as sa

from connectors.port import Change

from ..context import Scope
from ..db import current_scope, db, directory_writes
from ..errors import Conflict, LimitExceeded, NotFound, OwnedByUpstream, PreconditionFailed, ValidationFailed
from ..events import Changes, record
from ..models import IdentityProvider, Partner, Resource, Tenant
from . import layers, mapping, members, removal, rows
from .apply import Loss, Outcome, PageOfChanges, count_users, tell_members
from .layers import Provider, Said
from .mapping import MANAGER, PARENT, Values
from .rows import Row, Unfit

_NAME_HELD = sa.text("""
    SELECT 1 FROM resources WHERE tenant_id = :tenant AND type = 'User' AND removed_at IS NULL
      AND name_key = :key AND id <> :id
""")
_LIVE = sa.text("""
    SELECT version FROM resources WHERE tenant_id = :tenant AND id = :id AND type = 'Group' AND removed_at IS NULL
    FOR KEY SHARE
""")
_KIND = sa.text("SELECT type FROM resources WHERE tenant_id = :tenant AND id = :id AND removed_at IS NULL")
_OWNED = sa.text("""
    SELECT 1 FROM links WHERE tenant_id = :tenant AND resource_id = :id AND gone_at IS NULL AND skipped IS NULL
""")
_LOCK_NAMES = sa.text("SELECT pg_advisory_xact_lock(hashtextextended('user_name ' || :tenant || ' ' || :key, 0))")
_LOCK_ROOM = sa.text("SELECT pg_advisory_xact_lock(hashtextextended('users ' || :tenant, 0))")


class Directory:
    """The directory of the tenant whose unit of work is open."""

    def __init__(self, scope: Scope | None = None, *, tenant_id: str | None = None) -> None:
        """`tenant_id` names the tenant in a unit of work that spans tenants (bootstrap); elsewhere the scope does."""
        chosen = scope or current_scope()
        tenant = tenant_id if chosen.tenant_id is None else chosen.tenant_id
        if tenant is None:
            raise ValueError("a directory belongs to one tenant")
        self.tenant = tenant

    def create(self, resource_type: str, document: Mapping[str, Any]) -> Resource:
        """A resource from a validated SCIM document; read-only attributes in it are ignored.

        Raises Conflict (`uniqueness`), LimitExceeded, ValidationFailed.
        """
        row = Row(rows.new_id(resource_type), resource_type, version=1)
        values = mapping.flattened(resource_type, document)
        self._take_hot(row, values)
        row.local = values
        self._settle(row, ())
        with directory_writes():
            if resource_type == "User" and row.user_type != "ServiceAccount":
                self._check_room()
            self._check_name(row)
            rows.name_tokens(self.tenant, [row])
            rows.insert(self.tenant, [row])
            wanted = _member_ids(document)
            if wanted:
                self._check_members(row.id, wanted)
                members.add_local(self.tenant, row.id, wanted)
            self._record(f"{row.noun}.created", row)
        return self._read(row.id)

    def replace(
        self,
        resource_type: str,
        id: str,
        document: Mapping[str, Any],
        *,
        if_match: int | None = None,
        pin: bool = False,
        complete: bool = False,
    ) -> Resource:
        """Make a resource say what this document says, where no upstream owns the value.

        `complete`: an absent value was removed on purpose (PATCH); otherwise an absent value that an upstream owns is
        left
        alone (PUT). `pin` lays a written value above the upstreams. A `members` key sets the memberships written here.
        Raises NotFound, PreconditionFailed, OwnedByUpstream (`mutability`), Conflict (`uniqueness`), ValidationFailed.
        """
        row = self._load(resource_type, id, if_match)
        said = layers.said_of(self.tenant, {id: resource_type})[id]
        before, old, name_key, was_active = row.document, row.read(), row.name_key, row.active
        extras, silent = mapping.stored_extras(resource_type, row.local), (row.local, row.pins, row.disabled)
        values = mapping.flattened(resource_type, document)
        unassigned = complete and resource_type == "User" and "active" not in values
        if unassigned:
            values["active"] = True
        self._take_hot(row, values, said)
        row.local, row.pins = self._owned_apart(row, values, said, pin=pin, complete=complete)
        if unassigned:
            # Kept so that the attribute stays unassigned: the person is active, and nobody says so (RFC 7644 3.5.2.2).
            row.local["active"] = None
        self._settle(row, said)
        tally = members.Tally()
        with directory_writes():
            if row.name_key != name_key:
                self._check_name(row)
            hidden = mapping.stored_extras(resource_type, row.local)
            if row.document != before or hidden != extras:
                row.version += 1
                rows.update(self.tenant, [row])
                changed = mapping.differing(old, row.read())
                changed += sorted(key for key in {*extras, *hidden} if extras.get(key) != hidden.get(key))
                deed = "updated" if row.active == was_active else ("enabled" if row.active else "disabled")
                self._record(f"{row.noun}.{deed}", row, changed)
            elif (row.local, row.pins, row.disabled) != silent:
                self._keep_layers(row)
            if resource_type == "Group" and "members" in document:
                self._set_members(id, _member_ids(document), tally)
        return self._read(id)

    def remove(self, resource_type: str, id: str, *, if_match: int | None = None) -> None:
        """Remove a resource that no upstream has. Raises NotFound, PreconditionFailed, OwnedByUpstream."""
        row = self._load(resource_type, id, if_match)
        if db.session().execute(_OWNED, {"tenant": self.tenant, "id": id}).first() is not None:
            raise OwnedByUpstream("An upstream has this resource; remove it there", scim_type="mutability")
        changes, tally = Changes(), members.Tally()
        with directory_writes():
            removal.remove_rows(self.tenant, [row], changes, tally)
            tell_members(self.tenant, tally, changes)
            record(changes, tenant_id=self.tenant)

    def change_members(
        self, group_id: str, add: Sequence[str] = (), remove: Sequence[str] = (), *, if_match: int | None = None
    ) -> bool:
        """Add and remove members by id without loading the group; True when something changed.

        Raises NotFound, PreconditionFailed, ValidationFailed (no such member), OwnedByUpstream (an upstream gives it).
        """
        version = db.session().execute(_LIVE, {"tenant": self.tenant, "id": group_id}).scalar()
        if version is None:
            raise NotFound
        if if_match is not None and if_match != version:
            raise PreconditionFailed
        tally = members.Tally()
        with directory_writes():
            if remove:
                removed, given = members.drop_local(self.tenant, group_id, remove)
                stuck = set(given) - set(add)
                if stuck:
                    raise OwnedByUpstream("An upstream gives this membership; remove it there", scim_type="mutability")
                tally.removed[group_id] = len(removed)
            if add:
                self._check_members(group_id, add)
                tally.added[group_id] = len(members.add_local(self.tenant, group_id, add))
            return self._tell(tally)

    def apply(
        self, changes: Sequence[Change], via: IdentityProvider, run_no: int, *, halving_floor: int = 1
    ) -> Outcome:
        """Write one page of an upstream's changes. Nothing is taken away here: see `Outcome.losses`.

        `halving_floor`: a group that would lose more members than this, and at least half, keeps them until the guard
        decides.
        """
        provider = Provider(via.id, via.priority, mapping.compiled(via.attribute_mapping))
        with directory_writes():
            page = PageOfChanges(
                self.tenant, provider, run_no, halving_floor=halving_floor, room=self._room(locking=True)
            )
            return page.apply(changes)

    def absent(self, via: IdentityProvider, run_no: int) -> list[Loss]:
        """What the finished full pass `run_no` did not meet."""
        return removal.absent(self.tenant, via.id, run_no)

    def disables(self, via: IdentityProvider) -> list[Loss]:
        """People whom the upstream has disabled and who are still active here."""
        return removal.disables(self.tenant, via.id)

    def take_away(self, losses: Sequence[Loss], via: IdentityProvider, run_no: int) -> Outcome:
        """Do these losses that still hold. `run_no`: the latest finished full pass, which proves absence."""
        with directory_writes():
            return removal.take_away(self.tenant, via.id, losses, run_no)

    def linked(self, via: IdentityProvider) -> dict[str, int]:
        """Live resources this upstream has, by kind."""
        return removal.linked(self.tenant, via.id)

    def administrators_among(self, losses: Sequence[Loss]) -> set[int]:
        """Those of the losses that would take an administrator away."""
        return removal.administrators_among(self.tenant, losses)

    def expire_due(self) -> int:
        """Disable people whose `active_until` has passed; returns how many."""
        with directory_writes():
            return removal.expire_due(self.tenant)

    def _read(self, id: str) -> Resource:
        session = db.session()
        session.expire_all()
        return session.execute(
            sa.select(Resource).where(Resource.tenant_id == self.tenant, Resource.id == id)
        ).scalar_one()

    def _load(self, resource_type: str, id: str, if_match: int | None) -> Row:
        row = rows.load(self.tenant, [id]).get(id)
        if row is None or row.type != resource_type:
            raise NotFound
        if if_match is not None and if_match != row.version:
            raise PreconditionFailed
        return row

    def _take_hot(self, row: Row, values: Values, said: Sequence[Said] = ()) -> None:
        """Take out of the flat values what lives in columns of its own: active, manager, parent."""
        if row.type == "User":
            self._take_active(row, values.pop("active", None), said)
        owned = layers.owned_keys(row.type, said)
        for key, target, column in ((MANAGER, "User", "manager_id"), (PARENT, "OrganizationalUnit", "parent_id")):
            wanted = values.pop(key, None)
            if row.type != ("User" if key == MANAGER else "OrganizationalUnit"):
                continue
            present = getattr(row, column)
            if key in owned:
                if wanted is not None and wanted != present:
                    raise OwnedByUpstream(f"An upstream owns {key}", scim_type="mutability")
                continue
            if wanted is not None and wanted != present:
                kind = db.session().execute(_KIND, {"tenant": self.tenant, "id": wanted}).scalar()
                if kind != target:
                    raise ValidationFailed(f"{key}: there is no such {target}", scim_type="invalidValue")
            setattr(row, column, wanted)

    def _take_active(self, row: Row, active: Any, said: Sequence[Said]) -> None:
        if active is False:
            row.active, row.disabled = False, True
        elif active is True and not row.active:
            if any(not link.active for link in said) or _passed(row):
                raise OwnedByUpstream("An upstream has disabled this person", scim_type="mutability")
            row.active, row.disabled = True, False

    def _owned_apart(
        self, row: Row, values: Values, said: Sequence[Said], *, pin: bool, complete: bool
    ) -> tuple[Values, Values]:
        """Part a client's values into what is written here and what an upstream owns; owned ones must not differ."""
        owned = layers.owned_keys(row.type, said) - {MANAGER, PARENT}
        if not owned:
            return values, row.pins
        upstream = mapping.merged(row.type, layers.ranked(said), {}, {})
        present = {**upstream, **row.pins}
        local: Values = {}
        pins = dict(row.pins)
        written = mapping.apart(values, owned)
        for key, value in written.items():
            if key not in owned:
                local[key] = value
            elif value != present.get(key):
                if not pin:
                    raise OwnedByUpstream(f"An upstream owns {key}", scim_type="mutability")
                pins[key] = value
                if value == upstream.get(key):
                    del pins[key]
        if complete:
            hidden = mapping.stored_extras(row.type, present)
            missing = [key for key in owned if key in present and key not in written and key not in hidden]
            if missing:
                raise OwnedByUpstream(f"An upstream owns {missing[0]}", scim_type="mutability")
        return local, pins

    def _settle(self, row: Row, said: Sequence[Said]) -> None:
        try:
            rows.settle(row, layers.effective(row, said))
        except Unfit as unfit:
            raise ValidationFailed(unfit.detail, scim_type="invalidValue") from None

    def _check_name(self, row: Row) -> None:
        if row.type != "User":
            return
        session = db.session()
        session.execute(_LOCK_NAMES, {"tenant": self.tenant, "key": row.name_key})
        if session.execute(_NAME_HELD, {"tenant": self.tenant, "key": row.name_key, "id": row.id}).first():
            raise Conflict("The userName belongs to somebody else", scim_type="uniqueness")

    def _room(self, *, locking: bool) -> int | None:
        """How many more users the tenant may have; None where the partner sets no limit."""
        session = db.session()
        limit = session.execute(
            sa.select(Partner.max_users_per_tenant).where(Partner.id == _partner_of(self.tenant))
        ).scalar()
        if limit is None:
            return None
        if locking:
            session.execute(_LOCK_ROOM, {"tenant": self.tenant})
        return max(0, limit - count_users(self.tenant))

    def _check_room(self) -> None:
        room = self._room(locking=True)
        if room is not None and room <= 0:
            raise LimitExceeded("max_users_per_tenant: the tenant has as many users as its partner allows")

    def _check_members(self, group_id: str, wanted: Sequence[str]) -> None:
        strangers = members.unknown(self.tenant, wanted)
        if strangers:
            raise ValidationFailed(f"members: there is no user or group {strangers[0][:64]}", scim_type="invalidValue")
        if group_id in wanted:
            raise ValidationFailed("members: a group cannot be its own member", scim_type="invalidValue")

    def _set_members(self, group_id: str, wanted: Sequence[str], tally: members.Tally) -> None:
        present = members.present(self.tenant, group_id)
        adding = [member for member in wanted if member not in present]
        leaving = [member for member in present if member not in set(wanted)]
        if any(not present[member] for member in leaving):
            raise OwnedByUpstream("An upstream gives a membership that is missing here", scim_type="mutability")
        if adding:
            self._check_members(group_id, adding)
            tally.added[group_id] = len(members.add_local(self.tenant, group_id, adding))
        if leaving:
            tally.removed[group_id] = len(members.drop_local(self.tenant, group_id, leaving)[0])
        self._tell(tally)

    def _tell(self, tally: members.Tally) -> bool:
        changed = bool(+tally.added or +tally.removed)
        if changed:
            changes = Changes()
            tell_members(self.tenant, members.Tally(+tally.added, +tally.removed), changes)
            record(changes, tenant_id=self.tenant)
        return changed

    def _record(self, name: str, row: Row, changed: Any = ()) -> None:
        changes = Changes()
        changes.add(name, row.type, row.id, changed)
        record(changes, tenant_id=self.tenant)

    def _keep_layers(self, row: Row) -> None:
        db.session().execute(
            sa.text(
                "UPDATE resources SET local = CAST(:local AS jsonb), pins = CAST(:pins AS jsonb), "
                "disabled = :disabled WHERE tenant_id = :tenant AND id = :id"
            ),
            {
                "tenant": self.tenant,
                "id": row.id,
                "disabled": row.disabled,
                "local": orjson.dumps(row.local).decode(),
                "pins": orjson.dumps(row.pins).decode(),
            },
        )


def _partner_of(tenant: str) -> sa.ScalarSelect[Any]:
    return sa.select(Tenant.partner_id).where(Tenant.id == tenant).scalar_subquery()


def _member_ids(document: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(str(member["value"]) for member in document.get("members") or ()))


def _passed(row: Row) -> bool:
    return row.active_until is not None and row.active_until <= rows.now()
