"""Why reading a directory does not work, or not as well as it could: one step after the other, each with its mend.

Nothing is changed and nothing is kept. What the account may do is found by trying it. Somebody waits for the answer:
what has not been tried when the time is up (`Egress.until`) is said not to have been, and nothing is read to its end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from ldap3.protocol.microsoft import show_deleted_control

from connectors.egress import Egress
from connectors.ldap import follow
from connectors.ldap.config import Config, server
from connectors.ldap.reading import Reader
from connectors.ldap.scope import Scope, scope_of
from connectors.ldap.session import LONGEST_CONNECT, Session, connected
from connectors.ldap.wire import LITTLE
from connectors.port import Misconfigured, Refused, Step, UpstreamError

COUNTED = 2_000
"""How many people are counted before "more than" is answer enough."""

_WAYS = {
    "dirsync": "DirSync: the directory itself lists every change, memberships one by one.",
    "visible": "DirSync without the right to replicate: changes that the account can see.",
    "usn": "Update sequence numbers: what changed is read anew, groups as a whole.",
    "modified": "Times of modification. Deletions are found by full passes only.",
    "full": "None: every run reads everything.",
}
_GRANT = (
    "For all changes grant the account Replicating Directory Changes on the domain: dsacls DOMAIN_DN /G "
    '"DOMAIN\\ACCOUNT:CA;Replicating Directory Changes".'
)
_SHOW = (
    "Let the account list the deleted objects, or run full passes often: dsacls DELETED_OBJECTS_DN /takeownership, "
    'then dsacls DELETED_OBJECTS_DN /G "DOMAIN\\ACCOUNT:LCRP".'
)


def steps(config: Config, egress: Egress) -> Iterator[Step]:
    """The steps in order; what a failed one makes pointless does not follow."""
    session: Session | None = None
    # One that is silent shall not use up the time of the others.
    hasty = replace(config, timeout=min(config.timeout, int(LONGEST_CONNECT)))
    try:
        for url in config.servers:
            if _is_over(egress):
                yield _untried("connection", f"{url}: ")
                continue
            try:
                reached = connected(hasty, egress, [server(url)], LITTLE)
            except UpstreamError as error:
                yield Step("connection", False, str(error), _connection_mend(error))
                continue
            if session is None:
                session = reached
            else:
                reached.wire.close()
            yield Step("connection", True, f"{reached.server} answers inside TLS, and its certificate is accepted.")
        if session is not None:
            session.wire.timeout = config.timeout
            yield from _asked(config, egress, session)
    finally:
        if session is not None:
            session.wire.close()


def _is_over(egress: Egress) -> bool:
    return time.monotonic() >= egress.until


def _untried(name: str, what: str = "") -> Step:
    return Step(name, False, f"{what}Not tried: the time is up.", "See why the steps before took so long.")


def _connection_mend(error: UpstreamError) -> str:
    if isinstance(error, Misconfigured):
        return "A directory inside your network has to be named to the operator first, with its address and port."
    if "certificate" in str(error):
        return (
            "Enter the authority that signed the certificate in ca_certificates, and the server by a name that is in "
            "its certificate."
        )
    return "Check the server's name and port, the firewall, and that it speaks LDAPS (636) or StartTLS (389)."


def _credential(config: Config, session: Session) -> Step:
    try:
        verdict = session.bind(config.bind_dn, config.bind_password)
    except UpstreamError as error:
        return Step("credential", False, str(error), "The server has to check passwords by simple bind inside TLS.")
    if verdict.ok:
        return Step("credential", True, f"The server accepts {config.bind_dn}.")
    found = f"The server does not accept {config.bind_dn}: {verdict.reason}."
    return Step("credential", False, found, "Check bind_dn and bind_password, and the state of that account.")


def _asked(config: Config, egress: Egress, session: Session) -> Iterator[Step]:
    if _is_over(egress):
        yield from map(_untried, ("credential", "bases", "changes", "deletions", "people"))
        return
    yield (credential := _credential(config, session))
    if not credential.ok:
        return
    try:
        scope = scope_of(config, session)
        absent = [base for base in scope.bases if session.entry(base, [scope.key]) is None]
    except UpstreamError as error:
        yield Step("bases", False, str(error), "Check base_dns and member_of, and what the account may read.")
        return
    if absent:
        found = f"{'; '.join(absent)}: there is no such entry, or the account may not see it."
        yield Step("bases", False, found, "Check base_dns, and what the account may read.")
        return
    kind = "Active Directory" if scope.active_directory else "Another directory than Active Directory"
    yield Step("bases", True, f"{kind}; read is what lies below {'; '.join(scope.bases)}.")
    further: dict[str, Callable[[], Step]] = {
        "changes": lambda: _changes(config, session, scope),
        "deletions": lambda: _deletions(session, scope),
        "people": lambda: _people(session, scope),
    }
    if not scope.active_directory or config.mode == "full":
        del further["deletions"]
    for name, tried in further.items():
        yield _untried(name) if _is_over(egress) else tried()


def _changes(config: Config, session: Session, scope: Scope) -> Step:
    try:
        cursor = follow.begin(config, session, scope)
    except UpstreamError as error:
        mend = f"Set mode to auto. {_GRANT}" if scope.active_directory else "Set mode to auto or full."
        return Step("changes", False, str(error), mend)
    mend = _GRANT if cursor.mode in ("visible", "usn") and cursor.mode != config.mode else ""
    if cursor.mode == "usn" and config.mode == "auto" and (flaw := follow.dirsync_flaw(session, scope)):
        return Step("changes", True, f"{_WAYS['usn']} {flaw}", "Name bases of one domain, and a server of that domain.")
    return Step("changes", True, _WAYS[cursor.mode], mend)


def _deletions(session: Session, scope: Scope) -> Step:
    """Seen are tombstones, or none: whether there are none is not told to who may not see them."""
    for root in scope.roots:
        try:
            page = next(
                session.pages(
                    root, "(&(isDeleted=TRUE)(objectSid=*))", [scope.key], 1, [show_deleted_control(criticality=True)]
                )
            )
        except (Refused, StopIteration):
            page = []
        except UpstreamError as error:
            return Step("deletions", False, str(error), "The server has to answer in time.")
        if page:
            return Step("deletions", True, "The account sees what was deleted: it goes with the next run.")
    return Step(
        "deletions",
        True,
        "The account sees nothing that was deleted. Unless nothing was, deletions are found by full passes only.",
        _SHOW,
    )


def _people(session: Session, scope: Scope) -> Step:
    reader = Reader(session, scope, 1000)
    count, example = 0, ""
    try:
        for base in scope.bases:
            for page in reader.pages(base, scope.wanted_people, [scope.key]):
                example = example or next((entry.dn.decode("utf-8", "replace") for entry in page), "")
                count += len(page)
                if count > COUNTED:
                    return Step("people", True, f"More than {COUNTED} people, such as {example}.")
    except UpstreamError as error:
        return Step("people", False, str(error), "The server has to give its entries in pages.")
    if not count:
        return Step(
            "people",
            False,
            "There is nobody in what is read.",
            "Check base_dns, user_filter and member_of, and what the account may read.",
        )
    return Step("people", True, f"{count} people, such as {example}.")
