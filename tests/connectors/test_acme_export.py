"""The kept export of a real Active Directory, as the connector reads it: nothing missing, nothing misread."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from connectors import dn, ldap, ldif
from connectors.port import Record
from tests.canonical_ldif import canonical, differences

DATA = Path(__file__).parents[1] / "data"
BASE = "DC=ad,DC=acme,DC=test"
EXPORTS = [DATA / "acme.ldif", DATA / "ldapsearch.txt"]


def records(path: Path) -> list[Record]:
    found = [
        c for page in ldap.LdifDirectory(path, ldap.Config(base_dn=BASE)).changes_since(None) for c in page.changes
    ]
    assert all(isinstance(change, Record) for change in found)
    return [change for change in found if isinstance(change, Record)]


@pytest.fixture(scope="module")
def acme() -> dict[str, Record]:
    return {record.ref: record for record in records(DATA / "acme.ldif")}


def by_account(acme: dict[str, Record], name: str) -> Record:
    return next(record for record in acme.values() if record.attributes.get("sAMAccountName") == [name])


def test_every_entry_is_read(acme: dict[str, Record]) -> None:
    written = len(re.findall(rb"^dn:", (DATA / "acme.ldif").read_bytes(), re.MULTILINE))
    assert len(acme) == written == 1487
    assert Counter(record.kind for record in acme.values()) == {"user": 1204, "other": 222, "group": 51, "unit": 10}


def test_accounts_are_active_unless_disabled(acme: dict[str, Record]) -> None:
    inactive = [record for record in acme.values() if record.kind == "user" and not record.active]
    assert len(inactive) == 20 + 20 + 2  # rich people, plain people, Guest and krbtgt


def test_every_mention_leads_to_an_entry(acme: dict[str, Record]) -> None:
    aliases = {record.alias for record in acme.values()}
    for record in acme.values():
        for ref in (*(record.members or ()), record.manager):
            assert ref is None or ref.key in acme
        assert record.primary_group is None or record.primary_group.key in aliases
        assert record.name == BASE or (record.parent and record.parent.key in acme)


def test_membership_is_the_same_from_both_sides(acme: dict[str, Record]) -> None:
    """`memberOf` is computed by the directory: a check on our folding that we did not write."""
    down = {(group.ref, ref.key) for group in acme.values() for ref in group.members or ()}
    up = {
        (dn.fold(str(name)), record.ref) for record in acme.values() for name in record.attributes.get("memberOf", ())
    }
    assert down == up
    assert len(down) == 1391


def test_groups_of_every_shape(acme: dict[str, Record]) -> None:
    everyone = by_account(acme, "Everyone")
    assert everyone.members is not None
    assert len(everyone.members) == 1200
    kinds = Counter(acme[ref.key].kind for ref in by_account(acme, "Mail-DL").members or ())
    assert kinds == {"user": 5, "other": 5}
    first, second = by_account(acme, "CycleA"), by_account(acme, "CycleB")
    assert second.ref in [ref.key for ref in first.members or ()]
    assert first.ref in [ref.key for ref in second.members or ()]
    assert by_account(acme, "Empty").members == ()
    foreign = [ref.raw for ref in by_account(acme, "Local").members or () if "ForeignSecurityPrincipals" in ref.raw]
    assert [acme[dn.fold(raw)].kind for raw in foreign] == ["other"]


def test_primary_groups_are_those_of_the_accounts(acme: dict[str, Record]) -> None:
    groups = {record.alias: record for record in acme.values() if record.kind == "group"}
    found = Counter(
        groups[record.primary_group.key].name.partition(",")[0] for record in acme.values() if record.primary_group
    )
    assert found == {"CN=Domain Users": 1200, "CN=Domain Guests": 3, "CN=Domain Admins": 1}


def test_the_odd_corners_are_in_the_data(acme: dict[str, Record]) -> None:
    first = by_account(acme, "user0000")
    assert first.attributes["serialNumber"] == ["abc", "ABC", "Abc"]
    assert first.attributes["otherTelephone"] == ["+49 30 2", "+49 30 1", "+49 30 3"]
    assert [type(value) for value in first.attributes["userCertificate"]] == [bytes, bytes]
    assert first.attributes["description"] == [" starts with a blank, ends with one "]
    assert isinstance(first.attributes["thumbnailPhoto"][0], bytes)
    expiries = {str(r.attributes["accountExpires"][0]) for r in acme.values() if "accountExpires" in r.attributes}
    assert {"0", "1", "9223372036854775806", "9223372036854775807"} <= expiries
    assert by_account(acme, "plain00003").attributes["proxyAddresses"] == [
        "smtp:plain00003@acme.test",
        "SMTP:plain00003@acme.test",
        "SMTP:plain00003@ACME.test",
    ]
    names = " ".join(record.name for record in acme.values())
    for part in (
        "小龙",
        "Петров",
        "محمد",
        "😀",
        "e\u0301",
        r"Straße\, Süd",
        r"new\0Aline",
        r"\ leading",
        r"blank\ ",
        r"\#Hash",
    ):
        assert part in names


def test_no_secret_is_read(acme: dict[str, Record]) -> None:
    raw = (DATA / "acme.ldif").read_bytes()
    assert b"userPassword::" in raw
    assert b"msFVE-RecoveryPassword:" in raw
    names = {name.lower() for record in acme.values() for name in record.attributes}
    assert names & ldap.EXCLUDED == set()
    assert b"never-to-be-read".decode() not in repr(list(acme.values()))


@pytest.mark.parametrize("path", EXPORTS, ids=lambda path: path.name)
def test_written_again_it_is_the_same_directory(path: Path) -> None:
    written = b"".join(
        ldif.write_entry(
            record.name,
            {**record.attributes, **({"member": [ref.raw for ref in record.members]} if record.members else {})},
        )
        for record in records(path)
    )
    assert differences(path, written) == []


def test_a_comparison_finds_what_is_lost() -> None:
    text = b"dn: CN=a,DC=x\nmail: 1\nmail: 2\nphoto:: /w==\nmemberOf: b\nmemberOf: a\nuserPassword: s\n\n"
    assert (
        differences(
            text, b"dn:: Q049YSxEQz14\r\nMEMBEROF: a\r\nmemberOf: b\r\nPhoto:: /w==\r\nmail: 1\r\nmail:\r\n  2\r\n"
        )
        == []
    )
    for spoilt in (
        text.replace(b"mail: 1\n", b""),
        text.replace(b"mail: 1\nmail: 2", b"mail: 2\nmail: 1"),
        text.replace(b"mail: 1", b"mail: 1\nmail: 1"),
        text.replace(b"/w==", b"/g=="),
        text.replace(b"CN=a", b"cn=a"),
        b"",
    ):
        assert differences(text, spoilt)
    assert canonical(text)[0] == "CN=a,DC=x |"
