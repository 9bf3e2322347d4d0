"""A sign-in at an OpenID provider from beginning to end, and the way out of it.

Owns what is sent, what is remembered in the memo (nonce, PKCE verifier, whom we asked), and in which order an answer is
believed. `state` and the browser are the caller's. Nothing is remembered here: whoever finishes may be another process.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from connectors.http import HttpClient
from connectors.openid import claims as meaning
from connectors.openid import client, diagnosis, id_token
from connectors.openid.config import Config
from connectors.openid.metadata import Metadata, Source, json_object, shown
from connectors.port import (
    Departure,
    Identity,
    Misconfigured,
    Refused,
    Reply,
    ReturnTo,
    Shelf,
    Step,
    Unreachable,
)
from connectors.shelf import MemoryShelf

_LONGEST_KEY = 255
_LONGEST_URL = 2000
_LATER = frozenset({"server_error", "temporarily_unavailable"})
_ERRORS = {
    "access_denied": "The person or the upstream declined.",
    "login_required": "The upstream would have to ask the person to sign in.",
    "interaction_required": "The upstream would have to ask the person something.",
    "consent_required": "The upstream would have to ask the person for consent.",
    "account_selection_required": "The upstream would have to ask the person which account to use.",
}


class OpenId:
    """`SignIn`, `SignOut` and `Diagnose` for one provider."""

    def __init__(self, config: Config, http: HttpClient, shelf: Shelf | None = None, callback: str = "") -> None:
        self._config, self._callback = config, callback
        self._source = Source(config.issuer, http, shelf or MemoryShelf(), config.ca or None)

    def begin_sign_in(self, return_to: ReturnTo) -> Departure:
        metadata = self._source.metadata()
        max_age = 0 if return_to.fresh else return_to.max_age
        nonce, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(48)
        url = client.authorization_url(
            self._config,
            metadata,
            return_to.callback,
            verifier,
            state=return_to.state,
            nonce=nonce,
            prompt="login" if return_to.fresh else return_to.prompt or self._config.prompt or None,
            login_hint=return_to.login_hint,
            max_age=max_age,
        )
        memo = {
            "issuer": self._config.issuer,
            "client_id": self._config.client_id,
            "callback": return_to.callback,
            "nonce": nonce,
            "verifier": verifier,
            "authenticated_since": None if max_age is None else time.time() - max_age,
        }
        return Departure(url, None, json.dumps(memo).encode())

    def finish_sign_in(self, memo: bytes | None, reply: Reply) -> Identity:
        kept = self._kept(memo)
        metadata = self._source.metadata()
        code = self._code(reply, metadata)
        tokens = client.redeem(self._config, metadata, self._source, kept["callback"], code, kept["verifier"])
        token, access_token = tokens.get("id_token"), tokens.get("access_token")
        if not isinstance(token, str):
            raise Refused("The token endpoint sent no ID token. Is openid among the scopes this client may have?")
        if not isinstance(access_token, str) or str(tokens.get("token_type")).lower() != "bearer":
            access_token = None
        claims = id_token.verified(
            token,
            self._source.keys(metadata),
            lambda: self._source.renewed_keys(metadata),
            id_token.Expected(
                issuer=self._config.issuer,
                client_id=self._config.client_id,
                nonce=kept["nonce"],
                access_token=access_token,
                algorithms=self._config.algorithms,
                authenticated_since=kept["authenticated_since"],
            ),
        )
        more = self._userinfo(metadata, access_token, claims["sub"])
        return self._identity(token, claims, more, kept["nonce"])

    def begin_sign_out(self, memo: bytes, return_to: ReturnTo) -> Departure | None:
        endpoint = self._source.metadata().end_session_endpoint
        if endpoint is None:
            return None
        form = {
            "id_token_hint": memo.decode(),
            "client_id": self._config.client_id,
            "post_logout_redirect_uri": return_to.callback,
            "state": return_to.state,
        }
        url = f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(form)}"
        return Departure(url) if len(url) <= _LONGEST_URL else Departure(endpoint, form)

    def steps(self) -> Iterator[Step]:
        return diagnosis.steps(self._config, self._source, self._callback)

    def _kept(self, memo: bytes | None) -> dict[str, Any]:
        if memo is None:
            raise Refused("The upstream began this sign-in by itself. With OpenID Connect it starts here.")
        kept: dict[str, Any] = json.loads(memo)
        if (kept["issuer"], kept["client_id"]) != (self._config.issuer, self._config.client_id):
            raise Refused("The settings of the provider changed during the sign-in.")
        return kept

    def _code(self, reply: Reply, metadata: Metadata) -> str:
        sender = reply.one("iss")
        if sender is None and metadata.names_itself:
            raise Refused(
                "The answer does not say which issuer it is from, though the upstream announces that it does."
            )
        if sender is not None and sender != metadata.issuer:
            raise Refused("The answer is from another issuer than the one that was asked.")
        error, code = reply.one("error"), reply.one("code")
        if error is not None:
            said = (
                _ERRORS.get(error)
                or f"The upstream refused: {shown(error)}. {shown(reply.one('error_description') or '')}"
            )
            raise Unreachable(said.strip()) if error in _LATER else Refused(said.strip(), shown(error))
        if not code:
            raise Refused("The answer has no code.")
        return code

    def _userinfo(self, metadata: Metadata, access_token: str | None, subject: str) -> Mapping[str, Any]:
        endpoint = metadata.userinfo_endpoint
        if not self._config.userinfo or endpoint is None or access_token is None:
            return {}
        if not (access_token.isascii() and access_token.isprintable()):
            raise Refused("The token endpoint sent an access token that cannot be used.")
        answer = self._source.ask(
            "GET", endpoint, "The userinfo endpoint", headers={"Authorization": f"Bearer {access_token}"}
        )
        if answer.status != 200:
            raise Refused(f"The userinfo endpoint answered with status {answer.status}.")
        if (answer.header("content-type") or "").lower().startswith("application/jwt"):
            text = "The userinfo endpoint answers with a signed token: have this client registered for plain JSON."
            raise Misconfigured(text, {"userinfo": text})
        said = json_object(answer, "The answer of the userinfo endpoint")
        if said.get("sub") != subject:
            raise Refused("The userinfo endpoint speaks of somebody else than the ID token.")
        return said

    def _identity(self, token: str, claims: dict[str, Any], more: Mapping[str, Any], nonce: str) -> Identity:
        told = meaning.merged(claims, more)
        soon = datetime.now(UTC) + timedelta(days=1)
        until = min(id_token.moment(claims["exp"]) or soon, soon) + timedelta(seconds=id_token.LEEWAY)
        amr, session = claims.get("amr"), claims.get("sid")
        names = (told.get(name) for name in ("name", "preferred_username", "email"))
        return Identity(
            key=self._key(claims),
            attributes=meaning.attributes(told),
            groups=meaning.groups(told, self._config.groups_claim) if self._config.groups_claim else None,
            verified_emails=meaning.verified_emails(claims, more),
            once=(hashlib.sha256(f"{self._config.issuer} {nonce}".encode()).hexdigest(), until),
            session=session if isinstance(session, str) and session else None,
            auth_time=id_token.moment(claims.get("auth_time")),
            amr=tuple(amr) if isinstance(amr, list) and all(isinstance(one, str) for one in amr) else (),
            name=next((name for name in names if isinstance(name, str) and name), None),
            sign_out_memo=token.encode(),
        )

    def _key(self, claims: Mapping[str, Any]) -> str:
        claim = self._config.key_claim
        value = claims.get(claim)
        if not isinstance(value, str) or not _is_id(value):
            text = f"The claim {claim} of the ID token is not an id."
            raise Misconfigured(text, {"key_claim": text}) if claim != "sub" else Refused(text)
        # An issuer has no blanks: a key says which claim it is made of, and no two claims make the same one.
        return f"{self._config.issuer} {value}" if claim == "sub" else f"{self._config.issuer}  {claim} {value}"


def _is_id(text: str) -> bool:
    return 0 < len(text) <= _LONGEST_KEY and text.isprintable() and text == text.strip()
