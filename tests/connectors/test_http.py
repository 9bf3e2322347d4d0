"""The outbound client against real sockets: what it sends, what it takes, and what it refuses."""

from __future__ import annotations

import datetime
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from email.utils import format_datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from connectors.egress import Egress
from connectors.http import BadResponse, Blocked, ConnectFailed, HttpClient, OutboundError, Response, Timeout, TooLarge

Answer = bytes | Callable[[socket.socket], None]


class Server:
    """Plays one scripted answer per request and keeps what it was asked."""

    def __init__(self, answers: Iterator[Answer], context: ssl.SSLContext | None) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self._answers, self._context = answers, context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._peers: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def url(self, path: str = "/", scheme: str = "http", host: str = "127.0.0.1") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._peers.append(peer)
            thread = threading.Thread(target=self._serve, args=[peer])
            self._threads.append(thread)
            thread.start()

    def _serve(self, peer: socket.socket) -> None:
        try:
            if self._context is not None:
                peer = self._context.wrap_socket(peer, server_side=True)
                self._peers.append(peer)
            with peer:
                while request := self._read(peer):
                    self.requests.append(request)
                    answer = next(self._answers, None)
                    if answer is None:
                        return
                    if callable(answer):
                        answer(peer)
                        return
                    peer.sendall(answer)
        except OSError:
            peer.close()

    @staticmethod
    def _read(peer: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            more = peer.recv(65536)
            if not more:
                return b""
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        while len(body) < length:
            body += peer.recv(65536)
        return head + b"\r\n\r\n" + body

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for peer in self._peers:
            with suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
            peer.close()
        for thread in self._threads:
            thread.join()


@contextmanager
def serving(*answers: Answer, context: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server(iter(answers), context)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def client() -> Iterator[HttpClient]:
    made = HttpClient(Egress(loopback=True), timeout=3.0)
    yield made
    made.close()


def answer(body: bytes = b"{}", status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def test_an_answer_comes_back_whole(client):
    with serving(answer(b'{"id": 1}', "201 Created", "ETag: W/1", "X-A: 1", "x-a: 2")) as server:
        response = client.request(
            "POST", server.url("/Users?x=1#top"), headers={"Authorization": "Bearer t"}, body=b"{}"
        )
        assert (response.status, response.json()) == (201, {"id": 1})
        assert response.header("ETag") == "W/1"
        assert response.header("X-A") == "1, 2"
        assert response.header("missing") is None
        head = server.requests[0].split(b"\r\n")
        assert head[0] == b"POST /Users?x=1 HTTP/1.1"
        assert f"Host: 127.0.0.1:{server.port}".encode() in head
        assert b"Authorization: Bearer t" in head
        assert b"Accept-Encoding: identity" in head
        assert server.requests[0].endswith(b"\r\n\r\n{}")


def test_a_connection_is_used_again(client):
    with serving(*[answer()] * 3) as server:
        for _ in range(3):
            assert client.request("GET", server.url()).status == 200
        assert server.connections == 1


def test_a_server_that_writes_head_and_body_apart_costs_no_delay(client):
    def in_pieces(peer: socket.socket) -> None:
        for number in range(25):
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
            peer.sendall(b"{}")
            if number < 24:
                Server._read(peer)

    with serving(in_pieces) as server:
        started = time.monotonic()
        for _ in range(25):
            assert client.request("GET", server.url()).body == b"{}"
        # Delayed acknowledgements would add 40 ms to each of them but the first few.
        assert time.monotonic() - started < 0.5
        assert server.connections == 1


def test_a_connection_the_server_closed_is_replaced(client):
    with serving(answer(b"", "200 OK", "Connection: close"), answer()) as server:
        client.request("POST", server.url())
        client.request("POST", server.url())
        assert server.connections == 2


def test_an_idle_connection_that_ended_is_noticed_before_a_post_is_risked(client):
    def answer_and_leave(peer: socket.socket) -> None:
        peer.sendall(answer())

    with serving(answer_and_leave, answer()) as server:
        client.request("POST", server.url())
        time.sleep(0.1)
        assert client.request("POST", server.url()).status == 200
        assert len(server.requests) == 2


def test_bytes_nobody_asked_for_end_a_connection(client):
    def answer_twice(peer: socket.socket) -> None:
        peer.sendall(answer(b"first") + answer(b"smuggled"))
        time.sleep(0.3)

    with serving(answer_twice, answer(b"second")) as server:
        assert client.request("GET", server.url()).body == b"first"
        assert client.request("GET", server.url()).body == b"second"


def test_a_redirect_is_an_answer_and_is_not_followed(client):
    with serving(answer(b"", "302 Found", "Location: http://169.254.169.254/"), answer()) as server:
        response = client.request("GET", server.url())
        assert (response.status, response.header("Location")) == (302, "http://169.254.169.254/")
        assert len(server.requests) == 1


def test_proxies_and_netrc_of_the_environment_are_ignored(client, monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with serving(answer()) as server:
        assert client.request("GET", server.url()).status == 200
        assert b"Authorization" not in server.requests[0]


def test_an_answer_above_the_limit_is_refused(client):
    def endless(peer: socket.socket) -> None:
        peer.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                peer.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        except OSError:
            pass

    with serving(answer(b"x" * 1001), endless, endless, answer(b"x" * 1000)) as server:
        for _ in range(2):
            with pytest.raises(TooLarge, match="1000 bytes"):
                client.request("GET", server.url(), max_response=1000)
        with pytest.raises(TooLarge):
            client.request("GET", server.url())
        assert len(client.request("GET", server.url(), max_response=1000).body) == 1000


def test_a_limit_of_nothing_takes_nothing(client):
    with serving(answer(b"x")) as server, pytest.raises(TooLarge):
        client.request("GET", server.url(), max_response=0)


@pytest.mark.parametrize(
    "half",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"not http at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70000 + b"\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n",
        answer(b"\x1f\x8b", "200 OK", "Content-Encoding: gzip"),
    ],
)
def test_a_broken_answer_is_no_answer(client, half):
    def write_and_leave(peer: socket.socket) -> None:
        peer.sendall(half)

    with serving(write_and_leave) as server, pytest.raises(BadResponse) as failure:
        client.request("POST", server.url("/?token=secret"), headers={"Authorization": "Bearer secret"}, body=b"secret")
    assert failure.value.sent
    assert "secret" not in str(failure.value)


def test_silence_is_a_failed_connection_that_may_have_been_heard(client):
    def leave(peer: socket.socket) -> None:
        pass

    with serving(leave) as server, pytest.raises(ConnectFailed) as failure:
        client.request("POST", server.url())
    assert failure.value.sent


def test_a_refused_connection_was_not_heard(client):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(ConnectFailed) as failure:
        client.request("POST", f"http://127.0.0.1:{port}/")
    assert not failure.value.sent


@pytest.mark.parametrize("beginning", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"])
def test_a_dripping_answer_ends_with_the_deadline(client, beginning):
    def drip(peer: socket.socket) -> None:
        peer.sendall(beginning)
        try:
            for _ in range(40):
                peer.sendall(b"x")
                time.sleep(0.05)
        except OSError:
            pass

    with serving(drip) as server:
        started = time.monotonic()
        with pytest.raises(Timeout):
            client.request("POST", server.url(), timeout=0.4)
        assert time.monotonic() - started < 1.0


def test_a_server_that_does_not_read_ends_with_the_deadline(client):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        started = time.monotonic()
        with pytest.raises(Timeout):
            client.request("POST", f"http://127.0.0.1:{deaf.getsockname()[1]}/", body=b"x" * 50_000_000, timeout=0.4)
        assert time.monotonic() - started < 1.5


def test_an_early_refusal_of_a_large_body_is_read(client):
    def refuse(peer: socket.socket) -> None:
        peer.sendall(answer(b"too much", "413 Content Too Large", "Connection: close"))

    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(1000)
                refuse(peer)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(1 << 20):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        assert client.request("POST", url, body=b"x" * 5_000_000).status == 413
        thread.join()


def test_a_get_is_tried_again_and_a_post_is_not(client):
    busy = answer(b"", "503 Service Unavailable")
    with serving(busy, busy, answer()) as server:
        assert client.request("GET", server.url()).status == 200
        assert len(server.requests) == 3
    with serving(busy, answer()) as server:
        assert client.request("POST", server.url()).status == 503
        assert len(server.requests) == 1


def test_retry_after_is_waited_for(client):
    with serving(answer(b"", "429 Too Many Requests", "Retry-After: 1"), answer()) as server:
        started = time.monotonic()
        assert client.request("GET", server.url()).status == 200
        assert 1.0 <= time.monotonic() - started < 2.5


def test_a_long_retry_after_is_handed_to_the_caller(client):
    with serving(answer(b"", "429 Too Many Requests", "Retry-After: 120"), answer()) as server:
        response = client.request("GET", server.url())
        assert (response.status, response.retry_after) == (429, 120.0)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("said", "seconds"),
    [(None, None), ("", None), ("7", 7.0), ("soon", None), ("-1", None), ("9" * 50, 86_400.0), ("\u0663", None)],
)
def test_retry_after_in_seconds(said, seconds):
    headers = {} if said is None else {"retry-after": said}
    assert Response(429, headers, b"").retry_after == seconds


def test_retry_after_as_a_date():
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=90)
    wait = Response(429, {"retry-after": format_datetime(soon, usegmt=True)}, b"").retry_after
    assert wait is not None and 85 < wait <= 90
    past = Response(429, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, b"").retry_after
    assert past == 0.0


@pytest.mark.parametrize("body", [b"", b"<html>", b"{", b"NaN", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_is_a_bad_response(body):
    with pytest.raises(BadResponse):
        Response(200, {}, body).json()


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "//127.0.0.1/",
        "127.0.0.1",
        "",
        "http://",
        "http:///path",
        "http://user:secret@127.0.0.1/",
        "http://@127.0.0.1/",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:x/",
        "http://[::1/",
        "http://[fe80::1%25eth0]/",
        "http://127.0.0.1/ x",
        "http://127.0.0.1/\r\nX: y",
        "http://127.0.0.1\\@evil.example/",
        "http://exämple.test/",
        "http://127.0.0.1/ä",
        "http://a,b/",
        "http://%31/",
    ],
)
def test_a_url_that_could_be_read_two_ways_is_refused(client, url):
    with pytest.raises(Blocked) as refusal:
        client.request("GET", url)
    assert "secret" not in str(refusal.value)


def test_http_is_refused_where_loopback_is_not_admitted():
    with closing(HttpClient(Egress())) as client, serving(answer()) as server:
        with pytest.raises(Blocked):
            client.request("GET", server.url())
        assert server.connections == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [("X", "secret\r\nY: z"), ("X", "secret\n"), ("X", "secret€"), ("X Y", "1"), ("", "1"), ("X:", "1")],
)
def test_a_header_that_would_split_the_request_is_refused_unquoted(client, name, value):
    with serving(answer()) as server:
        with pytest.raises(Blocked) as refusal:
            client.request("GET", server.url(), headers={name: value})
        assert "secret" not in str(refusal.value)
        assert server.connections == 0


def test_sixteen_connections_to_one_origin_and_no_more(client):
    going = threading.Barrier(17)

    def slow(peer: socket.socket) -> None:
        going.wait(5)
        peer.sendall(answer())

    with serving(*[slow] * 16, answer()) as server:
        statuses: list[int] = []
        threads = [
            threading.Thread(target=lambda: statuses.append(client.request("POST", server.url(), timeout=10).status))
            for _ in range(16)
        ]
        for thread in threads:
            thread.start()
        while len(server.requests) < 16:
            time.sleep(0.01)
        with pytest.raises(Timeout, match="busy"):
            client.request("POST", server.url(), timeout=0.2)
        going.wait(5)
        for thread in threads:
            thread.join()
        assert statuses == [200] * 16
        assert server.connections == 16


def test_a_fork_does_not_share_connections(client):
    with serving(answer(b"parent"), answer(b"again")) as server:
        client.request("GET", server.url())
        assert len(client._pools) == 1
        client._process = os.getpid() - 1
        assert client.request("GET", server.url()).body == b"again"
        assert server.connections == 2


@pytest.fixture(scope="module")
def authority() -> tuple[str, Callable[[str], ssl.SSLContext]]:
    """A certificate authority as PEM, and server contexts with certificates it signed."""
    now = datetime.datetime.now(datetime.UTC)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])

    def certificate(subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False)
        )

    usage = dict.fromkeys(
        ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"], False
    ) | dict.fromkeys(["encipher_only", "decipher_only"], False)
    ca = (
        certificate(ca_name, ca_key)
        .add_extension(x509.BasicConstraints(True, None), True)
        .add_extension(x509.KeyUsage(**usage, key_cert_sign=True, crl_sign=True), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), False)
        .sign(ca_key, hashes.SHA256())
    )

    def context_for(name: str, directory=None) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = (
            certificate(x509.Name([]), key)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), True)
            .sign(ca_key, hashes.SHA256())
        )
        pem = leaf.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        path = directory / f"{name}.pem"
        path.write_bytes(pem)
        context.load_cert_chain(path)
        return context

    return ca.public_bytes(serialization.Encoding.PEM).decode(), context_for


def by_name(host: str, port: int, *, type: int) -> list:
    return [(socket.AF_INET, type, 6, "", ("127.0.0.1", port))]


def test_tls_is_spoken_with_the_name_and_kept_alive(authority, tmp_path):
    ca, context_for = authority
    context = context_for("app.example", tmp_path)
    asked: list[str] = []
    context.sni_callback = lambda sock, name, _: asked.append(name)
    with (
        closing(HttpClient(Egress(loopback=True, resolve=by_name))) as client,
        serving(answer(), answer(), context=context) as server,
    ):
        url = server.url(scheme="https", host="app.example")
        for _ in range(2):
            assert client.request("POST", url, ca=ca).status == 200
        assert asked == ["app.example"]
        assert server.connections == 1
        assert f"Host: app.example:{server.port}".encode() in server.requests[0]


def test_a_certificate_for_another_name_is_refused(authority, tmp_path):
    ca, context_for = authority
    with (
        closing(HttpClient(Egress(loopback=True, resolve=by_name))) as client,
        serving(answer(), context=context_for("other.example", tmp_path)) as server,
    ):
        with pytest.raises(ConnectFailed, match="certificate is not accepted") as failure:
            client.request("POST", server.url(scheme="https", host="app.example"), ca=ca)
        assert not failure.value.sent
        assert server.requests == []


def test_a_certificate_of_an_unknown_authority_is_refused_whatever_another_call_trusted(authority, tmp_path):
    ca, context_for = authority
    with (
        closing(HttpClient(Egress(loopback=True, resolve=by_name))) as client,
        serving(answer(), context=context_for("app.example", tmp_path)) as server,
    ):
        url = server.url(scheme="https", host="app.example")
        assert client.request("POST", url, ca=ca).status == 200
        with pytest.raises(ConnectFailed, match="certificate is not accepted"):
            client.request("POST", url)


def test_an_authority_that_is_no_pem_is_refused(client):
    with pytest.raises(Blocked, match="PEM"):
        client.request("GET", "https://127.0.0.1:9/", ca="nonsense")


def test_plain_http_where_tls_is_expected_is_a_failed_connection(client):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(answer(b"", "400 Bad Request"))

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ConnectFailed, match="TLS"):
            client.request("POST", f"https://127.0.0.1:{server.getsockname()[1]}/")
        thread.join()


def test_a_silent_tls_handshake_ends_with_the_deadline():
    with (
        closing(HttpClient(Egress(loopback=True), connect_timeout=0.3)) as client,
        socket.create_server(("127.0.0.1", 0)) as silent,
    ):
        started = time.monotonic()
        with pytest.raises(Timeout, match="handshake"):
            client.request("POST", f"https://127.0.0.1:{silent.getsockname()[1]}/")
        assert time.monotonic() - started < 1.5


def test_a_dripping_answer_over_tls_ends_with_the_deadline(authority, tmp_path):
    ca, context_for = authority

    def drip(peer: socket.socket) -> None:
        try:
            for _ in range(40):
                peer.sendall(b"x")
                time.sleep(0.05)
        except OSError:
            pass

    with (
        closing(HttpClient(Egress(loopback=True, resolve=by_name))) as client,
        serving(drip, context=context_for("app.example", tmp_path)) as server,
    ):
        started = time.monotonic()
        with pytest.raises(Timeout):
            client.request("POST", server.url(scheme="https", host="app.example"), ca=ca, timeout=0.5)
        assert time.monotonic() - started < 1.2


def test_every_refusal_is_of_one_family():
    for kind in (Blocked, ConnectFailed, Timeout, TooLarge, BadResponse):
        assert issubclass(kind, OutboundError)
