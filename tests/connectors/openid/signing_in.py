"""A sign-in at the provider of these tests, from one end to the other."""

from __future__ import annotations

from typing import Any

from connectors import kinds
from connectors.http import HttpClient
from connectors.openid import Config, connect
from connectors.openid.connector import OpenId
from connectors.port import (
    Identity,
    ReturnTo,
)
from tests.issuer import CLIENT, SECRET, Issuer, visit

CALLBACK = "https://broker.example/t/acme/callback/idp_1"
Change = dict[str, Any]


def config(issuer: Issuer, **settings: Any) -> Config:
    made: Config = kinds.config_from(
        "oidc", {"issuer": issuer.url, "client_id": CLIENT, "client_secret": SECRET, **settings}
    )
    return made


def upstream(issuer: Issuer, http: HttpClient, **settings: Any) -> OpenId:
    return connect(config(issuer, **settings), http)


def sign_in(connector: OpenId, **hints: Any) -> Identity:
    departure = connector.begin_sign_in(ReturnTo(CALLBACK, "our-state", **hints))
    return connector.finish_sign_in(departure.memo, visit(departure.url))
