"""What an administrator tells us about a directory, and what of it can be seen to be wrong at once.

Owns the settings, their texts, and the form a server's URL has. Nothing here asks anybody.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple
from urllib.parse import urlsplit

from connectors import dn
from connectors.port import Misconfigured, setting

MODES = ("auto", "dirsync", "usn", "full")
LARGEST_PAGE = 1000
MOST_SERVERS = 10
MOST_NAMES = 50
"""Of a list that is none of servers."""
LONGEST = 4_000
"""Characters of a text, but of certificates."""
LONGEST_CERTIFICATES = 500_000
DEEPEST = 20
"""Parts within parts of a filter."""

_ATTRIBUTE = re.compile(r"[A-Za-z][A-Za-z0-9-]*").fullmatch
_FILES = frozenset({"source", "base_dn"})


class Server(NamedTuple):
    """One server of the directory; without TLS from the start, it is begun by StartTLS before anything is said."""

    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'ldaps' if self.tls else 'ldap'}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Config:
    source: str = setting(
        "Where the directory is read from. `ldif`: an exported file. `ldap`: a live server, which is then followed.",
        default="ldif",
        choices=("ldif", "ldap"),
        selects=True,
    )
    base_dn: str = setting(
        "The naming context the export has to be of, such as `DC=corp,DC=example`. Entries outside it are skipped. "
        "Of a live server, what is read where `base_dns` is empty.",
        default="",
        selects=True,
    )
    servers: list[str] = setting(  # noqa: RUF009 (a field, not a shared list)
        "The directory's servers, such as `ldaps://dc1.corp.example`; the first that answers is used. `ldap://` is "
        "upgraded by StartTLS before anything is said; a connection without TLS there is none.",
        default=[],
        confides=True,
    )
    ca_certificates: str = setting(
        "The certificate authorities that signed the servers' certificates, as PEM. Empty: the system's.",
        default="",
        confides=True,
    )
    bind_dn: str = setting(
        "The account we read with: a distinguished name, or in Active Directory a userPrincipalName such as "
        "`scaikey@corp.example`. It needs to read and nothing else.",
        default="",
    )
    bind_password: str = setting("The password of that account.", secret=True, default="")
    base_dns: list[str] = setting(  # noqa: RUF009
        "Below which entries people, groups and units are read. Empty: `base_dn`, or everything the server calls its "
        "default.",
        default=[],
        selects=True,
    )
    user_filter: str = setting(
        "A further filter on people, such as `(!(employeeType=external))`.", default="", selects=True
    )
    member_of: str = setting(
        "The distinguished name of a group: only its members are read, also those through nested groups. A primary "
        "group does not count.",
        default="",
        selects=True,
    )
    mode: str = setting(
        "How changes are found between two full passes. `auto`: the best the account may do; the test tells which. "
        "`dirsync` and `usn` are Active Directory's. `full`: none are, every run reads everything.",
        default="auto",
        choices=MODES,
    )
    page_size: int = setting("How many entries are asked for at once, 1 to 1000.", default=500)
    timeout: int = setting("Seconds that the server may take to answer one question, 1 to 300.", default=30)
    sign_in_names: list[str] = setting(  # noqa: RUF009
        "The attributes people may name themselves by when they sign in with the directory's password. Empty: "
        "`userPrincipalName`, `sAMAccountName` and `mail` in Active Directory, `uid` and `mail` elsewhere.",
        default=[],
    )
    lockout_margin: int = setting(
        "How many wrong passwords are left over before Active Directory would lock an account: the last ones are not "
        "passed on from here, so that nobody can be locked out by strangers at the sign-in page. 0 passes all on.",
        default=1,
    )

    def __post_init__(self) -> None:
        wrong = dict(self._too_much())
        if not wrong:
            wrong = dict(self._wrong() if self.source == "ldap" else self._wrong_of_file())
            try:
                _ = self.base_dn and dn.fold(self.base_dn)
            except ValueError as flaw:
                wrong["base_dn"] = str(flaw)
        if wrong:
            raise Misconfigured("; ".join(f"{name}: {text}" for name, text in wrong.items()), wrong)

    def _too_much(self) -> Iterator[tuple[str, str]]:
        """Nothing further is looked at where this finds something: looking costs as much as there is."""
        for field in fields(self):
            value = getattr(self, field.name)
            texts = value if isinstance(value, list) else [value] if isinstance(value, str) else []
            longest = LONGEST_CERTIFICATES if field.name == "ca_certificates" else LONGEST
            most = MOST_SERVERS if field.name == "servers" else MOST_NAMES
            if len(texts) > most:
                yield field.name, f"Has to name {most} at most."
            elif any(len(text) > longest for text in texts):
                yield field.name, f"Has to be {longest} characters at most."
            elif any(not text.isascii() and not _is_text(text) for text in texts):
                yield field.name, "Has letters that are none."

    def _wrong_of_file(self) -> Iterator[tuple[str, str]]:
        for field in fields(self):
            default = field.default_factory() if callable(field.default_factory) else field.default
            if field.name not in _FILES and getattr(self, field.name) != default:
                yield field.name, "Is a setting of a live server: set source to ldap."

    def _wrong(self) -> Iterator[tuple[str, str]]:
        if not self.servers:
            yield "servers", "Has to name one at least."
        elif flaw := next(filter(None, map(server_flaw, self.servers)), ""):
            yield "servers", flaw
        if self.ca_certificates and not _is_pem(self.ca_certificates):
            yield "ca_certificates", "Has to be certificates as PEM."
        if not self.bind_dn.strip():
            yield "bind_dn", "Is required: nothing is read anonymously."
        if not self.bind_password:
            yield "bind_password", "Is required: an empty password would be an anonymous sign-in."
        for name, names in (("base_dns", self.base_dns), ("member_of", [self.member_of] if self.member_of else [])):
            for value in names:
                try:
                    dn.fold(value)
                except ValueError as flaw:
                    yield name, str(flaw)
        if self.user_filter and not _is_filter(self.user_filter):
            yield "user_filter", "Is no LDAP filter, such as (department=Sales), or nested too deep."
        if not 1 <= self.page_size <= LARGEST_PAGE:
            yield "page_size", f"Has to be 1 to {LARGEST_PAGE}."
        if not 1 <= self.timeout <= 300:
            yield "timeout", "Has to be 1 to 300 seconds."
        if not all(map(_ATTRIBUTE, self.sign_in_names)):
            yield "sign_in_names", "Has to name attributes."
        if not 0 <= self.lockout_margin <= 100:
            yield "lockout_margin", "Has to be 0 to 100."


def server(url: str) -> Server:
    """Takes a URL apart that has no flaw."""
    parts = urlsplit(url)
    tls = parts.scheme == "ldaps"
    return Server(parts.hostname or "", parts.port or (636 if tls else 389), tls)


def server_flaw(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return f"{url!r} is no URL."
    if parts.scheme not in ("ldap", "ldaps"):
        return f"{url!r} has to begin with ldaps:// or ldap://."
    if not host or port == 0 or not url.isascii() or not url.isprintable() or set(url) & set(' "<>\\^`{|}'):
        return f"{url!r} is no URL."
    if "@" in parts.netloc or parts.path not in ("", "/") or parts.query or parts.fragment or "?" in url:
        return f"{url!r} has to name a host and at most a port."
    return ""


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_pem(text: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError, TypeError):
        return False
    return True


def _is_filter(text: str) -> bool:
    from connectors.ldap.wire import sayable

    # Parentheses in values are escaped: every one of these opens a part, or ends it.
    depth = deepest = 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        deepest = max(deepest, depth)
    return deepest <= DEEPEST and sayable(text)
