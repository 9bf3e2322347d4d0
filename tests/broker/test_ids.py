"""Ids: their form, their order, and that no two are the same."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import ids


def test_an_id_is_its_prefix_and_26_characters():
    made = ids.new("usr")
    prefix, _, rest = made.partition("_")
    assert prefix == "usr"
    assert len(rest) == 26
    assert set(rest) <= set("0123456789abcdefghijklmnopqrstuv")


def test_ids_sort_in_the_order_they_were_made():
    made = [ids.new("evt") for _ in range(500)] + ids.new_many("evt", 5000) + [ids.new("evt") for _ in range(500)]
    assert made == sorted(made)
    assert len(set(made)) == 6000


def test_ids_keep_their_order_when_the_clock_steps_back(monkeypatch):
    before = ids.new("evt")
    past = time.time_ns() - 3_600_000_000_000
    monkeypatch.setattr(ids.time, "time_ns", lambda: past)
    made = [before, *ids.new_many("evt", 100), ids.new("evt")]
    assert made == sorted(made)


def test_ids_carry_their_time(monkeypatch):
    monkeypatch.setattr(ids, "_last", 0)
    monkeypatch.setattr(ids.time, "time_ns", lambda: 1_700_000_000_000_000_000)
    earlier = ids.new("usr")
    monkeypatch.setattr(ids.time, "time_ns", lambda: 1_700_000_000_002_000_000)
    assert earlier < ids.new("usr")
    # 48 bits of milliseconds above 80 of chance, 130 bits of text: the first ten characters hold the time.
    assert int(earlier[4:], 32) >> 80 == 1_700_000_000_000


def test_threads_never_make_the_same_id():
    made: list[str] = []

    def work() -> None:
        mine = [made_id for _ in range(50) for made_id in ids.new_many("usr", 20)]
        made.extend(mine)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 8 * 50 * 20


def test_neighbours_in_a_batch_are_far_apart():
    values = [int(made[4:], 32) for made in ids.new_many("usr", 1000)]
    gaps = [second - first for first, second in pairwise(values)]
    assert min(gaps) > 1 << 32


def test_a_batch_of_none_is_empty():
    assert ids.new_many("usr", 0) == []


def test_an_unknown_prefix_is_refused():
    with pytest.raises(KeyError):
        ids.new("xyz")


@given(st.sampled_from(sorted(ids.PREFIXES)))
def test_every_prefix_makes_ids_that_are_recognised(prefix):
    made = ids.new(prefix)
    assert ids.is_id(made)
    assert ids.is_id(made, prefix)
    assert not ids.is_id(made, "usr" if prefix != "usr" else "grp")


@given(st.text())
def test_other_text_is_no_id(text):
    assert not ids.is_id(text)


@pytest.mark.parametrize("wrong", ["{}\n", " {}", "{}0", "x{}"])
def test_an_id_with_something_around_it_is_no_id(wrong):
    assert not ids.is_id(wrong.format(ids.new("usr")))


def test_letters_outside_the_alphabet_make_no_id():
    made = ids.new("usr")
    assert not ids.is_id(made.upper())
    assert not ids.is_id(made[:-1] + "w")
    assert not ids.is_id("usr_" + "\u0661" * 26)
