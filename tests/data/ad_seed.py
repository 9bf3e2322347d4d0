"""Prints the LDIF that fills an empty Active Directory with the organisation "acme".

Owns what the test directory contains: people rich and plain, names in many scripts, groups nested and
cyclic, units, contacts, computers and the odd corners of the schema. Feed it to `ldapadd -c`; README.md
beside this file has the whole recipe. Standard library only, and the same output every time.
"""

from __future__ import annotations

import base64
import sys
import zlib
from collections.abc import Mapping, Sequence

BASE = "DC=ad,DC=acme,DC=test"
CORP = f"OU=Corp,{BASE}"
PEOPLE = f"OU=People,{CORP}"
PLAIN = f"OU=Plain,{CORP}"
GROUPS = f"OU=Groups,{CORP}"
CONTACTS = f"OU=Contacts,{CORP}"
COMPUTERS = f"OU=Workstations,{CORP}"
SOUTH = f"OU=Straße\\, Süd,{CORP}"
SALES = f"OU=Vertrieb \\+ Außendienst,{SOUTH}"
QUOTED = f'OU=Team \\"A\\" \\<1\\>\\; \\\\x,{SALES}'

RICH, PLAINS = 200, 1000
NEVER = 9223372036854775807
GLOBAL_SECURITY, LOCAL_SECURITY, UNIVERSAL_SECURITY = -2147483646, -2147483644, -2147483640
GLOBAL_DISTRIBUTION, UNIVERSAL_DISTRIBUTION = 2, 8

NAMES = [
    ("Zoë", "Müller"),
    ("Łukasz", "Żółć"),
    ("Søren", "Ångström"),
    ("李", "小龙"),
    ("Иван", "Петров"),
    ("محمد", "علي"),
    ("O'Brien", "D'Arcy, Jr."),
    ("Ann+Marie", "Smith=Jones"),
    ("Jürgen", "Groß"),
    ("😀", "Emoji"),
    ("さくら", "田中"),
    ("민준", "김"),
    ("Αλέξανδρος", "Παπαδόπουλος"),
    ("שרה", "כהן"),
    ("Nguyễn", "Văn Ánh"),
    ("#Hash", "Leading"),
    ("Back\\slash", 'Quo"te'),
    ("Semi;colon", "<Angle>"),
    ("İpek", "Çağlayan"),
    ("e\u0301", "Decomposed"),
]
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)

Value = str | bytes | int


def escaped(text: str) -> str:
    """One RDN value as RFC 4514 §2.4 writes it."""
    text = "".join("\\" + letter if letter in ',+"\\<>;=' else letter for letter in text)
    if text.startswith(("#", " ")):
        text = "\\" + text
    return text[:-1] + "\\ " if text.endswith(" ") else text


def filetime(unix_seconds: int) -> int:
    return (unix_seconds + 11644473600) * 10_000_000


def certificate(number: int) -> bytes:
    """Bytes with the outer shape of DER; the directory keeps them without looking inside."""
    body = bytes((number * 7 + i * i) % 256 for i in range(180))
    return b"\x30\x81" + bytes([len(body)]) + body


def line(name: str, value: Value) -> str:
    data = value if isinstance(value, bytes) else str(value).encode()
    return f"{name}:: {base64.b64encode(data).decode()}\n"


def entry(dn: str, classes: Sequence[str] | str, attributes: Mapping[str, Value | Sequence[Value]]) -> None:
    text = line("dn", dn) + "changetype: add\n"
    for name, values in {"objectClass": classes, **attributes}.items():
        for value in values if isinstance(values, (list, tuple)) else (values,):
            text += line(name, value)
    sys.stdout.write(text + "\n")


def change(dn: str, how: str, name: str, values: Sequence[Value]) -> None:
    text = line("dn", dn) + f"changetype: modify\n{how}: {name}\n"
    sys.stdout.write(text + "".join(line(name, value) for value in values) + "-\n\n")


def group(
    name: str,
    members: Sequence[str] = (),
    kind: int = GLOBAL_SECURITY,
    extra: Mapping[str, Value | Sequence[Value]] | None = None,
) -> str:
    dn = f"CN={escaped(name)},{GROUPS}"
    account = "".join("-" if letter in '"/\\[]:;|=,+*?<>' else letter for letter in name)
    entry(dn, "group", {"sAMAccountName": account, "groupType": kind, **(extra or {})})
    for start in range(0, len(members), 500):
        change(dn, "add", "member", members[start : start + 500])
    return dn


def units() -> None:
    extra: dict[str, dict[str, Value | Sequence[Value]]] = {
        SOUTH: {
            "description": ["erste Zeile", "zweite Zeile", " leading blank"],
            "street": "Sonnenstraße 1",
            "l": "München",
        },
        SALES: {"postalAddress": ["a$b", "c"], "url": ["https://one.acme.test/?a=b", "https://two.acme.test/"]},
    }
    for dn in (CORP, PEOPLE, PLAIN, GROUPS, CONTACTS, COMPUTERS, SOUTH, SALES, QUOTED):
        entry(dn, "organizationalUnit", extra.get(dn, {}))


def rich_person(i: int, seniors: Sequence[str]) -> str:
    given, family = NAMES[i % len(NAMES)]
    common = f"{given} {family} {i}"
    account = f"user{i:04d}"
    place = (PEOPLE, SOUTH, SALES, QUOTED)[0 if i % 8 else (i // 8) % 4]
    dn = f"CN={escaped(common)},{place}"
    values: dict[str, Value | Sequence[Value]] = {
        "sAMAccountName": account,
        "userPrincipalName": f"{account}@ad.acme.test",
        "givenName": given,
        "sn": family,
        "displayName": common,
        "mail": f"{account}@acme.test",
        "userAccountControl": 514 if i % 10 == 9 else 512,
        "unicodePwd": f'"Us3r-Pass.{i}"'.encode("utf-16-le"),
        "thumbnailPhoto": PIXEL + zlib.compress(bytes([i]) * 90) + bytes([i, 0, 255]),
        "proxyAddresses": [f"smtp:{account}.b@acme.test", f"SMTP:{account}@acme.test", f"smtp:{account}.a@acme.test"],
        "employeeID": f"E{i:05d}",
        "employeeNumber": f"{i:06d}",
        "department": ("Ingénierie", "Sales", "Поддержка")[i % 3],
        "company": "Acme GmbH & Co. KG",
        "title": "工程师" if i % 4 == 0 else "Engineer",
        "telephoneNumber": f"+49 30 {i:06d}",
        "mobile": f"+49 171 {i:07d}",
        "streetAddress": f"Hauptstraße {i}\r\nHinterhaus",
        "postalCode": f"{10000 + i}",
        "l": "München",
        "st": "Bayern",
        "c": "DE",
        "co": "Germany",
        "countryCode": 276,
        "physicalDeliveryOfficeName": f"R{i:03d}",
        "msDS-cloudExtensionAttribute1": f"cost:{i % 17}",
        "msDS-cloudExtensionAttribute20": "Zürich",
        "accountExpires": {3: filetime(1735689600), 4: 0, 5: NEVER, 6: NEVER - 1, 7: 1, 8: filetime(4102444800)}.get(
            i % 20, NEVER
        ),
    }
    if i % 20 == 0:
        values["proxyAddresses"] = [
            f"X500:/o=acme/ou=One/cn={account}",
            f"SMTP:{account}@acme.test",
            f"sip:{account}@acme.test",
        ]
        values["otherTelephone"] = ["+49 30 2", "+49 30 1", "+49 30 3"]
        values["otherMailbox"] = ["SMTP:z@acme.test", "smtp:a@acme.test"]
        values["url"] = ["https://b.acme.test/", "https://a.acme.test/"]
        values["userCertificate"] = [certificate(i), certificate(i + 1)]
        values["jpegPhoto"] = b"\xff\xd8\xff\xe0" + bytes(range(256)) + b"\xff\xd9"
        values["info"] = "first line\r\nsecond line\r\n\r\n\ttabbed, and then a very long line " + "that folds " * 20
        values["carLicense"] = ["M-AB 1", "M-AB 2"]
        values["servicePrincipalName"] = [f"http/web{i}.acme.test", f"HTTP/WEB{i}.acme.test:8443", f"svc/{account}"]
        values["serialNumber"] = ["abc", "ABC", "Abc"]
        values["description"] = " starts with a blank, ends with one "
    if i % 20 == 10:
        values["comment"] = ":looks like base64"
        values["extensionName"] = [
            "<looks like a URL",
            ": colon",
            "ends in blank ",
            "\u00a0no-break",
            "nul\x00inside",
            "#",
        ]
        values["uidNumber"] = 2147483647 if i == 10 else 10000 + i
        values["gidNumber"] = 10000
        values["unixHomeDirectory"] = f"/home/{account}"
        values["loginShell"] = "/bin/bash"
        values["homePhone"] = "+1 " + "5" * 60
    if seniors:
        values["manager"] = seniors[(i - 1) // 8]
    entry(dn, "user", values)
    return dn


def people() -> list[str]:
    rich: list[str] = []
    for i in range(RICH):
        rich.append(rich_person(i, rich))
    change(rich[0], "add", "manager", [rich[1]])
    change(rich[2], "add", "secretary", [rich[5], rich[4]])
    change(rich[2], "add", "seeAlso", [rich[3]])
    plain = []
    for i in range(PLAINS):
        account = f"plain{i:05d}"
        plain.append(f"CN={account},{PLAIN}")
        values: dict[str, Value | Sequence[Value]] = {
            "sAMAccountName": account,
            "userPrincipalName": f"{account}@ad.acme.test",
            "mail": f"{account}@acme.test",
            "userAccountControl": 544 if i % 50 else 546,
        }
        if i == 3:
            values["proxyAddresses"] = [
                f"smtp:{account}@acme.test",
                f"SMTP:{account}@acme.test",
                f"SMTP:{account}@ACME.test",
            ]
        entry(plain[-1], "user", values)
    return rich + plain


def contacts() -> list[str]:
    found = []
    for i, name in enumerate(["Partner, Ltd.", "Zulieferer Süd", " leading blank", "trailing blank ", "new\nline"]):
        found.append(f"CN={escaped(name)},{CONTACTS}".replace("\n", "\\0A"))
        values: dict[str, Value | Sequence[Value]] = {
            "mail": f"contact{i}@partner.test",
            "description": ["second", "first", "Third"],
            "telephoneNumber": "+1 555 0100",
        }
        if i == 0:
            values["userPassword"] = b"never-to-be-read"
        entry(found[-1], "contact", values)
    return found


def computers() -> list[str]:
    found = []
    for i in range(6):
        found.append(f"CN=PC{i:03d},{COMPUTERS}")
        values: dict[str, Value | Sequence[Value]] = {
            "sAMAccountName": f"PC{i:03d}$",
            "userAccountControl": 4128,
            "dNSHostName": f"pc{i:03d}.ad.acme.test",
            "servicePrincipalName": [f"HOST/PC{i:03d}", f"HOST/pc{i:03d}.ad.acme.test"],
            "operatingSystem": "Windows 11 Enterprise",
        }
        entry(found[-1], "computer", values)
    recovery = {"msFVE-RecoveryGuid": bytes(range(16)), "msFVE-RecoveryPassword": "111111-222222-333333-444444"}
    entry(f"CN=2026-01-01T00:00:00-00:00,{found[0]}", "msFVE-RecoveryInformation", recovery)
    return found


def groups(everyone: Sequence[str], others: Sequence[str], machines: Sequence[str]) -> None:
    rich = everyone[:RICH]
    engineers = group(
        "Engineers", rich[:60], extra={"mail": "engineers@acme.test", "managedBy": rich[0], "info": "notes"}
    )
    sales = group("Sales", rich[60:120])
    managers = group("Managers", rich[:8], UNIVERSAL_SECURITY)
    staff = group("AllStaff", [engineers, sales, rich[199]], UNIVERSAL_SECURITY)
    group("Everyone-Nested", [staff, managers, rich[198]], UNIVERSAL_SECURITY)
    group("Empty")
    first, second = group("CycleA", [rich[20]]), group("CycleB", [rich[21]])
    change(first, "add", "member", [second])
    change(second, "add", "member", [first])
    group("Everyone", everyone)
    group("Mail-DL", [*rich[10:15], *others], GLOBAL_DISTRIBUTION, {"proxyAddresses": ["SMTP:dl@acme.test"]})
    group("Mail-Universal", others[:1], UNIVERSAL_DISTRIBUTION)
    group("Machines", [*machines, rich[30]])
    group("Vertrieb, Süd + Export", rich[40:45], extra={"description": "Komma, Plus"})
    group("Posix", rich[50:52], extra={"gidNumber": 20000, "memberUid": ["alice", "Alice", "ALICE", "bob"]})
    local = group("Local", [staff], LOCAL_SECURITY)
    change(local, "add", "member", ["<SID=S-1-5-21-1004336348-1177238915-682003330-1234>"])
    change(f"CN=Domain Admins,CN=Users,{BASE}", "add", "member", [rich[0]])
    change(f"CN=Domain Guests,CN=Users,{BASE}", "add", "member", rich[1:3])
    for person, group_id in zip(rich, (512, 514, 514), strict=False):
        change(person, "replace", "primaryGroupID", [group_id])


def main() -> None:
    units()
    everyone = people()
    groups(everyone, contacts(), computers())


if __name__ == "__main__":
    main()
