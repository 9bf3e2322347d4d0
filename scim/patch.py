"""PATCH: changes of members as row operations, everything else on the model.

Owns the taking apart of a PATCH request. Whatever touches a group's `members`, in any of the shapes clients send,
becomes ids to add and to remove, so that no group is ever loaded to change it; the other operations are scim2-models',
applied to the locked row, so that writers queue up and none of them is told 412 who did not ask with If-Match.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import scim2_models as scim
from pydantic import ValidationError
from scim2_models import path as grammar
from scim2_server.conditions import Conditions
from scim2_server.handler import ScimHandler
from scim2_server.service import ScimService

from broker.attributes import CORE_GROUP
from broker.context import Scope
from broker.directory import Directory
from broker.errors import BadRequest

from .declared import OURS, Models, remembered
from .filters import members_where
from .problems import refusal
from .reading import in_unit
from .resources import etag
from .schemas import POLICY
from .storage import DirectoryStorage, check_membership, directory, lock, members_of, write_over
from .strict import messages

MESSAGE = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
MOST_OPERATIONS = 1_000
LONGEST_PATH = 65_536

_MEMBERS = re.compile(
    rf"(?:{re.escape(CORE_GROUP)}:)?members(?:\[(?P<filter>.*)\])?(?:\.(?P<sub>[\w$]+))?", re.I | re.S
)
_MEMBER_KEYS = frozenset({"members", f"{CORE_GROUP}:members".lower()})
_WRITTEN_HERE = """
SELECT m.member_id FROM memberships m
WHERE m.tenant_id = %(tenant)s AND m.group_id = %(id)s AND m.via IS NULL AND NOT EXISTS (
    SELECT 1 FROM memberships o WHERE o.tenant_id = m.tenant_id AND o.group_id = m.group_id
      AND o.member_id = m.member_id AND o.via IS NOT NULL)
"""


@remembered(1)
def service(models: Models) -> ScimService:
    # A service that announces cursors wants a secret for them: ours are sealed in `scim.asking`, and this seals none.
    return ScimService(models.provider, secret=secrets.token_bytes(32))


@dataclass(slots=True)
class MemberChange:
    """What a request does to a group's members, in sum. `all`: the whole list, when it was replaced."""

    add: dict[str, None] = field(default_factory=dict)
    remove: dict[str, None] = field(default_factory=dict)
    all: dict[str, None] | None = None
    filters: list[str] = field(default_factory=list)
    """Members to remove that only the database can tell."""

    def include(self, ids: Iterable[str]) -> None:
        for id in ids:
            if self.all is not None:
                self.all[id] = None
            else:
                self.add[id] = None
                self.remove.pop(id, None)

    def exclude(self, ids: Iterable[str]) -> None:
        for id in ids:
            if self.all is not None:
                self.all.pop(id, None)
            else:
                self.remove[id] = None
                self.add.pop(id, None)

    def become(self, ids: Iterable[str]) -> None:
        self.all = dict.fromkeys(ids)
        self.filters.clear()


@dataclass(frozen=True, slots=True)
class Patch:
    """A PATCH request taken apart."""

    members: MemberChange | None
    others: Sequence[Mapping[str, Any]]


def take_apart(resource_type: str, body: Any) -> Patch:
    """The operations of a request. Raises BadRequest with a scimType."""
    operations = _operations(body)
    if resource_type != "Group":
        return Patch(None, operations)
    change = MemberChange()
    others: list[Mapping[str, Any]] = []
    touched = False
    for operation in operations:
        path, value = operation.get("path"), operation.get("value")
        if not path and isinstance(value, dict):
            inside = [key for key in value if key.lower() in _MEMBER_KEYS]
            for key in inside:
                _apply(change, operation["op"], None, value[key], said=True)
            rest = {key: item for key, item in value.items() if key not in inside}
            if rest or not inside:
                others.append({**operation, "value": rest})
            touched |= bool(inside)
        elif isinstance(path, str) and (match := _MEMBERS.fullmatch(path.strip())):
            if match["sub"]:
                raise BadRequest("A member is added or removed, never changed", scim_type="mutability")
            _apply(change, operation["op"], match["filter"], value, said="value" in operation)
            touched = True
        else:
            others.append(operation)
    return Patch(change if touched else None, others)


def _operations(body: Any) -> list[dict[str, Any]]:
    """The operations with the names of their parts, and of the deed, in lower case."""
    if not isinstance(body, dict):
        raise BadRequest("A PATCH is a JSON object", scim_type="invalidSyntax")
    found = next((value for key, value in body.items() if key.lower() == "operations"), None)
    if not isinstance(found, list) or not found or not all(isinstance(one, dict) for one in found):
        raise BadRequest("Operations is a list of one or more operations", scim_type="invalidSyntax")
    if len(found) > MOST_OPERATIONS:
        raise BadRequest(f"A PATCH has at most {MOST_OPERATIONS} operations", scim_type="invalidValue")
    operations = [{key.lower(): value for key, value in one.items()} for one in found]
    for operation in operations:
        deed = operation.get("op")
        operation["op"] = deed.lower() if isinstance(deed, str) else deed
        if operation["op"] not in ("add", "replace", "remove"):
            raise BadRequest("op is add, remove or replace", scim_type="invalidSyntax")
        if isinstance(path := operation.get("path"), str) and len(path) > LONGEST_PATH:
            raise BadRequest(f"A path is longer than {LONGEST_PATH} characters", scim_type="invalidPath")
    return operations


def _apply(change: MemberChange, deed: str, selected: str | None, value: Any, *, said: bool) -> None:
    if selected is not None:
        if deed != "remove":
            raise BadRequest("A member is added or removed, never changed", scim_type="mutability")
        ids = _named(selected)
        if ids is not None:
            change.exclude(ids)
        elif change.all is not None:
            raise BadRequest("members: this selection cannot follow a replacement", scim_type="invalidPath")
        else:
            change.filters.append(selected)
    elif deed == "remove":
        if value is None:
            change.become(())
        else:
            change.exclude(_ids(value))
    elif deed == "replace":
        if not said:
            raise BadRequest("A replacement needs a value", scim_type="invalidValue")
        change.become(_ids(value if value is not None else []))
    else:
        if value is None:
            raise BadRequest("An addition needs a value", scim_type="invalidValue")
        change.include(_ids(value))


def _ids(value: Any) -> list[str]:
    """The ids in a member, or in a list of members."""
    ids = []
    for member in value if isinstance(value, list) else [value]:
        id = member
        if isinstance(member, dict):
            id = next((item for key, item in member.items() if key.lower() == "value"), None)
        if not isinstance(id, str) or not id:
            raise BadRequest("A member is an object whose value is an id", scim_type="invalidValue")
        ids.append(id)
    return ids


def _named(selected: str) -> list[str] | None:
    """The ids a selection such as `value eq "…"` names; None when it has to be looked up."""
    try:
        node = scim.ScimFilter(selected).ast
    except scim.SCIMException as error:
        raise BadRequest(refusal(error).detail, scim_type="invalidPath") from None
    terms = node.terms if isinstance(node, grammar.LogicalExpr) and node.op.value == "or" else (node,)
    ids = []
    for term in terms:
        if not (
            isinstance(term, grammar.Comparison)
            and term.op.value == "eq"
            and str(term.attr_path).lower() == "value"
            and isinstance(term.value, str)
        ):
            return None
        ids.append(term.value)
    return ids


def change_members(tenant: str, group_id: str, change: MemberChange) -> bool:
    """Do it, without loading the group; True when something changed. Raises what `Directory.change_members` raises."""
    check_membership(tenant, group_id)
    if change.all is not None:
        lock(tenant, "Group", group_id)
        present = members_of(tenant, group_id)
        change.add = {id: None for id in change.all if id not in present}
        change.remove = {id: None for id in sorted(present) if id not in change.all}
    for selected in change.filters:
        statement, parameters = members_where(selected)
        found = in_unit(statement, {**parameters, "tenant": tenant, "id": group_id, "base": ""})
        change.exclude(id for (id,) in found if id not in change.add)
    return directory().change_members(group_id, list(change.add), list(change.remove))


def drop_members(tenant: str, group_id: str) -> None:
    """Take away the members that were written here: a PUT that names none leaves an upstream's alone."""
    found = [id for (id,) in in_unit(_WRITTEN_HERE, {"tenant": tenant, "id": group_id})]
    if found:
        check_membership(tenant, group_id)
        Directory().change_members(group_id, remove=found)


class _Patched(DirectoryStorage):
    """The storage of one PATCH: the row is locked before it is read, and who is in what is not part of it."""

    def get(
        self,
        resource_type: scim.ResourceType,
        resource_id: str,
        *,
        response_parameters: scim.ResponseParameters[Any] | None = None,
    ) -> scim.Resource[Any]:
        with self._call():
            name = str(resource_type.name)
            self.locked = lock(self.tenant, name, resource_id)
            return self.model(name, resource_id, lists=False, local=self.locked.local)

    def update(
        self,
        resource_type: scim.ResourceType,
        resource: scim.Resource[Any],
        *,
        expected_version: str | None = None,
    ) -> scim.Resource[Any]:
        with self._call():
            name, id = str(resource_type.name), str(resource.id)
            write_over(name, id, self.locked, resource, complete=True, pin=self.pin, members=False, models=self.models)
            return resource


def patch(
    scope: Scope,
    base: str,
    resource_type: str,
    id: str,
    body: Any,
    conditions: Conditions,
    *,
    pin: bool = False,
    models: Models = OURS,
) -> None:
    """Do a PATCH request in the open unit of work.

    Raises NotFound, PreconditionFailed, BadRequest with a scimType, and what writing the directory raises.
    """
    assert scope.tenant_id is not None
    request = take_apart(resource_type, body)
    if request.others:
        message = {"schemas": [MESSAGE], "Operations": request.others}
        try:
            operations = messages(models, resource_type).model_validate(
                message, scim_ctx=scim.Context.RESOURCE_PATCH_REQUEST, scim_policy=POLICY
            )
            with models.provider:
                ScimHandler(service(models), _Patched(scope, base, pin=pin, models=models)).patch_resource(
                    service(models).get_resource_type(resource_type), id, operations, conditions
                )
        except (scim.SCIMException, ValidationError) as error:
            raise refusal(error) from None
    elif conditions != Conditions():
        check(conditions, lock(scope.tenant_id, resource_type, id).version, "PATCH")
    if request.members is not None:
        change_members(scope.tenant_id, id, request.members)


def check(conditions: Conditions, version: int, method: str) -> bool:
    """Evaluate If-Match and If-None-Match; False when a GET is answered 304. Raises PreconditionFailed."""
    try:
        return conditions.check(etag(version), method)
    except scim.SCIMException as error:
        raise refusal(error) from None
