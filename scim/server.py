"""The SCIM door: `/scim/v2/{slug}`.

Owns the routes, what of a request is read (query, body, conditional headers) and how answers look. Reads go from
stored bytes to the socket in one round trip after the credential's; writes run in the door's transaction through
scim2-models and `Directory`. What is not served is not announced, and answers 501.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson
import scim2_models as scim
from flask import Response, g, request
from scim2_server.conditions import Conditions

from broker import access, allowance, running, settings
from broker.context import Actor, current_actor
from broker.db import hot, unit
from broker.doors import About, Door, json_body, scope
from broker.errors import BadRequest, Forbidden, NotFound, NotImplementedHere, Problem
from broker.policy import Action, authorize

from . import announcing, bulk, reading, strict
from .asking import Query, Walk, from_arguments, from_message, page_by_index
from .declared import OURS, Models, build, models_of, remembered
from .dialects import STRICT
from .filters import conditions
from .memberships import Memberships
from .operations import MEMBER, Done, Writer, refused
from .patch import check, service
from .problems import body_of, refusal, status_of
from .resources import Projection, Row, cursor_listing, etag, listing, location, projection
from .schemas import ENDPOINTS, MAX_BULK_BYTES, MAX_BYTES, MEDIA_TYPE, RESOURCE_TYPES, TYPE_AT
from .sorting import sort_keys
from .walking import Branch, Listing

_RESOURCES = f"/<any({','.join(TYPE_AT)}):endpoint>"


def render(problem: Problem) -> Response:
    return Response(body_of(problem), status_of(problem)[0], content_type=MEDIA_TYPE)


def remember(actor: Actor, problem: Problem) -> None:
    """A write that was refused, in the log of the tenant it was for; where none was reached, of whose the credential
    is."""
    place = scope() if "scaikey_scope" in g else access.own_scope(actor) if actor.tenant_id is not None else None
    if place is not None:
        said = request.view_args or {}
        first = "".join(request.path.split("/")[4:5])
        resource_type = "User" if first == "Me" else MEMBER if first == ENDPOINTS[MEMBER] else TYPE_AT.get(first)
        refused(place, actor, request.method, resource_type, actor.id if first == "Me" else said.get("id", ""), problem)


door = Door(
    "scim",
    url_prefix="/scim/v2/<tenant_slug>",
    render=render,
    max_bytes=MAX_BYTES,
    admit=allowance.take,
    refused=remember,
    unrouted=Action.DIRECTORY_WRITE,
    prepare=build,
    slash_at_the_end=True,
)


@door.route(f"{_RESOURCES}/<id>", action=Action.DIRECTORY_READ, context="slug", transaction=False)
def read(endpoint: str, id: str) -> Response:
    """One resource (RFC 7644 §3.4.1)."""
    row, body = reading.one(hot, _tenant(), _base(), _wishes(endpoint), id)
    return _shown(TYPE_AT[endpoint], row, body)


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
    return _done(TYPE_AT[endpoint], _writer().create(_wishes(endpoint), _body()))


@door.route(f"{_RESOURCES}/<id>", methods=["PUT"], action=Action.DIRECTORY_WRITE, context="slug")
def replace(endpoint: str, id: str) -> Response:
    """A resource said anew (RFC 7644 §3.5.1). What an upstream owns and the request leaves out stays."""
    return _done(TYPE_AT[endpoint], _writer().replace(_wishes(endpoint), id, _body(), _conditions() or Conditions()))


@door.route(f"{_RESOURCES}/<id>", methods=["PATCH"], action=Action.DIRECTORY_WRITE, context="slug")
def modify(endpoint: str, id: str) -> Response:
    """Some of a resource changed (RFC 7644 §3.5.2); a group of very many members is not shown in answer."""
    return _done(TYPE_AT[endpoint], _writer().modify(_wishes(endpoint), id, _body(), _conditions() or Conditions()))


@door.route(f"{_RESOURCES}/<id>", methods=["DELETE"], action=Action.DIRECTORY_WRITE, context="slug")
def remove(endpoint: str, id: str) -> Response:
    """A resource removed (RFC 7644 §3.6)."""
    return _done(TYPE_AT[endpoint], _writer().remove(TYPE_AT[endpoint], id, _conditions() or Conditions()))


@door.route(
    "/Bulk",
    methods=["POST"],
    action=Action.DIRECTORY_WRITE,
    context="slug",
    transaction=False,
    max_bytes=MAX_BULK_BYTES,
)
def in_bulk() -> Response:
    """Many writes, each in a transaction of its own (RFC 7644 §3.7)."""
    return Response(bulk.run(_writer(), _body(MAX_BULK_BYTES)), content_type=MEDIA_TYPE)


@door.route("/Me", action=Action.DIRECTORY_READ, context="slug", transaction=False)
def read_me() -> Response:
    """The person whose credential it is (RFC 7644 §3.11)."""
    return read("Users", _me())


@door.route("/Me", methods=["PUT"], action=Action.DIRECTORY_WRITE, context="slug")
def replace_me() -> Response:
    """The person whose credential it is, said anew."""
    return replace("Users", _me())


@door.route("/Me", methods=["PATCH"], action=Action.DIRECTORY_WRITE, context="slug")
def modify_me() -> Response:
    """Some of the person whose credential it is changed."""
    return modify("Users", _me())


@door.route("/GroupMembers", action=Action.DIRECTORY_READ, context="slug", transaction=False)
def list_members() -> Response:
    """A page of who is in which group."""
    return _list_members(from_arguments(request.args))


@door.route("/GroupMembers/.search", methods=["POST"], action=Action.DIRECTORY_READ, context="slug", transaction=False)
def search_members() -> Response:
    """A page of who is in which group, asked for in a message."""
    return _list_members(from_message(_body()))


@door.route("/GroupMembers/<id>", action=Action.DIRECTORY_READ, context="slug", transaction=False)
def read_member(id: str) -> Response:
    """One member of one group."""
    row, body = Memberships(hot, _tenant(), _base(), _wishes_of(MEMBER)).one(id)
    return _shown(MEMBER, row, body)


@door.route("/GroupMembers", methods=["POST"], action=Action.DIRECTORY_WRITE, context="slug")
def add_member() -> Response:
    """A member put into a group."""
    return _done(MEMBER, _writer().create(_wishes_of(MEMBER), _body()))


@door.route("/GroupMembers/<id>", methods=["PUT"], action=Action.DIRECTORY_WRITE, context="slug")
def replace_member(id: str) -> Response:
    """The same membership said again: it never changes."""
    return _done(MEMBER, _writer().replace(_wishes_of(MEMBER), id, _body(), _conditions() or Conditions()))


@door.route("/GroupMembers/<id>", methods=["DELETE"], action=Action.DIRECTORY_WRITE, context="slug")
def remove_member(id: str) -> Response:
    """A member taken out of a group."""
    return _done(MEMBER, _writer().remove(MEMBER, id, _conditions() or Conditions()))


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


door.route(
    "/Me",
    methods=("POST", "DELETE"),
    action=Action.DIRECTORY_WRITE,
    context="slug",
    transaction=False,
    about=About(announced=False),
)(_not_served)


def _list(resource_types: Sequence[str], query: Query) -> Response:
    """The page that a query asks for: of one type by index, which is most of them, or of a walk."""
    tenant, base, models = _tenant(), _base(), models_of(scope())
    if query.filter is not None and _is_strict():
        strict.check_filter(query.filter)
    if query.cursor is None and len(resource_types) == 1:
        page = page_by_index(hot, tenant, base, resource_types[0], query, models)
        return Response(page, content_type=MEDIA_TYPE)
    wanted = [projection(name, query.attributes, query.excluded, models) for name in resource_types]
    filters = conditions(resource_types, query.filter, models) if query.filter is not None else [None] * len(wanted)
    keys = sort_keys(resource_types, query.sort_by, models) if query.sort_by else [(None, False)] * len(wanted)
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


def _list_members(query: Query) -> Response:
    if query.sort_by is not None:
        raise BadRequest("Members are in the order of their groups and themselves", scim_type="invalidPath")
    tenant = _tenant()
    wanted = projection(MEMBER, query.attributes, query.excluded)
    found = Memberships(hot, tenant, _base(), wanted, query.filter)
    if query.cursor is None:
        resources, total = found.page(query.start, query.size)
        return Response(listing(resources, total, query.start), content_type=MEDIA_TYPE)
    walk = Walk(running.config().secret_key, tenant, (MEMBER,), query)
    place, count, _ = walk.opened()
    stage = found.stage(place, count)
    body = cursor_listing(stage.resources, None, *walk.sealed(stage, count))
    return Response(body, content_type=MEDIA_TYPE)


def _discovery(what: str, name: str | None = None) -> Response:
    if "filter" in request.args:
        raise Forbidden("Discovery endpoints are not filtered")
    unique = what == "Schemas" and _group_names_are_unique()
    body = _discovered(models_of(scope()), _base(), what, name, _is_strict(), unique)
    return Response(body, content_type=MEDIA_TYPE)


def _group_names_are_unique() -> bool:
    with unit(scope()):
        return bool(settings.of(scope(), "scim_unique_group_names"))


@remembered(1_024)
def _discovered(
    models: Models, base: str, what: str, name: str | None, is_strict: bool, unique_group_names: bool
) -> bytes:
    place = f"{base}/{what}"
    try:
        match what, name:
            case "ServiceProviderConfig", _:
                found = service(models).service_provider_config(place, {})
            case "ResourceTypes", None:
                found = service(models).resource_types(place, {})
            case "ResourceTypes", str(known):
                found = service(models).resource_type(f"{place}/{known}", known, {})
            case _, None:
                found = service(models).schemas(place, {})
            case _, str(known):
                found = service(models).schema(f"{place}/{known}", known, {})
    except scim.SCIMException as error:
        raise refusal(error) from None
    body = found.body or {}
    if what == "Schemas":
        announcing.schemas(body, strict=is_strict, unique_group_names=unique_group_names)
    if what == "ServiceProviderConfig" and is_strict:
        body |= {"etag": {"supported": False}, "interopProfileConformant": True}
    return orjson.dumps(body)


def _is_strict() -> bool:
    return current_actor().mode == STRICT


def _tenant() -> str:
    tenant = scope().tenant_id
    assert tenant is not None
    return tenant


def _base() -> str:
    return f"{running.config().base_url}/scim/v2/{scope().slug}"


def _writer() -> Writer:
    return Writer(scope(), _base(), _pins())


def _me() -> str:
    """The id of the person who asks. Raises NotFound for a credential that is nobody's."""
    actor = current_actor()
    if actor.kind != "user":
        raise NotFound("The credential is no person's")
    return actor.id


def _body(max_bytes: int = MAX_BYTES) -> object:
    media_types = (MEDIA_TYPE,) if _is_strict() else (MEDIA_TYPE, "application/json")
    return json_body(media_types=media_types, max_bytes=max_bytes)


def _wishes(endpoint: str) -> Projection:
    return _wishes_of(TYPE_AT[endpoint])


def _wishes_of(resource_type: str) -> Projection:
    attributes, excluded = request.args.get("attributes"), request.args.get("excludedAttributes")
    return projection(resource_type, attributes, excluded, models_of(scope()) if attributes or excluded else OURS)


def _conditions() -> Conditions | None:
    """The conditional headers, when there are any. The interoperability profile knows none."""
    if _is_strict():
        return None
    if_match, if_none_match = request.headers.get("If-Match"), request.headers.get("If-None-Match")
    return None if if_match is None and if_none_match is None else Conditions(if_match, if_none_match)


def _pins() -> bool:
    """Whether the values written are to stand above the upstreams: an administrator's, never a SCIM token's."""
    if request.args.get("pin", "false").lower() != "true":
        return False
    authorize(current_actor(), Action.DIRECTORY_PIN, scope(), visible=True)
    return True


def _done(resource_type: str, done: Done) -> Response:
    if done.row is None:
        return Response(status=done.status)
    if done.body is None:
        return Response(status=done.status, headers=_tag(done.row))
    response = _answer(resource_type, done.row, done.body, done.status)
    if done.status == 201:
        response.headers["Location"] = response.headers["Content-Location"]
    return response


def _shown(resource_type: str, row: Row, body: bytes) -> Response:
    """The answer to a GET, which may be that nothing has changed."""
    conditions = _conditions()
    if conditions is not None and not check(conditions, row.version, "GET"):
        return Response(status=304, headers={"ETag": etag(row.version)})
    return _answer(resource_type, row, body)


def _tag(row: Row) -> dict[str, str]:
    return {} if _is_strict() else {"ETag": etag(row.version)}


def _answer(resource_type: str, row: Row, body: bytes, status: int = 200) -> Response:
    headers = {**_tag(row), "Content-Location": location(_base(), resource_type, row.id)}
    if row.more:
        headers["Link"] = f"<{_base()}/GroupMembers?cursor=&filter=group.value%20eq%20%22{row.id}%22>; rel=members"
    return Response(body, status, headers, content_type=MEDIA_TYPE)
