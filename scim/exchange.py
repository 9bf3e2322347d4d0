"""One request to a receiver and its answer, as an administrator may see them.

Owns what of an exchange is shown, and how much: names, structure, ids and the words of a SCIM error stay; what is known
of a person becomes `***`, where the receiver repeats what was sent too. A credential is never part of it, and of an
answer that is no JSON only its kind and size are told: what else is in it may be anybody's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus

import orjson

from broker.attributes import ENTERPRISE
from broker.strict_json import StrictJsonError, loads
from connectors.http import Response

LONGEST_ANSWER = 4 * 1024 * 1024
_LONGEST_BODY = 4_096
_LONGEST_TEXT = 300
_ITEMS, _DEPTH, _TEXTS = 10, 8, 200
_HIDDEN = "***"
_HEADERS = ("content-type", "retry-after", "etag", "www-authenticate", "x-request-id", "x-correlation-id")
_PLAIN = """
    schemas id externalId meta resourceType version created lastModified location type $ref members manager groups op
    path method bulkId failOnErrors status scimType detail totalResults itemsPerPage startIndex
"""
_OPEN = frozenset(_PLAIN.lower().split())
"""What tells nothing of a person. Under `members`, `manager` and `groups` stand ids."""
_QUOTED = re.compile(r'(\w+)( \w\w )("(?:[^"\\]|\\.)*")')
_ADDRESS = re.compile(r"[^\s\"'<>()\[\],;:=]{1,64}(?:@|%40)[^\s\"'<>()\[\],;:=]+")
_EVIDENT = 6
"""Letters from which on a value is known again within a word; a shorter one is only where it stands alone."""


@dataclass(frozen=True)
class Exchange:
    """A request that was sent, and its answer; none when it was not answered, or not to its end."""

    method: str
    path: str
    query: str = ""
    body: Mapping[str, Any] | None = None
    response: Response | None = None
    token: str | None = field(default=None, repr=False)
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @cached_property
    def told(self) -> dict[str, Any]:
        """It as JSON, a few thousand letters at most, without secrets and without what is known of a person."""
        request: dict[str, Any] = {"method": self.method, "path": self.path}
        if self.query:
            request["query"] = {name: _QUOTED.sub(_unquoted, value) for name, value in parse_qsl(self.query, True)}
        if self.body is not None:
            request["body"] = _bounded(_masked(self.body, _cut))
        return {"at": self.at.isoformat(timespec="seconds"), "request": request, "answer": self._answer()}

    def words(self) -> tuple[Any, str]:
        """The type of a SCIM error (RFC 7644 §3.12), and its words, cut and cleaned; nothing of any other body."""
        try:
            error = loads(self.response.body if self.response is not None else b"", max_bytes=LONGEST_ANSWER)
        except StrictJsonError:
            return None, ""
        if not isinstance(error, dict):
            return None, ""
        parts = [part for part in (error.get("scimType"), error.get("detail")) if isinstance(part, str) and part]
        return error.get("scimType"), self.clean(" - ".join(parts))

    def _answer(self) -> dict[str, Any] | None:
        response = self.response
        if response is None:
            return None
        headers = {name: self.clean(value) for name in _HEADERS if (value := response.header(name)) is not None}
        answer: dict[str, Any] = {"status": response.status, "headers": headers}
        if response.body:
            try:
                body = loads(response.body, max_bytes=LONGEST_ANSWER)
            except StrictJsonError:
                return {**answer, "body": f"{len(response.body)} octets that are not JSON"}
            left = iter(range(_TEXTS))
            # Each is searched for all that was sent: as many as may be shown, not as many as somebody answers with.
            body = _masked(body, lambda text: _HIDDEN if next(left, None) is None else self.clean(text))
            answer["body"] = _bounded(body)
        return answer

    def clean(self, text: str) -> str:
        """Words of the receiver's: without what was sent, without addresses and control characters, and cut."""
        text = text[: 2 * _LONGEST_TEXT]
        spans = sorted(found.span() for pattern in self._patterns(text) for found in pattern.finditer(text))
        shown, end = "", 0
        for start, stop in spans:
            if start >= _LONGEST_TEXT:
                break
            if start >= end:
                shown += text[end:start] + _HIDDEN
            end = max(end, stop)
        shown += text[end:_LONGEST_TEXT]
        return "".join(letter if letter.isprintable() else " " for letter in shown[:_LONGEST_TEXT])

    def _patterns(self, text: str) -> Iterator[re.Pattern[str]]:
        """What must not be read in this text."""
        yield _ADDRESS
        folded = text.casefold()
        for value in self._sent:
            if value.casefold() in folded:
                alone = len(value) < _EVIDENT
                yield re.compile(rf"(?<![^\W_]){re.escape(value)}(?![^\W_])" if alone else re.escape(value), re.I)

    @cached_property
    def _sent(self) -> frozenset[str]:
        """The credential, and what is known of a person in the request, as far as it could be told."""
        said = [self.token or "", *_closed(self.body or {})]
        for _, value in parse_qsl(self.query):
            said += (orjson.loads(term[3]) for term in _QUOTED.finditer(value) if term[1].lower() not in _OPEN)
        texts = {text for one in said if (text := str(one).strip()[:_LONGEST_TEXT])}
        # A receiver may repeat the address it was asked by, where they stand encoded.
        return frozenset(texts | {quoted(text, safe="") for text in texts for quoted in (quote, quote_plus)})


def _cut(text: str) -> str:
    return text[:_LONGEST_TEXT]


def _closed(value: Any, within: str = "") -> Iterator[Any]:
    """Every value that is hidden where the request is told."""
    if isinstance(value, Mapping):
        named = _named_by(value)
        for name, inner in value.items():
            yield from _closed(inner, _attribute(str(name), named or within))
    elif isinstance(value, list):
        for one in value:
            yield from _closed(one, within)
    elif within not in _OPEN and value is not None and not isinstance(value, bool):
        yield value


def _masked(value: Any, clean: Callable[[str], str], within: str = "", depth: int = 0) -> Any:
    """The value of the attribute `within`, with what is known of a person hidden and every other text made clean; long
    lists and depths are cut."""
    if value is None or value == "" or isinstance(value, bool):
        return value
    if depth > _DEPTH:
        return _HIDDEN
    if isinstance(value, Mapping):
        named = _named_by(value)
        return {
            clean(str(name)): _masked(inner, clean, _attribute(str(name), named or within), depth + 1)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        shown = [_masked(one, clean, within, depth + 1) for one in value[:_ITEMS]]
        return [*shown, f"… {len(value) - _ITEMS} more"] if len(value) > _ITEMS else shown
    if within not in _OPEN:
        return _HIDDEN
    return clean(value) if isinstance(value, str) else value


def _attribute(name: str, within: str) -> str:
    """Whose value stands under this name: a plain `value` is that of the attribute around it. Under the URN of a schema
    attributes are called what somebody likes, so that of those only our own manager is known by his name."""
    name = name.lower()
    if name == "value" or (within.startswith("urn:") and (within, name) != (ENTERPRISE.lower(), "manager")):
        return within
    return name


def _named_by(operation: Mapping[str, Any]) -> str:
    """The attribute that an operation of a PATCH is about."""
    path = operation.get("path")
    return re.split(r"[.\[]", path)[0].lower() if "op" in operation and isinstance(path, str) else ""


def _unquoted(term: re.Match[str]) -> str:
    """A comparison of a filter, without what it looks for unless that is an id of ours."""
    return term[0] if term[1].lower() in _OPEN else f'{term[1]}{term[2]}"{_HIDDEN}"'


def _bounded(body: Any) -> Any:
    text = orjson.dumps(body).decode(errors="replace")
    return body if len(text) <= _LONGEST_BODY else f"{text[:_LONGEST_BODY]}… ({len(text)} letters)"
