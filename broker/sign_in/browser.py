"""The browser at the other end: the cookies it keeps for us, proof that a form is our own, and where it calls from.

A cookie is bound to our host by the `__Host-` prefix where we are on https. Secrets of flows are fresh for each of them
and stand side by side in one cookie, so that several tabs can sign in and nothing a browser brings along is adopted.
What a cookie means is said by who reads it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterator
from ipaddress import ip_address
from urllib.parse import urlsplit

from flask import Response, after_this_request, request

from broker import running
from broker.config import Network

_TABS = 6
_LONGEST = 1024


def digest(secret: str) -> bytes:
    """What is stored of a secret of 256 random bits."""
    return hashlib.sha256(secret.encode()).digest()


def new_secret() -> str:
    return secrets.token_urlsafe(32)


def session_cookie(slug: str) -> str:
    return _name(f"sk-{slug}")


def flow_cookie(slug: str) -> str:
    """A slug has no underscore: no tenant's session is called like this."""
    return _name(f"sk_flow-{slug}")


def device_cookie(slug: str) -> str:
    return _name(f"sk_device-{slug}")


PLATFORM_COOKIE = "sk_platform"


def platform_cookie() -> str:
    return _name(PLATFORM_COOKIE)


def read(name: str) -> str | None:
    value = request.cookies.get(name)
    return value if value and len(value) <= _LONGEST and value.isascii() else None


def sessions_brought() -> Iterator[tuple[str, str]]:
    """The session cookies of this browser: slug of the tenant and secret."""
    prefix = session_cookie("")
    for name in request.cookies:
        if name.startswith(prefix) and (secret := read(name)):
            yield name[len(prefix) :], secret


def keep(response: Response, name: str, value: str, *, seconds: int | None = None) -> None:
    """Until the browser is closed, or for `seconds`."""
    response.set_cookie(name, value, max_age=seconds, path="/", secure=_https(), httponly=True, samesite="Lax")


def forget(response: Response, name: str) -> None:
    response.delete_cookie(name, path="/", secure=_https(), httponly=True, samesite="Lax")


def keep_with_this_answer(name: str, value: str, *, seconds: int | None = None) -> None:
    @after_this_request
    def add(response: Response) -> Response:
        keep(response, name, value, seconds=seconds)
        return response


def new_tab(name: str, *, seconds: int) -> str:
    """A fresh secret, kept in this browser beside those of its other tabs."""
    secret = new_secret()
    keep_with_this_answer(name, ".".join([secret, *tabs(name)][:_TABS]), seconds=seconds)
    return secret


def tabs(name: str) -> list[str]:
    return [one for one in (read(name) or "").split(".") if one]


def proof(secret: str, purpose: str) -> str:
    """What a form carries to show that it was made for this browser and this purpose."""
    return hmac.new(secret.encode(), f"csrf {purpose}".encode(), hashlib.sha256).hexdigest()


def proven(secret: str, purpose: str) -> bool:
    """Whether the form that was sent is one of ours: its proof, and where the browser says that it comes from."""
    sent = request.form.getlist("csrf")
    return len(sent) == 1 and sent[0].isascii() and hmac.compare_digest(sent[0], proof(secret, purpose)) and same_site()


def same_site() -> bool:
    """Whether browser and Fetch Metadata say, as far as they say anything, that our own page sends this."""
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("Origin")
    if origin is None or origin == running.config().base_url:
        return True
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    # The name was checked at the door; before a proxy that ends TLS, the scheme is not ours to see.
    return parts.scheme in ("http", "https") and parts.netloc == request.host


def address() -> str:
    """Who calls: the nearest hop that is not one of our own proxies (`SCAIKEY_TRUSTED_PROXIES`)."""
    trusted = running.config().trusted_proxies
    caller = request.remote_addr or ""
    said = ",".join(request.headers.getlist("X-Forwarded-For")).split(",")
    for hop in reversed([one.strip() for one in said]):
        if not _is_in(caller, trusted):
            break
        try:
            caller = str(ip_address(hop))
        except ValueError:
            break
    return caller


def user_agent() -> str | None:
    return (request.headers.get("User-Agent") or "")[:300].replace("\0", "") or None


def _is_in(address: str, networks: tuple[Network, ...]) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None) or parsed
    return any(mapped in network for network in networks)


def _https() -> bool:
    return running.config().base_url.startswith("https://")


def _name(name: str) -> str:
    return f"__Host-{name}" if _https() else name
