"""The tenant's directory as scim2-server's storage.

Owns `DirectoryStorage`, which the storage contract is run against and which applies every PATCH that is more than a
change of members: models in, models out, problems as scim2's exceptions. It works in the unit of work that is open, or
opens one per call. Also owns what a write must know first: the locked row, and whether a SCIM token may touch it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import orjson
import scim2_models as scim
from scim2_server.storage import ScimStorage, SearchPage

from broker import ids, passwords, refusals, settings
from broker.attributes import fold
from broker.context import Scope, current_actor
from broker.db import after_commit, current_scope, db, unit
from broker.directory import Directory
from broker.directory.mapping import flattened, render_extras
from broker.directory.rows import PREFIX
from broker.directory.rows import Row as Made
from broker.errors import (
    Conflict,
    Forbidden,
    NotFound,
    PreconditionFailed,
    ValidationFailed,
)
from broker.policy import Action, credential_allows

from . import reading
from .declared import OURS, Models
from .dialects import TOLERANT
from .filters import conditions
from .problems import spoken
from .reading import in_unit
from .resources import Projection, etag, merged, projection, rendered
from .schemas import MAX_RESULTS, POLICY, check_octets, written
from .sorting import order, sort_keys
from .walking import Branch, Listing, Place

SERVICE_ACCOUNT = "ServiceAccount"
MOST_STRANGERS_SHOWN = 20

_LOCK = """
SELECT version, local, user_type, name_key FROM resources
WHERE tenant_id = %(tenant)s AND id = %(id)s AND type = %(type)s AND removed_at IS NULL FOR NO KEY UPDATE
"""
_LOCAL = "SELECT local FROM resources WHERE tenant_id = %(tenant)s AND id = %(id)s"
_DOCUMENT = "SELECT document FROM resources WHERE tenant_id = %(tenant)s AND id = %(id)s"
_MEMBERS = """
SELECT DISTINCT member_id FROM memberships
WHERE tenant_id = %(tenant)s AND group_id = %(id)s AND member_id IS NOT NULL
"""
_NAME_IN_HAND = "SELECT pg_advisory_xact_lock(hashtextextended('group name ' || %(tenant)s || ' ' || %(key)s, 0))"
_NAME_TAKEN = """
SELECT 1 FROM resources
WHERE tenant_id = %(tenant)s AND type = 'Group' AND name_key = %(key)s AND removed_at IS NULL LIMIT 1
"""
_HOLDS_ROLE = """
WITH RECURSIVE up(id) AS (
    SELECT %(id)s::text COLLATE "C"
    UNION
    SELECT m.group_id FROM up, LATERAL (
        SELECT m.group_id FROM memberships m WHERE m.tenant_id = %(tenant)s AND m.member_id = up.id OFFSET 0) m)
SELECT EXISTS (SELECT 1 FROM role_assignments a JOIN up ON up.id = a.principal_id WHERE a.tenant_id = %(tenant)s)
"""


class Locked(NamedTuple):
    """What a write must know of the row it has locked."""

    version: int
    local: Mapping[str, Any]
    user_type: str | None
    name_key: str


def lock(tenant: str, resource_type: str, id: str) -> Locked:
    """Keep the row until the unit of work ends, so that writers queue up instead of failing. Raises NotFound."""
    if not ids.is_id(id, PREFIX[resource_type]):
        raise NotFound
    found = in_unit(_LOCK, {"tenant": tenant, "id": id, "type": resource_type})
    if not found:
        raise NotFound
    return Locked(*found[0])


def check_token(tenant: str, id: str) -> None:
    """A SCIM token leaves holders of admin roles alone, people and groups alike. Raises Forbidden."""
    if is_token() and holds_role(tenant, id):
        raise Forbidden("A SCIM token may only deactivate who holds an admin role")


def check_membership(tenant: str, group_id: str) -> None:
    """Who is in a group that holds an admin role has that role: no SCIM token says so, and no other credential that may
    not grant it. Raises Forbidden."""
    check_token(tenant, group_id)
    if not credential_allows(current_actor(), Action.ROLE_WRITE) and holds_role(tenant, group_id):
        raise Forbidden("The group holds an admin role: its members are changed with the scope scaikey:write as well")


def members_of(tenant: str, group_id: str) -> set[str]:
    """Who is in the group, written by whomever."""
    return {id for (id,) in in_unit(_MEMBERS, {"tenant": tenant, "id": group_id})}


def _check_group_name(document: Mapping[str, Any], key_before: str | None) -> None:
    """No two groups of one name by SCIM, where the tenant wants it so: clients find a group by its name. Whoever takes
    a name waits for whoever is about to. Raises Conflict."""
    name = document.get("displayName")
    if not isinstance(name, str) or (key := fold(name)) == key_before:
        return
    scope = current_scope()
    if not settings.of(scope, "scim_unique_group_names"):
        return
    named = {"tenant": scope.tenant_id, "key": key}
    in_unit(_NAME_IN_HAND, named)
    if in_unit(_NAME_TAKEN, named):
        raise Conflict("displayName: another group has this name", scim_type="uniqueness")


def directory() -> Directory:
    """The directory as the credential at hand writes it: members, managers and parents who are nobody here are passed
    over for a client with a tolerant one, and remembered. A person is told instead."""
    return Directory(passed_over=_pass_over if is_token() and current_actor().mode == TOLERANT else None)


def _pass_over(resource_type: str, id: str, attribute: str, strangers: Sequence[str]) -> None:
    scope, actor, shown = current_scope(), current_actor(), sorted(strangers)[:MOST_STRANGERS_SHOWN]
    said = {"attribute": attribute, "reason": "nobody here has this id", "ids": shown, "count": len(strangers)}
    why = f"{attribute} {' '.join(shown)}"
    after_commit(lambda: refusals.tell(refusals.PASSED_OVER, scope, actor, resource_type, id, why, said))


def is_token() -> bool:
    """Or what has no more to say than one: an application that acts for itself."""
    return current_actor().kind in ("scim_token", "application")


def holds_role(tenant: str, id: str) -> bool:
    """Whether the resource holds an admin role itself, or through a group above it."""
    return bool(in_unit(_HOLDS_ROLE, {"tenant": tenant, "id": id})[0][0])


def create(resource_type: str, resource: scim.Resource[Any], models: Models = OURS) -> Made:
    """Write a new resource; returns its row. Raises what `Directory.create` and `passwords.set_password` raise, and
    ValidationFailed for a password from anybody but a SCIM token."""
    document, password = _to_write(models, resource_type, resource), _password(resource)
    if document.get("userType") == SERVICE_ACCOUNT:
        raise ValidationFailed("userType: service accounts are not made by SCIM", scim_type="invalidValue")
    if resource_type == "Group":
        _check_group_name(document, None)
    row = directory().create(resource_type, document)
    if password is not None:
        passwords.set_password(row.id, password)
    return row


def write_over(
    resource_type: str,
    id: str,
    locked: Locked,
    resource: scim.Resource[Any],
    *,
    complete: bool,
    pin: bool = False,
    members: bool = True,
    models: Models = OURS,
) -> None:
    """Write a resource over a locked row. `complete`: what is absent was removed on purpose. `members`: they are said.

    Raises what `Directory.replace` and `passwords.set_password` raise, Forbidden where the credential may not go, and
    ValidationFailed for a password from anybody but a SCIM token.
    """
    document, password = _to_write(models, resource_type, resource), _password(resource)
    if is_token():
        if SERVICE_ACCOUNT in (locked.user_type, document.get("userType")):
            raise Forbidden("Service accounts are not changed by SCIM")
        if holds_role(Directory().tenant, id):
            if password is not None:
                raise Forbidden("A SCIM token may only deactivate who holds an admin role")
            _only_deactivate(resource_type, id, locked, document, complete=complete)
            return
    elif (locked.user_type == SERVICE_ACCOUNT) != (document.get("userType") == SERVICE_ACCOUNT):
        raise ValidationFailed("userType: a service account stays one", scim_type="invalidValue")
    if resource_type == "Group":
        _check_group_name(document, locked.name_key)
    if models.immutable(resource_type):
        [(before,)] = in_unit(_DOCUMENT, {"tenant": Directory().tenant, "id": id})
        models.keep_immutable(resource_type, orjson.loads(before), document, complete=complete)
    if not complete:
        for urn, values in _extras(resource_type, locked.local).items():
            document[urn] = (
                {**values, **document.get(urn, {})} if isinstance(values, dict) else document.get(urn, values)
            )
    if resource_type == "Group" and not members:
        document.pop("members", None)
    elif resource_type == "Group" and (complete or "members" in document):
        tenant, said = Directory().tenant, {member.get("value") for member in document.get("members", ())}
        present = members_of(tenant, id)
        if not complete and (unseen := _unseen(present, said)):
            document["members"] = [*document["members"], *({"value": member} for member in sorted(unseen))]
            said |= unseen
        if said != present:
            check_membership(tenant, id)
    directory().replace(resource_type, id, document, complete=complete, pin=pin)
    if password is not None:
        passwords.set_password(id, password)


def _unseen(present: set[str], said: set[Any]) -> set[str]:
    """The members a large group does not show, where a client says back what it does show: he cannot mean them gone."""
    ordered = sorted(present)
    shown, unseen = ordered[: reading.MOST_MEMBERS_SHOWN], set(ordered[reading.MOST_MEMBERS_SHOWN :])
    return unseen if said.issuperset(shown) and said.isdisjoint(unseen) else set()


def _password(resource: scim.Resource[Any]) -> str | None:
    """The password to set, if one was sent by who may. Some clients send a placeholder with every new user, so a token
    that may not is not refused."""
    password: str | None = getattr(resource, "password", None)
    if password is not None and not is_token():
        detail = "password: set it at /api/v1/users/{id}/password"
        raise ValidationFailed(detail, scim_type="invalidValue")
    return password if password is not None and current_actor().allow_password else None


def _to_write(models: Models, resource_type: str, resource: scim.Resource[Any]) -> dict[str, Any]:
    document = written(resource)
    check_octets(resource_type, document)
    models.check(resource_type, document)
    return document


def _only_deactivate(resource_type: str, id: str, locked: Locked, document: dict[str, Any], *, complete: bool) -> None:
    """What a SCIM token may do to a holder of an admin role: take `active` away, and nothing else."""
    tenant = Directory().tenant
    row = reading.row(in_unit, tenant, "", resource_type, id, lists=False)
    stored = merged(orjson.loads(row.document), _extras(resource_type, locked.local))
    present, wanted = flattened(resource_type, stored), flattened(resource_type, document)
    changed = {key: value for key, value in wanted.items() if present.get(key) != value}
    removed = present.keys() - wanted.keys() if complete else frozenset()
    if resource_type != "User" or removed or changed.keys() - {"active"} or changed.get("active"):
        raise Forbidden("A SCIM token may only deactivate who holds an admin role")
    if changed:
        Directory().replace(resource_type, id, {**stored, "active": False}, complete=True)


def _extras(resource_type: str, local: Mapping[str, Any]) -> dict[str, Any]:
    """The values written here that are returned only on request, and so are not in the stored document."""
    return render_extras(resource_type, (), local)


class DirectoryStorage(ScimStorage):
    """One tenant's directory. `base` is the URL of its SCIM root."""

    supports_cursors = True

    def __init__(self, scope: Scope, base: str, *, pin: bool = False, models: Models = OURS) -> None:
        assert scope.tenant_id is not None
        self.scope = scope
        self.tenant = scope.tenant_id
        self.base = base
        self.pin = pin
        self.models = models

    @contextmanager
    def operation(self) -> Iterator[None]:
        """One SCIM operation is one transaction: the one that is open, or one of its own."""
        if "scope" in db.session().info:
            yield
        else:
            with unit(self.scope):
                yield

    @contextmanager
    def _call(self) -> Iterator[None]:
        with spoken(), self.operation():
            yield

    def get(
        self,
        resource_type: scim.ResourceType,
        resource_id: str,
        *,
        response_parameters: scim.ResponseParameters[Any] | None = None,
    ) -> scim.Resource[Any]:
        with self._call():
            name = str(resource_type.name)
            return self.model(name, resource_id, lists=self._wanted(name, response_parameters).lists)

    def model(
        self, name: str, id: str, *, lists: bool = True, local: Mapping[str, Any] | None = None
    ) -> scim.Resource[Any]:
        """The stored resource as a model, with the values written here that are returned only on request."""
        row = reading.row(in_unit, self.tenant, self.base, name, id, lists=lists)
        if local is None:
            [(local,)] = in_unit(_LOCAL, {"tenant": self.tenant, "id": id})
        return self._model(name, merged(orjson.loads(rendered(self.base, name, row)), _extras(name, local)))

    def _model(self, name: str, document: dict[str, Any]) -> scim.Resource[Any]:
        document.get("meta", {}).pop("location", None)
        return self.models[name].model_validate(document, scim_policy=POLICY)

    def search(
        self,
        resource_types: list[scim.ResourceType],
        search_request: scim.SearchRequest[Any],
        *,
        position: Any = None,
    ) -> SearchPage:
        with self._call():
            types = [str(each.name) for each in resource_types]
            asked, wanted = search_request, [self._wanted(name, search_request) for name in types]
            descending = asked.sort_order == "descending"
            filters = conditions(types, str(asked.filter), self.models) if asked.filter else [None] * len(types)
            if asked.cursor is None and len(types) == 1:
                found = reading.page(
                    in_unit,
                    self.tenant,
                    self.base,
                    wanted[0],
                    condition=filters[0],
                    order=order(types[0], str(asked.sort_by), descending, self.models) if asked.sort_by else None,
                    start=asked.start_index or 1,
                    count=asked.count,
                )
                return SearchPage(found.total, self._models(found.resources))
            keys = sort_keys(types, str(asked.sort_by), self.models) if asked.sort_by else [(None, False)] * len(types)
            branches = [Branch(one, where, *key) for one, where, key in zip(wanted, filters, keys, strict=True)]
            listing = Listing(in_unit, self.tenant, self.base, branches, descending)
            if asked.cursor is None:
                resources, counted = listing.page(asked.start_index or 1, asked.count)
                return SearchPage(counted, self._models(resources))
            place, total = (None, None) if position is None else (Place(*position["p"]), position["t"])
            stage = listing.stage(place, MAX_RESULTS if asked.count is None else asked.count, total)
            around = [
                None if place is None else {"p": list(place), "t": stage.total}
                for place in (stage.next, stage.previous)
            ]
            return SearchPage(stage.total, self._models(stage.resources), *around)

    def _models(self, resources: list[bytes]) -> list[scim.Resource[Any]]:
        documents = [orjson.loads(each) for each in resources]
        return [self._model(each["meta"]["resourceType"], each) for each in documents]

    def create(self, resource_type: scim.ResourceType, resource: scim.Resource[Any]) -> scim.Resource[Any]:
        with self._call():
            name = str(resource_type.name)
            return self.model(name, create(name, resource, self.models).id)

    def update(
        self,
        resource_type: scim.ResourceType,
        resource: scim.Resource[Any],
        *,
        expected_version: str | None = None,
    ) -> scim.Resource[Any]:
        with self._call():
            name, id = str(resource_type.name), str(resource.id)
            locked = self._lock(name, id, expected_version)
            write_over(name, id, locked, resource, complete=True, pin=self.pin, models=self.models)
            return self.model(name, id)

    def delete(
        self, resource_type: scim.ResourceType, resource_id: str, *, expected_version: str | None = None
    ) -> None:
        with self._call():
            name = str(resource_type.name)
            self._lock(name, resource_id, expected_version)
            check_token(self.tenant, resource_id)
            Directory().remove(name, resource_id)

    def _lock(self, name: str, id: str, expected_version: str | None) -> Locked:
        locked = lock(self.tenant, name, id)
        if expected_version is not None and expected_version != etag(locked.version):
            raise PreconditionFailed
        return locked

    def _wanted(self, name: str, parameters: scim.ResponseParameters[Any] | None) -> Projection:
        if parameters is None:
            return Projection(name)
        included, excluded = (
            ",".join(parameters.attributes or ()) or None,
            ",".join(parameters.excluded_attributes or ()) or None,
        )
        return projection(name, included, excluded, self.models)
