"""Provisions a Samba domain in a folder and fills it, before it ever runs, with the organisation "acme" and services.

Run by Debian's own Python, to which python3-samba belongs: samba_seed.py FOLDER PLAIN_PEOPLE, and on standard input
Administrator's password and that of the services. Who is in "acme" is told by `tests/data/ad_seed.py`.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

from samba.auth import system_session
from samba.param import LoadParm
from samba.samdb import SamDB
from samba.sd_utils import SDUtils

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
import ad_seed

WITH_PASSWORDS = 40
SERVICES = f"OU=Services,{ad_seed.BASE}"
GET_CHANGES = "1131f6aa-9c07-11d1-f79f-00c04fc2dcd2"
NEVER = -(2**63)
DONT_EXPIRE_PASSWORD = 0x10000


def organisation(plain: int) -> str:
    """As LDIF; the first rich people keep their passwords, the others have none (each costs 20 ms)."""
    ad_seed.PLAINS = plain
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        ad_seed.main()
    entries = printed.getvalue().split("\n\n")
    passwords = 0
    for number, entry in enumerate(entries):
        if "\nunicodePwd:" in entry:
            passwords += 1
            if passwords > WITH_PASSWORDS:
                entries[number] = re.sub(r"\nunicodePwd:.*", "", entry)
    return "\n\n".join(entries)


def services(samdb: SamDB, password: str) -> None:
    samdb.add({"dn": SERVICES, "objectClass": "organizationalUnit"})
    for name in ("svc-sync", "svc-dirsync", "svc-deleted"):
        samdb.add(
            {
                "dn": f"CN={name},{SERVICES}",
                "objectClass": "user",
                "sAMAccountName": name,
                "userPrincipalName": f"{name}@ad.acme.test",
                "userAccountControl": str(512 | DONT_EXPIRE_PASSWORD),
                "unicodePwd": f'"{password}"'.encode("utf-16-le"),
            }
        )


def rights(samdb: SamDB) -> None:
    """`svc-dirsync` may ask for changes of the whole domain; it and `svc-deleted` may list CN=Deleted Objects."""
    descriptors = SDUtils(samdb)
    dirsync, deleted = (descriptors.get_object_sid(f"CN={name},{SERVICES}") for name in ("svc-dirsync", "svc-deleted"))
    descriptors.dacl_add_ace(ad_seed.BASE, f"(OA;;CR;{GET_CHANGES};;{dirsync})")
    for sid in (dirsync, deleted):
        descriptors.dacl_add_ace(f"CN=Deleted Objects,{ad_seed.BASE}", f"(A;;RPLC;;;{sid})")


def passwords_that_last(samdb: SamDB) -> None:
    policy = {"maxPwdAge": NEVER, "minPwdAge": 0, "pwdHistoryLength": 0}
    text = "".join(f"replace: {name}\n{name}: {value}\n-\n" for name, value in policy.items())
    samdb.modify_ldif(f"dn: {ad_seed.BASE}\nchangetype: modify\n{text}")


def provision(folder: str, password: str) -> LoadParm:
    command = ["samba-tool", "domain", "provision", f"--targetdir={folder}", f"--adminpass={password}"]
    command += ["--realm=AD.ACME.TEST", "--domain=ACME", "--server-role=dc", "--dns-backend=NONE", "--use-rfc2307"]
    command += ["--host-name=dc1", "--host-ip=127.0.0.1", "--option=interfaces=lo"]
    subprocess.run([*command, "--option=bind interfaces only=yes"], check=True, stderr=subprocess.STDOUT)
    shutil.rmtree(f"{folder}/state/sysvol")
    configuration = LoadParm()
    configuration.load(f"{folder}/etc/smb.conf")
    return configuration


def main(folder: str, plain: str) -> None:
    administrator, service = sys.stdin.read().split()
    configuration = provision(folder, administrator)
    session = system_session(configuration)
    samdb = SamDB(f"{folder}/private/sam.ldb", session_info=session, lp=configuration)
    samdb.transaction_start()
    samdb.modify_ldif(organisation(int(plain)))
    services(samdb, service)
    rights(samdb)
    passwords_that_last(samdb)
    samdb.transaction_commit()


if __name__ == "__main__":
    main(*sys.argv[1:])
