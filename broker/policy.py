"""Who may do what: one table of actions, one function that decides.

A rule is a set of alternatives; each says whether an actor may act somewhere. Checks name the deed, never the role.
What an actor may not even see is NotFound, what he sees but may not change is Forbidden. Credentials narrow roles: an
action needs both the role and the scope of the token that was shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from .context import Actor, Grant, Scope
from .errors import AuthenticationRequired, Forbidden, NotFound


class Action(StrEnum):
    """Every deed a door offers. `.read` deeds show something; all others change something."""

    NOTHING_SECRET = "public.read"
    WHOAMI = "self.read"
    INTROSPECT = "introspection.read"
    LAUNCHER_READ = "launcher.read"
    SESSION_READ = "session.read"
    SESSION_WRITE = "session.write"
    PASSWORD_WRITE = "password.write"
    OWN_TOKEN_READ = "own_token.read"
    OWN_TOKEN_WRITE = "own_token.write"
    TOKEN_FOR_OTHERS_READ = "token_for_others.read"
    TOKEN_FOR_OTHERS_WRITE = "token_for_others.write"

    PARTNER_READ = "partner.read"
    PARTNER_WRITE = "partner.write"
    PARTNER_CREATE = "partner.create"
    TENANT_READ = "tenant.read"
    TENANT_WRITE = "tenant.write"
    TENANT_CREATE = "tenant.create"
    SETTINGS_READ = "settings.read"
    SETTINGS_WRITE = "settings.write"
    PARTNER_SETTINGS_READ = "partner_settings.read"
    PARTNER_SETTINGS_WRITE = "partner_settings.write"
    PLATFORM_SETTINGS_READ = "platform_settings.read"
    PLATFORM_SETTINGS_WRITE = "platform_settings.write"

    APPLICATION_READ = "application.read"
    APPLICATION_WRITE = "application.write"
    APPLICATION_SHARE = "application.share"
    ASSIGNMENT_READ = "assignment.read"
    ASSIGNMENT_WRITE = "assignment.write"
    ROLE_READ = "role.read"
    ROLE_WRITE = "role.write"
    SERVICE_ACCOUNT_READ = "service_account.read"
    SERVICE_ACCOUNT_WRITE = "service_account.write"
    PROVIDER_READ = "provider.read"
    PROVIDER_WRITE = "provider.write"
    SYNC_READ = "sync.read"
    SYNC_WRITE = "sync.write"
    TARGET_READ = "target.read"
    TARGET_WRITE = "target.write"
    SCIM_TOKEN_READ = "scim_token.read"
    SCIM_TOKEN_WRITE = "scim_token.write"
    DOMAIN_READ = "domain.read"
    DOMAIN_WRITE = "domain.write"
    DOMAIN_VERIFY = "domain.verify"
    CUSTOM_ATTRIBUTE_READ = "custom_attribute.read"
    CUSTOM_ATTRIBUTE_WRITE = "custom_attribute.write"
    EVENT_READ = "event.read"

    DIRECTORY_READ = "directory.read"
    DIRECTORY_WRITE = "directory.write"
    DIRECTORY_PIN = "directory.pin"
    ARCHIVE_READ = "archive.read"
    ARCHIVE_WRITE = "archive.write"


@dataclass(frozen=True, slots=True)
class Where:
    """The place a deed happens: a tenant, a partner, or (both None) the platform."""

    tenant_id: str | None = None
    partner_id: str | None = None
    kind: str | None = None

    @classmethod
    def of(cls, scope: Scope) -> Where:
        return cls(scope.tenant_id, scope.partner_id, scope.kind)


Predicate = Callable[[Actor, Where], bool]


def super_admin(actor: Actor, where: Where) -> bool:
    return Grant("super_admin", None) in actor.grants


def partner_admin(actor: Actor, where: Where) -> bool:
    """The partner's admins, everywhere below the partner, its home tenant included; never on the platform tenant."""
    return (
        where.partner_id is not None
        and where.kind != "platform"
        and Grant("partner_admin", where.partner_id) in actor.grants
    )


def tenant_admin(actor: Actor, where: Where) -> bool:
    """The tenant's own admins. Home and platform tenants are administered from above only."""
    return (
        where.tenant_id is not None
        and where.kind == "customer"
        and Grant("tenant_admin", where.tenant_id) in actor.grants
    )


def belongs(actor: Actor, where: Where) -> bool:
    """Anybody whose tenant this is."""
    return actor.tenant_id is not None and actor.tenant_id == where.tenant_id


def nowhere(actor: Actor, where: Where) -> bool:
    """A client of the platform whose token names no tenant, where no tenant is."""
    return actor.kind == "application" and actor.tenant_id is None and where == Where()


def provisions(actor: Actor, where: Where) -> bool:
    """A SCIM token of this very tenant, or an application that this very tenant registered to act here for itself."""
    if actor.tenant_id is None or actor.tenant_id != where.tenant_id:
        return False
    return actor.kind == "scim_token" or (actor.kind == "application" and actor.kept_by == where.tenant_id)


def house(actor: Actor, where: Where) -> bool:
    """The house's own work: a sync, the clock, a push."""
    return actor.kind == "system"


def anybody(actor: Actor, where: Where) -> bool:
    return True


TENANT = (tenant_admin, partner_admin, super_admin)
PARTNER = (partner_admin, super_admin)
ABOVE = (super_admin,)

RULES: dict[Action, tuple[Predicate, ...]] = {
    Action.NOTHING_SECRET: (anybody,),
    Action.WHOAMI: (belongs, nowhere),
    Action.INTROSPECT: (belongs, nowhere),
    Action.LAUNCHER_READ: (belongs,),
    Action.SESSION_READ: (belongs, *TENANT),
    Action.SESSION_WRITE: (belongs, *TENANT),
    Action.PASSWORD_WRITE: TENANT,
    Action.OWN_TOKEN_READ: (belongs, *TENANT),
    Action.OWN_TOKEN_WRITE: (belongs, *TENANT),
    Action.TOKEN_FOR_OTHERS_READ: TENANT,
    Action.TOKEN_FOR_OTHERS_WRITE: TENANT,
    Action.PARTNER_READ: PARTNER,
    Action.PARTNER_WRITE: ABOVE,
    Action.PARTNER_CREATE: ABOVE,
    Action.TENANT_READ: TENANT,
    Action.TENANT_WRITE: PARTNER,
    Action.TENANT_CREATE: PARTNER,
    Action.SETTINGS_READ: TENANT,
    Action.SETTINGS_WRITE: TENANT,
    Action.PARTNER_SETTINGS_READ: PARTNER,
    Action.PARTNER_SETTINGS_WRITE: PARTNER,
    Action.PLATFORM_SETTINGS_READ: ABOVE,
    Action.PLATFORM_SETTINGS_WRITE: ABOVE,
    Action.APPLICATION_READ: TENANT,
    Action.APPLICATION_WRITE: TENANT,
    Action.APPLICATION_SHARE: PARTNER,
    Action.ASSIGNMENT_READ: TENANT,
    Action.ASSIGNMENT_WRITE: TENANT,
    Action.ROLE_READ: TENANT,
    Action.ROLE_WRITE: TENANT,
    Action.SERVICE_ACCOUNT_READ: TENANT,
    Action.SERVICE_ACCOUNT_WRITE: TENANT,
    Action.PROVIDER_READ: TENANT,
    Action.PROVIDER_WRITE: TENANT,
    Action.SYNC_READ: TENANT,
    Action.SYNC_WRITE: (*TENANT, house),
    Action.TARGET_READ: TENANT,
    Action.TARGET_WRITE: TENANT,
    Action.SCIM_TOKEN_READ: TENANT,
    Action.SCIM_TOKEN_WRITE: TENANT,
    Action.DOMAIN_READ: TENANT,
    Action.DOMAIN_WRITE: TENANT,
    Action.DOMAIN_VERIFY: PARTNER,
    Action.CUSTOM_ATTRIBUTE_READ: TENANT,
    Action.CUSTOM_ATTRIBUTE_WRITE: TENANT,
    Action.EVENT_READ: TENANT,
    Action.DIRECTORY_READ: (*TENANT, provisions, house),
    Action.DIRECTORY_WRITE: (*TENANT, provisions, house),
    Action.DIRECTORY_PIN: TENANT,
    Action.ARCHIVE_READ: TENANT,
    Action.ARCHIVE_WRITE: TENANT,
}

_ANY_CREDENTIAL = frozenset({Action.NOTHING_SECRET, Action.WHOAMI, Action.LAUNCHER_READ})
_SCIM = frozenset({Action.DIRECTORY_READ, Action.DIRECTORY_WRITE, Action.DIRECTORY_PIN})
_BOTH = frozenset({Action.ARCHIVE_READ, Action.ARCHIVE_WRITE})
"""The whole directory by the admin API: what either door asks for."""


def credential_allows(actor: Actor, action: Action) -> bool:
    """Whether the token that was shown may be used for this; a role never widens it."""
    if actor.kind in ("system", "anonymous"):
        return True
    if action in _ANY_CREDENTIAL:
        return True
    if action is Action.INTROSPECT:
        return "introspect" in actor.scopes
    if action in _SCIM:
        return "scim" in actor.scopes
    if action in _BOTH and "scim" not in actor.scopes:
        return False
    if action.endswith(".read"):
        return bool(actor.scopes & {"scaikey:read", "scaikey:write"})
    return "scaikey:write" in actor.scopes


def permits(actor: Actor, action: Action, where: Where) -> bool:
    return any(predicate(actor, where) for predicate in RULES[action])


def authorize(actor: Actor, action: Action, where: Where | Scope, *, visible: bool = False) -> None:
    """Let the deed pass, or raise. `visible`: the actor has already been shown that the thing exists.

    Raises AuthenticationRequired (nobody), NotFound (may not see it), Forbidden (may see but not do it).
    """
    place = Where.of(where) if isinstance(where, Scope) else where
    if actor.kind == "anonymous" and action is not Action.NOTHING_SECRET:
        raise AuthenticationRequired
    allowed = permits(actor, action, place)
    if allowed and credential_allows(actor, action):
        return
    if allowed:
        raise Forbidden("The credential does not carry the scope this needs", note=f"{action} by {actor.id}")
    if visible or (not action.endswith(".read") and _sees(actor, action, place)):
        raise Forbidden(note=f"{action} by {actor.id}")
    raise NotFound(note=f"{action} by {actor.id}")


def _sees(actor: Actor, action: Action, where: Where) -> bool:
    noun = action.rpartition(".")[0]
    return any(permits(actor, reading, where) for reading in RULES if reading == f"{noun}.read")


def may_grant(actor: Actor, role: str, scope_id: str | None, where: Where) -> bool:
    """Nobody grants a role wider than his own. `where` is the tenant or partner the role is for."""
    if super_admin(actor, where):
        return True
    if role == "tenant_admin":
        return scope_id == where.tenant_id and (partner_admin(actor, where) or tenant_admin(actor, where))
    if role == "partner_admin":
        return scope_id == where.partner_id and partner_admin(actor, where)
    return False


_WIDTH = {"tenant_admin": 1, "partner_admin": 2, "super_admin": 3}


def at_least_as_wide(actor: Actor, held: Iterable[Grant], where: Where) -> bool:
    """Whether the actor may act on a principal that holds these roles (password, credentials, sessions, removal)."""
    own = max((_WIDTH[grant.role] for grant in actor.grants if _covers(grant, where)), default=0)
    return all(own >= _WIDTH[grant.role] for grant in held)


def _covers(grant: Grant, where: Where) -> bool:
    return grant.scope_id is None or grant.scope_id in (where.tenant_id, where.partner_id)
