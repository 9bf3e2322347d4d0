"""Lossless is a law: what a directory exported comes back entry by entry, value by value, and re-reading is silent."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker import ids
from broker.context import Scope, acting, system
from broker.db import unit
from broker.directory import Directory
from broker.errors import Problem
from broker.models import Application, ApplicationAccess, Delivery, ScimTarget
from connectors import dn as names
from connectors.ldap import EXCLUDED
from scim import archive, push
from scim.archive import export_archive, import_archive
from tests.archives import canonical as canonical_archive
from tests.canonical_ldif import canonical, differences
from tests.conftest import DATA, World, make_provider, make_world
from tests.directories import BASE, Entry, Upstream, key

assert push  # whoever is owed deliveries has subscribed


def test_a_real_directory_comes_back_whole_and_is_silent_when_read_again(world: World, tmp_path: Path):
    acme = Upstream(world.acme, make_provider(world.acme), tmp_path)
    a_target(acme)
    first = acme.read(DATA / "acme.ldif")
    assert (first.status, first.read, first.skipped) == ("done", 1487, 0)
    assert acme.present() == {"User": 1204, "Group": 51, "OrganizationalUnit": 10}

    out = tmp_path / "out.ldif"
    assert archive.export_ldif(acme.scope, acme.provider_id, out) == 1487
    assert differences(DATA / "acme.ldif", out) == []
    assert len(canonical(out)) > 30_000

    events, owed = acme.events(), deliveries(acme)
    assert owed
    for again in (DATA / "acme.ldif", out):
        run = acme.read(again)
        assert (run.status, run.read, run.unchanged) == ("done", 1487, 1487)
        assert (run.created, run.updated, run.disabled, run.removed, run.held_removals) == (0, 0, 0, 0, 0)
        assert acme.events() == events
        assert deliveries(acme) == owed

    globex = Upstream(world.globex, acme.provider_id, tmp_path)
    assert globex.present() == {}
    assert globex.events() == []


def test_a_listing_of_ldapsearch_with_its_comments_and_pages_comes_back_whole(world: World, tmp_path: Path):
    acme = Upstream(world.acme, make_provider(world.acme), tmp_path)
    acme.read(DATA / "ldapsearch.txt")
    out = tmp_path / "out.ldif"
    archive.export_ldif(acme.scope, acme.provider_id, out)
    assert differences(DATA / "ldapsearch.txt", out) == []


def a_target(upstream: Upstream) -> None:
    """An application that is owed everybody."""
    tenant, app = upstream.scope.tenant_id, ids.new("app")
    with unit(upstream.scope) as session:
        session.add(Application(tenant_id=tenant, id=app, name="Wiki", type="web", scope="TENANT", client_id=app))
        session.flush()
        session.add(ApplicationAccess(tenant_id=tenant, application_id=app, owner_tenant_id=tenant))
        session.flush()
        target = ids.new("tgt")
        session.add(ScimTarget(id=target, application_id=app, base_url="https://wiki.example/scim", scope="all"))


def deliveries(upstream: Upstream) -> list[tuple[str, int]]:
    with unit(upstream.scope) as session:
        found = session.execute(sa.select(Delivery.resource_id, Delivery.generation).order_by(Delivery.resource_id))
        return [(resource, generation) for resource, generation in found]


ATTRIBUTE = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,20}(;lang-[a-z]{2}|;binary)?", fullmatch=True)
_MEANT = """
    objectclass objectguid objectsid entryuuid useraccountcontrol primarygroupid member uniquemember memberof manager
    isdeleted uid dn changetype control search result ref version
"""
MEANT = frozenset(_MEANT.split())
"""What the connector reads a meaning from; the strategies write these themselves, or not at all."""
_KNOWN = """
    mail displayName title telephoneNumber proxyAddresses thumbnailPhoto userCertificate description sn l jpegPhoto
    extensionAttribute7 servicePrincipalName employeeID department otherTelephone wWWHomePage
"""
KNOWN = st.sampled_from(_KNOWN.split())
TEXT = st.text(max_size=30) | st.sampled_from(
    ["", " ", "\x00", " x", "x ", ":", "<x", "a\nb", "a\r\nb", "#", "\\,", "é", "e\u0301"]
)
VALUE: st.SearchStrategy[str | bytes] = TEXT | st.binary(max_size=40) | st.just(bytes(range(256)))
CASES = st.text("aA", min_size=1, max_size=4)
INTEGERS = st.sampled_from([0, 1, -1, 2**31, 2**63 - 1, -(2**63), 116_444_736_000_000_000, 2_650_467_743_999_999_999])
TIMES = st.sampled_from(["accountExpires", "pwdLastSet", "lastLogonTimestamp", "uSNChanged", "badPasswordTime"])
CLASSES = {
    "user": ["top", "person", "organizationalPerson", "user"],
    "inetorgperson": ["top", "inetOrgPerson"],
    "group": ["top", "group"],
    "unique": ["top", "groupOfUniqueNames"],
    "unit": ["top", "organizationalUnit"],
    "computer": ["top", "user", "computer"],
    "contact": ["top", "person", "contact"],
    "unknown": ["top", "somethingElse"],
}


def escaped(text: str) -> str:
    """A value as it stands in a DN, every second special character in hexadecimal."""
    pieces = []
    for position, letter in enumerate(text):
        if letter in ',+"\\<>;=#' or letter < " " or letter == "\x7f":
            hexadecimal = letter < " " or letter == "\x7f" or position % 2
            pieces.append("".join(f"\\{octet:02X}" for octet in letter.encode()) if hexadecimal else f"\\{letter}")
        else:
            pieces.append(letter)
    return "".join(pieces)


@st.composite
def entry(draw: st.DrawFn, number: int) -> Entry:
    shape = draw(st.sampled_from(sorted(CLASSES)))
    common = draw(st.text(max_size=12) | st.sampled_from(["Müller, Ünal", "a+b", "x" * 600, "李"]))
    dn = f"CN={escaped(common.strip())}-{number},OU=People,{BASE}"
    attributes: dict[str, list[str | bytes]] = {"objectClass": [*CLASSES[shape]]}
    attributes["objectGUID"] = [bytes.fromhex(key(number).replace("-", ""))]
    attributes["cn"] = [f"{common}-{number}"]
    if shape in ("user", "inetorgperson"):
        attributes["userAccountControl"] = [draw(st.sampled_from(["512", "514", "66048"]))]
        attributes["userPrincipalName"] = [
            draw(st.sampled_from(["same@x", "SAME@x", f"p{number}@x", f"ß\x00{number}"]))
        ]
    more = st.dictionaries(ATTRIBUTE | KNOWN, st.lists(VALUE | CASES, min_size=1, max_size=4), max_size=6)
    taken = {name.lower() for name in attributes}
    for name, values in [
        *draw(more).items(),
        *((name, [str(n)]) for name, n in draw(st.lists(st.tuples(TIMES, INTEGERS)))),
    ]:
        plain = name.partition(";")[0].lower()
        if name.lower() not in taken and plain not in taken | MEANT | EXCLUDED:
            taken.add(name.lower())
            attributes[name] = values
    return dn, attributes


@st.composite
def directories(draw: st.DrawFn) -> list[Entry]:
    """Some entries, groups among them that list each other and strangers, and `memberOf` as a directory computes it."""
    entries = [draw(entry(number)) for number in range(draw(st.integers(1, 7)))]
    places = [dn for dn, _ in entries]
    mention = st.sampled_from(places).flatmap(lambda dn: st.sampled_from([dn, dn.upper(), dn.replace(",OU=", ", ou=")]))
    strangers = st.sampled_from(["CN=Nobody,DC=else", "cn=nobody\\2Ctoo,dc=else", "not a name"])
    listed_by: dict[str, list[str]] = {}
    for dn, attributes in entries:
        classes = attributes["objectClass"]
        if not {"group", "groupOfUniqueNames"} & set(classes):
            continue
        members: Sequence[str] = draw(st.lists(mention | strangers, max_size=8))
        if members:
            attributes["member" if "group" in classes else "uniqueMember"] = list(members)
        for ref in {folded(member) for member in members}:
            listed_by.setdefault(ref, []).append(dn)
    if draw(st.booleans()):
        for dn, attributes in entries:
            elsewhere = draw(st.lists(st.just("CN=Universal,DC=else"), max_size=1))
            if above := [*listed_by.get(folded(dn), []), *elsewhere]:
                attributes["memberOf"] = list(above)
    return entries


def folded(dn: str) -> str:
    try:
        return names.fold(dn)
    except ValueError:
        return f"?{dn}"


UNFIT = {"user_name_taken", "name_too_long", "control_character", "no_name"}


def comes_back(entries: list[Entry], folder: Path) -> None:
    scope = make_world().acme
    upstream = Upstream(scope, make_provider(scope), folder)
    run = upstream.read(entries)
    assert (run.status, run.read) == ("done", len(entries))
    assert {reason for _, reason in upstream.skips(run)} <= UNFIT
    out = folder / "out.ldif"
    assert archive.export_ldif(scope, upstream.provider_id, out) == len(entries)
    assert differences(upstream.file, out) == []
    events = upstream.events()
    again = upstream.read(out)
    assert (again.status, again.created, again.updated, again.removed, again.disabled) == ("done", 0, 0, 0, 0)
    assert upstream.events() == events


USER = "urn:ietf:params:scim:schemas:core:2.0:User"
GROUP = "urn:ietf:params:scim:schemas:core:2.0:Group"
NAME = st.text(min_size=1, max_size=20)


@st.composite
def written_here(draw: st.DrawFn) -> list[dict[str, Any]]:
    """People and groups as a client writes them, each with the numbers of those that become its members."""
    made: list[dict[str, Any]] = []
    for number in range(draw(st.integers(0, 6))):
        name = f"{draw(NAME)}{number}"
        if draw(st.booleans()):
            made.append({"schemas": [GROUP], "displayName": name, "of": draw(st.sets(st.integers(0, 5), max_size=4))})
            continue
        person: dict[str, Any] = {"schemas": [USER], "userName": name, "active": draw(st.booleans())}
        person |= draw(st.dictionaries(st.sampled_from(["displayName", "title", "externalId", "locale"]), TEXT))
        person["emails"] = [{"value": value, "type": "work"} for value in draw(st.lists(NAME, max_size=2))]
        made.append(person)
    return made


def write_here(scope: Scope, documents: list[dict[str, Any]]) -> None:
    """What the directory takes of them; every third one is removed again."""
    made: dict[int, tuple[str, str]] = {}
    for number, document in enumerate(documents):
        kind = "Group" if "displayName" in document and "userName" not in document else "User"
        try:
            with unit(scope):
                made[number] = kind, Directory().create(kind, {k: v for k, v in document.items() if k != "of"}).id
        except Problem:
            continue
    for number, (kind, id) in made.items():
        wanted = [made[other][1] for other in documents[number].get("of", ()) if other in made and other != number]
        if kind == "Group":
            with unit(scope):
                Directory().change_members(id, wanted)
    for number, (kind, id) in made.items():
        if number % 3 == 2:
            with unit(scope):
                Directory().remove(kind, id)


def is_equal_elsewhere(entries: list[Entry], documents: list[dict[str, Any]], folder: Path) -> None:
    world = make_world()
    upstream = Upstream(world.acme, make_provider(world.acme), folder)
    upstream.read(entries)
    make_provider(world.globex)
    first, second = folder / "first.ndjson", folder / "second.ndjson"
    with acting(system("test")):
        write_here(world.acme, documents)
        counts = export_archive(world.acme, first)
        run = import_archive(world.globex, first)
        assert (run.refused, run.status) == (0, "done")
        assert export_archive(world.globex, second) == counts
        assert canonical_archive(second) == canonical_archive(first, into=world.globex.tenant_id)
        there = Upstream(world.globex, "", folder)
        told = there.events()
        for scope, file in ((world.globex, first), (world.globex, second), (world.acme, first)):
            again = import_archive(scope, file)
            assert (again.created, again.refused) == (0, 0)
    assert there.events() == told
    assert there.present() == upstream.present()


EXAMPLES = int(os.environ.get("SOAK_EXAMPLES", "10000"))
"""In the soak."""
ANY = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}


@pytest.mark.usefixtures("app")
@given(directories())
@settings(max_examples=25, **ANY)  # type: ignore[arg-type]
def test_any_directory_comes_back_whole(tmp_path: Path, entries: list[Entry]):
    comes_back(entries, tmp_path)


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("app")
@given(directories(), written_here())
@settings(max_examples=20, **ANY)  # type: ignore[arg-type]
def test_any_tenant_is_equal_elsewhere(tmp_path: Path, entries: list[Entry], documents: list[dict[str, Any]]):
    is_equal_elsewhere(entries, documents, tmp_path)


@pytest.mark.soak
@pytest.mark.usefixtures("app")
@given(directories(), written_here())
@settings(max_examples=EXAMPLES, **ANY)  # type: ignore[arg-type]
def test_many_tenants_are_equal_elsewhere(tmp_path: Path, entries: list[Entry], documents: list[dict[str, Any]]):
    is_equal_elsewhere(entries, documents, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("app")
@given(directories())
@settings(max_examples=EXAMPLES // 5, **ANY)  # type: ignore[arg-type]
def test_many_directories_come_back_whole(tmp_path: Path, entries: list[Entry]):
    comes_back(entries, tmp_path)
