"""The demo's verdicts: what differs fails its step and the story goes on, what cannot be asked ends it."""

from __future__ import annotations

import pytest

from demo.asking import Unexpected
from demo.telling import Telling


def test_a_step_that_finds_what_it_expects_holds(capsys: pytest.CaptureFixture[str]) -> None:
    telling = Telling()
    with telling.step("Counting") as step:
        step.expect(3, 3, "sheep")
        step.same({"a", "b"}, ["b", "a"], "names")
        step.fact("three [sheep]")
    assert (telling.steps, telling.failed) == (1, 0)
    told = capsys.readouterr().out
    assert "✓ Counting" in told and "three [sheep]" in told


def test_a_difference_fails_the_step_and_says_both_sides(capsys: pytest.CaptureFixture[str]) -> None:
    telling = Telling()
    with telling.step("Counting") as step:
        step.expect(3, 2, "sheep")
        step.same({"a", "b"}, ["b", "b", "c"], "names")
    with telling.step("More") as step:
        step.fact("fine")
    assert (telling.steps, telling.failed) == (2, 1)
    told = capsys.readouterr().out
    assert "✗ Counting" in told and "sheep: expected 3, found 2" in told
    assert "1 missing, such as a" in told and "1 too many, such as c" in told and "1 twice" in told
    assert "✓ More" in told


def test_an_unexpected_answer_fails_the_step_and_ends_the_story(capsys: pytest.CaptureFixture[str]) -> None:
    telling = Telling()
    with pytest.raises(Unexpected), telling.step("Asking"):
        raise Unexpected("GET /x answered 500")
    assert telling.failed == 1
    assert "GET /x answered 500" in capsys.readouterr().out


def test_an_interrupted_step_claims_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    telling = Telling()
    with pytest.raises(KeyboardInterrupt), telling.step("Waiting"):
        raise KeyboardInterrupt
    told = capsys.readouterr().out
    assert "✓" not in told and "✗" not in told
