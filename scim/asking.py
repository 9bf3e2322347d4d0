"""What a request asks of a list: its query, whichever way it comes, and the cursors it goes on with.

Owns `Query`, read from the query string or from a SearchRequest (RFC 7644 §3.4.3), and the sealing of cursors
(RFC 9865): a cursor holds a place in a list, for this tenant and this query alone, and for an hour. Finding the
resources is `scim.reading`'s and `scim.walking`'s; here a query becomes what those are asked.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import scim2_models as scim
from scim2_server.cursor import Cursors

from broker.errors import BadRequest

from . import reading
from .declared import Models
from .filters import condition
from .problems import refusal
from .resources import listing, projection
from .schemas import CURSOR_TIMEOUT, DEFAULT_COUNT, MAX_RESULTS
from .sorting import order
from .walking import Place, Stage

SEARCH_REQUEST = "urn:ietf:params:scim:api:messages:2.0:SearchRequest"
_TEXTS = ("filter", "sortBy", "sortOrder", "cursor")
_NUMBERS = ("startIndex", "count")
_LISTS = ("attributes", "excludedAttributes")
_NUMBER = re.compile(r"-?[0-9]{1,18}")
_NAMES = {name.lower(): name for name in (*_TEXTS, *_NUMBERS, *_LISTS)}


@dataclass(frozen=True, slots=True)
class Query:
    """What a list is asked for. `cursor`: None for a page by index, empty for the first page of a walk."""

    filter: str | None = None
    sort_by: str | None = None
    descending: bool = False
    start: int = 1
    count: int | None = None
    cursor: str | None = None
    attributes: str | None = None
    excluded: str | None = None

    @property
    def size(self) -> int:
        """How many resources a page has."""
        return DEFAULT_COUNT if self.count is None else min(MAX_RESULTS, max(0, self.count))


def from_arguments(arguments: Mapping[str, str]) -> Query:
    """The query of a GET. Raises BadRequest."""
    return _query(arguments, from_text=True)


def from_message(body: Any) -> Query:
    """The query in a SearchRequest. Raises BadRequest."""
    if not isinstance(body, dict):
        raise BadRequest("A search is a JSON object", scim_type="invalidSyntax")
    said: dict[str, Any] = {}
    for name, value in body.items():
        known = _NAMES.get(name.lower())
        if known is None or value is None:
            continue
        if known in _LISTS:
            if isinstance(value, str):
                value = [value]
            if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                raise BadRequest(f"{known} is a list of attribute names", scim_type="invalidSyntax")
            value = ",".join(value)
        elif not isinstance(value, str if known in _TEXTS else int) or isinstance(value, bool):
            kind = "text" if known in _TEXTS else "a whole number"
            raise BadRequest(f"{known} is {kind}", scim_type="invalidSyntax" if known in _TEXTS else "invalidValue")
        said[known] = value
    schemas = next((value for name, value in body.items() if name.lower() == "schemas"), [SEARCH_REQUEST])
    if not isinstance(schemas, list) or SEARCH_REQUEST not in schemas:
        raise BadRequest(f"The schema of a search is {SEARCH_REQUEST}", scim_type="invalidSyntax")
    return _query(said, from_text=False)


def _query(said: Mapping[str, Any], *, from_text: bool) -> Query:
    by_cursor = "cursor" in said
    if by_cursor and said.get("startIndex"):
        raise BadRequest("A list is asked for by cursor or by startIndex, not by both", scim_type="invalidValue")
    sort_order = said.get("sortOrder", "ascending").lower()
    if sort_order not in ("ascending", "descending"):
        raise BadRequest("sortOrder is ascending or descending", scim_type="invalidValue")
    return Query(
        filter=said.get("filter"),
        sort_by=said.get("sortBy") or None,
        descending=sort_order == "descending",
        start=max(1, _number(said, "startIndex", "invalidValue") or 1),
        count=_number(said, "count", "invalidCount" if by_cursor else "invalidValue"),
        cursor=said.get("cursor"),
        attributes=said.get("attributes"),
        excluded=said.get("excludedAttributes"),
    )


def _number(said: Mapping[str, Any], name: str, scim_type: str) -> int | None:
    value = said.get(name)
    if value is None or value == "":
        return None
    if not _NUMBER.fullmatch(str(value)):
        raise BadRequest(f"{name} is a whole number of at most 18 digits", scim_type=scim_type)
    return int(value)


@dataclass(frozen=True, slots=True)
class Walk:
    """The cursors of one list: those of one tenant, of these types, with this filter and this order."""

    secret: bytes
    tenant: str
    resource_types: Sequence[str]
    query: Query

    def opened(self) -> tuple[Place | None, int, int | None]:
        """Where the page begins, how long it is, and the total as it was counted at the beginning of the walk.

        Raises BadRequest with the scimTypes invalidCursor, expiredCursor and invalidCount.
        """
        if not self.query.cursor:
            return None, self.query.size, None
        try:
            place = Cursors(self.secret).open(self.query.cursor, self._digest(), None, CURSOR_TIMEOUT)
        except scim.SCIMException as error:
            raise refusal(error) from None
        if self.query.count is not None and self.query.size != place["n"]:
            raise BadRequest("count is another than the walk began with", scim_type="invalidCount")
        return Place(*place["p"]), place["n"], place["t"]

    def sealed(self, stage: Stage, count: int) -> tuple[str | None, str | None]:
        """The cursors of the next page and of the one before."""
        return self._seal(stage.next, count, stage.total), self._seal(stage.previous, count, stage.total)

    def _seal(self, place: Place | None, count: int, total: int | None) -> str | None:
        if place is None:
            return None
        position = {"p": list(place), "n": count, "t": total}
        return Cursors(self.secret).seal(self._digest(), None, position)

    def _digest(self) -> str:
        query = self.query
        said = repr((self.tenant, tuple(self.resource_types), query.filter, query.sort_by, query.descending))
        return hashlib.sha256(said.encode()).hexdigest()


def page_by_index(run: reading.Run, tenant: str, base: str, resource_type: str, query: Query, models: Models) -> bytes:
    """A page of one type by index, as a ListResponse. Raises BadRequest."""
    wanted = projection(resource_type, query.attributes, query.excluded, models)
    where = condition(resource_type, query.filter, models) if query.filter is not None else None
    sorted_by = order(resource_type, query.sort_by, query.descending, models) if query.sort_by else None
    page = reading.page(
        run, tenant, base, wanted, condition=where, order=sorted_by, start=query.start, count=query.size
    )
    return listing(page.resources, page.total, query.start)
