"""The vault: what was sealed for one place opens there, whole, and nowhere else."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.vault import Vault, VaultError

KEY = bytes(range(32))
PLACE = {"table": "identity_provider", "column": "config", "tenant": "tnt_1", "row": "idp_1"}
places = st.fixed_dictionaries({name: st.text(st.characters(exclude_categories=["Cs"])) for name in PLACE})


@given(st.binary(), places)
def test_a_sealed_value_opens_at_its_place(plaintext, place):
    vault = Vault(KEY)
    sealed = vault.seal(plaintext, **place)
    assert vault.open(sealed, **place) == plaintext
    assert Vault(KEY).open(sealed, **place) == plaintext


@given(st.binary(min_size=8), places)
def test_a_sealed_value_does_not_show_the_plaintext_and_is_never_the_same_twice(plaintext, place):
    vault = Vault(KEY)
    first, second = vault.seal(plaintext, **place), vault.seal(plaintext, **place)
    assert plaintext not in first
    assert first != second
    assert len(first) == len(second)


@given(places, places)
def test_a_sealed_value_opens_at_no_other_place(here, there):
    vault = Vault(KEY)
    sealed = vault.seal(b"secret", **here)
    if here == there:
        assert vault.open(sealed, **there) == b"secret"
    else:
        with pytest.raises(VaultError):
            vault.open(sealed, **there)
        with pytest.raises(VaultError):
            vault.rewrap(sealed, **there)


@pytest.mark.parametrize("name", sorted(PLACE))
def test_each_part_of_the_place_counts(name):
    vault = Vault(KEY)
    sealed = vault.seal(b"secret", **PLACE)
    with pytest.raises(VaultError):
        vault.open(sealed, **{**PLACE, name: PLACE[name] + "x"})


def test_parts_of_a_place_do_not_run_together():
    vault = Vault(KEY)
    sealed = vault.seal(b"secret", table="ab", column="c", tenant="", row="r")
    with pytest.raises(VaultError):
        vault.open(sealed, table="a", column="bc", tenant="", row="r")


def test_every_flipped_bit_is_noticed():
    vault = Vault(KEY)
    sealed = vault.seal(b"secret", **PLACE)
    for bit in range(8 * len(sealed)):
        damaged = bytearray(sealed)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(VaultError):
            vault.open(bytes(damaged), **PLACE)


def test_every_cut_is_noticed():
    vault = Vault(KEY)
    sealed = vault.seal(b"secret", **PLACE)
    for length in range(len(sealed)):
        with pytest.raises(VaultError):
            vault.open(sealed[:length], **PLACE)


@given(st.binary(max_size=200))
def test_anything_else_is_refused(data):
    with pytest.raises(VaultError):
        Vault(KEY).open(data, **PLACE)


def test_a_payload_under_another_values_key_is_refused():
    vault = Vault(KEY)
    first, second = vault.seal(b"first", **PLACE), vault.seal(b"other", **PLACE)
    with pytest.raises(VaultError):
        vault.open(first[:69] + second[69:], **PLACE)


def test_an_unknown_key_is_named_but_nothing_else():
    with pytest.raises(VaultError, match=Vault(KEY).key_id.hex()):
        Vault(os.urandom(32)).open(Vault(KEY).seal(b"secret", **PLACE), **PLACE)


@given(st.binary(), places)
def test_rewrapping_moves_a_value_to_the_new_key_and_leaves_the_payload(plaintext, place):
    old, new = bytes(32), KEY
    sealed = Vault(old).seal(plaintext, **place)
    turning = Vault(new, earlier=[old])
    assert turning.open(sealed, **place) == plaintext
    moved = turning.rewrap(sealed, **place)
    assert moved != sealed
    assert moved[69:] == sealed[69:]
    assert Vault(new).open(moved, **place) == plaintext
    assert turning.rewrap(moved, **place) == moved
    with pytest.raises(VaultError):
        Vault(old).open(moved, **place)


def test_a_key_of_another_size_is_refused():
    with pytest.raises(ValueError, match="32 bytes"):
        Vault(b"short")
    with pytest.raises(ValueError, match="32 bytes"):
        Vault(KEY, earlier=[b"short"])
