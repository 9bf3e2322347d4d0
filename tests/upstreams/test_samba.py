"""The live Active Directory of the tests: it is what its helper says, and each service account may what it may."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ldap3
import pytest
from ldap3.core.exceptions import LDAPException, LDAPInsufficientAccessRightsResult, LDAPInvalidCredentialsResult

from tests.upstreams.directory import found
from tests.upstreams.samba import PASSWORD, ActiveDirectory, Service

pytestmark = pytest.mark.long

SHOW_DELETED = ("1.2.840.113556.1.4.417", True, None)
EVERYTHING = "(|(&(objectClass=user)(!(objectClass=computer)))(objectClass=group)(isDeleted=TRUE))"


def asked(directory: ActiveDirectory, service: Service) -> ldap3.Connection:
    return directory.connect(*directory.service(service))


def dirsync(connection: ldap3.Connection, directory: ActiveDirectory, *, object_security: bool) -> Any:
    return connection.extend.microsoft.dir_sync(directory.base_dn, EVERYTHING, object_security=object_security)


def tombstones(connection: ldap3.Connection, directory: ActiveDirectory, name: str) -> list[str]:
    connection.search(
        f"CN=Deleted Objects,{directory.base_dn}",
        f"(&(isDeleted=TRUE)(sAMAccountName={name}))",
        attributes=["lastKnownParent"],
        controls=[SHOW_DELETED],
    )
    return [dn for dn, _ in found(connection)]


def test_1700_people_are_read_page_by_page(active_directory: ActiveDirectory) -> None:
    people = active_directory.raw_read(
        base=active_directory.corp, filter="(&(objectCategory=person)(objectClass=user))"
    )
    assert len(people) == 1700
    photos = [attributes["thumbnailPhoto"][0] for _, attributes in people if "thumbnailPhoto" in attributes]
    assert len(photos) == 200 and all(photo.startswith(b"\x89PNG") for photo in photos)
    assert len(active_directory.read(f"CN=Everyone,{active_directory.groups}")["member"]) == 1700


def test_starttls_is_offered_and_plain_binds_are_refused(active_directory: ActiveDirectory) -> None:
    user, password = active_directory.service("sync")
    server = ldap3.Server(active_directory.starttls_url, get_info=ldap3.NONE)
    plain = ldap3.Connection(server, user, password)
    assert not plain.bind() and plain.result["description"] == "strongerAuthRequired"
    plain.unbind()
    later = ldap3.Connection(server, user, password, auto_bind=ldap3.AUTO_BIND_TLS_BEFORE_BIND)
    assert later.bound
    later.unbind()


def test_each_word_of_the_helper_changes_the_directory(active_directory: ActiveDirectory) -> None:
    ad = active_directory
    dn = ad.add_user("newcomer", password="F1rst-Pass", title="Engineer")
    key = ad.guid(dn)
    unit = ad.add_ou("Süd, West")
    dn = ad.move(ad.rename(dn, "New, Comer + Ü"), unit)
    assert ad.named(key) == dn == f"CN=New\\, Comer \\+ Ü,{unit}"
    unit = ad.rename(unit, "Nord")
    dn = f"CN=New\\, Comer \\+ Ü,{unit}"
    assert ad.guid(dn) == key
    team = ad.add_group("Newcomers", [dn])
    assert ad.read(dn)["memberOf"] == [team.encode()]
    ad.remove_member(team, dn)
    assert "member" not in ad.read(team)
    ad.set_password(dn, "S3cond-Pass")
    ad.connect(f"newcomer@{ad.domain}", "S3cond-Pass").unbind()
    for switch, code in ((ad.disable, "533"), (ad.expire, "701")):
        ad.enable(dn)
        switch(dn)
        with pytest.raises(LDAPInvalidCredentialsResult, match=f"data {code}"):
            ad.connect(f"newcomer@{ad.domain}", "S3cond-Pass")
    ad.delete(dn)
    assert not ad.search("(sAMAccountName=newcomer)")
    assert ad.guid(ad.add_user("newcomer")) != key


def test_wrong_passwords_lock_an_account_once_asked_to(active_directory: ActiveDirectory) -> None:
    active_directory.lock_out_after(2)
    name = f"user0011@{active_directory.domain}"
    for _ in range(2):
        with pytest.raises(LDAPInvalidCredentialsResult, match="data 52e"):
            active_directory.connect(name, "wrong")
    with pytest.raises(LDAPInvalidCredentialsResult, match="data 775"):
        active_directory.connect(name, f"{PASSWORD}11")
    active_directory.lock_out_after(0)
    active_directory.connect(f"user0012@{active_directory.domain}", f"{PASSWORD}12").unbind()


def test_an_ordinary_account_has_dirsync_without_tombstones(active_directory: ActiveDirectory) -> None:
    connection = asked(active_directory, "sync")
    with pytest.raises(LDAPInsufficientAccessRightsResult):
        dirsync(connection, active_directory, object_security=False).loop()
    seen = dirsync(connection, active_directory, object_security=True)
    seen.loop()
    dn = active_directory.add_user("leaver1")
    assert len(entries(seen.loop())) == 1
    active_directory.delete(dn)
    assert entries(seen.loop()) == []
    assert tombstones(connection, active_directory, "leaver1") == []
    connection.unbind()


def test_the_granted_account_has_dirsync_with_tombstones(active_directory: ActiveDirectory) -> None:
    connection = asked(active_directory, "dirsync")
    seen = dirsync(connection, active_directory, object_security=False)
    assert len(entries(seen.loop())) > 1700
    dn = active_directory.add_user("leaver2")
    key = active_directory.guid(dn)
    seen.loop()
    active_directory.delete(dn)
    (gone,) = entries(seen.loop())
    assert f"\\0ADEL:{key}" in gone["dn"] and gone["raw_attributes"]["isDeleted"] == [b"TRUE"]
    connection.unbind()


def test_the_account_that_may_list_deleted_objects_finds_tombstones(active_directory: ActiveDirectory) -> None:
    dn = active_directory.add_user("leaver3")
    key = active_directory.guid(dn)
    active_directory.delete(dn)
    connection = asked(active_directory, "deleted")
    (name,) = tombstones(connection, active_directory, "leaver3")
    assert f"\\0ADEL:{key}" in name
    with pytest.raises(LDAPInsufficientAccessRightsResult):
        dirsync(connection, active_directory, object_security=False).loop()
    seen = dirsync(connection, active_directory, object_security=True)
    seen.loop()
    dn = active_directory.add_user("leaver4")
    seen.loop()
    active_directory.delete(dn)
    (gone,) = entries(seen.loop())
    assert gone["raw_attributes"]["isDeleted"] == [b"TRUE"]
    connection.unbind()


def test_an_export_holds_the_same_entries_as_a_read(active_directory: ActiveDirectory, tmp_path: Path) -> None:
    written = active_directory.ldif_export(tmp_path / "export.ldif").read_bytes()
    assert written.count(b"\ndn:") + 1 == len(active_directory.raw_read())


def test_it_comes_back_after_a_kill(active_directory: ActiveDirectory) -> None:
    active_directory.kill()
    with pytest.raises(LDAPException):
        active_directory.admin()
    active_directory.start()
    assert len(active_directory.search("(sAMAccountName=user0001)")) == 1


def test_nothing_is_left_when_the_tests_are_killed(active_directory: ActiveDirectory, tmp_path: Path) -> None:
    script = tmp_path / "holds.py"
    script.write_text(
        "import time, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "from tests.upstreams.samba import active_directory\n"
        "with active_directory() as running:\n"
        "    print(running.folder, flush=True)\n"
        "    time.sleep(60)\n"
    )
    root = Path(__file__).parents[2]
    holder = subprocess.Popen(
        [sys.executable, str(script)], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    folder = holder.stdout.readline().decode().strip()
    assert folder, "no directory here"
    assert processes_of(folder)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    deadline = time.monotonic() + 10
    while processes_of(folder) or Path(folder).exists():
        assert time.monotonic() < deadline, "Samba outlives the tests"
        time.sleep(0.05)


def entries(response: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in response if entry["type"] == "searchResEntry"]


def processes_of(folder: str) -> list[str]:
    """Whoever has a file of that folder open."""
    holders = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            files = {os.readlink(descriptor) for descriptor in (process / "fd").iterdir()}
        except OSError:
            continue
        if any(name.startswith(folder) for name in files):
            holders.append(process.name)
    return holders
