"""What every ChangeFeed promises, whichever upstream it reads: the directory relies on nothing else.

A new connector adds one line to `FEEDS`: a function that makes a source of some thousand records in a folder and
gives the feed of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from connectors import kinds, ldif
from connectors.port import (
    Change,
    ChangeFeed,
    Gone,
    Members,
    Misconfigured,
    Page,
    Record,
    Ref,
    Unreadable,
    UpstreamError,
)

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


@pytest.fixture(params=FEEDS, ids=lambda make: make.__name__)
def feed(request: pytest.FixtureRequest, tmp_path: Path) -> ChangeFeed:
    made = request.param(tmp_path)
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
    pages = read(feed)
    for place, page in enumerate(pages, start=1):
        rest = read(feed, page.cursor)
        assert told(rest) == told(pages[place:])
        assert rest[-1].last


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
    if done:
        assert len({page.total for page in pages}) == 1
        assert pages[-1].done == pages[-1].total


def cursors(feed: ChangeFeed) -> Iterator[str]:
    cursor = read(feed)[0].cursor
    yield from ("", "x", "\x00", cursor[:-1], cursor + "0", cursor[1:], json.dumps(cursor), "9" * 5000, "ldif1:é:0:0")


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
