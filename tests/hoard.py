"""A receiver for very many people: `python -m tests.hoard PORT`. It keeps all it is told, offers bulk, and is quick.

Owns as much of SCIM as a push and a comparison ask for; every look-up is a dictionary's. It refuses nobody, so that who
is made twice is there twice, and writes a line for each change, those in bulk included. It is a process of its own, so
that what it takes is nobody else's memory.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import sys
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Json = dict[str, Any]
BULK = 500
PAGE = 200
_PAIR = re.compile(r'(\w+) eq ("(?:[^"\\]|\\.)*")')
_KEYS = ("externalId", "userName", "displayName")


class Shelf:
    """One type of resources, found by id, by place and by name."""

    def __init__(self, letter: str) -> None:
        self.letter = letter
        self.kept: dict[str, Json] = {}
        self.members: dict[str, dict[str, Json]] = {}
        self.named: dict[tuple[str, str], str] = {}
        self.places: list[str] = []
        self.numbers = itertools.count(1)

    def put(self, id: str, body: Json) -> Json:
        members = body.pop("members", None)
        if members is not None:
            self.members[id] = {one["value"]: one for one in members}
        if id not in self.kept:
            self.places.append(id)
        self.kept[id] = {**body, "id": id}
        for key in _KEYS:
            if key in body:
                self.named[key, body[key]] = id
        return self.kept[id]

    def patch(self, id: str, operations: list[Json]) -> None:
        members = self.members.setdefault(id, {})
        for operation in operations:
            path, value = operation.get("path") or "", operation.get("value")
            if found := _PAIR.search(path):
                members.pop(json.loads(found[2]), None)
            elif path == "members" and operation["op"].lower() == "add":
                members.update((one["value"], one) for one in value)
            elif path == "members":
                for one in value:
                    members.pop(one["value"], None)
            else:
                self.kept[id] = {**self.kept[id], **({path: value} if path else value)}

    def shown(self, id: str, whole: bool) -> Json:
        members = list(self.members.get(id, {}).values()) if whole else []
        return {**self.kept[id], "members": members} if members else self.kept[id]

    def listed(self, query: dict[str, list[str]]) -> Json:
        whole = "members" not in query.get("excludedAttributes", [])
        if "filter" in query:
            pairs = [(key, json.loads(value)) for key, value in _PAIR.findall(query["filter"][0])]
            found = list(dict.fromkeys(id for pair in pairs if (id := self.named.get(pair)) in self.kept and id))
            total, page = len(found), found
        else:
            start, count = int(query.get("startIndex", ["1"])[0]), min(PAGE, int(query.get("count", [PAGE])[0]))
            if len(self.places) > len(self.kept):
                self.places = [id for id in self.places if id in self.kept]
            total, page = len(self.places), self.places[start - 1 : start - 1 + count]
        return {"totalResults": total, "Resources": [self.shown(id, whole) for id in page]}


SHELVES = {"Users": Shelf("u"), "Groups": Shelf("g")}
_OFFER = {
    "patch": {"supported": True},
    "filter": {"supported": True, "maxResults": PAGE},
    "bulk": {"supported": True, "maxOperations": BULK, "maxPayloadSize": 4 << 20},
}


def answer(method: str, path: str, body: Any) -> tuple[int, Any]:
    """`path` is what follows the base URL."""
    place = urlsplit(path)
    name, _, id = place.path.strip("/").partition("/")
    if name == "ServiceProviderConfig":
        return 200, _OFFER
    if name == "Bulk":
        return 200, {"Operations": [_operation(one) for one in body["Operations"]]}
    shelf, id = SHELVES.get(name), unquote(id)
    if shelf is None or (id and id not in shelf.kept):
        return 404, {"status": "404"}
    match method:
        case "GET":
            return 200, shelf.shown(id, True) if id else shelf.listed(parse_qs(place.query))
        case "POST":
            return 201, shelf.put(f"{shelf.letter}{next(shelf.numbers)}", body)
        case "PUT":
            return 200, shelf.put(id, body)
        case "PATCH":
            shelf.patch(id, body["Operations"])
            return 204, None
        case _:
            del shelf.kept[id]
            shelf.members.pop(id, None)
            return 204, None


def note(method: str, path: str, status: int) -> None:
    if method != "GET":
        print(f'"{method} /acme/v2{path} HTTP/1.1" {status}', file=sys.stderr, flush=True)


def _operation(one: Json) -> Json:
    status, said = answer(one["method"], one["path"], one.get("data"))
    note(one["method"], one["path"], status)
    told = {"method": one["method"], "status": str(status), "bulkId": one.get("bulkId")}
    return told if said is None else {**told, "location": f"/v2/Users/{said.get('id')}", "response": said}


async def _talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            method, path, _ = head.decode().split(" ", 2)
            at = head.lower().find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            body = await reader.readexactly(length)
            path = path.partition("/v2")[2]
            status, told = answer(method, path, json.loads(body) if body else None)
            note(method, path, status)
            said = b"" if told is None else json.dumps(told).encode()
            kind = "Content-Type: application/scim+json\r\n" if said else ""
            writer.write(f"HTTP/1.1 {status} -\r\n{kind}Content-Length: {len(said)}\r\n\r\n".encode() + said)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def _serve(port: int) -> None:
    async with await asyncio.start_server(_talk, "127.0.0.1", port, limit=16 << 20) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
