"""Asking over HTTP, as anybody may: ScaiKey's admin API, its SCIM, and the application's SCIM.

Owns the request, the answer, and the sentence that says what was unexpected about it. Standard library only, so that
no client's convenience hides what a server does.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

Json = dict[str, Any]
ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"

_PAGE = 200


class Unexpected(Exception):
    """Another answer than the one the story needs."""


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any


@dataclass(frozen=True)
class Door:
    """One base URL and the token shown there."""

    base_url: str
    token: str | None = None

    def ask(self, method: str, path: str, body: Json | None = None) -> Answer:
        """Any answer will do. Raises Unexpected when there is none."""
        place = urlsplit(self.base_url)
        headers = {"Accept": "application/json, application/scim+json", "Content-Type": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
        try:
            content = None if body is None else json.dumps(body).encode()
            connection.request(method, place.path + path, content, headers)
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unexpected(f"{method} {place.path}{path} got no answer: {error or type(error).__name__}") from None
        finally:
            connection.close()
        try:
            return Answer(response.status, json.loads(text) if text else None)
        except ValueError:
            return Answer(response.status, text.decode(errors="replace"))

    def get(self, path: str) -> Json:
        return self._fine("GET", path)

    def post(self, path: str, body: Json | None = None) -> Json:
        return self._fine("POST", path, body)

    def patch(self, path: str, body: Json) -> Json:
        return self._fine("PATCH", path, body)

    def items(self, path: str) -> Iterator[Json]:
        """Everything in a list of the admin API."""
        mark = "&" if "?" in path else "?"
        cursor = ""
        while True:
            page = self.get(f"{path}{mark}limit={_PAGE}{cursor}")
            yield from page["items"]
            if page["next_cursor"] is None:
                return
            cursor = f"&cursor={quote(page['next_cursor'])}"

    def total(self, endpoint: str, matching: str | None = None) -> int:
        """How many a SCIM server says it has, or has of those that match a filter."""
        asked = "" if matching is None else f"&filter={quote(matching)}"
        return int(self.get(f"/{endpoint}?count=0{asked}")["totalResults"])

    def resources(self, endpoint: str, query: str = "") -> list[Json]:
        """Everything a SCIM server has at an endpoint."""
        found: list[Json] = []
        while True:
            page = self.get(f"/{endpoint}?startIndex={len(found) + 1}&count={_PAGE}{query}")
            more = page.get("Resources") or []
            found += more
            if not more or len(found) >= page["totalResults"]:
                return found

    def _fine(self, method: str, path: str, body: Json | None = None) -> Json:
        answer = self.ask(method, path, body)
        if not 200 <= answer.status < 300 or not isinstance(answer.body, dict):
            raise Unexpected(f"{method} {urlsplit(self.base_url).path}{path} answered {answer.status}: {answer.body}")
        return answer.body
