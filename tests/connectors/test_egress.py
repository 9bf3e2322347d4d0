"""The guard: which addresses are reached, judged on the very address that is connected to."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.egress import Blocked, ConnectFailed, Egress, TimedSocket, Timeout


def answering(*addresses: str, delay: float = 0.0):
    """A resolver that gives these addresses and counts its calls."""

    def resolve(host, port, *, type):
        resolve.calls += 1
        time.sleep(delay)
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, type, 6, "", (address, port))
            for address in addresses
        ]

    resolve.calls = 0
    return resolve


def connect(egress, host="app.example", port=443, *, plaintext=False, timeout=2.0, deadline=5.0, **options):
    until = time.monotonic() + deadline
    return egress.connect(host, port, plaintext=plaintext, deadline=until, timeout=timeout, **options)


@pytest.fixture
def dialled(monkeypatch):
    """Addresses that were dialled; nothing leaves the machine."""
    seen: list[tuple[str, int]] = []
    monkeypatch.setattr(TimedSocket, "connect", lambda self, address: seen.append(address))
    monkeypatch.setattr(TimedSocket, "setsockopt", lambda self, *option: None)
    return seen


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.255.0.1",
        "168.63.129.16",
        "169.254.169.254",
        "172.31.255.255",
        "192.0.0.192",
        "192.168.0.1",
        "198.18.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "64:ff9b::7f00:1",
        "64:ff9b::808:808",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:db8::1",
        "2002:7f00:1::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "5f00::1",
    ],
)
def test_no_address_but_a_public_one_is_dialled(address, dialled):
    for host in ("app.example", address):
        with pytest.raises(Blocked):
            connect(Egress(resolve=answering(address)), host)
    assert dialled == []


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "2a00:1450::1"])
def test_public_addresses_are_dialled(address, dialled):
    connect(Egress(resolve=answering(address))).close()
    assert dialled == [(address, 443)]


@given(st.ip_addresses())
def test_what_python_calls_private_is_never_public_to_us(address):
    verdicts = []
    for egress in (Egress(), Egress(loopback=True)):
        try:
            egress._judge("app.example", address, 443, False)
            verdicts.append(True)
        except Blocked:
            verdicts.append(False)
    if not address.is_global:
        assert verdicts[0] is False
        assert verdicts[1] is address.is_loopback


def test_one_forbidden_address_among_several_forbids_the_name(dialled):
    with pytest.raises(Blocked, match=r"10\.0\.0\.1"):
        connect(Egress(resolve=answering("8.8.8.8", "10.0.0.1")))
    assert dialled == []


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1"])
def test_odd_spellings_of_loopback_are_loopback(host, dialled):
    with pytest.raises(Blocked):
        connect(Egress(), host)
    assert dialled == []


def test_the_name_is_looked_up_once_and_the_judged_address_dialled(dialled):
    answers = iter([["8.8.8.8"], ["127.0.0.1"]])

    def rebinding(host, port, *, type):
        return answering(*next(answers))(host, port, type=type)

    connect(Egress(resolve=rebinding)).close()
    assert dialled == [("8.8.8.8", 443)]
    with pytest.raises(Blocked):
        connect(Egress(resolve=rebinding))
    assert dialled == [("8.8.8.8", 443)]


def test_a_public_host_is_reached_by_tls_only(dialled):
    with pytest.raises(Blocked, match="https"):
        connect(Egress(loopback=True, resolve=answering("8.8.8.8")), port=80, plaintext=True)
    assert dialled == []


@pytest.mark.parametrize(
    ("port", "reached"),
    [(443, True), (8443, True), (1024, True), (22, False), (25, False), (636, False), (5432, False), (6379, False)],
)
def test_a_public_host_is_reached_on_ports_of_the_web(port, reached, dialled):
    egress = Egress(resolve=answering("8.8.8.8"))
    if reached:
        connect(egress, port=port).close()
        assert dialled == [("8.8.8.8", port)]
    else:
        with pytest.raises(Blocked):
            connect(egress, port=port)


def test_a_protocols_own_ports_are_reached_by_it_alone(dialled):
    egress = Egress(resolve=answering("8.8.8.8"))
    ldap = frozenset({389, 636})
    for port in (389, 636, 443, 1024):
        connect(egress, port=port, ports=ldap).close()
    assert dialled == [("8.8.8.8", port) for port in (389, 636, 443, 1024)]
    for port in (22, 25, 5432):
        with pytest.raises(Blocked, match="this protocol"):
            connect(egress, port=port, ports=ldap)


def test_a_protocols_own_ports_open_no_address(dialled):
    for address in ("10.0.0.1", "127.0.0.1", "169.254.169.254"):
        with pytest.raises(Blocked):
            connect(Egress(), address, 636, ports=frozenset({636}))
    assert dialled == []


def test_loopback_is_reached_only_when_admitted(listener):
    with pytest.raises(Blocked):
        connect(Egress(), "127.0.0.1", listener, plaintext=True)
    connect(Egress(loopback=True), "127.0.0.1", listener, plaintext=True).close()
    connect(Egress(loopback=True), "localhost", listener, plaintext=True).close()


def test_our_own_ports_are_never_reached(listener, dialled):
    everything = ((ipaddress.ip_network("0.0.0.0/0"), listener), (ipaddress.ip_network("10.0.0.0/8"), listener))
    egress = Egress(loopback=True, allowed=everything, own_ports=frozenset({listener}))
    for host in ("127.0.0.1", "10.0.0.1"):
        with pytest.raises(Blocked, match="our own"):
            connect(egress, host, listener)
    assert dialled == []


def test_an_allowed_network_is_reached_on_its_port_by_tls_only(dialled):
    egress = Egress(allowed=((ipaddress.ip_network("10.0.0.0/8"), 8443), (ipaddress.ip_network("fd12::/16"), 8443)))
    connect(egress, "10.9.8.7", 8443).close()
    connect(egress, "fd12::1", 8443).close()
    assert dialled == [("10.9.8.7", 8443), ("fd12::1", 8443)]
    for host, port, plaintext in [
        ("10.9.8.7", 443, False),
        ("10.9.8.7", 8443, True),
        ("192.168.0.1", 8443, False),
        ("::ffff:10.9.8.7", 8443, False),
    ]:
        with pytest.raises(Blocked):
            connect(egress, host, port, plaintext=plaintext)


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "168.63.129.16",
        "100.100.100.200",
        "224.0.0.1",
        "0.0.0.0",
        "fe80::1",
        "fd00:ec2::254",
        "ff02::1",
        "64:ff9b::a9fe:a9fe",
    ],
)
def test_no_allow_list_reaches_metadata_services_or_multicast(address, dialled):
    everything = ((ipaddress.ip_network("0.0.0.0/0"), 443), (ipaddress.ip_network("::/0"), 443))
    with pytest.raises(Blocked):
        connect(Egress(allowed=everything, resolve=answering(address)))
    assert dialled == []


def test_the_next_address_is_tried_when_one_is_dead(listener):
    egress = Egress(loopback=True, resolve=answering("127.0.0.2", "127.0.0.1"))
    made = connect(egress, port=listener)
    assert made.getpeername() == ("127.0.0.1", listener)
    made.close()


def test_a_refused_connection_names_host_and_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectFailed, match=rf"app\.example port {port}"):
        connect(Egress(loopback=True, resolve=answering("127.0.0.1")), port=port)


def test_an_unknown_name_is_a_failed_connection():
    def unknown(host, port, *, type):
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    with pytest.raises(ConnectFailed, match=r"app\.example is not known"):
        connect(Egress(resolve=unknown))


def test_a_slow_lookup_ends_with_the_patience():
    started = time.monotonic()
    with pytest.raises(Timeout):
        connect(Egress(resolve=answering("8.8.8.8", delay=1.0)), timeout=0.1)
    assert time.monotonic() - started < 0.8


def test_a_socket_keeps_its_deadline_over_dripping_bytes():
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def drip() -> None:
            peer, _ = server.accept()
            with peer:
                while not stop.wait(0.05):
                    try:
                        peer.send(b".")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        made = connect(Egress(loopback=True), "127.0.0.1", server.getsockname()[1], deadline=0.4)
        started = time.monotonic()
        with made, made.makefile("rb") as stream, pytest.raises(TimeoutError):
            stream.read(1000)
        assert time.monotonic() - started < 1.0
        stop.set()
        thread.join()


def test_nothing_connected_lives_beyond_the_moment_somebody_stops_waiting(listener):
    began = time.monotonic()
    with connect(Egress(loopback=True, until=began + 0.2), "127.0.0.1", listener) as made:
        made.deadline = began + 60
        with pytest.raises(TimeoutError):
            made.recv_into(bytearray(1))
    assert time.monotonic() - began < 2
    with pytest.raises(Timeout):
        connect(Egress(loopback=True, until=began), "127.0.0.1", listener)
