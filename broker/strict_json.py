"""JSON as every door takes it: RFC 8259 in the I-JSON profile (RFC 7493), and nothing a parser forgives.

Owns the one parser for text from outside: UTF-8 without byte order mark, bounded size and depth, every
member name once, integers of 64 bits, finite numbers, no NUL and no lone surrogate in any string. What
passes can be stored in PostgreSQL and encoded again. Which problem a refusal becomes is the door's matter.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Literal

Kind = Literal["too_large", "not_utf8", "not_json", "too_deep", "duplicate_key", "bad_number", "control", "surrogate"]


class StrictJsonError(ValueError):
    """A refused text. `kind` is for programs; the message is fit for the caller."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind: Kind = kind


def loads(data: bytes, *, max_bytes: int = 256 * 1024, max_depth: int = 20, nul: bool = False) -> Any:
    """The value of one JSON text; an array or object alone has depth 1. Raises StrictJsonError and nothing else.

    `nul` lets NUL pass, where it is the caller's to say which strings are kept as octets.
    """
    if len(data) > max_bytes:
        raise StrictJsonError("too_large", f"the body is larger than {max_bytes} bytes")
    try:
        text = data.decode()
        value = _DECODER.decode(text)
    except UnicodeDecodeError:
        raise StrictJsonError("not_utf8", "the body is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise StrictJsonError("not_json", f"the body is not JSON: {error}") from None
    except RecursionError:
        raise StrictJsonError("too_deep", f"the body is nested deeper than {max_depth}") from None
    # Counting is cheap and mostly decides: so few brackets cannot nest deeper.
    if data.count(b"[") + data.count(b"{") > max_depth and _deeper_than(value, max_depth):
        raise StrictJsonError("too_deep", f"the body is nested deeper than {max_depth}")
    if "\\u0000" in text or "\\ud" in text or "\\uD" in text:
        _check_strings(value, nul=nul)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise StrictJsonError("duplicate_key", f"the member {json.dumps(twice[:100])} appears twice")
    return members


def _int(digits: str) -> int:
    if len(digits) <= 20 and -(1 << 63) <= (value := int(digits)) < 1 << 63:
        return value
    raise StrictJsonError("bad_number", "an integer does not fit into 64 bits")


def _float(digits: str) -> float:
    value = float(digits)
    if math.isfinite(value):
        return value
    raise StrictJsonError("bad_number", "a number is too large")


def _constant(name: str) -> Any:
    raise StrictJsonError("bad_number", f"{name} is no JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_int, parse_float=_float, parse_constant=_constant)


def _deeper_than(value: Any, max_depth: int) -> bool:
    level = _containers([value])
    for _ in range(max_depth):
        level = [
            inner for outer in level for inner in _containers(outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(level)


def _containers(values: Iterable[Any]) -> list[dict[str, Any] | list[Any]]:
    return [value for value in values if isinstance(value, dict | list)]


def _check_strings(value: Any, *, nul: bool) -> None:
    for text in _strings(value):
        if not nul and "\0" in text:
            raise StrictJsonError("control", "a string holds a NUL character")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise StrictJsonError("surrogate", "a string holds half a surrogate pair") from None


def _strings(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, list):
            waiting.extend(one)
        elif isinstance(one, dict):
            waiting.extend(one)
            waiting.extend(one.values())
