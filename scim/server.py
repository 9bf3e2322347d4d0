"""The SCIM door: `/scim/v2/{slug}`.

Owns the routes, what of a request is read (query, body, conditional headers) and how answers look. Reads go from
stored bytes to the socket in one round trip after the credential's; writes run in the door's transaction through
scim2-models and `Directory`. What is not served is not announced, and answers 501.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import orjson
import scim2_models as scim
from flask import Response, request
from scim2_server.conditions import Conditions

from broker import ids, running
from broker.context import current_actor
from broker.db import hot
from broker.directory import Directory
from broker.doors import About, Door, json_body, scope
from broker.errors import Forbidden, NotFound, NotImplementedHere, Problem
from broker.policy import Action, authorize

from . import reading, schemas, storage
from .asking import Query, Walk, from_arguments, from_message
from .filters import conditions
from .patch import SERVICE, check, drop_members, patch
from .problems import body_of, refusal, status_of
from .reading import PREFIX, in_unit
from .resources import Projection, Row, cursor_listing, etag, listing, location, projection
from .schemas import ENDPOINTS, RESOURCE_TYPES, TYPE_AT
from .sorting import order, sort_keys
from .walking import Branch, Listing

MEDIA_TYPE = "application/scim+json"
MAX_BYTES = 1 << 20

_RESOURCES = f"/<any({','.join(ENDPOINTS.values())}):endpoint>"
_EVERY_METHOD = ("GET", "POST", "PUT", "PATCH", "DELETE")


def render(problem: Problem) -> Response:
    return Response(body_of(problem), status_of(problem)[0], content_type=MEDIA_TYPE)


door = Door("scim", url_prefix="/scim/v2/<tenant_slug>", render=render, max_bytes=MAX_BYTES)


@door.route(f"{_RESOURCES}/<id>", action=Action.DIRECTORY_READ, context="slug", transaction=False)
def read(endpoint: str, id: str) -> Response:
    """One resource (RFC 7644 §3.4.1)."""
    row, body = reading.one(hot, _tenant(), _base(), _wishes(endpoint), id)
    conditions = _conditions()
    if conditions is not None and not check(conditions, row.version, "GET"):
        return Response(status=304, headers={"ETag": etag(row.version)})
    return _answer(TYPE_AT[endpoint], row, body)


@door.route(_RESOURCES, action=Action.DIRECTORY_READ, context="slug", transaction=False)
def search(endpoint: str) -> Response:
    """A page of the resources of one type (RFC 7644 §3.4.2)."""
    return _list((TYPE_AT[endpoint],), from_arguments(request.args))


@door.route(f"{_RESOURCES}/.search", methods=["POST"], action=Action.DIRECTORY_READ, context="slug", transaction=False)
def search_by_message(endpoint: str) -> Response:
    """A page of the resources of one type, asked for in a message (RFC 7644 §3.4.3)."""
    return _list((TYPE_AT[endpoint],), from_message(_body()))


@door.route("", action=Action.DIRECTORY_READ, context="slug", transaction=False)
def search_everything() -> Response:
    """A page of the resources of all types (RFC 7644 §3.4.2.1)."""
    return _list(RESOURCE_TYPES, from_arguments(request.args))


@door.route("/.search", methods=["POST"], action=Action.DIRECTORY_READ, context="slug", transaction=False)
def search_everything_by_message() -> Response:
    """A page of the resources of all types, asked for in a message (RFC 7644 §3.4.3)."""
    return _list(RESOURCE_TYPES, from_message(_body()))


@door.route(_RESOURCES, methods=["POST"], action=Action.DIRECTORY_WRITE, context="slug")
def create(endpoint: str) -> Response:
    """A new resource (RFC 7644 §3.3)."""
    resource_type = TYPE_AT[endpoint]
    resource = schemas.read(resource_type, _body(), scim.Context.RESOURCE_CREATION_REQUEST)
    made = storage.create(resource_type, resource)
    row, body = reading.new(in_unit, _tenant(), _base(), _wishes(endpoint), made)
    response = _answer(resource_type, row, body, 201)
    response.headers["Location"] = location(_base(), resource_type, row.id)
    return response


@door.route(f"{_RESOURCES}/<id>", methods=["PUT"], action=Action.DIRECTORY_WRITE, context="slug")
def replace(endpoint: str, id: str) -> Response:
    """A resource said anew (RFC 7644 §3.5.1). What an upstream owns and the request leaves out stays."""
    resource_type, pin, wishes = TYPE_AT[endpoint], _pins(), _wishes(endpoint)
    resource = schemas.read(resource_type, _body(), scim.Context.RESOURCE_REPLACEMENT_REQUEST)
    locked = storage.lock(_tenant(), resource_type, id)
    check(_conditions() or Conditions(), locked.version, "PUT")
    storage.write_over(resource_type, id, locked, resource, complete=False, pin=pin)
    if resource_type == "Group" and not getattr(resource, "members", None):
        drop_members(_tenant(), id)
    return _answer(resource_type, *reading.one(in_unit, _tenant(), _base(), wishes, id))


@door.route(f"{_RESOURCES}/<id>", methods=["PATCH"], action=Action.DIRECTORY_WRITE, context="slug")
def modify(endpoint: str, id: str) -> Response:
    """Some of a resource changed (RFC 7644 §3.5.2); a group of very many members is not shown in answer."""
    resource_type, pin, wishes, tenant = TYPE_AT[endpoint], _pins(), _wishes(endpoint), _tenant()
    if not ids.is_id(id, PREFIX[resource_type]):
        raise NotFound
    patch(scope(), _base(), resource_type, id, _body(), _conditions() or Conditions(), pin=pin)
    if resource_type == "Group" and wishes.lists and reading.has_many_members(in_unit, tenant, id):
        row = reading.row(in_unit, tenant, _base(), resource_type, id, lists=False)
        return Response(status=204, headers={"ETag": etag(row.version)})
    return _answer(resource_type, *reading.one(in_unit, tenant, _base(), wishes, id))


@door.route(f"{_RESOURCES}/<id>", methods=["DELETE"], action=Action.DIRECTORY_WRITE, context="slug")
def remove(endpoint: str, id: str) -> Response:
    """A resource removed (RFC 7644 §3.6)."""
    resource_type, tenant = TYPE_AT[endpoint], _tenant()
    locked = storage.lock(tenant, resource_type, id)
    check(_conditions() or Conditions(), locked.version, "DELETE")
    storage.check_token(tenant, id)
    if locked.user_type == storage.SERVICE_ACCOUNT:
        raise Forbidden("Service accounts are not removed by SCIM")
    Directory().remove(resource_type, id)
    return Response(status=204)


@door.route("/ServiceProviderConfig", action=Action.DIRECTORY_READ, context="slug", transaction=False)
def service_provider_config() -> Response:
    """What this server can do (RFC 7643 §5)."""
    return _discovery("ServiceProviderConfig")


@door.route("/ResourceTypes", action=Action.DIRECTORY_READ, context="slug", transaction=False)
def resource_types() -> Response:
    """The types of resources served (RFC 7643 §6)."""
    return _discovery("ResourceTypes")


@door.route("/ResourceTypes/<name>", action=Action.DIRECTORY_READ, context="slug", transaction=False)
def resource_type(name: str) -> Response:
    """One type of resources."""
    return _discovery("ResourceTypes", name)


@door.route("/Schemas", action=Action.DIRECTORY_READ, context="slug", transaction=False)
def all_schemas() -> Response:
    """The schemas of all resources (RFC 7643 §7)."""
    return _discovery("Schemas")


@door.route("/Schemas/<name>", action=Action.DIRECTORY_READ, context="slug", transaction=False)
def schema(name: str) -> Response:
    """One schema."""
    return _discovery("Schemas", name)


def _not_served(**arguments: str) -> Response:
    """Not served, and not announced."""
    raise NotImplementedHere


for rule in ("/Me", "/Bulk", "/Agents", "/Agents/<id>"):
    door.route(
        rule,
        methods=_EVERY_METHOD,
        action=Action.DIRECTORY_READ,
        context="slug",
        transaction=False,
        about=About(announced=False),
    )(_not_served)


def _list(resource_types: Sequence[str], query: Query) -> Response:
    """The page that a query asks for: of one type by index, which is most of them, or of a walk."""
    tenant, base = _tenant(), _base()
    wanted = [projection(name, query.attributes, query.excluded) for name in resource_types]
    filters = conditions(resource_types, query.filter) if query.filter is not None else [None] * len(wanted)
    if query.cursor is None and len(wanted) == 1:
        sorted_by = order(resource_types[0], query.sort_by, query.descending) if query.sort_by else None
        page = reading.page(
            hot, tenant, base, wanted[0], condition=filters[0], order=sorted_by, start=query.start, count=query.size
        )
        return Response(listing(page.resources, page.total, query.start), content_type=MEDIA_TYPE)
    keys = sort_keys(resource_types, query.sort_by) if query.sort_by else [(None, False)] * len(wanted)
    branches = [Branch(one, where, *key) for one, where, key in zip(wanted, filters, keys, strict=True)]
    found = Listing(hot, tenant, base, branches, query.descending)
    if query.cursor is None:
        resources, total = found.page(query.start, query.size)
        return Response(listing(resources, total, query.start), content_type=MEDIA_TYPE)
    walk = Walk(running.config().secret_key, tenant, resource_types, query)
    place, count, total_then = walk.opened()
    stage = found.stage(place, count, total_then)
    body = cursor_listing(stage.resources, stage.total, *walk.sealed(stage, count))
    return Response(body, content_type=MEDIA_TYPE)


def _discovery(what: str, name: str | None = None) -> Response:
    if "filter" in request.args:
        raise Forbidden("Discovery endpoints are not filtered")
    return Response(_discovered(_base(), what, name), content_type=MEDIA_TYPE)


@lru_cache(maxsize=1_024)
def _discovered(base: str, what: str, name: str | None) -> bytes:
    place = f"{base}/{what}"
    try:
        match what, name:
            case "ServiceProviderConfig", _:
                found = SERVICE.service_provider_config(place, {})
            case "ResourceTypes", None:
                found = SERVICE.resource_types(place, {})
            case "ResourceTypes", str(known):
                found = SERVICE.resource_type(f"{place}/{known}", known, {})
            case _, None:
                found = SERVICE.schemas(place, {})
            case _, str(known):
                found = SERVICE.schema(f"{place}/{known}", known, {})
    except scim.SCIMException as error:
        raise refusal(error) from None
    return orjson.dumps(found.body)


def _tenant() -> str:
    tenant = scope().tenant_id
    assert tenant is not None
    return tenant


def _base() -> str:
    return f"{running.config().base_url}/scim/v2/{scope().slug}"


def _body() -> object:
    return json_body(media_types=(MEDIA_TYPE, "application/json"), max_bytes=MAX_BYTES)


def _wishes(endpoint: str) -> Projection:
    return projection(TYPE_AT[endpoint], request.args.get("attributes"), request.args.get("excludedAttributes"))


def _conditions() -> Conditions | None:
    """The conditional headers, when there are any."""
    if_match, if_none_match = request.headers.get("If-Match"), request.headers.get("If-None-Match")
    return None if if_match is None and if_none_match is None else Conditions(if_match, if_none_match)


def _pins() -> bool:
    """Whether the values written are to stand above the upstreams: an administrator's, never a SCIM token's."""
    if request.args.get("pin", "false").lower() != "true":
        return False
    authorize(current_actor(), Action.DIRECTORY_PIN, scope(), visible=True)
    return True


def _answer(resource_type: str, row: Row, body: bytes, status: int = 200) -> Response:
    headers = {"ETag": etag(row.version), "Content-Location": location(_base(), resource_type, row.id)}
    return Response(body, status, headers, content_type=MEDIA_TYPE)
