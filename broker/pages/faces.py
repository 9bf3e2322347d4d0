"""How the pages of signing in look: one function for each, from plain values to a finished answer.

Nothing is decided or looked up here; who calls says what is true, and the templates only lay it out. Whatever it
says is taken for hostile: text is escaped, addresses that are none are left out, colours and logos are checked again.
Every form may be answered by a redirect to our own pages and to the addresses in `then`, and nowhere else.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from flask import Response

from broker.context import current_request_id
from broker.pages import accent, words
from broker.pages.door import page, source
from broker.pages.words import gettext as _
from broker.pages.words import ngettext

_RASTER = re.compile(r"data:image/(?:png|jpeg|webp|gif);base64,[A-Za-z0-9+/]+={0,2}")
_PRIVATE_SCHEME = re.compile(r"[a-z][a-z0-9+-]*(?:\.[a-z0-9+-]+)+")


@dataclass(frozen=True)
class Brand:
    """Whose pages these are: a name, a logo as a data URL, an accent `#rrggbb`, and the language they speak."""

    name: str
    logo: str | None = None
    color: str | None = None
    language: str = "en"


@dataclass(frozen=True)
class Button:
    """An upstream to continue with; `id` comes back as the form's `provider`."""

    id: str
    name: str


@dataclass(frozen=True)
class Tile:
    """An application of the launcher. `icon` is shown when it is a data URL: nothing is loaded from other hosts."""

    name: str
    url: str | None
    icon: str | None = None


def brand_of(tenant_name: str, branding: Mapping[str, object], partner: Mapping[str, object]) -> Brand:
    """The tenant's branding; what it leaves open is its partner's, then the house's."""

    def nearest(key: str) -> str | None:
        return next(
            (value for level in (branding, partner) if isinstance(value := level.get(key), str) and value), None
        )

    logo, colour = nearest("logo"), nearest("color")
    return Brand(
        nearest("name") or tenant_name,
        _picture(logo and f"data:image/png;base64,{logo}"),
        colour if accent.is_colour(colour) else None,
        words.language(),
    )


def choose(
    brand: Brand,
    *,
    action: str,
    csrf: str,
    application: str | None,
    username: str = "",
    providers: Sequence[Button],
    ask_password: bool,
    error: str | None = None,
    locked_for: int | None = None,
    again: str | None = None,
    cancel: str | None = None,
    then: Sequence[str] = (),
    status: int = 200,
) -> Response:
    """Who are you, and how: name, password when it is asked for, and the upstreams. `locked_for` is in seconds;
    `again` leads back to where the organisation is asked for."""
    words.speak(brand.language)
    return _face(
        "sign_in/choose.html",
        brand,
        status,
        then,
        action=action,
        csrf=csrf,
        application=application,
        username=username,
        providers=providers,
        ask_password=ask_password,
        error=_trouble(error, locked_for),
        again=_address(again),
        cancel=_address(cancel),
    )


def platform(
    brand: Brand | None = None,
    *,
    action: str,
    csrf: str,
    application: str | None = None,
    identifier: str = "",
    error: str | None = None,
    cancel: str | None = None,
    then: Sequence[str] = (),
    status: int = 200,
) -> Response:
    """Which organisation? Asked at the platform issuer, before a tenant is known."""
    return _face(
        "sign_in/platform.html",
        brand or _house(),
        status,
        then,
        action=action,
        csrf=csrf,
        application=application,
        identifier=identifier,
        error=error,
        cancel=_address(cancel),
    )


def platform_password(
    brand: Brand | None = None,
    *,
    action: str,
    csrf: str,
    application: str | None = None,
    identifier: str,
    error: str | None = None,
    locked_for: int | None = None,
    again: str | None = None,
    cancel: str | None = None,
    then: Sequence[str] = (),
    status: int = 200,
) -> Response:
    """The password at the platform issuer; the same page whether the organisation exists or not."""
    return choose(
        brand or _house(),
        action=action,
        csrf=csrf,
        application=application,
        username=identifier,
        providers=(),
        ask_password=True,
        error=error,
        locked_for=locked_for,
        again=again,
        cancel=cancel,
        then=then,
        status=status,
    )


def consent(
    brand: Brand,
    *,
    action: str,
    csrf: str,
    application: str,
    publisher: str | None,
    scopes: Sequence[str],
    user: str,
    then: Sequence[str] = (),
) -> Response:
    """May this application? The answer is the form's `decision`: `allow` or `deny`."""
    words.speak(brand.language)
    known = _scope_texts()
    return _face(
        "sign_in/consent.html",
        brand,
        200,
        then,
        action=action,
        csrf=csrf,
        application=application,
        publisher=publisher,
        permissions=[(known.get(scope, scope), scope in known) for scope in dict.fromkeys(scopes)],
        user=user,
    )


def logout(
    brand: Brand, *, action: str, csrf: str, user: str, back: str | None = None, then: Sequence[str] = ()
) -> Response:
    """Really sign out?"""
    return _face("sign_in/logout.html", brand, 200, then, action=action, csrf=csrf, user=user, back=_address(back))


def logged_out(brand: Brand | None, *, sign_in: str | None, back: str | None) -> Response:
    return _face("sign_in/logged_out.html", brand or _house(), 200, sign_in=_address(sign_in), back=_address(back))


def apps(
    brand: Brand, *, user: str, applications: Sequence[Tile], sign_out: str, csrf: str, then: Sequence[str] = ()
) -> Response:
    """The launcher; `sign_out` is where its form goes."""
    tiles = [Tile(tile.name, _address(tile.url), _picture(tile.icon)) for tile in applications]
    return _face("launcher/apps.html", brand, 200, then, user=user, applications=tiles, sign_out=sign_out, csrf=csrf)


def post_form(
    url: str, fields: Mapping[str, str], *, origin: str | None = None, brand: Brand | None = None
) -> Response:
    """A form that sends itself to `url` (OIDC form_post, SAML), with a button for browsers without scripts.

    `origin` is where it may go, that of `url` unless given. Raises ValueError when `url` is no address.
    """
    if _address(url) is None:
        raise ValueError(f"{url!r} is no address")
    if brand is not None:
        words.speak(brand.language)
    return page(
        "sign_in/post_form.html",
        colour=_colour(brand),
        forms_to=[source(origin or url)],
        nonce=secrets.token_urlsafe(18),
        brand=brand,
        url=url,
        fields=list(fields.items()),
    )


def onward(brand: Brand | None, *, url: str) -> Response:
    """Leave for `url` by a page of its own: not a redirect, which browsers hold to the policy of the form before it.

    Raises ValueError when `url` is no address.
    """
    if _address(url) is None:
        raise ValueError(f"{url!r} is no address")
    return _face("sign_in/onward.html", brand, 200, url=url)


def refused(
    brand: Brand | None,
    *,
    title: str,
    text: str,
    status: int,
    back: str | None = None,
    request_id: str | None = None,
) -> Response:
    """A plain page that says no; `broker.pages.refusals` has the words for the usual reasons."""
    number = request_id or current_request_id()
    return _face("refused.html", brand, status, title=title, text=text, back=_address(back), request_id=number)


def _face(
    template: str, brand: Brand | None, status: int = 200, then: Sequence[str] | None = None, **values: Any
) -> Response:
    if brand is not None:
        words.speak(brand.language)
    forms_to = ["'none'"] if then is None else ["'self'", *dict.fromkeys(source(url) for url in then)]
    return page(template, status, colour=_colour(brand), forms_to=forms_to, brand=brand, **values)


def _colour(brand: Brand | None) -> str | None:
    return brand.color if brand and accent.is_colour(brand.color) else None


def _house() -> Brand:
    """The platform's own pages, which belong to no tenant."""
    return Brand("ScaiKey", language=words.language())


def _trouble(error: str | None, locked_for: int | None) -> str | None:
    if locked_for is None:
        return error
    minutes = max(1, -(-locked_for // 60))
    return ngettext(
        "Too many attempts. Try again in %(num)d minute.", "Too many attempts. Try again in %(num)d minutes.", minutes
    )


def _scope_texts() -> dict[str, str]:
    return {
        "openid": _("Know who you are when you sign in"),
        "profile": _("See your name, user name and profile"),
        "email": _("See your e-mail address"),
        "offline_access": _("Keep this access when you are not using it"),
        "scaikey:read": _("See what you administer in ScaiKey"),
        "scaikey:write": _("Change what you administer in ScaiKey"),
        "scim": _("Read and change people and groups in your name"),
        "introspect": _("Check whether access tokens are valid"),
    }


def _address(url: str | None) -> str | None:
    """`url` when a link may lead there: a path of ours, the web, or a native app's own scheme (RFC 8252)."""
    if url is None or not url.isprintable() or "\\" in url:
        return None
    if url.startswith("/"):
        return None if url.startswith("//") else url
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    if parts.scheme in ("http", "https"):
        return url if parts.hostname else None
    return url if _PRIVATE_SCHEME.fullmatch(parts.scheme) else None


def _picture(url: str | None) -> str | None:
    return url if url and _RASTER.fullmatch(url) else None
