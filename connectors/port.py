"""What an upstream can do for us, and the values it speaks in.

Owns the capability protocols, the value types that cross the border, and the four errors a connector
may raise. Standard library only: a connector knows nothing of our database, Flask or tenants, and the
directory knows these types but never a connector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
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

        The cursor of a last page is where the next delta begins: it was taken before the pass began to read, so that
        nothing falls between the two. One in the middle of a pass may die with its connection.
        Raises Refused, Unreachable, CursorExpired or Misconfigured, nothing else.
        """
        ...


@runtime_checkable
class Lookup(Protocol):
    """An upstream that can be asked for single records again."""

    def records(self, keys: Sequence[str]) -> Iterator[Record | Unreadable]:
        """What it has now of the records with these keys; those it has no more, or that are none of ours, are left out.

        Raises Refused, Unreachable or Misconfigured, nothing else.
        """
        ...


@runtime_checkable
class PasswordCheck(Protocol):
    """An upstream that tells whether a name and a password belong together."""

    def check_password(
        self, name: str, password: str, may_try: Callable[[str], bool] = lambda key: True
    ) -> Identity | None:
        """Who it is; None for a name nobody has, a wrong password, and whatever must not be told apart from them.

        `may_try` is asked once, before the password is tried, with the key of whom the name is of (for nobody's name
        with a text that is no key, so that both take as long). Where it says no, the password is not tried at that
        account, and the account counts as locked.
        Raises Refused with a `code` of `PASSWORD_REFUSALS` where the upstream turned somebody away who knows the
        password, or who may not try at this moment; Unreachable or Misconfigured, nothing else.
        """
        ...


PASSWORD_REFUSALS = frozenset(
    {
        "account_disabled",
        "account_expired",
        "account_locked",
        "password_expired",
        "password_must_change",
        "not_at_this_time",
        "not_from_here",
    }
)
"""Why an upstream turns somebody away whose password may be right. `account_locked` is said to strangers, too."""


@runtime_checkable
class Diagnose(Protocol):
    """An upstream that can explain why it does not work."""

    def steps(self) -> Iterator[Step]:
        """One after the other, as they are tried. Raises nothing: what goes wrong is a step that failed."""
        ...


@dataclass(frozen=True, slots=True)
class ReturnTo:
    """Where the upstream sends the browser back to, and what it is asked for on the way.

    `state` is made, kept and checked by the caller. `fresh` wants the person to authenticate anew, `max_age` (seconds)
    not longer ago than that; an upstream that cannot prove it is refused. `prompt` is `select_account`, `login`,
    `consent` or `none`.
    """

    callback: str
    state: str
    login_hint: str | None = None
    prompt: str | None = None
    max_age: int | None = None
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Departure:
    """Where the browser goes now: by redirect, or by a POST of `form`. `memo` comes back untouched, and is secret."""

    url: str
    form: Mapping[str, str] | None = None
    memo: bytes = b""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the browser brought back. Every value of a parameter is here, so that a repeated one is noticed.

    `body` is the query or the form as it was sent, for bindings that sign it.
    """

    method: Literal["GET", "POST"]
    parameters: Mapping[str, Sequence[str]]
    body: bytes = b""

    def one(self, name: str) -> str | None:
        """The value of a parameter that may come once at most. Raises Refused."""
        values = self.parameters.get(name, ())
        if len(values) > 1:
            raise Refused(f"The answer has the parameter {name} more than once.")
        return values[0] if values else None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who signed in, in the upstream's words.

    `key` is the upstream's immutable id, never an e-mail address. `groups` is None when the upstream did not say, an
    empty set when it said "none". `verified_emails` are those the upstream vouches for. `once` is an id that may be
    used once, and until when that has to be remembered. `session` is the upstream's name of its session. `name` is
    for pages and logs, never for finding somebody. `sign_out_memo` is kept, secretly, for `SignOut`.
    """

    key: str
    attributes: Attributes
    groups: frozenset[str] | None = None
    verified_emails: frozenset[str] = frozenset()
    once: tuple[str, datetime] | None = None
    session: str | None = None
    auth_time: datetime | None = None
    amr: tuple[str, ...] = ()
    name: str | None = None
    sign_out_memo: bytes | None = None


@runtime_checkable
class SignIn(Protocol):
    """An upstream that people sign in at, in their browser."""

    def begin_sign_in(self, return_to: ReturnTo) -> Departure:
        """Raises Refused, Unreachable or Misconfigured, nothing else."""
        ...

    def finish_sign_in(self, memo: bytes | None, reply: Reply) -> Identity:
        """Who it is. `memo` is the departure's, None when the upstream began it.

        The caller has checked `state` and that the memo is this browser's. Raises Refused, Unreachable or
        Misconfigured, nothing else.
        """
        ...


@runtime_checkable
class SignOut(Protocol):
    """An upstream whose own session can be ended too."""

    def begin_sign_out(self, memo: bytes, return_to: ReturnTo) -> Departure | None:
        """Where the browser goes to sign out there; None when this upstream has no such place.

        `memo` is the identity's `sign_out_memo`. Raises Refused, Unreachable or Misconfigured, nothing else.
        """
        ...


class Shelf(Protocol):
    """What a connector keeps between calls, for one provider. It may forget anything at any time."""

    def get(self, name: str) -> bytes | None: ...

    def put(self, name: str, value: bytes, seconds: float) -> None: ...


class UpstreamError(Exception):
    """What a connector may raise. `str(error)` is fit for an administrator and never holds a secret."""


class Refused(UpstreamError):
    """The upstream understood us and said no, or what it said is not to be believed.

    `code` is the upstream's own word where the protocol has one (`access_denied`, `login_required`).
    """

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


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


def setting(
    help: str,
    *,
    secret: bool = False,
    default: Any = ...,
    choices: tuple[str, ...] = (),
    confides: bool = False,
    selects: bool = False,
) -> Any:
    """A field of a connector's `Config` dataclass; validation, console form and documentation read its metadata.

    `confides`: it says who is told the secrets. Who changes it has to know them, or they could be sent to a stranger.
    `selects`: it says which records are read. After a change an administrator has to see first what would go.
    """
    metadata = {"help": help, "secret": secret, "choices": choices, "confides": confides, "selects": selects}
    if default is ...:
        return field(metadata=metadata)
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)
