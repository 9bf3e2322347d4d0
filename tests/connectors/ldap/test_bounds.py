"""What one server may cost us, whatever it says: every answer, every listing and every round has an end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from connectors import ldap
from connectors.egress import Egress
from connectors.ldap import follow, wire
from connectors.ldap import session as sessions
from connectors.ldap.cursors import LONGEST_COOKIE, Cursor
from connectors.ldap.passwords import check
from connectors.ldap.reading import Reader
from connectors.ldap.session import DIRSYNC, Session, opened
from connectors.ldap.wire import LITTLE, MOST, Answer, Entry
from connectors.ldif import Unfit
from connectors.port import Misconfigured, Refused, Unreachable
from tests.connectors.ldap.scripted_server import (
    BOUND,
    ENTRY,
    SEARCHED,
    certified,
    element,
    entry,
    inside,
    listening,
    message,
    paged,
    result,
)

LOOPBACK = Egress(loopback=True)
PAGED = "_1_2_840_113556_1_4_319"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(folder: Path) -> str:
    return certified(folder)


@pytest.fixture(autouse=True)
def nobody_shunned() -> Iterator[None]:
    yield
    sessions._silent.clear()


@pytest.fixture
def asking(authority: str, folder: Path) -> Callable[..., Any]:
    """A session with a server that gives these answers, one to each question."""

    @contextmanager
    def opening(*answers: bytes, most: int = MOST) -> Iterator[Session]:
        with listening(inside(folder, result(1, BOUND), *answers)) as heard:
            settings = ldap.Config(
                source="ldap",
                servers=[f"ldaps://localhost:{heard.port}"],
                ca_certificates=authority,
                bind_dn="cn=reader,dc=acme",
                bind_password="secret",
                timeout=5,
            )
            with opened(settings, LOOPBACK, most) as session:
                yield session

    return opening


def everybody(session: Session, size: int = 10) -> list[Entry]:
    return [one for page in session.pages("dc=acme", "(objectClass=*)", ["*"], size) for one in page]


@pytest.mark.parametrize(("most", "entries"), [(10_000, None), (20_000, 3)])
def test_an_answer_has_no_more_bytes_than_it_may(asking: Callable[..., Any], most: int, entries: int | None) -> None:
    told = b"".join(entry(2, f"cn={number}", photo=[b"x" * 4_000]) for number in range(3)) + paged(2)
    with asking(told, most=most) as session:
        if entries is None:
            with pytest.raises(Refused, match=r"more than 10000 bytes at once.*smaller pages"):
                everybody(session)
        else:
            assert len(everybody(session)) == entries


def test_what_is_left_out_counts_as_well(asking: Callable[..., Any]) -> None:
    elsewhere = entry(9, "cn=of another question", photo=[b"x" * 4_000])
    secret = entry(2, "cn=a", userPassword=[b"x" * 4_000])
    for told in (elsewhere * 3, secret * 3):
        with asking(told + paged(2), most=10_000) as session, pytest.raises(Refused, match="more than 10000 bytes"):
            everybody(session)


@pytest.mark.parametrize(("most", "fits"), [(100_000, False), (1_000_000, True)])
def test_many_empty_values_cost_more_than_their_bytes(asking: Callable[..., Any], most: int, fits: bool) -> None:
    told = entry(2, "cn=a", cn=[b""] * 5_000) + paged(2)
    with asking(told, most=most) as session:
        if fits:
            assert len(everybody(session)[0].attributes["cn"]) == 5_000
        else:
            with pytest.raises(Refused, match="more than 100000 bytes"):
                everybody(session)


def test_strangers_who_show_a_password_are_read_little(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def watched(config: Any, egress: Any, *rest: Any) -> Session:
        asked.append(rest[-1])
        raise Unreachable("watched")

    monkeypatch.setattr("connectors.ldap.passwords.opened", watched)
    with pytest.raises(Unreachable, match="watched"):
        check(ldap.Config(), LOOPBACK, "ann", "x", lambda key: True)
    assert asked == [LITTLE] and LITTLE < MOST


@pytest.mark.parametrize("given", [2, 3])
def test_a_page_has_no_more_entries_than_were_asked_for(asking: Callable[..., Any], given: int) -> None:
    told = b"".join(entry(2, f"cn={number}") for number in range(given)) + paged(2)
    with asking(told) as session:
        if given == 2:
            assert len(everybody(session, 2)) == 2
        else:
            with pytest.raises(Refused, match="more than the 2 entries"):
                everybody(session, 2)


def test_a_name_is_of_one_entry(asking: Callable[..., Any]) -> None:
    with asking(entry(2, "cn=a") * 2 + result(2, SEARCHED)) as session, pytest.raises(Refused, match="1 entries"):
        session.entry("cn=a", ["*"])


@pytest.mark.parametrize("value", [None, b"", b"\x04\x00", b"\x30\x7f", b"\x30\x02\x04\x7f"])
def test_a_page_without_its_cookie_is_refused(asking: Callable[..., Any], value: bytes | None) -> None:
    told = result(2, SEARCHED, **{PAGED: value})
    with asking(told) as session, pytest.raises(Refused, match="a control without its value"):
        everybody(session)


def test_empty_pages_come_to_an_end(asking: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MOST_EMPTY", 3)
    empty = [paged(number, b"more") for number in range(2, 8)]
    with asking(*empty[:3], entry(5, "cn=a") + paged(5)) as session:
        assert len(everybody(session)) == 1, "a server that looks for a long time gives some"
    with asking(*empty) as session, pytest.raises(Refused, match="4 pages in a row with nothing in them"):
        everybody(session)


def nested(tag: int, depth: int) -> bytes:
    told = b""
    for _ in range(depth):
        told = element(tag, told)
    return told


@pytest.mark.parametrize(
    "answer",
    [
        message(2, SEARCHED, nested(0x30, 20_000)),
        message(2, ENTRY, element(4, b"cn=a"), nested(0x30, 20_000)),
        element(0x30, element(2, b"\x02") + nested(0x65, 20_000)),
        element(0x30, element(2, b"\x02") + result(2, SEARCHED)[5:] + nested(0xA0, 20_000)),
        message(2, SEARCHED, element(10, b"\x01" * 5_000), element(4, b""), element(4, b"")),
        message(2, SEARCHED, element(10, b""), element(4, b""), element(4, b"")),
        message(2, SEARCHED),
        element(0x30, element(2, b"\x02") + b"\x65\x7f"),
        element(0x30, element(2, b"\x02")),
        element(0x30, b""),
    ],
    ids=range(10),
)
def test_whatever_else_a_server_says_is_refused(asking: Callable[..., Any], answer: bytes) -> None:
    with asking(answer) as session, pytest.raises(Refused):
        everybody(session)


@pytest.mark.parametrize("filter", ["(a=**)", "(a=b", "(&" * 5_000 + "(a=b)" + ")" * 5_000, "(a=\ud800)"])
def test_a_question_that_cannot_be_put_is_a_misconfiguration(asking: Callable[..., Any], filter: str) -> None:
    with asking(result(2, SEARCHED)) as session:
        with pytest.raises(Misconfigured, match="cannot be put"):
            session.search("dc=acme", filter, ["*"])
        assert session.search("dc=acme", "(a=*b*)", ["*"]).entries == []


class Ranges:
    """Gives the values of an attribute so many at once, from where it is asked; `low` and `high` are what it says."""

    def __init__(self, says: Callable[[int], tuple[str, list[bytes]]]) -> None:
        self.asked = 0
        self._says = says

    def entry(self, name: str, attributes: Sequence[str]) -> Entry:
        self.asked += 1
        low = int(attributes[0].partition("=")[2].partition("-")[0])
        written, values = self._says(low)
        return Entry(name.encode(), {f"member;range={written}": values}, 20 + sum(map(len, values)))


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (lambda low: (f"{low}-{low}", [b"x" * 1_000]), "too_large"),
        (lambda low: (f"{low}-{low}", []), "partial_values"),
        (lambda low: (f"{low}-{low - 2}", [b"x"]), "partial_values"),
        (lambda low: (f"{low - 1}-*", [b"x"]), "partial_values"),
        (lambda low: (f"{low}-{'9' * 5_000}", [b"x"]), "partial_values"),
    ],
)
def test_ranges_come_to_an_end(
    says: Callable[[int], tuple[str, list[bytes]]], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.ldif.LARGEST", 50_000)
    server = Ranges(says)
    reader = Reader(server, SimpleNamespace(), 10)  # type: ignore[arg-type]
    with pytest.raises(Unfit) as caught:
        reader._values(Entry(b"cn=a", {"member;range=0-0": [b"x"]}, 100))
    assert caught.value.reason == reason and server.asked < 100


def test_all_ranges_are_put_together() -> None:
    server = Ranges(lambda low: (f"{low}-{low + 1}" if low < 5 else f"{low}-*", [b"%d" % low, b"%d" % (low + 1)]))
    reader = Reader(server, SimpleNamespace(), 10)  # type: ignore[arg-type]
    values = reader._values(Entry(b"cn=a", {"member;range=0-0": [b"0"]}, 100))
    assert values == {"member": ["0", "1", "2", "3", "4", "5", "6"]}


def test_of_an_entry_that_is_too_large_the_key_is_told(
    asking: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be taken for gone."""
    monkeypatch.setattr(wire, "LARGEST", 2_000)
    told = entry(2, "cn=a", cn=[b"a"], objectGUID=[b"k" * 16], photo=[b"x" * 2_000])
    with asking(told + entry(2, "cn=b", cn=[b"b"]) + paged(2)) as session:
        large, small = everybody(session)
    assert large.attributes == {"objectGUID": [b"k" * 16]} and large.size > 2_000
    assert small.attributes == {"cn": [b"b"]}


class DirSync:
    """Answers one round after another, each with its cookie, the flag for more and a number of entries."""

    server = "ldaps://dc1"

    def __init__(self, rounds: Callable[[int], bytes | None], entries: int = 0) -> None:
        self.asked = 0
        self._rounds, self._entries = rounds, entries

    def search(self, base: str, filter: str, attributes: Sequence[str], controls: Sequence[Any]) -> Answer:
        self.asked += 1
        return Answer(0, "success", "", [Entry(b"cn=a", {}, 1)] * self._entries, {DIRSYNC: self._rounds(self.asked)})


def told(cookie: bytes, more: int = 0) -> bytes:
    return element(0x30, element(2, bytes([more])) + element(2, b"\x00") + element(4, cookie))


def rounds(server: DirSync) -> list[follow.Round]:
    scope = SimpleNamespace(roots=("dc=acme",))
    return list(follow._rounds(server, scope, "(a=b)", Cursor("dirsync", "0" * 24)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "says",
    [
        lambda number: told(b"the same", 1),
        lambda number: told(b"%d" % number, 1),
        lambda number: None,
        lambda number: b"\x04\x00",
        lambda number: element(0x30, element(4, b"cookie alone")),
        lambda number: told(b""),
        lambda number: told(b"x" * (LONGEST_COOKIE + 1)),
    ],
    ids=["stands", "idles", "nothing", "no-sequence", "no-flags", "no-cookie", "too-long"],
)
def test_rounds_without_an_end_are_refused(
    says: Callable[[int], bytes | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "_MOST_IDLE", 5)
    server = DirSync(says)
    with pytest.raises(Refused):
        rounds(server)
    assert server.asked <= 6


def test_rounds_that_bring_something_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_MOST_IDLE", 5)
    answers = rounds(DirSync(lambda number: told(b"%d" % number, int(number < 20)), entries=1))
    assert len(answers) == 20 and not answers[-1].more
    assert answers[-1].following.cookie == b"20"
