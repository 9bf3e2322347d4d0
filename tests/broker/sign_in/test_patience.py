"""A silent upstream keeps a few threads for a few seconds, and nobody of another tenant."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker import patience
from connectors.http import ConnectFailed, HttpClient, Response, Timeout
from connectors.port import Unreachable
from tests.broker.sign_in.stage import Stage, location

ROOT = Path(__file__).parents[3]


class Silent:
    """A server that takes connections and says nothing."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.taken: list[socket.socket] = []

    def serve(self) -> None:
        try:
            while True:
                self.taken.append(self._socket.accept()[0])
        except OSError:
            pass

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        for one in (self._socket, *self.taken):
            one.close()


@contextmanager
def silent() -> Iterator[Silent]:
    server = Silent()
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()


def config(server: Silent) -> dict[str, str]:
    return {"issuer": server.url, "client_id": "scaikey", "client_secret": "secret"}


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE", 2.5)
    one_at_a_time(monkeypatch, 0.2)


def one_at_a_time(monkeypatch: pytest.MonkeyPatch, queue: float = 1.0) -> None:
    """As small as limits can be, so that few threads show them."""
    for name, value in {"TURNS": 2, "OF_A_TENANT": 1, "QUEUED": 1, "QUEUE": queue}.items():
        monkeypatch.setattr(patience, name, value)


def status(stage: Stage) -> tuple[int, float]:
    """What a new browser gets at the sign-in that leaves for the upstream, and after how many seconds."""
    browser = stage.browser()
    onward = location(browser.get(f"/t/{stage.slug}/sign-in"))
    began = time.monotonic()
    return browser.get(onward).status_code, time.monotonic() - began


@pytest.mark.usefixtures("hurried")
def test_a_silent_upstream_keeps_one_thread_and_nobody_of_another_tenant(acme: Stage, globex: Stage) -> None:
    globex.provider()
    with silent() as server, ThreadPoolExecutor(8) as threads:
        acme.provider(config=config(server))
        asked = [threads.submit(status, acme) for _ in range(6)]
        deadline = time.monotonic() + 5
        while not server.taken and time.monotonic() < deadline:
            time.sleep(0.02)
        assert status(globex)[0] == 303
        deadline = time.monotonic() + 2
        while sum(not one.done() for one in asked) > 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert sum(not one.done() for one in asked) == 1
        answers = [one.result() for one in asked]
        assert [code for code, _ in answers] == [503] * 6
        assert sorted(seconds for _, seconds in answers)[-2] < 2.0
        assert len(server.taken) == 1
        assert acme.reasons() == ["upstream_unavailable"] * 6


@pytest.mark.usefixtures("hurried")
def test_who_was_silent_is_asked_again_when_changed_or_tested(acme: Stage) -> None:
    with silent() as server:
        provider_id = acme.provider(config=config(server))
        assert status(acme)[0] == 503
        before = len(server.taken)
        assert status(acme)[0] == 503 and len(server.taken) == before
        test = f"/api/v1/identity-providers/{provider_id}/test"
        said = acme.app.test_client().post(test, headers={"Authorization": f"Bearer {acme.admin}"}).get_json()
        assert not said["ok"] and len(server.taken) > before
    acme.change_provider(provider_id, config={"issuer": acme.issuer, "client_id": "scaikey", "client_secret": "secret"})
    assert status(acme)[0] == 303


def test_a_process_has_two_threads_more_than_may_wait() -> None:
    starts = [(ROOT / "Procfile").read_text(), (ROOT / "broker" / "supervisor.py").read_text()]
    threads = [int(number) for text in starts for number in re.findall(r'--blocking-threads"?,? "?(\d+)', text)]
    assert len(threads) == 2 and all(number >= patience.TURNS + patience.QUEUED + 2 for number in threads)


class Upstream(HttpClient):
    """What is at the other end: it answers when told, or fails."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.error: Exception | None = None

    def request(self, method: str, url: str, **_: object) -> Response:
        self.asked.append(url)
        self.go_on.wait(5)
        if self.error is not None:
            raise self.error
        return Response(200, {}, b"{}")


URL = "https://login.example/keys"


def ask(upstream: Upstream, tenant: str, name: str = "idp", url: str = URL, method: str = "GET") -> int:
    with patience.Step(upstream, patience.Place(tenant, name)) as http:
        return http.request(method, url).status


def test_steps_that_want_the_same_document_together_fetch_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one_at_a_time(monkeypatch)
    upstream = Upstream()
    upstream.go_on.clear()
    with ThreadPoolExecutor(2) as threads:
        asking = [threads.submit(ask, upstream, "together") for _ in range(2)]
        time.sleep(0.2)
        upstream.go_on.set()
        assert [one.result() for one in asking] == [200, 200]
    assert upstream.asked == [URL]
    assert ask(upstream, "together") == 200 and upstream.asked == [URL] * 2


def test_a_rush_at_an_upstream_that_answers_is_served_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as fit, and those that wait behind them; no tenant takes every turn."""
    upstream = Upstream()
    upstream.go_on.clear()
    with ThreadPoolExecutor(8) as threads:
        asking = [
            threads.submit(ask, upstream, "rush", url=f"{URL}/{number}")
            for number in range(patience.OF_A_TENANT + patience.QUEUED)
        ]
        while len(upstream.asked) < patience.OF_A_TENANT:
            time.sleep(0.01)
        other = threads.submit(ask, upstream, "another", url=f"{URL}/other")
        time.sleep(0.2)
        assert len(upstream.asked) == patience.OF_A_TENANT + 1
        with pytest.raises(patience.NoTurn):
            ask(upstream, "rush", url=f"{URL}/late")
        upstream.go_on.set()
        assert [one.result() for one in (*asking, other)] == [200] * (len(asking) + 1)


def test_what_is_sent_is_never_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    one_at_a_time(monkeypatch)
    upstream = Upstream()
    upstream.go_on.clear()
    with ThreadPoolExecutor(2) as threads:
        asking = [threads.submit(ask, upstream, "sent", method="POST") for _ in range(2)]
        time.sleep(0.2)
        upstream.go_on.set()
        assert [one.result() for one in asking] == [200, 200]
    assert upstream.asked == [URL] * 2


def test_two_tenants_ask_at_once_and_a_third_is_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    one_at_a_time(monkeypatch, 0.1)
    upstream = Upstream()
    upstream.go_on.clear()
    with ThreadPoolExecutor(2) as threads:
        asking = [threads.submit(ask, upstream, name) for name in ("first", "second")]
        while len(upstream.asked) < 2:
            time.sleep(0.01)
        with pytest.raises(patience.NoTurn):
            ask(upstream, "third")
        upstream.go_on.set()
        assert [one.result() for one in asking] == [200, 200]
    assert ask(upstream, "third") == 200


@pytest.mark.parametrize("error", [Timeout("late"), ConnectFailed("no such host")])
def test_a_failure_is_remembered_for_its_place_alone_and_not_for_long(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "REMEMBERED", 0.2)
    upstream, tenant = Upstream(), f"remembered {error}"
    upstream.error = error
    for _ in range(3):
        with pytest.raises(type(error) if not upstream.asked else ConnectFailed):
            ask(upstream, tenant)
    assert upstream.asked == [URL]
    upstream.error = None
    assert ask(upstream, tenant, "another") == 200
    time.sleep(0.25)
    assert ask(upstream, tenant) == 200


def test_what_asks_otherwise_than_by_http_has_the_same_turns_and_the_same_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one_at_a_time(monkeypatch, 0.1)
    monkeypatch.setattr(patience, "REMEMBERED", 0.3)
    place, other = patience.Place("bound", "idp"), patience.Place("bound", "another")
    with patience.asking(place) as until:
        assert patience.PATIENCE - 1 < until - time.monotonic() <= patience.PATIENCE
        with pytest.raises(patience.NoTurn):
            ask(Upstream(), "bound", "another")
        with pytest.raises(Unreachable), patience.asking(other):
            raise AssertionError("the tenant has its turn already")
    for waited, remembered in ((0.0, False), (0.15, True)):
        with pytest.raises(Unreachable, match="silence"), patience.asking(place):
            time.sleep(waited)
            raise Unreachable("silence")
        assert patience._turns.is_silent(place) == remembered
    with pytest.raises(Unreachable, match="a moment ago"), patience.asking(place):
        raise AssertionError("nobody is asked now")
    with patience.asking(other):
        pass
    time.sleep(0.35)
    with pytest.raises(ValueError, match="wrong"), patience.asking(place):
        raise ValueError("wrong")
    assert ask(Upstream(), "bound", "another") == 200, "the turn was given back"


def test_tests_have_turns_of_their_own_length_and_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "QUEUE", 0.1)
    first, second, third = (patience.Place(f"testing {number}", "idp") for number in range(3))
    with pytest.raises(Unreachable), patience.asking(first):
        time.sleep(0.15)
        raise Unreachable("silence")
    with patience.testing(first) as until:
        assert patience.TEST - 1 < until - time.monotonic() <= patience.TEST, "who was silent is asked"
        with pytest.raises(Unreachable, match="testing"), patience.testing(first):
            raise AssertionError("one for a tenant")
        with patience.testing(second), pytest.raises(Unreachable, match="testing"), patience.testing(third):
            raise AssertionError("and two for a process")
        for _ in range(patience.OF_A_TENANT):
            with patience.asking(patience.Place(first.tenant_id, "another")):
                pass
    with pytest.raises(ValueError, match="wrong"), patience.testing(third):
        raise ValueError("wrong")
    with patience.testing(third):
        pass
    assert patience._turns.is_silent(first), "and remembered as it was"


def test_a_test_takes_one_of_its_tenants_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    one_at_a_time(monkeypatch, 0.1)
    place = patience.Place("one turn", "idp")
    with patience.asking(place), pytest.raises(Unreachable), patience.testing(place):
        raise AssertionError("there is none left")
    with patience.testing(place), pytest.raises(Unreachable), patience.asking(place):
        raise AssertionError("nor now")
    with patience.testing(place):
        pass
