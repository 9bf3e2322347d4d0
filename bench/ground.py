"""What every benchmark stands on: durable embedded servers in a folder of their own, tables of results, made-up
directories."""

from __future__ import annotations

import base64
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from flask import Flask
from rich.console import Console
from rich.table import Table

from broker import config, embedded, ids, migrations, running
from broker.context import Scope
from broker.db import connect, platform_scope
from broker.models import IdentityProvider, Partner, SettingValue, Tenant

console = Console(width=120)


@contextmanager
def servers() -> Iterator[tuple[Flask, Path]]:
    """A migrated installation with durability on, in a temporary data directory."""
    folder = Path(tempfile.mkdtemp(prefix="scaikey-bench-"))
    settings = config.load({"SCAIKEY_DATA_DIR": str(folder), "SCAIKEY_ALLOW_HTTP_LOOPBACK": "1"})
    services = embedded.start(settings)
    try:
        migrations.upgrade(services.owner_database_url)
        app = Flask("bench")
        running.install(app, services.configure(settings))
        connect(
            app,
            url=services.database_url,
            platform_url=services.platform_database_url,
            statement_timeout_ms=600_000,
        )
        with app.app_context():
            yield app, folder
    finally:
        services.stop()
        shutil.rmtree(folder, ignore_errors=True)


def tenant(slug: str) -> tuple[Scope, str]:
    """A tenant with an `ldap` provider; returns its scope and the provider's id."""
    partner_id, provider_id = ids.new("prt"), ids.new("idp")
    scope = Scope(ids.new("tnt"), partner_id, "customer", slug)
    with platform_scope() as session:
        session.add(Partner(id=partner_id, name=slug, slug=f"{slug}-partner"))
        session.flush()
        session.add(Tenant(id=scope.tenant_id, partner_id=partner_id, name=slug, slug=slug, kind="customer"))
        session.flush()
        session.add(IdentityProvider(tenant_id=scope.tenant_id, id=provider_id, kind="ldap", name="Directory"))
        # What is measured is not how evenly clients are served.
        session.add(SettingValue(owner_id=scope.tenant_id, name="scim_requests_per_second", value=10_000))
        session.add(SettingValue(owner_id=scope.tenant_id, name="scim_burst", value=100_000))
    return scope, provider_id


def write_ldif(path: Path, people: int, *, changed: int = 0) -> None:
    """An Active Directory export of this size, 50 people to a group; the title of every `changed`-th person differs."""
    base = "DC=bench,DC=test"

    def guid(number: int) -> str:
        return base64.b64encode(UUID(int=number + 2**64).bytes_le).decode()

    def sid(number: int) -> str:
        parts = b"".join(part.to_bytes(4, "little") for part in (21, 1, 2, 3, number))
        return base64.b64encode(bytes((1, 5, 0, 0, 0, 0, 0, 5)) + parts).decode()

    with path.open("w", encoding="utf-8") as file:
        file.write(f"dn: {base}\nobjectClass: top\nobjectClass: domain\nobjectGUID:: {guid(1)}\n\n")
        file.write(
            f"dn: OU=People,{base}\nobjectClass: top\nobjectClass: organizationalUnit\nou: People\n"
            f"objectGUID:: {guid(2)}\n\n"
        )
        for n in range(people):
            title = "Changed" if changed and n % changed == 0 else "Engineer"
            manager = f"manager: CN=Person {n // 10},OU=People,{base}\n" if n else ""
            file.write(
                f"dn: CN=Person {n},OU=People,{base}\nobjectClass: top\nobjectClass: person\n"
                f"objectClass: organizationalPerson\nobjectClass: user\ncn: Person {n}\nsn: Surname {n}\n"
                f"givenName: Given {n}\ndisplayName: Person {n}\nname: Person {n}\ntitle: {title}\n"
                f"distinguishedName: CN=Person {n},OU=People,{base}\ninstanceType: 4\n"
                f"whenCreated: 20260101000000.0Z\nwhenChanged: 20260101000000.0Z\nuSNCreated: {n}\nuSNChanged: {n}\n"
                f"department: Department {n % 40}\ncompany: Bench\nl: Berlin\nco: Germany\nc: DE\n"
                f"telephoneNumber: +49 30 {n:07d}\nobjectGUID:: {guid(n + 1000)}\nuserAccountControl: 512\n"
                f"primaryGroupID: 513\nobjectSid:: {sid(n + 5000)}\naccountExpires: 9223372036854775807\n"
                f"sAMAccountName: p{n:07d}\nuserPrincipalName: p{n:07d}@bench.test\nemployeeID: E{n}\n"
                f"proxyAddresses: SMTP:p{n:07d}@bench.test\nmail: p{n:07d}@bench.test\n{manager}\n"
            )
        for k in range(people // 50):
            file.write(
                f"dn: CN=Team {k},OU=People,{base}\nobjectClass: top\nobjectClass: group\ncn: Team {k}\n"
                f"name: Team {k}\nsAMAccountName: team{k}\ngroupType: -2147483646\n"
                f"objectGUID:: {guid(k + 10**8)}\nobjectSid:: {sid(k + 10**8)}\n"
            )
            file.writelines(f"member: CN=Person {k * 50 + j},OU=People,{base}\n" for j in range(50))
            file.write("\n")


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    shown = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        shown.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        shown.add_row(*row)
    console.print(shown)
