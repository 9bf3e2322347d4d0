"""A domain is verified by what its name servers say: real packets from a name server on loopback."""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import dns.flags
import dns.message
import dns.rcode
import dns.resolver
import dns.rrset
import pytest

from broker.db import unit
from broker.models import Domain, Event
from broker.registry import domains
from tests.casting import Cast, code

PATH = "/domains"


@dataclass
class NameServer:
    """Answers TXT questions over UDP: the records of `zone`, the code of `broken`, silence for `mute`."""

    zone: dict[str, list[list[str]]] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    mute: set[str] = field(default_factory=set)

    def answer(self, packet: bytes) -> bytes | None:
        question = dns.message.from_wire(packet)
        name = question.question[0].name.to_text(omit_final_dot=True)
        if name in self.mute:
            return None
        reply = dns.message.make_response(question)
        reply.flags |= dns.flags.RA
        if name in self.broken:
            reply.set_rcode(dns.rcode.SERVFAIL)
        elif name not in self.zone:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        elif records := self.zone[name]:
            texts = [" ".join(f'"{part}"' for part in record) for record in records]
            reply.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", "TXT", *texts))
        return reply.to_wire()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    served = NameServer()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]

        def serve() -> None:
            while True:
                packet, asker = listening.recvfrom(4_096)
                if not packet:
                    return
                if (reply := served.answer(packet)) is not None:
                    listening.sendto(reply, asker)

        def resolver() -> dns.resolver.Resolver:
            made = dns.resolver.Resolver(configure=False)
            made.nameservers, made.port = ["127.0.0.1"], port
            return made

        monkeypatch.setattr(domains, "resolver", resolver)
        monkeypatch.setattr(domains, "DNS_SECONDS", 0.5)
        thread = threading.Thread(target=serve)
        thread.start()
        yield served
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closing:
            closing.sendto(b"", ("127.0.0.1", port))
        thread.join()


def name() -> str:
    return f"d{secrets.token_hex(6)}.example"


def claim(cast: Cast, domain: str) -> tuple[str, str]:
    made = cast.acme_admin.post(PATH, {"name": domain}).get_json()
    return f"{PATH}/{made['id']}", made["token"]


def test_the_published_token_verifies_a_domain(cast: Cast, server: NameServer) -> None:
    domain = name()
    path, token = claim(cast, domain)
    server.zone[domain] = [["v=spf1 -all"], [token[:20], token[20:]]]
    verified = cast.acme_admin.post(f"{path}/verify")
    assert verified.status_code == 200 and verified.get_json()["verified"] and verified.get_json()["verified_at"]
    assert cast.acme_admin.post(f"{path}/verify").get_json() == verified.get_json()
    with unit(cast.acme) as session:
        [event] = session.query(Event).filter(Event.name == "domain.verified")
        assert event.changed == {"by_hand": False} and event.actor_id == cast.acme_admin.user_id
        assert session.query(Domain).one().verified_by == "dns"


def test_a_domain_that_says_something_else_is_not_verified(cast: Cast, server: NameServer) -> None:
    domain = name()
    path, token = claim(cast, domain)
    assert code(cast.acme_admin.post(f"{path}/verify")) == (409, "conflict")
    for records in ([], [["v=spf1 -all"]], [[token + "x"]], [["x" + token]], [[token.upper()]]):
        server.zone[domain] = records
        refused = cast.acme_admin.post(f"{path}/verify")
        assert code(refused) == (409, "conflict") and token in refused.get_json()["detail"]
    assert not cast.acme_admin.get(path).get_json()["verified"]
    server.zone[domain] = [[token]]
    assert cast.acme_admin.post(f"{path}/verify").status_code == 200


def test_a_name_server_that_fails_or_is_silent_proves_nothing(cast: Cast, server: NameServer) -> None:
    domain = name()
    path, token = claim(cast, domain)
    server.zone[domain] = [[token]]
    for trouble in (server.broken, server.mute):
        trouble.add(domain)
        refused = cast.acme_admin.post(f"{path}/verify")
        assert code(refused) == (503, "upstream_unavailable") and refused.headers["Retry-After"]
        trouble.clear()
    assert cast.acme_admin.post(f"{path}/verify").status_code == 200


def test_a_verified_domain_stays_so_when_its_record_is_gone(cast: Cast, server: NameServer) -> None:
    domain = name()
    path, token = claim(cast, domain)
    server.zone[domain] = [[token]]
    cast.acme_admin.post(f"{path}/verify")
    del server.zone[domain]
    assert code(cast.acme_admin.post(f"{path}/verify")) == (409, "conflict")
    assert cast.acme_admin.get(path).get_json()["verified"]


def test_one_tenants_token_is_no_others_and_a_domain_is_verified_for_one(cast: Cast, server: NameServer) -> None:
    domain = name()
    path, token = claim(cast, domain)
    theirs = cast.globex_admin.post(PATH, {"name": domain}).get_json()
    server.zone[domain] = [[token]]
    assert code(cast.globex_admin.post(f"{PATH}/{theirs['id']}/verify")) == (409, "conflict")
    assert cast.acme_admin.post(f"{path}/verify").status_code == 200
    server.zone[domain] = [[token], [theirs["token"]]]
    refused = cast.globex_admin.post(f"{PATH}/{theirs['id']}/verify")
    assert code(refused) == (409, "conflict") and "Another tenant" in refused.get_json()["detail"]
    assert cast.acme_admin.delete(path).status_code == 204
    assert cast.globex_admin.post(f"{PATH}/{theirs['id']}/verify").status_code == 200


def test_another_writing_of_a_name_is_the_same_domain(cast: Cast, server: NameServer) -> None:
    label = f"b\u00fccher{secrets.token_hex(4)}"
    path, token = claim(cast, f"{label.upper()}.EXAMPLE.")
    ascii_name = cast.acme_admin.get(path).get_json()["name"]
    assert ascii_name.startswith("xn--") and ascii_name == ascii_name.lower()
    server.zone[ascii_name] = [[token]]
    assert cast.acme_admin.post(f"{path}/verify").get_json()["verified"]
    [found] = cast.acme_admin.get(f"{PATH}?name={label}.example").get_json()["items"]
    assert found["name"] == ascii_name
    refused = cast.acme_admin.post(PATH, {"name": "stra\u00dfe.example"})
    assert code(refused) == (422, "validation_failed")


def test_strangers_verify_nothing(cast: Cast, server: NameServer) -> None:
    domain = name()
    path, token = claim(cast, domain)
    server.zone[domain] = [[token]]
    for caller in (cast.globex_admin, cast.person):
        assert code(caller.post(f"{path}/verify")) == (404, "not_found")
    assert code(cast.nobody.post(f"{path}/verify")) == (401, "authentication_required")
