"""ScaiKey on a port of its own, in this process, with an administrator who sets up what a journey needs.

Everything is asked for over HTTP as an administrator does it: the admin API, and SCIM for people and groups.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from werkzeug.serving import WSGIRequestHandler, make_server

from broker import config
from broker.app import create_app
from broker.context import Scope
from broker.db import db
from broker.embedded import Services
from demo.asking import Answer, Door
from tests.casting import give_role, make_token, make_user
from tests.parties.issuers import Issuer

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

PASSWORD = "a long sentence about nothing at all"


@dataclass
class House:
    """`base_url` is `http://localhost:…`; `admin` is the super admin's admin API."""

    base_url: str
    token: str
    platform_id: str

    @property
    def admin(self) -> Door:
        return Door(f"{self.base_url}/api/v1", self.token)

    @property
    def platform(self) -> str:
        """The platform issuer."""
        return f"{self.base_url}/api/v1/platform"

    @cached_property
    def partner_id(self) -> str:
        tag = secrets.token_hex(4)
        made = self.admin.post("/partners", {"name": f"Partner {tag}", "slug": f"partner-{tag}"})
        return str(made["id"])

    def application(self, tenant: Tenant, redirect_uri: str, **fields: Any) -> dict[str, Any]:
        """A GLOBAL one, which this tenant may use."""
        kept = Tenant(self, self.platform_id, "platform")
        made = kept.application(redirect_uri, scope="GLOBAL", **fields)
        kept.admin.post(f"/applications/{made['id']}/access", {"tenant_id": tenant.id})
        return made

    def tenant(self, name: str) -> Tenant:
        """A new customer tenant; its slug begins with `name`."""
        slug = f"{name}-{secrets.token_hex(4)}"
        made = self.admin.post(
            "/tenants", {"partner_id": self.partner_id, "name": name.replace("-", " ").title(), "slug": slug}
        )
        return Tenant(self, made["id"], slug)


@dataclass(frozen=True)
class Tenant:
    house: House
    id: str
    slug: str

    @property
    def admin(self) -> Door:
        return Door(f"{self.house.base_url}/api/v1/t/{self.id}", self.house.token)

    @property
    def scim(self) -> Door:
        return Door(f"{self.house.base_url}/scim/v2/{self.slug}", self.house.token)

    @property
    def issuer(self) -> str:
        return f"{self.house.base_url}/api/v1/auth/tenants/{self.slug}"

    @property
    def pages(self) -> str:
        return f"{self.house.base_url}/t/{self.slug}"

    def person(self, name: str, password: str | None = None, **attributes: Any) -> str:
        """Somebody of this tenant; returns the id."""
        user_id = str(self.scim.post("/Users", {"userName": name, "active": True, **attributes})["id"])
        if password is not None:
            must(self.admin.ask("PUT", f"/users/{user_id}/password", {"password": password}))
        return user_id

    def group(self, name: str, *members: str) -> str:
        body = {"displayName": name, "members": [{"value": member} for member in members]}
        return str(self.scim.post("/Groups", body)["id"])

    def domain(self, name: str) -> str:
        """A verified domain of this tenant; returns its name."""
        made = self.admin.post("/domains", {"name": name})
        self.admin.patch(f"/domains/{made['id']}", {"verified": True})
        return name

    def application(self, redirect_uri: str, **fields: Any) -> dict[str, Any]:
        """One that everybody may use, unless said otherwise: `id`, `client_id`, `client_secret` …"""
        return self.admin.post(
            "/applications",
            {
                "name": "Wiki",
                "type": "web",
                "redirect_uris": [redirect_uri],
                "grant_types": ["authorization_code", "refresh_token"],
                "assignment_required": False,
                **fields,
            },
        )

    def provider(self, issuer: Issuer, client: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
        """That provider as an upstream of this tenant, the client registered there for the callback it will have.

        The callback has the provider's id in it, so the provider is made first and gets its client afterwards.
        """
        config = {
            "issuer": issuer.url,
            "client_id": "none yet",
            "client_secret": "none yet",
            **fields.pop("config", {}),
        }
        made = self.admin.post(
            "/identity-providers",
            {"kind": "oidc", "name": "Upstream", "config": config, "sign_in": True, "jit": {"enabled": True}, **fields},
        )
        registered = issuer.register(f"{self.pages}/callback/{made['id']}", **(client or {}))
        keys = ("client_id", "client_secret")
        known = {**config, **{key: registered[key] for key in keys if key in registered}}
        return self.admin.patch(f"/identity-providers/{made['id']}", {"config": known})


def must(answer: Answer) -> Any:
    """The body of an answer that has to be a success."""
    assert 200 <= answer.status < 300, f"{answer.status}: {json.dumps(answer.body)}"
    return answer.body


@contextmanager
def live(services: Services, data_dir: str, platform: Scope) -> Iterator[House]:
    """The assembled app behind a small threaded server."""

    class Handler(WSGIRequestHandler):
        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Nobody reads it."""

    def answer(environ: WSGIEnvironment, start: StartResponse) -> Any:
        return app(environ, start)

    server = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=Handler)
    base_url = f"http://localhost:{server.server_port}"
    app = create_app(
        services.configure(
            config.load(
                {
                    "SCAIKEY_DATA_DIR": data_dir,
                    "SCAIKEY_ALLOW_HTTP_LOOPBACK": "1",
                    "SCAIKEY_BASE_URL": base_url,
                }
            )
        )
    )
    with app.app_context():
        administrator = make_user(platform)
        give_role(platform, administrator, "super_admin", None)
        token = make_token(platform, administrator)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield House(base_url, token, platform.tenant_id)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        with app.app_context():
            for engine in db.engines.values():
                engine.dispose()
