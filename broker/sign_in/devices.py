"""Browsers in which an account has signed in with its password: their failures are counted apart from everybody's.

So nobody who knows a name alone keeps its owner out by guessing. The browser keeps a sealed cookie for each tenant; it
names the account, tells nobody its name, and proves nothing but that the right password was shown here once.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import time

import orjson
from flask import Response

from broker import running
from broker.attributes import fold
from broker.context import Scope
from broker.sign_in import browser
from broker.vault import VaultError

LIFE = 180 * 86_400
"""Seconds from the last sign-in with the password."""


def remember(response: Response, scope: Scope, username: str) -> None:
    """The right password of this name was shown."""
    kept = {"account": _digest(username), "id": browser.new_secret(), "until": int(time.time()) + LIFE}
    sealed = base64.urlsafe_b64encode(running.vault().seal(orjson.dumps(kept), **_place(scope)))
    browser.keep(response, browser.device_cookie(scope.slug or ""), sealed.decode().rstrip("="), seconds=LIFE)


def known(scope: Scope | None, username: str) -> str | None:
    """What this browser is called among those of the account; None for one that never signed in to it."""
    brought = browser.read(browser.device_cookie(scope.slug or "")) if scope else None
    if scope is None or brought is None:
        return None
    try:
        sealed = base64.urlsafe_b64decode(brought + "=" * (-len(brought) % 4))
        kept = orjson.loads(running.vault().open(sealed, **_place(scope)))
    except (VaultError, binascii.Error, ValueError):
        return None
    return str(kept["id"]) if kept["until"] > time.time() and kept["account"] == _digest(username) else None


def _digest(username: str) -> str:
    return hashlib.sha256(fold(username.strip()).encode("utf-8", "surrogatepass")).hexdigest()


def _place(scope: Scope) -> dict[str, str]:
    return {"table": "browsers", "column": "device", "tenant": scope.tenant_id or "", "row": ""}
