"""The sign-in page of a tenant whose people have their passwords at a live Active Directory, in a real browser."""

from __future__ import annotations

import pytest

from tests.parties.conftest import Open
from tests.parties.house import House
from tests.upstreams.samba import ActiveDirectory

pytestmark = pytest.mark.long

PASSWORD = "Gr\u00fcn-und.gelb7"


def test_a_person_is_refused_told_why_and_let_in(
    house: House, active_directory: ActiveDirectory, browser: Open
) -> None:
    ou = active_directory.add_ou("Browsers")
    ann = active_directory.add_user("ann.browser", ou, password=PASSWORD, displayName="Ann Browser")
    user, password = active_directory.service("sync")
    acme = house.tenant("acme")
    config = {
        "source": "ldap",
        "servers": [active_directory.url],
        "ca_certificates": active_directory.ca,
        "bind_dn": user,
        "bind_password": password,
        "base_dns": [ou],
    }
    made = {"kind": "ldap", "name": "Acme AD", "sign_in": True, "jit": {"enabled": True}, "config": config}
    acme.admin.post("/identity-providers", made)
    with browser() as visitor:
        assert visitor.goto(f"{acme.pages}/sign-in") == 200
        assert visitor.look("directory") == []
        visitor.submit(username="ann.browser", password="wrong")
        visitor.wait("text=User name or password is wrong")
        assert visitor.look("directory, wrong") == []
        active_directory.set(ann, pwdLastSet=0)
        visitor.submit(username="ann.browser", password=PASSWORD)
        visitor.wait("text=Choose a password of your own first")
        assert visitor.look("directory, must change") == []
        active_directory.set_password(ann, PASSWORD)
        visitor.click('main a[href*="sign-in"]')
        assert visitor.asks("password") == "password" and visitor.text().count("has to be changed") == 1
        visitor.submit(username="ann.browser", password=PASSWORD)
        visitor.arrive(f"{acme.pages}/apps")
        assert "Ann Browser" in visitor.text()
