"""What an issuer publishes about itself (OpenID Connect Discovery, RFC 8414): only what works.

The bytes are made once per issuer and process. Who may read them, and for how long, is the door's.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import orjson

from broker.protocol import AUTH_METHODS, GRANT_TYPES, STANDARD_SCOPES
from oidc.authorize import PROMPTS, RESPONSE_MODES
from oidc.client_keys import ALGORITHMS
from oidc.tokens import ACR, Issuer

CLAIMS = (
    "sub", "iss", "aud", "exp", "iat", "auth_time", "nonce", "acr", "amr", "azp", "at_hash", "sid", "tenant_id",
    "name", "preferred_username", "given_name", "family_name", "middle_name", "nickname", "locale", "zoneinfo",
    "updated_at", "email", "email_verified", "groups", "roles",
)  # fmt: skip


@lru_cache(maxsize=4_096)
def document(issuer: Issuer) -> tuple[bytes, str]:
    """The metadata document and its ETag."""
    proven = [method for method in AUTH_METHODS if method != "none"]
    body = orjson.dumps(
        {
            "issuer": issuer.url,
            "authorization_endpoint": issuer.endpoint("authorize"),
            "token_endpoint": issuer.endpoint("token"),
            "userinfo_endpoint": issuer.endpoint("userinfo"),
            "jwks_uri": issuer.endpoint("jwks"),
            "introspection_endpoint": issuer.endpoint("introspect"),
            "revocation_endpoint": issuer.endpoint("revoke"),
            "end_session_endpoint": issuer.endpoint("logout"),
            "scopes_supported": STANDARD_SCOPES,
            "response_types_supported": ["code"],
            "response_modes_supported": RESPONSE_MODES,
            "grant_types_supported": GRANT_TYPES,
            "subject_types_supported": ["public"],
            "acr_values_supported": [ACR],
            "id_token_signing_alg_values_supported": ["RS256", "ES256"],
            "token_endpoint_auth_methods_supported": AUTH_METHODS,
            "token_endpoint_auth_signing_alg_values_supported": ALGORITHMS,
            "introspection_endpoint_auth_methods_supported": proven,
            "introspection_endpoint_auth_signing_alg_values_supported": ALGORITHMS,
            "revocation_endpoint_auth_methods_supported": AUTH_METHODS,
            "revocation_endpoint_auth_signing_alg_values_supported": ALGORITHMS,
            "code_challenge_methods_supported": ["S256"],
            "prompt_values_supported": sorted(PROMPTS),
            "claim_types_supported": ["normal"],
            "claims_supported": CLAIMS,
            "claims_parameter_supported": False,
            "request_parameter_supported": False,
            "request_uri_parameter_supported": False,
            "require_request_uri_registration": False,
            "authorization_response_iss_parameter_supported": True,
        }
    )
    return body, f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def is_published(path: str) -> bool:
    """Whether what is there is the same for everybody: key sets and metadata."""
    return path.endswith("/oauth/jwks") or "/.well-known/" in path
