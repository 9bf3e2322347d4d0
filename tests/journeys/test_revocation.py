"""What is disabled stops with the answer of the request that disabled it, at every endpoint and in every process.

Somebody keeps using all that a sign-in and a personal access token gave him while one thing is switched off over the
public API. How long our endpoints accepted is measured from the answer: what was asked after it must be refused. A
twin, who has everything but that one thing in common, goes on undisturbed.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from flask import Flask
from rich.console import Console
from rich.table import Table

from broker.config import Config
from broker.context import Scope
from demo.asking import Json
from demo.browser import Browser
from tests import issuer as upstream
from tests.live import PROCESSES, Line, Live, Reply, live
from tests.oidc.test_rfc9700 import jwt_claims
from tests.parties.house import PASSWORD, Tenant, must

CALLBACK = "http://127.0.0.1:1/callback"
SCOPES = "openid profile email offline_access scaikey:read scim"
VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
ONWARD = re.compile(r'href="(http[^"]+)"')
pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]
BULK = "urn:ietf:params:scim:api:messages:2.0:BulkRequest"
PATCH_OP = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
ENOUGH = 3
"""Answers of each process to each use, before and after."""
PATIENCE = 60.0

Ask = Callable[[Line], tuple[Reply, bool]]
"""One use of a credential: the answer, and whether it accepted."""


@dataclass
class Person:
    """Somebody with an administrator's role, so that every door of ours is his, signed in with a browser."""

    id: str
    name: str
    browser: Browser


@dataclass
class Stage:
    """A tenant whose people and applications are made as they are needed."""

    tenant: Tenant
    made: Counter[str] = field(default_factory=Counter)

    def name(self, kind: str) -> str:
        self.made[kind] += 1
        return f"{kind}{self.made[kind]}"

    @cached_property
    def observer(self) -> str:
        """A token that may introspect, of an administrator nothing happens to."""
        return str(self.pat(self.administrator()[0])["token"])

    @cached_property
    def upstream(self) -> str:
        """A SCIM token."""
        return str(self.tenant.admin.post("/scim-tokens", {"name": "HR"})["token"])

    @cached_property
    def wiki(self) -> Json:
        return self.application()

    def application(self) -> Json:
        return self.tenant.application(
            CALLBACK,
            name=self.name("Wiki "),
            launch_url="https://wiki.example/",
            grant_types=["authorization_code", "refresh_token", "client_credentials"],
            scopes=[*SCOPES.split(), "read"],
            allowed_audiences=["scaikey"],
        )

    def administrator(self, password: str | None = None) -> tuple[str, str]:
        name = self.name("person") + "@acme.example"
        user_id = self.tenant.person(name, password)
        self.let_administer(user_id)
        return user_id, name

    def let_administer(self, user_id: str) -> None:
        self.tenant.admin.post("/role-assignments", {"role": "tenant_admin", "principal_id": user_id})

    def person(self) -> Person:
        user_id, name = self.administrator(PASSWORD)
        return Person(user_id, name, self.signed_in(username=name, password=PASSWORD))

    def signed_in(self, **typed: str) -> Browser:
        """A new browser, led through the sign-in page to the launcher."""
        browser = Browser(stops_at=CALLBACK)
        browser.open(f"{self.tenant.pages}/sign-in")
        browser.submit(**typed)
        assert browser.url.endswith("/apps") and browser.status == 200, (browser.url, browser.status, browser.text)
        return browser

    def pat(self, user_id: str) -> Json:
        wanted = {"user_id": user_id, "name": "script", "scopes": ["scaikey:read", "scim", "introspect"]}
        return self.tenant.admin.post("/personal-access-tokens", wanted)


@pytest.fixture(scope="module")
def running(web: Flask, settings: Config, platform: Scope, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(web, settings, platform, tmp_path_factory.mktemp("revocation") / "web.log") as both:
        yield both


@pytest.fixture(scope="module")
def acme(running: Live) -> Stage:
    return Stage(running.house.tenant("acme"))


@pytest.fixture(scope="module")
def twin(acme: Stage) -> Twin:
    """Has his tenant, provider, application or session in common with what is switched off, as far as it goes."""
    person = acme.person()
    seat = Seat(acme, person, acme.wiki)
    return Twin(seat, {**seat.by_everything(), **seat.by_pat(acme.pat(person.id)["token"])})


class Seat:
    """A person at an application: what a sign-in there gave, and each way to use it."""

    def __init__(self, stage: Stage, person: Person, application: Json, browser: Browser | None = None) -> None:
        self.tenant, self.person, self.application, self.observer = stage.tenant, person, application, stage.observer
        self.browser = browser or person.browser
        self.client = (application["client_id"], application["client_secret"])
        self.codes: deque[str] = deque()
        self.browser.open(self.question())
        with closing(Line(self.tenant.house.base_url)) as line:
            tokens = must_accept(self.redeem(line, code_in(self.browser.url)))
        self.access, self.first_refresh = tokens["access_token"], tokens["refresh_token"]
        self.refresh_token = self.first_refresh

    def question(self, **changes: str) -> str:
        asked = {
            "response_type": "code",
            "client_id": self.client[0],
            "redirect_uri": CALLBACK,
            "scope": SCOPES,
            "resource": "scaikey",
            "state": "s",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
            **changes,
        }
        return f"{self.tenant.issuer}/oauth/authorize?{urlencode(asked)}"

    @property
    def cookies(self) -> Mapping[str, str]:
        return self.browser.cookies[urlsplit(self.tenant.issuer).netloc]

    def endpoint(self, name: str) -> str:
        return f"{self.tenant.issuer}/oauth/{name}"

    # By the access token.

    def userinfo(self, line: Line) -> tuple[Reply, bool]:
        return ok(line.ask("GET", self.endpoint("userinfo"), token=self.access))

    def introspection(self, line: Line) -> tuple[Reply, bool]:
        return active(line.ask("POST", self.endpoint("introspect"), basic=self.client, form={"token": self.access}))

    def introspection_in_json(self, line: Line, token: str | None = None) -> tuple[Reply, bool]:
        body = {"token": token or self.access}
        return active(line.ask("POST", "/api/v1/auth/introspect", token=self.observer, body=body))

    def whoami(self, line: Line, token: str | None = None) -> tuple[Reply, bool]:
        return ok(line.ask("GET", "/api/v1/auth/whoami", token=token or self.access))

    def admin_api(self, line: Line, token: str | None = None) -> tuple[Reply, bool]:
        return ok(line.ask("GET", f"/api/v1/t/{self.tenant.id}/applications?limit=1", token=token or self.access))

    def scim(self, line: Line, token: str | None = None) -> tuple[Reply, bool]:
        path = f"/scim/v2/{self.tenant.slug}/Users/{self.person.id}"
        return ok(line.ask("GET", path, token=token or self.access))

    # By what gives tokens.

    def refresh(self, line: Line) -> tuple[Reply, bool]:
        reply, accepted = self._token(line, {"grant_type": "refresh_token", "refresh_token": self.refresh_token})
        if accepted:
            self.refresh_token = reply.json["refresh_token"]
        return reply, accepted

    def code(self, line: Line) -> tuple[Reply, bool]:
        """With some in reserve, that were given before and are redeemed after."""
        while len(self.codes) <= PROCESSES:
            given, accepted = self.authorize(line)
            if not accepted:
                break
            self.codes.append(code_in(given.location))
        return self.redeem(line, self.codes.popleft() if self.codes else secrets.token_urlsafe(32))

    def redeem(self, line: Line, code: str) -> tuple[Reply, bool]:
        form = {"grant_type": "authorization_code", "code": code}
        return self._token(line, {**form, "redirect_uri": CALLBACK, "code_verifier": VERIFIER})

    def client_credentials(self, line: Line) -> tuple[Reply, bool]:
        return self._token(line, {"grant_type": "client_credentials", "scope": "read"})

    def _token(self, line: Line, form: Mapping[str, str]) -> tuple[Reply, bool]:
        return ok(line.ask("POST", self.endpoint("token"), basic=self.client, form=form))

    # By the browser's session.

    def authorize(self, line: Line) -> tuple[Reply, bool]:
        reply = line.ask("GET", self.question(prompt="none"), cookies=self.cookies)
        return reply, reply.status == 303 and "code=" in reply.location

    def launcher(self, line: Line) -> tuple[Reply, bool]:
        reply = line.ask("GET", f"{self.tenant.pages}/apps", cookies=self.cookies)
        return reply, reply.status == 200 and f">{self.application['name']}<" in reply.text

    def by_token(self) -> dict[str, Ask]:
        return {
            "userinfo": self.userinfo,
            "introspection": self.introspection,
            "introspection, JSON": self.introspection_in_json,
            "whoami": self.whoami,
            "/api/v1": self.admin_api,
            "/scim/v2": self.scim,
            "refresh": self.refresh,
        }

    def by_session(self) -> dict[str, Ask]:
        return {"authorize": self.authorize, "code": self.code}

    def by_everything(self) -> dict[str, Ask]:
        return {**self.by_token(), **self.by_session(), "launcher": self.launcher}

    def by_client(self) -> dict[str, Ask]:
        return {"client credentials": self.client_credentials}

    def by_pat(self, token: str) -> dict[str, Ask]:
        uses = {
            "whoami": self.whoami,
            "/api/v1": self.admin_api,
            "/scim/v2": self.scim,
            "introspection, JSON": self.introspection_in_json,
        }
        return {f"{name}, PAT": partial(use, token=token) for name, use in uses.items()} | {
            "introspection by PAT": lambda line: active(
                line.ask("POST", self.endpoint("introspect"), token=token, form={"token": self.observer})
            )
        }


@dataclass(frozen=True)
class Twin:
    seat: Seat
    uses: Mapping[str, Ask]


def code_in(url: str) -> str:
    return parse_qs(urlsplit(url).query)["code"][0]


def must_accept(answer: tuple[Reply, bool]) -> Json:
    reply, accepted = answer
    assert accepted, reply.text
    body: Json = reply.json
    return body


def ok(reply: Reply) -> tuple[Reply, bool]:
    return reply, reply.status == 200


def active(reply: Reply) -> tuple[Reply, bool]:
    return reply, reply.status == 200 and reply.json["active"] is True


@dataclass(frozen=True)
class Use:
    """One answer to one use of something."""

    pid: int
    begun: float
    received: float
    accepted: bool


class Load:
    """Each use in a thread of its own, by a line to each process in turn, until the block ends."""

    def __init__(self, running: Live, uses: Mapping[str, Sequence[Ask]]) -> None:
        self.running = running
        self.uses = uses
        self.seen: dict[str, list[Use]] = {name: [] for name in uses}
        self.problems: list[str] = []
        self._ending = threading.Event()

    @contextmanager
    def on(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._work, args=item) for item in self.uses.items()]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ending.set()
            for thread in threads:
                thread.join()
        assert not self.problems, self.problems

    def wait(self, since: float) -> None:
        """Until each process has answered each use often enough, asked after that moment."""
        deadline = time.monotonic() + PATIENCE
        while not self.problems and any(self._few(name, since) for name in self.uses):
            assert time.monotonic() < deadline, [name for name in self.uses if self._few(name, since)]
            time.sleep(0.02)

    def _few(self, name: str, since: float) -> bool:
        answered = Counter(use.pid for use in list(self.seen[name]) if use.begun > since)
        return any(answered[pid] < ENOUGH for pid in self.running.pids)

    def _work(self, name: str, asks: Sequence[Ask]) -> None:
        lines = self.running.lines()
        try:
            while not self._ending.is_set():
                for ask in asks:
                    for line in lines:
                        reply, accepted = ask(line)
                        if reply.status >= 500 or reply.status == 429:
                            self.problems.append(f"{name}: {reply.status} {reply.text[:200]}")
                            return
                        self.seen[name].append(Use(line.pid or 0, reply.begun, reply.received, accepted))
        except Exception as error:
            self.problems.append(f"{name}: {error!r}")
        finally:
            for line in lines:
                line.close()


def switch_off(running: Live, what: str, deed: Callable[[], object], mine: Mapping[str, Ask], twin: Twin) -> None:
    """Everything of `mine` is accepted until `deed`, and nothing that is asked after its answer; the twin all along."""
    load = Load(running, {**{name: [ask] for name, ask in mine.items()}, "the twin": list(twin.uses.values())})
    with load.on():
        load.wait(0.0)
        asked = time.monotonic()
        deed()
        answered = time.monotonic()
        load.wait(answered)
    table = Table(title=what, title_justify="left")
    for heading in ("path", "last accepted, ms after the answer", "accepted before", "refused after"):
        table.add_column(heading, justify="left" if heading == "path" else "right")
    late = {}
    for name in mine:
        uses = load.seen[name]
        before = [use for use in uses if use.received < asked]
        after = [use for use in uses if use.begun > answered]
        last = max(use.received for use in uses if use.accepted)
        table.add_row(name, f"{(last - answered) * 1000:+.1f}", str(len(before)), str(len(after)))
        assert before and all(use.accepted for use in before), f"{name} was refused before anything was disabled"
        late[name] = [use for use in after if use.accepted]
    Console(width=100).print(table)
    assert not any(late.values()), {name: len(uses) for name, uses in late.items() if uses}
    assert all(use.accepted for use in load.seen["the twin"]), "the twin was refused"


def in_bulk(method: str, person: Person, data: Json | None) -> Json:
    operation = {"method": method, "path": f"/Users/{person.id}"}
    return {"schemas": [BULK], "Operations": [operation if data is None else {**operation, "data": data}]}


def patch(**operation: Any) -> Json:
    return {"schemas": [PATCH_OP], "Operations": [operation]}


Way = Callable[[Person], tuple[str, str, Json | None]]
DEPROVISIONED: Mapping[str, Way] = {
    "PATCH": lambda one: ("PATCH", f"/Users/{one.id}", patch(op="replace", path="active", value=False)),
    "PATCH without a path": lambda one: ("PATCH", f"/Users/{one.id}", patch(op="replace", value={"active": False})),
    "PATCH as Entra writes it": lambda one: (
        "PATCH",
        f"/Users/{one.id}",
        patch(op="Replace", path="active", value="False"),
    ),
    "PUT": lambda one: ("PUT", f"/Users/{one.id}", {"userName": one.name, "active": False}),
    "Bulk": lambda one: ("POST", "/Bulk", in_bulk("PATCH", one, patch(op="replace", path="active", value=False))),
}
"""How an upstream that pushes says that somebody has left, and its SCIM token may say it of an administrator too."""
DELETED: Mapping[str, Way] = {
    "DELETE": lambda one: ("DELETE", f"/Users/{one.id}", None),
    "DELETE in bulk": lambda one: ("POST", "/Bulk", in_bulk("DELETE", one, None)),
}


def deprovision(acme: Stage, person: Person, way: str) -> None:
    """As that upstream says it; only an administrator deletes another one."""
    method, path, body = {**DEPROVISIONED, **DELETED}[way](person)
    door = acme.tenant.scim if way in DELETED else replace(acme.tenant.scim, token=acme.upstream)
    must(door.ask(method, path, body))


@pytest.mark.parametrize("way", ["PATCH", "DELETE"])
def test_who_is_deprovisioned_is_out_with_the_answer(running: Live, acme: Stage, twin: Twin, way: str) -> None:
    alice = Seat(acme, acme.person(), acme.wiki)
    switch_off(
        running,
        f"a person, over SCIM: {way}",
        lambda: deprovision(acme, alice.person, way),
        {**alice.by_everything(), **alice.by_pat(acme.pat(alice.person.id)["token"])},
        twin,
    )


@pytest.mark.parametrize("way", [*DEPROVISIONED, *DELETED])
def test_every_way_to_deprovision_somebody_ends_everything(running: Live, acme: Stage, way: str) -> None:
    alice = Seat(acme, acme.person(), acme.wiki)
    uses = {**alice.by_everything(), **alice.by_pat(acme.pat(alice.person.id)["token"])}
    lines = running.lines()
    assert {name for name, ask in uses.items() if not ask(lines[0])[1]} == set()
    deprovision(acme, alice.person, way)
    assert {name for name, ask in uses.items() for line in lines if ask(line)[1]} == set()
    for line in lines:
        line.close()


def test_who_leaves_a_group_that_administers_administers_no_more_with_the_answer(
    running: Live, acme: Stage, twin: Twin
) -> None:
    name = acme.name("person") + "@acme.example"
    user_id = acme.tenant.person(name, PASSWORD)
    group_id = acme.tenant.group(acme.name("Admins "), user_id)
    acme.let_administer(group_id)
    person = Person(user_id, name, acme.signed_in(username=name, password=PASSWORD))
    alice = Seat(acme, person, acme.wiki)
    uses = {**alice.by_token(), **alice.by_pat(acme.pat(user_id)["token"])}
    lost = {use: ask for use, ask in uses.items() if use.startswith(("/api/v1", "/scim/v2"))}
    switch_off(
        running,
        "a member of a group that holds an admin role, over SCIM",
        lambda: must(
            acme.tenant.scim.ask(
                "PATCH", f"/Groups/{group_id}", patch(op="remove", path=f'members[value eq "{user_id}"]')
            )
        ),
        lost,
        twin,
    )
    with closing(Line(running.house.base_url)) as line:
        for use in ("userinfo", "whoami", "refresh", "whoami, PAT"):
            assert uses[use](line)[1], f"{use}: somebody who administers no more is somebody still"


def test_who_gets_the_name_of_somebody_deleted_inherits_nothing(running: Live, acme: Stage) -> None:
    gone = Seat(acme, acme.person(), acme.wiki)
    pat = acme.pat(gone.person.id)["token"]
    group_id = acme.tenant.group(acme.name("Team "), gone.person.id)
    admin, scim = acme.tenant.admin, acme.tenant.scim
    admin.post(f"/applications/{acme.wiki['id']}/assignments", {"principal_id": gone.person.id, "roles": ["editor"]})
    must(scim.ask("DELETE", f"/Users/{gone.person.id}"))
    heir_id = acme.tenant.person(gone.person.name, "another password entirely")
    assert heir_id != gone.person.id
    assert scim.ask("GET", f"/Users/{gone.person.id}").status == 404
    with closing(Line(running.house.base_url)) as line:
        for name, ask in {**gone.by_everything(), **gone.by_pat(pat)}.items():
            assert not ask(line)[1], name
    assert not scim.get(f"/Users/{heir_id}").get("groups")
    assert heir_id not in str(scim.get(f"/Groups/{group_id}"))
    assert gone.person.id not in str(scim.get(f"/Groups/{group_id}"))
    for path in (
        f"/role-assignments?principal_id={heir_id}",
        f"/applications/{acme.wiki['id']}/assignments?principal_id={heir_id}",
        f"/personal-access-tokens?user_id={heir_id}",
        f"/sessions?user_id={heir_id}",
    ):
        assert list(admin.items(path)) == [], path
    browser = Browser(stops_at=CALLBACK)
    browser.open(f"{acme.tenant.pages}/sign-in")
    browser.submit(username=gone.person.name, password=PASSWORD)
    assert not browser.url.endswith("/apps"), "the password of who is gone opens nothing"


def test_a_suspended_tenant_is_out_with_the_answer(running: Live, twin: Twin) -> None:
    shut = Stage(running.house.tenant("shut"))
    seat = Seat(shut, shut.person(), shut.wiki)
    switch_off(
        running,
        "a tenant, status: suspended",
        lambda: running.house.admin.patch(f"/tenants/{shut.tenant.id}", {"status": "suspended"}),
        {**seat.by_everything(), **seat.by_client(), **seat.by_pat(shut.pat(seat.person.id)["token"])},
        twin,
    )


def test_a_disabled_application_is_out_with_the_answer(running: Live, acme: Stage, twin: Twin) -> None:
    seat = Seat(acme, twin.seat.person, acme.application())
    switch_off(
        running,
        "an application, enabled: false",
        lambda: acme.tenant.admin.patch(f"/applications/{seat.application['id']}", {"enabled": False}),
        {**seat.by_everything(), **seat.by_client()},
        twin,
    )


def test_who_came_through_a_disabled_provider_is_out_with_the_answer(running: Live, acme: Stage, twin: Twin) -> None:
    name = "carol@acme.example"
    with upstream.running() as issuer:
        issuer.person = {"sub": "carol", "preferred_username": name, "name": "Carol"}
        wanted = {
            "kind": "oidc",
            "name": "Upstream",
            "config": {"issuer": issuer.url, "client_id": upstream.CLIENT, "client_secret": upstream.SECRET},
            "sign_in": True,
            "jit": {"enabled": True},
        }
        provider = acme.tenant.admin.post("/identity-providers", wanted)["id"]
        browser = Browser(stops_at=CALLBACK)
        browser.open(f"{acme.tenant.pages}/sign-in")
        browser.submit(provider=provider)
        browser.open(unescape(ONWARD.findall(browser.text)[0]))
        assert browser.url.endswith("/apps") and browser.status == 200, (browser.url, browser.status, browser.text)
    [carol] = acme.tenant.scim.resources("Users", "&" + urlencode({"filter": f'userName eq "{name}"'}))
    acme.let_administer(carol["id"])
    seat = Seat(acme, Person(carol["id"], name, browser), acme.wiki)
    switch_off(
        running,
        "a provider, enabled: false",
        lambda: acme.tenant.admin.patch(f"/identity-providers/{provider}", {"enabled": False}),
        seat.by_everything(),
        twin,
    )


def test_an_ended_session_is_out_with_the_answer(running: Live, acme: Stage, twin: Twin) -> None:
    person = twin.seat.person
    seat = Seat(acme, person, acme.wiki, acme.signed_in(username=person.name, password=PASSWORD))
    ended = jwt_claims(seat.access)["sid"]
    assert ended != jwt_claims(twin.seat.access)["sid"]
    switch_off(
        running,
        "a session, DELETE /sessions/{id}",
        lambda: must(acme.tenant.admin.ask("DELETE", f"/sessions/{ended}")),
        seat.by_everything(),
        twin,
    )


def test_a_revoked_grant_is_out_with_the_answer(running: Live, acme: Stage, twin: Twin) -> None:
    seat = Seat(acme, twin.seat.person, acme.wiki)
    form = {"token": seat.first_refresh}
    with closing(Line(running.house.base_url)) as line:
        switch_off(
            running,
            "a grant, its refresh token revoked",
            lambda: must_accept(ok(line.ask("POST", seat.endpoint("revoke"), basic=seat.client, form=form))),
            seat.by_token(),
            twin,
        )


def test_a_revoked_personal_access_token_is_out_with_the_answer(running: Live, acme: Stage, twin: Twin) -> None:
    script = acme.pat(twin.seat.person.id)
    switch_off(
        running,
        "a personal access token, DELETE /personal-access-tokens/{id}",
        lambda: must(acme.tenant.admin.ask("DELETE", f"/personal-access-tokens/{script['id']}")),
        twin.seat.by_pat(script["token"]),
        twin,
    )
