"""What came in, as Authlib's grants want it: one value per parameter, from one place, readable text only.

Parameters of a POST are those of its body alone: what stands in a URL ends in logs. Which of them mean what is
`grants`' and `authorize`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from authlib.oauth2 import OAuth2Request
from authlib.oauth2.rfc6749 import InvalidRequestError, OAuth2Payload
from flask import Request

LONGEST = 8_192
"""Characters of one parameter; a client's assertion is the longest there is."""

_REPEATABLE = frozenset({"resource"})


class Parameters(OAuth2Payload):  # type: ignore[misc]
    def __init__(self, given: Mapping[str, list[str]]) -> None:
        self._lists = given
        # RFC 6749 section 3.1: a parameter without a value counts as omitted.
        self._first = {name: values[0] for name, values in given.items() if values and values[0]}

    @property
    def data(self) -> Mapping[str, str]:
        return self._first

    @property
    def datalist(self) -> Mapping[str, list[str]]:
        return self._lists


class HouseRequest(OAuth2Request):  # type: ignore[misc]
    """A request at one endpoint of one issuer."""

    def __init__(self, method: str, headers: Mapping[str, str], given: Mapping[str, list[str]]) -> None:
        # Authlib refuses http by its own rules; whether that will do was decided at the start, from the base URL.
        super().__init__(method, "https://issuer.invalid/", headers=headers)
        self.payload = Parameters(given)

    @property
    def form(self) -> Mapping[str, str]:
        data: Mapping[str, str] = self.payload.data
        return data

    @property
    def args(self) -> Mapping[str, str]:
        return self.form

    def get(self, name: str) -> str | None:
        return self.form.get(name)

    def check_form(self) -> None:
        """Raises InvalidRequestError for a parameter given twice or too long, or that is no readable text."""
        for name, values in self.payload.datalist.items():
            if len(values) > 1 and name not in _REPEATABLE:
                raise InvalidRequestError("A parameter is given more than once")
            for value in values:
                if len(value) > LONGEST or not value.isprintable():
                    raise InvalidRequestError("A parameter is too long or holds control characters")

    def target(self) -> str | None:
        """The one API asked for by `resource` (RFC 8707) or `audience`; raises ValueError when there are two."""
        asked = {value for name in ("resource", "audience") for value in self.payload.datalist.get(name, ()) if value}
        if len(asked) > 1:
            raise ValueError("two targets")
        return next(iter(asked), None)


def of_query(request: Request) -> HouseRequest:
    return HouseRequest("GET", _headers(request), _lists(request.args))


def of_body(request: Request) -> HouseRequest:
    """Raises InvalidRequestError when the body is no form."""
    read = HouseRequest(request.method, _headers(request), _lists(request.form))
    if request.mimetype != "application/x-www-form-urlencoded":
        raise InvalidRequestError("Send application/x-www-form-urlencoded")
    return read


def _headers(request: Request) -> Mapping[str, str]:
    return cast("Mapping[str, str]", request.headers)


def _lists(values: Any) -> dict[str, list[str]]:
    return {name: list(found) for name, found in values.lists()}
