"""A receiver that takes its time and does nothing else: `python -m bench.sink PORT MILLISECONDS [bulk]`.

It finds nobody, makes whatever it is told to, and says at `/asked` how many requests and how many changes there were.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections import Counter
from typing import Any, cast

import orjson

_NUMBERS = itertools.count(1)
_COUNTED: Counter[str] = Counter()


def main() -> None:
    port, milliseconds = int(sys.argv[1]), float(sys.argv[2])
    asyncio.run(_serve(port, milliseconds / 1000, "bulk" in sys.argv))


async def _serve(port: int, delay: float, bulk: bool) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Talk(loop, delay, bulk), "127.0.0.1", port)
    async with server:
        await server.serve_forever()


class _Talk(asyncio.Protocol):
    """One connection, without the layers of streams: what the sink costs is taken from what is measured."""

    def __init__(self, loop: asyncio.AbstractEventLoop, delay: float, bulk: bool) -> None:
        self._loop, self._delay, self._bulk = loop, delay, bulk
        self._read = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._read += data
        end = self._read.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        head = bytes(self._read[:end])
        at = head.lower().find(b"content-length:")
        length = int(head[at + 15 : head.index(b"\r\n", at)]) if at >= 0 else 0
        if len(self._read) < end + length:
            return
        body = bytes(self._read[end : end + length])
        del self._read[: end + length]
        method, path, _ = head.decode().split(" ", 2)
        if path.endswith("/asked"):
            self._say(method, path, body)
            return
        _COUNTED["requests"] += 1
        self._loop.call_later(self._delay, self._say, method, path, body)

    def _say(self, method: str, path: str, body: bytes) -> None:
        status, answer = _answer(method, path, orjson.loads(body) if body else None, self._bulk)
        said = b"" if answer is None else orjson.dumps(answer)
        kind = "Content-Type: application/scim+json\r\n" if said else ""
        self._transport.write(f"HTTP/1.1 {status} -\r\n{kind}Content-Length: {len(said)}\r\n\r\n".encode() + said)


def _answer(method: str, path: str, body: Any, bulk: bool) -> tuple[int, dict[str, Any] | None]:
    path = path.partition("?")[0]
    if path.endswith("/asked"):
        return 200, dict(_COUNTED)
    if path.endswith("/ServiceProviderConfig"):
        offered = {"supported": bulk, "maxOperations": 1_000, "maxPayloadSize": 8 * 1024 * 1024}
        return 200, {"patch": {"supported": True}, "filter": {"supported": True, "maxResults": 200}, "bulk": offered}
    if path.endswith("/Bulk"):
        return 200, {"Operations": [_operation(one) for one in body["Operations"]]}
    if method == "GET":
        return 200, {"totalResults": 0, "Resources": []}
    _COUNTED["changes"] += 1
    if method == "DELETE":
        return 204, None
    made = f"r{next(_NUMBERS)}" if method == "POST" else path.rpartition("/")[2]
    return 201 if method == "POST" else 200, {**body, "id": made}


def _operation(one: dict[str, Any]) -> dict[str, Any]:
    status, answer = _answer(one["method"], one["path"], one.get("data"), bulk=True)
    said = {"method": one["method"], "status": str(status)}
    if "bulkId" in one:
        said["bulkId"] = one["bulkId"]
    if answer is not None:
        said |= {"location": f"/v2/Users/{answer['id']}", "response": answer}
    return said


if __name__ == "__main__":
    main()
