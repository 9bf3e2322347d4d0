"""What an archive says, written in sets: resources, their references, links with their records, memberships.

Owns what is compared, what is refused and what is told; the form of an archive and the order of its lines are
`scim.archive`'s. Nothing that is here is overwritten: what is equal is left, what differs is refused. A resource keeps
its version and its moments, and a group's members are no new version of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from .. import ids
from ..attributes import CUSTOM, fold
from ..db import arrays, db
from ..errors import LimitExceeded, ValidationFailed
from ..events import Changes, record
from ..models import CustomAttribute, Link, LinkRecord, Membership
from . import declarations, declared, documents, mapping, names, room, rows
from .news import Tally, shown
from .rows import LONGEST_NAME, PREFIX, Row, Unfit

Item = Mapping[str, Any]
Part = Literal["custom_attribute", "resource", "reference", "link", "membership"]


class Refusal(NamedTuple):
    """An item that was not taken; `path` is a JSON pointer into it."""

    place: int
    path: str
    detail: str


@dataclass(slots=True)
class Restored:
    """What became of a batch."""

    created: int = 0
    unchanged: int = 0
    refused: list[Refusal] = field(default_factory=list)

    def refuse(self, index: int, path: str, detail: str) -> None:
        self.refused.append(Refusal(index, path, detail))


class New(NamedTuple):
    place: int
    row: Row


# Two imports that bring the same id into two tenants come one after the other.
_ONE_AT_A_TIME = sa.text("SELECT pg_advisory_xact_lock(hashtextextended('restored ids', 0))")
_ELSEWHERE = sa.text("SELECT id FROM scaikey_find_elsewhere(CAST(:ids AS text[]))")
_TOKENS = sa.text("""
    SELECT token_key FROM resources WHERE tenant_id = :tenant AND token_key = ANY(CAST(:keys AS text[]))
""")
_TYPES = sa.text("""
    SELECT r.id, r.type FROM unnest(CAST(:ids AS text[])) AS u(id)
    JOIN resources r ON r.tenant_id = :tenant AND r.id = u.id
""")
_REFER = sa.text("""
    UPDATE resources r SET manager_id = u.manager_id, manager_ref = u.manager_ref,
                           parent_id = u.parent_id, parent_ref = u.parent_ref
    FROM unnest(CAST(:ids AS text[]), CAST(:manager_id AS text[]), CAST(:manager_ref AS text[]),
                CAST(:parent_id AS text[]), CAST(:parent_ref AS text[]))
         AS u(id, manager_id, manager_ref, parent_id, parent_ref)
    WHERE r.tenant_id = :tenant AND r.id = u.id
""")
_REFERENCES = ("manager_id", "manager_ref", "parent_id", "parent_ref")
_LINK = tuple(column.name for column in Link.__table__.columns if column.name not in ("tenant_id", "no", "seen_run"))
_LINKS = sa.select(*(getattr(Link, name) for name in _LINK), LinkRecord.record).join(
    LinkRecord, LinkRecord.link_no == Link.no
)
_MEMBERSHIP = ("group_id", "via", "kind", "member_key", "member_id", "raw", "ordinal")
_PLACE = 4
"""So many of these name a membership; the others are said of it."""


def restore(tenant: str, part: Part, items: Sequence[Item], guarded: frozenset[str]) -> Restored:
    match part:
        case "custom_attribute":
            return attributes(items)
        case "resource":
            return resources(tenant, items)
        case "reference":
            return references(tenant, items)
        case "link":
            return links(tenant, items, guarded)
        case "membership":
            return memberships(tenant, items)


def attributes(items: Sequence[Item]) -> Restored:
    """What the tenant had declared, under numbers that are free here. Raises LimitExceeded."""
    done = Restored()
    there = db.session().scalars(sa.select(CustomAttribute)).all()
    here = {(one.resource_type, one.name_key): one for one in there}
    taken = {one.id for one in there}
    for index, item in enumerate(items):
        present = here.get((item["resource_type"], item["name"].lower()))
        if present is not None and all(getattr(present, name) == item[name] for name in item if name != "id"):
            done.unchanged += 1
        elif present is not None:
            done.refuse(index, "/name", "This attribute is declared here already, and differs.")
        elif item["id"] in taken or not ids.is_id(item["id"], "att"):
            done.refuse(index, "/id", "This id is another attribute's, or none of an attribute.")
        else:
            try:
                made = declarations.declare(item)
            except ValidationFailed as wrong:
                name, said = next(iter(wrong.errors.items()))
                done.refuse(index, f"/{name}", said[0])
                continue
            here[made.resource_type, made.name_key] = made
            taken.add(made.id)
            done.created += 1
    return done


def resources(tenant: str, items: Sequence[Item]) -> Restored:
    """Raises LimitExceeded."""
    done = Restored()
    here = rows.load(tenant, [item["id"] for item in items], removed=True)
    fresh: list[New] = []
    known = declared.declared(tenant)
    for index, item in enumerate(items):
        try:
            row = _row(item)
            _check_declared(known, row)
        except Unfit as unfit:
            done.refuse(index, f"/document/{unfit.key}", unfit.detail)
            continue
        if (present := here.get(row.id)) is None:
            here[row.id] = row
            fresh.append(New(index, row))
            continue
        for name in _REFERENCES:
            setattr(row, name, getattr(present, name))
        if row == present:
            done.unchanged += 1
        else:
            done.refuse(index, "/id", "This resource is here already, and differs.")
    fresh = _nobody_elses(tenant, fresh, done)
    arriving = sum(row.counts and row.removed_at is None for _, row in fresh)
    left = room.places(tenant) if arriving else None
    if left is not None and arriving > left:
        raise LimitExceeded("max_users_per_tenant does not leave room for the people of the archive")
    rows.restore(
        tenant,
        [row for _, row in fresh],
        [items[index]["created_at"] for index, _ in fresh],
        [items[index]["updated_at"] for index, _ in fresh],
    )
    changes = Changes()
    for _, row in fresh:
        if row.removed_at is None:
            changes.add(f"{row.noun}.created", row.type, row.id)
    record(changes)
    done.created = len(fresh)
    return done


def _row(item: Item) -> Row:
    """Raises Unfit."""
    document, kind = item["document"], item["resource_type"]
    row = Row(item["id"], kind)
    if not ids.is_id(row.id, PREFIX[kind]) or document.get("id") != row.id:
        raise Unfit("id", "id", "The document's id is not the resource's, or not of its type.")
    if not isinstance(document.get("schemas"), list):
        raise Unfit("schemas", "schemas", "A document names its schemas.")
    for name in ("version", "removed_at", "active", "disabled", "active_until", "email_doubted", "local", "pins"):
        setattr(row, name, item[name])
    for name in ("local", "pins"):
        if documents.holds_nul(item[name]):
            raise Unfit(name, "control_character", f"A value of {name} holds a NUL character.")
    said = {key: item[column] for key, column in _CALLED.items()}
    rows.fit(row, {**said, rows.name_attribute(kind): item["name"]})
    row.display_name = item["display_name"]
    row.display_key = None if row.display_name is None else fold(row.display_name)[:LONGEST_NAME]
    if row.removed_at is None and document.get(rows.name_attribute(kind)) != row.name:
        raise Unfit(rows.name_attribute(kind), "no_name", "The document has another name than the resource.")
    if item["token_name"] is not None:
        row.token_name, row.token_key = item["token_name"], fold(item["token_name"])
    row.write(document)
    return row


def _check_declared(known: declared.Declarations, row: Row) -> None:
    """Raises Unfit for a value of the tenant's own that is not declared here, or not so: shown, or kept for whoever
    comes back."""
    layers = [declared.written(row.type, layer) for layer in (row.local, row.pins)]
    for document in layers if row.removed_at is not None else (row.read(), *layers):
        for name, detail in declared.faults(known, row.type, document):
            pointer = f"{CUSTOM[row.type]}/{name.replace('~', '~0').replace('/', '~1')}"
            raise Unfit(pointer.rstrip("/"), "not_declared", detail)


_CALLED = {"displayName": "display_name", "externalId": "external_id", "userType": "user_type"}


def _nobody_elses(tenant: str, fresh: Sequence[New], done: Restored) -> list[New]:
    """Those whose id, userName and token name are free."""
    if not fresh:
        return []
    session = db.session()
    session.execute(_ONE_AT_A_TIME)
    elsewhere = set(session.execute(_ELSEWHERE, arrays({"ids": [row.id for _, row in fresh]})).scalars())
    people = [row for _, row in fresh if row.type == "User" and row.removed_at is None]
    refused = names.refused(tenant, [names.Claim(row.id, row.name_key, None) for row in people])
    wanted = [row.token_key for _, row in fresh if row.token_key is not None]
    tokens = set(session.execute(_TOKENS, arrays({"tenant": tenant, "keys": wanted})).scalars())
    held = declared.held(tenant, [row for _, row in fresh if row.removed_at is None])
    taken = []
    for index, row in fresh:
        if row.id in held:
            done.refuse(index, f"/document/{CUSTOM[row.type]}/{held[row.id]}", "This value is another resource's.")
        elif row.id in elsewhere:
            done.refuse(index, "/id", "This id is another tenant's.")
        elif row.id in refused:
            done.refuse(index, "/name", "This userName is somebody else's.")
        elif row.token_key is not None and row.token_key in tokens:
            done.refuse(index, "/token_name", "This token name is another group's.")
        else:
            taken.append(New(index, row))
            tokens.add(row.token_key)
    return taken


def references(tenant: str, items: Sequence[Item]) -> Restored:
    """Managers and parents, once everybody is here."""
    done = Restored()
    here = rows.load(tenant, [item["id"] for item in items], removed=True)
    types = _types(tenant, [item[name] for item in items for name in ("manager_id", "parent_id")])
    taken = []
    for index, item in enumerate(items):
        row = here.get(item["id"])
        if row is None:
            done.refuse(index, "/id", "There is no such resource.")
        elif item["manager_id"] is not None and types.get(item["manager_id"]) != "User":
            done.refuse(index, "/manager_id", "There is no such person.")
        elif item["parent_id"] is not None and types.get(item["parent_id"]) != "OrganizationalUnit":
            done.refuse(index, "/parent_id", "There is no such unit.")
        elif all(item[name] == getattr(row, name) for name in _REFERENCES):
            done.unchanged += 1
        elif any(getattr(row, name) is not None for name in _REFERENCES):
            done.refuse(index, "/id", "This resource refers to others already, and differs.")
        else:
            taken.append(item)
    if taken:
        columns = {name: [item[name] for item in taken] for name in _REFERENCES}
        values = {"tenant": tenant, "ids": [item["id"] for item in taken], **columns}
        db.session().execute(_REFER, arrays(values))
    done.created = len(taken)
    return done


def links(tenant: str, items: Sequence[Item], guarded: frozenset[str]) -> Restored:
    """Links with their records. `guarded`: resources that only somebody wider may have linked."""
    done = Restored()
    session = db.session()
    keys = [(item["provider_id"], item["key"]) for item in items]
    found = session.execute(_LINKS.where(sa.tuple_(Link.provider_id, Link.key).in_(keys)))
    here = {(row.provider_id, row.key): row for row in found}
    types = _types(tenant, [item["resource_id"] for item in items])
    taken: list[Item] = []
    for index, (key, item) in enumerate(zip(keys, items, strict=True)):
        if (present := here.get(key)) is not None:
            if all(item[name] == getattr(present, name) for name in (*_LINK, "record")):
                done.unchanged += 1
            else:
                done.refuse(index, "/key", "This record is here already, and differs.")
        elif item["resource_id"] is not None and item["resource_id"] not in types:
            done.refuse(index, "/resource_id", "There is no such resource.")
        elif item["resource_id"] in guarded:
            done.refuse(index, "/resource_id", "Who holds a wider role is not linked by somebody with less.")
        elif mapping_fault := _record_fault(item["record"]):
            done.refuse(index, "/record", mapping_fault)
        else:
            here[key] = item  # type: ignore[assignment]
            taken.append(item)
    if taken:
        numbers = session.execute(
            insert(Link.__table__).returning(Link.__table__.c.no, sort_by_parameter_order=True),  # type: ignore[arg-type]
            [{"tenant_id": tenant, **{name: item[name] for name in _LINK}} for item in taken],
        ).scalars()
        told = zip(numbers, taken, strict=True)
        session.execute(
            insert(LinkRecord.__table__),  # type: ignore[arg-type]
            [{"tenant_id": tenant, "link_no": no, "record": item["record"]} for no, item in told],
        )
    done.created = len(taken)
    return done


def _record_fault(stored: bytes) -> str | None:
    try:
        mapping.decode_record(stored)
    except (ValueError, TypeError, KeyError, AttributeError, orjson.JSONDecodeError):
        return "This is no record."
    return None


def memberships(tenant: str, items: Sequence[Item]) -> Restored:
    """Who is in which group, and who says so. A group is told once of all that came."""
    done = Restored()
    session = db.session()
    types = _types(tenant, [item[name] for item in items for name in ("group_id", "member_id")])
    keys = [tuple(item[name] for name in _MEMBERSHIP[:_PLACE]) for item in items]
    found = session.execute(
        sa.select(*(getattr(Membership, name) for name in _MEMBERSHIP)).where(
            Membership.group_id.in_({key[0] for key in keys}), Membership.member_key.in_({key[3] for key in keys})
        )
    )
    here = {tuple(row[:_PLACE]): tuple(row) for row in found}
    taken: list[Item] = []
    for index, (key, item) in enumerate(zip(keys, items, strict=True)):
        said = tuple(item[name] for name in _MEMBERSHIP)
        if key in here:
            if here[key] == said:
                done.unchanged += 1
            else:
                done.refuse(index, "/member_key", "This membership is here already, and differs.")
        elif types.get(item["group_id"]) != "Group":
            done.refuse(index, "/group_id", "There is no such group.")
        elif item["member_id"] is not None and item["member_id"] not in types:
            done.refuse(index, "/member_id", "There is no such member.")
        elif item["via"] is None and item["member_key"] != item["member_id"]:
            done.refuse(index, "/member_key", "A membership that no upstream gave is known by its member.")
        else:
            here[key] = said
            taken.append(item)
    if taken:
        session.execute(
            insert(Membership.__table__),  # type: ignore[arg-type]
            [{"tenant_id": tenant, **{name: item[name] for name in _MEMBERSHIP}} for item in taken],
        )
        tally, changes = Tally(), Changes()
        tally.gain((item["group_id"], item["member_id"]) for item in taken)
        for group, change in shown(tenant, tally).items():
            changes.add("group.members_changed", "Group", group, change._asdict())
        record(changes)
    done.created = len(taken)
    return done


def _types(tenant: str, wanted: Sequence[str | None]) -> dict[str, str]:
    asked = list({id for id in wanted if id is not None})
    found = db.session().execute(_TYPES, arrays({"tenant": tenant, "ids": asked}))
    return {id: kind for id, kind in found}
