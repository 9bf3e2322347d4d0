"""What is exported: every live record as it came, with the member lists as they are now."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from broker import removals
from broker.db import unit
from connectors.ldif import write_entry
from scim.archive import ldif as archive
from tests.canonical_ldif import canonical, differences
from tests.conftest import World, make_provider
from tests.directories import BASE, Upstream, computer, group, people, person, unit_entry, write


@pytest.fixture
def acme(world: World, tmp_path: Path) -> Upstream:
    return Upstream(world.acme, make_provider(world.acme), tmp_path)


def exported(upstream: Upstream) -> Path:
    path = upstream.file.with_suffix(".out.ldif")
    archive.export_ldif(upstream.scope, upstream.provider_id, path)
    return path


def lossless(upstream: Upstream, *entries: tuple) -> bool:
    """Whether these entries come back as they went in."""
    upstream.read(entries)
    return differences(write(upstream.file, entries), exported(upstream)) == []


def listed(*groups: tuple) -> list[str]:
    return [dn for dn, _ in groups]


def test_records_that_became_nobody_are_exported_too(acme: Upstream, tmp_path: Path):
    other = Upstream(acme.scope, make_provider(acme.scope, "Another"), tmp_path)
    other.read(people(2))
    taken = person(9, userPrincipalName="p0001@corp.example")
    assert lossless(acme, taken, computer(1, servicePrincipalName=["HOST/a", "host/A"]), unit_entry(1, "People"))
    assert acme.present() == {"User": 2, "OrganizationalUnit": 1}
    assert len(canonical(exported(other))) == len(canonical(write(other.file, people(2))))


def test_members_keep_their_order_and_their_spelling(acme: Upstream):
    one, two, three = people(3)
    strangers = ["CN=Foreign,CN=Somewhere,DC=else", "cn=FOREIGN\\2C too,cn=somewhere,dc=else"]
    crowd = group(1)
    crowd[1]["member"] = [three[0], strangers[0], one[0].upper(), strangers[1], two[0]]
    crowd[1]["objectClass"].append("posixGroup")
    crowd[1]["memberUid"] = ["b", "a"]
    assert lossless(acme, crowd, one, two, three)


def test_unique_members_are_exported_under_their_name(acme: Upstream):
    crowd = group(1, cn="crowd", objectClass=["top", "groupOfUniqueNames"], uniqueMember=listed(*people(2)))
    assert lossless(acme, *people(2), crowd)


def test_member_lists_longer_than_a_page_are_whole(acme: Upstream, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archive, "AT_ONCE", 3)
    names = [f"CN=x{n},{BASE}" for n in range(1100)]
    groups = [group(number, member=names[number:]) for number in range(4)]
    assert lossless(acme, *groups, *people(3))


def test_member_of_is_what_the_groups_list_now(acme: Upstream):
    one, two = people(2)
    nested, crowd = group(2, [one]), group(1, [one, two])
    nested[1]["memberOf"] = [crowd[0]]
    crowd[1]["member"].append(nested[0])
    one[1]["memberOf"] = [crowd[0], nested[0], "CN=Universal,DC=elsewhere"]
    two[1]["memberOf"] = ["CN=Elsewhere,DC=else", nested[0]]  # the file contradicts itself: nested does not list it
    acme.read([one, two, nested, crowd])
    two[1]["memberOf"] = ["CN=Elsewhere,DC=else", crowd[0]]
    assert differences(write(acme.file, [one, two, nested, crowd]), exported(acme)) == []


def test_member_of_of_a_class_that_is_no_group_is_kept(acme: Upstream):
    container = computer(1, member=listed(*people(1)))
    assert lossless(acme, container, person(0, memberOf=[container[0]]))


def test_a_directory_that_never_says_member_of_gets_none(acme: Upstream):
    assert lossless(acme, *people(3), group(1, people(3)))


def test_a_group_that_cannot_be_one_keeps_its_members(acme: Upstream):
    nameless = group(1, people(2), cn="x" * 600)
    assert lossless(acme, *people(2, memberOf=[nameless[0]]), nameless)
    assert acme.present() == {"User": 2}
    named = group(1, people(1))
    assert lossless(acme, person(0, memberOf=[named[0]]), person(1), named)
    assert acme.members(1) == 1


def test_what_has_gone_is_not_exported(acme: Upstream):
    acme.read([*people(12), group(1, people(12))])
    acme.read([*people(11), group(1, people(11))])
    assert differences(write(acme.file, [*people(11), group(1, people(11))]), exported(acme)) == []


def test_what_is_held_is_exported_until_it_is_approved(acme: Upstream):
    acme.read(people(12))
    before = canonical(exported(acme))
    run = acme.read(people(2))
    assert canonical(exported(acme)) == before
    with unit(acme.scope):
        removals.approve(run.id)
    assert differences(acme.file, exported(acme)) == []


def test_another_tenant_exports_nothing_of_it(acme: Upstream, world: World, tmp_path: Path):
    acme.read(people(2))
    path = tmp_path / "stolen.ldif"
    assert archive.export_ldif(world.globex, acme.provider_id, path) == 0
    assert canonical(path) == []


def test_the_file_is_its_owners_alone_and_whole_or_not_there(acme: Upstream, monkeypatch: pytest.MonkeyPatch):
    acme.read(people(3))
    path = exported(acme)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    written = []

    def full(dn: str, attributes: object) -> bytes:
        if written:
            raise OSError(28, "No space left on device")
        written.append(dn)
        return write_entry(dn, {})

    monkeypatch.setattr(archive, "write_entry", full)
    with pytest.raises(OSError, match="No space"):
        exported(acme)
    assert path.read_bytes() == before
    assert sorted(path.parent.iterdir()) == sorted([path, acme.file])


def test_progress_is_told_in_entries(acme: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archive, "AT_ONCE", 2)
    acme.read(people(5))
    told = []
    path = tmp_path / "out.ldif"
    assert archive.export_ldif(acme.scope, acme.provider_id, path, lambda *now: told.append(now)) == 5
    assert told == [(2, 5), (4, 5), (5, 5)]
