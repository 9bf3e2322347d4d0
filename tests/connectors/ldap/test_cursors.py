"""The text that says where following goes on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.ldap.cursors import Cursor, cursor
from connectors.port import CursorExpired

SCOPE = "0123456789abcdef01234567"


@given(st.binary(max_size=2000))
def test_a_cookie_comes_back_as_it_was(cookie: bytes) -> None:
    text = str(Cursor("dirsync", SCOPE).at(cookie))
    assert text.isascii() and text.isprintable()
    assert cursor(text) == Cursor("dirsync", SCOPE).at(cookie)
    assert cursor(text).cookie == cookie


@pytest.mark.parametrize("place", ["", "03020100-0504-0706-0809-0a0b0c0d0e0f.5727", "20261130013529Z"])
def test_every_place_comes_back_as_it_was(place: str) -> None:
    assert cursor(str(Cursor("usn", SCOPE, place))).place == place


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "ldif1:0123:5:0",
        f"ldap2:usn:{SCOPE}:",
        f"ldap1:other:{SCOPE}:",
        "ldap1:usn:0123:",
        f"ldap1:usn:{SCOPE}",
        f"ldap1:usn:{SCOPE}:é",
        f"ldap1:usn:{SCOPE}:\x00",
        f"ldap1:usn:{SCOPE}:5\n",
        f" ldap1:usn:{SCOPE}:5",
        f"ldap1:dirsync:{SCOPE}:{'a' * 70_000}",
    ],
)
def test_what_is_no_cursor_of_ours_has_expired(text: str) -> None:
    with pytest.raises(CursorExpired):
        cursor(text)


def test_a_cookie_that_is_damaged_has_expired() -> None:
    with pytest.raises(CursorExpired):
        _ = cursor(f"ldap1:dirsync:{SCOPE}:abcde").cookie
