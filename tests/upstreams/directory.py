"""What the counterparts that speak LDAP have in common: connecting over TLS, reading page by page, free ports."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ldap3
from ldap3.core.exceptions import LDAPException

Attributes = dict[str, list[bytes]]

_PAGED = "1.2.840.113556.1.4.319"


def connect(url: str, ca: Path, user: str, password: str) -> ldap3.Connection:
    """Bound, or ldap3's LDAPException; every later refusal raises as well."""
    trusted = ldap3.Tls(validate=ssl.CERT_REQUIRED, ca_certs_file=str(ca))
    server = ldap3.Server(url, tls=trusted, get_info=ldap3.NONE, connect_timeout=10)
    connection = ldap3.Connection(
        server,
        user,
        password,
        raise_exceptions=True,
        check_names=False,
        auto_range=False,
        return_empty_attributes=False,  # with True, ldap3 stumbles over two ranges in one entry
    )
    try:
        connection.bind()
    except LDAPException:
        connection.unbind()
        if connection.socket is not None:  # unbind leaves one that never connected
            connection.socket.close()
        raise
    return connection


def paged(
    connection: ldap3.Connection, base: str, filter: str, attributes: Sequence[str] = ("*",)
) -> Iterator[tuple[str, Attributes]]:
    cookie: bytes | None = None
    while cookie != b"":
        connection.search(base, filter, attributes=list(attributes), paged_size=500, paged_cookie=cookie)
        yield from found(connection)
        cookie = connection.result["controls"][_PAGED]["value"]["cookie"]


def found(connection: ldap3.Connection) -> list[tuple[str, Attributes]]:
    """The entries of the last search, values as octets."""
    return [
        (entry["dn"], dict(entry["raw_attributes"]))
        for entry in connection.response
        if entry["type"] == "searchResEntry"
    ]


def several(value: Any) -> list[Any]:
    """Values to write: one, many, or with None no value at all."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port
