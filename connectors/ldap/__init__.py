"""Directories that speak LDAP, Active Directory first: an exported file, or a live server that is followed.

Owns the settings (`Config`) and the way to the connectors. `entries` is what entries mean, `export` the pass over a
file; of a live server `wire` is the protocol, `session` the connection, `scope` what is read of it, `directory` the
full pass, `follow` the changes after it, `passwords` the check of one, `diagnosis` why something does not work.
ldap3 is loaded with the first live server. Nothing here is ever written to a directory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from connectors.egress import Egress
from connectors.ldap.config import Config
from connectors.ldap.entries import EXCLUDED, filetime, generalized_time, guid, sid
from connectors.ldap.export import LdifDirectory

if TYPE_CHECKING:
    from connectors.ldap.directory import LiveDirectory

__all__ = ["EXCLUDED", "Config", "LdifDirectory", "connect", "filetime", "generalized_time", "guid", "sid"]


def connect(config: Config, egress: Egress) -> LiveDirectory | None:
    """The connector of a live server; None where the directory is read from files."""
    if config.source != "ldap":
        return None
    from connectors.ldap.directory import LiveDirectory

    return LiveDirectory(config, egress)
