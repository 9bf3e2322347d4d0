"""The counterparts as fixtures for the whole suite. Each file of tests has a directory of its own to change."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.upstreams.samba import ActiveDirectory
from tests.upstreams.samba import active_directory as running_active_directory
from tests.upstreams.slapd import OpenLdap, openldap


@pytest.fixture(scope="module")
def active_directory() -> Iterator[ActiveDirectory]:
    """A live Active Directory with 1,700 people."""
    with running_active_directory() as running:
        yield running


@pytest.fixture(scope="module")
def slapd() -> Iterator[OpenLdap]:
    """A live OpenLDAP with 2,500 people."""
    with openldap(2500) as running:
        yield running
