"""The shelf in memory: what is put is found until its time is over, and no shelf grows without end."""

from __future__ import annotations

from connectors.shelf import MemoryShelf


def test_what_is_put_is_found_until_its_time_is_over() -> None:
    now = [100.0]
    shelf = MemoryShelf(lambda: now[0])
    shelf.put("a", b"1", 10)
    assert (shelf.get("a"), shelf.get("b")) == (b"1", None)
    now[0] += 9.9
    assert shelf.get("a") == b"1"
    now[0] += 0.2
    assert shelf.get("a") is None


def test_what_is_put_again_replaces_the_old_and_its_time() -> None:
    now = [0.0]
    shelf = MemoryShelf(lambda: now[0])
    shelf.put("a", b"1", 10)
    now[0] = 8
    shelf.put("a", b"2", 10)
    now[0] = 15
    assert shelf.get("a") == b"2"


def test_an_empty_value_is_a_value() -> None:
    shelf = MemoryShelf()
    shelf.put("a", b"", 10)
    assert shelf.get("a") == b""


def test_a_full_shelf_forgets_what_was_put_first() -> None:
    shelf = MemoryShelf()
    for number in range(200):
        shelf.put(str(number), b"x", 1000)
    kept = [number for number in range(200) if shelf.get(str(number))]
    assert kept == list(range(200 - len(kept), 200))
    assert 0 < len(kept) < 200
