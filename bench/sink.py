"""A receiver that takes its time and does nothing else: `python -m bench.sink PORT MILLISECONDS [bulk]`.

It finds nobody, makes whatever it is told to, and says at `/asked` how many requests and how many changes there were.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections import Counter
from typing import Any

_NUMBERS = itertools.count(1)
_COUNTED: Counter[str] = Counter()


def main() -> None:
    port, milliseconds = int(sys.argv[1]), float(sys.argv[2])
    asyncio.run(_serve(port, milliseconds / 1000, "bulk" in sys.argv))


async def _serve(port: int, delay: float, bulk: bool) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                method, path, _ = head.decode().split(" ", 2)
                at = head.lower().find(b"content-length:")
                length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
                body = await reader.readexactly(length)
                if not path.endswith("/asked"):
                    _COUNTED["requests"] += 1
                    await asyncio.sleep(delay)
                status, answer = _answer(method, path, json.loads(body) if body else None, bulk)
                said = b"" if answer is None else json.dumps(answer).encode()
                kind = "Content-Type: application/scim+json\r\n" if said else ""
                writer.write(f"HTTP/1.1 {status} -\r\n{kind}Content-Length: {len(said)}\r\n\r\n".encode() + said)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", port, limit=16 * 1024 * 1024)
    async with server:
        await server.serve_forever()


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
