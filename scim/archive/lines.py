"""What an archive looks like: newline-delimited JSON, every line an object that says which part it is.

Owns the parts, their order and their fields, the header that says what the file is, and the trailer by which a file
that is not whole is told. Knows no database.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from broker import ids, strict_json
from broker.attributes import CUSTOM, SCHEMA_VERSION
from broker.directory.rows import LONGEST_REF, PREFIX
from broker.models.declarations import TYPES

FORMAT, VERSION = "scaikey-archive", 1
LONGEST = 32 * 1024 * 1024
"""Octets of a line."""


class Broken(Exception):
    """An archive that cannot be read; `path` is a JSON pointer into the line."""

    def __init__(self, line: int, path: str, detail: str) -> None:
        super().__init__(f"line {line}{path and f', {path}'}: {detail}")
        self.line, self.path, self.detail = line, path, detail


class Form(NamedTuple):
    """How a value of ours stands in a line. `read` raises ValueError with what is expected instead."""

    read: Callable[[Any], Any]
    write: Callable[[Any], Any] = lambda value: value


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _text(value: Any) -> str:
    _require(isinstance(value, str) and "\0" not in value, "a string without NUL")
    return str(value)


def _key(value: Any) -> str:
    _require(len(_text(value).encode()) <= LONGEST_REF, f"a string of at most {LONGEST_REF} octets")
    return str(value)


def _id(value: Any) -> str:
    _require(isinstance(value, str) and ids.is_id(value), "an id")
    return str(value)


def _flag(value: Any) -> bool:
    _require(isinstance(value, bool), "true or false")
    return bool(value)


def _number(limit: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        _require(type(value) is int and 0 <= value < limit, f"a whole number below {limit}")
        return int(value)

    return read


def _moment(value: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
        _require(moment.tzinfo is not None, "")
        return moment.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("a moment like 2026-01-31T12:00:00+00:00") from None


def _octets(value: Any) -> bytes:
    try:
        return base64.b64decode(_text(value), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("octets in base64") from None


def _object(value: Any) -> dict[str, Any]:
    _require(isinstance(value, dict), "an object")
    return dict(value)


def _names(value: Any) -> list[str]:
    _require(isinstance(value, list), "a list of strings")
    return [_text(name) for name in value]


def _record(value: Any) -> bytes:
    _require(isinstance(value, list), "a record")
    return orjson.dumps(value)


def _one_of(*choices: str) -> Form:
    def read(value: Any) -> str:
        _require(value in choices, f"one of {', '.join(choices)}")
        return str(value)

    return Form(read)


def _or_null(form: Form) -> Form:
    return Form(
        lambda value: None if value is None else form.read(value),
        lambda value: None if value is None else form.write(value),
    )


TEXT, KEY, ID, FLAG = Form(_text), Form(_key), Form(_id), Form(_flag)
COUNT, SMALL = Form(_number(1 << 63)), Form(_number(1 << 31))
MOMENT = Form(_moment, lambda moment: moment.astimezone(UTC).isoformat())
OCTETS = Form(_octets, lambda octets: base64.b64encode(octets).decode())
OBJECT = Form(_object)
DOCUMENT = Form(_object, orjson.loads)
NAMES = Form(_names)
RECORD = Form(_record, orjson.loads)
TYPE = _one_of(*PREFIX)

PARTS: Mapping[str, Mapping[str, Form]] = {
    "provider": {"id": ID, "kind": TEXT, "name": TEXT},
    "target": {"id": ID, "base_url": TEXT},
    "custom_attribute": {
        "id": ID,
        "resource_type": _one_of(*CUSTOM),
        "name": TEXT,
        "type": _one_of(*TYPES),
        "multi_valued": FLAG,
        "case_exact": FLAG,
        "uniqueness": _one_of("none", "server"),
        "mutability": _one_of("readWrite", "immutable"),
        "filterable": FLAG,
        "canonical_values": NAMES,
        "description": _or_null(TEXT),
    },
    "resource": {
        "id": ID,
        "resource_type": TYPE,
        "name": TEXT,
        "display_name": _or_null(TEXT),
        "external_id": _or_null(KEY),
        "user_type": _or_null(TEXT),
        "active": FLAG,
        "disabled": FLAG,
        "active_until": _or_null(MOMENT),
        "email_doubted": FLAG,
        "token_name": _or_null(KEY),
        "document": DOCUMENT,
        "local": OBJECT,
        "pins": OBJECT,
        "version": COUNT,
        "created_at": MOMENT,
        "updated_at": MOMENT,
        "removed_at": _or_null(MOMENT),
    },
    "reference": {
        "id": ID,
        "manager_id": _or_null(ID),
        "manager_ref": _or_null(KEY),
        "parent_id": _or_null(ID),
        "parent_ref": _or_null(KEY),
    },
    "link": {
        "provider_id": ID,
        "key": KEY,
        "resource_id": _or_null(ID),
        "kind": _one_of("user", "group", "unit", "other"),
        "primary_ref": _or_null(KEY),
        "name": TEXT,
        "ref": KEY,
        "alias": _or_null(KEY),
        "active": FLAG,
        "digest": OCTETS,
        "quiet_digest": OCTETS,
        "skipped": _or_null(TEXT),
        "name_kept": FLAG,
        "stale": FLAG,
        "moved": FLAG,
        "gone_at": _or_null(MOMENT),
        "record": RECORD,
    },
    "membership": {
        "group_id": ID,
        "member_id": _or_null(ID),
        "member_key": KEY,
        "raw": _or_null(TEXT),
        "ordinal": SMALL,
        "via": _or_null(ID),
        "kind": _one_of("member", "primary", "leaving"),
    },
    "remote": {
        "target_id": ID,
        "resource_id": ID,
        "resource_type": TEXT,
        "remote_id": _or_null(KEY),
        "state": _one_of("creating", "present", "disabled", "removed"),
        "sent_digest": _or_null(OCTETS),
        "sent_version": _or_null(COUNT),
        "left_at": _or_null(MOMENT),
        "left_out": NAMES,
    },
    "remote_member": {"target_id": ID, "group_id": ID, "member_id": ID, "certain": FLAG},
}
"""In the order of the file: nothing names what comes after it, but for members that are not known."""
_ORDER = {part: place for place, part in enumerate(PARTS)}


def header(tenant_id: str, slug: str, counts: Mapping[str, int]) -> dict[str, Any]:
    said = {"part": "header", "format": FORMAT, "version": VERSION, "schema": SCHEMA_VERSION}
    return {**said, "tenant": {"id": tenant_id, "slug": slug}, "counts": dict(counts)}


def written(part: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The line of one of ours."""
    return {"part": part, **{name: form.write(values[name]) for name, form in PARTS[part].items()}}


def trailer(counts: Mapping[str, int], digest: bytes) -> dict[str, Any]:
    return {"part": "trailer", "counts": dict(counts), "digest": digest.hex()}


class Line(NamedTuple):
    number: int
    end: int
    """Octets of the file up to the end of this line."""
    part: str
    values: dict[str, Any]


@dataclass
class Contents:
    """What a whole archive holds."""

    lines: int = 0
    digest: bytes = b""
    counts: Counter[str] = field(default_factory=Counter)
    named: list[Line] = field(default_factory=list)
    """The providers and targets."""
    first: str | None = None
    """The id of the first resource."""


def examined(path: Path) -> Contents:
    """Read an archive through: every line has its form, nothing is missing. Raises Broken, OSError."""
    contents, digest = Contents(), hashlib.sha256()
    with path.open("rb") as file:
        raw = _next(file, 1)
        head = _parsed(raw, 1)
        _check_header(head)
        digest.update(raw)
        number, place = 1, 0
        while True:
            number += 1
            raw = _next(file, number)
            value = _parsed(raw, number)
            if value.get("part") == "trailer":
                break
            line = _line(value, number, 0)
            if _ORDER[line.part] < place:
                raise Broken(number, "/part", f"A {line.part} stands after what may name it.")
            place = _ORDER[line.part]
            contents.counts[line.part] += 1
            if line.part in ("provider", "target"):
                contents.named.append(line)
            elif line.part == "resource" and contents.first is None:
                contents.first = line.values["id"]
            digest.update(raw)
        counts = {part: contents.counts[part] for part in PARTS}
        for path_, said, found in (
            ("/digest", value.get("digest"), digest.hexdigest()),
            ("/counts", _complete(value.get("counts")), counts),
            ("/counts", _complete(head.get("counts")), counts),
        ):
            if said != found:
                raise Broken(number, path_, "The archive is not what was written: lines were changed or lost.")
        if file.read(1):
            raise Broken(number + 1, "", "There is something after the end of the archive.")
    contents.lines, contents.digest = number - 1, digest.digest()
    return contents


def _complete(counts: Any) -> Any:
    """Counts with a nought for every part that an older archive does not know."""
    return {**dict.fromkeys(PARTS, 0), **counts} if isinstance(counts, dict) else counts


def items(path: Path, line: int, position: int) -> Iterator[Line]:
    """The lines of an archive that was examined, after `line`, which ends at `position`."""
    with path.open("rb") as file:
        file.seek(position)
        while True:
            line += 1
            raw = _next(file, line)
            position += len(raw)
            value = _parsed(raw, line)
            if value.get("part") == "trailer":
                return
            if value.get("part") != "header":
                yield _line(value, line, position)


def _next(file: BinaryIO, number: int) -> bytes:
    raw = file.readline(LONGEST + 1)
    if len(raw) > LONGEST:
        raise Broken(number, "", f"The line is longer than {LONGEST} octets.")
    if not raw.endswith(b"\n"):
        raise Broken(number, "", "The archive ends here, and is not whole.")
    return raw


def _parsed(raw: bytes, number: int) -> dict[str, Any]:
    try:
        value = strict_json.loads(raw, max_bytes=LONGEST, nul=True)
    except strict_json.StrictJsonError as error:
        raise Broken(number, "", str(error).replace("the body", "the line")) from None
    if not isinstance(value, dict):
        raise Broken(number, "", "A line is a JSON object.")
    return value


def _check_header(head: Mapping[str, Any]) -> None:
    if head.get("part") != "header" or head.get("format") != FORMAT:
        raise Broken(1, "/format", "This is no archive of a tenant.")
    for name, ours in (("version", VERSION), ("schema", SCHEMA_VERSION)):
        if head.get(name) != ours:
            raise Broken(1, f"/{name}", f"This archive is of {name} {head.get(name)!r:.20}; {ours} can be read.")


def _line(value: dict[str, Any], number: int, end: int) -> Line:
    part = value.pop("part", None)
    fields = PARTS.get(part) if isinstance(part, str) else None
    if fields is None:
        raise Broken(number, "/part", f"There is no part {part!r:.40}.")
    if strange := value.keys() - fields.keys():
        raise Broken(number, f"/{min(strange):.60}", f"A {part} of version {VERSION} has no such field.")
    values = {}
    for name, form in fields.items():
        if name not in value:
            raise Broken(number, f"/{name}", "This field is missing.")
        try:
            values[name] = form.read(value[name])
        except ValueError as error:
            raise Broken(number, f"/{name}", f"Expected {error}.") from None
    return Line(number, end, part, values)
