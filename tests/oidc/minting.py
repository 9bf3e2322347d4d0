"""Tokens for tests, made as the grants make them: an application, a session, a grant, and what they lead to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from broker import ids
from broker.context import Scope, acting, system
from broker.db import platform_scope, unit
from broker.directory import Directory
from broker.models import Application, ApplicationAccess, Assignment, Grant, ServiceAccount, Session
from oidc import claims
from oidc.tokens import Authentication, Issued, Issuer, TokenIssuer

EVERY_SCOPE = ("scaikey:read", "scaikey:write", "scim", "introspect", "openid")
REGISTERED = [*EVERY_SCOPE, "profile", "email", "offline_access", "read"]
AUDIENCES = ["scaikey", "api", "billing", "crm"]


@dataclass(frozen=True)
class Client:
    """What a token is made for; `id` is the application's or the service account's user."""

    id: str
    client_id: str
    kind: Literal["application", "service_account"] = "application"
    name: str = "Wiki"
    access_token_alg: str = "RS256"
    id_token_alg: str = "RS256"
    access_token_lifetime: int | None = 600


@dataclass(frozen=True)
class SignedIn:
    """One person signed in at one application."""

    scope: Scope
    user_id: str
    client: Client
    session_id: str
    grant_id: str
    issuer: Issuer
    auth: Authentication = field(repr=False)

    def issue(self, audience: str = "scaikey", scopes: Sequence[str] = EVERY_SCOPE, **options: Any) -> Issued:
        person = claims.person(self.user_id, audience, tenant_id=self.scope.tenant_id)
        return TokenIssuer(self.issuer).access_token(
            client=self.client,
            audience=audience,
            scopes=scopes,
            person=person,
            grant_id=self.grant_id,
            authentication=self.auth,
            **options,
        )

    def token(self, audience: str = "scaikey", scopes: Sequence[str] = EVERY_SCOPE) -> str:
        return self.issue(audience, scopes).token

    def id_token(self, **options: Any) -> str:
        person = claims.person(self.user_id, self.client.client_id, tenant_id=self.scope.tenant_id)
        assert person is not None
        options.setdefault("scopes", ("openid",))
        return TokenIssuer(self.issuer).id_token(client=self.client, person=person, authentication=self.auth, **options)


def make_application(kept: Scope, *others: Scope, alg: str = "RS256", **fields: Any) -> Client:
    """An application of that tenant, with access for it and the others."""
    made = Client(ids.new("app"), f"client-{ids.new('app')[4:]}", access_token_alg=alg, id_token_alg=alg)
    fields = {"assignment_required": False, "scopes": REGISTERED, "allowed_audiences": AUDIENCES, **fields}
    with platform_scope() as session:
        session.add(
            Application(
                tenant_id=kept.tenant_id, id=made.id, name="Wiki", type="web", client_id=made.client_id, **fields
            )
        )
        session.flush()
        for one in (kept, *others):
            access = {"tenant_id": one.tenant_id, "application_id": made.id, "owner_tenant_id": kept.tenant_id}
            session.add(ApplicationAccess(**access))
    return made


def sign_in(
    scope: Scope,
    user_id: str,
    client: Client | None = None,
    *,
    provider_id: str | None = None,
    issuer: Issuer | None = None,
) -> SignedIn:
    client = client or make_application(scope)
    issuer = issuer or Issuer.of_tenant(scope)
    now = datetime.now(UTC)
    session_id, grant_id = ids.new("ses"), f"grn_{ids.new('ses')[4:]}"
    owned: dict[str, Any] = {"tenant_id": scope.tenant_id, "user_id": user_id, "provider_id": provider_id}
    with platform_scope() as session:
        session.add(
            Session(
                **owned,
                id=session_id,
                digest=session_id.encode(),
                auth_time=now,
                amr=["pwd"],
                expires_at=now + timedelta(hours=1),
            )
        )
        session.flush()
        session.add(
            Grant(
                **owned,
                id=grant_id,
                application_id=client.id,
                session_id=session_id,
                issuer=issuer.kind,
                scopes=[],
                audience="scaikey",
                auth_time=now,
                amr=["pwd"],
                expires_at=now + timedelta(days=1),
            )
        )
    return SignedIn(scope, user_id, client, session_id, grant_id, issuer, Authentication(session_id, now, ["pwd"]))


def make_service_account(scope: Scope, name: str) -> Client:
    with unit(scope) as session, acting(system("test")):
        document = {"userName": name, "displayName": name, "active": True, "userType": "ServiceAccount"}
        user_id = Directory().create("User", document).id
        client_id = f"sa-{user_id[4:]}"
        session.add(ServiceAccount(id=user_id, name=name, client_id=client_id, scopes=REGISTERED, audiences=AUDIENCES))
    return Client(user_id, client_id, "service_account", name)


def own_token(scope: Scope, client: Client, audience: str = "scaikey", scopes: Sequence[str] = EVERY_SCOPE) -> str:
    """What a client gets for itself."""
    return TokenIssuer(Issuer.of_tenant(scope)).access_token(client=client, audience=audience, scopes=scopes).token


def assign(scope: Scope, client: Client, principal_id: str, *roles: str) -> None:
    with unit(scope) as session:
        session.add(
            Assignment(id=ids.new("asg"), application_id=client.id, principal_id=principal_id, roles=list(roles))
        )
