"""Clients: an application or a service account as one issuer sees it, found in one statement.

Owns who is within an issuer's reach, and what a client may ask for: redirect URIs, scopes, audiences, grant types. How
a client proves itself is `authentication`'s, whether it may get tokens at this moment `broker.standing`'s; both are
asked anew at every request, and nothing of a client is kept.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, LiteralString

import sqlalchemy as sa
from authlib.oauth2.rfc6749 import ClientMixin

from broker import settings
from broker.context import Scope
from broker.db import db, hot
from broker.models import Application
from broker.protocol import OFFLINE, OUR_AUDIENCE, SECRET_METHODS, STANDARD_SCOPES
from broker.standing import CLIENT_FACTS, Standing, Subject
from oidc.tokens import Issuer

USUAL_LIFETIME: int = settings.SETTINGS["access_token_lifetime"].default

_CLIENT_ID = re.compile(r"[!-~]{1,255}")
_LOOPBACK = re.compile(r"(http://(?:127\.0\.0\.1|\[::1\]))(?::([0-9]{1,5}))?((?:[/?][!-~]*)?)")
_HIGHEST_PORT = 65_535

_FIND: LiteralString = """
WITH found AS MATERIALIZED (
    SELECT f.kind, f.id, set_config('scaikey.tenant', f.tenant_id, true) AS owner
    FROM scaikey_find_client(%(client_id)s) AS f LIMIT 1
), kept AS MATERIALIZED (
    SELECT found.kind, found.id AS id, found.owner, shown.* FROM found, LATERAL (
        SELECT t.partner_id, t.kind AS tenant_kind, t.slug, t.status = 'active' AS owner_active,
            CASE found.kind
                WHEN 'application' THEN (SELECT to_jsonb(a) FROM applications a
                                         WHERE a.tenant_id = found.owner AND a.id = found.id)
                ELSE (SELECT to_jsonb(s) FROM service_accounts s
                      WHERE s.tenant_id = found.owner AND s.id = found.id) END AS fields,
            (SELECT array_agg(c.digest) FROM client_secrets c
             WHERE c.tenant_id = found.owner AND (c.application_id = found.id OR c.service_account_id = found.id)
               AND (c.expires_at IS NULL OR c.expires_at > now())) AS secrets
        FROM tenants t WHERE t.id = found.owner OFFSET 0
    ) shown
), here AS MATERIALIZED (
    SELECT kept.*, set_config('scaikey.tenant', coalesce(%(tenant)s, kept.owner), true) AS tenant FROM kept
)
SELECT facts.*, scope.*,
    (SELECT (v.value #>> '{}')::int FROM setting_values v
     WHERE v.name = 'access_token_lifetime'
       AND v.owner_id IN ('platform', (SELECT t.partner_id FROM tenants t WHERE t.id = scope.tenant), scope.tenant)
     ORDER BY v.locked DESC, CASE v.owner_id WHEN 'platform' THEN 0 WHEN scope.tenant THEN 2 ELSE 1 END
         * CASE WHEN v.locked THEN 1 ELSE -1 END
     LIMIT 1) AS usual_lifetime,
    (SELECT jsonb_object_agg(a.audience, a.scopes) FROM application_access x
     JOIN applications a ON a.tenant_id = x.owner_tenant_id AND a.id = x.application_id
     WHERE x.tenant_id = scope.tenant AND a.id <> scope.id AND jsonb_exists(
         coalesce(scope.fields -> 'allowed_audiences', scope.fields -> 'audiences'), a.audience)) AS apis
FROM here AS scope, {facts}
""".replace("{facts}", CLIENT_FACTS)
"""First as the tenant that keeps the client, whose secrets nobody else sees, then as the tenant of the issuer. Each
step needs the row of the one before, so that the tenant is set in this order. The lifetime is as `settings.of` resolves
it: the widest level that locks it, else the one nearest the tenant."""


@dataclass(frozen=True, kw_only=True)
class Client(ClientMixin):  # type: ignore[misc]
    """A client at one issuer. `scope` is the tenant it acts in here, None at the platform issuer until one is known."""

    kind: Literal["application", "service_account"]
    id: str
    client_id: str
    name: str
    owner: Scope
    scope: Scope | None
    reach: Literal["TENANT", "PARTNER", "GLOBAL"]
    type: str
    enabled: bool
    auth_methods: frozenset[str]
    secrets: Sequence[bytes]
    jwks: dict[str, Any] | None
    jwks_uri: str | None
    grant_types: Collection[str]
    redirect_uris: Sequence[str]
    post_logout_redirect_uris: Sequence[str]
    scopes: Sequence[str]
    audiences: Sequence[str]
    """The APIs it may ask for, if there still are such in the tenant; the first one is what it gets when it names
    none."""
    apis: Mapping[str, Collection[str]]
    """Of these audiences those that other applications keep, with the scopes there are."""
    access_token_alg: str
    id_token_alg: str
    access_token_lifetime: int | None
    """Seconds, where the application has its own."""
    usual_lifetime: int
    """The setting, in the tenant where the client was looked for."""
    code_lifetime: int | None
    third_party: bool
    standing: Standing
    """What `may_receive_tokens` is to judge when the client acts for itself, as read when it was found."""

    @property
    def application_id(self) -> str | None:
        return self.id if self.kind == "application" else None

    @property
    def is_public(self) -> bool:
        return "none" in self.auth_methods

    def subject(self) -> Subject:
        """Whom `may_receive_tokens` is asked about when the client acts for itself."""
        if self.kind == "application":
            return Subject(application_id=self.id)
        return Subject(user_id=self.id)

    def reaches(self, audience: str) -> bool:
        """Whether the API is one of the open unit of work's tenant too, when the client was found without any."""
        return audience not in self.apis or bool(
            db.session().scalar(sa.select(Application.id).where(Application.audience == audience).limit(1))
        )

    def scopes_for(self, audience: str) -> list[str]:
        """Of its scopes those a token for that API may carry: what a scope means at an API, the application that keeps
        the API says, and not its caller."""
        there = self.apis.get(audience)
        return [scope for scope in self.scopes if there is None or scope in there or scope in STANDARD_SCOPES]

    def narrowed(self, asked: str | None, audience: str, *, people: bool) -> list[str] | None:
        """The scopes asked for, without repetition; all it may have there when none are asked for; None when one is not
        this client's for this API. `people`: whether a person is there."""
        allowed = [scope for scope in self.scopes_for(audience) if people or scope not in STANDARD_SCOPES]
        if not asked:
            return [scope for scope in allowed if scope != OFFLINE]
        wanted = list(dict.fromkeys(asked.split(" ")))
        return wanted if set(wanted) <= set(allowed) else None

    def audience(self, asked: str | None) -> str | None:
        """The one `aud` of its access tokens; None when it may not ask for this one, or for any."""
        if asked is None:
            return next(iter(self.audiences), None)
        return asked if asked in self.audiences else None

    # What Authlib asks of a client.

    def get_client_id(self) -> str:
        return self.client_id

    def get_default_redirect_uri(self) -> str | None:
        """None: every request names where it wants the answer."""
        return None

    def get_allowed_scope(self, scope: str | None) -> str | None:
        """Whether they are its scopes at all; for which API they are asked is not known here."""
        asked = (scope or "").split()
        return " ".join(asked) if set(asked) <= set(self.scopes) else None

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        """Character by character; only the port of a native app's loopback address is free (RFC 8252 section 7.3)."""
        if redirect_uri in self.redirect_uris:
            return True
        wanted = _loopback(redirect_uri) if self.type == "native" else None
        return wanted is not None and wanted in map(_loopback, self.redirect_uris)

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method in self.auth_methods

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code" and self.check_grant_type("authorization_code")

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in self.grant_types and not (grant_type == "client_credentials" and self.is_public)


def find(client_id: str, issuer: Issuer) -> Client | None:
    """The client, if it is within the issuer's reach; disabled ones too. One statement."""
    row = _row(client_id, issuer.scope.tenant_id if issuer.scope else None)
    if row is None:
        return None
    client = _client(row, issuer.scope)
    if issuer.scope is None:
        return client if client.reach == "GLOBAL" else None
    if client.owner.tenant_id != issuer.scope.tenant_id and client.reach == "TENANT":
        return None
    return client if client.standing.has_access is not False else None


def home(client_id: str) -> Client | None:
    """The client where it is kept, for the address that lets the client choose the issuer."""
    row = _row(client_id, None)
    return None if row is None else _client(row, None)


def _loopback(uri: str) -> tuple[str, str] | None:
    """A loopback redirect URI without its port; None when it is no such thing."""
    match = _LOOPBACK.fullmatch(uri)
    if match is None or int(match[2] or 0) > _HIGHEST_PORT:
        return None
    return match[1], match[3]


def _row(client_id: str, tenant_id: str | None) -> Any:
    if not _CLIENT_ID.fullmatch(client_id):
        return None
    rows = hot(_FIND, {"client_id": client_id, "tenant": tenant_id})
    return rows[0] if rows and rows[0].fields is not None else None


def _present(audiences: Iterable[str], apis: Mapping[str, object]) -> list[str]:
    """A name that no application of the tenant has any more may become that of somebody else's API."""
    return [audience for audience in audiences if audience == OUR_AUDIENCE or audience in apis]


def _client(row: Any, scope: Scope | None) -> Client:
    owner = Scope(row.owner, row.partner_id, row.tenant_kind, row.slug)
    fields, facts, apis = row.fields, Standing(*row[: len(Standing._fields)]), row.apis or {}
    if row.kind == "service_account":
        return Client(
            kind="service_account",
            id=row.id,
            client_id=fields["client_id"],
            name=fields["name"],
            owner=owner,
            scope=scope,
            reach="TENANT",
            type="service",
            enabled=row.owner_active,
            auth_methods=frozenset(SECRET_METHODS),
            secrets=row.secrets or (),
            jwks=None,
            jwks_uri=None,
            grant_types=("client_credentials",),
            redirect_uris=(),
            post_logout_redirect_uris=(),
            scopes=fields["scopes"],
            audiences=_present(fields["audiences"], apis) if fields["audiences"] else [fields["client_id"]],
            apis=apis,
            access_token_alg="RS256",
            id_token_alg="RS256",
            access_token_lifetime=None,
            usual_lifetime=row.usual_lifetime or USUAL_LIFETIME,
            code_lifetime=None,
            third_party=False,
            standing=facts,
        )
    own = fields["audience"] or fields["client_id"]
    return Client(
        kind="application",
        id=row.id,
        client_id=fields["client_id"],
        name=fields["name"],
        owner=owner,
        scope=scope,
        reach=fields["scope"],
        type=fields["type"],
        enabled=fields["enabled"] and row.owner_active,
        auth_methods=frozenset({fields["token_endpoint_auth_method"]}),
        secrets=row.secrets or (),
        jwks=fields["jwks"],
        jwks_uri=fields["jwks_uri"],
        grant_types=fields["grant_types"],
        redirect_uris=fields["redirect_uris"],
        post_logout_redirect_uris=fields["post_logout_redirect_uris"],
        scopes=fields["scopes"],
        audiences=list(dict.fromkeys([own, *_present(fields["allowed_audiences"], apis)])),
        apis=apis,
        access_token_alg=fields["access_token_signed_response_alg"],
        id_token_alg=fields["id_token_signed_response_alg"],
        access_token_lifetime=fields["access_token_lifetime"],
        usual_lifetime=row.usual_lifetime or USUAL_LIFETIME,
        code_lifetime=fields["authorization_code_lifetime"],
        third_party=fields["third_party"],
        standing=facts,
    )
