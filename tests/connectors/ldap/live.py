"""A live directory as the connector is set up for it, and the reading of its passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from connectors import ldap
from connectors.egress import Egress
from connectors.ldap.directory import LiveDirectory
from connectors.port import Change, Gone, Members, Page, Record
from tests.upstreams.samba import ActiveDirectory, Service
from tests.upstreams.slapd import OpenLdap

LOOPBACK = Egress(loopback=True)


def config(at: ActiveDirectory | OpenLdap, service: Service = "dirsync", **settings: Any) -> ldap.Config:
    user, password = at.service(service) if isinstance(at, ActiveDirectory) else at.service
    ours: dict[str, Any] = {
        "source": "ldap",
        "servers": [at.url],
        "ca_certificates": at.ca,
        "bind_dn": user,
        "bind_password": password,
    }
    return ldap.Config(**{**ours, **settings})


def connect(at: ActiveDirectory | OpenLdap, service: Service = "dirsync", **settings: Any) -> LiveDirectory:
    made = ldap.connect(config(at, service, **settings), LOOPBACK)
    assert made is not None
    return made


def told(pages: Sequence[Page]) -> list[Change]:
    return [change for page in pages for change in page.changes]


def everything(feed: LiveDirectory) -> dict[str, Record]:
    """The records of a full pass by their keys."""
    records = [change for change in told(list(feed.changes_since(None))) if isinstance(change, Record)]
    found = {record.key: record for record in records}
    assert len(found) == len(records)
    return found


class Follower:
    """Somebody who has read everything and goes on from there."""

    def __init__(self, feed: LiveDirectory) -> None:
        self.feed = feed
        self.cursor = list(feed.changes_since(None))[-1].cursor

    def pages(self) -> list[Page]:
        pages = list(self.feed.changes_since(self.cursor))
        assert [page.last for page in pages] == [False] * (len(pages) - 1) + [True]
        assert {page.kind for page in pages} == {"delta"}
        self.cursor = pages[-1].cursor
        return pages

    def news(self) -> News:
        changes = told(self.pages())
        order = [type(change) for change in changes]
        assert order == sorted(order, key=[Record, Members, Gone].index)
        return News(
            {change.key: change for change in changes if isinstance(change, Record)},
            [change for change in changes if isinstance(change, Members)],
            {change.key for change in changes if isinstance(change, Gone)},
        )


@dataclass
class News:
    records: dict[str, Record]
    members: list[Members]
    gone: set[str]

    @property
    def names(self) -> set[str]:
        return {record.name for record in self.records.values()}
