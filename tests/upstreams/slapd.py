"""OpenLDAP's server on loopback: people and groups, group memberships kept in both directions, and a size limit.

Owns configuring, filling, starting and stopping it. It gives nobody more than 1,000 entries to one search, or 500 to
one that does not say how many it wants; who reads page by page gets everything. That is what Samba lacks. The service
account is an ordinary entry, since limits do not apply to the root of a database.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ldap3
from ldap3.utils.dn import escape_rdn

from connectors.ldif import write_entry
from tests.upstreams import tls
from tests.upstreams.confined import die_with_parent
from tests.upstreams.directory import Attributes, connect, free_port, paged, several
from tests.upstreams.missing import programs

SERVICE_PASSWORD = "Serv1ce.Pass"
ADMIN_PASSWORD = "Passw0rd.Admin1"
PASSWORD = "Us3r-Pass."
"""Of the first forty people, followed by their number: user00007 has Us3r-Pass.7."""
WITH_PASSWORDS = 40
GROUP_OF = 100
SOFT_LIMIT, HARD_LIMIT = 500, 1000

Entry = tuple[str, dict[str, list[str | bytes]]]

_BASE = "dc=acme,dc=test"
_CONFIGURATION = f"""
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload memberof
pidfile {{folder}}/slapd.pid
TLSCACertificateFile {{folder}}/tls/ca.pem
TLSCertificateFile {{folder}}/tls/cert.pem
TLSCertificateKeyFile {{folder}}/tls/key.pem
security simple_bind=1
sizelimit size.soft={SOFT_LIMIT} size.hard={HARD_LIMIT} size.prtotal=unlimited
database mdb
suffix {_BASE}
rootdn cn=admin,{_BASE}
rootpw {ADMIN_PASSWORD}
directory {{folder}}/db
maxsize 1073741824
dbnosync
index objectClass,entryUUID,member,uid,modifyTimestamp eq
overlay memberof
memberof-refint true
access to attrs=userPassword by anonymous auth by * none
access to * by users read
"""


class OpenLdap:
    """A running server. What makes or renames an entry returns its distinguished name."""

    base_dn = _BASE
    people = f"ou=people,{_BASE}"
    groups = f"ou=groups,{_BASE}"
    service = (f"cn=svc-sync,{_BASE}", SERVICE_PASSWORD)
    """The name to bind with, and its password."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "db").mkdir()
        self.ca = tls.issue(folder / "tls", "ldap.acme.test").authority.read_text()
        self.configuration = folder / "slapd.conf"
        self.configuration.write_text(_CONFIGURATION.format(folder=folder))
        self.port, self.tls_port = free_port(), free_port()
        self.url = f"ldaps://localhost:{self.tls_port}"
        self.starttls_url = f"ldap://localhost:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: ldap3.Connection | None = None

    def fill(self, people: int) -> None:
        """While it is stopped. Every hundred people share a group, and all groups are in one named `everybody`."""
        path = self.folder / "seed.ldif"
        path.write_bytes(b"".join(write_entry(dn, attributes) for dn, attributes in _organisation(people)))
        (program,) = programs("slapd", "slapadd")
        command = [program, "-q", "-f", str(self.configuration), "-l", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=110)
        assert done.returncode == 0, done.stderr[-2000:]

    def start(self) -> None:
        """Also again after `stop`, at the same ports."""
        (program,) = programs("slapd", "slapd")
        listening = f"ldap://127.0.0.1:{self.port} ldaps://127.0.0.1:{self.tls_port}"
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [program, "-f", str(self.configuration), "-h", listening, "-d", "0"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=die_with_parent,
            )
        deadline = time.monotonic() + 20
        while True:
            said = (self.folder / "output").read_text()[-2000:]
            assert self._process.poll() is None and time.monotonic() < deadline, f"slapd does not start: {said}"
            try:
                socket.create_connection(("127.0.0.1", self.tls_port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def connect(self, user: str, password: str) -> ldap3.Connection:
        """Bound, over TLS. Raises ldap3's LDAPException."""
        return connect(self.url, self.folder / "tls/ca.pem", user, password)

    def admin(self) -> ldap3.Connection:
        """A connection of one's own as the root of the database, to whom no limit applies."""
        return self.connect(f"cn=admin,{_BASE}", ADMIN_PASSWORD)

    def add_user(self, name: str, ou: str = people, **attributes: Any) -> str:
        values = {"uid": name, "cn": name, "sn": name, "mail": f"{name}@acme.test", **attributes}
        return self._add(f"uid={escape_rdn(name)},{ou}", "inetOrgPerson", values)

    def add_group(self, name: str, members: Iterable[str], ou: str = groups) -> str:
        """The schema wants a member at least."""
        return self._add(f"cn={escape_rdn(name)},{ou}", "groupOfNames", {"cn": name, "member": list(members)})

    def set(self, dn: str, **attributes: Any) -> None:
        """Replace values; None takes the attribute away."""
        changes = {name: [(ldap3.MODIFY_REPLACE, several(value))] for name, value in attributes.items()}
        self._admin.modify(dn, changes)

    def add_member(self, group: str, *members: str) -> None:
        self._admin.modify(group, {"member": [(ldap3.MODIFY_ADD, list(members))]})

    def remove_member(self, group: str, *members: str) -> None:
        self._admin.modify(group, {"member": [(ldap3.MODIFY_DELETE, list(members))]})

    def rename(self, dn: str, name: str) -> str:
        """At the same place."""
        attribute, parent = dn.split("=", 1)[0], dn.split(",", 1)[1]
        self._admin.modify_dn(dn, rdn := f"{attribute}={escape_rdn(name)}")
        return f"{rdn},{parent}"

    def delete(self, dn: str) -> None:
        self._admin.delete(dn)

    def raw_read(self, base: str | None = None, filter: str = "(objectClass=*)") -> list[tuple[str, Attributes]]:
        """Every entry with its user and operational attributes, in a plain paged search as the service account."""
        connection = self.connect(*self.service)
        try:
            return list(paged(connection, base or self.base_dn, filter, ["*", "+"]))
        finally:
            connection.unbind()

    @property
    def _admin(self) -> ldap3.Connection:
        if self._connection is None:
            self._connection = self.admin()
        return self._connection

    def _add(self, dn: str, kind: str, attributes: dict[str, Any]) -> str:
        self._admin.add(dn, kind, {name: several(value) for name, value in attributes.items()})
        return dn

    def _end(self, how: signal.Signals) -> None:
        if self._connection is not None:
            self._connection.unbind()
            self._connection = None
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(20)
            self._process = None


@contextmanager
def openldap(people: int = 0) -> Iterator[OpenLdap]:
    """A server of one's own with that many people."""
    programs("slapd", "slapd", "slapadd")
    with tempfile.TemporaryDirectory(prefix="slapd-") as folder:
        running = OpenLdap(Path(folder))
        running.fill(people)
        try:
            running.start()
            yield running
        finally:
            running.stop()


def _organisation(people: int) -> Iterator[Entry]:
    yield _BASE, {"objectClass": ["dcObject", "organization"], "dc": ["acme"], "o": ["acme"]}
    for name in ("people", "groups"):
        yield f"ou={name},{_BASE}", {"objectClass": ["organizationalUnit"], "ou": [name]}
    name, password = OpenLdap.service
    yield (
        name,
        {
            "objectClass": ["organizationalRole", "simpleSecurityObject"],
            "cn": ["svc-sync"],
            "userPassword": [password],
        },
    )
    for team in range(0, people, GROUP_OF):
        yield from _team(team // GROUP_OF, range(team, min(team + GROUP_OF, people)))
    if people:
        teams = [_team_name(number) for number in range((people + GROUP_OF - 1) // GROUP_OF)]
        yield (
            f"cn=everybody,{OpenLdap.groups}",
            {"objectClass": ["groupOfNames"], "cn": ["everybody"], "member": list(teams)},
        )


def _team(team: int, numbers: range) -> Iterator[Entry]:
    """People and their group; the overlay does not work for those that are filled in."""
    name = _team_name(team)
    members: list[str | bytes] = []
    for number in numbers:
        uid = f"user{number:05d}"
        dn = f"uid={uid},{OpenLdap.people}"
        members.append(dn)
        person: dict[str, list[str | bytes]] = {
            "objectClass": ["inetOrgPerson"],
            "uid": [uid],
            "cn": [f"Zoë Müller {number}"],
            "givenName": ["Zoë"],
            "sn": [f"Müller {number}"],
            "mail": [f"{uid}@acme.test"],
            "employeeNumber": [str(number)],
            "departmentNumber": [str(number % 7)],
            "memberOf": [name],
        }
        if number < WITH_PASSWORDS:
            person["userPassword"] = [f"{PASSWORD}{number}"]
        if number % 50 == 0:
            person["jpegPhoto"] = [b"\xff\xd8" + bytes(range(256))]
        yield dn, person
    group = {"objectClass": ["groupOfNames"], "cn": [f"team{team:04d}"], "member": members}
    yield name, {**group, "memberOf": [f"cn=everybody,{OpenLdap.groups}"]}


def _team_name(team: int) -> str:
    return f"cn=team{team:04d},{OpenLdap.groups}"
