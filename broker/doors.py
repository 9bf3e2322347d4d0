"""What every door is made of: routes that name their deed, and the one way a request passes.

Owns the order of a request (who → where → may they → one transaction → answer), the choice of the tenant it
acts in, its body, and the translation of whatever goes wrong into a `Problem`. How a problem is written down
is each door's own; which doors there are is `app`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any, Literal, cast

import psycopg.errors
import sqlalchemy.exc
from flask import Blueprint, Flask, Response, after_this_request, current_app, g, request
from werkzeug.exceptions import HTTPException

from . import access, logs, strict_json
from .context import Actor, Scope, acting, current_request_id
from .db import in_one_transaction, platform_scope, unit
from .errors import (
    AuthenticationRequired,
    BadRequest,
    Conflict,
    ContextConflict,
    ContextRequired,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    Problem,
    ServiceUnavailable,
    TooManyRequests,
    UnsupportedMediaType,
)
from .policy import Action, Where, authorize
from .protocol import OUR_AUDIENCE

log = logging.getLogger("scaikey.doors")

Context = Literal["none", "self", "own", "tenant", "slug", "partner", "platform", "reach"]
"""Where a route acts.

`none`: nowhere. `self`: with whoever asks, wherever he belongs. `own`: the tenant chosen, else the credential's own.
`tenant`: the tenant in the path or chosen, else that of a tenant's own administrator. `slug`: the tenant whose slug is
in the path. `partner`: the partner in the path or chosen, else that of its own administrator. `platform`: the
installation. `reach`: wherever the actor holds a role; the view authorizes the place it acts at, or lists by
`access.reach`.
"""

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_SPANNING = frozenset[str]({"partner", "platform", "reach"})

View = Callable[..., Response]


@dataclass(frozen=True)
class About:
    """What machines are told about a route; the sentence for people is the view's docstring."""

    takes: Any = None
    gives: Any = None
    status: int = 200
    listed: bool = False
    query: Mapping[str, str] = field(default_factory=dict)
    announced: bool = True


@dataclass(frozen=True)
class Deed:
    """One route's deed: what is done, where, and whether in a transaction that spans tenants, in one, or in none."""

    action: Action
    context: Context
    spanning: bool
    transaction: bool
    about: About
    view: View
    any_audience: bool = False
    max_bytes: int | None = None


@dataclass(frozen=True)
class Route:
    """A line of the route table, for tests and documents."""

    rule: str
    methods: frozenset[str]
    action: Action
    context: Context
    door: str
    endpoint: str
    deed: Deed = field(repr=False)


class Door:
    """A blueprint whose every route names its deed and its place."""

    def __init__(
        self,
        name: str,
        *,
        url_prefix: str,
        render: Callable[[Problem], Response],
        max_bytes: int = 256 * 1024,
        authenticate: Callable[[Deed], Actor] | None = None,
        admit: Callable[[Actor], None] | None = None,
        refused: Callable[[Actor, Problem], None] | None = None,
        unrouted: Action | None = None,
        prepare: Callable[[Scope], None] | None = None,
        slash_at_the_end: bool = False,
    ) -> None:
        """`authenticate`: who asks, where it is not said by a bearer token (a browser's session). `admit` may refuse
        who asks too much. `refused` is told why a change that somebody asked for was not made; also of a method that
        its path does not know, where `unrouted` is what doing it would have been. `prepare` makes ready what takes too
        long for a transaction, where it will act. `slash_at_the_end`: a path means the same with one more."""
        self.name = name
        self.url_prefix = url_prefix
        self.render = render
        self.max_bytes = max_bytes
        self._authenticate = authenticate or _by_bearer_token
        self._admit = admit
        self._refused = refused
        self._unrouted = unrouted
        self._prepare = prepare
        self._strict_slashes = not slash_at_the_end
        self.blueprint = Blueprint(name, __name__, url_prefix=url_prefix or None)
        self._guards: dict[str, tuple[Deed, View]] = {}

    def route(
        self,
        rule: str,
        *,
        methods: Sequence[str] = ("GET",),
        action: Action,
        context: Context = "tenant",
        spanning: bool | None = None,
        transaction: bool = True,
        about: About | None = None,
        any_audience: bool = False,
        max_bytes: int | None = None,
    ) -> Callable[[View], View]:
        """Register a view. `spanning` opens its transaction across tenants; `transaction=False` opens none.
        `any_audience` takes any token of ours, not only those made for this API. `max_bytes`: of a body, where the
        route takes more than its door.

        A `tenant` or `own` route without a tenant in its path is also served under `/t/<tenant>`.
        """

        if action is Action.NOTHING_SECRET and context != "none":
            raise ValueError(f"{rule} is public and cannot act anywhere")

        def register(view: View) -> View:
            deed = Deed(
                action,
                context,
                context in _SPANNING if spanning is None else spanning,
                transaction and context not in ("none", "self"),
                about or About(),
                view,
                any_audience,
                max_bytes,
            )
            endpoint = f"{view.__module__.replace('.', '_')}_{view.__name__}"
            known, call = self._guards.setdefault(endpoint, (deed, self._guard(deed)))
            if known != deed:
                raise ValueError(f"{endpoint} does two things")
            rules = [rule]
            if context in ("tenant", "own") and "<tenant_id>" not in rule:
                rules.append(f"/t/<chosen_tenant>{rule}")
            for one in rules:
                self.blueprint.add_url_rule(
                    one,
                    endpoint,
                    call,
                    methods=list(methods),
                    provide_automatic_options=False,
                    strict_slashes=self._strict_slashes,
                )
            return view

        return register

    def _guard(self, deed: Deed) -> View:
        @wraps(deed.view)
        def call(**arguments: Any) -> Response:
            request.max_content_length = deed.max_bytes or self.max_bytes
            if deed.action is Action.NOTHING_SECRET:
                return deed.view(**arguments)
            actor = self._authenticate(deed)
            if actor.kind == "anonymous":
                raise AuthenticationRequired
            if access.use_is_due(actor):
                _note_use_afterwards(actor)
            logs.bind(actor=actor.id)
            try:
                return self._pass(deed, actor, arguments)
            except Exception as error:
                if self._refused is None or deed.action.endswith(".read"):
                    raise
                problem = problem_of(error)
                self._refused(actor, problem)
                if problem is error:
                    raise
                raise problem from error

        call.deed = deed  # type: ignore[attr-defined]
        return call

    def astray(self, problem: Problem) -> Problem:
        """What to answer where the path knows no such method: whoever shows a credential is admitted as always, and
        that no change was made is told."""
        if self._refused is None or self._unrouted is None:
            return problem
        try:
            actor = access.authenticate(request.headers.get("Authorization"), audience=OUR_AUDIENCE)
            if actor.kind == "anonymous":
                return problem
            if self._admit is not None:
                self._admit(actor)
            if request.method not in _READING:
                slug = request.path.split("/")[self.url_prefix.split("/").index("<tenant_slug>")]
                with suppress(Problem):
                    _entered(access.scope_for_slug(slug, actor), actor, self._unrouted)
                self._refused(actor, problem)
        except TooManyRequests as refusal:
            return refusal
        except (Problem, sqlalchemy.exc.SQLAlchemyError, UnicodeError):
            return problem  # whoever asks
        return problem

    def _pass(self, deed: Deed, actor: Actor, arguments: dict[str, Any]) -> Response:
        if self._admit is not None:
            self._admit(actor)
        with acting(actor, current_request_id()):
            scope = _place(actor, deed, arguments)
            logs.bind(tenant=scope and scope.tenant_id)
            if self._prepare is not None and scope is not None:
                self._prepare(scope)
            if not deed.transaction:
                return deed.view(**arguments)
            # Read before the transaction opens: a slow sender must not hold one.
            request.get_data()
            begun = platform_scope if deed.spanning or scope is None else partial(unit, scope)
            return in_one_transaction(begun, lambda: deed.view(**arguments))


def _by_bearer_token(deed: Deed) -> Actor:
    audience = None if deed.any_audience else OUR_AUDIENCE
    return access.authenticate(request.headers.get("Authorization"), audience=audience)


def scope() -> Scope:
    """The scope the door chose for this request, for routes that open their transactions themselves."""
    return cast(Scope, g.scaikey_scope)


def routes(app: Flask | None = None) -> list[Route]:
    """Every route of the app, with its deed. Raises LookupError for a route that names none."""
    app = app or current_app
    table = []
    for rule in app.url_map.iter_rules():
        deed = getattr(app.view_functions[rule.endpoint], "deed", None)
        if deed is None:
            raise LookupError(f"the route {rule.rule} names no action")
        methods = frozenset(rule.methods or ()) - {"HEAD"}
        door = rule.endpoint.partition(".")[0]
        table.append(Route(rule.rule, methods, deed.action, deed.context, door, rule.endpoint, deed))
    return sorted(table, key=lambda route: (route.rule, sorted(route.methods)))


def json_body(*, media_types: Sequence[str] = ("application/json",), max_bytes: int | None = None) -> Any:
    """The request's JSON, strictly read. Raises UnsupportedMediaType, PayloadTooLarge, BadRequest."""
    if request.mimetype not in media_types or request.mimetype_params.get("charset", "utf-8").lower() != "utf-8":
        raise UnsupportedMediaType(f"Send {' or '.join(media_types)} in UTF-8")
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise UnsupportedMediaType("Compressed bodies are not taken")
    try:
        return strict_json.loads(request.get_data(), max_bytes=max_bytes or request.max_content_length or 256 * 1024)
    except strict_json.StrictJsonError as error:
        if error.kind == "too_large":
            raise PayloadTooLarge(str(error)) from None
        raise BadRequest(str(error), scim_type="invalidSyntax") from None


def problem_of(error: Exception) -> Problem:
    """What to tell the caller about any failure; what is unknown tells him nothing."""
    match error:
        case Problem():
            return error
        case HTTPException():
            return _problem_of_http(error)
        case sqlalchemy.exc.TimeoutError():
            return ServiceUnavailable("The service is busy", retry_after=1)
        case sqlalchemy.exc.DBAPIError():
            return _problem_of_database(error)
        case UnicodeEncodeError():
            return BadRequest("The request holds text that is not Unicode")
    log.error("unforeseen failure", exc_info=error, extra={"request_id": current_request_id()})
    return Problem(note=repr(error))


def _problem_of_http(error: HTTPException) -> Problem:
    match error.code:
        case 404:
            return NotFound()
        case 405:
            return MethodNotAllowed()
        case 413:
            return PayloadTooLarge()
        case 415:
            return UnsupportedMediaType()
        case code if code is not None and 400 <= code < 500:
            return BadRequest(error.description or "")
    log.error("unforeseen failure", exc_info=error, extra={"request_id": current_request_id()})
    return Problem(note=repr(error))


def _problem_of_database(error: sqlalchemy.exc.DBAPIError) -> Problem:
    cause = error.orig
    note = f"{type(cause).__name__}: {cause}"
    away = psycopg.errors.OperationalError | psycopg.errors.IdleInTransactionSessionTimeout
    if error.connection_invalidated or isinstance(cause, away):
        log.warning("the database did not answer: %s", note)
        return ServiceUnavailable("The database does not answer in time", note=note, retry_after=1)
    if isinstance(cause, psycopg.errors.UniqueViolation):
        return Conflict("Such a resource exists already", note=note, scim_type="uniqueness")
    if isinstance(cause, psycopg.errors.ForeignKeyViolation):
        return Conflict("Something this refers to has just been removed", note=note)
    if isinstance(cause, psycopg.errors.DataError):
        return BadRequest("The request holds a value that cannot be stored", note=note, scim_type="invalidValue")
    log.error("unforeseen failure", exc_info=error, extra={"request_id": current_request_id()})
    return Problem(note=note)


def _place(actor: Actor, deed: Deed, arguments: dict[str, Any]) -> Scope | None:
    """Choose where the request acts and authorize it there; the tenant's scope, or None where tenants are spanned."""
    match deed.context:
        case "none" | "platform":
            authorize(actor, deed.action, Where())
            return None
        case "self":
            authorize(actor, deed.action, Where(actor.tenant_id, actor.partner_id))
            return None
        case "reach":
            access.reach(actor, deed.action)
            return None
        case "partner":
            _at_partner(actor, deed, arguments)
            return None
        case "slug":
            found = access.scope_for_slug(arguments.pop("tenant_slug"), actor)
        case _:
            found = access.scope_for_tenant(_tenant_named(actor, deed, arguments), actor)
    return _entered(found, actor, deed.action)


def _entered(found: Scope | None, actor: Actor, action: Action) -> Scope:
    if found is None:
        raise NotFound
    authorize(actor, action, found)
    # Only now, for the answer would tell a stranger that the tenant exists.
    if request.headers.get("X-Tenant-ID", found.tenant_id) != found.tenant_id:
        raise ContextConflict("X-Tenant-ID names another tenant than the path")
    if request.headers.get("X-Partner-ID", found.partner_id) != found.partner_id:
        raise ContextConflict("X-Partner-ID is not the partner of this tenant")
    g.scaikey_scope = found
    return found


def _tenant_named(actor: Actor, deed: Deed, arguments: dict[str, Any]) -> str:
    in_path = arguments.get("tenant_id") if "<tenant_id>" in str(request.url_rule) else None
    chosen = list(_present(arguments.pop("chosen_tenant", None), request.headers.get("X-Tenant-ID")))
    if len(set(chosen)) > 1:
        raise ContextConflict
    if in_path is not None:
        return cast(str, in_path)
    wide = any(grant.role != "tenant_admin" for grant in actor.grants)
    if chosen:
        if not wide and chosen[0] != actor.tenant_id:
            raise ContextConflict("This credential acts in its own tenant only")
        return chosen[0]
    if actor.tenant_id is None or (wide and deed.context != "own"):
        raise ContextRequired("Name the tenant with X-Tenant-ID or under /api/v1/t/{tenant_id}/")
    return actor.tenant_id


def _at_partner(actor: Actor, deed: Deed, arguments: dict[str, Any]) -> None:
    named = arguments.get("partner_id") or request.headers.get("X-Partner-ID")
    if named is None:
        own = [grant.scope_id for grant in actor.grants if grant.role == "partner_admin"]
        if len(own) != 1:
            raise ContextRequired("Name the partner with X-Partner-ID")
        named = own[0]
    authorize(actor, deed.action, Where(None, named))
    if request.headers.get("X-Partner-ID", named) != named:
        raise ContextConflict("X-Partner-ID names another partner than the path")
    tenant_id = request.headers.get("X-Tenant-ID")
    if tenant_id is not None:
        found = access.scope_for_tenant(tenant_id, actor)
        if found is None or found.partner_id != named:
            raise ContextConflict("X-Tenant-ID is not a tenant of this partner")


def _present(*values: str | None) -> Iterator[str]:
    return (value for value in values if value is not None)


def _note_use_afterwards(actor: Actor) -> None:
    app = cast(Any, current_app)._get_current_object()

    def note() -> None:
        try:
            with app.app_context():
                access.note_use(actor)
        except sqlalchemy.exc.SQLAlchemyError as error:
            log.warning("the last use of %s was not noted: %s", actor.credential_id, error)

    @after_this_request
    def register(response: Response) -> Response:
        response.call_on_close(note)
        return response
