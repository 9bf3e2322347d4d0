"""Every request that could be made of every route: its path, its body, and the ways of naming a tenant.

Owns what stands for each parameter of each route and what a plausible body is. A route without a line here fails the
test that asks for one, so the matrix grows with the API. Who asks, and what he may see, is `holdings`' and the tests'.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson
from flask import Flask

from broker import doors, ids
from broker.doors import Route
from broker.policy import Action
from scim.archive.lines import header
from tests.archives import sealed
from tests.journeys.holdings import Holding

Things = Mapping[str, str]

ENDPOINTS = {"Users": "user", "Groups": "group", "OrganizationalUnits": "unit", "Agents": "agent"}
USER = "urn:ietf:params:scim:schemas:core:2.0:User"
ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
PATCH = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
CONTEXTS = frozenset({"chosen_tenant", "tenant_slug", "tenant_id", "partner_id", "endpoint", "name"})
"""Parameters that say where, or what is the same for everybody."""

_PARAMETER = re.compile(r"<(?:[^:<>]*(?:\([^)]*\))?:)?(\w+)>")
_ANY = re.compile(r"<any\([^)]*\):endpoint>")
_KIND = {
    "application_id": "application",
    "archive_run_id": "archive run",
    "attribute_id": "custom attribute",
    "domain_id": "domain",
    "provider_id": "provider",
    "run_id": "run",
    "account_id": "service account",
    "session_id": "session",
    "target_id": "target",
    "other_tenant_id": "tenant",
    "user_id": "member",
}
_QUERIES = {
    "principal_id": "user",
    "user_id": "user",
    "provider_id": "provider",
    "application_id": "application",
    "resource_id": "member",
    "resource": "member",
    "actor": "user",
    "client_id": "client",
    "partner_id": "partner",
}
"""Filters of lists, and what of a stranger's to ask for."""


@dataclass(frozen=True)
class Body:
    """A plausible body. `foreign`: it names things by id, which may be somebody else's; `passed_over`: a client's token
    is not refused for them, which `test_a_client_joins_nobody_of_another_tenant` looks at."""

    make: Callable[[Things], Any]
    foreign: bool = False
    passed_over: bool = False


def _patch(*operations: dict[str, Any]) -> dict[str, Any]:
    return {"schemas": [PATCH], "Operations": list(operations)}


def _managed(name: str) -> Callable[[Things], Any]:
    return lambda o: {"userName": f"{name}-{o['user'][-8:]}", ENTERPRISE: {"manager": {"value": o["member"]}}}


EMPTY_ARCHIVE = sealed([header("tnt_none", "none", {})])
NONE = Body(lambda o: None)
_SEARCH = Body(
    lambda o: {"schemas": ["urn:ietf:params:scim:api:messages:2.0:SearchRequest"], "filter": f'id eq "{o["group"]}"'}
)
BODIES: dict[tuple[str, str], Body] = {
    ("POST", "/applications"): Body(lambda o: {"name": "New", "type": "web"}),
    ("PATCH", "/applications/<application_id>"): Body(lambda o: {"name": "Changed"}),
    ("POST", "/applications/<application_id>/access"): Body(lambda o: {"tenant_id": o["tenant"]}, foreign=True),
    ("POST", "/applications/<application_id>/assignments"): Body(
        lambda o: {"principal_id": o["group"], "roles": ["reader"]}, foreign=True
    ),
    ("PATCH", "/applications/<application_id>/assignments/<assignment_id>"): Body(lambda o: {"roles": ["changed"]}),
    ("POST", "/applications/<application_id>/secrets"): Body(lambda o: {"overlap": 60}),
    ("POST", "/archive"): Body(lambda o: EMPTY_ARCHIVE),
    ("POST", "/auth/introspect"): Body(lambda o: {"token": o.get("token", "skt_nobody")}),
    ("POST", "/custom-attributes"): Body(lambda o: {"name": "newAttribute"}),
    ("PATCH", "/custom-attributes/<attribute_id>"): Body(lambda o: {"description": "Changed"}),
    ("POST", "/domains"): Body(lambda o: {"name": "new.example"}),
    ("PATCH", "/domains/<domain_id>"): Body(lambda o: {"verified": True}),
    ("POST", "/domains/<domain_id>/verify"): NONE,
    ("POST", "/identity-providers"): Body(lambda o: {"kind": "ldap", "name": "New", "config": {}}),
    ("PATCH", "/identity-providers/<provider_id>"): Body(lambda o: {"name": "Changed"}),
    ("POST", "/identity-providers/<provider_id>/sync"): Body(lambda o: {"dry_run": True}),
    ("POST", "/identity-providers/<provider_id>/test"): NONE,
    ("POST", "/partners"): Body(lambda o: {"name": "New", "slug": "new-" + ids.new("prt")[-8:]}),
    ("PATCH", "/partners/<partner_id>"): Body(lambda o: {"name": "Changed"}),
    ("PATCH", "/partners/<partner_id>/settings"): Body(lambda o: {"access_token_lifetime": 900}),
    ("POST", "/personal-access-tokens"): Body(lambda o: {"name": "New", "user_id": o["user"]}, foreign=True),
    ("PATCH", "/platform/settings"): Body(lambda o: {"access_token_lifetime": 1_200}),
    ("POST", "/role-assignments"): Body(lambda o: {"role": "tenant_admin", "principal_id": o["user"]}, foreign=True),
    ("POST", "/scim-targets"): Body(
        lambda o: {
            "application_id": o["application"],
            "base_url": "https://wiki.example/scim",
            "auth": {"method": "bearer", "token": "secret"},
        },
        foreign=True,
    ),
    ("PATCH", "/scim-targets/<target_id>"): Body(lambda o: {"status": "paused"}),
    ("POST", "/scim-targets/<target_id>/preview"): Body(lambda o: {"limit": 1}),
    ("POST", "/scim-targets/<target_id>/reconcile"): Body(lambda o: {"policy": "report"}),
    ("POST", "/scim-targets/<target_id>/drift/ignore"): Body(
        lambda o: {"resource_type": "User", "key": "none", "ignored": True}
    ),
    ("POST", "/scim-targets/<target_id>/resume"): Body(lambda o: {"removals": "reject"}),
    ("POST", "/scim-tokens"): Body(lambda o: {"name": "New", "identity_provider_id": o["provider"]}, foreign=True),
    ("PATCH", "/scim-tokens/<token_id>"): Body(lambda o: {"name": "Changed"}),
    ("POST", "/scim-tokens/<token_id>/rotate"): Body(lambda o: {"overlap": 60}),
    ("POST", "/service-accounts"): Body(lambda o: {"name": "new", "audiences": ["scaikey"]}),
    ("PATCH", "/service-accounts/<account_id>"): Body(lambda o: {"enabled": False}),
    ("POST", "/service-accounts/<account_id>/secrets"): Body(lambda o: {"overlap": 60}),
    ("POST", "/sync-runs/<run_id>/approve"): NONE,
    ("POST", "/sync-runs/<run_id>/cancel"): NONE,
    ("POST", "/sync-runs/<run_id>/reject"): NONE,
    ("POST", "/tenants"): Body(
        lambda o: {"name": "New", "slug": "new-" + ids.new("tnt")[-8:], "partner_id": o["partner"]}, foreign=True
    ),
    ("PATCH", "/tenants/<tenant_id>"): Body(lambda o: {"name": "Changed"}),
    ("PATCH", "/tenants/<tenant_id>/settings"): Body(lambda o: {"access_token_lifetime": 600}),
    ("PUT", "/users/<user_id>/password"): Body(lambda o: {"password": "correct horse battery"}),
    ("POST", "/Bulk"): Body(
        lambda o: {
            "schemas": ["urn:ietf:params:scim:api:messages:2.0:BulkRequest"],
            "Operations": [{"method": "POST", "path": "/Groups", "bulkId": "1", "data": {"displayName": "In bulk"}}],
        }
    ),
    ("POST", "/GroupMembers"): Body(
        lambda o: {"group": {"value": o["crowd"]}, "member": {"value": o["user"]}}, foreign=True
    ),
    ("PUT", "/GroupMembers/<id>"): Body(
        lambda o: {"group": {"value": o["crowd"]}, "member": {"value": o["member"]}}, foreign=True
    ),
    ("POST", "/GroupMembers/.search"): _SEARCH,
    ("PUT", "/Me"): Body(_managed("me")),
    ("PATCH", "/Me"): Body(lambda o: _patch({"op": "replace", "path": "title", "value": "Changed"})),
    ("POST", "/.search"): _SEARCH,
    ("POST", "/Users/.search"): _SEARCH,
    ("POST", "/Groups/.search"): _SEARCH,
    ("POST", "/OrganizationalUnits/.search"): _SEARCH,
    ("POST", "/Agents/.search"): _SEARCH,
    ("POST", "/Users"): Body(_managed("made"), foreign=True, passed_over=True),
    ("PUT", "/Users/<id>"): Body(_managed("said-anew"), foreign=True, passed_over=True),
    ("PATCH", "/Users/<id>"): Body(
        lambda o: _patch({"op": "replace", "path": f"{ENTERPRISE}:manager", "value": {"value": o["member"]}}),
        foreign=True,
        passed_over=True,
    ),
    ("POST", "/Groups"): Body(
        lambda o: {"displayName": "New", "members": [{"value": o["user"]}, {"value": o["group"]}]},
        foreign=True,
        passed_over=True,
    ),
    ("PUT", "/Groups/<id>"): Body(
        lambda o: {"displayName": "Changed", "members": [{"value": o["user"]}]}, foreign=True
    ),
    ("PATCH", "/Groups/<id>"): Body(
        lambda o: _patch({"op": "add", "path": "members", "value": [{"value": o["user"]}]}),
        foreign=True,
        passed_over=True,
    ),
    ("POST", "/OrganizationalUnits"): Body(
        lambda o: {"displayName": "New", "parent": {"value": o["unit"]}}, foreign=True, passed_over=True
    ),
    ("POST", "/Agents"): Body(
        lambda o: {"agentUserName": "new-" + ids.new("agt")[-8:], "owners": [{"value": o["user"]}]}, foreign=True
    ),
    ("PUT", "/Agents/<id>"): Body(
        lambda o: {"agentUserName": "said-" + ids.new("agt")[-8:], "owners": [{"value": o["member"]}]}, foreign=True
    ),
    ("PATCH", "/Agents/<id>"): Body(
        lambda o: _patch({"op": "add", "path": "owners", "value": [{"value": o["user"]}]}), foreign=True
    ),
    ("PUT", "/OrganizationalUnits/<id>"): Body(lambda o: {"displayName": "Changed"}),
    ("PATCH", "/OrganizationalUnits/<id>"): Body(
        lambda o: _patch({"op": "replace", "path": "displayName", "value": "Changed again"})
    ),
}


@dataclass(frozen=True)
class Template:
    """One route with one method (and, for SCIM, one type of resource)."""

    route: Route
    method: str
    rule: str
    served: bool

    @property
    def key(self) -> tuple[str, str]:
        return self.method, self.rule

    @property
    def path_kinds(self) -> dict[str, str]:
        """Parameter → kind of thing, for those that name things."""
        return {name: self._kind(name) for name in _PARAMETER.findall(self.rule) if name not in CONTEXTS}

    def _kind(self, name: str) -> str:
        match name:
            case "token_id":
                return "pat" if "personal" in self.rule else "scim token"
            case "assignment_id":
                return "role assignment" if "role-" in self.rule else "assignment"
            case "id" if self.rule.startswith("/GroupMembers"):
                return "membership"
            case "id":
                return ENDPOINTS.get(self.rule.split("/")[1], "user")
        return _KIND[name]

    @property
    def body(self) -> Body:
        return BODIES[self.key] if self.method in ("POST", "PUT", "PATCH") and self.served else NONE

    @property
    def names_things(self) -> bool:
        return bool(self.path_kinds) or self.body.foreign

    @property
    def filters(self) -> dict[str, str]:
        """Query parameter → kind of thing, of a list."""
        found = {name: _QUERIES[name] for name in self.route.deed.about.query if name in _QUERIES}
        return found if self.method == "GET" else {}

    def __str__(self) -> str:
        return f"{self.method} {self.rule}"


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    body: bytes | None

    @property
    def text(self) -> str:
        said = " ".join(f"{name}: {value}" for name, value in self.headers if name != "Authorization")
        return f"{self.method} {self.path}?{self.query} {said} {(self.body or b'').decode()}"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def text(self) -> str:
        return "\n".join(f"{name}: {value}" for name, value in self.headers) + "\n" + self.body.decode()

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


def templates(app: Flask) -> Iterator[Template]:
    """Every route that acts somewhere. The form under `/t/<tenant>` is a way of naming the tenant, no other route."""
    for route in doors.routes(app):
        if route.action is Action.NOTHING_SECRET or "/t/<chosen_tenant>" in route.rule:
            continue
        rule = route.rule.removeprefix("/scim/v2/<tenant_slug>").removeprefix("/api/v1")
        served = not route.endpoint.endswith("_not_served")
        for endpoint in ENDPOINTS if "endpoint>" in rule else ("",):
            for method in sorted(route.methods):
                yield Template(route, method, _ANY.sub(endpoint, rule), served)


WAYS: Mapping[str, tuple[str, ...]] = {
    "tenant": ("header", "prefix"),
    "own": ("header", "prefix"),
    "self": ("",),
    "slug": ("slug",),
    "partner": ("path",),
    "platform": ("",),
    "reach": ("",),
}


def compose(
    template: Template,
    *,
    token: str | None,
    place: Things | Holding | None,
    way: str,
    path: Things,
    body: Things | None = None,
    query: str = "",
    headers: tuple[tuple[str, str], ...] = (),
) -> Request:
    """One request. `place`: the tenant or partner it wants to act in, None for the credential's own; `path` and
    `body`: whose things it names."""
    where = dict(place.things) | {"slug": place.slug} if isinstance(place, Holding) else dict(place or {})
    rule, sent = template.rule, list(headers)
    if token is not None:
        sent.append(("Authorization", f"Bearer {token}"))
    if "<tenant_id>" in rule:
        rule = rule.replace("<tenant_id>", where["tenant"])
        if way == "header":
            sent.append(("X-Tenant-ID", where["tenant"]))
    elif "<partner_id>" in rule:
        rule = rule.replace("<partner_id>", where["partner"])
    elif where and way == "header":
        sent.append(("X-Tenant-ID", where["tenant"]))
    elif where and way == "prefix":
        rule = f"/t/{where['tenant']}{rule}"
    for name, kind in template.path_kinds.items():
        whose = body if name == "other_tenant_id" and body is not None else path
        rule = re.sub(rf"<(?:[^<>]*:)?{name}>", whose[kind], rule)
    rule = rule.replace("Schemas/<name>", f"Schemas/{USER}").replace("<name>", "User")
    prefix = f"/scim/v2/{where['slug']}" if template.route.context == "slug" else "/api/v1"
    content = template.body.make(body if body is not None else path)
    if content is None or isinstance(content, bytes):
        encoded: bytes | None = content
    else:
        encoded = orjson.dumps(content)
    if content is not None:
        sent.append(("Content-Type", "application/x-ndjson" if encoded is content else "application/json"))
    return Request(template.method, prefix + rule, query, tuple(sent), encoded)


def knock(app: Flask, request: Request) -> Answer:
    """Send a request straight into the app: a test client costs as much as what it asks for."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(request.path).decode("latin-1"),
        "QUERY_STRING": request.query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "8080",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "localhost:8080",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(request.body or b""),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in request.headers:
        key = name.upper().replace("-", "_")
        environ[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value
    if request.body is not None:
        environ["CONTENT_LENGTH"] = str(len(request.body))
    said: list[Any] = []
    chunks = app.wsgi_app(environ, lambda status, headers, exc_info=None: said.extend((status, headers)) or bytearray)
    try:
        body = b"".join(chunks)
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()
    return Answer(int(said[0].partition(" ")[0]), tuple(said[1]), body)
