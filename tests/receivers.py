"""Counterparts that receive SCIM: other projects' servers as processes, and one of ours that misbehaves on order."""

from __future__ import annotations

import copy
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from tests.parties.party import HERE, Party, needed, node

TOKEN = "receiver-token"


class Remote:
    """A receiver as its own administrator sees it: asked directly, not through us."""

    def __init__(self, base_url: str, token: str = TOKEN) -> None:
        self.base_url = base_url
        self.token = token

    def get(self, path: str) -> dict[str, Any]:
        request = urllib.request.Request(self.base_url + path, headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def send(self, method: str, path: str, body: Any = None) -> int:
        request = urllib.request.Request(
            self.base_url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/scim+json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def all(self, endpoint: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = self.get(f"/{endpoint}?startIndex={len(found) + 1}&count=100")
            found += page.get("Resources", [])
            if len(found) >= page["totalResults"] or not page.get("Resources"):
                return found

    def users(self) -> dict[str, dict[str, Any]]:
        listed = self.all("Users")
        named = {user["userName"]: user for user in listed}
        assert len(named) == len(listed), "the receiver has an account twice"
        return named

    def groups(self) -> dict[str, dict[str, Any]]:
        return {group["displayName"]: group for group in self.all("Groups")}

    def members(self, group: str) -> set[str]:
        return {member["value"] for member in self.groups()[group].get("members", [])}


class Canaille(Remote):
    """canaille: it fails when it is told how many to list, and always lists all."""

    def all(self, endpoint: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get(f"/{endpoint}").get("Resources", [])
        return found


@contextmanager
def scimmy(log: Path) -> Iterator[Callable[[str], Remote]]:
    """scimmy with scimmy-routers; yields a maker of receivers, one tenant of it each."""
    running = node("scimmy_receiver.mjs", log, {"token": TOKEN})
    try:
        yield lambda tenant: Remote(f"{running.hello['base_url']}/{tenant}/v2")
    finally:
        running.end()


@contextmanager
def canaille(log: Path) -> Iterator[Canaille]:
    """canaille's SCIM server, empty."""
    running = Party([needed("python"), str(HERE / "canaille_receiver.py")], log)
    try:
        yield Canaille(running.hello["base_url"], running.hello["token"])
    finally:
        running.end()


@contextmanager
def scim2_server(log: Path | None = None) -> Iterator[Callable[[str], Remote]]:
    """scim2-server's own test server; yields a maker of receivers, one tenant of it each.

    `log`: where it writes a line per request.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "scim2_server.testserver.cli", "--port", str(port), "--bearer-token", TOKEN]
    with open(log or os.devnull, "ab") as output:
        process = subprocess.Popen([*command, "--dynamic-tenants"], stdout=subprocess.DEVNULL, stderr=output)
    try:
        deadline = time.monotonic() + 20
        while True:
            assert process.poll() is None and time.monotonic() < deadline, "scim2-server does not start"
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield lambda tenant: Remote(f"http://127.0.0.1:{port}/{tenant}/v2")
    finally:
        process.terminate()
        process.wait()


@contextmanager
def hoard(log: Path) -> Iterator[Remote]:
    """`tests.hoard` in a process of its own: quick with any number of people. `log`: a line for each change."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with log.open("ab") as output:
        process = subprocess.Popen([sys.executable, "-m", "tests.hoard", str(port)], stderr=output)
    try:
        yield Remote(f"http://127.0.0.1:{port}/v2")
    finally:
        process.terminate()
        process.wait()


@dataclass
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    at: float


@dataclass
class Answer:
    """What to say: `delay` seconds late, once `after` is set, `cut` in the middle of the body; `status` 0: nothing."""

    status: int
    body: dict[str, Any] | bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    after: threading.Event | None = None
    cut: bool = False


Fault = Callable[[Asked, Callable[[], Answer]], Answer | None]
"""Given the request and a way to carry it out, the answer; None leaves the request to the next fault."""


class Receiver(Remote):
    """A small SCIM server in threads of this process. Each fault is used once, on the first request it wants."""

    def __init__(self, base_url: str) -> None:
        super().__init__(base_url)
        self.asked: list[Asked] = []
        self.faults: list[Fault] = []
        self.rules: list[Fault] = []
        """Like faults, but for every request: what this kind of receiver does not do."""
        self.accepts = {TOKEN}
        self.stored: dict[str, dict[str, dict[str, Any]]] = {"Users": {}, "Groups": {}}
        self.numbers = itertools.count(1)
        self.lock = threading.RLock()
        self.busy: set[str] = set()
        self.overlaps: list[str] = []
        """Paths of resources that were being changed twice at the same time."""

    def fault(self, method: str, path: str, answer: Answer | Fault, times: int = 1) -> None:
        """The next `times` requests of that method whose path matches get this answer instead."""

        def wanted(asked: Asked, act: Callable[[], Answer]) -> Answer | None:
            if asked.method != method or not re.fullmatch(path, asked.path):
                return None
            return answer(asked, act) if callable(answer) else answer

        self.faults.extend([wanted] * times)

    def requests(self, method: str, path: str = ".*") -> list[Asked]:
        return [asked for asked in self.asked if asked.method == method and re.fullmatch(path, asked.path)]

    def backup(self) -> dict[str, dict[str, dict[str, Any]]]:
        """All it has, by endpoint and id."""
        return {endpoint: {one["id"]: one for one in self.all(endpoint)} for endpoint in ("Users", "Groups")}

    def restore(self, backup: dict[str, dict[str, dict[str, Any]]]) -> None:
        """It is again as it was."""
        with self.lock:
            self.stored = copy.deepcopy(backup)

    def answer(self, asked: Asked) -> Answer:
        with self.lock:
            self.asked.append(asked)
            for fault in list(self.faults):
                answer = fault(asked, lambda: self.act(asked))
                if answer is not None:
                    self.faults.remove(fault)
                    return answer
            for rule in self.rules:
                answer = rule(asked, lambda: self.act(asked))
                if answer is not None:
                    return answer
        return self.act(asked)

    def act(self, asked: Asked) -> Answer:
        with self.lock:
            endpoint, _, id = asked.path.strip("/").partition("/")
            stored = self.stored.get(endpoint)
            if stored is None or (id and id not in stored and asked.method != "POST"):
                return _error(404, "no such resource")
            match asked.method:
                case "GET" if id:
                    return Answer(200, stored[id])
                case "GET":
                    return self._listed(stored, asked.query)
                case "POST":
                    return self._made(endpoint, stored, asked.body)
                case "PUT":
                    if self._taken(endpoint, stored, asked.body, id):
                        return _error(409, "userName is taken", "uniqueness")
                    kept = {} if "members" in asked.body else {"members": []}
                    stored[id] = {**asked.body, **kept, "id": id}
                    return Answer(200, stored[id])
                case "PATCH":
                    return self._patched(stored[id], asked.body)
                case "DELETE":
                    del stored[id]
                    return Answer(204)
            return _error(405, "no such method")

    def _listed(self, stored: dict[str, dict[str, Any]], query: dict[str, str]) -> Answer:
        found = list(stored.values())
        if "filter" in query:
            match = re.fullmatch(r'(\w+) eq "(.*)"', query["filter"])
            assert match is not None
            name, value = match[1], json.loads(f'"{match[2]}"')
            found = [one for one in found if str(one.get(name)).lower() == value.lower()]
        start, count = int(query.get("startIndex", 1)) - 1, int(query.get("count", 100))
        return Answer(200, {"totalResults": len(found), "Resources": found[start : start + count]})

    def _made(self, endpoint: str, stored: dict[str, dict[str, Any]], body: dict[str, Any]) -> Answer:
        if self._taken(endpoint, stored, body, None):
            return _error(409, "userName is taken", "uniqueness")
        id = f"r{next(self.numbers)}"
        stored[id] = {**body, "id": id}
        return Answer(201, stored[id])

    @staticmethod
    def _taken(endpoint: str, stored: dict[str, dict[str, Any]], body: dict[str, Any], id: str | None) -> bool:
        return endpoint == "Users" and any(
            one["userName"].lower() == body["userName"].lower() for key, one in stored.items() if key != id
        )

    @staticmethod
    def _patched(resource: dict[str, Any], body: dict[str, Any]) -> Answer:
        for operation in body["Operations"]:
            path, value = operation.get("path"), operation.get("value")
            removed = re.fullmatch(r'members\[value eq "(.*)"\]', path or "")
            members = resource.setdefault("members", [])
            if removed is not None:
                members[:] = [member for member in members if member["value"] != removed[1]]
            elif path == "members":
                members.extend(member for member in value if member not in members)
            elif path is None:
                for name, said in value.items():
                    # What an object does not name stays (RFC 7644 3.5.2.3).
                    resource[name] = {**resource.get(name, {}), **said} if isinstance(said, dict) else said
            else:
                place, name = _place(resource, path)
                if operation["op"] == "remove":
                    place.pop(name, None)
                else:
                    place[name] = value
        return Answer(200, resource)


def _place(resource: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """Where a path leads: into an extension, or into an object."""
    at = path.rfind(":") if path.startswith("urn:") else path.find(".")
    return (resource, path) if at < 0 else (resource.setdefault(path[:at], {}), path[at + 1 :])


class Between(Receiver):
    """Hands on what it is asked to a real receiver and what that says back, but for the faults."""

    def __init__(self, base_url: str, real: Remote) -> None:
        super().__init__(base_url)
        self.real = real

    def backup(self) -> dict[str, dict[str, dict[str, Any]]]:
        return {endpoint: {one["id"]: one for one in self.real.all(endpoint)} for endpoint in ("Users", "Groups")}

    def restore(self, backup: dict[str, dict[str, dict[str, Any]]]) -> None:
        """As an administrator there would do it by hand: what has to be made again gets another id."""
        ids: dict[str, str] = {}
        for endpoint, kept in backup.items():
            there = {one["id"] for one in self.real.all(endpoint)}
            for id in there - set(kept):
                self.real.send("DELETE", f"/{endpoint}/{id}")
            for id, one in kept.items():
                members = [
                    {**member, "value": ids.get(member["value"], member["value"])} for member in one.get("members", [])
                ]
                body = {**one, "members": members} if endpoint == "Groups" else one
                body = {name: value for name, value in body.items() if name not in ("meta", "groups")}
                if id in there:
                    assert self.real.send("PUT", f"/{endpoint}/{id}", body) == 200
                else:
                    before = {one["id"] for one in self.real.all(endpoint)}
                    assert self.real.send("POST", f"/{endpoint}", {**body, "id": None}) == 201
                    [ids[id]] = {one["id"] for one in self.real.all(endpoint)} - before

    def act(self, asked: Asked) -> Answer:
        query = f"?{urlencode(asked.query)}" if asked.query else ""
        request = urllib.request.Request(
            self.real.base_url + quote(asked.path) + query,
            method=asked.method,
            data=None if asked.body is None else json.dumps(asked.body).encode(),
            headers={"Authorization": f"Bearer {self.real.token}", "Content-Type": "application/scim+json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return Answer(answer.status, answer.read() or None)
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.read())


def _error(status: int, detail: str, scim_type: str | None = None) -> Answer:
    body = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:Error"], "status": str(status), "detail": detail}
    return Answer(status, body if scim_type is None else {**body, "scimType": scim_type})


@contextmanager
def faulty_receiver(real: Remote | None = None) -> Iterator[Receiver]:
    """A `Receiver` that listens on a free loopback port; one that stands before the `real` one, where that is given."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length", 0))
            raw = self.rfile.read(length)
            if self.headers.get("Authorization", "").removeprefix("Bearer ") not in receiver.accepts:
                self.say(_error(401, "who are you?"))
                return
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            path = unquote(parts.path.removeprefix("/v2"))
            asked = Asked(self.command, path, query, json.loads(raw) if raw else None, time.monotonic())
            changing = asked.method != "GET"
            with receiver.lock:
                if changing and path in receiver.busy and path.count("/") == 2:
                    receiver.overlaps.append(path)
                receiver.busy.add(path)
            try:
                answer = receiver.answer(asked)
                if answer.delay:
                    closing.wait(answer.delay)
                if answer.after is not None:
                    answer.after.wait(10)
            finally:
                with receiver.lock:
                    receiver.busy.discard(path)
            self.say(answer)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

        def say(self, answer: Answer) -> None:
            if not answer.status:
                self.close_connection = True
                return
            body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body or {}).encode()
            if answer.body is None:
                body = b""
            try:
                self.send_response(answer.status)
                headers = {"Content-Type": "application/scim+json", **answer.headers}
                for name, value in headers.items():
                    self.send_header(name, value)
                if answer.status != 204:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if answer.cut else body)
            except OSError:
                self.close_connection = True
            if answer.cut:
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Quiet: the log is `asked`."""

    closing = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    base_url = f"http://127.0.0.1:{server.server_address[1]}/v2"
    receiver = Receiver(base_url) if real is None else Between(base_url, real)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
