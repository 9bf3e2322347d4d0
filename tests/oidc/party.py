"""A tenant's people, applications and browsers as the tests of tokens need them, without any page.

Owns making them and the usual requests of a relying party; what must hold is the tests'.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from broker import credentials, ids
from broker.context import Scope, acting, system
from broker.db import platform_scope, unit
from broker.models import Application, ApplicationAccess, Assignment, ServiceAccount
from broker.sign_in import browser, sessions
from oidc.tokens import Issuer
from tests.casting import make_user

BACK = "https://wiki.example/back"
SCOPES = ["openid", "profile", "email", "offline_access"]


@dataclass(frozen=True)
class App:
    """A registered application and its secret."""

    id: str
    client_id: str
    secret: str | None
    scope: Scope
    redirect_uri: str = BACK

    @property
    def basic(self) -> dict[str, str]:
        return basic(self.client_id, self.secret or "")


@dataclass
class Pkce:
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    @property
    def challenge(self) -> str:
        return base64.urlsafe_b64encode(hashlib.sha256(self.verifier.encode()).digest()).decode().rstrip("=")


@dataclass
class Party:
    """One relying party, its person's browser, and the issuer both speak with."""

    web: Flask
    app: App
    issuer: Issuer
    user_id: str
    session_id: str
    client: FlaskClient

    def path(self, name: str) -> str:
        return urlsplit(self.issuer.endpoint(name)).path

    def question(self, pkce: Pkce, **changes: str | None) -> dict[str, str]:
        asked: dict[str, str | None] = {
            "response_type": "code",
            "client_id": self.app.client_id,
            "redirect_uri": self.app.redirect_uri,
            "scope": "openid profile",
            "state": "the-state",
            "nonce": "the-nonce",
            "code_challenge": pkce.challenge,
            "code_challenge_method": "S256",
            **changes,
        }
        return {name: value for name, value in asked.items() if value is not None}

    def authorize(self, pkce: Pkce | None = None, **changes: str | None) -> TestResponse:
        """Ask, and go on to the answer while we are sent to ourselves."""
        answer = self.client.get(self.path("authorize"), query_string=self.question(pkce or Pkce(), **changes))
        for _ in range(3):
            where = answer.headers.get("Location", "")
            if answer.status_code != 303 or "/oauth/authorize?flow=" not in where:
                break
            answer = self.client.get(where)
        return answer

    def code(self, pkce: Pkce, **changes: str | None) -> str:
        return answered(self.authorize(pkce, **changes))["code"]

    def token(self, headers: dict[str, str] | None = None, **form: str | None) -> TestResponse:
        given = {name: value for name, value in form.items() if value is not None}
        return self.web.test_client().post(
            self.path("token"), data=given, headers=self.app.basic if headers is None else headers
        )

    def redeem(self, code: str, pkce: Pkce, **changes: Any) -> TestResponse:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.app.redirect_uri,
            "code_verifier": pkce.verifier,
            **changes,
        }
        return self.token(**form)

    def signed_in(self, **changes: str | None) -> dict[str, Any]:
        """The whole way: the token response."""
        pkce = Pkce()
        response = self.redeem(self.code(pkce, **changes), pkce)
        assert response.status_code == 200, response.get_data(as_text=True)
        return dict(response.json or {})

    def refresh(self, secret: str, **changes: Any) -> TestResponse:
        return self.token(**{"grant_type": "refresh_token", "refresh_token": secret, **changes})


def basic(client_id: str, secret: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()}


def answered(response: TestResponse) -> dict[str, str]:
    """The parameters of an authorization response that was sent to the client by redirect."""
    assert response.status_code == 303, response.get_data(as_text=True)
    location = response.headers["Location"]
    return dict(parse_qsl(urlsplit(location).query, keep_blank_values=True))


def make_app(owner: Scope, *, shared_with: tuple[Scope, ...] = (), secret: bool = True, **fields: Any) -> App:
    """An application kept by `owner`, open to everybody there unless `assignment_required` is said."""
    values: dict[str, Any] = {
        "name": "Wiki",
        "type": "web",
        "redirect_uris": [BACK],
        "grant_types": ["authorization_code", "refresh_token"],
        "scopes": SCOPES,
        "assignment_required": False,
        **fields,
    }
    app_id, client_id = ids.new("app"), secrets.token_urlsafe(12)
    make_apis(owner, values.get("allowed_audiences", ()), values["scopes"])
    with unit(owner) as session, acting(system("test")):
        session.add(Application(id=app_id, client_id=client_id, **values))
        session.flush()
        session.add(ApplicationAccess(application_id=app_id, owner_tenant_id=owner.tenant_id))
        session.flush()
        shown = credentials.mint_client_secret(application_id=app_id)[1] if secret else None
    for other in shared_with:
        share(app_id, owner, other)
    return App(app_id, client_id, shown, owner, values["redirect_uris"][0] if values["redirect_uris"] else BACK)


def make_apis(owner: Scope, audiences: Iterable[str], scopes: Sequence[str]) -> None:
    """Applications that keep these APIs and know these scopes, where there are none."""
    with unit(owner) as session:
        there = set(session.scalars(sa.select(Application.audience)))
        for audience in sorted(set(audiences) - there - {"scaikey"}):
            api = Application(
                id=ids.new("app"),
                name="API",
                type="service",
                client_id=ids.new("app"),
                audience=audience,
                scopes=scopes,
            )
            session.add(api)
            session.flush()
            session.add(ApplicationAccess(application_id=api.id, owner_tenant_id=owner.tenant_id))


def share(app_id: str, owner: Scope, other: Scope) -> None:
    with platform_scope() as session:
        session.add(
            ApplicationAccess(tenant_id=other.tenant_id, application_id=app_id, owner_tenant_id=owner.tenant_id)
        )


def assign(scope: Scope, app_id: str, principal_id: str, *roles: str) -> None:
    with unit(scope) as session:
        session.add(Assignment(id=ids.new("asg"), application_id=app_id, principal_id=principal_id, roles=list(roles)))


def make_service_account(scope: Scope, name: str = "", **fields: Any) -> App:
    name = name or "sa-" + secrets.token_hex(4)
    user_id = make_user(scope, name, userType="ServiceAccount")
    client_id = secrets.token_urlsafe(12)
    values = {"scopes": ["read", "write"], "audiences": ["https://api.example"], **fields}
    make_apis(scope, values["audiences"], values["scopes"])
    with unit(scope) as session, acting(system("test")):
        session.add(ServiceAccount(id=user_id, name=name, client_id=client_id, **values))
        session.flush()
        shown = credentials.mint_client_secret(service_account_id=user_id)[1]
    return App(user_id, client_id, shown, scope)


def sign_in(web: Flask, scope: Scope, user_id: str, client: FlaskClient, **about: Any) -> str:
    """A session of the person in that browser; its id."""
    with web.test_request_context("/"), unit(scope), acting(system("test")):
        row, secret = sessions.begin(user_id, provider_id=None, amr=["pwd"], **about)
        name, session_id = browser.session_cookie(scope.slug or ""), row.id
    client.set_cookie(name, secret, domain="localhost")
    return session_id


def party(web: Flask, app: App, at: Scope | None, person_of: Scope, user_id: str = "") -> Party:
    """A person of `person_of`, signed in, and the application at the issuer of `at` (None: the platform)."""
    client = web.test_client()
    user_id = user_id or make_user(person_of)
    with web.app_context():
        session_id = sign_in(web, person_of, user_id, client)
        issuer = Issuer.platform() if at is None else Issuer.of_tenant(at)
    return Party(web, app, issuer, user_id, session_id, client)


def location(response: TestResponse) -> str:
    return response.headers.get("Location", "")


def with_query(path: str, **values: str) -> str:
    return f"{path}?{urlencode(values)}"
