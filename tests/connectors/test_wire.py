"""Where an answer begins and ends, octet by octet."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from connectors.wire import Malformed, Silent, TooLong, Wire, request


@pytest.fixture
def ends() -> Iterator[tuple[Wire, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    with ours, theirs:
        yield Wire(ours), theirs


def test_a_request_names_its_host_its_fields_and_its_length():
    asked = request("PUT", "/Users/1", "scim.example", {"Accept": "application/json"}, b"{}")
    head, _, body = asked.partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"PUT /Users/1 HTTP/1.1",
        b"Host: scim.example",
        b"Accept-Encoding: identity",
        b"Content-Length: 2",
        b"Accept: application/json",
    ]
    assert body == b"{}"
    assert b"Content-Length: 0\r\n" in request("POST", "/", "h", {}, None)
    assert b"Content-Length" not in request("GET", "/", "h", {}, None)


@pytest.mark.parametrize(
    ("said", "body", "reusable"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", b"{}", True),
        (b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}", b"{}", True),
        (b"HTTP/1.1 200\r\nContent-Length: 2, 2\r\n\r\n{}", b"{}", True),
        (b"HTTP/1.1 200 OK\r\nX: a\r\n  b\r\nContent-Length: 0\r\n\r\n", b"", True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 1\r\n\r\nx", b"x", True),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", b"", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: Close\r\n\r\nx", b"x", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx and more", b"x", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", b"x", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\nx", b"x", True),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2;a=b\r\nab\r\n1\r\nc\r\n0\r\nX: y\r\n\r\n",
            b"abc",
            True,
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n1\r\nc\r\n0\r\n\r\n", b"c", False),
    ],
)
def test_an_answer_ends_where_it_says(ends, said, body, reusable):
    wire, receiver = ends
    receiver.sendall(said)
    _, _, found = wire.ask(b"GET / HTTP/1.1\r\n\r\n", bodyless=False, most=100)
    assert (found, wire.reusable) == (body, reusable)


def test_an_answer_may_come_in_any_pieces(ends):
    wire, receiver = ends
    said = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"

    def drip() -> None:
        for at in range(len(said)):
            receiver.sendall(said[at : at + 1])

    thread = threading.Thread(target=drip)
    thread.start()
    status, fields, body = wire.ask(b"GET / HTTP/1.1\r\n\r\n", bodyless=False, most=5)
    thread.join()
    assert (status, fields["x-a"], body, wire.reusable) == (200, "1", b"abcde", True)


def test_without_a_length_an_answer_ends_with_its_connection(ends):
    wire, receiver = ends
    receiver.sendall(b"HTTP/1.1 200 OK\r\n\r\nall of it")
    receiver.shutdown(socket.SHUT_WR)
    assert wire.ask(b"", bodyless=False, most=9)[2] == b"all of it"
    assert not wire.reusable


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno field\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n",
    ],
)
def test_an_answer_that_could_be_read_two_ways_is_none(ends, said):
    wire, receiver = ends
    receiver.sendall(said)
    receiver.shutdown(socket.SHUT_WR)
    with pytest.raises(Malformed):
        wire.ask(b"", bodyless=False, most=100)
    assert not wire.reusable


def test_silence_and_too_much_are_told_apart(ends):
    wire, receiver = ends
    receiver.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n")
    with pytest.raises(TooLong):
        wire.ask(b"", bodyless=False, most=100)
    receiver.shutdown(socket.SHUT_WR)
    with pytest.raises(Silent):
        wire.ask(b"", bodyless=False, most=100)
