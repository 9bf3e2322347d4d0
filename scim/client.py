"""One SCIM receiver, spoken to about one resource at a time.

Owns the requests of RFC 7644 that provisioning needs (find, read, create, replace, patch, remove), the suspicion
with which their answers are read, and the words for what went wrong. What should be at the receiver, when to try
again and what is remembered of it are `scim.push`'s. Remote ids are the receiver's; nothing here knows ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Protocol
from urllib.parse import quote, urlencode

import orjson

from broker.strict_json import StrictJsonError, loads
from connectors.http import Blocked, HttpClient, OutboundError, Response, TooLarge
from scim.exchange import LONGEST_ANSWER, Exchange
from scim.profiles import Profile, capabilities
from scim.remotes import Listing
from scim.remotes import Remote as Remote

MEMBER = "GroupMember"
ENDPOINTS = {"User": "Users", "Group": "Groups", MEMBER: "GroupMembers"}
PATCH_OP = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
BULK_REQUEST = "urn:ietf:params:scim:api:messages:2.0:BulkRequest"
_LONGEST_MEMBERS = 4 * LONGEST_ANSWER
_LONGEST_ID = 500


class TargetError(Exception):
    """What a receiver did to us, in words for an administrator: method, path, status and the detail it gave, no secret.

    `again`: trying again may help. `everywhere`: it says more about the receiver than about this resource.
    """

    again: ClassVar[bool] = False
    everywhere: ClassVar[bool] = False

    def __init__(self, text: str, exchange: Exchange | None = None, *, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.exchange = exchange
        """What was said; none where the fault is not of one request."""
        self.retry_after = retry_after

    @property
    def told(self) -> dict[str, Any] | None:
        """The exchange as an administrator may see it."""
        return self.exchange.told if self.exchange is not None else None


class Unreachable(TargetError):
    """No answer, or a broken one: whether the request was carried out is not known."""

    again, everywhere = True, True


class Overlong(TargetError):
    """Its answer is longer than we take: whether the request was carried out is not known."""

    again = True


class Busy(TargetError):
    """It asks us to come back later (429, 503), or its gateway has nobody behind it (502, 504)."""

    again, everywhere = True, True


class Denied(TargetError):
    """Our credential is not accepted (401)."""

    again, everywhere = True, True


class Forbidden(TargetError):
    """403: our credential does not suffice for this resource, such as an account the receiver keeps from us."""

    again = True


class Closed(TargetError):
    """There is no way in at this address: our own rules forbid it, it redirects, or it is no SCIM base URL."""

    again, everywhere = True, True


class Troubled(TargetError):
    """It failed over this request (5xx), or its answer is not SCIM."""

    again = True


class Missing(TargetError):
    """404."""


class Clash(TargetError):
    """409: it has one like this already."""


class Unsupported(TargetError):
    """405 or 501: it does not know the method."""


class Refused(TargetError):
    """Any other refusal; the same request will be refused again."""


class NoTarget(Refused):
    """What the path of a PATCH names is not there (RFC 7644 §3.12)."""


_KINDS: dict[int, type[TargetError]] = {
    401: Denied,
    403: Forbidden,
    404: Missing,
    405: Unsupported,
    408: Troubled,
    409: Clash,
    412: Troubled,  # we ask for no condition: two changes at once got into each other's way there
    425: Troubled,
    429: Busy,
    501: Unsupported,
    502: Busy,
    503: Busy,
    504: Busy,
}


class Credential(Protocol):
    """What is shown at a receiver."""

    def token(self) -> str: ...

    def renew(self, refused: str) -> bool:
        """The receiver refused this token; whether there is another to try."""

    def accepted(self) -> None:
        """The receiver took the token."""


class Fixed:
    """A token that stays what it is."""

    def __init__(self, token: str) -> None:
        self._token = token

    def token(self) -> str:
        return self._token

    def renew(self, refused: str) -> bool:
        return False

    def accepted(self) -> None:
        """Nothing follows from it."""


class TargetClient:
    """Speaks to one receiver with one credential. Every method raises TargetError in one of its kinds."""

    def __init__(
        self,
        http: HttpClient,
        base_url: str,
        credential: Credential | str | None,
        *,
        profile: Profile | None = None,
        timeout: float = 15.0,
    ) -> None:
        self._http = http
        self._base = base_url.rstrip("/")
        self._credential = Fixed(credential) if isinstance(credential, str) else credential
        self._timeout = timeout
        self._listing = Listing()
        self.profile = profile or Profile()

    def find(self, resource_type: str, attribute: str, value: str) -> list[Remote]:
        """Those whose `attribute` equals the value. Refused when the receiver ignores filters: it tells none apart."""
        if not self.profile.searches:
            read = partial(self._everybody, resource_type)
            return self._listing.find(resource_type, attribute, value, read)
        remotes, _ = self._listed(
            resource_type, {"filter": f"{attribute} eq {orjson.dumps(value).decode()}", **self._first(10)}
        )
        if not all(remote.agrees(attribute, value) for remote in remotes):
            text = f"GET /{ENDPOINTS[resource_type]}: the target does not filter by {attribute}"
            raise Refused(text)
        return remotes

    def _everybody(self, resource_type: str) -> list[Remote]:
        remotes, total = self._listed(resource_type, {})
        if total > len(remotes):
            raise Refused(f"GET /{ENDPOINTS[resource_type]}: the target can neither search nor list everybody at once")
        return remotes

    def _listed(self, resource_type: str, query: dict[str, str]) -> tuple[list[Remote], int]:
        if resource_type == "Group" and self.profile.excludes:
            query["excludedAttributes"] = "members"
        path = f"/{ENDPOINTS[resource_type]}"
        try:
            asked = self._ask("GET", path, query=urlencode(query, quote_via=quote))
        except Missing:
            return [], 0  # some say "nobody" so
        found = _json(asked)
        listed, total = Remote("", found).get("Resources"), Remote("", found).get("totalResults")
        listed = [] if listed is None else listed
        if not isinstance(listed, list) or not isinstance(total, int):
            raise Troubled(f"{_answered(asked)} with something that is no list", asked)
        return [_remote(asked, one) for one in listed], total

    def find_any(self, resource_type: str, pairs: Sequence[tuple[str, str]]) -> list[Remote]:
        """Those of which one attribute equals its value. Refused when the receiver does not show them all at once."""
        path = f"/{ENDPOINTS[resource_type]}"
        terms = (f"{attribute} eq {orjson.dumps(value).decode()}" for attribute, value in pairs)
        query = {"filter": " or ".join(terms), **self._first(self.profile.page)}
        if resource_type == "Group" and self.profile.excludes:
            query["excludedAttributes"] = "members"
        asked = self._ask("GET", path, query=urlencode(query, quote_via=quote))
        answer = Remote("", _json(asked))
        listed, total = answer.get("Resources") or [], answer.get("totalResults")
        if not isinstance(listed, list) or not isinstance(total, int) or total > len(listed):
            raise Refused(f"{_answered(asked)} without everybody who was asked for", asked)
        return [_remote(asked, one) for one in listed]

    def page(
        self, resource_type: str, position: str | None, *, filter: str | None = None
    ) -> tuple[list[Remote], int | None, str | None]:
        """One page of everything it has, without the members of groups: resources, how many in all, where to go on.

        A position is an index, or after the first page a cursor of the receiver's, marked by a `+` before it.
        """
        query = self._first(self.profile.page)
        if position is not None and position.startswith("+"):
            query = {"cursor": position[1:], "count": str(self.profile.page)}
        elif position is not None:
            query["startIndex"] = position
        elif self.profile.paging == "cursor":
            query["cursor"] = ""
        if filter is not None:
            query["filter"] = filter
        if resource_type == "Group" and self.profile.excludes:
            query["excludedAttributes"] = "members"
        path = f"/{ENDPOINTS[resource_type]}"
        asked = self._ask("GET", path, query=urlencode(query, quote_via=quote))
        answer = Remote("", _json(asked))
        listed, total, cursor = answer.get("Resources") or [], answer.get("totalResults"), answer.get("nextCursor")
        if not isinstance(listed, list):
            raise Troubled(f"{_answered(asked)} with something that is no list", asked)
        remotes = [_remote(asked, one) for one in listed]
        total = total if isinstance(total, int) and not isinstance(total, bool) else None
        if isinstance(cursor, str) and cursor and remotes:
            return remotes, total, f"+{cursor}"
        if not remotes or self.profile.paging != "index" or (position or "").startswith("+"):
            return remotes, total, None
        following = int(position or 1) + len(remotes)
        return remotes, total, str(following) if total is None or following <= total else None

    def member_ids(self, remote_id: str) -> list[str]:
        """The ids of everybody in a group there. Raises Overlong where even they alone do not fit into an answer."""
        path = _path("Group", remote_id)
        try:
            asked = self._ask("GET", path)
        except Overlong:
            asked = self._ask("GET", path, query="attributes=members.value", most=_LONGEST_MEMBERS)
        members = _remote(asked, _json(asked, _LONGEST_MEMBERS)).get("members") or []
        if not isinstance(members, list):
            raise Troubled(f"{_answered(asked)} with members that are no list", asked)
        values = (Remote("", member).get("value") for member in members if isinstance(member, dict))
        return [value for value in values if isinstance(value, str)]

    def discover(self, *, whole: bool = False) -> dict[str, Any]:
        """What the receiver says it can do; nothing of what it does not say. `whole`: raises where it may say more
        another time."""
        said: list[Any] = []
        for path in ("/ServiceProviderConfig", "/Schemas", "/ResourceTypes"):
            try:
                said.append(_json(self._ask("GET", path)))
            except TargetError as error:
                if error.everywhere or (whole and error.again):
                    raise
                said.append({})
        return capabilities(*said)

    def bulk(self, operations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The answers to these operations, in no order. Raises for the request as a whole."""
        body = {"schemas": [BULK_REQUEST], "Operations": list(operations)}
        asked = self._ask("POST", "/Bulk", body=body)
        answers = Remote("", _json(asked)).get("Operations")
        if not isinstance(answers, list):
            raise Troubled(f"{_answered(asked)} without operations", asked)
        return [answer for answer in answers if isinstance(answer, dict)]

    def refusal(self, operation: Mapping[str, Any], status: int, said: Any) -> TargetError:
        """What one operation of a bulk request was refused with."""
        body = orjson.dumps(said) if isinstance(said, dict) else b""
        token = None if self._credential is None else self._credential.token()
        response = Response(status, {}, body)
        asked = Exchange("POST", "/Bulk", body={"Operations": [operation]}, response=response, token=token)
        return _refusal(asked, f"{operation['method']} {operation['path']} in a bulk request")

    def read(self, resource_type: str, remote_id: str) -> Remote:
        """One resource; a group without its members."""
        query = "excludedAttributes=members" if resource_type == "Group" and self.profile.excludes else ""
        asked = self._ask("GET", _path(resource_type, remote_id), query=query)
        return _remote(asked, _json(asked))

    def create(self, resource_type: str, document: Mapping[str, Any]) -> str:
        """Make it; returns its remote id."""
        try:
            asked = self._ask("POST", f"/{ENDPOINTS[resource_type]}", body=document)
        except Missing as missing:
            raise Closed(f"{missing}. Is this its base URL?", missing.exchange) from None
        made = _remote(asked, _json(asked)).id
        self._listing.add(resource_type, Remote(made, document))
        return made

    def replace(self, resource_type: str, remote_id: str, document: Mapping[str, Any]) -> None:
        # Strict receivers refuse a PUT whose id does not say the path's (RFC 7644 §3.5.1 lets them).
        self._ask("PUT", _path(resource_type, remote_id), body={**document, "id": remote_id})

    def patch(self, resource_type: str, remote_id: str, operations: Sequence[Mapping[str, Any]]) -> None:
        body = {"schemas": [PATCH_OP], "Operations": list(operations)}
        self._ask("PATCH", _path(resource_type, remote_id), body=body)

    def remove(self, resource_type: str, remote_id: str) -> None:
        """Make it gone; that it was gone before is as good."""
        self._listing.forget()
        try:
            self._ask("DELETE", _path(resource_type, remote_id))
        except Missing:
            return

    def _ask(
        self,
        method: str,
        path: str,
        *,
        query: str = "",
        body: Mapping[str, Any] | None = None,
        most: int = LONGEST_ANSWER,
    ) -> Exchange:
        token = None if self._credential is None else self._credential.token()
        asked = self._send(Exchange(method, path, query, body, token=token), most)
        response = _response(asked)
        if self._credential is not None and token is not None:
            if response.status == 401 and self._credential.renew(token):
                asked = self._send(Exchange(method, path, query, body, token=self._credential.token()), most)
                response = _response(asked)
            if response.status != 401:
                self._credential.accepted()
        if not 200 <= response.status < 300:
            if response.status in (404, 409):
                self._listing.forget()
            raise _refusal(asked, str(asked))
        if (response.header("content-type") or "").lower().startswith("text/html"):
            # A gateway's page, whatever status it has: the receiver itself has not been asked.
            raise Troubled(f"{_answered(asked)} with a page", asked)
        return asked

    def _send(self, asked: Exchange, most: int) -> Exchange:
        headers = {"Accept": "application/scim+json, application/json"}
        if asked.token is not None:
            headers["Authorization"] = f"Bearer {asked.token}"
        if asked.body is not None:
            headers["Content-Type"] = "application/scim+json"
        try:
            response = self._http.request(
                asked.method,
                self._base + asked.path + (f"?{asked.query}" if asked.query else ""),
                headers=headers,
                body=None if asked.body is None else orjson.dumps(asked.body),
                timeout=self._timeout,
                max_response=most,
                attempts=1,
            )
        except Blocked as error:
            raise Closed(f"{asked}: {error}") from None
        except TooLarge as error:
            raise Overlong(f"{asked}: {error}", asked) from None
        except OutboundError as error:
            raise Unreachable(f"{asked}: {error}", asked) from None
        return replace(asked, response=response)

    def _first(self, count: int) -> dict[str, str]:
        """The query of a first page of so many."""
        if self.profile.paging == "none":
            return {}
        return {"startIndex": "1", "count": str(count)} if self.profile.paging == "index" else {"count": str(count)}


def _response(asked: Exchange) -> Response:
    assert asked.response is not None
    return asked.response


def _answered(asked: Exchange) -> str:
    return f"{asked} answered {_response(asked).status}"


def _json(asked: Exchange, most: int = LONGEST_ANSWER) -> dict[str, Any]:
    response = _response(asked)
    try:
        answer = loads(response.body, max_bytes=most)
    except StrictJsonError:
        answer = None
    if not isinstance(answer, dict):
        kind = (response.header("content-type") or "no content type").partition(";")[0][:60]
        raise Troubled(f"{_answered(asked)} with {kind} that is not SCIM", asked)
    return answer


def _remote(asked: Exchange, answer: Any) -> Remote:
    remote_id = Remote("", answer).get("id") if isinstance(answer, dict) else None
    if not isinstance(remote_id, str) or not is_id(remote_id):
        raise Troubled(f"{_answered(asked)} without a usable id", asked)
    return Remote(remote_id, answer)


def _refusal(asked: Exchange, what: str) -> TargetError:
    response = _response(asked)
    kind = _KINDS.get(response.status)
    if kind is None:
        kind = Closed if response.status < 400 else Refused if response.status < 500 else Troubled
    scim_type, said = asked.words()
    if kind is Refused and scim_type == "noTarget":
        kind = NoTarget
    text = f"{what} answered {response.status}"
    return kind(f"{text}: {said}" if said else text, asked, retry_after=response.retry_after)


def _path(resource_type: str, remote_id: str) -> str:
    return f"/{ENDPOINTS[resource_type]}/{quote(remote_id, safe='')}"


def is_id(text: str) -> bool:
    """Fit to stand in a path and in a filter: a dot segment would name another resource."""
    return 0 < len(text) <= _LONGEST_ID and text.isprintable() and text not in (".", "..")
