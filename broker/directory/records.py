"""A record as it is stored: verbatim, with the two digests that tell whether it changed.

Owns the bytes of `link_records`. Name case, value order and octets survive; what a record means is `mapping`'s.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from connectors.port import Attributes, Record

from ..attributes import QUIET


class Encoded(NamedTuple):
    """A record as it is stored, and what tells whether it changed."""

    stored: bytes
    digest: bytes
    quiet_digest: bytes


def encode_record(record: Record, mapping_digest: bytes) -> Encoded:
    """The record verbatim (name case, value order, octets) and its two digests: with meaning, and quiet.

    The first covers everything the directory acts on, so that an equal one means that there is nothing to do.
    """
    loud: list[tuple[str, Sequence[str | bytes]]] = []
    quiet: list[tuple[str, Sequence[str | bytes]]] = []
    for name, values in record.attributes.items():
        (quiet if name.lower() in QUIET else loud).append((name, values))
    main, rest = orjson.dumps(loud, default=_octets), orjson.dumps(quiet, default=_octets)
    around = (
        record.kind,
        record.name,
        record.ref,
        record.alias,
        record.active,
        record.manager and record.manager.key,
        record.parent and record.parent.key,
        record.primary_group and record.primary_group.key,
        record.members and [member.raw for member in record.members],
        record.members is None,
    )
    digest = blake2b(main, digest_size=16, salt=mapping_digest[:16])
    digest.update(orjson.dumps(around))
    return Encoded(b"[" + main + b"," + rest + b"]", digest.digest(), blake2b(rest, digest_size=16).digest())


def decode_record(stored: bytes) -> dict[str, list[str | bytes]]:
    """The attributes of a stored record, as the upstream said them."""
    main, quiet = orjson.loads(stored)
    return {name: [_value(item) for item in values] for name, values in (*main, *quiet)}


def loud_parts(stored: bytes) -> dict[str, Any]:
    """The stored form of each attribute with meaning, for comparing."""
    return dict(orjson.loads(stored)[0])


def member_attribute(attributes: Attributes) -> str:
    """Under which name a group of this class keeps its members, which are taken out of its record into rows."""
    classes = next((values for name, values in attributes.items() if name.lower() == "objectclass"), ())
    unique = any(isinstance(name, str) and name.lower() == "groupofuniquenames" for name in classes)
    return "uniqueMember" if unique else "member"


def _octets(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"b": base64.b64encode(value).decode()}
    raise TypeError(type(value).__name__)


def _value(item: Any) -> str | bytes:
    return base64.b64decode(item["b"]) if isinstance(item, dict) else item
