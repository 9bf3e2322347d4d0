"""A live Active Directory followed into another project's SCIM server: each change is there after one delta.

DirSync with the right to replicate, and update sequence numbers with the right to list what was deleted. What an
ordinary account cannot see stays until a full pass heals it. Everything of the directory is compared in
`test_everything_that_is_read…`; the other tests leave out the plain people, who would only have to be sent first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from flask import Flask

from broker import running
from broker.config import Config
from broker.context import acting, system
from broker.embedded import Services
from tests.canonical_ldif import canonical
from tests.conftest import make_world
from tests.journeys.following import Following, read_canonically
from tests.receivers import Remote, scim2_server
from tests.upstreams.samba import ActiveDirectory, Service, active_directory

pytestmark = pytest.mark.long

ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
BUT_PLAIN_PEOPLE = "(!(sAMAccountName=plain*))"


@pytest.fixture(scope="module")
def pushing(engines: Flask, services: Services, settings: Config) -> Iterator[Flask]:
    """The app for the whole file; nothing it owes is left behind."""
    with engines.app_context(), acting(system("tests")):
        running.install(engines, services.configure(settings))
        yield engines
        for client in engines.extensions.pop("scaikey.push.clients", {}).values():
            client.close()


@pytest.fixture(scope="module")
def receivers() -> Iterator[Callable[[str], Remote]]:
    with scim2_server() as make:
        yield make


class Acme:
    """A tenant with its directory on one side and its receiver on the other."""

    def __init__(self, directory: ActiveDirectory, following: Following, receiver: Remote) -> None:
        self.ad = directory
        self.following = following
        self.receiver = receiver

    def catch_up(self, *, full: bool = False) -> Any:
        run = self.following.catch_up(full=full)
        assert run.kind == ("full" if full else "delta")
        return run

    def there(self, name: str) -> dict[str, Any] | None:
        """The account of that person at the receiver."""
        return self._found("Users", f'userName eq "{name}@{self.ad.domain}"')

    def present(self, name: str) -> dict[str, Any]:
        account = self.there(name)
        assert account is not None, f"{name} is not at the receiver"
        return account

    def group(self, name: str) -> dict[str, Any] | None:
        return self._found("Groups", f'displayName eq "{name}"')

    def members(self, group: str) -> set[str]:
        """The names of whom a group holds at the receiver, which keeps members of whom it has deleted."""
        found = self.group(group)
        assert found is not None, f"{group} is not at the receiver"
        ids = [member["value"] for member in found.get("members", [])]
        people = [self._found("Users", f'id eq "{id}"') for id in ids]
        groups = [self._found("Groups", f'id eq "{id}"') for id in ids]
        names = {user["userName"].partition("@")[0] for user in people if user is not None}
        return names | {group["displayName"] for group in groups if group is not None}

    def _found(self, endpoint: str, filter: str) -> dict[str, Any] | None:
        found = self.receiver.get(f"/{endpoint}?{urlencode({'filter': filter})}")
        assert found["totalResults"] <= 1, f"{filter} is at the receiver twice"
        return next(iter(found.get("Resources", [])), None)


def following(mode: str, service: Service, receivers: Callable[[str], Remote]) -> Iterator[Acme]:
    """Everybody but the plain people, read and provisioned once. Who is removed is deleted at the receiver."""
    scope = make_world().acme
    with active_directory() as directory:
        followed = Following.active_directory(scope, directory, service, mode, user_filter=BUT_PLAIN_PEOPLE)
        receiver = receivers(str(scope.tenant_id).replace("_", "-"))
        acme = Acme(directory, followed, receiver)
        followed.provision(receiver, deprovision="delete")
        acme.catch_up(full=True)
        yield acme


@pytest.fixture(scope="module", params=["dirsync", "usn"])
def acme(request: pytest.FixtureRequest, pushing: Flask, receivers: Callable[[str], Remote]) -> Iterator[Acme]:
    """Followed in that mode, by an account with the rights for it."""
    yield from following(request.param, "dirsync" if request.param == "dirsync" else "deleted", receivers)


@pytest.fixture(scope="module", params=["dirsync", "usn"])
def ordinary(request: pytest.FixtureRequest, pushing: Flask, receivers: Callable[[str], Remote]) -> Iterator[Acme]:
    """Followed by an account that has no right but to read."""
    yield from following(request.param, "sync", receivers)


def test_everything_that_is_read_equals_a_plain_search_attribute_by_attribute(pushing: Flask, tmp_path: Path) -> None:
    with active_directory() as directory:
        followed = Following.active_directory(make_world().acme, directory, "dirsync")
        run = followed.sync()
        assert (run.kind, run.skipped, run.created) == ("full", 0, run.read) and run.read > 1700
        found = read_canonically(directory.raw_read("dirsync", directory.corp))
        assert canonical(followed.exported(tmp_path / "out.ldif")) == found and len(found) > 50_000
        again = followed.sync(full=True)
        assert (again.unchanged, again.updated) == (again.read, 0)
        assert followed.sync().read == 0


def test_a_new_person_arrives(acme: Acme) -> None:
    acme.ad.add_user("amber", displayName="Amber Ü", sn="Ünal", givenName="Amber", mail="amber@acme.test")
    acme.catch_up()
    account = acme.present("amber")
    assert account["active"] is True and account["displayName"] == "Amber Ü"
    assert account["name"]["familyName"] == "Ünal" and account["emails"][0]["value"] == "amber@acme.test"
    acme.ad.delete(f"CN=amber,{acme.ad.people}")


def test_a_renamed_person_keeps_the_account(acme: Acme) -> None:
    dn = acme.ad.add_user("bea", sn="Miss")
    acme.catch_up()
    before = acme.present("bea")["id"]
    dn = acme.ad.rename(dn, "Bea, née Miss")
    acme.ad.set(dn, sn="Wed", userPrincipalName=f"bea.wed@{acme.ad.domain}")
    acme.catch_up()
    assert acme.there("bea") is None
    account = acme.present("bea.wed")
    assert account["id"] == before and account["name"]["familyName"] == "Wed" and account["nickName"] == dn


def test_a_person_who_moves_is_followed_and_gone_when_moved_out_of_what_is_read(acme: Acme) -> None:
    dn = acme.ad.add_user("cleo")
    acme.ad.add_group("Cs", [dn])
    acme.catch_up()
    before = acme.present("cleo")["id"]
    dn = acme.ad.move(dn, acme.ad.corp)
    acme.catch_up()
    assert acme.present("cleo")["nickName"] == dn and acme.present("cleo")["id"] == before
    dn = acme.ad.move(dn, f"CN=Users,{acme.ad.base_dn}")
    acme.catch_up()
    assert acme.there("cleo") is None and acme.members("Cs") == set()
    acme.ad.move(dn, acme.ad.people)
    acme.catch_up()
    assert acme.present("cleo")["active"] is True and acme.members("Cs") == {"cleo"}


def test_a_disabled_person_is_disabled_there_and_enabled_again(acme: Acme) -> None:
    dn = acme.ad.add_user("dora")
    acme.catch_up()
    for switch, active in ((acme.ad.disable, False), (acme.ad.enable, True)):
        switch(dn)
        acme.catch_up()
        assert acme.present("dora")["active"] is active


def test_an_account_that_expired_is_disabled_there(acme: Acme) -> None:
    dn = acme.ad.add_user("edna")
    acme.catch_up()
    acme.ad.expire(dn)
    acme.catch_up()
    assert acme.present("edna")["active"] is False
    acme.ad.set(dn, accountExpires=0)
    acme.catch_up()
    assert acme.present("edna")["active"] is True


def test_a_deleted_person_goes_and_takes_the_memberships_along(acme: Acme) -> None:
    dn = acme.ad.add_user("faye")
    stays = acme.ad.add_user("fred")
    group = acme.ad.add_group("Fs", [dn, stays])
    acme.catch_up()
    assert acme.members("Fs") == {"faye", "fred"}
    acme.ad.delete(dn)
    assert acme.catch_up().removed == 1
    assert acme.there("faye") is None and acme.members("Fs") == {"fred"}
    acme.ad.delete(group)


def test_an_account_made_anew_under_an_old_name_is_somebody_else(acme: Acme) -> None:
    dn = acme.ad.add_user("gina", title="Chief")
    group = acme.ad.add_group("Gs", [dn])
    acme.catch_up()
    before = acme.present("gina")
    acme.ad.delete(dn)
    acme.ad.add_user("gina")
    acme.catch_up()
    after = acme.present("gina")
    assert after["externalId"] != before["externalId"] and after["id"] != before["id"] and "title" not in after
    assert acme.members("Gs") == set()
    acme.ad.add_member(group, f"CN=gina,{acme.ad.people}")
    acme.catch_up()
    assert acme.members("Gs") == {"gina"}


def test_who_joins_and_who_leaves_a_group(acme: Acme) -> None:
    hana, hugo = acme.ad.add_user("hana"), acme.ad.add_user("hugo")
    group = acme.ad.add_group("Hs", [hana])
    acme.catch_up()
    assert acme.members("Hs") == {"hana"}
    acme.ad.add_member(group, hugo)
    acme.catch_up()
    assert acme.members("Hs") == {"hana", "hugo"}
    acme.ad.remove_member(group, hana)
    acme.catch_up()
    assert acme.members("Hs") == {"hugo"}
    acme.ad.remove_member(group, hugo)
    acme.catch_up()
    assert acme.members("Hs") == set()


def test_groups_in_groups_and_in_a_circle(acme: Acme) -> None:
    ines = acme.ad.add_user("ines")
    inner = acme.ad.add_group("Inner", [ines])
    outer = acme.ad.add_group("Outer")
    acme.catch_up()
    acme.ad.add_member(outer, inner)
    acme.catch_up()
    assert acme.members("Outer") == {"Inner"}
    acme.ad.add_member(inner, outer)
    acme.catch_up()
    assert acme.members("Inner") == {"ines", "Outer"}
    acme.ad.remove_member(inner, outer)
    acme.ad.delete(outer)
    acme.catch_up()
    assert acme.group("Outer") is None and acme.members("Inner") == {"ines"}


def test_a_renamed_unit_renames_everybody_below_it(acme: Acme) -> None:
    unit = acme.ad.add_ou("Jena, West")
    below = acme.ad.add_ou("Lab", unit)
    acme.ad.add_user("jana", below)
    acme.ad.add_user("jens", unit)
    acme.catch_up()
    unit = acme.ad.rename(unit, "Jülich")
    acme.catch_up()
    assert acme.present("jana")["nickName"] == f"CN=jana,OU=Lab,{unit}"
    assert acme.present("jens")["nickName"] == f"CN=jens,{unit}"
    assert acme.following.document("Jena, West", "OrganizationalUnit") is None
    assert acme.following.document("Jülich", "OrganizationalUnit") is not None


def test_a_manager_and_a_photo_change(acme: Acme) -> None:
    kara, kurt = acme.ad.add_user("kara"), acme.ad.add_user("kurt")
    acme.catch_up()
    acme.ad.set(kurt, manager=kara, thumbnailPhoto=b"\x89PNG\0\xff", title="Clerk")
    acme.catch_up()
    account = acme.present("kurt")
    assert account[ENTERPRISE]["manager"]["value"] == acme.present("kara")["id"] and account["title"] == "Clerk"
    acme.ad.set(kurt, manager=None, title=None)
    acme.catch_up()
    account = acme.present("kurt")
    assert "title" not in account and "manager" not in account.get(ENTERPRISE, {})


def test_the_primary_group_is_a_group_like_others(acme: Acme) -> None:
    lena = acme.ad.add_user("lena")
    group = acme.ad.add_group("Ls", [lena])
    acme.catch_up()
    token = int.from_bytes(acme.ad.read(group, "objectSid")["objectSid"][0][-4:], "little")
    acme.ad.set(lena, primaryGroupID=token)
    assert "member" not in acme.ad.read(group)
    acme.catch_up()
    assert acme.members("Ls") == {"lena"}
    acme.ad.set(lena, primaryGroupID=513)
    acme.ad.remove_member(group, lena)
    acme.catch_up()
    assert acme.members("Ls") == set()


def test_members_from_elsewhere_are_kept_and_nobody_is_made_of_them(acme: Acme) -> None:
    mona = acme.ad.add_user("mona")
    group = acme.ad.add_group("Ms", [mona])
    acme.catch_up()
    acme.ad.add_member(group, "<SID=S-1-5-21-1004336348-1177238915-682003330-4321>")
    contact = acme.ad.search("(objectClass=contact)")[0][0]
    acme.ad.add_member(group, contact)
    acme.catch_up()
    assert acme.members("Ms") == {"mona"}
    acme.ad.delete(group)


def test_after_all_of_it_a_full_pass_finds_nothing_that_was_missed(acme: Acme, tmp_path: Path) -> None:
    """A group whose members changed is not read by DirSync: its quiet values, which nobody is told of, come later."""
    acme.catch_up()
    entries = acme.ad.raw_read("dirsync", acme.ad.corp)
    there = read_canonically([entry for entry in entries if not is_plain(entry[1])])
    assert loud(canonical(acme.following.exported(tmp_path / "followed.ldif"))) == loud(there)
    told = acme.following.events("%ed")
    run = acme.catch_up(full=True)
    assert (run.created, run.disabled, run.removed) == (0, 0, 0)
    assert acme.following.events("%ed") == [*told, "sync.finished"]
    assert canonical(acme.following.exported(tmp_path / "read.ldif")) == there


def is_plain(attributes: dict[str, list[bytes]]) -> bool:
    return attributes.get("sAMAccountName", [b""])[0].startswith(b"plain")


def loud(lines: list[str]) -> list[str]:
    """Without the values that change for no reason of the entry's own; members as a set."""
    return sorted(line for line in lines if line.split(" | ")[1:2] not in (["usnchanged"], ["whenchanged"]))


def test_a_deletion_that_an_ordinary_account_does_not_see_is_healed_by_a_full_pass(ordinary: Acme) -> None:
    nora, nils = ordinary.ad.add_user("nora"), ordinary.ad.add_user("nils")
    ordinary.ad.add_group("Ns", [nora, nils])
    ordinary.catch_up()
    assert ordinary.members("Ns") == {"nora", "nils"}
    ordinary.ad.delete(nora)
    assert ordinary.catch_up().removed == 0
    assert ordinary.present("nora")["active"] is True
    assert ordinary.catch_up(full=True).removed == 1
    assert ordinary.there("nora") is None and ordinary.members("Ns") == {"nils"}


def test_an_ordinary_account_sees_everything_else_at_once(ordinary: Acme) -> None:
    olga, otto = ordinary.ad.add_user("olga"), ordinary.ad.add_user("otto")
    group = ordinary.ad.add_group("Os", [olga, otto])
    ordinary.catch_up()
    olga = ordinary.ad.move(ordinary.ad.rename(olga, "Olga, O."), ordinary.ad.corp)
    ordinary.ad.disable(olga)
    ordinary.ad.remove_member(group, olga)
    ordinary.catch_up()
    assert ordinary.present("olga")["nickName"] == olga and ordinary.present("olga")["active"] is False
    assert ordinary.members("Os") == {"otto"}
