"""The live OpenLDAP of the tests: its limits, its memberships, its rights."""

from __future__ import annotations

import ldap3
import pytest
from ldap3.core.exceptions import LDAPException, LDAPInvalidCredentialsResult

from tests.upstreams.directory import found
from tests.upstreams.slapd import GROUP_OF, HARD_LIMIT, PASSWORD, OpenLdap

pytestmark = pytest.mark.long

PEOPLE = "(objectClass=inetOrgPerson)"


def test_one_search_gives_a_thousand_and_pages_give_everybody(slapd: OpenLdap) -> None:
    connection = slapd.connect(*slapd.service)
    connection.search(slapd.base_dn, PEOPLE, attributes=["uid"], size_limit=HARD_LIMIT)
    assert connection.result["description"] == "sizeLimitExceeded" and len(found(connection)) == HARD_LIMIT
    assert len(slapd.raw_read(filter=PEOPLE)) == 2500
    connection.unbind()


def test_memberships_are_known_on_both_sides(slapd: OpenLdap) -> None:
    person = f"uid=user00000,{slapd.people}"
    (team,) = [attributes["memberOf"] for dn, attributes in slapd.raw_read(person) if dn == person]
    assert team == [f"cn=team0000,{slapd.groups}".encode()]
    newcomer = slapd.add_user("newcomer", title="Engineer")
    slapd.add_member(team[0].decode(), newcomer)
    newcomer = slapd.rename(newcomer, "latecomer")
    members = dict(slapd.raw_read(slapd.groups))[team[0].decode()]["member"]
    assert len(members) == GROUP_OF + 1 and newcomer.encode() in members
    slapd.delete(newcomer)
    assert len(dict(slapd.raw_read(slapd.groups))[team[0].decode()]["member"]) == GROUP_OF


def test_nobody_reads_passwords_and_only_people_of_the_directory_read(slapd: OpenLdap) -> None:
    person = f"uid=user00007,{slapd.people}"
    assert "userPassword" not in dict(slapd.raw_read(person))[person]
    slapd.connect(person, f"{PASSWORD}7").unbind()
    with pytest.raises(LDAPInvalidCredentialsResult):
        slapd.connect(person, "wrong")
    nobody = ldap3.Connection(ldap3.Server(slapd.starttls_url, get_info=ldap3.NONE), auto_bind=True)
    nobody.search(slapd.base_dn, PEOPLE)
    assert found(nobody) == []
    nobody.unbind()


def test_passwords_do_not_travel_in_the_clear(slapd: OpenLdap) -> None:
    server = ldap3.Server(slapd.starttls_url, get_info=ldap3.NONE)
    plain = ldap3.Connection(server, *slapd.service)
    assert not plain.bind() and plain.result["description"] == "confidentialityRequired"
    plain.unbind()
    later = ldap3.Connection(server, *slapd.service, auto_bind=ldap3.AUTO_BIND_TLS_BEFORE_BIND)
    assert later.bound
    later.unbind()


def test_it_comes_back_after_a_kill(slapd: OpenLdap) -> None:
    slapd.kill()
    with pytest.raises(LDAPException):
        slapd.admin()
    slapd.start()
    assert len(slapd.raw_read(filter=PEOPLE)) == 2500
