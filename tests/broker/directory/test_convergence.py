"""Whatever moved, was renamed, left, came back or took another's name: after the passes the directory is the source."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest
import sqlalchemy as sa

from broker.models import Membership, Resource
from connectors.port import Record

from .conftest import Tenant, Upstream, group, person

PLACES = ("OU=A", "OU=B")


@dataclass
class Source:
    """A small directory that changes at random: people and groups by key, with the name each has now."""

    random: Random
    people: dict[str, str] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    managers: dict[str, str] = field(default_factory=dict)
    groups: dict[str, list[str]] = field(default_factory=dict)
    primaries: dict[str, str] = field(default_factory=dict)
    made: int = 0

    def key(self) -> str:
        self.made += 1
        return f"k{self.made:03d}"

    def change(self) -> None:
        often = (self.join, self.move, self.regroup)
        seldom = (self.rename, self.swap, self.leave, self.recreate, self.found, self.close, self.promote, self.enlist)
        deed = self.random.choice((*often, *often, *seldom))
        deed()

    def join(self) -> None:
        key = self.key()
        self.people[key], self.places[key] = f"n{key}", self.random.choice(PLACES)

    def found(self) -> None:
        key = self.key()
        self.places[key] = self.random.choice(PLACES)
        self.groups[key] = []

    def close(self) -> None:
        if len(self.groups) > 2:
            key = self.random.choice(list(self.groups))
            del self.groups[key], self.places[key]

    def somebody(self) -> str:
        return self.random.choice(list(self.people))

    def move(self) -> None:
        self.places[self.random.choice(list(self.places))] = self.random.choice(PLACES)

    def rename(self) -> None:
        self.people[self.somebody()] = f"r{self.key()}"

    def swap(self) -> None:
        one, two = self.somebody(), self.somebody()
        self.people[one], self.people[two] = self.people[two], self.people[one]

    def leave(self) -> None:
        if len(self.people) > 4:
            key = self.somebody()
            del self.people[key], self.places[key]

    def recreate(self) -> None:
        """The same name and place, another account, in the same lists."""
        old, new = self.somebody(), self.key()
        self.people[new], self.places[new] = self.people.pop(old), self.places.pop(old)
        for members in self.groups.values():
            members[:] = [new if member == old else member for member in members]

    def regroup(self) -> None:
        if self.groups:
            anybody = [*self.people, *self.groups, "stranger"]
            members = self.random.sample(anybody, self.random.randint(0, min(6, len(anybody))))
            self.groups[self.random.choice(list(self.groups))] = members

    def promote(self) -> None:
        self.managers[self.somebody()] = self.somebody()

    def enlist(self) -> None:
        """Somebody gets another primary group, which may not be there yet, or any more."""
        self.primaries[self.somebody()] = self.random.choice([*self.groups, f"k{self.made + 1:03d}"])

    def dn(self, key: str) -> str:
        name = self.people.get(key) or (f"g{key}" if key in self.groups else f"x{key}")
        return f"CN={name},{self.places.get(key, 'OU=Away')}"

    def tidy(self) -> None:
        for key, members in self.groups.items():
            self.groups[key] = [who for who in members if who in self.people or who in self.groups or who == "stranger"]
        self.managers = {who: boss for who, boss in self.managers.items() if who in self.people and boss in self.people}

    def records(self) -> list[Record]:
        """Everybody, in any order."""
        found = [
            person(
                name,
                key=key,
                at=self.dn(key),
                manager=self.dn(self.managers[key]) if key in self.managers else None,
                primary_group=f"S-{self.primaries[key]}" if key in self.primaries else None,
            )
            for key, name in self.people.items()
        ]
        found += [
            group(f"g{key}", *map(self.dn, members), key=key, at=self.dn(key), alias=f"S-{key}")
            for key, members in self.groups.items()
        ]
        self.random.shuffle(found)
        return found

    def memberships(self) -> set[tuple[str, str]]:
        known = {*self.people, *self.groups}
        listed = {(key, member) for key, members in self.groups.items() for member in members if member in known}
        listed |= {
            (key, member) for member, key in self.primaries.items() if member in self.people and key in self.groups
        }
        return listed


def read(ad: Upstream, records: list[Record], random: Random) -> int:
    """One pass in pages of any size, with all that it takes away; returns how many records were skipped."""
    ad.next_run()
    losses, skips = [], 0
    while records:
        size = random.randint(1, 8)
        page, records = records[:size], records[size:]
        outcome = ad.apply(*page, floor=1)
        losses += outcome.losses
        skips += len(outcome.skips)
    ad.finish(losses)
    return skips


def state(acme: Tenant, ad: Upstream) -> tuple[dict[str, str], set[tuple[str, str]], dict[str, str]]:
    """Who is here under which name, who is in what, and who manages whom, by the upstream's keys."""
    with acme.open() as session:
        keys = dict(
            session.execute(
                sa.text("SELECT resource_id, key FROM links WHERE provider_id = :via AND gone_at IS NULL"),
                {"via": ad.id},
            ).all()
        )
        live = session.scalars(sa.select(Resource).where(Resource.removed_at.is_(None))).all()
        names = {keys[row.id]: row.name for row in live}
        managers = {keys[row.id]: keys[row.manager_id] for row in live if row.manager_id}
        for row in live:
            assert (b'"manager"' in row.document) is (row.manager_id is not None)
        pairs = session.execute(
            sa.select(Membership.group_id, Membership.member_id).where(Membership.member_id.is_not(None))
        )
        memberships = {(keys[group_id], keys[member_id]) for group_id, member_id in pairs}
    return names, memberships, managers


@pytest.mark.parametrize("seed", range(12))
def test_directory_becomes_the_source(acme: Tenant, ad: Upstream, seed: int) -> None:
    random = Random(seed)
    source = Source(random)
    for _ in range(6):
        source.join()
    for _ in range(3):
        source.found()
    for _ in range(5):
        for _ in range(random.randint(0, 10)):
            source.change()
        source.tidy()
        for _ in range(4):  # names that change hands between pages need another pass
            if not read(ad, source.records(), random):
                break
        else:
            together = sorted(source.records(), key=lambda record: record.kind)
            assert ad.next_run().apply(*together, floor=1).skips == []
            ad.finish()
        names, memberships, managers = state(acme, ad)
        assert names == {**source.people, **{key: f"g{key}" for key in source.groups}}
        assert memberships == source.memberships()
        assert managers == source.managers
        acme.news()
        assert read(ad, source.records(), random) == 0
        assert acme.news() == []
        with acme.open() as session:
            assert session.scalars(sa.select(Membership.kind).where(Membership.kind == "leaving")).all() == []
