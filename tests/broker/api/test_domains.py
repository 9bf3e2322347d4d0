"""Domains: claimed by a tenant, verified from above, one tenant each."""

from __future__ import annotations

import secrets

import pytest

from broker.db import unit
from broker.models import Event
from tests.casting import Cast, code

PATH = "/domains"


def name() -> str:
    return f"d{secrets.token_hex(6)}.example"


def test_a_domain_is_claimed_and_given_up(cast: Cast) -> None:
    made = cast.acme_admin.post(PATH, {"name": "Bücher.Example."}).get_json()
    assert made["name"] == "xn--bcher-kva.example" and not made["verified"]
    assert made["token"].startswith("scaikey-domain-verification=")
    assert code(cast.acme_admin.post(PATH, {"name": "bücher.example"})) == (409, "conflict")
    assert cast.globex_admin.post(PATH, {"name": "bücher.example"}).status_code == 201, "a claim proves nothing"
    assert cast.acme_admin.delete(f"{PATH}/{made['id']}").status_code == 204
    assert cast.acme_admin.get(PATH).get_json()["items"] == []


@pytest.mark.parametrize("wrong", ["localhost", "10.0.0.1", "*.example.com", "a..b", "-a.example", "a b.example", ".x"])
def test_what_is_no_domain_is_refused(cast: Cast, wrong: str) -> None:
    assert code(cast.acme_admin.post(PATH, {"name": wrong})) == (422, "validation_failed")


def test_only_those_above_verify_and_only_for_one_tenant(cast: Cast) -> None:
    domain = name()
    mine = cast.acme_admin.post(PATH, {"name": domain}).get_json()["id"]
    theirs = cast.globex_admin.post(PATH, {"name": domain}).get_json()["id"]
    assert code(cast.acme_admin.patch(f"{PATH}/{mine}", {"verified": True})) == (403, "access_denied")
    assert code(cast.acme_admin.post(PATH, {"name": name(), "verified": True})) == (403, "access_denied")
    verified = cast.partner_admin.at(cast.acme).patch(f"{PATH}/{mine}", {"verified": True})
    assert verified.get_json()["verified"] and verified.get_json()["verified_at"]
    refused = cast.partner_admin.at(cast.globex).patch(f"{PATH}/{theirs}", {"verified": True})
    assert code(refused) == (409, "conflict")
    with unit(cast.acme) as session:
        [event] = session.query(Event).filter(Event.name == "domain.verified")
        assert event.actor_id == cast.partner_admin.user_id and event.changed == {"by_hand": True}
    assert cast.super_admin.at(cast.acme).patch(f"{PATH}/{mine}", {"verified": False}).status_code == 200
    assert cast.partner_admin.at(cast.globex).patch(f"{PATH}/{theirs}", {"verified": True}).status_code == 200
    assert cast.super_admin.at(cast.acme).post(PATH, {"name": name(), "verified": True}).get_json()["verified"]


def test_strangers_see_no_domain(cast: Cast) -> None:
    path = f"{PATH}/{cast.acme_admin.post(PATH, {'name': name()}).get_json()['id']}"
    assert cast.acme_admin.get(path).status_code == 200
    for caller in (cast.globex_admin, cast.person):
        assert code(caller.get(path)) == (404, "not_found")
        assert code(caller.delete(path)) == (404, "not_found")
    assert code(cast.person.patch(path, {"verified": True})) == (404, "not_found")
    elsewhere = cast.partner_admin.at(cast.globex).patch(path, {"verified": True})
    assert code(elsewhere) == (404, "not_found")
