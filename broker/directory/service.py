"""The directory: the only writer of users, groups, memberships, units and links.

Five ways in: SCIM and administrators (`create`, `replace`, `remove`, `change_members`), a sign-in (`admit`), a sync
(`apply`, then `take_away` once the guard agrees), an archive (`restore`), and the clock (`expire_due`). Every method
compares, writes only what differs, and records events in the same transaction: no difference, no event. It works inside
the caller's unit of work and never commits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import orjson
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from connectors.port import Change, Identity

from ..context import Scope
from ..db import current_scope, db, directory_writes
from ..endings import DISABLED, end_all_of
from ..errors import NotFound, OwnedByUpstream, PreconditionFailed, ValidationFailed
from ..events import Changes, record
from ..models import IdentityProvider
from . import declared, layers, links, mapping, members, names, owners, references, removal, restoring, room, rows
from .admission import Admission, Arrival
from .apply import PageOfChanges
from .documents import MANAGER, PARENT, Values, apart, differing, flattened, holds_nul, put, stored_extras
from .layers import Provider, Said
from .news import Shown, Tally, tell_members, tell_shown
from .outcome import Loss, Outcome
from .restoring import Item, Part, Restored
from .rows import Row, Unfit

_LIVE = """
    SELECT version FROM resources WHERE tenant_id = :tenant AND id = :id AND type = 'Group' AND removed_at IS NULL
"""
_KEPT_ALIVE = sa.text(f"{_LIVE} FOR KEY SHARE")
_UNCHANGED = sa.text(f"{_LIVE} FOR NO KEY UPDATE")
_KIND = sa.text("SELECT type FROM resources WHERE tenant_id = :tenant AND id = :id AND removed_at IS NULL")
_OWNED = sa.text("""
    SELECT 1 FROM links l
    JOIN identity_providers p ON p.tenant_id = :tenant AND p.id = l.provider_id AND p.kind <> ALL(:sign_in_kinds)
    WHERE l.tenant_id = :tenant AND l.resource_id = :id AND l.gone_at IS NULL AND l.skipped IS NULL
""")
_UPSTREAMS = sa.text("""
    SELECT l.provider_id FROM links l
    JOIN identity_providers p ON p.tenant_id = :tenant AND p.id = l.provider_id AND p.kind <> ALL(:sign_in_kinds)
    WHERE l.tenant_id = :tenant AND l.resource_id = :id AND l.gone_at IS NULL AND l.skipped IS NULL
    ORDER BY p.priority, p.id LIMIT 1
""")
_LAYERS = sa.text("""
    UPDATE resources SET local = CAST(:local AS jsonb), pins = CAST(:pins AS jsonb), disabled = :disabled,
        email_doubted = :doubted WHERE tenant_id = :tenant AND id = :id
""")
Done = TypeVar("Done")
_SIGN_IN = {"sign_in_kinds": sorted(mapping.SIGN_IN_KINDS)}
_TARGETS = {
    MANAGER: ("User", "manager_id", "manager_ref", "user"),
    PARENT: ("OrganizationalUnit", "parent_id", "parent_ref", "unit"),
}


class Directory:
    """The directory of the tenant whose unit of work is open."""

    def __init__(
        self,
        scope: Scope | None = None,
        *,
        tenant_id: str | None = None,
        passed_over: Callable[[str, str, str, Sequence[str]], None] | None = None,
    ) -> None:
        """`tenant_id` names the tenant in a unit of work that spans tenants (bootstrap); elsewhere the scope does.
        `passed_over` is told of members, managers and parents who are nobody here: of which type and id, the attribute,
        and the ids of nobody. Without it they are refused."""
        chosen = scope or current_scope()
        tenant = tenant_id if chosen.tenant_id is None else chosen.tenant_id
        if tenant is None:
            raise ValueError("a directory belongs to one tenant")
        self.tenant = tenant
        self._passed_over = passed_over

    def create(self, resource_type: str, document: Mapping[str, Any]) -> Row:
        """A resource from a validated SCIM document; read-only attributes in it are ignored.

        Raises Conflict (`uniqueness`), LimitExceeded, ValidationFailed.
        """
        row = Row(rows.new_id(resource_type), resource_type, version=1)
        values = flattened(resource_type, document)
        self._take_active(row, values, ())
        self._take_references(row, values, (), pin=False, complete=False)
        owners.check(self.tenant, row.type, values)
        row.local = values
        self._settle(row, ())
        with directory_writes():
            room.check_arrival(self.tenant, row)
            declared.check_unique(self.tenant, row)
            names.name_tokens(self.tenant, [row])
            with room.one_name_each(rows.name_attribute(row.type)):
                rows.insert(self.tenant, [row])
            if wanted := _member_ids(document):
                members.add_local(self.tenant, row.id, self._known(row.id, wanted))
            self._record(f"{row.noun}.created", row)
        return row

    def replace(
        self,
        resource_type: str,
        id: str,
        document: Mapping[str, Any],
        *,
        if_match: int | None = None,
        pin: bool = False,
        complete: bool = False,
    ) -> None:
        """Make a resource say what this document says, where no upstream owns the value.

        `complete`: an absent value was removed on purpose (PATCH); otherwise an absent value that an upstream owns is
        left alone (PUT). `pin` lays a written value above the upstreams. A `members` key sets the memberships written
        here.
        Raises NotFound, PreconditionFailed, OwnedByUpstream (`mutability`), Conflict (`uniqueness`), LimitExceeded,
        ValidationFailed.
        """
        row = self._load(resource_type, id, if_match)
        said = layers.said_of(self.tenant, {id: resource_type})[id]
        layers.bind(self.tenant, [(row, said)])
        before, old, name_key, was_active, counted = row.document, row.read(), row.name_key, row.active, row.counts
        extras = stored_extras(resource_type, row.local)
        silent = (row.local, dict(row.pins), row.disabled)
        values = flattened(resource_type, document)
        unassigned = complete and resource_type in rows.SWITCHED and "active" not in values
        if unassigned:
            values["active"] = True
        self._take_active(row, values, said)
        self._take_references(row, values, said, pin=pin, complete=complete)
        owners.check(self.tenant, row.type, values)
        self._take_values(row, values, said, pin=pin, complete=complete)
        if unassigned:
            # Kept so that the attribute stays unassigned: the person is active, and nobody says so (RFC 7644 3.5.2.2).
            row.local["active"] = None
        self._settle(row, said)
        with directory_writes():
            if row.counts and not counted:
                room.check_room(self.tenant)
            if row.name_key != name_key:
                room.check_name(self.tenant, row)
            hidden = stored_extras(resource_type, row.local)
            if row.document != before or hidden != extras:
                row.version += 1
                declared.check_unique(self.tenant, row)
                with room.one_name_each(rows.name_attribute(row.type)):
                    rows.update(self.tenant, [row])
                changed = differing(old, row.read())
                changed += sorted(key for key in {*extras, *hidden} if extras.get(key) != hidden.get(key))
                deed = "updated" if row.active == was_active else ("enabled" if row.active else "disabled")
                self._record(f"{row.noun}.{deed}", row, changed)
            elif (row.local, row.pins, row.disabled) != silent:
                self._keep_layers(row)
            if resource_type == "Group" and "members" in document:
                self._set_members(id, _member_ids(document), complete=complete)

    def remove(self, resource_type: str, id: str, *, if_match: int | None = None) -> None:
        """Remove a resource that no upstream has. Raises NotFound, PreconditionFailed, OwnedByUpstream."""
        row = self._load(resource_type, id, if_match)
        if db.session().execute(_OWNED, {"tenant": self.tenant, "id": id, **_SIGN_IN}).first() is not None:
            raise OwnedByUpstream("An upstream has this resource; remove it there", scim_type="mutability")
        changes, tally = Changes(), Tally()
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
        # Without a condition changes may run side by side; with one, nobody may change the group after it is checked.
        statement = _KEPT_ALIVE if if_match is None else _UNCHANGED
        version = db.session().execute(statement, {"tenant": self.tenant, "id": group_id}).scalar()
        if version is None:
            raise NotFound
        if if_match is not None and if_match != version:
            raise PreconditionFailed
        removed: list[str] = []
        added: list[str] = []
        with directory_writes():
            if remove:
                removed, given = members.drop_local(self.tenant, group_id, remove)
                if set(given) - set(add):
                    raise OwnedByUpstream("An upstream gives this membership; remove it there", scim_type="mutability")
            if add:
                added = members.add_local(self.tenant, group_id, self._known(group_id, add, losing=bool(removed)))
            return self._tell(group_id, added, removed)

    def admit(self, identity: Identity, via: IdentityProvider) -> Admission:
        """Who signs in here: somebody known, matched or new, with what the identity says of him; or why nobody."""
        return self._twice(lambda: Arrival(self.tenant, via, identity, self._places).admit())

    def apply(
        self,
        changes: Sequence[Change],
        via: IdentityProvider,
        run_no: int,
        *,
        halving_floor: int = 1,
        followed: bool = False,
    ) -> Outcome:
        """Write one page of an upstream's changes. Nothing is taken away here: see `Outcome.losses`.

        `halving_floor`: a group that would lose more members than this, and at least half, keeps them until the guard
        decides. `followed`: the page is of a delta, which tells of everybody who has another name by now.
        """
        provider = Provider.of(via)
        return self._twice(
            lambda: PageOfChanges(
                self.tenant, provider, run_no, halving_floor=halving_floor, followed=followed, room=self._places
            ).apply(changes)
        )

    def restore(self, part: Part, items: Sequence[Item], *, guarded: frozenset[str] = frozenset()) -> Restored:
        """Write what an archive says of one part; nothing that is here is overwritten.

        `guarded`: whom only somebody with a wider role may link. Raises Conflict (`uniqueness`), LimitExceeded.
        """
        with directory_writes(), room.one_name_each():
            return restoring.restore(self.tenant, part, items, guarded)

    def has_read(self, key: str, via_id: str) -> bool:
        """Whether the record of this key has been read from the upstream, and is somebody's."""
        wanted = rows.ref_key(key)
        link = links.find(self.tenant, via_id, [wanted]).get(wanted)
        return link is not None and not link.gone and link.resource_id is not None

    def correct(self, via: IdentityProvider, run_no: int) -> None:
        """The full pass `run_no` is finished: everybody is known by the name he has now. Whom lists and reports read
        earlier in it took for somebody else is put right."""
        changes, tally = Changes(), Tally()
        with directory_writes():
            members.correct(self.tenant, via.id, run_no, tally)
            references.correct(self.tenant, via.id, run_no, changes)
            links.settle(self.tenant, via.id)
            tell_members(self.tenant, tally, changes)
            record(changes)

    def absent(self, via: IdentityProvider, run_no: int) -> list[Loss]:
        """What the finished full pass `run_no` did not meet."""
        return removal.absent(self.tenant, via.id, run_no)

    def disables(self, via: IdentityProvider) -> list[Loss]:
        """People whom the upstream has disabled and who are still active here."""
        return removal.disables(self.tenant, via.id)

    def take_away(self, losses: Sequence[Loss], via: IdentityProvider, run_no: int) -> Outcome:
        """Do these losses that still hold. `run_no`: the latest finished full pass, which proves absence."""
        return self._twice(lambda: removal.take_away(self.tenant, via.id, losses, run_no))

    def missing(self, via: IdentityProvider, run_no: int | None) -> list[str]:
        """Upstream keys of what would be removed now: who is said to be gone and, of a full pass, who was not met."""
        return removal.missing(self.tenant, via.id, run_no)

    def still_leaving(self, via: IdentityProvider, losses: Sequence[Loss]) -> dict[int, bytes]:
        """The evidence of these shrinks as far as it still holds, by link; of those that were undone there is none."""
        return members.still_leaving(self.tenant, via.id, losses)

    def unsettled(self, via: IdentityProvider) -> list[str]:
        """Upstream keys of records that could not be taken as they are, a bounded number of them."""
        return links.unsettled(self.tenant, via.id)

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

    def _twice(self, deed: Callable[[], Done]) -> Done:
        """Do it, and again where somebody took a name or a value since it looked: he has committed, and is seen."""
        with directory_writes():
            try:
                with db.session().begin_nested():
                    return deed()
            except IntegrityError as error:
                if not names.is_clash(error) and not declared.is_clash(error):
                    raise
            return deed()

    def _load(self, resource_type: str, id: str, if_match: int | None) -> Row:
        row = rows.load(self.tenant, [id]).get(id)
        if row is None or row.type != resource_type:
            raise NotFound
        if if_match is not None and if_match != row.version:
            raise PreconditionFailed
        return row

    def _take_active(self, row: Row, values: Values, said: Sequence[Said]) -> None:
        """Take `active` out of the values. Who is inactive already stays so without being disabled here as well: a
        client that gives back what it was given changes nothing."""
        if row.type not in rows.SWITCHED:
            return
        active = values.pop("active", None)
        if active is False and row.active:
            row.active, row.disabled = False, True
        elif active is True and not row.active:
            until = row.active_until
            if any(not link.active for link in said) or (until is not None and until <= rows.now()):
                raise OwnedByUpstream("An upstream has disabled this person", scim_type="mutability")
            row.active, row.disabled = True, False

    def _take_references(self, row: Row, values: Values, said: Sequence[Said], *, pin: bool, complete: bool) -> None:
        """Take manager and parent, which have columns of their own, out of the values."""
        owned = layers.owned_keys(row.type, said)
        for key, (target, column, ref, kind) in _TARGETS.items():
            wanted = values.pop(key, None)
            if row.type != target:
                continue
            present = getattr(row, column)
            if wanted == present or (wanted is None and key in owned and not complete):
                continue
            if key in owned and not pin:
                raise OwnedByUpstream(f"An upstream owns {key}", scim_type="mutability")
            if wanted is not None:
                found = db.session().execute(_KIND, {"tenant": self.tenant, "id": wanted}).scalar()
                # A unit that is to go elsewhere does not stay where it is unsaid: access may hang on its place.
                stays = key == MANAGER or present is None
                if found != target and stays and self._passed_over is not None:
                    self._passed_over(row.type, row.id, key, [wanted])
                    continue
                if found != target:
                    raise ValidationFailed(f"{key}: there is no such {target}", scim_type="invalidValue")
                if key == PARENT:
                    references.check_above(self.tenant, row.id, wanted)
            row.pins.pop(key, None)
            if key in owned and wanted != self._referred(row, getattr(row, ref), kind):
                row.pins[key] = wanted
            setattr(row, column, wanted)

    def _referred(self, row: Row, ref: str | None, kind: str) -> str | None:
        """Whom the upstream names."""
        via = db.session().execute(_UPSTREAMS, {"tenant": self.tenant, "id": row.id, **_SIGN_IN}).scalar()
        if via is None or ref is None:
            return None
        return references.meant(references.resolve(self.tenant, via, [ref]), ref, kind)

    def _take_values(self, row: Row, values: Values, said: Sequence[Said], *, pin: bool, complete: bool) -> None:
        """Part a client's values into what is written here and what upstreams say, which must not differ."""
        ranked = layers.ranked(said)
        owned, decided = mapping.owned_values(row.type, ranked)
        decided -= {MANAGER, PARENT}
        filled = mapping.filling(row.type, ranked, row.local, decided)
        references_pinned = {key: value for key, value in row.pins.items() if key in (MANAGER, PARENT)}
        pins = {key: value for key, value in row.pins.items() if key in decided}
        present = {**filled, **owned, **pins}
        local = {key: value for key, value in row.local.items() if key in decided}
        written = apart(values, decided | filled.keys(), present)
        for key, value in written.items():
            if key in decided:
                if value != present.get(key):
                    if not pin:
                        raise OwnedByUpstream(f"An upstream owns {key}", scim_type="mutability")
                    pins.pop(key, None)
                    if value != owned.get(key):
                        pins[key] = value
            elif key not in filled:
                local[key] = value
        for key, value in written.items():
            if key in filled and value != filled[key]:
                put(local, key, value)
        if complete:
            hidden = stored_extras(row.type, present)
            missing = sorted(key for key in decided if key in present and key not in written and key not in hidden)
            if missing:
                raise OwnedByUpstream(f"An upstream owns {missing[0]}", scim_type="mutability")
        row.local, row.pins = local, {**pins, **references_pinned}

    def _settle(self, row: Row, said: Sequence[Said]) -> None:
        if any(
            b"\\u0000" in orjson.dumps(value) and holds_nul(value)
            for value in (*row.local.values(), *row.pins.values())
        ):
            raise ValidationFailed("A value holds a NUL character.", scim_type="invalidValue")
        try:
            rows.settle(row, layers.effective(row, said))
        except Unfit as unfit:
            raise ValidationFailed(unfit.detail, scim_type="invalidValue") from None

    def _places(self) -> int | None:
        return room.places(self.tenant)

    def _known(self, group_id: str, wanted: Sequence[str], *, losing: bool = False) -> Sequence[str]:
        """Those who are here. `losing`: others leave the group by the same word, which must then know whom it names."""
        strangers = members.unknown(self.tenant, wanted)
        if strangers and (losing or self._passed_over is None):
            raise ValidationFailed(f"members: there is no user or group {strangers[0][:64]}", scim_type="invalidValue")
        if group_id in wanted:
            raise ValidationFailed("members: a group cannot be its own member", scim_type="invalidValue")
        if not strangers or self._passed_over is None:
            return wanted
        self._passed_over("Group", group_id, "members", strangers)
        return [member for member in wanted if member not in set(strangers)]

    def _set_members(self, group_id: str, wanted: Sequence[str], *, complete: bool) -> None:
        """Make these the members, but for whom an upstream gives: none may be left out, unless all are."""
        present = members.present(self.tenant, group_id)
        adding = [member for member in wanted if member not in present]
        leaving = sorted(present.keys() - set(wanted))
        if (complete or wanted) and any(present[member] for member in leaving):
            raise OwnedByUpstream("An upstream gives a membership that is missing here", scim_type="mutability")
        added: list[str] = []
        removed: list[str] = []
        if adding:
            added = members.add_local(self.tenant, group_id, self._known(group_id, adding, losing=bool(leaving)))
        if leaving:
            removed, _ = members.drop_local(self.tenant, group_id, leaving)
        self._tell(group_id, added, removed)

    def _tell(self, group_id: str, added: Sequence[str], removed: Sequence[str]) -> bool:
        """Record what changed in a group in sum."""
        came, went = set(added) - set(removed), set(removed) - set(added)
        if not came and not went:
            return False
        changes = Changes()
        tell_shown(self.tenant, {group_id: Shown(len(came), len(went))}, changes)
        record(changes, tenant_id=self.tenant)
        return True

    def _record(self, name: str, row: Row, changed: Any = ()) -> None:
        changes = Changes()
        changes.add(name, row.type, row.id, changed)
        if name == "user.disabled":
            end_all_of([row.id], DISABLED, changes)
        record(changes, tenant_id=self.tenant)

    def _keep_layers(self, row: Row) -> None:
        kept: Values = {"id": row.id, "disabled": row.disabled, "doubted": row.email_doubted}
        kept |= {"local": orjson.dumps(row.local).decode(), "pins": orjson.dumps(row.pins).decode()}
        db.session().execute(_LAYERS, {"tenant": self.tenant, **kept})


def _member_ids(document: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(str(member["value"]) for member in document.get("members") or ()))
