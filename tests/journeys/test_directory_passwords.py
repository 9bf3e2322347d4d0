"""Passwords of a live Active Directory, and of OpenLDAP, on the real sign-in page.

Each that is refused stands beside one that is let in, mostly the same person before or after. What a stranger sees of a
wrong, an unknown and a locked account is the same.
"""

from __future__ import annotations

import logging
import re
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from ldap3.core.exceptions import LDAPException
from werkzeug.test import TestResponse

from broker import connections, patience
from broker.context import acting, system
from broker.directory import Directory
from broker.models import Attempt, IdentityProvider, User
from tests.broker.sign_in.stage import Browser, Stage, acme, issuer, location
from tests.upstreams.samba import DEBIAN_PYTHON, ActiveDirectory, filetime
from tests.upstreams.slapd import PASSWORD as OPENLDAP_PASSWORD
from tests.upstreams.slapd import OpenLdap

pytestmark = pytest.mark.long

__all__ = ["acme", "issuer"]

PASSWORD = "Gr\u00fcn-und.gelb7"
LOCKS_AFTER = 4
NEVER_EXPIRES = 66048
"""`userAccountControl` of a normal account whose password does not expire."""


@pytest.fixture(scope="module")
def doors(active_directory: ActiveDirectory) -> str:
    """The unit of the people of these tests."""
    return active_directory.add_ou("Doors")


@pytest.fixture
def ad(acme: Stage, active_directory: ActiveDirectory, doors: str) -> Iterator[str]:
    """acme's people sign in with their passwords of the Active Directory; the provider's id."""
    user, password = active_directory.service("sync")
    config = {
        "source": "ldap",
        "servers": [active_directory.url],
        "ca_certificates": active_directory.ca,
        "bind_dn": user,
        "bind_password": password,
        "base_dns": [doors],
    }
    yield acme.provider("Acme AD", kind="ldap", config=config, jit={"enabled": False})


class Person:
    """One account of the Active Directory, and what the sign-in page says to it."""

    def __init__(self, stage: Stage, directory: ActiveDirectory, provider_id: str, name: str, dn: str) -> None:
        self.stage, self.directory, self.provider_id, self.name, self.dn = stage, directory, provider_id, name, dn

    def shows(self, password: str = PASSWORD, browser: Browser | None = None, name: str = "") -> TestResponse:
        return show(self.stage, name or self.name, password, browser)

    def is_let_in(self, **options: Any) -> bool:
        return self.shows(**options).status_code == 303


@pytest.fixture
def somebody(acme: Stage, active_directory: ActiveDirectory, doors: str, ad: str) -> Iterator[Person]:
    """Somebody who is there, has been read, and may sign in."""
    name = f"p{time.monotonic_ns() % 10**12}"
    dn = active_directory.add_user(name, doors, password=PASSWORD, mail=f"{name}@acme.test")
    read(acme, ad)
    yield Person(acme, active_directory, ad, name, dn)
    active_directory.delete(dn)


def read(stage: Stage, provider_id: str) -> None:
    """A full pass."""
    with stage.unit() as session:
        row = session.get_one(IdentityProvider, (stage.scope.tenant_id, provider_id))
        provider = connections.provider_of(row)
    with stage.app.app_context():
        feed = connections.live_feed_of(provider)
        assert feed is not None
        pages = list(feed.changes_since(None))
    with stage.unit() as session, acting(system("sync")):
        via = session.get_one(IdentityProvider, (stage.scope.tenant_id, provider_id))
        for page in pages:
            Directory().apply(page.changes, via, 1)


def show(stage: Stage, name: str, password: str, browser: Browser | None = None) -> TestResponse:
    """The page's answer to a name and a password, in a new browser unless one is given."""
    browser = browser or stage.browser()
    browser.client.delete_cookie(f"sk-{stage.slug}")
    page = browser.get(location(browser.get(f"/t/{stage.slug}/sign-in")))
    return browser.submit(page, username=name, password=password)


def told(answer: TestResponse) -> tuple[int, str]:
    """What an answer tells, without what differs between any two."""
    text = re.sub(r'value="[^"]*"|flow=[^"]*', "", answer.get_data(as_text=True))
    return answer.status_code, text


def allow_more(stage: Stage) -> None:
    """Forget what was counted here."""
    with stage.unit() as session:
        session.execute(sa.delete(Attempt))


def test_the_right_password_opens_by_every_name_of_the_person(somebody: Person) -> None:
    domain = somebody.directory.domain
    for name in (somebody.name, somebody.name.upper(), f"{somebody.name}@{domain}", f"{somebody.name}@acme.test"):
        browser = somebody.stage.browser()
        assert location(somebody.shows(browser=browser, name=name)) == f"/t/{somebody.stage.slug}/apps"
        live = somebody.stage.live(browser)
        assert live is not None and (live.provider_id, live.amr) == (somebody.provider_id, ("pwd",))
    assert {event.changed["user_id"] for event in somebody.stage.events("sign_in.succeeded")} == {live.user_id}


@pytest.mark.parametrize(
    "password", ["wrong", PASSWORD + " ", PASSWORD.lower(), "*", PASSWORD.encode().decode("latin-1")]
)
def test_a_wrong_password_opens_nothing_and_says_what_an_unknown_name_is_told(somebody: Person, password: str) -> None:
    wrong, unknown = somebody.shows(password), somebody.shows(name="nobody.at.all")
    assert told(wrong) == told(unknown) and wrong.status_code == 403
    assert somebody.stage.sessions() == [] and somebody.stage.reasons() == []
    assert somebody.is_let_in()


@pytest.mark.parametrize("name", ["*", "p*", ")(objectClass=*", "a)(|(cn=*", "\\2a", "CN=x,DC=y", "#", " "])
def test_a_name_that_would_mean_something_in_a_filter_is_a_name_nobody_has(somebody: Person, name: str) -> None:
    assert show(somebody.stage, name, PASSWORD).status_code in (303, 403)
    assert somebody.stage.sessions() == []


def test_an_empty_password_is_no_password(somebody: Person) -> None:
    answer = somebody.shows("")
    assert answer.status_code == 303 and "/sign-in?flow=" in location(answer), "the page asks again"
    assert somebody.stage.sessions() == [] and somebody.is_let_in()


def refused(person: Person, title: str, reason: str) -> None:
    """With the right password he is told this; with a wrong one he is told nothing."""
    stage = person.stage
    before, nothing = len(stage.events("sign_in.refused")), told(person.shows(name="nobody.at.all"))
    answer = person.shows()
    assert answer.status_code == 403 and title in answer.get_data(as_text=True), answer.get_data(as_text=True)
    (event,) = stage.events("sign_in.refused")[before:]
    assert event.changed["reason"] == reason and event.resource_id == person.provider_id
    assert event.changed["detail"].startswith(person.name) and PASSWORD not in str(event.changed)
    assert told(person.shows("wrong")) == nothing
    assert stage.live(stage.browser()) is None


def test_a_disabled_account(somebody: Person) -> None:
    assert somebody.is_let_in()
    somebody.directory.disable(somebody.dn)
    refused(somebody, "Your account is disabled", "account_disabled")
    somebody.directory.enable(somebody.dn)
    assert somebody.is_let_in()


def test_an_expired_account(somebody: Person) -> None:
    somebody.directory.expire(somebody.dn, datetime.now(UTC) + timedelta(days=1))
    assert somebody.is_let_in(), "tomorrow is not today"
    somebody.directory.expire(somebody.dn)
    refused(somebody, "Your account has expired", "account_expired")


def test_a_password_that_must_be_changed(somebody: Person) -> None:
    assert somebody.is_let_in()
    somebody.directory.set(somebody.dn, pwdLastSet=0)
    refused(somebody, "Choose a password of your own first", "password_must_change")
    somebody.directory.set_password(somebody.dn, PASSWORD)
    assert somebody.is_let_in()


def test_a_password_that_has_expired(somebody: Person, doors: str) -> None:
    directory = somebody.directory
    twin = directory.add_user(f"{somebody.name}x", doors, password=PASSWORD, userAccountControl=NEVER_EXPIRES)
    read(somebody.stage, somebody.provider_id)
    before = directory.read(directory.base_dn, "maxPwdAge")["maxPwdAge"]
    service = directory.search("(sAMAccountName=svc-sync)")[0][0]
    directory.set(service, userAccountControl=NEVER_EXPIRES)
    directory.set(directory.base_dn, maxPwdAge=-2 * 86_400 * 10_000_000)
    try:
        for dn in (somebody.dn, twin):
            _grow_old(directory, dn, datetime.now(UTC) - timedelta(days=3))
        refused(somebody, "Your password has expired", "password_expired")
        assert show(somebody.stage, f"{somebody.name}x", PASSWORD).status_code == 303, "his never expires"
    finally:
        directory.set(directory.base_dn, maxPwdAge=before)
    assert somebody.is_let_in()


def _grow_old(directory: ActiveDirectory, dn: str, when: datetime) -> None:
    """The password was set then. Nobody may say so over LDAP: it is written below Samba, into its database."""
    (store,) = directory.folder.glob("private/sam.ldb.d/DC=AD*.ldb")
    script = (
        "import ldb, sys\n"
        "message = ldb.Message(ldb.Dn(store := ldb.Ldb(sys.argv[1]), sys.argv[2]))\n"
        "message['pwdLastSet'] = ldb.MessageElement(sys.argv[3], ldb.FLAG_MOD_REPLACE, 'pwdLastSet')\n"
        "store.modify(message)\n"
    )
    command = [DEBIAN_PYTHON, "-I", "-c", script, f"tdb://{store}", dn, str(filetime(when))]
    subprocess.run(command, check=True, timeout=30)


def test_other_hours(somebody: Person) -> None:
    somebody.directory.set(somebody.dn, logonHours=b"\xff" * 21)
    assert somebody.is_let_in()
    somebody.directory.set(somebody.dn, logonHours=b"\x00" * 21)
    refused(somebody, "You cannot sign in at this time", "not_at_this_time")


@pytest.fixture
def locking(active_directory: ActiveDirectory) -> Iterator[None]:
    active_directory.lock_out_after(LOCKS_AFTER)
    yield
    active_directory.lock_out_after(0)


def lock(person: Person) -> None:
    """By guessing, elsewhere than here."""
    for _ in range(LOCKS_AFTER):
        with pytest.raises(LDAPException):
            person.directory.connect(f"{person.name}@{person.directory.domain}", "a guess")
    assert int(person.directory.read(person.dn, "lockoutTime")["lockoutTime"][0]) > 0


@pytest.mark.usefixtures("locking")
def test_a_locked_account_looks_to_strangers_like_any_wrong_password(somebody: Person) -> None:
    stage, known = somebody.stage, somebody.stage.browser()
    assert somebody.is_let_in(browser=known)
    nothing = told(somebody.shows(name="nobody.at.all"))
    lock(somebody)
    for password in (PASSWORD, "wrong"):
        assert told(somebody.shows(password)) == nothing
    assert stage.reasons() == ["account_locked"] * 2
    answer = somebody.shows(browser=known)
    assert answer.status_code == 403 and "Your account is locked" in answer.get_data(as_text=True)
    somebody.directory.set(somebody.dn, lockoutTime=0)
    allow_more(stage)
    assert somebody.is_let_in()


@pytest.mark.usefixtures("locking")
def test_nobody_is_locked_out_of_the_directory_by_guesses_here(somebody: Person) -> None:
    for _ in range(3 * LOCKS_AFTER):
        allow_more(somebody.stage)
        assert somebody.shows("a guess").status_code == 403
    somebody.directory.connect(f"{somebody.name}@{somebody.directory.domain}", PASSWORD).unbind()


def test_how_long_it_takes_does_not_tell_unknown_wrong_and_locked_apart(
    somebody: Person, active_directory: ActiveDirectory, doors: str
) -> None:
    """A coarse look: a difference of a half would be seen by anybody."""
    stage = somebody.stage
    locked = f"{somebody.name}l"
    active_directory.add_user(locked, doors, password=PASSWORD)
    read(stage, somebody.provider_id)
    active_directory.lock_out_after(40)
    try:
        for _ in range(40):
            with pytest.raises(LDAPException):
                active_directory.connect(f"{locked}@{active_directory.domain}", "a guess")
        taken: dict[str, list[float]] = {name: [] for name in (somebody.name, locked, "nobody.at.all")}
        for _ in range(12):
            for name, seconds in taken.items():
                allow_more(stage)
                browser = stage.browser()
                page = browser.get(location(browser.get(f"/t/{stage.slug}/sign-in")))
                began = time.perf_counter()
                assert browser.submit(page, username=name, password="wrong").status_code == 403
                seconds.append(time.perf_counter() - began)
    finally:
        active_directory.lock_out_after(0)
    assert set(stage.reasons()) == {"account_locked"}
    wrong, of_locked, of_unknown = (statistics.median(seconds) for seconds in taken.values())
    print(f"medians: wrong {wrong:.4f} s, locked {of_locked:.4f} s, unknown {of_unknown:.4f} s")
    for other in (of_locked, of_unknown):
        assert abs(other - wrong) < 0.5 * wrong, taken


def test_who_was_not_read_is_not_known_until_a_pass_brings_him(somebody: Person, doors: str) -> None:
    directory, name = somebody.directory, f"{somebody.name}n"
    directory.add_user(name, doors, password=PASSWORD)
    answer = show(somebody.stage, name, PASSWORD)
    assert answer.status_code == 403 and "You are not known here" in answer.get_data(as_text=True)
    assert somebody.stage.reasons() == ["not_known"]
    read(somebody.stage, somebody.provider_id)
    assert show(somebody.stage, name, PASSWORD).status_code == 303


def test_a_newcomer_becomes_what_a_pass_makes_of_him(somebody: Person, doors: str) -> None:
    stage, directory, name = somebody.stage, somebody.directory, f"{somebody.name}j"
    directory.add_user(name, doors, password=PASSWORD, title="Astronaut", manager=somebody.dn)
    stage.change_provider(somebody.provider_id, jit={"enabled": True})
    assert show(stage, name, PASSWORD).status_code == 303

    def kept() -> tuple[Any, ...]:
        with stage.unit() as session:
            wanted = sa.select(User.id, User.version, User.document, User.manager_id)
            return tuple(session.execute(wanted.where(User.name == f"{name}@{directory.domain}")).one())

    first = kept()
    assert b"Astronaut" in first[2] and first[3] is not None
    read(stage, somebody.provider_id)
    assert kept() == first


def test_whom_the_last_pass_found_disabled_is_out_before_he_is_disabled_here(somebody: Person) -> None:
    somebody.directory.disable(somebody.dn)
    read(somebody.stage, somebody.provider_id)
    somebody.directory.enable(somebody.dn)
    with somebody.stage.unit() as session:
        assert session.scalar(sa.select(User.active).where(User.name.startswith(somebody.name)))
    answer = somebody.shows()
    assert answer.status_code == 403 and "Your account is disabled" in answer.get_data(as_text=True)
    assert somebody.stage.reasons() == ["user_disabled"]
    read(somebody.stage, somebody.provider_id)
    assert somebody.is_let_in()


def test_the_password_is_in_no_log(somebody: Person, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("broker").debug("what is logged is seen here")
    assert somebody.is_let_in()
    somebody.directory.set(somebody.dn, pwdLastSet=0)
    assert not somebody.is_let_in()
    assert show(somebody.stage, "nobody.at.all", PASSWORD).status_code != 303
    assert "is seen here" in caplog.text and PASSWORD not in caplog.text


@pytest.fixture
def openldap(acme: Stage, slapd: OpenLdap) -> str:
    name, password = slapd.service
    config = {
        "source": "ldap",
        "servers": [slapd.url],
        "ca_certificates": slapd.ca,
        "bind_dn": name,
        "bind_password": password,
        "base_dns": [slapd.people],
        "user_filter": "(employeeNumber=7)",
    }
    provider_id = acme.provider("Acme LDAP", kind="ldap", config=config, jit={"enabled": False})
    read(acme, provider_id)
    return provider_id


@pytest.mark.usefixtures("openldap")
def test_a_password_of_openldap(acme: Stage) -> None:
    right, nothing = f"{OPENLDAP_PASSWORD}7", told(show(acme, "nobody.at.all", "wrong"))
    for name in ("user00007", "user00007@acme.test"):
        assert show(acme, name, right).status_code == 303
    assert told(show(acme, "user00007", "wrong")) == nothing
    assert told(show(acme, "user00008", f"{OPENLDAP_PASSWORD}8")) == nothing, "who is out of what is read is nobody"
    assert "/sign-in?flow=" in location(show(acme, "user00007", ""))


@pytest.mark.usefixtures("openldap")
def test_a_directory_that_falls_silent_is_told_in_seconds_and_keeps_nobody_out_when_it_is_back(
    acme: Stage, slapd: OpenLdap, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = f"{OPENLDAP_PASSWORD}7"
    assert show(acme, "user00007", right).status_code == 303
    assert slapd._process is not None
    slapd._process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        answer = show(acme, "user00007", right)
        first = time.monotonic() - began
        assert answer.status_code == 503 and "Acme LDAP" in answer.get_data(as_text=True)
        assert first < patience.PATIENCE + 2
        began = time.monotonic()
        answers = [show(acme, "user00007", "wrong").status_code for _ in range(6)]
        assert answers[:4] == [503] * 4 and 429 in answers[4:], "no password of ours may be guessed at meanwhile"
        assert time.monotonic() - began < 3 * patience.PATIENCE, "it is not asked again for a while"
    finally:
        slapd._process.send_signal(signal.SIGCONT)
    monkeypatch.setattr(patience.time, "monotonic", lambda beyond=time.monotonic: beyond() + patience.REMEMBERED)
    assert show(acme, "user00007", right).status_code == 303
    assert set(acme.reasons()) == {"upstream_unavailable"}
