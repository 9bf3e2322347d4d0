"""Any OpenID provider as an upstream: people sign in there with the authorization code flow and PKCE.

Owns the settings (`Config`) and the way to the connector. `metadata` is what a provider says about itself, `client`
how we ask its token endpoint, `id_token` what we believe, `claims` what it means, `connector` the sign-in from
beginning to end, `diagnosis` why it does not work. OAuth is Authlib's and JOSE joserfc's; they are loaded with the
first sign-in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from connectors.http import HttpClient
from connectors.openid.config import Config
from connectors.port import Shelf

if TYPE_CHECKING:
    from connectors.openid.connector import OpenId

__all__ = ["Config", "connect"]


def connect(config: Config, http: HttpClient, shelf: Shelf | None = None, callback: str = "") -> OpenId:
    """The connector of one provider; `callback` is only shown by its diagnosis."""
    from connectors.openid.connector import OpenId

    return OpenId(config, http, shelf, callback)
