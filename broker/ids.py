"""Identifiers: a prefix that names the kind, then 26 lowercase base32 characters.

The characters carry 48 bits of Unix milliseconds and 80 random bits, in an alphabet whose ASCII order is
its value order: sorting the text sorts by time, and one process never goes backwards. An id is a name,
not a secret; credentials are made elsewhere.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
import time
from array import array
from hashlib import blake2b
from itertools import accumulate

PREFIXES = {
    "prt": "Partner",
    "tnt": "Tenant",
    "usr": "User",
    "grp": "Group",
    "ou": "OrganizationalUnit",
    "app": "Application",
    "idp": "IdentityProvider",
    "agt": "MCPAgent",
    "tgt": "ScimTarget",
    "trn": "TargetRun",
    "trs": "TrustRule",
    "run": "SyncRun",
    "evt": "Event",
    "pat": "PersonalAccessToken",
    "sct": "ScimToken",
    "asg": "Assignment",
    "rol": "RoleAssignment",
    "dom": "Domain",
    "att": "CustomAttribute",
    "arc": "ArchiveRun",
    "lnk": "Link",
    "dlv": "Delivery",
    "ses": "Session",
    "cls": "ClientSecret",
    "key": "SigningKey",
    "gnt": "Grant",
    "cod": "AuthorizationCode",
    "rft": "RefreshToken",
}

_ALPHABET = "0123456789abcdefghijklmnopqrstuv"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_RANDOM_BITS = 80
_ID = re.compile(r"([a-z]{2,3})_[0-7][0-9a-v]{25}")

_lock = threading.Lock()
_last = 0


def new(prefix: str) -> str:
    """One fresh id, above every id this process made before."""
    return new_many(prefix, 1)[0]


def new_many(prefix: str, count: int) -> list[str]:
    """`count` fresh ids in ascending order. KeyError when the prefix names no kind.

    Each stands a random stride above the one before, so that nobody counts from an id to its neighbour.
    """
    global _last
    PREFIXES[prefix]
    strides = array("Q", os.urandom(8 * count))
    with _lock:
        start = time.time_ns() // 1_000_000 << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
        # Within one millisecond, or after the clock stepped back, go on from the last value.
        values = list(accumulate((1 + (stride >> 8) for stride in strides), initial=max(start, _last)))[1:]
        if values:
            _last = values[-1]
    return [f"{prefix}_{_text(value)}" for value in values]


def is_id(text: str, prefix: str | None = None) -> bool:
    """Whether the text has the form of an id, of that prefix when one is given."""
    match = _ID.fullmatch(text)
    return match is not None and (match[1] == prefix if prefix else match[1] in PREFIXES)


def renewed(id: str, owner: str) -> str:
    """The id that `owner` gives to what is called `id` elsewhere: always the same one, of the same kind and moment."""
    prefix, _, text = id.partition("_")
    salt = blake2b(f"{owner} {id}".encode(), digest_size=_RANDOM_BITS // 8).digest()
    moment = int(text, 32) >> _RANDOM_BITS
    return f"{prefix}_{_text(moment << _RANDOM_BITS | int.from_bytes(salt))}"


def _text(value: int) -> str:
    pairs = _PAIRS
    return "".join([pairs[value >> shift & 1023] for shift in range(120, -1, -10)])
