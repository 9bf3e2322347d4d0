"""A person's browser, as far as the story needs one: cookies, redirects, forms; no JavaScript.

It goes where pages and redirects send it and fills in what they ask. What the pages mean is the story's.
"""

from __future__ import annotations

import http.client
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookies import SimpleCookie
from urllib.parse import urlencode, urljoin, urlsplit

from .asking import Unexpected

_MOST_REDIRECTS = 12
_TYPE = "application/x-www-form-urlencoded"


@dataclass
class Form:
    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)
    """What the form sends by itself: its hidden and prefilled fields."""
    asks: set[str] = field(default_factory=set)
    """What somebody may type or press."""


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self._open: Form | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._open = Form(given.get("action", ""), given.get("method", "get").upper())
            self.forms.append(self._open)
        elif self._open is not None and tag in ("input", "button") and (name := given.get("name")):
            if given.get("type") == "hidden":
                self._open.fields[name] = given.get("value", "")
            else:
                self._open.asks.add(name)
                if tag == "button":
                    self._open.fields.setdefault(f"={name}", given.get("value", ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._open = None


@dataclass
class Browser:
    """Cookies are kept per host and port, as different programs on one machine need it."""

    cookies: dict[str, dict[str, str]] = field(default_factory=dict)
    url: str = ""
    status: int = 0
    text: str = ""
    hosts: list[str] = field(default_factory=list)
    """Through whom the last journey led."""
    stops_at: str = "-"
    """Redirects are not followed to addresses that begin so."""

    def open(self, url: str) -> None:
        self.hosts = []
        self._go("GET", url, None)

    def forms(self) -> list[Form]:
        parser = _Forms()
        parser.feed(self.text)
        return parser.forms

    def submit(self, **typed: str) -> None:
        """Send the first form that asks for these. Raises Unexpected when the page has none."""
        for form in self.forms():
            if set(typed) <= form.asks:
                sent = {name: value for name, value in form.fields.items() if not name.startswith("=")}
                pressed = {name: form.fields.get(f"={name}", "") for name, value in typed.items() if not value}
                self._go(form.method, urljoin(self.url, form.action), {**sent, **typed, **pressed})
                return
        raise Unexpected(
            f"{self.url} ({self.status}) asks for no {', '.join(typed)}: {' '.join(self.text.split())[:300]}"
        )

    def press(self, action: str) -> None:
        """Send the form that goes there as it is. Raises Unexpected when the page has none."""
        for form in self.forms():
            if form.action == action:
                self._go(form.method, urljoin(self.url, action), form.fields)
                return
        raise Unexpected(f"{self.url} has no form for {action}")

    def _go(self, method: str, url: str, fields: dict[str, str] | None) -> None:
        for _ in range(_MOST_REDIRECTS):
            location = self._ask(method, url, fields)
            if location is None:
                return
            method, url, fields = "GET", urljoin(url, location), None
            if url.startswith(self.stops_at):
                self.url = url
                return
        raise Unexpected(f"{url} redirects without end")

    def _ask(self, method: str, url: str, fields: dict[str, str] | None) -> str | None:
        place = urlsplit(url)
        self.url = url
        if place.netloc not in self.hosts:
            self.hosts.append(place.netloc)
        jar = self.cookies.setdefault(place.netloc, {})
        headers = {"Accept": "text/html", "Cookie": "; ".join(f"{name}={value}" for name, value in jar.items())}
        body = None
        if method == "POST":
            body = urlencode(fields or {})
            headers |= {"Content-Type": _TYPE, "Origin": f"{place.scheme}://{place.netloc}"}
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
        try:
            path = (place.path or "/") + (f"?{place.query}" if place.query else "")
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            self.status, self.text = response.status, response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise Unexpected(f"{method} {url} got no answer: {error or type(error).__name__}") from None
        finally:
            connection.close()
        for line in response.headers.get_all("Set-Cookie") or ():
            for name, morsel in SimpleCookie(line).items():
                if morsel["max-age"] == "0":
                    jar.pop(name, None)
                else:
                    jar[name] = morsel.value
        return response.headers.get("Location") if response.status in (302, 303, 307) else None
