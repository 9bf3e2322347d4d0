"""Who is in which group, as resources of their own (after draft-zollner-scim-group-members).

Owns the `GroupMember`: one direct member of one group, whoever says so; its id is made of theirs. A list is walked in
the order of groups and members, so that a page costs the same in a group of any size. Writing one is the directory's
change of members, and a membership never changes: it is made and removed.
"""

# ruff: noqa: S608 - statements are put together from names of our own; every value is bound

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import scim2_models as scim
from scim2_models import path as grammar

from broker import ids
from broker.db import IN_TENANT
from broker.directory import Directory
from broker.errors import BadRequest, Conflict, NotFound, ValidationFailed

from .filters import LONGEST, MOST_TERMS
from .problems import refusal
from .reading import Run, in_unit, timed
from .resources import Projection, Row, etag, location
from .schemas import MEMBERSHIP
from .storage import check_membership
from .walking import Place, Stage

_COLUMNS = {
    "id": "m.group_id || '.' || m.member_id",
    "group": "m.group_id",
    "group.value": "m.group_id",
    "member": "m.member_id",
    "member.value": "m.member_id",
    "member.type": "lower(x.type)",
}
_FROM = "memberships m <member> WHERE m.tenant_id = scope.tenant AND m.member_id IS NOT NULL"
_MEMBER = """, LATERAL (
    SELECT x.type, coalesce(x.display_name, x.name) AS name FROM resources x
    WHERE x.tenant_id = scope.tenant AND x.id = m.member_id AND x.removed_at IS NULL OFFSET 0) x"""
_NAMES = f""", LATERAL (
    SELECT coalesce(g.display_name, g.name) AS name FROM resources g
    WHERE g.tenant_id = scope.tenant AND g.id = m.group_id AND g.removed_at IS NULL OFFSET 0) g {_MEMBER}"""


@dataclass(frozen=True, slots=True)
class Memberships:
    """The memberships of one tenant that a client asks for."""

    run: Run
    tenant: str
    base: str
    wanted: Projection
    filter: str | None = None

    def one(self, id: str) -> tuple[Row, bytes]:
        """Raises NotFound."""
        found = self._found(
            f"AND {_COLUMNS['group']} = %(group)s AND {_COLUMNS['member']} = %(member)s", _parted(id), ""
        )
        if not found:
            raise NotFound
        return Row(id, b"", 1, "", ""), found[0]

    def page(self, start: int, count: int) -> tuple[list[bytes], int]:
        """By index: at most `count` from the `start`th on, and how many there are."""
        where, parameters = self._condition()
        more = {"limit": count, "skipped": min(start, 1 << 40) - 1}
        found = self._found(where, {**parameters, **more}, "LIMIT %(limit)s::bigint OFFSET %(skipped)s::bigint")
        counted = f"SELECT DISTINCT m.group_id, m.member_id FROM {_from(where)}"
        statement = f"{IN_TENANT} SELECT r.n FROM scope, LATERAL (SELECT count(*) AS n FROM ({counted}) m OFFSET 0) r"
        [(total,)] = timed(self.run, statement, {**parameters, "tenant": self.tenant})
        return found, int(total)

    def stage(self, place: Place | None, count: int) -> Stage:
        """By cursor: at most `count` from `place` on. They are not counted."""
        if count <= 0:
            return Stage([], None, None, None)
        where, parameters = self._condition()
        back = place is not None and place.back
        if place is not None:
            where += f" AND (m.group_id, m.member_id) {'<' if back else '>'} (%(group)s::text, %(member)s::text)"
            parameters = {**parameters, **_parted(place.id)}
        found = self._found(where, {**parameters, "limit": count + 1}, "LIMIT %(limit)s::bigint", back=back)
        more, found = len(found) > count, found[:count]
        if back:
            found.reverse()
        if not found:
            return Stage([], None, None, None)
        first, last = (orjson.loads(found[number])["id"] for number in (0, -1))
        onward = Place(None, last) if more or back else None
        before = Place(None, first, True) if (more if back else place is not None) else None
        return Stage(found, None, onward, before)

    def _found(self, where: str, parameters: Mapping[str, Any], limit: str, *, back: bool = False) -> list[bytes]:
        way = "DESC" if back else "ASC"
        # Chosen first, named afterwards: the memberships of who is removed go with him.
        statement = (
            f"{IN_TENANT} SELECT m.group_id, g.name AS group_name, m.member_id, x.type, x.name FROM scope, LATERAL ("
            f"SELECT DISTINCT m.group_id, m.member_id FROM {_from(where)} "
            f"ORDER BY m.group_id {way}, m.member_id {way} {limit or 'OFFSET 0'}) m {_NAMES}"
        )
        rows = timed(self.run, statement, {**parameters, "tenant": self.tenant})
        return [orjson.dumps(self.wanted.apply(self._resource(*each))) for each in rows]

    def _resource(self, group: str, group_name: str, member: str, kind: str, name: str) -> dict[str, Any]:
        id = f"{group}.{member}"
        return {
            "schemas": [MEMBERSHIP],
            "id": id,
            "group": {"value": group, "$ref": location(self.base, "Group", group), "display": group_name},
            "member": {"value": member, "$ref": location(self.base, kind, member), "type": kind, "display": name},
            "meta": {
                "resourceType": "GroupMember",
                "location": location(self.base, "GroupMember", id),
                "version": etag(1),
            },
        }

    def _condition(self) -> tuple[str, Mapping[str, Any]]:
        """The filter as SQL: equalities, joined by `and`. Raises BadRequest with the scimType invalidFilter."""
        if self.filter is None:
            return "", {}
        where, parameters = "", {}
        for number, (name, value) in enumerate(_equalities(self.filter)):
            where += f" AND {_COLUMNS[name]} = %(f{number})s::text"
            parameters[f"f{number}"] = value.lower() if name == "member.type" else value
        return where, parameters


def _from(where: str) -> str:
    return _FROM.replace("<member>", _MEMBER if "x.type" in where else "") + f" {where}"


def _equalities(text: str) -> Iterator[tuple[str, str]]:
    if len(text.encode()) > LONGEST:
        raise BadRequest(f"The filter is longer than {LONGEST} bytes", scim_type="invalidFilter")
    try:
        node = scim.ScimFilter(text).ast
    except scim.SCIMException as error:
        raise refusal(error) from None
    terms: Sequence[grammar.FilterNode] = (
        node.terms if isinstance(node, grammar.LogicalExpr) and node.op.value == "and" else (node,)
    )
    for term in terms[:MOST_TERMS]:
        match term:
            case grammar.Comparison(value=str(value)) if term.op.value == "eq":
                name = str(term.attr_path).removeprefix(f"{MEMBERSHIP}:").lower()
                if name in _COLUMNS and "\0" not in value:
                    yield name, value
                    continue
        raise BadRequest(
            "Members are found by group.value, member.value, member.type and id, with eq and and",
            scim_type="invalidFilter",
        )


def _parted(id: str) -> dict[str, str]:
    group, _, member = id.partition(".")
    if not ids.is_id(group, "grp") or not ids.is_id(member):
        raise NotFound
    return {"group": group, "member": member}


def create(tenant: str, resource: scim.Resource[Any]) -> str:
    """Put a member into a group; returns the membership's id. Raises BadRequest for one that is not there, Conflict for
    one that is in the group already, and what `Directory.change_members` raises."""
    said: Any = resource
    group, member = said.group.value, said.member.value
    try:
        names = _parted(f"{group}.{member}")
        check_membership(tenant, group)
        added = Directory().change_members(group, add=[member])
    except (NotFound, ValidationFailed):
        raise BadRequest(
            "group and member name a group and a member of this tenant", scim_type="invalidValue"
        ) from None
    if not added:
        raise Conflict("The member is in the group already", scim_type="uniqueness")
    return f"{names['group']}.{names['member']}"


def check_unchanged(id: str, resource: scim.Resource[Any]) -> None:
    """Raises BadRequest with the scimType mutability when a PUT says another group or member."""
    said: Any = resource
    if f"{said.group.value}.{said.member.value}" != id:
        raise BadRequest("A membership is made and removed, never changed", scim_type="mutability")


def remove(tenant: str, id: str) -> None:
    """Take a member out of a group. Raises NotFound, and what `Directory.change_members` raises."""
    names = _parted(id)
    check_membership(tenant, names["group"])
    if not Directory().change_members(names["group"], remove=[names["member"]]):
        raise NotFound


def present(tenant: str, base: str, wanted: Projection, id: str) -> tuple[Row, bytes]:
    """A membership as it is in this unit of work. Raises NotFound."""
    return Memberships(in_unit, tenant, base, wanted).one(id)
