"""A tenant's SCIM server as its clients see it: the whole app, a token, JSON in and out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from flask import Flask
from werkzeug.test import TestResponse

from broker import credentials, ids
from broker.context import Scope, acting, system
from broker.db import unit
from broker.directory import Directory
from broker.models import RoleAssignment
from tests.conftest import World

PATCH_OP = "urn:ietf:params:scim:api:messages:2.0:PatchOp"


@dataclass
class Scim:
    """One client of one tenant's SCIM server."""

    app: Flask
    slug: str
    token: str | None

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> TestResponse:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token is not None:
            sent.setdefault("Authorization", f"Bearer {self.token}")
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else orjson.dumps(body)
            sent.setdefault("Content-Type", "application/scim+json")
        return self.app.test_client().open(f"/scim/v2/{self.slug}{path}", method=method, data=data, headers=sent)

    def get(self, path: str, **headers: str) -> TestResponse:
        return self.call("GET", path, **headers)

    def post(self, path: str, body: Any, **headers: str) -> TestResponse:
        return self.call("POST", path, body, **headers)

    def put(self, path: str, body: Any, **headers: str) -> TestResponse:
        return self.call("PUT", path, body, **headers)

    def delete(self, path: str, **headers: str) -> TestResponse:
        return self.call("DELETE", path, **headers)

    def patch(self, path: str, *operations: dict[str, Any], **headers: str) -> TestResponse:
        return self.call("PATCH", path, {"schemas": [PATCH_OP], "Operations": list(operations)}, **headers)

    def make(self, path: str, **values: Any) -> dict[str, Any]:
        """Create a resource, which must succeed; returns it."""
        answer = self.post(path, values)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json
        return made

    def user(self, name: str, **values: Any) -> str:
        return str(self.make("/Users", userName=name, **values)["id"])

    def group(self, name: str, *members: str, **values: Any) -> str:
        return str(self.make("/Groups", displayName=name, members=[{"value": id} for id in members], **values)["id"])

    def names(self, path: str, **query: str) -> list[str]:
        """The userNames or displayNames of a listing, in order."""
        answer = self.app.test_client().get(
            f"/scim/v2/{self.slug}{path}", query_string=query, headers={"Authorization": f"Bearer {self.token}"}
        )
        assert answer.status_code == 200, answer.text
        return [each.get("userName") or each["displayName"] for each in answer.json["Resources"]]


def token_of(scope: Scope, **values: Any) -> str:
    """A fresh SCIM token of the tenant."""
    with acting(system("tests")), unit(scope):
        return credentials.mint_scim_token({"name": "tests", "mode": "tolerant", **values})[1]


def admin_token_of(scope: Scope, role: str, scope_id: str | None, *scopes: str) -> str:
    """A PAT, with `scim` or with these scopes, of a fresh administrator who holds the role and lives in that tenant."""
    with acting(system("tests")), unit(scope) as session:
        user = Directory().create("User", {"userName": f"admin-{ids.new('usr')}"})
        session.add(RoleAssignment(id=ids.new("rol"), role=role, principal_id=user.id, scope_id=scope_id))
        session.flush()
        return credentials.mint_pat(user.id, name="tests", scopes=scopes or ("scim",))[1]


@pytest.fixture
def acme(web: Flask, world: World) -> Scim:
    assert world.acme.slug is not None
    return Scim(web, world.acme.slug, token_of(world.acme))


@pytest.fixture
def globex(web: Flask, world: World) -> Scim:
    assert world.globex.slug is not None
    return Scim(web, world.globex.slug, token_of(world.globex))
