"""LDIF as a format: every way to write a line, every way to spoil one, and where a listing ends."""

from __future__ import annotations

import base64
import io
import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import ldif
from connectors.port import Misconfigured, Refused

Read = ldif.Entry | ldif.Flaw


def read(text: str | bytes, offset: int = 0, awaiting: bool = False) -> list[Read]:
    data = text if isinstance(text, bytes) else text.encode()
    return list(ldif.Reader(io.BytesIO(data), offset, awaiting))


def entry(text: str | bytes) -> ldif.Entry:
    (only,) = read(text)
    assert isinstance(only, ldif.Entry)
    return only


def flaw(text: str | bytes) -> ldif.Flaw:
    (only,) = read(text)
    assert isinstance(only, ldif.Flaw)
    return only


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("cn: plain", "plain"),
        ("cn:plain", "plain"),
        ("cn:  two blanks before", "two blanks before"),
        ("cn: kept behind  ", "kept behind  "),
        ("cn: a: b", "a: b"),
        ("cn:a: b", "a: b"),
        ("cn: :x", ":x"),
        ("cn:", ""),
        ("cn: ", ""),
        ("cn::", ""),
        ("cn:: ", ""),
        ("cn:: w7w=", "ü"),
        ("cn::w7w=", "ü"),
        ("cn:: /w==", b"\xff"),
        ("cn:: AA==", "\x00"),
        ("cn: raw ü", "raw ü"),
        ("cn: long\n er", "longer"),
        ("cn: long\n  er", "long er"),
        ("cn\n : odd", "odd"),
        ("cn:: w7\n w=", "ü"),
        ("cn: a\n# comment\n  folded comment", "a"),
        ("cn: tab\there", "tab\there"),
        ("cn: line\u2028separator\x85\x0b\x0c\x1c", "line\u2028separator\x85\x0b\x0c\x1c"),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_line_means_its_value(line: str, value: str | bytes, newline: str) -> None:
    text = f"dn: DC=x\n{line}\n\n".replace("\n", newline)
    assert entry(text).attributes == {"cn": [value]}


def test_bytes_that_are_no_utf8_are_kept() -> None:
    assert entry(b"dn: DC=x\ncn: M\xfcller\nsn: ok\n\n").attributes == {"cn": [b"M\xfcller"], "sn": ["ok"]}


def test_values_keep_their_order_and_case() -> None:
    text = "dn: DC=x\nproxyAddresses: smtp:b\nmail: m\nproxyAddresses: SMTP:b\nproxyAddresses: smtp:a\n\n"
    assert entry(text).attributes == {"proxyAddresses": ["smtp:b", "SMTP:b", "smtp:a"], "mail": ["m"]}


def test_one_attribute_spelt_twice_is_one_attribute() -> None:
    text = "dn: DC=x\nMail: 1\nsn: s\nmail: 2\nMail: 3\n\n"
    assert entry(text).attributes == {"Mail": ["1", "2", "3"], "sn": ["s"]}


def test_options_are_part_of_the_name() -> None:
    text = "dn: DC=x\nuserCertificate;binary: a\nmember;range=0-1499: b\ncn;lang-de: c\n2.5.4.3: d\n\n"
    assert list(entry(text).attributes) == ["userCertificate;binary", "member;range=0-1499", "cn;lang-de", "2.5.4.3"]


@pytest.mark.parametrize("name", ["dn: CN=a", "dn:CN=a", "dn:: Q049YQ==", "DN: CN=a", "dn: CN=\n a", "dn:  CN=a"])
def test_the_name_of_an_entry_is_read_as_any_value(name: str) -> None:
    assert entry(f"{name}\ncn: a\n\n").dn == "CN=a"


@pytest.mark.parametrize(
    "before",
    [
        "version: 1\n",
        "version: 1\n\n",
        "# comment\n\n",
        "\n\n\n",
        "\ufeff",
        "\ufeffversion: 1\n",
        "# a\n#b\nversion: 1\n#c\n",
    ],
)
def test_what_comes_before_the_first_entry_is_passed_over(before: str) -> None:
    assert [e.dn for e in read(before + "dn: DC=x\ncn: a\n\n\n\ndn: DC=y\n\n")] == ["DC=x", "DC=y"]


def test_mixed_line_ends_are_understood() -> None:
    assert [e.dn for e in read("dn: DC=x\r\n\r\ndn: DC=y\n\ndn: DC=z\r\n\n")] == ["DC=x", "DC=y", "DC=z"]


def test_an_addition_as_ldifde_writes_it_is_an_entry() -> None:
    assert entry("dn: DC=x\r\nchangetype: add\r\ncn: a\r\n\r\n").attributes == {"cn": ["a"]}
    assert entry("dn: DC=x\ncontrol: 1.2.3 true\nchangetype: add\ncn: a\n\n").attributes == {"cn": ["a"]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("cn: a\n\n", "no_dn"),
        ("dn:: /w==\ncn: a\n\n", "bad_dn"),
        ("dn: DC=x\nno colon\n\n", "bad_line"),
        ("dn: DC=x\n: a\n\n", "bad_line"),
        (f"dn: DC=x\n{'n' * 129}: a\n\n", "bad_line"),
        ("dn: DC=x\n" + "".join(f"a{i}: v\n" for i in range(1001)) + "\n", "too_large"),
        ("dn: DC=x\nü: a\n\n", "bad_line"),
        ("dn: DC=x\ndn: DC=y\n\n", "bad_line"),
        (b"dn: DC=x\n\xff: a\n\n", "bad_line"),
        (b"dn: DC=x\ncn:: \xff\n\n", "bad_line"),
        ("dn: DC=x\ncn:: w7w\n\n", "bad_base64"),
        ("dn: DC=x\ncn:: w7w=w7w=\n\n", "bad_base64"),
        ("dn: DC=x\ncn:: w!!\n\n", "bad_base64"),
        ("dn: DC=x\njpegPhoto:< file:///etc/passwd\n\n", "external_value"),
        ("dn: DC=x\njpegPhoto:<http://127.0.0.1/\n\n", "external_value"),
        ("dn: DC=x\nchangetype: modify\nreplace: cn\ncn: a\n-\n\n", "change_record"),
        ("dn: DC=x\nchangetype: delete\n\n", "change_record"),
        ("dn: DC=x\nchangetype: modrdn\nnewrdn: cn=b\n\n", "change_record"),
    ],
)
def test_a_spoilt_entry_is_reported_and_the_next_one_read(text: str | bytes, reason: str) -> None:
    data = text.encode() if isinstance(text, str) else text
    found, following = read(data + b"dn: DC=next\ncn: b\n\n")
    assert isinstance(found, ldif.Flaw)
    assert found.reason == reason
    assert (found.start, found.end) == (0, len(data))
    assert isinstance(following, ldif.Entry)
    assert following.dn == "DC=next"


def test_a_flaw_names_the_entry_but_none_of_its_values() -> None:
    found = flaw("dn: CN=Ann,DC=x\nuserPassword:: geheim!!\n\n")
    assert found.dn == "CN=Ann,DC=x"
    assert "geheim" not in found.detail


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_an_entry_beyond_measure_is_passed_over_in_bounded_memory(newline: bytes) -> None:
    class Endless(io.RawIOBase):
        """A listing whose second entry has 200 MB, made while it is read."""

        def __init__(self) -> None:
            blob = b"x" * (1024 * 1024)
            first = newline.join([b"dn: DC=a", b"cn: a", b"", b"dn: DC=big", b"jpegPhoto: "])
            self.parts = [first, *[blob] * 200, newline.join([b"", b"", b"dn: DC=z", b"cn: z", b"", b""])]
            self.size = sum(map(len, self.parts))

        def read(self, size: int = -1) -> bytes:
            return self.parts.pop(0) if self.parts else b""

        def seek(self, offset: int, whence: int = 0) -> int:
            return offset

    file = Endless()
    tracemalloc.start()
    first, big, last = list(ldif.Reader(file, 1))  # type: ignore[arg-type]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * ldif.LARGEST
    assert isinstance(big, ldif.Flaw)
    assert (first.dn, big.dn, last.dn) == ("DC=a", "DC=big", "DC=z")
    assert big.reason == "too_large"
    assert (big.end, last.end) == (last.start, file.size + 1)


def test_offsets_resume_reading_at_every_entry() -> None:
    text = "\ufeffversion: 1\n\n# c\ndn: DC=a\ncn: 1\n\ndn: DC=b\n\n\nbad\n\ndn: DC=c\ncn: 3\n\n".replace("\n", "\r\n")
    whole = read(text)
    assert [type(e).__name__ for e in whole] == ["Entry", "Entry", "Flaw", "Entry"]
    for place, before in enumerate(whole, start=1):
        assert read(text, before.end) == whole[place:]


def test_entries_across_chunks_are_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(f"dn: CN=u{i},DC=x\r\ncn:: {base64.b64encode(b'x' * i).decode()}\r\n\r\n" for i in range(60))
    whole = read(text)
    for size in (1, 2, 3, 7, 64):
        monkeypatch.setattr(ldif, "_CHUNK", size)
        assert read(text) == whole


def test_a_cut_file_is_never_taken_for_a_whole_one() -> None:
    text = b"version: 1\n\ndn: CN=a,DC=x\ncn: a\nsn:: w7w=\n\n# b\ndn: CN=b,DC=x\ncn: b\n long\n\n"
    boundaries = {0, text.index(b"\n\n") + 1, *(found.end for found in read(text))}
    for end in range(len(text)):
        part = text[:end]
        if end in boundaries or part.endswith(b"# b\n") or part == b"version: 1\n\n":
            continue
        with pytest.raises(Misconfigured, match="Unfinished listing"):
            read(part)
    assert len(read(text)) == 2


@pytest.mark.parametrize("style", ["", "extended"])
def test_a_search_that_failed_is_refused(style: str) -> None:
    head = "# extended LDIF\n#\n\n" if style else ""
    text = head + "dn: DC=x\ncn: a\n\n# search result\nsearch: 2\nresult: 4 Size limit exceeded\n\n# numEntries: 1\n"
    with pytest.raises(Refused, match=r"4 \(Size limit exceeded"):
        read(text)


def test_a_listing_that_announced_a_result_has_to_give_it() -> None:
    head = "# extended LDIF\n#\n# LDAPv3\n#\n\n"
    body = "# a\ndn: DC=x\ncn: a\n\n"
    assert len(read(head + body + "# search result\nsearch: 2\nresult: 0 Success\n\n# numEntries: 1\n")) == 1
    for rest in (
        "",
        "# search result\n",
        "# search result\nsearch: 2\n",
        "# search result\nsearch: 2\nresult: 0 Success\n",
    ):
        with pytest.raises(Misconfigured, match="Unfinished listing"):
            read(head + body + rest)


def test_a_page_that_promised_another_one_is_not_the_end() -> None:
    first = "dn: DC=a\ncn: a\n\n# pagedresults: estimate=2 cookie=MQA=\n"
    with pytest.raises(Misconfigured, match="Unfinished listing"):
        read(first)
    with pytest.raises(Misconfigured, match="Unfinished listing"):
        read(first + "dn: DC=b\ncn: b\n\n")
    assert len(read(first + "dn: DC=b\ncn: b\n\n# pagedresults: cookie=\n")) == 2


def test_what_a_reader_awaits_is_known_at_every_entry() -> None:
    text = b"dn: DC=a\ncn: a\n\n# pagedresults: estimate=2 cookie=MQA=\ndn: DC=b\ncn: b\n\n"
    reader = ldif.Reader(io.BytesIO(text))
    seen = []
    with pytest.raises(Misconfigured):
        for found in reader:
            seen.append((found.end, reader.awaiting))
    assert [awaiting for _, awaiting in seen] == [False, True]
    with pytest.raises(Misconfigured):
        read(text, *seen[1])


def test_referrals_are_no_entries() -> None:
    assert len(read("dn: DC=x\ncn: a\n\n# search reference\nref: ldap://other/DC=y\n\n# refldap://other/DC=z\n\n")) == 1


def test_what_slips_out_of_a_comment_is_no_attribute() -> None:
    assert entry("# two\nlines, Corp\ndn: CN=two\\0Alines,OU=Corp\ncn: a\n\n").attributes == {"cn": ["a"]}


def test_a_name_cannot_pass_off_lines_as_another_entry() -> None:
    """`ldapsearch` copies a line break inside a name into its comment: what follows it looks like LDIF."""
    head, tail = (
        "# extended LDIF\n#\n\n",
        "# search result\nsearch: 2\nresult: 0 Success\n\n# numResponses: 3\n# numEntries: 2\n",
    )
    honest = "# a, x\ndn: CN=a,DC=x\ncn: a\n\n"
    forging = "# b\ndn: CN=victim,DC=x\nuserAccountControl: 2\n\n# c, x\ndn: CN=b\\0Adn,DC=x\ncn: b\n\n"
    assert ldif.fingerprint(io.BytesIO((head + honest + honest + tail).encode()))
    with pytest.raises(Misconfigured, match="3 entries where the search found 2"):
        ldif.fingerprint(io.BytesIO((head + honest + forging + tail).encode()))


def test_a_counted_listing_without_its_count_is_unfinished() -> None:
    with pytest.raises(Misconfigured, match="Unfinished listing"):
        ldif.fingerprint(io.BytesIO(b"# extended LDIF\n#\n\ndn: DC=x\ncn: a\n\nsearch: 2\nresult: 0 Success\n\n"))


def test_a_fingerprint_is_of_every_byte() -> None:
    text = b"dn: DC=x\ncn: a\n\n"
    prints = {ldif.fingerprint(io.BytesIO(text[:i] + b"b" + text[i + 1 :])) for i in range(len(text))}
    assert len(prints) == len(text)


@pytest.mark.parametrize("mark", [b"\xff\xfed\x00n\x00", b"\xfe\xff\x00d\x00n"])
def test_utf16_is_refused_with_its_remedy(mark: bytes) -> None:
    with pytest.raises(Misconfigured, match="without the option -u"):
        read(mark)


def test_another_version_is_refused() -> None:
    with pytest.raises(Misconfigured, match="version"):
        read("version: 2\ndn: DC=x\n\n")


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("plain", b"cn: plain\n"),
        ("", b"cn:\n"),
        (" lead", b"cn:: IGxlYWQ=\n"),
        ("trail ", b"cn:: dHJhaWwg\n"),
        (":c", b"cn:: OmM=\n"),
        ("<u", b"cn:: PHU=\n"),
        ("#h", b"cn: #h\n"),
        ("ü", b"cn:: w7w=\n"),
        ("a\nb", b"cn:: YQpi\n"),
        ("a\x1cb", b"cn:: YRxi\n"),
        (b"\xff", b"cn:: /w==\n"),
    ],
)
def test_values_are_written_plain_only_where_that_is_safe(value: str | bytes, line: bytes) -> None:
    assert ldif.write_entry("DC=x", {"cn": [value]}) == b"dn: DC=x\n" + line + b"\n"


def test_written_lines_are_folded_at_76() -> None:
    lines = ldif.write_entry("CN=" + "n" * 300, {"cn": ["v" * 75, b"\xff" * 500]}).splitlines()
    assert max(map(len, lines)) == 76
    assert all(line.startswith(b" ") or b":" in line for line in lines[:-1])
    assert lines[-1] == b""


names = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,20}(;[a-z][a-z0-9-]{0,5})?", fullmatch=True).filter(
    lambda name: name.lower() != "dn"
)
values = st.one_of(
    st.text(max_size=200),
    st.text(st.characters(max_codepoint=127), max_size=200),
    st.binary(max_size=200),
    st.integers(-(2**63), 2**63 - 1).map(str),
    st.sampled_from(["SMTP:a@x", "smtp:a@x", "9223372036854775807", "0", "", " ", ":", "<", "#", "\r\n", "-"]),
)
attributes = st.dictionaries(names, st.lists(values, min_size=1, max_size=6), max_size=8).filter(
    lambda found: len({name.lower() for name in found}) == len(found)
)
dns = st.text(min_size=1, max_size=120).filter(lambda text: text.strip(" ") != "")


def as_read(found: Sequence[str | bytes]) -> list[str | bytes]:
    """A value is text when its bytes are UTF-8, whatever it was written from."""
    settled: list[str | bytes] = []
    for value in found:
        try:
            settled.append(value.decode() if isinstance(value, bytes) else value)
        except UnicodeDecodeError:
            settled.append(value)
    return settled


@given(st.lists(st.tuples(dns, attributes), max_size=5))
def test_what_is_written_is_read_back(entries: list[tuple[str, dict[str, list[str | bytes]]]]) -> None:
    text = b"version: 1\n\n" + b"".join(ldif.write_entry(dn, found) for dn, found in entries)
    expected = [(dn, {name: as_read(kept) for name, kept in found.items()}) for dn, found in entries]
    for form in (text, text.replace(b"\n", b"\r\n")):
        assert [(e.dn, e.attributes) for e in read(form) if isinstance(e, ldif.Entry)] == expected


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        read(data)
    except (Misconfigured, Refused) as refusal:
        assert str(refusal)
