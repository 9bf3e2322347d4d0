"""A real Active Directory: Samba's domain controller on loopback, filled with the organisation "acme".

Owns provisioning (once; kept under `var/upstreams` under the digest of what made it), starting and stopping, and a few
words to change the directory with. Samba's ports cannot be chosen, so it lives in namespaces of its own (`confined`).
Who is in "acme": `tests/data/ad_seed.py`, with 1,500 plain people (1,700 in all, most in the group Everyone).

What an account may see was found by asking (Samba 4.17; `test_samba.py` holds it):

- `svc-sync` is an ordinary account. DirSync with OBJECT_SECURITY only, and without tombstones; of CN=Deleted Objects it
  sees nothing but the container.
- `svc-deleted` may also read and list CN=Deleted Objects (an entry `(A;;RPLC;;;SID)` in its DACL, as dsacls would make
  it). It finds tombstones with the show-deleted control, and by DirSync with OBJECT_SECURITY.
- `svc-dirsync` holds DS-Replication-Get-Changes on the domain: DirSync with flags 0. Alone, that shows no tombstones in
  Samba (nor does Get-Changes-All beside it), though it does in Microsoft's directory; so it may list CN=Deleted Objects
  as well.

Samba differs from Microsoft's directory: no limit of 1,000 entries on a search and none on values of an attribute,
DirSync always in one round, and `isRecycled` on every tombstone.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import ldap3
from ldap3.utils.conv import escape_bytes
from ldap3.utils.dn import escape_rdn, parse_dn

from tests.upstreams import tls
from tests.upstreams.confined import REFUSED
from tests.upstreams.directory import Attributes, connect, found, free_port, paged, several
from tests.upstreams.missing import absent, programs

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / "var" / "upstreams"
DEBIAN_PYTHON = "/usr/bin/python3"
PACKAGES = "samba samba-ad-provision samba-dsdb-modules samba-vfs-modules winbind python3-samba"
PLAIN_PEOPLE = 1500

ADMIN_PASSWORD = "Passw0rd.Admin1"
SERVICE_PASSWORD = "Serv1ce.Pass"
PASSWORD = "Us3r-Pass."
"""Of the first forty rich people, followed by their number: user0007 has Us3r-Pass.7."""

Service = Literal["sync", "dirsync", "deleted"]

_CONFIGURATION = """
[global]
    workgroup = ACME
    realm = AD.ACME.TEST
    netbios name = DC1
    server role = active directory domain controller
    server services = ldap
    interfaces = lo
    bind interfaces only = yes
    ldap server require strong auth = yes
    private dir = {seed}/private
    state directory = {seed}/state
    lock directory = {folder}/lock
    cache directory = {folder}/cache
    pid directory = {folder}
    ncalrpc dir = {folder}/rpc
    winbindd socket directory = {folder}/winbindd
    ntp signd socket directory = {folder}/ntp
    log file = {folder}/log
    tls keyfile = {folder}/tls/key.pem
    tls certfile = {folder}/tls/cert.pem
    tls cafile = {folder}/tls/ca.pem
    prefork children = 1
    ldb:nosync = true
    idmap_ldb:use rfc2307 = yes
"""


class ActiveDirectory:
    """A running domain controller. Names are distinguished names; what makes, renames or moves an entry returns its."""

    base_dn = "DC=ad,DC=acme,DC=test"
    domain = "ad.acme.test"
    corp = f"OU=Corp,{base_dn}"
    """Everybody but the service accounts and what every domain has."""
    people = f"OU=People,{corp}"
    groups = f"OU=Groups,{corp}"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = tls.issue(folder / "tls", f"dc1.{self.domain}").authority.read_text()
        self.port, self.tls_port = free_port(), free_port()
        self.url = f"ldaps://localhost:{self.tls_port}"
        self.starttls_url = f"ldap://localhost:{self.port}"
        self._process: subprocess.Popen[str] | None = None
        self._connection: ldap3.Connection | None = None

    def start(self) -> None:
        """Also again after `stop`, at the same ports. Skips the test where namespaces are refused."""
        configuration = self.folder / "smb.conf"
        configuration.write_text(_CONFIGURATION.format(seed=self.folder, folder=self.folder))
        for name in ("lock", "cache", "rpc", "winbindd", "ntp"):
            (self.folder / name).mkdir(exist_ok=True)
        doors = [_listening(self.port), _listening(self.tls_port)]
        pairs = [f"{door.fileno()}:{port}" for door, port in zip(doors, (389, 636), strict=True)]
        samba = ["samba", "-F", "--no-process-group", "-M", "prefork", "-s", str(configuration)]
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / "confined.py"), str(self.folder), *pairs, "--", *samba],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                pass_fds=[door.fileno() for door in doors],
            )
        for door in doors:
            door.close()
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "up\n":
            refused = self._process.wait() == REFUSED
            self.stop()
            if refused:
                absent("THIS KERNEL REFUSES NETWORK NAMESPACES", excused=True)
            raise AssertionError(f"Samba does not start: {(self.folder / 'output').read_text()[-2000:]}")

    def stop(self) -> None:
        if self._connection is not None:
            self._connection.unbind()
            self._connection = None
        if self._process is not None:
            assert self._process.stdin is not None and self._process.stdout is not None
            self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()
            self._process = None

    def kill(self) -> None:
        """Without a word to anybody, as a machine that loses its power."""
        assert self._process is not None
        self._process.kill()
        self.stop()

    def connect(self, user: str, password: str) -> ldap3.Connection:
        """Bound, over TLS. Raises ldap3's LDAPException."""
        return connect(self.url, self.folder / "tls/ca.pem", user, password)

    def admin(self) -> ldap3.Connection:
        """A connection of one's own as Administrator."""
        return self.connect(f"Administrator@{self.domain}", ADMIN_PASSWORD)

    def service(self, name: Service) -> tuple[str, str]:
        """The user name to bind with, and its password."""
        return f"svc-{name}@{self.domain}", SERVICE_PASSWORD

    def add_user(self, name: str, ou: str = people, *, password: str | None = None, **attributes: Any) -> str:
        """An enabled person whose `sAMAccountName` is the name."""
        values: dict[str, Any] = {
            "sAMAccountName": name,
            "userPrincipalName": f"{name}@{self.domain}",
            "userAccountControl": 512 if password else 544,
            **({"unicodePwd": _quoted(password)} if password else {}),
        }
        return self._add(f"CN={escape_rdn(name)},{ou}", "user", {**values, **attributes})

    def add_group(self, name: str, members: Sequence[str] = (), ou: str = groups, **attributes: Any) -> str:
        values: dict[str, Any] = {"sAMAccountName": name, **({"member": list(members)} if members else {})}
        return self._add(f"CN={escape_rdn(name)},{ou}", "group", {**values, **attributes})

    def add_ou(self, name: str, parent: str = corp, **attributes: Any) -> str:
        return self._add(f"OU={escape_rdn(name)},{parent}", "organizationalUnit", attributes)

    def set(self, dn: str, **attributes: Any) -> None:
        """Replace values; None takes the attribute away."""
        changes = {name: [(ldap3.MODIFY_REPLACE, several(value))] for name, value in attributes.items()}
        self._admin.modify(dn, changes)

    def disable(self, dn: str) -> None:
        self._switch(dn, disabled=True)

    def enable(self, dn: str) -> None:
        self._switch(dn, disabled=False)

    def expire(self, dn: str, when: datetime | None = None) -> None:
        """The account ends at that time (an hour ago, unless said)."""
        self.set(dn, accountExpires=filetime(when or datetime.now(UTC) - timedelta(hours=1)))

    def set_password(self, dn: str, password: str) -> None:
        self.set(dn, unicodePwd=_quoted(password))

    def add_member(self, group: str, *members: str) -> None:
        self._admin.modify(group, {"member": [(ldap3.MODIFY_ADD, list(members))]})

    def remove_member(self, group: str, *members: str) -> None:
        self._admin.modify(group, {"member": [(ldap3.MODIFY_DELETE, list(members))]})

    def rename(self, dn: str, name: str) -> str:
        """Give a person, a group or an OU another name at the same place."""
        return self._moved(dn, f"{parse_dn(dn)[0][0]}={escape_rdn(name)}", parent_of(dn))

    def move(self, dn: str, ou: str) -> str:
        """Under another unit, with all that is below it."""
        return self._moved(dn, dn[: -len(parent_of(dn)) - 1], ou)

    def delete(self, dn: str) -> None:
        self._admin.delete(dn)

    def lock_out_after(self, tries: int, *, minutes: int = 30) -> None:
        """Wrong passwords that lock an account; 0 never does."""
        ticks = -minutes * 60 * 10_000_000
        self.set(self.base_dn, lockoutThreshold=tries, lockoutDuration=ticks, lockOutObservationWindow=ticks)

    def guid(self, dn: str) -> str:
        """The immutable key of an entry."""
        return str(uuid.UUID(bytes_le=self.read(dn)["objectGUID"][0]))

    def named(self, guid: str) -> str:
        """Where the entry of that key is now."""
        return self.search(f"(objectGUID={escape_bytes(uuid.UUID(guid).bytes_le)})")[0][0]

    def read(self, dn: str, *attributes: str) -> Attributes:
        """What Administrator sees of one entry."""
        connection = self._admin
        connection.search(dn, "(objectClass=*)", ldap3.BASE, attributes=list(attributes) or ["*"])
        return found(connection)[0][1]

    def search(self, filter: str, base: str | None = None) -> list[tuple[str, Attributes]]:
        """What Administrator finds."""
        return list(paged(self._admin, base or self.base_dn, filter))

    def raw_read(
        self, service: Service = "sync", base: str | None = None, filter: str = "(objectClass=*)"
    ) -> list[tuple[str, Attributes]]:
        """Every entry with its attributes as octets, in a plain paged search as that service account."""
        connection = self.connect(*self.service(service))
        try:
            return list(paged(connection, base or self.base_dn, filter))
        finally:
            connection.unbind()

    def ldif_export(self, path: Path, service: Service = "sync", base: str | None = None) -> Path:
        """The same as OpenLDAP's `ldapsearch` writes it (which takes `localhost` for another name of this machine)."""
        (program,) = programs("ldap-utils", "ldapsearch")
        user, password = self.service(service)
        url = f"ldaps://127.0.0.1:{self.tls_port}"
        command = [program, "-LLL", "-x", "-H", url, "-D", user, "-w", password, "-E", "pr=500/noprompt"]
        with path.open("wb") as output:
            subprocess.run(
                [*command, "-b", base or self.base_dn, "(objectClass=*)"],
                stdout=output,
                env={**os.environ, "LDAPTLS_CACERT": str(self.folder / "tls/ca.pem")},
                check=True,
                timeout=60,
            )
        return path

    @property
    def _admin(self) -> ldap3.Connection:
        if self._connection is None:
            self._connection = self.admin()
        return self._connection

    def _add(self, dn: str, kind: str, attributes: Mapping[str, Any]) -> str:
        self._admin.add(dn, kind, {name: several(value) for name, value in attributes.items()})
        return dn

    def _switch(self, dn: str, *, disabled: bool) -> None:
        flags = int(self.read(dn, "userAccountControl")["userAccountControl"][0])
        self.set(dn, userAccountControl=flags | 2 if disabled else flags & ~2)

    def _moved(self, dn: str, rdn: str, parent: str) -> str:
        self._admin.modify_dn(dn, rdn, new_superior=parent)
        return f"{rdn},{parent}"


@contextmanager
def active_directory() -> Iterator[ActiveDirectory]:
    """A directory of one's own, as it was seeded. A second from the kept seed, half a minute when there is none."""
    programs(PACKAGES, "samba", "samba-tool", DEBIAN_PYTHON)
    with tempfile.TemporaryDirectory(prefix="ad-", ignore_cleanup_errors=True) as folder:
        _copy_seed(Path(folder))
        running = ActiveDirectory(Path(folder))
        try:
            running.start()
            yield running
        finally:
            running.stop()


def filetime(when: datetime) -> int:
    """As Active Directory counts: 100 ns since 1601."""
    return round((when - datetime(1601, 1, 1, tzinfo=UTC)).total_seconds()) * 10_000_000


def parent_of(dn: str) -> str:
    return dn[len(_first(dn)) + 1 :]


def _first(dn: str) -> str:
    attribute, value, separator = parse_dn(dn)[0]
    assert separator == ","
    return f"{attribute}={value}"


def _quoted(password: str) -> bytes:
    return f'"{password}"'.encode("utf-16-le")


def _listening(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port), backlog=128)


def _copy_seed(folder: Path) -> None:
    """The provisioned and filled domain, made when nobody has made it yet. One process at a time."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "samba.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = CACHE / f"samba-{_digest()}"
        if not kept.exists():
            for old in CACHE.glob("samba-*"):
                shutil.rmtree(old)
            _seed(kept)
        shutil.copytree(kept, folder, dirs_exist_ok=True)


def _digest() -> str:
    """Of what the seed depends on: how it is made, who is in it, and which Samba makes it."""
    made_of = (HERE / "samba_seed.py", HERE.parent / "data/ad_seed.py")
    samba = Path(programs(PACKAGES, "samba")[0]).stat()
    parts = [path.read_bytes() for path in made_of] + [f"{PLAIN_PEOPLE} {samba.st_size} {samba.st_mtime}".encode()]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def _seed(kept: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=CACHE) as folder:
        done = subprocess.run(
            [DEBIAN_PYTHON, "-I", str(HERE / "samba_seed.py"), folder, str(PLAIN_PEOPLE)],
            input=f"{ADMIN_PASSWORD}\n{SERVICE_PASSWORD}\n",
            env={"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "HOME": "/root", "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
            timeout=110,
        )
        assert done.returncode == 0, f"no domain: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        kept.mkdir()
        for name in ("private", "state"):
            shutil.move(f"{folder}/{name}", kept)
