"""A connection to one of the directory's servers: reached through the guard, inside TLS, known by its password.

Owns fail-over, TLS, what the server says of itself (`Root`), and what its results mean as errors of the port. No name
and no password leaves before TLS is up and the certificate is the server's; nobody is bound without a password.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Any, NamedTuple

from ldap3 import BASE, SUBTREE
from ldap3.protocol.rfc2696 import paged_search_control

from connectors import dn
from connectors.egress import Blocked, ConnectFailed, Egress, OutboundError, SecureSocket, TimedSocket, Timeout
from connectors.ldap.config import Config, Server, server
from connectors.ldap.entries import guid
from connectors.ldap.wire import MOST, Answer, Entry, Unsayable, Wire, elements
from connectors.ldif import Unfit
from connectors.port import Misconfigured, Refused, Unreachable

PAGED = "1.2.840.113556.1.4.319"
DIRSYNC = "1.2.840.113556.1.4.841"
PORTS = frozenset({389, 636, 3268, 3269})
LONGEST_CONNECT = 10.0
"""Seconds until the next server has its turn."""
SHUNNED = 60.0
"""Seconds for which a server that did not answer is tried after the others, so that not everybody waits for it."""

MOST_EMPTY = 100
"""Pages in a row without an entry: a server that looks for a long time gives some, but not for ever."""

_ACTIVE_DIRECTORY = "1.2.840.113556.1.4.800"
_BUSY = frozenset({"busy", "unavailable", "timeLimitExceeded"})
_CUT = frozenset({"sizeLimitExceeded", "adminLimitExceeded"})
_ABSENT = frozenset({"noSuchObject", "insufficientAccessRights", "invalidDNSyntax"})
_CONTEXTS = (("", "s"), ("default", ""))
_NUMBER = re.compile(r"[0-9]{1,19}").fullmatch
_DATA = re.compile(r"\bdata ([0-9a-f]{3,4})\b").search

REASONS = {
    "525": ("", "there is no such account"),
    "52e": ("", "the name or the password is wrong"),
    "530": ("not_at_this_time", "the account may not sign in at this time"),
    "531": ("not_from_here", "the account may not sign in from here"),
    "532": ("password_expired", "the password has expired"),
    "533": ("account_disabled", "the account is disabled"),
    "568": ("", "the account is in too many groups"),
    "701": ("account_expired", "the account has expired"),
    "773": ("password_must_change", "the password has to be changed first"),
    "775": ("account_locked", "the account is locked after too many wrong passwords"),
}
"""What Active Directory means by the number in its refusal of a bind: a code of `PASSWORD_REFUSALS`, and a sentence."""


_silent: dict[tuple[Server, str], float] = {}


class Verdict(NamedTuple):
    """What a server said of a name and a password; `code` is one of `PASSWORD_REFUSALS` where it told why not."""

    ok: bool
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Root:
    """What a server says of itself (rootDSE)."""

    active_directory: bool
    contexts: tuple[str, ...]
    default: str
    controls: frozenset[str]
    host: str
    usn: int
    service: str


class Session:
    """One bound connection; a question is answered within `config.timeout` or the session is over.

    Raises Refused (with the result's own name as its code), Unreachable and Misconfigured.
    """

    def __init__(self, wire: Wire, at: Server) -> None:
        self.wire = wire
        self.server = at
        self._root: Root | None = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.wire.close()

    @property
    def root(self) -> Root:
        if self._root is None:
            self._root = self._read_root()
        return self._root

    def bind(self, name: str, password: str) -> Verdict:
        if not (name and password):
            raise Misconfigured("Nobody signs in at a directory without a name and a password.")
        answer = self._told(lambda: self.wire.bind(name, password))
        return _verdict(answer, self.server)

    def search(
        self,
        base: str,
        filter: str,
        attributes: Sequence[str],
        scope: str = SUBTREE,
        controls: Sequence[Any] = (),
        most: int | None = None,
    ) -> Answer:
        """`most`: how many entries there may be, where that is known."""
        answer = self._told(lambda: self.wire.search(base, filter, scope, attributes, controls, most))
        if answer.code:
            raise _error(answer, self.server, base)
        return answer

    def entry(self, base: str, attributes: Sequence[str], controls: Sequence[Any] = ()) -> Entry | None:
        """The entry of this name; None where there is none, or none we may see."""
        try:
            found = self.search(base, "(objectClass=*)", attributes, BASE, controls, 1).entries
        except Refused as error:
            if error.code in _ABSENT:
                return None
            raise
        return found[0] if found else None

    def pages(
        self, base: str, filter: str, attributes: Sequence[str], size: int, controls: Sequence[Any] = ()
    ) -> Iterator[list[Entry]]:
        """Everything below a base, page by page; after the last one the server has said that it was the last."""
        cookie: bytes | None = None
        empty = 0
        while True:
            paging = paged_search_control(True, size, cookie)
            answer = self.search(base, filter, attributes, controls=[*controls, paging], most=size)
            if PAGED not in answer.controls:
                raise Refused(f"{self.server} does not give its entries in pages, so that they may not be all.")
            *_, cookie = elements(answer.controls[PAGED]) or [b""]
            yield answer.entries
            if not cookie:
                return
            empty = 0 if answer.entries else empty + 1
            if empty > MOST_EMPTY:
                raise Refused(f"{self.server} gave {empty} pages in a row with nothing in them, and no last one.")

    def _told(self, ask: Callable[[], Answer]) -> Answer:
        began = time.monotonic()
        try:
            return ask()
        except TimeoutError:
            raise Unreachable(f"{self.server} did not answer in {time.monotonic() - began:.2g} s.") from None
        except OSError:
            raise Unreachable(f"{self.server} broke the connection off.") from None
        except Unsayable as error:
            raise Misconfigured(f"The question cannot be put to {self.server}: {error}.") from None

    def _read_root(self) -> Root:
        found = self.entry("", ["*", "+"])
        said = {} if found is None else {name.lower(): values for name, values in found.attributes.items()}

        def texts(name: str) -> tuple[str, ...]:
            return tuple(value.decode("utf-8", "replace") for value in said.get(name, ()))

        def text(name: str) -> str:
            return next(iter(texts(name)), "")

        usn = text("highestcommittedusn")
        contexts, default = (tuple(filter(_is_name, texts(f"{name}namingcontext{end}"))) for name, end in _CONTEXTS)
        return Root(
            active_directory=_ACTIVE_DIRECTORY in texts("supportedcapabilities"),
            contexts=contexts,
            default=next(iter((*default, *contexts)), ""),
            controls=frozenset(texts("supportedcontrol")),
            host=text("dnshostname"),
            usn=int(usn) if _NUMBER(usn) else 0,
            service=text("dsservicename"),
        )

    def invocation(self) -> str:
        """The identity of this server's database, by which its update sequence numbers count; empty when not told."""
        found = self.entry(self.root.service, ["invocationId"]) if self.root.service else None
        values = found.attributes.get("invocationId") if found else None
        try:
            return guid(values[0]) if values else ""
        except Unfit:
            return ""


def opened(config: Config, egress: Egress, most: int = MOST) -> Session:
    """A session of the account we read with, at the first server that can be used; no answer costs more than `most`."""
    session = connected(config, egress, most=most)
    try:
        verdict = session.bind(config.bind_dn, config.bind_password)
    except BaseException:
        session.wire.close()
        raise
    if verdict.ok:
        return session
    session.wire.close()
    text = f"{session.server} does not accept the account we read with: {verdict.reason}."
    field = "bind_dn" if verdict.code else "bind_password"
    raise Misconfigured(text, {field: f"Is not accepted: {verdict.reason}."})


def connected(config: Config, egress: Egress, servers: Sequence[Server] = (), most: int = MOST) -> Session:
    """A connection inside TLS that nobody has used yet, to the first server that answers."""
    failures: list[OutboundError] = []
    candidates = servers or [server(url) for url in config.servers]
    for at in sorted(candidates, key=lambda at: _silent.get((at, config.ca_certificates), 0.0) > time.monotonic()):
        try:
            return _connect(at, config, egress, most)
        except OutboundError as error:
            failures.append(error)
            if len(_silent) > 1000:
                _silent.clear()
            _silent[at, config.ca_certificates] = time.monotonic() + SHUNNED
    text = "; ".join(str(failure) for failure in failures) + "."
    if all(isinstance(failure, Blocked) for failure in failures):
        raise Misconfigured(text, {"servers": text})
    raise Unreachable(text)


def _connect(at: Server, config: Config, egress: Egress, most: int) -> Session:
    deadline = time.monotonic() + config.timeout
    patience = min(config.timeout, LONGEST_CONNECT)
    raw = egress.connect(at.host, at.port, plaintext=False, deadline=deadline, timeout=patience, ports=PORTS)
    wire = Wire(raw, config.timeout, most)
    try:
        if not at.tls:
            _agree_on_tls(wire, at)
        secured = wire.secured(_secured(raw, at, config, deadline))
    except BaseException:
        wire.close()
        raise
    secured.read_ahead()
    return Session(secured, at)


def _agree_on_tls(wire: Wire, at: Server) -> None:
    try:
        answer = wire.start_tls()
    except TimeoutError:
        raise Timeout(f"{at} did not answer to StartTLS in {wire.timeout:g} s") from None
    except (OSError, Refused):
        raise ConnectFailed(f"{at} did not answer to StartTLS") from None
    if answer.code:
        raise ConnectFailed(f"{at} does not begin TLS ({answer.name}); without TLS nothing is said")


def _secured(raw: TimedSocket, at: Server, config: Config, deadline: float) -> TimedSocket:
    until = raw.until
    raw.settimeout(max(min(deadline, until) - time.monotonic(), 0.001))
    try:
        secure = _tls(config.ca_certificates).wrap_socket(raw, server_hostname=at.host.rstrip("."))
    except TimeoutError:
        raise Timeout(f"{at}: the TLS handshake took too long") from None
    except ssl.SSLCertVerificationError as error:
        raise ConnectFailed(f"{at}: the certificate is not accepted: {error.verify_message}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or "the connection ended"
        raise ConnectFailed(f"{at}: no TLS connection: {reason}") from None
    assert isinstance(secure, SecureSocket)
    secure.deadline, secure.until = deadline, until
    return secure


@lru_cache(maxsize=128)  # reading the system's authorities takes longer than a question
def _tls(ca: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=ca or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = SecureSocket
    if ca:
        # Authorities of one's own are often older than the rules newer Pythons hold the public ones to.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _verdict(answer: Answer, at: Server) -> Verdict:
    if not answer.code:
        return Verdict(True, "", "")
    if answer.name in _BUSY:
        raise Unreachable(f"{at} is {answer.name} at the moment.")
    if answer.name == "invalidCredentials":
        data = _DATA(answer.message.lower())
        return Verdict(False, *REASONS.get(data[1] if data else "52e", REASONS["52e"]))
    if answer.name in ("invalidDNSyntax", "noSuchObject", "inappropriateAuthentication"):
        return Verdict(False, *REASONS["525"])
    if answer.name == "unwillingToPerform":
        # Told to whoever asks, so it says nothing of the password.
        return Verdict(False, "", f"the server will not ({answer.message or answer.name})")
    if answer.name == "constraintViolation":
        return Verdict(False, *REASONS["775"])
    raise Refused(f"{at} does not check passwords: {_said(answer)}.", answer.name)


def _error(answer: Answer, at: Server, base: str) -> Refused | Unreachable:
    if answer.name in _BUSY:
        return Unreachable(f"{at} broke a search off: {_said(answer)}.")
    if answer.name in _CUT:
        return Refused(
            f"{at} gave only a part of what lies below {base}: {_said(answer)}. Nothing is concluded from a part.",
            answer.name,
        )
    return Refused(f"{at} refuses a search below {base or 'its root'}: {_said(answer)}.", answer.name)


def _is_name(text: str) -> bool:
    try:
        return bool(dn.fold(text))
    except ValueError:
        return False


def _said(answer: Answer) -> str:
    return f"{answer.name} ({answer.message})" if answer.message else answer.name
