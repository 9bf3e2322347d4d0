"""Who may do what: roles by place, credentials that narrow them, and what a refusal shows."""

from __future__ import annotations

import pytest

from broker.context import ANONYMOUS, Actor, Grant, Scope, system
from broker.errors import AuthenticationRequired, Forbidden, NotFound
from broker.policy import RULES, Action, Where, at_least_as_wide, authorize, credential_allows, may_grant, permits

EVERYTHING = frozenset({"scaikey:read", "scaikey:write", "scim"})
ACME = Where("tnt_acme", "prt_one", "customer")
GLOBEX = Where("tnt_globex", "prt_one", "customer")
ELSEWHERE = Where("tnt_else", "prt_two", "customer")
HOME = Where("tnt_home", "prt_one", "home")
PLATFORM_TENANT = Where("tnt_platform", "prt_platform", "platform")
PARTNER = Where(None, "prt_one")
OTHER_PARTNER = Where(None, "prt_two")
PLATFORM = Where()
PLACES = [ACME, GLOBEX, ELSEWHERE, HOME, PLATFORM_TENANT, PARTNER, OTHER_PARTNER, PLATFORM]


def actor(role: str | None = None, scope_id: str | None = None, tenant: str | None = None, **fields: object) -> Actor:
    grants = frozenset({Grant(role, scope_id)}) if role else frozenset()  # type: ignore[arg-type]
    return Actor("user", "usr_x", tenant, grants=grants, **{"scopes": EVERYTHING, **fields})  # type: ignore[arg-type]


SUPER = actor("super_admin", tenant="tnt_platform")
PARTNER_ADMIN = actor("partner_admin", "prt_one", "tnt_home")
TENANT_ADMIN = actor("tenant_admin", "tnt_acme", "tnt_acme")
MEMBER = actor(tenant="tnt_acme")
TOKEN = Actor("scim_token", "sct_x", "tnt_acme", scopes=frozenset({"scim"}))


def allowed(who: Actor, action: Action) -> list[Where]:
    return [place for place in PLACES if permits(who, action, place)]


def test_super_admins_may_do_everything_everywhere() -> None:
    own = {Action.WHOAMI, Action.INTROSPECT, Action.LAUNCHER_READ}
    assert all(allowed(SUPER, action) == PLACES for action in Action if action not in own)
    assert all(allowed(SUPER, action) == [PLATFORM_TENANT] for action in own)


def test_partner_admins_administer_their_partner_and_never_the_platform_tenant() -> None:
    assert allowed(PARTNER_ADMIN, Action.TENANT_WRITE) == [ACME, GLOBEX, HOME, PARTNER]
    assert allowed(PARTNER_ADMIN, Action.DIRECTORY_WRITE) == [ACME, GLOBEX, HOME, PARTNER]
    assert allowed(PARTNER_ADMIN, Action.PARTNER_WRITE) == allowed(PARTNER_ADMIN, Action.PLATFORM_SETTINGS_READ) == []
    of_platform = actor("partner_admin", "prt_platform", "tnt_platform")
    assert PLATFORM_TENANT not in allowed(of_platform, Action.DIRECTORY_READ)


def test_tenant_admins_administer_one_customer() -> None:
    for action in (Action.DIRECTORY_WRITE, Action.PROVIDER_WRITE, Action.ROLE_WRITE, Action.EVENT_READ):
        assert allowed(TENANT_ADMIN, action) == [ACME]
    for action in (Action.TENANT_WRITE, Action.PARTNER_READ, Action.APPLICATION_SHARE, Action.DOMAIN_VERIFY):
        assert allowed(TENANT_ADMIN, action) == []
    for place in (HOME, PLATFORM_TENANT):
        misplaced = actor("tenant_admin", place.tenant_id, place.tenant_id)
        assert allowed(misplaced, Action.DIRECTORY_READ) == []


def test_members_see_themselves_alone() -> None:
    own = {
        *(Action.WHOAMI, Action.INTROSPECT, Action.LAUNCHER_READ, Action.NOTHING_SECRET),
        *(Action.OWN_TOKEN_READ, Action.OWN_TOKEN_WRITE, Action.SESSION_READ, Action.SESSION_WRITE),
    }
    assert {action for action in Action if ACME in allowed(MEMBER, action)} == own
    assert allowed(MEMBER, Action.WHOAMI) == [ACME]


def test_scim_tokens_provision_their_own_tenant() -> None:
    deeds = {action for action in Action if allowed(TOKEN, action)} - {Action.NOTHING_SECRET}
    assert {Action.DIRECTORY_READ, Action.DIRECTORY_WRITE} <= deeds
    assert deeds.isdisjoint({Action.DIRECTORY_PIN, Action.PROVIDER_READ, Action.ROLE_READ, Action.TENANT_READ})
    assert allowed(TOKEN, Action.DIRECTORY_WRITE) == [ACME]


def test_the_house_reads_syncs_and_writes_the_directory() -> None:
    house = system("sync")
    for action in Action:
        expected = action in (Action.SYNC_WRITE, Action.DIRECTORY_READ, Action.DIRECTORY_WRITE, Action.NOTHING_SECRET)
        assert permits(house, action, ACME) is expected
        assert credential_allows(house, action)


def test_every_action_has_a_rule_and_nobody_anonymous_passes_but_where_nothing_is_secret() -> None:
    assert RULES.keys() == set(Action)
    for action in Action:
        assert (allowed(ANONYMOUS, action) != []) is (action is Action.NOTHING_SECRET)
        if action is not Action.NOTHING_SECRET:
            with pytest.raises(AuthenticationRequired):
                authorize(ANONYMOUS, action, ACME)


@pytest.mark.parametrize(
    ("scopes", "may"),
    [
        (set(), {Action.WHOAMI}),
        ({"scaikey:read"}, {Action.PROVIDER_READ, Action.WHOAMI}),
        ({"scaikey:write"}, {Action.PROVIDER_READ, Action.PROVIDER_WRITE, Action.PARTNER_CREATE, Action.WHOAMI}),
        ({"scim"}, {Action.DIRECTORY_READ, Action.DIRECTORY_WRITE, Action.DIRECTORY_PIN, Action.WHOAMI}),
        ({"introspect"}, {Action.WHOAMI, Action.INTROSPECT}),
    ],
)
def test_credentials_narrow_roles(scopes: set[str], may: set[Action]) -> None:
    watched = {
        Action.INTROSPECT,
        Action.PROVIDER_READ,
        Action.PROVIDER_WRITE,
        Action.PARTNER_CREATE,
        Action.WHOAMI,
        Action.DIRECTORY_READ,
        Action.DIRECTORY_WRITE,
        Action.DIRECTORY_PIN,
    }
    who = actor("super_admin", scopes=frozenset(scopes))
    assert {action for action in watched if credential_allows(who, action)} == may
    assert credential_allows(who, Action.NOTHING_SECRET)


def test_role_without_the_scope_is_forbidden() -> None:
    reader = actor("tenant_admin", "tnt_acme", "tnt_acme", scopes=frozenset({"scaikey:read"}))
    authorize(reader, Action.PROVIDER_READ, ACME)
    with pytest.raises(Forbidden, match="scope"):
        authorize(reader, Action.PROVIDER_WRITE, ACME)
    with pytest.raises(Forbidden, match="scope"):
        authorize(reader, Action.DIRECTORY_READ, ACME)


def test_scope_without_the_role_shows_nothing() -> None:
    with pytest.raises(NotFound):
        authorize(MEMBER, Action.PROVIDER_READ, ACME)
    with pytest.raises(NotFound):
        authorize(TENANT_ADMIN, Action.PROVIDER_WRITE, GLOBEX)
    with pytest.raises(NotFound):
        authorize(TENANT_ADMIN, Action.DIRECTORY_READ, PLATFORM_TENANT)


def test_what_may_be_seen_but_not_done_is_forbidden() -> None:
    with pytest.raises(Forbidden):
        authorize(TENANT_ADMIN, Action.TENANT_WRITE, ACME)
    with pytest.raises(Forbidden):
        authorize(PARTNER_ADMIN, Action.PARTNER_WRITE, PARTNER)
    with pytest.raises(Forbidden):
        authorize(MEMBER, Action.PROVIDER_WRITE, ACME, visible=True)
    with pytest.raises(NotFound):
        authorize(PARTNER_ADMIN, Action.PARTNER_WRITE, OTHER_PARTNER)


def test_a_scope_is_a_place() -> None:
    authorize(TENANT_ADMIN, Action.PROVIDER_WRITE, Scope("tnt_acme", "prt_one", "customer", "acme"))
    with pytest.raises(NotFound):
        authorize(TENANT_ADMIN, Action.PROVIDER_WRITE, Scope("tnt_acme", "prt_one", "home", "acme"))


@pytest.mark.parametrize(
    ("who", "role", "scope_id", "where", "may"),
    [
        (SUPER, "super_admin", None, PLATFORM_TENANT, True),
        (SUPER, "partner_admin", "prt_one", HOME, True),
        (SUPER, "tenant_admin", "tnt_acme", ACME, True),
        (PARTNER_ADMIN, "super_admin", None, PLATFORM_TENANT, False),
        (PARTNER_ADMIN, "super_admin", None, HOME, False),
        (PARTNER_ADMIN, "partner_admin", "prt_one", HOME, True),
        (PARTNER_ADMIN, "partner_admin", "prt_two", HOME, False),
        (PARTNER_ADMIN, "partner_admin", None, HOME, False),
        (PARTNER_ADMIN, "tenant_admin", "tnt_globex", GLOBEX, True),
        (PARTNER_ADMIN, "tenant_admin", "tnt_else", ELSEWHERE, False),
        (TENANT_ADMIN, "tenant_admin", "tnt_acme", ACME, True),
        (TENANT_ADMIN, "tenant_admin", "tnt_globex", GLOBEX, False),
        (TENANT_ADMIN, "tenant_admin", "tnt_globex", ACME, False),
        (TENANT_ADMIN, "tenant_admin", None, ACME, False),
        (TENANT_ADMIN, "partner_admin", "prt_one", ACME, False),
        (TENANT_ADMIN, "super_admin", None, ACME, False),
        (MEMBER, "tenant_admin", "tnt_acme", ACME, False),
        (TOKEN, "tenant_admin", "tnt_acme", ACME, False),
    ],
)
def test_nobody_grants_a_role_wider_than_his_own(
    who: Actor, role: str, scope_id: str | None, where: Where, may: bool
) -> None:
    assert may_grant(who, role, scope_id, where) is may


@pytest.mark.parametrize(
    ("who", "held", "where", "may"),
    [
        (SUPER, [Grant("super_admin", None)], PLATFORM_TENANT, True),
        (PARTNER_ADMIN, [Grant("super_admin", None)], PLATFORM_TENANT, False),
        (PARTNER_ADMIN, [Grant("partner_admin", "prt_one")], HOME, True),
        (PARTNER_ADMIN, [Grant("tenant_admin", "tnt_else")], ELSEWHERE, False),
        (TENANT_ADMIN, [Grant("tenant_admin", "tnt_acme")], ACME, True),
        (TENANT_ADMIN, [Grant("partner_admin", "prt_one")], ACME, False),
        (TENANT_ADMIN, [Grant("tenant_admin", "tnt_globex")], GLOBEX, False),
        (MEMBER, [Grant("tenant_admin", "tnt_acme")], ACME, False),
        (MEMBER, [], ACME, True),
        (TOKEN, [], ACME, True),
    ],
)
def test_acting_on_a_principal_needs_a_role_as_wide(who: Actor, held: list[Grant], where: Where, may: bool) -> None:
    assert at_least_as_wide(who, held, where) is may
