"""Strict JSON: what every JSON parser agrees on passes unchanged, every trap is refused by name."""

from __future__ import annotations

import json
import math

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.strict_json import StrictJsonError, loads

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
)
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=30)


def kind_of(data: bytes, **limits: int) -> str:
    with pytest.raises(StrictJsonError) as refusal:
        loads(data, **limits)
    return refusal.value.kind


@given(values, st.booleans())
def test_a_proper_text_gives_the_value_the_standard_library_gives(value, ascii_only):
    data = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert loads(data, max_depth=100) == json.loads(data) == value


@given(st.binary() | values.map(orjson.dumps) | st.text().map(lambda text: text.encode("utf-16")))
def test_arbitrary_bytes_give_a_value_or_a_refusal_and_nothing_else(data):
    try:
        value = loads(data)
    except StrictJsonError:
        return
    assert value == orjson.loads(data)


@given(values.map(orjson.dumps), st.data())
def test_a_damaged_text_passes_only_where_another_strict_parser_agrees(data, draw):
    place = draw.draw(st.integers(0, len(data)))
    damaged = data[:place] + draw.draw(st.binary(max_size=2)) + data[place + draw.draw(st.integers(0, 2)) :]
    try:
        value = loads(damaged, max_depth=100)
    except StrictJsonError as refusal:
        if refusal.kind == "not_json":
            with pytest.raises(orjson.JSONDecodeError):
                orjson.loads(damaged)
    else:
        assert value == orjson.loads(damaged)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "not_json"),
        (b"{", "not_json"),
        (b"[1,]", "not_json"),
        (b"{'a':1}", "not_json"),
        (b"01", "not_json"),
        (b"1 2", "not_json"),
        (b'"\x00"', "not_json"),
        (b'"\t"', "not_json"),
        (b"\xef\xbb\xbf{}", "not_json"),
        ('{"a":1}'.encode("utf-16"), "not_utf8"),
        ('{"a":1}'.encode("utf-16-le"), "not_json"),
        (b'"\xff"', "not_utf8"),
        (b'"\xc0\x80"', "not_utf8"),
        (b'"\xed\xa0\x80"', "not_utf8"),
        (b'{"a":1,"a":1}', "duplicate_key"),
        (b'{"a":1,"\\u0061":1}', "duplicate_key"),
        (b'[{"x":[{"a":{"b":1,"b" : 2}}]}]', "duplicate_key"),
        (b'{"\\ud800":1,"\\ud800":2}', "duplicate_key"),
        (b"NaN", "bad_number"),
        (b"[Infinity]", "bad_number"),
        (b'{"a":-Infinity}', "bad_number"),
        (b"1e999", "bad_number"),
        (b"-1e999", "bad_number"),
        (b"9223372036854775808", "bad_number"),
        (b"-9223372036854775809", "bad_number"),
        (b"1" * 10_000, "bad_number"),
        (b'"a\\u0000b"', "control"),
        (b'{"\\u0000":1}', "control"),
        (b'[["\\u0000"]]', "control"),
        (b'"\\ud800"', "surrogate"),
        (b'"\\uDFFF x"', "surrogate"),
        (b'"\\uDC00\\uD800"', "surrogate"),
        (b'{"a":{"\\udbff":1}}', "surrogate"),
    ],
)
def test_a_trap_is_refused_by_name(data, kind):
    assert kind_of(data) == kind


def test_what_only_looks_like_a_trap_passes():
    assert loads(b'"\\\\u0000 \\\\ud800"') == "\\u0000 \\ud800"
    assert loads(b'"\\ud83d\\ude00"') == "\U0001f600"
    assert loads(b'[{"a":1},{"a":1}]') == [{"a": 1}, {"a": 1}]
    assert loads(b'"[[[[[[[[[[[[[[[[[[[[[[[["') == "[" * 24
    assert loads(b"9223372036854775807") == (1 << 63) - 1
    assert loads(b"-9223372036854775808") == -(1 << 63)


def test_size_is_measured_before_anything_is_read():
    assert loads(b"[1]", max_bytes=3) == [1]
    assert kind_of(b"\xff[1]", max_bytes=3) == "too_large"


@given(st.lists(st.sampled_from([list, dict]), min_size=1, max_size=40), st.booleans())
def test_depth_is_counted_in_arrays_and_objects(kinds, filled):
    innermost, *outer = kinds
    value = innermost() if not filled else [1] if innermost is list else {"k": 1}
    for kind in outer:
        value = [value] if kind is list else {"k": value}
    data = json.dumps(value).encode()
    if len(kinds) <= 20:
        assert loads(data) == value
    else:
        assert kind_of(data) == "too_deep"


def test_a_wide_body_is_not_taken_for_a_deep_one():
    wide = [{"value": str(number), "more": [[]]} for number in range(2000)]
    assert loads(orjson.dumps(wide), max_depth=4) == wide
    assert kind_of(orjson.dumps(wide), max_depth=3) == "too_deep"


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_a_bottomless_body_is_refused_without_exhausting_the_stack(opening):
    data = opening * 100_000
    assert kind_of(data, max_bytes=len(data)) == "too_deep"


def test_a_refusal_names_no_value_of_the_body():
    with pytest.raises(StrictJsonError) as refusal:
        loads(b'{"password": hunter2}')
    assert "hunter2" not in str(refusal.value)


def test_finite_numbers_keep_their_type():
    assert loads(b"1.0") == 1.0 and isinstance(loads(b"1.0"), float)
    assert loads(b"1") == 1 and isinstance(loads(b"1"), int)
    assert math.copysign(1, loads(b"-0.0")) == -1
