"""Connections to a directory's servers: nothing before TLS, nobody but the named server, no word of a secret."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from connectors import ldap
from connectors.egress import Egress
from connectors.ldap import session as sessions
from connectors.ldap.session import REASONS, Verdict, connected, opened
from connectors.port import PASSWORD_REFUSALS, Misconfigured, Refused, Unreachable
from tests.connectors.ldap.scripted_server import (
    BOUND,
    ENTRY,
    EXTENDED,
    REFERENCE,
    SEARCHED,
    Heard,
    Script,
    certified,
    element,
    entry,
    inside,
    listening,
    message,
    question,
    result,
    secured,
)

SECRET = "secret-of-the-reader"
LOOPBACK = Egress(loopback=True)
AD_SAYS = "80090308: LdapErr: DSID-0C0903A9, comment: AcceptSecurityContext error, data {}, v1db1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(folder: Path) -> str:
    return certified(folder)


@pytest.fixture(autouse=True)
def nobody_shunned() -> Iterator[None]:
    yield
    sessions._silent.clear()


def config(authority: str, *servers: str, **settings: Any) -> ldap.Config:
    ours = {"bind_dn": "cn=reader,dc=acme", "bind_password": SECRET, "timeout": 2, **settings}
    return ldap.Config(source="ldap", servers=list(servers), ca_certificates=authority, **ours)


@contextmanager
def refused_by_connecting(script: Script, authority: str) -> Iterator[tuple[str, Heard]]:
    """The error of a session over StartTLS with such a server, and what the server heard."""
    with listening(script) as heard:
        with pytest.raises(Unreachable) as caught:
            opened(config(authority, f"ldap://localhost:{heard.port}"), LOOPBACK)
        yield str(caught.value), heard


def test_no_credential_is_said_to_a_server_that_will_not_begin_tls(authority: str) -> None:
    def script(peer: socket.socket, heard: Heard) -> None:
        question(peer, heard.outside)
        peer.sendall(result(1, EXTENDED, 2, "unsupported extended operation"))
        while question(peer, heard.outside):
            pass

    with refused_by_connecting(script, authority) as (error, heard):
        assert "without TLS nothing is said" in error
        assert b"1.3.6.1.4.1.1466.20037" in heard.outside
        assert SECRET.encode() not in heard.outside and b"reader" not in heard.outside


def test_no_credential_is_said_to_a_server_that_ends_the_handshake(authority: str) -> None:
    def script(peer: socket.socket, heard: Heard) -> None:
        question(peer, heard.outside)
        peer.sendall(result(1, EXTENDED))
        question(peer, heard.outside)
        peer.sendall(b"this is no TLS at all, whatever was agreed on")

    with refused_by_connecting(script, authority) as (error, heard):
        assert "no TLS connection" in error
        assert SECRET.encode() not in heard.outside


def test_what_is_said_in_the_clear_after_starttls_is_not_taken_for_said_in_tls(authority: str, folder: Path) -> None:
    """Somebody on the way adds an answer to the bind that follows."""

    def script(peer: socket.socket, heard: Heard) -> None:
        question(peer, heard.outside)
        peer.sendall(result(1, EXTENDED) + result(2, BOUND))
        with secured(peer, folder) as secure:
            question(secure, heard.inside)

    with refused_by_connecting(script, authority) as (_, heard):
        assert SECRET.encode() not in heard.outside
        assert heard.inside == b""


def test_starttls_is_begun_before_the_first_word(authority: str, folder: Path) -> None:
    def script(peer: socket.socket, heard: Heard) -> None:
        question(peer, heard.outside)
        peer.sendall(result(1, EXTENDED))
        with secured(peer, folder) as secure:
            question(secure, heard.inside)
            secure.sendall(result(2, BOUND))
            question(secure, heard.inside)

    with listening(script) as heard:
        opened(config(authority, f"ldap://localhost:{heard.port}"), LOOPBACK).wire.close()
        assert SECRET.encode() in heard.inside and SECRET.encode() not in heard.outside


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_certificate_names_its_host_or_its_address(authority: str, folder: Path, host: str) -> None:
    with listening(inside(folder, result(1, BOUND))) as heard:
        opened(config(authority, f"ldaps://{host}:{heard.port}"), LOOPBACK).wire.close()
        assert SECRET.encode() in heard.inside


def test_a_certificate_of_another_host_is_not_accepted(authority: str, folder: Path) -> None:
    def here(host: str, port: int, *, type: int) -> list[Any]:
        return [(socket.AF_INET, type, 6, "", ("127.0.0.1", port))]

    egress = Egress(loopback=True, resolve=here)
    with (
        listening(inside(folder, result(1, BOUND))) as heard,
        pytest.raises(Unreachable, match=r"dc9\.acme\.test.*certificate is not accepted"),
    ):
        opened(config(authority, f"ldaps://dc9.acme.test:{heard.port}"), egress)
    assert heard.inside == b""


def test_a_certificate_of_another_authority_is_not_accepted(folder: Path, tmp_path: Path) -> None:
    stranger = certified(tmp_path)
    for trusted in (stranger, ""):
        with (
            listening(inside(folder, result(1, BOUND))) as heard,
            pytest.raises(Unreachable, match="certificate is not accepted"),
        ):
            opened(config(trusted, f"ldaps://localhost:{heard.port}"), LOOPBACK)
        assert heard.inside == b""


def test_the_next_server_is_used_when_one_is_dead(authority: str, folder: Path) -> None:
    with listening(inside(folder, result(1, BOUND))) as heard:
        servers = [f"ldaps://127.0.0.1:{closed_port()}", f"ldaps://localhost:{heard.port}"]
        session = opened(config(authority, *servers), LOOPBACK)
        assert session.server.port == heard.port
        session.wire.close()


def test_a_server_that_did_not_answer_has_its_turn_after_the_others(authority: str, folder: Path) -> None:
    with listening(lambda peer, heard: None) as silent, listening(inside(folder, result(1, BOUND))) as good:
        settings = config(authority, f"ldaps://localhost:{silent.port}", f"ldaps://localhost:{good.port}")
        for _ in range(3):
            opened(settings, LOOPBACK).wire.close()
        assert (silent.connections, good.connections) == (1, 3)


def test_all_servers_are_named_when_none_can_be_used(authority: str) -> None:
    first, second = closed_port(), closed_port()
    with pytest.raises(Unreachable, match=rf"localhost port {first}.*localhost port {second}"):
        opened(config(authority, f"ldaps://localhost:{first}", f"ldap://localhost:{second}"), LOOPBACK)


def test_a_wrong_password_is_not_tried_at_the_next_server(authority: str, folder: Path) -> None:
    refusing = inside(folder, result(1, BOUND, 49, AD_SAYS.format("52e")))
    with listening(refusing) as first, listening(inside(folder, result(1, BOUND))) as second:
        servers = [f"ldaps://localhost:{at.port}" for at in (first, second)]
        with pytest.raises(Misconfigured, match="the name or the password is wrong"):
            opened(config(authority, *servers), LOOPBACK)
        assert second.connections == 0


@pytest.mark.parametrize("address", ["10.0.0.1", "169.254.169.254", "127.0.0.1", "8.8.8.8"])
def test_the_guard_judges_every_address(authority: str, address: str) -> None:
    port = 22 if address == "8.8.8.8" else 636
    with pytest.raises(Misconfigured) as caught:
        opened(config(authority, f"ldaps://{address}:{port}"), Egress())
    assert set(caught.value.fields) == {"servers"}
    assert address in str(caught.value)


def test_a_directory_at_a_public_address_is_reached_at_its_usual_ports(authority: str) -> None:
    asked: list[tuple[int, bool, frozenset[int]]] = []

    class Watched(Egress):
        def connect(self, host: str, port: int, *, plaintext: bool, ports: frozenset[int] = frozenset(), **_: Any):
            asked.append((port, plaintext, ports))
            raise sessions.Blocked("watched")

    urls = ("ldaps://a.example", "ldap://a.example", "ldaps://a.example:3269")
    with pytest.raises(Misconfigured, match="watched"):
        opened(config(authority, *urls), Watched())
    assert asked == [(port, False, sessions.PORTS) for port in (636, 389, 3269)]


@pytest.mark.parametrize("data", sorted(REASONS))
def test_active_directory_says_why_an_account_is_not_accepted(authority: str, folder: Path, data: str) -> None:
    code, reason = REASONS[data]
    assert not code or code in PASSWORD_REFUSALS
    with listening(inside(folder, result(1, BOUND, 49, AD_SAYS.format(data)))) as heard:
        with pytest.raises(Misconfigured) as caught:
            opened(config(authority, f"ldaps://localhost:{heard.port}"), LOOPBACK)
        assert reason in str(caught.value)
        assert SECRET not in str(caught.value) + str(caught.value.fields)
        assert set(caught.value.fields) == ({"bind_dn"} if code else {"bind_password"})


@pytest.mark.parametrize(
    ("code", "said", "verdict"),
    [
        (0, "", Verdict(True, "", "")),
        (49, "", Verdict(False, *REASONS["52e"])),
        (49, "data 999", Verdict(False, *REASONS["52e"])),
        (32, "", Verdict(False, *REASONS["525"])),
        (34, "", Verdict(False, *REASONS["525"])),
        (19, "", Verdict(False, *REASONS["775"])),
        (53, "Account inactivated", Verdict(False, "", "the server will not (Account inactivated)")),
    ],
)
def test_what_a_server_says_of_a_password(authority: str, folder: Path, code: int, said: str, verdict: Verdict) -> None:
    with (
        listening(inside(folder, result(1, BOUND, code, said))) as heard,
        connected(config(authority, f"ldaps://localhost:{heard.port}"), LOOPBACK) as session,
    ):
        assert session.bind("cn=ann", "her-password") == verdict


@pytest.mark.parametrize(("code", "error"), [(51, Unreachable), (52, Unreachable), (2, Refused), (8, Refused)])
def test_a_server_that_checks_no_password_says_nothing_of_it(
    authority: str, folder: Path, code: int, error: type[Exception]
) -> None:
    with (
        listening(inside(folder, result(1, BOUND, code))) as heard,
        connected(config(authority, f"ldaps://localhost:{heard.port}"), LOOPBACK) as session,
        pytest.raises(error),
    ):
        session.bind("cn=ann", "her-password")


@pytest.mark.parametrize(("name", "password"), [("cn=ann", ""), ("", "x"), ("", "")])
def test_nobody_is_bound_without_a_name_and_a_password(authority: str, folder: Path, name: str, password: str) -> None:
    with (
        listening(inside(folder, result(1, BOUND))) as heard,
        connected(config(authority, f"ldaps://localhost:{heard.port}"), LOOPBACK) as session,
    ):
        with pytest.raises(Misconfigured):
            session.bind(name, password)
        assert heard.inside == b""


def test_a_server_that_stops_in_the_middle_is_waited_for_until_the_deadline(authority: str, folder: Path) -> None:
    """Each byte comes in time for itself; the whole answer does not."""

    def script(peer: socket.socket, heard: Heard) -> None:
        with secured(peer, folder) as secure:
            question(secure, heard.inside)
            for byte in result(1, BOUND):
                time.sleep(0.2)
                secure.sendall(bytes([byte]))

    with listening(script) as heard:
        began = time.monotonic()
        with pytest.raises(Unreachable, match="did not answer in 1 s"):
            opened(config(authority, f"ldaps://localhost:{heard.port}", timeout=1), LOOPBACK)
        assert time.monotonic() - began < 1.8


def test_whoever_stops_waiting_earlier_is_heeded(authority: str, folder: Path) -> None:
    with listening(inside(folder, b"")) as heard:
        began = time.monotonic()
        egress = replace(LOOPBACK, until=began + 0.4)
        with pytest.raises(Unreachable):
            opened(config(authority, f"ldaps://localhost:{heard.port}", timeout=20), egress)
        assert time.monotonic() - began < 1.5


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x30\x84\xff\xff\xff\xff",
        element(0x30, b"\x02\x01\x01\x65\x02\x0a\x09"),
        element(0x30, b"\x02\x01\x01"),
        element(0x30, b"\x02\x01\x01\x64\x84\xff\xff\xff\xff"),
        message(1, ENTRY, element(4, b"cn=a"), b"\x30\x7f\x30\x03\x04\x7f"),
        message(1, 0x4A),
    ],
)
def test_what_is_no_ldap_is_refused(authority: str, folder: Path, answer: bytes) -> None:
    with (
        listening(inside(folder, result(1, BOUND), answer[:4] + b"\x02" + answer[5:])) as heard,
        opened(config(authority, f"ldaps://localhost:{heard.port}"), LOOPBACK) as session,
        pytest.raises((Refused, Unreachable)),
    ):
        session.search("dc=acme", "(objectClass=*)", ["*"])


def test_secrets_are_dropped_and_referrals_are_not_followed(authority: str, folder: Path) -> None:
    answer = (
        entry(2, "cn=a", cn=[b"a"], userPassword=[b"x"], **{"unicodePwd;binary": [b"y"], "ms-Mcs-AdmPwd": [b"z"]})
        + message(2, REFERENCE, element(4, b"ldap://other.example/dc=x"))
        + result(9, SEARCHED)
        + entry(2, "cn=b", empty=[], photo=[b"\xff" * 70_000])
        + result(2, SEARCHED)
    )
    with (
        listening(inside(folder, result(1, BOUND), answer)) as heard,
        opened(config(authority, f"ldaps://localhost:{heard.port}"), LOOPBACK) as session,
    ):
        found = session.search("dc=acme", "(objectClass=*)", ["*"]).entries
        assert [(item.dn, item.attributes) for item in found] == [
            (b"cn=a", {"cn": [b"a"]}),
            (b"cn=b", {"empty": [], "photo": [b"\xff" * 70_000]}),
        ]
        assert heard.connections == 1


@pytest.mark.parametrize(
    ("code", "error", "says"),
    [
        (4, Refused, "only a part"),
        (11, Refused, "only a part"),
        (3, Unreachable, "timeLimitExceeded"),
        (51, Unreachable, "busy"),
        (10, Refused, "referral"),
        (32, Refused, "noSuchObject"),
        (50, Refused, "insufficientAccessRights"),
    ],
)
def test_a_search_that_did_not_end_well_is_an_error(
    authority: str, folder: Path, code: int, error: type[Exception], says: str
) -> None:
    answer = entry(2, "cn=a", cn=[b"a"]) + result(2, SEARCHED, code, "why\x00\n")
    with (
        listening(inside(folder, result(1, BOUND), answer)) as heard,
        opened(config(authority, f"ldaps://localhost:{heard.port}"), LOOPBACK) as session,
    ):
        with pytest.raises(error, match=says) as caught:
            session.search("dc=acme", "(objectClass=*)", ["*"])
        assert str(caught.value).isprintable()
        assert f"localhost:{heard.port}" in str(caught.value)


def test_a_server_that_does_not_page_is_not_believed_to_have_given_everything(authority: str, folder: Path) -> None:
    answer = entry(2, "cn=a", cn=[b"a"]) + result(2, SEARCHED)
    with (
        listening(inside(folder, result(1, BOUND), answer)) as heard,
        opened(config(authority, f"ldaps://localhost:{heard.port}"), LOOPBACK) as session,
        pytest.raises(Refused, match="in pages"),
    ):
        list(session.pages("dc=acme", "(objectClass=*)", ["*"], 500))


def test_a_server_that_takes_its_leave_is_unreachable(authority: str, folder: Path) -> None:
    notice = message(0, EXTENDED, element(10, b"\x34"), element(4, b""), element(4, b""))
    for answer in (notice, b""):
        script = inside(folder, result(1, BOUND), answer) if answer else leaving(folder)
        with (
            listening(script) as heard,
            opened(config(authority, f"ldaps://localhost:{heard.port}"), LOOPBACK) as session,
            pytest.raises(Unreachable, match="broke the connection off"),
        ):
            session.search("dc=acme", "(objectClass=*)", ["*"])


def leaving(folder: Path) -> Script:
    def script(peer: socket.socket, heard: Heard) -> None:
        with secured(peer, folder) as secure:
            question(secure, heard.inside)
            secure.sendall(result(1, BOUND))
            question(secure, heard.inside)

    return script


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
