"""What one write of a client does, whether it came alone or in a bulk request.

Owns the four of them: a resource made, said anew, changed and removed, in the unit of work that is open and with the
answer as the client wants it; and that one which is refused is remembered. Reading requests and shaping responses is
`scim.server`'s, running many `scim.bulk`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import scim2_models as scim
from scim2_server.conditions import Conditions

from broker import ids, refusals
from broker.context import Actor, Scope, current_actor
from broker.directory import Directory
from broker.directory.rows import PREFIX
from broker.errors import Forbidden, MethodNotAllowed, NotFound, NotImplementedHere, Problem

from . import dialects, memberships, reading, schemas, storage
from .declared import Models, models_of
from .patch import check, drop_members, patch
from .problems import status_of
from .reading import in_unit
from .resources import Projection, Row

MEMBER = "GroupMember"


class Done(NamedTuple):
    """`row`: the resource as it is now, None once it is removed; `body`: as the client wants it, if it is shown."""

    status: int
    row: Row | None = None
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes of one client in one tenant. `base` is the URL of its SCIM root; `pin` lays values above the upstreams."""

    scope: Scope
    base: str
    pin: bool = False

    @property
    def tenant(self) -> str:
        assert self.scope.tenant_id is not None
        return self.scope.tenant_id

    @property
    def models(self) -> Models:
        return models_of(self.scope)

    def create(self, wanted: Projection, body: Any) -> Done:
        models = self.models
        said = _plain(models, wanted.resource_type, "POST", body)
        resource = schemas.read(wanted.resource_type, said, scim.Context.RESOURCE_CREATION_REQUEST, models)
        if wanted.resource_type == MEMBER:
            id = memberships.create(self.tenant, resource)
            return Done(201, *memberships.present(self.tenant, self.base, wanted, id))
        made = storage.create(wanted.resource_type, resource, models)
        return Done(201, *reading.new(in_unit, self.tenant, self.base, wanted, made))

    def replace(self, wanted: Projection, id: str, body: Any, conditions: Conditions) -> Done:
        """What an upstream owns and the client leaves out stays."""
        resource_type, models = wanted.resource_type, self.models
        said = _plain(models, resource_type, "PUT", body)
        resource = schemas.read(resource_type, said, scim.Context.RESOURCE_REPLACEMENT_REQUEST, models)
        if resource_type == MEMBER:
            found = memberships.present(self.tenant, self.base, wanted, id)
            check(conditions, found[0].version, "PUT")
            memberships.check_unchanged(id, resource)
            return Done(200, *found)
        locked = storage.lock(self.tenant, resource_type, id)
        check(conditions, locked.version, "PUT")
        storage.write_over(resource_type, id, locked, resource, complete=False, pin=self.pin, models=models)
        if resource_type == "Group" and not getattr(resource, "members", None):
            drop_members(self.tenant, id)
        return Done(200, *reading.one(in_unit, self.tenant, self.base, wanted, id))

    def modify(self, wanted: Projection, id: str, body: Any, conditions: Conditions) -> Done:
        """A group of very many members is not shown in answer."""
        resource_type, models = wanted.resource_type, self.models
        if resource_type == MEMBER:
            raise MethodNotAllowed("A membership is made and removed, never changed")
        if not ids.is_id(id, PREFIX[resource_type]):
            raise NotFound
        said = _plain(models, resource_type, "PATCH", body)
        patch(self.scope, self.base, resource_type, id, said, conditions, pin=self.pin, models=models)
        if resource_type == "Group" and wanted.lists and reading.has_many_members(in_unit, self.tenant, id):
            return Done(204, reading.row(in_unit, self.tenant, self.base, resource_type, id, lists=False))
        return Done(200, *reading.one(in_unit, self.tenant, self.base, wanted, id))

    def remove(self, resource_type: str, id: str, conditions: Conditions) -> Done:
        if resource_type == MEMBER:
            found = memberships.present(self.tenant, self.base, Projection(MEMBER), id)
            check(conditions, found[0].version, "DELETE")
            memberships.remove(self.tenant, id)
            return Done(204)
        locked = storage.lock(self.tenant, resource_type, id)
        check(conditions, locked.version, "DELETE")
        storage.check_token(self.tenant, id)
        if locked.user_type == storage.SERVICE_ACCOUNT:
            raise Forbidden("Service accounts are not removed by SCIM")
        Directory().remove(resource_type, id)
        return Done(204)


def refused(scope: Scope, actor: Actor, method: str, resource_type: str | None, id: str, problem: Problem) -> None:
    """Remember in the tenant's audit log that a write was not done. What failed for our own sake is no refusal; what is
    not served is one."""
    status, scim_type = status_of(problem)
    if (status >= 500 and status != NotImplementedHere.status) or scope.tenant_id is None:
        return
    said = {"method": method, "status": status, "code": problem.code, "type": scim_type, "reason": problem.detail}
    where = ("Tenant", scope.tenant_id) if resource_type is None else (resource_type, id if _is_one(id) else "")
    refusals.tell(refusals.REFUSED, scope, actor, *where, f"{method} {status} {scim_type} {problem.detail}", said)


def _is_one(id: str) -> bool:
    return all(ids.is_id(part) for part in id.split("."))


def _plain(models: Models, resource_type: str, method: str, body: Any) -> Any:
    return dialects.normalise(resource_type, method, body, current_actor().mode, models)
