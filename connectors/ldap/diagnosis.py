"""Why reading a directory does not work, or not as well as it could: one step after the other, each with its mend.

Nothing is changed and nothing is kept. What the account may do is found by trying it.
"""

from __future__ import annotations

from collections.abc import Iterator

from ldap3.protocol.microsoft import show_deleted_control

from connectors.egress import Egress
from connectors.ldap import follow
from connectors.ldap.config import Config, server
from connectors.ldap.reading import Reader
from connectors.ldap.scope import Scope, scope_of
from connectors.ldap.session import Session, connected
from connectors.port import Misconfigured, Refused, Step, UpstreamError

COUNTED = 10_000
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
    for url in config.servers:
        try:
            reached = connected(config, egress, [server(url)])
        except UpstreamError as error:
            yield Step("connection", False, str(error), _connection_mend(error))
            continue
        yield Step("connection", True, f"{reached.server} answers inside TLS, and its certificate is accepted.")
        if session is None:
            session = reached
        else:
            reached.wire.close()
    if session is not None:
        with session:
            yield from _asked(config, session)


def _connection_mend(error: UpstreamError) -> str:
    if isinstance(error, Misconfigured):
        return "A directory inside your network has to be named to the operator first, with its address and port."
    if "certificate" in str(error):
        return (
            "Enter the authority that signed the certificate in ca_certificates, and the server by a name that is in "
            "its certificate."
        )
    return "Check the server's name and port, the firewall, and that it speaks LDAPS (636) or StartTLS (389)."


def _asked(config: Config, session: Session) -> Iterator[Step]:
    try:
        verdict = session.bind(config.bind_dn, config.bind_password)
    except UpstreamError as error:
        yield Step("credential", False, str(error), "The server has to check passwords by simple bind inside TLS.")
        return
    if not verdict.ok:
        found = f"The server does not accept {config.bind_dn}: {verdict.reason}."
        yield Step("credential", False, found, "Check bind_dn and bind_password, and the state of that account.")
        return
    yield Step("credential", True, f"The server accepts {config.bind_dn}.")
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
    yield _changes(config, session, scope)
    if scope.active_directory and config.mode != "full":
        yield _deletions(session, scope)
    yield _people(session, scope)


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
