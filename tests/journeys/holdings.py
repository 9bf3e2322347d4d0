"""Two partners, their tenants and the platform, each holding one of everything, each with a mark of its own.

What belongs to a tenant carries its mark or an id that `Realm.owner` knows, so that whoever reads an answer can tell
whose it is. Also owns the people and machines that come knocking.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import sqlalchemy as sa
from flask import Flask

from broker import credentials, events, ids, settings
from broker.context import Scope, acting, system
from broker.db import db, directory_writes, platform_scope, unit
from broker.directory import Directory, declarations
from broker.models import (
    Application,
    ArchiveRefusal,
    ArchiveRun,
    Base,
    Delivery,
    Domain,
    HeldRemoval,
    IdentityProvider,
    Link,
    LinkRecord,
    Partner,
    PersonalAccessToken,
    Resource,
    RoleAssignment,
    ScimTarget,
    ScimToken,
    Session,
    SettingValue,
    SyncRun,
    SyncSkip,
    TargetResource,
    Tenant,
)
from broker.registry import applications, domains, partners, providers, service_accounts, targets, tenants
from tests.casting import EVERY_SCOPE, give_role, make_token, make_user

MARK = re.compile(r"mk[0-9a-f]{12}")
ID = re.compile(r"[a-z]{2,3}_[0-7][0-9a-v]{25}")
NUMBER = re.compile(r"(?<!\d)[12]\d{6}(?!\d)")
SLUG = re.compile(r"[a-z]+-t[0-9a-f]{8}(?:-home)?")

CUSTOMERS = {"acme": "one", "globex": "one", "hooli": "one", "initech": "two", "umbrella": "two"}
"""Customer tenant → its partner. hooli is suspended."""


@dataclass
class Holding:
    """One tenant and the ids of the things in it, by kind."""

    name: str
    partner: str
    scope: Scope
    mark: str
    number: int
    things: dict[str, str] = field(default_factory=dict)

    @property
    def tenant_id(self) -> str:
        return self.scope.tenant_id or ""

    @property
    def slug(self) -> str:
        return self.scope.slug or ""

    def __getitem__(self, kind: str) -> str:
        return self.things[kind]


@dataclass(frozen=True)
class Principal:
    """Somebody who knocks. `home`: where he lives; `reach`: the holdings he may act in; `doors`: where his credential
    is good for anything."""

    name: str
    token: str | None
    home: str
    reach: frozenset[str] = frozenset()
    doors: frozenset[str] = frozenset({"api", "scim"})
    role: str = ""


@dataclass
class Realm:
    app: Flask
    holdings: dict[str, Holding]
    partners: dict[str, str]
    owner: dict[str, str]
    """Mark, id, slug or number → the holding, partner or shared application it belongs to."""
    principals: dict[str, Principal] = field(default_factory=dict)
    dead: dict[str, Principal] = field(default_factory=dict)
    """Those whose credential is good for nothing at all."""
    met: frozenset[str] = frozenset()
    """What the platform tenant held before: other tests' things, which outlive this realm."""

    def __getitem__(self, name: str) -> Holding:
        return self.holdings[name]

    def forget(self, name: str) -> None:
        """Delete what is left of a tenant; what was its own is nobody's from now on."""
        gone = self.holdings.pop(name)
        self.owner = {thing: owner for thing, owner in self.owner.items() if owner not in (name, f"id of {name}")}
        with self.app.app_context(), platform_scope() as session:
            session.execute(sa.delete(Tenant).where(Tenant.id == gone.tenant_id))

    def owners_in(self, text: str) -> dict[str, str]:
        """What of ours a text names, with its owner."""
        found: set[str] = set()
        for pattern in (MARK, ID, NUMBER, SLUG):
            found.update(pattern.findall(text))
        return {name: self.owner[name] for name in found if name in self.owner}

    def shown_at(self, name: str) -> frozenset[str]:
        """The owners whose things an administrator meets when acting in a holding."""
        partner = self.holdings[name].partner
        shown = {name, f"id of {name}", f"partner {partner}'s id", f"partner {partner}'s settings"}
        if name in (f"home {partner}", partner):
            shown.add(f"partner {partner}")
        for owner, users in SHARED.items():
            if name in users:
                shown |= {owner, f"id of {users[0]}"}
            if name == users[0]:
                shown |= {f"id of {user}" for user in users}
        return frozenset(shown)


SHARED = {
    "partner application one": ("home one", "acme"),
    "partner application two": ("home two", "initech"),
    "global application": ("platform", "acme", "umbrella"),
}
"""Shared application → the holdings that may use it, its keeper first."""


def build(app: Flask, platform: Scope) -> Realm:
    tag = "t" + secrets.token_hex(4)
    with app.app_context(), acting(system("test")):
        realm = _tenants(app, platform, tag)
        realm.met = _ids_of(platform.tenant_id)
        for holding in realm.holdings.values():
            holding.things |= furnish(holding)
        _share(realm)
        with platform_scope() as session:
            session.get_one(Tenant, realm["hooli"].tenant_id).status = "suspended"
        register(realm, realm.holdings.values())
        _people(realm)
        register(realm, [realm["platform"]])
    return realm


def demolish(realm: Realm) -> None:
    """Leave nothing behind that a worker would still have to do."""
    platform = realm.holdings.pop("platform")
    with realm.app.app_context(), directory_writes(), platform_scope() as session:
        partners_ = [id for name, id in realm.partners.items() if name != "platform"]
        tenants_ = session.scalars(sa.select(Tenant.id).where(Tenant.partner_id.in_(partners_))).all()
        owners = [*partners_, *tenants_, platform.tenant_id]
        session.execute(sa.delete(SettingValue).where(SettingValue.owner_id.in_(owners)))
        session.execute(sa.delete(Tenant).where(Tenant.id.in_(tenants_)))
        session.execute(sa.delete(Partner).where(Partner.id.in_(partners_)))
        ours = [id for id, owner in realm.owner.items() if owner in ("platform", "global application")]
        made = [id for id in ours if id not in realm.met]
        for model in (ScimTarget, Application, IdentityProvider, Domain, ScimToken, Resource):
            session.execute(sa.delete(model).where(model.tenant_id == platform.tenant_id, model.id.in_(made)))


def _mark() -> str:
    return "mk" + secrets.token_hex(6)


def _number() -> int:
    return 1_000_000 + secrets.randbelow(1_500_000)


def _tenants(app: Flask, platform: Scope, tag: str) -> Realm:
    realm = Realm(app, {}, {"platform": platform.partner_id or ""}, {})
    mark = {name: _mark() for name in ("one", "two", *CUSTOMERS)}
    for name in ("one", "two"):
        with platform_scope() as session:
            values = {"name": f"Partner {mark[name]}", "slug": f"{name}-{tag}"}
            partner = partners.create({**values, "branding": {"name": mark[name]}})
            home = session.get_one(Tenant, partner.home_tenant_id)
            here = Scope(home.id, partner.id, "home", home.slug)
            realm.partners[name] = partner.id
            number = _number()
            session.add(SettingValue(owner_id=partner.id, name="session_timeout", value=number))
            owner = f"partner {name}"
            realm.owner |= {f"{name}-{tag}": owner, mark[name]: owner}
            realm.owner |= {partner.id: f"{owner}'s id", str(number): f"{owner}'s settings"}
        realm.holdings[f"home {name}"] = Holding(f"home {name}", name, here, _mark(), _number())
    for name, partner_name in CUSTOMERS.items():
        partner_id = realm.partners[partner_name]
        with platform_scope():
            tenant = tenants.create(partner_id, {"name": f"Tenant {mark[name]}", "slug": f"{name}-{tag}"})
            here = Scope(tenant.id, partner_id, "customer", tenant.slug)
        realm.holdings[name] = Holding(name, partner_name, here, mark[name], _number())
    realm.holdings["platform"] = Holding("platform", "platform", platform, _mark(), _number())
    return realm


def add_tenant(realm: Realm, name: str, partner: str) -> Holding:
    """One more customer, to be used up by those who may."""
    mark = _mark()
    with realm.app.app_context(), acting(system("test")):
        with platform_scope():
            made = tenants.create(realm.partners[partner], {"name": f"Tenant {mark}", "slug": f"{name}-t{mark[2:10]}"})
            here = Scope(made.id, made.partner_id, "customer", made.slug)
        holding = Holding(name, partner, here, mark, _number())
        holding.things |= furnish(holding)
        realm.holdings[name] = holding
        register(realm, [holding])
    return holding


def furnish(holding: Holding) -> dict[str, str]:
    """One of everything in a tenant; returns kind → id."""
    scope, mark = holding.scope, holding.mark
    things: dict[str, str] = {"partner": scope.partner_id or "", "tenant": holding.tenant_id}
    with unit(scope) as session:
        directory = Directory()
        unit_ = directory.create("OrganizationalUnit", {"displayName": f"{mark} unit"}).id
        user = directory.create("User", {"userName": f"{mark}-user", "displayName": f"{mark} user"}).id
        member = directory.create("User", {"userName": f"{mark}-member", "emails": [{"value": f"a@{mark}.example"}]}).id
        group = directory.create("Group", {"displayName": f"{mark} group", "members": [{"value": member}]}).id
        crowd = directory.create("Group", {"displayName": f"{mark} crowd", "members": [{"value": member}]}).id
        agent = directory.create("Agent", {"agentUserName": f"{mark}-agent", "owners": [{"value": member}]}).id
        application = applications.create({"name": f"{mark} application", "type": "web", "audience": mark})
        spare = applications.create({"name": f"{mark} spare", "type": "web"})
        assignment = applications.assign_to(application, user, [f"{mark}-role"])
        provider = providers.create({"kind": "ldap", "name": f"{mark} provider", "config": {"base_dn": f"DC={mark}"}})
        spare_provider = providers.create({"kind": "ldap", "name": f"{mark} spare", "config": {}})
        target = targets.create(
            {
                "application_id": application.id,
                "base_url": f"https://{mark}.example/scim",
                "auth": {"method": "bearer", "token": mark},
            }
        )
        session.flush()
        target.status_reason = mark
        scim_token, _ = credentials.mint_scim_token({"name": f"{mark} scim"})
        pat, _ = credentials.mint_pat(user, name=f"{mark} pat")
        domain = domains.create(f"{mark}.example")
        declared = declarations.declare({"name": "ownMark", "description": mark})
        robot = directory.create("User", {"userName": f"sa:{mark}", "userType": "ServiceAccount"}).id
        service_accounts.create(robot, {"name": f"{mark}-robot", "scopes": [f"{mark}:read"], "audiences": [mark]})
        credentials.mint_client_secret(service_account_id=robot)
        credentials.mint_client_secret(application_id=application.id)
        settings.change(scope, {"refresh_token_lifetime": holding.number})
        told = events.Changes()
        told.add("test.noted", "User", user, {"note": mark})
        events.record(told)
        if scope.kind == "customer":
            role = RoleAssignment(
                id=ids.new("rol"), role="tenant_admin", principal_id=member, scope_id=holding.tenant_id
            )
        elif scope.kind == "home":
            role = RoleAssignment(
                id=ids.new("rol"), role="partner_admin", principal_id=member, scope_id=scope.partner_id
            )
        else:
            role = RoleAssignment(id=ids.new("rol"), role="super_admin", principal_id=member, scope_id=None)
        session.add(role)
        browser = Session(
            id=ids.new("ses"),
            user_id=user,
            digest=secrets.token_bytes(32),
            auth_time=datetime.now(UTC),
            amr=[mark],
            expires_at=datetime.now(UTC) + timedelta(hours=12),
        )
        session.add(browser)
        session.flush()
        things |= {
            "session": browser.id,
            "unit": unit_,
            "agent": agent,
            "user": user,
            "member": member,
            "group": group,
            "crowd": crowd,
            "membership": f"{crowd}.{member}",
            "application": application.id,
            "spare application": spare.id,
            "client": application.client_id,
            "assignment": assignment.id,
            "provider": provider.id,
            "spare provider": spare_provider.id,
            "target": target.id,
            "scim token": scim_token.id,
            "pat": pat.id,
            "domain": domain.id,
            "custom attribute": declared.id,
            "service account": robot,
            "role assignment": role.id,
        }
    things |= _history(holding, things)
    return things


def _history(holding: Holding, things: Mapping[str, str]) -> dict[str, str]:
    """What the house itself writes: two held runs with their skips and removals, one that waits, what a target is owed
    and has."""
    mark, tenant = holding.mark, {"tenant_id": holding.tenant_id}
    runs = ids.new("run"), ids.new("run")
    with directory_writes(), platform_scope() as session:
        link = Link(
            **tenant,
            provider_id=things["provider"],
            key=f"{mark}-key",
            resource_id=None,
            kind="other",
            name=f"CN={mark}",
            ref=f"cn={mark}",
            digest=b"\0",
            quiet_digest=b"\0",
        )
        session.add(link)
        session.flush()
        session.add(LinkRecord(**tenant, link_no=link.no, record=orjson.dumps([[["cn", [mark]]], []])))
        imported = ids.new("arc")
        session.add(ArchiveRun(**tenant, id=imported, digest=b"\0", total=1, problem=mark, requested_by=mark))
        session.flush()
        session.add(ArchiveRefusal(**tenant, run_id=imported, line=1, path="/id", detail=mark))
        for run in runs:
            numbers = {"kind": "full", "status": "held", "held_removals": 1, "skipped": 1}
            words = {"hold_reason": mark, "problem": mark, "plan": [mark], "requested_by": mark}
            session.add(SyncRun(**tenant, id=run, provider_id=things["provider"], **numbers, **words))
            session.flush()
            session.add(SyncSkip(**tenant, run_id=run, name=f"CN={mark}", reason="bad", detail=mark))
        waiting = ids.new("run")
        words = {"source": "upstream", "requested_by": mark, "started_at": sa.null()}
        session.add(SyncRun(**tenant, id=waiting, provider_id=things["spare provider"], kind="full", **words))
        session.add(
            HeldRemoval(
                **tenant,
                link_no=link.no,
                action="remove",
                provider_id=things["provider"],
                run_id=runs[0],
                digest=b"\0",
                reason=mark,
            )
        )
        owed = {"target_id": things["target"], "resource_type": "User", "resource_id": things["member"]}
        session.add(Delivery(**tenant, **owed, status="held", problem=mark))
        session.add(TargetResource(**tenant, **owed, remote_id=mark, state="present", problem=mark))
    return {"run": runs[0], "second run": runs[1], "waiting run": waiting, "archive run": imported}


def _share(realm: Realm) -> None:
    """PARTNER and GLOBAL applications, each used by some and not by others."""
    for owner, (keeper, *users) in SHARED.items():
        home, mark = realm[keeper], _mark()
        scope = "GLOBAL" if keeper == "platform" else "PARTNER"
        with unit(home.scope):
            shared = applications.create({"name": f"{mark} shared", "type": "web", "scope": scope})
            home.things["shared application"] = shared.id
        realm.owner |= {mark: owner, home["shared application"]: owner}
        with platform_scope() as session:
            application = session.get_one(Application, (home.tenant_id, home["shared application"]))
            for user in users:
                applications.share(application, realm[user].tenant_id)


def register(realm: Realm, holdings: Iterable[Holding]) -> None:
    """Note every id of these holdings as theirs, unless it is known to be somebody else's."""
    for holding in holdings:
        realm.owner |= {holding.mark: holding.name, str(holding.number): holding.name}
        realm.owner |= {holding.slug: holding.name, holding.tenant_id: f"id of {holding.name}"}
    for holding in holdings:
        for id in _ids_of(holding.tenant_id):
            realm.owner.setdefault(id, holding.name)


def _ids_of(tenant_id: str) -> frozenset[str]:
    """The ids of everything a tenant has."""
    tables = [table for table in Base.metadata.sorted_tables if {"tenant_id", "id"} <= set(table.c.keys())]
    with platform_scope() as session:
        rows = [session.scalars(sa.select(table.c.id).where(table.c.tenant_id == tenant_id)) for table in tables]
        return frozenset(id for ids_ in rows for id in ids_)


def _people(realm: Realm) -> None:
    everywhere = frozenset(realm.holdings)
    of_one = frozenset(name for name, holding in realm.holdings.items() if holding.partner == "one")
    of_two = frozenset(name for name, holding in realm.holdings.items() if holding.partner == "two")
    acme, globex, hooli = realm["acme"].scope, realm["globex"].scope, realm["hooli"].scope
    living: list[Principal] = []

    def user(scope: Scope, role: str = "", **options: Any) -> tuple[str, str]:
        user_id = make_user(scope)
        if role:
            reach = {"tenant_admin": scope.tenant_id, "partner_admin": scope.partner_id, "super_admin": None}[role]
            give_role(scope, user_id, role, reach)
        return user_id, make_token(scope, user_id, **options)

    def scim(scope: Scope) -> str:
        with unit(scope), acting(system("test")):
            return credentials.mint_scim_token({"name": "upstream"})[1]

    by_group, nested = make_user(acme), ids.new("grp")
    with unit(acme), acting(system("test")):
        inner = Directory().create("Group", {"displayName": ids.new("grp"), "members": [{"value": by_group}]}).id
        nested = Directory().create("Group", {"displayName": ids.new("grp"), "members": [{"value": inner}]}).id
    give_role(acme, nested, "tenant_admin", acme.tenant_id)
    # A role where it cannot be held: somebody wrote a row no door would write.
    stray = make_user(acme)
    give_role(acme, stray, "super_admin", None)
    give_role(acme, stray, "partner_admin", acme.partner_id)
    stray_home = make_user(realm["home one"].scope)
    give_role(realm["home one"].scope, stray_home, "tenant_admin", realm["home one"].tenant_id)
    admin, admin_token = user(acme, "tenant_admin")
    here = frozenset({"acme"})
    living += [
        Principal("a person of acme", user(acme)[1], "acme"),
        Principal("acme's admin", admin_token, "acme", here, role="tenant_admin"),
        Principal("acme's admin by a nested group", make_token(acme, by_group), "acme", here, role="tenant_admin"),
        Principal("acme's admin, read only", make_token(acme, admin, scopes=("scaikey:read",)), "acme", here),
        Principal("acme's admin, scim only", make_token(acme, admin, scopes=("scim",)), "acme", here),
        Principal(
            "partner one's admin",
            user(realm["home one"].scope, "partner_admin")[1],
            "home one",
            of_one,
            role="partner_admin",
        ),
        Principal(
            "partner two's admin",
            user(realm["home two"].scope, "partner_admin")[1],
            "home two",
            of_two,
            role="partner_admin",
        ),
        Principal(
            "super admin", user(realm["platform"].scope, "super_admin")[1], "platform", everywhere, role="super_admin"
        ),
        Principal("acme's upstream", scim(acme), "acme", here, frozenset({"scim"})),
        Principal("globex's upstream", scim(globex), "globex", frozenset({"globex"}), frozenset({"scim"})),
        Principal("a person with stray roles", make_token(acme, stray), "acme"),
        Principal("a home's own tenant_admin", make_token(realm["home one"].scope, stray_home), "home one"),
    ]
    doors = {"acme's admin, read only": {"api"}, "acme's admin, scim only": {"scim"}}
    realm.principals = {
        one.name: replace(one, doors=frozenset(doors[one.name])) if one.name in doors else one for one in living
    }
    dead: dict[str, str | None] = {
        "nobody": None,
        "nonsense": "skt_nonsense",
        "unknown": credentials.new_secret(credentials.PAT_PREFIX),
        "expired": _spoilt(acme, expires_at=datetime.now(UTC) - timedelta(seconds=1)),
        "revoked": _spoilt(acme, revoked_at=datetime.now(UTC)),
        "for another audience": user(acme, "tenant_admin", audiences=("wiki",))[1],
        "a disabled admin": _disabled(acme, user(acme, "tenant_admin")),
        "a removed admin": _removed(acme, user(acme)),
        "an admin of a suspended tenant": user(hooli, "tenant_admin")[1],
        "an upstream of a suspended tenant": scim(hooli),
        "a revoked upstream": _revoked_scim(acme),
    }
    realm.dead = {name: Principal(name, token, "acme") for name, token in dead.items()}


def _spoilt(scope: Scope, **values: Any) -> str:
    user_id = make_user(scope)
    give_role(scope, user_id, "tenant_admin", scope.tenant_id)
    token = make_token(scope, user_id, scopes=EVERY_SCOPE)
    with unit(scope) as session:
        session.execute(sa.update(PersonalAccessToken).where(PersonalAccessToken.user_id == user_id).values(**values))
    return token


def _disabled(scope: Scope, made: tuple[str, str]) -> str:
    with unit(scope), acting(system("test")):
        name = db.session().execute(sa.text("SELECT name FROM resources WHERE id = :id"), {"id": made[0]}).scalar_one()
        Directory().replace("User", made[0], {"userName": name, "active": False})
    return made[1]


def _removed(scope: Scope, made: tuple[str, str]) -> str:
    with unit(scope), acting(system("test")):
        Directory().remove("User", made[0])
    return made[1]


def _revoked_scim(scope: Scope) -> str:
    with unit(scope), acting(system("test")):
        token, secret = credentials.mint_scim_token({"name": "former upstream"})
        credentials.revoke(token)
    return secret
