"""Every route × everybody who may knock × other tenants' things: nothing is shown, nothing is changed, nothing differs.

Said once with all walls standing, once without the session's wall and once without the database's: each alone must hold
what the other lets through. The rightful twin of every route shows that the refusals are not refusals of everything.

Everyday, each route meets each principal at one place where he may act and at two where he may not, with the things of
two strangers; places, ways of naming a tenant and strangers take turns, so that each route meets all of them.
`make soak` takes the full product of routes, principals, places, ways and strangers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy import event
from sqlalchemy.orm import Session

from broker import db as wall
from broker.context import Scope
from broker.db import PLATFORM_BIND, HouseSession, db
from broker.embedded import Services
from broker.models import Application, TenantOwned
from broker.policy import Action
from broker.registry import domains
from tests.casting import give_role, make_token, make_user
from tests.journeys import holdings
from tests.journeys.holdings import Holding, Realm
from tests.journeys.knocking import WAYS, Request, Template, compose, knock, templates
from tests.journeys.ledger import Ledger
from tests.journeys.matrix import OF_A_PARTNER, RIGHTFUL, play, report


@pytest.fixture(scope="module")
def realm(web: Flask, platform: Scope) -> Iterator[Realm]:
    built = holdings.build(web, platform)
    yield built
    holdings.demolish(built)


@pytest.fixture(scope="module")
def ledger(realm: Realm, services: Services) -> Iterator[Ledger]:
    kept = Ledger(services.platform_database_url, realm)
    yield kept
    kept.close()


@pytest.fixture(
    params=[
        "both walls",
        pytest.param("without wall 1", marks=pytest.mark.long),
        pytest.param("without wall 2", marks=pytest.mark.long),
    ]
)
def walls(request: pytest.FixtureRequest, web: Flask) -> Iterator[str]:
    match request.param:
        case "without wall 1":
            with _without_the_sessions_wall():
                yield request.param
        case "without wall 2":
            with _without_the_databases_wall(web):
                yield request.param
        case _:
            yield request.param


@contextmanager
def _without_the_sessions_wall() -> Iterator[None]:
    listeners = (("do_orm_execute", wall.add_tenant_condition), ("before_flush", wall.check_writes))
    for name, listener in listeners:
        event.remove(HouseSession, name, listener)
    event.listen(HouseSession, "before_flush", _fill_in_the_tenant)
    try:
        yield
    finally:
        event.remove(HouseSession, "before_flush", _fill_in_the_tenant)
        for name, listener in listeners:
            event.listen(HouseSession, name, listener)


def _fill_in_the_tenant(session: Session, flush: object, instances: object) -> None:
    """All that is left of wall 1: new rows without a tenant get the scope's, or nothing could be written at all."""
    for row in session.new:
        if isinstance(row, TenantOwned | Application) and row.tenant_id is None:
            row.tenant_id = wall.scope_of(session).tenant_id or ""


@contextmanager
def _without_the_databases_wall(web: Flask) -> Iterator[None]:
    with web.app_context():
        engines, everything = db.engines, db.engines[PLATFORM_BIND]
        before, hot = engines[None], web.extensions["scaikey.hot"]
        engines[None] = sa.create_engine(everything.url)
        web.extensions["scaikey.hot"] = wall._HotConnections(everything, "-c statement_timeout=5000")
    try:
        yield
    finally:
        with web.app_context():
            engines[None].dispose()
            engines[None] = before
        web.extensions["scaikey.hot"].close()
        web.extensions["scaikey.hot"] = hot


def test_each_wall_is_really_switched_off(walls: str, web: Flask, realm: Realm) -> None:
    """Without wall 1 the ORM, without wall 2 plain SQL, meets nothing of ours in its way."""
    with web.app_context(), wall.unit(realm["acme"].scope) as session:
        session_wall = event.contains(HouseSession, "do_orm_execute", wall.add_tenant_condition)
        seen = session.execute(sa.text("SELECT count(DISTINCT tenant_id) FROM domains")).scalar_one()
    assert session_wall is (walls != "without wall 1")
    assert (seen == 1) is (walls != "without wall 2")


@pytest.mark.timeout(300)
def test_no_route_shows_or_changes_what_is_not_ones_own(walls: str, realm: Realm, ledger: Ledger) -> None:
    """Where policy refuses there is nothing left for a wall to do: without one, only those ask whom it lets pass."""
    judge = play(realm, ledger, full=False, only=None if walls == "both walls" else RIGHTFUL)
    assert judge.complaints == [], report(judge)
    assert judge.asked > (5_000 if walls == "both walls" else 2_000)


@pytest.mark.soak
def test_no_route_shows_or_changes_what_is_not_ones_own_in_full(walls: str, realm: Realm, ledger: Ledger) -> None:
    judge = play(realm, ledger, full=True)
    print(f"{walls}: {judge.asked} requests, {dict(judge.statuses)}, {len(judge.complaints)} leaks")
    assert judge.complaints == [], report(judge)


@pytest.mark.long
def test_the_matrix_sees_what_leaks_without_any_wall(web: Flask, realm: Realm, ledger: Ledger) -> None:
    """Or it would prove nothing. Reading only, for what is written would be lost."""
    with _without_the_sessions_wall(), _without_the_databases_wall(web):
        judge = play(realm, ledger, full=False, only=frozenset({"acme's admin"}), method="GET")
    found = Counter(complaint.partition(" ")[0] for complaint in judge.complaints)
    assert found["shows"] > 10 and found["not"] > 10 and found["differs"] > 10, found


def test_a_credential_that_is_no_longer_good_opens_nothing(realm: Realm, ledger: Ledger) -> None:
    ledger.changed()
    acme = realm["acme"]
    for template in templates(realm.app):
        for principal in realm.dead.values():
            way = WAYS[template.route.context][0]
            answer = knock(realm.app, compose(template, token=principal.token, place=acme, way=way, path=acme.things))
            if principal.name == "for another audience" and template.route.deed.any_audience:
                assert answer.status == 200, str(template)
                continue
            assert answer.status == 401, (str(template), principal.name, answer.status)
            assert not realm.owners_in(answer.text), (str(template), principal.name)
            code = "token_expired" if principal.name == "expired" else "authentication_required"
            assert template.route.door == "scim" or answer.json["code"] == code, principal.name
    assert ledger.changed() == {}


ALWAYS_REFUSED = {
    ("POST", "/identity-providers/<provider_id>/sync"): 422,
    ("POST", "/scim-targets/<target_id>/drift/ignore"): 404,
}
"""Routes without a rightful twin, besides what is not served (501): an exported file is read by a command, and where
nothing was compared there is no drift to ignore."""

EMPTY_HERE = frozenset(("GET", f"/scim-targets/<target_id>/{what}") for what in ("drift", "runs", "standing"))
"""What names nothing here: the targets of these tenants were never compared, and figures have no ids."""

_LAST = (
    "/assignments/",
    "/access/",
    "/scim-targets",
    "/applications/",
    "/Users",
    "/Groups",
    "/Org",
    "/tenants/",
    "/part",
)
"""What is deleted after everything that needs it."""


def _order(template: Template) -> tuple[int, int]:
    place = next((number for number, part in enumerate(_LAST, 1) if part in template.rule), 0)
    return ("GET", "POST", "PUT", "PATCH", "DELETE").index(template.method), place


class Rightful:
    """Asks every route for what the asker may have: things of a tenant made for it, and of its partner."""

    def __init__(self, realm: Realm, used: Holding) -> None:
        self.realm = realm
        self.used = used
        self.made_partner = ""
        with realm.app.app_context():
            user_id = make_user(used.scope)
            give_role(used.scope, user_id, "tenant_admin", used.tenant_id)
            self.admin = make_token(used.scope, user_id)
            holdings.register(realm, [used])

    def request(self, template: Template) -> tuple[Request, frozenset[str]]:
        """The request, and who else's log or settings it rightly touches."""
        principals, used, home = self.realm.principals, self.used, self.realm["home one"]
        token, place, path, touches = self.admin, used, dict(used.things), {used.name}
        super_admin, partner_admin = principals["super admin"].token, principals["partner one's admin"].token
        action, rule = template.route.action, template.rule
        if action in (Action.TENANT_WRITE, Action.TENANT_CREATE, Action.DOMAIN_VERIFY):
            token, touches = partner_admin, touches | {"home one"}
        elif action is Action.APPLICATION_SHARE:
            token, place, touches = partner_admin, home, touches | {"home one"}
            path = {**home.things, "application": home["shared application"]}
        elif template.route.context == "partner" and action in OF_A_PARTNER:
            token, touches = partner_admin, {"partner one", "home one"}
        elif template.route.context == "partner":
            token, path["partner"], touches = super_admin, self.made_partner, {"platform"}
            place = replace(used, things=path)
        elif template.route.context == "platform":
            token, touches = super_admin, {"platform", "settings of the platform"}
        elif rule == "/partners":
            token = partner_admin
        if template.method == "DELETE" and rule in (
            "/applications/<application_id>",
            "/identity-providers/<provider_id>",
        ):
            path |= {"application": path["spare application"], "provider": path["spare provider"]}
        if rule.endswith("/reject"):
            path["run"] = path["second run"]
        if rule.endswith("/cancel"):
            path["run"] = path["waiting run"]
        query = f"confirm={used.slug}" if (template.method, rule) == ("DELETE", "/tenants/<tenant_id>") else ""
        if rule == "/sessions":
            query = f"user_id={used['user']}"
        way = WAYS[template.route.context][0]
        asked = compose(template, token=token, place=place, way=way, path=path, body=used.things, query=query)
        return asked, frozenset(touches)


@pytest.fixture
def rightful(walls: str, realm: Realm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rightful]:
    """A tenant to be used up, and what was set for the whole platform taken back. Name servers say what they should."""
    monkeypatch.setattr(domains, "check_published", lambda name, token: None)
    asking = Rightful(realm, holdings.add_tenant(realm, "used", "one"))
    yield asking
    realm.forget("used")
    [settings] = [one for one in templates(realm.app) if one.key == ("PATCH", "/platform/settings")]
    undo = replace(asking.request(settings)[0], body=b'{"access_token_lifetime": null}')
    assert knock(realm.app, undo).status == 200


def test_whoever_may_is_answered(walls: str, realm: Realm, ledger: Ledger, rightful: Rightful) -> None:
    """Each route does what it is for, in the asker's tenant alone: the refusals are not refusals of everything."""
    unanswered = {}
    ledger.changed()
    for template in sorted(templates(realm.app), key=_order):
        asked, touches = rightful.request(template)
        answer = knock(realm.app, asked)
        told = f"{walls}: {asked.text}\n    → {answer.status} {answer.body[:400].decode()}"
        if not template.served or template.key in ALWAYS_REFUSED:
            unanswered[template.key] = answer.status
            continue
        assert answer.status == template.route.deed.about.status or template.route.door == "scim", told
        assert 200 <= answer.status < 300, told
        if template.key == ("POST", "/partners"):
            rightful.made_partner = answer.json["id"]
        owners = set(realm.owners_in(answer.text).values())
        at_home = "home one" in touches or template.rule == "/partners"
        allowed = realm.shown_at("used") | (realm.shown_at("home one") if at_home else set())
        assert owners <= allowed, f"{told}\n    {owners - allowed}"
        listed = template.path_kinds or template.route.deed.about.listed
        if template.method == "GET" and listed and template.key not in EMPTY_HERE:
            assert owners, told
        changed = ledger.changed()
        assert changed.keys() <= touches, f"{told}\n    {changed}"
        assert template.method != "GET" or not changed, told
    assert unanswered == ALWAYS_REFUSED | {one.key: 501 for one in templates(realm.app) if not one.served}
