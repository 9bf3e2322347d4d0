"""What every connector promises, whichever upstream it speaks to: the directory and the sign-in rely on nothing else.

A new ChangeFeed adds one line to `FEEDS`: a function that makes a source of some thousand records in a folder and
gives the feed of it; one of a live upstream is a fixture named in `LIVE`. A new SignIn adds one to `COUNTERPARTS`: an
upstream that knows its person, and the browser there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from connectors import kinds, ldif
from connectors.egress import Egress
from connectors.http import HttpClient
from connectors.port import (
    Change,
    ChangeFeed,
    CursorExpired,
    Departure,
    Diagnose,
    Gone,
    Identity,
    Members,
    Misconfigured,
    Page,
    Record,
    Ref,
    Reply,
    ReturnTo,
    SignIn,
    SignOut,
    Unreachable,
    Unreadable,
    UpstreamError,
)
from tests import issuer
from tests.upstreams.samba import ActiveDirectory
from tests.upstreams.slapd import OpenLdap, openldap

DATA = Path(__file__).parents[1] / "data"


def acme(folder: Path) -> ChangeFeed:
    return kinds.file_feed("ldap", kinds.config_from("ldap", {"base_dn": "DC=ad,DC=acme,DC=test"}), DATA / "acme.ldif")


def paged(folder: Path) -> ChangeFeed:
    return kinds.file_feed("ldap", kinds.config_from("ldap", {}), DATA / "ldapsearch.txt")


def poisoned(folder: Path) -> ChangeFeed:
    """2,500 people, every seventh of them spoilt in one way or another."""
    spoilt = (
        b"dn: nonsense\n\n",
        b"cn: nameless\n\n",
        b"dn: CN=a,DC=x\nphoto:: !\n\n",
        b"dn: CN=a,DC=x\nchangetype: delete\n\n",
    )
    path = folder / "poisoned.ldif"
    with path.open("wb") as file:
        for i in range(2500):
            guid = i.to_bytes(15, "big") + b"\xff"
            person = ldif.write_entry(f"CN=u{i},DC=x", {"objectClass": ["user"], "objectGUID": [guid]})
            file.write(person if i % 7 else spoilt[i // 7 % 4])
    return kinds.file_feed("ldap", kinds.config_from("ldap", {}), path)


def empty(folder: Path) -> ChangeFeed:
    path = folder / "empty.ldif"
    path.touch()
    return kinds.file_feed("ldap", kinds.config_from("ldap", {}), path)


FEEDS: list[Callable[[Path], ChangeFeed]] = [acme, paged, poisoned, empty]


@pytest.fixture(scope="module")
def live_active_directory(active_directory: ActiveDirectory) -> ChangeFeed | None:
    """But for the service accounts, whom every pass changes a little."""
    bases = [active_directory.people, active_directory.groups]
    return live(active_directory, *active_directory.service("dirsync"), base_dns=bases, page_size=50)


@pytest.fixture(scope="module")
def live_openldap() -> Iterator[ChangeFeed | None]:
    with openldap(120) as server:
        yield live(server, *server.service, page_size=50)


def live(at: ActiveDirectory | OpenLdap, user: str, password: str, **settings: Any) -> ChangeFeed | None:
    ours = {"source": "ldap", "servers": [at.url], "ca_certificates": at.ca, "bind_dn": user, "bind_password": password}
    return kinds.live_feed("ldap", kinds.config_from("ldap", {**ours, **settings}), Egress(loopback=True))


LIVE = ["live_active_directory", "live_openldap"]


@pytest.fixture(
    params=[*FEEDS, *(pytest.param(name, marks=pytest.mark.long) for name in LIVE)],
    ids=lambda made: made if isinstance(made, str) else made.__name__,
)
def feed(request: pytest.FixtureRequest, tmp_path: Path) -> ChangeFeed:
    made = request.getfixturevalue(request.param) if isinstance(request.param, str) else request.param(tmp_path)
    assert isinstance(made, ChangeFeed)
    return made


def read(feed: ChangeFeed, cursor: str | None = None) -> list[Page]:
    return list(feed.changes_since(cursor))


def told(pages: list[Page]) -> list[Change]:
    return [change for page in pages for change in page.changes]


def test_only_the_last_page_of_a_pass_is_last(feed: ChangeFeed) -> None:
    last = [page.last for page in read(feed)]
    assert last == [False] * (len(last) - 1) + [True]


def test_a_first_pass_is_a_full_one(feed: ChangeFeed) -> None:
    assert {page.kind for page in read(feed)} == {"full"}


def test_after_every_cursor_comes_the_rest(feed: ChangeFeed) -> None:
    """The rest of the pass, or what has changed since; a place inside a pass may have died with its connection."""
    pages = read(feed)
    for place, page in enumerate(pages, start=1):
        try:
            rest = read(feed, page.cursor)
        except CursorExpired:
            assert not page.last
            continue
        assert rest[-1].last
        if rest[-1].kind == "full":
            assert told(rest) == told(pages[place:])
        else:
            assert all(change in told(pages) for change in told(rest))


def test_a_cursor_is_short_text(feed: ChangeFeed) -> None:
    for page in read(feed):
        assert page.cursor.isprintable()
        assert len(page.cursor) < 4096


def test_pages_are_bounded(feed: ChangeFeed) -> None:
    assert all(len(page.changes) <= 1000 for page in read(feed))


def test_two_passes_tell_the_same(feed: ChangeFeed) -> None:
    assert told(read(feed)) == told(read(feed))


def test_keys_and_refs_are_unique_and_comparable(feed: ChangeFeed) -> None:
    records = [change for change in told(read(feed)) if isinstance(change, Record)]
    for names in ([r.key for r in records], [r.ref for r in records], [r.alias for r in records if r.alias]):
        assert len(set(names)) == len(names)
        assert all(names)


def test_values_are_text_or_bytes_that_are_no_text(feed: ChangeFeed) -> None:
    for change in told(read(feed)):
        if isinstance(change, Record):
            for name, values in change.attributes.items():
                assert name
                assert values
                for value in values:
                    if isinstance(value, bytes):
                        with pytest.raises(UnicodeDecodeError):
                            value.decode()
                    else:
                        value.encode()


def test_changes_are_of_the_ports_types(feed: ChangeFeed) -> None:
    for change in told(read(feed)):
        assert isinstance(change, (Record, Members, Gone, Unreadable))
        if isinstance(change, Record):
            assert change.kind in ("user", "group", "unit", "other")
            assert (change.members is None) == (change.kind != "group")
            mentions = [*(change.members or ()), change.manager, change.parent, change.primary_group]
            assert all(isinstance(ref, Ref) and ref.key and ref.raw for ref in mentions if ref is not None)
        if isinstance(change, Unreadable):
            assert all((change.position, change.reason, change.detail))
            assert change.reason.isidentifier()


def test_progress_never_goes_back(feed: ChangeFeed) -> None:
    pages = read(feed)
    done = [page.done for page in pages if page.done is not None]
    assert done == sorted(done)
    if done and pages[-1].total is not None:
        assert len({page.total for page in pages}) == 1
        assert pages[-1].done == pages[-1].total


def cursors(feed: ChangeFeed) -> Iterator[str]:
    yield from ("", "x", "\x00", "9" * 5000, "ldif1:é:0:0")
    pages = read(feed)
    for cursor in {pages[0].cursor, pages[-1].cursor}:
        yield from (cursor[:-1], cursor + "0", cursor[1:], json.dumps(cursor))


def test_a_cursor_that_is_not_ours_raises_only_what_the_port_allows(feed: ChangeFeed) -> None:
    for cursor in cursors(feed):
        try:
            read(feed, cursor)
        except UpstreamError as error:
            assert str(error)


def test_a_source_that_went_away_raises_only_what_the_port_allows(tmp_path: Path) -> None:
    feed = poisoned(tmp_path)
    (tmp_path / "poisoned.ldif").unlink()
    with pytest.raises(Misconfigured):
        read(feed)


CALLBACK = "https://broker.example/t/acme/callback/idp_1"


@dataclass
class Counterpart:
    """An upstream with one person, and how it comes to be broken."""

    kind: str
    settings: Mapping[str, Any]
    visit: Callable[[Departure], Reply]
    say: Callable[[Mapping[str, Any]], None]
    """Changes what it says of the person."""
    die: Callable[[], None]
    """From now on it answers every request with an error of its own."""

    def connector(self, http: HttpClient) -> SignIn:
        made = kinds.sign_in(self.kind, kinds.config_from(self.kind, self.settings), http)
        assert isinstance(made, SignIn)
        return made


@contextmanager
def openid() -> Iterator[Counterpart]:
    with issuer.running() as provider:
        settings = {
            "issuer": provider.url,
            "client_id": issuer.CLIENT,
            "client_secret": issuer.SECRET,
            "groups_claim": "groups",
        }
        dead = dict.fromkeys(("openid-configuration", "token", "jwks", "userinfo"), (500, {}, b""))
        yield Counterpart(
            "oidc",
            settings,
            lambda departure: issuer.visit(departure.url),
            lambda claims: provider.person.update(claims),
            lambda: provider.answers.update(dead),
        )


COUNTERPARTS = [openid]


@pytest.fixture(params=COUNTERPARTS, ids=lambda make: make.__name__)
def counterpart(request: pytest.FixtureRequest) -> Iterator[Counterpart]:
    with request.param() as made:
        yield made


@pytest.fixture
def http() -> Iterator[HttpClient]:
    with closing(HttpClient(Egress(loopback=True), timeout=2.0)) as client:
        yield client


def signed_in(counterpart: Counterpart, http: HttpClient) -> Identity:
    """One sign-in, finished by another object than began it, as if in another process."""
    departure = counterpart.connector(http).begin_sign_in(ReturnTo(CALLBACK, "our-state"))
    return counterpart.connector(http).finish_sign_in(departure.memo, counterpart.visit(departure))


def test_a_departure_carries_the_state_and_hides_its_memo(counterpart: Counterpart, http: HttpClient) -> None:
    connector = counterpart.connector(http)
    departures = [connector.begin_sign_in(ReturnTo(CALLBACK, "our-state", login_hint="alice")) for _ in range(2)]
    for departure in departures:
        assert departure.url.startswith(("https://", "http://127.0.0.1:"))
        assert "our-state" in departure.url + json.dumps(dict(departure.form or {}))
        assert 0 < len(departure.memo) < 4096
    assert departures[0].memo != departures[1].memo
    assert departures[0] != departures[1]


def test_the_state_comes_back_once(counterpart: Counterpart, http: HttpClient) -> None:
    departure = counterpart.connector(http).begin_sign_in(ReturnTo(CALLBACK, "our-state"))
    reply = counterpart.visit(departure)
    assert "our-state" in [value for values in reply.parameters.values() for value in values]


def test_an_identity_is_of_the_ports_types(counterpart: Counterpart, http: HttpClient) -> None:
    counterpart.say({"email": "alice@acme.example", "email_verified": True, "groups": ["a"], "name": "Alice"})
    identity = signed_in(counterpart, http)
    assert identity.key and identity.key.isprintable() and "@" not in identity.key
    assert identity.groups == frozenset({"a"})
    assert identity.verified_emails == {"alice@acme.example"}
    assert identity.name
    for name, values in identity.attributes.items():
        assert name and values and not isinstance(values, (str, bytes))
        assert all(isinstance(value, (str, bytes)) for value in values)
    assert identity.once is not None
    assert datetime.now(UTC) < identity.once[1] < datetime.now(UTC) + timedelta(days=2)
    assert 0 < len(identity.once[0]) <= 255


def test_who_signs_in_again_has_the_same_key_and_another_id_for_once(
    counterpart: Counterpart, http: HttpClient
) -> None:
    first = signed_in(counterpart, http)
    counterpart.say({"email": "new@acme.example", "name": "Another Name"})
    second = signed_in(counterpart, http)
    assert first.key == second.key
    assert first.once is not None and second.once is not None
    assert first.once[0] != second.once[0]


def test_groups_that_were_not_said_are_not_none_of_them(counterpart: Counterpart, http: HttpClient) -> None:
    assert signed_in(counterpart, http).groups is None
    counterpart.say({"groups": []})
    assert signed_in(counterpart, http).groups == frozenset()


def spoilt(reply: Reply) -> Iterator[tuple[str, Reply]]:
    everything: Mapping[str, Sequence[str]] = reply.parameters
    yield "nothing", replace(reply, parameters={}, body=b"")
    yield "all of it twice", replace(reply, parameters={name: [*values] * 2 for name, values in everything.items()})
    yield "empty values", replace(reply, parameters={name: [""] for name in everything})
    yield "no values", replace(reply, parameters={name: [] for name in everything})
    yield "odd letters", replace(reply, parameters={name: ["\x00\ud800ü"] for name in everything})
    yield "long values", replace(reply, parameters={name: ["x" * 200_000] for name in everything})


def test_a_spoilt_answer_raises_only_what_the_port_allows(counterpart: Counterpart, http: HttpClient) -> None:
    connector = counterpart.connector(http)
    departure = connector.begin_sign_in(ReturnTo(CALLBACK, "our-state"))
    for what, reply in spoilt(counterpart.visit(departure)):
        with pytest.raises(UpstreamError) as caught:
            connector.finish_sign_in(departure.memo, reply)
        assert str(caught.value), what
        assert len(str(caught.value)) < 1000, what


def test_an_answer_fits_only_its_own_departure(counterpart: Counterpart, http: HttpClient) -> None:
    connector = counterpart.connector(http)
    mine, theirs = (connector.begin_sign_in(ReturnTo(CALLBACK, "our-state")) for _ in range(2))
    with pytest.raises(UpstreamError):
        connector.finish_sign_in(mine.memo, counterpart.visit(theirs))


def test_an_upstream_that_fails_is_unreachable(counterpart: Counterpart, http: HttpClient) -> None:
    connector = counterpart.connector(http)
    departure = connector.begin_sign_in(ReturnTo(CALLBACK, "our-state"))
    reply = counterpart.visit(departure)
    counterpart.die()
    for attempt in (
        lambda: counterpart.connector(http).begin_sign_in(ReturnTo(CALLBACK, "our-state")),
        lambda: connector.finish_sign_in(departure.memo, reply),
    ):
        with pytest.raises(Unreachable):
            attempt()


def test_a_way_out_needs_what_the_identity_kept(counterpart: Counterpart, http: HttpClient) -> None:
    connector = counterpart.connector(http)
    if not isinstance(connector, SignOut):
        pytest.skip("this upstream keeps its session to itself")
    memo = signed_in(counterpart, http).sign_out_memo
    assert memo
    departure = connector.begin_sign_out(memo, ReturnTo("https://broker.example/out", "our-state"))
    assert departure is None or departure.url.startswith(("https://", "http://127.0.0.1:"))


def test_a_diagnosis_never_raises_and_says_what_to_do(counterpart: Counterpart, http: HttpClient) -> None:
    config = kinds.config_from(counterpart.kind, counterpart.settings)
    diagnose = kinds.diagnose(counterpart.kind, config, http, callback=CALLBACK)
    assert isinstance(diagnose, Diagnose)
    assert all(step.ok and step.name and step.found for step in diagnose.steps())
    counterpart.die()
    failed = [step for step in diagnose.steps() if not step.ok]
    assert failed
    assert all(step.found and step.mend for step in failed)
