"""What claims mean: attributes, groups, and the addresses an upstream vouches for.

A claim becomes an attribute as it was said: text as it is, numbers and truth values as JSON writes them, lists value by
value, and what is inside an object under a dotted name (`address.locality`). Claims about the token are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from connectors.port import Misconfigured

Claims = Mapping[str, Any]

_TOKEN_CLAIMS = """
    iss aud exp iat nbf jti nonce azp at_hash c_hash s_hash sid auth_time amr acr session_state
    _claim_names _claim_sources
"""
_ABOUT_THE_TOKEN = frozenset(_TOKEN_CLAIMS.split())
_DEEPEST = 8
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def merged(id_token: Claims, userinfo: Claims) -> dict[str, Any]:
    """Both, the ID token first. The word on the address is put as we take it: see `verified_emails`."""
    told = {**userinfo, **id_token}
    if "email_verified" in told:
        email = told.get("email")
        told["email_verified"] = isinstance(email, str) and email in verified_emails(id_token, userinfo)
    return told


def check_text(value: Any) -> None:
    """Raises ValueError when a string in this JSON is no text: half a surrogate pair, or a NUL, which nothing keeps."""
    written = json.dumps(value, ensure_ascii=False)
    written.encode()
    if _NUL.search(written):
        raise ValueError("NUL")


def attributes(claims: Claims) -> dict[str, Sequence[str]]:
    told = {name: value for name, value in claims.items() if name not in _ABOUT_THE_TOKEN}
    return {name: tuple(values) for name, values in _flat(told, "", 0) if values}


def groups(claims: Claims, name: str) -> frozenset[str] | None:
    """The groups named by this claim; None when it says nothing. Raises Misconfigured."""
    value = claims.get(name)
    if value is None:
        value = _inside(claims, name)
    if value is None:
        return None
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(group, str) for group in listed):
        text = f"The claim {name} is not a list of names."
        raise Misconfigured(text, {"groups_claim": text})
    return frozenset(group for group in listed if group)


def verified_emails(*sources: Claims) -> frozenset[str]:
    """The addresses of which a source says `"email_verified": true`, and none anything else.

    Only the truth value counts: the text "true" is some software's opinion of it.
    """
    vouched: set[str] = set()
    doubted: set[str] = set()
    for source in sources:
        email = source.get("email")
        if isinstance(email, str) and "@" in email and "email_verified" in source:
            (vouched if source["email_verified"] is True else doubted).add(email)
    return frozenset(vouched - doubted)


def _inside(claims: Any, name: str) -> Any:
    for part in name.split("."):
        if not isinstance(claims, Mapping):
            return None
        claims = claims.get(part)
    return claims


def _flat(claims: Claims, prefix: str, depth: int) -> Iterator[tuple[str, list[str]]]:
    for name, value in claims.items():
        if isinstance(value, Mapping) and depth < _DEEPEST:
            yield from _flat(value, f"{prefix}{name}.", depth + 1)
        else:
            values = value if isinstance(value, list) else [value]
            yield prefix + name, [_text(one) for one in values if one is not None]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
