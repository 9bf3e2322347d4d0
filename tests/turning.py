"""Signing keys turned while two processes sign and verify, and every validator there could be.

Owns the traffic that the everyday test and the soak share: tokens of each kind, each shown at once to the process that
did not sign it, and both processes' key sets read all the time. A validator keeps a key set for as long as its answer
allowed, and asks for no other meanwhile; as the sets of all moments are known, so is what any such validator, whenever
it last asked, makes of each token.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import orjson
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from rich.console import Console
from rich.table import Table

from demo.browser import Browser
from tests.live import Line, Live, Reply
from tests.oidc.party import Pkce
from tests.parties.house import PASSWORD

ALGORITHMS = ("RS256", "ES256")
KINDS = ("client, RS256", "client, ES256", "person", "ID token")
ENOUGH = 3
PATIENCE = 60.0
CALLBACK = "http://127.0.0.1:1/callback"
STALL = 1.5
"""Seconds a process of a busy machine may be late with what it does in time."""

_MAX_AGE = re.compile(r"max-age=(\d+)")


@dataclass(frozen=True)
class Token:
    """Which process signed it with which key, and when it was asked for, received and ends (`time.monotonic`)."""

    text: str
    kind: str
    pid: int
    algorithm: str
    kid: str
    begun: float
    received: float
    expires: float


@dataclass
class Kept:
    """A key set that was published, and when the first could have it and the last must let it go."""

    keys: KeySet
    kids: frozenset[str | None]
    since: float
    until: float
    fetched: int = 0

    def accepts(self, token: Token) -> bool:
        try:
            jws.deserialize_compact(token.text.encode(), self.keys, algorithms=[token.algorithm])
        except JoseError:
            return False
        return True

    def meets(self, token: Token) -> bool:
        """Whether somebody who keeps this set may be shown the token while it lives."""
        return token.received <= self.until and token.expires >= self.since


@dataclass(frozen=True)
class Turn:
    """A rotation: the kids that sign from then on, and when it was asked for and done."""

    kids: Mapping[str, str]
    begun: float
    done: float


@dataclass
class Turning:
    """`rotate` lets the next keys sign, or says in how many seconds it may."""

    running: Live
    rotate: Callable[[], Mapping[str, str] | float]
    cached_for: float
    """Seconds."""
    reread: float
    """Seconds after which a process reads its keys again."""
    pause: float
    tokens: list[Token] = field(default_factory=list)
    sets: dict[bytes, Kept] = field(default_factory=dict)
    turns: list[Turn] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def noticed(self) -> float:
        """Seconds after which every process signs with the new keys."""
        return self.reread + STALL

    def __post_init__(self) -> None:
        self._ending = threading.Event()
        self._lock = threading.Lock()
        tenant = self.tenant = self.running.house.tenant("turning")
        self.machines = {
            algorithm: tenant.admin.post(
                "/applications",
                {
                    "name": algorithm,
                    "type": "service",
                    "grant_types": ["client_credentials"],
                    "scopes": ["read"],
                    "access_token_signed_response_alg": algorithm,
                },
            )
            for algorithm in ALGORITHMS
        }
        self.wiki = tenant.application(CALLBACK)
        tenant.person("alice@acme.example", PASSWORD)
        self.browser = Browser(stops_at=CALLBACK)
        self.browser.open(f"{tenant.pages}/sign-in")
        self.browser.submit(username="alice@acme.example", password=PASSWORD)

    # The traffic.

    @contextmanager
    def traffic(self) -> Iterator[None]:
        works: list[Callable[[Line, Line], None]] = []
        for here, there in zip(self.running.pids, reversed(self.running.pids), strict=True):
            for work in (self._machine("RS256"), self._machine("ES256"), self._person(), self._publish):
                works.append(lambda pid=here, other=there, work=work: self._repeat(work, pid, other))  # type: ignore[misc]
        threads = [threading.Thread(target=work) for work in works]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ending.set()
            for thread in threads:
                thread.join()
        assert not self.problems, self.problems[:5]

    def _repeat(self, work: Callable[[Line, Line], None], pid: int, other: int) -> None:
        base_url = self.running.house.base_url
        with closing(Line(base_url, pid)) as here, closing(Line(base_url, other)) as there:
            try:
                while not self._ending.wait(self.pause):
                    work(here, there)
            except Exception as error:
                self.problems.append(repr(error))

    def _machine(self, algorithm: str) -> Callable[[Line, Line], None]:
        client, form = self.machines[algorithm], {"grant_type": "client_credentials", "scope": "read"}

        def work(here: Line, there: Line) -> None:
            reply = here.ask("POST", self._endpoint("token"), basic=_basic(client), form=form)
            self._show(there, self._issued(reply, here, f"client, {algorithm}", "access_token"))

        return work

    def _person(self) -> Callable[[Line, Line], None]:
        """Each a grant of its own, renewed again and again."""
        secret = ""

        def work(here: Line, there: Line) -> None:
            nonlocal secret
            form = {"grant_type": "refresh_token", "refresh_token": secret} if secret else self._code()
            reply = here.ask("POST", self._endpoint("token"), basic=_basic(self.wiki), form=form)
            self._issued(reply, here, "ID token", "id_token")
            token = self._issued(reply, here, "person", "access_token")
            secret = reply.json["refresh_token"]
            self._show(there, token)
            self._must(there.ask("GET", self._endpoint("userinfo"), token=token.text), token.kind)

        return work

    def _code(self) -> dict[str, str]:
        pkce = Pkce()
        asked = {
            "response_type": "code",
            "client_id": self.wiki["client_id"],
            "redirect_uri": CALLBACK,
            "scope": "openid profile",
            "code_challenge": pkce.challenge,
            "code_challenge_method": "S256",
        }
        with self._lock:
            self.browser.open(f"{self._endpoint('authorize')}?{urlencode(asked)}")
            code = parse_qs(urlsplit(self.browser.url).query)["code"][0]
        shown = {"redirect_uri": CALLBACK, "code_verifier": pkce.verifier}
        return {"grant_type": "authorization_code", "code": code, **shown}

    def _publish(self, here: Line, there: Line) -> None:
        reply = self._must(here.ask("GET", self._endpoint("jwks")), "the key set")
        found = _MAX_AGE.search(reply.headers["cache-control"])
        assert found is not None and int(found[1]) == int(self.cached_for), reply.headers
        # RFC 9111 section 4.2.3: an answer ages from when it was asked for.
        until = reply.begun + int(found[1])
        with self._lock:
            kept = self.sets.get(reply.text.encode())
            if kept is None:
                keys = KeySet.import_key_set(reply.json)
                kids = frozenset(key.kid for key in keys)
                kept = self.sets[reply.text.encode()] = Kept(keys, kids, reply.received, until)
            kept.since, kept.until = min(kept.since, reply.received), max(kept.until, until)
            kept.fetched += 1

    def _issued(self, reply: Reply, line: Line, kind: str, name: str) -> Token:
        body = self._must(reply, kind).json
        text = str(body[name])
        signed = jws.extract_compact(text.encode())
        header, claims = signed.headers(), orjson.loads(signed.payload)
        ends = reply.received + claims["exp"] - time.time()
        token = Token(text, kind, line.pid or 0, header["alg"], header["kid"], reply.begun, reply.received, ends)
        with self._lock:
            self.tokens.append(token)
        return token

    def _show(self, line: Line, token: Token) -> None:
        self._must(line.ask("GET", "/api/v1/auth/whoami", token=token.text), f"{token.kind} at the other process")

    def _must(self, reply: Reply, what: str) -> Reply:
        assert reply.status == 200, f"{what}: {reply.status} {reply.text[:300]}"
        return reply

    def _endpoint(self, name: str) -> str:
        return f"{self.tenant.issuer}/oauth/{name}"

    # The rotations.

    def turn(self, times: int) -> None:
        """Each as soon as it is allowed, with every kind of token of both processes before, between and after."""
        self._wait_for_tokens(0.0)
        for _ in range(times):
            while True:
                begun = time.monotonic()
                answer = self.rotate()
                if not isinstance(answer, float):
                    break
                self._go_on(answer)
            done = time.monotonic()
            self.turns.append(Turn(answer, begun, done))
            self._go_on(self.noticed)
            self._wait_for_tokens(done + self.noticed)

    def _wait_for_tokens(self, since: float) -> None:
        """Until each process has signed some of every kind that were asked for after that moment."""
        wanted = {(pid, kind) for pid in self.running.pids for kind in KINDS}
        deadline = time.monotonic() + PATIENCE
        while True:
            with self._lock:
                seen = Counter((token.pid, token.kind) for token in self.tokens if token.begun > since)
            if all(seen[each] >= ENOUGH for each in wanted):
                return
            assert time.monotonic() < deadline, seen
            self._go_on(0.02)

    def _go_on(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self.problems:
            time.sleep(min(left, 0.5))
        assert not self.problems, self.problems[:5]

    # What must hold.

    def verify(self) -> None:
        """Whoever validates by a key set he may keep takes every token of ours, and each era has its own key."""
        refused: Counter[tuple[str, str]] = Counter()
        verified = 0
        for token in self.tokens:
            for kept in self.sets.values():
                if kept.meets(token):
                    verified += 1
                    if not kept.accepts(token):
                        refused[token.kind, f"era {self._era(token)}"] += 1
        assert not refused, f"{refused} of {verified}"
        for token in self.tokens:
            before = [turn for turn in self.turns if turn.done + self.noticed < token.begun]
            after = [turn for turn in self.turns if turn.begun > token.received]
            if before:
                assert self._era(token) >= len(before), f"{token.kind}: an old key signs after rotation {len(before)}"
            if after:
                assert self._era(token) <= len(self.turns) - len(after), f"{token.kind}: a new key before its time"
        eras = range(len(self.turns) + 1)
        for pid in self.running.pids:
            for kind in KINDS:
                seen = {self._era(token) for token in self.tokens if (token.pid, token.kind) == (pid, kind)}
                assert seen == set(eras), f"{kind} of process {pid} was signed in {seen}"
        self._tell(verified)

    def still_good(self) -> int:
        """Shows the first and the last token of each kind and era to both processes again; how many that were."""
        chosen: dict[tuple[Any, ...], Token] = {}
        for token in self.tokens:
            if token.kind != "ID token" and token.expires > time.monotonic() + 5:
                key = (token.pid, token.kind, self._era(token))
                chosen.setdefault((*key, "first"), token)
                chosen[*key, "last"] = token
        for line in self.running.lines():
            with closing(line):
                for token in chosen.values():
                    self._show(line, token)
        return len(chosen)

    def _era(self, token: Token) -> int:
        """How many rotations there had been for the key that signed it."""
        kids = [turn.kids[token.algorithm] for turn in self.turns]
        return kids.index(token.kid) + 1 if token.kid in kids else 0

    def _tell(self, verified: int) -> None:
        table = Table(title=f"{len(self.turns)} rotations, {len(self.tokens)} tokens", title_justify="left")
        for heading in ("token", *(f"era {era}" for era in range(len(self.turns) + 1))):
            table.add_column(heading, justify="left" if heading == "token" else "right")
        counted = Counter((token.kind, self._era(token)) for token in self.tokens)
        for kind in KINDS:
            table.add_row(kind, *(str(counted[kind, era]) for era in range(len(self.turns) + 1)))
        console = Console(width=100)
        console.print(table)
        lags = [
            max((token.received for token in self.tokens if self._era(token) == era), default=turn.done) - turn.done
            for era, turn in enumerate(self.turns)
        ]
        console.print(f"last signed with the old key after each rotation, s: {', '.join(f'{lag:.2f}' for lag in lags)}")
        fetched = sum(kept.fetched for kept in self.sets.values())
        console.print(f"{len(self.sets)} key sets in {fetched} answers; {verified} verifications, none refused")


def _basic(application: Mapping[str, Any]) -> tuple[str, str]:
    return application["client_id"], application["client_secret"]


def signing(rotations: Sequence[Any]) -> dict[str, str]:
    """Algorithm to the kid that signs now."""
    return {one.algorithm: one.current for one in rotations}
