"""How we prove ourselves to a target: a bearer token, or as a client of its token endpoint.

Checks what is given, makes a key where none is given, and seals the one secret there is; what of it may be shown is
the target's `auth`. Getting tokens with it is `scim.push`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa
from joserfc.jwk import RSAKey

from broker import running
from broker.config import is_loopback
from broker.errors import ValidationFailed
from broker.models import ScimTarget
from broker.registry.changes import check_web_url
from connectors.client_key import LEAST_BITS, WANTED, signer

HIDDEN = "***"
CLIENT_METHODS = ("client_secret_basic", "client_secret_post", "private_key_jwt")
_OPEN = ("token_url", "client_id", "token_endpoint_auth_method", "scope", "audience", "assertion_audience")


def keep(target: ScimTarget, auth: Mapping[str, Any]) -> bool:
    """Take over how we prove ourselves; whether it is another way or secret than before. Raises ValidationFailed."""
    public: dict[str, Any] = {"method": "bearer"} if auth["method"] == "bearer" else _client(auth)
    name = secret_name(public)
    _only(auth, {name} if name == "token" else {*_OPEN, name})
    given = auth.get(name)
    unmoved = target.secrets is not None and _place_of(target.auth) == _place_of(public)
    if unmoved and (given == HIDDEN or (given is None and name == "private_key")):
        if name == "private_key":
            public["public_key"] = target.auth["public_key"]
        return _keep_public(target, public)
    if name == "private_key" and given is None:
        given = RSAKey.generate_key(LEAST_BITS).as_pem(private=True).decode()
    _check_secret(name, given)
    assert isinstance(given, str)
    if name == "private_key":
        public["public_key"] = _public(given)
    changed = _keep_public(target, public)
    if unmoved and secret(target) == given:
        return changed
    target.secrets = running.vault().seal(given.encode(), **_vault_place(target))
    return True


def secret(target: ScimTarget | sa.Row[Any]) -> str:
    """The token, client secret or private key. Raises VaultError."""
    return running.vault().open(target.secrets or b"", **_vault_place(target)).decode()


def secret_name(auth: Mapping[str, Any]) -> str:
    """Under which name the secret of this way is given."""
    if auth.get("method") != "oauth2_client_credentials":
        return "token"
    return "private_key" if auth["token_endpoint_auth_method"] == "private_key_jwt" else "client_secret"


def _client(auth: Mapping[str, Any]) -> dict[str, Any]:
    errors: dict[str, list[str]] = {}
    for name in ("token_url", "client_id"):
        if not auth.get(name):
            errors[f"auth.{name}"] = ["Is required for oauth2_client_credentials."]
    if errors:
        raise ValidationFailed(errors=errors)
    check_web_url("auth.token_url", auth["token_url"], loopback=running.config().allow_http_loopback)
    parts = urlsplit(auth["token_url"])
    if parts.fragment or (parts.scheme == "http" and not is_loopback(parts.hostname or "")):
        raise ValidationFailed(errors={"auth.token_url": ["Must be an https URL (http on loopback only)."]})
    public = {name: auth[name] for name in _OPEN if auth.get(name) is not None}
    return {"method": auth["method"], "token_endpoint_auth_method": CLIENT_METHODS[0], **public}


def _only(auth: Mapping[str, Any], names: set[str]) -> None:
    odd = sorted(name for name in auth if name not in {*names, "method", "public_key"} and auth[name] is not None)
    if odd:
        raise ValidationFailed(errors={f"auth.{name}": [f"Has no meaning for {auth['method']}."] for name in odd})


def _check_secret(name: str, given: Any) -> None:
    if given is None:
        raise ValidationFailed(errors={f"auth.{name}": ["Is required."]})
    if given == HIDDEN:
        raise ValidationFailed(errors={"auth": [f"`{name}` has to be given anew: it was for another place, or none."]})
    if name == "private_key":
        try:
            signer(given)
        except ValueError:
            raise ValidationFailed(errors={"auth.private_key": [WANTED]}) from None
    elif name == "token" and (not given.isascii() or not given.isprintable() or " " in given):
        raise ValidationFailed(errors={"auth": ["`token` must be printable ASCII without spaces."]})


def _public(text: str) -> dict[str, Any]:
    key, algorithm, kid = signer(text)
    return {**key.as_dict(private=False), "kid": kid, "alg": algorithm, "use": "sig"}


def _keep_public(target: ScimTarget, public: dict[str, Any]) -> bool:
    if target.auth == public:
        return False
    target.auth = public
    return True


def _place_of(auth: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a secret was given for: it is shown nowhere else."""
    return auth.get("method"), secret_name(auth), auth.get("token_url")


def _vault_place(target: ScimTarget | sa.Row[Any]) -> dict[str, str]:
    return {"table": "scim_targets", "column": "secrets", "tenant": target.tenant_id, "row": target.id}
