"""What an upstream can do for us, and the values it speaks in.

Owns the capability protocols, the value types that cross the border, and the four errors a connector
may raise. Standard library only: a connector knows nothing of our database, Flask or tenants, and the
directory knows these types but never a connector.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

Attributes = Mapping[str, Sequence[str | bytes]]
"""Exactly as the upstream said it: name case, value order, bytes. A value is `str` when it is valid UTF-8."""

Kind = Literal["user", "group", "unit", "other"]


class Ref(NamedTuple):
    """One record's mention of another: `key` is comparable (a folded DN, an id), `raw` is verbatim."""

    key: str
    raw: str


@dataclass(frozen=True, slots=True)
class Record:
    """One entry as the upstream has it now.

    `key` is immutable (objectGUID, tid + oid, sub); `ref` is how other records of the same upstream mention
    this one today (a folded DN), `alias` a second such name (a SID); `name` is the ref verbatim.
    `members` is None when the upstream did not say, an empty tuple when it said "none".
    """

    key: str
    kind: Kind
    name: str
    ref: str
    attributes: Attributes
    alias: str | None = None
    members: tuple[Ref, ...] | None = None
    manager: Ref | None = None
    parent: Ref | None = None
    primary_group: Ref | None = None
    active: bool = True


@dataclass(frozen=True, slots=True)
class Members:
    """An incremental membership change of the group with this key."""

    key: str
    add: tuple[Ref, ...] = ()
    remove: tuple[Ref, ...] = ()


@dataclass(frozen=True, slots=True)
class Gone:
    """The upstream says explicitly that this record exists no more."""

    key: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that could not be read; the run records it and goes on.

    `name` and `ref` say which one it is where that could be told: the upstream still has it, so a full pass
    must not take it for absent.
    """

    position: str
    reason: str
    detail: str
    name: str | None = None
    ref: str | None = None


Change = Record | Members | Gone | Unreadable


@dataclass(frozen=True, slots=True)
class Page:
    """A bounded share of a pass. `cursor` resumes after this page; `last` is only true on proven completeness."""

    changes: Sequence[Change]
    cursor: str
    last: bool
    kind: Literal["full", "delta"]
    done: int | None = None
    """How much of `total` has been read after this page, in the same unit (bytes, records); for progress only."""
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a diagnosis: what was tried, whether it worked, and what the administrator does if not."""

    name: str
    ok: bool
    found: str
    mend: str = ""


@runtime_checkable
class ChangeFeed(Protocol):
    """An upstream whose whole content can be read, and then followed."""

    def changes_since(self, cursor: str | None) -> Iterator[Page]:
        """Pages after `cursor`; None means everything, from the start.

        Raises Refused, Unreachable, CursorExpired or Misconfigured, nothing else.
        """
        ...


@runtime_checkable
class Diagnose(Protocol):
    """An upstream that can explain why it does not work."""

    def steps(self) -> Iterator[Step]: ...


class UpstreamError(Exception):
    """What a connector may raise. `str(error)` is fit for an administrator and never holds a secret."""


class Refused(UpstreamError):
    """The upstream understood us and said no."""


class Unreachable(UpstreamError):
    """The upstream did not answer; `retry_after` is in seconds when it named a time."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class CursorExpired(UpstreamError):
    """The cursor means nothing to the upstream any more: start a full pass."""


class Misconfigured(UpstreamError):
    """Our settings cannot work, or the upstream's answer proves that they are wrong.

    `fields` says which ones, where that is known: name of the setting to what is wrong with it.
    """

    def __init__(self, message: str, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.fields = dict(fields or {})


def setting(help: str, *, secret: bool = False, default: Any = ..., choices: tuple[str, ...] = ()) -> Any:
    """A field of a connector's `Config` dataclass; validation, console form and documentation read its metadata."""
    metadata = {"help": help, "secret": secret, "choices": choices}
    if default is ...:
        return field(metadata=metadata)
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)
