"""What directory entries mean: keys, kinds, mentions, secrets; and the pass over an exported file."""

from __future__ import annotations

import base64
import os
import struct
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from connectors import ldap, ldif
from connectors.port import (
    Change,
    CursorExpired,
    Gone,
    Misconfigured,
    Page,
    Record,
    Ref,
    Refused,
    Unreachable,
    Unreadable,
)

GUID = bytes(range(16))
KEY = "03020100-0504-0706-0809-0a0b0c0d0e0f"
SID = b"\x01\x05\x00\x00\x00\x00\x00\x05" + struct.pack("<5I", 21, 1, 2, 3, 1104)


def write(path: Path, *entries: bytes | tuple[str, dict[str, Sequence[str | bytes]]]) -> Path:
    path.write_bytes(b"".join(e if isinstance(e, bytes) else ldif.write_entry(*e) for e in entries))
    return path


def changes(path: Path, base_dn: str = "") -> list[Change]:
    pages = list(ldap.LdifDirectory(path, ldap.Config(base_dn=base_dn)).changes_since(None))
    assert [page.last for page in pages] == [False] * (len(pages) - 1) + [True]
    return [change for page in pages for change in page.changes]


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return tmp_path / "export.ldif"


def only(export: Path, attributes: dict[str, Sequence[str | bytes]], dn: str = "CN=Ann,OU=People,DC=acme") -> Change:
    (change,) = changes(write(export, (dn, {"objectGUID": [GUID], **attributes})))
    return change


def record(export: Path, attributes: dict[str, Sequence[str | bytes]], dn: str = "CN=Ann,OU=People,DC=acme") -> Record:
    change = only(export, attributes, dn)
    assert isinstance(change, Record)
    return change


def unreadable(export: Path, attributes: dict[str, Sequence[str | bytes]]) -> Unreadable:
    change = only(export, attributes)
    assert isinstance(change, Unreadable)
    return change


def test_a_person_of_active_directory(export: Path) -> None:
    attributes: dict[str, Sequence[str | bytes]] = {
        "objectClass": ["top", "person", "organizationalPerson", "user"],
        "objectSid": [SID],
        "primaryGroupID": ["513"],
        "userAccountControl": ["512"],
        "manager": ["CN=Bob\\2C Jr.,OU=People, DC=ACME"],
        "memberOf": ["CN=G,DC=acme"],
        "unknownToUs": ["b", "a", b"\xff"],
    }
    assert record(export, attributes) == Record(
        key=KEY,
        kind="user",
        name="CN=Ann,OU=People,DC=acme",
        ref="cn=ann,ou=people,dc=acme",
        attributes={"objectGUID": [GUID.decode()], **attributes, "objectSid": [SID.decode()]},
        alias="sid:S-1-5-21-1-2-3-1104",
        members=None,
        manager=Ref("cn=bob\\, jr.,ou=people,dc=acme", "CN=Bob\\2C Jr.,OU=People, DC=ACME"),
        parent=Ref("ou=people,dc=acme", "OU=People,DC=acme"),
        primary_group=Ref("sid:S-1-5-21-1-2-3-513", "513"),
        active=True,
    )


@pytest.mark.parametrize(
    ("classes", "more", "kind"),
    [
        (["top", "person", "organizationalPerson", "user"], {}, "user"),
        (["TOP", "User"], {}, "user"),
        (["inetOrgPerson"], {}, "user"),
        (["top", "person", "organizationalPerson", "user", "inetOrgPerson"], {}, "user"),
        (["top", "person"], {"uid": ["ann"]}, "user"),
        (["top", "person"], {}, "other"),
        (["top", "person", "organizationalPerson", "contact"], {}, "other"),
        (["top", "person", "organizationalPerson", "user", "computer"], {}, "other"),
        (["user", "computer", "msDS-GroupManagedServiceAccount"], {}, "other"),
        (["user"], {"userAccountControl": ["2080"]}, "other"),
        (["top", "group"], {}, "group"),
        (["groupOfNames"], {}, "group"),
        (["groupOfUniqueNames"], {}, "group"),
        (["posixGroup"], {}, "group"),
        (["top", "organizationalUnit"], {}, "unit"),
        (["top", "container"], {}, "other"),
        (["top", "domain", "domainDNS"], {}, "other"),
        (["foreignSecurityPrincipal"], {}, "other"),
        ([b"\xff"], {}, "other"),
        ([], {}, "other"),
    ],
)
def test_the_kind_comes_from_the_object_classes(
    export: Path, classes: Sequence[str | bytes], more: dict[str, Sequence[str | bytes]], kind: str
) -> None:
    assert record(export, {**({"objectClass": classes} if classes else {}), **more}).kind == kind


def test_names_of_attributes_are_found_in_any_case(export: Path) -> None:
    found = record(export, {"OBJECTCLASS": ["group"], "Member": ["CN=a,DC=x"], "objectsid": [SID]})
    assert (found.kind, found.alias) == ("group", "sid:S-1-5-21-1-2-3-1104")
    assert found.members == (Ref("cn=a,dc=x", "CN=a,DC=x"),)
    assert list(found.attributes) == ["objectGUID", "OBJECTCLASS", "objectsid"]


def test_members_leave_the_record_in_their_order(export: Path) -> None:
    raw = ["CN=b,DC=x", "CN=A\\2Cx,DC=x", "not a name", "CN=b,DC=x"]
    found = record(export, {"objectClass": ["group"], "member": raw, "memberUid": ["u"], "memberOf": ["CN=p,DC=x"]})
    assert found.members is not None
    assert [ref.raw for ref in found.members] == raw
    assert [ref.key for ref in found.members] == ["cn=b,dc=x", "cn=a\\,x,dc=x", "?not a name", "cn=b,dc=x"]
    assert found.attributes["memberUid"] == ["u"]
    assert found.attributes["memberOf"] == ["CN=p,DC=x"]
    assert "member" not in found.attributes


def test_a_group_without_members_has_none(export: Path) -> None:
    assert record(export, {"objectClass": ["group"]}).members == ()


def test_unique_members_are_members_where_the_class_says_so(export: Path) -> None:
    found = record(
        export, {"objectClass": ["groupOfUniqueNames"], "uniqueMember": ["CN=a,DC=x"], "member": ["CN=b,DC=x"]}
    )
    assert found.members == (Ref("cn=a,dc=x", "CN=a,DC=x"),)
    assert found.attributes["member"] == ["CN=b,DC=x"]


def test_members_of_what_is_no_group_stay_in_the_record(export: Path) -> None:
    found = record(export, {"objectClass": ["msExchSomething"], "member": ["CN=a,DC=x"]})
    assert found.members is None
    assert found.attributes["member"] == ["CN=a,DC=x"]


@pytest.mark.parametrize(
    ("control", "active"), [("512", True), ("514", False), ("66050", False), ("-2147483646", False)]
)
def test_a_disabled_account_is_not_active(export: Path, control: str, active: bool) -> None:
    assert record(export, {"objectClass": ["user"], "userAccountControl": [control]}).active is active


@pytest.mark.parametrize(
    "name",
    ["unicodePwd", "UNICODEPWD", "userPassword;lang-de", "ms-Mcs-AdmPwd", "msLAPS-Password", "nTSecurityDescriptor"],
)
def test_secrets_are_dropped_while_reading(export: Path, name: str) -> None:
    found = record(export, {"objectClass": ["user"], name: ["geheim"]})
    assert "geheim" not in repr(found)
    assert list(found.attributes) == ["objectGUID", "objectClass"]


def test_what_is_excluded_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "connectors" / "ldif.md").read_text().lower()
    assert [name for name in sorted(ldap.EXCLUDED) if f"`{name}`" not in text] == []


def test_a_directory_without_guids_has_uuids(export: Path) -> None:
    write(export, ("uid=a,dc=x", {"objectClass": ["inetOrgPerson"], "entryUUID": [KEY.upper()]}))
    (found,) = changes(export)
    assert isinstance(found, Record)
    assert found.key == KEY


def test_a_tombstone_is_an_explicit_deletion(export: Path) -> None:
    assert only(export, {"objectClass": ["user"], "isDeleted": ["TRUE"]}) == Gone(KEY)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"objectGUID": [b"short"]}, "bad_value"),
        ({"objectSid": [b"\x01\x05short"]}, "bad_value"),
        ({"userAccountControl": ["many"]}, "bad_value"),
        ({"userAccountControl": [b"\xff"]}, "bad_value"),
        ({"objectClass": ["user"], "objectSid": [SID], "primaryGroupID": [b"\xff"]}, "bad_value"),
        ({"objectClass": ["group"], "member": [b"\xff"]}, "bad_dn"),
        ({"objectClass": ["user"], "manager": [b"\xff"]}, "bad_dn"),
        ({"member;range=0-1": ["a", "b"]}, "partial_values"),
        ({"member;range=1-*": ["b"]}, "partial_values"),
        ({"member;range=0-0": ["a"], "member;range=2-*": ["c"]}, "partial_values"),
    ],
)
def test_a_poison_record_is_reported_with_its_name(
    export: Path, attributes: dict[str, Sequence[str | bytes]], reason: str
) -> None:
    found = unreadable(export, attributes)
    assert found.reason == reason
    assert (found.position, found.name, found.ref) == ("byte 0", "CN=Ann,OU=People,DC=acme", "cn=ann,ou=people,dc=acme")


@pytest.mark.parametrize(
    ("text", "reason", "name"),
    [
        (b"dn: CN=a,DC=x\ncn: a\n\n", "no_key", "CN=a,DC=x"),
        (b"dn: CN=a,DC=x\nentryUUID: none\n\n", "bad_value", "CN=a,DC=x"),
        (b"dn: nonsense\nobjectGUID:: AAECAwQFBgcICQoLDA0ODw==\n\n", "bad_dn", "nonsense"),
        (b"dn:\nobjectGUID:: AAECAwQFBgcICQoLDA0ODw==\n\n", "bad_dn", ""),
        (b"dn: CN=a,DC=x\nobjectGUID:: !\n\n", "bad_base64", "CN=a,DC=x"),
        (b"cn: a\n\n", "no_dn", None),
    ],
)
def test_poison_never_stops_the_pass(export: Path, text: bytes, reason: str, name: str | None) -> None:
    good = ("CN=good,DC=x", {"objectGUID": [GUID]})
    poison, following = changes(write(export, text, good))
    assert isinstance(poison, Unreadable)
    assert (poison.reason, poison.name) == (reason, name)
    assert isinstance(following, Record)


def test_values_in_ranges_are_joined_when_they_are_all_there(export: Path) -> None:
    found = record(
        export,
        {
            "objectClass": ["group"],
            "member;range=0-1": ["CN=a,DC=x", "CN=b,DC=x"],
            "mail": ["g@x"],
            "member;Range=2-*": ["CN=c,DC=x"],
        },
    )
    assert found.members is not None
    assert [ref.raw for ref in found.members] == ["CN=a,DC=x", "CN=b,DC=x", "CN=c,DC=x"]
    assert list(found.attributes) == ["objectGUID", "objectClass", "mail"]


def test_entries_outside_the_base_are_skipped_and_said_to_be_so(export: Path) -> None:
    write(
        export,
        *(
            (dn, {"objectGUID": [uuid.uuid4().bytes]})
            for dn in ("DC=Acme,DC=test", "OU=a,dc=acme, DC=TEST", "OU=a,DC=xacme,DC=test")
        ),
    )
    inside, below, outside = changes(export, base_dn="dc=ACME,dc=test")
    assert isinstance(inside, Record)
    assert isinstance(below, Record)
    assert isinstance(outside, Unreadable)
    assert (outside.reason, outside.name, outside.ref) == ("outside_base", "OU=a,DC=xacme,DC=test", None)


def test_a_base_that_is_no_name_is_a_misconfiguration() -> None:
    with pytest.raises(Misconfigured) as caught:
        ldap.Config(base_dn="acme")
    assert list(caught.value.fields) == ["base_dn"]


def people(count: int, photo: int = 0) -> bytes:
    return b"".join(
        ldif.write_entry(
            f"CN=u{i},DC=x",
            {"objectClass": ["user"], "objectGUID": [uuid.UUID(int=i).bytes_le], "photo": [b"\xff" * photo]},
        )
        for i in range(count)
    )


def pages(path: Path, cursor: str | None = None) -> list[Page]:
    return list(ldap.LdifDirectory(path).changes_since(cursor))


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 2000])
def test_pages_hold_a_thousand_records_and_only_the_last_is_last(export: Path, count: int) -> None:
    found = pages(write(export, people(count)))
    assert [len(page.changes) for page in found] == [1000] * ((count - 1) // 1000) + [
        count - (max(count - 1, 0) // 1000) * 1000
    ]
    assert [page.last for page in found] == [False] * (len(found) - 1) + [True]
    assert {page.kind for page in found} == {"full"}
    assert found[-1].done == found[-1].total == export.stat().st_size


def test_pages_are_bounded_in_bytes_too(export: Path) -> None:
    found = pages(write(export, people(12, photo=1_000_000)))
    assert [len(page.changes) for page in found] == [3, 3, 3, 3]


def test_an_empty_file_is_a_finished_pass_without_records(export: Path) -> None:
    export.write_bytes(b"")
    (page,) = pages(export)
    assert (page.changes, page.last, page.done, page.total) == ((), True, 0, 0)


def test_a_cursor_of_another_file_is_expired(export: Path, tmp_path: Path) -> None:
    first, _ = pages(write(export, people(1001)))
    other = write(tmp_path / "other.ldif", people(1001).replace(b"CN=u7,", b"CN=u8,"))
    copy = write(tmp_path / "copy.ldif", people(1001))
    assert len(pages(copy, first.cursor)) == 1
    with pytest.raises(CursorExpired):
        pages(other, first.cursor)


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "ldif1:",
        "ldif2:{d}:0:0",
        "ldif1:{d}:-1:0",
        "ldif1:{d}:99999999:0",
        "ldif1:{d}:0:2",
        "ldif1:{d}:²:0",
        "ldif1:{d}:" + "9" * 5000 + ":0",
    ],
)
def test_a_cursor_that_makes_no_sense_is_expired(export: Path, cursor: str) -> None:
    (page,) = pages(write(export, people(1)))
    with pytest.raises(CursorExpired):
        pages(export, cursor.format(d=page.cursor.split(":")[1]))


def test_an_unfinished_file_gives_its_whole_entries_and_no_last_page(export: Path) -> None:
    write(export, people(1500)[:-10])
    found = []
    with pytest.raises(Misconfigured, match="Unfinished listing"):
        for page in ldap.LdifDirectory(export).changes_since(None):
            found.append(page)
    assert [(len(page.changes), page.last) for page in found] == [(1000, False), (499, False)]


def test_a_search_that_ended_badly_is_refused_after_its_entries(export: Path) -> None:
    write(export, people(2), b"search: 2\nresult: 11 Administrative limit exceeded\n\n")
    feed = ldap.LdifDirectory(export).changes_since(None)
    assert next(feed).last is False
    with pytest.raises(Refused):
        next(feed)


def test_a_file_that_changes_while_it_is_read_is_read_anew(export: Path) -> None:
    feed = ldap.LdifDirectory(write(export, people(1001))).changes_since(None)
    next(feed)
    with export.open("ab") as file:
        file.write(people(1))
    with pytest.raises(CursorExpired):
        next(feed)


def test_a_missing_file_is_a_misconfiguration(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured):
        pages(tmp_path / "none.ldif")
    with pytest.raises(Misconfigured):
        pages(tmp_path)


def test_a_file_that_cannot_be_read_is_unreachable(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> str:
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(ldif, "fingerprint", broken)
    with pytest.raises(Unreachable):
        pages(write(export, people(1)))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (SID, "S-1-5-21-1-2-3-1104"),
        (b"\x01\x01\x00\x00\x00\x00\x00\x05\x0b\x00\x00\x00", "S-1-5-11"),
        (b"\x01\x02\x00\x00\x00\x00\x00\x05" + struct.pack("<2I", 32, 544), "S-1-5-32-544"),
        (b"\x01\x01\x00\x00\x00\x00\x00\x05" + b"\xff" * 4, "S-1-5-4294967295"),
    ],
)
def test_a_sid_in_its_usual_notation(data: bytes, text: str) -> None:
    assert ldap.sid(data) == text


def test_a_guid_in_its_usual_notation() -> None:
    for data in (GUID, bytes(16), b"\xff" * 16, uuid.uuid4().bytes):
        assert ldap.guid(data) == str(uuid.UUID(bytes_le=data))


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("0", None),
        ("9223372036854775807", None),
        ("9223372036854775806", None),
        ("-1", None),
        ("133801632000000000", datetime(2025, 1, 1, tzinfo=UTC)),
        ("133801632000000019", datetime(2025, 1, 1, 0, 0, 0, 1, tzinfo=UTC)),
        (1, datetime(1601, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_filetime_is_a_moment_or_never(value: str | int, moment: datetime | None) -> None:
    assert ldap.filetime(value) == moment


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("20261122050658.0Z", datetime(2026, 11, 22, 5, 6, 58, tzinfo=UTC)),
        ("20261122050658Z", datetime(2026, 11, 22, 5, 6, 58, tzinfo=UTC)),
        ("202611220506Z", datetime(2026, 11, 22, 5, 6, tzinfo=UTC)),
        ("2026112205Z", datetime(2026, 11, 22, 5, tzinfo=UTC)),
        ("20261122050658,25+0130", datetime(2026, 11, 22, 3, 36, 58, 250000, tzinfo=UTC)),
        ("20261122050658-01", datetime(2026, 11, 22, 6, 6, 58, tzinfo=UTC)),
        ("20261122050658-0130", datetime(2026, 11, 22, 6, 36, 58, tzinfo=UTC)),
    ],
)
def test_a_generalized_time(text: str, moment: datetime) -> None:
    assert ldap.generalized_time(text) == moment


@pytest.mark.parametrize(
    "text", ["", "20261122", "20261122050658", "20261322050658Z", "2026112205.5Z", "٢٠٢٦1122050658Z"]
)
def test_what_is_no_generalized_time(text: str) -> None:
    with pytest.raises(ValueError):
        ldap.generalized_time(text)


def test_base64_of_a_guid_is_no_text_and_still_a_key(export: Path) -> None:
    text = f"dn: CN=a,DC=x\nobjectGUID:: {base64.b64encode(b'plain ascii text').decode()}\n\n"
    (found,) = changes(write(export, text.encode()))
    assert isinstance(found, Record)
    assert found.key == str(uuid.UUID(bytes_le=b"plain ascii text"))
