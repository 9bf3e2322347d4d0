"""A person whose browser is only what signing in needs: redirects, cookies, forms. Far cheaper than Chromium.

For journeys whose point is the programs at both ends; what only a browser can show is asked of a real one
(`visitor`), which understands the same steps.
"""

from __future__ import annotations

import http.client
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookies import SimpleCookie
from urllib.parse import urlencode, urljoin, urlsplit

_REDIRECTS = {301, 302, 303, 307, 308}
_MOST = 20


@dataclass
class Form:
    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)
    buttons: list[dict[str, str]] = field(default_factory=list)


class _Page(HTMLParser):
    """The forms of a page, its words, and where it sends the browser by itself."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.forms: list[Form] = []
        self.words: list[str] = []
        self.onward: str | None = None
        self._button: dict[str, str] | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(Form(said.get("action", ""), said.get("method", "get").upper()))
        elif tag == "meta" and said.get("http-equiv", "").lower() == "refresh":
            self.onward = said["content"].partition("url=")[2]
        elif not self.forms:
            return
        elif tag == "button" or (tag == "input" and said.get("type") == "submit"):
            self._button = {"name": said.get("name", ""), "value": said.get("value", ""), "text": ""}
            self.forms[-1].buttons.append(self._button)
        elif tag == "input" and said.get("type") not in ("checkbox", "radio"):
            self.forms[-1].fields[said.get("name", "")] = said.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "button":
            self._button = None

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self._button is not None:
            self._button["text"] += data


class Walker:
    """`url` and `status` are of the page one stands at."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 0
        self._page = _Page("")
        self._cookies: dict[tuple[str, str, str], str] = {}

    def goto(self, url: str) -> int:
        self._go("GET", url)
        return self.status

    def submit(self, **fields: str) -> None:
        """The form that has these fields, or the first one, by its first button."""
        form = next(one for one in self._page.forms if fields.keys() <= one.fields.keys())
        self._send(form, {**form.fields, **fields}, form.buttons[0])

    def choose(self, name: str, text: str = "") -> None:
        """The button of this name that says or sends `text`."""
        form, button = next(
            (form, button)
            for form in self._page.forms
            for button in form.buttons
            if button["name"] == name and (text in button["text"] or text == button["value"])
        )
        self._send(form, form.fields, button)

    def asks(self, *names: str) -> str:
        """Which of these the page asks for, the first one. Fails when it is none."""
        found = next((name for name in names if self.has(name)), None)
        assert found is not None, f"nothing of {names} at {self.url}: {self.text()}"
        return found

    def has(self, name: str) -> bool:
        return any(
            name in form.fields or name in {button["name"] for button in form.buttons} for form in self._page.forms
        )

    def arrive(self, prefix: str) -> str:
        assert self.url.startswith(prefix), f"at {self.url} ({self.status}): {self.text()}"
        return self.url

    def text(self) -> str:
        return " ".join("".join(self._page.words).split())

    def _send(self, form: Form, fields: dict[str, str], button: dict[str, str]) -> None:
        pressed = {button["name"]: button["value"]} if button["name"] else {}
        body = urlencode({**{name: value for name, value in fields.items() if name}, **pressed})
        target = urljoin(self.url, form.action)
        if form.method == "POST":
            self._go("POST", target, body)
        else:
            self._go("GET", f"{target}?{body}")

    def _go(self, method: str, url: str, body: str | None = None) -> None:
        for _ in range(_MOST):
            place = urlsplit(url)
            connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=20)
            headers = {"Cookie": self._brought(place.hostname or "", place.path)}
            if body is not None:
                headers["Content-Type"] = "application/x-www-form-urlencoded"
            connection.request(method, f"{place.path or '/'}{'?' + place.query if place.query else ''}", body, headers)
            answer = connection.getresponse()
            html = answer.read().decode(errors="replace")
            connection.close()
            self._keep(place.hostname or "", answer.headers.get_all("Set-Cookie") or [])
            self.url, self.status, self._page = url, answer.status, _Page(html)
            onward = answer.headers["Location"] if answer.status in _REDIRECTS else self._page.onward
            if onward is None:
                return
            method, url, body = "GET", urljoin(url, onward), None
        raise AssertionError(f"round in circles at {url}")

    def _brought(self, host: str, path: str) -> str:
        """Browsers tell hosts apart, not ports."""
        mine = {
            name: value
            for (kept_for, below, name), value in self._cookies.items()
            if kept_for == host and (path == below or path.startswith(below.rstrip("/") + "/"))
        }
        return "; ".join(f"{name}={value}" for name, value in mine.items())

    def _keep(self, host: str, said: list[str]) -> None:
        for line in said:
            for name, morsel in SimpleCookie(line).items():
                key = (host, morsel["path"] or "/", name)
                if morsel["max-age"] == "0" or "1970" in morsel["expires"]:
                    self._cookies.pop(key, None)
                else:
                    self._cookies[key] = morsel.value
