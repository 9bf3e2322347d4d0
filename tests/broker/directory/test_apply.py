"""A page of an upstream's changes: what is new, changed, unchanged, quiet, skipped."""

from __future__ import annotations

from .conftest import Tenant, Upstream, group, ou, person


def test_page_applied_twice_is_silent(acme: Tenant, ad: Upstream) -> None:
    page = (
        ou("People"),
        person(
            "ann", unit="OU=People,DC=acme,DC=test", manager="CN=bob,OU=People,DC=acme,DC=test", mail="ann@acme.test"
        ),
        person("bob", primary_group="S-1-5-21-513", thumbnailPhoto=b"\xff\xd8"),
        group("staff", "CN=ann,OU=People,DC=acme,DC=test", "CN=bob,OU=People,DC=acme,DC=test", alias="S-1-5-21-513"),
    )
    first = ad.apply(*page)
    assert (first.read, first.created, first.updated, first.unchanged) == (4, 4, 0, 0)
    assert acme.happened() == ["group.created", "unit.created", "user.created", "user.created"]
    versions = {name: acme.row(ad.resource(name)).version for name in ("key-ann", "key-bob", "key-staff", "key-People")}
    assert set(versions.values()) == {1}

    again = ad.next_run().apply(*page)
    assert (again.read, again.created, again.updated, again.unchanged) == (4, 0, 0, 4)
    assert acme.news() == []
    assert versions == {name: acme.row(ad.resource(name)).version for name in versions}
