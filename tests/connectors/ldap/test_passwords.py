"""A name and a password tried at the directory: who it is, why not, and nothing that helps a stranger."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from connectors.ldap import session as sessions
from connectors.ldap.passwords import LockOut
from connectors.ldap.wire import Answer, Wire
from connectors.port import PASSWORD_REFUSALS, Misconfigured, Refused
from tests.connectors.ldap.live import connect, everything
from tests.upstreams.samba import ActiveDirectory, filetime
from tests.upstreams.slapd import PASSWORD as SLAPD_PASSWORD
from tests.upstreams.slapd import OpenLdap, openldap

RIGHT = "R1ght-Pässword"


@pytest.fixture(scope="module")
def small() -> Iterator[OpenLdap]:
    with openldap(20) as running:
        yield running


@pytest.fixture
def person(active_directory: ActiveDirectory) -> tuple[str, str]:
    """The account name and the distinguished name of somebody with the right password."""
    name = f"p{secrets.token_hex(4)}"
    dn = active_directory.add_user(name, password=RIGHT, mail=f"{name}@mail.test", displayName="Ann")
    return name, dn


@pytest.fixture
def locking(active_directory: ActiveDirectory) -> Iterator[ActiveDirectory]:
    active_directory.lock_out_after(4)
    yield active_directory
    active_directory.lock_out_after(0)


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who was signed in as, in order."""
    seen: list[str] = []
    bind = sessions.Session.bind

    def watched(self: sessions.Session, name: str, password: str) -> Any:
        seen.append(name)
        return bind(self, name, password)

    monkeypatch.setattr(sessions.Session, "bind", watched)
    return seen


def wrong_passwords(directory: ActiveDirectory, dn: str) -> int:
    return int(directory.read(dn, "badPwdCount")["badPwdCount"][0])


@pytest.mark.parametrize("written", ["{}", "{}@ad.acme.test", "{}@mail.test", " {} "])
def test_the_right_password_tells_who_it_is(
    active_directory: ActiveDirectory, person: tuple[str, str], written: str
) -> None:
    feed = connect(active_directory, base_dns=[active_directory.people])
    identity = feed.check_password(written.format(person[0].upper()), RIGHT)
    assert identity is not None
    assert (identity.name, identity.amr) == (f"{person[0]}@{active_directory.domain}", ("pwd",))
    (record,) = feed.records([identity.key])
    assert everything(feed)[identity.key] == record
    quiet = {"lastLogon", "logonCount", "lastLogonTimestamp", "uSNChanged", "whenChanged"}
    before, after = (
        {name: values for name, values in said.items() if name not in quiet}
        for said in (identity.attributes, record.attributes)
    )
    assert before == after


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("{}", "wrong"),
        ("{}", RIGHT.upper()),
        ("{}", f"{RIGHT} "),
        ("{}", ""),
        ("", RIGHT),
        ("*", RIGHT),
        ("{}*", RIGHT),
        ("{})(objectClass=*", RIGHT),
        ("x)(|(cn=*", RIGHT),
        ("nobody", RIGHT),
        ("\x00", RIGHT),
        ("{}\x00", RIGHT),
        ("ü" * 300, RIGHT),
        ("administrator@elsewhere.test", RIGHT),
    ],
)
def test_a_name_nobody_has_and_a_wrong_password_are_the_same(
    active_directory: ActiveDirectory, person: tuple[str, str], name: str, password: str
) -> None:
    assert connect(active_directory).check_password(name.replace("{}", person[0]), password) is None


def test_as_much_is_asked_for_a_name_nobody_has(
    active_directory: ActiveDirectory, person: tuple[str, str], bound: list[str]
) -> None:
    feed = connect(active_directory)
    service = active_directory.service("dirsync")[0]
    assert feed.check_password("nobody", "x") is None
    assert feed.check_password(person[0], "x") is None
    (first, stranger, second, known) = bound
    assert (first, second, known) == (service, service, person[1])
    assert stranger.endswith(active_directory.base_dn)
    assert active_directory.search("(cn=nobody)") == []


def test_nobody_is_asked_about_an_empty_password(active_directory: ActiveDirectory, bound: list[str]) -> None:
    assert connect(active_directory).check_password("user0001", "") is None
    assert bound == []


def test_two_of_one_name_are_nobody(active_directory: ActiveDirectory, person: tuple[str, str]) -> None:
    other = active_directory.add_user(f"q{secrets.token_hex(4)}", password=RIGHT, mail=f"{person[0]}@mail.test")
    feed = connect(active_directory)
    assert feed.check_password(f"{person[0]}@mail.test", RIGHT) is None
    active_directory.delete(other)
    assert feed.check_password(f"{person[0]}@mail.test", RIGHT) is not None


def test_only_those_who_are_read_sign_in(active_directory: ActiveDirectory, person: tuple[str, str]) -> None:
    name, dn = person
    assert connect(active_directory, base_dns=[active_directory.groups]).check_password(name, RIGHT) is None
    assert connect(active_directory, user_filter="(title=Boss)").check_password(name, RIGHT) is None
    group = active_directory.add_group(f"g{secrets.token_hex(4)}")
    feed = connect(active_directory, member_of=group)
    assert feed.check_password(name, RIGHT) is None
    active_directory.add_member(group, dn)
    assert feed.check_password(name, RIGHT) is not None


def test_people_name_themselves_by_the_attributes_that_are_set(
    active_directory: ActiveDirectory, person: tuple[str, str]
) -> None:
    feed = connect(active_directory, sign_in_names=["displayName", "mail"])
    assert feed.check_password(person[0], RIGHT) is None
    assert feed.check_password(f"{person[0]}@mail.test", RIGHT) is not None


def code(refused: pytest.ExceptionInfo[Refused]) -> str | None:
    assert refused.value.code in PASSWORD_REFUSALS
    return refused.value.code


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"userAccountControl": 514}, "account_disabled"),
        ({"accountExpires": filetime(datetime(2025, 1, 1, tzinfo=UTC))}, "account_expired"),
        ({"pwdLastSet": 0}, "password_must_change"),
        ({"logonHours": b"\x00" * 21}, "not_at_this_time"),
        ({"userWorkstations": "ANOTHER"}, "not_from_here"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_whoever_knows_the_password_is_told_why_it_is_not_enough(
    active_directory: ActiveDirectory, person: tuple[str, str], change: dict[str, Any], expected: str
) -> None:
    name, dn = person
    feed = connect(active_directory)
    active_directory.set(dn, **change)
    with pytest.raises(Refused) as caught:
        feed.check_password(name, RIGHT)
    assert code(caught) == expected
    assert feed.check_password(name, "wrong") is None


def test_nobody_is_driven_into_the_directorys_lock_out(locking: ActiveDirectory, person: tuple[str, str]) -> None:
    name, dn = person
    feed = connect(locking)
    for _ in range(3):
        assert feed.check_password(name, "wrong") is None
    for password in ("wrong", RIGHT, "wrong"):
        with pytest.raises(Refused) as caught:
            feed.check_password(name, password)
        assert code(caught) == "account_locked"
    assert wrong_passwords(locking, dn) == 3
    locking.connect(f"{name}@{locking.domain}", RIGHT).unbind()
    assert feed.check_password(name, RIGHT) is not None


def test_a_margin_of_none_passes_every_password_on(locking: ActiveDirectory, person: tuple[str, str]) -> None:
    name, dn = person
    feed = connect(locking, lockout_margin=0)
    for _ in range(4):
        assert feed.check_password(name, "wrong") is None
    with pytest.raises(Refused) as caught:
        feed.check_password(name, RIGHT)
    assert code(caught) == "account_locked"
    assert int(locking.read(dn, "lockoutTime")["lockoutTime"][0]) > 0


def test_an_account_locked_elsewhere_is_said_to_be(
    locking: ActiveDirectory, person: tuple[str, str], bound: list[str]
) -> None:
    name, dn = person
    for _ in range(4):
        with pytest.raises(Exception, match="data 52e"):
            locking.connect(f"{name}@{locking.domain}", "wrong")
    for password in ("wrong", RIGHT):
        with pytest.raises(Refused) as caught:
            connect(locking).check_password(name, password)
        assert code(caught) == "account_locked"
    assert len(bound) == 4 and dn not in bound


def test_a_policy_of_ones_own_counts_before_the_domains(
    active_directory: ActiveDirectory, person: tuple[str, str]
) -> None:
    name, dn = person
    minutes = -30 * 60 * 10_000_000
    active_directory._admin.add(
        f"CN=strict,CN=Password Settings Container,CN=System,{active_directory.base_dn}",
        "msDS-PasswordSettings",
        {
            "msDS-PasswordSettingsPrecedence": 1,
            "msDS-PasswordReversibleEncryptionEnabled": "FALSE",
            "msDS-PasswordHistoryLength": 0,
            "msDS-PasswordComplexityEnabled": "FALSE",
            "msDS-MinimumPasswordLength": 0,
            "msDS-MinimumPasswordAge": 0,
            "msDS-MaximumPasswordAge": -864_000_000_000 * 42,
            "msDS-LockoutThreshold": 2,
            "msDS-LockoutObservationWindow": minutes,
            "msDS-LockoutDuration": minutes,
            "msDS-PSOAppliesTo": dn,
        },
    )
    administrator = {"bind_dn": f"Administrator@{active_directory.domain}", "bind_password": "Passw0rd.Admin1"}
    feed = connect(active_directory, **administrator)
    assert feed.check_password(name, "wrong") is None
    with pytest.raises(Refused) as caught:
        feed.check_password(name, RIGHT)
    assert code(caught) == "account_locked"


def test_whatever_somebody_is_called_the_same_key_is_asked_about_before_the_password_is_tried(
    active_directory: ActiveDirectory, person: tuple[str, str], bound: list[str]
) -> None:
    name, dn = person
    feed = connect(active_directory)
    asked: list[str] = []

    def never(key: str) -> bool:
        asked.append(key)
        return False

    for written in (name, name.upper(), f"{name}@ad.acme.test", f"{name}@mail.test"):
        with pytest.raises(Refused) as caught:
            feed.check_password(written, RIGHT, never)
        assert code(caught) == "account_locked"
    assert asked == [active_directory.guid(dn)] * 4
    assert len(bound) == 8 and dn not in bound, "but somebody is, so that it takes as long"
    assert feed.check_password("nobody", RIGHT, never) is None
    assert len(asked) == 5 and asked[-1] not in asked[:-1]
    assert feed.check_password(name, RIGHT, lambda key: key == asked[0]) is not None


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ((53, "Account inactivated. Contact system administrator."), None),
        ((49, "80090308: LdapErr: DSID-0C0903A9, comment: AcceptSecurityContext error, data 533, v1db1"), None),
        ((19, "Exceed password retry limit. Please try later."), "account_locked"),
    ],
)
def test_reasons_of_another_directory_prove_no_password(
    small: OpenLdap, monkeypatch: pytest.MonkeyPatch, said: tuple[int, str], expected: str | None
) -> None:
    """Some say them to whoever asks."""
    bind = Wire.bind

    def answered(self: Wire, name: str, password: str) -> Answer:
        answer = bind(self, name, password)
        names = {53: "unwillingToPerform", 49: "invalidCredentials", 19: "constraintViolation"}
        return answer if name == small.service[0] else Answer(said[0], names[said[0]], said[1], [], {})

    monkeypatch.setattr(Wire, "bind", answered)
    feed = connect(small)
    if expected is None:
        assert feed.check_password("user00003", "wrong") is None
    else:
        with pytest.raises(Refused) as caught:
            feed.check_password("user00003", "wrong")
        assert code(caught) == expected


NOW = datetime(2026, 11, 30, tzinfo=UTC)
MINUTES = timedelta(minutes=30)


def entry(count: int, ago: timedelta, locked: timedelta | None = None) -> dict[str, list[str]]:
    said = {"badPwdCount": [str(count)], "badPasswordTime": [str(filetime(NOW - ago))]}
    return said if locked is None else {**said, "lockoutTime": [str(filetime(NOW - locked))]}


@pytest.mark.parametrize(
    ("policy", "margin", "person", "kept_out"),
    [
        (LockOut(5, MINUTES, MINUTES), 1, {}, False),
        (LockOut(5, MINUTES, MINUTES), 1, entry(3, timedelta(minutes=1)), False),
        (LockOut(5, MINUTES, MINUTES), 1, entry(4, timedelta(minutes=1)), True),
        (LockOut(5, MINUTES, MINUTES), 2, entry(3, timedelta(minutes=1)), True),
        (LockOut(5, MINUTES, MINUTES), 0, entry(4, timedelta(minutes=1)), False),
        (LockOut(5, MINUTES, MINUTES), 1, entry(4, timedelta(minutes=31)), False),
        (LockOut(0, MINUTES, MINUTES), 1, entry(40, timedelta(minutes=1)), False),
        (LockOut(1, MINUTES, MINUTES), 1, entry(0, timedelta(minutes=1)), False),
        (LockOut(3, MINUTES, MINUTES), 9, entry(0, timedelta(minutes=1)), False),
        (LockOut(5, MINUTES, MINUTES), 1, entry(0, timedelta(days=1), locked=timedelta(minutes=29)), True),
        (LockOut(5, MINUTES, MINUTES), 1, entry(0, timedelta(days=1), locked=timedelta(minutes=31)), False),
        (LockOut(5, MINUTES, timedelta()), 1, entry(0, timedelta(days=1), locked=timedelta(days=9)), True),
        (LockOut(5, MINUTES, MINUTES), 1, {"badPwdCount": ["x"], "badPasswordTime": [b"\xff"]}, False),
    ],
)
def test_when_nobody_is_asked(policy: LockOut, margin: int, person: dict[str, list[str]], kept_out: bool) -> None:
    assert policy.keeps_out(person, margin, NOW) is kept_out


@pytest.mark.parametrize("name", ["user00003", "user00003@acme.test"])
def test_passwords_of_another_directory(small: OpenLdap, name: str) -> None:
    feed = connect(small)
    identity = feed.check_password(name, f"{SLAPD_PASSWORD}3")
    assert identity is not None
    assert identity.attributes == next(iter(feed.records([identity.key]))).attributes  # type: ignore[union-attr]
    assert identity.name == f"uid=user00003,{small.people}"
    assert feed.check_password(name, f"{SLAPD_PASSWORD}4") is None
    assert feed.check_password(name, "") is None


def test_an_account_that_cannot_read_is_a_misconfiguration(active_directory: ActiveDirectory) -> None:
    with pytest.raises(Misconfigured, match="the name or the password is wrong"):
        connect(active_directory, bind_password="not-it").check_password("user0001", "x")


def test_no_password_is_logged_or_told(
    active_directory: ActiveDirectory, person: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    name, dn = person
    feed = connect(active_directory)
    active_directory.disable(dn)
    with pytest.raises(Refused) as caught:
        feed.check_password(name, RIGHT)
    said = caplog.text + str(caught.value) + repr(caught.value) + "".join(map(str, feed.steps()))
    for secret in (RIGHT, active_directory.service("dirsync")[1]):
        assert secret not in said
