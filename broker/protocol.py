"""The words of OAuth, of OpenID Connect and of our own API that more than one room speaks, each said once.

Grants, ways a client proves itself, scopes and audiences. What each of them does is said where it is done; what the
admin roles are called is `context`'s.
"""

from __future__ import annotations

GRANT_TYPES = ("authorization_code", "refresh_token", "client_credentials")

SECRET_METHODS = ("client_secret_basic", "client_secret_post")
AUTH_METHODS = (*SECRET_METHODS, "private_key_jwt", "none")
"""Values of `token_endpoint_auth_method`."""

OFFLINE = "offline_access"
"""What is granted with it outlives the session it was granted in."""
STANDARD_SCOPES = ("openid", "profile", "email", OFFLINE)
"""Scopes that mean nothing without a person."""

OUR_AUDIENCE = "scaikey"
OUR_SCOPES = ("scaikey:read", "scaikey:write", "scim", "introspect")
"""Of our own API, and good for nothing but `OUR_AUDIENCE`."""
OUR_NAMES = "scaikey:"
"""Scopes and roles that begin with it are ours to give a meaning."""
