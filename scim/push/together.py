"""Several people, or several new groups, in one request, where the target offers /Bulk (RFC 7644 §3.7).

Owns which works go together, the search for all of them at once, and what each operation's answer comes to; whatever
is out of the ordinary with one person is done alone, by `delivery`. An answer that does not arrive leaves
everybody in it uncertain: each is looked for before he is made again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import orjson

from broker.attributes import fold
from scim.client import ENDPOINTS, Clash, Missing, Refused, Remote, TargetError, Troubled, Unsupported, is_id

from .delivery import NAMES, Channel, Errand, carry_out, failed, only
from .work import Outcome, Work

_LEAST = 20
"""Fewer in one request are not worth it when connections are free."""
_FRAME = 512
"""Octets of a bulk request around its operations."""
_FILTER = 3_000
"""Letters of a filter: with its escapes it stays below what servers take for an address."""


def batches(works: Sequence[Work], channel: Channel, connections: int) -> list[list[Work]]:
    """The works as they shall be sent: those that may go together, in as many requests as there are connections.

    What failed goes with fewer the next time, and alone in the end: a target may be too slow for many at once.
    """
    joint = [work for work in works if _may_join(work, channel)] if channel.takes_bulk else []
    if len(joint) < 2:
        return [[work] for work in works]
    size = min(channel.client.profile.bulk_operations, max(_LEAST, -(-len(joint) // connections)))
    joined = {id(work) for work in joint}
    alone = [[work] for work in works if id(work) not in joined]
    together = []
    joint.sort(key=_alike)
    for (_, attempts), equal in groupby(joint, key=_alike):
        same, most = list(equal), max(1, size >> min(2 * attempts, 16))
        together += [same[start : start + most] for start in range(0, len(same), most)]
    return together + alone


def _alike(work: Work) -> tuple[str, int]:
    return work.resource_type, work.attempts


def carry_out_together(works: Sequence[Work], channel: Channel) -> list[Outcome]:
    """Do what the works say, all of them people to be made or changed, or all of them groups to be made; those that
    turned out not ours are left out."""
    if channel.stopped or not channel.takes_bulk:
        return [Outcome(work, "back") for work in works]
    outcomes: list[Outcome] = []
    errands = [Errand(work, channel) for work in works]
    try:
        ready = [pair for chunk in _searches(errands) for pair in _find(chunk, channel, outcomes)]
    except TargetError as error:
        found = {id(outcome.work) for outcome in outcomes}
        rest = [errand for errand in errands if id(errand.work) not in found]
        if error.again:
            return outcomes + [failed(errand, error) for errand in rest]
        channel.takes_bulk = False  # it cannot be searched so: one by one, then
        return outcomes + [Outcome(errand.work, "back") for errand in rest]
    for part in _requests(ready, channel):
        outcomes += _send(part, channel)
    return outcomes


Ready = tuple[Errand, str | None, dict[str, Any], int]
"""An errand, the remote id if it is there, its operation, and how many octets that has."""


def _may_join(work: Work, channel: Channel) -> bool:
    if channel.client.profile.bulk_operations < 2 or work.deed != "provide" or not work.usable:
        return False
    if work.resource_type == "Group":
        return work.remote_id is None
    return channel.puts and work.digest != work.known_digest


def _searches(errands: Sequence[Errand]) -> Iterator[list[Errand]]:
    """Those that may be looked for in one request; those that need not be, together."""
    known = [errand for errand in errands if errand.work.remote_id is not None]
    if known:
        yield known
    chunk: list[Errand] = []
    length = 0
    profile = errands[0].client.profile
    for errand in errands:
        if errand.work.remote_id is not None:
            continue
        length += 60 + len(errand.work.resource_id) + 2 * len(errand.work.name)
        if chunk and (length > _FILTER or 2 * len(chunk) + 2 > profile.page):
            yield chunk
            chunk, length = [], 60 + len(errand.work.resource_id) + 2 * len(errand.work.name)
        chunk.append(errand)
    if chunk:
        yield chunk


def _find(errands: Sequence[Errand], channel: Channel, outcomes: list[Outcome]) -> list[Ready]:
    """Each with what is there of him; who is there twice is told apart into the outcomes."""
    unknown = [errand.work for errand in errands if errand.work.remote_id is None]
    there = _search(unknown, channel) if unknown else []
    ready = []
    for errand in errands:
        work = errand.work
        remote_id = work.remote_id
        if remote_id is None:
            try:
                ours = [one for one in there if one.get("externalId") == work.resource_id]
                remote_id = only(ours or errand.not_others([one for one in there if _is_called(one, work)]))
            except Refused as error:
                outcomes.append(failed(errand, error))
                continue
            if remote_id is not None and work.resource_type == "Group":
                outcomes += _alone(work, channel)  # it is adopted by a PATCH of its own
                continue
        ready.append(_ready(errand, remote_id))
    return ready


def _search(works: Sequence[Work], channel: Channel) -> list[Remote]:
    kind = works[0].resource_type
    pairs = [pair for work in works for pair in (("externalId", work.resource_id), (NAMES[kind], work.name))]
    found = channel.client.find_any(kind, [pair for pair in pairs if pair[0] in channel.client.profile.filters])
    ids, names = {work.resource_id for work in works}, {fold(work.name) for work in works}
    if any(one.get("externalId") not in ids and fold(str(one.get(NAMES[kind]))) not in names for one in found):
        raise Refused(f"GET /{ENDPOINTS[kind]}: the target does not filter by several values")
    return found


def _is_called(remote: Remote, work: Work) -> bool:
    return fold(str(remote.get(NAMES[work.resource_type]))) == fold(work.name)


def _ready(errand: Errand, remote_id: str | None) -> Ready:
    path, document = f"/{ENDPOINTS[errand.kind]}", errand.to_create if remote_id is None else errand.work.document
    operation: dict[str, Any] = {"method": "POST", "path": path, "data": document}
    if remote_id is not None:
        operation = {"method": "PUT", "path": f"{path}/{remote_id}", "data": {**document, "id": remote_id}}
    return errand, remote_id, operation, len(orjson.dumps(operation)) + 40


def _requests(ready: Sequence[Ready], channel: Channel) -> Iterator[list[Ready]]:
    """As many operations in one request as the target takes, by number and by octets."""
    profile = channel.client.profile
    part: list[Ready] = []
    size = _FRAME
    for one in ready:
        if part and (len(part) >= profile.bulk_operations or size + one[3] > profile.bulk_payload):
            yield part
            part, size = [], _FRAME
        part.append(one)
        size += one[3]
    if part:
        yield part


def _send(part: Sequence[Ready], channel: Channel) -> list[Outcome]:
    if channel.stopped or not channel.takes_bulk:
        return [Outcome(errand.work, "back") for errand, *_ in part]
    now = time.monotonic()
    part = [one for one in part if now <= one[0].work.good_until]
    if len(part) == 1:
        return _alone(part[0][0].work, channel)
    if not part:
        return []
    operations = [{**operation, "bulkId": f"b{number}"} for number, (_, _, operation, _) in enumerate(part)]
    try:
        answers = channel.client.bulk(operations)
    except (Missing, Unsupported):
        channel.takes_bulk = False
        return [Outcome(errand.work, "back") for errand, *_ in part]
    except TargetError as error:
        if error.again:
            return [failed(errand, error) for errand, *_ in part]
        # Too much at once, or one that spoils all: in halves, down to the one it is about.
        middle = len(part) // 2
        return _send(part[:middle], channel) + _send(part[middle:], channel)
    channel.troubles = 0
    outcomes: list[Outcome] = []
    for one, answer in zip(part, _matched(operations, answers), strict=True):
        outcomes += _settled(one, answer, channel)
    return outcomes


def _matched(operations: Sequence[dict[str, Any]], answers: Sequence[dict[str, Any]]) -> list[dict[str, Any] | None]:
    """The answer to each operation: by its bulkId, for a change also by its place; None where nothing was said."""
    named = {answer["bulkId"]: answer for answer in answers if isinstance(answer.get("bulkId"), str)}
    placed = {
        _last(answer["location"]): answer
        for answer in answers
        if answer.get("method") == "PUT" and isinstance(answer.get("location"), str)
    }
    return [
        named.get(operation["bulkId"])
        or (placed.get(_last(operation["path"])) if operation["method"] == "PUT" else None)
        for operation in operations
    ]


def _settled(one: Ready, answer: dict[str, Any] | None, channel: Channel) -> list[Outcome]:
    errand, remote_id, operation, _ = one
    work = errand.work
    where = f"{operation['method']} {operation['path']} in a bulk request"
    status = _status(answer)
    if answer is None or status is None:
        return [failed(errand, Troubled(f"{where} was not answered"))]
    if 200 <= status < 300:
        made = remote_id or _made(answer)
        if made is None:
            return [failed(errand, Troubled(f"{where} answered {status} without a usable id"))]
        # A group is made without its members: they are still owed, and written one group at a time.
        kind: Literal["done", "back"] = "back" if work.resource_type == "Group" else "done"
        return [Outcome(work, kind, "present", made, work.digest)]
    error = channel.client.refusal(operation, status, answer.get("response"))
    if isinstance(error, Clash | Missing | Unsupported):
        return _alone(work, channel)
    errand.refused = remote_id is None and not error.again
    return [failed(errand, error)]


def _alone(work: Work, channel: Channel) -> list[Outcome]:
    outcome = carry_out(work, channel)
    return [] if outcome is None else [outcome]


def _status(answer: dict[str, Any] | None) -> int | None:
    status = (answer or {}).get("status")
    if isinstance(status, dict):  # the form of drafts before RFC 7644
        status = status.get("code")
    if isinstance(status, str) and status.isascii() and status.isdigit():
        status = int(status[:3])
    return status if isinstance(status, int) and not isinstance(status, bool) else None


def _made(answer: dict[str, Any]) -> str | None:
    response = answer.get("response")
    made = Remote("", response).get("id") if isinstance(response, dict) else None
    if made is None and isinstance(answer.get("location"), str):
        made = _last(answer["location"])
    return made if isinstance(made, str) and is_id(made) else None


def _last(location: str) -> str:
    return unquote(urlsplit(location).path.rstrip("/").rsplit("/", 1)[-1])
