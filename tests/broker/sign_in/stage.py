"""A tenant whose people sign in at a real OpenID provider, and a browser to do it with.

The provider is `oidc-provider-mock` on loopback; the browser is Flask's test client, which keeps cookies and follows
nothing by itself. An application's authorization request is begun as its endpoint does it.
"""

from __future__ import annotations

import html
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from broker import ids, passwords
from broker.context import Scope, acting, system
from broker.db import unit
from broker.models import Application, ApplicationAccess, Domain, Event, IdentityProvider, Session
from broker.registry import providers
from broker.sign_in import flow, sessions
from broker.sign_in.flow import Step
from broker.sign_in.requests import AuthRequest
from tests.casting import Cast, give_role, make_token, make_user

REDIRECT = "https://app.example/callback"
_CSRF = re.compile(r'name="csrf" value="([0-9a-f]{64})"')


@dataclass
class Browser:
    """One person's browser at our pages."""

    client: FlaskClient
    sent: list[TestResponse] = field(default_factory=list)

    def get(self, url: str, **options: Any) -> TestResponse:
        parts = urlsplit(url)
        answer = self.client.get(parts.path + (f"?{parts.query}" if parts.query else ""), **options)
        self.sent.append(answer)
        return answer

    def post(self, url: str, data: dict[str, str], **options: Any) -> TestResponse:
        answer = self.client.post(url, data=data, **options)
        self.sent.append(answer)
        return answer

    def submit(self, page: TestResponse, **fields: str) -> TestResponse:
        """Send the page's form."""
        text = page.get_data(as_text=True)
        action = re.search(r'<form method="post" action="([^"]+)"', text)
        proof = _CSRF.search(text)
        assert action and proof, text
        return self.post(html.unescape(action[1]), {"csrf": proof[1], **fields})

    def cookie(self, name: str) -> str | None:
        found = self.client.get_cookie(name)
        return found.value if found else None


def location(answer: TestResponse) -> str:
    """Where an answer leads: by redirect, or by the page that leaves for an upstream."""
    if answer.status_code == 303:
        return answer.headers["Location"]
    found = re.search(r'http-equiv="refresh" content="0;url=([^"]+)"', answer.get_data(as_text=True))
    assert answer.status_code == 200 and found, (answer.status_code, answer.get_data(as_text=True))
    return html.unescape(found[1])


@dataclass
class Stage:
    """One tenant of the world, its provider, and what happens there."""

    app: Flask
    scope: Scope
    issuer: str

    @property
    def slug(self) -> str:
        return self.scope.slug or ""

    def browser(self) -> Browser:
        return Browser(self.app.test_client())

    @contextmanager
    def unit(self) -> Iterator[Any]:
        with self.app.app_context(), unit(self.scope) as session:
            yield session

    def provider(self, name: str = "Acme ID", **fields: Any) -> str:
        """An upstream of the tenant; strangers become people here unless said otherwise."""
        config = {"issuer": self.issuer, "client_id": "scaikey", "client_secret": "secret"}
        values = {
            "kind": "oidc",
            "name": name,
            "config": config,
            "sign_in": True,
            "jit": {"enabled": True, "groups": []},
            **fields,
        }
        with self.unit(), acting(system("test")):
            return providers.create(values).id

    def change_provider(self, provider_id: str, **values: Any) -> None:
        with self.unit() as session, acting(system("test")):
            providers.update(session.get_one(IdentityProvider, (self.scope.tenant_id, provider_id)), values)

    def domain(self, name: str, *, verified: bool = True) -> None:
        with self.unit() as session:
            session.add(Domain(id=ids.new("dom"), name=name, verified=verified, token="t"))

    def application(self, **fields: Any) -> str:
        id = ids.new("app")
        values = {"name": "Wiki", "type": "web", "client_id": id, "assignment_required": False, **fields}
        with self.unit() as session:
            session.add(Application(tenant_id=self.scope.tenant_id, id=id, **values))
            session.flush()
            session.add(ApplicationAccess(application_id=id, owner_tenant_id=self.scope.tenant_id))
        return id

    def user(self, name: str = "", **attributes: Any) -> str:
        with self.app.app_context():
            return make_user(self.scope, name, **attributes)

    def change_user(self, user_id: str, **values: Any) -> None:
        operations = [{"op": "replace", "path": name, "value": value} for name, value in values.items()]
        token = self.admin
        answer = self.app.test_client().patch(
            f"/scim/v2/{self.slug}/Users/{user_id}",
            json={"schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"], "Operations": operations},
            headers={"Authorization": f"Bearer {token}"},
            content_type="application/scim+json",
        )
        assert answer.status_code == 200, answer.get_data(as_text=True)

    @property
    def admin(self) -> str:
        """The token of a new administrator of the tenant."""
        with self.app.app_context():
            user_id = make_user(self.scope)
            give_role(self.scope, user_id, "tenant_admin", self.scope.tenant_id)
            return make_token(self.scope, user_id)

    def password(self, user_id: str, password: str) -> None:
        with self.unit(), acting(system("test")):
            passwords.set_password(user_id, password)

    def request(self, application_id: str, **values: Any) -> AuthRequest:
        return AuthRequest(
            **{
                "issuer": "tenant",
                "application_id": application_id,
                "client_id": application_id,
                "client_name": "Wiki",
                "redirect_uri": REDIRECT,
                "scopes": ("openid", "profile"),
                "audience": "wiki",
                "code_challenge": "c" * 43,
                **values,
            }
        )

    def authorize(self, browser: Browser, application_id: str, **values: Any) -> tuple[str, Step]:
        """What the authorization endpoint does first; the flow's id and the step it came to."""
        asked = self.request(application_id, **values)
        with self._as(browser):
            live = sessions.of_request(self.slug)
            with unit(self.scope):
                began = flow.begin(self.scope, asked)
                step = flow.next_step(began, live)
        self._keep(browser, began.secret)
        return began.id, step

    def step(self, browser: Browser, flow_id: str) -> Step:
        """What comes next, as the authorization endpoint sees it."""
        with self._as(browser):
            live = sessions.of_request(self.slug)
            with unit(self.scope):
                return flow.next_step(flow.load(self.scope, flow_id), live)

    def live(self, browser: Browser) -> sessions.LiveSession | None:
        with self._as(browser):
            return sessions.of_request(self.slug)

    @contextmanager
    def _as(self, browser: Browser) -> Iterator[None]:
        cookies = "; ".join(f"{one.key}={one.value}" for one in (browser.client._cookies or {}).values())
        with self.app.test_request_context(headers={"Cookie": cookies} if cookies else {}):
            yield

    def _keep(self, browser: Browser, secret: str) -> None:
        name = f"sk_flow-{self.slug}"
        held = [secret, *(browser.cookie(name) or "").split(".")]
        browser.client.set_cookie(name, ".".join(one for one in held if one))

    def at_upstream(self, url: str, sub: str = "alice", **claims: Any) -> str:
        """Sign in as `sub` at the upstream's page; the address it leads back to."""
        if claims:
            _http().put(f"{self.issuer}/users/{sub}", json=claims).raise_for_status()
        answer = _http().post(url, data={"sub": sub})
        assert answer.status_code == 302, answer.text
        return answer.headers["Location"]

    def signed_in(self, browser: Browser, sub: str = "alice") -> TestResponse:
        """From our sign-in page to the upstream and back: the answer of the callback."""
        page = browser.get(f"/t/{self.slug}/sign-in")
        answer = browser.get(location(page))
        return browser.get(self.at_upstream(location(answer), sub, email=f"{sub}@acme.example", name=sub.title()))

    def through(self, browser: Browser, flow_id: str, provider_id: str, sub: str = "alice") -> TestResponse:
        """Choose that upstream on the page of a flow, and sign in there."""
        page = browser.get(f"/t/{self.slug}/sign-in?flow={flow_id}")
        onward = browser.get(location(browser.submit(page, provider=provider_id)))
        claims = {"email": f"{sub}@acme.example", "name": sub.title()}
        return browser.get(self.at_upstream(location(onward), sub, **claims))

    def events(self, name: str) -> list[Event]:
        with self.unit() as session:
            found = list(session.query(Event).filter(Event.name == name).order_by(Event.id))
            session.expunge_all()
            return found

    def reasons(self) -> list[str]:
        """Of the refusals that were remembered."""
        return [event.changed["reason"] for event in self.events("sign_in.refused")]

    def sessions(self) -> list[Session]:
        with self.unit() as session:
            found = list(session.query(Session).order_by(Session.id))
            session.expunge_all()
            return found


@pytest.fixture(scope="session")
def issuer() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # A process of its own: it is full of deprecated calls, which are errors here.
    command = [sys.executable, "-m", "oidc_provider_mock", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(f"{url}/.well-known/openid-configuration")
            yield url
        finally:
            server.terminate()


@lru_cache
def _http() -> httpx.Client:
    return httpx.Client(verify=False)


def _wait(url: str) -> None:
    for _ in range(200):
        try:
            _http().get(url).raise_for_status()
            return
        except httpx.TransportError:
            time.sleep(0.1)
    raise TimeoutError(url)


@pytest.fixture
def acme(web: Flask, cast: Cast, issuer: str) -> Stage:
    return Stage(web, cast.acme, issuer)


@pytest.fixture
def globex(web: Flask, cast: Cast, issuer: str) -> Stage:
    return Stage(web, cast.globex, issuer)


def state_of(url: str) -> str:
    return parse_qs(urlsplit(url).query)["state"][0]
